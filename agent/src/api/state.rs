//! What the API server and the metrics need of the running agent: shared state to read, and a queue of commands for the one
//! task that owns endpoints, node state and workers.

use std::sync::Arc;

use arc_swap::ArcSwap;
use control::{ExplainError, Explanation, Question};
use policy::{PodName, Snapshot};
use tokio::sync::{mpsc, oneshot};

use super::status::EndpointStatus;
use super::{ApiError, ErrorCode, Status};
use crate::capture::CaptureTap;
use crate::endpoint_registry::{Attachment, AuditMode, EndpointSpec};
use crate::flow_log::FlowLog;
use crate::heartbeat::Heartbeat;
use crate::names::Names;

/// Commands that may wait; more are refused at once.
pub const PENDING_COMMANDS: usize = 64;

/// What the owner of the agent's state is asked; it answers every command.
#[derive(Debug)]
pub enum Command {
    /// State of everything.
    Status(oneshot::Sender<Status>),
    /// Reads the source of policies now; answered with the revision that is published with it.
    Synchronise(oneshot::Sender<u64>),
    /// Adds an endpoint; answered when it is attached.
    AddEndpoint(EndpointSpec, oneshot::Sender<Result<EndpointStatus, ApiError>>),
    /// Deletes an endpoint, if it is the attachment's where one is given; answered when its interface is free.
    DeleteEndpoint(
        PodName,
        Option<Attachment>,
        oneshot::Sender<Result<EndpointStatus, ApiError>>,
    ),
    /// Sets whether an endpoint's policy is audited; answered when that is published.
    ConfigureEndpoint(
        PodName,
        AuditMode,
        oneshot::Sender<Result<EndpointStatus, ApiError>>,
    ),
    /// All endpoints.
    ListEndpoints(oneshot::Sender<Vec<EndpointStatus>>),
    /// What becomes of a flow.
    ExplainPolicy(Question, oneshot::Sender<Result<Vec<Explanation>, ExplainError>>),
}

/// A handle on the running agent; clones share everything.
#[derive(Debug, Clone)]
pub struct AgentState {
    /// To the owner of the state.
    pub commands: mpsc::Sender<Command>,
    /// The snapshot published last.
    pub snapshot: Arc<ArcSwap<Snapshot>>,
    /// Names of pods and identities.
    pub names: Arc<ArcSwap<Names>>,
    /// The flow log.
    pub flows: FlowLog,
    /// Where captures get their packets.
    pub captures: CaptureTap,
    /// Of the owner of the state.
    pub heartbeat: Heartbeat,
}

impl AgentState {
    /// A handle with empty shared state, and the commands for their owner.
    #[must_use]
    pub fn new() -> (Self, mpsc::Receiver<Command>) {
        let (commands, receiver) = mpsc::channel(PENDING_COMMANDS);
        let state = Self {
            commands,
            snapshot: Arc::default(),
            names: Arc::default(),
            flows: FlowLog::default(),
            captures: CaptureTap::default(),
            heartbeat: Heartbeat::default(),
        };
        (state, receiver)
    }

    /// Sends a command and waits for its answer.
    ///
    /// # Errors
    /// [`ErrorCode::Unavailable`] when the owner is gone or its queue is full.
    pub async fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Result<T, ApiError> {
        let unavailable = |reason: &str| ApiError::new(ErrorCode::Unavailable, &reason);
        let (sender, answer) = oneshot::channel();
        self.commands.try_send(command(sender)).map_err(|e| match e {
            mpsc::error::TrySendError::Full(_) => unavailable("the agent is busy: too many requests wait"),
            mpsc::error::TrySendError::Closed(_) => unavailable("the agent is stopping"),
        })?;
        answer
            .await
            .map_err(|_dropped| unavailable("the agent is stopping"))
    }
}
