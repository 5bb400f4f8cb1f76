//! Address and port translation in place, checksums included.
//!
//! Headers are changed together with the bytes, so that later stages see what the packet says now.

use std::net::IpAddr;

use policy::Protocol;

use super::checksum::{Edit, L4Checksum, Sum};
use super::packet::{IcmpBody, IpHeaders, L4, TcpHeader};
use super::quoted::{QuotedL4, QuotedPacket};
use super::{array_at, array_at_mut, icmp, ipv4, ipv6, tcp, udp};

/// One end of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Side {
    /// Where it comes from.
    Source,
    /// Where it goes.
    Destination,
}

impl IpHeaders {
    /// Makes `address` and, in TCP and UDP, `port` one side of the packet whose first frame is `linear`. `checksum` is the state
    /// of its L4 checksum; later fragments have none, and only their address changes.
    ///
    /// `None`, with neither bytes nor headers changed, if `address` is of the other family or the headers are not in `linear`.
    #[inline]
    #[must_use]
    pub fn translate(
        &mut self,
        linear: &mut [u8],
        side: Side,
        address: IpAddr,
        port: Option<u16>,
        checksum: L4Checksum,
    ) -> Option<()> {
        let old = match side {
            Side::Source => self.source,
            Side::Destination => self.destination,
        };
        let mut edit = Edit::NONE.address(old, address)?;
        let l4 = self.l4_offset();
        let checksum_offset = self.l4_checksum_offset();
        let port_offset = l4 + if side == Side::Source { 0 } else { 2 };
        // Every place that will be written lies before the end of what is checked here.
        let _ = linear.get(l4..)?;
        if let Some(offset) = checksum_offset {
            let _ = array_at::<2>(linear, offset)?;
        }

        let port_field = match &mut self.l4 {
            L4::Tcp(TcpHeader {
                source_port,
                destination_port,
                ..
            })
            | L4::Udp {
                source_port,
                destination_port,
            } => Some(if side == Side::Source {
                source_port
            } else {
                destination_port
            }),
            L4::Icmp { .. } | L4::LaterFragment => None,
        };
        if let (Some(field), Some(port)) = (port_field, port) {
            *array_at_mut(linear, port_offset)? = port.to_be_bytes();
            edit = edit.word(*field, port);
            *field = port;
        }
        set_address(linear.get_mut(self.l3_offset()..)?, side, address)?;
        if let Some(offset) = checksum_offset {
            let place: &mut [u8; 2] = array_at_mut(linear, offset)?;
            *place = checksum
                .edited(self.protocol, u16::from_be_bytes(*place), edit)
                .to_be_bytes();
        }
        match side {
            Side::Source => self.source = address,
            Side::Destination => self.destination = address,
        }
        Some(())
    }

    /// Makes `address` and, in TCP and UDP, `port` one side of the packet that this ICMP error quotes, with the error's own
    /// checksum, which must be full.
    ///
    /// `None`, with nothing changed, if this is no ICMP error or `address` is of the other family.
    #[must_use]
    pub fn translate_quoted(
        &mut self,
        linear: &mut [u8],
        side: Side,
        address: IpAddr,
        port: Option<u16>,
    ) -> Option<()> {
        let end = self.frame_len().min(linear.len());
        let outer_checksum = self.l4_checksum_offset()?;
        let L4::Icmp {
            body: IcmpBody::Error(quoted),
            ..
        } = &mut self.l4
        else {
            return None;
        };
        if quoted.source.is_ipv4() != address.is_ipv4() {
            return None;
        }
        // No translation reaches beyond the quoted TCP header.
        let start = usize::from(quoted.l3_offset);
        let end = (usize::from(quoted.l4_offset) + tcp::HEADER_LEN).min(end);
        let before = Sum::ZERO.append(linear.get(start..end)?).fold();
        quoted.translate(linear.get_mut(..end)?, side, address, port)?;
        let after = Sum::ZERO.append(linear.get(start..end)?).fold();
        let place: &mut [u8; 2] = array_at_mut(linear, outer_checksum)?;
        let edit = Edit::NONE.word(before, after);
        *place = L4Checksum::Valid
            .edited(self.protocol, u16::from_be_bytes(*place), edit)
            .to_be_bytes();
        Some(())
    }
}

impl QuotedPacket {
    fn translate(&mut self, linear: &mut [u8], side: Side, address: IpAddr, port: Option<u16>) -> Option<()> {
        let old = match side {
            Side::Source => self.source,
            Side::Destination => self.destination,
        };
        let mut edit = Edit::NONE.address(old, address)?;
        let l4 = usize::from(self.l4_offset);
        let port_field = match &mut self.l4 {
            QuotedL4::Tcp {
                source_port,
                destination_port,
                ..
            }
            | QuotedL4::Udp {
                source_port,
                destination_port,
            } => Some(if side == Side::Source {
                source_port
            } else {
                destination_port
            }),
            QuotedL4::Echo(_) => None,
        };
        if let (Some(field), Some(port)) = (port_field, port) {
            let offset = l4 + if side == Side::Source { 0 } else { 2 };
            *array_at_mut(linear, offset)? = port.to_be_bytes();
            edit = edit.word(*field, port);
            *field = port;
        }
        set_address(linear.get_mut(usize::from(self.l3_offset)..)?, side, address)?;
        let within = match self.l4 {
            QuotedL4::Tcp { .. } => tcp::CHECKSUM_OFFSET,
            QuotedL4::Udp { .. } => udp::CHECKSUM_OFFSET,
            QuotedL4::Echo(_) => icmp::CHECKSUM_OFFSET,
        };
        // TCP's may have been cut off; no one verifies it, but the sender's kernel should see its own bytes.
        if let Some(place) = array_at_mut::<2>(linear, l4 + within) {
            let field = u16::from_be_bytes(*place);
            let is_absent = self.protocol == Protocol::UDP && field == 0;
            let state = if is_absent {
                L4Checksum::Absent
            } else {
                L4Checksum::Valid
            };
            *place = state.edited(self.protocol, field, edit).to_be_bytes();
        }
        match side {
            Side::Source => self.source = address,
            Side::Destination => self.destination = address,
        }
        Some(())
    }
}

#[inline]
fn set_address(packet: &mut [u8], side: Side, address: IpAddr) -> Option<()> {
    match (address, side) {
        (IpAddr::V4(new), Side::Source) => ipv4::set_source(packet, new).map(drop),
        (IpAddr::V4(new), Side::Destination) => ipv4::set_destination(packet, new).map(drop),
        (IpAddr::V6(new), Side::Source) => ipv6::set_source(packet, new).map(drop),
        (IpAddr::V6(new), Side::Destination) => ipv6::set_destination(packet, new).map(drop),
    }
}

#[cfg(test)]
mod tests;
