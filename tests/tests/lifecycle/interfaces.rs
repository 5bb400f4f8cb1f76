//! Interfaces of pods and of the node that others rename, remove and make anew.

use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::json;
use sluice_e2e::http::{self, Response};
use sluice_e2e::lab::NODE;
use sluice_e2e::{Lab, wait};

use super::{HTTP_PORT, Lifecycle, register};

/// Asks the agent as `sluice-cni` does.
fn ask(lab: &Lab, request: &serde_json::Value) -> Result<String> {
    let mut stream = UnixStream::connect(lab.dir().join("run/sluice.sock"))?;
    writeln!(stream, "{request}")?;
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer)?;
    ensure!(!answer.contains("\"reply\":\"error\""), "{request}: {answer}");
    Ok(answer)
}

pub fn interface_that_the_runtime_detaches_stays_closed_until_it_is_gone(bed: &mut Lifecycle) -> Result<()> {
    bed.guarded()?;
    let target = bed.lab.add_pod("app/target", "app=target")?;
    bed.lab
        .run(&["sluice", "endpoint", "delete", "--pod", "app/target"])?;
    let address = target.ip4.to_string();
    let ping = |seconds| bed.lab.on_node(&["ping", "-c", "1", "-W", seconds, &address]);
    ping("10").context("an interface that is let go is the kernel's")?;
    let pod = json!({"namespace": "app", "name": "target"});
    let attachment = json!({"network": "lab", "container_id": "c1"});
    let mac = target.mac.map(|byte| format!("{byte:02x}")).join(":");
    let spec =
        json!({"pod": pod, "interface": target.veth, "ipv4": address, "mac": mac, "attachment": attachment});
    ask(&bed.lab, &json!({"request": "endpoint_add", "arguments": spec}))?;
    ask(
        &bed.lab,
        &json!({"request": "endpoint_delete", "arguments": {"pod": pod, "attachment": attachment}}),
    )?;
    ensure!(
        ping("1").is_err(),
        "the kernel reached a pod whose interface the runtime has not removed yet"
    );
    let (pins, name) = (bed.lab.dir().join("bpf"), format!("*{}*", target.veth));
    let pins = pins.display().to_string();
    let pinned = || bed.lab.on_node(&["find", &pins, "-name", &name]);
    ensure!(!pinned()?.trim().is_empty(), "it is closed by pins");
    bed.lab.run(&["pod", "del", "app/target", "--no-agent"])?;
    wait::until("its pins are gone", wait::LONG, || {
        Ok(pinned()?.trim().is_empty().then_some(()))
    })
}

/// Pods whose endpoints a starting agent takes up after the one that vanishes: what it does with them is the time to vanish in.
const OTHERS: usize = 16;

/// XDP's program at an interface of the node; a starting agent puts its own in its predecessor's place.
fn xdp_program(lab: &Lab, interface: &str) -> Result<u64> {
    let shown: serde_json::Value =
        serde_json::from_str(&lab.on_node(&["ip", "-j", "link", "show", "dev", interface])?)?;
    let id = shown
        .pointer("/0/xdp/prog/id")
        .and_then(serde_json::Value::as_u64);
    id.with_context(|| format!("no XDP at {interface}: {shown}"))
}

pub fn interface_that_vanishes_while_the_agent_starts_is_swept_and_its_pod_comes_again(
    bed: &mut Lifecycle,
) -> Result<()> {
    const POD: &str = "app/vanishing";
    bed.guarded()?;
    // Endpoints are taken up in the order of their addition.
    let addresses = ["--ip4", "10.244.0.210", "--ip6", "fd00:10:244::d2"];
    let pod = bed.lab.add_pod_with(POD, "role=friend", &addresses)?;
    let mut others = Vec::new();
    for n in 0..OTHERS {
        let name = format!("others/pod-{n}");
        others.push(bed.lab.add_pod_with(&name, "app=other", &["--no-agent"])?);
    }
    for other in &others {
        register(&bed.lab, other)?;
    }
    let agent = bed.lab.agent();
    let known = agent.status()?.endpoints.len();
    let program = xdp_program(&bed.lab, &pod.veth)?;
    bed.lab.run(&["agent", "kill"])?;

    let lab = &bed.lab;
    let socket = lab.dir().join("run/sluice.sock");
    thread::scope(|scope| -> Result<()> {
        let starting = scope.spawn(|| lab.run(&["agent", "start"]));
        wait::until("its endpoint is taken up", wait::LONG, || {
            Ok((xdp_program(lab, &pod.veth)? != program).then_some(()))
        })?;
        lab.on_node(&["ip", "link", "del", &pod.veth])?;
        // As for a plugin: a deletion finds nobody.
        ensure!(
            UnixStream::connect(&socket).is_err(),
            "the agent has started already: nothing has vanished meanwhile"
        );
        starting
            .join()
            .unwrap_or_else(|_panicked| anyhow::bail!("panicked"))
            .map(drop)
    })?;
    wait::until("the endpoint is gone, and the agent ready", wait::LONG, || {
        let status = agent.status()?;
        Ok((status.endpoints.len() == known - 1 && status.is_ready).then_some(()))
    })?;
    ensure!(
        !lab.on_node(&["ip", "route", "show", "table", "7302"])?
            .contains("10.244.0.210")
    );
    bed.lab.run(&["pod", "del", POD, "--no-agent"])?;

    // The next one of that name and those addresses.
    bed.lab.add_pod_with(POD, "role=friend", &addresses)?;
    bed.is_guarded()?;
    bed.lab.run(&["pod", "del", POD])?;
    for other in &others {
        agent.cli(&["endpoint", "delete", "--pod", &other.name])?;
        bed.lab.run(&["pod", "del", &other.name, "--no-agent"])?;
    }
    agent.expect_balanced_frames()
}

/// Names under which something is pinned.
fn pins(lab: &Lab) -> Result<String> {
    let pins = lab.dir().join("bpf").display().to_string();
    lab.on_node(&["find", &pins, "-name", "*-*-*", "-printf", "%f "])
}

fn rename(lab: &Lab, from: &str, to: &str) -> Result<()> {
    lab.on_node(&["ip", "link", "set", "dev", from, "name", to])
        .map(drop)
}

pub fn interfaces_renamed_while_the_agent_is_away_are_still_their_pods(bed: &mut Lifecycle) -> Result<()> {
    bed.guarded()?;
    let (server, friend) = (bed.server.veth.clone(), bed.friend.veth.clone());
    bed.lab.run(&["agent", "kill"])?;
    // One has a new name, and two have changed theirs.
    rename(&bed.lab, &server, "renamed0")?;
    rename(&bed.lab, &friend, "renamed1")?;
    rename(&bed.lab, &bed.stranger.veth, &friend)?;
    rename(&bed.lab, "renamed1", &bed.stranger.veth)?;
    bed.lab.run(&["agent", "start"])?;
    bed.is_guarded()?;
    let endpoints = bed.lab.agent().status()?.endpoints;
    let interface_of = |name: &str| {
        let endpoint = endpoints.iter().find(|e| e.pod.to_string() == name);
        endpoint.map(|endpoint| endpoint.interface.clone())
    };
    ensure!(interface_of(&bed.server.name) == Some("renamed0".to_owned()));
    ensure!(interface_of(&bed.friend.name) == Some(bed.stranger.veth.clone()));
    ensure!(interface_of(&bed.stranger.name) == Some(friend.clone()));
    let pinned = pins(&bed.lab)?;
    ensure!(
        pinned.contains("-renamed0 ") && !pinned.contains(&server),
        "{pinned}"
    );

    // And back, under the running agent.
    rename(&bed.lab, "renamed0", &server)?;
    rename(&bed.lab, &friend, "renamed1")?;
    rename(&bed.lab, &bed.stranger.veth, &friend)?;
    rename(&bed.lab, "renamed1", &bed.stranger.veth)?;
    bed.is_guarded()?;
    bed.lab.run(&["agent", "restart"])?;
    bed.is_guarded()?;
    ensure!(pins(&bed.lab)?.contains(&server));
    Ok(())
}

/// Signals the agent by its process id.
fn signal_agent(lab: &Lab, signal: &str) -> Result<()> {
    let record = std::fs::read_to_string(lab.dir().join("agent.pid"))?;
    let pid = record.split_whitespace().next().context("no pid")?;
    lab.on_node(&["kill", signal, pid]).map(drop)
}

pub fn interface_made_anew_under_its_name_is_under_policy(bed: &mut Lifecycle) -> Result<()> {
    bed.guarded()?;
    let pod = bed.lab.add_pod("app/anew", "app=anew")?;
    let lab = &bed.lab;
    let index = || -> Result<String> {
        let shown = lab.on_node(&["ip", "-o", "link", "show", "dev", &pod.veth])?;
        Ok(shown.split(':').next().unwrap_or_default().to_owned())
    };
    // What the agent hears first, of the removal or of the addition, is chance.
    for _ in 0..4 {
        let former = index()?;
        // It finds both when it goes on.
        signal_agent(lab, "-STOP")?;
        let asked = thread::scope(|scope| -> Result<()> {
            let outcome = (|| {
                lab.on_node(&["ip", "link", "del", &pod.veth])?;
                let netns = &pod.netns_name;
                lab.on_node(&[
                    "ip", "link", "add", &pod.veth, "type", "veth", "peer", "name", "eth0", "netns", netns,
                ])?;
                lab.on_node(&["ip", "link", "set", &pod.veth, "up"]).map(drop)
            })();
            let asking = scope.spawn(|| register(lab, &pod));
            signal_agent(lab, "-CONT")?;
            outcome?;
            asking
                .join()
                .unwrap_or_else(|_panicked| anyhow::bail!("panicked"))
        });
        asked?;
        let now = index()?;
        ensure!(now != former, "it is the same interface");
        let pinned = format!("-{}-{} ", now, pod.veth);
        wait::until("the new interface is closed, and stays", wait::LONG, || {
            Ok(pins(lab)?.contains(&pinned).then_some(()))
        })?;
        lab.agent().status()?;
        ensure!(pins(lab)?.contains(&pinned), "the new interface was let go");
    }
    bed.lab.run(&["pod", "del", "app/anew"]).map(drop)
}

pub fn pairs_removed_again_and_again_are_served(bed: &mut Lifecycle) -> Result<()> {
    bed.guarded()?;
    let server = bed.server.ip4.to_string();
    for _ in 0..5 {
        // The second while the first is made anew.
        for pair in ["sluice_fwd", "sluice_host"] {
            bed.lab.on_node(&["ip", "link", "del", pair])?;
        }
        wait::until("the node reaches its pods", wait::LONG, || {
            let reply = bed.lab.on_node(&["ping", "-c", "1", "-W", "1", &server]);
            Ok(reply.is_ok().then_some(()))
        })?;
        for node in NODE {
            let node = node.to_string();
            wait::until("its pods reach the node", wait::LONG, || {
                let reply = bed
                    .lab
                    .exec(&bed.friend.name, &["ping", "-c", "1", "-W", "1", &node])?;
                Ok(reply.status.success().then_some(()))
            })?;
        }
    }
    // Not by the count of drops: new interfaces say something of their own.
    for address in bed.server.at(HTTP_PORT) {
        ensure!(http::get(&bed.friend.netns, address, "/")? == Response::served("/"));
        let stranger = &bed.stranger.netns;
        let connected = stranger.enter(|| TcpStream::connect_timeout(&address, Duration::from_secs(1)));
        ensure!(connected.is_err_and(|error| error.kind() == ErrorKind::TimedOut));
    }
    Ok(())
}
