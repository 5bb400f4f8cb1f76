//! The taint that keeps pods off a node until its agent is ready.
//!
//! Whoever makes nodes puts it on (`kubelet --register-with-taints`, a node pool's settings); the operator only takes it off, as
//! Cilium's does with `node.cilium.io/agent-not-ready`.

use serde_json::{Value, json};

/// Key of the taint, whatever its value and effect.
pub const AGENT_NOT_READY: &str = "node.sluice.io/agent-not-ready";

/// `spec.taints` of a node that has the taint.
#[must_use]
pub fn tainted(node: &Value) -> Option<Vec<Value>> {
    let taints = node.get("spec")?.get("taints")?.as_array()?;
    taints.iter().any(is_ours).then(|| taints.clone())
}

/// JSON patch (RFC 6902) that leaves the other taints, and does nothing if they are not what they were when it was made.
#[must_use]
pub fn removal(taints: &[Value]) -> Value {
    let others: Vec<&Value> = taints.iter().filter(|taint| !is_ours(taint)).collect();
    json!([
        {"op": "test", "path": "/spec/taints", "value": taints},
        {"op": "replace", "path": "/spec/taints", "value": others},
    ])
}

/// The node of a pod whose containers are ready; `None` if they are not, or the pod is going.
#[must_use]
pub fn ready_on(pod: &Value) -> Option<String> {
    if pod.get("metadata")?.get("deletionTimestamp").is_some() {
        return None;
    }
    let conditions = pod.get("status")?.get("conditions")?.as_array()?;
    let says =
        |condition: &Value, key: &str, text: &str| condition.get(key).and_then(Value::as_str) == Some(text);
    let is_ready = conditions
        .iter()
        .any(|condition| says(condition, "type", "Ready") && says(condition, "status", "True"));
    let node = pod.get("spec")?.get("nodeName")?.as_str()?;
    is_ready.then(|| node.to_owned())
}

fn is_ours(taint: &Value) -> bool {
    taint.get("key").and_then(Value::as_str) == Some(AGENT_NOT_READY)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_is_ready_only_with_its_condition_and_until_it_is_deleted() {
        let pod = |ready: &str| {
            json!({"metadata": {}, "spec": {"nodeName": "n1"},
                "status": {"conditions": [{"type": "Ready", "status": ready}]}})
        };
        assert_eq!(ready_on(&pod("True")).as_deref(), Some("n1"));
        assert_eq!(ready_on(&pod("False")), None);
        let mut going = pod("True");
        going["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        assert_eq!(ready_on(&going), None);
        assert_eq!(
            ready_on(&json!({"metadata": {}, "spec": {"nodeName": "n1"}})),
            None
        );
    }
}
