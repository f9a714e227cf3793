//! The engine: takes requests, lets time pass, tells what happened.

use std::collections::VecDeque;

use router_core::time::Stamp;
use router_rt::Rng;

use super::{
    adapters::{AdapterId, AdapterSlots},
    clock::{self, Limit, Picos},
    kv::{BlockHash, BlockPool},
    profile::{Costs, Profile, ProfileError},
    request::{EngineRequest, Event, EventKind, FinishReason, Refusal, RequestId, Seq},
    run::Crossing,
    signals::{Counters, EngineSignals},
};

/// Where events go. Events come in the order of their stamps; within a step in batch order.
pub(crate) type Sink<'a> = dyn FnMut(Event) + 'a;

/// One simulated engine. See the module documentation for what it does.
///
/// Stamps must not go backwards; an earlier one counts as the latest seen. What the caller does at a stamp
/// ([`submit`](Self::submit), [`cancel`](Self::cancel)) comes before what the engine does at it, so that
/// requests with one stamp share their first step.
#[derive(Debug)]
pub struct Engine {
    pub(crate) profile: Profile,
    pub(crate) costs: Costs,
    pub(crate) rng: Rng,
    /// Where the step in flight began, or where the last one ended.
    pub(crate) clock: Picos,
    pub(crate) flight: Option<Flight>,
    /// The batch, oldest first.
    pub(crate) running: Vec<Seq>,
    pub(crate) waiting: VecDeque<Seq>,
    pub(crate) pool: BlockPool,
    pub(crate) adapters: AdapterSlots,
    pub(crate) counters: Counters,
    pub(crate) blocked: Option<KvBlocked>,
    pub(crate) crossings: Vec<Crossing>,
    pub(crate) jumps: bool,
    latest: Stamp,
    next_id: u64,
}

/// The step that is being computed, and those after it that will be like it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Flight {
    /// Length of the first step.
    pub(crate) first: Picos,
    /// What each further step takes more than the one before.
    pub(crate) growth: Picos,
    /// Steps that are alike, the one in flight included. At least 1.
    pub(crate) n_steps: u32,
}

/// Why the first waiting request that could otherwise run has no room: as long as this holds, it need not be
/// looked at again.
#[derive(Clone, Copy, Debug)]
pub(crate) struct KvBlocked {
    pub(crate) id: RequestId,
    pub(crate) n_released: u64,
    /// The first block of its prompt that is not cached: were it stored, the request would need fewer blocks.
    pub(crate) missing: Option<BlockHash>,
}

impl Engine {
    /// An idle engine. `seed` drives the noise of step lengths, nothing else.
    pub fn new(profile: Profile, seed: u64) -> Result<Self, ProfileError> {
        profile.validate()?;
        Ok(Self {
            costs: Costs::of(&profile),
            rng: Rng::seeded(seed),
            clock: 0,
            flight: None,
            running: Vec::new(),
            waiting: VecDeque::new(),
            pool: BlockPool::new(profile.kv_cache_size, profile.enable_prefix_caching),
            adapters: AdapterSlots::new(profile.max_loras),
            counters: Counters::default(),
            blocked: None,
            crossings: Vec::new(),
            jumps: true,
            latest: Stamp::ORIGIN,
            next_id: 0,
            profile,
        })
    }

    /// Takes every step by itself. The outcome is the same; this is what jumps are checked against.
    pub fn without_jumps(mut self) -> Self {
        self.jumps = false;
        self
    }

    pub fn profile(&self) -> &Profile {
        &self.profile
    }

    /// Puts a request into the waiting queue at `now`. Events that were due before `now` go to `sink`.
    pub fn submit(
        &mut self,
        now: Stamp,
        request: EngineRequest,
        sink: &mut Sink<'_>,
    ) -> Result<RequestId, Refusal> {
        self.catch_up(now, sink);
        let seq = self.admit(request).inspect_err(|_| self.counters.refused += 1)?;
        let id = seq.id;
        if self.flight.is_none() {
            self.clock = self.clock.max(clock::picos(self.latest));
        }
        self.waiting.push_back(seq);
        self.next_id += 1;
        Ok(id)
    }

    /// Takes a request out at `now`, wherever it is; false when the engine does not have it (any more). Its KV
    /// blocks are free at once; the step in flight still takes its time.
    pub fn cancel(&mut self, now: Stamp, id: RequestId, sink: &mut Sink<'_>) -> bool {
        self.catch_up(now, sink);
        if let Some(idx) = self.running.iter().position(|seq| seq.id == id) {
            let seq = self.running.remove(idx);
            self.pool.release(&seq.table);
        } else if let Some(idx) = self.waiting.iter().position(|seq| seq.id == id) {
            self.waiting.remove(idx);
        } else {
            return false;
        }
        self.counters.cancelled += 1;
        true
    }

    /// When the engine next does something that can be seen from outside; `None` when it is idle.
    pub fn next_event(&self) -> Option<Stamp> {
        if let Some(flight) = &self.flight {
            return Some(clock::stamp(self.clock + flight.length(flight.n_steps)));
        }
        self.has_work().then(|| clock::stamp(self.clock))
    }

    /// Lets time pass until `now`.
    pub fn advance(&mut self, now: Stamp, sink: &mut Sink<'_>) {
        self.latest = self.latest.max(now);
        self.run_until(Limit::At(self.latest), sink);
    }

    /// The state as of the last stamp that was handed in.
    pub fn signals(&self) -> EngineSignals {
        EngineSignals {
            running: self.running.len() as u32,
            waiting: self.waiting.len() as u32,
            waiting_for_adapter: self
                .waiting
                .iter()
                .filter(|seq| seq.adapter.is_some_and(|adapter| !self.adapter_fits(adapter)))
                .count() as u32,
            kv_used_blocks: self.pool.n_blocks() - self.pool.n_free(),
            kv_blocks: self.pool.n_blocks(),
            running_adapters: distinct(self.running.iter()),
            waiting_adapters: distinct(self.waiting.iter()),
            counters: Counters {
                blocks_stored: self.pool.n_stored(),
                blocks_evicted: self.pool.n_evicted(),
                ..self.counters
            },
        }
    }

    /// Leading blocks of `chain` that are cached, of its first `limit`. Nothing counts as used by that.
    pub fn n_cached(&self, chain: &[BlockHash], limit: u32) -> u32 {
        self.pool.find(chain, limit).n_blocks
    }

    /// Whether a block is cached.
    pub fn has_block(&self, hash: BlockHash) -> bool {
        self.pool.contains(hash)
    }

    /// Switches prefix caching, as putting a server to sleep and waking it does; off forgets what was cached.
    pub fn set_prefix_caching(&mut self, now: Stamp, caching: bool, sink: &mut Sink<'_>) {
        self.catch_up(now, sink);
        self.pool.set_caching(caching && self.profile.enable_prefix_caching);
        self.blocked = None;
    }

    /// Makes steps from the next one on cost what `profile` says. Its capacities are not looked at.
    pub fn set_costs(
        &mut self,
        now: Stamp,
        profile: &Profile,
        sink: &mut Sink<'_>,
    ) -> Result<(), ProfileError> {
        profile.validate()?;
        self.catch_up(now, sink);
        self.costs = Costs::of(profile);
        self.profile.take_costs(profile);
        Ok(())
    }

    /// Forgets that an adapter is resident.
    pub fn forget_adapter(&mut self, adapter: AdapterId) {
        self.adapters.forget(adapter);
    }

    fn admit(&self, request: EngineRequest) -> Result<Seq, Refusal> {
        let (profile, prompt) = (&self.profile, request.prompt_tokens.max(1));
        if self.waiting.len() >= profile.max_waiting_queue_length as usize {
            return Err(Refusal::QueueFull { limit: profile.max_waiting_queue_length });
        }
        let limit = profile.max_model_len;
        if prompt > limit || (prompt == limit && request.output_tokens > 0) {
            return Err(Refusal::TooLong { prompt_tokens: prompt, limit });
        }
        if request.adapter.is_some() && self.adapters.capacity() == 0 {
            return Err(Refusal::NoAdapterSlots);
        }
        let output = request.output_tokens.min(limit - prompt);
        // The last token is sampled, never fed back, so it needs no room.
        let needed = (prompt + output.saturating_sub(1)).div_ceil(profile.block_size);
        if needed > self.pool.n_blocks() {
            return Err(Refusal::DoesNotFit { needed, available: self.pool.n_blocks() });
        }
        let cut = output < request.output_tokens;
        Ok(Seq {
            id: RequestId(self.next_id),
            prompt,
            output,
            finish: request.finish.filter(|_| !cut).unwrap_or(FinishReason::Length),
            chain: request.chain,
            adapter: request.adapter,
            token_events: request.token_events,
            generated: 0,
            computed: 0,
            scheduled: 0,
            prefill_until: prompt,
            table: Vec::new(),
            cached: None,
            n_preemptions: 0,
            arrived: self.latest,
            admitted: None,
            first_token: None,
        })
    }

    /// Everything before `now`, and no planning beyond the step in flight: what follows may change the plan.
    fn catch_up(&mut self, now: Stamp, sink: &mut Sink<'_>) {
        self.latest = self.latest.max(now);
        self.run_until(Limit::Before(self.latest), sink);
        if let Some(flight) = &mut self.flight {
            flight.n_steps = 1;
        }
    }

    fn run_until(&mut self, limit: Limit, sink: &mut Sink<'_>) {
        loop {
            let Some(flight) = self.flight else {
                if !self.has_work() || !limit.reaches(self.clock) {
                    return;
                }
                self.flight = self.schedule();
                if self.flight.is_none() {
                    return;
                }
                continue;
            };
            let end = self.clock + flight.length(flight.n_steps);
            if !limit.reaches(end) {
                let n_done = flight.steps_done(self.clock, limit);
                self.skip_steps(n_done);
                return;
            }
            self.skip_steps(flight.n_steps - 1);
            self.clock = end;
            self.complete_step(sink);
            self.flight = if self.has_work() { self.schedule() } else { None };
        }
    }

    fn has_work(&self) -> bool {
        !self.running.is_empty() || !self.waiting.is_empty()
    }

    /// Accounts for the step that ended at the clock: tokens computed, tokens sampled, requests that are done.
    fn complete_step(&mut self, sink: &mut Sink<'_>) {
        self.flight = None;
        self.counters.steps += 1;
        let at = clock::stamp(self.clock);
        let mut n_done = 0;
        for seq in &mut self.running {
            let n_tokens = std::mem::take(&mut seq.scheduled);
            if n_tokens == 0 {
                continue;
            }
            if seq.in_prefill() {
                self.counters.computed_prompt_tokens += u64::from(n_tokens);
            }
            seq.computed += n_tokens;
            if seq.computed == seq.known() {
                n_done += u32::from(sample(seq, at, &mut self.counters, sink));
            }
        }
        if n_done > 0 {
            let (pool, counters) = (&mut self.pool, &mut self.counters);
            self.running.retain(|seq| {
                let done = is_done(seq);
                if done {
                    pool.release(&seq.table);
                    match seq.finish {
                        FinishReason::Stop => counters.finished_stop += 1,
                        FinishReason::Length => counters.finished_length += 1,
                    }
                }
                !done
            });
        }
    }
}

impl Flight {
    /// Length of the first `n` of the steps.
    pub(crate) fn length(&self, n: u32) -> Picos {
        let n = Picos::from(n);
        n * self.first + self.growth * (n * n.saturating_sub(1) / 2)
    }

    /// How many whole steps end within the limit; less than all of them.
    fn steps_done(&self, began: Picos, limit: Limit) -> u32 {
        let (mut low, mut high) = (0, self.n_steps - 1);
        while low < high {
            let middle = high - (high - low) / 2;
            if limit.reaches(began + self.length(middle)) {
                low = middle
            } else {
                high = middle - 1
            }
        }
        low
    }
}

/// The token at the end of a prefill or decode step; true when the request is done with it.
fn sample(seq: &mut Seq, at: Stamp, counters: &mut Counters, sink: &mut Sink<'_>) -> bool {
    let first = seq.first_token.is_none();
    if first {
        seq.first_token = Some(at);
        counters.prompt_tokens += u64::from(seq.prompt);
        counters.cached_prompt_tokens += u64::from(seq.cached.unwrap_or(0));
    }
    if seq.output > 0 {
        seq.generated += 1;
        counters.generation_tokens += 1;
        let kind = if first {
            Some(EventKind::FirstToken { cached_tokens: seq.cached.unwrap_or(0) })
        } else {
            seq.token_events.then_some(EventKind::Token { n_tokens: seq.generated })
        };
        if let Some(kind) = kind {
            sink(Event { at, id: seq.id, kind });
        }
    }
    let done = is_done(seq);
    if done {
        sink(Event { at, id: seq.id, kind: EventKind::Finished(seq.finished(at)) });
    }
    done
}

fn is_done(seq: &Seq) -> bool {
    seq.first_token.is_some() && seq.generated == seq.output
}

fn distinct<'a>(seqs: impl Iterator<Item = &'a Seq>) -> Vec<AdapterId> {
    let mut adapters: Vec<_> = seqs.filter_map(|seq| seq.adapter).collect();
    adapters.sort_unstable();
    adapters.dedup();
    adapters
}
