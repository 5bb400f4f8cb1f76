//! Everything that is known: objects by name, local endpoints, identities.
//!
//! Synchronous: [`Index::apply`] and [`Index::delete`] take effect at once and in the order given; [`crate::compile`] reads the
//! result. Identities are allocated here, so that compiling is a pure function.

mod former;
mod identification;
mod local;
mod mentions;
mod replacement;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use policy::{EndpointKey, Identity, PodName, Slot};

use self::former::FormerPod;
use crate::counted::Counted;
use crate::identity::{self, IdentityAllocator};
use crate::labels::Labels;
use crate::object::{CidrGroup, Kind, Node, Object, ObjectBody, ObjectKey, Pod, ServiceObject, Slice};
use crate::rule::{Policy, PolicyKey, PolicyKind};

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
    /// Whether a pod has an identity only once its Namespace is known: an API server has one for every pod, manifests need not.
    pub awaits_namespaces: bool,
}

/// A pod's interface on this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalEndpoint {
    /// Slot and occupant.
    pub key: EndpointKey,
    /// The pod.
    pub pod: PodName,
    /// `metadata.uid` of the pod, where the runtime has told it: then only the object with this uid is its object.
    pub uid: Option<String>,
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
    /// Labels of its Namespace as they were known last.
    namespace: Option<Arc<BTreeMap<String, String>>>,
    /// Labels of its identity; none while it waits for its Namespace.
    pub labels: Labels,
    /// Its identity, by its IPv4 address where it has one.
    pub identity: Identity,
    /// Its identity by its IPv6 address: blocks of a NetworkPolicy can hold one address and not the other.
    pub identity6: Identity,
}

impl IndexedPod {
    /// Whether it has no identity of its own: without the labels of its Namespace it could be taken for a pod that fewer policies
    /// select.
    #[must_use]
    pub fn awaits_namespace(&self) -> bool {
        self.identity == Identity::UNMANAGED
    }

    /// Its identity at one of its addresses.
    #[must_use]
    pub fn identity_at(&self, addr: IpAddr) -> Identity {
        if addr.is_ipv6() {
            self.identity6
        } else {
            self.identity
        }
    }
}

/// What compilation must look at again.
#[derive(Debug, Clone, Default)]
pub struct Changes {
    /// Policies that came, went or changed.
    pub policies: BTreeSet<PolicyKey>,
    /// Label sets that came.
    pub identities: Vec<Identity>,
    /// Label sets were forgotten.
    pub forgotten: bool,
    /// Addresses, or whose they are.
    pub addresses: bool,
    /// Prefixes that rules mention.
    pub prefixes: bool,
    /// Named ports of pods.
    pub named_ports: bool,
    /// CIDR groups, nodes' labels, Services and their backends: what peers other than labels and prefixes resolve to.
    pub peers: bool,
    /// What the service table is made of.
    pub services: bool,
}

/// All state that policy is compiled from.
#[derive(Debug, Clone, Default)]
pub struct Index {
    config: IndexConfig,
    namespaces: BTreeMap<String, Arc<BTreeMap<String, String>>>,
    nodes: BTreeMap<String, Node>,
    remote_nodes: BTreeMap<IpAddr, Identity>,
    /// Addresses of the local node's interfaces.
    interface_addresses: BTreeSet<IpAddr>,
    pods: BTreeMap<PodName, IndexedPod>,
    services: BTreeMap<PodName, ServiceObject>,
    slices: BTreeMap<PodName, Slice>,
    policies: BTreeMap<PolicyKey, Policy>,
    cidr_groups: BTreeMap<String, CidrGroup>,
    endpoints: BTreeMap<Slot, LocalEndpoint>,
    /// Pods of endpoints whose objects are gone.
    former: BTreeMap<Slot, FormerPod>,
    identities: IdentityAllocator,
    /// Pod label keys that NetworkPolicies select by.
    kept_keys: Counted<String>,
    /// Port names of egress rules: which number they are with a pod is part of its identity.
    kept_ports: Counted<String>,
    /// Prefixes of NetworkPolicy `ipBlock`s: a pod's identity tells in which of them its addresses lie.
    blocks: Counted<IpNet>,
    /// Prefixes of CNP CIDR rules, `ipBlock`s and CIDR groups, addresses of Services without selector and of API servers outside the
    /// cluster; each with an identity.
    prefixes: Counted<IpNet>,
    /// Addresses of the API server (endpoints of Service `default/kubernetes`).
    apiservers: BTreeSet<IpAddr>,
    /// Those that are no node's, as prefixes.
    apiserver_prefixes: BTreeSet<IpNet>,
    /// Whether one of them is the local node, as of the last change.
    apiserver_is_local: bool,
    /// Backends of Services without selector, as prefixes; only while a policy has `toServices`.
    service_prefixes: BTreeSet<IpNet>,
    /// Policies that have `toServices`, and those that select nodes by label.
    service_policies: usize,
    node_policies: usize,
    changes: Changes,
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
    pub fn restore_identities(&mut self, identities: &BTreeMap<Identity, Arc<[String]>>) {
        self.identities.restore(identities);
    }

    /// Adds or replaces an object.
    pub fn apply(&mut self, object: Object) {
        let Object { key, body } = object;
        match body {
            ObjectBody::Namespace(labels) => {
                self.namespaces.insert(key.name.clone(), Arc::new(labels));
                self.identify_pods(Some(&key.name));
            }
            ObjectBody::Node(node) => {
                let former = self.nodes.insert(key.name, node.clone());
                self.node_replaced(former.as_ref(), Some(&node));
            }
            ObjectBody::Pod(pod) => {
                let name = key.pod();
                let indexed = self.identify(&name, pod);
                self.pod_replaced(&name, Some(indexed));
                self.compact();
            }
            ObjectBody::Service(service) => self.service_replaced(key.pod(), Some(service)),
            ObjectBody::EndpointSlice(slice) => self.slice_replaced(key.pod(), slice),
            ObjectBody::CidrGroup(group) => self.replace_cidr_group(&key.name, Some(group)),
            ObjectBody::Policy(policy) => {
                let former = self.policies.remove(&policy.key);
                self.changes.policies.insert(policy.key.clone());
                self.mentions_changed(former.as_ref(), Some(&policy));
                self.policies.insert(policy.key.clone(), *policy);
            }
        }
    }

    /// Removes an object; one that is not there is no error.
    pub fn delete(&mut self, key: &ObjectKey) {
        match key.kind {
            Kind::Namespace => {
                if self.namespaces.remove(&key.name).is_some() && self.config.awaits_namespaces {
                    self.orphan_former_pods(&key.name);
                }
                self.identify_pods(Some(&key.name));
            }
            Kind::Node => {
                let former = self.nodes.remove(&key.name);
                self.node_replaced(former.as_ref(), None);
            }
            Kind::Pod => self.pod_replaced(&key.pod(), None),
            Kind::Service => self.service_replaced(key.pod(), None),
            Kind::EndpointSlice => self.slice_replaced(key.pod(), None),
            Kind::CiliumCIDRGroup => self.replace_cidr_group(&key.name, None),
            Kind::NetworkPolicy
            | Kind::ClusterNetworkPolicy
            | Kind::CiliumNetworkPolicy
            | Kind::CiliumClusterwideNetworkPolicy => {
                if let Some(former) = key.policy().and_then(|key| self.policies.remove(&key)) {
                    self.changes.policies.insert(former.key.clone());
                    self.mentions_changed(Some(&former), None);
                }
            }
        }
    }

    /// Adds a local endpoint; it replaces whatever had its slot, and any other attachment of the same pod.
    pub fn apply_endpoint(&mut self, endpoint: LocalEndpoint) {
        self.endpoints.retain(|_, other| other.pod != endpoint.pod);
        let pod = endpoint.pod.clone();
        let former = self.endpoints.insert(endpoint.key.slot, endpoint.clone());
        self.changes.addresses = true;
        self.attachments_changed(Some(&endpoint));
        for pod in former.iter().map(|former| &former.pod).chain([&pod]) {
            self.identify_pod(pod);
        }
    }

    /// Removes a local endpoint; another occupant of the slot stays.
    pub fn delete_endpoint(&mut self, key: EndpointKey) {
        if self
            .endpoints
            .get(&key.slot)
            .is_some_and(|endpoint| endpoint.key == key)
            && let Some(endpoint) = self.endpoints.remove(&key.slot)
        {
            self.changes.addresses = true;
            self.attachments_changed(None);
            self.identify_pod(&endpoint.pod);
        }
    }

    /// Every pod that is known, those included whose objects are gone and whose endpoints are not.
    pub fn known_pods(&self) -> impl Iterator<Item = &IndexedPod> {
        self.pods
            .values()
            .chain(self.former.values().map(|former| &former.pod))
    }

    /// What has changed since the last call.
    pub fn take_changes(&mut self) -> Changes {
        let identities = self.identities.take_fresh();
        let mut changes = std::mem::take(&mut self.changes);
        // Which of them lie in which block is read off their labels.
        changes.prefixes |= !identities.is_empty() && !self.blocks.is_empty();
        changes.identities = identities;
        changes
    }

    /// Whether the API server is on the local node.
    #[must_use]
    pub fn is_local_node_apiserver(&self) -> bool {
        self.host_addresses()
            .iter()
            .any(|addr| self.apiservers.contains(addr))
    }

    /// Addresses of API servers outside the cluster.
    #[must_use]
    pub fn apiserver_prefixes(&self) -> &BTreeSet<IpNet> {
        &self.apiserver_prefixes
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

    /// CiliumCIDRGroups by name.
    #[must_use]
    pub fn cidr_groups(&self) -> &BTreeMap<String, CidrGroup> {
        &self.cidr_groups
    }

    /// Policies that may select pods of `namespace`: its own and those of the cluster, by rising key. An empty name stands for what is
    /// no pod.
    pub fn policies_of(&self, namespace: &str) -> impl Iterator<Item = &Policy> {
        let scopes = [
            (PolicyKind::Cilium, namespace),
            (PolicyKind::CiliumClusterwide, ""),
            (PolicyKind::Kubernetes, namespace),
            (PolicyKind::Cluster, ""),
        ];
        scopes.into_iter().flat_map(move |(kind, namespace)| {
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

    /// Ranges that pods have their addresses from.
    #[must_use]
    pub fn pod_cidrs(&self) -> BTreeSet<IpNet> {
        let nodes = self.nodes.values().flat_map(|node| &node.pod_cidrs);
        self.config
            .pod_cidrs
            .iter()
            .chain(nodes)
            .map(IpNet::trunc)
            .collect()
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
            Kind::ClusterNetworkPolicy => policies(PolicyKind::Cluster),
            Kind::CiliumNetworkPolicy => policies(PolicyKind::Cilium),
            Kind::CiliumClusterwideNetworkPolicy => policies(PolicyKind::CiliumClusterwide),
            Kind::CiliumCIDRGroup => self.cidr_groups.len(),
        };
        Kind::ALL
            .into_iter()
            .map(|kind| (kind.name(), count(kind)))
            .collect()
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
