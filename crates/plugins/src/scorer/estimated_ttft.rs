//! Prefers the endpoint where a request costs the least time, its own and that of the others there. There are no weights to set.
//!
//! For every candidate it predicts, in seconds:
//!
//! ```text
//! first token = fixed time + decode steps in the way + (prompt tokens leased there and not computed yet + uncached tokens of this prompt) / prefill rate
//!             + answers that must end before this one can begin × expected tokens of an answer × decode step / slots
//! imposed     = uncached tokens of this prompt × own share × ((16 × share of busy endpoints + requests behind) / the pool's prefill rate + weight × requests that decode / prefill rate)
//!             + what its answer adds to a decode step × expected tokens of the answer × weight × requests there
//! score       = 1 / (1 + first token + imposed)
//! ```
//!
//! A score of 0.5 therefore means one second, 0.25 three.
//! Costs within 1 % and a millisecond of the lowest get its score: such endpoints share the load.
//!
//! **Decode steps.** A request comes in the middle of a step where anything decodes, and shares the next one: that is one and a half, otherwise one.
//! A second of delay for those whose answers are under way has the weight 0.3: it is spread over the answer.
//! Where steps are longer than 0.1 s, which is the usual goal, the weight grows with the square of their length, up to 1.
//!
//! **Own share.** To compute what another endpoint has cached is a waste if only this conversation has use of it, and an investment if many requests begin like that.
//! Requests are counted by how far into their prompts anything was cached; the count halves in 40 seconds.
//! Of tokens that another endpoint has, 1/(1 + requests counted / endpoints that would have them) is the request's own share; of all others, everything is.
//! The more slots (below) are taken, the more of it is: where few are left, whoever comes waits for a slot, whatever is cached.
//! So it is the more of what takes room in caches was there before and pushed out: all of it from a quarter on, since a copy then costs another beginning its place.
//!
//! **How far a hot prefix spreads.** As many endpoints should have it as would be busy with requests for it for half of their time: each request takes what its own part of the prompt does, and what its answer adds to a decode step × expected tokens of the answer.
//! Their rate is that of the last minute, of the last ten seconds, or since the first of them: the highest.
//! Where streamed answers to them that are under way have become twice as long as expected, what is written of them now counts, if it is more: of answers that differ much in length, the short ones end first.
//! While fewer have it, one without it is charged the copy less what the requests counted, shared among those that would have it, save there against the cheapest that has it.
//! Otherwise another endpoint gets it where one more request would delay those under way, by the weight above, for longer than it takes to compute the prefix.
//! For 40 requests a second with 20,480 tokens in common and answers of 192 tokens, that is so up to 17 simulated H100, or 23 where nothing was learned of them yet.
//! Copies are not taken back, but those that nobody is sent to are dropped by the model server in time.
//!
//! **Requests to come.** Those that come later find the endpoint busy with this one, the more of them the more there is to do: 16 for each endpoint, times the share of endpoints that had prompts to compute when the last 200 or so requests came.
//! Of what many requests begin with they are at least 8, so that a hot prefix spreads no further than it needs.
//!
//! **Requests behind.** Those that come while the prompt waits are delayed by it, and are about as many as wait now.
//! They are taken to be as many, but no more than there would be requests of the mean length in the uncached tokens that wait.
//! They count at the pool's rate: a slow endpoint delays each of them longer, and gets fewer.
//! Of a burst it therefore takes more than it can do in the same time as the others, and these are free earlier for whoever comes next.
//!
//! **Slots.** A model server computes only so many answers at once (vLLM's `max-num-seqs`); who finds no slot waits for an answer to end.
//! How many slots there are shows where first tokens come while others wait, and answers under way stay as many as they were at most.
//! While nothing of that was seen, the term is 0; a number that is passed, or not reached for five minutes, is forgotten, and where answers are all of one length it is not known.
//! Requests that found no slot teach nothing new of the prefill rate, and where slots lack, requests behind are those that would be let in meanwhile.
//!
//! **What is counted.** Tokens are leased when the request is sent and given back with the first byte of the response, or with the request's end, whatever ends it.
//! Tokens count for more after a long context, since they attend to it.
//! What the oldest prompt must have got done since the last sign of life is taken off.
//! Answers that are not streamed show no first token: they count as under way when their prompts must have been computed, or when a later one is.
//! Several answers to one request (`n`, or several prompts) share its prompt and count each while they are under way.
//!
//! **What is learned.** Of the pool the prefill rate, the fixed time, the length of a decode step over the tokens that it attends to, and the length of answers, from the times of good answers; of each endpoint how many times as slow it is in prefill and in decoding.
//! Where the model server says how many tokens a prompt had, that is what the rate is learned from, not what was counted here; while counts are far off, nothing is learned from requests that waited behind others.
//! A request that is sent where other models are under way may wait for the place of an adapter: of what it takes longer than expected, a quarter counts.
//! A single outlier moves little, a lasting change is followed within some twenty answers; the length of answers is a mean over about a hundred.
//! A new endpoint begins as fast as the pool, and one without answers goes back to that: half of the way in five minutes.
//! How often an expected cache hit is one is learned of the pool, where model servers report cached tokens; and how many tokens more than expected are found where most of a prompt is: a conversation's last answer is cached, too, and only the model server knows its tokens.
//! Where the length of an answer is not reported, it is guessed from its time.
//!
//! **What scrapes are for.** Nothing of this needs metrics.
//! Where a scrape is at most a second old, requests that the model server shows beyond those under way from here (of another router, say) are added, and where there are such requests and over 95 % of the KV cache is in use, fewer cache hits are expected.
//! Older scrapes are not looked at.
//! What requests from here push out of a cache is foreseen by the prefix match.
//!
//! It reads the prompt's tokens of `token-producer` and the prefix match, by default of `approx-prefix-cache-producer`; both are added where they are missing.
//!
//! **Where another policy may do better.** Where caches hold what is asked for only just once and servers are busy, each copy pushes out what is wanted next.
//! With 8 servers of 128,000 cached tokens (`kv-cache-size: 8000` in a pool file), `llm-d-router replay --workload shared-prompts --load 0.69 --seeds 8` gives 85 ± 16 % goodput, and with `--config go-default` 99 ± 1 % (commit 4640339); at load 0.66, and with 12,000 blocks, they are alike.
//! Play a [recording](../../record.md) of your own traffic where you are close to that.
//!
//! Use it as the only scorer of a profile: what others add to a time has no unit.
//! Every profile's target is charged with the whole request, so it is not meant for disaggregated serving yet.
//!
//! Metrics: `llm_d_router_estimated_ttft_seconds` (the prediction for the picked endpoint), `llm_d_router_estimated_ttft_error_ratio` (observed over predicted, of streamed answers), `llm_d_router_estimated_prefill_tokens_per_second` and `llm_d_router_estimated_decode_step_seconds` (what was learned, by endpoint).
//!
//! # Example
//!
//! ```yaml
//! plugins:
//! - type: estimated-ttft-scorer
//! schedulingProfiles:
//! - name: default
//!   plugins:
//!   - pluginRef: estimated-ttft-scorer
//! ```

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    ops::RangeInclusive,
    sync::Arc,
};

use router_core::{Column, Endpoint, Position, Rejection, header::HeadPatch};
use router_framework::{
    BuildCx, BuildError, DumpState, EndpointListener, Instance, Lease, Outcome, PluginDef,
    PreRequest, ProfileRun, Read, RequestCx, Role, Scorer,
    keys::{
        HashedPrompts, PREFIX_MATCH, PROMPT_BLOCKS, PrefixMatch, TOKENIZED_PROMPT, TokenizedPrompt,
    },
};
use router_telemetry::router::EstimateMetrics;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use self::{
    account::{Account, MAX_SIGNAL_AGE},
    cost::{Job, Load, Pace},
    fit::Line,
    lease::{EstimateLease, Shared},
    lost::Lost,
    popular::Popular,
    speed::{Demand, Expected, Pool, Speed, Typical},
};
use crate::{producer::known::KnownEndpoints, signal::KvUsage};

mod account;
mod claims;
mod cost;
mod fit;
mod lease;
mod ledger;
mod lost;
mod popular;
mod slots;
mod speed;

pub const PLUGIN: PluginDef = PluginDef::new::<Params>(
    "estimated-ttft-scorer",
    &[Role::Scorer, Role::PreRequest],
    file!(),
    build,
)
.alone("what others add to a time has no unit");

/// Costs that differ by less than this share are equal: below that lies noise, and equal endpoints share the
/// load.
const TIE_SHARE: f64 = 0.01;
/// The same for small costs, in seconds.
const TIE_SECONDS: f64 = 0.001;

/// Where learning begins: the fixed time of a first token, in seconds.
const FIRST_BASE: f64 = 0.005;
/// The same for attended tokens that make a decode step twice as long.
const STEP_TOKENS: f64 = 150_000.0;
/// Answers to one prompt that a request is believed to get, whatever it asks for: as many as OpenAI gives.
const MAX_ANSWERS: u64 = 128;
/// Prompts of one request that are counted as sequences of their own.
const MAX_PROMPTS: usize = 1 << 16;
/// Share of KV blocks in use from which cached prompts that nobody uses begin to be dropped, where others than this
/// router send requests.
const KV_NEARLY_FULL: f64 = 0.95;
/// Share of the expected hits that is lost where all of them are in use. The rest is in use itself.
const KV_FULL_LOSS: f64 = 0.5;

/// Parameters of `estimated-ttft-scorer`. All of them only say where learning begins.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct Params {
    /// Prompt tokens that an endpoint computes in a second, until answers have shown it. From 10 to 10,000,000.
    pub prefill_tokens_per_second: f64,
    /// Seconds that one decode step of a short sequence takes, until answers have shown it. From 0.00001 to 10.
    pub decode_step_seconds: f64,
    /// Tokens of an answer, until answers have shown it. From 1 to 1,000,000.
    pub output_tokens: f64,
    /// Name of the plugin that writes the prefix match. Empty for `approx-prefix-cache-producer`.
    pub prefix_match_info_producer_name: String,
}

impl Default for Params {
    fn default() -> Self {
        Self {
            prefill_tokens_per_second: 15_000.0,
            decode_step_seconds: 0.0075,
            output_tokens: 256.0,
            prefix_match_info_producer_name: String::new(),
        }
    }
}

struct EstimatedTtft {
    tokens: Read<TokenizedPrompt>,
    matches: Read<Column<PrefixMatch>>,
    /// Absent where the prefix match does not come from hashed blocks.
    blocks: Read<Arc<HashedPrompts>>,
    kv_usage: KvUsage,
    known: KnownEndpoints,
    shared: Arc<Shared>,
}

fn build(cx: &mut BuildCx<'_>) -> Result<Instance, BuildError> {
    let params: Params = cx.params()?;
    let in_range = |path: &str, value: f64, range: RangeInclusive<f64>| {
        let refusal = || format!("must be from {} to {}", range.start(), range.end());
        range.contains(&value).then_some(value).ok_or_else(|| BuildError::at(path, refusal()))
    };
    let rate = in_range("prefillTokensPerSecond", params.prefill_tokens_per_second, 10.0..=1e7)?;
    let step = in_range("decodeStepSeconds", params.decode_step_seconds, 1e-5..=10.0)?;
    let output = in_range("outputTokens", params.output_tokens, 1.0..=1e6)?;
    let (name, env) = (cx.name().to_owned(), cx.env().clone());
    let metrics = EstimateMetrics::new(&env.registry, &name)
        .map_err(|error| BuildError::new(error.to_string()))?;
    let start = Speed {
        prefill: Line { base: FIRST_BASE, per_unit: 1.0 / rate },
        step: Line { base: step, per_unit: step / STEP_TOKENS },
    };
    let shared = Shared {
        accounts: cx.endpoint_state(),
        pool: Pool::new(start, output),
        popular: Popular::default(),
        lost: Lost::default(),
        clock: env.clock,
        metrics,
    };
    let scorer = Arc::new(EstimatedTtft {
        tokens: cx.reads(&TOKENIZED_PROMPT, ""),
        matches: cx.reads(&PREFIX_MATCH, &params.prefix_match_info_producer_name),
        blocks: cx.reads_optional(&PROMPT_BLOCKS, &params.prefix_match_info_producer_name),
        kv_usage: KvUsage::new(cx),
        known: KnownEndpoints::default(),
        shared: Arc::new(shared),
    });
    let instance = Instance::new().scorer(Arc::clone(&scorer)).pre_request(Arc::clone(&scorer));
    Ok(instance.listener(Arc::clone(&scorer)).dump(scorer))
}

/// The prompt of a request, and what is known of it on each candidate.
struct Known<'a> {
    n_tokens: u64,
    matches: Option<&'a Column<PrefixMatch>>,
}

/// As much of a prompt as the endpoint that has most of it has cached.
#[derive(Clone, Copy, Debug, Default)]
struct Beginning {
    /// Tokens.
    cached: f64,
    /// Endpoints that have it.
    n_holders: usize,
    /// Blocks.
    n_blocks: u32,
}

/// Equal numbers for equal names.
fn number_of(name: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    name.hash(&mut hasher);
    hasher.finish()
}

impl Known<'_> {
    /// Prompt tokens that the candidate has, as far as is known.
    fn cached(&self, position: Position) -> f64 {
        let found = self.matches.and_then(|matches| matches.get(position));
        let uncached = found.map_or(self.n_tokens, |found| found.uncached_tokens(self.n_tokens));
        // At least one token is computed: the answer begins with what comes out of it.
        self.n_tokens.saturating_sub(uncached.max(1)) as f64
    }

    /// Leading blocks that the candidate has.
    fn blocks(&self, position: Position) -> u32 {
        let found = self.matches.and_then(|matches| matches.get(position));
        found.map_or(0, |found| found.matched_blocks)
    }

    /// What the candidate is expected to have, of which `beginning` is the most that any has.
    fn expected(&self, position: Position, beginning: &Beginning) -> Expected {
        let is_most = beginning.n_blocks > 0 && self.blocks(position) == beginning.n_blocks;
        Expected { tokens: self.cached(position), is_most }
    }

    fn beginning(&self, positions: impl Iterator<Item = Position>) -> Beginning {
        let (mut most, mut n_blocks, mut n_holders) = (None, 0, 0);
        for position in positions {
            let blocks = self.blocks(position);
            if most.is_none() || blocks > n_blocks {
                (most, n_blocks, n_holders) = (Some(position), blocks, 0);
            }
            n_holders += usize::from(blocks == n_blocks);
        }
        let cached = most.map_or(0.0, |position| self.cached(position));
        Beginning { cached, n_holders, n_blocks }
    }
}

impl EstimatedTtft {
    fn known<'a>(&self, cx: &RequestCx<'a>) -> Known<'a> {
        let n_tokens = cx.read(&self.tokens).map_or(0, TokenizedPrompt::n_tokens);
        Known { n_tokens, matches: cx.read(&self.matches) }
    }

    fn job(&self, cx: &RequestCx<'_>, known: &Known<'_>) -> Job {
        let parsed = &cx.request.parsed;
        let cap = parsed.max_output_tokens.map_or(f64::INFINITY, |cap| cap as f64);
        let output = self.shared.pool.typical().output.min(cap);
        let n_copies = parsed.n_answers.unwrap_or(1).clamp(1, MAX_ANSWERS) as u32;
        let n_prompts = cx.read(&self.tokens).map_or(1, |tokens| tokens.prompts.len());
        Job {
            prompt: known.n_tokens as f64,
            cached: 0.0,
            output,
            n_answers: n_copies.saturating_mul(n_prompts.clamp(1, MAX_PROMPTS) as u32),
            n_copies,
            cached_best: 0.0,
            reuses: 0.0,
            model: number_of(&cx.request.target_model),
        }
    }

    /// Hash of the last of so many blocks, where it is known.
    fn hash(&self, cx: &RequestCx<'_>, n_blocks: u32) -> Option<u64> {
        let at = (n_blocks as usize).checked_sub(1)?;
        Some(cx.read(&self.blocks)?.prompts.first()?.hashes.get(at)?.0)
    }

    /// What the request makes the target do, which has so many of the prompt's tokens cached.
    fn demand(
        &self,
        cx: &RequestCx<'_>,
        known: &Known<'_>,
        job: &Job,
        (target, cached): (Position, f64),
    ) -> Demand {
        let prompt = cx.read(&self.blocks).and_then(|blocks| blocks.prompts.first());
        let lost = prompt.map_or(0.0, |prompt| {
            // What a filter has left out has its cache all the same.
            let n_most = cx.candidates.positions().map(|position| known.blocks(position)).max();
            self.shared.lost.add(prompt, known.blocks(target), n_most.unwrap_or(0))
        });
        Demand {
            prompt: job.prompt,
            uncached: Job { cached, ..*job }.effective_tokens(),
            stored: job.prompt - cached + f64::from(job.n_answers) * job.output,
            lost,
        }
    }

    /// Corrects the load by the requests of others that a recent scrape shows, and gives the share of expected
    /// cache hits that they leave room for. What requests from here need is known to the prefix match.
    fn correct(
        &self,
        cx: &RequestCx<'_>,
        endpoint: &Endpoint,
        account: &Account,
        load: &mut Load,
        typical: &Typical,
    ) -> f64 {
        let signals = endpoint.signals();
        let is_recent = cx.now.since(signals.scraped_at) <= MAX_SIGNAL_AGE;
        if !is_recent || !cx.freshness.is_fresh(&signals, cx.now) {
            return 1.0;
        }
        let foreign = account.foreign(cx.now, &signals);
        if foreign <= 0.0 {
            return 1.0;
        }
        load.add_foreign(foreign, signals.waiting, typical);
        let above = self.kv_usage.share(endpoint, &signals) - KV_NEARLY_FULL;
        // NaN is no opinion.
        if above > 0.0 {
            1.0 - KV_FULL_LOSS * (above / (1.0 - KV_NEARLY_FULL)).min(1.0)
        } else {
            1.0
        }
    }
}

impl Scorer for EstimatedTtft {
    fn score(&self, cx: &RequestCx<'_>, positions: &[Position], out: &mut [f64]) {
        let known = self.known(cx);
        let (mut job, common) = (self.job(cx, &known), self.shared.pool.speed());
        let typical = self.shared.pool.typical();
        let beginning = known.beginning(positions.iter().copied());
        let hash = self.hash(cx, beginning.n_blocks);
        let asked = hash.map(|hash| self.shared.popular.asked(hash, cx.now)).unwrap_or_default();
        job.cached_best = beginning.cached * typical.hits;
        job.reuses = asked.count / (beginning.n_holders + 1) as f64;
        let load = |position: Position| {
            let endpoint = cx.endpoint(position)?;
            let account = endpoint.slot(&self.shared.accounts)?;
            let mut load = account.load(cx.now, &common);
            let kept = self.correct(cx, endpoint, account, &mut load, &typical);
            Some((load, kept))
        };
        let (mut pace, mut n_busy) = (Pace::default(), 0);
        for (&position, out) in positions.iter().zip(out.iter_mut()) {
            let Some((load, kept)) = load(position) else { continue };
            n_busy += usize::from(load.pending > 0.0);
            let expected = known.expected(position, &beginning);
            if expected.is_most {
                pace.add(&load);
            }
            let cached = kept * typical.believed(expected, job.prompt);
            let cost = load.cost(&Job { cached, ..job }, &typical).total();
            *out = if cost.is_finite() { cost.max(0.0) } else { f64::MAX };
        }
        self.shared.pool.came(n_busy as f64 / positions.len().max(1) as f64);
        let written = pace.written(asked.n_decoding, asked.age, typical.output);
        if (beginning.n_holders as f64) < job.n_needed(asked.per_second, written, &common) {
            let has_it = |position| known.blocks(position) == beginning.n_blocks;
            let all = || positions.iter().copied().zip(&*out);
            let holders = all().filter(|(position, _)| has_it(*position)).map(|(_, cost)| *cost);
            let elsewhere = holders.fold(f64::INFINITY, f64::min);
            for (&position, out) in positions.iter().zip(out.iter_mut()) {
                let Some((load, _)) = load(position).filter(|_| !has_it(position)) else {
                    continue;
                };
                let with_copy = load.cost(&Job { cached: job.cached_best, ..job }, &typical);
                *out = job.invested(*out, with_copy.total(), elsewhere);
            }
        }
        let best = out.iter().copied().fold(f64::INFINITY, f64::min);
        let tied = best * (1.0 + TIE_SHARE) + TIE_SECONDS;
        for out in out.iter_mut().filter(|cost| !cost.is_nan()) {
            *out = 1.0 / (1.0 + if *out <= tied { best } else { *out });
        }
    }
}

impl PreRequest for EstimatedTtft {
    fn pre_request(
        &self,
        cx: &RequestCx<'_>,
        outcome: &Outcome,
        _: &mut HeadPatch,
    ) -> Result<Option<Box<dyn Lease>>, Rejection> {
        let known = self.known(cx);
        let (job, streams) = (self.job(cx, &known), cx.request.parsed.stream);
        // As when these were scored.
        let scored = outcome.primary_run().map_or(&[][..], |run| &run.scored);
        let beginning = known.beginning(scored.iter().map(|(position, _)| *position));
        let hash = self.hash(cx, beginning.n_blocks);
        if let Some(hash) = hash {
            self.shared.popular.add(hash, cx.now);
        }
        let mut lease = EstimateLease::new(Arc::clone(&self.shared), job, streams, hash);
        for (at, run) in outcome.runs.iter().enumerate() {
            let Some(target) = run.as_ref().and_then(ProfileRun::target) else { continue };
            let Some(endpoint) = cx.endpoint(target) else { continue };
            let cached = known.expected(target, &beginning);
            if at == outcome.primary.0 {
                lease.primary(endpoint, cached, cx.now);
                let cached = self.shared.pool.typical().believed(cached, job.prompt);
                self.shared.pool.sent(self.demand(cx, &known, &job, (target, cached)));
            } else {
                lease.other(endpoint, cached, cx.now);
            }
        }
        let ranked = outcome.primary_run().map(|run| run.ranked.iter().copied());
        for position in ranked.into_iter().flatten().skip(1) {
            if let Some(endpoint) = cx.endpoint(position) {
                lease.fallback(endpoint, known.expected(position, &beginning));
            }
        }
        Ok(Some(Box::new(lease)))
    }
}

impl EndpointListener for EstimatedTtft {
    fn added(&self, endpoint: &Arc<Endpoint>) {
        self.known.add(endpoint);
    }

    fn removed(&self, endpoint: &Arc<Endpoint>) {
        self.known.remove(endpoint);
        let spec = endpoint.spec();
        self.shared.metrics.forget(&spec.name, &spec.namespace);
    }
}

impl DumpState for EstimatedTtft {
    fn dump(&self) -> serde_json::Value {
        let (endpoints, n_endpoints) = self.known.first();
        let (now, common) = (self.shared.clock.now(), self.shared.pool.speed());
        let shown = endpoints.iter().filter_map(|endpoint| {
            let account = endpoint.slot(&self.shared.accounts)?;
            let load = account.load(now, &common);
            Some(serde_json::json!({
                "endpoint": &**endpoint.id(),
                "leasedTokens": account.leased().round(),
                "pendingTokens": load.pending.round(),
                "waiting": load.n_waiting,
                "decoding": load.n_decoding,
                "context": load.context.round(),
                "slots": load.slots.is_finite().then(|| load.slots.round()),
                "prefillTokensPerSecond": (1.0 / load.prefill.per_unit).round(),
                "decodeStepSeconds": load.step(),
            }))
        });
        let typical = self.shared.pool.typical();
        serde_json::json!({
            "outputTokens": typical.output,
            "hitShare": typical.hits,
            "beyondTokens": typical.beyond,
            "lostShare": typical.lost,
            "busyShare": typical.busy,
            "prefillTokensPerSecond": (1.0 / common.prefill.per_unit).round(),
            "decodeStepSeconds": common.step.base,
            "endpoints": n_endpoints,
            "byEndpoint": shown.collect::<Vec<_>>(),
        })
    }
}

#[cfg(test)]
mod tests;
