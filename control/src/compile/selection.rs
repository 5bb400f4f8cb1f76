//! Which identities each selector selects, kept from one compilation to the next.
//!
//! Invariant: a selector's list is what a look at all labels would give; [`Selection::add`] keeps it so when identities come.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use policy::Identity;

use crate::identity;
use crate::index::Index;
use crate::labels::{LabelSource, Labels};
use crate::selector::Selector;

/// Number of a selector in a [`Selection`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct SelectorId(u32);

#[derive(Debug)]
struct Selected {
    selector: Selector,
    identities: Arc<[Identity]>,
    /// Whether it selects prefixes, as parts of the world.
    covers_prefixes: bool,
}

/// Selectors and what they select.
#[derive(Debug, Default)]
pub(crate) struct Selection {
    ids: HashMap<Selector, SelectorId>,
    selected: Vec<Selected>,
    /// Pods' identities by namespace: most selectors name one.
    namespaces: HashMap<String, Vec<Identity>>,
}

/// Labels of the reserved identities on this node.
pub(crate) fn reserved(index: &Index) -> impl Iterator<Item = (Identity, Labels)> {
    let is_apiserver = index.is_local_node_apiserver();
    identity::RESERVED.into_iter().filter_map(move |id| {
        let mut labels = identity::reserved(id)?;
        if id == Identity::HOST && is_apiserver {
            labels.insert(LabelSource::Reserved, "kube-apiserver".to_owned(), String::new());
        }
        Some((id, labels))
    })
}

impl Selection {
    /// Knows all identities of `index` and no selector yet.
    pub(crate) fn new(index: &Index) -> Self {
        let mut selection = Self::default();
        for (identity, labels) in index.identities().iter() {
            selection.add_to_namespace(identity, labels);
        }
        selection
    }

    fn add_to_namespace(&mut self, identity: Identity, labels: &Labels) {
        if let Some(namespace) = labels.namespace() {
            match self.namespaces.get_mut(namespace) {
                Some(identities) => identities.push(identity),
                None => drop(self.namespaces.insert(namespace.to_owned(), vec![identity])),
            }
        }
    }

    /// Number of selectors known.
    pub(crate) fn len(&self) -> usize {
        self.selected.len()
    }

    /// The identities that `selector` selects.
    pub(crate) fn select(&mut self, index: &Index, selector: &Selector) -> (SelectorId, Arc<[Identity]>) {
        if let Some(id) = self.ids.get(selector)
            && let Some(found) = self.selected.get(id.0 as usize)
        {
            return (*id, Arc::clone(&found.identities));
        }
        let selected = self.search(index, selector.clone());
        let identities = Arc::clone(&selected.identities);
        let id = SelectorId(u32::try_from(self.selected.len()).unwrap_or(u32::MAX));
        self.selected.push(selected);
        self.ids.insert(selector.clone(), id);
        (id, identities)
    }

    fn search(&self, index: &Index, selector: Selector) -> Selected {
        let mut identities: Vec<Identity> = match selector.namespaces() {
            Some(namespaces) => {
                let pods = namespaces.iter().filter_map(|name| self.namespaces.get(name));
                pods.flatten()
                    .copied()
                    .filter(|id| index.identities().get(*id).is_some_and(|l| selector.matches(l)))
                    .collect()
            }
            None => {
                let reserved = reserved(index).filter(|(_, labels)| selector.matches(labels));
                let others = index
                    .identities()
                    .iter()
                    .filter(|(_, labels)| selector.matches(labels));
                reserved
                    .map(|(id, _)| id)
                    .chain(others.map(|(id, _)| id))
                    .collect()
            }
        };
        let covers_prefixes = prefixes(index, &selector, &mut identities);
        Selected {
            selector,
            identities: identities.into(),
            covers_prefixes,
        }
    }

    /// Takes up new identities; returns the selectors whose lists have changed.
    pub(crate) fn add(&mut self, index: &Index, fresh: &[Identity]) -> BTreeSet<SelectorId> {
        let mut changed = BTreeSet::new();
        let fresh: Vec<(Identity, &Labels)> = fresh
            .iter()
            .filter_map(|id| Some((*id, index.identities().get(*id)?)))
            .collect();
        for (identity, labels) in &fresh {
            self.add_to_namespace(*identity, labels);
        }
        for (at, selected) in (0..).zip(&mut self.selected) {
            let mut added = fresh
                .iter()
                .filter(|(_, labels)| selected.selector.matches(labels))
                .map(|(id, _)| *id)
                .peekable();
            if added.peek().is_some() {
                selected.identities = selected.identities.iter().copied().chain(added).collect();
                changed.insert(SelectorId(at));
            }
        }
        changed
    }

    /// Looks again at selectors that prefixes belong to; returns them.
    pub(crate) fn renew_prefixes(&mut self, index: &Index) -> BTreeSet<SelectorId> {
        let stale: Vec<(u32, Selector)> = (0..)
            .zip(&self.selected)
            .filter(|(_, selected)| selected.covers_prefixes)
            .map(|(at, selected)| (at, selected.selector.clone()))
            .collect();
        let mut changed = BTreeSet::new();
        for (at, selector) in stale {
            let renewed = self.search(index, selector);
            if let Some(selected) = self.selected.get_mut(at as usize) {
                *selected = renewed;
                changed.insert(SelectorId(at));
            }
        }
        changed
    }
}

/// Adds the prefixes that `selector` selects, which have the labels of the world and, where an API server is there, its label too.
fn prefixes(index: &Index, selector: &Selector, identities: &mut Vec<Identity>) -> bool {
    let world = Labels::single(LabelSource::Reserved, "world");
    let mut apiserver = world.clone();
    apiserver.insert(LabelSource::Reserved, "kube-apiserver".to_owned(), String::new());
    let (world, apiserver) = (selector.matches(&world), selector.matches(&apiserver));
    let selected = index.prefixes().iter().filter(|prefix| {
        if index.apiserver_prefixes().contains(prefix) {
            apiserver
        } else {
            world
        }
    });
    if world || apiserver {
        identities.extend(selected.filter_map(|prefix| index.identities().prefix(*prefix)));
    }
    world || apiserver
}
