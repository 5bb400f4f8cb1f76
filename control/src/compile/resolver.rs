//! From selectors, prefixes and port names to identities and numbers.

use std::cell::{OnceCell, RefCell};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use policy::{Action, Direction, Entry, HttpSets, Identity, Peers, Protocol, Tier};

use super::selection::{Selection, SelectorId};
use super::{RuleNames, Subject};
use crate::index::Index;
use crate::labels::{CLUSTER, LabelSource, Labels, NAMESPACE};
use crate::rule::{
    CidrBlock, GroupRef, Peer, PeerSet, PortRef, PortSet, Rule, RuleAction, ServiceMatch, ServiceRef,
};
use crate::selector::Selector;

/// (name, protocol) to the numbers it has, by the identity of the pods that have it.
type NamedPorts = HashMap<(String, Protocol), BTreeMap<u16, BTreeSet<Identity>>>;

/// What the tables of a subject were made from beside its policies.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Dependencies {
    /// Selectors of peers.
    pub(crate) selectors: BTreeSet<SelectorId>,
    /// Prefixes.
    pub(crate) prefixes: bool,
    /// Named ports of peers.
    pub(crate) named_ports: bool,
    /// CIDR groups, Services or nodes.
    pub(crate) peers: bool,
}

/// Resolves what rules name to identities.
#[derive(Debug)]
pub(crate) struct Resolver<'a> {
    index: &'a Index,
    selection: RefCell<Selection>,
    dependencies: RefCell<Dependencies>,
    named_ports: RefCell<Option<NamedPorts>>,
    pod_cidrs: OnceCell<BTreeSet<IpNet>>,
}

impl<'a> Resolver<'a> {
    pub(crate) fn new(index: &'a Index) -> Self {
        Self::resume(index, Selection::new(index))
    }

    /// Goes on with what an earlier one has resolved.
    pub(crate) fn resume(index: &'a Index, selection: Selection) -> Self {
        Self {
            index,
            selection: RefCell::new(selection),
            dependencies: RefCell::default(),
            named_ports: RefCell::default(),
            pod_cidrs: OnceCell::new(),
        }
    }

    pub(crate) fn into_selection(self) -> Selection {
        self.selection.into_inner()
    }

    /// What was used since the last call.
    pub(crate) fn take_dependencies(&self) -> Dependencies {
        self.dependencies.take()
    }

    fn selected(&self, selector: &Selector) -> Arc<[Identity]> {
        let (id, identities) = self.selection.borrow_mut().select(self.index, selector);
        self.dependencies.borrow_mut().selectors.insert(id);
        identities
    }

    fn prefixes_in(&self, block: &CidrBlock) -> impl Iterator<Item = Identity> {
        self.dependencies.borrow_mut().prefixes = true;
        let covered = self
            .index
            .prefixes()
            .iter()
            .filter(move |prefix| block.covers(prefix));
        covered.filter_map(|prefix| self.index.identities().prefix(*prefix))
    }

    /// Nobody knows yet who is at an address of a pod CIDR: what is denied to a part of one is denied to all of them. One identity has
    /// these addresses of both families.
    fn unknown_in(&self, block: &CidrBlock, action: RuleAction) -> Option<Identity> {
        let overlaps = |pods: &IpNet| {
            let common = if pods.contains(&block.cidr) {
                &block.cidr
            } else {
                pods
            };
            block.cidr.contains(common) && !block.except.iter().any(|part| part.contains(common))
        };
        let pod_cidrs = || self.pod_cidrs.get_or_init(|| self.index.pod_cidrs());
        (action == RuleAction::Deny && pod_cidrs().iter().any(overlaps)).then_some(Identity::UNMANAGED)
    }

    /// Those whom a rule means by labels. Whoever is not known may be a part of the world, where that is denied.
    fn by_labels(&self, selector: &Selector, action: RuleAction) -> Arc<[Identity]> {
        let selected = self.selected(selector);
        if action != RuleAction::Deny || !selected.contains(&Identity::WORLD) {
            return selected;
        }
        let unknown = (!selected.contains(&Identity::UNMANAGED)).then_some(Identity::UNMANAGED);
        selected.iter().copied().chain(unknown).collect()
    }

    /// Identities whose addresses lie in the block, pods' and nodes' included.
    fn in_block(&self, block: &CidrBlock, action: RuleAction) -> Vec<Identity> {
        let label = |prefix: &IpNet| prefix.to_string();
        let (inside, outside) = (
            label(&block.cidr),
            block.except.iter().map(label).collect::<Vec<_>>(),
        );
        let covered = |labels: &Labels| {
            let lies_in = |prefix: &str| labels.get(LabelSource::Cidr, prefix).is_some();
            lies_in(&inside) && !outside.iter().any(|prefix| lies_in(prefix))
        };
        let pods = self
            .index
            .identities()
            .iter()
            .filter(|(_, labels)| covered(labels))
            .map(|(identity, _)| identity);
        let mut identities: Vec<Identity> = pods.chain(self.prefixes_in(block)).collect();
        identities.extend(self.unknown_in(block, action));
        // The node has one identity for all its addresses: an allow needs all of them covered, for a denial one is enough.
        let covers = |addr: &IpAddr| block.covers(&IpNet::from(*addr));
        let host = match action {
            RuleAction::Deny => self.index.host_addresses().iter().any(covers),
            RuleAction::Allow | RuleAction::Pass => {
                let node = self.index.local_node_addresses();
                !node.is_empty() && node.iter().all(covers)
            }
        };
        if host {
            identities.push(Identity::HOST);
        }
        identities
    }

    fn in_groups(&self, groups: &GroupRef, except: &[IpNet], action: RuleAction) -> BTreeSet<Identity> {
        self.dependencies.borrow_mut().peers = true;
        let referred = |name: &str, labels: &BTreeMap<String, String>| match groups {
            GroupRef::Name(wanted) => wanted == name,
            GroupRef::Labels(selector) => selector.matches(&labelled(LabelSource::CidrGroup, labels)),
        };
        let groups = self.index.cidr_groups().iter();
        let cidrs = groups
            .filter(|(name, group)| referred(name, &group.labels))
            .flat_map(|(_, group)| &group.prefixes);
        let mut identities = BTreeSet::new();
        for cidr in cidrs {
            let block = CidrBlock {
                cidr: *cidr,
                except: except.to_vec(),
            };
            identities.extend(self.prefixes_in(&block).chain(self.unknown_in(&block, action)));
        }
        identities
    }

    /// Backends of Services: pods by the Service's selector, or the addresses that others wrote for it.
    fn backends(&self, wanted: &ServiceRef) -> BTreeSet<Identity> {
        self.dependencies.borrow_mut().peers = true;
        let mut identities = BTreeSet::new();
        for (name, service) in self.index.services() {
            let in_namespace = wanted.namespace.as_ref().is_none_or(|ns| *ns == name.namespace);
            let named = match &wanted.which {
                ServiceMatch::Name(wanted) => *wanted == name.name,
                ServiceMatch::Labels(selector) => {
                    selector.matches(&labelled(LabelSource::K8s, &service.labels))
                }
            };
            if !(in_namespace && named) {
                continue;
            }
            if !service.selector.is_empty() {
                let mut pods = Selector::default();
                for (key, value) in &service.selector {
                    pods.require(key, value);
                }
                pods.require(NAMESPACE, &name.namespace);
                pods.require(CLUSTER, &self.index.config().cluster_name);
                identities.extend(self.selected(&pods).iter().copied());
                continue;
            }
            let slices =
                self.index.slices().iter().filter(|(slice, written)| {
                    slice.namespace == name.namespace && written.service == name.name
                });
            for addr in slices.flat_map(|(_, slice)| slice.addresses()) {
                let block = CidrBlock {
                    cidr: IpNet::from(addr),
                    except: Vec::new(),
                };
                identities.extend(self.prefixes_in(&block));
            }
        }
        identities
    }

    fn nodes(&self, selector: &Selector, local: bool) -> BTreeSet<Identity> {
        self.dependencies.borrow_mut().peers = true;
        let config = self.index.config();
        let selected = |name: &str| {
            let node = self.index.nodes().get(name);
            node.is_some_and(|node| selector.matches(&labelled(LabelSource::Node, &node.labels)))
        };
        let remote = self
            .index
            .nodes()
            .iter()
            .filter(|(name, _)| **name != config.node_name);
        let mut identities: BTreeSet<Identity> = remote
            .filter(|(name, _)| selected(name))
            .flat_map(|(_, node)| {
                node.addresses
                    .iter()
                    .filter_map(|addr| self.index.remote_nodes().get(addr))
            })
            .copied()
            .collect();
        if local && selected(&config.node_name) {
            identities.insert(Identity::HOST);
        }
        identities
    }

    fn peers(&self, set: &PeerSet, action: RuleAction) -> Option<Arc<[Identity]>> {
        let PeerSet::Of(peers) = set else { return None };
        if let [Peer::Labels(only)] = peers.as_slice() {
            return Some(self.by_labels(only, action));
        }
        let mut identities = BTreeSet::new();
        for peer in peers {
            match peer {
                Peer::Labels(selector) => identities.extend(self.by_labels(selector, action).iter().copied()),
                Peer::Cidr(block) => {
                    identities.extend(self.prefixes_in(block).chain(self.unknown_in(block, action)));
                }
                Peer::IpBlock(block) => identities.extend(self.in_block(block, action)),
                Peer::CidrGroup { groups, except } => {
                    identities.extend(self.in_groups(groups, except, action));
                }
                Peer::Services(services) => identities.extend(self.backends(services)),
                Peer::Nodes { selector, local } => identities.extend(self.nodes(selector, *local)),
                // Nobody, until addresses are learnt from DNS.
                Peer::Fqdn(_) => {}
            }
        }
        Some(identities.into_iter().collect())
    }

    /// Peers among `identities` (all of them for `None`) by the number that a named port has with them.
    fn named(
        &self,
        name: &str,
        protocol: Protocol,
        identities: Option<&Arc<[Identity]>>,
    ) -> Vec<(u16, Arc<[Identity]>)> {
        self.dependencies.borrow_mut().named_ports = true;
        let mut cache = self.named_ports.borrow_mut();
        let ports = cache.get_or_insert_with(|| {
            let mut ports = NamedPorts::new();
            let identified = self.index.known_pods().filter(|pod| !pod.awaits_namespace());
            for indexed in identified {
                for port in &indexed.pod.ports {
                    let numbers = ports.entry((port.name.clone(), port.protocol)).or_default();
                    let owners = numbers.entry(port.port).or_default();
                    owners.extend([indexed.identity, indexed.identity6]);
                }
            }
            ports
        });
        let numbers = ports.get(&(name.to_owned(), protocol));
        let owners = numbers.into_iter().flatten().map(|(number, owners)| {
            let both = match identities {
                Some(peers) => peers
                    .iter()
                    .filter(|peer| owners.contains(peer))
                    .copied()
                    .collect(),
                None => owners.iter().copied().collect(),
            };
            (*number, both)
        });
        owners.collect()
    }

    /// Adds the entries of one rule that selects `subject`.
    #[expect(clippy::too_many_arguments, reason = "the sinks are separate things")]
    pub(crate) fn rule(
        &self,
        tier: Tier,
        rule: &Rule,
        subject: &Subject<'_>,
        direction: Direction,
        http: &mut HttpSets,
        names: &mut RuleNames,
        entries: &mut Vec<Entry>,
    ) {
        let identities = self.peers(&rule.peers, rule.action);
        let id = names.id(&rule.name, rule.log.as_ref());
        let mut push = |identities: Option<Arc<[Identity]>>, protocol, ports, action| {
            let peers = identities.map_or(Peers::Any, Peers::Identities);
            entries.push(Entry {
                tier,
                peers,
                protocol,
                ports,
                action,
                rule: id,
            });
        };
        let plain = match rule.action {
            RuleAction::Allow => Action::Allow,
            RuleAction::Deny => Action::Deny,
            RuleAction::Pass => Action::Pass,
        };
        let ports = match &rule.ports {
            PortSet::Every => {
                push(identities, Protocol::ANY, 0..=u16::MAX, plain);
                return;
            }
            PortSet::Of(ports) => ports,
        };
        for port in ports {
            let action = match &port.http {
                Some(set) if rule.action == RuleAction::Allow => {
                    Action::AllowHttp(http.insert(Arc::clone(set)))
                }
                _ => plain,
            };
            match (&port.ports, direction) {
                (PortRef::Range(range), _) => push(identities.clone(), port.protocol, range.clone(), action),
                (PortRef::Named(name), Direction::Ingress) => {
                    let own = subject
                        .ports
                        .iter()
                        .filter(|p| p.name == *name && p.protocol == port.protocol);
                    for number in own.map(|own| own.port) {
                        push(identities.clone(), port.protocol, number..=number, action);
                    }
                }
                (PortRef::Named(name), Direction::Egress) => {
                    for (number, peers) in self.named(name, port.protocol, identities.as_ref()) {
                        push(Some(peers), port.protocol, number..=number, action);
                    }
                }
            }
        }
    }
}

/// An object's labels as labels of a source.
fn labelled(source: LabelSource, labels: &BTreeMap<String, String>) -> Labels {
    let mut labelled = Labels::default();
    for (key, value) in labels {
        labelled.insert(source, key.clone(), value.clone());
    }
    labelled
}
