#![allow(clippy::indexing_slicing, reason = "offsets into frames that the test made")]

use proptest::prelude::*;

use super::*;
use crate::wire::sample::{self, V4, V6, error_about, fragment, frame, icmp as icmp_of, ip, pair};

fn other(v6: bool, low: u8) -> IpAddr {
    if v6 {
        IpAddr::from([0xfd, 0xee, 0xff, 0xff, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, low])
    } else {
        IpAddr::from([10, 96, 255, low])
    }
}

fn l4_of(v6: bool, what: u8, payload: &[u8]) -> (Protocol, Vec<u8>) {
    match what {
        0 => (Protocol::TCP, sample::tcp(0x10, payload)),
        1 => (Protocol::UDP, sample::udp(payload)),
        _ => {
            let mut echo = vec![if v6 { 128 } else { 8 }, 0, 0, 0, 0, 1, 0, 2];
            echo.extend_from_slice(payload);
            (icmp_of(v6), echo)
        }
    }
}

proptest! {
    #[test]
    fn translated_packet_equals_the_one_made_so(
        v6: bool, what in 0_u8..3, is_source: bool, low: u8, port in 1_u16..,
        payload in proptest::collection::vec(any::<u8>(), 0..100),
    ) {
        let side = if is_source { Side::Source } else { Side::Destination };
        let (protocol, l4) = l4_of(v6, what, &payload);
        let (source, destination) = pair(v6);
        let new = other(v6, low);
        let mut expected_l4 = l4.clone();
        if what < 2 {
            let at = if is_source { 0 } else { 2 };
            expected_l4[at..at + 2].copy_from_slice(&port.to_be_bytes());
        }
        let expected = frame(if is_source { (new, destination) } else { (source, new) }, protocol, &expected_l4);

        let mut bytes = frame(pair(v6), protocol, &l4);
        let mut headers = ip(&bytes);
        prop_assert_eq!(headers.translate(&mut bytes, side, new, Some(port), L4Checksum::Valid), Some(()));
        prop_assert_eq!(&bytes, &expected);
        prop_assert_eq!(headers, ip(&expected));

        if what < 2 {
            let at = headers.l4_checksum_offset().unwrap();
            let mut bytes = frame(pair(v6), protocol, &l4);
            let mut headers = ip(&bytes);
            bytes[at..at + 2].copy_from_slice(&headers.pseudo().unwrap().fold().to_be_bytes());
            prop_assert_eq!(headers.translate(&mut bytes, side, new, Some(port), L4Checksum::Partial), Some(()));
            prop_assert_eq!([bytes[at], bytes[at + 1]], headers.pseudo().unwrap().fold().to_be_bytes());
            prop_assert_eq!(headers.complete_l4_checksum(&mut bytes, []), Some(()));
            prop_assert_eq!(bytes, expected);
        }
    }

    #[test]
    fn translated_quote_equals_the_one_made_so(
        v6: bool, what in 0_u8..3, is_source: bool, low: u8, port in 1_u16.., quoted in 8_usize..60,
        payload in proptest::collection::vec(any::<u8>(), 30..60),
    ) {
        // Half a checksum cannot be edited, and stays.
        prop_assume!(what != 0 || quoted != 17);
        let side = if is_source { Side::Source } else { Side::Destination };
        let (protocol, l4) = l4_of(v6, what, &payload);
        let (source, destination) = pair(v6);
        let new = other(v6, low);
        let mut expected_l4 = l4.clone();
        if what < 2 {
            let at = if is_source { 0 } else { 2 };
            expected_l4[at..at + 2].copy_from_slice(&port.to_be_bytes());
        }
        let after = frame(if is_source { (new, destination) } else { (source, new) }, protocol, &expected_l4);
        let before = frame(pair(v6), protocol, &l4);
        // The outer addresses are those of the sender, whatever is quoted.
        let kind = if v6 { 1 } else { 3 };
        let error = |about: &[u8]| {
            let len = (if v6 { 54 } else { 34 }) + quoted;
            let mut message = vec![kind, 0, 0, 0, 0, 0, 0, 0];
            message.extend_from_slice(&about[14..len.min(about.len())]);
            frame((destination, source), icmp_of(v6), &message)
        };
        let mut bytes = error(&before);
        let mut headers = ip(&bytes);
        prop_assert_eq!(headers.translate_quoted(&mut bytes, side, new, Some(port)), Some(()));
        prop_assert_eq!(&bytes, &error(&after));
        prop_assert_eq!(headers, ip(&bytes));
        prop_assert_eq!(headers.l4_checksum([bytes.as_slice()]), Some(L4Checksum::Valid));
    }
}

#[test]
fn udp_without_checksum_stays_without() {
    let mut bytes = frame(V4, Protocol::UDP, &sample::udp(b"abc"));
    bytes[40..42].copy_from_slice(&[0, 0]);
    let mut headers = ip(&bytes);
    assert_eq!(headers.l4_checksum([bytes.as_slice()]), Some(L4Checksum::Absent));
    headers
        .translate(
            &mut bytes,
            Side::Destination,
            other(false, 9),
            Some(5353),
            L4Checksum::Absent,
        )
        .unwrap();
    assert_eq!(bytes[40..42], [0, 0]);
    assert_eq!(ip(&bytes).ports().1, 5353);
}

#[test]
fn later_fragment_changes_only_its_address() {
    for v6 in [false, true] {
        let mut bytes = fragment(v6, Protocol::UDP, 24, false, &[7; 16]);
        let mut headers = ip(&bytes);
        headers
            .translate(
                &mut bytes,
                Side::Destination,
                other(v6, 9),
                Some(5353),
                L4Checksum::Valid,
            )
            .unwrap();
        let read = ip(&bytes);
        assert_eq!((read, read.destination), (headers, other(v6, 9)));
        assert_eq!(bytes[bytes.len() - 16..], [7; 16]);
    }
}

#[test]
fn other_family_or_missing_bytes_change_nothing() {
    let bytes = frame(V4, Protocol::TCP, &sample::tcp(0x10, b"abc"));
    let mut changed = bytes.clone();
    let mut headers = ip(&bytes);
    assert_eq!(
        headers.translate(&mut changed, Side::Source, V6.0, Some(1), L4Checksum::Valid),
        None
    );
    assert_eq!(
        headers.translate(&mut changed[..40], Side::Source, V4.1, Some(1), L4Checksum::Valid),
        None
    );
    assert_eq!(
        headers.translate_quoted(&mut changed, Side::Source, V4.1, Some(1)),
        None,
        "no error"
    );
    assert_eq!((changed, headers), (bytes.clone(), ip(&bytes)));
    let mut error = error_about(&bytes, 3, 1);
    let before = error.clone();
    let mut headers = ip(&error);
    assert_eq!(
        headers.translate_quoted(&mut error, Side::Source, V6.1, Some(1)),
        None
    );
    assert_eq!((error, headers), (before.clone(), ip(&before)));
}
