//! The index as one would write it without care for cost: per endpoint a list of blocks in order of use.

use std::collections::BTreeMap;

use super::*;

const N_SLOTS: u32 = 4;

#[derive(Clone, Debug)]
pub(super) enum Step {
    Insert {
        slot: u32,
        ids: Vec<u64>,
        /// The prompt ends inside its last block.
        ends_inside: bool,
        n_more: usize,
    },
    /// Ends one of the requests under way; its answer has filled so many blocks.
    End {
        which: usize,
        answered: Option<usize>,
    },
    SetCapacity {
        slot: u32,
        capacity: usize,
    },
    Believe {
        slot: u32,
        n_blocks: usize,
    },
    /// The endpoint goes and another one takes its slot.
    Replace {
        slot: u32,
        is_told: bool,
    },
}

/// A block that nobody uses.
#[derive(Clone, Copy, PartialEq)]
enum Block {
    OfPrompt(BlockHash),
    /// Of the answer to a prompt that ended with this block.
    OfAnswer(BlockHash),
}

#[derive(Default)]
struct Endpoint {
    capacity: usize,
    /// What it is believed to hold, where that is not known.
    believed: Option<usize>,
    /// Those that nobody uses, last used first.
    free: Vec<Block>,
    /// Of these, so many at the end are thought gone.
    n_gone: usize,
    /// Those that requests use, with how many, and whether one was served with it.
    used: BTreeMap<BlockHash, (usize, bool)>,
    n_reserved: usize,
}

struct UnderWay {
    endpoint: EndpointIndex,
    hashes: Vec<BlockHash>,
    n_blocks: usize,
    n_full: usize,
    n_reserved: usize,
    inserted: Inserted,
}

struct Model {
    default_capacity: usize,
    endpoints: BTreeMap<EndpointIndex, Endpoint>,
    under_way: Vec<UnderWay>,
}

/// Prompts over few ids, so that they share beginnings of all lengths.
fn ids() -> impl Strategy<Value = Vec<u64>> {
    prop::collection::vec(prop_oneof![4 => Just(0), 1 => 1u64..3], 0..14)
}

pub(super) fn step() -> impl Strategy<Value = Step> {
    let slot = || 0..N_SLOTS;
    prop_oneof![
        12 => (slot(), ids(), any::<bool>(), 0usize..3).prop_map(
            |(slot, ids, ends_inside, n_more)| Step::Insert { slot, ids, ends_inside, n_more },
        ),
        10 => (any::<usize>(), prop::option::weighted(0.7, 0usize..3))
            .prop_map(|(which, answered)| Step::End { which, answered }),
        1 => (slot(), 0usize..30).prop_map(|(slot, capacity)| Step::SetCapacity { slot, capacity }),
        2 => (slot(), 0usize..30).prop_map(|(slot, n_blocks)| Step::Believe { slot, n_blocks }),
        1 => (slot(), any::<bool>()).prop_map(|(slot, is_told)| Step::Replace { slot, is_told }),
    ]
}

/// Runs the steps through both and compares what can be seen after each.
pub(super) fn compare(default_capacity: usize, steps: &[Step]) -> Result<(), TestCaseError> {
    let index = index(default_capacity);
    let mut model = Model { default_capacity, endpoints: BTreeMap::new(), under_way: Vec::new() };
    let mut generations = [0; N_SLOTS as usize];
    let mut prompts = vec![prompt([0; 14])];
    for step in steps {
        let at = |slot: u32| EndpointIndex { slot, generation: generations[slot as usize] };
        match step {
            Step::Insert { slot, ids, ends_inside, n_more } => {
                let hashes = prompt(ids.iter().copied());
                prompts.push(hashes.clone());
                let n_full = hashes.len().saturating_sub(usize::from(*ends_inside));
                model.insert(&index, at(*slot), hashes, n_full, *n_more)?;
            }
            Step::End { which, answered } => model.end(&index, *which, *answered),
            Step::SetCapacity { slot, capacity } => {
                index.set_capacity(at(*slot), *capacity);
                model.set_capacity(at(*slot), *capacity);
            }
            Step::Believe { slot, n_blocks } => {
                index.believe(at(*slot), *n_blocks);
                model.believe(at(*slot), *n_blocks);
            }
            Step::Replace { slot, is_told } => {
                model.endpoints.remove(&at(*slot));
                if *is_told {
                    index.remove_endpoint(at(*slot));
                    generations[*slot as usize] += 1;
                } else {
                    generations[*slot as usize] += 1;
                    let next =
                        EndpointIndex { slot: *slot, generation: generations[*slot as usize] };
                    model.insert(&index, next, vec![], 0, 0)?;
                }
            }
        }
        prop_assert_eq!(index.check(), Ok(()));
        for (endpoint, state) in &model.endpoints {
            prop_assert_eq!(index.len_of(*endpoint), state.n_free_of_prompts() + state.used.len());
        }
        for dump in index.dump(N_SLOTS as usize).endpoints {
            let state = model.endpoint(dump.endpoint);
            let n_there = state.used.len() + state.free.len() - state.n_gone;
            prop_assert_eq!(dump.n_blocks, n_there, "{:?}", dump.endpoint);
        }
        for hashes in prompts.iter().rev().take(5) {
            prop_assert_eq!(matches(&index, hashes), model.matches(hashes), "{:?}", hashes);
            for endpoint in model.endpoints.keys() {
                let depths: Vec<_> =
                    index.runs(*endpoint, hashes).iter().flat_map(depths).collect();
                prop_assert_eq!(depths, model.depths(*endpoint, hashes), "{:?}", hashes);
            }
        }
    }
    Ok(())
}

fn depths(run: &Run) -> impl Iterator<Item = (usize, usize)> {
    let Run { start, n_blocks, depth } = *run;
    (0..n_blocks).map(move |at| (start + at, depth + at))
}

impl Endpoint {
    fn has(&self, hash: &BlockHash) -> bool {
        self.used.contains_key(hash) || self.place(hash).is_some()
    }

    /// Of those that nobody uses.
    fn place(&self, hash: &BlockHash) -> Option<usize> {
        self.free.iter().position(|other| *other == Block::OfPrompt(*hash))
    }

    fn n_free_of_prompts(&self) -> usize {
        self.free.iter().filter(|block| matches!(block, Block::OfPrompt(_))).count()
    }

    fn remove(&mut self, at: usize) {
        self.n_gone -= usize::from(at >= self.free.len() - self.n_gone);
        self.free.remove(at);
    }

    /// Whether it is believed to be there.
    fn shows(&self, hash: &BlockHash) -> bool {
        let there = self.free.len() - self.n_gone;
        self.used.contains_key(hash) || self.place(hash).is_some_and(|at| at < there)
    }

    fn room(&self) -> usize {
        let capacity = self.believed.map_or(self.capacity, |believed| believed.min(self.capacity));
        let left = (4 * capacity).saturating_sub(self.used.len() + self.n_reserved);
        left.min(capacity)
    }

    fn evict(&mut self) {
        let n_used = self.used.len() + self.n_reserved;
        let n_kept = self.free.len().min(self.capacity.saturating_sub(n_used));
        self.n_gone -= self.n_gone.min(self.free.len() - n_kept);
        self.free.truncate(n_kept);
        if let Some(believed) = self.believed {
            let there = believed.saturating_sub(n_used);
            self.n_gone = self.n_gone.max(n_kept.saturating_sub(there));
        }
    }
}

impl Model {
    fn endpoint(&mut self, endpoint: EndpointIndex) -> &mut Endpoint {
        let capacity = self.default_capacity;
        self.endpoints
            .entry(endpoint)
            .or_insert_with(|| Endpoint { capacity, ..Endpoint::default() })
    }

    fn insert(
        &mut self,
        index: &PrefixIndex,
        endpoint: EndpointIndex,
        hashes: Vec<BlockHash>,
        n_full: usize,
        n_more: usize,
    ) -> Result<(), TestCaseError> {
        let inserted = index.insert_parts(endpoint, &hashes, n_full, n_more);
        let state = self.endpoint(endpoint);
        let n_blocks = hashes.len().min(state.room());
        let is_new = |hash: &BlockHash| !state.has(hash);
        let first_new = hashes[..n_blocks].iter().position(is_new).unwrap_or(n_blocks);
        for hash in &hashes[..n_blocks] {
            let free = state.place(hash);
            state.used.entry(*hash).or_insert((0, free.is_some())).0 += 1;
            if let Some(free) = free {
                state.remove(free);
            }
            while let Some(at) = state.free.iter().position(|b| *b == Block::OfAnswer(*hash)) {
                state.remove(at);
            }
        }
        let n_reserved = n_more.min(state.room());
        state.n_reserved += n_reserved;
        state.evict();
        prop_assert_eq!((inserted.first_new(), inserted.n_blocks()), (first_new, n_blocks));
        let request = UnderWay { endpoint, hashes, n_blocks, n_full, n_reserved, inserted };
        self.under_way.push(request);
        Ok(())
    }

    fn end(&mut self, index: &PrefixIndex, which: usize, answered: Option<usize>) {
        if self.under_way.is_empty() {
            return;
        }
        let ended = self.under_way.swap_remove(which % self.under_way.len());
        match answered {
            Some(n_answer) => index.release(&ended.hashes, ended.inserted, n_answer),
            None => index.undo(&ended.hashes, ended.inserted),
        }
        let Some(state) = self.endpoints.get_mut(&ended.endpoint) else { return };
        for hash in ended.hashes[..ended.n_blocks].iter().rev() {
            let (n_users, was_served) = state.used.get_mut(hash).unwrap();
            *n_users -= 1;
            *was_served |= answered.is_some();
            if *n_users > 0 {
                continue;
            }
            if state.used.remove(hash).unwrap().1 {
                let n_full = if ended.n_full > 0 { ended.n_full } else { ended.n_blocks };
                let is_last = Some(hash) == ended.hashes[..n_full.min(ended.n_blocks)].last();
                let n_answer = answered.filter(|_| is_last).unwrap_or(0);
                let blocks = std::iter::repeat_n(Block::OfAnswer(*hash), n_answer);
                state.free.splice(..0, [Block::OfPrompt(*hash)].into_iter().chain(blocks));
            }
        }
        state.n_reserved -= ended.n_reserved;
        state.evict();
    }

    fn set_capacity(&mut self, endpoint: EndpointIndex, capacity: usize) {
        let state = self.endpoint(endpoint);
        state.capacity = capacity;
        (state.believed, state.n_gone) = (None, 0);
        state.evict();
    }

    fn believe(&mut self, endpoint: EndpointIndex, n_blocks: usize) {
        let state = self.endpoint(endpoint);
        let rises = state.believed.is_some_and(|believed| believed < n_blocks);
        state.believed = Some(n_blocks);
        if rises {
            state.n_gone = 0;
        }
        state.evict();
    }

    /// Of each block of the prompt that the endpoint has and nobody uses, its place and how many are newer or in use.
    fn depths(&self, endpoint: EndpointIndex, hashes: &[BlockHash]) -> Vec<(usize, usize)> {
        let state = &self.endpoints[&endpoint];
        if state.believed.is_none() {
            return Vec::new();
        }
        let n_used = state.used.len() + state.n_reserved;
        let depth = |hash| state.place(hash).map(|at| n_used + at);
        let held = hashes.iter().take_while(|hash| state.has(hash)).enumerate();
        held.filter_map(|(at, hash)| Some((at, depth(hash)?))).collect()
    }

    /// The reference's walk: go on while some endpoint has the block, count the blocks of each.
    fn matches(&self, hashes: &[BlockHash]) -> Vec<(EndpointIndex, u32)> {
        let mut counts = BTreeMap::<_, u32>::new();
        for hash in hashes {
            let has = |state: &Endpoint| state.shows(hash);
            let holders: Vec<_> =
                self.endpoints.iter().filter(|(_, state)| has(state)).map(|(&e, _)| e).collect();
            if holders.is_empty() {
                break;
            }
            for endpoint in holders {
                *counts.entry(endpoint).or_default() += 1;
            }
        }
        counts.into_iter().collect()
    }
}
