//! Counters of one worker: written by it alone, read by anyone.
//!
//! A counter is bumped by a relaxed load and store, not by a read-modify-write: there is one writer.

use std::sync::atomic::{AtomicU64, Ordering};

use policy::{Direction, DropReason, Slot};

/// Slots that have counters of their own.
const SLOTS: usize = 4096;

/// A counter with one writer.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `n`. Only the owning worker may call this.
    #[inline]
    pub fn add(&self, n: u64) {
        self.0
            .store(self.0.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
    }

    /// Sets the value. Only the owning worker may call this.
    #[inline]
    pub fn set(&self, n: u64) {
        self.0.store(n, Ordering::Relaxed);
    }

    /// The value.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

macro_rules! stages {
    ($($(#[$doc:meta])* $name:ident = $label:literal,)*) => {
        /// A step of the packet graph, in order.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[repr(usize)]
        pub enum Stage { $($(#[$doc])* $name,)* }

        impl Stage {
            /// Every stage, in the order packets pass them.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// Metric label.
            #[must_use]
            pub const fn label(self) -> &'static str {
                match self { $(Self::$name => $label,)* }
            }
        }
    };
}

stages! {
    /// Bytes to headers; source guard; ARP and ND answered.
    Parse = "parse",
    /// Service translation, flow lookup, TCP state.
    Conntrack = "conntrack",
    /// New and stale flows decided.
    Policy = "policy",
    /// HTTP judged.
    L7 = "l7",
    /// Rewritten and sent.
    Forward = "forward",
}

/// Where a drop is counted: the policy direction that denied, if one did.
const fn column(direction: Option<Direction>) -> usize {
    match direction {
        None => 0,
        Some(Direction::Ingress) => 1,
        Some(Direction::Egress) => 2,
    }
}

/// Counters of one slot.
#[derive(Debug, Default)]
pub struct SlotCounters {
    /// Packets received from the interface.
    pub rx_packets: Counter,
    /// Bytes received from it.
    pub rx_bytes: Counter,
    /// Packets queued for it.
    pub tx_packets: Counter,
    /// Bytes queued for it.
    pub tx_bytes: Counter,
    /// Packets received from it and dropped.
    pub dropped: Counter,
}

/// All counters of one worker.
#[derive(Debug)]
pub struct Counters {
    dropped: Box<[[Counter; 256]; 3]>,
    audited: [Counter; 2],
    stages: [Counter; Stage::ALL.len()],
    slots: Vec<SlotCounters>,
    /// Packets sent on.
    pub forwarded_packets: Counter,
    /// Bytes sent on.
    pub forwarded_bytes: Counter,
    /// Packets that the worker made itself: ARP and ND answers, ICMP errors, 403 responses, resets.
    pub generated: Counter,
    /// Packets consumed by an answer (ARP, ND).
    pub answered: Counter,
    /// HTTP requests forwarded.
    pub http_forwarded: Counter,
    /// HTTP requests denied.
    pub http_denied: Counter,
    /// Flow events that found the event ring full.
    pub events_lost: Counter,
    /// Packets that found the capture ring full.
    pub captures_lost: Counter,
    /// Flows in the conntrack table.
    pub flows: Counter,
    /// Flows with L7 state.
    pub l7_flows: Counter,
    /// Packets that were held because their peer was not known yet.
    pub held: Counter,
    /// Connections older than the worker that go on.
    pub adopted_flows: Counter,
    /// Service translations remembered.
    pub translations: Counter,
    /// Clients with session affinity remembered.
    pub affinities: Counter,
    /// New flows whose client found the table of affinities full: its next one may go to another backend.
    pub affinities_lost: Counter,
    /// Revision of the snapshot in use.
    pub revision: Counter,
    /// Iterations of the worker's loop; a worker that stands still is dead.
    pub loops: Counter,
    /// Times the worker went to sleep.
    pub sleeps: Counter,
}

impl Default for Counters {
    fn default() -> Self {
        Self {
            dropped: Box::new(std::array::from_fn(|_| {
                std::array::from_fn(|_| Counter::default())
            })),
            audited: std::array::from_fn(|_| Counter::default()),
            stages: std::array::from_fn(|_| Counter::default()),
            slots: (0..SLOTS).map(|_| SlotCounters::default()).collect(),
            forwarded_packets: Counter::default(),
            forwarded_bytes: Counter::default(),
            generated: Counter::default(),
            answered: Counter::default(),
            http_forwarded: Counter::default(),
            http_denied: Counter::default(),
            events_lost: Counter::default(),
            captures_lost: Counter::default(),
            flows: Counter::default(),
            l7_flows: Counter::default(),
            held: Counter::default(),
            adopted_flows: Counter::default(),
            translations: Counter::default(),
            affinities: Counter::default(),
            affinities_lost: Counter::default(),
            revision: Counter::default(),
            loops: Counter::default(),
            sleeps: Counter::default(),
        }
    }
}

impl Counters {
    /// Counts a dropped packet.
    pub fn drop_packet(&self, reason: DropReason, direction: Option<Direction>, sender: Slot) {
        self.dropped[column(direction)][reason as usize].add(1);
        if let Some(slot) = self.slot(sender) {
            slot.dropped.add(1);
        }
    }

    /// Packets dropped for `reason` by the policy of `direction` (`None`: not by policy).
    #[must_use]
    pub fn dropped(&self, reason: DropReason, direction: Option<Direction>) -> u64 {
        self.dropped[column(direction)][reason as usize].get()
    }

    /// Packets dropped for `reason`.
    #[must_use]
    pub fn dropped_in_all(&self, reason: DropReason) -> u64 {
        self.dropped
            .iter()
            .map(|column| column[reason as usize].get())
            .sum()
    }

    /// Packets dropped for any reason.
    #[must_use]
    pub fn dropped_total(&self) -> u64 {
        DropReason::ALL
            .iter()
            .map(|reason| self.dropped_in_all(*reason))
            .sum()
    }

    /// Flows, and HTTP requests, that the policy of `direction` would have denied, had it not been in audit mode.
    #[must_use]
    pub const fn audited(&self, direction: Direction) -> &Counter {
        match direction {
            Direction::Ingress => &self.audited[0],
            Direction::Egress => &self.audited[1],
        }
    }

    /// Packets that entered `stage`.
    #[must_use]
    pub fn stage(&self, stage: Stage) -> &Counter {
        &self.stages[stage as usize]
    }

    /// Counters of a slot; `None` beyond the slots that are counted.
    #[must_use]
    pub fn slot(&self, slot: Slot) -> Option<&SlotCounters> {
        self.slots.get(slot.index())
    }
}
