use std::{sync::Arc, time::Duration};

use router_core::Stamp;
use router_framework::Registry;
use router_sim::replay::{
    outcome::{Choice, Fate, Outcome, RequestOutcome},
    pool::Pool,
    run::{Configuration, Options},
    summary::{Cause, Goals, NotServed, Summary, Tokens},
    trace::Trace,
};
use serde_json::Value;

use super::*;
use crate::replay::grid::{Cell, NamedPool, Requests};

/// What a hostile file name could try.
const HOSTILE: &str =
    "</script><script>alert(1)</script>\"'><img src=x onerror=alert(2)>{{data}}<!--";

fn grid(configurations: &[&str], loads: &[f64], n_seeds: u64, n_servers: usize) -> Grid {
    let configuration = |name: &&str| Configuration { name: (*name).to_owned(), text: None };
    let pool = NamedPool {
        name: format!("{n_servers} servers"),
        pool: Arc::new(Pool::uniform(n_servers)),
    };
    Grid {
        requests: Requests::Trace {
            name: "a/b.jsonl".to_owned(),
            trace: Arc::new(Trace::default()),
        },
        configurations: configurations.iter().map(configuration).collect(),
        loads: loads.to_vec(),
        pools: vec![pool],
        seeds: (1..=n_seeds).collect(),
        goals: Goals::default(),
        options: Options::default(),
        registry: Registry::new([]),
    }
}

/// Results in which the time to the first token is what `ttft` says in seconds, of a configuration, load and
/// seed by their places.
fn results(grid: &Grid, ttft: impl Fn(usize, usize, usize) -> f64) -> Vec<Played> {
    let summary = |cell: &Cell, seed| {
        run(&grid.pools[cell.pool].pool, ttft(cell.configuration, cell.load, seed), grid.goals)
    };
    let played = |cell: Cell| Played {
        cell,
        summaries: (0..grid.seeds.len()).map(|seed| summary(&cell, seed)).collect(),
    };
    grid.cells().into_iter().map(played).collect()
}

/// A run of a hundred requests, one second apart, whose first tokens take up to 1.1 times as long.
fn run(pool: &Pool, ttft: f64, goals: Goals) -> Summary {
    let stamp = |seconds: f64| Stamp::from_nanos((seconds * 1e9) as u64);
    let request = |nth: u32| {
        let arrived = f64::from(nth);
        let first_token = arrived + ttft * (1.0 + f64::from(nth) / 1_000.0);
        RequestOutcome {
            fate: Fate::Served,
            obstacle: None,
            server: Some(nth % pool.servers.len() as u32),
            choice: Some(if nth < 60 { Choice::LongestPrefix } else { Choice::LeastLoaded }),
            arrived: stamp(arrived),
            sent: Some(stamp(arrived)),
            first_token: Some(stamp(first_token)),
            ended: stamp(first_token + 2.0),
            prompt_tokens: 1_000,
            cached_tokens: 500,
            output_tokens: 101,
            n_attempts: 1,
        }
    };
    let outcome = Outcome {
        requests: (0..100).map(request).collect(),
        servers: pool.servers.iter().map(|kind| Arc::clone(&kind.name)).collect(),
        decisions: 0,
        ended: stamp(110.0),
    };
    Summary::of(&outcome, goals)
}

/// Seeds that differ by a tenth of a second.
fn page(configurations: &[&str], loads: &[f64], n_seeds: u64, ttfts: &[f64]) -> String {
    let grid = grid(configurations, loads, n_seeds, 8);
    let results = results(&grid, |configuration, _, seed| ttfts[configuration] + 0.1 * seed as f64);
    of(&grid, &results).unwrap()
}

/// The data of the page, as the script gets it.
fn data_of(page: &str) -> Value {
    let (_, data) = page.split_once("<script type=\"application/json\" id=\"data\">").unwrap();
    let (data, _) = data.split_once("</script>").unwrap();
    serde_json::from_str(data).unwrap()
}

#[test]
fn the_page_has_all_its_parts_and_loads_nothing() {
    let page = page(&["go-default", "mine.yaml"], &[0.8, 1.2], 3, &[2.0, 1.0]);
    let n_of = |part: &str| page.matches(part).count();
    assert_eq!(n_of("<section class=\"panel\""), 2);
    assert_eq!(n_of("<table class=\"results\">"), 2);
    // Two curves, a bar, and two maps of two configurations for each load; three plots over load.
    assert_eq!(n_of("<figure"), 2 * (3 + 4) + 3);
    for part in ["Time to first token", "Why this server?", "By load", "TTFT p90", "id=\"compare\""]
    {
        assert!(page.contains(part), "{part}");
    }
    assert!(page.contains(" on one server, on average over 1 s."), "cells are means");
    for foreign in ["http://", "https://", "src=", "@import", "url(", "{{", "NaN", "inf"] {
        assert!(!page.replace("http-equiv", "").contains(foreign), "{foreign}");
    }
}

#[test]
fn the_script_gets_what_it_takes_differences_from() {
    let data = data_of(&page(&["go-default", "mine.yaml"], &[1.0], 3, &[2.0, 1.0]));
    assert_eq!(data["configurations"], serde_json::json!(["go-default", "mine.yaml"]));
    let at = data["measures"].as_array().unwrap().iter().position(|m| m["name"] == "TTFT p50");
    let cells = data["cells"].as_array().unwrap();
    let values = |nth: usize| cells[nth]["values"][at.unwrap()].as_array().unwrap();
    assert_eq!((cells.len(), values(0).len()), (2, 3));
    for (a, b) in values(0).iter().zip(values(1)) {
        assert!((b.as_f64().unwrap() - a.as_f64().unwrap() + 1.049_5).abs() < 1e-3, "{a} {b}");
    }
    // Student's t with two degrees of freedom, for three values.
    let factor = data["half_width_factor"].as_f64().unwrap();
    assert!((factor - 4.303 / 3_f64.sqrt()).abs() < 1e-9);
}

#[test]
fn names_cannot_break_out() {
    let mut grid = grid(&[HOSTILE, "other"], &[1.0, 2.0], 2, 8);
    let mut pool = Pool::uniform(2);
    pool.servers.iter_mut().for_each(|server| server.name = HOSTILE.into());
    let named = |pool: &Pool| NamedPool { name: HOSTILE.to_owned(), pool: Arc::new(pool.clone()) };
    grid.pools = vec![named(&pool), named(&pool)];
    let requests = [
        Requests::Trace { name: HOSTILE.to_owned(), trace: Arc::new(Trace::default()) },
        Requests::Workload {
            name: HOSTILE.to_owned(),
            duration: Duration::from_secs(1),
            limit: usize::MAX,
        },
    ];
    for requests in requests {
        grid.requests = requests;
        let results = results(&grid, |configuration, _, _| 1.0 + configuration as f64);
        let page = of(&grid, &results).unwrap();
        assert_eq!(page.matches("<script").count(), 2);
        assert_eq!(page.matches("</script").count(), 2);
        assert!(!page.contains("<img") && !page.contains("<!--"));
        assert!(page.contains("&lt;img src=x"));
        let name = data_of(&page)["configurations"][0].as_str().unwrap().to_owned();
        assert!(name.ends_with("img src=x onerror=alert(2)>{{data}}<!--"), "{name}");
    }
}

#[test]
fn the_verdict_says_who_did_best_and_how_sure_that_is() {
    let verdict = |n_seeds, ttfts: &[f64]| {
        let names = ["go-default", "mine", "third"];
        let page = page(&names[..ttfts.len()], &[1.0], n_seeds, ttfts);
        let (_, verdict) = page.split_once("<p class=\"headline\">").unwrap();
        verdict.split_once("<details").unwrap().0.to_owned()
    };
    let check = |n_seeds, ttfts: &[f64], said: &[&str]| {
        let verdict = verdict(n_seeds, ttfts);
        for said in said {
            assert!(verdict.contains(said), "{said:?} is missing in {verdict}");
        }
    };
    check(
        3,
        &[2.0, 1.0],
        &[
            "<b>mine</b> did best (clearly).",
            "<b>mine</b> with TTFT p90 1.20 s and goodput 100.0 %: TTFT p90 −48 % (±",
            " and goodput +0.0 points (±0.0) against go-default. Clearly better.",
        ],
    );
    check(
        3,
        &[1.0, 2.0, 3.0],
        &[
            "<b>go-default</b> did best",
            "against mine, the runner-up. Clearly better than all others",
        ],
    );
    check(
        3,
        &[4.0, 1.0, 1.5],
        &[
            "against go-default, and TTFT p90 −31 % (±",
            "against third, the runner-up. Clearly better",
        ],
    );
    // As good as equal.
    check(
        3,
        &[1.002, 1.0],
        &["<b>mine</b> did best (not clearly).", "Not clearly better than go-default"],
    );
    // All of its requests are too late for the goal.
    check(3, &[9.0, 2.0], &["goodput 100.0 %", "goodput +100.0 points"]);
    check(3, &[1.0], &["How <b>go-default</b> did", "goodput 100.0 %"]);
    for (n_seeds, seeds) in [(1, "One seed was played"), (2, "Two seeds were played")] {
        let chance = format!("With {} that may be chance", counted(n_seeds as usize, "seed"));
        check(n_seeds, &[2.0, 1.0], &["mine did best.", seeds, &chance]);
        let verdict = verdict(n_seeds, &[2.0, 1.0]);
        assert!(!verdict.contains("<b>mine") && !verdict.contains("learly"), "{verdict}");
    }
}

#[test]
fn what_is_called_clear_is_the_interval_that_is_shown() {
    let grid = grid(&["late", "soon"], &[1.0], 3, 8);
    // The other way round, by how much the late one is later, the interval would contain zero.
    let results = results(&grid, |nth, _, seed| if nth == 0 { 2.0 } else { [1.2, 1.4, 1.6][seed] });
    let page = of(&grid, &results).unwrap();
    for said in ["TTFT p90 −30 % (±25)", "against late. Clearly better.", "did best (clearly)"] {
        assert!(page.contains(said), "{said:?} is missing in {page}");
    }
}

#[test]
fn goodput_that_cannot_be_told_apart_is_not_as_good() {
    // Of each configuration and seed: goodput in %, TTFT p90 in s, and requests of 100 that were not served.
    type Seeds = [(f64, f64, usize)];
    let check = |seeds: &[&Seeds], said: &str| {
        let names = ["a", "b", "c"];
        let grid = grid(&names[..seeds.len()], &[1.0], seeds[0].len() as u64, 8);
        let mut results = results(&grid, |_, _, _| 1.0);
        for (played, seeds) in results.iter_mut().zip(seeds) {
            for (summary, &(goodput, ttft_p90, n_unserved)) in
                played.summaries.iter_mut().zip(*seeds)
            {
                (summary.goodput, summary.ttft.p90) = (goodput / 100.0, ttft_p90);
                let fates = [(Fate::Served, 100 - n_unserved), (Fate::Unserved, n_unserved)];
                summary.fates = fates.map(|(fate, n)| (fate.label(), n)).into();
            }
        }
        let page = of(&grid, &results).unwrap();
        let plain = page.replace("<b>", "").replace("</b>", "");
        let headline = plain.split_once("<p class=\"headline\">").unwrap().1.lines().next();
        assert!(plain.contains(said), "{said:?} is missing in {headline:?} for {seeds:?}");
    };
    let much = &[(90.0, 4.0, 0), (70.0, 4.1, 0), (60.0, 3.9, 0)];
    let less_and_sooner = &[(60.0, 1.0, 0), (60.0, 1.1, 0), (40.0, 1.0, 0)];
    for [a, b, c] in [[much; 3], [less_and_sooner; 3]] {
        check(&[a, b, c], "a did best (not clearly)");
    }
    check(&[less_and_sooner, much], "b did best (not clearly)");
    check(&[less_and_sooner, much], "Not clearly better than a.");
    check(&[&less_and_sooner[..1], &much[..1]], "b did best.");
    // Clearly better than one, not than the other.
    let little = &[(10.0, 9.0, 0), (9.0, 9.1, 0), (11.0, 9.0, 0)];
    check(&[less_and_sooner, little, much], "Not clearly better than a.");
    // As much goodput within half a point: who is sooner.
    let late = &[(90.4, 4.0, 0), (90.4, 4.1, 0), (90.4, 3.9, 0)];
    let soon = &[(90.0, 1.0, 0), (90.0, 1.1, 0), (90.0, 1.0, 0)];
    check(&[late, soon], "b did best (clearly)");
    // More goodput goes before times.
    let most = &[(92.0, 9.0, 0), (92.1, 9.0, 0), (91.9, 9.0, 0)];
    check(&[late, most, soon], "b did best (clearly)");
    // Times are of those that were served: who leaves many unserved is neither best nor clearly better by them.
    let refusing = &[(90.0, 0.5, 8), (90.0, 0.5, 8), (90.0, 0.5, 8)];
    check(&[refusing, late], "b did best (not clearly)");
    let refusing = &[(99.0, 0.5, 8), (90.0, 0.5, 8), (90.0, 0.5, 8)];
    check(&[refusing, late], "a did best (not clearly)");
}

#[test]
fn the_manual_has_the_rule_of_the_verdict() {
    let manual = include_str!("../../../../../docs/replay.md");
    for rule in [verdict::BEST, verdict::CLEARLY] {
        assert!(manual.contains(rule), "{rule:?} is not in docs/replay.md");
    }
}

#[test]
fn much_less_is_not_nothing() {
    let check = |late: f64, said: &str| {
        let grid = grid(&["late", "soon"], &[1.0], 3, 8);
        let results = results(&grid, |nth, _, seed| [late, 1.0][nth] * (1.0 + 0.01 * seed as f64));
        let page = of(&grid, &results).unwrap();
        assert!(page.contains(said), "{said:?} is missing in {page}");
    };
    check(50.0, "TTFT p90 −98 % (±0)");
    check(300.0, "TTFT p90 −99.7 % (±0.0)");
    check(3_000.0, "TTFT p90 −99.97 % (±0.00)");
}

#[test]
fn who_refuses_everything_did_not_do_best() {
    // Nobody reaches the goal.
    let grid = grid(&["late", "refuses"], &[1.0], 3, 8);
    let mut results = results(&grid, |_, _, seed| 9.0 + 0.1 * seed as f64);
    for refused in &mut results[1].summaries {
        refused.fates = [(Fate::Unserved.label(), 100)].into();
        (refused.ttft, refused.tpot) = Default::default();
    }
    let refused = results[1].summaries.clone();
    let not_served = NotServed {
        cause: Cause::CacheTooSmall,
        kind: Some("small".to_owned()),
        n_requests: 100,
        tokens: Some(Tokens { needed_tokens: 900, available_tokens: 512 }),
    };
    results[1].summaries[0].not_served = vec![not_served];
    let page = of(&grid, &results).unwrap();
    assert!(page.contains("<b>late</b> did best"), "{page}");
    let said =
        "refuses at load 1: 100 of 300 requests were not served, because a `small` has 512 tokens";
    assert!(page.contains(said), "{page}");
    let (_, row) = page.split_once("<th scope=\"row\">refuses</th>").unwrap();
    let cells: Vec<&str> = row.split("<td").skip(1).take(6).collect();
    assert!(
        cells[1..].iter().all(|cell| cell.starts_with(">-<")),
        "no times of nothing: {cells:?}"
    );

    results.iter_mut().for_each(|played| played.summaries.clone_from(&refused));
    let page = of(&grid, &results).unwrap();
    assert!(page.contains("<p class=\"headline\">No request was served.</p>"), "{page}");
    assert!(page.contains("no request was served; below"), "{page}");

    let headline = |loads: &[f64], n_served: usize| {
        let grid = Grid { loads: loads.to_vec(), ..grid.clone() };
        let is_served = |cell: Cell| cell.load < n_served;
        let mut results = self::results(&grid, |configuration, _, _| 2.0 - configuration as f64);
        for played in results.iter_mut().filter(|played| !is_served(played.cell)) {
            played.summaries.clone_from(&refused);
        }
        let page = of(&grid, &results).unwrap();
        let (_, headline) = page.split_once("<p class=\"headline\">").unwrap();
        headline.split_once("</p>").unwrap().0.to_owned()
    };
    let refuses = "<b>refuses</b> did best in";
    let of_one = format!("{refuses} one case (clearly). In 1 more case no request was served.");
    assert_eq!(headline(&[1.0, 2.0], 1), of_one);
    let of_two = format!("{refuses} both cases (clearly). In 2 more cases no request was served.");
    assert_eq!(headline(&[1.0, 2.0, 3.0, 4.0], 2), of_two);
}

#[test]
fn the_goal_stands_where_it_is_when_all_are_slower() {
    for (ttft, is_left) in [(0.01, false), (500.0, true)] {
        let page = page(&["only"], &[1.0], 1, &[ttft]);
        let (_, goal) = page.split_once("<path class=\"goal\" d=\"M").unwrap();
        let at: f64 = goal.split_once('V').unwrap().0.split(' ').next().unwrap().parse().unwrap();
        assert!(at > plot::LEFT + 1.0 && at < plot::RIGHT - 1.0, "{at}");
        assert_eq!(at < f64::midpoint(plot::LEFT, plot::RIGHT), is_left, "{ttft} s: {at}");
    }
}

#[test]
fn each_column_says_what_it_is_of_and_its_unit() {
    let page = page(&["only"], &[1.0], 3, &[1.0]);
    for head in ["goodput, %", "TTFT<br>p50, s", "TTFT<br>p99, s", "TPOT<br>p90, ms", "max/mean"] {
        assert!(page.contains(&format!("<th scope=\"col\">{head}</th>")), "{head}");
    }
}

#[test]
fn bold_is_the_best_and_what_is_as_good() {
    let page = page(&["late", "first", "as-good"], &[1.0], 3, &[2.0, 1.0, 1.001]);
    let (_, rows) = page.split_once("<tbody>").unwrap();
    let is_bold = |row: &str| row.split("<td").nth(2).is_some_and(|cell| cell.contains("best"));
    let bold: Vec<_> = rows.split("<tr").skip(1).take(3).map(is_bold).collect();
    assert_eq!(bold, [false, true, true], "TTFT p50 in {rows}");
}

#[test]
fn one_seed_has_no_intervals() {
    let page = page(&["a", "b"], &[1.0, 2.0], 1, &[2.0, 1.0]);
    assert!(page.contains("One seed: how far chance has a hand in it cannot be told."));
    assert!(!page.contains("class=\"band\"") && !page.contains("class=\"whisker\""));
    assert!(data_of(&page)["half_width_factor"].is_null());
}

#[test]
fn a_page_of_many_runs_stays_small() {
    let names: Vec<String> = (0..24).map(|nth| format!("configuration-{nth}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let grid = grid(&names, &[0.5, 0.8, 1.0, 1.2], 1, 300);
    let summary = run(&grid.pools[0].pool, 2.0, grid.goals);
    let played = |cell| Played { cell, summaries: vec![summary.clone(); 3] };
    let results: Vec<Played> = grid.cells().into_iter().map(played).collect();
    let page = of(&grid, &results).unwrap();
    assert!(page.len() < 8 << 20, "{} bytes", page.len());
}

#[test]
fn long_paths_are_shown_by_their_end() {
    assert_eq!(short_names(&["a/x.yaml", "b/y.yaml", "sticky"]), ["x.yaml", "y.yaml", "sticky"]);
    assert_eq!(short_names(&["a/x.yaml", "b/x.yaml"]), ["a/x.yaml", "b/x.yaml"]);
    let long = "long/".repeat(20) + "é.yaml";
    let short = short(&long);
    assert!(short.chars().count() == MAX_NAME && short.ends_with("é.yaml"), "{short}");
}

#[test]
fn words_for_numbers() {
    assert_eq!([0, 999, 12_031, 1_000_000].map(thousands), ["0", "999", "12,031", "1,000,000"]);
    assert_eq!(counted(1, "seed"), "1 seed");
    let lengths = [900_000, 90_000, 100, 0].map(|millis| length(Duration::from_millis(millis)));
    assert_eq!(lengths, ["15 min", "90 s", "100 ms", "0 ms"]);
    assert_eq!(listed(&["a", "b", "c"]), "a, b and c");
    assert_eq!(fill("{{a}}-{{b}}{{", &[("a", "{{b}}"), ("b", "x")]), "{{b}}-x{{");
}
