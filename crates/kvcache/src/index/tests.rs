use std::{collections::VecDeque, sync::Arc, thread};

use proptest::prelude::*;

use super::*;

mod model;

fn endpoint(slot: u32) -> EndpointIndex {
    EndpointIndex { slot, generation: 0 }
}

fn index(default_capacity: usize) -> PrefixIndex {
    PrefixIndex::new(IndexConfig { default_capacity, seed: 42 })
}

fn prompt(ids: impl IntoIterator<Item = u64>) -> Vec<BlockHash> {
    let ids: Vec<_> = ids.into_iter().collect();
    PromptBlocks::from_block_ids(&ids, 64, ids.len() * 64).hashes
}

/// A request that is sent and ends; how many of its blocks were there before, and how many were after.
fn put(index: &PrefixIndex, endpoint: EndpointIndex, hashes: &[BlockHash]) -> (usize, usize) {
    let inserted = index.insert(endpoint, hashes, 0);
    let found = (inserted.first_new(), inserted.n_blocks());
    index.release(hashes, inserted, 0);
    found
}

fn matches(index: &PrefixIndex, hashes: &[BlockHash]) -> Vec<(EndpointIndex, u32)> {
    let mut found = Vec::new();
    index.match_prefix(hashes, |endpoint, n_blocks| found.push((endpoint, n_blocks)));
    found.sort_unstable();
    found
}

#[track_caller]
fn check(index: &PrefixIndex, hashes: &[BlockHash], expected: &[(u32, u32)]) {
    index.check().unwrap();
    let found: Vec<_> = matches(index, hashes).iter().map(|(e, n)| (e.slot, *n)).collect();
    assert_eq!(found, expected);
}

#[test]
fn counts_the_leading_blocks_that_each_endpoint_has() {
    let index = index(100);
    put(&index, endpoint(0), &prompt([1, 2, 3, 4]));
    put(&index, endpoint(1), &prompt([1, 2, 9]));
    put(&index, endpoint(2), &prompt([7, 2, 3, 4]));
    check(&index, &prompt([1, 2, 3, 4, 5]), &[(0, 4), (1, 2)]);
    check(&index, &prompt([1, 2, 9, 4]), &[(0, 2), (1, 3)]);
    check(&index, &prompt([7]), &[(2, 1)]);
    check(&index, &prompt([2, 3, 4]), &[]);
    check(&index, &[], &[]);
    assert_eq!((index.len(), index.len_of(endpoint(1)), index.is_empty()), (11, 3, false));
}

#[test]
fn trailing_partial_block_counts_like_any_other() {
    let mut hasher = crate::BlockHasher::new("m", "", 256, 2048);
    hasher.push(&[b'x'; 600]);
    let blocks = hasher.finish();
    let index = index(100);
    put(&index, endpoint(0), &blocks.hashes);
    check(&index, &blocks.hashes, &[(0, 3)]);
}

#[test]
fn the_last_blocks_of_the_oldest_prompt_are_evicted_first() {
    let index = index(6);
    put(&index, endpoint(0), &prompt([1, 2, 3]));
    put(&index, endpoint(0), &prompt([4, 5]));
    put(&index, endpoint(0), &prompt([6, 7, 8]));
    check(&index, &prompt([1, 2, 3]), &[(0, 1)]);
    check(&index, &prompt([4, 5]), &[(0, 2)]);
    put(&index, endpoint(0), &prompt([1]));
    put(&index, endpoint(0), &prompt([9]));
    check(&index, &prompt([1, 2]), &[(0, 1)]);
    check(&index, &prompt([4, 5]), &[(0, 1)]);
}

#[test]
fn a_longer_prompt_reports_what_is_new() {
    let index = index(100);
    assert_eq!(put(&index, endpoint(0), &prompt([1, 2])), (0, 2));
    assert_eq!(put(&index, endpoint(0), &prompt([1, 2, 3, 4])), (2, 4));
    assert_eq!(put(&index, endpoint(0), &prompt([1, 2, 3])), (3, 3));
    assert_eq!(put(&index, endpoint(0), &[]), (0, 0));
}

#[test]
fn a24_insert_beyond_the_capacity_leaves_nothing_behind() {
    let index = index(8);
    for start in 0..50 {
        let long = prompt(start * 100..start * 100 + 99);
        assert_eq!(put(&index, endpoint(0), &long), (0, 8));
        check(&index, &long, &[(0, 8)]);
        let dump = index.dump(1);
        assert_eq!((dump.n_pairs, dump.n_blocks, dump.n_segments), (8, 8, 1));
    }
    index.remove_endpoint(endpoint(0));
    let dump = index.dump(1);
    assert_eq!((dump.n_pairs, dump.n_blocks, dump.n_segments, dump.n_endpoints), (0, 0, 0, 0));
}

#[test]
fn a25_capacity_follows_what_is_learnt_of_the_endpoint() {
    let index = index(10);
    let old = prompt(0..10);
    put(&index, endpoint(0), &old);
    index.set_capacity(endpoint(0), 4);
    check(&index, &old, &[(0, 4)]);
    index.set_capacity(endpoint(0), 1_000);
    put(&index, endpoint(0), &prompt(0..900));
    check(&index, &prompt(0..900), &[(0, 900)]);
    index.set_capacity(endpoint(0), 0);
    check(&index, &old, &[]);
    assert_eq!(put(&index, endpoint(0), &old), (0, 0));

    index.set_capacity(endpoint(1), 2);
    put(&index, endpoint(1), &old);
    check(&index, &old, &[(1, 2)]);
}

#[test]
fn a27_failed_request_takes_back_what_it_added() {
    let index = index(100);
    put(&index, endpoint(0), &prompt([1, 2]));
    let failed = prompt([1, 2, 3, 4, 5]);
    let inserted = index.insert(endpoint(0), &failed, 0);
    index.undo(&failed, inserted);
    check(&index, &failed, &[(0, 2)]);

    let first = index.insert(endpoint(0), &failed, 0);
    let branch = prompt([1, 2, 3, 4, 9]);
    let second = index.insert(endpoint(0), &branch, 0);
    index.undo(&failed, first);
    check(&index, &failed, &[(0, 4)]);
    index.undo(&branch, second);
    check(&index, &branch, &[(0, 2)]);

    let repeated = index.insert(endpoint(0), &prompt([1, 2]), 0);
    index.undo(&prompt([1, 2]), repeated);
    check(&index, &failed, &[(0, 2)]);
}

#[test]
fn a27_equal_requests_that_all_fail_leave_nothing() {
    let index = index(100);
    let failed = prompt(0..6);
    let all = [(); 3].map(|()| index.insert(endpoint(0), &failed, 0));
    all.into_iter().for_each(|inserted| index.undo(&failed, inserted));
    check(&index, &failed, &[]);
    let [served, other] = [(); 2].map(|()| index.insert(endpoint(0), &failed, 0));
    index.undo(&failed, other);
    index.release(&failed, served, 0);
    check(&index, &failed, &[(0, 6)]);
}

#[test]
fn a27_undo_leaves_alone_what_another_request_computed_in_the_meantime() {
    let index = index(10);
    let failed = prompt(0..6);
    let inserted = index.insert(endpoint(0), &failed, 0);
    put(&index, endpoint(0), &failed[..4]);
    index.undo(&failed, inserted);
    check(&index, &failed, &[(0, 4)]);
}

#[test]
fn what_a_request_uses_is_not_evicted_and_counts_as_used_at_its_end() {
    let index = index(6);
    let (long, short, next) = (prompt([1, 2, 3]), prompt([4, 5]), prompt([6, 7]));
    let running = index.insert(endpoint(0), &long, 0);
    put(&index, endpoint(0), &short);
    put(&index, endpoint(0), &next);
    check(&index, &long, &[(0, 3)]);
    check(&index, &short, &[(0, 1)]);
    index.release(&long, running, 0);
    put(&index, endpoint(0), &prompt([8, 9]));
    check(&index, &long, &[(0, 3)]);
    check(&index, &next, &[(0, 1)]);
    put(&index, endpoint(0), &prompt([10, 11]));
    check(&index, &next, &[]);
    check(&index, &long, &[(0, 2)]);
}

#[test]
fn an_answer_takes_room_while_it_is_written() {
    let index = index(10);
    put(&index, endpoint(0), &prompt(0..8));
    let asked = prompt(50..52);
    let inserted = index.insert(endpoint(0), &asked, 5);
    check(&index, &prompt(0..8), &[(0, 3)]);
    index.release(&asked, inserted, 0);
    put(&index, endpoint(0), &prompt(0..8));
    check(&index, &prompt(0..8), &[(0, 8)]);
    check(&index, &asked, &[(0, 2)]);
}

#[test]
fn of_a_long_answer_is_remembered_what_fits_a_byte() {
    for (n_answer, n_remembered) in
        [(253, 253), (254, 254), (255, 254), (256, 254), (usize::MAX, 254)]
    {
        let index = index(1_000);
        let hashes = prompt([1]);
        let inserted = index.insert(endpoint(0), &hashes, 0);
        index.release(&hashes, inserted, n_answer);
        check(&index, &hashes, &[(0, 1)]);
        assert_eq!(index.dump(1).endpoints[0].n_blocks, 1 + n_remembered, "{n_answer}");
    }
}

#[test]
fn requests_under_way_use_a_few_times_the_capacity_at_most() {
    let index = index(10);
    put(&index, endpoint(0), &prompt(0..10));
    let prompts: Vec<_> = (1..9).map(|n| prompt(n * 100..n * 100 + 7)).collect();
    let insert = |hashes: &Vec<_>| index.insert(endpoint(0), hashes, 0);
    let inserted: Vec<_> = prompts.iter().map(insert).collect();
    let n_blocks: Vec<_> = inserted.iter().map(Inserted::n_blocks).collect();
    assert_eq!(n_blocks, [7, 7, 7, 7, 7, 5, 0, 0]);
    check(&index, &prompt(0..10), &[]);
    for (hashes, inserted) in prompts.iter().zip(inserted) {
        index.release(hashes, inserted, 0);
    }
    index.check().unwrap();
    assert_eq!(index.len(), 10);
    assert_eq!(insert(&prompts[0]).n_blocks(), 7);
}

#[test]
fn an_endpoint_that_goes_is_forgotten_with_its_last_request() {
    let index = index(10);
    let hashes = prompt(0..4);
    let inserted = index.insert(endpoint(0), &hashes, 3);
    put(&index, endpoint(0), &prompt(20..24));
    index.remove_endpoint(endpoint(0));
    check(&index, &hashes, &[]);
    let next = EndpointIndex { slot: 0, generation: 1 };
    put(&index, next, &hashes[..2]);
    index.release(&hashes, inserted, 0);
    put(&index, next, &hashes[..3]);
    check(&index, &hashes, &[(0, 3)]);
    assert_eq!(index.len(), 3);
}

#[test]
fn a28_a_reused_slot_inherits_nothing() {
    let index = index(100);
    let (old, new) = (endpoint(3), EndpointIndex { slot: 3, generation: 1 });
    let hashes = prompt(0..20);
    let inserted = index.insert(old, &hashes, 0);
    put(&index, endpoint(1), &hashes);

    // The pool may hand out the slot again before the index has heard of the deletion.
    let mut counts = MatchCounts::new(8);
    index.add_matches(&hashes, &mut counts);
    assert_eq!((counts.get(old), counts.get(new)), (20, 0));
    put(&index, new, &hashes[..2]);
    assert_eq!(matches(&index, &hashes), [(endpoint(1), 20), (new, 2)]);

    index.remove_endpoint(old);
    index.check().unwrap();
    assert_eq!(matches(&index, &hashes), [(endpoint(1), 20), (new, 2)]);
    assert_eq!(put(&index, old, &hashes), (0, 0), "a pick that came too late");
    index.undo(&hashes, inserted);
    index.remove_endpoint(new);
    check(&index, &hashes, &[(1, 20)]);
    assert_eq!(index.len(), 20);
}

#[test]
fn slots_out_of_range_are_ignored() {
    let index = index(100);
    let far = EndpointIndex { slot: u32::MAX, generation: 0 };
    assert_eq!(put(&index, far, &prompt(0..4)), (0, 0));
    index.set_capacity(far, 5);
    index.remove_endpoint(far);
    put(&index, endpoint(9), &prompt(0..4));
    let mut counts = MatchCounts::new(9);
    index.add_matches(&prompt(0..4), &mut counts);
    assert_eq!((counts.get(endpoint(9)), counts.get(far)), (0, 0));
}

#[test]
fn matches_of_several_prompts_add_up() {
    let index = index(100);
    put(&index, endpoint(0), &prompt(0..4));
    put(&index, endpoint(0), &prompt(50..53));
    let mut counts = MatchCounts::new(1);
    index.add_matches(&prompt(0..9), &mut counts);
    index.add_matches(&prompt(50..59), &mut counts);
    assert_eq!(counts.get(endpoint(0)), 7);
    counts.reset(1);
    assert_eq!(counts.get(endpoint(0)), 0);
}

#[test]
fn many_holders_of_a_hot_prefix_share_one_segment() {
    let index = index(4_000);
    let hot = prompt(0..2_048);
    for slot in 0..1_000 {
        put(&index, endpoint(slot), &hot);
    }
    let mut counts = MatchCounts::new(1_000);
    index.add_matches(&hot, &mut counts);
    assert!((0..1_000).all(|slot| counts.get(endpoint(slot)) == 2_048));
    let dump = index.dump(2);
    assert_eq!((dump.n_pairs, dump.n_blocks, dump.n_segments), (2_048_000, 2_048, 1));
    assert_eq!((dump.n_endpoints, dump.endpoints.len()), (1_000, 2));
    assert_eq!(dump.endpoints[1].newest, hot[..1]);
    assert!(dump.n_bytes < 210_000, "{} bytes", dump.n_bytes);
}

/// The budget of design §8: 32 bytes per block and endpoint, here for prompts that nobody shares.
#[test]
fn memory_stays_within_32_bytes_per_block_and_endpoint() {
    for blocks_per_prompt in [1, 2, 3, 4, 5, 16, 17, 500] {
        let index = index(31_250);
        let n_prompts = 200_000 / blocks_per_prompt;
        for n in 0..n_prompts {
            let first = n * blocks_per_prompt;
            put(&index, endpoint(n as u32 % 64), &prompt(first..first + blocks_per_prompt));
        }
        assert_eq!(index.len() as u64, n_prompts * blocks_per_prompt);
        let per_pair = index.n_bytes() as f64 / index.len() as f64;
        assert!(per_pair <= 32.0, "{per_pair} at {blocks_per_prompt} blocks per prompt");
    }
}

#[test]
fn memory_is_used_again() {
    let index = index(1_000);
    let mut peak = 0;
    for n in 0..20_000u64 {
        put(&index, endpoint(n as u32 % 4), &prompt(n * 7..n * 7 + n % 30));
        if n == 2_000 {
            peak = index.n_bytes();
        }
    }
    index.check().unwrap();
    assert!(index.n_bytes() <= peak * 11 / 10, "{} after {peak}", index.n_bytes());
}

#[test]
fn equal_histories_give_equal_states_whatever_the_seed() {
    let run = |seed| {
        let index = PrefixIndex::new(IndexConfig { default_capacity: 300, seed });
        let mut visits = Vec::new();
        for n in 0..2_000u64 {
            let (group, branch) = (n * n % 7, n * 31 % 11);
            let hashes = prompt((0..20 + group).map(|at| if at < 9 { group } else { branch + at }));
            index.match_prefix(&hashes, |endpoint, n_blocks| visits.push((endpoint, n_blocks)));
            put(&index, endpoint((n * 17 % 13) as u32), &hashes);
        }
        (visits, index.dump(20))
    };
    assert_eq!(run(1), run(1));
    assert_eq!(run(1), run(0xFEED_FACE_CAFE));
}

/// Deciders match while picks insert, fail and endpoints come and go; nothing may break or tear.
#[test]
fn threads_in_parallel_leave_the_index_whole() {
    const ROUNDS: u64 = 3_000;
    let index = Arc::new(index(400));
    let system = prompt(0..64);
    put(&index, endpoint(0), &system);
    let work = |worker: u64| {
        let index = Arc::clone(&index);
        let system = system.clone();
        move || {
            let mut counts = MatchCounts::new(8);
            let mut under_way = VecDeque::new();
            for n in 0..ROUNDS {
                let mix = (n * 7 + worker).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40;
                let hashes = prompt((0..64).chain((0..mix % 50).map(|at| at + mix % 5 * 1_000)));
                let target =
                    EndpointIndex { slot: (mix % 7) as u32 + 1, generation: (n / 500) as u32 };
                counts.reset(8);
                index.add_matches(&hashes, &mut counts);
                assert!(counts.get(target) as usize <= hashes.len());
                let inserted = index.insert(target, &hashes, n as usize % 3);
                match mix % 9 {
                    0 => index.undo(&hashes, inserted),
                    1..=5 => index.release(&hashes, inserted, 0),
                    _ => under_way.push_back((hashes, inserted)),
                }
                match mix % 11 {
                    1 => index.set_capacity(target, 100 + (mix % 400) as usize),
                    2 if n % 50 == 0 => index.remove_endpoint(target),
                    _ if under_way.len() < 20 => {}
                    _ => under_way
                        .pop_front()
                        .into_iter()
                        .for_each(|(hashes, inserted)| index.release(&hashes, inserted, 0)),
                }
                // Endpoint 0 is never written to, so it must be seen whole at every moment.
                assert_eq!(counts.get(endpoint(0)) as usize, system.len());
            }
            for (hashes, inserted) in under_way {
                index.release(&hashes, inserted, 0);
            }
        }
    };
    thread::scope(|scope| (0..4).for_each(|worker| drop(scope.spawn(work(worker)))));
    index.check().unwrap();
    for slot in 1..8 {
        index.remove_endpoint(EndpointIndex { slot, generation: 5 });
    }
    index.check().unwrap();
    assert_eq!((index.len(), index.dump(9).n_endpoints), (64, 1));
}

proptest! {
    #[test]
    fn behaves_as_the_slow_model(
        capacity in 1usize..24,
        steps in prop::collection::vec(model::step(), 1..120),
    ) {
        model::compare(capacity, &steps)?;
    }
}
