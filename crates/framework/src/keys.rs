//! The data keys that in-tree plugins share, and the values behind them (`spec/scheduling.md` §2.5, §2.6).

use std::sync::{
    Arc,
    atomic::{AtomicI64, AtomicU64, Ordering},
};

use router_core::Column;
pub use router_kvcache::PromptBlocks;
use router_wire::{request::TokenIds, text::RawText};

use crate::data::{DataKey, EndpointDataKey};

/// The prompt as tokens, on the request.
pub const TOKENIZED_PROMPT: DataKey<TokenizedPrompt> =
    DataKey::new("TokenizedPrompt", "token-producer");

/// The prompts cut into blocks and hashed, as they stand in the prefix index.
pub const PROMPT_BLOCKS: DataKey<Arc<HashedPrompts>> =
    DataKey::new("ApproximatePrefixBlocks", "approx-prefix-cache-producer");

/// How much of the prompt each candidate has cached.
pub const PREFIX_MATCH: DataKey<Column<PrefixMatch>> =
    DataKey::new("PrefixCacheMatchInfoDataKey", "approx-prefix-cache-producer");

/// Prompt tokens that each candidate would have to compute for this request.
pub const UNCACHED_TOKENS: DataKey<Column<u64>> =
    DataKey::new("UncachedRequestTokensDataKey", "inflight-load-producer");

/// Requests and tokens in flight on an endpoint, live.
pub const IN_FLIGHT: EndpointDataKey<InFlightLoad> =
    EndpointDataKey::new("InFlightLoadDataKey", "inflight-load-producer");

/// A number that an extractor scrapes into an attribute which the configuration names. Nobody produces it
/// by default.
pub fn scalar(attribute: &str) -> EndpointDataKey<Scalar> {
    EndpointDataKey::named(attribute.to_owned(), "")
}

/// A scraped number on an endpoint; NaN while no scrape says what it is.
#[derive(Debug)]
pub struct Scalar(AtomicU64);

impl Default for Scalar {
    fn default() -> Self {
        Self(AtomicU64::new(f64::NAN.to_bits()))
    }
}

impl Scalar {
    pub fn get(&self) -> f64 {
        f64::from_bits(self.0.load(Ordering::Relaxed))
    }

    pub fn set(&self, value: f64) {
        self.0.store(value.to_bits(), Ordering::Relaxed);
    }
}

/// The hashed prompts of one request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HashedPrompts {
    /// In the order of the request; nearly always one.
    pub prompts: Vec<PromptBlocks>,
}

impl HashedPrompts {
    /// Blocks over all prompts.
    pub fn n_blocks(&self) -> u32 {
        let n_blocks: usize = self.prompts.iter().map(|prompt| prompt.hashes.len()).sum();
        u32::try_from(n_blocks).unwrap_or(u32::MAX)
    }

    /// Tokens per block; those of a trace bring their own.
    pub fn block_tokens(&self) -> u32 {
        self.prompts.first().map_or(0, |prompt| prompt.block_tokens)
    }
}

/// What one candidate holds of a prompt, in blocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PrefixMatch {
    /// Matched blocks; tier-weighted where tiers are known.
    pub matched_blocks: u32,
    /// Blocks of the whole prompt.
    pub total_blocks: u32,
    /// Tokens per block.
    pub block_tokens: u32,
    /// Contiguous cached blocks without weights.
    pub cached_blocks: u32,
}

impl PrefixMatch {
    /// Prompt tokens that are not cached, of `n_tokens` in all (`spec/scheduling.md` §9.5).
    pub fn uncached_tokens(&self, n_tokens: u64) -> u64 {
        let block = u64::from(self.block_tokens);
        let total = u64::from(self.total_blocks);
        let missing = total.saturating_sub(u64::from(self.matched_blocks)) * block;
        (missing + n_tokens.saturating_sub(total * block)).min(n_tokens)
    }
}

/// Load that this router has put on an endpoint and that has not ended.
#[derive(Debug, Default)]
pub struct InFlightLoad {
    requests: AtomicI64,
    tokens: AtomicI64,
}

impl InFlightLoad {
    pub fn requests(&self) -> i64 {
        self.requests.load(Ordering::Relaxed)
    }

    pub fn tokens(&self) -> i64 {
        self.tokens.load(Ordering::Relaxed)
    }

    /// Adds (or with negative numbers takes away) load.
    pub fn add(&self, requests: i64, tokens: i64) {
        self.requests.fetch_add(requests, Ordering::Relaxed);
        self.tokens.fetch_add(tokens, Ordering::Relaxed);
    }
}

/// The prompts of a request as tokens. The estimate keeps the text and counts four bytes as a token, so
/// that nothing is copied or materialised.
#[derive(Clone, Debug, Default)]
pub struct TokenizedPrompt {
    pub prompts: Vec<PromptTokens>,
    pub cache_salt: Option<Arc<str>>,
}

impl TokenizedPrompt {
    /// Tokens over all prompts.
    pub fn n_tokens(&self) -> u64 {
        self.prompts.iter().map(|prompt| prompt.n_tokens).sum()
    }
}

/// One prompt as tokens.
#[derive(Clone, Debug)]
pub struct PromptTokens {
    pub n_tokens: u64,
    pub content: TokenContent,
    /// Images, audio and video in the prompt.
    pub media: Vec<MediaFeature>,
}

/// Where the tokens of a prompt are.
#[derive(Clone, Debug)]
pub enum TokenContent {
    /// Real token ids, in the request's own bytes.
    Ids(TokenIds),
    /// Text whose UTF-8 bytes, four to a token, stand in for tokens.
    Packed(Vec<PackedPiece>),
    /// Already hashed.
    Blocks(PromptBlocks),
}

/// A piece of an estimated prompt.
#[derive(Clone, Debug)]
pub enum PackedPiece {
    Text(RawText),
    /// Pads to a token border, then stands for `n_tokens` tokens of one value.
    Media {
        token: u32,
        n_tokens: u32,
    },
}

/// A picture, sound or film in a prompt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MediaFeature {
    pub modality: &'static str,
    /// Hash of the content, in hexadecimal.
    pub hash: String,
    /// First token.
    pub offset: u64,
    pub n_tokens: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uncached_tokens_count_what_no_block_covers() {
        let check = |matched, total, n_tokens, uncached| {
            let found = PrefixMatch {
                matched_blocks: matched,
                total_blocks: total,
                block_tokens: 64,
                cached_blocks: matched,
            };
            assert_eq!(
                found.uncached_tokens(n_tokens),
                uncached,
                "{matched}/{total} of {n_tokens}"
            );
        };
        check(0, 0, 100, 100);
        check(1, 2, 128, 64);
        check(2, 2, 300, 172);
        check(0, 2, 70, 70);
    }
}
