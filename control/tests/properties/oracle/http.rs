//! `rules.http[]` (3.1, 3.2).

use std::cell::RefCell;
use std::collections::HashMap;

use regex::Regex;
use serde_json::Value;

use super::matching::list;

/// A request, as the server would be sent it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Http {
    pub method: String,
    /// Canonical target with its query.
    pub path: String,
    /// `Host` with its port, if sent.
    pub host: String,
    pub headers: Vec<(String, String)>,
}

thread_local! {
    static COMPILED: RefCell<HashMap<String, Regex>> = RefCell::default();
}

fn full_match(pattern: &str, text: &str) -> bool {
    COMPILED.with_borrow_mut(|compiled| {
        let regex = compiled
            .entry(pattern.to_owned())
            .or_insert_with(|| Regex::new(&format!("^(?:{pattern})$")).expect("pattern"));
        regex.is_match(text)
    })
}

/// A field of a rule; empty is not given.
fn text<'a>(rule: &'a Value, field: &str) -> Option<&'a str> {
    rule[field].as_str().filter(|text| !text.is_empty())
}

/// All values of a header joined with `,`.
fn header(request: &Http, name: &str) -> Option<String> {
    let found: Vec<&str> = request
        .headers
        .iter()
        .filter(|(key, _)| key.eq_ignore_ascii_case(name))
        .map(|(_, value)| value.as_str())
        .collect();
    (!found.is_empty()).then(|| found.join(","))
}

/// One string of `headers`.
fn header_string(request: &Http, text: &str) -> bool {
    match text.split_once(' ') {
        Some((name, value)) => header(request, name.trim_end_matches(':')).as_deref() == Some(value),
        None => header(request, text).is_some(),
    }
}

/// One entry of `headerMatches`, with mismatch FAIL or LOG.
fn header_match(request: &Http, entry: &Value) -> bool {
    if entry["mismatch"] == "LOG" {
        return true;
    }
    let found = header(request, entry["name"].as_str().expect("name"));
    match text(entry, "value") {
        Some(value) => found.as_deref() == Some(value),
        // The Secret is not there: never matches.
        None if entry["secret"].is_object() => false,
        None => found.is_some(),
    }
}

/// Whether one entry of the list matches.
pub fn allows(rules: &[Value], request: &Http) -> bool {
    rules.iter().any(|rule| {
        let matches = |field: &str, of: &str| text(rule, field).is_none_or(|p| full_match(p, of));
        matches("method", &request.method)
            && matches("path", &request.path)
            && matches("host", &request.host)
            && list(&rule["headers"])
                .iter()
                .all(|h| header_string(request, h.as_str().expect("header")))
            && list(&rule["headerMatches"])
                .iter()
                .all(|h| header_match(request, h))
    })
}
