//! What was installed beside the agents: found by name or label, and deleted.

use control::api::definition::{self, Definition};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::Api;
use kube::api::{ApiResource, DeleteParams, DynamicObject, ListParams};
use kube::core::GroupVersionKind;

use super::objects::list;
use super::{Cluster, ClusterError, NAME, OPERATOR, asking};

/// Group, version and kind of what is in sluice's namespace.
const NAMESPACED: [(&str, &str, &str); 8] = [
    ("apps", "v1", "Deployment"),
    ("", "v1", "Service"),
    ("", "v1", "ConfigMap"),
    ("policy", "v1", "PodDisruptionBudget"),
    ("coordination.k8s.io", "v1", "Lease"),
    ("rbac.authorization.k8s.io", "v1", "RoleBinding"),
    ("rbac.authorization.k8s.io", "v1", "Role"),
    ("", "v1", "ServiceAccount"),
];

/// The same for what is the cluster's.
const CLUSTER_WIDE: [(&str, &str, &str); 2] = [
    ("rbac.authorization.k8s.io", "v1", "ClusterRoleBinding"),
    ("rbac.authorization.k8s.io", "v1", "ClusterRole"),
];

/// Label that Cilium's operator gives its definitions.
pub const CILIUM_SCHEMA: &str = "io.cilium.k8s.crd.schema.version";
/// Annotation that the network policy API's own definitions have.
pub const NETWORK_POLICY_API: &str = "policy.networking.k8s.io/bundle-version";

/// What became of a definition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CrdRemoval {
    /// Deleted.
    Deleted(String),
    /// Left, for this reason.
    Left(String, String),
}

/// Whose definition it is, if not sluice's.
#[must_use]
pub fn foreign_owner(crd: &CustomResourceDefinition) -> Option<String> {
    let labels = crd.metadata.labels.as_ref();
    let annotations = crd.metadata.annotations.as_ref();
    if let Some(version) = labels.and_then(|labels| labels.get(CILIUM_SCHEMA)) {
        return Some(format!("Cilium (schema {version})"));
    }
    let bundle = annotations.and_then(|annotations| annotations.get(NETWORK_POLICY_API));
    bundle.map(|version| format!("the network policy API ({version})"))
}

impl Cluster {
    /// Deletes the operator, roles and accounts; says what was there.
    ///
    /// # Errors
    /// [`ClusterError::Request`]
    pub async fn delete_companions(&self) -> Result<Vec<String>, ClusterError> {
        let mut deleted = Vec::new();
        for (kinds, namespace) in [
            (&NAMESPACED[..], Some(self.namespace())),
            (&CLUSTER_WIDE[..], None),
        ] {
            for (group, version, kind) in kinds {
                let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind));
                let api: Api<DynamicObject> = match namespace {
                    Some(namespace) => Api::namespaced_with(self.client(), namespace, &resource),
                    None => Api::all_with(self.client(), &resource),
                };
                let selector = format!("app.kubernetes.io/name in ({NAME},{OPERATOR})");
                let marked = ListParams::default().labels(&selector);
                let mut names: Vec<_> = api
                    .list_metadata(&marked)
                    .await
                    .map_err(asking(resource.plural.clone()))?
                    .items
                    .into_iter()
                    .filter_map(|object| object.metadata.name)
                    .collect();
                // The manifests give no labels to some.
                names.extend([NAME.to_owned(), OPERATOR.to_owned()]);
                names.sort();
                names.dedup();
                for name in names {
                    match api.delete(&name, &DeleteParams::background()).await {
                        Ok(_) => deleted.push(format!("{kind} {name}")),
                        Err(kube::Error::Api(status)) if status.code == 404 => {}
                        Err(error) => return Err(asking(format!("deletion of {kind} {name}"))(error)),
                    }
                }
            }
        }
        Ok(deleted)
    }

    /// Deletes the definitions that are sluice's and have no objects any more.
    ///
    /// # Errors
    /// [`ClusterError::Request`]
    pub async fn delete_crds(&self) -> Result<Vec<CrdRemoval>, ClusterError> {
        let api: Api<CustomResourceDefinition> = Api::all(self.client());
        let mut outcome = Vec::new();
        for name in definition::ALL.iter().map(Definition::name) {
            let Some(crd) = api.get_opt(&name).await.map_err(asking(name.as_str()))? else {
                continue;
            };
            if let Some(owner) = foreign_owner(&crd) {
                outcome.push(CrdRemoval::Left(name, format!("it is of {owner}")));
                continue;
            }
            match self.count_objects(&crd).await? {
                Some(0) => {}
                Some(objects) => {
                    outcome.push(CrdRemoval::Left(
                        name,
                        format!("there are {objects} objects of it"),
                    ));
                    continue;
                }
                // With it would go all that there may be.
                None => {
                    outcome.push(CrdRemoval::Left(name, "its objects cannot be counted".into()));
                    continue;
                }
            }
            let deletion = api.delete(&name, &DeleteParams::background()).await;
            deletion.map_err(asking(format!("deletion of {name}")))?;
            outcome.push(CrdRemoval::Deleted(name));
        }
        Ok(outcome)
    }

    /// How many objects there are of a definition; `None` if the server has it, but not its objects.
    async fn count_objects(&self, crd: &CustomResourceDefinition) -> Result<Option<usize>, ClusterError> {
        let served = crd.spec.versions.iter().find(|version| version.served);
        let Some(version) = served else { return Ok(None) };
        let names = &crd.spec.names;
        let kind = GroupVersionKind::gvk(&crd.spec.group, &version.name, &names.kind);
        let resource = ApiResource::from_gvk_with_plural(&kind, &names.plural);
        let objects = list(&self.client(), &resource).await?;
        Ok(objects.map(|objects| objects.len()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn definitions_of_others_are_recognised() {
        let crd = |metadata: serde_json::Value| -> CustomResourceDefinition {
            serde_json::from_value(serde_json::json!({
                "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": metadata,
                "spec": {"group": "g", "names": {"kind": "K", "plural": "ks"}, "scope": "Cluster", "versions": []},
            }))
            .unwrap()
        };
        assert_eq!(foreign_owner(&crd(serde_json::json!({"name": "a"}))), None);
        let cilium = serde_json::json!({"labels": {(CILIUM_SCHEMA): "1.31.3"}});
        assert_eq!(foreign_owner(&crd(cilium)).unwrap(), "Cilium (schema 1.31.3)");
        assert!(
            foreign_owner(&crd(
                serde_json::json!({"annotations": {(NETWORK_POLICY_API): "v0.1.7"}})
            ))
            .is_some()
        );
    }
}
