use std::fs;
use std::path::Path;
use std::time::Duration;

use policy::{Identity, Slot, SlotGeneration};
use tokio::time;

use super::*;
use crate::kubernetes::KubernetesConfig;
use crate::manifest::{self, Document};
use crate::object::{Kind, ObjectKey};

const POD: &str = "
apiVersion: v1
kind: Pod
metadata: {name: bad, namespace: db, uid: u-bad, labels: {app: bad, pod-template-hash: h}}
spec: {serviceAccountName: robot, containers: [{name: c, ports: [{name: web, containerPort: 8080}]}]}
status: {podIPs: [{ip: 10.1.0.3}]}
";

const OTHERS: &str = "
apiVersion: v1
kind: Namespace
metadata: {name: db, labels: {team: red}}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: asks, namespace: db}
spec:
  podSelector: {matchLabels: {pod-template-hash: h}}
  policyTypes: [Ingress, Egress]
  ingress: [{from: [{ipBlock: {cidr: 10.1.0.0/29}}]}]
  egress: [{ports: [{port: web}]}]
";

const KEY: EndpointKey = EndpointKey {
    slot: Slot::FIRST_ENDPOINT,
    generation: SlotGeneration(3),
};

/// A control plane of an API server that does not answer: tests say what it says.
async fn start(dir: &Path) -> ControlHandle {
    let kubeconfig = dir.join("kubeconfig");
    // Port 9 (discard) of the loopback: nobody listens.
    let text = "{apiVersion: v1, kind: Config, current-context: c, clusters: [{name: c, cluster: {server: 'http://127.0.0.1:9'}}],
        contexts: [{name: c, context: {cluster: c, user: u}}], users: [{name: u, user: {}}]}";
    fs::write(&kubeconfig, text).expect("file");
    let config = KubernetesConfig {
        kubeconfig: Some(kubeconfig),
    };
    Control::start(ControlConfig {
        kubernetes: Some(ApiServer::new(&config).await.expect("a client")),
        persist: Some(dir.join("snapshot.json")),
        node_name: "node-1".into(),
        ..ControlConfig::default()
    })
    .await
}

/// Everything that the API server has, or what comes and goes.
fn told(handle: &ControlHandle, applied: &[&str], deleted: Vec<ObjectKey>) {
    let documents = applied.iter().flat_map(|yaml| manifest::parse(yaml, "default"));
    let applied = documents.map(|document| match document {
        Document::Object { object, .. } => *object,
        Document::Invalid { key, faults } => panic!("{key:?}: {faults:#?}"),
    });
    handle.shared.observed(Update {
        changes: Changes {
            applied: applied.collect(),
            deleted,
        },
        is_synced: true,
        errors: Vec::new(),
        failures: Vec::new(),
        good: None,
    });
}

fn attach(handle: &ControlHandle, uid: Option<&str>, key: EndpointKey, addr: &str) {
    handle.endpoint_add(LocalEndpoint {
        key,
        pod: "db/bad".parse().expect("namespace/name"),
        uid: uid.map(Into::into),
        addresses: vec![addr.parse().expect("address")],
        audit: false,
    });
}

fn identity(handle: &ControlHandle, key: EndpointKey) -> Identity {
    let snapshot = Arc::clone(&handle.snapshots().borrow());
    snapshot.endpoint(key).expect("an endpoint").identity
}

async fn until_persisted(dir: &Path, handle: &ControlHandle) {
    let revision = handle.snapshots().borrow().revision;
    let is_written = || {
        let restored = Restored::load(&dir.join("snapshot.json")).expect("a snapshot");
        restored.is_some_and(|restored| restored.snapshot().revision == revision)
    };
    let written = async {
        while !is_written() {
            time::sleep(Duration::from_millis(5)).await;
        }
    };
    time::timeout(Duration::from_secs(10), written)
        .await
        .expect("persisted");
}

/// A node on which `db/bad` ran until its agent ended; the pod's identity.
async fn ran(dir: &Path) -> Identity {
    let handle = start(dir).await;
    attach(&handle, Some("u-bad"), KEY, "10.1.0.3");
    told(&handle, &[OTHERS, POD], Vec::new());
    until_persisted(dir, &handle).await;
    identity(&handle, KEY)
}

#[tokio::test(flavor = "multi_thread")]
async fn pod_whose_object_went_while_no_agent_ran_stays_who_it_was() {
    let dir = tempfile::tempdir().expect("temporary folder");
    let bad = ran(dir.path()).await;
    assert!(bad >= Identity::FIRST_ALLOCATED);
    // Also if the endpoint comes after the source was read, and at the next restart again.
    for comes_first in [true, false, true] {
        let handle = start(dir.path()).await;
        let come = || attach(&handle, Some("u-bad"), KEY, "10.1.0.3");
        if comes_first {
            come();
        }
        told(&handle, &[OTHERS], Vec::new());
        if !comes_first {
            come();
        }
        assert_eq!(identity(&handle, KEY), bad, "{comes_first}");
        if !comes_first {
            until_persisted(dir.path(), &handle).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pod_that_was_restored_has_all_that_its_labels_told_until_its_object_tells_more() {
    let dir = tempfile::tempdir().expect("temporary folder");
    let bad = ran(dir.path()).await;
    let handle = start(dir.path()).await;
    attach(&handle, Some("u-bad"), KEY, "10.1.0.3");
    let blue = OTHERS.replace("red", "blue");
    told(&handle, &[&blue], Vec::new());
    let snapshot = Arc::clone(&handle.snapshots().borrow());
    let labels = snapshot.identities[&identity(&handle, KEY)].join(" ");
    for label in [
        "k8s:app=bad",
        "upstream:pod-template-hash=h",
        "upstream:port/web/TCP=8080",
        "cidr:10.1.0.0/29",
        "k8s:io.cilium.k8s.policy.serviceaccount=robot",
        "k8s:io.cilium.k8s.namespace.labels.team=blue",
    ] {
        assert!(labels.contains(label), "{label} is not in {labels}");
    }
    told(&handle, &[OTHERS], Vec::new());
    assert_eq!(identity(&handle, KEY), bad);
    told(&handle, &[&POD.replace("app: bad", "app: good")], Vec::new());
    let good = identity(&handle, KEY);
    assert_ne!(good, bad);
    let key = ObjectKey {
        kind: Kind::Pod,
        namespace: "db".into(),
        name: "bad".into(),
    };
    told(&handle, &[], vec![key]);
    assert_eq!(identity(&handle, KEY), good, "the last that was heard of it");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_former_process_knew_is_of_its_attachment_only() {
    let dir = tempfile::tempdir().expect("temporary folder");
    let bad = ran(dir.path()).await;
    let file = dir.path().join("snapshot.json");
    let persisted = fs::read(&file).expect("a snapshot");
    let next = EndpointKey {
        generation: SlotGeneration(4),
        ..KEY
    };
    for (uid, key, addr, is_same) in [
        (Some("u-bad"), KEY, "10.1.0.3", true),
        (Some("u-next"), next, "10.1.0.3", false),
        (Some("u-bad"), KEY, "10.1.0.4", false),
        (None, KEY, "10.1.0.3", false),
    ] {
        fs::write(&file, &persisted).expect("file");
        let handle = start(dir.path()).await;
        told(&handle, &[OTHERS], Vec::new());
        attach(&handle, uid, key, addr);
        assert_eq!(identity(&handle, key) == bad, is_same, "{uid:?} {addr}");
        assert_eq!(
            identity(&handle, key) == Identity::INIT,
            !is_same,
            "{uid:?} {addr}"
        );
        until_persisted(dir.path(), &handle).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn addresses_of_the_nodes_interfaces_are_published_when_they_change() {
    let dir = tempfile::tempdir().expect("temporary folder");
    let handle = start(dir.path()).await;
    let vip: IpAddr = "192.0.2.100".parse().expect("address");
    let at = |handle: &ControlHandle| handle.snapshots().borrow().ipcache.lookup(vip);
    handle.node_addresses([vip].into());
    // Nothing is published before the source was read; then what was told meanwhile holds.
    assert_eq!(handle.snapshots().borrow().revision, Revision(0));
    told(&handle, &[OTHERS], Vec::new());
    assert_eq!(at(&handle), Identity::HOST);
    handle.node_addresses(BTreeSet::new());
    assert_eq!(at(&handle), Identity::WORLD);
}
