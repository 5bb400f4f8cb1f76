//! The HTTP gate on packets.

use std::net::IpAddr;

use policy::{DropReason, HeaderMatch, HttpRule};
use sluice_datapath::event::FlowEventKind;
use sluice_datapath::wire::tcp::{Tcp, TcpFlags};

use crate::bed::*;

const GOOD: &[u8] = b"GET / HTTP/1.1\r\nHost: flask\r\n\r\n";
const BAD: &[u8] = b"GET /metrics HTTP/1.1\r\nHost: flask\r\n\r\n";
const OK: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi";

fn open() -> (Bed, Conn) {
    let mut bed = Bed::guarded(get("/"));
    let mut conn = Conn::new(A, B, 5000);
    conn.open(&mut bed);
    (bed, conn)
}

#[test]
fn allowed_request_and_its_response_pass_unchanged() {
    let (mut bed, mut conn) = open();
    for _ in 0..3 {
        conn.client_sends(&mut bed, DATA, GOOD);
        assert_eq!(bed.got_one(B.key()).payload(), GOOD);
        conn.server_sends(&mut bed, DATA, OK);
        assert_eq!(bed.got_one(A.key()).payload(), OK);
    }
    assert_eq!(bed.counters().http_forwarded.get(), 3);
}

#[test]
fn denied_request_gets_a_403_in_sequence_and_the_server_a_reset() {
    let (mut bed, mut conn) = open();
    conn.client_sends(&mut bed, DATA, GOOD);
    bed.got_one(B.key());
    conn.server_sends(&mut bed, DATA, OK);
    bed.got_one(A.key());
    let before = conn;
    conn.client_sends(&mut bed, DATA, BAD);

    let answer = bed.got_one(A.key());
    let text = String::from_utf8(answer.payload().to_vec()).unwrap();
    assert!(text.starts_with("HTTP/1.1 403 Forbidden\r\n"), "{text}");
    assert!(text.ends_with("\r\n\r\nAccess denied\r\n"), "{text}");
    let tcp = answer.tcp();
    assert_eq!((tcp.seq, tcp.ack), (conn.server.seq, conn.client.seq));
    assert!(tcp.flags.has(TcpFlags::FIN));
    let l4 = &answer.frame[answer.ip.l4_offset()..];
    assert!(
        Tcp::parse(l4, l4.len())
            .unwrap()
            .scan_options()
            .unwrap()
            .timestamps
            .is_some(),
        "RFC 7323 wants timestamps"
    );

    let reset = bed.got_one(B.key());
    assert!(reset.tcp().flags.has(TcpFlags::RST));
    assert_eq!(reset.tcp().seq, before.client.seq, "exactly the server's RCV.NXT");
    assert_eq!(bed.dropped(DropReason::HttpDenied), 1);
    let denied = bed.events().into_iter().any(|event| {
        matches!(event.kind, FlowEventKind::HttpRequest { denied: Some(DropReason::HttpDenied), path, .. }
            if path.to_text() == "/metrics")
    });
    assert!(denied);
    bed.assert_no_frame_lost();
}

#[test]
fn flow_is_closed_after_a_denial_and_a_new_connection_works() {
    let (mut bed, mut conn) = open();
    conn.client_sends(&mut bed, DATA, BAD);
    bed.got(A.key());
    bed.got(B.key());
    conn.client_sends(&mut bed, DATA, GOOD);
    assert!(bed.got(B.key()).is_empty());
    assert!(bed.got_one(A.key()).tcp().flags.has(TcpFlags::RST));
    let mut again = Conn::new(A, B, 5000);
    again.client.seq = 99;
    again.open(&mut bed);
    again.client_sends(&mut bed, DATA, GOOD);
    assert_eq!(bed.got_one(B.key()).payload(), GOOD);
}

#[test]
fn second_of_two_pipelined_requests_is_denied_and_neither_reaches_the_server() {
    let (mut bed, mut conn) = open();
    conn.client_sends(&mut bed, DATA, &[GOOD, BAD].concat());
    assert!(bed.got_one(B.key()).tcp().flags.has(TcpFlags::RST));
    assert!(bed.got_one(A.key()).tcp().flags.has(TcpFlags::RST));
}

#[test]
fn request_in_one_byte_segments_is_judged_like_a_whole_one() {
    let (mut bed, mut conn) = open();
    let mut reached = Vec::new();
    for byte in GOOD {
        conn.client_sends(&mut bed, DATA, &[*byte]);
        reached.extend_from_slice(bed.got_one(B.key()).payload());
    }
    assert_eq!(reached, GOOD);

    let (mut bed, mut conn) = open();
    let mut reached = Vec::new();
    for byte in BAD {
        conn.client_sends(&mut bed, DATA, &[*byte]);
        for packet in bed.got(B.key()) {
            let seen = Seen::new(packet);
            if !seen.tcp().flags.has(TcpFlags::RST) {
                reached.extend_from_slice(seen.payload());
            }
        }
    }
    assert!(
        reached.len() < b"GET /metrics HTTP/1.1\r".len(),
        "{}",
        String::from_utf8_lossy(&reached)
    );
}

#[test]
fn segment_ahead_of_the_judged_bytes_waits_for_tcp() {
    let (mut bed, mut conn) = open();
    let late = conn;
    conn.client.seq = conn.client.seq.wrapping_add(10);
    conn.client_sends(&mut bed, DATA, &GOOD[10..]);
    assert!(bed.got_nothing());
    assert_eq!(bed.dropped(DropReason::L7OutOfOrder), 1);
    let mut conn = late;
    conn.client_sends(&mut bed, DATA, GOOD);
    assert_eq!(bed.got_one(B.key()).payload(), GOOD);
}

#[test]
fn retransmission_that_differs_from_the_judged_bytes_ends_the_flow() {
    let (mut bed, mut conn) = open();
    let again = conn;
    conn.client_sends(&mut bed, DATA, GOOD);
    bed.got_one(B.key());
    let evil = b"GET /metrics HTTP/1.1\r\n\r\n\r\n\r\n";
    bed.send(
        A.key(),
        &again.by_client(DATA, &evil[..GOOD.len().min(evil.len())]),
    );
    assert!(
        bed.got(B.key())
            .iter()
            .all(|packet| Seen::new(packet.clone()).payload().is_empty())
    );
    assert_eq!(bed.dropped(DropReason::L7Mismatch), 1);
}

#[test]
fn denial_through_a_service_comes_from_the_service() {
    let mut bed = Bed::guarded(get("/"));
    bed.serve(&[B]);
    let vip: IpAddr = VIP.parse().unwrap();
    let mut conn = Conn::between(A.key(), A.v4(), B.key(), vip, 80);
    conn.client_sends(&mut bed, TcpFlags::SYN, &[]);
    bed.got_one(B.key());
    let mut back = conn;
    (back.server.addr, back.server.port) = (B.v4(), 5000);
    back.server_sends(&mut bed, SYN_ACK, &[]);
    bed.got_one(A.key());
    conn.server.seq = back.server.seq;
    conn.client_sends(&mut bed, TcpFlags::ACK, &[]);
    conn.client_sends(&mut bed, DATA, BAD);
    let answer = bed.got_one(A.key());
    assert_eq!((answer.ip.source, answer.tcp().source_port), (vip, 80));
    assert!(answer.payload().starts_with(b"HTTP/1.1 403"));
}

#[test]
fn live_flow_that_a_new_rule_gates_is_reset() {
    let mut bed = Bed::guarded(Allow::Plain);
    let mut conn = Conn::new(A, B, 5000);
    conn.open(&mut bed);
    bed.set(
        B,
        Rules {
            ingress: Some(vec![(peer(A), 5000, get("/"))]),
            egress: None,
        },
    );
    conn.client_sends(&mut bed, DATA, GOOD);
    assert!(bed.got_one(A.key()).tcp().flags.has(TcpFlags::RST));
    assert!(bed.got_one(B.key()).tcp().flags.has(TcpFlags::RST));
}

#[test]
fn syn_with_data_and_urgent_data_do_not_pass_a_gate() {
    let mut bed = Bed::guarded(get("/"));
    let mut conn = Conn::new(A, B, 5000);
    bed.send(A.key(), &conn.by_client(TcpFlags::SYN, BAD));
    assert!(bed.got_nothing());
    conn.open(&mut bed);
    bed.send(A.key(), &conn.by_client(DATA.with(TcpFlags::URG), GOOD));
    assert!(bed.got_nothing());
    assert_eq!(bed.dropped(DropReason::InvalidTcp), 2);
}

#[test]
fn syn_ack_that_acknowledges_another_syn_does_not_open_the_gate() {
    let mut bed = Bed::guarded(get("/"));
    let mut conn = Conn::new(A, B, 5000);
    conn.client_sends(&mut bed, TcpFlags::SYN, &[]);
    bed.got_one(B.key());
    let mut other = conn;
    other.client.seq = other.client.seq.wrapping_sub(5);
    bed.send(B.key(), &other.by_server(SYN_ACK, &[]));
    assert!(bed.got_nothing());
    // A second SYN with another number makes the server's answer to the first one worthless: judge and server would disagree about
    // where the request begins.
    other.client.seq = conn.client.seq.wrapping_sub(6);
    bed.send(A.key(), &other.by_client(TcpFlags::SYN, &[]));
    bed.got_one(B.key());
    bed.send(B.key(), &conn.by_server(SYN_ACK, &[]));
    assert!(bed.got_nothing());
    assert_eq!(bed.dropped(DropReason::InvalidTcp), 2);
}

#[test]
fn egress_rules_gate_too() {
    let mut bed = Bed::new();
    bed.set(
        A,
        Rules {
            ingress: None,
            egress: Some(vec![(peer(B), 5000, get("/"))]),
        },
    );
    let mut conn = Conn::new(A, B, 5000);
    conn.open(&mut bed);
    conn.client_sends(&mut bed, DATA, BAD);
    assert!(bed.got_one(A.key()).payload().starts_with(b"HTTP/1.1 403"));
}

#[test]
fn rules_of_host_and_headers_gate_a_head_that_comes_in_pieces() {
    let rule = HttpRule {
        host: Some("flask(:[0-9]+)?".into()),
        headers: vec![HeaderMatch::parse("X-Token: s3")],
        ..HttpRule::default()
    };
    for (token, passes) in [("s3", true), ("s4", false)] {
        let mut bed = Bed::guarded(Allow::Http(vec![rule.clone()]));
        let mut conn = Conn::new(A, B, 5000);
        conn.open(&mut bed);
        let head = format!("GET /x HTTP/1.1\r\nHost: flask:5000\r\nX-Token: {token}\r\n\r\n");
        // Inside the token: neither piece has its whole value.
        let (first, second) = head.as_bytes().split_at(head.len() - 5);
        conn.client_sends(&mut bed, DATA, first);
        assert_eq!(bed.got_one(B.key()).payload(), first);
        conn.client_sends(&mut bed, DATA, second);
        let reached = bed.got_one(B.key());
        if passes {
            assert_eq!(reached.payload(), second);
        } else {
            assert!(reached.tcp().flags.has(TcpFlags::RST) && reached.payload().is_empty());
            assert!(bed.got_one(A.key()).payload().starts_with(b"HTTP/1.1 403"));
            assert_eq!(bed.dropped(DropReason::HttpDenied), 1);
        }
    }
}
