//! Results for people, as Markdown, and for programs, as JSON.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use super::judge::{CellResult, Judged, Means, Results, Stale};
use super::regret::{Regret, Verdict};

/// The whole report.
pub(super) fn markdown(results: &Results) -> String {
    let mut text = String::new();
    head(&mut text, results);
    overview(&mut text, results);
    losses(&mut text, results);
    cells(&mut text, results);
    stale(&mut text, results);
    policies(&mut text, results);
    text
}

/// Writes the report, and the results as JSON beside it.
pub(super) fn write(results: &Results, text: &str, path: &Path) -> Result<()> {
    let json = serde_json::to_string_pretty(results)? + "\n";
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
    }
    for (path, text) in [(path, text), (&path.with_extension("json"), &json)] {
        fs::write(path, text).with_context(|| format!("writing {}", path.display()))?;
    }
    Ok(())
}

fn head(text: &mut String, results: &Results) {
    let Results { date, commit, machine, ours, minutes, n_played, n_known, .. } = results;
    let part = results.part.as_ref().map_or(String::new(), |part| format!(" -- --part {part}"));
    let bounds = results.bounds;
    let lines = [
        format!("# `{ours}` against every baseline, {date}\n"),
        format!("Made by `cargo xtask matrix{part}` at commit {commit} on {machine}."),
        format!(
            "{} cells of {minutes} minutes; {n_played} runs were played in {:.1} minutes, {n_known} were kept \
             from before.",
            results.cells.len(),
            results.wall / 60.0,
        ),
        if results.is_whole { String::new() } else { "This is a part of the matrix.".to_owned() },
        format!(
            "A cell's best baseline is chosen for each measure on seeds {}; regret is measured on seeds {}, seed by \
             seed.",
            shown(&results.select),
            shown(&results.judge)
        ),
        format!(
            "The upper end of its 95 % interval must be at most {} points of goodput and {} % of TTFT p90.",
            bounds.goodput_points, bounds.ttft_p90_percent
        ),
        "Times are compared by the mean of the logarithms of their ratios.".to_owned(),
        "A cell *holds* where it is, or where ours is at least as good on every seed; it *loses* where even the \
         mean is above, and is *unclear* in between."
            .to_owned(),
        stages(results),
        "*Offered* is the work of a cell as a share of what its servers can do at best, with a perfect cache."
            .to_owned(),
    ];
    for line in lines.iter().filter(|line| !line.is_empty()) {
        *text += line;
        text.push('\n');
    }
}

/// How what is not clear of its bound on the first seeds comes to its verdict.
fn stages(results: &Results) -> String {
    let Results { judge, late, judge_more, late_more, .. } = results;
    let regret = in_all(judge, judge_more);
    let has_late = results.cells.iter().any(|cell| !cell.stale.is_empty());
    let late = if has_late { in_all(&[&judge[..], late].concat(), late_more) } else { Vec::new() };
    let of_stage = |more_idx: usize| match (regret.get(more_idx), late.get(more_idx)) {
        (Some(regret), Some(late)) => format!("{regret} (of late metrics: {late})"),
        (Some(regret), None) => regret.clone(),
        (None, Some(late)) => format!("of late metrics {late}"),
        (None, None) => String::new(),
    };
    let n_more = regret.len().max(late.len());
    if n_more == 0 {
        return String::new();
    }
    let rule = |more_idx| match more_idx {
        0 => {
            "Where the upper end is above the bound, further seeds are played, both sides on each, and the verdict \
              is that of all together"
        }
        _ => "Where the bound then lies within the interval, so are more",
    };
    let lines = (0..n_more).map(|idx| format!("{}: {}.\n", rule(idx), of_stage(idx)));
    lines.collect::<Vec<_>>().concat() + "*Seeds* says on how many a verdict rests."
}

/// All seeds up to each further stage.
fn in_all(first: &[u64], more: &[Vec<u64>]) -> Vec<String> {
    let mut all = first.to_vec();
    let stages = more.iter().map(|seeds| {
        all.extend(seeds);
        format!("{} seeds, {}", all.len(), shown(&all))
    });
    stages.collect()
}

/// Seeds for people: the first and the last of three or more that follow each other.
fn shown(seeds: &[u64]) -> String {
    let follow = |run: &[u64]| run.windows(2).all(|two| two[1] == two[0].saturating_add(1));
    match seeds {
        [first, _, .., last] if follow(seeds) => format!("{first} to {last}"),
        _ => seeds.iter().map(u64::to_string).collect::<Vec<_>>().join(", "),
    }
}

/// Worst cases and how many cells hold, by measure.
fn overview(text: &mut String, results: &Results) {
    *text += "\n## In short\n\n";
    *text += "| measure | bound | hold | unclear | lose | on more seeds | worst upper end | in |\n";
    *text += "| --- | ---: | ---: | ---: | ---: | ---: | ---: | --- |\n";
    let cells = || results.cells.iter();
    let bounds = results.bounds;
    let goodput = cells().map(|cell| (cell, cell.goodput.regret, cell.goodput.first));
    let ttft = cells().map(|cell| (cell, cell.ttft_p90.regret, cell.ttft_p90.first));
    count(text, "goodput, points", bounds.goodput_points, goodput.collect());
    count(text, "TTFT p90, %", bounds.ttft_p90_percent, ttft.collect());
    let mut names: Vec<&str> = Vec::new();
    for of in cells().flat_map(|cell| of_ours(results, cell)) {
        if !names.contains(&of.scrapes.as_str()) {
            names.push(&of.scrapes);
        }
    }
    for name in names {
        let title = format!("TTFT p99 with scrapes {name}, %");
        let found = cells().filter_map(|cell| {
            let of = of_ours(results, cell).find(|of| of.scrapes == name)?;
            Some((cell, of.cost, of.first))
        });
        count(text, &title, bounds.stale_ttft_p99_percent, found.collect());
    }
}

/// A cell with its regret, and the one on the first seeds where that was not the end of it.
type Counted<'a> = (&'a CellResult, Regret, Option<Regret>);

fn count(text: &mut String, title: &str, bound: f64, cells: Vec<Counted<'_>>) {
    let n = |verdict| cells.iter().filter(|(_, regret, _)| regret.verdict == verdict).count();
    let n_again = cells.iter().filter(|(_, _, first)| first.is_some()).count();
    let worst = cells.iter().max_by(|one, other| one.1.upper.total_cmp(&other.1.upper));
    let (upper, name) =
        worst.map_or((0.0, ""), |(cell, regret, _)| (regret.upper, cell.name.as_str()));
    let (holds, unclear, loses) = (n(Verdict::Holds), n(Verdict::Unclear), n(Verdict::Loses));
    line(
        text,
        format!(
            "| {title} | {bound} | {holds} | {unclear} | {loses} | {n_again} | {upper:+.1} | {name} |"
        ),
    );
}

/// What does not hold, worst first, with the reason where one is known.
fn losses(text: &mut String, results: &Results) {
    let bounds = results.bounds;
    let mut found: Vec<(f64, String)> = Vec::new();
    let mut note = |bound: f64,
                    regret: &Regret,
                    cell: &CellResult,
                    measure: &str,
                    sides: String| {
        if regret.verdict == Verdict::Holds {
            return;
        }
        let Regret { mean, upper, n_seeds, .. } = regret;
        let (name, verdict) = (&cell.name, shown_verdict(regret));
        let reason = cell.reason.as_deref().map_or(String::new(), |why| format!("\n  {why}"));
        let line = format!(
            "- {name} {verdict} in {measure}: {mean:+.1}, up to {upper:+.1}, on {n_seeds} seeds; {sides}.{reason}"
        );
        found.push((upper / bound, line));
    };
    for cell in &results.cells {
        let Judged { baseline, best, ours, regret, .. } = &cell.goodput;
        let (best, ours) = (best * 100.0, ours * 100.0);
        let sides = format!("{ours:.3} %, {baseline} has {best:.3} %");
        note(bounds.goodput_points, regret, cell, "goodput, points", sides);
        let Judged { baseline, best, ours, regret, .. } = &cell.ttft_p90;
        let sides = format!("{ours:.3} s, {baseline} has {best:.3} s");
        note(bounds.ttft_p90_percent, regret, cell, "TTFT p90, %", sides);
        for Stale { scrapes, own, late, cost, .. } in of_ours(results, cell) {
            let sides = format!("{late:.3} s, and {own:.3} s with scrapes every 50 ms");
            let measure = format!("TTFT p99 with scrapes {scrapes}, %");
            note(bounds.stale_ttft_p99_percent, cost, cell, &measure, sides);
        }
    }
    *text += "\n## Cells that do not hold\n\n";
    if found.is_empty() {
        *text += "None.\n";
    }
    found.sort_by(|one, other| other.0.total_cmp(&one.0));
    for (_, found) in found {
        line(text, found);
    }
}

/// What late metrics cost the judged policy.
fn of_ours<'a>(results: &'a Results, cell: &'a CellResult) -> impl Iterator<Item = &'a Stale> {
    cell.stale.iter().filter(|of| of.policy == results.ours)
}

fn shown_verdict(regret: &Regret) -> &'static str {
    match regret.verdict {
        Verdict::Loses => "**loses**",
        other => other.label(),
    }
}

fn cells(text: &mut String, results: &Results) {
    *text += "\n## Cells\n\n";
    *text += "| cell | load | offered % | requests | goodput: best | % | ours % | regret | upper | seeds | | \
              TTFT p90: best | s | ours s | regret % | upper | seeds | |\n";
    *text += "| --- | ---: | ---: | ---: | --- | ---: | ---: | ---: | ---: | ---: | --- \
              | --- | ---: | ---: | ---: | ---: | ---: | --- |\n";
    for cell in &results.cells {
        let CellResult { goodput, ttft_p90, .. } = cell;
        line(
            text,
            format!(
                "| {} | {:.2} | {:.0} | {} | {} | {:.1} | {:.1} | {:+.2} | {:+.2} | {} | {} | {} | {:.3} | {:.3} | \
                 {:+.1} | {:+.1} | {} | {} |",
                cell.name,
                cell.load,
                cell.offered * 100.0,
                cell.n_requests,
                goodput.baseline,
                goodput.best * 100.0,
                goodput.ours * 100.0,
                goodput.regret.mean,
                goodput.regret.upper,
                goodput.regret.n_seeds,
                shown_verdict(&goodput.regret),
                ttft_p90.baseline,
                ttft_p90.best,
                ttft_p90.ours,
                ttft_p90.regret.mean,
                ttft_p90.regret.upper,
                ttft_p90.regret.n_seeds,
                shown_verdict(&ttft_p90.regret),
            ),
        );
    }
}

fn stale(text: &mut String, results: &Results) {
    if results.cells.iter().all(|cell| cell.stale.is_empty()) {
        return;
    }
    *text += "\n## Late metrics\n\n";
    let bound = results.bounds.stale_ttft_p99_percent;
    line(text, format!("TTFT p99 must be at most {bound} % longer than with scrapes every 50 ms."));
    let first = [&results.judge[..], &results.late].concat();
    let again = match &in_all(&first, &results.late_more)[..] {
        [] => String::new(),
        stages => {
            format!(", and where that is not clear of the bound on {}", stages.join(", or on "))
        }
    };
    line(text, format!("`{}` was played on seeds {}{again}.", results.ours, shown(&first)));
    results.notes.iter().for_each(|note| line(text, note.clone()));
    *text +=
        "\n| cell | policy | scrapes | at 50 ms s | late s | longer by % | upper | seeds | |\n";
    *text += "| --- | --- | --- | ---: | ---: | ---: | ---: | ---: | --- |\n";
    for cell in &results.cells {
        for of in &cell.stale {
            let verdict = if of.policy == results.ours { of.cost.verdict.label() } else { "" };
            line(
                text,
                format!(
                    "| {} | {} | {} | {:.3} | {:.3} | {:+.1} | {:+.1} | {} | {verdict} |",
                    cell.name,
                    of.policy,
                    of.scrapes,
                    of.own,
                    of.late,
                    of.cost.mean,
                    of.cost.upper,
                    of.cost.n_seeds,
                ),
            );
        }
    }
}

/// Every policy against the best of each cell, ours among them.
fn policies(text: &mut String, results: &Results) {
    *text += "\n## What each policy is worth everywhere\n\n";
    *text += "Against the best policy of each cell, on the seeds that select.\n\n";
    *text += "| policy | goodput points: mean | worst | in | TTFT p90 times the best: geometric mean | worst | in |\n";
    *text += "| --- | ---: | ---: | --- | ---: | ---: | --- |\n";
    let names = results.cells.first().map_or(&[][..], |cell| &cell.policies);
    let mut rows: Vec<(f64, String)> = Vec::new();
    for (at, Means { policy, .. }) in names.iter().enumerate() {
        let (points, times) = (behind(results, at, points_behind), behind(results, at, times_best));
        let n = points.len().max(1) as f64;
        let mean_points = points.iter().map(|(_, points)| points).sum::<f64>() / n;
        let mean_times = (times.iter().map(|(_, times)| times.ln()).sum::<f64>() / n).exp();
        let worst = |of: &[(&str, f64)]| {
            let worst = of.iter().max_by(|one, other| one.1.total_cmp(&other.1));
            worst.map_or_else(String::new, |(name, value)| format!("{value:.1} | {name}"))
        };
        let row = format!(
            "| {policy} | {mean_points:.2} | {} | {mean_times:.2} | {} |",
            worst(&points),
            worst(&times)
        );
        rows.push((mean_times, row));
    }
    rows.sort_by(|one, other| one.0.total_cmp(&other.0));
    for (_, row) in rows {
        line(text, row);
    }
}

/// By cell, how far a policy is behind the best.
fn behind(results: &Results, policy: usize, of: fn(&[Means], &Means) -> f64) -> Vec<(&str, f64)> {
    let of_cell = |cell: &'_ CellResult| {
        cell.policies.get(policy).map(|means| of(&cell.policies, means)).unwrap_or_default()
    };
    results.cells.iter().map(|cell| (cell.name.as_str(), of_cell(cell))).collect()
}

fn points_behind(all: &[Means], one: &Means) -> f64 {
    let best = all.iter().map(|means| means.goodput).fold(0.0, f64::max);
    (best - one.goodput) * 100.0
}

fn times_best(all: &[Means], one: &Means) -> f64 {
    let best = all.iter().map(|means| means.ttft_p90).fold(f64::INFINITY, f64::min);
    if best > 0.0 { one.ttft_p90 / best } else { 1.0 }
}

fn line(text: &mut String, line: String) {
    *text += &line;
    text.push('\n');
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::matrix::{PLAN, plan_with};

    fn regret(mean: f64, upper: f64, verdict: Verdict) -> Regret {
        Regret { mean, lower: mean, upper, n_seeds: 9, verdict }
    }

    #[test]
    fn whatever_does_not_hold_is_named_worst_first() {
        let plan = plan_with(PLAN, "").unwrap();
        let judged = |regret| Judged {
            baseline: "sticky".to_owned(),
            best: 0.5,
            ours: 0.25,
            regret,
            first: None,
        };
        let stale = |policy: &str| Stale {
            policy: policy.to_owned(),
            scrapes: "never".to_owned(),
            own: 2.0,
            late: 2.08,
            cost: regret(4.0, 9.0, Verdict::Unclear),
            first: None,
        };
        let cell = CellResult {
            name: "a/b/c".to_owned(),
            load: 1.0,
            n_requests: 1,
            offered: 0.5,
            goodput: judged(regret(25.0, 26.0, Verdict::Loses)),
            ttft_p90: judged(regret(1.0, 2.0, Verdict::Holds)),
            stale: [plan.ours(), "go-default"].map(stale).into(),
            policies: Vec::new(),
            reason: Some("A reason.".to_owned()),
        };
        let shown = |cell: &CellResult| {
            let results = Results::of(&plan, vec![cell.clone()], Duration::ZERO, (0, 0));
            let mut text = String::new();
            losses(&mut text, &results);
            text
        };
        let heading = "\n## Cells that do not hold\n\n";
        assert_eq!(
            shown(&cell),
            format!(
                "{heading}\
                 - a/b/c **loses** in goodput, points: +25.0, up to +26.0, on 9 seeds; 25.000 %, sticky has 50.000 %.\n  A reason.\n\
                 - a/b/c unclear in TTFT p99 with scrapes never, %: +4.0, up to +9.0, on 9 seeds; 2.080 s, and 2.000 s with scrapes every 50 ms.\n  A reason.\n"
            )
        );
        let holds = judged(regret(0.0, 0.0, Verdict::Holds));
        let cell = CellResult { goodput: holds, stale: vec![stale("go-default")], ..cell };
        assert_eq!(shown(&cell), format!("{heading}None.\n"));
    }
}
