//! Draws from distributions, and texts that are shared.

use std::sync::Arc;

use router_rt::Rng;

use super::BLOCK_TOKENS;

/// A count around `mean`, exponentially distributed above `min` and cut at `max`.
pub(super) fn count(rng: &mut Rng, mean: u32, min: u32, max: u32) -> u32 {
    let above = rng.exponential(f64::from(mean.saturating_sub(min)));
    min.saturating_add(above as u32).min(max)
}

/// A count between two bounds, both included.
pub(super) fn between(rng: &mut Rng, min: u32, max: u32) -> u32 {
    rng.range(u64::from(min)..=u64::from(max)) as u32
}

/// Draws ranks whose frequency falls with the rank: the n-th is `n^exponent` times rarer than the first.
#[derive(Clone, Debug)]
pub(super) struct Zipf {
    /// Sum of the weights up to each rank.
    sums: Vec<f64>,
}

impl Zipf {
    pub(super) fn new(n_ranks: usize, exponent: f64) -> Self {
        let mut sum = 0.0;
        let weight = |rank: usize| (rank as f64 + 1.0).powf(-exponent);
        let sums = (0..n_ranks.max(1)).map(|rank| {
            sum += weight(rank);
            sum
        });
        Self { sums: sums.collect() }
    }

    pub(super) fn draw(&self, rng: &mut Rng) -> usize {
        let total = self.sums.last().copied().unwrap_or_default();
        let wanted = rng.f64() * total;
        self.sums.partition_point(|sum| *sum <= wanted).min(self.sums.len() - 1)
    }
}

/// A text that several conversations begin with.
#[derive(Clone, Debug, Default)]
pub(super) struct Text {
    /// Ids of its full blocks. An id stands for a block and all that is before it.
    pub(super) blocks: Arc<[u64]>,
    pub(super) n_tokens: u32,
}

/// The top bit tells ids that one conversation made for itself from ids of shared texts.
const OWN: u64 = 1 << 63;

impl Text {
    /// A text of its own, told from others by `number`.
    pub(super) fn new(number: u64, n_tokens: u32) -> Self {
        Self::default().followed_by(number, n_tokens)
    }

    /// This text with another one behind it. The other one begins on a block of its own.
    pub(super) fn followed_by(&self, number: u64, n_tokens: u32) -> Self {
        let start = self.n_tokens.div_ceil(BLOCK_TOKENS) * BLOCK_TOKENS;
        let end = start + n_tokens;
        let mut blocks = self.blocks.to_vec();
        let mut previous = blocks.last().copied().unwrap_or_default();
        for block in blocks.len() as u64..u64::from(end / BLOCK_TOKENS) {
            previous = mix(previous ^ mix(number).wrapping_add(block)) & !OWN;
            blocks.push(previous);
        }
        Self { blocks: blocks.into(), n_tokens: end }
    }
}

/// Hands out block ids that nothing else has.
#[derive(Clone, Debug)]
pub(super) struct OwnBlocks(u64);

impl OwnBlocks {
    pub(super) fn new() -> Self {
        Self(OWN)
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 += 1;
        self.0
    }
}

/// The finalizer of SplitMix64: every input bit reaches every output bit.
fn mix(value: u64) -> u64 {
    let mut z = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_are_drawn_by_their_weights() {
        let zipf = Zipf::new(3, 1.0);
        let mut rng = Rng::seeded(1);
        let mut hits = [0u32; 3];
        for _ in 0..11_000 {
            hits[zipf.draw(&mut rng)] += 1;
        }
        for (hits, expected) in hits.iter().zip([6_000u32, 3_000, 2_000]) {
            assert!(hits.abs_diff(expected) < 200, "{hits} instead of {expected}");
        }
    }

    #[test]
    fn counts_have_their_mean_and_bounds() {
        let mut rng = Rng::seeded(1);
        let counts: Vec<_> = (0..10_000).map(|_| count(&mut rng, 100, 20, 2_000)).collect();
        let mean = f64::from(counts.iter().sum::<u32>()) / 10_000.0;
        assert!((mean - 99.5).abs() < 3.0, "{mean}");
        assert!(counts.iter().all(|count| (20..=2_000).contains(count)));
    }

    #[test]
    fn a_blocks_id_depends_on_all_that_is_before_it() {
        let (a, b) = (Text::new(1, 130), Text::new(2, 130));
        assert_eq!(a.blocks.len(), 2);
        assert_eq!(a.blocks, Text::new(1, 130).blocks);
        let (a_then_c, b_then_c) = (a.followed_by(3, 64), b.followed_by(3, 64));
        assert_eq!(a_then_c.blocks[..2], a.blocks[..]);
        assert_eq!(a_then_c.n_tokens, 3 * 64 + 64);
        assert_ne!(a_then_c.blocks[3], b_then_c.blocks[3]);
        assert!(a_then_c.blocks.iter().all(|id| id & OWN == 0));
    }
}
