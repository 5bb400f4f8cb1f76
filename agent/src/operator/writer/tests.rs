use serde_json::json;

use super::*;
use crate::operator::fake_server::{Asked, Cable, FakeServer};

const CNP: WatchId = WatchId(0);
const NETWORK_POLICY: WatchId = WatchId(1);
const NODE: WatchId = WatchId(2);
const POD: WatchId = WatchId(3);

const CNP_PATH: &str = "/apis/cilium.io/v2/namespaces/db/ciliumnetworkpolicies/web";
const POLICY_PATH: &str = "/apis/networking.k8s.io/v1/namespaces/db/networkpolicies/web";
const EVENTS: &str = "/apis/events.k8s.io/v1/namespaces/db/events";
const NODE_PATH: &str = "/api/v1/nodes/n1";

/// A replica, its server and its term.
struct Replica {
    writer: Writer,
    server: FakeServer,
    cable: Cable,
    term: watch::Sender<Term>,
    metrics: Metrics,
}

impl Replica {
    /// One that follows, of this server.
    fn following(server: &FakeServer) -> Self {
        let cable = Cable::default();
        let (term, led) = watch::channel(None);
        let metrics = Metrics::new(led.clone());
        let config = WriterConfig {
            identity: "replica".into(),
            cluster: "default".into(),
        };
        let kinds = vec![
            Kind::CiliumNetworkPolicy,
            Kind::NetworkPolicy,
            Kind::Node,
            Kind::Pod,
        ];
        Self {
            writer: Writer::new(server.client(&cable), config, kinds, led, metrics.clone()),
            server: server.clone(),
            cable,
            term,
            metrics,
        }
    }

    fn leading(server: &FakeServer) -> Self {
        let replica = Self::following(server);
        replica.lead(Duration::from_secs(3600));
        replica
    }

    fn lead(&self, time: Duration) {
        self.term.send_replace(Some(Instant::now() + time));
    }

    fn see(&mut self, id: WatchId, object: Box<Value>) {
        self.writer.observe(id, Observed::Applied(object));
    }

    /// Does what is due; what was asked for it.
    async fn work(&mut self) -> Vec<Asked> {
        self.server.asked();
        for _ in 0..10 {
            if self.writer.due() > Instant::now() {
                return self.server.asked();
            }
            self.writer.write_next().await;
        }
        panic!("it writes without an end: {:?}", self.server.asked());
    }

    fn metric(&self, line: &str) -> bool {
        self.metrics.render().lines().any(|found| found == line)
    }
}

fn cnp(port: &str) -> Value {
    json!({"apiVersion": "cilium.io/v2", "kind": "CiliumNetworkPolicy",
        "metadata": {"namespace": "db", "name": "web", "uid": "u1", "generation": 1},
        "spec": {"endpointSelector": {}, "ingress": [{"toPorts": [{"ports": [{"port": port, "protocol": "TCP"}]}]}]}})
}

/// A NetworkPolicy, whose CIDR no prefix is if it is to be rejected.
fn network_policy(cidr: &str, generation: i64) -> Value {
    json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"namespace": "db", "name": "web", "uid": "u2", "generation": generation},
        "spec": {"podSelector": {}, "ingress": [{"from": [{"ipBlock": {"cidr": cidr}}]}]}})
}

fn node(taints: &[&str]) -> Value {
    let taints: Vec<Value> = taints
        .iter()
        .map(|key| json!({"key": key, "effect": "NoSchedule"}))
        .collect();
    json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1"}, "spec": {"taints": taints}})
}

fn agent(ready: &str) -> Box<Value> {
    Box::new(
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"namespace": "kube-system", "name": "sluice-1"},
        "spec": {"nodeName": "n1"}, "status": {"conditions": [{"type": "Ready", "status": ready}]}}),
    )
}

fn condition(server: &FakeServer) -> Value {
    server.get(CNP_PATH)["status"]["conditions"][0].clone()
}

#[tokio::test(start_paused = true)]
async fn valid_policy_gets_its_condition_once() {
    let server = FakeServer::default();
    let mut replica = Replica::leading(&server);
    replica.see(CNP, server.put(CNP_PATH, cnp("80")));
    let asked = replica.work().await;
    let [
        Asked {
            method,
            path,
            query,
            body,
        },
    ] = asked.as_slice()
    else {
        panic!("one request, not {asked:?}");
    };
    assert_eq!(
        (method.as_str(), path.as_str()),
        ("PATCH", format!("{CNP_PATH}/status").as_str())
    );
    assert!(
        query.contains("fieldManager=sluice") && query.contains("force=true"),
        "{query}"
    );
    let fields: Vec<&String> = body["status"]["conditions"][0]
        .as_object()
        .unwrap()
        .keys()
        .collect();
    assert_eq!(fields, ["lastTransitionTime", "message", "status", "type"]);
    let written = condition(&server);
    assert_eq!(
        (&written["type"], &written["status"]),
        (&json!("Valid"), &json!("True"))
    );
    assert_eq!(written["message"], "Policy validation succeeded");
    replica.see(CNP, server.get(CNP_PATH));
    assert!(replica.work().await.is_empty());
    assert!(replica.metric(r#"sluice_operator_policies{kind="CiliumNetworkPolicy",valid="true"} 1"#));
    assert!(replica.metric(r#"sluice_operator_status_writes_total{kind="CiliumNetworkPolicy"} 1"#));
    assert!(replica.metric("sluice_operator_leader 1"));
}

#[tokio::test(start_paused = true)]
async fn another_leader_finds_the_condition_and_writes_nothing() {
    let server = FakeServer::default();
    let mut first = Replica::leading(&server);
    first.see(CNP, server.put(CNP_PATH, cnp("80")));
    first.work().await;
    let mut second = Replica::leading(&server);
    second.see(CNP, server.get(CNP_PATH));
    assert!(second.work().await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn invalid_policy_says_which_field_is_wrong() {
    let server = FakeServer::default();
    let mut replica = Replica::leading(&server);
    let mut policy = cnp("http-");
    policy["spec"]["ingres"] = json!([]);
    replica.see(CNP, server.put(CNP_PATH, policy));
    replica.work().await;
    let written = condition(&server);
    assert_eq!(written["status"], "False");
    let message = written["message"].as_str().unwrap();
    assert!(message.contains("spec.ingres: unknown field"), "{message}");
    assert!(
        message.contains("; ") && message.contains("spec.ingress[0].toPorts[0].ports[0].port: "),
        "{message}"
    );
    let rejected =
        r#"sluice_operator_rejected_policy{kind="CiliumNetworkPolicy",namespace="db",name="web"} 1"#;
    assert!(replica.metric(rejected));
    replica.writer.observe(CNP, Observed::ListBegins);
    assert!(replica.metric(rejected), "the list is not complete");
    replica.writer.observe(CNP, Observed::ListEnds);
    assert!(!replica.metric(rejected), "gone with the policy");
    assert!(replica.metric(r#"sluice_operator_policies{kind="CiliumNetworkPolicy",valid="false"} 0"#));
}

#[tokio::test(start_paused = true)]
async fn transition_time_changes_only_with_the_status() {
    const BEFORE: &str = "2020-01-01T00:00:00Z";
    let server = FakeServer::default();
    let mut replica = Replica::leading(&server);
    let with_status = |port: &str, status: &str, message: &str| {
        let mut policy = cnp(port);
        policy["status"]["conditions"] =
            json!([{"type": "Valid", "status": status, "lastTransitionTime": BEFORE, "message": message}]);
        policy
    };
    replica.see(CNP, server.put(CNP_PATH, with_status("80", "True", "fine")));
    replica.work().await;
    assert_eq!(
        condition(&server)["lastTransitionTime"],
        BEFORE,
        "only the message is another"
    );
    assert_eq!(condition(&server)["message"], "Policy validation succeeded");
    replica.see(CNP, server.put(CNP_PATH, with_status("80", "False", "bad")));
    replica.work().await;
    let since: Timestamp = condition(&server)["lastTransitionTime"]
        .as_str()
        .unwrap()
        .parse()
        .unwrap();
    assert!(since.duration_until(Timestamp::now()).as_secs() < 60);
}

#[tokio::test(start_paused = true)]
async fn replica_that_does_not_lead_writes_nothing_until_it_does() {
    let server = FakeServer::default();
    let mut replica = Replica::following(&server);
    replica.see(CNP, server.put(CNP_PATH, cnp("80")));
    replica.see(NETWORK_POLICY, server.put(POLICY_PATH, network_policy("none", 1)));
    replica.see(NODE, server.put(NODE_PATH, node(&[taint::AGENT_NOT_READY])));
    replica.see(POD, agent("True"));
    assert!(replica.work().await.is_empty());
    for _ in 0..3 {
        replica.writer.write_next().await;
    }
    assert!(server.asked().is_empty(), "not even when told to");
    assert!(replica.metric("sluice_operator_leader 0"));
    replica.lead(Duration::from_secs(10));
    assert_eq!(replica.work().await.len(), 3);
}

#[tokio::test(start_paused = true)]
async fn request_is_given_up_when_the_term_ends_and_none_follows() {
    let server = FakeServer::default();
    let mut replica = Replica::following(&server);
    replica.see(CNP, server.put(CNP_PATH, cnp("80")));
    replica.cable.cut();
    let until = Instant::now() + Duration::from_secs(3);
    replica.term.send_replace(Some(until));
    replica.writer.write_next().await;
    assert_eq!(
        (server.asked().len(), Instant::now()),
        (1, until),
        "given up by the replica's own clock"
    );
    replica.cable.mend();
    replica.writer.write_next().await;
    assert!(server.asked().is_empty());

    replica.cable.cut();
    replica.lead(Duration::from_secs(8));
    time::sleep(LEAST_DELAY).await;
    let began = Instant::now();
    let Replica { writer, term, .. } = &mut replica;
    let lose = async {
        time::sleep(Duration::from_secs(1)).await;
        term.send_replace(None);
    };
    tokio::join!(writer.write_next(), lose);
    assert_eq!(
        (server.asked().len(), began.elapsed()),
        (1, Duration::from_secs(1)),
        "or when the lease is lost"
    );
    assert!(server.get(CNP_PATH).get("status").is_none());
}

#[tokio::test(start_paused = true)]
async fn write_that_fails_is_tried_again_later_each_time() {
    let server = FakeServer::default();
    let mut replica = Replica::leading(&server);
    replica.see(CNP, server.put(CNP_PATH, cnp("80")));
    server.fail(&[500, 500]);
    let began = Instant::now();
    assert_eq!(replica.work().await.len(), 1);
    for _ in 0..2 {
        let due = *replica.writer.owed.values().map(|due| &due.at).min().unwrap();
        time::sleep_until(due).await;
        assert_eq!(replica.work().await.len(), 1);
    }
    assert_eq!(began.elapsed(), LEAST_DELAY * 3);
    assert_eq!(condition(&server)["status"], "True");
    assert!(replica.metric(r#"sluice_operator_errors_total{action="status"} 2"#));
}

#[tokio::test(start_paused = true)]
async fn verdict_on_an_older_version_is_not_written() {
    let server = FakeServer::default();
    let mut replica = Replica::leading(&server);
    replica.see(CNP, server.put(CNP_PATH, cnp("80")));
    let newer = server.put(CNP_PATH, cnp("http-"));
    replica.work().await;
    assert!(server.get(CNP_PATH).get("status").is_none());
    replica.see(CNP, newer);
    replica.work().await;
    assert_eq!(condition(&server)["status"], "False");
    assert!(
        !replica.metrics.render().contains("errors_total{"),
        "nothing went wrong"
    );
}

#[tokio::test(start_paused = true)]
async fn rejected_network_policy_gets_one_event_whoever_leads() {
    let server = FakeServer::default();
    let mut replica = Replica::leading(&server);
    let rejected = server.put(POLICY_PATH, network_policy("none", 1));
    replica.see(NETWORK_POLICY, rejected.clone());
    assert_eq!(replica.work().await.len(), 1);
    let [path] = server.paths(EVENTS).try_into().unwrap();
    let event = server.get(&path);
    assert_eq!(
        (&event["type"], &event["reason"]),
        (&json!("Warning"), &json!("PolicyRejected"))
    );
    let regarding = json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "namespace": "db",
        "name": "web", "uid": "u2"});
    assert_eq!(event["regarding"], regarding);
    let note = event["note"].as_str().unwrap();
    assert!(
        note.starts_with("spec.ingress[0].from[0].ipBlock.cidr: "),
        "{note}"
    );

    replica.see(NETWORK_POLICY, rejected.clone());
    assert!(replica.work().await.is_empty(), "told already");
    let mut other = Replica::leading(&server);
    other.see(NETWORK_POLICY, rejected);
    assert_eq!(other.work().await.len(), 1);
    assert_eq!(server.paths(EVENTS).len(), 1, "told by the former leader");
    assert!(other.metric("sluice_operator_rejection_events_total 0"));
    assert!(!other.metrics.render().contains("errors_total{"));

    other.see(
        NETWORK_POLICY,
        server.put(POLICY_PATH, network_policy("none either", 2)),
    );
    other.work().await;
    assert_eq!(server.paths(EVENTS).len(), 2, "another text, another event");
    other.see(
        NETWORK_POLICY,
        server.put(POLICY_PATH, network_policy("10.0.0.0/8", 3)),
    );
    assert!(other.work().await.is_empty(), "nothing is said of a valid one");
}

#[tokio::test(start_paused = true)]
async fn event_that_the_server_has_forgotten_is_written_again() {
    let server = FakeServer::default();
    let mut replica = Replica::leading(&server);
    replica.see(NETWORK_POLICY, server.put(POLICY_PATH, network_policy("none", 1)));
    replica.work().await;
    replica.writer.announce_again();
    assert_eq!(replica.work().await.len(), 1);
    assert!(
        replica.metric("sluice_operator_rejection_events_total 1"),
        "still there: refused"
    );
    let other = FakeServer::default();
    replica.writer.client = other.client(&replica.cable);
    replica.writer.announce_again();
    replica.work().await;
    assert_eq!(other.paths(EVENTS).len(), 1);
}

#[tokio::test(start_paused = true)]
async fn taint_is_taken_off_when_the_agent_is_ready_and_other_taints_stay() {
    let server = FakeServer::default();
    let mut replica = Replica::leading(&server);
    let taints = [
        "dedicated",
        taint::AGENT_NOT_READY,
        "node.kubernetes.io/unschedulable",
    ];
    replica.see(NODE, server.put(NODE_PATH, node(&taints)));
    replica.see(POD, agent("False"));
    assert!(replica.work().await.is_empty(), "not ready");
    replica.see(POD, agent("True"));
    assert_eq!(replica.work().await.len(), 1);
    assert_eq!(
        server.get(NODE_PATH)["spec"],
        node(&[taints[0], taints[2]])["spec"]
    );
    replica.see(NODE, server.get(NODE_PATH));
    assert!(replica.work().await.is_empty());
    assert!(replica.metric("sluice_operator_taints_removed_total 1"));
}

#[tokio::test(start_paused = true)]
async fn taint_that_came_meanwhile_is_not_lost() {
    let server = FakeServer::default();
    let mut replica = Replica::leading(&server);
    replica.see(POD, agent("True"));
    replica.see(NODE, server.put(NODE_PATH, node(&[taint::AGENT_NOT_READY])));
    let newer = server.put(
        NODE_PATH,
        node(&[taint::AGENT_NOT_READY, "node.kubernetes.io/not-ready"]),
    );
    replica.work().await;
    assert_eq!(server.get(NODE_PATH), newer, "the patch is refused");
    replica.see(NODE, newer);
    replica.work().await;
    assert_eq!(
        server.get(NODE_PATH)["spec"],
        node(&["node.kubernetes.io/not-ready"])["spec"]
    );
}

#[tokio::test(start_paused = true)]
async fn kinds_whose_crd_is_not_installed_are_no_error() {
    let mut replica = Replica::leading(&FakeServer::default());
    replica.writer.observe(CNP, Observed::Absent);
    assert!(replica.work().await.is_empty());
    assert!(!replica.metrics.render().contains("errors_total{"));
}
