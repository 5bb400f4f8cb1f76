//! From Kubernetes' types to what the index keeps.

use std::net::IpAddr;
use std::sync::LazyLock;

use ipnet::IpNet;
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1 as discovery;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use policy::Protocol;
use serde::Deserialize;
use serde_json::Value;

use super::{CidrGroup, NamedPort, Node, Pod, ServiceObject, ServicePort, Slice, fault, typed};
use crate::api::{CiliumCIDRGroup, schema};
use crate::field::{Fault, FaultKind, Faults, Place};

fn address(text: &str, field: impl FnOnce() -> String) -> Result<IpAddr, Vec<Fault>> {
    let invalid = |_error| {
        vec![fault(
            field(),
            FaultKind::Invalid {
                value: text.to_owned(),
                expected: "an address",
            },
        )]
    };
    text.parse::<IpAddr>().map_err(invalid)
}

fn protocol(text: Option<&str>, field: impl FnOnce() -> String) -> Result<Protocol, Vec<Fault>> {
    match text {
        None | Some("" | "TCP") => Ok(Protocol::TCP),
        Some("UDP") => Ok(Protocol::UDP),
        Some("SCTP") => Ok(Protocol::SCTP),
        Some(other) => {
            let expected = "one of TCP, UDP, SCTP";
            Err(vec![fault(
                field(),
                FaultKind::Invalid {
                    value: other.to_owned(),
                    expected,
                },
            )])
        }
    }
}

fn port_number(number: i32, field: impl FnOnce() -> String) -> Result<u16, Vec<Fault>> {
    let invalid = || {
        vec![fault(
            field(),
            FaultKind::Invalid {
                value: number.to_string(),
                expected: "a port from 1 to 65535",
            },
        )]
    };
    u16::try_from(number)
        .ok()
        .filter(|port| *port != 0)
        .ok_or_else(invalid)
}

pub(super) fn node(node: core::Node) -> Result<Node, Vec<Fault>> {
    let mut addresses = Vec::new();
    let listed = node
        .status
        .and_then(|status| status.addresses)
        .unwrap_or_default();
    for (i, listed) in listed
        .iter()
        .enumerate()
        .filter(|(_, a)| matches!(a.type_.as_str(), "InternalIP" | "ExternalIP"))
    {
        addresses.push(address(&listed.address, || {
            format!("status.addresses[{i}].address")
        })?);
    }
    let spec = node.spec.unwrap_or_default();
    let written = spec
        .pod_cidrs
        .unwrap_or_else(|| spec.pod_cidr.into_iter().collect());
    let mut pod_cidrs = Vec::new();
    for (i, text) in written.iter().enumerate().filter(|(_, text)| !text.is_empty()) {
        let invalid = |_error| {
            let kind = FaultKind::Invalid {
                value: text.clone(),
                expected: "an address with prefix length",
            };
            vec![fault(format!("spec.podCIDRs[{i}]"), kind)]
        };
        pod_cidrs.push(text.parse::<IpNet>().map_err(invalid)?.trunc());
    }
    Ok(Node {
        labels: node.metadata.labels.unwrap_or_default(),
        addresses,
        pod_cidrs,
    })
}

pub(super) fn pod(pod: core::Pod) -> Result<Pod, Vec<Fault>> {
    let spec = pod.spec.unwrap_or_default();
    let status = pod.status.unwrap_or_default();
    let host_network = spec.host_network.unwrap_or(false);
    let finished = matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"));
    let mut addresses = Vec::new();
    if !host_network && !finished {
        let listed: Vec<String> = match status.pod_ips {
            Some(list) if !list.is_empty() => list.into_iter().map(|entry| entry.ip).collect(),
            _ => status.pod_ip.into_iter().filter(|ip| !ip.is_empty()).collect(),
        };
        for (i, text) in listed.iter().enumerate() {
            addresses.push(address(text, || format!("status.podIPs[{i}].ip"))?);
        }
    }
    let mut ports = Vec::new();
    // Only those that stay beside the containers serve anything (`restartPolicy: Always`).
    let mut init = spec.init_containers.unwrap_or_default();
    for container in &mut init {
        if container.restart_policy.as_deref() != Some("Always") {
            container.ports = None;
        }
    }
    for (list, containers) in [("containers", spec.containers), ("initContainers", init)] {
        for (i, container) in containers.into_iter().enumerate() {
            for (j, port) in container.ports.into_iter().flatten().enumerate() {
                let field = |name: &str| format!("spec.{list}[{i}].ports[{j}].{name}");
                let Some(name) = port.name else { continue };
                ports.push(NamedPort {
                    name: name.to_ascii_lowercase(),
                    protocol: protocol(port.protocol.as_deref(), || field("protocol"))?,
                    port: port_number(port.container_port, || field("containerPort"))?,
                });
            }
        }
    }
    ports.sort_unstable();
    ports.dedup();
    let service_account = spec.service_account_name.filter(|name| !name.is_empty());
    // `kubernetes.io/config.mirror` is what makes it a mirror pod (kubernetes, `pkg/kubelet/types/pod_update.go`).
    let annotations = pod.metadata.annotations.unwrap_or_default();
    let mirrored = annotations
        .contains_key("kubernetes.io/config.mirror")
        .then(|| annotations.get("kubernetes.io/config.hash").cloned())
        .flatten();
    Ok(Pod {
        uid: pod.metadata.uid.unwrap_or_default(),
        mirrored,
        labels: pod.metadata.labels.unwrap_or_default(),
        service_account: service_account.unwrap_or_else(|| "default".to_owned()),
        addresses,
        host_network,
        deleting: pod.metadata.deletion_timestamp.is_some(),
        finished,
        created: pod.metadata.creation_timestamp.map(|time| time.0),
        ports,
    })
}

pub(super) fn service(service: core::Service) -> Result<ServiceObject, Vec<Fault>> {
    let spec = service.spec.unwrap_or_default();
    let written = match spec.cluster_ips {
        Some(list) if !list.is_empty() => list,
        _ => spec.cluster_ip.into_iter().collect(),
    };
    let external = spec.type_.as_deref() == Some("ExternalName");
    let mut cluster_ips = Vec::new();
    for (i, text) in written.iter().enumerate() {
        if !external && !matches!(text.as_str(), "" | "None") {
            cluster_ips.push(address(text, || format!("spec.clusterIPs[{i}]"))?);
        }
    }
    let mut ports = Vec::new();
    for (i, port) in spec.ports.into_iter().flatten().enumerate() {
        ports.push(ServicePort {
            name: port.name.unwrap_or_default(),
            protocol: protocol(port.protocol.as_deref(), || format!("spec.ports[{i}].protocol"))?,
            port: port_number(port.port, || format!("spec.ports[{i}].port"))?,
            node_port: match port.node_port {
                // Zero is how `omitempty` writes none.
                None | Some(0) => None,
                Some(number) => Some(port_number(number, || format!("spec.ports[{i}].nodePort"))?),
            },
        });
    }
    Ok(ServiceObject {
        labels: service.metadata.labels.unwrap_or_default(),
        selector: spec.selector.unwrap_or_default(),
        cluster_ips,
        ports,
    })
}

pub(super) fn slice(slice: discovery::EndpointSlice) -> Result<Option<Slice>, Vec<Fault>> {
    let Some(service) = slice
        .metadata
        .labels
        .and_then(|mut labels| labels.remove("kubernetes.io/service-name"))
    else {
        return Ok(None);
    };
    if slice.address_type == "FQDN" {
        return Ok(None);
    }
    let (mut addresses, mut unready) = (Vec::new(), Vec::new());
    for (i, endpoint) in slice.endpoints.into_iter().flatten().enumerate() {
        let ready = endpoint.conditions.and_then(|conditions| conditions.ready) != Some(false);
        // Consumers use the first address only (discovery/v1, `Endpoint.addresses`).
        let Some(text) = endpoint.addresses.first() else {
            continue;
        };
        let field = || format!("endpoints[{i}].addresses[0]");
        let addr = address(text, field)?;
        if addr.is_loopback() || addr.is_multicast() || addr.is_unspecified() {
            let kind = FaultKind::Invalid {
                value: text.clone(),
                expected: "a unicast address outside the loopback",
            };
            return Err(vec![fault(field(), kind)]);
        }
        if ready {
            addresses.push(addr);
        } else {
            unready.push(addr);
        }
    }
    let mut ports = Vec::new();
    for (i, port) in slice.ports.into_iter().flatten().enumerate() {
        let Some(number) = port.port else { continue };
        ports.push(ServicePort {
            name: port.name.unwrap_or_default(),
            protocol: protocol(port.protocol.as_deref(), || format!("ports[{i}].protocol"))?,
            port: port_number(number, || format!("ports[{i}].port"))?,
            node_port: None,
        });
    }
    Ok(Some(Slice {
        service,
        addresses,
        unready,
        ports,
    }))
}

static CIDR_GROUP: LazyLock<Value> = LazyLock::new(schema::of::<CiliumCIDRGroup>);

pub(super) fn cidr_group(value: &Value) -> Result<CidrGroup, Vec<Fault>> {
    #[derive(Deserialize)]
    struct Named {
        metadata: ObjectMeta,
    }
    let named: Named = typed(value)?;
    let (group, found) = schema::read::<CiliumCIDRGroup>(value, &CIDR_GROUP);
    let Some(group) = group else {
        return Err(found);
    };
    let faults = Faults::default();
    let place = Place::root(&faults).field("spec").field("externalCIDRs");
    let listed = group.spec.external_cidrs.iter().enumerate();
    let prefixes = listed
        .filter_map(|(i, cidr)| place.item(i).prefix(&cidr.0))
        .collect();
    let faults = schema::joined(found, faults.into_vec());
    if faults.is_empty() {
        Ok(CidrGroup {
            labels: named.metadata.labels.unwrap_or_default(),
            prefixes,
        })
    } else {
        Err(faults)
    }
}
