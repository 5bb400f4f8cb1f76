//! Hold: the first packet of a flow whose peer is a pod that this node has not heard of yet waits for the next snapshot.

use policy::{Direction, DropReason, EndpointKey, Identity};

use super::policy::Refused;
use super::{parse, source_guard};
use crate::graph::{Graph, Refusal, Tracked, Transit};
use crate::xsk::Packet;

/// Held packets may hold one in so many of all frames, early fragments included.
pub(super) const HELD_PART: usize = 8;

/// Takes a packet that policy has refused: holds it, if its peer may become known and it has not waited long enough, or drops it.
pub fn refuse(graph: &mut Graph, mut transit: Transit, tracked: &Tracked, refused: Refused) {
    let (source, destination, refusal) = refused;
    let refusal = match waiting_for(&transit, tracked, refused) {
        None => refusal,
        Some(endpoint) => {
            let deadline = transit
                .held_until_ns
                .unwrap_or_else(|| graph.holds.deadline_ns(graph.clock.mono_ns));
            if deadline <= graph.clock.mono_ns {
                refusal
            } else {
                match admit(graph, &transit, endpoint) {
                    Ok(flow) => {
                        if transit.held_until_ns.is_none() {
                            graph.counters.held.add(1);
                        }
                        transit.held_until_ns = Some(deadline);
                        let sender = transit.sender;
                        graph.holds.hold(transit, sender, endpoint, flow, deadline);
                        return;
                    }
                    Err(reason) => Refusal { reason, ..refusal },
                }
            }
        }
    };
    graph.refuse(transit, source, destination, refusal);
}

/// The endpoint whose policy denies a new flow to or from an unknown pod. A datagram in fragments is not held: its first fragment
/// alone is of no use.
fn waiting_for(transit: &Transit, tracked: &Tracked, refused: Refused) -> Option<EndpointKey> {
    let (source, destination, refusal) = refused;
    let (peer, endpoint) = match refusal.direction? {
        Direction::Egress => (destination, transit.sender),
        Direction::Ingress => (source, tracked.destination),
    };
    // Nor a packet of many frames: what opens a connection has one.
    let is_first =
        tracked.entry.is_none() && transit.headers.fragment.is_none() && transit.packet.frames() == 1;
    (peer == Identity::UNMANAGED && is_first).then_some(endpoint)
}

fn admit(
    graph: &Graph,
    transit: &Transit,
    endpoint: EndpointKey,
) -> Result<crate::hold::SentFlow, DropReason> {
    let flow = (transit.sender.slot, parse::flow_key(&transit.headers)?);
    graph.holds.admits(endpoint, &flow)?;
    // Frames are what there is a shortage of, not packets.
    if graph.held_frames() + transit.packet.frames() > graph.frames.total() / HELD_PART {
        return Err(DropReason::HoldCapacity);
    }
    Ok(flow)
}

/// Judges held packets again: all of them by a new snapshot, otherwise those whose time is up.
pub fn release(graph: &mut Graph, all: bool, outbox: &mut Vec<(EndpointKey, Packet)>) {
    let now = graph.clock.mono_ns;
    // What is held again goes to the end: each packet is judged once.
    for _ in 0..graph.holds.len() {
        let Some(transit) = graph.holds.pop(now, all) else {
            break;
        };
        // Meanwhile an endpoint may have got the address that somebody beyond the node's stack claims.
        let guarded = match transit.sender.slot.is_endpoint() {
            true => Ok(()),
            false => source_guard::node(&graph.interfaces, &graph.snapshot, &transit.headers),
        };
        let sent = guarded.and_then(|()| parse::flow_key(&transit.headers));
        match sent {
            Ok(sent) => graph.resume(
                Transit {
                    translated: None,
                    ..transit
                },
                sent,
                outbox,
            ),
            Err(reason) => graph.refuse(transit, Identity::UNKNOWN, Identity::UNKNOWN, reason.into()),
        }
    }
}

/// Drops what was held from or for an endpoint that goes.
pub fn forget(graph: &mut Graph, gone: EndpointKey) {
    while let Some(transit) = graph.holds.pop_of(gone) {
        graph.refuse(
            transit,
            Identity::UNKNOWN,
            Identity::UNKNOWN,
            DropReason::StaleEndpoint.into(),
        );
    }
}
