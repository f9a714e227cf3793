//! Load for an endpoint picker: see `bench/README.md`.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Parser;
use router_bench::extproc::{ExtProcArgs, ExtProcLoad, hold};
use router_bench::load::{self, LoadArgs, Report};

/// Closed-loop or fixed-rate load for an ext-proc endpoint picker in full-duplex mode.
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(flatten)]
    what: ExtProcArgs,
    #[command(flatten)]
    load: LoadArgs,
    /// Instead of a load, open --concurrency streams, keep back the end of each body, and print as
    /// JSON what a stream holds of the memory of --pid.
    #[arg(long, requires = "pid")]
    hold: bool,
}

fn main() -> Result<ExitCode> {
    let cli = Cli::parse();
    let runtime = cli.load.runtime()?;
    runtime.block_on(async { if cli.hold { run_hold(&cli).await } else { run_load(&cli).await } })
}

async fn run_load(cli: &Cli) -> Result<ExitCode> {
    let exchange = Arc::new(ExtProcLoad::connect(&cli.what, cli.load.tag()).await?);
    let summary = load::run(&cli.load, exchange).await?;
    let any_good = summary.ok > 0;
    Report { label: cli.load.label.clone(), settings: &cli.what, summary }.print(cli.load.json)?;
    Ok(if any_good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn run_hold(cli: &Cli) -> Result<ExitCode> {
    let pid = cli.load.pid.context("--hold needs --pid")?;
    let limit = Duration::from_secs_f64(cli.load.timeout);
    let held = hold::measure(&cli.what, cli.load.concurrency, pid, cli.load.tag(), limit).await?;
    load::print_line(&serde_json::to_string(&held)?)?;
    Ok(ExitCode::SUCCESS)
}
