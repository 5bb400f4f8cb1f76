//! What the gate saw, as events and counts.

use l7::L7Sink;
use policy::{Direction, DropReason};

use crate::conntrack::Entry;
use crate::event::{FlowEvent, FlowEventKind, InlineText};
use crate::flow::FlowDirection;
use crate::graph::{Graph, Transit};

/// Events of one segment that are reported; more pipelined requests than that are still judged and counted.
const SINK_EVENTS: usize = 8;

/// Collects what the gate saw while the graph is borrowed.
#[derive(Default)]
pub(super) struct Sink {
    pub(super) reported: [Option<FlowEventKind>; SINK_EVENTS],
    pub(super) count: usize,
    pub(super) forwarded: u64,
    pub(super) denied: u64,
    /// Forwarded requests that egress and ingress deny in audit mode.
    pub(super) audited: [u64; 2],
}

impl Sink {
    pub(super) fn push(&mut self, kind: FlowEventKind) {
        if let Some(place) = self.reported.get_mut(self.count) {
            *place = Some(kind);
            self.count += 1;
        }
    }

    pub(super) fn deliver(&self, graph: &Graph, template: &FlowEvent) {
        graph.counters.http_forwarded.add(self.forwarded);
        graph.counters.http_denied.add(self.denied);
        let [egress, ingress] = self.audited;
        graph.counters.audited(Direction::Egress).add(egress);
        graph.counters.audited(Direction::Ingress).add(ingress);
        for kind in self.reported.iter().take(self.count).flatten() {
            graph.report(FlowEvent {
                kind: *kind,
                ..*template
            });
        }
    }
}

impl L7Sink for Sink {
    fn request(&mut self, method: &[u8], path: &[u8], denied: Option<(DropReason, Option<Direction>)>) {
        match denied {
            None => self.forwarded += 1,
            Some(_) => self.denied += 1,
        }
        self.push(FlowEventKind::HttpRequest {
            denied: denied.map(|(reason, _)| reason),
            direction: denied.and_then(|(_, direction)| direction),
            audited: false,
            method: InlineText::new(method),
            path: InlineText::new(path),
        });
    }

    fn response(&mut self, status: u16) {
        self.push(FlowEventKind::HttpResponse { status });
    }
}

/// What the events of a packet have in common: they speak of the flow, whichever way the packet goes.
pub(super) fn event(graph: &Graph, transit: &Transit, entry: &Entry, direction: FlowDirection) -> FlowEvent {
    let kind = FlowEventKind::HttpResponse { status: 0 };
    let event = graph.event(transit, entry.source_identity, entry.destination_identity, kind);
    FlowEvent {
        is_reply: direction == FlowDirection::Reply,
        ..entry.in_its_terms(event)
    }
}
