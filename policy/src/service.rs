//! Services: (address, port, protocol) to backends.

use std::net::IpAddr;

use hashbrown::{HashMap, HashSet};
use serde::{Deserialize, Serialize};

use crate::Protocol;

/// A Service's frontend as packets name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ServiceKey {
    /// ClusterIP, or the node's address for a NodePort.
    pub addr: IpAddr,
    /// `spec.ports[].port`, or `spec.ports[].nodePort`.
    pub port: u16,
    /// `spec.ports[].protocol`.
    pub protocol: Protocol,
}

/// A ready endpoint of an EndpointSlice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Backend {
    /// Pod address.
    pub addr: IpAddr,
    /// Pod port (targetPort).
    pub port: u16,
}

/// One port of a Service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Service {
    /// `namespace/name`.
    pub name: String,
    /// Frontend.
    pub key: ServiceKey,
    /// Ready backends, in a stable order.
    pub backends: Vec<Backend>,
}

/// What a destination is to the service table.
#[derive(Debug, Clone, Copy)]
pub enum ServiceLookup<'a> {
    /// Not a service address.
    NotService,
    /// A service address, but the Service has no such port.
    NoSuchPort,
    /// A Service port; its backends may be empty.
    Service(&'a Service),
}

/// All services.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ServiceTable {
    services: HashMap<ServiceKey, Service>,
    addresses: HashSet<IpAddr>,
    /// Addresses of the node: what is no NodePort on them is the node's own.
    node: HashSet<IpAddr>,
}

impl ServiceTable {
    /// Builds the table; of two services with one key the later wins.
    #[must_use]
    pub fn new(services: impl IntoIterator<Item = Service>) -> Self {
        let services: HashMap<_, _> = services.into_iter().map(|s| (s.key, s)).collect();
        let addresses = services.keys().map(|k| k.addr).collect();
        Self {
            services,
            addresses,
            node: HashSet::new(),
        }
    }

    /// The same with the node's addresses: a port of theirs that no Service has is no service at all.
    #[must_use]
    pub fn with_node_addresses(mut self, addresses: impl IntoIterator<Item = IpAddr>) -> Self {
        self.node = addresses.into_iter().collect();
        self
    }

    /// The node's addresses, in no order.
    pub fn node_addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.node.iter().copied()
    }

    /// Looks a destination up.
    #[must_use]
    pub fn lookup(&self, addr: IpAddr, port: u16, protocol: Protocol) -> ServiceLookup<'_> {
        if !self.addresses.contains(&addr) {
            return ServiceLookup::NotService;
        }
        match self.services.get(&ServiceKey { addr, port, protocol }) {
            Some(service) => ServiceLookup::Service(service),
            None if self.node.contains(&addr) => ServiceLookup::NotService,
            None => ServiceLookup::NoSuchPort,
        }
    }

    /// Whether `addr` is a Service's own address, and not the node's.
    #[must_use]
    pub fn is_service_address(&self, addr: IpAddr) -> bool {
        self.addresses.contains(&addr) && !self.node.contains(&addr)
    }

    /// All services, in no order.
    pub fn iter(&self) -> impl Iterator<Item = &Service> {
        self.services.values()
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use proptest::prelude::*;

    use super::*;

    fn key() -> impl Strategy<Value = ServiceKey> {
        let protocol = prop_oneof![Just(Protocol::TCP), Just(Protocol::UDP)];
        (0u8..4, 1u16..5, protocol).prop_map(|(host, port, protocol)| ServiceKey {
            addr: Ipv4Addr::new(10, 96, 0, host).into(),
            port,
            protocol,
        })
    }

    #[test]
    fn only_node_ports_of_a_node_are_services() {
        let node = Ipv4Addr::new(10, 96, 0, 1).into();
        let key = ServiceKey {
            addr: node,
            port: 30_008,
            protocol: Protocol::TCP,
        };
        let service = Service {
            name: "ns/web".into(),
            key,
            backends: Vec::new(),
        };
        let table = ServiceTable::new([service.clone()]).with_node_addresses([node]);
        assert!(
            matches!(table.lookup(node, 30_008, Protocol::TCP), ServiceLookup::Service(found) if *found == service)
        );
        assert!(matches!(
            table.lookup(node, 22, Protocol::TCP),
            ServiceLookup::NotService
        ));
        assert!(!table.is_service_address(node));
    }

    proptest! {
        #[test]
        fn lookup_tells_port_from_address_from_neither(
            keys in proptest::collection::vec(key(), 0..12),
            probes in proptest::collection::vec(key(), 32),
        ) {
            let services: Vec<Service> = keys
                .iter()
                .enumerate()
                .map(|(i, key)| Service { name: format!("ns/{i}"), key: *key, backends: Vec::new() })
                .collect();
            let table = ServiceTable::new(services.clone());
            for probe in probes.iter().chain(&keys) {
                let last = services.iter().rfind(|s| s.key == *probe);
                let known_address = services.iter().any(|s| s.key.addr == probe.addr);
                prop_assert_eq!(table.is_service_address(probe.addr), known_address);
                match table.lookup(probe.addr, probe.port, probe.protocol) {
                    ServiceLookup::Service(found) => prop_assert_eq!(Some(found), last),
                    ServiceLookup::NoSuchPort => prop_assert!(last.is_none() && known_address),
                    ServiceLookup::NotService => prop_assert!(!known_address),
                }
            }
        }
    }
}
