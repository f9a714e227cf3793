//! What flow control is built with.

use std::{sync::Arc, time::Duration};

use crate::policy::{
    EvictionFilter, EvictionOrder, FairnessPolicy, OrderingPolicy, UsageLimitPolicy, eviction,
    global_strict::GlobalStrict, ordering::Fcfs, usage_limit::Static,
};

/// The whole configuration; the defaults are those of the Go implementation where it has the setting.
#[derive(Clone)]
pub struct Config {
    /// Requests that may wait in all; `None` is no limit.
    pub max_requests: Option<u64>,
    /// Bytes of bodies that may wait in all; `None` is no limit.
    pub max_bytes: Option<u64>,
    /// How long a request may wait while the pool has endpoints; `None` is for ever.
    pub ttl: Option<Duration>,
    /// How long a request may wait while the pool is empty; `None` is for ever.
    pub no_endpoint_ttl: Option<Duration>,
    /// Bands that always exist. One of priority 0 is added where it is missing.
    pub bands: Vec<BandConfig>,
    /// For all other bands.
    pub template: BandTemplate,
    /// For other bands of negative priority, where they differ.
    pub negative_template: Option<BandTemplate>,
    pub usage_limit: Arc<dyn UsageLimitPolicy>,
    /// `None`: a band can be kept waiting for ever by more important ones.
    pub trickle: Option<Trickle>,
    /// `None`: what runs is never evicted.
    pub eviction: Option<Eviction>,
    pub bounds: Bounds,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            max_requests: None,
            max_bytes: None,
            ttl: Some(Duration::from_mins(1)),
            no_endpoint_ttl: Some(Duration::from_mins(1)),
            bands: Vec::new(),
            template: BandTemplate::default(),
            negative_template: None,
            usage_limit: Arc::new(Static::default()),
            trickle: Some(Trickle::default()),
            eviction: None,
            bounds: Bounds::default(),
        }
    }
}

/// A band that always exists.
#[derive(Clone)]
pub struct BandConfig {
    pub priority: i32,
    pub template: BandTemplate,
}

/// What the bands of some priorities are like.
#[derive(Clone)]
pub struct BandTemplate {
    pub max_requests: u64,
    pub max_bytes: u64,
    pub ordering: Arc<dyn OrderingPolicy>,
    pub fairness: Arc<dyn FairnessPolicy>,
}

impl Default for BandTemplate {
    fn default() -> Self {
        Self {
            max_requests: 5_000,
            max_bytes: 1_000_000_000,
            ordering: Arc::new(Fcfs),
            fairness: Arc::new(GlobalStrict),
        }
    }
}

/// What a band gets for certain though more important ones have requests waiting, and though its ceiling
/// is reached.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Trickle {
    /// Tokens of service, in millionths of those that more important bands get, that all bands below them
    /// share in turn.
    pub share_ppm: u32,
    /// A band whose ceiling is reached gets one request this often, while the ceiling of the most important
    /// band is not reached.
    pub every: Duration,
}

impl Default for Trickle {
    fn default() -> Self {
        Self { share_ppm: 10_000, every: Duration::from_secs(5) }
    }
}

/// Stopping requests in flight to make room for more important ones.
#[derive(Clone)]
pub struct Eviction {
    pub filter: Arc<dyn EvictionFilter>,
    pub order: Arc<dyn EvictionOrder>,
    /// Requests that are evicted at once, at most.
    pub max_at_once: usize,
    /// How long an evicted request may take to end before the next is evicted all the same.
    pub confirm_within: Duration,
    /// How long after an evicted request ended its room may not show in the pool's signals.
    pub grace: Duration,
}

impl Default for Eviction {
    fn default() -> Self {
        Self {
            filter: Arc::new(eviction::Sheddable),
            order: Arc::new(eviction::PriorityThenTime),
            max_at_once: 2,
            confirm_within: Duration::from_secs(10),
            grace: Duration::from_millis(2_300),
        }
    }
}

/// Bounds that keep state small whatever clients send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Bands at a time. A request of yet another priority joins the next less important band.
    pub max_bands: usize,
    /// Distinct subsets of endpoints that requests are restricted to at a time. A request of yet another is
    /// taken for one that may go anywhere.
    pub max_subsets: usize,
    /// Flows that are remembered though nothing of them waits or runs; beyond that, the one that has been
    /// idle longest is forgotten.
    pub max_idle_flows: usize,
    /// How long a flow is remembered of which nothing waits or runs. It may be up to twice as long.
    pub flow_idle: Duration,
    /// How long a band is remembered that nobody asked for and that has no flows.
    pub band_idle: Duration,
    /// Shortest time after which a refused client is told to come again.
    pub min_retry_after: Duration,
    /// Longest time after which a refused client is told to come again.
    pub max_retry_after: Duration,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            max_bands: 128,
            max_subsets: 1_000,
            max_idle_flows: 16_384,
            flow_idle: Duration::from_mins(5),
            band_idle: Duration::from_mins(10),
            min_retry_after: Duration::from_secs(1),
            max_retry_after: Duration::from_mins(1),
        }
    }
}
