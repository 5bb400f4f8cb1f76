//! One packet's headers, parsed once and carried through the stages by value.
//!
//! [`Headers::parse`] refuses everything that no later stage has a rule for: what it returns is ARP, or IP with a transport that
//! conntrack tracks, or a fragment. The IPv4 header checksum is verified here; the L4 checksum needs the whole chain and is
//! verified by [`IpHeaders::l4_checksum`]. Multicast, broadcast and source addresses are the callers' to judge.

mod parser;

use std::net::IpAddr;

use policy::{DropReason, Protocol};

use super::arp::ArpPacket;
use super::checksum::{self, L4Checksum, Sum};
use super::ethernet::{EtherType, Ethernet};
use super::icmp::Echo;
use super::ipv4::{FragmentInfo, Ipv4};
use super::ipv6::Ipv6;
use super::quoted::QuotedPacket;
use super::tcp::TcpFlags;
use super::{array_at, array_at_mut, ethernet, icmp, tcp, udp};

/// Headers of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Headers {
    /// ARP for IPv4.
    Arp(ArpHeaders),
    /// IPv4 or IPv6.
    Ip(IpHeaders),
}

/// Headers of an ARP frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ArpHeaders {
    /// Link layer.
    pub ethernet: Ethernet,
    /// The packet.
    pub packet: ArpPacket,
}

/// Headers of an IP packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IpHeaders {
    /// Link layer.
    pub ethernet: Ethernet,
    /// Source address.
    pub source: IpAddr,
    /// Destination address, of the same family.
    pub destination: IpAddr,
    /// Upper-layer protocol. In a later IPv6 fragment it is only claimed: the first fragment's counts.
    pub protocol: Protocol,
    /// TTL or hop limit.
    pub ttl: u8,
    /// Whether routers may not fragment the packet; always so in IPv6.
    pub dont_fragment: bool,
    /// Place in the datagram; `None` for a whole one.
    pub fragment: Option<FragmentInfo>,
    /// Transport header.
    pub l4: L4,
    l4_offset: u16,
    payload_offset: u16,
    ip_len: u32,
}

/// Transport header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum L4 {
    /// TCP.
    Tcp(TcpHeader),
    /// UDP.
    Udp {
        /// Source port.
        source_port: u16,
        /// Destination port.
        destination_port: u16,
    },
    /// ICMP or ICMPv6, as [`IpHeaders::protocol`] says.
    Icmp {
        /// Message type.
        kind: u8,
        /// Message code.
        code: u8,
        /// What the message is about.
        body: IcmpBody,
    },
    /// None: a fragment that is not the first.
    LaterFragment,
}

/// TCP's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TcpHeader {
    /// Source port.
    pub source_port: u16,
    /// Destination port.
    pub destination_port: u16,
    /// Sequence number.
    pub seq: u32,
    /// Acknowledgment number; counts with ACK only.
    pub ack: u32,
    /// Control bits; a possible combination.
    pub flags: TcpFlags,
    /// Window, not scaled.
    pub window: u16,
}

/// What an ICMP message is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IcmpBody {
    /// Echo or echo reply.
    Echo(Echo),
    /// An error about this packet, which its receiver sent.
    Error(QuotedPacket),
    /// Neighbour or router discovery ([`super::nd`]).
    NeighbourDiscovery,
    /// Anything else.
    Other,
}

impl Headers {
    /// Parses a frame of `total_len` bytes whose first bytes are `linear`.
    ///
    /// # Errors
    /// - `UnsupportedL2`: VLAN tag or 802.2; `UnsupportedL3`: other ethertypes than IPv4, IPv6 and ARP.
    /// - `TruncatedHeader`: a header is not whole; `InvalidPacket`: fields contradict each other or the length, or port zero.
    /// - `BadChecksum`: IPv4 header; `IpOptions`: IPv4 options; `InvalidExtensionHeader`: see [`super::ipv6`].
    /// - `TinyFragment`: first fragment without the whole transport header, or offset of 8 bytes (RFC 1858, 3.2.2; either
    ///   family); `FragmentUnsupported`: ICMP error in fragments.
    /// - `UnknownL4`: neither TCP, UDP nor the family's ICMP; `InvalidTcp`: impossible flags.
    /// - `UnrelatedIcmp`: error of a refused type or about a packet that cannot be tracked; `ForbiddenIcmpv6`: neighbour
    ///   discovery with a fragment header (RFC 6980, 5).
    #[inline]
    pub fn parse(linear: &[u8], total_len: usize) -> Result<Self, DropReason> {
        parser::parse(linear, total_len)
    }

    /// Link layer.
    #[inline]
    #[must_use]
    pub const fn ethernet(&self) -> Ethernet {
        match self {
            Self::Arp(arp) => arp.ethernet,
            Self::Ip(ip) => ip.ethernet,
        }
    }
}

/// Source, destination and protocol of a frame that [`Headers::parse`] refused, as far as it has them: for the flow log only.
#[must_use]
pub fn claimed_addresses(linear: &[u8]) -> Option<(IpAddr, IpAddr, Protocol)> {
    let ethernet = Ethernet::parse(linear).ok()?;
    let packet = linear.get(ethernet::HEADER_LEN..)?;
    match ethernet.ethertype {
        EtherType::IPV4 => {
            let header = Ipv4::quoted(packet)?;
            Some((
                IpAddr::V4(header.source()),
                IpAddr::V4(header.destination()),
                header.protocol(),
            ))
        }
        EtherType::IPV6 => {
            let header = Ipv6::quoted(packet)?;
            let protocol = Protocol(header.next_header());
            Some((
                IpAddr::V6(header.source()),
                IpAddr::V6(header.destination()),
                protocol,
            ))
        }
        _ => None,
    }
}

impl IpHeaders {
    /// Whether the packet is IPv6.
    #[inline]
    #[must_use]
    pub const fn is_v6(&self) -> bool {
        self.source.is_ipv6()
    }

    /// Offset of the IP header in the frame, bytes.
    #[inline]
    #[must_use]
    pub const fn l3_offset(&self) -> usize {
        ethernet::HEADER_LEN
    }

    /// Offset of the transport header in the frame (later fragment: of the fragment's payload), bytes.
    #[inline]
    #[must_use]
    pub const fn l4_offset(&self) -> usize {
        self.l4_offset as usize
    }

    /// Offset of the transport's payload in the frame, bytes.
    #[inline]
    #[must_use]
    pub const fn payload_offset(&self) -> usize {
        self.payload_offset as usize
    }

    /// Length of the IP packet, headers included, bytes.
    #[inline]
    #[must_use]
    pub const fn ip_len(&self) -> usize {
        self.ip_len as usize
    }

    /// Length of the frame without padding, bytes: what to trim it to.
    #[inline]
    #[must_use]
    pub const fn frame_len(&self) -> usize {
        ethernet::HEADER_LEN + self.ip_len()
    }

    /// Length of the transport header and payload in this packet, bytes.
    #[inline]
    #[must_use]
    pub const fn l4_len(&self) -> usize {
        self.frame_len().saturating_sub(self.l4_offset())
    }

    /// Length of the transport's payload in this packet, bytes.
    #[inline]
    #[must_use]
    pub const fn payload_len(&self) -> usize {
        self.frame_len().saturating_sub(self.payload_offset())
    }

    /// Source and destination port; zeros where there are none.
    #[inline]
    #[must_use]
    pub const fn ports(&self) -> (u16, u16) {
        match self.l4 {
            L4::Tcp(TcpHeader {
                source_port,
                destination_port,
                ..
            })
            | L4::Udp {
                source_port,
                destination_port,
            } => (source_port, destination_port),
            L4::Icmp { .. } | L4::LaterFragment => (0, 0),
        }
    }

    /// Offset of the L4 checksum in the frame, bytes; `None` in later fragments.
    #[inline]
    #[must_use]
    pub const fn l4_checksum_offset(&self) -> Option<usize> {
        let within = match self.l4 {
            L4::Tcp(_) => tcp::CHECKSUM_OFFSET,
            L4::Udp { .. } => udp::CHECKSUM_OFFSET,
            L4::Icmp { .. } => icmp::CHECKSUM_OFFSET,
            L4::LaterFragment => return None,
        };
        Some(self.l4_offset() + within)
    }

    /// Sum of the pseudo-header.
    #[inline]
    #[must_use]
    pub fn pseudo(&self) -> Option<Sum> {
        let length = u32::try_from(self.l4_len()).ok()?;
        Sum::pseudo(self.source, self.destination, self.protocol, length)
    }

    /// State of the L4 checksum; `frames` are all frames of the packet in order, Ethernet header and padding included.
    ///
    /// `None` for fragments, whose checksum covers packets that are not here.
    #[inline]
    #[must_use]
    pub fn l4_checksum<'a>(&self, frames: impl IntoIterator<Item = &'a [u8]>) -> Option<L4Checksum> {
        if self.fragment.is_some() {
            return None;
        }
        let mut frames = frames.into_iter();
        let linear = frames.next()?;
        let field = u16::from_be_bytes(*array_at(linear, self.l4_checksum_offset()?)?);
        let l4 = self.l4_slices(std::iter::once(linear).chain(frames));
        Some(L4Checksum::of(
            self.protocol,
            self.is_v6(),
            self.pseudo()?,
            field,
            l4,
        ))
    }

    /// Completes a [`L4Checksum::Partial`] checksum in place; `linear` is the first frame and `rest` the other ones. `None`, with
    /// nothing changed, for fragments.
    #[inline]
    #[must_use]
    pub fn complete_l4_checksum<'a>(
        &self,
        linear: &mut [u8],
        rest: impl IntoIterator<Item = &'a [u8]>,
    ) -> Option<()> {
        if self.fragment.is_some() {
            return None;
        }
        let offset = self.l4_checksum_offset()?;
        let sum = {
            // Not one iterator over both: `rest` may outlive the borrow of `linear`.
            let first = linear.get(self.l4_offset()..self.frame_len().min(linear.len()))?;
            let beyond = self.frame_len().saturating_sub(linear.len());
            trimmed(rest, beyond).fold(Sum::ZERO.append(first), Sum::append)
        };
        let checksum = checksum::non_zero_udp(self.protocol, sum.checksum());
        *array_at_mut(linear, offset)? = checksum.to_be_bytes();
        Some(())
    }

    /// The bytes from the transport header to the packet's end, of the frames that hold them.
    #[inline]
    pub fn l4_slices<'a>(
        &self,
        frames: impl IntoIterator<Item = &'a [u8]>,
    ) -> impl Iterator<Item = &'a [u8]> {
        let mut skip = self.l4_offset();
        trimmed(frames, self.frame_len()).map(move |frame| {
            let skipped = skip.min(frame.len());
            skip -= skipped;
            frame.get(skipped..).unwrap_or_default()
        })
    }
}

/// The first `len` bytes of a chain.
#[inline]
fn trimmed<'a>(frames: impl IntoIterator<Item = &'a [u8]>, len: usize) -> impl Iterator<Item = &'a [u8]> {
    let mut left = len;
    frames.into_iter().map(move |frame| {
        let frame = frame.get(..left).unwrap_or(frame);
        left -= frame.len();
        frame
    })
}

#[cfg(test)]
mod tests;
