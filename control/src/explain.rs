//! Why a flow is allowed or denied: the deciding rules of both directions, from the rules themselves.

use policy::{Action, Direction, Entry, HttpRequest, HttpSets, Identity, PodName, Protocol, RuleId};
use serde::Serialize;

use crate::compile::{self, Resolver, RuleNames, Subject};
use crate::index::Index;
use crate::labels::Labels;

/// A flow that cannot be explained.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ExplainError {
    /// No object and no endpoint of that name.
    #[error("pod {0} is not known")]
    UnknownPod(PodName),
    /// The pod has its node's identity; policies do not select it.
    #[error("pod {0} is on its node's network: policies do not select it")]
    HostNetwork(PodName),
}

/// What one side says of the flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum SideVerdict {
    /// No policy selects the pod in this direction.
    NotEnforced,
    /// A rule allows the flow.
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
        matches!(
            self,
            Self::NotEnforced | Self::Allowed | Self::HttpAllowed | Self::HttpJudged
        )
    }
}

/// One direction.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SideExplanation {
    /// Egress of the source or ingress of the destination.
    pub direction: Direction,
    /// The pod that is judged.
    pub pod: PodName,
    /// Its identity.
    pub identity: Identity,
    /// Its labels; none when its object is not known.
    pub labels: Option<Labels>,
    /// Policies that select the pod in this direction.
    pub policies: Vec<String>,
    /// What they say.
    pub verdict: SideVerdict,
    /// The rules that decide, e.g. `cnp db/flask-app-to-db ingress[0]`. With [`SideVerdict::HttpDenied`]: those that were tried.
    pub rules: Vec<String>,
}

/// Both directions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Explanation {
    /// Whether both directions allow it.
    pub allowed: bool,
    /// IP protocol.
    pub protocol: String,
    /// Destination port, after service translation (ICMP: the type).
    pub port: u16,
    /// Method and path, if given.
    pub request: Option<(String, String)>,
    /// Egress of the source.
    pub egress: SideExplanation,
    /// Ingress of the destination.
    pub ingress: SideExplanation,
}

/// Explains a new flow `from` a pod `to` a pod, local or not.
///
/// # Errors
/// [`ExplainError`] when either pod is unknown or beyond policy.
pub fn explain(
    index: &Index,
    from: &PodName,
    to: &PodName,
    port: u16,
    protocol: Protocol,
    request: Option<HttpRequest<'_>>,
) -> Result<Explanation, ExplainError> {
    let resolver = Resolver::new(index);
    let (source, destination) = (subject(index, from)?, subject(index, to)?);
    let flow = Flow {
        index,
        resolver: &resolver,
        protocol,
        port,
        request,
    };
    let egress = flow.side(Direction::Egress, from, &source, destination.identity);
    let ingress = flow.side(Direction::Ingress, to, &destination, source.identity);
    Ok(Explanation {
        allowed: egress.verdict.is_allowed() && ingress.verdict.is_allowed(),
        protocol: protocol.name().into_owned(),
        port,
        request: request.map(|request| (request.method.to_owned(), request.path.to_owned())),
        egress,
        ingress,
    })
}

fn subject<'a>(index: &'a Index, name: &PodName) -> Result<Subject<'a>, ExplainError> {
    if let Some(endpoint) = index.endpoints().values().find(|endpoint| endpoint.pod == *name) {
        return Ok(Subject::of(index.pod_of(endpoint)));
    }
    match index.pods().get(name) {
        Some(indexed) if indexed.pod.host_network => Err(ExplainError::HostNetwork(name.clone())),
        Some(indexed) => Ok(Subject::of(Some(indexed))),
        None => Err(ExplainError::UnknownPod(name.clone())),
    }
}

struct Flow<'a> {
    index: &'a Index,
    resolver: &'a Resolver<'a>,
    protocol: Protocol,
    port: u16,
    request: Option<HttpRequest<'a>>,
}

impl Flow<'_> {
    fn side(
        &self,
        direction: Direction,
        pod: &PodName,
        subject: &Subject<'_>,
        peer: Identity,
    ) -> SideExplanation {
        let (mut http, mut names) = (HttpSets::default(), RuleNames::new(&[]));
        let judged = compile::entries(
            self.index,
            self.resolver,
            subject,
            direction,
            &mut http,
            &mut names,
        );
        let covering: Vec<&Entry> = judged
            .entries
            .iter()
            .filter(|entry| entry.covers(peer, self.protocol, self.port))
            .collect();
        let of = |wanted: fn(&Action) -> bool| -> Vec<RuleId> {
            covering
                .iter()
                .filter(|entry| wanted(&entry.action))
                .map(|entry| entry.rule)
                .collect()
        };
        let denies = of(|action| matches!(action, Action::Deny));
        let allows = of(|action| matches!(action, Action::Allow));
        let tried = of(|action| matches!(action, Action::AllowHttp(_)));
        let passing: Vec<RuleId> = covering
            .iter()
            .filter(|entry| match (entry.action, &self.request) {
                (Action::AllowHttp(set), Some(request)) => {
                    http.get(set).is_some_and(|set| set.decide(request).is_some())
                }
                _ => false,
            })
            .map(|entry| entry.rule)
            .collect();
        let (verdict, rules) = if !judged.enforced {
            (SideVerdict::NotEnforced, Vec::new())
        } else if !denies.is_empty() {
            (SideVerdict::Denied, denies)
        } else if !allows.is_empty() {
            (SideVerdict::Allowed, allows)
        } else if !judged.default_deny {
            (SideVerdict::Allowed, tried)
        } else if tried.is_empty() {
            (SideVerdict::DefaultDeny, Vec::new())
        } else if self.request.is_none() {
            (SideVerdict::HttpJudged, tried)
        } else if passing.is_empty() {
            (SideVerdict::HttpDenied, tried)
        } else {
            (SideVerdict::HttpAllowed, passing)
        };
        let mut rules: Vec<String> = rules
            .iter()
            .filter_map(|rule| {
                names
                    .rules()
                    .get(rule.0 as usize)
                    .map(|rule| rule.name.to_string())
            })
            .collect();
        rules.dedup();
        SideExplanation {
            direction,
            pod: pod.clone(),
            identity: subject.identity,
            labels: subject.labels.cloned(),
            policies: judged.policies,
            verdict,
            rules,
        }
    }
}
