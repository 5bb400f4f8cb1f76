//! ARP for IPv4 over Ethernet (RFC 826).

use std::net::Ipv4Addr;

use policy::DropReason;

use super::ethernet::{self, EtherType, Ethernet};
use super::{array_at, array_at_mut};
use crate::interface::MacAddr;

/// Length of the packet, without the Ethernet header, bytes.
pub const LEN: usize = 28;

/// Hardware type Ethernet, protocol type IPv4, and their address lengths: the only packets accepted.
const PREFIX: [u8; 6] = [0, 1, 8, 0, 6, 4];

/// What an ARP packet wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ArpOperation {
    /// Who has the target address?
    Request,
    /// The sender address is at the sender MAC.
    Reply,
}

/// A checked ARP packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ArpPacket {
    /// What it wants.
    pub operation: ArpOperation,
    /// MAC the sender claims.
    pub sender_mac: MacAddr,
    /// Address the sender claims.
    pub sender: Ipv4Addr,
    /// MAC of the target; meaningless in requests.
    pub target_mac: MacAddr,
    /// Address asked for, or told the reply.
    pub target: Ipv4Addr,
}

impl ArpPacket {
    /// Reads `payload`, the bytes behind the Ethernet header (padding allowed).
    ///
    /// # Errors
    /// `TruncatedHeader` below 28 bytes; `InvalidPacket` for other hardware, protocol or operation than Ethernet, IPv4, request
    /// or reply.
    #[inline]
    pub fn parse(payload: &[u8]) -> Result<Self, DropReason> {
        let packet: &[u8; LEN] = payload.first_chunk().ok_or(DropReason::TruncatedHeader)?;
        let cut = || DropReason::TruncatedHeader;
        let operation = match array_at(packet, PREFIX.len()) {
            Some([0, 1]) => ArpOperation::Request,
            Some([0, 2]) => ArpOperation::Reply,
            _ => return Err(DropReason::InvalidPacket),
        };
        if !packet.starts_with(&PREFIX) {
            return Err(DropReason::InvalidPacket);
        }
        Ok(Self {
            operation,
            sender_mac: MacAddr(*array_at(packet, 8).ok_or_else(cut)?),
            sender: Ipv4Addr::from(*array_at::<4>(packet, 14).ok_or_else(cut)?),
            target_mac: MacAddr(*array_at(packet, 18).ok_or_else(cut)?),
            target: Ipv4Addr::from(*array_at::<4>(packet, 24).ok_or_else(cut)?),
        })
    }

    /// Makes `frame`, whose request this is, the answer that the target address is at `mac`: in place, Ethernet header
    /// included. Returns the frame's length without padding; `None`, with nothing written, if `frame` is too short.
    #[inline]
    #[must_use]
    pub fn write_reply(&self, frame: &mut [u8], mac: MacAddr) -> Option<usize> {
        let len = ethernet::HEADER_LEN + LEN;
        let _ = frame.get(..len)?;
        Ethernet {
            destination: self.sender_mac,
            source: mac,
            ethertype: EtherType::ARP,
        }
        .write(frame)?;
        let packet: &mut [u8; LEN] = array_at_mut(frame, ethernet::HEADER_LEN)?;
        *array_at_mut(packet, 0)? = PREFIX;
        *array_at_mut(packet, 6)? = [0, 2];
        *array_at_mut(packet, 8)? = mac.0;
        *array_at_mut(packet, 14)? = self.target.octets();
        *array_at_mut(packet, 18)? = self.sender_mac.0;
        *array_at_mut(packet, 24)? = self.sender.octets();
        Some(len)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::indexing_slicing, reason = "offsets into bytes that the test made")]

    use super::*;

    fn request() -> [u8; 60] {
        let mut frame = [0; 60];
        frame[..14].copy_from_slice(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0, 1, 8, 6]);
        frame[14..42].copy_from_slice(&[
            0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, 1, 10, 0, 0, 5, 0, 0, 0, 0, 0, 0, 169, 254, 1, 1,
        ]);
        frame
    }

    #[test]
    fn request_becomes_the_reply() {
        let mut frame = request();
        let asked = ArpPacket::parse(&frame[14..]).unwrap();
        assert_eq!(
            (asked.operation, asked.target),
            (ArpOperation::Request, Ipv4Addr::new(169, 254, 1, 1))
        );
        let mac = MacAddr([2, 0, 0, 0, 0, 9]);
        assert_eq!(asked.write_reply(&mut frame, mac), Some(42));
        let ethernet = Ethernet::parse(&frame).unwrap();
        assert_eq!((ethernet.destination, ethernet.source), (asked.sender_mac, mac));
        assert_eq!(
            ArpPacket::parse(&frame[14..42]),
            Ok(ArpPacket {
                operation: ArpOperation::Reply,
                sender_mac: mac,
                sender: asked.target,
                target_mac: asked.sender_mac,
                target: asked.sender,
            })
        );
    }

    #[test]
    fn other_hardware_protocol_or_operation_is_invalid() {
        for at in 0..8 {
            let mut frame = request();
            frame[14 + at] ^= 0x40;
            assert_eq!(
                ArpPacket::parse(&frame[14..]),
                Err(DropReason::InvalidPacket),
                "byte {at}"
            );
        }
        assert_eq!(
            ArpPacket::parse(&request()[14..41]),
            Err(DropReason::TruncatedHeader)
        );
    }

    #[test]
    fn short_frame_is_left_alone() {
        let asked = ArpPacket::parse(&request()[14..]).unwrap();
        let mut short = [7; 41];
        assert_eq!(asked.write_reply(&mut short, MacAddr([1; 6])), None);
        assert_eq!(short, [7; 41]);
    }
}
