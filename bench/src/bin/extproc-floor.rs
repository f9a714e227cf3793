//! An endpoint picker that decides nothing: see `bench/README.md`.

use std::net::SocketAddr;

use anyhow::{Context, Result};
use clap::Parser;
use router_bench::{extproc::floor, load};
use tokio::net::TcpListener;

/// The cheapest possible endpoint picker: the floor under an endpoint picker's cost.
#[derive(Parser)]
#[command(version)]
struct Cli {
    /// Address to listen on. Port 0 takes a free one; the first line printed says which.
    #[arg(default_value = "127.0.0.1:9002")]
    listen: SocketAddr,
    /// Runtime threads.
    #[arg(long, default_value_t = 1)]
    threads: usize,
}

fn main() -> Result<()> {
    let cli = Cli::parse();
    load::runtime(cli.threads)?.block_on(async {
        let listener = TcpListener::bind(cli.listen)
            .await
            .with_context(|| format!("binding {}", cli.listen))?;
        load::print_line(&listener.local_addr()?.to_string())?;
        floor::serve(listener, std::future::pending()).await
    })
}
