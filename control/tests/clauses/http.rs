//! Section 2.4: how HTTP rules meet other rules; what of a request they compare is section 3.

use super::cluster::{ccnp, check, cnp, on_db, to_db};

const WEB: &str = "fromEndpoints: [{matchLabels: {app: web}}], ";

fn ports(rules: &str) -> String {
    format!("toPorts: [{{ports: [{{port: \"80\", protocol: TCP}}], rules: {{{rules}}}}}]")
}

fn path(path: &str) -> String {
    ports(&format!("http: [{{method: GET, path: {path}}}]"))
}

#[test]
fn a_request_passes_if_one_rule_of_its_peer_and_port_matches() {
    check(
        &[on_db(&format!(
            "ingress: [{{{WEB}{}}}, {{{}}}]",
            path("/a"),
            path("/b")
        ))],
        "shop/web shop/db 80          judged
         shop/web shop/db 80 GET  /a  allow
         shop/web shop/db 80 GET  /b  allow
         shop/web shop/db 80 GET  /c  403
         shop/web shop/db 80 POST /a  403
         shop/api shop/db 80 GET  /a  403
         shop/api shop/db 80 GET  /b  allow
         shop/web shop/db 81          deny
         shop/web shop/db UDP/80      deny",
    );
}

#[test]
fn empty_rules_restrict_nothing_and_an_empty_rule_judges_every_request() {
    for (rules, verdict) in [("", "allow"), ("http: []", "allow"), ("http: [{}]", "judged")] {
        check(
            &[to_db(&format!("{{{}}}", ports(rules)))],
            &format!("shop/web shop/db 80 {verdict}\nshop/web shop/db 80 DELETE /x?y allow"),
        );
    }
}

/// In Cilium the traffic is still proxied; here it is not parsed any more.
#[test]
fn any_plain_allow_that_covers_the_peer_lifts_the_restriction() {
    for plain in [
        format!("{{{WEB}toPorts: [{{ports: [{{port: \"80\", protocol: TCP}}]}}]}}"),
        "{fromEndpoints: [{}]}".to_owned(),
        "{fromEntities: [cluster]}".to_owned(),
        "{toPorts: [{ports: [{port: \"0\"}]}]}".to_owned(),
        "{toPorts: [{ports: [{port: \"80\"}]}]}".to_owned(),
    ] {
        check(
            &[on_db(&format!("ingress: [{{{WEB}{}}}, {plain}]", path("/a")))],
            "shop/web shop/db 80 GET /c allow",
        );
    }
    // One that does not cover the peer or the port lifts nothing.
    for plain in [
        "{fromEntities: [world]}",
        "{toPorts: [{ports: [{port: \"81\"}]}]}",
    ] {
        check(
            &[on_db(&format!("ingress: [{{{WEB}{}}}, {plain}]", path("/a")))],
            "shop/web shop/db 80 GET /c 403",
        );
    }
}

#[test]
fn without_default_deny_http_rules_are_a_plain_allow() {
    let visible = format!(
        "enableDefaultDeny: {{ingress: false}}, ingress: [{{{}}}]",
        path("/a")
    );
    check(&[on_db(&visible)], "shop/web shop/db 80 GET /c allow");
    // Somebody else's default deny makes them restrict.
    let closed = cnp("closed", "{matchLabels: {app: db}}", "ingress: [{}]");
    check(
        &[on_db(&visible), closed],
        "shop/web shop/db 80 GET /c 403
         shop/web shop/db 80 GET /a allow",
    );
}

#[test]
fn rules_of_both_ends_must_allow_a_request() {
    let egress = cnp(
        "out",
        "{matchLabels: {app: web}}",
        &format!("egress: [{{{}}}]", path("/out|/both")),
    );
    let ingress = to_db(&format!("{{{}}}", path("/in|/both")));
    check(
        &[egress, ingress],
        "shop/web shop/db 80 GET /both allow
         shop/web shop/db 80 GET /in   403
         shop/web shop/db 80 GET /out  403
         shop/api shop/db 80 GET /in   allow",
    );
}

#[test]
fn the_local_node_is_not_restricted() {
    check(
        &[to_db(&format!("{{{}}}", path("/a")))],
        "host       shop/db 80 GET /c allow
         172.18.0.4 shop/db 80 GET /c 403",
    );
}

#[test]
fn rules_hold_on_named_ports_ranges_and_clusterwide() {
    let rules = "ingress: [{toPorts: [{ports: [{port: sql, protocol: TCP}, {port: \"100\", endPort: 200, protocol: TCP}], \
                 rules: {http: [{path: /a}]}}]}]";
    for policy in [on_db(rules), ccnp("{matchLabels: {app: db}}", rules)] {
        check(
            &[policy],
            "shop/web shop/db 5432 GET /a allow
             shop/web shop/db 5432 GET /b 403
             shop/web shop/db 150  GET /b 403
             shop/web shop/db 201  GET /a deny",
        );
    }
}
