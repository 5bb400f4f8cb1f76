use serde_json::json;

use super::*;
use crate::object::Kind;

const POLICIES: WatchId = WatchId(0);
const OWN_PODS: WatchId = WatchId(1);
const OTHER_PODS: WatchId = WatchId(2);

fn inventory() -> Inventory {
    Inventory::new(
        ["policies", "own pods", "other pods"].map(str::to_owned),
        "default".into(),
    )
}

fn key(kind: Kind, name: &str) -> ObjectKey {
    ObjectKey {
        kind,
        namespace: "db".into(),
        name: name.into(),
    }
}

fn pod(name: &str) -> Box<Value> {
    Box::new(
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"namespace": "db", "name": name}, "spec": {}}),
    )
}

fn policy(name: &str, field: &str) -> Box<Value> {
    let mut policy = json!({"apiVersion": "cilium.io/v2", "kind": "CiliumNetworkPolicy",
        "metadata": {"namespace": "db", "name": name}, "spec": {"endpointSelector": {}, "ingress": [{}]}});
    policy["spec"][field] = json!([{}]);
    Box::new(policy)
}

/// What a series of observations changes: names applied, then deleted.
fn changed(inventory: &mut Inventory, observed: Vec<(WatchId, Observed)>) -> (Vec<String>, Vec<String>) {
    let mut changes = Changes::default();
    for (id, observed) in observed {
        inventory.observe(id, observed, &mut changes);
    }
    let applied = changes.applied.iter().map(|object| object.key.name.clone());
    let deleted = changes.deleted.iter().map(|key| key.name.clone());
    (applied.collect(), deleted.collect())
}

fn names(list: &[&str]) -> Vec<String> {
    list.iter().map(|name| (*name).to_owned()).collect()
}

#[test]
fn it_is_in_sync_when_every_watch_has_listed_or_has_no_resource() {
    let mut inventory = inventory();
    changed(
        &mut inventory,
        vec![
            (POLICIES, Observed::ListBegins),
            (POLICIES, Observed::ListEnds),
            (OWN_PODS, Observed::Absent),
        ],
    );
    assert!(!inventory.is_synced());
    changed(&mut inventory, vec![(OTHER_PODS, Observed::ListBegins)]);
    assert!(!inventory.is_synced(), "the list is not complete");
    changed(&mut inventory, vec![(OTHER_PODS, Observed::ListEnds)]);
    assert!(inventory.is_synced());
}

#[test]
fn what_a_new_list_does_not_hold_is_deleted_when_the_list_ends() {
    let mut inventory = inventory();
    let list = |pods: &[&str]| {
        let listed = pods.iter().map(|name| (OTHER_PODS, Observed::Listed(pod(name))));
        let list: Vec<_> = [(OTHER_PODS, Observed::ListBegins)]
            .into_iter()
            .chain(listed)
            .collect();
        list
    };
    assert_eq!(
        changed(&mut inventory, list(&["a", "b"])),
        (names(&["a", "b"]), names(&[]))
    );
    changed(&mut inventory, vec![(OTHER_PODS, Observed::ListEnds)]);
    assert_eq!(
        changed(&mut inventory, list(&["b", "c"])).1,
        names(&[]),
        "not yet"
    );
    assert_eq!(
        changed(&mut inventory, vec![(OTHER_PODS, Observed::ListEnds)]).1,
        names(&["a"])
    );
}

#[test]
fn a_pod_that_moves_from_one_watch_to_another_stays_whichever_comes_first() {
    let mut inventory = inventory();
    changed(&mut inventory, vec![(OTHER_PODS, Observed::Applied(pod("a")))]);
    // Scheduled here: the watch of the others loses it.
    let lost = Observed::Deleted(key(Kind::Pod, "a"));
    let moved = vec![(OWN_PODS, Observed::Applied(pod("a"))), (OTHER_PODS, lost)];
    assert_eq!(changed(&mut inventory, moved), (names(&["a"]), names(&[])));
    let (lost, found) = (
        Observed::Deleted(key(Kind::Pod, "b")),
        Observed::Applied(pod("b")),
    );
    changed(&mut inventory, vec![(OTHER_PODS, Observed::Applied(pod("b")))]);
    let moved = vec![(OTHER_PODS, lost), (OWN_PODS, found)];
    assert_eq!(
        changed(&mut inventory, moved).0,
        names(&["b"]),
        "deleted first, then applied"
    );
    let gone = vec![(OWN_PODS, Observed::Deleted(key(Kind::Pod, "b")))];
    assert_eq!(changed(&mut inventory, gone).1, names(&["b"]));
}

#[test]
fn what_the_other_watch_says_late_of_a_pod_of_this_node_changes_nothing() {
    let mut inventory = inventory();
    changed(&mut inventory, vec![(OWN_PODS, Observed::Applied(pod("a")))]);
    // How it was before it was scheduled here, and that it left.
    let late = vec![
        (OTHER_PODS, Observed::Applied(pod("a"))),
        (OTHER_PODS, Observed::Deleted(key(Kind::Pod, "a"))),
    ];
    assert_eq!(changed(&mut inventory, late), (names(&[]), names(&[])));
}

#[test]
fn a_successor_on_another_node_is_known_once_the_pod_of_this_node_is_gone() {
    let mut inventory = inventory();
    changed(&mut inventory, vec![(OWN_PODS, Observed::Applied(pod("a")))]);
    let successor = vec![(OTHER_PODS, Observed::Applied(pod("a")))];
    assert_eq!(changed(&mut inventory, successor).0, names(&[]));
    let gone = vec![(OWN_PODS, Observed::Deleted(key(Kind::Pod, "a")))];
    assert_eq!(
        changed(&mut inventory, gone),
        (names(&["a"]), names(&["a"])),
        "deleted, then applied"
    );
    let gone = vec![(OTHER_PODS, Observed::Deleted(key(Kind::Pod, "a")))];
    assert_eq!(changed(&mut inventory, gone).1, names(&["a"]));
}

#[test]
fn a_refused_object_keeps_its_last_good_state_until_it_is_gone() {
    let mut inventory = inventory();
    let good = vec![(POLICIES, Observed::Applied(policy("p", "egress")))];
    assert_eq!(changed(&mut inventory, good).0, names(&["p"]));
    let bad = vec![(POLICIES, Observed::Applied(policy("p", "egres")))];
    assert_eq!(
        changed(&mut inventory, bad),
        (names(&[]), names(&[])),
        "neither applied nor deleted"
    );
    let errors = inventory.errors();
    assert_eq!(errors.len(), 1, "{errors:?}");
    assert_eq!(
        (errors[0].field.as_str(), errors[0].object.as_deref()),
        ("spec.egres", Some("CiliumNetworkPolicy db/p"))
    );
    let gone = Observed::Deleted(key(Kind::CiliumNetworkPolicy, "p"));
    assert_eq!(changed(&mut inventory, vec![(POLICIES, gone)]).1, names(&["p"]));
    assert!(inventory.errors().is_empty());
}

#[test]
fn a_failure_is_reported_until_the_watch_has_something_else_to_say() {
    let mut inventory = inventory();
    changed(
        &mut inventory,
        vec![(POLICIES, Observed::Failed("connection refused".into()))],
    );
    let failures: Vec<_> = inventory.failures().cloned().collect();
    assert_eq!(failures, ["policies: connection refused"]);
    inventory.forget_failures(Instant::now());
    assert_eq!(inventory.failures().count(), 0);
    changed(
        &mut inventory,
        vec![
            (POLICIES, Observed::Failed("forbidden".into())),
            (POLICIES, Observed::ListBegins),
        ],
    );
    assert_eq!(inventory.failures().count(), 0);
}

#[test]
fn what_comes_and_goes_within_a_batch_leaves_nothing() {
    let mut inventory = inventory();
    let both = vec![
        (OTHER_PODS, Observed::Applied(pod("a"))),
        (OTHER_PODS, Observed::Deleted(key(Kind::Pod, "a"))),
    ];
    assert_eq!(changed(&mut inventory, both), (names(&[]), names(&["a"])));
}
