//! The immutable bundle that `control` publishes and workers read.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::{EndpointKey, EndpointPolicy, Identity, IpCache, RuleId, ServiceTable};

/// Counts published snapshots.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize)]
pub struct Revision(pub u64);

/// What is told of a rule that has decided.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleInfo {
    /// Policy and place in it, e.g. `cnp db/flask-app-to-db ingress[0]`; empty when the number is not in use.
    pub name: Arc<str>,
    /// Text that the policy gives the flows it decides (`spec.log.value`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log: Option<Arc<str>>,
}

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
    /// Addresses of this node's endpoints: nobody sends from them but the endpoints themselves, attached or not yet.
    pub local: Arc<BTreeSet<IpAddr>>,
    /// Rules by [`RuleId`].
    pub rules: Arc<Vec<RuleInfo>>,
    /// Labels (`source:key=value`) of allocated identities, for people and for a stable allocation across restarts.
    pub identities: Arc<BTreeMap<Identity, Arc<[String]>>>,
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

    /// Name of a rule.
    #[must_use]
    pub fn rule(&self, id: RuleId) -> Option<&str> {
        self.rules.get(id.0 as usize).map(|rule| &*rule.name)
    }

    /// Text that a rule gives the flows it decides.
    #[must_use]
    pub fn rule_log(&self, id: RuleId) -> Option<&str> {
        self.rules.get(id.0 as usize)?.log.as_deref()
    }
}
