//! Kernel notifications: what may have drifted, and which interfaces went away.

use rtnetlink::MulticastGroup;
use rtnetlink::packet_core::NetlinkPayload;
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::link::{LinkAttribute, LinkMessage};
use rtnetlink::packet_route::route::{RouteAttribute, RouteMessage};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::NodeError;
use super::desired::{FORWARD_TABLE, HOST_TABLE, PAIRS};

/// What the kernel told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NodeEvent {
    /// State that sluice owns was touched, by whomever: reconcile.
    Touched,
    /// An interface is gone (`RTM_DELLINK`): deleted, or moved to another namespace.
    LinkRemoved {
        /// Interface index.
        index: u32,
        /// Interface name.
        name: String,
    },
    /// The node's interfaces have other addresses.
    AddressesChanged,
    /// Notifications were lost; anything may have changed.
    Overrun,
}

/// Notifications not yet read; further ones are merged into one [`NodeEvent::Overrun`].
const PENDING_EVENTS: usize = 1024;

/// Listens for as long as it lives.
#[derive(Debug)]
pub struct NodeMonitor {
    events: mpsc::Receiver<NodeEvent>,
    /// Read ahead.
    next: Option<NodeEvent>,
    overrun: std::sync::Arc<std::sync::atomic::AtomicBool>,
    tasks: [JoinHandle<()>; 2],
}

impl Drop for NodeMonitor {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

impl NodeMonitor {
    /// Starts to listen in the calling thread's network namespace.
    ///
    /// # Errors
    /// [`NodeError::Connect`].
    pub fn new() -> Result<Self, NodeError> {
        let (connection, _handle, mut messages) = rtnetlink::new_multicast_connection(&[
            MulticastGroup::Link,
            MulticastGroup::Ipv4Route,
            MulticastGroup::Ipv6Route,
            MulticastGroup::Ipv4Rule,
            MulticastGroup::Ipv6Rule,
            MulticastGroup::Ipv4Ifaddr,
            MulticastGroup::Ipv6Ifaddr,
        ])
        .map_err(NodeError::Connect)?;
        let (sender, events) = mpsc::channel(PENDING_EVENTS);
        let overrun = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
        let lost = std::sync::Arc::clone(&overrun);
        let reader = tokio::spawn(async move {
            use futures_util::StreamExt;
            while let Some((message, _from)) = messages.next().await {
                let event = match message.payload {
                    NetlinkPayload::InnerMessage(message) => classify(message),
                    NetlinkPayload::Overrun(_) => Some(NodeEvent::Overrun),
                    _ => None,
                };
                // Never waits: the queue behind `messages` has no bound of its own.
                if let Some(event) = event
                    && sender.try_send(event).is_err()
                {
                    lost.store(true, std::sync::atomic::Ordering::Release);
                }
            }
        });
        // The handle is dropped: the connection ends when its last handle is gone only if nobody listens.
        let connection = tokio::spawn(connection);
        Ok(Self {
            events,
            next: None,
            overrun,
            tasks: [reader, connection],
        })
    }

    /// The next event; `None` when the kernel closed the socket. As many [`NodeEvent::Touched`] or [`NodeEvent::AddressesChanged`] as
    /// wait one after another are one: each change of the reconciler's own is told of, too, and each address of a pod's interface.
    pub async fn next(&mut self) -> Option<NodeEvent> {
        if self.overrun.swap(false, std::sync::atomic::Ordering::AcqRel) {
            return Some(NodeEvent::Overrun);
        }
        let event = match self.next.take() {
            Some(event) => event,
            None => self.events.recv().await?,
        };
        if matches!(event, NodeEvent::Touched | NodeEvent::AddressesChanged) {
            self.next = std::iter::from_fn(|| self.events.try_recv().ok()).find(|next| *next != event);
        }
        Some(event)
    }
}

fn classify(message: RouteNetlinkMessage) -> Option<NodeEvent> {
    match message {
        RouteNetlinkMessage::DelLink(link) => {
            let name = name_of(&link)?;
            Some(NodeEvent::LinkRemoved {
                index: link.header.index,
                name,
            })
        }
        RouteNetlinkMessage::NewLink(link) => {
            let name = name_of(&link)?;
            PAIRS
                .iter()
                .any(|p| p.outer == name || p.inner == name)
                .then_some(NodeEvent::Touched)
        }
        RouteNetlinkMessage::NewRoute(route) | RouteNetlinkMessage::DelRoute(route) => {
            is_ours(&route).then_some(NodeEvent::Touched)
        }
        RouteNetlinkMessage::NewAddress(_) | RouteNetlinkMessage::DelAddress(_) => {
            Some(NodeEvent::AddressesChanged)
        }
        RouteNetlinkMessage::NewRule(_) | RouteNetlinkMessage::DelRule(_) => Some(NodeEvent::Touched),
        _ => None,
    }
}

fn name_of(link: &LinkMessage) -> Option<String> {
    link.attributes.iter().find_map(|a| match a {
        LinkAttribute::IfName(name) => Some(name.clone()),
        _ => None,
    })
}

fn is_ours(route: &RouteMessage) -> bool {
    route
        .attributes
        .iter()
        .any(|a| matches!(a, RouteAttribute::Table(table) if *table == HOST_TABLE || *table == FORWARD_TABLE))
}
