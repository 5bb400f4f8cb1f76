//! `rules.http`: which requests are allowed.

use std::sync::Arc;

use policy::{HeaderMatch, HeaderValue, HttpRule, HttpRuleSet, Mismatch};

use crate::api;
use crate::field::{FaultKind, Place};

/// The rule set, or `None` if the list is empty and so restricts nothing.
pub(super) fn rules(list: &[api::http::HttpRule], place: &Place<'_>) -> Option<Arc<HttpRuleSet>> {
    let rules = list.iter().enumerate();
    let rules: Vec<HttpRule> = rules.map(|(i, rule)| http_rule(rule, &place.item(i))).collect();
    if rules.is_empty() {
        return None;
    }
    match HttpRuleSet::new(rules.clone()) {
        Ok(set) => Some(Arc::new(set)),
        Err(error) => {
            // One at a time, so that each pattern that does not compile is reported.
            let mut reported = false;
            for (i, rule) in rules.into_iter().enumerate() {
                let alone = [
                    HttpRule {
                        method: rule.method,
                        ..HttpRule::default()
                    },
                    HttpRule {
                        path: rule.path,
                        ..HttpRule::default()
                    },
                    HttpRule {
                        host: rule.host,
                        ..HttpRule::default()
                    },
                ];
                for error in alone
                    .into_iter()
                    .filter_map(|rule| HttpRuleSet::new(vec![rule]).err())
                {
                    reported = true;
                    place.item(i).field(error.field).fault(FaultKind::Regex {
                        message: error.source.to_string(),
                    });
                }
            }
            if !reported {
                place.fault(FaultKind::Regex {
                    message: error.source.to_string(),
                });
            }
            None
        }
    }
}

/// One rule as the L7 gate judges by it.
fn http_rule(rule: &api::http::HttpRule, place: &Place<'_>) -> HttpRule {
    let api::http::HttpRule {
        path,
        method,
        host,
        headers,
        header_matches,
    } = rule;
    // An empty pattern is Cilium's "not given".
    let given = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    let mut matches: Vec<HeaderMatch> = headers
        .iter()
        .flatten()
        .map(|text| HeaderMatch::parse(text))
        .collect();
    for (i, header) in header_matches.iter().flatten().enumerate() {
        matches.extend(header_match(header, &place.field("headerMatches").item(i)));
    }
    HttpRule {
        method: given(method),
        path: given(path),
        host: given(host),
        headers: matches,
    }
}

/// One item of `headerMatches`; `None` and a fault if it asks for what the gate does not do.
fn header_match(header: &api::http::HeaderMatch, place: &Place<'_>) -> Option<HeaderMatch> {
    let api::http::HeaderMatch {
        mismatch,
        name,
        secret,
        value,
    } = header;
    let mismatch = match mismatch.as_deref() {
        None => Some(Mismatch::Fail),
        Some("LOG") => Some(Mismatch::Log),
        Some(_) => {
            place
                .field("mismatch")
                .fault(FaultKind::Unsupported("rewriting requests"));
            None
        }
    };
    if secret.is_some() {
        place
            .field("secret")
            .fault(FaultKind::Unsupported("values from Secrets"));
        return None;
    }
    let value = match value.as_deref() {
        None | Some("") => HeaderValue::Present,
        Some(value) => HeaderValue::Exactly(value.to_owned()),
    };
    Some(HeaderMatch {
        mismatch: mismatch?,
        ..HeaderMatch::new(name, value)
    })
}
