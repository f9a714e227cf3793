//! Admission without flow control: sheddable requests are refused while the pool is saturated
//! (`spec/request-path.md` §5.1).

use std::time::Duration;

use router_core::{Candidates, Rejection, Stamp};
use router_framework::{Freshness, PoolView, SaturationDetector};

/// When a shed client may try again. Without a queue there is no drain rate to compute it from.
pub(crate) const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Refuses a request of negative priority when the candidates are saturated. An empty set of candidates is
/// not saturation: the request goes on and is told that there are no endpoints (defect A.3#23 of
/// `spec/request-path.md`).
pub(crate) fn admit(
    priority: i32,
    candidates: &Candidates,
    detector: &dyn SaturationDetector,
    freshness: Freshness,
    now: Stamp,
) -> Result<(), Rejection> {
    if priority >= 0 || candidates.is_empty() {
        return Ok(());
    }
    let endpoints: Vec<_> = candidates.iter().map(|(_, endpoint)| endpoint).collect();
    let view = PoolView { endpoints: &endpoints, now, freshness };
    if detector.saturation(&view).value < 1.0 {
        return Ok(());
    }
    Err(Rejection::saturated("system saturated, sheddable request dropped")
        .with_retry_after(RETRY_AFTER))
}

#[cfg(test)]
mod tests {
    use router_core::{EndpointSpec, ErrorCode, Pool};
    use router_framework::Saturation;

    use super::*;

    struct Fixed(f64);

    impl SaturationDetector for Fixed {
        fn saturation(&self, _: &PoolView<'_>) -> Saturation {
            Saturation { value: self.0, n_stale: 0 }
        }
    }

    #[test]
    fn a23_only_sheddable_requests_are_shed_and_an_empty_pool_is_not_saturated() {
        let freshness = Freshness::new(Duration::from_secs(2), Duration::from_millis(50));
        let pool = Pool::new(0);
        let check = |priority, saturation, shed| {
            let candidates = Candidates::all(pool.snapshot());
            let verdict =
                admit(priority, &candidates, &Fixed(saturation), freshness, Stamp::ORIGIN);
            assert_eq!(verdict.is_err(), shed, "priority {priority} at {saturation}");
            if let Err(rejection) = verdict {
                assert_eq!(rejection.code, ErrorCode::ResourceExhausted);
                assert_eq!(rejection.reason.unwrap().as_str(), "rejected-saturated");
            }
        };
        check(-1, 1.0, false);
        pool.replace(vec![EndpointSpec::new("d", "a", "10.0.0.1", 1)]);
        check(-1, 1.0, true);
        check(-1, 0.99, false);
        check(0, 5.0, false);
    }
}
