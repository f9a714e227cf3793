//! Load for an endpoint picker: see `bench/README.md`.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Parser;
use router_bench::extproc::hold::{self, Sent};
use router_bench::extproc::{ExtProcArgs, ExtProcLoad};
use router_bench::load::{self, LoadArgs, Report};

/// Closed-loop or fixed-rate load for an ext-proc endpoint picker in full-duplex mode.
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(flatten)]
    what: ExtProcArgs,
    #[command(flatten)]
    load: LoadArgs,
    /// Instead of a load, open --concurrency streams, send so much on each, and print as JSON what a
    /// stream holds of the memory of --pid. Without a value, all but the end of the body.
    #[arg(long, requires = "pid", num_args = 0..=1, require_equals = true)]
    #[arg(value_enum, default_missing_value = "body")]
    hold: Option<Sent>,
}

fn main() -> Result<ExitCode> {
    let cli = Cli::parse();
    let runtime = cli.load.runtime()?;
    runtime.block_on(async {
        match cli.hold {
            Some(until) => run_hold(&cli, until).await,
            None => run_load(&cli).await,
        }
    })
}

async fn run_load(cli: &Cli) -> Result<ExitCode> {
    let exchange = Arc::new(ExtProcLoad::connect(&cli.what, cli.load.tag()).await?);
    let summary = load::run(&cli.load, exchange).await?;
    let any_good = summary.ok > 0;
    Report { label: cli.load.label.clone(), settings: &cli.what, summary }.print(cli.load.json)?;
    Ok(if any_good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn run_hold(cli: &Cli, until: Sent) -> Result<ExitCode> {
    let pid = cli.load.pid.context("--hold needs --pid")?;
    let limit = Duration::from_secs_f64(cli.load.timeout);
    let (what, n_streams) = (&cli.what, cli.load.concurrency);
    let held = hold::measure(what, until, n_streams, pid, cli.load.tag(), limit).await?;
    load::print_line(&serde_json::to_string(&held)?)?;
    Ok(ExitCode::SUCCESS)
}
