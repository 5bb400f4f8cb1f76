//! A conntrack entry.

use policy::{
    DropReason, EndpointKey, HttpIndex, Identity, IpCacheGeneration, PolicyGeneration, Slot, SlotGeneration,
};

use super::tcp_state::{TcpState, TcpWindow};
use crate::flow::{FlowDirection, FlowKey, Peer};

/// Service translation of a flow: what the client sees instead of [`FlowKey`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Translation {
    /// The service frontend: what the client sent to.
    pub frontend: Peer,
    /// The client's own address and port, where the receiver sees another (hairpin, port conflict).
    pub client: Peer,
}

/// The decision that an entry remembers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EntryVerdict {
    /// Not decided yet.
    Undecided,
    /// Forward.
    Allow,
    /// Forward what the L7 gate lets pass.
    AllowHttp {
        /// Rule set of the source's egress policy.
        egress: Option<HttpIndex>,
        /// Rule set of the destination's ingress policy.
        ingress: Option<HttpIndex>,
    },
    /// Drop.
    Drop(DropReason),
}

/// What was current when the verdict was made; the verdict stands as long as it still is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stamp {
    /// Policy of the source, when it is an endpoint.
    pub source_policy: PolicyGeneration,
    /// Policy of the destination, when it is an endpoint.
    pub destination_policy: PolicyGeneration,
    /// Address to identity.
    pub ipcache: IpCacheGeneration,
}

/// What was reported of a flow that passes only because an endpoint audits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Audited {
    /// The source's egress policy denies it.
    pub egress: bool,
    /// The destination's ingress policy denies it.
    pub ingress: bool,
    /// The gate would have refused something; nothing is judged any more.
    pub l7: bool,
}

/// What is known of one flow.
#[derive(Debug, Clone, Copy)]
pub struct Entry {
    /// The flow, as the receiver of the original direction sees it.
    pub key: FlowKey,
    /// What the client sees, where that differs.
    pub translation: Option<Translation>,
    /// Interface that the original direction came in by; replies go back there.
    pub source: EndpointKey,
    /// Interface that the original direction goes out by.
    pub destination: EndpointKey,
    /// Identity of the source when last decided.
    pub source_identity: Identity,
    /// Identity of the destination when last decided.
    pub destination_identity: Identity,
    /// What the verdict was made from.
    pub stamp: Stamp,
    /// The verdict.
    pub verdict: EntryVerdict,
    /// What was reported in audit mode.
    pub audited: Audited,
    /// TCP state.
    pub tcp: TcpState,
    /// TCP sequence numbers.
    pub window: TcpWindow,
    /// Whether a reply has been seen (UDP and ICMP live longer then).
    pub replied: bool,
    /// How long before the last packet the last one of the original direction was, seconds up to 255. Not when it was: an entry is three
    /// cache lines.
    pub asked_before_s: u8,
    /// Whether both directions belong to one pod reached through its own Service (policy skips it).
    pub hairpin: bool,
    /// Index of the flow's L7 state, if it has one.
    pub l7: Option<u32>,
    /// When the last packet passed, seconds of the worker's clock.
    pub last_seen_s: u32,
    pub(super) hash: u64,
    pub(super) generation: u32,
    pub(super) live: bool,
}

impl Entry {
    /// A new, undecided entry.
    #[must_use]
    pub fn new(key: FlowKey, source: EndpointKey, destination: EndpointKey) -> Self {
        Self {
            key,
            translation: None,
            source,
            destination,
            source_identity: Identity::UNKNOWN,
            destination_identity: Identity::UNKNOWN,
            stamp: Stamp::default(),
            verdict: EntryVerdict::Undecided,
            audited: Audited::default(),
            tcp: TcpState::Untracked,
            window: TcpWindow::default(),
            replied: false,
            hairpin: false,
            l7: None,
            last_seen_s: 0,
            asked_before_s: 0,
            hash: 0,
            generation: 0,
            live: false,
        }
    }

    /// Takes note of a packet that passes.
    pub fn passed(&mut self, direction: FlowDirection, now_s: u32) {
        self.asked_before_s = match direction {
            FlowDirection::Original => 0,
            FlowDirection::Reply => u8::try_from(self.asked_ago_s(now_s)).unwrap_or(u8::MAX),
        };
        self.replied |= direction == FlowDirection::Reply;
        self.last_seen_s = now_s;
    }

    /// How long ago the last packet of the original direction was, seconds; beyond 255 at least so long.
    #[must_use]
    pub fn asked_ago_s(&self, now_s: u32) -> u32 {
        u32::from(self.asked_before_s) + now_s.saturating_sub(self.last_seen_s)
    }

    pub(super) fn vacant() -> Self {
        let nobody = EndpointKey {
            slot: Slot::NONE,
            generation: SlotGeneration(0),
        };
        Self::new(FlowKey::UNSPECIFIED, nobody, nobody)
    }

    /// The interface that packets in `direction` come in by.
    #[must_use]
    pub const fn sender(&self, direction: FlowDirection) -> EndpointKey {
        match direction {
            FlowDirection::Original => self.source,
            FlowDirection::Reply => self.destination,
        }
    }

    /// The interface that packets in `direction` go out by.
    #[must_use]
    pub const fn receiver(&self, direction: FlowDirection) -> EndpointKey {
        self.sender(direction.reverse())
    }

    /// Seconds without a packet after which the entry is forgotten.
    #[must_use]
    pub const fn timeout_s(&self) -> u32 {
        match (self.tcp, self.replied) {
            (TcpState::Untracked, true) => 120,
            // A connection older than the entry, of which one side alone was heard: anybody could have made that up.
            (TcpState::Established, false) => TcpState::SynReceived.timeout_s(),
            (state, _) => state.timeout_s(),
        }
    }

    /// Whether the entry's time is up at `now_s`.
    #[must_use]
    pub const fn is_expired(&self, now_s: u32) -> bool {
        now_s.saturating_sub(self.last_seen_s) > self.timeout_s()
    }
}
