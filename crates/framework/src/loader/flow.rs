//! From the `flowControl` section to what flow control is built with.

use std::{sync::Arc, time::Duration};

use router_flow::{
    BandConfig, BandTemplate, Bounds, Config, Eviction, FairnessPolicy, OrderingPolicy, Trickle,
};

use router_telemetry::{Registry, router::FlowMetrics};

use super::{LoadedFlow, build::Wiring};
use crate::document::{
    GoDuration, PluginRef,
    defaults::{FAIRNESS_POLICY, ORDERING_POLICY},
    model::{FlowControl, FlowControlExpert, PriorityBand},
};

/// A detector that counts for itself shows the room of a request as soon as it has ended.
const COUNTING_DETECTOR: &str = "concurrency-detector";
const COUNTING_GRACE: Duration = Duration::from_millis(10);

const PPM: f64 = 1e6;

impl Wiring<'_> {
    /// What flow control is built with; `None` while its gate is off, or where something is wrong.
    pub(super) fn flow(&mut self, registry: &Arc<Registry>) -> Option<LoadedFlow> {
        if !self.document.gates.flow_control.on {
            return None;
        }
        let section = &self.document.flow_control;
        let template = self.template(section.default_priority_band.as_ref())?;
        let negative = section.default_negative_priority_band.as_ref();
        let negative_template = match negative {
            Some(band) => Some(self.template(Some(band))?),
            None => None,
        };
        let mut bands = Vec::with_capacity(section.priority_bands.len());
        for band in &section.priority_bands {
            // Out of range ones have been reported.
            let priority = i32::try_from(band.priority.unwrap_or(0)).ok()?;
            bands.push(BandConfig { priority, template: self.template(Some(band))? });
        }
        let usage_limit = section.usage_limit_policy.as_ref()?;
        let usage_limit =
            self.one(usage_limit, "a usage limit policy", |plugin| plugin.usage_limit.clone())?;
        let config = Config {
            max_requests: count(section.max_requests.as_ref()),
            max_bytes: count(section.max_bytes.as_ref()),
            ttl: time(section.default_request_ttl),
            no_endpoint_ttl: time(section.no_endpoint_request_ttl),
            bands,
            template,
            negative_template,
            usage_limit: usage_limit.role,
            trickle: trickle(&section.expert),
            eviction: self.eviction(section),
            bounds: bounds(&section.expert),
        };
        let eviction_grace = self.eviction_grace(section);
        match FlowMetrics::new(registry) {
            Ok(metrics) => {
                let registry = Arc::clone(registry);
                Some(LoadedFlow { config, eviction_grace, metrics, registry })
            }
            Err(error) => {
                let span = self.document.gates.flow_control.span;
                self.diagnostics.error(span, "featureGates", error.to_string(), || None);
                None
            }
        }
    }

    fn template(&mut self, band: Option<&PriorityBand>) -> Option<BandTemplate> {
        let default = BandTemplate::default();
        let ordering = band.and_then(|band| band.ordering_policy.clone());
        let fairness = band.and_then(|band| band.fairness_policy.clone());
        let or =
            |named: Option<PluginRef>, name| named.unwrap_or_else(|| PluginRef::added(name, ""));
        let ordering: Arc<dyn OrderingPolicy> = self
            .one(&or(ordering, ORDERING_POLICY), "an ordering policy", |p| p.ordering.clone())?
            .role;
        let fairness: Arc<dyn FairnessPolicy> = self
            .one(&or(fairness, FAIRNESS_POLICY), "a fairness policy", |p| p.fairness.clone())?
            .role;
        Some(BandTemplate {
            max_requests: count(band.and_then(|band| band.max_requests.as_ref()))
                .unwrap_or(default.max_requests),
            max_bytes: count(band.and_then(|band| band.max_bytes.as_ref()))
                .unwrap_or(default.max_bytes),
            ordering,
            fairness,
        })
    }

    fn eviction(&mut self, section: &FlowControl) -> Option<Eviction> {
        if section.enable_eviction != Some(true) {
            return None;
        }
        let (filter, order) = (section.eviction_filter.as_ref()?, section.eviction_order.as_ref()?);
        let default = Eviction::default();
        let expert = &section.expert;
        Some(Eviction {
            filter: self.one(filter, "an eviction filter", |p| p.eviction_filter.clone())?.role,
            order: self.one(order, "an eviction order", |p| p.eviction_order.clone())?.role,
            max_at_once: expert.max_evictions_at_once.map_or(default.max_at_once, |n| n as usize),
            confirm_within: time(expert.eviction_confirmation_timeout)
                .unwrap_or(default.confirm_within),
            grace: default.grace,
        })
    }

    fn eviction_grace(&self, section: &FlowControl) -> Option<Duration> {
        let written = section.expert.eviction_confirmation_grace.and_then(GoDuration::to_std);
        let detector = section.saturation_detector.as_ref();
        let detector = detector.and_then(|detector| self.document.plugin(&detector.name));
        let counts = detector.is_some_and(|plugin| plugin.plugin_type == COUNTING_DETECTOR);
        written.or(counts.then_some(COUNTING_GRACE))
    }
}

/// 0 and absent mean the same.
fn count(quantity: Option<&crate::document::Quantity>) -> Option<u64> {
    quantity.and_then(|quantity| u64::try_from(quantity.value()).ok()).filter(|count| *count > 0)
}

/// 0 is no limit in time.
fn time(duration: Option<GoDuration>) -> Option<Duration> {
    duration.and_then(GoDuration::to_std).filter(|time| !time.is_zero())
}

fn trickle(expert: &FlowControlExpert) -> Option<Trickle> {
    let default = Trickle::default();
    let share = expert.trickle_share.map(|share| (share.clamp(0.0, 1.0) * PPM).round() as u32);
    let share_ppm = share.unwrap_or(default.share_ppm);
    let every = match expert.trickle_interval {
        // What is never due is never given.
        Some(interval) => time(Some(interval)).unwrap_or(Duration::MAX),
        None => default.every,
    };
    (share_ppm > 0 || every < Duration::MAX).then_some(Trickle { share_ppm, every })
}

fn bounds(expert: &FlowControlExpert) -> Bounds {
    let default = Bounds::default();
    let or =
        |time: Option<GoDuration>, default| time.and_then(GoDuration::to_std).unwrap_or(default);
    let n = |n: Option<u32>, default| n.map_or(default, |n| n as usize);
    Bounds {
        max_bands: n(expert.max_priority_bands, default.max_bands),
        max_idle_flows: n(expert.max_idle_flows, default.max_idle_flows),
        flow_idle: or(expert.flow_idle_timeout, default.flow_idle),
        band_idle: or(expert.priority_band_idle_timeout, default.band_idle),
        min_retry_after: or(expert.min_retry_after, default.min_retry_after),
        max_retry_after: or(expert.max_retry_after, default.max_retry_after),
        max_subsets: default.max_subsets,
    }
}
