//! The interfaces that a worker serves, by slot and by endpoint address.

use std::net::IpAddr;

use hashbrown::HashMap;
use policy::{EndpointKey, Slot};

use crate::interface::{InterfaceConfig, InterfaceKind};

/// Interfaces by slot and local endpoints by address.
#[derive(Debug, Default)]
pub struct InterfaceTable {
    by_slot: Vec<Option<InterfaceConfig>>,
    by_address: HashMap<IpAddr, EndpointKey>,
}

fn addresses(config: &InterfaceConfig) -> impl Iterator<Item = IpAddr> {
    let (v4, v6) = match config.kind {
        InterfaceKind::Endpoint(endpoint) => (endpoint.ipv4, endpoint.ipv6),
        InterfaceKind::Host | InterfaceKind::Forward => (None, None),
    };
    v4.map(IpAddr::V4).into_iter().chain(v6.map(IpAddr::V6))
}

impl InterfaceTable {
    /// Adds an interface; a former occupant of the slot is gone.
    pub fn attach(&mut self, config: InterfaceConfig) {
        if let Some(former) = self.by_slot.get(config.key.slot.index()).copied().flatten() {
            self.detach(former.key);
        }
        if self.by_slot.len() <= config.key.slot.index() {
            self.by_slot.resize(config.key.slot.index() + 1, None);
        }
        self.by_slot[config.key.slot.index()] = Some(config);
        self.by_address
            .extend(addresses(&config).map(|addr| (addr, config.key)));
    }

    /// Removes an interface.
    pub fn detach(&mut self, key: EndpointKey) {
        let Some(place) = self.by_slot.get_mut(key.slot.index()) else {
            return;
        };
        if place.is_some_and(|config| config.key == key) {
            *place = None;
            self.by_address.retain(|_, owner| *owner != key);
        }
    }

    /// The interface, if the slot still has this occupant.
    #[must_use]
    pub fn get(&self, key: EndpointKey) -> Option<&InterfaceConfig> {
        self.by_slot
            .get(key.slot.index())?
            .as_ref()
            .filter(|config| config.key == key)
    }

    /// The present occupant of a slot.
    #[must_use]
    pub fn occupant(&self, slot: Slot) -> Option<EndpointKey> {
        self.by_slot.get(slot.index())?.as_ref().map(|config| config.key)
    }

    /// The local endpoint with this address.
    #[must_use]
    pub fn endpoint_at(&self, addr: IpAddr) -> Option<EndpointKey> {
        self.by_address.get(&addr).copied()
    }
}
