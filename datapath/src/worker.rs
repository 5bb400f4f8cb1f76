//! The worker: one pinned thread that owns its rings, its frames and its conntrack shard, and takes no lock.
//!
//! Loop: commands, snapshot, receive from every interface, run the graph, transmit, refill, sweep. A busy worker never sleeps; an
//! idle one spins for [`WorkerConfig::spin`], giving way to whoever waits for its CPU, and then sleeps on its sockets. The clock is
//! read once per iteration.
//! Sockets are opened and closed elsewhere and handed over by [`Command`]s.

mod command;
mod served;
mod wall_clock;

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use crossbeam::queue::ArrayQueue;
use mio::{Events, Poll, Token, Waker};
use policy::{DropReason, EndpointKey, Slot, Snapshot};

pub use self::command::{Command, CommandError, WorkerAudit, WorkerHandle};
use self::served::{Served, arm, disarm, flush, queue};
use self::wall_clock::WallClock;
use crate::counters::Counters;
use crate::graph::{Clock, Graph, GraphConfig};
use crate::interface::InterfaceConfig;
use crate::xsk::{Frames, Packet, PacketIo};

/// Packets taken from one interface in one turn.
const RX_BATCH: usize = 32;

/// Frames that are posted at once.
const REFILL: usize = 16;

/// Least frames posted per interface.
const LEAST_POSTED: usize = 32;

/// Frames posted for an idle interface as long as a quarter of all suffices: a burst takes them before a sleeping worker is awake.
const IDLE_POSTED: usize = 256;

/// Most frames posted per interface.
const MOST_POSTED: usize = 1024;

/// Places of each table looked at per sweep: the whole of the default conntrack table in half a second.
const SWEEP_BUDGET: usize = 512;

/// Sweeps made up for after a sleep.
const MOST_PERIODS: usize = 128;

/// Time between sweeps.
const SWEEP_PERIOD_NS: u64 = 1_000_000;

/// How long an idle worker sleeps at most: expiry and heartbeat go on.
const LONGEST_SLEEP: Duration = Duration::from_millis(100);

/// Sleep while frames are still in transmission: completions raise no event.
const COMPLETION_SLEEP: Duration = Duration::from_millis(1);

/// Turns without a sleep after which the worker is busy: it takes the registration of sockets back that packets come by.
const BUSY_TURNS: u32 = 64;

/// How many times its configured time a worker spins at most, once its sleeps turn out shorter than that.
const MOST_SPIN: u64 = 8;

const WAKER: Token = Token(usize::MAX);

/// What a worker needs to know at start.
#[derive(Debug, Clone)]
pub struct WorkerConfig {
    /// Limits of the graph's tables.
    pub graph: GraphConfig,
    /// How long it spins without a packet before it sleeps; up to eight times as long while its sleeps are shorter than that.
    pub spin: Duration,
}

impl Default for WorkerConfig {
    fn default() -> Self {
        Self {
            graph: GraphConfig::default(),
            spin: Duration::from_micros(50),
        }
    }
}

/// One worker.
#[derive(Debug)]
pub struct Worker {
    graph: Graph,
    served: Vec<Served>,
    /// Position in `served` by slot.
    position: Vec<Option<u16>>,
    rx: Vec<Packet>,
    outbox: Vec<(EndpointKey, Packet)>,
    commands: Arc<ArrayQueue<Command>>,
    snapshot: Arc<ArcSwap<Snapshot>>,
    retired: Arc<ArrayQueue<Arc<Snapshot>>>,
    counters: Arc<Counters>,
    poll: Poll,
    events: Events,
    started: Instant,
    /// As configured.
    least_spin_ns: u64,
    /// In force.
    spin_ns: u64,
    /// When the last packet or wake-up was.
    active_at: u64,
    wall: WallClock,
    /// Turns since it slept.
    awake: u32,
    levelled_at: u64,
    swept_at: u64,
    /// Sum of all levels; at most half of all frames, beyond what every interface has at least.
    level_sum: usize,
}

/// Frames to keep posted for each of so many interfaces when nothing comes.
fn idle_level(total: usize, interfaces: usize) -> usize {
    (total / 4 / interfaces.max(1)).clamp(LEAST_POSTED, IDLE_POSTED)
}

impl Worker {
    /// A worker over `frames`, and its handle.
    ///
    /// # Errors
    /// No epoll instance could be made.
    pub fn new(config: &WorkerConfig, frames: Frames) -> io::Result<(Self, WorkerHandle)> {
        let poll = Poll::new()?;
        let waker = Arc::new(Waker::new(poll.registry(), WAKER)?);
        let spin_ns = u64::try_from(config.spin.as_nanos()).unwrap_or(u64::MAX);
        let handle = WorkerHandle::new(waker);
        let graph = Graph::new(
            &config.graph,
            frames,
            handle.snapshot.load_full(),
            Arc::clone(&handle.counters),
            Arc::clone(&handle.events),
            Arc::clone(&handle.capture),
        );
        let worker = Self {
            graph,
            served: Vec::with_capacity(128),
            position: Vec::new(),
            rx: Vec::with_capacity(RX_BATCH),
            outbox: Vec::with_capacity(4 * RX_BATCH),
            commands: Arc::clone(&handle.commands),
            snapshot: Arc::clone(&handle.snapshot),
            retired: Arc::clone(&handle.retired),
            counters: Arc::clone(&handle.counters),
            poll,
            events: Events::with_capacity(128),
            started: Instant::now(),
            least_spin_ns: spin_ns,
            spin_ns,
            active_at: 0,
            wall: WallClock::default(),
            awake: 0,
            levelled_at: 0,
            swept_at: 0,
            level_sum: 0,
        };
        Ok((worker, handle))
    }

    /// Runs until [`Command::Stop`].
    ///
    /// # Errors
    /// Sleeping failed: the process should end (closed).
    pub fn run(&mut self) -> io::Result<()> {
        while self.turn()? {}
        Ok(())
    }

    fn clock(&mut self) -> Clock {
        let mono_ns = u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(u64::MAX);
        Clock {
            mono_ns,
            unix_ns: self.wall.at(mono_ns),
        }
    }

    /// One iteration of the loop; `false` when the worker was told to stop. Public for tests and benches, which own the thread.
    ///
    /// # Errors
    /// Sleeping failed.
    pub fn turn(&mut self) -> io::Result<bool> {
        let clock = self.clock();
        self.awake = self.awake.saturating_add(1);
        self.counters.loops.add(1);
        let snapshot = self.snapshot.load();
        if !Arc::ptr_eq(&snapshot, self.graph.snapshot()) {
            let former = self.graph.replace_snapshot(Arc::clone(&snapshot));
            // A full queue means that nobody frees them elsewhere: then here.
            drop(self.retired.push(former));
        }
        self.counters.revision.set(snapshot.revision.0);
        drop(snapshot);
        self.graph.begin(clock);
        if !self.obey() {
            return Ok(false);
        }
        self.graph.advance(&mut self.outbox);
        if !self.outbox.is_empty() {
            self.deliver();
        }
        let mut received = 0;
        for position in 0..self.served.len() {
            received += self.serve(position);
        }
        let periods = clock.mono_ns.saturating_sub(self.swept_at) / SWEEP_PERIOD_NS;
        if periods > 0 {
            self.swept_at = clock.mono_ns;
            // A worker that slept looks at what it would have looked at awake.
            self.graph
                .expire(SWEEP_BUDGET * usize::try_from(periods).unwrap_or(MOST_PERIODS).min(MOST_PERIODS));
            self.level(clock.mono_ns);
        }
        if received > 0 {
            self.active_at = clock.mono_ns;
        } else if clock.mono_ns.saturating_sub(self.active_at) > self.spin_ns {
            self.sleep()?;
        } else {
            // Where it runs alone this returns at once; where a pod waits for the CPU it is the pod's turn, and more packets come
            // with the next batch.
            rustix::thread::sched_yield();
        }
        Ok(true)
    }

    /// Receives one batch from an interface and runs the graph over it.
    fn serve(&mut self, position: usize) -> usize {
        let Some(served) = self.served.get_mut(position) else {
            return 0;
        };
        let count = served.io.receive(self.graph.frames_mut(), &mut self.rx, RX_BATCH);
        if count == 0 {
            return 0;
        }
        if served.armed && self.awake > BUSY_TURNS {
            disarm(self.poll.registry(), served);
        }
        served.fewest = served.fewest.min(served.level - count.min(served.level));
        if count == RX_BATCH
            && served.level < MOST_POSTED
            && self.level_sum + served.level <= self.graph.frames().total() / 2
        {
            // More is waiting than one turn takes: a burst must not find the ring empty.
            self.level_sum += served.level;
            served.level *= 2;
        }
        // Refilled before the graph runs: the sender may go on while the batch is judged. Not for every packet: the sender's
        // CPU reads the ring, and each write of it takes the cache line away.
        if served.io.posted() + REFILL <= served.level || served.io.posted() < served.level / 2 {
            served.io.refill(self.graph.frames_mut(), served.level);
        }
        self.graph.run(served.key, &mut self.rx, &mut self.outbox);
        self.deliver();
        count
    }

    /// Queues what the graph sent and hands it to the kernel.
    fn deliver(&mut self) {
        for (receiver, packet) in self.outbox.drain(..) {
            let position = self.position.get(receiver.slot.index()).copied().flatten();
            let served = position
                .and_then(|at| self.served.get_mut(usize::from(at)))
                .filter(|s| s.key == receiver);
            let Some(served) = served else {
                self.graph
                    .undeliverable(packet, DropReason::StaleEndpoint, receiver);
                continue;
            };
            let len = packet.len();
            let mut queued = queue(served, &mut self.graph, packet);
            if let Err((packet, _)) = queued {
                // The kernel may have made room meanwhile: ask once before the packet is given up.
                flush(served, &mut self.graph);
                queued = queue(served, &mut self.graph, packet);
            }
            match queued {
                Ok(()) => {
                    served.dirty = true;
                    if let Some(slot) = self.counters.slot(receiver.slot) {
                        slot.tx_packets.add(1);
                        slot.tx_bytes.add(len as u64);
                    }
                }
                Err((packet, reason)) => self.graph.undeliverable(packet, reason, receiver),
            }
        }
        for served in self.served.iter_mut().filter(|served| served.dirty) {
            flush(served, &mut self.graph);
            served.dirty = false;
        }
    }

    /// Once a second: posts fewer frames where the last second hardly used them, and takes completions of idle interfaces.
    fn level(&mut self, now_ns: u64) {
        if now_ns.saturating_sub(self.levelled_at) < 1_000_000_000 {
            return;
        }
        self.levelled_at = now_ns;
        let idle = idle_level(self.graph.frames().total(), self.served.len());
        for served in &mut self.served {
            if served.fewest > served.level * 7 / 8 {
                let level = (served.level / 2).max(idle).min(served.level);
                self.level_sum -= served.level - level;
                served.level = level;
            }
            served.fewest = usize::MAX;
            served.io.refill(self.graph.frames_mut(), served.level);
            flush(served, &mut self.graph);
        }
    }

    /// Sleeps until a socket has packets, a command comes or time is up.
    fn sleep(&mut self) -> io::Result<()> {
        let mut in_flight = false;
        for served in self
            .served
            .iter_mut()
            .filter(|served| served.io.transmitting() > 0)
        {
            flush(served, &mut self.graph);
            in_flight |= served.io.transmitting() > 0;
        }
        // Edge-triggered: one that is readable already ends the sleep at once, so that no packet is missed in between.
        for served in self.served.iter_mut().filter(|served| !served.armed) {
            served.armed = arm(self.poll.registry(), served.io.as_ref(), served.key);
        }
        self.awake = 0;
        self.counters.sleeps.add(1);
        let since = self.clock().mono_ns;
        let timeout = if in_flight {
            COMPLETION_SLEEP
        } else {
            LONGEST_SLEEP
        };
        let timeout = match self.graph.next_deadline_ns() {
            // Up to the next millisecond, which is what epoll counts in.
            Some(deadline) => timeout.min(Duration::from_nanos(deadline.saturating_sub(since))),
            None => timeout,
        };
        match self.poll.poll(&mut self.events, Some(timeout)) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
        if !self.events.is_empty() {
            self.active_at = self.clock().mono_ns;
        }
        // Where the next packet comes sooner than a wake-up pays, spinning takes less of everybody's CPU.
        let most = self.least_spin_ns.saturating_mul(MOST_SPIN);
        let slept = self.active_at.saturating_sub(since);
        self.spin_ns = if !self.events.is_empty() && slept < most {
            self.spin_ns.saturating_mul(2).min(most)
        } else {
            self.least_spin_ns
        };
        Ok(())
    }

    /// Carries out what was asked for; `false` for [`Command::Stop`]. A reply that nobody waits for any more is no error.
    fn obey(&mut self) -> bool {
        while let Some(command) = self.commands.pop() {
            match command {
                Command::Attach { config, io, done } => {
                    self.attach(config, io);
                    done.send(()).ok();
                }
                Command::Detach { key, done } => {
                    done.send(self.detach(key)).ok();
                }
                Command::Reclaim { id, done } => {
                    done.send(self.graph.frames_mut().reclaim(id)).ok();
                }
                Command::Inherit(inherited) => self.graph.inherit(inherited),
                Command::AdoptionEnds => self.graph.adoption_ends(),
                Command::TranslatedFlows { done } => {
                    done.send(self.graph.translated_flows()).ok();
                }
                Command::Audit { done } => {
                    done.send(self.audit()).ok();
                }
                Command::Stop => return false,
            }
        }
        true
    }

    fn attach(&mut self, config: InterfaceConfig, mut io: Box<dyn PacketIo>) {
        let key = config.key;
        let slot = key.slot.index();
        if self.position.len() <= slot {
            self.position.resize(slot + 1, None);
        }
        let armed = arm(self.poll.registry(), io.as_ref(), key);
        let total = self.graph.frames().total();
        let level = idle_level(total, self.served.len() + 1);
        let level = level
            .min((total / 2).saturating_sub(self.level_sum))
            .max(LEAST_POSTED);
        io.refill(self.graph.frames_mut(), level);
        self.level_sum += level;
        self.graph.attach(config);
        self.position[slot] = u16::try_from(self.served.len()).ok();
        self.served.push(Served {
            key,
            io,
            level,
            fewest: usize::MAX,
            dirty: false,
            armed,
        });
    }

    fn detach(&mut self, key: EndpointKey) -> Option<Box<dyn PacketIo>> {
        let at = self.served.iter().position(|served| served.key == key)?;
        let mut served = self.served.swap_remove(at);
        self.level_sum -= served.level;
        self.position[key.slot.index()] = None;
        if let Some(moved) = self.served.get(at) {
            self.position[moved.key.slot.index()] = u16::try_from(at).ok();
        }
        if served.armed {
            disarm(self.poll.registry(), &mut served);
        }
        served.io.abandon(self.graph.frames_mut());
        self.graph.detach(key);
        Some(served.io)
    }

    fn audit(&self) -> WorkerAudit {
        WorkerAudit {
            frames: self.graph.frames().audit(),
            held: self.graph.held_frames(),
            interfaces: self
                .served
                .iter()
                .map(|served| (served.key, served.io.statistics()))
                .collect(),
        }
    }

    /// The packet graph, for tests.
    #[must_use]
    pub fn graph(&self) -> &Graph {
        &self.graph
    }

    /// Slots that are served.
    pub fn slots(&self) -> impl Iterator<Item = Slot> {
        self.served.iter().map(|served| served.key.slot)
    }
}
