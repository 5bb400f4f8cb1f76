//! Pods that come and go by the dozen: no moment without policy, and nothing left of them.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use sluice_e2e::suite::Case;
use sluice_e2e::{cases, wait};

use crate::bed::{Installed, PodSpec, allow_only, size};

pub const CASES: &[Case<Installed>] =
    cases![churned_pods_are_never_open_to_strangers_and_leave_nothing_behind];

const NAMESPACE: &str = "e2e-churn";

/// Pods that are there at once.
const WAVE: u64 = 20;

/// Tries every address of the networks given (`A.B.C.`) over and over, 64 at once and for 0.3 s each; prints
/// `open ADDRESS` for each success, and `sweep N` with the number of sweeps. Addresses to leave out follow `-`.
const SWEEP: &str = "\
import asyncio, sys
split = sys.argv.index(\"-\")
networks, but = sys.argv[1:split], set(sys.argv[split + 1:])
async def attempt(address):
    try:
        _, writer = await asyncio.wait_for(asyncio.open_connection(address, 8080), 0.3)
        writer.close()
        print(\"open\", address, flush=True)
    except (OSError, asyncio.TimeoutError):
        pass
async def main():
    sweeps = 0
    while True:
        addresses = [network + str(host) for network in networks for host in range(1, 255)]
        for start in range(0, len(addresses), 64):
            await asyncio.gather(*(attempt(a) for a in addresses[start:start + 64] if a not in but))
        sweeps += 1
        print(\"sweep\", sweeps, flush=True)
asyncio.run(main())
";

/// What a node has that churn could leak, by name.
fn resources(bed: &Installed, node: &str) -> Result<BTreeMap<String, i64>> {
    let status = bed.status(node)?;
    let number = |value: &Value| value.as_i64().unwrap_or(-1);
    let frames = &status["frames"];
    // Rings count what is posted in them, so a frame that nobody has any more is missing in the sum. How many are posted says nothing:
    // an interface keeps what its busiest second took.
    let mut found = BTreeMap::from([
        (
            "frames not accounted for".to_owned(),
            number(&frames["total"])
                - number(&frames["free"])
                - number(&frames["in_rings"])
                - number(&frames["held"]),
        ),
        ("frames held".to_owned(), number(&frames["held"])),
        (
            "endpoints".to_owned(),
            status["endpoints"]
                .as_array()
                .map_or(-1, |list| list.len() as i64),
        ),
    ]);
    // In the node's own view: its kernel objects, and the agent's descriptors, but its TCP connections: those to the API server come
    // and go, and none is a pod's.
    for (name, script) in [
        (
            "descriptors of the agent",
            "for d in /proc/[0-9]*; do [ \"$(cat $d/comm 2>/dev/null)\" = sluice ] && \
             tr '\\0' ' ' <$d/cmdline | grep -q ' agent ' && ls -l $d/fd | \
             awk 'FILENAME != \"-\" { tcp[\"socket:[\" $10 \"]\"]; next } /->/ && !($NF in tcp) { n++ } END { print n + 0 }' \
             /proc/net/tcp /proc/net/tcp6 -; done | sort -n | tail -n 1",
        ),
        ("IPv4 routes", "ip route show table all | wc -l"),
        (
            "IPv6 routes",
            "ip -6 route show table all | grep -vc '^\\(ff00::\\|multicast\\)'",
        ),
        ("rules", "{ ip rule; ip -6 rule; } | wc -l"),
        ("links", "ip -o link | wc -l"),
        ("pins", "find /sys/fs/bpf -type f -o -type l | wc -l"),
        ("network namespaces", "ls /run/netns | wc -l"),
    ] {
        let text = bed.node_shell(node, &format!("{script}; true"))?;
        let number = text
            .trim()
            .parse()
            .with_context(|| format!("{node}: {name}: {text:?}"))?;
        found.insert(name.to_owned(), number);
    }
    Ok(found)
}

fn delete_churned(bed: &Installed) -> Result<()> {
    bed.kubectl(&[
        "-n",
        NAMESPACE,
        "delete",
        "pod",
        "-l",
        "app=churned",
        "--wait=true",
    ])?;
    Ok(())
}

fn churned_pods_are_never_open_to_strangers_and_leave_nothing_behind(bed: &mut Installed) -> Result<()> {
    let pods = size("SLUICE_CHURN_PODS", 40)?;
    // Pods of earlier cases would go in the middle of the count.
    bed.delete_namespaces()?;
    bed.namespace(NAMESPACE)?;
    let nodes = bed.nodes.clone();
    bed.cluster
        .apply(&allow_only(NAMESPACE, "friends", "friend", "churned"))?;
    let probes = ["friend", "stranger", "stranger-far"];
    bed.pods(
        NAMESPACE,
        &[
            PodSpec::idle("friend", "app: friend", &nodes[0]),
            PodSpec::idle("stranger", "app: stranger", &nodes[0]),
            PodSpec::idle("stranger-far", "app: stranger", &nodes[1]),
        ],
    )?;
    // A first pod on each node, so that what is made once is there before the count.
    let webs: Vec<String> = nodes.iter().map(|node| format!("first-{node}")).collect();
    let first: Vec<PodSpec<'_>> = webs
        .iter()
        .zip(&nodes)
        .map(|(name, node)| PodSpec::web(name, "app: churned", node))
        .collect();
    bed.pods(NAMESPACE, &first)?;
    delete_churned(bed)?;
    let settled = |name: &str| -> Result<BTreeMap<String, i64>> {
        // Runtime and agent let go of a pod some moments after its object.
        let mut last = resources(bed, name)?;
        wait::until("the node has settled", wait::LONG, || {
            std::thread::sleep(std::time::Duration::from_secs(1));
            let seen = resources(bed, name)?;
            let is_still = seen == last;
            last = seen;
            Ok(is_still.then_some(()))
        })?;
        Ok(last)
    };
    let mut before = Vec::new();
    for node in &nodes {
        before.push(settled(node)?);
    }

    // Sweeps from before the first pod until after the last.
    let mut networks = BTreeSet::new();
    let mut others = BTreeSet::new();
    let all = bed.get(&["pods", "-A"])?;
    for pod in all["items"].as_array().context("pods")? {
        let Some(address) = pod["status"]["podIP"].as_str() else {
            continue;
        };
        others.insert(address.to_owned());
        if pod["metadata"]["namespace"] == NAMESPACE
            && let Some((network, _)) = address.rsplit_once('.')
        {
            networks.insert(format!("{network}."));
        }
    }
    let words: Vec<String> = networks.into_iter().chain(["-".into()]).chain(others).collect();
    for probe in probes {
        let script = format!("python3 -u -c '{SWEEP}' {} >/tmp/sweeps 2>&1 &", words.join(" "));
        bed.kubectl(&["-n", NAMESPACE, "exec", probe, "--", "sh", "-c", &script])?;
    }
    let sweeps = |probe: &str| -> Result<(u64, BTreeSet<String>, u64)> {
        let log = bed.kubectl(&["-n", NAMESPACE, "exec", probe, "--", "cat", "/tmp/sweeps"])?;
        let mut sweeps = 0;
        let mut opened = BTreeSet::new();
        let mut successes = 0;
        // The last line may be being written.
        let whole = log.rfind('\n').map_or("", |end| &log[..end]);
        for line in whole.lines() {
            match line.split_once(' ') {
                Some(("sweep", number)) => sweeps = number.parse()?,
                Some(("open", address)) => {
                    successes += 1;
                    opened.insert(address.to_owned());
                }
                _ => anyhow::bail!("{probe}: {line}"),
            }
        }
        Ok((sweeps, opened, successes))
    };
    let mut created = 0;
    let mut addresses = BTreeSet::new();
    while created < pods {
        let wave = WAVE.min(pods - created);
        let names: Vec<String> = (0..wave).map(|i| format!("churned-{}", created + i)).collect();
        let specs: Vec<PodSpec<'_>> = names
            .iter()
            .enumerate()
            .map(|(i, name)| PodSpec::web(name, "app: churned", &nodes[i % nodes.len()]))
            .collect();
        bed.pods(NAMESPACE, &specs)?;
        for name in &names {
            addresses.insert(bed.address(NAMESPACE, name)?.to_string());
        }
        // One whole sweep of everybody while they are all there.
        for probe in probes {
            let (before, ..) = sweeps(probe)?;
            wait::until("two more sweeps", std::time::Duration::from_secs(60), || {
                Ok((sweeps(probe)?.0 >= before + 2).then_some(()))
            })?;
        }
        delete_churned(bed)?;
        created += wave;
    }
    let (_, reached, _) = sweeps("friend")?;
    let missed: Vec<_> = addresses.difference(&reached).collect();
    ensure!(
        missed.is_empty(),
        "the friend, who may, has not reached {missed:?}"
    );
    let mut total = 0;
    for probe in ["stranger", "stranger-far"] {
        let (sweeps, opened, successes) = sweeps(probe)?;
        total += sweeps;
        ensure!(
            successes == 0,
            "{probe} got through {successes} times, to {opened:?}"
        );
    }
    for probe in probes {
        bed.kubectl(&[
            "-n",
            NAMESPACE,
            "exec",
            probe,
            "--",
            "sh",
            "-c",
            "kill $(pidof python3)",
        ])?;
    }
    println!(
        "    {created} pods at {} addresses, all reached by the friend; {total} sweeps of strangers: none got through",
        addresses.len()
    );

    for (node, before) in nodes.iter().zip(before) {
        let mut after = BTreeMap::new();
        let outcome = wait::until("everything of the pods is gone", wait::LONG, || {
            after = settled(node)?;
            let has_grown = after.iter().any(|(name, now)| before.get(name) < Some(now));
            Ok((!has_grown).then_some(()))
        });
        let grown: Vec<String> = after
            .iter()
            .filter(|(name, now)| before.get(*name) < Some(now))
            .map(|(name, now)| {
                format!(
                    "{name}: {} before, {now} after",
                    before.get(name).copied().unwrap_or(-1)
                )
            })
            .collect();
        println!("    {node}: {after:?}");
        outcome.with_context(|| format!("{node}: {}", grown.join("; ")))?;
    }
    bed.leave_namespace(NAMESPACE)
}
