//! What `sluice status`, `sluice endpoint list` and `/metrics` show.

use std::collections::BTreeMap;

use policy::{Direction, PodName};
use serde::{Deserialize, Serialize};

use crate::endpoint_registry::Endpoint;

/// How XDP runs on an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum XdpMode {
    /// In the driver.
    Native,
    /// In the network stack: the reported fallback.
    Generic,
}

impl XdpMode {
    /// The mode as users write it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Generic => "generic",
        }
    }
}

/// Where policies come from.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceStatus {
    /// The folder of manifests.
    pub location: String,
    /// Whether everything was read at least once.
    pub is_synced: bool,
    /// Objects that were refused, with file, line and field; the last good state of each stays enforced. Policies too large to be
    /// compiled, which deny everything.
    pub problems: Vec<String>,
    /// How many objects of each kind are held.
    #[serde(default)]
    pub objects: BTreeMap<String, u64>,
    /// What is held of policies once they are compiled.
    #[serde(default)]
    pub compiled: CompiledSize,
}

/// How much the policies of this node's pods come to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CompiledSize {
    /// Kinds of pod: identities with their named ports.
    pub subjects: u64,
    /// Rules that select one of them.
    pub rules: u64,
    /// (Port interval, peer) decisions in all tables.
    pub decisions: u64,
}

/// A worker thread.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerStatus {
    /// Number of the worker.
    pub id: u32,
    /// Revision that it enforces.
    pub revision: u64,
    /// Packets received.
    pub received: u64,
    /// Packets transmitted.
    pub transmitted: u64,
    /// Conntrack entries in use.
    pub flows: u64,
    /// Conntrack entries there is room for.
    pub flow_capacity: u64,
    /// Packets that the kernel dropped before the worker saw them: a burst found no frame posted.
    #[serde(default)]
    pub receive_dropped: u64,
    /// Packets that an interface refused after the worker had handed them over: its queue was full.
    #[serde(default)]
    pub transmit_dropped: u64,
    /// Flow events that were lost because nobody read them in time.
    pub lost_events: u64,
    /// Packets that were held because their peer was not known yet.
    #[serde(default)]
    pub held_packets: u64,
    /// Connections older than the agent that went on.
    #[serde(default)]
    pub adopted_flows: u64,
    /// New flows to Services with session affinity whose client found no room in the table of affinities.
    #[serde(default)]
    pub lost_affinities: u64,
}

/// Packets dropped for one reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DropCount {
    /// Number of the reason.
    pub code: u8,
    /// Its text.
    pub reason: String,
    /// Policy direction, for policy drops.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub direction: Option<Direction>,
    /// Packets, or requests for HTTP reasons.
    pub packets: u64,
}

/// Flows, and HTTP requests, that policy denies and that passed because the endpoint audits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditCount {
    /// Towards endpoints.
    pub ingress: u64,
    /// From endpoints.
    pub egress: u64,
}

/// Packets that entered one stage of the workers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StageCount {
    /// Name of the stage.
    pub stage: String,
    /// Packets that entered it.
    pub packets: u64,
}

/// Where the UMEM's frames are; the parts add up to `total`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FrameCount {
    /// All frames.
    pub total: u64,
    /// In the pool.
    pub free: u64,
    /// In fill, receive, transmit and completion rings.
    pub in_rings: u64,
    /// Held by a worker: fragments, HTTP heads.
    pub held: u64,
}

/// An endpoint as the agent has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointStatus {
    /// Slot, generation and what it was added with.
    #[serde(flatten)]
    pub endpoint: Endpoint,
    /// Whether packets flow: attached, and its policy is compiled.
    pub is_ready: bool,
    /// Why not, if not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waits_for: Option<String>,
    /// Whether its policy is audited and not enforced.
    #[serde(default)]
    pub audits: bool,
    /// Identity, once it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<u32>,
    /// How XDP runs, once attached.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<XdpMode>,
    /// Packets from the pod that were sent on.
    pub forwarded: u64,
    /// Packets from or to the pod that were dropped.
    pub dropped: u64,
    /// Tuning steps that failed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

/// State of the agent.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Version of the agent.
    pub version: String,
    /// Name of the node.
    pub node_name: String,
    /// Whether policies are enforced on every endpoint, and every pod is one.
    pub is_ready: bool,
    /// What is not ready.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub waits_for: Vec<String>,
    /// Whether pods that come now come under policy: policies are known, and the CNI plugin is in its place, if one is installed. Says
    /// nothing of pods that are there already.
    #[serde(default)]
    pub takes_pods: bool,
    /// Revision published last.
    pub revision: u64,
    /// Where policies come from.
    pub source: SourceStatus,
    /// Worker threads.
    pub workers: Vec<WorkerStatus>,
    /// Local pods under policy.
    pub endpoints: Vec<EndpointStatus>,
    /// Pods that the API server has on this node and that are no endpoint: nothing is enforced on them. Not those of excluded
    /// namespaces.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unenforced_pods: Vec<PodName>,
    /// Pods of the runtime's cache that could not be put under policy, with the reason.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub adoption_problems: Vec<String>,
    /// Namespaces whose pods are left to the node's own network.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub excluded_namespaces: Vec<String>,
    /// Packets sent on.
    pub forwarded: u64,
    /// Packets dropped, by reason; reasons that never occurred are left out.
    pub drops: Vec<DropCount>,
    /// What would have been dropped, had its endpoint not been in audit mode.
    #[serde(default)]
    pub audited: AuditCount,
    /// Packets by stage.
    pub stages: Vec<StageCount>,
    /// Frames.
    pub frames: FrameCount,
    /// How often node state was repaired.
    pub repairs: u64,
    /// Packets between pods and the kernel past sluice, all dropped; neighbour discovery of the node is normal.
    pub guarded: u64,
    /// What impairs sluice on this node.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}
