//! Pod routes in sluice's tables, and the pods' permanent neighbour entries.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use futures_util::TryStreamExt;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState,
};
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use rtnetlink::{Handle, RouteMessageBuilder};

use super::desired::{Pair, ROUTE_PROTOCOL};
use super::{Difference, Drift, Family, NodeError, NodeObject, errno};

/// No such entry; what a dump of a routing table answers that never had a route.
const ENOENT: i32 = 2;
/// No such process; what deleting a route answers that is gone already.
const ESRCH: i32 = 3;

const fn address_family(family: Family) -> AddressFamily {
    match family {
        Family::Ipv4 => AddressFamily::Inet,
        Family::Ipv6 => AddressFamily::Inet6,
    }
}

fn table_of(message: &RouteMessage) -> u32 {
    message
        .attributes
        .iter()
        .find_map(|a| {
            if let RouteAttribute::Table(table) = a {
                Some(*table)
            } else {
                None
            }
        })
        .unwrap_or(u32::from(message.header.table))
}

fn destination_of(message: &RouteMessage) -> Option<IpAddr> {
    message.attributes.iter().find_map(|a| match a {
        RouteAttribute::Destination(RouteAddress::Inet(addr)) => Some(IpAddr::V4(*addr)),
        RouteAttribute::Destination(RouteAddress::Inet6(addr)) => Some(IpAddr::V6(*addr)),
        _ => None,
    })
}

/// Whether `message` is exactly the route that [`build`] makes for `addr`.
fn is_pod_route(message: &RouteMessage, addr: IpAddr, device: u32) -> bool {
    let full = if addr.is_ipv4() { 32 } else { 128 };
    message.header.destination_prefix_length == full
        && message.header.source_prefix_length == 0
        && message.header.tos == 0
        && message.header.kind == RouteType::Unicast
        && message.attributes.contains(&RouteAttribute::Oif(device))
        && !message.attributes.iter().any(|a| {
            matches!(
                a,
                RouteAttribute::Gateway(_)
                    | RouteAttribute::Via(_)
                    | RouteAttribute::MultiPath(_)
                    | RouteAttribute::Encap(_)
                    | RouteAttribute::NhId(_)
            )
        })
}

async fn list(handle: &Handle, family: Family, table: u32) -> Result<Vec<RouteMessage>, NodeError> {
    // Only family and table are set: with strict checking the kernel filters by them and refuses other fields.
    let mut filter = RouteMessage::default();
    filter.header.address_family = address_family(family);
    filter.attributes.push(RouteAttribute::Table(table));
    match handle.route().get(filter).execute().try_collect::<Vec<_>>().await {
        Ok(mut routes) => {
            routes.retain(|route| table_of(route) == table);
            Ok(routes)
        }
        Err(e) if errno(&e) == Some(ENOENT) => Ok(Vec::new()),
        Err(source) => Err(NodeError::List {
            listed: "routes",
            source,
        }),
    }
}

fn build(addr: IpAddr, table: u32, device: u32) -> RouteMessage {
    let (scope, protocol) = (RouteScope::Link, RouteProtocol::Other(ROUTE_PROTOCOL));
    match addr {
        IpAddr::V4(addr) => RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix(addr, 32)
            .output_interface(device)
            .table_id(table)
            .scope(scope)
            .protocol(protocol)
            .build(),
        IpAddr::V6(addr) => RouteMessageBuilder::<Ipv6Addr>::new()
            .destination_prefix(addr, 128)
            .output_interface(device)
            .table_id(table)
            .protocol(protocol)
            .build(),
    }
}

async fn remove(handle: &Handle, message: RouteMessage, object: &NodeObject) -> Result<(), NodeError> {
    match handle.route().del(message).execute().await {
        Err(source) if errno(&source) != Some(ESRCH) => Err(NodeError::Remove {
            object: object.clone(),
            source,
        }),
        _ => Ok(()),
    }
}

/// Makes one table hold exactly the pods' routes into `device`.
///
/// # Errors
/// [`NodeError`] when the kernel refuses.
pub(super) async fn ensure(
    handle: &Handle,
    family: Family,
    table: u32,
    device: u32,
    pods: &BTreeSet<IpAddr>,
    drifts: &mut Vec<Drift>,
) -> Result<(), NodeError> {
    let mut missing: BTreeSet<IpAddr> = pods
        .iter()
        .copied()
        .filter(|addr| Family::of(*addr) == family)
        .collect();
    for message in list(handle, family, table).await? {
        let addr = destination_of(&message);
        if let Some(addr) = addr
            && is_pod_route(&message, addr, device)
            && missing.remove(&addr)
        {
            continue;
        }
        let unspecified = match family {
            Family::Ipv4 => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            Family::Ipv6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        };
        let object = NodeObject::Route {
            addr: addr.unwrap_or(unspecified),
            table,
        };
        remove(handle, message, &object).await?;
        drifts.push(Drift {
            object,
            difference: Difference::Unwanted,
        });
    }
    for addr in missing {
        let object = NodeObject::Route { addr, table };
        handle
            .route()
            .add(build(addr, table, device))
            .replace()
            .execute()
            .await
            .map_err(|source| NodeError::Apply {
                object: object.clone(),
                source,
            })?;
        drifts.push(Drift {
            object,
            difference: Difference::Missing,
        });
    }
    Ok(())
}

/// Empties one table. Returns how many routes there were.
///
/// # Errors
/// [`NodeError`] when the kernel refuses.
pub(super) async fn remove_all(handle: &Handle, family: Family, table: u32) -> Result<usize, NodeError> {
    let routes = list(handle, family, table).await?;
    let count = routes.len();
    for message in routes {
        let addr = destination_of(&message).unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
        remove(handle, message, &NodeObject::Route { addr, table }).await?;
    }
    Ok(count)
}

/// Address and MAC of a permanent neighbour entry.
fn permanent(message: &NeighbourMessage) -> Option<(IpAddr, &[u8])> {
    if message.header.state != NeighbourState::Permanent {
        return None;
    }
    let mut addr = None;
    let mut mac = None;
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(a)) => addr = Some(IpAddr::V4(*a)),
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(a)) => addr = Some(IpAddr::V6(*a)),
            NeighbourAttribute::LinkLayerAddress(bytes) => mac = Some(bytes.as_slice()),
            _ => {}
        }
    }
    Some((addr?, mac?))
}

/// Makes sure that a host pair's permanent neighbours are exactly the pods, all at the inner end. A NOARP device alone would
/// send its own address as the destination.
///
/// # Errors
/// [`NodeError`] when the kernel refuses.
pub(super) async fn ensure_neighbours(
    handle: &Handle,
    family: Family,
    pair: &'static Pair,
    device: u32,
    pods: &BTreeSet<IpAddr>,
    drifts: &mut Vec<Drift>,
) -> Result<(), NodeError> {
    let mut request = handle
        .neighbours()
        .get()
        .set_address_family(address_family(family));
    request
        .message_mut()
        .attributes
        .push(NeighbourAttribute::IfIndex(device));
    let present: Vec<NeighbourMessage> =
        request
            .execute()
            .try_collect()
            .await
            .map_err(|source| NodeError::List {
                listed: "neighbours",
                source,
            })?;
    let mut missing: BTreeSet<IpAddr> = pods
        .iter()
        .copied()
        .filter(|addr| Family::of(*addr) == family)
        .collect();
    for message in present {
        let Some((addr, mac)) = permanent(&message).filter(|_| message.header.ifindex == device) else {
            continue;
        };
        if mac == pair.inner_mac.0 && missing.remove(&addr) {
            continue;
        }
        // A wrong MAC is overwritten below.
        if missing.contains(&addr) {
            continue;
        }
        let object = NodeObject::Neighbour {
            addr,
            device: pair.outer,
        };
        match handle.neighbours().del(message).execute().await {
            Err(source) if errno(&source) != Some(ENOENT) => {
                return Err(NodeError::Remove { object, source });
            }
            _ => drifts.push(Drift {
                object,
                difference: Difference::Unwanted,
            }),
        }
    }
    for addr in missing {
        let object = NodeObject::Neighbour {
            addr,
            device: pair.outer,
        };
        handle
            .neighbours()
            .add(device, addr)
            .link_layer_address(&pair.inner_mac.0)
            .replace()
            .execute()
            .await
            .map_err(|source| NodeError::Apply {
                object: object.clone(),
                source,
            })?;
        drifts.push(Drift {
            object,
            difference: Difference::Missing,
        });
    }
    Ok(())
}
