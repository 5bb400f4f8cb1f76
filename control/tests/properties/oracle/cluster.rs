//! The cluster that policy is about: who has which address and which labels.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::net::IpAddr;

use serde_json::Value;

use super::Peer;
use super::matching::{
    CLUSTER, Label, NAMESPACE, NAMESPACE_LABELS, Plain, SERVICE_ACCOUNT, in_cidr, is_identity_label, is_part,
    labels_of, list, strings,
};

/// Name of the cluster.
const CLUSTER_NAME: &str = "default";

/// Addresses that [`Peer::World`] stands for.
const WORLD: [&str; 2] = ["203.0.113.250", "2001:db8:ffff::250"];

/// A named container port.
#[derive(Debug)]
pub struct NamedPort {
    pub name: String,
    pub protocol: String,
    pub number: u16,
}

#[derive(Debug)]
pub struct Pod {
    /// `namespace/name`.
    pub name: String,
    pub namespace: String,
    /// `metadata.labels`.
    pub labels: Plain,
    pub addresses: Vec<IpAddr>,
    pub ports: Vec<NamedPort>,
    pub host_network: bool,
    pub node: String,
    /// Labels that Cilium policies see.
    pub identity: Vec<Label>,
}

#[derive(Debug)]
pub struct Node {
    pub name: String,
    pub labels: Plain,
    pub addresses: Vec<IpAddr>,
}

/// Objects, read.
#[derive(Debug)]
pub struct Cluster {
    pub(super) namespaces: BTreeMap<String, Plain>,
    pub(super) nodes: Vec<Node>,
    pub(super) pods: Vec<Pod>,
    pub(super) services: Vec<Value>,
    pub(super) slices: Vec<Value>,
    pub(super) cidr_groups: Vec<Value>,
    /// Policies of all kinds; ClusterNetworkPolicies by rising priority, then name.
    pub(super) policies: Vec<Value>,
    local_node: String,
    pod_cidrs: Vec<String>,
}

/// Who an end of a flow is.
#[derive(Debug, Clone, Copy)]
pub(super) enum Who<'a> {
    /// A pod with a network of its own.
    Pod(&'a Pod),
    Host,
    RemoteNode(&'a Node),
    /// An address of a pod CIDR that is no pod's.
    Unmanaged,
    World,
}

#[derive(Debug)]
pub(super) struct End<'a> {
    pub who: Who<'a>,
    pub addr: IpAddr,
    /// Labels that Cilium policies see.
    pub labels: Cow<'a, [Label]>,
}

fn addresses(texts: impl Iterator<Item = Option<impl AsRef<str>>>) -> Vec<IpAddr> {
    texts
        .map(|text| text.expect("address").as_ref().parse().expect("address"))
        .collect()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// `metadata.namespace` of an object.
pub(super) fn namespace_of(object: &Value) -> &str {
    object["metadata"]["namespace"].as_str().unwrap_or("default")
}

/// `metadata.name` of an object.
pub(super) fn name_of(object: &Value) -> &str {
    object["metadata"]["name"].as_str().expect("name")
}

fn pod(object: &Value, namespaces: &BTreeMap<String, Plain>) -> Pod {
    let (spec, status) = (&object["spec"], &object["status"]);
    let namespace = namespace_of(object).to_owned();
    let labels = labels_of(object);
    // Init containers end before the pod runs, unless they are sidecars (`restartPolicy: Always`).
    let sidecars = list(&spec["initContainers"])
        .iter()
        .filter(|container| container["restartPolicy"] == "Always");
    let containers = list(&spec["containers"]).iter().chain(sidecars);
    let ports = containers
        .flat_map(|container| list(&container["ports"]))
        .filter(|port| port["name"].is_string())
        .map(|port| NamedPort {
            name: text(&port["name"]),
            protocol: port["protocol"].as_str().unwrap_or("TCP").to_owned(),
            number: u16::try_from(port["containerPort"].as_u64().expect("port")).expect("port"),
        })
        .collect();
    // What the pod says of itself counts only where the cluster does not say it (4.2).
    let mut identity: Plain = labels
        .iter()
        .filter(|(key, _)| !key.starts_with("io.cilium.k8s.") && is_identity_label(key))
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect();
    for (key, value) in namespaces.get(&namespace).into_iter().flatten() {
        identity.insert(format!("{NAMESPACE_LABELS}{key}"), value.clone());
    }
    let account = spec["serviceAccountName"].as_str().unwrap_or("default");
    identity.insert(NAMESPACE.to_owned(), namespace.clone());
    identity.insert(SERVICE_ACCOUNT.to_owned(), account.to_owned());
    identity.insert(CLUSTER.to_owned(), CLUSTER_NAME.to_owned());
    let identity = identity.into_iter().map(|(key, value)| Label {
        source: "k8s",
        key,
        value,
    });
    Pod {
        name: format!("{namespace}/{}", name_of(object)),
        namespace,
        labels,
        addresses: addresses(list(&status["podIPs"]).iter().map(|entry| entry["ip"].as_str())),
        ports,
        host_network: spec["hostNetwork"] == true,
        node: text(&spec["nodeName"]),
        identity: identity.collect(),
    }
}

fn node(object: &Value) -> Node {
    let listed = list(&object["status"]["addresses"])
        .iter()
        .filter(|entry| entry["type"] == "InternalIP" || entry["type"] == "ExternalIP");
    Node {
        name: name_of(object).to_owned(),
        labels: labels_of(object),
        addresses: addresses(listed.map(|entry| entry["address"].as_str())),
    }
}

impl Cluster {
    /// Reads objects as the node `local_node` sees them. `pod_cidrs` are those beside what Node objects say.
    pub fn from_objects(objects: &[Value], local_node: &str, pod_cidrs: &[&str]) -> Self {
        let of_kind = |kind: &'static str| objects.iter().filter(move |object| object["kind"] == kind);
        let namespaces: BTreeMap<String, Plain> = of_kind("Namespace")
            .map(|object| {
                let (name, mut labels) = (name_of(object).to_owned(), labels_of(object));
                // The API server sets it, whatever the manifest says.
                labels.insert("kubernetes.io/metadata.name".to_owned(), name.clone());
                (name, labels)
            })
            .collect();
        let mut policies: Vec<Value> = [
            "CiliumNetworkPolicy",
            "CiliumClusterwideNetworkPolicy",
            "NetworkPolicy",
            "ClusterNetworkPolicy",
        ]
        .into_iter()
        .flat_map(of_kind)
        .cloned()
        .collect();
        // Equal priorities leave the order to the implementation: by name here.
        policies.sort_by_key(|policy| (policy["spec"]["priority"].as_i64(), name_of(policy).to_owned()));
        let given = pod_cidrs.iter().map(|cidr| (*cidr).to_owned());
        let of_nodes = of_kind("Node").flat_map(|node| strings(&node["spec"]["podCIDRs"]));
        Self {
            pods: of_kind("Pod").map(|object| pod(object, &namespaces)).collect(),
            nodes: of_kind("Node").map(node).collect(),
            services: of_kind("Service").cloned().collect(),
            slices: of_kind("EndpointSlice").cloned().collect(),
            cidr_groups: of_kind("CiliumCIDRGroup").cloned().collect(),
            pod_cidrs: given.chain(of_nodes.map(str::to_owned)).collect(),
            local_node: local_node.to_owned(),
            namespaces,
            policies,
        }
    }

    /// Pods that this node judges: those with a network of their own that run here.
    pub fn local_pods(&self) -> impl Iterator<Item = &Pod> {
        self.pods
            .iter()
            .filter(|pod| !pod.host_network && self.is_local(pod))
    }

    /// All pods.
    pub fn pods(&self) -> &[Pod] {
        &self.pods
    }

    pub(super) fn is_local(&self, pod: &Pod) -> bool {
        pod.node.is_empty() || pod.node == self.local_node
    }

    /// The Node object of this node.
    pub(super) fn local(&self) -> Option<&Node> {
        self.nodes.iter().find(|node| node.name == self.local_node)
    }

    /// Addresses of the API server: the endpoints of `default/kubernetes` (4.3).
    fn is_api_server(&self, addr: IpAddr) -> bool {
        self.endpoints_of("default", "kubernetes").contains(&addr)
    }

    /// Addresses in the EndpointSlices of a Service.
    pub(super) fn endpoints_of(&self, namespace: &str, service: &str) -> Vec<IpAddr> {
        let slices = self.slices.iter().filter(|slice| {
            namespace_of(slice) == namespace
                && slice["metadata"]["labels"]["kubernetes.io/service-name"] == service
        });
        addresses(
            slices
                .flat_map(|slice| list(&slice["endpoints"]))
                .map(|endpoint| endpoint["addresses"][0].as_str()),
        )
    }

    /// The addresses that a flow between the two is sent from and to: a given address tells the family, else ICMPv6 does, else
    /// IPv4 where both have it.
    pub fn addresses(&self, from: &Peer, to: &Peer, protocol: &str) -> (IpAddr, IpAddr) {
        let is_v6 = |peer: &Peer| match peer {
            Peer::Address(addr) => Some(addr.is_ipv6()),
            _ => None,
        };
        let v6 = is_v6(from).or(is_v6(to)).unwrap_or(protocol == "ICMPv6");
        let pick = |addresses: &[IpAddr]| {
            let same = addresses.iter().find(|addr| addr.is_ipv6() == v6);
            *same.or(addresses.first()).expect("an address")
        };
        let addr = |peer: &Peer| match peer {
            Peer::Address(addr) => *addr,
            Peer::World => WORLD[usize::from(v6)].parse().expect("address"),
            Peer::Host => pick(&self.local().expect("local node").addresses),
            Peer::Pod(name) => {
                let pod = self.pods.iter().find(|pod| pod.name == *name).expect("pod");
                // A pod on its node's network has its node's addresses.
                let node = self.nodes.iter().find(|node| node.name == pod.node);
                pick(match (pod.host_network, node) {
                    (true, Some(node)) => &node.addresses,
                    _ => &pod.addresses,
                })
            }
        };
        (addr(from), addr(to))
    }

    pub(super) fn ends(&self, from: &Peer, to: &Peer, protocol: &str) -> (End<'_>, End<'_>) {
        let (from, to) = self.addresses(from, to, protocol);
        (self.end(from), self.end(to))
    }

    /// Whether `cidr` without `except` has addresses that are in a pod CIDR, too.
    pub(super) fn holds_part_of_pod_cidrs(&self, cidr: &str, except: &Value) -> bool {
        self.pod_cidrs.iter().any(|pods| {
            let common = if is_part(pods, cidr) { pods } else { cidr };
            is_part(common, pods) && !strings(except).iter().any(|part| is_part(common, part))
        })
    }

    /// Who has an address (4.3).
    fn end(&self, addr: IpAddr) -> End<'_> {
        let holder = self.nodes.iter().find(|node| node.addresses.contains(&addr));
        let pod = self
            .pods
            .iter()
            .find(|pod| !pod.host_network && pod.addresses.contains(&addr));
        let who = match (holder, pod) {
            (Some(node), _) if node.name == self.local_node => Who::Host,
            (Some(node), _) => Who::RemoteNode(node),
            (None, Some(pod)) => Who::Pod(pod),
            (None, None) if self.pod_cidrs.iter().any(|cidr| in_cidr(cidr, addr)) => Who::Unmanaged,
            (None, None) => Who::World,
        };
        let reserved = match who {
            Who::Pod(pod) => {
                let labels = Cow::Borrowed(pod.identity.as_slice());
                return End { who, addr, labels };
            }
            Who::Host => "host",
            Who::RemoteNode(_) => "remote-node",
            Who::Unmanaged => "unmanaged",
            Who::World => "world",
        };
        let mut labels = vec![Label::reserved(reserved)];
        // The host is one identity: it is the API server with any of its addresses.
        let api_server = match who {
            Who::Unmanaged => false,
            Who::Host => holder.is_some_and(|node| node.addresses.iter().any(|a| self.is_api_server(*a))),
            _ => self.is_api_server(addr),
        };
        if api_server {
            labels.push(Label::reserved("kube-apiserver"));
        }
        let labels = Cow::Owned(labels);
        End { who, addr, labels }
    }
}
