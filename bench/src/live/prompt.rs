//! Text for the block ids of a trace.
//!
//! A token is a word of three letters and a space. The simulated servers' tokenizer takes each as one token, and
//! the router's estimate of four bytes per token is exact, so both count what the trace says.

use std::fmt::Write;

use router_rt::Rng;
use router_sim::replay::trace::TraceRequest;

/// Bytes of one token.
pub const TOKEN_BYTES: usize = 4;
/// What requests ask for; simulated servers and the router take any name that the servers serve.
pub const MODEL: &str = "live";

const N_LETTERS: u64 = 26;
const WORDS: u64 = N_LETTERS * N_LETTERS * N_LETTERS;

/// The prompt of a request: equal blocks are equal text. What goes beyond its full blocks is like no other text,
/// as in replay; `nth` tells the request from all others.
pub(super) fn text(request: &TraceRequest, nth: u64, block_tokens: u32) -> String {
    let n_tokens = request.prompt_tokens as usize;
    let block = block_tokens.max(1) as usize;
    let mut text = String::with_capacity(n_tokens * TOKEN_BYTES);
    let full = request.chain.iter().take(n_tokens / block);
    for &id in full {
        words(&mut text, Seed::Block(id), block);
    }
    let n_written = text.len() / TOKEN_BYTES;
    words(&mut text, Seed::Tail(nth), n_tokens.saturating_sub(n_written));
    text
}

/// The body of a streaming completion whose answer has as many tokens as the trace says.
pub(super) fn body(request: &TraceRequest, nth: u64, block_tokens: u32) -> String {
    let text = text(request, nth, block_tokens);
    let max_tokens = request.output_tokens;
    let mut body = String::with_capacity(text.len() + 160);
    // Writing to a string cannot fail. The text has no character that JSON escapes.
    write!(
        body,
        "{{\"model\":\"{MODEL}\",\"prompt\":\"{text}\",\"max_tokens\":{max_tokens},\"ignore_eos\":true,\
         \"stream\":true,\"stream_options\":{{\"include_usage\":true}}}}"
    )
    .ok();
    body
}

/// What a run of words follows from.
#[derive(Clone, Copy)]
enum Seed {
    Block(u64),
    Tail(u64),
}

fn words(text: &mut String, seed: Seed, n: usize) {
    let mut rng = Rng::seeded(match seed {
        Seed::Block(id) => id.wrapping_mul(2),
        Seed::Tail(nth) => nth.wrapping_mul(2).wrapping_add(1),
    });
    for _ in 0..n {
        let word = rng.range(0..WORDS);
        for letter in [word / (N_LETTERS * N_LETTERS), word / N_LETTERS, word] {
            text.push(char::from(b'a' + (letter % N_LETTERS) as u8));
        }
        text.push(' ');
    }
}

#[cfg(test)]
mod tests {
    use router_core::Stamp;
    use router_sim::replay::read;
    use router_sim::replay::trace::Start;

    use super::*;

    fn request(chain: &[u64], prompt_tokens: u32) -> TraceRequest {
        let row = "{\"timestamp\": 0, \"input_length\": 1, \"output_length\": 3, \"hash_ids\": []}";
        let trace = read::read("row", row.as_bytes(), None, 1).unwrap();
        let start = Start::At(Stamp::ORIGIN);
        TraceRequest { start, chain: chain.into(), prompt_tokens, ..trace.requests[0].clone() }
    }

    #[test]
    fn equal_blocks_are_equal_text_and_nothing_else_is() {
        let a = text(&request(&[7, 8, 9], 12), 0, 4);
        let b = text(&request(&[7, 8, 5], 14), 1, 4);
        assert_eq!((a.len(), b.len()), (12 * TOKEN_BYTES, 14 * TOKEN_BYTES));
        let shared = 8 * TOKEN_BYTES;
        assert_eq!(a[..shared], b[..shared]);
        assert_ne!(a[shared..shared + 16], b[shared..shared + 16]);
        // The same blocks with another tail.
        let (c, d) = (text(&request(&[7], 7), 2, 4), text(&request(&[7], 7), 3, 4));
        assert_eq!(c[..16], d[..16]);
        assert_ne!(c[16..], d[16..]);
    }

    #[test]
    fn a_block_that_the_prompt_has_in_part_is_not_shared() {
        let (a, b) = (text(&request(&[7, 8], 6), 0, 4), text(&request(&[7, 8], 6), 1, 4));
        assert_eq!((a.len(), &a[..16]), (24, &b[..16]));
        assert_ne!(a[16..], b[16..]);
    }

    #[test]
    fn words_are_what_tokenizers_agree_on() {
        let text = text(&request(&[], 500), 3, 512);
        let is_word = |word: &[u8]| {
            word[3] == b' ' && word[..3].iter().all(|letter| letter.is_ascii_lowercase())
        };
        assert!(text.as_bytes().chunks(TOKEN_BYTES).all(is_word));
        let body: serde_json::Value =
            serde_json::from_str(&body(&request(&[], 500), 3, 512)).unwrap();
        assert_eq!((body["prompt"].as_str(), &body["max_tokens"]), (Some(&*text), &3.into()));
    }
}
