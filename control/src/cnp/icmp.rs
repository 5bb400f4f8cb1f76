//! `icmps`: types of ICMP messages.

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use policy::Protocol;

use crate::api::icmp::{IcmpField, IcmpRule};
use crate::field::Place;
use crate::rule::{PortRef, PortRule};

/// One item of `icmps`: a rule per field; without fields it covers nothing.
pub(super) fn rules(rule: &IcmpRule, place: &Place<'_>) -> Vec<PortRule> {
    let fields = rule.fields.iter().flatten().enumerate();
    let rules = fields.filter_map(|(i, field)| {
        let (protocol, names) = match field.family.as_deref() {
            Some("IPv6") => (Protocol::ICMPV6, ICMPV6_TYPES),
            _ => (Protocol::ICMP, ICMPV4_TYPES),
        };
        let number = number(field, names, &place.field("fields").item(i).field("type"))?;
        Some(PortRule {
            protocol,
            ports: PortRef::Range(number..=number),
            http: None,
        })
    });
    rules.collect()
}

fn number(field: &IcmpField, names: &[(&str, u16)], place: &Place<'_>) -> Option<u16> {
    let text = match &field.kind {
        IntOrString::Int(number) => number.to_string(),
        IntOrString::String(text) => text.clone(),
    };
    let named = names
        .iter()
        .find(|(name, _)| *name == text)
        .map(|(_, number)| *number);
    let digits = text.bytes().all(|b| b.is_ascii_digit());
    let number = named.or_else(|| text.parse::<u8>().ok().filter(|_| digits).map(u16::from));
    if number.is_none() {
        place.invalid(text, "an ICMP type (number or name)");
    }
    number
}

/// IANA ICMP types by Cilium's names (`pkg/policy/api/icmp.go`).
const ICMPV4_TYPES: &[(&str, u16)] = &[
    ("EchoReply", 0),
    ("DestinationUnreachable", 3),
    ("Redirect", 5),
    ("Echo", 8),
    ("EchoRequest", 8),
    ("RouterAdvertisement", 9),
    ("RouterSelection", 10),
    ("TimeExceeded", 11),
    ("ParameterProblem", 12),
    ("Timestamp", 13),
    ("TimestampReply", 14),
    ("Photuris", 40),
    ("ExtendedEchoRequest", 42),
    ("ExtendedEchoReply", 43),
];

/// IANA ICMPv6 types by Cilium's names (`pkg/policy/api/icmp.go`).
const ICMPV6_TYPES: &[(&str, u16)] = &[
    ("DestinationUnreachable", 1),
    ("PacketTooBig", 2),
    ("TimeExceeded", 3),
    ("ParameterProblem", 4),
    ("EchoRequest", 128),
    ("EchoReply", 129),
    ("MulticastListenerQuery", 130),
    ("MulticastListenerReport", 131),
    ("MulticastListenerDone", 132),
    ("RouterSolicitation", 133),
    ("RouterAdvertisement", 134),
    ("NeighborSolicitation", 135),
    ("NeighborAdvertisement", 136),
    ("RedirectMessage", 137),
    ("RouterRenumbering", 138),
    ("ICMPNodeInformationQuery", 139),
    ("ICMPNodeInformationResponse", 140),
    ("InverseNeighborDiscoverySolicitation", 141),
    ("InverseNeighborDiscoveryAdvertisement", 142),
    ("HomeAgentAddressDiscoveryRequest", 144),
    ("HomeAgentAddressDiscoveryReply", 145),
    ("MobilePrefixSolicitation", 146),
    ("MobilePrefixAdvertisement", 147),
    ("DuplicateAddressRequestCodeSuffix", 157),
    ("DuplicateAddressConfirmationCodeSuffix", 158),
    ("ExtendedEchoRequest", 160),
    ("ExtendedEchoReply", 161),
];
