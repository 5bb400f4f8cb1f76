//! What reaches whom, and what a router does to it.

use std::net::IpAddr;

use policy::DropReason;
use sluice_datapath::wire::packet::{IcmpBody, L4};
use sluice_datapath::wire::tcp::{Tcp, TcpFlags};

use crate::bed::*;

#[test]
fn tcp_connection_opens_and_carries_data_in_both_families() {
    for mut conn in [Conn::new(A, B, 80), Conn::new6(A, B, 80)] {
        let mut bed = Bed::new();
        conn.open(&mut bed);
        conn.client_sends(&mut bed, DATA, b"ping");
        assert_eq!(bed.got_one(B.key()).payload(), b"ping");
        conn.server_sends(&mut bed, DATA, b"pong");
        assert_eq!(bed.got_one(A.key()).payload(), b"pong");
        bed.assert_no_frame_lost();
    }
}

#[test]
fn forwarded_packet_has_the_receivers_macs_and_one_hop_less() {
    let mut bed = Bed::new();
    bed.send(A.key(), &udp(A.v4(), 1000, B.v4(), 53, b"x"));
    let seen = bed.got_one(B.key());
    assert_eq!(
        (seen.ip.ethernet.destination, seen.ip.ethernet.source, seen.ip.ttl),
        (B.mac(), GATEWAY, 63)
    );
}

#[test]
fn partial_checksum_is_completed() {
    let mut bed = Bed::new();
    for mut packet in [
        udp(A.v4(), 1000, B.v4(), 53, b"odd"),
        udp(A.v6(), 1000, B.v6(), 53, b"even"),
    ] {
        make_partial(&mut packet);
        bed.send(A.key(), &packet);
        // `Seen` verifies the checksum.
        bed.got_one(B.key());
    }
}

#[test]
fn jumbo_packet_crosses_as_a_chain_of_frames() {
    let mut bed = Bed::new();
    for pod in [A, B] {
        bed.detach(pod.key());
        bed.attach(sluice_datapath::interface::InterfaceConfig {
            mtu: 61_440,
            ..pod.config()
        });
    }
    let payload: Vec<u8> = (0..40_000_u32).map(|n| (n % 251) as u8).collect();
    let mut packet = udp(A.v4(), 1000, B.v4(), 53, &payload);
    bed.send(A.key(), &packet);
    assert_eq!(bed.got_one(B.key()).payload(), payload);
    make_partial(&mut packet);
    bed.send(A.key(), &packet);
    assert_eq!(bed.got_one(B.key()).payload(), payload);
    bed.assert_no_frame_lost();
}

#[test]
fn ping_and_its_reply_pass_in_both_families() {
    let mut bed = Bed::new();
    for (a, b) in [(A.v4(), B.v4()), (A.v6(), B.v6())] {
        bed.send(A.key(), &ping(a, b, false));
        bed.got_one(B.key());
        bed.send(B.key(), &ping(b, a, true));
        bed.got_one(A.key());
    }
}

#[test]
fn packet_to_elsewhere_goes_to_the_forward_pair_and_its_reply_comes_back() {
    let mut bed = Bed::new();
    let outside: IpAddr = OUTSIDE.parse().unwrap();
    bed.send(A.key(), &udp(A.v4(), 1000, outside, 53, b"query"));
    assert_eq!(bed.got_one(FORWARD).payload(), b"query");
    bed.send(FORWARD, &udp(outside, 53, A.v4(), 1000, b"answer"));
    assert_eq!(bed.got_one(A.key()).payload(), b"answer");
}

#[test]
fn packet_to_the_node_goes_to_the_host_pair() {
    let mut bed = Bed::new();
    let node: IpAddr = NODE.parse().unwrap();
    bed.send(A.key(), &udp(A.v4(), 1000, node, 53, b"query"));
    bed.got_one(HOST);
    bed.send(HOST, &udp(node, 53, A.v4(), 1000, b"answer"));
    bed.got_one(A.key());
}

#[test]
fn large_packet_is_refused_and_the_sender_told_the_mtu() {
    let mut bed = Bed::new();
    bed.detach(B.key());
    bed.attach(sluice_datapath::interface::InterfaceConfig {
        mtu: 1280,
        ..B.config()
    });
    let big = vec![0; 1400];
    bed.send(A.key(), &udp(A.v4(), 1000, B.v4(), 53, &big));
    let seen = bed.got_one(A.key());
    assert!(
        matches!(
            seen.ip.l4,
            L4::Icmp {
                kind: 3,
                code: 4,
                body: IcmpBody::Error(_)
            }
        ),
        "{:?}",
        seen.ip
    );
    assert_eq!(seen.packet()[26..28], 1280_u16.to_be_bytes());
    bed.send(A.key(), &udp(A.v6(), 1000, B.v6(), 53, &big));
    let seen = bed.got_one(A.key());
    assert!(
        matches!(
            seen.ip.l4,
            L4::Icmp {
                kind: 2,
                code: 0,
                body: IcmpBody::Error(_)
            }
        ),
        "{:?}",
        seen.ip
    );
    assert_eq!(bed.dropped(DropReason::FragmentationNeeded), 2);
    assert!(bed.got_nothing());
}

#[test]
fn last_hop_is_refused_and_the_sender_told() {
    let mut bed = Bed::new();
    let mut packet = udp(A.v6(), 1000, B.v6(), 53, b"x");
    packet[7] = 1;
    bed.send(A.key(), &packet);
    assert!(matches!(
        bed.got_one(A.key()).ip.l4,
        L4::Icmp { kind: 3, code: 0, .. }
    ));
    assert_eq!(bed.dropped(DropReason::TtlExceeded), 1);
    assert!(bed.got_nothing());
}

#[test]
fn mss_is_lowered_to_the_path_in_both_handshake_segments() {
    let mut bed = Bed::new();
    let conn = Conn::new(A, B, 80);
    let with_mss = |mut packet: Vec<u8>| {
        // The timestamps option of `Conn` is NOP NOP TS(10): the first four bytes become an MSS option of 9000.
        packet[40..44].copy_from_slice(&[2, 4, 0x23, 0x28]);
        packet[44..52].fill(1);
        make_partial(&mut packet);
        packet
    };
    let mss = |seen: &Seen| {
        let l4 = &seen.frame[seen.ip.l4_offset()..];
        Tcp::parse(l4, l4.len()).unwrap().scan_options().unwrap().mss
    };
    bed.send(A.key(), &with_mss(conn.by_client(TcpFlags::SYN, &[])));
    assert_eq!(mss(&bed.got_one(B.key())), Some(1460));
    let mut conn = conn;
    conn.client.seq = conn.client.seq.wrapping_add(1);
    bed.send(B.key(), &with_mss(conn.by_server(SYN_ACK, &[])));
    assert_eq!(mss(&bed.got_one(A.key())), Some(1460));
}

#[test]
fn service_address_becomes_a_backend_and_replies_come_from_the_service() {
    let mut bed = Bed::new();
    bed.serve(&[B]);
    let vip: IpAddr = VIP.parse().unwrap();
    let mut conn = Conn::between(A.key(), A.v4(), B.key(), vip, 80);
    conn.client_sends(&mut bed, TcpFlags::SYN, &[]);
    let seen = bed.got_one(B.key());
    assert_eq!((seen.ip.destination, seen.tcp().destination_port), (B.v4(), 5000));
    let mut back = conn;
    (back.server.addr, back.server.port) = (B.v4(), 5000);
    back.server_sends(&mut bed, SYN_ACK, &[]);
    let seen = bed.got_one(A.key());
    assert_eq!((seen.ip.source, seen.tcp().source_port), (vip, 80));
    assert_eq!(
        (seen.ip.destination, seen.tcp().destination_port),
        (A.v4(), 40_000)
    );
}

#[test]
fn pod_reaches_itself_through_its_service_even_when_all_is_denied() {
    let mut bed = Bed::new();
    bed.serve(&[A]);
    bed.set(
        A,
        Rules {
            ingress: Some(vec![]),
            egress: Some(vec![]),
        },
    );
    let vip: IpAddr = VIP.parse().unwrap();
    let mut conn = Conn::between(A.key(), A.v4(), A.key(), vip, 80);
    conn.client_sends(&mut bed, TcpFlags::SYN, &[]);
    let seen = bed.got_one(A.key());
    assert_eq!((seen.ip.destination, seen.tcp().destination_port), (A.v4(), 5000));
    assert_ne!(seen.ip.source, A.v4());
    let mut back = conn;
    (back.server.addr, back.server.port) = (A.v4(), 5000);
    back.client.addr = seen.ip.source;
    back.server_sends(&mut bed, SYN_ACK, &[]);
    let seen = bed.got_one(A.key());
    assert_eq!((seen.ip.source, seen.ip.destination), (vip, A.v4()));
}

#[test]
fn icmp_error_about_a_flow_reaches_its_sender_through_the_service() {
    let mut bed = Bed::new();
    bed.serve(&[B]);
    let vip: IpAddr = VIP.parse().unwrap();
    let mut conn = Conn::between(A.key(), A.v4(), B.key(), vip, 80);
    conn.client_sends(&mut bed, TcpFlags::SYN, &[]);
    let seen = bed.got_one(B.key());
    // B: port unreachable, about what it got.
    let quote = [&[0; 4], &seen.packet()[..28]].concat();
    bed.send(B.key(), &icmp(B.v4(), A.v4(), 3, 3, &quote));
    let seen = bed.got_one(A.key());
    let L4::Icmp {
        body: IcmpBody::Error(quoted),
        ..
    } = seen.ip.l4
    else {
        panic!("{:?}", seen.ip)
    };
    assert_eq!((quoted.source, quoted.destination), (A.v4(), vip));
}

#[test]
fn arp_and_neighbour_solicitation_are_answered_with_the_gateways_mac() {
    let mut bed = Bed::new();
    let IpAddr::V4(own) = A.v4() else { unreachable!() };
    let arp = arp_request(A.mac(), own.octets(), [10, 244, 0, 1]);
    bed.inject(A.key(), &arp);
    let reply = bed.got(A.key()).remove(0);
    assert_eq!(
        (&reply[20..22], &reply[22..28], &reply[28..32]),
        (&[0, 2][..], &GATEWAY.0[..], &[10, 244, 0, 1][..])
    );
    assert_eq!(
        (bed.counters().answered.get(), bed.counters().dropped_total()),
        (1, 0)
    );

    bed.inject(A.key(), &neighbour_solicitation(A, A.mac()));
    let reply = Seen::new(bed.got(A.key()).remove(0));
    assert!(matches!(
        reply.ip.l4,
        L4::Icmp {
            kind: 136,
            body: IcmpBody::NeighbourDiscovery,
            ..
        }
    ));
    bed.assert_no_frame_lost();
}

pub fn arp_request(mac: sluice_datapath::interface::MacAddr, sender: [u8; 4], target: [u8; 4]) -> Vec<u8> {
    let mut arp = [
        &[0xff; 6][..],
        &mac.0,
        &[8, 6, 0, 1, 8, 0, 6, 4, 0, 1],
        &mac.0,
        &sender,
        &[0; 6],
        &target,
    ]
    .concat();
    arp.resize(60, 0);
    arp
}

pub fn neighbour_solicitation(from: Pod, claimed: sluice_datapath::interface::MacAddr) -> Vec<u8> {
    let gateway: IpAddr = "fd00:10:244::1".parse().unwrap();
    let IpAddr::V6(target) = gateway else {
        unreachable!()
    };
    let group = sluice_datapath::wire::nd::solicited_node(target);
    let body = [&[0; 4][..], &target.octets(), &[1, 1], &claimed.0].concat();
    let mut packet = icmp(from.v6(), group.into(), 135, 0, &body);
    packet[7] = 255;
    frame(
        from.mac(),
        sluice_datapath::wire::nd::multicast_mac(group),
        &packet,
    )
}
