//! Lists of objects, whole.

use control::kubernetes::resources;
use control::object::Kind;
use kube::api::{ApiResource, DynamicObject, ListParams};
use kube::{Api, Client};

use super::{ClusterError, PAGE, asking};

/// A kind's resource in the first version that the server has; `None` if it has none.
///
/// # Errors
/// [`ClusterError::Request`]
pub async fn served(client: &Client, kind: Kind) -> Result<Option<ApiResource>, ClusterError> {
    for resource in resources(kind) {
        let known = match client.list_api_group_resources(&resource.api_version).await {
            Err(kube::Error::Api(status)) if status.code == 404 => continue,
            known => known.map_err(asking(resource.api_version.clone()))?,
        };
        if known.resources.iter().any(|known| known.kind == resource.kind) {
            return Ok(Some(resource));
        }
    }
    Ok(None)
}

/// All objects of a kind, in the first version that the server has; `None` if it has none.
///
/// # Errors
/// [`ClusterError::Request`]
pub async fn list_kind(client: &Client, kind: Kind) -> Result<Option<Vec<DynamicObject>>, ClusterError> {
    for resource in resources(kind) {
        if let Some(objects) = list(client, &resource).await? {
            return Ok(Some(objects));
        }
    }
    Ok(None)
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
