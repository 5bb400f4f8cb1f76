//! Services and EndpointSlices as the index keeps them.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1 as discovery;
use policy::Protocol;

use super::conversion::{address, port_number, prefix, protocol};
use super::fault;
use crate::field::{Fault, FaultKind};

/// Seconds of `sessionAffinity: ClientIP` that says nothing of them (core/v1, `DefaultClientIPServiceAffinitySeconds`).
const AFFINITY_S: u32 = 10_800;

/// Longest affinity (core/v1, `ClientIPConfig.timeoutSeconds`).
const MOST_AFFINITY_S: u32 = 86_400;

/// One port of a Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServicePort {
    /// `name`; empty for the only port of a Service.
    pub name: String,
    /// `protocol`.
    pub protocol: Protocol,
    /// `port`.
    pub port: u16,
    /// `nodePort`; only of Services that have one.
    pub node_port: Option<u16>,
}

/// A Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceObject {
    /// `metadata.labels`.
    pub labels: BTreeMap<String, String>,
    /// `spec.selector`; empty for a Service whose EndpointSlices others write.
    pub selector: BTreeMap<String, String>,
    /// `spec.clusterIPs`; empty for headless and external-name services.
    pub cluster_ips: Vec<IpAddr>,
    /// `spec.ports`.
    pub ports: Vec<ServicePort>,
    /// `spec.externalIPs`.
    pub external_ips: Vec<IpAddr>,
    /// `status.loadBalancer.ingress[].ip`, but for those with `ipMode: Proxy`.
    pub load_balancer_ips: Vec<IpAddr>,
    /// `spec.loadBalancerSourceRanges`.
    pub sources: Vec<IpNet>,
    /// Seconds of `spec.sessionAffinity: ClientIP`.
    pub affinity_s: Option<u32>,
    /// Whether `spec.internalTrafficPolicy` is `Local`.
    pub internal_local: bool,
    /// Whether `spec.externalTrafficPolicy` is `Local`.
    pub external_local: bool,
}

impl ServiceObject {
    /// Whether node proxies are to serve it: label `service.kubernetes.io/service-proxy-name` gives it to another one.
    #[must_use]
    pub fn is_proxied(&self) -> bool {
        !self
            .labels
            .contains_key("service.kubernetes.io/service-proxy-name")
    }
}

/// An endpoint of an EndpointSlice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SliceEndpoint {
    /// First address.
    pub addr: IpAddr,
    /// `conditions.ready`; true where nothing is said.
    pub ready: bool,
    /// `conditions.serving`; true where nothing is said.
    pub serving: bool,
    /// `conditions.terminating`.
    pub terminating: bool,
    /// `nodeName`.
    pub node: Option<String>,
    /// `hints.forZones`.
    pub zones: Vec<String>,
    /// `hints.forNodes`.
    pub nodes: Vec<String>,
}

/// An EndpointSlice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slice {
    /// Label `kubernetes.io/service-name`.
    pub service: String,
    /// Label `service.kubernetes.io/headless`: nothing for node proxies.
    pub is_headless: bool,
    /// `endpoints`.
    pub endpoints: Vec<SliceEndpoint>,
    /// `ports`: (name, protocol, number).
    pub ports: Vec<ServicePort>,
}

impl Slice {
    /// First address of each ready endpoint.
    pub fn ready(&self) -> impl Iterator<Item = IpAddr> {
        self.endpoints.iter().filter(|e| e.ready).map(|e| e.addr)
    }

    /// First address of each endpoint.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.endpoints.iter().map(|e| e.addr)
    }
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
    let mut external_ips = Vec::new();
    for (i, text) in spec.external_ips.into_iter().flatten().enumerate() {
        external_ips.push(address(&text, || format!("spec.externalIPs[{i}]"))?);
    }
    let mut sources = Vec::new();
    for (i, text) in spec.load_balancer_source_ranges.into_iter().flatten().enumerate() {
        // Validation admits white space round them, and kube-proxy cuts it off.
        sources.push(prefix(text.trim(), || {
            format!("spec.loadBalancerSourceRanges[{i}]")
        })?);
    }
    let ingress = service
        .status
        .and_then(|status| status.load_balancer)
        .and_then(|balancer| balancer.ingress);
    let mut load_balancer_ips = Vec::new();
    for (i, ingress) in ingress.into_iter().flatten().enumerate() {
        // Of a balancer that proxies the node sees its own connections only.
        let is_vip = ingress.ip_mode.is_none_or(|mode| mode == "VIP");
        if let Some(text) = ingress.ip.filter(|text| is_vip && !text.is_empty()) {
            let field = || format!("status.loadBalancer.ingress[{i}].ip");
            load_balancer_ips.push(address(&text, field)?);
        }
    }
    let timeout = spec
        .session_affinity_config
        .and_then(|config| config.client_ip)
        .and_then(|config| config.timeout_seconds);
    Ok(ServiceObject {
        labels: service.metadata.labels.unwrap_or_default(),
        selector: spec.selector.unwrap_or_default(),
        cluster_ips,
        ports,
        external_ips,
        load_balancer_ips,
        sources,
        affinity_s: affinity(spec.session_affinity.as_deref(), timeout)?,
        internal_local: spec.internal_traffic_policy.as_deref() == Some("Local"),
        external_local: spec.external_traffic_policy.as_deref() == Some("Local"),
    })
}

fn affinity(kind: Option<&str>, timeout: Option<i32>) -> Result<Option<u32>, Vec<Fault>> {
    let invalid = |field: &str, value: String, expected| {
        let kind = FaultKind::Invalid { value, expected };
        Err(vec![fault(format!("spec.{field}"), kind)])
    };
    match (kind, timeout) {
        (None | Some("" | "None"), _) => Ok(None),
        (Some("ClientIP"), None) => Ok(Some(AFFINITY_S)),
        (Some("ClientIP"), Some(seconds)) => match u32::try_from(seconds) {
            Ok(seconds) if (1..=MOST_AFFINITY_S).contains(&seconds) => Ok(Some(seconds)),
            _ => invalid(
                "sessionAffinityConfig.clientIP.timeoutSeconds",
                seconds.to_string(),
                "1 to 86400 seconds",
            ),
        },
        (Some(other), _) => invalid("sessionAffinity", other.to_owned(), "one of None, ClientIP"),
    }
}

pub(super) fn slice(slice: discovery::EndpointSlice) -> Result<Option<Slice>, Vec<Fault>> {
    let mut labels = slice.metadata.labels.unwrap_or_default();
    let Some(service) = labels.remove("kubernetes.io/service-name") else {
        return Ok(None);
    };
    if slice.address_type == "FQDN" {
        return Ok(None);
    }
    let mut endpoints = Vec::new();
    for (i, endpoint) in slice.endpoints.into_iter().flatten().enumerate() {
        let conditions = endpoint.conditions.unwrap_or_default();
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
        let hints = endpoint.hints.unwrap_or_default();
        endpoints.push(SliceEndpoint {
            addr,
            ready: conditions.ready != Some(false),
            serving: conditions.serving != Some(false),
            terminating: conditions.terminating == Some(true),
            node: endpoint.node_name.filter(|name| !name.is_empty()),
            zones: hints
                .for_zones
                .into_iter()
                .flatten()
                .map(|zone| zone.name)
                .collect(),
            nodes: hints
                .for_nodes
                .into_iter()
                .flatten()
                .map(|node| node.name)
                .collect(),
        });
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
        is_headless: labels.contains_key("service.kubernetes.io/headless"),
        endpoints,
        ports,
    }))
}
