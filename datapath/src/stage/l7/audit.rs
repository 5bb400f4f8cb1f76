//! The gate of flows whose rules are audited: it reports and refuses nothing in their name.

use l7::{GateVerdict, HttpGate, Segment};
use policy::{Direction, DropReason, Snapshot};

use super::report::{Sink, event};
use super::{RuleSet, RuleSets, rules};
use crate::conntrack::Entry;
use crate::event::FlowEventKind;
use crate::graph::{Decided, Graph, Transit};
use crate::l7_flow::L7Flow;
use crate::stage::audit::Audit;

/// The first direction with rules, if all that have some are in audit mode.
pub(super) fn auditor(snapshot: &Snapshot, entry: &Entry) -> Option<Direction> {
    let mut sets = rules(snapshot, entry).ok()?.into_iter().flatten();
    let first = sets.next()?;
    (first.audit && sets.all(|set| set.audit)).then_some(first.direction)
}

/// Judges a client's segment. A request that only directions in audit mode deny is reported, and judged again without them.
pub(super) fn client(
    flow: &mut L7Flow,
    segment: &Segment<'_>,
    sets: RuleSets<'_>,
    sink: &mut Sink,
) -> GateVerdict {
    let judge = |gate: &mut HttpGate, sets: RuleSets<'_>, sink: &mut Sink| match sets
        .map(|set| set.map(RuleSet::named))
    {
        [Some(egress), Some(ingress)] => gate.client(segment, &[egress, ingress], sink),
        [Some(one), None] | [None, Some(one)] => gate.client(segment, &[one], sink),
        [None, None] => gate.client(segment, &[], sink),
    };
    let verdict = judge(&mut flow.gate, sets, sink);
    let auditor = match verdict {
        GateVerdict::Deny(denial) if denial.reason == DropReason::HttpDenied => {
            let mut auditing = sets.iter().flatten().filter(|set| set.audit);
            auditing.find(|set| Some(set.direction) == denial.direction)
        }
        _ => None,
    };
    match auditor {
        Some(auditor) => {
            flow.gate.pardon();
            let mut enforced = Sink::default();
            let verdict = judge(
                &mut flow.gate,
                sets.map(|set| set.filter(|set| !set.audit)),
                &mut enforced,
            );
            if verdict == GateVerdict::Forward {
                flow.is_head_audited = sink.audit(auditor.direction, &enforced, flow.is_head_audited);
            } else {
                *sink = enforced;
            }
            verdict
        }
        None => {
            flow.is_head_audited &= sink.requests() == 0;
            verdict
        }
    }
}

/// Lets a flow in audit mode go on unjudged, after one report.
pub(super) fn sleep(
    graph: &mut Graph,
    transit: &Transit,
    entry: &Entry,
    decided: &Decided,
    audit: Audit,
    sink: &mut Sink,
) {
    let is_reported = sink.audit_denied(audit.direction);
    sink.deliver(graph, &event(graph, transit, entry, decided.direction));
    if !is_reported {
        audit.report(graph, transit, entry);
    }
    // Closed and not given back: it knows which handshake is over.
    if let Some(index) = graph.conntrack.get(decided.entry).and_then(|entry| entry.l7) {
        graph.l7.close(index);
    }
    if let Some(entry) = graph.conntrack.get_mut(decided.entry) {
        entry.audited.l7 = true;
    }
}

impl Sink {
    /// Requests that were judged.
    pub(super) const fn requests(&self) -> u64 {
        self.forwarded + self.denied
    }

    /// Makes denied requests forwarded ones that `by` would have denied; whether there was any.
    fn audit_denied(&mut self, by: Direction) -> bool {
        for kind in self.reported.iter_mut().take(self.count).flatten() {
            if let FlowEventKind::HttpRequest {
                denied: Some(_),
                direction,
                audited,
                ..
            } = kind
            {
                *direction = Some(by);
                *audited = true;
            }
        }
        let denied = std::mem::take(&mut self.denied);
        let [egress, ingress] = &mut self.audited;
        match by {
            Direction::Egress => *egress += denied,
            Direction::Ingress => *ingress += denied,
        }
        self.forwarded += denied;
        denied > 0
    }

    /// The requests of a segment that `by` denies and that passed all the same, and what `enforced` saw beyond them. The first was
    /// reported before if `is_head_audited`; returns whether the last is not complete yet, and so will be judged once more.
    fn audit(&mut self, by: Direction, enforced: &Self, is_head_audited: bool) -> bool {
        let denied = self.denied;
        if is_head_audited && self.count > 0 {
            self.reported.rotate_left(1);
            self.count -= 1;
            self.denied -= 1;
        }
        self.audit_denied(by);
        self.forwarded = enforced.forwarded;
        let beyond = usize::try_from(denied).unwrap_or(usize::MAX);
        for kind in enforced
            .reported
            .iter()
            .take(enforced.count)
            .skip(beyond)
            .flatten()
        {
            self.push(*kind);
        }
        enforced.requests() < denied
    }
}
