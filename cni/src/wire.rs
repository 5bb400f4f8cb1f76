//! What the plugin says to the agent's socket, and hears: the part of the agent's API that it needs.
//!
//! One line of JSON each way. The types are the plugin's own, so that it stays small; a test of the agent holds both against
//! each other.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// A pod's namespace and name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodName {
    /// `metadata.namespace`.
    pub namespace: String,
    /// `metadata.name`.
    pub name: String,
}

impl fmt::Display for PodName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// Which attachment to a network an endpoint is: pods of one name may follow each other, containers are unique.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Attachment {
    /// Name of the network.
    pub network: String,
    /// The pod's sandbox container.
    pub container_id: String,
}

/// A pod's interface, as the agent is told of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointSpec {
    /// The pod.
    pub pod: PodName,
    /// `metadata.uid` of the pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<String>,
    /// Name of the host's end of the veth.
    pub interface: String,
    /// The pod's IPv4 address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipv4: Option<Ipv4Addr>,
    /// The pod's IPv6 address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipv6: Option<Ipv6Addr>,
    /// MAC of the pod's end of the veth.
    pub mac: String,
    /// A file of the pod's network namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub netns: Option<PathBuf>,
    /// The attachment; endpoints that were added by hand have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attachment: Option<Attachment>,
}

/// An endpoint as the agent has it.
#[derive(Debug, Clone, Deserialize)]
pub struct Endpoint {
    /// What it was added with.
    #[serde(flatten)]
    pub spec: EndpointSpec,
    /// Whether its policy is enforced and packets flow.
    pub is_ready: bool,
    /// Why not, if not.
    #[serde(default)]
    pub waits_for: Option<String>,
}

/// State of the agent.
#[derive(Debug, Clone, Deserialize)]
pub struct Status {
    /// Namespaces whose pods are left to the node's own network.
    #[serde(default)]
    pub excluded_namespaces: Vec<String>,
}

/// A request: `{"request": "...", "arguments": {...}}`.
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "request", content = "arguments", rename_all = "snake_case")]
pub enum Request {
    /// State of the agent.
    Status,
    /// Every endpoint.
    EndpointList,
    /// Put an interface under policy.
    EndpointAdd(EndpointSpec),
    /// Take an interface out, if it is still this attachment's.
    EndpointDelete {
        /// The pod.
        pod: PodName,
        /// Its attachment.
        attachment: Attachment,
    },
}

/// An answer: `{"reply": "...", "data": ...}`.
#[derive(Debug, Clone, Deserialize)]
#[serde(tag = "reply", content = "data", rename_all = "snake_case")]
pub enum Reply {
    /// State of the agent.
    Status(Status),
    /// One endpoint.
    Endpoint(Box<Endpoint>),
    /// All endpoints.
    Endpoints(Vec<Endpoint>),
    /// A refusal.
    Error(Refusal),
}

/// The agent did not do what it was asked; nothing changed.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    /// Its kind.
    pub code: String,
    /// What is wrong.
    pub message: String,
}

impl Refusal {
    /// Whether the pod is left to the node's own network.
    #[must_use]
    pub fn is_exclusion(&self) -> bool {
        self.code == "excluded"
    }

    /// Whether the same request may succeed later: something goes away, or comes up.
    #[must_use]
    pub fn is_temporary(&self) -> bool {
        matches!(
            self.code.as_str(),
            "unavailable" | "conflict" | "exhausted" | "failed"
        )
    }
}
