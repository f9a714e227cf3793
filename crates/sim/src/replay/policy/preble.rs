//! `baseline-preble-scorer`: exploit a cached majority, else explore by load, eviction and prefill.
//!
//! V. Srivatsa, Z. He, R. Abhyankar, D. Li, Y. Zhang, "Preble: Efficient Distributed Prompt Scheduling for LLM
//! Serving", ICLR 2025 (arXiv 2407.00023), its E2 rule:
//!
//! - exploit, if more of the prompt is cached somewhere than is not: of the endpoints with the longest match, the
//!   one with the lowest load gets the request; if its load is more than `balanceThreshold` times the lowest of
//!   all, the endpoint with that one gets it;
//! - explore otherwise: the lowest sum of load, eviction cost and prefill cost wins.
//!
//! The load is what was sent to an endpoint in the last `windowSeconds`: seconds of prefill for what was not
//! cached, and of decoding for the mean length of answers. The prefill cost is that of this prompt's uncached
//! tokens. The eviction cost is what it takes to compute again what has to go for them, times how often it would
//! be asked for.
//!
//! Simpler than the paper: evicted text is not known by name, so that the share of prompt tokens that hit on the
//! endpoint in the window stands for the hit rate of what goes; prefixes are not copied to a second endpoint when
//! their queue doubles; the order of a server's queue is the server's. The paper leaves the threshold open; its
//! program has 15.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use router_core::{Column, Endpoint, EndpointSlot, Position, Rejection, Stamp, header::HeadPatch};
use router_framework::{
    BuildCx, BuildError, End, Instance, Lease, Outcome, PluginDef, PreRequest, Read, RequestCx,
    Role, Scorer,
    keys::{PREFIX_MATCH, PrefixMatch, TOKENIZED_PROMPT, TokenizedPrompt},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::cost;

pub const PLUGIN: PluginDef = PluginDef::new::<Params>(
    "baseline-preble-scorer",
    &[Role::Scorer, Role::PreRequest],
    file!(),
    build,
);

/// Requests of one endpoint's window, at most; the oldest go first.
const MAX_WINDOW: usize = 1 << 16;
/// Weight of the newest answer in the mean length of answers.
const ANSWER_WEIGHT: f64 = 0.01;

/// Parameters of `baseline-preble-scorer`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct Params {
    /// How far back load counts.
    pub window_seconds: f64,
    /// How many times the lowest load an exploited endpoint's may be.
    pub balance_threshold: f64,
    /// Prompt tokens that an endpoint computes in a second.
    pub prefill_throughput: f64,
    /// Seconds of an endpoint that one token of an answer takes, its share of a step.
    pub decode_token_seconds: f64,
    /// Tokens of an answer, until some have ended.
    pub answer_tokens: f64,
    /// Tokens that an endpoint's KV cache holds, where it does not say so itself.
    pub kv_tokens: f64,
}

impl Default for Params {
    fn default() -> Self {
        Self {
            window_seconds: 180.0,
            balance_threshold: 15.0,
            prefill_throughput: 15_000.0,
            decode_token_seconds: 0.0004,
            answer_tokens: 200.0,
            kv_tokens: 400_000.0,
        }
    }
}

struct Preble {
    params: Params,
    window: Duration,
    matches: Read<Column<PrefixMatch>>,
    tokens: Read<TokenizedPrompt>,
    history: EndpointSlot<History>,
    answers: Arc<MeanAnswer>,
}

/// What was sent to one endpoint.
#[derive(Debug, Default)]
struct History(Mutex<Window>);

#[derive(Debug, Default)]
struct Window {
    requests: VecDeque<Sent>,
    /// Sums over `requests`.
    uncached: u64,
    tokens: u64,
    /// Tokens that the cache holds if nothing is held twice, in all time.
    held: f64,
}

#[derive(Clone, Copy, Debug)]
struct Sent {
    at: Stamp,
    tokens: u64,
    uncached: u64,
}

/// What an endpoint's history means for one request.
#[derive(Clone, Copy, Debug)]
struct Costs {
    load_s: f64,
    eviction_s: f64,
    prefill_s: f64,
    cached: u64,
}

/// Mean length of answers, as bits.
#[derive(Debug)]
struct MeanAnswer(AtomicU64);

fn build(cx: &mut BuildCx<'_>) -> Result<Instance, BuildError> {
    let params: Params = cx.params()?;
    if !params.prefill_throughput.is_finite() || params.prefill_throughput <= 0.0 {
        return Err(BuildError::at("prefillThroughput", "must be above 0"));
    }
    let window = Duration::try_from_secs_f64(params.window_seconds)
        .map_err(|_| BuildError::at("windowSeconds", "must be a length of time"))?;
    cx.reads_signals();
    let scorer = Arc::new(Preble {
        window,
        matches: cx.reads(&PREFIX_MATCH, ""),
        tokens: cx.reads(&TOKENIZED_PROMPT, ""),
        history: cx.endpoint_state(),
        answers: Arc::new(MeanAnswer(AtomicU64::new(params.answer_tokens.to_bits()))),
        params,
    });
    Ok(Instance::new().scorer(Arc::clone(&scorer)).pre_request(scorer))
}

impl Window {
    fn forget(&mut self, now: Stamp, window: Duration) {
        while let Some(oldest) = self.requests.front().copied() {
            if self.requests.len() <= MAX_WINDOW && now.since(oldest.at) <= window {
                break;
            }
            self.requests.pop_front();
            self.tokens -= oldest.tokens;
            self.uncached -= oldest.uncached;
        }
    }

    fn add(&mut self, sent: Sent, capacity: f64) {
        self.requests.push_back(sent);
        self.tokens += sent.tokens;
        self.uncached += sent.uncached;
        self.held = (self.held + sent.uncached as f64).min(capacity);
    }
}

impl MeanAnswer {
    fn get(&self) -> f64 {
        f64::from_bits(self.0.load(Ordering::Relaxed))
    }

    fn observe(&self, n_tokens: u64) {
        let mean = self.get() + ANSWER_WEIGHT * (n_tokens as f64 - self.get());
        self.0.store(mean.to_bits(), Ordering::Relaxed);
    }
}

impl Preble {
    fn n_tokens(&self, cx: &RequestCx<'_>) -> u64 {
        cx.read(&self.tokens).map_or(0, TokenizedPrompt::n_tokens)
    }

    fn uncached(&self, cx: &RequestCx<'_>, position: Position) -> u64 {
        let n_tokens = self.n_tokens(cx);
        let found = cx.column(&self.matches, position);
        found.map_or(n_tokens, |found| found.uncached_tokens(n_tokens))
    }

    /// Tokens that the endpoint's KV cache holds.
    fn capacity(&self, endpoint: &Endpoint) -> f64 {
        let signals = endpoint.signals();
        let reported = signals.n_blocks * signals.block_size;
        if reported > 0.0 { reported } else { self.params.kv_tokens }
    }

    fn costs(&self, cx: &RequestCx<'_>, position: Position) -> Option<Costs> {
        let endpoint = cx.endpoint(position)?;
        let mut window = cx.endpoint_data(&self.history, position)?.0.lock();
        window.forget(cx.now, self.window);
        let uncached = self.uncached(cx, position);
        let prefill_s = |tokens: f64| tokens / self.params.prefill_throughput;
        let n_requests = window.requests.len() as f64;
        let decode_s = n_requests * self.answers.get() * self.params.decode_token_seconds;
        let evicted = (window.held + uncached as f64 - self.capacity(endpoint)).max(0.0);
        let hit_rate = 1.0 - window.uncached as f64 / (window.tokens.max(1) as f64);
        Some(Costs {
            load_s: prefill_s(window.uncached as f64) + decode_s,
            eviction_s: prefill_s(evicted) * hit_rate,
            prefill_s: prefill_s(uncached as f64),
            cached: self.n_tokens(cx).saturating_sub(uncached),
        })
    }
}

impl Scorer for Preble {
    fn score(&self, cx: &RequestCx<'_>, positions: &[Position], out: &mut [f64]) {
        let costs: Vec<_> = positions.iter().map(|&position| self.costs(cx, position)).collect();
        let known = || costs.iter().flatten();
        let most_cached = known().map(|costs| costs.cached).max().unwrap_or_default();
        let exploits = 2 * most_cached > self.n_tokens(cx);
        let best_load = cost::lowest(
            known().filter(|costs| costs.cached == most_cached).map(|costs| costs.load_s),
        );
        let least_load = cost::lowest(known().map(|costs| costs.load_s));
        let is_balanced = best_load <= self.params.balance_threshold * least_load;
        // More than any cost, so that nobody without the prefix is ahead of one that has it.
        let behind = 1.0 + known().map(|costs| costs.load_s).fold(0.0, f64::max);
        for (costs, out) in costs.iter().zip(out.iter_mut()) {
            let Some(costs) = costs else { continue };
            *out = match (exploits, is_balanced) {
                (true, true) if costs.cached == most_cached => costs.load_s,
                (true, true) => costs.load_s + behind,
                (true, false) => costs.load_s,
                (false, _) => costs.load_s + costs.eviction_s + costs.prefill_s,
            };
        }
        cost::lowest_is_best(out);
    }
}

impl PreRequest for Preble {
    fn pre_request(
        &self,
        cx: &RequestCx<'_>,
        outcome: &Outcome,
        _: &mut HeadPatch,
    ) -> Result<Option<Box<dyn Lease>>, Rejection> {
        let target = outcome.primary_run().and_then(|run| run.target());
        if let Some(position) = target
            && let Some(endpoint) = cx.endpoint(position)
            && let Some(history) = endpoint.slot(&self.history)
        {
            let uncached = self.uncached(cx, position);
            let sent = Sent { at: cx.now, tokens: self.n_tokens(cx), uncached };
            history.0.lock().add(sent, self.capacity(endpoint));
        }
        Ok(Some(Box::new(AnswerLength(Arc::clone(&self.answers)))))
    }
}

/// Tells how long the answer was.
struct AnswerLength(Arc<MeanAnswer>);

impl Lease for AnswerLength {
    fn moved(&mut self, _: &Arc<Endpoint>, _: Stamp) {}

    fn end(&mut self, end: &End) {
        if let Some(usage) = end.usage {
            self.0.observe(usage.completion_tokens);
        }
    }
}
