//! What was played: the head of the page, and the selectors.

use super::{View, counted, escape::html, length, listed, plot, short, thousands};
use crate::{
    origin::BUILD,
    replay::grid::{Grid, NamedPool, Requests},
};

/// The title of the page, as text.
pub(super) fn title(grid: &Grid) -> String {
    let what = match &grid.requests {
        Requests::Trace { name, .. } => name.rsplit('/').next().unwrap_or(name),
        Requests::Workload { name, .. } => name,
    };
    format!("Replay of {}", short(what))
}

/// What the page is about, and how to read it.
pub(super) fn lead(view: &View<'_>) -> String {
    let what = match &view.grid.requests {
        Requests::Trace { trace, .. } => counted(trace.requests.len(), "recorded request"),
        Requests::Workload { name, duration, .. } => {
            format!("{} of the made-up workload {}", length(*duration), html(name))
        }
    };
    let (n, seeds) = (view.names.len(), counted(view.n_seeds(), "seed"));
    let intervals = if view.n_seeds() > 1 {
        "believe a difference only where its 95 % interval (±) does not contain zero"
    } else {
        "with one seed there are no intervals, so do not choose by it"
    };
    format!(
        "{what} played against simulated model servers by the real router, with {} and {seeds}. \
         How to read it: the verdict first, then the plots; {intervals}.",
        counted(n, "configuration")
    )
}

/// The facts as a list of terms.
pub(super) fn of(view: &View<'_>) -> String {
    let grid = view.grid;
    let requests = match &grid.requests {
        Requests::Trace { name, trace } => format!(
            "{}: {}, blocks of {} tokens, arrivals moved by up to {}",
            html(name),
            counted(trace.requests.len(), "request"),
            trace.block_tokens,
            length(grid.options.jitter)
        ),
        Requests::Workload { name, duration, limit } => {
            let limit = if *limit == usize::MAX {
                String::new()
            } else {
                format!(", the first {} requests", thousands(*limit))
            };
            format!(
                "workload {}, {}{limit}, drawn anew for each seed",
                html(name),
                length(*duration)
            )
        }
    };
    let configurations: Vec<String> =
        grid.configurations.iter().map(|configuration| html(&configuration.name)).collect();
    let pools: Vec<String> = grid.pools.iter().map(pool).collect();
    let loads: Vec<String> = grid.loads.iter().map(ToString::to_string).collect();
    let seeds = match (grid.seeds.first(), grid.seeds.last()) {
        (Some(first), Some(last)) if grid.seeds.len() > 1 => {
            format!("{} ({first} to {last})", grid.seeds.len())
        }
        (Some(only), _) => format!("1 ({only})"),
        _ => String::new(),
    };
    let goals = format!(
        "first token within {}, each token after it within {}",
        length(grid.goals.ttft),
        length(grid.goals.tpot)
    );
    let commit =
        if BUILD.commit.is_empty() { String::new() } else { format!(" ({})", BUILD.commit) };
    let facts = [
        ("Requests", requests),
        ("Configurations", listed(&configurations)),
        ("Pools", pools.join("<br>")),
        ("Loads", listed(&loads)),
        ("Seeds", seeds),
        ("Goals", goals),
        ("Version", format!("llm-d-router {}{}", BUILD.version, html(&commit))),
    ];
    facts.iter().map(|(term, fact)| format!("<dt>{term}</dt><dd>{fact}</dd>\n")).collect()
}

fn pool(named: &NamedPool) -> String {
    let NamedPool { name, pool } = named;
    let scrapes = match pool.scrape.interval {
        None => "never scraped".to_owned(),
        Some(interval) if pool.scrape.delay.is_zero() => {
            format!("scraped every {}", length(interval))
        }
        Some(interval) => {
            format!("scraped every {}, {} late", length(interval), length(pool.scrape.delay))
        }
    };
    let servers = counted(pool.servers.len(), "server");
    let servers = if *name == servers { String::new() } else { format!(": {servers}") };
    let events = match pool.events.len() {
        0 => String::new(),
        n => format!(", {}", counted(n, "event")),
    };
    format!("{}{servers}{events}, {scrapes}", html(name))
}

/// The selectors of pool and load, and the configurations to show.
pub(super) fn controls(view: &View<'_>) -> String {
    let select = |id: &str, label: &str, options: Vec<String>| {
        if options.len() < 2 {
            return String::new();
        }
        let option =
            |(nth, text): (usize, &String)| format!("<option value=\"{nth}\">{text}</option>");
        let options: String = options.iter().enumerate().map(option).collect();
        format!("<label>{label} <select id=\"{id}\">{options}</select></label>")
    };
    let pools = view.pools.iter().map(|pool| html(pool)).collect();
    let loads = view.grid.loads.iter().map(ToString::to_string).collect();
    let chip = |nth: usize| {
        let (sample, name) = (plot::sample(nth), view.name(nth));
        format!(
            "<button type=\"button\" class=\"chip\" data-chip=\"{nth}\" aria-pressed=\"true\">{sample}{name}</button>"
        )
    };
    let chips: String = if view.names.len() > 1 {
        let chips: String = (0..view.names.len()).map(chip).collect();
        format!(
            "<div class=\"chips\" role=\"group\" aria-label=\"Configurations to show\"><span>Show</span>{chips}</div>"
        )
    } else {
        String::new()
    };
    [select("pool", "Pool", pools), select("load", "Load", loads), chips].concat()
}
