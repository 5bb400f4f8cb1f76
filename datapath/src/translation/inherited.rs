//! Translations of the former process: which backend a TCP connection through a Service had when that process ended.
//!
//! They are no permissions. Whether a connection may still have its backend is asked when it is heard of again, which until then costs
//! it no place in any table; how it may go on is for `stage::midstream` to say. Each serves until its connection has an entry, and none
//! after its time.

use std::net::SocketAddr;

use hashbrown::HashMap;
use policy::{Backend, EndpointKey, Protocol, ServiceLookup, ServiceTable, Slot};
use serde::{Deserialize, Serialize};

use super::{Translated, backend_of, translated};
use crate::conntrack::Translation;
use crate::flow::{FlowKey, Peer};

/// A translated TCP connection, as one process tells the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TranslatedFlow {
    /// Interface of the client.
    pub sender: EndpointKey,
    /// Interface that leads to the backend.
    pub receiver: EndpointKey,
    /// The client.
    pub client: SocketAddr,
    /// What the client connected to.
    pub frontend: SocketAddr,
    /// The backend.
    pub backend: SocketAddr,
    /// The client's port as the backend sees it.
    pub port: u16,
}

fn socket(peer: Peer) -> SocketAddr {
    SocketAddr::new(peer.addr(), peer.port)
}

fn peer(socket: SocketAddr) -> Peer {
    Peer::new(socket.ip(), socket.port())
}

impl TranslatedFlow {
    pub(super) fn new(sender: EndpointKey, receiver: EndpointKey, translated: &Translated) -> Self {
        Self {
            sender,
            receiver,
            client: socket(translated.translation.client),
            frontend: socket(translated.translation.frontend),
            backend: socket(translated.key.destination),
            port: translated.key.source.port,
        }
    }

    /// As the flow would be translated anew: nothing that follows from the rest is taken from outside, least of all what policy skips.
    fn inherit(&self) -> InheritedFlow {
        let sent = FlowKey {
            source: peer(self.client),
            destination: peer(self.frontend),
            protocol: Protocol::TCP,
        };
        let backend = Backend {
            addr: self.backend.ip().to_canonical(),
            port: self.backend.port(),
        };
        let is_local = self.receiver.slot.is_endpoint();
        InheritedFlow {
            sender: self.sender,
            receiver: self.receiver,
            translated: translated(self.sender.slot, &sent, self.port, backend, is_local),
        }
    }
}

/// A connection of the former process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InheritedFlow {
    /// Interface of the client.
    pub sender: EndpointKey,
    /// Interface that led to the backend.
    pub receiver: EndpointKey,
    /// The translation.
    pub translated: Translated,
}

impl InheritedFlow {
    /// Whether the Service still has the backend, if only for what it serves already, and lets the client in.
    fn is_served(&self, services: &ServiceTable) -> bool {
        let frontend = self.translated.translation.frontend;
        match services.lookup(frontend.addr(), frontend.port, Protocol::TCP) {
            ServiceLookup::Service(service) => {
                service.is_served_by(backend_of(&self.translated))
                    && service.admits(self.translated.translation.client.addr())
            }
            ServiceLookup::NotService | ServiceLookup::NoSuchPort => false,
        }
    }
}

/// Connections of the former process that were not heard of yet.
#[derive(Debug, Default)]
pub struct Inherited {
    /// By what the backend sees.
    flows: HashMap<FlowKey, InheritedFlow>,
    /// The same by what the client sends: keys of `flows`.
    sent: HashMap<(Slot, FlowKey), FlowKey>,
    /// When they are of no use any more, nanoseconds of the worker's clock.
    until_ns: u64,
    /// Whether their time is the one that an adopted endpoint's connections have.
    has_begun: bool,
}

impl Inherited {
    /// A table of these connections. Of several that cannot have been at once the first one stays.
    #[must_use]
    pub fn new(flows: &[TranslatedFlow]) -> Self {
        let mut table = Self {
            flows: HashMap::with_capacity(flows.len()),
            sent: HashMap::with_capacity(flows.len()),
            until_ns: 0,
            has_begun: false,
        };
        for flow in flows.iter().map(TranslatedFlow::inherit) {
            let (key, sent) = (flow.translated.key, (flow.sender.slot, flow.translated.sent()));
            if !table.flows.contains_key(&key) && !table.sent.contains_key(&sent) {
                table.flows.insert(key, flow);
                table.sent.insert(sent, key);
            }
        }
        table
    }

    /// Connections in the table.
    #[must_use]
    pub fn len(&self) -> usize {
        self.flows.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.flows.is_empty()
    }

    /// The connection that `sender` sends as `sent`, if it may still have its backend.
    #[must_use]
    pub fn of_client(
        &self,
        services: &ServiceTable,
        sender: EndpointKey,
        sent: &FlowKey,
    ) -> Option<&InheritedFlow> {
        let key = self.sent.get(&(sender.slot, *sent))?;
        let flow = self.flows.get(key)?;
        (flow.sender == sender && flow.is_served(services)).then_some(flow)
    }

    /// The connection that a backend answers to as `answer`, by the interface that leads to it.
    #[must_use]
    pub fn of_backend(
        &self,
        services: &ServiceTable,
        sender: EndpointKey,
        answer: &FlowKey,
    ) -> Option<&InheritedFlow> {
        let flow = self.flows.get(&answer.reversed())?;
        (flow.receiver == sender && flow.is_served(services)).then_some(flow)
    }

    /// Whether another client's connection looks like `key` to its backend.
    pub(super) fn is_taken(&self, key: &FlowKey, translation: &Translation) -> bool {
        self.flows
            .get(key)
            .is_some_and(|flow| flow.translated.translation != *translation)
    }

    /// What `sender` sends as `sent` has an entry from now on.
    pub(super) fn settle(&mut self, sender: Slot, sent: &FlowKey) {
        if let Some(key) = self.sent.remove(&(sender, *sent)) {
            self.flows.remove(&key);
        }
    }

    /// Forgets the connections of an interface that goes.
    pub fn forget(&mut self, gone: EndpointKey) {
        self.flows
            .retain(|_, flow| flow.sender != gone && flow.receiver != gone);
        let flows = &self.flows;
        self.sent.retain(|_, key| flows.contains_key(key));
    }

    /// They were taken over; at `until_ns` of the worker's clock they are forgotten, whatever is known by then.
    pub(super) fn wait(&mut self, until_ns: u64) {
        self.until_ns = until_ns;
    }

    /// Whether they still wait for the policies that say how they may go on.
    #[must_use]
    pub fn waits(&self) -> bool {
        !self.is_empty() && !self.has_begun
    }

    /// Policies are known: from here on their time counts.
    pub fn begin(&mut self, until_ns: u64) {
        self.until_ns = self.until_ns.min(until_ns);
        self.has_begun = true;
    }

    /// Forgets everything once its time is up.
    pub fn expire(&mut self, now_ns: u64) {
        if !self.is_empty() && now_ns >= self.until_ns {
            *self = Self::default();
        }
    }

    pub(super) fn flows(&self) -> impl Iterator<Item = TranslatedFlow> {
        self.flows
            .values()
            .map(|flow| TranslatedFlow::new(flow.sender, flow.receiver, &flow.translated))
    }
}

#[cfg(test)]
mod tests {
    use policy::SlotGeneration;

    use super::*;
    use crate::translation::{HAIRPIN_V4, NODE_CLIENT_V4};

    fn key(slot: u16) -> EndpointKey {
        EndpointKey {
            slot: Slot(slot),
            generation: SlotGeneration(1),
        }
    }

    fn flow() -> TranslatedFlow {
        TranslatedFlow {
            sender: key(8),
            receiver: key(9),
            client: "10.244.0.8:40000".parse().unwrap(),
            frontend: "10.96.0.80:80".parse().unwrap(),
            backend: "10.244.0.9:5000".parse().unwrap(),
            port: 40_000,
        }
    }

    #[test]
    fn of_connections_that_cannot_have_been_at_once_the_first_one_stays() {
        let to_other_backend = TranslatedFlow {
            backend: "10.244.0.10:5000".parse().unwrap(),
            ..flow()
        };
        let by_other_frontend = TranslatedFlow {
            frontend: "10.96.0.81:80".parse().unwrap(),
            ..flow()
        };
        let other = TranslatedFlow {
            port: 61_001,
            ..by_other_frontend
        };
        let table = Inherited::new(&[flow(), to_other_backend, by_other_frontend, other, flow()]);
        assert_eq!((table.flows.len(), table.sent.len()), (2, 2));
        let mut left: Vec<TranslatedFlow> = table.flows().collect();
        left.sort_by_key(|flow| flow.port);
        assert_eq!(left, [flow(), other]);
    }

    #[test]
    fn what_a_backend_sees_and_whether_policy_skips_the_flow_follow_from_the_addresses() {
        let sees = |flow: &TranslatedFlow| {
            let translated = flow.inherit().translated;
            (translated.key.source.addr(), translated.hairpin)
        };
        assert_eq!(sees(&flow()), (flow().client.ip(), false));
        let hairpin = TranslatedFlow {
            receiver: key(8),
            backend: "10.244.0.8:5000".parse().unwrap(),
            ..flow()
        };
        assert_eq!(sees(&hairpin), (HAIRPIN_V4.into(), true));
        let of_node = TranslatedFlow {
            sender: key(Slot::HOST.0),
            ..flow()
        };
        assert_eq!(sees(&of_node), (flow().client.ip(), false));
        let leaves_node = TranslatedFlow {
            receiver: key(Slot::FORWARD.0),
            ..of_node
        };
        assert_eq!(sees(&leaves_node), (NODE_CLIENT_V4.into(), false));
        let same_address = TranslatedFlow {
            backend: of_node.client,
            ..of_node
        };
        assert!(!sees(&same_address).1, "only pods reach themselves");
    }

    #[test]
    fn an_interface_that_goes_takes_its_connections_along_and_time_takes_the_rest() {
        let other = TranslatedFlow {
            sender: key(10),
            client: "10.244.0.10:40000".parse().unwrap(),
            ..flow()
        };
        let mut table = Inherited::new(&[flow(), other]);
        table.until_ns = 100;
        table.forget(EndpointKey {
            generation: SlotGeneration(2),
            ..key(10)
        });
        assert_eq!(table.len(), 2, "another occupant");
        table.forget(key(10));
        assert_eq!((table.flows.len(), table.sent.len()), (1, 1));
        table.expire(99);
        assert_eq!(table.len(), 1);
        table.expire(100);
        assert!(table.is_empty() && table.sent.is_empty());
    }
}
