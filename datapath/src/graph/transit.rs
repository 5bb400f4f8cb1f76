//! A packet on its way through the stages, and what is known of it after each.

use policy::{Direction, DropReason, EndpointKey, RuleId};

use crate::conntrack::{EntryId, TcpState};
use crate::flow::{FlowDirection, FlowKey};
use crate::translation::Translated;
use crate::wire::packet::IpHeaders;
use crate::xsk::Packet;

/// A packet between stages.
#[derive(Debug)]
pub struct Transit {
    /// The packet.
    pub packet: Packet,
    /// Interface that sent it.
    pub sender: EndpointKey,
    /// Its headers, as received.
    pub headers: IpHeaders,
    /// State of its transport checksum.
    pub checksum: crate::wire::checksum::L4Checksum,
    /// The flow as the packet names it, after service translation.
    pub key: FlowKey,
    /// Hash of `key`.
    pub hash: u64,
    /// The translation, when the destination is a service.
    pub translated: Option<Translated>,
    /// When it is judged for good, if it was held: nanoseconds of the worker's clock.
    pub held_until_ns: Option<u64>,
}

/// A drop, and what decided it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refusal {
    /// Why.
    pub reason: DropReason,
    /// The policy direction, for policy drops.
    pub direction: Option<Direction>,
    /// The deny rule.
    pub rule: Option<RuleId>,
}

impl From<DropReason> for Refusal {
    fn from(reason: DropReason) -> Self {
        Self {
            reason,
            direction: None,
            rule: None,
        }
    }
}

/// A packet with its flow.
#[derive(Debug, Clone, Copy)]
pub struct Tracked {
    /// The flow's entry; `None` for a new flow, which gets one when policy allows it.
    pub entry: Option<EntryId>,
    /// Which way the packet goes.
    pub direction: FlowDirection,
    /// Interface that the original direction goes out by.
    pub destination: EndpointKey,
    /// TCP state of the flow once the packet has passed.
    pub tcp: TcpState,
    /// The closed flow on the same tuple whose place a new one takes.
    pub replaces: Option<EntryId>,
}

/// A packet that may pass as far as L3 and L4 go.
#[derive(Debug, Clone, Copy)]
pub struct Decided {
    /// The flow's entry.
    pub entry: EntryId,
    /// Which way the packet goes.
    pub direction: FlowDirection,
    /// Interface that it goes out by.
    pub receiver: EndpointKey,
    /// Whether an L7 gate judges the flow.
    pub gated: bool,
}
