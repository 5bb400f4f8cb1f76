//! What addresses and identities are called, for the flow log.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use policy::{Identity, PodName};

/// Names as `control` knows them. Only ever shown to people: no verdict depends on it.
#[derive(Debug, Clone, Default)]
pub struct Names {
    /// Pods by address, local or not.
    pub pods: HashMap<IpAddr, PodName>,
    /// Label sets by identity, as `key=value`, sorted.
    pub labels: HashMap<Identity, Arc<[String]>>,
}

impl Names {
    /// The pod that has the address.
    #[must_use]
    pub fn pod(&self, addr: IpAddr) -> Option<&PodName> {
        self.pods.get(&addr)
    }

    /// Labels of an identity; reserved ones have `reserved:<name>`.
    #[must_use]
    pub fn labels(&self, identity: Identity) -> Vec<String> {
        match (self.labels.get(&identity), identity.reserved_name()) {
            (Some(labels), _) => labels.to_vec(),
            (None, Some(name)) => vec![format!("reserved:{name}")],
            (None, None) => Vec::new(),
        }
    }
}
