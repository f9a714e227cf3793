//! An endpoint picker that decides nothing: see `bench/README.md`.

use std::net::SocketAddr;

use anyhow::{Context, Result};
use clap::Parser;
use futures_util::future::try_join_all;
use router_bench::{extproc::floor, load};
use tokio::net::TcpListener;

/// The cheapest possible endpoint picker: the floor under an endpoint picker's cost.
#[derive(Parser)]
#[command(version)]
struct Cli {
    /// Addresses to listen on. Port 0 takes a free one; a line printed for each says which.
    #[arg(default_value = "127.0.0.1:9002")]
    listen: Vec<SocketAddr>,
    /// Runtime threads.
    #[arg(long, default_value_t = 1)]
    threads: usize,
}

fn main() -> Result<()> {
    let cli = Cli::parse();
    load::runtime(cli.threads)?.block_on(async {
        let mut servers = Vec::new();
        for address in &cli.listen {
            let listener =
                TcpListener::bind(address).await.with_context(|| format!("binding {address}"))?;
            load::print_line(&listener.local_addr()?.to_string())?;
            servers.push(floor::serve(listener, std::future::pending()));
        }
        try_join_all(servers).await.map(drop)
    })
}
