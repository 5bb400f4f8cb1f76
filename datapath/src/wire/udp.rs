//! UDP headers (RFC 768).

use policy::DropReason;

/// Length of the header, bytes.
pub const HEADER_LEN: usize = 8;

/// Offset of the checksum in the header, bytes.
pub const CHECKSUM_OFFSET: usize = 6;

/// A checked UDP header.
#[derive(Debug, Clone, Copy)]
pub struct Udp<'a> {
    header: &'a [u8; HEADER_LEN],
}

impl<'a> Udp<'a> {
    /// Checks the header at the start of `datagram`, the linear part of `l4_len` bytes of IP payload. `is_fragment`: the
    /// payload goes on in other packets.
    ///
    /// Port zero is refused: it is reserved (RFC 6335, 6), RFC 768's "no reply expected" cannot be tracked, and a zero is what
    /// tables use for "no port". The length must be the payload's: bytes behind it would go unjudged.
    ///
    /// # Errors
    /// `TruncatedHeader` if the header is cut; `InvalidPacket` for a length that contradicts the payload's, or port zero.
    #[inline]
    pub fn parse(datagram: &'a [u8], l4_len: usize, is_fragment: bool) -> Result<Self, DropReason> {
        if l4_len < HEADER_LEN {
            return Err(DropReason::TruncatedHeader);
        }
        let this = Self {
            header: datagram.first_chunk().ok_or(DropReason::TruncatedHeader)?,
        };
        let fits = if is_fragment {
            this.length() > l4_len
        } else {
            this.length() == l4_len
        };
        if !fits || this.source_port() == 0 || this.destination_port() == 0 {
            return Err(DropReason::InvalidPacket);
        }
        Ok(this)
    }

    /// Source port.
    #[inline]
    #[must_use]
    pub fn source_port(&self) -> u16 {
        u16::from_be_bytes([self.header[0], self.header[1]])
    }

    /// Destination port.
    #[inline]
    #[must_use]
    pub fn destination_port(&self) -> u16 {
        u16::from_be_bytes([self.header[2], self.header[3]])
    }

    /// Length of header and payload, bytes.
    #[inline]
    #[must_use]
    pub fn length(&self) -> usize {
        usize::from(u16::from_be_bytes([self.header[4], self.header[5]]))
    }

    /// Checksum field; zero for none.
    #[inline]
    #[must_use]
    pub fn checksum(&self) -> u16 {
        u16::from_be_bytes([self.header[6], self.header[7]])
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::indexing_slicing, reason = "offsets into bytes that the test made")]

    use super::*;

    fn reason(bytes: [u8; 12], l4_len: usize, is_fragment: bool) -> Option<DropReason> {
        Udp::parse(&bytes, l4_len, is_fragment).err()
    }

    #[test]
    fn header_reads_back() {
        let bytes = [0x12, 0x34, 0, 53, 0, 12, 0xab, 0xcd, 1, 2, 3, 4];
        let view = Udp::parse(&bytes, 12, false).unwrap();
        assert_eq!((view.source_port(), view.destination_port()), (0x1234, 53));
        assert_eq!((view.length(), view.checksum()), (12, 0xabcd));
    }

    #[test]
    fn length_that_contradicts_the_payload_is_invalid() {
        let with_length = |length| [0, 1, 0, 1, 0, length, 0, 0, 0, 0, 0, 0];
        assert_eq!(reason(with_length(12), 12, false), None);
        for length in [0, 7, 11, 13] {
            assert_eq!(
                reason(with_length(length), 12, false),
                Some(DropReason::InvalidPacket),
                "{length}"
            );
        }
        assert_eq!(reason(with_length(20), 12, true), None);
        assert_eq!(reason(with_length(12), 12, true), Some(DropReason::InvalidPacket));
        assert_eq!(
            reason(with_length(12), 7, false),
            Some(DropReason::TruncatedHeader)
        );
    }

    #[test]
    fn port_zero_is_invalid() {
        assert_eq!(
            reason([0, 0, 0, 1, 0, 12, 0, 0, 0, 0, 0, 0], 12, false),
            Some(DropReason::InvalidPacket)
        );
        assert_eq!(
            reason([0, 1, 0, 0, 0, 12, 0, 0, 0, 0, 0, 0], 12, false),
            Some(DropReason::InvalidPacket)
        );
    }
}
