//! Chunked request bodies (RFC 9112, section 7.1), strictly: at least one hexadecimal digit and nothing else on a size line, CR LF
//! everywhere, no extensions, no trailer fields.

use super::target::hex_digit;

/// Most digits of a chunk size: sizes stay below 2^60.
pub const SIZE_DIGITS: u8 = 15;

/// Why a body is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    /// A size line that is not 1 to [`SIZE_DIGITS`] hexadecimal digits; extensions included.
    #[error("malformed chunk size")]
    Size,
    /// CR without LF, or no CR LF where one must be.
    #[error("line end that is not CR LF")]
    LineEnd,
    /// Trailer fields.
    #[error("trailer fields are not allowed")]
    Trailer,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// In a size line: its digits so far.
    Size(u8),
    SizeFeed,
    Data,
    DataReturn,
    DataFeed,
    LastReturn,
    LastFeed,
}

/// Progress of [`Chunked::feed`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyStep {
    /// So many bytes are chunk data.
    Data(usize),
    /// So many bytes are framing.
    Framing(usize),
    /// So many bytes are framing and end the body.
    Last(usize),
}

/// Incremental parser of one chunked body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chunked {
    state: State,
    left: u64,
}

impl Default for Chunked {
    fn default() -> Self {
        Self {
            state: State::Size(0),
            left: 0,
        }
    }
}

impl Chunked {
    /// Takes the next bytes, up to the end of chunk data or framing.
    ///
    /// # Errors
    /// The rule that is broken; the parser is of no more use.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<BodyStep, BodyError> {
        if self.state == State::Data {
            let len = usize::try_from(self.left).unwrap_or(usize::MAX).min(bytes.len());
            self.left -= len as u64;
            if self.left == 0 {
                self.state = State::DataReturn;
            }
            return Ok(BodyStep::Data(len));
        }
        for (at, byte) in bytes.iter().enumerate() {
            self.state = match (self.state, *byte) {
                (State::Size(1..), b'\r') => State::SizeFeed,
                (State::Size(digits), byte) => {
                    let digit = hex_digit(byte)
                        .filter(|_| digits < SIZE_DIGITS)
                        .ok_or(BodyError::Size)?;
                    self.left = self.left << 4 | u64::from(digit);
                    State::Size(digits + 1)
                }
                (State::SizeFeed, b'\n') if self.left == 0 => State::LastReturn,
                (State::SizeFeed, b'\n') => {
                    self.state = State::Data;
                    return Ok(BodyStep::Framing(at + 1));
                }
                (State::DataReturn, b'\r') => State::DataFeed,
                (State::DataFeed, b'\n') => State::Size(0),
                (State::LastReturn, b'\r') => State::LastFeed,
                (State::LastReturn, b'\n') => return Err(BodyError::LineEnd),
                (State::LastReturn, _) => return Err(BodyError::Trailer),
                (State::LastFeed, b'\n') => return Ok(BodyStep::Last(at + 1)),
                (
                    State::SizeFeed | State::Data | State::DataReturn | State::DataFeed | State::LastFeed,
                    _,
                ) => {
                    return Err(BodyError::LineEnd);
                }
            };
        }
        Ok(BodyStep::Framing(bytes.len()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Data and bytes used of one body fed in pieces of `piece` bytes.
    fn read(body: &[u8], piece: usize) -> Result<Option<(Vec<u8>, usize)>, BodyError> {
        let mut chunked = Chunked::default();
        let (mut data, mut used) = (Vec::new(), 0);
        for mut piece in body.chunks(piece) {
            while !piece.is_empty() {
                let (len, last) = match chunked.feed(piece)? {
                    BodyStep::Data(len) => {
                        data.extend_from_slice(&piece[..len]);
                        (len, false)
                    }
                    BodyStep::Framing(len) => (len, false),
                    BodyStep::Last(len) => (len, true),
                };
                used += len;
                piece = &piece[len..];
                if last {
                    return Ok(Some((data, used)));
                }
            }
        }
        Ok(None)
    }

    #[test]
    fn chunks_in_any_pieces_give_the_same_body() {
        let body = b"5\r\nhello\r\n00A\r\n0123456789\r\n000\r\n\r\nGET";
        for piece in 1..body.len() {
            assert_eq!(
                read(body, piece),
                Ok(Some((b"hello0123456789".to_vec(), body.len() - 3))),
                "{piece}"
            );
        }
    }

    #[test]
    fn size_lines_are_hexadecimal_digits_and_nothing_else() {
        for body in [
            "\r\n",
            "\n",
            "5;x\r\n",
            "5 \r\n",
            " 5\r\n",
            "+5\r\n",
            "-1\r\n",
            "0x5\r\n",
            "5_0\r\n",
            "g\r\n",
            "5\n",
            "0000000000000000\r\n",
        ] {
            assert_eq!(read(body.as_bytes(), 3), Err(BodyError::Size), "{body:?}");
        }
    }

    #[test]
    fn line_ends_are_cr_lf() {
        for body in [
            "5\rx",
            "1\r\na\n",
            "1\r\nab\r\n",
            "1\r\na\r\r",
            "0\r\n\n",
            "0\r\n\rx",
            "0\r\r",
        ] {
            assert_eq!(read(body.as_bytes(), 2), Err(BodyError::LineEnd), "{body:?}");
        }
    }

    #[test]
    fn trailer_fields_are_refused() {
        assert_eq!(read(b"0\r\nX: y\r\n\r\n", 4), Err(BodyError::Trailer));
    }

    #[test]
    fn largest_size_does_not_wrap() {
        let mut body = b"fffffffffffffff\r\n".to_vec();
        body.extend([b'x'; 64]);
        assert_eq!(read(&body, 64), Ok(None));
    }
}
