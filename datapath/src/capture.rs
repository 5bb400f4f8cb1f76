//! Packet capture: copies of packets with their verdict, for `sluice capture`. Costs one relaxed load per packet while off.

use std::sync::atomic::{AtomicU32, Ordering};

use crossbeam::queue::ArrayQueue;
use policy::{EndpointKey, Verdict};

/// Packets that wait for the agent to write them.
const QUEUE: usize = 4096;

/// A copy of a packet as it was received, or as the worker made it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CapturedPacket {
    /// Nanoseconds since the Unix epoch, taken once per batch.
    pub time_ns: u64,
    /// Interface that sent it.
    pub sender: EndpointKey,
    /// What became of it.
    pub verdict: Verdict,
    /// Bytes of the whole packet.
    pub len: u32,
    /// Its first bytes, at most the snap length.
    pub bytes: Vec<u8>,
}

/// The queue between a worker and the agent.
#[derive(Debug)]
pub struct Capture {
    snaplen: AtomicU32,
    queue: ArrayQueue<CapturedPacket>,
}

impl Default for Capture {
    fn default() -> Self {
        Self {
            snaplen: AtomicU32::new(0),
            queue: ArrayQueue::new(QUEUE),
        }
    }
}

impl Capture {
    /// Captures the first `snaplen` bytes of each packet from now on; 0 stops.
    pub fn set_snaplen(&self, snaplen: u32) {
        self.snaplen.store(snaplen, Ordering::Relaxed);
    }

    /// Bytes to keep of a packet; `None` while nobody captures.
    #[must_use]
    pub fn snaplen(&self) -> Option<usize> {
        match self.snaplen.load(Ordering::Relaxed) {
            0 => None,
            n => Some(n as usize),
        }
    }

    /// Queues a copy; `false` when the queue is full and the copy was lost.
    #[must_use]
    pub fn push(&self, packet: CapturedPacket) -> bool {
        self.queue.push(packet).is_ok()
    }

    /// The oldest copy.
    #[must_use]
    pub fn pop(&self) -> Option<CapturedPacket> {
        self.queue.pop()
    }
}
