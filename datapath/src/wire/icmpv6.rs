//! ICMPv6 messages (RFC 4443). The header is that of [`super::icmp`]; types and meaning differ.

use super::icmp::{Icmp, IcmpClass};

/// Message types (IANA).
pub mod kind {
    /// Destination unreachable.
    pub const UNREACHABLE: u8 = 1;
    /// Packet too big.
    pub const PACKET_TOO_BIG: u8 = 2;
    /// Time exceeded.
    pub const TIME_EXCEEDED: u8 = 3;
    /// Parameter problem.
    pub const PARAMETER_PROBLEM: u8 = 4;
    /// Greatest type of an error (RFC 4443, 2.1).
    pub const LAST_ERROR: u8 = 127;
    /// Echo request.
    pub const ECHO: u8 = 128;
    /// Echo reply.
    pub const ECHO_REPLY: u8 = 129;
    /// Router solicitation (RFC 4861).
    pub const ROUTER_SOLICITATION: u8 = 133;
    /// Router advertisement.
    pub const ROUTER_ADVERTISEMENT: u8 = 134;
    /// Neighbour solicitation.
    pub const NEIGHBOUR_SOLICITATION: u8 = 135;
    /// Neighbour advertisement.
    pub const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
    /// Redirect.
    pub const REDIRECT: u8 = 137;
}

/// What a message is.
#[inline]
#[must_use]
pub fn class(message: &Icmp<'_>) -> IcmpClass {
    match message.kind() {
        kind::UNREACHABLE..=kind::PARAMETER_PROBLEM => IcmpClass::Error,
        0..=kind::LAST_ERROR => IcmpClass::RefusedError,
        kind::ECHO => IcmpClass::Echo(message.echo(true)),
        kind::ECHO_REPLY => IcmpClass::Echo(message.echo(false)),
        kind::ROUTER_SOLICITATION..=kind::REDIRECT => IcmpClass::NeighbourDiscovery,
        _ => IcmpClass::Other,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::indexing_slicing, reason = "offsets into bytes that the test made")]

    use super::*;
    use crate::wire::icmp::Echo;

    #[test]
    fn messages_are_classified() {
        let of = |kind| class(&Icmp::parse(&[kind, 0, 0, 0, 1, 2, 3, 4], 8).unwrap());
        assert_eq!(
            of(128),
            IcmpClass::Echo(Echo {
                is_request: true,
                id: 0x0102,
                sequence: 0x0304
            })
        );
        assert_eq!(
            of(129),
            IcmpClass::Echo(Echo {
                is_request: false,
                id: 0x0102,
                sequence: 0x0304
            })
        );
        for kind in 0..=255 {
            let expected = match kind {
                1..=4 => IcmpClass::Error,
                0 | 5..=127 => IcmpClass::RefusedError,
                128 | 129 => continue,
                133..=137 => IcmpClass::NeighbourDiscovery,
                _ => IcmpClass::Other,
            };
            assert_eq!(of(kind), expected, "{kind}");
        }
    }
}
