//! Kubernetes objects as the index keeps them: only what policy needs, validated.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;
use jiff::Timestamp;
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1 as discovery;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use policy::{PodName, Protocol};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::field::{Fault, FaultKind, Faults};
use crate::rule::{Policy, PolicyKey, PolicyKind};
use crate::{cnp, networkpolicy};

/// Kind of an object that the index keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[expect(missing_docs, reason = "the names are Kubernetes' own")]
pub enum Kind {
    Namespace,
    Node,
    Pod,
    Service,
    EndpointSlice,
    NetworkPolicy,
    CiliumNetworkPolicy,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 7] = [
        Self::Namespace,
        Self::Node,
        Self::Pod,
        Self::Service,
        Self::EndpointSlice,
        Self::NetworkPolicy,
        Self::CiliumNetworkPolicy,
    ];

    /// The kind as Kubernetes writes it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Namespace => "Namespace",
            Self::Node => "Node",
            Self::Pod => "Pod",
            Self::Service => "Service",
            Self::EndpointSlice => "EndpointSlice",
            Self::NetworkPolicy => "NetworkPolicy",
            Self::CiliumNetworkPolicy => "CiliumNetworkPolicy",
        }
    }

    const fn api_version(self) -> &'static str {
        match self {
            Self::Namespace | Self::Node | Self::Pod | Self::Service => "v1",
            Self::EndpointSlice => "discovery.k8s.io/v1",
            Self::NetworkPolicy => "networking.k8s.io/v1",
            Self::CiliumNetworkPolicy => "cilium.io/v2",
        }
    }

    const fn is_namespaced(self) -> bool {
        !matches!(self, Self::Namespace | Self::Node)
    }
}

/// Name of an object.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectKey {
    /// Its kind.
    pub kind: Kind,
    /// `metadata.namespace`; empty for cluster-scoped kinds.
    pub namespace: String,
    /// `metadata.name`.
    pub name: String,
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ", self.kind.name())?;
        if !self.namespace.is_empty() {
            write!(f, "{}/", self.namespace)?;
        }
        f.write_str(&self.name)
    }
}

/// A named port of a container.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NamedPort {
    /// `spec.containers[].ports[].name`.
    pub name: String,
    /// Its protocol.
    pub protocol: Protocol,
    /// Its number.
    pub port: u16,
}

/// A pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pod {
    /// `metadata.labels`.
    pub labels: BTreeMap<String, String>,
    /// `spec.serviceAccountName`.
    pub service_account: String,
    /// `status.podIPs`; empty for pods of the host's network and for finished ones.
    pub addresses: Vec<IpAddr>,
    /// Whether the pod shares its node's network.
    pub host_network: bool,
    /// Whether the pod is being deleted.
    pub deleting: bool,
    /// `metadata.creationTimestamp`.
    pub created: Option<Timestamp>,
    /// Named container ports, sorted.
    pub ports: Vec<NamedPort>,
}

/// A node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// `status.addresses` of type `InternalIP` or `ExternalIP`.
    pub addresses: Vec<IpAddr>,
    /// `spec.podCIDRs`.
    pub pod_cidrs: Vec<IpNet>,
}

/// One port of a Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServicePort {
    /// `name`; empty for the only port of a Service.
    pub name: String,
    /// `protocol`.
    pub protocol: Protocol,
    /// `port`.
    pub port: u16,
}

/// A Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceObject {
    /// `spec.clusterIPs`; empty for headless and external-name services.
    pub cluster_ips: Vec<IpAddr>,
    /// `spec.ports`.
    pub ports: Vec<ServicePort>,
}

/// An EndpointSlice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slice {
    /// Label `kubernetes.io/service-name`.
    pub service: String,
    /// First address of each ready endpoint.
    pub addresses: Vec<IpAddr>,
    /// `ports`: (name, protocol, number).
    pub ports: Vec<ServicePort>,
}

/// An object.
#[derive(Debug, Clone)]
pub enum ObjectBody {
    /// A Namespace's labels.
    Namespace(BTreeMap<String, String>),
    /// A Node.
    Node(Node),
    /// A Pod.
    Pod(Pod),
    /// A Service.
    Service(ServiceObject),
    /// An EndpointSlice; `None` if it belongs to no Service.
    EndpointSlice(Option<Slice>),
    /// A policy of either kind.
    Policy(Box<Policy>),
}

/// An object and its name.
#[derive(Debug, Clone)]
pub struct Object {
    /// Its name.
    pub key: ObjectKey,
    /// The rest.
    pub body: ObjectBody,
}

/// What a document turned out to be.
#[derive(Debug)]
pub enum Decoded {
    /// An object for the index.
    Object(Box<Object>),
    /// An object of a kind that has nothing to do with policy.
    Ignored,
    /// An object that is refused.
    Invalid {
        /// Its name, if that much could be read.
        key: Option<ObjectKey>,
        /// What is wrong.
        faults: Vec<Fault>,
    },
}

/// Groups whose kinds restrict traffic: one that is not supported is a fault, not ignorable.
const POLICY_GROUPS: [&str; 3] = ["cilium.io", "networking.k8s.io", "policy.networking.k8s.io"];

/// Kinds of those groups that do not restrict what pods may exchange.
const HARMLESS: [&str; 8] = [
    "Ingress",
    "IngressClass",
    "CiliumEndpoint",
    "CiliumIdentity",
    "CiliumNode",
    "IPAddress",
    "ServiceCIDR",
    "CiliumNodeConfig",
];

/// Reads one document.
#[must_use]
pub fn decode(value: &Value, cluster: &str) -> Decoded {
    let text = |path: &[&str]| {
        path.iter()
            .try_fold(value, |value, key| value.get(key))
            .and_then(Value::as_str)
    };
    let (Some(api_version), Some(kind_name)) = (text(&["apiVersion"]), text(&["kind"])) else {
        let missing = if text(&["kind"]).is_none() {
            "kind"
        } else {
            "apiVersion"
        };
        return Decoded::Invalid {
            key: None,
            faults: vec![fault(missing, FaultKind::Missing)],
        };
    };
    let group = api_version.rsplit_once('/').map_or("", |(group, _)| group);
    let Some(kind) = Kind::ALL
        .into_iter()
        .find(|k| k.name() == kind_name && same_group(k.api_version(), group))
    else {
        if POLICY_GROUPS.contains(&group) && !HARMLESS.contains(&kind_name) {
            let kind = FaultKind::Invalid {
                value: kind_name.to_owned(),
                expected: "a supported kind",
            };
            return Decoded::Invalid {
                key: None,
                faults: vec![fault("kind", kind)],
            };
        }
        return Decoded::Ignored;
    };
    let name = text(&["metadata", "name"]).unwrap_or_default();
    if !is_name(name) {
        let kind = FaultKind::Invalid {
            value: name.to_owned(),
            expected: "an object name",
        };
        return Decoded::Invalid {
            key: None,
            faults: vec![fault("metadata.name", kind)],
        };
    }
    let namespace = match text(&["metadata", "namespace"]) {
        _ if !kind.is_namespaced() => "",
        Some("") | None => "default",
        Some(namespace) => namespace,
    };
    if kind.is_namespaced() && !is_name(namespace) {
        let kind = FaultKind::Invalid {
            value: namespace.to_owned(),
            expected: "a namespace name",
        };
        return Decoded::Invalid {
            key: None,
            faults: vec![fault("metadata.namespace", kind)],
        };
    }
    let key = ObjectKey {
        kind,
        namespace: namespace.to_owned(),
        name: name.to_owned(),
    };
    if api_version != kind.api_version() {
        let kind = FaultKind::Invalid {
            value: api_version.to_owned(),
            expected: "a supported version",
        };
        return Decoded::Invalid {
            key: Some(key),
            faults: vec![fault("apiVersion", kind)],
        };
    }
    match body(value, &key, cluster) {
        Ok(body) => Decoded::Object(Box::new(Object { key, body })),
        Err(faults) => Decoded::Invalid {
            key: Some(key),
            faults,
        },
    }
}

fn same_group(api_version: &str, group: &str) -> bool {
    api_version.rsplit_once('/').map_or("", |(group, _)| group) == group
}

fn is_name(name: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'.' | b':');
    (1..=253).contains(&name.len()) && name.bytes().all(allowed)
}

fn fault(field: impl Into<String>, kind: FaultKind) -> Fault {
    Fault {
        field: field.into(),
        kind,
    }
}

fn body(value: &Value, key: &ObjectKey, cluster: &str) -> Result<ObjectBody, Vec<Fault>> {
    Ok(match key.kind {
        Kind::Namespace => ObjectBody::Namespace(
            typed::<core::Namespace>(value)?
                .metadata
                .labels
                .unwrap_or_default(),
        ),
        Kind::Node => ObjectBody::Node(node(typed(value)?)?),
        Kind::Pod => ObjectBody::Pod(pod(typed(value)?)?),
        Kind::Service => ObjectBody::Service(service(typed(value)?)?),
        Kind::EndpointSlice => ObjectBody::EndpointSlice(slice(typed(value)?)?),
        Kind::NetworkPolicy => {
            let object: NetworkPolicy = typed(value)?;
            let unknown = unknown_fields(value.get("spec"), &object.spec);
            if !unknown.is_empty() {
                return Err(unknown);
            }
            ObjectBody::Policy(Box::new(networkpolicy::decode(
                &object,
                &key.namespace,
                &key.name,
                cluster,
            )?))
        }
        Kind::CiliumNetworkPolicy => {
            ObjectBody::Policy(Box::new(cnp::decode(value, &key.namespace, &key.name, cluster)?))
        }
    })
}

impl ObjectKey {
    /// The object's name among policies, if it is one.
    #[must_use]
    pub fn policy(&self) -> Option<PolicyKey> {
        let kind = match self.kind {
            Kind::NetworkPolicy => PolicyKind::Kubernetes,
            Kind::CiliumNetworkPolicy => PolicyKind::Cilium,
            _ => return None,
        };
        Some(PolicyKey {
            kind,
            namespace: self.namespace.clone(),
            name: self.name.clone(),
        })
    }

    /// The object's name as a pod's.
    #[must_use]
    pub fn pod(&self) -> PodName {
        PodName {
            namespace: self.namespace.clone(),
            name: self.name.clone(),
        }
    }
}

fn typed<T: DeserializeOwned>(value: &Value) -> Result<T, Vec<Fault>> {
    serde_path_to_error::deserialize(value).map_err(|error| {
        let message = error.inner().to_string();
        vec![fault(error.path().to_string(), FaultKind::Typed { message })]
    })
}

/// Fields that are written but not part of the typed object: typed objects drop them silently, and a policy with a misspelt field
/// must not be enforced without it.
fn unknown_fields<T: Serialize>(written: Option<&Value>, read: &T) -> Vec<Fault> {
    let faults = Faults::default();
    match (written, serde_json::to_value(read)) {
        (Some(written), Ok(read)) => compare(written, &read, "spec", &faults),
        (Some(_), Err(error)) => faults.push(
            "spec",
            FaultKind::Typed {
                message: error.to_string(),
            },
        ),
        (None, _) => {}
    }
    faults.into_vec()
}

fn compare(written: &Value, read: &Value, path: &str, faults: &Faults) {
    match (written, read) {
        (Value::Object(written), Value::Object(read)) => {
            for (key, value) in written.iter().filter(|(_, value)| !value.is_null()) {
                let path = format!("{path}.{key}");
                match read.get(key) {
                    Some(read) => compare(value, read, &path, faults),
                    None => faults.push(path, FaultKind::Unknown),
                }
            }
        }
        (Value::Array(written), Value::Array(read)) => {
            for (i, (written, read)) in written.iter().zip(read).enumerate() {
                compare(written, read, &format!("{path}[{i}]"), faults);
            }
        }
        _ => {}
    }
}

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

fn node(node: core::Node) -> Result<Node, Vec<Fault>> {
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
    Ok(Node { addresses, pod_cidrs })
}

fn pod(pod: core::Pod) -> Result<Pod, Vec<Fault>> {
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
    let init = spec.init_containers.unwrap_or_default();
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
    Ok(Pod {
        labels: pod.metadata.labels.unwrap_or_default(),
        service_account: service_account.unwrap_or_else(|| "default".to_owned()),
        addresses,
        host_network,
        deleting: pod.metadata.deletion_timestamp.is_some(),
        created: pod.metadata.creation_timestamp.map(|time| time.0),
        ports,
    })
}

fn service(service: core::Service) -> Result<ServiceObject, Vec<Fault>> {
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
        });
    }
    Ok(ServiceObject { cluster_ips, ports })
}

fn slice(slice: discovery::EndpointSlice) -> Result<Option<Slice>, Vec<Fault>> {
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
    let mut addresses = Vec::new();
    for (i, endpoint) in slice.endpoints.into_iter().flatten().enumerate() {
        if endpoint.conditions.and_then(|conditions| conditions.ready) == Some(false) {
            continue;
        }
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
        addresses.push(addr);
    }
    let mut ports = Vec::new();
    for (i, port) in slice.ports.into_iter().flatten().enumerate() {
        let Some(number) = port.port else { continue };
        ports.push(ServicePort {
            name: port.name.unwrap_or_default(),
            protocol: protocol(port.protocol.as_deref(), || format!("ports[{i}].protocol"))?,
            port: port_number(number, || format!("ports[{i}].port"))?,
        });
    }
    Ok(Some(Slice {
        service,
        addresses,
        ports,
    }))
}
