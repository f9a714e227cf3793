//! Fuzz entry point: any bytes are a sequence of operations on an index.

use router_core::EndpointIndex;

use crate::{BlockHash, IndexConfig, MatchCounts, PrefixIndex, PromptBlocks};

/// Operations that one input can ask for.
const MAX_OPERATIONS: usize = 512;

/// Reads operations from `data` and checks the index's links and counters after each. Prompts are chains, as
/// hashing makes them, or, where a bit says so, raw hashes that no prompt could have: matches then mean
/// nothing, but the structure must hold.
///
/// # Panics
/// When the index is inconsistent.
pub fn fuzz_index(data: &[u8]) {
    let index = PrefixIndex::new(IndexConfig { default_capacity: 24, seed: 1 });
    let mut under_way = Vec::new();
    for operation in data.chunks(4).take(MAX_OPERATIONS) {
        let &[kind, place, content, length] = operation else { break };
        let endpoint =
            EndpointIndex { slot: u32::from(place % 4), generation: u32::from(place >> 6) };
        let hashes = prompt(place & 0x20 != 0, content, length % 40);
        match kind % 16 {
            0..=5 => {
                let n_full = hashes.len().saturating_sub(usize::from(content & 1));
                let inserted =
                    index.insert_parts(endpoint, &hashes, n_full, usize::from(kind >> 4));
                under_way.push((hashes, inserted));
            }
            6..=11 if under_way.is_empty() => {}
            at @ 6..=11 => {
                let (hashes, inserted) =
                    under_way.swap_remove(usize::from(content) % under_way.len());
                if at < 9 {
                    index.release(&hashes, inserted, usize::from(length % 8));
                } else {
                    index.undo(&hashes, inserted);
                }
            }
            12 if content % 2 == 0 => index.set_capacity(endpoint, usize::from(length)),
            12 => index.believe(endpoint, usize::from(length)),
            13 if length % 4 == 0 => index.remove_endpoint(endpoint),
            _ => {
                let mut counts = MatchCounts::new(4);
                index.add_matches(&hashes, &mut counts);
                let is_chain = place & 0x20 == 0;
                assert!(!is_chain || counts.get(endpoint) as usize <= hashes.len());
            }
        }
        let checked = index.check();
        assert!(checked.is_ok(), "{checked:?} after {operation:?}");
    }
    for (hashes, inserted) in under_way {
        index.release(&hashes, inserted, 1);
    }
    for slot in 0..4 {
        (0..4).for_each(|generation| index.remove_endpoint(EndpointIndex { slot, generation }));
    }
    assert!(index.is_empty() && index.check().is_ok(), "{:?}", index.dump(4));
}

/// A prompt of up to 39 blocks: a shared beginning, then one of a few continuations.
fn prompt(is_raw: bool, content: u8, n_blocks: u8) -> Vec<BlockHash> {
    let branch_at = content % 16;
    let ids: Vec<u64> = (0..n_blocks)
        .map(|at| if at < branch_at { 0 } else { u64::from(content >> 4) * u64::from(at % 3 + 1) })
        .collect();
    if is_raw {
        return ids.into_iter().map(BlockHash).collect();
    }
    PromptBlocks::from_block_ids(&ids, 64, ids.len() * 64).hashes
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_operations_leave_the_index_whole(data in prop::collection::vec(any::<u8>(), 0..1200)) {
            fuzz_index(&data);
        }
    }

    /// A request whose blocks are all alike, as no prompt's are, ends where another one's answer lies.
    #[test]
    fn an_answer_is_counted_where_hashes_collide() {
        let (first, second) = ([0, 0xA0, 0xD4, 4], [16, 33, 0, 85]);
        fuzz_index(&[first, [0; 4], [0; 4], [0; 4], second, [0; 4], [0; 4], [0; 4]].concat());
    }
}
