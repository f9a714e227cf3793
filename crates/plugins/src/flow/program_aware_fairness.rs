//! Serves first the flows that were served little lately and whose first request waits long: least attained service.
//!
//! A flow is a program: all requests of one fairness id.
//! Its service grows when one of its requests ends, by the prompt tokens and twice the generated tokens, and halves every `lasHalfLifeSeconds`.
//! Of the flows that wait, the one with the highest score goes next: `lasWeightService × (1 − norm(service)) + lasWeightHeadWait × norm(wait of its first request)`, where `norm` maps the least of all to 0 and the most to 1.
//!
//! A program that nothing waits or runs of is remembered for `evictionTtlSeconds`, so that one that comes back does not begin anew.
//!
//! The metrics `llm_d_epp_program_aware_*` show Jain's index over the service of all programs, and service and average wait of each.
//!
//! # Example
//!
//! ```yaml
//! featureGates: [flowControl]
//! plugins:
//! - type: program-aware-fairness
//!   parameters:
//!     lasHalfLifeSeconds: 120
//! flowControl:
//!   defaultPriorityBand:
//!     fairnessPolicyRef: program-aware-fairness
//! ```

use std::{sync::Arc, time::Duration};

use router_core::Stamp;
use router_flow::{
    Cost, FlowId, FlowKey, Head, Usage,
    policy::{Fairness, FairnessPolicy, program_aware::ProgramAware},
};
use router_framework::{BuildCx, BuildError, Instance, PluginDef, Role};
use router_rt::Clock;
use router_telemetry::{metrics::ScrapeHook, router::ProgramAwareMetrics};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

mod programs;

use programs::{Programs, Retention};

pub const PLUGIN: PluginDef =
    PluginDef::new::<Params>("program-aware-fairness", &[Role::FairnessPolicy], file!(), build);

/// Parameters of `program-aware-fairness`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct Params {
    /// What the score is made by; there is one way, `las`.
    pub strategy: Strategy,
    /// How long a program is remembered that nothing waits or runs of, in seconds; 0 for as long as there is room.
    pub eviction_ttl_seconds: f64,
    /// How often it is looked for such programs, in seconds. Above 0.
    pub eviction_sweep_seconds: f64,
    /// What little service counts for in the score. Not negative.
    pub las_weight_service: f64,
    /// What a long wait counts for in the score. Not negative.
    pub las_weight_head_wait: f64,
    /// Time in which service counts half, in seconds; 0 for never.
    pub las_half_life_seconds: f64,
}

/// What the score is made by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Strategy {
    /// Least attained service.
    #[default]
    Las,
}

impl Default for Params {
    fn default() -> Self {
        Self {
            strategy: Strategy::Las,
            eviction_ttl_seconds: 3_600.0,
            eviction_sweep_seconds: 300.0,
            las_weight_service: 0.8,
            las_weight_head_wait: 0.2,
            las_half_life_seconds: 60.0,
        }
    }
}

struct LeastAttainedService {
    policy: ProgramAware,
    programs: Arc<Programs>,
    clock: Clock,
    /// Publishes the programs' metrics when the page is asked for.
    _published: ScrapeHook,
}

fn build(cx: &mut BuildCx<'_>) -> Result<Instance, BuildError> {
    let params: Params = cx.params()?;
    let seconds = |name: &str, value: f64| {
        Duration::try_from_secs_f64(value).map_err(|_| BuildError::at(name, "must not be negative"))
    };
    let ttl = seconds("evictionTtlSeconds", params.eviction_ttl_seconds)?;
    let sweep = seconds("evictionSweepSeconds", params.eviction_sweep_seconds)?;
    if sweep.is_zero() {
        return Err(BuildError::at("evictionSweepSeconds", "must be above 0"));
    }
    let half_life = seconds("lasHalfLifeSeconds", params.las_half_life_seconds)?;
    for (name, weight) in [
        ("lasWeightService", params.las_weight_service),
        ("lasWeightHeadWait", params.las_weight_head_wait),
    ] {
        if weight < 0.0 || !weight.is_finite() {
            return Err(BuildError::at(name, "must not be negative"));
        }
    }
    let policy = ProgramAware {
        service_weight: params.las_weight_service,
        head_wait_weight: params.las_weight_head_wait,
        half_life: Some(half_life).filter(|half_life| !half_life.is_zero()),
    };
    let env = cx.env();
    let metrics = ProgramAwareMetrics::new(&env.registry)
        .map_err(|error| BuildError::new(error.to_string()))?;
    let retention = Retention { ttl: Some(ttl).filter(|ttl| !ttl.is_zero()), sweep };
    let programs = Arc::new(Programs::new(policy.half_life, retention));
    let clock = env.clock;
    let published = {
        let programs = Arc::clone(&programs);
        env.registry.on_scrape(move || programs.publish(&metrics, clock.now()))
    };
    let policy = LeastAttainedService { policy, programs, clock, _published: published };
    Ok(Instance::new().fairness(Arc::new(policy)))
}

impl FairnessPolicy for LeastAttainedService {
    fn start(&self) -> Box<dyn Fairness> {
        Box::new(Remembering {
            inner: self.policy.start(),
            programs: Arc::clone(&self.programs),
            clock: self.clock,
            ids: Vec::new(),
        })
    }
}

/// One band at work, which tells the programs what happens to them.
struct Remembering {
    inner: Box<dyn Fairness>,
    programs: Arc<Programs>,
    clock: Clock,
    /// By flow.
    ids: Vec<Option<FlowId>>,
}

impl Remembering {
    fn id(&self, flow: FlowKey) -> Option<&FlowId> {
        self.ids.get(flow.index())?.as_ref()
    }
}

impl Fairness for Remembering {
    fn join(&mut self, flow: FlowKey, id: &FlowId) {
        if self.ids.len() <= flow.index() {
            self.ids.resize(flow.index() + 1, None);
        }
        if let Some(place) = self.ids.get_mut(flow.index()) {
            *place = Some(id.clone());
        }
        self.inner.join(flow, id);
        let now = self.clock.now();
        let service = self.programs.came(now, id);
        if service > 0.0 {
            let had = Usage { prompt: service as u64, ..Usage::default() };
            self.inner.settled(now, flow, &Cost::default(), Some(&had));
        }
    }

    fn offer(&mut self, flow: FlowKey, head: &Head) {
        self.inner.offer(flow, head);
    }

    fn withdraw(&mut self, flow: FlowKey) {
        self.inner.withdraw(flow);
    }

    fn next(&mut self) -> Option<FlowKey> {
        self.inner.next()
    }

    fn dispatched(&mut self, flow: FlowKey, sent: &Head, next: Option<&Head>) {
        self.inner.dispatched(flow, sent, next);
        if let Some(id) = self.id(flow) {
            self.programs.waited(id, self.clock.now().since(sent.enqueued));
        }
    }

    fn settled(&mut self, now: Stamp, flow: FlowKey, charged: &Cost, used: Option<&Usage>) {
        self.inner.settled(now, flow, charged, used);
        if let (Some(id), Some(used)) = (self.id(flow), used) {
            self.programs.attained(now, id, used.prompt as f64 + 2.0 * used.output as f64);
        }
    }

    fn forget(&mut self, flow: FlowKey) {
        self.inner.forget(flow);
        if let Some(id) = self.ids.get_mut(flow.index()).and_then(Option::take) {
            self.programs.left(self.clock.now(), &id);
        }
    }
}

/// A band that goes, goes with its flows.
impl Drop for Remembering {
    fn drop(&mut self) {
        let now = self.clock.now();
        self.ids.iter().flatten().for_each(|id| self.programs.left(now, id));
    }
}

#[cfg(test)]
mod tests;
