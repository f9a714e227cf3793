//! The default policy against every baseline: see `bench/README.md`.

use anyhow::Result;
use clap::Parser;
use router_bench::load;
use router_bench::matrix::{self, MatrixArgs};

// As in the router: replay allocates as much.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Plays every workload at every load on every pool, under the default policy and all baselines, and says where
/// the default is worse than the best of them.
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(flatten)]
    matrix: MatrixArgs,
}

fn main() -> Result<()> {
    let cli = Cli::parse();
    load::runtime(1)?.block_on(matrix::run(&cli.matrix))
}
