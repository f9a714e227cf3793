//! What a recording says, as the engine knows it.

use std::{sync::Arc, time::Duration};

use http::{HeaderMap, HeaderValue, Method};
use router_core::{EndpointSpec, LoraSignals, Signals, Stamp, header};
use router_engine::{Again, Settings, settings::HealthSettings};
use router_framework::{
    EndCause, ParsedRequest, PromptInput, RequestHead, SubsetHint, Usage, keys::PromptBlocks,
};

use crate::replay::{
    read::{Fault, MAX_BLOCK_TOKENS, MAX_TOKENS, within},
    recording::{
        self, CauseInput, ConfigurationInput, DecisionInput, Exact, LoraInput, MemberInput,
        SignalsInput, UsageInput,
    },
};

const PATH: &str = "/v1/chat/completions";
/// Stands for whatever the client sent.
const SOME_ID: HeaderValue = HeaderValue::from_static("recorded");
const CACHED_ONLY: HeaderValue = HeaderValue::from_static("if-available");
/// The most endpoints of a pool.
const MAX_MEMBERS: usize = 100_000;

pub(super) fn duration(nanos: u64) -> Duration {
    Duration::from_nanos(nanos)
}

pub(super) fn settings(recorded: &ConfigurationInput) -> Settings {
    let health = &recorded.health;
    Settings {
        pool_name: "reproduce".to_owned(),
        refresh_interval: duration(recorded.refresh_interval),
        staleness_threshold: duration(recorded.staleness_threshold),
        disable_subset_filter: recorded.disable_subset_filter,
        seed: recorded.seed,
        health: HealthSettings {
            enabled: health.enabled,
            base_ejection: duration(health.base_ejection),
            max_ejection: duration(health.max_ejection),
            n_failed_scrapes: health.failed_scrapes,
            n_unavailable: health.unavailable,
        },
        ..Settings::default()
    }
}

pub(super) fn specs(members: Vec<MemberInput>) -> Result<Vec<EndpointSpec>, Fault> {
    within("the number of endpoints", members.len() as u64, 0..=MAX_MEMBERS as u64)?;
    let spec = |member: MemberInput| EndpointSpec {
        labels: Arc::new(member.labels),
        rank: member.rank,
        ..EndpointSpec::new(&member.namespace, &member.name, &member.address, member.port)
    };
    Ok(members.into_iter().map(spec).collect())
}

pub(super) fn signals(signals: &mut Signals, shown: &SignalsInput) {
    let number = |given: Option<Exact>| given.map_or(f64::NAN, |given| given.0);
    signals.waiting = number(shown.waiting);
    signals.running = number(shown.running);
    signals.kv_usage = number(shown.kv_usage);
    signals.block_size = number(shown.block_size);
    signals.n_blocks = number(shown.n_blocks);
}

pub(super) fn lora(lora: LoraInput) -> LoraSignals {
    let LoraInput { active, waiting, max_active } = lora;
    LoraSignals { active, waiting, max_active }
}

pub(super) fn usage(usage: UsageInput) -> Usage {
    Usage {
        prompt_tokens: usage.prompt,
        completion_tokens: usage.completion,
        cached_tokens: usage.cached,
        total_tokens: usage.total,
    }
}

pub(super) fn cause(cause: CauseInput) -> EndCause {
    match cause {
        CauseInput::Natural => EndCause::Natural,
        CauseInput::ClientDisconnect => EndCause::ClientDisconnect,
        CauseInput::Evicted => EndCause::Evicted,
        CauseInput::Error => EndCause::Error,
    }
}

/// A request as the driver hands it over.
pub(super) fn request(decision: &DecisionInput) -> (RequestHead, ParsedRequest, Again) {
    let mut headers = HeaderMap::new();
    if let Some(tenant) = &decision.tenant
        && let Ok(value) = HeaderValue::from_str(tenant)
    {
        headers.insert(header::FAIRNESS_ID, value);
    }
    if decision.has_id {
        headers.insert(header::REQUEST_ID, SOME_ID);
    }
    if decision.cached_only {
        headers.insert(header::PREFER, CACHED_ONLY);
    }
    let head = RequestHead {
        method: Method::POST,
        path_and_query: PATH.into(),
        headers,
        subset: decision.subset.clone().map_or(SubsetHint::All, SubsetHint::Only),
        end_of_stream: false,
        received: Stamp::from_nanos(decision.received),
    };
    let prompts: Vec<PromptBlocks> = decision.prompts.iter().map(blocks).collect();
    let parsed = ParsedRequest {
        model: Some(decision.model.as_str().into()),
        stream: decision.stream,
        max_output_tokens: decision.max_tokens,
        n_answers: decision.answers,
        prompts: match <[PromptBlocks; 1]>::try_from(prompts) {
            Ok([only]) => PromptInput::Blocks(only),
            Err(several) => PromptInput::Batch(several),
        },
        ..ParsedRequest::default()
    };
    (head, parsed, Again { id: decision.id, priority: decision.priority })
}

fn blocks(prompt: &recording::PromptInput) -> PromptBlocks {
    let n_tokens = prompt.tokens.min(u64::from(MAX_TOKENS)) as usize;
    let block_tokens = prompt.block_tokens.clamp(1, MAX_BLOCK_TOKENS);
    PromptBlocks::from_block_ids(&prompt.blocks, block_tokens, n_tokens)
}
