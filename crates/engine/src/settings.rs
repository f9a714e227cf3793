//! Settings of the pipeline that come from flags, with the defaults that the flags have.

use std::time::Duration;

/// What flags decide. Every bound of the request path is here, with its default from design §9.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Name of the pool in metrics.
    pub pool_name: String,
    /// Longest request body, in bytes; a longer one is answered 413.
    pub max_body_bytes: usize,
    /// Bytes of request bodies held at once over all requests; above it requests are answered 503.
    pub max_buffered_bytes: usize,
    /// How often endpoints are scraped, unless a source says otherwise.
    pub refresh_interval: Duration,
    /// Age from which scraped signals mean nothing.
    pub staleness_threshold: Duration,
    /// How often the gauges about the pool are refreshed.
    pub pool_metrics_interval: Duration,
    /// Ignore the proxy's subset of endpoints.
    pub disable_subset_filter: bool,
    /// Send the scores of all candidates as dynamic metadata.
    pub emit_endpoint_scores: bool,
    /// Make spans for every request.
    pub tracing: bool,
    /// Seed of every random choice.
    pub seed: u64,
    pub health: HealthSettings,
    pub decisions: DecisionSettings,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            pool_name: "epp".to_owned(),
            max_body_bytes: 64 << 20,
            max_buffered_bytes: 2 << 30,
            refresh_interval: Duration::from_millis(50),
            staleness_threshold: Duration::from_secs(2),
            pool_metrics_interval: Duration::from_secs(5),
            disable_subset_filter: false,
            emit_endpoint_scores: false,
            tracing: false,
            seed: 0,
            health: HealthSettings::default(),
            decisions: DecisionSettings::default(),
        }
    }
}

/// Passive endpoint health (design §9).
#[derive(Clone, Debug)]
pub struct HealthSettings {
    pub enabled: bool,
    /// Time out of rotation after the first failure; it doubles with each failed probe.
    pub base_ejection: Duration,
    pub max_ejection: Duration,
    /// Failed scrapes in a row that take an endpoint out, where the server can still be reached.
    pub n_failed_scrapes: u32,
    /// 503 answers in a row that take an endpoint out.
    pub n_unavailable: u32,
}

impl Default for HealthSettings {
    fn default() -> Self {
        Self {
            enabled: true,
            base_ejection: Duration::from_secs(1),
            max_ejection: Duration::from_secs(30),
            n_failed_scrapes: 3,
            n_unavailable: 3,
        }
    }
}

/// The decision record at `GET /debug/decisions`.
#[derive(Clone, Debug)]
pub struct DecisionSettings {
    /// Share of requests that are recorded, 0 (off) to 1.
    pub sampling: f64,
    /// Records kept; the oldest goes first.
    pub capacity: usize,
}

impl Default for DecisionSettings {
    fn default() -> Self {
        Self { sampling: 0.0, capacity: 256 }
    }
}
