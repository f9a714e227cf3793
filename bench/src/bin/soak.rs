//! Very many requests through the endpoint picker: see `bench/README.md`.

use anyhow::Result;
use clap::Parser;
use router_bench::load;
use router_bench::soak::{self, SoakArgs};

/// Sends very many requests, most kinds of failure among them, and checks that nothing is left.
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(flatten)]
    soak: SoakArgs,
    /// Runtime threads.
    #[arg(long, default_value_t = 1)]
    threads: usize,
}

fn main() -> Result<()> {
    let cli = Cli::parse();
    load::runtime(cli.threads)?.block_on(soak::run(&cli.soak))
}
