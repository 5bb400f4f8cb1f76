//! ICMP errors that sluice, as a router on the path, sends itself (RFC 792, RFC 1812, RFC 4443).
//!
//! None is ever sent about an ICMP error, a later fragment, or a packet to or from more than one host (RFC 1122, 3.2.2;
//! RFC 4443, 2.4 (e)). Rate limits (RFC 4443, 2.4 (f)) are the caller's, and so is the choice of the packet to quote: it is the
//! one its sender knows, before translation.

use std::net::IpAddr;

use policy::Protocol;

use super::checksum::Sum;
use super::packet::{IcmpBody, IpHeaders, L4};
use super::{array_at_mut, icmp, icmpv6, ipv4, ipv6};

/// Longest IPv4 error, bytes, all headers included (RFC 1812, 4.3.2.3).
pub const MAX_LEN_V4: usize = 576;

/// Longest IPv6 error, bytes, all headers included: the least MTU (RFC 4443, 2.4 (c)).
pub const MAX_LEN_V6: usize = 1280;

/// Hop count of errors.
const TTL: u8 = 64;

/// An ICMP error; family and numbers follow the packet it is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorMessage {
    /// The packet is larger than this MTU, bytes: fragmentation needed, or packet too big.
    TooBig(u32),
    /// TTL or hop limit used up on the way.
    TimeExceeded,
    /// The destination cannot be reached.
    Unreachable(Unreachable),
}

/// Why a destination cannot be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unreachable {
    /// No route: network unreachable, or no route to destination.
    NoRoute,
    /// Host or address unreachable.
    Address,
    /// Port unreachable.
    Port,
    /// Communication administratively prohibited.
    Prohibited,
}

impl ErrorMessage {
    /// Type, code and the word behind the checksum, in IPv4.
    const fn fields_v4(self) -> (u8, u8, u32) {
        match self {
            // RFC 1191, 4: 16 bits of MTU.
            Self::TooBig(mtu) => (
                icmp::kind::UNREACHABLE,
                4,
                if mtu > 0xffff { 0xffff } else { mtu },
            ),
            Self::TimeExceeded => (icmp::kind::TIME_EXCEEDED, 0, 0),
            Self::Unreachable(why) => {
                let code = match why {
                    Unreachable::NoRoute => 0,
                    Unreachable::Address => 1,
                    Unreachable::Port => 3,
                    Unreachable::Prohibited => 13,
                };
                (icmp::kind::UNREACHABLE, code, 0)
            }
        }
    }

    /// Type, code and the word behind the checksum, in IPv6.
    const fn fields_v6(self) -> (u8, u8, u32) {
        match self {
            Self::TooBig(mtu) => (icmpv6::kind::PACKET_TOO_BIG, 0, mtu),
            Self::TimeExceeded => (icmpv6::kind::TIME_EXCEEDED, 0, 0),
            Self::Unreachable(why) => {
                let code = match why {
                    Unreachable::NoRoute => 0,
                    Unreachable::Prohibited => 1,
                    Unreachable::Address => 3,
                    Unreachable::Port => 4,
                };
                (icmpv6::kind::UNREACHABLE, code, 0)
            }
        }
    }

    /// Writes the error about the packet `headers`, whose first frame is `linear`, as a whole IP packet from `source` at the
    /// start of `packet`; returns its length. As much of the offending packet is quoted as the family's longest error and
    /// `packet` allow, at least its headers and 8 bytes of L4 where it has them.
    ///
    /// `None` if no error may be sent about the packet (module docs), `source` is of the other family, or the least quote does
    /// not fit.
    #[must_use]
    pub fn write(
        self,
        headers: &IpHeaders,
        linear: &[u8],
        source: IpAddr,
        packet: &mut [u8],
    ) -> Option<usize> {
        if !may_be_answered(headers) {
            return None;
        }
        let (l3_len, max_len) = match headers.source {
            IpAddr::V4(_) => (ipv4::HEADER_LEN, MAX_LEN_V4),
            IpAddr::V6(_) => (ipv6::HEADER_LEN, MAX_LEN_V6),
        };
        let head_len = l3_len + icmp::HEADER_LEN;
        let available = linear.get(headers.l3_offset()..headers.frame_len().min(linear.len()))?;
        let least = (headers.l4_offset() - headers.l3_offset() + 8).min(available.len());
        let quote_len = packet
            .len()
            .min(max_len)
            .checked_sub(head_len)?
            .min(available.len());
        if quote_len < least {
            return None;
        }
        let quote = available.get(..quote_len)?;
        let total_len = head_len + quote_len;
        let packet = packet.get_mut(..total_len)?;
        let (pseudo, (kind, code, word)) = match (source, headers.source) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                ipv4::write_header(packet, from, to, Protocol::ICMP, TTL, total_len)?;
                (Sum::ZERO, self.fields_v4())
            }
            (IpAddr::V6(from), IpAddr::V6(to)) => {
                ipv6::write_header(packet, from, to, Protocol::ICMPV6, TTL, total_len)?;
                let length = u32::try_from(icmp::HEADER_LEN + quote_len).ok()?;
                (
                    Sum::pseudo_v6(from, to, Protocol::ICMPV6, length),
                    self.fields_v6(),
                )
            }
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => return None,
        };
        let message = packet.get_mut(l3_len..)?;
        let (header, body) = message.split_first_chunk_mut::<{ icmp::HEADER_LEN }>()?;
        let [w0, w1, w2, w3] = word.to_be_bytes();
        *header = [kind, code, 0, 0, w0, w1, w2, w3];
        body.copy_from_slice(quote);
        let checksum = pseudo.append(message).checksum();
        *array_at_mut(message, icmp::CHECKSUM_OFFSET)? = checksum.to_be_bytes();
        Some(total_len)
    }
}

/// Whether an error may be sent about a packet.
fn may_be_answered(headers: &IpHeaders) -> bool {
    let is_error = matches!(
        headers.l4,
        L4::Icmp {
            body: IcmpBody::Error(_),
            ..
        }
    );
    // RFC 4443, 2.4 (e.2): nor about redirects; nothing about neighbour discovery ever needs one.
    let is_discovery = matches!(
        headers.l4,
        L4::Icmp {
            body: IcmpBody::NeighbourDiscovery,
            ..
        }
    );
    let is_later = headers.fragment.is_some_and(|fragment| !fragment.is_first());
    let is_single = |address: IpAddr| {
        let is_broadcast = matches!(address, IpAddr::V4(v4) if v4.is_broadcast());
        !(address.is_multicast() || address.is_unspecified() || address.is_loopback() || is_broadcast)
    };
    !is_error
        && !is_discovery
        && !is_later
        && !headers.ethernet.destination.is_group()
        && is_single(headers.source)
        && is_single(headers.destination)
}
