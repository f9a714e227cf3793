//! The index as one would write it without care for cost: per endpoint a list of blocks in order of use.

use std::collections::BTreeMap;

use super::*;

const N_SLOTS: u32 = 4;

#[derive(Clone, Debug)]
pub(super) enum Step {
    Insert {
        slot: u32,
        ids: Vec<u64>,
    },
    /// Undoes one of the inserts that are not undone yet.
    Undo {
        which: usize,
    },
    SetCapacity {
        slot: u32,
        capacity: usize,
    },
    /// The endpoint goes and another one takes its slot.
    Replace {
        slot: u32,
        is_told: bool,
    },
}

#[derive(Default)]
struct Endpoint {
    capacity: usize,
    /// Most recently used first, each with the insert that made it unless another one has used it since.
    blocks: Vec<(BlockHash, Option<usize>)>,
    n_used: usize,
}

struct Outstanding {
    id: usize,
    endpoint: EndpointIndex,
    hashes: Vec<BlockHash>,
    n_blocks: usize,
    n_used: usize,
    is_possible: bool,
    inserted: Inserted,
}

struct Model {
    default_capacity: usize,
    endpoints: BTreeMap<EndpointIndex, Endpoint>,
    outstanding: Vec<Outstanding>,
    n_inserts: usize,
}

/// Prompts over few ids, so that they share beginnings of all lengths.
fn ids() -> impl Strategy<Value = Vec<u64>> {
    prop::collection::vec(prop_oneof![4 => Just(0), 1 => 1u64..3], 0..14)
}

pub(super) fn step() -> impl Strategy<Value = Step> {
    let slot = || 0..N_SLOTS;
    prop_oneof![
        12 => (slot(), ids()).prop_map(|(slot, ids)| Step::Insert { slot, ids }),
        4 => any::<usize>().prop_map(|which| Step::Undo { which }),
        1 => (slot(), 0usize..30).prop_map(|(slot, capacity)| Step::SetCapacity { slot, capacity }),
        1 => (slot(), any::<bool>()).prop_map(|(slot, is_told)| Step::Replace { slot, is_told }),
    ]
}

/// Runs the steps through both and compares what can be seen after each.
pub(super) fn compare(default_capacity: usize, steps: &[Step]) -> Result<(), TestCaseError> {
    let index = index(default_capacity);
    let mut model = Model {
        default_capacity,
        endpoints: BTreeMap::new(),
        outstanding: Vec::new(),
        n_inserts: 0,
    };
    let mut generations = [0; N_SLOTS as usize];
    let mut prompts = vec![prompt([0; 14])];
    for step in steps {
        let at = |slot: u32| EndpointIndex { slot, generation: generations[slot as usize] };
        match step {
            Step::Insert { slot, ids } => {
                let hashes = prompt(ids.iter().copied());
                prompts.push(hashes.clone());
                model.insert(&index, at(*slot), hashes)?;
            }
            Step::Undo { which } => model.undo(&index, *which)?,
            Step::SetCapacity { slot, capacity } => {
                index.set_capacity(at(*slot), *capacity);
                model.set_capacity(at(*slot), *capacity);
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
                    model.insert(&index, next, vec![])?;
                }
            }
        }
        prop_assert_eq!(index.check(), Ok(()));
        for (endpoint, state) in &model.endpoints {
            prop_assert_eq!(index.len_of(*endpoint), state.blocks.len());
        }
        for hashes in prompts.iter().rev().take(5) {
            prop_assert_eq!(matches(&index, hashes), model.matches(hashes), "{:?}", hashes);
        }
    }
    Ok(())
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
    ) -> Result<(), TestCaseError> {
        let inserted = index.insert(endpoint, &hashes);
        let id = self.n_inserts;
        self.n_inserts += 1;
        let state = self.endpoint(endpoint);
        let n_blocks = hashes.len().min(state.capacity);
        let known = |hash: &BlockHash| state.blocks.iter().any(|(other, _)| other == hash);
        let first_new = hashes[..n_blocks].iter().position(|hash| !known(hash));
        for &hash in hashes[..n_blocks].iter().rev() {
            let before = state.blocks.len();
            state.blocks.retain(|(other, _)| *other != hash);
            let maker = (state.blocks.len() == before).then_some(id);
            state.blocks.insert(0, (hash, maker));
        }
        state.blocks.truncate(state.capacity);
        state.n_used += n_blocks;
        let n_used = state.n_used;
        prop_assert_eq!(inserted.n_blocks(), n_blocks);
        prop_assert_eq!(inserted.first_new(), first_new.unwrap_or(n_blocks));
        let is_possible = true;
        self.outstanding.push(Outstanding {
            id,
            endpoint,
            hashes,
            n_blocks,
            n_used,
            is_possible,
            inserted,
        });
        Ok(())
    }

    fn undo(&mut self, index: &PrefixIndex, which: usize) -> Result<(), TestCaseError> {
        if self.outstanding.is_empty() {
            return Ok(());
        }
        let undone = self.outstanding.swap_remove(which % self.outstanding.len());
        let first_new = undone.inserted.first_new();
        let n_removed = index.undo(undone.endpoint, &undone.hashes, undone.inserted);
        let mut n_expected = 0;
        if let Some(state) = self.endpoints.get_mut(&undone.endpoint)
            && undone.is_possible
            && undone.n_blocks + state.n_used - undone.n_used <= state.capacity
        {
            for hash in &undone.hashes[first_new..undone.n_blocks] {
                let is_there = state.blocks.iter().any(|(other, _)| other == hash);
                prop_assert!(is_there, "evicted although so little was used since");
            }
            let before = state.blocks.len();
            state.blocks.retain(|(_, maker)| *maker != Some(undone.id));
            n_expected = before - state.blocks.len();
        }
        prop_assert_eq!(n_removed, n_expected);
        Ok(())
    }

    fn set_capacity(&mut self, endpoint: EndpointIndex, capacity: usize) {
        let state = self.endpoint(endpoint);
        if capacity != state.capacity {
            self.outstanding
                .iter_mut()
                .filter(|insert| insert.endpoint == endpoint)
                .for_each(|insert| insert.is_possible = false);
        }
        let state = self.endpoint(endpoint);
        state.capacity = capacity;
        state.blocks.truncate(capacity);
    }

    /// The reference's walk: go on while some endpoint has the block, count the blocks of each.
    fn matches(&self, hashes: &[BlockHash]) -> Vec<(EndpointIndex, u32)> {
        let mut counts = BTreeMap::<_, u32>::new();
        for hash in hashes {
            let has = |state: &Endpoint| state.blocks.iter().any(|(other, _)| other == hash);
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
