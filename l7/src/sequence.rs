//! One TCP direction as a stream of judged bytes.
//!
//! [`JudgedStream`] owns the position up to which bytes were judged and forwarded, and a copy of the *framing* bytes (heads,
//! chunk lines) that the receiver has not acknowledged. A retransmission is compared with the copy: until its ACK the receiver
//! may still take either version, so a version that differs must never reach it. Body bytes are not kept: whatever they say,
//! they stay inside the framing that was judged.
//!
//! The bytes of an unfinished head are *pinned*: they lie together at the end of the copy and stay, acknowledged or not,
//! until the head is complete. Sequence numbers wrap; all spans lie within 2^31 bytes before `next`.

use std::collections::VecDeque;

use crate::http1::head::HEAD_LIMIT;
use crate::segment::Payload;

/// Framing bytes kept per flow: unacknowledged ones and one unfinished head.
pub const COPY_BYTES: usize = (16 << 10) + HEAD_LIMIT;

/// Separate runs of framing bytes kept per flow.
pub const COPY_SPANS: usize = 1024;

/// Largest window of TCP (RFC 7323, section 2.3): more unacknowledged bytes cannot be legitimate.
pub const MAX_UNACKED: u32 = 1 << 30;

/// The copy of framing bytes cannot take more until the receiver acknowledges some.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("copy of unacknowledged framing bytes is full")]
pub struct CopyFull;

/// Where a segment lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// It begins after the judged bytes.
    Ahead,
    /// Its first `old` bytes repeat judged ones; `old` is at most its length.
    Judged {
        /// Repeated bytes.
        old: u32,
    },
    /// It begins before the stream does, or more is unacknowledged than TCP's largest window.
    Impossible,
}

#[derive(Debug, Clone, Copy)]
struct Span {
    seq: u32,
    len: u32,
}

/// State to return to when a segment is dropped after all.
#[derive(Debug, Clone, Copy)]
pub struct StreamMark {
    next: u32,
    judged: u32,
    bytes: usize,
    spans: usize,
    last_span: u32,
    pinned: usize,
}

impl StreamMark {
    /// Position at the mark.
    #[must_use]
    pub fn next(&self) -> u32 {
        self.next
    }
}

/// See the module.
#[derive(Debug)]
pub struct JudgedStream {
    first: u32,
    next: u32,
    /// Bytes judged so far, at most `u32::MAX`: what lies further behind is before the stream.
    judged: u32,
    acked: u32,
    fin: bool,
    is_fin_acked: bool,
    bytes: Vec<u8>,
    /// First live byte of `bytes`; what lies before was acknowledged.
    start: usize,
    spans: VecDeque<Span>,
    pinned: usize,
}

impl JudgedStream {
    /// A stream whose first byte has sequence number `next`. Reserves all memory it will ever use.
    #[must_use]
    pub fn new(next: u32) -> Self {
        Self {
            first: next,
            next,
            judged: 0,
            acked: next,
            fin: false,
            is_fin_acked: false,
            // One byte more: a head is parsed with its last line feed before that has come.
            bytes: Vec::with_capacity(COPY_BYTES + 1),
            start: 0,
            spans: VecDeque::with_capacity(COPY_SPANS),
            pinned: 0,
        }
    }

    /// Begins a new stream in the memory of this one.
    pub fn reset(&mut self, next: u32) {
        self.bytes.clear();
        self.spans.clear();
        (self.first, self.next, self.acked) = (next, next, next);
        (self.judged, self.start, self.pinned) = (0, 0, 0);
        (self.fin, self.is_fin_acked) = (false, false);
    }

    /// Sequence number of the first byte.
    #[must_use]
    pub fn first(&self) -> u32 {
        self.first
    }

    /// Sequence number after the judged bytes, without FIN.
    #[must_use]
    pub fn next(&self) -> u32 {
        self.next
    }

    /// Whether a FIN was judged; nothing can follow it.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.fin
    }

    /// Whether the receiver has acknowledged any of it.
    #[must_use]
    pub fn is_begun(&self) -> bool {
        self.acked != self.first || self.judged == u32::MAX || self.is_fin_acked
    }

    /// Whether the receiver has acknowledged all of it, and its FIN.
    #[must_use]
    pub fn is_received(&self) -> bool {
        self.is_fin_acked
    }

    /// Notes a judged FIN.
    pub fn finish(&mut self) {
        self.fin = true;
    }

    /// Heap bytes reserved.
    #[must_use]
    pub fn heap_bytes(&self) -> usize {
        self.bytes.capacity() + self.spans.capacity() * size_of::<Span>()
    }

    /// Where a segment of `len` bytes at `seq` lies.
    #[must_use]
    pub fn place(&self, seq: u32, len: u32) -> Place {
        if self.next.wrapping_sub(self.acked) > MAX_UNACKED {
            return Place::Impossible;
        }
        let behind = self.next.wrapping_sub(seq);
        if behind > 1 << 31 {
            Place::Ahead
        } else if behind > self.judged {
            Place::Impossible
        } else {
            Place::Judged { old: behind.min(len) }
        }
    }

    /// Whether the receiver has acknowledged the byte (or FIN) at `seq`, which is not past the judged bytes.
    #[must_use]
    pub fn is_acknowledged(&self, seq: u32) -> bool {
        self.next.wrapping_sub(seq) > self.next.wrapping_sub(self.acked)
    }

    /// Takes the receiver's acknowledgment; one of bytes that were never forwarded is ignored.
    pub fn acknowledge(&mut self, ack: u32) {
        let unacked = self.next.wrapping_sub(self.acked);
        let advance = ack.wrapping_sub(self.acked);
        if advance <= unacked {
            self.acked = ack;
        } else if self.fin && advance == unacked.wrapping_add(1) {
            self.acked = self.next;
            self.is_fin_acked = true;
        }
    }

    /// Whether the first `old` bytes of `payload` at `seq`, all before [`next`](Self::next), agree with what is kept.
    #[must_use]
    pub fn agrees(&self, seq: u32, payload: &Payload<'_>, old: u32) -> bool {
        // Distances before `next` fall as sequence numbers rise, and do not wrap within the stream's reach.
        let before = |seq: u32| self.next.wrapping_sub(seq);
        let from = before(seq).min(before(self.acked));
        let to = before(seq).saturating_sub(old);
        let mut at = self.start;
        for span in &self.spans {
            let (span_from, span_to) = (before(span.seq), before(span.seq).saturating_sub(span.len));
            let (begin, end) = (span_from.min(from), span_to.max(to));
            if begin > end {
                let kept = at + (span_from - begin) as usize;
                let Some(kept) = self.bytes.get(kept..kept + (begin - end) as usize) else {
                    return false;
                };
                if !payload.has_at(before(seq) - begin, kept) {
                    return false;
                }
            }
            at += span.len as usize;
        }
        true
    }

    /// Frees what the receiver has acknowledged, and makes the freed room usable if `incoming` bytes would not fit.
    pub fn reclaim(&mut self, incoming: u32) {
        let pinned = u32::try_from(self.pinned).unwrap_or(u32::MAX);
        let keep = self.next.wrapping_sub(self.acked).max(pinned);
        while let Some(span) = self.spans.front_mut() {
            let before = self.next.wrapping_sub(span.seq);
            let free = before.saturating_sub(keep).min(span.len);
            self.start += free as usize;
            span.seq = span.seq.wrapping_add(free);
            span.len -= free;
            if span.len > 0 {
                break;
            }
            self.spans.pop_front();
        }
        if self.spans.is_empty() {
            self.bytes.clear();
            self.start = 0;
        } else if self.start > 0 && self.bytes.len() + incoming as usize > COPY_BYTES {
            self.bytes.drain(..self.start);
            self.start = 0;
        }
    }

    /// Whether waiting for acknowledgments can free room: something beside the unfinished head is kept.
    #[must_use]
    pub fn can_reclaim(&self) -> bool {
        self.bytes.len() - self.start > self.pinned
    }

    /// Judges `bytes` as framing and keeps them.
    ///
    /// # Errors
    /// [`CopyFull`]; nothing was taken.
    pub fn push(&mut self, bytes: &[u8]) -> Result<(), CopyFull> {
        if bytes.is_empty() {
            return Ok(());
        }
        let len = u32::try_from(bytes.len()).map_err(|_too_long| CopyFull)?;
        if self.bytes.len() + bytes.len() > COPY_BYTES {
            return Err(CopyFull);
        }
        let span_count = self.spans.len();
        match self.spans.back_mut() {
            Some(span) if span.seq.wrapping_add(span.len) == self.next => span.len += len,
            _ if span_count < COPY_SPANS => self.spans.push_back(Span { seq: self.next, len }),
            _ => return Err(CopyFull),
        }
        self.bytes.extend_from_slice(bytes);
        self.skip(len);
        Ok(())
    }

    /// Judges `bytes` as part of a head and pins them.
    ///
    /// # Errors
    /// [`CopyFull`]; nothing was taken.
    pub fn push_head(&mut self, bytes: &[u8]) -> Result<(), CopyFull> {
        self.push(bytes)?;
        self.pinned += bytes.len();
        Ok(())
    }

    /// Judges `len` bytes as body, which are not kept.
    pub fn skip(&mut self, len: u32) {
        self.next = self.next.wrapping_add(len);
        self.judged = self.judged.saturating_add(len);
    }

    /// The pinned bytes: the head so far.
    #[must_use]
    pub fn head(&self) -> &[u8] {
        self.kept(self.head_offset())
    }

    /// Place of the pinned bytes in the copy, good for [`kept`](Self::kept) until the next [`reclaim`](Self::reclaim).
    #[must_use]
    pub fn head_offset(&self) -> usize {
        self.bytes.len() - self.pinned
    }

    /// The copy from `offset` on.
    #[must_use]
    pub fn kept(&self, offset: usize) -> &[u8] {
        self.bytes.get(offset..).unwrap_or_default()
    }

    /// Calls `parse` with the head so far and a line feed.
    pub fn with_head_and_line_feed<T>(&mut self, parse: impl FnOnce(&[u8]) -> T) -> T {
        self.bytes.push(b'\n');
        let result = parse(
            self.bytes
                .get(self.bytes.len() - 1 - self.pinned..)
                .unwrap_or_default(),
        );
        self.bytes.pop();
        result
    }

    /// The head is complete: from now on an acknowledgment frees it.
    pub fn unpin(&mut self) {
        self.pinned = 0;
    }

    /// Remembers this state; good until the next [`reclaim`](Self::reclaim).
    #[must_use]
    pub fn mark(&self) -> StreamMark {
        StreamMark {
            next: self.next,
            judged: self.judged,
            bytes: self.bytes.len(),
            spans: self.spans.len(),
            last_span: self.spans.back().map_or(0, |span| span.len),
            pinned: self.pinned,
        }
    }

    /// Forgets all bytes judged since `mark`.
    pub fn rewind(&mut self, mark: &StreamMark) {
        self.next = mark.next;
        self.judged = mark.judged;
        self.bytes.truncate(mark.bytes);
        self.spans.truncate(mark.spans);
        if let Some(span) = self.spans.back_mut() {
            span.len = mark.last_span;
        }
        self.pinned = mark.pinned;
    }
}
