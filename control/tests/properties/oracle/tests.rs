//! The evaluator against sentences of the specification, one by one.

mod cilium;
mod http;
mod kubernetes;

use serde_json::{Value, json};

use super::{Cluster, Peer, Verdict};

/// Namespaces a and b; a/web, a/db and b/web run here, b/far elsewhere, a/hostnet and b/hostfar on their nodes' networks.
fn cluster(more: Value) -> Cluster {
    let namespace = |name: &str, team: &str| json!({"kind": "Namespace", "metadata": {"name": name, "labels": {"team": team}}});
    let node = |name: &str, last: u8, zone: &str| {
        json!({"kind": "Node", "metadata": {"name": name, "labels": {"zone": zone}},
            "status": {"addresses": [
                {"type": "InternalIP", "address": format!("172.18.0.{last}")}, {"type": "Hostname", "address": name}]}})
    };
    let pod = |namespace: &str, name: &str, node: &str, last: u8, host_network: bool, web: u16| {
        json!({"kind": "Pod",
            "metadata": {"namespace": namespace, "name": name, "labels": {"app": name, "pod-template-hash": "h"}},
            "spec": {
                "nodeName": node, "hostNetwork": host_network, "serviceAccountName": format!("sa-{name}"),
                "containers": [{"ports": [{"name": "http", "containerPort": web}]}],
                "initContainers": [
                    {"ports": [{"name": "setup", "containerPort": 7000}]},
                    {"restartPolicy": "Always", "ports": [{"name": "side", "containerPort": 7001}]}]},
            "status": {"podIPs": [{"ip": format!("10.244.0.{last}")}, {"ip": format!("fd00:10:244::{last}")}]}})
    };
    let mut objects = vec![
        namespace("a", "red"),
        namespace("b", "blue"),
        node("here", 2, "z1"),
        node("there", 3, "z2"),
        pod("a", "web", "here", 1, false, 80),
        pod("a", "db", "here", 2, false, 5432),
        pod("b", "web", "here", 3, false, 8080),
        pod("b", "far", "there", 4, false, 80),
        pod("a", "hostnet", "here", 5, true, 80),
        pod("b", "hostfar", "there", 6, true, 80),
    ];
    objects.extend(more.as_array().expect("objects").iter().cloned());
    Cluster::from_objects(&objects, "here", &["10.244.0.0/16", "fd00:10:244::/48"])
}

fn peer(text: &str) -> Peer {
    match text {
        "host" => Peer::Host,
        "world" => Peer::World,
        text => text
            .parse()
            .map_or_else(|_error| Peer::Pod(text.into()), Peer::Address),
    }
}

fn tcp(cluster: &Cluster, from: &str, to: &str, port: u16) -> Verdict {
    cluster.decide(&peer(from), &peer(to), "TCP", port, None)
}

/// A CNP of namespace a that selects a/db.
fn db(spec: Value) -> Value {
    let mut spec = spec;
    spec["endpointSelector"] = json!({"matchLabels": {"app": "db"}});
    json!({"kind": "CiliumNetworkPolicy", "metadata": {"namespace": "a", "name": "p"}, "spec": spec})
}

fn knp(spec: Value) -> Value {
    json!({"kind": "NetworkPolicy", "metadata": {"namespace": "a", "name": "n"}, "spec": spec})
}

/// Verdicts of TCP flows to a/db port 5432 under one CNP.
fn to_db(spec: Value, from: &[(&str, Verdict)]) {
    let cluster = cluster(json!([db(spec.clone())]));
    for (source, expected) in from {
        assert_eq!(tcp(&cluster, source, "a/db", 5432), *expected, "{source}: {spec}");
    }
}
