//! `sluice policy decide`: a stream of flows, a stream of verdicts.
//!
//! Lines are answered in order. Nothing grows with the number of lines: a line has a largest length, names are looked up as they stand
//! in it, and answers leave before the stream waits for more input.

use std::borrow::Cow;
use std::fmt;
use std::io::{self, BufRead, BufReader, BufWriter, Read, Write};
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, bail};
use control::decide::Request;
use control::{Engine, Flow, Outcome, Party, PartyError, Reason, Verdict};
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::manifests::Manifests;
use crate::cli::{DecideArgs, parse_protocol};

/// Longest line, bytes.
const LINE_BYTES: usize = 1 << 20;
/// Bytes read and written at a time.
const BUFFER_BYTES: usize = 64 << 10;

/// A line of input.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line<'a> {
    #[serde(borrow)]
    from: Cow<'a, str>,
    #[serde(borrow)]
    to: Cow<'a, str>,
    port: u16,
    #[serde(borrow, default = "tcp", alias = "protocol")]
    proto: Cow<'a, str>,
    #[serde(borrow, default)]
    http: Option<Http<'a>>,
}

fn tcp() -> Cow<'static, str> {
    "TCP".into()
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Http<'a> {
    #[serde(borrow, default = "get")]
    method: Cow<'a, str>,
    #[serde(borrow, default = "root")]
    path: Cow<'a, str>,
    #[serde(borrow, default)]
    host: Cow<'a, str>,
    #[serde(default)]
    headers: Headers,
}

fn get() -> Cow<'static, str> {
    "GET".into()
}

fn root() -> Cow<'static, str> {
    "/".into()
}

/// An object of strings or lists of strings, in its order.
#[derive(Debug, Default)]
struct Headers(Vec<(String, Value)>);

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Value {
    One(String),
    Several(Vec<String>),
}

impl Value {
    fn all(&self) -> &[String] {
        match self {
            Self::One(value) => std::slice::from_ref(value),
            Self::Several(values) => values,
        }
    }
}

impl<'de> Deserialize<'de> for Headers {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = Headers;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of strings or lists of strings")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(Headers(entries))
            }
        }
        deserializer.deserialize_map(Entries)
    }
}

impl Headers {
    fn fields(&self) -> Vec<(&str, &[u8])> {
        self.0
            .iter()
            .flat_map(|(name, value)| {
                value
                    .all()
                    .iter()
                    .map(move |value| (name.as_str(), value.as_bytes()))
            })
            .collect()
    }
}

/// Why a line has no verdict.
#[derive(Debug, thiserror::Error)]
enum LineError {
    #[error("is longer than {LINE_BYTES} bytes")]
    TooLong,
    #[error("{}", in_line(.0))]
    Json(#[from] serde_json::Error),
    #[error("{field}: {source}")]
    Party { field: &'static str, source: PartyError },
    #[error("proto: {0}")]
    Protocol(#[from] crate::cli::ProtocolError),
}

/// The parser counts lines from the one that it was given.
fn in_line(error: &serde_json::Error) -> String {
    error.to_string().replace(" at line 1 column ", " at column ")
}

pub(super) fn run(args: &DecideArgs) -> anyhow::Result<ExitCode> {
    if args.manifests.manifests == Path::new("-") {
        bail!("-f -: flows come from standard input, manifests must come from elsewhere");
    }
    let manifests = Manifests::read_valid(&args.manifests.manifests, &args.manifests.cluster)?;
    let mut engine = Engine::new(&manifests.index);
    let input = BufReader::with_capacity(BUFFER_BYTES, io::stdin().lock());
    let output = BufWriter::with_capacity(BUFFER_BYTES, io::stdout().lock());
    match answer_all(&mut engine, input, output) {
        Ok(0) => Ok(ExitCode::SUCCESS),
        Ok(_bad_lines) => Ok(ExitCode::FAILURE),
        // Nobody reads any more, as after `| head`.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(ExitCode::SUCCESS),
        Err(error) => Err(error).context("cannot read flows or write verdicts"),
    }
}

/// Answers every line and returns how many were no flows.
fn answer_all<R: Read>(
    engine: &mut Engine<'_>,
    mut input: BufReader<R>,
    mut output: impl Write,
) -> io::Result<u64> {
    let (mut number, mut bad) = (0u64, 0u64);
    let mut line = Vec::new();
    loop {
        if input.buffer().is_empty() {
            // The next read may wait; whoever sent the last line must not.
            output.flush()?;
        }
        line.clear();
        let limit = LINE_BYTES as u64 + 1;
        if input.by_ref().take(limit).read_until(b'\n', &mut line)? == 0 {
            break;
        }
        number += 1;
        let is_long = line.len() > LINE_BYTES && !line.ends_with(b"\n");
        if is_long {
            input.skip_until(b'\n')?;
        }
        let text = line.trim_ascii();
        if text.is_empty() {
            continue;
        }
        let answered = if is_long {
            Err(LineError::TooLong)
        } else {
            decide(engine, text)
        };
        match answered {
            Ok(verdict) => write_verdict(&mut output, engine, &verdict)?,
            Err(error) => {
                bad += 1;
                let error = serde_json::json!({"error": format!("line {number}: {error}"), "line": number});
                writeln!(output, "{error}")?;
            }
        }
    }
    output.flush()?;
    Ok(bad)
}

fn decide(engine: &mut Engine<'_>, text: &[u8]) -> Result<Verdict, LineError> {
    let line: Line<'_> = serde_json::from_slice(text)?;
    let unknown = Verdict::of(Outcome::Deny, Reason::UnknownPod);
    let party = |field, name: &str| -> Result<Option<Party>, LineError> {
        match engine.party(name) {
            Ok(party) => Ok(Some(party)),
            Err(PartyError::UnknownPod(_)) => Ok(None),
            Err(source) => Err(LineError::Party { field, source }),
        }
    };
    let (from, to) = (party("from", &line.from)?, party("to", &line.to)?);
    let protocol = parse_protocol(&line.proto)?;
    let (Some(from), Some(to)) = (from, to) else {
        return Ok(unknown);
    };
    let headers = line
        .http
        .as_ref()
        .map(|http| http.headers.fields())
        .unwrap_or_default();
    let request = line.http.as_ref().map(|http| Request {
        method: &http.method,
        path: &http.path,
        host: &http.host,
        headers: &headers,
    });
    Ok(engine.decide(&Flow {
        from,
        to,
        port: line.port,
        protocol,
        request,
    }))
}

fn write_verdict(output: &mut impl Write, engine: &Engine<'_>, verdict: &Verdict) -> io::Result<()> {
    // By hand, the words being plain: this is what most of the time would go into.
    output.write_all(b"{\"verdict\":\"")?;
    output.write_all(verdict.outcome.name().as_bytes())?;
    output.write_all(b"\",\"reason\":\"")?;
    output.write_all(verdict.reason.name().as_bytes())?;
    output.write_all(b"\",\"rules\":[")?;
    for (i, rule) in verdict.rules().enumerate() {
        if i > 0 {
            output.write_all(b",")?;
        }
        serde_json::to_writer(&mut *output, engine.rule(rule))?;
    }
    output.write_all(b"]")?;
    if let Some(backend) = verdict.backend {
        let backend = std::net::SocketAddr::new(backend.addr, backend.port);
        write!(output, ",\"backend\":\"{backend}\"")?;
    }
    output.write_all(b"}\n")
}
