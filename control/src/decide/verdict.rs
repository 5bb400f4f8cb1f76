//! The words of an answer.

use policy::{Backend, DropReason, RuleId};
use serde::{Deserialize, Serialize};

/// What becomes of a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// It passes.
    Allow,
    /// Its connection passes, the request does not.
    L7Deny,
    /// Nothing of it passes.
    Deny,
}

impl Outcome {
    /// The word for it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::L7Deny => "l7-deny",
            Self::Deny => "deny",
        }
    }
}

/// Why.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reason {
    /// Neither side is a pod: nothing judges it.
    NotJudged,
    /// A pod reaches itself: no policy is asked.
    SamePod,
    /// No policy selects a pod in its direction.
    NoPolicy,
    /// A rule allows it, and none denies it.
    Allowed,
    /// Allowed, and every request must match an HTTP rule; none was asked for.
    HttpJudged,
    /// No HTTP rule allows the request.
    HttpDenied,
    /// Policies select the pod and no rule allows the flow.
    DefaultDeny,
    /// A deny rule covers it.
    DenyRule,
    /// The address is a Service's, but not with this port.
    UnknownServicePort,
    /// The Service has nobody behind it.
    NoBackend,
    /// The Service's `loadBalancerSourceRanges` do not cover the sender.
    OutsideSourceRanges,
    /// No pod has the name.
    UnknownPod,
}

impl Reason {
    /// The word for it; stable.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::NotJudged => "not-judged",
            Self::SamePod => "same-pod",
            Self::NoPolicy => "no-policy",
            Self::Allowed => "allowed",
            Self::HttpJudged => "http-judged",
            Self::HttpDenied => "http-denied",
            Self::DefaultDeny => "default-deny",
            Self::DenyRule => "deny-rule",
            Self::UnknownServicePort => "unknown-service-port",
            Self::NoBackend => "no-backend",
            Self::OutsideSourceRanges => "outside-source-ranges",
            Self::UnknownPod => "unknown-pod",
        }
    }
}

/// What one side's policy says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SideVerdict {
    /// No policy selects the pod in this direction.
    NotEnforced,
    /// A rule allows the flow, or none denies it where no policy asks for default deny.
    Allowed,
    /// HTTP rules cover the flow and one of them allows the request.
    HttpAllowed,
    /// HTTP rules cover the flow; which requests pass depends on them.
    HttpJudged,
    /// HTTP rules cover the flow and none allows the request.
    HttpDenied,
    /// A deny rule covers the flow.
    Denied,
    /// Policies select the pod and no rule allows the flow.
    DefaultDeny,
}

impl SideVerdict {
    /// Whether the flow (and the request, if one is given) may pass.
    #[must_use]
    pub const fn is_allowed(self) -> bool {
        self.drop_reason().is_none()
    }

    /// Whether it is for this side that a flow has this outcome.
    #[must_use]
    pub const fn decides(self, outcome: Outcome) -> bool {
        match outcome {
            Outcome::Allow => true,
            Outcome::L7Deny => matches!(self, Self::HttpDenied),
            Outcome::Deny => matches!(self, Self::Denied | Self::DefaultDeny),
        }
    }

    /// What the dataplane would count the drop as.
    #[must_use]
    pub const fn drop_reason(self) -> Option<DropReason> {
        match self {
            Self::NotEnforced | Self::Allowed | Self::HttpAllowed | Self::HttpJudged => None,
            Self::HttpDenied => Some(DropReason::HttpDenied),
            Self::Denied => Some(DropReason::PolicyDenyRule),
            Self::DefaultDeny => Some(DropReason::PolicyDenied),
        }
    }
}

/// One side and the rule that decides; where several rules say the same, one of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Side {
    /// What it says.
    pub verdict: SideVerdict,
    /// The rule, to be read with [`super::Engine::rule`]; none for default deny.
    pub rule: Option<RuleId>,
}

/// The answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verdict {
    /// What becomes of the flow.
    pub outcome: Outcome,
    /// Why.
    pub reason: Reason,
    /// The source's policy, if it is a pod's.
    pub egress: Option<Side>,
    /// The destination's policy, if it is a pod's.
    pub ingress: Option<Side>,
    /// Of a flow to a Service: the backend that the rest is about. The worst one: any backend may be chosen.
    pub backend: Option<Backend>,
}

impl Verdict {
    /// An answer that no policy gives.
    #[must_use]
    pub const fn of(outcome: Outcome, reason: Reason) -> Self {
        Self {
            outcome,
            reason,
            egress: None,
            ingress: None,
            backend: None,
        }
    }

    /// The rules that decide, egress first: of a flow that does not pass only those that are against it.
    pub fn rules(&self) -> impl Iterator<Item = RuleId> {
        let outcome = self.outcome;
        [self.egress, self.ingress]
            .into_iter()
            .flatten()
            .filter(move |side| side.verdict.decides(outcome))
            .filter_map(|side| side.rule)
    }

    pub(super) fn of_sides(egress: Option<Side>, ingress: Option<Side>) -> Self {
        let sides = || [egress, ingress].into_iter().flatten().map(|side| side.verdict);
        let any = |verdict| sides().any(|side| side == verdict);
        // What denies the connection comes before what denies a request on it.
        let denial = sides().find_map(|side| match side {
            SideVerdict::Denied => Some(Reason::DenyRule),
            SideVerdict::DefaultDeny => Some(Reason::DefaultDeny),
            _ => None,
        });
        let (outcome, reason) = if let Some(reason) = denial {
            (Outcome::Deny, reason)
        } else if any(SideVerdict::HttpDenied) {
            (Outcome::L7Deny, Reason::HttpDenied)
        } else if any(SideVerdict::HttpJudged) {
            (Outcome::Allow, Reason::HttpJudged)
        } else if sides().any(|side| side != SideVerdict::NotEnforced) {
            (Outcome::Allow, Reason::Allowed)
        } else if egress.is_some() || ingress.is_some() {
            (Outcome::Allow, Reason::NoPolicy)
        } else {
            (Outcome::Allow, Reason::NotJudged)
        };
        Self {
            egress,
            ingress,
            ..Self::of(outcome, reason)
        }
    }
}
