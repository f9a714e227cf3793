//! The router held to its budgets: see `bench/README.md`.

use anyhow::Result;
use clap::Parser;
use router_bench::load;
use router_bench::suite::{self, SuiteArgs};

/// Measures the router in the scenarios of bench/scenarios.toml and prints each figure beside its
/// budget.
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(flatten)]
    suite: SuiteArgs,
}

fn main() -> Result<()> {
    let cli = Cli::parse();
    load::runtime(1)?.block_on(suite::run(&cli.suite))
}
