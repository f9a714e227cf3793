//! A mean with its 95 % interval.

use serde::Serialize;

/// The mean of independent values and how far the true one may be from it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Estimate {
    pub mean: f64,
    /// Half of the 95 % interval by Student's t; `None` with less than two values.
    pub half_width: Option<f64>,
    /// How many values.
    pub n: usize,
}

impl Estimate {
    pub fn of(values: impl Iterator<Item = f64> + Clone) -> Self {
        let n = values.clone().count();
        if n == 0 {
            return Self::default();
        }
        let mean = values.clone().sum::<f64>() / n as f64;
        let half_width = half_width_factor(n).map(|factor| {
            let squares: f64 = values.map(|value| (value - mean).powi(2)).sum();
            factor * (squares / (n - 1) as f64).sqrt()
        });
        Self { mean, half_width, n }
    }

    /// The upper end of the interval; the mean where there is none.
    pub fn upper(&self) -> f64 {
        self.mean + self.half_width.unwrap_or_default()
    }

    /// The lower end of the interval; the mean where there is none.
    pub fn lower(&self) -> f64 {
        self.mean - self.half_width.unwrap_or_default()
    }

    /// Whether zero lies outside of the interval.
    pub fn is_clear(&self) -> bool {
        self.half_width.is_some_and(|half| self.mean.abs() > half)
    }
}

/// Half of the 95 % interval of a mean over the standard deviation of its `n` values; `None` for less than two.
pub fn half_width_factor(n: usize) -> Option<f64> {
    (n > 1).then(|| student_t(n - 1) / (n as f64).sqrt())
}

/// Quantiles 0.975 of Student's t for 1 to 30 degrees of freedom.
const STUDENT_T: [f64; 30] = [
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160,
    2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056,
    2.052, 2.048, 2.045, 2.042,
];
/// The same quantile of the normal distribution.
const NORMAL: f64 = 1.959_964;

fn student_t(degrees: usize) -> f64 {
    let tabled = degrees.checked_sub(1).and_then(|at| STUDENT_T.get(at)).copied();
    tabled.unwrap_or_else(|| {
        // The first two terms of the expansion around the normal quantile (Abramowitz and Stegun 26.7.5), right
        // to 0.001 from here on.
        let (z, n) = (NORMAL, degrees as f64);
        let first = (z.powi(3) + z) / 4.0;
        let second = (5.0 * z.powi(5) + 16.0 * z.powi(3) + 3.0 * z) / 96.0;
        z + first / n + second / (n * n)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(values: &[f64], mean: f64, half_width: Option<f64>) {
        let estimate = Estimate::of(values.iter().copied());
        assert!((estimate.mean - mean).abs() < 1e-9, "{estimate:?}");
        match (estimate.half_width, half_width) {
            (Some(got), Some(expected)) => assert!((got - expected).abs() < 1e-3, "{estimate:?}"),
            (got, expected) => assert_eq!(got, expected),
        }
    }

    #[test]
    fn intervals_are_those_of_students_t() {
        check(&[], 0.0, None);
        check(&[3.0], 3.0, None);
        check(&[1.0, 3.0], 2.0, Some(12.706));
        // Standard deviation 1, so 2.776 / sqrt(5).
        check(&[1.0, 2.0, 2.0, 2.0, 3.0], 2.0, Some(2.776 * 0.5_f64.sqrt() / 5_f64.sqrt()));
        check(&[2.0; 4], 2.0, Some(0.0));
    }

    #[test]
    fn beyond_the_table_the_quantile_goes_on_where_it_ends() {
        for (degrees, expected) in [(31, 2.040), (40, 2.021), (60, 2.000), (120, 1.980)] {
            assert!((student_t(degrees) - expected).abs() < 1e-3, "{degrees}");
        }
    }

    #[test]
    fn clear_is_what_excludes_zero() {
        assert!(Estimate { mean: -2.0, half_width: Some(1.0), n: 3 }.is_clear());
        assert!(!Estimate { mean: 0.5, half_width: Some(1.0), n: 3 }.is_clear());
        assert!(!Estimate { mean: 5.0, half_width: None, n: 1 }.is_clear());
    }
}
