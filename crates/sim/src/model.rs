//! The engine model: what a vLLM-like engine does with requests, as a pure state machine.
//!
//! It knows no HTTP, no runtime, no real time and no text. Time is a [`Stamp`] that the caller hands in,
//! randomness comes from a seed, and prompts are token counts with the ids of their full KV blocks. The same
//! engine therefore stands behind the HTTP simulator and behind a trace replayed in virtual time.
//!
//! One step of the engine is one forward pass, as in vLLM's scheduler: running requests first, each with one
//! token (decode) or with as much of its prompt as the step's token budget leaves (chunked prefill), then
//! waiting requests in order of arrival as long as batch slots, budget, adapter slots and KV blocks last. A
//! running request that finds no block preempts the youngest one, which starts over later. How long the step
//! takes follows from what is in it ([`Profile`]). Usage, queue lengths and cached tokens follow from that;
//! none of them is configured.
//!
//! Steps in which nothing can change but token counts are taken many at a time (see `run`), with exactly the
//! outcome of taking them one by one.
//!
//! ```
//! use router_core::time::Stamp;
//! use router_sim::model::{Engine, EngineRequest, EventKind, Profile};
//!
//! let mut engine = Engine::new(Profile::default(), 7).unwrap();
//! let mut ends = Vec::new();
//! let mut sink = |event: router_sim::model::Event| {
//!     if let EventKind::Finished(end) = event.kind {
//!         ends.push((event.at, end.output_tokens));
//!     }
//! };
//! engine.submit(Stamp::ORIGIN, EngineRequest::new(100, 20), &mut sink).unwrap();
//! while let Some(at) = engine.next_event() {
//!     engine.advance(at, &mut sink);
//! }
//! assert_eq!(ends.len(), 1);
//! assert_eq!(ends[0].1, 20);
//! ```

mod adapters;
mod clock;
mod engine;
mod fleet;
mod kv;
mod profile;
mod request;
mod run;
mod schedule;
mod signals;
#[cfg(test)]
mod tests;

pub(crate) use self::kv::BlockPool;
pub use self::{
    adapters::AdapterId,
    engine::Engine,
    fleet::Fleet,
    kv::BlockHash,
    profile::{Profile, ProfileError},
    request::{
        EngineRequest, Event, EventKind, FinishReason, Finished, Refusal, RequestId, Timings,
    },
    signals::{Counters, EngineSignals},
};
#[allow(unused_imports, reason = "named in this module's documentation")]
use router_core::time::Stamp;
