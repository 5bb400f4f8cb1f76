//! Section 5.4: ClusterNetworkPolicy, its tiers and its order.

use sluice_control::manifest::{self, Document};

use super::cluster::{check, kcnp, on_db, to_db};

const FROM_SHOP: &str = "from: [{namespaces: {matchLabels: {team: web}}}]";
const FROM_PODS: &str = "from: [{namespaces: {}}]";

fn ingress(action: &str, from: &str) -> String {
    format!("ingress: [{{action: {action}, {from}}}]")
}

#[test]
fn what_no_rule_decides_is_not_denied() {
    check(
        &[kcnp("p", "Admin", 0, &ingress("Deny", FROM_SHOP))],
        "shop/web shop/db 1 deny-rule
         pay/web  shop/db 1 allow
         world    shop/db 1 allow
         shop/web pay/web 1 allow",
    );
}

#[test]
fn an_admins_accept_and_deny_are_final() {
    let allow_web = to_db("{fromEndpoints: [{matchLabels: {app: web}}]}");
    let deny_web = on_db("ingressDeny: [{fromEntities: [all]}]");
    check(
        &[
            kcnp("p", "Admin", 0, &ingress("Deny", FROM_SHOP)),
            allow_web.clone(),
        ],
        "shop/web shop/db 1 deny-rule",
    );
    // Even over a denial of the normal tier.
    check(
        &[kcnp("p", "Admin", 0, &ingress("Accept", FROM_SHOP)), deny_web],
        "shop/web shop/db 1 allow
         pay/web  shop/db 1 deny-rule",
    );
    check(
        &[kcnp("p", "Admin", 0, &ingress("Accept", FROM_SHOP)), to_db("{}")],
        "shop/web shop/db 1 allow
         pay/web  shop/db 1 deny",
    );
}

#[test]
fn an_admins_accept_is_not_restricted_by_http_rules_below() {
    let http = to_db("{toPorts: [{ports: [{port: \"80\", protocol: TCP}], rules: {http: [{path: /a}]}}]}");
    check(
        &[kcnp("p", "Admin", 0, &ingress("Accept", FROM_SHOP)), http.clone()],
        "shop/web shop/db 80 GET /b allow
         pay/web  shop/db 80 GET /b 403",
    );
    check(
        &[kcnp("p", "Admin", 0, &ingress("Pass", FROM_SHOP)), http],
        "shop/web shop/db 80 GET /b 403
         shop/web shop/db 80 GET /a allow",
    );
}

#[test]
fn pass_skips_the_rest_of_its_tier() {
    let rules = format!("ingress: [{{action: Pass, {FROM_SHOP}}}, {{action: Deny, {FROM_PODS}}}]");
    let later = kcnp("q", "Admin", 1, &ingress("Deny", FROM_PODS));
    check(
        &[kcnp("p", "Admin", 0, &rules), later],
        "shop/web shop/db 1 allow
         pay/web  shop/db 1 deny-rule",
    );
    // The next tier decides.
    check(
        &[
            kcnp("p", "Admin", 0, &rules),
            to_db("{fromEndpoints: [{matchLabels: {app: web}}]}"),
        ],
        "shop/web shop/db 1 allow
         shop/api shop/db 1 deny",
    );
    check(
        &[
            kcnp("p", "Admin", 0, &rules),
            kcnp("b", "Baseline", 0, &ingress("Deny", FROM_SHOP)),
        ],
        "shop/web shop/db 1 deny-rule",
    );
}

#[test]
fn the_baseline_is_asked_only_where_nothing_above_decides() {
    let baseline = kcnp("b", "Baseline", 0, &ingress("Deny", FROM_PODS));
    check(
        &[baseline.as_str()],
        "shop/web shop/db 1 deny-rule
         world    shop/db 1 allow",
    );
    check(
        &[
            baseline.clone(),
            to_db("{fromEndpoints: [{matchLabels: {app: web}}]}"),
        ],
        "shop/web shop/db 1 allow
         shop/api shop/db 1 deny",
    );
    // Without default deny what the normal tier does not mention goes on to the baseline.
    let open =
        on_db("enableDefaultDeny: {ingress: false}, ingress: [{fromEndpoints: [{matchLabels: {app: web}}]}]");
    check(
        &[baseline, open],
        "shop/web shop/db 1 allow
         shop/api shop/db 1 deny-rule
         world    shop/db 1 allow",
    );
    // A baseline Accept opens nothing that the normal tier denies by default.
    check(
        &[
            kcnp("b", "Baseline", 0, &ingress("Accept", FROM_PODS)),
            to_db("{}"),
        ],
        "shop/web shop/db 1 deny",
    );
}

#[test]
fn the_lowest_priority_then_the_first_rule_decides() {
    let deny = ingress("Deny", FROM_PODS);
    let accept = ingress("Accept", FROM_SHOP);
    check(
        &[kcnp("a", "Admin", 2, &deny), kcnp("b", "Admin", 1, &accept)],
        "shop/web shop/db 1 allow\npay/web shop/db 1 deny-rule",
    );
    check(
        &[kcnp("a", "Admin", 1, &deny), kcnp("b", "Admin", 2, &accept)],
        "shop/web shop/db 1 deny-rule",
    );
    for (first, second, expected) in [("Accept", "Deny", "allow"), ("Deny", "Accept", "deny-rule")] {
        let rules = format!("ingress: [{{action: {first}, {FROM_SHOP}}}, {{action: {second}, {FROM_SHOP}}}]");
        check(
            &[kcnp("a", "Admin", 0, &rules)],
            &format!("shop/web shop/db 1 {expected}"),
        );
    }
    // Of one priority: by name.
    check(
        &[kcnp("b", "Admin", 1, &deny), kcnp("a", "Admin", 1, &accept)],
        "shop/web shop/db 1 allow",
    );
}

fn denied(peer: &str, flows: &str) {
    check(
        &[kcnp(
            "p",
            "Admin",
            0,
            &format!("egress: [{{action: Deny, to: [{peer}]}}]"),
        )],
        flows,
    );
}

#[test]
fn receivers_are_pods_nodes_and_networks() {
    denied(
        "{namespaces: {matchLabels: {team: money}}}",
        "shop/db pay/web   1 deny-rule
         shop/db shop/web  1 allow
         shop/db 10.1.99.9 1 allow",
    );
    denied(
        "{pods: {namespaceSelector: {}, podSelector: {matchLabels: {app: web}}}}",
        "shop/db pay/web  1 deny-rule
         shop/db shop/web 1 deny-rule
         shop/db shop/api 1 allow",
    );
    denied(
        "{nodes: {}}",
        "shop/db host       1 deny-rule
         shop/db 172.18.0.4 1 deny-rule
         shop/db shop/web   1 allow
         shop/db world      1 allow",
    );
    denied(
        "{nodes: {matchLabels: {zone: a}}}",
        "shop/db host       1 deny-rule
         shop/db 172.18.0.3 1 deny-rule
         shop/db 172.18.0.4 1 allow",
    );
}

/// A denial of addresses that pods may have covers those that no pod is known at.
#[test]
fn networks_are_any_address_and_a_denial_covers_unknown_pods_and_the_whole_node() {
    denied(
        "{networks: [10.1.0.0/24, 172.18.0.0/24, 203.0.113.0/24]}",
        "shop/db shop/web    1 deny-rule
         shop/db 10.1.99.9   1 deny-rule
         shop/db host        1 deny-rule
         shop/db 172.18.0.4  1 deny-rule
         shop/db 203.0.113.9 1 deny-rule
         shop/db 192.0.2.4   1 allow
         shop/db 192.0.2.1   1 allow",
    );
    let second = "apiVersion: v1\nkind: Node\nmetadata: {name: node-1}\nstatus: {addresses: [{type: ExternalIP, address: 192.0.2.2}]}\n";
    let policy = |action: &str| {
        let accept = format!("egress: [{{action: {action}, to: [{{networks: [192.0.2.2/32]}}]}}]");
        kcnp("p", "Admin", 0, &accept)
    };
    check(
        &[policy("Deny").as_str(), second],
        "shop/db 172.18.0.2 1 deny-rule",
    );
    check(
        &[policy("Accept").as_str(), &on_db("egress: [{}]"), second],
        "shop/db 172.18.0.2 1 deny",
    );
}

/// Nobody is behind a name until names are learnt from DNS.
#[test]
fn domain_names_accept_nobody_yet() {
    check(
        &[
            kcnp(
                "p",
                "Admin",
                0,
                "egress: [{action: Accept, to: [{domainNames: [example.com]}]}]",
            ),
            on_db("egress: [{}]"),
        ],
        "shop/db world 1 deny",
    );
}

#[test]
fn protocols_limit_a_rule_and_without_them_it_is_every_protocol() {
    for (protocols, denied, allowed) in [
        ("{tcp: {destinationPort: {number: 5}}}", "5", "UDP/5"),
        (
            "{udp: {destinationPort: {range: {start: 5, end: 7}}}}",
            "UDP/7",
            "UDP/8",
        ),
        ("{destinationNamedPort: sql}", "5432", "5433"),
        ("{destinationNamedPort: stats}", "UDP/9000", "9000"),
    ] {
        check(
            &[kcnp(
                "p",
                "Admin",
                0,
                &format!("ingress: [{{action: Deny, {FROM_SHOP}, protocols: [{protocols}]}}]"),
            )],
            &format!("shop/web shop/db {denied} deny-rule\nshop/web shop/db {allowed} allow"),
        );
    }
    check(
        &[kcnp("p", "Admin", 0, &ingress("Deny", FROM_SHOP))],
        "shop/web shop/db ICMP/8 deny-rule",
    );
}

#[test]
fn subjects_are_pods_and_the_local_node_is_let_in_below_the_admin() {
    let host_network = kcnp(
        "p",
        "Admin",
        0,
        "egress: [{action: Deny, to: [{networks: [0.0.0.0/0]}]}]",
    );
    check(
        &[host_network],
        "pay/agent world 1 allow\nshop/db world 1 deny-rule\nshop/db 203.0.113.9 1 deny-rule",
    );
    check(
        &[kcnp("p", "Admin", 0, &ingress("Deny", FROM_PODS))],
        "host shop/db 1 allow",
    );
}

/// The kinds that ClusterNetworkPolicy replaces: ignoring them would open what they close.
#[test]
fn policies_of_the_former_kinds_are_faults() {
    for kind in ["AdminNetworkPolicy", "BaselineAdminNetworkPolicy"] {
        let text =
            format!("apiVersion: policy.networking.k8s.io/v1alpha1\nkind: {kind}\nmetadata: {{name: x}}\n");
        let documents = manifest::parse(&text, "default");
        assert!(
            matches!(documents.as_slice(), [Document::Invalid { .. }]),
            "{documents:?}"
        );
    }
}
