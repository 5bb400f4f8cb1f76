//! The immutable bundle that `control` publishes and workers read.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::{EndpointKey, EndpointPolicy, Identity, IpCache, RuleId, ServiceTable};

/// Counts published snapshots.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize)]
pub struct Revision(pub u64);

/// One consistent state of policy, identities and services. Sections are shared between revisions that do not change them.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    /// This snapshot's revision; 0 is the empty snapshot before the first publication.
    pub revision: Revision,
    /// Address to identity.
    pub ipcache: Arc<IpCache>,
    /// Services.
    pub services: Arc<ServiceTable>,
    /// Endpoint policies by slot.
    pub endpoints: Arc<Vec<Option<Arc<EndpointPolicy>>>>,
    /// Descriptions of rules by [`RuleId`], e.g. `cnp db/flask-app-to-db ingress[0]`.
    pub rules: Arc<Vec<String>>,
    /// Labels (`source:key=value`) of allocated identities, for people and for a stable allocation across restarts.
    pub identities: Arc<BTreeMap<Identity, Vec<String>>>,
}

impl Snapshot {
    /// Policy of the endpoint, if it is compiled for this very occupant of the slot.
    #[must_use]
    pub fn endpoint(&self, key: EndpointKey) -> Option<&Arc<EndpointPolicy>> {
        self.endpoints
            .get(key.slot.index())?
            .as_ref()
            .filter(|policy| policy.key == key)
    }

    /// Description of a rule.
    #[must_use]
    pub fn rule(&self, id: RuleId) -> Option<&str> {
        self.rules.get(id.0 as usize).map(String::as_str)
    }
}
