//! Several plugins at work on one request after another, with the pick written by the test.
//!
//! A [`Pipeline`] runs producers, scorers and pre-request hooks as the engine does, and hands out the leases,
//! so that what plugins keep from request to request can be tested without an engine.
//!
//! ```text
//! let mut builder = PipelineBuilder::new();
//! builder.plugin(&PRODUCER, "");
//! let mut pipeline = builder.build();
//! pipeline.replace(endpoints(4));
//! let turn = pipeline.begin(completion("m", "a prompt")).await;
//! turn.pick(&[("default", &[2])]).served();
//! ```

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode};
use router_core::{Candidates, Endpoint, EndpointSpec, Pool, Position, Stamp, header::HeadPatch};
use router_framework::{
    DataKey, End, EndCause, Freshness, Instance, Lease, Outcome, ParsedRequest, PluginDef,
    PluginEnv, Produced, ProfileIndex, ProfileRun, PromptInput, Read, Request, RequestCx,
    RequestData, RequestHead, SubsetHint, Usage, Workbench, request::DEFAULT_PATH,
};
use router_rt::{Clock, Offload};
use router_wire::{
    request::{Piece, Prompt},
    text::RawText,
};

/// Builds plugins, in the order in which they shall run.
pub struct PipelineBuilder {
    bench: Workbench,
    plugins: Vec<Instance>,
}

/// Plugins and the pool that they work on.
pub struct Pipeline {
    /// The time of the next request.
    pub now: Stamp,
    /// What tells leases the time.
    clock: Clock,
    pool: Pool,
    plugins: Vec<Instance>,
    n_request_slots: usize,
}

/// One request between its producers and its end.
pub struct Turn {
    pub request: Request,
    candidates: Candidates,
    data: RequestData,
    now: Stamp,
    clock: Clock,
    plugins: Vec<Instance>,
}

/// What the hooks took for one request.
pub struct Leases {
    held: Vec<Box<dyn Lease>>,
    clock: Clock,
}

// === impl PipelineBuilder ===

impl Default for PipelineBuilder {
    fn default() -> Self {
        Self::new()
    }
}

impl PipelineBuilder {
    pub fn new() -> Self {
        let bench = Workbench::new().unwrap_or_else(|error| panic!("no metrics: {error}"));
        Self { bench, plugins: Vec::new() }
    }

    pub fn env(&self) -> PluginEnv {
        self.bench.env().clone()
    }

    /// Where plugins built from here on do long work.
    pub fn offload(&mut self, offload: Offload) {
        self.bench.env_mut().offload = offload;
    }

    /// Builds a plugin named like its type from parameters as YAML or JSON, empty for none.
    pub fn plugin(&mut self, def: &PluginDef, parameters: &str) -> Instance {
        self.named_plugin(def, def.plugin_type, parameters)
    }

    pub fn named_plugin(&mut self, def: &PluginDef, name: &str, parameters: &str) -> Instance {
        match self.bench.plugin(def, name, parameters) {
            Ok(instance) => {
                self.plugins.push(instance.clone());
                instance
            }
            Err(error) => panic!("{name}: {} {error}", error.path),
        }
    }

    /// Reads what a built producer writes; empty for the default producer.
    pub fn reader<T: 'static>(&mut self, key: &DataKey<T>, producer: &str) -> Read<T> {
        self.bench.reader(key, producer)
    }

    pub fn build(mut self) -> Pipeline {
        self.bench.provide_signals();
        let slots = self.bench.resolve().unwrap_or_else(|error| panic!("{error}"));
        Pipeline {
            now: Stamp::ORIGIN + Duration::from_hours(1),
            clock: self.bench.env().clock,
            pool: Pool::new(slots.n_endpoint),
            plugins: self.plugins,
            n_request_slots: slots.n_request,
        }
    }
}

// === impl Pipeline ===

impl Pipeline {
    /// Makes the pool hold exactly these endpoints, and tells the listeners.
    pub fn replace(&self, specs: Vec<EndpointSpec>) {
        let delta = self.pool.replace(specs);
        for listener in self.plugins.iter().filter_map(|plugin| plugin.listener.as_ref()) {
            delta.removed.iter().for_each(|endpoint| listener.removed(endpoint));
            delta.added.iter().for_each(|endpoint| listener.added(endpoint));
        }
    }

    /// The endpoint that came `at`th.
    pub fn endpoint(&self, at: usize) -> Arc<Endpoint> {
        Arc::clone(&self.pool.snapshot().endpoints()[at])
    }

    /// Runs the producers on a request whose candidates are all endpoints. One that fails costs its own
    /// values alone.
    pub async fn begin(&mut self, request: Request) -> Turn {
        let mut turn = Turn {
            request,
            candidates: Candidates::all(self.pool.snapshot()),
            data: RequestData::new(self.n_request_slots),
            now: self.now,
            clock: self.clock,
            plugins: self.plugins.clone(),
        };
        for producer in self.plugins.iter().filter_map(|plugin| plugin.producer.as_ref()) {
            let made = match producer.produce(&turn.cx()) {
                Produced::Ready(made) => made,
                Produced::Later(made) => made.await,
            };
            if let Ok(outputs) = made {
                turn.data.accept(outputs);
            }
        }
        turn
    }
}

// === impl Turn ===

impl Turn {
    /// What plugins see.
    pub fn cx(&self) -> RequestCx<'_> {
        RequestCx {
            request: &self.request,
            candidates: &self.candidates,
            data: &self.data,
            now: self.now,
            freshness: Freshness::new(Duration::from_secs(2), Duration::from_millis(50)),
        }
    }

    /// What a scorer gives all candidates.
    pub fn scores(&self, plugin: &Instance) -> Vec<f64> {
        let all: Vec<_> = self.candidates.positions().collect();
        self.scores_of(&all, plugin)
    }

    /// The same where filters have left only these candidates.
    pub fn scores_of(&self, positions: &[Position], plugin: &Instance) -> Vec<f64> {
        let scorer = plugin.scorer.as_ref().unwrap_or_else(|| panic!("not a scorer"));
        let mut scores = vec![f64::NAN; positions.len()];
        scorer.score(&self.cx(), positions, &mut scores);
        scores
    }

    /// Runs the hooks after these profiles ranked these candidates; the first profile is the primary one,
    /// and one that ranked none did not run.
    pub fn pick(&self, profiles: &[(&str, &[u32])]) -> Leases {
        let all: Vec<_> = self.candidates.positions().collect();
        self.pick_of(&all, profiles)
    }

    /// The same where filters have left only these candidates to the scorers.
    pub fn pick_of(&self, scored: &[Position], profiles: &[(&str, &[u32])]) -> Leases {
        let run = |ranked: &[u32]| ProfileRun {
            ranked: ranked.iter().map(|at| Position(*at)).collect(),
            n_shown: 1,
            scored: scored.iter().map(|position| (*position, 0.0)).collect(),
        };
        let names: Vec<Arc<str>> = profiles.iter().map(|(name, _)| (*name).into()).collect();
        let runs = profiles.iter().map(|(_, ranked)| (!ranked.is_empty()).then(|| run(ranked)));
        let outcome =
            Outcome { names: names.into(), runs: runs.collect(), primary: ProfileIndex(0) };
        let mut patch = HeadPatch::default();
        let mut leases = Vec::new();
        for hook in self.plugins.iter().filter_map(|plugin| plugin.pre_request.as_ref()) {
            match hook.pre_request(&self.cx(), &outcome, &mut patch) {
                Ok(lease) => leases.extend(lease),
                Err(rejection) => panic!("a hook refuses: {rejection}"),
            }
        }
        Leases { held: leases, clock: self.clock }
    }
}

// === impl Leases ===

impl Leases {
    pub fn moved(&mut self, endpoint: &Arc<Endpoint>) {
        let now = self.clock.now();
        self.held.iter_mut().for_each(|lease| lease.moved(endpoint, now));
    }

    pub fn first_byte(&mut self) {
        let now = self.clock.now();
        self.held.iter_mut().for_each(|lease| lease.first_byte(now));
    }

    /// A model server answered well.
    pub fn served(self) {
        self.end(Some(StatusCode::OK));
    }

    /// A model server answered well, and told its token counts.
    pub fn answered(self, usage: Usage) {
        self.ended(Some(StatusCode::OK), Some(usage));
    }

    /// The request ended with this status of a model server; `None` when no response head came.
    pub fn end(self, status: Option<StatusCode>) {
        self.ended(status, None);
    }

    fn ended(mut self, status: Option<StatusCode>, usage: Option<Usage>) {
        let cause = if status.is_some() { EndCause::Natural } else { EndCause::Error };
        let end = End { cause, status, usage, at: Stamp::ORIGIN };
        self.held.iter_mut().for_each(|lease| lease.end(&end));
    }
}

/// Endpoints `default/e0`, `default/e1` and so on, at `10.0.0.1:8000` and onwards.
pub fn endpoints(n: u8) -> Vec<EndpointSpec> {
    let spec = |at: u8| {
        EndpointSpec::new("default", &format!("e{at}"), &format!("10.0.0.{}", at + 1), 8000)
    };
    (0..n).map(spec).collect()
}

/// A completion request for a model with one prompt.
pub fn completion(model: &str, prompt: &str) -> Request {
    let text = RawText::verbatim([Bytes::copy_from_slice(prompt.as_bytes())]);
    let prompts = PromptInput::Prompts(vec![Prompt::Text(vec![Piece::Text(text)])]);
    request(model, ParsedRequest { prompts, ..ParsedRequest::default() })
}

/// A request for a model with a parsed body.
pub fn request(model: &str, parsed: ParsedRequest) -> Request {
    Request {
        id: 1,
        external_id: "request-1".into(),
        head: RequestHead {
            method: Method::POST,
            path_and_query: DEFAULT_PATH.into(),
            headers: HeaderMap::new(),
            subset: SubsetHint::All,
            end_of_stream: false,
            received: Stamp::ORIGIN,
        },
        parsed,
        model: model.into(),
        target_model: model.into(),
        objective: None,
        priority: 0,
        fairness_id: "default-flow".into(),
    }
}
