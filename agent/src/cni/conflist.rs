//! The list of plugins that the runtime is to use: the node's own list, with `sluice-cni` after it.
//!
//! The runtime takes the lexically first file of its folder. sluice's list has the name and the version of the one it is made
//! of, so that addresses stay reserved and pods that are there already are deleted as they were added.

use std::path::Path;

use serde_json::{Map, Value, json};
use sluice_cni::PLUGIN_NAME;
use sluice_cni::config::SUPPORTED_VERSIONS;

/// Name of the file.
pub const FILE_NAME: &str = "00-sluice.conflist";

/// Version of a configuration that does not tell (libcni).
const UNTOLD_VERSION: &str = "0.1.0";

/// Plugins that sluice cannot come after, and why.
const REFUSED: [(&str, &str); 9] = [
    ("calico", OWN_POLICY),
    ("cilium-cni", OWN_POLICY),
    ("ipvlan", NO_VETH),
    ("macvlan", NO_VETH),
    ("netkit", NO_VETH),
    ("vlan", NO_VETH),
    ("host-device", NO_VETH),
    ("sriov", NO_VETH),
    ("tap", NO_VETH),
];
const OWN_POLICY: &str = "it has programs or rules of its own on pods' interfaces";
const NO_VETH: &str = "its pods are not connected by veth pairs";

/// No list can be made of a file.
#[derive(Debug, thiserror::Error)]
pub enum ConflistError {
    /// Not JSON.
    #[error("not JSON: {0}")]
    Syntax(#[from] serde_json::Error),
    /// JSON, and no configuration.
    #[error("{field}: {expected} is expected")]
    Field {
        /// Path of the field.
        field: String,
        /// What should be there.
        expected: &'static str,
    },
    /// A list of nothing; runtimes pass over it.
    #[error("plugins: empty")]
    Empty,
    /// A plugin that sluice cannot come after.
    #[error("plugin `{plugin}` is not supported: {reason}")]
    Refused {
        /// Its type.
        plugin: String,
        /// Why.
        reason: &'static str,
    },
    /// Plugins of this version do not tell interfaces.
    #[error("cniVersion: {version} is not supported; supported are {}", SUPPORTED_VERSIONS.join(", "))]
    Version {
        /// The version.
        version: String,
    },
}

/// The list that runs `sluice-cni`, told of the agent's `socket`, after what the file `name` with `contents` configures.
///
/// # Errors
/// [`ConflistError`]
pub fn derive(name: &str, contents: &[u8], socket: &Path) -> Result<Vec<u8>, ConflistError> {
    let mut list = parse(name, contents)?;
    check(&list)?;
    let version = list
        .get("cniVersion")
        .and_then(Value::as_str)
        .unwrap_or(UNTOLD_VERSION);
    if !SUPPORTED_VERSIONS.contains(&version) {
        return Err(ConflistError::Version {
            version: version.into(),
        });
    }
    if let Some(plugins) = list.get_mut("plugins").and_then(Value::as_array_mut) {
        // An administrator's own entry would run it twice.
        plugins.retain(|plugin| plugin["type"] != PLUGIN_NAME);
        plugins.push(json!({"type": PLUGIN_NAME, "socket": socket}));
    }
    let mut text = serde_json::to_vec_pretty(&list)?;
    text.push(b'\n');
    Ok(text)
}

/// A list of plugins; a single plugin becomes a list as in libcni.
fn parse(name: &str, contents: &[u8]) -> Result<Map<String, Value>, ConflistError> {
    let object = match serde_json::from_slice(contents)? {
        Value::Object(object) => object,
        _ => return Err(field("configuration", "an object")),
    };
    if name.ends_with(".conflist") {
        return Ok(object);
    }
    let mut list = Map::new();
    for key in ["name", "cniVersion"] {
        if let Some(value) = object.get(key) {
            list.insert(key.into(), value.clone());
        }
    }
    list.insert("plugins".into(), json!([object]));
    Ok(list)
}

fn check(list: &Map<String, Value>) -> Result<(), ConflistError> {
    if list.get("name").and_then(Value::as_str).is_none_or(str::is_empty) {
        return Err(field("name", "the name of the network"));
    }
    let plugins = match list.get("plugins") {
        Some(Value::Array(plugins)) => plugins,
        None => return Err(ConflistError::Empty),
        Some(_) => return Err(field("plugins", "a list")),
    };
    if plugins.is_empty() {
        return Err(ConflistError::Empty);
    }
    for (at, plugin) in plugins.iter().enumerate() {
        let Some(name) = plugin.get("type").and_then(Value::as_str) else {
            return Err(field(&format!("plugins[{at}].type"), "the name of a plugin"));
        };
        if let Some((_, reason)) = REFUSED.iter().find(|(refused, _)| *refused == name) {
            return Err(ConflistError::Refused {
                plugin: name.into(),
                reason,
            });
        }
    }
    Ok(())
}

/// Whether sluice can take pods that were made by this configuration, of one plugin or of a list.
///
/// # Errors
/// [`ConflistError`]
pub fn check_used(contents: &[u8]) -> Result<(), ConflistError> {
    let object: Map<String, Value> = serde_json::from_slice(contents)?;
    if object.contains_key("plugins") {
        check(&object)
    } else {
        check(&parse("", contents)?)
    }
}

fn field(field: &str, expected: &'static str) -> ConflistError {
    ConflistError::Field {
        field: field.into(),
        expected,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn derived(name: &str, contents: &str) -> Result<Value, ConflistError> {
        let text = derive(name, contents.as_bytes(), Path::new("/run/sluice/sluice.sock"))?;
        Ok(serde_json::from_slice(&text).unwrap())
    }

    #[test]
    fn a_list_keeps_its_name_version_and_options_and_gets_one_plugin_more() {
        let list = r#"{"cniVersion":"0.3.1","name":"kindnet","disableCheck":true,"plugins":[
            {"type":"ptp","ipMasq":false,"ipam":{"type":"host-local","ranges":[[{"subnet":"10.244.0.0/24"}]]},"mtu":1500},
            {"type":"portmap","capabilities":{"portMappings":true}}]}"#;
        let mut expected: Value = serde_json::from_str(list).unwrap();
        let ours = json!({"type": "sluice-cni", "socket": "/run/sluice/sluice.sock"});
        expected["plugins"].as_array_mut().unwrap().push(ours);
        assert_eq!(derived("10-kindnet.conflist", list).unwrap(), expected);
    }

    #[test]
    fn a_single_plugin_becomes_a_list_as_in_libcni() {
        let conf = r#"{"cniVersion":"1.0.0","name":"net","type":"bridge","isGateway":true}"#;
        for name in ["10-net.conf", "10-net.json"] {
            assert_eq!(
                derived(name, conf).unwrap(),
                json!({"cniVersion": "1.0.0", "name": "net", "plugins": [
                    {"cniVersion": "1.0.0", "name": "net", "type": "bridge", "isGateway": true},
                    {"type": "sluice-cni", "socket": "/run/sluice/sluice.sock"},
                ]})
            );
        }
    }

    #[test]
    fn an_own_entry_is_not_repeated() {
        let list = r#"{"cniVersion":"1.0.0","name":"n","plugins":[{"type":"ptp"},{"type":"sluice-cni","socket":"/old"}]}"#;
        assert_eq!(
            derived("a.conflist", list).unwrap()["plugins"],
            json!([{"type": "ptp"}, {"type": "sluice-cni", "socket": "/run/sluice/sluice.sock"}])
        );
    }

    #[test]
    fn what_cannot_be_chained_is_refused_with_its_name_or_field() {
        let with = |plugin: &str| {
            format!(
                r#"{{"cniVersion":"1.0.0","name":"n","plugins":[{{"type":"{plugin}"}},{{"type":"portmap"}}]}}"#
            )
        };
        let mut cases = vec![
            ("{".to_owned(), "not JSON: "),
            ("[]".to_owned(), "configuration: an object"),
            (
                r#"{"cniVersion":"1.0.0","plugins":[{"type":"ptp"}]}"#.into(),
                "name: ",
            ),
            (r#"{"cniVersion":"1.0.0","name":"n"}"#.into(), "plugins: empty"),
            (
                r#"{"cniVersion":"1.0.0","name":"n","plugins":[]}"#.into(),
                "plugins: empty",
            ),
            (
                r#"{"cniVersion":"1.0.0","name":"n","plugins":[{"type":"ptp"},{}]}"#.into(),
                "plugins[1].type: ",
            ),
            (
                r#"{"name":"n","plugins":[{"type":"ptp"}]}"#.into(),
                "cniVersion: 0.1.0 ",
            ),
            (with("calico"), "plugin `calico` is not supported: "),
            (with("cilium-cni"), "plugin `cilium-cni` is not supported: "),
            (with("ipvlan"), "plugin `ipvlan` is not supported: "),
            (with("macvlan"), "plugin `macvlan` is not supported: "),
            (with("netkit"), "plugin `netkit` is not supported: "),
        ];
        for (contents, message) in cases.drain(..) {
            let error = derived("a.conflist", &contents).unwrap_err().to_string();
            assert!(error.starts_with(message), "{contents}: {error}");
        }
        assert!(derived("a.conflist", &with("ptp")).is_ok());
    }
}
