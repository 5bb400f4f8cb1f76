use std::time::Duration;

use serde_json::json;

use super::*;
use crate::object::Kind;

mod life;

const POLICIES: WatchId = WatchId(0);
const OWN_PODS: WatchId = WatchId(1);
const OTHER_PODS: WatchId = WatchId(2);

fn inventory() -> Inventory {
    Inventory::new(
        ["policies", "own pods", "other pods"].map(str::to_owned),
        OWN_PODS,
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
fn an_object_that_was_made_anew_has_nothing_of_the_one_that_was_deleted() {
    let with_uid = |field: &str, uid: &str| {
        let mut object = policy("p", field);
        object["metadata"]["uid"] = uid.into();
        object
    };
    let mut inventory = inventory();
    changed(
        &mut inventory,
        vec![(POLICIES, Observed::Applied(with_uid("egress", "1")))],
    );
    let anew = vec![(POLICIES, Observed::Applied(with_uid("egres", "2")))];
    assert_eq!(changed(&mut inventory, anew), (names(&[]), names(&["p"])));
    assert_eq!(inventory.errors().len(), 1);
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

/// A pod of this node with this uid, and a label to tell states of it apart.
fn own_pod(uid: &str, state: &str) -> Box<Value> {
    Box::new(json!({"apiVersion": "v1", "kind": "Pod", "spec": {},
        "metadata": {"namespace": "db", "name": "a", "uid": uid, "labels": {"state": state}}}))
}

/// Labels `state` of what the observations apply.
fn states(inventory: &mut Inventory, observed: Vec<Observed>) -> Vec<String> {
    let mut changes = Changes::default();
    for observed in observed {
        inventory.observe(OWN_PODS, observed, &mut changes);
    }
    let state = |object: &Object| match &object.body {
        object::ObjectBody::Pod(pod) => pod.labels["state"].clone(),
        other => panic!("{other:?}"),
    };
    changes.applied.iter().map(state).collect()
}

#[test]
fn pod_that_was_asked_for_is_known_and_the_watch_that_catches_up_is_believed() {
    let mut inventory = inventory();
    let key = key(Kind::Pod, "a");
    let fetched = |state| Observed::Fetched(self::key(Kind::Pod, "a"), Some(own_pod("u-1", state)));
    assert_eq!(states(&mut inventory, vec![fetched("asked")]), ["asked"]);
    assert_eq!(
        states(&mut inventory, vec![Observed::Applied(own_pod("u-1", "watched"))]),
        ["watched"]
    );
    // Answers that come late say nothing new, and a pod that the watch has is not theirs to delete.
    let late = vec![fetched("late"), Observed::Fetched(key.clone(), None)];
    assert_eq!(states(&mut inventory, late), [""; 0]);
    let deleted = changed(&mut inventory, vec![(OWN_PODS, Observed::Deleted(key))]);
    assert_eq!(deleted, (vec![], names(&["a"])));
}

#[test]
fn successor_that_was_asked_for_replaces_the_pod_of_its_name_that_the_watch_still_has() {
    let mut inventory = inventory();
    states(&mut inventory, vec![Observed::Applied(own_pod("u-1", "former"))]);
    let fetched = Observed::Fetched(key(Kind::Pod, "a"), Some(own_pod("u-2", "successor")));
    assert_eq!(states(&mut inventory, vec![fetched]), ["successor"]);
}

#[test]
fn pod_that_was_asked_for_is_asked_for_again_until_the_watch_tells_of_it() {
    let mut inventory = inventory();
    let key = key(Kind::Pod, "a");
    let before = Instant::now();
    states(
        &mut inventory,
        vec![Observed::Fetched(key.clone(), Some(own_pod("u-1", "asked")))],
    );
    assert_eq!(inventory.unconfirmed(before), []);
    let later = Instant::now() + Duration::from_secs(60);
    assert_eq!(inventory.unconfirmed(later), [key.pod()]);
    // It is gone, and no watch has ever told of it.
    let gone = changed(
        &mut inventory,
        vec![(OWN_PODS, Observed::Fetched(key.clone(), None))],
    );
    assert_eq!(gone, (vec![], names(&["a"])));
    assert_eq!(inventory.unconfirmed(later), []);
    states(
        &mut inventory,
        vec![
            Observed::Fetched(key, Some(own_pod("u-1", "asked"))),
            Observed::Applied(own_pod("u-1", "watched")),
        ],
    );
    assert_eq!(inventory.unconfirmed(later), []);
}

#[test]
fn pod_that_was_asked_for_while_a_list_is_under_way_is_not_taken_for_one_that_is_gone() {
    let mut inventory = inventory();
    let observed = vec![
        (OWN_PODS, Observed::ListBegins),
        (
            OWN_PODS,
            Observed::Fetched(key(Kind::Pod, "a"), Some(own_pod("u-1", "asked"))),
        ),
        (OWN_PODS, Observed::ListEnds),
    ];
    assert_eq!(changed(&mut inventory, observed), (names(&["a"]), vec![]));
}

/// A policy of the former process, and what the server has of it now.
fn policy_of(uid: &str, field: &str) -> Value {
    let mut policy = *policy("p", field);
    policy["metadata"]["uid"] = uid.into();
    policy["metadata"]["managedFields"] = json!([{"manager": "kubectl"}]);
    policy
}

/// The policies' only list, and the other watches'.
fn listed(policies: Vec<Value>) -> Vec<(WatchId, Observed)> {
    let mut observed = vec![(POLICIES, Observed::ListBegins)];
    observed.extend(
        policies
            .into_iter()
            .map(|object| (POLICIES, Observed::Listed(Box::new(object)))),
    );
    observed.extend([
        (POLICIES, Observed::ListEnds),
        (OWN_PODS, Observed::Absent),
        (OTHER_PODS, Observed::Absent),
    ]);
    observed
}

#[test]
fn policy_that_is_invalid_at_the_start_keeps_what_the_former_process_enforced() {
    let mut former = inventory();
    assert!(former.take_good().is_none(), "nothing was listed");
    changed(&mut former, listed(vec![policy_of("u-1", "egress")]));
    let good = former.take_good().unwrap();
    assert_eq!(good.len(), 1);
    assert!(good[0]["metadata"].get("managedFields").is_none());
    assert!(former.take_good().is_none(), "nothing has changed");

    let mut inventory = inventory();
    inventory.restore(good.clone());
    let started = changed(&mut inventory, listed(vec![policy_of("u-1", "nonsense")]));
    assert_eq!(started, (names(&["p"]), vec![]));
    assert_eq!(inventory.errors().len(), 1, "it is refused all the same");
    assert_eq!(
        inventory.take_good().unwrap(),
        good,
        "and kept for the next start"
    );
    // From here on as ever.
    let again = vec![(
        POLICIES,
        Observed::Applied(Box::new(policy_of("u-1", "nonsense"))),
    )];
    assert_eq!(changed(&mut inventory, again), (vec![], vec![]));
    let deleted = changed(
        &mut inventory,
        vec![(POLICIES, Observed::Deleted(key(Kind::CiliumNetworkPolicy, "p")))],
    );
    assert_eq!(deleted, (vec![], names(&["p"])));
    assert_eq!(inventory.take_good().unwrap(), Vec::<Arc<Value>>::new());
}

#[test]
fn policy_of_the_former_process_that_is_gone_or_another_now_is_not_enforced() {
    let good = vec![Arc::new(policy_of("u-1", "egress"))];
    let mut gone = inventory();
    gone.restore(good.clone());
    assert_eq!(changed(&mut gone, listed(vec![])), (vec![], vec![]));
    let later = vec![(
        POLICIES,
        Observed::Applied(Box::new(policy_of("u-1", "nonsense"))),
    )];
    assert_eq!(changed(&mut gone, later), (vec![], vec![]));

    let mut another = inventory();
    another.restore(good);
    let started = changed(&mut another, listed(vec![policy_of("u-2", "nonsense")]));
    assert_eq!(started, (vec![], vec![]));
}
