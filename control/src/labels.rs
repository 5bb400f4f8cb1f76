//! Labels: `source:key=value`, the content of an identity.
//!
//! Invariants: a key occurs once per source, so that no label can stand for one of another source (`10.0.0.0/8` is a valid key of a
//! pod's label, and also a prefix); what Kubernetes says of a pod (namespace, namespace labels, service account, cluster) cannot be
//! overridden by labels that the pod's owner writes.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

use crate::counted::Counted;

/// Label key of a pod's namespace.
pub const NAMESPACE: &str = "io.kubernetes.pod.namespace";
/// Prefix of the keys under which a namespace's labels become labels of its pods.
pub const NAMESPACE_LABELS: &str = "io.cilium.k8s.namespace.labels.";
/// Label key of a pod's service account.
pub const SERVICE_ACCOUNT: &str = "io.cilium.k8s.policy.serviceaccount";
/// Label key of a pod's cluster.
pub const CLUSTER: &str = "io.cilium.k8s.policy.cluster";
/// Label that the API server gives every namespace, with its name as value.
pub const METADATA_NAME: &str = "kubernetes.io/metadata.name";

/// Prefix of everything that only Kubernetes itself may say of a pod.
pub(crate) const RESERVED_PREFIX: &str = "io.cilium.k8s.";

/// Prefix of the keys, of source `upstream`, under which container ports that rules name are part of an identity.
pub(crate) const PORT_LABELS: &str = "port/";

/// Keys that stay although an ignored prefix matches them, when the match is longer (Cilium, `pkg/labelsfilter`).
const INCLUDED: &[&str] = &[
    NAMESPACE,
    "io.cilium.k8s.namespace.labels",
    "app.kubernetes.io",
    CLUSTER,
    SERVICE_ACCOUNT,
];

/// Prefixes of keys that are no part of an identity: they differ per pod or change without meaning.
const IGNORED: &[&str] = &[
    "io.kubernetes",
    "kubernetes.io",
    "k8s.io",
    "statefulset.kubernetes.io/pod-name",
    "apps.kubernetes.io/pod-index",
    "batch.kubernetes.io/job-completion-index",
    "batch.kubernetes.io/controller-uid",
    "pod-template-generation",
    "pod-template-hash",
    "controller-revision-hash",
    "controller-uid",
    "annotation",
    "etcd_node",
    "topology.kubernetes.io",
];

/// Ignored wherever it stands in a key.
const IGNORED_INFIX: &str = "beta.kubernetes.io";

/// Where a label comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum LabelSource {
    /// Kubernetes objects.
    K8s,
    /// Reserved identities.
    Reserved,
    /// Prefixes that rules mention.
    Cidr,
    /// Node objects.
    Node,
    /// CiliumCIDRGroup objects.
    CidrGroup,
    /// What Cilium's identities do not hold and upstream's policies ask for all the same: filtered pod labels, container ports.
    Upstream,
}

impl LabelSource {
    const ALL: [Self; 6] = [
        Self::K8s,
        Self::Reserved,
        Self::Cidr,
        Self::Node,
        Self::CidrGroup,
        Self::Upstream,
    ];

    /// The source as it is written before the colon.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::K8s => "k8s",
            Self::Reserved => "reserved",
            Self::Cidr => "cidr",
            Self::Node => "node",
            Self::CidrGroup => "cidrgroup",
            Self::Upstream => "upstream",
        }
    }
}

/// A set of labels, each key once per source.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Labels(Vec<Label>);

#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Label {
    key: String,
    source: LabelSource,
    value: String,
}

impl Labels {
    /// The label `source:key` alone.
    #[must_use]
    pub fn single(source: LabelSource, key: &str) -> Self {
        let mut labels = Self::default();
        labels.insert(source, key.to_owned(), String::new());
        labels
    }

    fn position(&self, source: LabelSource, key: &str) -> Result<usize, usize> {
        self.0
            .binary_search_by(|label| (label.key.as_str(), label.source).cmp(&(key, source)))
    }

    /// Value of the label `source:key`.
    #[must_use]
    pub fn get(&self, source: LabelSource, key: &str) -> Option<&str> {
        let at = self.position(source, key).ok()?;
        self.0.get(at).map(|label| label.value.as_str())
    }

    /// Sources and values of a key.
    pub fn of_key(&self, key: &str) -> impl Iterator<Item = (LabelSource, &str)> {
        let first = self.0.partition_point(|label| label.key.as_str() < key);
        let labels = self
            .0
            .iter()
            .skip(first)
            .take_while(move |label| label.key == key);
        labels.map(|label| (label.source, label.value.as_str()))
    }

    /// Source, key and value of each label, by rising key.
    pub fn iter(&self) -> impl Iterator<Item = (LabelSource, &str, &str)> {
        self.0
            .iter()
            .map(|Label { key, source, value }| (*source, key.as_str(), value.as_str()))
    }

    /// Adds or replaces the label `source:key`.
    pub fn insert(&mut self, source: LabelSource, key: String, value: String) {
        match self.position(source, &key) {
            Ok(at) => {
                if let Some(label) = self.0.get_mut(at) {
                    label.value = value;
                }
            }
            Err(at) => self.0.insert(at, Label { key, source, value }),
        }
    }

    /// Value of the pod's namespace label.
    #[must_use]
    pub fn namespace(&self) -> Option<&str> {
        self.get(LabelSource::K8s, NAMESPACE)
    }

    /// The labels as `source:key=value`, by rising key.
    #[must_use]
    pub fn to_strings(&self) -> Vec<String> {
        let text = |Label { key, source, value }: &Label| {
            if value.is_empty() {
                format!("{}:{key}", source.name())
            } else {
                format!("{}:{key}={value}", source.name())
            }
        };
        self.0.iter().map(text).collect()
    }

    /// Reads what [`Self::to_strings`] wrote; `None` if any entry is not of that form.
    #[must_use]
    pub fn from_strings<'a>(strings: impl IntoIterator<Item = &'a String>) -> Option<Self> {
        let mut labels = Self::default();
        for text in strings {
            let (source, rest) = text.split_once(':')?;
            let source = LabelSource::ALL.into_iter().find(|s| s.name() == source)?;
            let (key, value) = rest.split_once('=').unwrap_or((rest, ""));
            labels.insert(source, key.to_owned(), value.to_owned());
        }
        Some(labels)
    }
}

impl fmt::Display for Labels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_strings().join(","))
    }
}

impl Serialize for Labels {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.to_strings().serialize(serializer)
    }
}

/// What makes a pod's identity.
#[derive(Debug, Clone, Copy)]
pub struct PodLabels<'a> {
    /// `metadata.labels` of the pod.
    pub own: &'a BTreeMap<String, String>,
    /// The pod's namespace.
    pub namespace: &'a str,
    /// `metadata.labels` of the namespace, if its object is known.
    pub namespace_labels: Option<&'a BTreeMap<String, String>>,
    /// `spec.serviceAccountName`.
    pub service_account: &'a str,
    /// Name of the cluster.
    pub cluster: &'a str,
    /// Keys that stay whatever the filter says, because a NetworkPolicy selects by them; Cilium's policies do not see them.
    pub kept: &'a Counted<String>,
}

impl PodLabels<'_> {
    /// The labels of the pod's identity.
    #[must_use]
    pub fn identity(&self) -> Labels {
        let mut labels = Labels::default();
        for (key, value) in self
            .own
            .iter()
            .filter(|(key, _)| !key.starts_with(RESERVED_PREFIX))
        {
            if is_identity_relevant(key) {
                labels.insert(LabelSource::K8s, key.clone(), value.clone());
            } else if self.kept.contains(key) {
                labels.insert(LabelSource::Upstream, key.clone(), value.clone());
            }
        }
        let mut insert = |key: String, value: &str| labels.insert(LabelSource::K8s, key, value.to_owned());
        for (key, value) in self.namespace_labels.into_iter().flatten() {
            insert(format!("{NAMESPACE_LABELS}{key}"), value);
        }
        // After the pod's and the namespace's own labels, so that neither can claim another namespace.
        insert(format!("{NAMESPACE_LABELS}{METADATA_NAME}"), self.namespace);
        insert(NAMESPACE.to_owned(), self.namespace);
        insert(SERVICE_ACCOUNT.to_owned(), self.service_account);
        insert(CLUSTER.to_owned(), self.cluster);
        labels
    }
}

/// Source of a pod's label for policies that mean it as upstream Kubernetes does: those that Cilium leaves out have their own.
#[must_use]
pub fn upstream_source(key: &str) -> LabelSource {
    if is_identity_relevant(key) {
        LabelSource::K8s
    } else {
        LabelSource::Upstream
    }
}

/// Whether a pod label is part of the pod's identity by default.
#[must_use]
pub fn is_identity_relevant(key: &str) -> bool {
    let longest = |prefixes: &[&str]| {
        prefixes
            .iter()
            .filter(|p| key.starts_with(**p))
            .map(|p| p.len())
            .max()
    };
    let infix = key.find(IGNORED_INFIX).map(|at| at + IGNORED_INFIX.len());
    match longest(IGNORED).into_iter().chain(infix).max() {
        Some(ignored) => longest(INCLUDED).is_some_and(|included| included > ignored),
        None => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(own: &[(&str, &str)], namespace_labels: &[(&str, &str)]) -> Vec<String> {
        let map = |list: &[(&str, &str)]| {
            list.iter()
                .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
                .collect()
        };
        let (own, namespace_labels) = (map(own), map(namespace_labels));
        let labels = PodLabels {
            own: &own,
            namespace: "db",
            namespace_labels: Some(&namespace_labels),
            service_account: "default",
            cluster: "default",
            kept: &Counted::default(),
        };
        labels.identity().to_strings()
    }

    #[test]
    fn identity_holds_pod_namespace_account_and_cluster() {
        assert_eq!(
            identity(
                &[("app", "postgres"), ("app.kubernetes.io/name", "pg")],
                &[("team", "data")]
            ),
            [
                "k8s:app=postgres",
                "k8s:app.kubernetes.io/name=pg",
                "k8s:io.cilium.k8s.namespace.labels.kubernetes.io/metadata.name=db",
                "k8s:io.cilium.k8s.namespace.labels.team=data",
                "k8s:io.cilium.k8s.policy.cluster=default",
                "k8s:io.cilium.k8s.policy.serviceaccount=default",
                "k8s:io.kubernetes.pod.namespace=db",
            ]
        );
    }

    #[test]
    fn a_pod_cannot_claim_another_namespace_by_its_labels() {
        let forged = [
            ("io.kubernetes.pod.namespace", "kube-system"),
            ("io.cilium.k8s.namespace.labels.team", "admin"),
            ("io.cilium.k8s.policy.cluster", "other"),
            ("io.cilium.k8s.policy.serviceaccount", "root"),
        ];
        assert_eq!(identity(&forged, &[]), identity(&[], &[]));
        assert_eq!(
            identity(&[], &[("kubernetes.io/metadata.name", "kube-system")]),
            identity(&[], &[])
        );
    }

    #[test]
    fn labels_that_differ_per_pod_are_no_part_of_the_identity() {
        for key in [
            "pod-template-hash",
            "statefulset.kubernetes.io/pod-name",
            "apps.kubernetes.io/pod-index",
            "topology.kubernetes.io/zone",
            "failure-domain.beta.kubernetes.io/zone",
            "kubernetes.io/arch",
        ] {
            assert!(!is_identity_relevant(key), "{key}");
        }
        for key in ["app", "app.kubernetes.io/name", "team/kubernetes.io", "tier"] {
            assert!(is_identity_relevant(key), "{key}");
        }
    }

    #[test]
    fn written_labels_read_back_equal() {
        let mut labels = Labels::single(LabelSource::Reserved, "host");
        labels.insert(LabelSource::K8s, "a/b".into(), "c=d".into());
        assert_eq!(Labels::from_strings(&labels.to_strings()), Some(labels));
    }

    #[test]
    fn a_label_of_one_source_does_not_replace_that_of_another() {
        let mut labels = Labels::single(LabelSource::Reserved, "remote-node");
        labels.insert(LabelSource::Node, "remote-node".into(), "x".into());
        assert_eq!(labels.get(LabelSource::Reserved, "remote-node"), Some(""));
        assert_eq!(labels.get(LabelSource::Node, "remote-node"), Some("x"));
        assert_eq!(labels.get(LabelSource::Cidr, "remote-node"), None);
        assert_eq!(labels.of_key("remote-node").count(), 2);
        assert_eq!(labels.of_key("remote").count(), 0);
    }
}
