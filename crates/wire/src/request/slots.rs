//! Which members of which objects mean something, for every format.

use smallvec::SmallVec;

use super::Api;
use crate::{
    json::{MAX_RAW_BYTES, Text, Unescaper},
    media::MediaKind,
};

/// An open container whose contents are looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Frame {
    Body,
    Sampling,
    Messages,
    Message,
    /// A list of content blocks, of a message or of a tool's result.
    Blocks,
    Block,
    /// `{"url": …}` or `{"data": …}`
    MediaRef(MediaKind),
    Source,
    System,
    Prompts,
    Tokens,
    Features,
    Hashes,
    HashList(MediaKind),
    Places,
    PlaceList(MediaKind),
    Place,
}

/// What the value that comes next means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Slot {
    Ignored,
    Body,
    Model,
    Stream,
    CacheSalt,
    /// How many answers.
    Answers,
    /// A cap on the answer; a lower rank wins.
    Cap {
        rank: usize,
    },
    Sampling,
    Tools,
    Instructions,
    Input,
    Items,
    Messages,
    Message,
    Role,
    Content,
    ToolCalls,
    System,
    Block,
    BlockType,
    BlockText,
    Thinking,
    ToolId,
    ToolName,
    ToolInput,
    BlockContent,
    Media(MediaKind),
    MediaUrl(MediaKind),
    MediaData(MediaKind),
    Source,
    SourceType,
    SourceUrl,
    SourceData,
    Prompts,
    Prompt,
    TokenIds,
    Token,
    Features,
    Hashes,
    HashList(MediaKind),
    Hash(MediaKind),
    Places,
    PlaceList(MediaKind),
    Place(MediaKind),
    PlaceOffset,
    PlaceLength,
}

impl Frame {
    /// What an element of this list means; `None` for an object, whose keys say it.
    #[inline]
    pub(super) fn element(self) -> Option<Slot> {
        match self {
            Frame::Messages => Some(Slot::Message),
            Frame::Blocks | Frame::System => Some(Slot::Block),
            Frame::Prompts => Some(Slot::Prompt),
            Frame::Tokens => Some(Slot::Token),
            Frame::HashList(kind) => Some(Slot::Hash(kind)),
            Frame::PlaceList(kind) => Some(Slot::Place(kind)),
            Frame::Body
            | Frame::Sampling
            | Frame::Message
            | Frame::Block
            | Frame::MediaRef(_)
            | Frame::Source
            | Frame::Features
            | Frame::Hashes
            | Frame::Places
            | Frame::Place => None,
        }
    }

    /// What the member `key` of this object means.
    pub(super) fn member(self, api: Api, key: Text<'_>) -> Slot {
        let mut buffer = SmallVec::new();
        let Some(key) = name(key, &mut buffer) else { return Slot::Ignored };
        match self {
            Frame::Body => body_member(api, key),
            Frame::Sampling if key == b"max_tokens" => Slot::Cap { rank: 0 },
            Frame::Sampling if key == b"n" => Slot::Answers,
            Frame::Message => message_member(key),
            Frame::Block => block_member(key),
            Frame::MediaRef(kind) => match key {
                b"url" => Slot::MediaUrl(kind),
                b"data" => Slot::MediaData(kind),
                _ => Slot::Ignored,
            },
            Frame::Source => match key {
                b"type" => Slot::SourceType,
                b"url" => Slot::SourceUrl,
                b"data" => Slot::SourceData,
                _ => Slot::Ignored,
            },
            Frame::Features => match key {
                b"mm_hashes" => Slot::Hashes,
                b"mm_placeholders" => Slot::Places,
                _ => Slot::Ignored,
            },
            Frame::Hashes => Slot::HashList(MediaKind::from_name(key)),
            Frame::Places => Slot::PlaceList(MediaKind::from_name(key)),
            Frame::Place => match key {
                b"offset" => Slot::PlaceOffset,
                b"length" => Slot::PlaceLength,
                _ => Slot::Ignored,
            },
            Frame::Sampling
            | Frame::Messages
            | Frame::Blocks
            | Frame::System
            | Frame::Prompts
            | Frame::Tokens
            | Frame::HashList(_)
            | Frame::PlaceList(_) => Slot::Ignored,
        }
    }
}

fn body_member(api: Api, key: &[u8]) -> Slot {
    match (key, api) {
        (b"model", _) => Slot::Model,
        (b"stream", _) => Slot::Stream,
        (b"cache_salt", _) => Slot::CacheSalt,
        (b"max_completion_tokens", Api::ChatCompletions) => Slot::Cap { rank: 0 },
        (b"max_tokens", Api::ChatCompletions) => Slot::Cap { rank: 1 },
        (b"max_tokens", Api::Completions | Api::AnthropicMessages) => Slot::Cap { rank: 0 },
        (b"max_output_tokens", Api::Responses) => Slot::Cap { rank: 0 },
        (b"n", Api::ChatCompletions | Api::Completions) => Slot::Answers,
        (b"sampling_params", Api::VllmGenerate) => Slot::Sampling,
        (b"messages", Api::ChatCompletions | Api::AnthropicMessages | Api::Embeddings) => {
            Slot::Messages
        }
        (b"tools", Api::ChatCompletions | Api::AnthropicMessages | Api::Responses) => Slot::Tools,
        (b"system", Api::AnthropicMessages) => Slot::System,
        (b"instructions", Api::Responses) => Slot::Instructions,
        (b"input", Api::Responses) => Slot::Input,
        (b"items", Api::Conversations) => Slot::Items,
        (b"input", Api::Embeddings) => Slot::Prompts,
        (b"prompt", Api::Completions | Api::ImageGenerations) => Slot::Prompts,
        (b"token_ids", Api::VllmGenerate) => Slot::TokenIds,
        (b"features", Api::VllmGenerate) => Slot::Features,
        _ => Slot::Ignored,
    }
}

fn message_member(key: &[u8]) -> Slot {
    match key {
        b"role" => Slot::Role,
        b"content" => Slot::Content,
        b"tool_calls" => Slot::ToolCalls,
        _ => Slot::Ignored,
    }
}

fn block_member(key: &[u8]) -> Slot {
    match key {
        b"type" => Slot::BlockType,
        b"text" => Slot::BlockText,
        b"thinking" => Slot::Thinking,
        b"image_url" => Slot::Media(MediaKind::Image),
        b"video_url" => Slot::Media(MediaKind::Video),
        b"input_audio" | b"audio_url" => Slot::Media(MediaKind::Audio),
        b"source" => Slot::Source,
        b"id" => Slot::ToolId,
        b"name" => Slot::ToolName,
        b"input" => Slot::ToolInput,
        b"content" => Slot::BlockContent,
        _ => Slot::Ignored,
    }
}

/// The unescaped key. A key that was not handed over is longer than any that means something.
fn name<'a>(key: Text<'a>, buffer: &'a mut SmallVec<[u8; MAX_RAW_BYTES]>) -> Option<&'a [u8]> {
    let raw = key.raw?;
    if !key.escapes.any() {
        return Some(raw);
    }
    let mut unescaper = Unescaper::default();
    let whole = unescaper.feed(raw, &mut |part| {
        let fits = buffer.len() + part.len() <= MAX_RAW_BYTES;
        if fits {
            buffer.extend_from_slice(part);
        }
        fits
    });
    whole.then_some(buffer.as_slice())
}
