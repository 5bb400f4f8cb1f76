//! Node state: the links, routes, rules, neighbours and sysctls that bring pod traffic to the worker.
//!
//! One [`Reconciler`] owns all of it as a desired state ([`NodeState`]). It is idempotent, repairs drift and removes everything
//! without residue. What other agents and the CNI own (their routes, rules and interfaces) is read at most, never changed: pod
//! routes live in two tables of our own, so that leaving a node means deleting rules.
//!
//! Everything acts on the network namespace of the calling thread.

mod address;
pub mod conflict;
pub mod desired;
pub mod device;
mod link;
mod masquerade;
pub mod monitor;
pub mod napi;
pub mod reconciler;
mod route;
mod rule;
mod sysctl;
pub mod tuning;

use std::fmt;
use std::io;
use std::net::IpAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

pub use desired::{FORWARD_PAIR, HOST_PAIR, KEEPER_PAIR, NodeState, PAIRS, Pair};
pub use device::Devices;
pub use monitor::{NodeEvent, NodeMonitor};
pub use reconciler::{Reconciler, Report};
pub use sysctl::PROC_SYS_NET;

/// An address family of rules and routes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Family {
    /// IPv4.
    Ipv4,
    /// IPv6.
    Ipv6,
}

impl Family {
    /// Both families.
    pub const ALL: [Self; 2] = [Self::Ipv4, Self::Ipv6];

    /// The family of an address.
    #[must_use]
    pub const fn of(addr: IpAddr) -> Self {
        if addr.is_ipv4() { Self::Ipv4 } else { Self::Ipv6 }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ipv4 => "IPv4",
            Self::Ipv6 => "IPv6",
        })
    }
}

/// A piece of node state.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum NodeObject {
    /// A veth pair, by its outer end's name.
    Pair {
        /// Name of the outer end.
        outer: &'static str,
    },
    /// Attributes (MAC, MTU, flags) of one end of a pair.
    Link {
        /// Interface name.
        name: &'static str,
    },
    /// A setting under `/proc/sys/net`.
    Sysctl {
        /// The file.
        path: PathBuf,
    },
    /// The link-layer address of a pod on a host pair.
    Neighbour {
        /// The pod's address.
        addr: IpAddr,
        /// Interface name.
        device: &'static str,
    },
    /// A pod's route in one of sluice's tables.
    Route {
        /// The pod's address, or the destination of a route that does not belong there.
        addr: IpAddr,
        /// Routing table.
        table: u32,
    },
    /// A routing rule.
    Rule {
        /// Address family.
        family: Family,
        /// Preference.
        priority: u32,
    },
}

impl fmt::Display for NodeObject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pair { outer } => write!(f, "veth pair {outer}"),
            Self::Link { name } => write!(f, "link {name}"),
            Self::Sysctl { path } => write!(f, "sysctl {}", path.display()),
            Self::Neighbour { addr, device } => write!(f, "neighbour {addr} on {device}"),
            Self::Route { addr, table } => write!(f, "route to {addr} in table {table}"),
            Self::Rule { family, priority } => write!(f, "{family} rule {priority}"),
        }
    }
}

/// How a piece of node state differed from the desired one before it was put right.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Difference {
    /// It was not there.
    Missing,
    /// It was there with other values.
    Wrong,
    /// It was there and does not belong there.
    Unwanted,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Missing => "missing",
            Self::Wrong => "wrong",
            Self::Unwanted => "unwanted",
        })
    }
}

/// One correction that the reconciler made.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
pub struct Drift {
    /// What was corrected.
    pub object: NodeObject,
    /// What was wrong with it.
    pub difference: Difference,
}

impl fmt::Display for Drift {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} was {}", self.object, self.difference)
    }
}

/// Something on the node that sluice does not own and that impairs it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, thiserror::Error)]
pub enum NodeWarning {
    /// Packets between pods and the outside cross the node's forwarding path.
    #[error("{family} forwarding is off on this node: pods reach nothing outside of it")]
    ForwardingOff {
        /// The family.
        family: Family,
    },
    /// `nft` is not there, or refuses.
    #[error("the node's own processes reach no other node through a Service: nft: {reason}")]
    Masquerade {
        /// What it says.
        reason: String,
    },
    /// A foreign rule decides before sluice's.
    #[error(
        "{family} rule {priority} of another owner comes before sluice's rules and may lead traffic past it"
    )]
    EarlierRule {
        /// The family.
        family: Family,
        /// The rule's preference.
        priority: u32,
    },
}

/// Node state could not be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// No netlink socket.
    #[error("cannot open a netlink socket: {0}")]
    Connect(#[source] io::Error),
    /// Reading tables of the kernel failed.
    #[error("cannot list {listed}: {source}")]
    List {
        /// `links`, `routes`, `rules` or `neighbours`.
        listed: &'static str,
        /// Netlink's answer.
        source: rtnetlink::Error,
    },
    /// A change was refused.
    #[error("cannot set {object}: {source}")]
    Apply {
        /// What was to be changed.
        object: NodeObject,
        /// Netlink's answer.
        source: rtnetlink::Error,
    },
    /// A removal was refused.
    #[error("cannot remove {object}: {source}")]
    Remove {
        /// What was to be removed.
        object: NodeObject,
        /// Netlink's answer.
        source: rtnetlink::Error,
    },
    /// A sysctl could not be read or written.
    #[error("cannot access {}: {source}", path.display())]
    Sysctl {
        /// The file.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// The kernel made a link that it then does not show.
    #[error("link {name} is not there after it was created")]
    Vanished {
        /// Interface name.
        name: &'static str,
    },
}

/// The positive errno of a netlink error, if the kernel gave one.
fn errno(error: &rtnetlink::Error) -> Option<i32> {
    match error {
        rtnetlink::Error::NetlinkError(message) => message.code.map(|code| code.get().saturating_abs()),
        _ => None,
    }
}
