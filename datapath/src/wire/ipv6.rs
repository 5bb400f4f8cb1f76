//! IPv6 headers and the bounded walk over extension headers (RFC 8200).
//!
//! The walk refuses what would let the receiver see another packet than the one judged: routing headers that are not used up,
//! home-address options (RFC 6275, 6.3: they replace the source), jumbograms, a chain that goes on in a later fragment
//! (RFC 7112) and chains longer than [`MAX_EXTENSIONS`] headers or [`MAX_EXTENSION_BYTES`].

use std::net::Ipv6Addr;

use policy::{DropReason, Protocol};

use super::ipv4::FragmentInfo;
use super::{array_at, array_at_mut};

/// Length of the fixed header, bytes.
pub const HEADER_LEN: usize = 40;

/// Most extension headers of a packet.
pub const MAX_EXTENSIONS: usize = 8;

/// Most bytes that the extension headers of a packet may occupy.
pub const MAX_EXTENSION_BYTES: usize = 256;

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const DESTINATION_OPTIONS: u8 = 60;
const MOBILITY: u8 = 135;
const HOST_IDENTITY: u8 = 139;
const SHIM6: u8 = 140;
const EXPERIMENT_1: u8 = 253;
const EXPERIMENT_2: u8 = 254;

const OPTION_PAD1: u8 = 0;
const OPTION_JUMBO: u8 = 0xc2;
const OPTION_HOME_ADDRESS: u8 = 0xc9;

/// A checked IPv6 header.
#[derive(Debug, Clone, Copy)]
pub struct Ipv6<'a> {
    header: &'a [u8; HEADER_LEN],
}

/// Where the walk over the extension headers ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UpperLayer {
    /// Upper-layer protocol. In a fragment that is not the first it is what that fragment claims, which reassembly ignores
    /// (RFC 8200, 4.5).
    pub protocol: Protocol,
    /// Offset of the upper-layer header, or of a later fragment's payload, from the start of the IPv6 header, bytes.
    pub offset: usize,
    /// Place in the datagram; `None` for a whole one, atomic fragments (RFC 6946) included.
    pub fragment: Option<FragmentInfo>,
    /// Whether there is a fragment header at all (RFC 6980 forbids them in neighbour discovery).
    pub has_fragment_header: bool,
}

impl<'a> Ipv6<'a> {
    /// Checks the fixed header at the start of `packet`, the linear part of an IP packet that may occupy `available` bytes.
    ///
    /// # Errors
    /// `TruncatedHeader` if the header is cut; `InvalidPacket` for a wrong version, a payload length above `available`, or an
    /// IPv4-mapped address, which is never right on a wire (RFC 4942, 2.2) and names an IPv4 host to careless readers.
    #[inline]
    pub fn parse(packet: &'a [u8], available: usize) -> Result<Self, DropReason> {
        let this = Self {
            header: packet.first_chunk().ok_or(DropReason::TruncatedHeader)?,
        };
        if this.header[0] >> 4 != 6
            || this.total_len() > available
            || this.source().to_ipv4_mapped().is_some()
            || this.destination().to_ipv4_mapped().is_some()
        {
            return Err(DropReason::InvalidPacket);
        }
        Ok(this)
    }

    /// Reads a header quoted in an ICMPv6 error: anything behind it may be cut, so only the version is checked.
    #[inline]
    #[must_use]
    pub fn quoted(packet: &'a [u8]) -> Option<Self> {
        let this = Self {
            header: packet.first_chunk()?,
        };
        (this.header[0] >> 4 == 6).then_some(this)
    }

    /// Length of the packet, header included, bytes.
    #[inline]
    #[must_use]
    pub fn total_len(&self) -> usize {
        HEADER_LEN + usize::from(u16::from_be_bytes([self.header[4], self.header[5]]))
    }

    /// Protocol of what follows the fixed header.
    #[inline]
    #[must_use]
    pub fn next_header(&self) -> u8 {
        self.header[6]
    }

    /// Hop limit.
    #[inline]
    #[must_use]
    pub fn hop_limit(&self) -> u8 {
        self.header[7]
    }

    /// Source address.
    #[inline]
    #[must_use]
    pub fn source(&self) -> Ipv6Addr {
        array_at(self.header, 8).map_or(Ipv6Addr::UNSPECIFIED, |octets: &[u8; 16]| Ipv6Addr::from(*octets))
    }

    /// Destination address.
    #[inline]
    #[must_use]
    pub fn destination(&self) -> Ipv6Addr {
        array_at(self.header, 24).map_or(Ipv6Addr::UNSPECIFIED, |octets: &[u8; 16]| Ipv6Addr::from(*octets))
    }

    /// Walks the extension headers of `packet`, the bytes this header begins.
    ///
    /// # Errors
    /// `InvalidExtensionHeader` for a header that is unknown, out of place or forbidden (module docs) or a chain out of bounds;
    /// `InvalidPacket` if the chain leaves the packet or fragment fields contradict its length; `TinyFragment` if it leaves the
    /// first fragment; `TruncatedHeader` if it leaves the linear part.
    #[inline]
    pub fn upper_layer(&self, packet: &[u8]) -> Result<UpperLayer, DropReason> {
        let mut upper = UpperLayer {
            protocol: Protocol(self.next_header()),
            offset: HEADER_LEN,
            fragment: None,
            has_fragment_header: false,
        };
        if !is_extension(upper.protocol.0) {
            return Ok(upper);
        }
        for position in 0..MAX_EXTENSIONS {
            if self.step(packet, position, &mut upper)?.is_break() {
                return Ok(upper);
            }
        }
        Err(DropReason::InvalidExtensionHeader)
    }

    /// Takes one extension header; breaks when the next one is the upper layer's.
    fn step(
        &self,
        packet: &[u8],
        position: usize,
        upper: &mut UpperLayer,
    ) -> Result<std::ops::ControlFlow<()>, DropReason> {
        use std::ops::ControlFlow::{Break, Continue};

        let kind = upper.protocol.0;
        let &[next, length, ..] =
            array_at::<8>(packet, upper.offset).ok_or_else(|| self.beyond(packet, upper, 8))?;
        let size = if kind == FRAGMENT {
            8
        } else {
            (usize::from(length) + 1) * 8
        };
        let end = upper.offset + size;
        if end > HEADER_LEN + MAX_EXTENSION_BYTES {
            return Err(DropReason::InvalidExtensionHeader);
        }
        if end > self.total_len() {
            return Err(self.beyond(packet, upper, size));
        }
        let bytes = packet.get(upper.offset..end).ok_or(DropReason::TruncatedHeader)?;
        match kind {
            HOP_BY_HOP if position == 0 => check_options(bytes)?,
            DESTINATION_OPTIONS => check_options(bytes)?,
            // RFC 5095 forbids type 0; any type with segments left would make the receiver forward the packet.
            ROUTING => match bytes {
                [_, _, routing_type, 0, ..] if *routing_type != 0 => (),
                _ => return Err(DropReason::InvalidExtensionHeader),
            },
            FRAGMENT if !upper.has_fragment_header => {
                let &[_, _, o0, o1, i0, i1, i2, i3] =
                    bytes.first_chunk().ok_or(DropReason::TruncatedHeader)?;
                let word = u16::from_be_bytes([o0, o1]);
                let info = FragmentInfo {
                    id: u32::from_be_bytes([i0, i1, i2, i3]),
                    offset: word & 0xfff8,
                    len: u16::try_from(self.total_len() - end).unwrap_or(u16::MAX),
                    more: word & 1 != 0,
                };
                upper.has_fragment_header = true;
                if info.more || info.offset > 0 {
                    info.check()?;
                    upper.fragment = Some(info);
                }
            }
            _ => return Err(DropReason::InvalidExtensionHeader),
        }
        upper.protocol = Protocol(next);
        upper.offset = end;
        let is_later = upper.fragment.is_some_and(|info| !info.is_first());
        Ok(if is_later || !is_extension(next) {
            Break(())
        } else {
            Continue(())
        })
    }

    /// Why a header of `size` bytes at the walk's place is not there.
    fn beyond(&self, packet: &[u8], upper: &UpperLayer, size: usize) -> DropReason {
        if upper.offset + size <= self.total_len() && upper.offset + size > packet.len() {
            DropReason::TruncatedHeader
        } else if upper.fragment.is_some() {
            DropReason::TinyFragment
        } else {
            DropReason::InvalidPacket
        }
    }
}

const fn is_extension(kind: u8) -> bool {
    matches!(
        kind,
        HOP_BY_HOP
            | ROUTING
            | FRAGMENT
            | AUTHENTICATION
            | DESTINATION_OPTIONS
            | MOBILITY
            | HOST_IDENTITY
            | SHIM6
            | EXPERIMENT_1
            | EXPERIMENT_2
    )
}

/// Checks that the options of a hop-by-hop or destination header fill it exactly and that none is forbidden.
fn check_options(header: &[u8]) -> Result<(), DropReason> {
    let mut rest = header.get(2..).unwrap_or_default();
    while let Some((kind, tail)) = rest.split_first() {
        rest = match *kind {
            OPTION_PAD1 => tail,
            OPTION_JUMBO | OPTION_HOME_ADDRESS => return Err(DropReason::InvalidExtensionHeader),
            _ => tail
                .split_first()
                .and_then(|(length, data)| data.get(usize::from(*length)..))
                .ok_or(DropReason::InvalidExtensionHeader)?,
        };
    }
    Ok(())
}

/// Takes one hop off the hop limit of the packet that begins `packet`. `None`, with nothing changed, if the header is cut or no
/// hop is left for the next router.
#[inline]
#[must_use]
pub fn decrement_hop_limit(packet: &mut [u8]) -> Option<u8> {
    let header: &mut [u8; HEADER_LEN] = packet.first_chunk_mut()?;
    header[7] = header[7].checked_sub(1).filter(|limit| *limit > 0)?;
    Some(header[7])
}

/// Sets the source address; returns the former one.
#[inline]
#[must_use]
pub fn set_source(packet: &mut [u8], new: Ipv6Addr) -> Option<Ipv6Addr> {
    let place: &mut [u8; 16] = array_at_mut(packet, 8)?;
    Some(Ipv6Addr::from(std::mem::replace(place, new.octets())))
}

/// Sets the destination address; returns the former one.
#[inline]
#[must_use]
pub fn set_destination(packet: &mut [u8], new: Ipv6Addr) -> Option<Ipv6Addr> {
    let place: &mut [u8; 16] = array_at_mut(packet, 24)?;
    Some(Ipv6Addr::from(std::mem::replace(place, new.octets())))
}

/// Writes the header of a packet of `total_len` bytes (header included) that sluice sends itself. `None`, with nothing written,
/// if it does not fit.
#[inline]
#[must_use]
pub fn write_header(
    packet: &mut [u8],
    source: Ipv6Addr,
    destination: Ipv6Addr,
    protocol: Protocol,
    hop_limit: u8,
    total_len: usize,
) -> Option<()> {
    let header: &mut [u8; HEADER_LEN] = packet.first_chunk_mut()?;
    let [l0, l1] = u16::try_from(total_len.checked_sub(HEADER_LEN)?)
        .ok()?
        .to_be_bytes();
    let (fixed, addresses) = header.split_first_chunk_mut::<8>()?;
    let (from, to) = addresses.split_first_chunk_mut::<16>()?;
    *fixed = [0x60, 0, 0, 0, l0, l1, protocol.0, hop_limit];
    *from = source.octets();
    *to.first_chunk_mut()? = destination.octets();
    Some(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::indexing_slicing, reason = "offsets into bytes that the test made")]

    use proptest::prelude::*;

    use super::*;

    const A: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1);
    const B: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 2);

    /// A packet with the given extension headers, each (kind, bytes without the next-header byte), then 24 bytes of payload.
    fn packet(extensions: &[(u8, &[u8])], upper: u8) -> Vec<u8> {
        let mut kinds: Vec<u8> = extensions.iter().map(|(kind, _)| *kind).collect();
        kinds.push(upper);
        let mut packet = vec![0; HEADER_LEN];
        for ((_, bytes), next) in extensions.iter().zip(&kinds[1..]) {
            packet.push(*next);
            packet.extend_from_slice(bytes);
        }
        packet.extend([0xee; 24]);
        let len = packet.len();
        write_header(&mut packet, A, B, Protocol(kinds[0]), 64, len).unwrap();
        packet
    }

    fn walk(packet: &[u8]) -> Result<UpperLayer, DropReason> {
        Ipv6::parse(packet, packet.len())?.upper_layer(packet)
    }

    const PAD: &[u8] = &[0, 1, 4, 0, 0, 0, 0];

    #[test]
    fn header_without_extensions_reads_back() {
        let packet = packet(&[], 6);
        let view = Ipv6::parse(&packet, 64).unwrap();
        assert_eq!((view.source(), view.destination(), view.hop_limit()), (A, B, 64));
        let upper = UpperLayer {
            protocol: Protocol::TCP,
            offset: 40,
            fragment: None,
            has_fragment_header: false,
        };
        assert_eq!(walk(&packet), Ok(upper));
    }

    #[test]
    fn allowed_chain_is_walked() {
        let used_up: &[u8] = &[0, 4, 0, 0, 0, 0, 0];
        let packet = packet(&[(0, PAD), (60, PAD), (43, used_up), (60, PAD)], 17);
        let upper = walk(&packet).unwrap();
        assert_eq!((upper.protocol, upper.offset), (Protocol::UDP, 72));
    }

    #[test]
    fn forbidden_headers_are_refused() {
        type Extension<'a> = (u8, &'a [u8]);
        let refused: &[(&str, &[Extension<'_>])] = &[
            ("hop-by-hop not first", &[(60, PAD), (0, PAD)]),
            ("hop-by-hop twice", &[(0, PAD), (0, PAD)]),
            ("routing type 0, used up", &[(43, &[0, 0, 0, 0, 0, 0, 0])]),
            ("routing with segments left", &[(43, &[0, 4, 1, 0, 0, 0, 0])]),
            ("authentication", &[(51, PAD)]),
            ("mobility", &[(135, PAD)]),
            ("experiment", &[(253, PAD)]),
            ("home address", &[(60, &[0, 0xc9, 4, 0, 0, 0, 0])]),
            ("jumbo", &[(0, &[0, 0xc2, 4, 0, 1, 0, 0])]),
            ("option beyond its header", &[(60, &[0, 1, 5, 0, 0, 0, 0])]),
            ("option without length", &[(60, &[0, 1, 3, 0, 0, 0, 1])]),
            (
                "fragment twice",
                &[(44, &[0, 0, 0, 0, 0, 0, 1]), (44, &[0, 0, 0, 0, 0, 0, 1])],
            ),
        ];
        for (what, extensions) in refused {
            assert_eq!(
                walk(&packet(extensions, 6)),
                Err(DropReason::InvalidExtensionHeader),
                "{what}"
            );
        }
    }

    #[test]
    fn chain_is_bounded_in_headers_and_bytes() {
        assert!(walk(&packet(&[(60, PAD); 8], 6)).is_ok());
        assert_eq!(
            walk(&packet(&[(60, PAD); 9], 6)),
            Err(DropReason::InvalidExtensionHeader)
        );
        let mut long = vec![31, 1, 252];
        long.resize(255, 0);
        assert_eq!(long.len(), 255);
        assert!(walk(&packet(&[(60, &long)], 6)).is_ok(), "256 bytes");
        assert_eq!(
            walk(&packet(&[(60, &long), (60, PAD)], 6)),
            Err(DropReason::InvalidExtensionHeader)
        );
    }

    #[test]
    fn fragment_header_is_read() {
        let first = packet(&[(44, &[0, 0, 1, 0, 0, 0, 9])], 17);
        let upper = walk(&first).unwrap();
        assert_eq!(
            upper.fragment,
            Some(FragmentInfo {
                id: 9,
                offset: 0,
                len: 24,
                more: true
            })
        );
        assert_eq!((upper.protocol, upper.offset), (Protocol::UDP, 48));
        let later = packet(&[(44, &[0, 0x05, 0xb0, 0, 0, 0, 9])], 60);
        let upper = walk(&later).unwrap();
        assert_eq!(
            upper.fragment,
            Some(FragmentInfo {
                id: 9,
                offset: 1456,
                len: 24,
                more: false
            })
        );
        assert_eq!(
            upper.offset, 48,
            "nothing behind a later fragment's header is a header"
        );
        let atomic = packet(&[(44, &[0, 0, 0, 0, 0, 0, 9])], 17);
        let upper = walk(&atomic).unwrap();
        assert_eq!((upper.fragment, upper.has_fragment_header), (None, true));
    }

    #[test]
    fn chain_that_leaves_the_first_fragment_is_tiny() {
        let mut first = packet(&[(44, &[0, 0, 1, 0, 0, 0, 9])], 60);
        first[48] = 6;
        first[49] = 3;
        assert_eq!(walk(&first), Err(DropReason::TinyFragment));
        let mut whole = packet(&[], 60);
        whole[41] = 3;
        assert_eq!(walk(&whole), Err(DropReason::InvalidPacket));
    }

    #[test]
    fn mapped_addresses_are_refused() {
        let mut bytes = packet(&[], 6);
        set_destination(&mut bytes, Ipv6Addr::new(0, 0, 0, 0, 0, 0xffff, 0x0a00, 1)).unwrap();
        assert_eq!(walk(&bytes), Err(DropReason::InvalidPacket));
    }

    #[test]
    fn last_hop_is_not_taken() {
        let mut bytes = packet(&[], 6);
        assert_eq!(decrement_hop_limit(&mut bytes), Some(63));
        bytes[7] = 1;
        assert_eq!(decrement_hop_limit(&mut bytes), None);
        assert_eq!(bytes[7], 1);
    }

    proptest! {
        #[test]
        fn any_chain_is_walked_or_refused(
            mut bytes in proptest::collection::vec(any::<u8>(), 40..400),
            kinds in proptest::collection::vec(prop_oneof![Just(0_u8), Just(43), Just(44), Just(60), any::<u8>()], 8),
            linear in 0_usize..400,
        ) {
            bytes[0] = 0x60;
            bytes[6] = kinds[0];
            let payload = u16::try_from(bytes.len() - 40).unwrap();
            bytes[4..6].copy_from_slice(&payload.to_be_bytes());
            let mut at = 40;
            for kind in &kinds[1..] {
                if at + 1 < bytes.len() {
                    bytes[at] = *kind;
                    bytes[at + 1] %= 4;
                    at += (usize::from(bytes[at + 1]) + 1) * 8;
                }
            }
            let part = &bytes[..linear.clamp(40, bytes.len())];
            if let Ok(view) = Ipv6::parse(part, bytes.len()) && let Ok(upper) = view.upper_layer(part) {
                prop_assert!(upper.offset <= part.len() && upper.offset <= view.total_len());
            }
        }
    }
}
