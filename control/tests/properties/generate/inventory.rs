//! Namespaces, nodes, pods, services and prefix groups.

use std::net::IpAddr;

use serde_json::{Value, json};

use super::{APPS, Ends, LOCAL_NODE, NAMES, NAMESPACES, Rng, TEAMS, TIERS, labels};

/// Addresses of nobody known, and of pod CIDRs.
const STRANGERS: [&str; 10] = [
    "198.51.100.7",
    "198.51.100.8",
    "198.51.100.130",
    "203.0.113.9",
    "10.0.0.9",
    "10.244.0.6",
    "10.244.77.7",
    "2001:db8:1::7",
    "2001:db8:2::9",
    "fd00:10:244:77::7",
];

/// Zones of the nodes.
pub const ZONES: [&str; 2] = ["z1", "z2"];
/// Names of services; their label `kind` is the name as well.
pub const SERVICES: [&str; 3] = ["front", "outside", "mixed"];
/// Names of prefix groups; their label `kind` is the name as well.
pub const GROUPS: [&str; 2] = ["partners", "office"];

pub(super) fn generate(rng: &mut Rng) -> (Vec<Value>, Ends) {
    let mut objects = Vec::new();
    let mut ends = Ends::default();
    for name in NAMESPACES {
        let mut own = labels(rng, &[("team", &TEAMS)]);
        own["kubernetes.io/metadata.name"] = json!(name);
        objects.push(
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": own}}),
        );
    }
    for (name, last) in [(LOCAL_NODE, 2), ("node-b", 3), ("node-c", 4)] {
        objects.push(node(rng, name, last, &mut ends));
    }
    let count = 8 + rng.below(5);
    for number in 0..count {
        objects.push(pod(rng, number, &mut ends));
    }
    ends.addresses.extend(
        STRANGERS
            .iter()
            .map(|addr| addr.parse::<IpAddr>().expect("address")),
    );
    for name in SERVICES {
        objects.extend(service(rng, name));
    }
    if rng.percent(60) {
        let addr = rng.pick(&["172.18.0.2", "172.18.0.3", "198.51.100.7"]);
        objects.push(json!({"apiVersion": "v1", "kind": "Service", "metadata": {"namespace": "default", "name": "kubernetes"},
            "spec": {"clusterIP": "10.96.0.1", "clusterIPs": ["10.96.0.1"], "ports": [{"name": "https", "port": 443, "protocol": "TCP"}]}}));
        objects.push(slice("default", "kubernetes", &[addr]));
    }
    for name in GROUPS {
        if rng.percent(25) {
            continue;
        }
        let cidrs = rng.several(0, 3, |rng| rng.pick(&super::CIDRS));
        objects.push(json!({"apiVersion": "cilium.io/v2", "kind": "CiliumCIDRGroup",
            "metadata": {"name": name, "labels": {"kind": name}}, "spec": {"externalCIDRs": cidrs}}));
    }
    (objects, ends)
}

fn node(rng: &mut Rng, name: &str, last: u8, ends: &mut Ends) -> Value {
    let mut texts = vec![format!("172.18.0.{last}")];
    // The local node has one identity: a prefix allows it only if it holds all of its addresses.
    if name != LOCAL_NODE {
        texts.push(format!("fd00:18::{last}"));
    }
    let parsed: Vec<IpAddr> = texts.iter().map(|text| text.parse().expect("address")).collect();
    if name == LOCAL_NODE {
        ends.host_v6 = parsed.get(1).copied();
    } else {
        ends.addresses.extend(parsed);
    }
    let addresses: Vec<Value> = texts
        .iter()
        .map(|text| json!({"type": "InternalIP", "address": text}))
        .collect();
    let labels = labels(rng, &[("zone", &ZONES), ("role", &["worker", "control"])]);
    let mut labels = labels;
    if rng.percent(20) {
        labels[rng.pick(&["remote-node", "kube-apiserver", super::CIDRS[0]])] = json!("");
    }
    json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels},
        "spec": {"podCIDRs": [format!("10.244.{last}.0/24")]}, "status": {"addresses": addresses}})
}

fn pod(rng: &mut Rng, number: usize, ends: &mut Ends) -> Value {
    let (namespace, name) = (rng.pick(&NAMESPACES), format!("pod-{number}"));
    let mut own = labels(rng, &[("app", &APPS), ("tier", &TIERS)]);
    if rng.percent(20) {
        own["app.kubernetes.io/name"] = json!(rng.pick(&APPS));
    }
    let account = rng.pick(&["default", "robot"]);
    if rng.percent(30) {
        own["pod-template-hash"] = json!(rng.pick(&["h1", "h2"]));
    }
    if rng.percent(10) {
        own["io.kubernetes.pod.namespace"] = json!(rng.pick(&NAMESPACES));
        own["io.cilium.k8s.namespace.labels.team"] = json!(rng.pick(&TEAMS));
        // A prefix is a valid key.
        own[rng.pick(&super::CIDRS)] = json!("");
    }
    // The first pod is there to be judged.
    let host_network = number > 0 && rng.percent(12);
    let node = if number == 0 || rng.percent(80) {
        LOCAL_NODE
    } else {
        rng.pick(&["node-b", "node-c"])
    };
    let mut addresses = vec![format!("10.244.0.{}", number + 2)];
    if rng.percent(60) {
        addresses.push(format!("fd00:10:244::{:x}", number + 2));
    }
    let ports = ports(rng, &NAMES);
    let mut spec = json!({"nodeName": node, "serviceAccountName": account,
        "containers": [{"name": "c", "image": "x", "ports": ports}]});
    if rng.percent(30) {
        let sidecar = if rng.percent(50) {
            json!("Always")
        } else {
            Value::Null
        };
        // Names of their own, so that a name stands for one container.
        let port = json!([{"name": "setup", "containerPort": 8081, "protocol": "TCP"}]);
        spec["initContainers"] =
            json!([{"name": "i", "image": "x", "restartPolicy": sidecar, "ports": port}]);
    }
    if host_network {
        spec["hostNetwork"] = json!(true);
    }
    let full = format!("{namespace}/{name}");
    if node == LOCAL_NODE && !host_network {
        let parsed = addresses.iter().map(|addr| addr.parse().expect("address"));
        ends.local.push((full, parsed.collect()));
    } else {
        ends.others.push(full);
    }
    let ips: Vec<Value> = addresses.iter().map(|addr| json!({"ip": addr})).collect();
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"namespace": namespace, "name": name, "labels": own},
        "spec": spec, "status": {"phase": "Running", "podIPs": ips}})
}

fn ports(rng: &mut Rng, names: &[&str]) -> Vec<Value> {
    let mut ports = Vec::new();
    for name in names {
        let (protocol, numbers): (&str, [u16; 2]) = match *name {
            "dns" => ("UDP", [53, 9090]),
            "metrics" => ("TCP", [9090, 80]),
            _ => ("TCP", [80, 8080]),
        };
        if rng.percent(70) {
            ports.push(json!({"name": name, "containerPort": rng.pick(&numbers), "protocol": protocol}));
        }
    }
    ports
}

fn slice(namespace: &str, service: &str, addresses: &[&str]) -> Value {
    let endpoints: Vec<Value> = addresses
        .iter()
        .map(|addr| json!({"addresses": [addr]}))
        .collect();
    json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"namespace": namespace, "name": format!("{service}-1"), "labels": {"kubernetes.io/service-name": service}},
        "addressType": "IPv4", "endpoints": endpoints, "ports": [{"name": "main", "port": 80, "protocol": "TCP"}]})
}

fn service(rng: &mut Rng, name: &str) -> Vec<Value> {
    let namespace = rng.pick(&NAMESPACES);
    let mut spec = json!({"ports": [{"name": "main", "port": 80, "protocol": "TCP"}], "clusterIP": "None"});
    let mut objects = Vec::new();
    if name == "outside" || rng.percent(40) {
        let addresses = rng.several(0, 3, |rng| {
            rng.pick(&["198.51.100.7", "203.0.113.9", "172.18.0.3", "10.244.0.3"])
        });
        objects.push(slice(namespace, name, &addresses));
    } else {
        spec["selector"] = json!({"app": rng.pick(&APPS)});
    }
    objects.push(json!({"apiVersion": "v1", "kind": "Service",
        "metadata": {"namespace": namespace, "name": name, "labels": {"kind": name}}, "spec": spec}));
    objects
}
