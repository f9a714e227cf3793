//! The flows that wait, arranged so that the best by any two weights is found without a look at each.
//!
//! What is sought is the least of `a·service + b·enqueued`, with weights that are never negative and differ
//! from one question to the next. Only corners of the lower left convex hull of all points can be that. The
//! points stand in blocks, by service; each block keeps its own hull, which is made again when one of its
//! points comes or goes, and in which a binary search finds the least. A change costs as much as a block is
//! long, and a question a little for every block.

use std::cmp::Ordering;

use crate::policy::FlowKey;

/// Points of a block, at most. A block that is longer makes changes dear, a shorter one questions.
const MAX_BLOCK: usize = 64;
/// A block with fewer is joined with a neighbour, where that makes no long one.
const MIN_BLOCK: usize = 16;

/// A flow that waits, and its first request.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Candidate {
    pub(super) service: f64,
    pub(super) enqueued: f64,
    pub(super) seq: u64,
    pub(super) flow: FlowKey,
}

impl Candidate {
    fn order(&self, other: &Self) -> Ordering {
        self.service
            .total_cmp(&other.service)
            .then(self.enqueued.total_cmp(&other.enqueued))
            .then(self.seq.cmp(&other.seq))
    }
}

/// Least and most of some values.
#[derive(Clone, Copy)]
struct Range(f64, f64);

impl Range {
    const NONE: Self = Self(f64::INFINITY, f64::NEG_INFINITY);

    fn with(self, value: f64) -> Self {
        Self(self.0.min(value), self.1.max(value))
    }

    /// What a weight counts per unit where this range is mapped to 0 to 1.
    fn unit(self, weight: f64) -> f64 {
        if self.1 > self.0 { weight / (self.1 - self.0) } else { 0.0 }
    }
}

/// All flows that wait, by service.
#[derive(Default)]
pub(super) struct Front {
    /// None is empty.
    blocks: Vec<Block>,
}

impl Front {
    pub(super) fn insert(&mut self, candidate: Candidate) {
        if self.blocks.is_empty() {
            self.blocks.push(Block::new(Vec::new()));
        }
        let at = self.find(&candidate).min(self.blocks.len() - 1);
        let Some(block) = self.blocks.get_mut(at) else { return };
        block.insert(candidate);
        if let Some(upper) = block.split() {
            self.blocks.insert(at + 1, upper);
        }
    }

    pub(super) fn remove(&mut self, candidate: &Candidate) {
        let at = self.find(candidate);
        let Some(block) = self.blocks.get_mut(at) else { return };
        block.remove(candidate);
        if block.points.is_empty() {
            self.blocks.remove(at);
            return;
        }
        if block.points.len() < MIN_BLOCK {
            self.join(at);
            self.join(at.wrapping_sub(1));
        }
    }

    /// Makes the block and the next one, if there is one, into one, where they are short together.
    fn join(&mut self, at: usize) {
        let n_points = |at: usize| Some(self.blocks.get(at)?.points.len());
        let n_next = n_points(at.wrapping_add(1));
        let both = n_points(at).zip(n_next).map(|(this, next)| this + next);
        if both.is_some_and(|both| both <= MAX_BLOCK / 4 * 3) {
            let next = self.blocks.remove(at + 1);
            if let Some(block) = self.blocks.get_mut(at) {
                block.append(next);
            }
        }
    }

    /// The flow with the least weighted sum of service and time of entry, each mapped to 0 to 1.
    pub(super) fn best(&mut self, service_weight: f64, wait_weight: f64) -> Option<FlowKey> {
        let mut enqueued = Range::NONE;
        for block in &mut self.blocks {
            block.refresh();
            enqueued = enqueued.with(block.enqueued.0).with(block.enqueued.1);
        }
        let least = self.blocks.first()?.points.first()?.service;
        let most = self.blocks.last()?.points.last()?.service;
        let (a, b) = (Range(least, most).unit(service_weight), enqueued.unit(wait_weight));
        let cost = |service: f64, at: f64| a * (service - least) + b * (at - enqueued.0);
        let mut best: Option<(f64, Candidate)> = None;
        for block in &self.blocks {
            let Some(first) = block.points.first() else { continue };
            // No point of the block can be better than that.
            let floor = cost(first.service, block.enqueued.0);
            if best.is_some_and(|(least, _)| floor > least) {
                continue;
            }
            let Some(corner) = block.corner(cost) else { continue };
            let of_corner = cost(corner.service, corner.enqueued);
            let is_better = best.is_none_or(|(least, known)| {
                of_corner < least || (of_corner == least && corner.seq < known.seq)
            });
            if is_better {
                best = Some((of_corner, corner));
            }
        }
        best.map(|(_, candidate)| candidate.flow)
    }

    /// All that wait, in no promised order; nobody waits afterwards.
    pub(super) fn take_all(&mut self) -> impl Iterator<Item = Candidate> + use<> {
        std::mem::take(&mut self.blocks).into_iter().flat_map(|block| block.points)
    }

    /// The block that has the candidate, or would have it.
    fn find(&self, candidate: &Candidate) -> usize {
        self.blocks.partition_point(|block| {
            block.points.last().is_some_and(|last| last.order(candidate).is_lt())
        })
    }
}

struct Block {
    points: Vec<Candidate>,
    /// Corners of the lower left hull: services rise, times of entry fall ever more slowly.
    corners: Vec<Candidate>,
    enqueued: Range,
    /// A point came or went since the corners were found.
    is_stale: bool,
}

impl Block {
    fn new(points: Vec<Candidate>) -> Self {
        Self { points, corners: Vec::new(), enqueued: Range::NONE, is_stale: true }
    }

    fn insert(&mut self, candidate: Candidate) {
        let at = self.points.partition_point(|known| known.order(&candidate).is_lt());
        self.points.insert(at, candidate);
        self.is_stale = true;
    }

    fn remove(&mut self, candidate: &Candidate) {
        if let Ok(at) = self.points.binary_search_by(|known| known.order(candidate)) {
            self.points.remove(at);
            self.is_stale = true;
        }
    }

    /// The upper half, where the block has become too long.
    fn split(&mut self) -> Option<Self> {
        (self.points.len() > MAX_BLOCK).then(|| Self::new(self.points.split_off(MAX_BLOCK / 2)))
    }

    fn append(&mut self, next: Self) {
        self.points.extend(next.points);
        self.is_stale = true;
    }

    fn refresh(&mut self) {
        if !std::mem::take(&mut self.is_stale) {
            return;
        }
        self.enqueued = Range::NONE;
        self.corners.clear();
        for &point in &self.points {
            self.enqueued = self.enqueued.with(point.enqueued);
            if self.corners.last().is_some_and(|last| point.enqueued >= last.enqueued) {
                continue;
            }
            while let [.., before, last] = self.corners[..]
                && !is_corner(&before, &last, &point)
            {
                self.corners.pop();
            }
            self.corners.push(point);
        }
    }

    /// The best point of the block; of neighbours that are as good, the one with less service.
    fn corner(&self, cost: impl Fn(f64, f64) -> f64) -> Option<Candidate> {
        let of = |point: &Candidate| cost(point.service, point.enqueued);
        let (mut low, mut high) = (0, self.corners.len().checked_sub(1)?);
        while low < high {
            let middle = usize::midpoint(low, high);
            let (this, next) = (self.corners.get(middle)?, self.corners.get(middle + 1)?);
            if of(next) < of(this) { low = middle + 1 } else { high = middle }
        }
        self.corners.get(low).copied()
    }
}

/// Whether the hull has a corner in the middle one of three points whose services rise and times fall.
fn is_corner(before: &Candidate, middle: &Candidate, after: &Candidate) -> bool {
    (middle.enqueued - before.enqueued) * (after.service - middle.service)
        < (after.enqueued - middle.enqueued) * (middle.service - before.service)
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    /// What a look at each finds.
    fn slow_best(points: &[Candidate], service_weight: f64, wait_weight: f64) -> (f64, Vec<u32>) {
        let service = points.iter().fold(Range::NONE, |range, point| range.with(point.service));
        let enqueued = points.iter().fold(Range::NONE, |range, point| range.with(point.enqueued));
        let (a, b) = (service.unit(service_weight), enqueued.unit(wait_weight));
        let cost =
            |point: &Candidate| a * (point.service - service.0) + b * (point.enqueued - enqueued.0);
        let least = points.iter().map(cost).fold(f64::INFINITY, f64::min);
        let good = points.iter().filter(|point| cost(point) <= least + 1e-9);
        (least, good.map(|point| point.flow.0).collect())
    }

    proptest! {
        #[test]
        fn finds_what_a_look_at_each_finds(
            // Few values, so that many are equal; and a line, on which all are nearly as good.
            points in vec((0u32..60, 0u32..60, any::<bool>()), 1..400),
            removals in vec(any::<usize>(), 0..300),
            weights in (0u32..4, 0u32..4),
        ) {
            let mut front = Front::default();
            let mut known = Vec::new();
            for (at, (x, y, on_line)) in points.into_iter().enumerate() {
                let enqueued = f64::from(if on_line { 60 - x } else { y });
                let flow = FlowKey(at as u32);
                let point =
                    Candidate { service: f64::from(x), enqueued, seq: at as u64, flow };
                front.insert(point);
                known.push(point);
            }
            let weights = (f64::from(weights.0) / 3.0, f64::from(weights.1) / 3.0);
            for removal in removals {
                let (_, good) = slow_best(&known, weights.0, weights.1);
                let best = front.best(weights.0, weights.1).unwrap();
                prop_assert!(good.contains(&best.0), "{best:?} instead of {good:?}");
                let gone = known.swap_remove(removal % known.len());
                front.remove(&gone);
                if known.is_empty() {
                    prop_assert_eq!(front.best(weights.0, weights.1), None);
                    break;
                }
            }
            let mut left: Vec<u32> = front.take_all().map(|point| point.flow.0).collect();
            left.sort_unstable();
            let mut expected: Vec<u32> = known.iter().map(|point| point.flow.0).collect();
            expected.sort_unstable();
            prop_assert_eq!(left, expected);
        }
    }

    #[test]
    fn equal_ones_go_as_they_came() {
        let mut front = Front::default();
        for n in (0..500).rev() {
            let flow = FlowKey(n);
            front.insert(Candidate { service: 7.0, enqueued: 3.0, seq: n.into(), flow });
        }
        assert_eq!(front.best(0.8, 0.2), Some(FlowKey(0)));
    }

    #[test]
    fn blocks_stay_long_enough_though_points_come_and_go() {
        let mut front = Front::default();
        let point = |n: u32| Candidate {
            service: f64::from(n),
            enqueued: f64::from(n % 7),
            seq: n.into(),
            flow: FlowKey(n),
        };
        (0..10_000).for_each(|n| front.insert(point(n)));
        (0..10_000).filter(|n| n % 20 > 0).for_each(|n| front.remove(&point(n)));
        assert!(front.blocks.len() <= 500 / MIN_BLOCK * 2, "{}", front.blocks.len());
    }
}
