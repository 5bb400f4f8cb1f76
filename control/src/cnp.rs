//! `cilium.io/v2 CiliumNetworkPolicy`: reading, validation, and the scoping that Cilium adds to selectors.
//!
//! Supported: `endpointSelector`, the four rule lists, `fromEndpoints`/`toEndpoints`, entities, CIDRs and CIDR sets, `toPorts` with
//! `rules.http` (method, path), `icmps`, `enableDefaultDeny`, `description`, `labels`. An object with any other field is refused
//! as a whole.

mod port;

use ipnet::IpNet;
use policy::Tier;
use serde_json::Value;

use crate::field::{Fault, FaultKind, Faults, Field, ObjectField};
use crate::labels::{CLUSTER, LabelSource, NAMESPACE, NAMESPACE_LABELS};
use crate::rule::{
    CidrBlock, DirectionSpec, Peer, PeerSet, Policy, PolicyKey, PolicyKind, PortSet, Rule, RuleAction, Spec,
};
use crate::selector::{Operator, Requirement, Selector, SourceMatch};

/// Reads the object `namespace/name`. `cluster` is the name that selectors without a cluster label are scoped to.
///
/// # Errors
/// Every fault of the object, each with its field path.
pub fn decode(value: &Value, namespace: &str, name: &str, cluster: &str) -> Result<Policy, Vec<Fault>> {
    let faults = Faults::default();
    let key = PolicyKey {
        kind: PolicyKind::Cilium,
        namespace: namespace.to_owned(),
        name: name.to_owned(),
    };
    let decoder = Decoder {
        policy: key.to_string(),
        namespace,
        cluster,
    };
    let mut specs = Vec::new();
    let known = ["apiVersion", "kind", "metadata", "spec", "specs", "status"];
    if let Some(object) = Field::root(value, &faults).object(&known) {
        let spec = object.get("spec");
        let listed = object
            .get("specs")
            .and_then(|field| field.list())
            .unwrap_or_default();
        if spec.is_none() && listed.is_empty() {
            faults.push("spec", FaultKind::Missing);
        }
        specs.extend(spec.and_then(|field| decoder.spec(&field, "")));
        for (i, field) in listed.iter().enumerate() {
            specs.extend(decoder.spec(field, &format!("specs[{i}].")));
        }
    }
    let faults = faults.into_vec();
    if faults.is_empty() {
        Ok(Policy { key, specs })
    } else {
        Err(faults)
    }
}

struct Decoder<'a> {
    policy: String,
    namespace: &'a str,
    cluster: &'a str,
}

/// Field names of one direction.
struct Names {
    allow: &'static str,
    deny: &'static str,
    endpoints: &'static str,
    entities: &'static str,
    cidr: &'static str,
    cidr_set: &'static str,
}

const INGRESS: Names = Names {
    allow: "ingress",
    deny: "ingressDeny",
    endpoints: "fromEndpoints",
    entities: "fromEntities",
    cidr: "fromCIDR",
    cidr_set: "fromCIDRSet",
};

const EGRESS: Names = Names {
    allow: "egress",
    deny: "egressDeny",
    endpoints: "toEndpoints",
    entities: "toEntities",
    cidr: "toCIDR",
    cidr_set: "toCIDRSet",
};

impl Decoder<'_> {
    fn spec(&self, field: &Field<'_>, place: &str) -> Option<Spec> {
        let object = field.object(&[
            "endpointSelector",
            "ingress",
            "ingressDeny",
            "egress",
            "egressDeny",
            "enableDefaultDeny",
            "description",
            "labels",
        ])?;
        if let Some(description) = object.get("description") {
            description.string()?;
        }
        if let Some(labels) = object.get("labels") {
            for label in labels.list()? {
                label.object(&["key", "value", "source"])?;
            }
        }
        let mut subject = selector(&object.required("endpointSelector")?)?;
        // A CNP never selects another namespace's pods, whatever its selector says.
        subject.remove_key(NAMESPACE);
        subject.require(NAMESPACE, self.namespace);

        let (mut ingress, ingress_items) = self.direction(&object, &INGRESS, place);
        let (mut egress, egress_items) = self.direction(&object, &EGRESS, place);
        if ingress_items + egress_items == 0 {
            field.fault(FaultKind::Rule(
                "must have at least one ingress, ingressDeny, egress or egressDeny rule",
            ));
        }
        let default_deny = object
            .get("enableDefaultDeny")
            .and_then(|field| field.object(&["ingress", "egress"]));
        let asked = |name: &str, items: usize| {
            let explicit = default_deny
                .as_ref()
                .and_then(|object| object.get(name))
                .and_then(|field| field.boolean());
            explicit.unwrap_or(items > 0)
        };
        ingress.default_deny = asked("ingress", ingress_items);
        egress.default_deny = asked("egress", egress_items);
        Some(Spec {
            tier: Tier::Normal,
            priority: 0,
            subject,
            ingress,
            egress,
        })
    }

    /// The rules of one direction and the number of items it was written with.
    fn direction(&self, spec: &ObjectField<'_>, names: &Names, place: &str) -> (DirectionSpec, usize) {
        let mut direction = DirectionSpec::default();
        let mut items = 0;
        for (list, action) in [(names.allow, RuleAction::Allow), (names.deny, RuleAction::Deny)] {
            for (i, item) in spec
                .get(list)
                .and_then(|field| field.list())
                .unwrap_or_default()
                .iter()
                .enumerate()
            {
                items += 1;
                let name = format!("{} {place}{list}[{i}]", self.policy);
                direction.rules.extend(self.rule(item, names, action, name));
            }
        }
        (direction, items)
    }

    fn rule(&self, item: &Field<'_>, names: &Names, action: RuleAction, name: String) -> Option<Rule> {
        let object = item.object(&[
            names.endpoints,
            names.entities,
            names.cidr,
            names.cidr_set,
            "toPorts",
            "icmps",
        ])?;
        let kinds = [names.endpoints, names.entities, names.cidr, names.cidr_set];
        // Where a fault is found reading goes on, so that all are reported: an object with any fault is refused whole.
        let mut given = kinds
            .into_iter()
            .filter_map(|kind| Some((kind, object.get(kind)?)));
        let first = given.next();
        if let Some((first, _)) = first {
            for (_, field) in given {
                field.fault(FaultKind::Conflict(first));
            }
        }
        let peers = first.map(|(_, field)| self.peers(&field, names).unwrap_or(PeerSet::Of(Vec::new())));
        let ports = object
            .get("toPorts")
            .and_then(|field| field.list())
            .unwrap_or_default();
        let icmps = match object.get("icmps") {
            Some(field) => {
                let items = field.list().unwrap_or_default();
                if !items.is_empty() && !ports.is_empty() {
                    field.fault(FaultKind::Conflict("toPorts"));
                }
                items
            }
            None => Vec::new(),
        };
        let restricted = !ports.is_empty() || !icmps.is_empty();
        let mut port_rules = Vec::new();
        for port in &ports {
            port_rules.extend(port::to_ports(port, action).into_iter().flatten());
        }
        for icmp in &icmps {
            port_rules.extend(port::icmp_fields(icmp).into_iter().flatten());
        }
        let peers = match (peers, restricted) {
            (Some(peers), _) => peers,
            (None, true) => PeerSet::Any,
            // An empty item allows nothing; it only asks for default deny.
            (None, false) => PeerSet::Of(Vec::new()),
        };
        let ports = if restricted {
            PortSet::Of(port_rules)
        } else {
            PortSet::Every
        };
        Some(Rule {
            name,
            action,
            log: None,
            peers,
            ports,
        })
    }

    fn peers(&self, field: &Field<'_>, names: &Names) -> Option<PeerSet> {
        let items = field.list()?;
        let mut peers = Vec::with_capacity(items.len());
        let kind = field.path().rsplit('.').next().unwrap_or_default();
        for item in &items {
            if kind == names.endpoints {
                peers.push(Peer::Labels(self.scoped(selector(item)?)));
            } else if kind == names.entities {
                match entity(item, self.cluster)? {
                    Some(selectors) => peers.extend(selectors.into_iter().map(Peer::Labels)),
                    None => return Some(PeerSet::Any),
                }
            } else if kind == names.cidr {
                peers.push(Peer::Cidr(CidrBlock {
                    cidr: prefix(item)?,
                    except: Vec::new(),
                }));
            } else {
                peers.push(cidr_set(item)?);
            }
        }
        Some(PeerSet::Of(peers))
    }

    /// Adds the scoping that Cilium adds to a peer selector: the policy's namespace, then the local cluster.
    fn scoped(&self, mut selector: Selector) -> Selector {
        let source_is = |source: &SourceMatch, name: LabelSource| match source {
            SourceMatch::Any => name == LabelSource::K8s,
            SourceMatch::Named(named) => named == name.name(),
        };
        if selector.any_key(|source, _| source_is(source, LabelSource::Reserved)) {
            return selector;
        }
        let of_k8s = |wanted: &dyn Fn(&str) -> bool| {
            selector.any_key(|source, key| source_is(source, LabelSource::K8s) && wanted(key))
        };
        let names_namespace = of_k8s(&|key| key == NAMESPACE || key.starts_with(NAMESPACE_LABELS));
        let names_cluster = of_k8s(&|key| key == CLUSTER);
        if !names_namespace {
            selector.require(NAMESPACE, self.namespace);
        }
        if !names_cluster {
            selector.require(CLUSTER, self.cluster);
        }
        selector
    }
}

/// A LabelSelector whose keys may carry a source.
fn selector(field: &Field<'_>) -> Option<Selector> {
    let object = field.object(&["matchLabels", "matchExpressions"])?;
    let mut requirements = Vec::new();
    if let Some(labels) = object.get("matchLabels") {
        for (key, value) in labels.entries()?.iter() {
            let (source, key) = label_key(key);
            let operator = Operator::In(vec![value.string()?.to_owned()]);
            requirements.push(Requirement {
                source,
                key,
                operator,
            });
        }
    }
    if let Some(expressions) = object.get("matchExpressions") {
        for expression in expressions.list()? {
            let object = expression.object(&["key", "operator", "values"])?;
            let (source, key) = label_key(object.required("key")?.string()?);
            let mut values = Vec::new();
            if let Some(field) = object.get("values") {
                for value in field.list()? {
                    values.push(value.string()?.to_owned());
                }
            }
            let operator = operator(&object.required("operator")?, values, &expression)?;
            requirements.push(Requirement {
                source,
                key,
                operator,
            });
        }
    }
    Some(Selector::new(requirements))
}

fn operator(field: &Field<'_>, values: Vec<String>, expression: &Field<'_>) -> Option<Operator> {
    let name = field.string()?;
    let needs_values = matches!(name, "In" | "NotIn");
    let operator = match name {
        "In" => Operator::In(values),
        "NotIn" => Operator::NotIn(values),
        "Exists" if values.is_empty() => Operator::Exists,
        "DoesNotExist" if values.is_empty() => Operator::DoesNotExist,
        "Exists" | "DoesNotExist" => {
            expression.fault(FaultKind::Rule(
                "values must be empty with operator Exists or DoesNotExist",
            ));
            return None;
        }
        other => {
            let expected = "one of In, NotIn, Exists, DoesNotExist";
            field.fault(FaultKind::Invalid {
                value: other.to_owned(),
                expected,
            });
            return None;
        }
    };
    if needs_values
        && matches!(&operator, Operator::In(values) | Operator::NotIn(values) if values.is_empty())
    {
        expression.fault(FaultKind::Rule(
            "values must not be empty with operator In or NotIn",
        ));
        return None;
    }
    Some(operator)
}

/// Splits `source:key`; without a source, any source matches.
fn label_key(text: &str) -> (SourceMatch, String) {
    match text.split_once(':') {
        Some(("any", key)) => (SourceMatch::Any, key.to_owned()),
        Some((source, key)) if !source.is_empty() && source.bytes().all(|b| b.is_ascii_alphanumeric()) => {
            (SourceMatch::Named(source.to_owned()), key.to_owned())
        }
        _ => (SourceMatch::Any, text.to_owned()),
    }
}

/// Selectors of an entity; the outer `None` is a fault, the inner one is everyone.
fn entity(field: &Field<'_>, cluster: &str) -> Option<Option<Vec<Selector>>> {
    let reserved = |names: &[&str]| -> Vec<Selector> {
        names
            .iter()
            .map(|name| Selector::exists(LabelSource::Reserved, name))
            .collect()
    };
    let members = [
        "host",
        "remote-node",
        "init",
        "ingress",
        "health",
        "unmanaged",
        "kube-apiserver",
    ];
    Some(match field.string()? {
        "all" => None,
        "none" => Some(Vec::new()),
        "cluster" => {
            let mut selectors = reserved(&members);
            let mut pods = Selector::default();
            pods.require(CLUSTER, cluster);
            selectors.push(pods);
            Some(selectors)
        }
        "cluster-mesh" => {
            let mut selectors = reserved(&members);
            selectors.push(Selector::exists(LabelSource::K8s, CLUSTER));
            Some(selectors)
        }
        name if name == "world" || members.contains(&name) => Some(reserved(&[name])),
        other => {
            field.fault(FaultKind::Invalid {
                value: other.to_owned(),
                expected: "an entity",
            });
            return None;
        }
    })
}

fn prefix(field: &Field<'_>) -> Option<IpNet> {
    let text = field.string()?;
    let prefix = text.parse::<IpNet>().ok();
    if prefix.is_none() {
        field.fault(FaultKind::Invalid {
            value: text.to_owned(),
            expected: "an address with prefix length",
        });
    }
    prefix.map(|prefix| prefix.trunc())
}

fn cidr_set(field: &Field<'_>) -> Option<Peer> {
    let object = field.object(&["cidr", "except"])?;
    let cidr = prefix(&object.required("cidr")?)?;
    let mut except = Vec::new();
    if let Some(list) = object.get("except") {
        for item in list.list()? {
            let part = prefix(&item)?;
            if !cidr.contains(&part) {
                item.fault(FaultKind::Invalid {
                    value: part.to_string(),
                    expected: "a part of `cidr`",
                });
                return None;
            }
            except.push(part);
        }
    }
    Some(Peer::Cidr(CidrBlock { cidr, except }))
}
