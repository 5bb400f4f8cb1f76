//! The evaluator against the truth tables of `data/`.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::oracle::{Cluster, Peer, Verdict};

/// Objects by kind, namespace and name.
type Objects = BTreeMap<(&'static str, String, String), Value>;

fn namespace(objects: &mut Objects, name: &str, labels: &Value) {
    let object = json!({"kind": "Namespace", "metadata": {"name": name, "labels": labels}});
    objects.insert(("Namespace", String::new(), name.to_owned()), object);
}

fn pod(objects: &mut Objects, namespace: &str, name: &str, labels: &Value) {
    let key = ("Pod", namespace.to_owned(), name.to_owned());
    let addr = match objects.get(&key) {
        Some(known) => known["status"]["podIPs"][0]["ip"].clone(),
        None if ["x", "y", "z"].contains(&namespace) && ["a", "b", "c"].contains(&name) => {
            let at = |list: [&str; 3], of: &str| list.iter().position(|item| *item == of).expect("known");
            json!(format!(
                "192.168.1.{}",
                3 * at(["x", "y", "z"], namespace) + at(["a", "b", "c"], name) + 1
            ))
        }
        None => json!(format!("192.168.77.{}", objects.len())),
    };
    let ports: Vec<Value> = ["TCP", "UDP", "SCTP"]
        .into_iter()
        .flat_map(|protocol| [(protocol, 80), (protocol, 81)])
        .map(|(protocol, port)| {
            json!({"name": format!("serve-{port}-{}", protocol.to_lowercase()), "protocol": protocol, "containerPort": port})
        })
        .collect();
    let object = json!({"kind": "Pod", "metadata": {"namespace": namespace, "name": name, "labels": labels},
        "spec": {"containers": [{"ports": ports}]}, "status": {"podIPs": [{"ip": addr}]}});
    objects.insert(key, object);
}

fn act(objects: &mut Objects, action: &str, value: &Value) {
    let text = |field: &str| value[field].as_str().unwrap_or_default().to_owned();
    match action {
        "CreatePolicy" | "UpdatePolicy" => {
            let mut policy = value["Policy"].clone();
            policy["kind"] = json!("NetworkPolicy");
            let name = |field: &str| policy["metadata"][field].as_str().expect("name").to_owned();
            objects.insert(("NetworkPolicy", name("namespace"), name("name")), policy);
        }
        "DeletePolicy" => {
            objects.remove(&("NetworkPolicy", text("Namespace"), text("Name")));
        }
        "CreateNamespace" | "SetNamespaceLabels" => namespace(objects, &text("Namespace"), &value["Labels"]),
        "DeleteNamespace" => {
            let gone = text("Namespace");
            objects.retain(|(kind, namespace, name), _| {
                *namespace != gone && !(*kind == "Namespace" && *name == gone)
            });
        }
        "CreatePod" | "SetPodLabels" => pod(objects, &text("Namespace"), &text("Pod"), &value["Labels"]),
        other => panic!("unknown action {other}"),
    }
}

#[test]
fn the_evaluator_decides_every_case_of_the_truth_tables() {
    let cases: Vec<Value> =
        serde_json::from_str(include_str!("../data/networkpolicy-truth-tables.json")).expect("truth tables");
    let (mut graded, mut wrong) = (0, Vec::new());
    for case in &cases {
        let mut objects = Objects::new();
        for name in ["x", "y", "z"] {
            namespace(&mut objects, name, &json!({"ns": name}));
            for own in ["a", "b", "c"] {
                pod(&mut objects, name, own, &json!({"pod": own}));
            }
        }
        for step in case["steps"].as_array().expect("steps") {
            for action in step["actions"].as_array().expect("actions") {
                for (action, value) in action.as_object().expect("action") {
                    act(&mut objects, action, value);
                }
            }
            let all: Vec<Value> = objects.values().cloned().collect();
            let cluster = Cluster::from_objects(&all, "node", &[]);
            let rows = step["rows"].as_object().expect("rows");
            assert_eq!(rows.len(), cluster.pods().len(), "{}", case["description"]);
            for (from, row) in rows {
                let words = row.as_str().expect("row").split(' ');
                for (to, word) in rows.keys().zip(words).filter(|(to, _)| *to != from) {
                    for (port, digit) in step["ports"].as_array().expect("ports").iter().zip(word.chars()) {
                        let (protocol, number) = port.as_str().expect("port").split_once('/').expect("port");
                        let (source, destination) = (Peer::Pod(from.clone()), Peer::Pod(to.clone()));
                        let port = number.parse().expect("port number");
                        let verdict = cluster.decide(&source, &destination, protocol, port, None);
                        graded += 1;
                        if (verdict == Verdict::Allow) != (digit == '1') {
                            wrong.push(format!(
                                "{}: {from} -> {to} {protocol}/{number}",
                                case["description"]
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
