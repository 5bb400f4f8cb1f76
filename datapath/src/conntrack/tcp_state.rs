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
    /// Both have sent FIN, or one RST.
    Closed,
}

/// A segment that the state does not allow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InvalidTransition;

impl TcpState {
    /// Whether a SYN may begin a new connection on the same tuple (RFC 9293, 3.6.1: TIME-WAIT reuse).
    #[must_use]
    pub const fn may_reopen(self) -> bool {
        matches!(self, Self::Closed)
    }

    /// Whether the three-way handshake was seen whole.
    #[must_use]
    pub const fn is_synchronised(self) -> bool {
        matches!(self, Self::Established | Self::FinOriginal | Self::FinReply | Self::Closed)
    }

    /// State after a segment with `flags` in `direction`.
    ///
    /// # Errors
    /// The segment makes no sense in this state and must not pass: a SYN inside a connection, a SYN-ACK from the side that began,
    /// data before the handshake.
    pub const fn next(self, direction: FlowDirection, flags: TcpFlags) -> Result<Self, InvalidTransition> {
        use FlowDirection::{Original, Reply};
        if flags.has(TcpFlags::RST) {
            return Ok(Self::Closed);
        }
        if flags.has(TcpFlags::SYN) {
            return match (self, direction, flags.has(TcpFlags::ACK)) {
                // Retransmitted SYN, or the first.
                (Self::SynSent, Original, false) => Ok(Self::SynSent),
                (Self::SynReceived, Original, false) => Ok(Self::SynReceived),
                (Self::SynSent | Self::SynReceived, Reply, true) => Ok(Self::SynReceived),
                // A late retransmission of the SYN-ACK; the receiver acknowledges it again (RFC 9293, 3.10.7.4).
                (Self::Established, Reply, true) => Ok(Self::Established),
                _ => Err(InvalidTransition),
            };
        }
        match self {
            Self::Untracked => Err(InvalidTransition),
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
                (Reply, true) => Ok(Self::Closed),
                _ => Ok(Self::FinOriginal),
            },
            Self::FinReply => match (direction, flags.has(TcpFlags::FIN)) {
                (Original, true) => Ok(Self::Closed),
                _ => Ok(Self::FinReply),
            },
            // The last ACKs and retransmissions.
            Self::Closed => Ok(Self::Closed),
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
            Self::Closed => 10,
        }
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
        steps.iter().try_fold(TcpState::SynSent, |state, (direction, flags)| state.next(*direction, *flags))
    }

    #[test]
    fn handshake_then_close_from_either_side_ends_closed() {
        let open = [(Original, SYN), (Reply, SYN_ACK), (Original, ACK)];
        assert_eq!(run(&open), Ok(TcpState::Established));
        for (first, second) in [(Original, Reply), (Reply, Original)] {
            let mut steps = open.to_vec();
            steps.extend([(first, FIN), (second, ACK), (second, FIN), (first, ACK)]);
            assert_eq!(run(&steps), Ok(TcpState::Closed));
        }
    }

    #[test]
    fn data_before_the_handshake_is_invalid() {
        assert_eq!(run(&[(Original, ACK)]), Err(InvalidTransition));
        assert_eq!(run(&[(Reply, ACK)]), Err(InvalidTransition));
    }

    #[test]
    fn syn_inside_a_connection_is_invalid() {
        let open = [(Original, SYN), (Reply, SYN_ACK), (Original, ACK)];
        for last in [(Original, SYN), (Reply, SYN), (Original, SYN_ACK)] {
            let mut steps = open.to_vec();
            steps.push(last);
            assert_eq!(run(&steps), Err(InvalidTransition), "{last:?}");
        }
    }

    #[test]
    fn reset_closes_at_once() {
        assert_eq!(run(&[(Reply, RST)]), Ok(TcpState::Closed));
        assert_eq!(run(&[(Reply, SYN_ACK), (Original, ACK), (Original, RST)]), Ok(TcpState::Closed));
    }
}
