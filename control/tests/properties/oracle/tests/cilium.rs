//! CiliumNetworkPolicy and CiliumClusterwideNetworkPolicy.

use serde_json::{Value, json};

use super::super::Verdict::{Allow, Deny};
use super::super::{Peer, Verdict};
use super::{cluster, db, knp, peer, tcp, to_db};

/// Verdicts of TCP flows from a/db to port 80 under one CNP.
fn from_db(spec: Value, to: &[(&str, Verdict)]) {
    let cluster = cluster(json!([db(spec.clone())]));
    for (destination, expected) in to {
        let verdict = tcp(&cluster, "a/db", destination, 80);
        assert_eq!(verdict, *expected, "{destination}: {spec}");
    }
}

#[test]
fn without_policy_everything_passes() {
    let cluster = cluster(json!([]));
    for from in ["a/web", "world", "host", "172.18.0.3", "10.244.77.7"] {
        assert_eq!(tcp(&cluster, from, "a/db", 1), Allow);
    }
}

#[test]
fn an_empty_rule_list_says_nothing_about_its_direction() {
    to_db(
        json!({"ingress": [], "egress": [{}]}),
        &[("a/web", Allow), ("world", Allow)],
    );
    from_db(
        json!({"ingress": [], "egress": [{}]}),
        &[("a/web", Deny), ("world", Deny)],
    );
}

#[test]
fn an_empty_item_is_default_deny_in_a_cnp_and_allows_everything_in_a_networkpolicy() {
    to_db(
        json!({"ingress": [{}]}),
        &[("a/web", Deny), ("world", Deny), ("host", Allow)],
    );
    let cluster = cluster(json!([knp(json!({"podSelector": {}, "ingress": [{}]}))]));
    assert_eq!(tcp(&cluster, "world", "a/db", 1), Allow);
    assert_eq!(
        cluster.decide(&Peer::World, &peer("a/db"), "ICMP", 8, None),
        Allow
    );
}

#[test]
fn ports_without_peers_are_open_to_everyone() {
    let spec = json!({"ingress": [{"toPorts": [{"ports": [{"port": "5432"}]}]}]});
    to_db(
        spec,
        &[
            ("a/web", Allow),
            ("world", Allow),
            ("172.18.0.3", Allow),
            ("10.244.77.7", Allow),
        ],
    );
    to_db(
        json!({"ingress": [{"toPorts": [{"ports": [{"port": "1"}]}]}]}),
        &[("a/web", Deny)],
    );
}

#[test]
fn an_empty_peer_list_is_nobody_with_ports_and_without() {
    for kind in [
        "fromEndpoints",
        "fromEntities",
        "fromCIDR",
        "fromCIDRSet",
        "fromNodes",
    ] {
        to_db(
            json!({"ingress": [{kind: []}]}),
            &[("a/web", Deny), ("world", Deny), ("172.18.0.3", Deny)],
        );
        to_db(
            json!({"ingress": [{kind: [], "toPorts": [{"ports": [{"port": "5432"}]}]}]}),
            &[("a/web", Deny), ("world", Deny)],
        );
    }
    for kind in ["toFQDNs", "toServices"] {
        from_db(
            json!({"egress": [{kind: [], "toPorts": [{"ports": [{"port": "80"}]}]}]}),
            &[("world", Deny), ("a/web", Deny)],
        );
    }
}

#[test]
fn a_service_that_is_not_there_and_a_name_that_is_not_resolved_are_nobody() {
    let ports = json!([{"ports": [{"port": "80"}]}]);
    let service = json!([{"k8sService": {"serviceName": "no", "namespace": "a"}}]);
    from_db(
        json!({"egress": [{"toServices": service, "toPorts": ports}]}),
        &[("world", Deny), ("a/web", Deny)],
    );
    from_db(
        json!({"egress": [{"toFQDNs": [{"matchName": "x.io"}], "toPorts": ports}]}),
        &[("world", Deny)],
    );
}

#[test]
fn an_empty_endpoint_selector_is_the_namespace_in_a_cnp_and_all_pods_in_a_ccnp() {
    let item = json!([{"fromEndpoints": [{}]}]);
    to_db(
        json!({"ingress": item}),
        &[
            ("a/web", Allow),
            ("b/web", Deny),
            ("world", Deny),
            ("172.18.0.3", Deny),
        ],
    );
    let policy = json!({"kind": "CiliumClusterwideNetworkPolicy", "metadata": {"name": "c"},
        "spec": {"endpointSelector": {}, "ingress": item}});
    let cluster = cluster(json!([policy]));
    for (from, expected) in [
        ("a/web", Allow),
        ("b/far", Allow),
        ("world", Deny),
        ("b/hostfar", Deny),
    ] {
        assert_eq!(tcp(&cluster, from, "a/db", 1), expected, "{from}");
    }
}

#[test]
fn entity_all_is_everyone_and_the_widest_prefixes_are_the_outside_only() {
    to_db(
        json!({"ingress": [{"fromEntities": ["all"]}]}),
        &[("world", Allow), ("10.244.77.7", Allow)],
    );
    let item = json!([{"fromCIDR": ["0.0.0.0/0", "::/0"]}]);
    to_db(
        json!({"ingress": item}),
        &[
            ("world", Allow),
            ("a/web", Deny),
            ("172.18.0.3", Deny),
            ("10.244.77.7", Deny),
        ],
    );
}

#[test]
fn peers_without_ports_allow_icmp_and_ports_never_do() {
    let flow = |item: Value| {
        let cluster = cluster(json!([db(json!({"ingress": [item]}))]));
        cluster.decide(&peer("a/web"), &peer("a/db"), "ICMP", 8, None)
    };
    assert_eq!(flow(json!({"fromEndpoints": [{}]})), Allow);
    assert_eq!(
        flow(json!({"toPorts": [{"ports": [{"port": "0", "protocol": "ANY"}]}]})),
        Deny
    );
    assert_eq!(flow(json!({"icmps": [{"fields": [{"type": 8}]}]})), Allow);
    assert_eq!(
        flow(json!({"icmps": [{"fields": [{"type": "EchoRequest"}]}]})),
        Allow
    );
    assert_eq!(
        flow(json!({"icmps": [{"fields": [{"type": 8, "family": "IPv6"}]}]})),
        Deny
    );
}

#[test]
fn an_item_of_to_ports_without_ports_contributes_nothing() {
    to_db(
        json!({"ingress": [{"fromEndpoints": [{}], "toPorts": [{}]}]}),
        &[("a/web", Deny)],
    );
    to_db(
        json!({"ingress": [{"fromEndpoints": [{}], "toPorts": []}]}),
        &[("a/web", Allow)],
    );
}

#[test]
fn an_empty_deny_item_denies_nothing_but_asks_for_default_deny() {
    to_db(json!({"ingressDeny": [{}]}), &[("a/web", Deny)]);
    to_db(
        json!({"ingressDeny": [{}], "ingress": [{"fromEndpoints": [{}]}]}),
        &[("a/web", Allow)],
    );
}

#[test]
fn a_deny_from_all_stops_the_local_node_too() {
    to_db(
        json!({"ingressDeny": [{"fromEntities": ["all"]}]}),
        &[("host", Deny)],
    );
    to_db(
        json!({"ingressDeny": [{"fromEntities": ["world"]}]}),
        &[("host", Allow)],
    );
}

#[test]
fn a_pod_reaches_its_node_only_if_a_rule_says_so() {
    from_db(
        json!({"egress": [{"toEndpoints": [{}]}]}),
        &[("host", Deny), ("a/hostnet", Deny)],
    );
    from_db(
        json!({"egress": [{"toEntities": ["host"]}]}),
        &[("host", Allow), ("a/hostnet", Allow), ("172.18.0.3", Deny)],
    );
    from_db(
        json!({"egress": [{"toEntities": ["remote-node"]}]}),
        &[("172.18.0.3", Allow), ("host", Deny)],
    );
}

#[test]
fn a_deny_of_any_width_beats_every_allow() {
    let spec = json!({
        "ingress": [{"fromEndpoints": [{"matchLabels": {"app": "web"}}], "toPorts": [{"ports": [{"port": "5432"}]}]}],
        "ingressDeny": [{"fromEntities": ["cluster"]}]});
    to_db(spec, &[("a/web", Deny)]);
}

#[test]
fn without_default_deny_denies_bite_and_the_rest_passes() {
    let spec = json!({
        "enableDefaultDeny": {"ingress": false},
        "ingress": [{"fromEndpoints": [{}], "toPorts": [{"ports": [{"port": "5432", "protocol": "TCP"}],
            "rules": {"http": [{"path": "/only"}]}}]}],
        "ingressDeny": [{"fromEntities": ["world"]}]});
    to_db(spec, &[("a/web", Allow), ("b/web", Allow), ("world", Deny)]);
}

#[test]
fn one_policy_with_default_deny_is_enough() {
    let open = db(json!({"enableDefaultDeny": {"ingress": false}, "ingress": [{"fromEndpoints": [{}]}]}));
    let mut closed = db(json!({"ingress": [{"fromEntities": ["host"]}]}));
    closed["metadata"]["name"] = json!("q");
    let cluster = cluster(json!([open, closed]));
    assert_eq!(tcp(&cluster, "a/web", "a/db", 1), Allow);
    assert_eq!(tcp(&cluster, "b/web", "a/db", 1), Deny);
}

#[test]
fn both_ends_must_agree() {
    let out = db(json!({"egress": [{"toEndpoints": [{"matchLabels": {"app": "web"}}]}]}));
    let mut into = db(json!({"ingress": [{"fromEntities": ["world"]}]}));
    into["spec"]["endpointSelector"] = json!({"matchLabels": {"app": "web"}});
    into["metadata"]["name"] = json!("q");
    assert_eq!(tcp(&cluster(json!([out])), "a/db", "a/web", 80), Allow);
    assert_eq!(tcp(&cluster(json!([out, into])), "a/db", "a/web", 80), Deny);
    assert_eq!(tcp(&cluster(json!([out, into])), "world", "a/web", 80), Allow);
}

#[test]
fn a_peer_selector_reaches_other_namespaces_only_by_naming_them() {
    let from = |selector: Value, expected: Verdict| {
        to_db(
            json!({"ingress": [{"fromEndpoints": [selector]}]}),
            &[("b/web", expected)],
        );
    };
    from(json!({"matchLabels": {"app": "web"}}), Deny);
    from(
        json!({"matchLabels": {"app": "web", "io.kubernetes.pod.namespace": "b"}}),
        Allow,
    );
    from(
        json!({"matchExpressions": [{"key": "k8s:io.kubernetes.pod.namespace", "operator": "Exists"}]}),
        Allow,
    );
    from(
        json!({"matchLabels": {"k8s:io.cilium.k8s.namespace.labels.team": "blue"}}),
        Allow,
    );
    from(
        json!({"matchLabels": {"io.cilium.k8s.policy.serviceaccount": "sa-web"}}),
        Deny,
    );
    from(
        json!({"matchLabels": {"io.kubernetes.pod.namespace": "b", "io.cilium.k8s.policy.cluster": "x"}}),
        Deny,
    );
}

#[test]
fn a_selector_with_a_reserved_key_is_taken_as_it_is() {
    to_db(
        json!({"ingress": [{"fromEndpoints": [{"matchLabels": {"reserved:world": ""}}]}]}),
        &[("world", Allow), ("a/web", Deny)],
    );
    let not_host = json!({"matchExpressions": [{"key": "reserved:remote-node", "operator": "DoesNotExist"}]});
    to_db(
        json!({"ingress": [{"fromEndpoints": [not_host]}]}),
        &[
            ("world", Allow),
            ("b/web", Allow),
            ("10.244.77.7", Allow),
            ("172.18.0.3", Deny),
        ],
    );
}

#[test]
fn a_cnp_selects_its_own_namespace_whatever_it_says() {
    let mut policy = db(json!({"ingress": [{}]}));
    policy["spec"]["endpointSelector"] =
        json!({"matchLabels": {"app": "web", "io.kubernetes.pod.namespace": "b"}});
    let cluster = cluster(json!([policy]));
    assert_eq!(tcp(&cluster, "world", "a/web", 1), Deny);
    assert_eq!(tcp(&cluster, "world", "b/web", 1), Allow);
}

#[test]
fn labels_that_are_no_part_of_the_identity_match_in_a_networkpolicy_only() {
    let selector = json!({"matchLabels": {"pod-template-hash": "h"}});
    to_db(
        json!({"ingress": [{"fromEndpoints": [selector]}]}),
        &[("a/web", Deny)],
    );
    let cluster = cluster(json!([knp(
        json!({"podSelector": selector, "ingress": [{"from": [{"podSelector": selector}]}]})
    )]));
    assert_eq!(tcp(&cluster, "a/web", "a/db", 1), Allow);
    assert_eq!(tcp(&cluster, "b/web", "a/db", 1), Deny);
}

#[test]
fn an_excepted_part_is_open_to_other_items() {
    let set = json!([{"cidr": "203.0.113.0/24", "except": ["203.0.113.0/25"]}]);
    let from = [("203.0.113.1", Deny), ("203.0.113.200", Allow), ("8.8.8.8", Deny)];
    to_db(json!({"ingress": [{"fromCIDRSet": set}]}), &from);
    to_db(
        json!({"ingress": [{"fromCIDRSet": set}, {"fromCIDR": ["203.0.113.1/32"]}]}),
        &[("203.0.113.1", Allow)],
    );
}

#[test]
fn cidr_groups_are_named_or_selected_by_label_and_one_that_is_missing_is_empty() {
    let group = json!({"kind": "CiliumCIDRGroup", "metadata": {"name": "g", "labels": {"kind": "dns"}},
        "spec": {"externalCIDRs": ["8.8.8.8/32", "10.244.0.0/16"]}});
    let verdicts = |set: Value| {
        let cluster = cluster(json!([group, db(json!({"ingress": [{"fromCIDRSet": [set]}]}))]));
        ["8.8.8.8", "a/web"].map(|from| tcp(&cluster, from, "a/db", 1))
    };
    assert_eq!(verdicts(json!({"cidrGroupRef": "g"})), [Allow, Deny]);
    assert_eq!(
        verdicts(json!({"cidrGroupSelector": {"matchLabels": {"kind": "dns"}}})),
        [Allow, Deny]
    );
    assert_eq!(
        verdicts(json!({"cidrGroupRef": "g", "except": ["8.8.8.0/24"]})),
        [Deny, Deny]
    );
    assert_eq!(verdicts(json!({"cidrGroupRef": "missing"})), [Deny, Deny]);
}

#[test]
fn entity_cluster_has_unknown_pods_but_not_the_world() {
    let from = [
        ("10.244.77.7", Allow),
        ("172.18.0.3", Allow),
        ("b/web", Allow),
        ("world", Deny),
    ];
    to_db(json!({"ingress": [{"fromEntities": ["cluster"]}]}), &from);
    to_db(
        json!({"ingress": [{"fromEntities": ["unmanaged"]}]}),
        &[("10.244.77.7", Allow), ("b/web", Deny)],
    );
    to_db(
        json!({"ingress": [{"fromEntities": ["none"]}]}),
        &[("b/web", Deny)],
    );
}

#[test]
fn the_api_server_is_what_the_kubernetes_service_leads_to() {
    let slice = |addr: &str| {
        json!({"kind": "EndpointSlice",
            "metadata": {"namespace": "default", "name": addr, "labels": {"kubernetes.io/service-name": "kubernetes"}},
            "addressType": "IPv4", "endpoints": [{"addresses": [addr]}]})
    };
    let policy = db(json!({"egress": [{"toEntities": ["kube-apiserver"]}]}));
    let cluster = cluster(json!([slice("172.18.0.3"), slice("198.51.100.7"), policy]));
    for (to, expected) in [
        ("172.18.0.3", Allow),
        ("198.51.100.7", Allow),
        ("host", Deny),
        ("world", Deny),
    ] {
        assert_eq!(tcp(&cluster, "a/db", to, 443), expected, "{to}");
    }
}

#[test]
fn to_services_are_the_services_pods_or_its_outside_endpoints_on_backend_ports() {
    let service = |name: &str, selector: Value| json!({"kind": "Service", "metadata": {"namespace": "b", "name": name, "labels": {"kind": name}}, "spec": {"selector": selector}});
    let slice = json!({"kind": "EndpointSlice", "metadata": {"namespace": "b", "name": "s", "labels": {"kubernetes.io/service-name": "out"}},
        "addressType": "IPv4", "endpoints": [{"addresses": ["198.51.100.7"]}, {"addresses": ["10.244.0.1"]}]});
    let verdicts = |reference: Value| {
        let policy = db(json!({"egress": [{"toServices": [reference]}]}));
        let cluster = cluster(json!([
            service("in", json!({"app": "web"})),
            service("out", Value::Null),
            slice,
            policy
        ]));
        ["b/web", "a/web", "198.51.100.7"].map(|to| tcp(&cluster, "a/db", to, 8080))
    };
    let named =
        |name: &str, namespace: &str| json!({"k8sService": {"serviceName": name, "namespace": namespace}});
    assert_eq!(verdicts(named("in", "b")), [Allow, Deny, Deny]);
    assert_eq!(verdicts(named("in", "")), [Allow, Deny, Deny]);
    assert_eq!(verdicts(named("in", "a")), [Deny, Deny, Deny]);
    assert_eq!(verdicts(named("out", "b")), [Deny, Deny, Allow]);
    let selected = json!({"k8sServiceSelector": {"selector": {"matchLabels": {"kind": "out"}}}});
    assert_eq!(verdicts(selected), [Deny, Deny, Allow]);
}

#[test]
fn to_nodes_are_other_nodes_by_label() {
    for (zone, expected) in [("z2", Allow), ("z1", Deny)] {
        let spec = json!({"egress": [{"toNodes": [{"matchLabels": {"zone": zone}}]}]});
        from_db(
            spec,
            &[("172.18.0.3", expected), ("b/hostfar", expected), ("host", Deny)],
        );
    }
}

#[test]
fn a_named_port_is_the_receiving_pods() {
    let named = json!([{"ports": [{"port": "HTTP", "protocol": "TCP"}]}]);
    to_db(json!({"ingress": [{"toPorts": named}]}), &[("world", Allow)]);
    let cluster = cluster(json!([db(
        json!({"egress": [{"toEntities": ["all"], "toPorts": named}]})
    )]));
    for (to, port, expected) in [
        ("a/web", 80, Allow),
        ("b/web", 80, Deny),
        ("b/web", 8080, Allow),
        ("world", 80, Deny),
    ] {
        assert_eq!(tcp(&cluster, "a/db", to, port), expected, "{to} {port}");
    }
}

#[test]
fn names_of_plain_init_containers_are_no_ports() {
    for (name, port, expected) in [("setup", 7000, Deny), ("side", 7001, Allow)] {
        let cluster = cluster(json!([db(
            json!({"ingress": [{"toPorts": [{"ports": [{"port": name}]}]}]})
        )]));
        assert_eq!(tcp(&cluster, "world", "a/db", port), expected, "{name}");
    }
}

#[test]
fn ports_have_ranges_octals_and_zero_for_all() {
    let verdict = |entry: Value, port| {
        let cluster = cluster(json!([db(
            json!({"ingress": [{"toPorts": [{"ports": [entry]}]}]})
        )]));
        tcp(&cluster, "world", "a/db", port)
    };
    let range = json!({"port": "80", "endPort": 90});
    assert_eq!(
        [79, 80, 90, 91].map(|port| verdict(range.clone(), port)),
        [Deny, Allow, Allow, Deny]
    );
    assert_eq!(verdict(json!({"port": "80", "endPort": 7}), 80), Allow);
    assert_eq!(verdict(json!({"port": "0120"}), 80), Allow);
    assert_eq!(verdict(json!({"port": "0"}), 4711), Allow);
    assert_eq!(verdict(json!({"port": "80", "protocol": "UDP"}), 80), Deny);
    assert_eq!(verdict(json!({"port": "80", "protocol": "tcp"}), 80), Allow);
}

#[test]
fn spec_and_specs_both_apply() {
    let mut policy = db(json!({"ingress": [{"fromEntities": ["world"]}]}));
    policy["specs"] = json!([{"endpointSelector": {}, "ingress": [{"fromEntities": ["remote-node"]}]}]);
    let cluster = cluster(json!([policy]));
    assert_eq!(
        ["world", "172.18.0.3", "a/web"].map(|from| tcp(&cluster, from, "a/db", 1)),
        [Allow, Allow, Deny]
    );
    assert_eq!(
        ["world", "172.18.0.3"].map(|from| tcp(&cluster, from, "a/web", 1)),
        [Deny, Allow]
    );
}

#[test]
fn a_pod_reaches_itself() {
    to_db(
        json!({"ingressDeny": [{"fromEntities": ["all"]}], "egress": [{}]}),
        &[("a/db", Allow)],
    );
}
