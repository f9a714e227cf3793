//! Which configuration is better, live and in replay.

use router_sim::replay::summary::{Better, Estimate, Measure, Summary, differences, measure_named};
use serde::Serialize;

/// What configurations are ranked by.
pub const RANKED: [&str; 3] = ["ttft_p90", "ttft_mean", "goodput"];
/// Times that differ by less than this share are equal.
const EQUAL_SHARE: f64 = 0.02;
/// Shares of requests that differ by less than this are equal.
const EQUAL_POINTS: f64 = 0.005;

/// Two configurations by one measure.
#[derive(Clone, Debug, Serialize)]
pub struct Ranking {
    pub measure: &'static str,
    pub one: String,
    pub other: String,
    pub live: [f64; 2],
    /// Means over the seeds.
    pub replay: [f64; 2],
    /// The other's less the one's, seed by seed.
    pub replay_difference: Estimate,
    /// The better one live; `None` where they are equal.
    pub live_better: Option<String>,
    pub replay_better: Option<String>,
    pub agrees: bool,
}

/// A configuration with its live run and its replay, one summary per seed.
pub(super) struct Ranked<'a> {
    pub(super) name: &'a str,
    pub(super) live: &'a Summary,
    pub(super) replay: &'a [Summary],
}

/// Every two configurations by every measure.
pub(super) fn rankings(all: &[Ranked<'_>]) -> Vec<Ranking> {
    let mut rankings = Vec::new();
    for (nth, one) in all.iter().enumerate() {
        for other in all.iter().skip(nth + 1) {
            let measures = RANKED.iter().filter_map(|name| measure_named(name));
            rankings.extend(measures.map(|measure| ranking(measure, one, other)));
        }
    }
    rankings
}

fn ranking(measure: &Measure, one: &Ranked<'_>, other: &Ranked<'_>) -> Ranking {
    let mean = |ranked: &Ranked<'_>| Estimate::of(ranked.replay.iter().map(measure.of)).mean;
    let live = [(measure.of)(one.live), (measure.of)(other.live)];
    let replay = [mean(one), mean(other)];
    let better = |values| {
        better(measure, values).map(|nth| if nth == 0 { one.name } else { other.name }.to_owned())
    };
    let (live_better, replay_better) = (better(live), better(replay));
    let difference = differences(one.replay, other.replay).get(measure.name).copied();
    Ranking {
        measure: measure.name,
        one: one.name.to_owned(),
        other: other.name.to_owned(),
        live,
        replay,
        replay_difference: difference.unwrap_or_default(),
        agrees: live_better == replay_better,
        live_better,
        replay_better,
    }
}

/// The place of the better value; `None` where they are equal, or nothing follows from the measure.
fn better(measure: &Measure, [one, other]: [f64; 2]) -> Option<usize> {
    let is_share = measure.name == "goodput";
    let tolerance = if is_share { EQUAL_POINTS } else { EQUAL_SHARE * one.min(other) };
    if (one - other).abs() < tolerance || one == other {
        return None;
    }
    Some(match measure.better? {
        Better::Higher => usize::from(other > one),
        Better::Lower => usize::from(other < one),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_differences_are_none() {
        let (time, share) = (measure_named("ttft_p90").unwrap(), measure_named("goodput").unwrap());
        for (measure, values, expected) in [
            (time, [1.0, 2.0], Some(0)),
            (time, [2.0, 1.0], Some(1)),
            (time, [1.0, 1.019], None),
            (time, [0.0, 0.0], None),
            (share, [0.9, 0.95], Some(1)),
            (share, [0.95, 0.9], Some(0)),
            (share, [0.95, 0.954], None),
        ] {
            assert_eq!(better(measure, values), expected, "{} {values:?}", measure.name);
        }
    }
}
