//! Flow keys: the addresses and ports that name a flow, and their keyed, direction-independent hash.

use std::net::{IpAddr, Ipv6Addr};

use policy::Protocol;

use crate::wire::{icmp, icmpv6};

/// One side of a flow. IPv4 addresses are kept as IPv4-mapped IPv6 (RFC 4291, 2.5.5.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Peer {
    addr: [u8; 16],
    /// Port; ICMP echo: the identifier on both sides.
    pub port: u16,
}

impl Peer {
    /// A side with this address and port.
    #[must_use]
    pub const fn new(addr: IpAddr, port: u16) -> Self {
        let addr = match addr {
            IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
            IpAddr::V6(v6) => v6.octets(),
        };
        Self { addr, port }
    }

    /// The address.
    #[must_use]
    pub const fn addr(&self) -> IpAddr {
        Ipv6Addr::from_octets(self.addr).to_canonical()
    }

    const fn words(&self) -> (u64, u64) {
        let word = u128::from_be_bytes(self.addr);
        #[expect(clippy::cast_possible_truncation, reason = "the two halves of the address")]
        let halves = ((word >> 64) as u64, word as u64);
        halves
    }
}

/// A flow as its original direction names it, after service translation: what the receiver sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FlowKey {
    /// The side that sent the first packet.
    pub source: Peer,
    /// The side that received it.
    pub destination: Peer,
    /// Transport protocol.
    pub protocol: Protocol,
}

impl FlowKey {
    /// No flow.
    pub const UNSPECIFIED: Self = Self {
        source: Peer {
            addr: [0; 16],
            port: 0,
        },
        destination: Peer {
            addr: [0; 16],
            port: 0,
        },
        protocol: Protocol::ANY,
    };

    /// The port that policy looks at: the destination's, or for a ping the type of an echo request.
    #[must_use]
    pub const fn policy_port(&self) -> u16 {
        match self.protocol {
            Protocol::ICMP => icmp::kind::ECHO as u16,
            Protocol::ICMPV6 => icmpv6::kind::ECHO as u16,
            _ => self.destination.port,
        }
    }

    /// The same flow as the other side names it.
    #[must_use]
    pub const fn reversed(&self) -> Self {
        Self {
            source: self.destination,
            destination: self.source,
            protocol: self.protocol,
        }
    }
}

/// Which way a packet of a flow goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FlowDirection {
    /// Like the first packet.
    Original,
    /// Against it.
    Reply,
}

impl FlowDirection {
    /// The other way.
    #[must_use]
    pub const fn reverse(self) -> Self {
        match self {
            Self::Original => Self::Reply,
            Self::Reply => Self::Original,
        }
    }
}

/// Keys of the flow hash; random per process, because pods choose their ports and must not be able to choose the bucket.
#[derive(Debug, Clone, Copy)]
pub struct FlowHasher {
    keys: [u64; 4],
}

impl FlowHasher {
    /// A hasher with these keys.
    #[must_use]
    pub const fn new(keys: [u64; 4]) -> Self {
        Self { keys }
    }

    /// A hasher with keys from the operating system's randomness.
    #[must_use]
    pub fn random() -> Self {
        use std::hash::{BuildHasher, Hasher, RandomState};
        // RandomState is seeded by getrandom once per thread and then counts; hashing with it mixes the seed into each key.
        let keys = std::array::from_fn(|n| {
            let mut hasher = RandomState::new().build_hasher();
            hasher.write_usize(n);
            hasher.finish() | 1
        });
        Self { keys }
    }

    /// Hash of a flow, the same in both directions.
    #[must_use]
    pub fn hash(&self, key: &FlowKey) -> u64 {
        let (low, high) = if key.source <= key.destination {
            (&key.source, &key.destination)
        } else {
            (&key.destination, &key.source)
        };
        let (a, b) = low.words();
        let (c, d) = high.words();
        let ports = u64::from(low.port) << 32 | u64::from(high.port) << 16 | u64::from(key.protocol.0);
        let one = fold(a ^ self.keys[0], b ^ self.keys[1]);
        let two = fold(c ^ self.keys[2], d ^ self.keys[3]);
        let three = fold(ports ^ self.keys[1], one.rotate_left(23) ^ self.keys[2]);
        fold(three ^ self.keys[0], two.rotate_left(41) ^ self.keys[3])
    }
}

/// 64x64 -> 128 bit multiplication, folded.
const fn fold(a: u64, b: u64) -> u64 {
    let product = a as u128 * b as u128;
    #[expect(clippy::cast_possible_truncation, reason = "folding the halves is the point")]
    let folded = (product as u64) ^ ((product >> 64) as u64);
    folded
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn key(a: [u8; 4], p: u16, b: [u8; 4], q: u16) -> FlowKey {
        FlowKey {
            source: Peer::new(IpAddr::from(a), p),
            destination: Peer::new(IpAddr::from(b), q),
            protocol: Protocol::TCP,
        }
    }

    proptest! {
        #[test]
        fn both_directions_hash_alike(a: [u8; 4], p: u16, b: [u8; 4], q: u16, keys: [u64; 4]) {
            let hasher = FlowHasher::new(keys);
            let key = key(a, p, b, q);
            prop_assert_eq!(hasher.hash(&key), hasher.hash(&key.reversed()));
        }

        #[test]
        fn peer_keeps_its_address(addr: IpAddr, port: u16) {
            prop_assert_eq!(Peer::new(addr, port).addr(), addr.to_canonical());
        }
    }

    #[test]
    fn ports_spread_over_buckets() {
        let hasher = FlowHasher::random();
        let mut buckets = [0_u32; 256];
        for port in 0..=u16::MAX {
            let hash = hasher.hash(&key([10, 0, 0, 1], port, [10, 0, 0, 2], 80));
            buckets[(hash & 255) as usize] += 1;
        }
        let (least, most) = (buckets.iter().min().unwrap(), buckets.iter().max().unwrap());
        assert!(
            *least > 128 && *most < 512,
            "least {least}, most {most} of 256 expected"
        );
    }
}
