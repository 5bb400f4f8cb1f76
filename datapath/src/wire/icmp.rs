//! ICMP messages (RFC 792), and what both families' messages mean to conntrack.

use policy::DropReason;

/// Length of the header, bytes; in errors the quoted packet follows.
pub const HEADER_LEN: usize = 8;

/// Offset of the checksum in the header, bytes.
pub const CHECKSUM_OFFSET: usize = 2;

/// Message types (IANA).
pub mod kind {
    /// Echo reply.
    pub const ECHO_REPLY: u8 = 0;
    /// Destination unreachable.
    pub const UNREACHABLE: u8 = 3;
    /// Source quench, deprecated by RFC 6633.
    pub const SOURCE_QUENCH: u8 = 4;
    /// Redirect.
    pub const REDIRECT: u8 = 5;
    /// Echo.
    pub const ECHO: u8 = 8;
    /// Time exceeded.
    pub const TIME_EXCEEDED: u8 = 11;
    /// Parameter problem.
    pub const PARAMETER_PROBLEM: u8 = 12;
}

/// Identifier and sequence number of an echo or echo reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Echo {
    /// Whether it asks.
    pub is_request: bool,
    /// Identifier: what a port is to UDP.
    pub id: u16,
    /// Sequence number.
    pub sequence: u16,
}

/// What a message is to conntrack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IcmpClass {
    /// Echo or echo reply.
    Echo(Echo),
    /// An error; it quotes the packet that it is about.
    Error,
    /// An error that is never let through: IPv4 redirects would let an endpoint change another's route, source quench is
    /// deprecated (RFC 6633, 3), others are unknown.
    RefusedError,
    /// Neighbour or router discovery, redirects included (IPv6).
    NeighbourDiscovery,
    /// Anything else.
    Other,
}

/// A checked ICMP or ICMPv6 header.
#[derive(Debug, Clone, Copy)]
pub struct Icmp<'a> {
    header: &'a [u8; HEADER_LEN],
}

impl<'a> Icmp<'a> {
    /// Checks the header at the start of `message`, the linear part of `l4_len` bytes of IP payload.
    ///
    /// # Errors
    /// `TruncatedHeader` below 8 bytes: shorter than any message of either family.
    #[inline]
    pub fn parse(message: &'a [u8], l4_len: usize) -> Result<Self, DropReason> {
        if l4_len < HEADER_LEN {
            return Err(DropReason::TruncatedHeader);
        }
        Ok(Self {
            header: message.first_chunk().ok_or(DropReason::TruncatedHeader)?,
        })
    }

    /// Message type.
    #[inline]
    #[must_use]
    pub fn kind(&self) -> u8 {
        self.header[0]
    }

    /// Message code.
    #[inline]
    #[must_use]
    pub fn code(&self) -> u8 {
        self.header[1]
    }

    /// Checksum field.
    #[inline]
    #[must_use]
    pub fn checksum(&self) -> u16 {
        u16::from_be_bytes([self.header[2], self.header[3]])
    }

    /// What an IPv4 message is.
    #[inline]
    #[must_use]
    pub fn class(&self) -> IcmpClass {
        match self.kind() {
            kind::ECHO => IcmpClass::Echo(self.echo(true)),
            kind::ECHO_REPLY => IcmpClass::Echo(self.echo(false)),
            kind::UNREACHABLE | kind::TIME_EXCEEDED | kind::PARAMETER_PROBLEM => IcmpClass::Error,
            kind::SOURCE_QUENCH | kind::REDIRECT => IcmpClass::RefusedError,
            _ => IcmpClass::Other,
        }
    }

    /// The header read as an echo's.
    #[inline]
    #[must_use]
    pub(crate) fn echo(&self, is_request: bool) -> Echo {
        let h = self.header;
        Echo {
            is_request,
            id: u16::from_be_bytes([h[4], h[5]]),
            sequence: u16::from_be_bytes([h[6], h[7]]),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::indexing_slicing, reason = "offsets into bytes that the test made")]

    use super::*;

    #[test]
    fn messages_are_classified() {
        let class = |kind| Icmp::parse(&[kind, 0, 0, 0, 1, 2, 3, 4], 8).unwrap().class();
        assert_eq!(
            class(8),
            IcmpClass::Echo(Echo {
                is_request: true,
                id: 0x0102,
                sequence: 0x0304
            })
        );
        assert_eq!(
            class(0),
            IcmpClass::Echo(Echo {
                is_request: false,
                id: 0x0102,
                sequence: 0x0304
            })
        );
        for error in [3, 11, 12] {
            assert_eq!(class(error), IcmpClass::Error);
        }
        for refused in [4, 5] {
            assert_eq!(class(refused), IcmpClass::RefusedError);
        }
        assert_eq!(class(13), IcmpClass::Other);
    }

    #[test]
    fn short_message_is_truncated() {
        assert_eq!(Icmp::parse(&[8; 8], 7).err(), Some(DropReason::TruncatedHeader));
        assert_eq!(Icmp::parse(&[8; 7], 8).err(), Some(DropReason::TruncatedHeader));
    }
}
