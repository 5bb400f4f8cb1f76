//! Names of `toFQDNs` and `domainNames`: which DNS names a selector covers.

use std::fmt;

/// Whether `name` consists of characters that DNS rules take, `*` only in patterns.
fn is_text(text: &str, pattern: bool) -> bool {
    (1..=255).contains(&text.len())
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.') || (pattern && b == b'*'))
}

/// A name or a pattern of names, lower-cased and with its trailing dot.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum FqdnSelector {
    /// `matchName`: this name.
    Name(String),
    /// `matchPattern`: `*` is any run of characters within a label, a leading `**.` one or more labels; alone it is every name.
    Pattern(String),
}

impl FqdnSelector {
    /// Reads `matchName`; `None` if it is no name.
    #[must_use]
    pub fn name(text: &str) -> Option<Self> {
        is_text(text, false).then(|| Self::Name(canonical(text)))
    }

    /// Reads `matchPattern`; `None` if it is no pattern.
    #[must_use]
    pub fn pattern(text: &str) -> Option<Self> {
        is_text(text, true).then(|| Self::Pattern(canonical(text)))
    }

    /// Whether every name is covered.
    #[must_use]
    pub fn covers_all(&self) -> bool {
        matches!(self, Self::Pattern(pattern) if pattern.trim_end_matches('.').bytes().all(|b| b == b'*'))
    }

    /// Whether `name` is covered; case and a trailing dot do not matter.
    #[must_use]
    pub fn covers(&self, name: &str) -> bool {
        let name = canonical(name);
        match self {
            Self::Name(own) => *own == name,
            Self::Pattern(_) if self.covers_all() => true,
            Self::Pattern(pattern) => {
                let (labels, names) = (labels(pattern), labels(&name));
                match labels.split_first() {
                    // One or more labels, then the rest of the pattern.
                    Some((&"**", rest)) => {
                        names.len() > rest.len()
                            && all_match(rest, names.get(names.len() - rest.len()..).unwrap_or_default())
                    }
                    _ => all_match(&labels, &names),
                }
            }
        }
    }
}

impl fmt::Display for FqdnSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(text) | Self::Pattern(text) => f.write_str(text),
        }
    }
}

fn canonical(text: &str) -> String {
    let mut name = text.trim_end_matches('.').to_ascii_lowercase();
    name.push('.');
    name
}

fn labels(text: &str) -> Vec<&str> {
    text.trim_end_matches('.').split('.').collect()
}

fn all_match(patterns: &[&str], labels: &[&str]) -> bool {
    patterns.len() == labels.len()
        && patterns
            .iter()
            .zip(labels)
            .all(|(pattern, label)| label_matches(pattern.as_bytes(), label.as_bytes()))
}

/// Whether a label matches a pattern whose `*` are any run of characters. Linear in the label for each `*` (no backtracking beyond
/// the last one), so that a pattern cannot be made slow.
fn label_matches(pattern: &[u8], label: &[u8]) -> bool {
    let (mut p, mut l) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while l < label.len() {
        match (pattern.get(p), label.get(l)) {
            (Some(b'*'), _) => {
                star = Some((p, l));
                p += 1;
            }
            (Some(a), Some(b)) if a == b => {
                p += 1;
                l += 1;
            }
            _ => match star {
                Some((at, taken)) => {
                    star = Some((at, taken + 1));
                    p = at + 1;
                    l = taken + 1;
                }
                None => return false,
            },
        }
    }
    pattern.get(p..).unwrap_or_default().iter().all(|b| *b == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn covers(pattern: &str, name: &str) -> bool {
        FqdnSelector::pattern(pattern).expect("a pattern").covers(name)
    }

    #[test]
    fn a_name_covers_itself_whatever_its_case_and_trailing_dot() {
        let name = FqdnSelector::name("WWW.Example.com").expect("a name");
        assert!(name.covers("www.example.com.") && name.covers("www.EXAMPLE.com"));
        assert!(!name.covers("example.com") && !name.covers("a.www.example.com"));
    }

    #[test]
    fn a_star_stays_within_one_label() {
        assert!(covers("*.x.io", "a.x.io") && covers("*.x.io", "a-b_c.x.io"));
        assert!(!covers("*.x.io", "x.io") && !covers("*.x.io", "a.b.x.io"));
        assert!(covers("api-*.x.io", "api-.x.io") && covers("api-*.x.io", "api-7.x.io"));
        assert!(covers("a*c*.x.io", "abcd.x.io") && !covers("a*c*.x.io", "abd.x.io"));
    }

    #[test]
    fn a_leading_double_star_is_one_or_more_labels() {
        assert!(covers("**.x.io", "a.x.io") && covers("**.x.io", "a.b.x.io"));
        assert!(!covers("**.x.io", "x.io"));
        assert!(!covers("a.**.io", "a.b.c.io"), "elsewhere it is one star");
        assert!(covers("a.**.io", "a.b.io"));
    }

    #[test]
    fn stars_alone_cover_every_name() {
        for pattern in ["*", "**", "*."] {
            assert!(covers(pattern, "a.b.c") && covers(pattern, "."), "{pattern}");
        }
    }

    #[test]
    fn text_with_other_characters_is_refused() {
        assert_eq!(FqdnSelector::name("*.x.io"), None);
        for text in ["", "a b", "a/b", &"a".repeat(256)] {
            assert_eq!(FqdnSelector::pattern(text), None, "{text}");
        }
    }
}
