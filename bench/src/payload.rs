//! Chat-completion bodies of a given size with a chosen amount of shared prefix, and answers.
//!
//! A body is `{"model":…,"stream":…,"max_tokens":…,"messages":[system, user]}`.
//! The system message is one of `groups` fixed texts of `shared` bytes; the user message starts with a
//! tag of its own, so two bodies of one group share exactly the system message and two bodies of
//! different groups share nothing.

use bytes::{BufMut, Bytes, BytesMut};

const BETWEEN: &[u8] = b"\"},{\"role\":\"user\",\"content\":\"";
const TAIL: &[u8] = b"\"}]}";
/// Two numbers of 16 hexadecimal digits, each with a space.
const TAG_LEN: usize = 34;
/// Texts are cut out of a pool of this many times the body, within the limits below.
const POOL_BODIES: usize = 4;
const POOL_MIN: usize = 64 << 10;
const POOL_MAX: usize = 8 << 20;

/// What bodies shall be like.
#[derive(Clone, Debug)]
pub struct Shape {
    pub model: String,
    /// Bytes of a body. A body is never shorter than its JSON frame, about 200 bytes.
    pub size: usize,
    /// Bytes of the prompt that all bodies of a group share.
    pub shared: usize,
    pub n_groups: usize,
    pub stream: bool,
    /// Makes the prompts of one run distinct from those of another.
    pub run_tag: u64,
}

/// Makes bodies by number: equal numbers give equal bodies.
#[derive(Debug)]
pub struct Payloads {
    head: Vec<u8>,
    groups: Vec<Vec<u8>>,
    pool: Vec<u8>,
    size: usize,
    run_tag: u64,
}

impl Payloads {
    pub fn new(shape: &Shape) -> Self {
        let head = format!(
            "{{\"model\":\"{}\",\"stream\":{},\"max_tokens\":64,\"temperature\":0.7,\
             \"messages\":[{{\"role\":\"system\",\"content\":\"",
            shape.model, shape.stream
        )
        .into_bytes();
        let fixed = head.len() + BETWEEN.len() + TAIL.len() + TAG_LEN;
        let shared = shape.shared.min(shape.size.saturating_sub(fixed));
        let n_groups = shape.n_groups.max(1) as u64;
        let groups = (0..n_groups).map(|group_idx| text(0xfeed + group_idx, shared)).collect();
        let pool = text(shape.run_tag, (POOL_BODIES * shape.size).clamp(POOL_MIN, POOL_MAX));
        Self { head, groups, pool, size: shape.size, run_tag: shape.run_tag }
    }

    /// Body number `n`.
    pub fn body(&self, n: u64) -> Bytes {
        let random = mix(self.run_tag ^ mix(n));
        let prefix = &self.groups[(random % self.groups.len() as u64) as usize];
        let mut body = BytesMut::with_capacity(self.size + 256);
        body.put_slice(&self.head);
        body.put_slice(prefix);
        body.put_slice(BETWEEN);
        body.put_slice(format!("{:016x} {n:016x} ", self.run_tag).as_bytes());
        let left = self.size.saturating_sub(body.len() + TAIL.len()).min(self.pool.len());
        let at = mix(random) as usize % (self.pool.len() - left).max(1);
        let cut = &self.pool[at..at + left];
        // A cut may not begin within an escape: its second half alone is one letter.
        let within_escape = at > 0 && self.pool[at - 1] == b'\\';
        body.put_slice(if within_escape { cut.get(1..).unwrap_or(cut) } else { cut });
        end_escape(&mut body);
        body.put_slice(TAIL);
        body.freeze()
    }
}

/// Makes completions whose prompt is a list of token ids, by number: equal numbers give equal bodies.
#[derive(Clone, Debug)]
pub struct TokenBodies {
    pub model: String,
    /// Bytes of a body. A body has at least one id.
    pub size: usize,
    /// Digits of an id, at most 9.
    pub n_digits: u32,
    /// Makes the prompts of one run distinct from those of another.
    pub run_tag: u64,
}

impl TokenBodies {
    /// Body number `n`.
    pub fn body(&self, n: u64) -> Bytes {
        let mut body = BytesMut::with_capacity(self.size + 256);
        body.put_slice(format!("{{\"model\":\"{}\",\"prompt\":[", self.model).as_bytes());
        let (first, end) = (10_u64.pow(self.n_digits.clamp(1, 9) - 1), b"]}");
        let mut seed = mix(self.run_tag ^ mix(n));
        loop {
            seed = mix(seed);
            body.put_slice((first + seed % (9 * first)).to_string().as_bytes());
            if body.len() + self.n_digits as usize + 1 + end.len() > self.size {
                break;
            }
            body.put_u8(b',');
        }
        body.put_slice(end);
        body.freeze()
    }
}

/// One answer in `n_chunks` pieces and at least `size` bytes (0: as small as it comes): server-sent
/// events with the usage in the last data event, or one JSON document cut in pieces.
pub fn answer(model: &str, n_chunks: usize, size: usize, stream: bool) -> Vec<Bytes> {
    let n_chunks = n_chunks.max(1);
    if stream { sse_answer(model, n_chunks, size) } else { json_answer(model, n_chunks, size) }
}

/// splitmix64: enough for texts and choices.
pub fn mix(mut x: u64) -> u64 {
    x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

fn sse_answer(model: &str, n_chunks: usize, size: usize) -> Vec<Bytes> {
    let event = |filler: &str| {
        format!(
            "data: {{\"id\":\"chatcmpl-1\",\"object\":\"chat.completion.chunk\",\
             \"created\":1700000000,\"model\":\"{model}\",\"choices\":[{{\"index\":0,\
             \"delta\":{{\"content\":\" word{filler}\"}},\"logprobs\":null,\
             \"finish_reason\":null}}]}}\n\n"
        )
    };
    let end = format!(
        "data: {{\"id\":\"chatcmpl-1\",\"object\":\"chat.completion.chunk\",\
         \"created\":1700000000,\"model\":\"{model}\",\"choices\":[],\
         \"usage\":{{\"prompt_tokens\":256,\"total_tokens\":320,\"completion_tokens\":64}}}}\n\n\
         data: [DONE]\n\n"
    );
    let n_events = n_chunks - 1;
    let bare = n_events * event("").len() + end.len();
    let filler = "x".repeat(size.saturating_sub(bare).div_ceil(n_events.max(1)));
    let event = Bytes::from(event(&filler));
    let mut chunks = vec![event; n_events];
    chunks.push(end.into());
    chunks
}

fn json_answer(model: &str, n_chunks: usize, size: usize) -> Vec<Bytes> {
    let document = |content: &str| {
        format!(
            "{{\"id\":\"chatcmpl-1\",\"object\":\"chat.completion\",\"created\":1700000000,\
             \"model\":\"{model}\",\"choices\":[{{\"index\":0,\"message\":{{\
             \"role\":\"assistant\",\"content\":\"{content}\"}},\"finish_reason\":\"stop\"}}],\
             \"usage\":{{\"prompt_tokens\":256,\"total_tokens\":320,\"completion_tokens\":64}}}}"
        )
    };
    let filler = "x".repeat(size.saturating_sub(document("").len()));
    let document = Bytes::from(document(&filler));
    let step = document.len().div_ceil(n_chunks);
    (0..document.len())
        .step_by(step)
        .map(|at| document.slice(at..(at + step).min(document.len())))
        .collect()
}

/// English-like text: lower-case words of 2 to 9 letters, with a full stop and an escaped newline now
/// and then, because prompts hold escapes and escapes cost a parser something.
fn text(seed: u64, len: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(len + 16);
    let mut word_seed = seed;
    let mut n_words = 0;
    while out.len() < len {
        word_seed = mix(word_seed);
        let mut letter_seed = word_seed;
        for _ in 0..(2 + letter_seed % 8) {
            letter_seed = mix(letter_seed);
            out.push(b'a' + (letter_seed % 26) as u8);
        }
        n_words += 1;
        out.extend_from_slice(if n_words % 12 == 0 { b".\\n" } else { b" " });
    }
    out.truncate(len);
    end_escape(&mut out);
    out
}

/// Makes a full stop of a backslash that a cut has left alone at the end.
fn end_escape(text: &mut [u8]) {
    if let Some(last) = text.last_mut().filter(|last| **last == b'\\') {
        *last = b'.';
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn shape(size: usize, shared: usize) -> Shape {
        Shape { model: "m".into(), size, shared, n_groups: 4, stream: true, run_tag: 7 }
    }

    #[test]
    fn bodies_are_json_of_the_asked_size_and_distinct() {
        for size in [1 << 10, 16 << 10, 128 << 10] {
            for shared in [0, size / 2] {
                let payloads = Payloads::new(&shape(size, shared));
                let mut seen = HashSet::new();
                for n in 0..200 {
                    let body = payloads.body(n);
                    assert!(body.len() <= size && body.len() + 2 >= size, "{} {size}", body.len());
                    let json: serde_json::Value = serde_json::from_slice(&body).unwrap();
                    let system = json["messages"][0]["content"].as_str().unwrap();
                    assert_eq!(system.is_empty(), shared == 0);
                    assert!(seen.insert(body));
                }
            }
        }
    }

    #[test]
    fn a_body_is_never_smaller_than_its_frame() {
        let body = Payloads::new(&shape(1, 1000)).body(3);
        serde_json::from_slice::<serde_json::Value>(&body).unwrap();
    }

    #[test]
    fn token_bodies_are_lists_of_ids_of_the_asked_size() {
        for (size, n_digits) in [(1, 1), (1000, 1), (1000, 5), (100_000, 9)] {
            let bodies = TokenBodies { model: "m".into(), size, n_digits, run_tag: 7 };
            let body = bodies.body(3);
            assert!(size == 1 || body.len().abs_diff(size) <= 11, "{} of {size}", body.len());
            let json: serde_json::Value = serde_json::from_slice(&body).unwrap();
            let ids = json["prompt"].as_array().unwrap();
            assert!(ids.iter().all(|id| id.to_string().len() == n_digits as usize), "{ids:?}");
            assert!(size == 1 || bodies.body(4) != body);
        }
    }

    #[test]
    fn two_runs_share_nothing_but_the_group_text() {
        let first = Payloads::new(&shape(4096, 0)).body(0);
        let second = Payloads::new(&Shape { run_tag: 8, ..shape(4096, 0) }).body(0);
        let same = first.iter().zip(&second).take_while(|(a, b)| a == b).count();
        assert!(same < 160, "{same} bytes in common");
    }

    #[test]
    fn json_answers_are_whole_and_of_the_asked_size() {
        for (n_chunks, size) in [(1, 0), (3, 1000), (8, 100_000)] {
            let chunks = answer("m", n_chunks, size, false);
            let whole = chunks.concat();
            serde_json::from_slice::<serde_json::Value>(&whole).unwrap();
            assert_eq!(chunks.len(), n_chunks);
            assert!(size == 0 || whole.len() == size, "{}", whole.len());
        }
    }

    #[test]
    fn event_answers_end_with_usage_and_done() {
        for (n_chunks, size) in [(1, 0), (4, 0), (4, 10_000)] {
            let chunks = answer("m", n_chunks, size, true);
            assert_eq!(chunks.len(), n_chunks);
            assert!(n_chunks == 1 || chunks.concat().len() >= size);
            for event in chunks.concat().split(|byte| *byte == b'\n').filter(|l| !l.is_empty()) {
                let data = event.strip_prefix(b"data: ").unwrap();
                assert!(
                    data == b"[DONE]" || serde_json::from_slice::<serde_json::Value>(data).is_ok()
                );
            }
            assert!(chunks.last().unwrap().ends_with(b"data: [DONE]\n\n"));
        }
    }
}
