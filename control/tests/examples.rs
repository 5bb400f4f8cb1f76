//! Policies as Cilium's users write them: which are enforced, and why the others are refused.

use std::collections::BTreeSet;
use std::path::PathBuf;

use serde_json::Value;
use sluice_control::manifest::{self, Document};
use sluice_control::object::{self, Decoded};

/// File, and the faults that it is refused for; none: it is enforced.
const EXAMPLES: [(&str, &[&str]); 29] = [
    (
        "aws-groups",
        &["12: spec.egress[0].toGroups: not supported by sluice: groups of cloud providers"],
    ),
    ("cidr", &[]),
    ("cidr-group", &[]),
    ("cidr-set", &[]),
    ("cluster-network-policy", &[]),
    ("clusterwide-baseline", &[]),
    ("deny", &[]),
    (
        "dns-names",
        &[
            "19: spec.egress[0].toPorts[0].rules.dns: not supported by sluice: limits on the names that may be asked for",
        ],
    ),
    ("entities", &[]),
    (
        "envoy-listener",
        &["14: spec.egress[0].toPorts[0].listener: not supported by sluice: listeners of Envoy"],
    ),
    ("fqdn-dns-visibility", &[]),
    ("grpc", &[]),
    (
        "host-policy",
        &[
            "8: spec.nodeSelector: not supported by sluice: host policies are not enforced until the uplink is covered",
        ],
    ),
    ("http", &[]),
    (
        "http-header-replace",
        &[
            "20: spec.egress[0].toPorts[0].rules.http[0].headerMatches[0].mismatch: not supported by sluice: rewriting requests",
            "21: spec.egress[0].toPorts[0].rules.http[0].headerMatches[0].secret: not supported by sluice: values from Secrets",
        ],
    ),
    ("http-headers", &[]),
    ("icmp", &[]),
    (
        "kafka",
        &["20: spec.ingress[0].toPorts[0].rules.kafka: not supported by sluice: removed in Cilium 1.20"],
    ),
    ("l3-default-deny-namespace", &[]),
    ("l3-labels", &[]),
    ("l3-other-namespace", &[]),
    ("l3-service-account", &[]),
    ("l4-port-range", &[]),
    ("l4-ports", &[]),
    (
        "mutual-authentication",
        &["15: spec.ingress[0].authentication: not supported by sluice: authentication of peers"],
    ),
    ("nodes", &[]),
    ("services", &[]),
    (
        "tls-interception",
        &[
            "18: spec.egress[0].toPorts[0].terminatingTLS: not supported by sluice: interception of TLS",
            "24: spec.egress[0].toPorts[0].originatingTLS: not supported by sluice: interception of TLS",
        ],
    ),
    (
        "tls-sni",
        &["15: spec.egress[0].toPorts[0].serverNames: not supported by sluice: limits on TLS server names"],
    ),
];

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data/examples")
}

#[test]
fn each_example_is_enforced_or_refused_for_the_known_reason() {
    for (name, expected) in EXAMPLES {
        let text = std::fs::read_to_string(folder().join(format!("{name}.yaml"))).expect("the file is there");
        let documents = manifest::parse(&text, "default");
        assert!(!documents.is_empty(), "{name}");
        let faults = documents.iter().flat_map(|document| match document {
            Document::Object { .. } => &[],
            Document::Invalid { faults, .. } => faults.as_slice(),
        });
        let faults: Vec<String> = faults
            .map(|fault| format!("{}: {}: {}", fault.line, fault.field, fault.message))
            .collect();
        assert_eq!(faults, *expected, "{name}");
    }
}

#[test]
fn every_file_of_the_folder_is_listed() {
    let files = std::fs::read_dir(folder())
        .expect("the folder is there")
        .map(|entry| {
            let path = entry.expect("an entry").path();
            path.file_stem().expect("a name").to_string_lossy().into_owned()
        });
    let listed: BTreeSet<String> = EXAMPLES.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(files.collect::<BTreeSet<_>>(), listed);
}

#[test]
fn the_policies_of_the_article_are_enforced() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../kind-config/article/policies");
    let mut policies = 0;
    for entry in std::fs::read_dir(folder).expect("the folder is there") {
        let text = std::fs::read_to_string(entry.expect("an entry").path()).expect("a file");
        for document in manifest::parse(&text, "default") {
            assert!(matches!(document, Document::Object { .. }), "{document:?}");
            policies += 1;
        }
    }
    assert!(policies > 0);
}

/// Calls `visit` with the JSON pointer of each value below `value`, which is at `path`.
fn walk(value: &Value, path: &str, visit: &mut dyn FnMut(&str)) {
    let mut below = |key: &str, value: &Value| {
        let path = format!("{path}/{}", key.replace('~', "~0").replace('/', "~1"));
        visit(&path);
        walk(value, &path, visit);
    };
    match value {
        Value::Object(map) => map.iter().for_each(|(key, value)| below(key, value)),
        Value::Array(items) => items
            .iter()
            .enumerate()
            .for_each(|(i, item)| below(&i.to_string(), item)),
        _ => {}
    }
}

/// The objects of the examples that are enforced, and the paths below their specs.
fn enforced() -> Vec<(Value, Vec<String>)> {
    let names = EXAMPLES.iter().filter(|(_, faults)| faults.is_empty());
    let texts = names.map(|(name, _)| {
        std::fs::read_to_string(folder().join(format!("{name}.yaml"))).expect("the file is there")
    });
    let objects = texts.flat_map(|text| {
        let documents = text
            .split("---\n")
            .map(|text| serde_saphyr::from_str(text).expect("YAML"));
        documents.collect::<Vec<Value>>()
    });
    let paths = |object: Value| {
        let mut paths = Vec::new();
        for field in ["spec", "specs"]
            .into_iter()
            .filter(|field| object.get(field).is_some())
        {
            let path = format!("/{field}");
            walk(&object[field], &path, &mut |path| paths.push(path.to_owned()));
            paths.push(path);
        }
        (object, paths)
    };
    objects.map(paths).collect()
}

fn is_refused(object: &Value) -> bool {
    matches!(object::decode(object, "default"), Decoded::Invalid { .. })
}

#[test]
fn a_null_anywhere_refuses_an_example() {
    for (object, paths) in enforced() {
        assert!(!is_refused(&object), "{object}");
        for path in paths {
            let mut object = object.clone();
            *object.pointer_mut(&path).expect(&path) = Value::Null;
            assert!(is_refused(&object), "{path} of {object}");
        }
    }
}

#[test]
fn an_unknown_field_anywhere_refuses_an_example() {
    let mut tried = 0;
    for (object, paths) in enforced() {
        for path in paths.iter().filter(|path| !path.ends_with("/matchLabels")) {
            let mut object = object.clone();
            let Value::Object(map) = object.pointer_mut(path).expect(path) else {
                continue;
            };
            map.insert("unknown".to_owned(), Value::from("x"));
            tried += 1;
            assert!(is_refused(&object), "{path} of {object}");
        }
    }
    assert!(tried > 100, "{tried}");
}
