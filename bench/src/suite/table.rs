//! The table that the suite prints, line by line as figures come in.

use std::io::{self, Write};

use super::Verdict;
use super::budget::Judged;

/// What has been printed so far, in counts.
#[derive(Clone, Copy, Debug, Default)]
pub struct Table {
    n_within: usize,
    n_over: usize,
}

impl Table {
    /// Prints the heading.
    pub fn start(out: &mut impl Write) -> io::Result<Self> {
        line(out, ["scenario", "figure", "value", "budget", "go", ""])?;
        Ok(Self::default())
    }

    pub(super) fn add(&mut self, out: &mut impl Write, judged: &[Judged]) -> io::Result<()> {
        for Judged { scenario, figure, limit, go, verdict } in judged {
            let verdict = match verdict {
                Verdict::Within => {
                    self.n_within += 1;
                    "ok"
                }
                Verdict::Over => {
                    self.n_over += 1;
                    "OVER"
                }
                Verdict::NoBudget => "",
            };
            let limit = limit.map_or_else(String::new, |limit| limit.to_string());
            let go = go.map_or_else(String::new, short);
            line(out, [scenario, &figure.name, &short(figure.value), &limit, &go, verdict])?;
        }
        out.flush()
    }

    pub(super) fn fail(
        &mut self,
        out: &mut impl Write,
        scenario: &str,
        error: &anyhow::Error,
    ) -> io::Result<()> {
        writeln!(out, "{scenario:24} not measured: {error:#}")?;
        out.flush()
    }

    /// Prints the counts.
    pub fn end(&self, out: &mut impl Write) -> io::Result<()> {
        writeln!(out, "{} within budget, {} over", self.n_within, self.n_over)?;
        out.flush()
    }

    /// Figures over their budget so far.
    pub fn n_over(&self) -> usize {
        self.n_over
    }
}

fn line(out: &mut impl Write, cells: [&str; 6]) -> io::Result<()> {
    let [scenario, figure, value, limit, go, verdict] = cells;
    let text = format!("{scenario:24} {figure:25} {value:>10} {limit:>9} {go:>8} {verdict}");
    writeln!(out, "{}", text.trim_end())
}

/// Three significant digits, or all digits before the point.
fn short(value: f64) -> String {
    let digits_before = if value == 0.0 { 1 } else { value.abs().log10().floor() as i32 + 1 };
    let n_after = usize::try_from(3 - digits_before).unwrap_or(0).min(6);
    format!("{value:.n_after$}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::suite::{Figure, built_in};

    #[test]
    fn numbers_are_short() {
        for (value, expected) in [
            (0.0, "0.00"),
            (0.061_23, "0.0612"),
            (1.5, "1.50"),
            (98.76, "98.8"),
            (8123.4, "8123"),
            (f64::NAN, "NaN"),
        ] {
            assert_eq!(short(value), expected);
        }
    }

    #[test]
    fn each_figure_has_a_line_with_its_budget() {
        let (scenarios, budgets) = built_in().unwrap();
        let figures = vec![Figure::new("rss_mib", 40.0), Figure::new("cores", 0.01)];
        let judged = budgets.judge(scenarios.get("idle-512").unwrap(), figures);
        let mut out = Vec::new();
        let mut table = Table::start(&mut out).unwrap();
        table.add(&mut out, &judged).unwrap();
        table.fail(&mut out, "held-1MiB", &anyhow::anyhow!("no router")).unwrap();
        table.end(&mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        let lines: Vec<Vec<&str>> =
            text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(lines[1], ["idle-512", "rss_mib", "40.0", "<=", "32", "96.0", "OVER"]);
        assert_eq!(lines[2], ["idle-512", "cores", "0.0100"]);
        assert_eq!(lines[3], ["held-1MiB", "not", "measured:", "no", "router"]);
        assert_eq!(lines[4], ["0", "within", "budget,", "1", "over"]);
    }
}
