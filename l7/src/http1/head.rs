//! Request heads: `httparse` as tokenizer inside the rules of RFC 9112 that keep request boundaries unambiguous.
//!
//! Beyond what `httparse` checks: every line ends with CR LF and none is empty before the last; only ASCII; exactly one `Host` in
//! HTTP/1.1, equal to the authority of an absolute target; body framing is one `Content-Length` of digits or, in HTTP/1.1, one
//! `Transfer-Encoding: chunked`, never both; `Expect` is `100-continue`; no `Upgrade` and no `CONNECT`, because what follows them is
//! not HTTP. HTTP/1.0 is taken under the same rules, except that `Host` may be absent; it has no `Transfer-Encoding`, and its
//! connection ends after the request unless `Connection: keep-alive` asks otherwise.

use std::mem::MaybeUninit;

use policy::DropReason;

use super::line::{self, LineStep, LineView, ParsedLine, RequestLine, Version};
use super::target::TargetError;

/// Largest request head, bytes, its empty line included.
pub const HEAD_LIMIT: usize = 16 << 10;

/// Most header fields of a request; Envoy's limit as Cilium uses it.
pub const FIELD_LIMIT: usize = 100;

/// Why a head is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HeadError {
    /// Not HTTP/1: TLS, the HTTP/2 preface, any other protocol.
    #[error("not HTTP/1")]
    NotHttp,
    /// A line end before the request line.
    #[error("empty line before the request")]
    EmptyLine,
    /// CR without LF or LF without CR.
    #[error("line end that is not CR LF")]
    LineEnd,
    /// A request line without target or version, or with more than its three parts.
    #[error("malformed request line")]
    RequestLine,
    /// A version that is neither HTTP/1.0 nor HTTP/1.1.
    #[error("unsupported version")]
    Version,
    /// The request target.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// A header field that breaks the grammar, or whose name some servers read as a framing field.
    #[error("malformed header field")]
    Field,
    /// More than [`HEAD_LIMIT`] bytes.
    #[error("head too large")]
    TooLarge,
    /// More than [`FIELD_LIMIT`] fields.
    #[error("too many header fields")]
    TooManyFields,
    /// `Host` missing, repeated, malformed, or not the target's authority.
    #[error("missing or contradicting host")]
    Host,
    /// `Content-Length` repeated or not 1*DIGIT up to 2^63-1.
    #[error("ambiguous content length")]
    ContentLength,
    /// `Transfer-Encoding` other than one `chunked` in HTTP/1.1.
    #[error("ambiguous transfer encoding")]
    TransferEncoding,
    /// Both of them.
    #[error("content length and transfer encoding")]
    BothFramings,
    /// `Expect` other than one `100-continue`.
    #[error("unknown expectation")]
    Expect,
    /// `Connection` names a field that frames or routes the request.
    #[error("connection option that removes framing")]
    Connection,
    /// A body on GET or HEAD: servers that ignore it (RFC 9110, 9.3.1, gives it no meaning) read its bytes as the next request.
    #[error("body on GET or HEAD")]
    UnexpectedBody,
    /// `CONNECT`.
    #[error("CONNECT is not allowed")]
    Connect,
    /// `Upgrade`, whatever to.
    #[error("upgrade is not allowed")]
    Upgrade,
}

impl HeadError {
    /// The drop reason that counts it.
    #[must_use]
    pub const fn drop_reason(self) -> DropReason {
        match self {
            Self::NotHttp => DropReason::NotHttp,
            Self::Connect | Self::Upgrade => DropReason::HttpDenied,
            _ => DropReason::HttpMalformed,
        }
    }
}

/// What follows a head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// So many bytes; 0 without `Content-Length`.
    Length(u64),
    /// Chunks.
    Chunked,
}

/// A request head that passed every rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head<'a> {
    /// The request line.
    pub line: ParsedLine<'a>,
    /// What rules of a host are compared with; empty if there is no host that all servers read alike.
    pub host: &'a str,
    /// The body.
    pub framing: Framing,
    /// Whether another request may follow on the connection.
    pub is_persistent: bool,
}

/// Finds the end of the header section: counts on the request line's carriage return having gone before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FieldScanner {
    after_return: bool,
    line_is_empty: bool,
}

/// Progress of [`FieldScanner::feed`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ScanStep {
    /// All bytes belong to the head; it goes on.
    More,
    /// The carriage return of the empty line is the last of so many bytes.
    Complete(usize),
}

impl Default for FieldScanner {
    fn default() -> Self {
        Self {
            after_return: true,
            line_is_empty: false,
        }
    }
}

impl FieldScanner {
    /// Takes the next bytes.
    ///
    /// # Errors
    /// [`HeadError::LineEnd`] at the first line end that is not CR LF.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<ScanStep, HeadError> {
        let mut at = 0;
        loop {
            let rest = bytes.get(at..).unwrap_or_default();
            if rest.is_empty() {
                return Ok(ScanStep::More);
            }
            if self.after_return {
                if rest.first() != Some(&b'\n') {
                    return Err(HeadError::LineEnd);
                }
                (self.after_return, self.line_is_empty) = (false, true);
                at += 1;
                continue;
            }
            let Some(found) = memchr::memchr2(b'\r', b'\n', rest) else {
                self.line_is_empty = false;
                return Ok(ScanStep::More);
            };
            if rest.get(found) == Some(&b'\n') {
                return Err(HeadError::LineEnd);
            }
            at += found + 1;
            if self.line_is_empty && found == 0 {
                return Ok(ScanStep::Complete(at));
            }
            self.after_return = true;
        }
    }
}

/// Parses exactly one head, from the method to the empty line's line feed.
///
/// # Errors
/// The first rule that `bytes` break, in the order of the bytes; [`HeadError::RequestLine`] or [`HeadError::LineEnd`] when the
/// head is not complete or does not end where `bytes` do.
pub fn parse(bytes: &[u8]) -> Result<Head<'_>, HeadError> {
    let limited = bytes.get(..bytes.len().min(HEAD_LIMIT)).unwrap_or_default();
    let mut line = RequestLine::default();
    let LineStep::Complete(len) = line.feed(limited)? else {
        return Err(if bytes.len() > HEAD_LIMIT {
            HeadError::TooLarge
        } else {
            HeadError::RequestLine
        });
    };
    let parsed = line.finish(bytes)?;
    let judge = || {
        parse_fields(bytes, &line.layout(&parsed).view(bytes), |fields| Head {
            line: parsed,
            host: fields.host,
            framing: fields.framing,
            is_persistent: fields.is_persistent,
        })
    };
    match FieldScanner::default().feed(limited.get(len..).unwrap_or_default())? {
        ScanStep::Complete(end) if bytes.get(len + end..) == Some(b"\n") && bytes.len() <= HEAD_LIMIT => {
            judge()
        }
        ScanStep::Complete(end) if len + end < HEAD_LIMIT => Err(HeadError::LineEnd),
        _ if bytes.len() > HEAD_LIMIT => Err(HeadError::TooLarge),
        _ => Err(HeadError::LineEnd),
    }
}

/// Fields that decide where a request ends or whom it is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Field {
    Host,
    Expect,
    Upgrade,
    Connection,
    ContentLength,
    TransferEncoding,
}

impl Field {
    fn of(name: &str) -> Result<Option<Self>, HeadError> {
        let (field, canonical) = match name.len() {
            4 => (Self::Host, "host"),
            6 => (Self::Expect, "expect"),
            7 => (Self::Upgrade, "upgrade"),
            10 => (Self::Connection, "connection"),
            14 => (Self::ContentLength, "content-length"),
            17 => (Self::TransferEncoding, "transfer-encoding"),
            _ => return Ok(None),
        };
        if name.eq_ignore_ascii_case(canonical) {
            return Ok(Some(field));
        }
        // CGI-like interfaces turn `-` into `_`: to them `Content_Length` is Content-Length.
        let alike = |(a, b): (u8, u8)| a.eq_ignore_ascii_case(&b) || (a == b'_' && b == b'-');
        if name.bytes().zip(canonical.bytes()).all(alike) {
            Err(HeadError::Field)
        } else {
            Ok(None)
        }
    }
}

/// What the fields say.
#[derive(Debug)]
pub(crate) struct Fields<'s, 'a> {
    pub(crate) framing: Framing,
    pub(crate) is_persistent: bool,
    /// See [`Head::host`].
    pub(crate) host: &'a str,
    headers: &'s [httparse::Header<'a>],
}

impl<'a> Fields<'_, 'a> {
    /// Calls `read` with names and values of all fields, in the order sent.
    pub(crate) fn with_headers<T>(&self, read: impl FnOnce(&[(&'a str, &'a [u8])]) -> T) -> T {
        let mut headers: [(&str, &[u8]); FIELD_LIMIT] = [("", &[]); FIELD_LIMIT];
        for (place, header) in headers.iter_mut().zip(self.headers) {
            *place = (header.name, header.value);
        }
        read(headers.get(..self.headers.len()).unwrap_or_default())
    }
}

/// Judges the fields of a complete head whose line ends were checked by [`FieldScanner`] and whose first line is `line`; `then`
/// gets what they say.
///
/// # Errors
/// The rule that is broken.
pub(crate) fn parse_fields<'a, T>(
    bytes: &'a [u8],
    line: &LineView<'_>,
    then: impl FnOnce(&Fields<'_, 'a>) -> T,
) -> Result<T, HeadError> {
    if !bytes.is_ascii() {
        return Err(HeadError::Field);
    }
    let mut fields = [const { MaybeUninit::uninit() }; FIELD_LIMIT];
    let mut request = httparse::Request::new(&mut []);
    match request.parse_with_uninit_headers(bytes, &mut fields) {
        Ok(httparse::Status::Complete(len)) if len == bytes.len() => {}
        Err(httparse::Error::TooManyHeaders) => return Err(HeadError::TooManyFields),
        _ => return Err(HeadError::Field),
    }
    // Two parsers read the line; what they disagree on, a server may read either way.
    let minor = match line.version {
        Version::Http10 => 0,
        Version::Http11 => 1,
    };
    let seen = (
        request.method.map(str::as_bytes),
        request.path.map(str::as_bytes),
        request.version,
    );
    if seen != (Some(line.method), Some(line.raw_target), Some(minor)) {
        return Err(HeadError::RequestLine);
    }
    let mut host = None;
    let mut length = None;
    let mut is_chunked = false;
    let mut expects = false;
    let mut options = ConnectionOptions::default();
    for field in request.headers.iter() {
        let Some(kind) = Field::of(field.name)? else {
            continue;
        };
        match kind {
            Field::Host if host.is_some() => return Err(HeadError::Host),
            Field::Host => host = Some(host_value(field.value)?),
            Field::ContentLength if length.is_some() => return Err(HeadError::ContentLength),
            Field::ContentLength => {
                length = Some(content_length(field.value).ok_or(HeadError::ContentLength)?)
            }
            Field::TransferEncoding => {
                let once = !std::mem::replace(&mut is_chunked, true);
                if !once || line.version == Version::Http10 || !field.value.eq_ignore_ascii_case(b"chunked") {
                    return Err(HeadError::TransferEncoding);
                }
            }
            Field::Expect => {
                let once = !std::mem::replace(&mut expects, true);
                if !once || !field.value.eq_ignore_ascii_case(b"100-continue") {
                    return Err(HeadError::Expect);
                }
            }
            Field::Connection => options.add(field.value)?,
            Field::Upgrade => options.upgrade = true,
        }
    }
    let host = match (host, line.authority) {
        (None, None) if line.version == Version::Http10 => "",
        (Some(host), None) => host,
        (Some(host), Some(authority)) if host.as_bytes() == authority => host,
        // The same host, but rules tell the cases apart, and which of the two a server takes is open.
        (Some(host), Some(authority)) if host.as_bytes().eq_ignore_ascii_case(authority) => "",
        _ => return Err(HeadError::Host),
    };
    let framing = match (length, is_chunked) {
        (Some(_), true) => return Err(HeadError::BothFramings),
        (None, true) => Framing::Chunked,
        (length, false) => Framing::Length(length.unwrap_or(0)),
    };
    if framing != Framing::Length(0) && matches!(line.method, b"GET" | b"HEAD") {
        return Err(HeadError::UnexpectedBody);
    }
    // Last, because it is the only rule that a well-formed head breaks.
    if options.upgrade {
        return Err(HeadError::Upgrade);
    }
    let is_persistent = !options.close && (line.version == Version::Http11 || options.keep_alive);
    Ok(then(&Fields {
        framing,
        is_persistent,
        host,
        headers: request.headers,
    }))
}

/// `1*DIGIT` up to 2^63-1: no sign, no list, no blank inside.
fn content_length(value: &[u8]) -> Option<u64> {
    if value.is_empty() || value.len() > 19 {
        return None;
    }
    let length = value.iter().try_fold(0u64, |sum, byte| {
        let digit = byte.is_ascii_digit().then(|| u64::from(byte - b'0'))?;
        sum.checked_mul(10)?.checked_add(digit)
    })?;
    i64::try_from(length).is_ok().then_some(length)
}

/// `uri-host [":" port]` by its characters (RFC 3986, section 3.2.2); empty is allowed (RFC 9112, section 3.2).
fn host_value(value: &[u8]) -> Result<&str, HeadError> {
    if line::run(value, line::HOST) == value.len() {
        std::str::from_utf8(value).map_err(|_not_ascii| HeadError::Host)
    } else {
        Err(HeadError::Host)
    }
}

#[derive(Debug, Clone, Copy, Default)]
struct ConnectionOptions {
    close: bool,
    keep_alive: bool,
    upgrade: bool,
}

impl ConnectionOptions {
    fn add(&mut self, value: &[u8]) -> Result<(), HeadError> {
        for option in value.split(|byte| *byte == b',') {
            let option = option.trim_ascii();
            if option.eq_ignore_ascii_case(b"close") {
                self.close = true;
            } else if option.eq_ignore_ascii_case(b"keep-alive") {
                self.keep_alive = true;
            } else if option.eq_ignore_ascii_case(b"upgrade") {
                self.upgrade = true;
            } else if [&b"content-length"[..], b"transfer-encoding", b"host", b"expect"]
                .iter()
                .any(|name| option.eq_ignore_ascii_case(name))
            {
                // An intermediary removes what `Connection` names (RFC 9110, section 7.6.1).
                return Err(HeadError::Connection);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
