//! Flows, their packets, and the order in which they come.

use std::net::IpAddr;

use datapath::flow::{FlowKey, Peer};
use datapath::wire::checksum::{Sum, non_zero_udp};
use datapath::wire::ethernet::{EtherType, Ethernet, HEADER_LEN};
use datapath::wire::tcp::{Segment, TcpFlags, Timestamps};
use datapath::wire::{ipv4, ipv6};
use policy::Protocol;

use crate::node::{CLIENT, GATEWAY, Pod, SERVER};

/// First port that servers listen on.
pub const FIRST_SERVER_PORT: u16 = 5000;

const FIRST_CLIENT_PORT: u16 = 1024;
const CLIENT_PORTS: usize = 60_000;

/// Ports of flow number `n` from the client pod to the server pod.
#[must_use]
pub fn ports(n: usize) -> (u16, u16) {
    let offset = |n: usize| u16::try_from(n).expect("at most 60 000 client ports and 60 000 server ports");
    (
        FIRST_CLIENT_PORT + offset(n % CLIENT_PORTS),
        FIRST_SERVER_PORT + offset(n / CLIENT_PORTS),
    )
}

/// Key of flow number `n`.
#[must_use]
pub fn key(n: usize, protocol: Protocol) -> FlowKey {
    let (from, to) = ports(n);
    FlowKey {
        source: Peer::new(CLIENT.v4(), from),
        destination: Peer::new(SERVER.v4(), to),
        protocol,
    }
}

/// The numbers `0..count`, the same shuffle at every call: packets of many flows come in no order that a cache could use.
#[must_use]
pub fn shuffled(count: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..count).collect();
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    for last in (1..count).rev() {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let other = usize::try_from(random % (last as u64 + 1)).expect("at most `last`");
        order.swap(last, other);
    }
    order
}

/// Ethernet round an IP packet, as `sender` makes it.
fn write_ethernet(sender: Pod, source: IpAddr, frame: &mut [u8]) {
    let ethertype = if source.is_ipv4() {
        EtherType::IPV4
    } else {
        EtherType::IPV6
    };
    Ethernet {
        destination: GATEWAY,
        source: sender.mac(),
        ethertype,
    }
    .write(frame)
    .expect("room for the header");
}

/// Writes the frame of a TCP segment from `sender` and returns its length; allocates nothing.
pub fn write_tcp(sender: Pod, segment: &Segment<'_>, frame: &mut [u8]) -> usize {
    write_ethernet(sender, segment.source, frame);
    HEADER_LEN
        + segment
            .write(&mut frame[HEADER_LEN..])
            .expect("room for the segment")
}

/// The frame of a TCP segment of a flow with `ports`.
#[must_use]
pub fn tcp(
    sender: Pod,
    receiver: Pod,
    ports: (u16, u16),
    flags: TcpFlags,
    payload: &[u8],
    v6: bool,
) -> Vec<u8> {
    let (source, destination) = if v6 {
        (sender.v6(), receiver.v6())
    } else {
        (sender.v4(), receiver.v4())
    };
    let segment = Segment {
        source,
        destination,
        source_port: ports.0,
        destination_port: ports.1,
        seq: 1,
        ack: u32::from(flags.has(TcpFlags::ACK)),
        flags,
        window: 1000,
        timestamps: v6.then_some(Timestamps { value: 1, echo: 1 }),
        payload,
    };
    let mut frame = vec![0; 120 + payload.len()];
    let len = write_tcp(sender, &segment, &mut frame);
    frame.truncate(len);
    frame
}

/// The frame of a UDP datagram over IPv4, checksum included.
#[must_use]
pub fn udp(sender: Pod, receiver: Pod, ports: (u16, u16), payload: &[u8]) -> Vec<u8> {
    let (IpAddr::V4(from), IpAddr::V4(to)) = (sender.v4(), receiver.v4()) else {
        unreachable!("Pod::v4 is an IPv4 address")
    };
    let len = u16::try_from(8 + payload.len()).expect("a small datagram");
    let mut l4 = [
        ports.0.to_be_bytes(),
        ports.1.to_be_bytes(),
        len.to_be_bytes(),
        [0, 0],
    ]
    .concat();
    l4.extend_from_slice(payload);
    let pseudo = Sum::pseudo(from.into(), to.into(), Protocol::UDP, len.into()).expect("one family");
    let checksum = non_zero_udp(Protocol::UDP, pseudo.append(&l4).checksum());
    l4[6..8].copy_from_slice(&checksum.to_be_bytes());
    let mut frame = vec![0; HEADER_LEN + ipv4::HEADER_LEN];
    write_ethernet(sender, from.into(), &mut frame);
    let total = ipv4::HEADER_LEN + l4.len();
    ipv4::write_header(&mut frame[HEADER_LEN..], from, to, Protocol::UDP, 64, total)
        .expect("room for the header");
    frame.extend_from_slice(&l4);
    frame
}

/// Bytes before the transport header.
#[must_use]
pub const fn l4_offset(v6: bool) -> usize {
    HEADER_LEN + if v6 { ipv6::HEADER_LEN } else { ipv4::HEADER_LEN }
}

/// Frames of equal length, given out one after the other, again and again.
#[derive(Debug)]
pub struct Stream {
    bytes: Vec<u8>,
    len: usize,
    at: usize,
}

impl Stream {
    /// The frame of each flow of `order`.
    #[must_use]
    pub fn new(order: &[usize], frame: impl Fn(usize) -> Vec<u8>) -> Self {
        let len = frame(0).len();
        let mut bytes = Vec::with_capacity(len * order.len());
        for n in order {
            let frame = frame(*n);
            assert_eq!(frame.len(), len, "frames of one stream are alike");
            bytes.extend_from_slice(&frame);
        }
        Self { bytes, len, at: 0 }
    }

    /// The next frame.
    pub fn next_frame(&mut self) -> &[u8] {
        if self.at == self.bytes.len() {
            self.at = 0;
        }
        self.at += self.len;
        &self.bytes[self.at - self.len..self.at]
    }
}
