//! NetworkPolicy and ClusterNetworkPolicy.

use serde_json::{Value, json};

use super::super::Peer;
use super::super::Verdict::{Allow, Deny, L7Deny};
use super::{cluster, db, knp, peer, tcp};

fn kcnp(tier: &str, priority: u16, name: &str, direction: &str, rules: Value) -> Value {
    json!({"kind": "ClusterNetworkPolicy", "metadata": {"name": name}, "spec": {
        "tier": tier, "priority": priority, direction: rules,
        "subject": {"pods": {"namespaceSelector": {}, "podSelector": {"matchLabels": {"app": "db"}}}}}})
}

#[test]
fn policy_types_of_a_networkpolicy_are_taken_as_written() {
    let verdicts = |spec: Value| {
        let cluster = cluster(json!([knp(spec)]));
        [
            tcp(&cluster, "world", "a/db", 1),
            tcp(&cluster, "a/db", "world", 1),
        ]
    };
    let rules = json!([{"from": [{"podSelector": {}}]}]);
    assert_eq!(verdicts(json!({"podSelector": {}})), [Deny, Allow]);
    assert_eq!(
        verdicts(json!({"podSelector": {}, "policyTypes": ["Egress"], "ingress": rules})),
        [Allow, Deny]
    );
    assert_eq!(
        verdicts(json!({"podSelector": {}, "egress": [{"to": [{"podSelector": {}}]}]})),
        [Deny, Deny]
    );
    assert_eq!(
        verdicts(json!({"podSelector": {}, "policyTypes": ["Ingress"], "egress": [{}]})),
        [Deny, Allow]
    );
}

#[test]
fn an_ip_block_covers_pods_and_nodes() {
    let block = |cidr: &str, except: Value| {
        let spec = json!({"podSelector": {}, "policyTypes": ["Egress"], "egress": [{"to": [{"ipBlock": {"cidr": cidr, "except": except}}]}]});
        let cluster = cluster(json!([knp(spec)]));
        ["b/web", "172.18.0.3", "host", "world"].map(|to| tcp(&cluster, "a/db", to, 1))
    };
    assert_eq!(block("0.0.0.0/0", json!(null)), [Allow, Allow, Allow, Allow]);
    assert_eq!(
        block("0.0.0.0/0", json!(["10.0.0.0/8", "172.18.0.2/32"])),
        [Deny, Allow, Deny, Allow]
    );
    assert_eq!(block("10.244.0.3/32", json!([])), [Allow, Deny, Deny, Deny]);
    assert_eq!(block("::/0", json!([])), [Deny, Deny, Deny, Deny]);
}

#[test]
fn networkpolicy_peers_are_pods_by_namespace_and_label() {
    let verdicts = |peer: Value| {
        let cluster = cluster(json!([knp(
            json!({"podSelector": {}, "ingress": [{"from": [peer]}]})
        )]));
        ["a/web", "b/web", "b/far", "b/hostfar", "world"].map(|from| tcp(&cluster, from, "a/db", 1))
    };
    assert_eq!(
        verdicts(json!({"podSelector": {}})),
        [Allow, Deny, Deny, Deny, Deny]
    );
    assert_eq!(
        verdicts(json!({"namespaceSelector": {}})),
        [Allow, Allow, Allow, Deny, Deny]
    );
    let both = json!({"namespaceSelector": {"matchLabels": {"team": "blue"}}, "podSelector": {"matchLabels": {"app": "web"}}});
    assert_eq!(verdicts(both), [Deny, Allow, Deny, Deny, Deny]);
}

#[test]
fn networkpolicy_ports_default_to_tcp() {
    let verdict = |entry: Value, protocol: &str, port| {
        let cluster = cluster(json!([knp(
            json!({"podSelector": {}, "ingress": [{"ports": [entry]}]})
        )]));
        cluster.decide(&Peer::World, &peer("a/db"), protocol, port, None)
    };
    assert_eq!(verdict(json!({"port": 5}), "TCP", 5), Allow);
    assert_eq!(verdict(json!({"port": 5}), "UDP", 5), Deny);
    assert_eq!(verdict(json!({"protocol": "UDP"}), "UDP", 7), Allow);
    assert_eq!(verdict(json!({}), "TCP", 7), Allow);
    assert_eq!(verdict(json!({}), "ICMP", 8), Deny);
    assert_eq!(verdict(json!({"port": 5, "endPort": 7}), "TCP", 7), Allow);
    assert_eq!(verdict(json!({"port": "http"}), "TCP", 5432), Allow);
    assert_eq!(
        verdict(json!({"port": "http", "protocol": "UDP"}), "UDP", 5432),
        Deny
    );
}

#[test]
fn admin_tier_accept_and_deny_are_final_and_pass_leads_to_the_next_tier() {
    let verdict = |action: &str| {
        let rules = json!([{"action": action, "from": [{"namespaces": {"matchLabels": {"team": "red"}}}]}, {"action": "Deny", "from": [{"namespaces": {}}]}]);
        let admin = kcnp("Admin", 5, "k", "ingress", rules);
        let deny = db(json!({"ingressDeny": [{"fromEntities": ["all"]}]}));
        let http = db(
            json!({"ingress": [{"toPorts": [{"ports": [{"port": "5432", "protocol": "TCP"}], "rules": {"http": [{"path": "/x"}]}}]}]}),
        );
        [deny, http].map(|below| tcp(&cluster(json!([admin, below])), "a/web", "a/db", 5432))
    };
    assert_eq!(verdict("Accept"), [Allow, Allow]);
    assert_eq!(verdict("Deny"), [Deny, Deny]);
    assert_eq!(verdict("Pass"), [Deny, L7Deny]);
}

#[test]
fn within_a_tier_the_lowest_number_then_the_name_then_the_first_rule_decides() {
    let rule = |action: &str| json!([{"action": action, "from": [{"namespaces": {}}]}]);
    let verdict = |policies: Value| tcp(&cluster(policies), "a/web", "a/db", 1);
    let accept = |priority, name| kcnp("Admin", priority, name, "ingress", rule("Accept"));
    let deny = |priority, name| kcnp("Admin", priority, name, "ingress", rule("Deny"));
    assert_eq!(verdict(json!([deny(10, "a"), accept(9, "b")])), Allow);
    assert_eq!(verdict(json!([deny(9, "b"), accept(10, "a")])), Deny);
    assert_eq!(verdict(json!([deny(9, "b"), accept(9, "a")])), Allow);
}

#[test]
fn baseline_is_reached_only_where_nothing_above_decides() {
    let rules = json!([{"action": "Deny", "to": [{"networks": ["0.0.0.0/0"]}]}]);
    let baseline = kcnp("Baseline", 0, "base", "egress", rules);
    let alone = cluster(json!([baseline]));
    assert_eq!(
        ["a/web", "world", "host"].map(|to| tcp(&alone, "a/db", to, 80)),
        [Deny, Deny, Deny]
    );
    let allowed = cluster(json!([baseline, db(json!({"egress": [{"toEndpoints": [{}]}]}))]));
    assert_eq!(
        ["a/web", "world"].map(|to| tcp(&allowed, "a/db", to, 80)),
        [Allow, Deny]
    );
    let spec = json!({"enableDefaultDeny": {"egress": false}, "egress": [{"toEndpoints": [{}]}]});
    let open = cluster(json!([baseline, db(spec)]));
    assert_eq!(
        ["a/web", "world"].map(|to| tcp(&open, "a/db", to, 80)),
        [Allow, Deny]
    );
}

#[test]
fn cluster_network_policy_peers_are_pods_all_nodes_and_any_address() {
    let denied = |peer: Value| {
        let policy = kcnp(
            "Admin",
            0,
            "k",
            "egress",
            json!([{"action": "Deny", "to": [peer]}]),
        );
        let cluster = cluster(json!([policy]));
        ["b/web", "host", "172.18.0.3", "world"].map(|to| tcp(&cluster, "a/db", to, 80) == Deny)
    };
    assert_eq!(
        denied(json!({"namespaces": {"matchLabels": {"team": "blue"}}})),
        [true, false, false, false]
    );
    assert_eq!(denied(json!({"nodes": {}})), [false, true, true, false]);
    assert_eq!(
        denied(json!({"nodes": {"matchLabels": {"zone": "z1"}}})),
        [false, true, false, false]
    );
    assert_eq!(
        denied(json!({"networks": ["10.0.0.0/8", "172.18.0.3/32"]})),
        [true, false, true, false]
    );
    assert_eq!(
        denied(json!({"domainNames": ["x.io"]})),
        [false, false, false, false]
    );
}

#[test]
fn cluster_network_policy_protocols_have_numbers_ranges_and_names() {
    let denied = |entry: Value, protocol: &str, port| {
        let rules = json!([{"action": "Deny", "from": [{"namespaces": {}}], "protocols": [entry]}]);
        let cluster = cluster(json!([kcnp("Admin", 0, "k", "ingress", rules)]));
        cluster.decide(&peer("a/web"), &peer("a/db"), protocol, port, None) == Deny
    };
    let number = json!({"tcp": {"destinationPort": {"number": 5}}});
    assert!(denied(number.clone(), "TCP", 5));
    assert!(!denied(number.clone(), "TCP", 6));
    assert!(!denied(number, "UDP", 5));
    let range = json!({"udp": {"destinationPort": {"range": {"start": 5, "end": 7}}}});
    assert!(denied(range.clone(), "UDP", 7));
    assert!(!denied(range, "UDP", 8));
    assert!(denied(json!({"destinationNamedPort": "http"}), "TCP", 5432));
    assert!(!denied(json!({"destinationNamedPort": "http"}), "TCP", 80));
}

#[test]
fn host_network_pods_are_neither_subjects_nor_pod_peers() {
    let cluster = cluster(json!([
        knp(json!({"podSelector": {}, "policyTypes": ["Ingress", "Egress"]})),
        db(json!({"ingress": [{"fromEndpoints": [{"matchLabels": {"io.kubernetes.pod.namespace": "b"}}]}]})),
    ]));
    assert_eq!(tcp(&cluster, "world", "a/hostnet", 1), Allow);
    assert_eq!(tcp(&cluster, "b/web", "a/db", 1), Allow);
    assert_eq!(tcp(&cluster, "b/hostfar", "a/db", 1), Deny);
}
