//! Which endpoints are of one kind: those that cannot be told apart by how fast they are and what they cache.
//!
//! Each endpoint's times are compared with what one set of costs for all endpoints says, over stretches of time:
//! their spread tells how well its speed is known. Two endpoints differ if their speeds do by more than chance
//! and by more than matters, or if one size of cache for both explains what was cached clearly worse than two.

use super::{
    cache::Curve,
    load::{Equation, What},
    solve::{Costs, predicted, quantile},
};

/// Stretches of time that each endpoint's record is cut into.
const N_STRETCHES: usize = 8;
/// Equations that a stretch needs to say anything.
const MIN_EQUATIONS: usize = 4;
/// Endpoints whose speeds differ by less than this are of one kind: about 6 %.
const TOLERANCE: f64 = 0.06;
/// Standard deviations that are still taken for chance.
const CHANCE: f64 = 4.0;
/// One size for both may mistake this share of all prompt tokens more than two sizes do, and so many standard
/// deviations of what it mistakes.
const CACHE_TOLERANCE: f64 = 0.02;
const CACHE_CHANCE: f64 = 2.0;
/// One profile for two endpoints may be off by so much more at one of them than at the other, as a logarithm: about
/// 28 %.
const MAX_APART: f64 = 0.25;
/// Kinds that are farther apart than this are not looked at again.
const FAR: f64 = 4.0;
/// Pairs of kinds that are looked at again.
const MAX_RECONSIDERED: usize = 200;

/// What tells an endpoint from others.
#[derive(Clone, Debug)]
pub(super) struct Traits {
    decode: Option<Speed>,
    prefill: Option<Speed>,
    cache: Option<Curve>,
}

/// The logarithm of how slow an endpoint is, and its standard error.
#[derive(Clone, Copy, Debug)]
struct Speed {
    mean: f64,
    error: f64,
}

impl Traits {
    pub(super) fn of(equations: &[Equation], costs: &Costs, cache: Option<Curve>) -> Self {
        let speed = |what| Speed::of(equations.iter().filter(|one| one.what == what), costs);
        Self { decode: speed(What::Decode), prefill: speed(What::Prefill), cache }
    }

    /// Above 1 if they are told apart.
    fn distance(&self, other: &Self) -> f64 {
        let speeds = [(self.decode, other.decode), (self.prefill, other.prefill)];
        let speeds = speeds.into_iter().map(|pair| match pair {
            (Some(one), Some(other)) => one.distance(other),
            _ => 0.0,
        });
        let cache = match (&self.cache, &other.cache) {
            (Some(one), Some(other)) => one.distance(other),
            _ => 0.0,
        };
        speeds.fold(cache, f64::max)
    }
}

impl Speed {
    fn of<'a>(equations: impl Iterator<Item = &'a Equation>, costs: &Costs) -> Option<Self> {
        let logs: Vec<f64> = equations
            .map(|equation| (equation.seconds / predicted(equation, costs).max(1e-9)).ln())
            .collect();
        let length = (logs.len() / N_STRETCHES).max(MIN_EQUATIONS);
        let medians: Vec<f64> = logs
            .chunks(length)
            .filter(|stretch| stretch.len() >= MIN_EQUATIONS)
            .filter_map(|stretch| quantile(stretch.to_vec(), 0.5))
            .collect();
        if medians.len() < 2 {
            return None;
        }
        let n = medians.len() as f64;
        let mean = medians.iter().sum::<f64>() / n;
        let variance = medians.iter().map(|one| (one - mean).powi(2)).sum::<f64>() / (n - 1.0);
        Some(Self { mean, error: (variance / n).sqrt() })
    }

    fn distance(self, other: Self) -> f64 {
        let chance = CHANCE * self.error.hypot(other.error);
        (self.mean - other.mean).abs() / chance.max(TOLERANCE)
    }
}

impl Curve {
    /// What one size for both mistakes more than the best size of each, on average.
    fn distance(&self, other: &Self) -> f64 {
        let least = |values: &mut dyn Iterator<Item = f64>| values.fold(f64::INFINITY, f64::min);
        let (ones, others) = (&self.mistaken, &other.mistaken);
        let both = least(&mut ones.iter().zip(others).map(|(one, other)| one + other)) / 2.0;
        let each =
            f64::midpoint(least(&mut ones.iter().copied()), least(&mut others.iter().copied()));
        let chance = CACHE_CHANCE * (both / self.n_requests.min(other.n_requests).max(1.0)).sqrt();
        (both - each) / (CACHE_TOLERANCE + chance)
    }
}

/// Endpoints by kind, each kind and all kinds in the order of their first endpoint. Endpoints of one kind are
/// all alike, pair by pair. `together` says what tells such endpoints apart under costs of their own: those for
/// all endpoints are a compromise, under which load looks like slowness.
pub(super) fn kinds(
    traits: &[Traits],
    together: &dyn Fn(&[usize]) -> Vec<Traits>,
) -> Vec<Vec<usize>> {
    let n = traits.len();
    let mut distance: Vec<Vec<f64>> =
        traits.iter().map(|one| traits.iter().map(|other| one.distance(other)).collect()).collect();
    let mut kinds: Vec<Vec<usize>> = (0..n).map(|at| vec![at]).collect();
    let mut left = MAX_RECONSIDERED;
    while let Some((apart, a, b)) = nearest(&kinds, &distance) {
        if apart > 1.0 {
            if apart > FAR || left == 0 {
                break;
            }
            left -= 1;
            let both = [kinds[a].as_slice(), &kinds[b]].concat();
            let again = together(&both);
            let farthest = again
                .iter()
                .flat_map(|one| again.iter().map(|other| one.distance(other)))
                .fold(0.0, f64::max);
            if farthest > 1.0 {
                (distance[a][b], distance[b][a]) = (f64::INFINITY, f64::INFINITY);
                continue;
            }
        }
        let joined = std::mem::take(&mut kinds[b]);
        kinds[a].extend(joined);
        // The two that are least alike decide.
        let farther: Vec<f64> =
            distance[a].iter().zip(&distance[b]).map(|(one, other)| one.max(*other)).collect();
        for (row, farther) in distance.iter_mut().zip(&farther) {
            row[a] = *farther;
        }
        distance[a] = farther;
    }
    kinds.retain(|kind| !kind.is_empty());
    kinds.iter_mut().for_each(|kind| kind.sort_unstable());
    kinds
}

/// Two parts of endpoints by how far one profile is off from each of them, where it is off too differently: the
/// widest gap tells them apart. Those of which nothing is known stay with the larger part.
pub(super) fn split(off: &[(usize, Option<f64>)]) -> Option<[Vec<usize>; 2]> {
    let mut known: Vec<(f64, usize)> = off
        .iter()
        .filter_map(|(at, off)| Some((off.filter(|off| off.is_finite())?, *at)))
        .collect();
    known.sort_by(|one, other| one.0.total_cmp(&other.0).then(one.1.cmp(&other.1)));
    if known.last()?.0 - known.first()?.0 <= MAX_APART {
        return None;
    }
    let gap = |at: &usize| known[*at].0 - known[*at - 1].0;
    let at = (1..known.len()).max_by(|one, other| gap(one).total_cmp(&gap(other)))?;
    let ats = |part: &[(f64, usize)]| part.iter().map(|(_, at)| *at).collect::<Vec<_>>();
    let mut parts = [ats(&known[..at]), ats(&known[at..])];
    parts.sort_by_key(Vec::len);
    let unknown =
        off.iter().map(|(at, _)| *at).filter(|at| !known.iter().any(|(_, one)| one == at));
    parts[1].extend(unknown.collect::<Vec<_>>());
    parts.iter_mut().for_each(|part| part.sort_unstable());
    Some(parts)
}

fn nearest(kinds: &[Vec<usize>], distance: &[Vec<f64>]) -> Option<(f64, usize, usize)> {
    let is_kind = |at: &usize| kinds.get(*at).is_some_and(|kind| !kind.is_empty());
    let pairs = (0..kinds.len())
        .filter(is_kind)
        .flat_map(|a| (a + 1..kinds.len()).filter(is_kind).map(move |b| (distance[a][b], a, b)));
    pairs.min_by(|one, other| {
        one.0.total_cmp(&other.0).then((one.1, one.2).cmp(&(other.1, other.2)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn traits(decode: (f64, f64), prefill: Option<(f64, f64)>, cache: Option<&[f64]>) -> Traits {
        let speed = |(mean, error)| Speed { mean, error };
        Traits {
            decode: Some(speed(decode)),
            prefill: prefill.map(speed),
            cache: cache.map(|values| Curve { mistaken: values.to_vec(), n_requests: 1_000.0 }),
        }
    }

    #[test]
    fn what_chance_explains_is_alike() {
        let check = |one: Traits, other: Traits, alike: bool| {
            let pair = [one, other];
            let n_kinds = kinds(&pair, &|_| pair.to_vec()).len();
            assert_eq!(n_kinds == 1, alike, "{pair:?}");
        };
        let plain = || traits((0.0, 0.005), Some((0.0, 0.005)), None);
        check(plain(), traits((0.04, 0.005), Some((0.0, 0.005)), None), true);
        check(plain(), traits((0.1, 0.005), Some((0.0, 0.005)), None), false);
        check(plain(), traits((0.1, 0.05), Some((0.0, 0.005)), None), true);
        check(plain(), traits((0.0, 0.005), Some((0.4, 0.02)), None), false);
        check(plain(), traits((0.0, 0.005), None, None), true);
        let cached = |values| traits((0.0, 0.005), None, Some(values));
        check(cached(&[0.0, 0.1, 0.2]), cached(&[0.2, 0.1, 0.0]), false);
        check(cached(&[0.1, 0.0, 0.01]), cached(&[0.1, 0.01, 0.0]), true);
    }

    #[test]
    fn what_one_profile_does_not_fit_is_split_at_the_widest_gap() {
        let check = |off: &[Option<f64>], expected: Option<[&[usize]; 2]>| {
            let off: Vec<_> = off.iter().copied().enumerate().collect();
            let expected = expected.map(|parts| parts.map(<[usize]>::to_vec));
            assert_eq!(split(&off), expected, "{off:?}");
        };
        check(&[], None);
        check(&[None, Some(1.0)], None);
        check(&[Some(0.1), Some(-0.1), Some(0.0)], None);
        check(&[Some(0.4), Some(-0.3), None, Some(0.3)], Some([&[1], &[0, 2, 3]]));
        check(&[Some(f64::INFINITY), Some(0.3), Some(-0.3)], Some([&[2], &[0, 1]]));
    }

    #[test]
    fn a_chain_of_small_differences_is_not_one_kind() {
        let chain: Vec<Traits> =
            (0..4).map(|nth| traits((0.05 * f64::from(nth), 0.001), None, None)).collect();
        let as_before = |ats: &[usize]| ats.iter().map(|at| chain[*at].clone()).collect();
        assert_eq!(kinds(&chain, &as_before), [vec![0, 1], vec![2, 3]]);
    }

    #[test]
    fn what_only_seems_to_differ_is_alike_at_second_sight() {
        let pair = [traits((0.0, 0.001), None, None), traits((0.15, 0.001), None, None)];
        let alike = |ats: &[usize]| vec![pair[0].clone(); ats.len()];
        assert_eq!(kinds(&pair, &alike), [vec![0, 1]]);
        let far = [traits((0.0, 0.001), None, None), traits((0.5, 0.001), None, None)];
        assert_eq!(kinds(&far, &alike).len(), 2);
    }
}
