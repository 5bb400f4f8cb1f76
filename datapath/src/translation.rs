//! Service translation at the client's interface: frontend to backend, sticky per flow.
//!
//! The table is keyed by what the client sends (its own address and port, the frontend); the flow that comes out is what conntrack
//! and policy see. An entry lives as long as its conntrack entry. The table is bounded; a full one refuses new service flows.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use hashbrown::HashMap;
use policy::{DropReason, ServiceLookup, ServiceTable, Slot};

use crate::conntrack::{Conntrack, Translation};
use crate::flow::{FlowKey, Peer};

/// Client address of a pod that reaches itself through its Service: the reply must come back to the worker
/// (Cilium's loopback address).
pub const HAIRPIN_V4: Ipv4Addr = Ipv4Addr::new(169, 254, 42, 1);

/// The same for IPv6 (a unique local address of sluice's own, RFC 4193).
pub const HAIRPIN_V6: Ipv6Addr = Ipv6Addr::new(0xfd73, 0x6c75, 0x6963, 0x6500, 0, 0, 0, 1);

/// First port that a client's own port may be replaced with, where two of its flows would look alike to a backend.
const FIRST_REMAPPED_PORT: u16 = 61_001;

/// Ports tried before the flow is refused.
const REMAP_TRIES: u16 = 16;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct StickyKey {
    sender: Slot,
    sent: FlowKey,
}

/// A flow after translation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Translated {
    /// The flow as the backend sees it.
    pub key: FlowKey,
    /// What the client sees.
    pub translation: Translation,
    /// Whether the backend is the client itself.
    pub hairpin: bool,
}

/// Translations of one worker.
#[derive(Debug)]
pub struct Translations {
    sticky: HashMap<StickyKey, Translated>,
    capacity: usize,
    random: u64,
}

impl Translations {
    /// A table for `capacity` flows; `seed` starts the choice of backends.
    #[must_use]
    pub fn new(capacity: usize, seed: u64) -> Self {
        Self { sticky: HashMap::with_capacity(capacity), capacity, random: seed | 1 }
    }

    /// Translations in the table.
    #[must_use]
    pub fn len(&self) -> usize {
        self.sticky.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.sticky.is_empty()
    }

    /// xorshift64: which backend a flow gets needs to be spread evenly, not unpredictable.
    fn next_random(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random
    }

    /// Translates a packet sent by `sender` as `sent`; `begins` for the first segment of a TCP connection.
    /// `None` when the destination is no service.
    ///
    /// # Errors
    /// The packet must be dropped: no such service port, no backend, no room, or no free client port.
    pub fn translate(
        &mut self,
        services: &ServiceTable,
        conntrack: &Conntrack,
        sender: Slot,
        sent: &FlowKey,
        begins: bool,
    ) -> Result<Option<Translated>, DropReason> {
        let service = match services.lookup(sent.destination.addr(), sent.destination.port, sent.protocol) {
            ServiceLookup::NotService => return Ok(None),
            ServiceLookup::NoSuchPort => return Err(DropReason::IsClusterIp),
            ServiceLookup::Service(service) => service,
        };
        let sticky_key = StickyKey { sender, sent: *sent };
        if let Some(known) = self.sticky.get(&sticky_key) {
            // A SYN on a closed connection is a new one, and may go to another backend.
            let entry = conntrack.lookup(&known.key, conntrack.hash(&known.key)).and_then(|(id, _)| conntrack.get(id));
            if !begins || entry.is_some_and(|entry| !entry.tcp.may_reopen()) {
                return Ok(Some(*known));
            }
        } else if self.sticky.len() >= self.capacity {
            return Err(DropReason::NoNatMapping);
        }
        if service.backends.is_empty() {
            return Err(DropReason::NoBackend);
        }
        let random = self.next_random();
        let start = usize::try_from(random % service.backends.len() as u64).unwrap_or(0);
        let Some(backend) = service.backends.get(start) else { return Err(DropReason::NoBackend) };
        let own = sent.source.addr();
        let hairpin = backend.addr == own;
        let client = match own {
            _ if !hairpin => sent.source,
            IpAddr::V4(_) => Peer::new(HAIRPIN_V4.into(), sent.source.port),
            IpAddr::V6(_) => Peer::new(HAIRPIN_V6.into(), sent.source.port),
        };
        let destination = Peer::new(backend.addr, backend.port);
        let mut key = FlowKey { source: client, destination, protocol: sent.protocol };
        let translation = Translation { frontend: sent.destination, client: sent.source };
        let taken = |key: &FlowKey| {
            let found = conntrack.lookup(key, conntrack.hash(key)).and_then(|(id, _)| conntrack.get(id));
            found.is_some_and(|entry| entry.translation != Some(translation) && !entry.tcp.may_reopen())
        };
        let mut tries = 0;
        while taken(&key) {
            if tries == REMAP_TRIES {
                return Err(DropReason::NoNatMapping);
            }
            let range = u64::from(u16::MAX - FIRST_REMAPPED_PORT) + 1;
            let offset = u16::try_from(self.next_random() % range).unwrap_or(0);
            key.source.port = FIRST_REMAPPED_PORT + offset;
            tries += 1;
        }
        let translated = Translated { key, translation, hairpin };
        self.sticky.insert(sticky_key, translated);
        Ok(Some(translated))
    }

    /// The flow that `sender`'s packets `sent` become, if they are translated.
    #[must_use]
    pub fn find(&self, sender: Slot, sent: &FlowKey) -> Option<FlowKey> {
        self.sticky.get(&StickyKey { sender, sent: *sent }).map(|known| known.key)
    }

    /// Forgets the translation of a flow that conntrack has forgotten.
    pub fn forget(&mut self, sender: Slot, key: &FlowKey, translation: &Translation) {
        let sent =
            FlowKey { source: translation.client, destination: translation.frontend, protocol: key.protocol };
        let sticky_key = StickyKey { sender, sent };
        if self.sticky.get(&sticky_key).is_some_and(|known| known.key == *key) {
            self.sticky.remove(&sticky_key);
        }
    }
}

#[cfg(test)]
mod tests;
