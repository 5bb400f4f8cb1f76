//! Labels, selectors and prefixes, each the shortest way that is right.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::LazyLock;

use regex::Regex;
use serde_json::Value;

pub const NAMESPACE: &str = "io.kubernetes.pod.namespace";
pub const NAMESPACE_LABELS: &str = "io.cilium.k8s.namespace.labels.";
pub const CLUSTER: &str = "io.cilium.k8s.policy.cluster";
pub const SERVICE_ACCOUNT: &str = "io.cilium.k8s.policy.serviceaccount";

/// Labels of a Kubernetes object.
pub type Plain = BTreeMap<String, String>;

/// One label of an identity: `source:key=value`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Label {
    pub source: &'static str,
    pub key: String,
    pub value: String,
}

impl Label {
    pub fn reserved(name: &str) -> Self {
        Self {
            source: "reserved",
            key: name.to_owned(),
            value: String::new(),
        }
    }
}

/// `metadata.labels` of an object.
pub fn labels_of(object: &Value) -> Plain {
    let labels = object["metadata"]["labels"].as_object();
    let text = |value: &Value| value.as_str().expect("label").to_owned();
    labels
        .into_iter()
        .flatten()
        .map(|(key, value)| (key.clone(), text(value)))
        .collect()
}

/// Entries of a list; none if it is absent or null.
pub fn list(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

pub fn strings(value: &Value) -> Vec<&str> {
    list(value)
        .iter()
        .map(|item| item.as_str().expect("string"))
        .collect()
}

/// Every requirement of a LabelSelector as (key, operator, values).
fn requirements(selector: &Value) -> Vec<(&str, &str, Vec<&str>)> {
    let mut all = Vec::new();
    for (key, value) in selector["matchLabels"].as_object().into_iter().flatten() {
        all.push((key.as_str(), "In", vec![value.as_str().expect("value")]));
    }
    for expression in list(&selector["matchExpressions"]) {
        let text = |field: &str| expression[field].as_str().expect("string");
        all.push((text("key"), text("operator"), strings(&expression["values"])));
    }
    all
}

/// `found` are all values that the key has.
fn holds(operator: &str, values: &[&str], found: &[&str]) -> bool {
    match operator {
        "In" => found.iter().any(|value| values.contains(value)),
        "NotIn" => !found.iter().any(|value| values.contains(value)),
        "Exists" => !found.is_empty(),
        "DoesNotExist" => found.is_empty(),
        other => panic!("operator {other}"),
    }
}

/// A Kubernetes LabelSelector (`metav1.LabelSelector`); an empty one matches everything.
pub fn plain(selector: &Value, labels: &Plain) -> bool {
    requirements(selector).into_iter().all(|(key, operator, values)| {
        let found: Vec<&str> = labels.get(key).map(String::as_str).into_iter().collect();
        holds(operator, &values, &found)
    })
}

/// `source:key` of a Cilium selector; no source or `any:` is any source (1.8).
pub fn key(text: &str) -> (Option<&str>, &str) {
    match text.split_once(':') {
        Some(("any", key)) => (None, key),
        Some((source, key)) => (Some(source), key),
        None => (None, text),
    }
}

/// A Cilium selector, without any implied scope.
pub fn cilium(selector: &Value, labels: &[Label]) -> bool {
    requirements(selector)
        .into_iter()
        .all(|(text, operator, values)| {
            let (source, key) = key(text);
            let same =
                |label: &&Label| label.key == key && source.is_none_or(|source| source == label.source);
            let found: Vec<&str> = labels
                .iter()
                .filter(same)
                .map(|label| label.value.as_str())
                .collect();
            holds(operator, &values, &found)
        })
}

/// Keys that a Cilium selector names, with their sources.
pub fn keys(selector: &Value) -> Vec<(Option<&str>, &str)> {
    requirements(selector)
        .into_iter()
        .map(|(text, ..)| key(text))
        .collect()
}

/// Patterns of label keys that are (`true`) and are not part of an identity, anchored at the key's begin (4.2).
static FILTER: LazyLock<Vec<(bool, Regex)>> = LazyLock::new(|| {
    let kept = [
        r"io\.kubernetes\.pod\.namespace",
        r"io\.cilium\.k8s\.namespace\.labels",
        r"app\.kubernetes\.io",
        r"io\.cilium\.k8s\.policy\.cluster",
        r"io\.cilium\.k8s\.policy\.serviceaccount",
    ];
    let ignored = [
        r"io\.kubernetes",
        r"kubernetes\.io",
        r".*beta\.kubernetes\.io",
        r"k8s\.io",
        r"statefulset\.kubernetes\.io/pod-name",
        r"apps\.kubernetes\.io/pod-index",
        r"batch\.kubernetes\.io/job-completion-index",
        r"batch\.kubernetes\.io/controller-uid",
        r"pod-template-generation",
        r"pod-template-hash",
        r"controller-revision-hash",
        r"controller-uid",
        r"annotation.*",
        r"etcd_node",
        r"topology\.kubernetes\.io",
    ];
    let compiled = |keep: bool| move |p: &&str| (keep, Regex::new(&format!("^(?:{p})")).expect("pattern"));
    kept.iter()
        .map(compiled(true))
        .chain(ignored.iter().map(compiled(false)))
        .collect()
});

/// Whether a label of this key is part of a pod's identity: what is ignored is not, unless a longer match keeps it (4.2).
pub fn is_identity_label(key: &str) -> bool {
    let longest = |keep: bool| {
        let same = FILTER.iter().filter(move |(kept, _)| *kept == keep);
        same.filter_map(|(_, regex)| regex.find(key))
            .map(|found| found.len())
            .max()
            .unwrap_or(0)
    };
    longest(false) == 0 || longest(true) > longest(false)
}

fn bits(addr: IpAddr) -> (u32, u128) {
    match addr {
        IpAddr::V4(v4) => (32, u128::from(u32::from(v4))),
        IpAddr::V6(v6) => (128, u128::from(v6)),
    }
}

/// Whether `addr` lies in the prefix `cidr`.
pub fn in_cidr(cidr: &str, addr: IpAddr) -> bool {
    let (network, length) = cidr.split_once('/').expect("prefix length");
    let (width, network) = bits(network.parse().expect("address"));
    let (addr_width, addr) = bits(addr);
    let host_bits = width - length.parse::<u32>().expect("length");
    width == addr_width && (host_bits == 128 || network >> host_bits == addr >> host_bits)
}

/// `cidr` without `except`.
pub fn in_block(cidr: &str, except: &Value, addr: IpAddr) -> bool {
    in_cidr(cidr, addr) && !strings(except).iter().any(|part| in_cidr(part, addr))
}

/// Whether the whole prefix `part` lies in the prefix `cidr`.
pub fn is_part(part: &str, cidr: &str) -> bool {
    let split = |prefix: &str| {
        let (network, length) = prefix.split_once('/').expect("prefix length");
        let length: u32 = length.parse().expect("length");
        (network.parse::<IpAddr>().expect("address"), length)
    };
    let (network, length) = split(part);
    in_cidr(cidr, network) && split(cidr).1 <= length
}
