//! Estimates the tokens of a prompt, for everything that works with tokens: prefix matching, in-flight load.
//!
//! Four bytes of text count as one token.
//! No text is copied and no token is materialised: the estimate refers to the request's own bytes.
//! Prompts that come as token ids are taken as they are; prompts of a batch stay apart.
//! A request without a prompt has no tokens, and nothing is written for it.
//!
//! Media begin at a token border and count by kind:
//!
//! | kind | tokens |
//! | --- | --- |
//! | image | `dynamic`: width × height / `factor`, from the header of an image that is sent in place, else of `defaultResolution`; `static`: `staticToken` |
//! | video | frames × tokens per frame, at most `maxVideoTokens` |
//! | sound and others | one for every four bytes of the URL or of the encoded data |
//!
//! Frames of a video are duration × `sampleFPS` (`sampled`), brought into `minFrames` … `maxFrames` and divided by `temporalPatchSize`; or duration × source frame rate / `frameStride` (`strided`), brought into the same bounds.
//! A client that knows better says so with the headers `x-llm-d-video-fps`, `x-llm-d-video-duration-seconds` and `x-llm-d-video-resolution` (`1280x720`).
//! Every medium counts at least 1 token and at most 1,048,576.
//!
//! The tokens of a medium repeat a hash of its content, so that equal pictures are equal prefixes.
//!
//! It writes the prompt's tokens under its own name, whatever that is.
//! It is added where something needs tokens and nobody else writes them.
//!
//! # Example
//!
//! ```yaml
//! plugins:
//! - type: token-producer
//!   parameters:
//!     estimate:
//!       image:
//!         dynamic:
//!           factor: 784
//!       video:
//!         maxVideoTokens: 16384
//! ```

use std::sync::Arc;

use router_framework::{
    BuildCx, BuildError, DataProducer, Instance, Outputs, PluginDef, Produced, PromptInput,
    RequestCx, Role, Write,
    keys::{
        MediaFeature, PackedPiece, PromptBlocks, PromptTokens, TOKENIZED_PROMPT, TokenContent,
        TokenizedPrompt,
    },
};
use router_wire::request::{Feature, Piece, Prompt};

use self::media::{MediaEstimate, VideoHints};
pub use self::params::Params;

mod media;
mod params;

pub const PLUGIN: PluginDef =
    PluginDef::new::<Params>("token-producer", &[Role::DataProducer], file!(), build);

/// Bytes of text that count as a token.
const BYTES_PER_TOKEN: u64 = 4;

/// Tokens that all media of a request may add up to, as many as token ids may be sent; what comes beyond
/// counts as one token each. It bounds what hashing them costs.
const MAX_REQUEST_MEDIA_TOKENS: u64 = 16 * 1024 * 1024;

struct TokenProducer {
    tokens: Write<TokenizedPrompt>,
    media: MediaEstimate,
}

fn build(cx: &mut BuildCx<'_>) -> Result<Instance, BuildError> {
    let params: Params = cx.params()?;
    params.check()?;
    let producer = TokenProducer {
        tokens: cx.writes(&TOKENIZED_PROMPT),
        media: MediaEstimate::new(&params.estimate),
    };
    Ok(Instance::new().producer(Arc::new(producer)))
}

impl DataProducer for TokenProducer {
    fn produce<'a>(&'a self, cx: &RequestCx<'a>) -> Produced<'a> {
        let parsed = &cx.request.parsed;
        let prompts = match &parsed.prompts {
            PromptInput::Empty => Vec::new(),
            PromptInput::Prompts(prompts) => {
                let mut estimate = Estimate {
                    media: &self.media,
                    video: VideoHints::of(cx.request),
                    media_left: MAX_REQUEST_MEDIA_TOKENS,
                };
                prompts.iter().map(|prompt| estimate.prompt(prompt, &parsed.features)).collect()
            }
            PromptInput::Blocks(blocks) => vec![hashed(blocks)],
            PromptInput::Batch(prompts) => prompts.iter().map(hashed).collect(),
        };
        let tokens = TokenizedPrompt { prompts, cache_salt: parsed.cache_salt.clone() };
        if tokens.n_tokens() == 0 {
            return Produced::Ready(Ok(Outputs::default()));
        }
        Produced::Ready(Ok(Outputs::of(&self.tokens, tokens)))
    }
}

/// The estimate of one request.
struct Estimate<'a> {
    media: &'a MediaEstimate,
    video: VideoHints,
    media_left: u64,
}

impl Estimate<'_> {
    fn prompt(&mut self, prompt: &Prompt, features: &[Feature]) -> PromptTokens {
        match prompt {
            Prompt::Text(pieces) => self.text(pieces),
            Prompt::Tokens(ids) => PromptTokens {
                n_tokens: ids.len() as u64,
                content: TokenContent::Ids(ids.clone()),
                media: features.iter().map(placed).collect(),
            },
        }
    }

    fn text(&mut self, pieces: &[Piece]) -> PromptTokens {
        let mut packed = Vec::with_capacity(pieces.len());
        let mut media = Vec::new();
        let mut n_bytes: u64 = 0;
        for piece in pieces {
            match piece {
                Piece::Text(text) => {
                    n_bytes += text.decoded_len() as u64;
                    packed.push(PackedPiece::Text(text.clone()));
                }
                Piece::Media(medium) => {
                    let hash = media::hash_of(medium);
                    let wanted = self.media.n_tokens(medium, &self.video);
                    let n_tokens = u64::from(wanted).min(self.media_left).max(1);
                    self.media_left = self.media_left.saturating_sub(n_tokens);
                    let offset = n_bytes.div_ceil(BYTES_PER_TOKEN);
                    n_bytes = (offset + n_tokens) * BYTES_PER_TOKEN;
                    // The low half of the hash stands for every token of the medium.
                    let token = hash as u32;
                    packed.push(PackedPiece::Media { token, n_tokens: n_tokens as u32 });
                    media.push(MediaFeature {
                        modality: medium.kind.name(),
                        hash: format!("{hash:016x}"),
                        offset,
                        n_tokens,
                    });
                }
            }
        }
        let n_tokens = n_bytes.div_ceil(BYTES_PER_TOKEN);
        PromptTokens { n_tokens, content: TokenContent::Packed(packed), media }
    }
}

/// A prompt of which nothing but its blocks is known.
fn hashed(blocks: &PromptBlocks) -> PromptTokens {
    let content = TokenContent::Blocks(blocks.clone());
    PromptTokens { n_tokens: blocks.n_tokens as u64, content, media: Vec::new() }
}

/// A medium that the client placed among token ids.
fn placed(feature: &Feature) -> MediaFeature {
    MediaFeature {
        modality: feature.kind.name(),
        hash: feature.hash.to_text(),
        offset: u64::from(feature.offset),
        n_tokens: u64::from(feature.length),
    }
}

#[cfg(test)]
mod tests;
