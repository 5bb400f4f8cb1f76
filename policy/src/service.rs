//! Services: (address, port, protocol) to backends.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use hashbrown::HashMap;
use hashbrown::hash_map::Entry;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::Protocol;

/// A Service's frontend as packets name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ServiceKey {
    /// ClusterIP, external address, or the node's address for a NodePort or hostPort; of a NodePort of all other nodes the unspecified
    /// address of its family.
    pub addr: IpAddr,
    /// `spec.ports[].port`, `spec.ports[].nodePort`, or a container's `ports[].hostPort`.
    pub port: u16,
    /// `spec.ports[].protocol`.
    pub protocol: Protocol,
}

impl ServiceKey {
    /// The key of this port at every other node that has an address of the family.
    #[must_use]
    pub const fn at_any_node(self) -> Self {
        let addr = match self.addr {
            IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        };
        Self { addr, ..self }
    }
}

/// What kind of address a frontend is; where two claim one key, the later kind has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Frontend {
    /// `spec.containers[].ports[].hostPort` of a pod of this node.
    HostPort,
    /// `spec.ports[].nodePort` at nodes' addresses.
    NodePort,
    /// `spec.externalIPs`.
    ExternalIp,
    /// `status.loadBalancer.ingress[].ip` with `ipMode: VIP`.
    LoadBalancer,
    /// `spec.clusterIPs`.
    ClusterIp,
}

/// An endpoint of an EndpointSlice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Backend {
    /// Pod address.
    pub addr: IpAddr,
    /// Pod port (targetPort).
    pub port: u16,
}

/// What becomes of a new flow while there is no backend for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Unserved {
    /// Nobody in the cluster serves it: its sender is told.
    Reject,
    /// Somebody does, but on no node that the traffic policy `Local` admits: silence.
    Drop,
}

/// Session affinity by the client's address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Affinity {
    /// The ClusterIP's key, by which all frontends of a Service's port share what is remembered.
    pub service: ServiceKey,
    /// `spec.sessionAffinityConfig.clientIP.timeoutSeconds`, since the client's last new flow.
    pub timeout_s: u32,
}

/// One frontend of one port of a Service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Service {
    /// `namespace/name`; a hostPort has its pod's.
    pub name: String,
    /// Where it is reached.
    pub key: ServiceKey,
    /// What kind of address that is.
    pub frontend: Frontend,
    /// Backends for new flows, by rising address and port once they are in a [`ServiceTable`].
    pub backends: Vec<Backend>,
    /// Backends that still serve but get no new flow here (terminating, or of another zone or node), in the same order.
    pub draining: Vec<Backend>,
    /// What new flows get without `backends`.
    pub unserved: Unserved,
    /// `spec.sessionAffinity: ClientIP`.
    pub affinity: Option<Affinity>,
    /// `spec.loadBalancerSourceRanges`; empty for everybody.
    pub sources: Vec<IpNet>,
}

impl Service {
    /// A ClusterIP without affinity or restriction.
    #[must_use]
    pub fn cluster_ip(name: impl Into<String>, key: ServiceKey, backends: Vec<Backend>) -> Self {
        Self {
            name: name.into(),
            key,
            frontend: Frontend::ClusterIp,
            backends,
            draining: Vec::new(),
            unserved: Unserved::Reject,
            affinity: None,
            sources: Vec::new(),
        }
    }

    /// Whether new flows may go to `backend`.
    #[must_use]
    pub fn offers(&self, backend: Backend) -> bool {
        self.backends.binary_search(&backend).is_ok()
    }

    /// Whether `backend` serves, be it only what it serves already.
    #[must_use]
    pub fn is_served_by(&self, backend: Backend) -> bool {
        self.offers(backend) || self.draining.binary_search(&backend).is_ok()
    }

    /// Whether a UDP flow may stay with `backend`: as long as that serves, or nobody does (kubernetes, `pkg/proxy/conntrack/cleanup.go`).
    #[must_use]
    pub fn keeps(&self, backend: Backend) -> bool {
        self.is_served_by(backend) || self.backends.is_empty() && self.draining.is_empty()
    }

    /// Whether a client with this address is let in.
    #[must_use]
    pub fn admits(&self, client: IpAddr) -> bool {
        self.sources.is_empty() || self.sources.iter().any(|range| range.contains(&client))
    }
}

/// What a destination is to the service table.
#[derive(Debug, Clone, Copy)]
pub enum ServiceLookup<'a> {
    /// Not a service address, or a port of an address that is not only a Service's.
    NotService,
    /// A ClusterIP, but the Service has no such port.
    NoSuchPort,
    /// A Service port; its backends may be empty.
    Service(&'a Service),
}

/// What an address is to Services.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Place {
    is_cluster_ip: bool,
    /// Whether it is another node's.
    is_node: bool,
}

/// All services.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ServiceTable {
    services: HashMap<ServiceKey, Service>,
    /// Addresses of frontends and of other nodes.
    addresses: HashMap<IpAddr, Place>,
    /// What is served at every other node's addresses, once and not per node ([`ServiceKey::at_any_node`]).
    node_ports: HashMap<ServiceKey, Service>,
}

impl ServiceTable {
    /// Builds the table. Of two services with one key that of the later [`Frontend`] wins, of equal ones the later.
    #[must_use]
    pub fn new(services: impl IntoIterator<Item = Service>) -> Self {
        let mut table = Self::default();
        for service in services {
            let is_cluster_ip = service.frontend == Frontend::ClusterIp;
            table.addresses.entry(service.key.addr).or_default().is_cluster_ip |= is_cluster_ip;
            insert(&mut table.services, service);
        }
        table
    }

    /// The table with what other nodes serve at each of their addresses `nodes`: `node_ports`, by [`ServiceKey::at_any_node`]. Where a
    /// node's address has a frontend of its own, that comes first.
    #[must_use]
    pub fn with_node_ports(
        mut self,
        nodes: impl IntoIterator<Item = IpAddr>,
        node_ports: impl IntoIterator<Item = Service>,
    ) -> Self {
        for addr in nodes {
            self.addresses.entry(addr).or_default().is_node = true;
        }
        for service in node_ports {
            insert(&mut self.node_ports, service);
        }
        self
    }

    /// Looks a destination up.
    #[must_use]
    pub fn lookup(&self, addr: IpAddr, port: u16, protocol: Protocol) -> ServiceLookup<'_> {
        let Some(place) = self.addresses.get(&addr) else {
            return ServiceLookup::NotService;
        };
        let key = ServiceKey { addr, port, protocol };
        let at_node = || self.node_ports.get(&key.at_any_node());
        match self.services.get(&key) {
            Some(service) => ServiceLookup::Service(service),
            None if place.is_cluster_ip => ServiceLookup::NoSuchPort,
            None if place.is_node => at_node().map_or(ServiceLookup::NotService, ServiceLookup::Service),
            None => ServiceLookup::NotService,
        }
    }

    /// Services that have an address of their own, in no order.
    pub fn iter(&self) -> impl Iterator<Item = &Service> {
        self.services.values()
    }

    /// What is served at all of [`Self::nodes`], in no order.
    pub fn node_ports(&self) -> impl Iterator<Item = &Service> {
        self.node_ports.values()
    }

    /// Addresses of other nodes, in no order.
    pub fn nodes(&self) -> impl Iterator<Item = IpAddr> {
        let nodes = self.addresses.iter().filter(|(_, place)| place.is_node);
        nodes.map(|(addr, _)| *addr)
    }
}

fn insert(services: &mut HashMap<ServiceKey, Service>, mut service: Service) {
    service.backends.sort_unstable();
    service.draining.sort_unstable();
    match services.entry(service.key) {
        Entry::Occupied(mut known) if known.get().frontend <= service.frontend => {
            known.insert(service);
        }
        Entry::Occupied(_) => {}
        Entry::Vacant(free) => {
            free.insert(service);
        }
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

    fn frontend() -> impl Strategy<Value = Frontend> {
        prop_oneof![
            Just(Frontend::ClusterIp),
            Just(Frontend::NodePort),
            Just(Frontend::ExternalIp)
        ]
    }

    fn backend(host: u8) -> Backend {
        Backend {
            addr: Ipv4Addr::new(10, 244, 0, host).into(),
            port: 5000,
        }
    }

    fn service(backends: &[u8], draining: &[u8]) -> Service {
        let key = ServiceKey {
            addr: Ipv4Addr::new(10, 96, 0, 1).into(),
            port: 80,
            protocol: Protocol::UDP,
        };
        let service = Service {
            draining: draining.iter().copied().map(backend).collect(),
            ..Service::cluster_ip("ns/web", key, backends.iter().copied().map(backend).collect())
        };
        let table = ServiceTable::new([service]);
        table.iter().next().cloned().expect("one service")
    }

    #[test]
    fn flows_stay_with_backends_that_serve_and_go_to_those_that_are_offered() {
        let service = service(&[9, 3, 5], &[8, 4]);
        assert!(
            [3, 5, 9]
                .into_iter()
                .map(backend)
                .all(|b| service.offers(b) && service.keeps(b))
        );
        assert!(
            [4, 8]
                .into_iter()
                .map(backend)
                .all(|b| !service.offers(b) && service.is_served_by(b) && service.keeps(b))
        );
        assert!(!service.keeps(backend(6)) && !service.is_served_by(backend(6)));
    }

    #[test]
    fn flows_stay_where_they_are_while_nobody_serves() {
        let unserved = service(&[], &[]);
        assert!(unserved.keeps(backend(6)) && !unserved.is_served_by(backend(6)));
        assert!(!service(&[], &[4]).keeps(backend(6)));
    }

    #[test]
    fn source_ranges_admit_their_addresses_and_none_admits_all() {
        let mut service = service(&[1], &[]);
        let inside = Ipv4Addr::new(10, 244, 0, 7).into();
        assert!(service.admits(inside));
        service.sources = vec!["10.244.0.0/24".parse().expect("prefix")];
        assert!(service.admits(inside));
        assert!(!service.admits(Ipv4Addr::new(10, 244, 1, 7).into()));
    }

    #[test]
    fn node_port_is_at_other_nodes_of_its_family_behind_their_own_frontends_and_cluster_ips() {
        let addr = |text: &str| text.parse::<IpAddr>().expect("address");
        let node_port = |addr, name: &str| Service {
            frontend: Frontend::NodePort,
            ..Service::cluster_ip(
                name,
                ServiceKey {
                    addr,
                    port: 30_008,
                    protocol: Protocol::TCP,
                },
                Vec::new(),
            )
        };
        let own = node_port(addr("172.18.0.4"), "ns/own");
        let vip = Service {
            frontend: Frontend::ClusterIp,
            key: ServiceKey {
                port: 80,
                ..node_port(addr("172.18.0.5"), "").key
            },
            ..node_port(addr("172.18.0.5"), "ns/vip")
        };
        let nodes = ["172.18.0.3", "172.18.0.4", "172.18.0.5", "fd00:18::3"].map(addr);
        let everywhere = node_port(node_port(nodes[0], "").key.at_any_node().addr, "ns/web");
        let table = ServiceTable::new([own, vip]).with_node_ports(nodes, [everywhere]);
        let found = |at: &str, port, protocol| match table.lookup(addr(at), port, protocol) {
            ServiceLookup::Service(service) => service.name.clone(),
            ServiceLookup::NoSuchPort => "no such port".into(),
            ServiceLookup::NotService => "none".into(),
        };
        for (at, port, protocol, name) in [
            ("172.18.0.3", 30_008, Protocol::TCP, "ns/web"),
            ("172.18.0.3", 30_008, Protocol::UDP, "none"),
            ("172.18.0.3", 30_009, Protocol::TCP, "none"),
            ("172.18.0.4", 30_008, Protocol::TCP, "ns/own"),
            ("172.18.0.5", 30_008, Protocol::TCP, "no such port"),
            ("fd00:18::3", 30_008, Protocol::TCP, "none"),
            ("172.18.0.9", 30_008, Protocol::TCP, "none"),
            ("0.0.0.0", 30_008, Protocol::TCP, "none"),
        ] {
            assert_eq!(found(at, port, protocol), name, "{at}:{port}");
        }
    }

    proptest! {
        #[test]
        fn lookup_tells_port_from_address_from_neither(
            frontends in proptest::collection::vec((key(), frontend()), 0..12),
            probes in proptest::collection::vec(key(), 32),
        ) {
            let services: Vec<Service> = frontends
                .iter()
                .enumerate()
                .map(|(i, (key, frontend))| Service {
                    frontend: *frontend,
                    ..Service::cluster_ip(format!("ns/{i}"), *key, Vec::new())
                })
                .collect();
            let table = ServiceTable::new(services.clone());
            for probe in probes.iter().chain(frontends.iter().map(|(key, _)| key)) {
                // Of equal maxima `max_by_key` takes the last.
                let wins = services.iter().filter(|s| s.key == *probe).max_by_key(|s| s.frontend);
                let at_address = |s: &&Service| s.key.addr == probe.addr;
                let is_cluster_ip =
                    services.iter().filter(at_address).any(|s| s.frontend == Frontend::ClusterIp);
                match table.lookup(probe.addr, probe.port, probe.protocol) {
                    ServiceLookup::Service(found) => prop_assert_eq!(Some(found), wins),
                    ServiceLookup::NoSuchPort => prop_assert!(wins.is_none() && is_cluster_ip),
                    ServiceLookup::NotService => prop_assert!(wins.is_none() && !is_cluster_ip),
                }
            }
        }
    }
}
