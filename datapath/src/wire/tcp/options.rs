//! TCP options (RFC 9293, 3.2): reading them, and lowering the MSS.

use policy::{DropReason, Protocol};

use super::{CHECKSUM_OFFSET, HEADER_LEN, Tcp, TcpFlags, set_word};
use crate::wire::array_at;
use crate::wire::checksum::{Edit, L4Checksum};

impl<'a> Tcp<'a> {
    /// The options, in order.
    #[inline]
    #[must_use]
    pub fn options(&self) -> OptionIter<'a> {
        OptionIter {
            rest: self.options,
            offset: HEADER_LEN,
        }
    }

    /// What the options say, in one pass.
    ///
    /// # Errors
    /// `InvalidTcp` if an option leaves the header or has another length than its kind demands: hosts differ in what they make
    /// of it.
    #[inline]
    pub fn scan_options(&self) -> Result<TcpOptions, DropReason> {
        let mut found = TcpOptions::default();
        for option in self.options() {
            let option = option?;
            match (option.kind, option.data) {
                (KIND_MSS, &[a, b]) => found.mss = Some(u16::from_be_bytes([a, b])),
                (KIND_WINDOW_SCALE, &[shift]) => found.window_scale = Some(shift.min(MAX_WINDOW_SCALE)),
                (KIND_SACK_PERMITTED, []) => found.sack_permitted = true,
                (KIND_TIMESTAMPS, &[v0, v1, v2, v3, e0, e1, e2, e3]) => {
                    found.timestamps = Some(Timestamps {
                        value: u32::from_be_bytes([v0, v1, v2, v3]),
                        echo: u32::from_be_bytes([e0, e1, e2, e3]),
                    });
                }
                (KIND_MSS | KIND_WINDOW_SCALE | KIND_SACK_PERMITTED | KIND_TIMESTAMPS, _) => {
                    return Err(DropReason::InvalidTcp);
                }
                (KIND_MD5, _) | (KIND_AO, _) => found.is_signed = true,
                (KIND_MULTIPATH, _) => found.is_multipath = true,
                (KIND_FAST_OPEN, _) | (KIND_EXPERIMENT_2, [0xf9, 0x89, ..]) => found.fast_open = true,
                _ => (),
            }
        }
        Ok(found)
    }
}

const KIND_END: u8 = 0;
pub(super) const KIND_NOP: u8 = 1;
const KIND_MSS: u8 = 2;
const KIND_WINDOW_SCALE: u8 = 3;
const KIND_SACK_PERMITTED: u8 = 4;
pub(super) const KIND_TIMESTAMPS: u8 = 8;
const KIND_MD5: u8 = 19;
const KIND_AO: u8 = 29;
const KIND_MULTIPATH: u8 = 30;
const KIND_FAST_OPEN: u8 = 34;
/// Shared by experiments; fast open's carry the magic number 0xf989 (RFC 7413, 4.1.1 and appendix A).
const KIND_EXPERIMENT_2: u8 = 254;

/// RFC 7323, 2.3: a larger shift count is used as 14.
const MAX_WINDOW_SCALE: u8 = 14;

/// The timestamps option (RFC 7323, 3.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timestamps {
    /// TSval: the sender's clock.
    pub value: u32,
    /// TSecr: the peer's clock as last seen by the sender.
    pub echo: u32,
}

/// What a segment's options say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TcpOptions {
    /// Largest segment the sender accepts, bytes; in SYNs.
    pub mss: Option<u16>,
    /// Window shift count, at most 14; in SYNs.
    pub window_scale: Option<u8>,
    /// Whether SACK may be used; in SYNs.
    pub sack_permitted: bool,
    /// Timestamps.
    pub timestamps: Option<Timestamps>,
    /// MD5 signature (RFC 2385) or authentication option (RFC 5925): cannot be checked, and edits break it.
    pub is_signed: bool,
    /// Multipath TCP (RFC 8684): the receiver reads the bytes in an order that other options tell.
    pub is_multipath: bool,
    /// TCP fast open (RFC 7413), also in its experimental form: data in the SYN.
    pub fast_open: bool,
}

/// One option.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TcpOption<'a> {
    /// Kind (IANA).
    pub kind: u8,
    /// Offset of `data` from the start of the TCP header, bytes.
    pub offset: usize,
    /// What follows kind and length.
    pub data: &'a [u8],
}

/// Iterates over options; padding is skipped. Ends at the end-of-options kind, the header's end or the first malformed option.
#[derive(Debug, Clone)]
pub struct OptionIter<'a> {
    rest: &'a [u8],
    offset: usize,
}

impl<'a> Iterator for OptionIter<'a> {
    type Item = Result<TcpOption<'a>, DropReason>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let (&kind, tail) = self.rest.split_first()?;
            match kind {
                KIND_END => {
                    self.rest = &[];
                    return None;
                }
                KIND_NOP => {
                    self.rest = tail;
                    self.offset += 1;
                }
                _ => {
                    let Some((data, after)) = tail.split_first().and_then(|(&length, body)| {
                        body.split_at_checked(usize::from(length).checked_sub(2)?)
                    }) else {
                        self.rest = &[];
                        return Some(Err(DropReason::InvalidTcp));
                    };
                    let option = TcpOption {
                        kind,
                        offset: self.offset + 2,
                        data,
                    };
                    self.offset += 2 + data.len();
                    self.rest = after;
                    return Some(Ok(option));
                }
            }
        }
    }
}

/// Lowers every MSS option above `max` in the SYN that begins `segment`, with its checksum, which is in state `checksum`.
/// Returns whether something changed. Other segments are left alone.
#[inline]
pub fn clamp_mss(segment: &mut [u8], max: u16, checksum: L4Checksum) -> bool {
    let mut changed = false;
    // Each round lowers one of at most ten options for good.
    while let Some((offset, old)) = mss_above(segment, max) {
        let edit = Edit::NONE.word_at(offset, old, max);
        if set_word(segment, offset, max).is_none() || apply(segment, checksum, edit).is_none() {
            return changed;
        }
        changed = true;
    }
    changed
}

/// Place and value of the first MSS option above `max` in a SYN.
fn mss_above(segment: &[u8], max: u16) -> Option<(usize, u16)> {
    let view = Tcp::parse(segment, segment.len()).ok()?;
    if !view.flags().has(TcpFlags::SYN) {
        return None;
    }
    view.options()
        .map_while(Result::ok)
        .find_map(|option| match (option.kind, option.data) {
            (KIND_MSS, &[a, b]) => {
                let value = u16::from_be_bytes([a, b]);
                (value > max).then_some((option.offset, value))
            }
            _ => None,
        })
}

/// Writes padding over every Multipath TCP option of `segment`, with its checksum, which is in state `checksum`. A SYN without it
/// offers plain TCP (RFC 8684, 3.1). Returns whether none is left.
pub fn remove_multipath(segment: &mut [u8], checksum: L4Checksum) -> bool {
    let multipath = |segment: &[u8]| {
        let view = Tcp::parse(segment, segment.len()).ok()?;
        let mut options = view.options().map_while(Result::ok);
        let found = options.find(|option| option.kind == KIND_MULTIPATH)?;
        Some(found.offset - 2..found.offset + found.data.len())
    };
    // Each round removes one of at most twenty options for good.
    while let Some(range) = multipath(segment) {
        let Some(option) = segment.get_mut(range.clone()) else {
            return false;
        };
        let mut edit = Edit::NONE;
        for (offset, byte) in range.zip(option) {
            let (old, new) = (u16::from(*byte), u16::from(KIND_NOP));
            edit = if offset % 2 == 0 {
                edit.word(old << 8, new << 8)
            } else {
                edit.word(old, new)
            };
            *byte = KIND_NOP;
        }
        if apply(segment, checksum, edit).is_none() {
            return false;
        }
    }
    true
}

fn apply(segment: &mut [u8], state: L4Checksum, edit: Edit) -> Option<()> {
    let field = u16::from_be_bytes(*array_at(segment, CHECKSUM_OFFSET)?);
    set_word(segment, CHECKSUM_OFFSET, state.edited(Protocol::TCP, field, edit))
}
