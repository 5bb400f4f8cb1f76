//! Rings in plain memory: the second implementation of [`PacketIo`], for whole-graph tests and benches without a kernel.
//!
//! A [`Wire`] is the far side: it injects packets and collects what the worker sent. Its buffers are reused, so that a steady
//! state allocates nothing and the zero-allocation test sees only the worker.

use std::collections::VecDeque;
use std::io;
use std::os::fd::RawFd;
use std::sync::{Arc, Mutex, PoisonError};

use super::frame::{Frames, IoId, Packet, Region};
use super::{FRAME_BYTES, FRAME_CAPACITY, IoStatistics, PacketIo};

#[derive(Debug)]
struct HeapRegion {
    memory: *mut [u8],
}

// SAFETY: the memory is plain bytes that only this region owns.
unsafe impl Send for HeapRegion {}

impl Region for HeapRegion {
    fn base(&self) -> *mut u8 {
        self.memory.cast()
    }
}

impl Drop for HeapRegion {
    fn drop(&mut self) {
        // SAFETY: `memory` came from `Box::into_raw` in `heap_frames` and is freed once, here.
        drop(unsafe { Box::from_raw(self.memory) });
    }
}

/// Frames in plain memory.
#[must_use]
pub fn heap_frames(total: u32) -> Frames {
    let memory = Box::into_raw(vec![0; total as usize * FRAME_BYTES].into_boxed_slice());
    Frames::new(Box::new(HeapRegion { memory }), total)
}

/// Packets in order, in buffers that are reused.
#[derive(Debug, Default)]
struct Queue {
    packets: VecDeque<Vec<u8>>,
    spare: Vec<Vec<u8>>,
}

impl Queue {
    fn push<'a>(&mut self, segments: impl Iterator<Item = &'a [u8]>) {
        let mut buffer = self.spare.pop().unwrap_or_default();
        buffer.clear();
        for segment in segments {
            buffer.extend_from_slice(segment);
        }
        self.packets.push_back(buffer);
    }

    fn recycle(&mut self, buffer: Vec<u8>) {
        self.spare.push(buffer);
    }
}

#[derive(Debug, Default)]
struct Shared {
    to_worker: Queue,
    from_worker: Queue,
    /// Packets that found no posted frames.
    rx_dropped: u64,
    /// When set, the device accepts no packets.
    blocked: bool,
}

/// The far side of a [`MemoryIo`].
#[derive(Debug, Clone, Default)]
pub struct Wire {
    shared: Arc<Mutex<Shared>>,
}

impl Wire {
    fn lock(&self) -> std::sync::MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends a packet to the worker.
    pub fn send(&self, packet: &[u8]) {
        self.lock().to_worker.push(std::iter::once(packet));
    }

    /// Takes the next packet that the worker sent.
    #[must_use]
    pub fn receive(&self) -> Option<Vec<u8>> {
        self.lock().from_worker.packets.pop_front()
    }

    /// Shows each packet that the worker sent to `each`, in order, and forgets it; allocates nothing. Returns how many.
    pub fn drain(&self, mut each: impl FnMut(&[u8])) -> usize {
        let mut shared = self.lock();
        let mut count = 0;
        while let Some(packet) = shared.from_worker.packets.pop_front() {
            each(&packet);
            shared.from_worker.recycle(packet);
            count += 1;
        }
        count
    }

    /// Whether the device refuses packets from now on.
    pub fn block(&self, blocked: bool) {
        self.lock().blocked = blocked;
    }

    /// Packets that found no posted frames.
    #[must_use]
    pub fn rx_dropped(&self) -> u64 {
        self.lock().rx_dropped
    }
}

/// Rings in memory.
#[derive(Debug)]
pub struct MemoryIo {
    id: IoId,
    wire: Wire,
    posted: VecDeque<u32>,
    queued: VecDeque<(u32, usize, bool)>,
    ring: usize,
    statistics: IoStatistics,
}

impl MemoryIo {
    /// Rings of `ring` descriptors, and their far side.
    #[must_use]
    pub fn new(id: IoId, ring: usize) -> (Self, Wire) {
        let wire = Wire::default();
        let io = Self {
            id,
            wire: wire.clone(),
            posted: VecDeque::with_capacity(ring),
            queued: VecDeque::with_capacity(ring),
            ring,
            statistics: IoStatistics::default(),
        };
        (io, wire)
    }
}

impl PacketIo for MemoryIo {
    fn id(&self) -> IoId {
        self.id
    }

    fn receive(&mut self, frames: &mut Frames, out: &mut Vec<Packet>, limit: usize) -> usize {
        let mut shared = self.wire.lock();
        let mut count = 0;
        while count < limit {
            let Some(bytes) = shared.to_worker.packets.pop_front() else {
                break;
            };
            if bytes.is_empty() || bytes.len().div_ceil(FRAME_CAPACITY) > self.posted.len() {
                shared.rx_dropped += 1;
                shared.to_worker.recycle(bytes);
                continue;
            }
            let mut packet: Option<Packet> = None;
            for part in bytes.chunks(FRAME_CAPACITY) {
                let Some(index) = self.posted.pop_front() else {
                    break;
                };
                frames.ring_bytes(index, part.len()).copy_from_slice(part);
                let addr = u64::from(index) * FRAME_BYTES as u64 + super::HEADROOM_BYTES as u64;
                let Some(index) = frames.received(self.id, addr, part.len()) else {
                    self.statistics.invalid_descriptors += 1;
                    continue;
                };
                match &mut packet {
                    None => packet = Some(frames.packet(index)),
                    Some(packet) => {
                        if frames.append(packet, index).is_err() {
                            self.statistics.invalid_descriptors += 1;
                        }
                    }
                }
            }
            shared.to_worker.recycle(bytes);
            if let Some(packet) = packet {
                out.push(packet);
                count += 1;
            }
        }
        self.statistics.rx_packets += count as u64;
        count
    }

    fn refill(&mut self, frames: &mut Frames, level: usize) -> usize {
        while self.posted.len() < level.min(self.ring) {
            let Some(index) = frames.post(self.id) else { break };
            self.posted.push_back(index);
        }
        self.posted.len()
    }

    fn transmit(&mut self, frames: &mut Frames, packet: Packet) -> Result<(), Packet> {
        if self.queued.len() + packet.frames() > self.ring {
            return Err(packet);
        }
        let queued = &mut self.queued;
        frames.transmit(self.id, packet, |index, len, more| {
            queued.push_back((index, len, more))
        });
        Ok(())
    }

    fn flush(&mut self, frames: &mut Frames) -> io::Result<()> {
        let mut shared = self.wire.lock();
        if shared.blocked {
            return Ok(());
        }
        let mut buffer = None;
        while let Some((index, len, more)) = self.queued.pop_front() {
            let target = buffer.get_or_insert_with(|| {
                let mut spare = shared.from_worker.spare.pop().unwrap_or_default();
                spare.clear();
                spare
            });
            target.extend_from_slice(frames.ring_bytes(index, len));
            frames.completed(self.id, u64::from(index) * FRAME_BYTES as u64);
            if !more && let Some(packet) = buffer.take() {
                shared.from_worker.packets.push_back(packet);
                self.statistics.tx_packets += 1;
            }
        }
        Ok(())
    }

    fn abandon(&mut self, _frames: &mut Frames) {}

    fn posted(&self) -> usize {
        self.posted.len()
    }

    fn transmitting(&self) -> usize {
        self.queued.len()
    }

    fn fd(&self) -> Option<RawFd> {
        None
    }

    fn statistics(&self) -> IoStatistics {
        IoStatistics {
            rx_dropped: self.wire.rx_dropped(),
            ..self.statistics
        }
    }
}
