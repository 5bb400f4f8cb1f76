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
#[derive(Debug, Clone, Default)]
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
