//! The inside of strings, where nearly all bytes of a request are: runs between quotes and backslashes
//! are found by `memchr` and checked as a whole.

use memchr::memchr2;

use super::{JsonError, JsonErrorKind, Sink, State, Text, Token, Tokenizer, unescape::hex};

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
        let mut at = from;
        if self.partial.len > 0 {
            at = self.partial.complete(piece, from)?;
            if self.partial.len > 0 {
                return Ok(at);
            }
        }
        loop {
            let rest = piece.get(at..).unwrap_or_default();
            let n_plain = plain_prefix(rest);
            at += n_plain;
            let rest = rest.get(n_plain..).unwrap_or_default();
            match *rest {
                [] => return Ok(at),
                [b'"', ..] => {
                    self.end_text(piece, at, base, sink);
                    return Ok(at + 1);
                }
                [b'\\', ref escape @ ..] => match *escape {
                    [b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't', ..] => {
                        self.escapes.short();
                        at += 2;
                    }
                    [b'u', a, b, c, d, ..] if let Some(code) = hex([a, b, c, d]) => {
                        at += 6;
                        self.escapes.by_number(code, base + at);
                    }
                    _ => {
                        self.state = State::Escape;
                        return Ok(at + 1);
                    }
                },
                _ => {
                    let Some(stop) = memchr2(b'"', b'\\', rest) else {
                        self.check_last(rest, base + at)?;
                        return Ok(piece.len());
                    };
                    check(rest.get(..stop).unwrap_or_default(), base + at)?;
                    at += stop;
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
            (State::Hex { left, code }, _) => {
                let Some(digit) = hex([byte]) else {
                    return Err(JsonErrorKind::BadEscape.at(base + at));
                };
                let code = code << 4 | digit;
                if left > 1 {
                    State::Hex { left: left - 1, code }
                } else {
                    self.escapes.by_number(code, base + at + 1);
                    State::Text
                }
            }
            (State::Escape, b'u') => State::Hex { left: 4, code: 0 },
            (State::Escape, b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => {
                self.escapes.short();
                State::Text
            }
            _ => return Err(JsonErrorKind::BadEscape.at(base + at)),
        };
        Ok(at + 1)
    }

    fn end_text<S: Sink>(&mut self, piece: &[u8], end: usize, base: usize, sink: &mut S) {
        let raw = self.split.whole(piece.get(self.content_from..end).unwrap_or_default());
        let text = Text { raw, escapes: self.escapes.total() };
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

/// Words at the beginning of a run that are looked at one by one: most keys and many values end in them.
const FIRST_WORDS: usize = 2;

/// Blocks after them, each looked at as a whole. Beyond them `memchr` is faster.
const BLOCKS: usize = 4;
const BLOCK_BYTES: usize = 32;

/// How many bytes at the beginning need no look: ASCII, no control character, no quote and no backslash.
/// It may stop early in a long run.
#[inline]
fn plain_prefix(text: &[u8]) -> usize {
    let n_first = plain_words(text, FIRST_WORDS);
    if n_first < FIRST_WORDS * 8 {
        return n_first;
    }
    let rest = text.get(n_first..).unwrap_or_default();
    // Two compares that compile to vector instructions. With this bit flipped the quote is just above the control
    // characters; as a signed byte, what is not ASCII is below them.
    let is_plain = |block: &&[u8; BLOCK_BYTES]| {
        let special = |byte: u8| u8::from(((byte ^ 0x02) as i8) < 0x21) | u8::from(byte == b'\\');
        block.iter().fold(0, |any, &byte| any | special(byte)) == 0
    };
    let n_blocks = rest.as_chunks().0.iter().take(BLOCKS).take_while(is_plain).count();
    let n_plain = n_first + n_blocks * BLOCK_BYTES;
    if n_blocks == BLOCKS {
        return n_plain;
    }
    n_plain + plain_words(text.get(n_plain..).unwrap_or_default(), BLOCK_BYTES / 8)
}

/// As [`plain_prefix`], over at most `n_words` words and, if the text is over before that, its last bytes.
#[inline]
fn plain_words(text: &[u8], n_words: usize) -> usize {
    const ONES: u64 = u64::MAX / 255;
    const HIGHS: u64 = ONES << 7;
    // Sets the high bit of each zero byte; above the lowest one it may set more.
    let zeros = |word: u64| word.wrapping_sub(ONES) & !word;
    let (words, tail) = text.as_chunks::<8>();
    let mut n_plain = 0;
    for word in words.iter().take(n_words) {
        let word = u64::from_le_bytes(*word);
        // As in `plain_prefix`: control characters and the quote by one compare.
        let flipped = word ^ (ONES * 0x02);
        let low = flipped.wrapping_sub(ONES * 0x21) & !flipped;
        let backslash = zeros(word ^ (ONES * u64::from(b'\\')));
        let special = (low | backslash | word) & HIGHS;
        if special != 0 {
            return n_plain + special.trailing_zeros() as usize / 8;
        }
        n_plain += 8;
    }
    if words.len() >= n_words {
        return n_plain;
    }
    let is_plain = |byte: &&u8| !matches!(**byte, 0..0x20 | b'"' | b'\\' | 0x80..);
    n_plain + tail.iter().take_while(is_plain).count()
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
    if !control && (high < 0x80 || simdutf8::basic::from_utf8(run).is_ok()) {
        return Ok(());
    }
    check_slowly(run, base)
}

/// Finds what is wrong and where.
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
