//! Token usage: the members that carry it, and how several reports become one.

use std::ops::Range;

use smallvec::SmallVec;

use super::Dialect;
use crate::json::{Sink, Text, Token, count};

/// Tokens that a request used, as the model server reports them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Tokens of the prompt.
    pub prompt_tokens: u64,
    /// Tokens of the answer.
    pub completion_tokens: u64,
    /// Tokens of the prompt that were in the prefix cache, if the server says so.
    pub cached_tokens: Option<u64>,
    /// Tokens in all.
    pub total_tokens: u64,
}

/// One report.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Report {
    prompt: Option<u64>,
    prompt_alias: Option<u64>,
    completion: Option<u64>,
    completion_alias: Option<u64>,
    cached: Option<u64>,
    total: Option<u64>,
}

impl Usage {
    /// Numbers that are not zero replace earlier ones; a report that has all three says what the total is,
    /// otherwise it is the sum.
    pub(super) fn absorb(&mut self, report: Report) {
        let given = |value: Option<u64>| value.filter(|&n| n > 0);
        let prompt = given(report.prompt.or(report.prompt_alias));
        let completion = given(report.completion.or(report.completion_alias));
        self.prompt_tokens = prompt.unwrap_or(self.prompt_tokens);
        self.completion_tokens = completion.unwrap_or(self.completion_tokens);
        self.cached_tokens = report.cached.or(self.cached_tokens);
        self.total_tokens = match (prompt, completion, given(report.total)) {
            (Some(_), Some(_), Some(total)) => total,
            _ => self.prompt_tokens.saturating_add(self.completion_tokens),
        };
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Frame {
    Body,
    /// `response` of the Responses API, `message` of Anthropic.
    Inner,
    Usage,
    Details,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Member {
    Ignored,
    Body,
    Inner,
    Usage,
    Details,
    Prompt,
    PromptAlias,
    Completion,
    CompletionAlias,
    Cached,
    Total,
}

/// Finds the usage in one JSON document.
#[derive(Debug)]
pub(super) struct Reader {
    dialect: Dialect,
    frames: SmallVec<[Frame; 4]>,
    member: Member,
    /// Open containers that are passed over.
    skipped: usize,
    report: Report,
    found: Option<Report>,
}

impl Reader {
    pub(super) fn new(dialect: Dialect) -> Self {
        Self {
            dialect,
            frames: SmallVec::new(),
            member: Member::Body,
            skipped: 0,
            report: Report::default(),
            found: None,
        }
    }

    pub(super) fn found(&self) -> Option<&Report> {
        self.found.as_ref()
    }

    pub(super) fn take_found(&mut self) -> Option<Report> {
        self.found.take()
    }

    fn member(&self, frame: Frame, key: Text<'_>) -> Member {
        let inner = match self.dialect {
            Dialect::OpenAi => "response",
            Dialect::Anthropic => "message",
        };
        match frame {
            Frame::Body | Frame::Inner if key.is("usage") => Member::Usage,
            Frame::Body if key.is(inner) => Member::Inner,
            Frame::Usage if key.is("prompt_tokens") => Member::Prompt,
            Frame::Usage if key.is("input_tokens") => Member::PromptAlias,
            Frame::Usage if key.is("completion_tokens") => Member::Completion,
            Frame::Usage if key.is("output_tokens") => Member::CompletionAlias,
            Frame::Usage if key.is("total_tokens") => Member::Total,
            Frame::Usage if key.is("cache_read_input_tokens") => match self.dialect {
                Dialect::Anthropic => Member::Cached,
                Dialect::OpenAi => Member::Ignored,
            },
            Frame::Usage if key.is("prompt_tokens_details") => Member::Details,
            Frame::Usage if key.is("input_tokens_details") => Member::Details,
            Frame::Details if key.is("cached_tokens") => Member::Cached,
            Frame::Body | Frame::Inner | Frame::Usage | Frame::Details => Member::Ignored,
        }
    }

    fn set(&mut self, value: Option<u64>) {
        let report = &mut self.report;
        let target = match self.member {
            Member::Prompt => &mut report.prompt,
            Member::PromptAlias => &mut report.prompt_alias,
            Member::Completion => &mut report.completion,
            Member::CompletionAlias => &mut report.completion_alias,
            Member::Cached => &mut report.cached,
            Member::Total => &mut report.total,
            Member::Ignored | Member::Body | Member::Inner | Member::Usage | Member::Details => {
                return;
            }
        };
        *target = value.or(*target);
    }

    fn leave(&mut self) {
        if self.frames.pop() == Some(Frame::Usage) && self.report != Report::default() {
            self.found = Some(self.report);
        }
    }
}

impl Sink for Reader {
    fn token(&mut self, token: Token<'_>, _span: Range<usize>) {
        if self.skipped > 0 {
            match token {
                Token::ObjectStart | Token::ArrayStart => self.skipped += 1,
                Token::ObjectEnd | Token::ArrayEnd => self.skipped -= 1,
                _ => {}
            }
            return;
        }
        match token {
            Token::Key(key) => {
                self.member =
                    self.frames.last().map_or(Member::Ignored, |&frame| self.member(frame, key));
            }
            Token::ObjectStart => {
                let frame = match std::mem::replace(&mut self.member, Member::Ignored) {
                    Member::Body => Frame::Body,
                    Member::Inner => Frame::Inner,
                    Member::Details => Frame::Details,
                    Member::Usage => {
                        self.report = Report::default();
                        Frame::Usage
                    }
                    _ => {
                        self.skipped = 1;
                        return;
                    }
                };
                self.frames.push(frame);
            }
            Token::ArrayStart => self.skipped = 1,
            Token::ObjectEnd | Token::ArrayEnd => self.leave(),
            Token::Number(raw) => self.set(raw.and_then(count)),
            Token::Str(text) => self.set(text.raw.and_then(count)),
            Token::Bool(_) | Token::Null => {}
        }
    }
}
