//! A real [`Router`] from a configuration text, with the in-tree plugins and those of a test.
//!
//! Endpoints are called `default/e0`, `default/e1` and so on and are at `10.0.0.1:8000` and onwards unless
//! told otherwise. What discovery and scraping would bring is set by the test. Time is tokio's: build the
//! router inside of the runtime whose clock the test pauses.
//!
//! ```text
//! let world = RouterBuilder::new(CONFIG).endpoints(3).build();
//! world.publish(0, |signals| signals.waiting = 7.0);
//! let routed = world.decide(head("/v1/chat/completions"), CHAT).await?;
//! assert_eq!(world.sum("llm_d_epp_request_total", &[]), 1.0);
//! ```

use std::{net::Ipv4Addr, ops::Deref, sync::Arc};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use router_core::{Endpoint, EndpointSpec, Rejection, Signals, Stamp};
use router_engine::{PoolChoice, Resources, Routed, Router, RouterEnv, Settings};
use router_framework::{
    EndpointSink, Loaded, PluginDef, PluginEnv, Registry, RequestHead, SubsetHint,
    document::{self, Options, Style},
    loader::{Ident, Named},
};
use router_rt::{Clock, Offload, Seeds};
use router_telemetry::{BUILD, RouterMetrics, metrics::Format};

type Change = Box<dyn FnOnce(&mut Loaded)>;

/// A document with flow control: one request at a time on each endpoint. More keys of `flowControl` may follow.
pub const ONE_AT_A_TIME: &str = "
apiVersion: llm-d.ai/v1alpha1
kind: EndpointPickerConfig
featureGates: [flowControl]
plugins:
- type: queue-scorer
- type: concurrency-detector
  parameters: {maxConcurrency: 1}
schedulingProfiles:
- name: default
  plugins:
  - {pluginRef: queue-scorer}
flowControl:
  saturationDetector: {pluginRef: concurrency-detector}
";

/// How a [`TestRouter`] comes about.
pub struct RouterBuilder {
    config: String,
    registry: Registry,
    settings: Settings,
    endpoints: Vec<EndpointSpec>,
    resources: String,
    changes: Vec<Change>,
}

/// A router without discovery and without sockets. It derefs to the [`Router`].
pub struct TestRouter {
    pub router: Arc<Router>,
    pub metrics: router_telemetry::Registry,
}

// === impl RouterBuilder ===

impl RouterBuilder {
    /// A router with this configuration document; empty for the built-in one. Experimental plugin types are
    /// allowed.
    pub fn new(config: &str) -> Self {
        Self {
            config: config.to_owned(),
            registry: Registry::new(router_plugins::PLUGINS.iter().copied()),
            settings: Settings::default(),
            endpoints: Vec::new(),
            resources: String::new(),
            changes: Vec::new(),
        }
    }

    /// Adds a plugin type, or replaces the one of that name.
    #[must_use]
    pub fn plugin(mut self, def: &PluginDef) -> Self {
        self.registry.add(*def);
        self
    }

    #[must_use]
    pub fn settings(mut self, change: impl FnOnce(&mut Settings)) -> Self {
        change(&mut self.settings);
        self
    }

    /// The pool holds this many endpoints from the start.
    #[must_use]
    pub fn endpoints(self, n_endpoints: usize) -> Self {
        self.specs((0..n_endpoints).map(spec).collect())
    }

    /// The pool holds these endpoints from the start.
    #[must_use]
    pub fn specs(mut self, endpoints: Vec<EndpointSpec>) -> Self {
        self.endpoints = endpoints;
        self
    }

    /// `InferenceObjective`s by name and priority.
    #[must_use]
    pub fn objective(self, name: &str, priority: i32) -> Self {
        self.resources(&format!(
            "apiVersion: llm-d.ai/v1alpha2\nkind: InferenceObjective\nmetadata: {{name: {name}}}\n\
             spec: {{priority: {priority}, poolRef: {{name: pool}}}}\n"
        ))
    }

    /// More manifests.
    #[must_use]
    pub fn resources(mut self, manifests: &str) -> Self {
        self.resources += "---\n";
        self.resources += manifests;
        self
    }

    /// Changes the loaded configuration, for roles that a test plays itself.
    #[must_use]
    pub fn change(mut self, change: impl FnOnce(&mut Loaded) + 'static) -> Self {
        self.changes.push(Box::new(change));
        self
    }

    /// Builds the router.
    ///
    /// # Panics
    ///
    /// With the rendered errors, when the configuration cannot be used.
    pub fn build(self) -> TestRouter {
        self.try_build().unwrap_or_else(|errors| panic!("{errors}"))
    }

    /// Builds the router; the error is the rendered errors of the configuration or the manifests.
    pub fn try_build(self) -> Result<TestRouter, String> {
        let options = Options { allow_experimental: true };
        let (document, diagnostics) = if self.config.is_empty() {
            document::load_built_in(&self.registry, options)
        } else {
            document::load("config.yaml", self.config.as_bytes(), &self.registry, options)
        };
        let Some(document) = document else { return Err(diagnostics.render(Style::Plain)) };
        let mut document = document.with_defaults(&self.registry);
        let metrics = router_telemetry::Registry::default();
        let env = PluginEnv {
            clock: Clock::new(),
            seeds: Arc::new(Seeds::new(self.settings.seed)),
            offload: Offload::inline(),
            registry: Arc::new(metrics.clone()),
            metrics: Arc::new(
                RouterMetrics::new(&metrics, &BUILD).map_err(|error| error.to_string())?,
            ),
        };
        let mut diagnostics = document.diagnostics();
        let loaded = router_framework::load(&mut document, &self.registry, &env, &mut diagnostics);
        let Some(mut loaded) = loaded else { return Err(diagnostics.render(Style::Plain)) };
        self.changes.into_iter().for_each(|change| change(&mut loaded));
        let env = RouterEnv { clock: env.clock, metrics: env.metrics, settings: self.settings };
        let router = Router::new(loaded, env);
        let files = [("resources.yaml", self.resources.as_bytes())];
        let (resources, _) =
            Resources::parse(files, &PoolChoice::default()).map_err(|error| error.to_string())?;
        resources.hand_to(router.datastore());
        router.datastore().replace(self.endpoints);
        Ok(TestRouter { router, metrics })
    }
}

/// The endpoint that comes `at`th.
pub fn spec(at: usize) -> EndpointSpec {
    let address = Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 0, 0, 1)) + at as u32);
    EndpointSpec::new("default", &format!("e{at}"), &address.to_string(), 8000)
}

/// A role that a test plays itself, called `name`.
pub fn named<T: ?Sized>(name: &str, role: Arc<T>) -> Named<T> {
    Named { ident: Ident { name: name.into(), plugin_type: name.into() }, role }
}

/// The head of a POST request with a body to follow.
pub fn head(path: &str) -> RequestHead {
    RequestHead {
        method: Method::POST,
        path_and_query: path.into(),
        headers: HeaderMap::new(),
        subset: SubsetHint::All,
        end_of_stream: false,
        received: Stamp::ORIGIN,
    }
}

/// The head with one more header.
///
/// # Panics
///
/// When name or value are not those of a header.
pub fn with_header(mut head: RequestHead, name: &str, value: &str) -> RequestHead {
    let name = HeaderName::try_from(name).unwrap_or_else(|_| panic!("header name {name:?}"));
    let value = HeaderValue::try_from(value).unwrap_or_else(|_| panic!("header value {value:?}"));
    head.headers.append(name, value);
    head
}

/// The sum over the series of a metrics page with this name (with `_count` and the like) and these labels;
/// 0 for none.
pub fn sum(page: &str, name: &str, labels: &[(&str, &str)]) -> f64 {
    let wanted: Vec<_> =
        labels.iter().map(|(label, value)| format!("{label}=\"{value}\"")).collect();
    let of_family = page.lines().filter_map(|line| line.strip_prefix(name));
    let series = of_family.filter(|rest| rest.starts_with(['{', ' ']));
    series
        .filter(|rest| wanted.iter().all(|label| rest.contains(label.as_str())))
        .filter_map(|rest| rest.rsplit(' ').next()?.parse::<f64>().ok())
        .sum()
}

// === impl TestRouter ===

impl TestRouter {
    /// The endpoint that came `at`th.
    pub fn endpoint(&self, at: usize) -> Arc<Endpoint> {
        Arc::clone(&self.router.datastore().snapshot().endpoints()[at])
    }

    /// Publishes signals of the endpoint that came `at`th, as one scrape of this moment.
    pub fn publish(&self, at: usize, change: impl FnOnce(&mut Signals)) {
        // The origin of the clock means "never scraped".
        let now = self.router.clock().now().max(Stamp::from_nanos(1));
        self.endpoint(at).signal_cell().update(|signals| {
            change(signals);
            signals.scraped_at = now;
        });
    }

    /// Decides on a request whose body comes in one piece.
    pub async fn decide(
        &self,
        head: RequestHead,
        body: impl Into<Bytes>,
    ) -> Result<Routed, Rejection> {
        let received = self.router.clock().now();
        let has_body = !head.end_of_stream;
        let (mut feed, decision) = self.router.begin(RequestHead { received, ..head });
        if has_body {
            feed.push(&body.into());
            feed.end();
        }
        decision.await
    }

    /// The metrics page.
    pub fn page(&self) -> String {
        self.metrics.encode(Format::Text)
    }

    /// The [`sum`] over series of the metrics page.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        sum(&self.page(), name, labels)
    }
}

impl Deref for TestRouter {
    type Target = Arc<Router>;

    fn deref(&self) -> &Arc<Router> {
        &self.router
    }
}
