//! The service table: Services, their frontends, and the backends that EndpointSlices list.
//!
//! Which Services are served, where, and by whom follows kube-proxy (kubernetes, `pkg/proxy`): a Service that has no ClusterIP of a
//! family, or that another proxy is to serve, has no frontend of that family.

mod backends;
mod other_nodes;

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

use policy::{Affinity, Backend, Frontend, PodName, Service, ServiceKey, ServiceTable, Unserved};

use self::backends::{Backends, Place};
use self::other_nodes::OtherNodes;
use crate::index::Index;
use crate::object::{ServiceObject, ServicePort, Slice, SliceEndpoint};

pub(super) fn services(index: &Index) -> ServiceTable {
    let mut slices: HashMap<(&str, &str), Vec<&Slice>> = HashMap::new();
    for (name, slice) in index.slices().iter().filter(|(_, slice)| !slice.is_headless) {
        slices
            .entry((&name.namespace, &slice.service))
            .or_default()
            .push(slice);
    }
    let place = Place {
        node: &index.config().node_name,
        zone: index.local_zone(),
    };
    let node = index.local_node_addresses();
    let mut services = host_ports(index, &node);
    let others = OtherNodes::of(index, &node);
    let mut node_ports = Vec::new();
    for (name, service) in index
        .services()
        .iter()
        .filter(|(_, service)| service.is_proxied())
    {
        let slices = slices
            .get(&(name.namespace.as_str(), name.name.as_str()))
            .map(Vec::as_slice)
            .unwrap_or_default();
        for port in &service.ports {
            for cluster_ip in &service.cluster_ips {
                let endpoints = endpoints(slices, port, cluster_ip.is_ipv4());
                let backends = Backends::of(&endpoints, place);
                let port = Port {
                    name,
                    service,
                    port,
                    cluster_ip: *cluster_ip,
                };
                services.extend(frontends(port, &backends, &node));
                if let Some(anywhere) = others.node_port(port, &endpoints, &backends, &mut services) {
                    node_ports.push(anywhere);
                }
            }
        }
    }
    ServiceTable::new(services).with_node_ports(others.addresses(), node_ports)
}

/// Endpoints of a Service's port in one family. Slices may have different numbers for one name of a port.
fn endpoints<'a>(
    slices: &[&'a Slice],
    port: &ServicePort,
    is_ipv4: bool,
) -> BTreeMap<Backend, &'a SliceEndpoint> {
    let mut endpoints = BTreeMap::new();
    for slice in slices {
        let same = |p: &&ServicePort| p.name == port.name && p.protocol == port.protocol;
        for target in slice.ports.iter().filter(same) {
            for endpoint in slice.endpoints.iter().filter(|e| e.addr.is_ipv4() == is_ipv4) {
                let backend = Backend {
                    addr: endpoint.addr,
                    port: target.port,
                };
                // Two pods may have had the address: the one that lives counts (kubernetes, `EndpointSliceCache.addEndpoints`).
                if !endpoint.terminating || !endpoints.contains_key(&backend) {
                    endpoints.insert(backend, endpoint);
                }
            }
        }
    }
    endpoints
}

/// A port of a Service in the family of one of its ClusterIPs.
#[derive(Debug, Clone, Copy)]
struct Port<'a> {
    name: &'a PodName,
    service: &'a ServiceObject,
    port: &'a ServicePort,
    cluster_ip: IpAddr,
}

impl Port<'_> {
    const fn key(self, addr: IpAddr, number: u16) -> ServiceKey {
        ServiceKey {
            addr,
            port: number,
            protocol: self.port.protocol,
        }
    }

    const fn is_of_family(self, addr: IpAddr) -> bool {
        addr.is_ipv4() == self.cluster_ip.is_ipv4()
    }

    /// A frontend that leads to `chosen`; `serving` are all that flows may stay with, and `anywhere` tells whether any node has one.
    fn frontend(
        self,
        frontend: Frontend,
        key: ServiceKey,
        chosen: &[Backend],
        serving: &[Backend],
        anywhere: bool,
    ) -> Service {
        let affinity = self.service.affinity_s.map(|timeout_s| Affinity {
            service: self.key(self.cluster_ip, self.port.port),
            timeout_s,
        });
        Service {
            name: self.name.to_string(),
            key,
            frontend,
            backends: chosen.to_vec(),
            draining: serving
                .iter()
                .filter(|backend| chosen.binary_search(backend).is_err())
                .copied()
                .collect(),
            unserved: if anywhere {
                Unserved::Drop
            } else {
                Unserved::Reject
            },
            affinity,
            sources: Vec::new(),
        }
    }
}

/// Where the port is reached, other nodes' addresses apart.
fn frontends(port: Port<'_>, backends: &Backends, node: &[IpAddr]) -> Vec<Service> {
    let Port {
        service, cluster_ip, ..
    } = port;
    let number = port.port.port;
    let frontend = |frontend, key: ServiceKey, is_local: bool| {
        let chosen = if is_local {
            &backends.local
        } else {
            &backends.cluster
        };
        port.frontend(frontend, key, chosen, &backends.serving, backends.anywhere)
    };
    let own_family = |addr: &&IpAddr| port.is_of_family(**addr);
    let mut frontends = vec![frontend(
        Frontend::ClusterIp,
        port.key(cluster_ip, number),
        service.internal_local,
    )];
    // What pods of this node send to external addresses is subject to no traffic policy, as if it went out and came back
    // (kubernetes, `pkg/proxy/nftables/proxier.go`, "short-circuit pod traffic").
    for addr in service.external_ips.iter().filter(own_family) {
        frontends.push(frontend(Frontend::ExternalIp, port.key(*addr, number), false));
    }
    let mut sources = service.sources.clone();
    sources.retain(|range| own_family(&&range.addr()));
    if sources.iter().any(|range| range.prefix_len() == 0) {
        sources.clear();
    }
    for addr in service.load_balancer_ips.iter().filter(own_family) {
        frontends.push(Service {
            sources: sources.clone(),
            ..frontend(Frontend::LoadBalancer, port.key(*addr, number), false)
        });
    }
    if let Some(number) = port.port.node_port {
        for addr in node.iter().filter(own_family) {
            frontends.push(frontend(Frontend::NodePort, port.key(*addr, number), false));
        }
    }
    frontends
}

/// Ports of the node that lead to one of its pods.
fn host_ports(index: &Index, node: &[IpAddr]) -> Vec<Service> {
    let mut services = Vec::new();
    for endpoint in index.endpoints().values() {
        let ports = index
            .object_of(endpoint)
            .filter(|indexed| !indexed.awaits_namespace())
            .map(|indexed| indexed.pod.host_ports.as_slice());
        for port in ports.unwrap_or_default() {
            let asked: Vec<IpAddr> = match port.addr {
                None => node.to_vec(),
                Some(addr) if addr.is_unspecified() => node
                    .iter()
                    .filter(|own| own.is_ipv4() == addr.is_ipv4())
                    .copied()
                    .collect(),
                Some(addr) if node.contains(&addr) => vec![addr],
                // Whoever may make a pod writes this field: with others' addresses it would take what is meant for them. (Loopback is
                // out of a pod's reach.)
                Some(_) => Vec::new(),
            };
            for addr in asked {
                let own = endpoint
                    .addresses
                    .iter()
                    .find(|own| own.is_ipv4() == addr.is_ipv4());
                services.extend(own.map(|own| Service {
                    frontend: Frontend::HostPort,
                    ..Service::cluster_ip(
                        endpoint.pod.to_string(),
                        ServiceKey {
                            addr,
                            port: port.port,
                            protocol: port.protocol,
                        },
                        vec![Backend {
                            addr: *own,
                            port: port.container_port,
                        }],
                    )
                }));
            }
        }
    }
    services
}
