//! The way of a request through flow control: what it will need is looked up, then it waits for its turn.

use std::{sync::Arc, time::Duration};

use router_core::{Candidates, Stamp, header};
use router_flow::{Ask, Cost, FlowId, SubsetId};
use router_framework::{
    Freshness, LoadedFlow, PromptInput, Request, RequestCx, RequestData, SaturationDetector,
    keys::TokenizedPrompt, loader::Named,
};
use router_telemetry::metrics::ScrapeHook;

use crate::{
    datastore::Datastore,
    flow::{Earlier, FlowController, Members, Meters, PoolGauge, ShownSignals},
    health::HealthBook,
    router::{Router, RouterEnv},
    subset::Restriction,
};

/// Bytes of a body that stand for a token where nobody has looked at the prompt.
const BYTES_PER_TOKEN: usize = 4;
/// Tokens that an answer is expected to have for each of the prompt, up to what the client allows: the ratio
/// that `inflight-load-producer` takes as well.
const OUTPUT_PER_PROMPT: f64 = 1.5;
/// What comes on top of scrape interval and staleness until the room of an evicted request shows in signals
/// (`spec/request-path.md` §5.7).
const MORE_GRACE: Duration = Duration::from_millis(250);

/// The queues of a router, and what keeps their metrics fresh.
pub(crate) struct Queues {
    pub(crate) flow: Arc<FlowController>,
    _published: ScrapeHook,
}

impl Queues {
    pub(crate) fn new(
        loaded: LoadedFlow,
        env: &RouterEnv,
        detector: Named<dyn SaturationDetector>,
        (datastore, health, freshness): (&Arc<Datastore>, &HealthBook, Freshness),
    ) -> Self {
        let LoadedFlow { mut config, eviction_grace, metrics, registry } = loaded;
        let settings = &env.settings;
        if let Some(eviction) = &mut config.eviction {
            let by_scrapes = settings.refresh_interval + settings.staleness_threshold + MORE_GRACE;
            eviction.grace = eviction_grace.unwrap_or(by_scrapes);
        }
        let meters = Meters::new(metrics, &settings.pool_name, Arc::clone(&env.metrics));
        let shown = ShownSignals::new(meters.families(), &detector.ident.name, &settings.pool_name);
        let gauge = PoolGauge {
            datastore: Arc::clone(datastore),
            health: health.clone(),
            detector,
            metrics: Arc::clone(&env.metrics),
            freshness,
            shown,
            members: Members::default(),
            earlier: Earlier::default(),
        };
        let gauge = Box::new(gauge);
        let flow = FlowController::new(config, gauge, env.clock, settings.refresh_interval, meters);
        datastore.provisions(&flow);
        let shown = Arc::downgrade(&flow);
        let published = registry.on_scrape(move || {
            if let Some(flow) = shown.upgrade() {
                flow.publish();
            }
        });
        Self { flow, _published: published }
    }
}

/// What flow control is told of a request about which nothing has been found out yet.
pub(crate) fn ask(router: &Router, request: &Request, now: Stamp) -> Ask {
    let slo = header::text(&request.head.headers, &header::SLO_TTFT, Some(&header::SLO_TTFT_ALIAS));
    Ask {
        priority: request.priority,
        flow: FlowId::new(&request.fairness_id),
        bytes: request.parsed.n_body_bytes as u64,
        received: request.head.received,
        ttl: patience(request, now),
        subset: restriction(router, request),
        ttft_slo: slo.and_then(|text| text.trim().parse().ok()).map(Duration::from_millis),
        cost: cost(router, request, None, now),
    }
}

/// How much longer its client waits for an answer, where its headers say so: nobody needs it after that.
fn patience(request: &Request, now: Stamp) -> Option<Duration> {
    let told = [header::ENVOY_TIMEOUT, header::ENVOY_EXPECTED_TIMEOUT];
    let told = told.iter().filter_map(|name| header::text(&request.head.headers, name, None));
    // 0 is Envoy's word for no limit.
    let limits = told.filter_map(|text| text.trim().parse().ok()).filter(|&millis| millis > 0);
    let limit = limits.map(Duration::from_millis).min()?;
    Some(limit.saturating_sub(now.since(request.head.received)))
}

/// The subset of endpoints whose room the request waits for, instead of that of the pool.
fn restriction(router: &Router, request: &Request) -> Option<SubsetId> {
    if router.settings().disable_subset_filter {
        return None;
    }
    match Restriction::of(&request.head.subset) {
        Restriction::None => None,
        Restriction::To(subset) => Some(subset),
        Restriction::TooLong => {
            router.queues.as_ref()?.flow.note_unjudged();
            None
        }
    }
}

/// What the request will probably need, in tokens. `seen` is what was found out about it.
pub(crate) fn cost(
    router: &Router,
    request: &Request,
    seen: Option<(&Candidates, &RequestData)>,
    now: Stamp,
) -> Cost {
    let prompt = seen
        .and_then(|(_, data)| data.read(&router.tokenized_prompt))
        .map_or_else(|| prompt_tokens(request), TokenizedPrompt::n_tokens);
    let cached = seen.map_or(0, |(candidates, data)| {
        let freshness = router.freshness;
        let cx = RequestCx { request, candidates, data, now, freshness };
        let matches = candidates
            .iter()
            .filter_map(|(position, _)| cx.column(&router.prefix_match, position))
            .map(|found| prompt - found.uncached_tokens(prompt).min(prompt));
        matches.max().unwrap_or_default()
    });
    let output = (prompt as f64 * OUTPUT_PER_PROMPT) as u64;
    let output = output.min(request.parsed.max_output_tokens.unwrap_or(u64::MAX));
    let tokens = |n: u64| u32::try_from(n).unwrap_or(u32::MAX);
    Cost { cached: tokens(cached), uncached: tokens(prompt - cached), output: tokens(output) }
}

fn prompt_tokens(request: &Request) -> u64 {
    match &request.parsed.prompts {
        PromptInput::Empty => 0,
        PromptInput::Prompts(_) => (request.parsed.n_body_bytes / BYTES_PER_TOKEN) as u64,
        PromptInput::Blocks(blocks) => blocks.n_tokens as u64,
        PromptInput::Batch(batch) => batch.iter().map(|blocks| blocks.n_tokens as u64).sum(),
    }
}
