//! Load for an HTTP proxy: see `bench/README.md`.

use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Result;
use clap::Parser;
use router_bench::http::{HttpArgs, HttpLoad};
use router_bench::load::{self, LoadArgs, Report};

/// Closed-loop or fixed-rate HTTP/1.1 load of chat completions, one connection per request in flight.
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(flatten)]
    what: HttpArgs,
    #[command(flatten)]
    load: LoadArgs,
}

fn main() -> Result<ExitCode> {
    let cli = Cli::parse();
    cli.load.runtime()?.block_on(async {
        let exchange = Arc::new(HttpLoad::new(&cli.what, cli.load.tag())?);
        let summary = load::run(&cli.load, exchange).await?;
        let any_good = summary.ok > 0;
        let report = Report { label: cli.load.label.clone(), settings: &cli.what, summary };
        report.print(cli.load.json)?;
        Ok(if any_good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    })
}
