//! Bounded lines.

use std::io;

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// A line could not be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum LineError {
    /// The other side broke off.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// Longer than allowed.
    #[error("line is longer than {limit} bytes")]
    TooLong {
        /// The bound.
        limit: u64,
    },
    /// Not the JSON that was expected.
    #[error("not a valid message: {0}")]
    Syntax(#[from] serde_json::Error),
}

/// Reads one line of at most `limit` bytes; `None` at the end of the stream.
pub(super) async fn read<T: DeserializeOwned>(
    reader: &mut (impl AsyncBufRead + Unpin),
    limit: u64,
) -> Result<Option<T>, LineError> {
    let mut line = Vec::new();
    let length = reader.take(limit).read_until(b'\n', &mut line).await?;
    if length == 0 {
        return Ok(None);
    }
    if line.last() != Some(&b'\n') {
        return Err(if length as u64 == limit {
            LineError::TooLong { limit }
        } else {
            LineError::Io(io::ErrorKind::UnexpectedEof.into())
        });
    }
    Ok(Some(serde_json::from_slice(&line)?))
}

/// Writes one line.
pub(super) async fn write(
    writer: &mut (impl AsyncWrite + Unpin),
    message: &impl Serialize,
) -> io::Result<()> {
    // JSON escapes line ends inside strings.
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    writer.write_all(&line).await
}
