//! `toPorts` and `icmps`: ports, HTTP rules and ICMP types.

use std::sync::Arc;

use policy::{HttpRule, HttpRuleSet, Protocol};

use crate::field::{FaultKind, Field};
use crate::rule::{PortRef, PortRule, RuleAction};

/// Entries of one `toPorts[].ports` or `icmps[].fields` list (CRD `maxItems`).
const MOST_PORTS: usize = 40;

/// One item of `toPorts`; one without ports stands for nothing.
pub(super) fn to_ports(field: &Field<'_>, action: RuleAction) -> Option<Vec<PortRule>> {
    let known: &[&str] = match action {
        RuleAction::Allow => &["ports", "rules"],
        RuleAction::Deny | RuleAction::Pass => &["ports"],
    };
    let object = field.object(known)?;
    let items = match object.get("ports") {
        Some(ports) => {
            let items = ports.list()?;
            if items.len() > MOST_PORTS {
                ports.fault(FaultKind::TooMany {
                    found: items.len(),
                    most: MOST_PORTS,
                });
            }
            items
        }
        None => Vec::new(),
    };
    let http = match object.get("rules") {
        Some(rules) => match rules.object(&["http"])?.get("http") {
            Some(http) => http_rules(&http).flatten(),
            None => None,
        },
        None => None,
    };
    let mut rules = Vec::new();
    for item in &items {
        let Some((protocols, ports)) = port(item, http.is_some()) else {
            continue;
        };
        rules.extend(protocols.iter().map(|protocol| PortRule {
            protocol: *protocol,
            ports: ports.clone(),
            http: http.clone(),
        }));
    }
    Some(rules)
}

fn port(field: &Field<'_>, http: bool) -> Option<(Vec<Protocol>, PortRef)> {
    let object = field.object(&["port", "endPort", "protocol"])?;
    let protocols = match object.get("protocol") {
        Some(protocol) => {
            let text = protocol.string()?;
            match text.to_ascii_uppercase().as_str() {
                "TCP" => vec![Protocol::TCP],
                "UDP" => vec![Protocol::UDP],
                "SCTP" => vec![Protocol::SCTP],
                "ANY" | "" => vec![Protocol::TCP, Protocol::UDP, Protocol::SCTP],
                _ => {
                    let expected = "one of TCP, UDP, SCTP, ANY";
                    protocol.fault(FaultKind::Invalid {
                        value: text.to_owned(),
                        expected,
                    });
                    return None;
                }
            }
        }
        None => vec![Protocol::TCP, Protocol::UDP, Protocol::SCTP],
    };
    if http && protocols != [Protocol::TCP] {
        field.fault(FaultKind::Rule("protocol must be TCP with rules.http"));
    }
    let port = object.required("port")?;
    let text = port.string()?;
    let end = match object.get("endPort") {
        Some(end) => Some((end.u16()?, end)),
        None => None,
    };
    if is_port_name(text) {
        if let Some((_, end)) = end {
            end.fault(FaultKind::Conflict("a named port"));
        }
        return Some((protocols, PortRef::Named(text.to_ascii_lowercase())));
    }
    // Go's base detection: a leading zero means octal.
    let octal = text.len() > 1 && text.starts_with('0');
    let digits = text.bytes().all(|b| b.is_ascii_digit());
    let Some(first) = digits
        .then(|| u16::from_str_radix(text, if octal { 8 } else { 10 }).ok())
        .flatten()
    else {
        let expected = "a port number (0 to 65535) or a port name";
        port.fault(FaultKind::Invalid {
            value: text.to_owned(),
            expected,
        });
        return None;
    };
    if first == 0 {
        if http {
            port.fault(FaultKind::Conflict("rules.http when it is 0"));
        }
        if let Some((_, end)) = end.filter(|(last, _)| *last != 0) {
            end.fault(FaultKind::Conflict("port 0"));
        }
        return Some((protocols, PortRef::EVERY));
    }
    let last = end.map_or(first, |(last, _)| last.max(first));
    Some((protocols, PortRef::Range(first..=last)))
}

/// Whether `text` is an IANA service name (RFC 6335 section 5.1), which makes it a named port.
fn is_port_name(text: &str) -> bool {
    text.len() <= 15
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
        && text.bytes().any(|b| b.is_ascii_alphabetic())
        && !text.starts_with('-')
        && !text.ends_with('-')
        && !text.contains("--")
}

/// The rule set, or `None` if the list is empty and so restricts nothing.
fn http_rules(field: &Field<'_>) -> Option<Option<Arc<HttpRuleSet>>> {
    let items = field.list()?;
    let mut rules = Vec::with_capacity(items.len());
    for item in &items {
        let object = item.object(&["method", "path"])?;
        let text = |name: &str| match object.get(name) {
            // An empty pattern is Cilium's "not given".
            Some(field) => Some(Some(field.string()?.to_owned()).filter(|pattern| !pattern.is_empty())),
            None => Some(None),
        };
        rules.push(HttpRule {
            method: text("method")?,
            path: text("path")?,
            ..HttpRule::default()
        });
    }
    if rules.is_empty() {
        return Some(None);
    }
    match HttpRuleSet::new(rules) {
        Ok(set) => Some(Some(Arc::new(set))),
        Err(error) => {
            let at = items
                .get(error.index)
                .and_then(|item| item.entries()?.get(error.field));
            at.as_ref().unwrap_or(field).fault(FaultKind::Regex {
                message: error.source.to_string(),
            });
            None
        }
    }
}

/// One item of `icmps`: a rule per field.
pub(super) fn icmp_fields(field: &Field<'_>) -> Option<Vec<PortRule>> {
    let list = field.object(&["fields"])?.required("fields")?;
    let items = list.list()?;
    if items.len() > MOST_PORTS {
        list.fault(FaultKind::TooMany {
            found: items.len(),
            most: MOST_PORTS,
        });
    }
    let mut rules = Vec::new();
    for item in &items {
        let object = item.object(&["family", "type"])?;
        let family = match object.get("family") {
            Some(family) => {
                let text = family.string()?;
                if !matches!(text, "IPv4" | "IPv6") {
                    family.fault(FaultKind::Invalid {
                        value: text.to_owned(),
                        expected: "IPv4 or IPv6",
                    });
                    return None;
                }
                text
            }
            None => "IPv4",
        };
        let (protocol, names) = if family == "IPv4" {
            (Protocol::ICMP, ICMPV4_TYPES)
        } else {
            (Protocol::ICMPV6, ICMPV6_TYPES)
        };
        let number = icmp_type(&object.required("type")?, names)?;
        rules.push(PortRule {
            protocol,
            ports: PortRef::Range(number..=number),
            http: None,
        });
    }
    Some(rules)
}

fn icmp_type(field: &Field<'_>, names: &[(&str, u16)]) -> Option<u16> {
    let text = field.text_or_integer()?;
    let named = names
        .iter()
        .find(|(name, _)| *name == text)
        .map(|(_, number)| *number);
    let number = named.or_else(|| text.parse::<u8>().ok().map(u16::from));
    if number.is_none() {
        field.fault(FaultKind::Invalid {
            value: text,
            expected: "an ICMP type (number or name)",
        });
    }
    number
}

/// IANA ICMP types by Cilium's names.
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

/// IANA ICMPv6 types by Cilium's names.
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
];
