#![allow(clippy::indexing_slicing, reason = "offsets into bytes that the test made")]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use policy::Protocol;
use proptest::prelude::*;

use super::*;
use crate::wire::checksum::{L4Checksum, Sum};

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
            is_multipath: false,
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
