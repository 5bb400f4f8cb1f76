//! Fragments: they wait for the first one, which names the flow, and are then judged like it. Nothing is reassembled.

use policy::{DropReason, EndpointKey, Identity};

use super::hold::HELD_PART;
use super::parse;
use crate::fragment::{Released, Space};
use crate::graph::{Graph, Refusal, Transit};
use crate::xsk::Packet;

/// Takes a fragment in; what may go on, earlier arrivals included, goes to `batch`.
pub fn run(
    graph: &mut Graph,
    transit: Transit,
    batch: &mut Vec<Transit>,
    outbox: &mut Vec<(EndpointKey, Packet)>,
) {
    let space = Space {
        frames: transit.packet.frames(),
        room: (graph.frames.total() / HELD_PART).saturating_sub(graph.held_frames()),
    };
    let mut released = std::mem::take(&mut graph.released);
    let (sender, headers) = (transit.sender, transit.headers);
    graph.fragments.admit(
        sender,
        &headers,
        transit,
        space,
        graph.clock.mono_ns,
        &mut released,
    );
    for Released {
        packet: transit,
        outcome,
    } in released.drain(..)
    {
        let key = outcome.and_then(|first| {
            let mut as_first = transit.headers;
            (as_first.protocol, as_first.l4) = (first.protocol, first.l4);
            parse::flow_key(&as_first)
        });
        match key {
            Ok(key) => parse::translate(graph, transit, key, batch, outbox),
            Err(reason) => refuse(graph, transit, reason),
        }
    }
    graph.released = released;
}

/// Drops what waited too long for its first fragment.
pub fn expire(graph: &mut Graph, budget: usize) {
    if graph.fragments.datagrams() == 0 {
        return;
    }
    let mut released = std::mem::take(&mut graph.released);
    graph.fragments.sweep(graph.clock.mono_ns, budget, &mut released);
    drop_all(graph, released);
}

/// Drops what an endpoint that goes had sent.
pub fn forget(graph: &mut Graph, sender: EndpointKey) {
    let mut released = std::mem::take(&mut graph.released);
    graph.fragments.forget(sender, &mut released);
    drop_all(graph, released);
}

fn drop_all(graph: &mut Graph, mut released: Vec<Released<Transit>>) {
    for Released {
        packet: transit,
        outcome,
    } in released.drain(..)
    {
        refuse(
            graph,
            transit,
            outcome.err().unwrap_or(DropReason::FirstFragmentMissing),
        );
    }
    graph.released = released;
}

fn refuse(graph: &mut Graph, transit: Transit, reason: DropReason) {
    graph.refuse(
        transit,
        Identity::UNKNOWN,
        Identity::UNKNOWN,
        Refusal::from(reason),
    );
}
