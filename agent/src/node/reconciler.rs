//! Brings the node to the desired state and keeps it there.

use std::collections::{BTreeSet, HashSet};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rtnetlink::Handle;
use tokio::task::JoinHandle;

use super::desired::{FORWARD_TABLE, HOST_TABLE, NodeState, PAIRS};
use super::{
    Difference, Drift, Family, NodeError, NodeObject, NodeWarning, PROC_SYS_NET, link, masquerade, route,
    rule, sysctl,
};

/// What one pass found.
#[derive(Debug, Default)]
pub struct Report {
    /// Set up for the first time, or removed because it is no longer desired.
    pub changed: Vec<Drift>,
    /// Had been right before and was not any more: somebody else changed it.
    pub repaired: Vec<Drift>,
    /// What impairs sluice on this node and is not its own.
    pub warnings: Vec<NodeWarning>,
}

/// The owner of the node's state. See the [module documentation](super).
#[derive(Debug)]
pub struct Reconciler {
    handle: Handle,
    connection: JoinHandle<()>,
    /// Objects that were right after the last pass: what differs of them now has drifted.
    settled: HashSet<NodeObject>,
    /// Addresses behind a pair after the last pass.
    behind: BTreeSet<IpAddr>,
    masquerade: Masquerade,
    mtu: u32,
    proc_sys_net: PathBuf,
}

/// What is known of the table for masquerading.
#[derive(Debug, Clone, Copy)]
enum Masquerade {
    /// A former run may have left it.
    Unknown,
    Absent,
    Written(Instant),
}

/// How long the table is taken to be as it was written: nothing tells of changes to it.
const MASQUERADE_AGE: Duration = Duration::from_secs(20);

impl Drop for Reconciler {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

impl Reconciler {
    /// Opens netlink in the calling thread's network namespace. Changes nothing.
    ///
    /// # Errors
    /// [`NodeError::Connect`].
    pub fn new() -> Result<Self, NodeError> {
        // Strict checking lets the kernel filter dumps by table and device, so that a pass costs the same on a node with a
        // full BGP table.
        let (connection, handle, _messages) =
            rtnetlink::new_connection_with_strict_check().map_err(NodeError::Connect)?;
        Ok(Self {
            handle,
            connection: tokio::spawn(connection),
            settled: HashSet::new(),
            behind: BTreeSet::new(),
            masquerade: Masquerade::Unknown,
            mtu: 0,
            proc_sys_net: PROC_SYS_NET.into(),
        })
    }

    /// Changes sysctls below `directory` instead of `/proc/sys/net`.
    #[must_use]
    pub fn with_proc_sys_net(mut self, directory: PathBuf) -> Self {
        self.proc_sys_net = directory;
        self
    }

    /// Brings the node to `desired`. A second call with the same state and nobody interfering changes nothing.
    ///
    /// Order: pairs, their sysctls, up, neighbours, routes, rules; whatever is missing in between leaves traffic without a way,
    /// never with a way past the worker.
    ///
    /// # Errors
    /// [`NodeError`] at the first refusal; what was done stays, and the next pass goes on from there.
    pub async fn reconcile(&mut self, desired: &NodeState) -> Result<Report, NodeError> {
        let mut drifts = Vec::new();
        let mut warnings = Vec::new();
        let outcome = self.bring_about(desired, &mut drifts, &mut warnings).await;

        let mut report = Report {
            warnings,
            ..Report::default()
        };
        for drift in drifts {
            let is_repair = match drift.difference {
                Difference::Unwanted => !self.was_desired(&drift.object),
                Difference::Missing => self.settled.contains(&drift.object),
                // Settled with the former MTU is no drift.
                Difference::Wrong => self.settled.contains(&drift.object) && self.mtu == desired.mtu,
            };
            if is_repair {
                report.repaired.push(drift)
            } else {
                report.changed.push(drift)
            }
        }
        outcome?;
        self.settled = objects(desired, &self.proc_sys_net);
        self.behind = PAIRS.iter().flat_map(|pair| desired.behind(pair)).collect();
        self.mtu = desired.mtu;
        for drift in &report.repaired {
            tracing::warn!(%drift, "repaired node state that somebody else changed");
        }
        Ok(report)
    }

    /// Whether an unwanted object is one of our own making, left from the last desired state or from a former run.
    fn was_desired(&self, object: &NodeObject) -> bool {
        match object {
            NodeObject::Route { addr, .. } | NodeObject::Neighbour { addr, .. } => {
                self.settled.is_empty() || self.behind.contains(addr)
            }
            _ => self.settled.is_empty(),
        }
    }

    async fn bring_about(
        &mut self,
        desired: &NodeState,
        drifts: &mut Vec<Drift>,
        warnings: &mut Vec<NodeWarning>,
    ) -> Result<(), NodeError> {
        for pair in &PAIRS {
            drifts.extend(link::ensure_pair(&self.handle, pair, desired).await?);
            for end in pair.ends() {
                drifts.extend(link::ensure_attributes(&self.handle, &end, desired).await?);
                self.ensure_settings(&end, drifts)?;
            }
            for end in pair.ends() {
                drifts.extend(link::ensure_up(&self.handle, &end).await?);
            }
        }
        warnings.extend(self.ensure_masquerade(!desired.services.is_empty()).await);
        for family in Family::ALL {
            for pair in &PAIRS {
                let Some(table) = pair.table else { continue };
                let device = link::get(&self.handle, pair.outer)
                    .await?
                    .ok_or(NodeError::Vanished { name: pair.outer })?
                    .index;
                let behind = desired.behind(pair);
                route::ensure_neighbours(&self.handle, family, pair, device, &behind, drifts).await?;
                route::ensure(&self.handle, family, table, device, &behind, drifts).await?;
            }
            rule::ensure(&self.handle, family, drifts, warnings).await?;
            if !sysctl::forwards(&self.proc_sys_net, family)
                && desired.pods.iter().any(|addr| Family::of(*addr) == family)
            {
                warnings.push(NodeWarning::ForwardingOff { family });
            }
        }
        Ok(())
    }

    /// Without it only what other nodes serve is out of reach, which is no reason to leave the rest undone.
    async fn ensure_masquerade(&mut self, wanted: bool) -> Option<NodeWarning> {
        match self.masquerade {
            Masquerade::Written(at) if wanted && at.elapsed() < MASQUERADE_AGE => {}
            _ if wanted => match masquerade::ensure().await {
                Ok(()) => self.masquerade = Masquerade::Written(Instant::now()),
                Err(error) => {
                    self.masquerade = Masquerade::Unknown;
                    return Some(NodeWarning::Masquerade {
                        reason: error.to_string(),
                    });
                }
            },
            Masquerade::Absent => {}
            Masquerade::Unknown | Masquerade::Written(_) => {
                masquerade::remove().await;
                self.masquerade = Masquerade::Absent;
            }
        }
        None
    }

    fn ensure_settings(&self, end: &super::desired::End, drifts: &mut Vec<Drift>) -> Result<(), NodeError> {
        for setting in end.settings {
            if let Some(path) = sysctl::ensure(&self.proc_sys_net, setting, end.name)? {
                drifts.push(Drift {
                    object: NodeObject::Sysctl { path },
                    difference: Difference::Wrong,
                });
            }
        }
        Ok(())
    }

    /// Removes rules, routes and pairs, whoever made them, until nothing of sluice is left; also works on a node where nothing
    /// or only a part is there. Returns how many objects there were.
    ///
    /// # Errors
    /// [`NodeError`] at the first refusal.
    pub async fn remove_all(&mut self) -> Result<usize, NodeError> {
        let mut removed = 0;
        for family in Family::ALL {
            removed += rule::remove_all(&self.handle, family).await?;
            for table in [HOST_TABLE, FORWARD_TABLE] {
                removed += route::remove_all(&self.handle, family, table).await?;
            }
        }
        for pair in &PAIRS {
            removed += usize::from(link::remove_pair(&self.handle, pair).await?);
        }
        masquerade::remove().await;
        self.masquerade = Masquerade::Absent;
        self.settled.clear();
        self.behind.clear();
        Ok(removed)
    }
}

/// Everything that is there when the node is as desired.
fn objects(desired: &NodeState, proc_sys_net: &Path) -> HashSet<NodeObject> {
    let mut objects = HashSet::new();
    for pair in &PAIRS {
        objects.insert(NodeObject::Pair { outer: pair.outer });
        for end in pair.ends() {
            objects.insert(NodeObject::Link { name: end.name });
            objects.extend(end.settings.iter().map(|s| NodeObject::Sysctl {
                path: sysctl::path(proc_sys_net, s, end.name),
            }));
        }
        let Some(table) = pair.table else { continue };
        for addr in desired.behind(pair) {
            objects.insert(NodeObject::Neighbour {
                addr,
                device: pair.outer,
            });
            objects.insert(NodeObject::Route { addr, table });
        }
    }
    for family in Family::ALL {
        for priority in [
            super::desired::HOST_RULE_PRIORITY,
            super::desired::FORWARD_RULE_PRIORITY,
        ] {
            objects.insert(NodeObject::Rule { family, priority });
        }
    }
    objects
}
