//! Service translation at the client's interface: frontend to backend, sticky per flow.
//!
//! The table is keyed by what the client sends (its own address and port, the frontend); the flow that comes out is what conntrack
//! and policy see. An entry lives as long as its conntrack entry. The table is bounded; a full one refuses new service flows.
//!
//! A new flow goes to any of the Service's backends, each as likely, unless session affinity knows better. A TCP connection stays with
//! its backend until it ends, whatever becomes of the Service. A UDP flow leaves a backend that does not serve any more, with its next
//! datagram (kubernetes, `pkg/proxy/conntrack/cleanup.go`).

mod affinity;
mod inherited;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use hashbrown::HashMap;
use policy::{Backend, DropReason, Protocol, Service, ServiceLookup, ServiceTable, Slot, Unserved};

use self::affinity::Affinities;
pub use self::inherited::{Inherited, InheritedFlow, TranslatedFlow};
use crate::conntrack::{Conntrack, EntryVerdict, TcpState, Translation};
use crate::flow::{FlowDirection, FlowKey, Peer};
use crate::interface_table::InterfaceTable;
use crate::reservation::Reservation;

/// Client address of a pod that reaches itself through its Service: the reply must come back to the worker
/// (Cilium's loopback address).
pub const HAIRPIN_V4: Ipv4Addr = Ipv4Addr::new(169, 254, 42, 1);

/// The same for IPv6 (a unique local address of sluice's own, RFC 4193).
pub const HAIRPIN_V6: Ipv6Addr = Ipv6Addr::new(0xfd73, 0x6c75, 0x6963, 0x6500, 0, 0, 0, 1);

/// Client address of the node's own processes towards backends that are no local pod: the answer must come back to the worker, and the
/// node's stack forwards nothing that claims to come from itself. Masqueraded where it leaves the node.
pub const NODE_CLIENT_V4: Ipv4Addr = Ipv4Addr::new(169, 254, 42, 2);

/// The same for IPv6.
pub const NODE_CLIENT_V6: Ipv6Addr = Ipv6Addr::new(0xfd73, 0x6c75, 0x6963, 0x6500, 0, 0, 0, 2);

/// First port that a client's own port may be replaced with, where two of its flows would look alike to a backend.
const FIRST_REMAPPED_PORT: u16 = 61_001;

/// How long a datagram may be an answer after the last question, seconds. Where another node has translated the question, it has forgotten
/// so after 30 s (`nf_conntrack_udp_timeout`): what is sent to its NodePort from then on begins something new there, and must be judged so.
const ANSWER_S: u32 = 25;

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

impl Translated {
    /// The flow as its client sends it.
    #[must_use]
    pub const fn sent(&self) -> FlowKey {
        sent(&self.key, &self.translation)
    }
}

/// Translations of one worker.
#[derive(Debug)]
pub struct Translations {
    sticky: HashMap<StickyKey, Translated>,
    capacity: usize,
    shares: Reservation,
    /// Of the former process; no connection of them was heard of yet.
    inherited: Inherited,
    affinities: Affinities,
    /// Seconds of the worker's clock.
    now_s: u32,
    /// Changes with every batch: packets of one batch that begin the same flow choose the same backend, later flows another.
    salt: u64,
}

impl Translations {
    /// A table for `capacity` flows, which remembers `affinities` clients of Services with session affinity; `seed` starts the choice
    /// of backends.
    #[must_use]
    pub fn new(capacity: usize, affinities: usize, seed: u64) -> Self {
        // Twice the room, so that deleted entries never make the map grow.
        let sticky = HashMap::with_capacity(capacity * 2);
        Self {
            sticky,
            capacity,
            shares: Reservation::new(capacity),
            inherited: Inherited::default(),
            affinities: Affinities::new(affinities),
            now_s: 0,
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

    /// Clients that have a backend by session affinity, expired ones included.
    #[must_use]
    pub fn affinities(&self) -> usize {
        self.affinities.len()
    }

    /// Begins a batch at second `now_s` (xorshift64: flows need to be spread evenly, not unpredictably).
    pub fn begin_batch(&mut self, now_s: u32) {
        self.now_s = now_s;
        self.salt ^= self.salt << 13;
        self.salt ^= self.salt >> 7;
        self.salt ^= self.salt << 17;
    }

    /// Translates a packet sent by `sender` as `sent`; `begins` if it may be the first of its flow. `None` when it is not
    /// translated. A new translation is not kept before [`Translations::keep`].
    ///
    /// # Errors
    /// The packet must be dropped: no such service port, a client that is not let in, no backend, no connection that it could belong to,
    /// or no free client port.
    pub fn translate(
        &self,
        services: &ServiceTable,
        conntrack: &Conntrack,
        interfaces: &InterfaceTable,
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
        let known = known.filter(|_| !is_tcp);
        let service = match services.lookup(sent.destination.addr(), sent.destination.port, sent.protocol) {
            ServiceLookup::Service(service) => Some(service),
            // The flow goes on without its Service, as a connection does.
            _ if known.is_some() => None,
            ServiceLookup::NotService => return Ok(None),
            ServiceLookup::NoSuchPort => return Err(DropReason::IsClusterIp),
        };
        // Before what the port has asked of the Service itself: who asks it now is answered.
        if self.goes_on_untranslated(conntrack, sent, begins) {
            return Ok(None);
        }
        let Some(service) = service else {
            return Ok(known.copied());
        };
        if let Some(known) = known.filter(|known| service.keeps(backend_of(known))) {
            return Ok(Some(*known));
        }
        if is_tcp && !begins {
            return Err(DropReason::Midstream);
        }
        if !service.admits(sent.source.addr()) {
            return Err(DropReason::NotInSourceRange);
        }
        self.choose(service, conntrack, interfaces, sender, sent)
            .map(Some)
    }

    /// Whether `sent` goes on as what it is though it is sent to a service: it answers a client that has this address and port by chance,
    /// as one behind a node that masquerades may, or it is of a connection from before the Service was known.
    fn goes_on_untranslated(&self, conntrack: &Conntrack, sent: &FlowKey, begins: bool) -> bool {
        let Some((id, direction)) = conntrack.lookup(sent, conntrack.hash(sent)) else {
            return false;
        };
        if sent.protocol == Protocol::TCP {
            return !begins;
        }
        let is_asked = conntrack
            .get(id)
            .is_some_and(|entry| entry.asked_ago_s(self.now_s) < ANSWER_S);
        direction == FlowDirection::Reply && is_asked
    }

    /// A backend for a new flow, and a client port by which the backend can tell it from others.
    fn choose(
        &self,
        service: &Service,
        conntrack: &Conntrack,
        interfaces: &InterfaceTable,
        sender: Slot,
        sent: &FlowKey,
    ) -> Result<Translated, DropReason> {
        let held = service
            .affinity
            .and_then(|affinity| self.affinities.get(sender, &affinity.service, self.now_s))
            .filter(|backend| service.offers(*backend));
        let drawn_by = match service.affinity {
            None => *sent,
            // Whatever of one client begins in this batch must end at one backend.
            Some(affinity) => FlowKey {
                source: Peer::new(sent.source.addr(), 0),
                destination: Peer::new(affinity.service.addr, affinity.service.port),
                protocol: sent.protocol,
            },
        };
        let drawn = || {
            let random = conntrack.hash(&drawn_by) ^ self.salt;
            let at = random.checked_rem(service.backends.len() as u64)?;
            service.backends.get(usize::try_from(at).ok()?).copied()
        };
        let backend = held.or_else(drawn).ok_or(match service.unserved {
            Unserved::Reject => DropReason::NoBackend,
            Unserved::Drop => DropReason::NoLocalBackend,
        })?;
        let is_local = interfaces.endpoint_at(backend.addr).is_some();
        let Translated {
            mut key,
            translation,
            hairpin,
        } = translated(sender, sent, sent.source.port, backend, is_local);
        let taken = |key: &FlowKey| {
            let found = conntrack
                .lookup(key, conntrack.hash(key))
                .and_then(|(id, _)| conntrack.get(id));
            found.is_some_and(|entry| entry.translation != Some(translation) && !entry.tcp.may_reopen())
                || self.inherited.is_taken(key, &translation)
        };
        let random = conntrack.hash(sent) ^ self.salt;
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
            sent: translated.sent(),
        };
        self.inherited.settle(sender, &sticky_key.sent);
        if self.sticky.insert(sticky_key, *translated).is_none() {
            self.shares.take(sender);
        }
    }

    /// Takes over what the former process has translated, at most until `until_ns` of the worker's clock.
    pub fn inherit(&mut self, inherited: Inherited, until_ns: u64) {
        self.inherited = inherited;
        self.inherited.wait(until_ns);
    }

    /// The inherited translations that no connection was heard of yet.
    #[must_use]
    pub const fn inherited(&self) -> &Inherited {
        &self.inherited
    }

    /// The same, for writing.
    pub const fn inherited_mut(&mut self) -> &mut Inherited {
        &mut self.inherited
    }

    /// The TCP connections that are translated and may go on: for the process that comes next.
    #[must_use]
    pub fn flows(&self, conntrack: &Conntrack) -> Vec<TranslatedFlow> {
        let live = self.sticky.values().filter_map(|known| {
            let (id, _) = conntrack.lookup(&known.key, conntrack.hash(&known.key))?;
            let entry = conntrack.get(id)?;
            let goes_on = matches!(
                entry.tcp,
                TcpState::SynReceived | TcpState::Established | TcpState::FinOriginal | TcpState::FinReply
            );
            let may_pass = matches!(
                entry.verdict,
                EntryVerdict::Allow | EntryVerdict::AllowHttp { .. }
            );
            (goes_on && may_pass && entry.translation == Some(known.translation))
                .then(|| TranslatedFlow::new(entry.source, entry.destination, known))
        });
        let mut flows = Vec::with_capacity(self.sticky.len() + self.inherited.len());
        flows.extend(live.chain(self.inherited.flows()));
        flows
    }

    /// Remembers the backend of a new flow for its client's next ones, if the Service has session affinity. Whether there was room.
    pub fn keep_affinity(&mut self, services: &ServiceTable, sender: Slot, translated: &Translated) -> bool {
        let Translated { key, translation, .. } = translated;
        let frontend = translation.frontend;
        match services.lookup(frontend.addr(), frontend.port, key.protocol) {
            ServiceLookup::Service(Service {
                affinity: Some(affinity),
                ..
            }) => self
                .affinities
                .keep(sender, affinity, backend_of(translated), self.now_s),
            _ => true,
        }
    }

    /// Forgets the affinities of an interface that goes.
    pub fn forget_affinities(&mut self, sender: Slot) {
        self.affinities.forget(sender);
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

const fn backend_of(translated: &Translated) -> Backend {
    let Peer { port, .. } = translated.key.destination;
    Backend {
        addr: translated.key.destination.addr(),
        port,
    }
}

/// The flow that a client's flow to a backend becomes; `port`: the client's, as the backend sees it; `is_local`: whether the backend
/// is a local endpoint.
fn translated(sender: Slot, sent: &FlowKey, port: u16, backend: Backend, is_local: bool) -> Translated {
    let own = sent.source.addr();
    let is_pod = sender.is_endpoint();
    let hairpin = is_pod && backend.addr == own;
    let leaves_worker = !is_pod && !is_local;
    let client: IpAddr = match own {
        IpAddr::V4(_) if hairpin => HAIRPIN_V4.into(),
        IpAddr::V6(_) if hairpin => HAIRPIN_V6.into(),
        IpAddr::V4(_) if leaves_worker => NODE_CLIENT_V4.into(),
        IpAddr::V6(_) if leaves_worker => NODE_CLIENT_V6.into(),
        _ => own,
    };
    Translated {
        key: FlowKey {
            source: Peer::new(client, port),
            destination: Peer::new(backend.addr, backend.port),
            protocol: sent.protocol,
        },
        translation: Translation {
            frontend: sent.destination,
            client: sent.source,
        },
        hairpin,
    }
}

/// The flow as its client sends it.
const fn sent(key: &FlowKey, translation: &Translation) -> FlowKey {
    FlowKey {
        source: translation.client,
        destination: translation.frontend,
        protocol: key.protocol,
    }
}

#[cfg(test)]
mod tests;
