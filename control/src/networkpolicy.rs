//! `networking.k8s.io/v1 NetworkPolicy`, with the meaning upstream Kubernetes gives it.
//!
//! Differences from CNP: `ingress: [{}]` allows everyone, `policyTypes` is taken as written, and `ipBlock` covers any address.

use std::collections::BTreeMap;

use k8s_openapi::api::networking::v1::{
    IPBlock, NetworkPolicy, NetworkPolicyPeer, NetworkPolicyPort, NetworkPolicySpec,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use policy::{Protocol, Tier};

use crate::field::{Fault, FaultKind, Faults, Place};
use crate::labels::{CLUSTER, NAMESPACE, NAMESPACE_LABELS};
use crate::rule::{
    CidrBlock, DirectionSpec, Peer, PeerSet, Policy, PolicyKey, PolicyKind, PortRef, PortRule, PortSet, Rule,
    RuleAction, Spec,
};
use crate::selector::{Operator, Selector};

/// Reads the object. `cluster` is the name of the cluster whose pods peers select.
///
/// # Errors
/// Every fault of the object, each with its field path.
pub fn decode(
    object: &NetworkPolicy,
    namespace: &str,
    name: &str,
    cluster: &str,
) -> Result<Policy, Vec<Fault>> {
    let faults = Faults::default();
    let key = PolicyKey {
        kind: PolicyKind::Kubernetes,
        namespace: namespace.to_owned(),
        name: name.to_owned(),
    };
    let decoder = Decoder {
        policy: key.to_string(),
        namespace,
        cluster,
        faults: &faults,
    };
    let spec = match &object.spec {
        Some(spec) => decoder.spec(spec),
        None => {
            faults.push("spec", FaultKind::Missing);
            None
        }
    };
    let found = faults.into_vec();
    match spec {
        Some(spec) if found.is_empty() => Ok(Policy {
            key,
            specs: vec![spec],
        }),
        _ => Err(found),
    }
}

struct Decoder<'a> {
    policy: String,
    namespace: &'a str,
    cluster: &'a str,
    faults: &'a Faults,
}

impl Decoder<'_> {
    fn spec(&self, spec: &NetworkPolicySpec) -> Option<Spec> {
        let mut subject = Selector::default();
        if let Some(pods) = &spec.pod_selector {
            self.labels(&mut subject, pods, "", "spec.podSelector")?;
        }
        subject.require(NAMESPACE, self.namespace);

        let types = spec.policy_types.as_deref().unwrap_or_default();
        for (i, name) in types
            .iter()
            .enumerate()
            .filter(|(_, name)| !matches!(name.as_str(), "Ingress" | "Egress"))
        {
            let kind = FaultKind::Invalid {
                value: name.clone(),
                expected: "Ingress or Egress",
            };
            self.faults.push(format!("spec.policyTypes[{i}]"), kind);
        }
        let egress_items = spec.egress.as_deref().unwrap_or_default();
        let names = |direction: &str| types.iter().any(|name| name == direction);
        let ingress_applies = types.is_empty() || names("Ingress");
        let egress_applies = if types.is_empty() {
            !egress_items.is_empty()
        } else {
            names("Egress")
        };

        let ingress_items = spec.ingress.as_deref().unwrap_or_default();
        let ingress = ingress_items.iter().enumerate().map(|(i, item)| {
            let peers = item.from.as_deref().unwrap_or_default();
            self.rule(
                "ingress",
                i,
                "from",
                peers,
                item.ports.as_deref().unwrap_or_default(),
            )
        });
        let ingress: Option<Vec<Rule>> = ingress.collect();
        let egress = egress_items.iter().enumerate().map(|(i, item)| {
            let peers = item.to.as_deref().unwrap_or_default();
            self.rule(
                "egress",
                i,
                "to",
                peers,
                item.ports.as_deref().unwrap_or_default(),
            )
        });
        let egress: Option<Vec<Rule>> = egress.collect();
        let applied = |applies: bool, rules: Vec<Rule>| {
            if applies {
                DirectionSpec {
                    default_deny: true,
                    rules,
                }
            } else {
                DirectionSpec::default()
            }
        };
        Some(Spec {
            tier: Tier::Normal,
            priority: 0,
            subject,
            ingress: applied(ingress_applies, ingress?),
            egress: applied(egress_applies, egress?),
        })
    }

    fn rule(
        &self,
        list: &str,
        index: usize,
        peer_list: &str,
        peers: &[NetworkPolicyPeer],
        ports: &[NetworkPolicyPort],
    ) -> Option<Rule> {
        let path = format!("spec.{list}[{index}]");
        let peers = if peers.is_empty() {
            PeerSet::Any
        } else {
            let peer = |(i, peer)| self.peer(peer, &format!("{path}.{peer_list}[{i}]"));
            PeerSet::Of(peers.iter().enumerate().map(peer).collect::<Option<_>>()?)
        };
        let ports = if ports.is_empty() {
            PortSet::Every
        } else {
            let port = |(i, port)| self.port(port, &format!("{path}.ports[{i}]"));
            PortSet::Of(ports.iter().enumerate().map(port).collect::<Option<_>>()?)
        };
        Some(Rule {
            name: format!("{} {list}[{index}]", self.policy),
            action: RuleAction::Allow,
            log: None,
            peers,
            ports,
        })
    }

    fn peer(&self, peer: &NetworkPolicyPeer, path: &str) -> Option<Peer> {
        if let Some(block) = &peer.ip_block {
            if peer.pod_selector.is_some() || peer.namespace_selector.is_some() {
                self.faults.push(
                    path,
                    FaultKind::Conflict("podSelector or namespaceSelector beside ipBlock"),
                );
                return None;
            }
            return self.block(block, &format!("{path}.ipBlock"));
        }
        let mut selector = Selector::default();
        match (&peer.namespace_selector, &peer.pod_selector) {
            (None, None) => {
                let kind = FaultKind::Rule("must have podSelector, namespaceSelector or ipBlock");
                self.faults.push(path, kind);
                return None;
            }
            (Some(namespaces), _) => {
                self.labels(
                    &mut selector,
                    namespaces,
                    NAMESPACE_LABELS,
                    &format!("{path}.namespaceSelector"),
                )?;
                selector.push(NAMESPACE, Operator::Exists);
            }
            (None, Some(_)) => selector.require(NAMESPACE, self.namespace),
        }
        if let Some(pods) = &peer.pod_selector {
            self.labels(&mut selector, pods, "", &format!("{path}.podSelector"))?;
        }
        selector.require(CLUSTER, self.cluster);
        Some(Peer::Labels(selector))
    }

    fn block(&self, block: &IPBlock, path: &str) -> Option<Peer> {
        let prefix = |text: &str, field: String| Place::at(field, self.faults).prefix(text);
        let cidr = prefix(&block.cidr, format!("{path}.cidr"))?;
        let mut except = Vec::new();
        for (i, text) in block.except.iter().flatten().enumerate() {
            let field = format!("{path}.except[{i}]");
            let part = prefix(text, field.clone())?;
            if !cidr.contains(&part) {
                self.faults.push(
                    field,
                    FaultKind::Invalid {
                        value: text.clone(),
                        expected: "a part of `cidr`",
                    },
                );
                return None;
            }
            except.push(part);
        }
        Some(Peer::IpBlock(CidrBlock { cidr, except }))
    }

    fn labels(
        &self,
        selector: &mut Selector,
        source: &LabelSelector,
        prefix: &str,
        path: &str,
    ) -> Option<()> {
        // The filter is for pods' own labels: those of a Namespace are all there, and some of their keys look like filtered ones.
        let mut push = |key: &str, operator| {
            if prefix.is_empty() {
                selector.push_upstream(key, operator);
            } else {
                selector.push(&format!("{prefix}{key}"), operator);
            }
        };
        for (key, value) in source.match_labels.as_ref().unwrap_or(&BTreeMap::new()) {
            push(key, Operator::In(vec![value.clone()]));
        }
        for (i, expression) in source.match_expressions.iter().flatten().enumerate() {
            let LabelSelectorRequirement {
                key,
                operator,
                values,
            } = expression;
            let values = values.clone().unwrap_or_default();
            let place = Place::at(format!("{path}.matchExpressions[{i}]"), self.faults);
            let operator = Operator::read(operator, values, &place)?;
            push(key, operator);
        }
        Some(())
    }

    fn port(&self, port: &NetworkPolicyPort, path: &str) -> Option<PortRule> {
        let protocol = match port.protocol.as_deref() {
            None | Some("TCP") => Protocol::TCP,
            Some("UDP") => Protocol::UDP,
            Some("SCTP") => Protocol::SCTP,
            Some(other) => {
                let kind = FaultKind::Invalid {
                    value: other.to_owned(),
                    expected: "one of TCP, UDP, SCTP",
                };
                self.faults.push(format!("{path}.protocol"), kind);
                return None;
            }
        };
        let number = |value: i32, field: &str| {
            let number = u16::try_from(value).ok().filter(|port| *port != 0);
            if number.is_none() {
                let kind = FaultKind::Invalid {
                    value: value.to_string(),
                    expected: "a port from 1 to 65535",
                };
                self.faults.push(format!("{path}.{field}"), kind);
            }
            number
        };
        let ports = match (&port.port, port.end_port) {
            (None, None) => PortRef::EVERY,
            (Some(IntOrString::Int(first)), None) => {
                let first = number(*first, "port")?;
                PortRef::Range(first..=first)
            }
            (Some(IntOrString::Int(first)), Some(last)) => {
                let (first, last) = (number(*first, "port")?, number(last, "endPort")?);
                if last < first {
                    let kind = FaultKind::Invalid {
                        value: last.to_string(),
                        expected: "at least `port`",
                    };
                    self.faults.push(format!("{path}.endPort"), kind);
                    return None;
                }
                PortRef::Range(first..=last)
            }
            (Some(IntOrString::String(name)), None) => PortRef::Named(name.to_ascii_lowercase()),
            (Some(IntOrString::String(_)), Some(_)) => {
                self.faults
                    .push(format!("{path}.endPort"), FaultKind::Conflict("a named port"));
                return None;
            }
            (None, Some(_)) => {
                self.faults
                    .push(format!("{path}.endPort"), FaultKind::Rule("needs `port`"));
                return None;
            }
        };
        Some(PortRule {
            protocol,
            ports,
            http: None,
        })
    }
}
