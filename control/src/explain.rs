//! Why a flow is allowed or denied, in the one form that every command and the API show.
//!
//! The verdict is [`Engine::decide`]'s; the rules behind it are named by looking at every rule that selects the pod.

use std::net::IpAddr;

use policy::{
    Action, Backend, Direction, DropReason, Entry, HttpSets, Identity, PodName, Protocol, ServiceLookup, Tier,
};
use serde::{Deserialize, Serialize};

use crate::compile::LOCAL_NODE_RULE;
use crate::decide::{
    Engine, Flow, Outcome, Party, PartyError, PartyName, Reason, Request, Side, SideVerdict, Verdict,
    service_of,
};

/// Near misses shown of one side.
const MOST_NEAR_MISSES: usize = 5;

/// A flow in question, as it is written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Question {
    /// Who would open it.
    pub from: PartyName,
    /// To whom; may be a Service's address.
    pub to: PartyName,
    /// Destination port; the type for ICMP.
    pub port: u16,
    /// IP protocol number.
    pub protocol: Protocol,
    /// A request to judge.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http: Option<RequestText>,
}

/// An HTTP request in question, as it is written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RequestText {
    /// Method.
    #[serde(default = "default_method")]
    pub method: String,
    /// Request target with its query.
    #[serde(default = "default_path")]
    pub path: String,
    /// `Host` with its port; empty if there is none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub host: String,
    /// Header fields in the order sent.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<(String, String)>,
}

fn default_method() -> String {
    "GET".to_owned()
}

fn default_path() -> String {
    "/".to_owned()
}

impl Default for RequestText {
    fn default() -> Self {
        Self {
            method: default_method(),
            path: default_path(),
            host: String::new(),
            headers: Vec::new(),
        }
    }
}

impl RequestText {
    /// The headers as [`Request::headers`] wants them.
    #[must_use]
    pub fn header_fields(&self) -> Vec<(&str, &[u8])> {
        self.headers
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_bytes()))
            .collect()
    }

    /// The request with `headers`, which are its [`header_fields`](Self::header_fields).
    #[must_use]
    pub fn request<'a>(&'a self, headers: &'a [(&'a str, &'a [u8])]) -> Request<'a> {
        Request {
            method: &self.method,
            path: &self.path,
            host: &self.host,
            headers,
        }
    }
}

/// A flow that cannot be explained.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ExplainError {
    /// Nobody of that name.
    #[error("{field}: {source}")]
    Party {
        /// `from` or `to`.
        field: &'static str,
        /// What is wrong with it.
        source: PartyError,
    },
    /// The Service has no port like that.
    #[error("to: {service} is a Service's address, but has no port {port}/{}", protocol.name())]
    NoSuchPort {
        /// The address.
        service: PartyName,
        /// The port.
        port: u16,
        /// The protocol.
        protocol: Protocol,
    },
    /// The Service has nobody behind it.
    #[error("to: service {service} has no ready backend")]
    NoBackend {
        /// `namespace/name`.
        service: String,
    },
    /// The Service is not for this client.
    #[error("from: loadBalancerSourceRanges of service {service} do not cover {client}")]
    OutsideSourceRanges {
        /// `namespace/name`.
        service: String,
        /// The client's address.
        client: IpAddr,
    },
}

/// Who a side is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartyDescription {
    /// The pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<PodName>,
    /// The address, if one is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub addr: Option<IpAddr>,
    /// Identity.
    pub identity: u32,
    /// Labels of the identity.
    pub labels: Vec<String>,
}

/// Why a side drops, with the number and text of the flow log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DropDescription {
    /// Number ([`DropReason`]).
    pub code: u8,
    /// Its text.
    pub text: String,
}

impl From<DropReason> for DropDescription {
    fn from(reason: DropReason) -> Self {
        Self {
            code: reason as u8,
            text: reason.label().to_owned(),
        }
    }
}

/// In what a rule differs from the flow that it does not allow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Difference {
    /// It allows the peer, on other ports.
    Port,
    /// It allows the port, to other peers.
    Peer,
}

/// A rule that nearly allows the flow.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct NearMiss {
    /// In what it differs.
    pub differs: Difference,
    /// The rule.
    pub rule: String,
    /// Ports and protocol that it allows, as `5432/TCP`.
    pub allows: String,
}

/// One direction.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SideExplanation {
    /// Egress of the source or ingress of the destination.
    pub direction: Direction,
    /// The pod that is judged.
    pub pod: PodName,
    /// Whether it is a local endpoint, so that what is told is what this node enforces.
    pub local: bool,
    /// Policies that select the pod in this direction.
    pub policies: Vec<String>,
    /// What they say.
    pub verdict: SideVerdict,
    /// Whether the endpoint is in audit mode, so that a denial is reported and the flow forwarded all the same.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub audit: bool,
    /// What a drop is counted as.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drop_reason: Option<DropDescription>,
    /// The rules that decide, e.g. `cnp db/flask-app-to-db ingress[0]`. With [`SideVerdict::HttpDenied`]: those that were tried.
    pub rules: Vec<String>,
    /// With [`SideVerdict::DefaultDeny`]: rules that nearly allow the flow, at most 5.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub near_misses: Vec<NearMiss>,
}

/// What becomes of a flow, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explanation {
    /// Who would open it.
    pub source: PartyDescription,
    /// To whom, after service translation.
    pub destination: PartyDescription,
    /// IP protocol.
    pub protocol: String,
    /// Destination port, after service translation (ICMP: the type).
    pub port: u16,
    /// The Service that it was sent to, as `namespace/name`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// The request, if one is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http: Option<RequestText>,
    /// The outcome.
    pub verdict: Outcome,
    /// Why.
    pub reason: Reason,
    /// Egress of the source, if it is a pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub egress: Option<SideExplanation>,
    /// Ingress of the destination, if it is a pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ingress: Option<SideExplanation>,
}

impl Explanation {
    /// Whether the flow is forwarded although policy denies it: whoever denies it is in audit mode.
    #[must_use]
    pub fn is_audited(&self) -> bool {
        let denying = || {
            let sides = [&self.egress, &self.ingress].into_iter().flatten();
            sides.filter(|side| !side.verdict.is_allowed())
        };
        denying().next().is_some() && denying().all(|side| side.audit)
    }
}

impl Engine<'_> {
    /// Explains a flow. A Service as destination gives one explanation per backend.
    ///
    /// # Errors
    /// [`ExplainError`] names what is not known.
    pub fn explain(&mut self, question: &Question) -> Result<Vec<Explanation>, ExplainError> {
        let of = |field| move |source| ExplainError::Party { field, source };
        let headers = question
            .http
            .as_ref()
            .map(RequestText::header_fields)
            .unwrap_or_default();
        let flow = Flow {
            from: self.party_named(&question.from).map_err(of("from"))?,
            to: self.party_named(&question.to).map_err(of("to"))?,
            port: question.port,
            protocol: question.protocol,
            request: question.http.as_ref().map(|http| http.request(&headers)),
        };
        let snapshot = self.shared_snapshot();
        match service_of(&snapshot, &flow) {
            ServiceLookup::NotService => Ok(vec![self.explain_plain(question, &flow, None)]),
            ServiceLookup::NoSuchPort => Err(ExplainError::NoSuchPort {
                service: question.to.clone(),
                port: flow.port,
                protocol: flow.protocol,
            }),
            ServiceLookup::Service(service) if service.backends.is_empty() => Err(ExplainError::NoBackend {
                service: service.name.clone(),
            }),
            ServiceLookup::Service(service) => {
                if let Some(client) = flow.from.addr.filter(|addr| !service.admits(*addr)) {
                    return Err(ExplainError::OutsideSourceRanges {
                        service: service.name.clone(),
                        client,
                    });
                }
                let explain = |backend: &Backend| {
                    let flow = self.towards(&flow, *backend);
                    self.explain_plain(question, &flow, Some(service.name.clone()))
                };
                Ok(service.backends.iter().map(explain).collect())
            }
        }
    }

    fn explain_plain(
        &mut self,
        question: &Question,
        flow: &Flow<'_>,
        service: Option<String>,
    ) -> Explanation {
        let verdict: Verdict = self.decide_plain(flow);
        let egress = verdict
            .egress
            .and_then(|side| self.explain_side(flow, Direction::Egress, side));
        let ingress = verdict
            .ingress
            .and_then(|side| self.explain_side(flow, Direction::Ingress, side));
        Explanation {
            source: self.describe(&flow.from),
            destination: self.describe(&flow.to),
            protocol: flow.protocol.name().into_owned(),
            port: flow.port,
            service,
            http: question.http.clone(),
            verdict: verdict.outcome,
            reason: verdict.reason,
            egress,
            ingress,
        }
    }

    fn describe(&self, party: &Party) -> PartyDescription {
        let labels = match (
            self.snapshot().identities.get(&party.identity),
            party.identity.reserved_name(),
        ) {
            (Some(labels), _) => labels.to_vec(),
            (None, Some(name)) => vec![format!("reserved:{name}")],
            (None, None) => Vec::new(),
        };
        PartyDescription {
            pod: self.pod(party).map(|pod| pod.name.clone()),
            addr: party.addr,
            identity: party.identity.0,
            labels,
        }
    }

    fn explain_side(&mut self, flow: &Flow<'_>, direction: Direction, side: Side) -> Option<SideExplanation> {
        let (judged, peer) = match direction {
            Direction::Egress => (flow.from, flow.to.identity),
            Direction::Ingress => (flow.to, flow.from.identity),
        };
        let pod = self.pod(&judged)?;
        let (name, local, audit, subject) = (
            pod.name.clone(),
            pod.endpoint.is_some(),
            pod.is_audited(),
            pod.subject?,
        );
        let mut http = HttpSets::default();
        let judged = self.judged(&subject, direction, &mut http);
        let covers = |entry: &Entry| entry.covers(peer, flow.protocol, flow.port);
        let passes = |entry: &Entry| match (entry.action, &flow.request) {
            (Action::AllowHttp(set), Some(request)) => http
                .get(set)
                .is_some_and(|set| set.decide(&request.for_rules()).is_some()),
            _ => false,
        };
        let same = |entry: &Entry| match side.verdict {
            SideVerdict::NotEnforced | SideVerdict::DefaultDeny => false,
            SideVerdict::Allowed => entry.action == Action::Allow,
            SideVerdict::Denied => entry.action == Action::Deny,
            SideVerdict::HttpAllowed => passes(entry),
            SideVerdict::HttpJudged | SideVerdict::HttpDenied => matches!(entry.action, Action::AllowHttp(_)),
        };
        let deciding = judged
            .entries
            .iter()
            .find(|entry| Some(entry.rule) == side.rule && covers(entry));
        // In the other tiers the first rule decides alone.
        let united = deciding.is_some_and(|entry| entry.tier == Tier::Normal);
        let mut rules: Vec<String> = judged
            .entries
            .iter()
            .filter(|entry| united && entry.tier == Tier::Normal && covers(entry) && same(entry))
            .map(|entry| self.rule(entry.rule).to_owned())
            .collect();
        if rules.is_empty() {
            rules.extend(side.rule.map(|rule| self.rule(rule).to_owned()));
        }
        rules.dedup();
        let mut near_misses = Vec::new();
        if side.verdict == SideVerdict::DefaultDeny {
            let allowing = judged
                .entries
                .iter()
                .filter(|entry| matches!(entry.action, Action::Allow | Action::AllowHttp(_)));
            near_misses.extend(allowing.filter_map(|entry| self.near_miss(entry, peer, flow)));
            near_misses.sort();
            near_misses.dedup();
            near_misses.truncate(MOST_NEAR_MISSES);
        }
        Some(SideExplanation {
            direction,
            pod: name,
            local,
            policies: judged.policies,
            verdict: side.verdict,
            audit,
            drop_reason: side.verdict.drop_reason().map(Into::into),
            rules,
            near_misses,
        })
    }

    fn near_miss(&self, entry: &Entry, peer: Identity, flow: &Flow<'_>) -> Option<NearMiss> {
        let (first, last) = (*entry.ports.start(), *entry.ports.end());
        let differs = if entry.covers(peer, entry.protocol, first) {
            Difference::Port
        } else if (entry.protocol == Protocol::ANY || entry.protocol == flow.protocol)
            && entry.ports.contains(&flow.port)
        {
            Difference::Peer
        } else {
            return None;
        };
        let rule = self.rule(entry.rule);
        if rule == LOCAL_NODE_RULE {
            return None;
        }
        let protocol = entry.protocol.name();
        let allows = match (first, last) {
            (0, u16::MAX) => format!("every port/{protocol}"),
            (first, last) if first == last => format!("{first}/{protocol}"),
            (first, last) => format!("{first}-{last}/{protocol}"),
        };
        Some(NearMiss {
            differs,
            rule: rule.to_owned(),
            allows,
        })
    }
}
