//! The service table: Services, their frontends on this node, and the backends that EndpointSlices list.
//!
//! Which Services are served, where, and by whom follows kube-proxy (kubernetes, `pkg/proxy`): a Service that has no ClusterIP of a
//! family, or that another proxy is to serve, has no frontend of that family.

mod backends;

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

use policy::{Affinity, Backend, Frontend, PodName, Service, ServiceKey, ServiceTable, Unserved};

use self::backends::{Backends, Place};
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
                services.extend(frontends(name, service, port, *cluster_ip, &backends, &node));
            }
        }
    }
    ServiceTable::new(services)
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

/// Where a Service's port is reached, in the family of `cluster_ip`.
fn frontends(
    name: &PodName,
    service: &ServiceObject,
    port: &ServicePort,
    cluster_ip: IpAddr,
    backends: &Backends,
    node: &[IpAddr],
) -> Vec<Service> {
    let key = |addr, port_number| ServiceKey {
        addr,
        port: port_number,
        protocol: port.protocol,
    };
    let affinity = service.affinity_s.map(|timeout_s| Affinity {
        service: key(cluster_ip, port.port),
        timeout_s,
    });
    let frontend = |frontend, key: ServiceKey, is_local: bool| {
        let chosen = if is_local {
            &backends.local
        } else {
            &backends.cluster
        };
        let serving = backends.serving.iter();
        Service {
            name: name.to_string(),
            key,
            frontend,
            backends: chosen.clone(),
            draining: serving
                .filter(|backend| chosen.binary_search(backend).is_err())
                .copied()
                .collect(),
            unserved: if backends.anywhere {
                Unserved::Drop
            } else {
                Unserved::Reject
            },
            affinity,
            sources: Vec::new(),
        }
    };
    let own_family = |addr: &&IpAddr| addr.is_ipv4() == cluster_ip.is_ipv4();
    let mut frontends = vec![frontend(
        Frontend::ClusterIp,
        key(cluster_ip, port.port),
        service.internal_local,
    )];
    // What pods of this node send to external addresses is subject to no traffic policy, as if it went out and came back
    // (kubernetes, `pkg/proxy/nftables/proxier.go`, "short-circuit pod traffic").
    for addr in service.external_ips.iter().filter(own_family) {
        frontends.push(frontend(Frontend::ExternalIp, key(*addr, port.port), false));
    }
    let mut sources = service.sources.clone();
    sources.retain(|range| own_family(&&range.addr()));
    if sources.iter().any(|range| range.prefix_len() == 0) {
        sources.clear();
    }
    for addr in service.load_balancer_ips.iter().filter(own_family) {
        frontends.push(Service {
            sources: sources.clone(),
            ..frontend(Frontend::LoadBalancer, key(*addr, port.port), false)
        });
    }
    if let Some(number) = port.node_port {
        // Other nodes serve theirs themselves.
        for addr in node.iter().filter(own_family) {
            frontends.push(frontend(Frontend::NodePort, key(*addr, number), false));
        }
    }
    frontends
}

/// Ports of the node that lead to one of its pods.
fn host_ports(index: &Index, node: &[IpAddr]) -> Vec<Service> {
    let mut services = Vec::new();
    for endpoint in index.endpoints().values() {
        let ports = index
            .pod_of(endpoint)
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
