//! Ethernet II headers (IEEE 802.3, clause 3). VLAN tags and 802.2 frames are recognised only to be refused.

use policy::DropReason;

use super::array_at;
use crate::interface::MacAddr;

/// Length of the header, bytes.
pub const HEADER_LEN: usize = 14;

/// EtherType (IANA).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct EtherType(pub u16);

impl EtherType {
    /// IPv4.
    pub const IPV4: Self = Self(0x0800);
    /// ARP.
    pub const ARP: Self = Self(0x0806);
    /// 802.1Q tag.
    pub const VLAN: Self = Self(0x8100);
    /// IPv6.
    pub const IPV6: Self = Self(0x86dd);
    /// 802.1ad service tag.
    pub const SERVICE_VLAN: Self = Self(0x88a8);
    /// Least value that is a type; lower ones are lengths of 802.2 frames.
    const LEAST: Self = Self(0x0600);
}

/// An Ethernet header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ethernet {
    /// Destination MAC.
    pub destination: MacAddr,
    /// Source MAC.
    pub source: MacAddr,
    /// Type of the payload.
    pub ethertype: EtherType,
}

impl Ethernet {
    /// Reads the header.
    ///
    /// # Errors
    /// `TruncatedHeader` below 14 bytes; `UnsupportedL2` for VLAN tags and 802.2 frames.
    #[inline]
    pub fn parse(frame: &[u8]) -> Result<Self, DropReason> {
        let header: &[u8; HEADER_LEN] = frame.first_chunk().ok_or(DropReason::TruncatedHeader)?;
        let &[d0, d1, d2, d3, d4, d5, s0, s1, s2, s3, s4, s5, t0, t1] = header;
        let ethertype = EtherType(u16::from_be_bytes([t0, t1]));
        if matches!(ethertype, EtherType::VLAN | EtherType::SERVICE_VLAN) || ethertype.0 < EtherType::LEAST.0
        {
            return Err(DropReason::UnsupportedL2);
        }
        Ok(Self {
            destination: MacAddr([d0, d1, d2, d3, d4, d5]),
            source: MacAddr([s0, s1, s2, s3, s4, s5]),
            ethertype,
        })
    }

    /// Writes the header at the start of `frame`; `None`, with nothing written, if it is shorter.
    #[inline]
    #[must_use]
    pub fn write(&self, frame: &mut [u8]) -> Option<()> {
        let header: &mut [u8; HEADER_LEN] = frame.first_chunk_mut()?;
        let [d0, d1, d2, d3, d4, d5] = self.destination.0;
        let [s0, s1, s2, s3, s4, s5] = self.source.0;
        let [t0, t1] = self.ethertype.0.to_be_bytes();
        *header = [d0, d1, d2, d3, d4, d5, s0, s1, s2, s3, s4, s5, t0, t1];
        Some(())
    }
}

/// Sets both addresses and leaves the type; `None`, with nothing written, if `frame` is shorter than a header.
#[inline]
#[must_use]
pub fn set_addresses(frame: &mut [u8], destination: MacAddr, source: MacAddr) -> Option<()> {
    let ethertype = EtherType(u16::from_be_bytes(*array_at(frame, 12)?));
    Ethernet {
        destination,
        source,
        ethertype,
    }
    .write(frame)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::indexing_slicing, reason = "offsets into bytes that the test made")]

    use super::*;

    fn frame(ethertype: u16) -> [u8; 20] {
        let mut frame = [9; 20];
        let header = Ethernet {
            destination: MacAddr([1, 2, 3, 4, 5, 6]),
            source: MacAddr([7, 8, 9, 10, 11, 12]),
            ethertype: EtherType(ethertype),
        };
        header.write(&mut frame).unwrap();
        frame
    }

    #[test]
    fn header_reads_back() {
        let header = Ethernet::parse(&frame(0x86dd)).unwrap();
        assert_eq!(header.destination, MacAddr([1, 2, 3, 4, 5, 6]));
        assert_eq!(header.source, MacAddr([7, 8, 9, 10, 11, 12]));
        assert_eq!(header.ethertype, EtherType::IPV6);
    }

    #[test]
    fn vlan_and_802_2_are_refused() {
        for ethertype in [0x8100, 0x88a8, 0x05ff, 0] {
            assert_eq!(Ethernet::parse(&frame(ethertype)), Err(DropReason::UnsupportedL2));
        }
        assert!(Ethernet::parse(&frame(0x0600)).is_ok());
    }

    #[test]
    fn short_frame_is_refused_and_left_alone() {
        assert_eq!(Ethernet::parse(&[0; 13]), Err(DropReason::TruncatedHeader));
        let mut short = [5; 13];
        assert_eq!(set_addresses(&mut short, MacAddr([1; 6]), MacAddr([2; 6])), None);
        assert_eq!(short, [5; 13]);
    }

    #[test]
    fn set_addresses_keeps_the_type() {
        let mut frame = frame(0x0800);
        set_addresses(&mut frame, MacAddr([1; 6]), MacAddr([2; 6])).unwrap();
        let header = Ethernet::parse(&frame).unwrap();
        assert_eq!(
            (header.destination, header.source),
            (MacAddr([1; 6]), MacAddr([2; 6]))
        );
        assert_eq!(header.ethertype, EtherType::IPV4);
    }
}
