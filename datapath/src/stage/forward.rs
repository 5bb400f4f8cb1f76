//! Forward: what a router and a service translation do to a packet, then out by the receiver's interface.

use policy::{DropReason, EndpointKey, Identity};

use super::icmp_error;
use crate::counters::Stage;
use crate::flow::FlowDirection;
use crate::graph::{Decided, Graph, Refusal, Transit};
use crate::wire::checksum::L4Checksum;
use crate::wire::error_message::ErrorMessage;
use crate::wire::packet::L4;
use crate::wire::rewrite::Side;
use crate::wire::tcp::TcpFlags;
use crate::wire::{ethernet, ipv4, ipv6, tcp};
use crate::xsk::Packet;

/// Sends a packet of a flow on.
pub fn run(
    graph: &mut Graph,
    mut transit: Transit,
    decided: &Decided,
    path_mtu: u16,
    outbox: &mut Vec<(EndpointKey, Packet)>,
) {
    graph.counters.stage(Stage::Forward).add(1);
    let (sides, identities) = match graph.conntrack.get(decided.entry) {
        Some(entry) => (
            sides(&transit, entry.translation, decided.direction),
            (entry.source_identity, entry.destination_identity),
        ),
        None => {
            return graph.refuse(
                transit,
                Identity::UNKNOWN,
                Identity::UNKNOWN,
                DropReason::StaleEndpoint.into(),
            );
        }
    };
    let sent = (|| {
        translate(graph, &mut transit, sides)?;
        let packet = &mut transit.packet;
        decrement_ttl(graph.frames.linear_mut(packet), transit.headers.is_v6())?;
        clamp_mss(graph, &mut transit, path_mtu);
        finish(graph, &mut transit, decided.receiver)
    })();
    match sent {
        Ok(()) => {
            graph.counters.forwarded_packets.add(1);
            graph.counters.forwarded_bytes.add(transit.packet.len() as u64);
            graph.send(decided.receiver, transit.packet, transit.sender, outbox);
        }
        Err(reason) => graph.refuse(transit, identities.0, identities.1, Refusal::from(reason)),
    }
}

/// What the receiver must see on either side, where it differs from what was sent.
type Sides = [Option<(Side, crate::flow::Peer)>; 2];

fn sides(
    transit: &Transit,
    translation: Option<crate::conntrack::Translation>,
    direction: FlowDirection,
) -> Sides {
    match (direction, translation) {
        (_, None) => [None, None],
        (FlowDirection::Original, Some(_)) => [
            Some((Side::Destination, transit.key.destination)),
            Some((Side::Source, transit.key.source)),
        ],
        (FlowDirection::Reply, Some(translation)) => [
            Some((Side::Source, translation.frontend)),
            Some((Side::Destination, translation.client)),
        ],
    }
}

/// TTL and MTU, before anything is changed or judged: the sender is told of a failure. Returns the path's MTU.
///
/// # Errors
/// `TtlExceeded`, `FragmentationNeeded`, or `StaleEndpoint` when the receiver is gone.
pub fn check_path(
    graph: &mut Graph,
    transit: &Transit,
    receiver: EndpointKey,
    outbox: &mut Vec<(EndpointKey, Packet)>,
) -> Result<u16, DropReason> {
    let Some(to) = graph.interfaces.get(receiver).copied() else {
        return Err(DropReason::StaleEndpoint);
    };
    let from_mtu = graph
        .interfaces
        .get(transit.sender)
        .map_or(to.mtu, |from| from.mtu);
    if transit.headers.ttl <= 1 {
        icmp_error::send(graph, transit, ErrorMessage::TimeExceeded, outbox);
        return Err(DropReason::TtlExceeded);
    }
    if transit.headers.ip_len() > usize::from(to.mtu) {
        // Without "don't fragment" a router would fragment; sluice does not, and tells the sender all the same.
        icmp_error::send(graph, transit, ErrorMessage::TooBig(to.mtu.into()), outbox);
        return Err(DropReason::FragmentationNeeded);
    }
    Ok(to.mtu.min(from_mtu))
}

fn translate(graph: &mut Graph, transit: &mut Transit, sides: Sides) -> Result<(), DropReason> {
    for (side, peer) in sides.into_iter().flatten() {
        let linear = graph.frames.linear_mut(&mut transit.packet);
        transit
            .headers
            .translate(linear, side, peer.addr(), Some(peer.port), transit.checksum)
            .ok_or(DropReason::InvalidPacket)?;
    }
    Ok(())
}

fn decrement_ttl(linear: &mut [u8], is_v6: bool) -> Result<(), DropReason> {
    let packet = linear
        .get_mut(ethernet::HEADER_LEN..)
        .ok_or(DropReason::InvalidPacket)?;
    let left = if is_v6 {
        ipv6::decrement_hop_limit(packet)
    } else {
        ipv4::decrement_ttl(packet)
    };
    left.map(drop).ok_or(DropReason::TtlExceeded)
}

/// Lowers the MSS that either side offers to what the path carries (RFC 6691: the fixed headers only).
fn clamp_mss(graph: &mut Graph, transit: &mut Transit, path_mtu: u16) {
    let L4::Tcp(tcp_header) = transit.headers.l4 else {
        return;
    };
    if !tcp_header.flags.has(TcpFlags::SYN) || transit.headers.fragment.is_some() {
        return;
    }
    let ip_header = if transit.headers.is_v6() {
        ipv6::HEADER_LEN
    } else {
        ipv4::HEADER_LEN
    };
    let headers = u16::try_from(ip_header + tcp::HEADER_LEN).unwrap_or(u16::MAX);
    let offset = transit.headers.l4_offset();
    if let Some(segment) = graph.frames.linear_mut(&mut transit.packet).get_mut(offset..) {
        tcp::clamp_mss(segment, path_mtu.saturating_sub(headers), transit.checksum);
    }
}

/// Completes the checksum and addresses the frame.
fn finish(graph: &mut Graph, transit: &mut Transit, receiver: EndpointKey) -> Result<(), DropReason> {
    if transit.checksum == L4Checksum::Partial {
        let packet = &mut transit.packet;
        let (linear, rest) = graph.frames.linear_and_rest(packet);
        transit
            .headers
            .complete_l4_checksum(linear, rest)
            .ok_or(DropReason::InvalidPacket)?;
    }
    let to = graph.interfaces.get(receiver).ok_or(DropReason::StaleEndpoint)?;
    let linear = graph.frames.linear_mut(&mut transit.packet);
    ethernet::set_addresses(linear, to.peer_mac, to.local_mac).ok_or(DropReason::InvalidPacket)
}

/// Makes a packet ready for `receiver` without touching its addresses; for packets that are relayed outside a flow's own path.
pub(super) fn relay(
    graph: &mut Graph,
    transit: &mut Transit,
    receiver: EndpointKey,
) -> Result<(), DropReason> {
    let to = *graph.interfaces.get(receiver).ok_or(DropReason::StaleEndpoint)?;
    if transit.headers.ttl <= 1 {
        return Err(DropReason::TtlExceeded);
    }
    if transit.headers.ip_len() > usize::from(to.mtu) {
        return Err(DropReason::FragmentationNeeded);
    }
    decrement_ttl(
        graph.frames.linear_mut(&mut transit.packet),
        transit.headers.is_v6(),
    )?;
    finish(graph, transit, receiver)
}
