//! Streams of ext-proc messages against a picker with the built-in configuration.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use arc_swap::ArcSwap;
use router_core::EndpointSpec;
use router_engine::{Router, RouterEnv, Settings};
use router_extproc::{EppHandler, ProcessService, StreamLimits, fuzz};
use router_framework::{EndpointSink, PluginEnv, Registry, document};
use router_rt::{Clock, Offload, Seeds};
use router_telemetry::{BUILD, RouterMetrics, metrics::Format};
use tokio::runtime::Runtime;

/// Long enough that no input waits.
const BODY_TIMEOUT: Duration = Duration::from_mins(1);

/// Gauges that are 0 when no request is under way.
const GAUGES: [&str; 3] =
    ["llm_d_epp_request_running{", "llm_d_epp_inflight_requests{", "llm_d_epp_inflight_tokens{"];

/// Any messages in any order are answered in a legal order, bodies pass unchanged unless a rewrite is asked
/// for, and nothing is left of the request.
pub(crate) fn fuzz_stream(data: &[u8]) {
    thread_local! {
        static WORLD: anyhow::Result<World> = World::build();
    }
    WORLD.with(|world| match world {
        Ok(world) => world.play(data),
        Err(error) => panic!("the built-in configuration does not load: {error:#}"),
    });
}

/// A picker that keeps time of its own, which stands still.
struct World {
    runtime: Runtime,
    router: Arc<Router>,
    metrics: router_telemetry::Registry,
    service: ProcessService<EppHandler>,
}

impl World {
    fn build() -> anyhow::Result<Self> {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        let runtime = builder.enable_time().start_paused(true).build()?;
        let inside = runtime.enter();
        let metrics = router_telemetry::Registry::default();
        let (clock, settings) = (Clock::new(), Settings::default());
        let env = PluginEnv {
            clock,
            seeds: Arc::new(Seeds::new(settings.seed)),
            offload: Offload::inline(),
            registry: Arc::new(metrics.clone()),
            metrics: Arc::new(RouterMetrics::new(&metrics, &BUILD)?),
        };
        let registry = Registry::new(router_plugins::PLUGINS.iter().copied());
        let (document, _) = document::load_built_in(&registry, document::Options::default());
        let mut document = document.context("no document")?.with_defaults(&registry);
        let mut diagnostics = document.diagnostics();
        let loaded = router_framework::load(&mut document, &registry, &env, &mut diagnostics)
            .context("it does not load")?;
        let router = Router::new(loaded, RouterEnv { clock, metrics: env.metrics, settings });
        let endpoint = |at: usize| {
            EndpointSpec::new("default", &format!("e{at}"), &format!("10.0.0.{at}"), 8000)
        };
        router.datastore().replace((1..=3).map(endpoint).collect());
        let shared = Arc::new(ArcSwap::new(Arc::clone(&router)));
        let handler = EppHandler::new(shared, BODY_TIMEOUT);
        let service = ProcessService::new(handler, StreamLimits::default());
        drop(inside);
        Ok(Self { runtime, router, metrics, service })
    }

    fn play(&self, data: &[u8]) {
        let _inside = self.runtime.enter();
        fuzz::play(&self.service, fuzz::messages(data));
        assert_eq!(self.service.n_open(), 0, "streams are open");
        assert_eq!(self.router.budget().held(), 0, "bytes of bodies are held");
        let page = self.metrics.encode(Format::Text);
        let left = page.lines().find(|line| {
            GAUGES.iter().any(|gauge| line.starts_with(gauge)) && !line.ends_with(" 0")
        });
        assert!(left.is_none(), "{left:?}");
    }
}
