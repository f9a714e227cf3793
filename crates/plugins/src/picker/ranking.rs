//! The best few of many, ties in random order, without sorting all.

use std::cmp::Ordering;

use router_core::Position;
use router_framework::MAX_TARGETS;
use router_rt::Rng;
use smallvec::SmallVec;

/// Up to this many wanted, inserting into a short sorted list beats selecting.
const INSERTION_LIMIT: usize = 2 * MAX_TARGETS;

#[derive(Clone, Copy, Debug)]
struct Entry {
    key: f64,
    /// Random; decides between equal keys.
    tie: u64,
    position: Position,
}

impl Entry {
    /// Best first.
    fn order(&self, other: &Self) -> Ordering {
        other.key.total_cmp(&self.key).then(other.tie.cmp(&self.tie))
    }
}

/// Puts the `n_wanted` candidates with the largest keys into `ranked`, best first. Equal keys come in
/// uniformly random order; NaN counts as the smallest key.
pub(super) fn rank(
    scored: &[(Position, f64)],
    n_wanted: usize,
    rng: &mut Rng,
    mut key: impl FnMut(f64, &mut Rng) -> f64,
    ranked: &mut SmallVec<[Position; MAX_TARGETS]>,
) {
    ranked.clear();
    let n_wanted = n_wanted.min(scored.len());
    let keys = scored.iter().map(|&(position, score)| (position, score));
    if n_wanted <= INSERTION_LIMIT {
        let mut best = SmallVec::<[Entry; INSERTION_LIMIT + 1]>::new();
        for (position, score) in keys {
            let key = comparable(key(score, rng));
            if best.len() == n_wanted && best.last().is_none_or(|worst| key < worst.key) {
                continue;
            }
            let entry = Entry { key, tie: rng.next_u64(), position };
            let place = best.partition_point(|better| better.order(&entry).is_lt());
            best.insert(place, entry);
            best.truncate(n_wanted);
        }
        ranked.extend(best.iter().map(|entry| entry.position));
        return;
    }
    let mut all: Vec<Entry> = keys
        .map(|(position, score)| {
            let key = comparable(key(score, rng));
            Entry { key, tie: rng.next_u64(), position }
        })
        .collect();
    if n_wanted < all.len() {
        all.select_nth_unstable_by(n_wanted, Entry::order);
        all.truncate(n_wanted);
    }
    all.sort_unstable_by(Entry::order);
    ranked.extend(all.iter().map(|entry| entry.position));
}

/// The key with one zero and without NaN, so that equal scores are equal in the total order, too.
fn comparable(key: f64) -> f64 {
    if key.is_nan() { f64::NEG_INFINITY } else { key + 0.0 }
}

#[cfg(test)]
mod tests {
    use proptest::{collection, prop_assert_eq, proptest, strategy::Strategy};

    use super::*;

    fn ranked(scores: &[f64], n_wanted: usize, seed: u64) -> Vec<usize> {
        let scored: Vec<_> = (0..).map(Position).zip(scores.iter().copied()).collect();
        let mut ranked = SmallVec::new();
        rank(&scored, n_wanted, &mut Rng::seeded(seed), |score, _| score, &mut ranked);
        ranked.iter().map(|position| position.index()).collect()
    }

    proptest! {
        #[test]
        fn it_gives_what_a_full_sort_gives(
            scores in collection::vec((0u8..6).prop_map(f64::from), 0..60),
            n_wanted in 0usize..70,
            seed: u64,
        ) {
            let ranked = ranked(&scores, n_wanted, seed);
            let mut sorted = scores.clone();
            sorted.sort_by(|a, b| b.total_cmp(a));
            sorted.truncate(n_wanted);
            let found: Vec<_> = ranked.iter().map(|&at| scores[at]).collect();
            prop_assert_eq!(found, sorted);
            let mut distinct = ranked.clone();
            distinct.sort_unstable();
            distinct.dedup();
            prop_assert_eq!(distinct.len(), ranked.len());
        }
    }

    #[test]
    fn ties_are_broken_evenly() {
        for n_wanted in [1, 3, 20] {
            let mut first = [0u32; 20];
            for seed in 0..20_000 {
                first[ranked(&[1.0; 20], n_wanted, seed)[0]] += 1;
            }
            assert!(first.iter().all(|n| (850..1_150).contains(n)), "{n_wanted}: {first:?}");
        }
    }

    #[test]
    fn the_two_zeros_tie() {
        let first: Vec<_> = (0..64).map(|seed| ranked(&[0.0, -0.0], 1, seed)[0]).collect();
        assert!(first.contains(&0) && first.contains(&1));
    }

    #[test]
    fn a18_nan_comes_last() {
        for n_wanted in [3, 17] {
            let mut scores = vec![f64::NAN, 0.5, 1.0];
            scores.resize(20, -1.0);
            assert_eq!(ranked(&scores, n_wanted, 1)[..2], [2, 1]);
            assert!(!ranked(&scores, n_wanted, 1).contains(&0));
        }
    }
}
