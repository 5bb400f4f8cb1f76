//! `cilium.io/v2` CiliumNetworkPolicy and CiliumClusterwideNetworkPolicy: from the types of [`crate::api`] to rules, with the
//! validation of Cilium and the scoping that it adds to selectors.
//!
//! What is valid but not enforced by sluice is a fault ([`FaultKind::Unsupported`]): the object is refused as a whole.

mod http;
mod icmp;
mod item;
mod peer;
mod port;
pub(crate) mod selector;

use std::sync::{Arc, LazyLock};

use policy::Tier;
use serde_json::Value;

use self::item::Item;
use self::peer::Scope;
use crate::api::selector::LabelSelector;
use crate::api::{self, CiliumNetworkPolicy, schema};
use crate::field::{Fault, FaultKind, Faults, Place};
use crate::labels::{LabelSource, NAMESPACE};
use crate::rule::{DirectionSpec, PeerSet, Policy, PolicyKey, PolicyKind, PortSet, Rule, RuleAction, Spec};
use crate::selector::{Selector, SourceMatch};

static SCHEMA: LazyLock<Value> = LazyLock::new(schema::of::<CiliumNetworkPolicy>);

/// Reads the object `key`, of kind [`PolicyKind::Cilium`] or [`PolicyKind::CiliumClusterwide`]. `cluster` is the name that selectors
/// without a cluster label are scoped to.
///
/// # Errors
/// Every fault of the object, each with its field path.
pub fn decode(value: &Value, key: PolicyKey, cluster: &str) -> Result<Policy, Vec<Fault>> {
    let (object, found) = schema::read::<CiliumNetworkPolicy>(value, &SCHEMA);
    let Some(object) = object else {
        return Err(found);
    };
    let faults = Faults::default();
    let root = Place::root(&faults);
    let decoder = Decoder {
        policy: key.to_string(),
        namespace: (key.kind == PolicyKind::Cilium).then_some(key.namespace.as_str()),
        cluster,
    };
    let listed = object.specs.as_deref().unwrap_or_default();
    if object.spec.is_none() && listed.is_empty() {
        root.field("spec").fault(FaultKind::Missing);
    }
    let mut specs = Vec::new();
    if let Some(spec) = &object.spec {
        specs.push(decoder.spec(spec, &root.field("spec"), ""));
    }
    for (i, spec) in listed.iter().enumerate() {
        specs.push(decoder.spec(spec, &root.field("specs").item(i), &format!("specs[{i}].")));
    }
    let faults = schema::joined(found, faults.into_vec());
    if faults.is_empty() {
        Ok(Policy { key, specs })
    } else {
        Err(faults)
    }
}

struct Decoder<'a> {
    policy: String,
    /// `None` for a CiliumClusterwideNetworkPolicy.
    namespace: Option<&'a str>,
    cluster: &'a str,
}

/// What the items of a list have in common.
#[derive(Debug, Clone, Copy)]
struct List<'a> {
    scope: Scope<'a>,
    action: RuleAction,
    egress: bool,
    /// Whether the subject is nodes.
    host: bool,
    log: Option<&'a Arc<str>>,
}

// Where a fault is found reading goes on, so that all are reported: an object with any fault is refused whole, so whatever a faulty
// field is read as is never enforced.
impl Decoder<'_> {
    fn spec(&self, spec: &api::rule::Rule, place: &Place<'_>, prefix: &str) -> Spec {
        let api::rule::Rule {
            endpoint_selector,
            node_selector,
            ingress,
            ingress_deny,
            egress,
            egress_deny,
            enable_default_deny,
            labels: _,
            description: _,
            log,
        } = spec;
        let mut subject = self.subject(endpoint_selector.as_ref(), node_selector.as_ref(), place);
        let reserved_init = subject.any_key(|source, key| {
            key == "init" && *source == SourceMatch::Named(LabelSource::Reserved.name().to_owned())
        });
        if let Some(namespace) = self.namespace {
            // A CNP never selects another namespace's pods, whatever its selector says.
            subject.remove_key(NAMESPACE);
            subject.require(NAMESPACE, namespace);
        }
        let log = log.as_ref().and_then(|log| log_value(log, place));
        let list = |action, egress| List {
            scope: Scope {
                namespace: self.namespace,
                cluster: self.cluster,
                reserved_init,
            },
            action,
            egress,
            host: node_selector.is_some(),
            log: log.as_ref(),
        };
        let rules = |name: &str, list: List<'_>, items: Vec<Item<'_>>| {
            let item = |(i, item): (usize, &Item<'_>)| {
                let name = format!("{name}[{i}]");
                let place = place.field(&name);
                rule(item, list, &place, format!("{} {prefix}{name}", self.policy))
            };
            items.iter().enumerate().map(item).collect::<Vec<Rule>>()
        };
        let (allow, deny) = (RuleAction::Allow, RuleAction::Deny);
        let mut ingress = rules("ingress", list(allow, false), item::of(ingress));
        ingress.extend(rules("ingressDeny", list(deny, false), item::of(ingress_deny)));
        let mut egress = rules("egress", list(allow, true), item::of(egress));
        egress.extend(rules("egressDeny", list(deny, true), item::of(egress_deny)));
        if ingress.is_empty() && egress.is_empty() {
            place.fault(FaultKind::Rule(
                "must have at least one ingress, ingressDeny, egress or egressDeny rule",
            ));
        }
        let explicit = enable_default_deny.clone().unwrap_or_default();
        let direction = |explicit: Option<bool>, rules: Vec<Rule>| DirectionSpec {
            default_deny: explicit.unwrap_or(!rules.is_empty()),
            rules,
        };
        Spec {
            tier: Tier::Normal,
            priority: 0,
            subject,
            ingress: direction(explicit.ingress, ingress),
            egress: direction(explicit.egress, egress),
        }
    }

    fn subject(
        &self,
        endpoints: Option<&LabelSelector>,
        hosts: Option<&LabelSelector>,
        place: &Place<'_>,
    ) -> Selector {
        let nodes = place.field("nodeSelector");
        match (endpoints, hosts) {
            (None, None) => place.field("endpointSelector").fault(FaultKind::Missing),
            (Some(_), Some(_)) => nodes.fault(FaultKind::Conflict("endpointSelector")),
            (None, Some(_)) if self.namespace.is_some() => {
                nodes.fault(FaultKind::Rule("is only for a CiliumClusterwideNetworkPolicy"));
            }
            (None, Some(selector)) => {
                selector::of(selector, &nodes, selector::label_key);
                nodes.fault(FaultKind::Unsupported(
                    "host policies are not enforced until the uplink is covered",
                ));
            }
            (Some(selector), None) => {
                return selector::endpoints(selector, &place.field("endpointSelector"));
            }
        }
        Selector::default()
    }
}

/// `log.value`, if there is any.
fn log_value(log: &api::rule::Log, place: &Place<'_>) -> Option<Arc<str>> {
    let text = log.value.as_deref().filter(|text| !text.is_empty())?;
    if text.chars().any(char::is_control) {
        let place = place.field("log").field("value");
        place.fault(FaultKind::Rule("must be printable"));
    }
    Some(Arc::from(text))
}

fn rule(item: &Item<'_>, list: List<'_>, place: &Place<'_>, name: String) -> Rule {
    if item.authentication {
        place
            .field("authentication")
            .fault(FaultKind::Unsupported("authentication of peers"));
    }
    if !item.requires.1.is_empty() {
        place
            .field(item.requires.0)
            .fault(FaultKind::Unsupported("removed in Cilium 1.20"));
    }
    let mut given = item.peers.iter();
    let first = given.next();
    if let Some((first, _)) = first {
        for (other, _) in given {
            place.field(other).fault(FaultKind::Conflict(first));
        }
    }
    if !item.icmps.is_empty() && !item.ports.is_empty() {
        place.field("icmps").fault(FaultKind::Conflict("toPorts"));
    }
    let restricted = !item.ports.is_empty() || !item.icmps.is_empty();
    let mut ports = Vec::new();
    for (i, item) in item.ports.iter().enumerate() {
        ports.extend(port::rules(*item, list, &place.field("toPorts").item(i)));
    }
    for (i, icmp) in item.icmps.iter().enumerate() {
        ports.extend(icmp::rules(icmp, &place.field("icmps").item(i)));
    }
    Rule {
        name,
        action: list.action,
        log: list.log.cloned(),
        peers: match first {
            Some((name, peers)) => peer::of(peers, list.scope, &place.field(name)),
            None if restricted => PeerSet::Any,
            // An empty item allows nothing; it only asks for default deny.
            None => PeerSet::Of(Vec::new()),
        },
        ports: if restricted {
            PortSet::Of(ports)
        } else {
            PortSet::Every
        },
    }
}
