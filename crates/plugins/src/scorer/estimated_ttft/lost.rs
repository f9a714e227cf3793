//! What is computed again because no cache has it any more.
//!
//! Where caches are too small for all that is asked for, whatever is computed pushes out what is wanted next. A second
//! copy then is no investment: it costs another beginning its only one.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use router_framework::keys::PromptBlocks;

/// Remembers what was computed: one block of [`EVERY`], by its place in the prompt and not by its hash, since those of a
/// recording are others. The last million blocks or so.
///
/// Reading and writing take no lock. Two that write at once may lose one of the two: it is an estimate.
#[derive(Debug)]
pub(super) struct Lost {
    sets: Box<[[AtomicU32; N_WAYS]]>,
}

const EVERY: usize = 8;
/// Places of one set, the latest first. Blocks may have any place of their set, so that few are in another's way.
const N_WAYS: usize = 8;
const N_SETS: usize = 1 << 14;

impl Default for Lost {
    fn default() -> Self {
        Self { sets: (0..N_SETS).map(|_| <[AtomicU32; N_WAYS]>::default()).collect() }
    }
}

impl Lost {
    /// An endpoint that has `n_here` leading blocks of the prompt computes the others. Gives the tokens of blocks that
    /// were computed before and no endpoint has: the most that any has is `n_most` blocks.
    pub(super) fn add(&self, prompt: &PromptBlocks, n_here: u32, n_most: u32) -> f64 {
        let mut n_lost = 0;
        let n_blocks = prompt.hashes.len();
        let n_here = (n_here as usize).next_multiple_of(EVERY);
        for (at, hash) in prompt.hashes.iter().enumerate().skip(n_here).step_by(EVERY) {
            if self.was_known(hash.0) && at >= n_most as usize {
                n_lost += EVERY.min(n_blocks - at);
            }
        }
        n_lost as f64 * f64::from(prompt.block_tokens)
    }

    /// And is from now on.
    fn was_known(&self, hash: u64) -> bool {
        // 0 stands for no block.
        let tag = (hash >> 32) as u32 | 1;
        let Some(set) = self.sets.get(hash as usize % N_SETS) else { return false };
        let mut next = tag;
        for place in set {
            let last = place.swap(next, Relaxed);
            if last == tag {
                return true;
            }
            next = last;
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BLOCK_TOKENS: u32 = 64;

    fn prompt(id: u64, n_blocks: u64) -> PromptBlocks {
        let ids: Vec<u64> = (0..n_blocks).map(|at| id << 32 | at).collect();
        PromptBlocks::from_block_ids(&ids, BLOCK_TOKENS, 0)
    }

    #[test]
    fn what_was_computed_and_is_nowhere_is_lost() {
        let lost = Lost::default();
        let tokens = |n_blocks: u32| f64::from(n_blocks * BLOCK_TOKENS);
        assert_eq!(lost.add(&prompt(1, 100), 0, 0), 0.0, "it is new");
        assert_eq!(lost.add(&prompt(1, 100), 100, 100), 0.0, "it is there");
        assert_eq!(lost.add(&prompt(1, 100), 0, 100), 0.0, "a copy is made");
        assert_eq!(lost.add(&prompt(1, 100), 0, 0), tokens(100));
        assert_eq!(lost.add(&prompt(1, 100), 0, 64), tokens(36));
        assert_eq!(
            lost.add(&prompt(1, 120), 64, 64),
            tokens(40),
            "36 of the others were, in eights"
        );
        assert_eq!(lost.add(&prompt(2, 100), 0, 0), 0.0, "another one");
        assert_eq!(lost.add(&prompt(2, 0), 7, 9) + lost.add(&prompt(2, 3), u32::MAX, 0), 0.0);
    }

    #[test]
    fn a_million_blocks_are_remembered_and_no_more() {
        let lost = Lost::default();
        let share = |ids: std::ops::Range<u64>| {
            let n_all = (ids.end - ids.start) as f64 * 1_000.0 * f64::from(BLOCK_TOKENS);
            ids.map(|id| lost.add(&prompt(id, 1_000), 0, 0)).sum::<f64>() / n_all
        };
        assert_eq!(share(0..500), 0.0);
        assert!(share(0..500) > 0.95);
        assert_eq!(share(10_000..14_000), 0.0);
        assert!(share(0..500) < 0.01, "forgotten");
    }
}
