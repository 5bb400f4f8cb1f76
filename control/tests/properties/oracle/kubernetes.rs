//! NetworkPolicy (`networking.k8s.io/v1`) and ClusterNetworkPolicy (`policy.networking.k8s.io/v1beta1`) as upstream says.
//!
//! Both select pods by all their labels, and their prefixes cover pods and nodes as well.

use serde_json::Value;

use super::cluster::{Cluster, End, Pod, Who, namespace_of};
use super::matching::{Plain, in_block, in_cidr, list, plain, strings};
use super::{Direction, Said, Tier, Traffic};

impl Cluster {
    pub(super) fn network_policy(
        &self,
        policy: &Value,
        subject: &Pod,
        direction: Direction,
        peer: &End<'_>,
        traffic: &Traffic<'_>,
        said: &mut Said<'_>,
    ) {
        let spec = &policy["spec"];
        let namespace = namespace_of(policy);
        if subject.namespace != namespace || !plain(&spec["podSelector"], &subject.labels) {
            return;
        }
        // Without `policyTypes`: ingress always, egress if there are egress rules.
        let types = strings(&spec["policyTypes"]);
        let (rules, peers, name) = match direction {
            Direction::Ingress => (list(&spec["ingress"]), "from", "Ingress"),
            Direction::Egress => (list(&spec["egress"]), "to", "Egress"),
        };
        let by_default = direction == Direction::Ingress || !rules.is_empty();
        if !(types.contains(&name) || types.is_empty() && by_default) {
            return;
        }
        said.default_deny = true;
        said.allowed |= rules.iter().any(|rule| {
            let (peers, ports) = (list(&rule[peers]), list(&rule["ports"]));
            // No peers are everyone, no ports are everything.
            (peers.is_empty() || peers.iter().any(|p| self.is_peer(p, namespace, peer)))
                && (ports.is_empty() || ports.iter().any(|port| covers_port(port, traffic)))
        });
    }

    fn namespace_labels(&self, namespace: &str) -> Plain {
        self.namespaces.get(namespace).cloned().unwrap_or_default()
    }

    fn is_peer(&self, entry: &Value, namespace: &str, peer: &End<'_>) -> bool {
        if let Some(block) = entry.get("ipBlock").filter(|block| !block.is_null()) {
            let cidr = block["cidr"].as_str().expect("cidr");
            return !matches!(peer.who, Who::Unmanaged) && in_block(cidr, &block["except"], peer.addr);
        }
        let Who::Pod(pod) = peer.who else {
            return false;
        };
        let here = match &entry["namespaceSelector"] {
            Value::Null => pod.namespace == namespace,
            selector => plain(selector, &self.namespace_labels(&pod.namespace)),
        };
        here && plain(&entry["podSelector"], &pod.labels)
    }

    /// The first rule of a tier that matches decides: policies by priority, then name, then the order of the rules.
    pub(super) fn tier(
        &self,
        tier: &str,
        subject: &Pod,
        direction: Direction,
        peer: &End<'_>,
        traffic: &Traffic<'_>,
    ) -> Tier {
        let (rules, peers) = match direction {
            Direction::Ingress => ("ingress", "from"),
            Direction::Egress => ("egress", "to"),
        };
        // `policies` is in order of priority.
        let policies = self
            .policies
            .iter()
            .filter(|policy| policy["kind"] == "ClusterNetworkPolicy" && policy["spec"]["tier"] == tier)
            .filter(|policy| self.is_selected(&policy["spec"]["subject"], subject));
        let found = policies
            .flat_map(|policy| list(&policy["spec"][rules]))
            .find(|rule| {
                let protocols = list(&rule["protocols"]);
                let is_peer = |entry: &Value| {
                    self.is_cluster_peer(entry, peer)
                        || rule["action"] == "Deny" && self.may_be_denied_unknown(entry, peer)
                };
                list(&rule[peers]).iter().any(is_peer)
                    && (protocols.is_empty() || protocols.iter().any(|p| covers_protocol(p, traffic)))
            });
        match found.map(|rule| rule["action"].as_str().expect("action")) {
            Some("Accept") => Tier::Accept,
            Some("Deny") => Tier::Deny,
            Some("Pass") | None => Tier::Next,
            Some(other) => panic!("action {other}"),
        }
    }

    /// `namespaces` or `pods`, of a subject or of a peer.
    fn is_selected(&self, entry: &Value, pod: &Pod) -> bool {
        let namespace = self.namespace_labels(&pod.namespace);
        if entry["namespaces"].is_object() {
            return plain(&entry["namespaces"], &namespace);
        }
        let pods = &entry["pods"];
        pods.is_object()
            && plain(&pods["namespaceSelector"], &namespace)
            && plain(&pods["podSelector"], &pod.labels)
    }

    fn is_cluster_peer(&self, entry: &Value, peer: &End<'_>) -> bool {
        let node = match peer.who {
            Who::Pod(pod) if self.is_selected(entry, pod) => return true,
            Who::RemoteNode(node) => Some(node),
            Who::Host => self.local(),
            _ => None,
        };
        if entry["nodes"].is_object() {
            return node.is_some_and(|node| plain(&entry["nodes"], &node.labels));
        }
        // `domainNames` are nobody: no name is resolved.
        !matches!(peer.who, Who::Unmanaged)
            && strings(&entry["networks"])
                .iter()
                .any(|cidr| in_cidr(cidr, peer.addr))
    }

    /// Whom a pod CIDR's unknown address belongs to is not known: it is denied what is denied to any part of the pod CIDRs.
    fn may_be_denied_unknown(&self, entry: &Value, peer: &End<'_>) -> bool {
        matches!(peer.who, Who::Unmanaged)
            && strings(&entry["networks"])
                .iter()
                .any(|cidr| self.holds_part_of_pod_cidrs(cidr, &Value::Null))
    }
}

/// One entry of `ports` of a NetworkPolicy.
fn covers_port(entry: &Value, traffic: &Traffic<'_>) -> bool {
    if traffic.protocol != entry["protocol"].as_str().unwrap_or("TCP") {
        return false;
    }
    match &entry["port"] {
        Value::Null => true,
        Value::String(name) => traffic.is_to_named_port(name),
        number => {
            let first = number.as_u64().expect("port");
            let last = entry["endPort"].as_u64().unwrap_or(first);
            (first..=last).contains(&u64::from(traffic.port))
        }
    }
}

/// One entry of `protocols` of a ClusterNetworkPolicy.
fn covers_protocol(entry: &Value, traffic: &Traffic<'_>) -> bool {
    if let Some(name) = entry["destinationNamedPort"].as_str() {
        return traffic.is_to_named_port(name);
    }
    if !traffic.has_ports() {
        return false;
    }
    let Some(own) = entry.get(traffic.protocol.to_lowercase()) else {
        return false;
    };
    let port = &own["destinationPort"];
    let (first, last) = match (&port["number"], &port["range"]) {
        (Value::Null, Value::Null) => return true,
        (Value::Null, range) => (range["start"].as_u64(), range["end"].as_u64()),
        (number, _) => (number.as_u64(), number.as_u64()),
    };
    (first.expect("port")..=last.expect("port")).contains(&u64::from(traffic.port))
}
