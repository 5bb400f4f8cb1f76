//! Audit mode: what policy would deny passes and is reported; everything else is as ever.

use policy::{Direction, DropReason, RuleId};
use sluice_datapath::event::FlowEventKind;
use sluice_datapath::graph::GraphConfig;
use sluice_datapath::wire::tcp::TcpFlags;

use crate::bed::*;

const GOOD: &[u8] = b"GET / HTTP/1.1\r\nHost: flask\r\n\r\n";
const BAD: &[u8] = b"GET /metrics HTTP/1.1\r\nHost: flask\r\n\r\n";
const OK: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi";

fn ingress(allow: Allow) -> Rules {
    Rules {
        ingress: Some(vec![(peer(A), 5000, allow)]),
        egress: None,
    }
}

/// B audits; what it says of A on port 5000 is `allow`, and all else is denied by default.
fn auditing(allow: Allow) -> Bed {
    let mut bed = Bed::new();
    bed.audits = vec![B];
    bed.set(B, ingress(allow));
    bed
}

/// A connection that B's HTTP rules judge in audit mode.
fn open() -> (Bed, Conn) {
    let mut bed = auditing(get("/"));
    let mut conn = Conn::new(A, B, 5000);
    conn.open(&mut bed);
    bed.events();
    (bed, conn)
}

/// What was audited of flows: reason, direction, rule.
fn audits(bed: &Bed) -> Vec<(DropReason, Direction, Option<RuleId>)> {
    let audit = |kind| match kind {
        FlowEventKind::Audited {
            reason,
            direction,
            rule,
        } => Some((reason, direction, rule)),
        _ => None,
    };
    bed.events()
        .into_iter()
        .filter_map(|event| audit(event.kind))
        .collect()
}

/// Paths of requests, and whether each was audited.
fn requests(bed: &Bed) -> Vec<(String, bool)> {
    let request = |kind| match kind {
        FlowEventKind::HttpRequest {
            path,
            denied,
            direction,
            audited,
            ..
        } => {
            assert_eq!(denied.is_some(), audited, "a request was refused");
            assert_eq!(direction, audited.then_some(Direction::Ingress));
            Some((path.to_text(), audited))
        }
        _ => None,
    };
    bed.events()
        .into_iter()
        .filter_map(|event| request(event.kind))
        .collect()
}

fn audited(bed: &Bed, direction: Direction) -> u64 {
    bed.counters().audited(direction).get()
}

/// Data of the client and of the server reach the other side as they are.
fn passes(bed: &mut Bed, conn: &mut Conn, data: &[u8]) {
    conn.client_sends(bed, DATA, data);
    assert_eq!(bed.got_one(conn.server.key).payload(), data);
    conn.server_sends(bed, DATA, data);
    assert_eq!(bed.got_one(conn.client.key).payload(), data);
}

#[test]
fn flow_that_default_deny_would_drop_passes_and_is_reported_once() {
    let mut bed = auditing(Allow::Plain);
    let mut conn = Conn::new(C, B, 5000);
    conn.open(&mut bed);
    passes(&mut bed, &mut conn, b"x");
    assert_eq!(
        audits(&bed),
        [(DropReason::PolicyDenied, Direction::Ingress, None)]
    );
    assert_eq!(
        (
            audited(&bed, Direction::Ingress),
            audited(&bed, Direction::Egress)
        ),
        (1, 0)
    );
    assert_eq!(bed.counters().dropped_total(), 0);

    let mut allowed = Conn::new(A, B, 5000);
    allowed.open(&mut bed);
    assert_eq!(audits(&bed), []);
}

#[test]
fn flow_that_a_deny_rule_would_drop_passes_and_the_rule_is_named() {
    let mut bed = auditing(Allow::Deny);
    let mut conn = Conn::new(A, B, 5000);
    conn.open(&mut bed);
    passes(&mut bed, &mut conn, b"x");
    let expected = (DropReason::PolicyDenyRule, Direction::Ingress, Some(RuleId(100)));
    assert_eq!(audits(&bed), [expected]);
}

#[test]
fn egress_is_audited_too_and_both_sides_are_reported() {
    let mut bed = auditing(Allow::Deny);
    bed.audits = vec![A, B];
    bed.set(
        A,
        Rules {
            ingress: None,
            egress: Some(vec![]),
        },
    );
    Conn::new(A, B, 5000).open(&mut bed);
    let directions: Vec<_> = audits(&bed)
        .into_iter()
        .map(|(_, direction, _)| direction)
        .collect();
    assert_eq!(directions, [Direction::Egress, Direction::Ingress]);
    assert_eq!(
        (
            audited(&bed, Direction::Ingress),
            audited(&bed, Direction::Egress)
        ),
        (1, 1)
    );
}

#[test]
fn side_that_does_not_audit_still_denies() {
    for (rules, reason) in [
        (vec![], DropReason::PolicyDenied),
        (vec![(peer(B), 5000, Allow::Deny)], DropReason::PolicyDenyRule),
    ] {
        let mut bed = auditing(Allow::Deny);
        bed.set(
            A,
            Rules {
                ingress: None,
                egress: Some(rules),
            },
        );
        Conn::new(A, B, 5000).client_sends(&mut bed, TcpFlags::SYN, &[]);
        assert!(bed.got_nothing());
        assert_eq!(bed.counters().dropped(reason, Some(Direction::Egress)), 1);
        assert_eq!(audits(&bed), []);
        assert!(bed.worker.graph().conntrack().is_empty());
    }
}

#[test]
fn pod_that_audits_does_not_open_others() {
    let mut bed = Bed::guarded(Allow::Plain);
    bed.audits = vec![C];
    bed.publish();
    Conn::new(C, B, 5000).client_sends(&mut bed, TcpFlags::SYN, &[]);
    assert!(bed.got_nothing());
    assert_eq!(bed.dropped(DropReason::PolicyDenied), 1);
}

#[test]
fn what_is_no_policy_drops_in_audit_mode_too() {
    let mut bed = auditing(Allow::Deny);
    bed.audits = vec![A, B];
    bed.publish();
    let mut spoofed = Conn::new(C, B, 5000);
    spoofed.client.key = A.key();
    spoofed.client_sends(&mut bed, TcpFlags::SYN, &[]);
    assert_eq!(bed.dropped(DropReason::InvalidSourceIp), 1);
    Conn::new(A, B, 5000).client_sends(&mut bed, DATA, b"midstream");
    assert_eq!(bed.dropped(DropReason::Midstream), 1);
    bed.got(A.key());
    assert!(bed.got_nothing());

    let mut bed = Bed::with(GraphConfig {
        flows: 4096,
        flows_per_endpoint: 1,
        translations: 256,
        affinities: 8,
        l7_flows: 64,
        ..GraphConfig::default()
    });
    bed.audits = vec![B];
    bed.set(B, ingress(Allow::Deny));
    for port in [1, 2] {
        bed.send(A.key(), &udp(A.v4(), port, B.v4(), 5000, b"x"));
    }
    assert_eq!(
        (bed.got(B.key()).len(), bed.dropped(DropReason::FlowQuota)),
        (1, 1)
    );
}

#[test]
fn established_connection_survives_a_policy_that_would_deny_it_and_is_reported_then() {
    let mut bed = auditing(Allow::Plain);
    let mut conn = Conn::new(A, B, 5000);
    conn.open(&mut bed);
    assert_eq!(audits(&bed), []);
    bed.set(B, ingress(Allow::Deny));
    passes(&mut bed, &mut conn, b"one");
    assert_eq!(audits(&bed).len(), 1);
    // Another policy that denies it as well is nothing new; one that allows it ends the matter, and the next is new again.
    bed.set(
        B,
        Rules {
            ingress: Some(vec![]),
            egress: None,
        },
    );
    passes(&mut bed, &mut conn, b"two");
    assert_eq!(audits(&bed), []);
    bed.set(B, ingress(Allow::Plain));
    passes(&mut bed, &mut conn, b"three");
    bed.set(B, ingress(Allow::Deny));
    passes(&mut bed, &mut conn, b"four");
    assert_eq!(audits(&bed).len(), 1);
    assert_eq!(bed.counters().dropped_total(), 0);
}

#[test]
fn leaving_audit_mode_cuts_at_the_next_packet_and_entering_it_revives() {
    let mut bed = auditing(Allow::Deny);
    let mut conn = Conn::new(A, B, 5000);
    conn.open(&mut bed);
    bed.audits.clear();
    bed.publish();
    bed.events();
    conn.client_sends(&mut bed, DATA, b"x");
    conn.server_sends(&mut bed, DATA, b"y");
    assert!(bed.got_nothing());
    assert_eq!(bed.dropped(DropReason::PolicyDenyRule), 2);
    bed.audits = vec![B];
    bed.publish();
    passes(&mut bed, &mut conn, b"z");
    assert_eq!(audits(&bed).len(), 1);
}

#[test]
fn every_denied_request_passes_and_is_reported() {
    let (mut bed, mut conn) = open();
    for request in [GOOD, BAD, BAD, GOOD] {
        conn.client_sends(&mut bed, DATA, request);
        assert_eq!(bed.got_one(B.key()).payload(), request);
        conn.server_sends(&mut bed, DATA, OK);
        assert_eq!(bed.got_one(A.key()).payload(), OK);
    }
    let expected = [("/", false), ("/metrics", true), ("/metrics", true), ("/", false)];
    assert_eq!(
        requests(&bed),
        expected.map(|(path, audited)| (path.to_owned(), audited))
    );
    let counters = bed.counters();
    assert_eq!(
        (counters.http_forwarded.get(), counters.http_denied.get()),
        (4, 0)
    );
    assert_eq!(audited(&bed, Direction::Ingress), 2);
    assert_eq!(counters.dropped_total(), 0);
    bed.assert_no_frame_lost();
}

#[test]
fn denied_request_in_pieces_is_reported_once() {
    let (mut bed, mut conn) = open();
    for byte in [BAD, GOOD].concat() {
        conn.client_sends(&mut bed, DATA, &[byte]);
        assert_eq!(bed.got_one(B.key()).payload(), [byte]);
    }
    let expected = [("/metrics", true), ("/", false)];
    assert_eq!(
        requests(&bed),
        expected.map(|(path, audited)| (path.to_owned(), audited))
    );
    assert_eq!(bed.counters().http_forwarded.get(), 2);
    assert_eq!(audited(&bed, Direction::Ingress), 1);
}

#[test]
fn pipelined_requests_of_one_segment_pass_together() {
    let (mut bed, mut conn) = open();
    let all = [GOOD, BAD, GOOD, &BAD[..30]].concat();
    passes(&mut bed, &mut conn, &all[..0]);
    conn.client_sends(&mut bed, DATA, &all);
    assert_eq!(bed.got_one(B.key()).payload(), all);
    conn.client_sends(&mut bed, DATA, &BAD[30..]);
    assert_eq!(bed.got_one(B.key()).payload(), &BAD[30..]);
    // The first would have been dropped with the segment.
    let expected = [("/", true), ("/metrics", true), ("/", false), ("/metrics", true)];
    assert_eq!(
        requests(&bed),
        expected.map(|(path, audited)| (path.to_owned(), audited))
    );
    assert_eq!(bed.counters().http_forwarded.get(), 4);
}

#[test]
fn bytes_that_are_not_http_pass_and_are_reported_once() {
    for bytes in [
        &b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[..],
        b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"GET / HTTP/1.1\nHost: a\n\n",
    ] {
        let (mut bed, mut conn) = open();
        for _ in 0..3 {
            passes(&mut bed, &mut conn, bytes);
        }
        let reported = bed
            .events()
            .into_iter()
            .filter(|event| match event.kind {
                FlowEventKind::Audited { .. } => true,
                FlowEventKind::HttpRequest { audited, .. } => audited,
                _ => false,
            })
            .count();
        assert_eq!((reported, audited(&bed, Direction::Ingress)), (1, 1), "{bytes:?}");
        assert_eq!(bed.counters().dropped_total(), 0);
    }
}

#[test]
fn nothing_that_a_gate_cannot_judge_is_lost() {
    type Step = fn(&mut Bed, &mut Conn);
    let steps: [(Step, DropReason); 4] = [
        // A hole before it.
        (
            |bed, conn| {
                conn.client.seq = conn.client.seq.wrapping_add(10);
                conn.client_sends(bed, DATA, &GOOD[10..]);
            },
            DropReason::L7OutOfOrder,
        ),
        // Other bytes than before.
        (
            |bed, conn| {
                let again = *conn;
                conn.client_sends(bed, DATA, GOOD);
                bed.got_one(B.key());
                bed.events();
                bed.send(A.key(), &again.by_client(DATA, &BAD[..GOOD.len()]));
            },
            DropReason::L7Mismatch,
        ),
        (
            |bed, conn| bed.send(A.key(), &conn.by_client(DATA.with(TcpFlags::URG), GOOD)),
            DropReason::InvalidTcp,
        ),
        (
            |bed, conn| {
                conn.client_sends(bed, DATA, GOOD);
                bed.got_one(B.key());
                conn.server_sends(bed, DATA, b"HTTP/1.1 101 Switching Protocols\r\n\r\n");
            },
            DropReason::NotHttp,
        ),
    ];
    for (step, reason) in steps {
        let (mut bed, mut conn) = open();
        step(&mut bed, &mut conn);
        assert_eq!(bed.got(A.key()).len() + bed.got(B.key()).len(), 1, "{reason:?}");
        assert_eq!(audits(&bed), [(reason, Direction::Ingress, None)]);
        passes(&mut bed, &mut conn, b"anything");
        assert_eq!(audits(&bed), []);
        assert_eq!(bed.counters().dropped_total(), 0, "{reason:?}");
    }
}

#[test]
fn connection_that_new_audited_rules_gate_goes_on() {
    let mut bed = auditing(Allow::Plain);
    let mut conn = Conn::new(A, B, 5000);
    conn.open(&mut bed);
    bed.set(B, ingress(get("/")));
    bed.events();
    passes(&mut bed, &mut conn, BAD);
    passes(&mut bed, &mut conn, BAD);
    assert_eq!(audits(&bed), [(DropReason::Midstream, Direction::Ingress, None)]);
}

#[test]
fn syn_with_data_and_more_flows_than_l7_states_pass_unjudged() {
    let mut bed = Bed::with(GraphConfig {
        flows: 4096,
        flows_per_endpoint: 1024,
        translations: 256,
        affinities: 8,
        l7_flows: 8,
        ..GraphConfig::default()
    });
    bed.audits = vec![B];
    bed.set(B, ingress(get("/")));
    for port in 0..20 {
        let mut conn = Conn::new(A, B, 5000);
        conn.client.port = 20_000 + port;
        conn.open(&mut bed);
        passes(&mut bed, &mut conn, b"x");
    }
    assert_eq!(bed.counters().dropped_total(), 0);

    let mut bed = auditing(get("/"));
    let conn = Conn::new(A, B, 5000);
    bed.send(A.key(), &conn.by_client(TcpFlags::SYN, BAD));
    assert_eq!(bed.got_one(B.key()).payload(), BAD);
    assert_eq!(audits(&bed), [(DropReason::InvalidTcp, Direction::Ingress, None)]);
}

#[test]
fn gate_that_saw_all_enforces_when_audit_mode_ends() {
    let (mut bed, mut conn) = open();
    conn.client_sends(&mut bed, DATA, BAD);
    bed.got_one(B.key());
    conn.server_sends(&mut bed, DATA, OK);
    bed.got_one(A.key());
    bed.audits.clear();
    bed.publish();
    conn.client_sends(&mut bed, DATA, GOOD);
    assert_eq!(bed.got_one(B.key()).payload(), GOOD);
    conn.server_sends(&mut bed, DATA, OK);
    bed.got_one(A.key());
    conn.client_sends(&mut bed, DATA, BAD);
    assert!(bed.got_one(A.key()).payload().starts_with(b"HTTP/1.1 403"));
    assert!(bed.got_one(B.key()).tcp().flags.has(TcpFlags::RST));
}

#[test]
fn gate_that_was_asleep_cuts_when_audit_mode_ends_and_a_new_connection_is_judged() {
    let (mut bed, mut conn) = open();
    passes(&mut bed, &mut conn, b"\x16\x03\x01");
    bed.audits.clear();
    bed.publish();
    conn.client_sends(&mut bed, DATA, GOOD);
    assert!(bed.got_one(A.key()).tcp().flags.has(TcpFlags::RST));
    assert!(bed.got_one(B.key()).tcp().flags.has(TcpFlags::RST));
    let mut again = Conn::new(A, B, 5000);
    again.client.seq = 99;
    again.open(&mut bed);
    again.client_sends(&mut bed, DATA, GOOD);
    assert_eq!(bed.got_one(B.key()).payload(), GOOD);
    again.server_sends(&mut bed, DATA, OK);
    bed.got_one(A.key());
    again.client_sends(&mut bed, DATA, BAD);
    assert!(bed.got_one(B.key()).tcp().flags.has(TcpFlags::RST));
    bed.assert_no_frame_lost();
}

/// A's egress rules and B's ingress rules gate; only B audits.
fn half_auditing() -> (Bed, Conn) {
    let mut bed = auditing(get("/a"));
    bed.set(
        A,
        Rules {
            ingress: None,
            egress: Some(vec![(peer(B), 5000, get("/[ab]"))]),
        },
    );
    let mut conn = Conn::new(A, B, 5000);
    conn.open(&mut bed);
    bed.events();
    (bed, conn)
}

#[test]
fn rules_of_the_side_that_does_not_audit_are_enforced() {
    let (mut bed, mut conn) = half_auditing();
    for path in ["a", "b", "b"] {
        let request = format!("GET /{path} HTTP/1.1\r\nHost: flask\r\n\r\n");
        conn.client_sends(&mut bed, DATA, request.as_bytes());
        assert_eq!(bed.got_one(B.key()).payload(), request.as_bytes());
        conn.server_sends(&mut bed, DATA, OK);
        bed.got_one(A.key());
    }
    let expected = [("/a", false), ("/b", true), ("/b", true)];
    assert_eq!(
        requests(&bed),
        expected.map(|(path, audited)| (path.to_owned(), audited))
    );
    conn.client_sends(&mut bed, DATA, b"GET /c HTTP/1.1\r\nHost: flask\r\n\r\n");
    assert!(bed.got_one(A.key()).payload().starts_with(b"HTTP/1.1 403"));
    assert!(bed.got_one(B.key()).tcp().flags.has(TcpFlags::RST));
    assert_eq!(
        bed.counters()
            .dropped(DropReason::HttpDenied, Some(Direction::Egress)),
        1
    );
    assert_eq!(audited(&bed, Direction::Ingress), 2);

    let (mut bed, mut conn) = half_auditing();
    conn.client_sends(&mut bed, DATA, b"\x16\x03\x01");
    assert!(bed.got_one(B.key()).tcp().flags.has(TcpFlags::RST));
    assert_eq!(bed.dropped(DropReason::NotHttp), 1);
}
