//! First packets that wait until their peer is known: an address of a pod CIDR that has no identity yet.
//!
//! A pod of another node may speak before this node has heard of it. Its first packet is held, and judged again by each new
//! snapshot or when its time is up, instead of costing the connection a retransmission. Invariants:
//! - At most one packet of a flow is held; what comes behind it is a copy, or must not overtake it.
//! - Everything is bounded ([`HoldLimits`]), per endpoint too; nothing is allocated after construction but the first entry of an
//!   endpoint's counter. What does not fit is refused.
//! - Packets leave in the order in which they came, and each packet given in comes out exactly once.

use std::collections::{HashMap, HashSet, VecDeque};

use policy::{DropReason, EndpointKey, Slot};

use crate::flow::FlowKey;

/// What may be held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HoldLimits {
    /// Packets held.
    pub held: usize,
    /// Packets held for the policy of one endpoint.
    pub held_per_endpoint: usize,
    /// How long a packet is held at most, nanoseconds.
    pub timeout_ns: u64,
}

impl Default for HoldLimits {
    fn default() -> Self {
        Self {
            held: 512,
            held_per_endpoint: 32,
            // The first retransmission of a SYN comes after one second (RFC 6298, 2.1).
            timeout_ns: 1_000_000_000,
        }
    }
}

/// A flow as its sender names it, before any translation: at its next judgement a service may choose otherwise.
pub type SentFlow = (Slot, FlowKey);

#[derive(Debug)]
struct Held<P> {
    packet: P,
    /// Interface that it came by.
    sender: EndpointKey,
    /// Endpoint whose policy denies it for now.
    endpoint: EndpointKey,
    flow: SentFlow,
    deadline_ns: u64,
}

/// The held packets. `P` is the packet, of which the table knows nothing.
#[derive(Debug)]
pub struct HoldTable<P> {
    limits: HoldLimits,
    /// In the order of arrival, which is that of the deadlines.
    queue: VecDeque<Held<P>>,
    flows: HashSet<SentFlow>,
    usage: HashMap<EndpointKey, usize>,
}

impl<P> HoldTable<P> {
    /// A table with room for everything that `limits` allow.
    #[must_use]
    pub fn new(limits: HoldLimits) -> Self {
        Self {
            limits,
            queue: VecDeque::with_capacity(limits.held),
            // Twice the room, so that deleted entries never make the set grow.
            flows: HashSet::with_capacity(limits.held * 2),
            usage: HashMap::new(),
        }
    }

    /// When a packet that comes at `now_ns` must be judged for good.
    #[must_use]
    pub fn deadline_ns(&self, now_ns: u64) -> u64 {
        now_ns.saturating_add(self.limits.timeout_ns)
    }

    /// Whether a packet of `flow` may be held for `endpoint`.
    ///
    /// # Errors
    /// `HeldDuplicate` when one of the flow is held already; `HoldCapacity` when there is no room.
    pub fn admits(&self, endpoint: EndpointKey, flow: &SentFlow) -> Result<(), DropReason> {
        if self.flows.contains(flow) {
            return Err(DropReason::HeldDuplicate);
        }
        let used = self.usage.get(&endpoint).copied().unwrap_or(0);
        if used >= self.limits.held_per_endpoint || self.queue.len() >= self.limits.held {
            return Err(DropReason::HoldCapacity);
        }
        Ok(())
    }

    /// Holds a packet that [`HoldTable::admits`] has admitted. Deadlines must not fall.
    pub fn hold(
        &mut self,
        packet: P,
        sender: EndpointKey,
        endpoint: EndpointKey,
        flow: SentFlow,
        deadline_ns: u64,
    ) {
        self.flows.insert(flow);
        *self.usage.entry(endpoint).or_default() += 1;
        self.queue.push_back(Held {
            packet,
            sender,
            endpoint,
            flow,
            deadline_ns,
        });
    }

    /// The oldest packet, if `now_ns` is its deadline or `early`.
    pub fn pop(&mut self, now_ns: u64, early: bool) -> Option<P> {
        let oldest = self
            .queue
            .pop_front_if(|held| early || held.deadline_ns <= now_ns)?;
        Some(self.release(oldest))
    }

    /// A packet that `gone` has sent, or that its policy denied; to be called until there is none.
    pub fn pop_of(&mut self, gone: EndpointKey) -> Option<P> {
        let at = self
            .queue
            .iter()
            .position(|held| held.sender == gone || held.endpoint == gone)?;
        let held = self.queue.remove(at)?;
        Some(self.release(held))
    }

    fn release(&mut self, held: Held<P>) -> P {
        self.flows.remove(&held.flow);
        if let Some(used) = self.usage.get_mut(&held.endpoint) {
            *used = used.saturating_sub(1);
            if *used == 0 {
                self.usage.remove(&held.endpoint);
            }
        }
        held.packet
    }

    /// The next deadline, if anything is held.
    #[must_use]
    pub fn next_deadline_ns(&self) -> Option<u64> {
        self.queue.front().map(|held| held.deadline_ns)
    }

    /// Packets held now.
    #[must_use]
    pub fn len(&self) -> usize {
        self.queue.len()
    }

    /// Whether nothing is held.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// The packets held now, oldest first: for the audit of frames.
    pub fn packets(&self) -> impl Iterator<Item = &P> {
        self.queue.iter().map(|held| &held.packet)
    }
}

#[cfg(test)]
mod tests {
    use policy::{Protocol, SlotGeneration};

    use super::*;
    use crate::flow::Peer;

    fn key(slot: u16) -> EndpointKey {
        EndpointKey {
            slot: Slot(slot),
            generation: SlotGeneration(1),
        }
    }

    fn flow(port: u16) -> SentFlow {
        let peer = |port| Peer::new([10, 0, 0, 1].into(), port);
        let key = FlowKey {
            source: peer(port),
            destination: peer(80),
            protocol: Protocol::TCP,
        };
        (Slot::FORWARD, key)
    }

    fn table() -> HoldTable<u16> {
        HoldTable::new(HoldLimits {
            held: 4,
            held_per_endpoint: 2,
            timeout_ns: 100,
        })
    }

    fn hold(table: &mut HoldTable<u16>, endpoint: u16, port: u16, now: u64) -> Result<(), DropReason> {
        table.admits(key(endpoint), &flow(port))?;
        table.hold(port, key(1), key(endpoint), flow(port), table.deadline_ns(now));
        Ok(())
    }

    #[test]
    fn one_packet_of_a_flow_is_held_and_the_next_one_once_it_has_left() {
        let mut table = table();
        hold(&mut table, 8, 1, 0).unwrap();
        assert_eq!(hold(&mut table, 8, 1, 1), Err(DropReason::HeldDuplicate));
        assert_eq!(table.pop(0, true), Some(1));
        hold(&mut table, 8, 1, 2).unwrap();
    }

    #[test]
    fn an_endpoint_and_the_whole_have_limits_that_are_given_back() {
        let mut table = table();
        hold(&mut table, 8, 1, 0).unwrap();
        hold(&mut table, 8, 2, 0).unwrap();
        assert_eq!(hold(&mut table, 8, 3, 0), Err(DropReason::HoldCapacity));
        hold(&mut table, 9, 3, 0).unwrap();
        hold(&mut table, 9, 4, 0).unwrap();
        assert_eq!(hold(&mut table, 10, 5, 0), Err(DropReason::HoldCapacity));
        assert_eq!(table.len(), 4);
        assert_eq!(table.pop(0, true), Some(1));
        hold(&mut table, 8, 5, 0).unwrap();
        let rest: Vec<u16> = std::iter::from_fn(|| table.pop(0, true)).collect();
        assert_eq!(rest, [2, 3, 4, 5]);
        assert!(table.is_empty() && table.usage.is_empty() && table.flows.is_empty());
    }

    #[test]
    fn packets_leave_at_their_deadline_in_the_order_of_arrival() {
        let mut table = table();
        hold(&mut table, 8, 1, 0).unwrap();
        hold(&mut table, 9, 2, 50).unwrap();
        assert_eq!(table.next_deadline_ns(), Some(100));
        assert_eq!(table.pop(99, false), None);
        assert_eq!(table.pop(100, false), Some(1));
        assert_eq!(table.pop(149, false), None);
        assert_eq!(table.pop(150, false), Some(2));
        assert_eq!(table.next_deadline_ns(), None);
    }

    #[test]
    fn what_an_endpoint_that_goes_has_sent_or_denied_comes_out_and_nothing_else() {
        let mut table = table();
        hold(&mut table, 8, 1, 0).unwrap();
        hold(&mut table, 9, 2, 0).unwrap();
        table.hold(3, key(9), key(10), flow(3), 100);
        let out: Vec<u16> = std::iter::from_fn(|| table.pop_of(key(9))).collect();
        assert_eq!(out, [2, 3]);
        assert_eq!(table.packets().collect::<Vec<_>>(), [&1]);
    }
}
