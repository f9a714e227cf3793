//! How much endpoints' caches hold, learned from answers where no metrics tell.
//!
//! An answer that says how many of its prompt's tokens were cached tells whether blocks were still there of which is
//! known how deep they were: how many other blocks were used since, or in use. A cache that drops what was used least
//! recently has what is less deep than it is large. Where the end of a prefix is missing and its beginning is not, the
//! cache's edge lies between the two: that is the size, to about 1 %, since answers are counted to the nearest block and
//! engines look later than the index does. Where all or nothing was there, it is a bound: until an edge is seen the
//! capacity is believed to be half-way between the most that was there and the least that was not.
//!
//! Endpoints of one kind have caches of one size: what is learned of one, bounds included, is believed of the others as
//! long as it does not contradict what they have shown.

use std::collections::BTreeMap;

use parking_lot::Mutex;
use router_core::EndpointIndex;
use router_kvcache::Run;

/// A prefix that is missing although it was less deep than this share of the capacity says nothing of it: the
/// cache may have been emptied.
const RECENT_SHARE: f64 = 0.25;
/// What one more edge changes of the mean of an endpoint's edges, at least.
const MIN_STEP: f64 = 0.1;
/// An edge or a bound counts for at most so many times what was learned: some prefixes are found by chance.
const MAX_RISE: f64 = 1.1;
/// It counts for at least one part of so many.
const MAX_FALL: f64 = 1.5;
/// Bounds that contradict what was learned by less are noise: engines look for a prefix later than it is looked up
/// here.
const NOISE: f64 = 0.01;
/// Capacities that differ by less are of one kind.
const SAME_KIND: f64 = 0.03;
/// A reported capacity that differs less than this from the one that the index has is left alone.
const HYSTERESIS: f64 = 0.03;
/// Blocks that are believed at least: 4,096 tokens.
const MIN_CAPACITY: usize = 64;
/// What was there once may be a little more than what is there at another time, when requests wait in the engine, but
/// not by this factor.
const FAR_MORE: usize = 2;
/// So many answers in a row that find far more than was learned are no chance: the edge was none, or is no more.
const N_DEEPER: u32 = 8;

/// What is known of one endpoint's capacity.
#[derive(Debug, Default)]
pub(super) struct Capacity(Mutex<State>);

/// What was learned of all endpoints.
#[derive(Debug, Default)]
pub(super) struct Learned(Mutex<BTreeMap<EndpointIndex, Shows>>);

/// What one endpoint has shown the others.
#[derive(Clone, Copy, Debug)]
enum Shows {
    Edge(Edge),
    /// It has no more blocks than this.
    Bound(usize),
}

#[derive(Debug, Default)]
struct State {
    told: Option<Told>,
    edge: Option<Edge>,
    /// Before an edge was seen: the most that may be there, and what was.
    at_most: Option<usize>,
    at_least: usize,
    /// Answers that found far more than the edge says, since one missed something.
    n_deeper: u32,
    /// The endpoint has gone; requests that were under way there teach nothing any more.
    has_gone: bool,
}

/// The mean of the edges seen. Blocks.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Edge {
    mean: f64,
    n_seen: u32,
}

/// What the index has been told of an endpoint, in blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Told {
    /// Its capacity.
    Reported(usize),
    /// What it is believed to hold.
    Believed(usize),
}

/// What an answer says of its prompt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Found {
    /// Leading blocks that were there, as far as tokens are counted alike.
    pub(super) n_blocks: usize,
    /// As far as can be told, no block was missing.
    pub(super) is_all: bool,
}

/// What an answer shows of the depth at which blocks were gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Shown {
    /// The deepest block that was there, counted with those before it; 0 where none was.
    there: usize,
    /// The same of the first that was not.
    gone: Option<usize>,
}

impl Capacity {
    /// Tells the index what is known of the endpoint, unless it knows, by `tell`, one after the other. `limit` is
    /// what it goes by until it is told.
    pub(super) fn tell(
        &self,
        reported: Option<usize>,
        limit: usize,
        learned: &Learned,
        tell: impl FnOnce(Told),
    ) {
        let mut state = self.0.lock();
        let new = match reported {
            Some(n_blocks) => Told::Reported(n_blocks),
            None => Told::Believed(state.believed(limit, learned)),
        };
        let known = match (state.told.unwrap_or(Told::Reported(limit)), new) {
            (Told::Reported(told), Told::Reported(new)) => {
                (new.abs_diff(told) as f64) < HYSTERESIS * told as f64
            }
            (told, new) => told == new,
        };
        if !known {
            state.told = Some(new);
            tell(new);
        }
    }

    /// An answer of the endpoint showed what was there of the prompt's blocks, which were so deep.
    pub(super) fn learn(
        &self,
        endpoint: EndpointIndex,
        runs: &[Run],
        found: Found,
        learned: &Learned,
    ) {
        let shown = Shown::of(runs, found);
        let mut state = self.0.lock();
        if state.has_gone || !state.learn(shown, learned) {
            return;
        }
        match state.edge.map(Shows::Edge).or(state.at_most.map(Shows::Bound)) {
            Some(shows) => learned.0.lock().insert(endpoint, shows),
            None => learned.0.lock().remove(&endpoint),
        };
    }

    /// The endpoint has gone.
    pub(super) fn forget(&self, endpoint: EndpointIndex, learned: &Learned) {
        let mut state = self.0.lock();
        state.has_gone = true;
        learned.0.lock().remove(&endpoint);
    }
}

impl State {
    fn believed(&self, limit: usize, learned: &Learned) -> usize {
        let own = self.edge.map(Shows::Edge);
        let shown = own.or_else(|| {
            let at_least = (self.at_least as f64 * (1.0 - SAME_KIND)) as usize;
            let own = self.at_most.map(Shows::Bound);
            own.into_iter().chain(learned.smallest(at_least)).min_by_key(Shows::n_blocks)
        });
        let n_blocks = match shown {
            None => limit,
            Some(Shows::Edge(edge)) => edge.mean as usize,
            Some(Shows::Bound(at_most)) => self.at_least.midpoint(at_most),
        };
        n_blocks.clamp(MIN_CAPACITY.min(limit), limit)
    }

    /// Whether what is known has changed.
    fn learn(&mut self, shown: Shown, learned: &Learned) -> bool {
        match self.edge {
            Some(edge) => self.learn_more(edge, shown),
            None => self.learn_first(shown, learned),
        }
    }

    fn learn_first(&mut self, shown: Shown, learned: &Learned) -> bool {
        // What is missing although far more was there has been dropped for another reason.
        let gone = shown.gone.filter(|gone| *gone > self.at_least / FAR_MORE);
        self.at_least = self.at_least.max(shown.there);
        let known = self.at_most;
        self.at_most = self.at_most.filter(|most| *most > shown.there / FAR_MORE);
        let Some(gone) = gone else { return self.at_most != known };
        let Some(edge) = shown.edge() else {
            self.at_most = Some(self.at_most.map_or(gone - 1, |most| most.min(gone - 1)));
            return self.at_most != known;
        };
        let own = Edge { mean: edge, n_seen: 1 };
        self.edge = Some(learned.near(edge).map_or(own, |other| other.with(edge)));
        true
    }

    fn learn_more(&mut self, known: Edge, shown: Shown) -> bool {
        let least = shown.there as f64;
        let most = shown.gone.map_or(f64::INFINITY, |gone| gone as f64 - 1.0);
        let is_deeper = shown.gone.is_none() && least > (1.0 + NOISE) * known.mean;
        self.n_deeper = match shown.gone {
            Some(_) => 0,
            None => self.n_deeper + u32::from(least > FAR_MORE as f64 * known.mean),
        };
        if self.n_deeper >= N_DEEPER {
            self.edge = Some(Edge { mean: least, n_seen: 1 });
            self.n_deeper = 0;
            return true;
        }
        let shown = match shown.edge() {
            _ if most < RECENT_SHARE * known.mean => return false,
            Some(edge) => edge,
            None if most < (1.0 - NOISE) * known.mean => most,
            None if is_deeper => least,
            None => return false,
        };
        self.edge = Some(known.with(shown));
        true
    }
}

impl Shown {
    fn of(runs: &[Run], found: Found) -> Self {
        let mut there = 0;
        for run in runs {
            let n_there = found.n_blocks.saturating_sub(run.start).min(run.n_blocks);
            if n_there > 0 {
                there = run.depth + n_there;
            }
            if n_there < run.n_blocks && !found.is_all {
                return Self { there, gone: Some(run.depth + n_there + 1) };
            }
        }
        Self { there, gone: None }
    }

    /// Where the cache ends, if it ends between what was there and what was not.
    fn edge(self) -> Option<f64> {
        let there = self.there as f64;
        let is_near = |gone: &usize| (*gone as f64) < (1.0 + NOISE) * there + 2.0;
        self.gone.filter(is_near).filter(|_| self.there > 0).map(|_| there)
    }
}

impl Edge {
    fn with(self, shown: f64) -> Self {
        let shown = shown.clamp(self.mean / MAX_FALL, MAX_RISE * self.mean);
        let n_seen = self.n_seen.saturating_add(1);
        let step = (1.0 / f64::from(n_seen)).max(MIN_STEP);
        Self { mean: self.mean + step * (shown - self.mean), n_seen }
    }
}

impl Learned {
    /// Of capacities and bounds that endpoints have shown, the smallest that is no less.
    fn smallest(&self, at_least: usize) -> Option<Shows> {
        let all = self.0.lock();
        let enough = all.values().filter(|shows| shows.n_blocks() >= at_least);
        enough.min_by_key(|shows| shows.n_blocks()).copied()
    }

    /// What is known of the kind of endpoint whose capacity is about this.
    fn near(&self, capacity: f64) -> Option<Edge> {
        let all = self.0.lock();
        let near = |edge: &Edge| (edge.mean / capacity - 1.0).abs() < SAME_KIND;
        all.values().filter_map(Shows::edge).filter(near).max_by_key(|edge| edge.n_seen)
    }
}

impl Shows {
    fn edge(&self) -> Option<Edge> {
        match self {
            Self::Edge(edge) => Some(*edge),
            Self::Bound(_) => None,
        }
    }

    fn n_blocks(&self) -> usize {
        match self {
            Self::Edge(edge) => edge.mean as usize,
            Self::Bound(n_blocks) => *n_blocks,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use router_kvcache::{BlockHash, IndexConfig, PrefixIndex};

    use super::*;

    const LIMIT: usize = 31_250;
    const PROMPT: usize = 200;

    fn endpoint(slot: u32) -> EndpointIndex {
        EndpointIndex { slot, generation: 0 }
    }

    fn run(start: usize, n_blocks: usize, depth: usize) -> Run {
        Run { start, n_blocks, depth }
    }

    fn found(n_blocks: usize) -> Found {
        Found { n_blocks, is_all: false }
    }

    fn believed(capacity: &Capacity, learned: &Learned) -> usize {
        capacity.0.lock().believed(LIMIT, learned)
    }

    /// SplitMix64.
    fn mix(word: u64) -> u64 {
        let word = word.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let word = (word ^ word >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let word = (word ^ word >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ word >> 31
    }

    /// A server's cache of whole prompts' blocks, last used first; of each prompt the last block is the oldest.
    struct Cache {
        capacity: usize,
        blocks: VecDeque<(u64, usize)>,
    }

    impl Cache {
        /// Blocks of the prompt that are there when it comes.
        fn takes(&mut self, prompt: u64) -> usize {
            let n_found = self.blocks.iter().filter(|(of, _)| *of == prompt).count();
            self.blocks.retain(|(of, _)| *of != prompt);
            (0..PROMPT).rev().for_each(|at| self.blocks.push_front((prompt, at)));
            self.blocks.truncate(self.capacity);
            n_found
        }
    }

    /// Plays one of so many prompts after the other, at random, on one endpoint with its cache.
    struct Play {
        index: PrefixIndex,
        learned: Learned,
        endpoints: Vec<(Capacity, Cache)>,
    }

    impl Play {
        fn new(caches: &[usize]) -> Self {
            let cache = |&capacity| Cache { capacity, blocks: VecDeque::new() };
            let endpoints = caches.iter().map(|n_blocks| (Capacity::default(), cache(n_blocks)));
            Self {
                index: PrefixIndex::new(IndexConfig { default_capacity: LIMIT, seed: 1 }),
                learned: Learned::default(),
                endpoints: endpoints.collect(),
            }
        }

        fn play(&mut self, slot: u32, n_prompts: u64, n_requests: u64) {
            let (capacity, cache) = &mut self.endpoints[slot as usize];
            for at in 0..n_requests {
                let nth = mix(at) % n_prompts;
                let hashes: Vec<_> =
                    (0..PROMPT as u64).map(|at| BlockHash(mix(nth << 32 | at))).collect();
                capacity.tell(None, LIMIT, &self.learned, |told| {
                    let Told::Believed(n_blocks) = told else { return };
                    self.index.believe(endpoint(slot), n_blocks);
                });
                let runs = self.index.runs(endpoint(slot), &hashes);
                let inserted = self.index.insert(endpoint(slot), &hashes, 0);
                self.index.release(&hashes, inserted, 0);
                capacity.learn(endpoint(slot), &runs, found(cache.takes(nth)), &self.learned);
            }
        }

        fn believed(&self, slot: usize) -> usize {
            believed(&self.endpoints[slot].0, &self.learned)
        }
    }

    #[track_caller]
    fn assert_near(found: usize, truth: usize) {
        let share = found as f64 / truth as f64;
        assert!((0.99..1.01).contains(&share), "{found} instead of {truth}");
    }

    #[test]
    fn where_a_prefix_is_cut_the_cache_ends() {
        let mut play = Play::new(&[8_010]);
        play.play(0, 30, 1_000);
        assert_eq!(play.believed(0), LIMIT, "nothing was missing");
        for n_blocks in [8_010, 4_070, 12_130] {
            play.endpoints[0].1.capacity = n_blocks;
            play.play(0, 90, 3_000);
            assert_near(play.believed(0), n_blocks);
        }
    }

    #[test]
    fn what_one_endpoint_has_shown_is_believed_of_the_others() {
        let mut play = Play::new(&[4_070, 4_070, 8_010, 4_070]);
        play.play(0, 60, 1_000);
        assert_near(play.believed(3), 4_070);
        play.play(1, 1, 2);
        assert_near(play.believed(1), 4_070);
        // It has more, and shows so at once: what was thought gone is still known.
        play.play(2, 35, 500);
        assert_eq!(play.believed(2), LIMIT);
        play.play(2, 90, 1_000);
        assert_near(play.believed(2), 8_010);
        play.endpoints[0].0.forget(endpoint(0), &play.learned);
        play.play(0, 60, 1_000);
        assert_near(play.believed(3), 8_010);
    }

    #[test]
    fn what_is_missing_whole_is_a_bound() {
        let (capacity, learned) = (Capacity::default(), Learned::default());
        for depth in [20_000, 9_000, 15_000] {
            capacity.learn(endpoint(0), &[run(0, 10, depth)], found(0), &learned);
        }
        assert_eq!(believed(&capacity, &learned), 4_500);
        capacity.learn(endpoint(0), &[run(0, 10, 6_990)], found(10), &learned);
        assert_eq!(believed(&capacity, &learned), 8_000, "between what was there and what was not");
        // Between what was there and what was not lies much.
        let far = [run(0, 10, 100), run(10, 10, 8_000)];
        capacity.learn(endpoint(0), &far, found(10), &learned);
        assert_eq!(believed(&capacity, &learned), 7_500);
        // The same hole, and no other.
        capacity.learn(endpoint(0), &[run(0, 10, 5_000)], found(4), &learned);
        assert_eq!(believed(&capacity, &learned), 5_004);
    }

    #[test]
    fn a_bound_is_believed_of_those_that_have_not_shown_more() {
        let [capacity, other, larger] = std::array::from_fn(|_| Capacity::default());
        let learned = Learned::default();
        larger.learn(endpoint(2), &[run(0, 10, 9_000)], found(10), &learned);
        let check = |expected: [usize; 2]| {
            let found = [&other, &larger].map(|capacity| believed(capacity, &learned));
            assert_eq!(found, expected);
        };
        check([LIMIT, LIMIT]);
        capacity.learn(endpoint(0), &[run(0, 10, 8_000)], found(0), &learned);
        check([4_000, LIMIT]);
        // It was none.
        capacity.learn(endpoint(0), &[run(0, 10, 16_000)], found(10), &learned);
        check([LIMIT, LIMIT]);
        capacity.learn(endpoint(0), &[run(0, 10, 20_000)], found(0), &learned);
        check([10_000, 14_505]);
        capacity.forget(endpoint(0), &learned);
        check([LIMIT, LIMIT]);
    }

    #[test]
    fn bounds_that_contradict_what_was_learned_move_it_little_by_little() {
        let (capacity, learned) = (Capacity::default(), Learned::default());
        capacity.learn(endpoint(0), &[run(0, 10, 4_995)], found(5), &learned);
        let check = |runs: &[Run], n_found, expected: std::ops::Range<usize>| {
            capacity.learn(endpoint(0), runs, found(n_found), &learned);
            let found = believed(&capacity, &learned);
            assert!(expected.contains(&found), "{runs:?}: {found}");
        };
        // Noise, and what may have been dropped for another reason.
        check(&[run(0, 10, 4_970)], 0, 5_000..5_001);
        check(&[run(0, 10, 5_020)], 10, 5_000..5_001);
        check(&[run(0, 10, 0)], 0, 5_000..5_001);
        check(&[run(0, 10, 600)], 3, 5_000..5_001);
        for _ in 0..30 {
            check(&[run(0, 10, 4_995)], 5, 5_000..5_001);
        }
        // Outliers.
        check(&[run(0, 10, 30_000)], 10, 5_001..5_100);
        check(&[run(0, 10, 2_000)], 0, 4_800..5_001);
        for _ in 0..100 {
            capacity.learn(endpoint(0), &[run(0, 10, 7_995)], found(5), &learned);
        }
        check(&[], 0, 7_990..8_001);
    }

    #[test]
    fn what_was_missing_for_another_reason_is_no_bound_for_long() {
        let (capacity, learned) = (Capacity::default(), Learned::default());
        capacity.learn(endpoint(0), &[run(0, 200, 10)], found(0), &learned);
        assert_eq!(believed(&capacity, &learned), MIN_CAPACITY);
        capacity.learn(endpoint(0), &[run(0, 200, 8_000)], found(200), &learned);
        assert_eq!(believed(&capacity, &learned), LIMIT);
        // Now it is known that there is more.
        capacity.learn(endpoint(0), &[run(0, 200, 10)], found(0), &learned);
        capacity.learn(endpoint(0), &[run(0, 200, 10)], found(1), &learned);
        assert_eq!(believed(&capacity, &learned), LIMIT);
    }

    #[test]
    fn a_last_block_that_may_be_missing_shows_nothing() {
        let (capacity, learned) = (Capacity::default(), Learned::default());
        // All before it is in use by others.
        let most = Found { n_blocks: 17, is_all: true };
        capacity.learn(endpoint(0), &[run(17, 1, 14_000)], most, &learned);
        capacity.learn(endpoint(0), &[run(0, 10, 4_995)], found(5), &learned);
        assert_eq!(believed(&capacity, &learned), 5_000);
        for _ in 0..2 * N_DEEPER {
            capacity.learn(endpoint(0), &[run(17, 1, 14_000)], most, &learned);
        }
        assert_eq!(believed(&capacity, &learned), 5_000);
    }

    #[test]
    fn an_edge_that_was_none_is_given_up() {
        let (capacity, learned) = (Capacity::default(), Learned::default());
        capacity.learn(endpoint(0), &[run(0, 200, 0)], found(1), &learned);
        assert_eq!(believed(&capacity, &learned), MIN_CAPACITY);
        for _ in 0..N_DEEPER {
            capacity.learn(endpoint(0), &[run(0, 200, 8_000)], found(200), &learned);
        }
        assert_eq!(believed(&capacity, &learned), 8_200);
    }

    #[test]
    fn absurd_answers_leave_something_to_believe() {
        let (capacity, learned) = (Capacity::default(), Learned::default());
        capacity.learn(endpoint(0), &[run(0, 1, 0)], found(0), &learned);
        assert_eq!(believed(&capacity, &learned), MIN_CAPACITY);
        capacity.learn(endpoint(0), &[run(0, 2, usize::MAX / 2)], found(1), &learned);
        assert_eq!(believed(&capacity, &learned), LIMIT);
        for _ in 0..1_000 {
            capacity.learn(endpoint(0), &[run(0, 2, 0), run(2, 2, 2)], found(3), &learned);
            capacity.learn(endpoint(0), &[run(0, 2, 5)], found(usize::MAX), &learned);
        }
        assert!((MIN_CAPACITY..=LIMIT).contains(&believed(&capacity, &learned)));
    }

    #[test]
    fn the_index_is_told_what_is_new() {
        let (capacity, learned) = (Capacity::default(), Learned::default());
        let check = |reported, expected| {
            let mut told = None;
            capacity.tell(reported, 100, &learned, |new| told = Some(new));
            assert_eq!(told, expected, "{reported:?}");
        };
        check(Some(100), None);
        check(Some(200), Some(Told::Reported(200)));
        check(Some(203), None);
        check(None, Some(Told::Believed(100)));
        check(None, None);
        check(Some(100), Some(Told::Reported(100)));
    }
}
