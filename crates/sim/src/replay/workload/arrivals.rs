//! When conversations begin.

use router_rt::Rng;

/// When conversations begin, in seconds from the start of the trace; negative for those that are under way
/// when it starts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Arrival {
    pub(super) at_s: f64,
    pub(super) is_of_burst: bool,
}

/// The time that arrivals are wanted for, in seconds from the start of the trace.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Window {
    /// At most 0.
    pub(super) from_s: f64,
    pub(super) until_s: f64,
}

/// Independent arrivals at a steady rate a second.
pub(super) fn steady(rate: f64, window: Window, rng: &mut Rng) -> Vec<Arrival> {
    let mut arrivals = Vec::new();
    let mut at_s = window.from_s + rng.exponential(1.0 / rate);
    while at_s < window.until_s {
        arrivals.push(Arrival { at_s, is_of_burst: false });
        at_s += rng.exponential(1.0 / rate);
    }
    arrivals
}

/// Independent arrivals whose rate is `mean_rate` times what `shape` says of the moment, which is at most
/// `max_shape`.
pub(super) fn shaped(
    mean_rate: f64,
    max_shape: f64,
    shape: impl Fn(f64) -> f64,
    window: Window,
    rng: &mut Rng,
) -> Vec<Arrival> {
    let mut arrivals = steady(mean_rate * max_shape, window, rng);
    arrivals.retain(|arrival| rng.chance(shape(arrival.at_s) / max_shape));
    arrivals
}
