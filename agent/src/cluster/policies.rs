//! The policies that a cluster has, judged by the code that agents judge them by.

use std::collections::BTreeMap;

use control::object::{self, Decoded, Kind};
use kube::Client;
use kube::api::DynamicObject;
use serde::{Deserialize, Serialize};

use super::ClusterError;
use super::objects::list_kind;

/// Name that policies are scoped to, as the agent's.
pub const CLUSTER_NAME: &str = "default";

/// Kinds of policies, and what they refer to.
pub const KINDS: [Kind; 5] = [
    Kind::NetworkPolicy,
    Kind::ClusterNetworkPolicy,
    Kind::CiliumNetworkPolicy,
    Kind::CiliumClusterwideNetworkPolicy,
    Kind::CiliumCIDRGroup,
];

/// Policies as the API server has them.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Policies {
    /// How many of each kind there are, and how many of those are valid; kinds without a CRD are left out.
    pub kinds: BTreeMap<String, PolicyCount>,
    /// `Kind namespace/name: field: message` for each that is refused.
    pub refused: Vec<String>,
}

/// Policies of one kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyCount {
    /// All.
    pub total: u64,
    /// Those that sluice takes.
    pub valid: u64,
}

impl Policies {
    /// Lists and judges all of them.
    ///
    /// # Errors
    /// [`ClusterError::Request`]
    pub async fn read(client: &Client) -> Result<Self, ClusterError> {
        let mut policies = Self::default();
        for kind in KINDS {
            let Some(objects) = list_kind(client, kind).await? else {
                continue;
            };
            let count = policies.kinds.entry(kind.name().into()).or_default();
            for object in objects {
                count.total += 1;
                match refusal(&object) {
                    None => count.valid += 1,
                    Some(refusal) => policies.refused.push(refusal),
                }
            }
        }
        Ok(policies)
    }

    /// All, and those that are valid.
    #[must_use]
    pub fn sum(&self) -> PolicyCount {
        self.kinds
            .values()
            .fold(PolicyCount::default(), |sum, count| PolicyCount {
                total: sum.total + count.total,
                valid: sum.valid + count.valid,
            })
    }
}

/// Why an agent refuses an object; `None` if it does not.
fn refusal(object: &DynamicObject) -> Option<String> {
    let value = match serde_json::to_value(object) {
        Ok(value) => value,
        Err(error) => return Some(error.to_string()),
    };
    let Decoded::Invalid { key, faults } = object::decode(&value, CLUSTER_NAME) else {
        return None;
    };
    let name = key.map_or_else(
        || object.metadata.name.clone().unwrap_or_default(),
        |key| key.to_string(),
    );
    let faults: Vec<_> = faults.iter().map(ToString::to_string).collect();
    Some(format!("{name}: {}", faults.join("; ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(spec: serde_json::Value) -> DynamicObject {
        serde_json::from_value(serde_json::json!({
            "apiVersion": "cilium.io/v2", "kind": "CiliumNetworkPolicy",
            "metadata": {"name": "p", "namespace": "shop"}, "spec": spec,
        }))
        .unwrap()
    }

    #[test]
    fn a_policy_is_refused_by_name_and_field_as_by_an_agent() {
        assert_eq!(
            refusal(&policy(
                serde_json::json!({"endpointSelector": {}, "ingress": [{}]})
            )),
            None
        );
        let refused = refusal(&policy(
            serde_json::json!({"endpointSelector": {}, "ingres": [{}]}),
        ))
        .unwrap();
        assert!(
            refused.starts_with("CiliumNetworkPolicy shop/p: spec.ingres: "),
            "{refused}"
        );
    }
}
