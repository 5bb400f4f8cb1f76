//! HTTP: the gate's verdict on a request of 140 bytes that comes in one segment, and the rules by themselves.
//!
//! - `verdict-*`: one request on each of 32 connections, keep-alive; the responses between are fed outside the timed part.
//! - `keep-alive-*`: one connection, request and response both timed.
//! - `rules-*`: `HttpRuleSet::decide` alone. The last rule of the list is the one that allows.
//!
//! Rules are of method and path (`literal`, `regex`), or of host and two headers as well (`head`).

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, criterion_group, criterion_main};
use l7::{GateVerdict, HttpGate, L7Sink, Payload, Segment};
use policy::{Direction, DropReason, HttpRequest, HttpRule, HttpRuleSet};
use sluice_bench::case::{Batch, bench_batches, bench_loop};
use sluice_bench::connection::{RESPONSE, request};
use sluice_bench::node::{http_head_rules, http_path, http_rules};

const STAGE: &str = "l7";
const BATCH: usize = 32;

/// So many rules.
type Rules = fn(usize) -> Vec<HttpRule>;

/// Counts what the gate reports.
#[derive(Default)]
struct Tally {
    requests: usize,
    responses: usize,
}

impl L7Sink for Tally {
    fn request(&mut self, _: &[u8], _: &[u8], denied: Option<(DropReason, Option<Direction>)>) {
        self.requests += usize::from(denied.is_none());
    }
    fn response(&mut self, _: u16) {
        self.responses += 1;
    }
}

/// A gate and where its streams are.
struct Flow {
    gate: HttpGate,
    client_next: u32,
    server_next: u32,
}

impl Flow {
    fn new() -> Self {
        Self {
            gate: HttpGate::new(1, 1),
            client_next: 1,
            server_next: 1,
        }
    }

    fn segment<'a>(payload: Payload<'a>, seq: &mut u32, ack: u32) -> Segment<'a> {
        let segment = Segment {
            seq: *seq,
            ack,
            payload,
            fin: false,
        };
        *seq = segment.end();
        segment
    }

    fn request(&mut self, head: &[u8], rules: &HttpRuleSet, tally: &mut Tally) -> GateVerdict {
        let slices = [head];
        let segment = Self::segment(Payload::new(&slices), &mut self.client_next, self.server_next);
        self.gate.client(&segment, &[(Direction::Ingress, rules)], tally)
    }

    fn response(&mut self, tally: &mut Tally) -> GateVerdict {
        let segment = Self::segment(Payload::new(&[RESPONSE]), &mut self.server_next, self.client_next);
        self.gate.server(&segment, tally)
    }
}

struct Verdicts {
    flows: Vec<Flow>,
    rules: HttpRuleSet,
    head: Vec<u8>,
    tally: Tally,
    forwarded: usize,
}

impl Batch for Verdicts {
    fn prepare(&mut self) {
        self.tally = Tally::default();
        self.forwarded = 0;
    }

    fn run(&mut self) {
        for flow in &mut self.flows {
            let verdict = flow.request(&self.head, &self.rules, &mut self.tally);
            self.forwarded += usize::from(verdict == GateVerdict::Forward);
        }
    }

    fn clear(&mut self) {
        assert_eq!(
            (self.forwarded, self.tally.requests),
            (BATCH, BATCH),
            "a request was denied"
        );
        for flow in &mut self.flows {
            assert_eq!(flow.response(&mut self.tally), GateVerdict::Forward);
        }
        assert_eq!(self.tally.responses, BATCH);
    }
}

fn cases(group: &mut BenchmarkGroup<'_, WallTime>, kind: &str, rules: Rules, count: usize) {
    let rules = || HttpRuleSet::new(rules(count)).expect("the bench's rules compile");
    bench_batches(
        group,
        STAGE,
        &format!("verdict-{kind}-{count}-rules"),
        BATCH as u64,
        || Verdicts {
            flows: (0..BATCH).map(|_| Flow::new()).collect(),
            rules: rules(),
            head: request(&http_path(count)),
            tally: Tally::default(),
            forwarded: 0,
        },
    );
    bench_loop(
        group,
        STAGE,
        &format!("keep-alive-{kind}-{count}-rules"),
        1,
        || {
            let (mut flow, rules, head) = (Flow::new(), rules(), request(&http_path(count)));
            let mut tally = Tally::default();
            move || {
                assert_eq!(flow.request(&head, &rules, &mut tally), GateVerdict::Forward);
                assert_eq!(flow.response(&mut tally), GateVerdict::Forward);
            }
        },
    );
    bench_loop(group, STAGE, &format!("rules-{kind}-{count}-rules"), 1, || {
        let (rules, path) = (rules(), http_path(count));
        move || {
            let decided = rules.decide(&HttpRequest {
                method: "GET",
                path: std::hint::black_box(&path),
                host: "flask-app-service",
                headers: &[
                    ("Host", b"flask-app-service"),
                    ("User-Agent", b"curl/8.5.0"),
                    ("Accept", b"*/*"),
                    ("X-Pad", b"xxxxxxxxxxxxxxxx"),
                ],
            });
            assert_eq!(decided, Some(count - 1));
        }
    });
}

fn l7(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group(STAGE);
    let kinds: [(&str, Rules); 3] = [
        ("literal", |count| http_rules(count, false)),
        ("regex", |count| http_rules(count, true)),
        ("head", http_head_rules),
    ];
    for (kind, rules) in kinds {
        for count in [1, 10, 100] {
            cases(&mut group, kind, rules, count);
        }
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(30).warm_up_time(std::time::Duration::from_millis(500))
        .measurement_time(std::time::Duration::from_secs(2));
    targets = l7
}
criterion_main!(benches);
