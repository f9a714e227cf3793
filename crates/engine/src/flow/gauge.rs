//! How full the pool is, by its detector and by stage (`spec/request-path.md` §5.4).

use std::{
    collections::HashMap,
    sync::{Arc, Weak},
    time::Duration,
};

use parking_lot::Mutex;
use router_core::{Endpoint, EndpointIndex, PoolSnapshot, Stamp};
use router_flow::{InStages, PoolSignal, Size, StageLoad, SubsetId, SubsetInUse, SubsetSignal};
use router_framework::{Freshness, Increments, PoolView, SaturationDetector, loader::Named};
use router_telemetry::{
    RouterMetrics,
    metrics::{Family, Gauge},
    router::FlowMetrics,
};

use super::{FlowController, earlier::Earlier};
use crate::{datastore::Datastore, health::HealthBook, isolate::isolated, subset};

/// Label that says which stages an endpoint serves.
const ROLE_LABEL: &str = "llm-d.ai/role";

/// Requests that an endpoint takes while nothing is known of any endpoint: the default of
/// `concurrency-detector`.
pub(crate) const MAX_IN_FLIGHT_UNKNOWN: u64 = 100;

/// Time between a request's place in our counts and its place in the model server's.
const ON_THE_WAY: Duration = Duration::from_millis(10);

/// Reads the detector of a pool, stage by stage.
///
/// An endpoint whose signals are stale is full, if others are not. Where all are stale nobody knows anything,
/// which is no reason to stop: what is in flight counts instead. An endpoint that fails is no capacity, unless
/// all do.
pub struct PoolGauge {
    pub datastore: Arc<Datastore>,
    pub health: HealthBook,
    pub detector: Named<dyn SaturationDetector>,
    pub metrics: Arc<RouterMetrics>,
    pub freshness: Freshness,
    pub shown: ShownSignals,
    pub members: Members,
    pub earlier: Earlier,
}

/// Endpoints of subsets that are looked at for one reading. Subsets beyond that are as full as the pool.
const MAX_LOOKED_AT: usize = 20_000;

/// Subsets whose endpoints are remembered, besides all that were in use at the last reading of all.
const MAX_REMEMBERED: usize = 2_000;

/// Which endpoints the subsets in use have, so that this is worked out once for each pool.
#[derive(Default)]
pub struct Members(Mutex<HashMap<SubsetId, Found>>);

struct Found {
    /// Of the pool.
    version: u64,
    endpoints: Vec<Arc<Endpoint>>,
    /// Their numbers, in order.
    indexes: Arc<[EndpointIndex]>,
}

impl Found {
    fn new(subset: &SubsetId, pool: &PoolSnapshot) -> Self {
        let allowed = pool.endpoints().iter().filter(|endpoint| subset::has(subset, endpoint));
        let endpoints: Vec<_> = allowed.cloned().collect();
        let mut indexes: Vec<_> = endpoints.iter().map(|endpoint| endpoint.index()).collect();
        indexes.sort_unstable();
        Self { version: pool.version(), endpoints, indexes: indexes.into() }
    }
}

/// What the readings of a gauge show in metrics.
pub struct ShownSignals {
    stale: Arc<Gauge>,
    counting: Family<Gauge, 2>,
    pool: Arc<str>,
}

impl ShownSignals {
    /// `detector` and `pool` are their names.
    pub fn new(families: &FlowMetrics, detector: &str, pool: &str) -> Self {
        Self {
            stale: families.stale_endpoints.with([detector]),
            counting: families.counting_in_flight.clone(),
            pool: pool.into(),
        }
    }
}

/// What a detector says of a stage.
struct Reading {
    load: StageLoad,
    /// Up to when it shows everything.
    as_of: Stamp,
    n_stale: usize,
    /// Nothing is known of any endpoint.
    is_counted: bool,
}

/// What a detector says of endpoints, by stage.
struct Readings {
    prefill: Option<Reading>,
    decode: Option<Reading>,
}

impl Readings {
    fn both(&self) -> impl Iterator<Item = &Reading> {
        [&self.prefill, &self.decode].into_iter().flatten()
    }

    fn signal(&self, now: Stamp) -> PoolSignal {
        PoolSignal {
            has_endpoints: true,
            prefill: self.prefill.as_ref().map(|reading| reading.load),
            decode: self.decode.as_ref().map(|reading| reading.load),
            as_of: self.both().map(|reading| reading.as_of).min().unwrap_or(now),
        }
    }
}

/// What was sent to some endpoints.
struct Sent {
    n_placed: u64,
    /// By earlier configurations.
    earlier: InStages,
}

impl PoolGauge {
    /// The load of some endpoints; `None` when there are none.
    fn load(
        &self,
        endpoints: &[&Arc<Endpoint>],
        now: Stamp,
        (n_placed, earlier): (u64, Size),
    ) -> Option<Reading> {
        if endpoints.is_empty() {
            return None;
        }
        let view = PoolView { endpoints, now, freshness: self.freshness };
        let Named { ident, role } = &self.detector;
        let read = isolated(&self.metrics, ident, "SaturationDetector", || {
            let earlier = if role.sees_only_own() { earlier } else { Size::default() };
            (role.saturation(&view), role.increments(&view), earlier)
        });
        let known = read.filter(|(saturation, ..)| saturation.n_stale < endpoints.len());
        Some(match known {
            Some((saturation, Increments { per_request, per_token, as_of }, earlier)) => {
                let load = StageLoad { saturation: saturation.value, per_request, per_token };
                let load = load.with(earlier);
                // What is counted here needs no time to get here.
                let as_of = if as_of < now { as_of - ON_THE_WAY } else { now };
                Reading { load, as_of, n_stale: saturation.n_stale, is_counted: false }
            }
            None => {
                let max_requests = MAX_IN_FLIGHT_UNKNOWN * endpoints.len() as u64;
                let load = StageLoad::counted(n_placed, max_requests).with(earlier);
                Reading { load, as_of: now, n_stale: endpoints.len(), is_counted: true }
            }
        })
    }
}

impl PoolGauge {
    /// Asks about endpoints, of which there are some.
    fn stages(&self, mut endpoints: Vec<&Arc<Endpoint>>, now: Stamp, sent: &Sent) -> Readings {
        self.health.keep_well(&mut endpoints, now);
        let stage = |serves: fn(&Endpoint) -> bool, earlier: Size| {
            let those: Vec<_> = endpoints.iter().copied().filter(|e| serves(e)).collect();
            self.load(&those, now, (sent.n_placed, earlier))
        };
        let prefill = stage(serves_prefill, sent.earlier.prefill);
        let mut decode = stage(serves_decode, sent.earlier.decode);
        if prefill.is_none() && decode.is_none() {
            decode = self.load(&endpoints, now, (sent.n_placed, sent.earlier.decode));
        }
        Readings { prefill, decode }
    }

    fn show(&self, readings: &Readings) {
        for (stage, reading) in [("prefill", &readings.prefill), ("decode", &readings.decode)] {
            let labels = [&*self.shown.pool, stage];
            match reading {
                Some(reading) => {
                    let counting = self.shown.counting.with(labels);
                    counting.set(if reading.is_counted { 1.0 } else { 0.0 });
                }
                None => {
                    self.shown.counting.remove(labels);
                }
            }
        }
        let n_stale = readings.both().map(|reading| reading.n_stale as f64);
        self.shown.stale.set(n_stale.fold(0.0, f64::max));
    }
}

impl super::Gauge for PoolGauge {
    fn read(&self, now: Stamp, n_placed: u64) -> PoolSignal {
        let snapshot = self.datastore.snapshot();
        if snapshot.is_empty() {
            return PoolSignal::empty(now);
        }
        let sent = Sent { n_placed, earlier: self.earlier.in_pool() };
        let readings = self.stages(snapshot.endpoints().iter().collect(), now, &sent);
        self.show(&readings);
        readings.signal(now)
    }

    fn read_subsets(
        &self,
        now: Stamp,
        (pool, n_placed): (&PoolSignal, u64),
        subsets: Vec<SubsetInUse>,
        are_all: bool,
    ) -> Vec<SubsetSignal> {
        let snapshot = self.datastore.snapshot();
        if snapshot.is_empty() && pool.has_endpoints {
            // The last one has just left, which the next reading of the pool says: an empty pool is waited for.
            return Vec::new();
        }
        let earlier = self.earlier.alive();
        let mut members = self.members.0.lock();
        // What is not asked for any more is forgotten.
        let mut known = if are_all { std::mem::take(&mut *members) } else { HashMap::new() };
        let mut n_looked_at = 0;
        let signals = subsets.into_iter().map(|SubsetInUse { id, n_placed: n_own }| {
            let found = known
                .remove(&id)
                .or_else(|| members.remove(&id))
                .filter(|found| found.version == snapshot.version());
            let found = found.unwrap_or_else(|| Found::new(&id, &snapshot));
            let share = found.endpoints.len() as f64 / snapshot.len().max(1) as f64;
            n_looked_at += found.endpoints.len();
            let signal = if found.endpoints.is_empty() {
                PoolSignal::empty(now)
            } else if n_looked_at > MAX_LOOKED_AT {
                PoolSignal { has_endpoints: true, ..*pool }
            } else {
                // Of what runs in the pool, what is not known to run here is taken to run everywhere alike.
                let n_placed = n_own.max((n_placed as f64 * share) as u64);
                let sent = Sent { n_placed, earlier: earlier.in_subset(&id, share) };
                self.stages(found.endpoints.iter().collect(), now, &sent).signal(now)
            };
            let endpoints = Arc::clone(&found.indexes);
            if are_all || members.len() < MAX_REMEMBERED {
                members.insert(id.clone(), found);
            }
            SubsetSignal { id, signal, endpoints, share }
        });
        signals.collect()
    }

    fn follows(&self, earlier: Vec<Weak<FlowController>>) -> bool {
        self.earlier.set(earlier);
        self.detector.role.sees_only_own()
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
    use router_core::{EndpointSlot, EndpointSpec};
    use router_framework::{EndpointSink, Saturation, loader::Ident};
    use router_telemetry::{BUILD, Registry};

    use super::{super::Gauge as _, *};
    use crate::settings::HealthSettings;

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
        let registry = Registry::default();
        let metrics = Arc::new(RouterMetrics::new(&registry, &BUILD).unwrap());
        let families = FlowMetrics::new(&registry).unwrap();
        let datastore = Datastore::new(1, Vec::new(), Arc::clone(&metrics), None);
        let spec = |(at, (role, port)): (usize, &(&str, u16))| {
            let spec = EndpointSpec::new("d", &format!("e{at}"), &format!("10.0.0.{at}"), *port);
            match *role {
                "" => spec,
                "dead" => spec.with_labels([("state", "dead")]),
                role => spec.with_labels([(ROLE_LABEL, role)]),
            }
        };
        datastore.replace(endpoints.iter().enumerate().map(spec).collect());
        let ident = Ident { name: "by-port".into(), plugin_type: "by-port".into() };
        let detector = Named { ident, role: Arc::new(ByPort) as _ };
        let freshness = Freshness::new(Duration::from_secs(2), Duration::from_millis(50));
        let shown = ShownSignals::new(&families, "by-port", "pool");
        let datastore = Arc::new(datastore);
        let health = HealthBook::new(EndpointSlot::bound(0), HealthSettings::default());
        let now = Stamp::from_nanos(1 << 40);
        for endpoint in datastore.snapshot().endpoints() {
            if endpoint.label("state") == Some("dead") {
                health.unreachable(endpoint, now);
            }
        }
        let members = Members::default();
        let earlier = Earlier::default();
        let gauge =
            PoolGauge { datastore, health, detector, metrics, freshness, shown, members, earlier };
        let signal = gauge.read(now, 50);
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
    fn endpoints_that_fail_are_no_capacity_unless_all_do() {
        assert_eq!(read(&[("", 30), ("dead", 80)]), (true, None, Some(0.3)));
        assert_eq!(read(&[("dead", 30), ("dead", 80)]), (true, None, Some(0.8)));
    }

    #[test]
    fn a4_30_stale_signals_of_all_are_no_reason_to_stop() {
        assert_eq!(read(&[("", 950), ("", 20)]), (true, None, Some(9.5)));
        assert_eq!(read(&[("", 950), ("", 960)]), (true, None, Some(0.25)));
    }
}
