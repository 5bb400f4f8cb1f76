//! How a packet leaves the graph: sent on or dropped, and counted, captured and reported either way.

use policy::{DropReason, EndpointKey, Identity, Verdict};

use super::{Decided, Graph, Refusal, Transit};
use crate::capture::CapturedPacket;
use crate::event::{FlowEvent, FlowEventKind};
use crate::xsk::Packet;

impl Graph {
    /// Drops a packet of a flow that policy allows.
    pub(crate) fn refuse_flow(&mut self, transit: Transit, decided: &Decided, reason: DropReason) {
        let unknown = (Identity::UNKNOWN, Identity::UNKNOWN);
        let entry = self.conntrack.get(decided.entry);
        let (source, destination) = entry.map_or(unknown, |e| (e.source_identity, e.destination_identity));
        self.refuse(transit, source, destination, reason.into());
    }

    /// Sends a packet on; the last thing that happens to it here.
    pub(crate) fn send(
        &mut self,
        receiver: EndpointKey,
        packet: Packet,
        sender: EndpointKey,
        outbox: &mut Vec<(EndpointKey, Packet)>,
    ) {
        self.record(&packet, sender, Verdict::Forwarded);
        outbox.push((receiver, packet));
    }

    /// Counts a packet that the worker made itself, and sends it.
    pub(crate) fn send_own(
        &mut self,
        receiver: EndpointKey,
        packet: Packet,
        outbox: &mut Vec<(EndpointKey, Packet)>,
    ) {
        self.counters.generated.add(1);
        self.send(receiver, packet, receiver, outbox);
    }

    /// Drops a packet that has no flow yet: counted, captured, reported.
    pub(crate) fn drop_packet(
        &mut self,
        packet: Packet,
        sender: EndpointKey,
        refusal: Refusal,
        event: Option<FlowEvent>,
    ) {
        self.counters
            .drop_packet(refusal.reason, refusal.direction, sender.slot);
        self.record(&packet, sender, Verdict::Dropped(refusal.reason));
        self.frames.release(packet);
        if let Some(event) = event {
            self.report(event);
        }
    }

    /// Drops a packet of a flow.
    pub(crate) fn refuse(
        &mut self,
        transit: Transit,
        source: Identity,
        destination: Identity,
        refusal: Refusal,
    ) {
        let kind = FlowEventKind::Dropped {
            reason: refusal.reason,
            direction: refusal.direction,
            rule: refusal.rule,
        };
        let event = self.event(&transit, source, destination, kind);
        self.drop_packet(transit.packet, transit.sender, refusal, Some(event));
    }

    /// A packet that was forwarded could not be queued.
    pub fn undeliverable(&mut self, packet: Packet, reason: DropReason, receiver: EndpointKey) {
        self.counters.drop_packet(reason, None, receiver.slot);
        self.record(&packet, receiver, Verdict::Dropped(reason));
        self.frames.release(packet);
    }

    /// An event of this packet.
    pub(crate) fn event(
        &self,
        transit: &Transit,
        source: Identity,
        destination: Identity,
        kind: FlowEventKind,
    ) -> FlowEvent {
        let key = &transit.key;
        FlowEvent {
            time_ns: self.clock.unix_ns,
            revision: self.snapshot.revision,
            source: transit.sender,
            destination: self.interfaces.endpoint_at(key.destination.addr()),
            source_identity: source,
            destination_identity: destination,
            source_addr: key.source.addr(),
            destination_addr: key.destination.addr(),
            source_port: key.source.port,
            destination_port: key.policy_port(),
            service: transit
                .translated
                .map(|t| (t.translation.frontend.addr(), t.translation.frontend.port)),
            protocol: key.protocol,
            is_reply: false,
            kind,
        }
    }

    /// Tells the agent; a full ring loses the event, not the packet.
    pub(crate) fn report(&self, event: FlowEvent) {
        if self.events.push(event).is_err() {
            self.counters.events_lost.add(1);
        }
    }

    fn record(&self, packet: &Packet, sender: EndpointKey, verdict: Verdict) {
        let Some(snaplen) = self.capture.snaplen() else {
            return;
        };
        let mut bytes = Vec::with_capacity(snaplen.min(packet.len()));
        for segment in self.frames.segments(packet) {
            let room = snaplen.saturating_sub(bytes.len());
            bytes.extend(segment.iter().take(room));
        }
        let len = u32::try_from(packet.len()).unwrap_or(u32::MAX);
        let copy = CapturedPacket {
            time_ns: self.clock.unix_ns,
            sender,
            verdict,
            len,
            bytes,
        };
        if !self.capture.push(copy) {
            self.counters.captures_lost.add(1);
        }
    }
}
