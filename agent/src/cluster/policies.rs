//! The policies that a cluster has, judged by the code that agents judge them by.

use std::collections::BTreeMap;

use control::object::{self, Decoded, Kind};
use kube::api::{ApiResource, DynamicObject, ListParams};
use kube::core::GroupVersionKind;
use kube::{Api, Client};
use serde::{Deserialize, Serialize};

use super::{ClusterError, PAGE, asking};

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

/// How a kind is asked for.
#[must_use]
pub fn resource(kind: Kind) -> ApiResource {
    let (group, version) = match kind {
        Kind::NetworkPolicy => ("networking.k8s.io", "v1"),
        Kind::ClusterNetworkPolicy => ("policy.networking.k8s.io", "v1alpha2"),
        Kind::CiliumNetworkPolicy | Kind::CiliumClusterwideNetworkPolicy | Kind::CiliumCIDRGroup => {
            ("cilium.io", "v2")
        }
        Kind::EndpointSlice => ("discovery.k8s.io", "v1"),
        Kind::Namespace | Kind::Node | Kind::Pod | Kind::Service => ("", "v1"),
    };
    ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind.name()))
}

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
            let Some(objects) = list(client, &resource(kind)).await? else {
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

/// All objects of a resource; `None` if the server has none such.
///
/// # Errors
/// [`ClusterError::Request`]
pub async fn list(
    client: &Client,
    resource: &ApiResource,
) -> Result<Option<Vec<DynamicObject>>, ClusterError> {
    let api: Api<DynamicObject> = Api::all_with(client.clone(), resource);
    let mut objects = Vec::new();
    let mut parameters = ListParams::default().limit(PAGE);
    loop {
        let page = match api.list(&parameters).await {
            Err(kube::Error::Api(status)) if status.code == 404 => return Ok(None),
            page => page.map_err(asking(resource.plural.clone()))?,
        };
        // Items of a list do not name their kind.
        objects.extend(page.items.into_iter().map(|mut object| {
            object.types.get_or_insert_with(|| kube::core::TypeMeta {
                api_version: resource.api_version.clone(),
                kind: resource.kind.clone(),
            });
            object
        }));
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => parameters = parameters.continue_token(&token),
            None => return Ok(Some(objects)),
        }
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

    #[test]
    fn resources_are_named_as_in_urls() {
        let plurals = KINDS.map(|kind| resource(kind).plural);
        assert_eq!(
            plurals,
            [
                "networkpolicies",
                "clusternetworkpolicies",
                "ciliumnetworkpolicies",
                "ciliumclusterwidenetworkpolicies",
                "ciliumcidrgroups"
            ]
        );
    }
}
