//! How the chosen servers stood among all: one bar for each configuration.

use router_sim::replay::{
    outcome::Choice,
    summary::{Estimate, Summary},
};

use super::{
    Panel, View,
    plot::{self, WIDTH},
    plus_minus,
};

/// Between the names of two bars.
const ROW_HEIGHT: f64 = 40.0;
const BAR_HEIGHT: f64 = 18.0;
/// Bars begin at the left edge: their names stand above them.
const START: f64 = 2.0;
const END: f64 = WIDTH - 2.0;
/// The least share whose number fits into its part of the bar.
const MIN_LABELLED: f64 = 0.08;

/// A part of the bars; its colour is `k` and its place here.
struct Kind {
    choice: Option<Choice>,
    name: &'static str,
    about: &'static str,
}

const fn kind(choice: Option<Choice>, name: &'static str, about: &'static str) -> Kind {
    Kind { choice, name, about }
}

const KINDS: [Kind; 8] = [
    kind(
        Some(Choice::Both),
        "longest prefix and least loaded",
        "the server had the most of the prompt cached, more than others, and none had fewer requests",
    ),
    kind(
        Some(Choice::LongestPrefix),
        "longest prefix",
        "it had the most of the prompt cached, more than others; another one had fewer requests",
    ),
    kind(
        Some(Choice::LeastLoaded),
        "least loaded",
        "no server had fewer requests; another one had more of the prompt cached",
    ),
    kind(
        Some(Choice::Neither),
        "neither",
        "another one had more of the prompt cached, and one had fewer requests: a compromise, or a mistake",
    ),
    kind(
        Some(Choice::AlikeLeastLoaded),
        "prefix alike, least loaded",
        "all servers had as much of the prompt cached, or as little, and none had fewer requests",
    ),
    kind(
        Some(Choice::AlikeBusier),
        "prefix alike, busier",
        "all servers had as much of the prompt cached, or as little; another one had fewer requests",
    ),
    kind(Some(Choice::Only), "only candidate", "there was no other server"),
    kind(None, "refused", "the router sent it nowhere"),
];

pub(super) fn figure(view: &View<'_>, panel: &Panel<'_>) -> String {
    let shares: Vec<Vec<Estimate>> =
        panel.played.iter().map(|played| shares(&played.summaries)).collect();
    let shown: Vec<usize> = (0..KINDS.len())
        .filter(|&kind| shares.iter().any(|of| of.get(kind).is_some_and(|share| share.mean > 0.0)))
        .collect();
    let mut drawing = String::new();
    for (nth, shares) in shares.iter().enumerate() {
        drawing += &plot::of_configuration(nth, &view.name(nth), &bar(view, nth, shares));
    }
    let height = ROW_HEIGHT * shares.len() as f64 + 4.0;
    let label = "Decisions of each configuration by how the chosen server stood";
    let legend: String = shown
        .iter()
        .map(|&at| {
            let Kind { name, about, .. } = &KINDS[at];
            format!("<li title=\"{about}\"><i class=\"k{at}\"></i>{name}</li>")
        })
        .collect();
    let caption = format!(
        "<ul class=\"legend\">{legend}</ul>What was true of all servers when the router chose, whether or not it \
         knew; <a href=\"#words\">what the words mean</a>.{}",
        table(view, &shown, &shares)
    );
    super::figure("plot", "Why this server?", &plot::svg(height, label, &drawing), &caption)
}

/// The shares of all requests, by kind.
fn shares(summaries: &[Summary]) -> Vec<Estimate> {
    let count = |summary: &Summary, kind: &Kind| match kind.choice {
        Some(choice) => summary.choices.get(choice.label()).copied().unwrap_or_default(),
        None => summary.n_requests.saturating_sub(summary.choices.values().sum()),
    };
    let share = |summary: &Summary, kind: &Kind| {
        count(summary, kind) as f64 / summary.n_requests.max(1) as f64
    };
    KINDS.iter().map(|kind| Estimate::of(summaries.iter().map(|s| share(s, kind)))).collect()
}

fn bar(view: &View<'_>, nth: usize, shares: &[Estimate]) -> String {
    let top = ROW_HEIGHT * nth as f64;
    let bar_top = top + 18.0;
    let mut text = format!(
        "<text class=\"name\" x=\"{START}\" y=\"{:.0}\">{}</text>",
        top + 13.0,
        view.name(nth)
    );
    let mut from = START;
    for (kind, share) in shares.iter().enumerate().filter(|(_, share)| share.mean > 0.0) {
        let width = share.mean * (END - START);
        let percent = format!("{:.0} %", share.mean * 100.0);
        text += &format!(
            "<rect class=\"k{kind}\" x=\"{from:.1}\" y=\"{bar_top:.0}\" width=\"{width:.1}\" height=\"{BAR_HEIGHT}\">\
             <title>{}: {percent}</title></rect>",
            KINDS[kind].name
        );
        if share.mean >= MIN_LABELLED {
            text += &format!(
                "<text class=\"on-k{kind}\" x=\"{:.1}\" y=\"{:.0}\" text-anchor=\"middle\">{percent}</text>",
                from + width / 2.0,
                bar_top + 13.5
            );
        }
        from += width;
    }
    text
}

/// The same in numbers.
fn table(view: &View<'_>, shown: &[usize], shares: &[Vec<Estimate>]) -> String {
    let head: String =
        shown.iter().map(|&kind| format!("<th scope=\"col\">{}</th>", KINDS[kind].name)).collect();
    let row = |(nth, shares): (usize, &Vec<Estimate>)| {
        let cell = |&kind: &usize| {
            let share = shares.get(kind).copied().unwrap_or_default();
            format!("<td>{:.1}{}</td>", share.mean * 100.0, plus_minus(share, 100.0, 1))
        };
        let cells: String = shown.iter().map(cell).collect();
        format!("<tr data-c=\"{nth}\"><th scope=\"row\">{}</th>{cells}</tr>", view.name(nth))
    };
    let rows: String = shares.iter().enumerate().map(row).collect();
    format!(
        "<details><summary>In numbers</summary><div class=\"scroll\" role=\"region\" aria-label=\"Decisions\" tabindex=\"0\"><table>\
         <thead><tr><th scope=\"col\" class=\"left\">% of requests</th>{head}</tr></thead><tbody>{rows}</tbody></table></div></details>"
    )
}

/// The kinds as words to look up.
pub(super) fn words() -> String {
    let word = |kind: &Kind| format!("<dt>{}</dt><dd>{}</dd>", kind.name, kind.about);
    KINDS.iter().map(word).collect()
}
