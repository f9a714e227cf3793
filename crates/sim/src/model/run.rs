//! Many decode steps at once.
//!
//! When every running request decodes and no waiting one can get in, each further step does the same: one token
//! for each request, a little longer than the step before because the contexts have grown. Such a run lasts
//! until a request finishes, until blocks run out, or until a block is stored that a waiting request looks for.
//! Its length is a sum of an arithmetic series, and its only side effects are the blocks that requests take and
//! fill on the way; those are applied in the order in which single steps would do it, since that order decides
//! what is evicted and which of two equal blocks is the cached one.

use super::{
    engine::{Engine, Flight},
    kv::BlockHash,
    request::Seq,
    schedule::Stall,
};

/// A request takes or fills a block in a step of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Crossing {
    /// The step, counted from the one in flight (0). First in order: steps come one after the other.
    step: u32,
    /// Position in the batch.
    seq_idx: u32,
}

impl Engine {
    /// How many steps from the one just scheduled on are alike.
    pub(crate) fn n_alike_steps(&self, stall: Stall) -> u32 {
        if stall == Stall::Preempted || self.running.iter().any(|seq| seq.token_events) {
            return 1;
        }
        let to_end = self.running.iter().map(|seq| seq.output - seq.generated).min().unwrap_or(1);
        let mut n_steps = self.n_steps_with_room(to_end.max(1));
        if stall == Stall::NoBlocks
            && let Some(missing) = self.blocked.and_then(|blocked| blocked.missing)
        {
            for seq in &self.running {
                n_steps =
                    n_steps.min(steps_before_store(seq, missing, n_steps, self.profile.block_size));
            }
        }
        n_steps
    }

    /// The most steps, up to `most`, that find all their blocks free.
    fn n_steps_with_room(&self, most: u32) -> u32 {
        let block_size = self.profile.block_size;
        let fits = |n_steps: u32| {
            let needed: u64 = self
                .running
                .iter()
                .map(|seq| u64::from(blocks_taken(seq, n_steps, block_size)))
                .sum();
            needed <= u64::from(self.pool.n_free())
        };
        if fits(most) {
            return most;
        }
        // One step always fits: its blocks are taken already.
        let (mut low, mut high) = (1, most - 1);
        while low < high {
            let middle = high - (high - low) / 2;
            if fits(middle) { low = middle } else { high = middle - 1 }
        }
        low
    }

    /// Completes `n` steps of the run in flight and begins the one after them.
    pub(crate) fn skip_steps(&mut self, n: u32) {
        let Some(flight) = self.flight.filter(|_| n > 0) else { return };
        self.clock += flight.length(n);
        self.flight = Some(Flight {
            first: flight.first + flight.growth * u128::from(n),
            growth: flight.growth,
            n_steps: flight.n_steps - n,
        });
        self.counters.steps += u64::from(n);
        self.counters.generation_tokens += u64::from(n) * self.running.len() as u64;
        self.cross_blocks(n);
        for seq in &mut self.running {
            seq.computed += n;
            seq.generated += n;
        }
    }

    /// Takes and fills the blocks of the `n` steps after the one in flight.
    fn cross_blocks(&mut self, n: u32) {
        let block_size = self.profile.block_size;
        let mut crossings = std::mem::take(&mut self.crossings);
        crossings.clear();
        for (seq_idx, seq) in self.running.iter().enumerate() {
            for step in steps_with_crossing(seq.computed, n, block_size) {
                crossings.push(Crossing { step, seq_idx: seq_idx as u32 });
            }
        }
        crossings.sort_unstable();
        for &Crossing { step, seq_idx } in &crossings {
            let Some(seq) = self.running.get_mut(seq_idx as usize) else { continue };
            let token = seq.computed + step;
            let nth = (token / block_size) as usize;
            if token.is_multiple_of(block_size)
                && let Some(block) = self.pool.allocate()
            {
                seq.table.push(block);
            }
            if (token + 1).is_multiple_of(block_size)
                && let Some(&block) = seq.table.get(nth)
            {
                self.pool.store(block, seq.chain.get(nth).copied());
            }
        }
        self.crossings = crossings;
    }
}

/// The steps 1 to `n` after the one in flight in which a request whose `computed` tokens precede the one in
/// flight computes the first or the last token of a block.
fn steps_with_crossing(computed: u32, n: u32, block_size: u32) -> impl Iterator<Item = u32> {
    let (first, last) = (computed + 1, computed + n);
    (first / block_size..=last / block_size).flat_map(move |nth| {
        let (start, end) = (nth * block_size, nth * block_size + block_size - 1);
        // With one token per block both are the same step.
        let end = (end != start).then_some(end);
        [Some(start), end]
            .into_iter()
            .flatten()
            .filter(move |token| (first..=last).contains(token))
            .map(move |token| token - computed)
    })
}

/// Blocks that a request takes in the steps after the one in flight, of `n_steps` in all.
fn blocks_taken(seq: &Seq, n_steps: u32, block_size: u32) -> u32 {
    (seq.computed + n_steps - 1) / block_size - seq.computed / block_size
}

/// How many of `n_steps` steps come before the one in which the request stores a block with this hash.
fn steps_before_store(seq: &Seq, hash: BlockHash, n_steps: u32, block_size: u32) -> u32 {
    let until = seq.computed + n_steps;
    // The step in flight has stored its block already, so the first that counts ends a token later.
    ((seq.computed + 1) / block_size..until / block_size)
        .filter(|&nth| seq.chain.get(nth as usize) == Some(&hash))
        .map(|nth| (nth + 1) * block_size - 1 - seq.computed)
        .next()
        .map_or(n_steps, |step| step.min(n_steps))
}
