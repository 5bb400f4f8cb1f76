//! The dataplane as the agent drives it: programs, sockets and the worker thread, in the order that leaves no window.
//!
//! Attaching: guard, XDP with an empty slot, routes (the caller's), socket, worker, slot. Detaching goes the other way. All calls
//! block for milliseconds (sockets are opened and closed here, never on the worker).

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use std::{io, thread};

use crossbeam::channel;
use datapath::graph::GraphConfig;
use datapath::interface::{EndpointConfig, InterfaceConfig, InterfaceKind, MacAddr};
use datapath::loader::{LoadError, Loader, XdpMode};
use datapath::translation::{Inherited, TranslatedFlow};
use datapath::worker::{Command, CommandError, Worker, WorkerAudit, WorkerConfig, WorkerHandle};
use datapath::xsk::socket::{SocketError, SocketFactory, XskIo};
use datapath::xsk::{IoId, PacketIo};
use policy::{EndpointKey, Slot, SlotGeneration};

use crate::affinity;
use crate::endpoint_registry::Endpoint;
use crate::node::{KEEPER_PAIR, Pair};
use crate::watchdog;

/// How long the worker may take to obey.
const ANSWER: Duration = Duration::from_secs(5);

/// How long an agent that ends waits for what the worker knows; the pods wait for the next agent.
const LAST_ANSWER: Duration = Duration::from_millis(500);

/// How long the kernel may take to free a queue whose socket was closed (about 20 ms).
const RELEASE: Duration = Duration::from_secs(2);

/// Why the dataplane did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum DataplaneError {
    /// Programs, links or maps.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// UMEM or sockets.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// The worker cannot be reached.
    #[error(transparent)]
    Command(#[from] CommandError),
    /// The worker did not answer.
    #[error("the worker did not answer in time")]
    NoAnswer,
    /// The worker thread could not be made.
    #[error("cannot start the worker: {0}")]
    Thread(#[from] io::Error),
    /// All numbers for rings are in use.
    #[error("too many interfaces")]
    Exhausted,
}

/// A network interface of the node, as netlink shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// Interface index.
    pub index: u32,
    /// Name.
    pub name: String,
    /// MAC address.
    pub mac: MacAddr,
    /// MTU, bytes.
    pub mtu: u16,
}

/// An interface that the worker serves.
#[derive(Debug, Clone)]
pub struct Attached {
    /// The device.
    pub device: Device,
    /// How XDP runs.
    pub mode: XdpMode,
}

/// What the worker serves in a slot, or was told to.
#[derive(Debug)]
struct Served {
    key: EndpointKey,
    io: IoId,
    attached: Attached,
    /// Whether all of it is done: packets flow.
    is_open: bool,
}

/// Size of the dataplane.
#[derive(Debug, Clone)]
pub struct DataplaneConfig {
    /// Frames of the UMEM.
    pub frames: u32,
    /// Whether it is in huge pages.
    pub huge_pages: bool,
    /// The worker's CPU; by default any.
    pub cpu: Option<usize>,
    /// How long an idle worker spins before it sleeps.
    pub spin: Duration,
    /// Limits of the worker's tables.
    pub graph: GraphConfig,
}

/// Programs, sockets and the worker of this node.
#[derive(Debug)]
pub struct Dataplane {
    loader: Loader,
    factory: SocketFactory,
    worker: WorkerHandle,
    thread: Option<JoinHandle<()>>,
    served: BTreeMap<Slot, Served>,
    next_io: u32,
    /// Owns the UMEM's descriptor; carries no packets.
    _keeper: XskIo,
}

impl Dataplane {
    /// Opens the pins, registers the UMEM on the keeper pair, which must exist, and starts the worker.
    ///
    /// # Errors
    /// [`DataplaneError`]; nothing is served then.
    pub fn start(bpffs: &Path, config: &DataplaneConfig) -> Result<Self, DataplaneError> {
        let loader = Loader::open(bpffs)?;
        let (factory, frames, keeper) =
            retry(|| SocketFactory::new(config.frames, config.huge_pages, KEEPER_PAIR.inner))?;
        let settings = WorkerConfig {
            graph: config.graph.clone(),
            spin: config.spin,
        };
        let (mut worker, handle) = Worker::new(&settings, frames)?;
        let cpu = config.cpu;
        let thread = thread::Builder::new()
            .name("sluice-worker0".into())
            .spawn(move || {
                if let Some(cpu) = cpu
                    && let Err(error) = affinity::pin(cpu)
                {
                    tracing::error!(%error, cpu, "the worker runs on any CPU");
                }
                if let Err(error) = worker.run() {
                    tracing::error!(%error, "the worker cannot go on: ending");
                    std::process::abort();
                }
            })?;
        watchdog::watch_over(Arc::clone(&handle.counters), watchdog::STALL)?;
        Ok(Self {
            loader,
            factory,
            worker: handle,
            thread: Some(thread),
            served: BTreeMap::new(),
            next_io: 1,
            _keeper: keeper,
        })
    }

    /// The worker.
    #[must_use]
    pub fn worker(&self) -> &WorkerHandle {
        &self.worker
    }

    /// Serves a host pair in its slot; `inner` is its inner end.
    ///
    /// # Errors
    /// [`DataplaneError`]; the pair drops everything then.
    pub fn attach_pair(&mut self, pair: &Pair, slot: Slot, inner: &Device) -> Result<(), DataplaneError> {
        let kind = if slot == Slot::HOST {
            InterfaceKind::Host
        } else {
            InterfaceKind::Forward
        };
        let key = EndpointKey {
            slot,
            generation: SlotGeneration(0),
        };
        let mode = self.loader.attach(inner.index, &inner.name, slot.0.into(), 1)?;
        let config = InterfaceConfig {
            key,
            kind,
            mtu: inner.mtu,
            local_mac: pair.inner_mac,
            peer_mac: pair.outer_mac,
        };
        self.serve(config, inner, mode)
    }

    /// Closes an endpoint's interface: guard first, then XDP with an empty slot. From here on the pod is cut off until it is served.
    ///
    /// # Errors
    /// [`DataplaneError::Load`].
    pub fn close(&mut self, endpoint: &Endpoint, device: &Device) -> Result<XdpMode, DataplaneError> {
        self.loader.guard(device.index, &device.name)?;
        Ok(self
            .loader
            .attach(device.index, &device.name, endpoint.key.slot.0.into(), 1)?)
    }

    /// Serves an endpoint that was closed and has its routes; `adopted` if its pod was there before the agent.
    ///
    /// # Errors
    /// [`DataplaneError`]; the pod stays cut off.
    pub fn open(
        &mut self,
        endpoint: &Endpoint,
        device: &Device,
        mode: XdpMode,
        adopted: bool,
    ) -> Result<(), DataplaneError> {
        let spec = &endpoint.spec;
        let kind = InterfaceKind::Endpoint(EndpointConfig {
            pod_mac: spec.mac,
            gateway_mac: device.mac,
            ipv4: spec.ipv4,
            ipv6: spec.ipv6,
            adopted,
        });
        let config = InterfaceConfig {
            key: endpoint.key,
            kind,
            mtu: device.mtu,
            local_mac: device.mac,
            peer_mac: spec.mac,
        };
        self.serve(config, device, mode)
    }

    fn serve(
        &mut self,
        config: InterfaceConfig,
        device: &Device,
        mode: XdpMode,
    ) -> Result<(), DataplaneError> {
        let key = config.key;
        // What an earlier attempt could not take back.
        if let Some(left) = self.served.get(&key.slot) {
            self.stop(left.key)?;
        }
        let id = IoId(self.next_io);
        self.next_io = self.next_io.checked_add(1).ok_or(DataplaneError::Exhausted)?;
        let io = retry(|| self.factory.open(id, &device.name, 0))?;
        let served = Served {
            key,
            io: id,
            attached: Attached {
                device: device.clone(),
                mode,
            },
            is_open: false,
        };
        // Before the worker is told: it may do what nobody hears of in time.
        self.served.insert(key.slot, served);
        if let Err(error) = self.open_slot(config, io) {
            if let Err(left) = self.stop(key) {
                tracing::error!(error = %left, slot = key.slot.0, "cannot take back what the worker was told");
            }
            return Err(error);
        }
        if let Some(served) = self.served.get_mut(&key.slot) {
            served.is_open = true;
        }
        Ok(())
    }

    /// Gives the worker the socket, then the slot of the map to the socket.
    fn open_slot(&mut self, config: InterfaceConfig, io: XskIo) -> Result<(), DataplaneError> {
        let (slot, fd) = (config.key.slot, io.fd());
        let (done, answer) = channel::bounded(1);
        self.worker.send(Command::Attach {
            config,
            io: Box::new(io),
            done,
        })?;
        answer
            .recv_timeout(ANSWER)
            .map_err(|_late| DataplaneError::NoAnswer)?;
        if let Some(fd) = fd {
            self.loader.set_socket(slot.0.into(), &fd)?;
        }
        Ok(())
    }

    /// Stops serving an interface and closes its socket; its programs stay, so it drops everything.
    ///
    /// # Errors
    /// [`DataplaneError`] when the worker does not answer. An interface that is not served is no error.
    pub fn stop(&mut self, key: EndpointKey) -> Result<(), DataplaneError> {
        let Some(served) = self.served.get(&key.slot).filter(|served| served.key == key) else {
            return Ok(());
        };
        let id = served.io;
        if let Err(error) = self.loader.clear_socket(key.slot.0.into()) {
            // The slot empties itself when the socket closes below.
            tracing::debug!(%error, slot = key.slot.0, "slot was empty");
        }
        let (done, answer) = channel::bounded(1);
        self.worker.send(Command::Detach { key, done })?;
        let io = answer
            .recv_timeout(ANSWER)
            .map_err(|_late| DataplaneError::NoAnswer)?;
        self.served.remove(&key.slot);
        drop(io);
        let (done, answer) = channel::bounded(1);
        self.worker.send(Command::Reclaim { id, done })?;
        let frames = answer
            .recv_timeout(ANSWER)
            .map_err(|_late| DataplaneError::NoAnswer)?;
        tracing::debug!(slot = key.slot.0, frames, "frames reclaimed");
        Ok(())
    }

    /// Removes the programs of an interface, or what is left of them when the device is gone.
    ///
    /// # Errors
    /// [`DataplaneError::Load`].
    pub fn release(&mut self, interface: &str) -> Result<(), DataplaneError> {
        Ok(self.loader.detach(interface)?)
    }

    /// Removes what is left of the programs of interfaces that are gone; returns their names.
    ///
    /// # Errors
    /// [`DataplaneError::Load`].
    pub fn release_vanished(&mut self) -> Result<BTreeSet<String>, DataplaneError> {
        Ok(self.loader.detach_vanished()?)
    }

    /// The names that interfaces with programs have now, by those that they had when they were closed.
    ///
    /// # Errors
    /// [`DataplaneError::Load`].
    pub fn renamed(&self) -> Result<BTreeMap<String, String>, DataplaneError> {
        Ok(self.loader.renamed()?)
    }

    /// Takes the names that interfaces have now for theirs.
    ///
    /// # Errors
    /// [`DataplaneError::Load`].
    pub fn follow_renames(&mut self) -> Result<(), DataplaneError> {
        Ok(self.loader.follow_renames()?)
    }

    /// The interface that a slot serves.
    #[must_use]
    pub fn attached(&self, key: EndpointKey) -> Option<&Attached> {
        self.served
            .get(&key.slot)
            .filter(|served| served.key == key && served.is_open)
            .map(|served| &served.attached)
    }

    /// Frames and rings, counted by the worker.
    ///
    /// # Errors
    /// [`DataplaneError`] when the worker does not answer.
    pub fn audit(&self) -> Result<WorkerAudit, DataplaneError> {
        let (done, answer) = channel::bounded(1);
        self.worker.send(Command::Audit { done })?;
        answer
            .recv_timeout(ANSWER)
            .map_err(|_late| DataplaneError::NoAnswer)
    }

    /// Gives the worker the translated connections of the former agent; before any endpoint is served.
    ///
    /// # Errors
    /// [`DataplaneError::Command`] when the worker cannot be reached.
    pub fn inherit(&self, flows: &[TranslatedFlow]) -> Result<(), DataplaneError> {
        Ok(self.worker.send(Command::Inherit(Inherited::new(flows)))?)
    }

    /// Tells the worker that every endpoint of the former agent is served that can be.
    ///
    /// # Errors
    /// [`DataplaneError::Command`] when the worker cannot be reached.
    pub fn adoption_ends(&self) -> Result<(), DataplaneError> {
        Ok(self.worker.send(Command::AdoptionEnds)?)
    }

    /// The translated connections, for the next agent.
    ///
    /// # Errors
    /// [`DataplaneError`] when the worker does not answer at once.
    pub fn translated_flows(&self) -> Result<Vec<TranslatedFlow>, DataplaneError> {
        let (done, answer) = channel::bounded(1);
        self.worker.send(Command::TranslatedFlows { done })?;
        answer
            .recv_timeout(LAST_ANSWER)
            .map_err(|_late| DataplaneError::NoAnswer)
    }

    /// Packets between endpoints and the kernel past the worker, which the guards dropped.
    #[must_use]
    pub fn guarded_packets(&self) -> u64 {
        self.loader.guard_drops().map_or(0, |drops| drops.packets)
    }
}

impl Drop for Dataplane {
    fn drop(&mut self) {
        if self.worker.send(Command::Stop).is_ok()
            && let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the worker panicked");
        }
    }
}

/// Opens a socket, again while the kernel still tears down the former one.
fn retry<T>(mut open: impl FnMut() -> Result<T, SocketError>) -> Result<T, SocketError> {
    let deadline = Instant::now() + RELEASE;
    loop {
        match open() {
            Err(SocketError::Bind {
                errno: Some(errno), ..
            }) if errno == nix::libc::EBUSY && Instant::now() < deadline => {
                thread::sleep(Duration::from_millis(20));
            }
            outcome => return outcome,
        }
    }
}
