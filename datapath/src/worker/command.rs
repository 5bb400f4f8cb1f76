//! What others ask of a worker, and what they share with it.

use std::io;
use std::sync::Arc;

use arc_swap::ArcSwap;
use crossbeam::channel::Sender;
use crossbeam::queue::ArrayQueue;
use mio::Waker;
use policy::{EndpointKey, Snapshot};

use crate::capture::Capture;
use crate::counters::Counters;
use crate::event::FlowEvent;
use crate::interface::InterfaceConfig;
use crate::translation::{Inherited, TranslatedFlow};
use crate::xsk::frame::Audit;
use crate::xsk::{IoId, IoStatistics, PacketIo};

/// Commands that may wait.
const COMMANDS: usize = 256;

/// Flow events that may wait for the agent.
const EVENTS: usize = 16_384;

/// Former snapshots that may wait to be freed.
const RETIRED: usize = 64;

/// State of the worker's frames and rings, on request.
#[derive(Debug, Clone)]
pub struct WorkerAudit {
    /// Frames by owner.
    pub frames: Audit,
    /// Frames that the worker holds on purpose (early fragments, first packets of unknown peers).
    pub held: usize,
    /// Ring counters per interface.
    pub interfaces: Vec<(EndpointKey, IoStatistics)>,
}

/// What others ask of a worker.
#[derive(Debug)]
pub enum Command {
    /// Begin to serve an interface.
    Attach {
        /// The interface.
        config: InterfaceConfig,
        /// Its rings.
        io: Box<dyn PacketIo>,
        /// Told when packets are served.
        done: Sender<()>,
    },
    /// Stop serving an interface; its flows are forgotten.
    Detach {
        /// The interface's slot and occupant.
        key: EndpointKey,
        /// Gets the rings, which must be dropped off the worker and then reclaimed; `None` when the interface is not served.
        done: Sender<Option<Box<dyn PacketIo>>>,
    },
    /// Take back the frames of rings that are closed.
    Reclaim {
        /// The rings.
        id: IoId,
        /// Told how many frames came back.
        done: Sender<usize>,
    },
    /// Take over the translations of the former process; to be sent before any endpoint is attached.
    Inherit(Inherited),
    /// Every interface of the former process is attached that will be: what was inherited waits for none any more.
    AdoptionEnds,
    /// Tell which TCP connections are translated, for the process that comes next.
    TranslatedFlows {
        /// Gets them.
        done: Sender<Vec<TranslatedFlow>>,
    },
    /// Count frames.
    Audit {
        /// Gets the count.
        done: Sender<WorkerAudit>,
    },
    /// End the loop.
    Stop,
}

/// Why a command did not reach the worker.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// Too many commands wait.
    #[error("the worker's command queue is full")]
    Full,
    /// The worker could not be woken.
    #[error("cannot wake the worker: {0}")]
    Wake(#[from] io::Error),
}

/// What the rest of the process shares with a worker.
#[derive(Debug, Clone)]
pub struct WorkerHandle {
    pub(super) commands: Arc<ArrayQueue<Command>>,
    waker: Arc<Waker>,
    /// The snapshot; publish by [`ArcSwap::store`].
    pub snapshot: Arc<ArcSwap<Snapshot>>,
    /// Counters.
    pub counters: Arc<Counters>,
    /// Flow events, oldest first; the worker drops and counts those that find it full.
    pub events: Arc<ArrayQueue<FlowEvent>>,
    /// Packet capture.
    pub capture: Arc<Capture>,
    /// Snapshots that the worker no longer uses, to be freed by others.
    pub retired: Arc<ArrayQueue<Arc<Snapshot>>>,
}

impl WorkerHandle {
    pub(super) fn new(waker: Arc<Waker>) -> Self {
        Self {
            commands: Arc::new(ArrayQueue::new(COMMANDS)),
            waker,
            snapshot: Arc::new(ArcSwap::from_pointee(Snapshot::default())),
            counters: Arc::new(Counters::default()),
            events: Arc::new(ArrayQueue::new(EVENTS)),
            retired: Arc::new(ArrayQueue::new(RETIRED)),
            capture: Arc::new(Capture::default()),
        }
    }

    /// Hands a command to the worker and wakes it.
    ///
    /// # Errors
    /// [`CommandError`]; the command was not taken.
    pub fn send(&self, command: Command) -> Result<(), CommandError> {
        self.commands
            .push(command)
            .map_err(|_refused| CommandError::Full)?;
        Ok(self.waker.wake()?)
    }

    /// Publishes a snapshot and wakes the worker, so that it is in force at once.
    ///
    /// # Errors
    /// The worker could not be woken; it still sees the snapshot at its next loop.
    pub fn publish(&self, snapshot: Arc<Snapshot>) -> Result<(), CommandError> {
        self.snapshot.store(snapshot);
        Ok(self.waker.wake()?)
    }
}
