//! A stretch of a trace through the real Envoy, in real time, beside the same stretch in replay: what
//! `cargo xtask live` runs.
//!
//! Every configuration has simulated servers, an endpoint picker and an Envoy of its own. The client sends each
//! request at its time, whatever became of those before it, with a prompt whose tokens and shared prefixes are the
//! trace's. Then replay plays the same requests on the same servers, and the report says whether both rank the
//! configurations alike, and how far the numbers lie apart.

mod client;
mod course;
mod events;
mod measured;
mod prompt;
mod ranking;
mod replayed;
mod report;
mod stretch;
mod world;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use router_sim::replay::policy::{Preset, preset};

pub use client::{Answer, Course, Progress, play};
pub use measured::{Lateness, LiveRun};
pub use prompt::{MODEL, TOKEN_BYTES};
pub use ranking::{RANKED, Ranking};
pub use report::{Replay, Report, Verdict};
pub use stretch::{Facts, Stretch};
pub use world::CpuTimes;

use self::ranking::{Ranked, rankings};
use self::world::Programs;
use crate::load;
use crate::suite::commit;

/// What to play, and on what.
#[derive(clap::Args, Clone, Debug)]
pub struct LiveArgs {
    /// The router's release executable.
    #[arg(long)]
    pub router: PathBuf,
    /// Envoy's executable.
    #[arg(long)]
    pub envoy: PathBuf,
    /// The trace: requests with times of their own.
    #[arg(long, default_value = "testdata/traces/mooncake-conversation.jsonl")]
    pub trace: PathBuf,
    /// How long requests are sent, in real time.
    #[arg(long, default_value_t = 10.0)]
    pub minutes: f64,
    /// Minute of the trace to begin with.
    #[arg(long, default_value_t = 0.0)]
    pub from: f64,
    /// How many times faster than in the trace requests come.
    #[arg(long, default_value_t = 1.3)]
    pub load: f64,
    /// Seconds by which requests come later at most, live and in replay; the times of Mooncake's traces are
    /// rounded to 3 s.
    #[arg(long, default_value_t = 0.0)]
    pub jitter: f64,
    /// Simulated servers of each configuration.
    #[arg(long, default_value_t = 8)]
    pub servers: u16,
    /// A preset of `llm-d-router replay`. Can be given several times.
    #[arg(long = "config", default_values = ["go-default", "estimated-ttft"])]
    pub configs: Vec<String>,
    /// Seeds of replay.
    #[arg(long, default_value_t = 5)]
    pub seeds: u64,
    /// One configuration after the other, where the machine is too small for all at once.
    #[arg(long)]
    pub one_by_one: bool,
    /// Folder for `live-<date>.md` and `.json`; nothing is written without it.
    #[arg(long)]
    pub out: Option<PathBuf>,
    /// What the files are called in place of `live-<date>`.
    #[arg(long)]
    pub name: Option<String>,
}

/// Plays the stretch live and in replay, prints the report and writes it.
///
/// # Errors
/// Programs that do not start, a trace or configuration that cannot be used, or a verdict other than that both
/// agree.
pub fn run(args: &LiveArgs) -> Result<()> {
    conclude(args, &results(args)?)
}

/// Prints the report and writes it.
///
/// # Errors
/// A file that cannot be written, or a verdict other than that both agree.
pub fn conclude(args: &LiveArgs, report: &Report) -> Result<()> {
    load::print_line(report::markdown(report).trim_end())?;
    if let Some(folder) = &args.out {
        report::write(report, folder, args.name.as_deref())?;
    }
    match &report.verdict {
        Verdict::Agree => Ok(()),
        Verdict::Disagree => bail!("replay ranks the configurations otherwise"),
        Verdict::Void { because } => bail!("the run says nothing: {because}"),
    }
}

/// Plays the stretch live and in replay.
///
/// # Errors
/// As [`run`], whatever the verdict.
pub fn results(args: &LiveArgs) -> Result<Report> {
    ensure!(args.servers > 0, "--servers must be at least 1");
    ensure!(args.seeds > 0, "--seeds must be at least 1");
    ensure!(args.jitter.is_finite() && args.jitter >= 0.0, "--jitter must not be negative");
    let mut stretch = Stretch::read(&args.trace, args.from, args.minutes, args.load)?;
    if args.jitter > 0.0 {
        stretch = stretch.jittered(Duration::from_secs_f64(args.jitter), 1);
    }
    let presets = args.configs.iter().map(|name| {
        preset(name).with_context(|| {
            format!("there is no preset {name}; `llm-d-router replay --list` shows them")
        })
    });
    let presets: Vec<&Preset> = presets.collect::<Result<_>>()?;
    // The checkout may move on while the run lasts.
    let commit = commit();
    let programs = Programs { router: args.router.clone(), envoy: args.envoy.clone() };
    // Envoy takes the end of the thread that started it as its own, so this thread it is.
    let live = load::runtime(1)?.block_on(course::live(args, &programs, &stretch, &presets))?;
    let replays = replays(args, &stretch, &presets, &live.runs)?;
    let ranked: Vec<Ranked<'_>> = live
        .runs
        .iter()
        .zip(&replays)
        .map(|(run, replay)| Ranked {
            name: &run.configuration,
            live: &run.summary,
            replay: &replay.exact,
        })
        .collect();
    let rankings = rankings(&ranked);
    Ok(Report::new(args, commit, stretch.facts(), live, replays, rankings))
}

/// Replay with the arrivals of the live run, with those that its servers saw, and with each moved by up to a second
/// as replay does by default.
fn replays(
    args: &LiveArgs,
    stretch: &Stretch,
    presets: &[&Preset],
    runs: &[LiveRun],
) -> Result<Vec<Replay>> {
    let seeds: Vec<u64> = (1..=args.seeds).collect();
    let usual = router_sim::replay::run::DEFAULT_JITTER;
    let each = presets.iter().zip(runs).map(|(preset, run)| {
        course::say(&format!("replay of {}", preset.name));
        let play = |stretch: &Stretch, jitter| {
            replayed::play(stretch, args.servers, preset.name, preset.document, jitter, &seeds)
        };
        let as_accepted = stretch.arriving(run.accepted.iter().copied());
        Ok(Replay {
            configuration: preset.name.to_owned(),
            exact: play(stretch, Duration::ZERO)?,
            as_accepted: play(&as_accepted, Duration::ZERO)?,
            jittered: play(stretch, usual)?,
        })
    });
    each.collect()
}
