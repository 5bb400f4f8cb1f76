//! What becomes of a flow: the one place that answers it, from the very tables that workers use.
//!
//! An [`Engine`] compiles the tables of a pod when it is first asked of it; pods of one identity and with the same named ports share
//! them. Where a local endpoint is in the published snapshot, its tables are taken from there: what is enforced is what is told.
//!
//! Who the sides are follows the dataplane: a pod is known by name or by any of its addresses, every other address by the ipcache. Only
//! pods are judged; nodes and whatever is outside are peers. A pod of the host's network is its node: `host` as long as no other node
//! is known, else `remote-node`, which is the one that is not always let in. Source addresses are taken at their word, and protocols
//! that workers do not carry (SCTP) are judged like any other.

mod party;
mod verdict;

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use policy::{
    Backend, Decision, Direction, EndpointKey, EndpointPolicy, HttpRequest, HttpSets, Identity, PodName,
    Protocol, Revision, RuleId, ServiceLookup, Slot, SlotGeneration, Snapshot,
};

pub use self::party::{PartyError, PartyName, PartyNameError};
pub use self::verdict::{Outcome, Reason, Side, SideVerdict, Verdict};
use crate::compile::{self, Judged, Resolver, RuleNames, Subject};
use crate::index::Index;
use crate::labels::Labels;

/// One side of a flow, resolved by an [`Engine`] and meaningful to it only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Party {
    pub(crate) pod: Option<usize>,
    pub(crate) identity: Identity,
    /// The address that was asked for or, of a pod, its first one.
    pub(crate) addr: Option<IpAddr>,
    /// Whether it was named by its address: only then it can be a Service's.
    pub(crate) by_addr: bool,
}

impl Party {
    /// Its identity.
    #[must_use]
    pub const fn identity(&self) -> Identity {
        self.identity
    }
}

/// An HTTP request in question.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// Method.
    pub method: &'a str,
    /// Request target with its query, spelled as the gate lets it through.
    pub path: &'a str,
    /// `Host` with its port; empty if there is none.
    pub host: &'a str,
    /// Header fields in the order sent.
    pub headers: &'a [(&'a str, &'a [u8])],
}

impl<'a> Request<'a> {
    /// The request as rules are asked of it.
    pub(crate) const fn for_rules(&self) -> HttpRequest<'a> {
        HttpRequest {
            method: self.method,
            path: self.path,
            host: self.host,
            headers: self.headers,
        }
    }
}

/// A new flow.
#[derive(Debug, Clone, Copy)]
pub struct Flow<'a> {
    /// Who opens it.
    pub from: Party,
    /// To whom; may be a Service's address.
    pub to: Party,
    /// Destination port; the type for ICMP.
    pub port: u16,
    /// IP protocol.
    pub protocol: Protocol,
    /// What is asked over it. Without one, flows under HTTP rules are allowed and [`Reason::HttpJudged`].
    pub request: Option<Request<'a>>,
}

/// The Service that a flow is for: only an address can be a Service's.
pub(crate) fn service_of<'s>(snapshot: &'s Snapshot, flow: &Flow<'_>) -> ServiceLookup<'s> {
    match flow.to.addr.filter(|_| flow.to.by_addr) {
        Some(addr) => snapshot.services.lookup(addr, flow.port, flow.protocol),
        None => ServiceLookup::NotService,
    }
}

/// A pod that flows can be asked of.
#[derive(Debug)]
pub(crate) struct KnownPod<'a> {
    pub(crate) name: PodName,
    pub(crate) identity: Identity,
    /// Its identity by its IPv6 address.
    identity6: Identity,
    pub(crate) addresses: Vec<IpAddr>,
    /// What its policy depends on; none if it is on its node's network.
    pub(crate) subject: Option<Subject<'a>>,
    /// The local endpoint that it is.
    pub(crate) endpoint: Option<EndpointKey>,
    policy: Option<Arc<EndpointPolicy>>,
}

impl KnownPod<'_> {
    pub(crate) fn identity_at(&self, addr: IpAddr) -> Identity {
        if addr.is_ipv6() {
            self.identity6
        } else {
            self.identity
        }
    }

    /// Whether what its policy denies is forwarded all the same.
    pub(crate) fn is_audited(&self) -> bool {
        self.policy.as_ref().is_some_and(|policy| policy.audit)
    }
}

/// Answers for one state of the [`Index`].
#[derive(Debug)]
pub struct Engine<'a> {
    index: &'a Index,
    snapshot: Arc<Snapshot>,
    resolver: Resolver<'a>,
    names: RuleNames,
    pods: Vec<KnownPod<'a>>,
    by_name: HashMap<String, usize>,
    by_addr: HashMap<IpAddr, usize>,
    compiled: HashMap<Subject<'a>, Arc<EndpointPolicy>>,
}

impl<'a> Engine<'a> {
    /// An engine over an index that nothing has been published of.
    #[must_use]
    pub fn new(index: &'a Index) -> Self {
        Self::enforced(index, Arc::new(compile::compile(index, &Snapshot::default())))
    }

    /// An engine over an index and the snapshot that is in force: tables in it are used as they are.
    #[must_use]
    pub fn enforced(index: &'a Index, snapshot: Arc<Snapshot>) -> Self {
        let mut engine = Self {
            index,
            resolver: Resolver::new(index),
            names: RuleNames::new(&snapshot.rules),
            snapshot,
            pods: Vec::new(),
            by_name: HashMap::new(),
            by_addr: HashMap::new(),
            compiled: HashMap::new(),
        };
        engine.list_pods();
        engine
    }

    /// In the order of the ipcache: of several pods with one address the last one has it.
    fn list_pods(&mut self) {
        let index = self.index;
        let attached: HashMap<&PodName, _> = index.endpoints().values().map(|e| (&e.pod, e)).collect();
        let mut objects: Vec<_> = index
            .pods()
            .iter()
            .filter(|(name, _)| !attached.contains_key(name))
            .collect();
        objects.sort_by_key(|(name, indexed)| (!indexed.pod.deleting, indexed.pod.created, *name));
        let node = if index.nodes().keys().all(|node| *node == index.config().node_name) {
            Identity::HOST
        } else {
            Identity::REMOTE_NODE
        };
        let objects = objects.into_iter().map(|(name, indexed)| KnownPod {
            name: name.clone(),
            identity: if indexed.pod.host_network {
                node
            } else {
                indexed.identity
            },
            identity6: if indexed.pod.host_network {
                node
            } else {
                indexed.identity6
            },
            addresses: indexed.pod.addresses.clone(),
            subject: (!indexed.pod.host_network).then(|| Subject::of(Some(indexed))),
            endpoint: None,
            policy: None,
        });
        let snapshot = Arc::clone(&self.snapshot);
        let local = index.endpoints().values().map(|endpoint| {
            let subject = Subject::of(index.pod_of(endpoint));
            let policy = snapshot.endpoint(endpoint.key).cloned();
            KnownPod {
                name: endpoint.pod.clone(),
                identity: policy.as_ref().map_or(subject.identity, |policy| policy.identity),
                identity6: policy
                    .as_ref()
                    .map_or(subject.identity6, |policy| policy.identity6),
                addresses: endpoint.addresses.clone(),
                subject: Some(subject),
                endpoint: Some(endpoint.key),
                policy,
            }
        });
        self.pods = objects.chain(local).collect();
        for (number, pod) in self.pods.iter().enumerate() {
            self.by_name.insert(pod.name.to_string(), number);
            // An address that the ipcache gives to somebody else is not this pod's.
            let own = pod
                .addresses
                .iter()
                .filter(|addr| self.snapshot.ipcache.lookup(**addr) == pod.identity_at(**addr));
            self.by_addr.extend(own.map(|addr| (*addr, number)));
        }
    }

    /// What flows are asked of.
    #[must_use]
    pub fn index(&self) -> &'a Index {
        self.index
    }

    /// The snapshot behind it.
    #[must_use]
    pub fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    /// Description of a rule, e.g. `cnp db/flask-app-to-db ingress[0]`; empty for a number that is not from this engine.
    #[must_use]
    pub fn rule(&self, id: RuleId) -> &str {
        self.names
            .rules()
            .get(id.0 as usize)
            .map_or("", |rule| &rule.name)
    }

    pub(crate) fn pod(&self, party: &Party) -> Option<&KnownPod<'a>> {
        self.pods.get(party.pod?)
    }

    /// The snapshot, to be read while the engine compiles.
    pub(crate) fn shared_snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(&self.snapshot)
    }

    /// Decides a flow. To a Service: by the worst of its backends.
    pub fn decide(&mut self, flow: &Flow<'_>) -> Verdict {
        if !flow.to.by_addr {
            return self.decide_plain(flow);
        }
        let snapshot = self.shared_snapshot();
        match service_of(&snapshot, flow) {
            ServiceLookup::NotService => self.decide_plain(flow),
            ServiceLookup::NoSuchPort => Verdict::of(Outcome::Deny, Reason::UnknownServicePort),
            ServiceLookup::Service(service) if flow.from.addr.is_some_and(|addr| !service.admits(addr)) => {
                Verdict::of(Outcome::Deny, Reason::OutsideSourceRanges)
            }
            ServiceLookup::Service(service) => {
                let mut worst: Option<Verdict> = None;
                for backend in &service.backends {
                    let verdict = Verdict {
                        backend: Some(*backend),
                        ..self.decide_plain(&self.towards(flow, *backend))
                    };
                    if worst
                        .is_none_or(|worst| (worst.outcome, worst.reason) < (verdict.outcome, verdict.reason))
                    {
                        worst = Some(verdict);
                    }
                }
                worst.unwrap_or(Verdict::of(Outcome::Deny, Reason::NoBackend))
            }
        }
    }

    /// The flow after translation to `backend`.
    pub(crate) fn towards<'f>(&self, flow: &Flow<'f>, backend: Backend) -> Flow<'f> {
        Flow {
            to: self.party_at(backend.addr),
            port: backend.port,
            ..*flow
        }
    }

    /// Decides a flow that is not translated any more.
    pub(crate) fn decide_plain(&mut self, flow: &Flow<'_>) -> Verdict {
        if flow.from.pod.is_some() && flow.from.pod == flow.to.pod {
            return Verdict::of(Outcome::Allow, Reason::SamePod);
        }
        let egress = self.side(flow, Direction::Egress);
        let ingress = self.side(flow, Direction::Ingress);
        Verdict::of_sides(egress, ingress)
    }

    fn side(&mut self, flow: &Flow<'_>, direction: Direction) -> Option<Side> {
        let (judged, peer) = match direction {
            Direction::Egress => (flow.from, flow.to.identity),
            Direction::Ingress => (flow.to, flow.from.identity),
        };
        let policy = self.policy(judged.pod?)?;
        let decision = policy.decide(direction, peer, flow.protocol, flow.port);
        let verdict = match decision {
            Decision::Allow(None) => SideVerdict::NotEnforced,
            Decision::Allow(Some(_)) => SideVerdict::Allowed,
            Decision::DefaultDeny => SideVerdict::DefaultDeny,
            Decision::Deny(_) => SideVerdict::Denied,
            Decision::AllowHttp(set, _) => match (flow.request, policy.http(set)) {
                (None, _) => SideVerdict::HttpJudged,
                (Some(request), Some(rules)) if rules.decide(&request.for_rules()).is_some() => {
                    SideVerdict::HttpAllowed
                }
                // Rules that are not there deny, as they do in the worker.
                (Some(_), _) => SideVerdict::HttpDenied,
            },
        };
        Some(Side {
            verdict,
            rule: decision.rule(),
        })
    }

    /// The tables of a pod; none if it is not judged.
    fn policy(&mut self, number: usize) -> Option<Arc<EndpointPolicy>> {
        let pod = self.pods.get(number)?;
        if let Some(policy) = &pod.policy {
            return Some(Arc::clone(policy));
        }
        let (subject, name) = (pod.subject?, pod.name.clone());
        let policy = match self.compiled.get(&subject) {
            Some(policy) => Arc::clone(policy),
            None => {
                let policy = Arc::new(self.compile(&subject, name));
                self.compiled.insert(subject, Arc::clone(&policy));
                policy
            }
        };
        if let Some(pod) = self.pods.get_mut(number) {
            pod.policy = Some(Arc::clone(&policy));
        }
        Some(policy)
    }

    fn compile(&mut self, subject: &Subject<'a>, pod: PodName) -> EndpointPolicy {
        let namespace = subject.labels.and_then(Labels::namespace).unwrap_or_default();
        let policies: Vec<_> = self.index.policies_of(namespace).collect();
        let tables = compile::tables(
            &self.resolver,
            subject,
            policies.into_iter(),
            Vec::new(),
            &mut self.names,
        );
        let nowhere = EndpointKey {
            slot: Slot::NONE,
            generation: SlotGeneration::default(),
        };
        compile::endpoint_policy(nowhere, pod, subject, &tables, Revision::default())
    }

    /// The rules that judge a subject.
    pub(crate) fn judged(
        &mut self,
        subject: &Subject<'a>,
        direction: Direction,
        http: &mut HttpSets,
    ) -> Judged {
        compile::entries(
            self.index,
            &self.resolver,
            subject,
            direction,
            http,
            &mut self.names,
        )
    }
}

#[cfg(test)]
mod tests;
