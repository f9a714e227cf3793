//! Traces from files: line by line, in bounded memory, every fault with its line.
//!
//! | format | what |
//! | --- | --- |
//! | [`Format::Mooncake`] | JSON lines with `timestamp`, `input_length`, `output_length`, `hash_ids` |
//! | [`Format::Azure`] | CSV with `TIMESTAMP,ContextTokens,GeneratedTokens` |
//! | [`Format::Jsonl`] | JSON lines of our own, see [`jsonl`] |

use std::{
    collections::BTreeSet,
    fmt,
    io::{self, BufRead, Read},
    str::FromStr,
    sync::Arc,
};

use router_core::Stamp;

use super::{
    recording::{OLDEST_VERSION, RecordEnd, VERSION},
    trace::{MAX_REQUESTS, Start, Trace, TraceRequest},
};

mod azure;
mod fuzz;
pub mod inputs;
pub mod jsonl;
mod mooncake;

pub use fuzz::fuzz_traces;

/// The longest line of a trace.
pub const MAX_LINE_BYTES: usize = 16 << 20;
/// The most block ids of one trace: half a GiB of them.
pub const MAX_BLOCK_IDS: usize = 1 << 26;
/// The most tokens of one prompt, and of one answer.
pub const MAX_TOKENS: u32 = 1 << 24;
/// The most tokens of one block, as engines have it.
pub const MAX_BLOCK_TOKENS: u32 = 1 << 16;
/// The longest name of a tenant, a session, an adapter or an endpoint with its namespace, in bytes.
pub const MAX_NAME_BYTES: usize = 512;
/// The most bytes of all names of one trace together, each counted once: tenants of four million requests with
/// names of usual length, and no gigabyte of hostile ones.
pub const MAX_NAMES_BYTES: usize = 256 << 20;
/// The most adapters and the most priorities that one trace may name: the router keeps something for each.
pub const MAX_ADAPTERS: usize = 10_000;
pub const MAX_PRIORITIES: usize = 1000;
/// What files that come from Windows may begin with.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";
const SECOND_RECORDING: &str = "another recording begins here: each has names and blocks of its own and stands in its own file";
const AFTER_END: &str = "there is a line after the one with which the recording ends";
const NO_OBJECT: &str = "a line must be a JSON object, which begins with `{`";
const CUT_OFF: &str = "the last line is cut off and was left out";
/// The latest arrival: a year.
const MAX_SECONDS: f64 = 366.0 * 86_400.0;

/// A kind of trace file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    Mooncake,
    Azure,
    Jsonl,
}

/// A trace that cannot be read: the file, the line where there is one, and why.
#[derive(Debug, thiserror::Error)]
#[error("{name}{}: {fault}", Line(*.line))]
pub struct ReadError {
    pub name: String,
    /// From 1; 0 for the file as a whole.
    pub line: usize,
    pub fault: Fault,
}

/// What is wrong.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Fault {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("{0}")]
    Syntax(String),
    #[error("{what} is {value}; it must be {range}")]
    Range { what: &'static str, value: String, range: String },
    #[error(
        "this is no trace that is known: it begins neither as Mooncake nor Azure nor our own lines do"
    )]
    UnknownFormat,
    #[error("there is no request in it")]
    Empty,
}

struct Line(usize);

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 == 0 { Ok(()) } else { write!(f, ":{}", self.0) }
    }
}

impl FromStr for Format {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "mooncake" => Ok(Self::Mooncake),
            "azure" => Ok(Self::Azure),
            "jsonl" => Ok(Self::Jsonl),
            _ => Err("expected `mooncake`, `azure` or `jsonl`".to_owned()),
        }
    }
}

/// Reads a trace called `name` in messages, its first `limit` requests at most. Without a format, the first line
/// tells it.
pub fn read(
    name: &str,
    input: impl BufRead,
    format: Option<Format>,
    limit: usize,
) -> Result<Trace, ReadError> {
    read_noting(name, input, format, limit, &mut |_| {})
}

/// Like [`read`]. What is not whole and yet can be played is told to `note`.
pub fn read_noting(
    name: &str,
    input: impl BufRead,
    format: Option<Format>,
    limit: usize,
    note: &mut dyn FnMut(&str),
) -> Result<Trace, ReadError> {
    let mut lines = Lines { input, line: Vec::new(), at: 0 };
    read_lines(&mut lines, format, limit, MAX_REQUESTS, note).map_err(|fault| {
        // A file that is empty or of no known kind is wrong as a whole.
        let is_whole = matches!(fault, Fault::Empty | Fault::UnknownFormat);
        ReadError { name: name.to_owned(), line: if is_whole { 0 } else { lines.at }, fault }
    })
}

fn read_lines<R: BufRead>(
    lines: &mut Lines<R>,
    format: Option<Format>,
    limit: usize,
    most: usize,
    note: &mut dyn FnMut(&str),
) -> Result<Trace, Fault> {
    if !lines.next()? {
        return Err(Fault::Empty);
    }
    let format = format.or_else(|| recognise(lines.text().ok()?)).ok_or(Fault::UnknownFormat)?;
    let mut rows = Rows { limit: limit.min(most), most, ..Rows::default() };
    match format {
        Format::Mooncake => mooncake::read(lines, &mut rows)?,
        Format::Azure => azure::read(lines, &mut rows)?,
        Format::Jsonl => jsonl::read(lines, &mut rows)?,
    }
    if rows.trace.requests.len() == most && limit > most && lines.next()? {
        rows.note(format!("only its first {most} requests were read: more are too many"));
    }
    rows.notes.iter().for_each(|text| note(text));
    if rows.trace.requests.is_empty() { Err(Fault::Empty) } else { Ok(rows.trace) }
}

fn recognise(first: &str) -> Option<Format> {
    if first.starts_with(azure::FIRST_COLUMN) {
        return Some(Format::Azure);
    }
    if !first.starts_with('{') {
        return None;
    }
    if first.contains(jsonl::HEADER) {
        Some(Format::Jsonl)
    } else {
        first.contains("\"hash_ids\"").then_some(Format::Mooncake)
    }
}

/// The lines of a file, one at a time. Blank ones are passed over.
#[derive(Debug)]
struct Lines<R> {
    input: R,
    line: Vec<u8>,
    /// Number of the line, from 1.
    at: usize,
}

impl<R: BufRead> Lines<R> {
    /// Goes to the next line; false at the end.
    fn next(&mut self) -> Result<bool, Fault> {
        loop {
            self.line.clear();
            let most = MAX_LINE_BYTES as u64 + 1;
            let n_bytes = self.input.by_ref().take(most).read_until(b'\n', &mut self.line)?;
            if n_bytes == 0 {
                return Ok(false);
            }
            self.at += 1;
            if self.at == 1 && self.line.starts_with(BYTE_ORDER_MARK) {
                self.line.drain(..BYTE_ORDER_MARK.len());
            }
            if n_bytes > MAX_LINE_BYTES {
                let message = format!("the line is longer than {MAX_LINE_BYTES} bytes");
                return Err(Fault::Syntax(message));
            }
            if !self.line.trim_ascii().is_empty() {
                return Ok(true);
            }
        }
    }

    /// Whether the line is the file's last and has no end, so that it may be part of one.
    fn is_open(&self) -> bool {
        self.line.last() != Some(&b'\n')
    }

    /// Whether the line is the beginning of a line of JSON, as a crash of its writer leaves it.
    fn is_cut_off(&self) -> bool {
        let breaks_off = || {
            let read = serde_json::from_slice::<serde::de::IgnoredAny>(&self.line);
            read.is_err_and(|error| error.is_eof())
        };
        self.is_open() && breaks_off()
    }

    fn text(&self) -> Result<&str, Fault> {
        let text = std::str::from_utf8(self.line.trim_ascii());
        text.map_err(|_| Fault::Syntax("the line is not UTF-8".to_owned()))
    }

    /// The line as JSON.
    fn json<'a, T: serde::Deserialize<'a>>(&'a self) -> Result<T, Fault> {
        let text = self.text()?;
        // Of an array, values would be taken in the order of the fields.
        if !text.starts_with('{') {
            return Err(Fault::Syntax(NO_OBJECT.to_owned()));
        }
        serde_json::from_str(text).map_err(|error| {
            let (text, column) = (error.to_string(), error.column());
            let place = format!(" at line {} column {column}", error.line());
            let what = text.strip_suffix(&place).unwrap_or(&text);
            let field = if what.starts_with("invalid ") { self.field_before(column) } else { None };
            let field = field.map_or_else(String::new, |field| format!("`{field}`: "));
            Fault::Syntax(format!("{field}{} (column {column})", in_words(what)))
        })
    }

    /// Name of the field whose value ends or begins at this column.
    fn field_before(&self, column: usize) -> Option<&str> {
        let (before, _value) = self.text().ok()?.get(..column)?.rsplit_once(':')?;
        let (_, name) = before.trim_end().strip_suffix('"')?.rsplit_once('"')?;
        Some(name)
    }
}

/// The requests that were read, within all bounds.
#[derive(Default)]
struct Rows {
    trace: Trace,
    limit: usize,
    /// The most that any limit may ask for.
    most: usize,
    n_block_ids: usize,
    names: BTreeSet<Arc<str>>,
    n_name_bytes: usize,
    adapters: BTreeSet<Arc<str>>,
    priorities: BTreeSet<i32>,
    notes: Vec<String>,
}

impl Rows {
    fn is_full(&self) -> bool {
        self.trace.requests.len() >= self.limit
    }

    fn push(&mut self, request: TraceRequest) -> Result<(), Fault> {
        within("the prompt's length", u64::from(request.prompt_tokens), 0..=u64::from(MAX_TOKENS))?;
        within("the answer's length", u64::from(request.output_tokens), 0..=u64::from(MAX_TOKENS))?;
        self.n_block_ids += request.chain.len();
        if self.n_block_ids > MAX_BLOCK_IDS {
            let message = format!("the trace has more than {MAX_BLOCK_IDS} blocks up to here");
            return Err(Fault::Syntax(message));
        }
        if let Some(lora) = &request.lora {
            few(&mut self.adapters, lora, MAX_ADAPTERS, "adapters")?;
        }
        few(&mut self.priorities, &request.priority, MAX_PRIORITIES, "priorities")?;
        self.trace.requests.push(request);
        Ok(())
    }

    /// The one copy of a name.
    fn name(&mut self, what: &'static str, name: &str) -> Result<Arc<str>, Fault> {
        if let Some(known) = self.names.get(name) {
            return Ok(Arc::clone(known));
        }
        short(what, name)?;
        self.n_name_bytes += name.len();
        if self.n_name_bytes > MAX_NAMES_BYTES {
            let message =
                format!("the names in the trace have more than {MAX_NAMES_BYTES} bytes up to here");
            return Err(Fault::Syntax(message));
        }
        let shared: Arc<str> = name.into();
        self.names.insert(Arc::clone(&shared));
        Ok(shared)
    }

    fn note(&mut self, text: String) {
        self.notes.push(text);
    }

    /// Lets time begin with the first request.
    fn begin_at_first(&mut self) {
        let Some(Start::At(first)) = self.trace.requests.first().map(|request| request.start)
        else {
            return;
        };
        for request in &mut self.trace.requests {
            if let Start::At(at) = &mut request.start {
                *at = Stamp::from_nanos(at.as_nanos() - first.as_nanos());
            }
        }
    }

    /// Orders requests by their times; those of formats in which none waits for another.
    fn sort(&mut self) {
        self.trace.requests.sort_by_key(|request| match request.start {
            Start::At(at) => at,
            Start::After { .. } => Stamp::NEVER,
        });
    }
}

/// Whether the first line is of a version that this reads.
fn known_version(version: u64) -> Result<(), Fault> {
    if (OLDEST_VERSION..=VERSION).contains(&version) {
        return Ok(());
    }
    Err(Fault::Syntax(format!(
        "this is version {version} of the format; this llm-d-router reads {OLDEST_VERSION} to {VERSION}"
    )))
}

/// What the last line of a recording counts and was not there.
fn missing(end: &RecordEnd, n_requests: u64, n_inputs: u64) -> Vec<String> {
    let counts = [("request", end.requests, n_requests), ("input", end.inputs, n_inputs)];
    let notes =
        counts.into_iter().filter(|(_, told, found)| told > found).map(|(what, told, found)| {
            let missing = are_missing(told - found, what);
            let are = if found == 1 { "is" } else { "are" };
            format!("{missing}: its last line counts {told}, and there {are} {found}")
        });
    notes.collect()
}

/// `3 requests are missing`.
fn are_missing(n: u64, what: &str) -> String {
    if n == 1 { format!("1 {what} is missing") } else { format!("{n} {what}s are missing") }
}

pub(super) fn within(
    what: &'static str,
    value: u64,
    range: std::ops::RangeInclusive<u64>,
) -> Result<(), Fault> {
    if range.contains(&value) {
        return Ok(());
    }
    let range = format!("from {} to {}", range.start(), range.end());
    Err(Fault::Range { what, value: value.to_string(), range })
}

/// Seconds as a stamp or a length of time, in nanoseconds.
fn nanos(what: &'static str, seconds: f64) -> Result<u64, Fault> {
    if (0.0..=MAX_SECONDS).contains(&seconds) {
        return Ok((seconds * 1e9).round() as u64);
    }
    let range = format!("from 0 to {MAX_SECONDS} seconds");
    Err(Fault::Range { what, value: seconds.to_string(), range })
}

/// What the JSON reader says of a number that does not fit, for people who know no Rust.
fn in_words(what: &str) -> String {
    let ranges = [
        ("u16", (0, u64::from(u16::MAX))),
        ("u32", (0, u64::from(u32::MAX))),
        ("u64", (0, u64::MAX)),
        ("i32", (i64::from(i32::MIN), i32::MAX as u64)),
    ];
    let expected = what.rsplit_once("expected ").and_then(|(found, of_type)| {
        let (_, (least, most)) = ranges.iter().find(|(name, _)| *name == of_type)?;
        Some(format!("{found}expected a whole number from {least} to {most}"))
    });
    expected.unwrap_or_else(|| what.to_owned())
}

/// Adds what is new to a set that must not grow beyond `most`.
fn few<T: Ord + Clone>(
    known: &mut BTreeSet<T>,
    one: &T,
    most: usize,
    what: &'static str,
) -> Result<(), Fault> {
    if !known.contains(one) {
        known.insert(one.clone());
    }
    if known.len() <= most {
        return Ok(());
    }
    Err(Fault::Syntax(format!("the trace has more than {most} {what} up to here")))
}

fn short(what: &'static str, name: &str) -> Result<(), Fault> {
    if (1..=MAX_NAME_BYTES).contains(&name.len()) && !name.chars().any(char::is_control) {
        return Ok(());
    }
    let range = format!("a name of 1 to {MAX_NAME_BYTES} bytes without control characters");
    let value = format!("{:?}", name.chars().take(40).collect::<String>());
    Err(Fault::Range { what, value, range })
}

#[cfg(test)]
mod tests;
