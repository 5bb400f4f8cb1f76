//! The text form of an [`Explanation`], whoever gave it.

use control::explain::{Difference, PartyDescription};
use control::{Explanation, SideExplanation, SideVerdict};
use policy::Identity;

fn party(party: &PartyDescription) -> String {
    let identity = Identity(party.identity);
    let who = match (&party.pod, &party.addr) {
        (Some(pod), _) => pod.to_string(),
        (None, Some(addr)) => addr.to_string(),
        (None, None) => identity.to_string(),
    };
    let labels = if party.labels.is_empty() {
        String::new()
    } else {
        format!(" [{}]", party.labels.join(", "))
    };
    format!("{who} (identity {identity}){labels}")
}

fn side(side: &SideExplanation, by_agent: bool, lines: &mut Vec<String>) {
    let direction = side.direction.name();
    let rules = side.rules.join(", ");
    let because = match (side.verdict, &side.drop_reason) {
        (SideVerdict::NotEnforced, _) if side.policies.is_empty() => {
            "no policy selects this direction".to_owned()
        }
        (SideVerdict::NotEnforced, _) => "no policy asks for default deny".to_owned(),
        (SideVerdict::HttpJudged, _) => format!("{rules}; every request must match an HTTP rule"),
        (SideVerdict::HttpDenied, Some(drop)) => {
            format!("{} ({}): no HTTP rule of {rules} allows it", drop.text, drop.code)
        }
        (SideVerdict::DefaultDeny, Some(drop)) => format!("{} ({}): no rule allows it", drop.text, drop.code),
        (_, Some(drop)) => format!("{} ({}): {rules}", drop.text, drop.code),
        (_, None) => rules,
    };
    let word = if side.verdict.is_allowed() {
        "allowed"
    } else {
        "denied"
    };
    let audit = if side.audit && !side.verdict.is_allowed() {
        " (audit mode: forwarded all the same)"
    } else {
        ""
    };
    let elsewhere = if by_agent && !side.local {
        " (not a pod of this node: its node decides)"
    } else {
        ""
    };
    lines.push(format!(
        "  {direction} of {}: {word}, {because}{audit}{elsewhere}",
        side.pod
    ));
    if !side.policies.is_empty() {
        lines.push(format!("    selected by {}", side.policies.join(", ")));
    }
    for miss in &side.near_misses {
        let whom = match miss.differs {
            Difference::Port => "this peer",
            Difference::Peer => "other peers",
        };
        lines.push(format!(
            "    near miss: {} allows {whom} {}",
            miss.rule, miss.allows
        ));
    }
}

/// Several lines, the last one the verdict. `by_agent`: whether an agent was asked, which decides for its own node's pods only.
#[must_use]
pub fn text(explanation: &Explanation, by_agent: bool) -> String {
    let service = explanation.service.as_ref();
    let via = service
        .map(|name| format!(" via service {name}"))
        .unwrap_or_default();
    let request = explanation.http.as_ref();
    let request = request
        .map(|http| format!(", {} {}", http.method, http.path))
        .unwrap_or_default();
    let mut lines = vec![
        format!("from {}", party(&explanation.source)),
        format!(
            "to   {}, port {}/{}{via}{request}",
            party(&explanation.destination),
            explanation.port,
            explanation.protocol
        ),
    ];
    for judged in [&explanation.egress, &explanation.ingress].into_iter().flatten() {
        side(judged, by_agent, &mut lines);
    }
    let audited = if explanation.is_audited() {
        ", forwarded in audit mode"
    } else {
        ""
    };
    lines.push(format!(
        "{}: {}{audited}",
        explanation.verdict.name(),
        explanation.reason.name()
    ));
    lines.join("\n")
}
