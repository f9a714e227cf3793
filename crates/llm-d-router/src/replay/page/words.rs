//! What the words of the page mean.

use super::{choices, html, length, verdict};
use crate::replay::grid::{Grid, Requests};

pub(super) fn of(grid: &Grid) -> String {
    let load = match grid.requests {
        Requests::Trace { .. } => {
            "the factor by which requests of the trace come faster than they were recorded; think times stay"
        }
        Requests::Workload { .. } => {
            "the share of what the servers could do at best, estimated; sessions that outgrow the caches are past \
             capacity well below 1"
        }
    };
    let goals = format!(
        "requests whose first token came within {} and whose tokens after it took {} each at most, of all \
         requests; one that was refused counts against it",
        length(grid.goals.ttft),
        length(grid.goals.tpot)
    );
    let words = [
        ("goodput", goals.as_str()),
        (
            "TTFT",
            "time from a request's arrival until its server had the first token, of requests that were served; who \
             does not stream sees it with the last one",
        ),
        ("TPOT", "time per token after the first, of requests that were served"),
        (
            "p50, p90, p99",
            "half, 90 % and 99 % of the requests that were served were at most that slow",
        ),
        (
            "cached",
            "prompt tokens that a server had in its prefix cache, of all those of requests that were served",
        ),
        ("max/mean", "requests of the server that got most, over the mean of all: 1 is even"),
        (
            "unserved",
            "requests that the router refused, that no server took, whose server went away, or that had not ended when \
             the run was stopped",
        ),
        ("load", load),
        (
            "±",
            "half of the 95 % interval over the seeds, by Student's t; a seed moves arrivals, draws made-up \
             requests anew, and breaks ties another way",
        ),
        ("as good", "shares that differ by half a point at most, and other values by 1 %"),
        ("did best", verdict::BEST),
        ("clearly", verdict::CLEARLY),
    ];
    let words: String = words
        .iter()
        .map(|(word, about)| format!("<dt>{word}</dt><dd>{}</dd>", html(about)))
        .collect();
    format!(
        "<dl>{words}</dl><h3>Why this server?</h3>\
        <p>How the chosen server stood among all that listened, by what was true at that moment. \
        The prefix counts what a server had cached of the prompt or was just computing, in whole blocks; the load counts its requests. \
        Who shares the first place has it.</p><dl>{}</dl>\
        <p class=\"note\">Results by priority and by tenant are not on this page: the terminal and <code>--json</code> have them.</p>",
        choices::words()
    )
}
