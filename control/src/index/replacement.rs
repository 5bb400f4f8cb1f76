//! What takes an object's place, and what that changes.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;
use policy::PodName;

use super::{Index, IndexedPod};
use crate::object::{CidrGroup, Node, ServiceObject, Slice};

impl Index {
    pub(super) fn replace_cidr_group(&mut self, name: &str, group: Option<CidrGroup>) {
        for prefix in group.iter().flat_map(|group| &group.prefixes) {
            self.add_prefix(*prefix);
        }
        let former = match group {
            Some(group) => self.cidr_groups.insert(name.to_owned(), group),
            None => self.cidr_groups.remove(name),
        };
        for prefix in former.iter().flat_map(|group| &group.prefixes) {
            self.take_prefix(*prefix);
        }
        self.changes.peers = true;
    }

    pub(super) fn add_prefix(&mut self, prefix: IpNet) {
        self.identities.allocate_prefix(prefix);
        self.changes.prefixes |= self.prefixes.add(prefix);
    }

    pub(super) fn take_prefix(&mut self, prefix: IpNet) {
        self.changes.prefixes |= self.prefixes.take(prefix);
    }

    /// Gives `prefixes` an identity each in place of `former` ones.
    pub(super) fn replace_prefixes(&mut self, former: &BTreeSet<IpNet>, prefixes: &BTreeSet<IpNet>) {
        for prefix in prefixes.difference(former) {
            self.add_prefix(*prefix);
        }
        for prefix in former.difference(prefixes) {
            self.take_prefix(*prefix);
        }
    }

    /// Puts a pod in, or takes it out, and notes what that changes.
    pub(super) fn pod_replaced(&mut self, name: &PodName, indexed: Option<IndexedPod>) {
        let former = match &indexed {
            Some(indexed) => self.pods.insert(name.clone(), indexed.clone()),
            None => self.pods.remove(name),
        };
        self.succeed(name, former.as_ref());
        let mut versions = former.iter().chain(&indexed);
        self.changes.services |= versions.any(|pod| !pod.pod.host_ports.is_empty());
        let (Some(before), Some(after)) = (&former, &indexed) else {
            let has_ports = former.iter().chain(&indexed).any(|pod| !pod.pod.ports.is_empty());
            self.changes.addresses = true;
            self.changes.named_ports |= has_ports;
            return;
        };
        let same_identity = (before.identity, before.identity6) == (after.identity, after.identity6);
        self.changes.addresses |= !same_identity || before.pod != after.pod;
        self.changes.named_ports |=
            before.pod.ports != after.pod.ports || !same_identity && !after.pod.ports.is_empty();
    }

    /// Notes what a Node changes that came, went or is another one now.
    pub(super) fn node_replaced(&mut self, former: Option<&Node>, node: Option<&Node>) {
        self.changes.addresses = true;
        // NodePorts are at the node's addresses.
        self.changes.services = true;
        self.changes.peers |= self.node_policies > 0;
        // Blocks hold the local node's addresses or do not, and denied prefixes parts of pod CIDRs.
        let same_networks = former.map(networks) == node.map(networks);
        self.changes.prefixes |= !same_networks && !self.prefixes.is_empty();
        self.identify_apiservers();
    }

    pub(super) fn service_replaced(&mut self, name: PodName, service: Option<ServiceObject>) {
        let has_selector = |service: &ServiceObject| !service.selector.is_empty();
        let mut is_external = service.as_ref().is_some_and(|s| !has_selector(s));
        let former = match service {
            Some(service) => self.services.insert(name, service),
            None => self.services.remove(&name),
        };
        is_external |= former.as_ref().is_some_and(|s| !has_selector(s));
        self.changes.services = true;
        self.changes.peers |= self.service_policies > 0;
        if is_external {
            self.identify_service_backends();
        }
    }

    pub(super) fn slice_replaced(&mut self, name: PodName, slice: Option<Slice>) {
        let former = match &slice {
            Some(slice) => self.slices.insert(name.clone(), slice.clone()),
            None => self.slices.remove(&name),
        };
        self.changes.services = true;
        let (mut apiserver, mut external) = (false, false);
        for slice in former.iter().chain(&slice) {
            let service = PodName {
                namespace: name.namespace.clone(),
                name: slice.service.clone(),
            };
            apiserver |= service.namespace == "default" && service.name == "kubernetes";
            external |= self.services.get(&service).is_some_and(|s| s.selector.is_empty());
        }
        if apiserver {
            self.identify_apiservers();
        }
        if external {
            self.identify_service_backends();
        }
    }
}

fn networks(node: &Node) -> (&[IpAddr], &[IpNet]) {
    (&node.addresses, &node.pod_cidrs)
}
