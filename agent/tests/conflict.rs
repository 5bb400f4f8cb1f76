//! The agent on a node that has what it cannot be beside, in a network namespace of its own.
//!
//! Needs root. Without it the tests pass without a look at the kernel, unless `SLUICE_REQUIRE_ROOT=1` makes that a failure.
#![forbid(unsafe_code)]

use std::path::Path;
use std::process::Command;

use nix::sched::{CloneFlags, unshare};

/// Runs `body` on a thread in a new network namespace, which vanishes with the thread.
fn in_namespace(body: impl FnOnce() + Send + 'static) {
    let is_required = std::env::var_os("SLUICE_REQUIRE_ROOT").is_some_and(|v| v == "1");
    let outcome = std::thread::spawn(move || {
        if let Err(error) = unshare(CloneFlags::CLONE_NEWNET) {
            assert!(!is_required, "cannot make a network namespace: {error}");
            return;
        }
        body();
    })
    .join();
    if let Err(panic) = outcome {
        std::panic::resume_unwind(panic);
    }
}

fn ip(arguments: &str) -> String {
    let output = Command::new("ip").args(arguments.split(' ')).output().unwrap();
    assert!(output.status.success(), "ip {arguments}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// What the agent says before it ends. Its kubeconfig does not exist, so that it ends in any case.
fn agent(dir: &Path, arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_sluice"))
        .arg("--run-dir")
        .arg(dir.join("run"))
        .args(["agent", "--metrics-address", "127.0.0.1:0", "--bpffs"])
        .arg(dir.join("bpffs"))
        .args(arguments)
        .output()
        .unwrap();
    assert!(!output.status.success(), "{output:?}");
    String::from_utf8(output.stderr).unwrap()
}

/// What makes the interface that is the sign, its name, and the reason given.
const CONFLICTS: [(&str, &str, &str); 2] = [
    (
        "link add cilium_host type veth peer name cilium_net",
        "cilium_host",
        "Cilium is on this node (interface cilium_host)",
    ),
    (
        "link add kube-ipvs0 type veth peer name kube-ipvs1",
        "kube-ipvs0",
        "kube-proxy is in mode ipvs on this node (interface kube-ipvs0)",
    ),
];

#[test]
fn agent_refuses_a_node_of_ciliums_or_with_ipvs_and_leaves_it_untouched() {
    in_namespace(|| {
        let dir = tempfile::tempdir().unwrap();
        let conf_dir = dir.path().join("net.d");
        let kubernetes = ["--kubernetes", "--kubeconfig", "/nonexistent/kubeconfig"];
        let cni = [
            "--manifests",
            "/nonexistent/manifests",
            "--cni-conf-dir",
            conf_dir.to_str().unwrap(),
        ];
        for (add, name, reason) in CONFLICTS {
            ip(add);
            let before = (ip("-o link"), ip("rule"));
            for arguments in [&kubernetes[..], &cni] {
                let said = agent(dir.path(), arguments);
                assert!(said.contains(reason), "{arguments:?}: {said}");
                assert_eq!((ip("-o link"), ip("rule")), before, "{arguments:?}");
            }
            ip(&format!("link del {name}"));
        }
        let said = agent(dir.path(), &kubernetes);
        assert!(!said.contains("on this node"), "{said}");
        assert!(
            ip("-o link").contains("sluice_host"),
            "it went no further: {said}"
        );
    });
}
