//! Who is who: the identities of pods, nodes, API servers and backends, made anew where what they depend on changes.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use policy::{Identity, PodName};

use super::mentions::Mentions;
use super::{Index, IndexedPod};
use crate::identity;
use crate::labels::{LabelSource, Labels, PORT_LABELS, PodLabels};
use crate::object::Pod;
use crate::rule::Policy;

impl Index {
    /// Adds a label for each block that an address lies in.
    pub(super) fn insert_blocks(&self, labels: &mut Labels, addresses: &[IpAddr]) {
        let covering = self
            .blocks
            .iter()
            .filter(|block| addresses.iter().any(|addr| block.contains(addr)));
        for block in covering {
            labels.insert(LabelSource::Cidr, block.to_string(), String::new());
        }
    }

    /// Follows the endpoints of Service `default/kubernetes`.
    pub(super) fn identify_apiservers(&mut self) {
        let slices = self
            .slices
            .iter()
            .filter(|(name, slice)| name.namespace == "default" && slice.service == "kubernetes");
        let apiservers: BTreeSet<IpAddr> = slices.flat_map(|(_, slice)| slice.ready()).collect();
        self.apiservers = apiservers;
        self.identify_nodes();
        let local = self.host_addresses();
        let outside = |addr: &&IpAddr| !self.remote_nodes.contains_key(*addr) && !local.contains(*addr);
        let prefixes: BTreeSet<IpNet> = self
            .apiservers
            .iter()
            .filter(outside)
            .map(|addr| IpNet::from(*addr))
            .collect();
        if prefixes != self.apiserver_prefixes {
            let former = std::mem::replace(&mut self.apiserver_prefixes, prefixes.clone());
            self.replace_prefixes(&former, &prefixes);
            self.changes.prefixes = true;
        }
        // The reserved identity itself changes its labels: nothing that was selected holds.
        let is_local = self.is_local_node_apiserver();
        self.changes.forgotten |= std::mem::replace(&mut self.apiserver_is_local, is_local) != is_local;
    }

    /// Follows the backends of Services without selector, as long as policies may name them.
    pub(super) fn identify_service_backends(&mut self) {
        let mut prefixes = BTreeSet::new();
        if self.service_policies > 0 {
            self.changes.peers = true;
            for (name, slice) in &self.slices {
                let service = PodName {
                    namespace: name.namespace.clone(),
                    name: slice.service.clone(),
                };
                if self.services.get(&service).is_some_and(|s| s.selector.is_empty()) {
                    prefixes.extend(slice.addresses().map(IpNet::from));
                }
            }
        }
        if prefixes != self.service_prefixes {
            let former = std::mem::replace(&mut self.service_prefixes, prefixes.clone());
            self.replace_prefixes(&former, &prefixes);
        }
    }

    /// Labels of the pod's Namespace. Its deletion may be told before that of its pods: they stay who they were, or whatever selects
    /// them by these labels would let go of them while they run.
    pub(super) fn namespace_of(&self, name: &PodName, pod: &Pod) -> Option<Arc<BTreeMap<String, String>>> {
        let known = self.namespaces.get(&name.namespace);
        let before = || {
            let former = self.former.values().map(|former| &former.pod);
            let mut versions = self.pods.get(name).into_iter().chain(former);
            let same = |indexed: &&IndexedPod| self.config.awaits_namespaces && indexed.pod.uid == pod.uid;
            versions.find(|indexed| same(indexed) && indexed.namespace.is_some())
        };
        known.or_else(|| before()?.namespace.as_ref()).cloned()
    }

    pub(super) fn identify(&mut self, name: &PodName, pod: Pod) -> IndexedPod {
        let namespace = self.namespace_of(name, &pod);
        let attached = || {
            let mut endpoints = self.endpoints.values();
            endpoints.find(|endpoint| endpoint.pod == *name && self.is_of(endpoint, &pod))
        };
        let addresses = match (self.blocks.is_empty(), attached) {
            (true, _) => Vec::new(),
            (false, attached) => attached().map_or(&pod.addresses, |own| &own.addresses).clone(),
        };
        self.identified(name, pod, namespace, &addresses)
    }

    /// The pod with its identities, at `addresses`.
    pub(super) fn identified(
        &mut self,
        name: &PodName,
        pod: Pod,
        namespace: Option<Arc<BTreeMap<String, String>>>,
        addresses: &[IpAddr],
    ) -> IndexedPod {
        if namespace.is_none() && self.config.awaits_namespaces {
            return IndexedPod {
                pod,
                namespace,
                labels: Labels::default(),
                identity: Identity::UNMANAGED,
                identity6: Identity::UNMANAGED,
            };
        }
        let mut labels = PodLabels {
            own: &pod.labels,
            namespace: &name.namespace,
            namespace_labels: namespace.as_deref(),
            service_account: &pod.service_account,
            cluster: &self.config.cluster_name,
            kept: &self.kept_keys,
        }
        .identity();
        // All numbers of a name: containers of one pod may use it for different ones.
        let mut numbers: BTreeMap<String, String> = BTreeMap::new();
        for port in pod
            .ports
            .iter()
            .filter(|port| self.kept_ports.contains(&port.name))
        {
            let key = format!("{PORT_LABELS}{}/{}", port.name, port.protocol.name());
            let value = numbers.entry(key).or_default();
            if !value.is_empty() {
                value.push(',');
            }
            value.push_str(&port.port.to_string());
        }
        for (key, value) in numbers {
            labels.insert(LabelSource::Upstream, key, value);
        }
        let (mut labels4, mut labels6) = (labels.clone(), labels);
        if !self.blocks.is_empty() {
            let (v4, v6): (Vec<IpAddr>, Vec<IpAddr>) = addresses.iter().partition(|addr| addr.is_ipv4());
            // Who has one family only has one identity.
            self.insert_blocks(&mut labels4, if v4.is_empty() { &v6 } else { &v4 });
            self.insert_blocks(&mut labels6, if v6.is_empty() { &v4 } else { &v6 });
        }
        let identity = self.identities.allocate(&labels4);
        let identity6 = self.identities.allocate(&labels6);
        IndexedPod {
            pod,
            namespace,
            labels: labels4,
            identity,
            identity6,
        }
    }

    pub(super) fn identify_pod(&mut self, name: &PodName) {
        if let Some(indexed) = self.pods.get(name).cloned() {
            let indexed = self.identify(name, indexed.pod);
            self.pod_replaced(name, Some(indexed));
        }
    }

    pub(super) fn identify_pods(&mut self, namespace: Option<&str>) {
        let affected = self
            .pods
            .keys()
            .filter(|pod| namespace.is_none_or(|namespace| pod.namespace == namespace));
        for name in affected.cloned().collect::<Vec<_>>() {
            self.identify_pod(&name);
        }
        self.renew_former_pods(namespace);
        self.compact();
    }

    /// Follows what policies mention as far as identities depend on it. What both mention is added before it is taken away, so that
    /// a change that keeps it touches no pod.
    pub(super) fn mentions_changed(&mut self, former: Option<&Policy>, policy: Option<&Policy>) {
        let mut pods_differ = false;
        let (services, nodes) = (self.service_policies > 0, self.node_policies > 0);
        if let Some(mentions) = policy.map(Mentions::of) {
            self.service_policies += usize::from(mentions.services);
            self.node_policies += usize::from(mentions.nodes);
            for prefix in mentions.prefixes {
                self.add_prefix(prefix);
            }
            for block in mentions.blocks {
                pods_differ |= self.blocks.add(block);
            }
            for key in mentions.kept_keys {
                pods_differ |= self.kept_keys.add(key);
            }
            for name in mentions.kept_ports {
                pods_differ |= self.kept_ports.add(name);
            }
        }
        if let Some(mentions) = former.map(Mentions::of) {
            self.service_policies -= usize::from(mentions.services);
            self.node_policies -= usize::from(mentions.nodes);
            for prefix in mentions.prefixes {
                self.take_prefix(prefix);
            }
            for block in mentions.blocks {
                pods_differ |= self.blocks.take(block);
            }
            for key in mentions.kept_keys {
                pods_differ |= self.kept_keys.take(key);
            }
            for name in mentions.kept_ports {
                pods_differ |= self.kept_ports.take(name);
            }
        }
        if pods_differ {
            self.identify_pods(None);
        }
        if pods_differ || nodes != (self.node_policies > 0) {
            self.identify_nodes();
        }
        if services != (self.service_policies > 0) {
            self.identify_service_backends();
        }
    }

    pub(super) fn identify_nodes(&mut self) {
        let others = self
            .nodes
            .iter()
            .filter(|(name, _)| **name != self.config.node_name);
        let addresses: Vec<(IpAddr, Labels)> = others
            .flat_map(|(_, node)| {
                let mut labels = Labels::single(LabelSource::Reserved, "remote-node");
                if self.node_policies > 0 {
                    for (key, value) in &node.labels {
                        labels.insert(LabelSource::Node, key.clone(), value.clone());
                    }
                }
                node.addresses.iter().map(move |addr| (*addr, labels.clone()))
            })
            .collect();
        let mut remote_nodes = BTreeMap::new();
        for (addr, mut labels) in addresses {
            if self.apiservers.contains(&addr) {
                labels.insert(LabelSource::Reserved, "kube-apiserver".to_owned(), String::new());
            }
            self.insert_blocks(&mut labels, &[addr]);
            let known = [Identity::REMOTE_NODE, Identity::KUBE_APISERVER]
                .into_iter()
                .find(|id| identity::reserved(*id).as_ref() == Some(&labels));
            let identity = known.unwrap_or_else(|| self.identities.allocate(&labels));
            remote_nodes.insert(addr, identity);
        }
        if remote_nodes != self.remote_nodes {
            self.remote_nodes = remote_nodes;
            self.changes.addresses = true;
            self.changes.peers |= self.node_policies > 0;
        }
    }

    pub(super) fn compact(&mut self) {
        // Cheap first: this runs for every pod.
        let pods = self.pods.len() + self.former.len();
        if self.identities.len() <= 2 * (pods + self.prefixes.len()) + identity::REMEMBERED {
            return;
        }
        let former = self.former.values().map(|former| &former.pod);
        let pods = self
            .pods
            .values()
            .chain(former)
            .flat_map(|indexed| [indexed.identity, indexed.identity6]);
        let in_use = pods.chain(self.remote_nodes.values().copied()).collect();
        self.changes.forgotten |= self.identities.compact(&in_use, &self.prefixes);
    }
}
