//! Fragments: every fragment of a datagram is judged by the first one's transport header. Nothing is reassembled.
//!
//! The table remembers datagrams in progress and holds fragments that come before the first one. Invariants:
//! - A later fragment passes only as part of a datagram whose first fragment, from the same sender, has passed the table, and
//!   with that fragment's transport header. The caller judges each; with equal headers they get equal verdicts.
//! - No two fragments that passed for one datagram overlap (RFC 5722; RFC 8200, 4.5), so receivers that disagree on overlaps put
//!   together the same datagram. Duplicates count as overlap. After an overlap nothing of the datagram passes until it expires.
//! - Everything is bounded ([`FragmentLimits`]), per sender too; nothing is allocated after construction but the first entries
//!   of a sender's counters. What does not fit is refused, never passed.
//! - Each packet given in comes out exactly once, through the caller's list.
//!
//! Who sent a fragment is part of the key: another pod's fragments never meet, whatever addresses they claim.

mod extent;
mod slab;

use std::collections::HashMap;
use std::net::IpAddr;

use policy::{DropReason, EndpointKey, Protocol};

use self::extent::Extent;
use self::slab::Slab;
use crate::wire::ipv4::FragmentInfo;
use crate::wire::packet::{IpHeaders, L4, TcpHeader};

/// End of a list of held packets.
const NONE: usize = usize::MAX;

/// What the table may hold; reaching a limit refuses the fragment with `FragmentCapacity`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FragmentLimits {
    /// Datagrams in progress.
    pub datagrams: usize,
    /// Datagrams in progress of one sender.
    pub datagrams_per_endpoint: usize,
    /// Packets held.
    pub held: usize,
    /// Frames of the packets held of one sender.
    pub held_per_endpoint: usize,
    /// Packets held of one datagram.
    pub held_per_datagram: usize,
    /// Life of a datagram from its first packet, nanoseconds. Short against reuse of 16-bit identifications at high rates
    /// (RFC 4963); local pods' fragments come within a batch or two.
    pub timeout_ns: u64,
}

impl Default for FragmentLimits {
    fn default() -> Self {
        Self {
            datagrams: 4096,
            datagrams_per_endpoint: 512,
            held: 1024,
            held_per_endpoint: 128,
            held_per_datagram: 16,
            timeout_ns: 10_000_000_000,
        }
    }
}

/// What all fragments of a datagram share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FirstFragment {
    /// Upper-layer protocol.
    pub protocol: Protocol,
    /// Transport header of the first fragment.
    pub l4: L4,
}

impl FirstFragment {
    /// Source and destination port; zeros where there are none.
    #[must_use]
    pub const fn ports(&self) -> (u16, u16) {
        match self.l4 {
            L4::Tcp(TcpHeader {
                source_port,
                destination_port,
                ..
            })
            | L4::Udp {
                source_port,
                destination_port,
            } => (source_port, destination_port),
            L4::Icmp { .. } | L4::LaterFragment => (0, 0),
        }
    }
}

/// A packet that leaves the table.
#[must_use]
#[derive(Debug, PartialEq, Eq)]
pub struct Released<P> {
    /// The packet.
    pub packet: P,
    /// The transport header to judge it by, or why it must be dropped: `FragmentOverlap`, `FragmentCapacity`, or
    /// `FirstFragmentMissing` when a held one expires.
    pub outcome: Result<FirstFragment, DropReason>,
}

/// Identity of a datagram: RFC 791's, or RFC 8200's, in which the protocol has no part (4.5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct DatagramKey {
    sender: EndpointKey,
    source: IpAddr,
    destination: IpAddr,
    id: u32,
    protocol: Protocol,
}

#[derive(Debug, Clone, Copy)]
enum State {
    /// The first fragment has not come.
    Waiting,
    /// It has.
    Known(FirstFragment),
    /// Nothing of the datagram may pass any more.
    Refused(DropReason),
}

#[derive(Debug)]
struct Datagram {
    key: DatagramKey,
    deadline_ns: u64,
    state: State,
    received: Extent,
    /// Held packets, a list through [`Held::next`].
    first_held: usize,
    last_held: usize,
    held: usize,
}

#[derive(Debug)]
struct Held<P> {
    packet: P,
    frames: usize,
    next: usize,
}

#[derive(Debug, Clone, Copy, Default)]
struct Usage {
    datagrams: usize,
    /// Frames.
    held: usize,
}

/// What holding a packet takes: frames are what there is a shortage of, not packets.
#[derive(Debug, Clone, Copy)]
pub struct Space {
    /// Frames of the packet.
    pub frames: usize,
    /// Frames that may still be held, whosever they are.
    pub room: usize,
}

/// Datagrams in progress and early fragments. `P` is the packet, of which the table knows nothing.
#[derive(Debug)]
pub struct FragmentTable<P> {
    limits: FragmentLimits,
    index: HashMap<DatagramKey, usize>,
    datagrams: Slab<Datagram>,
    held: Slab<Held<P>>,
    usage: HashMap<EndpointKey, Usage>,
    held_frames: usize,
    cursor: usize,
}

impl<P> FragmentTable<P> {
    /// A table with room for everything that `limits` allow.
    #[must_use]
    pub fn new(limits: FragmentLimits) -> Self {
        Self {
            limits,
            // Twice the room, so that deleted entries never make the map grow.
            index: HashMap::with_capacity(limits.datagrams * 2),
            datagrams: Slab::new(limits.datagrams),
            held: Slab::new(limits.held),
            usage: HashMap::new(),
            held_frames: 0,
            cursor: 0,
        }
    }

    /// Takes a packet that `sender` sent and that is a fragment, at time `now_ns`; puts what may leave now into `out`, in the
    /// order in which it must go on: the packet itself unless it is held, then the packets that waited for it.
    ///
    /// At most [`FragmentLimits::held_per_datagram`] + 1 packets come out. A packet that is no fragment comes out at once.
    pub fn admit(
        &mut self,
        sender: EndpointKey,
        headers: &IpHeaders,
        packet: P,
        space: Space,
        now_ns: u64,
        out: &mut Vec<Released<P>>,
    ) {
        let own = FirstFragment {
            protocol: headers.protocol,
            l4: headers.l4,
        };
        let Some(fragment) = headers.fragment else {
            out.push(Released {
                packet,
                outcome: Ok(own),
            });
            return;
        };
        let key = DatagramKey {
            sender,
            source: headers.source,
            destination: headers.destination,
            id: fragment.id,
            protocol: if headers.is_v6() {
                Protocol::ANY
            } else {
                headers.protocol
            },
        };
        let Some(at) = self.find_or_begin(key, now_ns, out) else {
            out.push(Released {
                packet,
                outcome: Err(DropReason::FragmentCapacity),
            });
            return;
        };
        match self.place(at, fragment, own) {
            Placed::Refused(reason) => {
                out.push(Released {
                    packet,
                    outcome: Err(reason),
                });
                self.release_held(at, Err(reason), out);
            }
            Placed::Known(first) => {
                out.push(Released {
                    packet,
                    outcome: Ok(first),
                });
                self.release_held(at, Ok(first), out);
                // A whole datagram needs no memory; its identification may be used again.
                if self
                    .datagrams
                    .get(at)
                    .is_some_and(|datagram| datagram.received.is_whole())
                {
                    self.end(at);
                }
            }
            Placed::Early => {
                if let Err(packet) = self.hold(at, packet, space) {
                    out.push(Released {
                        packet,
                        outcome: Err(DropReason::FragmentCapacity),
                    });
                }
            }
        }
    }

    /// Looks at `budget` places of the table and ends the datagrams there that have expired; their held packets come out.
    pub fn sweep(&mut self, now_ns: u64, budget: usize, out: &mut Vec<Released<P>>) {
        for _ in 0..budget.min(self.datagrams.capacity()) {
            let at = self.cursor;
            self.cursor = (at + 1) % self.datagrams.capacity();
            if self
                .datagrams
                .get(at)
                .is_some_and(|datagram| datagram.deadline_ns <= now_ns)
            {
                self.release_held(at, Err(DropReason::FirstFragmentMissing), out);
                self.end(at);
            }
        }
    }

    /// Forgets everything that `sender` sent, when its interface goes; its held packets come out with `StaleEndpoint`. Looks at
    /// the whole table.
    pub fn forget(&mut self, sender: EndpointKey, out: &mut Vec<Released<P>>) {
        for at in 0..self.datagrams.capacity() {
            if self
                .datagrams
                .get(at)
                .is_some_and(|datagram| datagram.key.sender == sender)
            {
                self.release_held(at, Err(DropReason::StaleEndpoint), out);
                self.end(at);
            }
        }
    }

    /// Packets held now.
    #[must_use]
    pub fn held(&self) -> usize {
        self.held.len()
    }

    /// Frames of the packets held now.
    #[must_use]
    pub fn held_frames(&self) -> usize {
        self.held_frames
    }

    /// The packets held now, in no order: for the audit of frames.
    pub fn held_packets(&self) -> impl Iterator<Item = &P> {
        self.held.iter().map(|held| &held.packet)
    }

    /// Datagrams in progress now.
    #[must_use]
    pub fn datagrams(&self) -> usize {
        self.datagrams.len()
    }

    /// The datagram's place, where it begins if it is new or the old one has expired; `None` if there is no room.
    fn find_or_begin(&mut self, key: DatagramKey, now_ns: u64, out: &mut Vec<Released<P>>) -> Option<usize> {
        if let Some(at) = self.index.get(&key).copied() {
            if self
                .datagrams
                .get(at)
                .is_some_and(|datagram| datagram.deadline_ns > now_ns)
            {
                return Some(at);
            }
            self.release_held(at, Err(DropReason::FirstFragmentMissing), out);
            self.end(at);
        }
        if self
            .usage
            .get(&key.sender)
            .is_some_and(|usage| usage.datagrams >= self.limits.datagrams_per_endpoint)
        {
            return None;
        }
        let at = self
            .datagrams
            .insert(Datagram {
                key,
                deadline_ns: now_ns.saturating_add(self.limits.timeout_ns),
                state: State::Waiting,
                received: Extent::default(),
                first_held: NONE,
                last_held: NONE,
                held: 0,
            })
            .ok()?;
        self.index.insert(key, at);
        self.usage.entry(key.sender).or_default().datagrams += 1;
        Some(at)
    }

    /// Adds a fragment to what the datagram has received.
    fn place(&mut self, at: usize, fragment: FragmentInfo, own: FirstFragment) -> Placed {
        let Some(datagram) = self.datagrams.get_mut(at) else {
            return Placed::Refused(DropReason::FragmentCapacity);
        };
        if let State::Refused(reason) = datagram.state {
            return Placed::Refused(reason);
        }
        if let Err(reason) = datagram.received.add(fragment) {
            datagram.state = State::Refused(reason);
            return Placed::Refused(reason);
        }
        if fragment.is_first() {
            datagram.state = State::Known(own);
        }
        match datagram.state {
            State::Known(first) => Placed::Known(first),
            State::Waiting => Placed::Early,
            State::Refused(reason) => Placed::Refused(reason),
        }
    }

    /// Holds an early packet, or gives it back if there is no room.
    fn hold(&mut self, at: usize, packet: P, Space { frames, room }: Space) -> Result<(), P> {
        let Some(datagram) = self.datagrams.get_mut(at) else {
            return Err(packet);
        };
        let usage = self.usage.entry(datagram.key.sender).or_default();
        if datagram.held >= self.limits.held_per_datagram
            || usage.held + frames > self.limits.held_per_endpoint
            || frames > room
        {
            return Err(packet);
        }
        let place = self
            .held
            .insert(Held {
                packet,
                frames,
                next: NONE,
            })
            .map_err(|held| held.packet)?;
        match self.held.get_mut(datagram.last_held) {
            Some(last) => last.next = place,
            None => datagram.first_held = place,
        }
        datagram.last_held = place;
        datagram.held += 1;
        usage.held += frames;
        self.held_frames += frames;
        Ok(())
    }

    /// Lets a datagram's held packets out, in order of arrival.
    fn release_held(
        &mut self,
        at: usize,
        outcome: Result<FirstFragment, DropReason>,
        out: &mut Vec<Released<P>>,
    ) {
        let Some(datagram) = self.datagrams.get_mut(at) else {
            return;
        };
        if datagram.held == 0 {
            return;
        }
        let sender = datagram.key.sender;
        let mut place = datagram.first_held;
        datagram.held = 0;
        datagram.first_held = NONE;
        datagram.last_held = NONE;
        let mut frames = 0;
        while let Some(held) = self.held.remove(place) {
            frames += held.frames;
            out.push(Released {
                packet: held.packet,
                outcome,
            });
            place = held.next;
        }
        self.held_frames = self.held_frames.saturating_sub(frames);
        if let Some(usage) = self.usage.get_mut(&sender) {
            usage.held = usage.held.saturating_sub(frames);
        }
    }

    /// Ends a datagram, which holds nothing any more.
    fn end(&mut self, at: usize) {
        let Some(datagram) = self.datagrams.remove(at) else {
            return;
        };
        self.index.remove(&datagram.key);
        if let Some(usage) = self.usage.get_mut(&datagram.key.sender) {
            usage.datagrams = usage.datagrams.saturating_sub(1);
            if usage.datagrams == 0 {
                self.usage.remove(&datagram.key.sender);
            }
        }
    }
}

/// What becomes of a fragment.
enum Placed {
    /// Passes, by this header.
    Known(FirstFragment),
    /// The first fragment has not come.
    Early,
    /// Must not pass.
    Refused(DropReason),
}

#[cfg(test)]
mod tests;
