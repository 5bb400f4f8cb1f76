use proptest::prelude::*;

use super::*;

const HERE: Place<'_> = Place {
    node: "n0",
    zone: "z0",
};

/// `CategorizeEndpoints` and `topologyModeFromHints` of kubernetes 1.36, `pkg/proxy/topology.go`, statement by statement.
fn categorize(
    endpoints: &[SliceEndpoint],
    uses_cluster: bool,
    uses_local: bool,
) -> (Vec<usize>, Vec<usize>, bool) {
    let numbered = || endpoints.iter().enumerate();
    let is_local = |ep: &SliceEndpoint| ep.node.as_deref() == Some(HERE.node);
    let (mut cluster, mut local, mut has_any) = (Vec::new(), Vec::new(), false);
    if endpoints.is_empty() {
        return (cluster, local, has_any);
    }
    if uses_cluster {
        let mode = topology_mode(endpoints);
        for (n, ep) in numbered() {
            let available = match mode {
                "PreferSameNode" => ep.nodes.contains(&HERE.node.to_owned()),
                "PreferSameZone" => ep.zones.contains(&HERE.zone.to_owned()),
                _ => true,
            };
            if ep.ready && available {
                cluster.push(n);
            }
        }
        if cluster.is_empty() {
            cluster = numbered()
                .filter(|(_, ep)| ep.serving && ep.terminating)
                .map(|(n, _)| n)
                .collect();
        }
        if !cluster.is_empty() {
            has_any = true;
        }
    }
    if !uses_local {
        return (cluster, local, has_any);
    }
    let (mut local_ready, mut local_terminating) = (false, false);
    for ep in endpoints {
        if ep.ready {
            has_any = true;
            local_ready |= is_local(ep);
        } else if ep.serving && ep.terminating {
            has_any = true;
            local_terminating |= is_local(ep);
        }
    }
    if local_ready {
        local = numbered()
            .filter(|(_, ep)| is_local(ep) && ep.ready)
            .map(|(n, _)| n)
            .collect();
    } else if local_terminating {
        local = numbered()
            .filter(|(_, ep)| is_local(ep) && ep.serving && ep.terminating)
            .map(|(n, _)| n)
            .collect();
    }
    (cluster, local, has_any)
}

fn topology_mode(endpoints: &[SliceEndpoint]) -> &'static str {
    let (mut has_ready, mut for_node, mut for_zone) = (false, false, false);
    let (mut all_nodes, mut all_zones) = (true, true);
    for ep in endpoints.iter().filter(|ep| ep.ready) {
        has_ready = true;
        if ep.nodes.is_empty() {
            all_nodes = false;
        } else if ep.nodes.contains(&HERE.node.to_owned()) {
            for_node = true;
        }
        if ep.zones.is_empty() {
            all_zones = false;
        } else if ep.zones.contains(&HERE.zone.to_owned()) {
            for_zone = true;
        }
    }
    if has_ready && all_nodes && for_node {
        "PreferSameNode"
    } else if has_ready && all_zones && for_zone {
        "PreferSameZone"
    } else {
        ""
    }
}

fn endpoint() -> impl Strategy<Value = SliceEndpoint> {
    let names = |letter: char, most| {
        proptest::collection::vec((0..3_u8).prop_map(move |n| format!("{letter}{n}")), 0..=most)
    };
    let flags = (
        proptest::bool::weighted(0.6),
        any::<bool>(),
        proptest::bool::weighted(0.4),
    );
    // Hints of every endpoint are the case that matters and is rare by chance.
    let hints = prop_oneof![1 => (names('z', 0), names('n', 0)), 4 => (names('z', 2), names('n', 2))];
    let node = proptest::option::of((0..3_u8).prop_map(|n| format!("n{n}")));
    (flags, hints, node).prop_map(
        |((ready, serving, terminating), (zones, nodes), node)| SliceEndpoint {
            addr: [10, 0, 0, 0].into(),
            ready,
            serving,
            terminating,
            node,
            zones,
            nodes,
        },
    )
}

fn sorted(endpoints: &[SliceEndpoint]) -> (Vec<Backend>, Backends) {
    let backends: Vec<Backend> = (1..)
        .take(endpoints.len())
        .map(|n| Backend {
            addr: [10, 0, 0, n].into(),
            port: 80,
        })
        .collect();
    let known = backends.iter().copied().zip(endpoints).collect();
    let sorted = Backends::of(&known, HERE);
    (backends, sorted)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]
    #[test]
    fn backends_are_those_of_kube_proxy(
        endpoints in proptest::collection::vec(endpoint(), 0..6),
        uses_cluster: bool,
    ) {
        let (backends, sorted) = sorted(&endpoints);
        let named = |numbers: Vec<usize>| numbers.into_iter().map(|n| backends[n]).collect::<Vec<_>>();
        let (cluster, local, has_any) = categorize(&endpoints, uses_cluster, true);
        if uses_cluster {
            prop_assert_eq!(&sorted.cluster, &named(cluster.clone()));
            prop_assert_eq!(categorize(&endpoints, true, false).2, sorted.anywhere);
        }
        prop_assert_eq!(&sorted.local, &named(local));
        prop_assert_eq!(sorted.anywhere, has_any);
        let serving = (0..endpoints.len()).filter(|n| endpoints[*n].serving).collect();
        prop_assert_eq!(&sorted.serving, &named(serving));
    }
}

fn ready(zones: &[&str], nodes: &[&str]) -> SliceEndpoint {
    SliceEndpoint {
        addr: [10, 0, 0, 0].into(),
        ready: true,
        serving: true,
        terminating: false,
        node: None,
        zones: zones.iter().map(|&zone| zone.to_owned()).collect(),
        nodes: nodes.iter().map(|&node| node.to_owned()).collect(),
    }
}

#[test]
fn hints_for_the_node_come_before_those_for_the_zone() {
    let (backends, sorted) = sorted(&[ready(&["z0"], &["n1"]), ready(&["z0"], &["n0"])]);
    assert_eq!(sorted.cluster, &backends[1..]);
}

#[test]
fn one_ready_endpoint_without_hint_makes_all_hints_void() {
    let (backends, sorted) = sorted(&[ready(&["z0"], &[]), ready(&["z1"], &[]), ready(&[], &[])]);
    assert_eq!(sorted.cluster, backends);
}

#[test]
fn every_endpoint_is_local_where_no_node_is_named() {
    let endpoint = SliceEndpoint {
        node: Some("n1".into()),
        ..ready(&[], &[])
    };
    let backend = Backend {
        addr: [10, 0, 0, 1].into(),
        port: 80,
    };
    let anywhere = Place { node: "", zone: "" };
    let sorted = Backends::of(&[(backend, &endpoint)].into(), anywhere);
    assert_eq!((sorted.cluster, sorted.local), (vec![backend], vec![backend]));
}
