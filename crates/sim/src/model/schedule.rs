//! What goes into the next step.

use super::{
    adapters::AdapterId,
    clock::{self, Picos},
    engine::{Engine, Flight, KvBlocked},
    request::Seq,
};

/// Bounds of the noise factor.
const NOISE_RANGE: (f64, f64) = (0.3, 1.7);
/// Scale that keeps the noise factor an integer, so that one seed gives one outcome on every machine.
const NOISE_SCALE: f64 = 1e6;

/// Why waiting requests stay where they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stall {
    /// Nothing waits, or nothing that a decode step could make room for.
    Settled,
    /// The first one that could run lacks KV blocks.
    NoBlocks,
    /// A request was thrown out in this step: none is let in, but one may be in the next.
    Preempted,
}

/// What a step has to compute.
#[derive(Clone, Copy, Debug, Default)]
struct Load {
    length: Picos,
    n_decoding: u32,
    n_prefilling: u32,
}

impl Engine {
    /// Fills the next step, which begins at the clock. `None` when nothing can run.
    pub(crate) fn schedule(&mut self) -> Option<Flight> {
        let mut budget = self.profile.max_num_batched_tokens;
        let preempted = self.schedule_running(&mut budget);
        let mut extra = 0;
        let stall = if preempted {
            Stall::Preempted
        } else {
            self.schedule_waiting(&mut budget, &mut extra)
        };
        let load = self.load();
        if load.n_decoding + load.n_prefilling == 0 {
            return None;
        }
        let first = self.noisy(load.length + extra);
        let alike = load.n_prefilling == 0 && load.n_decoding as usize == self.running.len();
        let n_steps = if alike && self.jumps && self.profile.step_noise == 0.0 {
            self.n_alike_steps(stall)
        } else {
            1
        };
        let growth = Picos::from(load.n_decoding) * self.costs.decode_context_token;
        Some(Flight { first, growth, n_steps })
    }

    /// Gives running requests their tokens and blocks; true when one had to go.
    fn schedule_running(&mut self, budget: &mut u32) -> bool {
        let mut preempted = false;
        for seq in &mut self.running {
            seq.scheduled = 0;
        }
        let mut idx = 0;
        while idx < self.running.len() && *budget > 0 {
            let seq = &self.running[idx];
            let n_tokens = (seq.known() - seq.computed).min(*budget);
            let until = seq.computed + n_tokens;
            let needed = until.div_ceil(self.profile.block_size) - seq.table.len() as u32;
            if needed > self.pool.n_free() {
                self.preempt_youngest();
                preempted = true;
                continue;
            }
            self.grow(idx, until);
            self.running[idx].scheduled = n_tokens;
            *budget -= n_tokens;
            idx += 1;
        }
        preempted
    }

    /// Throws the youngest running request out; it computes everything again when it comes back.
    fn preempt_youngest(&mut self) {
        if let Some(mut seq) = self.running.pop() {
            self.pool.release(&seq.table);
            seq.table.clear();
            seq.computed = 0;
            seq.scheduled = 0;
            seq.n_preemptions += 1;
            self.counters.preemptions += 1;
            self.waiting.push_front(seq);
        }
    }

    /// Lets waiting requests in, first come first served, except that those without an adapter slot are passed.
    fn schedule_waiting(&mut self, budget: &mut u32, extra: &mut Picos) -> Stall {
        let mut idx = 0;
        while let Some(seq) = self.waiting.get(idx) {
            if *budget == 0 || self.running.len() >= self.profile.max_num_seqs as usize {
                return Stall::Settled;
            }
            if seq.adapter.is_some_and(|adapter| !self.adapter_fits(adapter)) {
                idx += 1;
                continue;
            }
            if !self.has_room(idx) {
                return Stall::NoBlocks;
            }
            self.let_in(idx, budget, extra);
        }
        Stall::Settled
    }

    /// Whether KV blocks are left for all that is known of a waiting request; remembers why not.
    ///
    /// Blocks are only taken chunk by chunk, but a request that could not finish its prefill would only push
    /// others out, or be pushed out (vLLM's `scheduler_reserve_full_isl`). It also makes a refusal last: until a
    /// block is released or the first missing one is stored, nothing that happens can make room. Evicting a
    /// found block costs a free block; storing it again gives back no more than that.
    fn has_room(&mut self, idx: usize) -> bool {
        let Some(seq) = self.waiting.get(idx) else { return false };
        if let Some(blocked) = self.blocked
            && blocked.id == seq.id
            && blocked.n_released == self.pool.n_released()
            && blocked.missing.is_none_or(|hash| !self.pool.contains(hash))
        {
            return false;
        }
        let block_size = self.profile.block_size;
        let hits = self.pool.find(&seq.chain, max_hits(seq, block_size));
        let needed = seq.known().div_ceil(block_size) - hits.n_blocks;
        let fits = needed <= self.pool.n_free() - hits.n_free;
        self.blocked = (!fits).then(|| KvBlocked {
            id: seq.id,
            n_released: self.pool.n_released(),
            missing: seq.chain.get(hits.n_blocks as usize).copied(),
        });
        fits
    }

    /// Moves a waiting request for which there is room into the batch.
    fn let_in(&mut self, idx: usize, budget: &mut u32, extra: &mut Picos) {
        let Some(mut seq) = self.waiting.remove(idx) else { return };
        let block_size = self.profile.block_size;
        let hits = self.pool.find(&seq.chain, max_hits(&seq, block_size));
        for &hash in seq.chain.iter().take(hits.n_blocks as usize) {
            seq.table.extend(self.pool.claim(hash));
        }
        seq.computed = hits.n_blocks * block_size;
        seq.prefill_until = seq.known();
        if seq.cached.is_none() {
            seq.cached = Some(seq.computed);
            self.counters.prefix_cache_queries += u64::from(seq.prompt);
            self.counters.prefix_cache_hits += u64::from(seq.computed);
        }
        seq.admitted.get_or_insert(clock::stamp(self.clock));
        if let Some(adapter) = seq.adapter {
            let running = &self.running;
            let in_use = |known| running.iter().any(|seq| seq.adapter == Some(known));
            if self.adapters.touch(adapter, in_use) {
                *extra += self.costs.lora_load;
            }
        }
        *extra += self.costs.prefill_base;
        let n_tokens = (seq.known() - seq.computed).min(*budget);
        let until = seq.computed + n_tokens;
        seq.scheduled = n_tokens;
        *budget -= n_tokens;
        self.running.push(seq);
        self.grow(self.running.len() - 1, until);
    }

    /// Gives a running request blocks for its first `until` tokens and makes those that fill up findable.
    fn grow(&mut self, idx: usize, until: u32) {
        let block_size = self.profile.block_size;
        let Some(seq) = self.running.get_mut(idx) else { return };
        while (seq.table.len() as u32) < until.div_ceil(block_size) {
            let Some(block) = self.pool.allocate() else { return };
            seq.table.push(block);
        }
        for nth in seq.computed / block_size..until / block_size {
            if let Some(&block) = seq.table.get(nth as usize) {
                self.pool.store(block, seq.chain.get(nth as usize).copied());
            }
        }
    }

    pub(crate) fn adapter_fits(&self, adapter: AdapterId) -> bool {
        let mut others: Vec<AdapterId> = Vec::new();
        for known in self.running.iter().filter_map(|seq| seq.adapter) {
            if known == adapter {
                return true;
            }
            if !others.contains(&known) {
                others.push(known);
            }
        }
        others.len() < self.adapters.capacity()
    }

    fn load(&self) -> Load {
        let costs = &self.costs;
        let mut load = Load { length: costs.step_base, ..Load::default() };
        for seq in self.running.iter().filter(|seq| seq.scheduled > 0) {
            let (n_tokens, before) = (Picos::from(seq.scheduled), Picos::from(seq.computed));
            if seq.in_prefill() {
                let pairs = n_tokens * before + n_tokens * (n_tokens - 1) / 2;
                load.length += n_tokens * costs.prefill_token + pairs * costs.prefill_context_token;
                load.n_prefilling += 1;
            } else {
                load.length += costs.decode_seq + (before + 1) * costs.decode_context_token;
                load.n_decoding += 1;
            }
        }
        load
    }

    fn noisy(&mut self, length: Picos) -> Picos {
        let deviation = self.profile.step_noise;
        if deviation == 0.0 {
            return length;
        }
        // The sum of twelve uniform numbers has variance 1: near enough to a normal one, and the same on every
        // machine, which a logarithm need not be.
        let normal = (0..12).map(|_| self.rng.f64()).sum::<f64>() - 6.0;
        let factor = (1.0 + deviation * normal).clamp(NOISE_RANGE.0, NOISE_RANGE.1);
        length * ((factor * NOISE_SCALE) as Picos) / (NOISE_SCALE as Picos)
    }
}

/// At least one token of what is known must be computed, or there would be nothing to sample from.
fn max_hits(seq: &Seq, block_size: u32) -> u32 {
    (seq.known() - 1) / block_size
}
