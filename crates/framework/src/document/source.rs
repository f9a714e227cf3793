//! The text of a document and places in it.

use std::{fmt, sync::Arc};

use super::diagnostics::Diagnostic;

/// A document may have at most this many bytes; the API server of Kubernetes draws the same line
/// for a `ConfigMap`.
pub const MAX_TEXT_BYTES: usize = 1 << 20;

/// A document's text with the name that messages call it by.
#[derive(Debug, PartialEq, Eq)]
pub struct Source {
    name: String,
    text: String,
    /// Number of the text's first line in the file that it is a part of.
    first_line: u32,
}

impl Source {
    /// Decodes `bytes`: takes off a byte order mark and refuses what is no text or too long.
    /// The text is kept in any case, so that the error can show its place.
    pub fn decode(name: &str, bytes: &[u8]) -> (Arc<Self>, Option<Diagnostic>) {
        Self::decode_part(name, bytes, 1)
    }

    /// The same for a part of a file that begins on line `first_line` of it, counted from 1.
    pub fn decode_part(
        name: &str,
        bytes: &[u8],
        first_line: u32,
    ) -> (Arc<Self>, Option<Diagnostic>) {
        let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
        let first_line = first_line.max(1);
        let source = |text: String| Arc::new(Self { name: name.to_owned(), text, first_line });
        if bytes.len() > MAX_TEXT_BYTES {
            let message =
                format!("the document has {} bytes, more than {MAX_TEXT_BYTES}", bytes.len());
            return (source(String::new()), Some(Diagnostic::error(Span::NONE, "", message)));
        }
        let text = String::from_utf8_lossy(bytes).into_owned();
        let valid = match std::str::from_utf8(bytes) {
            Ok(valid) => valid.len(),
            Err(error) => error.valid_up_to(),
        };
        let control = text.char_indices().find(|&(_, c)| is_forbidden(c));
        let fault = match control {
            Some((at, c)) if at < valid => {
                let message = format!("control character U+{:04X} is not allowed", c as u32);
                let span = Span::at(&text, at, c.len_utf8()).below(first_line - 1);
                Some(Diagnostic::error(span, "", message))
            }
            _ if valid < bytes.len() => {
                let span = Span::at(&text, valid, char::REPLACEMENT_CHARACTER.len_utf8());
                let span = span.below(first_line - 1);
                Some(Diagnostic::error(span, "", "the document is not valid UTF-8".to_owned()))
            }
            _ => None,
        };
        (source(text), fault)
    }

    /// The name that messages call the document by, usually its file name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How many lines of the file stand before the text.
    pub(crate) fn n_lines_before(&self) -> u32 {
        self.first_line - 1
    }

    /// The text, without a byte order mark.
    pub fn text(&self) -> &str {
        &self.text
    }
}

/// YAML's and JSON's printable characters, less the ones that would garble a terminal.
fn is_forbidden(c: char) -> bool {
    c.is_control() && !matches!(c, '\t' | '\n' | '\r' | '\u{85}')
}

/// A place in a [`Source`]. Lines and columns count from 1, columns in characters; `start` and
/// `end` are byte offsets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Span {
    /// The line, from 1; 0 where there is no place.
    pub line: u32,
    /// The column, from 1, in characters.
    pub col: u32,
    /// Offset of the first byte.
    pub start: u32,
    /// Offset after the last byte.
    pub end: u32,
}

impl Default for Span {
    fn default() -> Self {
        Self::NONE
    }
}

impl Span {
    /// The place of what stands in no text: added defaults, whole-document errors.
    pub const NONE: Self = Self { line: 0, col: 0, start: 0, end: 0 };

    /// Whether this is [`Span::NONE`].
    pub fn is_none(self) -> bool {
        self.line == 0
    }

    /// The same place with so many lines more before it; the offsets stay those of the text.
    pub(crate) fn below(self, n_lines: u32) -> Self {
        Self { line: self.line.saturating_add(n_lines), ..self }
    }

    /// The place of `len` bytes at byte offset `start`, found by counting lines from the top.
    pub(crate) fn at(text: &str, start: usize, len: usize) -> Self {
        let mut cursor = Cursor::default();
        cursor.advance(text, start);
        cursor.span(start + len)
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.line, self.col)
    }
}

/// Counts lines and columns while a scanner moves forward, so that the places of all tokens of a
/// long line cost one pass over it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cursor {
    offset: usize,
    line: u32,
    col: u32,
}

impl Default for Cursor {
    fn default() -> Self {
        Self { offset: 0, line: 1, col: 1 }
    }
}

impl Cursor {
    /// The start of a text that has so many lines before it.
    pub(crate) fn below(n_lines: u32) -> Self {
        Self { line: n_lines.saturating_add(1), ..Self::default() }
    }

    /// Moves to byte offset `to`, which must not lie before an earlier one.
    pub(crate) fn advance(&mut self, text: &str, to: usize) {
        for c in text.get(self.offset..to).unwrap_or_default().chars() {
            if c == '\n' {
                self.line += 1;
                self.col = 1;
            } else {
                self.col += 1;
            }
        }
        self.offset = to.max(self.offset);
    }

    /// The span from here to byte offset `end`.
    pub(crate) fn span(self, end: usize) -> Span {
        Span { line: self.line, col: self.col, start: self.offset as u32, end: end as u32 }
    }
}

/// Where a value stands in the document's structure: `plugins[2].parameters.threshold`.
/// A list linked over the stack, so that walking a document allocates nothing for it.
#[derive(Debug, Clone, Copy)]
pub enum Path<'a> {
    /// The start: empty for a whole document, or the path of the part that is walked.
    Base(&'a str),
    /// A map's value.
    Key(&'a Path<'a>, &'a str),
    /// A list's entry, counted from 0.
    Index(&'a Path<'a>, usize),
}

/// Longer keys are cut in paths, so that a hostile key cannot fill a screen.
const MAX_KEY_CHARS: usize = 80;

impl<'a> Path<'a> {
    /// The document itself.
    pub const ROOT: Path<'static> = Path::Base("");

    /// The path of the value under `key`.
    pub fn key(&'a self, key: &'a str) -> Path<'a> {
        Path::Key(self, key)
    }

    /// The path of the entry at `index`.
    pub fn index(&'a self, index: usize) -> Path<'a> {
        Path::Index(self, index)
    }

    fn is_empty(&self) -> bool {
        matches!(self, Path::Base(""))
    }
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Path::Base(base) => f.write_str(base),
            Path::Index(parent, index) => write!(f, "{parent}[{index}]"),
            Path::Key(parent, key) => {
                let plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
                if key.is_empty() || !key.chars().all(plain) {
                    let key: String = key.chars().take(MAX_KEY_CHARS).collect();
                    write!(f, "{parent}[{key:?}]")
                } else {
                    let dot = if parent.is_empty() { "" } else { "." };
                    write!(f, "{parent}{dot}{:.MAX_KEY_CHARS$}", key)
                }
            }
        }
    }
}
