//! How much worse one side of a pairing is, and where that lies with respect to its bound.

use router_sim::replay::summary::Estimate;
use serde::Serialize;

/// How much worse something is than something else, by pairs, in points or percent.
///
/// Ratios are averaged by their logarithms: of two that are equal but for chance, one is twice as long as often as
/// half as long, and that is no regret.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Regret {
    pub mean: f64,
    /// Ends of its 95 % interval.
    pub lower: f64,
    pub upper: f64,
    /// Pairs that it rests on, one for each seed.
    pub n_seeds: usize,
    pub verdict: Verdict,
}

/// Where a regret lies with respect to its bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// The whole interval is within it, or there is no regret on any seed: a baseline that is far worse on one seed
    /// and a little on the others makes the interval wide, and that is no fault of ours.
    Holds,
    /// The mean is, the upper end is not.
    Unclear,
    /// The mean is not.
    Loses,
}

/// What is compared: the difference of two shares, or the ratio of two times.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Scale {
    /// Percentage points by which a share is less.
    Points,
    /// Percent by which a time is longer; pairs without a time say nothing.
    Times,
}

// === impl Regret ===

impl Regret {
    /// Of pairs of what should be reached and what was.
    pub(super) fn of(pairs: &[(f64, f64)], scale: Scale, bound: f64) -> Self {
        match scale {
            Scale::Points => {
                let points = pairs.iter().map(|(base, share)| (base - share) * 100.0);
                Self::of_each(&points.collect::<Vec<_>>(), bound, |points| points)
            }
            Scale::Times => {
                let has_both = |&&(base, time): &&(f64, f64)| base > 0.0 && time > 0.0;
                let logs = pairs.iter().filter(has_both).map(|(base, time)| (time / base).ln());
                Self::of_each(&logs.collect::<Vec<_>>(), bound, |log| log.exp_m1() * 100.0)
            }
        }
    }

    /// `shown` grows with the regret, and is 0 where that is.
    fn of_each(regrets: &[f64], bound: f64, shown: fn(f64) -> f64) -> Self {
        let estimate = Estimate::of(regrets.iter().copied());
        let [lower, mean, upper] = [estimate.lower(), estimate.mean, estimate.upper()].map(shown);
        let verdict = if mean > bound {
            Verdict::Loses
        } else if upper <= bound || regrets.iter().all(|regret| *regret <= 0.0) {
            Verdict::Holds
        } else {
            Verdict::Unclear
        };
        Self { mean, lower, upper, n_seeds: regrets.len(), verdict }
    }
}

// === impl Verdict ===

impl Verdict {
    /// What reports call it.
    pub fn label(self) -> &'static str {
        match self {
            Self::Holds => "holds",
            Self::Unclear => "unclear",
            Self::Loses => "loses",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verdict_goes_by_the_interval_and_by_each_seed() {
        let check = |points: &[f64], expected| {
            let pairs: Vec<(f64, f64)> =
                points.iter().map(|points| (points / 100.0, 0.0)).collect();
            let regret = Regret::of(&pairs, Scale::Points, 3.0);
            assert_eq!((regret.verdict, regret.n_seeds), (expected, points.len()), "{points:?}");
        };
        check(&[0.1, 0.2, 0.3], Verdict::Holds);
        check(&[3.1, 3.1, 3.1], Verdict::Loses);
        // The mean is 2, the upper end 2 + 4.303 / sqrt(3).
        check(&[1.0, 2.0, 3.0], Verdict::Unclear);
        // Wide, but never worse.
        check(&[-16.0, -0.1, 0.0], Verdict::Holds);
        check(&[-16.0, -0.1, 0.1], Verdict::Unclear);
        check(&[2.0], Verdict::Holds);
    }

    #[test]
    fn twice_as_long_and_half_as_long_are_no_regret() {
        let of = |pairs: &[(f64, f64)]| Regret::of(pairs, Scale::Times, 5.0);
        let longer = of(&[(2.0, 3.0), (4.0, 6.0)]);
        assert!((longer.mean - 50.0).abs() < 1e-9 && (longer.upper - 50.0).abs() < 1e-9);
        assert_eq!(longer.verdict, Verdict::Loses);
        let chance = of(&[(1.0, 2.0), (2.0, 1.0)]);
        assert!(chance.mean.abs() < 1e-9 && chance.upper > 100.0, "{chance:?}");
        // The ends are as many times as long and as short.
        let ends = (1.0 + chance.lower / 100.0) * (1.0 + chance.upper / 100.0);
        assert!(chance.lower < -50.0 && (ends - 1.0).abs() < 1e-9, "{chance:?}");
        assert_eq!(chance.verdict, Verdict::Unclear);
        let (n_seeds, verdict) = (0, Verdict::Holds);
        let nothing = Regret { mean: 0.0, lower: 0.0, upper: 0.0, n_seeds, verdict };
        assert_eq!(of(&[(0.0, 1.0), (1.0, 0.0)]), nothing);
    }
}
