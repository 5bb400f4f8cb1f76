//! L7: the receiver of a gated flow sees only bytes that the gate has judged.
//!
//! The gate (`l7::HttpGate`) needs the whole connection: the flow must begin with a SYN that the worker saw, the SYN-ACK must
//! acknowledge exactly that SYN, and neither may carry data. Segments that different hosts could understand differently (urgent data,
//! signed segments, Multipath TCP, malformed options) do not pass; a SYN that offers Multipath TCP does without the offer. A denial
//! answers the client, resets the server and ends the flow.
//!
//! Where every direction with rules is in audit mode, nothing is refused: what would be is reported, and at the first thing that is
//! no denied request the gate goes to sleep for the flow. Should rules be enforced on it later, it is one that nobody has seen.

mod audit;
mod report;

use policy::{Direction, DropReason, EndpointKey, HttpIndex, Snapshot};

use self::audit::{auditor, client, sleep};
use self::report::{Sink, event};
use super::audit::Audit;
use super::reset;
use crate::conntrack::{Entry, EntryVerdict, TcpState};
use crate::flow::FlowDirection;
use crate::graph::{Decided, Graph, Refusal, Transit};
use crate::l7_flow::{L7Flow, Phase};
use crate::wire::packet::{L4, TcpHeader};
use crate::wire::tcp::{self, Segment as OwnSegment, Tcp, TcpFlags, TcpOptions};
use crate::xsk::{MAX_CHAIN, Packet};

use l7::{Answer, Denial, GateVerdict, Payload, Segment};

/// What a denied client gets (Cilium's body, `403` and nothing else of the connection).
const FORBIDDEN: &[u8] = b"HTTP/1.1 403 Forbidden\r\ncontent-length: 15\r\ncontent-type: text/plain\r\nconnection: close\r\n\r\nAccess denied\r\n";

/// A server whose bytes nobody acknowledges for so long may have given the connection up without a word (`tcp_write_timeout` in the
/// kernel's `net/ipv4/tcp_timer.c`).
const PATIENCE_NS: u64 = 3_000_000_000;

/// The answer to a SYN is worth nothing to a listener with cookies after so long, and some (`MAX_SYNCOOKIE_AGE` in the kernel's
/// `include/net/tcp.h`, minutes).
const COOKIE_NS: u64 = 240_000_000_000;

/// What became of a segment before the gate.
enum Outcome {
    Pass,
    Refuse(DropReason),
    /// The flow was not seen from its beginning.
    Unknown,
    Denied(Denial),
}

impl Outcome {
    /// Why the segment may not pass.
    const fn reason(&self) -> Option<DropReason> {
        match self {
            Self::Pass => None,
            Self::Refuse(reason) => Some(*reason),
            Self::Unknown => Some(DropReason::Midstream),
            Self::Denied(denial) => Some(denial.reason),
        }
    }
}

/// Judges a packet of a gated flow; returns it if it may pass.
pub fn run(
    graph: &mut Graph,
    mut transit: Transit,
    decided: &Decided,
    outbox: &mut Vec<(EndpointKey, Packet)>,
) -> Option<Transit> {
    let Some(entry) = graph.conntrack.get(decided.entry).copied() else {
        refuse(graph, transit, None, DropReason::StaleEndpoint);
        return None;
    };
    let auditor = auditor(&graph.snapshot, &entry);
    if let Some(direction) = auditor {
        if entry.audited.l7 {
            return Some(transit);
        }
        if transit.headers.fragment.is_some() || !matches!(transit.headers.l4, L4::Tcp(_)) {
            let audit = Audit::of_gate(DropReason::FragmentUnsupported, direction);
            sleep(graph, &transit, &entry, decided, audit, &mut Sink::default());
            return Some(transit);
        }
    }
    let L4::Tcp(tcp) = transit.headers.l4 else {
        // Rules with `http` demand TCP; a fragment has no header to judge.
        refuse(graph, transit, Some(&entry), DropReason::FragmentUnsupported);
        return None;
    };
    if transit.headers.fragment.is_some() {
        refuse(graph, transit, Some(&entry), DropReason::FragmentUnsupported);
        return None;
    }
    let mut sink = Sink::default();
    let outcome = match tcp.flags.has(TcpFlags::SYN) {
        // It went by unjudged while its rules were audited.
        _ if entry.audited.l7 => Outcome::Unknown,
        true => handshake(graph, &mut transit, &tcp, decided, &entry),
        false => judge(graph, &transit, &tcp, decided, &entry, &mut sink),
    };
    if let (Some(direction), Some(reason)) = (auditor, outcome.reason()) {
        sleep(
            graph,
            &transit,
            &entry,
            decided,
            Audit::of_gate(reason, direction),
            &mut sink,
        );
        return Some(transit);
    }
    let reported = sink.count;
    if reported > 0 || sink.requests() > 0 {
        sink.deliver(graph, &event(graph, &transit, &entry, decided.direction));
    }
    match outcome {
        Outcome::Pass => return Some(transit),
        Outcome::Refuse(DropReason::L7Closed) => {
            // What a client still sends after its 403 is answered with a reset; its FIN too, so that its socket ends. A server
            // that the first reset missed, because bytes before it got lost, says where it is (RFC 5961, 3.2) and is reset there.
            let is_client = decided.direction == FlowDirection::Original;
            if !is_client || tcp.flags.has(TcpFlags::FIN) || transit.headers.payload_len() > 0 {
                reset::answer(graph, &transit, outbox);
            }
            refuse(graph, transit, Some(&entry), DropReason::L7Closed);
        }
        Outcome::Refuse(reason) => refuse(graph, transit, Some(&entry), reason),
        Outcome::Unknown => {
            reset::both(graph, &transit, &entry, decided, outbox);
            end(graph, decided, &entry);
            refuse(graph, transit, Some(&entry), DropReason::Midstream);
        }
        Outcome::Denied(denial) => {
            answer(graph, &entry, &denial, outbox);
            end(graph, decided, &entry);
            let refusal = Refusal {
                reason: denial.reason,
                direction: denial.direction,
                rule: None,
            };
            if reported > 0 {
                let sender = transit.sender;
                graph.drop_packet(transit.packet, sender, refusal, None);
            } else {
                graph.refuse(
                    transit,
                    entry.source_identity,
                    entry.destination_identity,
                    refusal,
                );
            }
        }
    }
    None
}

fn refuse(graph: &mut Graph, transit: Transit, entry: Option<&Entry>, reason: DropReason) {
    let unknown = policy::Identity::UNKNOWN;
    let (source, destination) = entry.map_or((unknown, unknown), |e| {
        (e.source_identity, e.destination_identity)
    });
    graph.refuse(transit, source, destination, reason.into());
}

/// Ends a flow for good.
fn end(graph: &mut Graph, decided: &Decided, entry: &Entry) {
    if let Some(index) = entry.l7 {
        graph.l7.close(index);
    }
    if let Some(entry) = graph.conntrack.get_mut(decided.entry) {
        entry.tcp = TcpState::Closed;
        entry.audited.l7 = false;
    }
}

/// SYN and SYN-ACK: where the two streams begin.
fn handshake(
    graph: &mut Graph,
    transit: &mut Transit,
    tcp: &TcpHeader,
    decided: &Decided,
    entry: &Entry,
) -> Outcome {
    if transit.headers.payload_len() > 0 || tcp.flags.has(TcpFlags::URG) {
        // TCP Fast Open: the client sends it again without data.
        return Outcome::Refuse(DropReason::InvalidTcp);
    }
    let options = match options(graph, transit) {
        Ok(options) if !options.is_signed => options,
        _ => return Outcome::Refuse(DropReason::InvalidTcp),
    };
    if options.is_multipath {
        let is_offer = !tcp.flags.has(TcpFlags::ACK);
        if !(is_offer && withdraw_multipath(graph, transit)) {
            return Outcome::Refuse(DropReason::InvalidTcp);
        }
    }
    let timestamp = options.timestamps.map(|t| t.value);
    let next = tcp.seq.wrapping_add(1);
    if decided.direction == FlowDirection::Original && entry.l7.is_none() {
        // A connection that was open before its rules came is not made judgeable by another SYN.
        if entry.tcp.is_synchronised() {
            return Outcome::Unknown;
        }
        let Some(index) = graph.l7.begin(transit.sender.slot, next) else {
            return Outcome::Refuse(DropReason::L7Capacity);
        };
        if let Some(entry) = graph.conntrack.get_mut(decided.entry) {
            entry.l7 = Some(index);
        }
        if let Some(flow) = graph.l7.get_mut(index) {
            flow.client_timestamp = timestamp;
        }
        return Outcome::Pass;
    }
    let now = graph.clock.mono_ns;
    let Some(flow) = entry.l7.and_then(|index| graph.l7.get_mut(index)) else {
        return Outcome::Unknown;
    };
    match (decided.direction, flow.phase) {
        (_, Phase::Closed) => Outcome::Refuse(DropReason::L7Closed),
        // Nobody has answered yet: the client may begin anew, and only the SYN-ACK to this SYN opens the gate.
        (FlowDirection::Original, Phase::SynSeen { .. }) => {
            flow.phase = Phase::SynSeen { client_next: next };
            flow.client_timestamp = timestamp;
            Outcome::Pass
        }
        (FlowDirection::Original, Phase::Open { client_next, .. }) => {
            flow.pending = (client_next != next).then_some(next);
            Outcome::Pass
        }
        (FlowDirection::Reply, Phase::SynSeen { client_next }) => {
            if tcp.ack != client_next || !flow.open(client_next, next, now) {
                return Outcome::Refuse(DropReason::InvalidTcp);
            }
            flow.server_timestamp = timestamp;
            flow.server_window = tcp.window;
            if timestamp.is_none() {
                flow.client_timestamp = None;
            }
            Outcome::Pass
        }
        (
            FlowDirection::Reply,
            Phase::Open {
                client_next,
                server_next,
            },
        ) => {
            let is_repeated = tcp.ack == client_next && server_next == next;
            // The server answers the pending SYN: it has forgotten the connection, and this one takes its place.
            let is_new = flow.pending == Some(tcp.ack) && flow.open(tcp.ack, next, now);
            if is_new {
                flow.server_timestamp = timestamp;
                flow.client_timestamp = timestamp.and(flow.client_timestamp);
            }
            if is_repeated || is_new {
                Outcome::Pass
            } else {
                Outcome::Refuse(DropReason::InvalidTcp)
            }
        }
    }
}

/// The gate judges bytes in the order of their sequence numbers, and a receiver of Multipath TCP reads them in another.
fn withdraw_multipath(graph: &mut Graph, transit: &mut Transit) -> bool {
    let (offset, checksum) = (transit.headers.l4_offset(), transit.checksum);
    let linear = graph.frames.linear_mut(&mut transit.packet);
    let options = transit.headers.payload_offset();
    linear
        .get_mut(offset..options)
        .is_some_and(|header| tcp::remove_multipath(header, checksum))
}

fn options(graph: &Graph, transit: &Transit) -> Result<TcpOptions, DropReason> {
    let linear = graph.frames.linear(&transit.packet);
    let segment = linear
        .get(transit.headers.l4_offset()..)
        .ok_or(DropReason::TruncatedHeader)?;
    Tcp::parse(segment, transit.headers.l4_len())?.scan_options()
}

/// Everything after the handshake.
fn judge(
    graph: &mut Graph,
    transit: &Transit,
    tcp: &TcpHeader,
    decided: &Decided,
    entry: &Entry,
    sink: &mut Sink,
) -> Outcome {
    let options = match options(graph, transit) {
        Ok(options) if !options.is_signed && !options.is_multipath && !tcp.flags.has(TcpFlags::URG) => {
            options
        }
        _ => return Outcome::Refuse(DropReason::InvalidTcp),
    };
    let now = graph.clock.mono_ns;
    let Some(flow) = entry.l7.and_then(|index| graph.l7.get_mut(index)) else {
        return Outcome::Unknown;
    };
    match flow.phase {
        Phase::Open { .. } => {}
        Phase::Closed => return Outcome::Refuse(DropReason::L7Closed),
        Phase::SynSeen { .. } if tcp.flags.has(TcpFlags::RST) => return Outcome::Pass,
        // A server that has an older connection says so, and the client resets that one.
        Phase::SynSeen { .. }
            if decided.direction == FlowDirection::Reply
                && transit.headers.payload_len() == 0
                && !tcp.flags.has(TcpFlags::FIN) =>
        {
            return Outcome::Pass;
        }
        Phase::SynSeen { .. } => return Outcome::Refuse(DropReason::InvalidTcp),
    }
    if tcp.flags.has(TcpFlags::RST) {
        // A reset that the server ignores would end the judgement of a connection that goes on.
        let is_exact = decided.direction == FlowDirection::Reply || tcp.seq == flow.gate.client_next();
        return if is_exact {
            if decided.direction == FlowDirection::Original || flow.gate.has_sent(tcp.seq) {
                flow.gate.end();
            }
            Outcome::Pass
        } else {
            Outcome::Refuse(DropReason::InvalidTcp)
        };
    }
    let mut slices: [&[u8]; MAX_CHAIN] = [&[]; MAX_CHAIN];
    let mut skip = transit.headers.payload_offset();
    for (slice, segment) in slices.iter_mut().zip(graph.frames.segments(&transit.packet)) {
        let skipped = skip.min(segment.len());
        skip -= skipped;
        *slice = segment.get(skipped..).unwrap_or_default();
    }
    let segment = Segment {
        seq: tcp.seq,
        ack: tcp.ack,
        payload: Payload::new(&slices),
        fin: tcp.flags.has(TcpFlags::FIN),
    };
    let (awaited, is_answered) = (flow.gate.awaits_acknowledgment(), flow.gate.is_answered());
    let verdict = match decided.direction {
        FlowDirection::Original => {
            let is_young = now.saturating_sub(flow.opened_ns) < COOKIE_NS;
            let waits = is_young && now.saturating_sub(flow.unacknowledged_ns) > PATIENCE_NS;
            if waits && flow.gate.may_begin_anew(&segment) {
                return Outcome::Unknown;
            }
            // It has had time to read the answer, and would go on sending into nothing.
            let was_answered = is_answered && now.saturating_sub(flow.answered_ns) > PATIENCE_NS;
            if was_answered && !segment.payload.is_empty() {
                return Outcome::Unknown;
            }
            remember(&mut flow.client_timestamp, options.timestamps.map(|t| t.value));
            match rules(&graph.snapshot, entry) {
                Err(reason) => return Outcome::Refuse(reason),
                // A gated flow without rules is a contradiction: nothing passes.
                Ok([None, None]) => return Outcome::Refuse(DropReason::EndpointNotReady),
                Ok(sets) => client(flow, &segment, sets, sink),
            }
        }
        FlowDirection::Reply => {
            remember(&mut flow.server_timestamp, options.timestamps.map(|t| t.value));
            flow.server_window = tcp.window;
            flow.gate.server(&segment, sink)
        }
    };
    if flow.gate.awaits_acknowledgment() != awaited {
        flow.unacknowledged_ns = now;
    }
    if !is_answered && flow.gate.is_answered() {
        flow.answered_ns = now;
    }
    match verdict {
        GateVerdict::Forward => Outcome::Pass,
        GateVerdict::Drop(reason) => Outcome::Refuse(reason),
        GateVerdict::Deny(denial) => Outcome::Denied(denial),
    }
}

/// Keeps the newest timestamp of a side that uses them (RFC 7323, 4.3: compared modulo 2^32).
fn remember(known: &mut Option<u32>, seen: Option<u32>) {
    if let (Some(known), Some(seen)) = (known, seen)
        && seen.wrapping_sub(*known) < 1 << 31
    {
        *known = seen;
    }
}

/// The rules of one direction.
#[derive(Clone, Copy)]
struct RuleSet<'a> {
    direction: Direction,
    rules: &'a policy::HttpRuleSet,
    audit: bool,
}

impl<'a> RuleSet<'a> {
    const fn named(self) -> (Direction, &'a policy::HttpRuleSet) {
        (self.direction, self.rules)
    }
}

type RuleSets<'a> = [Option<RuleSet<'a>>; 2];

/// The rule sets that judge the flow now.
fn rules<'a>(snapshot: &'a Snapshot, entry: &Entry) -> Result<RuleSets<'a>, DropReason> {
    let EntryVerdict::AllowHttp { egress, ingress } = entry.verdict else {
        return Err(DropReason::EndpointNotReady);
    };
    let find = |key: EndpointKey, index: Option<HttpIndex>, direction| match index {
        None => Ok(None),
        Some(index) => snapshot
            .endpoint(key)
            .and_then(|policy| Some((policy.audit, policy.http(index)?)))
            .map(|(audit, rules)| {
                Some(RuleSet {
                    direction,
                    rules,
                    audit,
                })
            })
            .ok_or(DropReason::EndpointNotReady),
    };
    Ok([
        find(entry.source, egress, Direction::Egress)?,
        find(entry.destination, ingress, Direction::Ingress)?,
    ])
}

/// Tells both ends that the flow is over.
fn answer(graph: &mut Graph, entry: &Entry, denial: &Denial, outbox: &mut Vec<(EndpointKey, Packet)>) {
    let flow = entry.l7.and_then(|index| graph.l7.get_mut(index));
    let (timestamps, window) = flow.map_or((None, 0), |flow: &mut L7Flow| {
        (flow.server_option(), flow.server_window)
    });
    // The client sees the frontend, where there is one, and its own address.
    let (server, client) = match entry.translation {
        Some(translation) => (translation.frontend, translation.client),
        None => (entry.key.destination, entry.key.source),
    };
    let to_client = OwnSegment {
        source: server.addr(),
        destination: client.addr(),
        source_port: server.port,
        destination_port: client.port,
        seq: denial.server_seq,
        ack: denial.client_ack,
        flags: TcpFlags::RST.with(TcpFlags::ACK),
        window,
        timestamps: None,
        payload: &[],
    };
    let to_client = match denial.answer {
        Answer::Reset => to_client,
        Answer::Forbidden => OwnSegment {
            flags: TcpFlags::ACK.with(TcpFlags::PSH).with(TcpFlags::FIN),
            timestamps,
            payload: FORBIDDEN,
            ..to_client
        },
    };
    let to_server = OwnSegment {
        source: entry.key.source.addr(),
        destination: entry.key.destination.addr(),
        source_port: entry.key.source.port,
        destination_port: entry.key.destination.port,
        seq: denial.server_reset_seq,
        ack: denial.server_seq,
        flags: TcpFlags::RST.with(TcpFlags::ACK),
        window: 0,
        timestamps: None,
        payload: &[],
    };
    for (receiver, segment) in [(entry.source, to_client), (entry.destination, to_server)] {
        if let Some(packet) = graph.build(receiver, None, |_, ip| segment.write(ip)) {
            graph.send_own(receiver, packet, outbox);
        }
    }
}
