//! Kubernetes objects as the index keeps them: only what policy needs, validated.

mod conversion;
mod service;

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use policy::{PodName, Protocol};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

pub use self::service::{ServiceObject, ServicePort, Slice, SliceEndpoint};
use crate::field::{Fault, FaultKind, Faults};
use crate::rule::{Policy, PolicyKey, PolicyKind};
use crate::{clusternetworkpolicy, cnp, networkpolicy};

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
    ClusterNetworkPolicy,
    CiliumNetworkPolicy,
    CiliumClusterwideNetworkPolicy,
    CiliumCIDRGroup,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 10] = [
        Self::Namespace,
        Self::Node,
        Self::Pod,
        Self::Service,
        Self::EndpointSlice,
        Self::NetworkPolicy,
        Self::ClusterNetworkPolicy,
        Self::CiliumNetworkPolicy,
        Self::CiliumClusterwideNetworkPolicy,
        Self::CiliumCIDRGroup,
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
            Self::ClusterNetworkPolicy => "ClusterNetworkPolicy",
            Self::CiliumNetworkPolicy => "CiliumNetworkPolicy",
            Self::CiliumClusterwideNetworkPolicy => "CiliumClusterwideNetworkPolicy",
            Self::CiliumCIDRGroup => "CiliumCIDRGroup",
        }
    }

    /// Versions that are read, the preferred first; those of a kind differ in nothing but their name.
    const fn api_versions(self) -> &'static [&'static str] {
        match self {
            Self::Namespace | Self::Node | Self::Pod | Self::Service => &["v1"],
            Self::EndpointSlice => &["discovery.k8s.io/v1"],
            Self::NetworkPolicy => &["networking.k8s.io/v1"],
            Self::ClusterNetworkPolicy => &[
                "policy.networking.k8s.io/v1beta1",
                "policy.networking.k8s.io/v1alpha2",
            ],
            Self::CiliumNetworkPolicy | Self::CiliumClusterwideNetworkPolicy | Self::CiliumCIDRGroup => {
                &["cilium.io/v2"]
            }
        }
    }

    /// The resource's name in URLs.
    pub(crate) const fn plural(self) -> &'static str {
        match self {
            Self::Namespace => "namespaces",
            Self::Node => "nodes",
            Self::Pod => "pods",
            Self::Service => "services",
            Self::EndpointSlice => "endpointslices",
            Self::NetworkPolicy => "networkpolicies",
            Self::ClusterNetworkPolicy => "clusternetworkpolicies",
            Self::CiliumNetworkPolicy => "ciliumnetworkpolicies",
            Self::CiliumClusterwideNetworkPolicy => "ciliumclusterwidenetworkpolicies",
            Self::CiliumCIDRGroup => "ciliumcidrgroups",
        }
    }

    /// Group, empty for the core group, and version, the preferred first.
    pub(crate) fn group_versions(self) -> impl Iterator<Item = (&'static str, &'static str)> + Clone {
        let split = |text: &&'static str| text.split_once('/').unwrap_or(("", text));
        self.api_versions().iter().map(split)
    }

    /// Whether the kind comes by a CustomResourceDefinition.
    pub(crate) const fn is_defined(self) -> bool {
        matches!(
            self,
            Self::ClusterNetworkPolicy
                | Self::CiliumNetworkPolicy
                | Self::CiliumClusterwideNetworkPolicy
                | Self::CiliumCIDRGroup
        )
    }

    const fn is_namespaced(self) -> bool {
        !matches!(
            self,
            Self::Namespace
                | Self::Node
                | Self::ClusterNetworkPolicy
                | Self::CiliumClusterwideNetworkPolicy
                | Self::CiliumCIDRGroup
        )
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

/// A port of the node that leads to a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostPort {
    /// `hostIP`; `None` for every address of the node, an unspecified one for all of its family.
    pub addr: Option<IpAddr>,
    /// `hostPort`.
    pub port: u16,
    /// Its protocol.
    pub protocol: Protocol,
    /// `containerPort`.
    pub container_port: u16,
}

/// A pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pod {
    /// `metadata.uid`; empty where an object without one was read.
    pub uid: String,
    /// Of a mirror pod: the uid that the kubelet knows the static pod by (annotation `kubernetes.io/config.hash`).
    pub mirrored: Option<String>,
    /// `metadata.labels`.
    pub labels: BTreeMap<String, String>,
    /// `spec.serviceAccountName`.
    pub service_account: String,
    /// `status.podIPs`; empty for pods of the host's network and for finished ones.
    pub addresses: Vec<IpAddr>,
    /// `spec.nodeName` once it has addresses, empty before: scheduling alone changes nothing that policy is made of.
    pub node: String,
    /// Whether the pod shares its node's network.
    pub host_network: bool,
    /// Whether the pod is being deleted.
    pub deleting: bool,
    /// Whether its containers have ended for good (`status.phase` Succeeded or Failed).
    pub finished: bool,
    /// `metadata.creationTimestamp`.
    pub created: Option<Timestamp>,
    /// Named container ports, sorted.
    pub ports: Vec<NamedPort>,
    /// Container ports with a `hostPort`; none for pods of the host's network.
    pub host_ports: Vec<HostPort>,
}

/// A node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// `metadata.labels`.
    pub labels: BTreeMap<String, String>,
    /// `status.addresses` of type `InternalIP` or `ExternalIP`.
    pub addresses: Vec<IpAddr>,
    /// `spec.podCIDRs`.
    pub pod_cidrs: Vec<IpNet>,
}

/// A CiliumCIDRGroup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CidrGroup {
    /// `metadata.labels`.
    pub labels: BTreeMap<String, String>,
    /// `spec.externalCIDRs`.
    pub prefixes: Vec<IpNet>,
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
    /// A CiliumCIDRGroup.
    CidrGroup(CidrGroup),
    /// A policy of any kind.
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
        .find(|k| k.name() == kind_name && k.group_versions().any(|(known, _)| known == group))
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
    // `y` and `n` without quotes are booleans: such a name must not be taken for an absent one.
    for key in ["name", "namespace"] {
        let value = value.get("metadata").and_then(|metadata| metadata.get(key));
        if value.is_some_and(|value| !value.is_string()) {
            let kind = FaultKind::Type {
                expected: "a string (in quotes)",
                found: "something else",
            };
            return Decoded::Invalid {
                key: None,
                faults: vec![fault(format!("metadata.{key}"), kind)],
            };
        }
    }
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
    if !kind.api_versions().contains(&api_version) {
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
        Kind::Namespace => {
            ObjectBody::Namespace(typed::<Namespace>(value)?.metadata.labels.unwrap_or_default())
        }
        Kind::Node => ObjectBody::Node(conversion::node(typed(value)?)?),
        Kind::Pod => ObjectBody::Pod(conversion::pod(typed(value)?)?),
        Kind::Service => ObjectBody::Service(service::service(typed(value)?)?),
        Kind::EndpointSlice => ObjectBody::EndpointSlice(service::slice(typed(value)?)?),
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
        Kind::CiliumNetworkPolicy | Kind::CiliumClusterwideNetworkPolicy | Kind::ClusterNetworkPolicy => {
            let Some(name) = key.policy() else {
                return Err(vec![fault("kind", FaultKind::Unknown)]);
            };
            let policy = match key.kind {
                Kind::ClusterNetworkPolicy => clusternetworkpolicy::decode(value, name, cluster)?,
                _ => cnp::decode(value, name, cluster)?,
            };
            ObjectBody::Policy(Box::new(policy))
        }
        Kind::CiliumCIDRGroup => ObjectBody::CidrGroup(conversion::cidr_group(value)?),
    })
}

impl ObjectKey {
    /// The object's name among policies, if it is one.
    #[must_use]
    pub fn policy(&self) -> Option<PolicyKey> {
        let kind = match self.kind {
            Kind::NetworkPolicy => PolicyKind::Kubernetes,
            Kind::ClusterNetworkPolicy => PolicyKind::Cluster,
            Kind::CiliumNetworkPolicy => PolicyKind::Cilium,
            Kind::CiliumClusterwideNetworkPolicy => PolicyKind::CiliumClusterwide,
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
