//! What the plugin answers when it cannot do what it was asked.

/// Numbers of errors that the specification reserves, and from 100 the plugin's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum ErrorCode {
    /// The configuration is of a version that the plugin does not support.
    IncompatibleVersion = 1,
    /// An environment variable is missing or invalid.
    InvalidEnvironment = 4,
    /// Input or output failed.
    Io = 5,
    /// The configuration is no JSON of the expected form.
    Decode = 6,
    /// The configuration says something that cannot be.
    InvalidConfig = 7,
    /// It may succeed later.
    TryAgain = 11,
    /// The plugin cannot serve ADD now.
    NotAvailable = 50,
    /// The pod's interface is of a kind that sluice cannot take.
    Unsupported = 100,
    /// The pod is not under policy, or not as it was added.
    CheckFailed = 101,
    /// The agent refuses what it was asked.
    Refused = 102,
}

/// An error as the runtime gets it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct CniError {
    /// Its number.
    pub code: ErrorCode,
    /// What is wrong, for people.
    pub message: String,
}

impl CniError {
    /// An error that shows `message`.
    pub fn new(code: ErrorCode, message: impl std::fmt::Display) -> Self {
        Self {
            code,
            message: message.to_string(),
        }
    }

    /// The JSON object of the specification.
    #[must_use]
    pub fn to_json(&self, version: &str) -> serde_json::Value {
        serde_json::json!({"cniVersion": version, "code": self.code as u32, "msg": self.message})
    }
}
