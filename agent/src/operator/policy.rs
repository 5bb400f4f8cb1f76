//! What is kept of a policy object.

use control::api::status::CiliumCondition;
use serde_json::Value;

use super::condition::{self, Verdict};

/// A policy of any kind.
#[derive(Debug, Clone)]
pub struct PolicyRecord {
    /// `metadata.namespace`; empty for cluster-scoped kinds.
    pub namespace: String,
    /// `metadata.name`.
    pub name: String,
    /// `metadata.uid`.
    pub uid: String,
    /// `metadata.resourceVersion`.
    pub resource_version: String,
    /// `metadata.generation`.
    pub generation: i64,
    /// Whether agents enforce it.
    pub verdict: Verdict,
    /// Its condition `Valid`.
    pub condition: Option<CiliumCondition>,
    /// Whether an Event tells of its rejection.
    pub announced: bool,
}

impl PolicyRecord {
    /// Reads an object as the API server sent it; `cluster` is the name that policies are scoped to.
    #[must_use]
    pub fn new(object: &Value, cluster: &str) -> Self {
        let metadata = object.get("metadata");
        let text = |key: &str| {
            let value = metadata.and_then(|metadata| metadata.get(key));
            value.and_then(Value::as_str).unwrap_or_default().to_owned()
        };
        let generation = metadata.and_then(|metadata| metadata.get("generation"));
        Self {
            namespace: text("namespace"),
            name: text("name"),
            uid: text("uid"),
            resource_version: text("resourceVersion"),
            generation: generation.and_then(Value::as_i64).unwrap_or(0),
            verdict: Verdict::of(object, cluster),
            condition: condition::present(object),
            announced: false,
        }
    }

    /// Whether `other` is the same object with the same verdict on the same text: there is no more to tell of it.
    #[must_use]
    pub fn says_the_same(&self, other: &Self) -> bool {
        self.uid == other.uid && self.generation == other.generation && self.verdict == other.verdict
    }
}
