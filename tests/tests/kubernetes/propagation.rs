//! How long a policy takes from `kubectl` to every node.

use anyhow::{Context, Result, ensure};
use sluice_e2e::suite::Case;
use sluice_e2e::{cases, wait};

use crate::bed::{Installed, PodSpec, allow_only, now, percentile, size};

pub const CASES: &[Case<Installed>] = cases![applied_policy_is_enforced_on_every_node_within_five_seconds];

const NAMESPACE: &str = "e2e-propagation";

/// Connects to every argument all the time, for 0.1 s at most; prints `ADDRESS open|closed TIME` when that changes: closed is what
/// fails three times in a row, since the end of the first.
const PROBE: &str = "\
import socket, sys, threading, time
def say(*words): print(\" \".join(map(str, words)) + \"\\n\", end=\"\", flush=True)
def watch(address):
    last, failures, since = None, 0, 0
    while True:
        s = socket.socket()
        s.settimeout(0.1)
        try:
            s.connect((address, 8080))
            failures = 0
            if last != \"open\":
                last = \"open\"
                say(address, last, time.time())
        except OSError:
            failures += 1
            if failures == 1: since = time.time()
            if failures == 3 and last != \"closed\":
                last = \"closed\"
                say(address, last, since)
        s.close()
        time.sleep(0.01)
for address in sys.argv[1:]:
    threading.Thread(target=watch, args=(address,)).start()
";

fn applied_policy_is_enforced_on_every_node_within_five_seconds(bed: &mut Installed) -> Result<()> {
    let samples = size("SLUICE_POLICY_SAMPLES", 20)?;
    bed.namespace(NAMESPACE)?;
    let names: Vec<String> = bed.nodes.iter().map(|node| format!("web-{node}")).collect();
    let mut pods: Vec<PodSpec<'_>> = names
        .iter()
        .zip(&bed.nodes)
        .map(|(name, node)| PodSpec::web(name, "app: web", node))
        .collect();
    bed.pods(NAMESPACE, &pods)?;
    let mut targets = Vec::new();
    for name in &names {
        targets.push(bed.address(NAMESPACE, name)?.to_string());
    }
    let probe = PodSpec {
        script: format!("exec python3 -u -c '{PROBE}' {}", targets.join(" ")),
        ..PodSpec::idle("probe", "app: probe", &bed.nodes[0])
    };
    pods = vec![probe];
    bed.pods(NAMESPACE, &pods)?;
    // When every node was first seen in a state since a moment. A node that was in it before, as on a busy machine a connection
    // may fail without any policy, counts from that moment.
    let reached = |state: &str, since: f64| -> Result<f64> {
        wait::until(&format!("{state} on every node"), wait::LONG, || {
            let log = bed.kubectl(&["-n", NAMESPACE, "logs", "probe", "--tail", "40"])?;
            let mut times = Vec::new();
            for target in &targets {
                let last = log
                    .lines()
                    .rfind(|line| line.split_whitespace().next() == Some(target));
                let Some(last) = last else { return Ok(None) };
                let words: Vec<&str> = last.split_whitespace().collect();
                let [_, seen, at] = words[..] else {
                    return Ok(None);
                };
                let at: f64 = at.parse().context("a time")?;
                if seen != state {
                    return Ok(None);
                }
                times.push(at.max(since));
            }
            Ok(Some(times.into_iter().fold(0.0, f64::max)))
        })
    };
    reached("open", 0.0)?;
    let policy = allow_only(NAMESPACE, "friends", "friend", "web");
    let (mut applied, mut removed) = (Vec::new(), Vec::new());
    for _ in 0..samples {
        let start = now();
        bed.cluster.apply(&policy)?;
        applied.push(reached("closed", start)? - start);
        let start = now();
        bed.kubectl(&["-n", NAMESPACE, "delete", "networkpolicy", "friends"])?;
        removed.push(reached("open", start)? - start);
    }
    for (what, times) in [
        ("apply to enforced", &mut applied),
        ("delete to open", &mut removed),
    ] {
        println!(
            "    kubectl {what} on all of {} nodes, {samples} samples, kubectl's own start included: p50 {:.2} s, p99 {:.2} s",
            bed.nodes.len(),
            percentile(times, 50),
            percentile(times, 99)
        );
        ensure!(percentile(times, 99) < 5.0, "{what}: {times:.2?}");
    }
    bed.leave_namespace(NAMESPACE)
}
