use proptest::prelude::*;

use super::*;

/// The definition, spelled out over the whole padded prompt.
fn slow(root: &str, text: &[u8], block_bytes: usize) -> Vec<BlockHash> {
    let mut padded = text.to_vec();
    padded.resize(text.len().next_multiple_of(4), 0);
    let mut previous = xxh64(root.as_bytes(), 0);
    let mut hashes = Vec::new();
    for block in padded.chunks(block_bytes) {
        let mut pair = xxh64(block, 0).to_le_bytes().to_vec();
        pair.extend(previous.to_le_bytes());
        previous = xxh64(&pair, 0);
        hashes.push(BlockHash(previous));
    }
    hashes
}

fn hash(pieces: &[&[u8]], block_bytes: usize, max_blocks: usize) -> PromptBlocks {
    let mut hasher = BlockHasher::new("m", "salt", block_bytes, max_blocks);
    for piece in pieces {
        hasher.push(piece);
    }
    hasher.finish()
}

/// Recorded from the Go implementation's functions: `seed_hashes` of kv-vectors.json.
#[test]
fn xxh64_has_the_bits_of_the_reference() {
    for (seed, hash) in [
        ("", 17241709254077376921),
        ("test-seed", 15005359024872384098),
        ("42", 7919287270473417401),
    ] {
        assert_eq!(xxh64(seed.as_bytes(), 0), hash);
    }
}

/// Recorded from the Go implementation's functions: `estimate_tokenizer.pack_bytes` of kv-vectors.json.
#[test]
fn text_and_its_packed_tokens_hash_alike() {
    for (text, ids) in [("hello", [1819043176, 111]), ("userhi", [1919251317, 26984])] {
        let mut hasher = BlockHasher::new("m", "salt", 256, usize::MAX);
        hasher.push_token_ids(&ids);
        let tokens = hasher.finish();
        assert_eq!(hash(&[text.as_bytes()], 256, usize::MAX), tokens);
        assert_eq!((tokens.n_tokens, tokens.hashes.len()), (2, 1));
    }
}

#[test]
fn model_and_salt_separate_prompts() {
    let hash = |model, salt| {
        let mut hasher = BlockHasher::new(model, salt, 64, usize::MAX);
        hasher.push(b"text");
        hasher.finish().hashes
    };
    assert_ne!(hash("m", ""), hash("n", ""));
    assert_ne!(hash("m", ""), hash("m", "s"));
    assert_eq!(hash("m", "s"), hash("ms", ""), "the reference joins the two without a separator");
}

#[test]
fn empty_prompt_has_no_blocks() {
    assert_eq!(
        hash(&[], 64, usize::MAX),
        PromptBlocks { block_tokens: 16, hashes: vec![], n_tokens: 0 }
    );
}

#[test]
fn cap_limits_hashes_but_not_tokens() {
    let text = [7; 1001];
    let all = hash(&[&text], 64, usize::MAX);
    assert_eq!((all.hashes.len(), all.n_tokens), (16, 251));
    for cap in [0, 1, 3, 15, 16, 17] {
        let capped = hash(&[&text[..100], &text[100..]], 64, cap);
        assert_eq!(capped.hashes, all.hashes[..cap.min(16)], "cap {cap}");
        assert_eq!(capped.n_tokens, 251);
    }
}

#[test]
fn odd_block_sizes_become_whole_tokens() {
    for (asked, block_tokens) in [(0, 1), (1, 1), (4, 1), (5, 2), (256, 64)] {
        assert_eq!(hash(&[b"x"], asked, usize::MAX).block_tokens, block_tokens);
    }
    assert_eq!(hash(&[b"xyz"], usize::MAX, usize::MAX).hashes.len(), 1);
}

#[test]
fn align4_starts_a_token() {
    let mut hasher = BlockHasher::new("m", "salt", 64, usize::MAX);
    hasher.push(b"abcde");
    hasher.align4();
    hasher.push(b"f");
    assert_eq!(hasher.finish(), hash(&[b"abcde\0\0\0f"], 64, usize::MAX));
}

#[test]
fn block_ids_are_chained() {
    let a = PromptBlocks::from_block_ids(&[1, 2, 3], 512, 1500);
    let b = PromptBlocks::from_block_ids(&[1, 2, 4], 512, 1500);
    let c = PromptBlocks::from_block_ids(&[9, 2, 3], 512, 1500);
    assert_eq!(a.hashes[..2], b.hashes[..2]);
    assert_ne!(a.hashes[2], b.hashes[2]);
    assert!(a.hashes.iter().zip(&c.hashes).all(|(a, c)| a != c));
}

proptest! {
    #[test]
    fn any_cut_into_pieces_gives_the_same_hashes(
        text in prop::collection::vec(any::<u8>(), 0..600),
        cuts in prop::collection::vec(0usize..600, 0..6),
        block_tokens in 1usize..40,
    ) {
        let mut cuts: Vec<_> = cuts.into_iter().map(|cut| cut.min(text.len())).collect();
        cuts.extend([0, text.len()]);
        cuts.sort_unstable();
        let pieces: Vec<_> = cuts.windows(2).map(|cut| &text[cut[0]..cut[1]]).collect();
        let blocks = hash(&pieces, block_tokens * 4, usize::MAX);
        prop_assert_eq!(blocks.hashes, slow("msalt", &text, block_tokens * 4));
        prop_assert_eq!(blocks.n_tokens, text.len().div_ceil(4));
    }

    #[test]
    fn token_ids_hash_as_their_bytes(ids in prop::collection::vec(any::<u32>(), 0..200)) {
        let bytes: Vec<u8> = ids.iter().flat_map(|id| id.to_le_bytes()).collect();
        let mut hasher = BlockHasher::new("m", "salt", 256, usize::MAX);
        hasher.push_token_ids(&ids);
        prop_assert_eq!(hasher.finish(), hash(&[&bytes], 256, usize::MAX));
    }
}
