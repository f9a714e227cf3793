//! What a run came to: the course of every request, in the order of the trace.

use std::{sync::Arc, time::Duration};

use router_core::{ErrorCode, Stamp};

/// One run. Equal runs are equal to the bit.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// One for each request of the trace.
    pub requests: Vec<RequestOutcome>,
    /// Names of the servers; requests name them by index.
    pub servers: Vec<Arc<str>>,
    /// Hash of every decision with its time: where each request was sent, and what was refused.
    pub decisions: u64,
    /// When the last request ended.
    pub ended: Stamp,
}

/// The course of one request. Stamps count from the start of the run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RequestOutcome {
    pub fate: Fate,
    /// The server that had it last.
    pub server: Option<u32>,
    /// When the router got it.
    pub arrived: Stamp,
    /// When its first token came; for one that generates none, when its prompt was computed.
    pub first_token: Option<Stamp>,
    pub ended: Stamp,
    pub prompt_tokens: u32,
    /// Prompt tokens that the server had in its prefix cache.
    pub cached_tokens: u32,
    /// Tokens that were generated.
    pub output_tokens: u32,
    /// Servers that it was sent to.
    pub n_attempts: u32,
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// A server answered to the last token.
    Served,
    /// The router refused it.
    Rejected(ErrorCode),
    /// No server that the router named would take it: their queues were full, or nobody listened.
    Unserved,
    /// The server said that it can never serve it: too long a prompt, or no room for LoRA adapters.
    Invalid,
    /// The server went away in the middle of the answer.
    Broken,
    /// The router did not decide, however long it was waited for.
    Undecided,
}

impl Fate {
    /// What results call it.
    pub fn label(self) -> &'static str {
        match self {
            Self::Served => "served",
            Self::Rejected(code) => code.label(),
            Self::Unserved => "unserved",
            Self::Invalid => "invalid",
            Self::Broken => "broken",
            Self::Undecided => "undecided",
        }
    }
}

impl RequestOutcome {
    /// A request that the router has just got.
    pub(crate) fn arriving(arrived: Stamp, prompt_tokens: u32) -> Self {
        Self {
            fate: Fate::Undecided,
            server: None,
            arrived,
            first_token: None,
            ended: arrived,
            prompt_tokens,
            cached_tokens: 0,
            output_tokens: 0,
            n_attempts: 0,
        }
    }

    /// From its arrival to its first token.
    pub fn ttft(&self) -> Option<Duration> {
        (self.fate == Fate::Served).then_some(self.first_token?.since(self.arrived))
    }

    /// Time per token after the first; `None` where there is no second one.
    pub fn tpot(&self) -> Option<Duration> {
        let n_gaps = self.output_tokens.checked_sub(1).filter(|&n| n > 0)?;
        (self.fate == Fate::Served).then_some(self.ended.since(self.first_token?) / n_gaps)
    }
}
