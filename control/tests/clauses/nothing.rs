//! Section 2.3: what is absent, empty and `{}`; section 2.1: when a direction is enforced.

use super::cluster::{ccnp, check, cnp, from_db, on_db, to_db};

#[test]
fn an_absent_or_empty_list_says_nothing_of_its_direction() {
    for lists in ["egress: [{}]", "ingress: [], egress: [{}]"] {
        check(
            &[on_db(lists)],
            "shop/web shop/db 5432 allow
             world    shop/db 5432 allow
             shop/db  shop/web 80  deny",
        );
    }
}

#[test]
fn an_empty_item_is_default_deny_and_allows_nobody() {
    check(
        &[to_db("{}")],
        "shop/web shop/db 5432 deny
         world    shop/db 5432 deny
         shop/db  shop/web 80  allow",
    );
}

#[test]
fn ports_alone_are_for_everyone() {
    check(
        &[to_db("{toPorts: [{ports: [{port: \"5432\"}]}]}")],
        "shop/web   shop/db 5432 allow
         pay/web    shop/db 5432 allow
         world      shop/db 5432 allow
         172.18.0.4 shop/db 5432 allow
         10.1.99.9  shop/db 5432 allow
         shop/web   shop/db 5433 deny",
    );
}

#[test]
fn an_empty_list_of_peers_is_nobody_with_ports_and_without() {
    for kind in ["Endpoints", "Entities", "CIDR", "CIDRSet", "Nodes"] {
        for ports in ["", ", toPorts: [{ports: [{port: \"5432\"}]}]"] {
            check(
                &[to_db(&format!("{{from{kind}: []{ports}}}"))],
                "shop/web   shop/db 5432 deny
                 world      shop/db 5432 deny
                 172.18.0.4 shop/db 5432 deny",
            );
        }
    }
}

/// In Cilium both are everybody on these ports, by accident.
#[test]
fn empty_names_and_services_that_are_not_there_are_nobody() {
    let missing = "toServices: [{k8sService: {serviceName: missing, namespace: shop}}]";
    for peers in ["toFQDNs: []", "toServices: []", missing] {
        check(
            &[from_db(&format!(
                "{{{peers}, toPorts: [{{ports: [{{port: \"80\"}}]}}]}}"
            ))],
            "shop/db world    80 deny
             shop/db shop/web 80 deny",
        );
    }
}

#[test]
fn an_empty_selector_is_the_namespace_in_a_cnp_and_every_pod_in_a_ccnp() {
    let item = "ingress: [{fromEndpoints: [{}]}]";
    check(
        &[on_db(item)],
        "shop/web   shop/db 1 allow
         pay/web    shop/db 1 deny
         world      shop/db 1 deny
         172.18.0.4 shop/db 1 deny
         10.1.99.9  shop/db 1 deny",
    );
    check(
        &[ccnp("{matchLabels: {app: db}}", item)],
        "shop/web   shop/db 1 allow
         pay/web    shop/db 1 allow
         world      shop/db 1 deny
         172.18.0.4 shop/db 1 deny
         10.1.99.9  shop/db 1 deny",
    );
}

#[test]
fn entity_all_is_everyone_and_the_widest_prefixes_are_the_outside() {
    check(
        &[to_db("{fromEntities: [all]}")],
        "shop/web   shop/db 1      allow
         10.1.99.9  shop/db ICMP/8 allow
         172.18.0.4 shop/db 1      allow
         world      shop/db 1      allow",
    );
    check(
        &[to_db("{fromCIDR: [0.0.0.0/0, \"::/0\"]}")],
        "203.0.113.9 shop/db 1 allow
         2001:db8::9 shop/db 1 allow
         shop/web    shop/db 1 deny
         172.18.0.4  shop/db 1 deny
         10.1.99.9   shop/db 1 deny",
    );
}

#[test]
fn peers_without_ports_are_every_protocol_icmp_included() {
    check(
        &[to_db("{fromEndpoints: [{}]}")],
        "shop/web shop/db 1          allow
         shop/web shop/db UDP/1      allow
         shop/web shop/db SCTP/1     allow
         shop/web shop/db ICMP/8     allow
         shop/web shop/db ICMPv6/128 allow",
    );
}

#[test]
fn an_empty_deny_item_denies_nothing_but_asks_for_default_deny() {
    check(&[on_db("ingressDeny: [{}]")], "shop/web shop/db 1 deny");
    check(
        &[on_db("ingressDeny: [{}], ingress: [{fromEndpoints: [{}]}]")],
        "shop/web shop/db 1 allow",
    );
}

#[test]
fn default_deny_is_asked_for_by_any_item_unless_the_rule_says_otherwise() {
    let deny_web = "[{fromEndpoints: [{matchLabels: {app: web}}]}]";
    check(
        &[on_db(&format!("ingressDeny: {deny_web}"))],
        "shop/web shop/db 1 deny-rule
         shop/api shop/db 1 deny",
    );
    check(
        &[on_db(&format!(
            "enableDefaultDeny: {{ingress: false}}, ingressDeny: {deny_web}"
        ))],
        "shop/web shop/db 1 deny-rule
         shop/api shop/db 1 allow
         world    shop/db 1 allow",
    );
    check(
        &[on_db(
            "enableDefaultDeny: {egress: false}, egress: [{}], ingress: [{}]",
        )],
        "shop/db  world   1 allow
         shop/web shop/db 1 deny",
    );
    // A direction that the rule says nothing else of.
    check(
        &[on_db(
            "enableDefaultDeny: {ingress: true}, egress: [{toEntities: [all]}]",
        )],
        "shop/web shop/db 1 deny
         shop/db  world   1 allow",
    );
}

#[test]
fn one_rule_that_asks_for_default_deny_is_enough() {
    let open = cnp(
        "open",
        "{matchLabels: {app: db}}",
        "enableDefaultDeny: {ingress: false}, ingress: [{fromEndpoints: [{}]}]",
    );
    check(&[open.as_str()], "world shop/db 1 allow");
    check(
        &[open, to_db("{fromEntities: [host]}")],
        "shop/web shop/db 1 allow
         world    shop/db 1 deny",
    );
}

#[test]
fn both_ends_must_agree_and_the_order_of_policies_does_not_matter() {
    let out = cnp(
        "out",
        "{matchLabels: {app: web}}",
        "egress: [{toEndpoints: [{matchLabels: {app: db}}]}]",
    );
    let into = to_db("{fromEndpoints: [{matchLabels: {app: api}}]}");
    let flows = "shop/web shop/db  1 deny
                 shop/api shop/db  1 allow
                 shop/web shop/api 1 deny";
    check(&[out.clone(), into.clone()], flows);
    check(&[into, out.clone()], flows);
    check(&[out], "shop/web shop/db 1 allow");
}

#[test]
fn spec_and_every_one_of_specs_apply() {
    let policy = "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {name: both, namespace: shop}\n\
                  spec: {endpointSelector: {matchLabels: {app: db}}, ingress: [{fromEndpoints: [{matchLabels: {app: web}}]}]}\n\
                  specs:\n\
                  - {endpointSelector: {matchLabels: {app: db}}, ingress: [{fromEndpoints: [{matchLabels: {app: api}}]}]}\n\
                  - {endpointSelector: {matchLabels: {app: api}}, egress: [{toEntities: [cluster]}]}\n";
    check(
        &[policy],
        "shop/web shop/db 1 allow
         shop/api shop/db 1 allow
         pay/web  shop/db 1 deny
         shop/api world   1 deny",
    );
}

#[test]
fn entries_of_a_list_and_items_are_alternatives() {
    check(
        &[on_db(
            "ingress: [{fromEndpoints: [{matchLabels: {app: web}}, {matchLabels: {app: api}}], toPorts: \
             [{ports: [{port: \"1\"}, {port: \"2\"}]}, {ports: [{port: \"3\"}]}]}, {fromEntities: [world]}]",
        )],
        "shop/web shop/db 1 allow
         shop/api shop/db 2 allow
         shop/web shop/db 3 allow
         shop/web shop/db 4 deny
         world    shop/db 4 allow
         pay/web  shop/db 1 deny",
    );
}
