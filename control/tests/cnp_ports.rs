//! What `toPorts` and `icmps` of a CiliumNetworkPolicy are read as.

mod document;

use document::{CNP, peers, ports, rule};
use sluice_control::rule::PortSet;

fn to_ports(items: &str) -> Vec<String> {
    ports(&rule(
        CNP,
        "egress",
        &format!("{{toEntities: [world], toPorts: [{items}]}}"),
    ))
}

fn port(entry: &str) -> Vec<String> {
    to_ports(&format!("{{ports: [{entry}]}}"))
}

const NOTHING: [&str; 0] = [];

#[test]
fn a_port_is_a_number_a_range_or_a_name() {
    for (entry, expected) in [
        ("{port: \"80\", protocol: TCP}", "TCP 80"),
        ("{port: \"80\", protocol: udp}", "UDP 80"),
        ("{port: \"80\", protocol: SCTP}", "SCTP 80"),
        ("{port: \"070\", protocol: TCP}", "TCP 56"),
        ("{port: \"1000\", endPort: 2000, protocol: TCP}", "TCP 1000-2000"),
        ("{port: \"1000\", endPort: 10, protocol: TCP}", "TCP 1000"),
        ("{port: \"1000\", endPort: 0, protocol: TCP}", "TCP 1000"),
        ("{port: HTTP-8080, protocol: TCP}", "TCP http-8080"),
        // A name, since it has a letter.
        ("{port: \"0x10\", protocol: TCP}", "TCP 0x10"),
        ("{port: \"0\", protocol: TCP}", "TCP 0-65535"),
    ] {
        assert_eq!(port(entry), [expected], "{entry}");
    }
}

#[test]
fn any_protocol_is_tcp_udp_and_sctp_and_never_icmp() {
    for entry in [
        "{port: \"80\"}",
        "{port: \"80\", protocol: ANY}",
        "{port: \"80\", protocol: \"\"}",
    ] {
        assert_eq!(port(entry), ["TCP 80", "UDP 80", "SCTP 80"], "{entry}");
    }
    assert_eq!(
        port("{port: \"0\"}"),
        ["TCP 0-65535", "UDP 0-65535", "SCTP 0-65535"]
    );
}

#[test]
fn no_item_is_every_port_and_an_item_without_ports_is_none() {
    assert_eq!(to_ports(""), ["every"]);
    assert_eq!(to_ports("{}"), NOTHING);
    assert_eq!(to_ports("{ports: []}"), NOTHING);
    assert_eq!(to_ports("{rules: {http: [{}]}}"), NOTHING);
    assert_eq!(to_ports("{}, {ports: [{port: \"1\", protocol: TCP}]}"), ["TCP 1"]);
    assert_eq!(ports(&rule(CNP, "egress", "{toEntities: [world]}")), ["every"]);
    assert_eq!(
        ports(&rule(CNP, "egress", "{toEntities: [world], icmps: [{}]}")),
        NOTHING
    );
}

#[test]
fn forty_ports_are_allowed() {
    let many = vec!["{port: \"1\", protocol: TCP}"; 40].join(", ");
    assert_eq!(port(&many).len(), 40);
}

#[test]
fn empty_rules_of_layer_seven_restrict_nothing() {
    for rules in ["{}", "{http: []}", "{dns: []}"] {
        assert_eq!(
            to_ports(&format!("{{ports: [{{port: \"80\"}}], rules: {rules}}}")),
            ["TCP 80", "UDP 80", "SCTP 80"]
        );
    }
}

#[test]
fn http_rules_are_those_of_each_port() {
    let rule = rule(
        CNP,
        "ingress",
        "{toPorts: [{ports: [{port: \"80\", protocol: TCP}, {port: \"8000\", endPort: 8080, protocol: tcp}, \
         {port: web, protocol: TCP}], rules: {http: [{method: GET|HEAD, path: \"/public.*\"}, {method: \"\", path: \"/x\", \
         host: \"\", headers: [], headerMatches: []}]}}]}",
    );
    assert_eq!(
        ports(&rule),
        ["TCP 80 http(2)", "TCP 8000-8080 http(2)", "TCP web http(2)"]
    );
    let PortSet::Of(ports) = &rule.ports else {
        panic!("ports")
    };
    let rules = ports[0].http.as_ref().expect("rules").rules();
    assert_eq!(rules[0].method.as_deref(), Some("GET|HEAD"));
    assert_eq!(rules[0].path.as_deref(), Some("/public.*"));
    assert_eq!(
        (rules[1].method.as_deref(), rules[1].path.as_deref()),
        (None, Some("/x")),
        "empty is not given"
    );
}

/// The idiom that shows requests without refusing any.
#[test]
fn an_empty_http_rule_is_a_rule() {
    let item = "{ports: [{port: \"80\", protocol: TCP}], rules: {http: [{}]}}";
    assert_eq!(to_ports(item), ["TCP 80 http(1)"]);
}

#[test]
fn dns_rules_that_cover_every_name_are_the_plain_port() {
    for names in [
        "{matchPattern: \"*\"}",
        "{matchPattern: \"**\"}",
        "{matchPattern: \"*.\"}",
        "{matchName: a.io}, {matchPattern: \"*\"}",
        "{matchName: a.io, matchPattern: \"*\"}",
    ] {
        assert_eq!(
            to_ports(&format!(
                "{{ports: [{{port: \"53\", protocol: ANY}}], rules: {{dns: [{names}]}}}}"
            )),
            ["TCP 53", "UDP 53", "SCTP 53"],
            "{names}"
        );
    }
}

#[test]
fn icmp_types_are_numbers_or_names_of_their_family() {
    let icmp = |fields: &str| {
        let rule = rule(CNP, "ingress", &format!("{{icmps: [{{fields: [{fields}]}}]}}"));
        assert_eq!(peers(&rule), ["anyone"]);
        ports(&rule)
    };
    assert_eq!(
        icmp(
            "{type: 8}, {type: \"8\"}, {family: IPv4, type: EchoRequest}, {family: IPv6, type: EchoRequest}, {type: 0}"
        ),
        ["ICMP 8", "ICMP 8", "ICMP 8", "ICMPv6 128", "ICMP 0"]
    );
    let many = vec!["{type: 8}"; 40].join(", ");
    assert_eq!(icmp(&many).len(), 40);
    for (name, number) in [
        ("EchoReply", 0),
        ("DestinationUnreachable", 3),
        ("Redirect", 5),
        ("Echo", 8),
        ("RouterAdvertisement", 9),
        ("RouterSelection", 10),
        ("TimeExceeded", 11),
        ("ParameterProblem", 12),
        ("Timestamp", 13),
        ("TimestampReply", 14),
        ("Photuris", 40),
        ("ExtendedEchoRequest", 42),
        ("ExtendedEchoReply", 43),
    ] {
        assert_eq!(icmp(&format!("{{type: {name}}}")), [format!("ICMP {number}")]);
    }
    for (name, number) in [
        ("DestinationUnreachable", 1),
        ("PacketTooBig", 2),
        ("TimeExceeded", 3),
        ("ParameterProblem", 4),
        ("EchoReply", 129),
        ("MulticastListenerQuery", 130),
        ("MulticastListenerReport", 131),
        ("MulticastListenerDone", 132),
        ("RouterSolicitation", 133),
        ("RouterAdvertisement", 134),
        ("NeighborSolicitation", 135),
        ("NeighborAdvertisement", 136),
        ("RedirectMessage", 137),
        ("RouterRenumbering", 138),
        ("ICMPNodeInformationQuery", 139),
        ("ICMPNodeInformationResponse", 140),
        ("InverseNeighborDiscoverySolicitation", 141),
        ("InverseNeighborDiscoveryAdvertisement", 142),
        ("HomeAgentAddressDiscoveryRequest", 144),
        ("HomeAgentAddressDiscoveryReply", 145),
        ("MobilePrefixSolicitation", 146),
        ("MobilePrefixAdvertisement", 147),
        ("DuplicateAddressRequestCodeSuffix", 157),
        ("DuplicateAddressConfirmationCodeSuffix", 158),
        ("ExtendedEchoRequest", 160),
        ("ExtendedEchoReply", 161),
    ] {
        assert_eq!(
            icmp(&format!("{{family: IPv6, type: {name}}}")),
            [format!("ICMPv6 {number}")]
        );
    }
}

#[test]
fn deny_rules_have_ports_and_icmp_types() {
    let denied = rule(
        CNP,
        "egressDeny",
        "{toPorts: [{ports: [{port: \"25\", protocol: TCP}]}]}",
    );
    assert_eq!(
        (peers(&denied), ports(&denied)),
        (vec!["anyone".to_owned()], vec!["TCP 25".to_owned()])
    );
    let denied = rule(
        CNP,
        "ingressDeny",
        "{fromEntities: [all], icmps: [{fields: [{type: 8}]}]}",
    );
    assert_eq!(ports(&denied), ["ICMP 8"]);
}
