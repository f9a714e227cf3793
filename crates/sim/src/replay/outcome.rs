//! What a run came to: the course of every request, in the order of the trace.

use std::{sync::Arc, time::Duration};

use router_core::{DropReason, ErrorCode, Stamp};

use crate::model::Refusal;

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
    /// What was in its way, of one that was not served and where the fate does not say it all.
    pub obstacle: Option<Obstacle>,
    /// The server that had it last.
    pub server: Option<u32>,
    /// How the server that it was sent to first stood among all.
    pub choice: Option<Choice>,
    /// When the router got it.
    pub arrived: Stamp,
    /// When that server got it.
    pub sent: Option<Stamp>,
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
    /// The run was stopped before it ended, or before it could begin: servers had more to do than they would
    /// ever get done.
    Unfinished,
}

/// What was in the way of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Obstacle {
    /// What the server that it was sent to last said.
    Server(Refusal),
    /// Nobody listened there.
    NobodyListens,
    /// Why the router would not have it.
    Dropped(DropReason),
}

/// How the server that the router chose stood among all members that listened, by what was true at that moment
/// and not by what the router knew. The prefix is what a cache held of the prompt or was just computing, in whole
/// blocks; the load is the number of requests there. A server that shares the first place has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Choice {
    /// It had the longest prefix, longer than others, and no server had fewer requests.
    Both,
    /// It had the longest prefix; another one had fewer requests.
    LongestPrefix,
    /// No server had fewer requests; another one had more of the prompt.
    LeastLoaded,
    /// Another one had more of the prompt, and one had fewer requests.
    Neither,
    /// All servers had as much of the prompt, or as little, and none had fewer requests.
    AlikeLeastLoaded,
    /// All servers had as much of the prompt, or as little; another one had fewer requests.
    AlikeBusier,
    /// There was no other.
    Only,
}

impl Choice {
    /// In the order of results.
    pub const ALL: [Self; 7] = [
        Self::Both,
        Self::LongestPrefix,
        Self::LeastLoaded,
        Self::Neither,
        Self::AlikeLeastLoaded,
        Self::AlikeBusier,
        Self::Only,
    ];

    /// What results call it.
    pub fn label(self) -> &'static str {
        match self {
            Self::Both => "longest_prefix_and_least_loaded",
            Self::LongestPrefix => "longest_prefix",
            Self::LeastLoaded => "least_loaded",
            Self::Neither => "neither",
            Self::AlikeLeastLoaded => "alike_least_loaded",
            Self::AlikeBusier => "alike_busier",
            Self::Only => "only_candidate",
        }
    }
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
            Self::Unfinished => "unfinished",
        }
    }
}

impl RequestOutcome {
    /// A request that the router has just got.
    pub fn arriving(arrived: Stamp, prompt_tokens: u32) -> Self {
        Self {
            fate: Fate::Undecided,
            obstacle: None,
            server: None,
            choice: None,
            arrived,
            sent: None,
            first_token: None,
            ended: arrived,
            prompt_tokens,
            cached_tokens: 0,
            output_tokens: 0,
            n_attempts: 0,
        }
    }

    /// Whether it came to the router before the run was stopped.
    pub fn has_arrived(&self) -> bool {
        self.fate != Fate::Unfinished || self.sent.is_some()
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
