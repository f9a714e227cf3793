//! How values are spread: a few numbers, and the whole curve.

use std::time::Duration;

use serde::Serialize;

use super::ratio;

/// Shares at which a [`Distribution`] has its values: every hundredth, and closer at the end, where the slowest
/// requests are.
pub const SHARES: [f64; 103] = shares();

/// How values are spread.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Spread {
    pub mean: f64,
    pub p50: f64,
    pub p90: f64,
    pub p99: f64,
}

/// The value at each of [`SHARES`]; nothing where there are no values.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(transparent)]
pub struct Distribution(pub Vec<f64>);

const fn shares() -> [f64; 103] {
    let mut shares = [0.0; 103];
    let mut at = 0;
    while at < 100 {
        shares[at] = at as f64 / 100.0;
        at += 1;
    }
    shares[100] = 0.995;
    shares[101] = 0.999;
    shares[102] = 1.0;
    shares
}

/// Seconds in ascending order.
pub(super) fn sorted(values: impl Iterator<Item = Duration>) -> Vec<f64> {
    let mut values: Vec<f64> = values.map(|value| value.as_secs_f64()).collect();
    values.sort_by(f64::total_cmp);
    values
}

impl Spread {
    pub(super) fn of(sorted: &[f64]) -> Self {
        let mean = ratio(sorted.iter().sum(), sorted.len() as f64);
        let at = |share| quantile(sorted, share);
        Self { mean, p50: at(0.5), p90: at(0.9), p99: at(0.99) }
    }
}

impl Distribution {
    pub(super) fn of(sorted: &[f64]) -> Self {
        if sorted.is_empty() {
            return Self::default();
        }
        Self(SHARES.iter().map(|&share| quantile(sorted, share)).collect())
    }
}

/// The value below which a share of the sorted values lies, between two of them in proportion; 0 for none.
fn quantile(sorted: &[f64], share: f64) -> f64 {
    let rank = share * sorted.len().saturating_sub(1) as f64;
    let (low, high) = (rank.floor() as usize, rank.ceil() as usize);
    let at = |rank: usize| sorted.get(rank).copied().unwrap_or_default();
    at(low) + (at(high) - at(low)) * rank.fract()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_distribution_has_a_value_for_each_share() {
        let values: Vec<f64> = (0..=1_000).map(f64::from).collect();
        let Distribution(curve) = Distribution::of(&values);
        for (share, value) in SHARES.iter().zip(&curve) {
            assert!((share * 1_000.0 - value).abs() < 1e-6, "{share}: {value}");
        }
        assert!(SHARES.is_sorted() && curve.len() == SHARES.len());
        assert_eq!(Distribution::of(&[]), Distribution::default());
    }
}
