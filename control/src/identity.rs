//! Allocation of identities: one number per label set, one per prefix that rules mention.
//!
//! A number is never given to another label set while the process lives, so that a worker which still holds an older snapshot
//! cannot take one workload for another; after a restart the numbers of the persisted snapshot are taken up again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ipnet::IpNet;
use policy::Identity;

use crate::counted::Counted;
use crate::labels::{LabelSource, Labels};

/// Label sets without a pod that are remembered, so that a workload that comes back keeps its identity.
pub(crate) const REMEMBERED: usize = 4096;

/// Labels of a reserved identity.
#[must_use]
pub fn reserved(identity: Identity) -> Option<Labels> {
    let name = identity.reserved_name()?;
    let mut labels = Labels::single(LabelSource::Reserved, name);
    if identity == Identity::KUBE_APISERVER {
        labels.insert(LabelSource::Reserved, "remote-node".to_owned(), String::new());
    }
    (identity != Identity::UNKNOWN).then_some(labels)
}

/// Every reserved identity but `unknown`.
pub const RESERVED: [Identity; 8] = [
    Identity::HOST,
    Identity::WORLD,
    Identity::UNMANAGED,
    Identity::HEALTH,
    Identity::INIT,
    Identity::REMOTE_NODE,
    Identity::KUBE_APISERVER,
    Identity::INGRESS,
];

/// Gives label sets and prefixes their identities.
#[derive(Debug, Clone)]
pub struct IdentityAllocator {
    by_labels: BTreeMap<Labels, Identity>,
    labels: BTreeMap<Identity, Labels>,
    next: u32,
    by_prefix: BTreeMap<IpNet, Identity>,
    next_local: u32,
    /// Label sets that came since [`Self::take_fresh`].
    fresh: Vec<Identity>,
}

impl Default for IdentityAllocator {
    fn default() -> Self {
        Self {
            by_labels: BTreeMap::new(),
            labels: BTreeMap::new(),
            next: Identity::FIRST_ALLOCATED.0,
            by_prefix: BTreeMap::new(),
            next_local: Identity::FIRST_LOCAL.0,
            fresh: Vec::new(),
        }
    }
}

impl IdentityAllocator {
    /// Takes up the identities of an earlier process. Entries that are not of the persisted form are skipped, their numbers not
    /// used again.
    pub fn restore<'a>(&mut self, identities: impl IntoIterator<Item = (&'a Identity, &'a Arc<[String]>)>) {
        for (identity, strings) in identities {
            if *identity >= Identity::FIRST_LOCAL {
                self.next_local = self.next_local.max(identity.0.saturating_add(1));
                let prefix = strings
                    .iter()
                    .find_map(|s| s.strip_prefix("cidr:")?.parse::<IpNet>().ok());
                if let Some(prefix) = prefix {
                    self.by_prefix.entry(prefix).or_insert(*identity);
                }
            } else if *identity >= Identity::FIRST_ALLOCATED {
                self.next = self.next.max(identity.0.saturating_add(1));
                if let Some(labels) = Labels::from_strings(strings.iter())
                    && !self.by_labels.contains_key(&labels)
                {
                    self.by_labels.insert(labels.clone(), *identity);
                    self.labels.insert(*identity, labels);
                }
            }
        }
    }

    /// The identity of a label set. A number that was given back is used again only when all higher ones have been, 16 million
    /// label sets later. When none is free: [`Identity::INIT`], whose pods nothing selects and everything is denied to.
    pub fn allocate(&mut self, labels: &Labels) -> Identity {
        if let Some(identity) = self.by_labels.get(labels) {
            return *identity;
        }
        let (first, end) = (Identity::FIRST_ALLOCATED.0, Identity::FIRST_LOCAL.0);
        let next = self.next.clamp(first, end);
        let mut numbers = (next..end).chain(first..next).map(Identity);
        let Some(identity) = numbers.find(|identity| !self.labels.contains_key(identity)) else {
            return Identity::INIT;
        };
        self.next = identity.0 + 1;
        self.by_labels.insert(labels.clone(), identity);
        self.labels.insert(identity, labels.clone());
        self.fresh.push(identity);
        identity
    }

    /// Label sets that were allocated since the last call.
    pub fn take_fresh(&mut self) -> Vec<Identity> {
        std::mem::take(&mut self.fresh)
    }

    /// The identity of a prefix. When all numbers are used up: [`Identity::UNMANAGED`], which no rule selects by prefix.
    pub fn allocate_prefix(&mut self, prefix: IpNet) -> Identity {
        let prefix = prefix.trunc();
        if let Some(identity) = self.by_prefix.get(&prefix) {
            return *identity;
        }
        let identity = Identity(self.next_local);
        match self.next_local.checked_add(1) {
            Some(next) => self.next_local = next,
            None => return Identity::UNMANAGED,
        }
        self.by_prefix.insert(prefix, identity);
        identity
    }

    /// Forgets label sets and prefixes that are not in use, once there are many; returns whether label sets were forgotten.
    pub fn compact(&mut self, in_use: &BTreeSet<Identity>, prefixes_in_use: &Counted<IpNet>) -> bool {
        let many = self.labels.len() > 2 * in_use.len() + REMEMBERED;
        if many {
            self.labels.retain(|identity, _| in_use.contains(identity));
            self.by_labels.retain(|_, identity| in_use.contains(identity));
        }
        if self.by_prefix.len() > 2 * prefixes_in_use.len() + REMEMBERED {
            self.by_prefix
                .retain(|prefix, _| prefixes_in_use.contains(prefix));
        }
        many
    }

    /// Number of label sets and prefixes held.
    #[must_use]
    pub fn len(&self) -> usize {
        self.labels.len() + self.by_prefix.len()
    }

    /// Whether nothing is allocated.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Labels of an allocated or reserved identity.
    #[must_use]
    pub fn labels(&self, identity: Identity) -> Option<Labels> {
        self.labels.get(&identity).cloned().or_else(|| reserved(identity))
    }

    /// Labels of an allocated identity.
    #[must_use]
    pub fn get(&self, identity: Identity) -> Option<&Labels> {
        self.labels.get(&identity)
    }

    /// Allocated label sets.
    pub fn iter(&self) -> impl Iterator<Item = (Identity, &Labels)> {
        self.labels.iter().map(|(identity, labels)| (*identity, labels))
    }

    /// The identity of a prefix, if it has one.
    #[must_use]
    pub fn prefix(&self, prefix: IpNet) -> Option<Identity> {
        self.by_prefix.get(&prefix.trunc()).copied()
    }
}

/// Labels of a prefix's identity.
#[must_use]
pub fn prefix_labels(prefix: IpNet) -> Labels {
    let mut labels = Labels::single(LabelSource::Reserved, "world");
    labels.insert(LabelSource::Cidr, prefix.to_string(), String::new());
    labels
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(app: &str) -> Labels {
        let mut labels = Labels::default();
        labels.insert(LabelSource::K8s, "app".into(), app.into());
        labels
    }

    #[test]
    fn equal_labels_get_equal_identities_from_256() {
        let mut allocator = IdentityAllocator::default();
        assert_eq!(allocator.allocate(&labels("a")), Identity(256));
        assert_eq!(allocator.allocate(&labels("b")), Identity(257));
        assert_eq!(allocator.allocate(&labels("a")), Identity(256));
    }

    #[test]
    fn restored_identities_keep_their_numbers_and_new_ones_take_others() {
        let mut allocator = IdentityAllocator::default();
        let prefix: IpNet = "10.0.0.0/8".parse().expect("net");
        let persisted = BTreeMap::from_iter([
            (Identity(300), labels("a").to_strings().into()),
            (Identity(301), vec!["nonsense".to_owned()].into()),
            (
                Identity(Identity::FIRST_LOCAL.0 + 7),
                prefix_labels(prefix).to_strings().into(),
            ),
        ]);
        allocator.restore(&persisted);
        assert_eq!(allocator.allocate(&labels("a")), Identity(300));
        assert_eq!(allocator.allocate(&labels("b")), Identity(302));
        assert_eq!(
            allocator.allocate_prefix(prefix),
            Identity(Identity::FIRST_LOCAL.0 + 7)
        );
        assert_eq!(
            allocator.allocate_prefix("10.0.0.0/9".parse().expect("net")).0,
            Identity::FIRST_LOCAL.0 + 8
        );
    }

    #[test]
    fn numbers_are_used_again_after_the_last_one() {
        let mut allocator = IdentityAllocator::default();
        let first = allocator.allocate(&labels("first"));
        allocator.next = Identity::FIRST_LOCAL.0 - 1;
        assert_eq!(allocator.allocate(&labels("last")).0, Identity::FIRST_LOCAL.0 - 1);
        assert_eq!(
            allocator.allocate(&labels("next")).0,
            first.0 + 1,
            "the first is in use"
        );
    }

    #[test]
    fn a_forgotten_identity_is_not_given_to_other_labels() {
        let mut allocator = IdentityAllocator::default();
        for n in 0..=REMEMBERED + 2 {
            allocator.allocate(&labels(&n.to_string()));
        }
        let last = allocator.allocate(&labels("last"));
        allocator.compact(&BTreeSet::from_iter([last]), &Counted::default());
        assert_eq!(allocator.len(), 1);
        assert!(allocator.allocate(&labels("0")) > last);
    }
}
