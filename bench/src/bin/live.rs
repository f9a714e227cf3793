//! Live against replay: see `bench/README.md`.

use anyhow::Result;
use clap::Parser;
use router_bench::live::{self, LiveArgs};

/// Plays a stretch of a trace in real time through the real Envoy and in replay, and says whether both rank the
/// configurations alike.
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(flatten)]
    live: LiveArgs,
}

fn main() -> Result<()> {
    live::run(&Cli::parse().live)
}
