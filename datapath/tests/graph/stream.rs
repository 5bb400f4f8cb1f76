//! A gated stream as the server reads it must be the one that the gate has judged: from where it begins, in its order, and of a
//! connection that the server still has. A listener with SYN cookies knows nothing of a handshake but what its last segment says.

use std::time::{Duration, Instant};

use policy::{DropReason, Protocol};
use sluice_datapath::wire::tcp::{Tcp, TcpFlags};

use crate::bed::*;

const GOOD: &[u8] = b"GET / HTTP/1.1\r\nHost: flask\r\n\r\n";
const BAD: &[u8] = b"GET /metrics HTTP/1.1\r\nHost: flask\r\n\r\n";
const OK: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi";
const FIN: TcpFlags = TcpFlags::FIN.with(TcpFlags::ACK);

/// After SYN and SYN-ACK.
fn answered() -> (Bed, Conn) {
    let mut bed = Bed::guarded(get("/"));
    let mut conn = Conn::new(A, B, 5000);
    conn.client_sends(&mut bed, TcpFlags::SYN, &[]);
    bed.got_one(B.key());
    conn.server_sends(&mut bed, SYN_ACK, &[]);
    bed.got_one(A.key());
    (bed, conn)
}

fn open() -> (Bed, Conn) {
    let (mut bed, mut conn) = answered();
    conn.client_sends(&mut bed, TcpFlags::ACK, &[]);
    bed.got_one(B.key());
    (bed, conn)
}

/// The connection as one would tell of it that begins elsewhere.
fn moved(conn: &Conn, client: i32, server: i32) -> Conn {
    let mut moved = *conn;
    moved.client.seq = moved.client.seq.wrapping_add_signed(client);
    moved.server.seq = moved.server.seq.wrapping_add_signed(server);
    moved
}

#[test]
fn bytes_before_the_stream_do_not_pass() {
    for (client, server) in [(-50_000, -50_000), (-50_000, 0), (-1, 0), (-1, -1)] {
        let (mut bed, conn) = answered();
        bed.send(A.key(), &moved(&conn, client, server).by_client(DATA, BAD));
        assert!(bed.got_nothing(), "{client} {server}");
        assert_eq!(bed.dropped(DropReason::InvalidTcp), 1, "{client} {server}");
    }
}

#[test]
fn handshake_is_not_completed_elsewhere_than_it_began() {
    let body = i32::try_from(BAD.len()).unwrap();
    for (client, server) in [(body, body), (-body, -body), (0, 1), (0, -1)] {
        let (mut bed, conn) = answered();
        bed.send(
            A.key(),
            &moved(&conn, client, server).by_client(TcpFlags::ACK, &[]),
        );
        assert!(bed.got_nothing(), "{client} {server}");
        assert_eq!(bed.dropped(DropReason::InvalidTcp), 1, "{client} {server}");
    }
    // The minute is in a cookie's upper bits.
    let (mut bed, conn) = answered();
    bed.send(A.key(), &moved(&conn, 1 << 24, 0).by_client(TcpFlags::ACK, &[]));
    assert!(bed.got_nothing());
    assert_eq!(bed.dropped(DropReason::L7OutOfOrder), 1);
}

#[test]
fn acknowledgment_after_a_lost_segment_passes_once_the_server_has_spoken() {
    let (mut bed, mut conn) = open();
    conn.client_sends(&mut bed, DATA, GOOD);
    bed.got_one(B.key());
    conn.server_sends(&mut bed, DATA, OK);
    bed.got_one(A.key());
    // The next request is lost on the way to the node.
    bed.send(A.key(), &moved(&conn, 100, 0).by_client(TcpFlags::ACK, &[]));
    bed.got_one(B.key());
    // One to keep the connection alive lies before what was sent.
    bed.send(A.key(), &moved(&conn, -1, 0).by_client(TcpFlags::ACK, &[]));
    bed.got_one(B.key());
    let (mut bed, conn) = open();
    bed.send(A.key(), &moved(&conn, -1, 0).by_client(TcpFlags::ACK, &[]));
    bed.got_one(B.key());
}

#[test]
fn what_was_judged_once_is_not_sent_into_a_connection_that_is_over() {
    let exchange = |bed: &mut Bed, conn: &mut Conn| {
        conn.client_sends(bed, DATA, GOOD);
        bed.got_one(B.key());
        conn.server_sends(bed, DATA, OK);
        bed.got_one(A.key());
    };
    // Closed by both, and reset by either.
    let ends: [fn(&mut Bed, &mut Conn); 3] = [
        |bed, conn| {
            conn.client_sends(bed, FIN, &[]);
            bed.got_one(B.key());
            conn.server_sends(bed, FIN, &[]);
            bed.got_one(A.key());
            conn.client_sends(bed, TcpFlags::ACK, &[]);
            bed.got_one(B.key());
        },
        |bed, conn| {
            conn.server_sends(bed, TcpFlags::RST.with(TcpFlags::ACK), &[]);
            bed.got_one(A.key());
        },
        |bed, conn| {
            conn.client_sends(bed, TcpFlags::RST.with(TcpFlags::ACK), &[]);
            bed.got_one(B.key());
        },
    ];
    for end in ends {
        let (mut bed, mut conn) = open();
        let beginning = conn;
        exchange(&mut bed, &mut conn);
        end(&mut bed, &mut conn);
        // What the server had acknowledged is not compared any more, and it may be as far from both beginnings.
        for distance in [0, 10] {
            let repeated = moved(&beginning, distance, distance);
            bed.send(A.key(), &repeated.by_client(DATA, &BAD[..20]));
            assert!(bed.got(B.key()).is_empty(), "{distance}");
            bed.got(A.key());
        }
        assert_eq!(bed.dropped(DropReason::L7Closed), 2);
        // The next connection of the same ports is judged as the first.
        conn = moved(&conn, 100_000, 100_000);
        conn.open(&mut bed);
        exchange(&mut bed, &mut conn);
    }
}

#[test]
fn server_whose_bytes_nobody_acknowledges_is_not_offered_another_handshake() {
    let (mut bed, mut conn) = open();
    let beginning = conn;
    conn.client_sends(&mut bed, DATA, GOOD);
    bed.got_one(B.key());
    // Never acknowledged: the server gives up in the end, without a word.
    conn.server_sends(&mut bed, DATA, OK);
    bed.got_one(A.key());
    let resembling = moved(&beginning, 10, 10).by_client(DATA, &BAD[..20]);
    bed.send(A.key(), &resembling);
    bed.got_one(B.key());
    let silent = Instant::now();
    while silent.elapsed() < Duration::from_millis(3100) {
        bed.turn();
    }
    // Alive a moment ago: no progress.
    conn.server_sends(&mut bed, TcpFlags::ACK, &[]);
    bed.got_one(A.key());
    bed.send(A.key(), &resembling);
    assert!(bed.got_one(A.key()).tcp().flags.has(TcpFlags::RST));
    assert!(bed.got_one(B.key()).tcp().flags.has(TcpFlags::RST));
    assert_eq!(bed.dropped(DropReason::Midstream), 1);
}

#[test]
fn server_that_has_sent_its_fin_gets_no_more_bytes() {
    let (mut bed, mut conn) = open();
    conn.client_sends(&mut bed, DATA, GOOD);
    bed.got_one(B.key());
    conn.server_sends(&mut bed, FIN.with(TcpFlags::PSH), OK);
    bed.got_one(A.key());
    bed.send(A.key(), &conn.by_client(DATA, GOOD));
    assert!(
        bed.got_nothing(),
        "no reset either: the client has not read the answer yet"
    );
    assert_eq!(bed.dropped(DropReason::InvalidTcp), 1);
    let answered = Instant::now();
    while answered.elapsed() < Duration::from_millis(3100) {
        bed.turn();
    }
    // Whoever goes on sending for so long without reading must not wait for ever.
    bed.send(A.key(), &conn.by_client(DATA, GOOD));
    assert!(bed.got_one(A.key()).tcp().flags.has(TcpFlags::RST));
    assert!(bed.got_one(B.key()).tcp().flags.has(TcpFlags::RST));
}

#[test]
fn client_closes_after_the_servers_fin() {
    let (mut bed, mut conn) = open();
    conn.server_sends(&mut bed, FIN, &[]);
    bed.got_one(A.key());
    conn.client_sends(&mut bed, FIN, &[]);
    bed.got_one(B.key());
}

#[test]
fn reset_that_the_client_ignores_ends_nothing() {
    let (mut bed, mut conn) = open();
    bed.send(B.key(), &moved(&conn, 0, 70_000).by_server(TcpFlags::RST, &[]));
    bed.got(A.key());
    conn.client_sends(&mut bed, DATA, GOOD);
    bed.got_one(B.key());
}

#[test]
fn connection_on_ports_that_were_answered_before_begins_at_its_beginning() {
    let (mut bed, former) = open();
    // The server has forgotten that one.
    let mut conn = moved(&former, 100_000, 100_000);
    conn.client_sends(&mut bed, TcpFlags::SYN, &[]);
    bed.got_one(B.key());
    conn.server_sends(&mut bed, SYN_ACK, &[]);
    bed.got_one(A.key());
    let (first, rest) = GOOD.split_at(10);
    let beginning = conn;
    conn.client_sends(&mut bed, DATA, first);
    bed.got_one(B.key());
    // The former answer could fit here.
    bed.send(A.key(), &conn.by_client(DATA, rest));
    bed.send(A.key(), &conn.by_client(TcpFlags::ACK, &[]));
    assert!(bed.got_nothing());
    assert_eq!(bed.dropped(DropReason::L7OutOfOrder), 2);
    bed.send(A.key(), &beginning.by_client(DATA, first));
    bed.got_one(B.key());
    conn.server_sends(&mut bed, TcpFlags::ACK, &[]);
    bed.got_one(A.key());
    conn.client_sends(&mut bed, DATA, rest);
    bed.got_one(B.key());
}

/// The packet with other options in the place of its timestamps.
fn with_options(packet: &[u8], options: [u8; 12]) -> Vec<u8> {
    let seen = Seen::new(frame(A.config().peer_mac, A.config().local_mac, packet));
    let mut l4 = packet[seen.ip.l4_offset() - 14..].to_vec();
    l4[20..32].copy_from_slice(&options);
    l4[16..18].fill(0);
    with_checksum(seen.ip.source, seen.ip.destination, Protocol::TCP, 16, l4)
}

/// MP_CAPABLE, at an odd offset.
const CAPABLE: [u8; 12] = [1, 30, 4, 0, 1, 2, 4, 5, 0xb4, 1, 1, 1];
/// DSS: data is mapped to other places of the stream.
const MAPPING: [u8; 12] = [30, 12, 0x20, 0x04, 0, 0, 0, 9, 0, 0, 0, 1];

fn kinds(packet: &Seen) -> Vec<u8> {
    let l4 = &packet.frame[packet.ip.l4_offset()..];
    let tcp = Tcp::parse(l4, l4.len()).unwrap();
    tcp.options().map(|option| option.unwrap().kind).collect()
}

#[test]
fn gated_connection_does_without_multipath_tcp() {
    let mut bed = Bed::guarded(get("/"));
    let mut conn = Conn::new(A, B, 5000);
    let syn = conn.by_client(TcpFlags::SYN, &[]);
    conn.client.seq = conn.client.seq.wrapping_add(1);
    bed.send(A.key(), &with_options(&syn, CAPABLE));
    assert_eq!(
        kinds(&bed.got_one(B.key())),
        [2],
        "the offer is withdrawn, the rest stands"
    );

    // Whoever accepts what was not offered.
    let answer = conn.by_server(SYN_ACK, &[]);
    bed.send(B.key(), &with_options(&answer, CAPABLE));
    assert!(bed.got_nothing());
    conn.server_sends(&mut bed, SYN_ACK, &[]);
    bed.got_one(A.key());
    bed.send(A.key(), &with_options(&conn.by_client(DATA, GOOD), MAPPING));
    assert!(bed.got_nothing());
    assert_eq!(bed.dropped(DropReason::InvalidTcp), 2);
    conn.client_sends(&mut bed, DATA, GOOD);
    bed.got_one(B.key());
}

#[test]
fn connection_without_rules_for_requests_may_use_multipath_tcp() {
    let mut bed = Bed::guarded(Allow::Plain);
    let conn = Conn::new(A, B, 5000);
    bed.send(
        A.key(),
        &with_options(&conn.by_client(TcpFlags::SYN, &[]), CAPABLE),
    );
    assert_eq!(kinds(&bed.got_one(B.key())), [30, 2]);
}
