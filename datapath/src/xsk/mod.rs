//! AF_XDP: frames, rings and sockets. The only `unsafe` of the crate lives in this module.
//!
//! Everything above speaks of [`Packet`]s, chains of 1 to [`MAX_CHAIN`] frames, and of one trait, [`PacketIo`]: the rings of one
//! interface. [`socket::XskIo`] implements it on `xsk-rs`, [`memory::MemoryIo`] in plain memory for tests and benches.
//!
//! Invariants:
//! - A frame has exactly one owner at a time ([`frame::Owner`]); `free + posted + transmitting + in hand == total` is audited by
//!   [`frame::Frames::audit`].
//! - Descriptors that come from the kernel are range-checked in release builds too; a bad one is counted and never followed.
#![expect(
    unsafe_code,
    reason = "AF_XDP rings are memory shared with the kernel; every block states who keeps its invariant"
)]

pub mod frame;
pub mod handoff;
pub mod memory;
pub mod socket;

use std::fmt;
use std::io;
use std::os::fd::RawFd;

pub use frame::{Frames, IoId, Packet};

/// Bytes of one frame (UMEM chunk), `XDP_UMEM_REG.chunk_size`.
pub const FRAME_BYTES: usize = 4096;

/// Bytes before the packet in a frame (`XDP_PACKET_HEADROOM`).
pub const HEADROOM_BYTES: usize = 256;

/// Packet bytes that fit in one frame.
pub const FRAME_CAPACITY: usize = FRAME_BYTES - HEADROOM_BYTES;

/// Most frames of one packet: veth's transmit takes `MAX_SKB_FRAGS` (17) fragments and the linear part.
pub const MAX_CHAIN: usize = 18;

/// Counters of one interface's rings, since the rings were made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct IoStatistics {
    /// Packets taken from the rx ring.
    pub rx_packets: u64,
    /// Packets handed to the kernel.
    pub tx_packets: u64,
    /// Packets that the device refused (`EBUSY`: veth's queue was full) after they were handed over.
    pub tx_dropped: u64,
    /// Descriptors out of range, unexpected completions, chains that are too long.
    pub invalid_descriptors: u64,
    /// Packets that the kernel dropped before the rx ring, for want of posted frames or ring space (`XDP_STATISTICS`).
    pub rx_dropped: u64,
}

/// The rings of one interface.
///
/// An implementation owns the frames it has posted for reception and those it is transmitting; [`Frames`] knows which.
pub trait PacketIo: fmt::Debug + Send {
    /// Identifies the rings as an owner of frames.
    fn id(&self) -> IoId;

    /// Moves up to `limit` received packets to `out`; returns how many.
    fn receive(&mut self, frames: &mut Frames, out: &mut Vec<Packet>, limit: usize) -> usize;

    /// Posts free frames for reception until `level` are posted or the pool keeps its reserve; returns how many are posted.
    fn refill(&mut self, frames: &mut Frames, level: usize) -> usize;

    /// Queues a packet for transmission.
    ///
    /// # Errors
    /// Hands the packet back when the ring has no room for the whole chain.
    fn transmit(&mut self, frames: &mut Frames, packet: Packet) -> Result<(), Packet>;

    /// Hands queued packets to the kernel and takes back the frames of sent ones.
    ///
    /// # Errors
    /// The device is gone (`ENXIO`) or the socket is broken; packets that stay queued are reclaimed with the socket.
    fn flush(&mut self, frames: &mut Frames) -> io::Result<()>;

    /// Gives back what is neither posted nor in transmission (a chain that was not received whole); the rings are used no more.
    fn abandon(&mut self, frames: &mut Frames);

    /// Frames posted for reception.
    fn posted(&self) -> usize;

    /// Frames queued for, or in, transmission.
    fn transmitting(&self) -> usize;

    /// Descriptor to sleep on; `None` when there is none.
    fn fd(&self) -> Option<RawFd>;

    /// Counters.
    fn statistics(&self) -> IoStatistics;
}
