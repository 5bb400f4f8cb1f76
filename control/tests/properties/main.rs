//! The engine against a naive evaluator, on random clusters and flows, and the evaluator against what is known to be right.

mod generate;
mod oracle;
mod shrink;
mod truth_tables;

use std::collections::BTreeSet;
use std::net::IpAddr;

use generate::{Flow, LOCAL_NODE, POD_CIDRS, Rng, Scenario};
use oracle::{Cluster, Peer, Verdict};
use policy::{
    Decision, Direction, DropReason, EndpointKey, HttpRequest, Identity, Protocol, Slot, SlotGeneration,
    Snapshot,
};
use serde_json::Value;
use sluice_control::object::{self, Decoded};
use sluice_control::{Index, IndexConfig, LocalEndpoint, compile};

/// Clusters and flows in each. `SLUICE_PROPERTY_CLUSTERS` asks for another number of clusters, from another seed;
/// `SLUICE_PROPERTY_SEED` for that of a failure.
const CLUSTERS: u64 = 500;
const FLOWS: usize = 2000;

/// The engine, told of `objects`; what it would do with a flow.
///
/// # Panics
/// When it refuses an object.
fn engine<'a>(objects: &[Value], cluster: &'a Cluster) -> impl Fn(&Flow) -> Verdict + use<'a> {
    let mut index = Index::new(IndexConfig {
        node_name: LOCAL_NODE.into(),
        cluster_name: "default".into(),
        pod_cidrs: POD_CIDRS
            .iter()
            .map(|cidr| cidr.parse().expect("prefix"))
            .collect(),
        ..IndexConfig::default()
    });
    for object in objects {
        match object::decode(object, "default") {
            Decoded::Object(object) => index.apply(*object),
            other => panic!("{object}: {other:?}"),
        }
    }
    let mut endpoints: Vec<(EndpointKey, Vec<IpAddr>)> = Vec::new();
    for (slot, pod) in (Slot::FIRST_ENDPOINT.0..).zip(cluster.local_pods()) {
        let key = EndpointKey {
            slot: Slot(slot),
            generation: SlotGeneration(1),
        };
        endpoints.push((key, pod.addresses.clone()));
        index.apply_endpoint(LocalEndpoint {
            key,
            pod: pod.name.parse().expect("namespace/name"),
            uid: None,
            addresses: pod.addresses.clone(),
            audit: false,
        });
    }
    let snapshot = compile::compile(&index, &Snapshot::default());
    move |flow| {
        let (from, to) = cluster.addresses(&flow.from, &flow.to, flow.protocol);
        if endpoints
            .iter()
            .any(|(_, own)| own.contains(&from) && own.contains(&to))
        {
            // Never leaves the pod.
            return Verdict::Allow;
        }
        let side = |direction, own: IpAddr, peer: Identity| {
            let Some((key, _)) = endpoints.iter().find(|(_, addresses)| addresses.contains(&own)) else {
                return Verdict::Allow;
            };
            decide(&snapshot, *key, direction, peer, flow)
        };
        // The node is known by the way that its packets come, not by its address.
        let source = if from_local_node(cluster, &flow.from) {
            Identity::HOST
        } else {
            snapshot.ipcache.lookup(from)
        };
        let sides = [
            side(Direction::Egress, from, snapshot.ipcache.lookup(to)),
            side(Direction::Ingress, to, source),
        ];
        [Verdict::Deny, Verdict::L7Deny]
            .into_iter()
            .find(|verdict| sides.contains(verdict))
            .unwrap_or(Verdict::Allow)
    }
}

/// Whether the flow begins at a process of the local node or at one of its host-network pods.
fn from_local_node(cluster: &Cluster, from: &Peer) -> bool {
    match from {
        Peer::Host => true,
        Peer::Pod(name) => cluster
            .pods()
            .iter()
            .any(|pod| pod.name == *name && pod.host_network && pod.node == LOCAL_NODE),
        Peer::World | Peer::Address(_) => false,
    }
}

fn decide(
    snapshot: &Snapshot,
    key: EndpointKey,
    direction: Direction,
    peer: Identity,
    flow: &Flow,
) -> Verdict {
    let policy = snapshot.endpoint(key).expect("compiled");
    let protocols = [
        Protocol::TCP,
        Protocol::UDP,
        Protocol::SCTP,
        Protocol::ICMP,
        Protocol::ICMPV6,
    ];
    let protocol = protocols.into_iter().find(|p| p.name() == flow.protocol);
    match policy.decide(direction, peer, protocol.expect("protocol"), flow.port) {
        Decision::AllowHttp(rules, _) => {
            let set = policy.http(rules).expect("rule set");
            let allowed = flow.http.as_ref().is_some_and(|http| {
                let headers = http.headers.iter();
                let headers: Vec<(&str, &[u8])> = headers
                    .map(|(name, value)| (name.as_str(), value.as_bytes()))
                    .collect();
                let request = HttpRequest {
                    method: &http.method,
                    path: &http.path,
                    host: &http.host,
                    headers: &headers,
                };
                set.decide(&request).is_some()
            });
            if allowed { Verdict::Allow } else { Verdict::L7Deny }
        }
        other => match other.drop_reason() {
            None => Verdict::Allow,
            Some(DropReason::PolicyDenied | DropReason::PolicyDenyRule) => Verdict::Deny,
            Some(reason) => panic!("{reason:?}"),
        },
    }
}

/// What the two say of a flow: the evaluator, then the engine.
fn verdicts(objects: &[Value], flow: &Flow) -> (Verdict, Verdict) {
    let cluster = Cluster::from_objects(objects, LOCAL_NODE, &POD_CIDRS);
    let expected = cluster.decide(&flow.from, &flow.to, flow.protocol, flow.port, flow.http.as_ref());
    let found = engine(objects, &cluster)(flow);
    (expected, found)
}

/// Decides random flows in random clusters; returns how often each verdict came.
///
/// # Panics
/// At the first difference, with the least objects that show it.
fn compare(clusters: u64, seed: u64) -> [usize; 3] {
    let mut counts = [0; 3];
    for number in 0..clusters {
        let mut rng = Rng::new(seed.wrapping_add(number.wrapping_mul(0x1234_5678_9abc_def1)));
        let scenario = Scenario::generate(&mut rng);
        let objects = scenario.objects();
        let cluster = Cluster::from_objects(&objects, LOCAL_NODE, &POD_CIDRS);
        let engine = engine(&objects, &cluster);
        for _ in 0..FLOWS {
            let flow = scenario.flow(&mut rng);
            let expected = cluster.decide(&flow.from, &flow.to, flow.protocol, flow.port, flow.http.as_ref());
            counts[expected as usize] += 1;
            if engine(&flow) != expected {
                panic!(
                    "cluster {number} of seed {seed}: {}",
                    shrink::report(&scenario, &flow)
                );
            }
        }
    }
    counts
}

#[test]
fn the_engine_decides_as_the_naive_evaluator_does() {
    let asked = |name: &str| {
        let text = std::env::var(name).ok()?;
        Some(text.parse::<u64>().expect("a number"))
    };
    let clusters = asked("SLUICE_PROPERTY_CLUSTERS");
    let seed = asked("SLUICE_PROPERTY_SEED").unwrap_or_else(|| match clusters {
        Some(_) => std::time::UNIX_EPOCH.elapsed().expect("clock").as_secs(),
        None => 1,
    });
    let clusters = clusters.unwrap_or(CLUSTERS);
    let counts = compare(clusters, seed);
    eprintln!("seed {seed}: allowed, denied, denied by HTTP rules: {counts:?}");
    let total: usize = counts.iter().sum();
    // A generator whose flows meet no rule would find nothing.
    assert!(
        counts.iter().all(|count| count * 100 >= total),
        "{counts:?} of {total}"
    );
}

/// Names of all fields in a value, and the texts of some.
fn words<'a>(value: &'a Value, into: &mut BTreeSet<&'a str>) {
    match value {
        Value::Object(fields) => {
            for (key, field) in fields {
                into.insert(key);
                words(field, into);
            }
        }
        Value::Array(items) => items.iter().for_each(|item| words(item, into)),
        Value::String(text) => drop(into.insert(text)),
        _ => {}
    }
}

#[test]
fn the_generator_uses_every_field_and_its_flows_meet_every_verdict() {
    let scenarios: Vec<(Scenario, Rng)> = (0..200)
        .map(|seed| {
            let mut rng = Rng::new(seed);
            (Scenario::generate(&mut rng), rng)
        })
        .collect();
    let mut found = BTreeSet::new();
    let mut counts = [0; 3];
    let objects: Vec<Vec<Value>> = scenarios.iter().map(|(scenario, _)| scenario.objects()).collect();
    for ((scenario, mut rng), objects) in scenarios.into_iter().zip(&objects) {
        objects.iter().for_each(|object| words(object, &mut found));
        let cluster = Cluster::from_objects(objects, LOCAL_NODE, &POD_CIDRS);
        for _ in 0..200 {
            let flow = scenario.flow(&mut rng);
            let http = flow.http.as_ref();
            let verdict = cluster.decide(&flow.from, &flow.to, flow.protocol, flow.port, http);
            counts[verdict as usize] += 1;
        }
    }
    let wanted = "CiliumNetworkPolicy CiliumClusterwideNetworkPolicy CiliumCIDRGroup NetworkPolicy ClusterNetworkPolicy \
        spec specs endpointSelector ingress egress ingressDeny egressDeny enableDefaultDeny fromEndpoints toEndpoints \
        fromEntities toEntities fromCIDR toCIDR fromCIDRSet toCIDRSet except cidrGroupRef cidrGroupSelector fromNodes toNodes \
        toServices k8sService k8sServiceSelector toFQDNs toPorts endPort http dns method path host headers headerMatches \
        icmps ipBlock policyTypes namespaceSelector Admin Baseline Accept Deny Pass nodes networks domainNames protocols \
        destinationNamedPort range kube-apiserver unmanaged initContainers hostNetwork LOG NotIn DoesNotExist";
    let missing: Vec<&str> = wanted
        .split_whitespace()
        .filter(|word| !found.contains(word))
        .collect();
    assert!(missing.is_empty(), "never generated: {missing:?}");
    let total: usize = counts.iter().sum();
    assert!(
        counts.iter().all(|count| count * 100 >= total),
        "{counts:?} of {total}"
    );
}
