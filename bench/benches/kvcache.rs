//! What prefix matching costs: hashing a prompt's blocks, and the index at work.

use std::{hint::black_box, time::Duration};

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use router_bench::payload::mix;
use router_core::EndpointIndex;
use router_kvcache::{BlockHash, BlockHasher, IndexConfig, MatchCounts, PrefixIndex};

const PROMPT_BYTES: usize = 128 * 1024;
const BLOCK_BYTES: usize = 256;
/// Blocks of a prompt at the default cap of 131,072 tokens.
const N_BLOCKS: u64 = 2_048;
const CAPACITY: usize = 31_250;

fn endpoint(slot: u32) -> EndpointIndex {
    EndpointIndex { slot, generation: 0 }
}

/// The blocks of prompt number `n`; no two prompts share one.
fn prompt(n: u64) -> Vec<BlockHash> {
    (0..N_BLOCKS).map(|block| BlockHash(mix(n * N_BLOCKS + block))).collect()
}

fn block_hashing(c: &mut Criterion) {
    let text: Vec<u8> = (0..PROMPT_BYTES as u64).map(|n| b'a' + (mix(n) % 26) as u8).collect();
    let mut group = c.benchmark_group("block-hashing");
    group.throughput(Throughput::Bytes(PROMPT_BYTES as u64));
    for (name, piece_bytes) in [("128KiB", PROMPT_BYTES), ("128KiB-in-100-byte-pieces", 100)] {
        group.bench_function(name, |b| {
            b.iter(|| {
                let mut hasher = BlockHasher::new("llama-3.1-8b", "", BLOCK_BYTES, usize::MAX);
                hasher.reserve(PROMPT_BYTES);
                text.chunks(piece_bytes).for_each(|piece| hasher.push(black_box(piece)));
                black_box(hasher.finish())
            });
        });
    }
}

/// A request that is sent and ends.
fn put(index: &PrefixIndex, slot: u32, hashes: &[BlockHash]) {
    let inserted = index.insert(endpoint(slot), hashes, 0);
    index.release(hashes, inserted, 0);
}

/// An index in which `n_holders` endpoints hold the prompt, each to another length.
fn index(n_holders: u32, hashes: &[BlockHash]) -> PrefixIndex {
    let index = PrefixIndex::new(IndexConfig { default_capacity: CAPACITY, seed: 7 });
    for slot in 0..n_holders {
        let n_blocks = hashes.len() - slot as usize % hashes.len();
        put(&index, slot, &hashes[..n_blocks]);
    }
    index
}

fn prefix_match(c: &mut Criterion) {
    let mut group = c.benchmark_group("prefix-match-2048");
    let hashes = prompt(0);
    for n_holders in [1, 64, 1_000] {
        let index = index(n_holders, &hashes);
        let mut counts = MatchCounts::default();
        group.bench_function(BenchmarkId::new("holders", n_holders), |b| {
            b.iter(|| {
                counts.reset(n_holders as usize);
                index.add_matches(black_box(&hashes), &mut counts);
                black_box(counts.get(endpoint(0)))
            });
        });
    }
    let nothing = index(1_000, &hashes);
    let unknown = prompt(1);
    let mut counts = MatchCounts::default();
    group.bench_function("unknown", |b| {
        b.iter(|| {
            counts.reset(1_000);
            nothing.add_matches(black_box(&unknown), &mut counts);
            black_box(counts.get(endpoint(0)))
        });
    });
}

fn prefix_insert(c: &mut Criterion) {
    let mut group = c.benchmark_group("prefix-insert-2048");
    let known = prompt(0);
    let index = index(64, &known);
    group.bench_function("known", |b| b.iter(|| put(&index, 0, black_box(&known))));

    let mut n = 1;
    group.bench_function("new", |b| {
        let roomy = PrefixIndex::new(IndexConfig { default_capacity: usize::MAX, seed: 7 });
        // Emptied now and then, so that memory stays bounded and the work the same.
        b.iter_batched(
            || {
                n += 1;
                if n % 1_024 == 0 {
                    roomy.set_capacity(endpoint(0), 0);
                    roomy.set_capacity(endpoint(0), usize::MAX);
                }
                prompt(n)
            },
            |hashes| put(&roomy, 0, &hashes),
            BatchSize::SmallInput,
        );
    });

    group.bench_function("evicting", |b| {
        let full = PrefixIndex::new(IndexConfig { default_capacity: CAPACITY, seed: 7 });
        for n in 0..32 {
            put(&full, 0, &prompt(1 << 40 | n));
        }
        b.iter_batched(
            || {
                n += 1;
                prompt(n)
            },
            |hashes| put(&full, 0, &hashes),
            BatchSize::SmallInput,
        );
    });
}

/// Short: figures are compared by eye, within one run.
fn settings() -> Criterion {
    Criterion::default()
        .sample_size(30)
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_millis(700))
}

criterion_group! {
    name = benches;
    config = settings();
    targets = block_hashing, prefix_match, prefix_insert
}
criterion_main!(benches);
