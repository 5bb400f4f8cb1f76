//! Sections 5.1 to 5.3: NetworkPolicy, with the meaning that upstream gives it.

use super::cluster::{check, knp};

#[test]
fn an_empty_item_allows_everyone_and_no_item_nobody() {
    for rules in ["ingress: [{}]", "ingress: [{from: [], ports: []}]"] {
        check(
            &[knp(rules)],
            "shop/web   shop/db 1      allow
             world      shop/db 1      allow
             172.18.0.4 shop/db ICMP/8 allow",
        );
    }
    for rules in ["ingress: []", "policyTypes: [Ingress]"] {
        check(
            &[knp(rules)],
            "shop/web shop/db 1 deny\nworld shop/db 1 deny\nshop/db world 1 allow",
        );
    }
}

#[test]
fn pods_are_selected_by_their_own_and_their_namespaces_labels() {
    for (peer, [web, api, pay, world]) in [
        ("{podSelector: {}}", ["allow", "allow", "deny", "deny"]),
        (
            "{podSelector: {matchLabels: {app: web}}}",
            ["allow", "deny", "deny", "deny"],
        ),
        ("{namespaceSelector: {}}", ["allow", "allow", "allow", "deny"]),
        (
            "{namespaceSelector: {matchLabels: {team: money}}}",
            ["deny", "deny", "allow", "deny"],
        ),
        (
            "{namespaceSelector: {}, podSelector: {matchLabels: {app: web}}}",
            ["allow", "deny", "allow", "deny"],
        ),
        (
            "{namespaceSelector: {matchExpressions: [{key: team, operator: NotIn, values: [web]}]}, podSelector: {}}",
            ["deny", "deny", "allow", "deny"],
        ),
        (
            "{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: pay}}}",
            ["deny", "deny", "allow", "deny"],
        ),
    ] {
        check(
            &[knp(&format!("ingress: [{{from: [{peer}]}}]"))],
            &format!(
                "shop/web   shop/db 1 {web}
                 shop/api   shop/db 1 {api}
                 pay/web    shop/db 1 {pay}
                 world      shop/db 1 {world}
                 10.1.99.9  shop/db 1 deny
                 172.18.0.4 shop/db 1 deny
                 host       shop/db 1 allow"
            ),
        );
    }
}

/// No key is filtered: what keeps a pod's label out of Cilium's identities keeps no label of a Namespace out.
#[test]
fn namespaces_are_selected_by_keys_that_are_no_part_of_a_pods_identity() {
    for key in [
        "failure-domain.beta.kubernetes.io/zone",
        "topology.kubernetes.io/zone",
        "kubernetes.io/arch",
    ] {
        let namespaces = format!(
            "apiVersion: v1\nkind: Namespace\nmetadata: {{name: shop, labels: {{team: web, {key}: a}}}}\n---\n\
             apiVersion: v1\nkind: Namespace\nmetadata: {{name: pay, labels: {{team: money, {key}: b}}}}\n"
        );
        for (requirement, [shop, pay]) in [
            ("{key: KEY, operator: In, values: [b]}", ["deny", "allow"]),
            ("{key: KEY, operator: NotIn, values: [b]}", ["allow", "deny"]),
            ("{key: KEY, operator: Exists}", ["allow", "allow"]),
            ("{key: KEY, operator: DoesNotExist}", ["deny", "deny"]),
        ] {
            let requirement = requirement.replace("KEY", key);
            let policy = knp(&format!(
                "ingress: [{{from: [{{namespaceSelector: {{matchExpressions: [{requirement}]}}}}]}}]"
            ));
            let flows = format!("shop/web shop/db 1 {shop}\npay/web shop/db 1 {pay}");
            check(&[&namespaces, &policy], &flows);
            check(&[&policy, &namespaces], &flows);
        }
        let labels = knp(&format!(
            "ingress: [{{from: [{{namespaceSelector: {{matchLabels: {{{key}: b}}}}}}]}}]"
        ));
        check(
            &[&namespaces, &labels],
            "shop/web shop/db 1 deny\npay/web shop/db 1 allow",
        );
    }
}

#[test]
fn a_block_covers_any_address_pods_and_nodes_included() {
    check(
        &[knp(
            "egress: [{to: [{ipBlock: {cidr: 0.0.0.0/0, except: [10.1.0.4/32, 192.0.2.0/24]}}]}]",
        )],
        "shop/db shop/web    1 allow
         shop/db pay/web     1 allow
         shop/db shop/api    1 deny
         shop/db 172.18.0.3  1 allow
         shop/db host        1 allow
         shop/db 203.0.113.9 1 allow
         shop/db 192.0.2.1   1 deny
         shop/db 192.0.2.4   1 deny
         shop/db 10.1.99.9   1 deny
         shop/db 2001:db8::9 1 deny",
    );
    check(
        &[knp("ingress: [{from: [{ipBlock: {cidr: 10.1.0.3/32}}]}]")],
        "shop/web shop/db 1 allow
         shop/api shop/db 1 deny
         fd00::3  fd00::2 1 deny",
    );
}

/// The local node has one identity for all its addresses.
#[test]
fn a_block_allows_the_local_node_only_if_all_its_addresses_are_in_it() {
    let second = "apiVersion: v1\nkind: Node\nmetadata: {name: node-1}\nstatus: {addresses: [{type: ExternalIP, address: 192.0.2.2}]}\n";
    let policy = knp("egress: [{to: [{ipBlock: {cidr: 172.18.0.0/16}}]}]");
    check(&[policy.as_str()], "shop/db 172.18.0.2 1 allow");
    check(&[policy.as_str(), second], "shop/db 172.18.0.2 1 deny");
    let wide = knp("egress: [{to: [{ipBlock: {cidr: 0.0.0.0/0}}]}]");
    check(&[wide.as_str(), second], "shop/db 172.18.0.2 1 allow");
}

#[test]
fn ports_have_a_protocol_a_range_or_a_name() {
    for (port, allowed, denied) in [
        ("{port: 5432}", "5432", "UDP/5432"),
        ("{protocol: UDP, port: 53}", "UDP/53", "53"),
        ("{protocol: SCTP, port: 9}", "SCTP/9", "9"),
        ("{protocol: UDP}", "UDP/1", "1"),
        ("{}", "1", "UDP/1"),
        ("{port: 100, endPort: 110}", "110", "111"),
        ("{port: sql}", "5432", "5433"),
        ("{port: sql, protocol: TCP}", "5432", "UDP/5432"),
        ("{port: 5432}", "5432", "ICMP/8"),
    ] {
        check(
            &[knp(&format!("ingress: [{{ports: [{port}]}}]"))],
            &format!("world shop/db {allowed} allow\nworld shop/db {denied} deny"),
        );
    }
    check(
        &[knp("egress: [{to: [{podSelector: {}}], ports: [{port: http}]}]")],
        "shop/db shop/web 8080 allow
         shop/db shop/web 9090 deny
         shop/db shop/api 9090 allow",
    );
    check(
        &[knp("ingress: [{from: [{podSelector: {}}]}]")],
        "shop/web shop/db ICMP/8 allow",
    );
}

/// Upstream's meaning: Cilium would apply, and deny by, rules of a direction that policyTypes leaves out.
#[test]
fn policy_types_say_which_directions_are_meant() {
    let rules = "ingress: [{from: [{podSelector: {}}]}], egress: [{to: [{podSelector: {}}]}]";
    for (types, [ingress, egress]) in [
        ("", ["deny", "deny"]),
        (", policyTypes: []", ["deny", "deny"]),
        (", policyTypes: [Ingress]", ["deny", "allow"]),
        (", policyTypes: [Egress]", ["allow", "deny"]),
        (", policyTypes: [Ingress, Egress]", ["deny", "deny"]),
    ] {
        check(
            &[knp(&format!("{rules}{types}"))],
            &format!("world shop/db 1 {ingress}\nshop/db world 1 {egress}"),
        );
    }
    // Without policyTypes ingress always is, egress only if there is a rule.
    check(
        &[knp("ingress: []")],
        "world shop/db 1 deny\nshop/db world 1 allow",
    );
    check(
        &[knp("egress: []")],
        "world shop/db 1 deny\nshop/db world 1 allow",
    );
}

#[test]
fn pods_of_the_hosts_network_are_neither_subjects_nor_selected() {
    let all = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: all, namespace: pay}\n\
               spec: {podSelector: {}, policyTypes: [Ingress, Egress]}\n";
    check(&[all], "world pay/agent 1 allow\nworld pay/web 1 deny");
    check(
        &[knp(
            "ingress: [{from: [{namespaceSelector: {}, podSelector: {matchLabels: {app: web}}}]}]",
        )],
        "pay/web   shop/db 1 allow
         pay/agent shop/db 1 deny",
    );
}
