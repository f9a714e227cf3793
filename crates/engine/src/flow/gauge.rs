//! How full the pool is, by its detector and by stage (`spec/request-path.md` §5.4).

use std::{sync::Arc, time::Duration};

use router_core::{Endpoint, Stamp};
use router_flow::{PoolSignal, StageLoad};
use router_framework::{Freshness, Increments, PoolView, SaturationDetector, loader::Named};
use router_telemetry::RouterMetrics;

use super::Gauge;
use crate::{datastore::Datastore, isolate::isolated};

/// Label that says which stages an endpoint serves.
const ROLE_LABEL: &str = "llm-d.ai/role";

/// Requests that an endpoint takes while nothing is known of any endpoint: the default of
/// `concurrency-detector`.
const MAX_IN_FLIGHT_UNKNOWN: u64 = 100;

/// Time between a request's place in our counts and its place in the model server's.
const ON_THE_WAY: Duration = Duration::from_millis(10);

/// Reads the detector of a pool, stage by stage.
///
/// An endpoint whose signals are stale is full, if others are not. Where all are stale nobody knows anything,
/// which is no reason to stop: what is in flight counts instead.
pub struct PoolGauge {
    datastore: Arc<Datastore>,
    detector: Named<dyn SaturationDetector>,
    metrics: Arc<RouterMetrics>,
    freshness: Freshness,
}

impl PoolGauge {
    pub fn new(
        datastore: Arc<Datastore>,
        detector: Named<dyn SaturationDetector>,
        metrics: Arc<RouterMetrics>,
        freshness: Freshness,
    ) -> Self {
        Self { datastore, detector, metrics, freshness }
    }

    /// The load of some endpoints, and up to when it shows everything; `None` when there are none.
    fn load(
        &self,
        endpoints: &[&Arc<Endpoint>],
        now: Stamp,
        n_placed: u64,
    ) -> Option<(StageLoad, Stamp)> {
        if endpoints.is_empty() {
            return None;
        }
        let view = PoolView { endpoints, now, freshness: self.freshness };
        let Named { ident, role } = &self.detector;
        let read = isolated(&self.metrics, ident, "SaturationDetector", || {
            (role.saturation(&view), role.increments(&view))
        });
        let known = read.filter(|(saturation, _)| saturation.n_stale < endpoints.len());
        Some(match known {
            Some((saturation, Increments { per_request, per_token, as_of })) => {
                let load = StageLoad { saturation: saturation.value, per_request, per_token };
                // What is counted here needs no time to get here.
                let as_of = if as_of < now { as_of - ON_THE_WAY } else { now };
                (load, as_of)
            }
            None => {
                let max_requests = MAX_IN_FLIGHT_UNKNOWN * endpoints.len() as u64;
                (StageLoad::counted(n_placed, max_requests), now)
            }
        })
    }
}

impl Gauge for PoolGauge {
    fn read(&self, now: Stamp, n_placed: u64) -> PoolSignal {
        let snapshot = self.datastore.snapshot();
        let endpoints: Vec<&Arc<Endpoint>> = snapshot.endpoints().iter().collect();
        if endpoints.is_empty() {
            return PoolSignal::empty(now);
        }
        let stage = |serves: fn(&Endpoint) -> bool| {
            let those: Vec<_> = endpoints.iter().copied().filter(|e| serves(e)).collect();
            self.load(&those, now, n_placed)
        };
        let (prefill, mut decode) = (stage(serves_prefill), stage(serves_decode));
        if prefill.is_none() && decode.is_none() {
            decode = self.load(&endpoints, now, n_placed);
        }
        let as_of = [&prefill, &decode].into_iter().flatten().map(|(_, as_of)| *as_of).min();
        PoolSignal {
            has_endpoints: true,
            prefill: prefill.map(|(load, _)| load),
            decode: decode.map(|(load, _)| load),
            as_of: as_of.unwrap_or(now),
        }
    }
}

fn serves_prefill(endpoint: &Endpoint) -> bool {
    matches!(
        endpoint.label(ROLE_LABEL),
        Some("prefill" | "encode-prefill" | "prefill-decode" | "both" | "encode-prefill-decode")
    )
}

fn serves_decode(endpoint: &Endpoint) -> bool {
    matches!(
        endpoint.label(ROLE_LABEL),
        None | Some("decode" | "prefill-decode" | "both" | "encode-prefill-decode")
    )
}

#[cfg(test)]
mod tests {
    use router_core::EndpointSpec;
    use router_framework::{EndpointSink, Saturation, loader::Ident};
    use router_telemetry::{BUILD, Registry};

    use super::*;

    /// As full as the most loaded endpoint's port says, in hundredths; those from 900 on are stale.
    struct ByPort;

    impl SaturationDetector for ByPort {
        fn saturation(&self, view: &PoolView<'_>) -> Saturation {
            let ports = view.endpoints.iter().map(|endpoint| endpoint.spec().port);
            let value = f64::from(ports.clone().max().unwrap_or(100)) / 100.0;
            Saturation { value, n_stale: ports.filter(|port| *port >= 900).count() }
        }

        fn increments(&self, view: &PoolView<'_>) -> Increments {
            Increments { per_request: 0.25, per_token: 0.0, as_of: view.now }
        }
    }

    /// Roles and ports of the pool's endpoints; gives the saturation of both stages.
    fn read(endpoints: &[(&str, u16)]) -> (bool, Option<f64>, Option<f64>) {
        let metrics = Arc::new(RouterMetrics::new(&Registry::default(), &BUILD).unwrap());
        let datastore = Datastore::new(0, Vec::new(), Arc::clone(&metrics), None);
        let spec = |(at, (role, port)): (usize, &(&str, u16))| {
            let spec = EndpointSpec::new("d", &format!("e{at}"), &format!("10.0.0.{at}"), *port);
            if role.is_empty() { spec } else { spec.with_labels([(ROLE_LABEL, *role)]) }
        };
        datastore.replace(endpoints.iter().enumerate().map(spec).collect());
        let ident = Ident { name: "by-port".into(), plugin_type: "by-port".into() };
        let detector = Named { ident, role: Arc::new(ByPort) as _ };
        let freshness = Freshness::new(Duration::from_secs(2), Duration::from_millis(50));
        let gauge = PoolGauge::new(Arc::new(datastore), detector, metrics, freshness);
        let signal = gauge.read(Stamp::from_nanos(1 << 40), 50);
        let value = |load: Option<StageLoad>| load.map(|load| load.saturation);
        (signal.has_endpoints, value(signal.prefill), value(signal.decode))
    }

    #[test]
    fn stages_are_those_of_the_role_label() {
        assert_eq!(read(&[]), (false, None, None));
        assert_eq!(read(&[("", 30), ("", 40)]), (true, None, Some(0.4)));
        assert_eq!(read(&[("prefill", 70), ("decode", 20)]), (true, Some(0.7), Some(0.2)));
        assert_eq!(read(&[("both", 70), ("encode", 90)]), (true, Some(0.7), Some(0.7)));
        // Where no endpoint serves a known stage, all count.
        assert_eq!(read(&[("encode", 60), ("else", 10)]), (true, None, Some(0.6)));
    }

    #[test]
    fn a30_stale_signals_of_all_are_no_reason_to_stop() {
        assert_eq!(read(&[("", 950), ("", 20)]), (true, None, Some(9.5)));
        assert_eq!(read(&[("", 950), ("", 960)]), (true, None, Some(0.25)));
    }
}
