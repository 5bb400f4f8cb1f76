//! Session affinity: the backend that a client's flows to a Service go to, until it has begun none for some time.

use hashbrown::HashMap;
use policy::{Affinity, Backend, ServiceKey, Slot};

/// Seconds between two searches for expired places in a full table.
const SEARCH_S: u32 = 1;

/// An interface has one address per family, so it is the client; what the node itself asks for is one client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Client {
    sender: Slot,
    service: ServiceKey,
}

#[derive(Debug, Clone, Copy)]
struct Held {
    backend: Backend,
    /// First second at which it is forgotten.
    until_s: u32,
}

/// Affinities of one worker. A full table remembers no further client: its flows are spread.
#[derive(Debug)]
pub(super) struct Affinities {
    held: HashMap<Client, Held>,
    capacity: usize,
    searched_at_s: u32,
}

impl Affinities {
    pub(super) fn new(capacity: usize) -> Self {
        Self {
            // Twice the room, so that deleted entries never make the map grow.
            held: HashMap::with_capacity(capacity * 2),
            capacity,
            searched_at_s: 0,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.held.len()
    }

    /// The backend of a client's flows to a Service.
    pub(super) fn get(&self, sender: Slot, service: &ServiceKey, now_s: u32) -> Option<Backend> {
        let client = Client {
            sender,
            service: *service,
        };
        let held = self.held.get(&client).filter(|held| now_s < held.until_s)?;
        Some(held.backend)
    }

    /// Notes that a flow of the client begins at second `now_s`. Whether there was room.
    pub(super) fn keep(&mut self, sender: Slot, affinity: &Affinity, backend: Backend, now_s: u32) -> bool {
        let client = Client {
            sender,
            service: affinity.service,
        };
        let held = Held {
            backend,
            until_s: now_s.saturating_add(affinity.timeout_s),
        };
        if let Some(place) = self.held.get_mut(&client) {
            *place = held;
            return true;
        }
        if self.held.len() >= self.capacity && now_s >= self.searched_at_s.saturating_add(SEARCH_S) {
            self.searched_at_s = now_s;
            self.held.retain(|_, held| now_s < held.until_s);
        }
        let has_room = self.held.len() < self.capacity;
        if has_room {
            self.held.insert(client, held);
        }
        has_room
    }

    /// Forgets everything of an interface.
    pub(super) fn forget(&mut self, sender: Slot) {
        self.held.retain(|client, _| client.sender != sender);
    }
}

#[cfg(test)]
mod tests {
    use policy::Protocol;

    use super::*;

    const POD: Slot = Slot(8);

    fn affinity(host: u8) -> Affinity {
        Affinity {
            service: ServiceKey {
                addr: [10, 96, 0, host].into(),
                port: 80,
                protocol: Protocol::TCP,
            },
            timeout_s: 10,
        }
    }

    fn backend(host: u8) -> Backend {
        Backend {
            addr: [10, 244, 0, host].into(),
            port: 5000,
        }
    }

    #[test]
    fn affinity_ends_its_timeout_after_the_clients_last_new_flow() {
        let mut affinities = Affinities::new(4);
        let web = affinity(1);
        assert!(affinities.keep(POD, &web, backend(5), 100));
        assert_eq!(affinities.get(POD, &web.service, 109), Some(backend(5)));
        assert_eq!(affinities.get(POD, &web.service, 110), None);
        assert!(affinities.keep(POD, &web, backend(5), 109));
        assert_eq!(affinities.get(POD, &web.service, 118), Some(backend(5)));
    }

    #[test]
    fn clients_and_services_have_affinities_of_their_own() {
        let mut affinities = Affinities::new(4);
        affinities.keep(POD, &affinity(1), backend(5), 0);
        assert_eq!(affinities.get(POD, &affinity(2).service, 0), None);
        assert_eq!(affinities.get(Slot(9), &affinity(1).service, 0), None);
    }

    #[test]
    fn full_table_takes_no_client_before_another_has_expired() {
        let mut affinities = Affinities::new(2);
        assert!(affinities.keep(POD, &affinity(1), backend(5), 100));
        assert!(affinities.keep(POD, &affinity(2), backend(5), 105));
        assert!(!affinities.keep(POD, &affinity(3), backend(5), 106));
        assert!(
            affinities.keep(POD, &affinity(2), backend(6), 106),
            "a known client needs no room"
        );
        assert!(affinities.keep(POD, &affinity(3), backend(5), 111));
        assert_eq!(affinities.len(), 2);
    }

    #[test]
    fn interface_that_goes_leaves_nothing() {
        let mut affinities = Affinities::new(4);
        affinities.keep(POD, &affinity(1), backend(5), 0);
        affinities.keep(Slot(9), &affinity(1), backend(5), 0);
        affinities.forget(POD);
        assert_eq!(affinities.len(), 1);
        assert_eq!(affinities.get(POD, &affinity(1).service, 0), None);
    }
}
