//! NodePorts at the addresses of other nodes. They are translated at the client's endpoint all the same: a packet that goes to another
//! node's NodePort is passed on by that node in its own name, and policy would see a node where the pod is.
//!
//! One entry per NodePort serves every node. Only under `externalTrafficPolicy: Local` nodes differ: those with backends of their own have
//! entries of their own, no more than there are endpoints.

use std::collections::BTreeMap;
use std::net::IpAddr;

use policy::{Backend, Frontend, Service};

use super::Port;
use super::backends::{Backends, Place};
use crate::index::Index;
use crate::object::{Node, SliceEndpoint};

/// The nodes but the local one.
#[derive(Debug)]
pub(super) struct OtherNodes<'a> {
    nodes: &'a BTreeMap<String, Node>,
    local: &'a str,
    /// Addresses of the local node, whatever other Node objects say.
    excluded: &'a [IpAddr],
}

impl<'a> OtherNodes<'a> {
    /// Those of the index; `excluded` are the local node's addresses.
    pub(super) fn of(index: &'a Index, excluded: &'a [IpAddr]) -> Self {
        Self {
            nodes: index.nodes(),
            local: &index.config().node_name,
            excluded,
        }
    }

    /// Their addresses.
    pub(super) fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        let others = self.nodes.iter().filter(|(name, _)| *name != self.local);
        others.flat_map(|(_, node)| self.addresses_of(node))
    }

    fn addresses_of(&self, node: &'a Node) -> impl Iterator<Item = IpAddr> {
        let own = |addr: &IpAddr| !self.excluded.contains(addr);
        node.addresses.iter().copied().filter(own)
    }

    /// What every node serves of the port, if it is a NodePort; where a node differs its frontends go to `services`.
    pub(super) fn node_port(
        &self,
        port: Port<'_>,
        endpoints: &BTreeMap<Backend, &SliceEndpoint>,
        backends: &Backends,
        services: &mut Vec<Service>,
    ) -> Option<Service> {
        let number = port.port.node_port?;
        let frontend = |addr, chosen: &[Backend], serving: &[Backend]| {
            let key = port.key(addr, number);
            port.frontend(Frontend::NodePort, key, chosen, serving, backends.anywhere)
        };
        let chosen: &[Backend] = if port.service.external_local {
            services.extend(self.own_backends(port, endpoints, frontend));
            &[]
        } else {
            &backends.cluster
        };
        let mut anywhere = frontend(port.cluster_ip, chosen, &backends.serving);
        anywhere.key = anywhere.key.at_any_node();
        Some(anywhere)
    }

    /// Frontends of nodes that have backends of their own.
    fn own_backends(
        &self,
        port: Port<'_>,
        endpoints: &BTreeMap<Backend, &SliceEndpoint>,
        frontend: impl Fn(IpAddr, &[Backend], &[Backend]) -> Service,
    ) -> Vec<Service> {
        let mut by_node: BTreeMap<&str, BTreeMap<Backend, &SliceEndpoint>> = BTreeMap::new();
        for (backend, endpoint) in endpoints {
            if let Some(node) = endpoint.node.as_deref().filter(|node| *node != self.local) {
                by_node.entry(node).or_default().insert(*backend, endpoint);
            }
        }
        let mut services = Vec::new();
        for (name, endpoints) in by_node {
            let own = Backends::of(&endpoints, Place { node: name, zone: "" });
            let Some(node) = self.nodes.get(name).filter(|_| !own.local.is_empty()) else {
                continue;
            };
            let addresses = self.addresses_of(node).filter(|addr| port.is_of_family(*addr));
            services.extend(addresses.map(|addr| frontend(addr, &own.local, &own.serving)));
        }
        services
    }
}
