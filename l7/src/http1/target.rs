//! Request targets (RFC 9112, section 3.2) and the one spelling of a path that rules are matched with.
//!
//! A server may decode, merge and resolve a path before it acts on it; rules see it as it was sent. Both mean the same only if
//! the path has a single spelling, so every other spelling is refused: a rule cannot be evaded by writing a path differently.

/// Why a target is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    /// Neither `/path`, `http://authority/path` nor, for `OPTIONS`, `*`.
    #[error("request target of unknown form")]
    Form,
    /// `#`: fragments are never sent.
    #[error("fragment in request target")]
    Fragment,
    /// A byte outside ASCII.
    #[error("request target outside ASCII")]
    NotAscii,
    /// `//`: servers merge slashes.
    #[error("empty path segment")]
    EmptySegment,
    /// `.` or `..`, also with parameters (`..;x`).
    #[error("dot segment")]
    DotSegment,
    /// `\`: some servers read it as `/`.
    #[error("backslash in path")]
    Backslash,
    /// `%` without two hexadecimal digits.
    #[error("invalid percent-encoding")]
    Escape,
    /// An encoded control character, slash, backslash or unreserved character (RFC 3986, section 2.3), an encoding of an encoding, or
    /// bytes that are overlong UTF-8.
    #[error("percent-encoding that servers resolve")]
    Encoded,
}

/// Of absolute targets.
const SCHEME: &str = "http://";

/// Bytes before the authority of an absolute target.
pub(crate) const SCHEME_LEN: u32 = 7;

/// What a request is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Target<'a> {
    /// Path and query, or `*`: what rules are matched with.
    pub path: &'a str,
    /// Authority of an absolute target; must equal `Host`.
    pub authority: Option<&'a str>,
}

impl<'a> Target<'a> {
    /// Reads a target of printable ASCII without `#`.
    ///
    /// # Errors
    /// The rule of the module that `raw` breaks.
    pub fn parse(method: &str, raw: &'a str) -> Result<Self, TargetError> {
        if raw.starts_with('/') {
            check_path(raw)?;
            return Ok(Self {
                path: raw,
                authority: None,
            });
        }
        if raw == "*" && method == "OPTIONS" {
            return Ok(Self {
                path: raw,
                authority: None,
            });
        }
        let (scheme, rest) = raw.split_at_checked(SCHEME.len()).ok_or(TargetError::Form)?;
        if !scheme.eq_ignore_ascii_case(SCHEME) {
            return Err(TargetError::Form);
        }
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at_checked(end).ok_or(TargetError::Form)?;
        // RFC 9112, section 3.2.1: an empty path is sent as `/`. With a query and no path there is nothing to match as sent.
        let path = if path.is_empty() { "/" } else { path };
        if authority.is_empty() || !path.starts_with('/') {
            return Err(TargetError::Form);
        }
        check_path(path)?;
        Ok(Self {
            path,
            authority: Some(authority),
        })
    }
}

/// Checks that the path before the query is in its only spelling.
fn check_path(target: &str) -> Result<(), TargetError> {
    let mut rest = target.as_bytes();
    // First byte of a sequence that its second byte may show to be overlong.
    let mut lead = 0;
    while let Some((byte, after)) = rest.split_first() {
        rest = after;
        match byte {
            b'?' => break,
            b'/' => check_segment_start(rest)?,
            b'\\' => return Err(TargetError::Backslash),
            b'%' => {
                let decoded = hex_pair(rest).ok_or(TargetError::Escape)?;
                rest = rest.get(2..).unwrap_or_default();
                if is_resolved(decoded, lead, rest) {
                    return Err(TargetError::Encoded);
                }
                lead = decoded;
                continue;
            }
            _ => {}
        }
        lead = 0;
    }
    Ok(())
}

/// Checks a segment that begins with `rest` for being empty or dots.
fn check_segment_start(rest: &[u8]) -> Result<(), TargetError> {
    let after_dots = match rest {
        [b'/', ..] => return Err(TargetError::EmptySegment),
        [b'.', b'.', after @ ..] | [b'.', after @ ..] => after,
        _ => return Ok(()),
    };
    // Servlet containers drop `;parameters` before they resolve dots.
    let is_whole = matches!(
        after_dots,
        [] | [b'/' | b'?' | b';', ..] | [b'%', b'3', b'b' | b'B', ..]
    );
    if is_whole {
        Err(TargetError::DotSegment)
    } else {
        Ok(())
    }
}

/// Whether servers give `%XX` of the byte `decoded` a meaning beside itself; `lead` was encoded before it, `rest` follows.
fn is_resolved(decoded: u8, lead: u8, rest: &[u8]) -> bool {
    match decoded {
        0..=0x1f | 0x7f | b'/' | b'\\' | b'-' | b'.' | b'_' | b'~' => true,
        b'%' => hex_pair(rest).is_some(),
        // Never in UTF-8, or overlong: lax decoders make ASCII of them.
        0xc0 | 0xc1 | 0xf5.. => true,
        0x80..=0x9f => lead == 0xe0 || (lead == 0xf0 && decoded < 0x90),
        _ => decoded.is_ascii_alphanumeric(),
    }
}

/// The byte that two hexadecimal digits stand for.
fn hex_pair(bytes: &[u8]) -> Option<u8> {
    let [high, low, ..] = bytes else { return None };
    Some(hex_digit(*high)? << 4 | hex_digit(*low)?)
}

/// Value of a hexadecimal digit.
pub(crate) fn hex_digit(byte: u8) -> Option<u8> {
    match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        b'A'..=b'F' => Some(byte - b'A' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(raw: &str) -> Result<&str, TargetError> {
        Target::parse("GET", raw).map(|target| target.path)
    }

    #[test]
    fn canonical_paths_are_taken_as_sent() {
        for raw in [
            "/",
            "/a/b/",
            "/a.b/..c/...",
            "/a%20b",
            "/a;x=1",
            "/%e2%82%ac",
            "/100%25",
            "/%3fx",
            "/a?b=//..%2f%00\\",
        ] {
            assert_eq!(path(raw), Ok(raw));
        }
    }

    #[test]
    fn every_other_spelling_of_a_path_is_refused() {
        use TargetError::{Backslash, DotSegment, EmptySegment, Encoded, Escape, Form};
        for (raw, error) in [
            ("//", EmptySegment),
            ("/a//b", EmptySegment),
            ("//host/a", EmptySegment),
            ("/.", DotSegment),
            ("/a/../b", DotSegment),
            ("/a/..?x", DotSegment),
            ("/..;x=1/b", DotSegment),
            ("/..%3B/b", DotSegment),
            ("/%2e%2e/b", Encoded),
            ("/.%2E/b", Encoded),
            ("/%2e/b", Encoded),
            ("/a%2fb", Encoded),
            ("/a%5Cb", Encoded),
            ("/a%00", Encoded),
            ("/a%0d%0a", Encoded),
            ("/%61dmin", Encoded),
            ("/%252e", Encoded),
            ("/%25%32%65", Encoded),
            ("/%c0%af", Encoded),
            ("/%e0%80%af", Encoded),
            ("/%f0%80%80%af", Encoded),
            ("/a\\b", Backslash),
            ("/a%", Escape),
            ("/a%2", Escape),
            ("/%u002f", Escape),
            ("*", Form),
            ("a/b", Form),
            ("example.com:443", Form),
            ("https://h/", Form),
            ("ftp://h/", Form),
            ("http://", Form),
            ("http:///a", Form),
            ("http://h?x", Form),
        ] {
            assert_eq!(path(raw), Err(error), "{raw}");
        }
    }

    #[test]
    fn absolute_target_is_matched_by_its_path() {
        let target = Target::parse("GET", "HTTP://Host:1/a?b").expect("absolute form");
        assert_eq!((target.authority, target.path), (Some("Host:1"), "/a?b"));
        assert_eq!(path("http://h"), Ok("/"));
        assert_eq!(path("http://h/a/../b"), Err(TargetError::DotSegment));
    }

    #[test]
    fn asterisk_is_for_options_only() {
        assert_eq!(Target::parse("OPTIONS", "*").map(|target| target.path), Ok("*"));
    }
}
