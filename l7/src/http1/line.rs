//! The request line, byte by byte: `method SP request-target SP HTTP-version CR` (RFC 9112, section 3).
//!
//! The parser keeps offsets only, so a line that comes in one-byte segments costs no more than a whole one. A byte that cannot
//! be part of a request line is refused as it comes, before any line end: bytes of another protocol never reach the server.

use super::head::HeadError;
use super::target::{Target, TargetError};

/// Longest method, bytes; registered ones have 17 at most (IANA HTTP Method Registry).
pub const METHOD_LIMIT: u32 = 32;

/// Protocol version of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// HTTP/1.0.
    Http10,
    /// HTTP/1.1.
    Http11,
}

const VERSION: &[u8; 7] = b"HTTP/1.";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Method,
    Target,
    /// Bytes of the version seen.
    Version(u8),
}

/// Progress of [`RequestLine::feed`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LineStep {
    /// All bytes belong to the line; it goes on.
    More,
    /// The line ends with the carriage return that is the last of so many bytes.
    Complete(usize),
}

/// Incremental parser.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestLine {
    state: State,
    len: u32,
    method_len: u32,
    target_end: u32,
    version: Version,
}

/// A complete request line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ParsedLine<'a> {
    /// Method, never `CONNECT`.
    pub method: &'a str,
    /// Request target as sent.
    pub raw_target: &'a str,
    /// What the target means.
    pub target: Target<'a>,
    /// Version.
    pub version: Version,
}

impl Default for RequestLine {
    fn default() -> Self {
        Self {
            state: State::Method,
            len: 0,
            method_len: 0,
            target_end: 0,
            version: Version::Http11,
        }
    }
}

impl RequestLine {
    /// Bytes taken so far, the carriage return included.
    #[must_use]
    pub fn len(&self) -> u32 {
        self.len
    }

    /// Whether no byte has come yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Takes the next bytes. After an error [`len`](Self::len) does not count the offending byte.
    ///
    /// # Errors
    /// [`HeadError::NotHttp`] for what no HTTP/1 client sends, else the rule that is broken.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<LineStep, HeadError> {
        for (at, byte) in bytes.iter().enumerate() {
            if self.step(*byte)? {
                return Ok(LineStep::Complete(at + 1));
            }
        }
        Ok(LineStep::More)
    }

    fn step(&mut self, byte: u8) -> Result<bool, HeadError> {
        let mut complete = false;
        match self.state {
            State::Method => match byte {
                b' ' if self.len > 0 => {
                    self.method_len = self.len;
                    self.state = State::Target;
                }
                b'\r' | b'\n' if self.len == 0 => return Err(HeadError::EmptyLine),
                _ if is_token(byte) && self.len < METHOD_LIMIT => {}
                _ => return Err(HeadError::NotHttp),
            },
            State::Target => match byte {
                b' ' if self.len > self.method_len + 1 => {
                    self.target_end = self.len;
                    self.state = State::Version(0);
                }
                b'#' => return Err(HeadError::Target(TargetError::Fragment)),
                0x21..=0x7e => {}
                0x80.. => return Err(HeadError::Target(TargetError::NotAscii)),
                b'\n' => return Err(HeadError::LineEnd),
                _ => return Err(HeadError::RequestLine),
            },
            State::Version(seen) => {
                self.state = State::Version(seen + 1);
                match (seen, byte) {
                    (7, b'0') => self.version = Version::Http10,
                    (7, b'1') => self.version = Version::Http11,
                    (8, b'\r') => complete = true,
                    (_, b'\n') => return Err(HeadError::LineEnd),
                    (5, b'2'..=b'9') => return Err(HeadError::NotHttp),
                    _ if VERSION.get(usize::from(seen)) == Some(&byte) => {}
                    _ => return Err(HeadError::Version),
                }
            }
        }
        self.len += 1;
        Ok(complete)
    }

    /// Method and target of `line` as far as they came, for logs.
    #[must_use]
    pub fn partial<'a>(&self, line: &'a [u8]) -> (&'a [u8], &'a [u8]) {
        let part = |from: u32, to: u32| line.get(from as usize..to as usize).unwrap_or_default();
        match self.state {
            State::Method => (part(0, self.len), &[]),
            State::Target => (part(0, self.method_len), part(self.method_len + 1, self.len)),
            State::Version(_) => (
                part(0, self.method_len),
                part(self.method_len + 1, self.target_end),
            ),
        }
    }

    /// Reads the complete line, which begins at the first byte of `head`.
    ///
    /// # Errors
    /// [`HeadError::Connect`], [`HeadError::Target`]; [`HeadError::RequestLine`] if `head` is not what was fed.
    pub fn finish<'a>(&self, head: &'a [u8]) -> Result<ParsedLine<'a>, HeadError> {
        let text = |bytes: &'a [u8]| std::str::from_utf8(bytes).map_err(|_not_ascii| HeadError::RequestLine);
        let (method, target) = self.partial(head);
        let (method, raw_target) = (text(method)?, text(target)?);
        if method == "CONNECT" {
            return Err(HeadError::Connect);
        }
        let target = Target::parse(method, raw_target)?;
        Ok(ParsedLine {
            method,
            raw_target,
            target,
            version: self.version,
        })
    }
}

/// `tchar` of RFC 9110, section 5.6.2.
pub(crate) fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}
