//! Puts the plugin and its list of plugins into the runtime's folders, and keeps them as they should be.
//!
//! Files of others are read, never changed. Own ones are written beside their place and renamed, the plugin before the list that
//! names it. Both stay when the agent ends: without it no pod comes up, rather than one without policy. They also stay when the
//! node's own list goes away: while a network is exchanged, there is no moment in which a pod could come up past sluice.

use std::fs::{self, File, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use sluice_cni::PLUGIN_NAME;
use tokio::sync::{Notify, watch};
use tokio::task;

use super::conflist::{self, ConflistError};

/// Between looks without a notification.
const RESCAN: Duration = Duration::from_secs(30);

/// How long changes may be on their way before they are looked at.
const DEBOUNCE: Duration = Duration::from_millis(100);

/// What files of configurations end with (libcni).
const ENDINGS: [&str; 3] = [".conf", ".conflist", ".json"];

/// The plugin or its list is not as it should be.
#[derive(Debug, thiserror::Error)]
pub enum InstallationError {
    /// The plugin cannot be read.
    #[error("the CNI plugin {}: {source}; --cni-plugin tells where it is", path.display())]
    Plugin {
        /// Where it was looked for.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// A file or folder cannot be accessed.
    #[error("{}: {source}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// Nothing to come after.
    #[error("no CNI configuration in {}: no pod comes up until the node's network has one", dir.display())]
    NoSource {
        /// The folder.
        dir: PathBuf,
    },
    /// The runtime takes a configuration that cannot be chained.
    #[error("{}: {source}; new pods do not come under policy by it", path.display())]
    Source {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: ConflistError,
    },
    /// The runtime takes another's file.
    #[error("{} comes before {}: new pods come up without policy", path.display(), conflist::FILE_NAME)]
    NotFirst {
        /// The file.
        path: PathBuf,
    },
}

fn io_error(path: &Path) -> impl FnOnce(io::Error) -> InstallationError {
    let path = path.to_owned();
    move |source| InstallationError::Io { path, source }
}

/// What belongs where.
#[derive(Debug, Clone)]
pub struct Installation {
    /// The runtime's folder of configurations; `None`: no list is written.
    pub conf_dir: Option<PathBuf>,
    /// The runtime's folder of plugins; `None`: the plugin is there by other means.
    pub bin_dir: Option<PathBuf>,
    /// The plugin to install.
    pub plugin: PathBuf,
    /// The agent's socket.
    pub socket: PathBuf,
}

impl Installation {
    /// The plugin that came with this program: beside it.
    #[must_use]
    pub fn own_plugin() -> PathBuf {
        let own = std::env::current_exe().unwrap_or_default();
        own.with_file_name(PLUGIN_NAME)
    }

    /// Writes what is not as it should be; says whether anything was.
    ///
    /// # Errors
    /// [`InstallationError`]. What could not be made stays as it was.
    pub fn apply(&self) -> Result<bool, InstallationError> {
        let mut written = false;
        if let Some(dir) = &self.bin_dir {
            let contents = fs::read(&self.plugin).map_err(|source| InstallationError::Plugin {
                path: self.plugin.clone(),
                source,
            })?;
            written |= replace(dir, PLUGIN_NAME, &contents, 0o755)?;
        }
        if let Some(dir) = &self.conf_dir {
            let (name, list) = self.list(dir)?;
            written |= replace(dir, conflist::FILE_NAME, &list, 0o600)?;
            if name.as_str() < conflist::FILE_NAME {
                return Err(InstallationError::NotFirst { path: dir.join(name) });
            }
        }
        Ok(written)
    }

    /// The list to write, and the name of the file that it is made of: the one that the runtime would take.
    ///
    /// # Errors
    /// [`InstallationError`]
    pub fn list(&self, dir: &Path) -> Result<(String, Vec<u8>), InstallationError> {
        for name in sources(dir)? {
            let path = dir.join(&name);
            let contents = match fs::read(&path) {
                Ok(contents) => contents,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(io_error(&path)(error)),
            };
            match conflist::derive(&name, &contents, &self.socket) {
                Ok(list) => return Ok((name, list)),
                Err(ConflistError::Empty) => {}
                Err(source) => return Err(InstallationError::Source { path, source }),
            }
        }
        Err(InstallationError::NoSource { dir: dir.to_owned() })
    }

    /// Keeps everything as it should be, and tells what is wrong by `problem`; never ends.
    pub async fn follow(self, problem: watch::Sender<Option<String>>) {
        let changed = Arc::new(Notify::new());
        let mut watcher = None;
        loop {
            let installation = self.clone();
            let applied = task::spawn_blocking(move || installation.apply()).await;
            let now = match applied {
                Ok(Ok(written)) => {
                    if written {
                        tracing::info!(conf_dir = ?self.conf_dir, bin_dir = ?self.bin_dir, "CNI plugin installed");
                    }
                    None
                }
                Ok(Err(error)) => Some(format!("CNI: {error}")),
                Err(error) => Some(format!("CNI: {error}")),
            };
            problem.send_if_modified(|before| {
                let is_new = *before != now;
                if is_new && let Some(now) = &now {
                    tracing::error!("{now}");
                }
                *before = now;
                is_new
            });
            // A watch on a folder that went away does not see the one that takes its place.
            if watcher.is_none() || self.conf_dir.as_ref().is_some_and(|dir| !dir.exists()) {
                watcher = self.conf_dir.as_ref().and_then(|dir| watch_folder(dir, &changed));
                if watcher.is_some() {
                    // What changed before the watch began is not told.
                    changed.notify_one();
                }
            }
            if tokio::time::timeout(RESCAN, changed.notified()).await.is_ok() {
                tokio::time::sleep(DEBOUNCE).await;
            }
        }
    }
}

fn watch_folder(dir: &Path, changed: &Arc<Notify>) -> Option<RecommendedWatcher> {
    let changed = Arc::clone(changed);
    let notify = move |event: notify::Result<notify::Event>| {
        // Reading the folder is an access: reacting to it would never end.
        if !matches!(&event, Ok(event) if matches!(event.kind, EventKind::Access(_))) {
            changed.notify_one();
        }
    };
    let mut watcher = notify::recommended_watcher(notify).ok()?;
    watcher.watch(dir, RecursiveMode::NonRecursive).ok()?;
    Some(watcher)
}

/// Names of the configurations of others, in the runtime's order.
fn sources(dir: &Path) -> Result<Vec<String>, InstallationError> {
    let mut names = Vec::new();
    for entry in fs::read_dir(dir).map_err(io_error(dir))? {
        let Ok(name) = entry.map_err(io_error(dir))?.file_name().into_string() else {
            continue;
        };
        if name != conflist::FILE_NAME
            && ENDINGS.iter().any(|ending| name.ends_with(ending))
            && !dir.join(&name).is_dir()
        {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

/// Puts `contents` into `dir` as `name`, unless they are there already; says whether it did.
fn replace(dir: &Path, name: &str, contents: &[u8], mode: u32) -> Result<bool, InstallationError> {
    let path = dir.join(name);
    let is_current = fs::metadata(&path)
        .is_ok_and(|metadata| metadata.permissions().mode() & 0o777 == mode && metadata.is_file())
        && fs::read(&path).is_ok_and(|present| present == contents);
    if is_current {
        return Ok(false);
    }
    fs::create_dir_all(dir).map_err(io_error(dir))?;
    // No ending that a runtime would read.
    let temporary = dir.join(format!(".{name}.new"));
    let write = || -> io::Result<()> {
        let mut file = File::create(&temporary)?;
        file.set_permissions(Permissions::from_mode(mode))?;
        file.write_all(contents)?;
        file.sync_all()?;
        drop(file);
        fs::rename(&temporary, &path)
    };
    write().map_err(|error| {
        // The first error is the one to tell.
        fs::remove_file(&temporary).ok();
        io_error(&path)(error)
    })?;
    Ok(true)
}

/// Removes the list, then the plugin, from the folders that are given; returns what was there.
///
/// # Errors
/// [`InstallationError::Io`]
pub fn remove(conf_dir: Option<&Path>, bin_dir: Option<&Path>) -> Result<Vec<PathBuf>, InstallationError> {
    let mut removed = Vec::new();
    let paths = [
        conf_dir.map(|dir| dir.join(conflist::FILE_NAME)),
        bin_dir.map(|dir| dir.join(PLUGIN_NAME)),
    ];
    for path in paths.into_iter().flatten() {
        match fs::remove_file(&path) {
            Ok(()) => removed.push(path),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(io_error(&path)(error)),
        }
    }
    Ok(removed)
}

#[cfg(test)]
mod tests;
