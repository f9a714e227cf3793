//! Requests as the engine sees them, and what it tells about them.

use router_core::time::Stamp;

use super::{
    adapters::AdapterId,
    kv::{BlockHash, BlockIdx},
};

/// Names a request of one engine; never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u64);

/// Why an answer ends where it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum FinishReason {
    /// The model ended its turn, or a stop string came up.
    Stop,
    /// The token limit was reached.
    Length,
}

/// What the engine shall compute. The caller decides how long the answer will be: the engine decides when.
#[derive(Clone, Debug, Default)]
pub struct EngineRequest {
    /// Length of the prompt; 0 counts as 1.
    pub prompt_tokens: u32,
    /// Tokens that will be generated. 0 ends the request with its prefill (embeddings, prefill only).
    pub output_tokens: u32,
    /// The reason that the end will give; [`FinishReason::Length`] if the context limit cuts the answer.
    pub finish: Option<FinishReason>,
    /// Ids of the full blocks of prompt and answer, in order. Blocks beyond its end are computed and held,
    /// and kept like others, but cannot be found again.
    pub chain: Box<[BlockHash]>,
    /// The LoRA adapter, if any.
    pub adapter: Option<AdapterId>,
    /// Whether every token is an event of its own. Off, only the first one and the end are, and the engine can
    /// take many steps at once.
    pub token_events: bool,
}

impl EngineRequest {
    /// A request without anything cached, found or streamed.
    pub fn new(prompt_tokens: u32, output_tokens: u32) -> Self {
        Self { prompt_tokens, output_tokens, ..Self::default() }
    }
}

/// Why a request does not enter the engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    #[error("the waiting queue is full ({limit} requests)")]
    QueueFull { limit: u32 },
    #[error("the prompt has {prompt_tokens} tokens, the context limit is {limit}")]
    TooLong { prompt_tokens: u32, limit: u32 },
    #[error("the request needs {needed} KV blocks, the engine has {available}")]
    DoesNotFit { needed: u32, available: u32 },
    #[error("the engine has no LoRA slots")]
    NoAdapterSlots,
}

/// When things happened to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timings {
    pub arrived: Stamp,
    /// When it first entered a batch.
    pub admitted: Stamp,
    /// When its prefill was done: the first token, if it generates any.
    pub first_token: Stamp,
    pub finished: Stamp,
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Finished {
    pub reason: FinishReason,
    pub prompt_tokens: u32,
    /// Prompt tokens that came from the prefix cache when the request first entered a batch.
    pub cached_tokens: u32,
    pub output_tokens: u32,
    /// Times it was thrown out of the batch for lack of KV blocks.
    pub n_preemptions: u32,
    pub timings: Timings,
}

/// What happened to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum EventKind {
    /// The first token is there.
    FirstToken { cached_tokens: u32 },
    /// A later token is there; `n_tokens` in all. Only with [`EngineRequest::token_events`].
    Token { n_tokens: u32 },
    /// The end. The last event of a request; it follows the last token's at the same stamp.
    Finished(Finished),
}

/// Something that happened to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    pub at: Stamp,
    pub id: RequestId,
    pub kind: EventKind,
}

/// A request inside the engine.
#[derive(Debug)]
pub(crate) struct Seq {
    pub(crate) id: RequestId,
    pub(crate) prompt: u32,
    /// Tokens to generate.
    pub(crate) output: u32,
    pub(crate) finish: FinishReason,
    pub(crate) chain: Box<[BlockHash]>,
    pub(crate) adapter: Option<AdapterId>,
    pub(crate) token_events: bool,
    /// Tokens generated so far; they survive preemption.
    pub(crate) generated: u32,
    /// Tokens whose KV is in `table`.
    pub(crate) computed: u32,
    /// Tokens of the step in flight.
    pub(crate) scheduled: u32,
    /// Below this many computed tokens the request is in prefill.
    pub(crate) prefill_until: u32,
    pub(crate) table: Vec<BlockIdx>,
    pub(crate) cached: Option<u32>,
    pub(crate) n_preemptions: u32,
    pub(crate) arrived: Stamp,
    pub(crate) admitted: Option<Stamp>,
    pub(crate) first_token: Option<Stamp>,
}

impl Seq {
    /// Tokens known so far: prompt and what was generated.
    pub(crate) fn known(&self) -> u32 {
        self.prompt + self.generated
    }

    pub(crate) fn in_prefill(&self) -> bool {
        self.computed < self.prefill_until
    }

    pub(crate) fn finished(&self, at: Stamp) -> Finished {
        let admitted = self.admitted.unwrap_or(at);
        Finished {
            reason: self.finish,
            prompt_tokens: self.prompt,
            cached_tokens: self.cached.unwrap_or(0),
            output_tokens: self.generated,
            n_preemptions: self.n_preemptions,
            timings: Timings {
                arrived: self.arrived,
                admitted,
                first_token: self.first_token.unwrap_or(at),
                finished: at,
            },
        }
    }
}
