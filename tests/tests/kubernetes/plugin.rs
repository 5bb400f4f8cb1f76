//! The runtime's configuration of CNI, when somebody else changes it.

use anyhow::{Result, ensure};
use sluice_e2e::suite::Case;
use sluice_e2e::{cases, wait};

use crate::bed::{Installed, PodSpec, WEB, default_deny};

pub const CASES: &[Case<Installed>] =
    cases![pods_that_come_up_beside_the_plugin_are_unwanted_and_come_under_policy_all_the_same];

const NAMESPACE: &str = "e2e-plugin";

/// A copy of the node's own list that the runtime takes before sluice's, until dropped.
struct Before<'a> {
    bed: &'a Installed,
    node: &'a str,
}

impl<'a> Before<'a> {
    fn put(bed: &'a Installed, node: &'a str) -> Result<Self> {
        let before = Self { bed, node };
        // Renamed within the folder: the runtime takes no notice of a file that comes from elsewhere.
        bed.node_shell(
            node,
            "cd /etc/cni/net.d && for list in *; do [ \"$list\" = 00-sluice.conflist ] || cp \"$list\" .before; done \
             && mv .before 00-before.conflist",
        )?;
        Ok(before)
    }

    fn remove(&self) -> Result<String> {
        self.bed
            .node_shell(self.node, "rm -f /etc/cni/net.d/00-before.conflist")
    }
}

impl Drop for Before<'_> {
    fn drop(&mut self) {
        let _ = self.remove();
    }
}

fn takes_pods(bed: &Installed, node: &str) -> Result<bool> {
    Ok(bed.status(node)?["takes_pods"] == true)
}

/// As the readiness probe asks.
fn until_takes_pods(bed: &Installed, node: &str, expected: bool) -> Result<()> {
    wait::until(&format!("{node} takes pods: {expected}"), wait::LONG, || {
        Ok((takes_pods(bed, node)? == expected).then_some(()))
    })?;
    let agent = bed.agent(node)?;
    let probe = [
        "-n",
        "kube-system",
        "exec",
        &agent,
        "--",
        "sluice",
        "status",
        "--takes-pods",
    ];
    ensure!(bed.cluster.try_kubectl(&probe)?.status.success() == expected);
    Ok(())
}

fn pods_that_come_up_beside_the_plugin_are_unwanted_and_come_under_policy_all_the_same(
    bed: &mut Installed,
) -> Result<()> {
    bed.namespace(NAMESPACE)?;
    let node = bed.nodes[0].clone();
    bed.cluster.apply(&default_deny(NAMESPACE))?;
    until_takes_pods(bed, &node, true)?;
    let before = Before::put(bed, &node)?;
    until_takes_pods(bed, &node, false)?;
    bed.pods(
        NAMESPACE,
        &[
            PodSpec::web("web", "app: web", &node),
            PodSpec::idle("client", "app: client", &node),
        ],
    )?;
    wait::until("both pods are endpoints", 2 * wait::LONG, || {
        let status = bed.status(&node)?;
        let endpoints = status["endpoints"].as_array().into_iter().flatten();
        let ours = endpoints
            .filter(|endpoint| endpoint["pod"]["namespace"] == NAMESPACE && endpoint["is_ready"] == true);
        Ok((ours.count() == 2).then_some(()))
    })?;
    let web = bed.address(NAMESPACE, "web")?;
    bed.until_connect(&format!("{NAMESPACE}/client"), web, WEB, "timeout")?;
    before.remove()?;
    until_takes_pods(bed, &node, true)?;
    bed.leave_namespace(NAMESPACE)
}
