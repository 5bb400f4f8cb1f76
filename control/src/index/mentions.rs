//! What a policy mentions that identities depend on.

use std::collections::BTreeSet;

use ipnet::IpNet;

use crate::labels::NAMESPACE_LABELS;
use crate::rule::{Peer, Policy, PolicyKind};
use crate::selector::Selector;

/// What a policy mentions that identities depend on, each once.
pub(super) struct Mentions {
    /// Pod label keys, if it is a NetworkPolicy or ClusterNetworkPolicy: upstream selects by any label.
    pub(super) kept_keys: BTreeSet<String>,
    /// Port names of its egress rules.
    pub(super) kept_ports: BTreeSet<String>,
    pub(super) blocks: BTreeSet<IpNet>,
    pub(super) prefixes: BTreeSet<IpNet>,
    /// Whether it has `toServices`.
    pub(super) services: bool,
    /// Whether it selects nodes by their labels.
    pub(super) nodes: bool,
}

impl Mentions {
    pub(super) fn of(policy: &Policy) -> Self {
        let mut mentions = Self {
            kept_keys: BTreeSet::new(),
            kept_ports: policy.egress_port_names().map(str::to_owned).collect(),
            blocks: BTreeSet::new(),
            prefixes: BTreeSet::new(),
            services: false,
            nodes: false,
        };
        let mut selectors: Vec<&Selector> = policy.specs.iter().map(|spec| &spec.subject).collect();
        for peer in policy.peers() {
            match peer {
                Peer::Cidr(block) => mentions.prefixes.extend(block.prefixes()),
                Peer::IpBlock(block) => {
                    mentions.prefixes.extend(block.prefixes());
                    mentions.blocks.extend(block.prefixes());
                }
                Peer::CidrGroup { except, .. } => mentions.prefixes.extend(except.iter().copied()),
                Peer::Labels(selector) => selectors.push(selector),
                Peer::Services(_) => mentions.services = true,
                Peer::Nodes { .. } => mentions.nodes = true,
                Peer::Fqdn(_) => {}
            }
        }
        if matches!(policy.key.kind, PolicyKind::Kubernetes | PolicyKind::Cluster) {
            let keys = selectors
                .iter()
                .flat_map(|selector| selector.requirements())
                .map(|r| &r.key);
            mentions
                .kept_keys
                .extend(keys.filter(|key| !key.starts_with(NAMESPACE_LABELS)).cloned());
        }
        mentions
    }
}
