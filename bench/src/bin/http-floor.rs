//! A bare reverse proxy: see `bench/README.md`.

use std::net::SocketAddr;

use anyhow::{Context, Result};
use clap::Parser;
use router_bench::{http::floor, load};
use router_rt::Tasks;
use tokio::net::TcpListener;

/// The cheapest possible reverse proxy: the floor under a proxy's cost.
#[derive(Parser)]
#[command(version)]
struct Cli {
    /// Address to listen on. Port 0 takes a free one; the first line printed says which.
    #[arg(long, default_value = "127.0.0.1:8080")]
    listen: SocketAddr,
    /// host:port of the endpoints, which take turns.
    #[arg(long, required = true, value_delimiter = ',')]
    endpoints: Vec<String>,
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
        floor::serve(listener, Tasks::new(), &cli.endpoints).await
    })
}
