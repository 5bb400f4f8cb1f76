//! A set that remembers how often each member was added.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

/// Members with the number of reasons they are in the set for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Counted<T>(BTreeMap<T, usize>);

impl<T> Default for Counted<T> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<T: Ord> Counted<T> {
    /// Adds a reason; returns whether `member` is new.
    pub fn add(&mut self, member: T) -> bool {
        let count = self.0.entry(member).or_default();
        *count += 1;
        *count == 1
    }

    /// Takes a reason away; returns whether `member` is gone.
    pub fn take(&mut self, member: T) -> bool {
        match self.0.entry(member) {
            Entry::Occupied(mut entry) if *entry.get() > 1 => {
                *entry.get_mut() -= 1;
                false
            }
            Entry::Occupied(entry) => {
                entry.remove();
                true
            }
            Entry::Vacant(_) => false,
        }
    }

    /// Whether there is any reason for `member`.
    #[must_use]
    pub fn contains<Q: Ord + ?Sized>(&self, member: &Q) -> bool
    where
        T: std::borrow::Borrow<Q>,
    {
        self.0.contains_key(member)
    }

    /// The members, rising.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.0.keys()
    }

    /// Number of members.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are no members.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_stays_as_long_as_there_is_a_reason() {
        let mut set = Counted::default();
        assert!(set.add(1) && !set.add(1));
        assert!(!set.take(1) && set.contains(&1));
        assert!(set.take(1) && !set.contains(&1));
        assert!(!set.take(1) && set.is_empty());
    }
}
