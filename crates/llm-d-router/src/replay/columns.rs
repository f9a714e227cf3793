//! How measures are shown to people: their names, units and digits, on the terminal as on the page.

use router_sim::replay::summary::{Estimate, Summary};

/// A measure as it is shown.
#[derive(Debug)]
pub(super) struct Column {
    /// What it is a number of, where several columns share that; else empty.
    pub(super) group: &'static str,
    pub(super) name: &'static str,
    /// Empty for a plain number.
    pub(super) unit: &'static str,
    /// The measure of a summary.
    pub(super) measure: &'static str,
    /// From the measure's unit to the shown one.
    pub(super) factor: f64,
    /// After the point.
    pub(super) digits: usize,
    /// Whether the table of results has it.
    pub(super) is_in_table: bool,
}

/// Every measure, in the order of tables.
pub(super) const COLUMNS: [Column; 13] = [
    column("", "goodput", "%", "goodput", 1, true),
    column("", "good requests", "/s", "good_per_second", 2, false),
    column("TTFT", "mean", "s", "ttft_mean", 3, false),
    column("TTFT", "p50", "s", "ttft_p50", 3, true),
    column("TTFT", "p90", "s", "ttft_p90", 2, true),
    column("TTFT", "p99", "s", "ttft_p99", 2, true),
    column("TPOT", "mean", "ms", "tpot_mean", 1, false),
    column("TPOT", "p50", "ms", "tpot_p50", 1, true),
    column("TPOT", "p90", "ms", "tpot_p90", 1, true),
    column("TPOT", "p99", "ms", "tpot_p99", 1, false),
    column("", "cached", "%", "cached_ratio", 1, true),
    column("", "max/mean", "", "imbalance", 2, true),
    column("", "unserved", "%", "unserved", 2, true),
];

const fn column(
    group: &'static str,
    name: &'static str,
    unit: &'static str,
    measure: &'static str,
    digits: usize,
    is_in_table: bool,
) -> Column {
    let factor = match unit.as_bytes() {
        b"%" => 100.0,
        b"ms" => 1e3,
        _ => 1.0,
    };
    Column { group, name, unit, measure, factor, digits, is_in_table }
}

/// Whether there is any request whose times could be shown.
pub(super) fn has_times(summaries: &[Summary]) -> bool {
    summaries.iter().any(|summary| summary.served_share() > 0.0)
}

/// The columns of the table of results.
pub(super) fn in_table() -> impl Iterator<Item = &'static Column> {
    COLUMNS.iter().filter(|column| column.is_in_table)
}

/// The column of a measure.
pub(super) fn of_measure(measure: &str) -> Option<&'static Column> {
    COLUMNS.iter().find(|column| column.measure == measure)
}

impl Column {
    /// A group of columns is one of times: there are none where nothing was served.
    pub(super) fn is_shown(&self, has_times: bool) -> bool {
        has_times || self.group.is_empty()
    }

    /// `1.66 ±0.12`; a difference has its sign.
    pub(super) fn shown(&self, estimate: Estimate, is_difference: bool) -> String {
        let Self { factor, digits, .. } = *self;
        let mean = estimate.mean * factor;
        let mean =
            if is_difference { format!("{mean:+.digits$}") } else { format!("{mean:.digits$}") };
        match estimate.half_width {
            Some(half_width) => format!("{mean} ±{:.digits$}", half_width * factor),
            None => mean,
        }
    }
}

#[cfg(test)]
mod tests {
    use router_sim::replay::summary::MEASURES;

    use super::*;

    #[test]
    fn every_measure_has_a_column() {
        let measures: Vec<_> = MEASURES.iter().map(|measure| measure.name).collect();
        let columns: Vec<_> = COLUMNS.iter().map(|column| column.measure).collect();
        assert_eq!(measures, columns);
    }

    #[test]
    fn numbers_have_their_unit_and_interval() {
        let check = |mean, half_width, is_difference, expected: &str| {
            let estimate = Estimate { mean, half_width, n: 3 };
            let column = of_measure("goodput").unwrap();
            assert_eq!(column.shown(estimate, is_difference), expected);
        };
        check(0.8767, Some(0.0123), false, "87.7 ±1.2");
        check(0.8767, None, false, "87.7");
        check(0.01, Some(0.02), true, "+1.0 ±2.0");
        check(-0.01, None, true, "-1.0");
    }
}
