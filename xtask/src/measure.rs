//! `cargo xtask bench` and `cargo xtask soak`: the release build under load.

use anyhow::bail;

use crate::{command, paths, setup};

#[derive(clap::Args)]
pub(crate) struct BenchArgs {
    /// Leave out what needs the real Envoy.
    #[arg(long)]
    no_envoy: bool,
    /// Handed to the suite as they are; `-- --help` lists them.
    #[arg(last = true)]
    suite: Vec<String>,
}

#[derive(clap::Args)]
pub(crate) struct SoakArgs {
    /// How many requests to send in all.
    #[arg(long, default_value_t = 1_000_000)]
    requests: u64,
    /// Handed to the soak program as they are; `-- --help` lists them.
    #[arg(last = true)]
    soak: Vec<String>,
}

/// Builds the router and the suite with optimization and runs the suite.
pub(crate) fn bench(args: &BenchArgs) -> anyhow::Result<()> {
    if !args.no_envoy {
        setup::run(&setup::Args::default())?;
    }
    build_release()?;
    let mut suite = std::process::Command::new(paths::cargo_target().join("release/bench-suite"));
    suite.arg("--router").arg(paths::release_router()).args(["--out", "bench/results"]);
    if !args.no_envoy {
        suite.arg("--envoy").arg(paths::envoy());
    }
    command::run("bench suite", suite.args(&args.suite))
}

/// Builds the router and the soak program with optimization and sends the requests.
pub(crate) fn soak(args: &SoakArgs) -> anyhow::Result<()> {
    if args.requests == 0 {
        bail!("--requests must be at least 1");
    }
    build_release()?;
    let mut soak = std::process::Command::new(paths::cargo_target().join("release/soak"));
    soak.args(["--requests", &args.requests.to_string()])
        .arg("--router")
        .arg(paths::release_router());
    command::run(&format!("soak with {} requests", args.requests), soak.args(&args.soak))
}

/// Builds the router and all measuring programs, since a suite starts several of them.
fn build_release() -> anyhow::Result<()> {
    command::run(
        "release build of the router and the measuring programs",
        command::cargo().args(["build", "--release", "--locked", "--bins"]).args([
            "--package",
            "llm-d-router",
            "--package",
            "router-bench",
        ]),
    )
}
