//! ICMP errors: those that the worker sends itself, and those of others, relayed to whom they concern.

use policy::{DropReason, EndpointKey, Identity, Slot};

use super::{forward, parse, policy as decision};
use crate::conntrack::EntryVerdict;
use crate::flow::FlowDirection;
use crate::flow::FlowKey;
use crate::graph::{Graph, Refusal, Tracked, Transit};
use crate::wire::error_message::ErrorMessage;
use crate::wire::rewrite::Side;
use crate::xsk::Packet;

/// Errors that one interface may cause a second (RFC 1812, 4.3.2.8).
const PER_SECOND: u64 = 200;

/// Errors that it may cause at once.
const BURST: u64 = 50;

/// Interfaces that are accounted for.
const SLOTS: usize = 4096;

#[derive(Debug, Clone, Copy)]
struct Account {
    /// Thousandths of an error.
    left: u64,
    refilled_at_ns: u64,
}

/// How many ICMP errors each interface may still cause: none can use up those that another's path MTU discovery depends on.
#[derive(Debug)]
pub struct ErrorBudget {
    accounts: Vec<Account>,
}

impl Default for ErrorBudget {
    fn default() -> Self {
        Self {
            accounts: vec![
                Account {
                    left: BURST * 1000,
                    refilled_at_ns: 0
                };
                SLOTS
            ],
        }
    }
}

impl ErrorBudget {
    fn take(&mut self, slot: Slot, now_ns: u64) -> bool {
        let Some(account) = self.accounts.get_mut(slot.index()) else {
            return false;
        };
        let gained = now_ns
            .saturating_sub(account.refilled_at_ns)
            .saturating_mul(PER_SECOND)
            / 1_000_000;
        if gained > 0 {
            account.left = (account.left + gained).min(BURST * 1000);
            account.refilled_at_ns = now_ns;
        }
        let enough = account.left >= 1000;
        account.left -= if enough { 1000 } else { 0 };
        enough
    }
}

/// Tells the sender of a packet why it did not get through. The error comes from the address that the packet was sent to: the one
/// address that the sender surely has a route from and expects to hear of.
pub fn send(
    graph: &mut Graph,
    transit: &Transit,
    message: ErrorMessage,
    outbox: &mut Vec<(EndpointKey, Packet)>,
) {
    if !graph.errors.take(transit.sender.slot, graph.clock.mono_ns) {
        return;
    }
    let headers = &transit.headers;
    let built = graph.build(transit.sender, Some(&transit.packet), |linear, ip| {
        message.write(headers, linear, headers.destination, ip)
    });
    if let Some(packet) = built {
        graph.send_own(transit.sender, packet, outbox);
    }
}

/// Relays an error to the sender of the packet that it quotes, if the error's sender is a party to that packet's flow. Policy has
/// judged the flow; the error passes with it.
pub fn relay(graph: &mut Graph, transit: Transit, outbox: &mut Vec<(EndpointKey, Packet)>) {
    match run(graph, transit, outbox) {
        Ok(()) => {}
        Err((transit, refusal)) => graph.refuse(*transit, Identity::UNKNOWN, Identity::UNKNOWN, refusal),
    }
}

fn run(
    graph: &mut Graph,
    mut transit: Transit,
    outbox: &mut Vec<(EndpointKey, Packet)>,
) -> Result<(), (Box<Transit>, Refusal)> {
    macro_rules! refuse {
        ($reason:expr) => {
            return Err((Box::new(transit), Refusal::from($reason)))
        };
    }
    let Some((id, quoted_direction)) = find(graph, &transit) else {
        refuse!(DropReason::UnrelatedIcmp)
    };
    let Some(entry) = graph.conntrack.get(id).copied() else {
        refuse!(DropReason::UnrelatedIcmp)
    };
    // The quoted packet went to this interface; only who is behind it can have an error to tell.
    let party = entry.receiver(quoted_direction);
    if party != transit.sender && (party.slot.is_endpoint() || transit.sender.slot.is_endpoint()) {
        refuse!(DropReason::UnrelatedIcmp);
    }
    let tracked = Tracked {
        entry: Some(id),
        direction: quoted_direction.reverse(),
        destination: entry.destination,
        tcp: entry.tcp,
        replaces: None,
    };
    if let Err((_, _, refusal)) = decision::run(graph, &transit, tracked) {
        return Err((Box::new(transit), refusal));
    }
    if matches!(entry.verdict, EntryVerdict::Drop(_)) {
        refuse!(DropReason::UnrelatedIcmp);
    }
    let receiver = entry.sender(quoted_direction);
    if let Some(translation) = entry.translation {
        // The quoted packet's sender must recognise it: show it what it sent.
        let (outer, quoted) = match quoted_direction {
            FlowDirection::Original => (
                translation.client,
                [
                    (Side::Source, translation.client),
                    (Side::Destination, translation.frontend),
                ],
            ),
            FlowDirection::Reply => (
                entry.key.destination,
                [
                    (Side::Source, entry.key.destination),
                    (Side::Destination, entry.key.source),
                ],
            ),
        };
        let (headers, checksum) = (&mut transit.headers, transit.checksum);
        let linear = graph.frames.linear_mut(&mut transit.packet);
        let shown = headers
            .translate(linear, Side::Destination, outer.addr(), None, checksum)
            .and_then(|()| {
                quoted.into_iter().try_for_each(|(side, peer)| {
                    headers.translate_quoted(linear, side, peer.addr(), Some(peer.port))
                })
            });
        if shown.is_none() {
            refuse!(DropReason::InvalidPacket);
        }
    }
    match forward::relay(graph, &mut transit, receiver) {
        Ok(()) => {
            graph.counters.forwarded_packets.add(1);
            graph.counters.forwarded_bytes.add(transit.packet.len() as u64);
            graph.send(receiver, transit.packet, transit.sender, outbox);
            Ok(())
        }
        Err(reason) => refuse!(reason),
    }
}

/// The flow of the quoted packet, and which way that packet went.
fn find(graph: &Graph, transit: &Transit) -> Option<(crate::conntrack::EntryId, FlowDirection)> {
    if let Some(found) = graph.conntrack.lookup(&transit.key, transit.hash) {
        // The error must go to whom the quoted packet came from.
        let quoted = parse::quoted(&transit.headers)?;
        return (quoted.source == transit.headers.destination).then_some(found);
    }
    // A client quotes a reply as it saw it: from the service's frontend.
    let sent: FlowKey = transit.key.reversed();
    let key = graph.translations.find(transit.sender.slot, &sent)?;
    let (id, direction) = graph.conntrack.lookup(&key, graph.conntrack.hash(&key))?;
    Some((id, direction.reverse()))
}
