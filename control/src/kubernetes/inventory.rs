//! What the watches have reported of the cluster, and what of it is to be applied to the index.
//!
//! Watches run independently, so what two of them say of one object comes in any order: a pod that is scheduled to this node leaves the
//! watch of the others and enters that of its own, and may be reported by the former after the latter. Of two watches that have an
//! object the first in the list is believed, and what the other says is kept until the first has lost it.
//!
//! Invariants: an object that is refused keeps its last good state, also one of the former process ([`Inventory::restore`]); one is deleted when no watch has it any more; what a new list does not hold any more is deleted when the list is complete, not before.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use policy::PodName;
use serde_json::Value;

use super::watch::{Observed, WatchId};
use crate::field::Fault;
use crate::object::{self, Decoded, Kind, Object, ObjectKey};
use crate::source::{Changes, ObjectError};

/// State of one watch.
#[derive(Debug, Default)]
struct Watched {
    /// What it watches, for people.
    name: String,
    /// Whether everything was listed once, or there is nothing to list.
    synced: bool,
    /// What a list that is not complete yet has brought.
    listing: Option<BTreeSet<ObjectKey>>,
    /// Why it cannot go on, and when that was reported.
    error: Option<(Instant, String)>,
}

/// Objects of all watches.
#[derive(Debug)]
pub(super) struct Inventory {
    cluster: String,
    watches: Vec<Watched>,
    /// The watch that is believed of an object.
    holder: HashMap<ObjectKey, WatchId>,
    /// What a watch says of an object that another one is believed of.
    shadowed: HashMap<ObjectKey, (WatchId, Value)>,
    errors: BTreeMap<ObjectKey, Vec<ObjectError>>,
    /// Policies and groups in force.
    good: BTreeMap<ObjectKey, Arc<Value>>,
    good_has_changed: bool,
    /// What was in force in the former process, until everything has been listed.
    restored: BTreeMap<ObjectKey, Arc<Value>>,
    /// The watch whose objects are also asked for by name.
    own_pods: WatchId,
    /// `metadata.uid` of what that watch has.
    uids: HashMap<ObjectKey, String>,
    /// Objects that an answer has told of and the watch has not yet, and when.
    unconfirmed: HashMap<ObjectKey, Instant>,
}

impl Inventory {
    /// `names` of the watches by [`WatchId`], of which `own_pods` is that of this node's pods; `cluster` is the name that policies are
    /// scoped to.
    pub(super) fn new(names: impl IntoIterator<Item = String>, own_pods: WatchId, cluster: String) -> Self {
        let watched = |name| Watched {
            name,
            ..Watched::default()
        };
        Self {
            cluster,
            watches: names.into_iter().map(watched).collect(),
            holder: HashMap::new(),
            shadowed: HashMap::new(),
            errors: BTreeMap::new(),
            good: BTreeMap::new(),
            good_has_changed: false,
            restored: BTreeMap::new(),
            own_pods,
            uids: HashMap::new(),
            unconfirmed: HashMap::new(),
        }
    }

    /// What was in force before: an object that is refused at its first listing keeps that state, if it is still the same one.
    pub(super) fn restore(&mut self, good: Vec<Arc<Value>>) {
        let known = good.into_iter().filter_map(|value| {
            let Decoded::Object(object) = object::decode(&value, &self.cluster) else {
                return None;
            };
            Some((object.key, value))
        });
        self.restored = known.collect();
    }

    /// Policies and groups in force, if they are others than at the last call and everything was listed once.
    pub(super) fn take_good(&mut self) -> Option<Vec<Arc<Value>>> {
        if !self.good_has_changed || !self.is_synced() {
            return None;
        }
        self.good_has_changed = false;
        Some(self.good.values().cloned().collect())
    }

    /// Takes note of an observation; what it changes goes to `changes`.
    pub(super) fn observe(&mut self, id: WatchId, observed: Observed, changes: &mut Changes) {
        let Some(watched) = self.watches.get_mut(id.0) else {
            return;
        };
        if !matches!(observed, Observed::Failed(_) | Observed::Fetched(..)) {
            watched.error = None;
        }
        match observed {
            Observed::ListBegins => watched.listing = Some(BTreeSet::new()),
            Observed::Listed(object) => {
                if let Some(key) = self.apply(id, &object, changes)
                    && let Some(listing) = self.watches.get_mut(id.0).and_then(|w| w.listing.as_mut())
                {
                    listing.insert(key);
                }
            }
            Observed::ListEnds => {
                let listing = watched.listing.take().unwrap_or_default();
                watched.synced = true;
                self.keep_only(id, &listing, changes);
                self.forget_restored();
            }
            // No resource of that name: there are no objects of it.
            Observed::Absent => {
                watched.listing = None;
                watched.synced = true;
                self.keep_only(id, &BTreeSet::new(), changes);
                self.forget_restored();
            }
            Observed::Applied(object) => {
                self.apply(id, &object, changes);
            }
            Observed::Deleted(key) => self.delete(id, &key, changes),
            Observed::Fetched(key, object) => self.fetched(id, key, object.as_deref(), changes),
            Observed::Failed(error) => {
                watched.error = Some((Instant::now(), format!("{}: {error}", watched.name)))
            }
        }
    }

    /// Whether every watch has listed its objects once.
    pub(super) fn is_synced(&self) -> bool {
        self.watches.iter().all(|watched| watched.synced)
    }

    /// Why watches cannot go on.
    pub(super) fn failures(&self) -> impl Iterator<Item = &String> {
        self.watches
            .iter()
            .filter_map(|watched| watched.error.as_ref())
            .map(|(_, error)| error)
    }

    /// Pods that an answer told of before that time, and no watch since: whether they are still there is not known.
    pub(super) fn unconfirmed(&mut self, before: Instant) -> Vec<PodName> {
        let old = self.unconfirmed.iter_mut().filter(|(_, since)| **since < before);
        // The next question is due as late as this one.
        old.map(|(key, since)| {
            *since = Instant::now();
            key.pod()
        })
        .collect()
    }

    /// Takes the answer to a question for one object. What the watch says of the very same one is as new or newer.
    fn fetched(&mut self, id: WatchId, key: ObjectKey, object: Option<&Value>, changes: &mut Changes) {
        let Some(object) = object else {
            if self.unconfirmed.contains_key(&key) {
                self.delete(id, &key, changes);
            }
            return;
        };
        let is_known = self.holder.get(&key) == Some(&id)
            && !self.unconfirmed.contains_key(&key)
            && self.uids.get(&key).map(String::as_str) == Some(uid(object));
        if !is_known && let Some(key) = self.apply(id, object, changes) {
            if let Some(listing) = self.watches.get_mut(id.0).and_then(|w| w.listing.as_mut()) {
                listing.insert(key.clone());
            }
            self.unconfirmed.insert(key, Instant::now());
        }
    }

    /// Forgets failures that were reported before: a watch that goes on where it was has nothing to report.
    pub(super) fn forget_failures(&mut self, before: Instant) {
        for watched in &mut self.watches {
            if watched.error.as_ref().is_some_and(|(since, _)| *since < before) {
                watched.error = None;
            }
        }
    }

    /// Objects that are refused.
    pub(super) fn errors(&self) -> Vec<ObjectError> {
        self.errors.values().flatten().cloned().collect()
    }

    fn apply(&mut self, id: WatchId, value: &Value, changes: &mut Changes) -> Option<ObjectKey> {
        let decoded = object::decode(value, &self.cluster);
        let key = match &decoded {
            Decoded::Object(object) => Some(&object.key),
            Decoded::Ignored => None,
            Decoded::Invalid { key, .. } => key.as_ref(),
        };
        if let Some(key) = key
            && self.holder.get(key).is_some_and(|holder| holder.0 < id.0)
        {
            self.shadowed.insert(key.clone(), (id, value.clone()));
            return Some(key.clone());
        }
        if let Some(key) = key.filter(|_| id == self.own_pods) {
            self.uids.insert(key.clone(), uid(value).to_owned());
            self.unconfirmed.remove(key);
        }
        match decoded {
            Decoded::Object(object) => {
                let key = object.key.clone();
                self.errors.remove(&key);
                self.holder.insert(key.clone(), id);
                if is_kept(key.kind) {
                    self.keep_good(key.clone(), without_managed_fields(value));
                }
                push(changes, *object);
                Some(key)
            }
            Decoded::Ignored => None,
            Decoded::Invalid { key, faults } => {
                let key = key?;
                self.holder.insert(key.clone(), id);
                let errors = faults.iter().map(|fault| refused(&key, fault)).collect();
                self.errors.insert(key.clone(), errors);
                // One that was deleted and made anew is another object: what it said before ends with it.
                if self.good.get(&key).is_some_and(|good| uid(good) != uid(value)) {
                    self.good.remove(&key);
                    self.good_has_changed = true;
                    changes.applied.retain(|object| object.key != key);
                    changes.deleted.push(key.clone());
                }
                if let Some(good) = self.former_state(&key, value)
                    && let Decoded::Object(object) = object::decode(&good, &self.cluster)
                {
                    self.keep_good(key.clone(), good);
                    push(changes, *object);
                }
                Some(key)
            }
        }
    }

    fn delete(&mut self, id: WatchId, key: &ObjectKey, changes: &mut Changes) {
        if self
            .shadowed
            .get(key)
            .is_some_and(|(shadowed, _)| *shadowed == id)
        {
            self.shadowed.remove(key);
        }
        if self.holder.get(key) != Some(&id) {
            return;
        }
        self.holder.remove(key);
        self.errors.remove(key);
        self.uids.remove(key);
        self.good_has_changed |= self.good.remove(key).is_some();
        self.unconfirmed.remove(key);
        changes.applied.retain(|object| object.key != *key);
        changes.deleted.push(key.clone());
        if let Some((other, value)) = self.shadowed.remove(key) {
            self.apply(other, &value, changes);
        }
    }

    fn keep_good(&mut self, key: ObjectKey, value: Arc<Value>) {
        let former = self.good.insert(key, Arc::clone(&value));
        self.good_has_changed |= former != Some(value);
    }

    /// What the former process enforced of an object that is refused now and was never good since.
    fn former_state(&mut self, key: &ObjectKey, refused: &Value) -> Option<Arc<Value>> {
        if self.good.contains_key(key) {
            return None;
        }
        self.restored.remove(key).filter(|good| uid(good) == uid(refused))
    }

    fn forget_restored(&mut self) {
        if self.is_synced() {
            self.restored.clear();
        }
    }

    fn keep_only(&mut self, id: WatchId, listed: &BTreeSet<ObjectKey>, changes: &mut Changes) {
        let held = self.holder.iter().filter(|(_, holder)| **holder == id);
        let shadowed = self.shadowed.iter().filter(|(_, (holder, _))| *holder == id);
        let gone: Vec<ObjectKey> = held
            .map(|(key, _)| key)
            .chain(shadowed.map(|(key, _)| key))
            .filter(|key| !listed.contains(key))
            .cloned()
            .collect();
        for key in gone {
            self.delete(id, &key, changes);
        }
    }
}

/// Kinds whose objects say who may talk to whom.
const fn is_kept(kind: Kind) -> bool {
    matches!(
        kind,
        Kind::NetworkPolicy
            | Kind::ClusterNetworkPolicy
            | Kind::CiliumNetworkPolicy
            | Kind::CiliumClusterwideNetworkPolicy
            | Kind::CiliumCIDRGroup
    )
}

/// A copy without `metadata.managedFields`, which are often the larger part.
fn without_managed_fields(value: &Value) -> Arc<Value> {
    let mut value = value.clone();
    if let Some(metadata) = value.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove("managedFields");
    }
    Arc::new(value)
}

/// `metadata.uid`; empty if there is none.
fn uid(object: &Value) -> &str {
    let uid = object.pointer("/metadata/uid");
    uid.and_then(Value::as_str).unwrap_or_default()
}

/// Deletions are carried out before applications, so one that was deleted within the same batch is not deleted any more.
fn push(changes: &mut Changes, object: Object) {
    changes.applied.retain(|known| known.key != object.key);
    changes.applied.push(object);
}

fn refused(key: &ObjectKey, fault: &Fault) -> ObjectError {
    ObjectError {
        file: PathBuf::new(),
        line: None,
        field: fault.field.clone(),
        object: Some(key.to_string()),
        message: fault.kind.to_string(),
    }
}

#[cfg(test)]
mod tests;
