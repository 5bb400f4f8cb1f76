//! The HTTP gate of one TCP flow: which segments pass, and what is said when none may any more.
//!
//! A segment passes as a whole or not at all, and at once: nothing is held. That is safe because a receiver cannot act on a
//! request head before its end, and the segment that ends one (or ends its request line) passes only if everything in it is
//! good. Rules that name a host or headers decide at the end of the head, the others at the end of the request line. Segments
//! that begin after the judged bytes are dropped until TCP has filled the hole; those that repeat judged bytes must repeat them
//! exactly as long as the server may still take them (see [`crate::sequence`]).
//!
//! The caller delivers segments that are valid for both ends (checksum, window, PAWS), without SYN, RST and urgent data, and
//! obeys the verdict: after [`GateVerdict::Deny`] it answers the client as told, resets the server, and forwards nothing more
//! of the flow.

use policy::{Direction, DropReason, HttpRuleSet};

use crate::http1::request::{Fault, FaultPlace, RequestParser, Stop};
use crate::http1::response::{Outstanding, ResponseTracker};
use crate::segment::Segment;
use crate::sequence::{JudgedStream, Place, StreamMark};
use crate::server::ServerStream;

/// Rule sets of the flow: each must allow every request. Without any, well-formed HTTP passes.
pub type Rules<'a> = &'a [(Direction, &'a HttpRuleSet)];

/// Takes what the gate saw, for flow events.
pub trait L7Sink {
    /// A request was judged, once per request: forwarded (`denied` is `None`), or denied for a reason and, where rules deny it, by
    /// the rules of a direction. What came of a malformed request's method and path is given as sent, else both are empty.
    fn request(&mut self, method: &[u8], path: &[u8], denied: Option<(DropReason, Option<Direction>)>);

    /// A response head went by.
    fn response(&mut self, status: u16);
}

/// How the client is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Answer {
    /// `403 Forbidden`, then FIN: the denied request is the next one that the client expects an answer to.
    Forbidden,
    /// RST: a 403 would be taken for the answer to another request, would land inside a response, or would not be understood.
    Reset,
}

/// A flow that ends here.
#[must_use]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Denial {
    /// Why.
    pub reason: DropReason,
    /// The policy direction whose rules deny the request.
    pub direction: Option<Direction>,
    /// What the client gets.
    pub answer: Answer,
    /// Acknowledgment number of the answer: the end of the denied segment, so that the client repeats nothing.
    pub client_ack: u32,
    /// Sequence number of the answer: after the highest server byte (or FIN) that was forwarded.
    pub server_seq: u32,
    /// Sequence number of the RST to the server: after the highest client byte (or FIN) that was forwarded, which is the server's
    /// RCV.NXT (RFC 5961, section 3.2, accepts no other).
    pub server_reset_seq: u32,
}

/// What becomes of a segment.
#[must_use]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum GateVerdict {
    /// Sent on unchanged.
    Forward,
    /// Not sent on; the flow continues.
    Drop(DropReason),
    /// Not sent on; the flow ends.
    Deny(Denial),
}

/// One L7 flow.
#[derive(Debug)]
pub struct HttpGate {
    client: JudgedStream,
    parser: RequestParser,
    outstanding: Outstanding,
    responses: ResponseTracker,
    server: ServerStream,
    /// One side was reset, or both have all that the other will ever send: the server has forgotten the connection, or will.
    is_over: bool,
    /// The server has answered another SYN of these ports before. A listener with cookies may still believe that answer: until the
    /// server has acknowledged something, nothing but the beginning of the stream passes.
    has_predecessor: bool,
    is_closed: bool,
}

/// Everything that judging a segment changes.
struct Checkpoint {
    stream: StreamMark,
    parser: RequestParser,
    outstanding: Outstanding,
}

/// Takes no notice.
struct Silent;

impl L7Sink for Silent {
    fn request(&mut self, _: &[u8], _: &[u8], _: Option<(DropReason, Option<Direction>)>) {}
    fn response(&mut self, _: u16) {}
}

/// Reports allowed requests as denied: they shared a segment with the one that is.
struct Denied<'a, S> {
    sink: &'a mut S,
    reason: DropReason,
    direction: Option<Direction>,
}

impl<S: L7Sink> L7Sink for Denied<'_, S> {
    fn request(&mut self, method: &[u8], path: &[u8], _: Option<(DropReason, Option<Direction>)>) {
        self.sink
            .request(method, path, Some((self.reason, self.direction)));
    }
    fn response(&mut self, _: u16) {}
}

impl HttpGate {
    /// A gate for a flow whose SYN and SYN-ACK went by: the sequence numbers of the first byte in either direction.
    /// Reserves all memory it will ever use.
    #[must_use]
    pub fn new(client_next_seq: u32, server_next_seq: u32) -> Self {
        Self {
            client: JudgedStream::new(client_next_seq),
            parser: RequestParser::new(client_next_seq),
            outstanding: Outstanding::default(),
            responses: ResponseTracker::default(),
            server: ServerStream::new(server_next_seq),
            is_over: false,
            has_predecessor: false,
            is_closed: false,
        }
    }

    /// Begins a new flow in the memory of this one; `has_predecessor` if the server has answered another SYN of its ports of late.
    pub fn reset(&mut self, client_next_seq: u32, server_next_seq: u32, has_predecessor: bool) {
        self.client.reset(client_next_seq);
        self.parser = RequestParser::new(client_next_seq);
        self.outstanding = Outstanding::default();
        self.responses = ResponseTracker::default();
        self.server = ServerStream::new(server_next_seq);
        self.is_over = false;
        self.has_predecessor = has_predecessor;
        self.is_closed = false;
    }

    /// Memory of the gate, heap included, bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        size_of::<Self>() + self.client.heap_bytes()
    }

    /// Sequence number after the highest client byte (or FIN) that was forwarded: the server's RCV.NXT, if nothing was lost.
    #[must_use]
    pub fn client_next(&self) -> u32 {
        self.client
            .next()
            .wrapping_add(u32::from(self.client.is_finished()))
    }

    /// Whether the flow was denied.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.is_closed
    }

    /// Takes back the denial of a client's segment: the gate stands where it stood before the segment, which may be judged again,
    /// by other rules.
    pub fn pardon(&mut self) {
        self.is_closed = false;
    }

    /// A reset of the client went by, or one of the server whose sequence number the client may take.
    pub fn end(&mut self) {
        self.is_over = true;
    }

    /// Whether `seq` of the server's lies within what it has sent; a reset that lies elsewhere ends nothing.
    #[must_use]
    pub fn has_sent(&self, seq: u32) -> bool {
        self.server.may_acknowledge(seq)
    }

    /// Whether the server has sent its FIN: no payload passes any more.
    #[must_use]
    pub fn is_answered(&self) -> bool {
        self.server.is_finished()
    }

    /// What the client has acknowledged, if that is not all: a change of it is progress.
    #[must_use]
    pub fn awaits_acknowledgment(&self) -> Option<u32> {
        (!self.server.is_received()).then(|| self.server.acknowledged())
    }

    /// Whether a listener whose connection has died of its own could take the segment for the last one of a handshake; to be asked
    /// where the client has acknowledged nothing for a while, and answered with a reset.
    #[must_use]
    pub fn may_begin_anew(&self, segment: &Segment<'_>) -> bool {
        let distance = segment.seq.wrapping_sub(self.client.first());
        !self.server.is_received()
            && (self.has_predecessor || self.server.resembles_handshake(distance, segment.ack))
    }

    /// Judges a segment of the client.
    pub fn client(&mut self, segment: &Segment<'_>, rules: Rules<'_>, sink: &mut impl L7Sink) -> GateVerdict {
        if self.is_closed {
            return GateVerdict::Drop(DropReason::L7Closed);
        }
        if !self.server.may_acknowledge(segment.ack) {
            return GateVerdict::Drop(DropReason::InvalidTcp);
        }
        // The server has nothing more to send or to receive.
        self.is_over |= self.client.is_received() && self.server.is_finished() && self.server.is_received();
        let is_empty = segment.payload.is_empty() && !segment.fin;
        if self.is_over && !is_empty {
            return GateVerdict::Drop(DropReason::L7Closed);
        }
        // A server that has sent its FIN has answered; how long it keeps the connection is not for the client to say.
        if self.server.is_finished() && !segment.payload.is_empty() {
            return GateVerdict::Drop(DropReason::InvalidTcp);
        }
        let is_begun = self.client.is_begun() || self.server.is_begun();
        if self.has_predecessor && !is_begun && segment.seq != self.client.first() {
            return GateVerdict::Drop(DropReason::L7OutOfOrder);
        }
        let verdict = if is_empty {
            self.acknowledgment(segment)
        } else {
            self.content(segment, rules, sink)
        };
        if verdict == GateVerdict::Forward {
            self.server.acknowledge(segment.ack);
        }
        verdict
    }

    /// Judges a segment of the client that only acknowledges.
    fn acknowledgment(&self, segment: &Segment<'_>) -> GateVerdict {
        // One that comes after a lost segment, or, before the first byte, to keep the connection alive (RFC 9293, 3.8.4).
        let is_probe = segment.seq == self.client.first().wrapping_sub(1);
        match self.client.place(segment.seq, 0) {
            Place::Judged { .. } => GateVerdict::Forward,
            Place::Impossible if is_probe => GateVerdict::Forward,
            Place::Impossible => GateVerdict::Drop(DropReason::InvalidTcp),
            _ if segment.seq == self.client_next() => GateVerdict::Forward,
            // The server has shown where the stream begins for it.
            Place::Ahead if self.client.is_begun() || self.server.is_begun() => GateVerdict::Forward,
            Place::Ahead => GateVerdict::Drop(DropReason::L7OutOfOrder),
        }
    }

    /// Judges a segment of the client with payload or FIN.
    fn content(&mut self, segment: &Segment<'_>, rules: Rules<'_>, sink: &mut impl L7Sink) -> GateVerdict {
        let len = segment.payload.len();
        let old = match self.client.place(segment.seq, len) {
            Place::Judged { old } => old,
            Place::Ahead => return GateVerdict::Drop(DropReason::L7OutOfOrder),
            Place::Impossible => return GateVerdict::Drop(DropReason::InvalidTcp),
        };
        if old < len && self.client.is_finished() {
            return GateVerdict::Drop(DropReason::InvalidTcp);
        }
        if !self.client.agrees(segment.seq, &segment.payload, old) {
            return self.deny(
                segment.end_with_fin(),
                DropReason::L7Mismatch,
                None,
                Answer::Reset,
            );
        }
        // A FIN before the end of the judged bytes: a server that has not got those yet would take the shorter stream.
        let ends_early = segment.fin && old == len && segment.end() != self.client.next();
        if ends_early && !self.client.is_acknowledged(segment.end()) {
            return self.deny(
                segment.end_with_fin(),
                DropReason::L7Mismatch,
                None,
                Answer::Reset,
            );
        }
        if old == len && (!segment.fin || ends_early) {
            return GateVerdict::Forward;
        }
        self.client.reclaim(len - old);
        self.parser.begin_segment();
        let checkpoint = Checkpoint {
            stream: self.client.mark(),
            parser: self.parser,
            outstanding: self.outstanding,
        };
        match self.judge(segment, old, rules, &mut Silent) {
            Ok(()) => {
                match (self.parser.judged(), self.parser.last()) {
                    (0, _) | (_, None) => {}
                    (1, Some(request)) => request.report(&self.client, sink),
                    // Only now is it known that all of them pass.
                    _ => {
                        self.rewind(&checkpoint);
                        let repeated = self.judge(segment, old, rules, sink);
                        debug_assert_eq!(repeated, Ok(()), "judging is deterministic");
                    }
                }
                if segment.fin {
                    self.client.finish();
                }
                GateVerdict::Forward
            }
            Err(Stop::Full) => {
                self.rewind(&checkpoint);
                if self.client.can_reclaim() {
                    GateVerdict::Drop(DropReason::L7Capacity)
                } else {
                    // More framing in one segment than a flow may ever have.
                    self.deny(
                        segment.end_with_fin(),
                        DropReason::HttpMalformed,
                        None,
                        Answer::Reset,
                    )
                }
            }
            Err(Stop::Fault(fault)) => self.deny_fault(segment, old, rules, &checkpoint, fault, sink),
        }
    }

    /// Judges a segment of the server.
    pub fn server(&mut self, segment: &Segment<'_>, sink: &mut impl L7Sink) -> GateVerdict {
        if self.is_closed {
            return GateVerdict::Drop(DropReason::L7Closed);
        }
        self.client.acknowledge(segment.ack);
        let len = segment.payload.len();
        let behind = self.server.next().wrapping_sub(segment.seq);
        let is_ahead = behind > 1 << 31;
        let old = if is_ahead { 0 } else { behind.min(len) };
        if old < len {
            if is_ahead {
                self.responses.skip(segment.seq.wrapping_sub(self.server.next()));
            }
            for slice in segment.payload.from_offset(old) {
                let fed = self
                    .responses
                    .feed(slice, &mut self.outstanding, |status| sink.response(status));
                if fed.is_err() {
                    return self.deny(self.client.next(), DropReason::NotHttp, None, Answer::Reset);
                }
            }
            self.server.advance(segment.end());
        }
        if segment.fin {
            self.server.finish();
        }
        GateVerdict::Forward
    }

    /// Feeds the new bytes of `segment`, and its FIN, to the parser.
    fn judge(
        &mut self,
        segment: &Segment<'_>,
        old: u32,
        rules: Rules<'_>,
        sink: &mut impl L7Sink,
    ) -> Result<(), Stop> {
        for slice in segment.payload.from_offset(old) {
            self.parser
                .feed(slice, &mut self.client, &mut self.outstanding, rules, sink)?;
        }
        if segment.fin { self.parser.finish() } else { Ok(()) }
    }

    fn rewind(&mut self, checkpoint: &Checkpoint) {
        self.client.rewind(&checkpoint.stream);
        self.parser = checkpoint.parser;
        self.outstanding = checkpoint.outstanding;
    }

    fn deny_fault(
        &mut self,
        segment: &Segment<'_>,
        old: u32,
        rules: Rules<'_>,
        checkpoint: &Checkpoint,
        fault: Fault,
        sink: &mut impl L7Sink,
    ) -> GateVerdict {
        let Fault {
            reason,
            direction,
            place,
        } = fault;
        if self.parser.judged() > 0 {
            self.rewind(checkpoint);
            let mut denied = Denied {
                sink: &mut *sink,
                reason,
                direction,
            };
            let repeated = self.judge(segment, old, rules, &mut denied);
            debug_assert_eq!(repeated, Err(Stop::Fault(fault)), "judging is deterministic");
        }
        if place != FaultPlace::Body {
            let (method, path) = self.parser.partial(&self.client);
            sink.request(method, path, Some((reason, direction)));
        }
        // A 403 answers the oldest request without a response; that must be the denied one, and the client must have got
        // everything before.
        let is_first = checkpoint.stream.next().wrapping_sub(self.parser.begin()) <= 1 << 31;
        let is_quiet = checkpoint.outstanding.is_empty() && self.responses.is_between_responses();
        let is_current = segment.ack == self.server.next() && !self.server.is_finished();
        let answer = if place == FaultPlace::Head
            && is_first
            && is_quiet
            && is_current
            && reason != DropReason::NotHttp
        {
            Answer::Forbidden
        } else {
            Answer::Reset
        };
        self.rewind(checkpoint);
        self.deny(segment.end_with_fin(), reason, direction, answer)
    }

    /// Closes the flow; the client's stream stands where it was before the denied segment, which ends at `client_end`.
    fn deny(
        &mut self,
        client_end: u32,
        reason: DropReason,
        direction: Option<Direction>,
        answer: Answer,
    ) -> GateVerdict {
        self.is_closed = true;
        let forwarded = self
            .client
            .next()
            .wrapping_add(u32::from(self.client.is_finished()));
        let is_newer = client_end.wrapping_sub(forwarded) < 1 << 31;
        GateVerdict::Deny(Denial {
            reason,
            direction,
            answer,
            client_ack: if is_newer { client_end } else { forwarded },
            server_seq: self.server.end(),
            server_reset_seq: forwarded,
        })
    }
}

#[cfg(test)]
mod tests;
