//! What an agent that ends leaves to the next one: which backends TCP connections through Services have.
//!
//! The file is read once, and gone before anything in it is believed: an agent that fails and is started again must not go by what was
//! true long ago. Without it, or with one that is not understood, those connections are reset, and nothing else is different.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use datapath::translation::TranslatedFlow;
use serde::{Deserialize, Serialize};

/// Name of the file in the run directory.
pub const FILE_NAME: &str = "translations.json";

/// Version of the file's layout.
const VERSION: u32 = 1;

/// Most connections: those that a worker's table has room for (`GraphConfig::translations`).
const MOST_FLOWS: usize = 65_536;

/// Longest file, bytes.
const MOST_BYTES: u64 = 32 * 1024 * 1024;

/// The file cannot be written, or is of no use.
#[derive(Debug, thiserror::Error)]
pub enum HandoverError {
    /// It cannot be read, removed or written.
    #[error("cannot access {}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// It holds something else.
    #[error("{} is damaged: {source}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// The reason.
        source: serde_json::Error,
    },
    /// It is of another version of sluice.
    #[error("{} has version {version} and not {VERSION}", path.display())]
    Incompatible {
        /// The file.
        path: PathBuf,
        /// Its version.
        version: u32,
    },
    /// No agent writes as much.
    #[error("{} has more than {MOST_FLOWS} connections or {MOST_BYTES} bytes", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Contents {
    version: u32,
    flows: Vec<TranslatedFlow>,
}

/// What every version has.
#[derive(Debug, Deserialize)]
struct Version {
    version: u32,
}

/// Leaves the connections of an agent that ends, at most [`MOST_FLOWS`]. A reader sees all or nothing of the file; only its owner may
/// read it. It need not outlive the machine, whose connections end with it: nothing waits for a disk.
///
/// # Errors
/// [`HandoverError::Io`]; a file that was there before stays.
pub fn leave(path: &Path, mut flows: Vec<TranslatedFlow>) -> Result<(), HandoverError> {
    flows.truncate(MOST_FLOWS);
    let contents = Contents {
        version: VERSION,
        flows,
    };
    let temporary = path.with_added_extension("new");
    let write = || -> io::Result<()> {
        match fs::remove_file(&temporary) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&temporary)?;
        let mut file = BufWriter::new(file);
        serde_json::to_writer(&mut file, &contents)?;
        file.flush()?;
        fs::rename(&temporary, path)
    };
    write().map_err(|source| HandoverError::Io {
        path: path.to_owned(),
        source,
    })
}

/// Takes what the former agent has left: the file is gone, whatever it holds. None where there is no file.
///
/// # Errors
/// [`HandoverError`]; nothing of the file may be used.
pub fn take(path: &Path) -> Result<Vec<TranslatedFlow>, HandoverError> {
    let path = || path.to_owned();
    let io_error = |source| HandoverError::Io { path: path(), source };
    let file = match File::open(path()) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(io_error(source)),
    };
    fs::remove_file(path()).map_err(io_error)?;
    let mut bytes = Vec::new();
    let read = file
        .take(MOST_BYTES + 1)
        .read_to_end(&mut bytes)
        .map_err(io_error)?;
    if read as u64 > MOST_BYTES {
        return Err(HandoverError::TooLarge { path: path() });
    }
    let damaged = |source| HandoverError::Damaged { path: path(), source };
    let Contents { version, flows } = match serde_json::from_slice(&bytes) {
        Ok(contents) => contents,
        // Another version may look different altogether.
        Err(source) => match serde_json::from_slice::<Version>(&bytes) {
            Ok(Version { version }) if version != VERSION => Contents {
                version,
                flows: Vec::new(),
            },
            _ => return Err(damaged(source)),
        },
    };
    if version != VERSION {
        return Err(HandoverError::Incompatible {
            path: path(),
            version,
        });
    }
    if flows.len() > MOST_FLOWS {
        return Err(HandoverError::TooLarge { path: path() });
    }
    Ok(flows)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use datapath::graph::GraphConfig;
    use policy::{EndpointKey, Slot, SlotGeneration};

    use super::*;

    fn flow(port: u16) -> TranslatedFlow {
        let key = |slot| EndpointKey {
            slot: Slot(slot),
            generation: SlotGeneration(3),
        };
        TranslatedFlow {
            sender: key(8),
            receiver: key(9),
            client: format!("10.244.0.7:{port}").parse().unwrap(),
            frontend: "10.96.0.80:80".parse().unwrap(),
            backend: "[fd00::5]:5000".parse().unwrap(),
            port,
        }
    }

    fn place() -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(FILE_NAME);
        (folder, path)
    }

    fn is_empty(folder: &tempfile::TempDir) -> bool {
        fs::read_dir(folder.path()).unwrap().next().is_none()
    }

    #[test]
    fn what_is_left_is_taken_once() {
        let (folder, path) = place();
        let flows: Vec<_> = (40_000..40_003).map(flow).collect();
        leave(&path, flows.clone()).unwrap();
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(take(&path).unwrap(), flows);
        assert!(is_empty(&folder));
        assert_eq!(take(&path).unwrap(), []);
    }

    #[test]
    fn what_an_agent_leaves_takes_the_place_of_what_was_there() {
        let (folder, path) = place();
        // Of one that was killed while it wrote.
        fs::write(path.with_added_extension("new"), "half").unwrap();
        leave(&path, vec![flow(1)]).unwrap();
        leave(&path, vec![flow(2)]).unwrap();
        assert_eq!(take(&path).unwrap(), [flow(2)]);
        assert!(is_empty(&folder));
    }

    #[test]
    fn file_that_is_damaged_or_of_another_version_is_refused_and_gone() {
        let good = serde_json::to_string(&Contents {
            version: VERSION,
            flows: vec![flow(1)],
        })
        .unwrap();
        let cases = [
            (String::new(), "damaged"),
            ("{}".into(), "damaged"),
            (good.replace("10.244.0.7", "nobody"), "damaged"),
            (good.replace("\"port\"", "\"gate\""), "damaged"),
            (good[..good.len() - 3].into(), "damaged"),
            (good.replace("\"version\":1", "\"version\":0"), "version 0"),
            (r#"{"version":2,"connections":{}}"#.into(), "version 2"),
        ];
        for (text, why) in cases {
            let (folder, path) = place();
            fs::write(&path, &text).unwrap();
            let error = take(&path).unwrap_err().to_string();
            assert!(error.contains(why), "{text}: {error}");
            assert!(is_empty(&folder), "{text}");
        }
    }

    #[test]
    fn file_that_cannot_be_removed_is_not_used() {
        let (_folder, path) = place();
        fs::create_dir(&path).unwrap();
        assert!(matches!(take(&path), Err(HandoverError::Io { .. })));
    }

    #[test]
    fn a_full_table_fits_and_no_more_is_written_or_read() {
        assert_eq!(GraphConfig::default().translations, MOST_FLOWS);
        let (_folder, path) = place();
        // As long as records get.
        let mut longest = flow(u16::MAX);
        for end in [&mut longest.client, &mut longest.frontend, &mut longest.backend] {
            *end = "[fd00:1111:2222:3333:4444:5555:6666:7777]:65535".parse().unwrap();
        }
        for key in [&mut longest.sender, &mut longest.receiver] {
            key.generation = SlotGeneration(u32::MAX);
        }
        leave(&path, vec![longest; MOST_FLOWS + 1]).unwrap();
        assert_eq!(take(&path).unwrap().len(), MOST_FLOWS);
        let flows = vec![flow(1); MOST_FLOWS + 1];
        let contents = Contents {
            version: VERSION,
            flows,
        };
        fs::write(&path, serde_json::to_vec(&contents).unwrap()).unwrap();
        assert!(matches!(take(&path), Err(HandoverError::TooLarge { .. })));
        File::create(&path).unwrap().set_len(MOST_BYTES + 1).unwrap();
        assert!(matches!(take(&path), Err(HandoverError::TooLarge { .. })));
    }
}
