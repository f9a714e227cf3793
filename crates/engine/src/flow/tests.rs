use std::{
    collections::VecDeque,
    future::Future,
    pin::pin,
    sync::atomic::AtomicUsize,
    task::{Context, Waker},
};

use parking_lot::RwLock;
use router_core::Rejection;
use router_flow::{Eviction, StageLoad};
use router_rt::{Rng, Tasks};
use router_telemetry::{BUILD, Registry, RouterMetrics, metrics::Format, router::FlowMetrics};

use super::*;

/// Shows what a test says.
struct Shown(Arc<RwLock<PoolSignal>>, Arc<AtomicUsize>);

impl Gauge for Shown {
    fn read(&self, now: Stamp, _: u64) -> PoolSignal {
        self.1.fetch_add(1, Ordering::Relaxed);
        PoolSignal { as_of: now, ..*self.0.read() }
    }
}

struct Scene {
    controller: Arc<FlowController>,
    shown: Arc<RwLock<PoolSignal>>,
    n_read: Arc<AtomicUsize>,
    pool: watch::Sender<u64>,
    tasks: Tasks,
    registry: Registry,
    series: Arc<RequestSeries>,
}

fn load(saturation: f64) -> PoolSignal {
    let load = StageLoad { saturation, per_request: 0.5, per_token: 0.0 };
    PoolSignal::of_pool(load, Stamp::ORIGIN)
}

impl Scene {
    fn new(config: Config, signal: PoolSignal) -> Self {
        let (shown, n_read) = (Arc::new(RwLock::new(signal)), Arc::default());
        let gauge = Shown(Arc::clone(&shown), Arc::clone(&n_read));
        let renew_after = Duration::from_millis(50);
        let clock = Clock::new();
        let registry = Registry::default();
        let metrics = Arc::new(RouterMetrics::new(&registry, &BUILD).unwrap());
        let series = metrics.request("", "", "default-flow", 0);
        let meters = Meters::new(FlowMetrics::new(&registry).unwrap(), "pool", metrics);
        let controller = FlowController::new(config, Box::new(gauge), clock, renew_after, meters);
        let (pool, changes) = watch::channel(0);
        let tasks = Tasks::new();
        tasks.spawn_cancellable("flow control", controller.run(changes));
        Self { controller, shown, n_read, pool, tasks, registry, series }
    }

    fn enter(&self, priority: i32) -> Entry {
        self.controller.enter(Ask { priority, ..Ask::default() }, Arc::clone(&self.series))
    }

    /// The sum over the series of this family that have this label.
    fn sum(&self, name: &str, label: &str) -> f64 {
        let page = self.registry.encode(Format::Text);
        let lines = page.lines().filter_map(|line| line.strip_prefix(name));
        lines
            .filter(|rest| rest.starts_with('{') && rest.contains(label))
            .filter_map(|rest| rest.rsplit(' ').next()?.parse::<f64>().ok())
            .sum()
    }

    fn show(&self, signal: PoolSignal) {
        *self.shown.write() = signal;
    }
}

fn is_pending(entry: &mut Entry) -> bool {
    pin!(entry).poll(&mut Context::from_waker(Waker::noop())).is_pending()
}

fn reason(told: Result<Pass, Rejection>) -> (u16, &'static str) {
    let rejection = told.err().expect("a rejection");
    assert!(rejection.retry_after.is_some());
    (rejection.code.http_status(), rejection.reason.unwrap().as_str())
}

#[tokio::test(start_paused = true)]
async fn whoever_ends_lets_the_next_go() {
    let scene = Scene::new(Config::default(), load(0.5));
    let mut first = scene.enter(0).await.unwrap();
    let mut second = scene.enter(0);
    assert!(is_pending(&mut second));
    first.placed(None);
    scene.show(load(1.0));
    first.end(None);
    scene.show(load(0.5));
    let second = second.await.unwrap();
    drop(second);
    scene.enter(0).await.unwrap().end(None);
    assert_eq!(scene.controller.n_waiting(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_reading_that_counts_though_requests_move_gives_no_room_away_twice() {
    let scene = Scene::new(Config::default(), load(0.0));
    let mut ends = scene.enter(0).await.unwrap();
    let mut runs = scene.enter(0).await.unwrap();
    ends.placed(None);
    runs.placed(None);
    let waiting = [scene.enter(0), scene.enter(0)];
    let going = ends.moving();
    scene.show(load(0.5));
    for _ in 0..=MAX_UNSETTLED {
        scene.controller.read_gauge(Duration::ZERO);
    }
    assert_eq!(scene.controller.snapshot(0).signal.decode.unwrap().saturation, 1.0);
    ends.end(None);
    drop(going);
    let n_gone = waiting.iter().filter(|entry| entry.is_settled()).count();
    assert_eq!(n_gone, 1);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_hangs_up_leaves_at_once() {
    let scene = Scene::new(Config::default(), load(1.0));
    let waiting: Vec<_> = (0..5).map(|_| scene.enter(0)).collect();
    assert_eq!(scene.controller.n_waiting(), 5);
    drop(waiting);
    assert_eq!(scene.controller.n_waiting(), 0);
    // One that could have gone and was not told does not keep its place.
    scene.show(load(0.5));
    tokio::time::sleep(Duration::from_millis(10)).await;
    let told = scene.enter(0);
    drop(told);
    assert!(scene.enter(0).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a4_34_what_waits_is_refused_at_the_end_of_a_drain_and_not_before() {
    let scene = Scene::new(Config::default(), load(0.5));
    let running = scene.enter(0).await.unwrap();
    let (waiting, late) = (scene.enter(0), scene.enter(0));
    drop(running);
    assert!(waiting.await.is_ok());
    scene.show(load(1.0));
    tokio::time::sleep(Duration::from_millis(60)).await;
    let never = scene.enter(0);
    drop(late);
    scene.controller.shut_down();
    assert_eq!(reason(never.await), (503, "rejected-shutting-down"));
    assert_eq!(reason(scene.enter(0).await), (503, "rejected-shutting-down"));
}

#[tokio::test(start_paused = true)]
async fn time_alone_refuses_who_waited_too_long() {
    let ttl = Some(Duration::from_secs(10));
    let scene = Scene::new(Config { ttl, ..Config::default() }, load(1.0));
    let started = scene.controller.clock.now();
    assert_eq!(reason(scene.enter(0).await), (429, "rejected-ttl-expired"));
    let waited = scene.controller.clock.now().since(started);
    assert!(
        waited >= Duration::from_secs(10) && waited < Duration::from_millis(10_020),
        "{waited:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn an_empty_pool_is_waited_for_and_a_new_endpoint_is_news() {
    let scene = Scene::new(Config::default(), PoolSignal::empty(Stamp::ORIGIN));
    let mut waiting = scene.enter(0);
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert!(is_pending(&mut waiting));
    scene.show(load(0.0));
    scene.pool.send_replace(1);
    let before = scene.controller.clock.now();
    assert!(waiting.await.is_ok());
    assert!(scene.controller.clock.now().since(before) < Duration::from_millis(5));
    scene.show(PoolSignal::empty(Stamp::ORIGIN));
    scene.pool.send_replace(2);
    tokio::time::sleep(Duration::from_millis(10)).await;
    assert_eq!(reason(scene.enter(0).await), (503, "rejected-no-endpoints"));
}

#[tokio::test(start_paused = true)]
async fn signals_are_read_while_somebody_waits_and_never_otherwise() {
    let scene = Scene::new(Config::default(), load(1.0));
    tokio::time::sleep(Duration::from_secs(1)).await;
    let n_idle = scene.n_read.load(Ordering::Relaxed);
    tokio::time::sleep(Duration::from_mins(50)).await;
    scene.controller.signals_changed();
    assert_eq!(scene.n_read.load(Ordering::Relaxed), n_idle);
    let mut waiting = scene.enter(0);
    tokio::time::sleep(Duration::from_secs(1)).await;
    let n_read = scene.n_read.load(Ordering::Relaxed) - n_idle;
    assert!((15..=25).contains(&n_read), "{n_read}");
    // News is read at once, unless it was read just now.
    assert!(is_pending(&mut waiting));
    scene.show(load(0.0));
    tokio::time::sleep(Duration::from_millis(6)).await;
    scene.controller.signals_changed();
    assert!(!is_pending(&mut waiting));
}

#[tokio::test(start_paused = true)]
async fn who_runs_is_told_to_make_room() {
    let eviction = Some(Eviction { grace: Duration::ZERO, ..Eviction::default() });
    let scene = Scene::new(Config { eviction, ..Config::default() }, load(0.5));
    let mut running = scene.enter(-1).await.unwrap();
    running.placed(None);
    scene.show(load(1.0));
    tokio::time::sleep(Duration::from_millis(60)).await;
    let important = scene.enter(100);
    running.eviction().unwrap().await;
    scene.show(load(0.5));
    running.end(None);
    assert!(important.await.is_ok());
}

/// Threads that enter, hang up, run and end as they like: everybody is told, and nothing is left.
#[test]
fn many_threads_lose_nobody() {
    const N_THREADS: u64 = 4;
    const N_EACH: u64 = 1_000;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(N_THREADS as usize)
        .enable_time()
        .build()
        .unwrap();
    let scene = runtime.block_on(async { Scene::new(Config::default(), load(0.0)) });
    let n_told = Arc::new(AtomicUsize::new(0));
    runtime.block_on(async {
        let works = (0..N_THREADS).map(|seed| {
            let (controller, n_told) = (Arc::clone(&scene.controller), Arc::clone(&n_told));
            let series = Arc::clone(&scene.series);
            let work = async move {
                let mut rng = Rng::seeded(seed);
                let mut held = VecDeque::new();
                for _ in 0..N_EACH {
                    let priority = rng.range(0..3) as i32 - 1;
                    let ask = Ask { priority, ..Ask::default() };
                    held.push_back(controller.enter(ask, Arc::clone(&series)));
                    if rng.chance(0.3) {
                        tokio::task::yield_now().await;
                    }
                    while held.len() > rng.below(8) {
                        let Some(entry) = held.pop_front() else { break };
                        // Some hang up, whether they have been told or not.
                        if rng.chance(0.3) {
                            continue;
                        }
                        // Whoever holds back others that wait behind it would wait for itself.
                        held.clear();
                        let mut pass = entry.await.unwrap();
                        n_told.fetch_add(1, Ordering::Relaxed);
                        if rng.chance(0.5) {
                            pass.placed(None);
                            pass.first_byte();
                        }
                    }
                }
            };
            scene.tasks.spawn("work", work)
        });
        for work in works.collect::<Vec<_>>() {
            work.join().await.unwrap();
        }
    });
    assert_eq!(scene.controller.n_waiting(), 0);
    assert_eq!(scene.controller.state.lock().flow.in_flight().requests, 0);
    assert!(n_told.load(Ordering::Relaxed) > 0);
    scene.tasks.cancel();
}

#[tokio::test(start_paused = true)]
async fn the_alarm_ends_with_the_controller() {
    let scene = Scene::new(Config::default(), load(1.0));
    let (_pool, changes) = watch::channel(0);
    let alarm = scene.tasks.spawn("another alarm", scene.controller.run(changes));
    let waiting = scene.enter(0);
    tokio::time::sleep(Duration::from_secs(1)).await;
    let Scene { controller, tasks, .. } = scene;
    drop((controller, waiting));
    alarm.join().await.unwrap();
    drop(tasks);
}

#[tokio::test(start_paused = true)]
async fn the_page_shows_every_wait_and_its_end() {
    let scene = Scene::new(Config::default(), load(0.5));
    let running = scene.enter(0).await.unwrap();
    let name = |name: &str| format!("llm_d_epp_flow_control_{name}");
    let waiting = scene.enter(0);
    assert_eq!(scene.sum(&name("queue_size"), "priority=\"0\""), 1.0);
    let queued = "outcome=\"NotYetFinalized\"";
    assert_eq!(scene.sum(&name("request_enqueue_duration_seconds_count"), queued), 1.0);
    drop(waiting);
    assert_eq!(scene.sum(&name("queue_size"), "priority=\"0\""), 0.0);
    for outcome in ["Dispatched", "EvictedContextCancelled"] {
        let label = format!("outcome=\"{outcome}\"");
        assert_eq!(scene.sum(&name("requests_total"), &label), 1.0, "{outcome}");
        let waits = name("request_queue_duration_seconds_count");
        assert_eq!(scene.sum(&waits, &label), 1.0, "{outcome}");
    }
    scene.controller.publish();
    assert_eq!(scene.sum(&name("pool_saturation"), "stage=\"effective\""), 1.0);
    assert_eq!(scene.sum(&name("in_flight_requests"), "phase=\"on_the_way\""), 1.0);
    assert_eq!(scene.sum(&name("jain_index"), "priority=\"0\""), 1.0);
    drop(running);
}

#[tokio::test(start_paused = true)]
async fn flows_that_were_only_refused_are_off_the_page_when_they_have_been_idle() {
    let flow_idle = Duration::from_secs(1);
    let bounds = router_flow::Bounds { flow_idle, ..router_flow::Bounds::default() };
    let config = Config { max_requests: Some(1), bounds, ..Config::default() };
    let scene = Scene::new(config, load(1.0));
    let router = RouterMetrics::new(&Registry::default(), &BUILD).unwrap();
    let ask = |flow: &str| {
        let ask = Ask { flow: router_flow::FlowId::from(flow), ..Ask::default() };
        scene.controller.enter(ask, router.request("", "", flow, 0))
    };
    let shown = |flow: &str| {
        scene.controller.publish();
        let page = scene.registry.encode(Format::Text);
        let label = format!("fairness_id=\"{flow}\"");
        let of_flow = page.lines().filter(|line| line.contains(&label));
        let families = of_flow.filter_map(|line| line.split_once('{'));
        families.map(|(name, _)| name.to_owned()).collect::<BTreeSet<_>>()
    };
    let waits = ask("waits");
    for n in 0..50 {
        assert_eq!(reason(ask(&format!("tenant-{n}")).await), (429, "rejected-saturated"));
    }
    // The one that waits was refused, too.
    assert_eq!(reason(ask("waits").await).0, 429);
    assert!(shown("tenant-7").contains("llm_d_epp_flow_control_queue_size"));
    tokio::time::sleep(Duration::from_millis(600)).await;
    assert_eq!(reason(ask("tenant-7").await).0, 429);
    tokio::time::sleep(Duration::from_millis(600)).await;
    assert!(!shown("tenant-7").is_empty(), "it was refused just now");
    for n in (0..50).filter(|n| *n != 7) {
        assert_eq!(shown(&format!("tenant-{n}")), BTreeSet::new());
    }
    assert!(!shown("waits").is_empty());
    assert_eq!(scene.sum("llm_d_epp_flow_control_queue_size", "fairness_id=\"waits\""), 1.0);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(shown("tenant-7"), BTreeSet::new());
    drop(waits);
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(shown("waits"), BTreeSet::new());
}

#[tokio::test(start_paused = true)]
async fn totals_go_on_when_another_configuration_takes_over() {
    let scene = Scene::new(Config::default(), load(0.5));
    let controller = |n_confirmed| {
        let router = Arc::new(RouterMetrics::new(&Registry::default(), &BUILD).unwrap());
        let meters = Meters::new(FlowMetrics::new(&scene.registry).unwrap(), "pool", router);
        let mut snapshot = scene.controller.snapshot(0);
        snapshot.reclaim.confirmed = n_confirmed;
        meters.count(&snapshot);
        (meters, snapshot)
    };
    let confirmed =
        || scene.sum("llm_d_epp_flow_control_revocations_total", "outcome=\"confirmed\"");
    let (old, mut said) = controller(3);
    let _new = controller(1);
    assert_eq!(confirmed(), 4.0);
    // The old one has some more to its end.
    said.reclaim.confirmed = 5;
    old.count(&said);
    old.count(&said);
    assert_eq!(confirmed(), 6.0);
    scene.controller.retire();
    scene.controller.note_unjudged();
    drop(scene.tasks);
    let page = |scene: &Registry| scene.encode(Format::Text);
    assert!(
        !page(&scene.registry).contains("subsets_judged_as_pool_total{inference_pool=\"pool\"} 1")
    );
    drop(scene.controller);
    tokio::task::yield_now().await;
    assert!(
        page(&scene.registry).contains("subsets_judged_as_pool_total{inference_pool=\"pool\"} 1")
    );
}

#[tokio::test(start_paused = true)]
async fn what_is_shown_of_an_idle_pool_is_not_what_it_was_when_somebody_came() {
    let scene = Scene::new(Config::default(), load(0.5));
    drop(scene.enter(0).await.unwrap());
    scene.show(load(0.25));
    tokio::time::sleep(Duration::from_mins(1)).await;
    scene.controller.publish();
    assert_eq!(scene.sum("llm_d_epp_flow_control_pool_saturation", "stage=\"decode\""), 0.25);
    assert_eq!(scene.sum("llm_d_epp_flow_control_signal_age_seconds", "pool"), 0.0);
    scene.show(load(0.75));
    tokio::time::sleep(Duration::from_mins(1)).await;
    let page = scene.controller.debug_page();
    assert_eq!(page["pool"]["signal"]["decode"]["saturation"], 0.75);
    assert_eq!(page["pool"]["signal"]["ageSeconds"], 0.0);
}

#[tokio::test(start_paused = true)]
async fn the_debug_page_stays_small_and_says_what_it_leaves_out() {
    let scene = Scene::new(Config::default(), load(1.0));
    let enter = |n: usize| {
        let flow = router_flow::FlowId::from(format!("tenant-{n}").as_str());
        scene.controller.enter(Ask { flow, ..Ask::default() }, Arc::clone(&scene.series))
    };
    let _waiting: Vec<_> = (0..150).chain([140]).map(enter).collect();
    let band = &scene.controller.debug_page()["bands"][0];
    assert_eq!(band["flows"].as_array().map(Vec::len), Some(100));
    assert_eq!((&band["flowsLeftOut"], &band["knownFlows"]), (&50.into(), &150.into()));
    assert_eq!(band["flows"][0]["fairnessId"], "tenant-140");
}

#[test]
fn a_verdict_stands() {
    let registry = Registry::default();
    let metrics = Arc::new(RouterMetrics::new(&registry, &BUILD).unwrap());
    let series = metrics.request("", "", "default-flow", 0);
    let meters = Meters::new(FlowMetrics::new(&registry).unwrap(), "pool", metrics);
    let waiter = Waiter::new(meters.enter(series, 0, 0));
    waiter.settle(Verdict::Go);
    let refusal = router_flow::Refusal::EvictedTtl;
    waiter.settle(Verdict::Refused { refusal, retry_after: Duration::ZERO });
    assert!(matches!(waiter.verdict(), Some(Verdict::Go)));
}
