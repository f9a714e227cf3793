//! What is remembered of programs beyond the flows that wait and run.

use std::{collections::BTreeMap, time::Duration};

use parking_lot::Mutex;
use router_core::Stamp;
use router_flow::{FlowId, snapshot::jain};
use router_telemetry::router::ProgramAwareMetrics;

/// Programs that are remembered at a time. Those that come beyond are served alike, and begin anew each time.
const MAX_PROGRAMS: usize = 10_000;

/// How long programs are remembered that are not at work.
#[derive(Clone, Copy, Debug)]
pub(super) struct Retention {
    /// `None`: for as long as there is room.
    pub(super) ttl: Option<Duration>,
    pub(super) sweep: Duration,
}

/// All programs of one plugin instance, over all bands.
pub(super) struct Programs {
    half_life: Option<Duration>,
    retention: Retention,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    by_id: BTreeMap<FlowId, Program>,
    swept: Stamp,
}

#[derive(Clone, Copy, Debug, Default)]
struct Program {
    /// In tokens, as of `at`.
    service: f64,
    at: Stamp,
    n_waits: u64,
    waited: Duration,
    /// Bands in which something of it waits or runs, or did lately.
    n_bands: usize,
    left: Stamp,
}

impl Programs {
    pub(super) fn new(half_life: Option<Duration>, retention: Retention) -> Self {
        Self { half_life, retention, inner: Mutex::default() }
    }

    /// The program is at work. Gives the service that it had before.
    pub(super) fn came(&self, now: Stamp, id: &FlowId) -> f64 {
        let mut inner = self.inner.lock();
        self.sweep(&mut inner, now);
        if !inner.by_id.contains_key(id) && inner.by_id.len() >= MAX_PROGRAMS {
            return 0.0;
        }
        let program = inner.by_id.entry(id.clone()).or_default();
        program.n_bands += 1;
        self.pass(program, now);
        program.service
    }

    pub(super) fn left(&self, now: Stamp, id: &FlowId) {
        let mut inner = self.inner.lock();
        if let Some(program) = inner.by_id.get_mut(id) {
            program.n_bands = program.n_bands.saturating_sub(1);
            program.left = now;
        }
    }

    pub(super) fn waited(&self, id: &FlowId, wait: Duration) {
        if let Some(program) = self.inner.lock().by_id.get_mut(id) {
            program.n_waits += 1;
            program.waited += wait;
        }
    }

    pub(super) fn attained(&self, now: Stamp, id: &FlowId, tokens: f64) {
        if let Some(program) = self.inner.lock().by_id.get_mut(id) {
            self.pass(program, now);
            program.service += tokens;
        }
    }

    /// Brings the metrics up to date.
    pub(super) fn publish(&self, metrics: &ProgramAwareMetrics, now: Stamp) {
        let mut inner = self.inner.lock();
        self.sweep(&mut inner, now);
        inner.by_id.values_mut().for_each(|program| self.pass(program, now));
        let service: Vec<f64> = inner.by_id.values().map(|program| program.service).collect();
        metrics.jains_fairness_index.set(jain(&service));
        let waits = inner.by_id.iter().filter(|(_, program)| program.n_waits > 0);
        metrics.avg_wait.replace(waits.map(|(id, program)| {
            let millis = program.waited.as_secs_f64() * 1_000.0;
            ([metrics.names.show(id.as_str())], millis / program.n_waits as f64)
        }));
        metrics.attained_service.replace(
            inner
                .by_id
                .iter()
                .map(|(id, program)| ([metrics.names.show(id.as_str())], program.service)),
        );
    }

    fn pass(&self, program: &mut Program, now: Stamp) {
        if let Some(half_life) = self.half_life {
            let half_lives = now.since(program.at).as_secs_f64() / half_life.as_secs_f64();
            program.service *= (-half_lives).exp2();
        }
        program.at = program.at.max(now);
    }

    fn sweep(&self, inner: &mut Inner, now: Stamp) {
        let Some(ttl) = self.retention.ttl else { return };
        if now.since(inner.swept) >= self.retention.sweep {
            inner.swept = now;
            inner.by_id.retain(|_, program| program.n_bands > 0 || now.since(program.left) < ttl);
        }
    }
}
