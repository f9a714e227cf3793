//! A router at work: its configuration, discovery, scraping, gauges and objectives, and the reload of each.

use std::{sync::Arc, time::Duration};

use anyhow::Context;
use arc_swap::ArcSwap;
use router_core::EndpointSpec;
use router_engine::{Objectives, Router, RouterEnv, Settings, scrape};
use router_framework::{
    DiscoveryCx, EndpointSink, Fetch, PluginEnv, Registry,
    document::{Document, Options},
};
use router_rt::{Clock, FileWatch, Offload, Seeds, Tasks, WatchOptions, WatchedFile};
use router_telemetry::{BUILD, RouterMetrics, metrics::RegistryOptions};

use crate::{
    capabilities::{NetFetch, SystemResolve},
    cli::{ConfigFlags, PickerFlags, UsageError},
    configuration::{self, Source},
};

/// How long a configuration may take to find its endpoints before it is given up.
const SYNC_DEADLINE: Duration = Duration::from_secs(30);
/// How long a new configuration may take until every endpoint has been scraped once.
const WARM_DEADLINE: Duration = Duration::from_secs(2);

/// What stays while configurations come and go.
struct Parts {
    registry: Registry,
    metrics_registry: router_telemetry::Registry,
    metrics: Arc<RouterMetrics>,
    clock: Clock,
    settings: Settings,
    options: Options,
    /// Endpoints that the command line gives; discovery is not used then.
    fixed: Option<Vec<EndpointSpec>>,
    fetch: Arc<dyn Fetch>,
}

/// One configuration at work.
struct Started {
    router: Arc<Router>,
    /// Discovery, scraping and gauges of this configuration.
    tasks: Tasks,
}

/// A router whose configuration can be replaced while it works.
pub(crate) struct Running {
    parts: Parts,
    pub(crate) router: Arc<ArcSwap<Router>>,
    tasks: Tasks,
    /// Tasks of the configuration that serves.
    current: parking_lot::Mutex<Tasks>,
    draining: std::sync::atomic::AtomicBool,
}

impl Running {
    /// Loads the configuration and starts it. Returns when discovery has reported once.
    pub(crate) async fn start(
        flags: &PickerFlags,
        settings: Settings,
        registry: Registry,
        fixed: Option<Vec<EndpointSpec>>,
        tasks: &Tasks,
    ) -> anyhow::Result<Arc<Self>> {
        let twins = RegistryOptions { deprecated_twins: flags.decide.deprecated_metrics };
        let metrics_registry = router_telemetry::Registry::new(twins);
        let parts = Parts {
            metrics: Arc::new(RouterMetrics::new(&metrics_registry, &BUILD)?),
            metrics_registry,
            clock: Clock::new(),
            registry,
            settings,
            options: Options { allow_experimental: flags.config.allow_experimental_plugins },
            fixed,
            fetch: Arc::new(NetFetch::default()),
        };
        let started = parts.start(&Source::from_flags(&flags.config)?, tasks).await?;
        let running = Arc::new(Self {
            parts,
            router: Arc::new(ArcSwap::new(started.router)),
            tasks: tasks.clone(),
            current: parking_lot::Mutex::new(started.tasks),
            draining: std::sync::atomic::AtomicBool::new(false),
        });
        running.watch_resources(&flags.config)?;
        running.watch_configuration(&flags.config);
        Ok(running)
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
        if self.draining.load(std::sync::atomic::Ordering::Acquire) {
            return Err("shutting down".to_owned());
        }
        if !self.router.load().datastore().is_synced() {
            return Err("the endpoints are not known yet".to_owned());
        }
        Ok(())
    }

    /// From here on the router says that it is not ready; it goes on serving what comes.
    pub(crate) fn start_draining(&self) {
        self.draining.store(true, std::sync::atomic::Ordering::Release);
    }

    /// Replaces the configuration. The old one serves until the new one knows its endpoints and has
    /// scraped them; a document with errors changes nothing.
    async fn reload(&self, source: &Source) -> anyhow::Result<()> {
        let started = self.parts.start(source, &self.tasks).await?;
        started
            .router
            .datastore()
            .set_objectives((*self.router.load().datastore().objectives()).clone());
        warm_up(&started.router).await;
        self.router.store(started.router);
        let before = std::mem::replace(&mut *self.current.lock(), started.tasks);
        before.cancel();
        Ok(())
    }

    /// Reloads the configuration file when it changes.
    fn watch_configuration(self: &Arc<Self>, flags: &ConfigFlags) {
        let Some(path) = flags.config_file.clone() else { return };
        let running = Arc::clone(self);
        let mut watch = FileWatch::file(&path, WatchOptions::default());
        let watching = async move {
            let offload = Offload::pool(1);
            // The first look is what is running already.
            let mut last = watch.changed(&offload).await.ok();
            loop {
                let files = match watch.changed(&offload).await {
                    Ok(files) => files,
                    Err(error) => {
                        tracing::error!(%error, "the configuration file cannot be read; going on with the last good one");
                        continue;
                    }
                };
                if last.as_ref() == Some(&files) {
                    continue;
                }
                let text = files.first().map(|file| file.contents.clone());
                let source = Source { name: path.display().to_string(), text };
                match running.reload(&source).await {
                    Ok(()) => tracing::info!(file = %path.display(), "configuration reloaded"),
                    Err(error) => {
                        tracing::error!(
                            error = format!("{error:#}"),
                            "going on with the last good configuration"
                        );
                    }
                }
                last = Some(files);
            }
        };
        drop(self.tasks.spawn_cancellable("watch configuration", watching));
    }

    /// Reads the objectives, and reads them again when their files change.
    fn watch_resources(self: &Arc<Self>, flags: &ConfigFlags) -> anyhow::Result<()> {
        let Some(path) = flags.resources.clone() else { return Ok(()) };
        let mut watch = FileWatch::path(&path, &["yaml", "yml", "json"], WatchOptions::default());
        let files =
            watch.load().with_context(|| format!("cannot read --resources {}", path.display()))?;
        let objectives = parse_objectives(&files).map_err(|error| UsageError(error.to_string()))?;
        self.router.load().datastore().set_objectives(objectives);
        let running = Arc::clone(self);
        let watching = async move {
            let offload = Offload::pool(1);
            loop {
                let objectives = match watch.changed(&offload).await {
                    Ok(files) => parse_objectives(&files).map_err(|error| error.to_string()),
                    Err(error) => Err(error.to_string()),
                };
                match objectives {
                    Ok(objectives) => {
                        tracing::info!(n_objectives = objectives.len(), "objectives reloaded");
                        running.router.load().datastore().set_objectives(objectives);
                    }
                    Err(error) => tracing::error!(error, "going on with the last good objectives"),
                }
            }
        };
        drop(self.tasks.spawn_cancellable("watch resources", watching));
        Ok(())
    }
}

impl Parts {
    /// Loads a configuration and starts what it needs. Waits for discovery's first report.
    async fn start(&self, source: &Source, owner: &Tasks) -> anyhow::Result<Started> {
        let mut warn = |diagnostics: &_| configuration::log_warnings(diagnostics);
        let mut document = configuration::read(source, &self.registry, self.options, &mut warn)?;
        if self.fixed.is_none() && document.data_layer.discovery.is_none() {
            return Err(no_discovery(&document).into());
        }
        let env = PluginEnv {
            clock: self.clock,
            seeds: Arc::new(Seeds::new(self.settings.seed)),
            offload: Offload::pool(2),
            registry: Arc::new(self.metrics_registry.clone()),
            metrics: Arc::clone(&self.metrics),
        };
        let mut loaded = configuration::load(&mut document, &self.registry, &env, &mut warn)?;
        let discovery = loaded.discovery.take();
        let env = RouterEnv {
            clock: self.clock,
            metrics: Arc::clone(&self.metrics),
            settings: self.settings.clone(),
        };
        let router = Router::new(loaded, env);
        let tasks = owner.child();
        let sink: Arc<dyn EndpointSink> = Arc::clone(router.datastore()) as _;
        match (&self.fixed, discovery) {
            (Some(endpoints), _) => sink.replace(endpoints.clone()),
            (None, Some(discovery)) => {
                let cx = DiscoveryCx {
                    sink,
                    resolve: Arc::new(SystemResolve),
                    clock: self.clock,
                    tasks: tasks.clone(),
                };
                discover(&router, discovery.role.run(cx), &tasks).await?;
            }
            (None, None) => return Err(no_discovery(&document).into()),
        }
        let scraping = scrape::run(Arc::clone(&router), Arc::clone(&self.fetch), tasks.clone());
        drop(tasks.spawn_cancellable("scrape", scraping));
        let refreshed = Arc::clone(&router);
        drop(tasks.spawn_cancellable("pool metrics", async move {
            refreshed.refresh_pool_metrics().await
        }));
        Ok(Started { router, tasks })
    }
}

/// Runs discovery; an error before its first report is an error of the start.
async fn discover(
    router: &Router,
    run: futures_util::future::BoxFuture<'static, Result<(), router_framework::DiscoveryError>>,
    tasks: &Tasks,
) -> anyhow::Result<()> {
    let (failed, mut failure) = tokio::sync::oneshot::channel();
    let running = async move {
        if let Err(error) = run.await {
            tracing::error!(%error, "discovery has ended");
            let _start_is_over = failed.send(error);
        }
    };
    drop(tasks.spawn_cancellable("discovery", running));
    let synced = async {
        let mut changes = router.datastore().changes();
        while !router.datastore().is_synced() {
            // An empty first report publishes no snapshot, so look again now and then.
            let _changed_or_not =
                tokio::time::timeout(Duration::from_millis(20), changes.changed()).await;
        }
    };
    tokio::select! {
        biased;
        () = synced => Ok(()),
        Ok(error) = &mut failure => Err(anyhow::Error::new(error).context("cannot find endpoints")),
        () = tokio::time::sleep(SYNC_DEADLINE) => anyhow::bail!("discovery has found nothing within {SYNC_DEADLINE:?}"),
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

fn no_discovery(document: &Document) -> UsageError {
    let known = document.plugins.iter().find(|plugin| plugin.plugin_type == "file-discovery");
    let hint = match known {
        Some(plugin) => {
            format!("add `dataLayer: {{discovery: {{pluginRef: {}}}}}` to it", plugin.name)
        }
        None => {
            "add a `file-discovery` plugin to it and name it in `dataLayer.discovery.pluginRef`"
                .to_owned()
        }
    };
    UsageError(format!(
        "the configuration does not say where endpoints are: {hint}; \
         finding them in Kubernetes (--pool-name, --endpoint-selector) is not available yet"
    ))
}

fn parse_objectives(files: &[WatchedFile]) -> Result<Objectives, router_engine::ObjectivesError> {
    let named: Vec<_> =
        files.iter().map(|file| (file.path.display().to_string(), &file.contents)).collect();
    Objectives::parse(named.iter().map(|(name, contents)| (name.as_str(), contents.as_slice())))
}
