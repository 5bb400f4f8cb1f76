//! The agent, policies and pods come and go; at no moment does anything pass that must not, and nothing is left behind.

mod interfaces;

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use datapath::loader::Loader;
use policy::DropReason;
use sluice_e2e::fence::{self, fence};
use sluice_e2e::http::{self, Response, Server};
use sluice_e2e::lab::{NODE, OUTSIDE};
use sluice_e2e::packets;
use sluice_e2e::suite::{self, Bed};
use sluice_e2e::{Lab, Netns, Pod, cases, wait};

use self::interfaces::{
    interface_made_anew_under_its_name_is_under_policy,
    interface_that_the_runtime_detaches_stays_closed_until_it_is_gone,
    interface_that_vanishes_while_the_agent_starts_is_swept_and_its_pod_comes_again,
    interfaces_renamed_while_the_agent_is_away_are_still_their_pods,
    pairs_removed_again_and_again_are_served,
};

const TCP_PORT: u16 = 5000;
const UDP_PORT: u16 = 5001;
const HTTP_PORT: u16 = 8080;

const POLICY: &str = r#"
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: server, namespace: app}
spec:
  endpointSelector: {matchLabels: {app: server}}
  ingress:
    - fromEndpoints: [{matchLabels: {role: friend}}]
      toPorts:
        - ports: [{port: "5000", protocol: TCP}, {port: "5001", protocol: UDP}]
        - ports: [{port: "8080", protocol: TCP}]
          rules: {http: [{method: GET, path: /}]}
    - toPorts: [{ports: [{port: "7", protocol: UDP}]}]
"#;

/// Nobody may reach the server but by fences.
const CLOSED_POLICY: &str = r#"
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: server, namespace: app}
spec:
  endpointSelector: {matchLabels: {app: server}}
  ingress:
    - toPorts: [{ports: [{port: "7", protocol: UDP}]}]
"#;

struct Lifecycle {
    lab: Lab,
    server: Pod,
    friend: Pod,
    stranger: Pod,
    http: Server,
}

impl Bed for Lifecycle {
    fn prepare() -> Result<Self> {
        let lab = Lab::up("lifecycle")?;
        let server = lab.add_pod("app/server", "app=server")?;
        let friend = lab.add_pod("app/friend", "role=friend")?;
        let stranger = lab.add_pod("app/stranger", "role=stranger")?;
        let http = Server::start(&server.netns, HTTP_PORT)?;
        Ok(Self {
            lab,
            server,
            friend,
            stranger,
            http,
        })
    }

    fn log(&self) -> String {
        self.lab.agent_log()
    }
}

fn main() -> ExitCode {
    // In this order: the first one needs a node that sluice has never touched.
    suite::run::<Lifecycle>(cases![
        cleanup_leaves_nothing_behind,
        killed_agent_lets_nothing_pass,
        restarted_agent_lets_traffic_pass_again,
        pods_received_in_threads_on_the_workers_cpu_are_guarded_until_an_agent_without_them_comes,
        established_connection_survives_a_restart_and_one_under_http_rules_is_reset,
        pod_that_another_xdp_program_keeps_from_being_served_is_cut_off_until_it_is_gone,
        restarted_agent_enforces_the_persisted_policy_without_its_manifests,
        new_policy_cuts_an_established_connection,
        removed_policy_lets_everything_pass_again,
        node_is_host_at_an_address_that_an_interface_gets_while_the_agent_runs,
        pod_deleted_under_traffic_loses_no_frame,
        interface_that_vanishes_while_the_agent_starts_is_swept_and_its_pod_comes_again,
        interface_that_the_runtime_detaches_stays_closed_until_it_is_gone,
        interfaces_renamed_while_the_agent_is_away_are_still_their_pods,
        interface_made_anew_under_its_name_is_under_policy,
        pairs_removed_again_and_again_are_served,
        address_reused_by_another_pod_gets_its_policy_and_never_the_old_one,
        pods_of_an_excluded_namespace_are_peers_and_under_no_policy,
        one_hundred_and_ten_endpoints_come_talk_and_go,
    ])
}

impl Lifecycle {
    /// Brings agent and policy to what most cases start from.
    fn guarded(&mut self) -> Result<()> {
        self.lab.run(&["agent", "start"])?;
        self.lab.enforce(&[("server", POLICY)])
    }

    /// What `POLICY` allows, and that it still denies.
    fn is_guarded(&self) -> Result<()> {
        drop(self.http.take_requests());
        for address in self.server.at(HTTP_PORT) {
            let mut client = http::Client::connect(&self.friend.netns, address)?;
            ensure!(client.get("/")? == Response::served("/"));
            ensure!(client.get("/secret")? == Response::denied());
        }
        ensure!(self.http.take_requests() == ["/"; 2]);
        let mut frames = Vec::new();
        for (from, to) in self.stranger.at(40_000).into_iter().zip(self.server.at(TCP_PORT)) {
            frames.push(self.stranger.framed(&packets::syn(from, to)));
        }
        let tap = self.server.tap()?;
        self.lab.agent().expect_drops(DropReason::PolicyDenied, || {
            self.stranger.injector()?.send_all(&frames)
        })?;
        for address in self.server.addresses() {
            let mut seen = fence(&self.stranger.netns, address, &tap)?;
            // The friend's connections may still be closing.
            seen.retain(|packet| self.stranger.addresses().contains(&packet.source));
            ensure!(seen.is_empty(), "the server received {seen:?}");
        }
        Ok(())
    }
}

/// Links, addresses, rules, routes, filters, nft rules and settings of the node, line by line.
fn node_state(lab: &Lab) -> Result<BTreeSet<String>> {
    let mut state = BTreeSet::new();
    // Neighbours, statistics and lifetimes change by themselves and are left out.
    let commands: &[&[&str]] = &[
        &["ip", "-o", "link"],
        &["ip", "-o", "addr"],
        &["ip", "-4", "rule"],
        &["ip", "-6", "rule"],
        &["ip", "-4", "route", "show", "table", "all"],
        &["ip", "-6", "route", "show", "table", "all"],
        &["nft", "list", "ruleset"],
        &["sysctl", "-a", "-r", r"net\.ipv[46]\.(conf|ip_forward)"],
    ];
    for command in commands {
        state.extend(
            lab.on_node(command)?
                .lines()
                .map(|line| format!("{}: {}", command.join(" "), line.trim())),
        );
    }
    let links = lab.on_node(&["ip", "-o", "link"])?;
    for link in links
        .lines()
        .filter_map(|line| line.split(": ").nth(1)?.split('@').next())
    {
        for hook in ["ingress", "egress"] {
            for line in lab.on_node(&["tc", "filter", "show", "dev", link, hook])?.lines() {
                state.insert(format!("tc {link} {hook}: {line}"));
            }
        }
    }
    let bpffs = lab.dir().join("bpf");
    for entry in fs::read_dir(&bpffs).with_context(|| bpffs.display().to_string())? {
        state.insert(format!("pin {}", entry?.path().display()));
    }
    Ok(state)
}

fn cleanup_leaves_nothing_behind(bed: &mut Lifecycle) -> Result<()> {
    wait::until("all addresses are known to be unique", wait::LONG, || {
        Ok((!bed.lab.on_node(&["ip", "-o", "addr"])?.contains("tentative")).then_some(()))
    })?;
    let before = node_state(&bed.lab)?;
    bed.guarded()?;
    bed.is_guarded()?;
    let during = node_state(&bed.lab)?;
    for trace in ["sluice_host", "sluice_fwd", "pin ", "lookup 7301"] {
        ensure!(
            during.iter().any(|line| line.contains(trace)),
            "no {trace} while the agent runs: the comparison shows nothing"
        );
    }
    bed.lab.run(&["agent", "cleanup"])?;
    let after = node_state(&bed.lab)?;
    let left: Vec<&String> = after.difference(&before).collect();
    let missing: Vec<&String> = before.difference(&after).collect();
    ensure!(
        left.is_empty() && missing.is_empty(),
        "left behind: {left:#?}\nmissing: {missing:#?}"
    );
    ensure!(
        !bed.lab.dir().join("run/endpoints.json").exists(),
        "the run directory still has endpoints"
    );
    // The pods talk as before, without any policy.
    for address in bed.server.at(HTTP_PORT) {
        ensure!(http::get(&bed.stranger.netns, address, "/secret")? == Response::served("/secret"));
    }
    Ok(())
}

/// Packets that an interface received and XDP dropped, by the driver's count.
fn xdp_drops(lab: &Lab, interface: &str) -> Result<u64> {
    let statistics = lab.on_node(&["ethtool", "-S", interface])?;
    let counts = statistics.lines().filter_map(|line| {
        let (name, count) = line.trim().split_once(": ")?;
        (name.starts_with("rx_queue_") && name.ends_with("_xdp_drops")).then_some(count)
    });
    let mut sum = 0;
    for count in counts {
        sum += count.parse::<u64>()?;
    }
    Ok(sum)
}

fn killed_agent_lets_nothing_pass(bed: &mut Lifecycle) -> Result<()> {
    bed.guarded()?;
    let mut client = http::Client::connect(&bed.friend.netns, bed.server.at4(HTTP_PORT))?;
    ensure!(client.get("/")? == Response::served("/"));
    drop(bed.http.take_requests());
    // Whoever has never asked for its gateway's address would not even send later.
    let places = [
        bed.friend.netns.clone(),
        bed.stranger.netns.clone(),
        bed.lab.node(),
        bed.lab.outside(),
    ];
    let tap = bed.server.tap()?;
    for place in &places {
        for address in bed.server.addresses() {
            drop(fence(place, address, &tap)?);
        }
    }
    bed.lab.run(&["agent", "kill"])?;

    let taps = [bed.server.tap()?, bed.friend.tap()?];
    // An established connection, pods among each other, the node and the outside: all of it ends at an empty slot.
    client.send("/")?;
    let lab = &bed.lab;
    let doors = [
        &bed.friend.veth,
        &bed.stranger.veth,
        &"sluice_hostx".to_owned(),
        &"sluice_fwdx".to_owned(),
    ];
    let mut before = Vec::new();
    for door in doors {
        before.push(xdp_drops(lab, door)?);
    }
    let send = |place: &Netns, to: SocketAddr| -> Result<u64> {
        place.enter(|| -> Result<()> {
            let any: SocketAddr = if to.is_ipv4() {
                "0.0.0.0:0".parse()?
            } else {
                "[::]:0".parse()?
            };
            let socket = UdpSocket::bind(any)?;
            for _ in 0..20 {
                socket.send_to(b"while the agent is away", to)?;
            }
            Ok(())
        })?;
        Ok(20)
    };
    let targets: Vec<SocketAddr> = [fence::PORT, UDP_PORT]
        .into_iter()
        .flat_map(|port| bed.server.at(port))
        .collect();
    for (place, (door, before)) in places.iter().zip(doors.into_iter().zip(before)) {
        let mut sent = 0;
        for target in &targets {
            sent += send(place, *target)?;
        }
        wait::until(&format!("XDP drops {sent} packets at {door}"), wait::LONG, || {
            Ok((xdp_drops(lab, door)? >= before + sent).then_some(()))
        })?;
    }
    for (pod, tap) in [&bed.server, &bed.friend].into_iter().zip(&taps) {
        let seen = tap.packets()?;
        ensure!(seen.is_empty(), "{} received {seen:?}", pod.name);
    }
    ensure!(
        bed.http.take_requests().is_empty(),
        "the server was asked by an established connection"
    );
    Ok(())
}

fn restarted_agent_lets_traffic_pass_again(bed: &mut Lifecycle) -> Result<()> {
    bed.guarded()?;
    bed.lab.run(&["agent", "kill"])?;
    bed.lab.run(&["agent", "start"])?;
    bed.is_guarded()?;
    bed.lab.run(&["agent", "restart"])?;
    bed.is_guarded()?;
    bed.lab.agent().expect_balanced_frames()
}

/// `(CPUs, policy)` of the kernel threads that receive what comes by an interface of the node.
fn napi_threads(interface: &str) -> Result<Vec<(String, String)>> {
    let mut threads = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let folder = entry?.path();
        // Processes come and go meanwhile.
        let Ok(stat) = fs::read_to_string(folder.join("stat")) else {
            continue;
        };
        let Some((name, rest)) = stat.split_once('(').and_then(|(_, rest)| rest.rsplit_once(") ")) else {
            continue;
        };
        if !name.starts_with(&format!("napi/{interface}-")) {
            continue;
        }
        let status = fs::read_to_string(folder.join("status"))?;
        let cpus = status
            .lines()
            .find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
        // Field 41 (proc_pid_stat(5)); the third is the first behind the name.
        let policy = rest.split(' ').nth(41 - 3).context("policy")?;
        threads.push((cpus.context("CPUs")?.trim().to_owned(), policy.to_owned()));
    }
    Ok(threads)
}

fn pods_received_in_threads_on_the_workers_cpu_are_guarded_until_an_agent_without_them_comes(
    bed: &mut Lifecycle,
) -> Result<()> {
    const SCHED_BATCH: &str = "3";
    bed.guarded()?;
    let tuned = ["agent", "restart", "--", "--pin-worker", "--worker-napi"];
    bed.lab.run(&tuned)?;
    let late = bed.lab.add_pod("app/late", "role=friend")?;
    let pods = [
        bed.server.veth.clone(),
        bed.friend.veth.clone(),
        bed.stranger.veth.clone(),
        late.veth.clone(),
    ];
    let mut cpus = BTreeSet::new();
    // A pod that was there has its thread once all of them are served; one that comes, from the beginning.
    ensure!(napi_threads(&late.veth)?.len() == 1);
    for veth in &pods {
        let thread = wait::until(&format!("{veth} has its thread"), wait::LONG, || {
            let threads = napi_threads(veth)?;
            ensure!(threads.len() <= 1, "{veth} is received by {threads:?}");
            let is_placed =
                |(cpu, policy): &(String, String)| cpu.parse::<u32>().is_ok() && policy == SCHED_BATCH;
            Ok(threads.into_iter().find(is_placed))
        })?;
        cpus.insert(thread.0);
    }
    // New threads come with an interface that goes up.
    bed.lab.on_node(&["ip", "link", "set", &late.veth, "down"])?;
    bed.lab.on_node(&["ip", "link", "set", &late.veth, "up"])?;
    let is_placed = || -> Result<bool> {
        Ok(matches!(napi_threads(&late.veth)?.as_slice(), [(cpu, _)] if cpus.contains(cpu)))
    };
    wait::until("they are placed again", 2 * wait::LONG, || {
        Ok(is_placed()?.then_some(()))
    })?;
    let one: Vec<u32> = cpus.iter().filter_map(|cpu| cpu.parse().ok()).collect();
    ensure!(one.len() == 1 && cpus.len() == 1, "not one CPU: {cpus:?}");
    bed.is_guarded()?;
    let mut client = http::Client::connect(&late.netns, bed.server.at4(HTTP_PORT))?;
    for _ in 0..1000 {
        ensure!(client.get("/")? == Response::served("/"));
    }
    drop(bed.http.take_requests());
    bed.lab.agent().expect_balanced_frames()?;

    bed.lab.run(&["agent", "restart"])?;
    for veth in &pods {
        wait::until(&format!("{veth} is received in no thread"), wait::LONG, || {
            Ok(napi_threads(veth)?.is_empty().then_some(()))
        })?;
    }
    bed.is_guarded()?;
    bed.lab.run(&["pod", "del", "app/late"])?;
    bed.lab.agent().expect_balanced_frames()?;

    // Without an agent that follows, too.
    bed.lab.run(&tuned)?;
    wait::until("there are threads", wait::LONG, || {
        Ok((!napi_threads(&bed.friend.veth)?.is_empty()).then_some(()))
    })?;
    bed.lab.run(&["agent", "cleanup"])?;
    ensure!(napi_threads(&bed.friend.veth)?.is_empty(), "cleanup left threads");
    let script = format!(
        "mount -t sysfs sysfs /sys && cat /sys/class/net/{}/threaded",
        bed.friend.veth
    );
    let threaded = bed.lab.on_node(&["unshare", "--mount", "sh", "-c", &script])?;
    ensure!(threaded.trim() == "0", "cleanup left threaded at {threaded:?}");
    Ok(())
}

fn pod_that_another_xdp_program_keeps_from_being_served_is_cut_off_until_it_is_gone(
    bed: &mut Lifecycle,
) -> Result<()> {
    bed.guarded()?;
    let (friend, pins) = (bed.friend.veth.clone(), bed.lab.dir().join("bpf"));
    bed.lab.run(&["agent", "kill"])?;
    let name = format!("xdp_native-*-{friend}");
    let removed = bed.lab.on_node(&[
        "find",
        &pins.display().to_string(),
        "-name",
        &name,
        "-print",
        "-delete",
    ])?;
    ensure!(removed.lines().count() == 1, "pins of {friend}: {removed:?}");
    let other = pins.join("other");
    let result = (|| {
        bed.lab.node().enter(|| -> Result<()> {
            // Its sockets' slots are empty: it drops everything.
            let index = nix::net::if_::if_nametoindex(friend.as_str())?;
            Loader::open(&other)?.attach(index, &friend, 0, 1)?;
            Ok(())
        })?;
        bed.lab.run(&["agent", "start"])?;
        let is_served = || -> Result<bool> {
            let status = bed.lab.agent().status()?;
            let of_friend = status
                .endpoints
                .iter()
                .find(|e| e.pod.to_string() == bed.friend.name);
            Ok(of_friend.context("no endpoint")?.is_ready)
        };
        ensure!(!is_served()?, "served behind another program");
        for address in bed.server.at(HTTP_PORT) {
            let connected = bed
                .friend
                .netns
                .enter(|| TcpStream::connect_timeout(&address, Duration::from_secs(1)));
            ensure!(connected.is_err(), "not cut off");
        }
        // Who asks for it once more does not set it free.
        ensure!(
            register(&bed.lab, &bed.friend).is_err(),
            "served behind another program"
        );
        let guarded = || -> Result<u64> { Ok(bed.lab.agent().status()?.guarded) };
        let before = guarded()?;
        Loader::remove_all(&other)?;
        // Nobody's program any more, and still nothing of it enters the node's stack.
        let sent = bed.friend.netns.enter(|| -> Result<u64> {
            let socket = UdpSocket::bind("0.0.0.0:0")?;
            for _ in 0..20 {
                socket.send_to(b"past sluice", (OUTSIDE[0], UDP_PORT))?;
            }
            Ok(20)
        })?;
        wait::until("what the pod sends dies at the guard", wait::LONG, || {
            Ok((guarded()? >= before + sent).then_some(()))
        })?;
        wait::until("the pod is served", 2 * wait::LONG, || {
            Ok(is_served()?.then_some(()))
        })
    })();
    Loader::remove_all(&other)?;
    result?;
    bed.is_guarded()?;
    bed.lab.agent().expect_balanced_frames()
}

fn restarted_agent_enforces_the_persisted_policy_without_its_manifests(bed: &mut Lifecycle) -> Result<()> {
    bed.guarded()?;
    let (manifests, away) = (
        bed.lab.dir().join("manifests"),
        bed.lab.dir().join("manifests-away"),
    );
    bed.lab.run(&["agent", "kill"])?;
    fs::rename(&manifests, &away)?;
    let outcome = (|| {
        bed.lab.run(&["agent", "start"])?;
        bed.is_guarded()
    })();
    fs::rename(&away, &manifests)?;
    outcome?;
    // They come back: followed again.
    bed.lab.enforce(&[("server", CLOSED_POLICY)])?;
    let frames = [bed
        .friend
        .framed(&packets::syn(bed.friend.at4(41_000), bed.server.at4(TCP_PORT)))];
    bed.lab.agent().expect_drops(DropReason::PolicyDenied, || {
        bed.friend.injector()?.send_all(&frames)
    })
}

/// A server that sends back what it gets, for one connection.
fn echo_once(netns: &Netns, port: u16) -> Result<thread::JoinHandle<Result<Vec<u8>>>> {
    let listener = netns.enter(|| TcpListener::bind((IpAddr::V6(Ipv6Addr::UNSPECIFIED), port)))?;
    Ok(thread::spawn(move || {
        let (mut stream, _) = listener.accept()?;
        let (mut all, mut buffer) = (Vec::new(), [0; 4096]);
        loop {
            match stream.read(&mut buffer) {
                Ok(0) | Err(_) => return Ok(all),
                Ok(len) => {
                    all.extend(&buffer[..len]);
                    stream.write_all(&buffer[..len])?;
                }
            }
        }
    }))
}

/// A connection of the friend to such a server, and what the server has received when it ends.
fn connect_once(
    bed: &Lifecycle,
    address: SocketAddr,
) -> Result<(thread::JoinHandle<Result<Vec<u8>>>, TcpStream)> {
    let server = echo_once(&bed.server.netns, address.port())?;
    let connect = || TcpStream::connect_timeout(&address, wait::LONG);
    let stream = bed.friend.netns.enter(connect)?;
    stream.set_read_timeout(Some(wait::LONG))?;
    Ok((server, stream))
}

fn exchange(stream: &mut TcpStream, text: &[u8]) -> Result<()> {
    stream.write_all(text)?;
    let mut answer = vec![0; text.len()];
    stream.read_exact(&mut answer)?;
    ensure!(answer == text);
    Ok(())
}

fn established_connection_survives_a_restart_and_one_under_http_rules_is_reset(
    bed: &mut Lifecycle,
) -> Result<()> {
    bed.guarded()?;
    drop(bed.http.take_requests());
    for (tcp, http) in bed.server.at(TCP_PORT).into_iter().zip(bed.server.at(HTTP_PORT)) {
        let (server, mut stream) = connect_once(bed, tcp)?;
        exchange(&mut stream, b"before the restart")?;
        let mut judged = http::Client::connect(&bed.friend.netns, http)?;
        ensure!(judged.get("/")? == Response::served("/"));

        bed.lab.run(&["agent", "kill"])?;
        bed.lab.run(&["agent", "start"])?;
        exchange(&mut stream, b"after the restart")?;
        ensure!(judged.get("/").is_err(), "nobody has judged its bytes");
        ensure!(http::get(&bed.friend.netns, http, "/")? == Response::served("/"));
        // It is a flow like others: a policy cuts it, and revives it.
        bed.lab.enforce(&[("server", CLOSED_POLICY)])?;
        let before = bed.lab.agent().drops()?;
        stream.write_all(b"denied")?;
        wait::until("the connection's segment is dropped", wait::LONG, || {
            let drops = bed.lab.agent().drops()?.since(&before);
            Ok((drops.get(DropReason::PolicyDenied) > 0).then_some(()))
        })?;
        bed.lab.enforce(&[("server", POLICY)])?;
        let mut answer = [0; 6];
        stream.read_exact(&mut answer)?;
        drop(stream);
        let received = server.join().unwrap_or_else(|_panicked| Ok(Vec::new()))?;
        ensure!(received == b"before the restartafter the restartdenied");
    }
    bed.lab.agent().expect_balanced_frames()
}

fn new_policy_cuts_an_established_connection(bed: &mut Lifecycle) -> Result<()> {
    bed.guarded()?;
    for address in bed.server.at(TCP_PORT) {
        bed.lab.enforce(&[("server", POLICY)])?;
        let (server, mut stream) = connect_once(bed, address)?;
        exchange(&mut stream, b"before the policy")?;

        let before = bed.lab.agent().drops()?;
        bed.lab.enforce(&[("server", CLOSED_POLICY)])?;
        let tap = bed.server.tap()?;
        stream.write_all(b"after the policy")?;
        wait::until("the connection's segment is dropped", wait::LONG, || {
            Ok((bed
                .lab
                .agent()
                .drops()?
                .since(&before)
                .get(DropReason::PolicyDenied)
                > 0)
            .then_some(()))
        })?;
        for target in bed.server.addresses() {
            let seen = fence(&bed.friend.netns, target, &tap)?;
            ensure!(seen.is_empty(), "the server received {seen:?}");
        }
        // Allowed once more, the kernel's retransmission brings it through.
        bed.lab.enforce(&[("server", POLICY)])?;
        let mut answer = [0; 16];
        stream
            .read_exact(&mut answer)
            .context("the connection does not revive")?;
        ensure!(answer == *b"after the policy");
        drop(stream);
        let received = server.join().unwrap_or_else(|_panicked| Ok(Vec::new()))?;
        ensure!(received == b"before the policyafter the policy");
    }
    Ok(())
}

fn removed_policy_lets_everything_pass_again(bed: &mut Lifecycle) -> Result<()> {
    bed.guarded()?;
    bed.is_guarded()?;
    bed.lab.enforce(&[])?;
    for place in [bed.stranger.netns.clone(), bed.lab.outside(), bed.lab.node()] {
        for address in bed.server.at(HTTP_PORT) {
            ensure!(
                http::get(&place, address, "/secret")? == Response::served("/secret"),
                "{address}"
            );
        }
    }
    Ok(())
}

/// Lets the friend out to an entity only.
fn out_to(entity: &str) -> String {
    format!(
        "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {{name: friend, namespace: app}}\n\
         spec: {{endpointSelector: {{matchLabels: {{role: friend}}}}, egress: [{{toEntities: [{entity}]}}]}}\n"
    )
}

fn node_is_host_at_an_address_that_an_interface_gets_while_the_agent_runs(bed: &mut Lifecycle) -> Result<()> {
    bed.guarded()?;
    let second: [IpAddr; 2] = ["192.0.2.77".parse()?, "2001:db8:77::7".parse()?];
    let server = Server::start(&bed.lab.node(), HTTP_PORT)?;
    for addr in second {
        bed.lab
            .on_node(&["ip", "address", "add", &addr.to_string(), "dev", "lo"])?;
    }
    bed.lab.enforce(&[("friend", &out_to("host"))])?;
    for addr in second {
        let address = SocketAddr::new(addr, HTTP_PORT);
        wait::until("the node's process answers", wait::LONG, || {
            let response = http::get(&bed.friend.netns, address, "/").ok();
            Ok((response == Some(Response::served("/"))).then_some(()))
        })?;
    }
    drop(server.take_requests());
    bed.lab.enforce(&[("friend", &out_to("world"))])?;
    let targets = second.map(|addr| SocketAddr::new(addr, HTTP_PORT));
    let frames: Vec<_> = bed
        .friend
        .at(40_000)
        .into_iter()
        .zip(targets)
        .map(|(from, to)| bed.friend.framed(&packets::syn(from, to)))
        .collect();
    bed.lab.agent().expect_drops(DropReason::PolicyDenied, || {
        bed.friend.injector()?.send_all(&frames)
    })?;
    for addr in second {
        bed.lab
            .on_node(&["ip", "address", "del", &addr.to_string(), "dev", "lo"])?;
    }
    Ok(())
}

/// Lets one pod of another namespace in, and isolates all pods of that namespace.
const POLICY_OF_PEERS: &str = r#"
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: server, namespace: app}
spec:
  endpointSelector: {matchLabels: {app: server}}
  ingress:
    - fromEndpoints: [{matchLabels: {"k8s:io.kubernetes.pod.namespace": left, role: peer}}]
      toPorts: [{ports: [{port: "8080", protocol: TCP}]}]
    - toPorts: [{ports: [{port: "7", protocol: UDP}]}]
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: isolated, namespace: left}
spec: {podSelector: {}, policyTypes: [Ingress]}
"#;

fn pods_of_an_excluded_namespace_are_peers_and_under_no_policy(bed: &mut Lifecycle) -> Result<()> {
    bed.guarded()?;
    let peer = bed.lab.add_pod("left/peer", "role=peer")?;
    let other = bed.lab.add_pod("left/other", "role=other")?;
    let _served = Server::start(&peer.netns, HTTP_PORT)?;
    bed.lab.enforce(&[("server", POLICY_OF_PEERS)])?;
    let endpoints = || -> Result<bool> {
        let list = bed.lab.agent().cli(&["endpoint", "list"])?;
        Ok(list.contains("left/"))
    };
    ensure!(endpoints()?, "they are endpoints before");
    bed.lab
        .run(&["agent", "restart", "--", "--exclude-namespace", "left"])?;
    ensure!(!endpoints()?, "they are none any more");
    let refused = bed.lab.run(&[
        "sluice",
        "endpoint",
        "add",
        "--pod",
        "left/peer",
        "--interface",
        &peer.veth,
        "--ipv4",
        &peer.ip4.to_string(),
        "--mac",
        "02:00:00:00:00:01",
    ]);
    let refused = format!("{:#}", refused.err().context("taken")?);
    ensure!(refused.contains("namespace left is excluded"), "{refused}");

    for address in bed.server.at(HTTP_PORT) {
        ensure!(http::get(&peer.netns, address, "/x")? == Response::served("/x"));
    }
    // Their own policy is not enforced at them, from whichever side.
    for address in peer.at(HTTP_PORT) {
        for from in [&bed.server, &other] {
            ensure!(http::get(&from.netns, address, "/x")? == Response::served("/x"));
        }
    }
    let frames: Vec<_> = other
        .at(40_000)
        .into_iter()
        .zip(bed.server.at(HTTP_PORT))
        .map(|(from, to)| other.framed(&packets::syn(from, to)))
        .collect();
    bed.lab
        .agent()
        .expect_drops(DropReason::PolicyDenied, || other.injector()?.send_all(&frames))?;
    // The next agent is told of all pods anew.
    bed.lab.run(&["agent", "cleanup"])?;
    for pod in ["left/peer", "left/other"] {
        bed.lab.run(&["pod", "del", pod])?;
    }
    Ok(())
}

fn pod_deleted_under_traffic_loses_no_frame(bed: &mut Lifecycle) -> Result<()> {
    bed.guarded()?;
    bed.lab.enforce(&[])?;
    let agent = bed.lab.agent();
    let total = agent.status()?.frames.total;
    for tells_the_agent in [true, false, true, false] {
        let target = bed.lab.add_pod("app/target", "app=target")?;
        let injector = bed.friend.injector()?;
        let back = target.injector()?;
        let there = bed.friend.framed(&packets::udp(
            bed.friend.at4(42_000),
            target.at4(9),
            &[b'x'; 1000],
        ));
        let and_back = target.framed(&packets::udp(
            target.at4(9),
            bed.friend.at4(42_000),
            &[b'x'; 1000],
        ));
        let half = packets::udp(target.at4(10), bed.friend.at4(42_000), &[b'x'; 1000]);
        // A fragment whose first one never comes: held by the worker when its pod goes.
        back.send(&target.framed(&packets::fragment(&half, 1, 800, false, &half[820..])))?;
        let stop = AtomicBool::new(false);
        thread::scope(|scope| -> Result<()> {
            let sender = scope.spawn(|| {
                let mut sent = 0_u64;
                while !stop.load(Ordering::Relaxed) {
                    // The interface disappears at some moment.
                    sent += u64::from(injector.send(&there).is_ok());
                    sent += u64::from(back.send(&and_back).is_ok());
                }
                sent
            });
            let before = agent.status()?.forwarded;
            let busy = wait::until("traffic flows", wait::LONG, || {
                Ok((agent.status()?.forwarded > before + 1000).then_some(()))
            });
            let words: &[&str] = if tells_the_agent {
                &["pod", "del", "app/target"]
            } else {
                &["pod", "del", "app/target", "--no-agent"]
            };
            let deleted = bed.lab.run(words);
            let gone = wait::until("the endpoint is gone", wait::LONG, || {
                let endpoints = agent.status()?.endpoints;
                Ok((!endpoints.iter().any(|endpoint| endpoint.pod.name == "target")).then_some(()))
            });
            stop.store(true, Ordering::Relaxed);
            let sent = sender.join().unwrap_or(0);
            busy?;
            deleted?;
            gone?;
            ensure!(sent > 1000);
            Ok(())
        })?;
        agent.expect_balanced_frames()?;
        ensure!(agent.status()?.frames.total == total);
    }
    Ok(())
}

fn address_reused_by_another_pod_gets_its_policy_and_never_the_old_one(bed: &mut Lifecycle) -> Result<()> {
    bed.guarded()?;
    let addresses = ["--ip4", "10.244.0.200", "--ip6", "fd00:10:244::c8"];
    let endpoint = |lab: &Lab| -> Result<_> {
        let endpoints = lab.agent().status()?.endpoints;
        let found = endpoints
            .into_iter()
            .find(|endpoint| endpoint.pod.name.starts_with("reused"));
        Ok(found.context("no endpoint")?.key)
    };
    let flow = |pod: &Pod, port: u16, text: &[u8]| -> Vec<Vec<u8>> {
        pod.at(43_000)
            .into_iter()
            .zip(bed.server.at(port))
            .map(|(from, to)| pod.framed(&packets::udp(from, to, text)))
            .collect()
    };
    let first = bed.lab.add_pod_with("app/reused-1", "role=friend", &addresses)?;
    let first_key = endpoint(&bed.lab)?;
    let tap = bed.server.tap()?;
    first
        .injector()?
        .send_all(&flow(&first, UDP_PORT, b"of the friend"))?;
    let seen = fence(&first.netns, bed.server.ip6.into(), &tap)?;
    ensure!(seen.len() == 2, "the friend's flow does not pass: {seen:?}");
    bed.lab.run(&["pod", "del", "app/reused-1"])?;

    // The successor sends on the very same flow, before and while it becomes an endpoint.
    let second = bed.lab.add_pod_with(
        "app/reused-2",
        "role=stranger",
        &[&addresses[..], &["--no-agent"]].concat(),
    )?;
    let tap = bed.server.tap()?;
    let injector = second.injector()?;
    let frames = flow(&second, UDP_PORT, b"of the stranger");
    let stop = AtomicBool::new(false);
    let agent = bed.lab.agent();
    thread::scope(|scope| -> Result<()> {
        let sender = scope.spawn(|| -> Result<()> {
            while !stop.load(Ordering::Relaxed) {
                injector.send_all(&frames)?;
                thread::yield_now();
            }
            Ok(())
        });
        let added = register(&bed.lab, &second);
        let denied = added.and_then(|()| {
            let before = agent.drops()?;
            wait::until("the successor is denied", wait::LONG, || {
                Ok((agent.drops()?.since(&before).get(DropReason::PolicyDenied) > 100).then_some(()))
            })
        });
        stop.store(true, Ordering::Relaxed);
        sender.join().unwrap_or(Ok(()))?;
        denied
    })?;
    let second_key = endpoint(&bed.lab)?;
    ensure!(
        first_key.slot == second_key.slot,
        "the slot was not reused: {first_key:?}, {second_key:?}"
    );
    ensure!(
        first_key.generation < second_key.generation,
        "{first_key:?}, {second_key:?}"
    );
    for address in bed.server.addresses() {
        let seen = fence(&second.netns, address, &tap)?;
        let strangers = seen
            .iter()
            .filter(|packet| packet.payload.ends_with(b"of the stranger"))
            .count();
        ensure!(strangers == 0, "{strangers} packets of the successor arrived");
    }
    agent.cli(&["endpoint", "delete", "--pod", "app/reused-2"])?;
    bed.lab.run(&["pod", "del", "app/reused-2", "--no-agent"])?;

    // And the other way round: who may is not kept out.
    let third = bed.lab.add_pod_with("app/reused-3", "role=friend", &addresses)?;
    let tap = bed.server.tap()?;
    third
        .injector()?
        .send_all(&flow(&third, UDP_PORT, b"of a friend again"))?;
    let seen = fence(&third.netns, bed.server.ip6.into(), &tap)?;
    ensure!(seen.len() == 2, "the new friend's flow does not pass: {seen:?}");
    bed.lab.run(&["pod", "del", "app/reused-3"])?;
    agent.expect_balanced_frames()
}

/// Tells the agent of a pod, as a CNI plugin does.
fn register(lab: &Lab, pod: &Pod) -> Result<()> {
    let mac = pod.mac.map(|byte| format!("{byte:02x}")).join(":");
    let netns = format!("/run/netns/{}", pod.netns_name);
    let (ip4, ip6) = (pod.ip4.to_string(), pod.ip6.to_string());
    let words = [
        "endpoint",
        "add",
        "--pod",
        &pod.name,
        "--interface",
        &pod.veth,
        "--mac",
        &mac,
        "--netns",
        &netns,
        "--ipv4",
        &ip4,
        "--ipv6",
        &ip6,
    ];
    lab.agent().cli(&words).map(drop)
}

/// As many pods as a kubelet runs by default.
const MANY: u8 = 110;

/// At once; the agent refuses what it cannot queue.
const PARALLEL: usize = 8;

fn in_parallel<T: Sync>(items: &[T], work: impl Fn(&T) -> Result<()> + Sync) -> Result<()> {
    let share = items.len().div_ceil(PARALLEL);
    thread::scope(|scope| {
        let work = &work;
        let threads: Vec<_> = items
            .chunks(share)
            .map(|chunk| scope.spawn(move || chunk.iter().try_for_each(work)))
            .collect();
        let outcomes: Vec<Result<()>> = threads
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|_| anyhow::bail!("panicked")))
            .collect();
        outcomes.into_iter().collect()
    })
}

fn one_hundred_and_ten_endpoints_come_talk_and_go(bed: &mut Lifecycle) -> Result<()> {
    bed.guarded()?;
    bed.lab.enforce(&[])?;
    let agent = bed.lab.agent();
    let others = agent.status()?.endpoints.len();
    let mut pods = Vec::new();
    for n in 0..MANY - u8::try_from(others)? {
        pods.push(
            bed.lab
                .add_pod_with(&format!("many/pod-{n}"), "app=many", &["--no-agent"])?,
        );
    }
    in_parallel(&pods, |pod| register(&bed.lab, pod))?;
    wait::until("all endpoints are ready", wait::LONG, || {
        let status = agent.status()?;
        let ready = status
            .endpoints
            .iter()
            .filter(|endpoint| endpoint.is_ready)
            .count();
        Ok((status.is_ready && ready == usize::from(MANY)).then_some(()))
    })?;
    // Round the circle, in both families; and to the node and the outside.
    let neighbours: Vec<(&Pod, &Pod)> = pods.iter().zip(pods.iter().cycle().skip(1)).collect();
    in_parallel(&neighbours, |(from, to)| {
        for address in to.addresses().into_iter().chain(NODE).chain(OUTSIDE) {
            let output = std::process::Command::new("ip")
                .args([
                    "netns",
                    "exec",
                    &from.netns_name,
                    "ping",
                    "-c",
                    "1",
                    "-W",
                    "10",
                    &address.to_string(),
                ])
                .output()?;
            ensure!(
                output.status.success(),
                "{} to {address}: {}",
                from.name,
                String::from_utf8_lossy(&output.stdout)
            );
        }
        Ok(())
    })?;
    let interfaces = agent
        .status()?
        .endpoints
        .iter()
        .filter(|endpoint| endpoint.mode.as_deref() == Some("native"))
        .count();
    ensure!(
        interfaces == usize::from(MANY),
        "only {interfaces} interfaces have native XDP"
    );
    agent.expect_balanced_frames()?;

    // Half of them as a CNI plugin deletes them, the other half by surprise.
    let (told, surprise) = pods.split_at(pods.len() / 2);
    in_parallel(told, |pod| {
        agent.cli(&["endpoint", "delete", "--pod", &pod.name]).map(drop)
    })?;
    for pod in told.iter().chain(surprise) {
        bed.lab.run(&["pod", "del", &pod.name, "--no-agent"])?;
    }
    wait::until_equal("their endpoints are gone", &others, || {
        Ok(agent.status()?.endpoints.len())
    })?;
    agent.expect_balanced_frames()?;
    let rules = bed.lab.on_node(&["ip", "route", "show", "table", "7302"])?;
    let routes = rules.lines().count();
    ensure!(routes == others, "routes are left: {rules}");
    bed.lab.enforce(&[("server", POLICY)])?;
    bed.is_guarded()
}
