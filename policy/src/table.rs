//! Compiled lookup of one endpoint and direction.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

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
    /// Allowed; `None` when the direction is not enforced.
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

/// Compiled lookup of one direction. Construction is `control`'s business (see `compile`).
#[derive(Debug, Clone, Default)]
pub struct PolicyTable {
    enforced: bool,
}

impl PolicyTable {
    /// Decides a new flow with `peer` on `port` (ICMP: the type) of the endpoint (ingress) or of the peer (egress).
    /// Allocates nothing; cost does not depend on the number of policies.
    pub fn decide(&self, _peer: Identity, _protocol: Protocol, _port: u16) -> Decision {
        if self.enforced { Decision::DefaultDeny } else { Decision::Allow(None) }
    }
}

/// Everything a worker needs to judge one endpoint.
#[derive(Debug, Clone)]
pub struct EndpointPolicy {
    /// Whose policy this is; a worker ignores it for another occupant of the slot.
    pub key: EndpointKey,
    /// The pod.
    pub pod: PodName,
    /// The pod's identity.
    pub identity: Identity,
    /// Changes with anything that could change a decision for this endpoint.
    pub generation: PolicyGeneration,
    /// Towards the endpoint.
    pub ingress: PolicyTable,
    /// From the endpoint.
    pub egress: PolicyTable,
    /// Rule sets that decisions refer to by [`HttpIndex`].
    pub http: Vec<Arc<HttpRuleSet>>,
}

impl EndpointPolicy {
    /// Decides a new flow in `direction`.
    pub fn decide(&self, direction: Direction, peer: Identity, protocol: Protocol, port: u16) -> Decision {
        match direction {
            Direction::Ingress => self.ingress.decide(peer, protocol, port),
            Direction::Egress => self.egress.decide(peer, protocol, port),
        }
    }

    /// The rule set behind an index of this policy.
    #[must_use]
    pub fn http(&self, index: HttpIndex) -> Option<&Arc<HttpRuleSet>> {
        self.http.get(index.0 as usize)
    }
}
