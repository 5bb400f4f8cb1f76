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

#[cfg(test)]
mod tests {
    use http_body_util::Full;
    use hyper::body::Bytes;
    use hyper::{Request, Response};
    use kube::client::Body;
    use serde_json::{Value, json};

    use super::*;

    /// An API server that has these group versions, each with the resources of these kinds.
    fn server(versions: &'static [(&'static str, &'static [&'static str])]) -> Client {
        let answer = move |request: Request<Body>| async move {
            let path = request.uri().path();
            let found = versions
                .iter()
                .find(|(version, _)| path == format!("/apis/{version}"));
            let (code, body) = match found {
                Some((version, kinds)) => (200, resource_list(version, kinds)),
                None => (
                    404,
                    json!({"status": "Failure", "message": "not found", "reason": "NotFound", "code": 404}),
                ),
            };
            let body = Full::new(Bytes::from(body.to_string()));
            Response::builder().status(code).body(body)
        };
        Client::new(tower::service_fn(answer), "default")
    }

    fn resource_list(version: &str, kinds: &[&str]) -> Value {
        let resource = |kind: &&str| json!({"name": kind.to_lowercase(), "singularName": "", "namespaced": false, "kind": kind, "verbs": ["list"]});
        let resources: Vec<_> = kinds.iter().map(resource).collect();
        json!({"kind": "APIResourceList", "groupVersion": version, "resources": resources})
    }

    #[tokio::test]
    async fn a_kind_is_used_in_the_first_version_that_the_server_has() {
        const BETA: &str = "policy.networking.k8s.io/v1beta1";
        const ALPHA: &str = "policy.networking.k8s.io/v1alpha2";
        const KIND: &[&str] = &["ClusterNetworkPolicy"];
        const OTHER: &[&str] = &["AdminNetworkPolicy"];
        for (versions, expected) in [
            (&[(ALPHA, KIND), (BETA, KIND)][..], Some(BETA)),
            (&[(BETA, KIND)][..], Some(BETA)),
            (&[(ALPHA, KIND)][..], Some(ALPHA)),
            // The group's version is there for another of its kinds.
            (&[(BETA, OTHER), (ALPHA, KIND)][..], Some(ALPHA)),
            (&[(BETA, OTHER)][..], None),
            (&[][..], None),
        ] {
            let resource = served(&server(versions), Kind::ClusterNetworkPolicy)
                .await
                .unwrap();
            let version = resource.map(|resource| resource.api_version);
            assert_eq!(version.as_deref(), expected, "{versions:?}");
        }
    }
}
