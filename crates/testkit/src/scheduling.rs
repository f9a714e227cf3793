//! Builders for tests of plugins of the scheduling cycle: a request, its candidates, signals and columns.
//!
//! A [`SceneBuilder`] builds plugins as the loader does; its [`Scene`] holds what they see. Data that no
//! built plugin writes comes from the [`EndpointFixture`]s.
//!
//! ```text
//! let mut builder = SceneBuilder::new();
//! let plugin = builder.plugin(&PLUGIN, "{threshold: 64}");
//! let waiting = |n| EndpointFixture::new().waiting(n);
//! builder.scene(vec![waiting(0.0), waiting(32.0)]).assert_scores(&plugin, &[0.5, 0.25]);
//! ```

use std::{net::Ipv4Addr, sync::Arc, time::Duration};

use http::{HeaderMap, HeaderName, HeaderValue, Method};
use router_core::{
    Candidates, Column, EndpointSlot, EndpointSpec, LoraSignals, Pool, Position, Signals, Stamp,
};
use router_framework::{
    DataKey, Freshness, Increments, Instance, Outputs, ParsedRequest, PluginDef, PoolView, Read,
    Request, RequestCx, RequestData, RequestHead, Saturation, SubsetHint, Workbench, Write,
    keys::{
        IN_FLIGHT, InFlightLoad, PREFIX_MATCH, PrefixMatch, TOKENIZED_PROMPT, TokenizedPrompt,
        UNCACHED_TOKENS,
    },
    request::DEFAULT_PATH,
};
use router_rt::Rng;

/// Builds plugins, then the scene that they work on.
pub struct SceneBuilder {
    bench: Workbench,
}

/// One candidate: what it is and what is known about it. Without any signal it was never scraped.
#[derive(Clone, Debug, Default)]
pub struct EndpointFixture {
    address: Option<(String, u16)>,
    labels: Vec<(String, String)>,
    signals: Signals,
    lora: LoraSignals,
    is_scraped: bool,
    is_stale: bool,
    in_flight: (i64, i64),
    uncached_tokens: Option<u64>,
    prefix: Option<PrefixMatch>,
}

/// A request with its candidates. Endpoints are called `default/e0`, `default/e1` and so on, and are at
/// `10.0.0.1:8000` and onwards unless told otherwise.
pub struct Scene {
    /// May be changed as a test likes.
    pub request: Request,
    pub now: Stamp,
    pub freshness: Freshness,
    pool: Pool,
    candidates: Candidates,
    fixtures: Vec<EndpointFixture>,
    data: RequestData,
    provided: Provided,
}

/// Handles of the data that the fixtures give, where no built plugin writes it.
struct Provided {
    prefix: Option<Write<Column<PrefixMatch>>>,
    uncached: Option<Write<Column<u64>>>,
    in_flight: Option<EndpointSlot<InFlightLoad>>,
    tokens: Option<Write<TokenizedPrompt>>,
}

/// How old stale signals are; older than any threshold that a test would choose.
const STALE_AGE: Duration = Duration::from_hours(1);

// === impl SceneBuilder ===

impl Default for SceneBuilder {
    fn default() -> Self {
        Self::new()
    }
}

impl SceneBuilder {
    pub fn new() -> Self {
        let bench = Workbench::new().unwrap_or_else(|error| panic!("no metrics: {error}"));
        Self { bench }
    }

    /// Builds a plugin named like its type from parameters as YAML or JSON, empty for none.
    pub fn plugin(&mut self, def: &PluginDef, parameters: &str) -> Instance {
        self.named_plugin(def, def.plugin_type, parameters)
    }

    pub fn named_plugin(&mut self, def: &PluginDef, name: &str, parameters: &str) -> Instance {
        match self.bench.plugin(def, name, parameters) {
            Ok(instance) => instance,
            Err(error) => panic!("{name}: {} {error}", error.path),
        }
    }

    /// Why a plugin refuses these parameters: the path and the message.
    pub fn refusal(def: &PluginDef, parameters: &str) -> String {
        match Self::new().bench.plugin(def, def.plugin_type, parameters) {
            Ok(_) => panic!("{} accepts {parameters}", def.plugin_type),
            Err(error) => format!("{}: {error}", error.path),
        }
    }

    /// Stands in for a producer called `name`; what it wrote is set with [`Scene::put`].
    pub fn producer<T: 'static>(&mut self, key: &DataKey<T>, name: &str) -> Write<T> {
        self.bench.writer(key, name)
    }

    /// Reads what a built producer writes; empty for the default producer.
    pub fn reader<T: 'static>(&mut self, key: &DataKey<T>, producer: &str) -> Read<T> {
        self.bench.reader(key, producer)
    }

    /// The scene with these candidates.
    pub fn scene(mut self, endpoints: Vec<EndpointFixture>) -> Scene {
        self.bench.provide_signals();
        let provided = Provided {
            prefix: self.bench.provide(&PREFIX_MATCH),
            uncached: self.bench.provide(&UNCACHED_TOKENS),
            in_flight: self.bench.provide_endpoint(&IN_FLIGHT),
            tokens: self.bench.provide(&TOKENIZED_PROMPT),
        };
        let slots = self.bench.resolve().unwrap_or_else(|error| panic!("{error}"));
        let pool = Pool::new(slots.n_endpoint);
        let specs = endpoints.iter().enumerate().map(|(at, fixture)| fixture.spec(at));
        pool.replace(specs.collect());
        let mut scene = Scene {
            request: request(),
            now: Stamp::ORIGIN + 10 * STALE_AGE,
            freshness: Freshness::new(Duration::from_secs(2), Duration::from_millis(50)),
            candidates: Candidates::all(pool.snapshot()),
            pool,
            fixtures: endpoints,
            data: RequestData::new(slots.n_request),
            provided,
        };
        (0..scene.fixtures.len()).for_each(|at| scene.apply(at));
        scene.write_columns();
        scene
    }
}

/// A completion request for model `m` without a body.
fn request() -> Request {
    Request {
        id: 1,
        external_id: "request-1".into(),
        head: RequestHead {
            method: Method::POST,
            path_and_query: DEFAULT_PATH.into(),
            headers: HeaderMap::new(),
            subset: SubsetHint::All,
            end_of_stream: false,
            received: Stamp::ORIGIN + 10 * STALE_AGE,
        },
        parsed: ParsedRequest::default(),
        model: "m".into(),
        target_model: "m".into(),
        objective: None,
        priority: 0,
        fairness_id: "default-flow".into(),
    }
}

// === impl EndpointFixture ===

impl EndpointFixture {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn at(mut self, address: &str, port: u16) -> Self {
        self.address = Some((address.to_owned(), port));
        self
    }

    pub fn label(mut self, key: &str, value: &str) -> Self {
        self.labels.push((key.to_owned(), value.to_owned()));
        self
    }

    pub fn waiting(mut self, n_requests: f64) -> Self {
        self.signals.waiting = n_requests;
        self.is_scraped = true;
        self
    }

    pub fn running(mut self, n_requests: f64) -> Self {
        self.signals.running = n_requests;
        self.is_scraped = true;
        self
    }

    /// KV-cache use as the engine exports it.
    pub fn kv(mut self, usage: f64) -> Self {
        self.signals.kv_usage = usage;
        self.is_scraped = true;
        self
    }

    /// Size of the engine's KV cache.
    pub fn blocks(mut self, block_size: f64, n_blocks: f64) -> Self {
        (self.signals.block_size, self.signals.n_blocks) = (block_size, n_blocks);
        self.is_scraped = true;
        self
    }

    pub fn lora(mut self, active: &[&str], waiting: &[&str], max_active: u32) -> Self {
        let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        self.lora = LoraSignals { active: owned(active), waiting: owned(waiting), max_active };
        self.is_scraped = true;
        self
    }

    /// The last scrape is an hour old.
    pub fn stale(mut self) -> Self {
        self.is_stale = true;
        self
    }

    /// What this router has in flight there.
    pub fn in_flight(mut self, requests: i64, tokens: i64) -> Self {
        self.in_flight = (requests, tokens);
        self
    }

    /// Prompt tokens that the endpoint would have to compute for the request.
    pub fn uncached(mut self, n_tokens: u64) -> Self {
        self.uncached_tokens = Some(n_tokens);
        self
    }

    /// What the endpoint has cached of the prompt.
    pub fn prefix(mut self, matched_blocks: u32, total_blocks: u32, block_tokens: u32) -> Self {
        let cached_blocks = matched_blocks;
        self.prefix =
            Some(PrefixMatch { matched_blocks, total_blocks, block_tokens, cached_blocks });
        self
    }

    fn spec(&self, at: usize) -> EndpointSpec {
        let default = || {
            let first = u32::from(Ipv4Addr::new(10, 0, 0, 1));
            (Ipv4Addr::from(first + at as u32).to_string(), 8000)
        };
        let (address, port) = self.address.clone().unwrap_or_else(default);
        EndpointSpec::new("default", &format!("e{at}"), &address, port)
            .with_labels(self.labels.iter().cloned())
    }

    fn signals(&self, now: Stamp) -> Signals {
        let scraped_at = match (self.is_scraped, self.is_stale) {
            (true, true) => now - STALE_AGE,
            (true, false) => now,
            (false, _) => Stamp::ORIGIN,
        };
        Signals { scraped_at, ..self.signals }
    }
}

// === impl Scene ===

impl Scene {
    /// What a plugin sees.
    pub fn cx(&self) -> RequestCx<'_> {
        RequestCx {
            request: &self.request,
            candidates: &self.candidates,
            data: &self.data,
            now: self.now,
            freshness: self.freshness,
        }
    }

    pub fn pool(&self) -> &Pool {
        &self.pool
    }

    /// Sets a header of the request.
    pub fn header(&mut self, name: &str, value: &str) {
        let name = HeaderName::try_from(name).unwrap_or_else(|_| panic!("header name {name:?}"));
        let value =
            HeaderValue::try_from(value).unwrap_or_else(|_| panic!("header value {value:?}"));
        self.request.head.headers.insert(name, value);
    }

    /// Time passes without a scrape.
    pub fn advance(&mut self, time: Duration) {
        self.now = self.now + time;
    }

    /// Gives the endpoint that came `at`th other signals and data; its labels and address stay.
    pub fn change(&mut self, at: usize, fixture: EndpointFixture) {
        self.fixtures[at] = fixture;
        self.apply(at);
        self.write_columns();
    }

    /// Only these endpoints, by the order in which they came, are candidates.
    pub fn keep_only(&mut self, endpoints: &[usize]) {
        let ids: Vec<_> = endpoints.iter().map(|at| format!("default/e{at}")).collect();
        self.candidates = Candidates::filtered(self.pool.snapshot(), |endpoint| {
            ids.iter().any(|id| **id == **endpoint.id())
        });
        self.write_columns();
    }

    /// Sets what a producer wrote.
    pub fn put<T: Send + Sync + 'static>(&mut self, handle: &Write<T>, value: T) {
        self.data.accept(Outputs::of(handle, value));
    }

    /// Takes over what a producer under test returned.
    pub fn accept(&mut self, outputs: Outputs) {
        self.data.accept(outputs);
    }

    /// The prompt's tokens, unless a built plugin writes them.
    pub fn tokens(&mut self, tokens: TokenizedPrompt) {
        if let Some(handle) = self.provided.tokens.clone() {
            self.put(&handle, tokens);
        }
    }

    /// The scores of all candidates.
    pub fn scores(&self, plugin: &Instance) -> Vec<f64> {
        self.scores_of(plugin, &self.positions())
    }

    /// The scores of some candidates.
    pub fn scores_of(&self, plugin: &Instance, positions: &[Position]) -> Vec<f64> {
        let scorer = plugin.scorer.as_ref().unwrap_or_else(|| panic!("not a scorer"));
        let mut scores = vec![f64::NAN; positions.len()];
        scorer.score(&self.cx(), positions, &mut scores);
        scores
    }

    /// Compares the scores of all candidates, bit for bit but for NaN.
    #[track_caller]
    pub fn assert_scores(&self, plugin: &Instance, expected: &[f64]) {
        let scores = self.scores(plugin);
        let same = |(a, b): (&f64, &f64)| a == b || (a.is_nan() && b.is_nan());
        let all_same = scores.len() == expected.len() && scores.iter().zip(expected).all(same);
        assert!(all_same, "scores are {scores:?} instead of {expected:?}");
    }

    /// Positions that a filter keeps of all candidates.
    pub fn kept(&self, plugin: &Instance) -> Vec<u32> {
        let filter = plugin.filter.as_ref().unwrap_or_else(|| panic!("not a filter"));
        let mut positions = self.positions();
        filter.filter(&self.cx(), &mut positions);
        positions.iter().map(|position| position.0).collect()
    }

    #[track_caller]
    pub fn assert_kept(&self, plugin: &Instance, expected: &[u32]) {
        assert_eq!(self.kept(plugin), expected);
    }

    /// What a picker ranks of the candidates with these total scores.
    pub fn pick(&self, plugin: &Instance, totals: &[f64], seed: u64, n_wanted: usize) -> Vec<u32> {
        let picker = plugin.picker.as_ref().unwrap_or_else(|| panic!("not a picker"));
        let scored: Vec<_> = self.candidates.positions().zip(totals.iter().copied()).collect();
        let mut ranked = Default::default();
        picker.pick(&self.cx(), &scored, &mut Rng::seeded(seed), n_wanted, &mut ranked);
        ranked.iter().map(|position| position.0).collect()
    }

    /// How full a detector finds the candidates.
    pub fn saturation(&self, plugin: &Instance) -> Saturation {
        let detector = plugin.detector.as_ref().unwrap_or_else(|| panic!("not a detector"));
        let endpoints: Vec<_> = self.candidates.iter().map(|(_, endpoint)| endpoint).collect();
        let (now, freshness) = (self.now, self.freshness);
        detector.saturation(&PoolView { endpoints: &endpoints, now, freshness })
    }

    /// What a detector adds for requests that the candidates do not show yet.
    pub fn increments(&self, plugin: &Instance) -> Increments {
        let detector = plugin.detector.as_ref().unwrap_or_else(|| panic!("not a detector"));
        let endpoints: Vec<_> = self.candidates.iter().map(|(_, endpoint)| endpoint).collect();
        let (now, freshness) = (self.now, self.freshness);
        detector.increments(&PoolView { endpoints: &endpoints, now, freshness })
    }

    fn positions(&self) -> Vec<Position> {
        self.candidates.positions().collect()
    }

    /// Puts a fixture's signals and live load onto its endpoint.
    fn apply(&mut self, at: usize) {
        let snapshot = self.pool.snapshot();
        let (fixture, endpoint) = (&self.fixtures[at], &snapshot.endpoints()[at]);
        endpoint.signal_cell().store(fixture.signals(self.now));
        endpoint.set_lora(fixture.lora.clone());
        if let Some(load) = self.provided.in_flight.as_ref().and_then(|slot| endpoint.slot(slot)) {
            let (requests, tokens) = fixture.in_flight;
            load.add(requests - load.requests(), tokens - load.tokens());
        }
    }

    /// Writes the fixtures' columns; a column that no fixture says anything about stays away.
    fn write_columns(&mut self) {
        let snapshot = self.pool.snapshot();
        let fixtures: Vec<&EndpointFixture> = self
            .candidates
            .iter()
            .filter_map(|(_, endpoint)| {
                let at = snapshot.endpoints().iter().position(|e| Arc::ptr_eq(e, endpoint))?;
                self.fixtures.get(at)
            })
            .collect();
        if let Some(handle) = &self.provided.prefix
            && fixtures.iter().any(|fixture| fixture.prefix.is_some())
        {
            let column = fixtures.iter().map(|fixture| fixture.prefix.unwrap_or_default());
            self.data.accept(Outputs::of(handle, column.collect::<Column<_>>()));
        }
        if let Some(handle) = &self.provided.uncached
            && fixtures.iter().any(|fixture| fixture.uncached_tokens.is_some())
        {
            let column = fixtures.iter().map(|fixture| fixture.uncached_tokens.unwrap_or_default());
            self.data.accept(Outputs::of(handle, column.collect::<Column<u64>>()));
        }
    }
}
