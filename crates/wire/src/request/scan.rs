//! The state of a scan: where in the body the next token is, and what was found.
//!
//! Found texts are kept as places in the body; [`super::build`] turns them into slices once the body is over.

use std::ops::Range;

use smallvec::SmallVec;

use super::{
    Api, Limits, ScanError,
    slots::{Frame, Slot},
};
use crate::{
    json::{Sink, Text, Token, count},
    media::{MediaForm, MediaKind},
};

/// A text in the body: the contents of a string, or a raw JSON value.
#[derive(Debug, Clone, Copy)]
pub(super) struct Span {
    pub(super) start: usize,
    pub(super) end: usize,
    pub(super) escaped: bool,
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
    Tokens(Vec<u32>),
}

/// What the elements of `prompt` are; they must be of one kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shape {
    Unknown,
    Strings,
    Tokens,
    Lists,
}

/// A content block under way.
#[derive(Debug, Default)]
struct Block {
    kind: BlockKind,
    text: Option<Span>,
    thinking: Option<Span>,
    tool_id: Option<Span>,
    tool_name: Option<Span>,
    tool_input: Option<Span>,
    content: Option<Span>,
    media: Option<(MediaKind, MediaForm, Span)>,
    source_is_text: bool,
    source: Option<(MediaForm, Span)>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum BlockKind {
    #[default]
    Plain,
    Document,
}

/// A value that is taken as raw JSON, or passed over: its meaning, where it began, whether it has elements.
#[derive(Debug)]
struct Whole {
    slot: Slot,
    start: usize,
    array: bool,
    depth: usize,
    has_elements: bool,
}

/// A placeholder of a medium among token ids.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    pub(super) kind: MediaKind,
    pub(super) offset: u32,
    pub(super) length: u32,
}

#[derive(Debug)]
pub(super) struct Scan {
    pub(super) api: Api,
    pub(super) limits: Limits,
    frames: SmallVec<[Frame; 12]>,
    slot: Slot,
    whole: Option<Whole>,
    error: Option<ScanError>,

    pub(super) members_at: usize,
    pub(super) has_members: bool,
    pub(super) model: Option<Span>,
    pub(super) model_span: Option<Range<usize>>,
    pub(super) stream: bool,
    pub(super) cache_salt: Option<Span>,
    pub(super) caps: [Option<u64>; 2],

    pub(super) tools: Option<Span>,
    pub(super) instructions: Option<Span>,
    pub(super) input: Option<Span>,
    pub(super) system: Vec<Mark>,
    pub(super) messages: Vec<Mark>,
    pub(super) n_messages: usize,
    in_system: bool,
    message_start: usize,
    tool_calls: Option<Span>,
    blocks: SmallVec<[Block; 1]>,

    pub(super) prompts: Vec<PromptMark>,
    shape: Shape,
    n_tokens: usize,
    list_len: usize,

    pub(super) hashes: Vec<(MediaKind, Option<Span>)>,
    pub(super) places: Vec<Place>,
}

impl Span {
    fn contents(text: Text<'_>, span: &Range<usize>) -> Self {
        Span { start: span.start + 1, end: span.end.saturating_sub(1), escaped: text.escaped }
    }

    fn raw(span: &Range<usize>) -> Self {
        Span { start: span.start, end: span.end, escaped: false }
    }

    pub(super) fn is_empty(self) -> bool {
        self.start >= self.end
    }

    fn nonempty(self) -> Option<Self> {
        (!self.is_empty()).then_some(self)
    }
}

impl Sink for Scan {
    fn token(&mut self, token: Token<'_>, span: Range<usize>) {
        if let Some(whole) = &mut self.whole {
            match token {
                Token::ObjectStart | Token::ArrayStart => whole.depth += 1,
                Token::ObjectEnd | Token::ArrayEnd => whole.depth -= 1,
                _ => {}
            }
            if whole.depth > 0 {
                whole.has_elements = true;
            } else if let Some(whole) = self.whole.take() {
                self.take_whole(&whole, whole.start..span.end);
            }
            return;
        }
        if self.error.is_some() {
            return;
        }
        match token {
            Token::Key(key) => {
                let Some(&frame) = self.frames.last() else { return };
                self.has_members |= frame == Frame::Body;
                self.slot = frame.member(self.api, key);
            }
            Token::ObjectEnd | Token::ArrayEnd => self.leave(),
            Token::ObjectStart => self.enter(false, span.start),
            Token::ArrayStart => self.enter(true, span.start),
            Token::Str(text) => {
                let slot = self.take_slot();
                self.string(slot, text, &span);
            }
            Token::Number(_) | Token::Bool(_) | Token::Null => match (self.take_slot(), token) {
                // Lists of token ids may be most of a body.
                (Slot::Token, Token::Number(raw)) => self.push_token(raw),
                (Slot::Prompt, Token::Number(raw)) if self.shape == Shape::Tokens => {
                    self.push_token(raw);
                }
                (slot, token) => self.scalar(slot, token, &span),
            },
        }
    }
}

impl Scan {
    pub(super) fn new(api: Api, limits: Limits) -> Self {
        Self {
            api,
            limits,
            frames: SmallVec::new(),
            slot: Slot::Body,
            whole: None,
            error: None,
            members_at: 0,
            has_members: false,
            model: None,
            model_span: None,
            stream: false,
            cache_salt: None,
            caps: [None; 2],
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

    #[inline]
    fn take_slot(&mut self) -> Slot {
        match self.frames.last().and_then(|frame| frame.element()) {
            Some(element) => element,
            None => std::mem::replace(&mut self.slot, Slot::Ignored),
        }
    }

    fn fail(&mut self, error: ScanError) {
        self.error.get_or_insert(error);
    }

    fn wrong_type(&mut self, field: &'static str, expected: &'static str) {
        self.fail(ScanError::WrongType { api: self.api, field, expected });
    }

    fn wrong_prompt(&mut self) {
        let field = self.api.required_field();
        self.wrong_type(field, "a string, token ids, or an array of strings or of token ids");
    }

    fn wrong_messages(&mut self) {
        self.wrong_type("messages", "an array of objects");
    }

    fn bad_token(&mut self) {
        let (api, field, index) = (self.api, self.api.required_field(), self.list_len);
        self.fail(ScanError::BadTokenId { api, field, index });
    }

    // === containers ===

    fn enter(&mut self, array: bool, start: usize) {
        let slot = self.take_slot();
        let frame = match (slot, array) {
            (Slot::Body, false) => {
                self.members_at = start + 1;
                Frame::Body
            }
            (Slot::Body, true) => return self.fail(ScanError::NotAnObject),
            (Slot::Sampling, false) => Frame::Sampling,
            (Slot::Messages, true) => {
                self.forget_messages();
                Frame::Messages
            }
            (Slot::Message, false) => {
                self.begin_message();
                Frame::Message
            }
            (Slot::Content, true) => {
                self.forget_content();
                Frame::Blocks
            }
            (Slot::BlockContent, true) => Frame::Blocks,
            (Slot::Block, false) => {
                self.blocks.push(Block::default());
                Frame::Block
            }
            (Slot::Media(kind), false) => Frame::MediaRef(kind),
            (Slot::Source, false) => Frame::Source,
            (Slot::System, true) => {
                self.system.clear();
                self.in_system = true;
                Frame::System
            }
            (Slot::Prompts, true) => {
                self.forget_prompts();
                Frame::Prompts
            }
            (Slot::Prompt, true) => {
                if !self.shape_is(Shape::Lists) {
                    return self.wrong_prompt();
                }
                self.push_prompt(PromptMark::Tokens(Vec::new()));
                self.list_len = 0;
                Frame::Tokens
            }
            (Slot::TokenIds, true) => {
                self.forget_prompts();
                self.push_prompt(PromptMark::Tokens(Vec::new()));
                Frame::Tokens
            }
            (Slot::Features, false) => Frame::Features,
            (Slot::Hashes, false) => Frame::Hashes,
            (Slot::HashList(kind), true) => Frame::HashList(kind),
            (Slot::Places, false) => Frame::Places,
            (Slot::PlaceList(kind), true) => Frame::PlaceList(kind),
            (Slot::Place(kind), false) => {
                self.places.push(Place { kind, offset: 0, length: 0 });
                self.check_pieces(self.places.len());
                Frame::Place
            }
            (Slot::Prompts | Slot::Prompt, false) => return self.wrong_prompt(),
            (Slot::TokenIds, false) => return self.wrong_type("token_ids", "an array of integers"),
            (Slot::Token, _) => return self.bad_token(),
            (Slot::Messages, false) | (Slot::Message, true) => return self.wrong_messages(),
            (slot, _) => {
                self.forget(slot);
                self.whole = Some(Whole { slot, start, array, depth: 1, has_elements: false });
                return;
            }
        };
        self.frames.push(frame);
    }

    fn leave(&mut self) {
        match self.frames.pop() {
            Some(Frame::Message) => {
                self.n_messages += 1;
                if let Some(span) = self.tool_calls.take() {
                    self.push_mark(Mark::Text(span));
                }
            }
            Some(Frame::Block) => {
                if let Some(block) = self.blocks.pop() {
                    self.end_block(&block);
                }
            }
            Some(Frame::System) => self.in_system = false,
            _ => {}
        }
    }

    /// Takes a container whose inside was passed over.
    fn take_whole(&mut self, whole: &Whole, span: Range<usize>) {
        let raw = Span::raw(&span);
        match whole.slot {
            Slot::Model => self.model_span = Some(span),
            Slot::Tools if whole.has_elements => self.tools = Some(raw),
            Slot::ToolCalls if whole.has_elements => self.tool_calls = Some(raw),
            Slot::Instructions => self.instructions = Some(raw),
            Slot::Input => self.input = Some(raw),
            Slot::Items if whole.has_elements && whole.array => self.input = Some(raw),
            Slot::ToolInput => self.set_block(|block| block.tool_input = Some(raw)),
            _ => {}
        }
    }

    // === scalars ===

    fn string(&mut self, slot: Slot, text: Text<'_>, span: &Range<usize>) {
        self.forget(slot);
        let contents = Span::contents(text, span);
        match slot {
            Slot::Body => self.fail(ScanError::NotAnObject),
            Slot::Model => {
                self.model_span = Some(span.clone());
                self.model = self.short("model", contents);
            }
            Slot::CacheSalt => self.cache_salt = self.short("cache_salt", contents),
            Slot::Instructions => self.instructions = contents.nonempty(),
            Slot::Input => self.input = Some(contents),
            Slot::Messages | Slot::Message => self.wrong_messages(),
            Slot::Role => {
                if let Some(mark) = self.messages.get_mut(self.message_start) {
                    *mark = contents.nonempty().map_or(Mark::NoRole, Mark::Text);
                }
            }
            Slot::Content => self.push_text(contents),
            Slot::System => {
                if let Some(contents) = contents.nonempty() {
                    self.system.push(Mark::Text(contents));
                }
            }
            Slot::Prompts => {
                if let Some(contents) = contents.nonempty() {
                    self.push_prompt(PromptMark::Text(Some(contents)));
                }
            }
            Slot::Prompt => {
                if !self.shape_is(Shape::Strings) {
                    return self.wrong_prompt();
                }
                self.push_prompt(PromptMark::Text(contents.nonempty()));
            }
            Slot::TokenIds => self.wrong_type("token_ids", "an array of integers"),
            Slot::Token => self.bad_token(),
            Slot::Hash(kind) => {
                self.hashes.push((kind, Some(contents)));
                self.check_pieces(self.hashes.len());
            }
            _ => self.block_string(slot, text, contents),
        }
    }

    fn block_string(&mut self, slot: Slot, text: Text<'_>, contents: Span) {
        let media =
            |kind, form| move |block: &mut Block| block.media = Some((kind, form, contents));
        match slot {
            Slot::BlockType if text.is("document") => {
                self.set_block(|block| block.kind = BlockKind::Document);
            }
            Slot::BlockText => self.set_block(|block| block.text = Some(contents)),
            Slot::Thinking => self.set_block(|block| block.thinking = Some(contents)),
            Slot::ToolId => self.set_block(|block| block.tool_id = Some(contents)),
            Slot::ToolName => self.set_block(|block| block.tool_name = Some(contents)),
            Slot::ToolInput => self.set_block(|block| block.tool_input = Some(contents)),
            Slot::BlockContent => self.set_block(|block| block.content = Some(contents)),
            Slot::Media(kind) | Slot::MediaUrl(kind) => {
                self.set_block(media(kind, MediaForm::Url));
            }
            Slot::MediaData(kind) => self.set_block(media(kind, MediaForm::Base64)),
            Slot::SourceType => {
                let is_text = text.is("text");
                self.set_block(|block| block.source_is_text = is_text);
            }
            Slot::SourceUrl => {
                self.set_block(|block| block.source = Some((MediaForm::Url, contents)));
            }
            Slot::SourceData => {
                self.set_block(|block| block.source = Some((MediaForm::Base64, contents)));
            }
            _ => {}
        }
    }

    fn scalar(&mut self, slot: Slot, token: Token<'_>, span: &Range<usize>) {
        self.forget(slot);
        match (slot, token) {
            (Slot::Body, _) => self.fail(ScanError::NotAnObject),
            (Slot::Model, _) => self.model_span = Some(span.clone()),
            (Slot::Stream, token) => self.stream = token == Token::Bool(true),
            (Slot::Cap { rank }, Token::Number(raw)) => {
                if let Some(cap) = self.caps.get_mut(rank) {
                    *cap = raw.and_then(count);
                }
            }
            (Slot::Input, token) if token != Token::Null => self.input = Some(Span::raw(span)),
            (Slot::Message, _) => self.wrong_messages(),
            (Slot::Messages, token) if token != Token::Null => self.wrong_messages(),
            (Slot::Prompts, token) if token != Token::Null => self.wrong_prompt(),
            (Slot::TokenIds, token) if token != Token::Null => {
                self.wrong_type("token_ids", "an array of integers");
            }
            (Slot::Prompt, Token::Number(raw)) if self.shape_is(Shape::Tokens) => {
                if self.prompts.is_empty() {
                    self.push_prompt(PromptMark::Tokens(Vec::new()));
                }
                self.push_token(raw);
            }
            (Slot::Prompt, _) => self.wrong_prompt(),
            (Slot::Token, _) => self.bad_token(),
            (Slot::Hash(kind), _) => {
                self.hashes.push((kind, None));
                self.check_pieces(self.hashes.len());
            }
            (Slot::PlaceOffset | Slot::PlaceLength, Token::Number(raw)) => {
                let value = raw.and_then(count).and_then(|n| u32::try_from(n).ok()).unwrap_or(0);
                if let Some(place) = self.places.last_mut() {
                    let target = if slot == Slot::PlaceOffset {
                        &mut place.offset
                    } else {
                        &mut place.length
                    };
                    *target = value;
                }
            }
            _ => {}
        }
    }

    // === what was found ===

    /// Drops what an earlier member of the same name gave.
    fn forget(&mut self, slot: Slot) {
        match slot {
            Slot::Model => self.model = None,
            Slot::Stream => self.stream = false,
            Slot::CacheSalt => self.cache_salt = None,
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

    fn forget_messages(&mut self) {
        self.messages.clear();
        self.n_messages = 0;
    }

    fn forget_content(&mut self) {
        self.messages.truncate(self.message_start + 1);
    }

    fn forget_prompts(&mut self) {
        self.prompts.clear();
        self.shape = Shape::Unknown;
        self.n_tokens = 0;
        self.list_len = 0;
    }

    fn begin_message(&mut self) {
        self.message_start = self.messages.len();
        self.tool_calls = None;
        self.push_mark(Mark::NoRole);
    }

    fn short(&mut self, field: &'static str, span: Span) -> Option<Span> {
        let limit = self.limits.max_name_bytes;
        if span.end - span.start > limit {
            self.fail(ScanError::TooLong { api: self.api, field, limit });
        }
        Some(span)
    }

    fn push_mark(&mut self, mark: Mark) {
        let marks = if self.in_system { &mut self.system } else { &mut self.messages };
        marks.push(mark);
        self.check_pieces(self.system.len() + self.messages.len());
    }

    fn check_pieces(&mut self, n: usize) {
        let limit = self.limits.max_pieces;
        if n > limit {
            self.fail(ScanError::TooMany { api: self.api, what: "parts", limit });
        }
    }

    fn push_text(&mut self, span: Span) {
        if !span.is_empty() {
            let mark = if self.in_system { Mark::SystemText(span) } else { Mark::Text(span) };
            self.push_mark(mark);
        }
    }

    fn set_block(&mut self, set: impl FnOnce(&mut Block)) {
        if let Some(block) = self.blocks.last_mut() {
            set(block);
        }
    }

    fn end_block(&mut self, block: &Block) {
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

    fn shape_is(&mut self, shape: Shape) -> bool {
        if self.shape == Shape::Unknown {
            self.shape = shape;
        }
        self.shape == shape
    }

    fn push_prompt(&mut self, prompt: PromptMark) {
        self.prompts.push(prompt);
        let limit = self.limits.max_prompts;
        if self.prompts.len() > limit {
            self.fail(ScanError::TooMany { api: self.api, what: "prompts", limit });
        }
    }

    fn push_token(&mut self, raw: Option<&[u8]>) {
        let Some(token) = raw.and_then(token_id) else { return self.bad_token() };
        self.n_tokens += 1;
        let limit = self.limits.max_tokens;
        if self.n_tokens > limit {
            return self.fail(ScanError::TooMany { api: self.api, what: "token ids", limit });
        }
        self.list_len += 1;
        if let Some(PromptMark::Tokens(tokens)) = self.prompts.last_mut() {
            tokens.push(token);
        }
    }
}

fn token_id(raw: &[u8]) -> Option<u32> {
    // Nearly all ids are short and plain; the rest goes through the general form.
    let mut id = 0;
    for &digit in raw {
        if !digit.is_ascii_digit() || raw.len() > 9 {
            return count(raw).and_then(|id| u32::try_from(id).ok());
        }
        id = id * 10 + u32::from(digit - b'0');
    }
    Some(id)
}
