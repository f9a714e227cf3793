//! The handles that one request needs.

use std::sync::{Arc, OnceLock};

use super::{combinations::Key, families::Families};
use crate::metrics::{Counter, Family, Gauge, Histogram, Metric};

/// The series of requests with one model, target model, fairness id and priority. Resolved once;
/// a series appears on the page with its first observation.
#[derive(Debug)]
pub struct RequestSeries {
    labels: Labels,
    families: Families,
    /// May be shared with other fairness ids.
    details: Arc<Details>,
    total: OnceLock<Arc<Counter>>,
    running: OnceLock<Arc<Gauge>>,
}

/// Counts a request as running until it is dropped.
#[derive(Debug)]
pub struct RunningGuard {
    gauge: Arc<Gauge>,
}

/// The series that take much room on a page.
#[derive(Debug)]
pub(super) struct Details {
    labels: Labels,
    duration: OnceLock<Arc<Histogram>>,
    request_size: OnceLock<Arc<Histogram>>,
    response_size: OnceLock<Arc<Histogram>>,
    input_tokens: OnceLock<Arc<Histogram>>,
    output_tokens: OnceLock<Arc<Histogram>>,
    cached_tokens: OnceLock<Arc<Histogram>>,
    ntpot: OnceLock<Arc<Histogram>>,
    ttft_streaming: OnceLock<Arc<Histogram>>,
    ttft_whole: OnceLock<Arc<Histogram>>,
    tpot: OnceLock<Arc<Histogram>>,
    itl: OnceLock<Arc<Histogram>>,
}

/// The values of the labels that all families have, in order of definition.
#[derive(Debug)]
struct Labels([Box<str>; 4]);

// === impl RequestSeries ===

impl RequestSeries {
    pub(super) fn new(families: &Families, key: &Key, details: Arc<Details>) -> Self {
        Self {
            labels: Labels::of(key),
            families: families.clone(),
            details,
            total: OnceLock::new(),
            running: OnceLock::new(),
        }
    }

    /// The model name as it is shown.
    pub fn model(&self) -> &str {
        self.labels.get()[0]
    }

    /// The target model name as it is shown.
    pub fn target_model(&self) -> &str {
        self.labels.get()[1]
    }

    /// The fairness id as it is shown.
    pub fn fairness_id(&self) -> &str {
        self.labels.get()[2]
    }

    /// The priority as it is shown.
    pub fn priority(&self) -> &str {
        self.labels.get()[3]
    }

    /// Routed requests.
    pub fn total(&self) -> &Counter {
        self.labels.resolve(&self.total, &self.families.total)
    }

    /// Requests that ended with `error_code`, the name of an error code.
    pub fn error(&self, error_code: &str) -> Arc<Counter> {
        let [model, target_model, fairness_id, priority] = self.details.labels.get();
        self.families.errors.with([model, target_model, fairness_id, priority, error_code])
    }

    /// Receipt to the end of the response, in seconds.
    pub fn duration(&self) -> &Histogram {
        self.details.one(&self.details.duration, &self.families.duration)
    }

    /// Forwarded body, in bytes.
    pub fn request_size(&self) -> &Histogram {
        self.details.one(&self.details.request_size, &self.families.request_size)
    }

    /// Response body, in bytes.
    pub fn response_size(&self) -> &Histogram {
        self.details.one(&self.details.response_size, &self.families.response_size)
    }

    /// Prompt tokens; observe only values above 0.
    pub fn input_tokens(&self) -> &Histogram {
        self.details.one(&self.details.input_tokens, &self.families.input_tokens)
    }

    /// Generated tokens; observe only values above 0.
    pub fn output_tokens(&self) -> &Histogram {
        self.details.one(&self.details.output_tokens, &self.families.output_tokens)
    }

    /// Prompt tokens found in the server's cache.
    pub fn cached_tokens(&self) -> &Histogram {
        self.details.one(&self.details.cached_tokens, &self.families.cached_tokens)
    }

    /// Duration divided by generated tokens, in seconds.
    pub fn ntpot(&self) -> &Histogram {
        self.details.one(&self.details.ntpot, &self.families.ntpot)
    }

    /// Receipt to the first byte of the response body, in seconds.
    pub fn ttft(&self, streaming: bool) -> &Histogram {
        let details = &*self.details;
        let (cell, shown) = if streaming {
            (&details.ttft_streaming, "true")
        } else {
            (&details.ttft_whole, "false")
        };
        cell.get_or_init(|| {
            let [model, target_model, fairness_id, priority] = details.labels.get();
            self.families.ttft.with([model, target_model, fairness_id, priority, shown])
        })
    }

    /// Mean time per output token of a stream, in seconds.
    pub fn streaming_tpot(&self) -> &Histogram {
        self.details.one(&self.details.tpot, &self.families.tpot)
    }

    /// Time between the chunks of a stream, in seconds.
    pub fn streaming_itl(&self) -> &Histogram {
        self.details.one(&self.details.itl, &self.families.itl)
    }

    /// Counts a request as running until the guard is dropped. Requests without a model name are
    /// not counted, as in Go.
    pub fn start_running(&self) -> Option<RunningGuard> {
        if self.model().is_empty() {
            return None;
        }
        let gauge = self.running.get_or_init(|| self.families.running.with(self.labels.get()));
        gauge.inc();
        Some(RunningGuard { gauge: Arc::clone(gauge) })
    }
}

impl Drop for RunningGuard {
    fn drop(&mut self) {
        self.gauge.dec();
    }
}

// === impl Details ===

impl Details {
    pub(super) fn new(key: &Key) -> Self {
        Self {
            labels: Labels::of(key),
            duration: OnceLock::new(),
            request_size: OnceLock::new(),
            response_size: OnceLock::new(),
            input_tokens: OnceLock::new(),
            output_tokens: OnceLock::new(),
            cached_tokens: OnceLock::new(),
            ntpot: OnceLock::new(),
            ttft_streaming: OnceLock::new(),
            ttft_whole: OnceLock::new(),
            tpot: OnceLock::new(),
            itl: OnceLock::new(),
        }
    }

    fn one<'a>(
        &self,
        cell: &'a OnceLock<Arc<Histogram>>,
        family: &Family<Histogram, 4>,
    ) -> &'a Histogram {
        self.labels.resolve(cell, family)
    }
}

// === impl Labels ===

impl Labels {
    fn of(key: &Key) -> Self {
        let Key { model, target_model, fairness_id, priority } = key;
        Self([
            model.clone(),
            target_model.clone(),
            fairness_id.clone(),
            priority.to_string().into(),
        ])
    }

    fn get(&self) -> [&str; 4] {
        self.0.each_ref().map(|value| &**value)
    }

    fn resolve<'a, M: Metric>(&self, cell: &'a OnceLock<Arc<M>>, family: &Family<M, 4>) -> &'a M {
        cell.get_or_init(|| family.with(self.get()))
    }
}
