//! Manifests for the policy tools: a folder, a file or standard input.

use std::io::{self, Read};
use std::path::{Path, PathBuf};

use control::manifest::LocatedFault;
use control::object::ObjectKey;
use control::source::{MOST_FILE_BYTES, ManifestFolder, ScanError};
use control::{Index, IndexConfig, ObjectError};

use crate::cli::ClusterArgs;

/// What standard input is called in messages.
const STDIN: &str = "<stdin>";

/// Manifests that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ManifestsError {
    /// The folder or file cannot be read.
    #[error(transparent)]
    Scan(#[from] ScanError),
    /// Standard input cannot be read.
    #[error("cannot read standard input")]
    Stdin(#[source] io::Error),
    /// Nothing in it is a manifest.
    #[error("{} holds no manifests (.yaml, .yml, .json)", path.display())]
    Empty {
        /// The folder.
        path: PathBuf,
    },
    /// Objects are refused; without them the answers would be wrong.
    #[error("the manifests have faults:\n{}", faults.join("\n"))]
    Faults {
        /// One line each.
        faults: Vec<String>,
    },
}

/// Manifests as they were read.
#[derive(Debug)]
pub struct Manifests {
    /// What is valid.
    pub index: Index,
    folder: ManifestFolder,
}

impl Manifests {
    /// Reads `path`, `-` is standard input; faults are kept.
    ///
    /// # Errors
    /// [`ManifestsError`], but not of faults.
    pub fn read(path: &Path, cluster: &ClusterArgs) -> Result<Self, ManifestsError> {
        let mut index = Index::new(IndexConfig {
            node_name: cluster.node_name.clone().unwrap_or_default(),
            node_addresses: cluster.node_addresses.clone(),
            pod_cidrs: cluster.pod_cidrs.clone(),
            cluster_name: cluster.cluster_name.clone(),
            ..IndexConfig::default()
        });
        let is_stdin = path == Path::new("-");
        let shown = if is_stdin { Path::new(STDIN) } else { path };
        let mut folder = ManifestFolder::new(shown.to_path_buf(), cluster.cluster_name.clone());
        let changes = if is_stdin {
            let mut text = String::new();
            io::stdin()
                .lock()
                .take(MOST_STDIN_BYTES)
                .read_to_string(&mut text)
                .map_err(ManifestsError::Stdin)?;
            if text.len() as u64 == MOST_STDIN_BYTES {
                let message = format!("more than {} bytes", MOST_STDIN_BYTES - 1);
                return Err(ManifestsError::Stdin(io::Error::new(
                    io::ErrorKind::FileTooLarge,
                    message,
                )));
            }
            folder.read_text(text)
        } else {
            folder.scan()?
        };
        if changes.applied.is_empty() && folder.errors().is_empty() {
            return Err(ManifestsError::Empty {
                path: shown.to_path_buf(),
            });
        }
        for object in changes.applied {
            index.apply(object);
        }
        Ok(Self { index, folder })
    }

    /// Reads `path`; any fault is an error.
    ///
    /// # Errors
    /// [`ManifestsError`].
    pub fn read_valid(path: &Path, cluster: &ClusterArgs) -> Result<Self, ManifestsError> {
        let manifests = Self::read(path, cluster)?;
        if manifests.faults().is_empty() {
            return Ok(manifests);
        }
        let faults = manifests.faults().iter().map(fault_line).collect();
        Err(ManifestsError::Faults { faults })
    }

    /// What is refused.
    #[must_use]
    pub fn faults(&self) -> &[ObjectError] {
        self.folder.errors()
    }

    /// File and line of a valid object.
    #[must_use]
    pub fn place(&self, key: &ObjectKey) -> Option<(&Path, u32)> {
        self.folder.place(key)
    }
}

/// Most that is read from standard input, bytes, and one: as much as eight files.
const MOST_STDIN_BYTES: u64 = 8 * MOST_FILE_BYTES + 1;

/// `file:line: object: field: message`, less what is not known.
#[must_use]
pub fn fault_line(fault: &ObjectError) -> String {
    let mut line = fault.file.display().to_string();
    if let Some(number) = fault.line {
        line.push_str(&format!(":{number}"));
    }
    let object = fault.object.as_deref().unwrap_or_default();
    for part in [object, &fault.field, &fault.message] {
        if !part.is_empty() {
            line.push_str(": ");
            line.push_str(part);
        }
    }
    line
}

/// The same for a file that holds no objects.
#[must_use]
pub fn located_line(file: &Path, fault: &LocatedFault) -> String {
    fault_line(&ObjectError {
        file: file.to_path_buf(),
        line: Some(fault.line),
        field: fault.field.clone(),
        object: None,
        message: fault.message.clone(),
    })
}
