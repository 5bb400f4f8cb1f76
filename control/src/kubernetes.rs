//! The Kubernetes API server as the source of objects.
//!
//! Every kind is listed and watched. Invariants: nothing is published before all of them were listed once, or are known to have no CRD;
//! while the server is away what was seen last stays in force; the same [`Index`](crate::Index) is fed as from manifests, by the
//! same decoders.

mod inventory;
mod lookup;
mod peers;
mod watch;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use policy::PodName;
use serde_json::Value;
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time;

use self::inventory::Inventory;
pub use self::peers::{PeerSource, PodPeers};
use self::watch::MOST_BACKOFF;
pub use self::watch::{Observed, Watch, WatchId, resource, resources};
use crate::object::Kind;
use crate::source::{Changes, ObjectError};

/// Reports that wait to be applied; a watch that is ahead of them waits.
const REPORTS: usize = 4096;

/// How long changes are collected: a rollout comes as many.
const COLLECT: Duration = Duration::from_millis(10);

/// How often the server is asked whether it is there.
const HEARTBEAT: Duration = Duration::from_secs(2);

/// After which time a pod that only an answer has told of is asked for again: it may be gone, and no watch would say so.
const CONFIRMATION: Duration = Duration::from_secs(30);

/// How long it may take to answer.
const ANSWER: Duration = Duration::from_secs(3);

/// How the API server is reached.
#[derive(Debug, Clone, Default)]
pub struct KubernetesConfig {
    /// Kubeconfig; without one the pod's service account, or `KUBECONFIG` and `~/.kube/config`.
    pub kubeconfig: Option<PathBuf>,
}

/// The API server cannot be spoken to at all, whether it is there or not.
#[derive(Debug, thiserror::Error)]
pub enum KubernetesError {
    /// The kubeconfig cannot be read.
    #[error("kubeconfig {path} cannot be read")]
    Kubeconfig {
        /// The file.
        path: PathBuf,
        /// Why.
        source: kube::config::KubeconfigError,
    },
    /// Neither a service account nor a kubeconfig.
    #[error("no way to the API server: neither a service account nor a kubeconfig")]
    Infer(#[source] kube::config::InferConfigError),
    /// The client's credentials are refused by the client itself.
    #[error("no client for the API server")]
    Client(#[source] Box<kube::Error>),
}

/// What came of watching since the last time.
#[derive(Debug, Default)]
pub(crate) struct Update {
    pub(crate) changes: Changes,
    /// Whether every kind was listed once.
    pub(crate) is_synced: bool,
    /// Objects that are refused.
    pub(crate) errors: Vec<ObjectError>,
    /// Why the server cannot be asked.
    pub(crate) failures: Vec<String>,
    /// Policies and groups in force, to be persisted, if they are others than before.
    pub(crate) good: Option<Vec<Arc<Value>>>,
}

/// The connection to an API server.
#[derive(Clone)]
pub struct ApiServer {
    client: Client,
    url: String,
}

impl std::fmt::Debug for ApiServer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ApiServer")
            .field("url", &self.url)
            .finish_non_exhaustive()
    }
}

impl ApiServer {
    /// A client for it; nothing is asked yet.
    ///
    /// # Errors
    /// [`KubernetesError`].
    pub async fn new(config: &KubernetesConfig) -> Result<Self, KubernetesError> {
        let config = match &config.kubeconfig {
            None => Config::infer().await.map_err(KubernetesError::Infer)?,
            Some(path) => {
                let unreadable = |source| KubernetesError::Kubeconfig {
                    path: path.clone(),
                    source,
                };
                let file = Kubeconfig::read_from(path).map_err(unreadable)?;
                Config::from_custom_kubeconfig(file, &KubeConfigOptions::default())
                    .await
                    .map_err(unreadable)?
            }
        };
        let url = config.cluster_url.to_string();
        let client = Client::try_from(config).map_err(|error| KubernetesError::Client(Box::new(error)))?;
        Ok(Self { client, url })
    }

    /// Its address.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// A client for requests other than watches.
    #[must_use]
    pub fn client(&self) -> Client {
        self.client.clone()
    }

    /// Begins to watch; a watch's [`WatchId`] is its place in `watches`.
    #[must_use]
    pub fn observe(&self, watches: Vec<Watch>) -> Observations {
        let (sender, reports) = mpsc::channel(REPORTS);
        let watching = watches.into_iter().enumerate().map(|(number, watch)| {
            let run = watch.run(WatchId(number), self.client.clone(), sender.clone());
            Watching(tokio::spawn(run).abort_handle())
        });
        Observations {
            _watching: watching.collect(),
            reports,
        }
    }

    /// Watches everything that policy needs and tells `apply` what has changed, until `apply` says that nobody listens. Pods of this
    /// node that are `wanted` are asked for by name. `good` was in force before: it stays where what is listed now is refused.
    pub(crate) async fn follow(
        self,
        cluster: String,
        peers: &dyn PeerSource,
        node_name: &str,
        mut wanted: mpsc::Receiver<PodName>,
        good: Vec<Arc<Value>>,
        mut apply: impl FnMut(Update) -> bool,
    ) {
        let own = Watch {
            fields: Some(format!("spec.nodeName={node_name}")),
            ..Watch::all(Kind::Pod)
        };
        let kinds = Kind::ALL.into_iter().filter(|kind| *kind != Kind::Pod);
        let own_id = WatchId(kinds.clone().count());
        let watches: Vec<Watch> = kinds
            .map(Watch::all)
            .chain([own])
            .chain(peers.watches(node_name))
            .collect();
        let mut inventory = Inventory::new(watches.iter().map(Watch::name), own_id, cluster);
        inventory.restore(good);
        let mut observations = self.observe(watches);
        let mut heartbeat = time::interval(HEARTBEAT);
        heartbeat.set_missed_tick_behavior(time::MissedTickBehavior::Delay);
        let mut lookups: JoinSet<Option<Observed>> = JoinSet::new();
        let look_up = |lookups: &mut JoinSet<_>, pod: PodName| {
            lookups.spawn(lookup::pod(self.client.clone(), pod, node_name.to_owned()));
        };
        let mut away = None;
        loop {
            let mut changes = Changes::default();
            let mut good = None;
            tokio::select! {
                Some(pod) = wanted.recv() => {
                    tracing::info!(%pod, "not told of yet: asked for");
                    look_up(&mut lookups, pod);
                    continue;
                }
                Some(answer) = lookups.join_next() => {
                    let Ok(Some(answer)) = answer else { continue };
                    inventory.observe(own_id, answer, &mut changes);
                }
                report = observations.next() => {
                    let Some((id, report)) = report else { return };
                    inventory.observe(id, report, &mut changes);
                    time::sleep(COLLECT).await;
                    while let Ok((id, report)) = observations.reports.try_recv() {
                        inventory.observe(id, report, &mut changes);
                    }
                }
                _ = heartbeat.tick() => {
                    good = inventory.take_good();
                    away = self.absence().await;
                    if away.is_none() {
                        inventory.forget_failures(Instant::now() - 2 * MOST_BACKOFF);
                        for pod in inventory.unconfirmed(Instant::now() - CONFIRMATION) {
                            look_up(&mut lookups, pod);
                        }
                    }
                }
            }
            let update = Update {
                changes,
                is_synced: inventory.is_synced(),
                errors: inventory.errors(),
                failures: away.iter().chain(inventory.failures()).cloned().collect(),
                good,
            };
            if !apply(update) {
                return;
            }
        }
    }

    /// Why the server does not answer; `None` if it does, whatever it answers.
    async fn absence(&self) -> Option<String> {
        match time::timeout(ANSWER, self.client.apiserver_version()).await {
            Ok(Ok(_) | Err(kube::Error::Api(_))) => None,
            Ok(Err(error)) => Some(format!("API server {}: {error}", self.url)),
            Err(_) => Some(format!("API server {} does not answer", self.url)),
        }
    }
}

/// What watches report, each in its own order. They end with it.
#[derive(Debug)]
pub struct Observations {
    reports: mpsc::Receiver<(WatchId, Observed)>,
    _watching: Vec<Watching>,
}

impl Observations {
    /// The next report; `None` when every watch has ended.
    pub async fn next(&mut self) -> Option<(WatchId, Observed)> {
        self.reports.recv().await
    }
}

/// A watch that ends with what follows it.
#[derive(Debug)]
struct Watching(AbortHandle);

impl Drop for Watching {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[cfg(test)]
mod tests;
