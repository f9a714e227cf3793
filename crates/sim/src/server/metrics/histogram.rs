//! Histograms, and the buckets that vLLM uses.

pub(super) const FIRST_TOKEN_SECONDS: &[f64] = &[
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
    20.0, 40.0, 80.0, 160.0, 640.0, 2560.0,
];
pub(super) const TOKEN_SECONDS: &[f64] = &[
    0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0,
    40.0, 80.0,
];
pub(super) const REQUEST_SECONDS: &[f64] = &[
    0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0,
    480.0, 960.0, 1920.0, 7680.0,
];

/// 1, 2, 5, 10, 20, 50, … up to `max`.
pub(super) fn one_two_five(max: u32) -> Vec<f64> {
    let decades = (0..).map(|exponent| 10_f64.powi(exponent));
    decades
        .flat_map(|decade| [decade, 2.0 * decade, 5.0 * decade])
        .take_while(|&bound| bound <= f64::from(max))
        .collect()
}

/// A histogram with fixed buckets.
#[derive(Clone, Debug)]
pub(super) struct Histogram {
    bounds: Box<[f64]>,
    /// Per bucket, not cumulative; the last one is for what exceeds all bounds.
    counts: Box<[u64]>,
    sum: f64,
}

impl Histogram {
    pub(super) fn new(bounds: &[f64]) -> Self {
        Self { bounds: bounds.into(), counts: vec![0; bounds.len() + 1].into(), sum: 0.0 }
    }

    /// Counts a value `n` times.
    pub(super) fn observe(&mut self, value: f64, n: u64) {
        let nth = self.bounds.partition_point(|&bound| bound < value);
        if let Some(count) = self.counts.get_mut(nth) {
            *count += n;
        }
        self.sum += value * n as f64;
    }

    pub(super) fn sum(&self) -> f64 {
        self.sum
    }

    /// Upper bounds (`None` is infinity) with cumulative counts.
    pub(super) fn cumulative(&self) -> impl Iterator<Item = (Option<f64>, u64)> {
        let mut total = 0;
        self.counts.iter().enumerate().map(move |(nth, count)| {
            total += count;
            (self.bounds.get(nth).copied(), total)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_fall_into_buckets_that_include_their_bound() {
        let mut histogram = Histogram::new(&[1.0, 2.0]);
        histogram.observe(1.0, 2);
        histogram.observe(1.5, 1);
        histogram.observe(9.0, 1);
        let cumulative: Vec<_> = histogram.cumulative().collect();
        assert_eq!(cumulative, [(Some(1.0), 2), (Some(2.0), 3), (None, 4)]);
        assert_eq!(histogram.sum(), 12.5);
        assert_eq!(one_two_five(1024), [1., 2., 5., 10., 20., 50., 100., 200., 500., 1000.]);
    }
}
