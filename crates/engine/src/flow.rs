//! Flow control at work: requests wait for their turn as futures, and what happens elsewhere (a request that
//! ends, a scrape, time) lets them go.
//!
//! All decisions are [`router_flow`]'s. This module owns its state behind one short lock, tells it what
//! happens, and does what it says: it wakes who may go, answers who may not, and tells who runs that it has to
//! stop. Nothing here polls while nobody waits.
//!
//! A request [`enter`](FlowController::enter)s and awaits its [`Entry`]; dropping that is hanging up, and takes
//! it out of its queue at once. Whoever may go holds a [`Pass`] until its end; dropping that ends it.
//!
//! The pool's signal is read again when something happens, or it is to be shown, and the last reading is older
//! than [`READ_AGAIN_AFTER`]; while somebody waits, at the latest after the time between two scrapes. In
//! between, the accounting of [`router_flow::pool`] goes on with it. It is read outside the lock, with those of
//! all subsets of endpoints that some request is restricted to. That of a subset that is new is read at once,
//! alone.

mod earlier;
mod entry;
mod gauge;
mod meters;
mod refused;
mod show;
mod sync;

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use router_core::Stamp;
use router_flow::{
    Ask, Config, Effect, FlowControl, Outcome, PoolSignal, Snapshot, SubsetInUse, SubsetSignal,
    Ticket,
};
use router_rt::Clock;
use router_telemetry::router::RequestSeries;
use tokio::sync::{Notify, watch};

pub use earlier::Earlier;
pub use entry::{Entry, Eviction, Motion, Pass};
pub(crate) use gauge::MAX_IN_FLIGHT_UNKNOWN;
pub use gauge::{Members, PoolGauge, ShownSignals};
pub use meters::Meters;

use self::{
    entry::{Verdict, Waiter},
    refused::RefusedFlows,
    sync::{AtomicU64, Mutex},
};

/// Age from which on what happens makes the pool's signal be read again: signals of a large pool come more
/// often than anybody needs to look at all of them.
pub const READ_AGAIN_AFTER: Duration = Duration::from_millis(5);

/// Readings in a row that may be given up because requests were in motion; then one counts all the same.
const MAX_UNSETTLED: u64 = 16;

/// Readings in a row, because subsets came meanwhile of which nothing is known. The alarm sees to later ones.
const MAX_READINGS: usize = 8;

/// Says how full the pool is.
pub trait Gauge: Send + Sync {
    /// `n_placed` is how many requests endpoints know of, for when nothing better is known.
    fn read(&self, now: Stamp, n_placed: u64) -> PoolSignal;

    /// The same for the endpoints of each of these subsets, when this was said of the pool. Where these are
    /// not all that are in use, the others will be asked about again. A gauge that does not know them takes
    /// each for the pool.
    fn read_subsets(
        &self,
        now: Stamp,
        pool: (&PoolSignal, u64),
        subsets: Vec<SubsetInUse>,
        are_all: bool,
    ) -> Vec<SubsetSignal> {
        let _ = (now, are_all);
        let whole = |subset: SubsetInUse| SubsetSignal {
            id: subset.id,
            signal: *pool.0,
            endpoints: Arc::default(),
            share: 1.0,
        };
        subsets.into_iter().map(whole).collect()
    }

    /// From here on it counts what these have in flight as well. Gives whether it has to be read again whenever
    /// that changes.
    fn follows(&self, earlier: Vec<Weak<FlowController>>) -> bool {
        let _ = earlier;
        false
    }
}

/// All queues of a router. Shared by all who send requests through it.
pub struct FlowController {
    state: Mutex<State>,
    gauge: Box<dyn Gauge>,
    clock: Clock,
    /// Longest time between two readings of the gauge while somebody waits.
    renew_after: Duration,
    /// When the gauge was read last, in nanoseconds since the clock's origin; 0 for never.
    read_at: AtomicU64,
    n_waiting: AtomicU64,
    /// 1 while there is a subset of which nothing is known yet.
    lacks_signals: AtomicU64,
    /// How often what earlier configurations have in flight has changed, and how often by the last reading.
    n_earlier_changes: AtomicU64,
    n_earlier_seen: AtomicU64,
    /// Those of later configurations, which count what is in flight here.
    later: parking_lot::Mutex<Vec<Weak<Self>>>,
    /// Requests whose restriction was too long to be judged by.
    n_unjudged: AtomicU64,
    /// The alarm has to ring earlier than it would.
    rearm: Arc<Notify>,
    /// Requests between their place in an endpoint's counts and their place here, and how often there was one.
    in_motion: AtomicU64,
    n_motions: AtomicU64,
    /// Readings in a row that were given up.
    n_unsettled: AtomicU64,
    evicts: bool,
    meters: Meters,
    refused: Mutex<RefusedFlows>,
    /// Another configuration serves now; what is left here is not shown as the pool's any more.
    is_retired: AtomicBool,
    is_shut_down: AtomicBool,
    /// Nobody waits any more.
    emptied: Notify,
}

struct State {
    flow: FlowControl<Arc<Waiter>>,
    /// When the alarm rings.
    armed: Option<Stamp>,
}

type Effects = Vec<Effect<Arc<Waiter>>>;

impl FlowController {
    pub fn new(
        config: Config,
        gauge: Box<dyn Gauge>,
        clock: Clock,
        renew_after: Duration,
        meters: Meters,
    ) -> Arc<Self> {
        Arc::new(Self {
            evicts: config.eviction.is_some(),
            meters,
            refused: Mutex::new(RefusedFlows::new(&config.bounds)),
            is_retired: AtomicBool::new(false),
            is_shut_down: AtomicBool::new(false),
            emptied: Notify::new(),
            state: Mutex::new(State { flow: FlowControl::new(config), armed: None }),
            gauge,
            clock,
            renew_after,
            read_at: AtomicU64::new(0),
            n_waiting: AtomicU64::new(0),
            lacks_signals: AtomicU64::new(0),
            n_earlier_changes: AtomicU64::new(0),
            n_earlier_seen: AtomicU64::new(0),
            later: parking_lot::Mutex::default(),
            n_unjudged: AtomicU64::new(0),
            rearm: Arc::default(),
            in_motion: AtomicU64::new(0),
            n_motions: AtomicU64::new(0),
            n_unsettled: AtomicU64::new(0),
        })
    }

    /// A request wants to go. The entry is ready when it may, or when it is refused.
    pub fn enter(self: &Arc<Self>, ask: Ask, series: Arc<RequestSeries>) -> Entry {
        self.read_gauge(READ_AGAIN_AFTER);
        let started = self.clock.now();
        let waiter = Arc::new(Waiter::new(self.meters.enter(series, ask.priority, ask.bytes)));
        let (priority, flow) = (ask.priority, ask.flow.clone());
        let ticket =
            self.step(|flow, now, effects| flow.arrive(now, ask, Arc::clone(&waiter), effects));
        if self.lacks_signals() {
            self.read_gauge(READ_AGAIN_AFTER);
        }
        let outcome = waiter.verdict().map(|verdict| match verdict {
            Verdict::Go => Outcome::Dispatched.label(),
            Verdict::Refused { refusal, .. } => refusal.label(),
        });
        let now = self.clock.now();
        self.meters.entered(&waiter.place, outcome, now.since(started));
        if let Some(Verdict::Refused { .. }) = waiter.verdict() {
            self.refused.lock().note(now, priority, flow);
        }
        Entry::new(Arc::clone(self), ticket, waiter)
    }

    /// Whether a request like this would be refused at once. Costs nothing while nobody waits.
    pub fn refuses(&self, ask: &Ask) -> bool {
        let may_refuse = self.n_waiting() > 0 || self.is_shut_down.load(Ordering::Relaxed);
        may_refuse && self.state.lock().flow.refuses(ask)
    }

    /// Signals of the pool have changed. Costs nothing while nobody waits.
    pub fn signals_changed(&self) {
        if self.n_waiting.load(Ordering::Relaxed) > 0 {
            self.read_gauge(READ_AGAIN_AFTER);
        }
    }

    /// Rings the alarm: lets time pass in the queues, until nobody has the controller any more. `pool_changes`
    /// tells of endpoints that come and go.
    pub fn run(
        self: &Arc<Self>,
        pool_changes: watch::Receiver<u64>,
    ) -> impl Future<Output = ()> + Send + use<> {
        ring(Arc::downgrade(self), Arc::clone(&self.rearm), self.clock, pool_changes)
    }

    /// Bands of these priorities exist, whoever asks for them.
    pub fn provision(&self, priorities: &[i32]) {
        self.step(|flow, now, effects| flow.provision(now, priorities, effects));
    }

    /// Refuses all who wait and all who come. A drain calls this at its end, not at its beginning.
    pub fn shut_down(&self) {
        self.is_shut_down.store(true, Ordering::Relaxed);
        self.step(|flow, now, effects| flow.shut_down(now, effects));
    }

    /// From here on another controller is the one that metrics show.
    pub fn retire(&self) {
        self.is_retired.store(true, Ordering::Relaxed);
    }

    /// Returns when nobody waits.
    pub async fn emptied(&self) {
        loop {
            // Made before the look, so that what happens in between is not missed.
            let emptied = self.emptied.notified();
            if self.n_waiting() == 0 {
                return;
            }
            emptied.await;
        }
    }

    /// When it makes sense for a client to come again that is refused.
    pub fn retry_after(&self, priority: i32) -> Duration {
        self.state.lock().flow.retry_after(self.clock.now(), priority)
    }

    /// Brings the gauges up to date that are worked out when the page is asked for.
    pub fn publish(&self) {
        self.forget_refused();
        if self.is_retired.load(Ordering::Relaxed) {
            self.meters.count(&self.snapshot(0));
            return;
        }
        self.look_again();
        self.meters.publish(self.clock.now(), &self.snapshot(self.meters.max_flows()));
    }

    /// Takes the series of flows off the page that were only ever refused. Of those that the queues know, it
    /// is told when they are gone.
    fn forget_refused(&self) {
        let mut due = self.refused.lock().take_due(self.clock.now());
        if due.is_empty() {
            return;
        }
        {
            let state = self.state.lock();
            due.retain(|(priority, flow)| !state.flow.knows(*priority, flow));
        }
        let gone =
            due.iter().map(|(priority, flow)| (flow.as_str().to_owned(), priority.to_string()));
        self.meters.forget(&gone.collect());
    }

    pub fn n_waiting(&self) -> u64 {
        self.n_waiting.load(Ordering::Relaxed)
    }

    /// What operators see, with so many flows of each band.
    pub fn snapshot(&self, max_flows: usize) -> Snapshot {
        let mut snapshot = self.state.lock().flow.snapshot(max_flows);
        snapshot.n_unjudged += self.n_unjudged.load(Ordering::Relaxed);
        snapshot
    }

    /// A request that is restricted to too many endpoints to be judged by them.
    pub(crate) fn note_unjudged(&self) {
        self.n_unjudged.fetch_add(1, Ordering::Relaxed);
    }

    /// Before somebody is shown how full the pool is: while nobody waits nobody else looks.
    fn look_again(&self) {
        self.read_gauge(READ_AGAIN_AFTER);
    }

    /// Whether somebody may wait only because nobody has looked at their subset of endpoints yet.
    fn lacks_signals(&self) -> bool {
        self.lacks_signals.load(Ordering::Relaxed) > 0
    }

    /// Whether nobody has looked yet at what earlier configurations have in flight now. What comes and goes there
    /// is in no accounting here.
    fn is_behind_earlier(&self) -> bool {
        let n_changes = self.n_earlier_changes.load(Ordering::Relaxed);
        n_changes != self.n_earlier_seen.load(Ordering::Relaxed)
    }

    /// Reads the gauge, unless it was read within `min_age` and nothing is missing.
    fn read_gauge(&self, min_age: Duration) {
        // Whoever came while another read counts on this reader to look at their subset, too.
        for _ in 0..MAX_READINGS {
            let is_read = self.read_gauge_once(min_age);
            if !is_read || !(self.lacks_signals() || self.is_behind_earlier()) {
                return;
            }
        }
    }

    /// Gives whether it was read.
    fn read_gauge_once(&self, min_age: Duration) -> bool {
        let now = self.clock.now();
        let read_at = self.read_at.load(Ordering::Relaxed);
        let is_young = read_at != 0
            && now.since(Stamp::from_nanos(read_at)) < min_age
            && !self.is_behind_earlier();
        if is_young && !self.lacks_signals() {
            return false;
        }
        // Who is seen there and not here, or here and not there, would count twice or not at all. Whoever
        // moves reads again when they have got there.
        let gives_up = || self.n_unsettled.fetch_add(1, Ordering::Relaxed) < MAX_UNSETTLED;
        let n_motions = self.n_motions.load(Ordering::Acquire);
        let in_motion = self.in_motion.load(Ordering::Acquire);
        if in_motion != 0 && gives_up() {
            return false;
        }
        if is_young {
            return self.read_unknown(in_motion, n_motions);
        }
        // Of several that come at once, one reads.
        let mark = now.as_nanos().max(1);
        let exchange =
            self.read_at.compare_exchange(read_at, mark, Ordering::Relaxed, Ordering::Relaxed);
        if exchange.is_err() {
            return false;
        }
        // Before what they have in flight is looked at: what changes after that makes another reading.
        let n_earlier_changes = self.n_earlier_changes.load(Ordering::Acquire);
        // Both at once: what ends after this moment must not be missing from the count already.
        let (taken, n_placed, subsets) = {
            let state = self.state.lock();
            (self.clock.now(), n_placed(&state.flow), state.flow.subsets())
        };
        let signal = self.gauge.read(taken, n_placed);
        let mut of_subsets = Vec::new();
        if !subsets.is_empty() {
            of_subsets = self.gauge.read_subsets(taken, (&signal, n_placed), subsets, true);
        }
        let n_begun = self.n_motions.load(Ordering::Acquire) - n_motions;
        if n_begun != 0 && gives_up() {
            let (order, or_else) = (Ordering::Relaxed, Ordering::Relaxed);
            let _overtaken = self.read_at.compare_exchange(mark, read_at, order, or_else);
            return false;
        }
        self.n_unsettled.store(0, Ordering::Relaxed);
        // One that is on its way out may be missing there and is about to be taken off here. Until the next
        // reading the pool rather counts as fuller than it is: one request too many would be refused.
        let n_more = in_motion + n_begun;
        let signal = signal.with_more(n_more);
        for subset in &mut of_subsets {
            subset.signal = subset.signal.with_more(n_more);
        }
        self.step(|flow, now, effects| {
            // A later reading that overtook this one must not be undone.
            let is_last = self.read_at.load(Ordering::Relaxed) == mark;
            if is_last {
                self.n_earlier_seen.store(n_earlier_changes, Ordering::Relaxed);
                flow.signals(now, taken, signal, of_subsets, effects);
            }
            is_last
        })
    }

    /// Reads what is missing alone: the signals of all other subsets are young. Of several that come at once,
    /// the first to end counts.
    fn read_unknown(&self, in_motion: u64, n_motions: u64) -> bool {
        let (taken, pool, n_placed, subsets) = {
            let state = self.state.lock();
            let flow = &state.flow;
            (self.clock.now(), *flow.pool_signal(), n_placed(flow), flow.unknown_subsets())
        };
        if subsets.is_empty() {
            return true;
        }
        let mut signals = self.gauge.read_subsets(taken, (&pool, n_placed), subsets, false);
        let n_begun = self.n_motions.load(Ordering::Acquire) - n_motions;
        if n_begun != 0 && self.n_unsettled.fetch_add(1, Ordering::Relaxed) < MAX_UNSETTLED {
            return false;
        }
        self.n_unsettled.store(0, Ordering::Relaxed);
        for subset in &mut signals {
            subset.signal = subset.signal.with_more(in_motion + n_begun);
        }
        self.step(|flow, now, effects| flow.first_signals(now, taken, signals, effects));
        true
    }

    /// When the alarm has to ring.
    fn arm(&self) -> Option<Stamp> {
        let mut state = self.state.lock();
        state.armed = self.due(&state.flow);
        state.armed
    }

    fn due(&self, flow: &FlowControl<Arc<Waiter>>) -> Option<Stamp> {
        let read_at = Stamp::from_nanos(self.read_at.load(Ordering::Relaxed));
        let renew = (flow.n_waiting() > 0).then(|| read_at + self.renew_after);
        [flow.next_deadline(), renew].into_iter().flatten().min()
    }

    /// Tells the queues what happened, and does what they say.
    fn step<R>(
        &self,
        event: impl FnOnce(&mut FlowControl<Arc<Waiter>>, Stamp, &mut Effects) -> R,
    ) -> R {
        let mut effects = Vec::new();
        let (result, is_earlier, is_emptied, is_changed, now) = {
            let mut state = self.state.lock();
            let now = self.clock.now();
            let (n_waiting, in_stages) = (state.flow.n_waiting(), state.flow.in_stages());
            let result = event(&mut state.flow, now, &mut effects);
            let is_emptied = n_waiting > 0 && state.flow.n_waiting() == 0;
            self.n_waiting.store(state.flow.n_waiting(), Ordering::Relaxed);
            self.lacks_signals.store(state.flow.lacks_signals().into(), Ordering::Relaxed);
            let due = self.due(&state.flow);
            let is_earlier = due.is_some_and(|due| state.armed.is_none_or(|armed| due < armed));
            if is_earlier {
                state.armed = due;
            }
            let is_changed = in_stages != state.flow.in_stages();
            (result, is_earlier, is_emptied, is_changed, now)
        };
        self.meters.cycle(self.clock.now().since(now));
        if is_earlier {
            self.rearm.notify_one();
        }
        if is_emptied {
            self.emptied.notify_waiters();
        }
        self.act(now, effects);
        if is_changed {
            self.tell_later();
        }
        result
    }

    /// Does what the queues say.
    fn act(&self, now: Stamp, effects: Effects) {
        let mut gone = BTreeSet::new();
        for effect in effects {
            match effect {
                Effect::Dispatch { payload, waited, .. } => {
                    self.meters.left(&payload.place, Outcome::Dispatched, waited);
                    payload.settle(Verdict::Go);
                }
                Effect::Drop { payload, refusal, waited, retry_after, .. } => {
                    self.meters.left(&payload.place, Outcome::Refused(refusal), waited);
                    payload.settle(Verdict::Refused { refusal, retry_after });
                }
                Effect::Evict { payload, demand, .. } => {
                    self.meters.evicted(demand);
                    payload.evict(now);
                }
                Effect::FlowGone { priority, flow } => {
                    gone.insert((flow.as_str().to_owned(), priority.to_string()));
                }
                Effect::PolicyFailed(failure) => {
                    self.meters.policy_failed(&failure);
                    tracing::error!(
                        extension_point = failure.kind.as_str(),
                        panic = failure.message,
                        "a policy failed; going on without it"
                    );
                }
            }
        }
        if !gone.is_empty() {
            self.meters.forget(&gone);
        }
    }

    /// Whether requests in flight may be told to make room.
    fn evicts(&self) -> bool {
        self.evicts
    }

    /// A request has ended that was told so then to make room.
    fn eviction_ended(&self, since: Stamp) {
        self.meters.eviction_ended(self.clock.now().since(since));
    }

    /// Whoever has this ticket is gone before it was told its verdict, or without having used it.
    fn abandon(&self, ticket: Ticket) {
        self.step(|flow, now, effects| {
            if !flow.cancel(now, ticket, effects) {
                flow.finished(now, ticket, Some(router_flow::Usage::default()), effects);
            }
        });
    }
}

/// Requests that endpoints know of.
fn n_placed(flow: &FlowControl<Arc<Waiter>>) -> u64 {
    let in_flight = flow.in_flight();
    in_flight.requests - in_flight.unplaced_requests
}

impl Drop for FlowController {
    /// Ends the alarm, and counts what nobody has asked for since.
    fn drop(&mut self) {
        self.rearm.notify_one();
        self.meters.count(&self.snapshot(0));
    }
}

async fn ring(
    controller: Weak<FlowController>,
    rearm: Arc<Notify>,
    clock: Clock,
    mut pool_changes: watch::Receiver<u64>,
) {
    if let Some(controller) = controller.upgrade() {
        controller.read_gauge(Duration::ZERO);
    }
    loop {
        let Some(due) = controller.upgrade().map(|controller| controller.arm()) else { return };
        let alarm = async {
            match due {
                Some(due) => clock.sleep_until(due).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = rearm.notified() => {}
            changed = pool_changes.changed() => {
                let Some(controller) = controller.upgrade().filter(|_| changed.is_ok()) else {
                    return;
                };
                controller.read_gauge(Duration::ZERO);
            }
            () = alarm => {
                let Some(controller) = controller.upgrade() else { return };
                controller.read_gauge(controller.renew_after);
                controller.step(|flow, now, effects| flow.wake(now, effects));
            }
        }
    }
}

#[cfg(test)]
mod defects;
#[cfg(test)]
mod interleaved;
#[cfg(test)]
mod tests;
