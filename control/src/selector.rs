//! Selectors over identity labels.

use crate::field::{FaultKind, Place};
use crate::labels::{LabelSource, Labels, NAMESPACE, upstream_source};

/// Which source a requirement's label must have.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum SourceMatch {
    /// Whatever source Cilium knows.
    Any,
    /// This source; sources that sluice has no labels of never match.
    Named(String),
}

impl SourceMatch {
    /// Requires labels of Kubernetes objects.
    #[must_use]
    pub fn k8s() -> Self {
        Self::Named(LabelSource::K8s.name().to_owned())
    }

    fn matches(&self, source: LabelSource) -> bool {
        match self {
            Self::Any => source != LabelSource::Upstream,
            Self::Named(name) => name == source.name(),
        }
    }
}

/// What a requirement asks of its label.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Operator {
    /// Present, with one of the values.
    In(Vec<String>),
    /// Absent, or with none of the values.
    NotIn(Vec<String>),
    /// Present.
    Exists,
    /// Absent.
    DoesNotExist,
}

impl Operator {
    /// Reads an entry of `matchExpressions`, which is at `place`; `None` if it is faulty.
    #[must_use]
    pub fn read(name: &str, values: Vec<String>, place: &Place<'_>) -> Option<Self> {
        match (name, values.is_empty()) {
            ("In", false) => return Some(Self::In(values)),
            ("NotIn", false) => return Some(Self::NotIn(values)),
            ("Exists", true) => return Some(Self::Exists),
            ("DoesNotExist", true) => return Some(Self::DoesNotExist),
            ("In" | "NotIn", true) => place.fault(FaultKind::Rule(
                "values must not be empty with operator In or NotIn",
            )),
            ("Exists" | "DoesNotExist", false) => place.fault(FaultKind::Rule(
                "values must be empty with operator Exists or DoesNotExist",
            )),
            _ => place
                .field("operator")
                .invalid(name, "one of In, NotIn, Exists, DoesNotExist"),
        }
        None
    }
}

/// One condition on a label.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Requirement {
    /// The label's source.
    pub source: SourceMatch,
    /// The label's key.
    pub key: String,
    /// The condition.
    pub operator: Operator,
}

impl Requirement {
    fn matches(&self, labels: &Labels) -> bool {
        let mut values = labels
            .of_key(&self.key)
            .filter(|(source, _)| self.source.matches(*source))
            .map(|(_, value)| value);
        let mut among = |wanted: &[String]| values.any(|value| wanted.iter().any(|v| v == value));
        match &self.operator {
            Operator::In(wanted) => among(wanted),
            Operator::NotIn(wanted) => !among(wanted),
            Operator::Exists => values.next().is_some(),
            Operator::DoesNotExist => values.next().is_none(),
        }
    }
}

/// All requirements must hold; an empty selector matches every label set.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Selector {
    requirements: Vec<Requirement>,
}

impl Selector {
    /// A selector of these requirements.
    #[must_use]
    pub fn new(mut requirements: Vec<Requirement>) -> Self {
        requirements.sort_unstable();
        requirements.dedup();
        Self { requirements }
    }

    /// Selects labels that have `source:key`.
    #[must_use]
    pub fn exists(source: LabelSource, key: &str) -> Self {
        Self::new(vec![Requirement {
            source: SourceMatch::Named(source.name().to_owned()),
            key: key.to_owned(),
            operator: Operator::Exists,
        }])
    }

    /// Adds `k8s:key=value`.
    pub fn require(&mut self, key: &str, value: &str) {
        self.push(key, Operator::In(vec![value.to_owned()]));
    }

    /// Adds a requirement on a label of source `k8s`.
    pub fn push(&mut self, key: &str, operator: Operator) {
        self.requirements.push(Requirement {
            source: SourceMatch::k8s(),
            key: key.to_owned(),
            operator,
        });
        self.requirements.sort_unstable();
        self.requirements.dedup();
    }

    /// Adds a requirement on a pod's label as upstream Kubernetes means it: no label is filtered.
    pub fn push_upstream(&mut self, key: &str, operator: Operator) {
        self.requirements.push(Requirement {
            source: SourceMatch::Named(upstream_source(key).name().to_owned()),
            key: key.to_owned(),
            operator,
        });
        self.requirements.sort_unstable();
        self.requirements.dedup();
    }

    /// Drops every requirement on `key`, whatever its source; returns whether there was one.
    pub fn remove_key(&mut self, key: &str) -> bool {
        let before = self.requirements.len();
        self.requirements.retain(|r| r.key != key);
        before != self.requirements.len()
    }

    /// The requirements.
    #[must_use]
    pub fn requirements(&self) -> &[Requirement] {
        &self.requirements
    }

    /// Namespaces that the selector is limited to, if it is.
    #[must_use]
    pub fn namespaces(&self) -> Option<&[String]> {
        self.requirements.iter().find_map(|r| match &r.operator {
            Operator::In(values) if r.key == NAMESPACE => Some(values.as_slice()),
            _ => None,
        })
    }

    /// Whether some requirement's key satisfies `predicate`.
    pub fn any_key(&self, predicate: impl Fn(&SourceMatch, &str) -> bool) -> bool {
        self.requirements.iter().any(|r| predicate(&r.source, &r.key))
    }

    /// Whether `labels` satisfy every requirement.
    #[must_use]
    pub fn matches(&self, labels: &Labels) -> bool {
        self.requirements.iter().all(|r| r.matches(labels))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels() -> Labels {
        let mut labels = Labels::default();
        labels.insert(LabelSource::K8s, "app".into(), "flask".into());
        labels
    }

    fn matches(operator: Operator, source: SourceMatch, key: &str) -> bool {
        Selector::new(vec![Requirement {
            source,
            key: key.into(),
            operator,
        }])
        .matches(&labels())
    }

    #[test]
    fn operators_hold_as_kubernetes_defines_them() {
        let values = |list: &[&str]| list.iter().map(|v| (*v).to_owned()).collect::<Vec<_>>();
        for (operator, key, expected) in [
            (Operator::In(values(&["x", "flask"])), "app", true),
            (Operator::In(values(&["x"])), "app", false),
            (Operator::In(values(&["flask"])), "tier", false),
            (Operator::NotIn(values(&["flask"])), "app", false),
            (Operator::NotIn(values(&["x"])), "app", true),
            (Operator::NotIn(values(&["x"])), "tier", true),
            (Operator::Exists, "app", true),
            (Operator::Exists, "tier", false),
            (Operator::DoesNotExist, "app", false),
            (Operator::DoesNotExist, "tier", true),
        ] {
            assert_eq!(
                matches(operator.clone(), SourceMatch::Any, key),
                expected,
                "{operator:?} {key}"
            );
        }
    }

    #[test]
    fn a_label_of_another_source_does_not_count() {
        assert!(!matches(
            Operator::Exists,
            SourceMatch::Named("reserved".into()),
            "app"
        ));
        assert!(matches(Operator::Exists, SourceMatch::k8s(), "app"));
    }

    #[test]
    fn the_empty_selector_matches_everything() {
        assert!(Selector::default().matches(&labels()) && Selector::default().matches(&Labels::default()));
    }
}
