//! The plugin's configuration, as the runtime writes it to standard input.

use std::path::PathBuf;

use serde::Deserialize;
use serde_json::Value;

use crate::error::{CniError, ErrorCode};

/// Versions of the specification that the plugin serves. Results before 0.3.0 do not tell interfaces.
pub const SUPPORTED_VERSIONS: [&str; 5] = ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];

/// Where the agent listens unless the configuration says otherwise.
const SOCKET: &str = "/run/sluice/sluice.sock";

/// An attachment that exists, as GC is told.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct ValidAttachment {
    /// The container.
    #[serde(rename = "containerID")]
    pub container_id: String,
}

/// What the plugin reads of its configuration; other fields belong to others.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Config {
    /// Version of the specification that is spoken.
    pub cni_version: String,
    /// Name of the network.
    #[serde(default)]
    pub name: String,
    /// Socket of the agent.
    #[serde(default = "default_socket")]
    pub socket: PathBuf,
    /// File to append a line to for every call.
    #[serde(default)]
    pub log_file: Option<PathBuf>,
    /// What the plugins before this one have made.
    #[serde(default)]
    pub prev_result: Option<Value>,
    /// For GC: everything that is still in use in the network.
    #[serde(default, rename = "cni.dev/valid-attachments")]
    pub valid_attachments: Option<Vec<ValidAttachment>>,
}

fn default_socket() -> PathBuf {
    SOCKET.into()
}

impl Config {
    /// Reads a configuration.
    ///
    /// # Errors
    /// [`ErrorCode::Decode`] for anything else than a configuration, [`ErrorCode::IncompatibleVersion`] for one of another version.
    pub fn parse(input: &[u8]) -> Result<Self, CniError> {
        let config: Self = serde_json::from_slice(input)
            .map_err(|error| CniError::new(ErrorCode::Decode, format!("configuration: {error}")))?;
        if !SUPPORTED_VERSIONS.contains(&config.cni_version.as_str()) {
            return Err(CniError::new(
                ErrorCode::IncompatibleVersion,
                format!(
                    "cniVersion: {} is not supported; supported are {}",
                    config.cni_version,
                    SUPPORTED_VERSIONS.join(", ")
                ),
            ));
        }
        Ok(config)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_without_interfaces_are_refused() {
        for version in SUPPORTED_VERSIONS {
            let text = format!(r#"{{"cniVersion":"{version}","name":"n","type":"sluice-cni"}}"#);
            assert_eq!(
                Config::parse(text.as_bytes()).unwrap().socket,
                PathBuf::from(SOCKET)
            );
        }
        for version in ["0.1.0", "0.2.0", "2.0.0", ""] {
            let text = format!(r#"{{"cniVersion":"{version}","name":"n","type":"sluice-cni"}}"#);
            let error = Config::parse(text.as_bytes()).unwrap_err();
            assert_eq!(error.code, ErrorCode::IncompatibleVersion, "{error}");
        }
    }

    #[test]
    fn anything_else_is_a_decoding_error_that_says_where() {
        for text in [
            "",
            "{",
            "[]",
            r#"{"name":"n"}"#,
            r#"{"cniVersion":"1.0.0","socket":5}"#,
        ] {
            let error = Config::parse(text.as_bytes()).unwrap_err();
            assert_eq!(error.code, ErrorCode::Decode, "{text}");
            assert!(error.message.starts_with("configuration: "), "{error}");
        }
    }
}
