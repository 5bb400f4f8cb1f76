//! Interfaces that are not sluice's own: looked up, never changed.

use datapath::interface::MacAddr;
use futures_util::TryStreamExt;
use rtnetlink::LinkGetRequest;
use rtnetlink::packet_route::link::{LinkAttribute, LinkMessage};

use super::link::ENODEV;
use super::{NodeError, errno};
use crate::dataplane::Device;

/// Looks interfaces up by name.
#[derive(Debug, Clone)]
pub struct Devices {
    pub(super) handle: rtnetlink::Handle,
}

impl Devices {
    /// Opens netlink in the calling thread's network namespace.
    ///
    /// # Errors
    /// [`NodeError::Connect`].
    pub fn new() -> Result<Self, NodeError> {
        let (connection, handle, _messages) = rtnetlink::new_connection().map_err(NodeError::Connect)?;
        // Ends with the last handle.
        tokio::spawn(connection);
        Ok(Self { handle })
    }

    /// The interface named `name`; `None` if there is none, or none with a MAC address and an MTU.
    pub async fn find(&self, name: &str) -> Option<Device> {
        let mut links = self.handle.link().get().match_name(name.to_owned()).execute();
        device(&links.try_next().await.ok()??)
    }

    /// Whether there is an interface of that name, of whatever kind.
    ///
    /// # Errors
    /// [`NodeError::List`]: the kernel does not tell.
    pub async fn exists(&self, name: &str) -> Result<bool, NodeError> {
        is_found(self.handle.link().get().match_name(name.to_owned())).await
    }

    /// Whether the kernel says that there is no interface of that name. A question that fails says nothing.
    pub async fn is_gone(&self, name: &str) -> bool {
        matches!(self.exists(name).await, Ok(false))
    }

    /// The same of an index, which the kernel gives to no other interface as long as it does not run out of them.
    pub async fn is_gone_at(&self, index: u32) -> bool {
        matches!(
            is_found(self.handle.link().get().match_index(index)).await,
            Ok(false)
        )
    }
}

async fn is_found(question: LinkGetRequest) -> Result<bool, NodeError> {
    match question.execute().try_next().await {
        Ok(link) => Ok(link.is_some()),
        Err(error) if errno(&error) == Some(ENODEV) => Ok(false),
        Err(source) => Err(NodeError::List {
            listed: "links",
            source,
        }),
    }
}

fn device(link: &LinkMessage) -> Option<Device> {
    let mut found = (None, None, None);
    for attribute in &link.attributes {
        match attribute {
            LinkAttribute::IfName(name) => found.0 = Some(name.clone()),
            LinkAttribute::Address(bytes) => {
                found.1 = <[u8; 6]>::try_from(bytes.as_slice()).ok().map(MacAddr)
            }
            // Larger MTUs than IP packets have are those of the loopback.
            LinkAttribute::Mtu(mtu) => found.2 = Some(u16::try_from(*mtu).unwrap_or(u16::MAX)),
            _ => {}
        }
    }
    let (Some(name), Some(mac), Some(mtu)) = found else {
        return None;
    };
    Some(Device {
        index: link.header.index,
        name,
        mac,
        mtu,
    })
}
