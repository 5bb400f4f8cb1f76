//! Section 2.2: a denial of any width wins, and allows are united.

use super::cluster::{ccnp, check, cnp, from_db, knp, on_db, to_db};

#[test]
fn a_deny_of_any_width_beats_an_allow_of_any_narrowness() {
    let allow = "ingress: [{fromEndpoints: [{matchLabels: {app: web}}], toPorts: [{ports: [{port: \"5432\", protocol: TCP}]}]}]";
    for deny in [
        "{fromEntities: [all]}",
        "{fromEntities: [cluster]}",
        "{fromEndpoints: [{}]}",
        "{toPorts: [{ports: [{port: \"0\"}]}]}",
        "{toPorts: [{ports: [{port: \"5000\", endPort: 6000, protocol: TCP}]}]}",
        "{fromEndpoints: [{matchExpressions: [{key: app, operator: Exists}]}], toPorts: [{ports: [{port: sql}]}]}",
    ] {
        check(
            &[on_db(&format!("{allow}, ingressDeny: [{deny}]"))],
            "shop/web shop/db 5432 deny-rule",
        );
    }
    check(
        &[on_db(&format!(
            "{allow}, ingressDeny: [{{toPorts: [{{ports: [{{port: \"5433\"}}]}}]}}]"
        ))],
        "shop/web shop/db 5432 allow
         shop/web shop/db 5433 deny-rule",
    );
}

#[test]
fn a_narrow_deny_cuts_its_part_out_of_a_wide_allow() {
    check(
        &[on_db(
            "ingress: [{fromEntities: [all]}], ingressDeny: [{fromEndpoints: [{matchLabels: {app: web}}], toPorts: \
                 [{ports: [{port: \"22\", protocol: TCP}]}]}]",
        )],
        "shop/web shop/db 22     deny-rule
         shop/web shop/db UDP/22 allow
         shop/web shop/db 23     allow
         shop/api shop/db 22     allow",
    );
}

#[test]
fn a_deny_of_one_policy_beats_the_allows_of_every_other_kind() {
    let deny = ccnp(
        "{}",
        "enableDefaultDeny: {ingress: false}, ingressDeny: [{fromEndpoints: [{matchLabels: {app: web}}]}]",
    );
    let allow = to_db("{fromEndpoints: [{}]}");
    check(
        &[deny.clone(), allow],
        "shop/web shop/db  1 deny-rule
         shop/api shop/db  1 allow
         pay/web  shop/api 1 deny-rule",
    );
    check(
        &[deny, knp("ingress: [{from: [{podSelector: {}}]}]")],
        "shop/web shop/db 1 deny-rule
         shop/api shop/db 1 allow",
    );
}

#[test]
fn allows_of_all_kinds_are_united() {
    check(
        &[
            to_db("{fromEndpoints: [{matchLabels: {app: web}}]}"),
            knp("ingress: [{from: [{podSelector: {matchLabels: {app: api}}}]}]"),
            ccnp("{matchLabels: {app: db}}", "ingress: [{fromEntities: [world]}]"),
        ],
        "shop/web shop/db 1 allow
         shop/api shop/db 1 allow
         world    shop/db 1 allow
         pay/web  shop/db 1 deny",
    );
}

#[test]
fn a_deny_beats_http_rules() {
    check(
        &[on_db(
            "ingress: [{toPorts: [{ports: [{port: \"80\", protocol: TCP}], rules: {http: [{}]}}]}], \
             ingressDeny: [{fromEndpoints: [{matchLabels: {app: web}}]}]",
        )],
        "shop/web shop/db 80       deny-rule
         shop/web shop/db 80 GET / deny-rule
         shop/api shop/db 80 GET / allow",
    );
}

#[test]
fn egress_is_denied_likewise() {
    check(
        &[on_db(
            "egress: [{toEntities: [all]}], egressDeny: [{toEntities: [world], toPorts: [{ports: [{port: \"25\"}]}]}]",
        )],
        "shop/db world    25 deny-rule
         shop/db world    26 allow
         shop/db shop/web 25 allow",
    );
}

#[test]
fn a_denied_prefix_beats_the_world_and_every_allowed_prefix() {
    check(
        &[
            from_db("{toEntities: [world]}"),
            cnp(
                "deny",
                "{matchLabels: {app: db}}",
                "egress: [{toCIDR: [192.0.2.128/25]}], egressDeny: [{toCIDRSet: [{cidr: 192.0.2.0/24, except: [192.0.2.7/32]}]}]",
            ),
        ],
        "shop/db 192.0.2.1   443 deny-rule
         shop/db 192.0.2.200 443 deny-rule
         shop/db 192.0.2.7   443 allow
         shop/db 203.0.113.9 443 allow",
    );
}
