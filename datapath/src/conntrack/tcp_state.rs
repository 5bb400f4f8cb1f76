//! TCP connection states, seen from the middle.
//!
//! Coarser than RFC 9293's: the middle needs to know who began, whether the handshake is complete, and how long to remember.

use crate::flow::FlowDirection;
use crate::wire::tcp::TcpFlags;

/// State of a TCP flow; [`TcpState::Untracked`] for other protocols.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TcpState {
    /// Not TCP.
    #[default]
    Untracked,
    /// SYN seen.
    SynSent,
    /// SYN and SYN-ACK seen.
    SynReceived,
    /// Handshake complete.
    Established,
    /// The original direction has sent its FIN.
    FinOriginal,
    /// The reply direction has sent its FIN.
    FinReply,
    /// Both have sent FIN; the last bytes may still be under way.
    Finished,
    /// Reset.
    Closed,
}

/// A segment that the state does not allow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InvalidTransition;

impl TcpState {
    /// Whether a SYN may begin a new connection on the same tuple (RFC 9293, 3.6.1: TIME-WAIT reuse).
    #[must_use]
    pub const fn may_reopen(self) -> bool {
        matches!(self, Self::Finished | Self::Closed)
    }

    /// Whether the three-way handshake was seen whole.
    #[must_use]
    pub const fn is_synchronised(self) -> bool {
        matches!(
            self,
            Self::Established | Self::FinOriginal | Self::FinReply | Self::Finished | Self::Closed
        )
    }

    /// State after a segment with `flags` in `direction`.
    ///
    /// # Errors
    /// The segment makes no sense in this state and must not pass: a SYN inside a connection, a SYN-ACK from the side that began,
    /// data before the handshake.
    pub const fn next(self, direction: FlowDirection, flags: TcpFlags) -> Result<Self, InvalidTransition> {
        use FlowDirection::{Original, Reply};
        if flags.has(TcpFlags::RST) {
            // Whether the receiver takes the reset is not for the state to say: see `TcpWindow::takes_reset`.
            return Ok(Self::Closed);
        }
        if flags.has(TcpFlags::SYN) {
            return match (self, direction, flags.has(TcpFlags::ACK)) {
                // Retransmitted SYN, or the first.
                (Self::SynSent, Original, false) => Ok(Self::SynSent),
                (Self::SynReceived, Original, false) => Ok(Self::SynReceived),
                (Self::SynSent | Self::SynReceived, Reply, true) => Ok(Self::SynReceived),
                // A client that has forgotten the connection begins another: the server's answer makes it reset the old one first
                // (RFC 9293, 3.10.7.4).
                (Self::Established | Self::FinOriginal | Self::FinReply, Original, false) => Ok(self),
                // A late retransmission of the SYN-ACK; the receiver acknowledges it again (RFC 9293, 3.10.7.4).
                (Self::Established, Reply, true) => Ok(Self::Established),
                // A server that has forgotten the connection accepts the client's next one.
                (Self::FinOriginal | Self::FinReply, Reply, true) => Ok(Self::Established),
                _ => Err(InvalidTransition),
            };
        }
        match self {
            Self::Untracked => Err(InvalidTransition),
            // A server that has an older connection says so.
            Self::SynSent if matches!(direction, Reply) && !flags.has(TcpFlags::FIN) => Ok(Self::SynSent),
            Self::SynSent => Err(InvalidTransition),
            Self::SynReceived => match direction {
                Original if flags.has(TcpFlags::FIN) => Ok(Self::FinOriginal),
                Original => Ok(Self::Established),
                // The server may not send before the handshake is complete.
                Reply if flags.has(TcpFlags::FIN) => Ok(Self::FinReply),
                Reply => Ok(Self::SynReceived),
            },
            Self::Established => match (direction, flags.has(TcpFlags::FIN)) {
                (_, false) => Ok(Self::Established),
                (Original, true) => Ok(Self::FinOriginal),
                (Reply, true) => Ok(Self::FinReply),
            },
            Self::FinOriginal => match (direction, flags.has(TcpFlags::FIN)) {
                (Reply, true) => Ok(Self::Finished),
                _ => Ok(Self::FinOriginal),
            },
            Self::FinReply => match (direction, flags.has(TcpFlags::FIN)) {
                (Original, true) => Ok(Self::Finished),
                _ => Ok(Self::FinReply),
            },
            // The last ACKs and retransmissions.
            Self::Finished | Self::Closed => Ok(self),
        }
    }

    /// Seconds without a packet after which the entry is forgotten.
    #[must_use]
    pub const fn timeout_s(self) -> u32 {
        match self {
            Self::Untracked => 60,
            Self::SynSent | Self::SynReceived => 60,
            // Cilium's bpf-ct-timeout-regular-tcp.
            Self::Established => 8000,
            Self::FinOriginal | Self::FinReply => 120,
            Self::Finished => 60,
            Self::Closed => 10,
        }
    }
}

/// Where one direction's stream is, as far as the middle can tell.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Stream {
    /// What the receiver expects next: its highest acknowledgment, or the first sequence number seen.
    expected: u32,
    /// After the highest byte that was sent.
    next: u32,
}

/// Sequence numbers of both directions: what tells a reset that its receiver takes from one that it ignores.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TcpWindow {
    original: Stream,
    reply: Stream,
    // Beside the streams, where they fill no word each: an entry is three cache lines.
    original_seen: bool,
    reply_seen: bool,
}

impl TcpWindow {
    /// Takes note of a segment that passes; `end` is the sequence number after it, `ack` what it acknowledges.
    pub fn observe(&mut self, direction: FlowDirection, seq: u32, end: u32, ack: Option<u32>) {
        let (own, own_seen, other, other_seen) = match direction {
            FlowDirection::Original => (
                &mut self.original,
                &mut self.original_seen,
                &mut self.reply,
                self.reply_seen,
            ),
            FlowDirection::Reply => (
                &mut self.reply,
                &mut self.reply_seen,
                &mut self.original,
                self.original_seen,
            ),
        };
        if !*own_seen {
            *own_seen = true;
            *own = Stream {
                expected: seq,
                next: end,
            };
        } else if end.wrapping_sub(own.next) < 1 << 31 {
            own.next = end;
        }
        // Only what was sent can be acknowledged.
        if let Some(ack) = ack
            && other_seen
            && ack.wrapping_sub(other.expected) <= other.next.wrapping_sub(other.expected)
        {
            other.expected = ack;
        }
    }

    /// Takes note of where a stream is by what its receiver has acknowledged, as long as none of its segments was seen: for
    /// connections that are older than the entry.
    pub fn expect(&mut self, direction: FlowDirection, ack: u32) {
        let (own, seen) = match direction {
            FlowDirection::Original => (&mut self.original, &mut self.original_seen),
            FlowDirection::Reply => (&mut self.reply, &mut self.reply_seen),
        };
        if !*seen {
            *seen = true;
            *own = Stream {
                expected: ack,
                next: ack,
            };
        }
    }

    /// Whether the receiver of a reset takes it: its number lies between what the receiver expects and what was sent
    /// (RFC 5961, 3.2, demands the former; bytes may be under way).
    #[must_use]
    pub const fn takes_reset(&self, direction: FlowDirection, seq: u32) -> bool {
        let (own, seen) = match direction {
            FlowDirection::Original => (&self.original, self.original_seen),
            FlowDirection::Reply => (&self.reply, self.reply_seen),
        };
        seen && seq.wrapping_sub(own.expected) <= own.next.wrapping_sub(own.expected)
    }

    /// Whether `ack` acknowledges everything that the original direction has sent: a server's reset of a SYN (RFC 9293, 3.10.7.3).
    #[must_use]
    pub const fn acknowledges_all(&self, ack: u32) -> bool {
        self.original_seen && ack == self.original.next
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use FlowDirection::{Original, Reply};

    const SYN: TcpFlags = TcpFlags::SYN;
    const SYN_ACK: TcpFlags = TcpFlags::SYN.with(TcpFlags::ACK);
    const ACK: TcpFlags = TcpFlags::ACK;
    const FIN: TcpFlags = TcpFlags::FIN.with(TcpFlags::ACK);
    const RST: TcpFlags = TcpFlags::RST;

    fn run(steps: &[(FlowDirection, TcpFlags)]) -> Result<TcpState, InvalidTransition> {
        steps
            .iter()
            .try_fold(TcpState::SynSent, |state, (direction, flags)| {
                state.next(*direction, *flags)
            })
    }

    #[test]
    fn handshake_then_close_from_either_side_ends_closed() {
        let open = [(Original, SYN), (Reply, SYN_ACK), (Original, ACK)];
        assert_eq!(run(&open), Ok(TcpState::Established));
        for (first, second) in [(Original, Reply), (Reply, Original)] {
            let mut steps = open.to_vec();
            steps.extend([(first, FIN), (second, ACK), (second, FIN), (first, ACK)]);
            assert_eq!(run(&steps), Ok(TcpState::Finished));
        }
    }

    #[test]
    fn connection_of_which_one_side_alone_has_gone_may_begin_anew() {
        let open = [(Original, SYN), (Reply, SYN_ACK), (Original, ACK)];
        for first in [Original, Reply] {
            let mut steps = open.to_vec();
            steps.extend([(first, FIN), (Original, SYN), (Reply, SYN_ACK), (Original, ACK)]);
            assert_eq!(run(&steps), Ok(TcpState::Established), "{first:?}");
        }
    }

    #[test]
    fn data_before_the_handshake_is_invalid() {
        assert_eq!(run(&[(Original, ACK)]), Err(InvalidTransition));
    }

    #[test]
    fn syn_inside_a_connection_is_invalid() {
        let open = [(Original, SYN), (Reply, SYN_ACK), (Original, ACK)];
        for last in [(Reply, SYN), (Original, SYN_ACK)] {
            let mut steps = open.to_vec();
            steps.push(last);
            assert_eq!(run(&steps), Err(InvalidTransition), "{last:?}");
        }
    }

    #[test]
    fn reset_closes_at_once() {
        assert_eq!(run(&[(Reply, RST)]), Ok(TcpState::Closed));
        assert_eq!(
            run(&[(Reply, SYN_ACK), (Original, ACK), (Original, RST)]),
            Ok(TcpState::Closed)
        );
    }

    #[test]
    fn reset_is_taken_only_where_the_receiver_can_be() {
        let mut window = TcpWindow::default();
        window.observe(Original, 100, 101, None);
        window.observe(Reply, 500, 501, Some(101));
        window.observe(Original, 101, 151, Some(501));
        for (seq, taken) in [
            (100, false),
            (101, true),
            (151, true),
            (152, false),
            (9_000, false),
        ] {
            assert_eq!(window.takes_reset(Original, seq), taken, "{seq}");
        }
        window.observe(Reply, 501, 501, Some(151));
        assert!(!window.takes_reset(Original, 101) && window.takes_reset(Original, 151));
        // An acknowledgment of bytes that were never sent moves nothing.
        window.observe(Reply, 501, 501, Some(99_999));
        assert!(window.takes_reset(Original, 151));
    }
}
