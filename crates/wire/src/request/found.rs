//! What a scan found. Texts are kept as places in the body; [`super::build`] turns them into slices once the body
//! is over.

use std::ops::Range;

use smallvec::SmallVec;

use super::{Api, Limits, ScanError, slots::Slot, tokens::token_id};
use crate::{
    json::{Escapes, Text},
    media::{MediaForm, MediaKind},
};

/// A text in the body: the contents of a string, or a raw JSON value.
#[derive(Debug, Clone, Copy)]
pub(super) struct Span {
    pub(super) start: usize,
    pub(super) end: usize,
    pub(super) escapes: Escapes,
}

/// A part of a prompt that is still a place in the body.
#[derive(Debug, Clone, Copy)]
pub(super) enum Mark {
    /// Kept free for the role, which may come after the content but goes before it.
    NoRole,
    Text(Span),
    /// Text of a system block, which is dropped if it is a billing header.
    SystemText(Span),
    Media {
        kind: MediaKind,
        form: MediaForm,
        span: Span,
    },
}

#[derive(Debug)]
pub(super) enum PromptMark {
    Text(Option<Span>),
    Tokens(TokenMark),
}

/// The place of a list of token ids, from its first to its last.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct TokenMark {
    pub(super) span: Range<usize>,
    pub(super) n_ids: usize,
}

/// What the elements of `prompt` are; they must be of one kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    Unknown,
    Strings,
    Tokens,
    Lists,
}

/// A content block under way.
#[derive(Debug, Default)]
pub(super) struct Block {
    pub(super) kind: BlockKind,
    pub(super) text: Option<Span>,
    pub(super) thinking: Option<Span>,
    pub(super) tool_id: Option<Span>,
    pub(super) tool_name: Option<Span>,
    pub(super) tool_input: Option<Span>,
    pub(super) content: Option<Span>,
    pub(super) media: Option<(MediaKind, MediaForm, Span)>,
    pub(super) source_is_text: bool,
    pub(super) source: Option<(MediaForm, Span)>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum BlockKind {
    #[default]
    Plain,
    Document,
}

/// A placeholder of a medium among token ids.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    pub(super) kind: MediaKind,
    pub(super) offset: u32,
    pub(super) length: u32,
}

#[derive(Debug)]
pub(super) struct Found {
    pub(super) api: Api,
    pub(super) limits: Limits,
    pub(super) error: Option<ScanError>,

    pub(super) members_at: usize,
    pub(super) has_members: bool,
    pub(super) model: Option<Span>,
    pub(super) model_span: Option<Range<usize>>,
    pub(super) stream: bool,
    pub(super) cache_salt: Option<Span>,
    pub(super) caps: [Option<u64>; 2],
    pub(super) n_answers: Option<u64>,

    pub(super) tools: Option<Span>,
    pub(super) instructions: Option<Span>,
    pub(super) input: Option<Span>,
    pub(super) system: Vec<Mark>,
    pub(super) messages: Vec<Mark>,
    pub(super) n_messages: usize,
    pub(super) in_system: bool,
    pub(super) message_start: usize,
    pub(super) tool_calls: Option<Span>,
    pub(super) blocks: SmallVec<[Block; 1]>,

    pub(super) prompts: Vec<PromptMark>,
    pub(super) shape: Shape,
    pub(super) n_tokens: usize,
    pub(super) list_len: usize,

    pub(super) hashes: Vec<(MediaKind, Option<Span>)>,
    pub(super) places: Vec<Place>,
}

impl Span {
    pub(super) fn contents(text: Text<'_>, span: &Range<usize>) -> Self {
        Span { start: span.start + 1, end: span.end.saturating_sub(1), escapes: text.escapes }
    }

    pub(super) fn raw(span: &Range<usize>) -> Self {
        Span { start: span.start, end: span.end, escapes: Escapes::default() }
    }

    pub(super) fn is_empty(self) -> bool {
        self.start >= self.end
    }

    pub(super) fn nonempty(self) -> Option<Self> {
        (!self.is_empty()).then_some(self)
    }
}

impl Found {
    pub(super) fn new(api: Api, limits: Limits) -> Self {
        Self {
            api,
            limits,
            error: None,
            members_at: 0,
            has_members: false,
            model: None,
            model_span: None,
            stream: false,
            cache_salt: None,
            caps: [None; 2],
            n_answers: None,
            tools: None,
            instructions: None,
            input: None,
            system: Vec::new(),
            messages: Vec::new(),
            n_messages: 0,
            in_system: false,
            message_start: 0,
            tool_calls: None,
            blocks: SmallVec::new(),
            prompts: Vec::new(),
            shape: Shape::Unknown,
            n_tokens: 0,
            list_len: 0,
            hashes: Vec::new(),
            places: Vec::new(),
        }
    }

    /// Gives the first thing found wrong.
    pub(super) fn check(&self) -> Result<(), ScanError> {
        self.error.clone().map_or(Ok(()), Err)
    }

    pub(super) fn fail(&mut self, error: ScanError) {
        self.error.get_or_insert(error);
    }

    pub(super) fn wrong_type(&mut self, field: &'static str, expected: &'static str) {
        self.fail(ScanError::WrongType { api: self.api, field, expected });
    }

    pub(super) fn wrong_prompt(&mut self) {
        let field = self.api.required_field();
        self.wrong_type(field, "a string, token ids, or an array of strings or of token ids");
    }

    pub(super) fn wrong_messages(&mut self) {
        self.wrong_type("messages", "an array of objects");
    }

    pub(super) fn bad_token(&mut self) {
        let (api, field, index) = (self.api, self.api.required_field(), self.list_len);
        self.fail(ScanError::BadTokenId { api, field, index });
    }

    /// Drops what an earlier member of the same name gave.
    pub(super) fn forget(&mut self, slot: Slot) {
        match slot {
            Slot::Model => self.model = None,
            Slot::Stream => self.stream = false,
            Slot::CacheSalt => self.cache_salt = None,
            Slot::Answers => self.n_answers = None,
            Slot::Cap { rank } => {
                if let Some(cap) = self.caps.get_mut(rank) {
                    *cap = None;
                }
            }
            Slot::Tools => self.tools = None,
            Slot::Instructions => self.instructions = None,
            Slot::Input | Slot::Items => self.input = None,
            Slot::Messages => self.forget_messages(),
            Slot::Content => self.forget_content(),
            Slot::ToolCalls => self.tool_calls = None,
            Slot::System => self.system.clear(),
            Slot::Prompts | Slot::TokenIds => self.forget_prompts(),
            _ => {}
        }
    }

    pub(super) fn forget_messages(&mut self) {
        self.messages.clear();
        self.n_messages = 0;
    }

    pub(super) fn forget_content(&mut self) {
        self.messages.truncate(self.message_start + 1);
    }

    pub(super) fn forget_prompts(&mut self) {
        self.prompts.clear();
        self.shape = Shape::Unknown;
        self.n_tokens = 0;
        self.list_len = 0;
    }

    pub(super) fn begin_message(&mut self) {
        self.message_start = self.messages.len();
        self.tool_calls = None;
        self.push_mark(Mark::NoRole);
    }

    pub(super) fn short(&mut self, field: &'static str, span: Span) -> Option<Span> {
        let limit = self.limits.max_name_bytes;
        if span.end - span.start > limit {
            self.fail(ScanError::TooLong { api: self.api, field, limit });
        }
        Some(span)
    }

    pub(super) fn push_mark(&mut self, mark: Mark) {
        let marks = if self.in_system { &mut self.system } else { &mut self.messages };
        marks.push(mark);
        self.check_pieces(self.system.len() + self.messages.len());
    }

    pub(super) fn check_pieces(&mut self, n: usize) {
        let limit = self.limits.max_pieces;
        if n > limit {
            self.fail(ScanError::TooMany { api: self.api, what: "parts", limit });
        }
    }

    pub(super) fn push_text(&mut self, span: Span) {
        if !span.is_empty() {
            let mark = if self.in_system { Mark::SystemText(span) } else { Mark::Text(span) };
            self.push_mark(mark);
        }
    }

    pub(super) fn set_block(&mut self, set: impl FnOnce(&mut Block)) {
        if let Some(block) = self.blocks.last_mut() {
            set(block);
        }
    }

    pub(super) fn end_block(&mut self, block: &Block) {
        let texts = [
            block.text,
            block.thinking,
            block.tool_id,
            block.tool_name,
            block.tool_input,
            block.content,
        ];
        for span in texts.into_iter().flatten() {
            self.push_text(span);
        }
        if let Some((kind, form, span)) = block.media {
            self.push_mark(Mark::Media { kind, form, span });
        }
        match (block.source, block.kind) {
            (Some((_, span)), BlockKind::Document) if block.source_is_text => self.push_text(span),
            (Some((form, span)), BlockKind::Document) => {
                self.push_mark(Mark::Media { kind: MediaKind::Other, form, span });
            }
            (Some((form, span)), BlockKind::Plain) => {
                self.push_mark(Mark::Media { kind: MediaKind::Image, form, span });
            }
            (None, _) => {}
        }
    }

    pub(super) fn shape_is(&mut self, shape: Shape) -> bool {
        if self.shape == Shape::Unknown {
            self.shape = shape;
        }
        self.shape == shape
    }

    pub(super) fn push_prompt(&mut self, prompt: PromptMark) {
        self.prompts.push(prompt);
        let limit = self.limits.max_prompts;
        if self.prompts.len() > limit {
            self.fail(ScanError::TooMany { api: self.api, what: "prompts", limit });
        }
    }

    pub(super) fn push_token(&mut self, raw: Option<&[u8]>, span: &Range<usize>) {
        if raw.and_then(token_id).is_none() {
            return self.bad_token();
        }
        self.n_tokens += 1;
        let limit = self.limits.max_tokens;
        if self.n_tokens > limit {
            return self.fail(ScanError::TooMany { api: self.api, what: "token ids", limit });
        }
        self.list_len += 1;
        if let Some(PromptMark::Tokens(list)) = self.prompts.last_mut() {
            if list.n_ids == 0 {
                list.span.start = span.start;
            }
            list.span.end = span.end;
            list.n_ids += 1;
        }
    }

    /// Bytes of the lists, with the room that they have to grow.
    pub(super) fn held_bytes(&self) -> usize {
        fn list<T>(list: &Vec<T>) -> usize {
            list.capacity() * size_of::<T>()
        }
        let marks = list(&self.system) + list(&self.messages) + list(&self.prompts);
        marks + list(&self.hashes) + list(&self.places)
    }
}
