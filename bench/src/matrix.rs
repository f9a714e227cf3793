//! The default policy against every baseline, in virtual time: what `cargo xtask matrix` runs.
//!
//! A cell is a workload at a load on a pool. In each, the best baseline is chosen on some seeds, once for each
//! measure that is judged, and what the default policy loses against it is measured on others, seed by seed. In
//! the same cells the default policy plays with metrics that come late or never. What is not clear of its bound
//! then is played on more seeds, in a second stage, and what is not clear of it to either side in a third.
//!
//! Runs are kept in a file as they end, so that an interrupted call goes on where it was. A kept run counts as long
//! as nothing that decides it has changed: the trace, the pool, the document, and what the policy does in three
//! short runs that are played at every start.

mod course;
mod judge;
mod pairing;
mod plan;
mod play;
mod probe;
mod progress;
mod regret;
mod report;
mod store;
mod world;

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};

pub use self::judge::{CellResult, Judged, Results, Stale};
use self::plan::Plan;
pub use self::regret::{Regret, Verdict};
use crate::load;

const PLAN: &str = include_str!("../matrix.toml");

/// What these flags take from a plan.
#[cfg(test)]
fn plan_with(text: &str, flags: &str) -> Result<Plan> {
    #[derive(clap::Parser)]
    struct Cli {
        #[command(flatten)]
        args: MatrixArgs,
    }
    let argv = std::iter::once("test").chain(flags.split_whitespace());
    Plan::parse(text, &<Cli as clap::Parser>::parse_from(argv).args)
}

/// What to play and where to keep it.
#[derive(clap::Args, Clone, Debug)]
pub struct MatrixArgs {
    /// A part that the plan names, in place of the whole.
    #[arg(long)]
    pub part: Option<String>,
    /// Only cells whose name (workload/load/pool) contains this. Can be given several times.
    #[arg(long)]
    pub cells: Vec<String>,
    /// Runs at once; by default one per core.
    #[arg(long)]
    pub jobs: Option<usize>,
    /// File of finished runs, to which each is added.
    #[arg(long, default_value = "target/matrix/runs.jsonl", overrides_with = "state")]
    pub state: PathBuf,
    /// Play everything again, whatever the file of finished runs has.
    #[arg(long)]
    pub fresh: bool,
    /// Drop the finished runs of a policy from the file. Can be given several times.
    #[arg(long)]
    pub forget: Vec<String>,
    /// A configuration document to judge in place of the default policy's.
    #[arg(long)]
    pub ours: Option<PathBuf>,
    /// Leave out the runs with late metrics.
    #[arg(long)]
    pub no_stale: bool,
    /// Folder of the recorded traces.
    #[arg(long, default_value = "testdata/traces", overrides_with = "traces")]
    pub traces: PathBuf,
    /// A plan in place of bench/matrix.toml.
    #[arg(long)]
    pub plan: Option<PathBuf>,
    /// Folder for `matrix-<date>.md` and `.json`; written when the whole matrix was played.
    #[arg(long, overrides_with = "out")]
    pub out: Option<PathBuf>,
    /// File for the report of whatever was played; the same as JSON goes beside it.
    #[arg(long)]
    pub report: Option<PathBuf>,
}

/// Plays what is missing, prints the report and writes it.
///
/// # Errors
/// A plan, a trace or a document that cannot be used, a run that fails, or a file that cannot be written.
pub async fn run(args: &MatrixArgs) -> Result<()> {
    let results = results(args).await?;
    let text = report::markdown(&results);
    load::print_line(text.trim_end())?;
    if let Some(path) = &args.report {
        report::write(&results, &text, path)?;
    }
    if let Some(folder) = &args.out {
        if results.is_whole {
            report::write(&results, &text, &folder.join(format!("matrix-{}.md", results.date)))?;
        } else {
            load::print_line("A part of the matrix leaves no file in the folder of results.")?;
        }
    }
    Ok(())
}

/// Plays what is missing and judges every cell.
///
/// # Errors
/// As [`run`], files of reports aside.
pub async fn results(args: &MatrixArgs) -> Result<Results> {
    let text = match &args.plan {
        None => PLAN.to_owned(),
        Some(path) => {
            std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?
        }
    };
    let plan = Plan::parse(&text, args).context("the plan of the matrix")?;
    ensure!(!plan.cells.is_empty(), "no cell is called so; names are workload/load/pool");
    course::play(plan, args).await
}
