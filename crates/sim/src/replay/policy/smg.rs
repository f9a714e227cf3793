//! `baseline-smg-scorer`: the best match while loads are even, else the shortest drain time.
//!
//! The `cache_aware` policy of the SGLang model gateway (SMG) over its `least_load` scores, with its defaults:
//!
//! 1. Loads are uneven when requests in flight differ by more than `balanceAbs` and by more than a factor of
//!    `balanceRel`. Then the shortest expected wait wins.
//! 2. Otherwise, if more than `cacheThreshold` of the prompt is cached somewhere, the endpoints with the longest
//!    match are in question, and the shortest expected wait among them wins.
//! 3. Otherwise the shortest expected wait wins.
//!
//! ```text
//! wait = (tokens that wait there + tokens sent since its last report) / throughput + kvWeight × k / (1 − k)
//! ```
//!
//! k is the share of KV cache in use. Servers that report requests that wait, and not their tokens, are taken to
//! have `meanPrefillTokens` for each. An endpoint without a fresh report is taken to be as good as the best that
//! has one, plus its requests in flight; where none has one, requests in flight decide.
//!
//! SMG polls every 10 s and takes the throughput that a server reports; ours report none, so that its fallback
//! counts.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use router_core::{
    Column, Endpoint, EndpointSlot, Position, Rejection, Signals, header::HeadPatch,
};
use router_framework::{
    BuildCx, BuildError, Instance, Lease, Outcome, PluginDef, PreRequest, Read, RequestCx, Role,
    Scorer,
    keys::{IN_FLIGHT, InFlightLoad, PREFIX_MATCH, PrefixMatch, TOKENIZED_PROMPT, TokenizedPrompt},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::cost;

pub const PLUGIN: PluginDef = PluginDef::new::<Params>(
    "baseline-smg-scorer",
    &[Role::Scorer, Role::PreRequest],
    file!(),
    build,
);

/// Parameters of `baseline-smg-scorer`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct Params {
    /// Share of the prompt above which a match counts.
    pub cache_threshold: f64,
    /// Difference of requests in flight above which loads may be uneven.
    pub balance_abs: f64,
    /// Factor between requests in flight above which loads may be uneven.
    pub balance_rel: f64,
    /// Tokens a second at which an endpoint works its queue off.
    pub throughput: f64,
    /// Seconds that a KV cache in use is worth.
    pub kv_weight: f64,
    /// Tokens of a request of which none are known.
    pub mean_prefill_tokens: f64,
}

impl Default for Params {
    fn default() -> Self {
        Self {
            cache_threshold: 0.3,
            balance_abs: 64.0,
            balance_rel: 1.5,
            throughput: 2_000.0,
            kv_weight: 0.15,
            mean_prefill_tokens: 1_024.0,
        }
    }
}

/// The KV cache counts as no fuller than this, so that the wait stays finite.
const MAX_KV_SHARE: f64 = 0.999;

struct Smg {
    params: Params,
    load: EndpointSlot<InFlightLoad>,
    matches: Read<Column<PrefixMatch>>,
    tokens: Read<TokenizedPrompt>,
    sent: EndpointSlot<SinceReport>,
}

/// Tokens sent to an endpoint since its last report.
#[derive(Debug, Default)]
struct SinceReport {
    /// When that report was taken, in nanoseconds.
    reported_at: AtomicU64,
    tokens: AtomicU64,
}

fn build(cx: &mut BuildCx<'_>) -> Result<Instance, BuildError> {
    let params: Params = cx.params()?;
    if !params.throughput.is_finite() || params.throughput <= 0.0 {
        return Err(BuildError::at("throughput", "must be above 0"));
    }
    cx.reads_signals();
    let scorer = Arc::new(Smg {
        params,
        load: cx.reads_endpoint(&IN_FLIGHT, ""),
        matches: cx.reads(&PREFIX_MATCH, ""),
        tokens: cx.reads(&TOKENIZED_PROMPT, ""),
        sent: cx.endpoint_state(),
    });
    Ok(Instance::new().scorer(Arc::clone(&scorer)).pre_request(scorer))
}

impl SinceReport {
    /// Tokens since that report.
    fn tokens(&self, signals: &Signals) -> u64 {
        let is_same = self.reported_at.load(Ordering::Relaxed) == signals.scraped_at.as_nanos();
        if is_same { self.tokens.load(Ordering::Relaxed) } else { 0 }
    }

    fn add(&self, signals: &Signals, n_tokens: u64) {
        let tokens = self.tokens(signals).saturating_add(n_tokens);
        self.reported_at.store(signals.scraped_at.as_nanos(), Ordering::Relaxed);
        self.tokens.store(tokens, Ordering::Relaxed);
    }
}

impl Smg {
    fn in_flight(&self, cx: &RequestCx<'_>, position: Position) -> f64 {
        let load = cx.endpoint_data(&self.load, position);
        load.map_or(0.0, |load| load.requests().max(0) as f64)
    }

    /// Expected wait on an endpoint, if it has a fresh report.
    fn reported_wait(&self, cx: &RequestCx<'_>, position: Position) -> Option<f64> {
        let signals = cx.signals(position)?;
        let sent = cx.endpoint_data(&self.sent, position)?.tokens(&signals) as f64;
        let known = |value: f64| if value > 0.0 { value } else { 0.0 };
        let waiting = known(signals.waiting) * self.params.mean_prefill_tokens;
        let kv_share = known(signals.kv_usage).min(MAX_KV_SHARE);
        let pressure = self.params.kv_weight * kv_share / (1.0 - kv_share);
        Some((waiting + sent) / self.params.throughput + pressure)
    }

    fn waits(&self, cx: &RequestCx<'_>, positions: &[Position], waits: &mut [f64]) {
        for (&position, wait) in positions.iter().zip(waits.iter_mut()) {
            *wait = self.reported_wait(cx, position).unwrap_or(f64::NAN);
        }
        let best = cost::lowest(waits.iter().copied());
        let (from, per_request) = if best.is_finite() {
            (best, self.params.mean_prefill_tokens / self.params.throughput)
        } else {
            (0.0, 1.0)
        };
        for (&position, wait) in positions.iter().zip(waits).filter(|(_, wait)| wait.is_nan()) {
            *wait = from + self.in_flight(cx, position) * per_request;
        }
    }

    fn is_uneven(&self, cx: &RequestCx<'_>, positions: &[Position]) -> bool {
        let loads = || positions.iter().map(|&position| self.in_flight(cx, position));
        let (min, max) = (cost::lowest(loads()), loads().fold(0.0, f64::max));
        max - min > self.params.balance_abs && max > self.params.balance_rel * min
    }

    fn matched(&self, cx: &RequestCx<'_>, position: Position) -> f64 {
        let found = cx.column(&self.matches, position).filter(|found| found.total_blocks > 0);
        found.map_or(0.0, |found| f64::from(found.matched_blocks) / f64::from(found.total_blocks))
    }
}

impl Scorer for Smg {
    fn score(&self, cx: &RequestCx<'_>, positions: &[Position], out: &mut [f64]) {
        self.waits(cx, positions, out);
        let matches = || positions.iter().map(|&position| self.matched(cx, position));
        let best = matches().fold(0.0, f64::max);
        if best <= self.params.cache_threshold || self.is_uneven(cx, positions) {
            cost::lowest_is_best(out);
            return;
        }
        // Those in question are ahead of all others, by the length of the longest wait.
        let longest = 1.0 + out.iter().copied().fold(0.0, f64::max);
        for (wait, _) in out.iter_mut().zip(matches()).filter(|(_, found)| *found < best) {
            *wait += longest;
        }
        cost::lowest_is_best(out);
    }
}

impl PreRequest for Smg {
    fn pre_request(
        &self,
        cx: &RequestCx<'_>,
        outcome: &Outcome,
        _: &mut HeadPatch,
    ) -> Result<Option<Box<dyn Lease>>, Rejection> {
        let target: Option<&Arc<Endpoint>> = outcome.target(cx);
        if let Some(target) = target
            && let Some(sent) = target.slot(&self.sent)
        {
            let n_tokens = cx.read(&self.tokens).map_or(0, TokenizedPrompt::n_tokens);
            sent.add(&target.signals(), n_tokens);
        }
        // Nothing is given back: the next report says what has become of it.
        Ok(None)
    }
}
