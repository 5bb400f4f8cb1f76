//! Flow events: what the worker tells the agent of verdicts, without allocating.

use std::net::IpAddr;

use policy::{Direction, DropReason, EndpointKey, Identity, Protocol, Revision, RuleId};

/// Bytes of an HTTP request target that an event keeps; longer ones are cut.
pub const EVENT_PATH_BYTES: usize = 128;

/// Bytes of an HTTP method that an event keeps.
pub const EVENT_METHOD_BYTES: usize = 16;

/// Text of bounded length, stored inline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InlineText<const N: usize> {
    bytes: [u8; N],
    len: u8,
}

impl<const N: usize> InlineText<N> {
    /// Keeps the first `N` bytes of `text` (255 at most).
    #[must_use]
    pub fn new(text: &[u8]) -> Self {
        let mut bytes = [0; N];
        let len = text.len().min(N).min(usize::from(u8::MAX));
        bytes[..len].copy_from_slice(&text[..len]);
        Self {
            bytes,
            len: u8::try_from(len).unwrap_or(u8::MAX),
        }
    }

    /// The text; bytes that are no UTF-8 are replaced.
    #[must_use]
    pub fn to_text(&self) -> String {
        String::from_utf8_lossy(&self.bytes[..usize::from(self.len)]).into_owned()
    }
}

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FlowEventKind {
    /// A new flow was allowed, or an existing one re-decided.
    Allowed {
        /// Rule that allowed the source's egress, when enforced.
        egress: Option<RuleId>,
        /// Rule that allowed the destination's ingress, when enforced.
        ingress: Option<RuleId>,
    },
    /// A packet was dropped.
    Dropped {
        /// Why.
        reason: DropReason,
        /// The policy direction that denied it, for policy drops.
        direction: Option<Direction>,
        /// The deny rule, if one decided.
        rule: Option<RuleId>,
    },
    /// A flow passes only because an endpoint is in audit mode.
    Audited {
        /// Why it would have been dropped.
        reason: DropReason,
        /// The policy direction that would have denied it.
        direction: Direction,
        /// The deny rule, if one decided.
        rule: Option<RuleId>,
    },
    /// An HTTP request was judged.
    HttpRequest {
        /// Why it was denied; `None` when it was forwarded.
        denied: Option<DropReason>,
        /// The policy direction that denied it.
        direction: Option<Direction>,
        /// Whether it was forwarded all the same, because that direction is in audit mode.
        audited: bool,
        /// Method.
        method: InlineText<EVENT_METHOD_BYTES>,
        /// Request target.
        path: InlineText<EVENT_PATH_BYTES>,
    },
    /// An HTTP response went by (403 by sluice included).
    HttpResponse {
        /// Status code.
        status: u16,
    },
}

/// One event. Addresses and ports are those of the original direction after service translation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FlowEvent {
    /// Nanoseconds since the Unix epoch, taken once per batch.
    pub time_ns: u64,
    /// Snapshot that decided.
    pub revision: Revision,
    /// Interface that sent the packet.
    pub source: EndpointKey,
    /// Interface that receives it, when known.
    pub destination: Option<EndpointKey>,
    /// Source identity.
    pub source_identity: Identity,
    /// Destination identity.
    pub destination_identity: Identity,
    /// Source address; unspecified for frames that are not IP.
    pub source_addr: IpAddr,
    /// Destination address.
    pub destination_addr: IpAddr,
    /// Source port, or 0.
    pub source_port: u16,
    /// Destination port; ICMP: the type.
    pub destination_port: u16,
    /// Service frontend that was translated, if any.
    pub service: Option<(IpAddr, u16)>,
    /// Transport protocol.
    pub protocol: Protocol,
    /// Whether the packet travelled in the reply direction.
    pub is_reply: bool,
    /// What happened.
    pub kind: FlowEventKind,
}
