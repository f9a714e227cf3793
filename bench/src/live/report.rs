//! What a run came to: a page for readers, and JSON.

use std::fmt::Write as _;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use router_sim::replay::summary::{Estimate, Summary};
use serde::Serialize;

use super::LiveArgs;
use super::course::Live;
use super::measured::measures_of_all;
use super::ranking::Ranking;
use super::stretch::Facts;
use crate::suite::{Machine, date};

/// A client whose 99th percentile is later than this measures itself, in seconds.
const MAX_LATE: f64 = 0.05;
/// With more failed requests than this, what is left is another load.
const MAX_FAILED: f64 = 0.01;

/// Everything about a run.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// UTC, `YYYY-MM-DD`.
    pub date: String,
    pub commit: String,
    pub(crate) machine: Machine,
    pub command: String,
    pub trace: String,
    pub stretch: Facts,
    pub n_servers: u16,
    pub live: Live,
    pub replays: Vec<Replay>,
    pub rankings: Vec<Ranking>,
    pub verdict: Verdict,
}

/// One configuration in replay, a summary per seed.
#[derive(Clone, Debug, Serialize)]
pub struct Replay {
    pub configuration: String,
    /// With the arrivals of the live run.
    #[serde(serialize_with = "measures_of_all")]
    pub exact: Vec<Summary>,
    /// With the arrivals that the live run's servers saw: requests that are due together do not come together.
    #[serde(serialize_with = "measures_of_all")]
    pub as_accepted: Vec<Summary>,
    /// With arrivals that each seed moves.
    #[serde(serialize_with = "measures_of_all")]
    pub jittered: Vec<Summary>,
}

/// Whether live and replay rank alike.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    Agree,
    Disagree,
    /// The live run measured something else.
    Void {
        because: String,
    },
}

impl Verdict {
    fn of(live: &Live, rankings: &[Ranking]) -> Self {
        for run in &live.runs {
            let (name, late) = (&run.configuration, run.lateness.p99);
            if late > MAX_LATE {
                let late = late * 1e3;
                let because = format!("the client of {name} was late: p99 {late:.0} ms");
                return Self::Void { because };
            }
            let failed = 1.0 - run.summary.served_share();
            if failed > MAX_FAILED {
                let because = format!("{:.1} % of the requests of {name} failed", failed * 100.0);
                return Self::Void { because };
            }
        }
        if rankings.iter().all(|ranking| ranking.agrees) { Self::Agree } else { Self::Disagree }
    }
}

impl Report {
    pub(super) fn new(
        args: &LiveArgs,
        commit: String,
        stretch: Facts,
        live: Live,
        replays: Vec<Replay>,
        rankings: Vec<Ranking>,
    ) -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        Self {
            date: date(now),
            commit,
            machine: Machine::here(),
            command: command(args),
            trace: args.trace.file_name().unwrap_or_default().to_string_lossy().into_owned(),
            stretch,
            n_servers: args.servers,
            verdict: Verdict::of(&live, &rankings),
            live,
            replays,
            rankings,
        }
    }
}

/// The command that plays the same again, on any machine.
fn command(args: &LiveArgs) -> String {
    let LiveArgs { minutes, load, from, servers, .. } = args;
    let mut text = format!(
        "cargo xtask live --minutes {minutes} --load {load} --from {from} --servers {servers}"
    );
    let mut rest = format!(" --seeds {}", args.seeds);
    if args.jitter > 0.0 {
        // Writing to a string cannot fail.
        write!(rest, " --jitter {}", args.jitter).ok();
    }
    for config in &args.configs {
        write!(rest, " --config {config}").ok();
    }
    if args.one_by_one {
        rest.push_str(" --one-by-one");
    }
    text.push_str(" --");
    text.push_str(&rest);
    text
}

/// Writes the page and the JSON beside each other.
pub(super) fn write(report: &Report, folder: &Path, name: Option<&str>) -> Result<()> {
    let name = name.map_or_else(|| format!("live-{}", report.date), str::to_owned);
    std::fs::create_dir_all(folder)?;
    let json = serde_json::to_string_pretty(report)? + "\n";
    for (extension, text) in [("md", markdown(report)), ("json", json)] {
        let path = folder.join(format!("{name}.{extension}"));
        std::fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
    }
    Ok(())
}

/// The page.
pub(super) fn markdown(report: &Report) -> String {
    let mut page = String::new();
    // Writing to a string cannot fail.
    head(&mut page, report).ok();
    numbers(&mut page, report).ok();
    ranks(&mut page, report).ok();
    course(&mut page, report).ok();
    page
}

fn head(page: &mut String, report: &Report) -> std::fmt::Result {
    let Facts { n_requests, load, seconds, mean_prompt_tokens, mean_output_tokens } =
        report.stretch;
    let Machine { cpu, n_cores, kernel } = &report.machine;
    writeln!(page, "# Live and replay, {}\n", report.date)?;
    writeln!(
        page,
        "{n_requests} requests of `{}` in {seconds:.0} s at {load} times its speed, with {mean_prompt_tokens:.0} \
         prompt and {mean_output_tokens:.0} answer tokens on average, on {} simulated servers in real time \
         behind the real Envoy, and in replay.",
        report.trace, report.n_servers
    )?;
    writeln!(
        page,
        "`{}`, commit {}, {n_cores} × {cpu}, Linux {kernel}.\n",
        report.command, report.commit
    )?;
    match &report.verdict {
        Verdict::Agree => {
            writeln!(page, "**Replay ranks the configurations as the live run did.**\n")
        }
        Verdict::Disagree => {
            writeln!(page, "**Replay ranks the configurations otherwise than the live run.**\n")
        }
        Verdict::Void { because } => writeln!(page, "**No verdict: {because}.**\n"),
    }
}

/// One column of the table of numbers.
struct Number {
    name: &'static str,
    factor: f64,
    digits: usize,
    of: fn(&Summary) -> f64,
}

const NUMBERS: [Number; 9] = [
    number("goodput %", 100.0, 1, |s| s.goodput),
    number("TTFT mean s", 1.0, 3, |s| s.ttft.mean),
    number("p50 s", 1.0, 3, |s| s.ttft.p50),
    number("p90 s", 1.0, 2, |s| s.ttft.p90),
    number("p99 s", 1.0, 2, |s| s.ttft.p99),
    number("TPOT p50 ms", 1e3, 1, |s| s.tpot.p50),
    number("p90 ms", 1e3, 1, |s| s.tpot.p90),
    number("cached %", 100.0, 1, |s| s.cached_ratio),
    number("max/mean", 1.0, 2, |s| s.imbalance),
];

const fn number(name: &'static str, factor: f64, digits: usize, of: fn(&Summary) -> f64) -> Number {
    Number { name, factor, digits, of }
}

fn numbers(page: &mut String, report: &Report) -> std::fmt::Result {
    let names: Vec<&str> = NUMBERS.iter().map(|number| number.name).collect();
    writeln!(page, "| configuration | where | {} |", names.join(" | "))?;
    writeln!(page, "| --- | --- |{}", " ---: |".repeat(NUMBERS.len()))?;
    for (run, replay) in report.live.runs.iter().zip(&report.replays) {
        let live = NUMBERS.iter().map(|number| {
            format!("{:.*}", number.digits, (number.of)(&run.summary) * number.factor)
        });
        row(page, &run.configuration, "live", live)?;
        let over_seeds = |summaries: &[Summary], number: &Number| {
            Estimate::of(summaries.iter().map(|summary| (number.of)(summary) * number.factor))
        };
        let shown = |summaries| {
            NUMBERS.iter().map(move |number| {
                let Estimate { mean, half_width, .. } = over_seeds(summaries, number);
                let width = half_width.map(|half| format!(" ±{half:.*}", number.digits));
                format!("{mean:.*}{}", number.digits, width.unwrap_or_default())
            })
        };
        for (place, summaries) in [
            ("replay", &replay.exact),
            ("replay, as accepted", &replay.as_accepted),
            ("replay, jitter 1 s", &replay.jittered),
        ] {
            row(page, &run.configuration, place, shown(summaries))?;
        }
        for (place, summaries) in
            [("replay / live", &replay.exact), ("replay, as accepted / live", &replay.as_accepted)]
        {
            let ratios = NUMBERS.iter().map(|number| {
                let replay = over_seeds(summaries, number).mean;
                let ratio = replay / ((number.of)(&run.summary) * number.factor);
                if ratio.is_finite() { format!("{ratio:.2}") } else { String::new() }
            });
            row(page, &run.configuration, place, ratios)?;
        }
    }
    writeln!(
        page,
        "\nReplay: means over {} seeds with 95 % intervals.\n\
         As accepted: with the arrivals that the live run's servers saw, since requests that are due together do \
         not reach them together.\n\
         Goodput: first token within 5 s and 100 ms per token after it.\n",
        report.replays.first().map_or(0, |replay| replay.exact.len())
    )
}

fn row(
    page: &mut String,
    configuration: &str,
    place: &str,
    values: impl Iterator<Item = String>,
) -> std::fmt::Result {
    let values: Vec<String> = values.collect();
    writeln!(page, "| {configuration} | {place} | {} |", values.join(" | "))
}

fn ranks(page: &mut String, report: &Report) -> std::fmt::Result {
    writeln!(page, "| measure | live | | better | replay | | better | |")?;
    writeln!(page, "| --- | ---: | ---: | --- | ---: | ---: | --- | --- |")?;
    for ranking in &report.rankings {
        let Ranking { measure, one, other, live, replay, live_better, replay_better, .. } = ranking;
        let name = |better: &Option<String>| better.clone().unwrap_or_else(|| "equal".to_owned());
        writeln!(
            page,
            "| {measure} ({one}, {other}) | {:.3} | {:.3} | {} | {:.3} | {:.3} | {} | {} |",
            live[0],
            live[1],
            name(live_better),
            replay[0],
            replay[1],
            name(replay_better),
            if ranking.agrees { "agree" } else { "DISAGREE" }
        )?;
    }
    writeln!(page)
}

fn course(page: &mut String, report: &Report) -> std::fmt::Result {
    let Live { runs, seconds, client_cpu_seconds, machine_busy } = &report.live;
    writeln!(
        page,
        "| live run | failed | sent late p50 ms | p99 ms | max ms | accepted after p50 ms | p99 ms | TTFT outside the servers ms | CPU servers % \
         | picker % | Envoy % |"
    )?;
    writeln!(page, "| --- |{}", " ---: |".repeat(10))?;
    let of_seconds = |cpu: f64| 100.0 * cpu / seconds.max(f64::EPSILON);
    for run in runs {
        let (late, cpu) = (run.lateness, run.cpu_seconds);
        writeln!(
            page,
            "| {} | {} | {:.1} | {:.1} | {:.1} | {:.1} | {:.1} | {:.1} | {:.1} | {:.1} | {:.1} |",
            run.configuration,
            run.failures.values().sum::<usize>(),
            late.p50 * 1e3,
            late.p99 * 1e3,
            late.max * 1e3,
            run.accepted_after.p50 * 1e3,
            run.accepted_after.p99 * 1e3,
            run.ttft_outside_servers * 1e3,
            of_seconds(cpu.servers),
            of_seconds(cpu.picker),
            of_seconds(cpu.envoy)
        )?;
    }
    writeln!(
        page,
        "\nCPU in shares of one core.\n\
         The client used {:.1} %; the machine was {:.0} % busy, with whatever else ran on it.",
        of_seconds(*client_cpu_seconds),
        machine_busy * 100.0
    )?;
    for run in runs {
        for (failure, n) in &run.failures {
            writeln!(page, "{n} requests of {} failed: {failure}", run.configuration)?;
        }
    }
    Ok(())
}
