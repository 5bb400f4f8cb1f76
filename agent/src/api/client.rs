//! The other end of the socket, for the command line.

use std::io;
use std::path::{Path, PathBuf};

use tokio::io::BufReader;
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};

use super::line::{self, LineError};
use super::{ApiError, Reply, Request, SOCKET_NAME};

/// Longest reply, bytes: a status with hundreds of endpoints, or a packet of 64 KiB in base64.
const REPLY_BYTES: u64 = 16 * 1024 * 1024;

/// A request got no answer, or a refusal.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens.
    #[error("no agent answers on {} ({source}); is `sluice agent` running with this --run-dir?", path.display())]
    Connect {
        /// The socket.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// The connection broke.
    #[error("the agent broke the connection off: {0}")]
    Io(#[from] io::Error),
    /// The agent answered something that this version does not know.
    #[error("cannot understand the agent's answer ({0}); are agent and client of one version?")]
    Reply(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The agent refused.
    #[error(transparent)]
    Refused(#[from] ApiError),
    /// The agent closed without an answer.
    #[error("the agent closed the connection without an answer")]
    Closed,
    /// The agent answered another kind of reply than the request's.
    #[error("the agent answered something else than was asked")]
    Mismatch,
}

/// A connection with one request on its way.
#[derive(Debug)]
pub struct Client {
    reader: BufReader<OwnedReadHalf>,
    /// Open as long as replies are wanted: the agent ends a stream when it closes.
    _writer: OwnedWriteHalf,
}

impl Client {
    /// Connects to the agent with this run directory and sends `request`.
    ///
    /// # Errors
    /// [`ClientError::Connect`] or [`ClientError::Io`].
    pub async fn send(run_dir: &Path, request: &Request) -> Result<Self, ClientError> {
        let path = run_dir.join(SOCKET_NAME);
        let stream = UnixStream::connect(&path)
            .await
            .map_err(|source| ClientError::Connect { path, source })?;
        let (reader, mut writer) = stream.into_split();
        line::write(&mut writer, request).await?;
        Ok(Self {
            reader: BufReader::new(reader),
            _writer: writer,
        })
    }

    /// Sends `request` and reads its one reply.
    ///
    /// # Errors
    /// [`ClientError`]; a refusal is [`ClientError::Refused`].
    pub async fn ask(run_dir: &Path, request: &Request) -> Result<Reply, ClientError> {
        Self::send(run_dir, request)
            .await?
            .next()
            .await?
            .ok_or(ClientError::Closed)
    }

    /// The next reply; `None` after [`Reply::End`] or when the agent closes.
    ///
    /// # Errors
    /// [`ClientError`]; a refusal is [`ClientError::Refused`].
    pub async fn next(&mut self) -> Result<Option<Reply>, ClientError> {
        match line::read(&mut self.reader, REPLY_BYTES).await {
            Ok(Some(Reply::Error(error))) => Err(error.into()),
            Ok(Some(Reply::End) | None) => Ok(None),
            Ok(reply) => Ok(reply),
            Err(LineError::Io(error)) => Err(error.into()),
            Err(error) => Err(ClientError::Reply(Box::new(error))),
        }
    }
}
