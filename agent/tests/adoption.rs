//! Pods of the runtime's cache, found by their veths in namespaces of the test's own.
//!
//! Needs root. Without it the test passes without a look at the kernel, unless `SLUICE_REQUIRE_ROOT=1` makes that a failure.
#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use agent::cni::adoption::scan;
use agent::endpoint_registry::{Attachment, EndpointSpec};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use nix::sched::{CloneFlags, unshare};
use serde_json::json;

/// A process that keeps a network namespace alive.
struct Pod(Child);

impl Drop for Pod {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

fn ip(arguments: &str) {
    let status = Command::new("ip").args(arguments.split(' ')).status().unwrap();
    assert!(status.success(), "ip {arguments}");
}

#[test]
fn a_cached_pod_is_found_until_its_interface_is_gone() {
    let is_required = std::env::var_os("SLUICE_REQUIRE_ROOT").is_some_and(|v| v == "1");
    if let Err(error) = unshare(CloneFlags::CLONE_NEWNET) {
        assert!(!is_required, "cannot make a network namespace: {error}");
        return;
    }
    let pod = Pod(Command::new("unshare")
        .args(["--net", "sleep", "60"])
        .spawn()
        .unwrap());
    let netns = PathBuf::from(format!("/proc/{}/ns/net", pod.0.id()));
    let own = std::fs::read_link("/proc/thread-self/ns/net").unwrap();
    let deadline = Instant::now() + Duration::from_secs(10);
    while std::fs::read_link(&netns).unwrap() == own {
        assert!(Instant::now() < deadline, "the pod's namespace does not appear");
        std::thread::yield_now();
    }
    ip(&format!(
        "link add veth-a type veth peer name eth0 address 02:00:00:00:00:05 netns {}",
        pod.0.id()
    ));

    let cache = tempfile::tempdir().unwrap();
    let config = r#"{"cniVersion":"0.4.0","name":"net","type":"ptp"}"#;
    let file = json!({
        "kind": "cniCacheV1",
        "containerId": "c1",
        "config": BASE64_STANDARD.encode(config),
        "ifName": "eth0",
        "networkName": "net",
        "netns": netns,
        "cniArgs": [["K8S_POD_NAMESPACE", "db"], ["K8S_POD_NAME", "a"], ["K8S_POD_UID", "u-1"]],
        "capabilityArgs": {"dns": {}, "portMappings": null},
        "result": {
            "cniVersion": "0.4.0",
            "interfaces": [
                {"name": "veth-old-name", "mac": "5e:11:22:33:44:55"},
                {"name": "eth0", "mac": "02:00:00:00:00:05", "sandbox": netns},
            ],
            "ips": [
                {"version": "4", "interface": 1, "address": "10.0.0.5/24", "gateway": "10.0.0.1"},
                {"version": "6", "interface": 1, "address": "fd00::5/64", "gateway": "fd00::1"},
            ],
            "dns": {},
        },
    });
    std::fs::write(cache.path().join("net-c1-eth0"), file.to_string()).unwrap();
    std::fs::write(cache.path().join("net-c2-eth0"), "{").unwrap();

    let found = scan(cache.path(), "eth0", |_| false, |_| false);
    assert_eq!(
        found.pods,
        [EndpointSpec {
            pod: "db/a".parse().unwrap(),
            uid: Some("u-1".into()),
            interface: "veth-a".into(),
            ipv4: Some("10.0.0.5".parse().unwrap()),
            ipv6: Some("fd00::5".parse().unwrap()),
            mac: "02:00:00:00:00:05".parse().unwrap(),
            netns: Some(netns),
            attachment: Some(Attachment {
                network: "net".into(),
                container_id: "c1".into(),
            }),
        }]
    );
    assert_eq!(found.problems.len(), 1);
    assert!(
        found.problems[0].contains("net-c2-eth0: "),
        "{:?}",
        found.problems
    );

    ip("link del veth-a");
    let gone = scan(cache.path(), "eth0", |_| false, |_| false);
    assert!(gone.pods.is_empty() && gone.problems.len() == 1);
}
