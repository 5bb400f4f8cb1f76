//! ADD on veth pairs of the real kernel, with an agent that the test plays; each test in network namespaces of its own.
//!
//! Needs root. Without it the tests pass without a look at the kernel, unless `SLUICE_REQUIRE_ROOT=1` makes that a failure.
#![forbid(unsafe_code)]

mod fixture;

use std::io::{Seek, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use fixture::{AgentState, Answer, FakeAgent, PREVIOUS, config, endpoint, plugin};
use nix::sched::{CloneFlags, unshare};
use serde_json::{Value, json};

/// A process in a network namespace of its own, which ends with it.
struct Pod(Child);

impl Pod {
    fn new() -> Self {
        let own = std::fs::read_link("/proc/thread-self/ns/net").unwrap();
        let pod = Self(
            Command::new("unshare")
                .args(["--net", "sleep", "60"])
                .stdin(Stdio::null())
                .spawn()
                .unwrap(),
        );
        let deadline = Instant::now() + Duration::from_secs(5);
        while std::fs::read_link(pod.netns()).unwrap() == own {
            assert!(Instant::now() < deadline, "no namespace was made");
            std::thread::sleep(Duration::from_millis(5));
        }
        pod
    }

    fn netns(&self) -> PathBuf {
        format!("/proc/{}/ns/net", self.0.id()).into()
    }

    /// Runs `ip` inside.
    fn ip(&self, arguments: &str) {
        let netns = format!("--net={}", self.netns().display());
        run("nsenter", &format!("{netns} ip {arguments}"));
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

fn run(program: &str, arguments: &str) {
    let status = Command::new(program).args(arguments.split(' ')).status().unwrap();
    assert!(status.success(), "{program} {arguments}");
}

/// Runs `body` on a thread in a new network namespace, the node's, with a pod beside it.
fn on_a_node(body: impl FnOnce(&Pod) + Send + 'static) {
    let is_required = std::env::var_os("SLUICE_REQUIRE_ROOT").is_some_and(|v| v == "1");
    let outcome = std::thread::spawn(move || {
        if let Err(error) = unshare(CloneFlags::CLONE_NEWNET) {
            assert!(!is_required, "cannot make a network namespace: {error}");
            return;
        }
        body(&Pod::new());
    })
    .join();
    if let Err(panic) = outcome {
        std::panic::resume_unwind(panic);
    }
}

/// Connects the pod as plugins do: `veth-a` here, `eth0` there.
fn connect(pod: &Pod) {
    let netns = pod.netns();
    run(
        "ip",
        &format!(
            "link add veth-a type veth peer name eth0 address 02:00:00:00:00:05 netns {}",
            netns.display()
        ),
    );
}

fn add(agent: &FakeAgent, netns: &Path) -> Answer {
    plugin(
        "ADD",
        netns.to_str().unwrap(),
        &config(&agent.socket()).to_string(),
    )
}

#[test]
fn a_pod_is_added_and_waited_for_and_the_result_passes_on() {
    on_a_node(|pod| {
        // Other interfaces that could be taken for it: a bridge, and a pair that stays on the node.
        run("ip", "link add cni0 type bridge");
        run("ip", "link add veth-x type veth peer name veth-y");
        connect(pod);
        let agent = FakeAgent::start(AgentState {
            lists_until_ready: Some(3),
            ..AgentState::default()
        });
        let answer = add(&agent, &pod.netns());
        assert_eq!(answer.status, 0, "{answer:?}");
        let mut expected: Value = serde_json::from_str(PREVIOUS).unwrap();
        expected["cniVersion"] = "1.0.0".into();
        assert_eq!(answer.output, expected);

        assert_eq!(
            agent.requests(),
            ["endpoint_add", "endpoint_list", "endpoint_list", "endpoint_list"]
        );
        let state = agent.state.lock().unwrap();
        assert_eq!(
            state.requests[0]["arguments"],
            json!({
                "pod": {"namespace": "db", "name": "a"},
                "uid": "u-1",
                "interface": "veth-a",
                "ipv4": "10.0.0.5",
                "mac": "02:00:00:00:00:05",
                "netns": pod.netns(),
                "attachment": {"network": "net", "container_id": "c1"},
            })
        );
    });
}

#[test]
fn a_pod_that_does_not_get_ready_is_taken_back() {
    on_a_node(|pod| {
        connect(pod);
        let agent = FakeAgent::start(AgentState::default());
        let started = Instant::now();
        let answer = add(&agent, &pod.netns());
        let (code, message) = answer.error();
        assert_eq!(code, 11);
        assert_eq!(
            message,
            "db/a is not under policy after 10 s: waits for its Pod object"
        );
        assert!(started.elapsed() < Duration::from_secs(14));
        assert!(agent.pods().is_empty());
        assert_eq!(
            agent.requests().last().map(String::as_str),
            Some("endpoint_delete")
        );
    });
}

#[test]
fn a_pod_of_an_excluded_namespace_keeps_the_network_that_it_has() {
    on_a_node(|pod| {
        connect(pod);
        let agent = FakeAgent::start(AgentState {
            excluded: vec!["db".into()],
            ..AgentState::default()
        });
        let answer = add(&agent, &pod.netns());
        assert_eq!(answer.status, 0, "{answer:?}");
        let mut expected: Value = serde_json::from_str(PREVIOUS).unwrap();
        expected["cniVersion"] = "1.0.0".into();
        assert_eq!(answer.output, expected);
        assert_eq!(agent.requests(), ["endpoint_add"]);
        assert!(agent.pods().is_empty());
    });
}

#[test]
fn an_agent_that_is_away_or_refuses_fails_the_addition() {
    on_a_node(|pod| {
        connect(pod);
        let away = json!(config(Path::new("/nonexistent/sluice.sock"))).to_string();
        let answer = plugin("ADD", pod.netns().to_str().unwrap(), &away);
        assert_eq!(answer.error().0, 11);
        assert!(answer.error().1.contains("/nonexistent/sluice.sock"));

        for (refusal, code) in [("conflict", 11), ("unavailable", 11), ("invalid_argument", 102)] {
            let predecessor = endpoint("a", "net", "c0");
            let agent = FakeAgent::start(AgentState {
                endpoints: vec![predecessor],
                refusal: Some(json!({"code": refusal, "message": "pod: in use"})),
                ..AgentState::default()
            });
            let answer = add(&agent, &pod.netns());
            assert_eq!(answer.error(), (code, "the agent refuses: pod: in use"));
            assert_eq!(agent.pods(), ["a"]);
        }
    });
}

#[test]
fn other_kinds_of_interfaces_are_refused_by_name() {
    on_a_node(|pod| {
        run("ip", "link add below type veth peer name beside");
        let netns = pod.netns();
        run(
            "ip",
            &format!("link add eth0 link below netns {} type macvlan", pod.0.id()),
        );
        let agent = FakeAgent::start(AgentState::default());
        let answer = add(&agent, &netns);
        let (code, message) = answer.error();
        assert_eq!(code, 100);
        assert!(message.starts_with("`eth0` is of kind `macvlan`: "), "{message}");
        assert!(agent.requests().is_empty());
    });
}

#[test]
fn a_veth_that_leads_elsewhere_is_refused() {
    on_a_node(|pod| {
        // The other end is in another pod.
        let other = Pod::new();
        pod.ip(&format!(
            "link add eth0 address 02:00:00:00:00:05 type veth peer name eth0 netns {}",
            other.0.id()
        ));
        let agent = FakeAgent::start(AgentState::default());
        let answer = add(&agent, &pod.netns());
        assert_eq!(
            answer.error(),
            (
                100,
                "`eth0`: its other end is not in the node's network namespace"
            )
        );
        assert!(agent.requests().is_empty());
    });
}

#[test]
fn a_result_that_tells_another_mac_is_refused() {
    on_a_node(|pod| {
        connect(pod);
        pod.ip("link set eth0 address 02:00:00:00:00:06");
        let agent = FakeAgent::start(AgentState::default());
        let answer = add(&agent, &pod.netns());
        assert_eq!(
            answer.error(),
            (
                7,
                "interfaces: `eth0` has MAC 02:00:00:00:00:06, and not 02:00:00:00:00:05"
            )
        );
        assert!(agent.requests().is_empty());
    });
}

/// Where Debian and Kubernetes have the plugins that are the base of most networks.
const PLUGIN_DIRS: [&str; 2] = ["/usr/lib/cni", "/opt/cni/bin"];

#[test]
fn pods_of_the_reference_plugins_are_added() {
    for (kind, options) in [
        ("ptp", r#""ipMasq": false"#),
        (
            "bridge",
            r#""bridge": "cni0", "isGateway": true, "hairpinMode": true"#,
        ),
    ] {
        let Some(dir) = PLUGIN_DIRS
            .iter()
            .find(|dir| Path::new(dir).join(kind).exists() && Path::new(dir).join("host-local").exists())
        else {
            eprintln!("{kind} is not installed: not tried");
            continue;
        };
        on_a_node(move |pod| {
            let leases = tempfile::tempdir().unwrap();
            let netns = pod.netns();
            let network = format!(
                r#"{{"cniVersion": "1.0.0", "name": "net", "type": "{kind}", {options}, "ipam": {{
                    "type": "host-local", "dataDir": "{}",
                    "ranges": [[{{"subnet": "10.244.7.0/24"}}], [{{"subnet": "fd00:7::/64"}}]]}}}}"#,
                leases.path().display()
            );
            let before = Command::new(Path::new(dir).join(kind))
                .env("CNI_COMMAND", "ADD")
                .env("CNI_CONTAINERID", "c1")
                .env("CNI_NETNS", &netns)
                .env("CNI_IFNAME", "eth0")
                .env("CNI_PATH", dir)
                .stdin(input(&network))
                .output()
                .unwrap();
            assert!(before.status.success(), "{before:?}");
            let previous: Value = serde_json::from_slice(&before.stdout).unwrap();
            let agent = FakeAgent::start(AgentState {
                lists_until_ready: Some(1),
                ..AgentState::default()
            });
            let mut config = config(&agent.socket());
            config["prevResult"] = previous.clone();
            let answer = plugin("ADD", netns.to_str().unwrap(), &config.to_string());
            assert_eq!((answer.status, &answer.output), (0, &previous));
            let state = agent.state.lock().unwrap();
            let spec = &state.requests[0]["arguments"];
            let named: Vec<_> = previous["interfaces"]
                .as_array()
                .unwrap()
                .iter()
                .filter(|interface| interface["name"] == spec["interface"])
                .collect();
            assert_eq!(named.len(), 1, "{spec} of {previous}");
            assert!(named[0]["name"].as_str().unwrap().starts_with("veth"));
            assert_eq!(
                (&spec["ipv4"], &spec["ipv6"]),
                (&"10.244.7.2".into(), &"fd00:7::2".into())
            );
        });
    }
}

/// `text` as standard input.
fn input(text: &str) -> Stdio {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file.rewind().unwrap();
    file.into()
}
