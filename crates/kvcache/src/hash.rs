//! Block hashing: a prompt becomes a chain of 64-bit hashes, one per block.
//!
//! `h(i) = xxh64(LE64(xxh64(block i)) ‖ LE64(h(i-1)))` with `h(-1) = xxh64(model ‖ cache salt)`, as in
//! spec/scheduling.md §9.2. The last block may be partial and is hashed like the others.

use xxhash_rust::xxh64::{Xxh64, xxh64};

/// Bytes of one token: the estimating tokenizer packs four bytes of text into each pseudo-token, and a
/// real token id is a 32-bit number.
pub const BYTES_PER_TOKEN: usize = 4;

/// Token ids are hashed through a buffer of this many ids.
const IDS_AT_ONCE: usize = 64;

/// Hash of a block and of everything before it in the prompt, of the model's name and of the cache salt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BlockHash(pub u64);

/// A prompt as the prefix index sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PromptBlocks {
    /// Tokens of a full block.
    pub block_tokens: u32,
    /// In the prompt's order; the last one may stand for a partial block.
    pub hashes: Vec<BlockHash>,
    /// Tokens of the whole prompt, also of what lies beyond the cap on blocks.
    pub n_tokens: usize,
}

impl PromptBlocks {
    /// Blocks of a prompt whose text is not known, from ids that stand for its blocks' contents: a trace.
    /// Ids are chained, so an id counts as equal only after an equal prefix.
    pub fn from_block_ids(ids: &[u64], block_tokens: u32, n_tokens: usize) -> Self {
        let mut previous = xxh64(&[], 0);
        let hashes = ids.iter().map(|&id| BlockHash(link(id, &mut previous))).collect();
        Self { block_tokens, hashes, n_tokens }
    }

    /// Blocks that are full: all but one in which the prompt may end, and which longer prompts do not have.
    pub fn n_full(&self) -> usize {
        self.hashes.len().min(self.n_tokens / self.block_tokens.max(1) as usize)
    }
}

/// Hashes a prompt piece by piece. A block that lies in one piece is hashed where it is; only a block that
/// straddles pieces goes through a streaming state. Nothing of the text is kept.
pub struct BlockHasher {
    block_bytes: usize,
    max_blocks: usize,
    previous: u64,
    hashes: Vec<BlockHash>,
    /// State of the block that is open; meaningful while `open_bytes > 0`.
    open: Xxh64,
    open_bytes: usize,
    n_bytes: usize,
}

impl BlockHasher {
    /// `block_bytes` is the size of a block, four bytes per token; it is rounded up to whole tokens and to
    /// at least one. At most `max_blocks` hashes are made; `usize::MAX` leaves it to the prompt's length.
    pub fn new(model: &str, cache_salt: &str, block_bytes: usize, max_blocks: usize) -> Self {
        let mut root = Xxh64::new(0);
        root.update(model.as_bytes());
        root.update(cache_salt.as_bytes());
        let n_tokens = block_bytes.div_ceil(BYTES_PER_TOKEN).max(1);
        Self {
            block_bytes: n_tokens.saturating_mul(BYTES_PER_TOKEN),
            max_blocks,
            previous: root.digest(),
            hashes: Vec::new(),
            open: Xxh64::new(0),
            open_bytes: 0,
            n_bytes: 0,
        }
    }

    /// Makes room for the hashes of `n_bytes` more bytes of prompt.
    pub fn reserve(&mut self, n_bytes: usize) {
        let n_blocks = (n_bytes / self.block_bytes).saturating_add(1);
        self.hashes.reserve(n_blocks.min(self.max_blocks.saturating_sub(self.hashes.len())));
    }

    /// Adds text. Pieces join without padding: pushing `ab` and `cd` is pushing `abcd`.
    pub fn push(&mut self, text: &[u8]) {
        self.n_bytes = self.n_bytes.saturating_add(text.len());
        if self.is_full() {
            return;
        }
        let rest = self.fill_open(text);
        let mut blocks = rest.chunks_exact(self.block_bytes);
        for block in &mut blocks {
            self.close(xxh64(block, 0));
            if self.is_full() {
                return;
            }
        }
        let rest = blocks.remainder();
        if !rest.is_empty() {
            self.open.update(rest);
            self.open_bytes += rest.len();
        }
    }

    /// Adds token ids, after padding what was pushed as text to a whole token.
    pub fn push_token_ids(&mut self, ids: &[u32]) {
        self.align4();
        for ids in ids.chunks(IDS_AT_ONCE) {
            let mut buffer = [0; IDS_AT_ONCE * BYTES_PER_TOKEN];
            for (bytes, id) in buffer.chunks_exact_mut(BYTES_PER_TOKEN).zip(ids) {
                bytes.copy_from_slice(&id.to_le_bytes());
            }
            let n_bytes = ids.len() * BYTES_PER_TOKEN;
            self.push(buffer.get(..n_bytes).unwrap_or_default());
        }
    }

    /// Pads with zeros to a whole token, as media in a chat message ask for.
    pub fn align4(&mut self) {
        let n_pad = self.n_bytes.wrapping_neg() % BYTES_PER_TOKEN;
        self.push([0; BYTES_PER_TOKEN].get(..n_pad).unwrap_or_default());
    }

    /// Ends the prompt: pads it to a whole token and closes a partial block.
    pub fn finish(mut self) -> PromptBlocks {
        self.align4();
        if self.open_bytes > 0 && !self.is_full() {
            self.close(self.open.digest());
        }
        PromptBlocks {
            block_tokens: (self.block_bytes / BYTES_PER_TOKEN) as u32,
            hashes: self.hashes,
            n_tokens: self.n_bytes / BYTES_PER_TOKEN,
        }
    }

    fn is_full(&self) -> bool {
        self.hashes.len() >= self.max_blocks
    }

    /// Feeds the open block, if there is one, from the front of `text`; returns what is left.
    fn fill_open<'a>(&mut self, text: &'a [u8]) -> &'a [u8] {
        if self.open_bytes == 0 {
            return text;
        }
        let n_missing = self.block_bytes - self.open_bytes;
        let Some((head, rest)) = text.split_at_checked(n_missing) else {
            self.open.update(text);
            self.open_bytes += text.len();
            return &[];
        };
        self.open.update(head);
        self.close(self.open.digest());
        self.open.reset(0);
        self.open_bytes = 0;
        if self.is_full() { &[] } else { rest }
    }

    fn close(&mut self, content: u64) {
        self.hashes.push(BlockHash(link(content, &mut self.previous)));
    }
}

/// The next hash of a chain.
fn link(content: u64, previous: &mut u64) -> u64 {
    let mut pair = [0; 16];
    let (low, high) = pair.split_at_mut(8);
    low.copy_from_slice(&content.to_le_bytes());
    high.copy_from_slice(&previous.to_le_bytes());
    *previous = xxh64(&pair, 0);
    *previous
}

#[cfg(test)]
mod tests;
