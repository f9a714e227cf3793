//! The page: classic text 0.0.4 and OpenMetrics 1.0.0, laid out as Go's client does.

use std::{fmt::Write, sync::Arc};

use super::{
    family::{ALPHA, Collect},
    number::{write_float, write_open_metrics_float},
    value::{Kind, Sample},
};

/// The two text formats.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// `text/plain; version=0.0.4`.
    Text,
    /// `application/openmetrics-text; version=1.0.0`.
    OpenMetrics,
}

/// One family as it appears on the page, under its own name or its twin's.
struct Block {
    name: &'static str,
    help: String,
    kind: Kind,
    series: Vec<(String, Sample)>,
}

// === impl Format ===

impl Format {
    /// The format that an `Accept` header asks for; classic text if it does not say.
    pub fn negotiate(accept: Option<&str>) -> Self {
        let (mut best, mut best_weight) = (Self::Text, 0.0_f32);
        for range in accept.unwrap_or_default().split(',') {
            let mut parts = range.split(';').map(str::trim);
            let media = parts.next().unwrap_or_default().to_ascii_lowercase();
            let (mut weight, mut version) = (1.0_f32, None);
            for (key, value) in parts.filter_map(|part| part.split_once('=')) {
                match key.trim() {
                    "q" => weight = value.trim().parse().unwrap_or(0.0),
                    "version" => version = Some(value.trim().trim_matches('"')),
                    _ => {}
                }
            }
            let format = match (media.as_str(), version) {
                ("application/openmetrics-text", None | Some("1.0.0" | "0.0.1")) => {
                    Self::OpenMetrics
                }
                ("text/plain", None | Some("0.0.4")) | ("text/*" | "*/*", _) => Self::Text,
                _ => continue,
            };
            if weight > best_weight {
                (best, best_weight) = (format, weight);
            }
        }
        best
    }

    /// The value of the `Content-Type` header.
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }

    fn write_value(self, out: &mut String, value: f64) {
        match self {
            Self::Text => write_float(out, value),
            Self::OpenMetrics => write_open_metrics_float(out, value),
        }
    }
}

/// Writes all families, sorted by name, twins among them.
pub(super) fn page(families: &[Arc<dyn Collect>], twins: bool, format: Format) -> String {
    let mut blocks: Vec<Block> = Vec::with_capacity(2 * families.len());
    for family in families {
        blocks.extend(blocks_of(family.as_ref(), twins));
    }
    blocks.sort_unstable_by_key(|block| block.name);
    let mut out = String::with_capacity(64 << 10);
    for block in &blocks {
        write_block(&mut out, block, format);
    }
    if format == Format::OpenMetrics {
        out.push_str("# EOF\n");
    }
    out
}

fn blocks_of(family: &dyn Collect, twins: bool) -> Vec<Block> {
    let collected = family.collect();
    if collected.is_empty() {
        return Vec::new();
    }
    let mut blocks = Vec::with_capacity(2);
    if let Some((twin, projection)) = family.twin().filter(|_| twins) {
        let all = collected.iter().map(|one| (one.values(), &one.sample));
        let series = projection
            .project(all)
            .into_iter()
            .map(|(values, sample)| (labels_text(&projection.names, values), sample))
            .collect();
        let original = family.help();
        let text = original.strip_prefix(ALPHA).unwrap_or(original);
        let help = format!("{ALPHA}[Deprecated: Use {} instead] {text}", family.name());
        blocks.push(Block { name: twin.name, help, kind: family.kind(), series });
    }
    let sorted = family.sorted();
    let names: Vec<&str> =
        sorted.iter().filter_map(|&position| family.labels().get(position).copied()).collect();
    let series = collected
        .into_iter()
        .map(|one| (labels_text(&names, one.in_order(sorted)), one.sample))
        .collect();
    let help = family.help().to_owned();
    blocks.push(Block { name: family.name(), help, kind: family.kind(), series });
    blocks
}

/// `a="x",b="y"` with values escaped.
fn labels_text<'a>(names: &[&str], values: impl IntoIterator<Item = &'a str>) -> String {
    let mut text = String::new();
    for (name, value) in names.iter().zip(values) {
        if !text.is_empty() {
            text.push(',');
        }
        text.push_str(name);
        text.push_str("=\"");
        escape(&mut text, value, true);
        text.push('"');
    }
    text
}

fn escape(out: &mut String, text: &str, quotes: bool) {
    for character in text.chars() {
        match character {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '"' if quotes => out.push_str("\\\""),
            other => out.push(other),
        }
    }
}

fn write_block(out: &mut String, block: &Block, format: Format) {
    // OpenMetrics names a counter's family without the suffix that its samples carry.
    let family_name = match (format, block.kind) {
        (Format::OpenMetrics, Kind::Counter) => {
            block.name.strip_suffix("_total").unwrap_or(block.name)
        }
        _ => block.name,
    };
    out.push_str("# HELP ");
    out.push_str(family_name);
    out.push(' ');
    escape(out, &block.help, format == Format::OpenMetrics);
    let _infallible = writeln!(out, "\n# TYPE {family_name} {}", block.kind.name());
    for (labels, sample) in &block.series {
        match sample {
            Sample::Counter(count) => match format {
                Format::Text => {
                    line(out, block.name, "", labels, |out| format.write_value(out, *count))
                }
                Format::OpenMetrics => {
                    line(out, family_name, "_total", labels, |out| format.write_value(out, *count));
                }
            },
            Sample::Gauge(value) => {
                line(out, block.name, "", labels, |out| format.write_value(out, *value));
            }
            Sample::Histogram { bounds, counts, sum } => {
                write_histogram(out, block.name, labels, (bounds.bounds(), counts, *sum), format);
            }
        }
    }
}

fn write_histogram(
    out: &mut String,
    name: &str,
    labels: &str,
    (bounds, counts, sum): (&[f64], &[u64], f64),
    format: Format,
) {
    let mut total = 0;
    let infinity = [f64::INFINITY];
    for (bound, count) in bounds.iter().chain(&infinity).zip(counts) {
        total += count;
        out.push_str(name);
        out.push_str("_bucket{");
        out.push_str(labels);
        out.push_str(if labels.is_empty() { "le=\"" } else { ",le=\"" });
        format.write_value(out, *bound);
        let _infallible = writeln!(out, "\"}} {total}");
    }
    line(out, name, "_sum", labels, |out| format.write_value(out, sum));
    line(out, name, "_count", labels, |out| {
        let _infallible = write!(out, "{total}");
    });
}

fn line(out: &mut String, name: &str, suffix: &str, labels: &str, value: impl Fn(&mut String)) {
    out.push_str(name);
    out.push_str(suffix);
    if !labels.is_empty() {
        out.push('{');
        out.push_str(labels);
        out.push('}');
    }
    out.push(' ');
    value(out);
    out.push('\n');
}
