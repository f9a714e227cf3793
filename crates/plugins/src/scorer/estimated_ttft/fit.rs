//! A line through noisy times, learned one observation at a time.

/// Seconds as a line over some work: `base + per_unit × work`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Line {
    pub(super) base: f64,
    pub(super) per_unit: f64,
}

/// Learns a [`Line`] from relative errors, with bounded surprises and with forgetting.
///
/// It works on the logarithms of both parts: an observation moves each of them by its share in what was
/// predicted, so that a time that is mostly base says little about the slope. A surprise counts up to
/// [`CLIP`] typical deviations; where several follow each other on the same side, each may count twice as much as
/// the one before. Outliers, which come alone, therefore cost little, and a lasting change, which makes every
/// observation a surprise, is followed within some twenty observations.
#[derive(Clone, Debug)]
pub(super) struct Fit {
    ln: Line,
    /// Typical size of `ln(observed / predicted)`.
    deviation: f64,
    n_observed: u32,
    /// Clipped surprises in a row; their sign is that of the last one.
    streak: i32,
    /// Bounds of the logarithms: what no model server can be, so that no lie of a clock makes this useless.
    bounds: [(f64, f64); 2],
}

/// Share of a surprise that is taken over, once there are many observations: the last thirty or so count.
const STEP: f64 = 0.06;
/// The same for the first observation.
const FIRST_STEP: f64 = 0.5;
/// Lower bound of the squared shares: a prediction that is mostly [`FLOOR`] teaches less.
const MIN_NORM: f64 = 0.1;
/// Typical deviations at which a surprise is clipped.
const CLIP: f64 = 1.2;
/// Typical deviations at which a surprise counts for the typical deviation.
const DEVIATION_CLIP: f64 = 1.5;
/// Bounds of the typical deviation.
const DEVIATION: (f64, f64) = (0.05, 1.0);
/// Surprises in a row that chance brings. From the next one on, the limit doubles.
const CHANCE_STREAK: i32 = 2;
const MAX_DOUBLINGS: i32 = 5;
/// Times are compared relative to their length plus this: a few milliseconds more or less are noise. Seconds.
const FLOOR: f64 = 0.01;
/// How far the line may go from where it began, as a factor.
const MAX_FACTOR: f64 = 1000.0;

impl Line {
    pub(super) fn at(self, work: f64) -> f64 {
        self.base + self.per_unit * work
    }

    /// The line that lies the given share of the way from `self` to `other`.
    pub(super) fn towards(self, other: Self, share: f64) -> Self {
        let mix = |a: f64, b: f64| a + (b - a) * share;
        Self { base: mix(self.base, other.base), per_unit: mix(self.per_unit, other.per_unit) }
    }
}

impl Fit {
    /// Both parts of the line it begins with must be above 0.
    pub(super) fn new(start: Line) -> Self {
        let ln = Line { base: start.base.ln(), per_unit: start.per_unit.ln() };
        let around = |ln: f64| (ln - MAX_FACTOR.ln(), ln + MAX_FACTOR.ln());
        let bounds = [around(ln.base), around(ln.per_unit)];
        Self { ln, deviation: DEVIATION.1, n_observed: 0, streak: 0, bounds }
    }

    pub(super) fn line(&self) -> Line {
        Line { base: self.ln.base.exp(), per_unit: self.ln.per_unit.exp() }
    }

    pub(super) fn n_observed(&self) -> u32 {
        self.n_observed
    }

    /// Begins at another line, as long as nothing was observed.
    pub(super) fn start_at(&mut self, line: Line) {
        if self.n_observed == 0 {
            self.ln = Line { base: line.base.ln(), per_unit: line.per_unit.ln() };
        }
    }

    /// Takes in that `work` took `seconds`. What no clock can say changes nothing.
    pub(super) fn observe(&mut self, work: f64, seconds: f64) {
        if !(work.is_finite() && seconds.is_finite() && work >= 0.0) {
            return;
        }
        let line = self.line();
        let predicted = line.at(work) + FLOOR;
        let surprise = ((seconds.max(0.0) + FLOOR) / predicted).ln();
        let bounded = self.bounded(surprise);
        self.n_observed = self.n_observed.saturating_add(1);
        let step = (FIRST_STEP / f64::from(self.n_observed).sqrt()).max(STEP);
        let shares = [line.base / predicted, line.per_unit * work / predicted];
        let norm = shares.iter().map(|share| share * share).sum::<f64>();
        let parts = [&mut self.ln.base, &mut self.ln.per_unit];
        // The floor has a share, too, from which nothing is learned.
        for ((ln, share), (low, high)) in parts.into_iter().zip(shares).zip(self.bounds) {
            *ln = (*ln + step * bounded * share / norm.max(MIN_NORM)).clamp(low, high);
        }
        let seen = surprise.abs().min(DEVIATION_CLIP * self.deviation);
        self.deviation += step * (seen - self.deviation);
        self.deviation = self.deviation.clamp(DEVIATION.0, DEVIATION.1);
    }

    fn bounded(&mut self, surprise: f64) -> f64 {
        let sign = if surprise < 0.0 { -1 } else { 1 };
        if self.streak.signum() != sign {
            self.streak = 0;
        }
        let doublings = (self.streak.abs() - CHANCE_STREAK).clamp(0, MAX_DOUBLINGS);
        let limit = CLIP * self.deviation * f64::from(1 << doublings);
        let past = surprise.abs() > CLIP * self.deviation;
        self.streak = if past { self.streak.saturating_add(sign) } else { 0 };
        surprise.clamp(-limit, limit)
    }
}

#[cfg(test)]
mod tests {
    use router_rt::Rng;

    use super::*;

    const START: Line = Line { base: 0.005, per_unit: 1.0 / 15_000.0 };

    /// A normal deviate, near enough.
    fn normal(rng: &mut Rng) -> f64 {
        (0..12).map(|_| rng.f64()).sum::<f64>() - 6.0
    }

    /// Feeds times of a true line: noisy, and with so many of them ten times as long.
    fn feed(fit: &mut Fit, rng: &mut Rng, truth: Line, outliers: f64, n: usize) {
        for _ in 0..n {
            let work = 200.0 + 12_000.0 * rng.f64();
            let mut seconds = truth.at(work) * (0.1 * normal(rng)).exp();
            if rng.chance(outliers) {
                seconds *= 10.0;
            }
            fit.observe(work, seconds);
        }
    }

    #[track_caller]
    fn assert_near(fit: &Fit, truth: Line, tolerance: f64) {
        for work in [2_000.0, 10_000.0] {
            let ratio = fit.line().at(work) / truth.at(work);
            assert!((ratio - 1.0).abs() < tolerance, "{ratio} at {work}: {:?}", fit.line());
        }
    }

    #[test]
    fn it_finds_the_true_line_under_outliers() {
        for (seed, factor) in [(1, 0.1), (2, 1.0), (3, 4.0), (4, 20.0)] {
            let truth = Line { base: 0.02, per_unit: factor * START.per_unit };
            let (mut fit, mut rng) = (Fit::new(START), Rng::seeded(seed));
            feed(&mut fit, &mut rng, truth, 0.2, 500);
            assert_near(&fit, truth, 0.25);
        }
    }

    #[test]
    fn it_follows_a_server_that_slows_down_and_recovers() {
        let (mut fit, mut rng) = (Fit::new(START), Rng::seeded(5));
        feed(&mut fit, &mut rng, START, 0.1, 500);
        assert_near(&fit, START, 0.15);
        let slow = Line { base: START.base, per_unit: 3.0 * START.per_unit };
        feed(&mut fit, &mut rng, slow, 0.1, 60);
        assert_near(&fit, slow, 0.2);
        feed(&mut fit, &mut rng, START, 0.1, 60);
        assert_near(&fit, START, 0.2);
    }

    #[test]
    fn one_absurd_time_changes_little() {
        let (mut fit, mut rng) = (Fit::new(START), Rng::seeded(6));
        feed(&mut fit, &mut rng, START, 0.0, 100);
        let before = fit.line();
        for (work, seconds) in [
            (1_000.0, 1e9),
            (1_000.0, 0.0),
            (0.0, -5.0),
            (1e18, 1.0),
            (f64::NAN, 1.0),
            (1.0, f64::NAN),
            (f64::INFINITY, 1.0),
            (1.0, f64::INFINITY),
            (-1.0, 1.0),
        ] {
            let mut fit = fit.clone();
            fit.observe(work, seconds);
            let ratio = fit.line().at(5_000.0) / before.at(5_000.0);
            assert!((0.9..1.1).contains(&ratio), "{work} {seconds}: {ratio}");
        }
    }

    #[test]
    fn it_stays_usable_whatever_it_is_told() {
        let mut fit = Fit::new(START);
        for _ in 0..100_000 {
            fit.observe(10.0, 0.0);
        }
        let line = fit.line();
        assert!(line.base > 0.0 && line.per_unit > 0.0 && line.at(1e9).is_finite(), "{line:?}");
        for _ in 0..100_000 {
            fit.observe(0.0, 1e300);
        }
        let line = fit.line();
        assert!(line.base.is_finite() && line.base <= MAX_FACTOR * START.base * 1.001, "{line:?}");
    }
}
