//! What a pod gets out of its node before anybody could have looked at it: it is under policy before its first process starts.

use anyhow::{Context, Result, bail, ensure};
use sluice_e2e::suite::Case;
use sluice_e2e::{cases, wait};

use crate::bed::{Installed, PodSpec, WEB};

pub const CASES: &[Case<Installed>] =
    cases![pod_under_egress_default_deny_gets_nothing_out_from_its_first_instant_on];

/// A server of both families that tells of every client once: `tcp ADDRESS` for a connection, `udp NAME` for a datagram.
const SINK: &str = "\
import select, socket
udp = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
tcp = socket.socket(socket.AF_INET6)
for s in udp, tcp:
    s.bind((\"::\", 8080))
tcp.listen(4096)
seen = set()
while True:
    for ready in select.select([udp, tcp], [], [])[0]:
        if ready is udp:
            said = \"udp \" + udp.recv(100).decode()
        else:
            connection, peer = tcp.accept()
            connection.close()
            said = \"tcp \" + peer[0].removeprefix(\"::ffff:\")
        if said not in seen:
            seen.add(said)
            print(said)
";

/// Tries each ADDRESS/PORT every 20 ms for three seconds: a new connection, which is waited for to the end, and a datagram with
/// the pod's name. Prints `open` or `failed`, target and seconds since the start of a connection that has an outcome, then
/// `done CONNECTIONS UNSENT-DATAGRAMS`.
const BURST: &str = "\
import select, socket, sys, time
start = time.time()
name = sys.argv[1].encode()
targets = [(text, text.rpartition(\"/\")) for text in sys.argv[2:]]
family = lambda address: socket.AF_INET6 if \":\" in address else socket.AF_INET
udp = {f: socket.socket(f, socket.SOCK_DGRAM) for f in (socket.AF_INET, socket.AF_INET6)}
waiting, tries, unsent = {}, 0, 0
while time.time() - start < 3:
    for text, (address, _, port) in targets:
        s = socket.socket(family(address))
        s.setblocking(False)
        s.connect_ex((address, int(port)))
        waiting[s] = text
        tries += 1
        try:
            udp[family(address)].sendto(name, (address, int(port)))
        except OSError:
            unsent += 1
    time.sleep(0.02)
    for s in select.select([], list(waiting), [], 0)[1]:
        error = s.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        print(\"failed\" if error else \"open\", waiting.pop(s), time.time() - start)
        s.close()
print(\"done\", tries, unsent)
time.sleep(3600)
";

/// How long a pod without a policy may take to its first connection.
const AT_ONCE: f64 = 1.0;

fn pod_under_egress_default_deny_gets_nothing_out_from_its_first_instant_on(
    bed: &mut Installed,
) -> Result<()> {
    const NAMESPACE: &str = "e2e-egress-window";
    const SHUT: usize = 3;
    bed.namespace(NAMESPACE)?;
    let nodes = [bed.nodes[0].clone(), bed.nodes[1].clone()];
    bed.cluster.apply(&format!(
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: shut, namespace: {NAMESPACE}}}\n\
         spec: {{podSelector: {{matchLabels: {{app: shut}}}}, policyTypes: [Egress]}}\n"
    ))?;
    let mut pods = Vec::new();
    for (at, node) in nodes.iter().enumerate() {
        let [sink, known] = [format!("sink-{at}"), format!("known-{at}")];
        pods.push((sink, "app: sink", node, format!("exec python3 -u -c '{SINK}'")));
        pods.push((known, "app: shut", node, "exec sleep infinity".to_owned()));
    }
    create(bed, NAMESPACE, &pods)?;
    // What everybody may reach: a pod of each node in both families, and the API server.
    let mut targets = Vec::new();
    for at in 0..nodes.len() {
        targets.extend(bed.addresses(NAMESPACE, &format!("sink-{at}"))?);
    }
    ensure!(targets.len() == 4, "not two pods of two families: {targets:?}");
    for at in 0..nodes.len() {
        // From here on the agents know the policy.
        bed.until_connect(&format!("{NAMESPACE}/known-{at}"), targets[0], WEB, "timeout")?;
    }
    let mut targets: Vec<String> = targets.iter().map(|address| format!("{address}/{WEB}")).collect();
    targets.push(bed.kubectl(&[
        "-n",
        "default",
        "get",
        "endpoints",
        "kubernetes",
        "-o",
        "jsonpath={.subsets[0].addresses[0].ip}/{.subsets[0].ports[0].port}",
    ])?);
    let burst = |name: &str| format!("exec python3 -u -S -c '{BURST}' {name} {}", targets.join(" "));

    let mut shut = Vec::new();
    for (at, node) in nodes.iter().enumerate() {
        for number in 0..SHUT {
            let name = format!("shut-{at}-{number}");
            let script = burst(&name);
            shut.push((name, "app: shut", node, script));
        }
    }
    create(bed, NAMESPACE, &shut)?;
    let mut addresses = Vec::new();
    for (name, ..) in &shut {
        addresses.extend(bed.addresses(NAMESPACE, name)?);
        let (outcomes, tries, unsent) = outcomes(bed, NAMESPACE, name)?;
        let open = outcomes.iter().find(|outcome| outcome.starts_with("open"));
        ensure!(open.is_none(), "{name} under egress default-deny: {open:?}");
        ensure!(
            tries >= 50 && unsent == 0,
            "{name}: {tries} tries, {unsent} datagrams not sent: nothing is shown"
        );
    }

    // Sent behind all of theirs, and not under the policy: has to arrive, and at once.
    let mut free = Vec::new();
    for (at, node) in nodes.iter().enumerate() {
        let name = format!("free-{at}");
        let script = burst(&name);
        free.push((name, "app: free", node, script));
    }
    create(bed, NAMESPACE, &free)?;
    let mut slowest: f64 = 0.0;
    for (name, ..) in &free {
        let (outcomes, ..) = outcomes(bed, NAMESPACE, name)?;
        for target in &targets {
            let first = outcomes.iter().find_map(|outcome| {
                let mut words = outcome.strip_prefix("open ")?.split(' ');
                (words.next()? == target).then(|| words.next())?
            });
            let first: f64 = first
                .with_context(|| format!("{name} never reached {target}"))?
                .parse()?;
            ensure!(first < AT_ONCE, "{name} reached {target} only after {first} s");
            slowest = slowest.max(first);
        }
    }
    for at in 0..nodes.len() {
        let sink = format!("sink-{at}");
        let seen = bed.kubectl(&["-n", NAMESPACE, "logs", &sink])?;
        for (name, ..) in &free {
            let datagram = format!("udp {name}");
            ensure!(
                seen.lines().any(|line| line == datagram),
                "{sink} got no {datagram}: {seen}"
            );
        }
        let leaked = seen.lines().find(|line| {
            line.starts_with("udp shut-") || addresses.iter().any(|address| *line == format!("tcp {address}"))
        });
        ensure!(leaked.is_none(), "{sink} got {leaked:?}");
    }
    println!("    first connection of a pod without policy: at most {slowest:.2} s after its start");
    bed.leave_namespace(NAMESPACE)
}

/// Pods by name, labels, node and script, all ready.
fn create(bed: &Installed, namespace: &str, pods: &[(String, &str, &String, String)]) -> Result<()> {
    let specs: Vec<_> = pods
        .iter()
        .map(|(name, labels, node, script)| PodSpec {
            script: script.clone(),
            ..PodSpec::idle(name, labels, node)
        })
        .collect();
    bed.pods(namespace, &specs)
}

/// What a pod of [`BURST`] says when it is done: connections with an outcome, all of them, and datagrams that were not sent.
fn outcomes(bed: &Installed, namespace: &str, pod: &str) -> Result<(Vec<String>, usize, usize)> {
    let log = wait::until(&format!("{pod} is done"), wait::LONG, || {
        let log = bed.kubectl(&["-n", namespace, "logs", pod])?;
        Ok(log.contains("done").then_some(log))
    })?;
    let mut lines: Vec<String> = log.lines().map(str::to_owned).collect();
    let done = lines.pop().context("an empty log")?;
    let mut counts = done.split(' ').skip(1).map(str::parse);
    let (Some(tries), Some(unsent)) = (counts.next(), counts.next()) else {
        bail!("{pod}: {done}");
    };
    Ok((lines, tries?, unsent?))
}
