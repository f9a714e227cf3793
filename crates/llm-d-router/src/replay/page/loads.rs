//! What a load does to a configuration: goodput, time to the first token and cached tokens over load.

use router_sim::replay::summary::{Estimate, Measure, measure_named};

use super::{
    Panel, View,
    axis::{self, Axis},
    escape::html,
    figure,
    plot::{self, BOTTOM, HEIGHT, LEFT, Labels, RIGHT, TOP, WIDTH},
};
use crate::replay::columns;

/// Points of configurations at one load stand so far apart, so that their intervals can be seen.
const DODGE: f64 = 4.0;
/// Up to so many loads each have a label.
const MAX_LOADS: usize = 8;
/// Between the names of two rows, where there is only one load.
const ROW_HEIGHT: f64 = 38.0;

/// One of the plots.
struct Kind {
    heading: &'static str,
    measure: &'static str,
    /// HTML.
    axis: &'static str,
    is_log: bool,
    tick: fn(f64) -> String,
    caption: &'static str,
}

const KINDS: [Kind; 3] = [
    Kind {
        heading: "Goodput",
        measure: "goodput",
        axis: "% of requests within the goals",
        is_log: false,
        tick: axis::plain,
        caption: "Higher is better. The scale begins near the lowest value.",
    },
    Kind {
        heading: "TTFT p90",
        measure: "ttft_p90",
        axis: "TTFT p90, s (logarithmic)",
        is_log: true,
        tick: axis::plain,
        caption: "Lower is better. Nine of ten served requests had their first token by then.",
    },
    Kind {
        heading: "Cached tokens",
        measure: "cached_ratio",
        axis: "% of prompt tokens cached",
        is_log: false,
        tick: axis::plain,
        caption: "Higher saves work, as long as no server pays for it with a queue.",
    },
];

/// A value of the plot: where its load stands and what it is, in shown units.
type Point = (f64, Estimate);

/// One section for each pool.
pub(super) fn sections(view: &View<'_>) -> String {
    (0..view.grid.pools.len()).map(|pool| section(view, pool)).collect()
}

fn section(view: &View<'_>, pool: usize) -> String {
    let mut panels: Vec<&Panel<'_>> =
        view.panels.iter().filter(|panel| panel.pool == pool).collect();
    let load_of = |panel: &Panel<'_>| view.grid.loads[panel.load];
    panels.sort_by(|a, b| load_of(a).total_cmp(&load_of(b)));
    let name = html(&view.pools[pool]);
    let (heading, what) =
        if panels.len() > 1 { ("By load", "over load") } else { ("Side by side", "of each") };
    let figures: String = KINDS.iter().map(|kind| one(view, &panels, kind, what)).collect();
    let on = if view.grid.pools.len() > 1 { format!(" on {name}") } else { String::new() };
    format!(
        "<section class=\"pool\" data-pool=\"{pool}\"><h2>{heading}{on}</h2>\n\
         <div class=\"plots\">{figures}</div></section>\n"
    )
}

fn one(view: &View<'_>, panels: &[&Panel<'_>], kind: &Kind, what: &str) -> String {
    let Some(measure) = measure_named(kind.measure) else { return String::new() };
    let factor = if kind.is_log {
        1.0
    } else {
        columns::of_measure(kind.measure).map_or(1.0, |column| column.factor)
    };
    let lines: Vec<Vec<Point>> =
        (0..view.names.len()).map(|nth| points(view, panels, nth, measure, factor)).collect();
    let bars = if view.n_seeds() > 1 {
        " Bars: 95 % intervals; what reaches the edge goes on."
    } else {
        ""
    };
    let label = format!("{} {what} configuration", kind.heading);
    let (drawing, legend) = if panels.len() > 1 {
        (over_load(view, &lines, kind, &label), view.legend())
    } else {
        (side_by_side(view, &lines, kind, &label), String::new())
    };
    let caption = format!("{legend}{}{bars}", kind.caption);
    figure("plot", kind.heading, &drawing, &caption)
}

/// The values of one configuration, by load.
fn points(
    view: &View<'_>,
    panels: &[&Panel<'_>],
    configuration: usize,
    measure: &Measure,
    factor: f64,
) -> Vec<Point> {
    let point = |panel: &&Panel<'_>| {
        let summaries = &panel.played.get(configuration)?.summaries;
        let values = summaries.iter().map(|summary| (measure.of)(summary) * factor);
        Some((view.grid.loads[panel.load], Estimate::of(values)))
    };
    panels.iter().filter_map(point).collect()
}

/// An axis with room for all values and their intervals.
fn values_axis(lines: &[Vec<Point>], kind: &Kind, from: f64, to: f64) -> Axis {
    let values = || lines.iter().flatten().map(|(_, value)| value);
    let means = || values().map(|value| value.mean);
    if kind.is_log {
        let low = means().filter(|&mean| mean > 0.0).fold(f64::INFINITY, f64::min);
        let ends = values().map(|value| value.upper().min(value.mean * 3.0));
        return Axis::log(low * 0.8, ends.fold(low, f64::max) * 1.1, from, to);
    }
    let low = values().map(|value| value.lower().max(0.0)).fold(100.0, f64::min);
    let high = values().map(|value| value.upper().min(100.0)).fold(0.0, f64::max);
    let step = axis::nice_step(((high - low) / 5.0).max(0.2));
    let (low, high) = ((low / step).floor() * step, ((high / step).ceil() * step).min(100.0));
    Axis::linear(low, if high > low { high } else { low + step }, from, to)
}

fn over_load(view: &View<'_>, lines: &[Vec<Point>], kind: &Kind, label: &str) -> String {
    let loads = || lines.iter().flatten().map(|(load, _)| *load);
    let (low, high) = (loads().fold(f64::INFINITY, f64::min), loads().fold(0.0, f64::max));
    // Room for points that stand beside each other.
    let room = DODGE * lines.len() as f64 / 2.0 + 6.0;
    let x = Axis::linear(low, high, LEFT + room, RIGHT - room);
    let y = values_axis(lines, kind, BOTTOM, TOP);
    // The loads that were played, if they fit.
    let mut ticks: Vec<f64> = loads().collect();
    ticks.sort_by(f64::total_cmp);
    ticks.dedup();
    if ticks.len() > MAX_LOADS {
        ticks = x.ticks();
    }
    let x_labels = Labels { title: "load", ticks, tick: axis::plain };
    let y_labels = Labels { title: kind.axis, ticks: y.ticks(), tick: kind.tick };
    let mut drawing = plot::frame(&x, &x_labels, &y, &y_labels);
    for (nth, line) in lines.iter().enumerate() {
        let aside = (nth as f64 - (lines.len() - 1) as f64 / 2.0) * DODGE;
        let at: Vec<(f64, f64)> =
            line.iter().map(|(load, value)| (x.at(*load) + aside, y.at(value.mean))).collect();
        let mut content = format!("<path class=\"line\" d=\"{}\"/>", plot::path(&at));
        for (&(at_x, at_y), (_, value)) in at.iter().zip(line) {
            if value.half_width.is_some() {
                content += &plot::whisker(at_x, y.at(value.lower()), y.at(value.upper()));
            }
            content += &plot::mark(nth, at_x, at_y);
        }
        drawing += &plot::of_configuration(nth, &view.name(nth), &content);
    }
    plot::svg(HEIGHT, label, &drawing)
}

/// A row for each configuration, where there is only one load.
fn side_by_side(view: &View<'_>, lines: &[Vec<Point>], kind: &Kind, label: &str) -> String {
    let bottom = ROW_HEIGHT * lines.len() as f64 + 8.0;
    let x = values_axis(lines, kind, 16.0, WIDTH - 24.0);
    let mut drawing = String::new();
    for tick in x.ticks() {
        let (at, label) = (x.at(tick), (kind.tick)(tick));
        drawing += &format!(
            "<path class=\"grid\" d=\"M{at:.1} 4V{bottom:.0}\"/>\
             <text x=\"{at:.1}\" y=\"{:.0}\" text-anchor=\"middle\">{label}</text>",
            bottom + 15.0
        );
    }
    drawing += &format!(
        "<text class=\"axis\" x=\"{:.0}\" y=\"{:.0}\" text-anchor=\"middle\">{}</text>",
        WIDTH / 2.0,
        bottom + 34.0,
        kind.axis
    );
    for (nth, line) in lines.iter().enumerate() {
        let Some((_, value)) = line.first() else { continue };
        let at_y = ROW_HEIGHT * nth as f64 + 29.0;
        let name = view.name(nth);
        let mut content =
            format!("<text class=\"name\" x=\"16\" y=\"{:.0}\">{name}</text>", at_y - 12.0);
        if value.half_width.is_some() {
            let (low, high) = (x.at(value.lower()), x.at(value.upper()));
            content += &format!(
                "<path class=\"whisker\" d=\"M{low:.1} {at_y:.0}H{high:.1}M{low:.1} {:.0}v6M{high:.1} {:.0}v6\"/>",
                at_y - 3.0,
                at_y - 3.0
            );
        }
        content += &plot::mark(nth, x.at(value.mean), at_y);
        drawing += &plot::of_configuration(nth, &name, &content);
    }
    plot::svg(bottom + 42.0, label, &drawing)
}
