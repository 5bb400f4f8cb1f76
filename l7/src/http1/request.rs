//! The client's direction as a sequence of requests: where each begins and ends, and whether it may pass.
//!
//! Bytes are judged strictly in order, so that how they were cut into segments cannot change a verdict. The request line is
//! decided at its carriage return, the head as a whole at the carriage return of its empty line: a server that takes a bare
//! carriage return for a line end sees neither before the decision. A line that only some hosts or headers may follow passes,
//! and the end of the head, without which no server acts on it, waits for the decision.

use policy::{Direction, DropReason, HttpRequest, HttpRuleSet, LineVerdict};

use super::body::{BodyStep, Chunked};
use super::head::{FieldScanner, Fields, Framing, HEAD_LIMIT, HeadError, ScanStep, parse_fields};
use super::line::{LineLayout, LineStep, ParsedLine, RequestLine};
use super::response::Outstanding;
use crate::gate::{L7Sink, Rules};
use crate::sequence::{CopyFull, JudgedStream};

/// Why a byte may not pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) reason: DropReason,
    /// The direction whose rules deny the request.
    pub(crate) direction: Option<Direction>,
    pub(crate) place: FaultPlace,
}

/// Where a fault is, and so who hears of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FaultPlace {
    /// In a request that was not judged yet: it can be answered.
    Head,
    /// The client ended the stream inside such a request.
    Cut,
    /// After a request that was already allowed.
    Body,
}

/// Why judging stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stop {
    Fault(Fault),
    /// The copy of framing bytes is full.
    Full,
}

impl From<CopyFull> for Stop {
    fn from(_: CopyFull) -> Self {
        Self::Full
    }
}

impl From<HeadError> for Stop {
    fn from(error: HeadError) -> Self {
        Self::Fault(Fault {
            reason: error.drop_reason(),
            direction: None,
            place: FaultPlace::Head,
        })
    }
}

/// What is no matter of a head's grammar is malformed.
fn malformed(place: FaultPlace) -> Stop {
    Stop::Fault(Fault {
        reason: DropReason::HttpMalformed,
        direction: None,
        place,
    })
}

#[derive(Debug, Clone, Copy)]
enum Phase {
    Line,
    Fields(FieldScanner, LineLayout),
    /// The head is judged; its last line feed is to come.
    HeadEnd(Framing),
    Length(u64),
    Chunked(Chunked),
    /// No request may follow.
    Ended,
}

/// A judged request head in the stream's copy.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RequestRef {
    offset: usize,
    line: LineLayout,
}

/// Parser state; plain data, so that a segment can be judged and forgotten again.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RequestParser {
    phase: Phase,
    line: RequestLine,
    /// Sequence number of the current request's first byte.
    begin: u32,
    head_len: usize,
    /// The rules of this call allow the request whatever its fields are.
    is_decided: bool,
    is_persistent: bool,
    /// Requests judged since [`begin_segment`](Self::begin_segment).
    judged: u32,
    last: Option<RequestRef>,
}

impl RequestParser {
    pub(crate) fn new(begin: u32) -> Self {
        Self {
            phase: Phase::Line,
            line: RequestLine::default(),
            begin,
            head_len: 0,
            is_decided: false,
            is_persistent: true,
            judged: 0,
            last: None,
        }
    }

    /// Forgets what only concerned the last segment; rules may have changed since.
    pub(crate) fn begin_segment(&mut self) {
        self.is_decided = false;
        self.judged = 0;
        self.last = None;
    }

    /// Requests whose heads were completed in this segment.
    pub(crate) fn judged(&self) -> u32 {
        self.judged
    }

    /// The last of them.
    pub(crate) fn last(&self) -> Option<RequestRef> {
        self.last
    }

    /// Sequence number where the current request begins.
    pub(crate) fn begin(&self) -> u32 {
        self.begin
    }

    /// Judges the end of the stream: a lenient server takes it for the end of a head that is begun and not complete. A cut body
    /// harms nobody.
    pub(crate) fn finish(&self) -> Result<(), Stop> {
        match self.phase {
            Phase::Line if self.line.is_empty() => Ok(()),
            Phase::Line | Phase::Fields(..) => Err(malformed(FaultPlace::Cut)),
            Phase::HeadEnd(_) => Err(malformed(FaultPlace::Body)),
            Phase::Length(_) | Phase::Chunked(_) | Phase::Ended => Ok(()),
        }
    }

    /// Method and target of the unfinished head, as far as they came.
    pub(crate) fn partial<'a>(&self, stream: &'a JudgedStream) -> (&'a [u8], &'a [u8]) {
        match self.phase {
            Phase::Line | Phase::Fields(..) => self.line.partial(stream.head()),
            _ => (&[], &[]),
        }
    }

    /// Judges `bytes`, all of them or up to the stop; state and `stream` are then of use only for a rewind or a report.
    pub(crate) fn feed<S: L7Sink>(
        &mut self,
        mut bytes: &[u8],
        stream: &mut JudgedStream,
        outstanding: &mut Outstanding,
        rules: Rules<'_>,
        sink: &mut S,
    ) -> Result<(), Stop> {
        while let Some(first) = bytes.first() {
            let used = match &mut self.phase {
                Phase::Line => self.feed_line(bytes, stream, rules)?,
                Phase::Fields(..) => self.feed_fields(bytes, stream, outstanding, rules, sink)?,
                Phase::HeadEnd(framing) => {
                    if *first != b'\n' {
                        return Err(malformed(FaultPlace::Body));
                    }
                    stream.push_head(b"\n")?;
                    stream.unpin();
                    self.phase = match *framing {
                        Framing::Length(0) => self.next_request(stream),
                        Framing::Length(len) => Phase::Length(len),
                        Framing::Chunked => Phase::Chunked(Chunked::default()),
                    };
                    1
                }
                Phase::Length(left) => {
                    let len = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len());
                    *left -= len as u64;
                    stream.skip(u32::try_from(len).unwrap_or(u32::MAX));
                    if *left == 0 {
                        self.phase = self.next_request(stream);
                    }
                    len
                }
                Phase::Chunked(chunked) => match chunked
                    .feed(bytes)
                    .map_err(|_broken| malformed(FaultPlace::Body))?
                {
                    BodyStep::Data(len) => {
                        stream.skip(u32::try_from(len).unwrap_or(u32::MAX));
                        len
                    }
                    BodyStep::Framing(len) => {
                        stream.push(bytes.get(..len).unwrap_or_default())?;
                        len
                    }
                    BodyStep::Last(len) => {
                        stream.push(bytes.get(..len).unwrap_or_default())?;
                        self.phase = self.next_request(stream);
                        len
                    }
                },
                Phase::Ended => return Err(malformed(FaultPlace::Head)),
            };
            bytes = bytes.get(used..).unwrap_or_default();
        }
        Ok(())
    }

    fn next_request(&mut self, stream: &JudgedStream) -> Phase {
        self.line = RequestLine::default();
        self.begin = stream.next();
        self.head_len = 0;
        self.is_decided = false;
        if self.is_persistent {
            Phase::Line
        } else {
            Phase::Ended
        }
    }

    /// As much of `bytes` as the head limit leaves room for, beside the head's last line feed.
    fn head_room<'a>(&self, bytes: &'a [u8]) -> Result<&'a [u8], HeadError> {
        let room = (HEAD_LIMIT - 1).saturating_sub(self.head_len);
        if room == 0 {
            Err(HeadError::TooLarge)
        } else {
            Ok(bytes.get(..room).unwrap_or(bytes))
        }
    }

    fn feed_line(
        &mut self,
        bytes: &[u8],
        stream: &mut JudgedStream,
        rules: Rules<'_>,
    ) -> Result<usize, Stop> {
        let bytes = self.head_room(bytes)?;
        let step = self.line.feed(bytes);
        // Counted in the line even when it breaks a rule: the report shows what came before the offending byte.
        let used = (self.line.len() as usize).saturating_sub(self.head_len);
        stream.push_head(bytes.get(..used).unwrap_or_default())?;
        self.head_len += used;
        if let LineStep::Complete(_) = step? {
            let line = self.line.finish(stream.head())?;
            self.is_decided = decide_line(rules, line.method, line.target.path)?;
            self.phase = Phase::Fields(FieldScanner::default(), self.line.layout(&line));
        }
        Ok(used)
    }

    fn feed_fields<S: L7Sink>(
        &mut self,
        bytes: &[u8],
        stream: &mut JudgedStream,
        outstanding: &mut Outstanding,
        rules: Rules<'_>,
        sink: &mut S,
    ) -> Result<usize, Stop> {
        let bytes = self.head_room(bytes)?;
        let Phase::Fields(scanner, layout) = &mut self.phase else {
            return Ok(0);
        };
        let layout = *layout;
        let used = match scanner.feed(bytes)? {
            ScanStep::More => {
                stream.push_head(bytes)?;
                self.head_len += bytes.len();
                return Ok(bytes.len());
            }
            ScanStep::Complete(used) => used,
        };
        stream.push_head(bytes.get(..used).unwrap_or_default())?;
        self.head_len += used;
        let (line, is_decided) = (self.line, self.is_decided);
        let (framing, is_persistent, is_head) = stream.with_head_and_line_feed(|bytes| {
            let view = layout.view(bytes);
            parse_fields(bytes, &view, |fields| {
                if !is_decided {
                    let line = line.finish(bytes)?;
                    decide(rules, &line, fields)?;
                }
                sink.request(view.method, view.path, None);
                Ok::<_, Stop>((fields.framing, fields.is_persistent, view.method == b"HEAD"))
            })?
        })?;
        self.is_persistent = is_persistent;
        self.judged += 1;
        self.last = Some(RequestRef {
            offset: stream.head_offset(),
            line: layout,
        });
        outstanding.push(is_head);
        self.phase = Phase::HeadEnd(framing);
        Ok(used)
    }
}

impl RequestRef {
    /// Reports the request as allowed.
    pub(crate) fn report(&self, stream: &JudgedStream, sink: &mut impl L7Sink) {
        let view = self.line.view(stream.kept(self.offset));
        sink.request(view.method, view.path, None);
    }
}

/// Every rule set must allow the request, or leave it to its fields; says whether all allow it.
fn decide_line(rules: Rules<'_>, method: &str, path: &str) -> Result<bool, Stop> {
    let mut is_decided = true;
    for (direction, set) in rules {
        match set.decide_line(method, path) {
            LineVerdict::Allowed => {}
            LineVerdict::Open => is_decided = false,
            LineVerdict::Denied => return Err(denied(*direction)),
        }
    }
    Ok(is_decided)
}

/// Every rule set must allow the request.
fn decide(rules: Rules<'_>, line: &ParsedLine<'_>, fields: &Fields<'_, '_>) -> Result<(), Stop> {
    fields.with_headers(|headers| {
        let request = HttpRequest {
            method: line.method,
            path: line.target.path,
            host: fields.host,
            headers,
        };
        let denies = |(_, set): &&(Direction, &HttpRuleSet)| set.decide(&request).is_none();
        match rules.iter().find(denies) {
            None => Ok(()),
            Some((direction, _)) => Err(denied(*direction)),
        }
    })
}

/// The rules of `direction` deny the request.
fn denied(direction: Direction) -> Stop {
    Stop::Fault(Fault {
        reason: DropReason::HttpDenied,
        direction: Some(direction),
        place: FaultPlace::Head,
    })
}
