//! First packets from and to pods of other nodes that this node has not heard of yet.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use policy::{Backend, Direction, DropReason, Identity, Peers};
use sluice_datapath::graph::GraphConfig;
use sluice_datapath::hold::HoldLimits;
use sluice_datapath::wire::tcp::TcpFlags;

use crate::bed::*;

const REMOTE: Identity = Identity(2000);
const OTHER: Identity = Identity(2001);

fn remote() -> IpAddr {
    "10.244.9.9".parse().unwrap()
}

fn remote6() -> IpAddr {
    "fd00:10:244:9::9".parse().unwrap()
}

/// Held for good, as far as a test is concerned, if the test does not say otherwise.
fn bed_with(hold: HoldLimits) -> Bed {
    let mut bed = Bed::with(GraphConfig {
        flows: 4096,
        flows_per_endpoint: 1024,
        translations: 256,
        l7_flows: 64,
        hold,
        ..GraphConfig::default()
    });
    let only_remote = Some(vec![(Peers::Identities([REMOTE].into()), 5000, Allow::Plain)]);
    bed.set(
        A,
        Rules {
            ingress: None,
            egress: only_remote.clone(),
        },
    );
    bed.set(
        B,
        Rules {
            ingress: only_remote,
            egress: None,
        },
    );
    bed
}

fn bed() -> Bed {
    bed_with(HoldLimits {
        timeout_ns: u64::MAX,
        ..HoldLimits::default()
    })
}

fn learn(bed: &mut Bed, addr: IpAddr, identity: Identity) {
    bed.known.push((addr, identity));
    bed.ipcache_generation += 1;
    bed.publish();
}

fn to_b(from: IpAddr, port: u16) -> Vec<u8> {
    let to = if from.is_ipv4() { B.v4() } else { B.v6() };
    let mut conn = Conn::between(FORWARD, from, B.key(), to, 5000);
    conn.client.port = port;
    conn.by_client(TcpFlags::SYN, &[])
}

fn held(bed: &Bed) -> usize {
    bed.worker.graph().held_frames()
}

#[test]
fn first_packet_of_an_unknown_pod_passes_when_the_pod_becomes_known() {
    for from in [remote(), remote6()] {
        let mut bed = bed();
        bed.send(FORWARD, &to_b(from, 40_000));
        assert!(bed.got_nothing());
        assert_eq!((held(&bed), bed.counters().dropped_total()), (1, 0));
        bed.assert_no_frame_lost();
        learn(&mut bed, from, REMOTE);
        assert_eq!(bed.got_one(B.key()).tcp().flags, TcpFlags::SYN);
        assert_eq!((held(&bed), bed.counters().dropped_total()), (0, 0));
        assert_eq!(bed.counters().held.get(), 1);
        bed.assert_no_frame_lost();
    }
}

#[test]
fn first_packet_to_an_unknown_pod_passes_when_the_pod_becomes_known() {
    let mut bed = bed();
    let mut conn = Conn::between(A.key(), A.v4(), FORWARD, remote(), 5000);
    conn.client_sends(&mut bed, TcpFlags::SYN, &[]);
    assert!(bed.got_nothing());
    assert_eq!(bed.counters().dropped_total(), 0);
    learn(&mut bed, remote(), REMOTE);
    assert_eq!(bed.got_one(FORWARD).tcp().flags, TcpFlags::SYN);
    conn.server_sends(&mut bed, SYN_ACK, &[]);
    bed.got_one(A.key());
}

#[test]
fn pod_that_becomes_known_as_another_is_denied_at_once() {
    let mut bed = bed();
    bed.send(FORWARD, &to_b(remote(), 40_000));
    learn(&mut bed, remote(), OTHER);
    assert!(bed.got_nothing());
    assert_eq!(held(&bed), 0);
    assert_eq!(
        bed.counters()
            .dropped(DropReason::PolicyDenied, Some(Direction::Ingress)),
        1
    );
    bed.assert_no_frame_lost();
}

#[test]
fn snapshot_that_does_not_tell_of_the_pod_leaves_its_packet_held() {
    let mut bed = bed();
    bed.send(FORWARD, &to_b(remote(), 40_000));
    learn(&mut bed, "10.244.9.8".parse().unwrap(), REMOTE);
    assert!(bed.got_nothing());
    assert_eq!((held(&bed), bed.counters().dropped_total()), (1, 0));
    learn(&mut bed, remote(), REMOTE);
    bed.got_one(B.key());
    assert_eq!(bed.counters().held.get(), 1, "counted once");
}

#[test]
fn packet_whose_pod_stays_unknown_is_denied_when_its_time_is_up() {
    let timeout = Duration::from_millis(50);
    let mut bed = bed_with(HoldLimits {
        timeout_ns: timeout.as_nanos().try_into().unwrap(),
        ..HoldLimits::default()
    });
    let sent = Instant::now();
    bed.send(FORWARD, &to_b(remote(), 40_000));
    while bed.counters().dropped_total() == 0 {
        assert!(sent.elapsed() < Duration::from_secs(10), "never judged");
        bed.turn();
    }
    assert!(sent.elapsed() >= timeout, "judged after {:?}", sent.elapsed());
    assert_eq!(
        bed.counters()
            .dropped(DropReason::PolicyDenied, Some(Direction::Ingress)),
        1
    );
    assert!(bed.got_nothing());
    bed.assert_no_frame_lost();
}

#[test]
fn what_policy_allows_or_denies_anyway_is_not_held() {
    let mut bed = bed();
    bed.set(B, Rules::default());
    bed.send(FORWARD, &to_b(remote(), 40_000));
    bed.got_one(B.key());
    // The outside is known to be no pod.
    bed.set(
        B,
        Rules {
            ingress: Some(vec![]),
            egress: None,
        },
    );
    bed.send(FORWARD, &to_b(OUTSIDE.parse().unwrap(), 40_000));
    assert!(bed.got_nothing());
    assert_eq!(bed.dropped(DropReason::PolicyDenied), 1);
    assert_eq!(bed.counters().held.get(), 0);
}

#[test]
fn flow_of_a_pod_that_is_known_no_more_is_cut_and_not_held() {
    let mut bed = bed();
    learn(&mut bed, remote(), REMOTE);
    let mut conn = Conn::between(FORWARD, remote(), B.key(), B.v4(), 5000);
    conn.open(&mut bed);
    bed.known.clear();
    bed.ipcache_generation += 1;
    bed.publish();
    conn.client_sends(&mut bed, DATA, b"x");
    assert!(bed.got_nothing());
    assert_eq!((held(&bed), bed.dropped(DropReason::PolicyDenied)), (0, 1));
}

#[test]
fn one_packet_of_a_flow_is_held_and_the_copies_are_counted() {
    let mut bed = bed();
    for _ in 0..3 {
        bed.send(FORWARD, &to_b(remote(), 40_000));
    }
    assert_eq!((held(&bed), bed.dropped(DropReason::HeldDuplicate)), (1, 2));
    learn(&mut bed, remote(), REMOTE);
    bed.got_one(B.key());
    bed.assert_no_frame_lost();
}

#[test]
fn packet_that_comes_with_the_news_does_not_overtake_the_held_one() {
    let mut bed = bed();
    bed.set(
        B,
        Rules {
            ingress: Some(vec![(Peers::Identities([REMOTE].into()), 0, Allow::Plain)]),
            egress: None,
        },
    );
    bed.send(FORWARD, &udp(remote(), 9, B.v4(), 7, b"first"));
    let second = udp(remote(), 9, B.v4(), 7, b"second");
    // On the ring before the worker sees the snapshot.
    bed.queue(FORWARD, &second);
    learn(&mut bed, remote(), REMOTE);
    let got: Vec<Vec<u8>> = bed
        .got(B.key())
        .into_iter()
        .map(|frame| Seen::new(frame).payload().to_vec())
        .collect();
    assert_eq!(got, [b"first".to_vec(), b"second".to_vec()]);
}

#[test]
fn packets_beyond_an_endpoints_limit_are_refused_and_others_are_held() {
    let mut bed = bed_with(HoldLimits {
        held: 3,
        held_per_endpoint: 2,
        timeout_ns: u64::MAX,
    });
    for port in 0..4 {
        bed.send(FORWARD, &to_b(remote(), 40_000 + port));
    }
    assert_eq!((held(&bed), bed.dropped(DropReason::HoldCapacity)), (2, 2));
    for port in 0..2 {
        let mut conn = Conn::between(A.key(), A.v4(), FORWARD, remote(), 5000);
        conn.client.port += port;
        conn.client_sends(&mut bed, TcpFlags::SYN, &[]);
    }
    assert_eq!((held(&bed), bed.dropped(DropReason::HoldCapacity)), (3, 3));
    learn(&mut bed, remote(), REMOTE);
    assert_eq!((bed.got(B.key()).len(), bed.got(FORWARD).len()), (2, 1));
    bed.assert_no_frame_lost();
}

#[test]
fn what_is_held_goes_with_the_endpoint_that_sent_it_or_would_get_it() {
    let mut bed = bed();
    bed.send(FORWARD, &to_b(remote(), 40_000));
    Conn::between(A.key(), A.v4(), FORWARD, remote(), 5000).client_sends(&mut bed, TcpFlags::SYN, &[]);
    assert_eq!(held(&bed), 2);
    bed.detach(B.key());
    assert_eq!((held(&bed), bed.dropped(DropReason::StaleEndpoint)), (1, 1));
    bed.detach(A.key());
    assert_eq!((held(&bed), bed.dropped(DropReason::StaleEndpoint)), (0, 2));
    bed.assert_no_frame_lost();
}

#[test]
fn first_packet_to_a_service_of_unknown_pods_is_translated_when_they_become_known() {
    let mut bed = bed();
    bed.serve(&[]);
    bed.services[0].backends = vec![Backend {
        addr: remote(),
        port: 5000,
    }];
    bed.publish();
    let vip: IpAddr = VIP.parse().unwrap();
    let mut conn = Conn::between(A.key(), A.v4(), FORWARD, vip, 80);
    conn.client_sends(&mut bed, TcpFlags::SYN, &[]);
    assert_eq!((held(&bed), bed.counters().dropped_total()), (1, 0));
    learn(&mut bed, remote(), REMOTE);
    let seen = bed.got_one(FORWARD);
    assert_eq!(
        (seen.ip.destination, seen.tcp().destination_port),
        (remote(), 5000)
    );
    let answer = Conn::between(A.key(), A.v4(), FORWARD, remote(), 5000);
    let mut answer = answer;
    answer.client.seq = conn.client.seq;
    answer.server_sends(&mut bed, SYN_ACK, &[]);
    assert_eq!(bed.got_one(A.key()).ip.source, vip);
}

#[test]
fn audited_denial_of_an_unknown_pod_passes_at_once() {
    let mut bed = bed();
    bed.audits = vec![B];
    bed.publish();
    bed.send(FORWARD, &to_b(remote(), 40_000));
    bed.got_one(B.key());
    assert_eq!(bed.counters().held.get(), 0);
}

/// Policy knows a pod before its interface is attached: who used its address from elsewhere must not become that pod meanwhile.
#[test]
fn held_packet_from_an_address_that_becomes_an_endpoints_is_dropped_as_forged() {
    for from in [remote(), remote6()] {
        let mut bed = bed();
        bed.send(FORWARD, &to_b(from, 40_000));
        assert_eq!(held(&bed), 1);
        bed.local.push(from);
        learn(&mut bed, from, REMOTE);
        assert!(bed.got_nothing());
        assert_eq!((held(&bed), bed.dropped(DropReason::SpoofedEndpoint)), (0, 1));
        // Nor does a packet that comes only now.
        bed.send(FORWARD, &to_b(from, 40_001));
        assert!(bed.got_nothing());
        assert_eq!(bed.dropped(DropReason::SpoofedEndpoint), 2);
        bed.assert_no_frame_lost();
    }
}
