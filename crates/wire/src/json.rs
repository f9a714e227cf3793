//! An incremental, bounded JSON tokenizer.
//!
//! Bytes come in pieces of any size; tokens go to a [`Sink`] with the absolute byte range they had on the wire.
//! Nothing is kept but the state of the grammar, one bit for each open container and at most [`MAX_RAW_BYTES`] of a
//! token that crosses a border between two pieces.

mod error;
mod number;
mod state;
mod text;
mod unescape;

#[cfg(test)]
mod tests;

use std::ops::Range;

use self::state::{Container, Containers, EscapeCount, Num, Split, State, Word};
pub(crate) use self::unescape::{Unescaper, equals_unescaped};
pub use self::{
    error::{JsonError, JsonErrorKind},
    number::count,
};

/// The nesting that is accepted when nothing else is said.
pub const DEFAULT_MAX_DEPTH: usize = 128;

/// The deepest nesting that can be asked for: one bit for each open container is kept in place.
pub const MAX_DEPTH: usize = 256;

/// A string or number is handed over if it is not longer than this, wherever the pieces were cut. Of a longer one
/// only the place is told.
pub const MAX_RAW_BYTES: usize = 64;

/// So far ahead is looked for the end of an integer.
const MAX_PLAIN_DIGITS: usize = 12;

/// What a tokenizer finds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Token<'a> {
    /// `{`
    ObjectStart,
    /// `}`
    ObjectEnd,
    /// `[`
    ArrayStart,
    /// `]`
    ArrayEnd,
    /// The name of a member.
    Key(Text<'a>),
    /// A string value.
    Str(Text<'a>),
    /// A number as it was written; `None` if it is longer than [`MAX_RAW_BYTES`].
    Number(Option<&'a [u8]>),
    /// `true` or `false`
    Bool(bool),
    /// `null`
    Null,
}

/// The contents of a JSON string, without its quotes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Text<'a> {
    /// The bytes between the quotes as they were on the wire: valid UTF-8 with valid escapes.
    /// `None` if they are longer than [`MAX_RAW_BYTES`].
    pub raw: Option<&'a [u8]>,
    /// The escapes in it.
    pub escapes: Escapes,
}

/// The escapes of a string.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Escapes {
    /// There are none: the bytes stand for themselves.
    #[default]
    None,
    /// Unescaped, the string is so many bytes shorter.
    Shorten(usize),
    /// There may be some.
    Unknown,
}

impl Text<'_> {
    /// Whether the unescaped string is `expected`. A string that was not handed over equals nothing.
    pub fn is(&self, expected: &str) -> bool {
        match self.raw {
            Some(raw) if self.escapes.any() => equals_unescaped(raw, expected.as_bytes()),
            Some(raw) => raw == expected.as_bytes(),
            None => false,
        }
    }
}

impl Escapes {
    /// Whether there may be at least one.
    pub fn any(self) -> bool {
        self != Self::None
    }
}

/// Takes the tokens of a [`Tokenizer`].
pub trait Sink {
    /// `span` is the place of the token in the whole input, quotes included.
    fn token(&mut self, token: Token<'_>, span: Range<usize>);
}

/// Reads one JSON document, piece by piece.
///
/// An error is final: every later call gives it again.
#[derive(Debug)]
pub struct Tokenizer {
    state: State,
    containers: Containers,
    max_depth: usize,
    /// Where the token under way began, in the whole input.
    token_start: usize,
    /// Where the contents of the token under way begin in the current piece.
    content_from: usize,
    is_key: bool,
    escapes: EscapeCount,
    split: Split,
    partial: text::PartialChar,
    failed: Option<JsonError>,
}

// === impl Tokenizer ===

impl Default for Tokenizer {
    fn default() -> Self {
        Self::new(DEFAULT_MAX_DEPTH)
    }
}

impl Tokenizer {
    /// A tokenizer that accepts `max_depth` nested containers, at most [`MAX_DEPTH`].
    pub fn new(max_depth: usize) -> Self {
        Self {
            state: State::Value,
            containers: Containers::default(),
            max_depth: max_depth.min(MAX_DEPTH),
            token_start: 0,
            content_from: 0,
            is_key: false,
            escapes: EscapeCount::default(),
            split: Split::default(),
            partial: text::PartialChar::default(),
            failed: None,
        }
    }

    /// Forgets everything: the next piece begins a new document.
    pub fn reset(&mut self) {
        *self = Self::new(self.max_depth);
    }

    /// Reads the next piece, whose first byte is at `base` in the whole input.
    ///
    /// # Errors
    /// The first byte that cannot belong to a JSON document.
    pub fn feed<S: Sink>(
        &mut self,
        piece: &[u8],
        base: usize,
        sink: &mut S,
    ) -> Result<(), JsonError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        self.content_from = 0;
        let mut at = 0;
        while at < piece.len() {
            let step = match self.state {
                State::Text => self.text(piece, at, base, sink),
                State::Escape | State::Hex { .. } => self.split_escape(piece, at, base),
                State::Number(num) => self.number(num, piece, at, base, sink),
                State::Literal { word, matched } => {
                    self.literal(word, matched, piece, at, base, sink)
                }
                _ => self.structure(piece, at, base, sink),
            };
            match step {
                Ok(next) => at = next,
                Err(error) => {
                    self.failed = Some(error);
                    return Err(error);
                }
            }
        }
        if matches!(self.state, State::Text | State::Escape | State::Hex { .. } | State::Number(_))
        {
            self.split.keep(piece.get(self.content_from..).unwrap_or_default());
        }
        Ok(())
    }

    /// Says that the input ended at `at`, and thereby a number that ends the document.
    ///
    /// # Errors
    /// The document is not whole, or was wrong before.
    pub fn finish<S: Sink>(&mut self, at: usize, sink: &mut S) -> Result<(), JsonError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        if let State::Number(num) = self.state
            && num.is_whole()
        {
            self.content_from = 0;
            self.end_number(&[], 0, at, sink);
        }
        if self.state == State::AfterValue && self.containers.innermost.is_none() {
            return Ok(());
        }
        let error = JsonErrorKind::UnexpectedEnd.at(at);
        self.failed = Some(error);
        Err(error)
    }

    /// Where the string value that has begun and not yet ended began: the place of its opening quote.
    pub fn open_string(&self) -> Option<usize> {
        let open = matches!(self.state, State::Text | State::Escape | State::Hex { .. });
        (open && !self.is_key && self.failed.is_none()).then_some(self.token_start)
    }

    /// Whether a whole document has been read; more than white space after it would be an error.
    pub fn is_whole(&self) -> bool {
        self.state == State::AfterValue
            && self.containers.innermost.is_none()
            && self.failed.is_none()
    }

    /// Reads what is between and around tokens, and the tokens that are whole in this piece.
    fn structure<S: Sink>(
        &mut self,
        piece: &[u8],
        from: usize,
        base: usize,
        sink: &mut S,
    ) -> Result<usize, JsonError> {
        let mut at = from;
        while let Some(&byte) = piece.get(at) {
            if matches!(byte, b' ' | b'\n' | b'\r' | b'\t') {
                at += 1;
                continue;
            }
            at = match self.state {
                State::AfterValue => self.after_value(byte, base + at, sink).map(|()| at + 1)?,
                State::Value | State::FirstElement => {
                    let next = self.value(byte, piece, at, base, sink)?;
                    if self.state.is_in_token() {
                        return Ok(next);
                    }
                    next
                }
                State::FirstKey | State::Key if byte == b'"' => {
                    self.begin_text(at, base, true);
                    let next = self.text(piece, at + 1, base, sink)?;
                    if self.state.is_in_token() {
                        return Ok(next);
                    }
                    next
                }
                State::FirstKey if byte == b'}' => {
                    self.close(Token::ObjectEnd, base + at, sink);
                    at + 1
                }
                State::Colon if byte == b':' => {
                    self.state = State::Value;
                    at + 1
                }
                State::FirstKey | State::Key | State::Colon => {
                    return Err(JsonErrorKind::UnexpectedByte(byte).at(base + at));
                }
                State::Text
                | State::Escape
                | State::Hex { .. }
                | State::Number(_)
                | State::Literal { .. } => return Ok(at),
            };
        }
        Ok(at)
    }

    /// Reads the beginning of a value, and all of it if it is a string or a plain integer that ends in this piece.
    #[inline]
    fn value<S: Sink>(
        &mut self,
        byte: u8,
        piece: &[u8],
        at: usize,
        base: usize,
        sink: &mut S,
    ) -> Result<usize, JsonError> {
        let place = base + at;
        match byte {
            b'"' => {
                self.begin_text(at, base, false);
                return self.text(piece, at + 1, base, sink);
            }
            b'1'..=b'9' => {
                if let Some(end) = plain_integer_end(piece, at + 1) {
                    self.state = State::AfterValue;
                    sink.token(Token::Number(piece.get(at..end)), place..base + end);
                    return Ok(end);
                }
                self.begin_scalar(byte, at, place)?;
            }
            b'{' | b'[' => self.open(byte == b'{', place, sink)?,
            b']' if self.state == State::FirstElement => self.close(Token::ArrayEnd, place, sink),
            _ => self.begin_scalar(byte, at, place)?,
        }
        Ok(at + 1)
    }

    #[inline]
    fn after_value<S: Sink>(
        &mut self,
        byte: u8,
        place: usize,
        sink: &mut S,
    ) -> Result<(), JsonError> {
        match (byte, self.containers.innermost) {
            (b',', Some(Container::Object)) => self.state = State::Key,
            (b',', Some(Container::Array)) => self.state = State::Value,
            (b'}', Some(Container::Object)) => self.close(Token::ObjectEnd, place, sink),
            (b']', Some(Container::Array)) => self.close(Token::ArrayEnd, place, sink),
            (_, Some(_)) => return Err(JsonErrorKind::UnexpectedByte(byte).at(place)),
            (_, None) => return Err(JsonErrorKind::TrailingByte(byte).at(place)),
        }
        Ok(())
    }

    fn open<S: Sink>(&mut self, object: bool, place: usize, sink: &mut S) -> Result<(), JsonError> {
        if self.containers.depth >= self.max_depth {
            return Err(JsonErrorKind::TooDeep { limit: self.max_depth }.at(place));
        }
        self.containers.push(if object { Container::Object } else { Container::Array });
        self.state = if object { State::FirstKey } else { State::FirstElement };
        let token = if object { Token::ObjectStart } else { Token::ArrayStart };
        sink.token(token, place..place + 1);
        Ok(())
    }

    fn close<S: Sink>(&mut self, token: Token<'_>, place: usize, sink: &mut S) {
        self.containers.pop();
        self.state = State::AfterValue;
        sink.token(token, place..place + 1);
    }

    fn begin_text(&mut self, quote_at: usize, base: usize, is_key: bool) {
        self.token_start = base + quote_at;
        self.content_from = quote_at + 1;
        self.is_key = is_key;
        self.escapes = EscapeCount::default();
        self.split.clear();
        self.state = State::Text;
    }

    fn begin_scalar(&mut self, byte: u8, at: usize, place: usize) -> Result<(), JsonError> {
        self.token_start = place;
        self.content_from = at;
        self.split.clear();
        self.state = match byte {
            b'-' => State::Number(Num::Minus),
            b'0' => State::Number(Num::Zero),
            b'1'..=b'9' => State::Number(Num::Int),
            b't' => State::Literal { word: Word::True, matched: 1 },
            b'f' => State::Literal { word: Word::False, matched: 1 },
            b'n' => State::Literal { word: Word::Null, matched: 1 },
            _ => return Err(JsonErrorKind::UnexpectedByte(byte).at(place)),
        };
        Ok(())
    }

    fn number<S: Sink>(
        &mut self,
        mut num: Num,
        piece: &[u8],
        from: usize,
        base: usize,
        sink: &mut S,
    ) -> Result<usize, JsonError> {
        let mut at = from;
        while let Some(&byte) = piece.get(at) {
            match num.after(byte) {
                Some(next) => num = next,
                None if num.is_whole() => {
                    self.end_number(piece, at, base + at, sink);
                    return Ok(at);
                }
                None => return Err(JsonErrorKind::BadNumber.at(base + at)),
            }
            at += 1;
        }
        self.state = State::Number(num);
        Ok(at)
    }

    fn end_number<S: Sink>(&mut self, piece: &[u8], end: usize, place: usize, sink: &mut S) {
        let raw = self.split.whole(piece.get(self.content_from..end).unwrap_or_default());
        self.state = State::AfterValue;
        sink.token(Token::Number(raw), self.token_start..place);
    }

    fn literal<S: Sink>(
        &mut self,
        word: Word,
        matched: u8,
        piece: &[u8],
        from: usize,
        base: usize,
        sink: &mut S,
    ) -> Result<usize, JsonError> {
        let rest = word.letters().get(usize::from(matched)..).unwrap_or_default();
        let given = piece.get(from..).unwrap_or_default();
        if let Some(wrong) = rest.iter().zip(given).position(|(expected, byte)| expected != byte) {
            return Err(JsonErrorKind::BadLiteral.at(base + from + wrong));
        }
        let n_read = rest.len().min(given.len());
        let at = from + n_read;
        if n_read == rest.len() {
            self.state = State::AfterValue;
            sink.token(word.token(), self.token_start..base + at);
        } else {
            self.state = State::Literal { word, matched: matched + n_read as u8 };
        }
        Ok(at)
    }
}

/// Where an integer ends whose first digit is before `from`, if it is as plain as token ids are: digits only, and
/// its end is in this piece.
fn plain_integer_end(piece: &[u8], from: usize) -> Option<usize> {
    let rest = piece.get(from..from + MAX_PLAIN_DIGITS)?;
    let n_digits = rest.iter().position(|byte| !byte.is_ascii_digit())?;
    let ends = matches!(rest.get(n_digits), Some(b',' | b']' | b'}' | b' '));
    ends.then_some(from + n_digits)
}
