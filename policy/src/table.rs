//! Compiled lookup of one endpoint and direction.

mod builder;
#[cfg(test)]
mod tests;

use std::net::IpAddr;
use std::sync::Arc;

use hashbrown::HashMap;
use serde::{Deserialize, Serialize};

pub use self::builder::{Action, BuildError, Entry, HttpSets, MOST_DECISIONS, Peers, Tier};
use crate::{Direction, DropReason, EndpointKey, HttpRuleSet, Identity, PodName, Protocol};

/// Changes when an endpoint's policy (or its own identity) changes; conntrack entries that carry an older one are re-decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize)]
pub struct PolicyGeneration(pub u64);

/// Index of a rule's description in [`crate::Snapshot::rule`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct RuleId(pub u32);

/// Index of an [`HttpRuleSet`] in its [`EndpointPolicy`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct HttpIndex(pub u32);

/// What a table says of a new flow in one direction.
#[must_use]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Decision {
    /// Allowed; `None` where no rule says anything and there is no default deny.
    Allow(Option<RuleId>),
    /// Allowed as long as every HTTP request matches the rule set.
    AllowHttp(HttpIndex, RuleId),
    /// No rule allows it (default deny).
    DefaultDeny,
    /// A deny rule matches.
    Deny(RuleId),
}

impl Decision {
    /// The drop reason of a denial.
    #[must_use]
    pub const fn drop_reason(self) -> Option<DropReason> {
        match self {
            Self::Allow(_) | Self::AllowHttp(..) => None,
            Self::DefaultDeny => Some(DropReason::PolicyDenied),
            Self::Deny(_) => Some(DropReason::PolicyDenyRule),
        }
    }

    /// The rule that decided.
    #[must_use]
    pub const fn rule(self) -> Option<RuleId> {
        match self {
            Self::Allow(rule) => rule,
            Self::AllowHttp(_, rule) | Self::Deny(rule) => Some(rule),
            Self::DefaultDeny => None,
        }
    }
}

/// Compiled lookup of one direction.
///
/// Per protocol the ports are cut into disjoint intervals; each interval points to a cell that holds the decision for every
/// peer identity some rule names and one decision for all others. A decision is a binary search and one hash probe.
/// [`PolicyTable::build`] makes it from a list of [`Entry`]s.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PolicyTable {
    enforced: bool,
    /// Protocols that some entry names, by rising number.
    protocols: Vec<(Protocol, PortMap)>,
    /// Every other protocol: entries for any protocol only.
    other: PortMap,
    cells: Vec<Cell>,
}

/// Disjoint port intervals that together cover `0..=65535`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct PortMap {
    /// Last port of each interval, rising; the last one is 65535.
    pub(crate) ends: Vec<u16>,
    /// Index of each interval's cell.
    pub(crate) cells: Vec<u32>,
}

/// Decisions of one port interval.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Cell {
    /// For identities that `peers` does not name.
    pub(crate) others: Decision,
    /// For identities whose decision differs.
    pub(crate) peers: HashMap<Identity, Decision>,
}

impl PolicyTable {
    /// A table that lets everything pass: no policy selects the endpoint in this direction.
    #[must_use]
    pub fn unenforced() -> Self {
        Self::default()
    }

    /// A table that denies everything by default.
    #[must_use]
    pub fn deny_all() -> Self {
        Self {
            enforced: true,
            ..Self::default()
        }
    }

    /// Whether rules judge the direction.
    #[must_use]
    pub fn is_enforced(&self) -> bool {
        self.enforced
    }

    /// Number of port intervals and of (interval, peer) decisions held, for diagnostics.
    #[must_use]
    pub fn size(&self) -> (usize, usize) {
        let intervals = self.other.ends.len()
            + self
                .protocols
                .iter()
                .map(|(_, map)| map.ends.len())
                .sum::<usize>();
        (
            intervals,
            self.cells.iter().map(|cell| cell.peers.len() + 1).sum(),
        )
    }

    /// Decides a new flow with `peer` on `port` (ICMP: the type) of the endpoint (ingress) or of the peer (egress).
    /// Allocates nothing; cost does not depend on the number of policies.
    pub fn decide(&self, peer: Identity, protocol: Protocol, port: u16) -> Decision {
        if !self.enforced {
            return Decision::Allow(None);
        }
        let map = self
            .protocols
            .iter()
            .find(|(p, _)| *p == protocol)
            .map_or(&self.other, |(_, map)| map);
        let interval = map.ends.partition_point(|end| *end < port);
        let cell = map
            .cells
            .get(interval)
            .and_then(|cell| self.cells.get(*cell as usize));
        let Some(cell) = cell else {
            return Decision::DefaultDeny;
        };
        if peer == Identity::UNKNOWN {
            // Nobody's identity: wildcard denies bite, nothing allows it.
            return match cell.others {
                denied @ Decision::Deny(_) => denied,
                _ => Decision::DefaultDeny,
            };
        }
        cell.peers.get(&peer).copied().unwrap_or(cell.others)
    }

    pub(crate) fn from_parts(
        enforced: bool,
        protocols: Vec<(Protocol, PortMap)>,
        other: PortMap,
        cells: Vec<Cell>,
    ) -> Self {
        Self {
            enforced,
            protocols,
            other,
            cells,
        }
    }

    pub(crate) fn parts(&self) -> (&[(Protocol, PortMap)], &PortMap, &[Cell]) {
        (&self.protocols, &self.other, &self.cells)
    }
}

/// Everything a worker needs to judge one endpoint.
#[derive(Debug, Clone)]
pub struct EndpointPolicy {
    /// Whose policy this is; a worker ignores it for another occupant of the slot.
    pub key: EndpointKey,
    /// The pod.
    pub pod: PodName,
    /// The pod's identity, by its IPv4 address where it has one.
    pub identity: Identity,
    /// The same by its IPv6 address: rules that name prefixes can tell one family from the other.
    pub identity6: Identity,
    /// Changes with anything that could change a decision for this endpoint.
    pub generation: PolicyGeneration,
    /// Towards the endpoint; endpoints of one identity share it.
    pub ingress: Arc<PolicyTable>,
    /// From the endpoint; endpoints of one identity share it.
    pub egress: Arc<PolicyTable>,
    /// Rule sets that decisions refer to by [`HttpIndex`].
    pub http: Vec<Arc<HttpRuleSet>>,
    /// Whether the endpoint only audits: what its policy denies is forwarded and reported (Cilium's `policy-audit-mode`).
    pub audit: bool,
}

impl EndpointPolicy {
    /// The identity that the pod has for others at one of its addresses.
    #[must_use]
    pub fn identity_at(&self, addr: IpAddr) -> Identity {
        if addr.is_ipv6() {
            self.identity6
        } else {
            self.identity
        }
    }

    /// Decides a new flow in `direction`.
    pub fn decide(&self, direction: Direction, peer: Identity, protocol: Protocol, port: u16) -> Decision {
        match direction {
            Direction::Ingress => self.ingress.decide(peer, protocol, port),
            Direction::Egress => self.egress.decide(peer, protocol, port),
        }
    }

    /// Whether both give the same decisions for the same endpoint, whatever their generations.
    #[must_use]
    pub fn same_content(&self, other: &Self) -> bool {
        self.key == other.key && self.pod == other.pod && self.same_decisions(other)
    }

    /// Whether both give the same decisions and have the same identity, whoever's policies they are.
    #[must_use]
    pub fn same_decisions(&self, other: &Self) -> bool {
        let same = |a: &Arc<PolicyTable>, b: &Arc<PolicyTable>| Arc::ptr_eq(a, b) || a == b;
        self.identity == other.identity
            && self.audit == other.audit
            && self.identity6 == other.identity6
            && same(&self.ingress, &other.ingress)
            && same(&self.egress, &other.egress)
            && self.http.len() == other.http.len()
            && self
                .http
                .iter()
                .zip(&other.http)
                .all(|(a, b)| Arc::ptr_eq(a, b) || a.rules() == b.rules())
    }

    /// The rule set behind an index of this policy.
    #[must_use]
    pub fn http(&self, index: HttpIndex) -> Option<&Arc<HttpRuleSet>> {
        self.http.get(index.0 as usize)
    }
}
