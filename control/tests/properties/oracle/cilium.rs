//! CiliumNetworkPolicy and CiliumClusterwideNetworkPolicy (sections 1 and 2).

use serde_json::Value;

use super::cluster::{Cluster, End, Pod, Who, name_of, namespace_of};
use super::matching::{
    CLUSTER, Label, NAMESPACE, NAMESPACE_LABELS, cilium, in_block, in_cidr, key, keys, labels_of, list,
    plain, strings,
};
use super::{Direction, Said, Traffic};

/// A field that is written; null is not.
fn given<'a>(item: &'a Value, field: &str) -> Option<&'a Value> {
    item.get(field).filter(|value| !value.is_null())
}

impl Cluster {
    pub(super) fn cilium<'a>(
        &self,
        policy: &'a Value,
        subject: &Pod,
        direction: Direction,
        peer: &End<'_>,
        traffic: &Traffic<'_>,
        said: &mut Said<'a>,
    ) {
        // `None` for a clusterwide policy.
        let namespace = (policy["kind"] == "CiliumNetworkPolicy").then(|| namespace_of(policy));
        // If both are given both apply (1.1).
        let specs = given(policy, "spec").into_iter().chain(list(&policy["specs"]));
        for spec in specs.filter(|spec| selects(&spec["endpointSelector"], namespace, subject)) {
            let (allow, deny, asked) = match direction {
                Direction::Ingress => ("ingress", "ingressDeny", "ingress"),
                Direction::Egress => ("egress", "egressDeny", "egress"),
            };
            let (allow, deny) = (list(&spec[allow]), list(&spec[deny]));
            // Unset: true if there is a rule in the direction, also a deny rule (1.2, 2.1).
            said.default_deny |= spec["enableDefaultDeny"][asked]
                .as_bool()
                .unwrap_or(!allow.is_empty() || !deny.is_empty());
            let covers = |item, denies| self.covered(item, namespace, direction, peer, traffic, denies);
            said.denied |= deny.iter().any(|item| !covers(item, true).is_empty());
            for http in allow.iter().flat_map(|item| covers(item, false)) {
                match http {
                    Some(rules) => said.http.push(rules),
                    None => said.allowed = true,
                }
            }
        }
    }

    /// The ways in which a rule item covers the flow: one per matching port entry, with its HTTP rules.
    fn covered<'a>(
        &self,
        item: &'a Value,
        namespace: Option<&str>,
        direction: Direction,
        peer: &End<'_>,
        traffic: &Traffic<'_>,
        denies: bool,
    ) -> Vec<Option<&'a [Value]>> {
        let (to_ports, icmps) = (list(&item["toPorts"]), list(&item["icmps"]));
        let any_port = to_ports.is_empty() && icmps.is_empty();
        // Without peers: everyone on the ports; without ports as well: nobody (2.3).
        let from_or_to_here = self
            .peers(item, namespace, direction, peer, denies)
            .unwrap_or(!any_port);
        if !from_or_to_here {
            return Vec::new();
        }
        if any_port {
            return vec![None];
        }
        let mut ways = Vec::new();
        for to_port in to_ports {
            if list(&to_port["ports"])
                .iter()
                .any(|port| port_covers(port, traffic))
            {
                let http = list(&to_port["rules"]["http"]);
                ways.push((!http.is_empty()).then_some(http));
            }
        }
        let fields = icmps.iter().flat_map(|icmp| list(&icmp["fields"]));
        if fields.into_iter().any(|field| icmp_covers(field, traffic)) {
            ways.push(None);
        }
        ways
    }

    /// Whether the item's peers cover `peer`; `None` if it names no kind of peer. An empty list is nobody (2.3), also of
    /// `toFQDNs`, where Cilium takes it for everybody.
    ///
    /// Whoever has a pod CIDR's unknown address is denied what is denied to any part of the pod CIDRs, or to the world.
    fn peers(
        &self,
        item: &Value,
        namespace: Option<&str>,
        direction: Direction,
        peer: &End<'_>,
        denies: bool,
    ) -> Option<bool> {
        let denies_unknown = denies && matches!(peer.who, Who::Unmanaged);
        let field = |kind: &str| {
            let prefix = if direction == Direction::Ingress {
                "from"
            } else {
                "to"
            };
            given(item, &format!("{prefix}{kind}"))
        };
        let any = |value: &Value, covers: &dyn Fn(&Value) -> bool| Some(list(value).iter().any(covers));
        if let Some(selectors) = field("Endpoints") {
            return any(selectors, &|selector| {
                endpoints(selector, namespace, &peer.labels)
                    || denies_unknown && endpoints(selector, namespace, &[Label::reserved("world")])
            });
        }
        if let Some(entities) = field("Entities") {
            return any(entities, &|name| {
                entity(name.as_str().expect("entity"), peer) || denies_unknown && name == "world"
            });
        }
        // Prefixes select only what is outside the cluster (1.3).
        let outside = matches!(peer.who, Who::World);
        if let Some(cidrs) = field("CIDR") {
            return any(cidrs, &|cidr| {
                let cidr = cidr.as_str().expect("CIDR");
                outside && in_cidr(cidr, peer.addr)
                    || denies_unknown && self.holds_part_of_pod_cidrs(cidr, &Value::Null)
            });
        }
        if let Some(sets) = field("CIDRSet") {
            return any(sets, &|set| {
                self.cidr_set(set).into_iter().any(|cidr| {
                    outside && in_block(cidr, &set["except"], peer.addr)
                        || denies_unknown && self.holds_part_of_pod_cidrs(cidr, &set["except"])
                })
            });
        }
        if let Some(nodes) = field("Nodes") {
            // The implied `reserved:remote-node` leaves the local node out.
            let Who::RemoteNode(node) = peer.who else {
                return Some(false);
            };
            let labels: Vec<Label> = node
                .labels
                .iter()
                .map(|(key, value)| Label {
                    source: "node",
                    key: key.clone(),
                    value: value.clone(),
                })
                .collect();
            return any(nodes, &|selector| cilium(selector, &labels));
        }
        if direction == Direction::Ingress {
            return None;
        }
        if let Some(services) = field("Services") {
            return any(services, &|reference| self.to_service(reference, peer));
        }
        // No name is resolved: nobody.
        field("FQDNs").map(|_| false)
    }

    /// The prefixes that an entry of `fromCIDRSet`, `toCIDRSet` names.
    fn cidr_set<'a>(&'a self, set: &'a Value) -> Vec<&'a str> {
        if let Some(cidr) = given(set, "cidr") {
            return vec![cidr.as_str().expect("CIDR")];
        }
        // A group that is not there is empty.
        let selected = |group: &&Value| match given(set, "cidrGroupRef") {
            Some(name) => name == name_of(group),
            None => plain(&set["cidrGroupSelector"], &labels_of(group)),
        };
        let groups = self.cidr_groups.iter().filter(selected);
        groups
            .flat_map(|group| strings(&group["spec"]["externalCIDRs"]))
            .collect()
    }

    /// One entry of `toServices`.
    fn to_service(&self, reference: &Value, peer: &End<'_>) -> bool {
        let by_name = given(reference, "k8sService");
        let by_labels = given(reference, "k8sServiceSelector");
        let namespace = by_name.or(by_labels).expect("a service")["namespace"]
            .as_str()
            .unwrap_or_default();
        let named = |service: &Value| match (by_name, by_labels) {
            (Some(name), _) => name["serviceName"] == name_of(service),
            (None, Some(labels)) => plain(&labels["selector"], &labels_of(service)),
            (None, None) => false,
        };
        self.services
            .iter()
            .filter(|service| (namespace.is_empty() || namespace == namespace_of(service)) && named(service))
            .any(|service| {
                let of = namespace_of(service);
                let selector = service["spec"]["selector"]
                    .as_object()
                    .filter(|selector| !selector.is_empty());
                match (selector, peer.who) {
                    (Some(selector), Who::Pod(pod)) => {
                        pod.namespace == of
                            && selector
                                .iter()
                                .all(|(key, value)| pod.labels.get(key).map(String::as_str) == value.as_str())
                    }
                    (Some(_), _) => false,
                    (None, Who::World) => self.endpoints_of(of, name_of(service)).contains(&peer.addr),
                    (None, _) => false,
                }
            })
    }
}

/// Whether a policy's `endpointSelector` selects the pod; a CNP's always means its own namespace (1.8).
fn selects(selector: &Value, namespace: Option<&str>, pod: &Pod) -> bool {
    let Some(namespace) = namespace else {
        return cilium(selector, &pod.identity);
    };
    let mut selector = selector.clone();
    if let Some(labels) = selector["matchLabels"].as_object_mut() {
        labels.retain(|text, _| key(text).1 != NAMESPACE);
    }
    pod.namespace == namespace && cilium(&selector, &pod.identity)
}

/// A peer selector with what it implies (1.8).
fn endpoints(selector: &Value, namespace: Option<&str>, labels: &[Label]) -> bool {
    if !cilium(selector, labels) {
        return false;
    }
    let named = keys(selector);
    if named.iter().any(|(source, _)| *source == Some("reserved")) {
        return true;
    }
    let of_pods = |wanted: &dyn Fn(&str) -> bool| {
        named
            .iter()
            .any(|(source, key)| matches!(source, None | Some("k8s")) && wanted(key))
    };
    let has = |key: &str, value: Option<&str>| {
        labels
            .iter()
            .any(|l| l.source == "k8s" && l.key == key && value.is_none_or(|value| value == l.value))
    };
    let in_namespace = of_pods(&|key| key == NAMESPACE)
        || match namespace {
            Some(name) => of_pods(&|key| key.starts_with(NAMESPACE_LABELS)) || has(NAMESPACE, Some(name)),
            None => has(NAMESPACE, None),
        };
    let in_cluster = of_pods(&|key| key == CLUSTER) || has(CLUSTER, Some("default"));
    in_namespace && in_cluster
}

/// 1.4.
fn entity(name: &str, peer: &End<'_>) -> bool {
    let is = |name: &str| {
        peer.labels
            .iter()
            .any(|label| label.source == "reserved" && label.key == name)
    };
    match name {
        "all" => true,
        "none" => false,
        // There is one cluster: every pod is of it.
        "cluster" | "cluster-mesh" => {
            let members = [
                "host",
                "remote-node",
                "init",
                "ingress",
                "health",
                "unmanaged",
                "kube-apiserver",
            ];
            matches!(peer.who, Who::Pod(_)) || members.into_iter().any(is)
        }
        name => is(name),
    }
}

/// One entry of `toPorts[].ports` (1.5). No protocol is TCP, UDP and SCTP, never ICMP.
fn port_covers(entry: &Value, traffic: &Traffic<'_>) -> bool {
    let protocol = entry["protocol"].as_str().unwrap_or("ANY").to_uppercase();
    if !traffic.has_ports() || !["", "ANY", traffic.protocol].contains(&protocol.as_str()) {
        return false;
    }
    let text = entry["port"].as_str().expect("port");
    if text.chars().any(|c| c.is_ascii_alphabetic()) {
        return traffic.is_to_named_port(&text.to_lowercase());
    }
    let octal = text.len() > 1 && text.starts_with('0');
    let first = u64::from_str_radix(text, if octal { 8 } else { 10 }).expect("port number");
    let last = entry["endPort"].as_u64().unwrap_or(0).max(first);
    first == 0 || (first..=last).contains(&u64::from(traffic.port))
}

/// One entry of `icmps[].fields` (1.7): the type, never the code.
fn icmp_covers(field: &Value, traffic: &Traffic<'_>) -> bool {
    let v6 = field["family"] == "IPv6";
    let names: &[(&str, u64)] = if v6 {
        &[
            ("DestinationUnreachable", 1),
            ("PacketTooBig", 2),
            ("TimeExceeded", 3),
            ("EchoRequest", 128),
            ("EchoReply", 129),
        ]
    } else {
        &[
            ("EchoReply", 0),
            ("DestinationUnreachable", 3),
            ("Echo", 8),
            ("EchoRequest", 8),
            ("TimeExceeded", 11),
        ]
    };
    let kind = &field["type"];
    let by_name = names
        .iter()
        .find(|(name, _)| kind == name)
        .map(|(_, number)| *number);
    let number = by_name
        .or_else(|| kind.as_u64())
        .or_else(|| kind.as_str()?.parse().ok())
        .expect("ICMP type");
    traffic.protocol == if v6 { "ICMPv6" } else { "ICMP" } && number == u64::from(traffic.port)
}
