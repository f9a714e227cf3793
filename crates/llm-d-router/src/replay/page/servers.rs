//! What each server had to do over time: a map for each configuration, of the first seed.

use std::time::Duration;

use router_sim::replay::summary::{Course, Summary};

use super::{
    Panel, View,
    axis::{self, Axis},
    escape::html,
    figure, plot, short, thousands,
};

/// Colours of a map beside its ground, from little to much: classes `h1` to `h8`.
const N_LEVELS: usize = 8;
/// Cells of all maps together; maps of many runs have longer steps, so that the page stays small.
const MAX_CELLS: usize = 400_000;
const LEFT: f64 = 66.0;
const RIGHT: f64 = plot::WIDTH - 10.0;
/// Height of all rows, where the rows of a few servers would be higher than `MAX_ROW_HEIGHT`.
const HEIGHT: f64 = 160.0;
const MAX_ROW_HEIGHT: f64 = 16.0;
/// Up to so many rows each has its name.
const MAX_NAMED_ROWS: usize = 12;
const MAX_ROW_NAME: usize = 9;

/// One of the two sets of maps.
struct Kind {
    id: &'static str,
    button: &'static str,
    unit: &'static str,
    counted: &'static str,
    rows: fn(&Course) -> &Vec<Vec<f32>>,
}

const KINDS: [Kind; 2] = [
    Kind {
        id: "flight",
        button: "Requests in flight",
        unit: "requests that a server has, waiting or running",
        counted: "requests",
        rows: |course| &course.in_flight,
    },
    Kind {
        id: "pending",
        button: "Prompt tokens to compute",
        unit: "prompt tokens that a server has still to compute",
        counted: "tokens",
        rows: |course| &course.pending_tokens,
    },
];

pub(super) fn figures(view: &View<'_>, panel: &Panel<'_>) -> String {
    let buttons: String = KINDS
        .iter()
        .enumerate()
        .map(|(nth, kind)| {
            format!(
                "<button type=\"button\" data-map=\"{}\" aria-pressed=\"{}\">{}</button>",
                kind.id,
                nth == 0,
                kind.button
            )
        })
        .collect();
    let seed = view.grid.seeds.first().copied().unwrap_or_default();
    let of_seeds = if view.n_seeds() > 1 {
        format!(" Shown is seed {seed}, the first of {}.", view.n_seeds())
    } else {
        String::new()
    };
    let maps: String = KINDS.iter().map(|kind| maps(view, panel, kind)).collect();
    format!(
        "<div class=\"maps\"><h3>Load per server over time</h3>\n\
         <p>Each row is a server, darker (in dark mode brighter) is more. An even picture is a balanced pool; a \
         row that stands out is a server with a queue of its own.{of_seeds}</p>\n\
         <div class=\"switch\" role=\"group\" aria-label=\"What the maps show\">{buttons}</div>\n{maps}</div>\n"
    )
}

fn maps(view: &View<'_>, panel: &Panel<'_>, kind: &Kind) -> String {
    let runs: Vec<&Summary> =
        panel.played.iter().filter_map(|played| played.summaries.first()).collect();
    let most = runs.iter().flat_map(|run| (kind.rows)(&run.course)).flatten().fold(0.0, most_of);
    let length = runs.iter().map(|run| length(run)).fold(0.0, f64::max);
    let levels = levels(f64::from(most));
    let n_cells: usize = runs.iter().map(|run| n_cells(run)).sum();
    let n_all = n_cells * KINDS.len() * view.panels.len();
    let stride = n_all.div_ceil(MAX_CELLS).max(1);
    let mut text = String::new();
    for (nth, run) in runs.iter().enumerate() {
        let rows = (kind.rows)(&run.course);
        let drawing = map(run, rows, &levels, length, stride, kind.unit);
        let busiest = rows.iter().flatten().fold(0.0, most_of);
        let most = thousands(busiest.round() as usize);
        let step = super::length(Duration::from_secs_f64(run.course.step));
        let caption =
            format!("At most {most} {} on one server, on average over {step}.", kind.counted);
        let name = view.name(nth);
        text += &figure(&format!("plot\" data-c=\"{nth}"), &name, &drawing, &caption);
    }
    format!(
        "<div class=\"map-set\" data-map=\"{}\">{}<div class=\"plots\">{text}</div></div>\n",
        kind.id,
        legend(&levels, kind.unit)
    )
}

fn most_of(a: f32, b: &f32) -> f32 {
    a.max(*b)
}

fn n_cells(run: &Summary) -> usize {
    run.course.in_flight.iter().map(Vec::len).sum()
}

/// Seconds that a run's course covers.
fn length(run: &Summary) -> f64 {
    let n_steps = run.course.in_flight.first().map_or(0, Vec::len);
    run.course.step * n_steps as f64
}

/// The least value of each colour: round values up to the largest one, as close to each other as the number of
/// colours allows.
fn levels(most: f64) -> Vec<f64> {
    const DIGITS: [&[f64]; 3] =
        [&[1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 7.0], &[1.0, 2.0, 3.0, 5.0], &[1.0, 2.0, 5.0]];
    let most = most.max(1.0);
    let decades = 0..=most.log10().floor() as i32;
    let mut levels = Vec::new();
    for digits in DIGITS {
        let of_decade = |decade| digits.iter().map(move |digit| digit * 10_f64.powi(decade));
        let all = decades.clone().flat_map(of_decade);
        levels = all.filter(|level| *level <= most).collect();
        if levels.len() <= N_LEVELS {
            break;
        }
    }
    levels.split_off(levels.len().saturating_sub(N_LEVELS))
}

fn legend(levels: &[f64], unit: &str) -> String {
    let offset = N_LEVELS - levels.len();
    let entry = |(nth, level): (usize, &f64)| {
        let class = nth + 1 + offset;
        format!("<li><i class=\"h{class}\"></i>{}+</li>", level_name(*level))
    };
    let least = levels.first().copied().unwrap_or(1.0);
    let entries: String = levels.iter().enumerate().map(entry).collect();
    format!(
        "<ul class=\"legend\"><li><i class=\"h0\"></i>below {}</li>{entries}<li>{unit}</li></ul>",
        level_name(least)
    )
}

fn level_name(level: f64) -> String {
    if level.fract() == 0.0 { thousands(level as usize) } else { axis::plain(level) }
}

/// The map of one run. Neighbours of one colour are one rectangle.
fn map(
    run: &Summary,
    rows: &[Vec<f32>],
    levels: &[f64],
    length: f64,
    stride: usize,
    unit: &str,
) -> String {
    let row_height = (HEIGHT / rows.len().max(1) as f64).min(MAX_ROW_HEIGHT);
    let height = row_height * rows.len() as f64;
    let x = Axis::linear(0.0, length.max(1e-3), LEFT, RIGHT);
    let mut paths = vec![String::new(); N_LEVELS + 1];
    let offset = N_LEVELS - levels.len();
    for (nth, row) in rows.iter().enumerate() {
        let means: Vec<f64> = row.chunks(stride).map(mean).collect();
        let level_of = |value: &f64| match levels.iter().filter(|level| *level <= value).count() {
            0 => 0,
            n => n + offset,
        };
        let of_row: Vec<usize> = means.iter().map(level_of).collect();
        let mut at = 0;
        for same in of_row.chunk_by(|a, b| a == b) {
            let level = same.first().copied().unwrap_or_default();
            if level > 0 {
                let n = same.len();
                paths[level] += &format!("M{at} {nth}h{n}v1h-{n}z");
            }
            at += same.len();
        }
    }
    let step = x.at(run.course.step * stride as f64) - LEFT;
    let cells: String = paths
        .iter()
        .enumerate()
        .filter(|(_, path)| !path.is_empty())
        .map(|(level, path)| format!("<path class=\"h{level}\" d=\"{path}\"/>"))
        .collect();
    let ground = format!(
        "<rect class=\"h0\" x=\"{LEFT}\" y=\"4\" width=\"{:.1}\" height=\"{height:.1}\"/>\
         <g class=\"cells\" transform=\"translate({LEFT} 4) scale({step:.4} {row_height:.4})\">{cells}</g>",
        RIGHT - LEFT
    );
    let label = format!("{unit}, of each server over time");
    let content = [ground, row_names(run, row_height), time_axis(&x, 4.0 + height)].concat();
    plot::svg(height + 42.0, &label, &content)
}

fn mean(values: &[f32]) -> f64 {
    values.iter().map(|value| f64::from(*value)).sum::<f64>() / values.len().max(1) as f64
}

fn row_names(run: &Summary, row_height: f64) -> String {
    let per_row = run.course.servers_per_row.max(1);
    let n_rows = run.servers.len().div_ceil(per_row);
    let named = |row: &usize| n_rows <= MAX_NAMED_ROWS || *row == 0 || *row + 1 == n_rows;
    let name = |row: usize| {
        let server = run.servers.get(row * per_row)?;
        let whole = html(&server.name);
        let n_chars = server.name.chars().count();
        let end: String = server.name.chars().skip(n_chars.saturating_sub(MAX_ROW_NAME)).collect();
        let shown = html(&if n_chars > MAX_ROW_NAME { format!("…{end}") } else { short(&end) });
        let y = 4.0 + row_height * (row as f64 + 0.5) + 3.5;
        Some(format!(
            "<text class=\"small\" x=\"{:.0}\" y=\"{y:.1}\" text-anchor=\"end\">{shown}<title>{whole}</title></text>",
            LEFT - 5.0
        ))
    };
    (0..n_rows).filter(named).filter_map(name).collect()
}

fn time_axis(x: &Axis, bottom: f64) -> String {
    let ticks = time_ticks(x);
    let tick = |seconds: &f64| {
        let (at, label) = (x.at(*seconds), axis::since_start(*seconds));
        format!(
            "<path class=\"tick\" d=\"M{at:.1} {bottom:.1}v4\"/>\
             <text class=\"small\" x=\"{at:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{label}</text>",
            bottom + 16.0
        )
    };
    let ticks: String = ticks.iter().map(tick).collect();
    format!(
        "{ticks}<text class=\"axis small\" x=\"{:.0}\" y=\"{:.1}\" text-anchor=\"middle\">time of the run</text>",
        f64::midpoint(LEFT, RIGHT),
        bottom + 33.0
    )
}

/// Every so many minutes, not every so many thousand seconds.
fn time_ticks(x: &Axis) -> Vec<f64> {
    const STEPS: [f64; 16] = [
        0.01, 0.1, 1.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 900.0, 1_800.0, 3_600.0,
        7_200.0, 14_400.0, 43_200.0,
    ];
    let length = x.high();
    let step = STEPS.into_iter().find(|step| length / step <= 5.5);
    let step = step.unwrap_or_else(|| axis::nice_step(length / 5.0));
    (0..=5).map(|nth| f64::from(nth) * step).filter(|tick| *tick <= length).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_round_and_end_at_the_largest_value() {
        assert_eq!(levels(4.2), [1.0, 1.5, 2.0, 3.0, 4.0]);
        assert_eq!(levels(31.0), [1.0, 2.0, 3.0, 5.0, 10.0, 20.0, 30.0]);
        assert_eq!(levels(100.0), [1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0]);
        assert_eq!(levels(0.0), [1.0]);
        assert_eq!(levels(2_500_000.0).len(), N_LEVELS);
        assert_eq!(levels(2_500_000.0).last(), Some(&2_000_000.0));
    }
}
