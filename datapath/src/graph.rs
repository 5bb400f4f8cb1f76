//! The packet graph: the stages in order, and the state they share. One graph per worker.
//!
//! A batch comes from one interface and passes the stages in three passes: every packet is parsed and translated, every flow is
//! looked up at once ([`Conntrack::lookup_batch`]), then each packet is tracked, decided, inspected and forwarded in order of
//! arrival. A stage is a function in [`crate::stage`]; what it returns is a [`policy::Verdict`] or a packet to go on with, never an
//! error. Every packet that enters leaves by the outbox, by [`Graph::drop_packet`] or by an answer, and is counted there.

mod outcome;
mod transit;

use std::sync::Arc;

use crossbeam::queue::ArrayQueue;
use policy::{DropReason, EndpointKey, Identity, Revision, Slot, Snapshot};

use crate::adoption::{AdoptionLimits, Adoptions};
use crate::capture::Capture;
use crate::conntrack::table::Found;
use crate::conntrack::{Conntrack, Entry, EntryId, EntryVerdict, InsertError};
use crate::counters::{Counters, Stage};
use crate::event::FlowEvent;
use crate::flow::{FlowHasher, FlowKey};
use crate::fragment::{FragmentLimits, FragmentTable, Released};
use crate::hold::{HoldLimits, HoldTable};
use crate::interface::{InterfaceConfig, InterfaceKind};
use crate::interface_table::InterfaceTable;
use crate::l7_flow::L7Flows;
use crate::stage::{self, icmp_error::ErrorBudget};
use crate::translation::{Inherited, TranslatedFlow, Translations};
use crate::wire::ethernet::{self, EtherType, Ethernet};
use crate::xsk::{FRAME_CAPACITY, Frames, Packet};

pub use self::transit::{Decided, Refusal, Tracked, Transit};

/// Windows of adopted endpoints that what was inherited may wait for policies, at most.
const LONGEST_WAIT: u64 = 10;

/// Limits of a graph's tables. Memory is taken at start: see `ARCHITECTURE.md`, memory.
#[derive(Debug, Clone)]
pub struct GraphConfig {
    /// Flows that conntrack remembers.
    pub flows: u32,
    /// Flows that one endpoint may begin.
    pub flows_per_endpoint: u32,
    /// Service translations remembered.
    pub translations: usize,
    /// Clients of Services with session affinity that are remembered.
    pub affinities: usize,
    /// Flows with L7 state.
    pub l7_flows: usize,
    /// Packets held for peers that are not known yet.
    pub hold: HoldLimits,
    /// Connections of adopted endpoints.
    pub adoption: AdoptionLimits,
    /// Whether Services are served to the node's own processes, too.
    pub translate_host: bool,
}

impl Default for GraphConfig {
    fn default() -> Self {
        Self {
            flows: 262_144,
            flows_per_endpoint: 65_536,
            translations: 65_536,
            affinities: 16_384,
            l7_flows: 8192,
            hold: HoldLimits::default(),
            adoption: AdoptionLimits::default(),
            translate_host: false,
        }
    }
}

/// Time, read once per batch.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Clock {
    /// Nanoseconds since the worker started.
    pub mono_ns: u64,
    /// Nanoseconds since the Unix epoch.
    pub unix_ns: u64,
}

impl Clock {
    /// Seconds since the worker started.
    #[must_use]
    pub fn seconds(self) -> u32 {
        u32::try_from(self.mono_ns / 1_000_000_000).unwrap_or(u32::MAX)
    }
}

/// The state of one worker's pipeline.
#[derive(Debug)]
pub struct Graph {
    pub(crate) frames: Frames,
    pub(crate) snapshot: Arc<Snapshot>,
    pub(crate) clock: Clock,
    pub(crate) interfaces: InterfaceTable,
    pub(crate) conntrack: Conntrack,
    pub(crate) translations: Translations,
    pub(crate) translate_host: bool,
    pub(crate) fragments: FragmentTable<Transit>,
    pub(crate) holds: HoldTable<Transit>,
    pub(crate) adoptions: Adoptions,
    all_adopted: bool,
    /// Whether held packets were not judged by the snapshot yet.
    snapshot_is_new: bool,
    /// Scratch of the fragment stage.
    pub(crate) released: Vec<Released<Transit>>,
    pub(crate) l7: L7Flows,
    pub(crate) errors: ErrorBudget,
    pub(crate) counters: Arc<Counters>,
    events: Arc<ArrayQueue<FlowEvent>>,
    capture: Arc<Capture>,
    batch: Vec<Transit>,
    keys: Vec<(FlowKey, u64)>,
    found: Vec<Found>,
}

impl Graph {
    /// A graph over `frames`.
    #[must_use]
    pub fn new(
        config: &GraphConfig,
        frames: Frames,
        snapshot: Arc<Snapshot>,
        counters: Arc<Counters>,
        events: Arc<ArrayQueue<FlowEvent>>,
        capture: Arc<Capture>,
    ) -> Self {
        let hasher = FlowHasher::random();
        let seed = hasher.hash(&FlowKey::UNSPECIFIED);
        Self {
            frames,
            snapshot,
            clock: Clock::default(),
            interfaces: InterfaceTable::default(),
            conntrack: Conntrack::new(config.flows, config.flows_per_endpoint, hasher),
            translations: Translations::new(config.translations, config.affinities, seed),
            translate_host: config.translate_host,
            fragments: FragmentTable::new(FragmentLimits::default()),
            holds: HoldTable::new(config.hold),
            adoptions: Adoptions::new(config.adoption),
            all_adopted: false,
            snapshot_is_new: false,
            released: Vec::with_capacity(32),
            l7: L7Flows::new(config.l7_flows),
            errors: ErrorBudget::default(),
            counters,
            events,
            capture,
            batch: Vec::with_capacity(64),
            keys: Vec::with_capacity(64),
            found: Vec::with_capacity(64),
        }
    }

    /// The frames.
    #[must_use]
    pub fn frames(&self) -> &Frames {
        &self.frames
    }

    /// The frames, for the rings.
    pub fn frames_mut(&mut self) -> &mut Frames {
        &mut self.frames
    }

    /// The snapshot in force.
    #[must_use]
    pub fn snapshot(&self) -> &Arc<Snapshot> {
        &self.snapshot
    }

    /// Puts a snapshot in force. Flows are re-decided at their next packet, and only those that it touches.
    ///
    /// Returns the former one: freeing a large snapshot is not the worker's work.
    #[must_use]
    pub fn replace_snapshot(&mut self, snapshot: Arc<Snapshot>) -> Arc<Snapshot> {
        self.snapshot_is_new = true;
        std::mem::replace(&mut self.snapshot, snapshot)
    }

    /// Flows that are tracked.
    #[must_use]
    pub fn conntrack(&self) -> &Conntrack {
        &self.conntrack
    }

    /// Service translations that are remembered.
    #[must_use]
    pub fn translations(&self) -> &Translations {
        &self.translations
    }

    /// Starts an iteration of the worker.
    pub fn begin(&mut self, clock: Clock) {
        self.clock = clock;
        self.translations.begin_batch(clock.seconds());
        let inherited = self.translations.inherited_mut();
        let is_known = self.all_adopted && self.snapshot.revision != Revision(0);
        if inherited.waits() && is_known && !self.adoptions.any_waits() {
            inherited.begin(clock.mono_ns.saturating_add(self.adoptions.window_ns()));
        }
        inherited.expire(clock.mono_ns);
    }

    /// Takes over the translations of the former process, for as long as an adopted endpoint's connections may go on from when
    /// the policies of all are known.
    pub fn inherit(&mut self, inherited: Inherited) {
        let longest = self.adoptions.window_ns().saturating_mul(LONGEST_WAIT);
        self.translations
            .inherit(inherited, self.clock.mono_ns.saturating_add(longest));
    }

    /// Every interface of the former process is attached that will be.
    pub fn adoption_ends(&mut self) {
        self.all_adopted = true;
    }

    /// The translated TCP connections, for the process that comes next.
    #[must_use]
    pub fn translated_flows(&self) -> Vec<TranslatedFlow> {
        self.translations.flows(&self.conntrack)
    }

    /// Begins to serve an interface. Flows that were begun with its addresses by another way are forgotten: they would lead past it.
    pub fn attach(&mut self, config: InterfaceConfig) {
        self.interfaces.attach(config);
        let InterfaceKind::Endpoint(endpoint) = config.kind else {
            return;
        };
        let (translations, l7, interfaces) = (&mut self.translations, &mut self.l7, &self.interfaces);
        self.conntrack.remove_strays(
            config.key,
            |addr| interfaces.endpoint_at(addr) == Some(config.key),
            |entry| forget(translations, l7, entry),
        );
        if endpoint.adopted {
            self.adoptions.add(config.key);
            self.adoptions.advance(&self.snapshot, self.clock.mono_ns);
        }
    }

    /// Stops serving an interface: its flows and held packets are forgotten.
    pub fn detach(&mut self, key: EndpointKey) {
        self.interfaces.detach(key);
        let (translations, l7) = (&mut self.translations, &mut self.l7);
        self.conntrack
            .remove_endpoint(key, |entry| forget(translations, l7, entry));
        self.translations.forget_affinities(key.slot);
        self.translations.inherited_mut().forget(key);
        stage::fragment::forget(self, key);
        stage::hold::forget(self, key);
        self.adoptions.forget(key);
    }

    /// Frames that are held on purpose: early fragments, and first packets of peers that are not known yet.
    #[must_use]
    pub fn held_frames(&self) -> usize {
        // A first packet that is held has one frame.
        self.fragments.held_frames() + self.holds.len()
    }

    /// Does what a new snapshot or the time asks for: judges held packets again. To be called before the first batch of an
    /// iteration, so that no packet overtakes them.
    pub fn advance(&mut self, outbox: &mut Vec<(EndpointKey, Packet)>) {
        let all = std::mem::take(&mut self.snapshot_is_new);
        if all && !self.adoptions.is_empty() {
            self.adoptions.advance(&self.snapshot, self.clock.mono_ns);
        }
        if !self.holds.is_empty() {
            stage::hold::release(self, all, outbox);
        }
    }

    /// When the next held packet must be judged, nanoseconds of the worker's clock.
    #[must_use]
    pub fn next_deadline_ns(&self) -> Option<u64> {
        self.holds.next_deadline_ns()
    }

    /// Runs the stages after parse over a packet that was held, as if it came now.
    pub(crate) fn resume(
        &mut self,
        transit: Transit,
        sent: FlowKey,
        outbox: &mut Vec<(EndpointKey, Packet)>,
    ) {
        let mut batch = std::mem::take(&mut self.batch);
        stage::parse::translate(self, transit, sent, &mut batch, outbox);
        for transit in batch.drain(..) {
            self.judge(transit, None, outbox);
        }
        self.batch = batch;
    }

    /// Runs the stages over one batch from `sender`; what is to be sent goes to `outbox`, with its receiver.
    pub fn run(
        &mut self,
        sender: EndpointKey,
        rx: &mut Vec<Packet>,
        outbox: &mut Vec<(EndpointKey, Packet)>,
    ) {
        self.count_received(sender.slot, rx);
        let mut batch = std::mem::take(&mut self.batch);
        for packet in rx.drain(..) {
            stage::parse::run(self, sender, packet, &mut batch, outbox);
        }
        if !batch.is_empty() {
            self.counters.stage(Stage::Conntrack).add(batch.len() as u64);
            self.keys.clear();
            self.keys
                .extend(batch.iter().map(|transit| (transit.key, transit.hash)));
            let mut found = std::mem::take(&mut self.found);
            self.conntrack.lookup_batch(&self.keys, &mut found);
            for (transit, found) in batch.drain(..).zip(found.iter()) {
                self.judge(transit, *found, outbox);
            }
            self.found = found;
        }
        self.batch = batch;
    }

    /// Everything after the lookup, for one packet.
    fn judge(&mut self, transit: Transit, found: Found, outbox: &mut Vec<(EndpointKey, Packet)>) {
        if stage::parse::quoted(&transit.headers).is_some() {
            return stage::icmp_error::relay(self, transit, outbox);
        }
        let tracked = match stage::conntrack::run(self, &transit, found) {
            Ok(tracked) => tracked,
            Err(refusal) if refusal.reason == DropReason::Midstream => {
                match stage::midstream::run(self, &transit, outbox) {
                    Ok(tracked) => tracked,
                    Err(refusal) => {
                        return self.refuse(transit, Identity::UNKNOWN, Identity::UNKNOWN, refusal);
                    }
                }
            }
            Err(refusal) => return self.refuse(transit, Identity::UNKNOWN, Identity::UNKNOWN, refusal),
        };
        self.counters.stage(Stage::Policy).add(1);
        let decided = match stage::policy::run(self, &transit, tracked) {
            Ok(decided) => decided,
            Err(refused) => return stage::hold::refuse(self, transit, &tracked, refused),
        };
        // Before the gate: what it judges must leave.
        let path_mtu = match stage::forward::check_path(self, &transit, decided.receiver, outbox) {
            Ok(path_mtu) => path_mtu,
            Err(reason) => return self.refuse_flow(transit, &decided, reason),
        };
        let mut transit = transit;
        if decided.gated {
            self.counters.stage(Stage::L7).add(1);
            match stage::l7::run(self, transit, &decided, outbox) {
                Some(passed) => transit = passed,
                None => return,
            }
        }
        stage::conntrack::settle(self, &transit, decided.entry, decided.direction, tracked.tcp);
        stage::forward::run(self, transit, &decided, path_mtu, outbox);
    }

    /// Looks at the next places of every table and forgets what has expired.
    pub fn expire(&mut self, budget: usize) {
        let (translations, l7) = (&mut self.translations, &mut self.l7);
        self.conntrack.sweep(self.clock.seconds(), budget, |entry| {
            forget(translations, l7, entry)
        });
        stage::fragment::expire(self, budget);
        self.counters.flows.set(self.conntrack.len() as u64);
        self.counters.translations.set(self.translations.len() as u64);
        self.counters
            .affinities
            .set(self.translations.affinities() as u64);
        self.counters.l7_flows.set(self.l7.len() as u64);
    }

    /// Puts a new flow in the place of the closed one on the same tuple. A gated one takes over the L7 state, because that knows
    /// which handshake is over.
    ///
    /// # Errors
    /// [`InsertError`]; nothing is changed then.
    pub(crate) fn reopen(&mut self, id: EntryId, mut entry: Entry) -> Result<EntryId, InsertError> {
        let former = self.conntrack.get(id).copied();
        if matches!(entry.verdict, EntryVerdict::AllowHttp { .. }) {
            entry.l7 = former.and_then(|former| former.l7);
        }
        let new = self.conntrack.replace(id, entry, self.clock.seconds())?;
        if let Some(index) = entry.l7 {
            self.l7.reopen(index);
        }
        if let Some(mut former) = former {
            former.l7 = former.l7.filter(|_| entry.l7.is_none());
            forget(&mut self.translations, &mut self.l7, &former);
        }
        Ok(new)
    }

    /// A packet made by `write`, which gets room for an IP packet and says how long it became, framed for an interface; `None` when
    /// there is no frame, no such interface, or `write` declines. Counted as a drop of that interface only when the pool is empty.
    pub(crate) fn build(
        &mut self,
        receiver: EndpointKey,
        source: Option<&Packet>,
        write: impl FnOnce(&[u8], &mut [u8]) -> Option<usize>,
    ) -> Option<Packet> {
        let interface = *self.interfaces.get(receiver)?;
        let Some(mut packet) = self.frames.allocate(FRAME_CAPACITY) else {
            self.counters
                .drop_packet(DropReason::FrameQuota, None, receiver.slot);
            return None;
        };
        let (read, frame) = match source {
            Some(source) => self.frames.read_write(source, &mut packet),
            None => (&[][..], self.frames.linear_mut(&mut packet)),
        };
        let len = frame
            .split_at_mut_checked(ethernet::HEADER_LEN)
            .and_then(|(header, ip)| {
                let len = write(read, ip)?;
                let ethertype = if ip.first()? >> 4 == 4 {
                    EtherType::IPV4
                } else {
                    EtherType::IPV6
                };
                Ethernet {
                    destination: interface.peer_mac,
                    source: interface.local_mac,
                    ethertype,
                }
                .write(header)?;
                Some(ethernet::HEADER_LEN + len)
            });
        match len {
            Some(len) => {
                self.frames.truncate(&mut packet, len);
                Some(packet)
            }
            None => {
                self.frames.release(packet);
                None
            }
        }
    }

    fn count_received(&self, slot: Slot, rx: &[Packet]) {
        self.counters.stage(Stage::Parse).add(rx.len() as u64);
        if let Some(counters) = self.counters.slot(slot) {
            counters.rx_packets.add(rx.len() as u64);
            counters
                .rx_bytes
                .add(rx.iter().map(Packet::len).sum::<usize>() as u64);
        }
    }
}

/// What goes with a conntrack entry.
fn forget(translations: &mut Translations, l7: &mut L7Flows, entry: &Entry) {
    if let Some(translation) = &entry.translation {
        translations.forget(entry.source.slot, &entry.key, translation);
    }
    if let Some(index) = entry.l7 {
        l7.release(index);
    }
}
