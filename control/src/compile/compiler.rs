//! The compiler: what it has made so far, and what a change makes it do again.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use policy::{EndpointPolicy, Identity, IpCache, Revision, RuleId, Snapshot};
use serde::Serialize;

use super::resolver::Dependencies;
use super::selection::{Selection, SelectorId};
use super::{Compiled, Resolver, RuleNames, Subject, addresses, endpoint_policy, is_same, services, tables};
use crate::identity;
use crate::index::{Changes, Index};
use crate::labels::Labels;
use crate::object::NamedPort;
use crate::rule::PolicyKey;

/// Selectors that are kept beyond twice the number in use.
const SPARE_SELECTORS: usize = 4096;

/// What endpoints with the same tables have in common.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct SubjectKey {
    identity: Identity,
    ports: Vec<NamedPort>,
}

impl SubjectKey {
    fn of(subject: &Subject<'_>) -> Self {
        Self {
            identity: subject.identity,
            ports: subject.ports.to_vec(),
        }
    }
}

/// A subject's tables and all that they were made from.
#[derive(Debug)]
struct CompiledSubject {
    /// Policies that select it.
    policies: BTreeSet<PolicyKey>,
    dependencies: Dependencies,
    rules: BTreeSet<RuleId>,
    tables: Arc<Compiled>,
}

impl CompiledSubject {
    fn depends_on(&self, changes: &Changes, selectors: &BTreeSet<SelectorId>) -> bool {
        let Dependencies {
            selectors: own,
            prefixes,
            named_ports,
            peers,
        } = &self.dependencies;
        *prefixes && changes.prefixes
            || *named_ports && changes.named_ports
            || *peers && changes.peers
            || selectors.iter().any(|id| own.contains(id))
    }
}

/// What a compiler holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Size {
    /// Subjects: endpoints that differ in identity or named ports.
    pub subjects: usize,
    /// Selectors and what they select.
    pub selectors: usize,
    /// (Port interval, peer) decisions in all tables.
    pub decisions: usize,
    /// Rules with a number.
    pub rules: usize,
}

/// Makes snapshots of an index, again only what a change touches.
#[derive(Debug, Default)]
pub struct Compiler {
    selection: Option<Selection>,
    subjects: BTreeMap<SubjectKey, CompiledSubject>,
    names: RuleNames,
    identities: BTreeMap<Identity, Arc<[String]>>,
}

impl Compiler {
    /// Compiles what has changed in the index since the last call. If nothing did, the result is `previous`, revision included.
    #[must_use]
    pub fn compile(&mut self, index: &mut Index, previous: &Snapshot) -> Snapshot {
        let changes = index.take_changes();
        if changes.forgotten || self.selection.is_none() {
            return self.compile_all(index, previous);
        }
        let selectors = match &mut self.selection {
            Some(selection) => {
                let mut changed = selection.add(index, &changes.identities);
                if changes.prefixes {
                    changed.extend(selection.renew_prefixes(index));
                }
                changed
            }
            None => BTreeSet::new(),
        };
        self.reselect(index, &changes);
        self.subjects
            .retain(|_, compiled| !compiled.depends_on(&changes, &selectors));
        self.update(index, previous, &changes)
    }

    /// Compiles everything.
    #[must_use]
    pub(super) fn compile_all(&mut self, index: &Index, previous: &Snapshot) -> Snapshot {
        *self = Self {
            selection: Some(Selection::new(index)),
            subjects: BTreeMap::new(),
            names: RuleNames::new(&previous.rules),
            identities: BTreeMap::new(),
        };
        let everything = Changes {
            identities: index.identities().iter().map(|(id, _)| id).collect(),
            addresses: true,
            prefixes: true,
            services: true,
            ..Changes::default()
        };
        self.update(index, previous, &everything)
    }

    /// What it holds, for diagnostics.
    #[must_use]
    pub fn size(&self) -> Size {
        let decisions = self.subjects.values().map(|compiled| {
            let (ingress, egress) = (compiled.tables.ingress.size(), compiled.tables.egress.size());
            ingress.1 + egress.1
        });
        Size {
            subjects: self.subjects.len(),
            selectors: self.selection.as_ref().map_or(0, Selection::len),
            decisions: decisions.sum(),
            rules: self.names.rules().len(),
        }
    }

    /// What could not be compiled and is therefore denied, for people.
    #[must_use]
    pub fn failures(&self) -> Vec<String> {
        let subjects = self.subjects.iter();
        let failures = subjects.flat_map(|(key, compiled)| {
            let labels = self.identities.get(&key.identity);
            let labels = labels.map(|labels| labels.join(", ")).unwrap_or_default();
            compiled.tables.failures.iter().map(move |(direction, error)| {
                let (direction, identity) = (direction.name(), key.identity);
                format!("{direction} of identity {identity} [{labels}]: {error}: everything is denied")
            })
        });
        failures.collect()
    }

    /// Forgets the tables of subjects that a changed policy selects, or did.
    fn reselect(&mut self, index: &Index, changes: &Changes) {
        if changes.policies.is_empty() {
            return;
        }
        let labels = |identity| index.identities().get(identity);
        self.subjects.retain(|key, compiled| {
            let subject = Subject {
                identity: key.identity,
                identity6: key.identity,
                labels: labels(key.identity),
                ports: &key.ports,
            };
            let namespace = subject.labels.and_then(Labels::namespace).unwrap_or_default();
            !changes.policies.iter().any(|name| {
                let may_select = name.namespace.is_empty() || name.namespace == namespace;
                let selects = || {
                    index
                        .policies()
                        .get(name)
                        .is_some_and(|policy| subject.is_selected(policy))
                };
                compiled.policies.contains(name) || may_select && selects()
            })
        });
    }

    fn update(&mut self, index: &Index, previous: &Snapshot, changes: &Changes) -> Snapshot {
        let revision = Revision(previous.revision.0 + 1);
        let ipcache = if changes.addresses || changes.prefixes {
            share(
                &previous.ipcache,
                addresses::ipcache(index, revision),
                IpCache::same_content,
            )
        } else {
            Arc::clone(&previous.ipcache)
        };
        let services = if changes.services {
            share(&previous.services, services::services(index), PartialEq::eq)
        } else {
            Arc::clone(&previous.services)
        };
        let endpoints = self.endpoints(index, previous, revision);
        self.compact();
        let rules = if previous.rules.as_slice() == self.names.rules() {
            Arc::clone(&previous.rules)
        } else {
            Arc::new(self.names.rules().to_vec())
        };
        let identities = self.identities(index, previous, changes);
        let local: BTreeSet<IpAddr> = index
            .endpoints()
            .values()
            .flat_map(|endpoint| endpoint.addresses.iter().copied())
            .collect();
        let mut next = Snapshot {
            revision,
            ipcache,
            services,
            endpoints,
            local: share(&previous.local, local, PartialEq::eq),
            rules,
            identities,
        };
        if is_same(&next, previous) {
            next.revision = previous.revision;
        }
        next
    }

    fn endpoints(
        &mut self,
        index: &Index,
        previous: &Snapshot,
        revision: Revision,
    ) -> Arc<Vec<Option<Arc<EndpointPolicy>>>> {
        let last_slot = index.endpoints().keys().last().map_or(0, |slot| slot.index() + 1);
        let mut endpoints: Vec<Option<Arc<EndpointPolicy>>> = vec![None; last_slot];
        let selection = self.selection.take().unwrap_or_else(|| Selection::new(index));
        let resolver = Resolver::resume(index, selection);
        let mut live = BTreeMap::new();
        // Rule sets that are compiled already, by the subject that had them.
        let known: HashMap<Identity, &Arc<EndpointPolicy>> = previous
            .endpoints
            .iter()
            .flatten()
            .map(|policy| (policy.identity, policy))
            .collect();
        for endpoint in index.endpoints().values() {
            let subject = Subject::of(index.pod_of(endpoint));
            let key = SubjectKey::of(&subject);
            let before = previous.endpoint(endpoint.key);
            let tables = match live.get(&key).or_else(|| self.subjects.get(&key)) {
                Some(compiled) => Arc::clone(&compiled.tables),
                None => {
                    let http = before.or_else(|| known.get(&subject.identity).copied());
                    let http = http.map(|policy| policy.http.clone()).unwrap_or_default();
                    let compiled = compile_subject(index, &resolver, &subject, http, &mut self.names);
                    let tables = Arc::clone(&compiled.tables);
                    live.insert(key.clone(), compiled);
                    tables
                }
            };
            if let Some(compiled) = self.subjects.remove(&key) {
                live.entry(key).or_insert(compiled);
            }
            let policy = EndpointPolicy {
                audit: endpoint.audit,
                ..endpoint_policy(endpoint.key, endpoint.pod.clone(), &subject, &tables, revision)
            };
            let policy = match before {
                Some(before) if before.same_content(&policy) => Arc::clone(before),
                _ => Arc::new(policy),
            };
            if let Some(slot) = endpoints.get_mut(endpoint.key.slot.index()) {
                *slot = Some(policy);
            }
        }
        self.subjects = live;
        self.selection = Some(resolver.into_selection());
        let same = endpoints.len() == previous.endpoints.len()
            && endpoints
                .iter()
                .zip(previous.endpoints.iter())
                .all(|(a, b)| match (a, b) {
                    (Some(a), Some(b)) => Arc::ptr_eq(a, b),
                    (None, None) => true,
                    _ => false,
                });
        if same {
            Arc::clone(&previous.endpoints)
        } else {
            Arc::new(endpoints)
        }
    }

    /// Forgets rule numbers and selectors that nothing uses any more, once there are many.
    fn compact(&mut self) {
        let rules: usize = self.subjects.values().map(|compiled| compiled.rules.len()).sum();
        if self.names.has_many_beside(rules) {
            let in_use = self.subjects.values().flat_map(|compiled| &compiled.rules);
            let in_use: BTreeSet<RuleId> = in_use.copied().collect();
            self.names.retain(&in_use);
        }
        let own = |compiled: &CompiledSubject| compiled.dependencies.selectors.len();
        let selectors: usize = self.subjects.values().map(own).sum();
        if self
            .selection
            .as_ref()
            .is_some_and(|selection| selection.len() > 2 * selectors + SPARE_SELECTORS)
        {
            // Numbers of selectors change with it, so the next change compiles everything.
            self.selection = None;
        }
    }

    fn identities(
        &mut self,
        index: &Index,
        previous: &Snapshot,
        changes: &Changes,
    ) -> Arc<BTreeMap<Identity, Arc<[String]>>> {
        if changes.identities.is_empty() && !changes.prefixes {
            return Arc::clone(&previous.identities);
        }
        for identity in &changes.identities {
            if let Some(labels) = index.identities().get(*identity) {
                self.identities.insert(*identity, labels.to_strings().into());
            }
        }
        if changes.prefixes {
            self.identities
                .retain(|identity, _| *identity < Identity::FIRST_LOCAL);
            for prefix in index.prefixes().iter() {
                if let Some(identity) = index.identities().prefix(*prefix) {
                    let labels = identity::prefix_labels(*prefix);
                    self.identities.insert(identity, labels.to_strings().into());
                }
            }
        }
        if *previous.identities == self.identities {
            Arc::clone(&previous.identities)
        } else {
            Arc::new(self.identities.clone())
        }
    }
}

fn share<T>(previous: &Arc<T>, next: T, same: impl FnOnce(&T, &T) -> bool) -> Arc<T> {
    if same(previous, &next) {
        Arc::clone(previous)
    } else {
        Arc::new(next)
    }
}

fn compile_subject(
    index: &Index,
    resolver: &Resolver<'_>,
    subject: &Subject<'_>,
    http: Vec<Arc<policy::HttpRuleSet>>,
    names: &mut RuleNames,
) -> CompiledSubject {
    let namespace = subject.labels.and_then(Labels::namespace).unwrap_or_default();
    let policies = index
        .policies_of(namespace)
        .filter(|policy| subject.is_selected(policy));
    let policies: Vec<_> = policies.collect();
    drop((resolver.take_dependencies(), names.take_used()));
    let tables = tables(resolver, subject, policies.iter().copied(), http, names);
    CompiledSubject {
        policies: policies.iter().map(|policy| policy.key.clone()).collect(),
        dependencies: resolver.take_dependencies(),
        rules: names.take_used(),
        tables: Arc::new(tables),
    }
}
