//! The prompts of a request as chains of block hashes.

use router_framework::keys::{
    HashedPrompts, PackedPiece, PromptTokens, TokenContent, TokenizedPrompt,
};
use router_kvcache::{BYTES_PER_TOKEN, BlockHasher, PromptBlocks};
use router_wire::request::TokenIds;

/// Token ids that are hashed at once.
const TOKENS_AT_ONCE: usize = 64;

/// How much of a prompt is looked at.
#[derive(Clone, Copy, Debug)]
pub(super) enum MaxBlocks {
    Tokens(usize),
    Blocks(usize),
    All,
}

impl MaxBlocks {
    /// From the two parameters, of which the one in tokens wins.
    pub(super) fn new(max_tokens: i64, max_blocks: i64) -> Self {
        let positive = |value| usize::try_from(value).ok().filter(|value| *value > 0);
        positive(max_tokens)
            .map(Self::Tokens)
            .or_else(|| positive(max_blocks).map(Self::Blocks))
            .unwrap_or(Self::All)
    }

    /// Blocks of this size.
    pub(super) fn of(self, block_tokens: u32) -> usize {
        match self {
            Self::Tokens(tokens) => (tokens / (block_tokens as usize).max(1)).max(1),
            Self::Blocks(blocks) => blocks,
            Self::All => usize::MAX,
        }
    }
}

/// Bytes that [`hash`] has to look at.
pub(super) fn work_bytes(tokens: &TokenizedPrompt, block_tokens: u32, max_blocks: usize) -> usize {
    let limit = limit_bytes(block_tokens, max_blocks);
    let of_prompt = |prompt: &PromptTokens| match prompt.content {
        TokenContent::Blocks(_) => 0,
        _ => (prompt.n_tokens as usize).saturating_mul(BYTES_PER_TOKEN).min(limit),
    };
    tokens.prompts.iter().map(of_prompt).fold(0, usize::saturating_add)
}

fn limit_bytes(block_tokens: u32, max_blocks: usize) -> usize {
    max_blocks.saturating_mul(block_tokens as usize).saturating_mul(BYTES_PER_TOKEN)
}

/// Hashes all prompts, each up to `max_blocks`.
pub(super) fn hash(
    tokens: &TokenizedPrompt,
    model: &str,
    block_tokens: u32,
    max_blocks: usize,
) -> HashedPrompts {
    let salt = tokens.cache_salt.as_deref().unwrap_or_default();
    let one = |prompt: &PromptTokens| match &prompt.content {
        TokenContent::Blocks(blocks) => {
            let n_hashes = blocks.hashes.len().min(max_blocks);
            let hashes = blocks.hashes.get(..n_hashes).unwrap_or_default().to_vec();
            PromptBlocks { hashes, ..*blocks }
        }
        TokenContent::Ids(ids) => {
            let mut hasher = Hashing::new(model, salt, block_tokens, max_blocks, prompt.n_tokens);
            hasher.ids(ids);
            hasher.finish(prompt.n_tokens)
        }
        TokenContent::Packed(pieces) => {
            let mut hasher = Hashing::new(model, salt, block_tokens, max_blocks, prompt.n_tokens);
            hasher.pieces(pieces);
            hasher.finish(prompt.n_tokens)
        }
    };
    HashedPrompts { prompts: tokens.prompts.iter().map(one).collect() }
}

/// A hasher that knows when it has enough, so that the rest of a long text is not even unescaped.
struct Hashing {
    inner: BlockHasher,
    left: usize,
}

impl Hashing {
    fn new(model: &str, salt: &str, block_tokens: u32, max_blocks: usize, n_tokens: u64) -> Self {
        let block_bytes = block_tokens as usize * BYTES_PER_TOKEN;
        let mut inner = BlockHasher::new(model, salt, block_bytes, max_blocks);
        let n_bytes = (n_tokens as usize).saturating_mul(BYTES_PER_TOKEN);
        inner.reserve(n_bytes);
        Self { inner, left: limit_bytes(block_tokens, max_blocks) }
    }

    fn pieces(&mut self, pieces: &[PackedPiece]) {
        for piece in pieces {
            if self.left == 0 {
                return;
            }
            match piece {
                PackedPiece::Text(text) => text.decode_while(&mut |part| {
                    self.inner.push(part);
                    self.left = self.left.saturating_sub(part.len());
                    self.left > 0
                }),
                PackedPiece::Media { token, n_tokens } => self.media(*token, *n_tokens),
            }
        }
    }

    fn ids(&mut self, ids: &TokenIds) {
        let mut ids = ids.iter().take(self.left / BYTES_PER_TOKEN);
        loop {
            let mut at_once = [0; TOKENS_AT_ONCE];
            let mut n_now = 0;
            for (slot, id) in at_once.iter_mut().zip(&mut ids) {
                *slot = id;
                n_now += 1;
            }
            match at_once.get(..n_now) {
                Some(filled) if n_now > 0 => self.inner.push_token_ids(filled),
                _ => return,
            }
        }
    }

    fn media(&mut self, token: u32, n_tokens: u32) {
        self.inner.align4();
        // Padding is not taken off what is left: at worst three bytes per medium are hashed in vain.
        let mut n_wanted = (n_tokens as usize).min(self.left.div_ceil(BYTES_PER_TOKEN));
        self.left = self.left.saturating_sub(n_wanted * BYTES_PER_TOKEN);
        let tokens = [token; TOKENS_AT_ONCE];
        while n_wanted > 0 {
            let n_now = n_wanted.min(TOKENS_AT_ONCE);
            self.inner.push_token_ids(tokens.get(..n_now).unwrap_or(&tokens));
            n_wanted -= n_now;
        }
    }

    fn finish(self, n_tokens: u64) -> PromptBlocks {
        PromptBlocks { n_tokens: n_tokens as usize, ..self.inner.finish() }
    }
}

#[cfg(test)]
mod tests {
    use router_framework::keys::PromptTokens;
    use router_wire::text::RawText;

    use super::*;

    fn prompt(n_tokens: u64, content: TokenContent) -> TokenizedPrompt {
        let prompt = PromptTokens { n_tokens, content, media: Vec::new() };
        TokenizedPrompt { prompts: vec![prompt], cache_salt: None }
    }

    fn text(pieces: &[&str]) -> TokenizedPrompt {
        let n_bytes: usize = pieces.iter().map(|piece| piece.len()).sum();
        let pieces = pieces.iter().map(|piece| PackedPiece::Text(RawText::from(*piece)));
        prompt(n_bytes.div_ceil(4) as u64, TokenContent::Packed(pieces.collect()))
    }

    fn hashes(tokens: &TokenizedPrompt, max_blocks: usize) -> Vec<u64> {
        let hashed = hash(tokens, "m", 64, max_blocks);
        assert_eq!(hashed.prompts[0].n_tokens as u64, tokens.n_tokens());
        hashed.prompts[0].hashes.iter().map(|hash| hash.0).collect()
    }

    #[test]
    fn pieces_join_and_the_last_block_may_be_partial() {
        let whole = "x".repeat(600);
        let all = hashes(&text(&[&whole]), usize::MAX);
        assert_eq!(all.len(), 3, "two blocks of 256 bytes and a part");
        assert_eq!(
            hashes(&text(&[&whole[..100], &whole[100..300], &whole[300..]]), usize::MAX),
            all
        );
    }

    #[test]
    fn no_more_than_the_cap_is_hashed() {
        let whole = "x".repeat(10_000);
        let all = hashes(&text(&[&whole]), usize::MAX);
        for max in 1..4 {
            assert_eq!(hashes(&text(&[&whole]), max), all[..max], "{max}");
            let pieces: Vec<&str> =
                whole.as_bytes().chunks(100).map(|p| str::from_utf8(p).unwrap()).collect();
            assert_eq!(hashes(&text(&pieces), max), all[..max], "{max} in pieces");
        }
        assert_eq!(work_bytes(&text(&[&whole]), 64, 3), 768);
        assert_eq!(work_bytes(&text(&[&whole]), 64, usize::MAX), 10_000);
    }

    #[test]
    fn ids_hash_as_their_bytes() {
        let ids: Vec<u32> =
            (0..200).map(|at| u32::from_le_bytes([b'a' + (at % 26) as u8; 4])).collect();
        let bytes: String =
            ids.iter().map(|id| str::from_utf8(&id.to_le_bytes()).unwrap().to_owned()).collect();
        let all = hashes(&text(&[&bytes]), usize::MAX);
        let ids = prompt(200, TokenContent::Ids(ids.into_iter().collect()));
        assert_eq!(hashes(&ids, usize::MAX), all);
        assert_eq!(hashes(&ids, 2), all[..2]);
    }

    #[test]
    fn media_stand_at_a_token_border() {
        let media = |text: &str, n_tokens| {
            let medium = PackedPiece::Media { token: u32::from_le_bytes(*b"abcd"), n_tokens };
            let pieces = vec![PackedPiece::Text(RawText::from(text)), medium];
            prompt(
                u64::from(n_tokens) + text.len().div_ceil(4) as u64,
                TokenContent::Packed(pieces),
            )
        };
        let spelled = format!("abc\0{}", "abcd".repeat(150));
        assert_eq!(hashes(&media("abc", 150), usize::MAX), hashes(&text(&[&spelled]), usize::MAX));
        let capped = hashes(&media("abc", 1 << 20), 2);
        assert_eq!(capped, hashes(&text(&[&spelled]), 2));
    }

    #[test]
    fn model_and_salt_are_part_of_every_hash() {
        let tokens = text(&["hello"]);
        let salted = TokenizedPrompt { cache_salt: Some("s".into()), ..tokens.clone() };
        let first = |hashed: HashedPrompts| hashed.prompts[0].hashes[0];
        let plain = first(hash(&tokens, "m", 64, 9));
        assert_ne!(first(hash(&tokens, "n", 64, 9)), plain);
        assert_ne!(first(hash(&salted, "m", 64, 9)), plain);
    }

    #[test]
    fn caps_are_in_tokens_first() {
        let check = |tokens, blocks, expected| {
            assert_eq!(MaxBlocks::new(tokens, blocks).of(64), expected, "{tokens} {blocks}");
        };
        check(131_072, 2048, 2048);
        check(6400, 5, 100);
        check(10, 5, 1);
        check(0, 5, 5);
        check(0, 0, usize::MAX);
    }
}
