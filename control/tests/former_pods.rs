//! Pods whose object goes before their interface: deleted by force, or by the garbage collection of pods.

mod world;

use std::collections::BTreeMap;

use policy::{EndpointKey, Identity, SlotGeneration};
use proptest::prelude::*;
use sluice_control::object::Kind;
use world::{World, key, pod};

/// `db/pg` takes from everybody but pods with label `app: bad`, and not from the node.
const NOT_BAD: &str = "
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: not-bad, namespace: db}
spec:
  endpointSelector: {matchLabels: {app: pg}}
  ingress:
  - fromEntities: [all]
  ingressDeny:
  - fromEndpoints: [{matchLabels: {app: bad}}]
  - fromEntities: [host]
";

const PG: &str = "10.1.0.2";
const BAD: &str = "10.1.0.3";

fn labelled(name: &str, uid: &str, addr: &str, app: &str) -> String {
    pod(name, uid, addr).replace("uid:", &format!("labels: {{app: {app}}}, uid:"))
}

/// `db/pg` in slot 8 and `db/bad`, whom it denies, in slot 9.
fn both(uid: Option<&str>) -> World {
    let mut world = World::new(true);
    world.apply("apiVersion: v1\nkind: Namespace\nmetadata: {name: db, labels: {team: red}}\n");
    world.apply(NOT_BAD);
    world.apply(&labelled("db/pg", "u-pg", PG, "pg"));
    world.apply(&labelled("db/bad", "u-bad", BAD, "bad"));
    world.attach_as(key(8), "db/pg", uid.map(|_| "u-pg"), PG);
    world.attach_as(key(9), "db/bad", uid, BAD);
    assert!(!world.is_let_in(8, BAD));
    world
}

fn is_let_in(world: &World, from: Identity) -> bool {
    let decision = world.policy(8).ingress.decide(from, policy::Protocol::TCP, 80);
    decision.drop_reason().is_none()
}

#[test]
fn pod_whose_object_is_deleted_stays_who_it_was_until_its_endpoint_goes() {
    // Without the runtime's uid the object is known by its addresses.
    for uid in [Some("u-bad"), None] {
        let mut world = both(uid);
        let (pg, bad) = (world.policy(8).identity, world.policy(9).identity);
        world.delete(Kind::Pod, "db", "pg");
        world.delete(Kind::Pod, "db", "bad");
        assert_eq!((world.policy(8).identity, world.policy(9).identity), (pg, bad));
        assert_eq!(world.at(BAD), bad);
        assert!(!world.is_let_in(8, BAD), "nor has it the policies of nobody");
        assert!(!is_let_in(&world, Identity::HOST), "as the policy says of it");
        assert!(is_let_in(&world, Identity::WORLD));
        world.detach(9);
        assert_eq!(world.at(BAD), Identity::UNMANAGED);
        // The next one at the slot is another, with or without the address.
        let next = EndpointKey {
            generation: SlotGeneration(2),
            ..key(9)
        };
        world.attach_as(next, "db/bad", uid, BAD);
        let policy = world.snapshot.endpoint(next).expect("an endpoint");
        assert_eq!(policy.identity, Identity::INIT);
    }
}

#[test]
fn pod_whose_slot_is_taken_over_is_not_kept_for_the_next_occupant() {
    let mut world = both(Some("u-bad"));
    world.delete(Kind::Pod, "db", "bad");
    let next = EndpointKey {
        generation: SlotGeneration(2),
        ..key(9)
    };
    for (pod, uid) in [("db/other", "u-other"), ("db/bad", "u-next"), ("db/bad", "u-bad")] {
        let mut world = both(Some("u-bad"));
        world.delete(Kind::Pod, "db", "bad");
        world.attach_as(next, pod, Some(uid), "10.1.0.9");
        let policy = world.snapshot.endpoint(next).expect("an endpoint");
        assert_eq!(policy.identity, Identity::INIT, "{pod} {uid}");
        assert_eq!(world.at("10.1.0.9"), Identity::INIT);
    }
}

#[test]
fn endpoint_that_turns_out_to_be_another_pods_is_not_the_former_one() {
    let mut world = both(None);
    world.delete(Kind::Pod, "db", "bad");
    world.attach_as(key(9), "db/bad", Some("u-next"), BAD);
    assert_eq!(world.policy(9).identity, Identity::INIT);
}

#[test]
fn successor_of_the_name_has_its_own_labels_and_the_former_pod_keeps_its_own() {
    for uid in [Some("u-bad"), None] {
        for deleted in [true, false] {
            let mut world = both(uid);
            let bad = world.policy(9).identity;
            if deleted {
                world.delete(Kind::Pod, "db", "bad");
            }
            let next = labelled("db/bad", "u-next", "10.1.0.9", "good");
            // It has no address at first.
            world.apply(&next.replace("status: {podIPs: [{ip: 10.1.0.9}]}", "status: {}"));
            assert_eq!((world.policy(9).identity, world.at(BAD)), (bad, bad), "{uid:?}");
            world.apply(&next);
            assert_eq!((world.policy(9).identity, world.at(BAD)), (bad, bad), "{uid:?}");
            assert!(world.at("10.1.0.9") >= Identity::FIRST_ALLOCATED && world.at("10.1.0.9") != bad);
            assert!(world.is_let_in(8, "10.1.0.9") && !world.is_let_in(8, BAD));
            // Its interface takes the place of the former one.
            world.attach_as(key(10), "db/bad", Some("u-next"), "10.1.0.9");
            assert!(world.is_let_in(8, "10.1.0.9"));
            assert_eq!(world.policy(10).identity, world.at("10.1.0.9"));
            assert_eq!(world.at(BAD), Identity::UNMANAGED);
        }
    }
}

#[test]
fn blocks_of_a_successor_are_those_of_its_own_addresses() {
    let mut world = both(Some("u-bad"));
    world.apply(
        "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: near, namespace: db}
spec:
  podSelector: {matchLabels: {app: other}}
  ingress: [{from: [{ipBlock: {cidr: 10.1.0.0/29}}]}]
",
    );
    world.apply(&labelled("db/other", "u-other", "10.1.0.7", "other"));
    world.attach(11, "db/other", "u-other", "10.1.0.7");
    assert!(world.is_let_in(11, BAD));
    world.apply(&labelled("db/bad", "u-next", "10.1.0.99", "good"));
    assert!(world.is_let_in(11, BAD), "the former one is where it was");
    assert!(!world.is_let_in(11, "10.1.0.99"));
}

#[test]
fn address_that_another_pod_has_now_is_that_pods() {
    let mut world = both(Some("u-bad"));
    world.delete(Kind::Pod, "db", "bad");
    world.apply(&labelled("db/good", "u-good", BAD, "good"));
    let good = world.at(BAD);
    assert_ne!(good, world.policy(9).identity);
    assert!(world.is_let_in(8, BAD));
    world.attach(7, "db/good", "u-good", BAD);
    assert_eq!((world.at(BAD), world.policy(7).identity), (good, good));
    assert!(
        !is_let_in(&world, world.policy(9).identity),
        "what the former sends is its own"
    );
}

#[test]
fn former_pod_whose_namespace_went_first_is_not_of_the_next_one() {
    let mut world = both(Some("u-bad"));
    world.apply(&NOT_BAD.replace(
        "{app: bad}",
        "{k8s:io.cilium.k8s.namespace.labels.team: red, app: bad}",
    ));
    world.delete(Kind::Namespace, "", "db");
    world.delete(Kind::Pod, "db", "bad");
    world.apply("apiVersion: v1\nkind: Namespace\nmetadata: {name: db, labels: {team: blue}}\n");
    assert!(!world.is_let_in(8, BAD));
}

#[test]
fn former_pod_follows_its_namespace_and_what_policies_ask_of_it() {
    let mut world = both(Some("u-bad"));
    world.delete(Kind::Pod, "db", "bad");
    let takes = |world: &World| world.is_let_in(8, BAD);
    world.apply(&NOT_BAD.replace(
        "{app: bad}",
        "{k8s:io.cilium.k8s.namespace.labels.team: blue, app: bad}",
    ));
    assert!(takes(&world));
    world.apply("apiVersion: v1\nkind: Namespace\nmetadata: {name: db, labels: {team: blue}}\n");
    assert!(!takes(&world));
    world.delete(Kind::Namespace, "", "db");
    assert!(!takes(&world), "it stays who it was");
    world.apply("apiVersion: v1\nkind: Namespace\nmetadata: {name: db, labels: {team: red}}\n");
    assert!(!takes(&world), "the next Namespace of the name is not its own");
    world.delete(Kind::Namespace, "", "db");
    world.apply(
        "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: near, namespace: db}
spec:
  podSelector: {matchLabels: {app: pg}}
  policyTypes: [Egress]
  egress: [{to: [{ipBlock: {cidr: 10.1.0.0/29}}], ports: [{port: web}]}]
",
    );
    let decision = |world: &World, port| {
        let decision = world
            .policy(8)
            .egress
            .decide(world.at(BAD), policy::Protocol::TCP, port);
        decision.drop_reason().is_none()
    };
    assert!(
        decision(&world, 8080) && !decision(&world, 80),
        "its port has the name still"
    );
    world.detach(9);
    assert!(!decision(&world, 8080));
}

#[test]
fn object_that_comes_back_is_followed_again() {
    let mut world = both(Some("u-bad"));
    let bad = world.policy(9).identity;
    world.delete(Kind::Pod, "db", "bad");
    world.apply(&labelled("db/bad", "u-bad", BAD, "bad"));
    assert_eq!(world.policy(9).identity, bad);
    world.apply(&labelled("db/bad", "u-bad", BAD, "good"));
    assert_ne!(world.policy(9).identity, bad);
    assert!(world.is_let_in(8, BAD));
}

/// The garbage collection of pods makes them `Failed` before it deletes them.
#[test]
fn pod_that_is_called_finished_while_its_interface_is_there_stays_who_it_was() {
    let failed = labelled("db/bad", "u-bad", BAD, "bad").replace("status: {", "status: {phase: Failed, ");
    for uid in [Some("u-bad"), None] {
        let mut world = both(uid);
        let bad = world.policy(9).identity;
        world.apply(&failed);
        assert_eq!((world.policy(9).identity, world.at(BAD)), (bad, bad));
        world.delete(Kind::Pod, "db", "bad");
        assert_eq!((world.policy(9).identity, world.at(BAD)), (bad, bad));
        world.detach(9);
        assert_eq!(world.at(BAD), Identity::UNMANAGED);
    }
    // Also where that is the first that is heard of it, if the runtime told the uid: in either order.
    let mut world = both(Some("u-bad"));
    let bad = world.policy(9).identity;
    world.detach(9);
    world.delete(Kind::Pod, "db", "bad");
    world.apply(&failed);
    for (slot, uid, is_known) in [
        (9, Some("u-bad"), true),
        (10, None, false),
        (11, Some("u-next"), false),
    ] {
        world.attach_as(key(slot), "db/bad", uid, BAD);
        assert_eq!(world.policy(slot).identity == bad, is_known, "{uid:?}");
        world.delete(Kind::Pod, "db", "bad");
        world.apply(&failed);
        assert_eq!(world.policy(slot).identity == bad, is_known, "{uid:?}");
    }
}

#[test]
fn objects_without_uid_are_gone_with_their_manifest() {
    let mut world = World::new(false);
    world.apply(&labelled("db/bad", "u-bad", BAD, "bad").replace(", uid: u-bad", ""));
    world.attach_as(key(9), "db/bad", None, BAD);
    assert!(world.policy(9).identity >= Identity::FIRST_ALLOCATED);
    world.delete(Kind::Pod, "db", "bad");
    assert_eq!(world.policy(9).identity, Identity::INIT);
}

const BLOCK: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: block, namespace: db}
spec: {podSelector: {matchLabels: {app: a}}, ingress: [{from: [{ipBlock: {cidr: 10.1.0.8/30}}]}], egress: [{ports: [{port: web}]}]}
";

#[derive(Debug, Clone)]
enum Event {
    /// Pod `p` of this name has the uid, a label and maybe an end.
    Pod(usize, usize, &'static str, bool),
    PodGone(usize),
    /// An endpoint of the pod of that name and uid, if the runtime tells it.
    Attached(usize, usize, bool),
    Detached(usize),
    Team(&'static str),
    Block(bool),
}

const NAMES: usize = 2;

fn event() -> impl Strategy<Value = Event> {
    let app = prop_oneof![Just("a"), Just("b")];
    let team = prop_oneof![Just("red"), Just("blue")];
    prop_oneof![
        4 => (0..NAMES, 0..2usize, app, prop::bool::weighted(0.2)).prop_map(|(name, uid, app, ended)| Event::Pod(name, uid, app, ended)),
        2 => (0..NAMES).prop_map(Event::PodGone),
        3 => (0..NAMES, 0..2usize, prop::bool::weighted(0.8)).prop_map(|(name, uid, told)| Event::Attached(name, uid, told)),
        1 => (0..NAMES).prop_map(Event::Detached),
        1 => team.prop_map(Event::Team),
        1 => any::<bool>().prop_map(Event::Block),
    ]
}

proptest! {
    /// Whatever comes in whatever order: an attachment whose uid is told is who its object said last, and nothing is kept beyond it.
    #[test]
    fn attachment_is_the_pod_that_its_object_described_last(events in proptest::collection::vec(event(), 1..40)) {
        let mut world = World::new(true);
        world.apply("apiVersion: v1\nkind: Namespace\nmetadata: {name: db, labels: {team: red}}\n");
        world.apply(NOT_BAD);
        let mut objects: BTreeMap<usize, (usize, &str)> = BTreeMap::new();
        // By name: uid, whether it is told, and the label.
        let mut attached: BTreeMap<usize, (usize, bool, Option<&str>)> = BTreeMap::new();
        let mut generation = 1;
        let mut keys: BTreeMap<usize, EndpointKey> = BTreeMap::new();
        let address = |name: usize, uid: usize| format!("10.1.0.{}", 8 + 2 * name + uid);
        for event in events {
            match event {
                Event::Pod(name, uid, app, ended) => {
                    let yaml = labelled(&format!("db/p{name}"), &format!("u-{name}-{uid}"), &address(name, uid), app);
                    let phase = if ended { "status: {phase: Failed, " } else { "status: {" };
                    world.apply(&yaml.replace("status: {", phase));
                    objects.insert(name, (uid, app));
                    if let Some((own, _, known)) = attached.get_mut(&name)
                        && *own == uid
                        && (!ended || known.is_none())
                    {
                        *known = Some(app);
                    }
                }
                Event::PodGone(name) => {
                    world.delete(Kind::Pod, "db", &format!("p{name}"));
                    objects.remove(&name);
                }
                Event::Attached(name, uid, told) => {
                    generation += 1;
                    let slot = u16::try_from(8 + name).expect("few");
                    let key = EndpointKey { generation: SlotGeneration(generation), ..key(slot) };
                    let own = format!("u-{name}-{uid}");
                    world.attach_as(key, &format!("db/p{name}"), told.then_some(own.as_str()), &address(name, uid));
                    let object = objects.get(&name).filter(|(object, _)| *object == uid);
                    attached.insert(name, (uid, told, object.map(|(_, app)| *app)));
                    keys.insert(name, key);
                }
                Event::Detached(name) => {
                    if let Some(key) = keys.remove(&name) {
                        world.remove(key);
                        attached.remove(&name);
                    }
                }
                Event::Team(team) => {
                    world.apply(&format!("apiVersion: v1\nkind: Namespace\nmetadata: {{name: db, labels: {{team: {team}}}}}\n"));
                }
                Event::Block(true) => world.apply(BLOCK),
                Event::Block(false) => world.delete(Kind::NetworkPolicy, "db", "block"),
            }
            let kept = world.index.known_pods().count() - world.index.pods().len();
            prop_assert!(kept <= attached.len());
            for (name, (_, _, known)) in attached.iter().filter(|(_, (_, told, _))| *told) {
                let identity = world.snapshot.endpoint(keys[name]).expect("an endpoint").identity;
                let Some(app) = known else {
                    prop_assert_eq!(identity, Identity::INIT, "p{}", name);
                    continue;
                };
                let labels = world.index.identities().get(identity).expect("labels").to_strings();
                prop_assert!(labels.contains(&format!("k8s:app={app}")), "p{} {:?}", name, labels);
            }
        }
        for key in keys.into_values() {
            world.remove(key);
        }
        prop_assert_eq!(world.index.known_pods().count(), world.index.pods().len());
    }
}
