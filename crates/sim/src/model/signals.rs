//! What an engine shows of itself.

use super::adapters::AdapterId;

/// Totals since the engine started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Forward passes.
    pub steps: u64,
    /// Prompt tokens of requests whose prefill is done.
    pub prompt_tokens: u64,
    /// Of these, tokens that came from the prefix cache.
    pub cached_prompt_tokens: u64,
    /// Prompt tokens that were computed, again after a preemption too.
    pub computed_prompt_tokens: u64,
    pub generation_tokens: u64,
    /// Tokens looked up in the prefix cache.
    pub prefix_cache_queries: u64,
    /// Tokens found there.
    pub prefix_cache_hits: u64,
    pub preemptions: u64,
    pub finished_stop: u64,
    pub finished_length: u64,
    pub cancelled: u64,
    pub refused: u64,
    /// Blocks that became findable, and blocks whose content gave way to another.
    pub blocks_stored: u64,
    pub blocks_evicted: u64,
}

/// The state of an engine at the stamp to which it was last advanced.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EngineSignals {
    pub running: u32,
    pub waiting: u32,
    /// Of the waiting ones, those that only wait for an adapter slot.
    pub waiting_for_adapter: u32,
    pub kv_used_blocks: u32,
    pub kv_blocks: u32,
    /// Adapters of running requests, in ascending order.
    pub running_adapters: Vec<AdapterId>,
    /// Adapters of waiting requests, in ascending order.
    pub waiting_adapters: Vec<AdapterId>,
    pub counters: Counters,
}

impl EngineSignals {
    /// Share of KV blocks in use, 0 to 1.
    pub fn kv_usage(&self) -> f64 {
        if self.kv_blocks == 0 {
            0.0
        } else {
            f64::from(self.kv_used_blocks) / f64::from(self.kv_blocks)
        }
    }
}
