//! All patterns of one field, compiled together: what a text matches is a set of rules.

use std::fmt;

use hashbrown::HashMap;
use regex_automata::Anchored;
use regex_automata::dfa::{Automaton, StartKind, dense};
use regex_automata::nfa::thompson::{self, WhichCaptures};
use regex_automata::util::start;
use regex_automata::{Input, MatchKind, meta};
use regex_syntax::hir::{Hir, HirKind, Look};

use super::dialect::parse;
use super::{HttpRuleError, PatternError};

/// Largest dense automaton, bytes.
const AUTOMATON_BYTES: usize = 512 << 10;

/// Memory that building one automaton may take, bytes; bounds the time as well.
const DETERMINIZE_BYTES: usize = 2 << 20;

/// Largest compiled form of one pattern, bytes.
const PATTERN_BYTES: usize = 1 << 20;

/// Attempts to build automata for one column; what is left then runs pattern by pattern.
const AUTOMATON_ATTEMPTS: usize = 32;

/// Most patterns of one column that run by themselves: each is a pass over the text.
pub(super) const MOST_SINGLE: usize = 16;

/// Rules that one pass over the columns judges, in words of 64.
pub(super) const PASS_WORDS: usize = 4;

/// Set of rule indices, 64 per word.
#[derive(Debug, Clone, Default)]
pub(super) struct RuleBits(Vec<u64>);

impl RuleBits {
    pub(super) fn insert(&mut self, rule: usize) {
        let word = rule / 64;
        if self.0.len() <= word {
            self.0.resize(word + 1, 0);
        }
        if let Some(bits) = self.0.get_mut(word) {
            *bits |= 1 << (rule % 64);
        }
    }

    /// Word number `at`: rules `64 * at` and the 63 after it.
    pub(super) fn word(&self, at: usize) -> u64 {
        self.0.get(at).copied().unwrap_or(0)
    }

    /// Adds the words from `first` on to `out`.
    fn add_to(&self, first: usize, out: &mut [u64; PASS_WORDS]) {
        for (out, bits) in out.iter_mut().zip(self.0.iter().skip(first)) {
            *out |= bits;
        }
    }
}

/// All patterns of one field.
#[derive(Debug)]
pub(super) struct Column {
    /// Rules that leave the field open.
    open: RuleBits,
    /// Rules whose pattern is plain text.
    literals: HashMap<String, RuleBits>,
    /// Rules by distinct pattern.
    patterns: Vec<RuleBits>,
    pub(super) automata: Vec<PatternMatcher>,
}

/// What a distinct pattern is before automata are built.
struct Pattern {
    /// Index in [`Column::patterns`].
    id: usize,
    /// First rule that uses it.
    rule: usize,
    /// Anchored at both ends.
    hir: Hir,
}

pub(super) enum PatternMatcher {
    /// Patterns with consecutive ids, from `first` on.
    Dense {
        dfa: Box<dense::DFA<Vec<u32>>>,
        first: usize,
    },
    /// One pattern that fits no dense automaton.
    Single { regex: meta::Regex, id: usize },
}

impl fmt::Debug for PatternMatcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dense { dfa, first } => {
                write!(
                    f,
                    "Dense({} patterns from {first}, {} bytes)",
                    dfa.pattern_len(),
                    dfa.memory_usage()
                )
            }
            Self::Single { id, .. } => write!(f, "Single({id})"),
        }
    }
}

impl Column {
    /// Compiles the sources of `field`, one per rule.
    pub(super) fn new<'a>(
        field: &'static str,
        sources: impl Iterator<Item = Option<&'a str>>,
    ) -> Result<Self, HttpRuleError> {
        let mut open = RuleBits::default();
        let mut literals: HashMap<String, RuleBits> = HashMap::new();
        let mut rules_of: Vec<RuleBits> = Vec::new();
        let mut ids: HashMap<&str, usize> = HashMap::new();
        let mut patterns: Vec<Pattern> = Vec::new();
        for (index, source) in sources.enumerate() {
            // `omitempty` in Cilium's types: an empty string is an absent field.
            let Some(source) = source.filter(|source| !source.is_empty()) else {
                open.insert(index);
                continue;
            };
            let hir = parse(source).map_err(|error| HttpRuleError {
                index,
                field,
                source: error.into(),
            })?;
            if let Some(literal) = literal(&hir) {
                literals.entry(literal).or_default().insert(index);
                continue;
            }
            let id = *ids.entry(source).or_insert_with(|| {
                let id = rules_of.len();
                let hir = Hir::concat(vec![Hir::look(Look::Start), hir, Hir::look(Look::End)]);
                patterns.push(Pattern { id, rule: index, hir });
                rules_of.push(RuleBits::default());
                id
            });
            if let Some(bits) = rules_of.get_mut(id) {
                bits.insert(index);
            }
        }
        let mut automata = Vec::new();
        let mut attempts = AUTOMATON_ATTEMPTS;
        build_matchers(&patterns, &mut attempts, &mut automata).map_err(|(index, source)| HttpRuleError {
            index,
            field,
            source,
        })?;
        Ok(Self {
            open,
            literals,
            patterns: rules_of,
            automata,
        })
    }

    /// Rules that leave the field open, for [`PASS_WORDS`] words from `first` on.
    pub(super) fn open(&self, first: usize) -> [u64; PASS_WORDS] {
        let mut out = [0; PASS_WORDS];
        self.open.add_to(first, &mut out);
        out
    }

    /// Rules that `text` satisfies, for [`PASS_WORDS`] words from `first` on.
    pub(super) fn matches(&self, text: &str, first: usize) -> [u64; PASS_WORDS] {
        let mut out = [0; PASS_WORDS];
        self.open.add_to(first, &mut out);
        if let Some(rules) = self.literals.get(text) {
            rules.add_to(first, &mut out);
        }
        if self.automata.is_empty() || !text.is_ascii() {
            return out;
        }
        let mut add = |id: usize| {
            if let Some(rules) = self.patterns.get(id) {
                rules.add_to(first, &mut out);
            }
        };
        for matcher in &self.automata {
            match matcher {
                PatternMatcher::Dense { dfa, first } => {
                    each_match(dfa, text.as_bytes(), |id| add(first + id))
                }
                PatternMatcher::Single { regex, id } => {
                    if regex.is_match(Input::new(text).anchored(Anchored::Yes)) {
                        add(*id);
                    }
                }
            }
        }
        out
    }
}

/// Calls `found` with every pattern of `dfa` that matches the whole of `text`.
fn each_match(dfa: &dense::DFA<Vec<u32>>, text: &[u8], mut found: impl FnMut(usize)) {
    let Ok(mut state) = dfa.start_state(&start::Config::new().anchored(Anchored::Yes)) else {
        return;
    };
    for byte in text {
        state = dfa.next_state(state, *byte);
        if dfa.is_special_state(state) && (dfa.is_dead_state(state) || dfa.is_quit_state(state)) {
            return;
        }
    }
    state = dfa.next_eoi_state(state);
    if dfa.is_match_state(state) {
        for index in 0..dfa.match_len(state) {
            found(dfa.match_pattern(state, index).as_usize());
        }
    }
}

/// Puts `patterns` into as few automata as the size limit allows.
fn build_matchers(
    patterns: &[Pattern],
    attempts: &mut usize,
    out: &mut Vec<PatternMatcher>,
) -> Result<(), (usize, PatternError)> {
    let Some(first) = patterns.first() else {
        return Ok(());
    };
    if *attempts > 0 {
        *attempts -= 1;
        if let Some(dfa) = dense_automaton(patterns) {
            out.push(PatternMatcher::Dense {
                dfa: Box::new(dfa),
                first: first.id,
            });
            return Ok(());
        }
    }
    if patterns.len() > 1 {
        let (low, high) = patterns.split_at(patterns.len() / 2);
        build_matchers(low, attempts, out)?;
        return build_matchers(high, attempts, out);
    }
    let is_single = |matcher: &&PatternMatcher| matches!(matcher, PatternMatcher::Single { .. });
    if out.iter().filter(is_single).count() >= MOST_SINGLE {
        return Err((first.rule, PatternError::TooManyLarge));
    }
    let config = meta::Config::new()
        .nfa_size_limit(Some(PATTERN_BYTES))
        .hybrid_cache_capacity(PATTERN_BYTES)
        .which_captures(WhichCaptures::None);
    let regex = meta::Builder::new()
        .configure(config)
        .build_from_hir(&first.hir)
        .map_err(|_too_big| (first.rule, regex::Error::CompiledTooBig(PATTERN_BYTES).into()))?;
    out.push(PatternMatcher::Single { regex, id: first.id });
    Ok(())
}

/// One anchored automaton for all of `patterns`; `None` when it would be too large.
fn dense_automaton(patterns: &[Pattern]) -> Option<dense::DFA<Vec<u32>>> {
    let hirs: Vec<&Hir> = patterns.iter().map(|pattern| &pattern.hir).collect();
    let nfa = thompson::Compiler::new()
        .configure(
            thompson::Config::new()
                .nfa_size_limit(Some(DETERMINIZE_BYTES))
                .which_captures(WhichCaptures::None),
        )
        .build_many_from_hir(&hirs)
        .ok()?;
    let mut config = dense::Config::new()
        .match_kind(MatchKind::All)
        .start_kind(StartKind::Anchored)
        .accelerate(false)
        .unicode_word_boundary(true)
        .dfa_size_limit(Some(AUTOMATON_BYTES))
        .determinize_size_limit(Some(DETERMINIZE_BYTES));
    // Only ASCII is searched, so that states reached by other bytes need not exist.
    for byte in 0x80..=0xff {
        config = config.quit(byte, true);
    }
    dense::Builder::new().configure(config).build_from_nfa(&nfa).ok()
}

/// The text that alone matches `hir`, if there is one.
fn literal(hir: &Hir) -> Option<String> {
    match hir.kind() {
        HirKind::Literal(literal) => String::from_utf8(literal.0.to_vec()).ok(),
        _ => None,
    }
}
