//! `toPorts`: ports, and what is allowed on them.

use std::sync::Arc;

use policy::{HttpRuleSet, Protocol};

use super::item::PortItem;
use super::{List, http, peer};
use crate::api::peer::Fqdn;
use crate::api::port::{L7Rules, Listener, PortProtocol, PortRule as Item};
use crate::field::{FaultKind, Place};
use crate::rule::{PortRef, PortRule};

const EVERY_PROTOCOL: &[Protocol] = &[Protocol::TCP, Protocol::UDP, Protocol::SCTP];

/// What `rules` asks of the ports beside it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum L7 {
    None,
    Http,
    Dns,
}

/// One item of `toPorts`; one without ports stands for nothing.
pub(super) fn rules(item: PortItem<'_>, list: List<'_>, place: &Place<'_>) -> Vec<PortRule> {
    let none = L7Rules::default();
    let l7_rules = item.allow.and_then(|allow| allow.rules.as_ref()).unwrap_or(&none);
    let filled = |kind: bool, l7| if kind { l7 } else { L7::None };
    let http = filled(
        l7_rules.http.as_ref().is_some_and(|http| !http.is_empty()),
        L7::Http,
    );
    let dns = filled(l7_rules.dns.as_ref().is_some_and(|dns| !dns.is_empty()), L7::Dns);
    let l7 = if http == L7::None { dns } else { http };
    let requests = seventh_layer(l7_rules, item.ports, list, &place.field("rules"));
    if let Some(allow) = item.allow {
        proxy(allow, l7, list, place);
    }
    let mut rules = Vec::new();
    for (i, entry) in item.ports.iter().enumerate() {
        let Some((protocols, ports)) = port(entry, l7, &place.field("ports").item(i)) else {
            continue;
        };
        rules.extend(protocols.iter().map(|protocol| PortRule {
            protocol: *protocol,
            ports: ports.clone(),
            http: requests.clone(),
        }));
    }
    rules
}

/// The HTTP rules; what the other protocols' say is checked.
fn seventh_layer(
    rules: &L7Rules,
    ports: &[PortProtocol],
    list: List<'_>,
    place: &Place<'_>,
) -> Option<Arc<HttpRuleSet>> {
    let L7Rules {
        http,
        dns,
        kafka,
        l7proto,
        l7,
    } = rules;
    for (name, given) in [
        ("kafka", kafka.is_some()),
        ("l7proto", l7proto.is_some()),
        ("l7", l7.is_some()),
    ] {
        if given {
            place
                .field(name)
                .fault(FaultKind::Unsupported("removed in Cilium 1.20"));
        }
    }
    if let Some(dns) = dns {
        let place = place.field("dns");
        if http.is_some() {
            place.fault(FaultKind::Conflict("http"));
        }
        if !dns.is_empty() {
            names(dns, ports, list, &place);
        }
    }
    let http = http.as_deref()?;
    let place = place.field("http");
    if list.host && !http.is_empty() {
        place.fault(FaultKind::Conflict("nodeSelector"));
    }
    http::rules(http, &place)
}

/// Checks `rules.dns`. Rules that cover every name restrict nothing: the ports are allowed as they are.
fn names(dns: &[Fqdn], ports: &[PortProtocol], list: List<'_>, place: &Place<'_>) {
    if !list.egress {
        place.fault(FaultKind::Rule("is only for egress"));
    }
    if ports.is_empty() {
        place.fault(FaultKind::Rule("needs ports"));
    }
    let names = dns.iter().enumerate();
    let names: Vec<_> = names
        .flat_map(|(i, fqdn)| peer::fqdn_selectors(fqdn, &place.item(i)))
        .collect();
    if !names.is_empty() && !names.iter().any(crate::fqdn::FqdnSelector::covers_all) {
        place.fault(FaultKind::Unsupported(
            "limits on the names that may be asked for",
        ));
    }
}

/// Checks what only a proxy enforces.
fn proxy(item: &Item, l7: L7, list: List<'_>, place: &Place<'_>) {
    let Item {
        ports: _,
        rules: _,
        server_names,
        listener,
        terminating_tls,
        originating_tls,
    } = item;
    if let Some(names) = server_names {
        let place = place.field("serverNames");
        if l7 != L7::None && terminating_tls.is_none() {
            place.fault(FaultKind::Conflict("rules without terminatingTLS"));
        }
        for (i, name) in names.iter().enumerate() {
            if !is_server_name(&name.0) {
                place.item(i).invalid(&name.0, "a server name");
            }
        }
        place.fault(FaultKind::Unsupported("limits on TLS server names"));
    }
    if let Some(listener) = listener {
        check_listener(listener, l7, list, &place.field("listener"));
    }
    for (name, given) in [
        ("terminatingTLS", terminating_tls.is_some()),
        ("originatingTLS", originating_tls.is_some()),
    ] {
        if given {
            place
                .field(name)
                .fault(FaultKind::Unsupported("interception of TLS"));
        }
    }
}

/// Whether `text` is what `serverNames` take: non-empty labels of letters, digits, `-`, `_` and `*`, and a dot at the end, if any.
fn is_server_name(text: &str) -> bool {
    let label = |label: &str| {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'*');
        !label.is_empty() && label.bytes().all(allowed)
    };
    text.strip_suffix('.').unwrap_or(text).split('.').all(label)
}

fn check_listener(listener: &Listener, l7: L7, list: List<'_>, place: &Place<'_>) {
    if !list.egress {
        place.fault(FaultKind::Rule("is only for egress"));
    }
    if l7 != L7::None {
        place.fault(FaultKind::Conflict("rules"));
    }
    if list.scope.namespace.is_none() && listener.envoy_config.kind.as_deref() == Some("CiliumEnvoyConfig") {
        let place = place.field("envoyConfig").field("kind");
        place.fault(FaultKind::Rule(
            "must be CiliumClusterwideEnvoyConfig in a CiliumClusterwideNetworkPolicy",
        ));
    }
    place.fault(FaultKind::Unsupported("listeners of Envoy"));
}

fn port(entry: &PortProtocol, l7: L7, place: &Place<'_>) -> Option<(&'static [Protocol], PortRef)> {
    let PortProtocol {
        port,
        end_port,
        protocol,
    } = entry;
    let protocols = protocols(protocol.as_deref().unwrap_or_default(), &place.field("protocol"))?;
    if l7 == L7::Http && protocols != [Protocol::TCP] {
        place.fault(FaultKind::Rule("protocol must be TCP with rules.http"));
    }
    if l7 == L7::Dns && protocols == [Protocol::SCTP] {
        place.fault(FaultKind::Rule("protocol must be TCP, UDP or ANY with rules.dns"));
    }
    let (at, end_at) = (place.field("port"), place.field("endPort"));
    let Some(text) = port.as_deref() else {
        at.fault(FaultKind::Missing);
        return None;
    };
    let end = end_port.and_then(|end| u16::try_from(end).ok());
    if is_port_name(text) {
        if end.is_some() {
            end_at.fault(FaultKind::Conflict("a named port"));
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
        at.invalid(text, "a port number (0 to 65535) or a port name");
        return None;
    };
    if l7 == L7::Dns && end.is_some_and(|last| last > first) {
        end_at.fault(FaultKind::Conflict("rules.dns"));
    }
    if first == 0 {
        match l7 {
            L7::None => {}
            L7::Http => at.fault(FaultKind::Conflict("rules.http when it is 0")),
            L7::Dns => at.fault(FaultKind::Conflict("rules.dns when it is 0")),
        }
        if end.is_some_and(|last| last != 0) {
            end_at.fault(FaultKind::Conflict("port 0"));
        }
        return Some((protocols, PortRef::EVERY));
    }
    // A last port at or before the first is ignored, as Cilium does.
    Some((protocols, PortRef::Range(first..=end.unwrap_or(first).max(first))))
}

fn protocols(text: &str, place: &Place<'_>) -> Option<&'static [Protocol]> {
    match text.to_ascii_uppercase().as_str() {
        "TCP" => Some(&[Protocol::TCP]),
        "UDP" => Some(&[Protocol::UDP]),
        "SCTP" => Some(&[Protocol::SCTP]),
        "ANY" | "" => Some(EVERY_PROTOCOL),
        "VRRP" | "IGMP" | "GRE" | "IPIP" | "IPV6" | "ESP" | "AH" => {
            place.fault(FaultKind::Unsupported(
                "protocols without ports (enable-extended-ip-protocols)",
            ));
            None
        }
        _ => {
            place.invalid(text, "one of TCP, UDP, SCTP, ANY");
            None
        }
    }
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
