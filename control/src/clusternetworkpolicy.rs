//! `policy.networking.k8s.io/v1beta1 ClusterNetworkPolicy`: from the types of [`crate::api::cluster`] to rules.
//!
//! Differences from the other kinds: rules are asked in order and the first that matches decides, nothing is denied by default, and
//! `networks` covers any address. A peer of an unknown type refuses the object, in whatever rule it stands.

use std::sync::LazyLock;

use policy::{Protocol, Tier};
use serde_json::Value;

use crate::api::cluster::{
    ClusterEgressRule, ClusterIngressRule, EgressPeer, IngressPeer, NamespacedPods, Port, ProtocolMatch,
    Subject,
};
use crate::api::selector::LabelSelector;
use crate::api::{ClusterNetworkPolicy, schema};
use crate::cnp::selector;
use crate::field::{Fault, FaultKind, Faults, Place};
use crate::fqdn::FqdnSelector;
use crate::labels::{CLUSTER, LabelSource, NAMESPACE, NAMESPACE_LABELS, upstream_source};
use crate::rule::{
    CidrBlock, DirectionSpec, Peer, PeerSet, Policy, PolicyKey, PortRef, PortRule, PortSet, Rule, RuleAction,
    Spec,
};
use crate::selector::{Operator, Selector, SourceMatch};

static SCHEMA: LazyLock<Value> = LazyLock::new(schema::of::<ClusterNetworkPolicy>);

/// Reads the object `key`. `cluster` is the name of the cluster whose pods peers select.
///
/// # Errors
/// Every fault of the object, each with its field path.
pub fn decode(value: &Value, key: PolicyKey, cluster: &str) -> Result<Policy, Vec<Fault>> {
    let (object, found) = schema::read::<ClusterNetworkPolicy>(value, &SCHEMA);
    let Some(object) = object else {
        return Err(found);
    };
    let faults = Faults::default();
    let place = Place::root(&faults).field("spec");
    let spec = &object.spec;
    let decoder = Decoder {
        policy: key.to_string(),
        cluster,
    };
    let ingress = spec.ingress.iter().flatten().enumerate();
    let ingress = ingress.map(|(i, rule)| decoder.ingress(rule, i, &place.field("ingress").item(i)));
    let egress = spec.egress.iter().flatten().enumerate();
    let egress = egress.map(|(i, rule)| decoder.egress(rule, i, &place.field("egress").item(i)));
    // Nothing is denied by default: what no rule decides goes on to the next tier.
    let direction = |rules| DirectionSpec {
        default_deny: false,
        rules,
    };
    let spec = Spec {
        tier: if spec.tier == "Admin" {
            Tier::Admin
        } else {
            Tier::Baseline
        },
        priority: u16::try_from(spec.priority).unwrap_or(u16::MAX),
        subject: subject(&spec.subject, &place.field("subject")),
        ingress: direction(ingress.collect()),
        egress: direction(egress.collect()),
    };
    let faults = schema::joined(found, faults.into_vec());
    if faults.is_empty() {
        let specs = vec![spec];
        Ok(Policy { key, specs })
    } else {
        Err(faults)
    }
}

struct Decoder<'a> {
    policy: String,
    cluster: &'a str,
}

impl Decoder<'_> {
    fn name(&self, list: &str, i: usize, name: Option<&str>) -> String {
        match name {
            Some(name) if !name.is_empty() => format!("{} {list}[{i}] {name}", self.policy),
            _ => format!("{} {list}[{i}]", self.policy),
        }
    }

    fn ingress(&self, rule: &ClusterIngressRule, i: usize, place: &Place<'_>) -> Rule {
        let ClusterIngressRule {
            name,
            action: taken,
            from,
            protocols,
        } = rule;
        let peers = from.iter().enumerate().filter_map(|(i, peer)| {
            let IngressPeer { namespaces, pods } = peer;
            let place = place.field("from").item(i);
            self.pods(namespaces.as_ref(), pods.as_ref(), &place)
                .map(Peer::Labels)
        });
        Rule {
            name: self.name("ingress", i, name.as_deref()),
            action: action(taken),
            log: None,
            peers: PeerSet::Of(peers.collect()),
            ports: ports(protocols.as_deref(), &place.field("protocols")),
        }
    }

    fn egress(&self, rule: &ClusterEgressRule, i: usize, place: &Place<'_>) -> Rule {
        let ClusterEgressRule {
            name,
            action: taken,
            to,
            protocols,
        } = rule;
        let action = action(taken);
        let peers = to.iter().enumerate();
        let peers = peers.flat_map(|(i, peer)| self.receivers(peer, action, &place.field("to").item(i)));
        let peers = PeerSet::Of(peers.collect());
        let portless = |peer: &EgressPeer| {
            peer.nodes.is_some() || peer.networks.is_some() || peer.domain_names.is_some()
        };
        if to.iter().any(portless) {
            for (i, _) in named_ports(protocols.as_deref()) {
                let place = place.field("protocols").item(i).field("destinationNamedPort");
                place.fault(FaultKind::Conflict("nodes, networks or domainNames"));
            }
        }
        Rule {
            name: self.name("egress", i, name.as_deref()),
            action,
            log: None,
            peers,
            ports: ports(protocols.as_deref(), &place.field("protocols")),
        }
    }

    fn pods(
        &self,
        namespaces: Option<&LabelSelector>,
        pods: Option<&NamespacedPods>,
        place: &Place<'_>,
    ) -> Option<Selector> {
        let mut selector = pods_of(namespaces, pods, place)?;
        selector.require(CLUSTER, self.cluster);
        Some(selector)
    }

    fn receivers(&self, peer: &EgressPeer, action: RuleAction, place: &Place<'_>) -> Vec<Peer> {
        let EgressPeer {
            namespaces,
            pods,
            nodes,
            networks,
            domain_names,
        } = peer;
        if let Some(nodes) = nodes {
            return vec![Peer::Nodes {
                selector: selector::of(nodes, &place.field("nodes"), key_of(LabelSource::Node, "")),
                local: true,
            }];
        }
        if let Some(networks) = networks {
            let networks = networks.iter().enumerate();
            let prefixes = networks.filter_map(|(i, text)| place.field("networks").item(i).prefix(&text.0));
            let block = |cidr| {
                Peer::IpBlock(CidrBlock {
                    cidr,
                    except: Vec::new(),
                })
            };
            return prefixes.map(block).collect();
        }
        if let Some(names) = domain_names {
            let place = place.field("domainNames");
            if action != RuleAction::Allow {
                place.fault(FaultKind::Rule("is only for rules with action Accept"));
            }
            let names = names.iter().enumerate();
            return names
                .filter_map(|(i, name)| domain_name(&name.0, &place.item(i)).map(Peer::Fqdn))
                .collect();
        }
        let pods = self.pods(namespaces.as_ref(), pods.as_ref(), place);
        pods.map(Peer::Labels).into_iter().collect()
    }
}

fn subject(subject: &Subject, place: &Place<'_>) -> Selector {
    pods_of(subject.namespaces.as_ref(), subject.pods.as_ref(), place).unwrap_or_default()
}

/// Pods by labels of their namespaces, or by those and their own.
fn pods_of(
    namespaces: Option<&LabelSelector>,
    pods: Option<&NamespacedPods>,
    place: &Place<'_>,
) -> Option<Selector> {
    let of_namespace = key_of(LabelSource::K8s, NAMESPACE_LABELS);
    let mut requirements = Vec::new();
    if let Some(namespaces) = namespaces {
        let selector = selector::of(namespaces, &place.field("namespaces"), of_namespace);
        requirements.extend_from_slice(selector.requirements());
    } else if let Some(pods) = pods {
        let place = place.field("pods");
        if let Some(namespaces) = &pods.namespace_selector {
            let selector = selector::of(namespaces, &place.field("namespaceSelector"), of_namespace);
            requirements.extend_from_slice(selector.requirements());
        }
        let own = |key: &str| {
            let source = upstream_source(key).name().to_owned();
            (SourceMatch::Named(source), key.to_owned())
        };
        let selector = selector::of(&pods.pod_selector, &place.field("podSelector"), own);
        requirements.extend_from_slice(selector.requirements());
    } else {
        // The schema demands one field of those it knows; not to be reached.
        place.fault(FaultKind::Rule("must have exactly one field"));
        return None;
    }
    let mut selector = Selector::new(requirements);
    selector.push(NAMESPACE, Operator::Exists);
    Some(selector)
}

/// Keys as they are written, below `prefix`, of labels of `source`.
fn key_of(source: LabelSource, prefix: &str) -> impl Fn(&str) -> (SourceMatch, String) {
    move |key| {
        (
            SourceMatch::Named(source.name().to_owned()),
            format!("{prefix}{key}"),
        )
    }
}

fn action(text: &str) -> RuleAction {
    match text {
        "Accept" => RuleAction::Allow,
        "Pass" => RuleAction::Pass,
        _ => RuleAction::Deny,
    }
}

/// `name`, or `*.name` for everything below it, however deep (upstream, `DomainName`).
fn domain_name(text: &str, place: &Place<'_>) -> Option<FqdnSelector> {
    let (below, name) = match text.strip_prefix("*.") {
        Some(name) => (true, name),
        None => (false, text),
    };
    let label = |label: &str| {
        let ends = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
        ends(label.as_bytes().first()) && ends(label.as_bytes().last())
    };
    let labels = name.strip_suffix('.').unwrap_or(name);
    let valid = labels.contains('.') && labels.split('.').all(label);
    let selector = match FqdnSelector::name(name).filter(|_| valid) {
        Some(_) if below => FqdnSelector::pattern(&format!("**.{name}")),
        exact => exact,
    };
    if selector.is_none() {
        place.invalid(text, "a domain name, or one after `*.`");
    }
    selector
}

fn named_ports(protocols: Option<&[ProtocolMatch]>) -> impl Iterator<Item = (usize, &str)> {
    let protocols = protocols.unwrap_or_default().iter().enumerate();
    protocols.filter_map(|(i, protocol)| Some((i, protocol.destination_named_port.as_deref()?)))
}

fn ports(protocols: Option<&[ProtocolMatch]>, place: &Place<'_>) -> PortSet {
    let Some(protocols) = protocols else {
        return PortSet::Every;
    };
    let mut rules = Vec::new();
    for (i, entry) in protocols.iter().enumerate() {
        let place = place.item(i);
        // The name is read below.
        let ProtocolMatch {
            tcp,
            udp,
            sctp,
            destination_named_port: _,
        } = entry;
        for (name, protocol, ports) in [
            ("tcp", Protocol::TCP, tcp),
            ("udp", Protocol::UDP, udp),
            ("sctp", Protocol::SCTP, sctp),
        ] {
            let Some(ports) = ports else { continue };
            let place = place.field(name).field("destinationPort");
            let ports = match &ports.destination_port {
                Some(port) => range(port, &place),
                None => Some(PortRef::EVERY),
            };
            rules.extend(ports.map(|ports| PortRule {
                protocol,
                ports,
                http: None,
            }));
        }
    }
    for (i, name) in named_ports(Some(protocols)) {
        if name.is_empty() {
            place
                .item(i)
                .field("destinationNamedPort")
                .fault(FaultKind::Empty);
        }
        // A name is of one protocol per pod, whichever it is.
        rules.extend(
            [Protocol::TCP, Protocol::UDP, Protocol::SCTP].map(|protocol| PortRule {
                protocol,
                ports: PortRef::Named(name.to_ascii_lowercase()),
                http: None,
            }),
        );
    }
    PortSet::Of(rules)
}

fn range(port: &Port, place: &Place<'_>) -> Option<PortRef> {
    let number = |number: i32| u16::try_from(number).ok().filter(|port| *port != 0);
    match (port.number, &port.range) {
        (Some(port), _) => number(port).map(|port| PortRef::Range(port..=port)),
        (None, Some(range)) => {
            let (start, end) = (number(range.start)?, number(range.end)?);
            if start >= end {
                let place = place.field("range").field("end");
                place.invalid(end.to_string(), "greater than `start`");
            }
            Some(PortRef::Range(start..=end))
        }
        (None, None) => None,
    }
}
