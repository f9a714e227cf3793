//! The inside of strings, where nearly all bytes of a request are: runs between quotes and backslashes
//! are found by `memchr` and checked as a whole.

use memchr::memchr2;

use super::{JsonError, JsonErrorKind, Sink, State, Text, Token, Tokenizer};

/// A UTF-8 character whose last bytes are in a piece to come.
#[derive(Debug, Default)]
pub(super) struct PartialChar {
    bytes: [u8; 4],
    len: usize,
    /// Where it began, in the whole input.
    start: usize,
}

impl Tokenizer {
    /// Reads string contents from `from`; gives where it stopped.
    pub(super) fn text<S: Sink>(
        &mut self,
        piece: &[u8],
        from: usize,
        base: usize,
        sink: &mut S,
    ) -> Result<usize, JsonError> {
        let mut at = self.partial.complete(piece, from)?;
        if self.partial.len > 0 {
            return Ok(at);
        }
        loop {
            let rest = piece.get(at..).unwrap_or_default();
            let Some(stop) = memchr2(b'"', b'\\', rest) else {
                self.check_last(rest, base + at)?;
                return Ok(piece.len());
            };
            let (run, special) = rest.split_at_checked(stop).unwrap_or_default();
            check(run, base + at)?;
            at += stop;
            if special.first() == Some(&b'"') {
                self.end_text(piece, at, base, sink);
                return Ok(at + 1);
            }
            self.escaped = true;
            match *special {
                [_, b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't', ..] => at += 2,
                [_, b'u', a, b, c, d, ..] if [a, b, c, d].iter().all(u8::is_ascii_hexdigit) => {
                    at += 6;
                }
                _ => {
                    self.state = State::Escape;
                    return Ok(at + 1);
                }
            }
        }
    }

    /// Reads one byte of an escape that is wrong or crosses pieces.
    pub(super) fn split_escape(
        &mut self,
        piece: &[u8],
        at: usize,
        base: usize,
    ) -> Result<usize, JsonError> {
        let Some(&byte) = piece.get(at) else { return Ok(at) };
        self.state = match (self.state, byte) {
            (State::Hex { left: 1 }, _) if byte.is_ascii_hexdigit() => State::Text,
            (State::Hex { left }, _) if byte.is_ascii_hexdigit() => State::Hex { left: left - 1 },
            (State::Escape, b'u') => State::Hex { left: 4 },
            (State::Escape, b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => State::Text,
            _ => return Err(JsonErrorKind::BadEscape.at(base + at)),
        };
        Ok(at + 1)
    }

    fn end_text<S: Sink>(&mut self, piece: &[u8], end: usize, base: usize, sink: &mut S) {
        let raw = self.split.whole(piece.get(self.content_from..end).unwrap_or_default());
        let text = Text { raw, escaped: self.escaped };
        let span = self.token_start..base + end + 1;
        if self.is_key {
            self.state = State::Colon;
            sink.token(Token::Key(text), span);
        } else {
            self.state = State::AfterValue;
            sink.token(Token::Str(text), span);
        }
    }

    /// Checks the run that ends with the piece and keeps the part of a character that it ends with.
    fn check_last(&mut self, run: &[u8], base: usize) -> Result<(), JsonError> {
        let tail = incomplete_tail(run);
        let (whole, part) = run.split_at_checked(run.len() - tail).unwrap_or_default();
        check(whole, base)?;
        self.partial.begin(part, base + whole.len());
        Ok(())
    }
}

impl PartialChar {
    fn begin(&mut self, part: &[u8], start: usize) {
        self.len = part.len();
        self.start = start;
        for (slot, byte) in self.bytes.iter_mut().zip(part) {
            *slot = *byte;
        }
    }

    /// Takes the bytes that are missing; gives where the character ended.
    fn complete(&mut self, piece: &[u8], from: usize) -> Result<usize, JsonError> {
        let mut at = from;
        while self.len > 0 {
            let Some(&byte) = piece.get(at) else { break };
            if let Some(slot) = self.bytes.get_mut(self.len) {
                *slot = byte;
            }
            self.len += 1;
            match std::str::from_utf8(self.bytes.get(..self.len).unwrap_or_default()) {
                Ok(_) => self.len = 0,
                Err(error) if error.error_len().is_none() => {}
                Err(_) => return Err(JsonErrorKind::InvalidUtf8.at(self.start)),
            }
            at += 1;
        }
        Ok(at)
    }
}

/// Checks a run of string contents that begins and ends between characters.
#[inline]
fn check(run: &[u8], base: usize) -> Result<(), JsonError> {
    let mut control = false;
    let mut high = 0;
    for &byte in run {
        control |= byte < 0x20;
        high |= byte;
    }
    if !control && high < 0x80 { Ok(()) } else { check_slowly(run, base) }
}

fn check_slowly(run: &[u8], base: usize) -> Result<(), JsonError> {
    let control = run.iter().position(|&byte| byte < 0x20);
    let utf8 = std::str::from_utf8(run).err().map(|error| error.valid_up_to());
    match (control, utf8) {
        (Some(at), wrong) if wrong.is_none_or(|wrong| at < wrong) => {
            let byte = run.get(at).copied().unwrap_or_default();
            Err(JsonErrorKind::ControlCharacter(byte).at(base + at))
        }
        (_, Some(at)) => Err(JsonErrorKind::InvalidUtf8.at(base + at)),
        _ => Ok(()),
    }
}

/// How many bytes at the end of `run` may be the beginning of a character: 0 to 3.
fn incomplete_tail(run: &[u8]) -> usize {
    for (n_before, &byte) in run.iter().rev().take(3).enumerate() {
        let wants = match byte {
            0xc0..=0xdf => 2,
            0xe0..=0xef => 3,
            0xf0..=0xff => 4,
            0x80..=0xbf => continue,
            _ => return 0,
        };
        return if n_before + 1 < wants { n_before + 1 } else { 0 };
    }
    0
}
