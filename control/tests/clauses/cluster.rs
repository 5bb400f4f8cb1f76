//! The cluster that policies are tried on, and the notation of flows.

use std::sync::Arc;

use policy::{EndpointKey, Protocol, Slot, SlotGeneration, Snapshot};
use sluice_control::compile::Compiler;
use sluice_control::decide::Request;
use sluice_control::manifest::{self, Document};
use sluice_control::{Engine, Flow, Index, IndexConfig, LocalEndpoint, Outcome, Reason, Verdict};

/// Node `node-1` (172.18.0.2) is local, 172.18.0.3 has the API server's label and 172.18.0.4 has not; pods are in 10.1.0.0/16.
const CLUSTER: &str = r#"
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {team: web}}
---
apiVersion: v1
kind: Namespace
metadata: {name: pay, labels: {team: money}}
---
apiVersion: v1
kind: Node
metadata: {name: node-1, labels: {zone: a}}
---
apiVersion: v1
kind: Node
metadata: {name: node-2, labels: {zone: a, role: control}}
status: {addresses: [{type: InternalIP, address: 172.18.0.3}]}
---
apiVersion: v1
kind: Node
metadata: {name: node-3, labels: {zone: b}}
status: {addresses: [{type: InternalIP, address: 172.18.0.4}, {type: ExternalIP, address: 192.0.2.4}]}
---
apiVersion: v1
kind: Service
metadata: {name: kubernetes, namespace: default}
spec: {clusterIP: 10.96.0.1, ports: [{port: 443}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: kubernetes, namespace: default, labels: {kubernetes.io/service-name: kubernetes}}
addressType: IPv4
ports: [{port: 6443}]
endpoints: [{addresses: [172.18.0.3]}, {addresses: [198.51.100.7]}]
---
apiVersion: v1
kind: Pod
metadata: {name: db, namespace: shop, labels: {app: db, tier: back}}
spec: {containers: [{name: c, ports: [{name: sql, containerPort: 5432}, {name: stats, containerPort: 9000, protocol: UDP}]}]}
status: {podIPs: [{ip: 10.1.0.2}, {ip: "fd00::2"}]}
---
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: shop, labels: {app: web, tier: front, pod-template-hash: h1, app.kubernetes.io/name: web}}
spec:
  serviceAccountName: robot
  containers: [{name: c, ports: [{name: http, containerPort: 8080}]}]
  initContainers: [{name: i, ports: [{name: once, containerPort: 7777}]}]
status: {podIPs: [{ip: 10.1.0.3}, {ip: "fd00::3"}]}
---
apiVersion: v1
kind: Pod
metadata: {name: api, namespace: shop, labels: {app: api}}
spec: {containers: [{name: c, ports: [{name: http, containerPort: 9090}]}]}
status: {podIPs: [{ip: 10.1.0.4}]}
---
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: pay, labels: {app: web}}
spec: {containers: [{name: c}]}
status: {podIPs: [{ip: 10.1.0.5}]}
---
apiVersion: v1
kind: Pod
metadata: {name: agent, namespace: pay, labels: {app: web}}
spec: {hostNetwork: true, containers: [{name: c}]}
"#;

fn index() -> Index {
    Index::new(IndexConfig {
        node_name: "node-1".into(),
        node_addresses: vec!["172.18.0.2".parse().expect("address")],
        pod_cidrs: vec![
            "10.1.0.0/16".parse().expect("net"),
            "fd00::/64".parse().expect("net"),
        ],
        cluster_name: "default".into(),
        ..IndexConfig::default()
    })
}

fn objects(yaml: &str) -> impl Iterator<Item = sluice_control::object::Object> {
    manifest::parse(yaml, "default")
        .into_iter()
        .map(|document| match document {
            Document::Object { object, .. } => *object,
            Document::Invalid { key, faults } => panic!("{key:?}: {faults:#?}"),
        })
}

/// Makes every pod with an address a local endpoint.
fn attach(index: &mut Index) {
    let pods: Vec<_> = index
        .pods()
        .iter()
        .filter(|(_, indexed)| !indexed.pod.addresses.is_empty())
        .map(|(name, indexed)| (name.clone(), indexed.pod.addresses.clone()))
        .collect();
    for (slot, (pod, addresses)) in (Slot::FIRST_ENDPOINT.0..).zip(pods) {
        index.apply_endpoint(LocalEndpoint {
            key: EndpointKey {
                slot: Slot(slot),
                generation: SlotGeneration(1),
            },
            pod,
            uid: None,
            addresses,
            audit: false,
        });
    }
}

/// What became of a flow, as tests write it.
fn word(verdict: &Verdict) -> &'static str {
    match (verdict.outcome, verdict.reason) {
        (Outcome::Allow, Reason::HttpJudged) => "judged",
        (Outcome::Allow, _) => "allow",
        (Outcome::L7Deny, _) => "403",
        (Outcome::Deny, Reason::DefaultDeny) => "deny",
        (Outcome::Deny, Reason::DenyRule) => "deny-rule",
        (Outcome::Deny, other) => other.name(),
    }
}

fn protocol(text: &str) -> Protocol {
    match text {
        "TCP" => Protocol::TCP,
        "UDP" => Protocol::UDP,
        "SCTP" => Protocol::SCTP,
        "ICMP" => Protocol::ICMP,
        "ICMPv6" => Protocol::ICMPV6,
        other => panic!("protocol {other}"),
    }
}

/// Decides `from to PORT` or `from to PROTOCOL/PORT`, with an HTTP request as `METHOD PATH` after it.
fn ask(engine: &mut Engine<'_>, flow: &[&str]) -> &'static str {
    let [from, to, port, request @ ..] = flow else {
        panic!("{flow:?}")
    };
    let (name, port) = port.split_once('/').unwrap_or(("TCP", port));
    let request = match request {
        [] => None,
        [method, path] => Some(Request {
            method,
            path,
            host: "",
            headers: &[],
        }),
        other => panic!("request {other:?}"),
    };
    let party = |engine: &Engine<'_>, text: &str| engine.party(text).expect("somebody");
    let flow = Flow {
        from: party(engine, from),
        to: party(engine, to),
        port: port.parse().expect("port"),
        protocol: protocol(name),
        request,
    };
    word(&engine.decide(&flow))
}

/// Checks what becomes of flows under `policies` and whatever other objects stand among them: a line is `FROM TO PORT VERDICT`
/// or `FROM TO PORT METHOD PATH VERDICT`. Verdicts: `allow`, `judged` (it depends on the request), `403`, `deny` (no rule
/// allows it) and `deny-rule`.
pub fn check(policies: &[impl AsRef<str>], flows: &str) {
    let mut alone = index();
    let mut followed = index();
    objects(CLUSTER).for_each(|object| alone.apply(object));
    objects(CLUSTER).for_each(|object| followed.apply(object));
    attach(&mut followed);
    let mut compiler = Compiler::default();
    let mut snapshot = compiler.compile(&mut followed, &Snapshot::default());
    for yaml in policies {
        objects(yaml.as_ref()).for_each(|object| alone.apply(object));
        for object in objects(yaml.as_ref()) {
            followed.apply(object);
            snapshot = compiler.compile(&mut followed, &snapshot);
        }
    }
    let mut engines = [
        Engine::new(&alone),
        Engine::enforced(&followed, Arc::new(snapshot)),
    ];
    let mut asked = 0;
    for line in flows.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let Some((expected, flow)) = words.split_last() else {
            continue;
        };
        for (engine, which) in engines.iter_mut().zip(["from scratch", "step by step"]) {
            let policies: Vec<&str> = policies.iter().map(AsRef::as_ref).collect();
            assert_eq!(
                ask(engine, flow),
                *expected,
                "{line} ({which}) under\n{}",
                policies.join("\n")
            );
        }
        asked += 1;
    }
    assert!(asked > 0);
}

fn policy(version: &str, kind: &str, name: &str, spec: &str) -> String {
    format!(
        "apiVersion: {version}\nkind: {kind}\nmetadata: {{namespace: shop, name: {name}}}\nspec: {{{spec}}}\n"
    )
}

/// A CiliumNetworkPolicy `shop/NAME` on `subject`.
pub fn cnp(name: &str, subject: &str, lists: &str) -> String {
    let spec = format!("endpointSelector: {subject}, {lists}");
    policy("cilium.io/v2", "CiliumNetworkPolicy", name, &spec)
}

/// A CiliumNetworkPolicy on `shop/db`.
pub fn on_db(lists: &str) -> String {
    cnp("on-db", "{matchLabels: {app: db}}", lists)
}

/// Its ingress has this one item.
pub fn to_db(item: &str) -> String {
    on_db(&format!("ingress: [{item}]"))
}

/// Its egress has this one item.
pub fn from_db(item: &str) -> String {
    on_db(&format!("egress: [{item}]"))
}

/// A CiliumClusterwideNetworkPolicy.
pub fn ccnp(subject: &str, lists: &str) -> String {
    let spec = format!("endpointSelector: {subject}, {lists}");
    policy("cilium.io/v2", "CiliumClusterwideNetworkPolicy", "wide", &spec)
}

/// A NetworkPolicy in `shop` on pods with label `app: db`.
pub fn knp(lists: &str) -> String {
    let spec = format!("podSelector: {{matchLabels: {{app: db}}}}, {lists}");
    policy("networking.k8s.io/v1", "NetworkPolicy", "np", &spec)
}

/// A ClusterNetworkPolicy on all pods of namespaces with label `team: web`.
pub fn kcnp(name: &str, tier: &str, priority: u16, lists: &str) -> String {
    let spec = format!(
        "tier: {tier}, priority: {priority}, subject: {{namespaces: {{matchLabels: {{team: web}}}}}}, {lists}"
    );
    policy(
        "policy.networking.k8s.io/v1beta1",
        "ClusterNetworkPolicy",
        name,
        &spec,
    )
}

/// A CiliumCIDRGroup with label `tier: partners`.
pub fn group(name: &str, prefixes: &str) -> String {
    format!(
        "apiVersion: cilium.io/v2\nkind: CiliumCIDRGroup\nmetadata: {{name: {name}, labels: {{tier: partners}}}}\n\
         spec: {{externalCIDRs: [{prefixes}]}}\n"
    )
}
