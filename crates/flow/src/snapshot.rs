//! What operators see: who waits, in which order, and why.

use std::time::Duration;

use router_core::Stamp;

use crate::{
    pool::{InFlight, PoolSignal},
    reclaim::ReclaimCounts,
    request::{Cost, FlowId},
};

/// Flow control at one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct Snapshot {
    pub now: Stamp,
    pub n_waiting: u64,
    pub waiting_bytes: u64,
    pub max_requests: Option<u64>,
    pub max_bytes: Option<u64>,
    /// The last signal of the pool.
    pub signal: PoolSignal,
    /// The last signal with what came and went since.
    pub saturation: f64,
    pub in_flight: InFlight,
    /// Subsets of endpoints of which a request waits or runs.
    pub n_subsets: usize,
    /// Requests that were taken for such as may go anywhere, because too many subsets were in use.
    pub n_unjudged: u64,
    pub reclaim: ReclaimCounts,
    pub is_stopped: bool,
    /// The most important first.
    pub bands: Vec<BandView>,
}

/// One priority band.
#[derive(Clone, Debug, PartialEq)]
pub struct BandView {
    pub priority: i32,
    /// Saturation up to which the band is served.
    pub ceiling: f64,
    pub n_waiting: u64,
    pub waiting_bytes: u64,
    pub max_requests: u64,
    pub max_bytes: u64,
    /// Requests that leave its queue per second, while somebody waits.
    pub drain_per_second: Option<f64>,
    /// Flows that are known.
    pub n_flows: usize,
    /// Jain's index of the service that its known flows had: 1 when all had the same, 1/n when one had all.
    pub jain: f64,
    /// Flows with the most requests waiting, then with the most service.
    pub flows: Vec<FlowView>,
}

/// One fairness id of a band.
#[derive(Clone, Debug, PartialEq)]
pub struct FlowView {
    pub id: FlowId,
    pub n_waiting: u32,
    pub n_running: u32,
    /// Requests that were let go.
    pub n_served: u64,
    /// Tokens of service of requests that have ended.
    pub service: u64,
    /// Its first request, if one waits.
    pub head: Option<HeadView>,
}

/// The first request of a flow, and why it waits.
#[derive(Clone, Debug, PartialEq)]
pub struct HeadView {
    pub waited: Duration,
    pub cost: Cost,
    pub bytes: u64,
    pub hold: Hold,
}

/// Why a request waits.
#[derive(Clone, Debug, PartialEq)]
pub enum Hold {
    /// The pool is empty.
    NoEndpoints,
    /// A more important band has requests waiting.
    Band { priority: i32 },
    /// It is another flow's turn.
    Flow { next: FlowId },
    /// The pool is as full as it may be for this band.
    Ceiling { saturation: f64, ceiling: f64 },
    /// The endpoints that it is restricted to are.
    Subset(SubsetHold),
    /// The band is slowed down; it goes on then, if nothing changes before.
    Slowed { until: Stamp },
}

/// Why a request waits that is restricted to a subset.
#[derive(Clone, Debug, PartialEq)]
pub struct SubsetHold {
    /// The first names of the subset, and how many there are.
    pub names: Vec<Box<str>>,
    pub n_names: usize,
    /// `None` before the first signal of it.
    pub saturation: Option<f64>,
    pub ceiling: f64,
}

/// Jain's fairness index: `(Σx)² / (n·Σx²)`; 1 for nothing.
pub fn jain(values: &[f64]) -> f64 {
    let sum: f64 = values.iter().sum();
    let squares: f64 = values.iter().map(|value| value * value).sum();
    if squares > 0.0 { sum * sum / (values.len() as f64 * squares) } else { 1.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jain_is_one_for_equal_shares_and_one_over_n_for_one_who_has_all() {
        assert_eq!(jain(&[]), 1.0);
        assert_eq!(jain(&[3.0, 3.0, 3.0]), 1.0);
        assert_eq!(jain(&[9.0, 0.0, 0.0, 0.0]), 0.25);
    }
}
