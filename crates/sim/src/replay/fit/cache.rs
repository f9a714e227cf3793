//! How large an endpoint's KV cache is, by what it had cached: each size is tried on the course that was
//! recorded, with the blocks that running requests hold and the order in which vLLM evicts.

use super::{samples::Sample, solve::quantile};
use crate::model::BlockPool;

/// Sizes that are tried, from the largest request to all that was ever seen.
const N_SIZES: usize = 24;
/// Sizes that are tried between the best one's neighbours.
const N_FINER: usize = 12;
/// A size is as good as the best if it mistakes this share of all prompt tokens more.
const AS_GOOD: f64 = 0.002;
/// Share of moments in which not more was held than what is taken for the most.
const USUALLY_HELD: f64 = 0.98;
/// The largest cache that an engine may have.
const MAX_BLOCKS: u32 = 1 << 22;
/// The most blocks that are looked at for one size; what an endpoint did before is left out.
const MAX_BLOCKS_LOOKED_AT: usize = 3_000_000;

/// What is known of a size, in blocks of the trace.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Size {
    /// About so many.
    Found { n_blocks: u32 },
    /// At least so many: the cache was never full enough to tell.
    AtLeast { n_blocks: u32 },
    /// The record does not say what was cached.
    Unknown { n_blocks_at_least: u32 },
}

/// The share of prompt tokens that each size mistakes.
#[derive(Clone, Debug)]
pub(super) struct Curve {
    pub(super) mistaken: Vec<f64>,
    /// Requests that it is made of.
    pub(super) n_requests: f64,
}

/// Sizes to try for all endpoints, ascending, in blocks. The last one never evicts.
pub(super) fn sizes(endpoints: &[&[Sample]], block_tokens: u32) -> Vec<u32> {
    let block = u64::from(block_tokens);
    let held =
        |sample: &Sample| (u64::from(sample.prompt) + u64::from(sample.output)).div_ceil(block);
    let all = || endpoints.iter().flat_map(|samples| samples.iter());
    let least = all().map(held).max().unwrap_or(1).max(2) as f64;
    let most = endpoints
        .iter()
        .map(|samples| samples.iter().map(held).sum::<u64>())
        .max()
        .unwrap_or(1)
        .clamp(4, u64::from(MAX_BLOCKS)) as f64;
    let step = (most / least).max(1.0).powf(1.0 / (N_SIZES - 1) as f64);
    let mut sizes: Vec<u32> =
        (0..N_SIZES).map(|nth| (least * step.powi(nth as i32)).ceil() as u32).collect();
    sizes.dedup();
    sizes
}

/// What each size mistakes at one endpoint; `None` where it does not say what was cached. `prefill` is the time
/// that a sample's prompt takes by itself.
pub(super) fn curve(
    samples: &[Sample],
    block_tokens: u32,
    sizes: &[u32],
    prefill: &dyn Fn(&Sample) -> f64,
) -> Option<Curve> {
    if !samples.iter().any(|sample| sample.cached.is_some()) {
        return None;
    }
    let course = Course::of(samples, prefill);
    let mistaken = |size: &u32| course.mistaken(*size, block_tokens);
    let n_requests = course.samples.len() as f64;
    Some(Curve { mistaken: sizes.iter().map(mistaken).collect(), n_requests })
}

/// The size that mistakes least over endpoints of one kind.
pub(super) fn size(
    endpoints: &[&[Sample]],
    block_tokens: u32,
    sizes: &[u32],
    prefill: &dyn Fn(&Sample) -> f64,
) -> Size {
    let courses: Vec<(Course<'_>, f64)> = endpoints
        .iter()
        .filter(|samples| samples.iter().any(|sample| sample.cached.is_some()))
        .map(|samples| (Course::of(samples, prefill), samples.len() as f64))
        .collect();
    let at_least = endpoints.iter().map(|samples| most_held(samples, block_tokens)).max();
    if courses.is_empty() {
        return Size::Unknown { n_blocks_at_least: at_least.unwrap_or(1) };
    }
    let weights: f64 = courses.iter().map(|(_, weight)| weight).sum();
    let mistaken = |size: u32| {
        let weighted = courses.iter().map(|(course, n)| n * course.mistaken(size, block_tokens));
        weighted.sum::<f64>() / weights
    };
    let curve: Vec<f64> = sizes.iter().map(|&size| mistaken(size)).collect();
    let least = curve.iter().copied().fold(f64::INFINITY, f64::min);
    let is_good = |nth: usize| curve.get(nth).is_some_and(|value| *value <= least + AS_GOOD);
    let nth = |nth: usize| sizes.get(nth.min(sizes.len() - 1)).copied().unwrap_or(1);
    let first = (0..sizes.len()).find(|at| is_good(*at)).unwrap_or(0);
    let last = (0..sizes.len()).rev().find(|at| is_good(*at)).unwrap_or(0);
    if last + 1 == sizes.len() {
        return Size::AtLeast { n_blocks: nth(first) };
    }
    let (low, high) = (f64::from(nth(first.saturating_sub(1))), f64::from(nth(last + 1)));
    let step = (high / low).powf(1.0 / (N_FINER + 1) as f64);
    let finer: Vec<(u32, f64)> = (1..=N_FINER)
        .map(|nth| (low * step.powi(nth as i32)).round() as u32)
        .map(|size| (size, mistaken(size)))
        .collect();
    let least = finer.iter().map(|(_, value)| *value).fold(f64::INFINITY, f64::min);
    // Where several are alike, the middle one: both ends have been told from it.
    let good: Vec<u32> = finer
        .iter()
        .filter(|(_, value)| *value <= least + AS_GOOD / 4.0)
        .map(|(size, _)| *size)
        .collect();
    Size::Found { n_blocks: good.get(good.len() / 2).copied().unwrap_or_else(|| nth(first)) }
}

/// The most blocks that requests which were decoding at one moment held, if they shared nothing but what they
/// found cached; a few moments aside, in which they only seem to overlap.
pub(super) fn most_held(samples: &[Sample], block_tokens: u32) -> u32 {
    let mut changes: Vec<(f64, f64)> = Vec::new();
    for sample in samples {
        let Some(first) = sample.first_token() else { continue };
        let own = (sample.computed() + f64::from(sample.output)) / f64::from(block_tokens);
        changes.push((first, own));
        changes.push((sample.ends(), -own));
    }
    changes.sort_by(|a, b| a.0.total_cmp(&b.0));
    let mut held = 0.0;
    let sums = changes.iter().map(|(_, change)| {
        held += change;
        held
    });
    quantile(sums.collect(), USUALLY_HELD).map_or(1, |most| most.max(1.0) as u32)
}

/// When requests took and gave back their blocks.
struct Course<'a> {
    samples: &'a [Sample],
    /// Time, sample, and whether it ends.
    events: Vec<(f64, usize, bool)>,
}

impl<'a> Course<'a> {
    fn of(samples: &'a [Sample], prefill: &dyn Fn(&Sample) -> f64) -> Self {
        let mut n_blocks = 0;
        let first = samples.iter().rposition(|sample| {
            n_blocks += sample.chain.len() + 1;
            n_blocks > MAX_BLOCKS_LOOKED_AT
        });
        let samples = samples.get(first.map_or(0, |at| at + 1)..).unwrap_or_default();
        let mut events: Vec<(f64, usize, bool)> = Vec::with_capacity(2 * samples.len());
        for (at, sample) in samples.iter().enumerate() {
            let first_token = sample.first_token().unwrap_or(sample.begins());
            let admitted = (first_token - prefill(sample)).max(sample.begins());
            events.push((admitted, at, false));
            events.push((sample.ends().max(admitted), at, true));
        }
        events.sort_by(|a, b| a.0.total_cmp(&b.0).then((a.2, a.1).cmp(&(b.2, b.1))));
        Self { samples, events }
    }

    /// The share of prompt tokens that a cache of so many blocks takes for cached wrongly or for not cached
    /// wrongly.
    fn mistaken(&self, n_blocks: u32, block_tokens: u32) -> f64 {
        let mut pool = BlockPool::new(n_blocks, true);
        let mut tables: Vec<Vec<u32>> = vec![Vec::new(); self.samples.len()];
        let (mut wrong, mut all) = (0.0, 0.0);
        for &(_, at, ends) in &self.events {
            let (Some(sample), Some(table)) = (self.samples.get(at), tables.get_mut(at)) else {
                continue;
            };
            if ends {
                pool.release(table);
                *table = Vec::new();
                continue;
            }
            let max_hits = (sample.prompt - 1) / block_tokens;
            let hits = pool.find(&sample.chain, max_hits).n_blocks;
            *table = admit(&mut pool, sample, hits, block_tokens);
            if let Some(cached) = sample.cached.filter(|_| sample.is_foreseeable) {
                let found = f64::from((hits * block_tokens).min(sample.prompt));
                // An endpoint with smaller blocks finds up to one block of the trace more.
                let off = (f64::from(cached) - found).abs();
                wrong += if off < f64::from(block_tokens) { 0.0 } else { off };
                all += f64::from(sample.prompt);
            }
        }
        if all > 0.0 { wrong / all } else { 0.0 }
    }
}

/// Takes the blocks of a request, as far as there are any: recorded times that are a little off let requests
/// overlap that did not.
fn admit(pool: &mut BlockPool, sample: &Sample, hits: u32, block_tokens: u32) -> Vec<u32> {
    let n_tokens = u64::from(sample.prompt) + u64::from(sample.output);
    let (n_needed, n_full) =
        (n_tokens.div_ceil(u64::from(block_tokens)), n_tokens / u64::from(block_tokens));
    let mut table = Vec::new();
    for &hash in sample.chain.iter().take(hits as usize) {
        table.extend(pool.claim(hash));
    }
    for nth in table.len() as u64..n_needed {
        let Some(block) = pool.allocate() else { break };
        table.push(block);
        if nth < n_full {
            pool.store(block, sample.chain.get(nth as usize).copied());
        }
    }
    table
}
