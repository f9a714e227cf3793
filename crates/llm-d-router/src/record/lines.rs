//! Lines of a recording, made of what the engine recorded.

use std::collections::{HashMap, HashSet};

use router_core::{LoraSignals, Signals, Stamp};
use router_engine::record::{Ended, Entry, Event, Refused, RequestNote};
use router_framework::{EndCause, keys::HashedPrompts};
use router_sim::replay::{
    read::MAX_TOKENS,
    recording::{Input, InputLine, ObservedRow, RefusedRow, Row},
};
use serde::Serialize;

use super::anonymous::{Anonymous, Kind};

mod inputs;

/// What the first line says of blocks; requests that have others say so.
pub(super) const BLOCK_TOKENS: u32 = 64;
/// Names of adapters that are known; of more, some are taken for models.
const MAX_ADAPTERS: usize = 10_000;
/// What stands for answers that no status tells of, as in the logs of common proxies.
const CLIENT_CLOSED: u16 = 499;
const BROKE: u16 = 502;
const EVICTED: u16 = 429;

pub(super) struct Lines {
    anonymous: Anonymous,
    has_inputs: bool,
    /// Signals of each endpoint as they were written last.
    shown: HashMap<(u32, std::sync::Arc<str>), (Signals, LoraSignals)>,
    adapters: HashSet<String>,
    /// Time of what came last.
    at: Stamp,
    made: Vec<u8>,
}

impl Lines {
    pub(super) fn new(anonymous: Anonymous, has_inputs: bool) -> Self {
        Self {
            anonymous,
            has_inputs,
            shown: HashMap::new(),
            adapters: HashSet::new(),
            at: Stamp::ORIGIN,
            made: Vec::new(),
        }
    }

    /// Lines that have been made and not been cleared, each with its end.
    pub(super) fn made(&self) -> &[u8] {
        &self.made
    }

    pub(super) fn clear(&mut self) {
        self.made.clear();
    }

    /// Makes the lines of what happened.
    pub(super) fn add(&mut self, entry: &Entry) {
        self.at = entry.at;
        if self.has_inputs
            && let Some(input) = self.input(entry)
        {
            self.put_input(input, entry.at, entry.router);
        }
        match &entry.event {
            Event::Ended(ended) => {
                let row = self.ended(ended, entry.at);
                self.put(&row);
            }
            Event::Refused(refused) => {
                let row = self.refused(refused, entry.at);
                self.put(&row);
            }
            Event::Configured(_)
            | Event::Members(_)
            | Event::Scraped { .. }
            | Event::Decided(_)
            | Event::Failed { .. }
            | Event::Head { .. }
            | Event::FirstByte { .. } => {}
        }
    }

    /// So many lines are missing from here on.
    pub(super) fn gap(&mut self, lines: u64) {
        // What was written of an endpoint may not be what it was last.
        self.shown.clear();
        if self.has_inputs {
            self.put_input(Input::Gap { lines }, self.at, 0);
        }
    }

    fn put_input(&mut self, input: Input, at: Stamp, router: u32) {
        self.put(&InputLine { input, t: at.as_nanos(), router });
    }

    fn put(&mut self, line: &impl Serialize) {
        let before = self.made.len();
        match serde_json::to_writer(&mut self.made, line) {
            Ok(()) => self.made.push(b'\n'),
            // Numbers, strings and lists can be written; half a line would be worse than none.
            Err(_) => self.made.truncate(before),
        }
    }

    fn row(&self, request: &RequestNote, output_tokens: u32) -> Row {
        let prompt_tokens = tokens(request.n_prompt_tokens);
        let (block_tokens, blocks) = self.blocks(request.blocks.as_deref(), prompt_tokens);
        let model = (!request.model.is_empty()).then(|| self.model(&request.model));
        Row {
            at: Some(seconds(request.received)),
            prompt_tokens,
            output_tokens,
            block_tokens: (block_tokens != BLOCK_TOKENS).then_some(u64::from(block_tokens)),
            blocks,
            tenant: request.fairness_id.as_deref().map(|id| self.anonymous.name(Kind::Tenant, id)),
            priority: request.priority,
            lora: model.clone().filter(|model| self.adapters.contains(model)),
            model,
            stream: (!request.streams).then_some(false),
            max_tokens: request.max_output_tokens.map(tokens),
            prompts: several(request.n_prompts as u64),
            answers: request.n_answers.and_then(several),
            ..Row::default()
        }
    }

    fn refused(&self, refused: &Refused, at: Stamp) -> Row {
        let Refused { request, refusal } = refused;
        let why = refusal.reason.map_or(refusal.code.label(), |reason| reason.as_str());
        let refused = RefusedRow {
            why: why.to_owned(),
            after: at.since(request.received).as_secs_f64(),
            by_flow_control: refusal.by_flow_control,
        };
        Row { refused: Some(refused), ..self.row(request, 0) }
    }

    fn ended(&mut self, ended: &Ended, at: Stamp) -> Row {
        let request = &ended.request;
        if ended.is_adapter && self.adapters.len() < MAX_ADAPTERS {
            let name = self.model(&request.model);
            self.adapters.insert(name);
        }
        // A server that does not say how long its answer was sent about one event for each token.
        let by_events = if request.streams { ended.n_events } else { 0 };
        let usage = ended.usage;
        let counted = usage.map(|usage| usage.completion_tokens).filter(|n_tokens| *n_tokens > 0);
        let output = counted.unwrap_or(by_events);
        let is_streamed = request.streams || ended.n_events > 0;
        let observed = ended.endpoint.as_ref().map(|endpoint| {
            let prompt = usage.map(|usage| tokens(usage.prompt_tokens)).filter(|n| *n > 0);
            let most = prompt.unwrap_or(MAX_TOKENS);
            let cached = usage.and_then(|usage| usage.cached_tokens);
            let since_arrival = |at: Stamp| at.since(request.received).as_secs_f64();
            ObservedRow {
                endpoint: endpoint.to_string(),
                dispatched: Some(since_arrival(ended.dispatched)),
                // The first byte of an answer that comes as a whole says nothing of its first token.
                ttft: ended.first_byte.filter(|_| is_streamed).map(since_arrival),
                e2e: since_arrival(at),
                prompt_tokens: prompt,
                cached_tokens: cached.map(|n_tokens| tokens(n_tokens).min(most)),
                status: status(ended),
            }
        });
        let stream = (!is_streamed).then_some(false);
        Row { observed, stream, ..self.row(request, tokens(output)) }
    }

    fn model(&self, name: &str) -> String {
        self.anonymous.name(Kind::Model, name)
    }

    /// The full blocks of the first prompt, and their size. More than one prompt has no place in a trace.
    fn blocks(&self, hashed: Option<&HashedPrompts>, prompt_tokens: u32) -> (u32, Vec<u64>) {
        let Some(first) = hashed.and_then(|hashed| hashed.prompts.first()) else {
            return (BLOCK_TOKENS, Vec::new());
        };
        let n_tokens = first.n_tokens.min(prompt_tokens as usize);
        let n_full = n_tokens / (first.block_tokens as usize).max(1);
        let full = first.hashes.get(..n_full).unwrap_or(&first.hashes);
        (first.block_tokens, full.iter().map(|hash| self.anonymous.block(*hash)).collect())
    }
}

fn status(ended: &Ended) -> u16 {
    let status = ended.status.map(|status| status.as_u16());
    let broke = match ended.cause {
        EndCause::Natural => return status.unwrap_or(BROKE),
        EndCause::ClientDisconnect => CLIENT_CLOSED,
        EndCause::Evicted => EVICTED,
        EndCause::Error => BROKE,
    };
    status.filter(|status| *status >= 400).unwrap_or(broke)
}

/// What is only written where it is more than one. The product of two such numbers stays within its bound.
fn several(n: u64) -> Option<u64> {
    (n > 1).then_some(n.min(u64::from(u16::MAX)))
}

fn tokens(n_tokens: u64) -> u32 {
    n_tokens.min(u64::from(MAX_TOKENS)) as u32
}

fn seconds(at: Stamp) -> f64 {
    at.as_nanos() as f64 / 1e9
}
