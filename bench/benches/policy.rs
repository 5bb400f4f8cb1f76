//! Policy: one decision of an endpoint's table made from 10 to 10 000 policies, and one address's identity.
//!
//! Questions come in shuffled order: three of four name a peer and port that a policy covers, one a stranger.

use std::cell::Cell;
use std::net::{IpAddr, Ipv4Addr};

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, criterion_group, criterion_main};
use policy::{Decision, HttpSets, Identity, IpCache, IpCacheGeneration, Peers, PolicyTable, Protocol};
use sluice_bench::case::bench_loop;
use sluice_bench::node::policies;
use sluice_bench::stream::shuffled;

const STAGE: &str = "policy";

/// Questions; a power of two.
const QUESTIONS: usize = 4096;

fn questions(count: usize) -> Vec<(Identity, u16)> {
    let entries = policies(count);
    let covered = |n: usize| {
        let entry = &entries[n * 7919 % count];
        let Peers::Identities(peers) = &entry.peers else {
            unreachable!("policies name their peers")
        };
        (
            if n % 4 == 3 {
                Identity(99_999)
            } else {
                peers[n % 4]
            },
            *entry.ports.start(),
        )
    };
    shuffled(QUESTIONS).into_iter().map(covered).collect()
}

/// CIDRs of the ipcache.
const CIDRS: u32 = 2000;

/// The address that CIDR number `n` was cut from.
fn cidr(n: u32) -> u32 {
    0xc000_0000 + ((n * 0x137) << 8)
}

/// 10 000 pods, and CIDRs of eight lengths.
fn ipcache() -> IpCache {
    let pods = (0..10_000_u32).map(|n| {
        (
            IpAddr::V4(Ipv4Addr::from(0x0af4_0000 + n)).into(),
            Identity(1000 + n),
        )
    });
    let cidrs = (0..CIDRS).map(|n| {
        let len = [8, 12, 16, 20, 22, 24, 26, 28][n as usize % 8];
        let addr = Ipv4Addr::from(cidr(n));
        let net = ipnet::IpNet::new(addr.into(), len).expect("a length of IPv4");
        (net, Identity(Identity::FIRST_LOCAL.0 + n))
    });
    IpCache::new(
        IpCacheGeneration(1),
        pods.chain(cidrs),
        vec!["10.244.0.0/16".parse().expect("a CIDR")],
    )
}

fn identity(
    group: &mut BenchmarkGroup<'_, WallTime>,
    case: &str,
    address: impl Fn(u32) -> u32,
    is_expected: impl Fn(Identity) -> bool,
) {
    bench_loop(group, STAGE, case, 1, || {
        let cache = ipcache();
        let number = |n| u32::try_from(n).expect("few questions");
        let addresses: Vec<IpAddr> = shuffled(QUESTIONS)
            .into_iter()
            .map(|n| Ipv4Addr::from(address(number(n))).into())
            .collect();
        assert!(
            addresses.iter().all(|addr| is_expected(cache.lookup(*addr))),
            "{case}: found by something else"
        );
        let mut next = 0;
        move || {
            next = (next + 1) % QUESTIONS;
            cache.lookup(addresses[next])
        }
    });
}

fn policy(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group(STAGE);
    for count in [10, 100, 1000, 10_000] {
        bench_loop(&mut group, STAGE, &format!("decide-{count}-policies"), 1, || {
            let (table, entries) = (Cell::new(PolicyTable::default()), policies(count));
            let memory = allocation_counter::measure(|| {
                let built = PolicyTable::build(true, &entries, &mut HttpSets::default());
                table.set(built.expect("plain entries"));
            });
            let table = table.into_inner();
            eprintln!(
                "{STAGE}/decide-{count}-policies: {} KiB of tables",
                memory.bytes_current / 1024
            );
            let questions = questions(count);
            let strangers = questions
                .iter()
                .filter(|(peer, port)| table.decide(*peer, Protocol::TCP, *port) == Decision::DefaultDeny);
            assert_eq!(strangers.count(), QUESTIONS / 4, "policies decide the others");
            let mut next = 0;
            move || {
                next = (next + 1) % QUESTIONS;
                let (peer, port) = questions[next];
                table.decide(peer, Protocol::TCP, port)
            }
        });
    }
    // What finds the address: an exact entry, the longest of eight prefixes, none.
    identity(
        &mut group,
        "ipcache-exact",
        |n| 0x0af4_0000 + 2 * n,
        |identity| identity.0 < Identity::FIRST_LOCAL.0,
    );
    identity(
        &mut group,
        "ipcache-lpm",
        |n| cidr(n % CIDRS),
        |identity| identity.0 >= Identity::FIRST_LOCAL.0,
    );
    identity(
        &mut group,
        "ipcache-world",
        |n| 0x0800_0000 + 251 * n,
        |identity| identity == Identity::WORLD,
    );
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(30).warm_up_time(std::time::Duration::from_millis(500))
        .measurement_time(std::time::Duration::from_secs(2));
    targets = policy
}
criterion_main!(benches);
