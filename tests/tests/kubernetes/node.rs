//! A node that ends and starts again.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Result, ensure};
use sluice_e2e::suite::Case;
use sluice_e2e::{cases, wait};

use crate::bed::{Installed, PodSpec, WEB, allow_only};

pub const CASES: &[Case<Installed>] = cases![
    node_stopped_and_started_again_enforces_its_policies,
    node_that_leaves_is_missed_by_nobody_and_one_that_joins_is_under_policy,
];

const NAMESPACE: &str = "e2e-node";

/// Starts the node if a case has failed while it was away.
struct Stopped<'a> {
    bed: &'a Installed,
    node: &'a str,
    is_stopped: bool,
}

impl Stopped<'_> {
    fn start(&mut self) -> Result<()> {
        self.is_stopped = false;
        self.bed.cluster.start_node(self.node)
    }
}

impl Drop for Stopped<'_> {
    fn drop(&mut self) {
        if self.is_stopped {
            let _ = self.bed.cluster.start_node(self.node);
        }
    }
}

/// A server on each node, and on the first one a friend who may reach them and a stranger. The server on the second node gets the
/// name, the one on the first is `web-stays`: its address.
fn servers_for_friends(bed: &mut Installed, on_second: &str) -> Result<IpAddr> {
    bed.namespace(NAMESPACE)?;
    bed.cluster
        .apply(&allow_only(NAMESPACE, "friends", "friend", "web"))?;
    let [first, second] = [&bed.nodes[0], &bed.nodes[1]];
    bed.pods(
        NAMESPACE,
        &[
            PodSpec::web("web-stays", "app: web", first),
            PodSpec::web(on_second, "app: web", second),
            PodSpec::idle("friend", "app: friend", first),
            PodSpec::idle("stranger", "app: stranger", first),
        ],
    )?;
    bed.address(NAMESPACE, "web-stays")
}

fn node_stopped_and_started_again_enforces_its_policies(bed: &mut Installed) -> Result<()> {
    let second = bed.nodes[1].clone();
    let (friend, stranger) = (format!("{NAMESPACE}/friend"), format!("{NAMESPACE}/stranger"));
    let stays = servers_for_friends(bed, "web")?;
    let web = bed.address(NAMESPACE, "web")?;
    bed.until_connect(&friend, web, WEB, "open")?;
    bed.until_connect(&stranger, web, WEB, "timeout")?;

    let mut stopped = Stopped {
        bed,
        node: &second,
        is_stopped: true,
    };
    bed.cluster.stop_node(&second)?;
    bed.expect_connect(&friend, stays, WEB, "open")?;
    bed.expect_connect(&stranger, stays, WEB, "timeout")?;
    ensure!(
        bed.connect(&friend, &web.to_string(), WEB)? != "open",
        "the node still answers"
    );

    stopped.start()?;
    // kubelet starts the pod's containers anew, behind sluice-cni: with a policy or not at all.
    wait::until("the node's pod is up again", Duration::from_secs(120), || {
        let pod = bed.get(&["-n", NAMESPACE, "pod", "web"])?;
        let status = &pod["status"]["containerStatuses"][0];
        let is_up = status["ready"] == true && status["restartCount"] != 0;
        Ok(is_up.then_some(()))
    })?;
    bed.wait_for_agents()?;
    let web = bed.address(NAMESPACE, "web")?;
    bed.until_connect(&friend, web, WEB, "open")?;
    bed.expect_connect(&stranger, web, WEB, "timeout")?;
    bed.expect_connect(&stranger, stays, WEB, "timeout")?;
    bed.leave_namespace(NAMESPACE)
}

fn node_that_leaves_is_missed_by_nobody_and_one_that_joins_is_under_policy(
    bed: &mut Installed,
) -> Result<()> {
    if !bed.cluster.has_new_nodes() {
        println!("    not with this driver: its nodes are made with the cluster");
        return Ok(());
    }
    let second = bed.nodes[1].clone();
    let (friend, stranger) = (format!("{NAMESPACE}/friend"), format!("{NAMESPACE}/stranger"));
    let stays = servers_for_friends(bed, "web-leaves")?;
    bed.until_connect(&friend, stays, WEB, "open")?;

    bed.cluster.remove_node(&second)?;
    let outcome = (|| {
        bed.expect_connect(&friend, stays, WEB, "open")?;
        bed.expect_connect(&stranger, stays, WEB, "timeout")
    })();
    bed.cluster.add_node(&second)?;
    outcome?;

    bed.wait_for_agents()?;
    bed.pods(
        NAMESPACE,
        &[
            PodSpec::web("web-joins", "app: web", &second),
            PodSpec::idle("friend-joins", "app: friend", &second),
            PodSpec::idle("stranger-joins", "app: stranger", &second),
        ],
    )?;
    let joins = bed.address(NAMESPACE, "web-joins")?;
    for web in [stays, joins] {
        for (from, expected) in [
            ("friend", "open"),
            ("friend-joins", "open"),
            ("stranger", "timeout"),
            ("stranger-joins", "timeout"),
        ] {
            bed.until_connect(&format!("{NAMESPACE}/{from}"), web, WEB, expected)?;
        }
    }
    bed.leave_namespace(NAMESPACE)
}
