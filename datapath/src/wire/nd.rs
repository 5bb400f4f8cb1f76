//! Neighbour discovery (RFC 4861): solicitations checked, advertisements built.
//!
//! Router advertisements and redirects are only recognised ([`NdMessage::of`]): nothing that a pod sends may set another's
//! routes.

use std::net::{IpAddr, Ipv6Addr};

use policy::{DropReason, Protocol};

use super::checksum::{L4Checksum, Sum};
use super::ethernet::{self, EtherType, Ethernet};
use super::icmpv6::kind;
use super::packet::{IcmpBody, IpHeaders, L4};
use super::{array_at, array_at_mut, ipv6};
use crate::interface::MacAddr;

/// Length of a solicitation or advertisement without options, bytes.
const MESSAGE_LEN: usize = 24;

/// Length of an advertisement with the link-layer address option, bytes.
const ADVERTISEMENT_LEN: usize = MESSAGE_LEN + 8;

/// Length of a frame with such an advertisement, bytes.
pub const REPLY_LEN: usize = ethernet::HEADER_LEN + ipv6::HEADER_LEN + ADVERTISEMENT_LEN;

const OPTION_SOURCE_LINK_LAYER: u8 = 1;
const OPTION_TARGET_LINK_LAYER: u8 = 2;

/// Hop limit that no forwarded packet can have (RFC 4861, 7.1.1).
const HOP_LIMIT: u8 = 255;

const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

/// Kind of a neighbour discovery message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum NdMessage {
    /// Which routers are there?
    RouterSolicitation,
    /// I am a router.
    RouterAdvertisement,
    /// Who has this address?
    NeighbourSolicitation,
    /// I have this address.
    NeighbourAdvertisement,
    /// Use that router.
    Redirect,
}

impl NdMessage {
    /// The kind of message in a packet; `None` if it is no neighbour discovery.
    #[inline]
    #[must_use]
    pub const fn of(headers: &IpHeaders) -> Option<Self> {
        match headers.l4 {
            L4::Icmp {
                kind,
                body: IcmpBody::NeighbourDiscovery,
                ..
            } => Some(match kind {
                kind::ROUTER_SOLICITATION => Self::RouterSolicitation,
                kind::ROUTER_ADVERTISEMENT => Self::RouterAdvertisement,
                kind::NEIGHBOUR_SOLICITATION => Self::NeighbourSolicitation,
                kind::NEIGHBOUR_ADVERTISEMENT => Self::NeighbourAdvertisement,
                _ => Self::Redirect,
            }),
            _ => None,
        }
    }
}

/// A checked neighbour solicitation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NeighbourSolicitation {
    /// Who asks; unspecified in duplicate address detection.
    pub source: Ipv6Addr,
    /// MAC that the frame came from.
    pub frame_mac: MacAddr,
    /// Address asked for; no multicast address.
    pub target: Ipv6Addr,
    /// MAC that the asker claims.
    pub link_layer: Option<MacAddr>,
}

impl NeighbourSolicitation {
    /// Checks the solicitation in the frame `linear` with these headers, as RFC 4861, 7.1.1 demands, checksum included.
    ///
    /// # Errors
    /// `ForbiddenIcmpv6` if it is no solicitation or breaks a rule of that section; `BadChecksum`; `TruncatedHeader` if it does
    /// not lie in the first frame.
    pub fn parse(headers: &IpHeaders, linear: &[u8]) -> Result<Self, DropReason> {
        let forbidden = DropReason::ForbiddenIcmpv6;
        let (IpAddr::V6(source), IpAddr::V6(destination)) = (headers.source, headers.destination) else {
            return Err(forbidden);
        };
        let is_solicitation = NdMessage::of(headers) == Some(NdMessage::NeighbourSolicitation);
        if !is_solicitation || headers.ttl != HOP_LIMIT || !matches!(headers.l4, L4::Icmp { code: 0, .. }) {
            return Err(forbidden);
        }
        let message = linear
            .get(headers.l4_offset()..headers.frame_len())
            .ok_or(DropReason::TruncatedHeader)?;
        if headers.l4_checksum([linear]) != Some(L4Checksum::Valid) {
            return Err(DropReason::BadChecksum);
        }
        let target = Ipv6Addr::from(*array_at::<16>(message, 8).ok_or(forbidden)?);
        if target.is_multicast() {
            return Err(forbidden);
        }
        let mut link_layer = None;
        let mut options = message.get(MESSAGE_LEN..).ok_or(forbidden)?;
        while let Some(&[kind, units]) = options.first_chunk() {
            let (option, rest) = options
                .split_at_checked(usize::from(units) * 8)
                .ok_or(forbidden)?;
            if units == 0 {
                return Err(forbidden);
            }
            if kind == OPTION_SOURCE_LINK_LAYER {
                link_layer = Some(MacAddr(*array_at(option, 2).ok_or(forbidden)?));
            }
            options = rest;
        }
        let is_probe = source.is_unspecified();
        if !options.is_empty() || is_probe && (link_layer.is_some() || destination != solicited_node(target))
        {
            return Err(forbidden);
        }
        Ok(Self {
            source,
            frame_mac: headers.ethernet.source,
            target,
            link_layer,
        })
    }

    /// Writes a frame that answers "the target is at `mac`, a router"; returns its length, [`REPLY_LEN`]. A probe for duplicates
    /// is answered to all nodes (RFC 4861, 7.2.4), so callers answer only for addresses that are truly taken. `None` if `frame`
    /// is too short.
    #[must_use]
    pub fn write_advertisement(&self, frame: &mut [u8], mac: MacAddr) -> Option<usize> {
        let frame = frame.get_mut(..REPLY_LEN)?;
        let is_probe = self.source.is_unspecified();
        let (destination, destination_mac) = if is_probe {
            (ALL_NODES, multicast_mac(ALL_NODES))
        } else {
            (self.source, self.frame_mac)
        };
        Ethernet {
            destination: destination_mac,
            source: mac,
            ethertype: EtherType::IPV6,
        }
        .write(frame)?;
        let packet = frame.get_mut(ethernet::HEADER_LEN..)?;
        let len = packet.len();
        ipv6::write_header(packet, self.target, destination, Protocol::ICMPV6, HOP_LIMIT, len)?;
        let message: &mut [u8; ADVERTISEMENT_LEN] = array_at_mut(packet, ipv6::HEADER_LEN)?;
        // Router and override, and solicited for all but probes (RFC 4861, 4.4).
        let flags = if is_probe { 0xa0 } else { 0xe0 };
        *array_at_mut(message, 0)? = [kind::NEIGHBOUR_ADVERTISEMENT, 0, 0, 0, flags, 0, 0, 0];
        *array_at_mut(message, 8)? = self.target.octets();
        *array_at_mut(message, MESSAGE_LEN)? = [OPTION_TARGET_LINK_LAYER, 1];
        *array_at_mut(message, MESSAGE_LEN + 2)? = mac.0;
        let length = u32::try_from(ADVERTISEMENT_LEN).ok()?;
        let pseudo = Sum::pseudo_v6(self.target, destination, Protocol::ICMPV6, length);
        let checksum = pseudo.append(message).checksum();
        *array_at_mut(message, 2)? = checksum.to_be_bytes();
        Some(REPLY_LEN)
    }
}

/// The solicited-node multicast address of `address` (RFC 4291, 2.7.1).
#[inline]
#[must_use]
pub const fn solicited_node(address: Ipv6Addr) -> Ipv6Addr {
    let base = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00, 0).to_bits();
    Ipv6Addr::from_bits(base | address.to_bits() & 0xff_ffff)
}

/// The MAC that an IPv6 multicast address is sent to (RFC 2464, 7).
#[inline]
#[must_use]
pub const fn multicast_mac(group: Ipv6Addr) -> MacAddr {
    let [.., a, b, c, d] = group.octets();
    MacAddr([0x33, 0x33, a, b, c, d])
}
