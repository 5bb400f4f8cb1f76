//! TCP headers (RFC 9293), their options, and the segments that sluice sends itself.

use std::net::IpAddr;

use policy::{DropReason, Protocol};

use super::checksum::{Edit, L4Checksum, Sum};
use super::{array_at, array_at_mut, ipv4, ipv6};

/// Length of a header without options, bytes.
pub const HEADER_LEN: usize = 20;

/// Offset of the checksum in the header, bytes.
pub const CHECKSUM_OFFSET: usize = 16;

/// Hop count of segments that sluice sends itself.
const TTL: u8 = 64;

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

    /// The options, in order.
    #[inline]
    #[must_use]
    pub fn options(&self) -> OptionIter<'a> {
        OptionIter {
            rest: self.options,
            offset: HEADER_LEN,
        }
    }

    /// What the options say, in one pass.
    ///
    /// # Errors
    /// `InvalidTcp` if an option leaves the header or has another length than its kind demands: hosts differ in what they make
    /// of it.
    #[inline]
    pub fn scan_options(&self) -> Result<TcpOptions, DropReason> {
        let mut found = TcpOptions::default();
        for option in self.options() {
            let option = option?;
            match (option.kind, option.data) {
                (KIND_MSS, &[a, b]) => found.mss = Some(u16::from_be_bytes([a, b])),
                (KIND_WINDOW_SCALE, &[shift]) => found.window_scale = Some(shift.min(MAX_WINDOW_SCALE)),
                (KIND_SACK_PERMITTED, []) => found.sack_permitted = true,
                (KIND_TIMESTAMPS, &[v0, v1, v2, v3, e0, e1, e2, e3]) => {
                    found.timestamps = Some(Timestamps {
                        value: u32::from_be_bytes([v0, v1, v2, v3]),
                        echo: u32::from_be_bytes([e0, e1, e2, e3]),
                    });
                }
                (KIND_MSS | KIND_WINDOW_SCALE | KIND_SACK_PERMITTED | KIND_TIMESTAMPS, _) => {
                    return Err(DropReason::InvalidTcp);
                }
                (KIND_MD5, _) | (KIND_AO, _) => found.is_signed = true,
                (KIND_FAST_OPEN, _) | (KIND_EXPERIMENT_2, [0xf9, 0x89, ..]) => found.fast_open = true,
                _ => (),
            }
        }
        Ok(found)
    }
}

const KIND_END: u8 = 0;
const KIND_NOP: u8 = 1;
const KIND_MSS: u8 = 2;
const KIND_WINDOW_SCALE: u8 = 3;
const KIND_SACK_PERMITTED: u8 = 4;
const KIND_TIMESTAMPS: u8 = 8;
const KIND_MD5: u8 = 19;
const KIND_AO: u8 = 29;
const KIND_FAST_OPEN: u8 = 34;
/// Shared by experiments; fast open's carry the magic number 0xf989 (RFC 7413, 4.1.1 and appendix A).
const KIND_EXPERIMENT_2: u8 = 254;

/// RFC 7323, 2.3: a larger shift count is used as 14.
const MAX_WINDOW_SCALE: u8 = 14;

/// The timestamps option (RFC 7323, 3.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timestamps {
    /// TSval: the sender's clock.
    pub value: u32,
    /// TSecr: the peer's clock as last seen by the sender.
    pub echo: u32,
}

/// What a segment's options say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TcpOptions {
    /// Largest segment the sender accepts, bytes; in SYNs.
    pub mss: Option<u16>,
    /// Window shift count, at most 14; in SYNs.
    pub window_scale: Option<u8>,
    /// Whether SACK may be used; in SYNs.
    pub sack_permitted: bool,
    /// Timestamps.
    pub timestamps: Option<Timestamps>,
    /// MD5 signature (RFC 2385) or authentication option (RFC 5925): cannot be checked, and edits break it.
    pub is_signed: bool,
    /// TCP fast open (RFC 7413), also in its experimental form: data in the SYN.
    pub fast_open: bool,
}

/// One option.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TcpOption<'a> {
    /// Kind (IANA).
    pub kind: u8,
    /// Offset of `data` from the start of the TCP header, bytes.
    pub offset: usize,
    /// What follows kind and length.
    pub data: &'a [u8],
}

/// Iterates over options; padding is skipped. Ends at the end-of-options kind, the header's end or the first malformed option.
#[derive(Debug, Clone)]
pub struct OptionIter<'a> {
    rest: &'a [u8],
    offset: usize,
}

impl<'a> Iterator for OptionIter<'a> {
    type Item = Result<TcpOption<'a>, DropReason>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let (&kind, tail) = self.rest.split_first()?;
            match kind {
                KIND_END => {
                    self.rest = &[];
                    return None;
                }
                KIND_NOP => {
                    self.rest = tail;
                    self.offset += 1;
                }
                _ => {
                    let Some((data, after)) = tail.split_first().and_then(|(&length, body)| {
                        body.split_at_checked(usize::from(length).checked_sub(2)?)
                    }) else {
                        self.rest = &[];
                        return Some(Err(DropReason::InvalidTcp));
                    };
                    let option = TcpOption {
                        kind,
                        offset: self.offset + 2,
                        data,
                    };
                    self.offset += 2 + data.len();
                    self.rest = after;
                    return Some(Ok(option));
                }
            }
        }
    }
}

/// Lowers every MSS option above `max` in the SYN that begins `segment`, with its checksum, which is in state `checksum`.
/// Returns whether something changed. Other segments are left alone.
#[inline]
pub fn clamp_mss(segment: &mut [u8], max: u16, checksum: L4Checksum) -> bool {
    let mut changed = false;
    // Each round lowers one of at most ten options for good.
    while let Some((offset, old)) = mss_above(segment, max) {
        let edit = Edit::NONE.word_at(offset, old, max);
        if set_word(segment, offset, max).is_none() || apply(segment, checksum, edit).is_none() {
            return changed;
        }
        changed = true;
    }
    changed
}

/// Place and value of the first MSS option above `max` in a SYN.
fn mss_above(segment: &[u8], max: u16) -> Option<(usize, u16)> {
    let view = Tcp::parse(segment, segment.len()).ok()?;
    if !view.flags().has(TcpFlags::SYN) {
        return None;
    }
    view.options()
        .map_while(Result::ok)
        .find_map(|option| match (option.kind, option.data) {
            (KIND_MSS, &[a, b]) => {
                let value = u16::from_be_bytes([a, b]);
                (value > max).then_some((option.offset, value))
            }
            _ => None,
        })
}

fn set_word(segment: &mut [u8], offset: usize, word: u16) -> Option<()> {
    *array_at_mut(segment, offset)? = word.to_be_bytes();
    Some(())
}

fn apply(segment: &mut [u8], state: L4Checksum, edit: Edit) -> Option<()> {
    let field = u16::from_be_bytes(*array_at(segment, CHECKSUM_OFFSET)?);
    set_word(segment, CHECKSUM_OFFSET, state.edited(Protocol::TCP, field, edit))
}

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

#[cfg(test)]
mod tests {
    #![allow(clippy::indexing_slicing, reason = "offsets into bytes that the test made")]

    use std::net::{Ipv4Addr, Ipv6Addr};

    use proptest::prelude::*;

    use super::*;

    const V4: (IpAddr, IpAddr) = (
        IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1)),
        IpAddr::V4(Ipv4Addr::new(10, 0, 0, 2)),
    );
    const V6: (IpAddr, IpAddr) = (
        IpAddr::V6(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1)),
        IpAddr::V6(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 2)),
    );

    fn with_options(flags: TcpFlags, options: &[u8]) -> Vec<u8> {
        let mut segment = vec![0, 1, 0, 2, 0, 0, 0, 3, 0, 0, 0, 4, 0, flags.0, 0, 5, 0, 0, 0, 0];
        segment.extend_from_slice(options);
        segment.resize(segment.len().next_multiple_of(4), 0);
        segment[12] = u8::try_from(segment.len() / 4).unwrap() << 4;
        segment
    }

    fn scan(options: &[u8]) -> Result<TcpOptions, DropReason> {
        let segment = with_options(TcpFlags::SYN, options);
        Tcp::parse(&segment, segment.len()).unwrap().scan_options()
    }

    #[test]
    fn only_possible_flags_pass() {
        let possible: Vec<u8> = (0..=0x3f).filter(|bits| TcpFlags(*bits).is_possible()).collect();
        // Without PSH: SYN, RST, ACK, FIN|ACK, SYN|ACK, RST|ACK, SYN|URG, ACK|URG, FIN|ACK|URG.
        let expected = [0x02, 0x04, 0x10, 0x11, 0x12, 0x14, 0x22, 0x30, 0x31];
        let mut both: Vec<u8> = expected.iter().flat_map(|bits| [*bits, *bits | 0x08]).collect();
        both.sort_unstable();
        assert_eq!(possible, both);
        assert!(
            TcpFlags::SYN
                .with(TcpFlags::ECE)
                .with(TcpFlags::CWR)
                .is_possible()
        );
    }

    #[test]
    fn malformed_headers_are_refused() {
        let good = with_options(TcpFlags::ACK, &[]);
        assert!(Tcp::parse(&good, 20).is_ok());
        assert_eq!(
            Tcp::parse(&good[..19], 20).err(),
            Some(DropReason::TruncatedHeader)
        );
        for offset in [0x40, 0x60] {
            let mut bad = good.clone();
            bad[12] = offset;
            assert_eq!(Tcp::parse(&bad, 20).err(), Some(DropReason::TruncatedHeader));
        }
        let padded = with_options(TcpFlags::ACK, &[1, 1, 1, 1]);
        assert_eq!(
            Tcp::parse(&padded, 23).err(),
            Some(DropReason::TruncatedHeader),
            "beyond the IP payload"
        );
        for port_byte in [1, 3] {
            let mut bad = good.clone();
            bad[port_byte] = 0;
            assert_eq!(Tcp::parse(&bad, 20).err(), Some(DropReason::InvalidPacket));
        }
        for flags in [0, 0x03, 0x06, 0x01, 0x29, 0x3f] {
            let bad = with_options(TcpFlags(flags), &[]);
            assert_eq!(
                Tcp::parse(&bad, 20).err(),
                Some(DropReason::InvalidTcp),
                "{flags:#x}"
            );
        }
    }

    #[test]
    fn options_of_a_linux_syn_are_read() {
        let linux = [2, 4, 5, 0xb4, 4, 2, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2, 1, 3, 3, 7];
        assert_eq!(
            scan(&linux),
            Ok(TcpOptions {
                mss: Some(1460),
                window_scale: Some(7),
                sack_permitted: true,
                timestamps: Some(Timestamps { value: 1, echo: 2 }),
                is_signed: false,
                fast_open: false,
            })
        );
    }

    #[test]
    fn signatures_and_fast_open_are_detected() {
        let mut md5 = vec![19, 18];
        md5.resize(18, 0);
        assert!(scan(&md5).unwrap().is_signed);
        assert!(scan(&[29, 4, 1, 1]).unwrap().is_signed);
        assert!(scan(&[34, 2]).unwrap().fast_open);
        assert!(scan(&[254, 4, 0xf9, 0x89]).unwrap().fast_open);
        assert!(!scan(&[254, 4, 0xf9, 0x88]).unwrap().fast_open);
    }

    #[test]
    fn malformed_options_are_invalid() {
        for options in [
            &[2, 0, 0, 0][..],
            &[2, 1, 0, 0],
            &[2, 5, 0, 0],
            &[2, 3, 5, 0],
            &[8, 4, 0, 0],
            &[1, 1, 1, 5],
        ] {
            assert_eq!(scan(options), Err(DropReason::InvalidTcp), "{options:?}");
        }
        assert_eq!(
            scan(&[0, 2, 0, 0]),
            Ok(TcpOptions::default()),
            "nothing counts behind the end"
        );
    }

    #[test]
    fn mss_is_clamped_in_syns_only() {
        let option = [2, 4, 5, 0xb4];
        for (flags, max, expected) in [
            (TcpFlags::SYN, 1400, 1400),
            (TcpFlags::SYN.with(TcpFlags::ACK), 1400, 1400),
            (TcpFlags::SYN, 1460, 1460),
            (TcpFlags::SYN, 9000, 1460),
            (TcpFlags::ACK, 1400, 1460),
        ] {
            let mut segment = with_options(flags, &option);
            assert_eq!(
                clamp_mss(&mut segment, max, L4Checksum::Valid),
                expected != 1460,
                "{flags:?} {max}"
            );
            assert_eq!(segment[22..24], u16::to_be_bytes(expected));
        }
    }

    #[test]
    fn reset_answers_as_rfc_9293_says() {
        let syn = with_options(TcpFlags::SYN, &[]);
        let reset = Segment::reset_for(V4.0, V4.1, &Tcp::parse(&syn, 20).unwrap(), 7).unwrap();
        assert_eq!(
            (reset.seq, reset.ack, reset.flags),
            (0, 3 + 7 + 1, TcpFlags::RST.with(TcpFlags::ACK))
        );
        assert_eq!(
            (reset.source, reset.source_port, reset.destination_port),
            (V4.1, 2, 1)
        );
        let ack = with_options(TcpFlags::ACK, &[]);
        let reset = Segment::reset_for(V4.0, V4.1, &Tcp::parse(&ack, 20).unwrap(), 7).unwrap();
        assert_eq!((reset.seq, reset.ack, reset.flags), (4, 0, TcpFlags::RST));
        let rst = with_options(TcpFlags::RST, &[]);
        assert!(Segment::reset_for(V4.0, V4.1, &Tcp::parse(&rst, 20).unwrap(), 0).is_none());
    }

    #[test]
    fn segment_that_does_not_fit_is_not_written() {
        let segment = Segment {
            source: V4.0,
            destination: V4.1,
            source_port: 1,
            destination_port: 2,
            seq: 3,
            ack: 4,
            flags: TcpFlags::RST,
            window: 0,
            timestamps: None,
            payload: b"abc",
        };
        let mut short = [7; 42];
        assert_eq!(segment.write(&mut short), None);
        assert_eq!(short, [7; 42]);
        assert_eq!(
            Segment {
                destination: V6.1,
                ..segment
            }
            .write(&mut [0; 200]),
            None
        );
    }

    proptest! {
        #[test]
        fn written_segment_reads_back_with_valid_checksum(
            v6: bool, ports: (u16, u16), seq: u32, ack: u32, window: u16,
            times: Option<(u32, u32)>, payload in proptest::collection::vec(any::<u8>(), 0..300),
        ) {
            let (source, destination) = if v6 { V6 } else { V4 };
            let segment = Segment {
                source, destination, source_port: ports.0.max(1), destination_port: ports.1.max(1), seq, ack,
                flags: TcpFlags::FIN.with(TcpFlags::PSH).with(TcpFlags::ACK), window,
                timestamps: times.map(|(value, echo)| Timestamps { value, echo }), payload: &payload,
            };
            let mut packet = [0xaa; 512];
            let len = segment.write(&mut packet).unwrap();
            let l3 = if v6 { 40 } else { 20 };
            let l4 = &packet[l3..len];
            let view = Tcp::parse(l4, l4.len()).unwrap();
            prop_assert_eq!((view.seq(), view.ack(), view.window()), (seq, ack, window));
            prop_assert_eq!(view.scan_options().unwrap().timestamps, segment.timestamps);
            prop_assert_eq!(&l4[view.header_len()..], payload.as_slice());
            let pseudo = Sum::pseudo(source, destination, Protocol::TCP, u32::try_from(l4.len()).unwrap()).unwrap();
            prop_assert_eq!(pseudo.append(l4).fold(), 0xffff);
        }

        #[test]
        fn clamp_equals_recomputation(
            pads in 0_usize..4, values in proptest::collection::vec(any::<u16>(), 1..3), max: u16,
            payload in proptest::collection::vec(any::<u8>(), 0..50),
        ) {
            // NOPs put the options at odd and even places.
            let mut options = vec![1; pads];
            for value in &values {
                options.extend([2, 4]);
                options.extend(value.to_be_bytes());
                options.push(1);
            }
            let mut segment = with_options(TcpFlags::SYN, &options);
            let header_len = segment.len();
            segment.extend(&payload);
            let pseudo = Sum::pseudo(V4.0, V4.1, Protocol::TCP, u32::try_from(segment.len()).unwrap()).unwrap();
            let full = pseudo.append(&segment).checksum();
            let mut partial = segment.clone();
            segment[16..18].copy_from_slice(&full.to_be_bytes());
            partial[16..18].copy_from_slice(&pseudo.fold().to_be_bytes());

            let changed = clamp_mss(&mut segment, max, L4Checksum::Valid);
            prop_assert_eq!(changed, values.iter().any(|value| *value > max));
            prop_assert_eq!(clamp_mss(&mut partial, max, L4Checksum::Partial), changed);
            prop_assert_eq!([partial[16], partial[17]], pseudo.fold().to_be_bytes());
            prop_assert_eq!(&partial[20..], &segment[20..]);
            let field = [segment[16], segment[17]];
            segment[16..18].copy_from_slice(&[0, 0]);
            prop_assert_eq!(field, pseudo.append(&segment).checksum().to_be_bytes());
            let view = Tcp::parse(&segment[..header_len], header_len).unwrap();
            for option in view.options().map_while(Result::ok).filter(|option| option.kind == 2) {
                prop_assert!(u16::from_be_bytes([option.data[0], option.data[1]]) <= max);
            }
        }

        #[test]
        fn any_bytes_are_read_or_refused(mut bytes in proptest::collection::vec(any::<u8>(), 0..90), l4_len in 0_usize..100) {
            if let Ok(view) = Tcp::parse(&bytes, l4_len) {
                prop_assert!(view.header_len() <= bytes.len() && view.header_len() <= l4_len);
                let _ = view.scan_options();
                prop_assert!(view.options().count() <= 40);
            }
            let _ = clamp_mss(&mut bytes, 500, L4Checksum::Valid);
        }
    }
}
