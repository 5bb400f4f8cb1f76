//! The four kinds of rule items in one form: their fields differ in name and number only.
//!
//! Items are taken apart field by field, here and in the other decoders, so that a field that is added to a type and not read does
//! not compile.

use crate::api::icmp::IcmpRule;
use crate::api::peer::{Cidr, CidrRule, Entity, Fqdn, Service};
use crate::api::port::{PortDenyRule, PortProtocol, PortRule};
use crate::api::rule::{EgressDenyRule, EgressRule, IngressDenyRule, IngressRule};
use crate::api::selector::LabelSelector;

/// An item of `ingress`, `ingressDeny`, `egress` or `egressDeny`.
#[derive(Debug)]
pub(super) struct Item<'a> {
    /// Peer lists that are given, by field name. An empty one is given: it is nobody.
    pub(super) peers: Vec<(&'static str, Peers<'a>)>,
    /// `fromRequires` or `toRequires`.
    pub(super) requires: (&'static str, &'a [LabelSelector]),
    pub(super) ports: Vec<PortItem<'a>>,
    pub(super) icmps: &'a [IcmpRule],
    /// Whether `authentication` is given.
    pub(super) authentication: bool,
}

/// One list of peers.
#[derive(Debug)]
pub(super) enum Peers<'a> {
    Endpoints(&'a [LabelSelector]),
    Entities(&'a [Entity]),
    Cidr(&'a [Cidr]),
    CidrSet(&'a [CidrRule]),
    Groups,
    Nodes(&'a [LabelSelector]),
    Services(&'a [Service]),
    Fqdns(&'a [Fqdn]),
}

/// An item of `toPorts`.
#[derive(Debug, Clone, Copy)]
pub(super) struct PortItem<'a> {
    pub(super) ports: &'a [PortProtocol],
    /// The item, if it is an allow rule's.
    pub(super) allow: Option<&'a PortRule>,
}

/// The items of a list.
pub(super) fn of<'a, T>(list: &'a Option<Vec<T>>) -> Vec<Item<'a>>
where
    Item<'a>: From<&'a T>,
{
    slice(list).iter().map(Item::from).collect()
}

fn slice<T>(list: &Option<Vec<T>>) -> &[T] {
    list.as_deref().unwrap_or_default()
}

fn given<'a, T>(
    name: &'static str,
    list: &'a Option<Vec<T>>,
    kind: impl Fn(&'a [T]) -> Peers<'a>,
) -> Option<(&'static str, Peers<'a>)> {
    Some((name, kind(list.as_deref()?)))
}

fn allow(list: &Option<Vec<PortRule>>) -> Vec<PortItem<'_>> {
    let items = slice(list).iter().map(|rule| PortItem {
        ports: slice(&rule.ports),
        allow: Some(rule),
    });
    items.collect()
}

fn deny(list: &Option<Vec<PortDenyRule>>) -> Vec<PortItem<'_>> {
    let items = slice(list).iter().map(|rule| PortItem {
        ports: slice(&rule.ports),
        allow: None,
    });
    items.collect()
}

impl<'a> From<&'a IngressRule> for Item<'a> {
    fn from(rule: &'a IngressRule) -> Self {
        let IngressRule {
            from_endpoints,
            from_entities,
            from_cidr,
            from_cidr_set,
            from_groups,
            from_nodes,
            from_requires,
            to_ports,
            icmps,
            authentication,
        } = rule;
        let peers = [
            given("fromEndpoints", from_endpoints, Peers::Endpoints),
            given("fromEntities", from_entities, Peers::Entities),
            given("fromCIDR", from_cidr, Peers::Cidr),
            given("fromCIDRSet", from_cidr_set, Peers::CidrSet),
            given("fromGroups", from_groups, |_| Peers::Groups),
            given("fromNodes", from_nodes, Peers::Nodes),
        ];
        Self {
            peers: peers.into_iter().flatten().collect(),
            requires: ("fromRequires", slice(from_requires)),
            ports: allow(to_ports),
            icmps: slice(icmps),
            authentication: authentication.is_some(),
        }
    }
}

impl<'a> From<&'a IngressDenyRule> for Item<'a> {
    fn from(rule: &'a IngressDenyRule) -> Self {
        let IngressDenyRule {
            from_endpoints,
            from_entities,
            from_cidr,
            from_cidr_set,
            from_groups,
            from_nodes,
            from_requires,
            to_ports,
            icmps,
        } = rule;
        let peers = [
            given("fromEndpoints", from_endpoints, Peers::Endpoints),
            given("fromEntities", from_entities, Peers::Entities),
            given("fromCIDR", from_cidr, Peers::Cidr),
            given("fromCIDRSet", from_cidr_set, Peers::CidrSet),
            given("fromGroups", from_groups, |_| Peers::Groups),
            given("fromNodes", from_nodes, Peers::Nodes),
        ];
        Self {
            peers: peers.into_iter().flatten().collect(),
            requires: ("fromRequires", slice(from_requires)),
            ports: deny(to_ports),
            icmps: slice(icmps),
            authentication: false,
        }
    }
}

impl<'a> From<&'a EgressRule> for Item<'a> {
    fn from(rule: &'a EgressRule) -> Self {
        let EgressRule {
            to_endpoints,
            to_entities,
            to_cidr,
            to_cidr_set,
            to_groups,
            to_nodes,
            to_services,
            to_fqdns,
            to_requires,
            to_ports,
            icmps,
            authentication,
        } = rule;
        let peers = [
            given("toEndpoints", to_endpoints, Peers::Endpoints),
            given("toEntities", to_entities, Peers::Entities),
            given("toCIDR", to_cidr, Peers::Cidr),
            given("toCIDRSet", to_cidr_set, Peers::CidrSet),
            given("toGroups", to_groups, |_| Peers::Groups),
            given("toNodes", to_nodes, Peers::Nodes),
            given("toServices", to_services, Peers::Services),
            given("toFQDNs", to_fqdns, Peers::Fqdns),
        ];
        Self {
            peers: peers.into_iter().flatten().collect(),
            requires: ("toRequires", slice(to_requires)),
            ports: allow(to_ports),
            icmps: slice(icmps),
            authentication: authentication.is_some(),
        }
    }
}

impl<'a> From<&'a EgressDenyRule> for Item<'a> {
    fn from(rule: &'a EgressDenyRule) -> Self {
        let EgressDenyRule {
            to_endpoints,
            to_entities,
            to_cidr,
            to_cidr_set,
            to_groups,
            to_nodes,
            to_services,
            to_requires,
            to_ports,
            icmps,
        } = rule;
        let peers = [
            given("toEndpoints", to_endpoints, Peers::Endpoints),
            given("toEntities", to_entities, Peers::Entities),
            given("toCIDR", to_cidr, Peers::Cidr),
            given("toCIDRSet", to_cidr_set, Peers::CidrSet),
            given("toGroups", to_groups, |_| Peers::Groups),
            given("toNodes", to_nodes, Peers::Nodes),
            given("toServices", to_services, Peers::Services),
        ];
        Self {
            peers: peers.into_iter().flatten().collect(),
            requires: ("toRequires", slice(to_requires)),
            ports: deny(to_ports),
            icmps: slice(icmps),
            authentication: false,
        }
    }
}
