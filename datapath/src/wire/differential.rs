//! The wire formats against smoltcp's: what one writes the other reads, and what one accepts the other accepts.
#![allow(clippy::indexing_slicing, reason = "offsets into frames that the test made")]

use std::net::{IpAddr, Ipv6Addr};

use policy::{DropReason, Protocol};
use proptest::prelude::*;
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire as smol;

use super::arp::{ArpOperation, ArpPacket};
use super::checksum::L4Checksum;
use super::error_message::{ErrorMessage, MAX_LEN_V4, MAX_LEN_V6, Unreachable};
use super::nd::{self, NdMessage, NeighbourSolicitation};
use super::packet::{Headers, L4};
use super::sample::{self, V4, V6, frame, ip, pair, raw_frame};
use super::tcp::{Segment, Tcp, TcpFlags, Timestamps};
use crate::interface::MacAddr;

fn smol_pair(v6: bool) -> (smol::IpAddress, smol::IpAddress) {
    let (a, b) = pair(v6);
    (a.into(), b.into())
}

fn v4_repr(bytes: &[u8]) -> (smol::Ipv4Repr, &[u8]) {
    let packet = smol::Ipv4Packet::new_checked(bytes).unwrap();
    (
        smol::Ipv4Repr::parse(&packet, &ChecksumCapabilities::default()).unwrap(),
        &bytes[20..packet.total_len().into()],
    )
}

fn v6_repr(bytes: &[u8]) -> (smol::Ipv6Repr, &[u8]) {
    let packet = smol::Ipv6Packet::new_checked(bytes).unwrap();
    (
        smol::Ipv6Repr::parse(&packet).unwrap(),
        &bytes[40..packet.total_len()],
    )
}

proptest! {
    #[test]
    fn tcp_of_smoltcp_is_read_alike(
        v6: bool, ports: (u16, u16), seq: i32, ack: i32, window: u16, control in 0_u8..3,
        mss: Option<u16>, shift in proptest::option::of(0_u8..15), times: Option<(u32, u32)>,
        payload in proptest::collection::vec(any::<u8>(), 0..100),
    ) {
        let ports = (ports.0.max(1), ports.1.max(1));
        let is_syn = control == 1;
        let repr = smol::TcpRepr {
            src_port: ports.0,
            dst_port: ports.1,
            control: [smol::TcpControl::Psh, smol::TcpControl::Syn, smol::TcpControl::Fin][usize::from(control)],
            seq_number: smol::TcpSeqNumber(seq),
            ack_number: Some(smol::TcpSeqNumber(ack)),
            window_len: window,
            window_scale: shift.filter(|_| is_syn),
            max_seg_size: mss.filter(|_| is_syn),
            sack_permitted: is_syn,
            sack_ranges: [None; 3],
            timestamp: times.map(|(tsval, tsecr)| smol::TcpTimestampRepr { tsval, tsecr }),
            payload: &payload,
        };
        let mut l4 = vec![0; repr.buffer_len()];
        let (source, destination) = smol_pair(v6);
        let mut packet = smol::TcpPacket::new_unchecked(&mut l4);
        repr.emit(&mut packet, &source, &destination, &ChecksumCapabilities::default());
        let bytes = raw_frame(pair(v6), Protocol::TCP, &l4);
        let headers = ip(&bytes);
        let L4::Tcp(tcp) = headers.l4 else { panic!() };
        prop_assert_eq!((tcp.source_port, tcp.destination_port, tcp.window), (ports.0, ports.1, window));
        prop_assert_eq!((tcp.seq, tcp.ack), (seq.cast_unsigned(), ack.cast_unsigned()));
        prop_assert_eq!(&bytes[headers.payload_offset()..], payload.as_slice());
        let options = Tcp::parse(&l4, l4.len()).unwrap().scan_options().unwrap();
        prop_assert_eq!((options.mss, options.window_scale), (repr.max_seg_size, repr.window_scale));
        prop_assert_eq!(options.sack_permitted, is_syn);
        prop_assert_eq!(options.timestamps, times.map(|(value, echo)| Timestamps { value, echo }));
        let state = headers.l4_checksum([bytes.as_slice()]).unwrap();
        prop_assert!(state == L4Checksum::Valid || tcp_field(&l4) == headers.pseudo().unwrap().fold());
    }

    #[test]
    fn segment_is_read_alike_by_smoltcp(
        v6: bool, seq: u32, ack: u32, window: u16, times: Option<(u32, u32)>,
        payload in proptest::collection::vec(any::<u8>(), 0..100),
    ) {
        let (source, destination) = pair(v6);
        let segment = Segment {
            source, destination, source_port: 80, destination_port: 40000, seq, ack,
            flags: TcpFlags::FIN.with(TcpFlags::ACK), window,
            timestamps: times.map(|(value, echo)| Timestamps { value, echo }), payload: &payload,
        };
        let mut bytes = [0; 300];
        let len = segment.write(&mut bytes).unwrap();
        let l4 = if v6 { v6_repr(&bytes[..len]).1 } else { v4_repr(&bytes[..len]).1 };
        let (source, destination) = smol_pair(v6);
        let packet = smol::TcpPacket::new_checked(l4).unwrap();
        let repr = smol::TcpRepr::parse(&packet, &source, &destination, &ChecksumCapabilities::default()).unwrap();
        prop_assert_eq!((repr.src_port, repr.dst_port, repr.window_len), (80, 40000, window));
        prop_assert_eq!(repr.control, smol::TcpControl::Fin);
        prop_assert_eq!((repr.seq_number.0, repr.ack_number.unwrap().0), (seq.cast_signed(), ack.cast_signed()));
        prop_assert_eq!(repr.timestamp.map(|t| (t.tsval, t.tsecr)), times);
        prop_assert_eq!(repr.payload, payload.as_slice());
    }

    #[test]
    fn accepted_packet_is_accepted_by_smoltcp(
        v6: bool, udp: bool, changes in proptest::collection::vec((0_usize..90, any::<u8>()), 0..4), cut in 40_usize..120,
    ) {
        let (protocol, l4) =
            if udp { (Protocol::UDP, sample::udp(&[3; 40])) } else { (Protocol::TCP, sample::tcp(0x18, &[3; 30])) };
        let mut bytes = frame(pair(v6), protocol, &l4);
        for (at, value) in changes {
            if let Some(byte) = bytes.get_mut(at) {
                *byte = value;
            }
        }
        if !v6 {
            sample::change_v4(&mut bytes, |_| ());
        }
        bytes.truncate(cut);
        let Ok(Headers::Ip(headers)) = Headers::parse(&bytes, bytes.len()) else { return Ok(()) };
        let l4 = &bytes[headers.l4_offset()..headers.frame_len()];
        if v6 {
            let packet = smol::Ipv6Packet::new_checked(&bytes[14..]).unwrap();
            prop_assert_eq!(IpAddr::from(packet.src_addr()), headers.source);
            prop_assert_eq!(IpAddr::from(packet.dst_addr()), headers.destination);
            prop_assert_eq!((packet.total_len(), packet.hop_limit()), (headers.ip_len(), headers.ttl));
        } else {
            let packet = smol::Ipv4Packet::new_checked(&bytes[14..]).unwrap();
            prop_assert!(packet.verify_checksum());
            prop_assert_eq!(IpAddr::from(packet.src_addr()), headers.source);
            prop_assert_eq!(IpAddr::from(packet.dst_addr()), headers.destination);
            prop_assert_eq!((usize::from(packet.total_len()), packet.hop_limit()), (headers.ip_len(), headers.ttl));
            let offset = headers.fragment.map_or(0, |fragment| fragment.offset);
            prop_assert_eq!(packet.frag_offset(), offset);
            prop_assert_eq!(packet.more_frags(), headers.fragment.is_some_and(|fragment| fragment.more));
        }
        let (source, destination) = (headers.source.into(), headers.destination.into());
        let (ports, verified) = match headers.l4 {
            L4::Tcp(_) => {
                let packet = smol::TcpPacket::new_checked(l4).unwrap();
                ((packet.src_port(), packet.dst_port()), packet.verify_checksum(&source, &destination))
            }
            L4::Udp { .. } if headers.fragment.is_none() => {
                let packet = smol::UdpPacket::new_checked(l4).unwrap();
                ((packet.src_port(), packet.dst_port()), packet.verify_checksum(&source, &destination))
            }
            _ => return Ok(()),
        };
        prop_assert_eq!(headers.ports(), ports);
        match headers.l4_checksum([bytes.as_slice()]) {
            Some(L4Checksum::Valid | L4Checksum::Absent) => prop_assert!(verified),
            Some(L4Checksum::Bad) => prop_assert!(!verified || udp && v6),
            Some(L4Checksum::Partial) | None => (),
        }
    }

    #[test]
    fn errors_are_read_alike_by_smoltcp(
        v6: bool, which in 0_u8..6, mtu in 68_u32..70_000, payload in proptest::collection::vec(any::<u8>(), 0..2000),
        room in 0_usize..1500,
    ) {
        let message = [
            ErrorMessage::TooBig(mtu),
            ErrorMessage::TimeExceeded,
            ErrorMessage::Unreachable(Unreachable::NoRoute),
            ErrorMessage::Unreachable(Unreachable::Address),
            ErrorMessage::Unreachable(Unreachable::Port),
            ErrorMessage::Unreachable(Unreachable::Prohibited),
        ][usize::from(which)];
        let about = frame(pair(v6), Protocol::UDP, &sample::udp(&payload));
        let router = if v6 { V6.1 } else { V4.1 };
        let mut bytes = vec![0; room];
        let (l3, max) = if v6 { (40, MAX_LEN_V6) } else { (20, MAX_LEN_V4) };
        let Some(len) = message.write(&ip(&about), &about, router, &mut bytes) else {
            prop_assert!(room < l3 + 8 + l3 + 8, "refused though {} bytes fit a quote", room);
            return Ok(());
        };
        prop_assert_eq!(len, (l3 + 8 + about.len() - 14).min(max).min(room));
        let caps = ChecksumCapabilities::default();
        if v6 {
            let (repr, l4) = v6_repr(&bytes[..len]);
            prop_assert_eq!((IpAddr::from(repr.src_addr), IpAddr::from(repr.dst_addr)), (router, V6.0));
            let packet = smol::Icmpv6Packet::new_checked(l4).unwrap();
            let expected_header = v6_repr(&about[14..]).0;
            match smol::Icmpv6Repr::parse(&repr.src_addr, &repr.dst_addr, &packet, &caps).unwrap() {
                smol::Icmpv6Repr::PktTooBig { mtu: told, header, data } => {
                    prop_assert_eq!((told, header), (mtu, expected_header));
                    prop_assert_eq!(data, &about[54..54 + data.len()]);
                    prop_assert_eq!(which, 0);
                }
                smol::Icmpv6Repr::TimeExceeded { reason, header, .. } => {
                    prop_assert_eq!((which, reason, header), (1, smol::Icmpv6TimeExceeded::HopLimitExceeded, expected_header));
                }
                smol::Icmpv6Repr::DstUnreachable { reason, header, .. } => {
                    let expected = [
                        smol::Icmpv6DstUnreachable::NoRoute,
                        smol::Icmpv6DstUnreachable::AddrUnreachable,
                        smol::Icmpv6DstUnreachable::PortUnreachable,
                        smol::Icmpv6DstUnreachable::AdminProhibit,
                    ][usize::from(which - 2)];
                    prop_assert_eq!((reason, header), (expected, expected_header));
                }
                other => prop_assert!(false, "{:?}", other),
            }
        } else {
            let (repr, l4) = v4_repr(&bytes[..len]);
            prop_assert_eq!((IpAddr::from(repr.src_addr), IpAddr::from(repr.dst_addr)), (router, V4.0));
            let packet = smol::Icmpv4Packet::new_checked(l4).unwrap();
            prop_assert!(packet.verify_checksum());
            prop_assert_eq!(&l4[8..], &about[14..14 + l4.len() - 8]);
            let expected = match which {
                0 => (smol::Icmpv4Message::DstUnreachable, 4),
                1 => (smol::Icmpv4Message::TimeExceeded, 0),
                2 => (smol::Icmpv4Message::DstUnreachable, 0),
                3 => (smol::Icmpv4Message::DstUnreachable, 1),
                4 => (smol::Icmpv4Message::DstUnreachable, 3),
                _ => (smol::Icmpv4Message::DstUnreachable, 13),
            };
            prop_assert_eq!((packet.msg_type(), packet.msg_code()), expected);
            if which == 0 {
                prop_assert_eq!([l4[4], l4[5], l4[6], l4[7]], u32::to_be_bytes(mtu.min(0xffff)));
            }
        }
        // And sluice itself reads what it writes.
        let mut framed = raw_frame(pair(v6), Protocol::UDP, &[]);
        framed.truncate(14);
        framed.extend_from_slice(&bytes[..len]);
        let L4::Icmp { body: super::packet::IcmpBody::Error(quoted), .. } = ip(&framed).l4 else { panic!() };
        prop_assert_eq!((quoted.source, quoted.destination, quoted.ports()), (pair(v6).0, pair(v6).1, (40000, 53)));
    }

    #[test]
    fn arp_is_read_alike(mut bytes in proptest::collection::vec(any::<u8>(), 28..60), prefix: bool) {
        if prefix {
            bytes[..7].copy_from_slice(&[0, 1, 8, 0, 6, 4, 0]);
            bytes[7] %= 4;
        }
        let ours = ArpPacket::parse(&bytes);
        let theirs = smol::ArpPacket::new_checked(&bytes).and_then(|packet| smol::ArpRepr::parse(&packet));
        match (ours, theirs) {
            (Ok(ours), Ok(smol::ArpRepr::EthernetIpv4 {
                operation, source_hardware_addr, source_protocol_addr, target_hardware_addr, target_protocol_addr,
            })) => {
                let is_request = operation == smol::ArpOperation::Request;
                prop_assert_eq!(ours.operation == ArpOperation::Request, is_request);
                prop_assert_eq!(ours.sender_mac.0, source_hardware_addr.0);
                prop_assert_eq!(ours.sender, source_protocol_addr);
                prop_assert_eq!(ours.target_mac.0, target_hardware_addr.0);
                prop_assert_eq!(ours.target, target_protocol_addr);
            }
            (Err(_), Err(_)) => (),
            (Err(_), Ok(smol::ArpRepr::EthernetIpv4 { operation, .. })) => {
                prop_assert!(matches!(operation, smol::ArpOperation::Unknown(_)));
            }
            other => prop_assert!(false, "{:?}", other),
        }
    }
}

fn tcp_field(l4: &[u8]) -> u16 {
    u16::from_be_bytes([l4[16], l4[17]])
}

const POD: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 5);
const GATEWAY: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);

fn solicitation(source: Ipv6Addr, destination: Ipv6Addr, options: &[u8], hop_limit: u8) -> Vec<u8> {
    let mut message = vec![135, 0, 0, 0, 0, 0, 0, 0];
    message.extend(GATEWAY.octets());
    message.extend_from_slice(options);
    let mut bytes = frame((source.into(), destination.into()), Protocol::ICMPV6, &message);
    bytes[21] = hop_limit;
    bytes
}

fn check(bytes: &[u8]) -> Result<NeighbourSolicitation, DropReason> {
    NeighbourSolicitation::parse(&ip(bytes), bytes)
}

const LINK_LAYER: &[u8] = &[1, 1, 2, 0, 0, 0, 0, 1];

#[test]
fn advertisement_answers_a_solicitation_as_smoltcp_reads_it() {
    let mac = MacAddr([2, 0, 0, 0, 0, 9]);
    for (source, expected_destination, flags) in [
        (
            POD,
            POD,
            smol::NdiscNeighborFlags::from_bits_truncate(0b1110_0000),
        ),
        (
            Ipv6Addr::UNSPECIFIED,
            Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1),
            smol::NdiscNeighborFlags::from_bits_truncate(0b1010_0000),
        ),
    ] {
        let options = if source == POD { LINK_LAYER } else { &[] };
        let asked = check(&solicitation(source, nd::solicited_node(GATEWAY), options, 255)).unwrap();
        assert_eq!((asked.target, asked.source), (GATEWAY, source));
        assert_eq!(
            asked.link_layer,
            (source == POD).then_some(MacAddr([2, 0, 0, 0, 0, 1]))
        );
        let mut reply = [0xaa; 100];
        assert_eq!(asked.write_advertisement(&mut reply, mac), Some(nd::REPLY_LEN));
        let (repr, l4) = v6_repr(&reply[14..nd::REPLY_LEN]);
        assert_eq!(
            (repr.src_addr, repr.dst_addr, repr.hop_limit),
            (GATEWAY, expected_destination, 255)
        );
        let packet = smol::Icmpv6Packet::new_checked(l4).unwrap();
        let caps = ChecksumCapabilities::default();
        let parsed = smol::Icmpv6Repr::parse(&repr.src_addr, &repr.dst_addr, &packet, &caps).unwrap();
        assert_eq!(
            parsed,
            smol::Icmpv6Repr::Ndisc(smol::NdiscRepr::NeighborAdvert {
                flags,
                target_addr: GATEWAY,
                lladdr: Some(smol::EthernetAddress(mac.0).into()),
            })
        );
        assert_eq!(asked.write_advertisement(&mut [0; nd::REPLY_LEN - 1], mac), None);
    }
}

#[test]
fn solicitation_that_breaks_rfc_4861_is_forbidden() {
    let node = nd::solicited_node(GATEWAY);
    let forbidden = Err(DropReason::ForbiddenIcmpv6);
    assert!(check(&solicitation(POD, GATEWAY, LINK_LAYER, 255)).is_ok());
    assert_eq!(
        check(&solicitation(POD, node, LINK_LAYER, 254)),
        forbidden,
        "forwarded"
    );
    assert_eq!(
        check(&solicitation(POD, node, &[1, 0, 0, 0, 0, 0, 0, 0], 255)),
        forbidden,
        "option length zero"
    );
    assert_eq!(
        check(&solicitation(POD, node, &[1, 2, 0, 0, 0, 0, 0, 0], 255)),
        forbidden,
        "option cut"
    );
    assert_eq!(
        check(&solicitation(POD, node, &[1], 255)),
        forbidden,
        "option without length"
    );
    assert_eq!(
        check(&solicitation(Ipv6Addr::UNSPECIFIED, node, LINK_LAYER, 255)),
        forbidden,
        "probe with option"
    );
    assert_eq!(
        check(&solicitation(Ipv6Addr::UNSPECIFIED, GATEWAY, &[], 255)),
        forbidden,
        "probe by unicast"
    );
    let with_field = |at: usize, value: u8| {
        let bytes = solicitation(POD, node, LINK_LAYER, 255);
        let mut message = bytes[54..].to_vec();
        message[at] = value;
        let mut bytes = frame((POD.into(), node.into()), Protocol::ICMPV6, &message);
        bytes[21] = 255;
        bytes
    };
    assert_eq!(check(&with_field(1, 1)), forbidden, "code");
    assert_eq!(check(&with_field(8, 0xff)), forbidden, "multicast target");
    assert_eq!(check(&with_field(0, 136)), forbidden, "advertisement");
    let mut bad = solicitation(POD, node, LINK_LAYER, 255);
    bad[70] ^= 1;
    assert_eq!(check(&bad), Err(DropReason::BadChecksum));
    let short = frame(
        (POD.into(), node.into()),
        Protocol::ICMPV6,
        &[135, 0, 0, 0, 0, 0, 0, 0, 1, 2],
    );
    let short = {
        let mut short = short;
        short[21] = 255;
        short
    };
    assert_eq!(check(&short), forbidden, "short");
}

#[test]
fn discovery_messages_are_recognised() {
    use NdMessage::*;
    let all = [
        RouterSolicitation,
        RouterAdvertisement,
        NeighbourSolicitation,
        NeighbourAdvertisement,
        Redirect,
    ];
    for (kind, expected) in (133..).zip(all) {
        let bytes = frame(V6, Protocol::ICMPV6, &[kind, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(NdMessage::of(&ip(&bytes)), Some(expected));
    }
    assert_eq!(
        NdMessage::of(&ip(&frame(V6, Protocol::ICMPV6, &[132, 0, 0, 0, 0, 0, 0, 0]))),
        None
    );
}

#[test]
fn no_error_is_sent_where_none_may_be() {
    let write = |bytes: &[u8], source: IpAddr| {
        ErrorMessage::TimeExceeded.write(&ip(bytes), bytes, source, &mut [0; 1500])
    };
    for v6 in [false, true] {
        let (a, b) = pair(v6);
        let udp = |from: IpAddr, to: IpAddr| frame((from, to), Protocol::UDP, &sample::udp(b"abc"));
        assert!(write(&udp(a, b), b).is_some());
        let groups: [IpAddr; 2] = if v6 {
            ["ff02::1".parse().unwrap(), "::".parse().unwrap()]
        } else {
            [[224, 0, 0, 1].into(), [255; 4].into()]
        };
        for group in groups {
            assert_eq!(write(&udp(a, group), b), None, "to {group}");
            assert_eq!(write(&udp(group, b), b), None, "from {group}");
        }
        let mut by_broadcast = udp(a, b);
        by_broadcast[..6].copy_from_slice(&[0xff; 6]);
        assert_eq!(write(&by_broadcast, b), None);
        assert_eq!(
            write(&sample::error_about(&udp(a, b), if v6 { 1 } else { 3 }, 0), b),
            None,
            "about an error"
        );
        assert_eq!(
            write(&sample::fragment(v6, Protocol::UDP, 24, false, &[0; 8]), b),
            None,
            "later fragment"
        );
        let first = sample::fragment(v6, Protocol::UDP, 0, true, &sample::udp(&[0; 40])[..24]);
        assert!(write(&first, b).is_some(), "first fragment");
        assert_eq!(write(&udp(a, b), pair(!v6).0), None, "source of the other family");
    }
    let redirect = frame(V6, Protocol::ICMPV6, &[137, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(write(&redirect, V6.1), None);
}
