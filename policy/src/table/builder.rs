//! From rules to tables: where allow, deny and HTTP rules that cover the same packet are combined.
//!
//! Invariants: of [`Tier::Admin`] the first entry in the list that covers a packet decides, unless it passes the packet on. Then
//! [`Tier::Normal`] (Cilium's semantics): a deny of any width beats every allow; a plain allow that covers a peer and port lifts every
//! HTTP restriction of that peer and port; HTTP rule sets that cover the same peer and port are united; among entries of one kind the
//! first in the list gives the rule that is reported. Where nothing has decided and there is no default deny, the first entry of
//! [`Tier::Baseline`] does.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::sync::Arc;

use hashbrown::{HashMap, HashSet};

use super::{Cell, Decision, HttpIndex, PolicyTable, PortMap, RuleId};
use crate::http::HttpRuleError;
use crate::{HttpRule, HttpRuleSet, Identity, Protocol};

/// Most (port interval, peer) decisions of a table, which bounds its memory to some 8 MiB. Cilium's policy maps hold 16 384 by
/// default (`--bpf-policy-map-max`).
pub const MOST_DECISIONS: usize = 1 << 18;

/// Most peers that are combined, counted once per entry and port interval that it covers: bounds the time that making a table takes
/// to a second or two, during which no other change is enforced.
const MOST_COMBINED: usize = 1 << 23;

/// A table that cannot be made; the caller must then deny.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// A united rule set does not compile although its parts do (size limits).
    #[error("united HTTP rules do not compile")]
    Http(#[from] HttpRuleError),
    /// More than [`MOST_DECISIONS`], or too many rules that overlap.
    #[error("more than {MOST_DECISIONS} decisions, or too many rules with overlapping ports")]
    TooLarge,
}

/// Whom an [`Entry`] covers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Peers {
    /// Every identity.
    Any,
    /// These identities; an empty list covers nobody.
    Identities(Arc<[Identity]>),
}

/// When an [`Entry`] is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Tier {
    /// Before all others (ClusterNetworkPolicy, `spec.tier`).
    Admin,
    /// NetworkPolicy, CNP and CCNP, all at once.
    #[default]
    Normal,
    /// Where neither the tiers before nor a default deny has decided (ClusterNetworkPolicy, `spec.tier`).
    Baseline,
}

/// What an [`Entry`] does with what it covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Allow.
    Allow,
    /// Allow requests that match a rule set of the [`HttpSets`] the table is built with.
    AllowHttp(HttpIndex),
    /// Deny, whatever else of the tier allows it.
    Deny,
    /// Leave it to the next tier, whatever later entries of this one say; nothing in [`Tier::Normal`].
    Pass,
}

/// One rule on one port range, its selectors resolved to identities.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// When it is asked.
    pub tier: Tier,
    /// Whom it covers.
    pub peers: Peers,
    /// Which protocol; [`Protocol::ANY`] covers every protocol, ICMP included (peer-only rules).
    pub protocol: Protocol,
    /// Which ports (ICMP: types).
    pub ports: RangeInclusive<u16>,
    /// What it does.
    pub action: Action,
    /// The rule it comes from.
    pub rule: RuleId,
}

impl Entry {
    /// Whether the entry covers a flow.
    #[must_use]
    pub fn covers(&self, peer: Identity, protocol: Protocol, port: u16) -> bool {
        let peer = match &self.peers {
            Peers::Any => true,
            Peers::Identities(identities) => identities.contains(&peer),
        };
        peer && (self.protocol == Protocol::ANY || self.protocol == protocol) && self.ports.contains(&port)
    }
}

/// The HTTP rule sets of one endpoint, each content once; becomes [`super::EndpointPolicy::http`].
#[derive(Debug, Clone, Default)]
pub struct HttpSets {
    sets: Vec<Arc<HttpRuleSet>>,
    by_rules: HashMap<Vec<HttpRule>, HttpIndex>,
    /// Unions that were made already.
    united: HashMap<BTreeSet<HttpIndex>, HttpIndex>,
    /// Sets that may be used instead of compiling the same rules again.
    known: HashMap<Vec<HttpRule>, Arc<HttpRuleSet>>,
}

impl HttpSets {
    /// No sets yet; `known` ones are used instead of compiling their rules again.
    #[must_use]
    pub fn with_known(known: impl IntoIterator<Item = Arc<HttpRuleSet>>) -> Self {
        Self {
            known: known.into_iter().map(|set| (set.rules().to_vec(), set)).collect(),
            ..Self::default()
        }
    }

    /// Adds a set; one with the same rules keeps its index.
    pub fn insert(&mut self, set: Arc<HttpRuleSet>) -> HttpIndex {
        if let Some(index) = self.by_rules.get(set.rules()) {
            return *index;
        }
        let index = HttpIndex(u32::try_from(self.sets.len()).unwrap_or(u32::MAX));
        self.by_rules.insert(set.rules().to_vec(), index);
        self.sets.push(set);
        index
    }

    /// The set that allows what any of `indices` allows.
    fn united(&mut self, indices: &BTreeSet<HttpIndex>) -> Result<HttpIndex, HttpRuleError> {
        if let (Some(only), 1) = (indices.first(), indices.len()) {
            return Ok(*only);
        }
        if let Some(index) = self.united.get(indices) {
            return Ok(*index);
        }
        let sets = indices.iter().filter_map(|index| self.sets.get(index.0 as usize));
        let mut seen = HashSet::new();
        let rules: Vec<HttpRule> = sets
            .flat_map(|set| set.rules())
            .filter(|rule| seen.insert(*rule))
            .cloned()
            .collect();
        drop(seen);
        let index = self.unite(rules)?;
        self.united.insert(indices.clone(), index);
        Ok(index)
    }

    fn unite(&mut self, rules: Vec<HttpRule>) -> Result<HttpIndex, HttpRuleError> {
        if let Some(index) = self.by_rules.get(&rules) {
            return Ok(*index);
        }
        let set = match self.known.get(&rules) {
            Some(set) => Arc::clone(set),
            None => Arc::new(HttpRuleSet::new(rules)?),
        };
        Ok(self.insert(set))
    }

    /// The set behind an index.
    #[must_use]
    pub fn get(&self, index: HttpIndex) -> Option<&Arc<HttpRuleSet>> {
        self.sets.get(index.0 as usize)
    }

    /// The sets by [`HttpIndex`].
    #[must_use]
    pub fn into_sets(self) -> Vec<Arc<HttpRuleSet>> {
        self.sets
    }
}

/// What the entries of one kind of peer say; numbers are positions in the entry list.
#[derive(Debug, Clone, Default)]
struct Combined {
    admin: Option<usize>,
    deny: Option<usize>,
    allow: Option<usize>,
    http: Option<usize>,
    sets: BTreeSet<HttpIndex>,
    baseline: Option<usize>,
}

/// The smaller of two positions.
fn first(a: Option<usize>, b: Option<usize>) -> Option<usize> {
    a.into_iter().chain(b).min()
}

impl Combined {
    fn add(&mut self, position: usize, entry: &Entry) {
        let slot = match (entry.tier, entry.action) {
            (Tier::Admin, _) => &mut self.admin,
            (Tier::Baseline, _) => &mut self.baseline,
            (Tier::Normal, Action::Deny) => &mut self.deny,
            (Tier::Normal, Action::Allow) => &mut self.allow,
            (Tier::Normal, Action::AllowHttp(set)) => {
                self.sets.insert(set);
                &mut self.http
            }
            (Tier::Normal, Action::Pass) => return,
        };
        *slot = first(*slot, Some(position));
    }

    fn with(&self, other: &Self) -> Self {
        Self {
            admin: first(self.admin, other.admin),
            deny: first(self.deny, other.deny),
            allow: first(self.allow, other.allow),
            http: first(self.http, other.http),
            sets: self.sets.union(&other.sets).copied().collect(),
            baseline: first(self.baseline, other.baseline),
        }
    }

    fn decision(
        &self,
        default_deny: bool,
        entries: &[Entry],
        http: &mut HttpSets,
    ) -> Result<Decision, HttpRuleError> {
        // What a tier's first entry says on its own; `None` where it passes the packet on.
        let alone = |position: Option<usize>| {
            let entry = entries.get(position?)?;
            match entry.action {
                Action::Allow => Some(Decision::Allow(Some(entry.rule))),
                Action::AllowHttp(set) => Some(Decision::AllowHttp(set, entry.rule)),
                Action::Deny => Some(Decision::Deny(entry.rule)),
                Action::Pass => None,
            }
        };
        let rule = |position: Option<usize>| position.and_then(|p| entries.get(p)).map(|entry| entry.rule);
        Ok(if let Some(decided) = alone(self.admin) {
            decided
        } else if let Some(rule) = rule(self.deny) {
            Decision::Deny(rule)
        } else if let Some(rule) = rule(self.allow) {
            Decision::Allow(Some(rule))
        } else if default_deny {
            match rule(self.http) {
                Some(rule) => Decision::AllowHttp(http.united(&self.sets)?, rule),
                None => Decision::DefaultDeny,
            }
        } else {
            // An HTTP rule allows every request where nothing is denied by default: it is a plain allow of its peers.
            match rule(self.http) {
                Some(rule) => Decision::Allow(Some(rule)),
                None => alone(self.baseline).unwrap_or(Decision::Allow(None)),
            }
        })
    }
}

/// Decisions of a cell in a form that can be compared: for others, then by rising identity.
type CellContent = (Decision, Vec<(Identity, Decision)>);

/// Cells under construction, one per distinct content.
#[derive(Default)]
struct Cells {
    default_deny: bool,
    cells: Vec<Cell>,
    decisions: usize,
    combined: usize,
    by_entries: HashMap<Vec<usize>, u32>,
    by_content: HashMap<CellContent, u32>,
}

impl Cells {
    fn cell(
        &mut self,
        active: &BTreeSet<usize>,
        entries: &[Entry],
        http: &mut HttpSets,
    ) -> Result<u32, BuildError> {
        let active: Vec<usize> = active.iter().copied().collect();
        if let Some(cell) = self.by_entries.get(&active) {
            return Ok(*cell);
        }
        let peers = active.iter().filter_map(|p| match &entries.get(*p)?.peers {
            Peers::Any => Some(1),
            Peers::Identities(identities) => Some(1 + identities.len()),
        });
        self.combined += peers.sum::<usize>();
        if self.combined > MOST_COMBINED {
            return Err(BuildError::TooLarge);
        }
        let mut any = Combined::default();
        let mut named: HashMap<Identity, Combined> = HashMap::new();
        let mut order = Vec::new();
        for (position, entry) in active.iter().filter_map(|p| Some((*p, entries.get(*p)?))) {
            match &entry.peers {
                Peers::Any => any.add(position, entry),
                Peers::Identities(identities) => {
                    for identity in identities.iter() {
                        let combined = named.entry(*identity).or_insert_with(|| {
                            order.push(*identity);
                            Combined::default()
                        });
                        combined.add(position, entry);
                    }
                }
            }
        }
        let others = any.decision(self.default_deny, entries, http)?;
        let mut peers = Vec::new();
        // In order of appearance, so that equal entries number their united rule sets equally.
        for identity in order {
            let Some(combined) = named.get(&identity) else {
                continue;
            };
            let decision = combined.with(&any).decision(self.default_deny, entries, http)?;
            if decision != others {
                peers.push((identity, decision));
            }
        }
        peers.sort_unstable_by_key(|(identity, _)| *identity);
        let next = u32::try_from(self.cells.len()).unwrap_or(u32::MAX);
        let index = *self
            .by_content
            .entry((others, peers))
            .or_insert_with_key(|(others, peers)| {
                self.decisions += peers.len() + 1;
                self.cells.push(Cell {
                    others: *others,
                    peers: peers.iter().copied().collect(),
                });
                next
            });
        if self.decisions > MOST_DECISIONS {
            return Err(BuildError::TooLarge);
        }
        self.by_entries.insert(active, index);
        Ok(index)
    }

    fn ports(
        &mut self,
        covers: impl Fn(&Entry) -> bool,
        entries: &[Entry],
        http: &mut HttpSets,
    ) -> Result<PortMap, BuildError> {
        // (first port at which it changes, begins, position)
        let mut changes: Vec<(u32, bool, usize)> = Vec::new();
        for (position, entry) in entries.iter().enumerate() {
            if covers(entry) && !entry.ports.is_empty() {
                changes.push((u32::from(*entry.ports.start()), true, position));
                changes.push((u32::from(*entry.ports.end()) + 1, false, position));
            }
        }
        changes.sort_unstable();
        let mut map = PortMap::default();
        let mut active = BTreeSet::new();
        let mut changes = changes.into_iter().peekable();
        loop {
            let end = match changes.peek() {
                Some((0, ..)) => None,
                Some((at, ..)) => Some(u16::try_from(*at - 1).unwrap_or(u16::MAX)),
                None => Some(u16::MAX),
            };
            if let Some(end) = end.filter(|end| map.ends.last() != Some(end)) {
                let cell = self.cell(&active, entries, http)?;
                if map.cells.last() == Some(&cell) {
                    map.ends.pop();
                    map.cells.pop();
                }
                map.ends.push(end);
                map.cells.push(cell);
            }
            match changes.next() {
                Some((_, true, position)) => drop(active.insert(position)),
                Some((_, false, position)) => drop(active.remove(&position)),
                None => return Ok(map),
            }
        }
    }
}

impl PolicyTable {
    /// Combines `entries`; what none of them decides is denied with `default_deny`, else allowed.
    ///
    /// # Errors
    /// [`BuildError`].
    pub fn build(default_deny: bool, entries: &[Entry], http: &mut HttpSets) -> Result<Self, BuildError> {
        if !default_deny && entries.is_empty() {
            return Ok(Self::unenforced());
        }
        let mut cells = Cells {
            default_deny,
            ..Cells::default()
        };
        let named: BTreeSet<Protocol> = entries
            .iter()
            .map(|e| e.protocol)
            .filter(|p| *p != Protocol::ANY)
            .collect();
        let mut protocols = Vec::with_capacity(named.len());
        for protocol in named {
            let covers = |entry: &Entry| entry.protocol == protocol || entry.protocol == Protocol::ANY;
            protocols.push((protocol, cells.ports(covers, entries, http)?));
        }
        let other = cells.ports(|entry| entry.protocol == Protocol::ANY, entries, http)?;
        Ok(Self::from_parts(true, protocols, other, cells.cells))
    }
}
