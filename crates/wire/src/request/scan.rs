//! The walk over a body: where in it the next token is, and what that token means.

use std::ops::Range;

use smallvec::SmallVec;

use super::{
    Api, Limits, ScanError,
    found::{Block, BlockKind, Found, Mark, Place, PromptMark, Shape, Span, TokenMark},
    slots::{Frame, Slot},
};
use crate::{
    json::{Sink, Text, Token, count},
    media::MediaForm,
};

/// Takes the tokens of a body and keeps what it found.
#[derive(Debug)]
pub(super) struct Scan {
    frames: SmallVec<[Frame; 12]>,
    slot: Slot,
    whole: Option<Whole>,
    pub(super) found: Found,
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
        if self.found.error.is_some() {
            return;
        }
        match token {
            Token::Key(key) => {
                let Some(&frame) = self.frames.last() else { return };
                self.found.has_members |= frame == Frame::Body;
                self.slot = frame.member(self.found.api, key);
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
                (Slot::Token, Token::Number(raw)) => self.found.push_token(raw, &span),
                (Slot::Prompt, Token::Number(raw)) if self.found.shape == Shape::Tokens => {
                    self.found.push_token(raw, &span);
                }
                (slot, token) => self.scalar(slot, token, &span),
            },
        }
    }
}

impl Scan {
    pub(super) fn new(api: Api, limits: Limits) -> Self {
        Self {
            frames: SmallVec::new(),
            slot: Slot::Body,
            whole: None,
            found: Found::new(api, limits),
        }
    }

    #[inline]
    fn take_slot(&mut self) -> Slot {
        match self.frames.last().and_then(|frame| frame.element()) {
            Some(element) => element,
            None => std::mem::replace(&mut self.slot, Slot::Ignored),
        }
    }

    // === containers ===

    fn enter(&mut self, array: bool, start: usize) {
        let slot = self.take_slot();
        let frame = match (slot, array) {
            (Slot::Body, false) => {
                self.found.members_at = start + 1;
                Frame::Body
            }
            (Slot::Body, true) => return self.found.fail(ScanError::NotAnObject),
            (Slot::Sampling, false) => Frame::Sampling,
            (Slot::Messages, true) => {
                self.found.forget_messages();
                Frame::Messages
            }
            (Slot::Message, false) => {
                self.found.begin_message();
                Frame::Message
            }
            (Slot::Content, true) => {
                self.found.forget_content();
                Frame::Blocks
            }
            (Slot::BlockContent, true) => Frame::Blocks,
            (Slot::Block, false) => {
                self.found.blocks.push(Block::default());
                Frame::Block
            }
            (Slot::Media(kind), false) => Frame::MediaRef(kind),
            (Slot::Source, false) => Frame::Source,
            (Slot::System, true) => {
                self.found.system.clear();
                self.found.in_system = true;
                Frame::System
            }
            (Slot::Prompts, true) => {
                self.found.forget_prompts();
                Frame::Prompts
            }
            (Slot::Prompt, true) => {
                if !self.found.shape_is(Shape::Lists) {
                    return self.found.wrong_prompt();
                }
                self.found.push_prompt(PromptMark::Tokens(TokenMark::default()));
                self.found.list_len = 0;
                Frame::Tokens
            }
            (Slot::TokenIds, true) => {
                self.found.forget_prompts();
                self.found.push_prompt(PromptMark::Tokens(TokenMark::default()));
                Frame::Tokens
            }
            (Slot::Features, false) => Frame::Features,
            (Slot::Hashes, false) => Frame::Hashes,
            (Slot::HashList(kind), true) => Frame::HashList(kind),
            (Slot::Places, false) => Frame::Places,
            (Slot::PlaceList(kind), true) => Frame::PlaceList(kind),
            (Slot::Place(kind), false) => {
                self.found.places.push(Place { kind, offset: 0, length: 0 });
                self.found.check_pieces(self.found.places.len());
                Frame::Place
            }
            (Slot::Prompts | Slot::Prompt, false) => return self.found.wrong_prompt(),
            (Slot::TokenIds, false) => {
                return self.found.wrong_type("token_ids", "an array of integers");
            }
            (Slot::Token, _) => return self.found.bad_token(),
            (Slot::Messages, false) | (Slot::Message, true) => return self.found.wrong_messages(),
            (slot, _) => {
                self.found.forget(slot);
                self.whole = Some(Whole { slot, start, array, depth: 1, has_elements: false });
                return;
            }
        };
        self.frames.push(frame);
    }

    fn leave(&mut self) {
        match self.frames.pop() {
            Some(Frame::Message) => {
                self.found.n_messages += 1;
                if let Some(span) = self.found.tool_calls.take() {
                    self.found.push_mark(Mark::Text(span));
                }
            }
            Some(Frame::Block) => {
                if let Some(block) = self.found.blocks.pop() {
                    self.found.end_block(&block);
                }
            }
            Some(Frame::System) => self.found.in_system = false,
            _ => {}
        }
    }

    /// Takes a container whose inside was passed over.
    fn take_whole(&mut self, whole: &Whole, span: Range<usize>) {
        let raw = Span::raw(&span);
        match whole.slot {
            Slot::Model => self.found.model_span = Some(span),
            Slot::Tools if whole.has_elements => self.found.tools = Some(raw),
            Slot::ToolCalls if whole.has_elements => self.found.tool_calls = Some(raw),
            Slot::Instructions => self.found.instructions = Some(raw),
            Slot::Input => self.found.input = Some(raw),
            Slot::Items if whole.has_elements && whole.array => self.found.input = Some(raw),
            Slot::ToolInput => self.found.set_block(|block| block.tool_input = Some(raw)),
            _ => {}
        }
    }

    // === scalars ===

    fn string(&mut self, slot: Slot, text: Text<'_>, span: &Range<usize>) {
        self.found.forget(slot);
        let contents = Span::contents(text, span);
        match slot {
            Slot::Body => self.found.fail(ScanError::NotAnObject),
            Slot::Model => {
                self.found.model_span = Some(span.clone());
                self.found.model = self.found.short("model", contents);
            }
            Slot::CacheSalt => self.found.cache_salt = self.found.short("cache_salt", contents),
            Slot::Instructions => self.found.instructions = contents.nonempty(),
            Slot::Input => self.found.input = Some(contents),
            Slot::Messages | Slot::Message => self.found.wrong_messages(),
            Slot::Role => {
                if let Some(mark) = self.found.messages.get_mut(self.found.message_start) {
                    *mark = contents.nonempty().map_or(Mark::NoRole, Mark::Text);
                }
            }
            Slot::Content => self.found.push_text(contents),
            Slot::System => {
                if let Some(contents) = contents.nonempty() {
                    self.found.system.push(Mark::Text(contents));
                }
            }
            Slot::Prompts => {
                if let Some(contents) = contents.nonempty() {
                    self.found.push_prompt(PromptMark::Text(Some(contents)));
                }
            }
            Slot::Prompt => {
                if !self.found.shape_is(Shape::Strings) {
                    return self.found.wrong_prompt();
                }
                self.found.push_prompt(PromptMark::Text(contents.nonempty()));
            }
            Slot::TokenIds => self.found.wrong_type("token_ids", "an array of integers"),
            Slot::Token => self.found.bad_token(),
            Slot::Hash(kind) => {
                self.found.hashes.push((kind, Some(contents)));
                self.found.check_pieces(self.found.hashes.len());
            }
            _ => self.block_string(slot, text, contents),
        }
    }

    fn block_string(&mut self, slot: Slot, text: Text<'_>, contents: Span) {
        let media =
            |kind, form| move |block: &mut Block| block.media = Some((kind, form, contents));
        match slot {
            Slot::BlockType if text.is("document") => {
                self.found.set_block(|block| block.kind = BlockKind::Document);
            }
            Slot::BlockText => self.found.set_block(|block| block.text = Some(contents)),
            Slot::Thinking => self.found.set_block(|block| block.thinking = Some(contents)),
            Slot::ToolId => self.found.set_block(|block| block.tool_id = Some(contents)),
            Slot::ToolName => self.found.set_block(|block| block.tool_name = Some(contents)),
            Slot::ToolInput => self.found.set_block(|block| block.tool_input = Some(contents)),
            Slot::BlockContent => self.found.set_block(|block| block.content = Some(contents)),
            Slot::Media(kind) | Slot::MediaUrl(kind) => {
                self.found.set_block(media(kind, MediaForm::Url));
            }
            Slot::MediaData(kind) => self.found.set_block(media(kind, MediaForm::Base64)),
            Slot::SourceType => {
                let is_text = text.is("text");
                self.found.set_block(|block| block.source_is_text = is_text);
            }
            Slot::SourceUrl => {
                self.found.set_block(|block| block.source = Some((MediaForm::Url, contents)));
            }
            Slot::SourceData => {
                self.found.set_block(|block| block.source = Some((MediaForm::Base64, contents)));
            }
            _ => {}
        }
    }

    fn scalar(&mut self, slot: Slot, token: Token<'_>, span: &Range<usize>) {
        self.found.forget(slot);
        match (slot, token) {
            (Slot::Body, _) => self.found.fail(ScanError::NotAnObject),
            (Slot::Model, _) => self.found.model_span = Some(span.clone()),
            (Slot::Stream, token) => self.found.stream = token == Token::Bool(true),
            (Slot::Cap { rank }, Token::Number(raw)) => {
                if let Some(cap) = self.found.caps.get_mut(rank) {
                    *cap = raw.and_then(count);
                }
            }
            (Slot::Answers, Token::Number(raw)) => self.found.n_answers = raw.and_then(count),
            (Slot::Input, token) if token != Token::Null => {
                self.found.input = Some(Span::raw(span))
            }
            (Slot::Message, _) => self.found.wrong_messages(),
            (Slot::Messages, token) if token != Token::Null => self.found.wrong_messages(),
            (Slot::Prompts, token) if token != Token::Null => self.found.wrong_prompt(),
            (Slot::TokenIds, token) if token != Token::Null => {
                self.found.wrong_type("token_ids", "an array of integers");
            }
            (Slot::Prompt, Token::Number(raw)) if self.found.shape_is(Shape::Tokens) => {
                if self.found.prompts.is_empty() {
                    self.found.push_prompt(PromptMark::Tokens(TokenMark::default()));
                }
                self.found.push_token(raw, span);
            }
            (Slot::Prompt, _) => self.found.wrong_prompt(),
            (Slot::Token, _) => self.found.bad_token(),
            (Slot::Hash(kind), _) => {
                self.found.hashes.push((kind, None));
                self.found.check_pieces(self.found.hashes.len());
            }
            (Slot::PlaceOffset | Slot::PlaceLength, Token::Number(raw)) => {
                let value = raw.and_then(count).and_then(|n| u32::try_from(n).ok()).unwrap_or(0);
                if let Some(place) = self.found.places.last_mut() {
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
}
