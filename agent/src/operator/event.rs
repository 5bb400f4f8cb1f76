//! Events (`events.k8s.io/v1`) about policies that have no condition to say it: a rejected NetworkPolicy or ClusterNetworkPolicy.
//!
//! An Event's name tells object, generation and text. So there is one of each, whoever leads and however often the object is seen:
//! the API server refuses a second while it keeps the first (an hour, unless configured otherwise).

use std::hash::{DefaultHasher, Hash, Hasher};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::api::ApiResource;

use super::policy::PolicyRecord;

/// `reason` of the Events.
pub const REASON: &str = "PolicyRejected";

/// `action` of the Events.
const ACTION: &str = "Validate";

/// `reportingController` of the Events.
const CONTROLLER: &str = "sluice.io/operator";

/// Longest `note`, bytes.
const MOST_NOTE: usize = 1024;

/// Longest `reportingInstance`, bytes.
const MOST_INSTANCE: usize = 128;

/// Longest part of the object's name in the Event's: object names have at most 253 bytes, and a number follows.
const MOST_NAME: usize = 230;

/// Namespace of Events about objects that have none.
const CLUSTER_SCOPED: &str = "default";

/// The Event about a rejected policy.
#[must_use]
pub fn rejection(record: &PolicyRecord, resource: &ApiResource, instance: &str, now: Timestamp) -> Event {
    let mut hasher = DefaultHasher::new();
    (&record.uid, record.generation, &record.verdict.message).hash(&mut hasher);
    let name = prefix(&record.name, MOST_NAME).trim_end_matches(['.', '-']);
    let namespace = match record.namespace.as_str() {
        "" => CLUSTER_SCOPED,
        namespace => namespace,
    };
    Event {
        metadata: ObjectMeta {
            name: Some(format!("{name}.{:016x}", hasher.finish())),
            namespace: Some(namespace.to_owned()),
            ..ObjectMeta::default()
        },
        action: Some(ACTION.to_owned()),
        event_time: Some(MicroTime(now)),
        note: Some(note(&record.verdict.message)),
        reason: Some(REASON.to_owned()),
        regarding: Some(ObjectReference {
            api_version: Some(resource.api_version.clone()),
            kind: Some(resource.kind.clone()),
            name: Some(record.name.clone()),
            namespace: Some(record.namespace.clone()).filter(|namespace| !namespace.is_empty()),
            uid: Some(record.uid.clone()),
            ..ObjectReference::default()
        }),
        reporting_controller: Some(CONTROLLER.to_owned()),
        reporting_instance: Some(prefix(instance, MOST_INSTANCE).to_owned()),
        type_: Some("Warning".to_owned()),
        ..Event::default()
    }
}

fn note(message: &str) -> String {
    const MORE: &str = "...";
    if message.len() <= MOST_NOTE {
        return message.to_owned();
    }
    format!("{}{MORE}", prefix(message, MOST_NOTE - MORE.len()))
}

/// As much of `text` as fits in `most` bytes.
fn prefix(text: &str, most: usize) -> &str {
    text.get(..text.floor_char_boundary(most)).unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_message_is_cut_between_characters_and_says_so() {
        assert_eq!(note("short"), "short");
        let long = note(&"ä".repeat(600));
        assert!(
            long.len() <= MOST_NOTE && long.ends_with("ä..."),
            "{}",
            long.len()
        );
    }
}
