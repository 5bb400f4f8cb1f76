//! Everything that is known: objects by name, local endpoints, identities.
//!
//! Synchronous: [`Index::apply`] and [`Index::delete`] take effect at once and in the order given; [`crate::compile`] reads the
//! result. Identities are allocated here, so that compiling is a pure function.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use policy::{EndpointKey, Identity, PodName, Slot};

use crate::counted::Counted;
use crate::identity::{self, IdentityAllocator};
use crate::labels::{LabelSource, Labels, NAMESPACE_LABELS, PodLabels};
use crate::object::{Kind, Node, Object, ObjectBody, ObjectKey, Pod, ServiceObject, Slice};
use crate::rule::{Peer, Policy, PolicyKey, PolicyKind};
use crate::selector::Selector;

/// What the index is told once, at start.
#[derive(Debug, Clone, Default)]
pub struct IndexConfig {
    /// `metadata.name` of the local Node.
    pub node_name: String,
    /// Addresses of the local node beside those of its Node object.
    pub node_addresses: Vec<IpAddr>,
    /// Pod CIDRs beside those of Node objects.
    pub pod_cidrs: Vec<IpNet>,
    /// Name of the cluster, the value of label `io.cilium.k8s.policy.cluster`.
    pub cluster_name: String,
}

/// A pod's interface on this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalEndpoint {
    /// Slot and occupant.
    pub key: EndpointKey,
    /// The pod.
    pub pod: PodName,
    /// The pod's addresses, from CNI or netlink.
    pub addresses: Vec<IpAddr>,
    /// Whether its policy is audited and not enforced.
    pub audit: bool,
}

/// A pod and what is derived from it.
#[derive(Debug, Clone)]
pub struct IndexedPod {
    /// The object.
    pub pod: Pod,
    /// Labels of its identity.
    pub labels: Labels,
    /// Its identity.
    pub identity: Identity,
}

/// All state that policy is compiled from.
#[derive(Debug, Clone, Default)]
pub struct Index {
    config: IndexConfig,
    namespaces: BTreeMap<String, BTreeMap<String, String>>,
    nodes: BTreeMap<String, Node>,
    remote_nodes: BTreeMap<IpAddr, Identity>,
    pods: BTreeMap<PodName, IndexedPod>,
    services: BTreeMap<PodName, ServiceObject>,
    slices: BTreeMap<PodName, Slice>,
    policies: BTreeMap<PolicyKey, Policy>,
    endpoints: BTreeMap<Slot, LocalEndpoint>,
    identities: IdentityAllocator,
    /// Pod label keys that NetworkPolicies select by.
    kept_keys: Counted<String>,
    /// Prefixes of NetworkPolicy `ipBlock`s: a pod's identity tells in which of them its addresses lie.
    blocks: Counted<IpNet>,
    /// Prefixes of CNP CIDR rules and `ipBlock`s, each with an identity.
    prefixes: Counted<IpNet>,
}

impl Index {
    /// An empty index.
    #[must_use]
    pub fn new(config: IndexConfig) -> Self {
        Self {
            config,
            ..Self::default()
        }
    }

    /// Takes up the identities of an earlier process; before anything is applied.
    pub fn restore_identities(&mut self, identities: &BTreeMap<Identity, Vec<String>>) {
        self.identities.restore(identities);
    }

    /// Adds or replaces an object.
    pub fn apply(&mut self, object: Object) {
        let Object { key, body } = object;
        match body {
            ObjectBody::Namespace(labels) => {
                self.namespaces.insert(key.name.clone(), labels);
                self.identify_pods(Some(&key.name));
            }
            ObjectBody::Node(node) => {
                self.nodes.insert(key.name, node);
                self.identify_nodes();
            }
            ObjectBody::Pod(pod) => {
                let name = key.pod();
                let (labels, identity) = self.identify(&name, &pod);
                self.pods.insert(
                    name,
                    IndexedPod {
                        pod,
                        labels,
                        identity,
                    },
                );
                self.compact();
            }
            ObjectBody::Service(service) => {
                self.services.insert(key.pod(), service);
            }
            ObjectBody::EndpointSlice(Some(slice)) => {
                self.slices.insert(key.pod(), slice);
            }
            ObjectBody::EndpointSlice(None) => {
                self.slices.remove(&key.pod());
            }
            ObjectBody::Policy(policy) => {
                let former = self.policies.remove(&policy.key);
                self.mentions_changed(former.as_ref(), Some(&policy));
                self.policies.insert(policy.key.clone(), *policy);
            }
        }
    }

    /// Removes an object; one that is not there is no error.
    pub fn delete(&mut self, key: &ObjectKey) {
        match key.kind {
            Kind::Namespace => {
                self.namespaces.remove(&key.name);
                self.identify_pods(Some(&key.name));
            }
            Kind::Node => {
                self.nodes.remove(&key.name);
                self.identify_nodes();
            }
            Kind::Pod => {
                self.pods.remove(&key.pod());
            }
            Kind::Service => {
                self.services.remove(&key.pod());
            }
            Kind::EndpointSlice => {
                self.slices.remove(&key.pod());
            }
            Kind::NetworkPolicy | Kind::CiliumNetworkPolicy => {
                if let Some(former) = key.policy().and_then(|key| self.policies.remove(&key)) {
                    self.mentions_changed(Some(&former), None);
                }
            }
        }
    }

    /// Adds a local endpoint; it replaces whatever had its slot, and any other attachment of the same pod.
    pub fn apply_endpoint(&mut self, endpoint: LocalEndpoint) {
        self.endpoints.retain(|_, other| other.pod != endpoint.pod);
        let pod = endpoint.pod.clone();
        self.endpoints.insert(endpoint.key.slot, endpoint);
        self.identify_pod(&pod);
    }

    /// Removes a local endpoint; another occupant of the slot stays.
    pub fn delete_endpoint(&mut self, key: EndpointKey) {
        if self
            .endpoints
            .get(&key.slot)
            .is_some_and(|endpoint| endpoint.key == key)
            && let Some(endpoint) = self.endpoints.remove(&key.slot)
        {
            self.identify_pod(&endpoint.pod);
        }
    }

    /// The configuration.
    #[must_use]
    pub fn config(&self) -> &IndexConfig {
        &self.config
    }

    /// Nodes by name.
    #[must_use]
    pub fn nodes(&self) -> &BTreeMap<String, Node> {
        &self.nodes
    }

    /// Pods by name.
    #[must_use]
    pub fn pods(&self) -> &BTreeMap<PodName, IndexedPod> {
        &self.pods
    }

    /// Services by namespace and name.
    #[must_use]
    pub fn services(&self) -> &BTreeMap<PodName, ServiceObject> {
        &self.services
    }

    /// EndpointSlices by namespace and name.
    #[must_use]
    pub fn slices(&self) -> &BTreeMap<PodName, Slice> {
        &self.slices
    }

    /// Policies by name.
    #[must_use]
    pub fn policies(&self) -> &BTreeMap<PolicyKey, Policy> {
        &self.policies
    }

    /// Policies of one namespace: no policy selects pods of another.
    pub fn policies_of(&self, namespace: &str) -> impl Iterator<Item = &Policy> {
        [PolicyKind::Cilium, PolicyKind::Kubernetes]
            .into_iter()
            .flat_map(move |kind| {
                let first = PolicyKey {
                    kind,
                    namespace: namespace.to_owned(),
                    name: String::new(),
                };
                let policies = self.policies.range(first..);
                let same = move |key: &PolicyKey| key.kind == kind && key.namespace == namespace;
                policies
                    .take_while(move |(key, _)| same(key))
                    .map(|(_, policy)| policy)
            })
    }

    /// Local endpoints by slot.
    #[must_use]
    pub fn endpoints(&self) -> &BTreeMap<Slot, LocalEndpoint> {
        &self.endpoints
    }

    /// Identities.
    #[must_use]
    pub fn identities(&self) -> &IdentityAllocator {
        &self.identities
    }

    /// Prefixes that rules mention, each with an identity.
    #[must_use]
    pub fn prefixes(&self) -> &Counted<IpNet> {
        &self.prefixes
    }

    /// The pod that a local endpoint is, if its object is known and is of this very pod: an object whose addresses are all others
    /// describes a former pod of that name.
    #[must_use]
    pub fn pod_of(&self, endpoint: &LocalEndpoint) -> Option<&IndexedPod> {
        let indexed = self.pods.get(&endpoint.pod)?;
        let listed = &indexed.pod.addresses;
        let same = listed.is_empty() || listed.iter().any(|addr| endpoint.addresses.contains(addr));
        (same && !indexed.pod.host_network).then_some(indexed)
    }

    /// Addresses of the local node.
    #[must_use]
    pub fn local_node_addresses(&self) -> Vec<IpAddr> {
        let object = self
            .nodes
            .get(&self.config.node_name)
            .map(|node| node.addresses.as_slice())
            .unwrap_or_default();
        self.config.node_addresses.iter().chain(object).copied().collect()
    }

    /// Addresses of other nodes and their identities.
    #[must_use]
    pub fn remote_nodes(&self) -> &BTreeMap<IpAddr, Identity> {
        &self.remote_nodes
    }

    /// Number of objects of each kind.
    #[must_use]
    pub fn counts(&self) -> BTreeMap<&'static str, usize> {
        let policies = |kind| self.policies.keys().filter(|key| key.kind == kind).count();
        let count = |kind| match kind {
            Kind::Namespace => self.namespaces.len(),
            Kind::Node => self.nodes.len(),
            Kind::Pod => self.pods.len(),
            Kind::Service => self.services.len(),
            Kind::EndpointSlice => self.slices.len(),
            Kind::NetworkPolicy => policies(PolicyKind::Kubernetes),
            Kind::CiliumNetworkPolicy => policies(PolicyKind::Cilium),
        };
        Kind::ALL
            .into_iter()
            .map(|kind| (kind.name(), count(kind)))
            .collect()
    }

    /// Adds a label for each block that an address lies in; returns how many.
    fn insert_blocks(&self, labels: &mut Labels, addresses: &[IpAddr]) -> usize {
        let covering = self
            .blocks
            .iter()
            .filter(|block| addresses.iter().any(|addr| block.contains(addr)));
        covering
            .map(|block| labels.insert(LabelSource::Cidr, block.to_string(), String::new()))
            .count()
    }

    fn identify(&mut self, name: &PodName, pod: &Pod) -> (Labels, Identity) {
        let mut labels = PodLabels {
            own: &pod.labels,
            namespace: &name.namespace,
            namespace_labels: self.namespaces.get(&name.namespace),
            service_account: &pod.service_account,
            cluster: &self.config.cluster_name,
            kept: &self.kept_keys,
        }
        .identity();
        if !self.blocks.is_empty() {
            let attached = self.endpoints.values().find(|endpoint| endpoint.pod == *name);
            let addresses = attached
                .map_or(&pod.addresses, |endpoint| &endpoint.addresses)
                .clone();
            self.insert_blocks(&mut labels, &addresses);
        }
        let identity = self.identities.allocate(&labels);
        (labels, identity)
    }

    fn identify_pod(&mut self, name: &PodName) {
        if let Some(mut indexed) = self.pods.remove(name) {
            (indexed.labels, indexed.identity) = self.identify(name, &indexed.pod);
            self.pods.insert(name.clone(), indexed);
        }
    }

    fn identify_pods(&mut self, namespace: Option<&str>) {
        let affected = self
            .pods
            .keys()
            .filter(|pod| namespace.is_none_or(|namespace| pod.namespace == namespace));
        for name in affected.cloned().collect::<Vec<_>>() {
            self.identify_pod(&name);
        }
        self.compact();
    }

    /// Follows what policies mention as far as identities depend on it. What both mention is added before it is taken away, so that
    /// a change that keeps it touches no pod.
    fn mentions_changed(&mut self, former: Option<&Policy>, policy: Option<&Policy>) {
        let mut pods_differ = false;
        if let Some(mentions) = policy.map(Mentions::of) {
            for prefix in mentions.prefixes {
                self.identities.allocate_prefix(prefix);
                self.prefixes.add(prefix);
            }
            for block in mentions.blocks {
                pods_differ |= self.blocks.add(block);
            }
            for key in mentions.kept_keys {
                pods_differ |= self.kept_keys.add(key);
            }
        }
        if let Some(mentions) = former.map(Mentions::of) {
            for prefix in mentions.prefixes {
                self.prefixes.take(prefix);
            }
            for block in mentions.blocks {
                pods_differ |= self.blocks.take(block);
            }
            for key in mentions.kept_keys {
                pods_differ |= self.kept_keys.take(key);
            }
        }
        if pods_differ {
            self.identify_pods(None);
            self.identify_nodes();
        }
    }

    fn identify_nodes(&mut self) {
        let others = self
            .nodes
            .iter()
            .filter(|(name, _)| **name != self.config.node_name);
        let addresses: Vec<IpAddr> = others
            .flat_map(|(_, node)| node.addresses.iter().copied())
            .collect();
        self.remote_nodes.clear();
        for addr in addresses {
            let mut labels = Labels::single(LabelSource::Reserved, "remote-node");
            let identity = match self.insert_blocks(&mut labels, &[addr]) {
                0 => Identity::REMOTE_NODE,
                _ => self.identities.allocate(&labels),
            };
            self.remote_nodes.insert(addr, identity);
        }
    }

    fn compact(&mut self) {
        // Cheap first: this runs for every pod.
        if self.identities.len() <= 2 * (self.pods.len() + self.prefixes.len()) + identity::REMEMBERED {
            return;
        }
        let pods = self.pods.values().map(|indexed| indexed.identity);
        let in_use = pods.chain(self.remote_nodes.values().copied()).collect();
        self.identities.compact(&in_use, &self.prefixes);
    }
}

/// What a policy mentions that identities depend on, each once.
struct Mentions {
    /// Pod label keys, if it is a NetworkPolicy: upstream selects by any label.
    kept_keys: BTreeSet<String>,
    blocks: BTreeSet<IpNet>,
    prefixes: BTreeSet<IpNet>,
}

impl Mentions {
    fn of(policy: &Policy) -> Self {
        let mut mentions = Self {
            kept_keys: BTreeSet::new(),
            blocks: BTreeSet::new(),
            prefixes: BTreeSet::new(),
        };
        let mut selectors: Vec<&Selector> = policy.specs.iter().map(|spec| &spec.subject).collect();
        for peer in policy.peers() {
            match peer {
                Peer::Cidr(block) => mentions.prefixes.extend(block.prefixes()),
                Peer::IpBlock(block) => {
                    mentions.prefixes.extend(block.prefixes());
                    mentions.blocks.extend(block.prefixes());
                }
                Peer::Labels(selector) => selectors.push(selector),
            }
        }
        if policy.key.kind == PolicyKind::Kubernetes {
            let keys = selectors
                .iter()
                .flat_map(|selector| selector.requirements())
                .map(|r| &r.key);
            mentions
                .kept_keys
                .extend(keys.filter(|key| !key.starts_with(NAMESPACE_LABELS)).cloned());
        }
        mentions
    }
}

/// Labels of an identity, allocated, reserved or of a prefix.
#[must_use]
pub fn labels_of(index: &Index, identity: Identity) -> Option<Labels> {
    index.identities.labels(identity).or_else(|| {
        let prefix = index
            .prefixes
            .iter()
            .find(|prefix| index.identities.prefix(**prefix) == Some(identity))?;
        Some(identity::prefix_labels(*prefix))
    })
}
