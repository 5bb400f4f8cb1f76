//! `Valid` in `status.conditions` of `cilium.io/v2` policies, as Cilium's operator writes it.

use control::api::status::CiliumCondition;
use control::object::{self, Decoded};
use jiff::Timestamp;
use kube::api::ApiResource;
use serde_json::{Value, json};

use super::policy::PolicyRecord;

/// Type of the condition.
const VALID: &str = "Valid";

/// What Cilium says of a valid policy.
const SUCCEEDED: &str = "Policy validation succeeded";

/// Whether a policy is valid, and why not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// Whether agents enforce the policy.
    pub is_valid: bool,
    /// For people.
    pub message: String,
}

impl Verdict {
    /// The agents' own verdict on an object: by the decoder that they read it with.
    #[must_use]
    pub fn of(object: &Value, cluster: &str) -> Self {
        match object::decode(object, cluster) {
            Decoded::Object(_) | Decoded::Ignored => Self {
                is_valid: true,
                message: SUCCEEDED.to_owned(),
            },
            Decoded::Invalid { faults, .. } => {
                let faults: Vec<String> = faults.iter().map(ToString::to_string).collect();
                Self {
                    is_valid: false,
                    message: faults.join("; "),
                }
            }
        }
    }

    const fn status(&self) -> &'static str {
        if self.is_valid { "True" } else { "False" }
    }
}

/// The condition that an object has.
#[must_use]
pub fn present(object: &Value) -> Option<CiliumCondition> {
    let conditions = object.get("status")?.get("conditions")?.as_array()?;
    let valid = conditions
        .iter()
        .find(|condition| condition.get("type").and_then(Value::as_str) == Some(VALID))?;
    serde_json::from_value(valid.clone()).ok()
}

/// What is to be applied to the object's status; `None` if that is there already.
///
/// `metadata.uid` and `metadata.resourceVersion` are preconditions: the verdict is on that object in that version. `lastTransitionTime`
/// is that of the present condition unless its status differs.
#[must_use]
pub fn apply(record: &PolicyRecord, resource: &ApiResource, now: Timestamp) -> Option<Value> {
    let verdict = &record.verdict;
    let present = record.condition.as_ref();
    let since = present
        .filter(|present| present.status == verdict.status())
        .and_then(|present| present.last_transition_time.clone());
    if let (Some(present), Some(_)) = (present, &since)
        && present.message.as_deref() == Some(verdict.message.as_str())
    {
        return None;
    }
    // Kubernetes' `meta/v1 Time` has whole seconds.
    let now = || now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let condition = CiliumCondition {
        kind: VALID.to_owned(),
        status: verdict.status().to_owned(),
        last_transition_time: Some(since.unwrap_or_else(now)),
        reason: None,
        message: Some(verdict.message.clone()),
    };
    Some(json!({
        "apiVersion": resource.api_version,
        "kind": resource.kind,
        "metadata": {
            "name": record.name,
            "uid": record.uid,
            "resourceVersion": record.resource_version,
        },
        "status": {"conditions": [condition]},
    }))
}
