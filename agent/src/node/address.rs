//! Addresses of the node: those of its interfaces, of which its Node object lists a part.
//!
//! An address that a plugin gives to its bridge, or to the node's end of a pod's veth pair (`ptp`), is the node's, too: who answers there is
//! one of its processes.

use std::collections::BTreeSet;
use std::net::IpAddr;

use futures_util::TryStreamExt;
use rtnetlink::packet_route::address::{AddressAttribute, AddressHeaderFlags, AddressMessage};

use super::{Devices, NodeError, PAIRS};

impl Devices {
    /// Unicast addresses at which others than the node itself may reach it: not the loopback's, not those of one link, not sluice's own.
    ///
    /// # Errors
    /// [`NodeError::List`]: the kernel does not tell.
    pub async fn node_addresses(&self) -> Result<BTreeSet<IpAddr>, NodeError> {
        let mut own = BTreeSet::new();
        for name in PAIRS.iter().flat_map(|pair| [pair.outer, pair.inner]) {
            own.extend(self.find(name).await.map(|device| device.index));
        }
        let listed = |source| NodeError::List {
            listed: "addresses",
            source,
        };
        let mut messages = self.handle.address().get().execute();
        let mut addresses = BTreeSet::new();
        while let Some(message) = messages.try_next().await.map_err(listed)? {
            if !own.contains(&message.header.index) && !is_doubtful(&message) {
                addresses.extend(local(&message).filter(is_reached));
            }
        }
        Ok(addresses)
    }
}

/// Whether another machine may own the address (RFC 4862, 5.4); the kernel does not use it then.
fn is_doubtful(message: &AddressMessage) -> bool {
    let doubts = AddressHeaderFlags::Tentative | AddressHeaderFlags::Dadfailed;
    message.header.flags.intersects(doubts)
}

/// The interface's own address; with a peer's beside it `IFA_ADDRESS` is the peer's.
fn local(message: &AddressMessage) -> Option<IpAddr> {
    let attributes = || message.attributes.iter();
    let own = attributes().find_map(|attribute| match attribute {
        AddressAttribute::Local(addr) => Some(*addr),
        _ => None,
    });
    own.or_else(|| {
        attributes().find_map(|attribute| match attribute {
            AddressAttribute::Address(addr) => Some(*addr),
            _ => None,
        })
    })
}

fn is_reached(addr: &IpAddr) -> bool {
    let is_of_one_link = matches!(addr, IpAddr::V6(addr) if addr.is_unicast_link_local());
    !(addr.is_loopback() || addr.is_unspecified() || addr.is_multicast() || is_of_one_link)
}
