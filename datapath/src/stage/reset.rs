//! Resets that the worker sends itself, and what stands for them where there is no connection.

use policy::{EndpointKey, Slot};

use super::icmp_error;
use crate::conntrack::Entry;
use crate::flow::{FlowDirection, Peer};
use crate::graph::{Decided, Graph, Transit};
use crate::wire::error_message::{ErrorMessage, Unreachable};
use crate::wire::packet::L4;
use crate::wire::tcp::{Segment, Tcp, TcpFlags};
use crate::xsk::Packet;

/// Answers a TCP segment without a connection with a reset, so that a pod whose connections the worker does not know (it was
/// restarted) opens new ones at once instead of retransmitting into the void. Only pods are answered: their source is proven.
pub fn answer_midstream(graph: &mut Graph, transit: &Transit, outbox: &mut Vec<(EndpointKey, Packet)>) {
    // The node's own processes are who they are by the path; beyond the forwarding pair may be anybody.
    let is_known =
        transit.sender.slot.is_endpoint() || (graph.translate_host && transit.sender.slot == Slot::HOST);
    if is_known && transit.headers.fragment.is_none() {
        answer(graph, transit, outbox);
    }
}

/// Tells a pod that nobody serves what it asks for: a reset to a TCP segment, to all else "port unreachable" (RFC 1122, 3.2.2.1). What
/// is no first packet of a flow by its flags, or no whole datagram, gets the latter, too.
pub fn reject(graph: &mut Graph, transit: &Transit, outbox: &mut Vec<(EndpointKey, Packet)>) {
    match transit.headers.l4 {
        L4::Tcp(tcp) if tcp.flags.has(TcpFlags::RST) => {}
        L4::Tcp(_) if transit.headers.fragment.is_none() => answer(graph, transit, outbox),
        _ => icmp_error::send(
            graph,
            transit,
            ErrorMessage::Unreachable(Unreachable::Port),
            outbox,
        ),
    }
}

/// Resets the sender of a segment (RFC 9293, 3.10.7.1), in the name of whom it was sent to.
pub fn answer(graph: &mut Graph, transit: &Transit, outbox: &mut Vec<(EndpointKey, Packet)>) {
    let headers = &transit.headers;
    let (L4::Tcp(_), Ok(payload_len)) = (headers.l4, u32::try_from(headers.payload_len())) else {
        return;
    };
    let built = graph.build(transit.sender, Some(&transit.packet), |linear, ip| {
        let segment = Tcp::parse(linear.get(headers.l4_offset()..)?, headers.l4_len()).ok()?;
        Segment::reset_for(headers.source, headers.destination, &segment, payload_len)?.write(ip)
    });
    if let Some(packet) = built {
        graph.send_own(transit.sender, packet, outbox);
    }
}

/// Resets both ends of a flow that may not go on, from one of its segments: the sender at the number that it expects next, the
/// receiver at the segment's own, which is what it expects if nothing was lost (RFC 5961, 3.2).
pub fn both(
    graph: &mut Graph,
    transit: &Transit,
    entry: &Entry,
    decided: &Decided,
    outbox: &mut Vec<(EndpointKey, Packet)>,
) {
    let L4::Tcp(tcp) = transit.headers.l4 else { return };
    if tcp.flags.has(TcpFlags::RST) {
        return;
    }
    answer(graph, transit, outbox);
    let (from, to) = match (decided.direction, entry.translation) {
        (FlowDirection::Original, _) => (entry.key.source, entry.key.destination),
        (FlowDirection::Reply, Some(translation)) => (translation.frontend, translation.client),
        (FlowDirection::Reply, None) => (entry.key.destination, entry.key.source),
    };
    receiver(graph, transit, from, to, decided.receiver, outbox);
}

/// Resets the receiver of a segment, in the terms it knows the two ends by.
pub(super) fn receiver(
    graph: &mut Graph,
    transit: &Transit,
    from: Peer,
    to: Peer,
    interface: EndpointKey,
    outbox: &mut Vec<(EndpointKey, Packet)>,
) {
    let L4::Tcp(tcp) = transit.headers.l4 else { return };
    let segment = Segment {
        source: from.addr(),
        destination: to.addr(),
        source_port: from.port,
        destination_port: to.port,
        seq: tcp.seq,
        ack: tcp.ack,
        flags: TcpFlags::RST.with(TcpFlags::ACK),
        window: 0,
        timestamps: None,
        payload: &[],
    };
    if let Some(packet) = graph.build(interface, None, |_, ip| segment.write(ip)) {
        graph.send_own(interface, packet, outbox);
    }
}
