//! Sections 1.5 and 1.7: ports, protocols, port names and ICMP types.

use super::cluster::{check, cnp, from_db, on_db, to_db};

fn on_ports(ports: &str) -> String {
    to_db(&format!("{{toPorts: [{{ports: [{ports}]}}]}}"))
}

#[test]
fn a_port_without_protocol_is_tcp_udp_and_sctp_and_never_icmp() {
    for protocol in ["", ", protocol: ANY", ", protocol: any"] {
        check(
            &[on_ports(&format!("{{port: \"8\"{protocol}}}"))],
            "shop/web shop/db TCP/8    allow
             shop/web shop/db UDP/8    allow
             shop/web shop/db SCTP/8   allow
             shop/web shop/db ICMP/8   deny
             shop/web shop/db ICMPv6/8 deny
             shop/web shop/db TCP/9    deny",
        );
    }
    check(
        &[on_ports("{port: \"8\", protocol: udp}")],
        "shop/web shop/db UDP/8 allow
         shop/web shop/db TCP/8 deny",
    );
}

#[test]
fn port_zero_is_every_port_of_its_protocol() {
    check(
        &[on_ports("{port: \"0\", protocol: TCP}")],
        "shop/web shop/db TCP/1     allow
         shop/web shop/db TCP/65535 allow
         shop/web shop/db UDP/1     deny
         shop/web shop/db ICMP/8    deny",
    );
}

#[test]
fn a_range_includes_both_ends_and_an_end_before_the_start_is_ignored() {
    check(
        &[on_ports("{port: \"100\", endPort: 110}")],
        "shop/web shop/db 99  deny
         shop/web shop/db 100 allow
         shop/web shop/db 110 allow
         shop/web shop/db 111 deny",
    );
    for end in [0, 50, 100] {
        check(
            &[on_ports(&format!("{{port: \"100\", endPort: {end}}}"))],
            "shop/web shop/db 50  deny
             shop/web shop/db 99  deny
             shop/web shop/db 100 allow
             shop/web shop/db 101 deny",
        );
    }
}

#[test]
fn a_port_item_without_ports_stands_for_nothing_and_no_item_for_every_port() {
    for (ports, expected) in [("[{}]", "deny"), ("[{ports: []}]", "deny"), ("[]", "allow")] {
        check(
            &[to_db(&format!("{{fromEndpoints: [{{}}], toPorts: {ports}}}"))],
            &format!("shop/web shop/db 1 {expected}"),
        );
    }
    // Nothing is denied by it either.
    check(
        &[on_db(
            "ingress: [{fromEntities: [all]}], ingressDeny: [{fromEndpoints: [{}], toPorts: [{}]}]",
        )],
        "shop/web shop/db 1 allow",
    );
}

#[test]
fn a_port_name_on_ingress_is_the_subjects() {
    check(
        &[on_ports("{port: sql, protocol: TCP}")],
        "shop/web shop/db 5432 allow
         shop/web shop/db 8080 deny",
    );
    // The container port's protocol must be the rule's.
    check(
        &[on_ports("{port: SQL}, {port: stats, protocol: TCP}")],
        "shop/web shop/db 5432     allow
         shop/web shop/db UDP/5432 deny
         shop/web shop/db 9000     deny",
    );
    check(
        &[on_ports("{port: stats}")],
        "shop/web shop/db UDP/9000 allow
         shop/web shop/db TCP/9000 deny",
    );
}

#[test]
fn a_port_name_that_the_subject_has_not_has_no_effect() {
    check(
        &[on_ports("{port: http, protocol: TCP}")],
        "shop/web shop/db 8080 deny
         shop/web shop/db 9090 deny",
    );
}

#[test]
fn a_port_name_on_egress_is_each_receivers_own() {
    check(
        &[from_db(
            "{toEndpoints: [{}], toPorts: [{ports: [{port: http, protocol: TCP}]}]}",
        )],
        "shop/db shop/web 8080 allow
         shop/db shop/web 9090 deny
         shop/db shop/api 9090 allow
         shop/db shop/api 8080 deny
         shop/db pay/web  8080 deny
         shop/db world    8080 deny",
    );
}

#[test]
fn ports_of_init_containers_that_end_have_no_names() {
    let policy = "ingress: [{toPorts: [{ports: [{port: once, protocol: TCP}]}]}]";
    check(
        &[cnp("once", "{matchLabels: {app: web}}", policy)],
        "shop/db shop/web 7777 deny",
    );
}

#[test]
fn a_named_port_can_be_denied() {
    check(
        &[on_db(
            "ingress: [{fromEntities: [all]}], ingressDeny: [{toPorts: [{ports: [{port: sql, protocol: TCP}]}]}]",
        )],
        "shop/web shop/db 5432     deny-rule
         shop/web shop/db 5433     allow
         shop/web shop/db UDP/5432 allow",
    );
}

#[test]
fn ports_in_octal_are_what_go_reads_and_hexadecimal_is_a_name() {
    check(
        &[on_ports("{port: \"010\"}, {port: \"0x20\"}")],
        "shop/web shop/db 8  allow
         shop/web shop/db 10 deny
         shop/web shop/db 32 deny",
    );
}

#[test]
fn icmp_types_are_of_their_family_and_have_no_ports() {
    check(
        &[to_db(
            "{fromEndpoints: [{}], icmps: [{fields: [{type: EchoRequest}, {family: IPv6, type: 128}]}]}",
        )],
        "shop/web shop/db ICMP/8     allow
         shop/web shop/db ICMP/128   deny
         shop/web shop/db ICMPv6/128 allow
         shop/web shop/db ICMPv6/8   deny
         shop/web shop/db TCP/8      deny
         pay/web  shop/db ICMP/8     deny",
    );
    check(
        &[from_db("{icmps: [{fields: [{type: 8}]}]}")],
        "shop/db world ICMP/8 allow
         shop/db world 8      deny",
    );
}

#[test]
fn icmp_types_can_be_denied() {
    check(
        &[on_db(
            "ingress: [{fromEntities: [all]}], ingressDeny: [{fromEntities: [all], icmps: [{fields: [{type: 8}]}]}]",
        )],
        "shop/web shop/db ICMP/8  deny-rule
         shop/web shop/db ICMP/13 allow
         shop/web shop/db 8       allow",
    );
}

#[test]
fn dns_rules_for_every_name_are_the_port_without_rules() {
    check(
        &[from_db(
            "{toEndpoints: [{}], toPorts: [{ports: [{port: \"53\"}], rules: {dns: [{matchPattern: \"*\"}]}}]}",
        )],
        "shop/db shop/web UDP/53 allow
         shop/db shop/web TCP/53 allow
         shop/db world    UDP/53 deny",
    );
}
