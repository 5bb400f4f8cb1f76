//! From Kubernetes' types to what the index keeps.

use std::net::IpAddr;
use std::sync::LazyLock;

use ipnet::IpNet;
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use policy::Protocol;
use serde::Deserialize;
use serde_json::Value;

use super::{CidrGroup, HostPort, NamedPort, Node, Pod, fault, typed};
use crate::api::{CiliumCIDRGroup, schema};
use crate::field::{Fault, FaultKind, Faults, Place};

pub(super) fn address(text: &str, field: impl FnOnce() -> String) -> Result<IpAddr, Vec<Fault>> {
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

pub(super) fn protocol(text: Option<&str>, field: impl FnOnce() -> String) -> Result<Protocol, Vec<Fault>> {
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

pub(super) fn port_number(number: i32, field: impl FnOnce() -> String) -> Result<u16, Vec<Fault>> {
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

pub(super) fn prefix(text: &str, field: impl FnOnce() -> String) -> Result<IpNet, Vec<Fault>> {
    let invalid = |_error| {
        let kind = FaultKind::Invalid {
            value: text.to_owned(),
            expected: "an address with prefix length",
        };
        vec![fault(field(), kind)]
    };
    Ok(text.parse::<IpNet>().map_err(invalid)?.trunc())
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
        pod_cidrs.push(prefix(text, || format!("spec.podCIDRs[{i}]"))?);
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
    let node = spec.node_name.filter(|_| !addresses.is_empty());
    let (mut ports, mut host_ports) = (Vec::new(), Vec::new());
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
                let published = port.host_port.filter(|number| *number != 0 && !host_network);
                if port.name.is_none() && published.is_none() {
                    continue;
                }
                let protocol = protocol(port.protocol.as_deref(), || field("protocol"))?;
                let number = port_number(port.container_port, || field("containerPort"))?;
                if let Some(name) = port.name {
                    ports.push(NamedPort {
                        name: name.to_ascii_lowercase(),
                        protocol,
                        port: number,
                    });
                }
                if let Some(published) = published {
                    let text = port.host_ip.filter(|text| !text.is_empty());
                    host_ports.push(HostPort {
                        addr: text.map(|text| address(&text, || field("hostIP"))).transpose()?,
                        port: port_number(published, || field("hostPort"))?,
                        protocol,
                        container_port: number,
                    });
                }
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
        node: node.unwrap_or_default(),
        host_network,
        deleting: pod.metadata.deletion_timestamp.is_some(),
        finished,
        created: pod.metadata.creation_timestamp.map(|time| time.0),
        ports,
        host_ports,
    })
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
