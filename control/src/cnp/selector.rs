//! LabelSelectors whose keys may carry a source.

use crate::api::selector::LabelSelector;
use crate::field::{FaultKind, Place};
use crate::labels::LabelSource;
use crate::selector::{Operator, Requirement, Selector, SourceMatch};

/// The selector, with each key read by `key`.
pub(crate) fn of(
    selector: &LabelSelector,
    place: &Place<'_>,
    key: impl Fn(&str) -> (SourceMatch, String),
) -> Selector {
    let mut requirements = Vec::new();
    let mut require = |text: &str, operator| {
        let (source, key) = key(text);
        requirements.push(Requirement {
            source,
            key,
            operator,
        });
    };
    for (key, value) in selector.match_labels.iter().flatten() {
        require(key, Operator::In(vec![value.0.clone()]));
    }
    for (i, expression) in selector.match_expressions.iter().flatten().enumerate() {
        let place = place.field("matchExpressions").item(i);
        let values = expression.values.clone().unwrap_or_default();
        if let Some(operator) = Operator::read(&expression.operator, values, &place) {
            require(&expression.key, operator);
        }
    }
    Selector::new(requirements)
}

/// The selector of endpoints: labels of prefixes, names and nodes are no labels that it can select by.
pub(super) fn endpoints(selector: &LabelSelector, place: &Place<'_>) -> Selector {
    let read = of(selector, place, label_key);
    let foreign = |source: &SourceMatch, _: &str| match source {
        SourceMatch::Any => false,
        SourceMatch::Named(name) => matches!(name.as_str(), "cidr" | "cidrgroup" | "fqdn" | "node"),
    };
    if read.any_key(foreign) {
        place.fault(FaultKind::Unsupported(
            "labels of source cidr, cidrgroup, fqdn or node; use the peers of that kind",
        ));
    }
    read
}

/// Splits `source:key`; without a source, any source matches.
pub(super) fn label_key(text: &str) -> (SourceMatch, String) {
    match text.split_once(':') {
        Some(("any", key)) => (SourceMatch::Any, key.to_owned()),
        Some((source, key)) if !source.is_empty() && source.bytes().all(|b| b.is_ascii_alphanumeric()) => {
            (SourceMatch::Named(source.to_owned()), key.to_owned())
        }
        _ => (SourceMatch::Any, text.to_owned()),
    }
}

/// Splits `source:key`; without a source, `source` it is.
pub(super) fn key_of(source: LabelSource) -> impl Fn(&str) -> (SourceMatch, String) {
    move |text| match label_key(text) {
        (SourceMatch::Any, key) => (SourceMatch::Named(source.name().to_owned()), key),
        named => named,
    }
}
