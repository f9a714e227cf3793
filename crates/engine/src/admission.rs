//! Admission without flow control: sheddable requests are refused while the pool is saturated
//! (`spec/request-path.md` §5.1).

use std::time::Duration;

use router_core::{Candidates, Rejection, Stamp};
use router_framework::{Freshness, PoolView, SaturationDetector};

use crate::flow::MAX_IN_FLIGHT_UNKNOWN;

/// When a shed client may try again. Without a queue there is no drain rate to compute it from.
pub(crate) const RETRY_AFTER: Duration = Duration::from_secs(1);

/// What says how full the pool is.
pub(crate) struct Load<'a> {
    pub(crate) detector: &'a dyn SaturationDetector,
    pub(crate) freshness: Freshness,
    pub(crate) now: Stamp,
    /// Requests that this router has sent and that have not ended, and the endpoints that share them.
    pub(crate) n_in_flight: u64,
    pub(crate) n_endpoints: usize,
    /// Counts a request that is judged without a signal.
    pub(crate) note_blind: &'a dyn Fn(),
}

/// Refuses a request of negative priority when the candidates are saturated. An empty set of candidates is
/// not saturation: the request goes on and is told that there are no endpoints (defect A.3#23 of
/// `spec/request-path.md`). Neither are candidates of which nothing is known (defect A.4#41): what is in
/// flight counts for them.
pub(crate) fn admit(
    priority: i32,
    candidates: &Candidates,
    load: &Load<'_>,
) -> Result<(), Rejection> {
    if priority >= 0 || candidates.is_empty() {
        return Ok(());
    }
    let endpoints: Vec<_> = candidates.iter().map(|(_, endpoint)| endpoint).collect();
    let view = PoolView { endpoints: &endpoints, now: load.now, freshness: load.freshness };
    let said = load.detector.saturation(&view);
    let is_full = if said.n_stale < endpoints.len() {
        said.value >= 1.0
    } else {
        (load.note_blind)();
        load.n_in_flight >= MAX_IN_FLIGHT_UNKNOWN * load.n_endpoints as u64
    };
    if !is_full {
        return Ok(());
    }
    Err(Rejection::saturated("system saturated, sheddable request dropped")
        .with_retry_after(RETRY_AFTER))
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use router_core::{EndpointSpec, ErrorCode, Pool};
    use router_framework::Saturation;

    use super::*;

    struct Fixed(Saturation);

    impl SaturationDetector for Fixed {
        fn saturation(&self, _: &PoolView<'_>) -> Saturation {
            self.0
        }
    }

    /// Whether a request of this priority is shed by a pool of which that is said.
    fn is_shed(pool: &Pool, priority: i32, said: Saturation, n_in_flight: u64) -> bool {
        let candidates = Candidates::all(pool.snapshot());
        let n_blind = Cell::new(0);
        let load = Load {
            detector: &Fixed(said),
            freshness: Freshness::new(Duration::from_secs(2), Duration::from_millis(50)),
            now: Stamp::ORIGIN,
            n_in_flight,
            n_endpoints: candidates.len(),
            note_blind: &|| n_blind.set(n_blind.get() + 1),
        };
        let verdict = admit(priority, &candidates, &load);
        let is_judged = priority < 0 && !candidates.is_empty();
        let is_blind = is_judged && said.n_stale == candidates.len();
        assert_eq!(n_blind.get(), u64::from(is_blind));
        if let Err(rejection) = &verdict {
            assert_eq!(rejection.code, ErrorCode::ResourceExhausted);
            assert_eq!(rejection.reason.unwrap().as_str(), "rejected-saturated");
        }
        verdict.is_err()
    }

    #[test]
    fn a23_only_sheddable_requests_are_shed_and_an_empty_pool_is_not_saturated() {
        let pool = Pool::new(0);
        let check = |priority, value, shed| {
            let said = Saturation { value, n_stale: 0 };
            let is_shed = is_shed(&pool, priority, said, u64::MAX);
            assert_eq!(is_shed, shed, "priority {priority} at {value}");
        };
        check(-1, 1.0, false);
        pool.replace(vec![EndpointSpec::new("d", "a", "10.0.0.1", 1)]);
        check(-1, 1.0, true);
        check(-1, 0.99, false);
        check(0, 5.0, false);
    }

    #[test]
    fn a4_41_what_is_in_flight_counts_where_no_candidate_has_signals() {
        let pool = Pool::new(0);
        let specs = [1, 2].map(|port| EndpointSpec::new("d", &port.to_string(), "10.0.0.1", port));
        pool.replace(specs.into());
        let check = |n_stale, n_in_flight, shed| {
            let is_shed = is_shed(&pool, -1, Saturation { value: 1.0, n_stale }, n_in_flight);
            assert_eq!(is_shed, shed, "{n_stale} stale, {n_in_flight} in flight");
        };
        check(1, 0, true);
        check(2, 0, false);
        check(2, 199, false);
        check(2, 200, true);
    }
}
