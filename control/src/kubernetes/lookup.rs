//! One pod asked for by name, because the watch lags behind the runtime that starts it.

use kube::Client;
use kube::api::{Api, ApiResource, DynamicObject};
use kube::core::GroupVersionKind;
use policy::PodName;
use serde_json::Value;
use tokio::time;

use super::ANSWER;
use super::watch::Observed;
use crate::object::{Kind, ObjectKey};

/// Asks for the pod; `None` if there is no answer, or none that concerns this node.
pub(super) async fn pod(client: Client, name: PodName, node_name: String) -> Option<Observed> {
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk("", "v1", Kind::Pod.name()));
    let api: Api<DynamicObject> = Api::namespaced_with(client, &name.namespace, &resource);
    let key = ObjectKey {
        kind: Kind::Pod,
        namespace: name.namespace.clone(),
        name: name.name.clone(),
    };
    let answer = match time::timeout(ANSWER, api.get_opt(&name.name)).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(error)) => {
            tracing::warn!(pod = %name, %error, "cannot ask for the pod");
            return None;
        }
        Err(_) => {
            tracing::warn!(pod = %name, "asked for the pod: no answer");
            return None;
        }
    };
    let Some(object) = answer else {
        return Some(Observed::Fetched(key, None));
    };
    let mut value = serde_json::to_value(object).ok()?;
    if value.pointer("/spec/nodeName").and_then(Value::as_str) != Some(node_name.as_str()) {
        return None;
    }
    if let Value::Object(fields) = &mut value {
        fields.insert("apiVersion".into(), "v1".into());
        fields.insert("kind".into(), Kind::Pod.name().into());
    }
    Some(Observed::Fetched(key, Some(Box::new(value))))
}
