//! Flow control under many orders in which threads may come: no wakeup is lost, nobody ends twice, nobody
//! waits for ever. A thread that waits for what never comes is found by `shuttle`, which sees all of them.

use std::{pin::pin, sync::atomic::AtomicUsize};

use futures_util::future::select;
use parking_lot::RwLock;
use router_core::EndpointIndex;
use router_flow::{Eviction, StageLoad, SubsetId, Usage};
use router_telemetry::{BUILD, Registry, RouterMetrics, router::FlowMetrics};
use shuttle::future::{JoinHandle, block_on, spawn};

use super::{
    sync::{AtomicU64, Crossing, play},
    *,
};

/// Orders that each scene is played in, unless `FLOW_ORDERS` says another number.
const N_ORDERS: usize = 300;
const N_SLOTS: u64 = 2;

/// Shows what a scene says, or how many requests are counted.
struct Shown(Arc<RwLock<Option<PoolSignal>>>, Crossing);

impl Gauge for Shown {
    fn read(&self, now: Stamp, n_placed: u64) -> PoolSignal {
        let shown = *self.0.read();
        // Others come between a look at the pool and what is made of it.
        self.1.pass();
        shown.map_or_else(
            || PoolSignal::of_pool(StageLoad::counted(n_placed, N_SLOTS), now),
            |signal| PoolSignal { as_of: now, ..signal },
        )
    }

    /// All are of the same endpoint, which has all that is placed.
    fn read_subsets(
        &self,
        now: Stamp,
        (_, n_placed): (&PoolSignal, u64),
        subsets: Vec<SubsetInUse>,
        _: bool,
    ) -> Vec<SubsetSignal> {
        self.1.pass();
        let signal = PoolSignal::of_pool(StageLoad::counted(n_placed, N_SLOTS), now);
        let of = |subset: SubsetInUse| SubsetSignal {
            id: subset.id,
            signal,
            endpoints: [ENDPOINT].into(),
            share: 1.0,
        };
        subsets.into_iter().map(of).collect()
    }
}

const ENDPOINT: EndpointIndex = EndpointIndex { slot: 0, generation: 0 };

/// Shows what an endpoint counts.
struct Counted(Arc<AtomicU64>);

impl Gauge for Counted {
    fn read(&self, now: Stamp, _: u64) -> PoolSignal {
        PoolSignal::of_pool(StageLoad::counted(self.0.load(Ordering::SeqCst), N_SLOTS), now)
    }
}

fn n_orders() -> usize {
    let asked = std::env::var("FLOW_ORDERS").ok();
    asked.and_then(|number| number.parse().ok()).unwrap_or(N_ORDERS)
}

struct Scene {
    controller: Arc<FlowController>,
    shown: Arc<RwLock<Option<PoolSignal>>>,
    series: Arc<RequestSeries>,
    n_running: AtomicUsize,
    n_served: AtomicUsize,
    n_refused: AtomicUsize,
}

impl Scene {
    fn new(config: Config, shown: Option<PoolSignal>) -> Arc<Self> {
        let shown = Arc::new(RwLock::new(shown));
        let gauge = Shown(Arc::clone(&shown), Crossing::new());
        Self::with(config, shown, Box::new(gauge))
    }

    fn with(
        config: Config,
        shown: Arc<RwLock<Option<PoolSignal>>>,
        gauge: Box<dyn Gauge>,
    ) -> Arc<Self> {
        let registry = Registry::default();
        let metrics = Arc::new(RouterMetrics::new(&registry, &BUILD).unwrap());
        let series = metrics.request("", "", "default-flow", 0);
        let meters = Meters::new(FlowMetrics::new(&registry).unwrap(), "pool", metrics);
        let renew_after = Duration::from_millis(50);
        let controller = FlowController::new(config, gauge, Clock::new(), renew_after, meters);
        controller.read_gauge(Duration::ZERO);
        Arc::new(Self {
            controller,
            shown,
            series,
            n_running: AtomicUsize::new(0),
            n_served: AtomicUsize::new(0),
            n_refused: AtomicUsize::new(0),
        })
    }

    fn enter(&self, priority: i32) -> Entry {
        self.ask(Ask { priority, ..Ask::default() })
    }

    fn ask(&self, ask: Ask) -> Entry {
        self.controller.enter(ask, Arc::clone(&self.series))
    }

    /// Waits to the end, runs, and ends.
    async fn serve(self: Arc<Self>, priority: i32) {
        let entry = self.enter(priority);
        let Ok(mut pass) = entry.await else {
            self.n_refused.fetch_add(1, Ordering::Relaxed);
            return;
        };
        self.begins();
        pass.placed(None);
        pass.first_byte();
        self.n_running.fetch_sub(1, Ordering::Relaxed);
        pass.end(Some(Usage::default()));
        self.n_served.fetch_add(1, Ordering::Relaxed);
    }

    /// The same for one that may go to the endpoint alone, by this name.
    async fn serve_on(self: Arc<Self>, name: &'static str) {
        let entry = self.ask(Ask { subset: Some(SubsetId::new([name])), ..Ask::default() });
        let mut pass = entry.await.unwrap();
        self.begins();
        pass.placed(Some(ENDPOINT));
        self.n_running.fetch_sub(1, Ordering::Relaxed);
        pass.end(Some(Usage::default()));
        self.n_served.fetch_add(1, Ordering::Relaxed);
    }

    /// Takes a slot, of which there are so many.
    fn begins(&self) {
        let n_running = self.n_running.fetch_add(1, Ordering::Relaxed) + 1;
        assert!(n_running <= N_SLOTS as usize, "{n_running} run at once");
    }

    /// Waits for a moment, and hangs up.
    async fn hang_up(self: Arc<Self>) {
        let mut entry = self.enter(0);
        let looked = std::future::poll_fn(|cx| {
            let told = pin!(&mut entry).poll(cx);
            std::task::Poll::Ready(told)
        });
        // A pass that comes just then is given back with it.
        drop(looked.await);
    }

    fn check_nothing_left(&self) {
        assert_eq!(self.controller.n_waiting(), 0);
        assert_eq!(self.controller.state.lock().flow.in_flight().requests, 0);
    }

    /// What the alarm does when its time has come.
    fn ring(&self) {
        self.controller.read_gauge(Duration::ZERO);
        self.controller.step(|flow, now, effects| flow.wake(now, effects));
    }
}

fn load(saturation: f64) -> Option<PoolSignal> {
    let load = StageLoad { saturation, per_request: 1.0 / N_SLOTS as f64, per_token: 0.0 };
    Some(PoolSignal::of_pool(load, Stamp::ORIGIN))
}

async fn all(handles: Vec<JoinHandle<()>>) {
    for handle in handles {
        handle.await.unwrap();
    }
}

#[test]
fn who_comes_runs_hangs_up_and_ends_leaves_nothing_and_nobody_behind() {
    play(n_orders(), || {
        let scene = Scene::new(Config::default(), None);
        let mut handles = Vec::new();
        for n in 0..4 {
            handles.push(spawn(Arc::clone(&scene).serve(n % 2 - 1)));
        }
        for _ in 0..2 {
            handles.push(spawn(Arc::clone(&scene).hang_up()));
        }
        block_on(all(handles));
        assert_eq!(scene.n_served.load(Ordering::Relaxed), 4);
        scene.check_nothing_left();
    });
}

/// A subset that nobody has looked at is looked at by whoever comes, or by who reads at that moment.
#[test]
fn nobody_waits_for_ever_for_a_subset_that_nobody_has_looked_at() {
    play(n_orders(), || {
        let scene = Scene::new(Config::default(), None);
        let mut handles = Vec::new();
        for name in ["a", "a", "b", "b"] {
            handles.push(spawn(Arc::clone(&scene).serve_on(name)));
        }
        handles.push(spawn(Arc::clone(&scene).hang_up()));
        block_on(all(handles));
        assert_eq!(scene.n_served.load(Ordering::Relaxed), 4);
        scene.check_nothing_left();
        assert!(scene.controller.state.lock().flow.subsets().is_empty());
    });
}

/// Signals are read while a request leaves what an endpoint counts: its room is given away once, because whoever
/// came too many would be refused by a filter that counts too.
#[test]
fn the_room_of_one_that_ends_is_given_away_once() {
    play(n_orders(), || {
        let counted = Arc::new(AtomicU64::new(0));
        let gauge = Box::new(Counted(Arc::clone(&counted)));
        let scene = Scene::with(Config::default(), Arc::default(), gauge);
        let place = || {
            let mut pass = block_on(scene.enter(0)).unwrap();
            counted.fetch_add(1, Ordering::SeqCst);
            pass.placed(None);
            pass
        };
        let (mut ends, runs) = (place(), place());
        let waiting = [scene.enter(0), scene.enter(0)];
        let left = Arc::clone(&counted);
        let leaving = shuttle::thread::spawn(move || {
            let going = ends.moving();
            left.fetch_sub(1, Ordering::SeqCst);
            ends.end(Some(Usage::default()));
            drop(going);
        });
        scene.controller.read_gauge(Duration::ZERO);
        leaving.join().unwrap();
        let n_gone = waiting.iter().filter(|entry| entry.is_settled()).count();
        drop((waiting, runs));
        scene.check_nothing_left();
        assert!(n_gone <= 1, "{n_gone} are let go for one that ended");
    });
}

#[test]
fn everybody_is_answered_once_at_the_end() {
    play(n_orders(), || {
        let scene = Scene::new(Config::default(), None);
        let handles = (0..4).map(|_| spawn(Arc::clone(&scene).serve(0))).collect();
        let hangs_up = spawn(Arc::clone(&scene).hang_up());
        scene.controller.shut_down();
        block_on(all(handles));
        block_on(hangs_up).unwrap();
        let [n_served, n_refused] =
            [&scene.n_served, &scene.n_refused].map(|n| n.load(Ordering::Relaxed));
        assert_eq!(n_served + n_refused, 4);
        scene.check_nothing_left();
    });
}

#[test]
fn a_change_of_the_pool_is_never_missed_for_longer_than_the_alarm_takes() {
    play(n_orders(), || {
        let scene = Scene::new(Config::default(), Some(PoolSignal::empty(Stamp::ORIGIN)));
        let handles: Vec<_> = (0..3).map(|_| spawn(Arc::clone(&scene).serve(0))).collect();
        let other = Arc::clone(&scene);
        let change = spawn(async move {
            *other.shown.write() = None;
            other.controller.read_gauge(Duration::ZERO);
        });
        block_on(change).unwrap();
        // Somebody who read just before may have kept others from reading: then the alarm is set.
        if scene.controller.n_waiting() > 0 {
            assert!(scene.controller.state.lock().armed.is_some());
        }
        let other = Arc::clone(&scene);
        let alarm = spawn(async move {
            while other.n_served.load(Ordering::Relaxed) < 3 {
                other.ring();
                shuttle::future::yield_now().await;
            }
        });
        block_on(all(handles));
        block_on(alarm).unwrap();
        scene.check_nothing_left();
    });
}

/// The alarm sleeps until what it was told, and is told anew: it must never sleep for longer than somebody
/// may wait.
#[test]
fn the_alarm_never_sleeps_too_long() {
    play(n_orders(), || {
        let ttl = Some(Duration::from_secs(10));
        let scene = Scene::new(Config { ttl, ..Config::default() }, load(1.0));
        let slept = Arc::new(RwLock::new(None));
        let (other, sleeps) = (Arc::clone(&scene), Arc::clone(&slept));
        // As the alarm, but for its own sleep.
        let alarm = spawn(async move {
            loop {
                let due = other.controller.arm();
                *sleeps.write() = due;
                other.controller.rearm.notified().await;
                if other.n_refused.load(Ordering::Relaxed) > 0 {
                    return;
                }
            }
        });
        let entries: Vec<_> = (0..2)
            .map(|_| {
                let scene = Arc::clone(&scene);
                shuttle::thread::spawn(move || scene.enter(0))
            })
            .collect();
        let entries: Vec<Entry> = entries.into_iter().map(|entry| entry.join().unwrap()).collect();
        // Now nothing happens any more but that the alarm takes what it was told.
        let due = scene.controller.due(&scene.controller.state.lock().flow);
        for _ in 0..1_000 {
            if *slept.read() == due {
                break;
            }
            shuttle::thread::yield_now();
        }
        let slept = *slept.read();
        assert!(slept.is_some() && slept <= due, "{slept:?}, {due:?}");
        drop(entries);
        scene.n_refused.store(1, Ordering::Relaxed);
        scene.controller.rearm.notify_one();
        block_on(alarm).unwrap();
        scene.check_nothing_left();
    });
}

#[test]
fn who_has_to_make_room_is_told_and_its_room_is_taken() {
    play(n_orders(), || {
        let eviction = Some(Eviction { grace: Duration::ZERO, ..Eviction::default() });
        let scene = Scene::new(Config { eviction, ..Config::default() }, None);
        // Both slots are taken by work that ends when it is told, or at last.
        let enough = Arc::new(Notify::new());
        let work = || {
            let (scene, enough) = (Arc::clone(&scene), Arc::clone(&enough));
            async move {
                let mut pass = scene.enter(-1).await.unwrap();
                pass.placed(None);
                select(pass.eviction().unwrap(), pin!(enough.notified())).await;
                pass.end(None);
            }
        };
        let works: Vec<_> = (0..N_SLOTS).map(|_| spawn(work())).collect();
        while n_placed(&scene.controller.state.lock().flow) < N_SLOTS {
            shuttle::thread::yield_now();
        }
        let important = (0..2).map(|_| spawn(Arc::clone(&scene).serve(100))).collect();
        block_on(all(important));
        assert!(scene.controller.snapshot(0).reclaim.issued > 0);
        enough.notify_one();
        block_on(all(works));
        scene.check_nothing_left();
    });
}
