//! ARP and neighbour discovery: the worker answers for the gateway itself, from what it was told, and believes nothing it hears.

use policy::{DropReason, EndpointKey};

use crate::graph::{Graph, Refusal};
use crate::interface::EndpointConfig;
use crate::wire::arp::ArpOperation;
use crate::wire::nd::{self, NdMessage, NeighbourSolicitation};
use crate::wire::packet::{ArpHeaders, IpHeaders};
use crate::xsk::Packet;

/// Answers an endpoint's ARP request for any address but its own; everything off the pod is behind the gateway.
pub fn arp(
    graph: &mut Graph,
    sender: EndpointKey,
    endpoint: &EndpointConfig,
    mut packet: Packet,
    headers: &ArpHeaders,
    outbox: &mut Vec<(EndpointKey, Packet)>,
) {
    let arp = &headers.packet;
    let claims_own = arp.sender_mac == endpoint.pod_mac
        && headers.ethernet.source == endpoint.pod_mac
        // 0.0.0.0: a probe before the address is used (RFC 5227, 1.1).
        && (Some(arp.sender) == endpoint.ipv4 || arp.sender.is_unspecified());
    if !claims_own {
        return graph.drop_packet(packet, sender, Refusal::from(DropReason::ForgedNeighbour), None);
    }
    if arp.operation == ArpOperation::Reply || Some(arp.target) == endpoint.ipv4 {
        // Announcements and probes of the pod's own address need no answer, and nothing is learnt from them.
        graph.counters.answered.add(1);
        return graph.frames.release(packet);
    }
    match arp.write_reply(graph.frames.linear_mut(&mut packet), endpoint.gateway_mac) {
        Some(len) => {
            graph.frames.truncate(&mut packet, len);
            graph.counters.answered.add(1);
            graph.send_own(sender, packet, outbox);
        }
        None => graph.drop_packet(packet, sender, Refusal::from(DropReason::TruncatedHeader), None),
    }
}

/// Answers an endpoint's neighbour solicitation; every other neighbour discovery message of a pod ends here.
///
/// Router advertisements and redirects would let a pod route its neighbours' traffic (CVE-2020-10749).
pub fn discovery(
    graph: &mut Graph,
    sender: EndpointKey,
    endpoint: &EndpointConfig,
    packet: Packet,
    headers: &IpHeaders,
    outbox: &mut Vec<(EndpointKey, Packet)>,
) {
    match NdMessage::of(headers) {
        Some(NdMessage::NeighbourSolicitation) => {}
        Some(NdMessage::NeighbourAdvertisement | NdMessage::RouterSolicitation) => {
            // Harmless and normal at a pod's start; nobody to tell.
            graph.counters.answered.add(1);
            return graph.frames.release(packet);
        }
        _ => return graph.drop_packet(packet, sender, Refusal::from(DropReason::ForbiddenIcmpv6), None),
    }
    let solicitation = match NeighbourSolicitation::parse(headers, graph.frames.linear(&packet)) {
        Ok(solicitation) => solicitation,
        Err(reason) => return graph.drop_packet(packet, sender, Refusal::from(reason), None),
    };
    if solicitation.link_layer.is_some_and(|mac| mac != endpoint.pod_mac) {
        return graph.drop_packet(packet, sender, Refusal::from(DropReason::ForgedNeighbour), None);
    }
    let own = Some(solicitation.target) == endpoint.ipv6
        || solicitation.target == endpoint.pod_mac.link_local()
        || solicitation.source.is_unspecified();
    if own {
        // A probe for duplicates: nobody else has the address.
        graph.counters.answered.add(1);
        return graph.frames.release(packet);
    }
    graph.frames.release(packet);
    let reply = graph.frames.allocate(nd::REPLY_LEN);
    let Some(mut reply) = reply else {
        return graph
            .counters
            .drop_packet(DropReason::FrameQuota, None, sender.slot);
    };
    match solicitation.write_advertisement(graph.frames.linear_mut(&mut reply), endpoint.gateway_mac) {
        Some(_) => {
            graph.counters.answered.add(1);
            graph.send_own(sender, reply, outbox);
        }
        None => graph.frames.release(reply),
    }
}
