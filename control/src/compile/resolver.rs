//! From selectors, prefixes and port names to identities and numbers.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use ipnet::IpNet;
use policy::{Action, Direction, Entry, HttpSets, Identity, Peers, Protocol, Tier};

use super::{RuleNames, Subject};
use crate::identity;
use crate::index::Index;
use crate::labels::Labels;
use crate::rule::{CidrBlock, Peer, PeerSet, PortRef, PortSet, Rule, RuleAction};
use crate::selector::Selector;

/// Resolves selectors to identities, each once.
#[derive(Debug)]
pub(crate) struct Resolver<'a> {
    index: &'a Index,
    reserved: Vec<(Identity, Labels)>,
    /// Pods' identities by namespace: most selectors name one.
    namespaces: HashMap<&'a str, Vec<(Identity, &'a Labels)>>,
    selected: RefCell<HashMap<Selector, Arc<[Identity]>>>,
    /// (name, protocol) to the numbers it has, by the identity of the pods that have it.
    named_ports: HashMap<(String, Protocol), BTreeMap<u16, BTreeSet<Identity>>>,
}

impl<'a> Resolver<'a> {
    pub(crate) fn new(index: &'a Index) -> Self {
        let mut named_ports: HashMap<_, BTreeMap<u16, BTreeSet<Identity>>> = HashMap::new();
        for indexed in index.pods().values() {
            for port in &indexed.pod.ports {
                let numbers = named_ports.entry((port.name.clone(), port.protocol)).or_default();
                numbers.entry(port.port).or_default().insert(indexed.identity);
            }
        }
        let mut namespaces: HashMap<&str, Vec<(Identity, &Labels)>> = HashMap::new();
        for (identity, labels) in index.identities().iter() {
            if let Some(namespace) = labels.namespace() {
                namespaces.entry(namespace).or_default().push((identity, labels));
            }
        }
        let reserved = identity::RESERVED
            .into_iter()
            .filter_map(|id| Some((id, identity::reserved(id)?)))
            .collect();
        Self {
            index,
            reserved,
            namespaces,
            selected: RefCell::default(),
            named_ports,
        }
    }

    fn selected(&self, selector: &Selector) -> Arc<[Identity]> {
        if let Some(found) = self.selected.borrow().get(selector) {
            return Arc::clone(found);
        }
        let matches = |labels: &Labels| selector.matches(labels);
        let mut found: Vec<Identity> = match selector.namespaces() {
            Some(namespaces) => {
                let pods = namespaces
                    .iter()
                    .filter_map(|namespace| self.namespaces.get(namespace.as_str()));
                pods.flatten()
                    .filter(|(_, labels)| matches(labels))
                    .map(|(identity, _)| *identity)
                    .collect()
            }
            None => {
                let reserved = self.reserved.iter().map(|(identity, labels)| (*identity, labels));
                let all = reserved.chain(self.index.identities().iter());
                all.filter(|(_, labels)| matches(labels))
                    .map(|(identity, _)| identity)
                    .collect()
            }
        };
        // Prefixes are part of the world: whatever selects `world` selects them.
        let world = identity::reserved(Identity::WORLD).is_some_and(|labels| selector.matches(&labels));
        if world {
            found.extend(
                self.index
                    .prefixes()
                    .iter()
                    .filter_map(|prefix| self.index.identities().prefix(*prefix)),
            );
        }
        let found: Arc<[Identity]> = found.into();
        self.selected
            .borrow_mut()
            .insert(selector.clone(), Arc::clone(&found));
        found
    }

    fn prefixes_in(&self, block: &CidrBlock) -> impl Iterator<Item = Identity> {
        let covered = self
            .index
            .prefixes()
            .iter()
            .filter(move |prefix| block.covers(prefix));
        covered.filter_map(|prefix| self.index.identities().prefix(*prefix))
    }

    fn in_block(&self, block: &CidrBlock) -> Vec<Identity> {
        let label = |prefix: &IpNet| prefix.to_string();
        let (inside, outside) = (
            label(&block.cidr),
            block.except.iter().map(label).collect::<Vec<_>>(),
        );
        let covered = |labels: &Labels| {
            labels.get(&inside).is_some() && !outside.iter().any(|prefix| labels.get(prefix).is_some())
        };
        let pods = self
            .index
            .identities()
            .iter()
            .filter(|(_, labels)| covered(labels))
            .map(|(identity, _)| identity);
        let mut identities: Vec<Identity> = pods.chain(self.prefixes_in(block)).collect();
        // The node has one identity for all its addresses: it is covered only if they all are.
        let node = self.index.local_node_addresses();
        if !node.is_empty() && node.iter().all(|addr| block.covers(&IpNet::from(*addr))) {
            identities.push(Identity::HOST);
        }
        identities
    }

    fn peers(&self, set: &PeerSet) -> Option<Arc<[Identity]>> {
        let PeerSet::Of(peers) = set else { return None };
        if let [Peer::Labels(only)] = peers.as_slice() {
            return Some(self.selected(only));
        }
        let mut identities = BTreeSet::new();
        for peer in peers {
            match peer {
                Peer::Labels(selector) => identities.extend(self.selected(selector).iter().copied()),
                Peer::Cidr(block) => identities.extend(self.prefixes_in(block)),
                Peer::IpBlock(block) => identities.extend(self.in_block(block)),
                // Nobody until it is resolved.
                Peer::CidrGroup { .. } | Peer::Services(_) | Peer::Nodes { .. } | Peer::Fqdn(_) => {}
            }
        }
        Some(identities.into_iter().collect())
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
        let identities = self.peers(&rule.peers);
        let id = names.id(&rule.name);
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
                    let numbers = self.named_ports.get(&(name.clone(), port.protocol));
                    for (number, owners) in numbers.into_iter().flatten() {
                        let both: Arc<[Identity]> = match &identities {
                            Some(peers) => peers
                                .iter()
                                .filter(|peer| owners.contains(peer))
                                .copied()
                                .collect(),
                            None => owners.iter().copied().collect(),
                        };
                        push(Some(both), port.protocol, *number..=*number, action);
                    }
                }
            }
        }
    }
}
