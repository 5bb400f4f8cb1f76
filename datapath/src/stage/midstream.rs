//! Midstream: a segment of a connection that is older than the worker, to or from adopted endpoints only.
//!
//! No SYN tells who began the connection, so both are asked for: the sender, at the port it sends to, and the receiver, at the port
//! that it is sent from. The connection goes on in an orientation that both endpoints' policies allow. Where they allow one and deny the
//! other, the ports must speak for the one: otherwise whoever is denied a server could be taken for one that the server connected to.
//! Where either asks for HTTP rules, nobody has judged the bytes so far: both ends are reset.
//!
//! Of a connection through a Service the former process may have said who began it and which backend it had
//! ([`crate::translation::Inherited`]). Then that is the orientation, and no other is asked for.
//!
//! Nothing begins here. A SYN is always judged as what it is, whatever entry there is; what a pod's kernel knows no connection for
//! it answers with a reset, which closes the entry.

use policy::{DropReason, EndpointKey, Identity, Slot};

use super::policy::{Judged, decide, report_audits};
use super::{conntrack, reset};
use crate::adoption::Window;
use crate::conntrack::{Audited, Entry, EntryVerdict, InsertError, TcpState};
use crate::flow::{FlowDirection, Peer};
use crate::graph::{Graph, Refusal, Tracked, Transit};
use crate::translation::{HAIRPIN_V4, HAIRPIN_V6, InheritedFlow};
use crate::wire::packet::L4;
use crate::wire::tcp::TcpFlags;
use crate::xsk::Packet;

/// First port that Linux chooses for who connects (`net.ipv4.ip_local_port_range`); translated clients' ports lie above, too.
const FIRST_EPHEMERAL_PORT: u16 = 32_768;

/// What becomes of the segment.
enum Outcome {
    /// It belongs to a flow now.
    Adopted(Tracked),
    /// No endpoint of it may have such connections, or no policy allows it.
    Foreign,
    /// The bytes would have to be judged.
    Unjudged {
        /// Interface that the segment would leave by.
        receiver: EndpointKey,
        /// The two ends as they are called there, the sender first.
        ends: (Peer, Peer),
    },
}

/// Takes a segment without an entry, which [`conntrack::run`] has refused.
///
/// # Errors
/// It belongs to no connection that may go on; whoever must know was reset.
pub fn run(
    graph: &mut Graph,
    transit: &Transit,
    outbox: &mut Vec<(EndpointKey, Packet)>,
) -> Result<Tracked, Refusal> {
    match adopt(graph, transit)? {
        Outcome::Adopted(tracked) => return Ok(tracked),
        Outcome::Foreign => reset::answer_midstream(graph, transit, outbox),
        Outcome::Unjudged {
            receiver,
            ends: (from, to),
        } => {
            reset::answer(graph, transit, outbox);
            // Who sent it is proven of pods only.
            if transit.sender.slot.is_endpoint() {
                reset::receiver(graph, transit, from, to, receiver, outbox);
            }
        }
    }
    Err(DropReason::Midstream.into())
}

fn adopt(graph: &mut Graph, transit: &Transit) -> Result<Outcome, Refusal> {
    if let Some((flow, direction)) = inherited(graph, transit) {
        return resume(graph, transit, &flow, direction);
    }
    let Some(receiver) = receiver_of_adopted(graph, transit)? else {
        return Ok(Outcome::Foreign);
    };
    let forward = Entry::new(transit.key, transit.sender, receiver);
    let backward = Entry::new(transit.key.reversed(), receiver, transit.sender);
    let candidates = [
        (forward, FlowDirection::Original),
        (backward, FlowDirection::Reply),
    ]
    .map(|(entry, direction)| Candidate::new(graph, entry, direction));
    if candidates.iter().any(Candidate::is_gated) {
        return Ok(Outcome::Unjudged {
            receiver,
            ends: (transit.key.source, transit.key.destination),
        });
    }
    match choose(candidates) {
        Some((candidate, judged)) => candidate.enter(graph, transit, &judged).map(Outcome::Adopted),
        None => Ok(Outcome::Foreign),
    }
}

/// The connection of the former process that the segment belongs to, and which way it goes there.
fn inherited(graph: &Graph, transit: &Transit) -> Option<(InheritedFlow, FlowDirection)> {
    let (inherited, services) = (graph.translations.inherited(), &graph.snapshot.services);
    let (flow, direction) = match &transit.translated {
        Some(translated) => (
            inherited.of_client(services, transit.sender, &translated.sent()),
            FlowDirection::Original,
        ),
        None => (
            inherited.of_backend(services, transit.sender, &transit.key),
            FlowDirection::Reply,
        ),
    };
    Some((*flow?, direction))
}

/// Goes on with a connection of the former process, if all that it depends on is as it was.
fn resume(
    graph: &mut Graph,
    transit: &Transit,
    flow: &InheritedFlow,
    direction: FlowDirection,
) -> Result<Outcome, Refusal> {
    let InheritedFlow {
        sender,
        receiver,
        translated,
    } = *flow;
    if !is_of_established(transit) {
        return Ok(Outcome::Foreign);
    }
    // Interfaces are served one after the other: until then nothing is said of the connection.
    if [sender, receiver]
        .map(|key| graph.interfaces.get(key))
        .contains(&None)
    {
        return Err(DropReason::EndpointNotReady.into());
    }
    let client = graph.interfaces.endpoint_at(translated.translation.client.addr());
    let is_own = match sender.slot {
        slot if slot.is_endpoint() => client == Some(sender),
        slot => slot == Slot::HOST && client.is_none() && graph.translate_host,
    };
    let is_led_there = match direction {
        FlowDirection::Original => conntrack::receiver(graph, transit)? == receiver,
        FlowDirection::Reply => true,
    };
    let out = match direction {
        FlowDirection::Original => receiver,
        FlowDirection::Reply => sender,
    };
    if !is_own || !is_led_there || !may_go_on(graph, transit, out)? {
        return Ok(Outcome::Foreign);
    }
    let mut entry = Entry::new(translated.key, sender, receiver);
    entry.translation = Some(translated.translation);
    entry.hairpin = translated.hairpin;
    let mut candidate = Candidate::new(graph, entry, direction);
    if candidate.is_gated() {
        let ends = match direction {
            FlowDirection::Original => (translated.key.source, translated.key.destination),
            FlowDirection::Reply => (translated.translation.frontend, translated.translation.client),
        };
        return Ok(Outcome::Unjudged { receiver: out, ends });
    }
    let Some(judged) = candidate.judged.take() else {
        return Ok(Outcome::Foreign);
    };
    if !graph.translations.has_room(sender.slot) {
        return Err(DropReason::NoNatMapping.into());
    }
    let tracked = candidate.enter(graph, transit, &judged)?;
    graph.translations.keep(sender.slot, &translated);
    Ok(Outcome::Adopted(tracked))
}

/// Interface that the segment would leave by, if it may belong to an older connection: every local endpoint of it is adopted.
///
/// # Errors
/// `EndpointNotReady` as long as that cannot be judged: to be sent again.
fn receiver_of_adopted(graph: &Graph, transit: &Transit) -> Result<Option<EndpointKey>, DropReason> {
    if graph.adoptions.is_empty() || transit.translated.is_some() || !is_of_established(transit) {
        return Ok(None);
    }
    let destination = transit.key.destination.addr();
    // An answer of a pod to itself: the client's side of the translation is lost.
    if destination == HAIRPIN_V4 || destination == HAIRPIN_V6 {
        return Ok(None);
    }
    let receiver = conntrack::receiver(graph, transit)?;
    Ok(may_go_on(graph, transit, receiver)?.then_some(receiver))
}

/// Whether the segment is one of an established connection by its flags, and whole.
fn is_of_established(transit: &Transit) -> bool {
    let L4::Tcp(tcp) = transit.headers.l4 else {
        return false;
    };
    let others = [TcpFlags::SYN, TcpFlags::RST];
    transit.headers.fragment.is_none()
        && tcp.flags.has(TcpFlags::ACK)
        && !others.into_iter().any(|flag| tcp.flags.has(flag))
}

/// Whether the windows of both interfaces are open for the segment.
///
/// # Errors
/// `EndpointNotReady` as long as that cannot be judged: to be sent again.
fn may_go_on(graph: &Graph, transit: &Transit, receiver: EndpointKey) -> Result<bool, DropReason> {
    let windows = [transit.sender, receiver].map(|key| match key.slot.is_endpoint() {
        true => graph.adoptions.window(key, graph.clock.mono_ns),
        false => Window::Open,
    });
    let is_flooded = !transit.sender.slot.is_endpoint() && graph.adoptions.is_full_from_outside(receiver);
    if windows.contains(&Window::Closed) || is_flooded {
        Ok(false)
    } else if windows.contains(&Window::Waits) {
        Err(DropReason::EndpointNotReady)
    } else {
        Ok(true)
    }
}

/// One of the two orientations.
struct Candidate {
    entry: Entry,
    /// Which way the segment goes in it.
    direction: FlowDirection,
    source: Identity,
    destination: Identity,
    /// `None` if policy denies it.
    judged: Option<Judged>,
}

impl Candidate {
    fn new(graph: &Graph, entry: Entry, direction: FlowDirection) -> Self {
        let (source, destination, outcome) = decide(&graph.snapshot, &entry);
        // Behind the node's address on the forwarding pair may be anybody (a source there is someone outside).
        let is_masked = entry.destination.slot == Slot::FORWARD && destination == Identity::HOST;
        Self {
            entry,
            direction,
            source,
            destination,
            judged: outcome.ok().filter(|_| !is_masked),
        }
    }

    fn is_gated(&self) -> bool {
        self.judged
            .as_ref()
            .is_some_and(|judged| matches!(judged.verdict, EntryVerdict::AllowHttp { .. }))
    }

    fn is_audited(&self) -> bool {
        self.judged
            .as_ref()
            .is_some_and(|judged| judged.audits.iter().any(Option::is_some))
    }

    /// Whether the port that is connected to is one that servers have, and the other one that clients get.
    fn ports_agree(&self) -> bool {
        self.entry.key.source.port >= FIRST_EPHEMERAL_PORT
            && self.entry.key.destination.port < FIRST_EPHEMERAL_PORT
    }

    /// Makes the entry. It counts as established when the side that began has been heard: a segment in answer to nothing must
    /// not be remembered for long.
    fn enter(mut self, graph: &mut Graph, transit: &Transit, judged: &Judged) -> Result<Tracked, Refusal> {
        let L4::Tcp(tcp) = transit.headers.l4 else {
            return Err(DropReason::Midstream.into());
        };
        let state = TcpState::SynReceived
            .next(self.direction, tcp.flags)
            .map_err(|_invalid| DropReason::InvalidTcp)?;
        judged.stamp_on(&mut self.entry, self.source, self.destination);
        self.entry.tcp = TcpState::SynReceived;
        // So that a side that knows nothing of the connection ends it by its reset.
        self.entry.window.expect(self.direction.reverse(), tcp.ack);
        let id = graph
            .conntrack
            .insert(self.entry, graph.clock.seconds())
            .map_err(|error| match error {
                InsertError::Full => DropReason::ConntrackFull,
                InsertError::Quota => DropReason::FlowQuota,
            })?;
        graph
            .adoptions
            .count(transit.sender, self.entry.receiver(self.direction));
        graph.counters.adopted_flows.add(1);
        if !report_audits(graph, transit, judged, &self.entry, Audited::default()) {
            let event = graph.event(transit, self.source, self.destination, judged.event);
            graph.report(self.entry.in_its_terms(event));
        }
        Ok(Tracked {
            entry: Some(id),
            direction: self.direction,
            destination: self.entry.destination,
            tcp: state,
            replaces: None,
        })
    }
}

/// The orientation to go on in, if any. Two that are both allowed differ in what later changes of policy make of the connection only.
fn choose(candidates: [Candidate; 2]) -> Option<(Candidate, Judged)> {
    let [mut forward, mut backward] = candidates;
    let (chosen, is_contested) = match (&forward.judged, &backward.judged) {
        (None, None) => return None,
        (Some(_), None) => (&mut forward, true),
        (None, Some(_)) => (&mut backward, true),
        (Some(_), Some(_)) => {
            // What needs no audit first, then what the ports say, then the way the segment goes.
            let rank = |candidate: &Candidate| (candidate.is_audited(), !candidate.ports_agree());
            if rank(&backward) < rank(&forward) {
                (&mut backward, false)
            } else {
                (&mut forward, false)
            }
        }
    };
    if is_contested && !chosen.ports_agree() {
        return None;
    }
    let judged = chosen.judged.take()?;
    let is_forward = chosen.direction == FlowDirection::Original;
    Some((if is_forward { forward } else { backward }, judged))
}
