//! The Internet checksum (RFC 1071), its incremental update (RFC 1624) and the state a packet's L4 checksum is in.
//!
//! Pods send `CHECKSUM_PARTIAL` packets: the kernel leaves the *uncomplemented* folded pseudo-header sum in the field and
//! trusts a device to finish. AF_XDP does not say which packets those are, so [`L4Checksum::of`] finds out from the bytes. A
//! partial sum and a full checksum change differently when a packet is edited; [`Edit`] carries both kinds of change.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use policy::Protocol;

/// A running ones-complement sum over a chain of slices, which may have odd lengths.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sum {
    words: u64,
    odd: bool,
}

impl Sum {
    /// Nothing summed yet.
    pub const ZERO: Self = Self { words: 0, odd: false };

    /// The pseudo-header of IPv4 (RFC 9293, 3.1; RFC 768). `length` is that of the L4 header and payload, bytes.
    #[inline]
    #[must_use]
    pub const fn pseudo_v4(source: Ipv4Addr, destination: Ipv4Addr, protocol: Protocol, length: u32) -> Self {
        Self {
            words: source.to_bits() as u64 + destination.to_bits() as u64 + protocol.0 as u64 + length as u64,
            odd: false,
        }
    }

    /// The pseudo-header of IPv6 (RFC 8200, 8.1). `length` is that of the L4 header and payload, bytes.
    #[inline]
    #[must_use]
    pub const fn pseudo_v6(source: Ipv6Addr, destination: Ipv6Addr, protocol: Protocol, length: u32) -> Self {
        Self {
            words: words_v6(source) + words_v6(destination) + protocol.0 as u64 + length as u64,
            odd: false,
        }
    }

    /// The pseudo-header of either family; `None` for addresses of different families.
    #[inline]
    #[must_use]
    pub const fn pseudo(
        source: IpAddr,
        destination: IpAddr,
        protocol: Protocol,
        length: u32,
    ) -> Option<Self> {
        match (source, destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                Some(Self::pseudo_v4(source, destination, protocol, length))
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                Some(Self::pseudo_v6(source, destination, protocol, length))
            }
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => None,
        }
    }

    /// Adds the next slice of the chain.
    #[inline]
    #[must_use]
    pub fn append(self, bytes: &[u8]) -> Self {
        let sum = sum_bytes(bytes);
        // After an odd number of bytes each byte of the next slice lies in the other half of its word (RFC 1071, 2(B)).
        let sum = if self.odd { sum.swap_bytes() } else { sum };
        Self {
            words: self.words + u64::from(sum),
            odd: self.odd ^ (bytes.len() % 2 == 1),
        }
    }

    /// The folded sum, not complemented.
    #[inline]
    #[must_use]
    pub const fn fold(self) -> u16 {
        fold(self.words)
    }

    /// The checksum: the folded sum's complement.
    #[inline]
    #[must_use]
    pub const fn checksum(self) -> u16 {
        !self.fold()
    }
}

const fn words_v6(address: Ipv6Addr) -> u64 {
    let bits = address.to_bits();
    let high = (bits >> 64) as u64;
    let low = (bits & 0xffff_ffff_ffff_ffff) as u64;
    (high >> 32) + (high & 0xffff_ffff) + (low >> 32) + (low & 0xffff_ffff)
}

/// Folds to 16 bits with end-around carry; zero only for zero.
#[inline]
const fn fold(sum: u64) -> u16 {
    let sum = (sum >> 32) + (sum & 0xffff_ffff);
    let sum = (sum >> 32) + (sum & 0xffff_ffff);
    let sum = (sum >> 16) + (sum & 0xffff);
    let sum = (sum >> 16) + (sum & 0xffff);
    (sum & 0xffff) as u16
}

/// Sums one slice as big-endian words. Independent 64-bit lanes of 32-bit words: they take no carry below 16 GiB, and the
/// compiler turns them into vector code.
#[inline]
fn sum_bytes(bytes: &[u8]) -> u16 {
    let (blocks, rest) = bytes.as_chunks::<32>();
    let mut lanes = [0_u64; 8];
    for block in blocks {
        for (lane, word) in lanes.iter_mut().zip(block.as_chunks::<4>().0) {
            *lane += u64::from(u32::from_ne_bytes(*word));
        }
    }
    let mut sum: u64 = lanes.iter().sum();
    let (words, rest) = rest.as_chunks::<4>();
    for word in words {
        sum += u64::from(u32::from_ne_bytes(*word));
    }
    let (words, rest) = rest.as_chunks::<2>();
    for word in words {
        sum += u64::from(u16::from_ne_bytes(*word));
    }
    if let [last] = rest {
        sum += u64::from(u16::from_ne_bytes([*last, 0]));
    }
    // The sum is independent of byte order (RFC 1071, 2(B)): swap once at the end.
    u16::from_be(fold(sum))
}

/// What an edit of a packet does to its checksums: the ones-complement difference of the changed words.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Edit {
    pseudo: u64,
    body: u64,
}

impl Edit {
    /// No change.
    pub const NONE: Self = Self { pseudo: 0, body: 0 };

    /// An address changed: it counts in the pseudo-header. Both must be of one family; `None` otherwise.
    #[inline]
    #[must_use]
    pub const fn address(self, old: IpAddr, new: IpAddr) -> Option<Self> {
        let difference = match (old, new) {
            // The complement of a 32-bit word is that of both its halves.
            (IpAddr::V4(old), IpAddr::V4(new)) => !old.to_bits() as u64 + new.to_bits() as u64,
            (IpAddr::V6(old), IpAddr::V6(new)) => {
                words_v6(Ipv6Addr::from_bits(!old.to_bits())) + words_v6(new)
            }
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => return None,
        };
        Some(Self {
            pseudo: self.pseudo + difference,
            body: self.body,
        })
    }

    /// A 16-bit word of the L4 header or payload changed that begins at an even offset of the L4 header: a port.
    #[inline]
    #[must_use]
    pub const fn word(self, old: u16, new: u16) -> Self {
        Self {
            pseudo: self.pseudo,
            body: self.body + !old as u64 + new as u64,
        }
    }

    /// A 16-bit word changed that begins at `offset` of the L4 header, which may be odd (TCP options).
    #[inline]
    #[must_use]
    pub const fn word_at(self, offset: usize, old: u16, new: u16) -> Self {
        if offset % 2 == 1 {
            self.word(old.swap_bytes(), new.swap_bytes())
        } else {
            self.word(old, new)
        }
    }

    /// The change of a checksum that covers only the body, or of IPv4's header checksum (which covers the addresses).
    /// RFC 1624, equation 3; never 0xffff, as a checksum computed from scratch is never.
    #[inline]
    #[must_use]
    pub const fn full(self, checksum: u16) -> u16 {
        let sum = fold(self.pseudo + self.body + !checksum as u64);
        // Zero and 0xffff are the same number; the sum of a real packet is never the former.
        if sum == 0 { 0 } else { !sum }
    }

    /// The change of a partial sum, which holds only the pseudo-header and is not complemented.
    #[inline]
    #[must_use]
    pub const fn partial(self, sum: u16) -> u16 {
        fold(self.pseudo + sum as u64)
    }
}

/// State of a packet's L4 checksum field.
#[must_use]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum L4Checksum {
    /// Covers the packet and is right.
    Valid,
    /// Holds the pseudo-header's sum; the packet is local, trusted, and must be completed before it leaves in software.
    Partial,
    /// UDP over IPv4 without checksum (RFC 768).
    Absent,
    /// Wrong: drop.
    Bad,
}

impl L4Checksum {
    /// Finds the state of `field`, given the pseudo-header's sum and the bytes from the L4 header to the packet's end, field
    /// included.
    ///
    /// A partial sum is never zero (a folded sum is zero only if every word is, and the protocol number is not), so a UDP
    /// field of zero always means "none". A full checksum that happens to equal the pseudo-header's sum is taken for
    /// partial; completing it recomputes the same value.
    #[inline]
    pub fn of<'a>(
        protocol: Protocol,
        is_v6: bool,
        pseudo: Sum,
        field: u16,
        l4: impl IntoIterator<Item = &'a [u8]>,
    ) -> Self {
        let pseudo = match protocol {
            Protocol::TCP | Protocol::UDP if field == pseudo.fold() => return Self::Partial,
            Protocol::UDP if field == 0 => return if is_v6 { Self::Bad } else { Self::Absent },
            // RFC 792: no pseudo-header. The kernel computes ICMP checksums itself, so a partial one is no one's.
            Protocol::ICMP => Sum::ZERO,
            _ => pseudo,
        };
        let sum = l4.into_iter().fold(pseudo, Sum::append);
        if sum.fold() == 0xffff {
            Self::Valid
        } else {
            Self::Bad
        }
    }

    /// What `field` of a packet in this state becomes when the packet is edited.
    #[inline]
    #[must_use]
    pub const fn edited(self, protocol: Protocol, field: u16, edit: Edit) -> u16 {
        match self {
            Self::Absent => field,
            Self::Partial => edit.partial(field),
            // A bad checksum stays bad by the same difference.
            Self::Valid | Self::Bad => {
                let full = match protocol {
                    Protocol::ICMP => Edit {
                        pseudo: 0,
                        body: edit.body,
                    }
                    .full(field),
                    _ => edit.full(field),
                };
                non_zero_udp(protocol, full)
            }
        }
    }
}

/// UDP sends a checksum of zero as 0xffff: zero means "none" (RFC 768; RFC 8200, 8.1).
#[inline]
#[must_use]
pub const fn non_zero_udp(protocol: Protocol, checksum: u16) -> u16 {
    if protocol.0 == Protocol::UDP.0 && checksum == 0 {
        0xffff
    } else {
        checksum
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::indexing_slicing, reason = "offsets into bytes that the test made")]

    use proptest::prelude::*;

    use super::*;

    /// RFC 1071's definition, byte by byte.
    fn naive(bytes: &[u8]) -> u16 {
        let mut sum = 0_u32;
        for (i, byte) in bytes.iter().enumerate() {
            sum += u32::from(*byte) << if i % 2 == 0 { 8 } else { 0 };
            if sum > 0xffff {
                sum = (sum & 0xffff) + 1;
            }
        }
        u16::try_from(sum).unwrap()
    }

    fn chop(bytes: &[u8], cuts: &[usize]) -> Vec<Vec<u8>> {
        let mut rest = bytes;
        let mut parts = Vec::new();
        for cut in cuts {
            let (part, tail) = rest.split_at(cut % (rest.len() + 1));
            parts.push(part.to_vec());
            rest = tail;
        }
        parts.push(rest.to_vec());
        parts
    }

    fn pseudo_bytes(source: IpAddr, destination: IpAddr, protocol: Protocol, length: u32) -> Vec<u8> {
        let mut bytes = Vec::new();
        for address in [source, destination] {
            match address {
                IpAddr::V4(v4) => bytes.extend(v4.octets()),
                IpAddr::V6(v6) => bytes.extend(v6.octets()),
            }
        }
        bytes.extend(length.to_be_bytes());
        bytes.extend([0, 0, 0, protocol.0]);
        bytes
    }

    fn pair() -> impl Strategy<Value = (IpAddr, IpAddr)> {
        prop_oneof![
            any::<([u8; 4], [u8; 4])>().prop_map(|(a, b)| (a.into(), b.into())),
            any::<([u8; 16], [u8; 16])>().prop_map(|(a, b)| (a.into(), b.into())),
        ]
    }

    fn recomputed(protocol: Protocol, pseudo: Sum, l4: &[u8]) -> u16 {
        non_zero_udp(protocol, pseudo.append(l4).checksum())
    }

    proptest! {
        #[test]
        fn sum_of_a_chain_equals_the_naive_sum(
            bytes in proptest::collection::vec(any::<u8>(), 0..4000),
            cuts in proptest::collection::vec(any::<usize>(), 0..6),
        ) {
            let parts = chop(&bytes, &cuts);
            let sum = parts.iter().fold(Sum::ZERO, |sum, part| sum.append(part));
            prop_assert_eq!(sum.fold(), naive(&bytes));
        }

        #[test]
        fn sum_of_saturated_bytes_equals_the_naive_sum(len in 0_usize..70_000) {
            let bytes = vec![0xff; len];
            prop_assert_eq!(Sum::ZERO.append(&bytes).fold(), naive(&bytes));
        }

        #[test]
        fn pseudo_header_equals_its_bytes((a, b) in pair(), protocol: u8, length: u32) {
            let sum = Sum::pseudo(a, b, Protocol(protocol), length).unwrap();
            prop_assert_eq!(sum.fold(), naive(&pseudo_bytes(a, b, Protocol(protocol), length)));
        }

        #[test]
        fn state_is_recognised(
            (a, b) in pair(),
            udp: bool,
            mut l4 in proptest::collection::vec(any::<u8>(), 20..1600),
            cuts in proptest::collection::vec(any::<usize>(), 0..4),
            flip in any::<(usize, u8)>(),
        ) {
            let protocol = if udp { Protocol::UDP } else { Protocol::TCP };
            let at = if udp { 6 } else { 16 };
            let pseudo = Sum::pseudo(a, b, protocol, u32::try_from(l4.len()).unwrap()).unwrap();
            let of = |l4: &[u8]| {
                let parts = chop(l4, &cuts);
                let field = u16::from_be_bytes([l4[at], l4[at + 1]]);
                L4Checksum::of(protocol, a.is_ipv6(), pseudo, field, parts.iter().map(Vec::as_slice))
            };
            l4[at..at + 2].copy_from_slice(&[0, 0]);
            let full = recomputed(protocol, pseudo, &l4);

            let mut valid = l4.clone();
            valid[at..at + 2].copy_from_slice(&full.to_be_bytes());
            prop_assert!(of(&valid) == L4Checksum::Valid || full == pseudo.fold());

            let mut partial = l4.clone();
            partial[at..at + 2].copy_from_slice(&pseudo.fold().to_be_bytes());
            prop_assert_eq!(of(&partial), L4Checksum::Partial);

            let at_byte = flip.0 % l4.len();
            if flip.1 != 0 && !(at..at + 2).contains(&at_byte) {
                let mut bad = valid;
                bad[at_byte] ^= flip.1;
                prop_assert!(of(&bad) == L4Checksum::Bad || full == pseudo.fold());
            }
        }

        #[test]
        fn edits_equal_recomputation(
            (old, fixed) in pair(),
            new in any::<[u8; 16]>(),
            udp: bool,
            mut l4 in proptest::collection::vec(any::<u8>(), 20..200),
            port: u16,
            odd: u16,
        ) {
            let protocol = if udp { Protocol::UDP } else { Protocol::TCP };
            let at = if udp { 6 } else { 16 };
            let new: IpAddr = match old {
                IpAddr::V4(_) => <[u8; 4]>::try_from(&new[..4]).unwrap().into(),
                IpAddr::V6(_) => new.into(),
            };
            let length = u32::try_from(l4.len()).unwrap();
            let before = Sum::pseudo(old, fixed, protocol, length).unwrap();
            let after = Sum::pseudo(new, fixed, protocol, length).unwrap();
            l4[at..at + 2].copy_from_slice(&[0, 0]);
            let full_before = recomputed(protocol, before, &l4);
            let old_port = u16::from_be_bytes([l4[2], l4[3]]);
            let old_odd = u16::from_be_bytes([l4[9], l4[10]]);
            l4[2..4].copy_from_slice(&port.to_be_bytes());
            l4[9..11].copy_from_slice(&odd.to_be_bytes());
            let full_after = recomputed(protocol, after, &l4);

            let edit = Edit::NONE.address(old, new).unwrap().word(old_port, port).word_at(9, old_odd, odd);
            prop_assert_eq!(L4Checksum::Valid.edited(protocol, full_before, edit), full_after);
            prop_assert_eq!(L4Checksum::Partial.edited(protocol, before.fold(), edit), after.fold());
            prop_assert_eq!(L4Checksum::Absent.edited(protocol, 0, edit), 0);
        }
    }

    #[test]
    fn zero_udp_field_is_absent_over_ipv4_and_bad_over_ipv6() {
        let v4 = Sum::pseudo_v4(Ipv4Addr::LOCALHOST, Ipv4Addr::LOCALHOST, Protocol::UDP, 8);
        assert_eq!(
            L4Checksum::of(Protocol::UDP, false, v4, 0, [[0_u8; 8].as_slice()]),
            L4Checksum::Absent
        );
        let v6 = Sum::pseudo_v6(Ipv6Addr::LOCALHOST, Ipv6Addr::LOCALHOST, Protocol::UDP, 8);
        assert_eq!(
            L4Checksum::of(Protocol::UDP, true, v6, 0, [[0_u8; 8].as_slice()]),
            L4Checksum::Bad
        );
    }

    #[test]
    fn partial_sum_is_never_zero() {
        // Words that fold to 0xffff, the only other spelling of zero.
        let sum = Sum::pseudo_v4(
            Ipv4Addr::from_bits(0xffff_0000),
            Ipv4Addr::UNSPECIFIED,
            Protocol::UDP,
            0xffff - 17,
        );
        assert_eq!(sum.fold(), 0xffff);
        assert_eq!(
            L4Checksum::of(Protocol::UDP, false, sum, 0, [[0_u8; 8].as_slice()]),
            L4Checksum::Absent,
            "zero is not a spelling of that partial sum"
        );
    }

    #[test]
    fn icmp_has_no_pseudo_header() {
        let mut echo = [8, 0, 0, 0, 1, 2, 3, 4];
        let sum = Sum::ZERO.append(&echo).checksum();
        echo[2..4].copy_from_slice(&sum.to_be_bytes());
        let pseudo = Sum::pseudo_v4(Ipv4Addr::LOCALHOST, Ipv4Addr::BROADCAST, Protocol::ICMP, 8);
        assert_eq!(
            L4Checksum::of(Protocol::ICMP, false, pseudo, sum, [echo.as_slice()]),
            L4Checksum::Valid
        );
    }
}
