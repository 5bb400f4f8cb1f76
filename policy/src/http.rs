//! HTTP rules: the source as users write it, compiled once for the packet path.
//!
//! Meaning: `CiliumNetworkPolicy` `rules.http[]`. Entries are alternatives; inside an entry method and path must both match,
//! each as an RE2 pattern that covers the whole text, case-sensitive. The path is compared with its query. An entry without
//! fields allows every request, an empty list allows none.
//!
//! Compiled form, one column per field: patterns that are plain text go into a hash table, the rest into dense automata
//! of bounded size that run all patterns in one pass; a pattern too large for an automaton runs alone. What a text matches
//! is a set of rules, and the first rule in both columns' sets decides. Deciding neither allocates nor backtracks.
//!
//! Where RE2 and the regex crate read the same pattern differently, the pattern is rejected: a rule never means something
//! else here than in Cilium. Text outside ASCII matches no pattern, because the gate lets no such request through.

use std::fmt;
use std::sync::Arc;

use hashbrown::HashMap;
use regex_automata::Anchored;
use regex_automata::dfa::{Automaton, StartKind, dense};
use regex_automata::nfa::thompson::{self, WhichCaptures};
use regex_automata::util::start;
use regex_automata::{Input, MatchKind, meta};
use regex_syntax::ast::{self, Ast};
use regex_syntax::hir::{Hir, HirKind, Look, translate::Translator};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Largest dense automaton, bytes.
const AUTOMATON_BYTES: usize = 512 << 10;

/// Memory that building one automaton may take, bytes; bounds the time as well.
const DETERMINIZE_BYTES: usize = 2 << 20;

/// Largest compiled form of one pattern, bytes.
const PATTERN_BYTES: usize = 1 << 20;

/// Attempts to build automata for one column; what is left then runs pattern by pattern.
const AUTOMATON_ATTEMPTS: usize = 32;

/// Rules that one pass over the columns judges, in words of 64.
const PASS_WORDS: usize = 4;

/// One entry of `rules.http[]`; absent and empty fields match everything.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HttpRule {
    /// `method`: RE2 full match, case-sensitive.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    /// `path`: RE2 full match against the whole request target, query included.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
}

/// What a rule is compared with.
#[derive(Debug, Clone, Copy)]
pub struct HttpRequest<'a> {
    /// Request method.
    pub method: &'a str,
    /// Request target in canonical form, query included.
    pub path: &'a str,
}

/// A rule that does not compile.
#[derive(Debug, Clone, thiserror::Error)]
#[error("http[{index}].{field}: {source}")]
pub struct HttpRuleError {
    /// Position of the rule in its list.
    pub index: usize,
    /// `method` or `path`.
    pub field: &'static str,
    /// What the regular expression lacks.
    pub source: regex::Error,
}

/// A compiled list of [`HttpRule`]s; a request is allowed when any entry matches.
///
/// Serialised as the list it was made from. Clones share the compiled form.
#[derive(Debug, Clone)]
pub struct HttpRuleSet {
    compiled: Arc<Compiled>,
}

#[derive(Debug)]
struct Compiled {
    rules: Vec<HttpRule>,
    method: Column,
    path: Column,
}

impl HttpRuleSet {
    /// Compiles `rules`.
    ///
    /// # Errors
    /// [`HttpRuleError`] names the entry and the field that does not compile.
    pub fn new(rules: Vec<HttpRule>) -> Result<Self, HttpRuleError> {
        let method = Column::new("method", rules.iter().map(|rule| rule.method.as_deref()))?;
        let path = Column::new("path", rules.iter().map(|rule| rule.path.as_deref()))?;
        Ok(Self {
            compiled: Arc::new(Compiled { rules, method, path }),
        })
    }

    /// The rules as given.
    #[must_use]
    pub fn rules(&self) -> &[HttpRule] {
        &self.compiled.rules
    }

    /// Index of the first rule that allows `request`; `None` denies it. Allocates nothing.
    #[must_use]
    pub fn decide(&self, request: &HttpRequest<'_>) -> Option<usize> {
        let Compiled { rules, method, path } = &*self.compiled;
        let words = rules.len().div_ceil(64);
        let mut first = 0;
        while first < words {
            let by_method = method.matches(request.method, first);
            if by_method.iter().any(|word| *word != 0) {
                let by_path = path.matches(request.path, first);
                for (at, (a, b)) in (first..).zip(by_method.iter().zip(&by_path)) {
                    let both = a & b;
                    if both != 0 {
                        return Some(at * 64 + both.trailing_zeros() as usize);
                    }
                }
            }
            first += PASS_WORDS;
        }
        None
    }
}

impl Serialize for HttpRuleSet {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.rules().serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for HttpRuleSet {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::new(Vec::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

/// Set of rule indices, 64 per word.
#[derive(Debug, Clone, Default)]
struct RuleBits(Vec<u64>);

impl RuleBits {
    fn insert(&mut self, rule: usize) {
        let word = rule / 64;
        if self.0.len() <= word {
            self.0.resize(word + 1, 0);
        }
        if let Some(bits) = self.0.get_mut(word) {
            *bits |= 1 << (rule % 64);
        }
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
struct Column {
    /// Rules that leave the field open.
    open: RuleBits,
    /// Rules whose pattern is plain text.
    literals: HashMap<String, RuleBits>,
    /// Rules by distinct pattern.
    patterns: Vec<RuleBits>,
    automata: Vec<PatternMatcher>,
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

enum PatternMatcher {
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
    fn new<'a>(
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
            let hir = parse(source).map_err(|source| HttpRuleError { index, field, source })?;
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

    /// Rules that `text` satisfies, for [`PASS_WORDS`] words from `first` on.
    fn matches(&self, text: &str, first: usize) -> [u64; PASS_WORDS] {
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
) -> Result<(), (usize, regex::Error)> {
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
    let config = meta::Config::new()
        .nfa_size_limit(Some(PATTERN_BYTES))
        .hybrid_cache_capacity(PATTERN_BYTES)
        .which_captures(WhichCaptures::None);
    let regex = meta::Builder::new()
        .configure(config)
        .build_from_hir(&first.hir)
        .map_err(|_too_big| (first.rule, regex::Error::CompiledTooBig(PATTERN_BYTES)))?;
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

/// Parses a pattern as RE2 would, without its redundant outer anchors.
///
/// The pattern is parsed by itself, never pasted into a larger one: `a)|(b` stays an error.
fn parse(pattern: &str) -> Result<Hir, regex::Error> {
    let syntax = |error: &dyn fmt::Display| regex::Error::Syntax(error.to_string());
    let ast = ast::parse::Parser::new()
        .parse(pattern)
        .map_err(|error| syntax(&error))?;
    ast::visit(&ast, Re2Subset { pattern }).map_err(|error| syntax(&error))?;
    let hir = Translator::new()
        .translate(pattern, &ast)
        .map_err(|error| syntax(&error))?;
    if let HirKind::Concat(parts) = hir.kind() {
        let mut parts = parts.as_slice();
        while let [head, rest @ ..] = parts
            && matches!(head.kind(), HirKind::Look(Look::Start))
        {
            parts = rest;
        }
        while let [rest @ .., tail] = parts
            && matches!(tail.kind(), HirKind::Look(Look::End))
        {
            parts = rest;
        }
        return Ok(Hir::concat(parts.to_vec()));
    }
    Ok(hir)
}

/// Syntax that the regex crate and RE2 read differently.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
enum DialectError {
    #[error("flags other than i, m, s and U are not RE2")]
    Flag,
    #[error("set operations and nested classes are not RE2; escape `[`, `&`, `-` or `~` in a class")]
    ClassSet,
    #[error("word boundaries other than \\b and \\B are not RE2")]
    WordBoundary,
    #[error("\\u and \\U escapes are not RE2; write \\x{{...}}")]
    UnicodeEscape,
    #[error("`{{,n}}` is not RE2; write `{{0,n}}`")]
    OpenRepetition,
}

struct Re2Subset<'p> {
    pattern: &'p str,
}

impl Re2Subset<'_> {
    fn flags(flags: &ast::Flags) -> Result<(), DialectError> {
        let foreign = |item: &ast::FlagsItem| {
            matches!(
                item.kind,
                ast::FlagsItemKind::Flag(ast::Flag::Unicode | ast::Flag::CRLF | ast::Flag::IgnoreWhitespace)
            )
        };
        if flags.items.iter().any(foreign) {
            Err(DialectError::Flag)
        } else {
            Ok(())
        }
    }

    fn literal(literal: &ast::Literal) -> Result<(), DialectError> {
        use ast::HexLiteralKind::{UnicodeLong, UnicodeShort};
        match literal.kind {
            ast::LiteralKind::HexFixed(UnicodeShort | UnicodeLong)
            | ast::LiteralKind::HexBrace(UnicodeShort | UnicodeLong) => Err(DialectError::UnicodeEscape),
            _ => Ok(()),
        }
    }
}

impl ast::Visitor for Re2Subset<'_> {
    type Output = ();
    type Err = DialectError;

    fn finish(self) -> Result<(), DialectError> {
        Ok(())
    }

    fn visit_pre(&mut self, ast: &Ast) -> Result<(), DialectError> {
        match ast {
            Ast::Flags(set) => Self::flags(&set.flags),
            Ast::Group(group) => match &group.kind {
                ast::GroupKind::NonCapturing(flags) => Self::flags(flags),
                _ => Ok(()),
            },
            Ast::Literal(literal) => Self::literal(literal),
            Ast::Assertion(assertion) => match assertion.kind {
                ast::AssertionKind::StartLine
                | ast::AssertionKind::EndLine
                | ast::AssertionKind::StartText
                | ast::AssertionKind::EndText
                | ast::AssertionKind::WordBoundary
                | ast::AssertionKind::NotWordBoundary => Ok(()),
                _ => Err(DialectError::WordBoundary),
            },
            Ast::Repetition(repetition) => {
                let span = &repetition.op.span;
                let operator = self
                    .pattern
                    .get(span.start.offset..span.end.offset)
                    .unwrap_or_default();
                if operator.starts_with("{,") {
                    Err(DialectError::OpenRepetition)
                } else {
                    Ok(())
                }
            }
            _ => Ok(()),
        }
    }

    fn visit_class_set_item_pre(&mut self, item: &ast::ClassSetItem) -> Result<(), DialectError> {
        match item {
            ast::ClassSetItem::Bracketed(_) => Err(DialectError::ClassSet),
            ast::ClassSetItem::Literal(literal) => Self::literal(literal),
            ast::ClassSetItem::Range(range) => {
                Self::literal(&range.start)?;
                Self::literal(&range.end)
            }
            _ => Ok(()),
        }
    }

    fn visit_class_set_binary_op_pre(&mut self, _: &ast::ClassSetBinaryOp) -> Result<(), DialectError> {
        Err(DialectError::ClassSet)
    }
}

#[cfg(test)]
mod tests;
