//! Packets byte by byte, right or wrong: independent of the code under test, so that both would have to err alike.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// A MAC address.
pub type Mac = [u8; 6];

/// All stations.
pub const BROADCAST: Mac = [0xff; 6];

/// IPv4 (IANA ethertypes).
pub const ETHERTYPE_IPV4: u16 = 0x0800;
/// ARP.
pub const ETHERTYPE_ARP: u16 = 0x0806;
/// IPv6.
pub const ETHERTYPE_IPV6: u16 = 0x86dd;

/// ICMP (IANA protocol numbers).
pub const ICMP: u8 = 1;
/// TCP.
pub const TCP: u8 = 6;
/// UDP.
pub const UDP: u8 = 17;
/// ICMPv6.
pub const ICMPV6: u8 = 58;

/// TCP flags (RFC 9293, 3.1).
pub const FIN: u8 = 1;
/// Synchronise.
pub const SYN: u8 = 2;
/// Reset.
pub const RST: u8 = 4;
/// Push.
pub const PSH: u8 = 8;
/// Acknowledgment.
pub const ACK: u8 = 16;

/// Length of an Ethernet header, bytes.
pub const ETHERNET_LEN: usize = 14;

fn be16(bytes: &mut [u8], at: usize, value: u16) {
    bytes[at..at + 2].copy_from_slice(&value.to_be_bytes());
}

fn length(of: usize) -> u16 {
    u16::try_from(of).expect("a packet of this test is short")
}

/// The Internet checksum (RFC 1071).
#[must_use]
pub fn checksum(parts: &[&[u8]]) -> u16 {
    let bytes = parts.concat();
    let mut sum = bytes
        .chunks(2)
        .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)])))
        .sum::<u32>();
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    !u16::try_from(sum).expect("folded")
}

/// A frame round an IP packet, its type by the packet's version.
#[must_use]
pub fn frame(destination: Mac, source: Mac, packet: &[u8]) -> Vec<u8> {
    let ethertype = if packet.first().is_some_and(|byte| byte >> 4 == 6) {
        ETHERTYPE_IPV6
    } else {
        ETHERTYPE_IPV4
    };
    frame_of(destination, source, ethertype, packet)
}

/// A frame.
#[must_use]
pub fn frame_of(destination: Mac, source: Mac, ethertype: u16, payload: &[u8]) -> Vec<u8> {
    [&destination[..], &source, &ethertype.to_be_bytes(), payload].concat()
}

/// An ARP packet; operation 1 asks, 2 answers (RFC 826).
#[must_use]
pub fn arp(operation: u16, sender: (Mac, Ipv4Addr), target: (Mac, Ipv4Addr)) -> Vec<u8> {
    [
        &[0, 1, 8, 0, 6, 4][..],
        &operation.to_be_bytes(),
        &sender.0,
        &sender.1.octets(),
        &target.0,
        &target.1.octets(),
    ]
    .concat()
}

/// An IP packet of the addresses' family, TTL 64.
///
/// # Panics
/// The families differ.
#[must_use]
pub fn ip(source: IpAddr, destination: IpAddr, protocol: u8, payload: &[u8]) -> Vec<u8> {
    match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let mut packet = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 64, protocol, 0, 0];
            packet.extend(source.octets());
            packet.extend(destination.octets());
            be16(&mut packet, 2, length(20 + payload.len()));
            seal_ipv4(&mut packet);
            packet.extend(payload);
            packet
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            let mut packet = vec![0x60, 0, 0, 0, 0, 0, protocol, 64];
            be16(&mut packet, 4, length(payload.len()));
            packet.extend(source.octets());
            packet.extend(destination.octets());
            packet.extend(payload);
            packet
        }
        _ => panic!("{source} and {destination} are of different families"),
    }
}

/// Computes the checksum of the IPv4 header that begins `packet` anew.
pub fn seal_ipv4(packet: &mut [u8]) {
    let header = usize::from(packet[0] & 15) * 4;
    be16(packet, 10, 0);
    let sum = checksum(&[&packet[..header]]);
    be16(packet, 10, sum);
}

fn pseudo(source: IpAddr, destination: IpAddr, protocol: u8, len: usize) -> Vec<u8> {
    let mut pseudo = Vec::new();
    for addr in [source, destination] {
        match addr {
            IpAddr::V4(addr) => pseudo.extend(addr.octets()),
            IpAddr::V6(addr) => pseudo.extend(addr.octets()),
        }
    }
    pseudo.extend([0, protocol]);
    pseudo.extend(length(len).to_be_bytes());
    pseudo
}

/// `payload` with its checksum at `at` computed, as an IP packet.
fn sealed(source: IpAddr, destination: IpAddr, protocol: u8, mut payload: Vec<u8>, at: usize) -> Vec<u8> {
    let pseudo = if protocol == ICMP {
        Vec::new()
    } else {
        pseudo(source, destination, protocol, payload.len())
    };
    let sum = checksum(&[&pseudo, &payload]);
    be16(&mut payload, at, sum);
    ip(source, destination, protocol, &payload)
}

/// A UDP datagram.
#[must_use]
pub fn udp(source: SocketAddr, destination: SocketAddr, data: &[u8]) -> Vec<u8> {
    let mut datagram = Vec::new();
    for field in [source.port(), destination.port(), length(8 + data.len()), 0] {
        datagram.extend(field.to_be_bytes());
    }
    datagram.extend(data);
    sealed(source.ip(), destination.ip(), UDP, datagram, 6)
}

/// What varies of a TCP segment.
#[derive(Debug, Clone, Copy)]
pub struct Segment<'a> {
    /// Sequence number.
    pub seq: u32,
    /// Acknowledgment number.
    pub ack: u32,
    /// Control bits.
    pub flags: u8,
    /// Payload.
    pub data: &'a [u8],
}

/// A TCP segment without options.
#[must_use]
pub fn tcp(source: SocketAddr, destination: SocketAddr, segment: &Segment<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend(source.port().to_be_bytes());
    bytes.extend(destination.port().to_be_bytes());
    bytes.extend(segment.seq.to_be_bytes());
    bytes.extend(segment.ack.to_be_bytes());
    bytes.extend([0x50, segment.flags, 0xff, 0xff, 0, 0, 0, 0]);
    bytes.extend(segment.data);
    sealed(source.ip(), destination.ip(), TCP, bytes, 16)
}

/// The first segment of a connection.
#[must_use]
pub fn syn(source: SocketAddr, destination: SocketAddr) -> Vec<u8> {
    tcp(
        source,
        destination,
        &Segment {
            seq: 1000,
            ack: 0,
            flags: SYN,
            data: &[],
        },
    )
}

/// An ICMP or ICMPv6 message, by the addresses' family; `body` is what follows type, code and checksum.
#[must_use]
pub fn icmp(source: IpAddr, destination: IpAddr, kind: u8, code: u8, body: &[u8]) -> Vec<u8> {
    let protocol = if source.is_ipv4() { ICMP } else { ICMPV6 };
    sealed(
        source,
        destination,
        protocol,
        [&[kind, code, 0, 0], body].concat(),
        2,
    )
}

/// A neighbour discovery message: hop limit 255 (RFC 4861, 6.1 and 7.1).
#[must_use]
pub fn discovery(source: Ipv6Addr, destination: Ipv6Addr, kind: u8, body: &[u8]) -> Vec<u8> {
    let mut packet = icmp(source.into(), destination.into(), kind, 0, body);
    packet[7] = 255;
    packet
}

/// Fragment of the IP packet `whole`, IPv4 or IPv6 without extension headers: `part` at `offset` (a multiple of 8) of its payload.
#[must_use]
pub fn fragment(whole: &[u8], id: u16, offset: usize, more: bool, part: &[u8]) -> Vec<u8> {
    assert_eq!(offset % 8, 0);
    if whole[0] >> 4 == 4 {
        let mut fragment = [&whole[..20], part].concat();
        let len = length(fragment.len());
        be16(&mut fragment, 2, len);
        be16(&mut fragment, 4, id);
        be16(
            &mut fragment,
            6,
            length(offset / 8) | if more { 0x2000 } else { 0 },
        );
        seal_ipv4(&mut fragment);
        return fragment;
    }
    let mut header = [whole[6], 0, 0, 0, 0, 0, 0, 0];
    be16(&mut header, 2, length(offset) | u16::from(more));
    be16(&mut header, 6, id);
    let mut fragment = [&whole[..40], &header, part].concat();
    fragment[6] = 44;
    let len = length(fragment.len() - 40);
    be16(&mut fragment, 4, len);
    fragment
}

/// The IPv4 packet with these options, whose length is a multiple of 4.
#[must_use]
pub fn with_options(packet: &[u8], options: &[u8]) -> Vec<u8> {
    let mut packet = [&packet[..20], options, &packet[20..]].concat();
    packet[0] += u8::try_from(options.len() / 4).expect("at most 40 bytes");
    let len = length(packet.len());
    be16(&mut packet, 2, len);
    seal_ipv4(&mut packet);
    packet
}

/// The IPv6 packet with extension headers between its header and what follows; each is given whole but for its next header.
#[must_use]
pub fn with_extensions(packet: &[u8], extensions: &[(u8, Vec<u8>)]) -> Vec<u8> {
    let mut chain = Vec::new();
    for (at, (_, header)) in extensions.iter().enumerate() {
        let next = extensions.get(at + 1).map_or(packet[6], |(kind, _)| *kind);
        chain.push(next);
        chain.extend(&header[1..]);
    }
    let mut extended = [&packet[..40], &chain, &packet[40..]].concat();
    if let Some((first, _)) = extensions.first() {
        extended[6] = *first;
    }
    let len = length(extended.len() - 40);
    be16(&mut extended, 4, len);
    extended
}

/// What a received frame is, as far as tests ask.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// Source address.
    pub source: IpAddr,
    /// Destination address.
    pub destination: IpAddr,
    /// Upper-layer protocol, or extension header.
    pub protocol: u8,
    /// Ports of TCP and UDP; else zeros.
    pub ports: (u16, u16),
    /// What follows the IP header.
    pub payload: Vec<u8>,
}

impl Seen {
    /// Reads an IP packet's frame; `None` for everything else.
    #[must_use]
    pub fn parse(frame: &[u8]) -> Option<Self> {
        let packet = frame.get(ETHERNET_LEN..)?;
        let (source, destination, protocol, header) = match u16::from_be_bytes([frame[12], frame[13]]) {
            ETHERTYPE_IPV4 => {
                let addr =
                    |at: usize| Some(Ipv4Addr::from(<[u8; 4]>::try_from(packet.get(at..at + 4)?).ok()?));
                let header = usize::from(packet.first()? & 15) * 4;
                (
                    IpAddr::V4(addr(12)?),
                    IpAddr::V4(addr(16)?),
                    *packet.get(9)?,
                    header,
                )
            }
            ETHERTYPE_IPV6 => {
                let addr = |at: usize| {
                    Some(Ipv6Addr::from(
                        <[u8; 16]>::try_from(packet.get(at..at + 16)?).ok()?,
                    ))
                };
                (IpAddr::V6(addr(8)?), IpAddr::V6(addr(24)?), *packet.get(6)?, 40)
            }
            _ => return None,
        };
        let payload = packet.get(header..)?.to_vec();
        let port = |at: usize| {
            payload
                .get(at..at + 2)
                .map_or(0, |bytes| u16::from_be_bytes([bytes[0], bytes[1]]))
        };
        let ports = if matches!(protocol, TCP | UDP) {
            (port(0), port(2))
        } else {
            (0, 0)
        };
        Some(Self {
            source,
            destination,
            protocol,
            ports,
            payload,
        })
    }

    /// Flags of a TCP segment; 0 for everything else.
    #[must_use]
    pub fn tcp_flags(&self) -> u8 {
        if self.protocol == TCP {
            self.payload.get(13).copied().unwrap_or(0)
        } else {
            0
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksum_of_a_sealed_packet_is_zero() {
        let (a, b) = ("10.0.0.1:1000".parse().unwrap(), "10.0.0.2:53".parse().unwrap());
        let packet = udp(a, b, b"odd");
        assert_eq!(checksum(&[&packet[..20]]), 0);
        assert_eq!(checksum(&[&pseudo(a.ip(), b.ip(), UDP, 11), &packet[20..]]), 0);
        let fragment = fragment(&packet, 7, 8, false, &packet[28..]);
        assert_eq!(checksum(&[&fragment[..20]]), 0);
    }

    #[test]
    fn seen_is_what_was_built() {
        let (a, b) = ("[fd00::1]:1000".parse().unwrap(), "[fd00::2]:80".parse().unwrap());
        let seen = Seen::parse(&frame([1; 6], [2; 6], &syn(a, b))).unwrap();
        assert_eq!(
            (seen.source, seen.destination, seen.ports),
            (a.ip(), b.ip(), (1000, 80))
        );
        assert_eq!(seen.tcp_flags(), SYN);
    }
}
