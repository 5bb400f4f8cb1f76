//! The server's direction, as far as the client's acknowledgments must fit it.
//!
//! A listener that answers with SYN cookies (RFC 4987, 3.6) remembers nothing: the first acknowledgment tells it where both streams
//! begin, and Linux takes one that is moved in both by the same distance (`check_tcp_syn_cookie` in `net/ipv4/syncookies.c`). A
//! client that acknowledges what was never sent could so begin a connection elsewhere than the gate has seen it begin.

use crate::sequence::MAX_UNACKED;

/// Values in which a cookie's low bits may differ: its index into a table of four segment sizes.
const COOKIE_SLACK: u32 = 3;

/// Those low bits; above them is the minute.
const COOKIE_BITS: u32 = (1 << 24) - 1;

/// See the module.
#[derive(Debug)]
pub struct ServerStream {
    first: u32,
    next: u32,
    /// Bytes forwarded so far, at most `u32::MAX`.
    sent: u32,
    /// What the client has acknowledged.
    acked: u32,
    fin: bool,
}

impl ServerStream {
    /// A stream whose first byte has sequence number `first`.
    #[must_use]
    pub fn new(first: u32) -> Self {
        Self {
            first,
            next: first,
            sent: 0,
            acked: first,
            fin: false,
        }
    }

    /// Sequence number after the highest byte forwarded, without FIN.
    #[must_use]
    pub fn next(&self) -> u32 {
        self.next
    }

    /// Sequence number after the highest byte or FIN forwarded.
    #[must_use]
    pub fn end(&self) -> u32 {
        self.next.wrapping_add(u32::from(self.fin))
    }

    /// Whether a FIN was forwarded.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.fin
    }

    /// Whether anything was forwarded.
    #[must_use]
    pub fn is_begun(&self) -> bool {
        self.sent > 0 || self.fin
    }

    /// Up to where the client has acknowledged.
    #[must_use]
    pub fn acknowledged(&self) -> u32 {
        self.acked
    }

    /// Whether the client has acknowledged all that was forwarded.
    #[must_use]
    pub fn is_received(&self) -> bool {
        self.acked == self.end()
    }

    /// Bytes up to `end`, which is after [`next`](Self::next), were forwarded.
    pub fn advance(&mut self, end: u32) {
        self.sent = self.sent.saturating_add(end.wrapping_sub(self.next));
        self.next = end;
    }

    /// A FIN was forwarded.
    pub fn finish(&mut self) {
        self.fin = true;
    }

    /// Whether the client may acknowledge `ack`: something that was forwarded, from the stream's beginning on.
    #[must_use]
    pub fn may_acknowledge(&self, ack: u32) -> bool {
        let sent = self.sent.saturating_add(u32::from(self.fin));
        self.end().wrapping_sub(ack) <= sent.min(MAX_UNACKED)
    }

    /// Takes an acknowledgment that [may be](Self::may_acknowledge).
    pub fn acknowledge(&mut self, ack: u32) {
        if self.end().wrapping_sub(ack) < self.end().wrapping_sub(self.acked) {
            self.acked = ack;
        }
    }

    /// Whether a segment `distance` after the beginning of the client's stream is as far from it as its `ack` is from the beginning
    /// of this one: a listener with cookies that has forgotten the connection would take it for the handshake's last segment.
    #[must_use]
    pub fn resembles_handshake(&self, distance: u32, ack: u32) -> bool {
        let difference = distance.wrapping_sub(ack.wrapping_sub(self.first));
        difference.wrapping_add(COOKIE_SLACK) & COOKIE_BITS <= 2 * COOKIE_SLACK
    }
}
