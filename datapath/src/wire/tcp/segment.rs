//! Segments that sluice sends itself.

use std::net::IpAddr;

use policy::Protocol;

use super::options::{KIND_NOP, KIND_TIMESTAMPS};
use super::{CHECKSUM_OFFSET, HEADER_LEN, Tcp, TcpFlags, Timestamps, set_word};
use crate::wire::checksum::Sum;
use crate::wire::{ipv4, ipv6};

/// Hop count of segments that sluice sends itself.
const TTL: u8 = 64;

/// A segment that sluice sends itself, as if from `source`.
#[derive(Debug, Clone, Copy)]
pub struct Segment<'a> {
    /// Address it seems to come from.
    pub source: IpAddr,
    /// Address it goes to, of the same family.
    pub destination: IpAddr,
    /// Port it seems to come from.
    pub source_port: u16,
    /// Port it goes to.
    pub destination_port: u16,
    /// Sequence number.
    pub seq: u32,
    /// Acknowledgment number.
    pub ack: u32,
    /// Control bits.
    pub flags: TcpFlags,
    /// Window, scaled as the connection negotiated.
    pub window: u16,
    /// The timestamps option, which a connection that negotiated it demands in all but RST (RFC 7323, 3.2).
    pub timestamps: Option<Timestamps>,
    /// Data.
    pub payload: &'a [u8],
}

impl Segment<'_> {
    /// The reset that `segment` of `payload_len` bytes, sent from `source` to `destination`, deserves where there is no
    /// connection (RFC 9293, 3.10.7.1); `None` for a reset, which deserves none.
    #[must_use]
    pub fn reset_for(
        source: IpAddr,
        destination: IpAddr,
        segment: &Tcp<'_>,
        payload_len: u32,
    ) -> Option<Self> {
        let flags = segment.flags();
        if flags.has(TcpFlags::RST) {
            return None;
        }
        let control = u32::from(flags.has(TcpFlags::SYN)) + u32::from(flags.has(TcpFlags::FIN));
        let (seq, ack, reset) = if flags.has(TcpFlags::ACK) {
            (segment.ack(), 0, TcpFlags::RST)
        } else {
            let end = segment.seq().wrapping_add(payload_len).wrapping_add(control);
            (0, end, TcpFlags::RST.with(TcpFlags::ACK))
        };
        Some(Self {
            source: destination,
            destination: source,
            source_port: segment.destination_port(),
            destination_port: segment.source_port(),
            seq,
            ack,
            flags: reset,
            window: 0,
            timestamps: None,
            payload: &[],
        })
    }

    /// Writes the whole IP packet at the start of `packet`, checksums complete; returns its length. `None` if `packet` is too
    /// short or the addresses are of different families.
    #[must_use]
    pub fn write(&self, packet: &mut [u8]) -> Option<usize> {
        let options_len = if self.timestamps.is_some() { 12 } else { 0 };
        let l4_len = HEADER_LEN + options_len + self.payload.len();
        let pseudo = Sum::pseudo(
            self.source,
            self.destination,
            Protocol::TCP,
            u32::try_from(l4_len).ok()?,
        )?;
        let l3_len = match self.source {
            IpAddr::V4(_) => ipv4::HEADER_LEN,
            IpAddr::V6(_) => ipv6::HEADER_LEN,
        };
        let total_len = l3_len + l4_len;
        let packet = packet.get_mut(..total_len)?;
        match (self.source, self.destination) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                ipv4::write_header(packet, from, to, Protocol::TCP, TTL, total_len)?;
            }
            (IpAddr::V6(from), IpAddr::V6(to)) => {
                ipv6::write_header(packet, from, to, Protocol::TCP, TTL, total_len)?;
            }
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => return None,
        }
        let segment = packet.get_mut(l3_len..)?;
        let (header, rest) = segment.split_first_chunk_mut::<HEADER_LEN>()?;
        let (options, payload) = rest.split_at_mut_checked(options_len)?;
        let [s0, s1] = self.source_port.to_be_bytes();
        let [d0, d1] = self.destination_port.to_be_bytes();
        let [q0, q1, q2, q3] = self.seq.to_be_bytes();
        let [a0, a1, a2, a3] = self.ack.to_be_bytes();
        let [w0, w1] = self.window.to_be_bytes();
        let offset = if self.timestamps.is_some() { 0x80 } else { 0x50 };
        *header = [
            s0,
            s1,
            d0,
            d1,
            q0,
            q1,
            q2,
            q3,
            a0,
            a1,
            a2,
            a3,
            offset,
            self.flags.0,
            w0,
            w1,
            0,
            0,
            0,
            0,
        ];
        if let (Some(timestamps), Some(place)) = (self.timestamps, options.first_chunk_mut::<12>()) {
            let [v0, v1, v2, v3] = timestamps.value.to_be_bytes();
            let [e0, e1, e2, e3] = timestamps.echo.to_be_bytes();
            *place = [
                KIND_NOP,
                KIND_NOP,
                KIND_TIMESTAMPS,
                10,
                v0,
                v1,
                v2,
                v3,
                e0,
                e1,
                e2,
                e3,
            ];
        }
        payload.copy_from_slice(self.payload);
        let checksum = pseudo.append(segment).checksum();
        set_word(segment, CHECKSUM_OFFSET, checksum)?;
        Some(total_len)
    }
}
