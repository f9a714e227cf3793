//! Which beginnings of prompts are asked for again and again.
//!
//! The blocks that a router expects in caches are of two kinds. A conversation's own are of use to its next turn
//! alone, where they are; a second copy is a waste. Those of a system prompt or a document are of use to many, and
//! a second copy is soon made up for. What tells them apart is how often requests come that match just as far.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use router_core::Stamp;

/// Beginnings that are remembered. Those that are asked for often keep their place.
const N_SLOTS: usize = 4096;
/// What was asked for so long ago counts 1/e.
const MEMORY: Duration = Duration::from_mins(1);

/// Counts requests by the hash of the last block that they found cached anywhere, forgetting.
///
/// Reading and counting take no lock. Two that count at once may lose one of the two: it is an estimate.
#[derive(Debug)]
pub(super) struct Popular {
    slots: Box<[Slot]>,
}

#[derive(Debug, Default)]
struct Slot {
    /// Upper half of the hash, then the count as 32 bit floating point.
    tagged: AtomicU64,
    /// When it was counted last, in nanoseconds.
    at: AtomicU64,
}

impl Default for Popular {
    fn default() -> Self {
        Self { slots: (0..N_SLOTS).map(|_| Slot::default()).collect() }
    }
}

impl Popular {
    /// Requests in the last minute or so, older ones for less.
    pub(super) fn count(&self, hash: u64, now: Stamp) -> f64 {
        let Some(slot) = self.slot(hash) else { return 0.0 };
        let (tag, count) = slot.read(now);
        if tag == hash >> 32 { count } else { 0.0 }
    }

    /// One more request.
    pub(super) fn add(&self, hash: u64, now: Stamp) {
        let Some(slot) = self.slot(hash) else { return };
        let (tag, count) = slot.read(now);
        let is_same = tag == hash >> 32;
        // Whoever was there keeps the place for as long as it counts for more than one request.
        if !is_same && count > 1.0 {
            return;
        }
        let count = if is_same { count + 1.0 } else { 1.0 };
        slot.tagged.store((hash >> 32) << 32 | u64::from((count as f32).to_bits()), Relaxed);
        slot.at.store(now.as_nanos(), Relaxed);
    }

    fn slot(&self, hash: u64) -> Option<&Slot> {
        self.slots.get(hash as usize % N_SLOTS)
    }
}

impl Slot {
    fn read(&self, now: Stamp) -> (u64, f64) {
        let tagged = self.tagged.load(Relaxed);
        let age = now.since(Stamp::from_nanos(self.at.load(Relaxed)));
        let left = (-age.as_secs_f64() / MEMORY.as_secs_f64()).exp();
        (tagged >> 32, f64::from(f32::from_bits(tagged as u32)) * left)
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
        assert_eq!(popular.count(HASH, at(1)), 0.0);
        for _ in 0..10 {
            popular.add(HASH, at(1));
        }
        assert!((popular.count(HASH, at(1)) - 10.0).abs() < 1e-6);
        let later = popular.count(HASH, at(61));
        assert!((later - 10.0 / std::f64::consts::E).abs() < 1e-3, "{later}");
    }

    #[test]
    fn what_is_popular_keeps_its_place_until_it_is_forgotten() {
        let (popular, other) = (Popular::default(), HASH ^ 0xff << 40);
        popular.add(HASH, at(1));
        popular.add(HASH, at(1));
        popular.add(other, at(2));
        assert_eq!(popular.count(other, at(2)), 0.0);
        assert!(popular.count(HASH, at(2)) > 1.9);
        popular.add(other, at(100));
        assert_eq!((popular.count(HASH, at(100)), popular.count(other, at(100))), (0.0, 1.0));
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
        let count = popular.count(HASH, at(100));
        assert!(count > 300.0, "ten a second for a minute: {count}");
    }
}
