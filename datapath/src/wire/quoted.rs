//! The packet quoted in an ICMP error, as far as conntrack needs it: addresses and the first 8 bytes of L4.
//!
//! Only those bytes are promised (RFC 792), so what lies behind them may be cut; checksums are not verified, for routers change
//! the TTL on the way.

use std::net::IpAddr;

use policy::{DropReason, Protocol};

use super::array_at;
use super::icmp::{Echo, Icmp, IcmpClass};
use super::ipv4::Ipv4;
use super::ipv6::Ipv6;
use super::{icmpv6, version};

/// Which flow of its protocol a quoted packet belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QuotedL4 {
    /// TCP.
    Tcp {
        /// Source port.
        source_port: u16,
        /// Destination port.
        destination_port: u16,
        /// Sequence number, which a blind attacker does not know (RFC 5927, 4.1).
        seq: u32,
    },
    /// UDP.
    Udp {
        /// Source port.
        source_port: u16,
        /// Destination port.
        destination_port: u16,
    },
    /// ICMP echo or echo reply.
    Echo(Echo),
}

/// A quoted packet, in the direction in which it travelled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QuotedPacket {
    /// Its source: whom the error must go to.
    pub source: IpAddr,
    /// Its destination.
    pub destination: IpAddr,
    /// Its protocol.
    pub protocol: Protocol,
    /// Its L4 header.
    pub l4: QuotedL4,
    /// Offset of its IP header in the bytes given to [`QuotedPacket::parse`], plus their own place in the frame where
    /// [`super::packet::Headers`] holds it.
    pub(crate) l3_offset: u16,
    /// Offset of its L4 header, likewise.
    pub(crate) l4_offset: u16,
}

impl QuotedPacket {
    /// Reads the packet quoted at `offset` of `linear` by an error of family `is_v6`. Offsets of the result are from the start
    /// of `linear`.
    ///
    /// # Errors
    /// `TruncatedHeader` if the IP header or the first 8 bytes of L4 are missing or malformed; `UnrelatedIcmp` if the packet
    /// could not be of a tracked flow: other family, later fragment, other protocol, or an ICMP message that is no echo.
    pub fn parse(linear: &[u8], offset: usize, is_v6: bool) -> Result<Self, DropReason> {
        let cut = DropReason::TruncatedHeader;
        let packet = linear.get(offset..).ok_or(cut)?;
        let (source, destination, protocol, header_len) = match (version(packet), is_v6) {
            (Some(4), false) => {
                let header = Ipv4::quoted(packet).ok_or(cut)?;
                if header.fragment().is_some_and(|info| !info.is_first()) {
                    return Err(DropReason::UnrelatedIcmp);
                }
                let addresses = (IpAddr::V4(header.source()), IpAddr::V4(header.destination()));
                (addresses.0, addresses.1, header.protocol(), header.header_len())
            }
            (Some(6), true) => {
                let header = Ipv6::quoted(packet).ok_or(cut)?;
                let upper = header.upper_layer(packet).map_err(|_malformed| cut)?;
                if upper.fragment.is_some_and(|info| !info.is_first()) {
                    return Err(DropReason::UnrelatedIcmp);
                }
                let addresses = (IpAddr::V6(header.source()), IpAddr::V6(header.destination()));
                (addresses.0, addresses.1, upper.protocol, upper.offset)
            }
            (Some(_), _) => return Err(DropReason::UnrelatedIcmp),
            (None, _) => return Err(cut),
        };
        let bytes: &[u8; 8] = array_at(packet, header_len).ok_or(cut)?;
        let &[s0, s1, d0, d1, q0, q1, q2, q3] = bytes;
        let (source_port, destination_port) = (u16::from_be_bytes([s0, s1]), u16::from_be_bytes([d0, d1]));
        let l4 = match protocol {
            Protocol::TCP => QuotedL4::Tcp {
                source_port,
                destination_port,
                seq: u32::from_be_bytes([q0, q1, q2, q3]),
            },
            Protocol::UDP => QuotedL4::Udp {
                source_port,
                destination_port,
            },
            Protocol::ICMP | Protocol::ICMPV6 if is_v6 == (protocol == Protocol::ICMPV6) => {
                let message = Icmp::parse(bytes, bytes.len())?;
                match if is_v6 {
                    icmpv6::class(&message)
                } else {
                    message.class()
                } {
                    IcmpClass::Echo(echo) => QuotedL4::Echo(echo),
                    _ => return Err(DropReason::UnrelatedIcmp),
                }
            }
            _ => return Err(DropReason::UnrelatedIcmp),
        };
        let place = |at: usize| u16::try_from(at).map_err(|_too_far| cut);
        Ok(Self {
            source,
            destination,
            protocol,
            l4,
            l3_offset: place(offset)?,
            l4_offset: place(offset + header_len)?,
        })
    }

    /// Source and destination port; an echo's identifier stands for both.
    #[inline]
    #[must_use]
    pub const fn ports(&self) -> (u16, u16) {
        match self.l4 {
            QuotedL4::Tcp {
                source_port,
                destination_port,
                ..
            }
            | QuotedL4::Udp {
                source_port,
                destination_port,
            } => (source_port, destination_port),
            QuotedL4::Echo(echo) => (echo.id, echo.id),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::indexing_slicing, reason = "offsets into bytes that the test made")]

    use std::net::Ipv4Addr;

    use proptest::prelude::*;

    use super::*;
    use crate::wire::ipv4;

    fn quote(protocol: Protocol, l4: [u8; 8]) -> [u8; 28] {
        let mut bytes = [0; 28];
        let (a, b) = (Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 2));
        ipv4::write_header(&mut bytes, a, b, protocol, 3, 1500).unwrap();
        bytes[20..].copy_from_slice(&l4);
        bytes
    }

    #[test]
    fn packet_cut_behind_eight_bytes_of_l4_is_read() {
        let quoted =
            QuotedPacket::parse(&quote(Protocol::TCP, [0, 80, 0x9c, 0x40, 0, 0, 1, 2]), 0, false).unwrap();
        assert_eq!(
            quoted.l4,
            QuotedL4::Tcp {
                source_port: 80,
                destination_port: 40000,
                seq: 258
            }
        );
        assert_eq!(quoted.ports(), (80, 40000));
        let ping = quote(Protocol::ICMP, [8, 0, 0, 0, 0, 7, 0, 1]);
        assert_eq!(QuotedPacket::parse(&ping, 0, false).unwrap().ports(), (7, 7));
    }

    #[test]
    fn packet_cut_within_them_is_truncated() {
        let bytes = quote(Protocol::UDP, [0; 8]);
        for len in 0..28 {
            assert_eq!(
                QuotedPacket::parse(&bytes[..len], 0, false),
                Err(DropReason::TruncatedHeader),
                "{len}"
            );
        }
        assert_eq!(
            QuotedPacket::parse(&bytes, 29, false),
            Err(DropReason::TruncatedHeader)
        );
    }

    #[test]
    fn untrackable_packets_are_unrelated() {
        let unrelated = Err(DropReason::UnrelatedIcmp);
        assert_eq!(
            QuotedPacket::parse(&quote(Protocol::UDP, [0; 8]), 0, true),
            unrelated,
            "family"
        );
        assert_eq!(
            QuotedPacket::parse(&quote(Protocol(47), [0; 8]), 0, false),
            unrelated,
            "protocol"
        );
        let error = quote(Protocol::ICMP, [3, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(
            QuotedPacket::parse(&error, 0, false),
            unrelated,
            "error about an error"
        );
        let icmpv6 = quote(Protocol::ICMPV6, [128, 0, 0, 0, 0, 7, 0, 1]);
        assert_eq!(
            QuotedPacket::parse(&icmpv6, 0, false),
            unrelated,
            "ICMPv6 in IPv4"
        );
        let mut later = quote(Protocol::UDP, [0, 1, 0, 2, 0, 8, 0, 0]);
        later[7] = 2;
        assert_eq!(QuotedPacket::parse(&later, 0, false), unrelated, "later fragment");
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(
            mut bytes in proptest::collection::vec(any::<u8>(), 1..120), v6: bool, right: bool, offset in 0_usize..16,
        ) {
            if right {
                bytes[0] = if v6 { 0x60 } else { 0x45 };
            }
            let _ = QuotedPacket::parse(&bytes, if right { 0 } else { offset }, v6);
        }
    }
}
