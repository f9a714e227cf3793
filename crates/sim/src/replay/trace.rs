//! What a replay sends: requests without text, with what decides where they should go.

use std::{sync::Arc, time::Duration};

use router_core::Stamp;

/// The most requests of one trace; bounds the memory of a replay.
pub const MAX_REQUESTS: usize = 4_000_000;

/// Requests of many clients, as block ids and lengths.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Trace {
    /// Tokens of one block of all requests' `chain`.
    pub block_tokens: u32,
    /// A request stands after the one that it waits for; those with a time of their own are ordered by it.
    pub requests: Vec<TraceRequest>,
}

/// One request of a trace.
#[derive(Clone, Debug, PartialEq)]
pub struct TraceRequest {
    pub start: Start,
    /// Ids of the full blocks of the prompt and of the answer after it, in order. Equal ids at the start of two
    /// chains are equal text. What goes beyond the prompt is what a later turn of the session finds cached.
    pub chain: Arc<[u64]>,
    pub prompt_tokens: u32,
    /// Tokens of the answer; 0 for requests that only compute their prompt.
    pub output_tokens: u32,
    /// Who sent it, for fairness.
    pub tenant: Option<Arc<str>>,
    pub priority: i32,
    /// LoRA adapter that it asks for by name.
    pub lora: Option<Arc<str>>,
    /// The answer comes token by token; else all of it comes at its end, and until then the router sees nothing.
    pub streams: bool,
    /// The longest answer that it asks for. How long it is `output_tokens` says; decisions look at this.
    pub max_output_tokens: Option<u32>,
    /// Sequences that a server computes for it: more than one where a recorded request has several prompts or asks
    /// for several answers. Lengths are those of all, and one sequence cannot stand for them.
    pub n_sequences: u32,
    /// What became of it where it was recorded; synthetic and public traces do not know.
    pub observed: Option<Box<Observed>>,
}

/// What a live run showed of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Observed {
    /// `namespace/name` of the endpoint that served it, or was the last to be tried.
    pub endpoint: Arc<str>,
    /// From its arrival until it was sent to that endpoint; `None` where nobody wrote it down.
    pub dispatched: Option<Duration>,
    /// From its arrival to the first piece of its answer's body; `None` when there was none.
    pub ttft: Option<Duration>,
    /// From its arrival to its end.
    pub e2e: Duration,
    /// Tokens of the prompt as the endpoint counted them, where it says so. The request's own count is the
    /// router's, which may be an estimate.
    pub prompt_tokens: Option<u32>,
    /// Those of them that the endpoint had cached, where it says so.
    pub cached_tokens: Option<u32>,
    /// HTTP status of the answer; 499 where the client left before its end, 502 where it broke.
    pub status: u16,
}

impl Observed {
    /// Whether the answer came, and came whole.
    pub fn is_answered(&self) -> bool {
        (200..300).contains(&self.status)
    }
}

/// When a request is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// At a time of its own, from the start of the trace.
    At(Stamp),
    /// So long after another request of the trace (an earlier index) got its last token: the next turn of a
    /// conversation, or what an agent does with a tool's result.
    After { request: u32, think: Duration },
}

impl Trace {
    /// Takes out requests of several sequences, which would be played as one that is as long as all of them, and
    /// says how many they were. None waits for another: only recordings have such requests.
    pub fn leave_out_several(&mut self) -> usize {
        let n_before = self.requests.len();
        let is_own = |request: &TraceRequest| matches!(request.start, Start::At(_));
        if self.requests.iter().all(is_own) {
            self.requests.retain(|request| request.n_sequences <= 1);
        }
        n_before - self.requests.len()
    }

    /// Requests that a server got where they were recorded, and did not answer or not to the end.
    pub fn n_failed(&self) -> usize {
        let observed = self.requests.iter().filter_map(|request| request.observed.as_ref());
        observed.filter(|observed| !observed.is_answered()).count()
    }

    /// Whether it can be played. `Err` says what is wrong and with which request.
    pub fn check(&self) -> Result<(), String> {
        if self.block_tokens == 0 {
            return Err("its blocks have no tokens".to_owned());
        }
        if self.requests.len() > MAX_REQUESTS {
            return Err(format!("it has more than {MAX_REQUESTS} requests"));
        }
        for (at, request) in self.requests.iter().enumerate() {
            if let Start::After { request: before, .. } = request.start
                && before as usize >= at
            {
                return Err(format!(
                    "request {at} waits for request {before}, which is not before it"
                ));
            }
        }
        Ok(())
    }
}
