//! How much an endpoint's cache holds, learned from answers where no metrics tell.
//!
//! An answer that says how many of its prompt's tokens were cached tells whether a prefix was still there, of
//! which is known how many other blocks were used there since: its depth. A cache that drops what was used least
//! recently has what is less deep than it is large. The depth is counted on one block in [`SAMPLING`], as in
//! SHARDS (Waldspurger et al., FAST 2015).

use std::sync::{
    OnceLock,
    atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering::Relaxed},
};

use router_kvcache::BlockHash;

/// One block in so many is counted.
const SAMPLING: u64 = 64;
/// Blocks that are remembered per endpoint, in 8 bytes each: those of 2 Mi tokens in blocks of 64, with room so
/// that few share a place.
const N_REMEMBERED: usize = 1024;

/// A prefix that is missing although less than this share of the capacity was used since says nothing of it:
/// whoever was to compute it may have to wait for that.
const RECENT_SHARE: f64 = 0.25;
/// The capacity is taken for so many times the depth that was shown: to remember too much costs less than to
/// forget where a conversation was.
const MARGIN: f64 = 1.1;
/// The deepest prefix that was found is believed so much less with each that is missing.
const FADING: f64 = 0.99;
/// A capacity that differs less than this from the one that the index has is left alone.
const HYSTERESIS: f64 = 0.06;
/// Blocks that are remembered at least: 4,096 tokens.
const MIN_CAPACITY: usize = 64;

/// What is known of one endpoint's capacity, in blocks.
#[derive(Debug, Default)]
pub(super) struct Capacity {
    /// What the index has been told; 0 until it was.
    told: AtomicUsize,
    /// 0 until answers showed one.
    learned: AtomicUsize,
    /// Depth of the deepest prefix that was found, as 32 bit floating point.
    deepest: AtomicU32,
    /// Requests sent to the endpoint, from 1.
    clock: AtomicU32,
    /// Upper half of a block's hash, then the clock at its last use.
    uses: OnceLock<Box<[AtomicU64]>>,
}

/// A prefix that the endpoint should have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Probe {
    pub(super) n_blocks: usize,
    /// Other blocks used there since it was.
    pub(super) depth: u64,
}

impl Capacity {
    /// At most `limit`.
    pub(super) fn learned(&self, limit: usize) -> usize {
        match self.learned.load(Relaxed) {
            0 => limit,
            learned => learned.min(limit),
        }
    }

    /// What the index is to be told, unless it knows; `at_first` is what it goes by until it is told.
    pub(super) fn tell(&self, capacity: usize, at_first: usize) -> Option<usize> {
        let told = match self.told.load(Relaxed) {
            0 => at_first,
            told => told,
        };
        let is_near = (capacity.abs_diff(told) as f64) < HYSTERESIS * told as f64;
        let known = if is_near { told } else { capacity };
        self.told.store(known, Relaxed);
        (!is_near).then_some(capacity)
    }

    /// Notes the use of a prompt's blocks, of which the endpoint should have the first `n_had`.
    pub(super) fn used(&self, hashes: &[BlockHash], n_had: usize) -> Option<Probe> {
        let now = self.clock.fetch_add(1, Relaxed).wrapping_add(1);
        let uses = self.uses.get_or_init(|| (0..N_REMEMBERED).map(|_| AtomicU64::new(0)).collect());
        let mut last_known = None;
        let is_counted = |(_, hash): &(usize, &BlockHash)| hash.0 % SAMPLING == 0;
        for (nth, hash) in hashes.iter().enumerate().filter(is_counted) {
            let place = (hash.0 / SAMPLING) as usize % N_REMEMBERED;
            let Some(place) = uses.get(place) else { continue };
            let tag = hash.0 >> 32 << 32;
            let before = place.swap(tag | u64::from(now), Relaxed);
            if nth < n_had && before != 0 && before >> 32 << 32 == tag {
                last_known = Some((nth + 1, before as u32));
            }
        }
        let (n_blocks, last) = last_known?;
        let age = |used: u32| now.wrapping_sub(used);
        // Its own blocks count for an age of 0, which is left out.
        let is_since = |used: &&AtomicU64| {
            let used = used.load(Relaxed);
            used != 0 && (1..age(last)).contains(&age(used as u32))
        };
        let n_since = uses.iter().filter(is_since).count() as u64;
        Some(Probe { n_blocks, depth: n_since * SAMPLING })
    }

    /// An answer showed whether the prefix was there. `limit` is the capacity as long as none was learned.
    pub(super) fn learn(&self, probe: Probe, was_there: bool, limit: usize) {
        let (capacity, depth) = (self.learned(limit) as f64, probe.depth as f64);
        let deepest = f64::from(f32::from_bits(self.deepest.load(Relaxed)));
        let (deepest, learned) = if was_there {
            (deepest.max(depth), capacity.max(depth * MARGIN))
        } else if depth < RECENT_SHARE * capacity.min(deepest) {
            return;
        } else {
            (deepest * FADING, capacity.min(depth.max(deepest) * MARGIN))
        };
        self.deepest.store((deepest as f32).to_bits(), Relaxed);
        // Until something was missing, the capacity is not known.
        if !was_there || self.learned.load(Relaxed) > 0 {
            self.learned.store((learned as usize).max(MIN_CAPACITY), Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::*;

    /// A cache of so many blocks, which drops the prompt that was used least recently.
    struct Cache {
        capacity: usize,
        prompts: VecDeque<u64>,
    }

    const LIMIT: usize = 31_250;
    const PROMPT: u64 = 200;

    /// SplitMix64.
    fn mix(word: u64) -> u64 {
        let word = word.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let word = (word ^ word >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let word = (word ^ word >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ word >> 31
    }

    fn prompt(nth: u64) -> Vec<BlockHash> {
        (0..PROMPT).map(|at| BlockHash(mix(nth << 32 | at))).collect()
    }

    impl Cache {
        fn new(capacity: usize) -> Self {
            Self { capacity, prompts: VecDeque::new() }
        }

        fn takes(&mut self, nth: u64) -> bool {
            let had = self.prompts.iter().position(|prompt| *prompt == nth);
            had.map(|at| self.prompts.remove(at));
            self.prompts.push_front(nth);
            self.prompts.truncate(self.capacity / PROMPT as usize);
            had.is_some()
        }
    }

    /// One of the prompts after the other, at random.
    fn play(capacity: &Capacity, cache: &mut Cache, n_prompts: u64, n_requests: u64) {
        for at in 0..n_requests {
            let nth = mix(at) % n_prompts;
            let was_there = cache.takes(nth);
            if let Some(probe) = capacity.used(&prompt(nth), PROMPT as usize) {
                capacity.learn(probe, was_there, LIMIT);
            }
        }
    }

    #[test]
    fn what_was_found_and_what_was_missing_show_the_capacity() {
        let capacity = Capacity::default();
        play(&capacity, &mut Cache::new(8_000), 30, 1_000);
        assert_eq!(capacity.learned(LIMIT), LIMIT, "nothing was missing");
        for n_blocks in [8_000, 4_000, 12_000] {
            play(&capacity, &mut Cache::new(n_blocks), 90, 3_000);
            let learned = capacity.learned(LIMIT) as f64;
            assert!((0.8..1.5).contains(&(learned / n_blocks as f64)), "{n_blocks}: {learned}");
        }
    }

    #[test]
    fn what_was_used_a_moment_ago_may_be_missing() {
        let capacity = Capacity::default();
        play(&capacity, &mut Cache::new(8_000), 90, 3_000);
        let before = capacity.learned(LIMIT);
        capacity.learn(Probe { n_blocks: 10, depth: 0 }, false, LIMIT);
        capacity.learn(Probe { n_blocks: 10, depth: 640 }, false, LIMIT);
        assert_eq!(capacity.learned(LIMIT), before);
    }

    #[test]
    fn the_first_answer_of_all_may_say_that_nothing_is_cached() {
        let capacity = Capacity::default();
        capacity.learn(Probe { n_blocks: 1, depth: 0 }, false, LIMIT);
        assert_eq!(capacity.learned(LIMIT), MIN_CAPACITY);
        capacity.learn(Probe { n_blocks: 1, depth: u64::MAX }, true, LIMIT);
        assert_eq!(capacity.learned(LIMIT), LIMIT);
    }

    #[test]
    fn the_index_is_told_what_is_new() {
        let capacity = Capacity::default();
        assert_eq!(capacity.tell(100, 100), None);
        assert_eq!(capacity.tell(200, 100), Some(200));
        assert_eq!(capacity.tell(205, 100), None);
        assert_eq!(capacity.tell(100, 100), Some(100));
    }
}
