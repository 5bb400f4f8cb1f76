//! Source guard: an endpoint sends only from its own MAC and addresses, and only to where a pod may send.

use std::net::IpAddr;

use policy::{DropReason, Snapshot};

use crate::interface::EndpointConfig;
use crate::interface_table::InterfaceTable;
use crate::wire::nd::NdMessage;
use crate::wire::packet::IpHeaders;

/// Checks a packet that came from an endpoint.
///
/// # Errors
/// `InvalidSourceIp` for a MAC or address that is not the endpoint's own; see [`destination`] for the others.
pub fn endpoint(config: &EndpointConfig, headers: &IpHeaders) -> Result<(), DropReason> {
    if headers.ethernet.source != config.pod_mac {
        return Err(DropReason::InvalidSourceIp);
    }
    let own = match headers.source {
        IpAddr::V4(addr) => config.ipv4 == Some(addr),
        IpAddr::V6(addr) => config.ipv6 == Some(addr),
    };
    if NdMessage::of(headers).is_some() {
        // Neighbour discovery also comes from the link-local address, and from `::` while an address is being probed (RFC 4862,
        // 5.4.2); its destination is checked where it is answered.
        let link_local = headers.source == IpAddr::V6(config.pod_mac.link_local());
        return if own || link_local || headers.source.is_unspecified() {
            Ok(())
        } else {
            Err(DropReason::InvalidSourceIp)
        };
    }
    if !own {
        // Its link-local address is the pod's own, too, but leads nowhere: only groups on the link are spoken to with it, or with
        // none before it is known to be unique (RFC 3810, 5.2.13).
        let link_local = headers.source == IpAddr::V6(config.pod_mac.link_local());
        let is_reporting = link_local || headers.source == IpAddr::V6(std::net::Ipv6Addr::UNSPECIFIED);
        let to_group = is_reporting && headers.destination.is_multicast();
        return Err(if to_group {
            DropReason::Multicast
        } else {
            DropReason::InvalidSourceIp
        });
    }
    destination(headers)
}

/// Checks a packet that the node's stack sent on a host pair.
///
/// # Errors
/// `SpoofedEndpoint` if the source is a local endpoint's address, which never enters this way; see [`destination`] for the others.
pub fn node(interfaces: &InterfaceTable, snapshot: &Snapshot, headers: &IpHeaders) -> Result<(), DropReason> {
    // Known to policy before its interface is attached.
    if interfaces.endpoint_at(headers.source).is_some() || snapshot.local.contains(&headers.source) {
        return Err(DropReason::SpoofedEndpoint);
    }
    let never_a_source = headers.source.is_multicast()
        || headers.source.is_unspecified()
        || headers.source.is_loopback()
        || headers.source == IpAddr::V4(std::net::Ipv4Addr::BROADCAST)
        // An IPv4-mapped source would take an IPv4 flow's name.
        || headers.source.to_canonical() != headers.source;
    if never_a_source {
        return Err(DropReason::InvalidPacket);
    }
    destination(headers)
}

/// Refuses destinations that are no single host reachable through a router.
///
/// # Errors
/// `Multicast` for groups and broadcast; `Unroutable` for IPv6 link-local, loopback and unspecified addresses: `fe80::x%veth` would
/// reach a pod past its policy.
fn destination(headers: &IpHeaders) -> Result<(), DropReason> {
    if headers.ethernet.destination.is_group() || headers.destination.is_multicast() {
        return Err(DropReason::Multicast);
    }
    match headers.destination {
        IpAddr::V4(addr) if addr.is_broadcast() => Err(DropReason::Multicast),
        IpAddr::V4(addr) if addr.is_loopback() || addr.is_unspecified() || addr.octets()[0] >= 240 => {
            Err(DropReason::Unroutable)
        }
        IpAddr::V6(addr) if addr.is_unicast_link_local() || addr.is_loopback() || addr.is_unspecified() => {
            Err(DropReason::Unroutable)
        }
        // An IPv4-mapped destination would take an IPv4 flow's name (RFC 4291, 2.5.5.2; never on the wire: RFC 6890).
        IpAddr::V6(addr) if addr.to_ipv4_mapped().is_some() => Err(DropReason::Unroutable),
        IpAddr::V4(_) | IpAddr::V6(_) => Ok(()),
    }
}
