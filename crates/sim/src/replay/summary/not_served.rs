//! Why requests were not served.

use std::collections::BTreeMap;

use router_core::ErrorCode;
use serde::{Serialize, Serializer};

use crate::{
    model::Refusal,
    replay::{
        outcome::{Fate, Obstacle, Outcome, RequestOutcome},
        pool::Pool,
        trace::Trace,
    },
};

/// Requests that were not served for one reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NotServed {
    pub cause: Cause,
    /// The kind of servers that would not take them, where its profile is the reason.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    pub n_requests: usize,
    /// Tokens that the least of them needs and that such a server has, where that is the reason. A cache is counted
    /// in whole blocks.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub tokens: Option<Tokens>,
}

/// What is needed and what there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Tokens {
    pub needed_tokens: u64,
    pub available_tokens: u64,
}

/// What was in the way of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Cause {
    /// Prompt and answer need more KV cache than the server has.
    CacheTooSmall,
    /// The prompt is longer than the model takes.
    PromptTooLong,
    NoAdapterSlots,
    /// The queues of all servers that the router named were full.
    QueuesFull,
    /// Nobody listened where the router sent it.
    NobodyListens,
    /// Its server went away before the first token, and the router named no other.
    NoServerLeft,
    /// Its server went away in the middle of the answer.
    Broken,
    Undecided,
    /// It had not ended when the run was stopped.
    Unfinished,
    /// The router refused it: the value of `x-llm-d-request-dropped-reason`, or the error code where there is none.
    Refused(&'static str),
}

// === impl NotServed ===

impl NotServed {
    /// The reasons of one run, the most frequent first. `outcome` is what became of `trace` on `pool`.
    pub fn of(trace: &Trace, pool: &Pool, outcome: &Outcome) -> Vec<Self> {
        let not_served = outcome.requests.iter().filter_map(|request| {
            let (cause, tokens) = cause(request, trace.block_tokens)?;
            let server = request.server.filter(|_| cause.is_of_a_kind());
            let kind = server.and_then(|at| pool.servers.get(at as usize));
            let kind = kind.map(|server| server.kind.to_string());
            Some(Self { cause, kind, n_requests: 1, tokens })
        });
        Self::together(not_served)
    }

    /// The same reasons of several runs, or of several requests, as one each; the most frequent first.
    pub fn together(all: impl IntoIterator<Item = Self>) -> Vec<Self> {
        let mut by_cause = BTreeMap::<(Cause, Option<String>), Self>::new();
        for one in all {
            let known = by_cause.entry((one.cause, one.kind.clone()));
            let known = known.or_insert_with(|| Self { n_requests: 0, ..one.clone() });
            known.n_requests += one.n_requests;
            if let (Some(known), Some(one)) = (&mut known.tokens, one.tokens) {
                known.needed_tokens = known.needed_tokens.min(one.needed_tokens);
            }
        }
        let mut reasons: Vec<Self> = by_cause.into_values().collect();
        reasons.sort_by_key(|one| std::cmp::Reverse(one.n_requests));
        reasons
    }
}

/// Why it was not served; `None` for one that was.
fn cause(request: &RequestOutcome, block_tokens: u32) -> Option<(Cause, Option<Tokens>)> {
    let tokens = |needed: u32, available: u32, unit: u32| {
        let [needed_tokens, available_tokens] =
            [needed, available].map(|n| u64::from(n) * u64::from(unit));
        Some(Tokens { needed_tokens, available_tokens })
    };
    let cause = match (request.fate, request.obstacle) {
        (Fate::Served, _) => return None,
        (Fate::Rejected(_), Some(Obstacle::Dropped(reason))) => Cause::Refused(reason.as_str()),
        (Fate::Rejected(code), _) => Cause::Refused(ErrorCode::label(code)),
        (Fate::Broken, _) => Cause::Broken,
        (Fate::Undecided, _) => Cause::Undecided,
        (Fate::Unfinished, _) => Cause::Unfinished,
        (Fate::Unserved | Fate::Invalid, Some(Obstacle::Server(refusal))) => match refusal {
            Refusal::QueueFull { .. } => Cause::QueuesFull,
            Refusal::NoAdapterSlots => Cause::NoAdapterSlots,
            Refusal::TooLong { prompt_tokens, limit } => {
                return Some((Cause::PromptTooLong, tokens(prompt_tokens, limit, 1)));
            }
            Refusal::DoesNotFit { needed, available } => {
                return Some((Cause::CacheTooSmall, tokens(needed, available, block_tokens)));
            }
        },
        (Fate::Unserved | Fate::Invalid, Some(Obstacle::NobodyListens)) => Cause::NobodyListens,
        (Fate::Unserved | Fate::Invalid, _) => Cause::NoServerLeft,
    };
    Some((cause, None))
}

// === impl Cause ===

impl Cause {
    /// What results call it.
    pub fn label(self) -> &'static str {
        match self {
            Self::CacheTooSmall => "cache_too_small",
            Self::PromptTooLong => "prompt_too_long",
            Self::NoAdapterSlots => "no_adapter_slots",
            Self::QueuesFull => "queues_full",
            Self::NobodyListens => "nobody_listens",
            Self::NoServerLeft => "no_server_left",
            Self::Broken => "broken",
            Self::Undecided => "undecided",
            Self::Unfinished => "unfinished",
            Self::Refused(reason) => reason,
        }
    }

    /// Whether the profile of the server is the reason.
    fn is_of_a_kind(self) -> bool {
        matches!(self, Self::CacheTooSmall | Self::PromptTooLong | Self::NoAdapterSlots)
    }
}

impl Serialize for Cause {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.label())
    }
}
