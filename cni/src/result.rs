//! Results of CNI plugins: what is read of them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

use serde::Deserialize;

/// What a chain of plugins has made, by versions 0.3.0 to 1.1.0 of the specification.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct CniResult {
    /// Interfaces, on both sides.
    #[serde(default)]
    pub interfaces: Vec<Interface>,
    /// Addresses.
    #[serde(default)]
    pub ips: Vec<Address>,
}

/// An interface.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Its MAC.
    #[serde(default)]
    pub mac: String,
    /// A file of the container's network namespace; empty for the host's interfaces.
    #[serde(default)]
    pub sandbox: String,
}

/// An address.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Address {
    /// Position of its interface in [`CniResult::interfaces`].
    #[serde(default)]
    pub interface: Option<usize>,
    /// The address, with the length of its prefix.
    pub address: String,
}

/// The container's interface in a result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerInterface {
    /// Its MAC; empty if the plugins do not tell.
    pub mac: String,
    /// A file of its network namespace.
    pub netns: PathBuf,
    /// Its IPv4 address.
    pub ipv4: Option<Ipv4Addr>,
    /// Its IPv6 address.
    pub ipv6: Option<Ipv6Addr>,
}

/// A result does not tell what sluice needs.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ResultError {
    /// No such interface in a container.
    #[error("interfaces: none is `{name}` in a container")]
    NoInterface {
        /// The name.
        name: String,
    },
    /// No address refers to the interface.
    #[error("ips: none belongs to `{name}`")]
    NoAddress {
        /// The name.
        name: String,
    },
    /// More addresses than an endpoint has.
    #[error("ips: `{name}` has more than one {family} address")]
    TwoAddresses {
        /// The name.
        name: String,
        /// `IPv4` or `IPv6`.
        family: &'static str,
    },
    /// Not an address.
    #[error("ips[{at}].address: `{text}` is not an address with the length of its prefix")]
    InvalidAddress {
        /// Position in the list.
        at: usize,
        /// What is there.
        text: String,
    },
}

impl CniResult {
    /// The container's interface `name`, with the addresses that refer to it.
    ///
    /// # Errors
    /// [`ResultError`] with the field.
    pub fn container_interface(&self, name: &str) -> Result<ContainerInterface, ResultError> {
        let (index, interface) = self
            .interfaces
            .iter()
            .enumerate()
            .find(|(_, interface)| interface.name == name && !interface.sandbox.is_empty())
            .ok_or_else(|| ResultError::NoInterface { name: name.into() })?;
        let (mut ipv4, mut ipv6) = (None, None);
        for (at, ip) in self.ips.iter().enumerate() {
            if ip.interface != Some(index) {
                continue;
            }
            let addr = parse(&ip.address).ok_or_else(|| ResultError::InvalidAddress {
                at,
                text: ip.address.clone(),
            })?;
            let (is_second, family) = match addr {
                IpAddr::V4(addr) => (ipv4.replace(addr).is_some(), "IPv4"),
                IpAddr::V6(addr) => (ipv6.replace(addr).is_some(), "IPv6"),
            };
            if is_second {
                return Err(ResultError::TwoAddresses {
                    name: name.into(),
                    family,
                });
            }
        }
        if ipv4.is_none() && ipv6.is_none() {
            return Err(ResultError::NoAddress { name: name.into() });
        }
        Ok(ContainerInterface {
            mac: interface.mac.clone(),
            netns: interface.sandbox.clone().into(),
            ipv4,
            ipv6,
        })
    }
}

fn parse(text: &str) -> Option<IpAddr> {
    let (addr, length) = text.split_once('/')?;
    let addr: IpAddr = addr.parse().ok()?;
    let longest = if addr.is_ipv4() { 32 } else { 128 };
    (length.parse::<u8>().ok()? <= longest).then_some(addr)
}

#[cfg(test)]
mod tests;
