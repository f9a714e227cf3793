//! Flags of `replay`.

use std::path::PathBuf;

use clap::{ArgGroup, Args};
use router_framework::document::GoDuration;
use router_sim::replay::read::Format;

use super::at_least_one;

mod fit;

pub use fit::{FitArgs, ReplayCommand};

pub(super) const EXAMPLES: &str = "\
Examples:
  llm-d-router replay --trace mooncake.jsonl --config default,config.yaml --load 1,1.3
  llm-d-router replay --workload agents --config go-default,sticky --load 0.5,0.8 --seeds 5
  llm-d-router replay --trace mooncake.jsonl --pool pool.yaml --html page.html --json all.json
  llm-d-router replay --reproduce recording.jsonl
  llm-d-router replay fit --trace recorded.jsonl --out pool.yaml
  llm-d-router replay --list";

/// More than this comes at once, as far as servers can tell.
const MAX_LOAD: f64 = 1e6;
/// With less nothing ever meets anything else.
const MIN_LOAD: f64 = 1e-6;

/// Flags of what is played on servers: lists, and decisions that are made again, have none.
const PLAYING: [&str; 19] = [
    "trace",
    "format",
    "workload",
    "duration",
    "limit",
    "load",
    "jitter",
    "pool",
    "servers",
    "scrape_interval",
    "scrape_delay",
    "no_metrics",
    "seeds",
    "seed",
    "jobs",
    "goal_ttft",
    "goal_tpot",
    "html",
    "json",
];

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
#[command(group = ArgGroup::new("what")
    .args(["trace", "workload", "reproduce", "list"])
    .required(true)
    .multiple(true))]
pub struct ReplayArgs {
    #[command(subcommand)]
    pub command: Option<ReplayCommand>,
    /// The trace: Mooncake's JSON lines, Azure's CSV, or JSON lines of our own.
    #[arg(long, value_name = "FILE", conflicts_with = "workload", help_heading = "Requests")]
    pub trace: Option<PathBuf>,
    /// Make the decisions of a recording again (`serve --record FILE --record-inputs`) and compare them with
    /// those that were made; with --config, see what another configuration would have decided.
    #[arg(
        long,
        value_name = "FILE",
        conflicts_with_all = PLAYING,
        help_heading = "Requests"
    )]
    pub reproduce: Option<PathBuf>,
    /// What the trace file is: mooncake, azure or jsonl. Told by its first line if not said.
    #[arg(long, value_name = "FORMAT", help_heading = "Requests")]
    pub format: Option<Format>,
    /// A made-up workload in place of a trace; --list shows them. Every seed draws it anew.
    #[arg(long, value_name = "NAME", help_heading = "Requests")]
    pub workload: Option<String>,
    /// How long a made-up workload goes on [default: 15m].
    #[arg(long, value_name = "DURATION", help_heading = "Requests")]
    pub duration: Option<GoDuration>,
    /// Only so many requests, from the start of the trace or workload.
    #[arg(long, value_name = "N", value_parser = at_least_one, help_heading = "Requests")]
    pub limit: Option<usize>,
    /// Load, several with commas or one by one. Of a trace it is the factor by which requests come faster;
    /// think times stay. Of a workload it is the share of what the servers can do.
    #[arg(
        long,
        value_name = "X",
        value_delimiter = ',',
        default_value = "1",
        value_parser = load,
        allow_negative_numbers = true,
        help_heading = "Requests"
    )]
    pub load: Vec<f64>,
    /// By how much a seed delays each arrival of a trace at most [default: 1s].
    #[arg(long, value_name = "DURATION", help_heading = "Requests")]
    pub jitter: Option<GoDuration>,
    /// A configuration document or the name of a preset (--list shows them), several with commas or one by
    /// one; the first is what the others are compared with [default: default].
    #[arg(long, value_name = "FILE|PRESET", help_heading = "Configurations")]
    pub config: Vec<String>,
    /// Accept plugin types that are experiments.
    #[arg(long, help_heading = "Configurations")]
    pub allow_experimental_plugins: bool,
    /// The servers, their kinds and what happens to them; once for each pool that is to be tried.
    #[arg(long, value_name = "FILE", help_heading = "Servers")]
    pub pool: Vec<PathBuf>,
    /// So many servers of the default profile, where there is no --pool.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=4096), default_value_t = 8, conflicts_with = "pool", help_heading = "Servers")]
    pub servers: u16,
    /// How often the router scrapes each server; goes before what a pool file says.
    #[arg(long, value_name = "DURATION", value_parser = scrape_interval, conflicts_with = "no_metrics", help_heading = "Servers")]
    pub scrape_interval: Option<GoDuration>,
    /// How old a scrape is when the router gets it; goes before what a pool file says.
    #[arg(long, value_name = "DURATION", conflicts_with = "no_metrics", help_heading = "Servers")]
    pub scrape_delay: Option<GoDuration>,
    /// The router never scrapes.
    #[arg(long, help_heading = "Servers")]
    pub no_metrics: bool,
    /// Runs of each configuration, each with a seed of its own; results are means with 95 % intervals.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000), default_value_t = 3, help_heading = "Runs")]
    pub seeds: u32,
    /// The first seed; the others follow it.
    #[arg(long, value_name = "N", default_value_t = 1, help_heading = "Runs")]
    pub seed: u64,
    /// Runs at once [default: one per core].
    #[arg(long, value_name = "N", value_parser = at_least_one, help_heading = "Runs")]
    pub jobs: Option<usize>,
    /// Longest time to the first token of a good request.
    #[arg(long, value_name = "DURATION", default_value = "5s", help_heading = "Results")]
    pub goal_ttft: GoDuration,
    /// Longest time per token after the first of a good request.
    #[arg(long, value_name = "DURATION", default_value = "100ms", help_heading = "Results")]
    pub goal_tpot: GoDuration,
    /// Write a page with plots to this file: all in one, for any browser.
    #[arg(long, value_name = "FILE", help_heading = "Results")]
    pub html: Option<PathBuf>,
    /// Write all results to this file.
    #[arg(long, value_name = "FILE", help_heading = "Results")]
    pub json: Option<PathBuf>,
    /// Show the presets and the workloads, and run nothing.
    #[arg(
        long,
        conflicts_with_all = PLAYING,
        conflicts_with_all = ["reproduce", "config", "allow_experimental_plugins"],
        help_heading = "Results"
    )]
    pub list: bool,
}

/// A load that means something.
fn load(text: &str) -> Result<f64, String> {
    let load: f64 = text.parse().map_err(|_| "expected a number such as 1.3".to_owned())?;
    if (MIN_LOAD..=MAX_LOAD).contains(&load) {
        Ok(load)
    } else {
        Err(format!("must be from {MIN_LOAD} to {MAX_LOAD}"))
    }
}

/// A length of time, and a hint for who writes what a pool file takes.
fn scrape_interval(text: &str) -> Result<GoDuration, String> {
    if text == "never" {
        return Err("--no-metrics is for servers that are never scraped".to_owned());
    }
    text.parse().map_err(|error| format!("{error}"))
}
