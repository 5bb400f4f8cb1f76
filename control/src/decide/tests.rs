use super::*;
use crate::explain::{Difference, Question, RequestText};
use crate::index::{IndexConfig, LocalEndpoint};
use crate::manifest::{self, Document};

const CLUSTER: &str = r#"
apiVersion: v1
kind: Pod
metadata: {namespace: db, name: postgres, labels: {app: postgres}}
spec: {containers: [{name: c, ports: [{name: sql, containerPort: 5432}]}]}
status: {podIPs: [{ip: 10.1.0.2}, {ip: "fd00::2"}]}
---
apiVersion: v1
kind: Pod
metadata: {namespace: db, name: flask, labels: {app: flask}}
spec: {containers: [{name: c}]}
status: {podIPs: [{ip: 10.1.0.3}]}
---
apiVersion: v1
kind: Pod
metadata: {namespace: db, name: web, labels: {app: web}}
status: {podIPs: [{ip: 10.1.0.4}]}
---
apiVersion: v1
kind: Pod
metadata: {namespace: kube-system, name: proxy}
spec: {hostNetwork: true, containers: []}
---
apiVersion: v1
kind: Service
metadata: {namespace: db, name: sql}
spec: {clusterIP: 10.96.0.7, selector: {app: postgres}, ports: [{port: 1000}]}
---
apiVersion: v1
kind: Service
metadata: {namespace: db, name: empty}
spec: {clusterIP: 10.96.0.8, selector: {app: none}, ports: [{port: 80}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {namespace: db, name: sql-1, labels: {kubernetes.io/service-name: sql}}
addressType: IPv4
endpoints: [{addresses: [10.1.0.2]}, {addresses: [10.1.0.4]}]
ports: [{port: 5432}]
---
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {namespace: db, name: to-postgres}
spec:
  endpointSelector: {matchLabels: {app: postgres}}
  ingress:
    - fromEndpoints: [{matchLabels: {app: flask}}]
      toPorts: [{ports: [{port: sql, protocol: TCP}]}]
  ingressDeny:
    - fromCIDR: [192.0.2.0/24]
---
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {namespace: db, name: to-flask}
spec:
  endpointSelector: {matchLabels: {app: flask}}
  ingress:
    - toPorts:
        - ports: [{port: "5000", protocol: TCP}]
          rules: {http: [{method: GET, path: /}]}
    - fromEndpoints: [{matchLabels: {app: web}}]
      toPorts:
        - ports: [{port: "5000", protocol: TCP}]
          rules: {http: [{method: GET, path: /plot}]}
"#;

fn index(yaml: &str) -> Index {
    let mut index = Index::new(IndexConfig {
        node_name: "node-1".into(),
        node_addresses: vec!["172.18.0.2".parse().unwrap()],
        pod_cidrs: vec!["10.1.0.0/16".parse().unwrap()],
        cluster_name: "default".into(),
        ..IndexConfig::default()
    });
    for document in manifest::parse(yaml, "default") {
        match document {
            Document::Object { object, .. } => index.apply(*object),
            Document::Invalid { faults, .. } => panic!("{faults:?}"),
        }
    }
    index
}

fn ask(engine: &mut Engine<'_>, from: &str, to: &str, port: u16, path: Option<&str>) -> Verdict {
    let flow = Flow {
        from: engine.party(from).unwrap(),
        to: engine.party(to).unwrap(),
        port,
        protocol: Protocol::TCP,
        request: path.map(|path| Request {
            method: "GET",
            path,
            host: "",
            headers: &[],
        }),
    };
    engine.decide(&flow)
}

fn rules(engine: &Engine<'_>, verdict: &Verdict) -> Vec<String> {
    verdict.rules().map(|rule| engine.rule(rule).to_owned()).collect()
}

#[test]
fn each_reason_is_given_where_it_applies() {
    let index = index(CLUSTER);
    let mut engine = Engine::new(&index);
    use Outcome::{Allow, Deny, L7Deny};
    for (from, to, port, path, outcome, reason) in [
        ("world", "host", 22, None, Allow, Reason::NotJudged),
        ("db/web", "10.1.0.4", 80, None, Allow, Reason::SamePod),
        ("db/flask", "db/web", 80, None, Allow, Reason::NoPolicy),
        ("db/flask", "db/postgres", 5432, None, Allow, Reason::Allowed),
        ("db/flask", "db/postgres", 5433, None, Deny, Reason::DefaultDeny),
        ("192.0.2.9", "db/postgres", 5432, None, Deny, Reason::DenyRule),
        ("db/web", "db/flask", 5000, None, Allow, Reason::HttpJudged),
        ("db/web", "db/flask", 5000, Some("/plot"), Allow, Reason::Allowed),
        (
            "world",
            "db/flask",
            5000,
            Some("/plot"),
            L7Deny,
            Reason::HttpDenied,
        ),
        (
            "db/flask",
            "10.96.0.7",
            99,
            None,
            Deny,
            Reason::UnknownServicePort,
        ),
        ("db/flask", "10.96.0.8", 80, None, Deny, Reason::NoBackend),
    ] {
        let verdict = ask(&mut engine, from, to, port, path);
        assert_eq!(
            (verdict.outcome, verdict.reason),
            (outcome, reason),
            "{from} -> {to}:{port}"
        );
        let json = serde_json::to_value(reason).unwrap();
        assert_eq!(json, reason.name());
    }
}

#[test]
fn rules_of_both_directions_are_named() {
    let egress = "---\napiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {namespace: db, name: from-flask}\n\
        spec:\n  endpointSelector: {matchLabels: {app: flask}}\n  egress: [{toEndpoints: [{}]}]\n";
    let index = index(&format!("{CLUSTER}{egress}"));
    let mut engine = Engine::new(&index);
    let verdict = ask(&mut engine, "db/flask", "db/postgres", 5432, None);
    assert_eq!(
        rules(&engine, &verdict),
        ["cnp db/from-flask egress[0]", "cnp db/to-postgres ingress[0]"]
    );
    let denied = ask(&mut engine, "db/flask", "world", 443, None);
    assert_eq!((denied.reason, denied.ingress), (Reason::DefaultDeny, None));
    // What the other side would allow decides nothing.
    let denied = ask(&mut engine, "db/flask", "db/postgres", 80, None);
    assert_eq!(denied.egress.map(|side| side.verdict), Some(SideVerdict::Allowed));
    assert_eq!(rules(&engine, &denied), [""; 0]);
}

#[test]
fn a_service_is_judged_by_its_worst_backend() {
    let index = index(CLUSTER);
    let mut engine = Engine::new(&index);
    let verdict = ask(&mut engine, "db/flask", "10.96.0.7", 1000, None);
    assert_eq!(
        (verdict.outcome, verdict.reason),
        (Outcome::Allow, Reason::Allowed)
    );
    let verdict = ask(&mut engine, "db/web", "10.96.0.7", 1000, None);
    assert_eq!(verdict.outcome, Outcome::Deny);
    assert_eq!(
        verdict.backend.unwrap().addr,
        "10.1.0.2".parse::<IpAddr>().unwrap()
    );
    // The pod itself is the other backend: a hairpin passes, the first backend still does not.
    assert_eq!(verdict.reason, Reason::DefaultDeny);
}

#[test]
fn sides_are_who_the_ipcache_says() {
    let index = index(CLUSTER);
    let engine = Engine::new(&index);
    let identity = |text: &str| engine.party(text).unwrap().identity();
    assert_eq!(identity("10.1.0.2"), identity("db/postgres"));
    assert_eq!(identity("fd00::2"), identity("db/postgres"));
    assert_eq!(identity("172.18.0.2"), Identity::HOST);
    assert_eq!(
        identity("10.1.99.99"),
        Identity::UNMANAGED,
        "in a pod CIDR, but nobody's"
    );
    assert_eq!(identity("198.51.100.1"), Identity::WORLD);
    assert!(
        identity("192.0.2.1") >= Identity::FIRST_LOCAL,
        "of a prefix that a rule names"
    );
    assert_eq!(
        engine.party("db/nobody").unwrap_err().to_string(),
        "pod db/nobody is not known"
    );
    assert!(matches!(engine.party("nonsense"), Err(PartyError::Form(_))));
    for text in ["db/a", "10.0.0.1", "fd00::1", "host", "world"] {
        assert_eq!(text.parse::<PartyName>().unwrap().to_string(), text);
    }
    for text in ["", "db", "db/", "/a", "10.0.0"] {
        assert!(text.parse::<PartyName>().is_err(), "{text}");
    }
}

#[test]
fn a_pod_of_the_hosts_network_is_its_node_and_not_judged() {
    let alone = index(CLUSTER);
    let mut engine = Engine::new(&alone);
    assert_eq!(
        engine.party("kube-system/proxy").unwrap().identity(),
        Identity::HOST
    );
    let verdict = ask(&mut engine, "kube-system/proxy", "db/postgres", 1, None);
    assert_eq!(
        (verdict.outcome, verdict.egress),
        (Outcome::Allow, None),
        "the node reaches its pods"
    );
    let other = "---\napiVersion: v1\nkind: Node\nmetadata: {name: node-2}\n";
    let two = index(&format!("{CLUSTER}{other}"));
    let mut engine = Engine::new(&two);
    assert_eq!(
        engine.party("kube-system/proxy").unwrap().identity(),
        Identity::REMOTE_NODE
    );
    assert_eq!(
        ask(&mut engine, "kube-system/proxy", "db/postgres", 1, None).outcome,
        Outcome::Deny
    );
}

#[test]
fn tables_are_compiled_once_per_subject_and_only_when_asked() {
    let twin = "---\napiVersion: v1\nkind: Pod\nmetadata: {namespace: db, name: web-2, labels: {app: web}}\n";
    let index = index(&format!("{CLUSTER}{twin}"));
    let mut engine = Engine::new(&index);
    assert_eq!(engine.compiled.len(), 0);
    for _ in 0..2 {
        let _verdict = ask(&mut engine, "db/web", "world", 80, None);
        let _verdict = ask(&mut engine, "db/web-2", "world", 80, None);
    }
    assert_eq!(
        engine.compiled.len(),
        1,
        "both are one identity with the same ports"
    );
}

#[test]
fn local_endpoints_are_judged_by_the_snapshot_in_force() {
    let mut index = index(CLUSTER);
    index.apply_endpoint(LocalEndpoint {
        key: EndpointKey {
            slot: Slot::FIRST_ENDPOINT,
            generation: SlotGeneration(1),
        },
        pod: "db/postgres".parse().unwrap(),
        uid: None,
        addresses: vec!["10.1.0.2".parse().unwrap()],
        audit: false,
    });
    let enforced = Arc::new(compile::compile(&index, &Snapshot::default()));
    let policies: Vec<_> = index.policies().keys().cloned().collect();
    for policy in policies {
        index.delete(&crate::object::ObjectKey {
            kind: crate::object::Kind::CiliumNetworkPolicy,
            namespace: policy.namespace,
            name: policy.name,
        });
    }
    let mut engine = Engine::enforced(&index, enforced);
    let verdict = ask(&mut engine, "db/flask", "db/postgres", 5432, None);
    assert_eq!(
        rules(&engine, &verdict),
        ["cnp db/to-postgres ingress[0]"],
        "not published yet"
    );
    let denied = ask(&mut engine, "db/web", "db/postgres", 5432, None);
    assert_eq!(denied.reason, Reason::DefaultDeny);
}

fn question(from: &str, to: &str, port: u16, path: Option<&str>) -> Question {
    Question {
        from: from.parse().unwrap(),
        to: to.parse().unwrap(),
        port,
        protocol: Protocol::TCP,
        http: path.map(|path| RequestText {
            path: path.into(),
            ..RequestText::default()
        }),
    }
}

#[test]
fn explanation_names_policies_rules_and_near_misses() {
    let index = index(CLUSTER);
    let mut engine = Engine::new(&index);
    let mut side = |from, to, port, path| {
        let explained = engine.explain(&question(from, to, port, path)).unwrap().remove(0);
        explained.ingress.unwrap()
    };
    let denied = side("db/flask", "db/postgres", 80, None);
    assert_eq!(denied.policies, ["cnp db/to-postgres"]);
    assert_eq!(denied.drop_reason.unwrap().code, 133);
    let near = |misses: &[crate::explain::NearMiss]| {
        misses
            .iter()
            .map(|miss| (miss.differs, miss.rule.clone(), miss.allows.clone()))
            .collect::<Vec<_>>()
    };
    let rule = || "cnp db/to-postgres ingress[0]".to_owned();
    assert_eq!(
        near(&denied.near_misses),
        [(Difference::Port, rule(), "5432/TCP".into())]
    );
    let denied = side("db/web", "db/postgres", 5432, None);
    assert_eq!(
        near(&denied.near_misses),
        [(Difference::Peer, rule(), "5432/TCP".into())]
    );
    // Of two HTTP rules on one port the one that allows the request is named, and when none does both are.
    assert_eq!(
        side("db/web", "db/flask", 5000, Some("/plot")).rules,
        ["cnp db/to-flask ingress[1]"]
    );
    let tried = side("db/web", "db/flask", 5000, Some("/metrics"));
    assert_eq!(
        tried.rules,
        ["cnp db/to-flask ingress[0]", "cnp db/to-flask ingress[1]"]
    );
    assert_eq!(tried.drop_reason.unwrap().code, 240);
}

#[test]
fn explanation_says_that_a_denial_is_only_audited() {
    let mut index = index(CLUSTER);
    index.apply_endpoint(LocalEndpoint {
        key: EndpointKey {
            slot: Slot::FIRST_ENDPOINT,
            generation: SlotGeneration(1),
        },
        pod: "db/postgres".parse().unwrap(),
        uid: None,
        addresses: vec!["10.1.0.2".parse().unwrap()],
        audit: true,
    });
    let snapshot = Arc::new(compile::compile(&index, &Snapshot::default()));
    let mut engine = Engine::enforced(&index, snapshot);
    let mut explain = |from| {
        let question = question(from, "db/postgres", 5432, None);
        engine.explain(&question).unwrap().remove(0)
    };
    let denied = explain("db/web");
    assert_eq!(denied.verdict, Outcome::Deny, "what policy says");
    assert!(denied.is_audited(), "{denied:?}");
    assert!(!explain("db/flask").is_audited(), "nothing denies it");
}

#[test]
fn explanation_of_a_service_has_every_backend_and_unknown_ones_are_refused_with_their_field() {
    let index = index(CLUSTER);
    let mut engine = Engine::new(&index);
    let explained = engine
        .explain(&question("db/flask", "10.96.0.7", 1000, None))
        .unwrap();
    assert_eq!(explained.len(), 2);
    assert!(
        explained
            .iter()
            .all(|e| e.service.as_deref() == Some("db/sql") && e.port == 5432)
    );
    let json = serde_json::to_string(&explained).unwrap();
    assert_eq!(
        serde_json::from_str::<Vec<crate::explain::Explanation>>(&json).unwrap(),
        explained
    );
    let mut error = |from, to, port| {
        engine
            .explain(&question(from, to, port, None))
            .unwrap_err()
            .to_string()
    };
    assert_eq!(error("db/x", "db/flask", 1), "from: pod db/x is not known");
    assert_eq!(error("world", "db/x", 1), "to: pod db/x is not known");
    assert_eq!(
        error("world", "10.96.0.7", 99),
        "to: 10.96.0.7 is a Service's address, but has no port 99/TCP"
    );
    assert_eq!(
        error("world", "10.96.0.8", 80),
        "to: service db/empty has no ready backend"
    );
}

#[test]
fn the_world_is_what_the_widest_prefix_covers() {
    let policy = |except: &str| {
        format!(
            "---\napiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {{name: out, namespace: db}}\nspec:\n  \
             endpointSelector: {{}}\n  egress:\n  - toCIDRSet:\n    - {{cidr: 0.0.0.0/0, except: [{except}]}}\n"
        )
    };
    let verdict = |except: &str| {
        let index = index(&format!("{CLUSTER}{}", policy(except)));
        let mut engine = Engine::new(&index);
        ask(&mut engine, "db/flask", "world", 443, None).outcome
    };
    assert_eq!(verdict("10.0.0.0/8"), Outcome::Allow);
    assert_eq!(verdict("0.0.0.0/0"), Outcome::Deny, "everything is excepted");
}
