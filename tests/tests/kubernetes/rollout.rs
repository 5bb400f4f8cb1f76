//! `kubectl rollout restart daemonset/sluice` while pods talk.

use std::iter;

use anyhow::{Context, Result, ensure};
use sluice_e2e::suite::Case;
use sluice_e2e::{cases, wait};

use crate::bed::{Installed, PodSpec, WEB, allow_only};

pub const CASES: &[Case<Installed>] = cases![
    rollout_restart_lets_no_stranger_through_and_kills_no_pod,
    rollout_restart_leaves_l4_connections_alive,
];

pub const KNOWN_GAPS: &[Case<Installed>] = cases![rollout_restart_leaves_a_gap_of_at_most_two_seconds];

const NAMESPACE: &str = "e2e-rollout";

/// Connects to every argument anew all the time; when /tmp/stop is there, prints `ADDRESS SUCCESSES LONGEST-GAP` of each.
const LOAD: &str = "\
import os, socket, sys, threading, time
def say(*words): print(\" \".join(map(str, words)) + \"\\n\", end=\"\", flush=True)
def load(address):
    successes, gap, last = 0, 0.0, time.time()
    while not os.path.exists(\"/tmp/stop\"):
        s = socket.socket()
        s.settimeout(0.1)
        try:
            s.connect((address, 8080))
            successes += 1
            now = time.time()
            gap, last = max(gap, now - last), now
        except OSError:
            pass
        s.close()
        time.sleep(0.01)
    gap = max(gap, time.time() - last)
    say(address, successes, gap)
threads = [threading.Thread(target=load, args=(a,)) for a in sys.argv[1:]]
for thread in threads: thread.start()
for thread in threads: thread.join()
print(\"done\", flush=True)
time.sleep(3600)
";

/// A web server with an echo service beside it, at port 7; kubelet, five times as impatient as by default, kills it
/// when it fails three times.
fn web<'a>(name: &'a str, node: &'a str) -> PodSpec<'a> {
    PodSpec {
        script: format!("python3 -u -c '{ECHO}' & exec python3 -u -m http.server {WEB} --bind ::"),
        container: "readinessProbe: {tcpSocket: {port: 8080}, periodSeconds: 1}\n\
                    livenessProbe: {httpGet: {path: /, port: 8080}, periodSeconds: 2}",
        ..PodSpec::web(name, "app: web", node)
    }
}

const ECHO: &str = "\
import socketserver
class Echo(socketserver.StreamRequestHandler):
    def handle(self):
        for line in self.rfile:
            self.wfile.write(line)
socketserver.ThreadingTCPServer((\"\", 7), Echo).serve_forever()
";

/// Says a line to every argument's port 7 each 0.1 s and waits for it, by a connection per argument; prints `ADDRESS N` when
/// /tmp/stop is there, or `ADDRESS lost` with what has happened.
const TALK: &str = "\
import os, socket, sys, threading, time
def say(*words): print(\" \".join(map(str, words)) + \"\\n\", end=\"\", flush=True)
def connect(address):
    # The Service may not be served yet.
    until = time.time() + 30
    while True:
        try: return socket.create_connection((address, 7), 5)
        except OSError:
            if time.time() > until: raise
            time.sleep(0.1)
def talk(address):
    try:
        s = connect(address)
        s.settimeout(20)
        file, lines = s.makefile(\"rw\"), 0
        say(address, \"connected\")
        while not os.path.exists(\"/tmp/stop\"):
            file.write(f\"{lines}\\n\")
            file.flush()
            if file.readline() != f\"{lines}\\n\": raise OSError(\"closed\")
            lines += 1
            time.sleep(0.1)
        say(address, lines)
    except OSError as error:
        say(address, \"lost\", error)
threads = [threading.Thread(target=talk, args=(a,)) for a in sys.argv[1:]]
for thread in threads: thread.start()
for thread in threads: thread.join()
print(\"done\", flush=True)
time.sleep(3600)
";

/// Connections through the ClusterIP of the web servers.
const THROUGH_SERVICE: usize = 6;

struct Load {
    /// Address and node of each web server.
    webs: Vec<(String, String)>,
}

/// Web servers on every node behind the Service `webs`, `friend` on the first node that runs `script` on each of them, and on the
/// Service so many times, and a policy that lets only it in.
fn load(bed: &mut Installed, script: &str, through_service: usize) -> Result<Load> {
    bed.namespace(NAMESPACE)?;
    let nodes = bed.nodes.clone();
    bed.cluster
        .apply(&allow_only(NAMESPACE, "friends", "friend", "web"))?;
    let names: Vec<String> = nodes.iter().map(|node| format!("web-{node}")).collect();
    let pods: Vec<PodSpec<'_>> = names
        .iter()
        .zip(&nodes)
        .map(|(name, node)| web(name, node))
        .collect();
    bed.pods(NAMESPACE, &pods)?;
    let mut webs = Vec::new();
    for (name, node) in names.iter().zip(&nodes) {
        webs.push((bed.address(NAMESPACE, name)?.to_string(), node.clone()));
    }
    bed.cluster.apply(&format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: webs, namespace: {NAMESPACE}}}\n\
         spec:\n  selector: {{app: web}}\n  ports: [{{port: 7}}]\n---\n"
    ))?;
    let service = bed.get(&["-n", NAMESPACE, "service", "webs"])?;
    let cluster_ip = service["spec"]["clusterIP"].as_str().context("clusterIP")?;
    let addresses = webs.iter().map(|(address, _)| address.as_str());
    let addresses: Vec<&str> = addresses
        .chain(iter::repeat_n(cluster_ip, through_service))
        .collect();
    let addresses = addresses.join(" ");
    bed.pods(
        NAMESPACE,
        &[
            PodSpec {
                script: format!("exec python3 -u -c '{script}' {addresses}"),
                ..PodSpec::idle("friend", "app: friend", &nodes[0])
            },
            PodSpec {
                script: format!("exec python3 -u -c '{LOAD}' {addresses}"),
                ..PodSpec::idle("stranger", "app: stranger", &nodes[0])
            },
        ],
    )?;
    Ok(Load { webs })
}

/// Restarts the agents, one node after the other, and waits until the last is ready.
fn restart(bed: &Installed) -> Result<()> {
    bed.kubectl(&["-n", "kube-system", "rollout", "restart", "daemonset/sluice"])?;
    bed.wait_for_agents()
}

/// Tells a pod to stop; what it printed.
fn result(bed: &Installed, pod: &str) -> Result<Vec<Vec<String>>> {
    bed.kubectl(&["-n", NAMESPACE, "exec", pod, "--", "touch", "/tmp/stop"])?;
    let log = wait::until("the load has ended", wait::LONG, || {
        let log = bed.kubectl(&["-n", NAMESPACE, "logs", pod])?;
        Ok(log.lines().any(|line| line == "done").then_some(log))
    })?;
    Ok(log
        .lines()
        .map(|line| line.split_whitespace().map(str::to_owned).collect())
        .collect())
}

fn rollout_restart_lets_no_stranger_through_and_kills_no_pod(bed: &mut Installed) -> Result<()> {
    restart_under_load(bed).map(drop)
}

fn rollout_restart_leaves_a_gap_of_at_most_two_seconds(bed: &mut Installed) -> Result<()> {
    let longest = restart_under_load(bed)?;
    ensure!(longest <= 2.0, "a gap of {longest:.2} s");
    Ok(())
}

/// Returns the longest time without a new connection.
fn restart_under_load(bed: &mut Installed) -> Result<f64> {
    let load = load(bed, LOAD, 0)?;
    restart(bed)?;
    let mut longest: f64 = 0.0;
    for line in result(bed, "friend")? {
        let [address, successes, gap] = &line[..] else {
            continue;
        };
        let node = load
            .webs
            .iter()
            .find(|(web, _)| web == address)
            .map(|(_, node)| node.as_str());
        println!(
            "    restart under load, to a pod on {}: {successes} connections, longest gap {gap} s",
            node.unwrap_or("?")
        );
        ensure!(successes.parse::<u64>()? > 0, "no connection to {address} at all");
        longest = longest.max(gap.parse()?);
    }
    for line in result(bed, "stranger")? {
        if let [address, successes, _] = &line[..] {
            ensure!(
                successes == "0",
                "the stranger got through to {address} {successes} times"
            );
        }
    }
    let pods = bed.get(&["-n", NAMESPACE, "pods"])?;
    for pod in pods["items"].as_array().context("items")? {
        let restarts = &pod["status"]["containerStatuses"][0]["restartCount"];
        ensure!(*restarts == 0, "{}: {restarts} restarts", pod["metadata"]["name"]);
    }
    bed.leave_namespace(NAMESPACE)?;
    Ok(longest)
}

fn rollout_restart_leaves_l4_connections_alive(bed: &mut Installed) -> Result<()> {
    let load = load(bed, TALK, THROUGH_SERVICE)?;
    let connections = load.webs.len() + THROUGH_SERVICE;
    let is_connected = |log: &str| log.lines().filter(|line| line.ends_with("connected")).count();
    wait::until("the friend is connected to all", wait::LONG, || {
        let log = bed.kubectl(&["-n", NAMESPACE, "logs", "friend"])?;
        Ok((is_connected(&log) == connections).then_some(()))
    })?;
    restart(bed)?;
    let lines = result(bed, "friend")?;
    let lost: Vec<String> = lines
        .iter()
        .filter(|line| line.get(1).is_some_and(|word| word == "lost"))
        .map(|line| line.join(" "))
        .collect();
    ensure!(
        lost.is_empty(),
        "{} of {connections} connections: {lost:?}",
        lost.len()
    );
    bed.leave_namespace(NAMESPACE)
}
