//! TCP segments as the gate sees them: sequence numbers and borrowed payload, never copied as a whole.

/// Payload of a packet that lies in up to 18 frames.
#[derive(Debug, Clone, Copy)]
pub struct Payload<'a> {
    slices: &'a [&'a [u8]],
    len: u32,
}

impl<'a> Payload<'a> {
    /// No bytes.
    pub const EMPTY: Self = Self { slices: &[], len: 0 };

    /// The bytes of `slices`, one after the other.
    #[must_use]
    pub fn new(slices: &'a [&'a [u8]]) -> Self {
        let total: usize = slices.iter().map(|slice| slice.len()).sum();
        Self {
            slices,
            len: u32::try_from(total).unwrap_or(u32::MAX),
        }
    }

    /// Bytes in all slices.
    #[must_use]
    pub fn len(&self) -> u32 {
        self.len
    }

    /// Whether there are no bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The slices from byte `offset` on; none of them is empty.
    pub fn from_offset(&self, offset: u32) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        let mut skip = offset as usize;
        self.slices.iter().filter_map(move |slice| {
            let rest = slice.get(skip..);
            skip = skip.saturating_sub(slice.len());
            rest.filter(|rest| !rest.is_empty())
        })
    }

    /// Whether the bytes from `offset` on begin with `expected`.
    #[must_use]
    pub fn has_at(&self, offset: u32, expected: &[u8]) -> bool {
        let mut expected = expected;
        for slice in self.from_offset(offset) {
            let len = slice.len().min(expected.len());
            let (Some(seen), Some((head, rest))) = (slice.get(..len), expected.split_at_checked(len)) else {
                return false;
            };
            if seen != head {
                return false;
            }
            expected = rest;
        }
        expected.is_empty()
    }
}

/// One TCP segment without SYN or RST, valid in the connection's window.
#[derive(Debug, Clone, Copy)]
pub struct Segment<'a> {
    /// Sequence number of the first payload byte.
    pub seq: u32,
    /// Acknowledgment number.
    pub ack: u32,
    /// Payload.
    pub payload: Payload<'a>,
    /// FIN flag.
    pub fin: bool,
}

impl Segment<'_> {
    /// Sequence number after the last payload byte, without FIN.
    #[must_use]
    pub fn end(&self) -> u32 {
        self.seq.wrapping_add(self.payload.len())
    }

    /// Sequence number after everything the segment holds, FIN included.
    #[must_use]
    pub fn end_with_fin(&self) -> u32 {
        self.end().wrapping_add(u32::from(self.fin))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_skip_whole_and_partial_slices() {
        let slices: [&[u8]; 4] = [b"ab", b"", b"cde", b"f"];
        let payload = Payload::new(&slices);
        let from = |n| payload.from_offset(n).collect::<Vec<_>>().concat();
        assert_eq!(
            (payload.len(), from(0), from(1), from(2)),
            (6, b"abcdef".to_vec(), b"bcdef".to_vec(), b"cdef".to_vec())
        );
        assert_eq!(
            (from(3), from(5), from(6), from(9)),
            (b"def".to_vec(), b"f".to_vec(), vec![], vec![])
        );
    }

    #[test]
    fn comparison_crosses_slices_and_sees_every_difference() {
        let slices: [&[u8]; 3] = [b"ab", b"cde", b"f"];
        let payload = Payload::new(&slices);
        assert!(payload.has_at(1, b"bcdef") && payload.has_at(0, b"") && payload.has_at(5, b"f"));
        assert!(!payload.has_at(1, b"bcdeX") && !payload.has_at(0, b"b") && !payload.has_at(5, b"fg"));
    }
}
