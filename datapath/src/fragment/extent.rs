//! What of a datagram was received.

use policy::DropReason;

use crate::wire::ipv4::FragmentInfo;

/// Runs of consecutive bytes that a datagram may be received in: more means fragments in wild disorder.
pub(super) const MAX_RUNS: usize = 8;

/// The bytes of a datagram that were received: sorted runs with gaps between them.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Extent {
    runs: [(u16, u16); MAX_RUNS],
    len: usize,
    /// Length of the datagram, once the last fragment has come.
    end: Option<u16>,
}

impl Extent {
    /// Adds a checked fragment's bytes; on an error the extent is not to be used any more.
    pub(super) fn add(&mut self, fragment: FragmentInfo) -> Result<(), DropReason> {
        let begin = fragment.offset;
        let end = begin.checked_add(fragment.len).ok_or(DropReason::InvalidPacket)?;
        let runs = self.runs.get(..self.len).unwrap_or_default();
        let overlaps = runs.iter().any(|(from, to)| begin < *to && *from < end);
        // Bytes behind the end, or a second end, are overlap with what the receiver takes for the end.
        let reached = runs.last().map_or(0, |(_, to)| *to);
        let contradicts = match (self.end, fragment.more) {
            (Some(_), false) => true,
            (Some(known), true) => end > known,
            (None, false) => reached > end,
            (None, true) => false,
        };
        if overlaps || contradicts {
            return Err(DropReason::FragmentOverlap);
        }
        if !fragment.more {
            self.end = Some(end);
        }
        self.insert(begin, end)
    }

    /// Inserts a run that overlaps no other, and joins it with its neighbours.
    fn insert(&mut self, begin: u16, end: u16) -> Result<(), DropReason> {
        let full = DropReason::FragmentCapacity;
        let at = self
            .runs
            .iter()
            .take(self.len)
            .filter(|(from, _)| *from < begin)
            .count();
        let joins_next = at < self.len && self.runs.get(at).is_some_and(|(from, _)| *from == end);
        let before = at
            .checked_sub(1)
            .filter(|i| self.runs.get(*i).is_some_and(|(_, to)| *to == begin));
        match (before, joins_next) {
            (Some(i), true) => {
                let (_, to) = *self.runs.get(at).ok_or(full)?;
                self.runs.get_mut(i).ok_or(full)?.1 = to;
                self.runs.get_mut(at..self.len).ok_or(full)?.rotate_left(1);
                self.len -= 1;
            }
            (Some(i), false) => self.runs.get_mut(i).ok_or(full)?.1 = end,
            (None, true) => self.runs.get_mut(at).ok_or(full)?.0 = begin,
            (None, false) => {
                let tail = self.runs.get_mut(at..=self.len).ok_or(full)?;
                tail.rotate_right(1);
                *tail.first_mut().ok_or(full)? = (begin, end);
                self.len += 1;
            }
        }
        Ok(())
    }

    /// Whether every byte of the datagram was received.
    pub(super) fn is_whole(&self) -> bool {
        self.len == 1
            && self
                .runs
                .first()
                .is_some_and(|(from, to)| *from == 0 && Some(*to) == self.end)
    }
}
