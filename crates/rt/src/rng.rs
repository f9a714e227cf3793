//! Seeded randomness. Nothing in the router draws from an unseeded generator, so that one seed
//! gives one run.

use std::{
    ops::{Bound, RangeBounds},
    sync::atomic::{AtomicU64, Ordering},
};

/// A small, fast, seeded generator. Not for secrets.
#[derive(Clone, Debug)]
pub struct Rng(fastrand::Rng);

impl Rng {
    /// The generator of `seed`: equal seeds give equal sequences.
    pub fn seeded(seed: u64) -> Self {
        // Fastrand's state is the seed itself; mixing keeps neighbouring seeds apart.
        Self(fastrand::Rng::with_seed(mix(seed)))
    }

    /// The next 64 random bits.
    pub fn next_u64(&mut self) -> u64 {
        self.0.u64(..)
    }

    /// Uniform in `0.0..1.0`.
    pub fn f64(&mut self) -> f64 {
        self.0.f64()
    }

    /// Uniform in `0..n`; 0 when `n` is 0.
    pub fn below(&mut self, n: usize) -> usize {
        if n == 0 { 0 } else { self.0.usize(..n) }
    }

    /// Uniform in `range`; the lower end when the range is empty.
    pub fn range(&mut self, range: impl RangeBounds<u64>) -> u64 {
        let low = match range.start_bound() {
            Bound::Included(low) => *low,
            Bound::Excluded(low) => low.saturating_add(1),
            Bound::Unbounded => 0,
        };
        let high = match range.end_bound() {
            Bound::Included(high) => *high,
            Bound::Excluded(0) => return low,
            Bound::Excluded(high) => high - 1,
            Bound::Unbounded => u64::MAX,
        };
        if high <= low { low } else { self.0.u64(low..=high) }
    }

    /// True with probability `p` (0 and below: never; 1 and above: always).
    pub fn chance(&mut self, p: f64) -> bool {
        self.f64() < p
    }

    /// Puts `items` into a random order.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        self.0.shuffle(items);
    }

    /// A random element, none of an empty slice.
    pub fn choose<'a, T>(&mut self, items: &'a [T]) -> Option<&'a T> {
        items.get(self.below(items.len()))
    }

    /// An exponentially distributed value with the given mean, for arrival times and jitter.
    pub fn exponential(&mut self, mean: f64) -> f64 {
        -mean * (1.0 - self.f64()).ln()
    }
}

/// Hands out one generator per request, from one seed. The n-th request gets the same generator in
/// every run, whatever other requests drew from theirs.
#[derive(Debug)]
pub struct Seeds {
    seed: u64,
    next: AtomicU64,
}

impl Seeds {
    /// Generators that follow from `seed`.
    pub fn new(seed: u64) -> Self {
        Self { seed, next: AtomicU64::new(0) }
    }

    /// A seed that differs from run to run, for production. Log [`Seeds::seed`] to repeat a run.
    pub fn from_entropy() -> Self {
        // The standard library seeds its hash maps from the system; that is the entropy here.
        use std::hash::{BuildHasher, RandomState};
        Self::new(RandomState::new().hash_one(0x5eed_u64))
    }

    /// The seed that all generators follow from.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// The generator of the next sequence number.
    pub fn next_rng(&self) -> Rng {
        self.rng(self.next.fetch_add(1, Ordering::Relaxed))
    }

    /// The generator of one sequence number.
    pub fn rng(&self, sequence: u64) -> Rng {
        Rng::seeded(mix(self.seed) ^ mix(sequence.wrapping_add(GOLDEN)))
    }

    /// An independent family of generators for the part called `name`, so that one more draw in one
    /// part does not shift the others.
    pub fn family(&self, name: &str) -> Seeds {
        let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        Seeds::new(mix(self.seed) ^ hash)
    }
}

const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// The finalizer of SplitMix64: every input bit reaches every output bit.
fn mix(value: u64) -> u64 {
    let mut z = value.wrapping_add(GOLDEN);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use proptest::{prop_assert, prop_assert_eq, proptest};

    use super::*;

    fn draws(mut rng: Rng) -> Vec<u64> {
        (0..8).map(|_| rng.next_u64()).collect()
    }

    #[test]
    fn one_seed_gives_one_sequence() {
        assert_eq!(draws(Rng::seeded(7)), draws(Rng::seeded(7)));
        assert_ne!(draws(Rng::seeded(7)), draws(Rng::seeded(8)));
    }

    #[test]
    fn the_nth_request_gets_the_same_generator_in_every_run() {
        let (a, b) = (Seeds::new(1), Seeds::new(1));
        let _first = a.next_rng();
        assert_eq!(draws(a.next_rng()), draws(b.rng(1)));
        assert_ne!(draws(b.rng(0)), draws(b.rng(1)));
        assert_ne!(draws(Seeds::new(2).rng(1)), draws(b.rng(1)));
        assert_ne!(draws(a.family("picker").rng(0)), draws(a.family("sim").rng(0)));
        assert_eq!(draws(a.family("picker").rng(0)), draws(b.family("picker").rng(0)));
    }

    #[test]
    fn empty_ranges_do_not_panic() {
        let mut rng = Rng::seeded(0);
        assert_eq!(rng.below(0), 0);
        assert_eq!(rng.range(5..5), 5);
        assert_eq!(rng.range(0..0), 0);
        assert_eq!(rng.choose::<u8>(&[]), None);
        assert!(!rng.chance(0.0));
        assert!(rng.chance(1.0));
    }

    #[test]
    fn below_reaches_every_value_about_equally() {
        let mut rng = Rng::seeded(3);
        let mut hits = [0_u32; 10];
        for _ in 0..10_000 {
            hits[rng.below(10)] += 1;
        }
        assert!(hits.iter().all(|n| (800..1_200).contains(n)), "{hits:?}");
    }

    proptest! {
        #[test]
        fn shuffle_keeps_the_items(seed: u64, mut items: Vec<u8>) {
            let mut shuffled = items.clone();
            Rng::seeded(seed).shuffle(&mut shuffled);
            shuffled.sort_unstable();
            items.sort_unstable();
            prop_assert_eq!(shuffled, items);
        }

        #[test]
        fn range_stays_inside(seed: u64, low: u64, span in 0_u64..1_000) {
            let high = low.saturating_add(span);
            let value = Rng::seeded(seed).range(low..=high);
            prop_assert!(value >= low && value <= high);
        }
    }
}
