//! Audit mode: what the policy of an endpoint would deny passes, and is reported as such (Cilium's `policy-audit-mode`).
//!
//! Only policy is audited. What is dropped for other reasons (forged sources, malformed packets, full tables) is dropped here, too.

use policy::{Direction, DropReason, RuleId};

use crate::conntrack::Entry;
use crate::event::{FlowEvent, FlowEventKind};
use crate::graph::{Graph, Transit};

/// A denial that is not enforced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Audit {
    pub(super) reason: DropReason,
    pub(super) direction: Direction,
    /// The deny rule.
    pub(super) rule: Option<RuleId>,
}

impl Audit {
    /// What the gate would refuse, in the name of a direction that has rules.
    pub(super) const fn of_gate(reason: DropReason, direction: Direction) -> Self {
        Self {
            reason,
            direction,
            rule: None,
        }
    }

    /// Counts and reports the denial of the flow of `entry`, in the terms of its original direction.
    pub(super) fn report(self, graph: &Graph, transit: &Transit, entry: &Entry) {
        graph.counters.audited(self.direction).add(1);
        let kind = FlowEventKind::Audited {
            reason: self.reason,
            direction: self.direction,
            rule: self.rule,
        };
        let event = graph.event(transit, entry.source_identity, entry.destination_identity, kind);
        graph.report(entry.in_its_terms(event));
    }
}

impl Entry {
    /// The event as one of the flow, whichever way the packet goes that it was made of.
    pub(super) fn in_its_terms(&self, event: FlowEvent) -> FlowEvent {
        FlowEvent {
            source: self.source,
            destination: Some(self.destination),
            source_addr: self.key.source.addr(),
            destination_addr: self.key.destination.addr(),
            source_port: self.key.source.port,
            destination_port: self.key.policy_port(),
            protocol: self.key.protocol,
            service: self.translation.map(|t| (t.frontend.addr(), t.frontend.port)),
            ..event
        }
    }
}
