//! Pods and nodes come, change and go at the API server: what the snapshot says of their addresses at each step.

use policy::{Identity, Revision, Snapshot};

use super::*;
use crate::compile::Compiler;
use crate::index::{Index, IndexConfig};

const NODES: WatchId = POLICIES;
const NAMESPACES: WatchId = POLICIES;

/// What the watches report goes to an index, and each report becomes a snapshot.
struct Cluster {
    inventory: Inventory,
    index: Index,
    compiler: Compiler,
    snapshot: Snapshot,
}

impl Cluster {
    fn new() -> Self {
        let index = Index::new(IndexConfig {
            node_name: "own".into(),
            cluster_name: "default".into(),
            awaits_namespaces: true,
            ..IndexConfig::default()
        });
        let mut cluster = Self {
            inventory: inventory(),
            index,
            compiler: Compiler::default(),
            snapshot: Snapshot {
                revision: Revision(1),
                ..Snapshot::default()
            },
        };
        let db = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "db", "labels": {"team": "data"}}});
        cluster.report(NAMESPACES, Observed::Applied(Box::new(db)));
        cluster
    }

    fn report(&mut self, id: WatchId, observed: Observed) {
        let mut changes = Changes::default();
        self.inventory.observe(id, observed, &mut changes);
        for key in &changes.deleted {
            self.index.delete(key);
        }
        for object in changes.applied {
            self.index.apply(object);
        }
        self.snapshot = self.compiler.compile(&mut self.index, &self.snapshot);
    }

    fn at(&self, addr: &str) -> Identity {
        self.snapshot.ipcache.lookup(addr.parse().unwrap())
    }

    fn is_pod(&self, addr: &str) -> bool {
        self.at(addr) >= Identity::FIRST_ALLOCATED
    }
}

const ADDRESSES: [&str; 2] = ["10.1.0.5", "fd00:1::5"];

/// A pod with both addresses, as the API server has it.
fn running(name: &str, app: &str, phase: &str, deleting: bool) -> Box<Value> {
    let mut pod = json!({"apiVersion": "v1", "kind": "Pod", "spec": {},
        "metadata": {"namespace": "db", "name": name, "uid": name, "labels": {"app": app}},
        "status": {"phase": phase, "podIP": ADDRESSES[0], "podIPs": ADDRESSES.map(|ip| json!({"ip": ip}))}});
    if deleting {
        pod["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
    }
    Box::new(pod)
}

fn node(name: &str, address: &str, pod_cidrs: [&str; 2]) -> Box<Value> {
    Box::new(
        json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name},
        "spec": {"podCIDR": pod_cidrs[0], "podCIDRs": pod_cidrs},
        "status": {"addresses": [{"type": "InternalIP", "address": address}]}}),
    )
}

fn node_key(name: &str) -> ObjectKey {
    ObjectKey {
        kind: Kind::Node,
        namespace: String::new(),
        name: name.into(),
    }
}

#[test]
fn pod_that_has_ended_loses_both_addresses_at_once() {
    for watch in [OWN_PODS, OTHER_PODS] {
        for end in ["Succeeded", "Failed"] {
            let mut cluster = Cluster::new();
            cluster.report(
                NODES,
                Observed::Applied(node("other", "192.0.2.2", ["10.1.0.0/24", "fd00:1::/64"])),
            );
            cluster.report(watch, Observed::Applied(running("job", "job", "Running", false)));
            assert!(ADDRESSES.iter().all(|addr| cluster.is_pod(addr)));
            cluster.report(watch, Observed::Applied(running("job", "job", end, false)));
            for addr in ADDRESSES {
                assert_eq!(cluster.at(addr), Identity::UNMANAGED, "{end} {addr}");
            }
            // Its successor at the same addresses is nobody else.
            cluster.report(
                watch,
                Observed::Applied(running("next", "next", "Running", false)),
            );
            cluster.report(watch, Observed::Applied(running("job", "job", end, true)));
            assert!(ADDRESSES.iter().all(|addr| cluster.is_pod(addr)));
        }
    }
}

#[test]
fn terminating_pod_keeps_its_addresses_until_it_is_gone_or_another_has_them() {
    let mut cluster = Cluster::new();
    cluster.report(
        OTHER_PODS,
        Observed::Applied(running("a", "former", "Running", false)),
    );
    let former = ADDRESSES.map(|addr| cluster.at(addr));
    cluster.report(
        OTHER_PODS,
        Observed::Applied(running("a", "former", "Running", true)),
    );
    assert_eq!(
        ADDRESSES.map(|addr| cluster.at(addr)),
        former,
        "it still closes its connections"
    );
    // By name it would come after the one that has them now.
    cluster.report(
        OTHER_PODS,
        Observed::Applied(running("0", "successor", "Running", false)),
    );
    let successor = ADDRESSES.map(|addr| cluster.at(addr));
    assert!(successor != former && successor[0] >= Identity::FIRST_ALLOCATED);
    cluster.report(OTHER_PODS, Observed::Deleted(key(Kind::Pod, "a")));
    assert_eq!(ADDRESSES.map(|addr| cluster.at(addr)), successor);
    cluster.report(OTHER_PODS, Observed::Deleted(key(Kind::Pod, "0")));
    assert_eq!(
        ADDRESSES.map(|addr| cluster.at(addr)),
        [Identity::WORLD; 2],
        "no pod CIDR is known"
    );
}

#[test]
fn nodes_that_join_change_and_leave_change_the_snapshot_at_once() {
    let mut cluster = Cluster::new();
    let pods = ["10.1.0.5", "fd00:1::5", "10.2.0.5", "fd00:2::5"];
    let at = |cluster: &Cluster| pods.map(|addr| cluster.at(addr));
    assert_eq!(at(&cluster), [Identity::WORLD; 4]);
    cluster.report(
        NODES,
        Observed::Applied(node("own", "192.0.2.1", ["10.0.0.0/24", "fd00::/64"])),
    );
    cluster.report(
        NODES,
        Observed::Applied(node("other", "192.0.2.2", ["10.1.0.0/24", "fd00:1::/64"])),
    );
    assert_eq!(cluster.at("192.0.2.1"), Identity::HOST);
    assert_eq!(cluster.at("192.0.2.2"), Identity::REMOTE_NODE);
    let (unmanaged, world) = (Identity::UNMANAGED, Identity::WORLD);
    assert_eq!(at(&cluster), [unmanaged, unmanaged, world, world]);
    // It was rebooted, and is another machine as far as addresses go.
    cluster.report(
        NODES,
        Observed::Applied(node("other", "192.0.2.3", ["10.2.0.0/24", "fd00:2::/64"])),
    );
    assert_eq!(cluster.at("192.0.2.2"), world);
    assert_eq!(cluster.at("192.0.2.3"), Identity::REMOTE_NODE);
    assert_eq!(at(&cluster), [world, world, unmanaged, unmanaged]);
    let generation = cluster.snapshot.ipcache.generation();
    cluster.report(NODES, Observed::Deleted(node_key("other")));
    assert_eq!(cluster.at("192.0.2.3"), world);
    assert_eq!(at(&cluster), [world; 4]);
    assert_ne!(
        cluster.snapshot.ipcache.generation(),
        generation,
        "flows are judged again"
    );
}

#[test]
fn deletion_of_a_namespace_that_is_told_before_that_of_its_pod_changes_no_address() {
    let mut cluster = Cluster::new();
    cluster.report(
        OTHER_PODS,
        Observed::Applied(running("a", "app", "Running", false)),
    );
    let before = ADDRESSES.map(|addr| cluster.at(addr));
    assert!(before[0] >= Identity::FIRST_ALLOCATED);
    let gone = ObjectKey {
        kind: Kind::Namespace,
        namespace: String::new(),
        name: "db".into(),
    };
    cluster.report(NAMESPACES, Observed::Deleted(gone));
    cluster.report(
        OTHER_PODS,
        Observed::Applied(running("a", "app", "Running", true)),
    );
    assert_eq!(ADDRESSES.map(|addr| cluster.at(addr)), before);
    cluster.report(OTHER_PODS, Observed::Deleted(key(Kind::Pod, "a")));
    assert!(ADDRESSES.iter().all(|addr| !cluster.is_pod(addr)));
}
