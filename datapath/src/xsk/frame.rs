//! Frames, their owners, and packets as chains of frames.

use std::fmt;

use super::{FRAME_BYTES, FRAME_CAPACITY, HEADROOM_BYTES, MAX_CHAIN};

/// Identifies one set of rings as an owner of frames; never reused while it owns any.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct IoId(pub u32);

/// Who holds a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    /// The pool.
    Free,
    /// A [`Packet`] in the worker's hands.
    Packet,
    /// Posted for reception.
    Posted(IoId),
    /// Queued for, or in, transmission.
    Transmitting(IoId),
}

#[derive(Debug, Clone, Copy)]
struct Meta {
    owner: Owner,
    /// Packet bytes in this frame.
    len: u16,
    /// Next frame of the chain, or [`END`].
    next: u32,
}

const END: u32 = u32::MAX;

/// A packet: a chain of frames. Move-only: whoever holds it must hand it on or give it to [`Frames::release`].
#[must_use]
pub struct Packet {
    first: u32,
    last: u32,
    frames: u8,
    /// Bytes of all frames.
    len: u32,
}

impl Packet {
    /// Bytes of the whole packet, link-layer header included.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "a packet is never empty")]
    pub fn len(&self) -> usize {
        self.len as usize
    }

    /// Frames of the chain.
    #[must_use]
    pub fn frames(&self) -> usize {
        usize::from(self.frames)
    }
}

impl fmt::Debug for Packet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Packet(frame {}, {} frames, {} bytes)",
            self.first, self.frames, self.len
        )
    }
}

/// Where frames live: a UMEM or plain memory.
pub(super) trait Region: fmt::Debug + Send {
    /// First byte of frame 0.
    fn base(&self) -> *mut u8;
}

/// Result of counting all frames by owner.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Audit {
    /// In the pool.
    pub free: usize,
    /// In packets that the worker holds.
    pub packets: usize,
    /// Posted for reception.
    pub posted: usize,
    /// Queued for, or in, transmission.
    pub transmitting: usize,
    /// All frames of the UMEM.
    pub total: usize,
}

impl Audit {
    /// Whether every frame has an owner and the worker holds exactly `in_hand` frames.
    #[must_use]
    pub fn is_balanced(&self, in_hand: usize) -> bool {
        self.free + self.packets + self.posted + self.transmitting == self.total && self.packets == in_hand
    }
}

/// The frames of one UMEM: memory, owners and the pool of free ones. Belongs to one worker.
#[derive(Debug)]
pub struct Frames {
    base: *mut u8,
    /// Keeps the memory behind `base` mapped.
    _region: Box<dyn Region>,
    meta: Vec<Meta>,
    free: Vec<u32>,
    /// Free frames that posting for reception leaves to transmission of the worker's own packets.
    reserve: usize,
}

// SAFETY: `base` points into memory that `_region` (itself Send) owns; no other thread uses it through another `Frames`.
unsafe impl Send for Frames {}

impl Frames {
    pub(super) fn new(region: Box<dyn Region>, total: u32) -> Self {
        let meta = vec![
            Meta {
                owner: Owner::Free,
                len: 0,
                next: END
            };
            total as usize
        ];
        let reserve = (total as usize / 32).clamp(1, 256);
        Self {
            base: region.base(),
            _region: region,
            meta,
            free: (0..total).rev().collect(),
            reserve,
        }
    }

    /// Frames in the pool.
    #[must_use]
    pub fn available(&self) -> usize {
        self.free.len()
    }

    /// All frames.
    #[must_use]
    pub fn total(&self) -> usize {
        self.meta.len()
    }

    /// Counts every frame by owner, from the owner tags; `O(total)`, for tests and `sluice status`.
    #[must_use]
    pub fn audit(&self) -> Audit {
        let mut audit = Audit {
            total: self.meta.len(),
            ..Audit::default()
        };
        for meta in &self.meta {
            match meta.owner {
                Owner::Free => audit.free += 1,
                Owner::Packet => audit.packets += 1,
                Owner::Posted(_) => audit.posted += 1,
                Owner::Transmitting(_) => audit.transmitting += 1,
            }
        }
        if audit.free != self.free.len() {
            // A frame that is tagged free but not in the pool is lost: make the sum show it.
            audit.free = self.free.len();
        }
        audit
    }

    /// A packet of one frame and `len` bytes with undefined contents; `None` when the pool is empty or `len` does not fit.
    pub fn allocate(&mut self, len: usize) -> Option<Packet> {
        if len > FRAME_CAPACITY {
            return None;
        }
        let index = self.free.pop()?;
        let len = u16::try_from(len).ok()?;
        self.meta[index as usize] = Meta {
            owner: Owner::Packet,
            len,
            next: END,
        };
        Some(Packet {
            first: index,
            last: index,
            frames: 1,
            len: u32::from(len),
        })
    }

    /// Gives a packet's frames back to the pool.
    pub fn release(&mut self, packet: Packet) {
        let mut index = packet.first;
        while index != END {
            let meta = &mut self.meta[index as usize];
            let next = meta.next;
            *meta = Meta {
                owner: Owner::Free,
                len: 0,
                next: END,
            };
            self.free.push(index);
            index = next;
        }
    }

    /// Gives every frame that the rings `id` own back to the pool, after the socket was closed; returns how many.
    pub fn reclaim(&mut self, id: IoId) -> usize {
        let mut count = 0;
        for (index, meta) in self.meta.iter_mut().enumerate() {
            if meta.owner == Owner::Posted(id) || meta.owner == Owner::Transmitting(id) {
                *meta = Meta {
                    owner: Owner::Free,
                    len: 0,
                    next: END,
                };
                // `Frames::new` counts in u32.
                #[expect(clippy::cast_possible_truncation, reason = "the number of frames is a u32")]
                self.free.push(index as u32);
                count += 1;
            }
        }
        count
    }

    fn start(&self, index: u32) -> *mut u8 {
        // SAFETY: indices come from `meta`, so `index < total` and the offset stays inside the region of `total * FRAME_BYTES`.
        unsafe { self.base.add(index as usize * FRAME_BYTES + HEADROOM_BYTES) }
    }

    /// The first frame's bytes: all headers are in there.
    #[must_use]
    pub fn linear(&self, packet: &Packet) -> &[u8] {
        self.bytes(packet.first)
    }

    fn bytes(&self, index: u32) -> &[u8] {
        let len = usize::from(self.meta[index as usize].len);
        // SAFETY: the frame is owned by a live `Packet` (neither kernel nor rings use it), `len <= FRAME_CAPACITY` by
        // construction, and `&self` excludes writers.
        unsafe { std::slice::from_raw_parts(self.start(index), len) }
    }

    /// The first frame's bytes, for writing.
    pub fn linear_mut(&mut self, packet: &mut Packet) -> &mut [u8] {
        let len = usize::from(self.meta[packet.first as usize].len);
        // SAFETY: as in `bytes`; `&mut self` excludes every other access.
        unsafe { std::slice::from_raw_parts_mut(self.start(packet.first), len) }
    }

    /// Shared bytes of one packet and writable bytes of another.
    pub fn read_write(&mut self, source: &Packet, target: &mut Packet) -> (&[u8], &mut [u8]) {
        debug_assert_ne!(source.first, target.first, "two live packets never share a frame");
        let (from, to) = (source.first, target.first);
        let from_len = usize::from(self.meta[from as usize].len);
        let to_len = usize::from(self.meta[to as usize].len);
        // SAFETY: the frames are distinct, because both packets are live and packets are move-only; bounds as in `bytes`.
        let source = unsafe { std::slice::from_raw_parts(self.start(from), from_len) };
        // SAFETY: as above; `&mut self` excludes every other access.
        let target = unsafe { std::slice::from_raw_parts_mut(self.start(to), to_len) };
        (source, target)
    }

    /// The first frame's bytes, for writing, and those of the other frames.
    pub fn linear_and_rest<'a>(
        &'a mut self,
        packet: &'a mut Packet,
    ) -> (&'a mut [u8], impl Iterator<Item = &'a [u8]>) {
        let len = usize::from(self.meta[packet.first as usize].len);
        // SAFETY: as in `linear_mut`; the other slices are of other frames of the chain, which are distinct from the first.
        let linear = unsafe { std::slice::from_raw_parts_mut(self.start(packet.first), len) };
        let mut index = self.meta[packet.first as usize].next;
        let frames = &*self;
        let rest = std::iter::from_fn(move || {
            if index == END {
                return None;
            }
            let bytes = frames.bytes(index);
            index = frames.meta[index as usize].next;
            Some(bytes)
        });
        (linear, rest)
    }

    /// The bytes of each frame of the chain.
    pub fn segments<'a>(&'a self, packet: &'a Packet) -> impl Iterator<Item = &'a [u8]> {
        let mut index = packet.first;
        std::iter::from_fn(move || {
            if index == END {
                return None;
            }
            let bytes = self.bytes(index);
            index = self.meta[index as usize].next;
            Some(bytes)
        })
    }

    /// Cuts the packet to `len` bytes (link-layer padding); frames past the end go back to the pool. A longer `len` changes nothing.
    pub fn truncate(&mut self, packet: &mut Packet, len: usize) {
        if len >= packet.len() || len == 0 {
            return;
        }
        let mut left = len;
        let mut index = packet.first;
        let mut frames = 1;
        loop {
            let meta = &mut self.meta[index as usize];
            if left <= usize::from(meta.len) || meta.next == END {
                meta.len = u16::try_from(left).unwrap_or(meta.len).min(meta.len);
                let rest = std::mem::replace(&mut meta.next, END);
                if rest != END {
                    let surplus = Packet {
                        first: rest,
                        last: packet.last,
                        frames: 0,
                        len: 0,
                    };
                    self.release(surplus);
                }
                break;
            }
            left -= usize::from(meta.len);
            index = meta.next;
            frames += 1;
        }
        packet.last = index;
        packet.frames = frames;
        packet.len = u32::try_from(len).unwrap_or(packet.len);
    }

    // What follows is for the rings.

    /// Takes a free frame for reception, unless the reserve would be touched.
    pub(super) fn post(&mut self, id: IoId) -> Option<u32> {
        if self.free.len() <= self.reserve {
            return None;
        }
        let index = self.free.pop()?;
        self.meta[index as usize].owner = Owner::Posted(id);
        Some(index)
    }

    /// A posted frame came back with `len` bytes at `addr`; `None` when the descriptor is not one of a posted frame of `id`.
    pub(super) fn received(&mut self, id: IoId, addr: u64, len: usize) -> Option<u32> {
        let index = u32::try_from(addr / FRAME_BYTES as u64).ok()?;
        let meta = self.meta.get_mut(index as usize)?;
        if meta.owner != Owner::Posted(id) {
            return None;
        }
        let offset = usize::try_from(addr % FRAME_BYTES as u64).ok()?;
        if offset != HEADROOM_BYTES || len > FRAME_CAPACITY {
            return None;
        }
        *meta = Meta {
            owner: Owner::Packet,
            len: u16::try_from(len).ok()?,
            next: END,
        };
        Some(index)
    }

    /// A frame in hand as a packet of its own.
    pub(super) fn packet(&self, index: u32) -> Packet {
        Packet {
            first: index,
            last: index,
            frames: 1,
            len: u32::from(self.meta[index as usize].len),
        }
    }

    /// Appends a frame in hand to a chain.
    ///
    /// # Errors
    /// The chain is at its limit; the frame went back to the pool.
    pub(super) fn append(&mut self, packet: &mut Packet, index: u32) -> Result<(), ChainTooLong> {
        if packet.frames() == MAX_CHAIN {
            let surplus = self.packet(index);
            self.release(surplus);
            return Err(ChainTooLong);
        }
        self.meta[packet.last as usize].next = index;
        packet.last = index;
        packet.frames += 1;
        packet.len += u32::from(self.meta[index as usize].len);
        Ok(())
    }

    /// Hands the packet's frames to the rings `id`; calls `each` with (frame index, bytes, more frames follow).
    pub(super) fn transmit(&mut self, id: IoId, packet: Packet, mut each: impl FnMut(u32, usize, bool)) {
        let mut index = packet.first;
        while index != END {
            let meta = &mut self.meta[index as usize];
            let next = std::mem::replace(&mut meta.next, END);
            meta.owner = Owner::Transmitting(id);
            each(index, usize::from(meta.len), next != END);
            index = next;
        }
    }

    /// A frame was completed; `false` when it is not one that `id` transmits.
    pub(super) fn completed(&mut self, id: IoId, addr: u64) -> bool {
        let Ok(index) = u32::try_from(addr / FRAME_BYTES as u64) else {
            return false;
        };
        match self.meta.get_mut(index as usize) {
            Some(meta) if meta.owner == Owner::Transmitting(id) => {
                *meta = Meta {
                    owner: Owner::Free,
                    len: 0,
                    next: END,
                };
                self.free.push(index);
                true
            }
            _ => false,
        }
    }

    /// Bytes of a frame that rings in memory own.
    pub(super) fn ring_bytes(&mut self, index: u32, len: usize) -> &mut [u8] {
        let len = len.min(FRAME_CAPACITY);
        // SAFETY: `index` was handed out by `post` or `transmit`, so it is in range; `&mut self` excludes every other access, and
        // rings in memory have no kernel behind them.
        unsafe { std::slice::from_raw_parts_mut(self.start(index), len) }
    }
}

/// A received chain had more than [`MAX_CHAIN`] frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ChainTooLong;

#[cfg(test)]
mod tests;
