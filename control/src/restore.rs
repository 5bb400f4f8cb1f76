//! The persisted snapshot: what is enforced after a restart until the source has synced.
//!
//! An endpoint that is added then gets its persisted policy only if pod and addresses are those of the persisted one; any other is
//! `init`. Slots of the former process mean nothing, so none of its endpoints is published unasked.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ipnet::IpNet;
use policy::persist::{self, PersistError};
use policy::{
    EndpointKey, EndpointPolicy, Identity, IpCache, IpCacheGeneration, PodName, PolicyGeneration, Revision,
    Slot, Snapshot,
};

use crate::compile::{self, RuleNames};
use crate::index::LocalEndpoint;
use crate::labels::Labels;

/// A persisted snapshot that cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The file cannot be read.
    #[error("persisted snapshot {path} cannot be read")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file cannot be written.
    #[error("persisted snapshot {path} cannot be written")]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The content is refused.
    #[error("persisted snapshot {path} is refused")]
    Content {
        /// The file.
        path: PathBuf,
        /// Why.
        source: Box<PersistError>,
    },
}

/// A persisted snapshot that is enforced for want of a newer one.
#[derive(Debug)]
pub struct Restored {
    /// Without endpoints.
    snapshot: Snapshot,
    endpoints: HashMap<PodName, Arc<EndpointPolicy>>,
}

/// Who had the endpoints of the former process: some of them may have no object any more.
#[derive(Debug, Default)]
pub(crate) struct RestoredPods {
    pods: HashMap<EndpointKey, RestoredPod>,
    ipcache: Arc<IpCache>,
}

#[derive(Debug)]
struct RestoredPod {
    name: PodName,
    identity: Identity,
    identity6: Identity,
    labels: Labels,
}

impl RestoredPods {
    /// Labels of an endpoint's pod, once: if the runtime tells occupants of its slot apart, and all its addresses were that pod's.
    pub(crate) fn take(&mut self, endpoint: &LocalEndpoint) -> Option<Labels> {
        let pod = self.pods.remove(&endpoint.key)?;
        let own = |addr: &IpAddr| {
            if addr.is_ipv6() {
                pod.identity6
            } else {
                pod.identity
            }
        };
        let known = |addr: &IpAddr| self.ipcache.lookup(*addr) == own(addr);
        let is_there = !endpoint.addresses.is_empty() && endpoint.addresses.iter().all(known);
        let is_same = pod.name == endpoint.pod && endpoint.uid.is_some() && is_there;
        if self.pods.is_empty() {
            self.ipcache = Arc::default();
        }
        is_same.then_some(pod.labels)
    }
}

impl Restored {
    /// Reads a persisted snapshot; `None` if there is no file.
    ///
    /// # Errors
    /// [`RestoreError::Read`], or [`RestoreError::Content`] for another version or a damaged file.
    pub fn load(path: &Path) -> Result<Option<Self>, RestoreError> {
        let bytes = match fs::read(path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => {
                return Err(RestoreError::Read {
                    path: path.to_path_buf(),
                    source,
                });
            }
        };
        let mut snapshot = persist::from_json(&bytes).map_err(|source| RestoreError::Content {
            path: path.to_path_buf(),
            source: Box::new(source),
        })?;
        let persisted = std::mem::take(&mut snapshot.endpoints);
        let endpoints = persisted
            .iter()
            .flatten()
            .map(|policy| (policy.pod.clone(), Arc::clone(policy)))
            .collect();
        Ok(Some(Self { snapshot, endpoints }))
    }

    /// The persisted snapshot without its endpoints.
    #[must_use]
    pub fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    /// The persisted state with these local endpoints, as the snapshot after `previous`.
    #[must_use]
    pub fn with_endpoints(&self, endpoints: &BTreeMap<Slot, LocalEndpoint>, previous: &Snapshot) -> Snapshot {
        let revision = Revision(previous.revision.0 + 1);
        let mut names = RuleNames::new(&previous.rules);
        let init = compile::init_tables(&mut names);
        let mut policies = vec![None; endpoints.keys().last().map_or(0, |slot| slot.index() + 1)];
        let mut unknown = Vec::new();
        for endpoint in endpoints.values() {
            let policy = match self.persisted(endpoint) {
                Some(persisted) => EndpointPolicy {
                    key: endpoint.key,
                    generation: PolicyGeneration(revision.0),
                    ..EndpointPolicy::clone(persisted)
                },
                None => {
                    unknown.extend(
                        endpoint
                            .addresses
                            .iter()
                            .map(|addr| (IpNet::from(*addr), Identity::INIT)),
                    );
                    compile::endpoint_policy(
                        endpoint.key,
                        endpoint.pod.clone(),
                        &compile::Subject::of(None),
                        &init,
                        revision,
                    )
                }
            };
            // Not the persisted mode: an agent that is started to enforce must not audit until it has read its manifests.
            let policy = EndpointPolicy {
                audit: endpoint.audit,
                ..policy
            };
            let policy = match previous.endpoint(endpoint.key) {
                Some(before) if before.same_content(&policy) => Arc::clone(before),
                _ => Arc::new(policy),
            };
            if let Some(slot) = policies.get_mut(endpoint.key.slot.index()) {
                *slot = Some(policy);
            }
        }
        let persisted = &self.snapshot.ipcache;
        let entries = persisted.entries().chain(unknown);
        let ipcache = IpCache::new(
            IpCacheGeneration(revision.0),
            entries,
            persisted.pod_cidrs().to_vec(),
        );
        let ipcache = if previous.ipcache.same_content(&ipcache) {
            Arc::clone(&previous.ipcache)
        } else {
            Arc::new(ipcache)
        };
        Snapshot {
            revision,
            ipcache,
            services: Arc::clone(&self.snapshot.services),
            endpoints: Arc::new(policies),
            local: Arc::new(
                endpoints
                    .values()
                    .flat_map(|endpoint| endpoint.addresses.iter().copied())
                    .collect(),
            ),
            rules: Arc::new(names.rules().to_vec()),
            identities: Arc::clone(&self.snapshot.identities),
        }
    }

    /// The pods that had the endpoints.
    #[must_use]
    pub(crate) fn pods(&self) -> RestoredPods {
        let known = |policy: &Arc<EndpointPolicy>| {
            let labels = self.snapshot.identities.get(&policy.identity)?;
            let pod = RestoredPod {
                name: policy.pod.clone(),
                identity: policy.identity,
                identity6: policy.identity6,
                labels: Labels::from_strings(labels.iter())?,
            };
            Some((policy.key, pod))
        };
        RestoredPods {
            pods: self.endpoints.values().filter_map(known).collect(),
            ipcache: Arc::clone(&self.snapshot.ipcache),
        }
    }

    /// The persisted policy of an endpoint: of the same pod, at addresses that all had the pod's identity.
    fn persisted(&self, endpoint: &LocalEndpoint) -> Option<&Arc<EndpointPolicy>> {
        let policy = self.endpoints.get(&endpoint.pod)?;
        // With a uid the occupants of a slot are told apart: this one came after the snapshot was written.
        if endpoint.uid.is_some() && policy.key != endpoint.key {
            return None;
        }
        let known = |addr| self.snapshot.ipcache.lookup(addr) == policy.identity_at(addr);
        let same = !endpoint.addresses.is_empty() && endpoint.addresses.iter().copied().all(known);
        same.then_some(policy)
    }
}

/// Writes a snapshot so that a reader sees the old or the new one, never a part.
///
/// # Errors
/// [`RestoreError::Write`] or [`RestoreError::Content`]; the old file stays.
pub fn save(path: &Path, snapshot: &Snapshot) -> Result<(), RestoreError> {
    let bytes = persist::to_json(snapshot).map_err(|source| RestoreError::Content {
        path: path.to_path_buf(),
        source: Box::new(source),
    })?;
    replace(path, &bytes).map_err(|source| RestoreError::Write {
        path: path.to_path_buf(),
        source,
    })
}

/// Replaces a file in one step; only its owner may read it.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let temporary = path.with_added_extension("new");
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&temporary, path)
}
