//! Endpoints come and go, policies change, frames are accounted for.

use std::net::IpAddr;

use policy::{DropReason, EndpointKey, Slot, SlotGeneration};
use proptest::prelude::*;
use sluice_datapath::interface::InterfaceConfig;
use sluice_datapath::wire::tcp::TcpFlags;

use crate::bed::*;

#[test]
fn established_flow_is_cut_when_its_rule_is_removed_and_revives_with_it() {
    let mut bed = Bed::guarded(Allow::Plain);
    let mut conn = Conn::new(A, B, 5000);
    conn.open(&mut bed);
    bed.set(
        B,
        Rules {
            ingress: Some(vec![]),
            egress: None,
        },
    );
    conn.client_sends(&mut bed, DATA, b"one");
    conn.server_sends(&mut bed, DATA, b"two");
    assert!(bed.got_nothing());
    assert_eq!(bed.dropped(DropReason::PolicyDenied), 2);
    bed.set(
        B,
        Rules {
            ingress: Some(vec![(peer(A), 5000, Allow::Plain)]),
            egress: None,
        },
    );
    conn.client_sends(&mut bed, DATA, b"three");
    assert_eq!(bed.got_one(B.key()).payload(), b"three");
}

#[test]
fn policy_of_others_does_not_touch_a_flow() {
    let mut bed = Bed::guarded(Allow::Plain);
    let mut conn = Conn::new(A, B, 5000);
    conn.open(&mut bed);
    bed.events();
    bed.set(
        C,
        Rules {
            ingress: Some(vec![]),
            egress: Some(vec![]),
        },
    );
    bed.ipcache_generation += 1;
    bed.publish();
    conn.client_sends(&mut bed, DATA, b"x");
    bed.got_one(B.key());
    assert_eq!(bed.events(), [], "the flow was decided again");
}

#[test]
fn explicit_deny_has_its_own_reason() {
    let mut bed = Bed::guarded(Allow::Deny);
    Conn::new(A, B, 5000).client_sends(&mut bed, TcpFlags::SYN, &[]);
    assert!(bed.got_nothing());
    assert_eq!(bed.dropped(DropReason::PolicyDenyRule), 1);
}

#[test]
fn both_ends_must_agree() {
    let mut bed = Bed::guarded(Allow::Plain);
    bed.set(
        A,
        Rules {
            ingress: None,
            egress: Some(vec![]),
        },
    );
    Conn::new(A, B, 5000).client_sends(&mut bed, TcpFlags::SYN, &[]);
    assert!(bed.got_nothing());
    bed.set(
        A,
        Rules {
            ingress: None,
            egress: Some(vec![(peer(B), 5000, Allow::Plain)]),
        },
    );
    Conn::new(A, B, 5000).client_sends(&mut bed, TcpFlags::SYN, &[]);
    bed.got_one(B.key());
}

#[test]
fn replies_and_errors_about_a_flow_pass_where_both_ends_deny_them_as_flows() {
    let mut bed = Bed::new();
    let both_ways = |ingress, egress| Rules {
        ingress: Some(ingress),
        egress: Some(egress),
    };
    bed.set(A, both_ways(vec![], vec![(peer(B), 5000, Allow::Plain)]));
    bed.set(B, both_ways(vec![(peer(A), 5000, Allow::Plain)], vec![]));
    let mut conn = Conn::new(A, B, 5000);
    conn.open(&mut bed);
    conn.client_sends(&mut bed, DATA, b"question");
    let question = bed.got_one(B.key());
    conn.server_sends(&mut bed, DATA, b"answer");
    assert_eq!(bed.got_one(A.key()).payload(), b"answer");
    // Fragmentation needed, about the question.
    let quote = [&[0, 0, 2, 64][..], &question.packet()[..28]].concat();
    bed.send(B.key(), &icmp(B.v4(), A.v4(), 3, 4, &quote));
    bed.got_one(A.key());
    assert_eq!(bed.dropped(DropReason::PolicyDenied), 0);
    Conn::new(B, A, 5000).client_sends(&mut bed, TcpFlags::SYN, &[]);
    assert!(bed.got_nothing());
    assert_eq!(bed.dropped(DropReason::PolicyDenied), 1);
}

#[test]
fn denied_flow_leaves_neither_an_entry_nor_a_translation() {
    let mut bed = Bed::guarded(Allow::Plain);
    bed.serve(&[B]);
    let vip: IpAddr = VIP.parse().unwrap();
    Conn::between(C.key(), C.v4(), B.key(), vip, 80).client_sends(&mut bed, TcpFlags::SYN, &[]);
    let graph = bed.worker.graph();
    assert!(graph.conntrack().is_empty() && graph.translations().is_empty());
}

#[test]
fn flows_of_a_slots_former_occupant_die_with_it() {
    let mut bed = Bed::new();
    let mut conn = Conn::new(A, B, 80);
    conn.open(&mut bed);
    bed.detach(B.key());
    // Another pod gets B's slot and address.
    let key = EndpointKey {
        slot: Slot(B.0),
        generation: SlotGeneration(2),
    };
    bed.attach(InterfaceConfig { key, ..B.config() });
    conn.client_sends(&mut bed, DATA, b"secret of the former connection");
    assert!(bed.got(key).is_empty());
    assert_eq!(bed.dropped(DropReason::Midstream), 1);
    bed.assert_no_frame_lost();
}

#[test]
fn frames_of_a_vanished_pod_come_back() {
    let mut bed = Bed::new();
    let mut conn = Conn::new(A, B, 80);
    conn.open(&mut bed);
    bed.wire(B.key()).block(true);
    for _ in 0..50 {
        conn.client_sends(&mut bed, DATA, b"into the void");
    }
    bed.detach(B.key());
    bed.assert_no_frame_lost();
    let audit = bed.audit();
    assert_eq!(audit.frames.transmitting, 0);
}

#[test]
fn a_pod_that_takes_nothing_loses_only_its_own_packets() {
    let mut bed = Bed::new();
    bed.wire(B.key()).block(true);
    for n in 0..600 {
        bed.send(A.key(), &udp(A.v4(), 1000 + n % 10, B.v4(), 53, b"x"));
    }
    assert_eq!(bed.dropped(DropReason::TxFull), 600 - 256, "the ring holds 256");
    bed.send(A.key(), &udp(A.v4(), 1000, C.v4(), 53, b"x"));
    bed.got_one(C.key());
    bed.wire(B.key()).block(false);
    bed.send(A.key(), &udp(A.v4(), 1000, B.v4(), 53, b"x"));
    assert_eq!(
        bed.got(B.key()).len(),
        256 + 1,
        "every packet is delivered or counted"
    );
    bed.assert_no_frame_lost();
}

#[derive(Debug, Clone)]
enum Op {
    Send { from: u8, to: u8, port: u16, len: u16 },
    Noise(u8, Vec<u8>),
    Block(u8, bool),
    Replace(u8),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        8 => (0..3_u8, 0..4_u8, 0..4_u16, 0..9000_u16).prop_map(|(from, to, port, len)| Op::Send { from, to, port, len }),
        2 => (0..3_u8, prop::collection::vec(any::<u8>(), 1..200)).prop_map(|(from, bytes)| Op::Noise(from, bytes)),
        1 => (0..3_u8, any::<bool>()).prop_map(|(pod, blocked)| Op::Block(pod, blocked)),
        1 => (0..3_u8).prop_map(Op::Replace),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]
    /// Whatever is sent, every packet is forwarded, dropped and counted, or answered, and every frame has an owner.
    #[test]
    fn every_packet_and_frame_is_accounted_for(ops in prop::collection::vec(op(), 1..120)) {
        let mut bed = Bed::new();
        let pods = [A, B, C];
        for pod in pods {
            bed.detach(pod.key());
            bed.attach(InterfaceConfig { mtu: 9000, ..pod.config() });
        }
        let mut sent = 0;
        for op in ops {
            match op {
                Op::Send { from, to, port, len } => {
                    let from = pods[usize::from(from)];
                    let to = pods.get(usize::from(to)).map_or(OUTSIDE.parse().unwrap(), |pod| pod.v4());
                    bed.send(from.key(), &udp(from.v4(), 1000 + port, to, 53, &vec![7; usize::from(len)]));
                    sent += 1;
                }
                Op::Noise(from, bytes) => {
                    bed.inject(pods[usize::from(from)].key(), &bytes);
                    sent += 1;
                }
                Op::Block(pod, blocked) => bed.wire(pods[usize::from(pod)].key()).block(blocked),
                Op::Replace(pod) => {
                    let pod = pods[usize::from(pod)];
                    bed.detach(pod.key());
                    bed.attach(InterfaceConfig { mtu: 9000, ..pod.config() });
                }
            }
            bed.assert_no_frame_lost();
        }
        let counters = bed.counters();
        let lost_by_ring: u64 = 0;
        // A forwarded packet that finds a full ring is counted twice: as forwarded and as dropped at the receiver.
        let late = bed.dropped(DropReason::TxFull) + bed.dropped(DropReason::FrameQuota) + bed.dropped(DropReason::StaleEndpoint);
        let ended = counters.forwarded_packets.get() + counters.dropped_total() - late + counters.answered.get();
        prop_assert_eq!(ended + lost_by_ring, sent);
    }
}
