//! Policies in one form, whatever object they were written as.

use std::fmt;
use std::ops::RangeInclusive;
use std::sync::Arc;

use ipnet::IpNet;
use policy::{HttpRuleSet, Protocol, Tier};

use crate::fqdn::FqdnSelector;
use crate::selector::Selector;

/// Kind of a policy object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PolicyKind {
    /// `cilium.io/v2 CiliumNetworkPolicy`.
    Cilium,
    /// `cilium.io/v2 CiliumClusterwideNetworkPolicy`.
    CiliumClusterwide,
    /// `networking.k8s.io/v1 NetworkPolicy`.
    Kubernetes,
    /// `policy.networking.k8s.io/v1beta1 ClusterNetworkPolicy`.
    Cluster,
}

/// Name of a policy object.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PolicyKey {
    /// Its kind.
    pub kind: PolicyKind,
    /// `metadata.namespace`; empty for cluster-scoped kinds.
    pub namespace: String,
    /// `metadata.name`.
    pub name: String,
}

impl fmt::Display for PolicyKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            PolicyKind::Cilium => "cnp",
            PolicyKind::CiliumClusterwide => "ccnp",
            PolicyKind::Kubernetes => "knp",
            PolicyKind::Cluster => "kcnp",
        };
        if self.namespace.is_empty() {
            write!(f, "{kind} {}", self.name)
        } else {
            write!(f, "{kind} {}/{}", self.namespace, self.name)
        }
    }
}

/// A valid policy object.
#[derive(Debug, Clone)]
pub struct Policy {
    /// Its name.
    pub key: PolicyKey,
    /// One per `spec` and entry of `specs`.
    pub specs: Vec<Spec>,
}

/// One subject and what may happen to it.
#[derive(Debug, Clone)]
pub struct Spec {
    /// When its rules are asked.
    pub tier: Tier,
    /// Order within [`Tier::Admin`] and [`Tier::Baseline`], lowest first (ClusterNetworkPolicy, `spec.priority`).
    pub priority: u16,
    /// Which pods; includes the policy's namespace, if it has one.
    pub subject: Selector,
    /// Towards them.
    pub ingress: DirectionSpec,
    /// From them.
    pub egress: DirectionSpec,
}

impl Policy {
    /// Every peer that the policy names.
    pub fn peers(&self) -> impl Iterator<Item = &Peer> {
        let rules = self
            .specs
            .iter()
            .flat_map(|spec| spec.ingress.rules.iter().chain(&spec.egress.rules));
        rules.flat_map(|rule| match &rule.peers {
            PeerSet::Any => [].iter(),
            PeerSet::Of(peers) => peers.iter(),
        })
    }
}

impl Policy {
    /// Port names of its egress rules.
    pub fn egress_port_names(&self) -> impl Iterator<Item = &str> {
        let rules = self.specs.iter().flat_map(|spec| &spec.egress.rules);
        let ports = rules.flat_map(|rule| match &rule.ports {
            PortSet::Every => [].iter(),
            PortSet::Of(ports) => ports.iter(),
        });
        ports.filter_map(|port| match &port.ports {
            PortRef::Named(name) => Some(name.as_str()),
            PortRef::Range(_) => None,
        })
    }
}

/// One direction of a [`Spec`].
#[derive(Debug, Clone, Default)]
pub struct DirectionSpec {
    /// Whether what no rule allows is denied.
    pub default_deny: bool,
    /// The rules. In [`Tier::Normal`] a deny wins over every allow, in the others the first one decides.
    pub rules: Vec<Rule>,
}

/// What a rule does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RuleAction {
    /// `ingress`, `egress`; `Accept`.
    Allow,
    /// `ingressDeny`, `egressDeny`; `Deny`.
    Deny,
    /// `Pass`: the rest of the tier says nothing. Only outside [`Tier::Normal`].
    Pass,
}

/// One item of a rule list: every peer on every port.
#[derive(Debug, Clone)]
pub struct Rule {
    /// Policy and place in it, e.g. `cnp db/flask-app-to-db ingress[0]`.
    pub name: String,
    /// What it does.
    pub action: RuleAction,
    /// `log.value`: text for the flows that the rule decides.
    pub log: Option<Arc<str>>,
    /// With whom.
    pub peers: PeerSet,
    /// On what.
    pub ports: PortSet,
}

/// With whom a rule is concerned.
#[derive(Debug, Clone)]
pub enum PeerSet {
    /// Everyone, known or not.
    Any,
    /// These; an empty list is nobody.
    Of(Vec<Peer>),
}

/// One kind of peer.
#[derive(Debug, Clone)]
pub enum Peer {
    /// Identities with these labels.
    Labels(Selector),
    /// Addresses outside the cluster (CNP: pods and nodes never match by address).
    Cidr(CidrBlock),
    /// Addresses, pods' and nodes' included (NetworkPolicy `ipBlock`, ClusterNetworkPolicy `networks`).
    IpBlock(CidrBlock),
    /// Addresses outside the cluster that CiliumCIDRGroups list; no such group is nobody.
    CidrGroup {
        /// Which groups.
        groups: GroupRef,
        /// `except`: prefixes that are not covered.
        except: Vec<IpNet>,
    },
    /// Backends of Services (`toServices`); no such Service is nobody.
    Services(ServiceRef),
    /// Nodes by their labels.
    Nodes {
        /// Requirements on labels of source `node`.
        selector: Selector,
        /// Whether the local node counts (ClusterNetworkPolicy `nodes`), or only the others (`fromNodes`, `toNodes`).
        local: bool,
    },
    /// Addresses that DNS gave for these names (`toFQDNs`, `domainNames`).
    Fqdn(FqdnSelector),
}

/// Which CiliumCIDRGroups.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GroupRef {
    /// `cidrGroupRef`.
    Name(String),
    /// `cidrGroupSelector`: requirements on the groups' labels, of source `cidrgroup`.
    Labels(Selector),
}

/// Which Services.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceRef {
    /// Their namespace; `None` is any.
    pub namespace: Option<String>,
    /// Which of them.
    pub which: ServiceMatch,
}

/// Services of a namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServiceMatch {
    /// `k8sService.serviceName`.
    Name(String),
    /// `k8sServiceSelector.selector`: requirements on the Services' labels, of source `k8s`.
    Labels(Selector),
}

/// A prefix without some parts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CidrBlock {
    /// The prefix.
    pub cidr: IpNet,
    /// Parts of the prefix that are not covered.
    pub except: Vec<IpNet>,
}

impl CidrBlock {
    /// Whether every address of `prefix` is covered.
    #[must_use]
    pub fn covers(&self, prefix: &IpNet) -> bool {
        self.cidr.contains(prefix) && !self.except.iter().any(|part| part.contains(prefix))
    }

    /// The prefix and the excepted ones.
    pub fn prefixes(&self) -> impl Iterator<Item = IpNet> {
        std::iter::once(self.cidr).chain(self.except.iter().copied())
    }
}

/// On what a rule is concerned.
#[derive(Debug, Clone)]
pub enum PortSet {
    /// Every protocol, ICMP included.
    Every,
    /// These; an empty list is nothing.
    Of(Vec<PortRule>),
}

/// One port of a rule.
#[derive(Debug, Clone)]
pub struct PortRule {
    /// The protocol.
    pub protocol: Protocol,
    /// The ports (ICMP: types).
    pub ports: PortRef,
    /// Which requests an allow rule allows; `None` all bytes.
    pub http: Option<Arc<HttpRuleSet>>,
}

/// A port as it is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PortRef {
    /// By number.
    Range(RangeInclusive<u16>),
    /// By the `name` of a container port: of the subject (ingress) or of each peer (egress).
    Named(String),
}

impl PortRef {
    /// Every port.
    pub const EVERY: Self = Self::Range(0..=u16::MAX);
}
