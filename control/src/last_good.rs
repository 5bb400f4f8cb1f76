//! The manifests, or the API server's objects, behind what is enforced, persisted: what is invalid when the agent restarts must not
//! weaken what was enforced before.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::restore;

/// What the file's name has behind that of the persisted snapshot.
pub const EXTENSION: &str = "manifests";

/// What that of objects of the API server has there.
pub const OBJECTS_EXTENSION: &str = "objects";

/// Version of the form that this build reads and writes.
const VERSION: u32 = 1;

/// A last good state that cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum LastGoodError {
    /// The file cannot be read.
    #[error("last good state {path} cannot be read")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file cannot be written.
    #[error("last good state {path} cannot be written")]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The content is not of the persisted form.
    #[error("last good state {path} are damaged")]
    Content {
        /// The file.
        path: PathBuf,
        /// Why.
        source: serde_json::Error,
    },
    /// Written by another version.
    #[error("last good state {path} have version {found}, this build reads version {VERSION}")]
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
        read(path, |good: &Self| good.version)
    }

    /// Writes the manifests so that a reader sees the old or the new ones.
    ///
    /// # Errors
    /// [`LastGoodError::Content`] or [`LastGoodError::Write`]; the old file stays.
    pub fn save(&self, path: &Path) -> Result<(), LastGoodError> {
        write(path, self)
    }
}

/// The API server's policies and groups that are in force.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LastGoodObjects {
    version: u32,
    /// The objects.
    #[serde(with = "shared")]
    pub objects: Vec<Arc<Value>>,
}

impl LastGoodObjects {
    /// These objects.
    #[must_use]
    pub fn new(objects: Vec<Arc<Value>>) -> Self {
        Self {
            version: VERSION,
            objects,
        }
    }

    /// Reads what [`Self::save`] wrote; `None` if there is no file.
    ///
    /// # Errors
    /// [`LastGoodError`] for a file that cannot be read, is damaged or of another version.
    pub fn load(path: &Path) -> Result<Option<Self>, LastGoodError> {
        read(path, |good: &Self| good.version)
    }

    /// Writes the objects so that a reader sees the old or the new ones.
    ///
    /// # Errors
    /// [`LastGoodError::Content`] or [`LastGoodError::Write`]; the old file stays.
    pub fn save(&self, path: &Path) -> Result<(), LastGoodError> {
        write(path, self)
    }
}

mod shared {
    use std::sync::Arc;

    use serde::{Deserialize, Deserializer, Serializer};
    use serde_json::Value;

    pub(super) fn serialize<S: Serializer>(objects: &[Arc<Value>], out: S) -> Result<S::Ok, S::Error> {
        out.collect_seq(objects.iter().map(AsRef::as_ref))
    }

    pub(super) fn deserialize<'a, D: Deserializer<'a>>(input: D) -> Result<Vec<Arc<Value>>, D::Error> {
        let objects = Vec::<Value>::deserialize(input)?;
        Ok(objects.into_iter().map(Arc::new).collect())
    }
}

fn read<T: DeserializeOwned>(path: &Path, version: impl Fn(&T) -> u32) -> Result<Option<T>, LastGoodError> {
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
    let good: T = serde_json::from_slice(&bytes).map_err(|source| LastGoodError::Content {
        path: path.to_path_buf(),
        source,
    })?;
    let found = version(&good);
    if found != VERSION {
        return Err(LastGoodError::Version {
            path: path.to_path_buf(),
            found,
        });
    }
    Ok(Some(good))
}

fn write(path: &Path, good: &impl Serialize) -> Result<(), LastGoodError> {
    let bytes = serde_json::to_vec(good).map_err(|source| LastGoodError::Content {
        path: path.to_path_buf(),
        source,
    })?;
    restore::replace(path, &bytes).map_err(|source| LastGoodError::Write {
        path: path.to_path_buf(),
        source,
    })
}
