//! The manifests behind what is enforced, persisted: a file that is invalid when the agent restarts must not weaken what was
//! enforced before.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::restore;

/// What the file's name has behind that of the persisted snapshot.
pub const EXTENSION: &str = "manifests";

/// Version of the form that this build reads and writes.
const VERSION: u32 = 1;

/// Last good manifests that cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum LastGoodError {
    /// The file cannot be read.
    #[error("last good manifests {path} cannot be read")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file cannot be written.
    #[error("last good manifests {path} cannot be written")]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The content is not of the persisted form.
    #[error("last good manifests {path} are damaged")]
    Content {
        /// The file.
        path: PathBuf,
        /// Why.
        source: serde_json::Error,
    },
    /// Written by another version.
    #[error("last good manifests {path} have version {found}, this build reads version {VERSION}")]
    Version {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u32,
    },
}

/// A file's text as it was when these objects were read from it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GoodFile {
    /// The file.
    pub file: PathBuf,
    /// Its text.
    pub text: String,
    /// Positions of the documents that are in force.
    pub documents: Vec<usize>,
}

/// The manifests of every object in force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastGood {
    version: u32,
    /// The files.
    pub files: Vec<GoodFile>,
}

impl LastGood {
    /// The manifests in `files`.
    #[must_use]
    pub fn new(files: Vec<GoodFile>) -> Self {
        Self {
            version: VERSION,
            files,
        }
    }

    /// Reads what [`Self::save`] wrote; `None` if there is no file.
    ///
    /// # Errors
    /// [`LastGoodError`] for a file that cannot be read, is damaged or of another version.
    pub fn load(path: &Path) -> Result<Option<Self>, LastGoodError> {
        let bytes = match fs::read(path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => {
                return Err(LastGoodError::Read {
                    path: path.to_path_buf(),
                    source,
                });
            }
        };
        let good: Self = serde_json::from_slice(&bytes).map_err(|source| LastGoodError::Content {
            path: path.to_path_buf(),
            source,
        })?;
        if good.version != VERSION {
            return Err(LastGoodError::Version {
                path: path.to_path_buf(),
                found: good.version,
            });
        }
        Ok(Some(good))
    }

    /// Writes the manifests so that a reader sees the old or the new ones.
    ///
    /// # Errors
    /// [`LastGoodError::Content`] or [`LastGoodError::Write`]; the old file stays.
    pub fn save(&self, path: &Path) -> Result<(), LastGoodError> {
        let bytes = serde_json::to_vec(self).map_err(|source| LastGoodError::Content {
            path: path.to_path_buf(),
            source,
        })?;
        restore::replace(path, &bytes).map_err(|source| LastGoodError::Write {
            path: path.to_path_buf(),
            source,
        })
    }
}
