//! Simulated servers from a configuration document: `servers '{"servers": 2, "port": 9000, "mode": "echo"}'`.
//! Prints their addresses and serves until it is interrupted.

#![allow(clippy::print_stdout)]

use std::error::Error;

use router_rt::Tasks;
use router_sim::server::{SimConfig, run};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let document = std::env::args().nth(1).unwrap_or_else(|| "{}".to_owned());
    let config: SimConfig = serde_json::from_str(&document)?;
    let tasks = Tasks::new();
    let sim = run(config, &tasks).await?;
    for address in sim.addresses() {
        println!("http://{address}");
    }
    tokio::signal::ctrl_c().await?;
    Ok(())
}
