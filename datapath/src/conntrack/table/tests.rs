use std::collections::HashMap;
use std::net::IpAddr;

use policy::{EndpointKey, Protocol, Slot, SlotGeneration};
use proptest::prelude::*;

use super::*;
use crate::flow::Peer;

const fn endpoint(slot: u16) -> EndpointKey {
    EndpointKey {
        slot: Slot(slot),
        generation: SlotGeneration(1),
    }
}

fn key(n: u32) -> FlowKey {
    let source = Peer::new(IpAddr::from([10, 0, 0, 1]), u16::try_from(n % 50_000).unwrap());
    let destination = Peer::new(IpAddr::from([10, 0, 1, u8::try_from(n / 50_000).unwrap()]), 80);
    FlowKey {
        source,
        destination,
        protocol: Protocol::TCP,
    }
}

fn insert(table: &mut Conntrack, n: u32, slot: u16, now_s: u32) -> Result<EntryId, InsertError> {
    table.insert(Entry::new(key(n), endpoint(slot), endpoint(9)), now_s)
}

#[test]
fn both_directions_find_the_entry() {
    let mut table = Conntrack::new(16, 16, FlowHasher::random());
    let id = insert(&mut table, 1, 8, 0).unwrap();
    let hash = table.hash(&key(1));
    assert_eq!(table.lookup(&key(1), hash), Some((id, FlowDirection::Original)));
    assert_eq!(
        table.lookup(&key(1).reversed(), hash),
        Some((id, FlowDirection::Reply))
    );
    assert_eq!(table.lookup(&key(2), table.hash(&key(2))), None);
}

#[test]
fn full_capacity_is_reached_and_then_refused() {
    let mut table = Conntrack::new(10_000, u32::MAX, FlowHasher::random());
    for n in 0..10_000 {
        assert!(
            insert(&mut table, n, slot(n), 0).is_ok(),
            "flow {n} of 10000 did not fit"
        );
    }
    assert_eq!(insert(&mut table, 10_000, 8, 0), Err(InsertError::Full));
    assert_eq!(table.len(), 10_000);
    for n in 0..10_000 {
        assert!(table.lookup(&key(n), table.hash(&key(n))).is_some());
    }
}

/// Slots in turn, so that each holds few flows when the reserve is reached.
fn slot(n: u32) -> u16 {
    8 + u16::try_from(n % 3000).unwrap()
}

#[test]
fn one_sender_leaves_the_reserve_to_others() {
    let mut table = Conntrack::new(64, u32::MAX, FlowHasher::random());
    let taken = (0..64)
        .take_while(|n| insert(&mut table, *n, 1, 0).is_ok())
        .count();
    assert_eq!(taken, 56, "an eighth is reserved");
    assert!(insert(&mut table, 100, 8, 0).is_ok());
    assert_eq!(insert(&mut table, 101, 8, 0), Err(InsertError::Quota), "one each");
    assert!(insert(&mut table, 101, 9, 0).is_ok());
}

#[test]
fn an_endpoint_at_its_quota_leaves_room_to_others() {
    let mut table = Conntrack::new(16, 2, FlowHasher::random());
    assert!(insert(&mut table, 1, 8, 0).is_ok());
    let second = insert(&mut table, 2, 8, 0).unwrap();
    assert_eq!(insert(&mut table, 3, 8, 0), Err(InsertError::Quota));
    assert!(insert(&mut table, 4, 10, 0).is_ok());
    table.remove(second);
    assert!(insert(&mut table, 3, 8, 0).is_ok());
}

#[test]
fn id_of_a_removed_entry_is_dead_after_its_place_is_used_again() {
    let mut table = Conntrack::new(1, 16, FlowHasher::random());
    let first = insert(&mut table, 1, 8, 0).unwrap();
    table.remove(first).unwrap();
    let second = insert(&mut table, 2, 8, 0).unwrap();
    assert!(table.get(first).is_none());
    assert!(table.get(second).is_some());
}

#[test]
fn sweep_forgets_only_what_is_silent_too_long() {
    let mut table = Conntrack::new(64, 64, FlowHasher::random());
    let old = insert(&mut table, 1, 8, 0).unwrap();
    let young = insert(&mut table, 2, 8, 50).unwrap();
    assert_eq!(table.sweep(61, 64, |_| {}), 1);
    assert!(table.get(old).is_none() && table.get(young).is_some());
}

#[test]
fn removed_endpoint_takes_its_flows_along() {
    let mut table = Conntrack::new(64, 64, FlowHasher::random());
    for n in 0..20 {
        insert(&mut table, n, if n % 2 == 0 { 8 } else { 10 }, 0).unwrap();
    }
    assert_eq!(table.remove_endpoint(endpoint(8), |_| {}), 10);
    assert_eq!(
        (table.len(), table.flows_of(Slot(8)), table.flows_of(Slot(10))),
        (10, 0, 10)
    );
}

#[derive(Debug, Clone)]
enum Op {
    Insert(u32),
    Remove(u32),
    Sweep(u32),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        (0..60_u32).prop_map(Op::Insert),
        (0..60_u32).prop_map(Op::Remove),
        (0..200_u32).prop_map(Op::Sweep)
    ]
}

proptest! {
    /// The oracle is a `HashMap` from key to (id, time of insertion).
    #[test]
    fn table_agrees_with_a_naive_map(ops in prop::collection::vec(op(), 1..300), keys: [u64; 4]) {
        let mut table = Conntrack::new(32, 1000, FlowHasher::new(keys));
        let mut oracle: HashMap<u32, (EntryId, u32)> = HashMap::new();
        let mut now = 0;
        for op in ops {
            match op {
                Op::Insert(n) => {
                    if oracle.contains_key(&n) { continue; }
                    match insert(&mut table, n, slot(n), now) {
                        Ok(id) => { oracle.insert(n, (id, now)); }
                        Err(error) => {
                            prop_assert_eq!(error, InsertError::Full);
                            // Degenerate hash keys may crowd one neighbourhood; otherwise full means full.
                            prop_assert!(oracle.len() == 32 || keys.iter().any(|k| *k < 1 << 20));
                        }
                    }
                }
                Op::Remove(n) => {
                    let id = oracle.remove(&n).map(|(id, _)| id);
                    prop_assert_eq!(id.and_then(|id| table.remove(id)).map(|e| e.key), id.map(|_| key(n)));
                }
                Op::Sweep(advance) => {
                    now += advance;
                    let removed = table.sweep(now, 32, |_| {});
                    let before = oracle.len();
                    oracle.retain(|_, (_, born)| now - *born <= 60);
                    prop_assert_eq!(removed, before - oracle.len());
                }
            }
            prop_assert_eq!(table.len(), oracle.len());
            let all: Vec<_> = (0..60).map(|n| (key(n), table.hash(&key(n)))).collect();
            let mut batch = Vec::new();
            table.lookup_batch(&all, &mut batch);
            for (n, (key, hash)) in (0..60_u32).zip(&all) {
                let expected = oracle.get(&n).map(|(id, _)| (*id, FlowDirection::Original));
                prop_assert_eq!(table.lookup(key, *hash), expected);
                prop_assert_eq!(batch[n as usize], expected);
            }
        }
    }
}

#[test]
fn flow_takes_the_place_of_one_on_its_tuple_or_nothing_changes() {
    let mut table = Conntrack::new(16, 2, FlowHasher::random());
    let old = insert(&mut table, 1, 8, 0).unwrap();
    for n in 2..4 {
        insert(&mut table, n, 9, 0).unwrap();
    }
    let reversed = Entry::new(key(1).reversed(), endpoint(9), endpoint(8));
    assert_eq!(table.replace(old, reversed, 1), Err(InsertError::Quota));
    assert_eq!(
        table.lookup(&key(1), table.hash(&key(1))),
        Some((old, FlowDirection::Original))
    );

    insert(&mut table, 5, 8, 0).unwrap();
    let same = Entry::new(key(1), endpoint(8), endpoint(10));
    let new = table.replace(old, same, 1).expect("it holds the place already");
    assert_eq!(
        (table.len(), table.flows_of(Slot(8)), table.flows_of(Slot(9))),
        (4, 2, 2)
    );
    assert!(table.get(old).is_none() && table.get(new).is_some());
    assert_eq!(
        table.lookup(&key(1), table.hash(&key(1))),
        Some((new, FlowDirection::Original))
    );
    assert_eq!(
        table.remove_endpoint(endpoint(10), |_| {}),
        1,
        "the receiver is counted"
    );
    assert!(table.lookup(&key(1), table.hash(&key(1))).is_none());
}

#[test]
fn entry_fills_three_cache_lines() {
    assert_eq!(size_of::<Entry>(), 192);
}
