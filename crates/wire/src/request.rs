//! What routing needs from a request body, found in one pass while the body comes in.
//!
//! The pass also proves that the body is JSON. Texts and token ids are shared slices of the chunks; nothing is copied
//! and nothing is ever serialised again. Of a member that is given twice the last one counts, as in the model servers' own
//! readers.
//!
//! The pieces of a prompt come in the order in which a chat template shows them to the model: tools, system texts,
//! then each message with its role before its content, wherever these stand in the body. Raw JSON (tools, inputs of
//! tools, items of the Responses API) is taken as it was written.
//!
//! Differs from the Go reference: wrong types of members that may be left out do not refuse a request; batches of
//! token prompts are accepted; the tool calls of a message are part of its text, since the model sees them; each
//! string of an embeddings request is a prompt of its own, without JSON quotes.

mod build;
mod chunks;
mod error;
mod found;
mod scan;
mod slots;
mod tokens;

#[cfg(test)]
mod tests;

use std::ops::Range;

use bytes::Bytes;

use crate::{json, media::Media, splice, text::RawText};

pub use self::{
    error::ScanError,
    tokens::{Ids, TokenIds},
};

/// The request formats that can be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Api {
    /// OpenAI `/v1/chat/completions`
    ChatCompletions,
    /// OpenAI `/v1/completions`
    Completions,
    /// OpenAI `/v1/embeddings`; vLLM's form with `messages` is read too
    Embeddings,
    /// OpenAI `/v1/responses`
    Responses,
    /// OpenAI `/v1/conversations`
    Conversations,
    /// OpenAI `/v1/images/generations`
    ImageGenerations,
    /// Anthropic `/v1/messages`
    AnthropicMessages,
    /// vLLM `/inference/v1/generate`
    VllmGenerate,
}

/// Bounds of a scan. What exceeds one is an error, never cut off in silence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Nested JSON containers, at most [`json::MAX_DEPTH`].
    pub max_depth: usize,
    /// Prompts of one request.
    pub max_prompts: usize,
    /// Pieces of text and media of one request.
    pub max_pieces: usize,
    /// Token ids of one request, over all its prompts.
    pub max_tokens: usize,
    /// Bytes of a name: the model, the cache salt.
    pub max_name_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_depth: json::DEFAULT_MAX_DEPTH,
            max_prompts: 16 * 1024,
            max_pieces: 256 * 1024,
            max_tokens: 16 * 1024 * 1024,
            max_name_bytes: 4096,
        }
    }
}

/// What routing needs from a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScannedRequest {
    /// The format that was read.
    pub api: Api,
    /// `model`, if it is a string.
    pub model: Option<String>,
    /// The place of the value of `model` in the whole body, whatever its type, quotes included.
    pub model_span: Option<Range<usize>>,
    /// Whether `stream` is `true`.
    pub stream: bool,
    /// The most tokens that the answer may have, by the member that the format has for it.
    pub max_output_tokens: Option<u64>,
    /// How many answers the client wants, where it says so and the format can.
    pub n_answers: Option<u64>,
    /// `cache_salt`, if it is a string.
    pub cache_salt: Option<String>,
    /// What the model is given, in the order in which it is given. More than one if the request is a batch.
    pub prompts: Vec<Prompt>,
    /// Media that are already placed among the token ids ([`Api::VllmGenerate`]).
    pub features: Vec<Feature>,
    /// Bytes of the body.
    pub n_bytes: usize,
    /// The place after the opening brace of the body.
    members_at: usize,
    has_members: bool,
}

/// One prompt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Prompt {
    /// Text and media.
    Text(Vec<Piece>),
    /// Token ids.
    Tokens(TokenIds),
}

/// A part of a prompt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    /// Text, or raw JSON such as a list of tools.
    Text(RawText),
    /// An image, sound or video.
    Media(Media),
}

/// A medium that stands for a range of token ids.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Feature {
    /// What it is.
    pub kind: crate::media::MediaKind,
    /// Its hash as the client gave it; empty if it gave none.
    pub hash: RawText,
    /// The index of its first token id.
    pub offset: u32,
    /// How many token ids it stands for.
    pub length: u32,
}

/// Reads one request body, chunk by chunk.
///
/// ```
/// use bytes::Bytes;
/// use router_wire::request::{Api, Limits, RequestScan};
///
/// let mut scan = RequestScan::new(Api::Completions, Limits::default());
/// scan.push(&Bytes::from_static(br#"{"model": "m", "pro"#))?;
/// scan.push(&Bytes::from_static(br#"mpt": "hello"}"#))?;
/// let request = scan.finish()?;
/// assert_eq!(request.model.as_deref(), Some("m"));
/// assert_eq!(request.model_span, Some(10..13));
/// # Ok::<(), router_wire::request::ScanError>(())
/// ```
#[derive(Debug)]
pub struct RequestScan {
    tokenizer: json::Tokenizer,
    scan: scan::Scan,
    chunks: chunks::Chunks,
}

// === impl RequestScan ===

impl RequestScan {
    /// A scan of a body in the format `api`.
    pub fn new(api: Api, limits: Limits) -> Self {
        Self {
            tokenizer: json::Tokenizer::new(limits.max_depth),
            scan: scan::Scan::new(api, limits),
            chunks: chunks::Chunks::default(),
        }
    }

    /// Reads the next chunk and shares its memory. Chunks may be cut anywhere.
    ///
    /// # Errors
    /// The body cannot become a valid request any more. Every later call gives the same error.
    pub fn push(&mut self, chunk: &Bytes) -> Result<(), ScanError> {
        let fed = self.tokenizer.feed(chunk, self.chunks.len(), &mut self.scan);
        self.scan.found.check()?;
        fed?;
        self.chunks.push(chunk);
        Ok(())
    }

    /// Bytes that it holds besides the chunks it was given: places of what it found, and copies of small chunks.
    pub fn held_bytes(&self) -> usize {
        self.scan.found.held_bytes() + self.chunks.held_bytes()
    }

    /// Says that the body is over.
    ///
    /// # Errors
    /// The body is not whole, or lacks what the format requires.
    pub fn finish(mut self) -> Result<ScannedRequest, ScanError> {
        let ended = self.tokenizer.finish(self.chunks.len(), &mut self.scan);
        self.scan.found.check()?;
        ended?;
        self.chunks.close_small();
        build::build(self.scan.found, &self.chunks)
    }
}

// === impl ScannedRequest ===

impl ScannedRequest {
    /// The edit that makes `model` the model of the body: the range to replace and what to put there.
    /// A body without the member gets one.
    pub fn model_edit(&self, model: &str) -> (Range<usize>, Bytes) {
        let value = splice::quote(model);
        if let Some(span) = &self.model_span {
            return (span.clone(), value);
        }
        let mut member = Vec::with_capacity(value.len() + 10);
        member.extend_from_slice(b"\"model\":");
        member.extend_from_slice(&value);
        if self.has_members {
            member.push(b',');
        }
        (self.members_at..self.members_at, Bytes::from(member))
    }
}

// === impl Api ===

impl Api {
    /// The format's name in messages to clients.
    pub fn name(self) -> &'static str {
        match self {
            Api::ChatCompletions => "chat completions",
            Api::Completions => "completions",
            Api::Embeddings => "embeddings",
            Api::Responses => "responses",
            Api::Conversations => "conversations",
            Api::ImageGenerations => "images generations",
            Api::AnthropicMessages => "messages",
            Api::VllmGenerate => "generate",
        }
    }

    /// The member without which a request of this format is refused.
    pub fn required_field(self) -> &'static str {
        match self {
            Api::ChatCompletions | Api::AnthropicMessages => "messages",
            Api::Completions | Api::ImageGenerations => "prompt",
            Api::Embeddings | Api::Responses => "input",
            Api::Conversations => "items",
            Api::VllmGenerate => "token_ids",
        }
    }
}
