//! What is known of the local node, and of its pods.

use std::collections::BTreeSet;
use std::net::IpAddr;

use policy::PodName;

use super::former::is_same;
use super::{Index, IndexedPod, LocalEndpoint};
use crate::object::Pod;

impl Index {
    /// The pod that a local endpoint is, if it is known, with its Namespace: by its object or, once that is gone, as it was last.
    #[must_use]
    pub fn pod_of(&self, endpoint: &LocalEndpoint) -> Option<&IndexedPod> {
        self.object_of(endpoint)
            .or_else(|| self.former_pod(endpoint.key))
            .filter(|indexed| !indexed.awaits_namespace())
    }

    /// The object of the very pod that a local endpoint is, whether its Namespace is known or not.
    #[must_use]
    pub fn object_of(&self, endpoint: &LocalEndpoint) -> Option<&IndexedPod> {
        let indexed = self.pods.get(&endpoint.pod)?;
        self.is_of(endpoint, &indexed.pod).then_some(indexed)
    }

    /// Whether the endpoint's own object is known, with its Namespace.
    #[must_use]
    pub fn is_described(&self, endpoint: &LocalEndpoint) -> bool {
        self.object_of(endpoint)
            .is_some_and(|indexed| !indexed.awaits_namespace())
    }

    /// Whether an object describes the endpoint: one that is finished or whose addresses are all others is of a former pod of that
    /// name, and one that has no address yet is the next one if it is another than was known.
    pub(super) fn is_of(&self, endpoint: &LocalEndpoint, pod: &Pod) -> bool {
        let is_next = || {
            let former = self.former_pod(endpoint.key);
            endpoint.uid.is_none()
                && pod.addresses.is_empty()
                && former.is_some_and(|former| former.pod.uid != pod.uid)
        };
        is_same(endpoint, pod) && !pod.finished && !is_next()
    }

    /// Label `topology.kubernetes.io/zone` of the local node; empty where it has none.
    #[must_use]
    pub fn local_zone(&self) -> &str {
        let node = self.nodes.get(&self.config.node_name);
        node.and_then(|node| node.labels.get("topology.kubernetes.io/zone"))
            .map_or("", String::as_str)
    }

    /// Addresses that the local node is known by: those that its Node object lists, and those that it was told of at start.
    #[must_use]
    pub fn local_node_addresses(&self) -> Vec<IpAddr> {
        let object = self
            .nodes
            .get(&self.config.node_name)
            .map(|node| node.addresses.as_slice())
            .unwrap_or_default();
        self.config.node_addresses.iter().chain(object).copied().collect()
    }

    /// Every address at which the node's processes are: its interfaces have more than its Node object lists.
    #[must_use]
    pub fn host_addresses(&self) -> BTreeSet<IpAddr> {
        let known = self.local_node_addresses();
        known
            .into_iter()
            .chain(self.interface_addresses.iter().copied())
            .collect()
    }

    /// Tells what addresses the node's interfaces have now; returns whether they are others than before.
    pub fn set_interface_addresses(&mut self, addresses: BTreeSet<IpAddr>) -> bool {
        let differ = self.interface_addresses != addresses;
        if differ {
            self.interface_addresses = addresses;
            self.changes.addresses = true;
            // Denied blocks hold one of them or do not.
            self.changes.prefixes |= !self.prefixes.is_empty();
            self.identify_apiservers();
        }
        differ
    }

    /// Pods of the local node that no local endpoint is, though they have addresses: nothing is enforced on them. None are those that
    /// have no network of their own, or none any more.
    pub fn pods_without_endpoint(&self) -> impl Iterator<Item = &PodName> {
        let covered: BTreeSet<&PodName> = self
            .endpoints
            .values()
            .filter(|endpoint| self.object_of(endpoint).is_some())
            .map(|endpoint| &endpoint.pod)
            .collect();
        let own = self.pods.iter().filter(|(_, indexed)| {
            let pod = &indexed.pod;
            pod.node == self.config.node_name
                && !pod.host_network
                && !pod.finished
                && !pod.addresses.is_empty()
        });
        own.map(|(name, _)| name)
            .filter(move |name| !covered.contains(name))
    }
}

#[cfg(test)]
mod tests {
    use policy::{EndpointKey, Slot, SlotGeneration};

    use super::*;
    use crate::index::IndexConfig;
    use crate::object::{self, Decoded};

    fn index() -> Index {
        Index::new(IndexConfig {
            node_name: "here".into(),
            ..IndexConfig::default()
        })
    }

    /// `spec` and `status` are what comes after `nodeName` and `podIPs` in JSON.
    fn apply(index: &mut Index, name: &str, node: &str, spec: &str, status: &str) {
        let text = format!(
            r#"{{"apiVersion": "v1", "kind": "Pod", "metadata": {{"namespace": "app", "name": "{name}", "uid": "u-{name}"}},
                "spec": {{"nodeName": "{node}", "containers": [] {spec}}}, "status": {{{status}}}}}"#
        );
        let Decoded::Object(object) = object::decode(&serde_json::from_str(&text).unwrap(), "default") else {
            panic!("{text}")
        };
        index.apply(*object);
    }

    const RUNNING: &str = r#""phase": "Running", "podIPs": [{"ip": "10.0.0.1"}]"#;

    fn endpoint(name: &str, uid: Option<&str>, address: &str) -> LocalEndpoint {
        LocalEndpoint {
            key: EndpointKey {
                slot: Slot::FIRST_ENDPOINT,
                generation: SlotGeneration(1),
            },
            pod: format!("app/{name}").parse().unwrap(),
            uid: uid.map(Into::into),
            addresses: vec![address.parse().unwrap()],
            audit: false,
        }
    }

    fn open(index: &Index) -> Vec<String> {
        index.pods_without_endpoint().map(ToString::to_string).collect()
    }

    #[test]
    fn pods_without_endpoint_are_those_of_this_node_that_have_a_network_of_their_own() {
        let mut index = index();
        apply(&mut index, "open", "here", "", RUNNING);
        let initialising = r#""phase": "Pending", "podIPs": [{"ip": "10.0.0.2"}]"#;
        apply(&mut index, "initialising", "here", "", initialising);
        apply(&mut index, "elsewhere", "there", "", RUNNING);
        apply(
            &mut index,
            "of-the-node",
            "here",
            r#", "hostNetwork": true"#,
            RUNNING,
        );
        apply(&mut index, "without-address", "here", "", r#""phase": "Pending""#);
        for phase in ["Succeeded", "Failed"] {
            let status = RUNNING.replace("Running", phase);
            apply(&mut index, &phase.to_lowercase(), "here", "", &status);
        }
        assert_eq!(open(&index), ["app/initialising", "app/open"]);
    }

    #[test]
    fn an_endpoint_covers_its_very_pod_and_not_a_successor_of_the_name() {
        let mut index = index();
        apply(&mut index, "a", "here", "", RUNNING);
        for (uid, address, expected) in [
            (Some("u-a"), "10.0.0.1", vec![]),
            (Some("u-former"), "10.0.0.1", vec!["app/a"]),
            (None, "10.0.0.1", vec![]),
            (None, "10.0.0.9", vec!["app/a"]),
        ] {
            index.apply_endpoint(endpoint("a", uid, address));
            assert_eq!(open(&index), expected, "{uid:?} {address}");
        }
        let key = endpoint("a", None, "10.0.0.1").key;
        index.delete_endpoint(key);
        assert_eq!(open(&index), ["app/a"]);
    }
}
