//! The gate on whole flows: verdicts, answers, sequence numbers.

use policy::{HeaderMatch, HttpRule};

use super::*;
use crate::http1::head::HEAD_LIMIT;
use crate::segment::Payload;
use crate::sequence::COPY_BYTES;

type Event = (String, String, Option<(DropReason, Option<Direction>)>);

#[derive(Default)]
struct Log {
    requests: Vec<Event>,
    responses: Vec<u16>,
}

impl L7Sink for Log {
    fn request(&mut self, method: &[u8], path: &[u8], denied: Option<(DropReason, Option<Direction>)>) {
        let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
        self.requests.push((text(method), text(path), denied));
    }
    fn response(&mut self, status: u16) {
        self.responses.push(status);
    }
}

fn rules(paths: &[&str]) -> HttpRuleSet {
    let rule = |path: &&str| HttpRule {
        method: None,
        path: Some((*path).into()),
        ..HttpRule::default()
    };
    HttpRuleSet::new(paths.iter().map(rule).collect()).expect("rules of a test compile")
}

/// A flow on which both ends have received everything that was forwarded.
struct Flow {
    gate: HttpGate,
    rules: HttpRuleSet,
    log: Log,
    client: u32,
    server: u32,
    /// What the server acknowledges.
    acked: u32,
}

const CLIENT: u32 = u32::MAX - 20;
const SERVER: u32 = u32::MAX - 5;

impl Flow {
    /// `/`, `/ok` and what begins with `/ok/` are allowed on ingress.
    fn new() -> Self {
        Self {
            gate: HttpGate::new(CLIENT, SERVER),
            rules: rules(&["/", "/ok", "/ok/.*"]),
            log: Log::default(),
            client: CLIENT,
            server: SERVER,
            acked: CLIENT,
        }
    }

    fn raw(&mut self, seq: u32, bytes: &[u8], fin: bool) -> GateVerdict {
        let slices = [bytes];
        let segment = Segment {
            seq,
            ack: self.server,
            payload: Payload::new(&slices),
            fin,
        };
        self.gate
            .client(&segment, &[(Direction::Ingress, &self.rules)], &mut self.log)
    }

    /// Next segment of the client, acknowledged by the server if forwarded.
    fn send(&mut self, bytes: &[u8]) -> GateVerdict {
        let verdict = self.raw(self.client, bytes, false);
        if verdict == GateVerdict::Forward {
            self.client = self.client.wrapping_add(len(bytes));
            self.ack(self.client);
        }
        verdict
    }

    fn ack(&mut self, ack: u32) {
        self.acked = ack;
        let segment = Segment {
            seq: self.server,
            ack,
            payload: Payload::EMPTY,
            fin: false,
        };
        assert_eq!(self.gate.server(&segment, &mut self.log), GateVerdict::Forward);
    }

    fn reply(&mut self, bytes: &[u8]) -> GateVerdict {
        let slices = [bytes];
        let segment = Segment {
            seq: self.server,
            ack: self.acked,
            payload: Payload::new(&slices),
            fin: false,
        };
        let verdict = self.gate.server(&segment, &mut self.log);
        if verdict == GateVerdict::Forward {
            self.server = self.server.wrapping_add(len(bytes));
        }
        verdict
    }
}

fn len(bytes: &[u8]) -> u32 {
    u32::try_from(bytes.len()).expect("short")
}

fn denial(verdict: GateVerdict) -> Denial {
    match verdict {
        GateVerdict::Deny(denial) => denial,
        other => panic!("expected a denial, got {other:?}"),
    }
}

fn allowed(path: &str) -> Event {
    ("GET".into(), path.into(), None)
}

const GET: &[u8] = b"GET /ok HTTP/1.1\r\nHost: a\r\n\r\n";
const BAD: &[u8] = b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n";
const OK: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi";

#[test]
fn denied_request_is_answered_with_403_at_the_right_sequence_numbers() {
    let mut flow = Flow::new();
    let end = CLIENT.wrapping_add(len(BAD));
    assert_eq!(
        denial(flow.send(BAD)),
        Denial {
            reason: DropReason::HttpDenied,
            direction: Some(Direction::Ingress),
            answer: Answer::Forbidden,
            client_ack: end,
            server_seq: SERVER,
            server_reset_seq: CLIENT,
        }
    );
    let denied = Some((DropReason::HttpDenied, Some(Direction::Ingress)));
    assert_eq!(flow.log.requests, [("GET".into(), "/metrics".into(), denied)]);
}

#[test]
fn closed_flow_passes_nothing_more_in_either_direction() {
    let mut flow = Flow::new();
    let _ = denial(flow.send(BAD));
    assert_eq!(flow.send(GET), GateVerdict::Drop(DropReason::L7Closed));
    assert_eq!(flow.send(b""), GateVerdict::Drop(DropReason::L7Closed));
    assert_eq!(flow.reply(OK), GateVerdict::Drop(DropReason::L7Closed));
    flow.gate.reset(CLIENT, SERVER, false);
    assert_eq!(flow.send(GET), GateVerdict::Forward);
}

#[test]
fn pardoned_denial_leaves_the_gate_as_if_the_segment_had_never_come() {
    let denied = b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n";
    for cut in 0..denied.len() {
        let mut flow = Flow::new();
        if flow.send(&denied[..cut]) != GateVerdict::Forward {
            continue;
        }
        assert_eq!(denial(flow.send(&denied[cut..])).reason, DropReason::HttpDenied);
        flow.gate.pardon();
        // Denied again, by the same rules; without any, it passes.
        assert_eq!(denial(flow.send(&denied[cut..])).server_reset_seq, flow.client);
        flow.gate.pardon();
        flow.rules = rules(&[".*"]);
        assert_eq!(flow.send(&denied[cut..]), GateVerdict::Forward, "{cut}");
        assert_eq!(flow.log.requests.last(), Some(&allowed("/metrics")));
        flow.rules = rules(&["/ok"]);
        assert_eq!(
            flow.send(b"GET /ok HTTP/1.1\r\nHost: a\r\n\r\n"),
            GateVerdict::Forward
        );
    }
}

#[test]
fn every_keep_alive_request_is_judged() {
    let mut flow = Flow::new();
    for _ in 0..1000 {
        assert_eq!(flow.send(GET), GateVerdict::Forward);
        assert_eq!(flow.reply(OK), GateVerdict::Forward);
    }
    let (client, server) = (flow.client, flow.server);
    let denial = denial(flow.send(BAD));
    assert_eq!(
        (denial.answer, denial.server_seq, denial.server_reset_seq),
        (Answer::Forbidden, server, client)
    );
    assert_eq!((flow.log.requests.len(), flow.log.responses.len()), (1001, 1000));
}

#[test]
fn every_rule_set_must_allow() {
    let (all, none) = (rules(&[".*"]), rules(&[]));
    for (sets, direction) in [
        (
            [(Direction::Egress, &all), (Direction::Ingress, &none)],
            Direction::Ingress,
        ),
        (
            [(Direction::Egress, &none), (Direction::Ingress, &all)],
            Direction::Egress,
        ),
    ] {
        let segment = Segment {
            seq: 1,
            ack: 1,
            payload: Payload::new(&[GET]),
            fin: false,
        };
        let verdict = HttpGate::new(1, 1).client(&segment, &sets, &mut Log::default());
        assert_eq!(denial(verdict).direction, Some(direction));
    }
}

#[test]
fn request_line_is_decided_before_its_carriage_return_passes() {
    let mut flow = Flow::new();
    assert_eq!(flow.send(b"GET /metrics HTTP/1.1"), GateVerdict::Forward);
    let client = flow.client;
    let denial = denial(flow.send(b"\r"));
    assert_eq!(
        (denial.answer, denial.server_reset_seq),
        (Answer::Forbidden, client)
    );
    assert_eq!(denial.client_ack, client.wrapping_add(1));
}

#[test]
fn head_is_judged_before_the_carriage_return_of_its_empty_line_passes() {
    let mut flow = Flow::new();
    assert_eq!(
        flow.send(b"GET /ok HTTP/1.1\r\nHost: a\r\nHost: b\r\n"),
        GateVerdict::Forward
    );
    assert_eq!(denial(flow.send(b"\r")).reason, DropReason::HttpMalformed);
}

#[test]
fn rules_that_change_inside_a_head_hold_for_its_end() {
    let mut flow = Flow::new();
    assert_eq!(
        flow.send(b"GET /ok HTTP/1.1\r\nHost: a\r\n"),
        GateVerdict::Forward
    );
    flow.rules = rules(&["/"]);
    assert_eq!(denial(flow.send(b"\r\n")).reason, DropReason::HttpDenied);
}

#[test]
fn one_byte_segments_give_the_same_verdict() {
    let mut flow = Flow::new();
    for byte in GET {
        assert_eq!(flow.send(&[*byte]), GateVerdict::Forward);
    }
    assert_eq!(flow.reply(OK), GateVerdict::Forward);
    let line_end = BAD.iter().position(|byte| *byte == b'\r').expect("line end");
    for byte in &BAD[..line_end] {
        assert_eq!(flow.send(&[*byte]), GateVerdict::Forward);
    }
    assert_eq!(denial(flow.send(b"\r")).answer, Answer::Forbidden);
    assert_eq!(flow.log.requests[0], allowed("/ok"));
}

#[test]
fn second_pipelined_request_denied_denies_the_segment_with_a_reset() {
    let mut flow = Flow::new();
    let denial = denial(flow.send(&[GET, BAD].concat()));
    assert_eq!((denial.answer, denial.server_reset_seq), (Answer::Reset, CLIENT));
    let denied = Some((DropReason::HttpDenied, Some(Direction::Ingress)));
    let event = |path: &str| ("GET".to_owned(), path.to_owned(), denied);
    assert_eq!(
        flow.log.requests,
        [event("/ok"), event("/metrics")],
        "neither was forwarded"
    );
}

#[test]
fn pipelined_allowed_requests_pass_and_are_each_reported_once() {
    let mut flow = Flow::new();
    assert_eq!(flow.send(&[GET, GET, GET].concat()), GateVerdict::Forward);
    assert_eq!(
        flow.log.requests,
        [allowed("/ok"), allowed("/ok"), allowed("/ok")]
    );
}

#[test]
fn denied_request_behind_an_outstanding_response_is_reset() {
    let mut flow = Flow::new();
    assert_eq!(flow.send(GET), GateVerdict::Forward);
    assert_eq!(flow.reply(&OK[..OK.len() - 1]), GateVerdict::Forward);
    assert_eq!(denial(flow.send(BAD)).answer, Answer::Reset);
}

#[test]
fn denied_request_of_a_client_that_lacks_response_bytes_is_reset() {
    let mut flow = Flow::new();
    assert_eq!(flow.send(GET), GateVerdict::Forward);
    assert_eq!(flow.reply(OK), GateVerdict::Forward);
    flow.server = flow.server.wrapping_sub(1);
    assert_eq!(denial(flow.send(BAD)).answer, Answer::Reset);
}

#[test]
fn request_after_the_servers_fin_is_dropped_and_half_a_head_is_reset_past_the_fin() {
    let mut flow = Flow::new();
    assert_eq!(flow.send(b"GET /ok HT"), GateVerdict::Forward);
    let fin = Segment {
        seq: SERVER,
        ack: CLIENT,
        payload: Payload::EMPTY,
        fin: true,
    };
    assert_eq!(flow.gate.server(&fin, &mut flow.log), GateVerdict::Forward);
    assert_eq!(flow.send(BAD), GateVerdict::Drop(DropReason::InvalidTcp));
    let end = flow.client;
    let denial = denial(flow.raw(end, b"", true));
    assert_eq!(
        (denial.answer, denial.server_seq),
        (Answer::Reset, SERVER.wrapping_add(1))
    );
}

#[test]
fn denied_request_behind_an_unforwarded_body_is_reset() {
    let mut flow = Flow::new();
    assert_eq!(
        flow.send(b"POST /ok HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nab"),
        GateVerdict::Forward
    );
    assert_eq!(flow.reply(OK), GateVerdict::Forward);
    assert_eq!(denial(flow.send(&[b"cd", BAD].concat())).answer, Answer::Reset);
}

#[test]
fn other_protocols_are_reset_with_their_own_reason() {
    for bytes in [
        &b"\x16\x03\x01\x02\x00\x01"[..],
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\0",
    ] {
        let denial = denial(Flow::new().send(bytes));
        assert_eq!(
            (denial.reason, denial.answer),
            (DropReason::NotHttp, Answer::Reset)
        );
    }
}

#[test]
fn upgrade_is_answered_with_403_and_switching_protocols_kills_the_flow() {
    let mut flow = Flow::new();
    let upgrade = b"GET /ok HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n";
    let upgraded = denial(flow.send(upgrade));
    assert_eq!(
        (upgraded.reason, upgraded.answer, upgraded.direction),
        (DropReason::HttpDenied, Answer::Forbidden, None)
    );
    let mut flow = Flow::new();
    assert_eq!(flow.send(GET), GateVerdict::Forward);
    let switched = denial(flow.reply(b"HTTP/1.1 101 Switching Protocols\r\n\r\n\x81\x05"));
    assert_eq!(
        (switched.answer, switched.server_seq, switched.client_ack),
        (Answer::Reset, SERVER, flow.client)
    );
}

#[test]
fn segment_ahead_of_the_judged_bytes_is_dropped_and_changes_nothing() {
    let mut flow = Flow::new();
    let ahead = flow.raw(CLIENT.wrapping_add(1), &GET[1..], false);
    assert_eq!(ahead, GateVerdict::Drop(DropReason::L7OutOfOrder));
    assert_eq!(flow.send(GET), GateVerdict::Forward);
}

#[test]
fn retransmission_passes_if_equal_and_resets_if_not() {
    let mut flow = Flow::new();
    assert_eq!(flow.raw(CLIENT, GET, false), GateVerdict::Forward);
    assert_eq!(flow.raw(CLIENT, GET, false), GateVerdict::Forward);
    assert_eq!(
        flow.raw(CLIENT.wrapping_add(5), &GET[5..9], false),
        GateVerdict::Forward
    );
    assert_eq!(
        flow.log.requests,
        [allowed("/ok")],
        "a retransmission is no new request"
    );
    let denial = denial(flow.raw(CLIENT, b"GET /no HTTP/1.1\r\nHost: a\r\n\r\n", false));
    assert_eq!(
        (denial.reason, denial.answer),
        (DropReason::L7Mismatch, Answer::Reset)
    );
    assert_eq!(denial.server_reset_seq, CLIENT.wrapping_add(len(GET)));
}

#[test]
fn overlap_that_differs_resets_even_with_new_bytes_behind_it() {
    let mut flow = Flow::new();
    assert_eq!(flow.raw(CLIENT, &GET[..10], false), GateVerdict::Forward);
    let mut rest = GET[4..].to_vec();
    assert_eq!(
        flow.raw(CLIENT.wrapping_add(4), &rest[..10], false),
        GateVerdict::Forward
    );
    rest[5] ^= 1;
    assert_eq!(
        denial(flow.raw(CLIENT.wrapping_add(4), &rest, false)).reason,
        DropReason::L7Mismatch
    );
}

#[test]
fn acknowledged_bytes_are_not_compared() {
    let mut flow = Flow::new();
    assert_eq!(flow.send(GET), GateVerdict::Forward);
    let probe = flow.client.wrapping_sub(1);
    assert_eq!(
        flow.raw(probe, b"\0", false),
        GateVerdict::Forward,
        "keep-alive probe with a garbage byte"
    );
}

#[test]
fn acknowledgment_of_bytes_never_forwarded_frees_nothing() {
    let mut flow = Flow::new();
    assert_eq!(flow.raw(CLIENT, GET, false), GateVerdict::Forward);
    flow.ack(CLIENT.wrapping_add(len(GET) + 1));
    assert_eq!(
        denial(flow.raw(CLIENT, b"X", false)).reason,
        DropReason::L7Mismatch
    );
}

#[test]
fn retransmitted_body_bytes_pass_and_framing_around_them_is_compared() {
    let mut flow = Flow::new();
    let body = b"POST /ok HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n";
    assert_eq!(flow.raw(CLIENT, body, false), GateVerdict::Forward);
    let offset = |needle: &[u8]| len(body) - len(needle);
    let data = CLIENT.wrapping_add(offset(b"abc\r\n0\r\n\r\n"));
    assert_eq!(flow.raw(data, b"xyz\r\n", false), GateVerdict::Forward);
    assert_eq!(
        denial(flow.raw(data, b"xyz\r\r", false)).reason,
        DropReason::L7Mismatch
    );
}

#[test]
fn large_post_passes_in_jumbo_segments_without_acknowledgments() {
    let mut flow = Flow::new();
    let mut post = b"POST /ok/up HTTP/1.1\r\nHost: a\r\nContent-Length: 65536\r\n\r\n".to_vec();
    post.extend(vec![b'\r'; 65536]);
    let mut seq = CLIENT;
    for part in post.chunks(9000) {
        assert_eq!(flow.raw(seq, part, false), GateVerdict::Forward);
        seq = seq.wrapping_add(len(part));
    }
    flow.client = seq;
    flow.ack(seq);
    assert_eq!(flow.reply(OK), GateVerdict::Forward);
    assert_eq!(denial(flow.send(BAD)).answer, Answer::Forbidden);
}

#[test]
fn copy_that_is_full_drops_until_the_server_acknowledges() {
    let mut flow = Flow::new();
    let (mut seq, mut dropped) = (CLIENT, false);
    while seq.wrapping_sub(CLIENT) <= len(&[0; COPY_BYTES]) {
        match flow.raw(seq, GET, false) {
            GateVerdict::Forward => seq = seq.wrapping_add(len(GET)),
            other => {
                assert_eq!(other, GateVerdict::Drop(DropReason::L7Capacity));
                dropped = true;
                break;
            }
        }
    }
    assert!(dropped, "the copy is bounded");
    let passed = flow.log.requests.len();
    assert_eq!(passed, COPY_BYTES / GET.len());
    flow.ack(seq);
    assert_eq!(flow.raw(seq, GET, false), GateVerdict::Forward);
    assert_eq!(flow.log.requests.len(), passed + 1);
}

#[test]
fn segment_with_more_framing_than_the_copy_can_ever_take_is_reset() {
    let mut flow = Flow::new();
    let verdict = flow.send(&GET.repeat(COPY_BYTES / GET.len() + 1));
    assert_eq!(denial(verdict).reason, DropReason::HttpMalformed);
}

#[test]
fn unfinished_head_is_kept_though_acknowledged() {
    let mut flow = Flow::new();
    let value = "x".repeat(HEAD_LIMIT - "GET /ok HTTP/1.1\r\nHost: a\r\nA: \r\n\r\n".len());
    let head = format!("GET /ok HTTP/1.1\r\nHost: a\r\nA: {value}\r\n\r\n");
    assert_eq!(head.len(), HEAD_LIMIT);
    for _ in 0..4 {
        for part in head.as_bytes().chunks(1) {
            assert_eq!(flow.send(part), GateVerdict::Forward);
        }
        assert_eq!(flow.reply(OK), GateVerdict::Forward);
    }
    assert_eq!(flow.log.requests.len(), 4);
    let line = format!("GET /{value}{value}");
    let verdict = line
        .as_bytes()
        .chunks(100)
        .map(|part| flow.send(part))
        .find(|v| *v != GateVerdict::Forward);
    assert_eq!(denial(verdict.expect("limit")).reason, DropReason::HttpMalformed);
}

#[test]
fn fin_inside_a_head_is_reset_and_elsewhere_passes() {
    for cut in [1, GET.len() - 4, GET.len() - 1] {
        let denial = denial(Flow::new().raw(CLIENT, &GET[..cut], true));
        assert_eq!(
            (denial.reason, denial.answer),
            (DropReason::HttpMalformed, Answer::Reset),
            "{cut}"
        );
    }
    let mut flow = Flow::new();
    assert_eq!(flow.send(&GET[..5]), GateVerdict::Forward);
    assert_eq!(
        denial(flow.raw(flow.client, b"", true)).reason,
        DropReason::HttpMalformed
    );
    assert_eq!(Flow::new().raw(CLIENT, GET, true), GateVerdict::Forward);
    let post = b"POST /ok HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nab";
    assert_eq!(Flow::new().raw(CLIENT, post, true), GateVerdict::Forward);
}

#[test]
fn nothing_follows_a_fin_and_no_fin_shortens_the_stream() {
    let mut flow = Flow::new();
    assert_eq!(flow.raw(CLIENT, GET, false), GateVerdict::Forward);
    assert_eq!(
        denial(flow.raw(CLIENT, &GET[..5], true)).reason,
        DropReason::L7Mismatch
    );
    let mut flow = Flow::new();
    assert_eq!(flow.raw(CLIENT, GET, true), GateVerdict::Forward);
    assert_eq!(
        flow.raw(CLIENT, GET, true),
        GateVerdict::Forward,
        "retransmission"
    );
    let end = CLIENT.wrapping_add(len(GET));
    assert_eq!(
        flow.raw(end, b"G", false),
        GateVerdict::Drop(DropReason::InvalidTcp)
    );
    assert_eq!(
        denial(flow.raw(CLIENT, b"X", false)).server_reset_seq,
        end.wrapping_add(1)
    );
}

#[test]
fn request_after_connection_close_is_denied() {
    let mut flow = Flow::new();
    let last = b"GET /ok HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    assert_eq!(flow.send(last), GateVerdict::Forward);
    assert_eq!(denial(flow.send(b"G")).reason, DropReason::HttpMalformed);
    let mut flow = Flow::new();
    assert_eq!(flow.send(b"GET /ok HTTP/1.0\r\n\r\n"), GateVerdict::Forward);
    assert_eq!(denial(flow.send(GET)).reason, DropReason::HttpMalformed);
}

#[test]
fn malformed_chunk_is_reset_and_reports_no_request() {
    let mut flow = Flow::new();
    assert_eq!(
        flow.send(b"POST /ok HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"),
        GateVerdict::Forward
    );
    let denial = denial(flow.send(b"5;a=b\r\nhello\r\n"));
    assert_eq!(
        (denial.reason, denial.answer),
        (DropReason::HttpMalformed, Answer::Reset)
    );
    assert_eq!(flow.log.requests.len(), 1);
}

#[test]
fn server_segments_out_of_order_pass_and_cost_only_the_403() {
    let mut flow = Flow::new();
    assert_eq!(flow.send(GET), GateVerdict::Forward);
    flow.server = SERVER.wrapping_add(10);
    assert_eq!(flow.reply(&OK[10..]), GateVerdict::Forward);
    let end = flow.server;
    flow.server = SERVER;
    assert_eq!(flow.reply(&OK[..10]), GateVerdict::Forward);
    flow.server = end;
    let denial = denial(flow.send(BAD));
    assert_eq!((denial.answer, denial.server_seq), (Answer::Reset, end));
}

#[test]
fn memory_is_fixed_when_the_flow_begins() {
    let mut flow = Flow::new();
    let before = flow.gate.bytes();
    assert!((COPY_BYTES..48 << 10).contains(&before), "{before}");
    while flow.raw(flow.client, GET, false) == GateVerdict::Forward {
        flow.client = flow.client.wrapping_add(len(GET));
    }
    assert_eq!(flow.gate.bytes(), before);
}

/// `/ok` on the host `a` with `X-Token: s3` and some `X-Trace`; `/open` on any host, without conditions.
fn head_rules() -> HttpRuleSet {
    let conditional = HttpRule {
        path: Some("/ok.*".into()),
        host: Some("a(:80)?".into()),
        headers: ["X-Token: s3", "X-Trace"].map(HeaderMatch::parse).to_vec(),
        ..HttpRule::default()
    };
    let open = HttpRule {
        path: Some("/open".into()),
        ..HttpRule::default()
    };
    HttpRuleSet::new(vec![conditional, open]).expect("compiles")
}

impl Flow {
    fn with_head_rules() -> Self {
        Self {
            rules: head_rules(),
            ..Self::new()
        }
    }
}

/// A GET of `/ok` with `fields`, each without its line end.
fn with_fields(fields: &[&str]) -> Vec<u8> {
    let fields: String = fields.iter().map(|field| format!("{field}\r\n")).collect();
    format!("GET /ok HTTP/1.1\r\n{fields}\r\n").into_bytes()
}

const HEAD_DENIED: Option<(DropReason, Option<Direction>)> =
    Some((DropReason::HttpDenied, Some(Direction::Ingress)));

#[test]
fn head_that_a_rule_of_host_and_headers_allows_passes_however_it_is_cut() {
    let head = with_fields(&["x-TOKEN:s3 ", "Accept: */*", "Host: a:80", "X-Trace:"]);
    for first in 0..head.len() {
        for second in first..head.len() {
            let mut flow = Flow::with_head_rules();
            for part in [&head[..first], &head[first..second], &head[second..]] {
                assert_eq!(flow.send(part), GateVerdict::Forward, "{first} {second}");
            }
            assert_eq!(flow.log.requests, [allowed("/ok")], "{first} {second}");
        }
    }
}

#[test]
fn head_that_such_a_rule_denies_never_passes_its_end_however_it_is_cut() {
    for fields in [
        &["Host: a", "X-Token: s4", "X-Trace: 1"][..],
        &["Host: a", "X-Token: s3"],
        &["Host: b", "X-Token: s3", "X-Trace: 1"],
    ] {
        let head = with_fields(fields);
        let end = head.len() - 2;
        for first in 0..end {
            for second in first..=end {
                let mut flow = Flow::with_head_rules();
                for part in [&head[..first], &head[first..second]] {
                    assert_eq!(flow.send(part), GateVerdict::Forward, "{first} {second}");
                }
                let client = flow.client;
                let denial = denial(flow.send(&head[second..]));
                assert_eq!(
                    (denial.reason, denial.direction, denial.answer),
                    (
                        DropReason::HttpDenied,
                        Some(Direction::Ingress),
                        Answer::Forbidden
                    )
                );
                assert_eq!(denial.server_reset_seq, client);
                assert_eq!(denial.client_ack, CLIENT.wrapping_add(len(&head)));
                assert_eq!(flow.log.requests, [("GET".into(), "/ok".into(), HEAD_DENIED)]);
            }
        }
    }
}

#[test]
fn host_and_headers_are_decided_before_the_carriage_return_of_the_empty_line_passes() {
    let mut flow = Flow::with_head_rules();
    let head = with_fields(&["Host: a", "X-Token: s4", "X-Trace: 1"]);
    let end = head.len() - 2;
    for byte in &head[..end] {
        assert_eq!(flow.send(&[*byte]), GateVerdict::Forward);
    }
    let client = flow.client;
    let denial = denial(flow.send(b"\r"));
    assert_eq!(
        (denial.answer, denial.server_reset_seq),
        (Answer::Forbidden, client)
    );
}

#[test]
fn line_that_no_rule_of_host_and_headers_can_allow_is_denied_at_its_end() {
    let mut flow = Flow::with_head_rules();
    assert_eq!(flow.send(b"GET /metrics HTTP/1.1"), GateVerdict::Forward);
    assert_eq!(denial(flow.send(b"\r")).reason, DropReason::HttpDenied);
}

#[test]
fn rule_without_conditions_allows_beside_rules_that_have_some() {
    let mut flow = Flow::with_head_rules();
    assert_eq!(
        flow.send(b"GET /open HTTP/1.1\r\nHost: b\r\n"),
        GateVerdict::Forward
    );
    assert_eq!(flow.send(b"X-Token: s4\r\n\r\n"), GateVerdict::Forward);
    assert_eq!(flow.send(b"GET /open HTTP/1.0\r\n\r\n"), GateVerdict::Forward);
}

#[test]
fn ambiguous_host_or_header_denies_where_a_rule_depends_on_it() {
    use DropReason::{HttpDenied, HttpMalformed};
    for (fields, reason) in [
        (&["Host: A", "X-Token: s3", "X-Trace: 1"][..], HttpDenied),
        (&["Host: a:443", "X-Token: s3", "X-Trace: 1"], HttpDenied),
        (&["Host:", "X-Token: s3", "X-Trace: 1"], HttpDenied),
        (&["X-Token: s3", "X-Trace: 1"], HttpMalformed),
        (
            &["Host: a", "Host: a", "X-Token: s3", "X-Trace: 1"],
            HttpMalformed,
        ),
        (&["Host : a", "X-Token: s3", "X-Trace: 1"], HttpMalformed),
        (&["Host: a,a", "X-Token: s3", "X-Trace: 1"], HttpMalformed),
        (
            &["Host: a", "X-Token: s3", "X-Token: s3", "X-Trace: 1"],
            HttpDenied,
        ),
        (&["Host: a", "X-Token: s3", "X-Token:", "X-Trace: 1"], HttpDenied),
        (&["Host: a", "X-Token: s3,", "X-Trace: 1"], HttpDenied),
        (&["Host: a", "X-Token: S3", "X-Trace: 1"], HttpDenied),
        (&["Host: a", "X-Token:", "X-Trace: 1"], HttpDenied),
        (&["Host: a", "X_Token: s3", "X-Trace: 1"], HttpDenied),
        (
            &["Host: a", "X-Token: s3", "X_Token: s4", "X-Trace: 1"],
            HttpDenied,
        ),
        (&["Host: a", "X-Token : s3", "X-Trace: 1"], HttpMalformed),
        (&["Host: a", "X-Token:", " s3", "X-Trace: 1"], HttpMalformed),
        (&["Host: a", "X-Token: s3", "\t4", "X-Trace: 1"], HttpMalformed),
        (&["Host: a", "X-Token: s3\u{e9}", "X-Trace: 1"], HttpMalformed),
        (&["Host: a", "X-Tok\u{e9}n: s3", "X-Trace: 1"], HttpMalformed),
        (&["Host: a", "X-Token: s3\0", "X-Trace: 1"], HttpMalformed),
        (
            &["Host: a", "X-Token: s3", "X-Trace: 1", "Connection: x-token"],
            HttpDenied,
        ),
        (&["Host: a", "Y: \rX-Token: s3", "X-Trace: 1"], HttpMalformed),
        (&["Host: a", "Y: \nX-Token: s3", "X-Trace: 1"], HttpMalformed),
        (&["Host: a", "Y: X-Token: s3", "X-Trace: 1"], HttpDenied),
    ] {
        let denial = denial(Flow::with_head_rules().send(&with_fields(fields)));
        assert_eq!(denial.reason, reason, "{fields:?}");
    }
}

#[test]
fn odd_spelling_that_every_server_reads_alike_is_allowed() {
    for fields in [
        &["hOST:a", "x-token:s3", "X-TRACE:"][..],
        &["Host: \t a \t", "X-Token:\t s3 \t", "X-Trace: ", "X-Trace: 2"],
        &[
            "X-Trace: 1",
            "X-Tokens: s4",
            "X-Token: s3",
            "Host: a",
            "Connection: close",
        ],
    ] {
        let mut flow = Flow::with_head_rules();
        assert_eq!(
            flow.send(&with_fields(fields)),
            GateVerdict::Forward,
            "{fields:?}"
        );
    }
}

#[test]
fn host_in_another_case_than_the_targets_authority_matches_no_rule_of_a_host() {
    let head = |target: &str, host: &str| {
        format!("GET http://{target}/ok HTTP/1.1\r\nHost: {host}\r\nX-Token: s3\r\nX-Trace: 1\r\n\r\n")
    };
    let send = |target, host| Flow::with_head_rules().send(head(target, host).as_bytes());
    assert_eq!(send("a", "a"), GateVerdict::Forward);
    assert_eq!(denial(send("A", "a")).reason, DropReason::HttpDenied);
    assert_eq!(denial(send("a", "A")).reason, DropReason::HttpDenied);
    assert_eq!(denial(send("b", "a")).reason, DropReason::HttpMalformed);
    let plain = Flow::new().send(head("A", "a").as_bytes());
    assert_eq!(
        plain,
        GateVerdict::Forward,
        "without such a rule the two are one host"
    );
}

#[test]
fn every_direction_needs_its_host_and_headers() {
    let (conditional, all) = (head_rules(), rules(&[".*"]));
    for (sets, expected) in [
        (
            [(Direction::Egress, &conditional), (Direction::Ingress, &all)],
            Direction::Egress,
        ),
        (
            [(Direction::Egress, &all), (Direction::Ingress, &conditional)],
            Direction::Ingress,
        ),
    ] {
        let judge = |head: &[u8]| {
            let slices = [head];
            let segment = Segment {
                seq: 1,
                ack: 1,
                payload: Payload::new(&slices),
                fin: false,
            };
            HttpGate::new(1, 1).client(&segment, &sets, &mut Log::default())
        };
        let verdict = judge(&with_fields(&["Host: a", "X-Trace: 1"]));
        assert_eq!(denial(verdict).direction, Some(expected));
        let verdict = judge(&with_fields(&["Host: a", "X-Trace: 1", "X-Token: s3"]));
        assert_eq!(verdict, GateVerdict::Forward);
    }
}

#[test]
fn header_of_one_pipelined_request_does_not_allow_the_next() {
    let good = with_fields(&["Host: a", "X-Token: s3", "X-Trace: 1"]);
    let bad = with_fields(&["Host: a", "X-Trace: 1"]);
    let mut flow = Flow::with_head_rules();
    assert_eq!(
        flow.send(&[good.clone(), good.clone()].concat()),
        GateVerdict::Forward
    );
    assert_eq!(flow.send(&good), GateVerdict::Forward);
    let client = flow.client;
    let denial = denial(flow.send(&[good, bad].concat()));
    assert_eq!((denial.answer, denial.server_reset_seq), (Answer::Reset, client));
}

#[test]
fn header_that_the_server_has_acknowledged_is_judged_as_it_first_came() {
    let head = with_fields(&["Host: a", "X-Token: s4", "X-Trace: 1"]);
    let forged = with_fields(&["Host: a", "X-Token: s3", "X-Trace: 1"]);
    let cut = head.len() - 2;
    let mut flow = Flow::with_head_rules();
    assert_eq!(flow.send(&head[..cut]), GateVerdict::Forward);
    assert_eq!(
        flow.raw(CLIENT, &forged[..cut], false),
        GateVerdict::Forward,
        "the server has these bytes"
    );
    assert_eq!(
        denial(flow.raw(CLIENT, &forged, false)).reason,
        DropReason::HttpDenied
    );
    let mut flow = Flow::with_head_rules();
    assert_eq!(flow.raw(CLIENT, &head[..cut], false), GateVerdict::Forward);
    assert_eq!(
        denial(flow.raw(CLIENT, &forged, false)).reason,
        DropReason::L7Mismatch
    );
}

#[test]
fn header_rules_that_change_inside_a_head_hold_for_its_end() {
    let mut flow = Flow::new();
    assert_eq!(
        flow.send(b"GET /ok HTTP/1.1\r\nHost: a\r\n"),
        GateVerdict::Forward
    );
    flow.rules = head_rules();
    assert_eq!(denial(flow.send(b"\r\n")).reason, DropReason::HttpDenied);
}

#[test]
fn largest_head_is_judged_by_its_last_field() {
    let pad = |token: &str| {
        let bare = with_fields(&["Host: a", "X-Trace: 1", "Y: ", token]).len();
        let pad = format!("Y: {}", "x".repeat(HEAD_LIMIT - bare));
        with_fields(&["Host: a", "X-Trace: 1", &pad, token])
    };
    let mut flow = Flow::with_head_rules();
    assert_eq!(pad("X-Token: s3").len(), HEAD_LIMIT);
    assert_eq!(flow.send(&pad("X-Token: s3")), GateVerdict::Forward);
    assert_eq!(
        denial(flow.send(&pad("X-Token: s4"))).reason,
        DropReason::HttpDenied
    );
}
