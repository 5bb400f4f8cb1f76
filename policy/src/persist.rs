//! Snapshots on disk: what is enforced after a restart until every watcher has synced.
//!
//! The form is JSON with a version. Maps are lists by rising key, so that equal snapshots give equal bytes; regular expressions
//! are stored as written and compiled on load. A document of another version, a truncated one, or one whose indices lead
//! nowhere is refused as a whole, naming what is wrong: a snapshot is loaded completely or not at all.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::http::HttpRuleError;
use crate::snapshot::Revision;
use crate::table::{Cell, PortMap};
use crate::{
    Decision, EndpointKey, EndpointPolicy, HttpRule, HttpRuleSet, Identity, IpCache, IpCacheGeneration,
    PodName, PolicyGeneration, PolicyTable, Protocol, RuleInfo, Service, ServiceTable, Slot, Snapshot,
};

/// Version of the form that this build reads and writes.
pub const PERSIST_VERSION: u32 = 3;

/// A document that cannot be loaded.
#[derive(Debug, thiserror::Error)]
pub enum PersistError {
    /// Not JSON, truncated, or a field is missing or of the wrong type.
    #[error("persisted snapshot is not readable")]
    Json(#[from] serde_json::Error),
    /// Written by another version of the form.
    #[error("persisted snapshot has version {found}, this build reads version {PERSIST_VERSION}")]
    Version {
        /// The document's version.
        found: u32,
    },
    /// A table's port intervals do not cover all ports in rising order, or lead to no cell.
    #[error("persisted snapshot: {direction} table of {pod} has broken port intervals")]
    Table {
        /// The endpoint's pod.
        pod: PodName,
        /// `ingress` or `egress`.
        direction: &'static str,
    },
    /// A decision refers to a rule set or rule that is not there.
    #[error("persisted snapshot: {direction} table of {pod} refers to {what} {index}, which does not exist")]
    Dangling {
        /// The endpoint's pod.
        pod: PodName,
        /// `ingress` or `egress`.
        direction: &'static str,
        /// `rule set` or `rule`.
        what: &'static str,
        /// The index.
        index: u32,
    },
    /// Two endpoints claim one slot, or an endpoint claims none.
    #[error("persisted snapshot: {pod} claims slot {}, which is not free", slot.0)]
    Slot {
        /// The endpoint's pod.
        pod: PodName,
        /// The slot.
        slot: Slot,
    },
    /// An HTTP rule does not compile.
    #[error("persisted snapshot: rule set {index} of {pod} does not compile")]
    Http {
        /// The endpoint's pod.
        pod: PodName,
        /// Position in its rule sets.
        index: usize,
        /// The rule.
        source: HttpRuleError,
    },
}

/// A [`Snapshot`] as it is written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PersistedSnapshot {
    version: u32,
    revision: Revision,
    ipcache: PersistedIpCache,
    services: Vec<Service>,
    /// Absent in documents of before NodePorts of other nodes, as are `nodes`.
    #[serde(default)]
    node_ports: Vec<Service>,
    #[serde(default)]
    nodes: Vec<IpAddr>,
    endpoints: Vec<PersistedEndpoint>,
    rules: Vec<RuleInfo>,
    identities: Vec<(Identity, Arc<[String]>)>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct PersistedIpCache {
    generation: IpCacheGeneration,
    entries: Vec<(IpNet, Identity)>,
    pod_cidrs: Vec<IpNet>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct PersistedEndpoint {
    key: EndpointKey,
    pod: PodName,
    identity: Identity,
    identity6: Identity,
    generation: PolicyGeneration,
    ingress: PersistedTable,
    egress: PersistedTable,
    http: Vec<Vec<HttpRule>>,
    /// Absent in documents of before audit mode.
    #[serde(default)]
    audit: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct PersistedTable {
    enforced: bool,
    protocols: Vec<(Protocol, Vec<(u16, u32)>)>,
    other: Vec<(u16, u32)>,
    cells: Vec<(Decision, Vec<(Identity, Decision)>)>,
}

#[derive(Deserialize)]
struct VersionOnly {
    version: u32,
}

/// Writes `snapshot` as JSON.
///
/// # Errors
/// [`PersistError::Json`] if the snapshot cannot be written as JSON.
pub fn to_json(snapshot: &Snapshot) -> Result<Vec<u8>, PersistError> {
    Ok(serde_json::to_vec(&PersistedSnapshot::from(snapshot))?)
}

/// Reads what [`to_json`] wrote.
///
/// # Errors
/// [`PersistError`] names what is wrong; nothing is loaded then.
pub fn from_json(bytes: &[u8]) -> Result<Snapshot, PersistError> {
    // The version first: another version's fields would fail with a message that misleads.
    let VersionOnly { version: found } = serde_json::from_slice(bytes)?;
    if found != PERSIST_VERSION {
        return Err(PersistError::Version { found });
    }
    Snapshot::try_from(serde_json::from_slice::<PersistedSnapshot>(bytes)?)
}

impl From<&Snapshot> for PersistedSnapshot {
    fn from(snapshot: &Snapshot) -> Self {
        let mut entries: Vec<_> = snapshot.ipcache.entries().collect();
        entries.sort_unstable();
        let sorted = |mut services: Vec<Service>| {
            services.sort_unstable_by_key(|service| service.key);
            services
        };
        let mut nodes: Vec<IpAddr> = snapshot.services.nodes().collect();
        nodes.sort_unstable();
        Self {
            version: PERSIST_VERSION,
            revision: snapshot.revision,
            ipcache: PersistedIpCache {
                generation: snapshot.ipcache.generation(),
                entries,
                pod_cidrs: snapshot.ipcache.pod_cidrs().to_vec(),
            },
            services: sorted(snapshot.services.iter().cloned().collect()),
            node_ports: sorted(snapshot.services.node_ports().cloned().collect()),
            nodes,
            endpoints: snapshot
                .endpoints
                .iter()
                .flatten()
                .map(|policy| PersistedEndpoint::from(&**policy))
                .collect(),
            rules: snapshot.rules.to_vec(),
            identities: snapshot
                .identities
                .iter()
                .map(|(id, labels)| (*id, Arc::clone(labels)))
                .collect(),
        }
    }
}

impl From<&EndpointPolicy> for PersistedEndpoint {
    fn from(policy: &EndpointPolicy) -> Self {
        Self {
            key: policy.key,
            pod: policy.pod.clone(),
            identity: policy.identity,
            identity6: policy.identity6,
            generation: policy.generation,
            ingress: PersistedTable::from(&*policy.ingress),
            egress: PersistedTable::from(&*policy.egress),
            http: policy.http.iter().map(|set| set.rules().to_vec()).collect(),
            audit: policy.audit,
        }
    }
}

impl From<&PolicyTable> for PersistedTable {
    fn from(table: &PolicyTable) -> Self {
        let ports = |map: &PortMap| map.ends.iter().copied().zip(map.cells.iter().copied()).collect();
        let (protocols, other, cells) = table.parts();
        Self {
            enforced: table.is_enforced(),
            protocols: protocols
                .iter()
                .map(|(protocol, map)| (*protocol, ports(map)))
                .collect(),
            other: ports(other),
            cells: cells
                .iter()
                .map(|cell| {
                    let mut peers: Vec<_> =
                        cell.peers.iter().map(|(id, decision)| (*id, *decision)).collect();
                    peers.sort_unstable_by_key(|(id, _)| *id);
                    (cell.others, peers)
                })
                .collect(),
        }
    }
}

impl PersistedTable {
    fn load(
        self,
        pod: &PodName,
        direction: &'static str,
        http: usize,
        rules: usize,
    ) -> Result<PolicyTable, PersistError> {
        let broken = || PersistError::Table {
            pod: pod.clone(),
            direction,
        };
        let dangling = |what, index| PersistError::Dangling {
            pod: pod.clone(),
            direction,
            what,
            index,
        };
        let decisions = self.cells.iter().flat_map(|(others, peers)| {
            std::iter::once(others).chain(peers.iter().map(|(_, decision)| decision))
        });
        for decision in decisions {
            if let Decision::AllowHttp(set, _) = decision
                && set.0 as usize >= http
            {
                return Err(dangling("rule set", set.0));
            }
            if let Some(rule) = decision.rule().filter(|rule| rule.0 as usize >= rules) {
                return Err(dangling("rule", rule.0));
            }
        }
        let cells = self.cells.len();
        let ports = |list: Vec<(u16, u32)>| {
            let whole = list.last().is_some_and(|(end, _)| *end == u16::MAX);
            let rising = list.is_sorted_by(|(a, _), (b, _)| a < b);
            let resolved = list.iter().all(|(_, cell)| (*cell as usize) < cells);
            if !(list.is_empty() || whole && rising && resolved) {
                return Err(broken());
            }
            let (ends, cells) = list.into_iter().unzip();
            Ok(PortMap { ends, cells })
        };
        if !self.protocols.is_sorted_by(|(a, _), (b, _)| a < b) {
            return Err(broken());
        }
        let protocols = self
            .protocols
            .into_iter()
            .map(|(protocol, list)| Ok((protocol, ports(list)?)))
            .collect::<Result<Vec<_>, PersistError>>()?;
        let other = ports(self.other)?;
        let cells = self
            .cells
            .into_iter()
            .map(|(others, peers)| Cell {
                others,
                peers: peers.into_iter().collect(),
            })
            .collect();
        Ok(PolicyTable::from_parts(self.enforced, protocols, other, cells))
    }
}

impl PersistedEndpoint {
    fn load(self, rules: usize) -> Result<EndpointPolicy, PersistError> {
        let Self {
            key,
            pod,
            identity,
            identity6,
            generation,
            ingress,
            egress,
            http,
            audit,
        } = self;
        let http = http
            .into_iter()
            .enumerate()
            .map(|(index, rules)| {
                let set = HttpRuleSet::new(rules);
                set.map(Arc::new).map_err(|source| PersistError::Http {
                    pod: pod.clone(),
                    index,
                    source,
                })
            })
            .collect::<Result<Vec<_>, _>>()?;
        Ok(EndpointPolicy {
            ingress: Arc::new(ingress.load(&pod, "ingress", http.len(), rules)?),
            egress: Arc::new(egress.load(&pod, "egress", http.len(), rules)?),
            key,
            pod,
            identity,
            identity6,
            generation,
            http,
            audit,
        })
    }
}

impl TryFrom<PersistedSnapshot> for Snapshot {
    type Error = PersistError;

    fn try_from(persisted: PersistedSnapshot) -> Result<Self, PersistError> {
        if persisted.version != PERSIST_VERSION {
            return Err(PersistError::Version {
                found: persisted.version,
            });
        }
        let mut endpoints: Vec<Option<Arc<EndpointPolicy>>> = Vec::new();
        for endpoint in persisted.endpoints {
            let policy = endpoint.load(persisted.rules.len())?;
            let slot = policy.key.slot;
            if endpoints.len() <= slot.index() {
                endpoints.resize(slot.index() + 1, None);
            }
            match endpoints.get_mut(slot.index()) {
                Some(free @ None) if slot != Slot::NONE => *free = Some(Arc::new(policy)),
                _ => {
                    return Err(PersistError::Slot {
                        pod: policy.pod,
                        slot,
                    });
                }
            }
        }
        let PersistedIpCache {
            generation,
            entries,
            pod_cidrs,
        } = persisted.ipcache;
        Ok(Self {
            // The former process's endpoints; this one's are known when they are introduced.
            local: Arc::default(),
            revision: persisted.revision,
            ipcache: Arc::new(IpCache::new(generation, entries, pod_cidrs)),
            services: Arc::new(
                ServiceTable::new(persisted.services).with_node_ports(persisted.nodes, persisted.node_ports),
            ),
            endpoints: Arc::new(endpoints),
            rules: Arc::new(persisted.rules),
            identities: Arc::new(BTreeMap::from_iter(persisted.identities)),
        })
    }
}

#[cfg(test)]
mod tests;
