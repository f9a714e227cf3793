//! What is read from responses while they pass, and the one thing that is changed in them.
//!
//! [`ResponseScan`] finds the token usage and counts events; it sees the bytes and changes none.
//! [`ModelRestore`] puts the model name that the client asked for back in place of the one that was served.

mod restore;
mod sse;
mod usage;

#[cfg(test)]
mod tests;

use std::{ops::Range, sync::LazyLock};

use memchr::memmem::Finder;

use crate::json::{DEFAULT_MAX_DEPTH, Tokenizer};

pub use self::{
    restore::{ModelRestore, Pieces},
    usage::Usage,
};

/// Which members carry the usage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Dialect {
    /// OpenAI, and vLLM's own formats: `usage`, and `response.usage` in the events of the Responses API.
    OpenAi,
    /// Anthropic: `usage`, and `message.usage` in the event that starts a message.
    Anthropic,
}

/// An event that is split over pieces is put together up to this size; a longer one is read on the fly.
pub const DEFAULT_MAX_CARRY_BYTES: usize = 64 * 1024;

static USAGE_KEY: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(b"\"usage\""));

/// Watches one response body, piece by piece, for token usage.
///
/// Whatever the body is, this never fails: a body that is not what it should be has no usage.
#[derive(Debug)]
pub struct ResponseScan {
    dialect: Dialect,
    usage: Usage,
    seen: bool,
    n_events: u64,
    n_bytes: usize,
    body: Body,
}

#[derive(Debug)]
enum Body {
    Json(Box<JsonBody>),
    Events(Box<EventBody>),
}

/// A body that is one JSON document; `reader` is gone once it proved not to be.
#[derive(Debug)]
struct JsonBody {
    reader: Option<usage::Reader>,
    tokenizer: Tokenizer,
}

/// A stream of events.
#[derive(Debug)]
struct EventBody {
    lines: sse::Lines,
    /// The data of a line that is not over.
    carry: Vec<u8>,
    max_carry: usize,
    /// Reads a line that became longer than `max_carry`.
    long_line: Option<JsonBody>,
}

// === impl ResponseScan ===

impl ResponseScan {
    /// A scan of a response that is a stream of server-sent events if `streaming`, else one JSON document.
    pub fn new(dialect: Dialect, streaming: bool) -> Self {
        Self::with_max_carry(dialect, streaming, DEFAULT_MAX_CARRY_BYTES)
    }

    /// As [`ResponseScan::new`] with another bound on what is kept of a split event.
    pub fn with_max_carry(dialect: Dialect, streaming: bool, max_carry: usize) -> Self {
        let body = if streaming {
            Body::Events(Box::new(EventBody {
                lines: sse::Lines::default(),
                carry: Vec::new(),
                max_carry,
                long_line: None,
            }))
        } else {
            Body::Json(Box::new(JsonBody::new(dialect)))
        };
        Self { dialect, usage: Usage::default(), seen: false, n_events: 0, n_bytes: 0, body }
    }

    /// Looks at the next piece of the body.
    pub fn push(&mut self, piece: &[u8]) {
        let base = self.n_bytes;
        self.n_bytes += piece.len();
        match &mut self.body {
            Body::Json(body) => {
                body.feed(piece, base);
                if let Some(found) = body.take_found() {
                    // Of duplicate members of one document the last counts, wherever the body is cut.
                    self.usage = Usage::default();
                    self.absorb(found);
                }
            }
            Body::Events(_) => self.push_events(piece),
        }
    }

    /// Says that the body is over: a last line without a line end counts too.
    pub fn end(&mut self) {
        self.push_end();
    }

    /// The usage so far: of several reports the last one counts.
    pub fn usage(&self) -> Usage {
        self.usage
    }

    /// Whether there was any report of usage.
    pub fn has_usage(&self) -> bool {
        self.seen
    }

    /// Data events so far, without the `[DONE]` that ends OpenAI streams. Always 0 if not streaming.
    pub fn n_events(&self) -> u64 {
        self.n_events
    }

    /// Bytes so far.
    pub fn n_bytes(&self) -> usize {
        self.n_bytes
    }

    fn absorb(&mut self, report: usage::Report) {
        self.seen = true;
        self.usage.absorb(report);
    }

    fn push_events(&mut self, piece: &[u8]) {
        let Body::Events(body) = &mut self.body else { return };
        // The lines are lent out, so that `body` can be used while they are gone through.
        let mut lines = std::mem::take(&mut body.lines);
        let mut open = 0..0;
        lines.split(piece, |part| match part {
            sse::Part::Data(range) => open = range,
            sse::Part::LineEnd { data } => {
                if data {
                    self.end_line(piece.get(open.clone()).unwrap_or_default());
                }
                open = 0..0;
            }
            sse::Part::EventEnd => {}
        });
        if let Body::Events(body) = &mut self.body {
            body.lines = lines;
            body.keep(piece, open, self.dialect);
        }
    }

    fn push_end(&mut self) {
        let Body::Events(body) = &mut self.body else { return };
        if body.lines.in_data() {
            self.end_line(&[]);
        }
        if let Body::Events(body) = &mut self.body {
            body.lines = sse::Lines::default();
        }
    }

    /// Looks at a line of data whose last part is `last`.
    fn end_line(&mut self, last: &[u8]) {
        let dialect = self.dialect;
        let Body::Events(body) = &mut self.body else { return };
        let found = if let Some(mut line) = body.long_line.take() {
            line.feed(last, 0);
            self.n_events += 1;
            line.take_found()
        } else {
            let whole = if body.carry.is_empty() {
                last
            } else {
                body.carry.extend_from_slice(last);
                &body.carry
            };
            if whole.trim_ascii() != b"[DONE]" {
                self.n_events += 1;
            }
            let found = read_event(whole, dialect);
            body.carry.clear();
            found
        };
        if let Some(found) = found {
            self.absorb(found);
        }
    }
}

/// The usage in the data of one event.
fn read_event(data: &[u8], dialect: Dialect) -> Option<usage::Report> {
    if !may_have_usage(data) {
        return None;
    }
    let mut event = JsonBody::new(dialect);
    event.feed(data, 0);
    event.take_found()
}

/// Whether there is a key `usage` with anything but `null`, which vLLM and OpenAI put into every event.
fn may_have_usage(data: &[u8]) -> bool {
    USAGE_KEY.find_iter(data).any(|at| {
        let after = data.get(at + USAGE_KEY.needle().len()..).unwrap_or_default();
        let value = after.trim_ascii_start().strip_prefix(b":").unwrap_or_default();
        !value.trim_ascii_start().starts_with(b"null")
    })
}

// === impl JsonBody ===

impl JsonBody {
    fn new(dialect: Dialect) -> Self {
        let reader = Some(usage::Reader::new(dialect));
        Self { reader, tokenizer: Tokenizer::new(DEFAULT_MAX_DEPTH) }
    }

    fn feed(&mut self, piece: &[u8], base: usize) {
        if let Some(reader) = &mut self.reader
            && self.tokenizer.feed(piece, base, reader).is_err()
            && reader.found().is_none()
        {
            self.reader = None;
        }
    }

    fn take_found(&mut self) -> Option<usage::Report> {
        self.reader.as_mut().and_then(usage::Reader::take_found)
    }
}

// === impl EventBody ===

impl EventBody {
    /// Keeps the data of the line that the piece leaves open.
    fn keep(&mut self, piece: &[u8], open: Range<usize>, dialect: Dialect) {
        let part = piece.get(open).unwrap_or_default();
        if let Some(line) = &mut self.long_line {
            line.feed(part, 0);
        } else if self.carry.len() + part.len() <= self.max_carry {
            self.carry.extend_from_slice(part);
        } else {
            let mut line = JsonBody::new(dialect);
            line.feed(&self.carry, 0);
            line.feed(part, 0);
            self.carry.clear();
            self.long_line = Some(line);
        }
    }
}
