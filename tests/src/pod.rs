//! A pod of the lab.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::{Context, Result};

use crate::netns::Netns;
use crate::packets::{self, Mac};
use crate::tap::{Injector, Tap};

/// A pod: its network, as `scripts/lab.sh pod show` describes it.
#[derive(Debug, Clone)]
pub struct Pod {
    /// `namespace/name`.
    pub name: String,
    /// IPv4 address.
    pub ip4: Ipv4Addr,
    /// IPv6 address.
    pub ip6: Ipv6Addr,
    /// MAC address of its `eth0`.
    pub mac: Mac,
    /// MAC address of the host's end.
    pub gateway_mac: Mac,
    /// Name of the host's end.
    pub veth: String,
    /// Its network namespace.
    pub netns: Netns,
    /// The namespace's name.
    pub netns_name: String,
}

impl Pod {
    /// Reads what `pod show` prints.
    ///
    /// # Errors
    /// A field is missing or wrong.
    pub fn parse(shown: &str) -> Result<Self> {
        let field = |name: &str| {
            let value = shown
                .lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
            value.with_context(|| format!("no {name} in {shown:?}"))
        };
        let netns_name = field("netns")?.to_owned();
        Ok(Self {
            name: field("pod")?.to_owned(),
            ip4: field("ip4")?.parse()?,
            ip6: field("ip6")?.parse()?,
            mac: mac(field("mac")?)?,
            gateway_mac: mac(field("gateway_mac")?)?,
            veth: field("veth")?.to_owned(),
            netns: Netns::named(&netns_name),
            netns_name,
        })
    }

    /// Both addresses.
    #[must_use]
    pub fn addresses(&self) -> [IpAddr; 2] {
        [self.ip4.into(), self.ip6.into()]
    }

    /// The address of `other`'s family.
    #[must_use]
    pub fn address_like(&self, other: IpAddr) -> IpAddr {
        if other.is_ipv4() {
            self.ip4.into()
        } else {
            self.ip6.into()
        }
    }

    /// IPv4 socket address.
    #[must_use]
    pub fn at4(&self, port: u16) -> SocketAddr {
        (self.ip4, port).into()
    }

    /// IPv6 socket address.
    #[must_use]
    pub fn at6(&self, port: u16) -> SocketAddr {
        (self.ip6, port).into()
    }

    /// Socket addresses of both families.
    #[must_use]
    pub fn at(&self, port: u16) -> [SocketAddr; 2] {
        [self.at4(port), self.at6(port)]
    }

    /// An IP packet as this pod would send it: from its MAC to its gateway's.
    #[must_use]
    pub fn framed(&self, packet: &[u8]) -> Vec<u8> {
        packets::frame(self.gateway_mac, self.mac, packet)
    }

    /// A way to send frames from the pod.
    ///
    /// # Errors
    /// The pod is gone, or no privilege.
    pub fn injector(&self) -> Result<Injector> {
        Injector::open(&self.netns, "eth0")
    }

    /// Everything that arrives at the pod from now on.
    ///
    /// # Errors
    /// No privilege.
    pub fn tap(&self) -> Result<Tap> {
        Tap::open(&self.netns)
    }
}

/// Reads a MAC address.
///
/// # Errors
/// It is none.
pub fn mac(text: &str) -> Result<Mac> {
    let bytes: Vec<u8> = text
        .split(':')
        .map(|byte| u8::from_str_radix(byte, 16))
        .collect::<Result<_, _>>()?;
    bytes
        .try_into()
        .ok()
        .with_context(|| format!("not a MAC address: {text}"))
}

/// Link-local address that a MAC makes (RFC 4291, appendix A).
#[must_use]
pub fn link_local(mac: Mac) -> Ipv6Addr {
    let [a, b, c, d, e, f] = mac;
    let id = u64::from_be_bytes([a ^ 2, b, c, 0xff, 0xfe, d, e, f]);
    Ipv6Addr::from_bits(0xfe80 << 112 | u128::from(id))
}
