//! Whole flows against a parser of the same rules that shares no code with the gate: written to be read, over complete bytes.

use std::sync::LazyLock;

use policy::{Direction, DropReason, HeaderMatch, HttpRule, HttpRuleSet};
use proptest::prelude::*;
use sluice_l7::{GateVerdict, HttpGate, L7Sink, Payload, Segment};

mod oracle {
    //! Judges a whole stream at once, by splitting and searching.

    use policy::DropReason::{self, HttpDenied, HttpMalformed, NotHttp};

    /// What a stream holds.
    #[derive(Debug, Default, PartialEq)]
    pub(crate) struct Judgement {
        /// Method, path, and offset of the byte at which the head is decided.
        pub(crate) allowed: Vec<(String, String, usize)>,
        /// Offset of the first byte that must not pass, and why.
        pub(crate) denied: Option<(usize, DropReason)>,
        /// Whether the stream ends inside a head.
        pub(crate) ends_in_head: bool,
        /// Offsets of framing bytes.
        pub(crate) framing: Vec<usize>,
    }

    /// Name in lower case, and value.
    pub(crate) type Field = (String, String);

    /// Rules, by hand.
    #[derive(Debug, Clone, Copy)]
    pub(crate) struct Rules {
        /// Whether method and path can be allowed at all.
        pub(crate) line: fn(&str, &str) -> bool,
        /// Whether method, path, host and fields are allowed.
        pub(crate) head: fn(&str, &str, Option<&str>, &[Field]) -> bool,
    }

    const LIMIT: usize = 16384;

    pub(crate) fn judge(stream: &[u8], rules: Rules) -> Judgement {
        let mut out = Judgement::default();
        let mut at = 0;
        let mut open = true;
        while at < stream.len() {
            if !open {
                out.denied = Some((at, HttpMalformed));
                return out;
            }
            match head(&stream[at..], rules) {
                Head::Denied(offset, reason) => {
                    out.framing.extend(at..at + offset);
                    out.denied = Some((at + offset, reason));
                    return out;
                }
                Head::Cut => {
                    out.framing.extend(at..stream.len());
                    out.ends_in_head = true;
                    return out;
                }
                Head::Decided {
                    end,
                    method,
                    path,
                    length,
                    persistent,
                } => {
                    out.allowed.push((method, path, at + end));
                    open = persistent;
                    let feed = at + end + 1;
                    out.framing
                        .extend((at..=feed).filter(|offset| *offset < stream.len()));
                    match stream.get(feed) {
                        None => {
                            out.ends_in_head = true;
                            return out;
                        }
                        Some(b'\n') => at = feed + 1,
                        Some(_) => {
                            out.denied = Some((feed, HttpMalformed));
                            return out;
                        }
                    }
                    match length {
                        Some(length) => at = at.saturating_add(length),
                        None => match chunks(stream, &mut at, &mut out.framing) {
                            Some(true) => {}
                            Some(false) => {
                                out.denied = Some((at, HttpMalformed));
                                return out;
                            }
                            None => return out,
                        },
                    }
                }
            }
        }
        out
    }

    /// `Some(false)`: malformed at `at`; `None`: the stream ends first.
    fn chunks(stream: &[u8], at: &mut usize, framing: &mut Vec<usize>) -> Option<bool> {
        loop {
            let mut digits = String::new();
            loop {
                let byte = *stream.get(*at)?;
                if byte == b'\r' && !digits.is_empty() {
                    break;
                }
                if !byte.is_ascii_hexdigit() || digits.len() == 15 {
                    return Some(false);
                }
                digits.push(char::from(byte));
                framing.push(*at);
                *at += 1;
            }
            let size = usize::from_str_radix(&digits, 16).expect("hexadecimal");
            framing.push(*at);
            *at += 1;
            let tail: &[u8] = if size == 0 { b"\n\r\n" } else { b"\n" };
            for expected in tail {
                if stream.get(*at)? != expected {
                    return Some(false);
                }
                framing.push(*at);
                *at += 1;
            }
            if size == 0 {
                return Some(true);
            }
            *at += size;
            for expected in b"\r\n" {
                if stream.get(*at)? != expected {
                    return Some(false);
                }
                framing.push(*at);
                *at += 1;
            }
        }
    }

    enum Head {
        Denied(usize, DropReason),
        Cut,
        Decided {
            end: usize,
            method: String,
            path: String,
            length: Option<usize>,
            persistent: bool,
        },
    }

    fn head(bytes: &[u8], rules: Rules) -> Head {
        // The last byte of a head is its line feed, which may be the 16384th.
        let window = &bytes[..bytes.len().min(LIMIT - 1)];
        let over = if bytes.len() >= LIMIT {
            Head::Denied(LIMIT - 1, HttpMalformed)
        } else {
            Head::Cut
        };
        let line_end = window.iter().position(|b| *b == b'\r' || *b == b'\n');
        let line = &window[..line_end.unwrap_or(window.len())];
        if let Some((offset, reason)) = line_fault(line) {
            return Head::Denied(offset, reason);
        }
        let Some(line_end) = line_end else { return over };
        let parts: Vec<&[u8]> = line.split(|b| *b == b' ').collect();
        if parts.len() == 1 {
            return Head::Denied(line_end, if line.is_empty() { HttpMalformed } else { NotHttp });
        }
        if window[line_end] == b'\n' || parts.len() != 3 || parts[2].len() != 8 {
            return Head::Denied(line_end, HttpMalformed);
        }
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("ASCII");
        let (method, target, is_11) = (text(parts[0]), text(parts[1]), parts[2] == b"HTTP/1.1");
        if method == "CONNECT" {
            return Head::Denied(line_end, HttpDenied);
        }
        let Some((authority, path)) = path_of(&method, &target) else {
            return Head::Denied(line_end, HttpMalformed);
        };
        if !(rules.line)(&method, &path) {
            return Head::Denied(line_end, HttpDenied);
        }
        let mut at = line_end;
        let mut fields = Vec::new();
        loop {
            match window.get(at + 1) {
                None => return over,
                Some(b'\n') => {}
                Some(_) => return Head::Denied(at + 1, HttpMalformed),
            }
            let start = at + 2;
            let Some(len) = window[start..].iter().position(|b| *b == b'\r' || *b == b'\n') else {
                return over;
            };
            at = start + len;
            if window[at] == b'\n' {
                return Head::Denied(at, HttpMalformed);
            }
            if len == 0 {
                break;
            }
            fields.push(&window[start..at]);
        }
        let no_body = method == "GET" || method == "HEAD";
        match judge_fields(&fields, is_11, authority.as_deref(), no_body) {
            Ok(judged) if !(rules.head)(&method, &path, judged.host.as_deref(), &judged.fields) => {
                Head::Denied(at, HttpDenied)
            }
            Ok(judged) => Head::Decided {
                end: at,
                method,
                path,
                length: judged.length,
                persistent: judged.persistent,
            },
            Err(reason) => Head::Denied(at, reason),
        }
    }

    fn token(b: u8) -> bool {
        b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b)
    }

    /// First byte of a line (without its end) that no request line can have there.
    fn line_fault(line: &[u8]) -> Option<(usize, DropReason)> {
        let space = line.iter().position(|b| *b == b' ').unwrap_or(line.len());
        if let Some(bad) = (0..space).find(|i| !token(line[*i]) || *i == 32) {
            return Some((bad, NotHttp));
        }
        if space == line.len() {
            return None;
        }
        if space == 0 {
            return Some((0, NotHttp));
        }
        let target = &line[space + 1..];
        let end = target.iter().position(|b| *b == b' ').unwrap_or(target.len());
        if let Some(bad) = target[..end]
            .iter()
            .position(|b| !b.is_ascii_graphic() || *b == b'#')
        {
            return Some((space + 1 + bad, HttpMalformed));
        }
        if end == target.len() {
            return None;
        }
        if end == 0 {
            return Some((space + 1, HttpMalformed));
        }
        let version = &target[end + 1..];
        for (i, b) in version.iter().enumerate() {
            let good = match i {
                0..=6 => b"HTTP/1."[i] == *b,
                7 => *b == b'0' || *b == b'1',
                _ => false,
            };
            if !good {
                let h2 = i == 5 && (b'2'..=b'9').contains(b);
                return Some((space + 1 + end + 1 + i, if h2 { NotHttp } else { HttpMalformed }));
            }
        }
        None
    }

    fn path_of(method: &str, target: &str) -> Option<(Option<String>, String)> {
        if target == "*" {
            return (method == "OPTIONS").then(|| (None, "*".into()));
        }
        let (authority, path) = if target.starts_with('/') {
            (None, target.to_owned())
        } else {
            let rest = target
                .to_ascii_lowercase()
                .starts_with("http://")
                .then(|| &target[7..])?;
            let end = rest.find(['/', '?']).unwrap_or(rest.len());
            if end == 0 || rest[end..].starts_with('?') {
                return None;
            }
            let path = if end == rest.len() { "/" } else { &rest[end..] };
            (Some(rest[..end].to_owned()), path.to_owned())
        };
        let bare = path.split('?').next()?;
        if bare.contains("//") || bare.contains('\\') {
            return None;
        }
        for segment in bare.split('/') {
            let name = segment.to_ascii_lowercase().replace("%3b", ";");
            if matches!(name.split(';').next(), Some("." | "..")) {
                return None;
            }
        }
        let bytes = bare.as_bytes();
        let mut decoded = Vec::new();
        let mut i = 0;
        while i < bytes.len() {
            if bytes[i] != b'%' {
                decoded.push((bytes[i], false));
                i += 1;
                continue;
            }
            let hex = bare
                .get(i + 1..i + 3)
                .filter(|hex| hex.bytes().all(|b| b.is_ascii_hexdigit()))?;
            let byte = u8::from_str_radix(hex, 16).ok()?;
            let unreserved = byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
            let twice =
                byte == b'%' && bytes.len() >= i + 5 && bytes[i + 3..i + 5].iter().all(u8::is_ascii_hexdigit);
            if byte.is_ascii_control() || unreserved || twice || b"/\\\xc0\xc1".contains(&byte) || byte > 0xf4
            {
                return None;
            }
            decoded.push((byte, true));
            i += 3;
        }
        for pair in decoded.windows(2) {
            if let [(lead, true), (next, true)] = pair
                && ((*lead == 0xe0 && (0x80..0xa0).contains(next))
                    || (*lead == 0xf0 && (0x80..0x90).contains(next)))
            {
                return None;
            }
        }
        Some((authority, path))
    }

    struct Fields {
        length: Option<usize>,
        persistent: bool,
        /// None where servers may differ.
        host: Option<String>,
        fields: Vec<Field>,
    }

    fn judge_fields(
        fields: &[&[u8]],
        is_11: bool,
        authority: Option<&str>,
        no_body: bool,
    ) -> Result<Fields, DropReason> {
        if fields.len() > 100 {
            return Err(HttpMalformed);
        }
        let (mut parsed, mut as_sent) = (Vec::new(), Vec::new());
        for field in fields {
            let colon = field.iter().position(|b| *b == b':').ok_or(HttpMalformed)?;
            let (name, value) = (&field[..colon], &field[colon + 1..]);
            let value_ok = value.iter().all(|b| *b == b'\t' || (b' '..=b'~').contains(b));
            if name.is_empty() || !name.iter().all(|b| token(*b)) || !value_ok {
                return Err(HttpMalformed);
            }
            let text = |bytes: &[u8]| {
                String::from_utf8(bytes.to_vec())
                    .expect("ASCII")
                    .to_ascii_lowercase()
            };
            parsed.push((text(name), text(value).trim_matches([' ', '\t']).to_owned()));
            let value = String::from_utf8_lossy(value);
            as_sent.push((text(name), value.trim_matches([' ', '\t']).to_owned()));
        }
        let framing = [
            "host",
            "expect",
            "upgrade",
            "connection",
            "content-length",
            "transfer-encoding",
        ];
        let mut upgrade = Ok(());
        for (name, value) in &parsed {
            if name.contains('_') && framing.contains(&name.replace('_', "-").as_str()) {
                return Err(HttpMalformed);
            }
            let options: Vec<&str> = value
                .split(',')
                .map(|option| option.trim_matches([' ', '\t']))
                .collect();
            let upgrades = name == "upgrade" || (name == "connection" && options.contains(&"upgrade"));
            if upgrades {
                upgrade = Err(HttpDenied);
            }
        }
        let values = |wanted: &str| {
            parsed
                .iter()
                .filter(|(name, _)| name == wanted)
                .map(|(_, v)| v.as_str())
                .collect::<Vec<_>>()
        };
        let (hosts, lengths, codings, expects) = (
            values("host"),
            values("content-length"),
            values("transfer-encoding"),
            values("expect"),
        );
        let options: Vec<&str> = parsed
            .iter()
            .filter(|(name, _)| name == "connection")
            .flat_map(|(_, v)| v.split(',').map(|o| o.trim_matches([' ', '\t'])))
            .collect();
        let host_char = |c: char| c.is_ascii_alphanumeric() || "-._~%!$&'()*+;=:[]".contains(c);
        let length_ok = |v: &&str| {
            (1..=19).contains(&v.len()) && v.bytes().all(|b| b.is_ascii_digit()) && v.parse::<i64>().is_ok()
        };
        let bad = hosts.len() > 1
            || hosts.iter().any(|h| !h.chars().all(host_char))
            || (hosts.is_empty() && (is_11 || authority.is_some()))
            || authority.is_some_and(|a| hosts.first().is_some_and(|h| !h.eq_ignore_ascii_case(a)))
            || lengths.len() > 1
            || !lengths.iter().all(length_ok)
            || codings.len() > 1
            || codings.iter().any(|c| *c != "chunked" || !is_11)
            || (!lengths.is_empty() && !codings.is_empty())
            || (no_body && (!codings.is_empty() || lengths.iter().any(|l| l.parse() != Ok(0))))
            || expects.len() > 1
            || expects.iter().any(|e| *e != "100-continue")
            || options
                .iter()
                .any(|o| ["content-length", "transfer-encoding", "host", "expect"].contains(o));
        if bad {
            return Err(HttpMalformed);
        }
        upgrade?;
        let persistent = !options.contains(&"close") && (is_11 || options.contains(&"keep-alive"));
        let length = match (lengths.first(), codings.is_empty()) {
            (_, false) => None,
            (None, true) => Some(0),
            (Some(length), true) => Some(
                length
                    .parse::<i64>()
                    .ok()
                    .and_then(|l| usize::try_from(l).ok())
                    .unwrap_or(usize::MAX),
            ),
        };
        let host = as_sent.iter().find(|(name, _)| name == "host");
        Ok(Fields {
            length,
            persistent,
            host: host
                .map(|(_, host)| host.clone())
                .filter(|host| !host.is_empty() && authority.is_none_or(|authority| authority == host)),
            fields: as_sent,
        })
    }
}

const RULES: &[(&str, &str)] = &[
    ("GET|HEAD|POST|OPTIONS", "/a.*"),
    ("GET", "/"),
    ("OPTIONS", "\\*"),
];

static COMPILED: LazyLock<HttpRuleSet> = LazyLock::new(|| {
    let rule = |(method, path): &(&str, &str)| HttpRule {
        method: Some((*method).into()),
        path: Some((*path).into()),
        ..HttpRule::default()
    };
    HttpRuleSet::new(RULES.iter().map(rule).collect()).expect("compiles")
});

/// [`RULES`], by hand.
const BY_LINE: oracle::Rules = oracle::Rules {
    line: allow,
    head: |method, path, _, _| allow(method, path),
};

fn allow(method: &str, path: &str) -> bool {
    match method {
        "GET" => path == "/" || path.starts_with("/a"),
        "HEAD" | "POST" => path.starts_with("/a"),
        "OPTIONS" => path.starts_with("/a") || path == "*",
        _ => false,
    }
}

/// GET and HEAD of `/a...` on `h` with `X-T: 1`, or on `H:1` with `X-T: 1,2` and some `X-U`; POST of `/a...` on any host; GET of `/`.
static CONDITIONAL: LazyLock<HttpRuleSet> = LazyLock::new(|| {
    let rule = |method: &str, path: &str, host: Option<&str>, headers: &[&str]| HttpRule {
        method: Some(method.into()),
        path: Some(path.into()),
        host: host.map(Into::into),
        headers: headers.iter().copied().map(HeaderMatch::parse).collect(),
    };
    let rules = vec![
        rule("GET|HEAD", "/a.*", Some("h"), &["X-T: 1"]),
        rule("GET|HEAD", "/a.*", Some("[A-Z]:1"), &["X-T 1,2", "x-u"]),
        rule("POST", "/a.*", Some(".*"), &[]),
        rule("GET", "/", None, &[]),
    ];
    HttpRuleSet::new(rules).expect("compiles")
});

/// [`CONDITIONAL`], by hand.
const BY_HEAD: oracle::Rules = oracle::Rules {
    line: |method, path| match method {
        "GET" => path == "/" || path.starts_with("/a"),
        "HEAD" | "POST" => path.starts_with("/a"),
        _ => false,
    },
    head: |method, path, host, fields| {
        let value = |name: &str| {
            let spelled: Vec<&str> = fields
                .iter()
                .filter(|(field, _)| {
                    field.len() == name.len()
                        && field.replace(|c: char| !c.is_ascii_alphanumeric(), "-") == name
                })
                .map(|(field, _)| field.as_str())
                .collect();
            let removed = fields.iter().any(|(field, value)| {
                let mut options = value.split(',').map(|option| option.trim_matches([' ', '\t']));
                field == "connection" && options.any(|option| option.eq_ignore_ascii_case(name))
            });
            let values: Vec<&str> = fields
                .iter()
                .filter(|(field, _)| field == name)
                .map(|(_, value)| value.as_str())
                .collect();
            let is_clear = !removed && !spelled.is_empty() && spelled.iter().all(|field| *field == name);
            is_clear.then(|| values.join(","))
        };
        let token = value("x-t");
        match (method, host) {
            ("GET", _) if path == "/" => true,
            ("POST", Some(_)) => true,
            ("GET" | "HEAD", Some("h")) => token.as_deref() == Some("1"),
            ("GET" | "HEAD", Some("H:1")) => token.as_deref() == Some("1,2") && value("x-u").is_some(),
            _ => false,
        }
    },
};

/// Either rules, compiled and by hand.
fn rules(by_head: bool) -> (&'static HttpRuleSet, oracle::Rules) {
    if by_head {
        (&CONDITIONAL, BY_HEAD)
    } else {
        (&COMPILED, BY_LINE)
    }
}

#[derive(Default)]
struct Log(Vec<(String, String, Option<DropReason>)>);

impl L7Sink for Log {
    fn request(&mut self, method: &[u8], path: &[u8], denied: Option<(DropReason, Option<Direction>)>) {
        let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
        self.0
            .push((text(method), text(path), denied.map(|(reason, _)| reason)));
    }
    fn response(&mut self, _: u16) {}
}

/// Bytes that a failing case shows as text.
#[derive(Clone)]
struct Bytes(Vec<u8>);

impl std::fmt::Debug for Bytes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "b\"{}\"", self.0.escape_ascii())
    }
}

/// Requests, mostly well-formed, one after the other.
fn stream() -> impl Strategy<Value = Bytes> {
    let method = prop_oneof![8 => "GET|HEAD|POST", 1 => "OPTIONS|CONNECT|PUT|get|PRI", 1 => "[!-~]{0,3}"];
    let target = prop_oneof![
        6 => "/a[a-z]{0,3}(\\?[a-z/%2f.]{0,4})?",
        2 => "/",
        1 => "/b|\\*|/a/\\.\\./b|/%61|/a%2fb|/a//b|/a\\\\b|/a%20b|/a%2520|/a%25|/a;x|/a/\\.\\.;x|/a%e2%82%ac|/a%c0%af|/a%e0%80%80",
        1 => "(http|HTTP|https)://(h|H:1|h:1|)(/a|/|\\?q|)",
        1 => "/a[ -~]{0,4}",
    ];
    let version = prop_oneof![12 => Just("HTTP/1.1"), 2 => Just("HTTP/1.0"), 1 => Just("HTTP/1.2"), 1 => Just("HTTP/2.0"), 1 => Just("")];
    let host = prop_oneof![12 => Just("Host: h\r\n"), 2 => Just("Host: H:1\r\nX-T: 1\r\nX-U: 3\r\nx-t: 2\r\n"), 1 => Just("Host: H:1\r\n"), 1 => Just(""), 1 => Just("Host: h\r\nHost: h\r\n"), 1 => Just("Host: a b\r\n")];
    let field = prop_oneof![
        4 => "X-[a-z]{1,4}: [ -~]{0,6}\r\n",
        6 => Just("X-T: 1\r\n".to_owned()),
        3 => "[Xx][-_][TtUu]:[ \t]{0,2}(1|2|1,2|)[ \t]{0,1}\r\n",
        1 => "Connection: (x-t|close, X-U)\r\n",
        2 => "Connection: (close|keep-alive|x, Close|upgrade|host)\r\n",
        1 => "(Upgrade: h2c|Expect: 100-continue|Expect: x|Content_Length: 3|A b: c|A : b|: c|A\tb: c|Abc| folded)\r\n",
        1 => "A: [\t -~\u{80}\u{7}]{0,2}\r\n",
    ];
    let body = prop_oneof![
        4 => Just((String::new(), Vec::new())),
        3 => proptest::collection::vec(any::<u8>(), 0..40).prop_map(|body| (format!("Content-Length: {}\r\n", body.len()), body)),
        1 => Just(("Content-Length: 9223372036854775808\r\n".into(), Vec::new())),
        1 => Just(("Content-Length: +3\r\n".into(), b"abc".to_vec())),
        1 => Just(("Content-Length: 3\r\nTransfer-Encoding: chunked\r\n".into(), b"0\r\n\r\n".to_vec())),
        3 => proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..20), 0..4).prop_map(|chunks| {
            let mut body = Vec::new();
            for chunk in chunks {
                body.extend(format!("{:x}\r\n", chunk.len()).bytes());
                body.extend(chunk);
                body.extend(b"\r\n");
            }
            body.extend(b"0\r\n\r\n");
            ("Transfer-Encoding: chunked\r\n".into(), body)
        }),
    ];
    let request = (
        method,
        target,
        version,
        host,
        proptest::collection::vec(field, 0..3),
        body,
    )
        .prop_map(|(method, target, version, host, fields, (framing, body))| {
            let mut bytes = format!(
                "{method} {target} {version}\r\n{host}{}{framing}\r\n",
                fields.concat()
            )
            .into_bytes();
            bytes.extend(body);
            bytes
        });
    let plain = "/a[a-z]{0,4}"
        .prop_map(|path| format!("GET {path} HTTP/1.1\r\nHost: h\r\nX-T: 1\r\n\r\n").into_bytes());
    let hosts = "(GET|POST) (/a|http://[Hh]:1/a) HTTP/1\\.[01]\r\n(Host:( h| [Hh]:1)?\r\n)?X-T: 1(,2)?\r\nX-U: \r\n\r\n"
        .prop_map(String::into_bytes);
    let requests = proptest::collection::vec(prop_oneof![2 => plain, 1 => hosts, 2 => request], 0..5)
        .prop_map(|requests| requests.concat());
    let mutation = proptest::option::weighted(
        0.3,
        (
            any::<prop::sample::Index>(),
            prop_oneof![Just(b'\r'), Just(b'\n'), Just(b' '), any::<u8>()],
            0u8..3,
        ),
    );
    (requests, mutation).prop_map(|(mut bytes, mutation)| {
        if let Some((at, byte, kind)) = mutation
            && !bytes.is_empty()
        {
            let at = at.index(bytes.len());
            match kind {
                0 => bytes[at] = byte,
                1 => bytes.insert(at, byte),
                _ => drop(bytes.remove(at)),
            }
        }
        Bytes(bytes)
    })
}

/// Sequence number of byte `at` of a stream.
fn seq(start: u32, at: usize) -> u32 {
    start.wrapping_add(u32::try_from(at).expect("short"))
}

fn segment<'a>(seq: u32, slices: &'a [&'a [u8]]) -> Segment<'a> {
    Segment {
        seq,
        ack: 1,
        payload: Payload::new(slices),
        fin: false,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000, ..ProptestConfig::default() })]

    /// In order, in any pieces and slices: the oracle's verdicts, at the oracle's byte.
    #[test]
    fn any_segmentation_gives_the_verdicts_of_the_whole_stream(
        stream in stream(),
        cuts in proptest::collection::vec(any::<prop::sample::Index>(), 0..12),
        slice in 1usize..40,
        start in prop_oneof![any::<u32>(), (u32::MAX - 200)..=u32::MAX],
        bytewise in prop::bool::weighted(0.1),
        by_head in any::<bool>(),
    ) {
        let stream = stream.0;
        let (set, by_hand) = rules(by_head);
        let expected = oracle::judge(&stream, by_hand);
        let rules = [(Direction::Ingress, set)];
        let mut ends: Vec<usize> = if bytewise { (1..stream.len()).collect() } else { cuts.iter().map(|cut| cut.index(stream.len() + 1)).collect() };
        ends.push(stream.len());
        ends.sort_unstable();
        let (mut gate, mut log, mut at, mut outcome) = (HttpGate::new(start, 1), Log::default(), 0, None);
        for end in ends {
            let slices: Vec<&[u8]> = stream[at..end].chunks(slice).collect();
            match gate.client(&segment(seq(start, at), &slices), &rules, &mut log) {
                GateVerdict::Forward => at = end,
                GateVerdict::Deny(denial) => {
                    outcome = Some((end, denial));
                    break;
                }
                GateVerdict::Drop(reason) => prop_assert!(false, "dropped: {:?}", reason),
            }
        }
        match (outcome, expected.denied) {
            (None, None) => prop_assert_eq!(at, stream.len()),
            (Some((end, denial)), Some((offset, reason))) => {
                prop_assert!(at <= offset && offset < end, "denied in {}..{}, not at {}", at, end, offset);
                prop_assert_eq!(denial.reason, reason);
                prop_assert_eq!(denial.server_reset_seq, seq(start, at));
                prop_assert_eq!(denial.client_ack, seq(start, end));
            }
            other => prop_assert!(false, "gate and oracle disagree: {:?}", other),
        }
        // Requests that shared the denied segment were never forwarded, and are reported so.
        let reason = outcome.map(|(_, denial)| denial.reason);
        let reported: Vec<_> = expected.allowed.iter()
            .map(|(method, path, end)| (method.clone(), path.clone(), if *end >= at { reason } else { None }))
            .collect();
        prop_assert_eq!(log.0.get(..reported.len()).unwrap_or(&log.0), &reported[..]);
        let rest = log.0.get(reported.len()..).unwrap_or_default();
        prop_assert!(rest.len() <= 1 && rest.iter().all(|event| event.2 == reason && reason.is_some()), "{:?}", rest);

        // A FIN passes exactly where no head is cut.
        if outcome.is_none() {
            let fin = Segment { fin: true, ..segment(seq(start, at), &[]) };
            let verdict = gate.client(&fin, &rules, &mut log);
            prop_assert_eq!(matches!(verdict, GateVerdict::Deny(_)), expected.ends_in_head);
        }
    }

    /// Repeated, overlapping and early segments of one stream change nothing.
    #[test]
    fn retransmission_and_reordering_of_true_bytes_never_change_the_verdict(
        stream in stream(),
        sends in proptest::collection::vec((any::<prop::sample::Index>(), 1usize..60, any::<bool>()), 0..60),
        start in (u32::MAX - 300)..=u32::MAX,
        by_head in any::<bool>(),
    ) {
        let stream = stream.0;
        let (set, by_hand) = rules(by_head);
        let expected = oracle::judge(&stream, by_hand);
        let rules = [(Direction::Ingress, set)];
        let (mut gate, mut log, mut at) = (HttpGate::new(start, 1), Log::default(), 0);
        let mut sends: Vec<_> = sends.into_iter().map(|(from, len, ack)| (Some(from), len, ack)).collect();
        // In the end TCP fills every hole.
        sends.extend(std::iter::repeat_n((None, 50, true), stream.len() / 50 + 1));
        let mut outcome = None;
        for (from, len, ack) in sends {
            let from = from.map_or(at, |from| from.index(stream.len() + 1));
            let end = (from + len).min(stream.len());
            let verdict = gate.client(&segment(seq(start, from), &[&stream[from..end]]), &rules, &mut log);
            match verdict {
                GateVerdict::Forward if from <= at => at = at.max(end),
                GateVerdict::Forward => prop_assert!(from == end, "bytes ahead passed"),
                GateVerdict::Drop(DropReason::L7OutOfOrder) => prop_assert!(from > at),
                GateVerdict::Drop(reason) => prop_assert!(false, "dropped: {:?}", reason),
                GateVerdict::Deny(denial) => {
                    outcome = Some(denial.reason);
                    break;
                }
            }
            if ack {
                let reply = Segment { seq: 1, ack: seq(start, at), payload: Payload::EMPTY, fin: false };
                prop_assert_eq!(gate.server(&reply, &mut log), GateVerdict::Forward);
            }
        }
        prop_assert_eq!(outcome, expected.denied.map(|(_, reason)| reason));
        if let Some((offset, _)) = expected.denied {
            prop_assert!(at <= offset, "{} bytes passed, {} may", at, offset);
        }
        let passed = log.0.iter().filter(|(_, _, denied)| denied.is_none()).count();
        prop_assert_eq!(passed, expected.allowed.iter().filter(|(_, _, end)| *end < at).count());
    }

    /// A client that sends different bytes for the same sequence numbers, and a server that keeps whichever copy it likes until
    /// it acknowledges: what the server ends up with holds nothing that is denied.
    #[test]
    fn server_never_assembles_a_denied_request_whichever_copy_it_keeps(
        streams in (stream(), stream()),
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        sends in proptest::collection::vec(
            (any::<bool>(), 0usize..80, 1usize..60, proptest::option::weighted(0.4, any::<prop::sample::Index>()), any::<bool>(), any::<bool>()), 1..80),
        start in (u32::MAX - 300)..=u32::MAX,
        related in any::<bool>(),
        by_head in any::<bool>(),
    ) {
        let (set, by_hand) = rules(by_head);
        let (one, mut two) = (streams.0.0, streams.1.0);
        if related {
            two = one.clone();
        }
        for (at, byte) in changes {
            if !two.is_empty() {
                let at = at.index(two.len());
                two[at] = byte;
            }
        }
        let rules = [(Direction::Ingress, set)];
        let (mut gate, mut log) = (HttpGate::new(start, 1), Log::default());
        let mut server: Vec<u8> = Vec::new();
        let mut acked = 0;
        for (first, back, len, ack, newest_wins, delivered) in sends {
            let source = if first { &one } else { &two };
            let from = server.len().saturating_sub(back).min(source.len());
            let end = (from + len).min(source.len());
            let verdict = gate.client(&segment(seq(start, from), &[&source[from..end]]), &rules, &mut log);
            if verdict != GateVerdict::Forward {
                if matches!(verdict, GateVerdict::Deny(_)) {
                    break;
                }
                continue;
            }
            // Lost on the way: the gate has judged it, the server has not seen it. What it would assemble later is what is sent
            // later, which the gate must hold to the first version.
            if delivered && from <= server.len() {
                for (at, byte) in (from..end).zip(&source[from..end]) {
                    if at >= server.len() {
                        server.push(*byte);
                    } else if at >= acked && newest_wins {
                        server[at] = *byte;
                    }
                }
            }
            if let Some(ack) = ack {
                acked = acked.max(ack.index(server.len() + 1));
                let reply = Segment { seq: 1, ack: seq(start, acked), payload: Payload::EMPTY, fin: false };
                prop_assert_eq!(gate.server(&reply, &mut log), GateVerdict::Forward);
            }
        }
        prop_assert_eq!(oracle::judge(&server, by_hand).denied, None, "server has {:?}", String::from_utf8_lossy(&server));
    }
}
