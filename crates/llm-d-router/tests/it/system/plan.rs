//! What a test wants to run.

use anyhow::Context;
use router_testkit::envoy::SubsetHint;
use serde_json::{Value, json};
use tokio::sync::Semaphore;

use super::{
    Outcome, World,
    document::{self, Entry},
};

/// What clients connect to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Front {
    /// `llm-d-router serve`.
    Serve,
    /// Envoy, which asks `llm-d-router epp` in the clear.
    Envoy,
    /// Envoy, which asks `llm-d-router epp` over TLS with the certificate that it signs itself.
    EnvoyTls,
    /// Nothing: the test plays Envoy before `llm-d-router epp`.
    Picker,
}

/// What a world is made of.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) front: Front,
    /// The simulator's document.
    pub(crate) sim: Value,
    /// How many of its servers the endpoints file names at first.
    pub(crate) n_listed: Option<usize>,
    pub(crate) entries: Vec<Entry>,
    /// More keys of the configuration document.
    pub(crate) more: Value,
    pub(crate) flags: Vec<String>,
    /// Manifests for `--resources`.
    pub(crate) resources: Option<String>,
    pub(crate) subset_hint: Option<SubsetHint>,
    /// Threads of the router's runtime; as many as there are cores where not given.
    pub(crate) n_threads: Option<u32>,
    pub(crate) is_alone: bool,
    /// No configuration file: the servers as `--endpoint` flags.
    pub(crate) is_bare: bool,
}

/// Tests that need the machine's cores for themselves take both places, others one: with more at a time
/// every one of them would be slow.
pub(crate) static PLACES: Semaphore = Semaphore::const_new(N_PLACES as usize);
pub(crate) const N_PLACES: u32 = 2;

impl Plan {
    /// Servers that answer at once, under the scorers of the built-in configuration.
    pub(crate) fn new(front: Front, n_servers: u32) -> Self {
        let sim = json!({
            "port": 0, "servers": n_servers, "time-factor": 0, "stats-requests": 50_000,
        });
        Self {
            front,
            sim,
            n_listed: None,
            entries: document::default_scorers(),
            more: json!({}),
            flags: Vec::new(),
            resources: None,
            subset_hint: None,
            n_threads: None,
            is_alone: false,
            is_bare: false,
        }
    }

    /// Sets keys of the simulator's document.
    pub(crate) fn sim(mut self, keys: Value) -> Self {
        if let (Some(document), Value::Object(keys)) = (self.sim.as_object_mut(), keys) {
            document.extend(keys);
        }
        self
    }

    pub(crate) fn listed(mut self, n_servers: usize) -> Self {
        self.n_listed = Some(n_servers);
        self
    }

    pub(crate) fn entries(mut self, entries: Vec<Entry>) -> Self {
        self.entries = entries;
        self
    }

    pub(crate) fn more(mut self, keys: Value) -> Self {
        self.more = keys;
        self
    }

    pub(crate) fn flag(mut self, flag: impl Into<String>) -> Self {
        self.flags.push(flag.into());
        self
    }

    pub(crate) fn resources(mut self, manifests: String) -> Self {
        self.resources = Some(manifests);
        self
    }

    pub(crate) fn subset_hint(mut self, hint: SubsetHint) -> Self {
        self.subset_hint = Some(hint);
        self
    }

    pub(crate) fn threads(mut self, n_threads: u32) -> Self {
        self.n_threads = Some(n_threads);
        self
    }

    /// Gives the servers as flags instead of files.
    pub(crate) fn bare(mut self) -> Self {
        self.is_bare = true;
        self
    }

    /// No other test runs meanwhile.
    pub(crate) fn alone(mut self) -> Self {
        self.is_alone = true;
        self
    }

    /// Starts it, checks, and makes sure that the router is left with nothing in flight and that its log
    /// tells of no bug. What fails is shown with the router's last lines.
    pub(crate) async fn run(self, check: impl AsyncFnOnce(&World) -> Outcome) -> Outcome {
        let world = World::start(self).await?;
        let mut outcome = check(&world).await;
        if outcome.is_ok() && world.router.exit_status().is_none() {
            outcome = world.settle().await;
        }
        outcome.with_context(|| world.tail())
    }
}
