//! IPv4 headers (RFC 791).
//!
//! A checked view has a right header checksum and lengths that fit the frame. Options are seen, not parsed: the pipeline drops
//! packets that carry them. Ethernet padding (a total length below the frame's) is the caller's to trim.

use std::net::{IpAddr, Ipv4Addr};

use policy::{DropReason, Protocol};

use super::array_at_mut;
use super::checksum::{Edit, Sum};

/// Length of a header without options, bytes.
pub const HEADER_LEN: usize = 20;

/// Place of a packet in its datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FragmentInfo {
    /// Identification; 16 bits in IPv4.
    pub id: u32,
    /// Offset of the packet's payload in the datagram's, bytes; a multiple of 8.
    pub offset: u16,
    /// Length of the packet's payload, bytes; in IPv6 of all that follows the fragment header.
    pub len: u16,
    /// Whether more fragments follow.
    pub more: bool,
}

impl FragmentInfo {
    /// Whether the packet begins the datagram and so has the L4 header.
    #[inline]
    #[must_use]
    pub const fn is_first(self) -> bool {
        self.offset == 0
    }

    /// Refuses lengths that no reassembly could use: a fragment that is not the last and not a multiple of 8 (RFC 791, 3.2;
    /// RFC 8200, 4.5), an empty one, and one that ends beyond 65535 bytes ("ping of death").
    ///
    /// # Errors
    /// `InvalidPacket`.
    #[inline]
    pub fn check(self) -> Result<(), DropReason> {
        let sound = self.len > 0
            && (!self.more || self.len.is_multiple_of(8))
            && self.offset.checked_add(self.len).is_some();
        if sound {
            Ok(())
        } else {
            Err(DropReason::InvalidPacket)
        }
    }
}

/// A checked IPv4 header.
#[derive(Debug, Clone, Copy)]
pub struct Ipv4<'a> {
    header: &'a [u8; HEADER_LEN],
}

impl<'a> Ipv4<'a> {
    /// Checks the header at the start of `packet`, the linear part of an IP packet that may occupy `available` bytes.
    ///
    /// # Errors
    /// `TruncatedHeader` if the header is cut; `InvalidPacket` for a wrong version, a header length below 20, a total length
    /// below the header's or above `available`, or the reserved flag; `BadChecksum`.
    #[inline]
    pub fn parse(packet: &'a [u8], available: usize) -> Result<Self, DropReason> {
        let header: &[u8; HEADER_LEN] = packet.first_chunk().ok_or(DropReason::TruncatedHeader)?;
        let this = Self { header };
        let header_len = this.header_len();
        let total_len = this.total_len();
        if header[0] >> 4 != 4
            || header_len < HEADER_LEN
            || total_len < header_len
            || total_len > available
            || header[6] & 0x80 != 0
        {
            return Err(DropReason::InvalidPacket);
        }
        let whole = packet.get(..header_len).ok_or(DropReason::TruncatedHeader)?;
        if Sum::ZERO.append(whole).fold() != 0xffff {
            return Err(DropReason::BadChecksum);
        }
        Ok(this)
    }

    /// Reads a header quoted in an ICMP error, of which routers may have changed or cut anything behind it: only version and
    /// header length are checked.
    #[inline]
    #[must_use]
    pub fn quoted(packet: &'a [u8]) -> Option<Self> {
        let this = Self {
            header: packet.first_chunk()?,
        };
        (this.header[0] >> 4 == 4 && this.header_len() >= HEADER_LEN).then_some(this)
    }

    /// Length of the header with its options, bytes.
    #[inline]
    #[must_use]
    pub fn header_len(&self) -> usize {
        usize::from(self.header[0] & 0xf) * 4
    }

    /// Whether the header has options.
    #[inline]
    #[must_use]
    pub fn has_options(&self) -> bool {
        self.header_len() > HEADER_LEN
    }

    /// Length of the packet, header included, bytes.
    #[inline]
    #[must_use]
    pub fn total_len(&self) -> usize {
        usize::from(u16::from_be_bytes([self.header[2], self.header[3]]))
    }

    /// Identification.
    #[inline]
    #[must_use]
    pub fn id(&self) -> u16 {
        u16::from_be_bytes([self.header[4], self.header[5]])
    }

    /// Whether routers may not fragment it.
    #[inline]
    #[must_use]
    pub fn dont_fragment(&self) -> bool {
        self.header[6] & 0x40 != 0
    }

    /// Place in the datagram; `None` for a whole one.
    #[inline]
    #[must_use]
    pub fn fragment(&self) -> Option<FragmentInfo> {
        let word = u16::from_be_bytes([self.header[6], self.header[7]]);
        let more = word & 0x2000 != 0;
        let offset = (word & 0x1fff) << 3;
        let len = self.total_len().saturating_sub(self.header_len());
        (more || offset > 0).then(|| FragmentInfo {
            id: u32::from(self.id()),
            offset,
            len: u16::try_from(len).unwrap_or(u16::MAX),
            more,
        })
    }

    /// Time to live, hops.
    #[inline]
    #[must_use]
    pub fn ttl(&self) -> u8 {
        self.header[8]
    }

    /// Protocol of the payload.
    #[inline]
    #[must_use]
    pub fn protocol(&self) -> Protocol {
        Protocol(self.header[9])
    }

    /// Source address.
    #[inline]
    #[must_use]
    pub fn source(&self) -> Ipv4Addr {
        let h = self.header;
        Ipv4Addr::new(h[12], h[13], h[14], h[15])
    }

    /// Destination address.
    #[inline]
    #[must_use]
    pub fn destination(&self) -> Ipv4Addr {
        let h = self.header;
        Ipv4Addr::new(h[16], h[17], h[18], h[19])
    }
}

/// Takes one hop off the TTL of the packet that begins `packet`, with the checksum (RFC 1141). `None`, with nothing changed, if
/// the header is cut or no hop is left for the next router.
#[inline]
#[must_use]
pub fn decrement_ttl(packet: &mut [u8]) -> Option<u8> {
    let header: &mut [u8; HEADER_LEN] = packet.first_chunk_mut()?;
    let ttl = header[8].checked_sub(1).filter(|ttl| *ttl > 0)?;
    let old = u16::from_be_bytes([header[8], header[9]]);
    let new = u16::from_be_bytes([ttl, header[9]]);
    let checksum = Edit::NONE
        .word(old, new)
        .full(u16::from_be_bytes([header[10], header[11]]));
    header[8] = ttl;
    [header[10], header[11]] = checksum.to_be_bytes();
    Some(ttl)
}

/// Sets the source address, with the header checksum; returns the former one.
#[inline]
#[must_use]
pub fn set_source(packet: &mut [u8], new: Ipv4Addr) -> Option<Ipv4Addr> {
    set_address(packet, 12, new)
}

/// Sets the destination address, with the header checksum; returns the former one.
#[inline]
#[must_use]
pub fn set_destination(packet: &mut [u8], new: Ipv4Addr) -> Option<Ipv4Addr> {
    set_address(packet, 16, new)
}

#[inline]
fn set_address(packet: &mut [u8], offset: usize, new: Ipv4Addr) -> Option<Ipv4Addr> {
    let header: &mut [u8; HEADER_LEN] = packet.first_chunk_mut()?;
    let checksum = u16::from_be_bytes([header[10], header[11]]);
    let place: &mut [u8; 4] = array_at_mut(header, offset)?;
    let old = Ipv4Addr::from(*place);
    *place = new.octets();
    let edit = Edit::NONE.address(IpAddr::V4(old), IpAddr::V4(new))?;
    [header[10], header[11]] = edit.full(checksum).to_be_bytes();
    Some(old)
}

/// Writes a header without options for a whole packet of `total_len` bytes that sluice sends itself: not to be fragmented,
/// hence with identification zero (RFC 6864, 4.1). `None`, with nothing written, if it does not fit.
#[inline]
#[must_use]
pub fn write_header(
    packet: &mut [u8],
    source: Ipv4Addr,
    destination: Ipv4Addr,
    protocol: Protocol,
    ttl: u8,
    total_len: usize,
) -> Option<()> {
    let header: &mut [u8; HEADER_LEN] = packet.first_chunk_mut()?;
    let [l0, l1] = u16::try_from(total_len).ok()?.to_be_bytes();
    let [s0, s1, s2, s3] = source.octets();
    let [d0, d1, d2, d3] = destination.octets();
    *header = [
        0x45, 0, l0, l1, 0, 0, 0x40, 0, ttl, protocol.0, 0, 0, s0, s1, s2, s3, d0, d1, d2, d3,
    ];
    [header[10], header[11]] = Sum::ZERO.append(header).checksum().to_be_bytes();
    Some(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::indexing_slicing, reason = "offsets into bytes that the test made")]

    use proptest::prelude::*;

    use super::*;

    const A: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
    const B: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);

    fn packet(change: impl FnOnce(&mut [u8; 64])) -> [u8; 64] {
        let mut packet = [0; 64];
        write_header(&mut packet, A, B, Protocol::TCP, 64, 60).unwrap();
        change(&mut packet);
        packet[10..12].copy_from_slice(&[0, 0]);
        let header_len = (usize::from(packet[0] & 0xf) * 4).min(60);
        let sum = Sum::ZERO.append(&packet[..header_len]).checksum();
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
        packet
    }

    fn reason(packet: &[u8], available: usize) -> Option<DropReason> {
        Ipv4::parse(packet, available).err()
    }

    #[test]
    fn written_header_reads_back() {
        let packet = packet(|_| ());
        let view = Ipv4::parse(&packet, 64).unwrap();
        assert_eq!((view.source(), view.destination(), view.ttl()), (A, B, 64));
        assert_eq!(
            (view.protocol(), view.total_len(), view.header_len()),
            (Protocol::TCP, 60, 20)
        );
        assert!(view.dont_fragment() && !view.has_options() && view.fragment().is_none());
    }

    #[test]
    fn contradicting_fields_are_invalid() {
        assert_eq!(
            reason(&packet(|p| p[0] = 0x55), 64),
            Some(DropReason::InvalidPacket),
            "version"
        );
        assert_eq!(
            reason(&packet(|p| p[0] = 0x44), 64),
            Some(DropReason::InvalidPacket),
            "header length"
        );
        assert_eq!(
            reason(&packet(|p| p[3] = 19), 64),
            Some(DropReason::InvalidPacket),
            "total below header"
        );
        assert_eq!(
            reason(&packet(|p| p[3] = 65), 64),
            Some(DropReason::InvalidPacket),
            "total above frame"
        );
        assert_eq!(
            reason(&packet(|p| p[6] = 0x80), 64),
            Some(DropReason::InvalidPacket),
            "reserved flag"
        );
        assert_eq!(
            reason(&packet(|_| ())[..19], 64),
            Some(DropReason::TruncatedHeader)
        );
        assert_eq!(
            reason(&packet(|p| p[0] = 0x4f)[..40], 60),
            Some(DropReason::TruncatedHeader),
            "options cut"
        );
        let mut bad = packet(|_| ());
        bad[12] ^= 1;
        assert_eq!(reason(&bad, 64), Some(DropReason::BadChecksum));
    }

    #[test]
    fn options_are_seen_and_checksummed() {
        let mut with_options = packet(|p| {
            p[0] = 0x46;
            p[20..24].copy_from_slice(&[0x83, 3, 4, 0]);
        });
        assert!(Ipv4::parse(&with_options, 64).unwrap().has_options());
        with_options[20] ^= 1;
        assert_eq!(reason(&with_options, 64), Some(DropReason::BadChecksum));
    }

    #[test]
    fn fragment_fields_are_read() {
        let first = packet(|p| p[4..8].copy_from_slice(&[0xab, 0xcd, 0x20, 0]));
        let info = Ipv4::parse(&first, 64).unwrap().fragment();
        assert_eq!(
            info,
            Some(FragmentInfo {
                id: 0xabcd,
                offset: 0,
                len: 40,
                more: true
            })
        );
        let last = packet(|p| p[4..8].copy_from_slice(&[0xab, 0xcd, 0x1f, 0xff]));
        let info = Ipv4::parse(&last, 64).unwrap().fragment().unwrap();
        assert_eq!(
            info,
            FragmentInfo {
                id: 0xabcd,
                offset: 65528,
                len: 40,
                more: false
            }
        );
        let sized = |len| FragmentInfo { len, ..info }.check();
        assert_eq!(sized(7), Ok(()));
        assert_eq!(sized(8), Err(DropReason::InvalidPacket), "ends beyond 65535");
        assert_eq!(sized(0), Err(DropReason::InvalidPacket));
        let odd = FragmentInfo {
            id: 1,
            offset: 0,
            len: 12,
            more: true,
        };
        assert_eq!(odd.check(), Err(DropReason::InvalidPacket), "no multiple of 8");
    }

    #[test]
    fn last_hop_is_not_taken() {
        for ttl in [0, 1] {
            let mut packet = packet(|p| p[8] = ttl);
            let before = packet;
            assert_eq!(decrement_ttl(&mut packet), None);
            assert_eq!(packet, before);
        }
    }

    proptest! {
        #[test]
        fn edits_keep_the_header_checksum_right(
            id: u16, tos: u8, ttl in 2_u8.., a: [u8; 4], b: [u8; 4], c: [u8; 4], d: [u8; 4],
        ) {
            let mut packet = packet(|p| {
                p[1] = tos;
                p[4..6].copy_from_slice(&id.to_be_bytes());
                p[8] = ttl;
                p[12..16].copy_from_slice(&a);
                p[16..20].copy_from_slice(&b);
            });
            prop_assert_eq!(decrement_ttl(&mut packet), Some(ttl - 1));
            prop_assert_eq!(set_source(&mut packet, c.into()), Some(a.into()));
            prop_assert_eq!(set_destination(&mut packet, d.into()), Some(b.into()));
            let edited = packet;
            let field = [packet[10], packet[11]];
            packet[10..12].copy_from_slice(&[0, 0]);
            prop_assert_eq!(field, Sum::ZERO.append(&packet[..20]).checksum().to_be_bytes());
            let view = Ipv4::parse(&edited, 64).unwrap();
            prop_assert_eq!((view.source(), view.destination(), view.ttl()), (c.into(), d.into(), ttl - 1));
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..80), available in 0_usize..100) {
            if let Ok(view) = Ipv4::parse(&bytes, available) {
                prop_assert!(view.header_len() <= view.total_len() && view.total_len() <= available);
                prop_assert!(view.header_len() <= bytes.len());
            }
        }
    }
}
