//! What the next agent begins with, on disk: written whenever it changes, and again later where that fails. A file that stays behind
//! would bring back policies that are no more.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use policy::Snapshot;
use tokio::sync::{Notify, watch};
use tokio::{task, time};

use super::error_chain;
use crate::last_good::{LastGoodError, LastGoodObjects};
use crate::restore;

/// Time to the second try; doubled up to [`LONGEST_RETRY`].
const RETRY: Duration = Duration::from_secs(1);
const LONGEST_RETRY: Duration = Duration::from_secs(30);

/// Writes the newest snapshot whenever there is one, until it is written.
pub(super) async fn snapshots(path: PathBuf, mut snapshots: watch::Receiver<Arc<Snapshot>>) {
    let mut retry: Option<Duration> = None;
    loop {
        let changed = match retry {
            None => snapshots.changed().await,
            // That nothing has changed meanwhile is no error.
            Some(after) => time::timeout(after, snapshots.changed()).await.unwrap_or(Ok(())),
        };
        if changed.is_err() {
            return;
        }
        let snapshot = Arc::clone(&snapshots.borrow_and_update());
        let file = path.clone();
        let saved = task::spawn_blocking(move || restore::save(&file, &snapshot)).await;
        retry = match saved {
            Ok(Err(error)) => {
                if retry.is_none() {
                    tracing::error!(error = error_chain(&error), "snapshot not persisted");
                }
                Some(retry.map_or(RETRY, |former| (former * 2).min(LONGEST_RETRY)))
            }
            _saved => {
                if retry.is_some() {
                    tracing::info!("snapshot persisted");
                }
                None
            }
        };
    }
}

/// The file of the API server's objects in force.
#[derive(Debug)]
pub(super) struct ObjectsFile {
    path: PathBuf,
    /// What could not be written. Whoever writes holds it, so that nothing older follows.
    unsaved: Mutex<Option<LastGoodObjects>>,
    failed: Notify,
}

impl ObjectsFile {
    pub(super) fn new(path: PathBuf) -> Arc<Self> {
        Arc::new(Self {
            path,
            unsaved: Mutex::new(None),
            failed: Notify::new(),
        })
    }

    /// Writes the newest objects; where that fails [`follow`](Self::follow) goes on with them.
    pub(super) fn save(&self, objects: LastGoodObjects) {
        let mut unsaved = self.unsaved();
        let was_unsaved = unsaved.replace(objects).is_some();
        if let Err(error) = self.write(&mut unsaved) {
            if !was_unsaved {
                tracing::error!(error = error_chain(&error), "objects not persisted");
            }
            self.failed.notify_one();
        }
    }

    /// Tries again what could not be written.
    pub(super) async fn follow(self: Arc<Self>) {
        let mut after = RETRY;
        loop {
            self.failed.notified().await;
            time::sleep(after).await;
            let written = task::block_in_place(|| self.write(&mut self.unsaved()));
            after = match written {
                Ok(()) => RETRY,
                Err(_told_once) => {
                    self.failed.notify_one();
                    (after * 2).min(LONGEST_RETRY)
                }
            };
        }
    }

    fn unsaved(&self) -> MutexGuard<'_, Option<LastGoodObjects>> {
        self.unsaved.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self, unsaved: &mut Option<LastGoodObjects>) -> Result<(), LastGoodError> {
        if let Some(objects) = unsaved {
            objects.save(&self.path)?;
            *unsaved = None;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Waits for a condition that a background task brings about.
    async fn until(mut condition: impl FnMut() -> bool) {
        let reached = async {
            while !condition() {
                time::sleep(Duration::from_millis(20)).await;
            }
        };
        time::timeout(Duration::from_secs(30), reached)
            .await
            .expect("in time");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_could_not_be_written_is_written_as_soon_as_it_can_be() {
        let folder = tempfile::tempdir().unwrap();
        // A folder is in the way of either temporary file.
        let obstacles = ["snapshot.json.new", "objects.json.new"].map(|name| folder.path().join(name));
        obstacles
            .iter()
            .for_each(|path| std::fs::create_dir(path).unwrap());
        let [snapshot, objects] = ["snapshot.json", "objects.json"].map(|name| folder.path().join(name));

        let published = watch::Sender::new(Arc::new(Snapshot::default()));
        let writer = task::spawn(snapshots(snapshot.clone(), published.subscribe()));
        published.send_replace(Arc::new(Snapshot::default()));
        let file = ObjectsFile::new(objects.clone());
        let follower = task::spawn(Arc::clone(&file).follow());
        file.save(LastGoodObjects::new(Vec::new()));
        assert!(file.unsaved().is_some() && !objects.exists() && !snapshot.exists());

        obstacles
            .iter()
            .for_each(|path| std::fs::remove_dir(path).unwrap());
        until(|| snapshot.exists() && objects.exists() && file.unsaved().is_none()).await;
        writer.abort();
        follower.abort();
    }
}
