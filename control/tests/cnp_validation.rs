//! Every fault of a CiliumNetworkPolicy is reported at its field, and the object is refused whole.

use sluice_control::manifest::{self, Document};

/// Paths of the faults of a policy with this `spec`.
fn faults(spec: &str) -> Vec<String> {
    let text = format!(
        "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {{name: x, namespace: db}}\nspec: {spec}\n"
    );
    match manifest::parse(&text, "default").pop() {
        Some(Document::Object { .. }) => Vec::new(),
        Some(Document::Invalid { key, faults }) => {
            assert_eq!(
                key.map(|key| key.to_string()),
                Some("CiliumNetworkPolicy db/x".to_owned())
            );
            assert!(
                faults
                    .iter()
                    .all(|fault| !fault.message.is_empty() && fault.line == 4)
            );
            faults.into_iter().map(|fault| fault.field).collect()
        }
        None => panic!("no document"),
    }
}

fn ingress(item: &str) -> Vec<String> {
    faults(&format!("{{endpointSelector: {{}}, ingress: [{item}]}}"))
        .into_iter()
        .map(|path| {
            path.strip_prefix("spec.ingress[0].")
                .map(str::to_owned)
                .unwrap_or(path)
        })
        .collect()
}

fn port(entry: &str) -> Vec<String> {
    let strip = |path: String| {
        path.strip_prefix("toPorts[0].ports[0].")
            .map(str::to_owned)
            .unwrap_or(path)
    };
    ingress(&format!("{{toPorts: [{{ports: [{entry}]}}]}}"))
        .into_iter()
        .map(strip)
        .collect()
}

fn http(entry: &str) -> Vec<String> {
    let item =
        format!("{{toPorts: [{{ports: [{{port: \"80\", protocol: TCP}}], rules: {{http: [{entry}]}}}}]}}");
    let strip = |path: String| {
        path.strip_prefix("toPorts[0].rules.http[0].")
            .map(str::to_owned)
            .unwrap_or(path)
    };
    ingress(&item).into_iter().map(strip).collect()
}

const NONE: [&str; 0] = [];

#[test]
fn what_cilium_accepts_is_accepted() {
    assert_eq!(ingress("{}"), NONE);
    assert_eq!(
        ingress("{fromEndpoints: [{}, {matchExpressions: [{key: a, operator: NotIn, values: [b]}]}]}"),
        NONE
    );
    assert_eq!(ingress("{fromEntities: [cluster, none, kube-apiserver]}"), NONE);
    assert_eq!(ingress("{fromCIDR: [10.0.0.1/8, \"fd00::/8\"]}"), NONE);
    assert_eq!(
        ingress("{icmps: [{fields: [{family: IPv6, type: 128}, {type: \"8\"}, {type: EchoRequest}]}]}"),
        NONE
    );
    for entry in [
        "{port: \"80\"}",
        "{port: \"0\", protocol: any}",
        "{port: \"070\"}",
        "{port: http-8080, protocol: tcp}",
        "{port: \"1000\", endPort: 2000, protocol: SCTP}",
        "{port: \"1000\", endPort: 10}",
    ] {
        assert_eq!(port(entry), NONE, "{entry}");
    }
    assert_eq!(
        faults("{endpointSelector: {}, egress: [{}], description: text, labels: [{key: a, value: b}]}"),
        NONE
    );
    assert_eq!(http("{method: GET|HEAD, path: \"/public.*\"}"), NONE);
}

#[test]
fn a_spec_needs_one_subject_and_a_rule() {
    assert_eq!(faults("{ingress: [{}]}"), ["spec.endpointSelector"]);
    assert_eq!(faults("{endpointSelector: {}}"), ["spec"]);
    assert_eq!(faults("{endpointSelector: {}, ingress: []}"), ["spec"]);
    assert_eq!(
        faults("{endpointSelector: {}, nodeSelector: {}, ingress: [{}]}"),
        ["spec.nodeSelector"]
    );
    assert_eq!(faults("[]"), ["spec"]);
}

#[test]
fn a_field_that_is_not_enforced_refuses_the_object() {
    for field in [
        "fromRequires",
        "fromGroups",
        "fromNodes",
        "authentication",
        "fromendpoints",
        "toEndpoints",
    ] {
        assert_eq!(ingress(&format!("{{{field}: []}}")), [field], "{field}");
    }
    for field in ["host", "headers", "headerMatches"] {
        assert_eq!(http(&format!("{{{field}: x}}")), [field], "{field}");
    }
    for field in ["serverNames", "listener", "terminatingTLS", "originatingTLS"] {
        assert_eq!(
            ingress(&format!("{{toPorts: [{{{field}: []}}]}}")),
            [format!("toPorts[0].{field}")],
            "{field}"
        );
    }
    assert_eq!(
        faults("{endpointSelector: {}, egress: [{toFQDNs: [{matchName: a.io}]}]}"),
        ["spec.egress[0].toFQDNs"]
    );
    assert_eq!(
        faults(
            "{endpointSelector: {}, ingressDeny: [{toPorts: [{ports: [{port: \"1\", protocol: TCP}], rules: {http: [{}]}}]}]}"
        ),
        ["spec.ingressDeny[0].toPorts[0].rules"]
    );
}

#[test]
fn one_item_has_one_kind_of_peer() {
    assert_eq!(
        ingress("{fromEndpoints: [{}], fromEntities: [world]}"),
        ["fromEntities"]
    );
    assert_eq!(
        ingress("{fromCIDR: [10.0.0.0/8], fromCIDRSet: [{cidr: 10.0.0.0/8}]}"),
        ["fromCIDRSet"]
    );
    let both = "{icmps: [{fields: [{type: 8}]}], toPorts: [{ports: [{port: \"1\"}]}]}";
    assert_eq!(ingress(both), ["icmps"]);
}

#[test]
fn peers_are_checked() {
    assert_eq!(ingress("{fromEntities: [mars]}"), ["fromEntities[0]"]);
    assert_eq!(ingress("{fromCIDR: [10.0.0.1]}"), ["fromCIDR[0]"]);
    assert_eq!(
        ingress("{fromCIDRSet: [{cidr: 10.0.0.0/8, except: [11.0.0.0/16]}]}"),
        ["fromCIDRSet[0].except[0]"]
    );
    assert_eq!(
        ingress("{fromCIDRSet: [{cidrGroupRef: x}]}")
            .first()
            .expect("fault"),
        "fromCIDRSet[0].cidrGroupRef"
    );
    // An empty list in YAML is a null: it must not mean "from everyone".
    assert_eq!(
        ingress("{fromEndpoints: , toPorts: [{ports: [{port: \"1\"}]}]}"),
        ["fromEndpoints"]
    );
    for expression in [
        "{key: a, operator: In}",
        "{key: a, operator: Exists, values: [b]}",
    ] {
        let item = format!("{{fromEndpoints: [{{matchExpressions: [{expression}]}}]}}");
        assert_eq!(
            ingress(&item),
            ["fromEndpoints[0].matchExpressions[0]"],
            "{expression}"
        );
    }
    assert_eq!(
        ingress("{fromEndpoints: [{matchExpressions: [{key: a, operator: Like}]}]}"),
        ["fromEndpoints[0].matchExpressions[0].operator"]
    );
    assert_eq!(
        ingress("{fromEndpoints: [{matchLabels: {a: true}}]}"),
        ["fromEndpoints[0].matchLabels.a"]
    );
}

#[test]
fn ports_are_checked() {
    for (entry, field) in [
        ("{port: \"65536\"}", "port"),
        ("{port: \"-1\"}", "port"),
        ("{port: \"\"}", "port"),
        ("{port: \"08\"}", "port"),
        ("{port: 80}", "port"),
        ("{protocol: TCP}", "port"),
        ("{port: a-name-that-is-too-long}", "port"),
        ("{port: \"80\", protocol: ICMP}", "protocol"),
        ("{port: http, endPort: 90}", "endPort"),
        ("{port: \"80\", endPort: 65536}", "endPort"),
        ("{port: \"80\", name: http}", "name"),
    ] {
        assert_eq!(port(entry), [field], "{entry}");
    }
    let many = vec!["{port: \"1\"}"; 41].join(", ");
    assert_eq!(
        ingress(&format!("{{toPorts: [{{ports: [{many}]}}]}}")),
        ["toPorts[0].ports"]
    );
}

#[test]
fn http_rules_need_explicit_tcp_and_a_port() {
    for protocol in ["protocol: ANY", "protocol: UDP", "endPort: 90"] {
        let item =
            format!("{{toPorts: [{{ports: [{{port: \"80\", {protocol}}}], rules: {{http: [{{}}]}}}}]}}");
        assert_eq!(ingress(&item), ["toPorts[0].ports[0]"], "{protocol}");
    }
    let all = "{toPorts: [{ports: [{port: \"0\", protocol: TCP}], rules: {http: [{}]}}]}";
    assert_eq!(ingress(all), ["toPorts[0].ports[0].port"]);
}

#[test]
fn a_pattern_that_does_not_compile_is_reported_at_its_field() {
    assert_eq!(http("{method: GET, path: \"/(\"}"), ["path"]);
    assert_eq!(http("{method: \"[\"}"), ["method"]);
    assert_eq!(http("{path: \"(?=x)\"}"), ["path"]);
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
