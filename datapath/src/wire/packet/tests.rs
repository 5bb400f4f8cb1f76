#![allow(clippy::indexing_slicing, reason = "offsets into frames that the test made")]

use proptest::prelude::*;

use super::*;
use crate::wire::sample::{self, V4, V6, error_about, fragment, frame, ip, pair, raw_frame};

fn reason(frame: &[u8]) -> Option<DropReason> {
    Headers::parse(frame, frame.len()).err()
}

fn with(mut frame: Vec<u8>, change: impl FnOnce(&mut [u8])) -> Vec<u8> {
    change(&mut frame);
    frame
}

#[test]
fn tcp_packet_is_described() {
    for v6 in [false, true] {
        let bytes = frame(pair(v6), Protocol::TCP, &sample::tcp(0x18, b"hello"));
        let headers = ip(&bytes);
        let l3 = if v6 { 40 } else { 20 };
        assert_eq!((headers.source, headers.destination), pair(v6));
        assert_eq!(
            (headers.protocol, headers.ttl, headers.fragment),
            (Protocol::TCP, 64, None)
        );
        assert_eq!(
            (headers.l4_offset(), headers.payload_offset()),
            (14 + l3, 14 + l3 + 20)
        );
        assert_eq!(
            (headers.ip_len(), headers.l4_len(), headers.payload_len()),
            (l3 + 25, 25, 5)
        );
        let L4::Tcp(tcp) = headers.l4 else {
            panic!("{headers:?}")
        };
        assert_eq!(
            (
                tcp.source_port,
                tcp.destination_port,
                tcp.seq,
                tcp.ack,
                tcp.flags.0
            ),
            (40000, 80, 7, 9, 0x18)
        );
        assert_eq!(headers.l4_checksum([bytes.as_slice()]), Some(L4Checksum::Valid));
    }
}

#[test]
fn padding_is_no_part_of_the_packet() {
    for v6 in [false, true] {
        let mut bytes = frame(pair(v6), Protocol::UDP, &sample::udp(b"x"));
        let len = bytes.len();
        bytes.extend([0xff; 20]);
        let headers = ip(&bytes);
        assert_eq!((headers.frame_len(), headers.payload_len()), (len, 1));
        assert_eq!(headers.l4_checksum([bytes.as_slice()]), Some(L4Checksum::Valid));
    }
}

#[test]
fn padding_is_not_read_as_a_header() {
    for v6 in [false, true] {
        let mut bytes = raw_frame(pair(v6), Protocol::TCP, &sample::tcp(0x10, &[])[..12]);
        bytes.extend([0x50; 30]);
        assert_eq!(reason(&bytes), Some(DropReason::TruncatedHeader));
        let mut bytes = raw_frame(
            pair(v6),
            sample::icmp(v6),
            &[if v6 { 1 } else { 3 }, 0, 0, 0, 0, 0, 0, 0],
        );
        bytes.extend_from_slice(&frame(pair(v6), Protocol::UDP, &sample::udp(b"")).split_off(14));
        assert_eq!(
            reason(&bytes),
            Some(DropReason::TruncatedHeader),
            "quoted packet in the padding"
        );
    }
}

#[test]
fn frames_that_are_no_packets_are_refused_with_their_reason() {
    let good = || frame(V4, Protocol::TCP, &sample::tcp(0x10, b"abc"));
    let v4 = |change: fn(&mut [u8])| with(good(), |bytes| sample::change_v4(bytes, change));
    let cases: &[(&str, Vec<u8>, DropReason)] = &[
        ("no ethernet header", vec![0; 13], DropReason::TruncatedHeader),
        (
            "vlan",
            with(good(), |b| b[12..14].copy_from_slice(&[0x81, 0])),
            DropReason::UnsupportedL2,
        ),
        (
            "802.2",
            with(good(), |b| b[12..14].copy_from_slice(&[0, 46])),
            DropReason::UnsupportedL2,
        ),
        (
            "lldp",
            with(good(), |b| b[12..14].copy_from_slice(&[0x88, 0xcc])),
            DropReason::UnsupportedL3,
        ),
        (
            "IPv6 type on IPv4",
            with(good(), |b| b[12..14].copy_from_slice(&[0x86, 0xdd])),
            DropReason::InvalidPacket,
        ),
        (
            "IPv4 header cut",
            good()[..30].to_vec(),
            DropReason::TruncatedHeader,
        ),
        (
            "total length above frame",
            v4(|h| h[3] += 1),
            DropReason::InvalidPacket,
        ),
        (
            "header checksum",
            with(good(), |b| b[22] ^= 1),
            DropReason::BadChecksum,
        ),
        (
            "gre",
            raw_frame(V4, Protocol(47), &[0; 20]),
            DropReason::UnknownL4,
        ),
        (
            "sctp",
            raw_frame(V6, Protocol::SCTP, &[0; 20]),
            DropReason::UnknownL4,
        ),
        (
            "esp",
            raw_frame(V6, Protocol(50), &[0; 20]),
            DropReason::UnknownL4,
        ),
        (
            "no next header",
            raw_frame(V6, Protocol(59), &[0; 20]),
            DropReason::UnknownL4,
        ),
        (
            "icmpv6 in IPv4",
            raw_frame(V4, Protocol::ICMPV6, &[128, 0, 0, 0, 0, 1, 0, 1]),
            DropReason::UnknownL4,
        ),
        (
            "icmpv4 in IPv6",
            raw_frame(V6, Protocol::ICMP, &[8, 0, 0, 0, 0, 1, 0, 1]),
            DropReason::UnknownL4,
        ),
        (
            "tcp header cut",
            raw_frame(V4, Protocol::TCP, &[0; 19]),
            DropReason::TruncatedHeader,
        ),
        (
            "udp header cut",
            raw_frame(V6, Protocol::UDP, &[0; 7]),
            DropReason::TruncatedHeader,
        ),
        (
            "icmp header cut",
            raw_frame(V4, Protocol::ICMP, &[8; 7]),
            DropReason::TruncatedHeader,
        ),
        (
            "SYN and FIN",
            frame(V6, Protocol::TCP, &sample::tcp(0x03, b"")),
            DropReason::InvalidTcp,
        ),
        (
            "redirect",
            frame(V4, Protocol::ICMP, &[5, 0, 0, 0, 0, 0, 0, 0]),
            DropReason::UnrelatedIcmp,
        ),
        (
            "error without quote",
            frame(V4, Protocol::ICMP, &[3, 0, 0, 0, 0, 0, 0, 0]),
            DropReason::TruncatedHeader,
        ),
    ];
    for (what, bytes, expected) in cases {
        assert_eq!(reason(bytes), Some(*expected), "{what}");
    }
}

#[test]
fn ipv4_options_are_refused() {
    let mut payload = vec![0x83, 7, 4, 10, 0, 0, 9, 0];
    payload.extend(sample::tcp(0x02, b""));
    let mut bytes = raw_frame(V4, Protocol::TCP, &payload);
    bytes[14] = 0x47;
    bytes[24..26].copy_from_slice(&[0, 0]);
    let sum = Sum::ZERO.append(&bytes[14..42]).checksum();
    bytes[24..26].copy_from_slice(&sum.to_be_bytes());
    assert_eq!(reason(&bytes), Some(DropReason::IpOptions));
}

#[test]
fn headers_must_lie_in_the_first_frame_and_payload_need_not() {
    let bytes = frame(V4, Protocol::TCP, &sample::tcp(0x10, &[7; 5000]));
    let headers = Headers::parse(&bytes[..100], bytes.len()).unwrap();
    assert_eq!(headers, Headers::parse(&bytes, bytes.len()).unwrap());
    assert_eq!(
        Headers::parse(&bytes[..50], bytes.len()).err(),
        Some(DropReason::TruncatedHeader)
    );
    assert_eq!(
        Headers::parse(&bytes[..100], 100).err(),
        Some(DropReason::InvalidPacket)
    );
}

#[test]
fn fragments_are_described() {
    for v6 in [false, true] {
        let first = ip(&fragment(
            v6,
            Protocol::UDP,
            0,
            true,
            &sample::udp(&[1; 40])[..24],
        ));
        assert_eq!(
            first.fragment,
            Some(FragmentInfo {
                id: 0xabcd,
                offset: 0,
                len: 24,
                more: true
            })
        );
        assert_eq!(first.ports(), (40000, 53));
        assert_eq!(first.l4_checksum([[0; 200].as_slice()]), None);
        let last = fragment(v6, Protocol::UDP, 24, false, &[1; 24]);
        let later = ip(&last);
        assert_eq!(
            later.fragment,
            Some(FragmentInfo {
                id: 0xabcd,
                offset: 24,
                len: 24,
                more: false
            })
        );
        assert_eq!(
            (later.l4, later.ports(), later.payload_len()),
            (L4::LaterFragment, (0, 0), 24)
        );
    }
}

#[test]
fn fragments_that_hide_the_transport_header_are_tiny() {
    let tcp = sample::tcp(0x02, b"");
    for v6 in [false, true] {
        let tiny = Some(DropReason::TinyFragment);
        assert_eq!(reason(&fragment(v6, Protocol::TCP, 0, true, &tcp[..8])), tiny);
        assert_eq!(reason(&fragment(v6, Protocol::TCP, 0, true, &tcp[..16])), tiny);
        assert_eq!(reason(&fragment(v6, Protocol::TCP, 8, false, &tcp[8..])), tiny);
        let mut with_options = sample::tcp(0x02, &[1; 20]);
        with_options[12] = 0xa0;
        assert_eq!(
            reason(&fragment(v6, Protocol::TCP, 0, true, &with_options[..32])),
            tiny
        );
        assert_eq!(reason(&fragment(v6, Protocol::TCP, 0, true, &with_options)), None);
    }
}

#[test]
fn fragments_that_cannot_be_put_together_are_invalid() {
    for v6 in [false, true] {
        let invalid = Some(DropReason::InvalidPacket);
        assert_eq!(reason(&fragment(v6, Protocol::UDP, 16, true, &[1; 12])), invalid);
        assert_eq!(
            reason(&fragment(v6, Protocol::UDP, 65528, false, &[1; 8])),
            invalid
        );
        assert_eq!(reason(&fragment(v6, Protocol::UDP, 16, false, &[])), invalid);
    }
}

#[test]
fn echo_and_error_are_told_apart() {
    for v6 in [false, true] {
        let (request, unreachable) = if v6 { (128, 1) } else { (8, 3) };
        let bytes = frame(pair(v6), sample::icmp(v6), &[request, 0, 0, 0, 0, 5, 0, 6, 1]);
        let L4::Icmp {
            kind,
            body: IcmpBody::Echo(echo),
            ..
        } = ip(&bytes).l4
        else {
            panic!()
        };
        assert_eq!(
            (kind, echo),
            (
                request,
                Echo {
                    is_request: true,
                    id: 5,
                    sequence: 6
                }
            )
        );
        assert_eq!(
            ip(&bytes).l4_checksum([bytes.as_slice()]),
            Some(L4Checksum::Valid)
        );

        let about = frame(pair(v6), Protocol::UDP, &sample::udp(b"abc"));
        let error = error_about(&about, unreachable, 0);
        let L4::Icmp {
            body: IcmpBody::Error(quoted),
            ..
        } = ip(&error).l4
        else {
            panic!()
        };
        assert_eq!((quoted.source, quoted.destination), pair(v6));
        assert_eq!((quoted.protocol, quoted.ports()), (Protocol::UDP, (40000, 53)));
        assert_eq!(ip(&error).source, pair(v6).1);
        let fragmented = fragment(
            v6,
            sample::icmp(v6),
            0,
            true,
            &error[if v6 { 54 } else { 34 }..][..32],
        );
        assert_eq!(reason(&fragmented), Some(DropReason::FragmentUnsupported));
    }
}

#[test]
fn neighbour_discovery_in_a_fragment_header_is_forbidden() {
    let mut message = vec![135, 0, 0, 0, 0, 0, 0, 0];
    message.extend([0; 16]);
    let whole = ip(&frame(V6, Protocol::ICMPV6, &message));
    assert!(matches!(
        whole.l4,
        L4::Icmp {
            body: IcmpBody::NeighbourDiscovery,
            ..
        }
    ));
    assert_eq!(
        reason(&fragment(true, Protocol::ICMPV6, 0, false, &message)),
        Some(DropReason::ForbiddenIcmpv6)
    );
    assert_eq!(
        reason(&fragment(true, Protocol::ICMPV6, 0, true, &message)),
        Some(DropReason::ForbiddenIcmpv6)
    );
}

#[test]
fn refused_frame_still_names_its_addresses() {
    let bytes = raw_frame(V6, Protocol(50), &[0; 20]);
    assert_eq!(claimed_addresses(&bytes), Some((V6.0, V6.1, Protocol(50))));
    assert_eq!(claimed_addresses(&bytes[..50]), None);
    let bytes = raw_frame(V4, Protocol(47), &[0; 20]);
    assert_eq!(claimed_addresses(&bytes), Some((V4.0, V4.1, Protocol(47))));
}

proptest! {
    #[test]
    fn checksum_state_is_found_and_completed_across_a_chain(
        v6: bool, udp: bool, payload in proptest::collection::vec(any::<u8>(), 0..3000),
        padding in 0_usize..20, first in 74_usize..200, second in 0_usize..500, flip: usize,
    ) {
        let protocol = if udp { Protocol::UDP } else { Protocol::TCP };
        let l4 = if udp { sample::udp(&payload) } else { sample::tcp(0x10, &payload) };
        let mut bytes = frame(pair(v6), protocol, &l4);
        let full_len = bytes.len();
        bytes.resize(full_len + padding, 0xee);
        let first = first.min(bytes.len());
        let second = (first + second).min(bytes.len());
        let of = |bytes: &[u8]| {
            let Ok(Headers::Ip(headers)) = Headers::parse(&bytes[..first], bytes.len()) else { panic!() };
            (headers, headers.l4_checksum([&bytes[..first], &bytes[first..second], &bytes[second..]]))
        };
        let (headers, state) = of(&bytes);
        prop_assert_eq!(headers.frame_len(), full_len);
        let at = headers.l4_checksum_offset().unwrap();
        let full = [bytes[at], bytes[at + 1]];
        let partial = headers.pseudo().unwrap().fold().to_be_bytes();
        prop_assert!(state == Some(L4Checksum::Valid) || full == partial);

        let mut bad = bytes.clone();
        let payload_at = headers.payload_offset();
        if !payload.is_empty() && full != partial {
            bad[payload_at + flip % payload.len()] ^= 0x10;
            prop_assert_eq!(of(&bad).1, Some(L4Checksum::Bad));
        }

        let mut incomplete = bytes.clone();
        incomplete[at..at + 2].copy_from_slice(&partial);
        prop_assert_eq!(of(&incomplete).1, Some(L4Checksum::Partial));
        let (linear, rest) = incomplete.split_at_mut(first);
        let (a, b) = rest.split_at(second - first);
        prop_assert_eq!(headers.complete_l4_checksum(linear, [a, b]), Some(()));
        prop_assert_eq!(incomplete, bytes);
    }

    #[test]
    fn any_bytes_are_read_or_refused(
        mut bytes in proptest::collection::vec(any::<u8>(), 0..200), ethertype in 0_usize..4, total_len in 0_usize..300,
    ) {
        let ethertype = [[8, 0], [0x86, 0xdd], [8, 6], [0x81, 0]][ethertype];
        if bytes.len() > 14 {
            bytes[12..14].copy_from_slice(&ethertype);
        }
        let _ = Headers::parse(&bytes, total_len);
        let _ = claimed_addresses(&bytes);
    }

    #[test]
    fn damaged_packets_are_read_within_bounds_or_refused(
        v6: bool, what in 0_usize..4, changes in proptest::collection::vec((0_usize..120, any::<u8>()), 0..6),
        cut in 0_usize..160, fix: bool,
    ) {
        let udp = frame(pair(v6), Protocol::UDP, &sample::udp(&[3; 40]));
        let mut bytes = match what {
            0 => frame(pair(v6), Protocol::TCP, &sample::tcp(0x10, &[3; 30])),
            1 => error_about(&udp, if v6 { 1 } else { 3 }, 1),
            2 => fragment(v6, Protocol::UDP, 0, true, &sample::udp(&[3; 60])[..40]),
            _ => udp,
        };
        for (at, value) in changes {
            if let Some(byte) = bytes.get_mut(at) {
                *byte = value;
            }
        }
        if fix && !v6 {
            sample::change_v4(&mut bytes, |_| ());
        }
        let linear = &bytes[..cut.min(bytes.len())];
        if let Ok(Headers::Ip(headers)) = Headers::parse(linear, bytes.len()) {
            prop_assert!(headers.l4_offset() <= headers.payload_offset());
            prop_assert!(headers.payload_offset() <= headers.frame_len());
            prop_assert!(headers.frame_len() <= bytes.len());
            prop_assert!(headers.payload_offset() <= linear.len());
            prop_assert_eq!(headers.source.is_ipv6(), headers.destination.is_ipv6());
            let _ = headers.l4_checksum([linear, &bytes[linear.len()..]]);
        }
    }
}
