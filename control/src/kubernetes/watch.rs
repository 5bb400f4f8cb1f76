//! One list+watch of the API server.

use std::time::Duration;

use backon::ExponentialBuilder;
use futures_util::StreamExt;
use kube::api::{Api, ApiResource, DynamicObject};
use kube::core::GroupVersionKind;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event, ExponentialBackoff, watcher};
use kube::{Client, ResourceExt};
use serde_json::Value;
use tokio::sync::mpsc;
use tokio::time;

use crate::object::{Kind, ObjectKey};

/// Between two tries. A server that comes back refuses what it grants until it has read the roles, which costs one more try: what has
/// changed meanwhile must be enforced within 5 s.
const LEAST_BACKOFF: Duration = Duration::from_millis(200);
pub(super) const MOST_BACKOFF: Duration = Duration::from_millis(1500);

/// Seconds after which a watch is begun anew, which bounds how long one that is silently dead goes unnoticed (client-go: 5 to 10
/// minutes).
const WATCH_SECONDS: u32 = 120;

/// Objects per page of a list, as kubectl asks.
const PAGE: u32 = 500;

/// Which watch, by its place in the list of all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WatchId(pub usize);

/// Something that a watch has seen.
#[derive(Debug)]
pub enum Observed {
    /// A list begins: what it does not hold when it ends is gone.
    ListBegins,
    /// An object of the list.
    Listed(Box<Value>),
    /// The list is complete.
    ListEnds,
    /// The server has no such resource (a CRD that is not installed); it is asked again.
    Absent,
    /// An object is new or has changed.
    Applied(Box<Value>),
    /// The answer to a question for one object: what it is now, or that there is none.
    Fetched(ObjectKey, Option<Box<Value>>),
    /// An object is gone, or does not fit the watch any more.
    Deleted(ObjectKey),
    /// The server cannot be asked, for this reason; it is asked again.
    Failed(String),
}

/// Why a resource is not watched any more.
enum End {
    NobodyListens,
    /// The server has no such resource, and had it before or not.
    Absent {
        was_there: bool,
    },
}

/// The resources of a kind, one of each version that is read: the preferred first. A server may have any of them.
pub fn resources(kind: Kind) -> impl Iterator<Item = ApiResource> {
    kind.group_versions()
        .map(move |(group, version)| resource_in(kind, group, version))
}

/// The resource of a kind, in the version that is preferred.
#[must_use]
pub fn resource(kind: Kind) -> ApiResource {
    let (group, version) = kind.group_versions().next().unwrap_or_default();
    resource_in(kind, group, version)
}

fn resource_in(kind: Kind, group: &str, version: &str) -> ApiResource {
    let gvk = GroupVersionKind::gvk(group, version, kind.name());
    ApiResource::from_gvk_with_plural(&gvk, kind.plural())
}

/// Whether the server answered that there is no such resource.
fn is_not_found(error: &watcher::Error) -> bool {
    use watcher::Error::{InitialListFailed, WatchStartFailed};
    matches!(error, InitialListFailed(kube::Error::Api(status)) | WatchStartFailed(kube::Error::Api(status)) if status.code == 404)
}

/// What to watch.
#[derive(Debug, Clone)]
pub struct Watch {
    /// Kind of the objects.
    pub kind: Kind,
    /// Namespace of the objects; all if there is none.
    pub namespace: Option<String>,
    /// Field selector that limits them.
    pub fields: Option<String>,
    /// Label selector that limits them.
    pub labels: Option<String>,
}

impl Watch {
    /// Every object of a kind.
    #[must_use]
    pub const fn all(kind: Kind) -> Self {
        Self {
            kind,
            namespace: None,
            fields: None,
            labels: None,
        }
    }

    /// For people.
    pub(super) fn name(&self) -> String {
        let limits = [&self.namespace, &self.fields, &self.labels];
        let limits: Vec<&str> = limits.into_iter().flatten().map(String::as_str).collect();
        match limits.as_slice() {
            [] => self.kind.plural().to_owned(),
            limits => format!("{} ({})", self.kind.plural(), limits.join(", ")),
        }
    }

    /// Reports until nobody listens any more. Of a kind with several versions that one is watched which the server has.
    pub(super) async fn run(self, id: WatchId, client: Client, reports: mpsc::Sender<(WatchId, Observed)>) {
        let mut pause = LEAST_BACKOFF;
        loop {
            let mut was_there = false;
            for resource in resources(self.kind) {
                match self.follow(id, client.clone(), &resource, &reports).await {
                    End::NobodyListens => return,
                    End::Absent { was_there: now } => was_there |= now,
                }
            }
            // Objects of one version are not gone because another is not served, nor because the server has moved on to another.
            if was_there {
                pause = LEAST_BACKOFF;
            } else if reports.send((id, Observed::Absent)).await.is_err() {
                return;
            }
            time::sleep(pause).await;
            pause = (pause * 2).min(MOST_BACKOFF);
        }
    }

    /// Reports as long as the server has the resource.
    async fn follow(
        &self,
        id: WatchId,
        client: Client,
        resource: &ApiResource,
        reports: &mpsc::Sender<(WatchId, Observed)>,
    ) -> End {
        let api: Api<DynamicObject> = match &self.namespace {
            None => Api::all_with(client.clone(), resource),
            Some(namespace) => Api::namespaced_with(client.clone(), namespace, resource),
        };
        let config = watcher::Config {
            field_selector: self.fields.clone(),
            label_selector: self.labels.clone(),
            timeout: Some(WATCH_SECONDS),
            page_size: Some(PAGE),
            ..watcher::Config::default()
        };
        let backoff = ExponentialBuilder::default()
            .with_min_delay(LEAST_BACKOFF)
            .with_max_delay(MOST_BACKOFF)
            .without_max_times()
            .with_jitter();
        let mut was_there = false;
        let mut events = std::pin::pin!(watcher(api, config).backoff(ExponentialBackoff::from(backoff)));
        while let Some(event) = events.next().await {
            let observed = match event {
                Ok(Event::Init) => Observed::ListBegins,
                Ok(Event::InitApply(object)) => match self.value(&object, resource) {
                    Ok(value) => Observed::Listed(value),
                    Err(error) => Observed::Failed(error),
                },
                Ok(Event::InitDone) => {
                    was_there = true;
                    Observed::ListEnds
                }
                Ok(Event::Apply(object)) => match self.value(&object, resource) {
                    Ok(value) => Observed::Applied(value),
                    Err(error) => Observed::Failed(error),
                },
                Ok(Event::Delete(object)) => Observed::Deleted(ObjectKey {
                    kind: self.kind,
                    namespace: object.namespace().unwrap_or_default(),
                    name: object.name_any(),
                }),
                Err(error) if is_not_found(&error) && self.is_absent(&client, resource).await => {
                    return End::Absent { was_there };
                }
                Err(error) => Observed::Failed(error.to_string()),
            };
            if reports.send((id, observed)).await.is_err() {
                return End::NobodyListens;
            }
        }
        End::Absent { was_there }
    }

    /// Whether the server itself says that it has no such resource: a 404 may be of anything between, and what is absent is not enforced.
    /// Only definitions come and go; what is Kubernetes' own is always there.
    async fn is_absent(&self, client: &Client, resource: &ApiResource) -> bool {
        if !self.kind.is_defined() {
            return false;
        }
        let Ok(groups) = client.list_api_groups().await else {
            return false;
        };
        let is_served = groups.groups.iter().any(|group| {
            group.name == resource.group
                && group
                    .versions
                    .iter()
                    .any(|version| version.version == resource.version)
        });
        if !is_served {
            // A server that is Kubernetes has groups.
            return !groups.groups.is_empty();
        }
        let resources = client.list_api_group_resources(&resource.api_version).await;
        resources.is_ok_and(|list| !list.resources.iter().any(|known| known.name == resource.plural))
    }

    /// The whole object as the server sent it; items of lists come without `kind` and `apiVersion`.
    fn value(&self, object: &DynamicObject, resource: &ApiResource) -> Result<Box<Value>, String> {
        let mut value = serde_json::to_value(object).map_err(|error| error.to_string())?;
        if let Value::Object(fields) = &mut value {
            fields.insert("apiVersion".into(), resource.api_version.clone().into());
            fields.insert("kind".into(), self.kind.name().into());
        }
        Ok(Box::new(value))
    }
}

#[cfg(test)]
mod tests;
