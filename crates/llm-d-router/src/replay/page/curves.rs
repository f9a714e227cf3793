//! How times to the first token and per token are spread: one line for each configuration.

use router_sim::replay::summary::{Distribution, Estimate, SHARES, Summary};

use super::{
    Panel, View,
    axis::{self, Axis},
    figure,
    plot::{self, BOTTOM, HEIGHT, LEFT, Labels, RIGHT, TOP},
};

/// Lines of many cells have fewer points, so that the page stays small.
const MAX_POINTS: usize = 40_000;
/// Bands of more lines than this would hide each other: only that of the line pointed at is shown.
const MAX_BANDS: usize = 5;
/// The smallest time that is drawn, in seconds.
const MIN_SECONDS: f64 = 1e-4;

/// One of the two plots.
struct Kind {
    heading: &'static str,
    /// HTML.
    axis: &'static str,
    tick: fn(f64) -> String,
    curve: fn(&Summary) -> &Distribution,
    /// Seconds.
    goal: f64,
}

/// A configuration's line: for each point the share of all requests and the time up to which they had it.
struct Curve {
    points: Vec<(f64, Estimate)>,
}

pub(super) fn figures(view: &View<'_>, panel: &Panel<'_>) -> String {
    let goals = view.grid.goals;
    let kinds = [
        Kind {
            heading: "Time to first token",
            axis: "time to first token, s (logarithmic)",
            tick: axis::plain,
            curve: |summary| &summary.ttft_curve,
            goal: goals.ttft.as_secs_f64(),
        },
        Kind {
            heading: "Time per token after it",
            axis: "time per token, ms (logarithmic)",
            tick: |seconds| axis::plain(seconds * 1e3),
            curve: |summary| &summary.tpot_curve,
            goal: goals.tpot.as_secs_f64(),
        },
    ];
    kinds.iter().map(|kind| one(view, panel, kind)).collect()
}

fn one(view: &View<'_>, panel: &Panel<'_>, kind: &Kind) -> String {
    let n_lines = view.panels.len() * view.names.len() * 2;
    let stride = (n_lines * SHARES.len()).div_ceil(MAX_POINTS).max(1);
    let curves: Vec<Curve> = panel
        .played
        .iter()
        .map(|played| Curve::of(&played.summaries, kind.curve, stride))
        .collect();
    let means = || curves.iter().flat_map(|curve| &curve.points).map(|(_, time)| time.mean);
    // With the goal, however fast or slow everything is.
    let low = means().filter(|&time| time > 0.0).fold(kind.goal / 1.2, f64::min).max(MIN_SECONDS);
    let high = means().fold(low, f64::max).max(kind.goal * 1.2);
    let x = Axis::log(low, high, LEFT, RIGHT);
    let y = Axis::linear(0.0, 100.0, BOTTOM, TOP);
    let mut drawing = plot::frame(
        &x,
        &Labels { title: kind.axis, ticks: x.ticks(), tick: kind.tick },
        &y,
        &Labels {
            title: "% of all requests, up to that time",
            ticks: y.ticks(),
            tick: axis::plain,
        },
    );
    drawing += &goal(&x, kind.goal);
    for (nth, curve) in curves.iter().enumerate() {
        drawing += &plot::of_configuration(nth, &view.name(nth), &curve.drawn(&x, &y));
    }
    let label = format!("{} of each configuration, cumulative", kind.heading);
    let is_crowded = view.names.len() > MAX_BANDS;
    let band = match (view.n_seeds(), is_crowded) {
        (1, _) => "",
        (_, false) => " Bands: 95 % intervals over the seeds.",
        (_, true) => {
            " Point at a configuration above, or tab to it, for its 95 % interval over the seeds."
        }
    };
    let caption = format!(
        "{}Further left is faster: where a line crosses the dashed one, so many requests were within the goal of {}.{band}",
        view.legend(),
        axis::seconds(kind.goal),
    );
    let class = if is_crowded { "plot crowded" } else { "plot" };
    figure(class, kind.heading, &plot::svg(HEIGHT, &label, &drawing), &caption)
}

fn goal(x: &Axis, seconds: f64) -> String {
    let at = x.at(seconds);
    let (anchor, label_x) =
        if at > f64::midpoint(LEFT, RIGHT) { ("end", at - 4.0) } else { ("start", at + 4.0) };
    format!(
        "<path class=\"goal\" d=\"M{at:.1} {TOP}V{BOTTOM}\"/>\
         <text class=\"goal\" x=\"{label_x:.1}\" y=\"{:.1}\" text-anchor=\"{anchor}\">goal</text>",
        BOTTOM - 6.0
    )
}

// === impl Curve ===

impl Curve {
    fn of(summaries: &[Summary], curve: fn(&Summary) -> &Distribution, stride: usize) -> Self {
        let n_runs = summaries.len().max(1) as f64;
        // A run's curve is that of requests that were served; those that were not never got there.
        let share_served = summaries.iter().map(Summary::served_share).sum::<f64>() / n_runs;
        let last = SHARES.len() - 1;
        let places = (0..=last).filter(|at| at.is_multiple_of(stride) || *at == last);
        let point = |at: usize| {
            let times = summaries.iter().filter_map(|summary| curve(summary).0.get(at).copied());
            let time = Estimate::of(times.collect::<Vec<_>>().into_iter());
            (time.n > 0).then_some((SHARES[at] * share_served, time))
        };
        Self { points: places.filter_map(point).collect() }
    }

    fn drawn(&self, x: &Axis, y: &Axis) -> String {
        let at = |of: fn(&Estimate) -> f64| {
            self.points
                .iter()
                .map(|(share, time)| (x.at(of(time)), y.at(share * 100.0)))
                .collect::<Vec<_>>()
        };
        let line = plot::path(&at(|time| time.mean));
        if line.is_empty() {
            return String::new();
        }
        let has_band = self.points.iter().any(|(_, time)| time.half_width.is_some());
        let band = if has_band {
            let (lower, upper) = (at(Estimate::lower), at(Estimate::upper));
            let outline: Vec<_> = lower.into_iter().chain(upper.into_iter().rev()).collect();
            format!("<path class=\"band\" d=\"{}z\"/>", plot::path(&outline))
        } else {
            String::new()
        };
        format!("{band}<path class=\"line\" d=\"{line}\"/>")
    }
}
