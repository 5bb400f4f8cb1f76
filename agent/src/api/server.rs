//! The socket and what is done for each request.

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use policy::PodName;
use tokio::io::{AsyncReadExt, BufReader};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::sync::broadcast::{Receiver, error::RecvError};

use super::line::{self, LineError};
use super::{AgentState, ApiError, Command, ErrorCode, Reply, Request, SOCKET_NAME, Status};
use crate::capture::{CapturedPacket, MAX_SNAPLEN};
use crate::flow_log::{FlowFilter, KEPT_RECORDS};

/// Longest request, bytes.
pub const REQUEST_BYTES: u64 = 64 * 1024;

/// Connections at a time; further ones wait.
const CONNECTIONS: usize = 64;

/// How long a client may take to send its request.
const REQUEST_TIME: Duration = Duration::from_secs(10);

/// The server cannot be started.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// Another agent answers on the socket.
    #[error("another agent is running on {}", path.display())]
    Running {
        /// The socket.
        path: PathBuf,
    },
    /// The run directory or the socket cannot be made.
    #[error("cannot create {}: {source}", path.display())]
    Io {
        /// What.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
}

/// A bound socket; removed when dropped.
#[derive(Debug)]
pub struct Server {
    listener: UnixListener,
    path: PathBuf,
}

impl Drop for Server {
    fn drop(&mut self) {
        // A socket that stays behind is recognised as stale by the next agent.
        let _stale = fs::remove_file(&self.path);
    }
}

impl Server {
    /// Makes the run directory if need be, and binds the socket in it with mode 0600.
    ///
    /// # Errors
    /// [`ServerError`].
    pub fn bind(run_dir: &Path) -> Result<Self, ServerError> {
        let path = run_dir.join(SOCKET_NAME);
        let error = |path: &Path| {
            let path = path.to_owned();
            |source| ServerError::Io { path, source }
        };
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(run_dir)
            .map_err(error(run_dir))?;
        if std::os::unix::net::UnixStream::connect(&path).is_ok() {
            return Err(ServerError::Running { path });
        }
        // The run directory may be open to others. Bound in a private one, the socket is never reachable with another mode.
        let private = run_dir.join(format!("{SOCKET_NAME}.{}", std::process::id()));
        // Left by an agent of the same process id that was killed in here; in a container each has the same.
        match fs::remove_dir_all(&private) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => return Err(error(&private)(source)),
            _removed => {}
        }
        DirBuilder::new()
            .mode(0o700)
            .create(&private)
            .map_err(error(&private))?;
        let bound = private.join(SOCKET_NAME);
        let listener = UnixListener::bind(&bound).and_then(|listener| {
            fs::set_permissions(&bound, Permissions::from_mode(0o600))?;
            fs::rename(&bound, &path)?;
            Ok(listener)
        });
        if listener.is_err() {
            // The first error is the one to tell.
            let _unbound = fs::remove_file(&bound);
        }
        let removed = fs::remove_dir(&private);
        let listener = listener.map_err(error(&path))?;
        let server = Self { listener, path };
        removed.map_err(error(&private))?;
        Ok(server)
    }

    /// Serves until dropped.
    pub async fn serve(&self, state: AgentState) {
        let places = Arc::new(Semaphore::new(CONNECTIONS));
        loop {
            // Never closed, so never an error.
            let Ok(place) = Arc::clone(&places).acquire_owned().await else {
                return;
            };
            match self.listener.accept().await {
                Ok((stream, _)) => {
                    let state = state.clone();
                    tokio::spawn(async move {
                        if let Err(error) = answer(stream, &state).await {
                            tracing::debug!(%error, "API client went away");
                        }
                        drop(place);
                    });
                }
                Err(error) => {
                    // Out of descriptors, most likely: give others time to close some.
                    tracing::warn!(%error, "cannot accept an API client");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }
}

/// How long workers may take to enforce a published revision.
const SYNCHRONISE_TIME: Duration = Duration::from_secs(10);

async fn answer(stream: UnixStream, state: &AgentState) -> io::Result<()> {
    let (reader, mut writer) = stream.into_split();
    let mut reader = BufReader::new(reader);
    let request = tokio::time::timeout(REQUEST_TIME, line::read::<Request>(&mut reader, REQUEST_BYTES)).await;
    let request = match request {
        Ok(Ok(Some(request))) => request,
        Ok(Ok(None)) => return Ok(()),
        Ok(Err(LineError::Io(error))) => return Err(error),
        Ok(Err(error)) => {
            let error = ApiError::new(ErrorCode::InvalidRequest, &error);
            return line::write(&mut writer, &Reply::Error(error)).await;
        }
        Err(_elapsed) => return Err(io::ErrorKind::TimedOut.into()),
    };
    let reply = match request {
        Request::Flows { follow, last, filter } => {
            return stream_flows(reader, &mut writer, state, follow, last, &filter).await;
        }
        Request::Capture { snaplen, pod } => {
            return stream_packets(reader, &mut writer, state, snaplen, pod.as_ref()).await;
        }
        Request::Status => state
            .ask(Command::Status)
            .await
            .map(|status| Reply::Status(Box::new(status))),
        Request::Synchronise => synchronise(state)
            .await
            .map(|status| Reply::Status(Box::new(status))),
        Request::EndpointAdd(spec) => state
            .ask(|sender| Command::AddEndpoint(spec, sender))
            .await
            .and_then(|added| added)
            .map(|endpoint| Reply::Endpoint(Box::new(endpoint))),
        Request::EndpointDelete { pod, attachment } => state
            .ask(|sender| Command::DeleteEndpoint(pod, attachment, sender))
            .await
            .and_then(|deleted| deleted)
            .map(|endpoint| Reply::Endpoint(Box::new(endpoint))),
        Request::EndpointConfig { pod, audit } => state
            .ask(|sender| Command::ConfigureEndpoint(pod, audit, sender))
            .await
            .and_then(|configured| configured)
            .map(|endpoint| Reply::Endpoint(Box::new(endpoint))),
        Request::EndpointList => state.ask(Command::ListEndpoints).await.map(Reply::Endpoints),
        Request::PolicyExplain(question) => state
            .ask(|sender| Command::ExplainPolicy(question, sender))
            .await
            .and_then(|explained| explained.map_err(|error| ApiError::new(ErrorCode::NotFound, &error)))
            .map(Reply::Explanations),
    };
    line::write(&mut writer, &reply.unwrap_or_else(Reply::Error)).await
}

/// Reads the source and waits until all workers enforce what came of it.
async fn synchronise(state: &AgentState) -> Result<Status, ApiError> {
    let revision = state.ask(Command::Synchronise).await?;
    let deadline = tokio::time::Instant::now() + SYNCHRONISE_TIME;
    loop {
        let status = state.ask(Command::Status).await?;
        if status.workers.iter().all(|worker| worker.revision >= revision) {
            return Ok(status);
        }
        if tokio::time::Instant::now() > deadline {
            let message = format!("revision {revision} is not in force on every worker yet");
            return Err(ApiError::new(ErrorCode::Unavailable, &message));
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn stream_flows(
    reader: BufReader<OwnedReadHalf>,
    writer: &mut OwnedWriteHalf,
    state: &AgentState,
    follow: bool,
    last: usize,
    filter: &FlowFilter,
) -> io::Result<()> {
    let last = last.min(KEPT_RECORDS);
    let (records, followed) = if follow {
        let (records, followed) = state.flows.follow(last, filter);
        (records, Some(followed))
    } else {
        (state.flows.last(last, filter), None)
    };
    for record in records {
        line::write(writer, &Reply::Flow(Box::new((*record).clone()))).await?;
    }
    let Some(mut followed) = followed else {
        return line::write(writer, &Reply::End).await;
    };
    relay(reader, writer, &mut followed, |record| {
        filter
            .matches(record)
            .then(|| Reply::Flow(Box::new(record.clone())))
    })
    .await
}

async fn stream_packets(
    reader: BufReader<OwnedReadHalf>,
    writer: &mut OwnedWriteHalf,
    state: &AgentState,
    snaplen: u32,
    pod: Option<&PodName>,
) -> io::Result<()> {
    let mut capture = state.captures.subscribe();
    let snaplen = usize::try_from(snaplen.min(MAX_SNAPLEN)).unwrap_or(usize::MAX);
    relay(reader, writer, &mut capture.packets, |packet: &CapturedPacket| {
        pod.is_none_or(|pod| packet.pods.contains(pod)).then(|| {
            let data = packet.data.iter().take(snaplen).copied().collect();
            Reply::Packet(Box::new(CapturedPacket {
                data,
                ..packet.clone()
            }))
        })
    })
    .await
}

/// Hands events on until the client closes or the agent stops.
async fn relay<T: Clone>(
    mut reader: BufReader<OwnedReadHalf>,
    writer: &mut OwnedWriteHalf,
    events: &mut Receiver<Arc<T>>,
    reply_to: impl Fn(&T) -> Option<Reply>,
) -> io::Result<()> {
    let mut ignored = [0; 64];
    loop {
        let reply = tokio::select! {
            // A client that sends more than its request is read, not answered; the end of its side ends the stream.
            read = reader.read(&mut ignored) => {
                if read? == 0 { return Ok(()) }
                continue;
            }
            event = events.recv() => match event {
                Ok(event) => reply_to(&event),
                Err(RecvError::Lagged(events)) => Some(Reply::Lost { events }),
                Err(RecvError::Closed) => return line::write(writer, &Reply::End).await,
            }
        };
        if let Some(reply) = reply {
            line::write(writer, &reply).await?;
        }
    }
}
