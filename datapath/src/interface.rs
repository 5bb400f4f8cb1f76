//! What a worker knows of an interface: its slot, what may come from it, and its rings.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use policy::EndpointKey;

/// An Ethernet address.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct MacAddr(pub [u8; 6]);

impl MacAddr {
    /// Whether the group bit is set: multicast or broadcast.
    #[must_use]
    pub const fn is_group(self) -> bool {
        self.0[0] & 1 != 0
    }

    /// The EUI-64 link-local address that Linux derives from this MAC (RFC 4291, appendix A).
    #[must_use]
    pub const fn link_local(self) -> Ipv6Addr {
        let [a, b, c, d, e, f] = self.0;
        Ipv6Addr::from_octets([0xfe, 0x80, 0, 0, 0, 0, 0, 0, a ^ 2, b, c, 0xff, 0xfe, d, e, f])
    }
}

impl fmt::Display for MacAddr {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, f] = self.0;
        write!(out, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}")
    }
}

impl fmt::Debug for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// `text` is not six hexadecimal octets separated by colons.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a MAC address")]
pub struct MacAddrError {
    /// What was given.
    pub text: String,
}

impl FromStr for MacAddr {
    type Err = MacAddrError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = || MacAddrError { text: text.into() };
        let mut octets = [0; 6];
        let mut parts = text.split(':');
        for octet in &mut octets {
            let part = parts.next().filter(|p| p.len() == 2).ok_or_else(error)?;
            *octet = u8::from_str_radix(part, 16).map_err(|_not_hex| error())?;
        }
        if parts.next().is_some() {
            Err(error())
        } else {
            Ok(Self(octets))
        }
    }
}

/// What an interface is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InterfaceKind {
    /// A local pod's host-side veth.
    Endpoint(EndpointConfig),
    /// Inner end of `sluice_host`: what host processes send to pods.
    Host,
    /// Inner end of `sluice_fwd`: what the kernel forwards to pods, and everything pods send to others than local pods.
    Forward,
}

/// Addresses of an endpoint, from CNI or netlink, never learnt from packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EndpointConfig {
    /// MAC of the pod's end of the veth: the only source MAC accepted.
    pub pod_mac: MacAddr,
    /// MAC of the host's end: what the worker answers ARP and ND with, and the source MAC of what it transmits.
    pub gateway_mac: MacAddr,
    /// The pod's IPv4 address.
    pub ipv4: Option<Ipv4Addr>,
    /// The pod's IPv6 address; its link-local address follows from `pod_mac`.
    pub ipv6: Option<Ipv6Addr>,
    /// Whether the pod was there before the worker, and may have connections that it does not know.
    pub adopted: bool,
}

/// An interface as given to a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InterfaceConfig {
    /// Slot and occupant.
    pub key: EndpointKey,
    /// What it is.
    pub kind: InterfaceKind,
    /// Largest IP packet that may be sent to it, bytes.
    pub mtu: u16,
    /// Source MAC of frames transmitted on the interface (host pairs: the inner end's).
    pub local_mac: MacAddr,
    /// Destination MAC of frames transmitted on it (endpoint: the pod's; host pairs: the outer end's).
    pub peer_mac: MacAddr,
}
