//! The reconciler against the real kernel, each test in a network namespace of its own.
//!
//! Needs root. Without it the tests pass without a look at the kernel, unless `SLUICE_REQUIRE_ROOT=1` makes that a failure.
#![forbid(unsafe_code)]

use std::collections::BTreeSet;
use std::future::Future;
use std::net::IpAddr;
use std::process::Command;
use std::time::Duration;

use agent::node::desired::{FORWARD_TABLE, HOST_RULE_PRIORITY, HOST_TABLE};
use agent::node::{
    Devices, Difference, FORWARD_PAIR, Family, HOST_PAIR, KEEPER_PAIR, NodeEvent, NodeMonitor, NodeObject,
    NodeState, NodeWarning, Pair, Reconciler, Report,
};
use nix::sched::{CloneFlags, unshare};

/// Runs `body` on a thread in a new network namespace, which vanishes with the thread.
fn in_namespace<F: Future<Output = ()>>(body: impl FnOnce() -> F + Send + 'static) {
    let is_required = std::env::var_os("SLUICE_REQUIRE_ROOT").is_some_and(|v| v == "1");
    let outcome = std::thread::spawn(move || {
        if let Err(error) = unshare(CloneFlags::CLONE_NEWNET) {
            assert!(!is_required, "cannot make a network namespace: {error}");
            return;
        }
        ip("link set lo up");
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(body());
    })
    .join();
    if let Err(panic) = outcome {
        std::panic::resume_unwind(panic);
    }
}

fn ip(arguments: &str) -> String {
    run("ip", arguments)
}

fn nft(arguments: &str) -> String {
    run("nft", arguments)
}

fn run(program: &str, arguments: &str) -> String {
    let output = Command::new(program).args(arguments.split(' ')).output().unwrap();
    assert!(
        output.status.success(),
        "{program} {arguments}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

fn sysctl(path: &str) -> String {
    std::fs::read_to_string(format!("/proc/sys/net/{path}"))
        .unwrap()
        .trim()
        .to_owned()
}

fn state(pods: &[&str]) -> NodeState {
    NodeState {
        pods: pods
            .iter()
            .map(|a| a.parse().unwrap())
            .collect::<BTreeSet<IpAddr>>(),
        ..NodeState::default()
    }
}

fn is_untouched(report: &Report) -> bool {
    report.changed.is_empty() && report.repaired.is_empty()
}

const PODS: &[&str] = &["10.1.0.5", "10.1.0.6", "fd00::5"];

fn has_made(report: &Report, pair: &Pair) -> bool {
    let object = NodeObject::Pair { outer: pair.outer };
    let mut drifts = report.changed.iter().chain(&report.repaired);
    drifts.any(|drift| drift.object == object)
}

/// Everything that `ip` shows of rules, routes, links and neighbours.
fn picture() -> String {
    [
        "-4 rule",
        "-6 rule",
        "-4 route show table all",
        "-6 route show table all",
        "-o link",
        "neigh show nud permanent",
    ]
    .map(ip)
    .concat()
}

#[test]
fn second_pass_changes_nothing() {
    in_namespace(async || {
        let mut reconciler = Reconciler::new().unwrap();
        let first = reconciler.reconcile(&state(PODS)).await.unwrap();
        assert!(first.repaired.is_empty(), "{:?}", first.repaired);
        for pair in [&HOST_PAIR, &FORWARD_PAIR, &KEEPER_PAIR] {
            assert!(has_made(&first, pair));
        }
        let picture_of_first = picture();
        let second = reconciler.reconcile(&state(PODS)).await.unwrap();
        assert!(is_untouched(&second), "{second:?}");
        // An agent that restarts finds everything right as well.
        let restarted = Reconciler::new().unwrap().reconcile(&state(PODS)).await.unwrap();
        assert!(is_untouched(&restarted), "{restarted:?}");
        assert_eq!(picture(), picture_of_first);
    });
}

#[test]
fn kernel_sends_host_and_forwarded_packets_into_their_own_pairs() {
    in_namespace(async || {
        Reconciler::new().unwrap().reconcile(&state(PODS)).await.unwrap();
        ip("link add outside type veth peer name outsidex");
        ip("link set outside up");
        ip("link set outsidex up");
        ip("addr add 192.0.2.1/24 dev outside");
        ip("addr add 2001:db8::1/64 dev outside nodad");
        std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").unwrap();
        std::fs::write("/proc/sys/net/ipv6/conf/all/forwarding", "1").unwrap();
        assert!(ip("route get 10.1.0.5").contains("dev sluice_host"));
        assert!(ip("route get fd00::5").contains("dev sluice_host"));
        assert!(ip("route get 10.1.0.5 from 192.0.2.7 iif outside").contains("dev sluice_fwd"));
        assert!(ip("-6 route get fd00::5 from 2001:db8::7 iif outside").contains("dev sluice_fwd"));
        assert_eq!(sysctl("ipv4/conf/sluice_fwd/rp_filter"), "2");
        assert_eq!(sysctl("ipv6/conf/sluice_fwdx/disable_ipv6"), "1");
        let neighbours = ip("neigh show dev sluice_fwd");
        assert!(
            neighbours.contains("10.1.0.5 lladdr 02:73:6c:00:00:04 PERMANENT"),
            "{neighbours}"
        );
        assert!(
            neighbours.contains("fd00::5 lladdr 02:73:6c:00:00:04 PERMANENT"),
            "{neighbours}"
        );
        assert!(
            !ip("-6 addr show").contains("fe80::73:6cff"),
            "a pair has a link-local address"
        );
    });
}

#[test]
fn drift_is_repaired_and_reported() {
    in_namespace(async || {
        let mut reconciler = Reconciler::new().unwrap();
        reconciler.reconcile(&state(PODS)).await.unwrap();
        let right = picture();
        let pod: IpAddr = "10.1.0.5".parse().unwrap();
        let pod6: IpAddr = "fd00::5".parse().unwrap();
        let sysctl_path = std::path::PathBuf::from("/proc/sys/net/ipv4/conf/sluice_fwd/rp_filter");
        let route = |addr, table| NodeObject::Route { addr, table };
        let rule = |family| NodeObject::Rule {
            family,
            priority: HOST_RULE_PRIORITY,
        };

        let cases: &[(&str, NodeObject, Difference)] = &[
            ("-4 rule del priority 90", rule(Family::Ipv4), Difference::Missing),
            ("-6 rule del priority 90", rule(Family::Ipv6), Difference::Missing),
            (
                "route del 10.1.0.5 table 7301",
                route(pod, HOST_TABLE),
                Difference::Missing,
            ),
            (
                "-6 route del fd00::5 table 7302",
                route(pod6, FORWARD_TABLE),
                Difference::Missing,
            ),
            (
                "route replace 10.1.0.5 dev lo table 7302",
                route(pod, FORWARD_TABLE),
                Difference::Missing,
            ),
            (
                "route add 10.9.0.0/16 dev lo table 7301",
                route("10.9.0.0".parse().unwrap(), HOST_TABLE),
                Difference::Unwanted,
            ),
            (
                "rule add to 10.1.0.5 lookup 7301 priority 50",
                NodeObject::Rule {
                    family: Family::Ipv4,
                    priority: 50,
                },
                Difference::Unwanted,
            ),
            (
                "neigh del 10.1.0.5 dev sluice_host",
                NodeObject::Neighbour {
                    addr: pod,
                    device: "sluice_host",
                },
                Difference::Missing,
            ),
            (
                "neigh replace 10.1.0.5 lladdr 02:00:00:00:00:99 dev sluice_host nud permanent",
                NodeObject::Neighbour {
                    addr: pod,
                    device: "sluice_host",
                },
                Difference::Missing,
            ),
            (
                "link set sluice_fwd address 02:00:00:00:00:99",
                NodeObject::Link { name: "sluice_fwd" },
                Difference::Wrong,
            ),
            (
                "link set sluice_hostx mtu 1300",
                NodeObject::Link { name: "sluice_hostx" },
                Difference::Wrong,
            ),
            (
                "link set sluice_host arp on",
                NodeObject::Link { name: "sluice_host" },
                Difference::Wrong,
            ),
            (
                "link set sluice_fwdx down",
                NodeObject::Link { name: "sluice_fwdx" },
                Difference::Wrong,
            ),
            (
                "link del sluice_fwd",
                NodeObject::Pair { outer: "sluice_fwd" },
                Difference::Missing,
            ),
        ];
        for (command, object, difference) in cases {
            ip(command);
            assert_ne!(picture(), right, "`ip {command}` changed nothing");
            let report = reconciler.reconcile(&state(PODS)).await.unwrap();
            assert!(
                report
                    .repaired
                    .iter()
                    .any(|d| d.object == *object && d.difference == *difference),
                "ip {command}: {report:?}"
            );
            assert!(is_untouched(&reconciler.reconcile(&state(PODS)).await.unwrap()));
            let lines = |text: &str| text.lines().map(str::to_owned).collect::<BTreeSet<_>>();
            if command.starts_with("link del") {
                assert!(has_made(&report, &FORWARD_PAIR) && !has_made(&report, &HOST_PAIR));
            } else {
                assert_eq!(lines(&picture()), lines(&right), "after `ip {command}`");
            }
        }

        std::fs::write(&sysctl_path, "1").unwrap();
        let report = reconciler.reconcile(&state(PODS)).await.unwrap();
        assert_eq!(report.repaired.len(), 1, "{report:?}");
        assert_eq!(
            report.repaired[0].object,
            NodeObject::Sysctl { path: sysctl_path }
        );
        assert_eq!(sysctl("ipv4/conf/sluice_fwd/rp_filter"), "2");
    });
}

#[test]
fn pods_that_come_go_and_a_new_mtu_are_no_drift() {
    in_namespace(async || {
        let mut reconciler = Reconciler::new().unwrap();
        reconciler.reconcile(&state(PODS)).await.unwrap();
        let report = reconciler
            .reconcile(&state(&["10.1.0.5", "fd00::6"]))
            .await
            .unwrap();
        assert!(report.repaired.is_empty(), "{report:?}");
        assert_eq!(ip("route show table 7301").lines().count(), 1);
        assert!(ip("-6 route show table 7302").contains("fd00::6"));
        assert!(!ip("-6 route show table 7302").contains("fd00::5"));
        assert!(!ip("neigh show dev sluice_host").contains("10.1.0.6"));

        let larger = NodeState {
            mtu: 3000,
            ..state(&["10.1.0.5"])
        };
        let report = reconciler.reconcile(&larger).await.unwrap();
        assert!(report.repaired.is_empty(), "{report:?}");
        for name in ["sluice_host", "sluice_fwdx", "sluice_keep"] {
            assert!(ip(&format!("link show {name}")).contains("mtu 3000"));
        }
    });
}

#[test]
fn services_are_led_to_the_worker_for_the_nodes_own_processes_only_and_leave_nothing() {
    in_namespace(async || {
        let mut reconciler = Reconciler::new().unwrap();
        let served = NodeState {
            services: ["10.96.0.1", "fd00:96::1"]
                .map(|addr| addr.parse().unwrap())
                .into(),
            ..state(PODS)
        };
        reconciler.reconcile(&served).await.unwrap();
        assert!(is_untouched(&reconciler.reconcile(&served).await.unwrap()));
        for (family, service, client) in [
            ("-4", "10.96.0.1", "169.254.42.2"),
            ("-6", "fd00:96::1", "fd73:6c75:6963:6500::2"),
        ] {
            let [own, forwarded] =
                ["7301", "7302"].map(|table| ip(&format!("{family} route show table {table}")));
            assert!(own.contains(service) && own.contains(client), "{own}");
            assert!(
                !forwarded.contains(service) && forwarded.contains(client),
                "{forwarded}"
            );
        }
        let rules = nft("list table inet sluice");
        assert!(
            rules.contains("ip saddr 169.254.42.2 oifname != \"sluice_*\" masquerade"),
            "{rules}"
        );
        let report = reconciler.reconcile(&state(PODS)).await.unwrap();
        assert!(report.repaired.is_empty(), "{report:?}");
        assert!(!picture().contains("10.96.0.1") && !picture().contains("169.254.42.2"));
        assert_eq!(nft("list tables"), "");
        reconciler.reconcile(&served).await.unwrap();
        reconciler.remove_all().await.unwrap();
        assert_eq!(nft("list tables"), "");
    });
}

#[test]
fn remove_all_leaves_nothing_and_touches_nothing_else() {
    in_namespace(async || {
        ip("link add cni0 type veth peer name cni0x");
        ip("link set cni0 up");
        ip("link set cni0x up");
        ip("addr add 10.1.0.1/32 dev cni0");
        ip("route add 10.1.0.5/32 dev cni0");
        ip("route add 10.1.0.99/32 dev cni0 table 7300");
        ip("rule add from 10.1.0.5 lookup 7300 priority 300");
        let mut reconciler = Reconciler::new().unwrap();
        // Link-local addresses and their routes appear when duplicate detection is over, at each end in its own time.
        wait_until(|| {
            let addresses = ip("-6 addr show");
            picture().matches("local fe80::").count() == 2 && !addresses.contains("tentative")
        })
        .await;
        let before = picture();
        reconciler.reconcile(&state(PODS)).await.unwrap();
        assert_ne!(picture(), before);
        assert!(reconciler.remove_all().await.unwrap() > 0);
        assert_eq!(picture(), before);
        assert_eq!(reconciler.remove_all().await.unwrap(), 0);
    });
}

#[test]
fn remains_of_a_former_run_are_put_right_and_not_called_drift() {
    in_namespace(async || {
        // Half a pair, a foreign kind of link and a leftover route.
        ip("link add sluice_fwdx type veth peer name other");
        ip("link add sluice_keep type bridge");
        ip("route add 10.1.0.77 dev lo table 7301");
        let mut reconciler = Reconciler::new().unwrap();
        let report = reconciler.reconcile(&state(PODS)).await.unwrap();
        assert!(report.repaired.is_empty(), "{report:?}");
        assert!(is_untouched(&reconciler.reconcile(&state(PODS)).await.unwrap()));
        assert!(!ip("route show table 7301").contains("10.1.0.77"));
        assert!(ip("-d link show sluice_keep").contains("veth"));
    });
}

#[test]
fn foreign_rules_and_a_node_that_does_not_forward_are_reported() {
    in_namespace(async || {
        ip("rule add lookup main priority 10");
        let report = Reconciler::new().unwrap().reconcile(&state(PODS)).await.unwrap();
        assert!(
            report.warnings.contains(&NodeWarning::EarlierRule {
                family: Family::Ipv4,
                priority: 10
            }),
            "{report:?}"
        );
        assert!(
            report
                .warnings
                .contains(&NodeWarning::ForwardingOff { family: Family::Ipv4 }),
            "{report:?}"
        );
        assert!(ip("rule").contains("10:"), "a foreign rule was removed");
    });
}

#[test]
fn kernel_events_tell_of_drift_and_of_vanished_interfaces() {
    in_namespace(async || {
        Reconciler::new().unwrap().reconcile(&state(PODS)).await.unwrap();
        ip("link add pod0 type veth peer name pod0x");
        let mut monitor = NodeMonitor::new().unwrap();
        let mut event = async || {
            tokio::time::timeout(Duration::from_secs(5), monitor.next())
                .await
                .unwrap()
                .unwrap()
        };
        ip("route del 10.1.0.5 table 7302");
        assert_eq!(event().await, NodeEvent::Touched);
        ip("rule del priority 91");
        assert_eq!(event().await, NodeEvent::Touched);
        ip("link del pod0");
        let mut gone = Vec::new();
        while gone.len() < 2 {
            if let NodeEvent::LinkRemoved { name, .. } = event().await {
                gone.push(name);
            }
        }
        gone.sort();
        assert_eq!(gone, ["pod0", "pod0x"]);
    });
}

#[test]
fn addresses_of_the_node_are_those_at_which_its_interfaces_are_reached() {
    in_namespace(async || {
        Reconciler::new().unwrap().reconcile(&state(PODS)).await.unwrap();
        let devices = Devices::new().unwrap();
        let before = devices.node_addresses().await.unwrap();
        assert_eq!(
            before,
            BTreeSet::new(),
            "loopback, links' own and sluice's are none"
        );
        for command in [
            "link add br0 type bridge",
            "address add 10.1.0.1/24 dev br0",
            "address add fd00::1/64 dev br0 nodad",
            "link set br0 up",
            // As `ptp` does: the gateway's address at each pod's interface.
            "link add pod0 type veth peer name pod0x",
            "link add pod1 type veth peer name pod1x",
            "address add 10.2.0.1/32 dev pod0",
            "address add 10.2.0.1/32 dev pod1",
            "link set pod0 up",
            "address add 192.0.2.20 peer 192.0.2.21/32 dev pod1",
            "link add nodelocaldns type bridge",
            "address add 169.254.20.10/32 dev nodelocaldns",
            "address add 192.0.2.7/32 dev lo",
            "address add 192.0.2.99/32 dev sluice_host",
        ] {
            ip(command);
        }
        let expected: BTreeSet<IpAddr> = [
            "10.1.0.1",
            "fd00::1",
            "10.2.0.1",
            "192.0.2.20",
            "169.254.20.10",
            "192.0.2.7",
        ]
        .map(|addr| addr.parse().unwrap())
        .into();
        assert_eq!(devices.node_addresses().await.unwrap(), expected);
        ip("link del pod0");
        ip("address del 192.0.2.7/32 dev lo");
        let left = devices.node_addresses().await.unwrap();
        assert!(
            left.contains(&"10.2.0.1".parse().unwrap()),
            "another interface has it"
        );
        assert!(!left.contains(&"192.0.2.7".parse().unwrap()));
    });
}

#[test]
fn kernel_events_tell_of_addresses_that_come_and_go() {
    in_namespace(async || {
        ip("link add second type bridge");
        ip("address add 192.0.2.1/32 dev second");
        let mut monitor = NodeMonitor::new().unwrap();
        let mut is_told = async || {
            let told = async { while monitor.next().await != Some(NodeEvent::AddressesChanged) {} };
            tokio::time::timeout(Duration::from_secs(5), told).await.unwrap();
        };
        ip("address add 192.0.2.2/32 dev second");
        is_told().await;
        ip("address add 2001:db8::2/128 dev second nodad");
        is_told().await;
        ip("address del 192.0.2.2/32 dev second");
        is_told().await;
        ip("link del second");
        is_told().await;
    });
}

async fn wait_until(mut condition: impl FnMut() -> bool) {
    let deadline = std::time::Instant::now() + Duration::from_secs(10);
    while !condition() {
        assert!(std::time::Instant::now() < deadline, "condition not met in time");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
