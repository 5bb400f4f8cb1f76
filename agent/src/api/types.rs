//! Requests and replies.

use control::{Explanation, Question};
use policy::PodName;
use serde::{Deserialize, Serialize};

use super::Status;
use crate::capture::CapturedPacket;
use crate::endpoint_registry::{Attachment, AuditMode, EndpointSpec};
use crate::flow_log::FlowFilter;
use crate::flow_record::FlowRecord;

use super::status::EndpointStatus;

/// What a client wants: one line `{"request": "...", "arguments": {...}}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "request", content = "arguments", rename_all = "snake_case")]
pub enum Request {
    /// [`Reply::Status`].
    Status,
    /// [`Reply::Status`], once everything that the source of policies holds now is in force on every worker.
    Synchronise,
    /// [`Reply::Endpoint`].
    EndpointAdd(EndpointSpec),
    /// [`Reply::Endpoint`], as it was.
    EndpointDelete {
        /// The pod.
        pod: PodName,
        /// Only if the endpoint is this attachment's; a pod may have a successor of the same name.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        attachment: Option<Attachment>,
    },
    /// [`Reply::Endpoint`], as it is from now on.
    EndpointConfig {
        /// The pod.
        pod: PodName,
        /// Whether its policy is audited.
        audit: AuditMode,
    },
    /// [`Reply::Endpoints`].
    EndpointList,
    /// A stream of [`Reply::Flow`] and [`Reply::Lost`].
    Flows {
        /// Whether to go on with new records until the client closes.
        follow: bool,
        /// How many past records to begin with.
        last: usize,
        /// Which records.
        #[serde(default)]
        filter: FlowFilter,
    },
    /// [`Reply::Explanations`].
    PolicyExplain(Question),
    /// A stream of [`Reply::Packet`] and [`Reply::Lost`] until the client closes.
    Capture {
        /// Bytes of each packet at most.
        snaplen: u32,
        /// Only packets with this local pod at either end.
        #[serde(default)]
        pod: Option<PodName>,
    },
}

/// What the agent answers: one line `{"reply": "...", "data": ...}`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "reply", content = "data", rename_all = "snake_case")]
pub enum Reply {
    /// State of the agent.
    Status(Box<Status>),
    /// One endpoint.
    Endpoint(Box<EndpointStatus>),
    /// All endpoints.
    Endpoints(Vec<EndpointStatus>),
    /// What would become of a flow: one entry per backend if the destination is a Service.
    Explanations(Vec<Explanation>),
    /// A flow record.
    Flow(Box<FlowRecord>),
    /// A packet.
    Packet(Box<CapturedPacket>),
    /// So many events were lost because the client reads too slowly.
    Lost {
        /// How many.
        events: u64,
    },
    /// The stream is over.
    End,
    /// The request was refused; nothing changed.
    Error(ApiError),
}

/// Kind of a refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorCode {
    /// The line is no request of this version.
    InvalidRequest,
    /// A field has a value that cannot be.
    InvalidArgument,
    /// What the request names does not exist.
    NotFound,
    /// What the request wants to add is in use.
    Conflict,
    /// The pod's namespace is left to the node's own network.
    Excluded,
    /// All places are taken.
    Exhausted,
    /// The agent is starting or stopping.
    Unavailable,
    /// The node refused; the message says what.
    Failed,
}

/// A refusal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    /// Its kind.
    pub code: ErrorCode,
    /// What is wrong, with the field's name.
    pub message: String,
}

impl ApiError {
    /// A refusal that shows `error`.
    pub fn new(code: ErrorCode, error: &impl std::fmt::Display) -> Self {
        Self {
            code,
            message: error.to_string(),
        }
    }
}
