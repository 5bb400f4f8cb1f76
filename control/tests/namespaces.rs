//! Pods whose Namespace the API server's watches have not told of yet, or not any more: they come and go in any order.

mod world;

use std::collections::BTreeMap;

use policy::{Identity, PodName, Protocol};
use proptest::prelude::*;
use sluice_control::object::Kind;
use world::{World, pod};

/// Red namespaces take from each other only.
const RED: &str = "
apiVersion: cilium.io/v2
kind: CiliumClusterwideNetworkPolicy
metadata: {name: red}
spec:
  endpointSelector: {matchLabels: {k8s:io.cilium.k8s.namespace.labels.team: red}}
  ingress:
  - fromEndpoints: [{matchLabels: {k8s:io.cilium.k8s.namespace.labels.team: red}}]
";

/// Green namespaces take from everybody but blue ones.
const NOT_BLUE: &str = "
apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: {name: not-blue}
spec:
  tier: Admin
  priority: 1
  subject: {namespaces: {matchLabels: {team: green}}}
  ingress:
  - {action: Deny, from: [{namespaces: {matchLabels: {team: blue}}}]}
";

fn namespace(name: &str, team: &str) -> String {
    format!("apiVersion: v1\nkind: Namespace\nmetadata: {{name: {name}, labels: {{team: {team}}}}}\n")
}

#[test]
fn pod_is_not_open_before_its_namespace_is_known_and_follows_its_policies_then() {
    let mut world = World::new(true);
    world.apply(RED);
    world.apply(&namespace("shop", "blue"));
    world.apply(&pod("shop/web", "u-1", "10.1.0.3"));
    world.apply(&pod("db/pg", "u-2", "10.1.0.2"));
    world.attach(8, "db/pg", "u-2", "10.1.0.2");
    assert_eq!(world.policy(8).identity, Identity::INIT);
    assert!(
        !world.is_let_in(8, "10.1.0.3"),
        "nobody's policy is not everybody's"
    );
    let endpoint = world.index.endpoints().values().next().expect("an endpoint");
    assert!(
        world.index.pod_of(endpoint).is_none(),
        "the endpoint waits, as for its Pod object"
    );
    world.apply(&namespace("db", "red"));
    assert!(world.policy(8).identity >= Identity::FIRST_ALLOCATED);
    assert!(!world.is_let_in(8, "10.1.0.3"));
    world.apply(&namespace("shop", "red"));
    assert!(
        world.is_let_in(8, "10.1.0.3"),
        "every pod of a namespace follows it"
    );
}

#[test]
fn peer_whose_namespace_is_not_known_is_unmanaged_wherever_its_address_is() {
    let mut world = World::new(true);
    world.apply(&namespace("db", "green"));
    world.apply(&pod("db/pg", "u-2", "10.1.0.2"));
    world.attach(8, "db/pg", "u-2", "10.1.0.2");
    world.apply(NOT_BLUE);
    for (name, addr) in [("shop/web", "10.1.0.3"), ("shop/far", "198.51.100.7")] {
        world.apply(&pod(name, name.trim_start_matches("shop/"), addr));
        assert_eq!(world.at(addr), Identity::UNMANAGED, "{addr}");
    }
    world.apply(&namespace("shop", "blue"));
    for addr in ["10.1.0.3", "198.51.100.7"] {
        assert!(world.at(addr) >= Identity::FIRST_ALLOCATED, "{addr}");
        assert!(!world.is_let_in(8, addr), "{addr}");
    }
}

#[test]
fn port_name_of_a_pod_without_namespace_opens_nothing_to_unmanaged_addresses() {
    let mut world = World::new(true);
    world.apply(&namespace("db", "green"));
    world.apply(&pod("db/pg", "u-2", "10.1.0.2"));
    world.attach(8, "db/pg", "u-2", "10.1.0.2");
    world.apply(
        "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: to-web, namespace: db}
spec:
  podSelector: {}
  policyTypes: [Egress]
  egress: [{ports: [{port: web, protocol: TCP}]}]
",
    );
    let is_open = |world: &World, addr| {
        let egress = &world.policy(8).egress;
        let decision = egress.decide(world.at(addr), Protocol::TCP, 8080);
        decision.drop_reason().is_none()
    };
    world.apply(&pod("shop/web", "u-1", "10.1.0.3"));
    assert!(!is_open(&world, "10.1.0.3") && !is_open(&world, "10.1.0.77"));
    world.apply(&namespace("shop", "blue"));
    assert!(is_open(&world, "10.1.0.3") && !is_open(&world, "10.1.0.77"));
}

#[test]
fn deletion_of_a_namespace_changes_nothing_for_the_pods_that_it_still_has() {
    let mut world = World::new(true);
    world.apply(RED);
    world.apply(&namespace("shop", "blue"));
    world.apply(&namespace("db", "red"));
    world.apply(&pod("shop/web", "u-1", "10.1.0.3"));
    world.apply(&pod("db/pg", "u-2", "10.1.0.2"));
    world.attach(8, "db/pg", "u-2", "10.1.0.2");
    let before = world.snapshot.revision;
    world.delete(Kind::Namespace, "", "db");
    world.delete(Kind::Namespace, "", "shop");
    assert_eq!(world.snapshot.revision, before);
    assert!(!world.is_let_in(8, "10.1.0.3"));
    // A change of the pod does not make it forget.
    world.apply(&pod("db/pg", "u-2", "10.1.0.2").replace("uid:", "labels: {app: pg}, uid:"));
    assert!(world.policy(8).identity >= Identity::FIRST_ALLOCATED);
    assert!(!world.is_let_in(8, "10.1.0.3"));
    world.delete(Kind::Pod, "db", "pg");
    assert!(
        world.policy(8).identity >= Identity::FIRST_ALLOCATED,
        "its containers may still run"
    );
    assert!(!world.is_let_in(8, "10.1.0.3"));
}

#[test]
fn pods_that_come_after_the_deletion_of_their_namespace_wait_for_the_next_one() {
    let mut world = World::new(true);
    world.apply(&namespace("db", "blue"));
    world.apply(&pod("db/pg", "u-2", "10.1.0.2"));
    world.delete(Kind::Namespace, "", "db");
    for (name, uid) in [("db/pg", "u-3"), ("db/other", "u-4")] {
        world.apply(&pod(name, uid, "10.1.0.2"));
        assert_eq!(world.at("10.1.0.2"), Identity::UNMANAGED, "{name}");
        world.apply(&pod(name, uid, "10.1.0.9"));
    }
    world.apply(&namespace("db", "red"));
    let identity = world.at("10.1.0.9");
    let labels = world
        .index
        .identities()
        .get(identity)
        .expect("labels")
        .to_strings();
    assert!(
        labels.contains(&"k8s:io.cilium.k8s.namespace.labels.team=red".to_owned()),
        "{labels:?}"
    );
}

#[test]
fn manifests_need_no_namespace_and_lose_its_labels_with_it() {
    let mut world = World::new(false);
    world.apply(RED);
    world.apply(&pod("db/pg", "u-2", "10.1.0.2"));
    world.attach(8, "db/pg", "u-2", "10.1.0.2");
    assert!(world.policy(8).identity >= Identity::FIRST_ALLOCATED);
    assert!(world.is_let_in(8, "10.1.0.3"));
    world.apply(&namespace("db", "red"));
    assert!(!world.is_let_in(8, "10.1.0.3"));
    world.delete(Kind::Namespace, "", "db");
    assert!(world.is_let_in(8, "10.1.0.3"));
}

const NAMESPACES: [&str; 2] = ["a", "b"];
const TEAMS: [&str; 2] = ["red", "blue"];

#[derive(Debug, Clone)]
enum Event {
    Namespace(usize, usize),
    NamespaceGone(usize),
    /// Pod `p` of a namespace, of a generation.
    Pod(usize, u8),
    PodGone(usize),
}

fn event() -> impl Strategy<Value = Event> {
    let at = 0..NAMESPACES.len();
    prop_oneof![
        3 => (at.clone(), 0..TEAMS.len()).prop_map(|(at, team)| Event::Namespace(at, team)),
        2 => at.clone().prop_map(Event::NamespaceGone),
        3 => (at.clone(), 0..2u8).prop_map(|(at, uid)| Event::Pod(at, uid)),
        1 => at.prop_map(Event::PodGone),
    ]
}

proptest! {
    /// What a pod is follows from what was told last of it and of its Namespace, in whatever order: never a pod without its labels.
    #[test]
    fn pod_is_of_the_namespace_that_was_known_last_while_it_lived_or_has_no_identity(
        events in proptest::collection::vec(event(), 1..24),
    ) {
        let mut world = World::new(true);
        world.apply(RED);
        let mut teams: BTreeMap<usize, usize> = BTreeMap::new();
        let mut pods: BTreeMap<usize, (u8, Option<usize>)> = BTreeMap::new();
        for event in events {
            match event {
                Event::Namespace(at, team) => {
                    teams.insert(at, team);
                    if let Some((_, known)) = pods.get_mut(&at) {
                        *known = Some(team);
                    }
                    world.apply(&namespace(NAMESPACES[at], TEAMS[team]));
                }
                Event::NamespaceGone(at) => {
                    teams.remove(&at);
                    world.delete(Kind::Namespace, "", NAMESPACES[at]);
                }
                Event::Pod(at, uid) => {
                    let former = pods.get(&at).filter(|(former, _)| *former == uid).and_then(|(_, team)| *team);
                    pods.insert(at, (uid, teams.get(&at).copied().or(former)));
                    let addr = format!("10.1.0.{}", 8 + at);
                    world.apply(&pod(&format!("{}/p", NAMESPACES[at]), &format!("u-{uid}"), &addr));
                }
                Event::PodGone(at) => {
                    pods.remove(&at);
                    world.delete(Kind::Pod, NAMESPACES[at], "p");
                }
            }
            for (at, (_, team)) in &pods {
                let name = PodName { namespace: NAMESPACES[*at].into(), name: "p".into() };
                let identity = world.at(&format!("10.1.0.{}", 8 + at));
                let Some(team) = team else {
                    prop_assert_eq!(identity, Identity::UNMANAGED, "{}", name);
                    continue;
                };
                let labels = world.index.identities().get(identity).expect("labels").to_strings();
                let label = format!("k8s:io.cilium.k8s.namespace.labels.team={}", TEAMS[*team]);
                prop_assert!(labels.contains(&label), "{} {:?}", name, labels);
            }
        }
    }
}
