//! HTTP rules: the source as users write it, compiled once for the packet path.
//!
//! Meaning: `CiliumNetworkPolicy` `rules.http[]`. Entries are alternatives; inside an entry method, path, host and all headers must
//! match, the first three each as an RE2 pattern that covers the whole text, case-sensitive. The path is compared with its query, the
//! host with its port if one was sent. An entry without fields allows every request, an empty list allows none.
//!
//! Compiled form, one column per field: patterns that are plain text go into a hash table, the rest into dense automata
//! of bounded size that run all patterns in one pass; a pattern too large for an automaton runs alone. What a text matches
//! is a set of rules, and the first rule in all columns' sets decides. Headers are looked at only for a rule in all of them.
//! Deciding neither allocates nor backtracks.
//!
//! Where RE2 and the regex crate read the same pattern differently, the pattern is rejected: a rule never means something
//! else here than in Cilium. Text outside ASCII matches no pattern, because the gate lets no such request through.

mod column;
mod dialect;
mod header;

use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use self::column::{Column, MOST_SINGLE, PASS_WORDS, RuleBits};
pub use self::header::{HeaderMatch, HeaderValue, Mismatch};

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
    /// `host`: RE2 full match against `Host` with its port as sent, case-sensitive. No pattern matches a request without host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// `headers` and `headerMatches`: every one must hold.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<HeaderMatch>,
}

/// What a rule is compared with.
#[derive(Debug, Clone, Copy)]
pub struct HttpRequest<'a> {
    /// Request method.
    pub method: &'a str,
    /// Request target in canonical form, query included.
    pub path: &'a str,
    /// `Host` as sent, port included. Empty if there is none, or none that every server would read alike.
    pub host: &'a str,
    /// Header fields in the order sent, names as sent. A match of the header `host` looks at [`host`](Self::host), not here.
    pub headers: &'a [(&'a str, &'a [u8])],
}

impl<'a> HttpRequest<'a> {
    /// A request without host and headers.
    #[must_use]
    pub const fn new(method: &'a str, path: &'a str) -> Self {
        Self {
            method,
            path,
            host: "",
            headers: &[],
        }
    }
}

/// What a request line alone decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LineVerdict {
    /// No rule allows it, whatever host and headers follow.
    Denied,
    /// A rule allows it, whatever host and headers follow.
    Allowed,
    /// Host and headers decide.
    Open,
}

/// A rule that does not compile.
#[derive(Debug, Clone, thiserror::Error)]
#[error("http[{index}].{field}: {source}")]
pub struct HttpRuleError {
    /// Position of the rule in its list.
    pub index: usize,
    /// `method`, `path` or `host`.
    pub field: &'static str,
    /// What is wrong with it.
    pub source: PatternError,
}

/// Most rules of a set. A worker judges all requests of a node: what one of them costs at most is bounded.
pub const MOST_HTTP_RULES: usize = 1024;

/// A pattern, or a list of them, that does not compile.
#[derive(Debug, Clone, thiserror::Error)]
pub enum PatternError {
    /// Not a regular expression, or one that is too large by itself.
    #[error(transparent)]
    Regex(#[from] regex::Error),
    /// Too large to be matched together with others, and there are too many such patterns.
    #[error("more than {MOST_SINGLE} patterns of this size")]
    TooManyLarge,
    /// Too many rules that cover the same peer and port.
    #[error("more than {MOST_HTTP_RULES} HTTP rules")]
    TooManyRules,
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
    /// Only if a rule names a host.
    host: Option<Column>,
    /// Rules that the request line alone does not satisfy.
    conditional: RuleBits,
}

impl HttpRuleSet {
    /// Compiles `rules`.
    ///
    /// # Errors
    /// [`HttpRuleError`] names the entry and the field that does not compile.
    pub fn new(rules: Vec<HttpRule>) -> Result<Self, HttpRuleError> {
        if rules.len() > MOST_HTTP_RULES {
            return Err(HttpRuleError {
                index: MOST_HTTP_RULES,
                field: "path",
                source: PatternError::TooManyRules,
            });
        }
        let method = Column::new("method", rules.iter().map(|rule| rule.method.as_deref()))?;
        let path = Column::new("path", rules.iter().map(|rule| rule.path.as_deref()))?;
        let host = if rules.iter().any(HttpRule::has_host) {
            Some(Column::new(
                "host",
                rules.iter().map(|rule| rule.host.as_deref()),
            )?)
        } else {
            None
        };
        let mut conditional = RuleBits::default();
        for (index, _) in rules.iter().enumerate().filter(|(_, rule)| rule.is_conditional()) {
            conditional.insert(index);
        }
        Ok(Self {
            compiled: Arc::new(Compiled {
                rules,
                method,
                path,
                host,
                conditional,
            }),
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
        let compiled = &*self.compiled;
        compiled.by_line(request.method, request.path, |pass, at, word| {
            if word & compiled.conditional.word(at) == 0 {
                return Some(at * 64 + word.trailing_zeros() as usize);
            }
            compiled.first_that_holds(pass, at, word, request)
        })
    }

    /// What the request line decides by itself; [`decide`](Self::decide) says the same of every request with that line. Allocates
    /// nothing.
    #[must_use]
    pub fn decide_line(&self, method: &str, path: &str) -> LineVerdict {
        let compiled = &*self.compiled;
        let mut verdict = LineVerdict::Denied;
        let allowed = compiled.by_line(method, path, |_, at, word| {
            verdict = LineVerdict::Open;
            (word & !compiled.conditional.word(at) != 0).then_some(LineVerdict::Allowed)
        });
        allowed.unwrap_or(verdict)
    }
}

impl HttpRule {
    fn has_host(&self) -> bool {
        self.host.as_ref().is_some_and(|host| !host.is_empty())
    }

    fn is_conditional(&self) -> bool {
        self.has_host() || self.headers.iter().any(HeaderMatch::is_condition)
    }
}

impl Compiled {
    /// The first answer of `found`, which gets the rules that match method and path, a word that is not empty at a time: the first
    /// word of the pass, the word's number, and the word.
    #[inline]
    fn by_line<T>(
        &self,
        method: &str,
        path: &str,
        mut found: impl FnMut(usize, usize, u64) -> Option<T>,
    ) -> Option<T> {
        let words = self.rules.len().div_ceil(64);
        let mut first = 0;
        while first < words {
            let by_method = self.method.matches(method, first);
            if by_method.iter().any(|word| *word != 0) {
                let by_path = self.path.matches(path, first);
                for (at, (a, b)) in (first..).zip(by_method.iter().zip(&by_path)) {
                    let both = a & b;
                    if both != 0
                        && let Some(answer) = found(first, at, both)
                    {
                        return Some(answer);
                    }
                }
            }
            first += PASS_WORDS;
        }
        None
    }

    /// The first of the rules `word`, which is word number `at` in the pass from word `first` on, whose host and headers `request`
    /// has. Out of line: what most rule sets never need stays out of their way.
    #[inline(never)]
    fn first_that_holds(
        &self,
        first: usize,
        at: usize,
        word: u64,
        request: &HttpRequest<'_>,
    ) -> Option<usize> {
        let by_host = match &self.host {
            None => [u64::MAX; PASS_WORDS],
            // No pattern is satisfied by no host.
            Some(column) if request.host.is_empty() => column.open(first),
            Some(column) => column.matches(request.host, first),
        };
        let mut word = word & by_host.get(at - first).copied().unwrap_or(0);
        while word != 0 {
            let rule = at * 64 + word.trailing_zeros() as usize;
            let headers = self.rules.get(rule).map(|rule| rule.headers.as_slice());
            if headers.is_some_and(|headers| headers.iter().all(|header| header.holds(request))) {
                return Some(rule);
            }
            word &= word - 1;
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

#[cfg(test)]
mod tests;
