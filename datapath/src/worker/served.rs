//! An interface that a worker serves: its rings, its level of posted frames, its registration for sleeping.

use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use policy::{DropReason, EndpointKey};

use crate::graph::Graph;
use crate::xsk::{Packet, PacketIo};

/// Most frames that one interface may hold in transmission; beyond, packets for it are dropped and counted.
const MOST_TRANSMITTING: usize = 1024;

/// An interface with its rings.
#[derive(Debug)]
pub(super) struct Served {
    pub(super) key: EndpointKey,
    pub(super) io: Box<dyn PacketIo>,
    /// Frames to keep posted.
    pub(super) level: usize,
    /// Fewest posted frames seen before a refill, since the level was last looked at.
    pub(super) fewest: usize,
    /// Packets wait in the tx ring.
    pub(super) dirty: bool,
    /// Its socket is registered for sleeping.
    pub(super) armed: bool,
}

/// Registers the socket of an interface, so that its packets end a sleep; whether it is registered now.
pub(super) fn arm(registry: &Registry, io: &dyn PacketIo, key: EndpointKey) -> bool {
    let Some(fd) = io.fd() else { return false };
    match registry.register(&mut SourceFd(&fd), Token(key.slot.index()), Interest::READABLE) {
        Ok(()) => true,
        // Taking it back has failed before.
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => true,
        Err(error) => {
            // The interface is still served at every wake-up for another reason, at the latest after LONGEST_SLEEP.
            tracing::warn!(%error, slot = key.slot.0, "cannot sleep on the interface's socket");
            false
        }
    }
}

/// Takes the registration back: as long as it stands, each packet of the pod runs `ep_poll_callback`, on the pod's CPU.
pub(super) fn disarm(registry: &Registry, served: &mut Served) {
    served.armed = false;
    if let Some(fd) = served.io.fd()
        && let Err(error) = registry.deregister(&mut SourceFd(&fd))
    {
        tracing::debug!(%error, slot = served.key.slot.0, "socket was not polled");
    }
}

/// Hands queued packets to the kernel.
pub(super) fn flush(served: &mut Served, graph: &mut Graph) {
    if let Err(error) = served.io.flush(graph.frames_mut()) {
        // The device is going; its frames come back with `Reclaim`.
        tracing::debug!(%error, slot = served.key.slot.0, "transmit");
    }
}

/// Queues a packet for an interface; hands it back where the interface has its share of frames or its ring is full.
pub(super) fn queue(
    served: &mut Served,
    graph: &mut Graph,
    packet: Packet,
) -> Result<(), (Packet, DropReason)> {
    if served.io.transmitting() + packet.frames() > MOST_TRANSMITTING {
        return Err((packet, DropReason::FrameQuota));
    }
    served
        .io
        .transmit(graph.frames_mut(), packet)
        .map_err(|packet| (packet, DropReason::TxFull))
}
