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
    surprises: Surprises,
    /// Bounds of the logarithms: what no model server can be, so that no lie of a clock makes this useless.
    bounds: [(f64, f64); 2],
}

/// Learns by what factor something is slower than a line, in the same way as [`Fit`].
///
/// One number needs far fewer observations than a line, and has less of their noise.
#[derive(Clone, Debug, Default)]
pub(super) struct Factor {
    ln: f64,
    surprises: Surprises,
}

/// How surprises, `ln(observed / predicted)`, were of late, and how much of the next one is believed.
#[derive(Clone, Debug)]
struct Surprises {
    /// Typical size of one.
    deviation: f64,
    n_observed: u32,
    /// Clipped ones in a row; their sign is that of the last one.
    streak: i32,
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
/// How far the line may go from where it began, as a factor: from a card for a model of 400 billion parameters to
/// one of half a billion. Beyond that lie mistakes, from which a line must find back.
const MAX_FACTOR: f64 = 50.0;
/// Share of a surprise that a [`Factor`] takes over, once there are many observations.
const FACTOR_STEP: f64 = 0.05;
/// Observations that say that a factor is 1, before there are any.
const FACTOR_PRIOR: f64 = 3.0;
/// Share of a factor's logarithm that each observation takes away: what all of them have in common belongs to the
/// line.
const FACTOR_FADE: f64 = 0.002;

impl Line {
    pub(super) fn at(self, work: f64) -> f64 {
        self.base + self.per_unit * work
    }

    /// The line of what is so many times as slow.
    pub(super) fn times(self, factor: f64) -> Self {
        Self { base: self.base * factor, per_unit: self.per_unit * factor }
    }
}

impl Fit {
    /// Both parts of the line it begins with must be above 0.
    pub(super) fn new(start: Line) -> Self {
        let ln = Line { base: start.base.ln(), per_unit: start.per_unit.ln() };
        let around = |ln: f64| (ln - MAX_FACTOR.ln(), ln + MAX_FACTOR.ln());
        let bounds = [around(ln.base), around(ln.per_unit)];
        Self { ln, surprises: Surprises::default(), bounds }
    }

    pub(super) fn line(&self) -> Line {
        Line { base: self.ln.base.exp(), per_unit: self.ln.per_unit.exp() }
    }

    /// Takes in that `work` took `seconds`; of what that is too long, the share `above` counts. What no clock can say
    /// changes nothing.
    pub(super) fn observe(&mut self, work: f64, seconds: f64, above: f64) {
        if !(work.is_finite() && seconds.is_finite() && work >= 0.0) {
            return;
        }
        let line = self.line();
        let predicted = line.at(work) + FLOOR;
        let surprise = ((seconds.max(0.0) + FLOOR) / predicted).ln();
        let believed = self.surprises.believe(surprise, above);
        let step = (FIRST_STEP / f64::from(self.surprises.n_observed).sqrt()).max(STEP);
        let shares = [line.base / predicted, line.per_unit * work / predicted];
        let norm = shares.iter().map(|share| share * share).sum::<f64>();
        let parts = [&mut self.ln.base, &mut self.ln.per_unit];
        // The floor has a share, too, from which nothing is learned.
        for ((ln, share), (low, high)) in parts.into_iter().zip(shares).zip(self.bounds) {
            *ln = (*ln + step * believed * share / norm.max(MIN_NORM)).clamp(low, high);
        }
    }
}

impl Factor {
    /// Takes in that what takes `expected` seconds at factor 1 took `seconds`; of what that is too long, the share
    /// `above` counts.
    pub(super) fn observe(&mut self, expected: f64, seconds: f64, above: f64) {
        if !(expected.is_finite() && seconds.is_finite() && expected >= 0.0) {
            return;
        }
        let own = self.value() * expected;
        let surprise = ((seconds.max(0.0) + FLOOR) / (own + FLOOR)).ln();
        let believed = self.surprises.believe(surprise, above);
        let step = (1.0 / (f64::from(self.surprises.n_observed) + FACTOR_PRIOR)).max(FACTOR_STEP);
        let ln = self.ln * (1.0 - FACTOR_FADE) + step * believed * own / (own + FLOOR);
        self.ln = ln.clamp(-MAX_FACTOR.ln(), MAX_FACTOR.ln());
    }

    pub(super) fn value(&self) -> f64 {
        self.ln.exp()
    }
}

impl Default for Surprises {
    fn default() -> Self {
        Self { deviation: DEVIATION.1, n_observed: 0, streak: 0 }
    }
}

impl Surprises {
    /// Takes one in, and gives as much of it as is believed; of one that is above 0, the share `above`.
    fn believe(&mut self, surprise: f64, above: f64) -> f64 {
        self.n_observed = self.n_observed.saturating_add(1);
        let believed = self.bounded(surprise);
        let step = (FIRST_STEP / f64::from(self.n_observed).sqrt()).max(STEP);
        let seen = surprise.abs().min(DEVIATION_CLIP * self.deviation);
        self.deviation += step * (seen - self.deviation);
        self.deviation = self.deviation.clamp(DEVIATION.0, DEVIATION.1);
        if believed > 0.0 { above * believed } else { believed }
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
            fit.observe(work, seconds, 1.0);
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
    fn a_factor_is_found_in_few_observations_and_followed() {
        let (mut factor, mut rng) = (Factor::default(), Rng::seeded(7));
        let mut feed = |truth: f64, n: usize| {
            for _ in 0..n {
                let expected = 0.05 + rng.f64();
                let outlier = if rng.chance(0.1) { 10.0 } else { 1.0 };
                let seconds = outlier * truth * expected * (0.1 * normal(&mut rng)).exp();
                factor.observe(expected, seconds, 1.0);
            }
            factor.value() / truth
        };
        for (truth, n) in [(2.0, 60), (2.0, 200), (0.5, 150), (1.0, 200)] {
            let ratio = feed(truth, n);
            assert!((0.75..1.25).contains(&ratio), "{ratio} of {truth} after {n}");
        }
        for (expected, seconds) in
            [(f64::NAN, 1.0), (1.0, f64::INFINITY), (1e300, 0.0), (-1.0, 1.0)]
        {
            factor.observe(expected, seconds, 1.0);
        }
        assert!((0.75..1.35).contains(&factor.value()), "{factor:?}");
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
            fit.observe(work, seconds, 1.0);
            let ratio = fit.line().at(5_000.0) / before.at(5_000.0);
            assert!((0.9..1.1).contains(&ratio), "{work} {seconds}: {ratio}");
        }
    }

    #[test]
    fn it_stays_usable_whatever_it_is_told() {
        let mut fit = Fit::new(START);
        for _ in 0..100_000 {
            fit.observe(10.0, 0.0, 1.0);
        }
        let line = fit.line();
        assert!(line.base > 0.0 && line.per_unit > 0.0 && line.at(1e9).is_finite(), "{line:?}");
        for _ in 0..100_000 {
            fit.observe(0.0, 1e300, 1.0);
        }
        let line = fit.line();
        assert!(line.base.is_finite() && line.base <= MAX_FACTOR * START.base * 1.001, "{line:?}");
    }
}
