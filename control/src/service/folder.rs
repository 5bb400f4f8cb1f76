//! A folder of manifests as the source: read when it changes, and regularly.

use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::Notify;
use tokio::task;
use tokio::time::{self, Instant};

use super::{Shared, error_chain, lock};

/// Quiet time after a change before the folder is read: a writer's several steps are one change.
const DEBOUNCE: Duration = Duration::from_millis(50);
/// Longest time that changes are collected.
const LONGEST_DEBOUNCE: Duration = Duration::from_millis(500);
/// Time between reads without a notification: lost notifications, folders that do not notify.
const RESCAN: Duration = Duration::from_secs(5);
/// The same while the folder cannot be read.
const RETRY: Duration = Duration::from_millis(500);

/// Reads the folder once; returns whether it could be read.
pub(super) async fn rescan(shared: &Arc<Shared>) -> bool {
    let shared = Arc::clone(shared);
    let scan = move || {
        let Some(mut folder) = lock(&shared.folder) else {
            return false;
        };
        let scanned = folder.scan();
        let read = scanned.is_ok();
        let changed = scanned
            .as_ref()
            .is_ok_and(|changes| !changes.applied.is_empty() || !changes.deleted.is_empty());
        shared.scanned(scanned, folder.errors().to_vec());
        let is_unsaved = &shared.is_last_good_unsaved;
        if let Some(path) = &shared.last_good
            && (changed || is_unsaved.load(Ordering::Relaxed))
        {
            // Tried again at the next reading.
            let saved = folder.last_good().save(path);
            let was_unsaved = is_unsaved.swap(saved.is_err(), Ordering::Relaxed);
            if let Some(error) = saved.err().filter(|_| !was_unsaved) {
                tracing::error!(error = error_chain(&error), "manifests not persisted");
            }
        }
        read
    };
    task::spawn_blocking(scan).await.unwrap_or(false)
}

pub(super) fn watcher(path: &Path, changed: &Arc<Notify>) -> Option<RecommendedWatcher> {
    let changed = Arc::clone(changed);
    let notify = move |event: notify::Result<notify::Event>| {
        // Reading the folder is an access: reacting to it would never end.
        if !matches!(&event, Ok(event) if matches!(event.kind, EventKind::Access(_))) {
            changed.notify_one();
        }
    };
    let watch = || {
        let mut watcher = notify::recommended_watcher(notify)?;
        watcher.watch(path, RecursiveMode::Recursive)?;
        Ok::<_, notify::Error>(watcher)
    };
    watch()
        .inspect_err(|error| tracing::warn!(%error, "no notifications; the folder is read regularly"))
        .ok()
}

/// Reads the folder whenever it changes, until the control plane is gone.
pub(super) async fn follow(
    path: PathBuf,
    shared: Weak<Shared>,
    changed: Arc<Notify>,
    watcher_: Option<RecommendedWatcher>,
) {
    let mut watching = watcher_;
    let mut readable = true;
    loop {
        let pause = if readable && watching.is_some() {
            RESCAN
        } else {
            RETRY
        };
        if time::timeout(pause, changed.notified()).await.is_ok() {
            let until = Instant::now() + LONGEST_DEBOUNCE;
            while Instant::now() < until && time::timeout(DEBOUNCE, changed.notified()).await.is_ok() {}
        }
        let Some(shared) = shared.upgrade() else { return };
        let was_readable = readable;
        readable = rescan(&shared).await;
        if !readable {
            // A watch on a folder that went away does not see the one that takes its place.
            watching = None;
        } else if watching.is_none() || !was_readable {
            watching = watcher(&path, &changed);
            rescan(&shared).await;
        }
    }
}
