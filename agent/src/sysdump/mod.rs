//! A file with what a bug report needs of a cluster.
//!
//! Every part is bounded in size and time. One that fails is a line in `errors.txt`, and stops nothing. Nothing is written that
//! [`redaction`] has not seen.

mod archive;
mod parts;
pub mod redaction;

use std::io;
use std::path::Path;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream;

use self::archive::Archive;
pub use self::parts::Part;
use crate::cluster::Cluster;

/// Parts that are read at the same time.
const CONCURRENT: usize = 8;

/// Largest part, bytes; the rest is cut off.
pub const MOST_PART: usize = 8 << 20;

/// What was written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Summary {
    /// Parts in the file.
    pub parts: usize,
    /// Parts that are missing or cut off.
    pub errors: usize,
}

/// Writes a sysdump of `cluster` to `path`.
///
/// # Errors
/// The file cannot be written; that a part cannot be read is no error.
pub async fn write(cluster: &Cluster, path: &Path, limit: Duration, flows: u32) -> io::Result<Summary> {
    let mut archive = Archive::create(path)?;
    let (parts, failures) = parts::plan(cluster, flows).await;
    for failure in failures {
        archive.fail(&failure);
    }
    let reading = parts.into_iter().map(|part| async move {
        let text = tokio::time::timeout(limit, part.read(cluster)).await;
        let text = text.unwrap_or_else(|_| Err(format!("not complete after {} s", limit.as_secs())));
        (part.path, text)
    });
    let mut reading = stream::iter(reading).buffer_unordered(CONCURRENT);
    while let Some((path, text)) = reading.next().await {
        match text {
            Ok(text) => archive.add(&path, text)?,
            Err(error) => archive.fail(&format!("{path}: {error}")),
        }
    }
    archive.finish()
}
