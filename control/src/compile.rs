//! From the index to a snapshot, keeping what did not change.
//!
//! Invariants: what a [`Compiler`] makes of a change decides as a compilation from scratch would; an endpoint's [`PolicyGeneration`]
//! changes only with its compiled content or its identity, the [`policy::IpCacheGeneration`] only with the address map, and a section
//! that did not change is the very `Arc` of the previous snapshot.

mod addresses;
mod compiler;
mod resolver;
mod rule_names;
mod selection;
mod services;

use std::sync::{Arc, LazyLock};

use policy::{
    Action, Direction, EndpointKey, EndpointPolicy, Entry, HttpRuleSet, HttpSets, Identity, Peers, PodName,
    PolicyGeneration, PolicyTable, Protocol, Revision, Snapshot, Tier,
};

pub use self::compiler::{Compiler, Size};
pub(crate) use self::resolver::Resolver;
pub(crate) use self::rule_names::RuleNames;
use crate::identity;
use crate::index::{Index, IndexedPod};
use crate::labels::Labels;
use crate::object::NamedPort;
use crate::rule::{DirectionSpec, Policy, Spec};

/// Name of the rule that lets the local node reach its pods.
pub const LOCAL_NODE_RULE: &str = "local node (always allowed)";

/// Labels of an endpoint whose pod is not known.
static INIT: LazyLock<Labels> = LazyLock::new(|| identity::reserved(Identity::INIT).unwrap_or_default());

/// Compiles the index from scratch. If nothing changed, the result is `previous`, revision included.
#[must_use]
pub fn compile(index: &Index, previous: &Snapshot) -> Snapshot {
    Compiler::default().compile_all(index, previous)
}

/// Whether both share every section.
#[must_use]
pub fn is_same(a: &Snapshot, b: &Snapshot) -> bool {
    Arc::ptr_eq(&a.ipcache, &b.ipcache)
        && Arc::ptr_eq(&a.services, &b.services)
        && Arc::ptr_eq(&a.endpoints, &b.endpoints)
        && Arc::ptr_eq(&a.local, &b.local)
        && Arc::ptr_eq(&a.rules, &b.rules)
        && Arc::ptr_eq(&a.identities, &b.identities)
}

/// The compiled policy of a pod, local or not.
#[must_use]
pub(crate) fn endpoint_policy(
    key: EndpointKey,
    pod: PodName,
    subject: &Subject<'_>,
    tables: &Compiled,
    revision: Revision,
) -> EndpointPolicy {
    EndpointPolicy {
        key,
        pod,
        identity: subject.identity,
        identity6: subject.identity6,
        generation: PolicyGeneration(revision.0),
        ingress: Arc::clone(&tables.ingress),
        egress: Arc::clone(&tables.egress),
        http: tables.http.clone(),
        audit: false,
    }
}

/// What a pod's policy depends on beside the rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Subject<'a> {
    /// By its IPv4 address where it has one.
    pub(crate) identity: Identity,
    /// By its IPv6 address.
    pub(crate) identity6: Identity,
    /// `None` for an endpoint whose pod is not known.
    pub(crate) labels: Option<&'a Labels>,
    pub(crate) ports: &'a [NamedPort],
}

impl<'a> Subject<'a> {
    /// The pod as a subject; without its object it is `init`.
    pub(crate) fn of(pod: Option<&'a IndexedPod>) -> Self {
        // Without an identity of its own (none was free, or its Namespace is not known) a pod must not share the tables of others.
        let has_identity = |pod: &&IndexedPod| {
            !pod.awaits_namespace() && ![pod.identity, pod.identity6].contains(&Identity::INIT)
        };
        match pod.filter(has_identity) {
            Some(indexed) => Self {
                identity: indexed.identity,
                identity6: indexed.identity6,
                labels: Some(&indexed.labels),
                ports: &indexed.pod.ports,
            },
            None => Self {
                identity: Identity::INIT,
                identity6: Identity::INIT,
                labels: None,
                ports: &[],
            },
        }
    }

    fn is_selected(&self, policy: &Policy) -> bool {
        let labels = self.labels.unwrap_or(&INIT);
        policy.specs.iter().any(|spec| spec.subject.matches(labels))
    }
}

/// Both tables of a subject.
#[derive(Debug)]
pub(crate) struct Compiled {
    ingress: Arc<PolicyTable>,
    egress: Arc<PolicyTable>,
    http: Vec<Arc<HttpRuleSet>>,
    /// Directions whose table could not be made, so that everything is denied, and why.
    failures: Vec<(Direction, String)>,
}

/// Compiles the tables of a subject that `policies` select.
pub(crate) fn tables<'a>(
    resolver: &Resolver<'_>,
    subject: &Subject<'_>,
    policies: impl Iterator<Item = &'a Policy> + Clone,
    known: Vec<Arc<HttpRuleSet>>,
    names: &mut RuleNames,
) -> Compiled {
    let mut http = HttpSets::with_known(known);
    let mut failures = Vec::new();
    let mut table = |direction| {
        let judged = judged(resolver, subject, policies.clone(), direction, &mut http, names);
        let table =
            PolicyTable::build(judged.default_deny, &judged.entries, &mut http).unwrap_or_else(|error| {
                failures.push((direction, error.to_string()));
                PolicyTable::deny_all()
            });
        Arc::new(table)
    };
    let (ingress, egress) = (table(Direction::Ingress), table(Direction::Egress));
    Compiled {
        ingress,
        egress,
        http: http.into_sets(),
        failures,
    }
}

/// Tables of an endpoint whose pod is not known: default deny both ways.
pub(crate) fn init_tables(names: &mut RuleNames) -> Compiled {
    let index = Index::default();
    tables(
        &Resolver::new(&index),
        &Subject::of(None),
        std::iter::empty(),
        Vec::new(),
        names,
    )
}

/// The rules that judge a subject in one direction.
#[derive(Debug)]
pub(crate) struct Judged {
    /// Whether any rule says anything.
    pub(crate) enforced: bool,
    /// Whether what no rule allows is denied.
    pub(crate) default_deny: bool,
    /// The rules on identities: those of policies in the order in which they are asked, then what always holds.
    pub(crate) entries: Vec<Entry>,
    /// Policies that select the subject and speak of the direction.
    pub(crate) policies: Vec<String>,
}

/// Resolves the rules of all policies that select `subject`.
pub(crate) fn entries(
    index: &Index,
    resolver: &Resolver<'_>,
    subject: &Subject<'_>,
    direction: Direction,
    http: &mut HttpSets,
    names: &mut RuleNames,
) -> Judged {
    let namespace = subject.labels.and_then(Labels::namespace).unwrap_or_default();
    judged(
        resolver,
        subject,
        index.policies_of(namespace),
        direction,
        http,
        names,
    )
}

fn judged<'a>(
    resolver: &Resolver<'_>,
    subject: &Subject<'_>,
    policies: impl Iterator<Item = &'a Policy>,
    direction: Direction,
    http: &mut HttpSets,
    names: &mut RuleNames,
) -> Judged {
    let labels = subject.labels.unwrap_or(&INIT);
    let said = |spec: &'a Spec| -> &'a DirectionSpec {
        match direction {
            Direction::Ingress => &spec.ingress,
            Direction::Egress => &spec.egress,
        }
    };
    let mut specs: Vec<(&Policy, &Spec)> = policies
        .flat_map(|policy| policy.specs.iter().map(move |spec| (policy, spec)))
        .filter(|(_, spec)| {
            let said = said(spec);
            (said.default_deny || !said.rules.is_empty()) && spec.subject.matches(labels)
        })
        .collect();
    // Stable: policies of one priority are asked by name.
    specs.sort_by_key(|(_, spec)| (spec.tier, spec.priority));
    let unknown = subject.labels.is_none();
    let mut judged = Judged {
        enforced: unknown || !specs.is_empty(),
        default_deny: unknown || specs.iter().any(|(_, spec)| said(spec).default_deny),
        entries: Vec::new(),
        policies: specs.iter().map(|(policy, _)| policy.key.to_string()).collect(),
    };
    judged.policies.dedup();
    for (_, spec) in specs {
        for rule in &said(spec).rules {
            resolver.rule(
                spec.tier,
                rule,
                subject,
                direction,
                http,
                names,
                &mut judged.entries,
            );
        }
    }
    // An HTTP rule does not restrict the node either: a plain allow lifts it.
    if judged.enforced && direction == Direction::Ingress {
        judged.entries.push(Entry {
            tier: Tier::Normal,
            peers: Peers::Identities([Identity::HOST].into()),
            protocol: Protocol::ANY,
            ports: 0..=u16::MAX,
            action: Action::Allow,
            rule: names.id(LOCAL_NODE_RULE, None),
        });
    }
    judged
}

#[cfg(test)]
mod tests;
