//! Policy: new flows decided, live ones re-decided when what decided them has changed.
//!
//! A flow's entry carries the policy generations of its endpoints and the ipcache generation. As long as they are current its verdict
//! stands. A changed policy re-decides the flows of the endpoints it touches; a changed ipcache costs an identity lookup, and a new
//! decision only if the identity changed.
//!
//! What an endpoint in audit mode denies is allowed, and reported once per flow; the other side of the flow still has its say.

use policy::{Decision, Direction, DropReason, EndpointKey, EndpointPolicy, Identity, Slot, Snapshot};

use super::audit::Audit;
use crate::conntrack::entry::Stamp;
use crate::conntrack::{Audited, Entry, EntryId, EntryVerdict, InsertError};
use crate::event::FlowEventKind;
use crate::flow::FlowKey;
use crate::graph::{Decided, Graph, Refusal, Tracked, Transit};

/// A refusal with the identities it was made for.
pub type Refused = (Identity, Identity, Refusal);

/// Decides a packet's flow if need be.
///
/// # Errors
/// The flow may not pass.
pub fn run(graph: &mut Graph, transit: &Transit, tracked: Tracked) -> Result<Decided, Refused> {
    let id = match tracked.entry {
        None => begin(graph, transit, &tracked)?,
        Some(id) => {
            renew(graph, transit, id)?;
            id
        }
    };
    let entry = graph.conntrack.get(id).ok_or((
        Identity::UNKNOWN,
        Identity::UNKNOWN,
        DropReason::ConntrackFull.into(),
    ))?;
    match entry.verdict {
        EntryVerdict::Allow | EntryVerdict::AllowHttp { .. } => Ok(Decided {
            entry: id,
            direction: tracked.direction,
            receiver: entry.receiver(tracked.direction),
            gated: matches!(entry.verdict, EntryVerdict::AllowHttp { .. }),
        }),
        EntryVerdict::Drop(reason) => Err((entry.source_identity, entry.destination_identity, reason.into())),
        EntryVerdict::Undecided => Err((
            entry.source_identity,
            entry.destination_identity,
            DropReason::EndpointNotReady.into(),
        )),
    }
}

/// Decides a new flow and, if it may pass, adds its entry.
fn begin(graph: &mut Graph, transit: &Transit, tracked: &Tracked) -> Result<EntryId, Refused> {
    let mut entry = Entry::new(transit.key, transit.sender, tracked.destination);
    entry.translation = transit.translated.map(|translated| translated.translation);
    entry.hairpin = transit.translated.is_some_and(|translated| translated.hairpin);
    entry.tcp = tracked.tcp;
    let (source, destination, outcome) = decide(&graph.snapshot, &entry);
    let judged = outcome.map_err(|refusal| (source, destination, refusal))?;
    judged.stamp_on(&mut entry, source, destination);
    let slot = transit.sender.slot;
    let gives_back = || {
        let former = tracked.replaces.and_then(|id| graph.conntrack.get(id));
        former.is_some_and(|former| {
            let held = |translation| graph.translations.holds(slot, &former.key, translation);
            former.source.slot == slot && former.translation.as_ref().is_some_and(held)
        })
    };
    if transit.translated.is_some() && !graph.translations.has_room(slot) && !gives_back() {
        return Err((source, destination, DropReason::NoNatMapping.into()));
    }
    let added = match tracked.replaces {
        Some(former) => graph.reopen(former, entry),
        None => graph.conntrack.insert(entry, graph.clock.seconds()),
    };
    let id = added.map_err(|error| {
        let reason = match error {
            InsertError::Full => DropReason::ConntrackFull,
            InsertError::Quota => DropReason::FlowQuota,
        };
        (source, destination, reason.into())
    })?;
    if let Some(translated) = &transit.translated {
        graph.translations.keep(slot, translated);
        let services = &graph.snapshot.services;
        if !graph.translations.keep_affinity(services, slot, translated) {
            graph.counters.affinities_lost.add(1);
        }
    }
    if !report_audits(graph, transit, &judged, &entry, Audited::default()) {
        graph.report(graph.event(transit, source, destination, judged.event));
    }
    Ok(id)
}

/// Reports what an endpoint in audit mode denies and was not reported of the flow `before`; whether there is anything at all that
/// one denies.
pub(super) fn report_audits(
    graph: &Graph,
    transit: &Transit,
    judged: &Judged,
    entry: &Entry,
    before: Audited,
) -> bool {
    let [egress, ingress] = judged.audits;
    for (audit, is_known) in [(egress, before.egress), (ingress, before.ingress)] {
        if let Some(audit) = audit.filter(|_| !is_known) {
            audit.report(graph, transit, entry);
        }
    }
    egress.is_some() || ingress.is_some()
}

/// Re-decides a flow whose stamp is out of date.
fn renew(graph: &mut Graph, transit: &Transit, id: EntryId) -> Result<(), Refused> {
    let Some(entry) = graph.conntrack.get(id) else {
        return Ok(());
    };
    let current = match stamp(&graph.snapshot, entry) {
        Ok(stamp) if stamp == entry.stamp => return Ok(()),
        Ok(stamp) => stamp,
        Err(reason) => return Err((entry.source_identity, entry.destination_identity, reason.into())),
    };
    let mut entry = *entry;
    let same_policy = Stamp {
        ipcache: entry.stamp.ipcache,
        ..current
    } == entry.stamp;
    let identities = identities(&graph.snapshot, &entry);
    if same_policy && identities == (entry.source_identity, entry.destination_identity) {
        if let Some(entry) = graph.conntrack.get_mut(id) {
            entry.stamp = current;
        }
        return Ok(());
    }
    let before = (entry.verdict, entry.audited);
    let (source, destination, outcome) = decide(&graph.snapshot, &entry);
    match outcome {
        Ok(judged) => {
            judged.stamp_on(&mut entry, source, destination);
            if !matches!(entry.verdict, EntryVerdict::AllowHttp { .. })
                && let Some(index) = entry.l7.take()
            {
                // What passes from now on is not judged: should rules come back, the flow is one that nobody has seen.
                graph.l7.release(index);
            }
            entry.audited.l7 &= matches!(entry.verdict, EntryVerdict::AllowHttp { .. });
            let is_audited = report_audits(graph, transit, &judged, &entry, before.1);
            if before.0 != entry.verdict && !is_audited {
                graph.report(graph.event(transit, source, destination, judged.event));
            }
            if let Some(place) = graph.conntrack.get_mut(id) {
                *place = entry;
            }
            Ok(())
        }
        Err(refusal) => {
            // The entry stays, so that the rest of the flow is dropped without being decided again, and a policy that allows
            // it once more revives it. Its L7 state is worthless: what is dropped from now on is not seen.
            if let Some(index) = entry.l7.take() {
                graph.l7.close(index);
                entry.l7 = Some(index);
            }
            entry.verdict = EntryVerdict::Drop(refusal.reason);
            entry.audited = Audited::default();
            entry.stamp = current;
            (entry.source_identity, entry.destination_identity) = (source, destination);
            if let Some(place) = graph.conntrack.get_mut(id) {
                *place = entry;
            }
            Err((source, destination, refusal))
        }
    }
}

/// A decision that lets the flow pass, so far.
pub(super) struct Judged {
    pub(super) verdict: EntryVerdict,
    stamp: Stamp,
    pub(super) event: FlowEventKind,
    /// What egress and ingress deny in audit mode.
    pub(super) audits: [Option<Audit>; 2],
}

impl Judged {
    pub(super) fn stamp_on(&self, entry: &mut Entry, source: Identity, destination: Identity) {
        entry.verdict = self.verdict;
        entry.stamp = self.stamp;
        [entry.audited.egress, entry.audited.ingress] = self.audits.map(|audit| audit.is_some());
        entry.source_identity = source;
        entry.destination_identity = destination;
    }
}

fn policy_of(snapshot: &Snapshot, key: EndpointKey) -> Result<Option<&EndpointPolicy>, DropReason> {
    if !key.slot.is_endpoint() {
        return Ok(None);
    }
    snapshot
        .endpoint(key)
        .map(|policy| Some(policy.as_ref()))
        .ok_or(DropReason::EndpointNotReady)
}

fn stamp(snapshot: &Snapshot, entry: &Entry) -> Result<Stamp, DropReason> {
    Ok(Stamp {
        source_policy: policy_of(snapshot, entry.source)?
            .map(|p| p.generation)
            .unwrap_or_default(),
        destination_policy: policy_of(snapshot, entry.destination)?
            .map(|p| p.generation)
            .unwrap_or_default(),
        ipcache: snapshot.ipcache.generation(),
    })
}

/// Who the two sides are. A local endpoint is known by its interface; the host by the pair it sends on; all others by address.
fn identities(snapshot: &Snapshot, entry: &Entry) -> (Identity, Identity) {
    let of = |key: EndpointKey, addr| {
        let by_address = || snapshot.ipcache.lookup(addr);
        match key.slot {
            slot if slot.is_endpoint() => snapshot
                .endpoint(key)
                .map_or(Identity::UNKNOWN, |policy| policy.identity_at(addr)),
            _ => by_address(),
        }
    };
    let source = match (entry.source.slot, of(entry.source, entry.key.source.addr())) {
        (Slot::HOST, _) => Identity::HOST,
        // `host` is proven by the path: masqueraded NodePort packets carry the node's address, and whoever sent them is outside.
        (Slot::FORWARD, Identity::HOST) => snapshot.ipcache.outside(entry.key.source.addr()),
        (_, identity) => identity,
    };
    (source, of(entry.destination, entry.key.destination.addr()))
}

/// Asks the source's egress policy and the destination's ingress policy; both must agree.
pub(super) fn decide(snapshot: &Snapshot, entry: &Entry) -> (Identity, Identity, Result<Judged, Refusal>) {
    let (source, destination) = identities(snapshot, entry);
    (source, destination, judge(snapshot, entry, source, destination))
}

fn judge(
    snapshot: &Snapshot,
    entry: &Entry,
    source: Identity,
    destination: Identity,
) -> Result<Judged, Refusal> {
    let stamp = stamp(snapshot, entry)?;
    if entry.hairpin {
        let event = FlowEventKind::Allowed {
            egress: None,
            ingress: None,
        };
        return Ok(Judged {
            verdict: EntryVerdict::Allow,
            stamp,
            event,
            audits: [None; 2],
        });
    }
    let ask = |key, direction, peer| -> Result<(Decision, Option<Audit>), Refusal> {
        let FlowKey { protocol, .. } = entry.key;
        let Some(policy) = policy_of(snapshot, key)? else {
            return Ok((Decision::Allow(None), None));
        };
        let decision = policy.decide(direction, peer, protocol, entry.key.policy_port());
        match decision.drop_reason() {
            None => Ok((decision, None)),
            Some(reason) if policy.audit => {
                let audit = Audit {
                    reason,
                    direction,
                    rule: decision.rule(),
                };
                Ok((Decision::Allow(None), Some(audit)))
            }
            Some(reason) => Err(Refusal {
                reason,
                direction: Some(direction),
                rule: decision.rule(),
            }),
        }
    };
    let (egress, egress_audit) = ask(entry.source, Direction::Egress, destination)?;
    let (ingress, ingress_audit) = ask(entry.destination, Direction::Ingress, source)?;
    let http = |decision| match decision {
        Decision::AllowHttp(index, _) => Some(index),
        _ => None,
    };
    let verdict = match (http(egress), http(ingress)) {
        (None, None) => EntryVerdict::Allow,
        (egress, ingress) => EntryVerdict::AllowHttp { egress, ingress },
    };
    let event = FlowEventKind::Allowed {
        egress: egress.rule(),
        ingress: ingress.rule(),
    };
    Ok(Judged {
        verdict,
        stamp,
        event,
        audits: [egress_audit, ingress_audit],
    })
}
