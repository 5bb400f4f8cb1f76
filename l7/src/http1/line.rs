//! The request line, byte by byte: `method SP request-target SP HTTP-version CR` (RFC 9112, section 3).
//!
//! The parser keeps offsets only, so a line that comes in one-byte segments costs no more than a whole one. A byte that cannot
//! be part of a request line is refused as it comes, before any line end: bytes of another protocol never reach the server.

use super::head::HeadError;
use super::target::{SCHEME_LEN, Target, TargetError};

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

/// A complete request line as offsets: what [`RequestLine::finish`] found, good for the same bytes without reading them again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LineLayout {
    method_len: u32,
    target_end: u32,
    path_len: u32,
    authority: Option<(u32, u32)>,
    version: Version,
}

/// The parts of a request line that was judged before.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LineView<'a> {
    pub(crate) method: &'a [u8],
    pub(crate) raw_target: &'a [u8],
    pub(crate) path: &'a [u8],
    pub(crate) authority: Option<&'a [u8]>,
    pub(crate) version: Version,
}

impl LineLayout {
    /// The parts in `head`, which begins with the line.
    pub(crate) fn view<'a>(&self, head: &'a [u8]) -> LineView<'a> {
        let part = |from: u32, to: u32| head.get(from as usize..to as usize).unwrap_or_default();
        LineView {
            method: part(0, self.method_len),
            raw_target: part(self.method_len + 1, self.target_end),
            path: match self.path_len {
                0 => b"/",
                len => part(self.target_end.saturating_sub(len), self.target_end),
            },
            authority: self.authority.map(|(from, to)| part(from, to)),
            version: self.version,
        }
    }
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
        let mut rest = bytes;
        while !rest.is_empty() {
            let run = match self.state {
                State::Method => run(rest, TOKEN).min((METHOD_LIMIT - self.len) as usize),
                State::Target => run(rest, TARGET),
                State::Version(_) => 0,
            };
            self.len += u32::try_from(run).unwrap_or(u32::MAX);
            rest = rest.get(run..).unwrap_or_default();
            let Some((byte, after)) = rest.split_first() else {
                break;
            };
            let complete = self.step(*byte)?;
            self.len += 1;
            rest = after;
            if complete {
                return Ok(LineStep::Complete(bytes.len() - rest.len()));
            }
        }
        Ok(LineStep::More)
    }

    /// Takes a byte that ends the method or the target, or one of the version; says whether it ends the line.
    fn step(&mut self, byte: u8) -> Result<bool, HeadError> {
        match self.state {
            State::Method => match byte {
                b' ' if self.len > 0 => {
                    self.method_len = self.len;
                    self.state = State::Target;
                }
                b'\r' | b'\n' if self.len == 0 => return Err(HeadError::EmptyLine),
                _ => return Err(HeadError::NotHttp),
            },
            State::Target => match byte {
                b' ' if self.len > self.method_len + 1 => {
                    self.target_end = self.len;
                    self.state = State::Version(0);
                }
                b'#' => return Err(HeadError::Target(TargetError::Fragment)),
                0x80.. => return Err(HeadError::Target(TargetError::NotAscii)),
                b'\n' => return Err(HeadError::LineEnd),
                _ => return Err(HeadError::RequestLine),
            },
            State::Version(seen) => {
                self.state = State::Version(seen + 1);
                match (seen, byte) {
                    (7, b'0') => self.version = Version::Http10,
                    (7, b'1') => self.version = Version::Http11,
                    (8, b'\r') => return Ok(true),
                    (_, b'\n') => return Err(HeadError::LineEnd),
                    (5, b'2'..=b'9') => return Err(HeadError::NotHttp),
                    _ if VERSION.get(usize::from(seen)) == Some(&byte) => {}
                    _ => return Err(HeadError::Version),
                }
            }
        }
        Ok(false)
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

    /// Where the parts of `line` are, which this parser has read.
    pub(crate) fn layout(&self, line: &ParsedLine<'_>) -> LineLayout {
        let target_len = self.target_end - self.method_len - 1;
        let authority_len = line
            .target
            .authority
            .map_or(0, |authority| u32::try_from(authority.len()).unwrap_or(0));
        // An absolute target without path stands for `/`, which is not in the bytes.
        let is_bare = authority_len > 0 && authority_len + SCHEME_LEN == target_len;
        let authority_from = self.method_len + 1 + SCHEME_LEN;
        LineLayout {
            method_len: self.method_len,
            target_end: self.target_end,
            path_len: if is_bare {
                0
            } else {
                u32::try_from(line.target.path.len()).unwrap_or(0)
            },
            authority: (authority_len > 0).then_some((authority_from, authority_from + authority_len)),
            version: self.version,
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
const TOKEN: u8 = 1;

/// Printable ASCII without `#`.
const TARGET: u8 = 2;

/// `uri-host [":" port]` (RFC 3986, section 3.2.2).
pub(crate) const HOST: u8 = 4;

/// What a byte can be part of.
const CLASSES: [u8; 256] = {
    const TOKEN_MARKS: &[u8] = b"!#$%&'*+-.^_`|~";
    const HOST_MARKS: &[u8] = b"-._~%!$&'()*+;=:[]";
    let mut classes = [0; 256];
    let mut byte = b'!';
    while byte <= b'~' {
        let mut class = if byte == b'#' { 0 } else { TARGET };
        if byte.is_ascii_alphanumeric() || contains(TOKEN_MARKS, byte) {
            class |= TOKEN;
        }
        if byte.is_ascii_alphanumeric() || contains(HOST_MARKS, byte) {
            class |= HOST;
        }
        classes[byte as usize] = class;
        byte += 1;
    }
    classes
};

const fn contains(bytes: &[u8], byte: u8) -> bool {
    let mut at = 0;
    while at < bytes.len() {
        if bytes[at] == byte {
            return true;
        }
        at += 1;
    }
    false
}

/// Bytes at the start of `bytes` that are all of `class`.
pub(crate) fn run(bytes: &[u8], class: u8) -> usize {
    bytes
        .iter()
        .position(|byte| CLASSES[usize::from(*byte)] & class == 0)
        .unwrap_or(bytes.len())
}
