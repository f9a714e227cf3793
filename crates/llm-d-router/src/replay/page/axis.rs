//! The axes of plots: where a value stands, and which values are written beside it.

/// The most labels of an axis, so that they do not touch.
const MAX_TICKS: usize = 8;
/// The least that a logarithmic axis spans, as a factor.
const MIN_FACTOR: f64 = 4.0;

/// One axis.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Axis {
    is_log: bool,
    low: f64,
    high: f64,
    /// Where its ends are drawn.
    from: f64,
    to: f64,
}

impl Axis {
    pub(super) fn linear(low: f64, high: f64, from: f64, to: f64) -> Self {
        let high = if high > low { high } else { low + 1.0 };
        Self { is_log: false, low, high, from, to }
    }

    /// A logarithmic axis with room for these values, which are above zero.
    pub(super) fn log(low: f64, high: f64, from: f64, to: f64) -> Self {
        let low = if low.is_finite() { low.max(1e-9) } else { 1e-3 };
        let high = if high.is_finite() { high.max(low) } else { low };
        let wider = (MIN_FACTOR / (high / low)).max(1.0).sqrt();
        Self { is_log: true, low: low / wider, high: high * wider, from, to }
    }

    /// Where a value is drawn; one outside stands at the end.
    pub(super) fn at(&self, value: f64) -> f64 {
        let value = value.clamp(self.low, self.high);
        let share = if self.is_log {
            (value / self.low).ln() / (self.high / self.low).ln()
        } else {
            (value - self.low) / (self.high - self.low)
        };
        self.from + share * (self.to - self.from)
    }

    pub(super) fn high(&self) -> f64 {
        self.high
    }

    /// Values to write beside it.
    pub(super) fn ticks(&self) -> Vec<f64> {
        let ticks = if self.is_log { self.log_ticks() } else { self.linear_ticks() };
        ticks.into_iter().filter(|tick| (self.low..=self.high).contains(tick)).collect()
    }

    fn log_ticks(&self) -> Vec<f64> {
        let decades = self.low.log10().floor() as i32..=self.high.log10().ceil() as i32;
        let is_inside = |tick: &f64| (self.low..=self.high).contains(tick);
        for digits in [&[1.0, 2.0, 5.0][..], &[1.0, 3.0], &[1.0]] {
            let of_decade = |decade| digits.iter().map(move |digit| digit * 10_f64.powi(decade));
            let ticks: Vec<f64> = decades.clone().flat_map(of_decade).filter(is_inside).collect();
            if ticks.len() <= MAX_TICKS {
                return ticks;
            }
        }
        decades.step_by(2).map(|decade| 10_f64.powi(decade)).collect()
    }

    fn linear_ticks(&self) -> Vec<f64> {
        let step = nice_step((self.high - self.low) / 5.0);
        let first = (self.low / step).ceil() as i64;
        let ticks = (first..).map(|nth| nth as f64 * step);
        // A rounding error must not lose the last one.
        ticks.take_while(|tick| *tick <= self.high + step * 1e-6).take(2 * MAX_TICKS).collect()
    }
}

/// The next of 1, 2, 5, 10, … that is no less.
pub(super) fn nice_step(least: f64) -> f64 {
    let decade = 10_f64.powi(least.max(1e-12).log10().floor() as i32);
    let nice = [1.0, 2.0, 5.0].into_iter().find(|digit| digit * decade >= least);
    nice.unwrap_or(10.0) * decade
}

/// `20 ms`, `5 s`.
pub(super) fn seconds(value: f64) -> String {
    if value < 0.999_5 {
        format!("{} ms", plain(value * 1e3))
    } else {
        format!("{} s", plain(value))
    }
}

/// A time since the start of a run: `0`, `40 s`, `15 min`, `2 h`.
pub(super) fn since_start(seconds: f64) -> String {
    let shown = |value: f64, unit: &str| format!("{} {unit}", plain(value));
    match seconds {
        seconds if seconds <= 0.0 => "0".to_owned(),
        seconds if seconds < 120.0 => shown(seconds, "s"),
        seconds if seconds < 10_800.0 => shown(seconds / 60.0, "min"),
        _ => shown(seconds / 3_600.0, "h"),
    }
}

/// Without digits that say nothing.
pub(super) fn plain(value: f64) -> String {
    let text = format!("{value:.4}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_stands_where_it_belongs() {
        let axis = Axis::log(0.1, 10.0, 0.0, 200.0);
        let near = |value: f64, expected: f64| assert!((value - expected).abs() < 1e-9, "{value}");
        near(axis.at(1.0), 100.0);
        near(axis.at(0.001), 0.0);
        near(axis.at(1e9), 200.0);
        // Upwards, as plots have it.
        near(Axis::linear(0.0, 100.0, 250.0, 10.0).at(75.0), 70.0);
    }

    #[test]
    fn ticks_are_round_and_few() {
        let thirds = [1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1_000.0, 3_000.0];
        assert_eq!(Axis::log(1.0, 3_000.0, 0.0, 1.0).ticks(), thirds);
        let fifths = [0.0, 20.0, 40.0, 60.0, 80.0, 100.0];
        assert_eq!(Axis::linear(0.0, 100.0, 0.0, 1.0).ticks(), fifths);
        assert_eq!(Axis::log(1e-6, 1e6, 0.0, 1.0).ticks().len(), 7);
        for (low, high) in [(0.0, 0.0), (f64::INFINITY, f64::NEG_INFINITY), (f64::NAN, 1.0)] {
            assert!(Axis::log(low, high, 0.0, 1.0).ticks().len() <= MAX_TICKS);
        }
    }

    #[test]
    fn times_have_their_unit() {
        assert_eq!([0.02, 0.5, 1.0, 2.5].map(seconds), ["20 ms", "500 ms", "1 s", "2.5 s"]);
        let starts = [0.0, 40.0, 900.0, 7_200.0, 14_400.0].map(since_start);
        assert_eq!(starts, ["0", "40 s", "15 min", "120 min", "4 h"]);
    }
}
