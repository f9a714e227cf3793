//! The scrape runtime, with pages that a test serves.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures_util::{FutureExt, future::BoxFuture};
use parking_lot::Mutex;
use router_core::{Endpoint, Stamp};
use router_engine::{health::Why, scrape};
use router_framework::{
    DataSource, EndpointSink, ExtractError, Extractor, Fetch, FetchError, FetchSession, FetchTarget,
};
use router_rt::{Clock, Tasks};
use router_testkit::router::{RouterBuilder, TestRouter, named, spec};

use crate::roles::BY_QUEUE;

/// What a server does with the next fetches.
#[derive(Clone, Debug)]
enum Server {
    Waiting(u32),
    Refuses,
    Fails,
    Hangs,
    /// A page without anything in it.
    Empty,
}

/// Serves pages by `host:port`, and writes down when each was asked for.
struct Pages {
    clock: Clock,
    servers: Mutex<BTreeMap<String, Server>>,
    asked: Mutex<BTreeMap<String, Vec<Stamp>>>,
    /// Sessions cannot be opened.
    is_broken: AtomicBool,
}

struct Session {
    pages: Arc<Pages>,
    authority: String,
}

struct Fetcher(Arc<Pages>);

impl Fetch for Fetcher {
    fn open(&self, target: &FetchTarget) -> Result<Box<dyn FetchSession>, FetchError> {
        assert_eq!(&*target.path, "/metrics");
        if self.0.is_broken.load(Ordering::Relaxed) {
            return Err(FetchError::Config("there is no such file".to_owned()));
        }
        let authority = target.authority.to_string();
        Ok(Box::new(Session { pages: Arc::clone(&self.0), authority }))
    }
}

impl FetchSession for Session {
    fn get<'a>(&'a mut self, page: &'a mut Vec<u8>) -> BoxFuture<'a, Result<(), FetchError>> {
        let authority = self.authority.clone();
        let now = self.pages.clock.now();
        self.pages.asked.lock().entry(authority.clone()).or_default().push(now);
        let server = self.pages.servers.lock().get(&authority).cloned().unwrap_or(Server::Refuses);
        async move {
            page.clear();
            match server {
                Server::Waiting(n) => {
                    let text = format!(
                        "vllm:num_requests_waiting{{model_name=\"m\"}} {n}\n\
                         vllm:num_requests_running{{model_name=\"m\"}} 1\n\
                         vllm:kv_cache_usage_perc{{model_name=\"m\"}} 0.5\n\
                         vllm:cache_config_info{{block_size=\"16\",num_gpu_blocks=\"9\"}} 1\n"
                    );
                    page.extend_from_slice(text.as_bytes());
                    Ok(())
                }
                Server::Empty => Ok(()),
                Server::Refuses => {
                    Err(FetchError::Connect { authority, cause: "connection refused".to_owned() })
                }
                Server::Fails => Err(FetchError::Status { authority, status: 500 }),
                Server::Hangs => std::future::pending().await,
            }
        }
        .boxed()
    }
}

struct World {
    router: TestRouter,
    pages: Arc<Pages>,
    tasks: Tasks,
}

impl World {
    /// Two endpoints, the first with a queue of 3 and the second with one of 7.
    async fn new(change: impl FnOnce(&mut router_framework::Loaded) + 'static) -> Self {
        let router = RouterBuilder::new(BY_QUEUE).endpoints(2).change(change).build();
        // At its origin the clock means "never".
        tokio::time::sleep(Duration::from_millis(1)).await;
        let pages = Arc::new(Pages {
            clock: *router.clock(),
            servers: Mutex::default(),
            asked: Mutex::default(),
            is_broken: AtomicBool::new(false),
        });
        let world = Self { router, pages, tasks: Tasks::new() };
        world.serve(0, Server::Waiting(3));
        world.serve(1, Server::Waiting(7));
        world
    }

    fn start(&self) {
        let fetch: Arc<dyn Fetch> = Arc::new(Fetcher(Arc::clone(&self.pages)));
        let run = scrape::run(Arc::clone(&self.router), fetch, self.tasks.clone());
        drop(self.tasks.spawn_cancellable("scrape", run));
    }

    fn serve(&self, at: usize, server: Server) {
        self.pages.servers.lock().insert(format!("10.0.0.{}:8000", at + 1), server);
    }

    fn asked(&self, at: usize) -> Vec<Stamp> {
        let authority = format!("10.0.0.{}:8000", at + 1);
        self.pages.asked.lock().get(&authority).cloned().unwrap_or_default()
    }

    fn waiting(&self, at: usize) -> f64 {
        self.router.endpoint(at).signals().waiting
    }

    fn out(&self, at: usize) -> Option<Why> {
        self.router.health().out(&self.router.endpoint(at), self.router.clock().now())
    }

    fn poll_errors(&self) -> f64 {
        let labels = [("source_type", "metrics-data-source")];
        self.router.sum("llm_d_epp_datalayer_poll_errors_total", &labels)
    }
}

async fn pass(millis: u64) {
    tokio::time::sleep(Duration::from_millis(millis)).await;
}

#[tokio::test(start_paused = true)]
async fn endpoints_are_scraped_as_long_as_they_are_there() {
    let world = World::new(|_| {}).await;
    world.start();
    pass(1).await;
    assert_eq!((world.waiting(0), world.waiting(1)), (3.0, 7.0), "at once");
    world.serve(0, Server::Waiting(4));
    pass(50).await;
    assert_eq!(world.waiting(0), 4.0);
    world.router.datastore().replace(vec![spec(1), spec(2)]);
    world.serve(2, Server::Waiting(9));
    pass(1).await;
    assert_eq!(world.waiting(1), 9.0, "a new one at once");
    let n_asked = world.asked(0).len();
    pass(200).await;
    assert_eq!(world.asked(0).len(), n_asked, "the one that went is left alone");
    let stamps = world.asked(1);
    assert!(stamps.len() >= 5);
    for pair in stamps.windows(2) {
        let gap = pair[1].since(pair[0]);
        assert!(gap >= Duration::from_millis(45) && gap <= Duration::from_millis(51), "{gap:?}");
    }
    assert_eq!(world.poll_errors(), 0.0);
    world.tasks.cancel();
    let n_asked = world.asked(1).len();
    pass(200).await;
    assert_eq!(world.asked(1).len(), n_asked);
    assert_eq!(world.tasks.n_running(), 0);
}

#[tokio::test(start_paused = true)]
async fn the_first_page_makes_its_model_known() {
    let world = World::new(|_| {}).await;
    let knows = |model| world.router.metrics().requests.knows_model(model);
    assert!(!knows("m"));
    world.start();
    pass(1).await;
    assert!(knows("m") && !knows("n"));
}

#[tokio::test(start_paused = true)]
async fn a_changed_address_is_scraped_from_then_on() {
    let world = World::new(|_| {}).await;
    world.start();
    pass(1).await;
    let mut moved = spec(0);
    moved.metrics_authority = Some("10.0.0.3:8000".into());
    world.serve(2, Server::Waiting(8));
    world.router.datastore().replace(vec![moved, spec(1)]);
    pass(1).await;
    assert_eq!(world.waiting(0), 8.0);
    let n_asked = world.asked(0).len();
    pass(200).await;
    assert_eq!(world.asked(0).len(), n_asked);
}

#[tokio::test(start_paused = true)]
async fn a_refused_connection_takes_an_endpoint_out_and_a_page_brings_it_back() {
    let world = World::new(|_| {}).await;
    world.start();
    pass(1).await;
    world.serve(0, Server::Refuses);
    pass(50).await;
    assert_eq!((world.out(0), world.out(1)), (Some(Why::Unreachable), None));
    assert_eq!(world.waiting(0), 3.0, "what was last known stays, and grows old");
    world.serve(0, Server::Waiting(5));
    pass(50).await;
    assert_eq!((world.out(0), world.waiting(0)), (None, 5.0));
    assert_eq!(world.poll_errors(), 1.0);
}

#[tokio::test(start_paused = true)]
async fn other_failures_take_an_endpoint_out_when_they_go_on() {
    let world = World::new(|_| {}).await;
    world.serve(0, Server::Fails);
    world.start();
    pass(60).await;
    assert_eq!((world.out(0), world.poll_errors()), (None, 2.0));
    pass(50).await;
    assert_eq!((world.out(0), world.poll_errors()), (Some(Why::Scrapes), 3.0));
}

#[tokio::test(start_paused = true)]
async fn a_server_that_never_answers_holds_up_nobody_else() {
    let world = World::new(|_| {}).await;
    world.serve(0, Server::Hangs);
    world.start();
    pass(999).await;
    assert!(world.asked(1).len() >= 20, "{:?}", world.asked(1));
    assert_eq!((world.asked(0).len(), world.poll_errors()), (1, 0.0));
    pass(2).await;
    assert_eq!(world.poll_errors(), 1.0, "given up after a second");
    world.serve(0, Server::Waiting(5));
    pass(1100).await;
    assert_eq!(world.waiting(0), 5.0);
}

/// Has an opinion of its own about pages.
struct Reads(fn() -> Result<(), ExtractError>);

impl Extractor for Reads {
    fn extract(&self, _: &Endpoint, _: &[u8], _: Stamp) -> Result<(), ExtractError> {
        self.0()
    }
}

#[tokio::test(start_paused = true)]
async fn pages_that_cannot_be_read_are_counted_and_are_no_sign_of_bad_health() {
    let world = World::new(|loaded| {
        let panics: Arc<dyn Extractor> = Arc::new(Reads(|| panic!("extractor")));
        let fails: Arc<dyn Extractor> = Arc::new(Reads(|| Err(ExtractError("no".to_owned()))));
        let extractors = &mut loaded.sources[0].extractors;
        extractors.insert(0, named("panics", panics));
        extractors.insert(1, named("fails", fails));
    })
    .await;
    world.serve(1, Server::Empty);
    world.start();
    pass(1).await;
    let errors = |extractor| {
        let labels = [("source_type", "metrics-data-source"), ("extractor_type", extractor)];
        world.router.sum("llm_d_epp_datalayer_extract_errors_total", &labels)
    };
    assert_eq!(world.waiting(0), 3.0, "those after them go on");
    assert_eq!((errors("panics"), errors("fails")), (2.0, 2.0));
    assert_eq!(errors("core-metrics-extractor"), 1.0);
    assert!(world.waiting(1).is_nan() && !world.router.endpoint(1).signals().ever_scraped());
    pass(300).await;
    assert_eq!((world.out(0), world.out(1)), (None, None));
}

#[tokio::test(start_paused = true)]
async fn settings_that_do_not_work_are_tried_again_and_no_fault_of_the_endpoints() {
    let world = World::new(|_| {}).await;
    world.pages.is_broken.store(true, Ordering::Relaxed);
    world.start();
    pass(1_000).await;
    assert!(world.poll_errors() >= 40.0);
    assert_eq!((world.out(0), world.out(1)), (None, None));
    world.pages.is_broken.store(false, Ordering::Relaxed);
    pass(50).await;
    assert_eq!(world.waiting(0), 3.0);
}

/// Knows no target.
struct Aimless;

impl DataSource for Aimless {
    fn target(&self, _: &Endpoint) -> FetchTarget {
        panic!("target");
    }

    fn interval(&self) -> Option<Duration> {
        panic!("interval");
    }
}

#[tokio::test(start_paused = true)]
async fn a_source_that_panics_does_not_stop_the_others() {
    let world = World::new(|loaded| {
        let mut second = loaded.sources[0].clone();
        let aimless: Arc<dyn DataSource> = Arc::new(Aimless);
        second.source = named("aimless", aimless);
        // The slowest interval decides what is stale, so a source is asked for it when a router is made.
        loaded.sources.insert(0, second);
    })
    .await;
    world.start();
    pass(200).await;
    assert_eq!(world.waiting(0), 3.0);
    assert!(world.asked(0).len() >= 4);
    let labels = [("source_type", "aimless")];
    assert!(world.router.sum("llm_d_epp_datalayer_poll_errors_total", &labels) >= 4.0);
}
