//! Pod tuning against the real kernel, in namespaces of the test's own.
//!
//! Needs root. Without it the test passes without a look at the kernel, unless `SLUICE_REQUIRE_ROOT=1` makes that a failure.
#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::process::{Child, Command};

use agent::node::napi;
use agent::node::tuning::{TuningError, TuningStep, tune};
use nix::sched::{CloneFlags, unshare};

/// A process that keeps a network namespace alive.
struct Pod(Child);

impl Drop for Pod {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

fn output(command: &str) -> String {
    let output = Command::new("sh").args(["-c", command]).output().unwrap();
    assert!(
        output.status.success(),
        "{command}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn offloads_queue_and_threaded_napi_are_set_and_failures_are_told() {
    let is_required = std::env::var_os("SLUICE_REQUIRE_ROOT").is_some_and(|v| v == "1");
    if let Err(error) = unshare(CloneFlags::CLONE_NEWNET) {
        assert!(!is_required, "cannot make a network namespace: {error}");
        return;
    }
    let pod = Pod(Command::new("unshare")
        .args(["--net", "sleep", "600"])
        .spawn()
        .unwrap());
    let netns = PathBuf::from(format!("/proc/{}/ns/net", pod.0.id()));
    let own = std::fs::read_link("/proc/thread-self/ns/net").unwrap();
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
    while std::fs::read_link(&netns).unwrap() == own {
        assert!(
            std::time::Instant::now() < deadline,
            "the pod's namespace does not appear"
        );
        std::thread::yield_now();
    }
    output(&format!(
        "ip link add veth0 type veth peer name eth0 netns {} && ip link set veth0 up",
        pod.0.id()
    ));
    let enter = format!("nsenter --net={}", netns.display());
    output(&format!("{enter} ip link set eth0 up"));

    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let outcome = runtime.block_on(tune("veth0", Some(&netns), "eth0", true));
    assert_eq!(outcome.len(), 4);
    for (step, result) in outcome {
        assert_eq!(result, Ok(()), "{step}");
    }
    assert!(output("ethtool -k veth0").contains("tcp-segmentation-offload: off"));
    assert!(output("tc qdisc show dev veth0").contains("pfifo"));
    assert!(output(&format!("{enter} ethtool -k eth0")).contains("generic-receive-offload: on"));
    let threaded = format!(
        "{enter} unshare --mount sh -c 'mount -t sysfs sysfs /sys && cat /sys/class/net/eth0/threaded'"
    );
    assert_eq!(output(&threaded).trim(), "1");

    // A veth has NAPI while it has GRO or XDP.
    output("ethtool -K veth0 gro on");
    assert_eq!(runtime.block_on(napi::place("veth0", Some(0))), Ok(()));
    let threads = "grep -l '(napi/veth0-[0-9]*) . 2 ' /proc/[0-9]*/stat 2>/dev/null | cut -d/ -f3";
    let thread = output(threads);
    let thread = thread.trim();
    assert!(thread.parse::<u32>().is_ok(), "one thread: {thread:?}");
    assert!(output(&format!("taskset -cp {thread}")).ends_with(": 0\n"));
    assert!(output(&format!("chrt -p {thread}")).contains("SCHED_BATCH"));
    assert_eq!(runtime.block_on(napi::place("veth0", None)), Ok(()));
    assert_eq!(output(&format!("{threads}; true")), "");
    // Refused before the interface is left to threads that run anywhere.
    assert!(matches!(
        runtime.block_on(napi::place("veth0", Some(1023))),
        Err(TuningError::Placement { .. })
    ));
    assert_eq!(output(&format!("{threads}; true")), "");
    output("ethtool -K veth0 gro off");
    assert!(matches!(
        runtime.block_on(napi::place("veth0", Some(0))),
        Err(TuningError::Failed { tool: "unshare", .. })
    ));

    let outcome = runtime.block_on(tune("veth9", None, "eth0", true));
    assert!(matches!(
        outcome[0],
        (TuningStep::HostSegmentationOff, Err(TuningError::Failed { .. }))
    ));
    assert!(matches!(
        outcome[3],
        (TuningStep::PodThreadedNapi, Err(TuningError::NoNamespace))
    ));
}
