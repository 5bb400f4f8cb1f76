//! Conntrack: lookups in tables of 10 000 to 1 000 000 flows in shuffled order, and an insertion with its removal.
//!
//! Hashes are part of the input, as in the graph (`hash` shows what one costs). Single lookups do not depend on each other, so the
//! processor overlaps some of their cache misses too; a batch makes that certain.

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, criterion_group, criterion_main};
use datapath::conntrack::{Conntrack, Entry};
use datapath::flow::{FlowHasher, FlowKey};
use policy::Protocol;
use sluice_bench::case::bench_loop;
use sluice_bench::node::{CLIENT, SERVER, room};
use sluice_bench::stream::{key, shuffled};

const STAGE: &str = "conntrack";
const BATCH: usize = 32;

/// Sizes, rounded up to whole batches so that a batch never wraps.
const SIZES: [(&str, usize); 3] = [("10k", 10_016), ("100k", 100_000), ("1m", 1_000_000)];

type Keys = Vec<(FlowKey, u64)>;

fn table(flows: usize) -> Conntrack {
    let mut table = Conntrack::new(room(flows), room(flows), FlowHasher::new([3, 5, 7, 11]));
    for n in 0..flows {
        table
            .insert(Entry::new(key(n, Protocol::TCP), CLIENT.key(), SERVER.key()), 0)
            .expect("there is room");
    }
    table
}

fn keys(table: &Conntrack, flows: usize, protocol: Protocol) -> Keys {
    let hashed = |n| {
        let key = key(n, protocol);
        (key, table.hash(&key))
    };
    shuffled(flows).into_iter().map(hashed).collect()
}

fn single(group: &mut BenchmarkGroup<'_, WallTime>, case: &str, flows: usize, protocol: Protocol) {
    bench_loop(group, STAGE, case, 1, || {
        let table = table(flows);
        let keys = keys(&table, flows, protocol);
        let mut next = 0;
        move || {
            next = if next == keys.len() { 0 } else { next };
            let (key, hash) = &keys[next];
            next += 1;
            let found = table.lookup(key, *hash);
            assert_eq!(found.is_some(), protocol == Protocol::TCP);
            found
        }
    });
}

fn batch(group: &mut BenchmarkGroup<'_, WallTime>, case: &str, flows: usize, protocol: Protocol) {
    bench_loop(group, STAGE, case, BATCH as u64, || {
        let table = table(flows);
        let keys = keys(&table, flows, protocol);
        let mut found = Vec::with_capacity(BATCH);
        let mut next = 0;
        move || {
            next = if next == keys.len() { 0 } else { next };
            table.lookup_batch(&keys[next..next + BATCH], &mut found);
            next += BATCH;
            assert_eq!(
                found.last().is_some_and(Option::is_some),
                protocol == Protocol::TCP
            );
        }
    });
}

fn conntrack(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group(STAGE);
    bench_loop(&mut group, STAGE, "hash", 1, || {
        let hasher = FlowHasher::new([3, 5, 7, 11]);
        let key = key(0, Protocol::TCP);
        move || hasher.hash(std::hint::black_box(&key))
    });
    for (size, flows) in SIZES {
        // No flow of the table is UDP.
        for (case, protocol) in [("hit", Protocol::TCP), ("miss", Protocol::UDP)] {
            single(&mut group, &format!("lookup-{case}-{size}"), flows, protocol);
            batch(&mut group, &format!("lookup-{case}-{size}"), flows, protocol);
        }
        bench_loop(&mut group, STAGE, &format!("insert-remove-{size}"), 1, || {
            let mut table = table(flows);
            let keys = keys(&table, flows, Protocol::UDP);
            let mut next = 0;
            move || {
                next = if next == keys.len() { 0 } else { next };
                let (key, _) = keys[next];
                next += 1;
                let id = table
                    .insert(Entry::new(key, CLIENT.key(), SERVER.key()), 0)
                    .expect("room for one more");
                assert!(table.remove(id).is_some());
            }
        });
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(20).warm_up_time(std::time::Duration::from_millis(500))
        .measurement_time(std::time::Duration::from_secs(1));
    targets = conntrack
}
criterion_main!(benches);
