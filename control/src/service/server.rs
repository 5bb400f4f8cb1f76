//! The API server as the source: its reports applied, what it last gave persisted, and pods asked for that it does not tell of.

use std::sync::{Arc, Weak};
use std::time::Duration;

use policy::PodName;
use serde_json::Value;
use tokio::sync::mpsc;
use tokio::{task, time};

use super::Shared;
use super::persistence::ObjectsFile;
use crate::index::LocalEndpoint;
use crate::kubernetes::{ApiServer, PodPeers, Update};
use crate::last_good::LastGoodObjects;

/// How long the watch may take to tell of a pod that the runtime starts before it is asked for.
const LAG: Duration = Duration::from_secs(1);

/// Has a pod asked for, once, if the watch does not tell of it soon.
pub(super) async fn want(endpoint: LocalEndpoint, wanted: mpsc::Sender<PodName>, shared: Weak<Shared>) {
    time::sleep(LAG).await;
    let Some(shared) = shared.upgrade() else { return };
    let is_missing = {
        let state = shared.state();
        let is_there = state.index.endpoints().get(&endpoint.key.slot) == Some(&endpoint);
        // Before everything was listed the list will tell.
        state.synced && is_there && !state.index.is_described(&endpoint)
    };
    drop(shared);
    if is_missing {
        wanted.send(endpoint.pod).await.ok();
    }
}

/// Applies what the API server reports, until the control plane is gone. `good` was in force before; what is in force is written
/// to `persist`.
pub(super) async fn follow(
    server: ApiServer,
    (cluster, node_name): (String, String),
    wanted: mpsc::Receiver<PodName>,
    good: Vec<Arc<Value>>,
    persist: Option<Arc<ObjectsFile>>,
    shared: Weak<Shared>,
) {
    let apply = |mut update: Update| {
        let Some(shared) = shared.upgrade() else {
            return false;
        };
        // Compilation, and a disk, may take longer than a task may keep its thread.
        task::block_in_place(|| {
            if let (Some(good), Some(file)) = (update.good.take(), &persist) {
                file.save(LastGoodObjects::new(good));
            }
            shared.observed(update);
        });
        true
    };
    server
        .follow(cluster, &PodPeers, &node_name, wanted, good, apply)
        .await;
}
