//! The service table: Services, their frontends on this node, and the backends that EndpointSlices list.

use std::collections::HashMap;

use policy::{Backend, Service, ServiceKey, ServiceTable};

use crate::index::Index;

pub(super) fn services(index: &Index) -> ServiceTable {
    let mut slices: HashMap<(&str, &str), Vec<_>> = HashMap::new();
    for (name, slice) in index.slices() {
        slices
            .entry((&name.namespace, &slice.service))
            .or_default()
            .push(slice);
    }
    let node = index.local_node_addresses();
    let mut services = Vec::new();
    for (name, service) in index.services() {
        let slices = slices
            .get(&(name.namespace.as_str(), name.name.as_str()))
            .map(Vec::as_slice)
            .unwrap_or_default();
        let frontends = |port: &crate::object::ServicePort| {
            // A pod's packets to a NodePort of this node are translated at the pod, which keeps its identity; those of others
            // come through the kernel, masqueraded.
            let of_node = port
                .node_port
                .iter()
                .flat_map(|port| node.iter().map(|addr| (*addr, *port)));
            let own = service.cluster_ips.iter().map(|addr| (*addr, port.port));
            own.chain(of_node).collect::<Vec<_>>()
        };
        for port in &service.ports {
            for (addr, number) in frontends(port) {
                let mut backends: Vec<Backend> = Vec::new();
                for slice in slices {
                    let same =
                        |p: &&crate::object::ServicePort| p.name == port.name && p.protocol == port.protocol;
                    let Some(target) = slice.ports.iter().find(same) else {
                        continue;
                    };
                    let family = slice
                        .addresses
                        .iter()
                        .filter(|backend| backend.is_ipv4() == addr.is_ipv4());
                    backends.extend(family.map(|addr| Backend {
                        addr: *addr,
                        port: target.port,
                    }));
                }
                backends.sort_unstable_by_key(|backend| (backend.addr, backend.port));
                backends.dedup();
                services.push(Service {
                    name: name.to_string(),
                    key: ServiceKey {
                        addr,
                        port: number,
                        protocol: port.protocol,
                    },
                    backends,
                });
            }
        }
    }
    ServiceTable::new(services).with_node_addresses(node)
}
