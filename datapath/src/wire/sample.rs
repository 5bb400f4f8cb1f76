//! Frames for tests, with every checksum right.
#![allow(clippy::indexing_slicing, reason = "offsets into frames that the test made")]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use policy::Protocol;

use super::checksum::{Sum, non_zero_udp};
use super::ethernet::{EtherType, Ethernet};
use super::packet::{Headers, IpHeaders};
use super::{ipv4, ipv6};
use crate::interface::MacAddr;

pub(super) const V4: (IpAddr, IpAddr) = (
    IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1)),
    IpAddr::V4(Ipv4Addr::new(10, 0, 0, 2)),
);
pub(super) const V6: (IpAddr, IpAddr) = (
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 2)),
);

pub(super) const fn pair(v6: bool) -> (IpAddr, IpAddr) {
    if v6 { V6 } else { V4 }
}

/// The family's ICMP.
pub(super) const fn icmp(v6: bool) -> Protocol {
    if v6 { Protocol::ICMPV6 } else { Protocol::ICMP }
}

/// A TCP segment from port 40000 to 80 with sequence number 7, acknowledging 9.
pub(super) fn tcp(flags: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![
        0x9c, 0x40, 0, 80, 0, 0, 0, 7, 0, 0, 0, 9, 0x50, flags, 1, 0, 0, 0, 0, 0,
    ];
    bytes.extend_from_slice(payload);
    bytes
}

/// A UDP datagram from port 40000 to 53.
pub(super) fn udp(payload: &[u8]) -> Vec<u8> {
    let [l0, l1] = u16::try_from(8 + payload.len()).unwrap().to_be_bytes();
    let mut bytes = vec![0x9c, 0x40, 0, 53, l0, l1, 0, 0];
    bytes.extend_from_slice(payload);
    bytes
}

pub(super) fn checksum_offset(protocol: Protocol) -> usize {
    match protocol {
        Protocol::TCP => 16,
        Protocol::UDP => 6,
        _ => 2,
    }
}

/// A frame from one address to the other that carries `l4`, its checksum computed.
pub(super) fn frame((source, destination): (IpAddr, IpAddr), protocol: Protocol, l4: &[u8]) -> Vec<u8> {
    let mut l4 = l4.to_vec();
    let pseudo = match protocol {
        Protocol::ICMP => Sum::ZERO,
        _ => Sum::pseudo(source, destination, protocol, u32::try_from(l4.len()).unwrap()).unwrap(),
    };
    let at = checksum_offset(protocol);
    if l4.len() >= at + 2 {
        l4[at..at + 2].copy_from_slice(&[0, 0]);
        let checksum = non_zero_udp(protocol, pseudo.append(&l4).checksum());
        l4[at..at + 2].copy_from_slice(&checksum.to_be_bytes());
    }
    raw_frame((source, destination), protocol, &l4)
}

/// A frame from one address to the other that carries `payload` as it is.
pub(super) fn raw_frame(
    (source, destination): (IpAddr, IpAddr),
    protocol: Protocol,
    payload: &[u8],
) -> Vec<u8> {
    let v6 = source.is_ipv6();
    let header_len = if v6 { 40 } else { 20 };
    let mut frame = vec![0; 14 + header_len];
    let ethertype = if v6 { EtherType::IPV6 } else { EtherType::IPV4 };
    let ethernet = Ethernet {
        destination: MacAddr([2, 0, 0, 0, 0, 2]),
        source: MacAddr([2, 0, 0, 0, 0, 1]),
        ethertype,
    };
    ethernet.write(&mut frame).unwrap();
    let total = header_len + payload.len();
    match (source, destination) {
        (IpAddr::V4(a), IpAddr::V4(b)) => ipv4::write_header(&mut frame[14..], a, b, protocol, 64, total),
        (IpAddr::V6(a), IpAddr::V6(b)) => ipv6::write_header(&mut frame[14..], a, b, protocol, 64, total),
        _ => None,
    }
    .unwrap();
    frame.extend_from_slice(payload);
    frame
}

/// Changes IPv4 header bytes of a frame and makes the header checksum right again.
pub(super) fn change_v4(frame: &mut [u8], change: impl FnOnce(&mut [u8])) {
    change(&mut frame[14..34]);
    frame[24..26].copy_from_slice(&[0, 0]);
    let sum = Sum::ZERO.append(&frame[14..34]).checksum();
    frame[24..26].copy_from_slice(&sum.to_be_bytes());
}

/// A frame that is a fragment: `payload` at `offset` of its datagram.
pub(super) fn fragment(v6: bool, protocol: Protocol, offset: u16, more: bool, payload: &[u8]) -> Vec<u8> {
    if v6 {
        let [o0, o1] = (offset | u16::from(more)).to_be_bytes();
        let mut with_header = vec![protocol.0, 0, o0, o1, 0, 0, 0xab, 0xcd];
        with_header.extend_from_slice(payload);
        raw_frame(V6, Protocol(44), &with_header)
    } else {
        let mut frame = raw_frame(V4, protocol, payload);
        let [o0, o1] = ((offset / 8) | if more { 0x2000 } else { 0 }).to_be_bytes();
        change_v4(&mut frame, |header| {
            header[4..8].copy_from_slice(&[0xab, 0xcd, o0, o1])
        });
        frame
    }
}

/// An ICMP error of type `kind` that quotes the IP packet of `about`, sent by the destination of that packet.
pub(super) fn error_about(about: &[u8], kind: u8, code: u8) -> Vec<u8> {
    let headers = ip(about);
    let mut message = vec![kind, code, 0, 0, 0, 0, 0, 0];
    message.extend_from_slice(&about[14..]);
    frame(
        (headers.destination, headers.source),
        icmp(headers.is_v6()),
        &message,
    )
}

pub(super) fn ip(frame: &[u8]) -> IpHeaders {
    match Headers::parse(frame, frame.len()) {
        Ok(Headers::Ip(headers)) => headers,
        other => panic!("{other:?}"),
    }
}
