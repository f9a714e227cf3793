//! Guesses how much of a prompt each endpoint has in its prefix cache, from where earlier prompts were sent.
//!
//! A prompt is cut into blocks of tokens, and each block is hashed with everything before it, with the model that is served and with the cache salt.
//! When a request is sent, its blocks are remembered for the target of every profile.
//! For the next request it counts, for each candidate, the leading blocks that were sent there before.
//! The last block counts even when it is not full.
//!
//! It follows the router's own requests, not the model servers: what a server has got from others is not known here.
//! What a server drops is foreseen as engines do it: blocks of requests under way stay, those of requests that have ended go in the order of their ends, the last block of a prompt first, and answers under way take room for as many tokens as answers have had of late.
//! What an answer has filled stays as long as the end of its prompt, and goes before it.
//! What is remembered is taken back when no model server took the request up, and moves along when the request moves to another endpoint.
//! An endpoint that goes is forgotten at once.
//!
//! **Block size.** With `autoTune` it is the one that most endpoints of the pool report; it changes only when another becomes more common than it.
//! Without `autoTune`, or until an endpoint reports one, it is `blockSizeTokens`.
//! It is never below 64 tokens.
//!
//! **Capacity.** With `autoTune`, as many blocks are remembered for an endpoint as its KV cache holds: engine blocks × engine block size / block size, followed when it changes, at most 1,048,576.
//! For an endpoint that reports none, `lruCapacityPerServer` blocks are remembered, and how many of them are there is learned from answers that say how many tokens of their prompt were cached: of a prefix whose end was missing it is known how much was used since, which is the size of the cache, to about 1 %.
//! What one endpoint has shown is believed of the others, unless they have shown more.
//! Without `autoTune` it is `lruCapacityPerServer`.
//! Requests under way may use up to four times of it, since they may wait in the model server's queue; beyond that, prompts are not remembered.
//!
//! Hashing more than 256 KiB of a prompt is done away from the threads that serve requests.
//!
//! It reads the prompt's tokens, by default of `token-producer`, which is added where it is missing.
//! It writes the prefix match of every candidate and the hashed blocks under its own name.
//! It is added where something needs the prefix match and nobody else writes it.
//!
//! # Example
//!
//! ```yaml
//! plugins:
//! - type: approx-prefix-cache-producer
//!   parameters:
//!     autoTune: false
//!     blockSizeTokens: 64
//!     lruCapacityPerServer: 62500
//! - type: prefix-cache-scorer
//! schedulingProfiles:
//! - name: default
//!   plugins:
//!   - pluginRef: prefix-cache-scorer
//!     weight: 3
//! ```

use std::sync::Arc;

use router_core::{Column, Endpoint, Rejection, header::HeadPatch};
use router_framework::{
    BuildCx, BuildError, DUMP_LIMIT, DataProducer, DumpState, EndpointListener, Instance, Lease,
    Outcome, Outputs, PluginDef, PreRequest, ProduceError, Produced, Read, RequestCx, Role, Write,
    keys::{
        HashedPrompts, PREFIX_MATCH, PROMPT_BLOCKS, PrefixMatch, TOKENIZED_PROMPT, TokenizedPrompt,
    },
};
use router_kvcache::{BYTES_PER_TOKEN, IndexConfig, MatchCounts, PrefixIndex};
use router_rt::Offload;
use router_telemetry::router::PrefixIndexMetrics;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use self::{
    block_size::BlockSize,
    hashing::MaxBlocks,
    holdings::{Holdings, IndexLease},
};

mod answers;
mod block_size;
mod capacity;
mod hashing;
mod holdings;

pub const PLUGIN: PluginDef = PluginDef::new::<Params>(
    "approx-prefix-cache-producer",
    &[Role::DataProducer, Role::PreRequest],
    file!(),
    build,
);

const DEFAULT_BLOCK_TOKENS: i64 = 16;
const DEFAULT_CAPACITY: i64 = 31_250;

/// More bytes than this are hashed away from the runtime's threads.
const MAX_INLINE_BYTES: usize = 256 * 1024;

/// Parameters of `approx-prefix-cache-producer`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct Params {
    /// Whether block size and capacity follow what endpoints report of their KV caches.
    pub auto_tune: bool,
    /// Tokens per block where no endpoint reports it or `autoTune` is off. Above 0 where `autoTune` is off;
    /// at least 64 are used.
    pub block_size_tokens: i64,
    /// Deprecated: stands for `blockSizeTokens` where that is 16.
    pub block_size: i64,
    /// Tokens of each prompt, from its beginning, that are looked at. 0 leaves it to
    /// `maxPrefixBlocksToMatch`.
    pub max_prefix_tokens_to_match: i64,
    /// Deprecated: blocks of each prompt that are looked at where `maxPrefixTokensToMatch` is 0. 0 for all.
    pub max_prefix_blocks_to_match: i64,
    /// Blocks remembered per endpoint where `autoTune` is off, and at most where the endpoint does not report
    /// its KV cache. Zero and below mean the default.
    pub lru_capacity_per_server: i64,
}

impl Default for Params {
    fn default() -> Self {
        Self {
            auto_tune: true,
            block_size_tokens: DEFAULT_BLOCK_TOKENS,
            block_size: 0,
            max_prefix_tokens_to_match: 131_072,
            max_prefix_blocks_to_match: 2048,
            lru_capacity_per_server: DEFAULT_CAPACITY,
        }
    }
}

struct ApproxPrefixCache {
    tokens: Read<TokenizedPrompt>,
    matches: Write<Column<PrefixMatch>>,
    /// This instance's own values, for the hook.
    own_matches: Read<Column<PrefixMatch>>,
    hashed: Write<Arc<HashedPrompts>>,
    own_hashed: Read<Arc<HashedPrompts>>,
    block_size: BlockSize,
    max_blocks: MaxBlocks,
    holdings: Arc<Holdings>,
    offload: Offload,
    metrics: PrefixIndexMetrics,
    /// Keeps the size gauge current.
    _size: router_telemetry::metrics::ScrapeHook,
}

fn build(cx: &mut BuildCx<'_>) -> Result<Instance, BuildError> {
    let params: Params = cx.params()?;
    check(&params)?;
    let capacity = match params.lru_capacity_per_server {
        given if given > 0 => given,
        _ => DEFAULT_CAPACITY,
    };
    let capacity = usize::try_from(capacity).unwrap_or(usize::MAX);
    let (name, env) = (cx.name().to_owned(), cx.env().clone());
    let index = Arc::new(PrefixIndex::new(IndexConfig {
        default_capacity: capacity.min(holdings::MAX_CAPACITY),
        seed: env.seeds.family(&name).seed(),
    }));
    let metrics = PrefixIndexMetrics::new(&env.registry, &name, cx.plugin_type())
        .map_err(|error| BuildError::new(error.to_string()))?;
    let size = {
        let (index, gauge) = (Arc::clone(&index), Arc::clone(&metrics.size));
        env.registry.on_scrape(move || gauge.set(index.len() as f64))
    };
    let matches = cx.writes(&PREFIX_MATCH);
    let hashed = cx.writes(&PROMPT_BLOCKS);
    let producer = Arc::new(ApproxPrefixCache {
        tokens: cx.reads(&TOKENIZED_PROMPT, ""),
        own_matches: cx.reads_optional(&PREFIX_MATCH, &name),
        own_hashed: cx.reads_optional(&PROMPT_BLOCKS, &name),
        matches,
        hashed,
        block_size: BlockSize::new(block_tokens(&params), params.auto_tune),
        max_blocks: MaxBlocks::new(
            params.max_prefix_tokens_to_match,
            params.max_prefix_blocks_to_match,
        ),
        holdings: Arc::new(Holdings::new(index, params.auto_tune, capacity, cx.endpoint_state())),
        offload: env.offload,
        metrics,
        _size: size,
    });
    let instance =
        Instance::new().producer(Arc::clone(&producer)).pre_request(Arc::clone(&producer));
    Ok(instance.listener(Arc::clone(&producer)).dump(producer))
}

fn check(params: &Params) -> Result<(), BuildError> {
    let not_negative = |path, value: i64| {
        if value >= 0 { Ok(()) } else { Err(BuildError::at(path, "must not be negative")) }
    };
    not_negative("maxPrefixTokensToMatch", params.max_prefix_tokens_to_match)?;
    not_negative("maxPrefixBlocksToMatch", params.max_prefix_blocks_to_match)?;
    if !params.auto_tune && block_tokens(params) <= 0 {
        return Err(BuildError::at("blockSizeTokens", "must be above 0 where autoTune is off"));
    }
    Ok(())
}

fn block_tokens(params: &Params) -> i64 {
    let is_default = params.block_size_tokens == DEFAULT_BLOCK_TOKENS;
    if is_default && params.block_size > 0 { params.block_size } else { params.block_size_tokens }
}

impl ApproxPrefixCache {
    /// Looks up what every candidate has of the prompts.
    fn outputs(&self, cx: &RequestCx<'_>, hashed: HashedPrompts) -> Outputs {
        let mut counts = MatchCounts::new(cx.candidates.snapshot().n_slots());
        for prompt in &hashed.prompts {
            self.holdings.index().add_matches(&prompt.hashes, &mut counts);
        }
        let (total_blocks, block_tokens) = (hashed.n_blocks(), hashed.block_tokens());
        let found = |endpoint: &Endpoint| {
            let matched_blocks = counts.get(endpoint.index());
            PrefixMatch {
                matched_blocks,
                total_blocks,
                block_tokens,
                cached_blocks: matched_blocks,
            }
        };
        let column: Column<PrefixMatch> =
            cx.candidates.iter().map(|(_, endpoint)| found(endpoint)).collect();
        let mut outputs = Outputs::of(&self.matches, column);
        outputs.put(&self.hashed, Arc::new(hashed));
        outputs
    }

    fn observe(&self, found: &PrefixMatch) {
        if found.total_blocks > 0 {
            let (matched, total) = (f64::from(found.matched_blocks), f64::from(found.total_blocks));
            self.metrics.hit_ratio.observe(matched / total);
            let block_bytes = f64::from(found.block_tokens) * BYTES_PER_TOKEN as f64;
            self.metrics.hit_bytes.observe(matched * block_bytes);
        }
    }
}

impl DataProducer for ApproxPrefixCache {
    fn produce<'a>(&'a self, cx: &RequestCx<'a>) -> Produced<'a> {
        let Some(tokens) = cx.read(&self.tokens) else {
            return Produced::Ready(Ok(Outputs::default()));
        };
        let block_tokens = self.block_size.current(cx.candidates.snapshot(), cx.now);
        let max_blocks = self.max_blocks.of(block_tokens);
        let is_short = hashing::work_bytes(tokens, block_tokens, max_blocks) <= MAX_INLINE_BYTES;
        let model = &cx.request.target_model;
        if is_short || self.offload.is_inline() {
            let hashed = hashing::hash(tokens, model, block_tokens, max_blocks);
            return Produced::Ready(Ok(self.outputs(cx, hashed)));
        }
        let (cx, tokens, model) = (*cx, tokens.clone(), Arc::clone(model));
        Produced::Later(Box::pin(async move {
            let hash = move || hashing::hash(&tokens, &model, block_tokens, max_blocks);
            let hashed = self.offload.run(hash).await;
            let hashed = hashed.map_err(|error| ProduceError(error.to_string()))?;
            Ok(self.outputs(&cx, hashed))
        }))
    }
}

impl PreRequest for ApproxPrefixCache {
    fn pre_request(
        &self,
        cx: &RequestCx<'_>,
        outcome: &Outcome,
        _: &mut HeadPatch,
    ) -> Result<Option<Box<dyn Lease>>, Rejection> {
        let primary = outcome.primary_run().and_then(router_framework::ProfileRun::target);
        if let Some(found) = primary.and_then(|target| cx.column(&self.own_matches, target)) {
            self.observe(found);
        }
        let Some(hashed) = cx.read(&self.own_hashed).filter(|hashed| hashed.n_blocks() > 0) else {
            return Ok(None);
        };
        let parsed = &cx.request.parsed;
        let cap = parsed.max_output_tokens;
        let output_cap = cap.map(|cap| cap.saturating_mul(parsed.n_answers.unwrap_or(1).max(1)));
        let mut lease = IndexLease::new(Arc::clone(&self.holdings), Arc::clone(hashed), output_cap);
        for (profile, _, endpoint) in outcome.targets(cx) {
            lease.take(endpoint, profile == outcome.primary);
        }
        Ok(Some(Box::new(lease)))
    }
}

impl EndpointListener for ApproxPrefixCache {
    fn added(&self, endpoint: &Arc<Endpoint>) {
        self.holdings.known().add(endpoint);
    }

    fn removed(&self, endpoint: &Arc<Endpoint>) {
        self.holdings.forget(endpoint);
    }
}

impl DumpState for ApproxPrefixCache {
    fn dump(&self) -> serde_json::Value {
        let dump = self.holdings.index().dump(DUMP_LIMIT);
        let endpoints = dump.endpoints.iter().map(|held| {
            let newest = held.newest.iter().map(|hash| format!("{:016x}", hash.0));
            serde_json::json!({
                "endpoint": self.holdings.known().id(held.endpoint).as_deref(),
                "blocks": held.n_blocks,
                "capacity": held.capacity,
                "newest": newest.collect::<Vec<_>>(),
            })
        });
        serde_json::json!({
            "blockSizeTokens": self.block_size.last(),
            "pairs": dump.n_pairs,
            "blocks": dump.n_blocks,
            "bytes": dump.n_bytes,
            "endpoints": dump.n_endpoints,
            "byEndpoint": endpoints.collect::<Vec<_>>(),
        })
    }
}

#[cfg(test)]
mod tests;
