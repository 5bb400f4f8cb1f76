//! CiliumNetworkPolicy and CiliumClusterwideNetworkPolicy.

use serde_json::{Value, json};

use super::inventory::{GROUPS, SERVICES, ZONES};
use super::{APPS, CIDRS, NAMES, NAMESPACES, PORTS, Rng, TEAMS, TIERS, block, selector};

type Vocabulary = Vec<(&'static str, &'static [&'static str])>;

fn pod_keys() -> Vocabulary {
    vec![
        ("app", &APPS),
        ("k8s:app", &APPS),
        ("any:tier", &TIERS),
        ("tier", &TIERS),
        ("io.cilium.k8s.policy.serviceaccount", &["default", "robot"]),
        ("app.kubernetes.io/name", &APPS),
        ("pod-template-hash", &["h1", "h2"]),
    ]
}

fn peer_keys(rng: &mut Rng) -> Vocabulary {
    let mut keys = pod_keys();
    match rng.below(10) {
        0..3 => {
            keys.push(("io.kubernetes.pod.namespace", &NAMESPACES));
            keys.push(("k8s:io.kubernetes.pod.namespace", &NAMESPACES));
        }
        3..5 => keys.push(("k8s:io.cilium.k8s.namespace.labels.team", &TEAMS)),
        5 => keys.push(("io.cilium.k8s.policy.cluster", &["default", "other"])),
        6 => {
            keys.push(("reserved:host", &[""]));
            keys.push(("reserved:world", &[""]));
            keys.push(("reserved:remote-node", &[""]));
        }
        _ => {}
    }
    keys
}

/// A policy without a name.
pub fn policy(rng: &mut Rng, clusterwide: bool) -> Value {
    let (kind, metadata) = if clusterwide {
        ("CiliumClusterwideNetworkPolicy", json!({}))
    } else {
        ("CiliumNetworkPolicy", json!({"namespace": rng.pick(&NAMESPACES)}))
    };
    let mut policy = json!({"apiVersion": "cilium.io/v2", "kind": kind, "metadata": metadata});
    if rng.percent(85) {
        policy["spec"] = spec(rng, clusterwide);
    } else {
        policy["specs"] = json!(rng.several(1, 2, |rng| spec(rng, clusterwide)));
    }
    policy
}

/// What an item is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Purpose {
    Allow,
    /// Allow with HTTP rules.
    Http,
    Deny,
}

fn spec(rng: &mut Rng, clusterwide: bool) -> Value {
    let mut keys = pod_keys();
    if clusterwide {
        keys.push(("io.kubernetes.pod.namespace", &NAMESPACES));
        keys.push(("k8s:io.cilium.k8s.namespace.labels.team", &TEAMS));
    }
    let subject = if rng.percent(35) {
        json!({})
    } else {
        selector(rng, &keys)
    };
    let mut spec = json!({"endpointSelector": subject});
    // HTTP rules decide only where nothing plain is beside them.
    if rng.percent(35) {
        let direction = rng.pick(&["ingress", "egress"]);
        spec[direction] = json!(rng.several(1, 2, |rng| item(rng, direction, Purpose::Http)));
        return spec;
    }
    for direction in ["ingress", "egress"] {
        if rng.percent(60) {
            spec[direction] = json!(rng.several(0, 3, |rng| item(rng, direction, Purpose::Allow)));
        }
        if rng.percent(25) {
            spec[format!("{direction}Deny")] =
                json!(rng.several(0, 2, |rng| item(rng, direction, Purpose::Deny)));
        }
    }
    // One list must have an item.
    let lists = ["ingress", "egress", "ingressDeny", "egressDeny"];
    if lists
        .iter()
        .all(|list| spec[*list].as_array().is_none_or(Vec::is_empty))
    {
        spec["ingress"] = json!([item(rng, "ingress", Purpose::Allow)]);
    }
    // Reading a missing field leaves null behind.
    spec.as_object_mut()
        .expect("object")
        .retain(|_, value| !value.is_null());
    if rng.percent(25) {
        let mut asked = json!({});
        for direction in ["ingress", "egress"] {
            if rng.percent(70) {
                asked[direction] = json!(rng.percent(30));
            }
        }
        spec["enableDefaultDeny"] = asked;
    }
    spec
}

fn item(rng: &mut Rng, direction: &str, purpose: Purpose) -> Value {
    let mut item = json!({});
    let prefix = if direction == "ingress" { "from" } else { "to" };
    let egress = direction == "egress";
    let deny = purpose == Purpose::Deny;
    let mut field = |kind: &str, value: Vec<Value>| item[format!("{prefix}{kind}")] = json!(value);
    // An empty list is rare, but there.
    let least = usize::from(!rng.percent(6));
    let everyone = purpose == Purpose::Http && rng.percent(50);
    match if everyone { 0 } else { rng.below(100) } {
        0..12 => {}
        12..45 => field(
            "Endpoints",
            rng.several(least, 2, |rng| {
                let keys = peer_keys(rng);
                selector(rng, &keys)
            }),
        ),
        45..60 => field("Entities", rng.several(least, 2, |rng| json!(entity(rng)))),
        60..70 => field("CIDR", rng.several(least, 2, |rng| json!(block(rng).0))),
        70..80 => field("CIDRSet", rng.several(least, 2, cidr_set)),
        80..86 if egress => {
            field("Services", rng.several(least, 2, service_reference));
        }
        86..92 => field(
            "Nodes",
            rng.several(least, 2, |rng| {
                selector(rng, &[("zone", &ZONES), ("role", &["worker", "control"])])
            }),
        ),
        92..96 if egress && !deny => {
            field(
                "FQDNs",
                rng.several(least, 1, |_| json!({"matchName": "example.com"})),
            );
        }
        _ => field("Endpoints", vec![json!({})]),
    }
    let shape = if purpose == Purpose::Http {
        99
    } else {
        rng.below(100)
    };
    match shape {
        0..30 => {}
        30..36 => {
            let fields = rng.several(1, 2, icmp);
            item["icmps"] = json!([{ "fields": fields }]);
        }
        36..38 => item["toPorts"] = json!([{}]),
        38..40 => item["toPorts"] = json!([]),
        _ => item["toPorts"] = json!(rng.several(1, 2, |rng| to_ports(rng, egress, purpose))),
    }
    item
}

fn entity(rng: &mut Rng) -> &'static str {
    let known = [
        "all",
        "world",
        "cluster",
        "cluster-mesh",
        "host",
        "remote-node",
        "unmanaged",
        "none",
        "init",
        "health",
        "ingress",
    ];
    if rng.percent(20) {
        return "kube-apiserver";
    }
    let common = known.len().min(if rng.percent(80) { 7 } else { 11 });
    rng.pick(&known[..common])
}

fn cidr_set(rng: &mut Rng) -> Value {
    let (cidr, except) = block(rng);
    if rng.percent(40) {
        let name = rng.pick(&[GROUPS[0], GROUPS[1], "missing"]);
        let except = rng.several(0, 2, |rng| rng.pick(&CIDRS));
        let mut set = if rng.percent(60) {
            json!({"cidrGroupRef": name})
        } else {
            json!({"cidrGroupSelector": {"matchLabels": {"kind": name}}})
        };
        if !except.is_empty() {
            set["except"] = json!(except);
        }
        return set;
    }
    let mut set = json!({"cidr": cidr});
    if !except.is_empty() {
        set["except"] = json!(except);
    }
    set
}

fn service_reference(rng: &mut Rng) -> Value {
    let name = rng.pick(&[SERVICES[0], SERVICES[1], SERVICES[2], "missing"]);
    let namespace = rng.pick(&["", "", "red", "green", "blue"]);
    let mut reference = if rng.percent(60) {
        json!({"k8sService": {"serviceName": name}})
    } else {
        json!({"k8sServiceSelector": {"selector": {"matchLabels": {"kind": name}}}})
    };
    if !namespace.is_empty() {
        for (_, fields) in reference.as_object_mut().into_iter().flatten() {
            fields["namespace"] = json!(namespace);
        }
    }
    reference
}

fn icmp(rng: &mut Rng) -> Value {
    let (family, kind) = rng.pick(&[
        ("", json!(8)),
        ("IPv4", json!("EchoRequest")),
        ("IPv4", json!("EchoReply")),
        ("IPv4", json!(3)),
        ("IPv6", json!(128)),
        ("IPv6", json!("EchoRequest")),
        ("IPv6", json!("EchoReply")),
    ]);
    let mut field = json!({"type": kind});
    if !family.is_empty() {
        field["family"] = json!(family);
    }
    field
}

fn to_ports(rng: &mut Rng, egress: bool, purpose: Purpose) -> Value {
    let http = purpose == Purpose::Http || purpose == Purpose::Allow && rng.percent(35);
    let ports = rng.several(1, 3, |rng| {
        let names = [&NAMES[..], &["setup"]].concat();
        let mut entry = match rng.below(10) {
            0..6 => json!({"port": rng.pick(&PORTS).to_string()}),
            6..8 => json!({"port": rng.pick(&names)}),
            8 => json!({"port": "80", "endPort": rng.pick(&[8080, 443, 7])}),
            _ if http => json!({"port": "0120"}),
            _ => json!({"port": "0"}),
        };
        if http {
            entry["protocol"] = json!("TCP");
        } else if rng.percent(75) {
            entry["protocol"] = json!(rng.pick(&["TCP", "TCP", "UDP", "ANY", "SCTP", "tcp"]));
        }
        entry
    });
    let mut to_ports = json!({"ports": ports});
    if http {
        let least = usize::from(!rng.percent(5));
        to_ports["rules"] = json!({"http": rng.several(least, 3, http_rule)});
    } else if egress && purpose == Purpose::Allow && rng.percent(10) {
        to_ports["ports"] = json!([{"port": "53", "protocol": rng.pick(&["UDP", "TCP", "ANY"])}]);
        to_ports["rules"] = json!({"dns": [{"matchPattern": "*"}]});
    }
    to_ports
}

fn http_rule(rng: &mut Rng) -> Value {
    let mut rule = json!({});
    if rng.percent(60) {
        rule["method"] = json!(rng.pick(&["GET", "GET|HEAD", "P.*", "get", ""]));
    }
    if rng.percent(70) {
        rule["path"] = json!(rng.pick(&[
            "/",
            "/public",
            "/public.*",
            "/v[0-9]+/items.*",
            "/admin|/v2",
            ".*",
            "^/v2$",
            "/pub"
        ]));
    }
    if rng.percent(30) {
        rule["host"] = json!(rng.pick(&["api\\.example\\.com", "api\\.example\\.com(:[0-9]+)?", "x", ".*"]));
    }
    if rng.percent(25) {
        rule["headers"] = json!([rng.pick(&[
            "X-Token 42",
            "X-Token: 43",
            "X-Team",
            "X-Team:one",
            "x-token 42,43"
        ])]);
    }
    if rng.percent(25) {
        rule["headerMatches"] = json!([rng.pick(&[
            json!({"name": "X-Token", "value": "42"}),
            json!({"name": "X-Token"}),
            json!({"name": "X-Team", "value": "one", "mismatch": "LOG"}),
        ])]);
    }
    rule
}
