//! Peers, and the scoping that Cilium adds to their selectors.

use super::item::Peers;
use super::selector::{self, key_of};
use crate::api::peer::{CidrRule, Fqdn, Service};
use crate::field::{FaultKind, Place};
use crate::fqdn::FqdnSelector;
use crate::labels::{CLUSTER, LabelSource, NAMESPACE, NAMESPACE_LABELS};
use crate::rule::{CidrBlock, GroupRef, Peer, PeerSet, ServiceMatch, ServiceRef};
use crate::selector::{Operator, Selector, SourceMatch};

/// What peer selectors are limited to.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scope<'a> {
    /// The policy's namespace; `None` for a CiliumClusterwideNetworkPolicy.
    pub(super) namespace: Option<&'a str>,
    pub(super) cluster: &'a str,
    /// Whether the subject is selected by `reserved:init`.
    pub(super) reserved_init: bool,
}

/// The peers of a list. An empty list is nobody, of whatever kind it is: in Cilium, an empty `toFQDNs` beside `toPorts` is
/// everybody on those ports, as is a `toServices` that no Service fits. Neither can be meant.
pub(super) fn of(peers: &Peers<'_>, scope: Scope<'_>, place: &Place<'_>) -> PeerSet {
    let mut found = Vec::new();
    match peers {
        Peers::Endpoints(list) => {
            let selectors = list.iter().enumerate();
            found.extend(selectors.map(|(i, endpoints)| {
                Peer::Labels(scope.applied(selector::endpoints(endpoints, &place.item(i))))
            }));
        }
        Peers::Entities(list) => {
            for (i, entity) in list.iter().enumerate() {
                match members(&entity.0, scope.cluster) {
                    Some(Members::Everyone) => return PeerSet::Any,
                    Some(Members::Selected(selectors)) => {
                        found.extend(selectors.into_iter().map(Peer::Labels));
                    }
                    None => place.item(i).invalid(&entity.0, "an entity"),
                }
            }
        }
        Peers::Cidr(list) => {
            for (i, cidr) in list.iter().enumerate() {
                found.extend(place.item(i).prefix(&cidr.0).map(|cidr| {
                    Peer::Cidr(CidrBlock {
                        cidr,
                        except: Vec::new(),
                    })
                }));
            }
        }
        Peers::CidrSet(list) => {
            for (i, rule) in list.iter().enumerate() {
                found.extend(cidr_set(rule, &place.item(i)));
            }
        }
        Peers::Groups => place.fault(FaultKind::Unsupported("groups of cloud providers")),
        Peers::Nodes(list) => {
            for (i, nodes) in list.iter().enumerate() {
                found.push(Peer::Nodes {
                    selector: selector::of(nodes, &place.item(i), key_of(LabelSource::Node)),
                    local: false,
                });
            }
        }
        Peers::Services(list) => {
            for (i, service) in list.iter().enumerate() {
                found.extend(services(service, &place.item(i)));
            }
        }
        Peers::Fqdns(list) => {
            for (i, fqdn) in list.iter().enumerate() {
                found.extend(name(fqdn, &place.item(i)).map(Peer::Fqdn));
            }
        }
    }
    PeerSet::Of(found)
}

impl Scope<'_> {
    /// Adds the scoping that Cilium adds to a peer selector: the policy's namespace (without one, any, which leaves out what is no
    /// pod), then the local cluster.
    fn applied(self, mut selector: Selector) -> Selector {
        let source_is = |source: &SourceMatch, name: LabelSource| match source {
            SourceMatch::Any => name == LabelSource::K8s,
            SourceMatch::Named(named) => named == name.name(),
        };
        if selector.any_key(|source, _| source_is(source, LabelSource::Reserved)) {
            return selector;
        }
        let names = |wanted: &dyn Fn(&str) -> bool| {
            selector.any_key(|source, key| source_is(source, LabelSource::K8s) && wanted(key))
        };
        let namespace = names(&|key| key == NAMESPACE);
        let namespace_labels = names(&|key| key.starts_with(NAMESPACE_LABELS));
        let cluster = names(&|key| key == CLUSTER);
        match self.namespace {
            _ if namespace => {}
            Some(own) if !namespace_labels => selector.require(NAMESPACE, own),
            Some(_) => {}
            None if !self.reserved_init => selector.push(NAMESPACE, Operator::Exists),
            None => {}
        }
        if !cluster {
            selector.require(CLUSTER, self.cluster);
        }
        selector
    }
}

/// Whom an entity stands for.
enum Members {
    Everyone,
    Selected(Vec<Selector>),
}

fn members(entity: &str, cluster: &str) -> Option<Members> {
    let reserved = |names: &[&str]| -> Vec<Selector> {
        names
            .iter()
            .map(|name| Selector::exists(LabelSource::Reserved, name))
            .collect()
    };
    let in_cluster = [
        "host",
        "remote-node",
        "init",
        "ingress",
        "health",
        "unmanaged",
        "kube-apiserver",
    ];
    Some(match entity {
        "all" => Members::Everyone,
        "none" => Members::Selected(Vec::new()),
        "cluster" => {
            let mut selectors = reserved(&in_cluster);
            let mut pods = Selector::default();
            pods.require(CLUSTER, cluster);
            selectors.push(pods);
            Members::Selected(selectors)
        }
        "cluster-mesh" => {
            let mut selectors = reserved(&in_cluster);
            selectors.push(Selector::exists(LabelSource::K8s, CLUSTER));
            Members::Selected(selectors)
        }
        name if name == "world" || in_cluster.contains(&name) => Members::Selected(reserved(&[name])),
        _ => return None,
    })
}

fn cidr_set(rule: &CidrRule, place: &Place<'_>) -> Option<Peer> {
    let CidrRule {
        cidr,
        cidr_group_ref,
        cidr_group_selector,
        except: parts,
    } = rule;
    let cidr = cidr.as_ref().map(|cidr| place.field("cidr").prefix(&cidr.0));
    let mut except = Vec::new();
    for (i, part) in parts.iter().flatten().enumerate() {
        let place = place.field("except").item(i);
        let Some(prefix) = place.prefix(&part.0) else {
            continue;
        };
        match cidr {
            Some(Some(cidr)) if !cidr.contains(&prefix) => place.invalid(&part.0, "a part of `cidr`"),
            _ => except.push(prefix),
        }
    }
    let sources = [
        ("cidr", cidr.is_some()),
        ("cidrGroupRef", cidr_group_ref.is_some()),
        ("cidrGroupSelector", cidr_group_selector.is_some()),
    ];
    let mut given = sources.into_iter().filter(|(_, given)| *given);
    let Some((first, _)) = given.next() else {
        place.fault(FaultKind::Rule(
            "must have cidr, cidrGroupRef or cidrGroupSelector",
        ));
        return None;
    };
    for (other, _) in given {
        place.field(other).fault(FaultKind::Conflict(first));
    }
    if let Some(cidr) = cidr {
        let cidr = cidr?;
        return Some(Peer::Cidr(CidrBlock { cidr, except }));
    }
    let groups = match (cidr_group_ref, cidr_group_selector) {
        (Some(name), _) => {
            if !is_object_name(name) {
                place.field("cidrGroupRef").invalid(name, "an object name");
            }
            GroupRef::Name(name.clone())
        }
        (None, Some(labels)) => {
            // Keys are the groups' own: what looks like a source is part of them.
            let key = |text: &str| {
                (
                    SourceMatch::Named(LabelSource::CidrGroup.name().to_owned()),
                    text.to_owned(),
                )
            };
            GroupRef::Labels(selector::of(labels, &place.field("cidrGroupSelector"), key))
        }
        (None, None) => return None,
    };
    Some(Peer::CidrGroup { groups, except })
}

/// Whether `name` is a DNS subdomain (RFC 1123), as names of objects are.
fn is_object_name(name: &str) -> bool {
    let label = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
    };
    name.len() <= 253 && name.split('.').all(label)
}

fn services(service: &Service, place: &Place<'_>) -> Vec<Peer> {
    let namespace = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    let mut peers = Vec::new();
    if let Some(named) = &service.k8s_service {
        match named.service_name.as_deref().filter(|name| !name.is_empty()) {
            Some(name) => peers.push(Peer::Services(ServiceRef {
                namespace: namespace(&named.namespace),
                which: ServiceMatch::Name(name.to_owned()),
            })),
            None => place
                .field("k8sService")
                .field("serviceName")
                .fault(FaultKind::Missing),
        }
    }
    if let Some(labelled) = &service.k8s_service_selector {
        let place = place.field("k8sServiceSelector").field("selector");
        peers.push(Peer::Services(ServiceRef {
            namespace: namespace(&labelled.namespace),
            which: ServiceMatch::Labels(selector::of(&labelled.selector, &place, key_of(LabelSource::K8s))),
        }));
    }
    if service.k8s_service.is_none() && service.k8s_service_selector.is_none() {
        place.fault(FaultKind::Rule("must have k8sService or k8sServiceSelector"));
    }
    peers
}

/// The name of an entry of `toFQDNs`.
fn name(fqdn: &Fqdn, place: &Place<'_>) -> Option<FqdnSelector> {
    let mut names = fqdn_selectors(fqdn, place);
    if names.len() > 1 {
        place
            .field("matchPattern")
            .fault(FaultKind::Conflict("matchName"));
    }
    names.pop()
}

/// The names of an entry, `toFQDNs`' or `rules.dns`'; without any it is a fault.
pub(super) fn fqdn_selectors(fqdn: &Fqdn, place: &Place<'_>) -> Vec<FqdnSelector> {
    let given = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    let mut names = Vec::new();
    if let Some(text) = given(&fqdn.match_name) {
        match FqdnSelector::name(&text) {
            Some(name) => names.push(name),
            None => place.field("matchName").invalid(text, "a DNS name"),
        }
    }
    if let Some(text) = given(&fqdn.match_pattern) {
        match FqdnSelector::pattern(&text) {
            Some(pattern) => names.push(pattern),
            None => place
                .field("matchPattern")
                .invalid(text, "a pattern of DNS names"),
        }
    }
    if given(&fqdn.match_name).is_none() && given(&fqdn.match_pattern).is_none() {
        place.fault(FaultKind::Rule("must have matchName or matchPattern"));
    }
    names
}
