//! The running control plane: a folder that changes, a source that goes away, a restart.

use std::fs;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use policy::{Decision, EndpointKey, Identity, PodName, Protocol, Revision, Slot, SlotGeneration, Snapshot};
use sluice_control::{
    ApiServer, Control, ControlConfig, ControlHandle, KubernetesConfig, LocalEndpoint, Outcome, PartyName,
    Question,
};

const PODS: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: postgres, namespace: db, labels: {app: postgres}}
spec: {containers: []}
status: {podIPs: [{ip: 10.1.0.2}]}
---
apiVersion: v1
kind: Pod
metadata: {name: flask, namespace: db, labels: {app: flask-app}}
spec: {containers: []}
status: {podIPs: [{ip: 10.1.0.3}]}
---
apiVersion: v1
kind: Pod
metadata: {name: debug, namespace: db, labels: {app: debug}}
spec: {containers: []}
status: {podIPs: [{ip: 10.1.0.4}]}
"#;

const POLICY: &str = r#"
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: flask-app-to-db, namespace: db}
spec:
  endpointSelector: {matchLabels: {app: postgres}}
  ingress:
  - fromEndpoints: [{matchLabels: {app: flask-app}}]
    toPorts:
    - ports: [{port: "5432", protocol: TCP}]
  - toPorts:
    - ports: [{port: "80", protocol: TCP}]
      rules: {http: [{method: GET, path: "/"}]}
"#;

struct Node {
    dir: tempfile::TempDir,
}

impl Node {
    fn new() -> Self {
        Self {
            dir: tempfile::tempdir().expect("temporary folder"),
        }
    }

    fn manifests(&self) -> PathBuf {
        self.dir.path().join("manifests")
    }

    fn persisted(&self) -> PathBuf {
        self.dir.path().join("snapshot.json")
    }

    /// Writes as careful writers do: readers see the old or the new file.
    fn write(&self, name: &str, text: &str) {
        fs::create_dir_all(self.manifests()).expect("folder");
        let temporary = self.manifests().join(format!(".{name}"));
        fs::write(&temporary, text).expect("file");
        fs::rename(temporary, self.manifests().join(name)).expect("rename");
    }

    async fn start(&self) -> ControlHandle {
        Control::start(ControlConfig {
            manifests: Some(self.manifests()),
            persist: Some(self.persisted()),
            node_name: "node-1".into(),
            ..ControlConfig::default()
        })
        .await
    }
}

fn endpoint(slot: u16, pod: &str, addr: &str) -> LocalEndpoint {
    LocalEndpoint {
        key: key(slot),
        pod: pod.parse().expect("namespace/name"),
        uid: None,
        addresses: vec![addr.parse().expect("address")],
        audit: false,
    }
}

fn key(slot: u16) -> EndpointKey {
    EndpointKey {
        slot: Slot(slot),
        generation: SlotGeneration(7),
    }
}

/// What the postgres endpoint in `slot` says to a peer's address.
fn decide(snapshot: &Snapshot, slot: u16, from: &str, port: u16) -> Decision {
    let peer = snapshot.ipcache.lookup(from.parse::<IpAddr>().expect("address"));
    snapshot
        .endpoint(key(slot))
        .expect("endpoint")
        .ingress
        .decide(peer, Protocol::TCP, port)
}

fn is_allowed(snapshot: &Snapshot, slot: u16, from: &str) -> bool {
    decide(snapshot, slot, from, 5432).drop_reason().is_none()
}

/// Waits for a snapshot that satisfies `condition`.
async fn until(handle: &ControlHandle, what: &str, condition: impl Fn(&Snapshot) -> bool) -> Arc<Snapshot> {
    let mut snapshots = handle.snapshots();
    let waited = tokio::time::timeout(
        Duration::from_secs(20),
        snapshots.wait_for(|snapshot| condition(snapshot)),
    );
    match waited.await {
        Ok(Ok(snapshot)) => Arc::clone(&snapshot),
        Ok(Err(_)) => panic!("{what}: the control plane ended"),
        Err(_) => panic!("{what}: not within 20 s; {:?}", handle.status()),
    }
}

/// Waits for anything else.
async fn eventually(what: &str, condition: impl Fn() -> bool) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(tokio::time::Instant::now() < deadline, "{what}: not within 20 s");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn published(handle: &ControlHandle) -> Arc<Snapshot> {
    Arc::clone(&handle.snapshots().borrow())
}

#[tokio::test]
async fn nothing_is_published_before_the_source_has_been_read() {
    let node = Node::new();
    let handle = node.start().await;
    handle.endpoint_add(endpoint(8, "db/postgres", "10.1.0.2"));
    assert_eq!(published(&handle).revision, Revision(0));
    assert!(published(&handle).endpoint(key(8)).is_none());
    let status = handle.status();
    assert!(
        !status.synced && status.stale_since.is_some() && status.source_errors.len() == 1,
        "{status:?}"
    );
    node.write("pods.yaml", PODS);
    let snapshot = until(&handle, "the folder appears", |s| s.endpoint(key(8)).is_some()).await;
    assert!(snapshot.revision > Revision(0));
    assert!(handle.status().synced && handle.status().stale_since.is_none());
}

#[tokio::test]
async fn an_empty_source_is_something_to_enforce() {
    let node = Node::new();
    fs::create_dir(node.manifests()).expect("folder");
    let handle = node.start().await;
    assert_eq!(published(&handle).revision, Revision(1));
    handle.endpoint_add(endpoint(8, "db/postgres", "10.1.0.2"));
    assert_eq!(
        published(&handle).endpoint(key(8)).expect("endpoint").identity,
        Identity::INIT
    );
}

#[tokio::test]
async fn a_changed_file_is_enforced_without_restart() {
    let node = Node::new();
    node.write("pods.yaml", PODS);
    let handle = node.start().await;
    handle.endpoint_add(endpoint(8, "db/postgres", "10.1.0.2"));
    assert!(is_allowed(&published(&handle), 8, "10.1.0.4"), "no policy");
    node.write("policy.yaml", POLICY);
    let snapshot = until(&handle, "policy added", |s| !is_allowed(s, 8, "10.1.0.4")).await;
    assert!(is_allowed(&snapshot, 8, "10.1.0.3"));
    node.write("policy.yaml", &POLICY.replace("flask-app}", "debug}"));
    let snapshot = until(&handle, "policy changed", |s| is_allowed(s, 8, "10.1.0.4")).await;
    assert!(!is_allowed(&snapshot, 8, "10.1.0.3"));
    fs::remove_file(node.manifests().join("policy.yaml")).expect("file");
    until(&handle, "policy removed", |s| is_allowed(s, 8, "10.1.0.3")).await;
    fs::create_dir(node.manifests().join("deeper")).expect("folder");
    fs::write(node.manifests().join("deeper/policy.yaml"), POLICY).expect("file");
    until(&handle, "policy added again", |s| !is_allowed(s, 8, "10.1.0.4")).await;
}

#[tokio::test]
async fn an_invalid_file_is_reported_and_changes_nothing() {
    let node = Node::new();
    node.write("pods.yaml", PODS);
    node.write("policy.yaml", POLICY);
    let handle = node.start().await;
    handle.endpoint_add(endpoint(8, "db/postgres", "10.1.0.2"));
    let before = published(&handle);
    node.write("policy.yaml", &POLICY.replace("fromEndpoints", "fromEndpoint"));
    eventually("the error is reported", || !handle.status().errors.is_empty()).await;
    let status = handle.status();
    let [error] = status.errors.as_slice() else {
        panic!("{status:?}")
    };
    assert_eq!(error.file, node.manifests().join("policy.yaml"));
    assert_eq!(
        (error.line, error.field.as_str()),
        (Some(8), "spec.ingress[0].fromEndpoint")
    );
    assert_eq!(
        error.object.as_deref(),
        Some("CiliumNetworkPolicy db/flask-app-to-db")
    );
    assert_eq!(published(&handle).revision, before.revision);
    node.write("policy.yaml", POLICY);
    eventually("the error goes away", || handle.status().errors.is_empty()).await;
    assert_eq!(published(&handle).revision, before.revision);
}

#[tokio::test]
async fn a_source_that_goes_away_leaves_its_last_good_state() {
    let node = Node::new();
    node.write("pods.yaml", PODS);
    node.write("policy.yaml", POLICY);
    let handle = node.start().await;
    handle.endpoint_add(endpoint(8, "db/postgres", "10.1.0.2"));
    let away = node.dir.path().join("away");
    fs::rename(node.manifests(), &away).expect("rename");
    eventually("the source is away", || handle.status().stale_since.is_some()).await;
    assert!(
        is_allowed(&published(&handle), 8, "10.1.0.3") && !is_allowed(&published(&handle), 8, "10.1.0.4")
    );
    // Another folder takes its place; the watch must not be on the old one.
    fs::remove_file(away.join("policy.yaml")).expect("file");
    fs::rename(&away, node.manifests()).expect("rename");
    until(&handle, "the policy is gone with the new folder", |s| {
        is_allowed(s, 8, "10.1.0.4")
    })
    .await;
    assert!(handle.status().stale_since.is_none());
    node.write("policy.yaml", POLICY);
    until(&handle, "the new folder is watched", |s| {
        !is_allowed(s, 8, "10.1.0.4")
    })
    .await;
}

/// Runs a node with a source until its state is persisted, then ends it.
async fn run_once(node: &Node) -> Arc<Snapshot> {
    node.write("pods.yaml", PODS);
    node.write("policy.yaml", POLICY);
    let handle = node.start().await;
    handle.endpoint_add(endpoint(8, "db/postgres", "10.1.0.2"));
    let last = published(&handle);
    until_persisted(node, last.revision).await;
    last
}

async fn until_persisted(node: &Node, revision: Revision) {
    let saved = || {
        let bytes = fs::read(node.persisted()).ok()?;
        policy::persist::from_json(&bytes)
            .ok()
            .map(|snapshot| snapshot.revision)
    };
    eventually("the snapshot is persisted", || saved() == Some(revision)).await;
}

#[tokio::test]
async fn a_restart_without_source_enforces_the_persisted_snapshot() {
    let node = Node::new();
    let last = run_once(&node).await;
    let away = node.dir.path().join("away");
    fs::rename(node.manifests(), &away).expect("rename");
    let handle = node.start().await;
    let first = published(&handle);
    assert!(first.revision > last.revision);
    assert_eq!(
        first.endpoints.iter().flatten().count(),
        0,
        "slots of the former process mean nothing"
    );
    let status = handle.status();
    assert!(!status.synced && status.stale_since.is_some(), "{status:?}");

    handle.endpoint_add(endpoint(20, "db/postgres", "10.1.0.2"));
    handle.endpoint_add(endpoint(21, "db/stranger", "10.1.0.9"));
    let snapshot = published(&handle);
    assert!(is_allowed(&snapshot, 20, "10.1.0.3"));
    assert!(!is_allowed(&snapshot, 20, "10.1.0.4") && !is_allowed(&snapshot, 20, "10.1.0.9"));
    assert!(
        matches!(decide(&snapshot, 20, "10.1.0.4", 80), Decision::AllowHttp(..)),
        "HTTP rules are restored"
    );
    let stranger = snapshot.endpoint(key(21)).expect("endpoint");
    assert_eq!(stranger.identity, Identity::INIT);
    assert!(
        stranger
            .egress
            .decide(Identity::WORLD, Protocol::TCP, 80)
            .drop_reason()
            .is_some()
    );
    assert_eq!(
        snapshot.ipcache.lookup("10.1.0.9".parse().expect("address")),
        Identity::INIT
    );

    // The persisted state outlives a second restart without source, whatever endpoints came in between.
    drop(handle);
    let handle = node.start().await;
    handle.endpoint_add(endpoint(30, "db/postgres", "10.1.0.2"));
    assert!(is_allowed(&published(&handle), 30, "10.1.0.3"));

    fs::rename(&away, node.manifests()).expect("rename");
    eventually("the source is back", || handle.status().synced).await;
    let snapshot = published(&handle);
    assert!(is_allowed(&snapshot, 30, "10.1.0.3") && !is_allowed(&snapshot, 30, "10.1.0.4"));
    let identity = |snapshot: &Snapshot| snapshot.ipcache.lookup("10.1.0.3".parse().expect("address"));
    assert_eq!(
        identity(&snapshot),
        identity(&last),
        "identities keep their numbers"
    );
}

/// `db/postgres` as CNI attaches it: with the uid of the pod.
fn of_uid(uid: &str, key: EndpointKey) -> LocalEndpoint {
    LocalEndpoint {
        key,
        uid: Some(uid.into()),
        ..endpoint(key.slot.0, "db/postgres", "10.1.0.2")
    }
}

/// Runs a node on which `db/postgres` has a uid until its state is persisted, then ends it; what is left is a node without source.
async fn run_once_with_uid(node: &Node) -> Arc<Snapshot> {
    node.write(
        "pods.yaml",
        &PODS.replace("{name: postgres,", "{name: postgres, uid: u-1,"),
    );
    node.write("policy.yaml", POLICY);
    let handle = node.start().await;
    handle.endpoint_add(of_uid("u-1", key(8)));
    let last = published(&handle);
    assert!(is_allowed(&last, 8, "10.1.0.3") && !is_allowed(&last, 8, "10.1.0.4"));
    until_persisted(node, last.revision).await;
    fs::remove_dir_all(node.manifests()).expect("folder");
    last
}

/// A node whose API server does not answer.
async fn start_without_api_server(node: &Node) -> ControlHandle {
    let kubeconfig = node.dir.path().join("kubeconfig");
    // Port 9 (discard) of the loopback: nobody listens.
    let text = "
apiVersion: v1
kind: Config
current-context: c
clusters: [{name: c, cluster: {server: 'http://127.0.0.1:9'}}]
contexts: [{name: c, context: {cluster: c, user: u}}]
users: [{name: u, user: {}}]
";
    fs::write(&kubeconfig, text).expect("file");
    let config = KubernetesConfig {
        kubeconfig: Some(kubeconfig),
    };
    let server = ApiServer::new(&config).await.expect("a client");
    Control::start(ControlConfig {
        kubernetes: Some(server),
        persist: Some(node.persisted()),
        node_name: "node-1".into(),
        ..ControlConfig::default()
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_with_a_uid_has_its_persisted_policy_after_a_restart_without_api_server() {
    let node = Node::new();
    let last = run_once_with_uid(&node).await;
    // The second restart has what the first one had.
    for restart in 1..=2 {
        let handle = start_without_api_server(&node).await;
        handle.endpoint_add(of_uid("u-1", key(8)));
        let snapshot = published(&handle);
        let policy = |snapshot: &Snapshot| snapshot.endpoint(key(8)).map(|policy| policy.identity);
        assert_eq!(policy(&snapshot), policy(&last), "restart {restart}");
        assert!(is_allowed(&snapshot, 8, "10.1.0.3"), "restart {restart}");
        assert!(!is_allowed(&snapshot, 8, "10.1.0.4"), "restart {restart}");
        assert!(!handle.status().synced, "restart {restart}");
    }
}

/// The registry gives a key to one attachment only, so another uid comes with another generation of the slot or with another slot.
#[tokio::test(flavor = "multi_thread")]
async fn a_pod_of_the_same_name_and_address_with_another_uid_is_init_after_a_restart_without_api_server() {
    let node = Node::new();
    run_once_with_uid(&node).await;
    let next = EndpointKey {
        generation: SlotGeneration(8),
        ..key(8)
    };
    for restart in 1..=2 {
        for key in [next, key(9)] {
            let handle = start_without_api_server(&node).await;
            handle.endpoint_add(of_uid("u-2", key));
            let snapshot = published(&handle);
            let policy = snapshot.endpoint(key).expect("endpoint");
            assert_eq!(policy.identity, Identity::INIT, "restart {restart} {key:?}");
            let from_flask = policy.ingress.decide(
                snapshot.ipcache.lookup("10.1.0.3".parse().expect("address")),
                Protocol::TCP,
                5432,
            );
            assert!(from_flask.drop_reason().is_some(), "restart {restart} {key:?}");
            // Nor is it taken for the former pod as somebody's peer.
            let peer = snapshot.ipcache.lookup("10.1.0.2".parse().expect("address"));
            assert_eq!(peer, Identity::INIT, "restart {restart} {key:?}");
        }
    }
}

#[tokio::test]
async fn a_file_that_is_invalid_at_the_restart_does_not_weaken_what_was_enforced() {
    let node = Node::new();
    run_once(&node).await;
    node.write("policy.yaml", &POLICY.replace("fromEndpoints", "fromEndpoint"));
    let handle = node.start().await;
    handle.endpoint_add(endpoint(8, "db/postgres", "10.1.0.2"));
    assert!(handle.status().synced && handle.status().errors.len() == 1);
    assert!(
        is_allowed(&published(&handle), 8, "10.1.0.3") && !is_allowed(&published(&handle), 8, "10.1.0.4")
    );
    fs::remove_file(node.manifests().join("policy.yaml")).expect("file");
    until(&handle, "the policy goes with its file", |s| {
        is_allowed(s, 8, "10.1.0.4")
    })
    .await;
}

#[tokio::test]
async fn a_persisted_policy_is_not_for_a_pod_at_another_address() {
    let node = Node::new();
    run_once(&node).await;
    fs::remove_dir_all(node.manifests()).expect("folder");
    let handle = node.start().await;
    // The name of one pod at the address of another, and at an address that is nobody's.
    for (slot, addr) in [(20, "10.1.0.3"), (21, "10.1.0.77")] {
        handle.endpoint_add(endpoint(slot, "db/postgres", addr));
        let snapshot = published(&handle);
        assert_eq!(
            snapshot.endpoint(key(slot)).expect("endpoint").identity,
            Identity::INIT,
            "{addr}"
        );
        assert!(!is_allowed(&snapshot, slot, "10.1.0.3"), "{addr}");
    }
}

#[tokio::test]
async fn a_damaged_persisted_snapshot_is_reported_and_not_enforced() {
    for damage in ["{\"version\":99}", "{\"version\":1,", "\u{0}"] {
        let node = Node::new();
        fs::write(node.persisted(), damage).expect("file");
        let handle = node.start().await;
        handle.endpoint_add(endpoint(8, "db/postgres", "10.1.0.2"));
        assert_eq!(published(&handle).revision, Revision(0), "{damage}");
        assert!(
            handle
                .status()
                .source_errors
                .iter()
                .any(|e| e.contains("persisted snapshot")),
            "{damage}"
        );
        node.write("pods.yaml", PODS);
        until(&handle, "the source is enough", |s| s.endpoint(key(8)).is_some()).await;
    }
}

#[tokio::test]
async fn a_deleted_endpoint_is_gone_from_the_snapshot_and_its_slots_new_occupant_stays() {
    let node = Node::new();
    node.write("pods.yaml", PODS);
    let handle = node.start().await;
    handle.endpoint_add(endpoint(8, "db/postgres", "10.1.0.2"));
    let mut second = endpoint(8, "db/flask", "10.1.0.3");
    second.key.generation = SlotGeneration(8);
    handle.endpoint_add(second.clone());
    assert!(
        published(&handle).endpoint(key(8)).is_none(),
        "the former occupant has no policy any more"
    );
    handle.endpoint_delete(key(8));
    assert!(published(&handle).endpoint(second.key).is_some());
    handle.endpoint_delete(second.key);
    assert!(published(&handle).endpoint(second.key).is_none());
    assert_eq!(handle.status().endpoints, 0);
}

#[tokio::test]
async fn explain_and_status_speak_of_the_current_state() {
    let node = Node::new();
    node.write("pods.yaml", PODS);
    node.write("policy.yaml", POLICY);
    let handle = node.start().await;
    let name = |text: &str| text.parse::<PodName>().expect("name");
    let question = Question {
        from: PartyName::Pod(name("db/flask")),
        to: PartyName::Pod(name("db/postgres")),
        port: 5432,
        protocol: Protocol::TCP,
        http: None,
    };
    let explained = handle.explain(&question).expect("known pods").remove(0);
    assert_eq!(explained.verdict, Outcome::Allow);
    let json = serde_json::to_value(&explained).expect("json");
    assert_eq!(json["ingress"]["rules"][0], "cnp db/flask-app-to-db ingress[0]");
    assert_eq!(json["ingress"]["local"], false);
    assert_eq!(json["ingress"]["verdict"], "allowed");
    assert_eq!(json["egress"]["verdict"], "not-enforced");
    let status = serde_json::to_value(handle.status()).expect("json");
    assert_eq!(status["objects"]["Pod"], 3);
    assert_eq!(status["objects"]["CiliumNetworkPolicy"], 1);
    assert_eq!(status["synced"], true);
}
