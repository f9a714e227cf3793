//! The frame of plots: axes with grid lines and labels, and the lines and marks in it.

use super::axis::Axis;

/// Width of all plots. They are scaled to the space they get; at this width text has its size in pixels.
pub(super) const WIDTH: f64 = 440.0;
pub(super) const HEIGHT: f64 = 290.0;
/// Where the area of a plot begins and ends.
pub(super) const LEFT: f64 = 48.0;
pub(super) const RIGHT: f64 = WIDTH - 14.0;
pub(super) const TOP: f64 = 12.0;
pub(super) const BOTTOM: f64 = HEIGHT - 46.0;

/// How many colours lines have; further ones are dashed.
const N_COLOURS: usize = 8;
/// Points of a line that are nearer than this are one.
const MIN_DISTANCE: f64 = 1.5;

/// What is written along an axis.
pub(super) struct Labels<'a> {
    /// HTML.
    pub(super) title: &'a str,
    /// Values that get a grid line and a label.
    pub(super) ticks: Vec<f64>,
    pub(super) tick: fn(f64) -> String,
}

/// A whole drawing of a size, with what it shows in words.
pub(super) fn svg(height: f64, label: &str, content: &str) -> String {
    format!(
        "<svg viewBox=\"0 0 {WIDTH} {height:.0}\" role=\"img\" aria-label=\"{label}\">{content}</svg>"
    )
}

/// Grid lines and labels of both axes.
pub(super) fn frame(x: &Axis, x_labels: &Labels<'_>, y: &Axis, y_labels: &Labels<'_>) -> String {
    let mut text = String::new();
    for &tick in &x_labels.ticks {
        let (at, label) = (x.at(tick), (x_labels.tick)(tick));
        text += &format!("<path class=\"grid\" d=\"M{at:.1} {TOP}V{BOTTOM}\"/>");
        text += &format!(
            "<text x=\"{at:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{label}</text>",
            BOTTOM + 16.0
        );
    }
    for &tick in &y_labels.ticks {
        let (at, label) = (y.at(tick), (y_labels.tick)(tick));
        text += &format!("<path class=\"grid\" d=\"M{LEFT} {at:.1}H{RIGHT}\"/>");
        text += &format!(
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{label}</text>",
            LEFT - 6.0,
            at + 4.0
        );
    }
    let (middle_x, middle_y) = (f64::midpoint(LEFT, RIGHT), f64::midpoint(TOP, BOTTOM));
    text += &format!(
        "<text class=\"axis\" x=\"{middle_x:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
        HEIGHT - 8.0,
        x_labels.title
    );
    text += &format!(
        "<text class=\"axis\" transform=\"translate(12 {middle_y:.1}) rotate(-90)\" text-anchor=\"middle\">{}</text>",
        y_labels.title
    );
    text
}

/// What belongs to one configuration: it is shown, hidden and coloured with it.
pub(super) fn of_configuration(nth: usize, name: &str, content: &str) -> String {
    let (colour, dash) = (nth % N_COLOURS, dash(nth));
    format!("<g data-c=\"{nth}\" class=\"c{colour} {dash}\"><title>{name}</title>{content}</g>")
}

/// A short piece of a configuration's line, with its mark, for legends.
pub(super) fn sample(nth: usize) -> String {
    let (colour, dash, mark) = (nth % N_COLOURS, dash(nth), mark(nth, 13.0, 6.0));
    format!(
        "<svg class=\"sample c{colour} {dash}\" viewBox=\"0 0 26 12\" aria-hidden=\"true\">\
         <path class=\"line\" d=\"M1 6H25\"/>{mark}</svg>"
    )
}

fn dash(nth: usize) -> &'static str {
    ["", "dashed", "dotted"][nth / N_COLOURS % 3]
}

/// A mark whose shape goes with the configuration, for eyes to which colours look alike.
pub(super) fn mark(nth: usize, x: f64, y: f64) -> String {
    let shape = match nth % 4 {
        0 => "m-4 0a4 4 0 1 0 8 0a4 4 0 1 0-8 0z",
        1 => "m-3.7-3.7h7.4v7.4h-7.4z",
        2 => "m0-5l4.8 8.4h-9.6z",
        _ => "m0-5.2l5.2 5.2l-5.2 5.2l-5.2-5.2z",
    };
    format!("<path class=\"mark\" d=\"M{x:.1} {y:.1}{shape}\"/>")
}

/// The points of a line as an SVG path, those aside that nobody could tell from the one before.
pub(super) fn path(points: &[(f64, f64)]) -> String {
    let mut text = String::new();
    let mut last: Option<(f64, f64)> = None;
    for (nth, &(x, y)) in points.iter().enumerate() {
        let is_near =
            last.is_some_and(|(last_x, last_y)| (x - last_x).hypot(y - last_y) < MIN_DISTANCE);
        if is_near && nth + 1 < points.len() {
            continue;
        }
        text += if last.is_none() { "M" } else { "L" };
        text += &format!("{x:.1} {y:.1}");
        last = Some((x, y));
    }
    text
}

/// A value with its interval, upright: whiskers from `low` to `high`.
pub(super) fn whisker(x: f64, low: f64, high: f64) -> String {
    format!(
        "<path class=\"whisker\" d=\"M{x:.1} {low:.1}V{high:.1}M{:.1} {low:.1}h6M{:.1} {high:.1}h6\"/>",
        x - 3.0,
        x - 3.0
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_has_the_points_that_can_be_told_apart() {
        let points = [(0.0, 0.0), (0.5, 0.5), (10.0, 0.0), (10.2, 0.0)];
        assert_eq!(path(&points), "M0.0 0.0L10.0 0.0L10.2 0.0");
        assert_eq!(path(&[]), "");
    }
}
