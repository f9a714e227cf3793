//! YAML to tree: one document, anchors and aliases within a budget, merge keys.

use std::{borrow::Cow, collections::HashMap};

use saphyr_parser::{Event, Parser, ScalarStyle, Tag};

use super::{
    Fault, MAX_ALIASED_BYTES, MAX_DEPTH, MAX_NODES, MapBuilder, Measure, Node, Plain, Value, fault,
    resolve,
};
use crate::document::{
    diagnostics::{Diagnostics, quote},
    source::Span,
};

pub(super) fn parse(text: &str, diagnostics: &mut Diagnostics) -> Result<Node, Fault> {
    let places = Places::new(text, diagnostics.source().n_lines_before());
    let mut builder = Builder {
        stack: Vec::new(),
        anchors: HashMap::new(),
        n_nodes: 0,
        n_aliased_bytes: 0,
        root: None,
        diagnostics,
    };
    let mut n_documents = 0;
    for event in Parser::new_from_str(text) {
        let (event, at) = event.map_err(|error| {
            let marker = *error.marker();
            let span = places.span(saphyr_parser::Span::empty(marker));
            match error.info() {
                // The scanner looks ahead through unclosed brackets.
                "recursion limit exceeded" => fault(span, too_deep()),
                info => fault(span, info),
            }
        })?;
        let span = places.span(at);
        if matches!(event, Event::DocumentStart(_)) {
            n_documents += 1;
            if n_documents > 1 {
                return Err(fault(span, "a second document; one file holds one document"));
            }
        }
        builder.event(event, span)?;
    }
    let root = builder.root.filter(|root| !root.is_null());
    root.ok_or_else(|| fault(Span::NONE, "the document is empty"))
}

fn too_deep() -> String {
    format!("nested deeper than {MAX_DEPTH}")
}

/// Turns the parser's positions, counted in characters, into byte offsets.
struct Places {
    /// The byte offset of every character; empty where the text is ASCII and they are the same.
    offsets: Vec<u32>,
    len: u32,
    /// Lines of the file before the text.
    n_lines_before: u32,
}

impl Places {
    fn new(text: &str, n_lines_before: u32) -> Self {
        let offsets = if text.is_ascii() {
            Vec::new()
        } else {
            text.char_indices().map(|(at, _)| at as u32).collect()
        };
        Self { offsets, len: text.len() as u32, n_lines_before }
    }

    fn offset(&self, index: usize) -> u32 {
        if self.offsets.is_empty() {
            return self.len.min(index as u32);
        }
        self.offsets.get(index).copied().unwrap_or(self.len)
    }

    fn span(&self, span: saphyr_parser::Span) -> Span {
        let start = self.offset(span.start.index());
        let place = Span {
            line: span.start.line() as u32,
            col: span.start.col() as u32 + 1,
            start,
            end: self.offset(span.end.index()).max(start),
        };
        place.below(self.n_lines_before)
    }
}

struct Builder<'d> {
    stack: Vec<Frame>,
    anchors: HashMap<usize, (Node, Measure)>,
    n_nodes: usize,
    n_aliased_bytes: usize,
    root: Option<Node>,
    diagnostics: &'d mut Diagnostics,
}

/// A list or map whose end has not come yet.
struct Frame {
    span: Span,
    anchor: usize,
    open: Open,
}

enum Open {
    List(Vec<Node>),
    Map { builder: MapBuilder, key: Key, merges: Vec<Node> },
}

/// What the next value of a map belongs to.
enum Key {
    /// It is a key itself.
    None,
    Name(String, Span),
    Merge,
    /// A key that was refused: its value is read and left out.
    Refused,
}

impl Builder<'_> {
    fn event(&mut self, event: Event<'_>, span: Span) -> Result<(), Fault> {
        match event {
            Event::Nothing
            | Event::StreamStart
            | Event::StreamEnd
            | Event::DocumentStart(_)
            | Event::DocumentEnd => Ok(()),
            Event::Scalar(text, style, anchor, tag) => {
                if self.expects_key() {
                    self.key(text, style, span);
                    return Ok(());
                }
                let value = self.scalar(text, style, tag.as_deref(), span);
                self.complete(Node { span, value }, anchor)
            }
            Event::SequenceStart(anchor, tag) => {
                self.open(Open::List(Vec::new()), "seq", anchor, tag.as_deref(), span)
            }
            Event::MappingStart(anchor, tag) => {
                let builder = MapBuilder::default();
                let open = Open::Map { builder, key: Key::None, merges: Vec::new() };
                self.open(open, "map", anchor, tag.as_deref(), span)
            }
            Event::SequenceEnd | Event::MappingEnd => self.close(span),
            Event::Alias(anchor) => self.alias(anchor, span),
        }
    }

    fn expects_key(&self) -> bool {
        let top = self.stack.last().map(|frame| &frame.open);
        matches!(top, Some(Open::Map { key: Key::None, .. }))
    }

    fn key(&mut self, text: Cow<'_, str>, style: ScalarStyle, span: Span) {
        let Some(Frame { open: Open::Map { builder, key, .. }, .. }) = self.stack.last_mut() else {
            return;
        };
        // Keys stay text whatever they look like: `on: 1` has the key `on`.
        *key = if style == ScalarStyle::Plain && resolve(&text) == Plain::Merge {
            Key::Merge
        } else if builder.claim(&text, span, self.diagnostics) {
            Key::Name(text.into_owned(), span)
        } else {
            Key::Refused
        };
    }

    fn scalar(
        &mut self,
        text: Cow<'_, str>,
        style: ScalarStyle,
        tag: Option<&Tag>,
        span: Span,
    ) -> Value {
        let tag = tag.map(|tag| (tag.is_yaml_core_schema(), tag.suffix.as_str()));
        let meaning = match tag {
            // A lone `!` means text.
            Some((true, "str") | (false, "!")) => Plain::String,
            None if style != ScalarStyle::Plain => Plain::String,
            _ => resolve(&text),
        };
        let fits = match (tag, &meaning) {
            (None | Some((true, "str") | (false, "!")), _)
            | (Some((true, "null")), Plain::Null)
            | (Some((true, "bool")), Plain::Bool(_))
            | (Some((true, "float")), Plain::Number(_)) => true,
            (Some((true, "int")), Plain::Number(number)) => !number.is_f64(),
            _ => false,
        };
        if !fits {
            let name = tag.map_or("", |(_, name)| name);
            let message = format!("tag {} does not fit this value", quote(&format!("!{name}")));
            self.diagnostics.error(span, "", message, || Some("leave the tag out".to_owned()));
            return Value::Null;
        }
        match meaning {
            Plain::Null => Value::Null,
            Plain::Bool(value) => Value::Bool(value),
            Plain::Number(number) => Value::Number(number),
            Plain::String | Plain::Merge => Value::String(text.into_owned()),
            Plain::NotFinite => {
                let message = format!("{} is not a finite number", quote(&text));
                self.diagnostics.error(span, "", message, || None);
                Value::Null
            }
        }
    }

    fn open(
        &mut self,
        open: Open,
        kind: &str,
        anchor: usize,
        tag: Option<&Tag>,
        span: Span,
    ) -> Result<(), Fault> {
        if self.expects_key() {
            return Err(fault(span, "a key must be a scalar"));
        }
        if self.stack.len() >= MAX_DEPTH {
            return Err(fault(span, too_deep()));
        }
        if tag.is_some_and(|tag| !(tag.is_yaml_core_schema() && tag.suffix == kind)) {
            let message = "tags are not supported here";
            self.diagnostics.error(span, "", message, || Some("leave the tag out".to_owned()));
        }
        self.stack.push(Frame { span, anchor, open });
        Ok(())
    }

    fn close(&mut self, end: Span) -> Result<(), Fault> {
        let Some(Frame { mut span, anchor, open }) = self.stack.pop() else { return Ok(()) };
        let (value, last) = match open {
            Open::List(list) => {
                let last = list.last().map(|node| node.span);
                (Value::List(list), last)
            }
            Open::Map { mut builder, merges, .. } => {
                for merged in merges {
                    self.merge(&mut builder, merged);
                }
                let last = builder.map.entries.last().map(|entry| entry.value.span);
                (Value::Map(builder.map), last)
            }
        };
        // A block ends, for the parser, where the next token begins; for a reader, with its last
        // value.
        let is_flow = end.end > end.start;
        let last = if is_flow { Some(end) } else { last };
        span.end = last.map_or(span.end, |last| last.end.max(span.end));
        self.complete(Node { span, value }, anchor)
    }

    fn merge(&mut self, builder: &mut MapBuilder, merged: Node) {
        let span = merged.span;
        let maps = match merged.value {
            Value::List(list) => list,
            _ => vec![merged],
        };
        for map in maps {
            let Value::Map(map) = map.value else {
                let message = "a merge key takes a map or a list of maps";
                self.diagnostics.error(span, "", message, || None);
                return;
            };
            map.entries.into_iter().for_each(|entry| builder.merge(entry));
        }
    }

    fn alias(&mut self, anchor: usize, span: Span) -> Result<(), Fault> {
        if self.expects_key() {
            return Err(fault(span, "an alias cannot be a key"));
        }
        let Some((node, measure)) = self.anchors.get(&anchor) else {
            return Err(fault(span, "an alias inside what it stands for"));
        };
        let (node, measure) = (node.clone(), *measure);
        self.charge(measure, span)?;
        if self.stack.len() + measure.height > MAX_DEPTH {
            return Err(fault(span, too_deep()));
        }
        self.place(node);
        Ok(())
    }

    /// Counts the copies that aliases make, before a small document becomes a huge tree.
    fn charge(&mut self, measure: Measure, span: Span) -> Result<(), Fault> {
        self.n_nodes += measure.n_nodes;
        self.n_aliased_bytes += measure.n_bytes;
        if self.n_nodes > MAX_NODES || self.n_aliased_bytes > MAX_ALIASED_BYTES {
            return Err(fault(span, "aliases repeat too much"));
        }
        Ok(())
    }

    /// A value has ended: keeps it for its aliases and puts it where it belongs.
    fn complete(&mut self, node: Node, anchor: usize) -> Result<(), Fault> {
        self.n_nodes += 1;
        if self.n_nodes > MAX_NODES {
            let message = format!("the document has more than {MAX_NODES} values");
            return Err(fault(node.span, message));
        }
        // The parser numbers anchors from 1.
        if anchor > 0 {
            let measure = node.measure();
            self.charge(measure, node.span)?;
            self.anchors.insert(anchor, (node.clone(), measure));
        }
        self.place(node);
        Ok(())
    }

    fn place(&mut self, node: Node) {
        match self.stack.last_mut().map(|frame| &mut frame.open) {
            None => self.root = Some(node),
            Some(Open::List(list)) => list.push(node),
            Some(Open::Map { builder, key, merges }) => match std::mem::replace(key, Key::None) {
                Key::Name(name, span) => builder.insert(name, span, node),
                Key::Merge => merges.push(node),
                Key::None | Key::Refused => {}
            },
        }
    }
}
