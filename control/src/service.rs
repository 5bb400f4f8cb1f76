//! The running control plane: a source, the index, and the snapshots that come of them.
//!
//! Invariants: nothing is published before the source has been read once or a persisted snapshot is loaded; a source that goes away
//! changes nothing that is enforced; when [`ControlHandle::endpoint_add`] returns, the published snapshot knows the endpoint.

mod folder;
mod node;
mod persistence;
mod server;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ipnet::IpNet;
use jiff::Timestamp;
use policy::{EndpointKey, PodName, Revision, Snapshot};
use serde::Serialize;
use tokio::runtime::Handle;
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::{self, AbortHandle};

use self::persistence::ObjectsFile;
use crate::compile::{Compiler, Size};
use crate::decide::Engine;
use crate::explain::{ExplainError, Explanation, Question};
use crate::index::{Index, IndexConfig, LocalEndpoint};
use crate::kubernetes::{ApiServer, Update};
use crate::last_good::{self, LastGood, LastGoodObjects};
use crate::restore::{Restored, RestoredPods};
use crate::source::{Changes, ManifestFolder, ObjectError, ScanError};

/// Pods that may wait to be asked for.
const WANTED: usize = 256;

/// What the control plane is told at start.
#[derive(Debug, Clone)]
pub struct ControlConfig {
    /// Folder of manifests.
    pub manifests: Option<PathBuf>,
    /// API server to follow; beside a folder it is ignored.
    pub kubernetes: Option<ApiServer>,
    /// File that published snapshots are written to; beside it, with `.manifests` or `.objects` added to its name, the manifests or the
    /// API server's policies behind them.
    pub persist: Option<PathBuf>,
    /// `metadata.name` of the local Node.
    pub node_name: String,
    /// Addresses of the local node beside those of its Node object.
    pub node_addresses: Vec<IpAddr>,
    /// Pod CIDRs beside those of Node objects.
    pub pod_cidrs: Vec<IpNet>,
    /// Name of the cluster.
    pub cluster_name: String,
}

impl Default for ControlConfig {
    fn default() -> Self {
        Self {
            manifests: None,
            kubernetes: None,
            persist: None,
            node_name: String::new(),
            node_addresses: Vec::new(),
            pod_cidrs: Vec::new(),
            cluster_name: "default".to_owned(),
        }
    }
}

/// State of the source and of what came of it.
#[derive(Debug, Clone, Serialize)]
pub struct SourceStatus {
    /// Whether the source has been read since the start.
    pub synced: bool,
    /// When it was read last.
    pub last_sync: Option<Timestamp>,
    /// Since when the source has been away; what is enforced is its last good state or the persisted one.
    pub stale_since: Option<Timestamp>,
    /// Why the source or the persisted snapshot cannot be read.
    pub source_errors: Vec<String>,
    /// Files and objects that are refused.
    pub errors: Vec<ObjectError>,
    /// Number of objects by kind.
    pub objects: BTreeMap<&'static str, usize>,
    /// Number of local endpoints.
    pub endpoints: usize,
    /// What is held of policies once they are compiled.
    pub compiled: Size,
    /// What could not be compiled and is therefore denied.
    pub failures: Vec<String>,
    /// Revision that is published; 0 before the first publication.
    pub revision: Revision,
}

/// Starts control planes.
#[derive(Debug)]
pub struct Control;

/// A running control plane; it ends when the last handle is dropped.
#[derive(Debug, Clone)]
pub struct ControlHandle {
    shared: Arc<Shared>,
    /// Ends the tasks with the last handle.
    _tasks: Arc<Tasks>,
}

#[derive(Debug)]
struct Tasks(Vec<AbortHandle>);

impl Drop for Tasks {
    fn drop(&mut self) {
        for task in &self.0 {
            task.abort();
        }
    }
}

#[derive(Debug)]
struct Shared {
    /// Held while the folder is read; always taken before `state`.
    folder: Option<Mutex<ManifestFolder>>,
    /// Where pods are asked for that the API server's watch has not told of.
    wanted: Option<(Handle, mpsc::Sender<PodName>)>,
    /// File that the manifests in force are written to.
    last_good: Option<PathBuf>,
    /// They could not be.
    is_last_good_unsaved: AtomicBool,
    state: Mutex<State>,
    snapshots: watch::Sender<Arc<Snapshot>>,
    /// The newest snapshot that is worth persisting: compiled from a source, not from the persisted one, which would lose the
    /// endpoints that have not been added again yet.
    durable: watch::Sender<Arc<Snapshot>>,
}

#[derive(Debug)]
struct State {
    index: Index,
    compiler: Compiler,
    /// Enforced until the source has been read.
    restored: Option<Restored>,
    /// Pods of the former process, whose objects may have gone meanwhile.
    restored_pods: RestoredPods,
    synced: bool,
    last_sync: Option<Timestamp>,
    stale_since: Option<Timestamp>,
    restore_errors: Vec<String>,
    /// Why the source cannot be read.
    scan_errors: Vec<String>,
    errors: Vec<ObjectError>,
}

impl State {
    /// Changes the index, and reports objects that were not refused before.
    fn apply(&mut self, changes: Changes, errors: Vec<ObjectError>) {
        for error in errors.iter().filter(|error| !self.errors.contains(error)) {
            tracing::warn!(
                file = %error.file.display(), line = error.line, field = error.field, object = error.object,
                message = error.message, "refused; the last good state stays"
            );
        }
        for key in &changes.deleted {
            self.index.delete(key);
        }
        for object in changes.applied {
            self.index.apply(object);
        }
        self.errors = errors;
    }
}

impl Control {
    /// Loads the persisted snapshot, reads the source once, and keeps following it. Must be called within a tokio runtime.
    pub async fn start(config: ControlConfig) -> ControlHandle {
        let mut index = Index::new(IndexConfig {
            node_name: config.node_name,
            node_addresses: config.node_addresses,
            pod_cidrs: config.pod_cidrs,
            cluster_name: config.cluster_name.clone(),
            awaits_namespaces: config.manifests.is_none(),
        });
        let node_name = index.config().node_name.clone();
        let mut folder = config
            .manifests
            .map(|path| ManifestFolder::new(path, config.cluster_name.clone()));
        let last_good = config
            .persist
            .as_ref()
            .map(|path| path.with_added_extension(last_good::EXTENSION));
        // The folder comes first.
        let asks = folder.is_none() && config.kubernetes.is_some();
        let (mut restored, mut restore_errors) = (None, Vec::new());
        if let Some(path) = &config.persist {
            match Restored::load(path) {
                Ok(loaded) => restored = loaded,
                Err(error) => {
                    tracing::error!(error = error_chain(&error), "no persisted snapshot");
                    restore_errors.push(error_chain(&error));
                }
            }
        }
        if let (Some(path), Some(folder)) = (&last_good, &mut folder) {
            match LastGood::load(path) {
                Ok(loaded) => loaded.into_iter().for_each(|good| folder.restore(good)),
                Err(error) => {
                    tracing::error!(error = error_chain(&error), "no last good manifests");
                    restore_errors.push(error_chain(&error));
                }
            }
        }
        let objects_path = config
            .persist
            .as_ref()
            .filter(|_| asks)
            .map(|path| path.with_added_extension(last_good::OBJECTS_EXTENSION));
        let mut objects = Vec::new();
        if let Some(path) = &objects_path {
            match LastGoodObjects::load(path) {
                Ok(loaded) => objects.extend(loaded.into_iter().flat_map(|good| good.objects)),
                Err(error) => {
                    tracing::error!(error = error_chain(&error), "no last good objects");
                    restore_errors.push(error_chain(&error));
                }
            }
        }
        let mut first = Arc::new(Snapshot::default());
        if let Some(restored) = &restored {
            index.restore_identities(&restored.snapshot().identities);
            first = Arc::new(restored.with_endpoints(index.endpoints(), restored.snapshot()));
            tracing::info!(revision = first.revision.0, "persisted snapshot loaded");
        }
        let state = State {
            index,
            compiler: Compiler::default(),
            stale_since: restored.is_some().then(Timestamp::now),
            // What a folder does not hold any more was taken away by whoever writes it.
            restored_pods: restored
                .as_ref()
                .filter(|_| asks)
                .map(Restored::pods)
                .unwrap_or_default(),
            restored,
            synced: false,
            last_sync: None,
            restore_errors,
            scan_errors: Vec::new(),
            errors: Vec::new(),
        };
        let (wanted, asked) = mpsc::channel(WANTED);
        let shared = Arc::new(Shared {
            wanted: asks.then(|| (Handle::current(), wanted)),
            folder: folder.map(Mutex::new),
            last_good,
            is_last_good_unsaved: AtomicBool::new(false),
            state: Mutex::new(state),
            durable: watch::Sender::new(Arc::clone(&first)),
            snapshots: watch::Sender::new(first),
        });
        let mut tasks = Vec::new();
        if let Some(path) = config.persist {
            tasks.push(task::spawn(persistence::snapshots(path, shared.durable.subscribe())).abort_handle());
        }
        if shared.folder.is_some() {
            let path = lock(&shared.folder)
                .map(|folder| folder.path().to_path_buf())
                .unwrap_or_default();
            let changed = Arc::new(Notify::new());
            // Before the first reading, so that no change falls between.
            let watcher = folder::watcher(&path, &changed);
            folder::rescan(&shared).await;
            tasks.push(
                task::spawn(folder::follow(path, Arc::downgrade(&shared), changed, watcher)).abort_handle(),
            );
        } else if let Some(server) = config.kubernetes {
            let names = (config.cluster_name, node_name);
            let shared = Arc::downgrade(&shared);
            let file = objects_path.map(ObjectsFile::new);
            if let Some(file) = &file {
                tasks.push(task::spawn(Arc::clone(file).follow()).abort_handle());
            }
            let following = server::follow(server, names, asked, objects, file, shared);
            tasks.push(task::spawn(following).abort_handle());
        }
        ControlHandle {
            shared,
            _tasks: Arc::new(Tasks(tasks)),
        }
    }
}

fn lock(folder: &Option<Mutex<ManifestFolder>>) -> Option<MutexGuard<'_, ManifestFolder>> {
    folder
        .as_ref()
        .map(|folder| folder.lock().unwrap_or_else(PoisonError::into_inner))
}

fn error_chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}

impl ControlHandle {
    /// Snapshots as they are published. The first value is the empty snapshot of revision 0 until there is something to enforce.
    #[must_use]
    pub fn snapshots(&self) -> watch::Receiver<Arc<Snapshot>> {
        self.shared.snapshots.subscribe()
    }

    /// Adds a local endpoint, or replaces the one in its slot.
    pub fn endpoint_add(&self, endpoint: LocalEndpoint) {
        let mut state = self.shared.state();
        state.index.apply_endpoint(endpoint.clone());
        if let Some(labels) = state.restored_pods.take(&endpoint) {
            state.index.restore_pod(&endpoint, &labels);
        }
        self.shared.publish(&mut state);
        let is_known = endpoint.uid.is_none() || state.index.is_described(&endpoint);
        drop(state);
        if let Some((runtime, wanted)) = self.shared.wanted.as_ref().filter(|_| !is_known) {
            runtime.spawn(server::want(
                endpoint,
                wanted.clone(),
                Arc::downgrade(&self.shared),
            ));
        }
    }

    /// Removes a local endpoint; another occupant of its slot stays.
    pub fn endpoint_delete(&self, key: EndpointKey) {
        let mut state = self.shared.state();
        state.index.delete_endpoint(key);
        self.shared.publish(&mut state);
    }

    /// Reads the source now and returns the revision that is in force with it; an unreadable source changes nothing.
    pub async fn rescan(&self) -> Revision {
        folder::rescan(&self.shared).await;
        self.shared.snapshots.borrow().revision
    }

    /// The pods that are known, by address; local endpoints outrank objects.
    #[must_use]
    pub fn pod_addresses(&self) -> HashMap<IpAddr, PodName> {
        let state = self.shared.state();
        let objects = state
            .index
            .pods()
            .iter()
            .map(|(name, pod)| (name, &pod.pod.addresses));
        let local = state
            .index
            .endpoints()
            .values()
            .map(|endpoint| (&endpoint.pod, &endpoint.addresses));
        objects
            .chain(local)
            .flat_map(|(name, addresses)| addresses.iter().map(move |addr| (*addr, name.clone())))
            .collect()
    }

    /// Pods that the API server has on this node, with addresses and not finished, that no endpoint is; `None` where another source
    /// is followed, before everything was listed, and while the server is away: it does not tell of pods that have ended.
    #[must_use]
    pub fn pods_without_endpoint(&self) -> Option<BTreeSet<PodName>> {
        let state = self.shared.state();
        let is_told = self.shared.wanted.is_some() && state.synced && state.stale_since.is_none();
        is_told.then(|| state.index.pods_without_endpoint().cloned().collect())
    }

    /// State of the source.
    #[must_use]
    pub fn status(&self) -> SourceStatus {
        let state = self.shared.state();
        SourceStatus {
            synced: state.synced,
            last_sync: state.last_sync,
            stale_since: state.stale_since,
            source_errors: state
                .scan_errors
                .iter()
                .chain(&state.restore_errors)
                .cloned()
                .collect(),
            errors: state.errors.clone(),
            objects: state.index.counts(),
            endpoints: state.index.endpoints().len(),
            compiled: state.compiler.size(),
            failures: state.compiler.failures(),
            revision: self.shared.snapshots.borrow().revision,
        }
    }

    /// Explains a new flow: local endpoints by what is in force, other pods by their objects. One explanation per backend if the
    /// destination is a Service.
    ///
    /// # Errors
    /// [`ExplainError`] names what is not known.
    pub fn explain(&self, question: &Question) -> Result<Vec<Explanation>, ExplainError> {
        let state = self.shared.state();
        let snapshot = Arc::clone(&self.shared.snapshots.borrow());
        Engine::enforced(&state.index, snapshot).explain(question)
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Publishes what is to be enforced now, if it is anything else than before.
    fn publish(&self, state: &mut State) {
        let previous = Arc::clone(&self.snapshots.borrow());
        let mut next = if state.synced {
            state.compiler.compile(&mut state.index, &previous)
        } else if let Some(restored) = &state.restored {
            restored.with_endpoints(state.index.endpoints(), &previous)
        } else {
            return;
        };
        if previous.revision == Revision(0) {
            // An empty source is something to enforce, too.
            next.revision = Revision(1);
        }
        if next.revision != previous.revision {
            tracing::debug!(revision = next.revision.0, "snapshot published");
            let next = Arc::new(next);
            if state.synced {
                self.durable.send_replace(Arc::clone(&next));
            }
            self.snapshots.send_replace(next);
        }
    }

    /// Takes in what the API server has reported; before everything was listed once nothing of it is published.
    fn observed(&self, update: Update) {
        let Update {
            changes,
            is_synced,
            errors,
            failures,
            good: _,
        } = update;
        let mut state = self.state();
        let changed =
            is_synced && !state.synced || !changes.applied.is_empty() || !changes.deleted.is_empty();
        state.apply(changes, errors);
        if is_synced && !state.synced {
            tracing::info!("all kinds of objects have been listed");
            state.synced = true;
            state.restored = None;
        }
        if failures.is_empty() {
            state.scan_errors = failures;
            state.stale_since = (!state.synced && state.restored.is_some())
                .then(|| state.stale_since.unwrap_or_else(Timestamp::now));
            state.last_sync = state.synced.then(Timestamp::now);
        } else {
            if state.scan_errors.is_empty() {
                tracing::error!(
                    error = failures.join("; "),
                    "API server away; what was seen last stays"
                );
            }
            state.scan_errors = failures;
            state.stale_since.get_or_insert_with(Timestamp::now);
        }
        if changed && state.synced {
            self.publish(&mut state);
        }
    }

    fn scanned(&self, scanned: Result<Changes, ScanError>, errors: Vec<ObjectError>) {
        let mut state = self.state();
        match scanned {
            Ok(changes) => {
                let changed = !state.synced || !changes.applied.is_empty() || !changes.deleted.is_empty();
                state.apply(changes, errors);
                state.synced = true;
                state.restored = None;
                state.scan_errors = Vec::new();
                state.stale_since = None;
                state.last_sync = Some(Timestamp::now());
                if changed {
                    self.publish(&mut state);
                }
            }
            Err(error) => {
                let text = error_chain(&error);
                if !state.scan_errors.contains(&text) {
                    tracing::error!(error = text, "source away; the last good state stays");
                }
                state.scan_errors = vec![text];
                state.stale_since.get_or_insert_with(Timestamp::now);
            }
        }
    }
}

#[cfg(test)]
mod tests;
