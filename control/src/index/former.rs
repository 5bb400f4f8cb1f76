//! Pods whose object goes before their interface: deletion by force and the garbage collection of pods take it away, or call it
//! finished, while containers run.
//!
//! Invariants: an attachment has a former pod only while no object is that pod's, and only the pod that it has been for sure: one
//! with a uid. What is kept ends with the attachment.

use std::collections::BTreeMap;
use std::sync::Arc;

use policy::{EndpointKey, Identity, PodName, Protocol};

use super::{Index, IndexedPod, LocalEndpoint};
use crate::labels::{
    LabelSource, Labels, NAMESPACE, NAMESPACE_LABELS, PORT_LABELS, RESERVED_PREFIX, SERVICE_ACCOUNT,
};
use crate::object::{NamedPort, Pod};

/// The last that was known of a pod.
#[derive(Debug, Clone)]
pub(super) struct FormerPod {
    /// The attachment that it is kept for.
    key: EndpointKey,
    /// Its Namespace is gone, too: the next one of that name is not the pod's.
    is_orphan: bool,
    pub(super) pod: IndexedPod,
}

impl Index {
    /// The pod that an attachment was until its object went.
    pub(super) fn former_pod(&self, key: EndpointKey) -> Option<&IndexedPod> {
        let former = self.former.get(&key.slot)?;
        (former.key == key).then_some(&former.pod)
    }

    /// Whether the endpoint is a pod whose object is gone.
    #[must_use]
    pub fn is_former(&self, endpoint: &LocalEndpoint) -> bool {
        self.object_of(endpoint).is_none() && self.former_pod(endpoint.key).is_some()
    }

    /// Keeps `former` for the attachments whose object it was, or lets go where there is an object again; after the pod of that name
    /// was replaced.
    pub(super) fn succeed(&mut self, name: &PodName, former: Option<&IndexedPod>) {
        let is_gone = |former: &&IndexedPod| {
            let now = self.pods.get(name).map(|indexed| &indexed.pod);
            now.is_none_or(|now| now.uid != former.pod.uid || now.finished)
        };
        let former = former.filter(is_gone);
        let ended = self.pods.get(name).is_some_and(|indexed| indexed.pod.finished);
        // Cheap first: this runs for every pod.
        if former.is_none() && !ended && self.former.is_empty() {
            return;
        }
        let endpoints: Vec<LocalEndpoint> = self
            .endpoints
            .values()
            .filter(|endpoint| endpoint.pod == *name)
            .cloned()
            .collect();
        for endpoint in endpoints {
            let was = former.filter(|former| self.is_of(&endpoint, &former.pod));
            self.settle(&endpoint, was);
        }
    }

    /// Decides whether the endpoint has a former pod: `was` it, or one that its object calls finished.
    fn settle(&mut self, endpoint: &LocalEndpoint, was: Option<&IndexedPod>) {
        let ended = || {
            let indexed = self.pods.get(&endpoint.pod)?;
            let is_its_own = endpoint.uid.is_some() && is_same(endpoint, &indexed.pod);
            (is_its_own && indexed.pod.finished && self.former_pod(endpoint.key).is_none()).then_some(indexed)
        };
        if let Some(pod) = was.or_else(ended).filter(|pod| !pod.pod.uid.is_empty()).cloned() {
            let key = endpoint.key;
            let is_orphan =
                self.config.awaits_namespaces && !self.namespaces.contains_key(&endpoint.pod.namespace);
            self.former.insert(key.slot, FormerPod { key, is_orphan, pod });
            self.renew(endpoint);
        }
        if self.object_of(endpoint).is_some() {
            self.forget(endpoint.key);
        }
    }

    /// Lets go of what is kept for attachments that are not there any more, and looks again at the endpoint that has come or changed.
    pub(super) fn attachments_changed(&mut self, endpoint: Option<&LocalEndpoint>) {
        let is_there = |former: &FormerPod| {
            let endpoint = self.endpoints.get(&former.key.slot);
            endpoint.is_some_and(|endpoint| {
                let may_be = endpoint.uid.is_none() || is_same(endpoint, &former.pod.pod);
                endpoint.key == former.key && may_be
            })
        };
        let gone: Vec<EndpointKey> = self
            .former
            .values()
            .filter(|former| !is_there(former))
            .map(|former| former.key)
            .collect();
        for key in gone {
            self.forget(key);
        }
        if let Some(endpoint) = endpoint {
            self.settle(endpoint, None);
            self.renew(endpoint);
        }
    }

    fn forget(&mut self, key: EndpointKey) {
        if let Some(former) = self.former.remove(&key.slot) {
            self.changes.addresses = true;
            self.changes.named_ports |= !former.pod.pod.ports.is_empty();
        }
    }

    /// A Namespace is gone: its former pods keep what they had of it.
    pub(super) fn orphan_former_pods(&mut self, namespace: &str) {
        for (slot, former) in &mut self.former {
            let endpoint = self.endpoints.get(slot);
            former.is_orphan |= endpoint.is_some_and(|endpoint| endpoint.pod.namespace == namespace);
        }
    }

    /// Makes the identities of former pods anew.
    pub(super) fn renew_former_pods(&mut self, namespace: Option<&str>) {
        let affected: Vec<LocalEndpoint> = self
            .former
            .keys()
            .filter_map(|slot| self.endpoints.get(slot))
            .filter(|endpoint| namespace.is_none_or(|namespace| endpoint.pod.namespace == namespace))
            .cloned()
            .collect();
        for endpoint in affected {
            self.renew(&endpoint);
        }
    }

    fn renew(&mut self, endpoint: &LocalEndpoint) {
        let Some(before) = self.former_pod(endpoint.key).cloned() else {
            return;
        };
        let is_orphan = self
            .former
            .get(&endpoint.key.slot)
            .is_some_and(|former| former.is_orphan);
        let namespace = match is_orphan {
            true => before.namespace.clone(),
            false => self.namespace_of(&endpoint.pod, &before.pod),
        };
        let pod = self.identified(&endpoint.pod, before.pod, namespace, &endpoint.addresses);
        if (before.identity, before.identity6) != (pod.identity, pod.identity6) {
            self.changes.addresses = true;
            self.changes.named_ports |= !pod.pod.ports.is_empty();
        }
        if let Some(former) = self.former.get_mut(&endpoint.key.slot) {
            former.pod = pod;
        }
    }

    /// Keeps for an endpoint what a former process knew of its pod, by the labels of its identity, until an object tells more.
    pub(crate) fn restore_pod(&mut self, endpoint: &LocalEndpoint, labels: &Labels) {
        let Some(uid) = endpoint.uid.clone().filter(|uid| !uid.is_empty()) else {
            return;
        };
        if labels.namespace() != Some(&endpoint.pod.namespace) {
            return;
        }
        let (pod, namespace) = pod_of_labels(uid, endpoint, labels);
        let pod = IndexedPod {
            pod,
            namespace: Some(Arc::new(namespace)),
            labels: Labels::default(),
            identity: Identity::UNMANAGED,
            identity6: Identity::UNMANAGED,
        };
        let key = endpoint.key;
        self.former.insert(
            key.slot,
            FormerPod {
                key,
                is_orphan: false,
                pod,
            },
        );
        self.attachments_changed(Some(endpoint));
    }
}

/// Whether the object is of the very pod that the endpoint is, whatever has become of it.
pub(super) fn is_same(endpoint: &LocalEndpoint, pod: &Pod) -> bool {
    let is_its_own = match &endpoint.uid {
        Some(own) if !pod.uid.is_empty() => *own == pod.uid || pod.mirrored.as_ref() == Some(own),
        _ => {
            let listed = &pod.addresses;
            listed.is_empty() || listed.iter().any(|addr| endpoint.addresses.contains(addr))
        }
    };
    is_its_own && !pod.host_network
}

/// The pod that has an identity of these labels, and the labels of its Namespace.
fn pod_of_labels(uid: String, endpoint: &LocalEndpoint, labels: &Labels) -> (Pod, BTreeMap<String, String>) {
    let (mut own, mut namespace, mut ports) = (BTreeMap::new(), BTreeMap::new(), Vec::new());
    for (source, key, value) in labels.iter() {
        let of_namespace = key.strip_prefix(NAMESPACE_LABELS);
        match (source, of_namespace, port(key)) {
            (LabelSource::K8s, Some(key), _) => drop(namespace.insert(key.to_owned(), value.to_owned())),
            (LabelSource::K8s, None, _) if key == NAMESPACE || key.starts_with(RESERVED_PREFIX) => {}
            (LabelSource::Upstream, _, Some((name, protocol))) => {
                let numbers = value.split(',').filter_map(|number| number.parse().ok());
                ports.extend(numbers.map(|port| NamedPort {
                    name: name.to_owned(),
                    protocol,
                    port,
                }));
            }
            (LabelSource::K8s | LabelSource::Upstream, ..) => {
                drop(own.insert(key.to_owned(), value.to_owned()));
            }
            _ => {}
        }
    }
    let account = labels.get(LabelSource::K8s, SERVICE_ACCOUNT);
    let pod = Pod {
        uid,
        mirrored: None,
        labels: own,
        service_account: account.unwrap_or_default().to_owned(),
        addresses: endpoint.addresses.clone(),
        node: String::new(),
        host_network: false,
        deleting: false,
        finished: false,
        created: None,
        ports,
        host_ports: Vec::new(),
    };
    (pod, namespace)
}

/// Name and protocol of a label that stands for a container port.
fn port(key: &str) -> Option<(&str, Protocol)> {
    let (name, protocol) = key.strip_prefix(PORT_LABELS)?.split_once('/')?;
    let known = [Protocol::TCP, Protocol::UDP, Protocol::SCTP];
    Some((name, known.into_iter().find(|known| known.name() == protocol)?))
}
