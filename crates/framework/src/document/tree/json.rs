//! JSON to tree: RFC 8259, nothing more.

use std::sync::Arc;

use serde_json::Number;

use super::{Fault, MAX_DEPTH, MAX_NODES, MapBuilder, Node, Value, fault};
use crate::document::{
    diagnostics::Diagnostics,
    source::{Cursor, Source, Span},
};

pub(super) fn parse(text: &str, source: &Arc<Source>) -> Result<(Node, Diagnostics), Fault> {
    let mut reader = Reader {
        text,
        at: 0,
        place: Cursor::below(source.n_lines_before()),
        n_nodes: 0,
        diagnostics: Diagnostics::new(source.clone()),
    };
    let node = reader.value(0)?;
    reader.blanks();
    match reader.peek() {
        None => Ok((node, reader.diagnostics)),
        Some(_) => Err(reader.fault("expected the end of the document")),
    }
}

struct Reader<'t> {
    text: &'t str,
    at: usize,
    place: Cursor,
    n_nodes: usize,
    diagnostics: Diagnostics,
}

impl<'t> Reader<'t> {
    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn rest(&self) -> &'t str {
        self.text.get(self.at..).unwrap_or_default()
    }

    fn blanks(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    /// The span from byte offset `start` to where the reader is. Starts must not go back.
    fn place_of(&mut self, start: usize) -> Cursor {
        self.place.advance(self.text, start);
        self.place
    }

    fn fault(&mut self, message: &str) -> Fault {
        let len = self.rest().chars().next().map_or(0, char::len_utf8);
        let span = self.place_of(self.at).span(self.at + len);
        let found = match self.rest().chars().next() {
            Some(c) => format!("found `{}`", c.escape_debug()),
            None => "found the end of the document".to_owned(),
        };
        fault(span, format!("{message}, {found}"))
    }

    fn value(&mut self, depth: usize) -> Result<Node, Fault> {
        self.blanks();
        let start = self.place_of(self.at);
        self.n_nodes += 1;
        if depth > MAX_DEPTH {
            return Err(fault(start.span(self.at + 1), format!("nested deeper than {MAX_DEPTH}")));
        }
        if self.n_nodes > MAX_NODES {
            let message = format!("the document has more than {MAX_NODES} values");
            return Err(fault(start.span(self.at + 1), message));
        }
        let value = match self.peek() {
            Some(b'{') => self.map(depth)?,
            Some(b'[') => self.list(depth)?,
            Some(b'"') => Value::String(self.string()?),
            Some(b'-' | b'0'..=b'9') => self.number(start)?,
            _ => self.word()?,
        };
        Ok(Node { span: start.span(self.at), value })
    }

    fn word(&mut self) -> Result<Value, Fault> {
        let words =
            [("null", Value::Null), ("true", Value::Bool(true)), ("false", Value::Bool(false))];
        for (word, value) in words {
            if self.rest().starts_with(word) {
                self.at += word.len();
                return Ok(value);
            }
        }
        Err(self.fault("expected a value"))
    }

    fn number(&mut self, start: Cursor) -> Result<Value, Fault> {
        let in_number = |b: u8| b.is_ascii_digit() || matches!(b, b'-' | b'+' | b'.' | b'e' | b'E');
        let len = self.rest().bytes().take_while(|&b| in_number(b)).count();
        let digits = self.rest().get(..len).unwrap_or_default();
        self.at += len;
        let number: Option<Number> = serde_json::from_str(digits).ok();
        number.map(Value::Number).ok_or_else(|| {
            fault(start.span(self.at), "not a number, or one beyond what a float holds")
        })
    }

    fn list(&mut self, depth: usize) -> Result<Value, Fault> {
        self.at += 1;
        let mut list = Vec::new();
        self.blanks();
        if self.peek() == Some(b']') {
            self.at += 1;
            return Ok(Value::List(list));
        }
        loop {
            list.push(self.value(depth + 1)?);
            self.blanks();
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(b']') => break,
                _ => return Err(self.fault("expected `,` or `]`")),
            }
        }
        self.at += 1;
        Ok(Value::List(list))
    }

    fn map(&mut self, depth: usize) -> Result<Value, Fault> {
        self.at += 1;
        let mut builder = MapBuilder::default();
        self.blanks();
        if self.peek() == Some(b'}') {
            self.at += 1;
            return Ok(Value::Map(builder.map));
        }
        loop {
            self.blanks();
            if self.peek() != Some(b'"') {
                return Err(self.fault("expected a key in quotes"));
            }
            let (key, key_span) = self.key()?;
            let is_new = builder.claim(&key, key_span, &mut self.diagnostics);
            let value = self.value(depth + 1)?;
            if is_new {
                builder.insert(key, key_span, value);
            }
            self.blanks();
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(b'}') => break,
                _ => return Err(self.fault("expected `,` or `}`")),
            }
        }
        self.at += 1;
        Ok(Value::Map(builder.map))
    }

    fn key(&mut self) -> Result<(String, Span), Fault> {
        let start = self.place_of(self.at);
        let key = self.string()?;
        let span = start.span(self.at);
        self.blanks();
        if self.peek() != Some(b':') {
            return Err(self.fault("expected `:`"));
        }
        self.at += 1;
        Ok((key, span))
    }

    /// Finds the end of a string and leaves its escapes to serde_json.
    fn string(&mut self) -> Result<String, Fault> {
        let start = self.at;
        let mut escaped = false;
        for (offset, b) in self.rest().bytes().enumerate().skip(1) {
            match b {
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                b'"' => {
                    self.at = start + offset + 1;
                    break;
                }
                b'\n' => break,
                _ => {}
            }
        }
        let literal = self.text.get(start..self.at).unwrap_or_default();
        serde_json::from_str(literal).map_err(|_| {
            let line = self.text.get(start..).and_then(|rest| rest.lines().next());
            let (message, end) = if literal.is_empty() {
                let end = start + line.map_or(0, str::len);
                ("a string that does not end on its line", end)
            } else {
                ("a string with a wrong escape or a control character", self.at)
            };
            fault(self.place_of(start).span(end), message)
        })
    }
}
