//! TCP headers (RFC 9293), their options, and the segments that sluice sends itself.

mod options;
mod segment;

use policy::DropReason;

use super::array_at_mut;
pub use options::{OptionIter, TcpOption, TcpOptions, Timestamps, clamp_mss, remove_multipath};
pub use segment::Segment;

/// Length of a header without options, bytes.
pub const HEADER_LEN: usize = 20;

/// Offset of the checksum in the header, bytes.
pub const CHECKSUM_OFFSET: usize = 16;

/// Control bits (RFC 9293, 3.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct TcpFlags(pub u8);

impl TcpFlags {
    /// No more data from the sender.
    pub const FIN: Self = Self(0x01);
    /// Synchronise sequence numbers.
    pub const SYN: Self = Self(0x02);
    /// Reset the connection.
    pub const RST: Self = Self(0x04);
    /// Push.
    pub const PSH: Self = Self(0x08);
    /// The acknowledgment field counts.
    pub const ACK: Self = Self(0x10);
    /// The urgent pointer counts.
    pub const URG: Self = Self(0x20);
    /// ECN echo.
    pub const ECE: Self = Self(0x40);
    /// Congestion window reduced.
    pub const CWR: Self = Self(0x80);

    /// Both sets of bits.
    #[inline]
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether all bits of `other` are set.
    #[inline]
    #[must_use]
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether the segment asks for a connection: SYN without ACK.
    #[inline]
    #[must_use]
    pub const fn begins(self) -> bool {
        self.0 & (Self::SYN.0 | Self::ACK.0 | Self::RST.0 | Self::FIN.0) == Self::SYN.0
    }

    /// Whether the combination can occur in a connection. PSH, ECE and CWR go with any; the others are those of Linux
    /// (`net/netfilter/nf_conntrack_proto_tcp.c`, `tcp_valid_flags`): FIN only with ACK, SYN and RST never together.
    #[inline]
    #[must_use]
    pub const fn is_possible(self) -> bool {
        const SYN: u8 = TcpFlags::SYN.0;
        const ACK: u8 = TcpFlags::ACK.0;
        const RST: u8 = TcpFlags::RST.0;
        const FIN: u8 = TcpFlags::FIN.0;
        const URG: u8 = TcpFlags::URG.0;
        let ignored = Self::PSH.0 | Self::ECE.0 | Self::CWR.0;
        matches!(self.0 & !ignored, ACK | SYN | RST)
            || self.0 & !ignored == SYN | URG
            || self.0 & !ignored == SYN | ACK
            || self.0 & !ignored == RST | ACK
            || self.0 & !ignored == FIN | ACK
            || self.0 & !ignored == FIN | ACK | URG
            || self.0 & !ignored == ACK | URG
    }
}

/// A checked TCP header.
#[derive(Debug, Clone, Copy)]
pub struct Tcp<'a> {
    header: &'a [u8; HEADER_LEN],
    options: &'a [u8],
}

impl<'a> Tcp<'a> {
    /// Checks the header at the start of `segment`, the linear part of `l4_len` bytes of IP payload. Options are not looked
    /// into.
    ///
    /// # Errors
    /// `TruncatedHeader` if the header or its options are cut or its data offset is below 5; `InvalidPacket` for port zero
    /// (reserved: RFC 6335, 6); `InvalidTcp` for impossible flags.
    #[inline]
    pub fn parse(segment: &'a [u8], l4_len: usize) -> Result<Self, DropReason> {
        let cut = DropReason::TruncatedHeader;
        let header: &[u8; HEADER_LEN] = segment.first_chunk().ok_or(cut)?;
        let header_len = usize::from(header[12] >> 4) * 4;
        let options = segment.get(HEADER_LEN..header_len).ok_or(cut)?;
        if header_len > l4_len {
            return Err(cut);
        }
        let this = Self { header, options };
        if this.source_port() == 0 || this.destination_port() == 0 {
            return Err(DropReason::InvalidPacket);
        }
        if !this.flags().is_possible() {
            return Err(DropReason::InvalidTcp);
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

    /// Sequence number of the first byte (or of SYN).
    #[inline]
    #[must_use]
    pub fn seq(&self) -> u32 {
        u32::from_be_bytes([self.header[4], self.header[5], self.header[6], self.header[7]])
    }

    /// Acknowledgment number; counts with ACK only.
    #[inline]
    #[must_use]
    pub fn ack(&self) -> u32 {
        u32::from_be_bytes([self.header[8], self.header[9], self.header[10], self.header[11]])
    }

    /// Length of the header with its options, bytes.
    #[inline]
    #[must_use]
    pub fn header_len(&self) -> usize {
        HEADER_LEN + self.options.len()
    }

    /// Control bits.
    #[inline]
    #[must_use]
    pub fn flags(&self) -> TcpFlags {
        TcpFlags(self.header[13])
    }

    /// Window, not scaled.
    #[inline]
    #[must_use]
    pub fn window(&self) -> u16 {
        u16::from_be_bytes([self.header[14], self.header[15]])
    }

    /// Checksum field.
    #[inline]
    #[must_use]
    pub fn checksum(&self) -> u16 {
        u16::from_be_bytes([self.header[16], self.header[17]])
    }
}

fn set_word(segment: &mut [u8], offset: usize, word: u16) -> Option<()> {
    *array_at_mut(segment, offset)? = word.to_be_bytes();
    Some(())
}

#[cfg(test)]
mod tests;
