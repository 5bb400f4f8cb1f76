//! Conntrack: which flow a packet belongs to, whether it came by the flow's interface, and what it does to the TCP state.

use policy::{DropReason, EndpointKey, Identity, Slot};

use crate::conntrack::table::Found;
use crate::conntrack::{Entry, EntryId, TcpState};
use crate::flow::FlowDirection;
use crate::graph::{Graph, Refusal, Tracked, Transit};
use crate::wire::packet::{IcmpBody, L4};
use crate::wire::tcp::TcpFlags;

/// Finds or begins the packet's flow. `found` is the batch lookup's result, which earlier packets of the batch may have outdated.
///
/// # Errors
/// The packet belongs to no flow and begins none, or contradicts its flow.
pub fn run(graph: &Graph, transit: &Transit, found: Found) -> Result<Tracked, Refusal> {
    let found = match found {
        Some((id, _)) if graph.conntrack.get(id).is_some() => found,
        _ => graph.conntrack.lookup(&transit.key, transit.hash),
    };
    let mut replaces = None;
    if let Some((id, direction)) = found {
        match continue_flow(graph, transit, id, direction)? {
            Continued::Flow(tracked) => return Ok(tracked),
            Continued::Reopened => replaces = Some(id),
        }
    }
    let tracked = begin_flow(graph, transit)?;
    Ok(Tracked { replaces, ..tracked })
}

/// What a packet with a known tuple does.
enum Continued {
    /// It belongs to the flow.
    Flow(Tracked),
    /// The flow was closed and the packet begins another. The old one stays known until the new one is: a SYN that is refused
    /// must not make anything forgotten.
    Reopened,
}

/// A packet of a known flow.
fn continue_flow(
    graph: &Graph,
    transit: &Transit,
    id: EntryId,
    direction: FlowDirection,
) -> Result<Continued, Refusal> {
    let Some(entry) = graph.conntrack.get(id).copied() else {
        return Ok(Continued::Reopened);
    };
    let flags = match transit.headers.l4 {
        L4::Tcp(tcp) => Some(tcp.flags),
        _ => None,
    };
    if flags.is_some_and(TcpFlags::begins) && entry.tcp.may_reopen() {
        return Ok(Continued::Reopened);
    }
    check_interface(&entry, direction, transit.sender)?;
    // A flow through a service and one straight to its backend never share an entry.
    if direction == FlowDirection::Original
        && entry.translation != transit.translated.map(|translated| translated.translation)
    {
        return Err(DropReason::NoNatMapping.into());
    }
    let tcp = next_state(&entry, direction, transit)?;
    Ok(Continued::Flow(Tracked {
        entry: Some(id),
        direction,
        destination: entry.destination,
        tcp,
        replaces: None,
    }))
}

/// State of the flow once the packet has passed. A reset that its receiver ignores changes nothing.
fn next_state(entry: &Entry, direction: FlowDirection, transit: &Transit) -> Result<TcpState, Refusal> {
    let L4::Tcp(tcp) = transit.headers.l4 else {
        return Ok(entry.tcp);
    };
    let next = entry
        .tcp
        .next(direction, tcp.flags)
        .map_err(|_invalid| DropReason::InvalidTcp)?;
    if !tcp.flags.has(TcpFlags::RST) {
        return Ok(next);
    }
    let refuses_syn = entry.tcp == TcpState::SynSent
        && direction == FlowDirection::Reply
        && tcp.flags.has(TcpFlags::ACK)
        && entry.window.acknowledges_all(tcp.ack);
    let is_taken = refuses_syn || entry.window.takes_reset(direction, tcp.seq);
    Ok(if is_taken { next } else { entry.tcp })
}

/// Takes note of a packet that passes, in its flow's entry.
pub fn settle(graph: &mut Graph, transit: &Transit, id: EntryId, direction: FlowDirection, tcp: TcpState) {
    let now = graph.clock.seconds();
    let Some(entry) = graph.conntrack.get_mut(id) else {
        return;
    };
    if let L4::Tcp(header) = transit.headers.l4 {
        // A SYN inside a connection has numbers of another one.
        let is_foreign = header.flags.begins() && entry.tcp.is_synchronised();
        if let (false, Ok(len)) = (is_foreign, u32::try_from(transit.headers.payload_len())) {
            let control =
                u32::from(header.flags.has(TcpFlags::SYN)) + u32::from(header.flags.has(TcpFlags::FIN));
            let end = header.seq.wrapping_add(len).wrapping_add(control);
            let ack = header.flags.has(TcpFlags::ACK).then_some(header.ack);
            entry.window.observe(direction, header.seq, end, ack);
        }
    }
    entry.tcp = tcp;
    entry.passed(direction, now);
}

/// A packet must come by the interface that its side of the flow is at.
fn check_interface(entry: &Entry, direction: FlowDirection, sender: EndpointKey) -> Result<(), Refusal> {
    let expected = entry.sender(direction);
    if expected == sender {
        return Ok(());
    }
    if expected.slot == sender.slot {
        return Err(DropReason::StaleEndpoint.into());
    }
    // What answers at a node's address may be a process (host pair) or something that the kernel translates and forwards (a
    // NodePort): both are the node's stack, and only the kernel can have let the packet in.
    let of_node = |key: EndpointKey| key.slot == Slot::HOST || key.slot == Slot::FORWARD;
    let answers_for_node = direction == FlowDirection::Reply
        && of_node(expected)
        && of_node(sender)
        && entry.destination_identity == Identity::HOST;
    if answers_for_node {
        Ok(())
    } else {
        Err(DropReason::WrongInterface.into())
    }
}

/// The first packet of a flow; its entry is made when policy has allowed it.
fn begin_flow(graph: &Graph, transit: &Transit) -> Result<Tracked, Refusal> {
    match transit.headers.l4 {
        // The first fragment was judged before it and left no flow.
        L4::LaterFragment => return Err(DropReason::FirstFragmentMissing.into()),
        L4::Tcp(tcp) if !tcp.flags.begins() => return Err(DropReason::Midstream.into()),
        L4::Icmp {
            body: IcmpBody::Echo(echo),
            ..
        } if !echo.is_request => {
            return Err(DropReason::UnrelatedIcmp.into());
        }
        _ => {}
    }
    let receiver = receiver(graph, transit)?;
    let tcp = match transit.headers.l4 {
        L4::Tcp(_) => TcpState::SynSent,
        _ => TcpState::Untracked,
    };
    Ok(Tracked {
        entry: None,
        direction: FlowDirection::Original,
        destination: receiver,
        tcp,
        replaces: None,
    })
}

/// Interface that a flow's first packet leaves by.
pub(super) fn receiver(graph: &Graph, transit: &Transit) -> Result<EndpointKey, DropReason> {
    let destination = transit.key.destination.addr();
    match graph.interfaces.endpoint_at(destination) {
        Some(endpoint) => Ok(endpoint),
        // The node's stack has nothing to say to other addresses on the host pairs, but to those behind Services.
        None if !transit.sender.slot.is_endpoint() && transit.translated.is_none() => {
            Err(DropReason::Unroutable)
        }
        None => {
            let to_node = graph.snapshot.ipcache.lookup(destination) == Identity::HOST;
            let slot = if to_node { Slot::HOST } else { Slot::FORWARD };
            graph.interfaces.occupant(slot).ok_or(DropReason::HostNotReady)
        }
    }
}
