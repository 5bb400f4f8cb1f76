//! What must not get through, one test per attack.

use std::net::IpAddr;

use policy::{DropReason, Identity, Peers};
use sluice_datapath::interface::MacAddr;
use sluice_datapath::wire::tcp::TcpFlags;

use crate::bed::*;
use crate::forwarding::{arp_request, neighbour_solicitation};

/// Sends a frame that must end here, for this reason and no other.
fn dies(bed: &mut Bed, from: policy::EndpointKey, frame: &[u8], reason: DropReason) {
    let before = bed.counters().dropped_total();
    let reasons = bed.dropped(reason);
    bed.inject(from, frame);
    assert!(bed.got_nothing(), "{reason:?}: something came out");
    assert_eq!(
        bed.counters().dropped_total(),
        before + 1,
        "{reason:?}: not dropped once"
    );
    assert_eq!(
        bed.dropped(reason),
        reasons + 1,
        "dropped for another reason than {reason:?}: {:?}",
        bed.events()
    );
    bed.assert_no_frame_lost();
}

fn packet_dies(bed: &mut Bed, from: policy::EndpointKey, packet: &[u8], reason: DropReason) {
    let framed = if from.slot.is_endpoint() {
        frame(Pod(from.slot.0).mac(), GATEWAY, packet)
    } else {
        frame(MacAddr([2, 0, 0, 0, 1, 1]), MacAddr([2, 0, 0, 0, 1, 2]), packet)
    };
    dies(bed, from, &framed, reason);
}

#[test]
fn spoofed_source_mac_and_addresses_are_dropped() {
    let mut bed = Bed::new();
    let good = udp(A.v4(), 1, B.v4(), 2, b"x");
    dies(
        &mut bed,
        A.key(),
        &frame(C.mac(), GATEWAY, &good),
        DropReason::InvalidSourceIp,
    );
    packet_dies(
        &mut bed,
        A.key(),
        &udp(C.v4(), 1, B.v4(), 2, b"x"),
        DropReason::InvalidSourceIp,
    );
    packet_dies(
        &mut bed,
        A.key(),
        &udp(C.v6(), 1, B.v6(), 2, b"x"),
        DropReason::InvalidSourceIp,
    );
    let link_local = IpAddr::V6(A.mac().link_local());
    packet_dies(
        &mut bed,
        A.key(),
        &udp(link_local, 1, B.v6(), 2, b"x"),
        DropReason::InvalidSourceIp,
    );
}

#[test]
fn link_local_address_of_a_pod_is_no_way_past_its_policy() {
    let mut bed = Bed::new();
    let link_local = IpAddr::V6(B.mac().link_local());
    packet_dies(
        &mut bed,
        A.key(),
        &udp(A.v6(), 1, link_local, 2, b"x"),
        DropReason::Unroutable,
    );
    let outside: IpAddr = OUTSIDE6.parse().unwrap();
    packet_dies(
        &mut bed,
        FORWARD,
        &udp(outside, 1, link_local, 2, b"x"),
        DropReason::Unroutable,
    );
}

#[test]
fn forged_arp_and_neighbour_discovery_are_dropped() {
    let mut bed = Bed::new();
    let (IpAddr::V4(a), IpAddr::V4(c)) = (A.v4(), C.v4()) else {
        unreachable!()
    };
    let mut other_mac = arp_request(A.mac(), a.octets(), [10, 244, 0, 1]);
    other_mac[22..28].copy_from_slice(&C.mac().0);
    dies(&mut bed, A.key(), &other_mac, DropReason::ForgedNeighbour);
    let other_ip = arp_request(A.mac(), c.octets(), [10, 244, 0, 1]);
    dies(&mut bed, A.key(), &other_ip, DropReason::ForgedNeighbour);
    let claims_other = neighbour_solicitation(A, C.mac());
    dies(&mut bed, A.key(), &claims_other, DropReason::ForgedNeighbour);
}

#[test]
fn rogue_router_advertisement_and_redirect_are_dropped() {
    let mut bed = Bed::new();
    for (kind, body) in [
        (134, vec![64, 0, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0]),
        (137, vec![0; 36]),
    ] {
        let mut packet = icmp(A.v6(), "ff02::1".parse().unwrap(), kind, 0, &body);
        packet[7] = 255;
        let framed = frame(A.mac(), MacAddr([0x33, 0x33, 0, 0, 0, 1]), &packet);
        dies(&mut bed, A.key(), &framed, DropReason::ForbiddenIcmpv6);
    }
}

#[test]
fn address_of_a_local_endpoint_never_enters_from_outside() {
    let mut bed = Bed::guarded(Allow::Plain);
    for pair in [FORWARD, HOST] {
        packet_dies(
            &mut bed,
            pair,
            &udp(A.v4(), 1, B.v4(), 5000, b"x"),
            DropReason::SpoofedEndpoint,
        );
    }
}

#[test]
fn node_address_on_the_forward_pair_is_world_and_not_host() {
    let mut bed = Bed::guarded(Allow::Plain);
    let node: IpAddr = NODE.parse().unwrap();
    let conn = Conn::between(FORWARD, node, B.key(), B.v4(), 5000);
    packet_dies(
        &mut bed,
        FORWARD,
        &conn.by_client(TcpFlags::SYN, &[]),
        DropReason::PolicyDenied,
    );
    let events = bed.events();
    let last = events.last().unwrap();
    assert_eq!(last.source_identity, Identity::WORLD);
}

/// Both families, at the node's address: what the client's is cannot be seen any more.
fn masqueraded_to_b() -> [Vec<u8>; 2] {
    [(NODE, B.v4()), (NODE6, B.v6())].map(|(node, to)| {
        let conn = Conn::between(FORWARD, node.parse().unwrap(), B.key(), to, 5000);
        conn.by_client(TcpFlags::SYN, &[])
    })
}

/// A bed that knows the widest prefixes as policy does once a rule names them, and B with rules on them.
fn with_widest_prefixes(allow: &[(Identity, Allow)]) -> Bed {
    let mut bed = Bed::new();
    bed.known.push((NODE6.parse().unwrap(), Identity::HOST));
    bed.prefixes = vec![
        ("0.0.0.0/0".parse().unwrap(), EVERYWHERE),
        ("::/0".parse().unwrap(), EVERYWHERE6),
    ];
    bed.ipcache_generation += 1;
    let ingress = allow
        .iter()
        .map(|(identity, allow)| (Peers::Identities([*identity].into()), 5000, allow.clone()));
    bed.set(
        B,
        Rules {
            ingress: Some(ingress.collect()),
            egress: None,
        },
    );
    bed
}

const EVERYWHERE: Identity = Identity(Identity::FIRST_LOCAL.0 + 1);
const EVERYWHERE6: Identity = Identity(Identity::FIRST_LOCAL.0 + 2);

#[test]
fn masqueraded_client_does_not_escape_a_denial_of_everything_outside() {
    let mut bed = with_widest_prefixes(&[
        (EVERYWHERE, Allow::Deny),
        (EVERYWHERE6, Allow::Deny),
        // What the world may is allowed as well: the prefixes are parts of it.
        (Identity::WORLD, Allow::Plain),
        (EVERYWHERE, Allow::Plain),
        (EVERYWHERE6, Allow::Plain),
    ]);
    for (packet, identity) in masqueraded_to_b().iter().zip([EVERYWHERE, EVERYWHERE6]) {
        packet_dies(&mut bed, FORWARD, packet, DropReason::PolicyDenyRule);
        assert_eq!(bed.events().last().unwrap().source_identity, identity);
    }
}

#[test]
fn masqueraded_client_is_let_in_by_the_widest_prefix_of_its_family_only() {
    for (identity, reached) in [(EVERYWHERE, [true, false]), (EVERYWHERE6, [false, true])] {
        let mut bed = with_widest_prefixes(&[(identity, Allow::Plain)]);
        for (packet, reached) in masqueraded_to_b().iter().zip(reached) {
            if reached {
                bed.send(FORWARD, packet);
                assert_eq!(bed.got_one(B.key()).tcp().flags, TcpFlags::SYN);
            } else {
                packet_dies(&mut bed, FORWARD, packet, DropReason::PolicyDenied);
            }
        }
    }
}

#[test]
fn masqueraded_flow_is_judged_again_when_a_rule_comes_to_name_the_widest_prefix() {
    let mut bed = with_widest_prefixes(&[(Identity::WORLD, Allow::Plain)]);
    let prefixes = std::mem::take(&mut bed.prefixes);
    bed.ipcache_generation += 1;
    bed.publish();
    let node: IpAddr = NODE.parse().unwrap();
    let mut conn = Conn::between(FORWARD, node, B.key(), B.v4(), 5000);
    conn.open(&mut bed);
    bed.prefixes = prefixes;
    bed.ipcache_generation += 1;
    bed.publish();
    packet_dies(
        &mut bed,
        FORWARD,
        &conn.by_client(TcpFlags::ACK, b"x"),
        DropReason::PolicyDenied,
    );
}

#[test]
fn multicast_and_broadcast_are_dropped() {
    let mut bed = Bed::new();
    packet_dies(
        &mut bed,
        A.key(),
        &udp(A.v4(), 1, "224.0.0.251".parse().unwrap(), 2, b"x"),
        DropReason::Multicast,
    );
    packet_dies(
        &mut bed,
        A.key(),
        &udp(A.v4(), 1, "255.255.255.255".parse().unwrap(), 2, b"x"),
        DropReason::Multicast,
    );
    let group = MacAddr([0xff; 6]);
    dies(
        &mut bed,
        A.key(),
        &frame(A.mac(), group, &udp(A.v4(), 1, B.v4(), 2, b"x")),
        DropReason::Multicast,
    );
}

#[test]
fn icmp_error_forged_by_a_third_pod_is_dropped() {
    let mut bed = Bed::new();
    let mut conn = Conn::new(A, B, 80);
    conn.client_sends(&mut bed, TcpFlags::SYN, &[]);
    let seen = bed.got_one(B.key());
    let quote = [&[0; 4], &seen.packet()[..28]].concat();
    packet_dies(
        &mut bed,
        C.key(),
        &icmp(C.v4(), A.v4(), 3, 3, &quote),
        DropReason::UnrelatedIcmp,
    );
    // The real party's error still passes.
    bed.send(B.key(), &icmp(B.v4(), A.v4(), 3, 3, &quote));
    bed.got_one(A.key());
}

#[test]
fn icmp_error_about_no_flow_is_dropped() {
    let mut bed = Bed::new();
    let quoted = udp(A.v4(), 1, B.v4(), 2, b"never sent");
    let quote = [&[0; 4], &quoted[..28]].concat();
    packet_dies(
        &mut bed,
        B.key(),
        &icmp(B.v4(), A.v4(), 3, 3, &quote),
        DropReason::UnrelatedIcmp,
    );
}

#[test]
fn midstream_segment_begins_no_flow_and_its_pod_is_reset() {
    let mut bed = Bed::guarded(get("/"));
    let conn = Conn::new(A, B, 5000);
    bed.send(
        A.key(),
        &conn.by_client(DATA, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"),
    );
    assert!(bed.got_one(A.key()).tcp().flags.has(TcpFlags::RST));
    assert!(bed.got_nothing());
    assert_eq!(bed.dropped(DropReason::Midstream), 1);
}

#[test]
fn source_port_of_a_server_does_not_make_a_flow_a_reply() {
    let mut bed = Bed::guarded(Allow::Plain);
    let mut conn = Conn::new(C, B, 40_000);
    conn.client.port = 5000;
    let framed = conn.by_client(TcpFlags::SYN, &[]);
    packet_dies(&mut bed, C.key(), &framed, DropReason::PolicyDenied);
}

#[test]
fn reply_by_another_interface_is_dropped() {
    let mut bed = Bed::new();
    let outside: IpAddr = OUTSIDE.parse().unwrap();
    bed.send(A.key(), &udp(A.v4(), 1000, outside, 53, b"query"));
    bed.got_one(FORWARD);
    packet_dies(
        &mut bed,
        HOST,
        &udp(outside, 53, A.v4(), 1000, b"answer"),
        DropReason::WrongInterface,
    );
}

#[test]
fn bad_checksum_is_dropped() {
    let mut bed = Bed::new();
    let mut packet = udp(A.v4(), 1, B.v4(), 2, b"x");
    packet[26] ^= 0x55;
    packet_dies(&mut bed, A.key(), &packet, DropReason::BadChecksum);
    let mut packet = udp(A.v4(), 1, B.v4(), 2, b"x");
    packet[10] ^= 1;
    packet_dies(&mut bed, A.key(), &packet, DropReason::BadChecksum);
}

#[test]
fn truncated_headers_are_dropped() {
    let mut bed = Bed::new();
    let conn = Conn::new(A, B, 80).by_client(TcpFlags::SYN, &[]);
    let framed = frame(A.mac(), GATEWAY, &conn);
    for len in 1..framed.len() {
        let before = bed.counters().dropped_total();
        bed.inject(A.key(), &framed[..len]);
        assert!(bed.got_nothing(), "{len} bytes came out");
        assert_eq!(bed.counters().dropped_total(), before + 1, "{len} bytes");
    }
    bed.assert_no_frame_lost();
}

#[test]
fn ip_options_are_dropped() {
    let mut bed = Bed::new();
    let plain = udp(A.v4(), 1, B.v4(), 2, b"x");
    let mut packet = [&plain[..20], &[0x83, 7, 4, 10, 0, 0, 1, 0], &plain[20..]].concat();
    packet[0] = 0x47;
    let len = u16::try_from(packet.len()).unwrap();
    packet[2..4].copy_from_slice(&len.to_be_bytes());
    packet[10..12].fill(0);
    let sum = sluice_datapath::wire::checksum::Sum::ZERO
        .append(&packet[..28])
        .checksum();
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    packet_dies(&mut bed, A.key(), &packet, DropReason::IpOptions);
}

#[test]
fn chain_of_extension_headers_is_dropped() {
    let mut bed = Bed::new();
    let plain = udp(A.v6(), 1, B.v6(), 2, b"x");
    let header = [60, 0, 1, 4, 0, 0, 0, 0];
    let mut packet = plain[..40].to_vec();
    packet[6] = 60;
    for _ in 0..20 {
        packet.extend_from_slice(&header);
    }
    packet.extend_from_slice(&[17, 0, 1, 4, 0, 0, 0, 0]);
    packet.extend_from_slice(&plain[40..]);
    let len = u16::try_from(packet.len() - 40).unwrap();
    packet[4..6].copy_from_slice(&len.to_be_bytes());
    packet_dies(&mut bed, A.key(), &packet, DropReason::InvalidExtensionHeader);
}

#[test]
fn impossible_tcp_flags_are_dropped() {
    let mut bed = Bed::new();
    let conn = Conn::new(A, B, 80);
    for flags in [0, 0x3, 0x6, 0x1, 0x29, 0x3f] {
        let packet = conn.by_client(TcpFlags(flags), &[]);
        packet_dies(&mut bed, A.key(), &packet, DropReason::InvalidTcp);
    }
}

#[test]
fn endpoint_without_a_compiled_policy_neither_sends_nor_receives() {
    let mut bed = Bed::new();
    let late = Pod(11);
    bed.attach(late.config());
    packet_dies(
        &mut bed,
        late.key(),
        &udp(late.v4(), 1, B.v4(), 2, b"x"),
        DropReason::EndpointNotReady,
    );
    packet_dies(
        &mut bed,
        A.key(),
        &udp(A.v4(), 1, late.v4(), 2, b"x"),
        DropReason::EndpointNotReady,
    );
}

#[test]
fn flows_beyond_an_endpoints_quota_are_dropped_and_others_go_on() {
    let mut bed = Bed::with(sluice_datapath::graph::GraphConfig {
        flows_per_endpoint: 10,
        ..Default::default()
    });
    for port in 0..10 {
        bed.send(A.key(), &udp(A.v4(), 1000 + port, B.v4(), 53, b"x"));
        bed.got_one(B.key());
    }
    packet_dies(
        &mut bed,
        A.key(),
        &udp(A.v4(), 2000, B.v4(), 53, b"x"),
        DropReason::FlowQuota,
    );
    bed.send(C.key(), &udp(C.v4(), 1000, B.v4(), 53, b"x"));
    bed.got_one(B.key());
}

/// Cuts an IPv4 packet's payload into fragments of `size` bytes each (a multiple of 8).
fn fragments(packet: &[u8], size: usize) -> Vec<Vec<u8>> {
    let payload = &packet[20..];
    let count = payload.len().div_ceil(size);
    (0..count)
        .map(|n| {
            let part = &payload[n * size..payload.len().min((n + 1) * size)];
            fragment(packet, n * size, n + 1 < count, part)
        })
        .collect()
}

fn fragment(packet: &[u8], offset: usize, more: bool, part: &[u8]) -> Vec<u8> {
    let mut fragment = [&packet[..20], part].concat();
    let len = u16::try_from(fragment.len()).unwrap();
    fragment[2..4].copy_from_slice(&len.to_be_bytes());
    fragment[4..6].copy_from_slice(&[0x12, 0x34]);
    let field = u16::try_from(offset / 8).unwrap() | if more { 0x2000 } else { 0 };
    fragment[6..8].copy_from_slice(&field.to_be_bytes());
    fragment[10..12].fill(0);
    let sum = sluice_datapath::wire::checksum::Sum::ZERO
        .append(&fragment[..20])
        .checksum();
    fragment[10..12].copy_from_slice(&sum.to_be_bytes());
    fragment
}

#[test]
fn fragments_follow_their_first_one_in_any_order() {
    for order in [[0, 1, 2], [2, 1, 0], [1, 0, 2]] {
        let mut bed = Bed::new();
        let parts = fragments(&udp(A.v4(), 1000, B.v4(), 53, &[5; 2000]), 800);
        assert_eq!(parts.len(), 3);
        for n in order {
            bed.send(A.key(), &parts[n]);
        }
        let got: usize = bed.got(B.key()).iter().map(|packet| packet.len() - 34).sum();
        assert_eq!(got, 2008);
        bed.assert_no_frame_lost();
    }
}

#[test]
fn fragments_of_a_denied_flow_are_dropped_with_it() {
    let mut bed = Bed::guarded(Allow::Plain);
    for part in fragments(&udp(A.v4(), 1000, B.v4(), 53, &[5; 2000]), 800) {
        bed.send(A.key(), &part);
    }
    assert!(bed.got_nothing());
    assert_eq!(bed.counters().dropped_total(), 3);
}

#[test]
fn tiny_and_overlapping_fragments_are_dropped() {
    let mut bed = Bed::new();
    let tcp = Conn::new(A, B, 80).by_client(TcpFlags::SYN, &[]);
    packet_dies(
        &mut bed,
        A.key(),
        &fragment(&tcp, 0, true, &tcp[20..28]),
        DropReason::TinyFragment,
    );
    packet_dies(
        &mut bed,
        A.key(),
        &fragment(&tcp, 8, false, &tcp[28..]),
        DropReason::TinyFragment,
    );
    let whole = udp(A.v4(), 1000, B.v4(), 53, &[5; 2000]);
    bed.send(A.key(), &fragment(&whole, 0, true, &whole[20..820]));
    bed.got_one(B.key());
    packet_dies(
        &mut bed,
        A.key(),
        &fragment(&whole, 400, true, &whole[420..1220]),
        DropReason::FragmentOverlap,
    );
}

#[test]
fn early_fragments_that_wait_in_vain_hold_no_frames_after_their_sender_is_gone() {
    let mut bed = Bed::new();
    let parts = fragments(&udp(A.v4(), 1000, B.v4(), 53, &[5; 2000]), 800);
    bed.send(A.key(), &parts[1]);
    assert_eq!(bed.audit().held, 1);
    bed.assert_no_frame_lost();
    bed.detach(A.key());
    assert_eq!(bed.audit().held, 0);
    bed.assert_no_frame_lost();
}

#[test]
fn fragment_on_an_http_flow_is_dropped() {
    let mut bed = Bed::guarded(get("/"));
    let mut conn = Conn::new(A, B, 5000);
    conn.open(&mut bed);
    let packet = conn.by_client(DATA, &[b'x'; 100]);
    packet_dies(
        &mut bed,
        A.key(),
        &fragment(&packet, 0, true, &packet[20..84]),
        DropReason::FragmentUnsupported,
    );
}

#[test]
fn ack_to_a_service_begins_neither_flow_nor_translation() {
    let mut bed = Bed::new();
    bed.serve(&[B]);
    let conn = Conn::between(A.key(), A.v4(), B.key(), VIP.parse().unwrap(), 80);
    bed.send(A.key(), &conn.by_client(TcpFlags::ACK, &[]));
    let graph = bed.worker.graph();
    assert!(graph.conntrack().is_empty() && graph.translations().is_empty());
}

#[test]
fn pod_that_is_left_to_the_nodes_network_is_a_peer_and_no_local_endpoint_is_one() {
    // On this node, without an interface of sluice's: known by its address.
    let excluded: IpAddr = "10.244.0.77".parse().unwrap();
    let mut bed = Bed::guarded(Allow::Plain);
    bed.known.push((excluded, C.identity()));
    bed.ipcache_generation += 1;
    bed.set(
        B,
        Rules {
            ingress: Some(vec![(peer(C), 5000, Allow::Plain)]),
            egress: Some(vec![(peer(C), 80, Allow::Plain)]),
        },
    );
    let mut inwards = Conn::between(FORWARD, excluded, B.key(), B.v4(), 5000);
    inwards.open(&mut bed);
    let mut outwards = Conn::between(B.key(), B.v4(), FORWARD, excluded, 80);
    outwards.open(&mut bed);
    let refused = Conn::between(FORWARD, excluded, B.key(), B.v4(), 5001).by_client(TcpFlags::SYN, &[]);
    packet_dies(&mut bed, FORWARD, &refused, DropReason::PolicyDenied);
    // C's own interface is sluice's: its address never comes from elsewhere.
    let forged = Conn::between(FORWARD, C.v4(), B.key(), B.v4(), 5000).by_client(TcpFlags::SYN, &[]);
    packet_dies(&mut bed, FORWARD, &forged, DropReason::SpoofedEndpoint);
}
