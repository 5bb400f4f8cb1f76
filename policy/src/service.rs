//! Services: (address, port, protocol) to backends.

use std::net::IpAddr;

use hashbrown::{HashMap, HashSet};
use serde::{Deserialize, Serialize};

use crate::Protocol;

/// A Service's frontend as packets name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ServiceKey {
    /// ClusterIP.
    pub addr: IpAddr,
    /// `spec.ports[].port`.
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
}

impl ServiceTable {
    /// Builds the table; of two services with one key the later wins.
    #[must_use]
    pub fn new(services: impl IntoIterator<Item = Service>) -> Self {
        let services: HashMap<_, _> = services.into_iter().map(|s| (s.key, s)).collect();
        let addresses = services.keys().map(|k| k.addr).collect();
        Self { services, addresses }
    }

    /// Looks a destination up.
    #[must_use]
    pub fn lookup(&self, addr: IpAddr, port: u16, protocol: Protocol) -> ServiceLookup<'_> {
        if !self.addresses.contains(&addr) {
            return ServiceLookup::NotService;
        }
        match self.services.get(&ServiceKey { addr, port, protocol }) {
            Some(service) => ServiceLookup::Service(service),
            None => ServiceLookup::NoSuchPort,
        }
    }

    /// Whether `addr` is any Service's address.
    #[must_use]
    pub fn is_service_address(&self, addr: IpAddr) -> bool {
        self.addresses.contains(&addr)
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
