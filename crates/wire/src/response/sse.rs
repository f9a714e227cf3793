//! Server-sent events, cut anywhere: which bytes of a piece are data, and where lines and events end.

use std::ops::Range;

use memchr::memchr2;

/// What a piece is made of, in order.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// Bytes of the piece that are data of the current line, without `data:` and the space after it.
    Data(Range<usize>),
    /// The current line is over.
    LineEnd {
        /// Whether it was a line of data.
        data: bool,
    },
    /// An empty line.
    EventEnd,
}

const FIELD: &[u8] = b"data:";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// So many bytes of `data:` have come.
    Field(usize),
    /// `data:` is over; one space may follow.
    Space,
    Data,
    /// A line of another field or a comment.
    Other,
}

/// Splits a stream into lines.
#[derive(Debug)]
pub(super) struct Lines {
    state: State,
    /// A line ended with CR; an LF that follows belongs to it.
    after_cr: bool,
}

impl Default for Lines {
    fn default() -> Self {
        Self { state: State::Field(0), after_cr: false }
    }
}

impl Lines {
    /// Whether the current line is a line of data.
    pub(super) fn in_data(&self) -> bool {
        matches!(self.state, State::Space | State::Data)
    }

    /// Goes through the next piece. A line of data that has an empty part in this piece gives no [`Part::Data`].
    pub(super) fn split(&mut self, piece: &[u8], mut take: impl FnMut(Part)) {
        let mut at = 0;
        while let Some(&byte) = piece.get(at) {
            if std::mem::take(&mut self.after_cr) && byte == b'\n' {
                at += 1;
                continue;
            }
            match self.state {
                State::Data | State::Other => {
                    let rest = piece.get(at..).unwrap_or_default();
                    let len = memchr2(b'\n', b'\r', rest).unwrap_or(rest.len());
                    if self.state == State::Data && len > 0 {
                        take(Part::Data(at..at + len));
                    }
                    at += len;
                    if let Some(&end) = piece.get(at) {
                        self.end_line(end, &mut take);
                        at += 1;
                    }
                }
                _ if byte == b'\n' || byte == b'\r' => {
                    self.end_line(byte, &mut take);
                    at += 1;
                }
                State::Space => {
                    self.state = State::Data;
                    at += usize::from(byte == b' ');
                }
                State::Field(n) if FIELD.get(n) == Some(&byte) => {
                    self.state =
                        if n + 1 == FIELD.len() { State::Space } else { State::Field(n + 1) };
                    at += 1;
                }
                State::Field(_) => self.state = State::Other,
            }
        }
    }

    fn end_line(&mut self, end: u8, take: &mut impl FnMut(Part)) {
        self.after_cr = end == b'\r';
        if self.state == State::Field(0) {
            take(Part::EventEnd);
        } else {
            take(Part::LineEnd { data: self.in_data() });
        }
        self.state = State::Field(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn events(pieces: &[&[u8]]) -> Vec<String> {
        let mut lines = Lines::default();
        let mut out = vec![];
        let mut data = vec![];
        for piece in pieces {
            lines.split(piece, |part| match part {
                Part::Data(range) => data.extend_from_slice(&piece[range]),
                Part::LineEnd { data: true } => {
                    out.push(String::from_utf8(std::mem::take(&mut data)).unwrap());
                }
                Part::LineEnd { data: false } => out.push("-".into()),
                Part::EventEnd => out.push("|".into()),
            });
        }
        out
    }

    fn check(stream: &str, expected: &[&str]) {
        assert_eq!(events(&[stream.as_bytes()]), expected, "{stream:?}");
        for cut in 0..=stream.len() {
            let (a, b) = stream.as_bytes().split_at(cut);
            assert_eq!(events(&[a, b]), expected, "{stream:?} cut at {cut}");
        }
        let single: Vec<&[u8]> = stream.as_bytes().chunks(1).collect();
        assert_eq!(events(&single), expected, "{stream:?} in single bytes");
    }

    #[test]
    fn lines_are_told_apart_wherever_they_are_cut() {
        check("data: a\n\ndata: b\n\n", &["a", "|", "b", "|"]);
        check("data:a\r\n\r\ndata:  b\r\n", &["a", "|", " b"]);
        check("data: a\r\rdata: b\r", &["a", "|", "b"]);
        check("event: x\ndata: a\n: data: c\n\n", &["-", "a", "-", "|"]);
        check("data\ndata:\ndatax: 1\n", &["-", "", "-"]);
        check("data: a\ndata: b\n\n", &["a", "b", "|"]);
        check("data: no end", &[]);
        check("\n\n\r\n", &["|", "|", "|"]);
    }
}
