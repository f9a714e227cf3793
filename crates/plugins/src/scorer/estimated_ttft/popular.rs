//! Which beginnings of prompts are asked for again and again.
//!
//! The blocks that a router expects in caches are of two kinds. A conversation's own are of use to its next turn
//! alone, where they are; a second copy is a waste. Those of a system prompt or a document are of use to many, and
//! a second copy is soon made up for. What tells them apart is how often requests come that match just as far.

use std::{
    sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use router_core::Stamp;

/// Places of one set. A beginning may have any place of its set, so that about 1,500 are remembered before any is in
/// another's way. Which ones are in the way depends on their hashes, and those of a recording are others: up to then
/// its decisions can be made again.
const N_WAYS: usize = 8;
const N_SETS: usize = 1024;
/// What was asked for so long ago counts 1/e.
const MEMORY: Duration = Duration::from_mins(1);
/// The same where it is asked for more often than before: what was lukewarm becomes hot at once.
const BRIEF: Duration = Duration::from_secs(10);
/// What counts for less is asked for anew.
const FORGOTTEN: f64 = 0.5;
/// A rate is of no less time than this: two requests at once are no thousand a second.
const MIN_TIME: f64 = 0.5;

/// Counts requests by the hash of the last block that they found cached anywhere, forgetting.
///
/// Reading and counting take no lock. Two that count at once may lose one of the two: it is an estimate.
#[derive(Debug)]
pub(super) struct Popular {
    sets: Box<[[Beginning; N_WAYS]]>,
}

#[derive(Debug, Default)]
struct Beginning {
    /// Upper half of the hash, then the count as 32 bit floating point.
    tagged: AtomicU64,
    /// When it was counted last, in nanoseconds.
    at: AtomicU64,
    /// Since when it is asked for without a long pause, in nanoseconds.
    since: AtomicU64,
    /// Requests as in `tagged`, of a shorter time; the bits of a number.
    brief: AtomicU64,
    /// Answers under way, as far as they show when they begin, and the milliseconds at which each began, added up.
    n_decoding: AtomicU32,
    begun: AtomicU64,
}

/// How often a beginning is asked for.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Asked {
    /// Requests in the last minute or so, older ones for less.
    pub(super) count: f64,
    /// Requests a second, since the first of them, in the last minute or so, or in the last ten seconds: the most.
    pub(super) per_second: f64,
    /// Answers to them that are under way, as far as they show when they begin.
    pub(super) n_decoding: f64,
    /// Seconds since they began, on the mean.
    pub(super) age: f64,
}

impl Default for Popular {
    fn default() -> Self {
        Self { sets: (0..N_SETS).map(|_| <[Beginning; N_WAYS]>::default()).collect() }
    }
}

impl Popular {
    pub(super) fn asked(&self, hash: u64, now: Stamp) -> Asked {
        self.known(hash).map_or(Asked::default(), |beginning| beginning.asked(now))
    }

    /// One more request. What is asked for often keeps its place; of the others, the least popular one goes.
    pub(super) fn add(&self, hash: u64, now: Stamp) {
        if let Some(known) = self.known(hash) {
            let count = known.count(now);
            if count < FORGOTTEN {
                known.since.store(now.as_nanos(), Relaxed);
            }
            known.brief.store((known.brief(now) + 1.0).to_bits(), Relaxed);
            return known.put(hash, count + 1.0, now);
        }
        let counted = self.set(hash).iter().map(|beginning| (beginning.count(now), beginning));
        let least = counted.min_by(|(a, _), (b, _)| a.total_cmp(b));
        // Whoever was there keeps the place for as long as it counts for more than one request.
        if let Some((_, least)) = least.filter(|(count, _)| *count <= 1.0) {
            least.since.store(now.as_nanos(), Relaxed);
            least.brief.store(1.0_f64.to_bits(), Relaxed);
            least.n_decoding.store(0, Relaxed);
            least.begun.store(0, Relaxed);
            least.put(hash, 1.0, now);
        }
    }

    /// So many answers begin to one of the requests that were counted.
    pub(super) fn begin(&self, hash: u64, n_answers: u32, now: Stamp) {
        if let Some(known) = self.known(hash) {
            known.n_decoding.fetch_add(n_answers, Relaxed);
            known.begun.fetch_add(u64::from(n_answers) * milliseconds(now), Relaxed);
        }
    }

    /// They end that began then. Where another beginning had their place meanwhile, they are no more already.
    pub(super) fn end(&self, hash: u64, n_answers: u32, begun: Stamp) {
        let Some(known) = self.known(hash) else { return };
        let left = |n: u32| n.checked_sub(n_answers);
        if known.n_decoding.fetch_update(Relaxed, Relaxed, left).is_ok() {
            known.begun.fetch_sub(u64::from(n_answers) * milliseconds(begun), Relaxed);
        }
    }

    fn known(&self, hash: u64) -> Option<&Beginning> {
        self.set(hash).iter().find(|beginning| beginning.tag() == hash >> 32)
    }

    fn set(&self, hash: u64) -> &[Beginning] {
        self.sets.get(hash as usize % N_SETS).map_or(&[], |set| set)
    }
}

fn milliseconds(at: Stamp) -> u64 {
    at.as_nanos() / 1_000_000
}

impl Beginning {
    fn tag(&self) -> u64 {
        self.tagged.load(Relaxed) >> 32
    }

    fn count(&self, now: Stamp) -> f64 {
        let count = f64::from(f32::from_bits(self.tagged.load(Relaxed) as u32));
        // Nobody was here, and the exponential need not be known.
        if count == 0.0 {
            return 0.0;
        }
        count * self.kept(MEMORY, now)
    }

    /// Share of what was counted last that is left.
    fn kept(&self, memory: Duration, now: Stamp) -> f64 {
        let age = now.since(Stamp::from_nanos(self.at.load(Relaxed)));
        (-age.as_secs_f64() / memory.as_secs_f64()).exp()
    }

    fn asked(&self, now: Stamp) -> Asked {
        let count = self.count(now);
        let age = now.since(Stamp::from_nanos(self.since.load(Relaxed))).as_secs_f64();
        let rate = |count: f64, memory: Duration| {
            // Seconds for as much as they are remembered.
            let seconds = memory.as_secs_f64() * (1.0 - (-age / memory.as_secs_f64()).exp());
            // The first request begins the time.
            (count - 1.0).max(0.0) / seconds.max(MIN_TIME)
        };
        let n_decoding = f64::from(self.n_decoding.load(Relaxed));
        let begun = self.begun.load(Relaxed) as f64;
        let age = (n_decoding * milliseconds(now) as f64 - begun) / 1e3;
        Asked {
            count,
            per_second: rate(count, MEMORY).max(rate(self.brief(now), BRIEF)),
            n_decoding,
            age: (age / n_decoding.max(1.0)).max(0.0),
        }
    }

    /// Requests in the last ten seconds or so.
    fn brief(&self, now: Stamp) -> f64 {
        f64::from_bits(self.brief.load(Relaxed)) * self.kept(BRIEF, now)
    }

    fn put(&self, hash: u64, count: f64, now: Stamp) {
        self.tagged.store((hash >> 32) << 32 | u64::from((count as f32).to_bits()), Relaxed);
        self.at.store(now.as_nanos(), Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: u64 = 0x1234_5678_0000_0007;

    fn at(seconds: u64) -> Stamp {
        Stamp::from_nanos(seconds * 1_000_000_000)
    }

    #[test]
    fn it_counts_and_forgets() {
        let popular = Popular::default();
        assert_eq!(popular.asked(HASH, at(1)).count, 0.0);
        for _ in 0..10 {
            popular.add(HASH, at(1));
        }
        assert!((popular.asked(HASH, at(1)).count - 10.0).abs() < 1e-6);
        let later = popular.asked(HASH, at(61)).count;
        assert!((later - 10.0 / std::f64::consts::E).abs() < 1e-3, "{later}");
    }

    #[test]
    fn a_rate_is_known_from_the_first_seconds_on() {
        let popular = Popular::default();
        let check = |from: u64, to: u64, expected: f64| {
            for nth in from * 4..to * 4 {
                popular.add(HASH, Stamp::from_nanos(nth * 250_000_000));
            }
            let found = popular.asked(HASH, at(to)).per_second;
            assert!((found / expected - 1.0).abs() < 0.1, "{from} to {to}: {found}");
        };
        check(0, 3, 4.0);
        check(3, 300, 4.0);
        // After a long pause it begins anew.
        check(900, 903, 4.0);
        popular.add(HASH ^ 1 << 40, at(1));
        assert_eq!(popular.asked(HASH ^ 1 << 40, at(1)).per_second, 0.0, "one is no rate");
    }

    #[test]
    fn what_was_lukewarm_becomes_hot_within_seconds() {
        let popular = Popular::default();
        for second in 0..200 {
            popular.add(HASH, at(second));
        }
        let warm = popular.asked(HASH, at(200)).per_second;
        assert!((warm - 1.0).abs() < 0.1, "{warm}");
        for nth in 0..25 * 10 {
            popular.add(HASH, Stamp::from_nanos(200_000_000_000 + nth * 40_000_000));
        }
        let hot = popular.asked(HASH, at(210)).per_second;
        assert!((14.0..26.0).contains(&hot), "{hot}");
        // Ten seconds later it is so no more.
        let later = popular.asked(HASH, at(230)).per_second;
        assert!(later < 6.0, "{later}");
    }

    #[test]
    fn answers_under_way_are_those_that_began_and_have_not_ended() {
        let popular = Popular::default();
        let asked = || {
            let asked = popular.asked(HASH, at(11));
            (asked.n_decoding, asked.age)
        };
        popular.begin(HASH, 3, at(1));
        assert_eq!(asked(), (0.0, 0.0), "nobody asked for it");
        popular.add(HASH, at(1));
        popular.begin(HASH, 3, at(1));
        popular.begin(HASH, 1, at(5));
        assert_eq!(asked(), (4.0, 9.0));
        popular.end(HASH, 1, at(5));
        assert_eq!(asked(), (3.0, 10.0));
        popular.end(HASH, 3, at(1));
        popular.end(HASH, u32::MAX, at(1));
        assert_eq!(asked(), (0.0, 0.0));
        // Another beginning has its place later, and not what was under way.
        popular.begin(HASH, 3, at(11));
        let of_set = |nth: u64| HASH ^ nth << 40;
        (1..=N_WAYS as u64).for_each(|nth| popular.add(of_set(nth), at(600)));
        let all = (0..=N_WAYS as u64).map(|nth| popular.asked(of_set(nth), at(600)));
        assert_eq!(all.map(|asked| asked.n_decoding + asked.age).sum::<f64>(), 0.0);
    }

    #[test]
    fn what_is_popular_keeps_its_place_until_it_is_forgotten() {
        let popular = Popular::default();
        let of_set = |nth: u64| HASH ^ nth << 40;
        let all: Vec<u64> = (0..N_WAYS as u64).map(of_set).collect();
        for &hash in all.iter().chain(&all) {
            popular.add(hash, at(1));
        }
        assert!(
            all.iter().all(|&hash| popular.asked(hash, at(1)).count == 2.0),
            "all have a place"
        );
        let other = of_set(0xff);
        popular.add(other, at(2));
        assert_eq!(popular.asked(other, at(2)).count, 0.0);
        assert!(all.iter().all(|&hash| popular.asked(hash, at(2)).count > 1.9));
        // One is asked for once more, and so is not the one that goes.
        popular.add(HASH, at(2));
        popular.add(other, at(100));
        assert_eq!(popular.asked(other, at(100)).count, 1.0);
        let n_left = all.iter().filter(|&&hash| popular.asked(hash, at(100)).count > 0.0).count();
        assert!(n_left == N_WAYS - 1 && popular.asked(HASH, at(100)).count > 0.0, "{n_left}");
    }

    /// What a recording needs to come to the same counts by other hashes.
    #[test]
    fn a_thousand_beginnings_are_counted_whatever_their_hashes_are() {
        for key in 0..20_u64 {
            let popular = Popular::default();
            let mut rng = router_rt::Rng::seeded(key);
            let hashes: Vec<u64> = (0..1_000).map(|_| rng.next_u64()).collect();
            for nth in 0..3_u32 {
                for &hash in &hashes {
                    assert_eq!(popular.asked(hash, at(1)).count, f64::from(nth));
                    popular.add(hash, at(1));
                }
            }
        }
    }

    #[test]
    fn hashes_of_one_request_each_do_not_keep_a_popular_one_out() {
        let popular = Popular::default();
        for nth in 0..100_000_u64 {
            let now = Stamp::from_nanos(nth * 1_000_000);
            popular.add(nth.wrapping_mul(0x9e37_79b9_7f4a_7c15), now);
            if nth % 100 == 0 {
                popular.add(HASH, now);
            }
        }
        let count = popular.asked(HASH, at(100)).count;
        assert!(count > 300.0, "ten a second for a minute: {count}");
    }
}
