//! Talks to the agent.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::wire::{Attachment, Endpoint, EndpointSpec, PodName, Refusal, Reply, Request, Status};

/// Longest reply, bytes: a status with hundreds of endpoints.
const REPLY_BYTES: u64 = 16 * 1024 * 1024;

/// A request got no answer, or a refusal.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// Nobody listens, or the connection broke.
    #[error("no agent answers on {} ({source}): is sluice running on this node?", socket.display())]
    NoAnswer {
        /// The socket.
        socket: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// The agent answered something that this version does not know.
    #[error("cannot understand the agent's answer ({0}): are agent and plugin of one version?")]
    Answer(String),
    /// The agent refused.
    #[error("the agent refuses: {0}")]
    Refused(#[from] Refusal),
}

/// The agent on one socket; every request is a connection of its own, and ends at the deadline.
#[derive(Debug, Clone)]
pub struct Agent {
    socket: PathBuf,
    deadline: Instant,
}

impl Agent {
    /// Waits for answers until `deadline` at most.
    #[must_use]
    pub fn new(socket: &Path, deadline: Instant) -> Self {
        Self {
            socket: socket.to_owned(),
            deadline,
        }
    }

    /// State of the agent, if it answers.
    ///
    /// # Errors
    /// [`AgentError`]
    pub fn status(&self) -> Result<Status, AgentError> {
        match self.ask(&Request::Status)? {
            Reply::Status(status) => Ok(status),
            other => Err(unexpected(&other)),
        }
    }

    /// Every endpoint.
    ///
    /// # Errors
    /// [`AgentError`]
    pub fn endpoints(&self) -> Result<Vec<Endpoint>, AgentError> {
        match self.ask(&Request::EndpointList)? {
            Reply::Endpoints(endpoints) => Ok(endpoints),
            other => Err(unexpected(&other)),
        }
    }

    /// Puts an interface under policy. Adding the very same again is no error.
    ///
    /// # Errors
    /// [`AgentError`]
    pub fn add(&self, spec: EndpointSpec) -> Result<Endpoint, AgentError> {
        match self.ask(&Request::EndpointAdd(spec))? {
            Reply::Endpoint(endpoint) => Ok(*endpoint),
            other => Err(unexpected(&other)),
        }
    }

    /// Takes a pod's interface out, if it is still this attachment's. None, or another's, is no error.
    ///
    /// # Errors
    /// [`AgentError`]
    pub fn delete(&self, pod: PodName, attachment: Attachment) -> Result<(), AgentError> {
        match self.ask(&Request::EndpointDelete { pod, attachment }) {
            Ok(Reply::Endpoint(_)) => Ok(()),
            Err(AgentError::Refused(refusal)) if refusal.code == "not_found" => Ok(()),
            Ok(other) => Err(unexpected(&other)),
            Err(error) => Err(error),
        }
    }

    fn ask(&self, request: &Request) -> Result<Reply, AgentError> {
        let line = self.exchange(request).map_err(|source| AgentError::NoAnswer {
            socket: self.socket.clone(),
            source,
        })?;
        match serde_json::from_slice(&line) {
            Ok(Reply::Error(refusal)) => Err(refusal.into()),
            Ok(reply) => Ok(reply),
            Err(error) => Err(AgentError::Answer(error.to_string())),
        }
    }

    fn exchange(&self, request: &Request) -> io::Result<Vec<u8>> {
        let mut stream = UnixStream::connect(&self.socket)?;
        let mut line = serde_json::to_vec(request)?;
        line.push(b'\n');
        stream.set_write_timeout(Some(self.remaining()?))?;
        stream.write_all(&line).map_err(timed_out)?;
        stream.set_read_timeout(Some(self.remaining()?))?;
        let mut reply = Vec::new();
        BufReader::new(stream)
            .take(REPLY_BYTES)
            .read_until(b'\n', &mut reply)
            .map_err(timed_out)?;
        match reply.last() {
            Some(b'\n') => Ok(reply),
            _ => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }

    fn remaining(&self) -> io::Result<Duration> {
        let remaining = self.deadline.saturating_duration_since(Instant::now());
        if remaining.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        Ok(remaining)
    }
}

/// A socket's timeout is `EAGAIN`, which people do not read as such.
fn timed_out(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::WouldBlock => io::ErrorKind::TimedOut.into(),
        _ => error,
    }
}

fn unexpected(reply: &Reply) -> AgentError {
    let kind = match reply {
        Reply::Status(_) => "a status",
        Reply::Endpoint(_) => "an endpoint",
        Reply::Endpoints(_) => "endpoints",
        Reply::Error(_) => "a refusal",
    };
    AgentError::Answer(format!("{kind} was not asked for"))
}
