//! What the handlers of one server share.

use std::sync::{
    Arc, OnceLock, Weak,
    atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering},
};

use bytes::Bytes;
use parking_lot::Mutex;
use router_core::time::Stamp;
use router_rt::{Clock, Offload, Rng};
use tokio::sync::Notify;

use super::{
    adapters::Adapters,
    cell::Cell,
    config::{ConfigError, Runtime, ServerConfig},
    fake::FakeLora,
    faults::{Fate, MetricsFault},
    stats::{Recorder, ServerStats},
};
use crate::model::EngineSignals;

/// Sets of adapters that the metrics page remembers; vLLM remembers all.
const MAX_LORA_SERIES: usize = 64;
/// Long bodies that are read at a time; further ones wait.
const MAX_LONG_BODIES: usize = 2;

/// One simulated server.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) index: u32,
    pub(crate) config: ServerConfig,
    pub(crate) seed: u64,
    pub(crate) clock: Clock,
    pub(crate) started: Stamp,
    pub(crate) cell: Mutex<Cell>,
    /// Tells the driver that the engine's plans have changed.
    pub(crate) wake: Notify,
    pub(crate) adapters: Mutex<Adapters>,
    pub(crate) recorder: Arc<Recorder>,
    pub(crate) asleep: AtomicBool,
    pub(crate) offload: Offload,
    siblings: Arc<Siblings>,
    port: AtomicU16,
    runtime: Mutex<Arc<Runtime>>,
    rng: Mutex<Rng>,
    next_id: AtomicU64,
    lora_series: Mutex<Vec<FakeLora>>,
    frozen_page: Mutex<Option<Bytes>>,
}

/// All servers of a process, set once they exist.
#[derive(Debug, Default)]
pub(crate) struct Siblings(OnceLock<Vec<Weak<State>>>);

impl Siblings {
    pub(crate) fn set(&self, states: &[Arc<State>]) {
        self.0.get_or_init(|| states.iter().map(Arc::downgrade).collect());
    }
}

impl State {
    pub(crate) fn new(
        index: u32,
        config: ServerConfig,
        seed: u64,
        clock: Clock,
        siblings: Arc<Siblings>,
    ) -> Result<Self, ConfigError> {
        // Servers differ in noise and failures, not in what they say.
        let mut rng = Rng::seeded(seed ^ (u64::from(index) << 32));
        Ok(Self {
            index,
            seed,
            clock,
            started: clock.now(),
            cell: Mutex::new(Cell::new(config.profile.clone(), rng.next_u64())?),
            wake: Notify::new(),
            adapters: Mutex::new(Adapters::new(&config.lora_modules)?),
            recorder: Arc::new(Recorder::new(config.stats_requests)),
            asleep: AtomicBool::new(false),
            offload: Offload::pool(MAX_LONG_BODIES),
            siblings,
            port: AtomicU16::new(0),
            runtime: Mutex::new(Arc::new(config.runtime.clone())),
            rng: Mutex::new(rng),
            next_id: AtomicU64::new(0),
            lora_series: Mutex::default(),
            frozen_page: Mutex::default(),
            config,
        })
    }

    pub(crate) fn runtime(&self) -> Arc<Runtime> {
        Arc::clone(&self.runtime.lock())
    }

    pub(crate) fn set_runtime(&self, runtime: Runtime) {
        if runtime.faults.metrics_fault != MetricsFault::Stale {
            *self.frozen_page.lock() = None;
        }
        *self.runtime.lock() = Arc::new(runtime);
    }

    pub(crate) fn sibling(&self, index: u32) -> Option<Arc<State>> {
        self.siblings.0.get()?.get(index as usize)?.upgrade()
    }

    /// The port it listens on.
    pub(crate) fn port(&self) -> u16 {
        self.port.load(Ordering::Relaxed)
    }

    pub(crate) fn set_port(&self, port: u16) {
        self.port.store(port, Ordering::Relaxed);
    }

    pub(crate) fn pod_name(&self) -> String {
        if self.config.pod_name.is_empty() {
            format!("sim-{}", self.index)
        } else {
            self.config.pod_name.clone()
        }
    }

    /// The first name of the base model.
    pub(crate) fn model_name(&self) -> &str {
        self.config.served_model_name.first().unwrap_or(&self.config.model)
    }

    pub(crate) fn stats(&self) -> ServerStats {
        let engine_requests = self.cell.lock().n_waiters() as u64;
        ServerStats { engine_requests, ..self.recorder.stats() }
    }

    pub(crate) fn draw_fate(&self) -> Fate {
        let runtime = self.runtime();
        runtime.faults.draw(&mut self.rng.lock())
    }

    pub(crate) fn with_rng<T>(&self, draw: impl FnOnce(&mut Rng) -> T) -> T {
        draw(&mut self.rng.lock())
    }

    /// Sixteen hexadecimal digits, different for each call.
    pub(crate) fn fresh_id(&self) -> String {
        let nth = self.next_id.fetch_add(1, Ordering::Relaxed);
        let mut rng = Rng::seeded(self.seed ^ (u64::from(self.index) << 48) ^ nth.rotate_left(16));
        format!("{:016x}", rng.next_u64())
    }

    pub(crate) fn unix_seconds(&self) -> u64 {
        self.clock.unix_now().as_secs()
    }

    /// Whether `startup-duration` is over.
    pub(crate) fn is_ready(&self) -> bool {
        self.clock.now().since(self.started) >= self.config.startup_duration.0
    }

    pub(crate) fn signals(&self) -> EngineSignals {
        self.cell.lock().signals(self.clock.now())
    }

    /// All series of adapter sets: those seen before with their time, the present one last.
    pub(crate) fn lora_series(&self, signals: &EngineSignals) -> Vec<FakeLora> {
        let adapters = self.adapters.lock();
        let names = |ids: &[crate::model::AdapterId]| {
            ids.iter().filter_map(|&id| adapters.name(id)).collect::<Vec<_>>().join(",")
        };
        let (running, waiting) =
            (names(&signals.running_adapters), names(&signals.waiting_adapters));
        let timestamp = self.clock.unix_now().as_secs_f64();
        let mut series = self.lora_series.lock();
        series.retain(|lora| lora.running != running || lora.waiting != waiting);
        if series.len() == MAX_LORA_SERIES {
            series.remove(0);
        }
        series.push(FakeLora { running, waiting, timestamp });
        series.clone()
    }

    /// The page that a stale server shows: the first one asked for.
    pub(crate) fn frozen_page(&self, fresh: impl FnOnce() -> String) -> Bytes {
        self.frozen_page.lock().get_or_insert_with(|| Bytes::from(fresh())).clone()
    }

    /// Drives the engine: sleeps until its next event, or until its plans change.
    pub(crate) async fn drive(self: Arc<Self>) {
        loop {
            let next = self.cell.lock().advance(self.clock.now());
            match next {
                None => self.wake.notified().await,
                Some(at) => {
                    tokio::select! {
                        biased;
                        () = self.wake.notified() => {}
                        () = self.clock.sleep_until(at) => {}
                    }
                }
            }
        }
    }
}
