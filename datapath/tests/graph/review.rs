//! Findings of a security review, one test each.

use std::net::IpAddr;

use policy::{DropReason, Protocol, Service, ServiceKey};
use sluice_datapath::conntrack::TcpState;
use sluice_datapath::flow::{FlowKey, Peer};
use sluice_datapath::graph::GraphConfig;
use sluice_datapath::wire::tcp::TcpFlags;

use crate::bed::*;

const GOOD: &[u8] = b"GET / HTTP/1.1\r\nHost: flask\r\n\r\n";

fn framed(packet: &[u8]) -> Vec<u8> {
    frame(A.mac(), GATEWAY, packet)
}

/// Puts packets of A into one batch.
fn burst(bed: &mut Bed, packets: &[Vec<u8>]) {
    for packet in packets {
        bed.wire(A.key()).send(&framed(packet));
    }
    bed.turn();
}

fn vip() -> IpAddr {
    VIP.parse().unwrap()
}

fn at(mut conn: Conn, seq: u32) -> Conn {
    conn.client.seq = seq;
    conn
}

/// What a server that keeps the first data takes from what it got: bytes from `first` on, in order.
fn taken(packets: Vec<Vec<u8>>, first: u32, stream: &mut Vec<u8>) {
    for packet in packets {
        let seen = Seen::new(packet);
        let tcp = seen.tcp();
        if tcp.flags.has(TcpFlags::SYN) || tcp.flags.has(TcpFlags::RST) {
            continue;
        }
        let offset = tcp.seq.wrapping_sub(first) as usize;
        if offset <= stream.len() && offset + seen.payload().len() > stream.len() {
            let new = stream.len() - offset;
            stream.extend_from_slice(&seen.payload()[new..]);
        }
    }
}

/// F1. A reset that the server ignores (wrong number) closes the flow here; a repeated SYN begins a second judgement of a
/// connection that the server already reads, opened by the SYN-ACK that the server repeated before.
#[test]
fn f1_forged_reset_and_repeated_syn_do_not_give_the_gate_a_second_view() {
    let mut bed = Bed::guarded(get("/"));
    let mut conn = Conn::new(A, B, 5000);
    let isn = conn.client.seq;
    let first = isn.wrapping_add(1);
    let mut stream = Vec::new();
    conn.client_sends(&mut bed, TcpFlags::SYN, &[]);
    bed.got(B.key());
    let syn_ack = conn.by_server(SYN_ACK, &[]);
    bed.send(B.key(), &syn_ack);
    bed.got(A.key());
    conn.server.seq = conn.server.seq.wrapping_add(1);
    let partial = b"GET /metrics HTTP/1.1";
    // One burst: SYN again (the server repeats its SYN-ACK), ACK, half a request line, a reset out of window, SYN again.
    burst(
        &mut bed,
        &[
            at(conn, isn).by_client(TcpFlags::SYN, &[]),
            at(conn, first).by_client(TcpFlags::ACK, &[]),
            at(conn, first).by_client(DATA, partial),
            at(conn, first.wrapping_sub(200_000)).by_client(TcpFlags::RST, &[]),
            at(conn, isn).by_client(TcpFlags::SYN, &[]),
        ],
    );
    taken(bed.got(B.key()), first, &mut stream);
    // The server's answers, in the order in which Linux sends them.
    bed.send(B.key(), &syn_ack);
    let acked = at(conn, first.wrapping_add(u32::try_from(partial.len()).unwrap()));
    bed.send(B.key(), &acked.by_server(TcpFlags::ACK, &[]));
    bed.got(A.key());
    // The same number of bytes, read differently by the gate: the server skips what it has.
    let second = b"GET / HTTP/1.1\r\nA: bb\r\nHost: flask\r\n\r\n";
    assert_eq!(&second[partial.len()..partial.len() + 2], b"\r\n");
    bed.send(A.key(), &at(conn, first).by_client(TcpFlags::ACK, &[]));
    bed.send(A.key(), &at(conn, first).by_client(DATA, second));
    taken(bed.got(B.key()), first, &mut stream);
    let text = String::from_utf8_lossy(&stream);
    assert!(
        !text.contains("/metrics HTTP/1.1\r\n"),
        "the server reads: {text:?}"
    );
}

/// F2. While a plain allow lifts the HTTP rules, nothing is judged; when they come back, the gate is behind the stream.
#[test]
fn f2_gate_that_was_lifted_does_not_come_back_out_of_step() {
    let mut bed = Bed::guarded(get("/"));
    let mut conn = Conn::new(A, B, 5000);
    conn.open(&mut bed);
    let fake = b"GET / HTTP/1.1\r\nHost: flask\r\nContent-Length: 999999\r\n\r\n";
    let begin = conn.client.seq;
    bed.set(
        B,
        Rules {
            ingress: Some(vec![(peer(A), 5000, Allow::Plain)]),
            egress: None,
        },
    );
    conn.client_sends(&mut bed, DATA, &[b'x'; 55][..fake.len().min(55)]);
    bed.got_one(B.key());
    conn.server_sends(&mut bed, TcpFlags::ACK, &[]);
    bed.got(A.key());
    bed.set(
        B,
        Rules {
            ingress: Some(vec![(peer(A), 5000, get("/"))]),
            egress: None,
        },
    );
    let sent = conn.client.seq.wrapping_sub(begin) as usize;
    assert_eq!(sent, fake.len(), "adjust the test");
    // Old bytes to the server, a request with a long body to the gate.
    bed.send(A.key(), &at(conn, begin).by_client(DATA, fake));
    bed.got(B.key());
    conn.client_sends(&mut bed, DATA, b"GET /metrics HTTP/1.1\r\nHost: flask\r\n\r\n");
    let reached = bed
        .got(B.key())
        .into_iter()
        .map(Seen::new)
        .any(|seen| seen.payload().starts_with(b"GET /metrics"));
    assert!(!reached, "a denied request reached the server");
}

/// F3. Two packets of one batch that become the same flow by different ways leave a translation that nobody forgets.
#[test]
fn f3_translation_of_a_refused_packet_is_forgotten() {
    let mut bed = Bed::new();
    bed.services = vec![udp_service(&[B])];
    bed.publish();
    for port in 0..100 {
        burst(
            &mut bed,
            &[
                udp(A.v4(), 1000 + port, B.v4(), 5000, b"straight"),
                udp(A.v4(), 1000 + port, vip(), 80, b"by the service"),
            ],
        );
    }
    bed.got(B.key());
    bed.detach(A.key());
    let graph = bed.worker.graph();
    assert_eq!((graph.conntrack().len(), graph.translations().len()), (0, 0));
}

fn udp_service(backends: &[Pod]) -> Service {
    let key = ServiceKey {
        addr: vip(),
        port: 80,
        protocol: Protocol::UDP,
    };
    service("bed/udp", key, backends)
}

/// F3b. The same with one packet: the straight connection is closed, a segment without SYN goes to the service.
#[test]
fn f3b_translation_of_a_stray_segment_is_forgotten() {
    let mut bed = Bed::new();
    bed.serve(&[B]);
    for port in 0..100 {
        let mut conn = Conn::new(A, B, 5000);
        conn.client.port = 20_000 + port;
        bed.send(A.key(), &conn.by_client(TcpFlags::SYN, &[]));
        bed.send(A.key(), &conn.by_client(TcpFlags::RST, &[]));
        (conn.server.addr, conn.server.port) = (vip(), 80);
        bed.send(A.key(), &conn.by_client(TcpFlags::ACK, &[]));
    }
    bed.detach(A.key());
    let graph = bed.worker.graph();
    assert_eq!((graph.conntrack().len(), graph.translations().len()), (0, 0));
}

/// Opens a connection to the service; returns the server's end, and whether the client's ACK reached it.
fn open_to_service(bed: &mut Bed, conn: &mut Conn) -> (Conn, bool) {
    conn.client_sends(bed, TcpFlags::SYN, &[]);
    let pod = if bed.got(B.key()).is_empty() { C } else { B };
    bed.got(C.key());
    let mut back = *conn;
    (back.server.key, back.server.addr, back.server.port) = (pod.key(), pod.v4(), 5000);
    back.server_sends(bed, SYN_ACK, &[]);
    bed.got_one(A.key());
    conn.server.seq = back.server.seq;
    conn.client_sends(bed, TcpFlags::ACK, &[]);
    (back, bed.got(pod.key()).len() == 1)
}

/// F4. A new connection from the port of a closed one, to the same backend, keeps its translation.
#[test]
fn f4_connection_on_a_reused_port_stays_with_its_backend() {
    let (mut reused, mut broken) = (0, 0);
    for _ in 0..60 {
        let mut bed = Bed::new();
        bed.serve(&[B, C]);
        let mut conn = Conn::between(A.key(), A.v4(), B.key(), vip(), 80);
        let (mut first, opened) = open_to_service(&mut bed, &mut conn);
        assert!(opened);
        first.client.seq = conn.client.seq;
        // The server closes, as with `Connection: close`; the client has no TIME-WAIT.
        first.server_sends(&mut bed, TcpFlags::FIN.with(TcpFlags::ACK), &[]);
        conn.server.seq = first.server.seq;
        conn.client_sends(&mut bed, TcpFlags::FIN.with(TcpFlags::ACK), &[]);
        for pod in [A, B, C] {
            bed.got(pod.key());
        }
        let mut again = Conn::between(A.key(), A.v4(), B.key(), vip(), 80);
        again.client.seq = 1_000_000;
        let (second, opened) = open_to_service(&mut bed, &mut again);
        if second.server.key == first.server.key {
            reused += 1;
            broken += u32::from(!opened);
        }
    }
    assert_eq!(
        broken, 0,
        "of {reused} connections to the same backend, this many lost it after the handshake"
    );
}

/// F5. One pod cannot take all translations.
#[test]
fn f5_one_pod_leaves_translations_to_others() {
    let mut bed = Bed::with(GraphConfig {
        flows: 4096,
        flows_per_endpoint: 256,
        translations: 256,
        affinities: 8,
        l7_flows: 64,
        ..GraphConfig::default()
    });
    bed.services = vec![udp_service(&[B])];
    bed.publish();
    for port in 0..300 {
        bed.send(A.key(), &udp(A.v4(), 1000 + port, vip(), 80, b"x"));
    }
    bed.got(B.key());
    for port in 0..32 {
        bed.send(C.key(), &udp(C.v4(), 1000 + port, vip(), 80, b"x"));
    }
    assert_eq!(bed.got(B.key()).len(), 32, "C has no translation left");
}

/// F6. One pod cannot take all L7 states.
#[test]
fn f6_one_pod_leaves_l7_states_to_others() {
    let mut bed = Bed::with(GraphConfig {
        flows: 4096,
        flows_per_endpoint: 1024,
        translations: 256,
        affinities: 8,
        l7_flows: 64,
        ..GraphConfig::default()
    });
    let rules = vec![(peer(A), 5000, get("/")), (peer(C), 5000, get("/"))];
    bed.set(
        B,
        Rules {
            ingress: Some(rules),
            egress: None,
        },
    );
    for port in 0..64 {
        let mut conn = Conn::new(A, B, 5000);
        conn.client.port = 20_000 + port;
        bed.send(A.key(), &conn.by_client(TcpFlags::SYN, &[]));
    }
    bed.got(B.key());
    for port in 0..8 {
        let mut conn = Conn::new(C, B, 5000);
        conn.client.port = 20_000 + port;
        conn.client_sends(&mut bed, TcpFlags::SYN, &[]);
    }
    assert_eq!(bed.got(B.key()).len(), 8, "C has no L7 state left");
}

/// F7. What the outside sends cannot take all flows.
#[test]
fn f7_outside_leaves_flows_to_pods() {
    let mut bed = Bed::with(GraphConfig {
        flows: 1024,
        flows_per_endpoint: 256,
        translations: 256,
        affinities: 8,
        l7_flows: 64,
        ..GraphConfig::default()
    });
    let outside: IpAddr = OUTSIDE.parse().unwrap();
    for port in 0..2048 {
        bed.send(FORWARD, &udp(outside, 1000 + port, B.v4(), 53, b"x"));
    }
    bed.got(B.key());
    bed.send(A.key(), &udp(A.v4(), 1000, C.v4(), 53, b"x"));
    assert_eq!(bed.got(C.key()).len(), 1, "A cannot begin a flow");
}

/// F8. One pod cannot use up the ICMP errors of others: their path MTU discovery depends on them.
#[test]
fn f8_one_pod_leaves_icmp_errors_to_others() {
    let mut bed = Bed::new();
    let mut last_hop = udp(A.v4(), 1000, B.v4(), 53, b"x");
    last_hop[8] = 1;
    last_hop[10..12].fill(0);
    let sum = sluice_datapath::wire::checksum::Sum::ZERO
        .append(&last_hop[..20])
        .checksum();
    last_hop[10..12].copy_from_slice(&sum.to_be_bytes());
    for _ in 0..2000 {
        bed.send(A.key(), &last_hop);
    }
    bed.detach(B.key());
    bed.attach(sluice_datapath::interface::InterfaceConfig {
        mtu: 1280,
        ..B.config()
    });
    let before = bed.got(C.key()).len();
    for _ in 0..32 {
        bed.wire(A.key()).send(&framed(&last_hop));
    }
    bed.send(C.key(), &udp(C.v4(), 1000, B.v4(), 53, &[0; 1400]));
    assert_eq!((before, bed.got(C.key()).len()), (0, 1), "C is not told the MTU");
}

/// F9. An echo request is no reply, whatever its identifier.
#[test]
fn f9_echo_request_is_not_taken_for_a_reply() {
    let mut bed = Bed::new();
    bed.set(
        A,
        Rules {
            ingress: Some(vec![]),
            egress: None,
        },
    );
    bed.send(B.key(), &ping(B.v4(), A.v4(), false));
    assert!(bed.got(A.key()).is_empty(), "A lets nobody in");
    bed.send(A.key(), &ping(A.v4(), B.v4(), false));
    bed.got_one(B.key());
    bed.send(B.key(), &ping(B.v4(), A.v4(), false));
    assert!(
        bed.got(A.key()).is_empty(),
        "B's own ping reached A past its ingress policy"
    );
}

/// F10. A client that lost its connection (power, NAT) and uses the port again reaches the server, which answers by RFC 9293, 3.10.7.4.
#[test]
fn f10_new_syn_on_a_half_open_connection_reaches_the_server() {
    let mut bed = Bed::new();
    let outside: IpAddr = OUTSIDE.parse().unwrap();
    let mut conn = Conn::between(FORWARD, outside, B.key(), B.v4(), 5000);
    conn.open(&mut bed);
    let again = at(conn, conn.client.seq.wrapping_add(1_000_000));
    bed.send(FORWARD, &again.by_client(TcpFlags::SYN, &[]));
    assert_eq!(
        bed.got(B.key()).len(),
        1,
        "the port is dead for 8000 s: {:?}",
        bed.dropped(DropReason::InvalidTcp)
    );
}

/// F11. A client whose first SYN was never answered tries again from the same port with another number.
#[test]
fn f11_second_attempt_with_another_isn_opens_a_gated_flow() {
    let mut bed = Bed::guarded(get("/"));
    let mut conn = Conn::new(A, B, 5000);
    conn.client_sends(&mut bed, TcpFlags::SYN, &[]);
    bed.got_one(B.key());
    // Nobody answers; the application gives up and tries again.
    let mut conn = at(conn, 77);
    conn.client_sends(&mut bed, TcpFlags::SYN, &[]);
    assert_eq!(
        bed.got(B.key()).len(),
        1,
        "refused, and every attempt makes the old entry live longer"
    );
    conn.server_sends(&mut bed, SYN_ACK, &[]);
    assert_eq!(bed.got(A.key()).len(), 1);
}

/// F12. A server that still has an older connection answers a SYN with an ACK; without it the client never resets it.
#[test]
fn f12_challenge_ack_to_a_syn_reaches_the_client() {
    let mut bed = Bed::new();
    let mut conn = Conn::new(A, B, 5000);
    conn.client_sends(&mut bed, TcpFlags::SYN, &[]);
    bed.got_one(B.key());
    let old = at(conn, 5);
    bed.send(B.key(), &old.by_server(TcpFlags::ACK, &[]));
    assert_eq!(bed.got(A.key()).len(), 1);
}

/// F13. A reset that the receiver ignores does not end the flow here.
#[test]
fn f13_reset_out_of_window_does_not_close_an_established_flow() {
    let mut bed = Bed::new();
    let outside: IpAddr = OUTSIDE.parse().unwrap();
    let mut conn = Conn::between(FORWARD, outside, B.key(), B.v4(), 5000);
    conn.open(&mut bed);
    bed.send(
        FORWARD,
        &at(conn, conn.client.seq.wrapping_sub(500_000)).by_client(TcpFlags::RST, &[]),
    );
    let key = FlowKey {
        source: Peer::new(outside, 40_000),
        destination: Peer::new(B.v4(), 5000),
        protocol: Protocol::TCP,
    };
    let conntrack = bed.worker.graph().conntrack();
    let (id, _) = conntrack.lookup(&key, conntrack.hash(&key)).unwrap();
    let state = conntrack.get(id).unwrap().tcp;
    assert_eq!(
        state,
        TcpState::Established,
        "forgotten after 10 s of silence instead of 8000"
    );
}

/// F14. A UDP flow through a service leaves a backend that the service no longer has.
#[test]
fn f14_udp_flow_leaves_a_backend_that_is_no_more() {
    let mut bed = Bed::new();
    bed.services = vec![udp_service(&[B])];
    bed.publish();
    bed.send(A.key(), &udp(A.v4(), 1000, vip(), 80, b"x"));
    bed.got_one(B.key());
    bed.services = vec![udp_service(&[C])];
    bed.publish();
    bed.send(A.key(), &udp(A.v4(), 1000, vip(), 80, b"x"));
    assert_eq!((bed.got(B.key()).len(), bed.got(C.key()).len()), (0, 1), "(B, C)");
}

/// F15. A live connection outlives its Service object (kube-proxy's do; DESIGN section 4: a service change touches no flow).
#[test]
fn f15_live_connection_survives_the_removal_of_its_service() {
    let mut bed = Bed::new();
    bed.serve(&[B]);
    let mut conn = Conn::between(A.key(), A.v4(), B.key(), vip(), 80);
    conn.client_sends(&mut bed, TcpFlags::SYN, &[]);
    bed.got_one(B.key());
    let mut back = conn;
    (back.server.addr, back.server.port) = (B.v4(), 5000);
    back.server_sends(&mut bed, SYN_ACK, &[]);
    bed.got_one(A.key());
    conn.server.seq = back.server.seq;
    conn.client_sends(&mut bed, TcpFlags::ACK, &[]);
    bed.got_one(B.key());
    bed.services.clear();
    bed.publish();
    conn.client_sends(&mut bed, DATA, b"more");
    assert_eq!(
        bed.got(B.key()).len(),
        1,
        "dropped, and A got {} packets (a reset)",
        bed.got(A.key()).len()
    );
}

/// F16. A stray segment before the SYN, in one batch, does not cost the connection its backend.
#[test]
fn f16_stray_segment_before_a_syn_does_not_cost_the_translation() {
    let mut broken = 0;
    for _ in 0..20 {
        let mut bed = Bed::new();
        bed.serve(&[B, C]);
        let conn = Conn::between(A.key(), A.v4(), B.key(), vip(), 80);
        burst(
            &mut bed,
            &[
                at(conn, 1).by_client(TcpFlags::RST, &[]),
                conn.by_client(TcpFlags::SYN, &[]),
            ],
        );
        let graph = bed.worker.graph();
        if graph.translations().len() != graph.conntrack().len() {
            broken += 1;
        }
    }
    assert_eq!(broken, 0, "of 20 flows, this many have no translation");
}

fn first_fragment(packet: &[u8], size: usize) -> Vec<u8> {
    let mut fragment = packet[..20 + size].to_vec();
    let len = u16::try_from(fragment.len()).unwrap();
    fragment[2..4].copy_from_slice(&len.to_be_bytes());
    fragment[4..6].copy_from_slice(&[0x12, 0x34]);
    fragment[6..8].copy_from_slice(&0x2000_u16.to_be_bytes());
    fragment[10..12].fill(0);
    let sum = sluice_datapath::wire::checksum::Sum::ZERO
        .append(&fragment[..20])
        .checksum();
    fragment[10..12].copy_from_slice(&sum.to_be_bytes());
    fragment
}

/// F17. A UDP datagram without checksum has none after translation, in fragments too.
#[test]
fn f17_absent_checksum_stays_absent_in_fragments() {
    let mut bed = Bed::new();
    bed.services = vec![udp_service(&[B])];
    bed.publish();
    let mut packet = udp(A.v4(), 1000, vip(), 80, &[5; 1600]);
    packet[26..28].fill(0);
    bed.send(A.key(), &first_fragment(&packet, 800));
    let seen = bed.got_one(B.key());
    assert_eq!(&seen.packet()[26..28], &[0, 0], "the receiver drops the datagram");
}

/// F18. Early fragments are held by frames, not by packets.
#[test]
fn f18_one_pods_early_fragments_leave_frames_to_others() {
    let mut bed = Bed::new();
    bed.detach(A.key());
    bed.attach(sluice_datapath::interface::InterfaceConfig {
        mtu: 61_440,
        ..A.config()
    });
    let whole = udp(A.v4(), 1000, B.v4(), 53, &[5; 60_000]);
    for id in 0..70_u16 {
        // Second fragment of a datagram whose first never comes.
        let mut fragment = whole.clone();
        fragment[4..6].copy_from_slice(&id.to_be_bytes());
        fragment[6..8].copy_from_slice(&100_u16.to_be_bytes());
        fragment[10..12].fill(0);
        let sum = sluice_datapath::wire::checksum::Sum::ZERO
            .append(&fragment[..20])
            .checksum();
        fragment[10..12].copy_from_slice(&sum.to_be_bytes());
        bed.send(A.key(), &fragment);
    }
    let audit = bed.audit();
    assert!(
        audit.held * 2 < audit.frames.total,
        "one pod holds {} of {} frames",
        audit.held,
        audit.frames.total
    );
}

/// F19. Bytes that never left do not count as forwarded: the server is reset where it stands.
#[test]
fn f19_reset_of_a_denied_server_has_the_number_it_expects() {
    let mut bed = Bed::guarded(get("/"));
    let mut conn = Conn::new(A, B, 5000);
    conn.open(&mut bed);
    let expects = conn.client.seq;
    // Judged, then dropped for its TTL.
    let mut packet = conn.by_client(DATA, GOOD);
    packet[8] = 1;
    packet[10..12].fill(0);
    let sum = sluice_datapath::wire::checksum::Sum::ZERO
        .append(&packet[..20])
        .checksum();
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    bed.send(A.key(), &packet);
    assert!(bed.got(B.key()).is_empty());
    bed.got(A.key());
    // The gate has not seen it either: what follows it waits, and a denial counts from where the server is.
    let ahead = at(conn, expects.wrapping_add(u32::try_from(GOOD.len()).unwrap()));
    bed.send(A.key(), &ahead.by_client(DATA, GOOD));
    assert_eq!(bed.dropped(DropReason::L7OutOfOrder), 1);
    conn.client_sends(&mut bed, DATA, b"GET /metrics HTTP/1.1\r\nHost: flask\r\n\r\n");
    let reset = bed.got_one(B.key());
    assert!(reset.tcp().flags.has(TcpFlags::RST));
    assert_eq!(
        reset.tcp().seq,
        expects,
        "the server answers with a challenge and keeps the connection"
    );
}

/// F21. A SYN that reopens a closed gated flow and is refused forgets nothing: the next one that passes must not let the SYN-ACK of
/// the old connection open the gate.
fn refused_syn_remembers_the_handshake(mut bed: Bed, refused: impl FnOnce(&mut Bed, Conn)) {
    let mut conn = Conn::new(A, B, 5000);
    let syn = conn.by_client(TcpFlags::SYN, &[]);
    conn.client_sends(&mut bed, TcpFlags::SYN, &[]);
    let syn_ack = conn.by_server(SYN_ACK, &[]);
    bed.send(B.key(), &syn_ack);
    conn.server.seq = conn.server.seq.wrapping_add(1);
    conn.client_sends(&mut bed, TcpFlags::ACK, &[]);
    conn.client_sends(&mut bed, DATA, b"GET /metrics HTTP/1.1\r\nHost: flask\r\n\r\n");
    assert_eq!(bed.dropped(DropReason::HttpDenied), 1, "the flow is not closed");
    refused(&mut bed, conn);
    drain(&bed);
    bed.send(A.key(), &syn);
    assert_eq!(bed.got_one(B.key()).tcp().flags, TcpFlags::SYN);
    bed.send(B.key(), &syn_ack);
    assert!(
        bed.got(A.key()).is_empty(),
        "the old SYN-ACK has opened the gate again"
    );
    assert_eq!(bed.dropped(DropReason::InvalidTcp), 1);
}

fn drain(bed: &Bed) {
    for key in [A.key(), B.key(), C.key(), FORWARD, HOST] {
        bed.got(key);
    }
}

#[test]
fn f21_syn_refused_by_policy_does_not_forget_which_handshake_is_over() {
    refused_syn_remembers_the_handshake(Bed::guarded(get("/")), |bed, _| {
        let allow = bed.rules.clone();
        bed.set(
            B,
            Rules {
                ingress: Some(vec![]),
                egress: None,
            },
        );
        drain(bed);
        bed.send(A.key(), &Conn::new(A, B, 5000).by_client(TcpFlags::SYN, &[]));
        assert!(bed.got(B.key()).is_empty());
        assert_eq!(bed.dropped(DropReason::PolicyDenied), 1);
        bed.rules = allow;
        bed.publish();
    });
}

#[test]
fn f21_syn_refused_by_the_flow_quota_does_not_forget_which_handshake_is_over() {
    let mut bed = Bed::with(GraphConfig {
        flows: 4096,
        flows_per_endpoint: 4,
        translations: 256,
        affinities: 8,
        l7_flows: 64,
        ..GraphConfig::default()
    });
    bed.set(
        B,
        Rules {
            ingress: Some(vec![(peer(A), 5000, get("/"))]),
            egress: None,
        },
    );
    for port in 0..4 {
        bed.send(B.key(), &udp(B.v4(), 1000 + port, C.v4(), 53, b"x"));
    }
    refused_syn_remembers_the_handshake(bed, |bed, conn| {
        drain(bed);
        // The server's side begins a flow on the same tuple, and has no place for it.
        bed.send(B.key(), &conn.by_server(TcpFlags::SYN, &[]));
        assert!(bed.got(A.key()).is_empty());
        assert_eq!(bed.dropped(DropReason::FlowQuota), 1);
    });
}

/// F21. Whoever reopens a flow needs no further place for it, however full the tables are.
#[test]
fn f21_closed_flow_is_reopened_at_the_quota_and_keeps_its_translation() {
    let mut bed = Bed::with(GraphConfig {
        flows: 4096,
        flows_per_endpoint: 1,
        translations: 8,
        affinities: 8,
        l7_flows: 64,
        ..GraphConfig::default()
    });
    bed.serve(&[B]);
    for isn in [100, 5_000, 90_000] {
        let mut conn = Conn::between(A.key(), A.v4(), B.key(), vip(), 80);
        conn.client.seq = isn;
        let (_, opened) = open_to_service(&mut bed, &mut conn);
        assert!(opened);
        conn.client_sends(&mut bed, TcpFlags::RST, &[]);
        bed.got(B.key());
        let graph = bed.worker.graph();
        assert_eq!((graph.conntrack().len(), graph.translations().len()), (1, 1));
    }
    bed.detach(A.key());
    let graph = bed.worker.graph();
    assert_eq!((graph.conntrack().len(), graph.translations().len()), (0, 0));
}

/// F20. A segment that the gate refuses does not move the connection's state.
#[test]
fn f20_fin_ahead_of_the_judged_bytes_does_not_close() {
    let mut bed = Bed::guarded(get("/"));
    let mut conn = Conn::new(A, B, 5000);
    conn.open(&mut bed);
    let ahead = at(conn, conn.client.seq.wrapping_add(5000));
    bed.send(A.key(), &ahead.by_client(TcpFlags::FIN.with(TcpFlags::ACK), &[]));
    assert!(bed.got(B.key()).is_empty());
    let key = FlowKey {
        source: Peer::new(A.v4(), 40_000),
        destination: Peer::new(B.v4(), 5000),
        protocol: Protocol::TCP,
    };
    let conntrack = bed.worker.graph().conntrack();
    let (id, _) = conntrack.lookup(&key, conntrack.hash(&key)).unwrap();
    assert_eq!(conntrack.get(id).unwrap().tcp, TcpState::Established);
}

#[derive(Debug, Clone)]
struct Shot {
    from: u8,
    to: u8,
    port: u16,
    flags: u8,
    seq: u32,
    len: usize,
    kind: u8,
    turn: bool,
}

fn shot() -> impl proptest::strategy::Strategy<Value = Shot> {
    use proptest::prelude::{Strategy, any, prop};
    let flags = prop::sample::select(vec![2_u8, 0x12, 0x10, 0x18, 0x11, 4, 0x14]);
    (
        0..5_u8,
        0..6_u8,
        0..2_u16,
        flags,
        0..40_u32,
        0..80_usize,
        0..12_u8,
        any::<bool>(),
    )
        .prop_map(|(from, to, port, flags, seq, len, kind, turn)| Shot {
            from,
            to,
            port,
            flags,
            seq,
            len,
            kind,
            turn,
        })
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig { cases: 64, ..Default::default() })]
    /// Whatever comes in whatever order: nothing panics, and nothing is left when all interfaces are gone.
    #[test]
    fn fuzz_nothing_is_left(shots in proptest::collection::vec(shot(), 1..300)) {
        let mut bed = Bed::guarded(get("/"));
        bed.serve(&[B, C]);
        let outside: IpAddr = OUTSIDE.parse().unwrap();
        let node: IpAddr = NODE.parse().unwrap();
        let addr = |n: u8| [A.v4(), B.v4(), C.v4(), outside, node, vip()][usize::from(n)];
        for shot in shots {
            let key = [A.key(), B.key(), C.key(), FORWARD, HOST][usize::from(shot.from)];
            let (src, dst) = (addr(shot.from), addr(shot.to));
            let ports = [40_000 + shot.port, if shot.to == 5 { 80 } else { 5000 }];
            let [sport, dport] = if matches!(shot.from, 1 | 2) { [ports[1], ports[0]] } else { ports };
            let mut conn = Conn::between(key, src, key, dst, dport);
            (conn.client.port, conn.client.seq) = (sport, 1000 + shot.seq);
            conn.server.seq = 1000 + (shot.seq * 7) % 40;
            let text = b"GET / HTTP/1.1\r\nHost: flask\r\n\r\nGET / HTTP/1.1\r\nHost: flask\r\nContent-Length: 30\r\n\r\nabc";
            let payload = if shot.flags & 6 == 0 { &text[shot.seq as usize..(shot.seq as usize + shot.len).min(text.len())] } else { &[][..] };
            let mut packet = match shot.kind {
                0 => udp(src, sport, dst, dport, payload),
                1 => ping(src, dst, shot.flags & 1 == 1),
                2 => {
                    let quoted = Conn::between(key, dst, key, src, sport);
                    let mut quoted = quoted;
                    quoted.client.port = dport;
                    let inner = quoted.by_client(TcpFlags::ACK, &[]);
                    icmp(src, dst, 3, 4, &[&[0, 0, 5, 0], &inner[..28]].concat())
                }
                3 => first_fragment(&udp(src, sport, dst, dport, &[1; 200]), 80),
                _ => conn.by_client(TcpFlags(shot.flags), payload),
            };
            if shot.kind == 4 {
                make_partial(&mut packet);
            }
            let framed = match key.slot.is_endpoint() {
                true => frame(Pod(key.slot.0).mac(), GATEWAY, &packet),
                false => {
                    use sluice_datapath::interface::MacAddr;
                    frame(MacAddr([2, 0, 0, 0, 1, 1]), MacAddr([2, 0, 0, 0, 1, 2]), &packet)
                }
            };
            bed.wire(key).send(&framed);
            if shot.kind == 11 && shot.len < 10 {
                let allow = if shot.len < 5 { Allow::Plain } else { get("/") };
                bed.set(B, Rules { ingress: Some(vec![(peer(A), 5000, allow)]), egress: None });
            }
            if shot.turn {
                bed.turn();
            }
        }
        bed.turn();
        bed.assert_no_frame_lost();
        for key in [A.key(), B.key(), C.key(), FORWARD, HOST] {
            bed.detach(key);
        }
        bed.assert_no_frame_lost();
        std::thread::sleep(std::time::Duration::from_millis(2));
        bed.turn();
        let graph = bed.worker.graph();
        proptest::prop_assert_eq!((graph.conntrack().len(), bed.counters().l7_flows.get()), (0, 0));
    }
}
