//! L7 state of flows, beside their conntrack entries: the gate and what an answer in the server's name needs.
//!
//! States are kept and used again, so that a steady state allocates nothing; their number is bounded.

use l7::HttpGate;
use policy::Slot;

use crate::reservation::Reservation;
use crate::wire::tcp::Timestamps;

/// How far a flow is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// The client's SYN went by; its first byte will have this sequence number.
    SynSeen {
        /// SYN's sequence number plus one.
        client_next: u32,
    },
    /// The SYN-ACK went by; the gate judges.
    Open {
        /// As in [`Phase::SynSeen`].
        client_next: u32,
        /// SYN-ACK's sequence number plus one.
        server_next: u32,
    },
    /// Ended by a verdict; nothing passes any more.
    Closed,
}

/// L7 state of one flow.
#[derive(Debug)]
pub struct L7Flow {
    /// How far the flow is.
    pub phase: Phase,
    /// The gate; judges only while the flow is open.
    pub gate: HttpGate,
    /// The client's latest timestamp, where both sides use them.
    pub client_timestamp: Option<u32>,
    /// The server's latest timestamp.
    pub server_timestamp: Option<u32>,
    /// The server's latest window, unscaled.
    pub server_window: u16,
    /// When the gate was opened.
    pub opened_ns: u64,
    /// Since when the client has acknowledged nothing of what it was sent.
    pub unacknowledged_ns: u64,
    /// When the server sent its FIN.
    pub answered_ns: u64,
    /// Another SYN that the client sent into an open connection; a server that has forgotten the connection takes it.
    pub pending: Option<u32>,
    /// The request whose head is under way was reported in audit mode already.
    pub is_head_audited: bool,
    /// Where the two streams of the last open connection began; the server's repeated SYN-ACK must not open the gate again.
    last_opened: Option<(u32, u32)>,
    owner: Slot,
    in_use: bool,
}

impl L7Flow {
    fn new() -> Self {
        Self {
            phase: Phase::Closed,
            gate: HttpGate::new(0, 0),
            client_timestamp: None,
            server_timestamp: None,
            server_window: 0,
            opened_ns: 0,
            unacknowledged_ns: 0,
            answered_ns: 0,
            pending: None,
            is_head_audited: false,
            last_opened: None,
            owner: Slot::NONE,
            in_use: false,
        }
    }

    /// Opens the gate, if this SYN-ACK is not one that has opened it before.
    #[must_use]
    pub fn open(&mut self, client_next: u32, server_next: u32, now_ns: u64) -> bool {
        if self.last_opened == Some((client_next, server_next)) {
            return false;
        }
        let has_predecessor = self.last_opened.is_some();
        self.last_opened = Some((client_next, server_next));
        self.pending = None;
        (self.opened_ns, self.unacknowledged_ns) = (now_ns, now_ns);
        self.is_head_audited = false;
        self.phase = Phase::Open {
            client_next,
            server_next,
        };
        self.gate.reset(client_next, server_next, has_predecessor);
        true
    }

    /// The timestamps option of a segment in the server's name (RFC 7323, 3.2).
    #[must_use]
    pub fn server_option(&self) -> Option<Timestamps> {
        Some(Timestamps {
            value: self.server_timestamp?,
            echo: self.client_timestamp?,
        })
    }
}

/// All L7 states of a worker.
#[derive(Debug)]
pub struct L7Flows {
    flows: Vec<L7Flow>,
    free: Vec<u32>,
    capacity: usize,
    shares: Reservation,
}

impl L7Flows {
    /// Room for `capacity` flows; memory is taken as they come.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Self {
            flows: Vec::with_capacity(capacity),
            free: Vec::with_capacity(capacity),
            capacity,
            shares: Reservation::new(capacity),
        }
    }

    /// Flows that have L7 state.
    #[must_use]
    pub fn len(&self) -> usize {
        self.flows.len() - self.free.len()
    }

    /// Whether no flow has.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// State for a flow of `owner` whose SYN goes by; `None` when all are taken, or the rest is reserved for others.
    pub fn begin(&mut self, owner: Slot, client_next: u32) -> Option<u32> {
        if !self
            .shares
            .admits(owner, self.capacity.saturating_sub(self.len()))
        {
            return None;
        }
        let index = match self.free.pop() {
            Some(index) => index,
            None if self.flows.len() < self.capacity => {
                self.flows.push(L7Flow::new());
                u32::try_from(self.flows.len() - 1).ok()?
            }
            None => return None,
        };
        let flow = self.flows.get_mut(index as usize)?;
        flow.phase = Phase::SynSeen { client_next };
        flow.client_timestamp = None;
        flow.server_timestamp = None;
        flow.server_window = 0;
        flow.pending = None;
        flow.last_opened = None;
        flow.owner = owner;
        flow.in_use = true;
        self.shares.take(owner);
        Some(index)
    }

    /// The state of a flow.
    pub fn get_mut(&mut self, index: u32) -> Option<&mut L7Flow> {
        self.flows.get_mut(index as usize).filter(|flow| flow.in_use)
    }

    /// Ends a flow; its state stays until conntrack forgets it.
    pub fn close(&mut self, index: u32) {
        if let Some(flow) = self.get_mut(index) {
            flow.phase = Phase::Closed;
        }
    }

    /// Readies the state of a closed flow for the next connection on the same tuple; the coming SYN says where it begins.
    pub fn reopen(&mut self, index: u32) {
        if let Some(flow) = self.get_mut(index) {
            flow.phase = Phase::SynSeen { client_next: 0 };
            flow.client_timestamp = None;
            flow.server_timestamp = None;
            flow.pending = None;
        }
    }

    /// Gives a flow's state back.
    pub fn release(&mut self, index: u32) {
        if let Some(flow) = self.get_mut(index) {
            flow.in_use = false;
            let owner = flow.owner;
            self.shares.give_back(owner);
            self.free.push(index);
        }
    }
}
