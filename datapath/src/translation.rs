//! Service translation at the client's interface: frontend to backend, sticky per flow.
//!
//! The table is keyed by what the client sends (its own address and port, the frontend); the flow that comes out is what conntrack
//! and policy see. An entry lives as long as its conntrack entry. The table is bounded; a full one refuses new service flows.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use hashbrown::HashMap;
use policy::{DropReason, Protocol, Service, ServiceLookup, ServiceTable, Slot};

use crate::conntrack::{Conntrack, Translation};
use crate::flow::{FlowKey, Peer};
use crate::reservation::Reservation;

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
    shares: Reservation,
    /// Changes with every batch: packets of one batch that begin the same flow choose the same backend, later flows another.
    salt: u64,
}

impl Translations {
    /// A table for `capacity` flows; `seed` starts the choice of backends.
    #[must_use]
    pub fn new(capacity: usize, seed: u64) -> Self {
        // Twice the room, so that deleted entries never make the map grow.
        let sticky = HashMap::with_capacity(capacity * 2);
        Self {
            sticky,
            capacity,
            shares: Reservation::new(capacity),
            salt: seed | 1,
        }
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

    /// Begins a batch (xorshift64: flows need to be spread evenly, not unpredictably).
    pub fn begin_batch(&mut self) {
        self.salt ^= self.salt << 13;
        self.salt ^= self.salt >> 7;
        self.salt ^= self.salt << 17;
    }

    /// Translates a packet sent by `sender` as `sent`; `begins` if it may be the first of its flow. `None` when it is not
    /// translated. A new translation is not kept before [`Translations::keep`].
    ///
    /// # Errors
    /// The packet must be dropped: no such service port, no backend, no connection that it could belong to, or no free client port.
    pub fn translate(
        &self,
        services: &ServiceTable,
        conntrack: &Conntrack,
        sender: Slot,
        sent: &FlowKey,
        begins: bool,
    ) -> Result<Option<Translated>, DropReason> {
        let known = match self.sticky.is_empty() {
            true => None,
            false => self.sticky.get(&StickyKey { sender, sent: *sent }),
        };
        let is_tcp = sent.protocol == Protocol::TCP;
        if let Some(known) = known.filter(|_| is_tcp) {
            // A connection stays with its backend, whatever has become of the service; a SYN on a closed one is a new one.
            let entry = conntrack
                .lookup(&known.key, conntrack.hash(&known.key))
                .and_then(|(id, _)| conntrack.get(id));
            if !begins || entry.is_some_and(|entry| !entry.tcp.may_reopen()) {
                return Ok(Some(*known));
            }
        }
        let service = match services.lookup(sent.destination.addr(), sent.destination.port, sent.protocol) {
            ServiceLookup::NotService => return Ok(None),
            ServiceLookup::NoSuchPort => return Err(DropReason::IsClusterIp),
            ServiceLookup::Service(service) => service,
        };
        if let Some(known) = known.filter(|_| !is_tcp) {
            let backend = known.key.destination;
            if service
                .backends
                .iter()
                .any(|b| b.port == backend.port && b.addr == backend.addr())
            {
                return Ok(Some(*known));
            }
        }
        if is_tcp && !begins {
            return Err(DropReason::Midstream);
        }
        self.choose(service, conntrack, sent).map(Some)
    }

    /// A backend for a new flow, and a client port by which the backend can tell it from others.
    fn choose(
        &self,
        service: &Service,
        conntrack: &Conntrack,
        sent: &FlowKey,
    ) -> Result<Translated, DropReason> {
        let random = conntrack.hash(sent) ^ self.salt;
        let start = random
            .checked_rem(service.backends.len() as u64)
            .ok_or(DropReason::NoBackend)?;
        let backend = usize::try_from(start)
            .ok()
            .and_then(|at| service.backends.get(at));
        let backend = backend.ok_or(DropReason::NoBackend)?;
        let own = sent.source.addr();
        let hairpin = backend.addr == own;
        let client = match own {
            _ if !hairpin => sent.source,
            IpAddr::V4(_) => Peer::new(HAIRPIN_V4.into(), sent.source.port),
            IpAddr::V6(_) => Peer::new(HAIRPIN_V6.into(), sent.source.port),
        };
        let destination = Peer::new(backend.addr, backend.port);
        let mut key = FlowKey {
            source: client,
            destination,
            protocol: sent.protocol,
        };
        let translation = Translation {
            frontend: sent.destination,
            client: sent.source,
        };
        let taken = |key: &FlowKey| {
            let found = conntrack
                .lookup(key, conntrack.hash(key))
                .and_then(|(id, _)| conntrack.get(id));
            found.is_some_and(|entry| entry.translation != Some(translation) && !entry.tcp.may_reopen())
        };
        let range = u64::from(u16::MAX - FIRST_REMAPPED_PORT) + 1;
        for attempt in 0..=REMAP_TRIES {
            if !taken(&key) {
                return Ok(Translated {
                    key,
                    translation,
                    hairpin,
                });
            }
            let offset = random.rotate_left(u32::from(attempt) * 3 + 7) % range;
            key.source.port = FIRST_REMAPPED_PORT + u16::try_from(offset).unwrap_or(0);
        }
        Err(DropReason::NoNatMapping)
    }

    /// Whether `sender` may have another translation.
    #[must_use]
    pub fn has_room(&self, sender: Slot) -> bool {
        self.shares
            .admits(sender, self.capacity.saturating_sub(self.sticky.len()))
    }

    /// Keeps the translation of a flow that conntrack knows now.
    pub fn keep(&mut self, sender: Slot, translated: &Translated) {
        let sticky_key = StickyKey {
            sender,
            sent: sent(&translated.key, &translated.translation),
        };
        if self.sticky.insert(sticky_key, *translated).is_none() {
            self.shares.take(sender);
        }
    }

    /// The flow that `sender`'s packets `sent` become, if they are translated.
    #[must_use]
    pub fn find(&self, sender: Slot, sent: &FlowKey) -> Option<FlowKey> {
        self.sticky
            .get(&StickyKey { sender, sent: *sent })
            .map(|known| known.key)
    }

    /// Whether the translation of this very flow is in the table; another flow to the same frontend may have taken its place.
    #[must_use]
    pub fn holds(&self, sender: Slot, key: &FlowKey, translation: &Translation) -> bool {
        self.find(sender, &sent(key, translation)) == Some(*key)
    }

    /// Forgets the translation of a flow that conntrack has forgotten.
    pub fn forget(&mut self, sender: Slot, key: &FlowKey, translation: &Translation) {
        let sticky_key = StickyKey {
            sender,
            sent: sent(key, translation),
        };
        if self.holds(sender, key, translation) {
            self.sticky.remove(&sticky_key);
            self.shares.give_back(sender);
        }
    }
}

/// The flow as its client sends it.
fn sent(key: &FlowKey, translation: &Translation) -> FlowKey {
    FlowKey {
        source: translation.client,
        destination: translation.frontend,
        protocol: key.protocol,
    }
}

#[cfg(test)]
mod tests;
