//! One engine's metrics page: which series are looked for, and which of their values make sense.

use std::borrow::Cow;

use router_core::{EndpointSlot, LoraSignals};
use router_framework::{BuildError, keys::Scalar};
use router_wire::prometheus::{Page, PageScan, Sample, SeriesSpec};

use super::engines::{CustomMetric, EngineConfig};

/// A server with more requests than this in one place is not believed.
const MAX_REQUESTS: f64 = 1e9;
/// KV-cache use above this is not believed, be it a share or percent; some engines overshoot a little.
const MAX_KV_USAGE: f64 = 110.0;
const MAX_BLOCK_SIZE: f64 = 65_536.0;
const MAX_BLOCKS: f64 = 1e12;
/// Adapters that are read of each list; their names come from clients by way of the model server.
const MAX_ADAPTERS: usize = 1024;

/// Labels by which the series of engines name the model: all but Triton's the first.
const MODEL_LABELS: [&str; 2] = ["model_name", "model"];

/// The series of one engine, found in one pass over a page.
#[derive(Clone, Debug)]
pub(super) struct Engine {
    scan: PageScan,
    queued: Option<usize>,
    running: Option<usize>,
    kv_usage: Option<usize>,
    lora: Option<usize>,
    cache_info: Option<CacheInfo>,
    block_size: Option<usize>,
    n_blocks: Option<usize>,
    custom: Vec<(usize, EndpointSlot<Scalar>)>,
}

/// A series with the size of the KV cache in its labels; an empty label is not read.
#[derive(Clone, Debug)]
struct CacheInfo {
    at: usize,
    block_size_label: String,
    n_blocks_label: String,
}

/// What one page said. Numbers that it did not say are NaN.
#[derive(Debug)]
pub(super) struct Reading<'p> {
    pub(super) waiting: f64,
    pub(super) running: f64,
    pub(super) kv_usage: f64,
    /// Whether the page said something about the load.
    pub(super) counts_as_scrape: bool,
    pub(super) block_size: Option<f64>,
    pub(super) n_blocks: Option<f64>,
    /// `None` where the engine says nothing about adapters, or nothing usable.
    pub(super) lora: Option<LoraSignals>,
    pub(super) custom: Vec<(EndpointSlot<Scalar>, f64)>,
    /// The model's name, from the labels of the series about load.
    pub(super) model: Option<Cow<'p, str>>,
    /// Series that were missing or not usable.
    pub(super) faults: Vec<String>,
}

/// The specs of an engine while they are put together.
struct Specs<'a> {
    specs: Vec<SeriesSpec>,
    place: &'a str,
}

// === impl Engine ===

impl Engine {
    /// Reads an engine's configuration, which stands at `place` in the parameters. `slot` gives the slot of
    /// an attribute.
    pub(super) fn new(
        config: &EngineConfig,
        place: &str,
        slot: &mut dyn FnMut(&str) -> EndpointSlot<Scalar>,
    ) -> Result<Self, BuildError> {
        let mut specs = Specs { specs: Vec::new(), place };
        let queued = specs.add(&config.queued_requests_spec, "queuedRequestsSpec")?;
        let running = specs.add(&config.running_requests_spec, "runningRequestsSpec")?;
        let kv_usage = specs.add(&config.kv_usage_spec, "kvUsageSpec")?;
        let lora = specs.add(&config.lora_spec, "loraSpec")?;
        if let Some(spec) = lora.and_then(|at| specs.specs.get_mut(at)) {
            // The value is the time at which the series was made.
            *spec = spec.clone().highest();
        }
        let cache_info = specs.add(&config.cache_info_spec, "cacheInfoSpec")?;
        let cache_info = cache_info.map(|at| CacheInfo {
            at,
            block_size_label: config.cache_block_size_label_name.clone(),
            n_blocks_label: config.cache_num_blocks_label_name.clone(),
        });
        let block_size = specs.add(&config.cache_block_size_spec, "cacheBlockSizeSpec")?;
        let n_blocks = specs.add(&config.cache_num_blocks_spec, "cacheNumBlocksSpec")?;
        let mut custom = Vec::with_capacity(config.custom_metrics.len());
        for (n, CustomMetric { attribute_key, metric_spec }) in
            config.custom_metrics.iter().enumerate()
        {
            let earlier = config.custom_metrics.get(..n).unwrap_or_default();
            if attribute_key.is_empty() || earlier.iter().any(|e| e.attribute_key == *attribute_key)
            {
                let place = format!("{place}.customMetrics[{n}].attributeKey");
                return Err(BuildError::at(place, "must be given, and once only"));
            }
            let parameter = format!("customMetrics[{n}].metricSpec");
            let Some(at) = specs.add(metric_spec, &parameter)? else {
                return Err(BuildError::at(format!("{place}.{parameter}"), "must be given"));
            };
            custom.push((at, slot(attribute_key)));
        }
        let scan = PageScan::new(&specs.specs);
        Ok(Self { scan, queued, running, kv_usage, lora, cache_info, block_size, n_blocks, custom })
    }

    /// Searches a page.
    pub(super) fn read<'p>(&self, page: &'p [u8]) -> Reading<'p> {
        let page = self.scan.scan(page);
        let mut look = Look { engine: self, page: &page, faults: Vec::new() };
        let requests = 0.0..=MAX_REQUESTS;
        let waiting = look.value(self.queued, &requests);
        let running = look.value(self.running, &requests);
        let kv_usage = look.value(self.kv_usage, &(0.0..=MAX_KV_USAGE));
        let (block_size, n_blocks) = look.cache_info();
        let custom: Vec<_> = self
            .custom
            .iter()
            .map(|(at, slot)| (slot.clone(), look.value(Some(*at), &(f64::MIN..=f64::MAX))))
            .collect();
        let says_load = [waiting, running, kv_usage].iter().any(|value| !value.is_nan());
        let lora = look.lora(says_load);
        let has_load = [self.queued, self.running, self.kv_usage].iter().any(Option::is_some);
        let says_other = block_size.is_some()
            || n_blocks.is_some()
            || custom.iter().any(|(_, value)| !value.is_nan());
        Reading {
            waiting,
            running,
            kv_usage,
            counts_as_scrape: if has_load { says_load } else { says_other || lora.is_some() },
            block_size,
            n_blocks,
            lora,
            custom,
            model: look.model(),
            faults: look.faults,
        }
    }
}

// === impl Specs ===

impl Specs<'_> {
    /// The place of a series among the samples of a page; `None` where it is not to be read.
    fn add(&mut self, spec: &str, parameter: &str) -> Result<Option<usize>, BuildError> {
        if spec.trim().is_empty() {
            return Ok(None);
        }
        let spec = spec.parse::<SeriesSpec>().map_err(|error| {
            BuildError::at(format!("{}.{parameter}", self.place), error.to_string())
        })?;
        self.specs.push(spec);
        Ok(Some(self.specs.len() - 1))
    }
}

/// One page under a look.
struct Look<'a, 'p> {
    engine: &'a Engine,
    page: &'a Page<'p>,
    faults: Vec<String>,
}

// === impl Look ===

impl<'p> Look<'_, 'p> {
    fn fault(&mut self, at: usize, what: &str) {
        let name = self.engine.scan.specs().get(at).map(ToString::to_string).unwrap_or_default();
        self.faults.push(if what.is_empty() { name } else { format!("{name} label {what}") });
    }

    fn model(&self) -> Option<Cow<'p, str>> {
        let load = [self.engine.queued, self.engine.running, self.engine.kv_usage];
        let samples = load.into_iter().flatten().filter_map(|at| self.page.sample(at));
        let mut names = samples.flat_map(|sample| {
            MODEL_LABELS.into_iter().filter_map(move |label| sample.label(label))
        });
        names.find(|name| !name.is_empty())
    }

    /// The value of a series, NaN where it is not read or of no use.
    fn value(&mut self, at: Option<usize>, believed: &std::ops::RangeInclusive<f64>) -> f64 {
        let Some(at) = at else { return f64::NAN };
        // No range holds NaN.
        match self.page.value(at).filter(|value| believed.contains(value)) {
            Some(value) => value,
            None => {
                self.fault(at, "");
                f64::NAN
            }
        }
    }

    /// Tokens per block and number of blocks; a value of its own wins over a label.
    fn cache_info(&mut self) -> (Option<f64>, Option<f64>) {
        let known = |value: f64| (!value.is_nan()).then_some(value);
        let (sizes, counts) = (1.0..=MAX_BLOCK_SIZE, 1.0..=MAX_BLOCKS);
        let size = known(self.value(self.engine.block_size, &sizes));
        let blocks = known(self.value(self.engine.n_blocks, &counts));
        let Some(CacheInfo { at, block_size_label, n_blocks_label }) = &self.engine.cache_info
        else {
            return (size, blocks);
        };
        let Some(sample) = self.page.sample(*at) else {
            self.fault(*at, "");
            return (size, blocks);
        };
        let by_label = [
            self.label(*at, sample, block_size_label, &sizes),
            self.label(*at, sample, n_blocks_label, &counts),
        ];
        (size.or(by_label[0]), blocks.or(by_label[1]))
    }

    fn label(
        &mut self,
        at: usize,
        sample: Sample<'_>,
        name: &str,
        believed: &std::ops::RangeInclusive<f64>,
    ) -> Option<f64> {
        if name.is_empty() {
            return None;
        }
        let value = sample.label_u64(name).map(|value| value as f64);
        let value = value.filter(|value| believed.contains(value));
        if value.is_none() {
            self.fault(at, name);
        }
        value
    }

    /// The adapters. A page that says its load but has no such series has no adapters: servers without
    /// them do not show it.
    fn lora(&mut self, says_load: bool) -> Option<LoraSignals> {
        let at = self.engine.lora?;
        let Some(sample) = self.page.sample(at) else {
            return says_load.then(LoraSignals::default);
        };
        let max = sample.label_u64("max_lora").and_then(|max| u32::try_from(max).ok());
        let Some(max_active) = max else {
            self.fault(at, "max_lora");
            return None;
        };
        let list = |label: &str| {
            let mut names = sample.label_list(label);
            names.truncate(MAX_ADAPTERS);
            names
        };
        Some(LoraSignals {
            active: list("running_lora_adapters"),
            waiting: list("waiting_lora_adapters"),
            max_active,
        })
    }
}
