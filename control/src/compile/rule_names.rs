//! Numbers of rules, stable from snapshot to snapshot.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use policy::{RuleId, RuleInfo};

/// Rule names that are kept beyond twice the number in use, so that events of an older revision are still described rightly.
const SPARE_RULES: usize = 1024;

/// Rule names and their numbers. A name keeps its number from one snapshot to the next, so that adding a policy leaves the tables
/// of the others as they are.
#[derive(Debug, Default)]
pub(crate) struct RuleNames {
    rules: Vec<RuleInfo>,
    ids: HashMap<Arc<str>, RuleId>,
    free: Vec<RuleId>,
    /// Numbers given out since [`Self::take_used`].
    used: BTreeSet<RuleId>,
}

fn number(position: usize) -> RuleId {
    RuleId(u32::try_from(position).unwrap_or(u32::MAX))
}

impl RuleNames {
    pub(crate) fn new(previous: &[RuleInfo]) -> Self {
        let named = previous
            .iter()
            .enumerate()
            .filter(|(_, rule)| !rule.name.is_empty());
        let ids = named
            .map(|(i, rule)| (Arc::clone(&rule.name), number(i)))
            .collect();
        let free = previous
            .iter()
            .enumerate()
            .rev()
            .filter(|(_, rule)| rule.name.is_empty());
        Self {
            ids,
            free: free.map(|(i, _)| number(i)).collect(),
            rules: previous.to_vec(),
            used: BTreeSet::new(),
        }
    }

    /// The number of a rule; `log` is what it says from now on.
    pub(crate) fn id(&mut self, name: &str, log: Option<&Arc<str>>) -> RuleId {
        let id = match self.ids.get(name) {
            Some(id) => *id,
            None => {
                let id = self.free.pop().unwrap_or_else(|| {
                    self.rules.push(RuleInfo::default());
                    number(self.rules.len() - 1)
                });
                let name: Arc<str> = name.into();
                if let Some(free) = self.rules.get_mut(id.0 as usize) {
                    free.name = Arc::clone(&name);
                }
                self.ids.insert(name, id);
                id
            }
        };
        if let Some(rule) = self.rules.get_mut(id.0 as usize)
            && rule.log.as_ref() != log
        {
            rule.log = log.cloned();
        }
        self.used.insert(id);
        id
    }

    /// Numbers given out since the last call.
    pub(crate) fn take_used(&mut self) -> BTreeSet<RuleId> {
        std::mem::take(&mut self.used)
    }

    /// The rules by number.
    pub(crate) fn rules(&self) -> &[RuleInfo] {
        &self.rules
    }

    /// Whether so many numbers are given out that those not in use should be cleared.
    pub(crate) fn has_many_beside(&self, in_use: usize) -> bool {
        self.ids.len() > 2 * in_use + SPARE_RULES
    }

    /// Clears the numbers that are not in use.
    pub(crate) fn retain(&mut self, in_use: &BTreeSet<RuleId>) {
        for (i, rule) in self.rules.iter_mut().enumerate() {
            if !in_use.contains(&number(i)) {
                *rule = RuleInfo::default();
            }
        }
        while self.rules.last().is_some_and(|rule| rule.name.is_empty()) {
            self.rules.pop();
        }
        *self = Self::new(&self.rules);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rule_numbers_are_cleared_once_many_are_unused() {
        let mut names = RuleNames::default();
        for n in 0..SPARE_RULES + 10 {
            names.id(&n.to_string(), None);
        }
        assert!(!names.has_many_beside(10) && names.has_many_beside(4));
        names.take_used();
        assert_eq!(names.id("3", None), RuleId(3), "a name keeps its number");
        let in_use = names.take_used();
        names.retain(&in_use);
        let cleared: Vec<&str> = names.rules().iter().map(|rule| &*rule.name).collect();
        assert_eq!(cleared, ["", "", "", "3"]);
        assert_eq!(
            (names.id("new", None), names.id("3", None)),
            (RuleId(0), RuleId(3))
        );
    }

    #[test]
    fn a_rule_says_what_its_policy_says_last() {
        let mut names = RuleNames::default();
        let first: Arc<str> = "first".into();
        let id = names.id("cnp a/b ingress[0]", Some(&first));
        assert_eq!(names.rules()[id.0 as usize].log.as_deref(), Some("first"));
        names.id("cnp a/b ingress[0]", None);
        assert_eq!(names.rules()[id.0 as usize].log, None);
    }
}
