use std::{collections::VecDeque, time::Duration};

use http::StatusCode;
use router_core::{Signals, Stamp};
use router_framework::{
    Request,
    keys::{PromptBlocks, PromptTokens, TokenContent},
};
use router_rt::Rng;
use router_telemetry::metrics::{Format, Registry};
use router_testkit::{
    pipeline::{Leases, Pipeline, PipelineBuilder, Turn, completion, endpoints},
    scheduling::{EndpointFixture, SceneBuilder},
};

use super::{
    account::Answer,
    cost::{COMING, Cost, MAX_LOST, Pace, SEQUENCE_TOKENS, effective_tokens},
    speed::{Hits, Prefill, Sample},
    *,
};
use crate::producer::{approx_prefix_cache, token};

mod cost;
mod foreign;
mod learning;
mod leases;
mod scores;

/// The plugin behind a token producer and a prefix index, on a pool of three endpoints.
struct Bench {
    pipeline: Pipeline,
    plugin: Instance,
    registry: Arc<Registry>,
}

/// Answers whose prompt is not computed, effective tokens of these prompts, answers that are under way.
type State = (u64, u64, u64);

const NONE: State = (0, 0, 0);

fn bench(n_endpoints: u8) -> Bench {
    let mut builder = PipelineBuilder::new();
    builder.plugin(&token::PLUGIN, "");
    builder.plugin(&approx_prefix_cache::PLUGIN, "");
    let plugin = builder.plugin(&PLUGIN, "");
    let registry = builder.env().registry;
    let mut pipeline = builder.build();
    // Not later than the clock by which leases go.
    pipeline.now = Stamp::ORIGIN;
    pipeline.replace(endpoints(n_endpoints));
    Bench { pipeline, plugin, registry }
}

/// A streamed request with a prompt of so many blocks of 64 tokens.
fn streamed(n_blocks: usize) -> Request {
    let mut asked = completion("m", &"x".repeat(n_blocks * 256));
    asked.parsed.stream = true;
    asked
}

impl Bench {
    async fn begin(&mut self, n_blocks: usize) -> Turn {
        self.pipeline.begin(streamed(n_blocks)).await
    }

    /// A request there whose prompt is not computed before it is dropped.
    async fn pending(&mut self, on: Position) -> Leases {
        self.begin(1).await.pick(&[("default", &[on.0])])
    }

    fn state(&self) -> Vec<State> {
        let dump = self.plugin.dump.as_ref().unwrap().dump();
        let number = |value: &serde_json::Value| value.as_f64().unwrap().round() as u64;
        let all = dump["byEndpoint"].as_array().unwrap().iter();
        all.map(|one| {
            (number(&one["waiting"]), number(&one["leasedTokens"]), number(&one["decoding"]))
        })
        .collect()
    }
}

/// A prompt of which only the length is known.
fn prompt_of(n_tokens: usize) -> TokenizedPrompt {
    let blocks = PromptBlocks { block_tokens: 64, hashes: Vec::new(), n_tokens };
    let content = TokenContent::Blocks(blocks);
    let prompt = PromptTokens { n_tokens: n_tokens as u64, content, media: Vec::new() };
    TokenizedPrompt { prompts: vec![prompt], cache_salt: None }
}

fn job(prompt: f64, output: f64) -> Job {
    let (n_answers, n_copies) = (1, 1);
    let (cached, cached_best, reuses, model) = (0.0, 0.0, 0.0, 0);
    Job { prompt, cached, output, n_answers, n_copies, cached_best, reuses, model }
}

/// Requests with so many uncached tokens, and answers of a hundred; half of the endpoints are busy.
fn typical(uncached: f64) -> Typical {
    let (hits, beyond, lost, busy) = (1.0, 0.0, 0.0, 0.5);
    Typical { output: 100.0, prompt: uncached, uncached, hits, beyond, lost, busy }
}

fn hits(expected: f64, found: f64) -> Hits {
    Hits { expected: Expected { tokens: expected, is_most: false }, found }
}

/// What servers say of an answer of so many tokens.
fn said(n_tokens: u64) -> Answer {
    Answer { n_tokens: Some(n_tokens), prompt: None, hits: None }
}

const START: Speed = Speed {
    prefill: Line { base: FIRST_BASE, per_unit: 1.0 / 15_000.0 },
    step: Line { base: 0.0075, per_unit: 0.0075 / STEP_TOKENS },
};
