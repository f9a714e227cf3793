//! Reading one HTTP/1.1 response out of a growing buffer.
//!
//! The buffer holds head and body in one piece; chunk framing is taken out in place. Whatever the
//! server sends, the buffer stays below head bound + page bound + one read.

use std::ops::Range;

use super::ScrapeError;

/// Where a response stands.
#[derive(Debug)]
pub(super) struct PageReader {
    max_page_bytes: usize,
    /// Where the body begins, and whether the connection may be used again.
    body_start: usize,
    keep_alive: bool,
    state: State,
}

/// A whole page: where it lies in the buffer.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Done {
    pub(super) body: Range<usize>,
    pub(super) keep_alive: bool,
}

#[derive(Debug)]
enum State {
    Head,
    Length { end: usize },
    Chunks(Chunks),
    UntilEnd,
}

/// Bytes before `decoded` are the page; bytes from it on have yet to be looked at.
#[derive(Debug)]
struct Chunks {
    decoded: usize,
    phase: Phase,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Size,
    Data { left: usize },
    DataEnd,
    Trailers { n_bytes: usize },
}

const MAX_HEAD_BYTES: usize = 32 << 10;
const MAX_HEADERS: usize = 64;

/// A chunk's size line, and all trailers together.
const MAX_LINE_BYTES: usize = 4 << 10;

/// Room for one read when the length is not known.
const READ_BYTES: usize = 64 << 10;

impl PageReader {
    pub(super) fn new(max_page_bytes: usize) -> Self {
        Self { max_page_bytes, body_start: 0, keep_alive: false, state: State::Head }
    }

    /// How much room the next read should have.
    pub(super) fn wanted(&self, filled: usize) -> usize {
        match &self.state {
            // One byte more than is due, so that a server that sends too much is noticed.
            State::Length { end } => end.saturating_sub(filled) + 1,
            State::Head | State::Chunks(_) | State::UntilEnd => READ_BYTES,
        }
    }

    /// Takes in what was appended to `buffer`.
    pub(super) fn on_bytes(&mut self, buffer: &mut Vec<u8>) -> Result<Option<Done>, ScrapeError> {
        if matches!(self.state, State::Head) {
            match parse_head(buffer)? {
                None if buffer.len() > MAX_HEAD_BYTES => {
                    return Err(ScrapeError::Malformed("the head is too large"));
                }
                None => return Ok(None),
                Some(head) => self.begin_body(&head)?,
            }
        }
        let max_end = self.body_start.saturating_add(self.max_page_bytes);
        match &mut self.state {
            State::Head => Ok(None),
            State::Length { end } => {
                let end = *end;
                if buffer.len() < end {
                    return Ok(None);
                }
                // Bytes after the page belong to nothing that was asked for.
                Ok(Some(self.done(end, buffer.len() == end)))
            }
            State::UntilEnd if buffer.len() > max_end => {
                Err(ScrapeError::TooLarge(self.max_page_bytes))
            }
            State::UntilEnd => Ok(None),
            State::Chunks(chunks) => {
                let whole = chunks.decode(buffer)?;
                let end = chunks.decoded;
                if end > max_end {
                    return Err(ScrapeError::TooLarge(self.max_page_bytes));
                }
                Ok(whole.then(|| self.done(end, buffer.len() == end)))
            }
        }
    }

    /// The connection ended.
    pub(super) fn on_end(&self, buffer: &[u8]) -> Result<Option<Done>, ScrapeError> {
        match self.state {
            State::UntilEnd => Ok(Some(self.done(buffer.len(), false))),
            State::Head | State::Length { .. } | State::Chunks(_) => Err(ScrapeError::Closed),
        }
    }

    fn done(&self, end: usize, nothing_left: bool) -> Done {
        Done { body: self.body_start..end, keep_alive: self.keep_alive && nothing_left }
    }

    fn begin_body(&mut self, head: &Head) -> Result<(), ScrapeError> {
        if head.status != 200 {
            return Err(ScrapeError::Status(head.status));
        }
        self.body_start = head.len;
        self.keep_alive = head.keep_alive;
        self.state = match head.framing {
            Framing::Chunked => State::Chunks(Chunks { decoded: head.len, phase: Phase::Size }),
            Framing::Length(length) if length > self.max_page_bytes => {
                return Err(ScrapeError::TooLarge(self.max_page_bytes));
            }
            Framing::Length(length) => State::Length { end: head.len + length },
            Framing::UntilEnd => State::UntilEnd,
        };
        Ok(())
    }
}

// === impl Chunks ===

impl Chunks {
    /// Takes framing out of the bytes not yet looked at; true when the last chunk has ended.
    fn decode(&mut self, buffer: &mut Vec<u8>) -> Result<bool, ScrapeError> {
        let mut read = self.decoded;
        let mut whole = false;
        while let Some(rest) = buffer.get(read..).filter(|rest| !rest.is_empty()) {
            match self.phase {
                Phase::Size => {
                    let Some(line) = line(rest)? else { break };
                    read += line.len() + 2;
                    self.phase = match chunk_size(line)? {
                        0 => Phase::Trailers { n_bytes: 0 },
                        left => Phase::Data { left },
                    };
                }
                Phase::Data { left } => {
                    let n = left.min(rest.len());
                    buffer.copy_within(read..read + n, self.decoded);
                    self.decoded += n;
                    read += n;
                    self.phase =
                        if n == left { Phase::DataEnd } else { Phase::Data { left: left - n } };
                }
                Phase::DataEnd => {
                    let Some(line) = line(rest)? else { break };
                    if !line.is_empty() {
                        return Err(ScrapeError::Malformed("a chunk is longer than it says"));
                    }
                    read += 2;
                    self.phase = Phase::Size;
                }
                Phase::Trailers { n_bytes } => {
                    let Some(line) = line(rest)? else { break };
                    read += line.len() + 2;
                    if line.is_empty() {
                        whole = true;
                        break;
                    }
                    let n_bytes = n_bytes + line.len();
                    if n_bytes > MAX_LINE_BYTES {
                        return Err(ScrapeError::Malformed("the trailers are too large"));
                    }
                    self.phase = Phase::Trailers { n_bytes };
                }
            }
        }
        // What is left moves up behind the page, so that framing takes no room.
        buffer.copy_within(read.., self.decoded);
        buffer.truncate(self.decoded + (buffer.len() - read));
        Ok(whole)
    }
}

/// The line that `bytes` begin with, without its CRLF, if it is all there.
fn line(bytes: &[u8]) -> Result<Option<&[u8]>, ScrapeError> {
    let searched = bytes.get(..MAX_LINE_BYTES + 2).unwrap_or(bytes);
    let Some(end) = searched.iter().position(|byte| *byte == b'\n') else {
        return if searched.len() > MAX_LINE_BYTES + 1 {
            Err(ScrapeError::Malformed("a line is too long"))
        } else {
            Ok(None)
        };
    };
    match searched.get(..end).and_then(|line| line.strip_suffix(b"\r")) {
        Some(line) => Ok(Some(line)),
        None => Err(ScrapeError::Malformed("a line ends without a carriage return")),
    }
}

/// The size at the start of a chunk's line; extensions after `;` are ignored.
fn chunk_size(line: &[u8]) -> Result<usize, ScrapeError> {
    let bad = ScrapeError::Malformed("a chunk size is not a number");
    let digits = line.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
    // Seven hexadecimal digits are 256 MiB, beyond any page bound in use.
    if digits.is_empty() || digits.len() > 7 || !digits.iter().all(u8::is_ascii_hexdigit) {
        return Err(bad);
    }
    let Ok(digits) = std::str::from_utf8(digits) else { return Err(bad) };
    usize::from_str_radix(digits, 16).map_err(|_| bad)
}

// === Head ===

/// What a response head says about its body.
struct Head {
    len: usize,
    status: u16,
    keep_alive: bool,
    framing: Framing,
}

#[derive(Clone, Copy)]
enum Framing {
    Length(usize),
    Chunked,
    UntilEnd,
}

/// Parses the head if it is all there.
fn parse_head(buffer: &[u8]) -> Result<Option<Head>, ScrapeError> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut response = httparse::Response::new(&mut headers);
    let len = match response.parse(buffer) {
        Ok(httparse::Status::Complete(len)) => len,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(httparse::Error::TooManyHeaders) => {
            return Err(ScrapeError::Malformed("too many headers"));
        }
        Err(_) => return Err(ScrapeError::Malformed("the head cannot be read")),
    };
    let mut head = Head {
        len,
        status: response.code.unwrap_or(0),
        keep_alive: response.version == Some(1),
        framing: Framing::UntilEnd,
    };
    let mut length = None;
    let mut chunked = false;
    for header in response.headers.iter() {
        let is = |name: &str| header.name.eq_ignore_ascii_case(name);
        let value = header.value.trim_ascii();
        if is("content-length") {
            let parsed = std::str::from_utf8(value).ok().and_then(|text| text.parse().ok());
            let parsed: usize = parsed.ok_or(ScrapeError::Malformed("a length is not a number"))?;
            if length.is_some_and(|length| length != parsed) {
                return Err(ScrapeError::Malformed("two different lengths"));
            }
            length = Some(parsed);
        } else if is("transfer-encoding") {
            if !value.eq_ignore_ascii_case(b"chunked") {
                return Err(ScrapeError::Malformed("an unknown transfer encoding"));
            }
            chunked = true;
        } else if is("connection") {
            let has = |word: &[u8]| {
                value
                    .split(|byte| *byte == b',')
                    .any(|one| one.trim_ascii().eq_ignore_ascii_case(word))
            };
            head.keep_alive = (head.keep_alive || has(b"keep-alive")) && !has(b"close");
        } else if is("content-encoding") && !value.eq_ignore_ascii_case(b"identity") {
            let coding: String = String::from_utf8_lossy(value).chars().take(32).collect();
            return Err(ScrapeError::Encoded(coding));
        }
    }
    // RFC 9112 §6.3: chunks win over a length.
    head.framing = match (chunked, length) {
        (true, _) => Framing::Chunked,
        (false, Some(length)) => Framing::Length(length),
        (false, None) => Framing::UntilEnd,
    };
    Ok(Some(head))
}

#[cfg(test)]
mod tests;
