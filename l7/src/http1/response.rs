//! The server's direction: which responses are complete, so that an answer of ours never lands inside one.
//!
//! Nothing is denied here except a switch of protocols, so the parser is lenient in what it reads and honest about what it does
//! not understand: then it has *lost track* for the rest of the connection, which only means that a denied request is answered
//! with a reset instead of a 403.

/// Requests whose responses can be told apart; with more outstanding at a time the tracker loses track.
pub const OUTSTANDING_LIMIT: u32 = 128;

/// Start of a line that is kept; only `Content-Length` and `Transfer-Encoding` must fit.
const LINE_BYTES: usize = 96;

/// Requests that wait for their response, oldest first.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Outstanding {
    count: u32,
    /// Bit n: the n-th oldest is a HEAD request.
    heads: u128,
    overflowed: bool,
}

impl Outstanding {
    /// Notes a request; `is_head` says that its response has no body.
    pub fn push(&mut self, is_head: bool) {
        if self.count == OUTSTANDING_LIMIT {
            self.overflowed = true;
            return;
        }
        self.heads |= u128::from(is_head) << self.count;
        self.count += 1;
    }

    /// Takes the oldest.
    fn pop(&mut self) -> Option<bool> {
        self.count = self.count.checked_sub(1)?;
        let is_head = self.heads & 1 == 1;
        self.heads >>= 1;
        Some(is_head)
    }

    /// Whether no response is due.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0 && !self.overflowed
    }
}

/// `101 Switching Protocols`: what follows would not be HTTP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("server switches protocols")]
pub struct SwitchingProtocols;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    StatusLine,
    Fields,
    Length(u64),
    ChunkSize,
    /// Chunk data and the line end after it.
    ChunkData(u64),
    Trailer,
    UntilClose,
    Lost,
}

/// See the module.
#[derive(Debug, Clone)]
pub struct ResponseTracker {
    state: State,
    line: [u8; LINE_BYTES],
    /// Bytes of the current line, which may be more than are kept.
    line_len: usize,
    status: u16,
    length: Option<u64>,
    is_chunked: bool,
    has_coding: bool,
}

impl Default for ResponseTracker {
    fn default() -> Self {
        Self {
            state: State::StatusLine,
            line: [0; LINE_BYTES],
            line_len: 0,
            status: 0,
            length: None,
            is_chunked: false,
            has_coding: false,
        }
    }
}

impl ResponseTracker {
    /// Whether the stream stands between two responses.
    #[must_use]
    pub fn is_between_responses(&self) -> bool {
        self.state == State::StatusLine && self.line_len == 0
    }

    /// Whether it is no longer known where responses end.
    #[must_use]
    pub fn has_lost_track(&self) -> bool {
        self.state == State::Lost
    }

    /// `len` bytes went by unseen, or come later.
    pub fn skip(&mut self, len: u32) {
        match &mut self.state {
            State::Length(left) if *left > u64::from(len) => *left -= u64::from(len),
            State::UntilClose => {}
            state => *state = State::Lost,
        }
    }

    /// Takes the next bytes and calls `response` with the status code of every head that completes.
    ///
    /// # Errors
    /// [`SwitchingProtocols`]; the bytes must not be forwarded.
    pub fn feed(
        &mut self,
        mut bytes: &[u8],
        outstanding: &mut Outstanding,
        mut response: impl FnMut(u16),
    ) -> Result<(), SwitchingProtocols> {
        while !bytes.is_empty() {
            let used = match &mut self.state {
                State::Lost | State::UntilClose => return Ok(()),
                State::Length(left) | State::ChunkData(left) => {
                    let len = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len());
                    *left -= len as u64;
                    if *left == 0 {
                        self.state = match self.state {
                            State::ChunkData(_) => State::ChunkSize,
                            _ => State::StatusLine,
                        };
                    }
                    len
                }
                State::StatusLine | State::Fields | State::ChunkSize | State::Trailer => {
                    let found = memchr::memchr(b'\n', bytes);
                    let part = bytes.get(..found.unwrap_or(bytes.len())).unwrap_or_default();
                    self.keep(part);
                    if found.is_some() {
                        self.end_line(outstanding, &mut response)?;
                        self.line_len = 0;
                    }
                    part.len() + usize::from(found.is_some())
                }
            };
            bytes = bytes.get(used..).unwrap_or_default();
        }
        Ok(())
    }

    fn keep(&mut self, part: &[u8]) {
        if let Some(room) = self.line.get_mut(self.line_len..) {
            for (to, from) in room.iter_mut().zip(part) {
                *to = *from;
            }
        }
        self.line_len = self.line_len.saturating_add(part.len());
    }

    fn end_line(
        &mut self,
        outstanding: &mut Outstanding,
        response: &mut impl FnMut(u16),
    ) -> Result<(), SwitchingProtocols> {
        let is_whole = self.line_len <= LINE_BYTES;
        let line = self.line.get(..self.line_len.min(LINE_BYTES)).unwrap_or_default();
        let line = if is_whole {
            line.strip_suffix(b"\r").unwrap_or(line)
        } else {
            line
        };
        match self.state {
            // Servers have sent empty lines between responses (RFC 9112, section 2.2, says so of clients).
            State::StatusLine if line.is_empty() => {}
            State::StatusLine => match status_code(line) {
                Some(status) => {
                    (self.status, self.length, self.is_chunked, self.has_coding) =
                        (status, None, false, false);
                    self.state = State::Fields;
                }
                None => self.state = State::Lost,
            },
            State::Fields if line.is_empty() => {
                response(self.status);
                self.end_head(outstanding)?;
            }
            State::Fields => {
                if self.field(line.len(), is_whole).is_none() {
                    self.state = State::Lost;
                }
            }
            State::ChunkSize => {
                self.state = match chunk_size(line) {
                    Some(0) => State::Trailer,
                    // The line end after the data is CR LF; a bare LF shows at the next size line.
                    Some(len) => State::ChunkData(len + 2),
                    None => State::Lost,
                };
            }
            State::Trailer if line.is_empty() => self.state = State::StatusLine,
            State::Trailer | State::Length(_) | State::ChunkData(_) | State::UntilClose | State::Lost => {}
        }
        Ok(())
    }

    /// Takes a header field; `None` when it leaves the framing unclear.
    fn field(&mut self, len: usize, is_whole: bool) -> Option<()> {
        let line = self.line.get(..len)?;
        if line.first().is_some_and(u8::is_ascii_whitespace) {
            // A folded line belongs to the field before; that may be a framing field.
            return if self.length.is_none() && !self.has_coding {
                Some(())
            } else {
                None
            };
        }
        let Some(colon) = memchr::memchr(b':', line) else {
            return Some(());
        };
        let name = line.get(..colon)?.trim_ascii_end();
        let value = line.get(colon + 1..)?.trim_ascii();
        if name.eq_ignore_ascii_case(b"content-length") {
            let length = std::str::from_utf8(value).ok().filter(|_| is_whole)?;
            let length = if length.bytes().all(|b| b.is_ascii_digit()) {
                length.parse().ok()?
            } else {
                return None;
            };
            if self
                .length
                .replace(length)
                .is_some_and(|earlier| earlier != length)
            {
                return None;
            }
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            if self.has_coding || !is_whole {
                return None;
            }
            self.has_coding = true;
            let last = value.rsplit(|byte| *byte == b',').next()?.trim_ascii();
            self.is_chunked = last.eq_ignore_ascii_case(b"chunked");
        }
        Some(())
    }

    /// RFC 9112, section 6.3.
    fn end_head(&mut self, outstanding: &mut Outstanding) -> Result<(), SwitchingProtocols> {
        self.state = match self.status {
            101 => return Err(SwitchingProtocols),
            100..=199 => State::StatusLine,
            status => match outstanding.pop() {
                // Nobody asked: a timeout notice, or an answer to a head that is not complete.
                None => State::Lost,
                Some(is_head) if is_head || matches!(status, 204 | 304) => State::StatusLine,
                Some(_) => match (self.length, self.has_coding) {
                    (Some(_), true) => State::Lost,
                    (None, true) if self.is_chunked => State::ChunkSize,
                    (None, _) => State::UntilClose,
                    (Some(0), false) => State::StatusLine,
                    (Some(length), false) => State::Length(length),
                },
            },
        };
        Ok(())
    }
}

/// Status code of `HTTP/1.x SP 3DIGIT ...`.
fn status_code(line: &[u8]) -> Option<u16> {
    let rest = line.strip_prefix(b"HTTP/1.")?;
    let [
        minor,
        b' ',
        a @ b'1'..=b'9',
        b @ b'0'..=b'9',
        c @ b'0'..=b'9',
        rest @ ..,
    ] = rest
    else {
        return None;
    };
    if !minor.is_ascii_digit() || rest.first().is_some_and(|byte| *byte != b' ') {
        return None;
    }
    Some(u16::from(a - b'0') * 100 + u16::from(b - b'0') * 10 + u16::from(c - b'0'))
}

/// Size in a chunk's size line, extensions ignored.
fn chunk_size(line: &[u8]) -> Option<u64> {
    let digits = line.split(|byte| *byte == b';').next()?.trim_ascii();
    if digits.is_empty() || digits.len() > 15 {
        return None;
    }
    digits.iter().try_fold(0, |size, byte| {
        Some(size << 4 | u64::from(super::target::hex_digit(*byte)?))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Statuses and tracker after `bytes` in pieces of `piece`, with the given outstanding requests.
    fn track(bytes: &[u8], requests: &[bool], piece: usize) -> (Vec<u16>, ResponseTracker, Outstanding) {
        let (mut tracker, mut outstanding, mut statuses) =
            (ResponseTracker::default(), Outstanding::default(), Vec::new());
        for is_head in requests {
            outstanding.push(*is_head);
        }
        for piece in bytes.chunks(piece) {
            tracker
                .feed(piece, &mut outstanding, |status| statuses.push(status))
                .expect("no 101");
        }
        (statuses, tracker, outstanding)
    }

    fn is_idle(bytes: &str, requests: &[bool]) -> bool {
        let results = [1, 2, 7, 4096].map(|piece| {
            let (_, tracker, outstanding) = track(bytes.as_bytes(), requests, piece);
            tracker.is_between_responses() && outstanding.is_empty()
        });
        assert!(
            results.iter().all(|idle| *idle == results[0]),
            "pieces disagree on {bytes:?}"
        );
        results[0]
    }

    #[test]
    fn length_framed_response_ends_with_its_last_byte() {
        assert!(is_idle(
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
            &[false]
        ));
        assert!(!is_idle(
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhell",
            &[false]
        ));
        assert!(is_idle("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", &[false]));
    }

    #[test]
    fn chunked_response_ends_after_its_trailer() {
        let body =
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n5;x=y\r\nhello\r\n0\r\nT: 1\r\n";
        assert!(!is_idle(body, &[false]));
        assert!(is_idle(&format!("{body}\r\n"), &[false]));
    }

    #[test]
    fn responses_without_body_are_known_by_method_and_status() {
        assert!(is_idle("HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n", &[true]));
        assert!(is_idle(
            "HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n",
            &[false]
        ));
        assert!(is_idle("HTTP/1.1 204 \r\n\r\n", &[false]));
    }

    #[test]
    fn interim_response_leaves_the_request_outstanding() {
        let interim = "HTTP/1.1 100 Continue\r\n\r\n";
        assert!(!is_idle(interim, &[false]));
        assert!(is_idle(
            &format!("{interim}HTTP/1.1 204 No Content\r\n\r\n"),
            &[false]
        ));
    }

    #[test]
    fn pipelined_responses_are_counted_in_order() {
        let (statuses, tracker, outstanding) = track(
            b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nHTTP/1.1 404 No\r\ncontent-length:2\r\n\r\nxx",
            &[true, false, false],
            3,
        );
        assert_eq!(statuses, [200, 404]);
        assert!(tracker.is_between_responses() && !outstanding.is_empty());
    }

    #[test]
    fn response_until_close_never_ends() {
        assert!(!is_idle("HTTP/1.0 200 OK\r\n\r\nabc", &[false]));
    }

    #[test]
    fn unclear_responses_lose_track() {
        let long = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", "0".repeat(200));
        for bytes in [
            "SSH-2.0-x\r\n",
            "HTTP/1.1 2x0 OK\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: +1\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n 2\r\n\r\n",
            &long,
        ] {
            let (_, tracker, _) = track(bytes.as_bytes(), &[false], 5);
            assert!(tracker.has_lost_track(), "{bytes:?}");
        }
    }

    #[test]
    fn response_that_nobody_asked_for_loses_track() {
        let (statuses, tracker, _) = track(b"HTTP/1.1 408 Timeout\r\nContent-Length: 0\r\n\r\n", &[], 64);
        assert_eq!(statuses, [408]);
        assert!(tracker.has_lost_track());
    }

    #[test]
    fn hole_inside_a_body_keeps_track_and_any_other_hole_does_not() {
        let head = b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n";
        let (_, mut tracker, mut outstanding) = track(head, &[false], 64);
        tracker.skip(9);
        tracker.feed(b"x", &mut outstanding, |_| {}).expect("no 101");
        assert!(tracker.is_between_responses());
        tracker.skip(1);
        assert!(tracker.has_lost_track());
    }

    #[test]
    fn switching_protocols_is_an_error() {
        let mut outstanding = Outstanding::default();
        outstanding.push(false);
        let result = ResponseTracker::default().feed(b"HTTP/1.1 101 X\r\n\r\n", &mut outstanding, |_| {});
        assert_eq!(result, Err(SwitchingProtocols));
    }

    #[test]
    fn more_pipelined_requests_than_can_be_tracked_are_never_idle_again() {
        let mut outstanding = Outstanding::default();
        for _ in 0..=OUTSTANDING_LIMIT {
            outstanding.push(false);
        }
        while outstanding.pop().is_some() {}
        assert!(!outstanding.is_empty());
    }
}
