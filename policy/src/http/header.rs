//! Header fields of a rule: `headers[]` and `headerMatches[]` in one form, and how a request is compared with it.
//!
//! Several fields of one name are one value, joined with `,` in their order (RFC 9110, section 5.3). A request in which another
//! reader could find a different value than this one satisfies no match of that header: see [`is_alike`] and [`names`].

use std::fmt;

use serde::{Deserialize, Serialize};

use super::HttpRequest;

/// The field that names the host; compared with [`HttpRequest::host`].
const HOST: &str = "host";

/// One header that an entry looks at.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HeaderMatch {
    /// Field name in lower case; compared without case.
    pub name: String,
    /// What the header must say.
    pub value: HeaderValue,
    /// What becomes of the entry if it does not.
    #[serde(default, skip_serializing_if = "Mismatch::is_fail")]
    pub mismatch: Mismatch,
}

/// What a header must say. `Debug` does not show the value: it may come from a Secret.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HeaderValue {
    /// Anything, but it must be there.
    Present,
    /// Exactly this, case included, blanks around the sent value aside.
    Exactly(String),
    /// The value is not known (a Secret that is missing): the entry never matches, whatever [`Mismatch`] says.
    Never,
}

/// `mismatch` of a `headerMatches[]` item. `ADD`, `DELETE` and `REPLACE` change requests; nothing here does.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mismatch {
    /// The entry does not match.
    #[default]
    Fail,
    /// The entry matches all the same.
    Log,
}

impl Mismatch {
    fn is_fail(&self) -> bool {
        *self == Self::Fail
    }
}

impl fmt::Debug for HeaderValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Present => "Present",
            Self::Exactly(_) => "Exactly(..)",
            Self::Never => "Never",
        })
    }
}

impl HeaderMatch {
    /// A match without which the entry fails.
    #[must_use]
    pub fn new(name: &str, value: HeaderValue) -> Self {
        Self {
            name: name.to_ascii_lowercase(),
            value,
            mismatch: Mismatch::Fail,
        }
    }

    /// Reads an item of `headers[]`: `name value` or `name: value`, split at the first space, demands exactly the value; text
    /// without a space is the name of a header that must be there. There is no invalid item: a name that no request can have, as in
    /// `X-A:1`, never matches.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        match text.split_once(' ') {
            Some((name, value)) => {
                Self::new(name.trim_end_matches(':'), HeaderValue::Exactly(value.to_owned()))
            }
            None => Self::new(text, HeaderValue::Present),
        }
    }

    /// Whether the entry's verdict can depend on this match.
    pub(super) fn is_condition(&self) -> bool {
        self.mismatch == Mismatch::Fail || self.value == HeaderValue::Never
    }

    /// Whether `request` lets the entry match. The time this takes tells how long values are, not where they differ.
    pub(super) fn holds(&self, request: &HttpRequest<'_>) -> bool {
        let expected = match (&self.value, self.mismatch) {
            (HeaderValue::Never, _) => return false,
            (_, Mismatch::Log) => return true,
            (HeaderValue::Present, Mismatch::Fail) => None,
            (HeaderValue::Exactly(value), Mismatch::Fail) => Some(value.as_bytes()),
        };
        let mut sent = SentValue::new(expected.unwrap_or_default());
        if self.name.eq_ignore_ascii_case(HOST) {
            if !request.host.is_empty() {
                sent.add(request.host.as_bytes());
            }
        } else {
            for (name, value) in request.headers {
                if name.eq_ignore_ascii_case(&self.name) {
                    sent.add(trim_blanks(value));
                } else if is_alike(name, &self.name)
                    || name.eq_ignore_ascii_case("connection") && names(value, &self.name)
                {
                    return false;
                }
            }
        }
        sent.fields > 0 && (expected.is_none() || sent.is_expected())
    }
}

/// Whether some servers take one name for the other: CGI and its heirs turn every mark into `_`, so that `X_A` and `X.A` are `X-A`.
fn is_alike(a: &str, b: &str) -> bool {
    let alike = |(a, b): (u8, u8)| {
        a.eq_ignore_ascii_case(&b) || !a.is_ascii_alphanumeric() && !b.is_ascii_alphanumeric()
    };
    a.len() == b.len() && a.bytes().zip(b.bytes()).all(alike)
}

/// Whether `Connection: value` names `header`, which an intermediary then removes (RFC 9110, section 7.6.1).
fn names(value: &[u8], header: &str) -> bool {
    value
        .split(|byte| *byte == b',')
        .any(|option| trim_blanks(option).eq_ignore_ascii_case(header.as_bytes()))
}

/// Without optional white space at both ends (RFC 9110, section 5.6.3).
fn trim_blanks(value: &[u8]) -> &[u8] {
    let mut value = value;
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = value {
        value = rest;
    }
    value
}

/// The fields of one name as they go by, joined and compared with what is expected.
struct SentValue<'a> {
    expected: &'a [u8],
    fields: usize,
    len: usize,
    /// Bits in which the value and the expected one differ.
    difference: u8,
}

impl<'a> SentValue<'a> {
    fn new(expected: &'a [u8]) -> Self {
        Self {
            expected,
            fields: 0,
            len: 0,
            difference: 0,
        }
    }

    fn add(&mut self, value: &[u8]) {
        if self.fields > 0 {
            self.compare(b",");
        }
        self.compare(value);
        self.fields += 1;
    }

    /// Takes the next bytes, without stopping at one that differs.
    fn compare(&mut self, bytes: &[u8]) {
        let expected = self.expected.get(self.len..).unwrap_or_default();
        let difference = bytes.iter().zip(expected).fold(0, |bits, (a, b)| bits | (a ^ b));
        self.difference = std::hint::black_box(self.difference | difference);
        self.len += bytes.len();
    }

    fn is_expected(&self) -> bool {
        self.len == self.expected.len() && self.difference == 0
    }
}
