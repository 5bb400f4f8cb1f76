//! `deploy/crds` is what the types say, and satisfies what the API server demands of a definition.

use std::path::PathBuf;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use serde_json::Value;
use sluice_control::api::definition;

fn file(name: &str) -> PathBuf {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../deploy/crds");
    folder.join(format!("{name}.yaml"))
}

const HEAD: &str =
    "# Generated from control/src/api by `SLUICE_UPDATE_CRDS=1 cargo test -p sluice-control --test crds`.\n";

#[test]
fn the_files_are_what_the_types_say() {
    for definition in definition::ALL {
        let text = serde_saphyr::to_string(&definition.to_value()).expect("YAML");
        let text = format!("{HEAD}{text}");
        let path = file(&definition.name());
        if std::env::var_os("SLUICE_UPDATE_CRDS").is_some() {
            std::fs::write(&path, text).expect("written");
            continue;
        }
        let written = std::fs::read_to_string(&path).expect("the file is there");
        assert!(
            written == text,
            "{} differs: run `SLUICE_UPDATE_CRDS=1 cargo test -p sluice-control --test crds`",
            path.display()
        );
        let read: Value = serde_saphyr::from_str(&written).expect("YAML");
        assert_eq!(read, definition.to_value(), "what is written reads back equal");
    }
}

/// Calls `visit` with every schema below `schema` and its path.
fn walk(schema: &Value, path: &str, visit: &mut dyn FnMut(&str, &Value)) {
    visit(path, schema);
    for (key, value) in schema["properties"].as_object().into_iter().flatten() {
        walk(value, &format!("{path}.{key}"), visit);
    }
    for key in ["items", "additionalProperties"] {
        if let Some(value) = schema.get(key) {
            walk(value, &format!("{path}.{key}"), visit);
        }
    }
}

fn schema(definition: &definition::Definition) -> Value {
    definition.to_value()["spec"]["versions"][0]["schema"]["openAPIV3Schema"].clone()
}

/// A misspelt or misplaced keyword would be dropped by the API server, and with it the limit that it stands for.
#[test]
fn the_api_server_knows_every_keyword() {
    fn keys_are_kept(written: &Value, read: &Value, path: &str) {
        match (written, read) {
            (Value::Object(written), Value::Object(read)) => {
                for (key, value) in written {
                    let path = format!("{path}.{key}");
                    keys_are_kept(value, read.get(key).unwrap_or_else(|| panic!("{path}")), &path);
                }
            }
            (Value::Array(written), Value::Array(read)) => {
                let pairs = written.iter().zip(read).enumerate();
                pairs.for_each(|(i, (written, read))| keys_are_kept(written, read, &format!("{path}[{i}]")));
            }
            _ => {}
        }
    }
    for definition in definition::ALL {
        let written = definition.to_value();
        let typed: CustomResourceDefinition = serde_json::from_value(written.clone()).expect("typed");
        let read = serde_json::to_value(typed).expect("JSON");
        keys_are_kept(&written, &read, definition.kind);
    }
}

/// "Specifying a structural schema" of the Kubernetes documentation.
#[test]
fn the_schemas_are_structural() {
    for definition in definition::ALL {
        walk(&schema(&definition), definition.kind, &mut |path, schema| {
            let int_or_string = schema["x-kubernetes-int-or-string"] == true;
            assert!(
                schema["type"].is_string() != int_or_string,
                "{path} has one type: {schema}"
            );
            for key in [
                "$ref", "$schema", "$defs", "title", "nullable", "anyOf", "allOf", "const", "default",
            ] {
                assert!(schema.get(key).is_none(), "{path} has no {key}");
            }
            assert!(
                schema.get("properties").is_none() || schema.get("additionalProperties").is_none(),
                "{path} has properties or additionalProperties"
            );
            for key in ["maxItems", "minItems", "x-kubernetes-list-type"] {
                assert!(
                    schema.get(key).is_none() || schema["type"] == "array",
                    "{path} is a list"
                );
            }
            for key in ["maxLength", "minLength", "pattern", "enum"] {
                assert!(
                    schema.get(key).is_none() || schema["type"] == "string",
                    "{path} is a string"
                );
            }
        });
    }
}

/// Otherwise the API server would drop a field that the agent must refuse the object for.
#[test]
fn objects_of_rules_preserve_unknown_fields() {
    for definition in definition::ALL {
        let schema = schema(&definition);
        let mut objects = 0;
        for field in ["spec", "specs"] {
            let Some(schema) = schema["properties"].get(field) else {
                continue;
            };
            walk(schema, field, &mut |path, schema| {
                if schema["type"] == "object" && schema.get("additionalProperties").is_none() {
                    objects += 1;
                    assert_eq!(schema["x-kubernetes-preserve-unknown-fields"], true, "{path}");
                }
            });
        }
        assert!(objects > 0, "{}", definition.kind);
    }
}

#[test]
fn users_find_the_names_and_columns_they_know() {
    let names = |i: usize| definition::ALL[i].to_value()["spec"].clone();
    let cnp = names(0);
    assert_eq!(cnp["names"]["shortNames"], serde_json::json!(["cnp", "ciliumnp"]));
    assert_eq!(
        cnp["names"]["categories"],
        serde_json::json!(["cilium", "ciliumpolicy"])
    );
    assert_eq!(cnp["names"]["singular"], "ciliumnetworkpolicy");
    assert_eq!(cnp["scope"], "Namespaced");
    let columns = |spec: &Value| -> Vec<String> {
        let columns = spec["versions"][0]["additionalPrinterColumns"].as_array();
        let columns = columns.into_iter().flatten();
        columns
            .map(|c| c["name"].as_str().expect("name").to_owned())
            .collect()
    };
    assert_eq!(columns(&cnp), ["Age", "Valid"]);
    assert_eq!(columns(&names(1)), ["Valid"]);
    assert_eq!(names(1)["scope"], "Cluster");
    assert_eq!(names(2)["names"]["shortNames"], serde_json::json!(["ccg"]));
    assert_eq!(columns(&names(3)), ["Tier", "Priority", "Age"]);
    for i in [0, 1, 3] {
        assert!(names(i)["versions"][0]["subresources"]["status"].is_object());
    }
}

#[test]
fn the_limits_of_upstream_are_in_the_schemas() {
    let cnp = schema(&definition::ALL[0]);
    let at = |path: &str| {
        cnp.pointer(&path.replace('.', "/properties/").replace("[]", "/items"))
            .unwrap_or_else(|| panic!("{path}"))
            .clone()
    };
    assert_eq!(at(".spec.ingress[].toPorts[].ports")["maxItems"], 40);
    assert!(at(".spec.ingress[].toPorts[].ports[].port")["pattern"].is_string());
    assert_eq!(
        at(".specs[].egress[].toPorts[].ports[].endPort")["maximum"],
        65535
    );
    assert_eq!(at(".spec.egress[].toFQDNs[].matchName")["maxLength"], 255);
    assert_eq!(at(".spec.egress[].icmps[].fields")["maxItems"], 40);
    let kind = at(".spec.egress[].icmps[].fields[].type");
    assert_eq!(kind["x-kubernetes-int-or-string"], true);
    assert_eq!(at(".spec.log.value")["maxLength"], 32);
    assert_eq!(at(".spec.egress[].toCIDRSet[].cidrGroupRef")["maxLength"], 253);
    let entities = at(".spec.egressDeny[].toEntities[]");
    assert_eq!(entities["enum"].as_array().map(Vec::len), Some(12));
    assert_eq!(
        at(".spec.ingress[].fromEndpoints[].matchLabels")["additionalProperties"]["maxLength"],
        63
    );
    assert_eq!(
        cnp["x-kubernetes-validations"][0]["rule"],
        "has(self.spec) || has(self.specs)"
    );

    let kcnp = schema(&definition::ALL[3]);
    let at = |path: &str| {
        kcnp.pointer(&path.replace('.', "/properties/").replace("[]", "/items"))
            .unwrap_or_else(|| panic!("{path}"))
            .clone()
    };
    assert_eq!(at(".spec.priority")["maximum"], 1000);
    assert_eq!(at(".spec.egress")["maxItems"], 25);
    assert_eq!(at(".spec.egress[].to")["minItems"], 1);
    assert_eq!(at(".spec.subject")["maxProperties"], 1);
    let cidr = at(".spec.egress[].to[].networks[]");
    assert_eq!(cidr["x-kubernetes-validations"][0]["rule"], "isCIDR(self)");
    assert!(at(".spec.egress[].to[].domainNames[]")["pattern"].is_string());
    assert_eq!(kcnp["required"], serde_json::json!(["spec"]));
}
