//! Shares of a bounded table: no interface can take the last places from the others.
//!
//! Of `capacity` places an eighth is reserved: only interfaces that hold few get in there. So whoever floods a table, a pod or the
//! outside, is refused while every other interface can still begin something. And where the owner has set no quota, a pod that holds
//! half takes no more once three quarters are taken: few are enough to begin something, not to go on as usual.

use policy::Slot;

/// Slots that are counted.
const SLOTS: usize = 4096;

/// Who holds how many places of one table.
#[derive(Debug)]
pub struct Reservation {
    held: Vec<u32>,
    /// Places that are left to interfaces with few.
    reserve: usize,
    /// What "few" is.
    few: u32,
    /// Most places of one pod, as long as no more than `spare` are free.
    quota: u32,
    spare: usize,
}

impl Reservation {
    /// Shares of a table with `capacity` places: half for one pod where they are short.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        let quota = u32::try_from(capacity / 2).unwrap_or(u32::MAX).max(1);
        Self {
            spare: capacity / 4,
            ..Self::with_quota(capacity, quota)
        }
    }

    /// The same with a quota of a pod that is never exceeded.
    #[must_use]
    pub fn with_quota(capacity: usize, quota: u32) -> Self {
        let reserve = capacity / 8;
        Self {
            held: vec![0; SLOTS],
            reserve,
            few: u32::try_from(reserve / 128).unwrap_or(u32::MAX).max(1),
            quota,
            spare: capacity,
        }
    }

    /// Places that the slot holds.
    #[must_use]
    pub fn held(&self, slot: Slot) -> u32 {
        self.held.get(slot.index()).copied().unwrap_or(0)
    }

    /// Whether the slot may take one of the `free` places.
    #[must_use]
    pub fn admits(&self, slot: Slot, free: usize) -> bool {
        let held = self.held(slot);
        let is_within_quota = !slot.is_endpoint() || held < self.quota || free > self.spare;
        is_within_quota && (free > self.reserve || free > 0 && held < self.few)
    }

    /// The slot took a place.
    pub fn take(&mut self, slot: Slot) {
        if let Some(held) = self.held.get_mut(slot.index()) {
            *held += 1;
        }
    }

    /// The slot gave a place back.
    pub fn give_back(&mut self, slot: Slot) {
        if let Some(held) = self.held.get_mut(slot.index()) {
            *held = held.saturating_sub(1);
        }
    }
}
