//! The veth pairs.

use futures_util::TryStreamExt;
use rtnetlink::packet_route::link::{
    InfoData, InfoKind, InfoVeth, LinkAttribute, LinkFlags, LinkInfo, LinkMessage,
};
use rtnetlink::{Handle, LinkMessageBuilder, LinkUnspec, LinkVeth};

use super::desired::{End, NodeState, Pair};
use super::{Difference, Drift, NodeError, NodeObject, errno};

/// What counts of a link that is there.
#[derive(Debug)]
pub(super) struct Link {
    /// Interface index.
    pub(super) index: u32,
    is_veth: bool,
    peer: Option<u32>,
    mac: Vec<u8>,
    mtu: u32,
    flags: LinkFlags,
    /// Set when the peer lives in another namespace: then its index means nothing here.
    peer_is_elsewhere: bool,
}

impl From<LinkMessage> for Link {
    fn from(message: LinkMessage) -> Self {
        let mut link = Self {
            index: message.header.index,
            is_veth: false,
            peer: None,
            mac: Vec::new(),
            mtu: 0,
            flags: message.header.flags,
            peer_is_elsewhere: false,
        };
        for attribute in message.attributes {
            match attribute {
                LinkAttribute::Address(mac) => link.mac = mac,
                LinkAttribute::Mtu(mtu) => link.mtu = mtu,
                LinkAttribute::Link(peer) => link.peer = Some(peer),
                LinkAttribute::LinkNetNsId(_) => link.peer_is_elsewhere = true,
                LinkAttribute::LinkInfo(infos) => {
                    link.is_veth = infos.contains(&LinkInfo::Kind(InfoKind::Veth));
                }
                _ => {}
            }
        }
        link
    }
}

/// The link of that name, if there is one.
///
/// # Errors
/// [`NodeError::List`].
pub(super) async fn get(handle: &Handle, name: &str) -> Result<Option<Link>, NodeError> {
    match handle.link().get().match_name(name).execute().try_next().await {
        Ok(message) => Ok(message.map(Link::from)),
        Err(e) if errno(&e) == Some(ENODEV) => Ok(None),
        Err(source) => Err(NodeError::List {
            listed: "links",
            source,
        }),
    }
}

/// No such device (uapi/asm-generic/errno-base.h).
pub(super) const ENODEV: i32 = 19;

/// Makes sure of a pair's existence. A pair that is not what it should be is deleted and made anew, which costs the worker its
/// socket there: the caller learns of it by the returned drift.
///
/// # Errors
/// [`NodeError`] when the kernel refuses.
pub(super) async fn ensure_pair(
    handle: &Handle,
    pair: &'static Pair,
    desired: &NodeState,
) -> Result<Option<Drift>, NodeError> {
    let (outer, inner) = (get(handle, pair.outer).await?, get(handle, pair.inner).await?);
    let difference = match (&outer, &inner) {
        (Some(outer), Some(inner)) if is_pair(outer, inner) => return Ok(None),
        (None, None) => Difference::Missing,
        _ => Difference::Wrong,
    };
    let object = NodeObject::Pair { outer: pair.outer };
    remove_pair(handle, pair).await?;
    let [outer, inner] = pair.ends();
    let peer = LinkMessageBuilder::<LinkUnspec>::new()
        .name(inner.name)
        .address(inner.mac.0.to_vec())
        .mtu(desired.mtu)
        .arp(false)
        .build();
    let message = LinkVeth::new(outer.name, inner.name)
        .set_info_data(InfoData::Veth(InfoVeth::Peer(peer)))
        .address(outer.mac.0.to_vec())
        .mtu(desired.mtu)
        .arp(false)
        .build();
    handle
        .link()
        .add(message)
        .execute()
        .await
        .map_err(|source| NodeError::Apply {
            object: object.clone(),
            source,
        })?;
    Ok(Some(Drift { object, difference }))
}

fn is_pair(outer: &Link, inner: &Link) -> bool {
    outer.is_veth
        && inner.is_veth
        && !outer.peer_is_elsewhere
        && !inner.peer_is_elsewhere
        && outer.peer == Some(inner.index)
        && inner.peer == Some(outer.index)
}

/// Makes sure of an end's MAC, MTU and NOARP flag.
///
/// # Errors
/// [`NodeError`] when the kernel refuses or the link is gone again.
pub(super) async fn ensure_attributes(
    handle: &Handle,
    end: &End,
    desired: &NodeState,
) -> Result<Option<Drift>, NodeError> {
    let link = get(handle, end.name)
        .await?
        .ok_or(NodeError::Vanished { name: end.name })?;
    if link.mac == end.mac.0 && link.mtu == desired.mtu && link.flags.contains(LinkFlags::Noarp) {
        return Ok(None);
    }
    let mut message = LinkUnspec::new_with_index(link.index).arp(false);
    if link.mac != end.mac.0 {
        message = message.address(end.mac.0.to_vec());
    }
    if link.mtu != desired.mtu {
        message = message.mtu(desired.mtu);
    }
    set(handle, end, message.build()).await?;
    Ok(Some(Drift {
        object: NodeObject::Link { name: end.name },
        difference: Difference::Wrong,
    }))
}

/// Makes sure that an end is up; only after its sysctls, so that it never speaks.
///
/// # Errors
/// [`NodeError`] when the kernel refuses or the link is gone again.
pub(super) async fn ensure_up(handle: &Handle, end: &End) -> Result<Option<Drift>, NodeError> {
    let link = get(handle, end.name)
        .await?
        .ok_or(NodeError::Vanished { name: end.name })?;
    if link.flags.contains(LinkFlags::Up) {
        return Ok(None);
    }
    set(handle, end, LinkUnspec::new_with_index(link.index).up().build()).await?;
    Ok(Some(Drift {
        object: NodeObject::Link { name: end.name },
        difference: Difference::Wrong,
    }))
}

async fn set(handle: &Handle, end: &End, message: LinkMessage) -> Result<(), NodeError> {
    let object = NodeObject::Link { name: end.name };
    handle
        .link()
        .set(message)
        .execute()
        .await
        .map_err(|source| NodeError::Apply { object, source })
}

/// Deletes both ends, also when they are no pair of each other. Returns whether there was anything.
///
/// # Errors
/// [`NodeError`] when the kernel refuses.
pub(super) async fn remove_pair(handle: &Handle, pair: &'static Pair) -> Result<bool, NodeError> {
    let mut removed = false;
    for name in [pair.outer, pair.inner] {
        let Some(link) = get(handle, name).await? else {
            continue;
        };
        match handle.link().del(link.index).execute().await {
            Ok(()) => removed = true,
            Err(e) if errno(&e) == Some(ENODEV) => {}
            Err(source) => {
                return Err(NodeError::Remove {
                    object: NodeObject::Link { name },
                    source,
                });
            }
        }
    }
    Ok(removed)
}
