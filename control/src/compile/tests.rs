//! YAML in, decisions out. Every flow is asked twice: of the compiled snapshot and of [`crate::decide`], which compiles for itself;
//! both must agree.

use std::collections::BTreeSet;
use std::net::IpAddr;

use policy::{Decision, DropReason, HttpRequest, ServiceLookup, Slot, SlotGeneration};

use super::*;
use crate::decide::{Engine, PartyName, SideVerdict};
use crate::explain::{ExplainError, Question, RequestText, SideExplanation};
use crate::index::{IndexConfig, LocalEndpoint};
use crate::manifest::{self, Document};
use crate::object::{Kind, ObjectKey};

/// Both snapshots say the same of every flow; numbers of rules and of rule sets may differ.
fn assert_same_decisions(a: &Snapshot, b: &Snapshot) {
    assert!(a.ipcache.same_content(&b.ipcache));
    assert_eq!(a.services, b.services);
    assert_eq!(a.identities, b.identities);
    assert_eq!(a.endpoints.len(), b.endpoints.len());
    let describe = |snapshot: &Snapshot, policy: &EndpointPolicy, decision: Decision| match decision {
        Decision::AllowHttp(set, rule) => {
            let rules = policy.http(set).map(|set| set.rules().to_vec());
            format!("http {:?} by {:?}", rules, snapshot.rule(rule))
        }
        other => format!(
            "{:?} by {:?}",
            other.drop_reason(),
            other.rule().and_then(|rule| snapshot.rule(rule))
        ),
    };
    let identities = || {
        a.identities
            .keys()
            .copied()
            .chain(identity::RESERVED)
            .chain([Identity::UNKNOWN])
    };
    for (left, right) in a.endpoints.iter().zip(b.endpoints.iter()) {
        let (Some(left), Some(right)) = (left, right) else {
            assert!(left.is_none() && right.is_none());
            continue;
        };
        assert_eq!(
            (&left.key, &left.pod, left.identity),
            (&right.key, &right.pod, right.identity)
        );
        for direction in [Direction::Ingress, Direction::Egress] {
            for peer in identities() {
                for protocol in [Protocol::TCP, Protocol::UDP, Protocol::ICMP] {
                    for port in [0, 8, 53, 80, 443, 5000, 5432, 8080, 9090, 65535] {
                        assert_eq!(
                            describe(a, left, left.decide(direction, peer, protocol, port)),
                            describe(b, right, right.decide(direction, peer, protocol, port)),
                            "{} {direction:?} {peer:?} {protocol:?} {port}",
                            left.pod
                        );
                    }
                }
            }
        }
    }
}

/// Both sides of a flow between two pods.
struct Explained {
    allowed: bool,
    egress: SideExplanation,
    ingress: SideExplanation,
}

/// Asks an engine that finds no tables in its snapshot and compiles them all.
fn explain(
    index: &Index,
    from: &PodName,
    to: &PodName,
    port: u16,
    protocol: Protocol,
    request: Option<HttpRequest<'_>>,
) -> Result<Explained, ExplainError> {
    let without_tables = Snapshot {
        endpoints: Arc::default(),
        ..compile(index, &Snapshot::default())
    };
    let http = request.map(|request| RequestText {
        method: request.method.into(),
        path: request.path.into(),
        ..RequestText::default()
    });
    let question = Question {
        from: PartyName::Pod(from.clone()),
        to: PartyName::Pod(to.clone()),
        port,
        protocol,
        http,
    };
    let explained = Engine::enforced(index, Arc::new(without_tables))
        .explain(&question)?
        .remove(0);
    let side = |side: &Option<SideExplanation>| side.clone().expect("a pod that is judged");
    Ok(Explained {
        allowed: explained.verdict == crate::decide::Outcome::Allow,
        egress: side(&explained.egress),
        ingress: side(&explained.ingress),
    })
}

/// A node on which every pod of `yaml` is local.
struct World {
    index: Index,
    compiler: Compiler,
    snapshot: Snapshot,
}

/// What may pass between two pods.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Seen {
    Allowed,
    Http,
    Dropped(DropReason),
}

use Seen::{Allowed, Http};
const DENIED: Seen = Seen::Dropped(DropReason::PolicyDenied);
const DENY_RULE: Seen = Seen::Dropped(DropReason::PolicyDenyRule);

impl World {
    fn new(yaml: &str) -> Self {
        let config = IndexConfig {
            node_name: "node-1".into(),
            node_addresses: vec!["172.18.0.2".parse().expect("address")],
            pod_cidrs: vec!["10.1.0.0/16".parse().expect("net")],
            cluster_name: "default".into(),
            ..IndexConfig::default()
        };
        let mut world = Self {
            index: Index::new(config),
            compiler: Compiler::default(),
            snapshot: Snapshot::default(),
        };
        world.apply(yaml);
        let pods: Vec<(PodName, Vec<IpAddr>)> = world
            .index
            .pods()
            .iter()
            .filter(|(_, indexed)| !indexed.pod.addresses.is_empty())
            .map(|(name, indexed)| (name.clone(), indexed.pod.addresses.clone()))
            .collect();
        for (slot, (pod, addresses)) in (8..).zip(pods) {
            world.index.apply_endpoint(LocalEndpoint {
                key: key(slot),
                pod,
                uid: None,
                addresses,
                audit: false,
            });
        }
        world.compile();
        world
    }

    /// Follows the changes; a compilation from scratch must decide alike.
    fn compile(&mut self) {
        let next = self.compiler.compile(&mut self.index, &self.snapshot);
        assert_same_decisions(&next, &compile(&self.index, &self.snapshot));
        self.snapshot = next;
    }

    fn apply(&mut self, yaml: &str) {
        for document in manifest::parse(yaml, "default") {
            match document {
                Document::Object { object, .. } => self.index.apply(*object),
                Document::Invalid { key, faults } => panic!("{key:?}: {faults:#?}"),
            }
        }
        self.compile();
    }

    fn delete(&mut self, kind: Kind, namespace: &str, name: &str) {
        self.index.delete(&ObjectKey {
            kind,
            namespace: namespace.into(),
            name: name.into(),
        });
        self.compile();
    }

    fn policy(&self, pod: &str) -> &Arc<EndpointPolicy> {
        let name: PodName = pod.parse().expect("namespace/name");
        let endpoint = self
            .index
            .endpoints()
            .values()
            .find(|e| e.pod == name)
            .expect("a local pod");
        self.snapshot.endpoint(endpoint.key).expect("compiled")
    }

    fn address(&self, pod: &str) -> IpAddr {
        let name: PodName = pod.parse().expect("namespace/name");
        self.index
            .endpoints()
            .values()
            .find(|e| e.pod == name)
            .expect("a local pod")
            .addresses[0]
    }

    fn ingress(&self, pod: &str, peer: Identity, protocol: Protocol, port: u16) -> Seen {
        seen(self.policy(pod).decide(Direction::Ingress, peer, protocol, port))
    }

    fn egress(&self, pod: &str, addr: &str, protocol: Protocol, port: u16) -> Seen {
        let peer = self.snapshot.ipcache.lookup(addr.parse().expect("address"));
        seen(self.policy(pod).decide(Direction::Egress, peer, protocol, port))
    }

    /// Both directions of a flow between pods, as a packet meets them.
    fn flow(&self, from: &str, to: &str, protocol: Protocol, port: u16) -> Seen {
        let identity = |pod: &str| self.snapshot.ipcache.lookup(self.address(pod));
        let egress = self
            .policy(from)
            .decide(Direction::Egress, identity(to), protocol, port);
        let ingress = self
            .policy(to)
            .decide(Direction::Ingress, identity(from), protocol, port);
        let names = (from.parse().expect("name"), to.parse().expect("name"));
        let explained = explain(&self.index, &names.0, &names.1, port, protocol, None).expect("known pods");
        let agree = |decision: Decision, verdict: SideVerdict| match verdict {
            SideVerdict::NotEnforced => decision == Decision::Allow(None),
            SideVerdict::Allowed => matches!(decision, Decision::Allow(_)),
            SideVerdict::HttpJudged => matches!(decision, Decision::AllowHttp(..)),
            SideVerdict::Denied => matches!(decision, Decision::Deny(_)),
            SideVerdict::DefaultDeny => decision == Decision::DefaultDeny,
            SideVerdict::HttpAllowed | SideVerdict::HttpDenied => false,
        };
        assert!(
            agree(egress, explained.egress.verdict),
            "{from} -> {to}: {egress:?}, {:?}",
            explained.egress
        );
        assert!(
            agree(ingress, explained.ingress.verdict),
            "{from} -> {to}: {ingress:?}, {:?}",
            explained.ingress
        );
        for (decision, side) in [(egress, &explained.egress), (ingress, &explained.ingress)] {
            if let Some(rule) = decision.rule() {
                let name = self.snapshot.rule(rule).expect("a named rule");
                assert!(
                    side.rules.iter().any(|r| r == name),
                    "{name} is not among {:?}",
                    side.rules
                );
            }
        }
        match (seen(egress), seen(ingress)) {
            (dropped @ Seen::Dropped(_), _) | (_, dropped @ Seen::Dropped(_)) => dropped,
            (Http, _) | (_, Http) => Http,
            _ => Allowed,
        }
    }

    fn tcp(&self, from: &str, to: &str, port: u16) -> Seen {
        self.flow(from, to, Protocol::TCP, port)
    }

    fn http(&self, from: &str, to: &str, port: u16, method: &str, path: &str) -> (bool, Vec<String>) {
        let names = (from.parse().expect("name"), to.parse().expect("name"));
        let request = HttpRequest::new(method, path);
        let explained = explain(
            &self.index,
            &names.0,
            &names.1,
            port,
            Protocol::TCP,
            Some(request),
        )
        .expect("pods");
        let identity = self.snapshot.ipcache.lookup(self.address(from));
        let policy = self.policy(to);
        let passes = match policy.decide(Direction::Ingress, identity, Protocol::TCP, port) {
            Decision::AllowHttp(set, _) => policy.http(set).expect("a rule set").decide(&request).is_some(),
            Decision::Allow(_) => true,
            Decision::DefaultDeny | Decision::Deny(_) => false,
        };
        assert_eq!(
            passes,
            explained.ingress.verdict.is_allowed(),
            "{from} -> {to} {method} {path}"
        );
        (explained.allowed, explained.ingress.rules)
    }

    fn generations(&self) -> Vec<(String, PolicyGeneration)> {
        let policies = self.snapshot.endpoints.iter().flatten();
        policies
            .map(|policy| (policy.pod.to_string(), policy.generation))
            .collect()
    }
}

fn seen(decision: Decision) -> Seen {
    match decision {
        Decision::Allow(_) => Allowed,
        Decision::AllowHttp(..) => Http,
        denied => Seen::Dropped(denied.drop_reason().expect("denied")),
    }
}

fn key(slot: u16) -> EndpointKey {
    EndpointKey {
        slot: Slot(slot),
        generation: SlotGeneration(1),
    }
}

/// The article's pods.
const PODS: &str = r#"
apiVersion: v1
kind: Namespace
metadata: {name: db, labels: {team: data}}
---
apiVersion: v1
kind: Namespace
metadata: {name: dummy}
---
apiVersion: v1
kind: Pod
metadata: {name: postgres, namespace: db, labels: {app: postgres}}
spec: {containers: [{name: c, ports: [{name: pg, containerPort: 5432}]}]}
status: {podIPs: [{ip: 10.1.0.2}, {ip: "fd00::2"}]}
---
apiVersion: v1
kind: Pod
metadata: {name: flask-0, namespace: db, labels: {app: flask-app, pod-template-hash: abc}}
spec: {containers: [{name: c, ports: [{name: http, containerPort: 5000}]}]}
status: {podIPs: [{ip: 10.1.0.3}]}
---
apiVersion: v1
kind: Pod
metadata: {name: flask-1, namespace: db, labels: {app: flask-app, pod-template-hash: def}}
spec: {containers: [{name: c, ports: [{name: http, containerPort: 5000}]}]}
status: {podIPs: [{ip: 10.1.0.4}]}
---
apiVersion: v1
kind: Pod
metadata: {name: debug, namespace: db, labels: {app: debug}}
spec: {containers: []}
status: {podIPs: [{ip: 10.1.0.5}]}
---
apiVersion: v1
kind: Pod
metadata: {name: debug, namespace: dummy, labels: {app: debug}}
spec: {containers: []}
status: {podIPs: [{ip: 10.1.0.6}]}
---
apiVersion: v1
kind: Pod
metadata: {name: impostor, namespace: dummy, labels: {app: flask-app}}
spec: {containers: []}
status: {podIPs: [{ip: 10.1.0.7}]}
"#;

const FLASK_APP_TO_DB: &str = r#"
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: flask-app-to-db, namespace: db}
spec:
  endpointSelector: {matchLabels: {app: postgres}}
  ingress:
  - fromEndpoints: [{matchLabels: {app: flask-app}}]
    toPorts: [{ports: [{port: "5432", protocol: TCP}]}]
"#;

const L7_RULE: &str = r#"
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: l7-rule, namespace: db}
spec:
  endpointSelector: {matchLabels: {app: flask-app}}
  ingress:
  - toPorts:
    - ports: [{port: "5000", protocol: TCP}]
      rules: {http: [{method: GET, path: "/"}]}
"#;

/// A CNP `db/x` on the postgres pod with this `spec` beside the selector.
fn on_postgres(spec: &str) -> String {
    cnp("x", "{matchLabels: {app: postgres}}", spec)
}

fn cnp(name: &str, subject: &str, spec: &str) -> String {
    format!(
        "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {{name: {name}, namespace: db}}\nspec:\n  \
         endpointSelector: {subject}\n{spec}\n"
    )
}

fn with(policies: &[&str]) -> World {
    World::new(&[&[PODS], policies].concat().join("\n---\n"))
}

const ALL: [&str; 6] = [
    "db/postgres",
    "db/flask-0",
    "db/flask-1",
    "db/debug",
    "dummy/debug",
    "dummy/impostor",
];

#[test]
fn without_policy_everything_connects() {
    let world = with(&[]);
    for from in ALL {
        for to in ALL.into_iter().filter(|to| *to != from) {
            assert_eq!(world.tcp(from, to, 5432), Allowed, "{from} -> {to}");
            assert_eq!(world.flow(from, to, Protocol::ICMP, 8), Allowed, "{from} -> {to}");
        }
    }
}

#[test]
fn article_l3_policy_lets_only_flask_reach_postgres() {
    let world = with(&[FLASK_APP_TO_DB]);
    for from in ["db/flask-0", "db/flask-1"] {
        assert_eq!(world.tcp(from, "db/postgres", 5432), Allowed, "{from}");
    }
    for from in ["db/debug", "dummy/debug"] {
        assert_eq!(world.tcp(from, "db/postgres", 5432), DENIED, "{from}");
    }
    assert_eq!(world.tcp("db/flask-0", "db/postgres", 5433), DENIED);
    assert_eq!(
        world.flow("db/flask-0", "db/postgres", Protocol::UDP, 5432),
        DENIED
    );
    assert_eq!(world.flow("db/flask-0", "db/postgres", Protocol::ICMP, 8), DENIED);
    assert_eq!(
        world.ingress("db/postgres", Identity::WORLD, Protocol::TCP, 5432),
        DENIED
    );
    assert_eq!(
        world.tcp("db/postgres", "db/debug", 80),
        Allowed,
        "egress is not under policy"
    );
    assert_eq!(
        world.tcp("db/debug", "db/flask-0", 5000),
        Allowed,
        "flask is not under policy"
    );
}

#[test]
fn a_peer_of_another_namespace_with_the_same_labels_is_no_peer() {
    assert_eq!(
        with(&[FLASK_APP_TO_DB]).tcp("dummy/impostor", "db/postgres", 5432),
        DENIED
    );
}

#[test]
fn article_l7_policy_judges_requests_from_everyone_but_the_node() {
    let world = with(&[FLASK_APP_TO_DB, L7_RULE]);
    for from in ["db/debug", "dummy/debug"] {
        assert_eq!(world.tcp(from, "db/flask-0", 5000), Http);
        assert_eq!(
            world.http(from, "db/flask-0", 5000, "GET", "/"),
            (true, vec!["cnp db/l7-rule ingress[0]".to_owned()])
        );
        for (method, path) in [("GET", "/metrics"), ("POST", "/"), ("GET", "/?x=1")] {
            let (allowed, tried) = world.http(from, "db/flask-0", 5000, method, path);
            assert!(!allowed, "{method} {path}");
            assert_eq!(tried, ["cnp db/l7-rule ingress[0]"]);
        }
        assert_eq!(world.tcp(from, "db/flask-0", 5001), DENIED);
    }
    assert_eq!(
        world.ingress("db/flask-0", Identity::WORLD, Protocol::TCP, 5000),
        Http
    );
    assert_eq!(
        world.ingress("db/flask-0", Identity::HOST, Protocol::TCP, 5000),
        Allowed
    );
}

#[test]
fn the_local_node_reaches_its_pods_under_default_deny_unless_denied() {
    let world = with(&[FLASK_APP_TO_DB]);
    assert_eq!(
        world.ingress("db/postgres", Identity::HOST, Protocol::TCP, 9),
        Allowed
    );
    assert_eq!(
        world.ingress("db/postgres", Identity::REMOTE_NODE, Protocol::TCP, 9),
        DENIED
    );
    for peer in ["fromEntities: [host]", "fromEntities: [all]"] {
        let world = with(&[&on_postgres(&format!("  ingressDeny: [{{{peer}}}]"))]);
        assert_eq!(
            world.ingress("db/postgres", Identity::HOST, Protocol::TCP, 9),
            DENY_RULE,
            "{peer}"
        );
    }
}

#[test]
fn pods_reach_their_node_only_by_a_rule() {
    let world = with(&[&on_postgres("  egress: [{}]")]);
    assert_eq!(
        world.egress("db/postgres", "172.18.0.2", Protocol::TCP, 443),
        DENIED
    );
    let world = with(&[&on_postgres("  egress: [{toEntities: [host]}]")]);
    assert_eq!(
        world.egress("db/postgres", "172.18.0.2", Protocol::TCP, 443),
        Allowed
    );
}

#[test]
fn an_empty_item_asks_for_default_deny_and_allows_nothing() {
    let world = with(&[&on_postgres("  ingress: [{}]")]);
    assert_eq!(world.tcp("db/flask-0", "db/postgres", 5432), DENIED);
    assert_eq!(world.tcp("db/postgres", "db/flask-0", 5000), Allowed);
}

#[test]
fn an_empty_peer_list_selects_nobody_and_an_empty_selector_the_namespace() {
    let ports = "toPorts: [{ports: [{port: \"5432\"}]}]";
    let world = with(&[&on_postgres(&format!(
        "  ingress: [{{fromEndpoints: [], {ports}}}]"
    ))]);
    assert_eq!(world.tcp("db/debug", "db/postgres", 5432), DENIED);
    let world = with(&[&on_postgres("  ingress: [{fromEndpoints: [{}]}]")]);
    assert_eq!(
        world.flow("db/debug", "db/postgres", Protocol::ICMP, 8),
        Allowed,
        "no ports: every protocol"
    );
    assert_eq!(world.tcp("dummy/debug", "db/postgres", 5432), DENIED);
    assert_eq!(
        world.ingress("db/postgres", Identity::WORLD, Protocol::TCP, 5432),
        DENIED
    );
    assert_eq!(
        world.ingress("db/postgres", Identity::UNMANAGED, Protocol::TCP, 5432),
        DENIED
    );
}

#[test]
fn ports_alone_are_open_to_everyone() {
    let world = with(&[&on_postgres(
        "  ingress: [{toPorts: [{ports: [{port: \"5432\", protocol: TCP}]}]}]",
    )]);
    for identity in [Identity::WORLD, Identity::REMOTE_NODE, Identity::UNMANAGED] {
        assert_eq!(
            world.ingress("db/postgres", identity, Protocol::TCP, 5432),
            Allowed
        );
    }
    assert_eq!(world.tcp("dummy/debug", "db/postgres", 5432), Allowed);
    assert_eq!(
        world.ingress("db/postgres", Identity::UNKNOWN, Protocol::TCP, 5432),
        DENIED
    );
}

#[test]
fn a_port_item_without_ports_stands_for_nothing() {
    let world = with(&[&on_postgres("  ingress: [{fromEndpoints: [{}], toPorts: [{}]}]")]);
    assert_eq!(world.tcp("db/debug", "db/postgres", 5432), DENIED);
}

#[test]
fn protocol_any_is_tcp_udp_and_sctp_but_never_icmp() {
    let world = with(&[&on_postgres(
        "  ingress: [{toPorts: [{ports: [{port: \"0\", protocol: ANY}]}]}]",
    )]);
    for protocol in [Protocol::TCP, Protocol::UDP, Protocol::SCTP] {
        assert_eq!(world.flow("dummy/debug", "db/postgres", protocol, 1), Allowed);
    }
    assert_eq!(
        world.flow("dummy/debug", "db/postgres", Protocol::ICMP, 8),
        DENIED
    );
}

#[test]
fn a_port_range_includes_both_ends() {
    let world = with(&[&on_postgres(
        "  ingress: [{toPorts: [{ports: [{port: \"100\", endPort: 110}]}]}]",
    )]);
    let seen: Vec<Seen> = [99, 100, 110, 111]
        .map(|port| world.tcp("db/debug", "db/postgres", port))
        .into();
    assert_eq!(seen, [DENIED, Allowed, Allowed, DENIED]);
}

#[test]
fn a_named_port_is_the_subjects_on_ingress_and_each_peers_on_egress() {
    let world = with(&[&on_postgres(
        "  ingress: [{toPorts: [{ports: [{port: pg, protocol: TCP}]}]}]",
    )]);
    assert_eq!(world.tcp("db/debug", "db/postgres", 5432), Allowed);
    assert_eq!(world.tcp("db/debug", "db/postgres", 5000), DENIED);
    let policy = cnp(
        "x",
        "{matchLabels: {app: debug}}",
        "  egress: [{toPorts: [{ports: [{port: http}]}]}]",
    );
    let world = with(&[&policy]);
    assert_eq!(world.tcp("db/debug", "db/flask-0", 5000), Allowed);
    assert_eq!(
        world.tcp("db/debug", "db/postgres", 5000),
        DENIED,
        "postgres has no port of that name"
    );
}

#[test]
fn namespaces_are_crossed_by_name_or_by_namespace_labels_only() {
    for (selector, allowed) in [
        ("{matchLabels: {io.kubernetes.pod.namespace: dummy}}", true),
        (
            "{matchLabels: {\"k8s:io.kubernetes.pod.namespace\": dummy, app: debug}}",
            true,
        ),
        (
            "{matchExpressions: [{key: io.kubernetes.pod.namespace, operator: Exists}]}",
            true,
        ),
        (
            "{matchLabels: {io.cilium.k8s.namespace.labels.kubernetes.io/metadata.name: dummy}}",
            true,
        ),
        ("{matchLabels: {app: debug}}", false),
        (
            "{matchLabels: {io.kubernetes.pod.namespace: dummy, io.cilium.k8s.policy.cluster: other}}",
            false,
        ),
        (
            "{matchLabels: {io.cilium.k8s.namespace.labels.team: data}}",
            false,
        ),
    ] {
        let world = with(&[&on_postgres(&format!(
            "  ingress: [{{fromEndpoints: [{selector}]}}]"
        ))]);
        let expected = if allowed { Allowed } else { DENIED };
        assert_eq!(
            world.tcp("dummy/debug", "db/postgres", 5432),
            expected,
            "{selector}"
        );
    }
}

#[test]
fn a_subject_is_never_of_another_namespace() {
    let subject = "{matchLabels: {io.kubernetes.pod.namespace: dummy, app: debug}}";
    let world = with(&[&cnp("x", subject, "  ingress: [{}]")]);
    assert_eq!(world.tcp("db/flask-0", "dummy/debug", 1), Allowed);
    assert_eq!(world.tcp("db/flask-0", "db/debug", 1), DENIED);
}

#[test]
fn a_namespaces_labels_move_its_pods_into_and_out_of_selectors() {
    let selector = "{matchLabels: {io.cilium.k8s.namespace.labels.team: web}}";
    let mut world = with(&[&on_postgres(&format!(
        "  ingress: [{{fromEndpoints: [{selector}]}}]"
    ))]);
    assert_eq!(world.tcp("dummy/debug", "db/postgres", 5432), DENIED);
    world.apply("apiVersion: v1\nkind: Namespace\nmetadata: {name: dummy, labels: {team: web}}\n");
    assert_eq!(world.tcp("dummy/debug", "db/postgres", 5432), Allowed);
    world.delete(Kind::Namespace, "", "dummy");
    assert_eq!(world.tcp("dummy/debug", "db/postgres", 5432), DENIED);
}

#[test]
fn both_ends_must_agree() {
    let egress = cnp(
        "out",
        "{matchLabels: {app: flask-app}}",
        "  egress: [{toEndpoints: [{matchLabels: {app: debug}}]}]",
    );
    let world = with(&[FLASK_APP_TO_DB, &egress]);
    assert_eq!(
        world.tcp("db/flask-0", "db/postgres", 5432),
        DENIED,
        "egress of the source denies"
    );
    assert_eq!(world.tcp("db/flask-0", "db/debug", 1), Allowed);
}

#[test]
fn a_deny_of_any_width_beats_every_allow() {
    let world = with(&[
        FLASK_APP_TO_DB,
        &on_postgres("  ingressDeny: [{fromEndpoints: [{}]}]"),
    ]);
    assert_eq!(world.tcp("db/flask-0", "db/postgres", 5432), DENY_RULE);
    assert_eq!(
        world.tcp("dummy/debug", "db/postgres", 5432),
        DENIED,
        "not covered by the deny"
    );
}

#[test]
fn a_plain_allow_lifts_the_http_restriction_of_the_same_peer_and_port() {
    let plain = cnp(
        "plain",
        "{matchLabels: {app: flask-app}}",
        "  ingress: [{fromEndpoints: [{matchLabels: {app: debug}}]}]",
    );
    let world = with(&[L7_RULE, &plain]);
    assert_eq!(world.tcp("db/debug", "db/flask-0", 5000), Allowed);
    assert_eq!(world.tcp("dummy/debug", "db/flask-0", 5000), Http);
}

#[test]
fn http_rule_sets_of_one_peer_and_port_are_united() {
    let more = cnp(
        "more",
        "{matchLabels: {app: flask-app}}",
        "  ingress:\n  - fromEndpoints: [{matchLabels: {app: debug}}]\n    toPorts: [{ports: [{port: \"5000\", protocol: TCP}], \
         rules: {http: [{path: /plot/.*}]}}]",
    );
    let world = with(&[L7_RULE, &more]);
    assert!(world.http("db/debug", "db/flask-0", 5000, "GET", "/").0);
    assert_eq!(
        world.http("db/debug", "db/flask-0", 5000, "POST", "/plot/temp"),
        (true, vec!["cnp db/more ingress[0]".to_owned()])
    );
    assert!(
        !world
            .http("dummy/debug", "db/flask-0", 5000, "POST", "/plot/temp")
            .0
    );
    assert!(!world.http("db/debug", "db/flask-0", 5000, "GET", "/metrics").0);
}

#[test]
fn empty_http_rules_restrict_nothing_and_one_empty_rule_allows_every_request() {
    for (rules, expected) in [("{}", Allowed), ("{http: []}", Allowed), ("{http: [{}]}", Http)] {
        let policy = L7_RULE.replace("{http: [{method: GET, path: \"/\"}]}", rules);
        let world = with(&[&policy]);
        assert_eq!(world.tcp("db/debug", "db/flask-0", 5000), expected, "{rules}");
        assert!(
            world
                .http("db/debug", "db/flask-0", 5000, "DELETE", "/any?thing")
                .0,
            "{rules}"
        );
    }
}

#[test]
fn without_default_deny_only_denies_bite_and_http_rules_do_not_restrict() {
    let spec = |lists: &str| format!("  enableDefaultDeny: {{ingress: false, egress: false}}\n{lists}");
    let world = with(&[&on_postgres(&spec(
        "  ingress: [{fromEndpoints: [{matchLabels: {app: flask-app}}]}]",
    ))]);
    assert_eq!(world.tcp("dummy/debug", "db/postgres", 1), Allowed);
    let deny = on_postgres(&spec(
        "  ingressDeny: [{fromEndpoints: [{matchLabels: {app: debug}}]}]",
    ));
    let world = with(&[&deny]);
    assert_eq!(world.tcp("db/debug", "db/postgres", 1), DENY_RULE);
    assert_eq!(world.tcp("dummy/debug", "db/postgres", 1), Allowed);
    let l7 = L7_RULE.replace("spec:", "spec:\n  enableDefaultDeny: {ingress: false}");
    assert_eq!(with(&[&l7]).tcp("db/debug", "db/flask-0", 5000), Allowed);
    // Another policy's default deny holds for the rules of both.
    let world = with(&[&deny, FLASK_APP_TO_DB]);
    assert_eq!(world.tcp("dummy/debug", "db/postgres", 5432), DENIED);
}

#[test]
fn a_deny_only_policy_turns_default_deny_on() {
    let world = with(&[&on_postgres(
        "  ingressDeny: [{fromEndpoints: [{matchLabels: {app: debug}}]}]",
    )]);
    assert_eq!(world.tcp("db/debug", "db/postgres", 1), DENY_RULE);
    assert_eq!(world.tcp("db/flask-0", "db/postgres", 1), DENIED);
}

#[test]
fn spec_and_specs_both_apply() {
    let policy = "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {name: both, namespace: db}\n\
                  spec:\n  endpointSelector: {matchLabels: {app: postgres}}\n  ingress: [{}]\nspecs:\n\
                  - endpointSelector: {matchLabels: {app: flask-app}}\n  egress: [{}]\n";
    let world = with(&[policy]);
    assert_eq!(world.tcp("db/debug", "db/postgres", 1), DENIED);
    assert_eq!(world.tcp("db/flask-0", "db/debug", 1), DENIED);
    assert_eq!(world.tcp("db/debug", "db/flask-0", 1), Allowed);
}

#[test]
fn world_is_what_is_no_pod_no_node_and_in_no_pod_cidr() {
    let world = with(&[&on_postgres("  egress: [{toEntities: [world]}]")]);
    assert_eq!(
        world.egress("db/postgres", "1.1.1.1", Protocol::TCP, 443),
        Allowed
    );
    assert_eq!(
        world.egress("db/postgres", "10.1.0.3", Protocol::TCP, 443),
        DENIED,
        "a pod"
    );
    assert_eq!(
        world.egress("db/postgres", "10.1.9.9", Protocol::TCP, 443),
        DENIED,
        "unmanaged"
    );
    assert_eq!(
        world.egress("db/postgres", "172.18.0.2", Protocol::TCP, 443),
        DENIED,
        "the node"
    );
}

#[test]
fn cidr_rules_cover_the_outside_only_and_all_prefixes_count() {
    let rules = "  egress:\n  - toCIDRSet: [{cidr: 1.0.0.0/8, except: [1.0.0.0/24]}]\n  - toCIDR: [1.1.1.1/32, 0.0.0.0/0]\n    \
                 toPorts: [{ports: [{port: \"53\"}]}]\n  egressDeny: [{toCIDR: [1.2.0.0/16]}]";
    let world = with(&[&on_postgres(rules)]);
    for (addr, port, expected) in [
        ("1.1.1.1", 443, Allowed),
        ("1.1.1.1", 53, Allowed),
        ("1.0.0.1", 443, DENIED),
        ("1.0.0.1", 53, Allowed),
        ("1.2.3.4", 443, DENY_RULE),
        ("8.8.8.8", 53, Allowed),
        ("8.8.8.8", 443, DENIED),
        ("10.1.0.3", 53, DENIED),
        ("10.1.9.9", 53, DENIED),
        ("172.18.0.2", 53, DENIED),
        ("2001:db8::1", 53, DENIED),
    ] {
        assert_eq!(
            world.egress("db/postgres", addr, Protocol::TCP, port),
            expected,
            "{addr}:{port}"
        );
    }
    // A prefix that some rule mentions is still part of the world.
    let world_rule = cnp(
        "w",
        "{matchLabels: {app: debug}}",
        "  egress: [{toEntities: [world]}]",
    );
    let world = with(&[&on_postgres(rules), &world_rule]);
    assert_eq!(world.egress("db/debug", "1.2.3.4", Protocol::TCP, 443), Allowed);
}

#[test]
fn icmp_rules_compare_the_type() {
    let world = with(&[&on_postgres(
        "  ingress: [{fromEndpoints: [{}], icmps: [{fields: [{type: EchoRequest}]}]}]",
    )]);
    assert_eq!(world.flow("db/debug", "db/postgres", Protocol::ICMP, 8), Allowed);
    assert_eq!(world.flow("db/debug", "db/postgres", Protocol::ICMP, 13), DENIED);
    assert_eq!(
        world.flow("db/debug", "db/postgres", Protocol::ICMPV6, 128),
        DENIED
    );
    assert_eq!(world.tcp("db/debug", "db/postgres", 8), DENIED);
}

#[test]
fn an_endpoint_whose_pod_is_not_known_is_init_and_denied_both_ways() {
    let mut world = with(&[]);
    let pod: PodName = "dummy/new".parse().expect("name");
    let addr: IpAddr = "10.1.0.99".parse().expect("address");
    world.index.apply_endpoint(LocalEndpoint {
        key: key(40),
        pod: pod.clone(),
        uid: None,
        addresses: vec![addr],
        audit: false,
    });
    world.compile();
    assert_eq!(world.snapshot.ipcache.lookup(addr), Identity::INIT);
    assert_eq!(world.tcp("dummy/new", "db/debug", 1), DENIED);
    assert_eq!(world.tcp("db/debug", "dummy/new", 1), DENIED);
    assert_eq!(
        world.ingress("dummy/new", Identity::HOST, Protocol::TCP, 1),
        Allowed
    );
    world.apply("apiVersion: v1\nkind: Pod\nmetadata: {name: new, namespace: dummy, labels: {app: new}}\nspec: {containers: []}\n");
    assert_eq!(world.tcp("dummy/new", "db/debug", 1), Allowed);
    assert!(world.snapshot.ipcache.lookup(addr) >= Identity::FIRST_ALLOCATED);
    world.delete(Kind::Pod, "dummy", "new");
    assert_eq!(world.tcp("dummy/new", "db/debug", 1), DENIED);
}

#[test]
fn a_clusterwide_policy_for_init_opens_endpoints_whose_pod_is_not_known() {
    let mut world = with(&[]);
    world.index.apply_endpoint(LocalEndpoint {
        key: key(40),
        pod: "dummy/new".parse().expect("name"),
        uid: None,
        addresses: vec!["10.1.0.99".parse().expect("address")],
        audit: false,
    });
    let policy = |subject: &str| {
        format!(
            "apiVersion: cilium.io/v2\nkind: CiliumClusterwideNetworkPolicy\nmetadata: {{name: init}}\nspec: {{endpointSelector: \
             {subject}, egress: [{{toEndpoints: [{{}}]}}], ingress: [{{fromEntities: [world]}}]}}\n"
        )
    };
    world.apply(&policy("{matchLabels: {\"reserved:init\": \"\"}}"));
    assert_eq!(world.tcp("dummy/new", "db/debug", 1), Allowed);
    assert_eq!(world.tcp("db/debug", "dummy/new", 1), DENIED);
    let from_world = |world: &World| world.ingress("dummy/new", Identity::WORLD, Protocol::TCP, 1);
    assert_eq!(from_world(&world), Allowed);
    // The empty selector selects it as well; one that asks for labels does not.
    world.apply(&policy("{}"));
    assert_eq!(from_world(&world), Allowed);
    world.apply(&policy("{matchLabels: {app: debug}}"));
    assert_eq!(from_world(&world), DENIED);
}

#[test]
fn an_object_of_a_former_pod_gives_the_new_attachment_no_identity() {
    let mut world = with(&[]);
    let pod: PodName = "db/debug".parse().expect("name");
    let addr: IpAddr = "10.1.0.77".parse().expect("address");
    world.index.apply_endpoint(LocalEndpoint {
        key: key(41),
        pod,
        uid: None,
        addresses: vec![addr],
        audit: false,
    });
    world.compile();
    assert_eq!(
        world.snapshot.ipcache.lookup(addr),
        Identity::INIT,
        "the object says 10.1.0.5"
    );
}

#[test]
fn a_local_attachment_outranks_what_objects_say_of_an_address() {
    let mut world = with(&[FLASK_APP_TO_DB]);
    world.apply(
        "apiVersion: v1\nkind: Pod\nmetadata: {name: thief, namespace: db, labels: {app: flask-app}}\nspec: {containers: []}\n\
         status: {podIPs: [{ip: 10.1.0.5}]}\n",
    );
    assert_eq!(world.tcp("db/debug", "db/postgres", 5432), DENIED);
}

#[test]
fn finished_and_host_network_pods_have_no_address() {
    let pod = |name: &str, ip: &str, spec: &str, phase: &str| {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: db, labels: {{app: flask-app}}}}\n\
             spec: {{containers: [], {spec}}}\nstatus: {{phase: {phase}, podIPs: [{{ip: {ip}}}]}}"
        )
    };
    let host = pod("on-host", "172.18.0.9", "hostNetwork: true", "Running");
    let done = pod("done", "10.1.0.50", "hostNetwork: false", "Succeeded");
    let world = with(&[&host, &done]);
    assert_eq!(
        world
            .snapshot
            .ipcache
            .lookup("172.18.0.9".parse().expect("address")),
        Identity::WORLD
    );
    assert_eq!(
        world
            .snapshot
            .ipcache
            .lookup("10.1.0.50".parse().expect("address")),
        Identity::UNMANAGED
    );
}

#[test]
fn nodes_are_host_remote_or_give_pod_cidrs() {
    let node = |name: &str, ip: &str, cidr: &str| {
        format!(
            "apiVersion: v1\nkind: Node\nmetadata: {{name: {name}}}\nspec: {{podCIDRs: [{cidr}]}}\nstatus: {{addresses: \
             [{{type: InternalIP, address: {ip}}}, {{type: Hostname, address: {name}}}]}}"
        )
    };
    let world = with(&[
        &node("node-1", "172.18.0.3", "10.1.0.0/24"),
        &node("node-2", "172.18.0.4", "10.2.0.0/24"),
    ]);
    let lookup = |addr: &str| world.snapshot.ipcache.lookup(addr.parse().expect("address"));
    assert_eq!(lookup("172.18.0.2"), Identity::HOST);
    assert_eq!(lookup("172.18.0.3"), Identity::HOST);
    assert_eq!(lookup("172.18.0.4"), Identity::REMOTE_NODE);
    assert_eq!(lookup("10.2.0.9"), Identity::UNMANAGED);
    assert_eq!(lookup("10.3.0.9"), Identity::WORLD);
}

#[test]
fn services_lead_to_ready_backends_of_the_same_family_by_port_name() {
    let service = r#"
apiVersion: v1
kind: Service
metadata: {name: flask, namespace: db}
spec:
  clusterIPs: [10.96.0.7, "fd01::7"]
  ports: [{name: web, port: 80, targetPort: http, nodePort: 30008}, {name: extra, port: 81, nodePort: 0}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: flask-4, namespace: db, labels: {kubernetes.io/service-name: flask}}
addressType: IPv4
ports: [{name: web, port: 5000, protocol: TCP}]
endpoints:
- {addresses: [10.1.0.4], conditions: {ready: true}}
- {addresses: [10.1.0.3]}
- {addresses: [10.1.0.8], conditions: {ready: false}}
---
apiVersion: v1
kind: Service
metadata: {name: headless, namespace: db}
spec: {clusterIP: None, ports: [{port: 5432}]}
"#;
    let world = with(&[service]);
    let lookup = |addr: &str, port| match world.snapshot.services.lookup(
        addr.parse().expect("address"),
        port,
        Protocol::TCP,
    ) {
        ServiceLookup::Service(service) => Some(
            service
                .backends
                .iter()
                .map(|b| format!("{}:{}", b.addr, b.port))
                .collect::<Vec<_>>(),
        ),
        ServiceLookup::NoSuchPort => Some(vec!["no such port".to_owned()]),
        ServiceLookup::NotService => None,
    };
    assert_eq!(
        lookup("10.96.0.7", 80),
        Some(vec!["10.1.0.3:5000".into(), "10.1.0.4:5000".into()])
    );
    assert_eq!(lookup("10.96.0.7", 81), Some(vec![]), "no slice has the port");
    assert_eq!(lookup("fd01::7", 80), Some(vec![]), "no slice of the family");
    assert_eq!(lookup("10.96.0.7", 82), Some(vec!["no such port".into()]));
    let node_port = lookup("172.18.0.2", 30_008);
    assert_eq!(
        node_port,
        Some(vec!["10.1.0.3:5000".into(), "10.1.0.4:5000".into()])
    );
    assert_eq!(
        lookup("172.18.0.2", 22),
        None,
        "the node's other ports are its own"
    );
    assert_eq!(
        world.snapshot.services.iter().count(),
        5,
        "a headless service is no entry"
    );
}

#[test]
fn pods_that_differ_in_ignored_labels_only_share_an_identity() {
    let world = with(&[]);
    assert_eq!(
        world.policy("db/flask-0").identity,
        world.policy("db/flask-1").identity
    );
    assert_ne!(
        world.policy("db/flask-0").identity,
        world.policy("dummy/impostor").identity
    );
}

#[test]
fn nothing_changed_is_the_very_same_snapshot() {
    let mut world = with(&[FLASK_APP_TO_DB, L7_RULE]);
    let before = world.snapshot.clone();
    world.apply(FLASK_APP_TO_DB);
    world.apply(L7_RULE);
    assert_eq!(world.snapshot.revision, before.revision);
    assert!(is_same(&world.snapshot, &before));
}

#[test]
fn a_policy_change_changes_the_generation_of_the_endpoints_it_touches_only() {
    let mut world = with(&[L7_RULE]);
    let (before, snapshot) = (world.generations(), world.snapshot.clone());
    world.apply(FLASK_APP_TO_DB);
    for ((pod, before), (_, after)) in before.iter().zip(world.generations()) {
        assert_eq!(*before != after, pod == "db/postgres", "{pod}");
    }
    assert!(Arc::ptr_eq(&world.snapshot.ipcache, &snapshot.ipcache));
    assert!(Arc::ptr_eq(&world.snapshot.services, &snapshot.services));
    assert!(Arc::ptr_eq(
        world.policy("db/flask-0"),
        snapshot.endpoint(world.policy("db/flask-0").key).expect("policy")
    ));
    world.delete(Kind::CiliumNetworkPolicy, "db", "flask-app-to-db");
    let after = world.generations();
    assert!(
        before
            .iter()
            .zip(&after)
            .filter(|(b, a)| b != a)
            .map(|(b, _)| b.0.as_str())
            .eq(["db/postgres"])
    );
    assert!(
        world.policy("db/postgres").generation > before[3].1,
        "a generation never returns"
    );
}

#[test]
fn a_pod_change_changes_the_ipcache_and_a_service_change_neither() {
    let mut world = with(&[FLASK_APP_TO_DB]);
    let before = world.snapshot.clone();
    world.apply(
        "apiVersion: v1\nkind: Service\nmetadata: {name: s, namespace: db}\nspec: {clusterIP: 10.96.0.1, ports: [{port: 1}]}\n",
    );
    assert_ne!(world.snapshot.revision, before.revision);
    assert!(Arc::ptr_eq(&world.snapshot.ipcache, &before.ipcache));
    assert!(Arc::ptr_eq(&world.snapshot.endpoints, &before.endpoints));
    world.apply(
        "apiVersion: v1\nkind: Pod\nmetadata: {name: far, namespace: db, labels: {app: debug}}\nspec: {containers: []}\n\
         status: {podIPs: [{ip: 10.1.7.7}]}\n",
    );
    assert_ne!(world.snapshot.ipcache.generation(), before.ipcache.generation());
    assert!(
        Arc::ptr_eq(&world.snapshot.endpoints, &before.endpoints),
        "same identity: same tables"
    );
}

#[test]
fn explain_compiles_the_policy_of_pods_that_are_not_local() {
    let mut world = with(&[FLASK_APP_TO_DB]);
    let endpoints: Vec<EndpointKey> = world.index.endpoints().values().map(|e| e.key).collect();
    for key in endpoints {
        world.index.delete_endpoint(key);
    }
    let name = |text: &str| text.parse::<PodName>().expect("name");
    let ask = |from: &str, to: &str| explain(&world.index, &name(from), &name(to), 5432, Protocol::TCP, None);
    let explained = ask("db/flask-0", "db/postgres").expect("known");
    assert!(explained.allowed);
    assert_eq!(explained.ingress.rules, ["cnp db/flask-app-to-db ingress[0]"]);
    assert_eq!(explained.ingress.policies, ["cnp db/flask-app-to-db"]);
    assert_eq!(explained.egress.verdict, SideVerdict::NotEnforced);
    let denied = ask("dummy/debug", "db/postgres").expect("known");
    assert_eq!(
        (denied.allowed, denied.ingress.verdict),
        (false, SideVerdict::DefaultDeny)
    );
    assert!(ask("db/nobody", "db/postgres").is_err());
}

#[test]
fn audit_mode_changes_the_policy_of_its_endpoint_only() {
    let mut world = with(&[FLASK_APP_TO_DB]);
    let before = world.snapshot.clone();
    let mut endpoint = world.index.endpoints().values().next().expect("endpoint").clone();
    endpoint.audit = true;
    world.index.apply_endpoint(endpoint.clone());
    world.compile();
    for other in world.index.endpoints().values() {
        let (old, new) = (before.endpoint(other.key), world.snapshot.endpoint(other.key));
        let (old, new) = (old.expect("compiled"), new.expect("compiled"));
        let is_changed = other.key == endpoint.key;
        assert_eq!(new.audit, is_changed);
        assert_eq!(old.generation != new.generation, is_changed);
    }
}

#[test]
fn a_policy_that_is_too_large_denies_everything_and_is_reported() {
    use std::fmt::Write;

    let mut pods = String::new();
    for n in 0..1000 {
        let _infallible = write!(
            pods,
            "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: p{n}, namespace: a, labels: {{n: n{n}}}}}\n\
             status: {{podIP: 10.1.{}.{}}}\n",
            n / 250,
            n % 250 + 1
        );
    }
    let mut policy =
        "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {name: large, namespace: a}\n\
        spec:\n  endpointSelector: {matchLabels: {n: n0}}\n  ingress:\n"
            .to_owned();
    for port in 1..300 {
        let _infallible = writeln!(
            policy,
            "  - {{fromEndpoints: [{{}}], toPorts: [{{ports: [{{port: \"{port}\", protocol: TCP}}]}}]}}"
        );
    }
    let mut index = Index::new(IndexConfig {
        cluster_name: "default".into(),
        ..IndexConfig::default()
    });
    let apply = |index: &mut Index, yaml: &str| {
        for document in manifest::parse(yaml, "default") {
            let Document::Object { object, .. } = document else {
                panic!("{document:?}")
            };
            index.apply(*object);
        }
    };
    apply(&mut index, &pods);
    apply(&mut index, &policy);
    index.apply_endpoint(LocalEndpoint {
        key: key(8),
        pod: "a/p0".parse().expect("name"),
        uid: None,
        addresses: vec!["10.1.0.1".parse().expect("address")],
        audit: false,
    });
    let mut compiler = Compiler::default();
    let snapshot = compiler.compile(&mut index, &Snapshot::default());
    let peer = snapshot.ipcache.lookup("10.1.0.2".parse().expect("address"));
    let decide = |snapshot: &Snapshot| {
        let policy = snapshot.endpoint(key(8)).expect("compiled");
        seen(policy.decide(Direction::Ingress, peer, Protocol::TCP, 80))
    };
    assert_eq!(decide(&snapshot), DENIED);
    let failures = compiler.failures();
    assert_eq!(failures.len(), 1);
    assert!(
        failures[0].starts_with("ingress of identity ") && failures[0].contains("k8s:n=n0"),
        "{failures:?}"
    );
    let cut = policy.lines().take(6 + 200).collect::<Vec<_>>().join("\n");
    apply(&mut index, &cut);
    let snapshot = compiler.compile(&mut index, &snapshot);
    assert_eq!((decide(&snapshot), compiler.failures().len()), (Allowed, 0));
}

#[test]
fn a_label_in_the_form_of_a_prefix_puts_nobody_into_an_ip_block() {
    let world = World::new(
        r#"
apiVersion: v1
kind: Pod
metadata: {name: db, namespace: db}
status: {podIP: 10.1.0.2}
---
apiVersion: v1
kind: Pod
metadata: {name: forger, namespace: x, labels: {"192.168.0.0/16": ""}}
status: {podIP: 10.1.0.3}
---
apiVersion: v1
kind: Pod
metadata: {name: escaper, namespace: x, labels: {"10.1.0.0/24": ""}}
status: {podIP: 10.1.0.4}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: blocks, namespace: db}
spec:
  podSelector: {}
  ingress:
  - from:
    - ipBlock: {cidr: 192.168.0.0/16}
    - ipBlock: {cidr: 10.1.0.0/16, except: [10.1.0.0/24]}
"#,
    );
    assert_eq!(world.flow("x/forger", "db/db", Protocol::TCP, 80), DENIED);
    assert_eq!(world.flow("x/escaper", "db/db", Protocol::TCP, 80), DENIED);
}

#[test]
fn a_finished_pod_does_not_describe_its_successor() {
    let pod = |phase: &str| {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: tool, namespace: x, labels: {{role: admin}}}}\n\
             status: {{podIP: 10.1.0.3, phase: {phase}}}\n"
        )
    };
    let mut world = World::new(&pod("Running"));
    let addr = "10.1.0.3".parse().expect("address");
    assert!(world.snapshot.ipcache.lookup(addr) >= Identity::FIRST_ALLOCATED);
    world.apply(&pod("Succeeded"));
    assert_eq!(world.snapshot.ipcache.lookup(addr), Identity::INIT);
}

#[test]
fn a_port_name_that_a_pod_has_twice_opens_nothing_of_other_pods() {
    let world = World::new(
        r#"
apiVersion: v1
kind: Pod
metadata: {name: client, namespace: x, labels: {app: client}}
status: {podIP: 10.1.0.2}
---
apiVersion: v1
kind: Pod
metadata: {name: twice, namespace: x, labels: {app: web}}
spec:
  containers:
  - {name: a, ports: [{name: web, containerPort: 80}]}
  - {name: b, ports: [{name: web, containerPort: 8080}]}
status: {podIP: 10.1.0.3}
---
apiVersion: v1
kind: Pod
metadata: {name: once, namespace: x, labels: {app: web}}
spec: {containers: [{name: a, ports: [{name: web, containerPort: 8080}]}]}
status: {podIP: 10.1.0.4}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: named, namespace: x}
spec:
  podSelector: {matchLabels: {app: client}}
  policyTypes: [Egress]
  egress: [{ports: [{port: web}]}]
"#,
    );
    assert_eq!(world.flow("x/client", "x/twice", Protocol::TCP, 80), Allowed);
    assert_eq!(world.flow("x/client", "x/once", Protocol::TCP, 8080), Allowed);
    assert_eq!(world.flow("x/client", "x/once", Protocol::TCP, 80), DENIED);
}

#[test]
fn an_endpoint_with_a_uid_is_the_pod_of_that_uid_and_no_other() {
    let pod = |uid: &str, mirror: &str| {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: db-0, namespace: x, uid: {uid}, labels: {{of: {uid}}}, annotations: {{{mirror}}}}}\n\
             status: {{podIP: 10.1.0.3}}\n"
        )
    };
    let mut world = World::new(&pod("former", ""));
    let addr = "10.1.0.3".parse().expect("address");
    world.index.apply_endpoint(LocalEndpoint {
        key: key(8),
        pod: "x/db-0".parse().expect("name"),
        uid: Some("own".into()),
        addresses: vec![addr],
        audit: false,
    });
    world.compile();
    assert_eq!(
        world.snapshot.ipcache.lookup(addr),
        Identity::INIT,
        "same name and address, another pod"
    );
    let is_of = |world: &World, uid: &str| {
        let labels = &world.snapshot.identities[&world.policy("x/db-0").identity];
        labels.contains(&format!("k8s:of={uid}"))
    };
    world.apply(&pod("own", ""));
    assert!(world.snapshot.ipcache.lookup(addr) >= Identity::FIRST_ALLOCATED);
    assert!(is_of(&world, "own"));
    let mirror = "kubernetes.io/config.mirror: own, kubernetes.io/config.hash: own";
    world.apply(&pod("of-the-mirror", mirror));
    assert!(is_of(&world, "of-the-mirror"));
    world.apply(&pod("other", ""));
    assert!(is_of(&world, "of-the-mirror"), "it stays who it was");
    // Anybody may write the hash; only the kubelet's mirror pods have the other annotation.
    world.apply(&pod("no-mirror", "kubernetes.io/config.hash: own"));
    assert!(is_of(&world, "of-the-mirror"));
}

#[test]
fn addresses_of_the_nodes_interfaces_are_the_node_as_long_as_they_are_there() {
    let policy = |name: &str, peer: &str| {
        format!(
            "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {{name: out, namespace: x}}\n\
             spec: {{endpointSelector: {{matchLabels: {{app: {name}}}}}, egress: [{{{peer}}}]}}\n"
        )
    };
    let pod = "apiVersion: v1\nkind: Pod\nmetadata: {name: client, namespace: x, labels: {app: client}}\nstatus: {podIP: 10.1.0.2}\n";
    let mut world = World::new(pod);
    let dns: IpAddr = "169.254.20.10".parse().expect("address");
    let gateway: IpAddr = "10.1.0.1".parse().expect("address");
    let second: IpAddr = "2001:db8::7".parse().expect("address");
    let all = [dns, gateway, second];
    let at = |world: &World| all.map(|addr| world.snapshot.ipcache.lookup(addr));
    let reached = |world: &World, addr| {
        let egress = &world.policy("x/client").egress;
        let decision = egress.decide(world.snapshot.ipcache.lookup(addr), Protocol::UDP, 53);
        decision.drop_reason().is_none()
    };
    for (peer, before, after) in [
        ("toEntities: [world]", true, false),
        ("toCIDR: [169.254.20.10/32]", true, false),
        ("toEntities: [host]", false, true),
    ] {
        world.apply(&policy("client", peer));
        let [dns_before, ..] = at(&world);
        assert_eq!(dns_before == Identity::WORLD, !peer.contains("CIDR"), "{peer}");
        assert_eq!(reached(&world, dns), before, "{peer}");
        assert!(world.index.set_interface_addresses(all.into()));
        world.compile();
        assert_eq!(at(&world), [Identity::HOST; 3], "{peer}");
        assert_eq!(reached(&world, dns), after, "{peer}");
        assert!(world.index.set_interface_addresses([gateway].into()));
        world.compile();
        assert_eq!(reached(&world, dns), before, "{peer}");
        assert_eq!(at(&world)[1], Identity::HOST);
        assert!(world.index.set_interface_addresses(BTreeSet::new()));
        world.compile();
        assert_eq!(at(&world)[1], Identity::UNMANAGED);
        let revision = world.snapshot.revision;
        assert!(!world.index.set_interface_addresses(BTreeSet::new()));
        world.compile();
        assert_eq!(world.snapshot.revision, revision);
    }
}

#[test]
fn a_local_attachment_outranks_an_interface_and_blocks_ask_for_the_addresses_that_are_known_of_the_node() {
    let mut world = World::new(
        "
apiVersion: v1
kind: Pod
metadata: {name: client, namespace: x, labels: {app: client}}
status: {podIP: 10.1.0.2}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: out, namespace: x}
spec: {podSelector: {}, policyTypes: [Egress], egress: [{to: [{ipBlock: {cidr: 172.18.0.0/16}}]}]}
",
    );
    let own = world.address("x/client");
    let identity = world.snapshot.ipcache.lookup(own);
    let dns: IpAddr = "169.254.20.10".parse().expect("address");
    world.index.set_interface_addresses([own, dns].into());
    world.compile();
    assert_eq!(world.snapshot.ipcache.lookup(own), identity);
    let egress = &world.policy("x/client").egress;
    let to_host = egress.decide(Identity::HOST, Protocol::TCP, 443);
    assert_eq!(to_host.drop_reason(), None, "172.18.0.2 is in the block");
}

#[test]
fn a_denied_network_that_holds_an_address_of_an_interface_denies_the_node() {
    let mut world = World::new(
        "
apiVersion: v1
kind: Pod
metadata: {name: client, namespace: x, labels: {app: client}}
status: {podIP: 10.1.0.2}
---
apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: {name: no-pods}
spec:
  tier: Admin
  priority: 1
  subject: {namespaces: {}}
  egress: [{action: Deny, to: [{networks: [10.1.0.0/16]}]}]
",
    );
    let to_host = |world: &World| {
        let egress = &world.policy("x/client").egress;
        egress.decide(Identity::HOST, Protocol::TCP, 10250).drop_reason()
    };
    assert_eq!(to_host(&world), None);
    let gateway: IpAddr = "10.1.0.1".parse().expect("address");
    world.index.set_interface_addresses([gateway].into());
    world.compile();
    assert_eq!(to_host(&world), Some(DropReason::PolicyDenyRule));
}

#[test]
fn an_api_server_at_an_interface_of_the_node_is_the_node() {
    let mut world = World::new(
        "
apiVersion: v1
kind: Pod
metadata: {name: client, namespace: x, labels: {app: client}}
status: {podIP: 10.1.0.2}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: kubernetes, namespace: default, labels: {kubernetes.io/service-name: kubernetes}}
addressType: IPv4
endpoints: [{addresses: [192.0.2.100]}]
---
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: out, namespace: x}
spec: {endpointSelector: {}, egress: [{toEntities: [kube-apiserver]}]}
",
    );
    let vip: IpAddr = "192.0.2.100".parse().expect("address");
    let reached = |world: &World, identity| {
        let decision = world
            .policy("x/client")
            .egress
            .decide(identity, Protocol::TCP, 6443);
        decision.drop_reason().is_none()
    };
    for is_here in [false, true, false] {
        let addresses = if is_here { [vip].into() } else { BTreeSet::new() };
        world.index.set_interface_addresses(addresses);
        world.compile();
        let identity = world.snapshot.ipcache.lookup(vip);
        assert_eq!(identity == Identity::HOST, is_here);
        assert!(reached(&world, identity), "{is_here}");
        assert_eq!(reached(&world, Identity::HOST), is_here);
    }
}
