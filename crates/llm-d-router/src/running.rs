//! A router at work: its configuration, discovery, scraping, gauges and resources, and the reload of each.
//!
//! A reload builds the new configuration beside the one that serves, lets it find its endpoints and scrape
//! them, and then swaps the two. Whatever goes wrong before the swap changes nothing, and what had been
//! started for the attempt ends. Requests that the old configuration has decided stay with it to their end.
//! So do those that wait in its queues: its endpoints are looked for and scraped until nobody does.
//! What the old one has learnt goes with it: cached prefixes, load in flight and endpoint health are known
//! anew from the requests and scrapes that follow.

mod discovery;
mod follow;
mod members;

use std::{
    pin::pin,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use router_engine::{
    PoolChoice, Recorder, Resources, Router, RouterEnv, Settings, flow::FlowController, scrape,
};
use router_framework::{
    Discovery, PluginEnv, Registry,
    document::{Document, Options},
};
use router_rt::{Clock, Offload, Seeds, Tasks};
use router_telemetry::{
    RouterMetrics,
    metrics::RegistryOptions,
    router::{Followed, ProcessMetrics, Reloads},
};

use crate::{
    capabilities::NetFetch,
    cli::{PickerFlags, UsageError},
    configuration::{self, Source},
    origin::BUILD,
    record::{Prepared, Recording},
};

use members::{Members, Membership};

pub(crate) use follow::{read_resources, watch_options};

/// How long a new configuration may take to find its endpoints before it is given up.
const FIND_DEADLINE: Duration = Duration::from_secs(30);
/// How long a new configuration may take until every endpoint has been scraped once.
const WARM_DEADLINE: Duration = Duration::from_secs(2);

/// What cuts prompts into blocks where nothing else does and traffic is recorded.
const BLOCKS_FOR_RECORDING: &str = "approx-prefix-cache-producer";

/// What a personality has to say about where endpoints are.
pub(crate) struct Place {
    /// What finds them whatever the configuration says.
    pub(crate) given: Option<Arc<dyn Discovery>>,
    /// What to do where neither says it, besides writing it into the configuration.
    pub(crate) hint: &'static str,
    /// Which pool is served.
    pub(crate) pool: PoolChoice,
}

/// What stays while configurations come and go.
struct Parts {
    registry: Registry,
    metrics_registry: router_telemetry::Registry,
    metrics: Arc<RouterMetrics>,
    clock: Clock,
    settings: Settings,
    options: Options,
    place: Place,
    membership: Arc<Membership>,
    /// What every router records into.
    recorder: Option<Recorder>,
    /// What outlives a configuration: those who wait in its queues have it to their end.
    lasting: Tasks,
}

/// A configuration whose pipeline is built, and what finds its endpoints.
struct Built {
    router: Arc<Router>,
    discovery: Arc<dyn Discovery>,
}

/// The work of one configuration; its tasks end when this is dropped.
struct Work {
    tasks: Tasks,
    members: Arc<Members>,
}

/// A router whose configuration can be replaced while it works.
pub(crate) struct Running {
    parts: Parts,
    pub(crate) router: Arc<ArcSwap<Router>>,
    /// What every configuration is given; held while the configuration is swapped.
    resources: Mutex<Resources>,
    tasks: Tasks,
    /// The work of the configuration that serves.
    work: Mutex<Option<Work>>,
    /// Queues of configurations that were replaced, as long as requests are in them.
    replaced: Mutex<Vec<Weak<FlowController>>>,
    is_draining: AtomicBool,
    /// The recording, until it begins to be written.
    prepared: Mutex<Option<Prepared>>,
    recording: Mutex<Option<Recording>>,
    /// Keeps the process's own series fresh.
    _process: ProcessMetrics,
}

/// Counts the reloads of one thing that is followed.
pub(crate) struct ReloadNotes {
    reloads: Reloads,
    clock: Clock,
}

/// A loaded router that has not begun to work.
pub(crate) struct Idle {
    running: Arc<Running>,
    source: Source,
    config_file: Option<std::path::PathBuf>,
    manifests: Option<follow::Manifests>,
    discovery: Arc<dyn Discovery>,
}

// === impl Running ===

impl Running {
    /// Loads the configuration and the resources; [`Idle::begin`] puts them to work.
    pub(crate) fn load(
        flags: &PickerFlags,
        mut settings: Settings,
        registry: Registry,
        place: Place,
        tasks: &Tasks,
    ) -> anyhow::Result<Idle> {
        let open =
            |path| follow::Manifests::open(path, place.pool.clone(), &mut follow::log_warning);
        let (manifests, resources) =
            flags.config.resources.as_deref().map(open).transpose()?.unzip();
        let resources: Resources = resources.unwrap_or_default();
        if let (None, Some(pool)) = (&place.pool.name, &resources.pool) {
            settings.pool_name.clone_from(&pool.name);
        }
        let twins = RegistryOptions { deprecated_twins: flags.decide.deprecated_metrics };
        let metrics_registry = router_telemetry::Registry::new(twins);
        let clock = Clock::new();
        let prepared = Prepared::of(&flags.record, &metrics_registry, clock)?;
        let parts = Parts {
            metrics: Arc::new(RouterMetrics::new(&metrics_registry, &BUILD)?),
            metrics_registry,
            clock,
            registry,
            settings,
            options: Options { allow_experimental: flags.config.allow_experimental_plugins },
            membership: Membership::new(place.given.is_some()),
            place,
            recorder: prepared.as_ref().map(|prepared| prepared.recorder().clone()),
            lasting: tasks.clone(),
        };
        let process =
            ProcessMetrics::new(&parts.metrics_registry, parts.clock.unix_now().as_secs_f64())?;
        let source = Source::from_flags(&flags.config)?;
        let Built { router, discovery } = parts.build(&source)?;
        let running = Arc::new(Self {
            parts,
            router: Arc::new(ArcSwap::new(router)),
            resources: Mutex::default(),
            tasks: tasks.clone(),
            work: Mutex::new(None),
            replaced: Mutex::default(),
            is_draining: AtomicBool::new(false),
            prepared: Mutex::new(prepared),
            recording: Mutex::new(None),
            _process: process,
        });
        running.set_resources(resources);
        let config_file = flags.config.config_file.clone();
        Ok(Idle { running, source, config_file, manifests, discovery })
    }

    /// The router that serves new requests.
    pub(crate) fn router(&self) -> Arc<Router> {
        self.router.load_full()
    }

    pub(crate) fn clock(&self) -> Clock {
        self.parts.clock
    }

    pub(crate) fn metrics_registry(&self) -> &router_telemetry::Registry {
        &self.parts.metrics_registry
    }

    /// `Err` with the reason while requests should not come.
    pub(crate) fn ready(&self) -> Result<(), String> {
        if self.is_draining.load(Ordering::Acquire) {
            return Err("shutting down".to_owned());
        }
        if !self.router.load().datastore().is_synced() {
            return Err("the endpoints are not known yet".to_owned());
        }
        Ok(())
    }

    /// For counting the reloads of something that has been loaded.
    pub(crate) fn follow(&self, what: Followed) -> ReloadNotes {
        let clock = self.parts.clock;
        let reloads = self.parts.metrics.reloads.follow(what, clock.unix_now().as_secs_f64());
        ReloadNotes { reloads, clock }
    }

    /// From here on the router says that it is not ready; it goes on serving what comes.
    pub(crate) fn start_draining(&self) {
        self.is_draining.store(true, Ordering::Release);
    }

    /// Refuses all who still wait for their turn, and all who come from here on. For the end of a drain: what
    /// can be served within its window is.
    pub(crate) fn refuse_waiting(&self) {
        let replaced: Vec<_> = self.replaced.lock().iter().filter_map(Weak::upgrade).collect();
        let flows = replaced.iter().chain(self.router.load().flow()).cloned().collect::<Vec<_>>();
        let n_waiting: u64 = flows.iter().map(|flow| flow.n_waiting()).sum();
        if n_waiting > 0 {
            tracing::warn!(n_waiting, "the drain is over for requests that wait");
        }
        flows.iter().for_each(|flow| flow.shut_down());
    }

    /// Begins to write the recording, where there is one. To be called when nothing more can keep the router from
    /// serving.
    pub(crate) fn begin_recording(&self) -> anyhow::Result<()> {
        let prepared = self.prepared.lock().take();
        let recording = prepared.map(|prepared| prepared.begin(&self.tasks)).transpose()?;
        *self.recording.lock() = recording;
        Ok(())
    }

    /// Closes the recording, where there is one. To be called when requests have ended.
    pub(crate) async fn finish_recording(&self) {
        let recording = self.recording.lock().take();
        if let Some(recording) = recording {
            recording.finish().await;
        }
    }

    fn set_resources(&self, resources: Resources) {
        let mut kept = self.resources.lock();
        resources.hand_to(self.router.load().datastore());
        if resources.pool != kept.pool {
            self.parts.membership.set(resources.pool.clone());
            self.work.lock().iter().for_each(|work| work.members.select_again());
        }
        *kept = resources;
    }

    /// Replaces the configuration.
    async fn reload(&self, source: &Source) -> anyhow::Result<()> {
        let Built { router, discovery } = self.parts.build(source)?;
        let work = Work::of(&router, &self.parts.membership, &self.tasks);
        let found = self.parts.start(&router, discovery, &work.members, &work.tasks);
        let found = tokio::time::timeout(FIND_DEADLINE, found).await;
        found
            .map_err(|_| anyhow::anyhow!("no endpoints were found within {FIND_DEADLINE:?}"))??;
        warm_up(&router).await;
        let resources = self.resources.lock();
        resources.hand_to(router.datastore());
        // The pool may have changed meanwhile.
        work.members.select_again();
        let replaced = self.router.load().flow().cloned();
        // Noted before the swap, so that a drain finds it in one place or the other.
        if let Some(flow) = &replaced {
            let mut known = self.replaced.lock();
            known.retain(|flow| flow.strong_count() > 0);
            known.push(Arc::downgrade(flow));
        }
        if let Some(flow) = router.flow() {
            let replaced =
                self.replaced.lock().iter().filter_map(Weak::upgrade).collect::<Vec<_>>();
            flow.follows(&replaced);
        }
        self.router.store(router);
        let old_work = self.work.lock().replace(work);
        if let Some(flow) = replaced {
            flow.retire();
            let finished = async move {
                flow.emptied().await;
                drop(old_work);
            };
            drop(self.tasks.spawn_cancellable("replaced configuration", finished));
        }
        Ok(())
    }
}

// === impl ReloadNotes ===

impl ReloadNotes {
    /// Takes down whether a change is in use.
    pub(crate) fn take(&self, is_used: bool) {
        if is_used {
            self.reloads.succeeded(self.clock.unix_now().as_secs_f64());
        } else {
            self.reloads.failed();
        }
    }
}

// === impl Idle ===

impl Idle {
    pub(crate) fn running(&self) -> &Arc<Running> {
        &self.running
    }

    /// Finds the endpoints, begins to scrape them, and follows the files. Returns when endpoints are known,
    /// however long that takes: until then the router says that it is not ready.
    pub(crate) async fn begin(self) -> anyhow::Result<()> {
        let Self { running, source, config_file, manifests, discovery } = self;
        let tasks = &running.tasks;
        let router = running.router();
        let work = Work::of(&router, &running.parts.membership, tasks);
        let (members, its_tasks) = (Arc::clone(&work.members), work.tasks.clone());
        let mut found = pin!(running.parts.start(&router, discovery, &members, &its_tasks));
        let found = loop {
            match tokio::time::timeout(FIND_DEADLINE, &mut found).await {
                Ok(found) => break found,
                Err(_) => tracing::warn!("still waiting for the first report of endpoints"),
            }
        };
        found.map_err(UsageError::of)?;
        *running.work.lock() = Some(work);
        if let Some(manifests) = manifests {
            drop(tasks.spawn_cancellable("resources", manifests.follow(Arc::clone(&running))));
        }
        if let (Some(path), Some(text)) = (config_file, source.text) {
            let following = follow::configuration(Arc::clone(&running), path, text);
            drop(tasks.spawn_cancellable("configuration", following));
        }
        Ok(())
    }
}

// === impl Parts ===

impl Parts {
    /// Reads a configuration and builds its pipeline, which does nothing yet.
    fn build(&self, source: &Source) -> anyhow::Result<Built> {
        let mut warn = |diagnostics: &_| configuration::log_warnings(diagnostics);
        let mut document = configuration::read(source, &self.registry, self.options, &mut warn)?;
        if self.place.given.is_none() && document.data_layer.discovery.is_none() {
            return Err(self.no_discovery(source, &document).into());
        }
        let env = PluginEnv {
            clock: self.clock,
            seeds: Arc::new(Seeds::new(self.settings.seed)),
            offload: Offload::pool(2),
            registry: Arc::new(self.metrics_registry.clone()),
            metrics: Arc::clone(&self.metrics),
        };
        let mut loaded = configuration::load(&mut document, &self.registry, &env, &mut warn)?;
        if self.recorder.is_some()
            && !loaded.prompt_blocks.is_bound()
            && document.add_plugin(BLOCKS_FOR_RECORDING, "the recording needs the prompts' blocks")
        {
            loaded = configuration::load(&mut document, &self.registry, &env, &mut warn)?;
        }
        let configured = loaded.discovery.take();
        let discovery = match (&self.place.given, configured) {
            (Some(given), configured) => {
                if let Some(unused) = configured {
                    tracing::warn!(
                        plugin = &*unused.ident.name,
                        "the command line says where endpoints are, the configuration's discovery is not used"
                    );
                }
                Arc::clone(given)
            }
            (None, Some(configured)) => configured.role,
            (None, None) => return Err(self.no_discovery(source, &document).into()),
        };
        let env = RouterEnv {
            clock: self.clock,
            metrics: Arc::clone(&self.metrics),
            settings: self.settings.clone(),
        };
        let record = self.recorder.as_ref().map(Recorder::router);
        if let Some(record) = &record {
            record.configured(&source.name, source.text.as_deref(), &self.settings);
        }
        Ok(Built { router: Router::recorded(loaded, env, record), discovery })
    }

    /// Starts what a configuration needs. Returns when endpoints are known.
    async fn start(
        &self,
        router: &Arc<Router>,
        discovery: Arc<dyn Discovery>,
        members: &Arc<Members>,
        tasks: &Tasks,
    ) -> Result<(), router_framework::DiscoveryError> {
        // One of its own for each configuration, so that certificates of scraping are read again.
        let fetch = Arc::new(NetFetch::default());
        if let Some(flow) = router.flow() {
            let alarm = flow.run(router.datastore().changes());
            drop(self.lasting.spawn_cancellable("flow control", alarm));
        }
        let scraping = scrape::run(Arc::clone(router), fetch, tasks.clone());
        drop(tasks.spawn_cancellable("scrape", scraping));
        let refreshed = Arc::clone(router);
        drop(tasks.spawn_cancellable("pool metrics", async move {
            refreshed.refresh_pool_metrics().await
        }));
        let sink = Arc::clone(members) as _;
        discovery::find(discovery, sink, self.clock, tasks).await
    }

    fn no_discovery(&self, source: &Source, document: &Document) -> UsageError {
        let known = document.plugins.iter().find(|plugin| plugin.plugin_type == "file-discovery");
        let name = &source.name;
        let what = match (known, &source.text) {
            (Some(plugin), _) => format!(
                "{name} does not say where endpoints are: add `dataLayer: {{discovery: {{pluginRef: {}}}}}` to it",
                plugin.name
            ),
            (None, Some(_)) => format!(
                "{name} does not say where endpoints are: add a `file-discovery` plugin to it and name it in \
                 `dataLayer.discovery.pluginRef`"
            ),
            (None, None) => "nothing says where endpoints are: give --config-file with a `file-discovery` plugin"
                .to_owned(),
        };
        UsageError(format!("{what}; {}", self.place.hint))
    }
}

// === impl Work ===

impl Work {
    fn of(router: &Router, membership: &Arc<Membership>, tasks: &Tasks) -> Self {
        let sink = Arc::clone(router.datastore());
        Self { tasks: tasks.child(), members: Members::new(membership, sink) }
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        self.tasks.cancel();
    }
}

/// Waits until every endpoint has been scraped once, but not for long.
async fn warm_up(router: &Router) {
    let all_scraped = async {
        loop {
            let snapshot = router.datastore().snapshot();
            if snapshot.endpoints().iter().all(|endpoint| endpoint.signals().ever_scraped()) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let _warm_or_late = tokio::time::timeout(WARM_DEADLINE, all_scraped).await;
}
