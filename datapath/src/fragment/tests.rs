use std::collections::{BTreeMap, BTreeSet};

use policy::{Slot, SlotGeneration};
use proptest::prelude::*;

use super::*;
use crate::wire::packet::Headers;

const LIMITS: FragmentLimits = FragmentLimits {
    datagrams: 4,
    datagrams_per_endpoint: 3,
    held: 5,
    held_per_endpoint: 4,
    held_per_datagram: 3,
    timeout_ns: 100,
};

/// One frame each, and room for all.
const SPACE: Space = Space {
    frames: 1,
    room: usize::MAX,
};

fn sender(slot: u16) -> EndpointKey {
    EndpointKey {
        slot: Slot(slot),
        generation: SlotGeneration(1),
    }
}

/// Headers of a UDP fragment from `port` at `offset` with `len` bytes.
fn headers(v6: bool, id: u16, port: u16, offset: u16, len: u16, more: bool) -> IpHeaders {
    let mut frame = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1];
    let mut payload = vec![0; usize::from(len)];
    if offset == 0 {
        payload[..2].copy_from_slice(&port.to_be_bytes());
        payload[2..4].copy_from_slice(&[0, 53]);
        payload[4..6].copy_from_slice(&[0xff, 0xff]);
    }
    if v6 {
        frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
        frame.extend((8 + len).to_be_bytes());
        frame.extend([44, 64]);
        frame.extend([0xfd; 16]);
        frame.extend([0xfe; 16]);
        frame.extend([17, 0]);
        frame.extend((offset | u16::from(more)).to_be_bytes());
        frame.extend(u32::from(id).to_be_bytes());
    } else {
        frame.extend([8, 0, 0x45, 0]);
        frame.extend((20 + len).to_be_bytes());
        frame.extend(id.to_be_bytes());
        frame.extend(((offset / 8) | if more { 0x2000 } else { 0 }).to_be_bytes());
        frame.extend([64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
        let sum = crate::wire::checksum::Sum::ZERO.append(&frame[14..34]).checksum();
        frame[24..26].copy_from_slice(&sum.to_be_bytes());
    }
    frame.extend(payload);
    match Headers::parse(&frame, frame.len()) {
        Ok(Headers::Ip(headers)) => headers,
        other => panic!("{other:?}"),
    }
}

/// A table of numbered packets and its outcomes: packet and port, or reason.
struct Bench {
    table: FragmentTable<u32>,
    next: u32,
}

type Outcome = (u32, Result<u16, DropReason>);

impl Bench {
    fn new() -> Self {
        Self {
            table: FragmentTable::new(LIMITS),
            next: 0,
        }
    }

    fn admit(&mut self, slot: u16, headers: &IpHeaders, now: u64) -> Vec<Outcome> {
        let mut out = Vec::new();
        self.table
            .admit(sender(slot), headers, self.next, SPACE, now, &mut out);
        self.next += 1;
        plain(out)
    }

    fn sweep(&mut self, now: u64) -> Vec<Outcome> {
        let mut out = Vec::new();
        self.table.sweep(now, LIMITS.datagrams, &mut out);
        plain(out)
    }
}

fn plain(out: Vec<Released<u32>>) -> Vec<Outcome> {
    out.into_iter()
        .map(|released| (released.packet, released.outcome.map(|first| first.ports().0)))
        .collect()
}

const OVERLAP: Result<u16, DropReason> = Err(DropReason::FragmentOverlap);
const CAPACITY: Result<u16, DropReason> = Err(DropReason::FragmentCapacity);
const MISSING: Result<u16, DropReason> = Err(DropReason::FirstFragmentMissing);

#[test]
fn frames_and_not_packets_are_what_a_sender_and_all_of_them_may_hold() {
    let mut table = FragmentTable::new(LIMITS);
    let mut out = Vec::new();
    let mut admit = |slot, id: u16, frames, room| {
        let early = headers(false, id, 0, 24, 24, true);
        table.admit(
            sender(slot),
            &early,
            id.into(),
            Space { frames, room },
            0,
            &mut out,
        );
        (table.held(), table.held_frames())
    };
    let most = LIMITS.held_per_endpoint;
    assert_eq!(admit(8, 1, most - 1, 100), (1, most - 1));
    assert_eq!(admit(8, 2, 2, 100), (1, most - 1), "beyond the sender's share");
    assert_eq!(admit(9, 3, 2, 1), (1, most - 1), "beyond the room of all");
    assert_eq!(admit(9, 4, 2, 2), (2, most + 1));
    table.forget(sender(8), &mut out);
    assert_eq!(table.held_frames(), 2);
    // What need not wait takes nothing.
    let whole = headers(false, 5, 4000, 0, 24, true);
    let (no_room, mut passed) = (Space { frames: 17, room: 0 }, Vec::new());
    table.admit(sender(8), &whole, 5, no_room, 0, &mut passed);
    assert!(matches!(passed.as_slice(), [Released { outcome: Ok(_), .. }]));
}

#[test]
fn later_fragments_are_judged_by_the_first() {
    for v6 in [false, true] {
        let mut bench = Bench::new();
        assert_eq!(
            bench.admit(8, &headers(v6, 1, 4000, 0, 24, true), 0),
            [(0, Ok(4000))]
        );
        assert_eq!(
            bench.admit(8, &headers(v6, 1, 0, 24, 24, true), 0),
            [(1, Ok(4000))]
        );
        assert_eq!(
            bench.admit(8, &headers(v6, 1, 0, 48, 3, false), 0),
            [(2, Ok(4000))]
        );
        assert_eq!(bench.table.datagrams(), 0, "whole");
    }
}

#[test]
fn early_fragments_wait_for_the_first_and_follow_it() {
    let mut bench = Bench::new();
    assert_eq!(bench.admit(8, &headers(false, 1, 0, 48, 3, false), 0), []);
    assert_eq!(bench.admit(8, &headers(false, 1, 0, 24, 24, true), 0), []);
    assert_eq!((bench.table.held(), bench.table.held_packets().count()), (2, 2));
    let out = bench.admit(8, &headers(false, 1, 4000, 0, 24, true), 0);
    assert_eq!(out, [(2, Ok(4000)), (0, Ok(4000)), (1, Ok(4000))]);
    assert_eq!((bench.table.held(), bench.table.datagrams()), (0, 0));
}

#[test]
fn fragments_of_another_sender_or_identification_do_not_meet() {
    let mut bench = Bench::new();
    assert_eq!(
        bench.admit(8, &headers(false, 1, 4000, 0, 24, true), 0),
        [(0, Ok(4000))]
    );
    assert_eq!(bench.admit(9, &headers(false, 1, 0, 24, 8, false), 0), []);
    assert_eq!(bench.admit(8, &headers(false, 2, 0, 24, 8, false), 0), []);
    assert_eq!(bench.admit(8, &headers(true, 1, 0, 24, 8, false), 0), []);
    assert_eq!(
        bench.admit(8, &headers(false, 1, 0, 24, 8, false), 0),
        [(4, Ok(4000))]
    );
}

#[test]
fn fragments_of_a_new_occupant_of_the_slot_do_not_meet_the_former_ones() {
    let mut bench = Bench::new();
    assert_eq!(
        bench.admit(8, &headers(false, 1, 4000, 0, 24, true), 0),
        [(0, Ok(4000))]
    );
    let new = EndpointKey {
        generation: SlotGeneration(2),
        ..sender(8)
    };
    let mut out = Vec::new();
    bench
        .table
        .admit(new, &headers(false, 1, 0, 24, 8, false), 1, SPACE, 0, &mut out);
    assert_eq!((plain(out), bench.table.held()), (vec![], 1));
}

#[test]
fn datagram_in_more_runs_than_are_kept_is_refused() {
    let mut bench = Bench::new();
    bench.admit(8, &headers(false, 1, 4000, 0, 8, true), 0);
    for i in 1..8 {
        let out = bench.admit(8, &headers(false, 1, 0, 16 * i, 8, true), 0);
        assert_eq!(out, [(u32::from(i), Ok(4000))]);
    }
    assert_eq!(
        bench.admit(8, &headers(false, 1, 0, 128, 8, true), 0),
        [(8, CAPACITY)]
    );
    assert_eq!(
        bench.admit(8, &headers(false, 1, 0, 24, 8, true), 0),
        [(9, CAPACITY)],
        "nothing more passes"
    );
}

#[test]
fn overlap_refuses_the_whole_datagram() {
    let overlaps: &[(u16, u16, bool)] = &[
        (16, 24, true),
        (24, 8, true),
        (16, 8, true),
        (40, 16, false),
        (24, 24, true),
    ];
    for (offset, len, more) in overlaps {
        let mut bench = Bench::new();
        bench.admit(8, &headers(false, 1, 4000, 0, 24, true), 0);
        bench.admit(8, &headers(false, 1, 0, 24, 24, true), 0);
        assert_eq!(
            bench.admit(8, &headers(false, 1, 0, *offset, *len, *more), 0),
            [(2, OVERLAP)],
            "{offset} {len}"
        );
        assert_eq!(
            bench.admit(8, &headers(false, 1, 0, 48, 8, false), 0),
            [(3, OVERLAP)],
            "nothing more passes"
        );
        assert_eq!(
            bench.admit(8, &headers(false, 1, 4000, 0, 24, true), 0),
            [(4, OVERLAP)]
        );
        bench.sweep(100);
        assert_eq!(
            bench.admit(8, &headers(false, 1, 4000, 0, 24, true), 100),
            [(5, Ok(4000))],
            "a new one does"
        );
    }
}

#[test]
fn overlap_releases_what_was_held() {
    let mut bench = Bench::new();
    bench.admit(8, &headers(false, 1, 0, 24, 24, true), 0);
    bench.admit(8, &headers(false, 1, 0, 48, 24, true), 0);
    assert_eq!(
        bench.admit(8, &headers(false, 1, 4000, 0, 32, true), 0),
        [(2, OVERLAP), (0, OVERLAP), (1, OVERLAP)]
    );
    assert_eq!(bench.table.held(), 0);
}

#[test]
fn two_ends_or_bytes_behind_the_end_are_overlap() {
    for (offset, len, more) in [(48, 8, false), (40, 8, true), (16, 8, false)] {
        let mut bench = Bench::new();
        bench.admit(8, &headers(false, 1, 0, 32, 8, false), 0);
        let out = bench.admit(8, &headers(false, 1, 0, offset, len, more), 0);
        assert_eq!(out, [(1, OVERLAP), (0, OVERLAP)], "{offset}");
    }
    let mut bench = Bench::new();
    bench.admit(8, &headers(false, 1, 0, 48, 8, true), 0);
    assert_eq!(
        bench.admit(8, &headers(false, 1, 0, 32, 8, false), 0),
        [(1, OVERLAP), (0, OVERLAP)]
    );
}

#[test]
fn held_packets_come_back_when_the_first_never_comes() {
    let mut bench = Bench::new();
    bench.admit(8, &headers(false, 1, 0, 24, 24, true), 0);
    assert_eq!(bench.sweep(99), []);
    assert_eq!(bench.sweep(100), [(0, MISSING)]);
    bench.admit(8, &headers(false, 1, 0, 24, 24, true), 200);
    let out = bench.admit(8, &headers(false, 1, 4000, 0, 24, true), 300);
    assert_eq!(
        out,
        [(1, MISSING), (2, Ok(4000))],
        "expired, though no sweep came by"
    );
}

#[test]
fn limits_refuse_what_does_not_fit() {
    let mut bench = Bench::new();
    for i in 0..3 {
        assert_eq!(bench.admit(8, &headers(false, 1, 0, 24 + 16 * i, 8, true), 0), []);
    }
    assert_eq!(
        bench.admit(8, &headers(false, 1, 0, 200, 8, true), 0),
        [(3, CAPACITY)],
        "held per datagram"
    );
    assert_eq!(bench.admit(8, &headers(false, 2, 0, 24, 8, true), 0), []);
    assert_eq!(
        bench.admit(8, &headers(false, 2, 0, 40, 8, true), 0),
        [(5, CAPACITY)],
        "held per sender"
    );
    assert_eq!(bench.admit(9, &headers(false, 1, 0, 24, 8, true), 0), []);
    assert_eq!(
        bench.admit(9, &headers(false, 1, 0, 40, 8, true), 0),
        [(7, CAPACITY)],
        "held at all"
    );
    assert_eq!(bench.admit(8, &headers(false, 3, 1, 0, 8, true), 0), [(8, Ok(1))]);
    assert_eq!(
        bench.admit(8, &headers(false, 4, 1, 0, 8, true), 0),
        [(9, CAPACITY)],
        "datagrams per sender"
    );
    assert_eq!(
        bench.admit(9, &headers(false, 2, 1, 0, 8, true), 0),
        [(10, CAPACITY)],
        "datagrams at all"
    );
    let mut out = Vec::new();
    bench.table.forget(sender(8), &mut out);
    let released: BTreeSet<u32> = out.iter().map(|released| released.packet).collect();
    assert_eq!(released, BTreeSet::from([0, 1, 2, 4]));
    assert!(
        out.iter()
            .all(|released| released.outcome == Err(DropReason::StaleEndpoint))
    );
    assert_eq!((bench.table.held(), bench.table.datagrams()), (1, 1));
}

#[test]
fn packet_that_is_no_fragment_passes_by_its_own_header() {
    let mut whole = headers(false, 1, 4000, 0, 24, true);
    whole.fragment = None;
    let mut bench = Bench::new();
    assert_eq!(bench.admit(8, &whole, 0), [(0, Ok(4000))]);
    assert_eq!(bench.table.datagrams(), 0);
}

/// The same rules, without thought of speed: a datagram is the set of its 8-byte units.
#[derive(Default)]
struct Oracle {
    datagrams: BTreeMap<(u16, u16), OracleDatagram>,
}

#[derive(Default)]
struct OracleDatagram {
    deadline: u64,
    units: BTreeSet<u16>,
    end: Option<u16>,
    port: Option<u16>,
    refused: Option<DropReason>,
    held: Vec<u32>,
}

impl Oracle {
    fn expire(&mut self, now: u64, which: impl Fn(&(u16, u16)) -> bool) -> Vec<Outcome> {
        let dead: Vec<(u16, u16)> = self
            .datagrams
            .iter()
            .filter(|(key, d)| d.deadline <= now && which(key))
            .map(|(key, _)| *key)
            .collect();
        dead.iter()
            .flat_map(|key| self.datagrams.remove(key).unwrap().held)
            .map(|packet| (packet, MISSING))
            .collect()
    }

    fn admit(&mut self, slot: u16, id: u16, packet: u32, headers: &IpHeaders, now: u64) -> Vec<Outcome> {
        let fragment = headers.fragment.unwrap();
        let mut out = self.expire(now, |key| *key == (slot, id));
        let of_sender = self.datagrams.keys().filter(|key| key.0 == slot).count();
        let is_new = !self.datagrams.contains_key(&(slot, id));
        if is_new && (of_sender >= LIMITS.datagrams_per_endpoint || self.datagrams.len() >= LIMITS.datagrams)
        {
            out.push((packet, CAPACITY));
            return out;
        }
        let held_all: usize = self.datagrams.values().map(|d| d.held.len()).sum();
        let held_sender: usize = self
            .datagrams
            .iter()
            .filter(|(key, _)| key.0 == slot)
            .map(|(_, d)| d.held.len())
            .sum();
        let datagram = self.datagrams.entry((slot, id)).or_default();
        if is_new {
            datagram.deadline = now + LIMITS.timeout_ns;
        }
        if datagram.refused.is_none() {
            let end = fragment.offset + fragment.len;
            let units: BTreeSet<u16> = (fragment.offset / 8..end.div_ceil(8)).collect();
            let reached = datagram.units.last().map_or(0, |unit| (unit + 1) * 8);
            let contradicts = match datagram.end {
                Some(known) => !fragment.more || end > known,
                None => !fragment.more && reached > end.next_multiple_of(8),
            };
            if contradicts || !units.is_disjoint(&datagram.units) {
                datagram.refused = Some(DropReason::FragmentOverlap);
            } else {
                datagram.units.extend(units);
                let runs = datagram
                    .units
                    .iter()
                    .filter(|unit| **unit == 0 || !datagram.units.contains(&(**unit - 1)));
                if runs.count() > extent::MAX_RUNS {
                    datagram.refused = Some(DropReason::FragmentCapacity);
                }
                if !fragment.more {
                    datagram.end = Some(end);
                }
            }
        }
        if let Some(reason) = datagram.refused {
            out.push((packet, Err(reason)));
            out.extend(datagram.held.drain(..).map(|held| (held, Err(reason))));
            return out;
        }
        if fragment.offset == 0 {
            datagram.port = Some(headers.ports().0);
        }
        let Some(port) = datagram.port else {
            let fits = datagram.held.len() < LIMITS.held_per_datagram
                && held_sender < LIMITS.held_per_endpoint
                && held_all < LIMITS.held;
            if fits {
                datagram.held.push(packet);
            } else {
                out.push((packet, CAPACITY));
            }
            return out;
        };
        out.push((packet, Ok(port)));
        out.extend(datagram.held.drain(..).map(|held| (held, Ok(port))));
        let whole = datagram
            .end
            .is_some_and(|end| datagram.units.len() == usize::from(end.div_ceil(8)));
        if whole {
            self.datagrams.remove(&(slot, id));
        }
        out
    }
}

#[derive(Debug, Clone)]
enum Op {
    Admit {
        slot: u16,
        id: u16,
        port: u16,
        unit: u16,
        len: u16,
        more: bool,
    },
    Pass(u64),
    Sweep,
}

fn op() -> impl Strategy<Value = Op> {
    let unit = prop_oneof![3 => Just(0_u16), 5 => 2_u16..6, 3 => 2_u16..40];
    prop_oneof![
        20 => (8_u16..11, 0_u16..3, 1_u16..9, unit, 1_u16..25, any::<bool>()).prop_map(
            |(slot, id, port, unit, len, more)| Op::Admit { slot, id, port, unit, len, more }
        ),
        2 => (1_u64..70).prop_map(Op::Pass),
        1 => Just(Op::Sweep),
    ]
}

proptest! {
    #[test]
    fn table_equals_the_oracle(v6: bool, ops in proptest::collection::vec(op(), 1..120)) {
        let mut bench = Bench::new();
        let mut oracle = Oracle::default();
        let mut now = 0;
        let (mut given, mut returned) = (0, BTreeSet::new());
        for op in ops {
            let (ours, theirs) = match op {
                Op::Admit { slot, id, port, unit, len, more } => {
                    // What the parser lets through: a first fragment with the whole header, all but the last in units of 8.
                    let len = if more || unit == 0 { len.next_multiple_of(8) } else { len };
                    let more = more || unit == 0;
                    let headers = headers(v6, id, port, unit * 8, len, more);
                    let packet = bench.next;
                    given += 1;
                    (bench.admit(slot, &headers, now), oracle.admit(slot, id, packet, &headers, now))
                }
                Op::Pass(time) => {
                    now += time;
                    continue;
                }
                Op::Sweep => {
                    let mut both = (bench.sweep(now), oracle.expire(now, |_| true));
                    both.0.sort_unstable_by_key(|outcome| outcome.0);
                    both.1.sort_unstable_by_key(|outcome| outcome.0);
                    both
                }
            };
            prop_assert_eq!(&ours, &theirs);
            for (packet, _) in ours {
                prop_assert!(returned.insert(packet), "packet {} came out twice", packet);
            }
            prop_assert_eq!(bench.table.datagrams(), oracle.datagrams.len());
            prop_assert_eq!(bench.table.held() + returned.len(), given);
            prop_assert!(bench.table.held() <= LIMITS.held && bench.table.datagrams() <= LIMITS.datagrams);
        }
        let rest = bench.sweep(u64::MAX);
        prop_assert_eq!(returned.len() + rest.len(), given);
        prop_assert_eq!((bench.table.held(), bench.table.datagrams(), bench.table.usage.len()), (0, 0, 0));
    }
}
