//! The file of `sluice policy test`: what users expect of their policies.

use control::field::{FaultKind, Field, ObjectField};
use control::manifest::{self, LocatedFault};
use control::{Outcome, PartyName, Question, RequestText};
use policy::Protocol;

use crate::cli::parse_protocol;

/// One expectation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expectation {
    /// `name`.
    pub name: String,
    /// The flows, every pair of `from` and `to`.
    pub questions: Vec<Question>,
    /// `expect`.
    pub expect: Outcome,
    /// `rule`: part of the name of a rule that must have decided.
    pub rule: Option<String>,
}

/// Reads a file of expectations.
///
/// # Errors
/// Every fault with its line; what is not known is a fault.
pub fn read(text: &str) -> Result<Vec<Expectation>, Vec<LocatedFault>> {
    manifest::read_document(text, |field| {
        // All are read, so that all faults are found.
        let read: Vec<_> = field.list()?.iter().map(expectation).collect();
        read.into_iter().collect()
    })
}

const FIELDS: [&str; 8] = ["name", "from", "to", "port", "protocol", "http", "expect", "rule"];

fn expectation(field: &Field<'_>) -> Option<Expectation> {
    let object = field.object(&FIELDS)?;
    let name = object.required("name").and_then(|name| name.string());
    let (from, to) = (parties(&object, "from"), parties(&object, "to"));
    let port = object.required("port").and_then(|port| port.u16());
    let protocol = match object.get("protocol") {
        Some(field) => protocol(&field),
        None => Some(Protocol::TCP),
    };
    let http = match object.get("http") {
        Some(http) => request(&http).map(Some),
        None => Some(None),
    };
    let expect = object.required("expect").and_then(|expect| outcome(&expect));
    let rule = match object.get("rule") {
        Some(rule) => rule.string().map(|rule| Some(rule.to_owned())),
        None => Some(None),
    };
    let (from, to, port, protocol, http) = (from?, to?, port?, protocol?, http?);
    let questions = from.iter().flat_map(|from| to.iter().map(move |to| (from, to)));
    Some(Expectation {
        name: name?.to_owned(),
        questions: questions
            .map(|(from, to)| Question {
                from: from.clone(),
                to: to.clone(),
                port,
                protocol,
                http: http.clone(),
            })
            .collect(),
        expect: expect?,
        rule: rule?,
    })
}

fn invalid<T>(field: &Field<'_>, value: &str, expected: &'static str) -> Option<T> {
    field.fault(FaultKind::Invalid {
        value: value.to_owned(),
        expected,
    });
    None
}

fn parties(object: &ObjectField<'_>, name: &str) -> Option<Vec<PartyName>> {
    let field = object.required(name)?;
    let items = field.one_or_several();
    if items.is_empty() {
        field.fault(FaultKind::Rule("must name somebody"));
        return None;
    }
    let read: Vec<_> = items
        .iter()
        .map(|item| {
            let text = item.string()?;
            match text.parse() {
                Ok(party) => Some(party),
                Err(_) => invalid(item, text, "namespace/pod, an address, `host` or `world`"),
            }
        })
        .collect();
    read.into_iter().collect()
}

fn protocol(field: &Field<'_>) -> Option<Protocol> {
    let text = field.text_or_integer()?;
    match parse_protocol(&text) {
        Ok(protocol) => Some(protocol),
        Err(_) => invalid(field, &text, "one of TCP, UDP, SCTP, ICMP, ICMPv6, or a number"),
    }
}

fn outcome(field: &Field<'_>) -> Option<Outcome> {
    let text = field.string()?;
    let all = [Outcome::Allow, Outcome::Deny, Outcome::L7Deny];
    match all.into_iter().find(|outcome| outcome.name() == text) {
        Some(outcome) => Some(outcome),
        None => invalid(field, text, "one of allow, deny, l7-deny"),
    }
}

fn request(field: &Field<'_>) -> Option<RequestText> {
    let object = field.object(&["method", "path", "host", "headers"])?;
    let mut request = RequestText::default();
    for (name, place) in [
        ("method", &mut request.method),
        ("path", &mut request.path),
        ("host", &mut request.host),
    ] {
        if let Some(field) = object.get(name) {
            field.string()?.clone_into(place);
        }
    }
    if let Some(headers) = object.get("headers") {
        for (name, values) in headers.entries()?.iter() {
            for value in values.one_or_several() {
                request
                    .headers
                    .push((name.to_owned(), value.string()?.to_owned()));
            }
        }
    }
    Some(request)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_parties_mean_every_pair() {
        let text = "- name: first\n  from: [a/b, world]\n  to: [c/d, 10.0.0.1]\n  port: 53\n  protocol: udp\n  expect: deny\n  \
            rule: x\n  http: {path: /a, headers: {X-A: [b, c], X-D: e}}\n";
        let read = read(text).unwrap().remove(0);
        let pairs: Vec<_> = read
            .questions
            .iter()
            .map(|q| format!("{} {}", q.from, q.to))
            .collect();
        assert_eq!(pairs, ["a/b c/d", "a/b 10.0.0.1", "world c/d", "world 10.0.0.1"]);
        let first = &read.questions[0];
        assert_eq!((first.port, first.protocol), (53, Protocol::UDP));
        let http = first.http.as_ref().unwrap();
        assert_eq!((http.method.as_str(), http.path.as_str()), ("GET", "/a"));
        assert_eq!(http.headers.len(), 3);
        assert_eq!((read.expect, read.rule.as_deref()), (Outcome::Deny, Some("x")));
    }

    #[test]
    fn every_fault_is_found_with_its_line() {
        let text = "- name: first\n  from: nobody\n  to: []\n  port: 70000\n  expect: maybe\n  prot: UDP\n- name: second\n  from: world\n  \
            to: host\n  expect: deny\n";
        let faults = read(text).unwrap_err();
        let mut places: Vec<_> = faults.iter().map(|f| (f.line, f.field.as_str())).collect();
        places.sort_unstable();
        assert_eq!(
            places,
            [
                (2, "[0].from"),
                (3, "[0].to"),
                (4, "[0].port"),
                (5, "[0].expect"),
                (6, "[0].prot"),
                (7, "[1].port")
            ]
        );
    }
}
