//! How many tokens a block has: the pool's most common answer, kept until it is outvoted.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicU32, AtomicU64, Ordering},
    time::Duration,
};

use router_core::{PoolSnapshot, Stamp};

/// Smallest block of the index, in tokens. Smaller ones would cost more than they tell.
const MIN_BLOCK_TOKENS: u32 = 64;

/// A model server that reports a larger block is not believed.
const MAX_BLOCK_TOKENS: f64 = 65_536.0;

/// The pool is asked again after this time, or when an endpoint came or went.
const VOTE_INTERVAL: Duration = Duration::from_secs(1);

/// The same while no endpoint has reported a size, as at the start: one scrape interval.
const FIRST_VOTE_INTERVAL: Duration = Duration::from_millis(50);

/// Votes of two threads at once do no harm: both count the same pool.
#[derive(Debug)]
pub(super) struct BlockSize {
    configured: u32,
    follows_pool: bool,
    /// 0 until an endpoint reports one.
    elected: AtomicU32,
    voted_at: AtomicU64,
    voted_version: AtomicU64,
}

impl BlockSize {
    pub(super) fn new(configured: i64, follows_pool: bool) -> Self {
        let configured = u32::try_from(configured).unwrap_or(MIN_BLOCK_TOKENS);
        Self {
            configured: configured.clamp(MIN_BLOCK_TOKENS, MAX_BLOCK_TOKENS as u32),
            follows_pool,
            elected: AtomicU32::new(0),
            voted_at: AtomicU64::new(0),
            voted_version: AtomicU64::new(0),
        }
    }

    /// The block size for a request that is scheduled now.
    pub(super) fn current(&self, pool: &PoolSnapshot, now: Stamp) -> u32 {
        if self.follows_pool && self.is_due(pool, now) {
            self.vote(pool);
            self.voted_at.store(now.as_nanos(), Ordering::Relaxed);
            self.voted_version.store(pool.version(), Ordering::Relaxed);
        }
        self.last()
    }

    /// The block size that was used last.
    pub(super) fn last(&self) -> u32 {
        match self.elected.load(Ordering::Relaxed) {
            0 => self.configured,
            elected => elected,
        }
    }

    fn is_due(&self, pool: &PoolSnapshot, now: Stamp) -> bool {
        let voted_at = Stamp::from_nanos(self.voted_at.load(Ordering::Relaxed));
        let is_elected = self.elected.load(Ordering::Relaxed) != 0;
        let interval = if is_elected { VOTE_INTERVAL } else { FIRST_VOTE_INTERVAL };
        self.voted_version.load(Ordering::Relaxed) != pool.version()
            || now.since(voted_at) >= interval
    }

    fn vote(&self, pool: &PoolSnapshot) {
        let mut votes: BTreeMap<u32, usize> = BTreeMap::new();
        for endpoint in pool.endpoints() {
            // A block size does not grow stale.
            if let Some(size) = effective(endpoint.signals().block_size) {
                *votes.entry(size).or_default() += 1;
            }
        }
        let current = self.elected.load(Ordering::Relaxed);
        let of_current = votes.get(&current).copied().unwrap_or_default();
        // Of equals the smallest, so that the answer does not depend on order.
        let best = votes.iter().rev().max_by_key(|(_, n)| **n);
        if let Some((&size, &n)) = best
            && n > of_current
        {
            self.elected.store(size, Ordering::Relaxed);
        }
    }
}

/// The index's block size for an engine's.
fn effective(engine_tokens: f64) -> Option<u32> {
    let is_plausible = (1.0..=MAX_BLOCK_TOKENS).contains(&engine_tokens);
    is_plausible.then(|| (engine_tokens as u32).max(MIN_BLOCK_TOKENS))
}

#[cfg(test)]
mod tests {
    use router_core::{EndpointSpec, Pool};

    use super::*;

    fn pool(sizes: &[f64]) -> Pool {
        let pool = Pool::new(0);
        let spec = |at| EndpointSpec::new("d", &format!("e{at}"), "10.0.0.1", at as u16 + 1);
        pool.replace((0..sizes.len()).map(spec).collect());
        report(&pool, sizes);
        pool
    }

    fn report(pool: &Pool, sizes: &[f64]) {
        for (endpoint, size) in pool.snapshot().endpoints().iter().zip(sizes) {
            endpoint.signal_cell().update(|signals| signals.block_size = *size);
        }
    }

    fn at(seconds: u64) -> Stamp {
        Stamp::ORIGIN + Duration::from_secs(seconds)
    }

    #[test]
    fn a26_the_most_common_size_of_the_pool_counts_wherever_it_stands() {
        let check = |sizes: &[f64], expected| {
            let size = BlockSize::new(16, true);
            assert_eq!(size.current(&pool(sizes).snapshot(), at(0)), expected, "{sizes:?}");
        };
        check(&[128.0, 256.0, 256.0], 256);
        check(&[256.0, 128.0, 256.0], 256);
        check(&[256.0, 128.0], 128);
        check(&[16.0, 32.0, 128.0], 64);
        check(&[f64::NAN, f64::NAN], 64);
        check(&[f64::NAN, 128.0], 128);
        check(&[0.0, -16.0, f64::INFINITY, 1e9], 64);
    }

    #[test]
    fn a26_a_size_stays_until_it_is_outvoted() {
        let pool = pool(&[128.0, 128.0, f64::NAN, f64::NAN]);
        let size = BlockSize::new(16, true);
        assert_eq!(size.current(&pool.snapshot(), at(0)), 128);
        report(&pool, &[128.0, 128.0, 256.0, 256.0]);
        assert_eq!(size.current(&pool.snapshot(), at(2)), 128, "as many are not more");
        report(&pool, &[256.0, 128.0, 256.0, 256.0]);
        assert_eq!(size.current(&pool.snapshot(), at(2)), 128, "not asked at every request");
        assert_eq!(size.current(&pool.snapshot(), at(3)), 256);
        report(&pool, &[f64::NAN; 4]);
        assert_eq!(size.current(&pool.snapshot(), at(5)), 256, "silence is no vote");
    }

    #[test]
    fn the_first_report_is_heard_soon() {
        let pool = pool(&[f64::NAN]);
        let size = BlockSize::new(16, true);
        assert_eq!(size.current(&pool.snapshot(), at(1)), 64);
        report(&pool, &[128.0]);
        assert_eq!(size.current(&pool.snapshot(), at(1)), 64);
        assert_eq!(size.current(&pool.snapshot(), at(1) + FIRST_VOTE_INTERVAL), 128);
    }

    #[test]
    fn without_auto_tuning_the_parameter_counts_down_to_the_floor() {
        let check = |configured, expected| {
            let size = BlockSize::new(configured, false);
            assert_eq!(size.current(&pool(&[512.0]).snapshot(), at(0)), expected);
        };
        check(16, 64);
        check(100, 100);
        check(i64::MAX, 64);
    }
}
