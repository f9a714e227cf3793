//! Simulated model servers over HTTP, on the engine model.
//!
//! [`run`] starts any number of servers in this process, each with an engine, a port or address and settings of
//! its own. They speak the OpenAI, Anthropic and vLLM paths, stream, count tokens, show metrics in vLLM's words
//! (or SGLang's, TensorRT-LLM's, Triton's), know LoRA adapters, and fail on request ([`Faults`]).
//! Texts come from a seed and a dummy tokenizer; times, queues, usage and cached tokens from the engine.
//!
//! Time is tokio's: under a paused clock a server answers in no time at all, with the same stamps.
//!
//! `GET /sim/stats` shows what a server saw; `POST /admin/config` changes its settings. Both take
//! `?server=<index>` for another server of the process.
//!
//! ```
//! use router_rt::Tasks;
//! use router_sim::server::{SimConfig, run};
//!
//! # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
//! let tasks = Tasks::new();
//! let config = SimConfig { port: 0, servers: 2, ..SimConfig::default() };
//! let sim = run(config, &tasks).await.unwrap();
//! assert_eq!(sim.addresses().len(), 2);
//! # });
//! ```

mod adapters;
mod answer;
mod api;
mod base64;
mod cell;
mod config;
mod control;
mod error;
mod exchange;
mod fake;
mod faults;
mod job;
mod keys;
mod listen;
mod metrics;
mod prompt;
mod route;
mod span;
mod sse;
mod state;
mod stats;
mod tokens;

use std::{io, net::SocketAddr, sync::Arc};

use parking_lot::Mutex;
use router_rt::{Clock, Tasks};
use tokio::net::TcpListener;

pub use self::{
    config::{
        ConfigError, LoraModule, MetricsDialect, Mode, Runtime, ServerConfig, SimConfig, Spread,
    },
    fake::{FakeLora, FakeMetrics},
    faults::{FailureType, Faults, MetricsFault},
    keys::UnknownKey,
    span::Span,
    stats::{Outcome, RequestRecord, ServerStats},
};
use self::{
    listen::Incarnation,
    state::{Siblings, State},
};
use crate::model::EngineSignals;

/// Why simulated servers do not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SimError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error("cannot listen on {address}")]
    Listen { address: SocketAddr, source: io::Error },
}

/// Simulated servers at work. They stop when the owner of their tasks does.
#[derive(Debug)]
pub struct RunningSim {
    servers: Vec<SimServer>,
}

/// One simulated server.
#[derive(Debug)]
pub struct SimServer {
    address: SocketAddr,
    state: Arc<State>,
    tasks: Tasks,
    /// None while it is dead.
    incarnation: Arc<Mutex<Option<Incarnation>>>,
}

/// Starts all servers of a configuration as tasks of `tasks`. Every address is bound when this returns, except
/// those of servers that refuse connections while they start up.
pub async fn run(config: SimConfig, tasks: &Tasks) -> Result<RunningSim, SimError> {
    let clock = Clock::new();
    let siblings = Arc::new(Siblings::default());
    let (mut servers, mut listeners) = (Vec::new(), Vec::new());
    for (index, (address, server)) in config.resolve()?.into_iter().enumerate() {
        let state = State::new(index as u32, server, config.seed, clock, Arc::clone(&siblings))?;
        let (listener, address) = bind(address).await?;
        state.set_port(address.port());
        let incarnation = Arc::default();
        servers.push(SimServer {
            address,
            state: Arc::new(state),
            tasks: tasks.child(),
            incarnation,
        });
        listeners.push(listener);
    }
    siblings.set(&servers.iter().map(|server| Arc::clone(&server.state)).collect::<Vec<_>>());
    for (server, listener) in servers.iter().zip(listeners) {
        server.tasks.spawn_cancellable("sim engine", Arc::clone(&server.state).drive());
        server.start(listener);
    }
    Ok(RunningSim { servers })
}

impl RunningSim {
    /// The address of each server, in order.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.servers.iter().map(|server| server.address).collect()
    }

    pub fn servers(&self) -> &[SimServer] {
        &self.servers
    }
}

impl SimServer {
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What it saw.
    pub fn stats(&self) -> ServerStats {
        self.state.stats()
    }

    /// Forgets what it saw.
    pub fn reset_stats(&self) {
        self.state.recorder.reset();
    }

    /// What its engine shows at this moment.
    pub fn signals(&self) -> EngineSignals {
        self.state.signals()
    }

    /// Its present failures and fake metrics.
    pub fn runtime(&self) -> Runtime {
        (*self.state.runtime()).clone()
    }

    /// Replaces them.
    pub fn set_runtime(&self, runtime: Runtime) -> Result<(), ConfigError> {
        runtime.validate()?;
        self.state.set_runtime(runtime);
        Ok(())
    }

    /// Dies as a killed process does: connections are reset, new ones refused. Nothing happens to a dead one.
    pub async fn kill(&self) {
        let incarnation = self.incarnation.lock().take();
        if let Some(incarnation) = incarnation {
            incarnation.kill().await;
        }
    }

    /// Listens again on the same address after [`kill`](Self::kill), with the same engine and settings.
    pub async fn revive(&self) -> Result<(), SimError> {
        if self.incarnation.lock().is_none() {
            let (listener, _) = bind(self.address).await?;
            *self.incarnation.lock() =
                Some(Incarnation::start(listener, Arc::clone(&self.state), &self.tasks));
        }
        Ok(())
    }

    fn start(&self, listener: TcpListener) {
        let state = &self.state;
        if !state.config.startup_refuse || state.is_ready() {
            *self.incarnation.lock() =
                Some(Incarnation::start(listener, Arc::clone(state), &self.tasks));
            return;
        }
        // The port was bound to learn its number; until the start-up is over nobody listens on it.
        drop(listener);
        let (address, state, tasks) = (self.address, Arc::clone(state), self.tasks.clone());
        let incarnation = Arc::clone(&self.incarnation);
        self.tasks.spawn_cancellable("sim startup", async move {
            state.clock.sleep_until(state.started + state.config.startup_duration.0).await;
            match bind(address).await {
                Ok((listener, _)) => {
                    *incarnation.lock() = Some(Incarnation::start(listener, state, &tasks));
                }
                Err(error) => tracing::warn!(%error, "a simulated server did not come up"),
            }
        });
    }
}

async fn bind(address: SocketAddr) -> Result<(TcpListener, SocketAddr), SimError> {
    listen::bind(address).await.map_err(|source| SimError::Listen { address, source })
}
