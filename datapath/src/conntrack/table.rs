//! The table: buckets of eight tags, entries beside them, no allocation after construction.
//!
//! A lookup reads one 64-byte bucket and compares 16-bit tags; the entry is read only where a tag agrees. [`Conntrack::lookup_batch`]
//! does that in passes over the whole batch, so that the cache misses of different packets overlap. A bucket that is full spills
//! to its neighbours (at most [`PROBES`]); a counter of spilled entries tells a lookup when it need not look there.

use std::net::IpAddr;

use policy::{EndpointKey, Slot};

use super::entry::Entry;
use crate::flow::{FlowDirection, FlowHasher, FlowKey, Peer};
use crate::reservation::Reservation;

const WAYS: usize = 8;

/// Buckets that an entry may be in.
const PROBES: usize = 8;

#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
struct Bucket {
    tags: [u16; WAYS],
    entries: [u32; WAYS],
    /// Entries whose home is here but which live in a later bucket.
    spilled: u32,
}

const EMPTY: Bucket = Bucket {
    tags: [0; WAYS],
    entries: [0; WAYS],
    spilled: 0,
};

/// Names an entry; becomes invalid when the entry is removed, even if its place is used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EntryId {
    index: u32,
    generation: u32,
}

/// Why a flow could not be added.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InsertError {
    /// The table is at its capacity.
    Full,
    /// The sender has as many flows as it may, or what is left is reserved for others.
    Quota,
}

/// The conntrack table of one worker.
#[derive(Debug)]
pub struct Conntrack {
    hasher: FlowHasher,
    buckets: Vec<Bucket>,
    mask: usize,
    entries: Vec<Entry>,
    free: Vec<u32>,
    flows: Reservation,
    /// Flows that end at a slot, as `flows` counts those that begin there.
    ending: Reservation,
    cursor: usize,
}

/// What a lookup found.
pub type Found = Option<(EntryId, FlowDirection)>;

impl Conntrack {
    /// A table for `capacity` flows, at most `quota` of them begun by any one endpoint.
    #[must_use]
    pub fn new(capacity: u32, quota: u32, hasher: FlowHasher) -> Self {
        let capacity = capacity.max(1);
        let buckets = (capacity as usize * 2 / WAYS).next_power_of_two().max(PROBES);
        Self {
            hasher,
            buckets: vec![EMPTY; buckets],
            mask: buckets - 1,
            entries: vec![Entry::vacant(); capacity as usize],
            free: (0..capacity).rev().collect(),
            flows: Reservation::with_quota(capacity as usize, quota),
            // Whoever is asked for much is no flood.
            ending: Reservation::with_quota(capacity as usize, u32::MAX),
            cursor: 0,
        }
    }

    /// Flows in the table.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len() - self.free.len()
    }

    /// Whether the table has no flow.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Flows that fit.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.entries.len()
    }

    /// Bytes of the table.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.buckets.len() * size_of::<Bucket>()
            + self.entries.len() * (size_of::<Entry>() + size_of::<u32>())
    }

    /// Flows that the slot's endpoint has begun.
    #[must_use]
    pub fn flows_of(&self, slot: Slot) -> u32 {
        self.flows.held(slot)
    }

    /// The hash of a flow under this table's keys; also says which worker owns the flow.
    #[must_use]
    pub fn hash(&self, key: &FlowKey) -> u64 {
        self.hasher.hash(key)
    }

    const fn tag(hash: u64) -> u16 {
        // Zero marks an empty way.
        let tag = (hash >> 48) as u16;
        if tag == 0 { 1 } else { tag }
    }

    const fn home(&self, hash: u64) -> usize {
        #[expect(clippy::cast_possible_truncation, reason = "masked to the number of buckets")]
        let index = hash as usize & self.mask;
        index
    }

    fn matches(&self, index: u32, key: &FlowKey) -> Found {
        let entry = &self.entries[index as usize];
        let id = EntryId {
            index,
            generation: entry.generation,
        };
        if entry.key == *key {
            return Some((id, FlowDirection::Original));
        }
        (entry.key == key.reversed()).then_some((id, FlowDirection::Reply))
    }

    /// Finds the flow that a packet with tuple `key` belongs to, and which way the packet goes.
    #[must_use]
    pub fn lookup(&self, key: &FlowKey, hash: u64) -> Found {
        let tag = Self::tag(hash);
        let home = self.home(hash);
        for probe in 0..PROBES {
            let bucket = &self.buckets[(home + probe) & self.mask];
            for way in 0..WAYS {
                if bucket.tags[way] == tag
                    && let Some(found) = self.matches(bucket.entries[way], key)
                {
                    return Some(found);
                }
            }
            if probe == 0 && bucket.spilled == 0 {
                return None;
            }
        }
        None
    }

    /// [`Conntrack::lookup`] for a batch: `results` is cleared and gets one result per key, in order.
    pub fn lookup_batch(&self, keys: &[(FlowKey, u64)], results: &mut Vec<Found>) {
        results.clear();
        // Pass 1 reads every bucket, pass 2 every candidate entry, pass 3 compares: the misses of a pass overlap.
        let mut candidates = [[u32::MAX; 2]; 64];
        for chunk in keys.chunks(candidates.len()) {
            let mut touched = 0_u64;
            for ((_, hash), candidate) in chunk.iter().zip(&mut candidates) {
                let bucket = &self.buckets[self.home(*hash)];
                *candidate = [u32::MAX, bucket.spilled];
                let tag = Self::tag(*hash);
                for way in 0..WAYS {
                    if bucket.tags[way] == tag {
                        candidate[0] = bucket.entries[way];
                    }
                }
            }
            for [index, _] in candidates.iter().take(chunk.len()) {
                if let Some(entry) = self.entries.get(*index as usize) {
                    touched ^= entry.hash;
                }
            }
            std::hint::black_box(touched);
            for ((key, hash), [index, spilled]) in chunk.iter().zip(&candidates) {
                let quick = if *index == u32::MAX {
                    None
                } else {
                    self.matches(*index, key)
                };
                results.push(match quick {
                    Some(found) => Some(found),
                    // No way of the home bucket has the tag and nothing was spilled: certainly absent.
                    None if *index == u32::MAX && *spilled == 0 => None,
                    None => self.lookup(key, *hash),
                });
            }
        }
    }

    /// The entry, if it still is the one that was found.
    #[must_use]
    pub fn get(&self, id: EntryId) -> Option<&Entry> {
        self.entries
            .get(id.index as usize)
            .filter(|entry| entry.live && entry.generation == id.generation)
    }

    /// The entry, for writing. The key must not be changed.
    pub fn get_mut(&mut self, id: EntryId) -> Option<&mut Entry> {
        self.entries
            .get_mut(id.index as usize)
            .filter(|entry| entry.live && entry.generation == id.generation)
    }

    /// Adds a flow. The caller has looked its key up and found nothing.
    ///
    /// # Errors
    /// [`InsertError`]; nothing is changed then.
    pub fn insert(&mut self, mut entry: Entry, now_s: u32) -> Result<EntryId, InsertError> {
        let owner = entry.source.slot;
        if self.free.is_empty() {
            return Err(InsertError::Full);
        }
        self.admit(owner, self.free.len())?;
        let hash = self.hash(&entry.key);
        let home = self.home(hash);
        let (probe, way) = (0..PROBES)
            .find_map(|probe| {
                let bucket = &self.buckets[(home + probe) & self.mask];
                bucket
                    .tags
                    .iter()
                    .position(|tag| *tag == 0)
                    .map(|way| (probe, way))
            })
            .ok_or(InsertError::Full)?;
        let index = self.free.pop().ok_or(InsertError::Full)?;
        let bucket = &mut self.buckets[(home + probe) & self.mask];
        bucket.tags[way] = Self::tag(hash);
        bucket.entries[way] = index;
        if probe > 0 {
            self.buckets[home].spilled += 1;
        }
        let place = &mut self.entries[index as usize];
        let generation = place.generation.wrapping_add(1);
        entry.hash = hash;
        entry.generation = generation;
        entry.live = true;
        entry.last_seen_s = now_s;
        *place = entry;
        self.flows.take(owner);
        self.ending.take(entry.destination.slot);
        Ok(EntryId { index, generation })
    }

    /// Whether the slot may begin a flow in one of the `free` places.
    fn admit(&self, owner: Slot, free: usize) -> Result<(), InsertError> {
        if self.flows.admits(owner, free) {
            Ok(())
        } else {
            Err(InsertError::Quota)
        }
    }

    /// Puts a new flow in the place of one on the same tuple, whichever way each of them goes; a flow that is gone already, or
    /// has another tuple, is not replaced. Whoever has begun the former one needs no further place.
    ///
    /// # Errors
    /// [`InsertError`]; nothing is changed then, the former flow least of all.
    pub fn replace(&mut self, former: EntryId, mut entry: Entry, now_s: u32) -> Result<EntryId, InsertError> {
        let same_tuple = |other: &&Entry| other.key == entry.key || other.key == entry.key.reversed();
        let Some(old) = self.get(former).filter(same_tuple).copied() else {
            return self.insert(entry, now_s);
        };
        let owner = entry.source.slot;
        if owner != old.source.slot {
            self.admit(owner, self.free.len() + 1)?;
        }
        // The hash is the same for both directions, so the bucket's tag stays right.
        let generation = former.generation.wrapping_add(1);
        entry.hash = old.hash;
        entry.generation = generation;
        entry.live = true;
        entry.last_seen_s = now_s;
        let index = former.index;
        let place = self.entries.get_mut(index as usize).ok_or(InsertError::Full)?;
        *place = entry;
        self.flows.give_back(old.source.slot);
        self.ending.give_back(old.destination.slot);
        self.flows.take(owner);
        self.ending.take(entry.destination.slot);
        Ok(EntryId { index, generation })
    }

    /// Removes a flow and returns what was known of it.
    pub fn remove(&mut self, id: EntryId) -> Option<Entry> {
        let entry = *self.get(id)?;
        let home = self.home(entry.hash);
        for probe in 0..PROBES {
            let bucket = &mut self.buckets[(home + probe) & self.mask];
            let way = (0..WAYS).find(|way| bucket.tags[*way] != 0 && bucket.entries[*way] == id.index);
            if let Some(way) = way {
                bucket.tags[way] = 0;
                if probe > 0 {
                    self.buckets[home].spilled -= 1;
                }
                break;
            }
        }
        self.entries[id.index as usize].live = false;
        self.free.push(id.index);
        self.flows.give_back(entry.source.slot);
        self.ending.give_back(entry.destination.slot);
        Some(entry)
    }

    /// Looks at the next `budget` places and forgets what has expired at `now_s`; `each` sees every forgotten entry. Returns how
    /// many were forgotten.
    pub fn sweep(&mut self, now_s: u32, budget: usize, mut each: impl FnMut(&Entry)) -> usize {
        self.sweep_if(budget, |entry| entry.is_expired(now_s), &mut each)
    }

    /// Forgets every flow that an interface takes part in, at once; used when an endpoint goes.
    /// Looks no further once it has found all of them.
    pub fn remove_endpoint(&mut self, key: EndpointKey, mut each: impl FnMut(&Entry)) -> usize {
        const CHUNK: usize = 1024;
        let mut removed = 0;
        for _ in 0..self.entries.len().div_ceil(CHUNK) {
            if self.flows.held(key.slot) + self.ending.held(key.slot) == 0 {
                break;
            }
            removed += self.sweep_if(
                CHUNK,
                |entry| entry.source == key || entry.destination == key,
                &mut each,
            );
        }
        removed
    }

    /// Forgets the flows at addresses that are now `key`'s and that another interface takes part in; used when an endpoint comes.
    /// Looks at the whole table unless it is empty.
    pub fn remove_strays(
        &mut self,
        key: EndpointKey,
        is_own: impl Fn(IpAddr) -> bool,
        mut each: impl FnMut(&Entry),
    ) -> usize {
        if self.is_empty() {
            return 0;
        }
        let leads_elsewhere = |peer: &Peer, interface| interface != key && is_own(peer.addr());
        self.sweep_if(
            self.entries.len(),
            |entry| {
                leads_elsewhere(&entry.key.source, entry.source)
                    || leads_elsewhere(&entry.key.destination, entry.destination)
            },
            &mut each,
        )
    }

    fn sweep_if(
        &mut self,
        budget: usize,
        forget: impl Fn(&Entry) -> bool,
        each: &mut impl FnMut(&Entry),
    ) -> usize {
        let mut removed = 0;
        for _ in 0..budget.min(self.entries.len()) {
            self.cursor = if self.cursor + 1 >= self.entries.len() {
                0
            } else {
                self.cursor + 1
            };
            let entry = &self.entries[self.cursor];
            if !entry.live || !forget(entry) {
                continue;
            }
            #[expect(clippy::cast_possible_truncation, reason = "capacity is a u32")]
            let id = EntryId {
                index: self.cursor as u32,
                generation: entry.generation,
            };
            if let Some(entry) = self.remove(id) {
                each(&entry);
                removed += 1;
            }
        }
        removed
    }
}

#[cfg(test)]
mod tests;
