//! Kubernetes NetworkPolicy against the truth tables of `data/`, case by case and pod by pod.

use std::collections::BTreeMap;
use std::net::IpAddr;

use policy::{PodName, Protocol};
use serde::Deserialize;
use serde_json::{Value, json};
use sluice_control::object::{self, Decoded, Kind, ObjectKey};
use sluice_control::{Engine, Flow, Index, IndexConfig, Outcome};

#[derive(Deserialize)]
struct Case {
    description: String,
    steps: Vec<Step>,
}

#[derive(Deserialize)]
struct Step {
    actions: Vec<BTreeMap<String, Value>>,
    /// `PROTOCOL/port`.
    ports: Vec<String>,
    rows: BTreeMap<String, String>,
}

fn port(text: &str) -> (Protocol, u16) {
    let (protocol, port) = text.split_once('/').expect("PROTOCOL/port");
    let known = [Protocol::TCP, Protocol::UDP, Protocol::SCTP];
    let protocol = known
        .into_iter()
        .find(|p| p.name() == protocol)
        .expect("protocol");
    (protocol, port.parse().expect("port"))
}

/// A cluster of three namespaces with three pods each.
struct Cluster {
    index: Index,
    /// Addresses and labels of the pods.
    pods: BTreeMap<PodName, (IpAddr, Value)>,
}

impl Cluster {
    fn new() -> Self {
        let config = IndexConfig {
            cluster_name: "default".into(),
            ..IndexConfig::default()
        };
        let mut cluster = Self {
            index: Index::new(config),
            pods: BTreeMap::new(),
        };
        let mut host = 0;
        for namespace in ["x", "y", "z"] {
            cluster.namespace(namespace, &json!({"ns": namespace}));
            for name in ["a", "b", "c"] {
                host += 1;
                let addr = IpAddr::from([192, 168, 1, host]);
                cluster.pod(
                    PodName {
                        namespace: namespace.into(),
                        name: name.into(),
                    },
                    addr,
                    json!({"pod": name}),
                );
            }
        }
        cluster
    }

    fn apply(&mut self, value: &Value) {
        match object::decode(value, "default") {
            Decoded::Object(object) => self.index.apply(*object),
            other => panic!("{value}: {other:?}"),
        }
    }

    fn namespace(&mut self, name: &str, labels: &Value) {
        self.apply(
            &json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}),
        );
    }

    fn pod(&mut self, name: PodName, addr: IpAddr, labels: Value) {
        let port = |protocol: &str, port: u16| {
            json!({
                "name": format!("serve-{port}-{}", protocol.to_lowercase()),
                "protocol": protocol,
                "containerPort": port,
            })
        };
        let ports: Vec<Value> = ["TCP", "UDP", "SCTP"]
            .iter()
            .flat_map(|p| [port(p, 80), port(p, 81)])
            .collect();
        self.apply(&json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"namespace": name.namespace, "name": name.name, "labels": labels},
            "spec": {"containers": [{"name": "c", "ports": ports}]},
            "status": {"podIPs": [{"ip": addr}]},
        }));
        self.pods.insert(name, (addr, labels));
    }

    fn delete(&mut self, kind: Kind, namespace: &str, name: &str) {
        self.index.delete(&ObjectKey {
            kind,
            namespace: namespace.into(),
            name: name.into(),
        });
    }

    fn act(&mut self, action: &str, value: &Value) {
        let text = |key: &str| value[key].as_str().unwrap_or_default().to_owned();
        let name = PodName {
            namespace: text("Namespace"),
            name: text("Pod"),
        };
        match action {
            "CreatePolicy" | "UpdatePolicy" => {
                // Some cases leave out what the API they were sent to implies.
                let mut policy = value["Policy"].clone();
                policy["apiVersion"] = json!("networking.k8s.io/v1");
                policy["kind"] = json!("NetworkPolicy");
                self.apply(&policy);
            }
            "DeletePolicy" => self.delete(Kind::NetworkPolicy, &text("Namespace"), &text("Name")),
            "CreateNamespace" | "SetNamespaceLabels" => self.namespace(&text("Namespace"), &value["Labels"]),
            "DeleteNamespace" => {
                let gone: Vec<PodName> = self
                    .pods
                    .keys()
                    .filter(|pod| pod.namespace == text("Namespace"))
                    .cloned()
                    .collect();
                for pod in gone {
                    self.pods.remove(&pod);
                    self.delete(Kind::Pod, &pod.namespace, &pod.name);
                }
                self.delete(Kind::Namespace, "", &text("Namespace"));
            }
            "CreatePod" => {
                let host = u8::try_from(self.pods.len()).expect("few pods");
                self.pod(name, IpAddr::from([192, 168, 77, host]), value["Labels"].clone());
            }
            "SetPodLabels" => {
                let (addr, _) = self.pods[&name].clone();
                self.pod(name, addr, value["Labels"].clone());
            }
            other => panic!("unknown action {other}"),
        }
    }
}

#[test]
fn every_case_of_the_truth_tables_is_decided_as_upstream_decides_it() {
    let cases: Vec<Case> =
        serde_json::from_str(include_str!("data/networkpolicy-truth-tables.json")).expect("truth tables");
    assert_eq!(cases.len(), 112);
    let (mut graded, mut wrong) = (0, Vec::new());
    for case in &cases {
        let mut cluster = Cluster::new();
        for (number, step) in case.steps.iter().enumerate() {
            for (action, value) in step.actions.iter().flatten() {
                cluster.act(action, value);
            }
            let mut engine = Engine::new(&cluster.index);
            let pods: Vec<PodName> = step
                .rows
                .keys()
                .map(|pod| pod.parse().expect("namespace/name"))
                .collect();
            let known =
                pods.len() == cluster.pods.len() && pods.iter().all(|pod| cluster.pods.contains_key(pod));
            assert!(known, "{}: step {number} has other pods", case.description);
            for (from, row) in pods.iter().zip(step.rows.values()) {
                for (to, word) in pods.iter().zip(row.split(' ')).filter(|(to, _)| *to != from) {
                    assert_eq!(word.len(), step.ports.len(), "{}", case.description);
                    for ((protocol, port), digit) in step.ports.iter().map(|p| port(p)).zip(word.chars()) {
                        graded += 1;
                        let expected = digit == '1';
                        let flow = Flow {
                            from: engine.party(&from.to_string()).expect("known"),
                            to: engine.party(&to.to_string()).expect("known"),
                            port,
                            protocol,
                            request: None,
                        };
                        if (engine.decide(&flow).outcome == Outcome::Allow) != expected {
                            let flow = format!("{from} -> {to} {}/{port}", protocol.name());
                            wrong.push(format!(
                                "{}: step {number}: {flow} must be {expected}",
                                case.description
                            ));
                        }
                    }
                }
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "{} of {graded} differ:\n{}",
        wrong.len(),
        wrong[..wrong.len().min(40)].join("\n")
    );
    assert_eq!(graded, 51708, "verdicts graded");
}
