//! Parse: bytes to headers, source guard, ARP and neighbour discovery answered, checksum judged, service translated.

use policy::{DropReason, EndpointKey, Frontend, Identity, Protocol, ServiceLookup, Slot};

use super::{neighbour, reset, source_guard};
use crate::adoption::Window;
use crate::event::{FlowEvent, FlowEventKind};
use crate::flow::{FlowKey, Peer};
use crate::graph::{Graph, Refusal, Transit};
use crate::interface::InterfaceKind;
use crate::wire::array_at;
use crate::wire::checksum::L4Checksum;
use crate::wire::icmp::Echo;
use crate::wire::nd::NdMessage;
use crate::wire::packet::{Headers, IcmpBody, IpHeaders, L4, claimed_addresses};
use crate::wire::quoted::{QuotedL4, QuotedPacket};
use crate::xsk::Packet;

/// Takes one packet in: it goes to `batch`, is answered, or is dropped.
pub fn run(
    graph: &mut Graph,
    sender: EndpointKey,
    mut packet: Packet,
    batch: &mut Vec<Transit>,
    outbox: &mut Vec<(EndpointKey, Packet)>,
) {
    let Some(interface) = graph.interfaces.get(sender).copied() else {
        return graph.drop_packet(packet, sender, Refusal::from(DropReason::StaleEndpoint), None);
    };
    let headers = match Headers::parse(graph.frames.linear(&packet), packet.len()) {
        Ok(headers) => headers,
        Err(reason) => return unparsed(graph, packet, sender, reason),
    };
    let headers = match (headers, interface.kind) {
        (Headers::Arp(arp), InterfaceKind::Endpoint(endpoint)) => {
            return neighbour::arp(graph, sender, &endpoint, packet, &arp, outbox);
        }
        // The host pairs are NOARP.
        (Headers::Arp(_), _) => return unparsed(graph, packet, sender, DropReason::UnsupportedL2),
        (Headers::Ip(headers), _) => headers,
    };
    let guarded = match &interface.kind {
        InterfaceKind::Endpoint(endpoint) => source_guard::endpoint(endpoint, &headers),
        InterfaceKind::Host | InterfaceKind::Forward => {
            source_guard::node(&graph.interfaces, &graph.snapshot, &headers)
        }
    };
    if let Err(reason) = guarded {
        return unparsed(graph, packet, sender, reason);
    }
    graph.frames.truncate(&mut packet, headers.frame_len());
    if NdMessage::of(&headers).is_some() {
        return match &interface.kind {
            InterfaceKind::Endpoint(endpoint) => {
                neighbour::discovery(graph, sender, endpoint, packet, &headers, outbox);
            }
            InterfaceKind::Host | InterfaceKind::Forward => {
                unparsed(graph, packet, sender, DropReason::ForbiddenIcmpv6);
            }
        };
    }
    let checksum = headers.l4_checksum(graph.frames.segments(&packet));
    if checksum == Some(L4Checksum::Bad) {
        return unparsed(graph, packet, sender, DropReason::BadChecksum);
    }
    let checksum = checksum.unwrap_or_else(|| fragment_checksum(&headers, graph.frames.linear(&packet)));
    let transit = Transit {
        packet,
        sender,
        headers,
        checksum,
        key: FlowKey::UNSPECIFIED,
        hash: 0,
        translated: None,
        held_until_ns: None,
    };
    if headers.fragment.is_some() {
        return super::fragment::run(graph, transit, batch, outbox);
    }
    match flow_key(&headers) {
        Ok(key) => translate(graph, transit, key, batch, outbox),
        Err(reason) => {
            let sender = transit.sender;
            unparsed(graph, transit.packet, sender, reason);
        }
    }
}

/// A fragment's checksum covers bytes that are elsewhere: it is taken for full and kept right by difference, unless UDP has none.
fn fragment_checksum(headers: &IpHeaders, linear: &[u8]) -> L4Checksum {
    let field = headers.l4_checksum_offset().and_then(|at| array_at(linear, at));
    match (headers.l4, field) {
        (L4::Udp { .. }, Some([0, 0])) => L4Checksum::Absent,
        _ => L4Checksum::Valid,
    }
}

/// Whether a segment to a NodePort may be of a connection without that Service, which is older than the worker.
fn may_be_answer(graph: &Graph, sender: EndpointKey, sent: &FlowKey) -> bool {
    let found = graph
        .snapshot
        .services
        .lookup(sent.destination.addr(), sent.destination.port, sent.protocol);
    let is_node_port =
        matches!(found, ServiceLookup::Service(service) if service.frontend == Frontend::NodePort);
    is_node_port && graph.adoptions.window(sender, graph.clock.mono_ns) != Window::Closed
}

/// Names the packet's flow and translates it if its destination is a service.
pub fn translate(
    graph: &mut Graph,
    mut transit: Transit,
    sent: FlowKey,
    batch: &mut Vec<Transit>,
    outbox: &mut Vec<(EndpointKey, Packet)>,
) {
    transit.key = sent;
    let slot = transit.sender.slot;
    let is_client = slot.is_endpoint() || graph.translate_host && slot == Slot::HOST;
    if is_client && quoted(&transit.headers).is_none() {
        let begins = match transit.headers.l4 {
            L4::Tcp(tcp) => tcp.flags.begins(),
            L4::LaterFragment => false,
            L4::Udp { .. } | L4::Icmp { .. } => true,
        };
        let (services, translations) = (&graph.snapshot.services, &graph.translations);
        let translated = match translations.translate(
            services,
            &graph.conntrack,
            &graph.interfaces,
            slot,
            &sent,
            begins,
        ) {
            // Which backend the connection had, the former process may have said.
            Err(DropReason::Midstream) => {
                match translations
                    .inherited()
                    .of_client(services, transit.sender, &sent)
                {
                    Some(flow) => Ok(Some(flow.translated)),
                    // Perhaps no Service's at all, but an answer to who has this port by chance: as such the midstream stage takes it.
                    None if may_be_answer(graph, transit.sender, &sent) => Ok(None),
                    None => Err(DropReason::Midstream),
                }
            }
            translated => translated,
        };
        match translated {
            Ok(None) => {}
            Ok(Some(translated)) => {
                transit.key = translated.key;
                transit.translated = Some(translated);
            }
            Err(reason) => {
                match reason {
                    DropReason::NoBackend | DropReason::IsClusterIp => {
                        reset::reject(graph, &transit, outbox);
                    }
                    // Which backend the connection had is not known any more.
                    DropReason::Midstream => reset::answer_midstream(graph, &transit, outbox),
                    _ => {}
                }
                return graph.refuse(
                    transit,
                    Identity::UNKNOWN,
                    Identity::UNKNOWN,
                    Refusal::from(reason),
                );
            }
        }
    }
    transit.hash = graph.conntrack.hash(&transit.key);
    batch.push(transit);
}

/// The packet that an ICMP error is about.
#[must_use]
pub fn quoted(headers: &IpHeaders) -> Option<QuotedPacket> {
    match headers.l4 {
        L4::Icmp {
            body: IcmpBody::Error(quoted),
            ..
        } => Some(quoted),
        _ => None,
    }
}

/// The flow that a packet names; an ICMP error names that of the packet it quotes.
pub(super) fn flow_key(headers: &IpHeaders) -> Result<FlowKey, DropReason> {
    let (source, destination) = match headers.l4 {
        L4::Tcp(_) | L4::Udp { .. } => headers.ports(),
        L4::Icmp {
            body: IcmpBody::Echo(echo),
            ..
        } => echo_ports(echo),
        L4::Icmp {
            body: IcmpBody::Error(quoted),
            ..
        } => return Ok(quoted_key(&quoted)),
        // Timestamp, multicast listener reports and the like: nothing to track them by.
        L4::Icmp { .. } | L4::LaterFragment => return Err(DropReason::UnknownL4),
    };
    Ok(FlowKey {
        source: Peer::new(headers.source, source),
        destination: Peer::new(headers.destination, destination),
        protocol: headers.protocol,
    })
}

/// The identifier is the port of the side that asks: request and reply have mirrored keys, and the other side's own requests with
/// the same identifier are another flow.
const fn echo_ports(echo: Echo) -> (u16, u16) {
    if echo.is_request {
        (echo.id, 0)
    } else {
        (0, echo.id)
    }
}

fn quoted_key(quoted: &QuotedPacket) -> FlowKey {
    let (source, destination) = match quoted.l4 {
        QuotedL4::Tcp {
            source_port,
            destination_port,
            ..
        }
        | QuotedL4::Udp {
            source_port,
            destination_port,
        } => (source_port, destination_port),
        QuotedL4::Echo(echo) => echo_ports(echo),
    };
    FlowKey {
        source: Peer::new(quoted.source, source),
        destination: Peer::new(quoted.destination, destination),
        protocol: quoted.protocol,
    }
}

/// Drops a packet whose flow is not known; the event shows what it claims to be.
pub fn unparsed(graph: &mut Graph, packet: Packet, sender: EndpointKey, reason: DropReason) {
    let unspecified = std::net::IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED);
    let claimed = claimed_addresses(graph.frames.linear(&packet));
    let (source, destination, protocol) = claimed.unwrap_or((unspecified, unspecified, Protocol::ANY));
    let event = FlowEvent {
        time_ns: graph.clock.unix_ns,
        revision: graph.snapshot.revision,
        source: sender,
        destination: None,
        source_identity: Identity::UNKNOWN,
        destination_identity: Identity::UNKNOWN,
        source_addr: source,
        destination_addr: destination,
        source_port: 0,
        destination_port: 0,
        service: None,
        protocol,
        is_reply: false,
        kind: FlowEventKind::Dropped {
            reason,
            direction: None,
            rule: None,
        },
    };
    graph.drop_packet(packet, sender, Refusal::from(reason), Some(event));
}
