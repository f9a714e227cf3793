//! A stream of server-sent events as it comes in: when its tokens came, and what it says of itself at its end.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

/// The end of a stream, where its usage stands.
const MAX_TAIL: usize = 2048;
const STREAM_END: &str = "data: [DONE]\n\n";
/// Events that carry no token: the usage and the end.
const N_CLOSING_EVENTS: u64 = 2;

/// What is kept of a stream while it comes.
#[derive(Debug, Default)]
pub(super) struct Events {
    first: Option<Duration>,
    last: Duration,
    /// Empty lines: each ends an event.
    n_blank: u64,
    ends_with_newline: bool,
    tail: Vec<u8>,
}

/// A stream that came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Whole {
    /// When the first bytes came, and the last.
    pub(super) first: Duration,
    pub(super) last: Duration,
    pub(super) prompt_tokens: u32,
    pub(super) cached_tokens: u32,
    pub(super) output_tokens: u32,
}

#[derive(Deserialize)]
struct Chunk {
    usage: Usage,
}

#[derive(Deserialize)]
struct Usage {
    prompt_tokens: u32,
    completion_tokens: u32,
    prompt_tokens_details: Option<Details>,
}

#[derive(Default, Deserialize)]
struct Details {
    cached_tokens: u32,
}

impl Events {
    pub(super) fn take(&mut self, data: &[u8], now: Duration) {
        if data.is_empty() {
            return;
        }
        self.first.get_or_insert(now);
        self.last = now;
        let mut after_newline = self.ends_with_newline;
        let mut next = 0;
        for at in memchr::memchr_iter(b'\n', data) {
            // An event ends with an empty line.
            let is_blank = at == next && after_newline;
            self.n_blank += u64::from(is_blank);
            after_newline = !is_blank;
            next = at + 1;
        }
        self.ends_with_newline = after_newline && next == data.len();
        let kept = data.get(data.len().saturating_sub(MAX_TAIL)..).unwrap_or_default();
        self.tail.extend_from_slice(kept);
        self.tail.drain(..self.tail.len().saturating_sub(MAX_TAIL));
    }

    /// # Errors
    /// A stream that broke off, without usage, or with another number of events than of tokens.
    pub(super) fn finish(self) -> Result<Whole> {
        let text = String::from_utf8_lossy(&self.tail);
        let body = text.strip_suffix(STREAM_END).context("the stream ends without [DONE]")?;
        let last = body.trim_end().rsplit("\n\n").next().unwrap_or_default();
        let last =
            last.trim_start().strip_prefix("data: ").context("the last event has no data")?;
        let Chunk { usage } = serde_json::from_str(last).context("the stream has no usage")?;
        let n_expected = u64::from(usage.completion_tokens) + N_CLOSING_EVENTS;
        let n_events = self.n_blank;
        ensure!(n_events == n_expected, "{n_events} events arrived in place of {n_expected}");
        Ok(Whole {
            first: self.first.unwrap_or_default(),
            last: self.last,
            prompt_tokens: usage.prompt_tokens,
            cached_tokens: usage.prompt_tokens_details.unwrap_or_default().cached_tokens,
            output_tokens: usage.completion_tokens,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STREAM: &str = "data: {\"choices\":[{\"text\":\"a \"}]}\n\n\
        data: {\"choices\":[{\"text\":\"b\"}]}\n\n\
        data: {\"choices\":[],\"usage\":{\"prompt_tokens\":9,\"completion_tokens\":2,\
        \"prompt_tokens_details\":{\"cached_tokens\":4}}}\n\n\
        data: [DONE]\n\n";

    fn read(stream: &str, piece: usize) -> Result<Whole> {
        let mut events = Events::default();
        for (nth, piece) in stream.as_bytes().chunks(piece).enumerate() {
            events.take(piece, Duration::from_secs(nth as u64 + 1));
        }
        events.finish()
    }

    #[test]
    fn a_stream_is_read_in_pieces_of_any_size() {
        for piece in [1, 2, 3, 7, 40, 1000] {
            let whole = read(STREAM, piece).unwrap();
            let n_pieces = STREAM.len().div_ceil(piece) as u64;
            assert_eq!(
                whole,
                Whole {
                    first: Duration::from_secs(1),
                    last: Duration::from_secs(n_pieces),
                    prompt_tokens: 9,
                    cached_tokens: 4,
                    output_tokens: 2,
                },
                "{piece}"
            );
        }
    }

    #[test]
    fn what_is_missing_is_named() {
        let lost = STREAM.replacen("data: {\"choices\":[{\"text\":\"b\"}]}\n\n", "", 1);
        for (stream, expected) in [
            (&STREAM[..STREAM.len() - 2], "without [DONE]"),
            ("data: {\"choices\":[]}\n\ndata: [DONE]\n\n", "no usage"),
            ("data: [DONE]\n\n", "no data"),
            (&lost, "3 events arrived in place of 4"),
        ] {
            let error = read(stream, 5).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
