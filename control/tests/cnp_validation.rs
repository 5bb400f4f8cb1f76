//! Every fault of a CiliumNetworkPolicy is reported at its field with what is wrong, and the object is refused whole.

mod document;

use document::{CCNP, CNP, faults};
use sluice_control::manifest::{self, Document};

/// Faults of `ingress: [item]`, at paths below the item.
fn ingress(item: &str) -> Vec<String> {
    below(CNP, "ingress", item, "spec.ingress[0].")
}

fn egress(item: &str) -> Vec<String> {
    below(CNP, "egress", item, "spec.egress[0].")
}

fn below(kind: &str, list: &str, item: &str, place: &str) -> Vec<String> {
    let faults = faults(
        kind,
        &format!("spec: {{endpointSelector: {{}}, {list}: [{item}]}}"),
    );
    let strip = |fault: String| fault.strip_prefix(place).map(str::to_owned).unwrap_or(fault);
    faults.into_iter().map(strip).collect()
}

/// Faults of a port with rules beside it, at paths below the item of `toPorts`.
fn http(entry: &str) -> Vec<String> {
    to_ports(&format!(
        "ports: [{{port: \"80\", protocol: TCP}}], rules: {{http: [{entry}]}}"
    ))
}

fn to_ports(item: &str) -> Vec<String> {
    below(
        CNP,
        "egress",
        &format!("{{toPorts: [{{{item}}}]}}"),
        "spec.egress[0].toPorts[0].",
    )
}

fn port(entry: &str) -> Vec<String> {
    let strip = |fault: String| {
        fault
            .strip_prefix("ports[0].")
            .map(str::to_owned)
            .unwrap_or(fault)
    };
    to_ports(&format!("ports: [{entry}]"))
        .into_iter()
        .map(strip)
        .collect()
}

const NONE: [&str; 0] = [];

#[test]
fn a_spec_needs_one_subject() {
    for (spec, fault) in [
        (
            "spec: {ingress: [{}]}",
            "spec.endpointSelector: required, but missing",
        ),
        (
            "spec: {endpointSelector: {}, nodeSelector: {}, ingress: [{}]}",
            "spec.nodeSelector: cannot be combined with endpointSelector",
        ),
        (
            "spec: {nodeSelector: {}, ingress: [{}]}",
            "spec.nodeSelector: is only for a CiliumClusterwideNetworkPolicy",
        ),
        ("spec: []", "spec: must be an object, but is a list"),
        ("spec: ", "spec: must be an object, but is null"),
        ("specs: []", "spec: required, but missing"),
        ("", "spec: required, but missing"),
        (
            "specs: [{endpointSelector: {}}]",
            "specs[0]: must have at least one ingress, ingressDeny, egress or egressDeny rule",
        ),
    ] {
        assert_eq!(faults(CNP, spec), [fault], "{spec}");
    }
}

#[test]
fn a_spec_needs_a_rule() {
    let fault = "spec: must have at least one ingress, ingressDeny, egress or egressDeny rule";
    assert_eq!(faults(CNP, "spec: {endpointSelector: {}}"), [fault]);
    assert_eq!(
        faults(CNP, "spec: {endpointSelector: {}, ingress: [], egressDeny: []}"),
        [fault]
    );
    for list in ["ingress", "ingressDeny", "egress", "egressDeny"] {
        assert_eq!(
            faults(CNP, &format!("spec: {{endpointSelector: {{}}, {list}: [{{}}]}}")),
            NONE,
            "{list}"
        );
    }
}

#[test]
fn a_host_policy_is_not_supported() {
    let spec = |item: &str| faults(CCNP, &format!("spec: {{nodeSelector: {{}}, ingress: [{item}]}}"));
    let unsupported = "spec.nodeSelector: not supported by sluice: host policies are not enforced until the uplink is covered";
    assert_eq!(spec("{}"), [unsupported]);
    assert_eq!(
        spec("{toPorts: [{ports: [{port: \"80\", protocol: TCP}], rules: {http: [{}]}}]}"),
        [
            unsupported,
            "spec.ingress[0].toPorts[0].rules.http: cannot be combined with nodeSelector"
        ]
    );
}

#[test]
fn a_field_that_is_not_known_refuses_the_object() {
    for field in ["fromendpoints", "toEndpoints", "toFQDNs", "toServices", "from"] {
        assert_eq!(
            ingress(&format!("{{{field}: []}}")),
            [format!("{field}: unknown field")],
            "{field}"
        );
    }
    for (list, field) in [
        ("ingressDeny", "authentication"),
        ("egressDeny", "toFQDNs"),
        ("egressDeny", "fromEndpoints"),
    ] {
        let place = format!("spec.{list}[0].");
        assert_eq!(
            below(CNP, list, &format!("{{{field}: []}}"), &place),
            [format!("{field}: unknown field")],
            "{list} {field}"
        );
    }
    let denied = "{toPorts: [{ports: [{port: \"1\", protocol: TCP}], rules: {http: [{}]}}]}";
    assert_eq!(
        below(CNP, "ingressDeny", denied, "spec.ingressDeny[0]."),
        ["toPorts[0].rules: unknown field"]
    );
    assert_eq!(port("{port: \"80\", name: http}"), ["name: unknown field"]);
    assert_eq!(http("{paths: /}"), ["rules.http[0].paths: unknown field"]);
    assert_eq!(
        faults(CNP, "spec: {endpointSelector: {}, ingress: [{}], egres: [{}]}"),
        ["spec.egres: unknown field"]
    );
    assert_eq!(
        faults(CNP, "spec: {endpointSelector: {}, ingress: [{}]}\nspecss: []"),
        ["specss: unknown field"]
    );
}

/// An empty list in YAML is a null: it must not mean "from everyone".
#[test]
fn a_null_refuses_the_object() {
    for (item, fault) in [
        (
            "{fromEndpoints: , toPorts: [{ports: [{port: \"1\"}]}]}",
            "fromEndpoints: must be a list, but is null",
        ),
        (
            "{fromEndpoints: [ ~ ]}",
            "fromEndpoints[0]: must be an object, but is null",
        ),
        (
            "{fromEndpoints: [{matchLabels: }]}",
            "fromEndpoints[0].matchLabels: must be an object, but is null",
        ),
        ("{toPorts: }", "toPorts: must be a list, but is null"),
        (
            "{toPorts: [{ports: }]}",
            "toPorts[0].ports: must be a list, but is null",
        ),
        (
            "{toPorts: [{ports: [{port: \"1\", protocol: }]}]}",
            "toPorts[0].ports[0].protocol: must be a string, but is null",
        ),
        (
            "{toPorts: [{rules: }]}",
            "toPorts[0].rules: must be an object, but is null",
        ),
        (
            "{icmps: [{fields: [{type: }]}]}",
            "icmps[0].fields[0].type: must be a string or an integer, but is null",
        ),
    ] {
        assert_eq!(ingress(item), [fault], "{item}");
    }
    assert_eq!(
        faults(CNP, "spec: {endpointSelector: , ingress: [{}]}"),
        ["spec.endpointSelector: must be an object, but is null"]
    );
    assert_eq!(
        faults(
            CNP,
            "spec: {endpointSelector: {}, ingress: [{}], enableDefaultDeny: {ingress: }}"
        ),
        ["spec.enableDefaultDeny.ingress: must be a boolean, but is null"]
    );
}

/// What the API server writes into `metadata` and `status` is nobody's policy.
#[test]
fn metadata_and_status_are_not_looked_at() {
    let spec = "spec: {endpointSelector: {}, ingress: [{}]}\nstatus: {conditions: , x: 1}";
    assert_eq!(faults(CNP, spec), NONE);
}

#[test]
fn all_faults_are_reported_at_once() {
    let spec = "spec: {endpointSelector: {}, what: 1, ingress: [{fromCIDR: [10.0.0.1], toPorts: \
                [{ports: [{port: 80}, {port: \"70000\"}, {port: \"1\", protocol: TPC}]}]}, {fromEntities: [mars]}]}";
    assert_eq!(
        faults(CNP, spec),
        [
            "spec.ingress[0].toPorts[0].ports[0].port: must be a string, but is a number",
            "spec.ingress[1].fromEntities[0]: `mars` is not one of all, world, cluster, cluster-mesh, host, init, ingress, \
             unmanaged, remote-node, health, none, kube-apiserver",
            "spec.what: unknown field",
            "spec.ingress[0].toPorts[0].ports[1].port: `70000` is not a port number (0 to 65535) or a port name",
            "spec.ingress[0].toPorts[0].ports[2].protocol: `TPC` is not one of TCP, UDP, SCTP, ANY",
            "spec.ingress[0].fromCIDR[0]: `10.0.0.1` is not an address with prefix length",
        ]
    );
}

#[test]
fn one_item_has_one_kind_of_peer() {
    for (item, fault) in [
        (
            "{fromEndpoints: [{}], fromEntities: [world]}",
            "fromEntities: cannot be combined with fromEndpoints",
        ),
        (
            "{fromCIDR: [10.0.0.0/8], fromCIDRSet: [{cidr: 10.0.0.0/8}]}",
            "fromCIDRSet: cannot be combined with fromCIDR",
        ),
        (
            "{fromNodes: [{}], fromEndpoints: [{}]}",
            "fromNodes: cannot be combined with fromEndpoints",
        ),
    ] {
        assert_eq!(ingress(item), [fault], "{item}");
    }
    for (item, fault) in [
        (
            "{toFQDNs: [{matchName: a.io}], toCIDR: [10.0.0.0/8]}",
            "toFQDNs: cannot be combined with toCIDR",
        ),
        (
            "{toServices: [{k8sService: {serviceName: a}}], toEndpoints: [{}]}",
            "toServices: cannot be combined with toEndpoints",
        ),
    ] {
        assert_eq!(egress(item), [fault], "{item}");
    }
    let both = "{icmps: [{fields: [{type: 8}]}], toPorts: [{ports: [{port: \"1\"}]}]}";
    assert_eq!(ingress(both), ["icmps: cannot be combined with toPorts"]);
}

#[test]
fn selectors_are_checked() {
    let selector = |selector: &str| ingress(&format!("{{fromEndpoints: [{selector}]}}"));
    for (expression, fault) in [
        (
            "{key: a, operator: In}",
            ": values must not be empty with operator In or NotIn",
        ),
        (
            "{key: a, operator: NotIn, values: []}",
            ": values must not be empty with operator In or NotIn",
        ),
        (
            "{key: a, operator: Exists, values: [b]}",
            ": values must be empty with operator Exists or DoesNotExist",
        ),
        (
            "{key: a, operator: Like}",
            ".operator: `Like` is not one of In, NotIn, Exists, DoesNotExist",
        ),
        ("{operator: Exists}", ".key: required, but missing"),
        ("{key: a}", ".operator: required, but missing"),
    ] {
        assert_eq!(
            selector(&format!("{{matchExpressions: [{expression}]}}")),
            [format!("fromEndpoints[0].matchExpressions[0]{fault}")],
            "{expression}"
        );
    }
    assert_eq!(
        selector("{matchLabels: {a: true}}"),
        ["fromEndpoints[0].matchLabels.a: must be a string, but is a boolean"]
    );
    assert_eq!(
        selector(&format!("{{matchLabels: {{a: {}}}}}", "b".repeat(64))),
        ["fromEndpoints[0].matchLabels.a: has 64 characters, at most 63 are allowed"]
    );
    assert_eq!(
        selector("{matchlabels: {a: b}}"),
        ["fromEndpoints[0].matchlabels: unknown field"]
    );
    assert_eq!(
        faults(
            CNP,
            "spec: {endpointSelector: {matchExpressions: [{key: a, operator: In}]}, ingress: [{}]}"
        ),
        ["spec.endpointSelector.matchExpressions[0]: values must not be empty with operator In or NotIn"]
    );
}

/// In Cilium the identities of prefixes, names and nodes have such labels; here they would select nobody, or with `DoesNotExist` everybody.
#[test]
fn labels_of_sources_that_endpoints_do_not_have_refuse_the_object() {
    let fault =
        "not supported by sluice: labels of source cidr, cidrgroup, fqdn or node; use the peers of that kind";
    for key in ["cidr:10.0.0.0/8", "cidrgroup:a", "fqdn:a.io", "node:zone"] {
        for operator in ["Exists", "DoesNotExist"] {
            let labels = format!(
                "{{matchExpressions: [{{key: \"reserved:world\", operator: Exists}}, {{key: \"{key}\", operator: {operator}}}]}}"
            );
            assert_eq!(
                ingress(&format!("{{fromEndpoints: [{labels}]}}")),
                [format!("fromEndpoints[0]: {fault}")],
                "{key}"
            );
            assert_eq!(
                faults(
                    CNP,
                    &format!("spec: {{endpointSelector: {labels}, ingress: [{{}}]}}")
                ),
                [format!("spec.endpointSelector: {fault}")],
                "{key}"
            );
        }
    }
    assert_eq!(
        ingress("{fromEndpoints: [{matchLabels: {\"container:app\": a}}], toPorts: []}"),
        NONE
    );
}

#[test]
fn peers_are_checked() {
    let invalid = |text: &str, expected: &str| format!("`{text}` is not {expected}");
    let prefix = "an address with prefix length";
    for (item, place, fault) in [
        ("{toCIDR: [10.0.0.1]}", "toCIDR[0]", invalid("10.0.0.1", prefix)),
        (
            "{toCIDR: [10.0.0.0/33]}",
            "toCIDR[0]",
            invalid("10.0.0.0/33", prefix),
        ),
        ("{toCIDR: [\"\"]}", "toCIDR[0]", "must not be empty".to_owned()),
        (
            "{toCIDRSet: [{cidr: 10.0.0.0/8, except: [11.0.0.0/16]}]}",
            "toCIDRSet[0].except[0]",
            invalid("11.0.0.0/16", "a part of `cidr`"),
        ),
        (
            "{toCIDRSet: [{cidr: 10.0.0.0/8, except: [\"fd00::/16\"]}]}",
            "toCIDRSet[0].except[0]",
            invalid("fd00::/16", "a part of `cidr`"),
        ),
        (
            "{toCIDRSet: [{cidr: 10.0.0.0/8, except: [10.0.0.0/7]}]}",
            "toCIDRSet[0].except[0]",
            invalid("10.0.0.0/7", "a part of `cidr`"),
        ),
        (
            "{toCIDRSet: [{cidr: 10.0.0.0/8, except: [10.0.0.1]}]}",
            "toCIDRSet[0].except[0]",
            invalid("10.0.0.1", prefix),
        ),
        (
            "{toCIDRSet: [{except: [10.0.0.0/8]}]}",
            "toCIDRSet[0]",
            "must have cidr, cidrGroupRef or cidrGroupSelector".to_owned(),
        ),
        (
            "{toCIDRSet: [{cidr: 10.0.0.0/8, cidrGroupRef: a}]}",
            "toCIDRSet[0].cidrGroupRef",
            "cannot be combined with cidr".to_owned(),
        ),
        (
            "{toCIDRSet: [{cidrGroupRef: a, cidrGroupSelector: {}}]}",
            "toCIDRSet[0].cidrGroupSelector",
            "cannot be combined with cidrGroupRef".to_owned(),
        ),
        (
            "{toCIDRSet: [{cidrGroupRef: A_b}]}",
            "toCIDRSet[0].cidrGroupRef",
            invalid("A_b", "an object name"),
        ),
        (
            "{toServices: [{}]}",
            "toServices[0]",
            "must have k8sService or k8sServiceSelector".to_owned(),
        ),
        (
            "{toServices: [{k8sService: {namespace: a}}]}",
            "toServices[0].k8sService.serviceName",
            "required, but missing".to_owned(),
        ),
        (
            "{toServices: [{k8sServiceSelector: {}}]}",
            "toServices[0].k8sServiceSelector.selector",
            "required, but missing".to_owned(),
        ),
        (
            "{toFQDNs: [{}]}",
            "toFQDNs[0]",
            "must have matchName or matchPattern".to_owned(),
        ),
        (
            "{toFQDNs: [{matchName: a.io, matchPattern: \"*.io\"}]}",
            "toFQDNs[0].matchPattern",
            "cannot be combined with matchName".to_owned(),
        ),
        (
            "{toFQDNs: [{matchName: \"*.io\"}]}",
            "toFQDNs[0].matchName",
            invalid("*.io", "a DNS name"),
        ),
        (
            "{toFQDNs: [{matchPattern: \"a b\"}]}",
            "toFQDNs[0].matchPattern",
            invalid("a b", "a pattern of DNS names"),
        ),
    ] {
        assert_eq!(egress(item), [format!("{place}: {fault}")], "{item}");
    }
    let long = format!("{{toFQDNs: [{{matchName: {}}}]}}", "a".repeat(256));
    assert_eq!(
        egress(&long),
        ["toFQDNs[0].matchName: has 256 characters, at most 255 are allowed"]
    );
    // Known to Cilium's engine, but not to its schema.
    let entity = ingress("{fromEntities: [world-ipv4]}");
    assert!(
        entity.len() == 1 && entity[0].starts_with("fromEntities[0]: `world-ipv4` is not one of all, world,")
    );
}

#[test]
fn ports_are_checked() {
    let number = |text: &str| format!("port: `{text}` is not a port number (0 to 65535) or a port name");
    for (entry, fault) in [
        ("{port: \"65536\"}", number("65536")),
        ("{port: \"-1\"}", number("-1")),
        ("{port: \"\"}", number("")),
        ("{port: \"08\"}", number("08")),
        (
            "{port: a-name-that-is-too-long}",
            number("a-name-that-is-too-long"),
        ),
        ("{port: a--b}", number("a--b")),
        ("{port: 80}", "port: must be a string, but is a number".to_owned()),
        ("{protocol: TCP}", "port: required, but missing".to_owned()),
        (
            "{port: \"80\", protocol: ICMP}",
            "protocol: `ICMP` is not one of TCP, UDP, SCTP, ANY".to_owned(),
        ),
        (
            "{port: http, endPort: 90}",
            "endPort: cannot be combined with a named port".to_owned(),
        ),
        (
            "{port: \"0\", endPort: 90}",
            "endPort: cannot be combined with port 0".to_owned(),
        ),
        (
            "{port: \"80\", endPort: 65536}",
            "endPort: 65536 is not from 0 to 65535".to_owned(),
        ),
        (
            "{port: \"80\", endPort: \"90\"}",
            "endPort: must be an integer, but is a string".to_owned(),
        ),
    ] {
        assert_eq!(port(entry), [fault], "{entry}");
    }
    for protocol in ["VRRP", "IGMP", "GRE", "IPIP", "IPV6", "ESP", "AH"] {
        let fault =
            "protocol: not supported by sluice: protocols without ports (enable-extended-ip-protocols)";
        assert_eq!(port(&format!("{{protocol: {protocol}}}")), [fault], "{protocol}");
    }
    let many = vec!["{port: \"1\"}"; 41].join(", ");
    assert_eq!(
        to_ports(&format!("ports: [{many}]")),
        ["ports: has 41 entries, at most 40 are allowed"]
    );
}

#[test]
fn icmp_types_are_checked() {
    let icmp = |field: &str| {
        let faults = ingress(&format!("{{icmps: [{{fields: [{field}]}}]}}"));
        let strip = |fault: String| {
            fault
                .strip_prefix("icmps[0].fields[0].")
                .map(str::to_owned)
                .unwrap_or(fault)
        };
        faults.into_iter().map(strip).collect::<Vec<_>>()
    };
    let invalid = |text: &str| format!("type: `{text}` is not an ICMP type (number or name)");
    for (field, fault) in [
        ("{type: 256}", invalid("256")),
        ("{type: -1}", invalid("-1")),
        ("{type: \"+8\"}", invalid("+8")),
        ("{type: Ping}", invalid("Ping")),
        ("{type: PacketTooBig}", invalid("PacketTooBig")),
        ("{family: IPv6, type: Redirect}", invalid("Redirect")),
        (
            "{type: 8.5}",
            "type: must be a string or an integer, but is a number".to_owned(),
        ),
        ("{}", "type: required, but missing".to_owned()),
        (
            "{family: ipv4, type: 8}",
            "family: `ipv4` is not one of IPv4, IPv6".to_owned(),
        ),
    ] {
        assert_eq!(icmp(field), [fault], "{field}");
    }
    let many = vec!["{type: 8}"; 41].join(", ");
    assert_eq!(
        ingress(&format!("{{icmps: [{{fields: [{many}]}}]}}")),
        ["icmps[0].fields: has 41 entries, at most 40 are allowed"]
    );
}

#[test]
fn http_rules_need_explicit_tcp_and_a_port() {
    for protocol in ["protocol: ANY", "protocol: UDP", "endPort: 90"] {
        let item = format!("ports: [{{port: \"80\", {protocol}}}], rules: {{http: [{{}}]}}");
        assert_eq!(
            to_ports(&item),
            ["ports[0]: protocol must be TCP with rules.http"],
            "{protocol}"
        );
    }
    assert_eq!(
        to_ports("ports: [{port: \"0\", protocol: TCP}], rules: {http: [{}]}"),
        ["ports[0].port: cannot be combined with rules.http when it is 0"]
    );
}

#[test]
fn http_rules_are_checked() {
    for (entry, place) in [
        ("{method: GET, path: \"/(\"}", "path"),
        ("{method: \"[\"}", "method"),
        ("{path: \"(?=x)\"}", "path"),
    ] {
        let faults = http(entry);
        let start = format!("rules.http[0].{place}: does not compile: ");
        assert!(
            faults.len() == 1 && faults[0].starts_with(&start),
            "{entry}: {faults:?}"
        );
    }
    assert_eq!(http("{method: \"[\", path: \"(\"}, {path: \")\"}").len(), 3);
    for (entry, fault) in [
        (
            "{headerMatches: [{value: a}]}",
            "headerMatches[0].name: required, but missing",
        ),
        (
            "{headerMatches: [{name: \"\"}]}",
            "headerMatches[0].name: must not be empty",
        ),
        (
            "{headerMatches: [{name: a, mismatch: KEEP}]}",
            "headerMatches[0].mismatch: `KEEP` is not one of LOG, ADD, DELETE, REPLACE",
        ),
        (
            "{headerMatches: [{name: a, secret: {namespace: b}}]}",
            "headerMatches[0].secret.name: required, but missing",
        ),
        ("{headers: x}", "headers: must be a list, but is a string"),
        ("{host: 1}", "host: must be a string, but is a number"),
    ] {
        assert_eq!(http(entry), [format!("rules.http[0].{fault}")], "{entry}");
    }
}

#[test]
fn what_http_rules_do_not_enforce_refuses_the_object() {
    for entry in [
        "{host: a.io}",
        "{headers: [X-A, \"X-B: c\"]}",
        "{headerMatches: [{name: a}]}",
        "{headerMatches: [{name: a, value: b, mismatch: LOG}]}",
    ] {
        assert_eq!(http(entry), [""; 0], "{entry}");
    }
    for (entry, fault) in [
        (
            "{headerMatches: [{name: a, value: b, mismatch: ADD}]}",
            "headerMatches[0].mismatch: not supported by sluice: rewriting requests",
        ),
        (
            "{headerMatches: [{name: a, mismatch: REPLACE, value: b}]}",
            "headerMatches[0].mismatch: not supported by sluice: rewriting requests",
        ),
        (
            "{headerMatches: [{name: a, mismatch: DELETE, value: b}]}",
            "headerMatches[0].mismatch: not supported by sluice: rewriting requests",
        ),
    ] {
        assert_eq!(http(entry), [format!("rules.http[0].{fault}")], "{entry}");
    }
    let secret = http("{headerMatches: [{name: a, secret: {name: b}}]}");
    assert!(secret.contains(
        &"rules.http[0].headerMatches[0].secret: not supported by sluice: values from Secrets".to_owned()
    ));
}

#[test]
fn dns_rules_are_for_egress_and_plain_ports() {
    let dns = "rules: {dns: [{matchPattern: \"*\"}]}";
    assert_eq!(
        ingress(&format!("{{toPorts: [{{ports: [{{port: \"53\"}}], {dns}}}]}}")),
        ["toPorts[0].rules.dns: is only for egress"]
    );
    for (item, fault) in [
        (
            format!("ports: [{{port: \"0\"}}], {dns}"),
            "ports[0].port: cannot be combined with rules.dns when it is 0",
        ),
        (
            format!("ports: [{{port: \"53\", endPort: 54}}], {dns}"),
            "ports[0].endPort: cannot be combined with rules.dns",
        ),
        (
            format!("ports: [{{port: \"53\", protocol: SCTP}}], {dns}"),
            "ports[0]: protocol must be TCP, UDP or ANY with rules.dns",
        ),
        (dns.to_owned(), "rules.dns: needs ports"),
        (
            "ports: [{port: \"53\"}], rules: {dns: [{matchName: \"*\"}]}".to_owned(),
            "rules.dns[0].matchName: `*` is not a DNS name",
        ),
        (
            "ports: [{port: \"53\"}], rules: {dns: [{}]}".to_owned(),
            "rules.dns[0]: must have matchName or matchPattern",
        ),
    ] {
        assert_eq!(to_ports(&item), [fault], "{item}");
    }
}

#[test]
fn dns_rules_that_limit_names_are_not_supported() {
    for names in [
        "{matchName: a.io}",
        "{matchPattern: \"*.io\"}",
        "{matchPattern: \"**.io\"}",
    ] {
        assert_eq!(
            to_ports(&format!("ports: [{{port: \"53\"}}], rules: {{dns: [{names}]}}")),
            ["rules.dns: not supported by sluice: limits on the names that may be asked for"],
            "{names}"
        );
    }
}

#[test]
fn one_item_has_one_protocol_of_layer_seven() {
    let item = "ports: [{port: \"53\", protocol: TCP}], rules: {http: [{}], dns: [{matchPattern: \"*\"}]}";
    assert_eq!(to_ports(item), ["rules.dns: cannot be combined with http"]);
}

#[test]
fn what_only_a_proxy_enforces_refuses_the_object() {
    let port = "ports: [{port: \"443\", protocol: TCP}]";
    let http = "rules: {http: [{}]}";
    let unsupported = "serverNames: not supported by sluice: limits on TLS server names";
    assert_eq!(
        to_ports(&format!("{port}, serverNames: [a.io, \"**.b.io\"]")),
        [unsupported]
    );
    assert_eq!(
        to_ports(&format!("{port}, serverNames: [a.io], {http}")),
        [
            "serverNames: cannot be combined with rules without terminatingTLS",
            unsupported
        ]
    );
    assert_eq!(
        to_ports(&format!("{port}, serverNames: []")),
        ["serverNames: has 0 entries, at least 1 are needed"]
    );
    assert_eq!(
        to_ports(&format!("{port}, serverNames: [\"\"]")),
        ["serverNames[0]: must not be empty"]
    );
    assert_eq!(
        to_ports(&format!("{port}, serverNames: [\"a b\"]")),
        ["serverNames[0]: `a b` is not a server name", unsupported]
    );
    for field in ["terminatingTLS", "originatingTLS"] {
        assert_eq!(
            to_ports(&format!("{port}, {field}: {{secret: {{name: a}}}}, {http}")),
            [format!("{field}: not supported by sluice: interception of TLS")],
        );
        assert_eq!(
            to_ports(&format!("{port}, {field}: {{}}")),
            [format!("{field}.secret: required, but missing")]
        );
        assert_eq!(
            to_ports(&format!("{port}, {field}: {{secret: {{}}}}")),
            [format!("{field}.secret.name: required, but missing")]
        );
    }
    for (field, value) in [("kafka", "[{topic: a}]"), ("l7proto", "a"), ("l7", "[{a: b}]")] {
        assert_eq!(
            to_ports(&format!("{port}, rules: {{{field}: {value}}}")),
            [format!(
                "rules.{field}: not supported by sluice: removed in Cilium 1.20"
            )]
        );
    }
}

#[test]
fn listeners_are_checked_and_not_supported() {
    let unsupported = "listener: not supported by sluice: listeners of Envoy";
    let item = |listener: &str, more: &str| {
        format!("ports: [{{port: \"80\", protocol: TCP}}], listener: {listener}{more}")
    };
    let listener = "{name: a, envoyConfig: {name: b}}";
    assert_eq!(to_ports(&item(listener, "")), [unsupported]);
    assert_eq!(
        to_ports(&item(listener, ", rules: {http: [{}]}")),
        ["listener: cannot be combined with rules", unsupported]
    );
    assert_eq!(
        ingress(&format!("{{toPorts: [{{{}}}]}}", item(listener, ""))),
        [
            "toPorts[0].listener: is only for egress",
            &format!("toPorts[0].{unsupported}")
        ]
    );
    for (listener, fault) in [
        ("{envoyConfig: {name: b}}", "listener.name: required, but missing"),
        ("{name: a}", "listener.envoyConfig: required, but missing"),
        (
            "{name: a, envoyConfig: {name: b}, priority: 101}",
            "listener.priority: 101 is not from 1 to 100",
        ),
        (
            "{name: a, envoyConfig: {name: b, kind: Listener}}",
            "listener.envoyConfig.kind: `Listener` is not one of CiliumEnvoyConfig, CiliumClusterwideEnvoyConfig",
        ),
    ] {
        assert_eq!(to_ports(&item(listener, ""))[0], fault, "{listener}");
    }
    let namespaced = item("{name: a, envoyConfig: {name: b, kind: CiliumEnvoyConfig}}", "");
    assert_eq!(
        below(
            CCNP,
            "egress",
            &format!("{{toPorts: [{{{namespaced}}}]}}"),
            "spec.egress[0].toPorts[0]."
        ),
        [
            "listener.envoyConfig.kind: must be CiliumClusterwideEnvoyConfig in a CiliumClusterwideNetworkPolicy",
            unsupported
        ]
    );
}

#[test]
fn peers_that_are_not_enforced_refuse_the_object() {
    for (item, fault) in [
        (
            "{toGroups: [{aws: {securityGroupsIds: [a]}}]}",
            "toGroups: not supported by sluice: groups of cloud providers",
        ),
        (
            "{toRequires: [{}]}",
            "toRequires: not supported by sluice: removed in Cilium 1.20",
        ),
        (
            "{authentication: {mode: required}}",
            "authentication: not supported by sluice: authentication of peers",
        ),
        (
            "{authentication: {mode: maybe}}",
            "authentication.mode: `maybe` is not one of disabled, required, test-always-fail",
        ),
    ] {
        assert_eq!(egress(item), [fault], "{item}");
    }
    assert_eq!(ingress("{fromRequires: []}"), NONE);
    assert_eq!(
        ingress("{fromGroups: [], fromRequires: [{}]}"),
        [
            "fromRequires: not supported by sluice: removed in Cilium 1.20",
            "fromGroups: not supported by sluice: groups of cloud providers",
        ]
    );
}

#[test]
fn the_log_value_is_short_and_printable() {
    let log = |value: &str| {
        faults(
            CNP,
            &format!("spec: {{endpointSelector: {{}}, ingress: [{{}}], log: {{value: {value}}}}}"),
        )
    };
    assert_eq!(log("\"team a: ü\""), NONE);
    assert_eq!(
        log(&"a".repeat(33)),
        ["spec.log.value: has 33 characters, at most 32 are allowed"]
    );
    assert_eq!(log("\"a\\tb\""), ["spec.log.value: must be printable"]);
}

#[test]
fn a_kubernetes_network_policy_is_checked_as_well() {
    let faults = |spec: &str| -> Vec<String> {
        let text = format!(
            "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: x}}\nspec: {spec}\n"
        );
        match manifest::parse(&text, "default").pop() {
            Some(Document::Invalid { faults, .. }) => faults.into_iter().map(|fault| fault.field).collect(),
            _ => Vec::new(),
        }
    };
    for (spec, field) in [
        ("{podSelector: {}, policyTypes: [Ingres]}", "spec.policyTypes[0]"),
        (
            "{podSelector: {}, ingress: [{from: [{}]}]}",
            "spec.ingress[0].from[0]",
        ),
        (
            "{podSelector: {}, ingress: [{ports: [{endPort: 5}]}]}",
            "spec.ingress[0].ports[0].endPort",
        ),
        (
            "{podSelector: {}, ingress: [{ports: [{port: 9, endPort: 5}]}]}",
            "spec.ingress[0].ports[0].endPort",
        ),
        (
            "{podSelector: {}, ingress: [{ports: [{port: 0}]}]}",
            "spec.ingress[0].ports[0].port",
        ),
        (
            "{podSelector: {}, egress: [{to: [{ipBlock: {cidr: 10.0.0.0}}]}]}",
            "spec.egress[0].to[0].ipBlock.cidr",
        ),
        (
            "{podSelector: {matchExpressions: [{key: a, operator: Is}]}}",
            "spec.podSelector.matchExpressions[0].operator",
        ),
        ("{podSelector: {}, egres: [{}]}", "spec.egres"),
        (
            "{podSelector: {matchLabels: {a: 1}}}",
            "spec.podSelector.matchLabels.a",
        ),
    ] {
        assert_eq!(faults(spec), [field], "{spec}");
    }
    assert_eq!(faults("{podSelector: {}}"), NONE);
}
