//! Policy objects from YAML: their faults, or what they say in a form that tests can compare.
#![allow(dead_code, reason = "each test program uses a part")]

use sluice_control::manifest::{self, Document};
use sluice_control::object::{CidrGroup, ObjectBody};
use sluice_control::rule::{GroupRef, Peer, PeerSet, Policy, PortRef, PortSet, Rule, ServiceMatch};
use sluice_control::selector::{Operator, Selector, SourceMatch};

pub const CNP: &str = "cilium.io/v2 CiliumNetworkPolicy";
pub const CCNP: &str = "cilium.io/v2 CiliumClusterwideNetworkPolicy";
pub const KCNP: &str = "policy.networking.k8s.io/v1alpha2 ClusterNetworkPolicy";
pub const GROUP: &str = "cilium.io/v2 CiliumCIDRGroup";

/// The object of this kind, in namespace `db` if its kind has any, in cluster `main`.
pub fn read(kind: &str, spec: &str) -> Result<ObjectBody, Vec<(String, String)>> {
    let (version, kind) = kind.split_once(' ').expect("version and kind");
    let text = format!(
        "apiVersion: {version}\nkind: {kind}\nmetadata: {{name: x, namespace: db, labels: {{tier: partners}}}}\n{spec}\n"
    );
    match manifest::parse(&text, "main").pop() {
        Some(Document::Object { object, .. }) => Ok(object.body),
        Some(Document::Invalid { key, faults }) => {
            assert!(
                key.is_some() && !faults.is_empty(),
                "the object is named and so is what is wrong"
            );
            Err(faults
                .into_iter()
                .map(|fault| (fault.field, fault.message))
                .collect())
        }
        None => panic!("no document"),
    }
}

pub fn policy(kind: &str, spec: &str) -> Policy {
    match read(kind, spec) {
        Ok(ObjectBody::Policy(policy)) => *policy,
        other => panic!("{spec}: {other:?}"),
    }
}

pub fn group(spec: &str) -> CidrGroup {
    match read(GROUP, spec) {
        Ok(ObjectBody::CidrGroup(group)) => group,
        other => panic!("{spec}: {other:?}"),
    }
}

/// Faults as `path: message`.
pub fn faults(kind: &str, spec: &str) -> Vec<String> {
    match read(kind, spec) {
        Ok(_) => Vec::new(),
        Err(faults) => {
            let faults = faults.into_iter();
            faults
                .map(|(field, message)| format!("{field}: {message}"))
                .collect()
        }
    }
}

/// The only rule of a policy whose spec has `list: [item]`.
pub fn rule(kind: &str, list: &str, item: &str) -> Rule {
    let policy = policy(
        kind,
        &format!("spec: {{endpointSelector: {{}}, {list}: [{item}]}}"),
    );
    let spec = &policy.specs[0];
    let mut rules = spec.ingress.rules.iter().chain(&spec.egress.rules);
    let rule = rules.next().expect("a rule").clone();
    assert!(rules.next().is_none());
    rule
}

pub fn selector(selector: &Selector) -> String {
    let requirement = |r: &sluice_control::selector::Requirement| {
        let source = match &r.source {
            SourceMatch::Any => "any",
            SourceMatch::Named(name) => name,
        };
        let key = format!("{source}:{}", r.key);
        match &r.operator {
            Operator::In(values) => format!("{key}={}", values.join("|")),
            Operator::NotIn(values) => format!("{key}!={}", values.join("|")),
            Operator::Exists => key,
            Operator::DoesNotExist => format!("!{key}"),
        }
    };
    let requirements: Vec<String> = selector.requirements().iter().map(requirement).collect();
    requirements.join(" ")
}

pub fn peer(peer: &Peer) -> String {
    let except =
        |except: &[ipnet::IpNet]| -> String { except.iter().map(|part| format!(" -{part}")).collect() };
    match peer {
        Peer::Labels(labels) => selector(labels),
        Peer::Cidr(block) => format!("cidr {}{}", block.cidr, except(&block.except)),
        Peer::IpBlock(block) => format!("block {}{}", block.cidr, except(&block.except)),
        Peer::CidrGroup {
            groups,
            except: parts,
        } => match groups {
            GroupRef::Name(name) => format!("group {name}{}", except(parts)),
            GroupRef::Labels(labels) => format!("groups {}{}", selector(labels), except(parts)),
        },
        Peer::Services(services) => {
            let namespace = services.namespace.as_deref().unwrap_or("*");
            match &services.which {
                ServiceMatch::Name(name) => format!("service {namespace}/{name}"),
                ServiceMatch::Labels(labels) => format!("services {namespace}/{}", selector(labels)),
            }
        }
        Peer::Nodes {
            selector: labels,
            local,
        } => {
            format!(
                "{} nodes {}",
                if *local { "all" } else { "other" },
                selector(labels)
            )
        }
        Peer::Fqdn(name) => format!("name {name}"),
    }
}

/// The peers; `["anyone"]` for everyone.
pub fn peers(rule: &Rule) -> Vec<String> {
    match &rule.peers {
        PeerSet::Any => vec!["anyone".to_owned()],
        PeerSet::Of(peers) => peers.iter().map(peer).collect(),
    }
}

/// The ports; `["every"]` for all protocols and ports.
pub fn ports(rule: &Rule) -> Vec<String> {
    let PortSet::Of(ports) = &rule.ports else {
        return vec!["every".to_owned()];
    };
    let one = |port: &sluice_control::rule::PortRule| {
        let protocol = match port.protocol.0 {
            1 => "ICMP",
            6 => "TCP",
            17 => "UDP",
            58 => "ICMPv6",
            132 => "SCTP",
            other => panic!("protocol {other}"),
        };
        let number = match &port.ports {
            PortRef::Range(range) if range.start() == range.end() => range.start().to_string(),
            PortRef::Range(range) => format!("{}-{}", range.start(), range.end()),
            PortRef::Named(name) => name.clone(),
        };
        let http = port
            .http
            .as_ref()
            .map_or(String::new(), |set| format!(" http({})", set.rules().len()));
        format!("{protocol} {number}{http}")
    };
    ports.iter().map(one).collect()
}
