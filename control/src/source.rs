//! A folder of manifests as the source of objects: what a scan of it changes.
//!
//! Invariants: what cannot be read keeps its last good state (an object that is refused, every object of a file that is
//! unreadable), only a file or document that is gone deletes its objects, and a folder that is gone deletes nothing.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;

use crate::last_good::{GoodFile, LastGood};
use crate::manifest::{self, Document, LocatedFault};
use crate::object::{Object, ObjectKey};

/// Largest file that is read, bytes.
pub const MOST_FILE_BYTES: u64 = 8 << 20;
/// Most files that are read.
pub const MOST_FILES: usize = 20_000;
/// Deepest folder that is entered.
const MOST_DEPTH: usize = 16;

/// A scan that could not be made: nothing is changed.
#[derive(Debug, thiserror::Error)]
pub enum ScanError {
    /// The folder is missing or cannot be listed.
    #[error("manifests folder {path} cannot be read")]
    Folder {
        /// The folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// More than [`MOST_FILES`] files.
    #[error("manifests folder {path} holds more than {MOST_FILES} manifests")]
    TooManyFiles {
        /// The folder.
        path: PathBuf,
    },
}

/// An object or file that is refused; what it said before stays enforced.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ObjectError {
    /// The file.
    pub file: PathBuf,
    /// Line of the file, where one is known.
    pub line: Option<u32>,
    /// Path of the field; empty when the document could not be read at all.
    pub field: String,
    /// The object, e.g. `CiliumNetworkPolicy db/flask-app-to-db`, if that much could be read.
    pub object: Option<String>,
    /// What is wrong.
    pub message: String,
}

/// What a scan found different from the one before.
#[derive(Debug, Default)]
pub struct Changes {
    /// New and changed objects.
    pub applied: Vec<Object>,
    /// Objects that are gone.
    pub deleted: Vec<ObjectKey>,
}

/// A folder of manifests, or a single file of them, and its last good state.
#[derive(Debug)]
pub struct ManifestFolder {
    path: PathBuf,
    cluster: String,
    files: BTreeMap<PathBuf, File>,
    /// The objects in force, with the text they were read from.
    current: BTreeMap<ObjectKey, Source>,
    /// Objects of `current` that an earlier process read and this one has not applied yet.
    restored: BTreeMap<ObjectKey, Object>,
    errors: Vec<ObjectError>,
}

/// A file as it was read last.
#[derive(Debug)]
struct File {
    text: Arc<str>,
    documents: Arc<Vec<Document>>,
}

/// Where an object in force comes from.
#[derive(Debug, Clone)]
struct Source {
    file: PathBuf,
    /// The text the object was read from, to tell whether it may have changed.
    text: Arc<str>,
    /// Which document of that text.
    position: usize,
}

enum Reading {
    Good(File),
    Bad(String),
}

impl ManifestFolder {
    /// The folder at `path`, not read yet. `cluster` is the name that policies are scoped to.
    #[must_use]
    pub fn new(path: PathBuf, cluster: String) -> Self {
        Self {
            path,
            cluster,
            files: BTreeMap::new(),
            current: BTreeMap::new(),
            restored: BTreeMap::new(),
            errors: Vec::new(),
        }
    }

    /// The folder's path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// File and line of an object in force.
    #[must_use]
    pub fn place(&self, key: &ObjectKey) -> Option<(&Path, u32)> {
        let source = self.current.get(key)?;
        let document = self.files.get(&source.file)?.documents.get(source.position)?;
        match document {
            Document::Object { line, .. } => Some((&source.file, *line)),
            Document::Invalid { .. } => None,
        }
    }

    /// What the last scan refused.
    #[must_use]
    pub fn errors(&self) -> &[ObjectError] {
        &self.errors
    }

    /// Takes up the last good state of an earlier process, before the first scan: it stays in force where the folder now holds
    /// something invalid, and goes where the folder holds something else or nothing.
    pub fn restore(&mut self, good: LastGood) {
        for GoodFile {
            file,
            text,
            documents,
        } in good.files
        {
            let parsed = manifest::parse(&text, &self.cluster);
            let text: Arc<str> = text.into();
            for (position, document) in parsed.into_iter().enumerate() {
                if let Document::Object { object, .. } = document
                    && documents.contains(&position)
                {
                    let source = Source {
                        file: file.clone(),
                        text: Arc::clone(&text),
                        position,
                    };
                    self.current.insert(object.key.clone(), source);
                    self.restored.insert(object.key.clone(), *object);
                }
            }
        }
    }

    /// The manifests of every object in force.
    #[must_use]
    pub fn last_good(&self) -> LastGood {
        let mut files: Vec<(&Source, Vec<usize>)> = Vec::new();
        let mut sources: Vec<&Source> = self.current.values().collect();
        sources.sort_by_key(|source| (&source.file, source.text.as_ptr(), source.position));
        for source in sources {
            match files.last_mut() {
                Some((last, documents))
                    if last.file == source.file && Arc::ptr_eq(&last.text, &source.text) =>
                {
                    documents.push(source.position);
                }
                _ => files.push((source, vec![source.position])),
            }
        }
        let file = |(source, documents): (&Source, Vec<usize>)| GoodFile {
            file: source.file.clone(),
            text: source.text.to_string(),
            documents,
        };
        LastGood::new(files.into_iter().map(file).collect())
    }

    /// Reads the folder and returns what is different.
    ///
    /// # Errors
    /// [`ScanError`] when the folder as a whole cannot be read; the last good state stays.
    pub fn scan(&mut self) -> Result<Changes, ScanError> {
        let mut paths = Vec::new();
        if self.path.is_file() {
            paths.push(self.path.clone());
        } else {
            list(&self.path, 0, &mut paths).map_err(|source| ScanError::Folder {
                path: self.path.clone(),
                source,
            })?;
        }
        if paths.len() > MOST_FILES {
            return Err(ScanError::TooManyFiles {
                path: self.path.clone(),
            });
        }
        paths.sort();
        let mut readings = Vec::new();
        for path in paths {
            let before = self.files.remove(&path);
            let reading = read(&path, before, &self.cluster);
            readings.push((path, reading));
        }
        Ok(self.take_up(readings))
    }

    /// Takes `text` as the whole source, as if it were its only file.
    pub fn read_text(&mut self, text: String) -> Changes {
        let before = self.files.remove(&self.path);
        let reading = parse(text, before, &self.cluster);
        self.take_up(vec![(self.path.clone(), reading)])
    }

    /// Replaces what was read before and returns what is different.
    fn take_up(&mut self, readings: Vec<(PathBuf, Reading)>) -> Changes {
        let mut errors = Vec::new();
        let mut files = BTreeMap::new();
        let mut found: BTreeMap<ObjectKey, Source> = BTreeMap::new();
        // Files and objects whose last good state stays.
        let mut kept_files = Vec::new();
        let mut kept_objects: Vec<(ObjectKey, PathBuf)> = Vec::new();
        for (path, reading) in readings {
            let file = match reading {
                Reading::Good(file) => file,
                Reading::Bad(message) => {
                    errors.push(ObjectError {
                        file: path.clone(),
                        line: None,
                        field: String::new(),
                        object: None,
                        message,
                    });
                    kept_files.push(path);
                    continue;
                }
            };
            for (position, document) in file.documents.iter().enumerate() {
                match document {
                    Document::Object { line, object } => {
                        if let Some(first) = found.get(&object.key) {
                            errors.push(ObjectError {
                                file: path.clone(),
                                line: Some(*line),
                                field: "metadata.name".to_owned(),
                                object: Some(object.key.to_string()),
                                message: format!(
                                    "already defined in {}, which is used",
                                    first.file.display()
                                ),
                            });
                            continue;
                        }
                        let source = Source {
                            file: path.clone(),
                            text: Arc::clone(&file.text),
                            position,
                        };
                        found.insert(object.key.clone(), source);
                    }
                    Document::Invalid { key, faults } => {
                        errors.extend(faults.iter().map(|fault| located(&path, key.as_ref(), fault)));
                        match key {
                            Some(key) => kept_objects.push((key.clone(), path.clone())),
                            None => kept_files.push(path.clone()),
                        }
                    }
                }
            }
            files.insert(path, file);
        }
        for (key, source) in &self.current {
            let kept = kept_files.contains(&source.file) || kept_objects.iter().any(|(kept, _)| kept == key);
            if kept && !found.contains_key(key) {
                found.insert(key.clone(), source.clone());
            }
        }
        let mut changes = Changes::default();
        for (key, source) in &found {
            let before = self.current.get(key);
            let same =
                before.is_some_and(|b| b.position == source.position && Arc::ptr_eq(&b.text, &source.text));
            if same {
                changes.applied.extend(self.restored.remove(key));
                continue;
            }
            let document = files
                .get(&source.file)
                .and_then(|file| file.documents.get(source.position));
            if let Some(Document::Object { object, .. }) = document {
                changes.applied.push((**object).clone());
            }
        }
        changes.deleted.extend(
            self.current
                .keys()
                .filter(|key| !found.contains_key(key))
                .cloned(),
        );
        self.files = files;
        self.current = found;
        self.restored.clear();
        self.errors = errors;
        changes
    }
}

fn located(file: &Path, key: Option<&ObjectKey>, fault: &LocatedFault) -> ObjectError {
    ObjectError {
        file: file.to_path_buf(),
        line: Some(fault.line),
        field: fault.field.clone(),
        object: key.map(ToString::to_string),
        message: fault.message.clone(),
    }
}

fn is_manifest(path: &Path) -> bool {
    path.extension()
        .and_then(|e| e.to_str())
        .is_some_and(|e| matches!(e, "yaml" | "yml" | "json"))
}

/// Lists manifests. Hidden entries are left out: editors' temporary files, and the versions behind the links of a mounted ConfigMap.
fn list(folder: &Path, depth: usize, paths: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_name().as_encoded_bytes().starts_with(b".") || paths.len() > MOST_FILES {
            continue;
        }
        let path = entry.path();
        // Follows links; an entry that vanished meanwhile is no error of the folder.
        match fs::metadata(&path) {
            Ok(metadata) if metadata.is_dir() => {
                if depth < MOST_DEPTH {
                    list(&path, depth + 1, paths)?;
                }
            }
            // Reading a pipe would wait for a writer.
            Ok(metadata) if metadata.is_file() && is_manifest(&path) => paths.push(path),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(_) if is_manifest(&path) => paths.push(path),
            Err(_) => {}
        }
    }
    Ok(())
}

fn read(path: &Path, before: Option<File>, cluster: &str) -> Reading {
    let mut bytes = Vec::new();
    let opened = fs::File::open(path).and_then(|file| file.take(MOST_FILE_BYTES + 1).read_to_end(&mut bytes));
    if let Err(error) = opened {
        return Reading::Bad(format!("cannot be read: {error}"));
    }
    if bytes.len() as u64 > MOST_FILE_BYTES {
        return Reading::Bad(format!("is larger than {MOST_FILE_BYTES} bytes"));
    }
    let Ok(text) = String::from_utf8(bytes) else {
        return Reading::Bad("is not UTF-8".to_owned());
    };
    parse(text, before, cluster)
}

fn parse(text: String, before: Option<File>, cluster: &str) -> Reading {
    match before {
        Some(file) if *file.text == *text => Reading::Good(file),
        // A writer that truncates first must not open what it is about to write.
        _ if text.is_empty() => Reading::Bad("is empty; delete the file to delete its objects".to_owned()),
        _ => {
            let documents = Arc::new(manifest::parse(&text, cluster));
            Reading::Good(File {
                text: text.into(),
                documents,
            })
        }
    }
}

#[cfg(test)]
mod tests;
