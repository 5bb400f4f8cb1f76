//! From the index to a snapshot: a pure function that keeps what did not change.
//!
//! Invariants: an endpoint's [`PolicyGeneration`] changes only with its compiled content or its identity, the
//! [`IpCacheGeneration`] only with the address map, and a section that did not change is the very `Arc` of the previous snapshot.

mod resolver;
mod rule_names;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use policy::{
    Action, Backend, Direction, EndpointKey, EndpointPolicy, Entry, HttpRuleSet, HttpSets, Identity, IpCache,
    IpCacheGeneration, Peers, PodName, PolicyGeneration, PolicyTable, Protocol, Revision, Service,
    ServiceKey, ServiceTable, Snapshot,
};

pub(crate) use self::resolver::Resolver;
pub(crate) use self::rule_names::RuleNames;
use crate::identity;
use crate::index::{Index, IndexedPod};
use crate::labels::Labels;
use crate::object::NamedPort;

/// Name of the rule that lets the local node reach its pods.
pub const LOCAL_NODE_RULE: &str = "local node (always allowed)";
/// Name of the rule that allows what policies without default deny leave alone.
pub const NO_DEFAULT_DENY_RULE: &str = "no policy asks for default deny";

/// Compiles the index. If nothing changed, the result is `previous`, revision included.
#[must_use]
pub fn compile(index: &Index, previous: &Snapshot) -> Snapshot {
    let revision = Revision(previous.revision.0 + 1);
    let resolver = Resolver::new(index);
    let ipcache = share(&previous.ipcache, ipcache(index, revision), IpCache::same_content);
    let services = share(&previous.services, services(index), PartialEq::eq);
    let mut names = RuleNames::new(&previous.rules);
    let endpoints = endpoints(index, &resolver, previous, revision, &mut names);
    let rules = share(&previous.rules, names.into_names(), PartialEq::eq);
    let identities = share(&previous.identities, identities(index), PartialEq::eq);
    let mut next = Snapshot {
        revision,
        ipcache,
        services,
        endpoints,
        rules,
        identities,
    };
    if is_same(&next, previous) {
        next.revision = previous.revision;
    }
    next
}

/// Whether both share every section.
#[must_use]
pub fn is_same(a: &Snapshot, b: &Snapshot) -> bool {
    Arc::ptr_eq(&a.ipcache, &b.ipcache)
        && Arc::ptr_eq(&a.services, &b.services)
        && Arc::ptr_eq(&a.endpoints, &b.endpoints)
        && Arc::ptr_eq(&a.rules, &b.rules)
        && Arc::ptr_eq(&a.identities, &b.identities)
}

fn share<T>(previous: &Arc<T>, next: T, same: impl FnOnce(&T, &T) -> bool) -> Arc<T> {
    if same(previous, &next) {
        Arc::clone(previous)
    } else {
        Arc::new(next)
    }
}

/// Addresses and their identities; of several claims to one address the last pushed wins.
fn ipcache(index: &Index, revision: Revision) -> IpCache {
    let mut addresses: BTreeMap<IpAddr, Identity> = BTreeMap::new();
    // Where two pods claim one address: not the one that is being deleted, then the newer one.
    let mut pods: Vec<(&PodName, &IndexedPod)> = index.pods().iter().collect();
    pods.sort_by_key(|(name, indexed)| (!indexed.pod.deleting, indexed.pod.created, *name));
    for (_, indexed) in pods {
        addresses.extend(indexed.pod.addresses.iter().map(|addr| (*addr, indexed.identity)));
    }
    addresses.extend(index.remote_nodes());
    addresses.extend(
        index
            .local_node_addresses()
            .into_iter()
            .map(|addr| (addr, Identity::HOST)),
    );
    // A local attachment is proven by the interface: it outranks what objects say.
    for endpoint in index.endpoints().values() {
        let identity = index
            .pod_of(endpoint)
            .map_or(Identity::INIT, |indexed| indexed.identity);
        addresses.extend(endpoint.addresses.iter().map(|addr| (*addr, identity)));
    }
    let prefixes = index
        .prefixes()
        .iter()
        .filter_map(|prefix| Some((*prefix, index.identities().prefix(*prefix)?)));
    // Prefixes first, so that a full-length prefix in a rule never takes a known address's identity.
    let entries = prefixes.chain(
        addresses
            .into_iter()
            .map(|(addr, identity)| (IpNet::from(addr), identity)),
    );
    let nodes = index.nodes().values().flat_map(|node| &node.pod_cidrs);
    let pod_cidrs: BTreeSet<IpNet> = index
        .config()
        .pod_cidrs
        .iter()
        .chain(nodes)
        .map(IpNet::trunc)
        .collect();
    IpCache::new(
        IpCacheGeneration(revision.0),
        entries,
        pod_cidrs.into_iter().collect(),
    )
}

fn services(index: &Index) -> ServiceTable {
    let mut slices: HashMap<(&str, &str), Vec<_>> = HashMap::new();
    for (name, slice) in index.slices() {
        slices
            .entry((&name.namespace, &slice.service))
            .or_default()
            .push(slice);
    }
    let node = index.local_node_addresses();
    let mut services = Vec::new();
    for (name, service) in index.services() {
        let slices = slices
            .get(&(name.namespace.as_str(), name.name.as_str()))
            .map(Vec::as_slice)
            .unwrap_or_default();
        let frontends = |port: &crate::object::ServicePort| {
            // A pod's packets to a NodePort of this node are translated at the pod, which keeps its identity; those of others
            // come through the kernel, masqueraded.
            let of_node = port
                .node_port
                .iter()
                .flat_map(|port| node.iter().map(|addr| (*addr, *port)));
            let own = service.cluster_ips.iter().map(|addr| (*addr, port.port));
            own.chain(of_node).collect::<Vec<_>>()
        };
        for port in &service.ports {
            for (addr, number) in frontends(port) {
                let mut backends: Vec<Backend> = Vec::new();
                for slice in slices {
                    let same =
                        |p: &&crate::object::ServicePort| p.name == port.name && p.protocol == port.protocol;
                    let Some(target) = slice.ports.iter().find(same) else {
                        continue;
                    };
                    let family = slice
                        .addresses
                        .iter()
                        .filter(|backend| backend.is_ipv4() == addr.is_ipv4());
                    backends.extend(family.map(|addr| Backend {
                        addr: *addr,
                        port: target.port,
                    }));
                }
                backends.sort_unstable_by_key(|backend| (backend.addr, backend.port));
                backends.dedup();
                services.push(Service {
                    name: name.to_string(),
                    key: ServiceKey {
                        addr,
                        port: number,
                        protocol: port.protocol,
                    },
                    backends,
                });
            }
        }
    }
    ServiceTable::new(services).with_node_addresses(node)
}

fn identities(index: &Index) -> BTreeMap<Identity, Vec<String>> {
    let allocated = index
        .identities()
        .iter()
        .map(|(identity, labels)| (identity, labels.to_strings()));
    let prefixes = index.prefixes().iter().filter_map(|prefix| {
        Some((
            index.identities().prefix(*prefix)?,
            identity::prefix_labels(*prefix).to_strings(),
        ))
    });
    allocated.chain(prefixes).collect()
}

fn endpoints(
    index: &Index,
    resolver: &Resolver<'_>,
    previous: &Snapshot,
    revision: Revision,
    names: &mut RuleNames,
) -> Arc<Vec<Option<Arc<EndpointPolicy>>>> {
    let last_slot = index.endpoints().keys().last().map_or(0, |slot| slot.index() + 1);
    let mut endpoints: Vec<Option<Arc<EndpointPolicy>>> = vec![None; last_slot];
    // Pods of one identity and with the same named ports have the same tables.
    let mut compiled: HashMap<Subject<'_>, Compiled> = HashMap::new();
    for endpoint in index.endpoints().values() {
        let subject = Subject::of(index.pod_of(endpoint));
        let before = previous.endpoint(endpoint.key);
        let tables = compiled.entry(subject).or_insert_with(|| {
            let known = before.map(|policy| policy.http.clone()).unwrap_or_default();
            tables(index, resolver, &subject, known, names)
        });
        let policy = endpoint_policy(
            endpoint.key,
            endpoint.pod.clone(),
            subject.identity,
            tables,
            revision,
        );
        let policy = EndpointPolicy {
            audit: endpoint.audit,
            ..policy
        };
        let policy = match before {
            Some(before) if before.same_content(&policy) => Arc::clone(before),
            _ => Arc::new(policy),
        };
        if let Some(slot) = endpoints.get_mut(endpoint.key.slot.index()) {
            *slot = Some(policy);
        }
    }
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

/// The compiled policy of a pod, local or not.
#[must_use]
pub(crate) fn endpoint_policy(
    key: EndpointKey,
    pod: PodName,
    identity: Identity,
    tables: &Compiled,
    revision: Revision,
) -> EndpointPolicy {
    EndpointPolicy {
        key,
        pod,
        identity,
        generation: PolicyGeneration(revision.0),
        ingress: tables.ingress.clone(),
        egress: tables.egress.clone(),
        http: tables.http.clone(),
        audit: false,
    }
}

/// What a pod's policy depends on beside the rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Subject<'a> {
    pub(crate) identity: Identity,
    pub(crate) labels: Option<&'a Labels>,
    pub(crate) ports: &'a [NamedPort],
}

impl<'a> Subject<'a> {
    /// The pod as a subject; without its object it is `init`.
    pub(crate) fn of(pod: Option<&'a IndexedPod>) -> Self {
        match pod {
            Some(indexed) => Self {
                identity: indexed.identity,
                labels: Some(&indexed.labels),
                ports: &indexed.pod.ports,
            },
            None => Self {
                identity: Identity::INIT,
                labels: None,
                ports: &[],
            },
        }
    }
}

/// Both tables of a subject.
#[derive(Debug)]
pub(crate) struct Compiled {
    ingress: PolicyTable,
    egress: PolicyTable,
    http: Vec<Arc<HttpRuleSet>>,
}

fn tables(
    index: &Index,
    resolver: &Resolver<'_>,
    subject: &Subject<'_>,
    known: Vec<Arc<HttpRuleSet>>,
    names: &mut RuleNames,
) -> Compiled {
    let mut http = HttpSets::with_known(known);
    let mut table = |direction| {
        let judged = entries(index, resolver, subject, direction, &mut http, names);
        PolicyTable::build(judged.enforced, &judged.entries, &mut http).unwrap_or_else(|error| {
            tracing::error!(identity = %subject.identity, ?direction, %error, "united HTTP rules do not compile: denied");
            PolicyTable::deny_all()
        })
    };
    let (ingress, egress) = (table(Direction::Ingress), table(Direction::Egress));
    Compiled {
        ingress,
        egress,
        http: http.into_sets(),
    }
}

/// Tables of an endpoint whose pod is not known: default deny both ways.
pub(crate) fn init_tables(names: &mut RuleNames) -> Compiled {
    let index = Index::default();
    tables(
        &index,
        &Resolver::new(&index),
        &Subject::of(None),
        Vec::new(),
        names,
    )
}

/// The rules that judge a subject in one direction.
#[derive(Debug)]
pub(crate) struct Judged {
    /// Whether any rule says anything.
    pub(crate) enforced: bool,
    /// The rules on identities, those of policies by name first.
    pub(crate) entries: Vec<Entry>,
    /// Policies that select the subject and speak of the direction.
    pub(crate) policies: Vec<String>,
}

/// Resolves the rules that select `subject`.
pub(crate) fn entries(
    index: &Index,
    resolver: &Resolver<'_>,
    subject: &Subject<'_>,
    direction: Direction,
    http: &mut HttpSets,
    names: &mut RuleNames,
) -> Judged {
    let mut judged = Judged {
        enforced: subject.labels.is_none(),
        entries: Vec::new(),
        policies: Vec::new(),
    };
    let mut default_deny = judged.enforced;
    let namespace = subject.labels.and_then(Labels::namespace).unwrap_or_default();
    for (policy, spec) in index
        .policies_of(namespace)
        .flat_map(|p| p.specs.iter().map(move |spec| (p, spec)))
    {
        if !subject.labels.is_some_and(|labels| spec.subject.matches(labels)) {
            continue;
        }
        let said = match direction {
            Direction::Ingress => &spec.ingress,
            Direction::Egress => &spec.egress,
        };
        if !said.default_deny && said.rules.is_empty() {
            continue;
        }
        judged.enforced = true;
        default_deny |= said.default_deny;
        judged.policies.push(policy.key.to_string());
        for rule in &said.rules {
            resolver.rule(rule, subject, direction, http, names, &mut judged.entries);
        }
    }
    judged.policies.dedup();
    let mut always = |peers, name: &str| {
        judged.entries.push(Entry {
            peers,
            protocol: Protocol::ANY,
            ports: 0..=u16::MAX,
            action: Action::Allow,
            rule: names.id(name),
        });
    };
    if judged.enforced && !default_deny {
        always(Peers::Any, NO_DEFAULT_DENY_RULE);
    }
    // An HTTP rule does not restrict the node either: a plain allow lifts it.
    if judged.enforced && direction == Direction::Ingress {
        always(Peers::Identities([Identity::HOST].into()), LOCAL_NODE_RULE);
    }
    judged
}

#[cfg(test)]
mod tests;
