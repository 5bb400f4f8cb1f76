//! NetworkPolicy and ClusterNetworkPolicy.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::inventory::ZONES;
use super::{APPS, CIDRS, NAMES, NAMESPACES, PORTS, Rng, TEAMS, TIERS, block, selector};

const POD_KEYS: [(&str, &[&str]); 4] = [
    ("app", &APPS),
    ("tier", &TIERS),
    ("pod-template-hash", &["h1", "h2"]),
    ("app.kubernetes.io/name", &APPS),
];

fn namespace_selector(rng: &mut Rng) -> Value {
    selector(
        rng,
        &[("team", &TEAMS), ("kubernetes.io/metadata.name", &NAMESPACES)],
    )
}

/// A NetworkPolicy without a name.
pub fn network_policy(rng: &mut Rng) -> Value {
    let subject = if rng.percent(35) {
        json!({})
    } else {
        selector(rng, &POD_KEYS)
    };
    let mut spec = json!({"podSelector": subject});
    for (direction, peers) in [("ingress", "from"), ("egress", "to")] {
        if rng.percent(60) {
            spec[direction] = json!(rng.several(0, 3, |rng| {
                let mut rule = json!({});
                if rng.percent(80) {
                    let least = usize::from(rng.percent(95));
                    rule[peers] = json!(rng.several(least, 2, peer));
                }
                if rng.percent(60) {
                    let least = usize::from(rng.percent(95));
                    rule["ports"] = json!(rng.several(least, 2, port));
                }
                rule
            }));
        }
    }
    if rng.percent(60) {
        spec["policyTypes"] = rng.pick(&[
            json!(["Ingress"]),
            json!(["Egress"]),
            json!(["Ingress", "Egress"]),
        ]);
    }
    json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"namespace": rng.pick(&NAMESPACES)}, "spec": spec})
}

fn peer(rng: &mut Rng) -> Value {
    match rng.below(10) {
        0..3 => json!({"podSelector": selector(rng, &POD_KEYS)}),
        3..5 => json!({"namespaceSelector": namespace_selector(rng)}),
        5..7 => {
            json!({"namespaceSelector": namespace_selector(rng), "podSelector": selector(rng, &POD_KEYS)})
        }
        _ => {
            let (cidr, except) = block(rng);
            let mut block = json!({"cidr": cidr});
            if !except.is_empty() {
                block["except"] = json!(except);
            }
            json!({"ipBlock": block})
        }
    }
}

fn port(rng: &mut Rng) -> Value {
    let mut entry = match rng.below(10) {
        0..6 => json!({"port": rng.pick(&PORTS)}),
        6 => json!({"port": rng.pick(&NAMES)}),
        7 => json!({"port": "setup"}),
        8 => json!({"port": 80, "endPort": rng.pick(&[8080, 443])}),
        _ => json!({}),
    };
    if rng.percent(60) {
        entry["protocol"] = json!(rng.pick(&["TCP", "UDP", "SCTP"]));
    }
    entry
}

/// A ClusterNetworkPolicy without a name.
pub fn cluster_network_policy(rng: &mut Rng) -> Value {
    let mut spec = json!({
        "tier": rng.pick(&["Admin", "Admin", "Baseline"]),
        // Few numbers, so that names decide now and then.
        "priority": rng.below(4) * 10,
        "subject": pods(rng),
    });
    for (direction, peers) in [("ingress", "from"), ("egress", "to")] {
        if rng.percent(65) {
            spec[direction] = json!(rng.several(1, 3, |rng| rule(rng, peers)));
        }
    }
    json!({"apiVersion": "policy.networking.k8s.io/v1beta1", "kind": "ClusterNetworkPolicy", "metadata": {}, "spec": spec})
}

/// `namespaces` or `pods`.
fn pods(rng: &mut Rng) -> Value {
    if rng.percent(50) {
        return json!({"namespaces": namespace_selector(rng)});
    }
    json!({"pods": {"namespaceSelector": namespace_selector(rng), "podSelector": selector(rng, &POD_KEYS)}})
}

fn rule(rng: &mut Rng, peers: &str) -> Value {
    let action = rng.pick(&["Accept", "Deny", "Pass"]);
    // Named ports are for rules whose peers are all pods.
    let mut only_pods = true;
    let list = rng.several(1, 2, |rng| {
        let peer = match rng.below(100) {
            0..25 if peers == "to" => {
                // A set: each once.
                json!({"networks": BTreeSet::from_iter(rng.several(1, 2, |rng| rng.pick(&CIDRS)))})
            }
            25..40 if peers == "to" => {
                json!({"nodes": selector(rng, &[("zone", &ZONES), ("role", &["worker", "control"])])})
            }
            40..45 if peers == "to" && action == "Accept" => {
                json!({"domainNames": ["*.example.com"]})
            }
            _ => return pods(rng),
        };
        only_pods = false;
        peer
    });
    let mut rule = json!({"name": "r", "action": action, peers: list});
    if rng.percent(55) {
        rule["protocols"] = json!(rng.several(1, 2, |rng| protocol(rng, only_pods)));
    }
    rule
}

fn protocol(rng: &mut Rng, named: bool) -> Value {
    if named && rng.percent(25) {
        return json!({"destinationNamedPort": rng.pick(&NAMES)});
    }
    let port = if rng.percent(70) {
        json!({"number": rng.pick(&PORTS)})
    } else {
        json!({"range": {"start": 53, "end": rng.pick(&[80, 8080])}})
    };
    let name = rng.pick(&["tcp", "tcp", "udp", "sctp"]);
    json!({name: {"destinationPort": port}})
}
