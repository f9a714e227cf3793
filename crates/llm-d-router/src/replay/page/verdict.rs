//! What came out, in plain words: which configuration did best at which load, and how sure that is.

use router_sim::replay::summary::{Estimate, Summary, measure_named, relative_difference};

use super::{Panel, View, counted, length, listed, plus_minus};
use crate::replay::columns::has_times;

/// Goodputs that differ by less are as good as equal: nobody picks a policy for one request in two hundred.
pub(super) const EQUAL_GOODPUT: f64 = 0.005;
/// The same for relative differences of times.
pub(super) const EQUAL_TIME: f64 = 0.01;

/// Who did best, and of whom it is clearly better, as the page and its manual say it.
pub(super) const BEST: &str = "the lowest TTFT p90 of those whose goodput is within half a point of the highest, and \
    that leave no more requests unserved than the others of these";
pub(super) const CLEARLY: &str = "it has more goodput or, leaving no more requests unserved, a lower TTFT p90, by more \
    than half a point or 1 %, and the interval of that difference does not contain zero";

/// Of a relative difference in %.
const MAX_DIGITS: usize = 3;
/// With fewer seeds nothing is said to be certain: one has no interval, and two say little of how far seeds differ.
const MIN_SEEDS: usize = 3;

/// Who did best in a panel. Numbers are those of configurations.
struct Winner {
    best: usize,
    /// Those that are not clearly worse.
    rivals: Vec<usize>,
}

/// In how many panels a configuration did best.
struct Wins {
    nth: usize,
    n: usize,
    /// In how many of them it is clearly better than all others.
    n_clear: usize,
}

/// The verdict as HTML: one sentence on all, and a line for each pool and load.
pub(super) fn of(view: &View<'_>) -> String {
    let lines: String = view.panels.iter().map(|panel| line(view, panel)).collect();
    let warning = if has_few_seeds(view) {
        let (seeds, was) = match view.n_seeds() {
            1 => ("One seed", "was"),
            _ => ("Two seeds", "were"),
        };
        format!(
            "<p class=\"warning\"><b>{seeds} {was} played</b>: chance has a hand in every difference below. \
             Play several (<code>--seeds 5</code>) before you decide.</p>"
        )
    } else {
        String::new()
    };
    format!(
        "<p class=\"headline\">{}</p>{warning}<ul class=\"verdict\">{lines}</ul>{}",
        headline(view),
        rule(view)
    )
}

/// Whether nothing can be said to be certain.
fn has_few_seeds(view: &View<'_>) -> bool {
    view.n_seeds() < MIN_SEEDS
}

/// A configuration that did best. Bold type is for who did so on enough seeds.
fn named(view: &View<'_>, nth: usize) -> String {
    let name = view.name(nth);
    if has_few_seeds(view) { name } else { format!("<b>{name}</b>") }
}

/// What the numbers are of and what makes the best, for who reads no further.
fn rule(view: &View<'_>) -> String {
    let goals = view.grid.goals;
    let best = match (view.names.len(), has_few_seeds(view)) {
        (1, _) => "",
        (_, true) => {
            "Best is the lowest TTFT p90 of those whose goodput is as good as the highest. "
        }
        _ => {
            "Best is the lowest TTFT p90 of those whose goodput is as good as the highest. Where nothing is clearly \
             better, more seeds (<code>--seeds</code>) may tell. "
        }
    };
    format!(
        "<p class=\"note\">Goodput: requests whose first token came within {} and whose tokens after it took {} \
         each at most. TTFT p90: nine of ten served requests had their first token by then. {best}\
         <a href=\"#words\">What the words mean</a></p>",
        length(goals.ttft),
        length(goals.tpot)
    )
}

/// Whether there is anything to judge by.
fn has_served(panel: &Panel<'_>) -> bool {
    panel.played.iter().any(|played| has_times(&played.summaries))
}

/// The configuration that did best most often; the first one where no request was served.
pub(super) fn champion(view: &View<'_>) -> usize {
    wins(view).first().map_or(0, |wins| wins.nth)
}

/// Who did best how often, most often first; those that never did are left out.
fn wins(view: &View<'_>) -> Vec<Wins> {
    let served = view.panels.iter().filter(|panel| has_served(panel));
    let winners: Vec<Winner> = served.map(Winner::of).collect();
    let mut wins: Vec<Wins> = (0..view.names.len())
        .map(|nth| {
            let of = || winners.iter().filter(move |winner| winner.best == nth);
            let n_clear = of().filter(|winner| winner.rivals.is_empty()).count();
            Wins { nth, n: of().count(), n_clear }
        })
        .filter(|wins| wins.n > 0)
        .collect();
    wins.sort_by_key(|wins| (std::cmp::Reverse(wins.n), wins.nth));
    wins
}

fn headline(view: &View<'_>) -> String {
    if view.names.len() == 1 {
        let name = view.name(0);
        return format!(
            "How <b>{name}</b> did; give another <code>--config</code> to compare it with."
        );
    }
    let (wins, n_panels) = (wins(view), view.panels.len());
    let n_served = view.panels.iter().filter(|panel| has_served(panel)).count();
    let sure = |wins: &Wins| if has_few_seeds(view) { String::new() } else { wins.certainty() };
    let best = match &wins[..] {
        [] => return "No request was served.".to_owned(),
        [only] if n_panels == 1 => {
            format!("{} did best{}.", named(view, only.nth), sure(only))
        }
        [only] => {
            let all = match n_served {
                1 => "one case".to_owned(),
                2 => "both cases".to_owned(),
                _ => format!("all {n_served} cases"),
            };
            format!("{} did best in {all}{}.", named(view, only.nth), sure(only))
        }
        _ => {
            let part =
                |wins: &Wins| format!("{} in {}{}", named(view, wins.nth), wins.n, sure(wins));
            let parts: Vec<String> = wins.iter().map(part).collect();
            format!("Of {}, these did best: {}.", counted(n_served, "case"), listed(&parts))
        }
    };
    match n_panels - n_served {
        0 => best,
        n => format!("{best} In {} no request was served.", counted(n, "more case")),
    }
}

fn line(view: &View<'_>, panel: &Panel<'_>) -> String {
    let title = super::html(&view.title(panel));
    let sentence = if !has_served(panel) {
        "no request was served; below the results it says why.".to_owned()
    } else if view.names.len() == 1 {
        alone(panel)
    } else {
        compared(view, panel, &Winner::of(panel))
    };
    format!("<li><b>{title}:</b> {sentence}</li>")
}

/// One configuration and nothing to compare it with.
fn alone(panel: &Panel<'_>) -> String {
    let Some(played) = panel.played.first() else { return String::new() };
    let of = |name| estimate(&played.summaries, name);
    let (goodput, ttft) = (of("goodput"), of("ttft_p90"));
    format!(
        "goodput {:.1} %{}, TTFT p90 {:.2} s{}.",
        goodput.mean * 100.0,
        plus_minus(goodput, 100.0, 1),
        ttft.mean,
        plus_minus(ttft, 1.0, 2)
    )
}

fn compared(view: &View<'_>, panel: &Panel<'_>, winner: &Winner) -> String {
    let Winner { best, rivals } = winner;
    // Against the first, with which all are compared, and against who comes next.
    let next = next_best(panel, *best);
    let other = if *best == 0 { next } else { 0 };
    let (Some(won), Some(base), Some(second)) =
        (panel.played.get(*best), panel.played.get(other), panel.played.get(next))
    else {
        return String::new();
    };
    let certainty = if has_few_seeds(view) {
        format!("With {} that may be chance.", counted(view.n_seeds(), "seed"))
    } else if rivals.is_empty() {
        let others = if view.names.len() > 2 { "than all others" } else { "" };
        format!("Clearly better {others}").trim().to_owned() + "."
    } else {
        let names: Vec<String> = rivals.iter().map(|&rival| view.name(rival)).collect();
        format!("Not clearly better than {}.", listed(&names))
    };
    let runner_up = match view.names.len() {
        ..=2 => String::new(),
        _ if next == other => ", the runner-up".to_owned(),
        _ => format!(
            ", and {} against {}, the runner-up",
            changes(&second.summaries, &won.summaries),
            view.name(next)
        ),
    };
    format!(
        "{} with {}: {} against {}{runner_up}. {certainty}",
        named(view, *best),
        values(&won.summaries),
        changes(&base.summaries, &won.summaries),
        view.name(other)
    )
}

/// `TTFT p90 1.66 s and goodput 98.2 %`.
fn values(won: &[Summary]) -> String {
    let goodput = format!("goodput {:.1} %", estimate(won, "goodput").mean * 100.0);
    if has_times(won) {
        format!("TTFT p90 {:.2} s and {goodput}", estimate(won, "ttft_p90").mean)
    } else {
        goodput
    }
}

/// `TTFT p90 −34 % (±5) and goodput +2.1 points (±0.4)`.
fn changes(base: &[Summary], won: &[Summary]) -> String {
    let more = difference(base, won, "goodput");
    let goodput =
        format!("goodput {} points{}", signed(more.mean * 100.0, 1), interval(more, 100.0, 1));
    let sooner = measure_named("ttft_p90").and_then(|m| relative_difference(m, base, won));
    let Some(sooner) = sooner else { return goodput };
    let digits = digits(sooner.mean);
    format!(
        "TTFT p90 {} %{} and {goodput}",
        signed(sooner.mean * 100.0, digits),
        interval(sooner, 100.0, digits)
    )
}

/// How many digits of a relative difference, in %, show that something is left: −99.7 % is not −100 %.
fn digits(difference: f64) -> usize {
    let left = difference + 1.0;
    (0..MAX_DIGITS).find(|&digits| left >= 0.01 / 10_f64.powi(digits as i32)).unwrap_or(MAX_DIGITS)
}

/// With a true minus, which is as wide as a plus.
fn signed(value: f64, digits: usize) -> String {
    format!("{value:+.digits$}").replace('-', "−")
}

fn interval(estimate: Estimate, factor: f64, digits: usize) -> String {
    let shown = |half_width: f64| format!(" (±{:.digits$})", half_width * factor);
    estimate.half_width.map(shown).unwrap_or_default()
}

fn estimate(summaries: &[Summary], name: &str) -> Estimate {
    let measure = measure_named(name);
    measure.map(|m| Estimate::of(summaries.iter().map(m.of))).unwrap_or_default()
}

fn difference(base: &[Summary], other: &[Summary], name: &str) -> Estimate {
    let Some(measure) = measure_named(name) else { return Estimate::default() };
    let pairs = base.iter().zip(other);
    Estimate::of(pairs.map(|(base, other)| (measure.of)(other) - (measure.of)(base)))
}

/// The best of all but one.
fn next_best(panel: &Panel<'_>, best: usize) -> usize {
    let others: Vec<usize> = (0..panel.played.len()).filter(|&nth| nth != best).collect();
    best_of(panel, &others).unwrap_or_default()
}

/// The configuration that [`BEST`] says. By means alone: a goodput that is far lower and cannot be told from the
/// highest, since seeds differ as much, is not as good.
fn best_of(panel: &Panel<'_>, among: &[usize]) -> Option<usize> {
    let of = |nth: usize, name| {
        panel.played.get(nth).map_or(0.0, |played| estimate(&played.summaries, name).mean)
    };
    let highest = among.iter().map(|&nth| of(nth, "goodput")).max_by(f64::total_cmp)?;
    let near = || among.iter().filter(|&&nth| highest - of(nth, "goodput") <= EQUAL_GOODPUT);
    // Who refuses more looks quicker: times are those of served requests.
    let fewest = near().map(|&nth| of(nth, "unserved")).min_by(f64::total_cmp)?;
    let serving = near().filter(|&&nth| of(nth, "unserved") - fewest <= EQUAL_GOODPUT);
    serving.copied().min_by(|&a, &b| of(a, "ttft_p90").total_cmp(&of(b, "ttft_p90")))
}

/// Whether one that did best is better than another as [`CLEARLY`] says.
fn is_clearly_better(best: &[Summary], other: &[Summary]) -> bool {
    let more = difference(other, best, "goodput");
    let has_more = more.is_clear() && more.mean > EQUAL_GOODPUT;
    let serves = difference(other, best, "unserved").mean <= EQUAL_GOODPUT;
    // As it is shown: how much less than the other's, not how much more the other's is.
    let sooner = measure_named("ttft_p90").and_then(|m| relative_difference(m, other, best));
    let is_sooner = sooner.is_some_and(|sooner| sooner.is_clear() && sooner.mean < -EQUAL_TIME);
    has_more || (serves && is_sooner)
}

// === impl Wins ===

impl Wins {
    /// ` (clearly)`, ` (not clearly)`, ` (2 clearly)`: a win that may be chance must not look like one that is not.
    fn certainty(&self) -> String {
        match self.n_clear {
            0 => " (not clearly)".to_owned(),
            n if n == self.n => " (clearly)".to_owned(),
            n => format!(" ({n} clearly)"),
        }
    }
}

// === impl Winner ===

impl Winner {
    fn of(panel: &Panel<'_>) -> Self {
        let all: Vec<usize> = (0..panel.played.len()).collect();
        let best = best_of(panel, &all).unwrap_or_default();
        let Some(won) = panel.played.get(best) else { return Self { best, rivals: Vec::new() } };
        let is_rival = |&nth: &usize| {
            let other = panel.played.get(nth).filter(|_| nth != best);
            other.is_some_and(|other| !is_clearly_better(&won.summaries, &other.summaries))
        };
        Self { best, rivals: all.iter().copied().filter(is_rival).collect() }
    }
}
