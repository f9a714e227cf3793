//! The dummy tokenizer: text in pieces, a number for each.
//!
//! A piece is a run of letters, digits and underscores, or a single other character, each with the white space
//! after it; pieces longer than 16 bytes are cut, so that a long word costs what it would cost. The number is the
//! FNV-1a hash of the piece in 32 bits. Pieces put together give the text again.
//!
//! Differs: the reference simulator drops characters that its pattern does not know and never cuts a word.

use std::iter;

use xxhash_rust::xxh64::xxh64;

use crate::model::BlockHash;

/// Longest piece in bytes.
const MAX_PIECE: usize = 16;

/// The pieces of a text.
pub(crate) fn pieces(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    iter::from_fn(move || {
        let len = piece_len(rest);
        let (piece, tail) = rest.split_at_checked(len).filter(|(piece, _)| !piece.is_empty())?;
        rest = tail;
        Some(piece)
    })
}

/// The number of a piece.
pub(crate) fn token(piece: &str) -> u32 {
    piece
        .bytes()
        .fold(0x811C_9DC5, |hash: u32, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

/// The numbers of a text's pieces.
pub(crate) fn tokenize(text: &str) -> Vec<u32> {
    pieces(text).map(token).collect()
}

/// Ids of the full blocks of `tokens`, each following from all tokens before it. `root` keeps apart what must not
/// share blocks: adapters and cache salts.
pub(crate) fn block_chain<'a>(
    root: u64,
    tokens: impl Iterator<Item = &'a u32>,
    block_size: u32,
) -> Box<[BlockHash]> {
    let (mut chain, mut block, mut parent) = (Vec::new(), Vec::new(), root);
    let full = block_size as usize * size_of::<u32>();
    for token in tokens {
        block.extend_from_slice(&token.to_le_bytes());
        if block.len() == full {
            parent = xxh64(&block, parent);
            chain.push(BlockHash(parent));
            block.clear();
        }
    }
    chain.into()
}

fn piece_len(text: &str) -> usize {
    let mut len = 0;
    let mut in_word = true;
    for (nth, c) in text.chars().enumerate() {
        let is_word = c.is_alphanumeric() || c == '_';
        let goes_on = if nth == 0 {
            in_word = is_word;
            true
        } else if c.is_whitespace() {
            in_word = false;
            true
        } else {
            in_word && is_word
        };
        if !goes_on || (nth > 0 && len + c.len_utf8() > MAX_PIECE) {
            break;
        }
        len += c.len_utf8();
    }
    len
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn known_texts() {
        // From the reference simulator's tokenizer (kv-vectors.json, sim_dummy_tokenizer).
        let cases: [(&str, &[&str], &[u32]); 2] = [
            (
                "Hello, world! This is a test.",
                &["Hello", ", ", "world", "! ", "This ", "is ", "a ", "test", "."],
                &[
                    4116459851, 2312110321, 933488787, 2344826916, 3157421587, 1477013615,
                    186949092, 2949673445, 722245873,
                ],
            ),
            (
                "snake_case x=1\n",
                &["snake_case ", "x", "=", "1\n"],
                &[2212948000, 4245442695, 940354920, 99288994],
            ),
        ];
        for (text, expected, ids) in cases {
            assert_eq!(pieces(text).collect::<Vec<_>>(), expected);
            assert_eq!(tokenize(text), ids);
        }
        assert_eq!(pieces("  x").collect::<Vec<_>>(), ["  ", "x"]);
        assert_eq!(pieces(&"a".repeat(40)).map(str::len).collect::<Vec<_>>(), [16, 16, 8]);
    }

    #[test]
    fn chains_share_what_texts_share() {
        let tokens: Vec<u32> = (0..10).collect();
        let other: Vec<u32> = (0..7).chain(20..23).collect();
        let (a, b) = (block_chain(1, tokens.iter(), 3), block_chain(1, other.iter(), 3));
        assert_eq!((a.len(), &a[..2]), (3, &b[..2]));
        assert_ne!(a[2], b[2]);
        assert_ne!(a[0], block_chain(2, tokens.iter(), 3)[0]);
    }

    proptest! {
        #[test]
        fn pieces_give_the_text(text in "\\PC{0,60}") {
            prop_assert_eq!(pieces(&text).collect::<String>(), text.clone());
            prop_assert!(pieces(&text).all(|piece| !piece.is_empty() && piece.len() <= MAX_PIECE));
        }
    }
}
