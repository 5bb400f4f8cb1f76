//! kubelet's probes come from the node itself, which policy always lets in.

use anyhow::{Result, ensure};
use sluice_e2e::suite::Case;
use sluice_e2e::{cases, wait};

use crate::bed::{Installed, PodSpec, WEB, default_deny};

pub const CASES: &[Case<Installed>] = cases![kubelet_probes_pass_under_default_deny];

const NAMESPACE: &str = "e2e-probes";

/// Probes that each pod has to have answered.
const PROBES: usize = 8;

/// A liveness probe that fails once restarts the container.
fn probed(action: &str) -> String {
    format!(
        "readinessProbe: {{{action}, periodSeconds: 1, failureThreshold: 1}}\n\
         livenessProbe: {{{action}, periodSeconds: 1, failureThreshold: 1, initialDelaySeconds: 5}}"
    )
}

fn kubelet_probes_pass_under_default_deny(bed: &mut Installed) -> Result<()> {
    bed.namespace(NAMESPACE)?;
    bed.cluster.apply(&default_deny(NAMESPACE))?;
    let actions = [
        ("http", probed(&format!("httpGet: {{path: /, port: {WEB}}}"))),
        ("tcp", probed(&format!("tcpSocket: {{port: {WEB}}}"))),
        (
            "exec",
            probed("exec: {command: [sh, -c, 'echo probed >>/tmp/probes']}"),
        ),
    ];
    let mut names = Vec::new();
    for (name, _) in &actions {
        for node in &bed.nodes {
            names.push((format!("{name}-{node}"), node.clone()));
        }
    }
    let mut pods = Vec::new();
    for ((name, node), (_, probes)) in names.iter().zip(
        actions
            .iter()
            .flat_map(|action| std::iter::repeat_n(action, bed.nodes.len())),
    ) {
        pods.push(PodSpec {
            container: probes,
            ..PodSpec::web(name, "app: probed", node)
        });
    }
    let client = PodSpec::idle("client", "app: client", &bed.nodes[0]);
    pods.push(client);
    bed.pods(NAMESPACE, &pods)?;
    // The policy is in force, probes or not.
    let client = format!("{NAMESPACE}/client");
    for (name, _) in &names {
        let to = bed.address(NAMESPACE, name)?;
        bed.expect_connect(&client, to, WEB, "timeout")?;
    }
    for (name, _) in &names {
        let what = format!("kubelet has probed {name} {PROBES} times");
        wait::until(&what, wait::LONG, || {
            let seen = match name.as_str() {
                name if name.starts_with("http") => bed.kubectl(&["-n", NAMESPACE, "logs", name])?,
                name if name.starts_with("exec") => {
                    bed.kubectl(&["-n", NAMESPACE, "exec", name, "--", "cat", "/tmp/probes"])?
                }
                // A server sees nothing of an empty connection: as long as the others'.
                _ => return Ok(Some(())),
            };
            let probes = seen
                .lines()
                .filter(|line| line.contains("GET /") || *line == "probed")
                .count();
            Ok((probes >= PROBES).then_some(()))
        })?;
    }
    for (name, _) in &names {
        let pod = bed.get(&["-n", NAMESPACE, "pod", name])?;
        let status = &pod["status"]["containerStatuses"][0];
        ensure!(
            status["ready"] == true && status["restartCount"] == 0,
            "{name}: ready {}, {} restarts",
            status["ready"],
            status["restartCount"]
        );
    }
    bed.leave_namespace(NAMESPACE)
}
