//! A byte stream in arbitrary segments, repeated, overlapping and early ones among them, against the same stream in one byte
//! steps: same verdict, and nothing past the denied byte is ever forwarded.
//!
//! `cargo +nightly fuzz run http1_gate -- -dict=http1.dict`
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use sluice_l7::{GateVerdict, HttpGate, L7Sink, Payload, Segment};
use sluice_policy::{Direction, DropReason, HeaderMatch, HttpRule, HttpRuleSet};

static RULES: LazyLock<HttpRuleSet> = LazyLock::new(|| {
    let by_line = HttpRule {
        method: Some("GET|POST".into()),
        path: Some("/a.*".into()),
        ..HttpRule::default()
    };
    let by_head = HttpRule {
        path: Some("/h.*".into()),
        host: Some("h(:1)?".into()),
        headers: ["X-T: 1", "X-U"].map(HeaderMatch::parse).to_vec(),
        ..HttpRule::default()
    };
    HttpRuleSet::new(vec![by_line, by_head]).expect("compiles")
});

#[derive(Default)]
struct Passed(usize);

impl L7Sink for Passed {
    fn request(&mut self, _: &[u8], _: &[u8], denied: Option<(DropReason, Option<Direction>)>) {
        self.0 += usize::from(denied.is_none());
    }
    fn response(&mut self, _: u16) {}
}

fuzz_target!(|input: (u32, Vec<(u16, u8, bool)>, Vec<u8>)| {
    let (start, sends, stream) = input;
    let rules = [(Direction::Ingress, &*RULES)];
    let seq = |at: usize| start.wrapping_add(u32::try_from(at).expect("short"));
    let acknowledge = |gate: &mut HttpGate, at: usize| {
        let reply = Segment {
            seq: 1,
            ack: seq(at),
            payload: Payload::EMPTY,
            fin: false,
        };
        assert_eq!(gate.server(&reply, &mut Passed::default()), GateVerdict::Forward);
    };

    let (mut gate, mut one_by_one, mut passed) = (HttpGate::new(start, 1), None, Passed::default());
    for (at, byte) in stream.iter().enumerate() {
        let slices: [&[u8]; 1] = [std::slice::from_ref(byte)];
        let segment = Segment {
            seq: seq(at),
            ack: 1,
            payload: Payload::new(&slices),
            fin: false,
        };
        match gate.client(&segment, &rules, &mut passed) {
            GateVerdict::Forward => acknowledge(&mut gate, at + 1),
            GateVerdict::Deny(denial) => {
                one_by_one = Some((at, denial.reason, denial.direction));
                break;
            }
            GateVerdict::Drop(reason) => panic!("{reason:?}"),
        }
    }

    let (mut gate, mut events, mut at, mut outcome) = (HttpGate::new(start, 1), Passed::default(), 0, None);
    let fill = stream.len() / 64 + 1;
    let sends = sends
        .into_iter()
        .map(|(from, len, ack)| (Some(usize::from(from)), usize::from(len), ack));
    for (from, len, ack) in sends.chain(std::iter::repeat_n((None, 64, true), fill)) {
        let from = from.unwrap_or(at).min(stream.len());
        let end = (from + len).min(stream.len());
        let slices: Vec<&[u8]> = stream[from..end].chunks(7).collect();
        let segment = Segment {
            seq: seq(from),
            ack: 1,
            payload: Payload::new(&slices),
            fin: false,
        };
        match gate.client(&segment, &rules, &mut events) {
            GateVerdict::Forward if from <= at => at = at.max(end),
            GateVerdict::Forward => assert_eq!(from, end),
            GateVerdict::Drop(DropReason::L7OutOfOrder) => assert!(from > at),
            GateVerdict::Drop(reason) => assert_eq!(reason, DropReason::L7Capacity),
            GateVerdict::Deny(denial) => {
                outcome = Some((denial.reason, denial.direction));
                assert_eq!(denial.server_reset_seq, seq(at));
                break;
            }
        }
        if ack {
            acknowledge(&mut gate, at);
        }
    }
    match one_by_one {
        Some((offset, reason, direction)) => {
            assert!(at <= offset);
            assert_eq!(outcome, Some((reason, direction)));
            assert!(events.0 <= passed.0);
        }
        None => {
            assert_eq!((outcome, at), (None, stream.len()));
            assert_eq!(events.0, passed.0);
        }
    }
});
