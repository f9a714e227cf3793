//! How full the pool is, signals and what happened since together.
//!
//! A signal is old when it comes: what was let go in the meantime is not in it. So every request counts
//! against the pool from the moment it is let go. Until an endpoint knows of it ([`placed`]), it is in no
//! signal; from then on it is in those that were taken later. When it ends, it leaves as well, for all
//! signals that were taken before. So the saturation is what the last signal said, and for each request that
//! came or went since it was taken, what one request makes of it.
//!
//! [`placed`]: crate::FlowControl::placed

use std::collections::VecDeque;

use router_core::Stamp;

use crate::request::Cost;

/// How full one stage of the pool is, and what a request adds to that.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct StageLoad {
    /// 0 is idle, 1 and above is full.
    pub saturation: f64,
    /// Saturation that one request more makes.
    pub per_request: f64,
    /// Saturation that one token more makes.
    pub per_token: f64,
}

impl StageLoad {
    /// By the number of requests that endpoints know of, where no better signal exists: full at
    /// `max_requests`.
    pub fn counted(n_placed: u64, max_requests: u64) -> Self {
        let per_request = 1.0 / max_requests.max(1) as f64;
        Self { saturation: n_placed as f64 * per_request, per_request, per_token: 0.0 }
    }

    /// The same with so much more.
    #[must_use]
    pub fn with(mut self, more: Size) -> Self {
        let unit = |unit: f64| if unit.is_finite() { unit.max(0.0) } else { 0.0 };
        self.saturation += more.requests * unit(self.per_request);
        self.saturation += more.tokens * unit(self.per_token);
        self
    }
}

/// Requests and tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Size {
    pub requests: f64,
    pub tokens: f64,
}

impl Size {
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self { requests: self.requests + other.requests, tokens: self.tokens + other.tokens }
    }

    #[must_use]
    pub fn times(self, factor: f64) -> Self {
        Self { requests: self.requests * factor, tokens: self.tokens * factor }
    }
}

/// What is in flight, by the stages that it is in or is on its way to.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct InStages {
    /// Requests whose prompt is not computed yet.
    pub prefill: Size,
    /// All of them.
    pub decode: Size,
}

/// What is known of the pool at a moment.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PoolSignal {
    pub has_endpoints: bool,
    /// Where prompts are computed apart from the rest.
    pub prefill: Option<StageLoad>,
    /// Where answers are computed, or all is.
    pub decode: Option<StageLoad>,
    /// The signal has in it what was placed, and what ended, up to here; but nothing that flow control is
    /// told after the signal, whatever its time.
    pub as_of: Stamp,
}

impl PoolSignal {
    /// A pool without stages.
    pub fn of_pool(load: StageLoad, as_of: Stamp) -> Self {
        Self { has_endpoints: true, prefill: None, decode: Some(load), as_of }
    }

    /// The same with so many requests more on each stage, whatever their tokens.
    #[must_use]
    pub fn with_more(mut self, n_requests: u64) -> Self {
        for load in [&mut self.prefill, &mut self.decode].into_iter().flatten() {
            load.saturation += n_requests as f64 * load.per_request.max(0.0);
        }
        self
    }

    /// A pool without endpoints.
    pub fn empty(as_of: Stamp) -> Self {
        Self { has_endpoints: false, prefill: None, decode: None, as_of }
    }
}

/// Requests that were let go and have not ended, with their tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct InFlight {
    pub requests: u64,
    pub tokens: u64,
    /// Of these, the ones that no endpoint knows of yet.
    pub unplaced_requests: u64,
    pub unplaced_tokens: u64,
}

/// Moments of change that are remembered of the pool. When more come between two signals, the older ones count as
/// younger than they are: what a signal has in it may then be counted again until the next.
const MAX_STEPS: usize = 4_096;

/// Requests and tokens that came to a stage, less those that left it.
#[derive(Clone, Copy, Default)]
struct Delta {
    requests: i64,
    tokens: i64,
}

impl Delta {
    fn size(self) -> Size {
        Size { requests: self.requests as f64, tokens: self.tokens as f64 }
    }

    fn add(&mut self, other: Self) {
        self.requests += other.requests;
        self.tokens += other.tokens;
    }

    fn minus(self) -> Self {
        Self { requests: -self.requests, tokens: -self.tokens }
    }
}

/// What came and went since the last signal was taken.
struct Ledger {
    /// What changed at each moment, the oldest first.
    steps: VecDeque<(Stamp, Delta)>,
    max_steps: usize,
    sum: Delta,
}

impl Ledger {
    fn new(max_steps: usize) -> Self {
        Self { steps: VecDeque::new(), max_steps, sum: Delta::default() }
    }

    fn note(&mut self, now: Stamp, delta: Delta) {
        self.sum.add(delta);
        if let Some((last, known)) = self.steps.back_mut()
            && *last == now
        {
            known.add(delta);
            return;
        }
        if self.steps.len() >= self.max_steps {
            self.thin_out();
        }
        self.steps.push_back((now, delta));
    }

    /// Makes one of every two moments of the older half.
    fn thin_out(&mut self) {
        let n_older = self.steps.len() / 2;
        let mut older = self.steps.drain(..n_older);
        let mut thinned = Vec::with_capacity(n_older / 2 + 1);
        while let Some((at, mut delta)) = older.next() {
            let (later, more) = older.next().unwrap_or((at, Delta::default()));
            delta.add(more);
            thinned.push((later, delta));
        }
        drop(older);
        thinned.into_iter().rev().for_each(|step| self.steps.push_front(step));
    }

    /// Forgets what a signal of that moment has in it.
    fn settle(&mut self, as_of: Stamp) {
        while let Some((at, delta)) = self.steps.front()
            && *at <= as_of
        {
            self.sum.add(delta.minus());
            self.steps.pop_front();
        }
    }
}

/// Requests that were let go and that no endpoint knows of yet.
#[derive(Clone, Copy, Default)]
pub(crate) struct OnTheWay {
    prefill: Delta,
    decode: Delta,
}

impl OnTheWay {
    pub(crate) fn add(&mut self, cost: &Cost) {
        self.decode.add(decode_delta(cost));
        self.prefill.add(prefill_delta(cost));
    }

    pub(crate) fn remove(&mut self, cost: &Cost) {
        self.decode.add(decode_delta(cost).minus());
        self.prefill.add(prefill_delta(cost).minus());
    }

    /// All but those.
    pub(crate) fn without(&self, those: &Self) -> Self {
        let mut rest = *self;
        rest.decode.add(those.decode.minus());
        rest.prefill.add(those.prefill.minus());
        rest
    }
}

/// How full some endpoints are: what the last signal said of them, and what came to them and went since.
pub(crate) struct Load {
    signal: PoolSignal,
    prefill: Ledger,
    decode: Ledger,
}

impl Load {
    pub(crate) fn new(max_steps: usize) -> Self {
        Self {
            signal: PoolSignal::empty(Stamp::ORIGIN),
            prefill: Ledger::new(max_steps),
            decode: Ledger::new(max_steps),
        }
    }

    pub(crate) fn signal(&self) -> &PoolSignal {
        &self.signal
    }

    pub(crate) fn set_signal(&mut self, now: Stamp, signal: PoolSignal) {
        let as_of = signal.as_of.min(now).max(self.signal.as_of);
        self.signal = PoolSignal { as_of, ..signal };
        self.prefill.settle(as_of);
        self.decode.settle(as_of);
    }

    /// Of the fuller stage, with all that is on the way to these endpoints, and a share of what else is on
    /// the way to some endpoint.
    pub(crate) fn saturation(&self, own: &OnTheWay, others: Option<(&OnTheWay, f64)>) -> f64 {
        let of = |load: &Option<StageLoad>, ledger: &Ledger, stage: fn(&OnTheWay) -> Delta| {
            load.map(|load| {
                // Not a number means that nothing is known, and is no reason to overrun the pool.
                let base = if load.saturation.is_nan() { 1.0 } else { load.saturation };
                let mut here = ledger.sum;
                here.add(stage(own));
                let mut size = here.size();
                if let Some((others, share)) = others {
                    let others = stage(others).size();
                    size.requests += share * others.requests;
                    size.tokens += share * others.tokens;
                }
                StageLoad { saturation: base, ..load }.with(size).saturation.max(0.0)
            })
        };
        let prefill = of(&self.signal.prefill, &self.prefill, |way| way.prefill);
        let decode = of(&self.signal.decode, &self.decode, |way| way.decode);
        match (prefill, decode) {
            (Some(prefill), Some(decode)) => prefill.max(decode),
            (one, other) => one.or(other).unwrap_or(1.0),
        }
    }

    pub(crate) fn placed(&mut self, now: Stamp, cost: &Cost) {
        self.decode.note(now, decode_delta(cost));
        self.prefill.note(now, prefill_delta(cost));
    }

    /// The prompt of a placed request is computed.
    pub(crate) fn prefilled(&mut self, now: Stamp, cost: &Cost) {
        self.prefill.note(now, prefill_delta(cost).minus());
    }

    /// A placed request ended whose prompt was computed.
    pub(crate) fn ended(&mut self, now: Stamp, cost: &Cost) {
        self.decode.note(now, decode_delta(cost).minus());
    }
}

/// The pool as flow control sees it.
pub(crate) struct PoolState {
    load: Load,
    /// When the pool became empty, or stopped being so.
    pub(crate) flipped: Stamp,
    on_the_way: OnTheWay,
    in_flight: Delta,
    /// Of what is in flight, what has its prompt to be computed.
    in_prefill: Delta,
}

impl PoolState {
    pub(crate) fn new() -> Self {
        Self {
            load: Load::new(MAX_STEPS),
            flipped: Stamp::ORIGIN,
            on_the_way: OnTheWay::default(),
            in_flight: Delta::default(),
            in_prefill: Delta::default(),
        }
    }

    pub(crate) fn signal(&self) -> &PoolSignal {
        self.load.signal()
    }

    pub(crate) fn has_endpoints(&self) -> bool {
        self.signal().has_endpoints
    }

    pub(crate) fn on_the_way(&self) -> &OnTheWay {
        &self.on_the_way
    }

    pub(crate) fn in_flight(&self) -> InFlight {
        let count = |n: i64| u64::try_from(n).unwrap_or_default();
        InFlight {
            requests: count(self.in_flight.requests),
            tokens: count(self.in_flight.tokens),
            unplaced_requests: count(self.on_the_way.decode.requests),
            unplaced_tokens: count(self.on_the_way.decode.tokens),
        }
    }

    pub(crate) fn in_stages(&self) -> InStages {
        InStages { prefill: self.in_prefill.size(), decode: self.in_flight.size() }
    }

    pub(crate) fn set_signal(&mut self, now: Stamp, signal: PoolSignal) {
        if signal.has_endpoints != self.has_endpoints() {
            self.flipped = now;
        }
        self.load.set_signal(now, signal);
    }

    /// What the last signal said and what came and went since, of the fuller stage.
    pub(crate) fn saturation(&self) -> f64 {
        self.load.saturation(&self.on_the_way, None)
    }

    pub(crate) fn dispatched(&mut self, cost: &Cost) {
        self.in_flight.add(decode_delta(cost));
        self.in_prefill.add(prefill_delta(cost));
        self.on_the_way.add(cost);
    }

    pub(crate) fn placed(&mut self, now: Stamp, cost: &Cost) {
        self.on_the_way.remove(cost);
        self.load.placed(now, cost);
    }

    /// The prompt of a placed request is computed.
    pub(crate) fn prefilled(&mut self, now: Stamp, cost: &Cost) {
        self.in_prefill.add(prefill_delta(cost).minus());
        self.load.prefilled(now, cost);
    }

    /// A request ended that was never placed.
    pub(crate) fn unplaced_ended(&mut self, cost: &Cost) {
        self.in_flight.add(decode_delta(cost).minus());
        self.in_prefill.add(prefill_delta(cost).minus());
        self.on_the_way.remove(cost);
    }

    /// A placed request ended whose prompt was computed.
    pub(crate) fn ended(&mut self, now: Stamp, cost: &Cost) {
        self.in_flight.add(decode_delta(cost).minus());
        self.load.ended(now, cost);
    }
}

fn decode_delta(cost: &Cost) -> Delta {
    Delta { requests: 1, tokens: cost.load() as i64 }
}

fn prefill_delta(cost: &Cost) -> Delta {
    Delta { requests: 1, tokens: i64::from(cost.uncached) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COST: Cost = Cost { cached: 10, uncached: 20, output: 70 };

    fn at(millis: u64) -> Stamp {
        Stamp::from_nanos(millis * 1_000_000)
    }

    fn load(saturation: f64) -> StageLoad {
        StageLoad { saturation, per_request: 0.1, per_token: 0.001 }
    }

    #[track_caller]
    fn check(pool: &PoolState, saturation: f64) {
        assert!((pool.saturation() - saturation).abs() < 1e-9, "{}", pool.saturation());
    }

    #[test]
    fn what_no_signal_shows_yet_is_added_and_what_left_since_is_taken_off() {
        let mut pool = PoolState::new();
        pool.set_signal(at(0), PoolSignal::of_pool(load(0.5), at(0)));
        pool.dispatched(&COST);
        check(&pool, 0.7);
        pool.placed(at(10), &COST);
        check(&pool, 0.7);
        // A signal from before the placing does not have it, whenever it comes.
        pool.set_signal(at(20), PoolSignal::of_pool(load(0.6), at(9)));
        check(&pool, 0.8);
        pool.set_signal(at(30), PoolSignal::of_pool(load(0.9), at(25)));
        check(&pool, 0.9);
        pool.ended(at(40), &COST);
        check(&pool, 0.7);
        pool.set_signal(at(50), PoolSignal::of_pool(load(0.3), at(45)));
        check(&pool, 0.3);
        assert_eq!(pool.in_flight(), InFlight::default());
    }

    #[test]
    fn what_is_on_its_way_to_an_endpoint_counts_though_signals_are_younger() {
        let mut pool = PoolState::new();
        pool.dispatched(&COST);
        pool.set_signal(at(100), PoolSignal::of_pool(load(0.5), at(100)));
        check(&pool, 0.7);
        pool.unplaced_ended(&COST);
        check(&pool, 0.5);
        assert_eq!(pool.in_stages(), InStages::default());
    }

    #[test]
    fn the_fuller_stage_counts_and_prefill_ends_with_the_prompt() {
        let mut pool = PoolState::new();
        let (prefill, decode) = (Some(load(0.9)), Some(load(0.5)));
        let signal = PoolSignal { has_endpoints: true, prefill, decode, as_of: at(0) };
        pool.set_signal(at(0), signal);
        pool.dispatched(&COST);
        pool.placed(at(1), &COST);
        check(&pool, 0.9 + 0.1 + 0.02);
        assert_eq!(pool.in_stages().prefill, Size { requests: 1.0, tokens: 20.0 });
        pool.prefilled(at(2), &COST);
        assert_eq!(pool.in_stages().prefill, Size::default());
        assert_eq!(pool.in_stages().decode, Size { requests: 1.0, tokens: 100.0 });
        check(&pool, 0.9);
        pool.set_signal(at(3), PoolSignal { prefill: None, ..signal });
        check(&pool, 0.7);
    }

    #[test]
    fn nonsense_is_a_full_pool_and_a_credit_is_never_more_than_an_idle_one() {
        let mut pool = PoolState::new();
        pool.set_signal(at(0), PoolSignal::of_pool(load(f64::NAN), at(0)));
        check(&pool, 1.0);
        let hostile =
            StageLoad { saturation: 0.2, per_request: f64::NAN, per_token: f64::INFINITY };
        pool.set_signal(at(0), PoolSignal::of_pool(hostile, at(0)));
        pool.dispatched(&COST);
        check(&pool, 0.2);
        pool.placed(at(1), &COST);
        pool.set_signal(at(3), PoolSignal::of_pool(load(0.1), at(2)));
        pool.ended(at(4), &COST);
        check(&pool, 0.0);
    }

    #[test]
    fn a_signal_between_two_changes_has_one_of_them_however_close_they_are() {
        let mut pool = PoolState::new();
        let nanos = Stamp::from_nanos;
        pool.set_signal(nanos(0), PoolSignal::of_pool(load(0.0), nanos(0)));
        for now in [1, 3] {
            pool.dispatched(&COST);
            pool.placed(nanos(now), &COST);
        }
        pool.set_signal(nanos(4), PoolSignal::of_pool(load(0.2), nanos(2)));
        check(&pool, 0.4);
    }

    #[test]
    fn the_ledger_is_bounded_and_loses_nothing() {
        let mut pool = PoolState::new();
        pool.set_signal(at(0), PoolSignal::of_pool(load(0.0), at(0)));
        for n in 0..10_000 {
            pool.dispatched(&COST);
            pool.placed(at(1 + 2 * n), &COST);
            assert!(pool.load.decode.steps.len() <= MAX_STEPS);
        }
        check(&pool, 10_000.0 * 0.2);
        // What is younger is still told apart from the rest.
        pool.set_signal(at(30_000), PoolSignal::of_pool(load(0.4), at(19_000)));
        check(&pool, 0.4 + 500.0 * 0.2);
        pool.set_signal(at(30_000), PoolSignal::of_pool(load(0.4), at(20_000)));
        check(&pool, 0.4);
    }
}
