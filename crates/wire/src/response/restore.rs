//! Puts the model name that the client asked for into the response to it.
//!
//! The name is replaced where it is the value of a member `model` of the document, or of the `response` (Responses
//! API) or `message` (Anthropic) in it, and nowhere else.

use std::ops::Range;

use bytes::Bytes;
use smallvec::SmallVec;

use super::sse;
use crate::{
    json::{Sink, Text, Token, Tokenizer, equals_unescaped},
    splice::quote,
};

/// A value of `model` that crosses pieces is held back up to this size, quotes included; a longer one is not the
/// name we look for.
const MAX_HELD_BYTES: usize = 4096;

/// What goes out for one piece that came in.
pub type Pieces = SmallVec<[Bytes; 3]>;

/// Replaces the name of the served model by the name that was asked for, in a body that comes in pieces.
///
/// A body that begins with `{` or `[` is one JSON document, any other a stream of events. All bytes go out at once,
/// as they are, except for a model name that is not over: it waits for its end. Data that are not JSON pass through.
///
/// ```
/// use bytes::Bytes;
/// use router_wire::response::ModelRestore;
///
/// let mut restore = ModelRestore::new("tiny-lora-3", "tiny");
/// let mut out = restore.push(Bytes::from_static(b"data: {\"model\": \"tiny-")).concat();
/// out.extend(restore.push(Bytes::from_static(b"lora-3\"}\n\n")).concat());
/// out.extend(restore.end().unwrap_or_default());
/// assert_eq!(out, b"data: {\"model\": \"tiny\"}\n\n");
/// ```
#[derive(Debug)]
pub struct ModelRestore {
    target: String,
    /// The name asked for, as a JSON string.
    replacement: Bytes,
    framing: Framing,
    document: Document,
    n_bytes: usize,
    /// The beginning of a value, which was not sent yet, and where it began.
    held: Vec<u8>,
    held_start: usize,
}

#[derive(Debug)]
enum Framing {
    /// Only white space so far.
    Unknown {
        lines: sse::Lines,
    },
    Json,
    Events {
        lines: sse::Lines,
        /// An earlier line of the same event had data.
        has_data: bool,
    },
    /// There is nothing to replace.
    None,
}

// === impl ModelRestore ===

impl ModelRestore {
    /// Replaces `target`, the model that was served, by `incoming`, the model that was asked for.
    /// If they are equal or one is empty, everything passes through.
    pub fn new(target: &str, incoming: &str) -> Self {
        let idle = target == incoming || target.is_empty() || incoming.is_empty();
        Self {
            target: target.to_owned(),
            replacement: quote(incoming),
            framing: if idle {
                Framing::None
            } else {
                Framing::Unknown { lines: sse::Lines::default() }
            },
            document: Document::default(),
            n_bytes: 0,
            held: Vec::new(),
            held_start: 0,
        }
    }

    /// Takes the next piece and gives what can go out. The answer may be empty, and may begin with bytes that were
    /// held back before.
    pub fn push(&mut self, piece: Bytes) -> Pieces {
        let base = self.n_bytes;
        self.n_bytes += piece.len();
        self.feed(&piece, base);
        self.rewrite(piece, base)
    }

    /// Says that the body is over; gives what was held back.
    pub fn end(&mut self) -> Option<Bytes> {
        (!self.held.is_empty()).then(|| Bytes::from(std::mem::take(&mut self.held)))
    }

    /// Finds the values in the piece.
    fn feed(&mut self, piece: &[u8], base: usize) {
        if let Framing::Unknown { lines } = &mut self.framing {
            let is_space = |byte: &&u8| matches!(byte, b' ' | b'\t' | b'\r' | b'\n');
            self.framing = match piece.iter().find(|byte| !is_space(byte)) {
                None => return lines.split(piece, |_| {}),
                Some(b'{' | b'[') => Framing::Json,
                Some(_) => Framing::Events { lines: std::mem::take(lines), has_data: false },
            };
        }
        let document = &mut self.document;
        match &mut self.framing {
            Framing::Unknown { .. } | Framing::None => {}
            Framing::Json => document.feed(piece, base),
            Framing::Events { lines, has_data } => lines.split(piece, |part| match part {
                sse::Part::Data(range) => {
                    document.feed(piece.get(range.clone()).unwrap_or_default(), base + range.start);
                    *has_data = true;
                }
                sse::Part::LineEnd { data: true } => document.feed(b"\n", base),
                sse::Part::LineEnd { data: false } => {}
                sse::Part::EventEnd => {
                    if std::mem::take(has_data) {
                        document.reset();
                    }
                }
            }),
        }
    }

    /// Puts together what goes out for the piece, given the values that end in it.
    fn rewrite(&mut self, piece: Bytes, base: usize) -> Pieces {
        let mut out = Pieces::new();
        let found = std::mem::take(&mut self.document.finder.found);
        let open = self.document.open_model();
        let mut sent = self.settle_held(&piece, base, found.first(), open, &mut out);
        for span in found.iter().filter(|span| span.start >= base) {
            let (start, end) = (span.start - base, span.end - base);
            if self.is_target(piece.get(start..end).unwrap_or_default()) {
                push(&mut out, &piece, sent..start);
                out.push(self.replacement.clone());
                sent = end;
            }
        }
        let mut end = piece.len();
        if let Some(start) = open
            && start >= base
            && piece.len() - (start - base) <= MAX_HELD_BYTES
        {
            end = start - base;
            self.held.extend_from_slice(piece.get(end..).unwrap_or_default());
            self.held_start = start;
        }
        if sent == 0 && end == piece.len() {
            // The common case keeps the handle it got.
            if !piece.is_empty() {
                out.push(piece);
            }
        } else {
            push(&mut out, &piece, sent..end);
        }
        out
    }

    /// Decides on a value that began in an earlier piece; gives how many bytes of this piece are settled with it.
    fn settle_held(
        &mut self,
        piece: &[u8],
        base: usize,
        found: Option<&Range<usize>>,
        open: Option<usize>,
        out: &mut Pieces,
    ) -> usize {
        if self.held.is_empty() {
            return 0;
        }
        if let Some(span) = found.filter(|span| span.start == self.held_start) {
            let end = span.end - base;
            let n_held = self.held.len();
            self.held.extend_from_slice(piece.get(..end).unwrap_or_default());
            if self.is_target(&self.held) {
                self.held.clear();
                out.push(self.replacement.clone());
                return end;
            }
            self.held.truncate(n_held);
        } else if open == Some(self.held_start) && self.held.len() + piece.len() <= MAX_HELD_BYTES {
            self.held.extend_from_slice(piece);
            return piece.len();
        }
        out.push(Bytes::from(std::mem::take(&mut self.held)));
        0
    }

    /// Whether a JSON string, with its quotes, is the target. One that would not be held back is not, cut or
    /// whole: what goes out must not depend on where pieces end.
    fn is_target(&self, quoted: &[u8]) -> bool {
        if quoted.len() > MAX_HELD_BYTES {
            return false;
        }
        let contents = quoted.strip_prefix(b"\"").and_then(|rest| rest.strip_suffix(b"\""));
        contents.is_some_and(|contents| equals_unescaped(contents, self.target.as_bytes()))
    }
}

fn push(out: &mut Pieces, piece: &Bytes, range: Range<usize>) {
    if !range.is_empty() {
        out.push(piece.slice(range));
    }
}

/// The JSON document under way: a whole body, or the data of one event.
#[derive(Debug, Default)]
struct Document {
    tokenizer: Tokenizer,
    finder: Finder,
}

impl Document {
    fn feed(&mut self, part: &[u8], base: usize) {
        // An error is kept by the tokenizer: what comes after it in the document passes through.
        self.tokenizer.feed(part, base, &mut self.finder).ok();
    }

    fn reset(&mut self) {
        self.tokenizer.reset();
        self.finder.reset();
    }

    /// Where a value of `model` begins that is not over.
    fn open_model(&self) -> Option<usize> {
        self.tokenizer.open_string().filter(|_| self.finder.wanted())
    }
}

/// Finds the string values of `model`.
#[derive(Debug, Default)]
struct Finder {
    /// Open containers: only the first two levels matter.
    depth: usize,
    /// The second level is a `response` or `message`.
    inner: bool,
    key: Key,
    /// Places of values in the current piece, quotes included.
    found: SmallVec<[Range<usize>; 4]>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Key {
    #[default]
    Other,
    Model,
    Inner,
}

impl Finder {
    /// Whether a string value that is open now is one that we look for.
    fn wanted(&self) -> bool {
        self.key == Key::Model && self.at_members()
    }

    fn at_members(&self) -> bool {
        self.depth == 1 || self.depth == 2 && self.inner
    }

    fn reset(&mut self) {
        (self.depth, self.inner, self.key) = (0, false, Key::Other);
    }

    fn key(&self, key: Text<'_>) -> Key {
        match self.depth {
            1 | 2 if !self.at_members() => Key::Other,
            1 | 2 if key.is("model") => Key::Model,
            1 if key.is("response") || key.is("message") => Key::Inner,
            _ => Key::Other,
        }
    }
}

impl Sink for Finder {
    fn token(&mut self, token: Token<'_>, span: Range<usize>) {
        match token {
            Token::Key(key) => self.key = self.key(key),
            Token::Str(_) => {
                if self.wanted() {
                    self.found.push(span);
                }
                self.key = Key::Other;
            }
            Token::ObjectStart | Token::ArrayStart => {
                if self.depth == 1 {
                    self.inner = self.key == Key::Inner && token == Token::ObjectStart;
                }
                self.depth += 1;
                self.key = Key::Other;
            }
            Token::ObjectEnd | Token::ArrayEnd => {
                self.depth = self.depth.saturating_sub(1);
                self.key = Key::Other;
            }
            Token::Number(_) | Token::Bool(_) | Token::Null => self.key = Key::Other,
        }
    }
}
