//! Numbers of rules, stable from snapshot to snapshot.

use std::collections::{BTreeSet, HashMap};

use policy::RuleId;

/// Rule names that are kept beyond twice the number in use, so that events of an older revision are still described rightly.
const SPARE_RULES: usize = 1024;

/// Rule names and their numbers. A name keeps its number from one snapshot to the next, so that adding a policy leaves the tables
/// of the others as they are.
#[derive(Debug)]
pub(crate) struct RuleNames {
    names: Vec<String>,
    ids: HashMap<String, RuleId>,
    used: BTreeSet<RuleId>,
    free: Vec<RuleId>,
}

impl RuleNames {
    pub(crate) fn new(previous: &[String]) -> Self {
        let number = |i: usize| RuleId(u32::try_from(i).unwrap_or(u32::MAX));
        let named = previous.iter().enumerate().filter(|(_, name)| !name.is_empty());
        let ids = named.map(|(i, name)| (name.clone(), number(i))).collect();
        let free = previous
            .iter()
            .enumerate()
            .rev()
            .filter(|(_, name)| name.is_empty());
        let free = free.map(|(i, _)| number(i)).collect();
        Self {
            names: previous.to_vec(),
            ids,
            used: BTreeSet::new(),
            free,
        }
    }

    pub(crate) fn id(&mut self, name: &str) -> RuleId {
        let id = match self.ids.get(name) {
            Some(id) => *id,
            None => {
                let id = self.free.pop().unwrap_or_else(|| {
                    self.names.push(String::new());
                    RuleId(u32::try_from(self.names.len() - 1).unwrap_or(u32::MAX))
                });
                if let Some(free) = self.names.get_mut(id.0 as usize) {
                    name.clone_into(free);
                }
                self.ids.insert(name.to_owned(), id);
                id
            }
        };
        self.used.insert(id);
        id
    }

    pub(crate) fn names(&self) -> &[String] {
        &self.names
    }

    /// The names by number; those not in use are cleared once there are many.
    pub(crate) fn into_names(mut self) -> Vec<String> {
        if self.names.len() > 2 * self.used.len() + SPARE_RULES {
            for (i, name) in self.names.iter_mut().enumerate() {
                if !self.used.contains(&RuleId(u32::try_from(i).unwrap_or(u32::MAX))) {
                    name.clear();
                }
            }
            while self.names.last().is_some_and(String::is_empty) {
                self.names.pop();
            }
        }
        self.names
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rule_numbers_are_cleared_once_many_are_unused() {
        let mut names = RuleNames::new(&[]);
        for n in 0..SPARE_RULES + 10 {
            names.id(&n.to_string());
        }
        let full = names.into_names();
        assert_eq!(full.len(), SPARE_RULES + 10);
        let mut names = RuleNames::new(&full);
        assert_eq!(names.id("3"), RuleId(3), "a name keeps its number");
        let cleared = names.into_names();
        assert_eq!(cleared, ["", "", "", "3"]);
        let mut names = RuleNames::new(&cleared);
        assert_eq!((names.id("new"), names.id("3")), (RuleId(0), RuleId(3)));
    }
}
