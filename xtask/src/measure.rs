//! `cargo xtask bench`, `soak` and `live`: the release build under load.
//! `cargo xtask matrix`: policies against each other in virtual time.

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

#[derive(clap::Args)]
pub(crate) struct MatrixArgs {
    /// Handed to the matrix program as they are, for example `-- --part smoke`; `-- --help` lists them.
    #[arg(last = true)]
    matrix: Vec<String>,
}

#[derive(clap::Args)]
pub(crate) struct LiveArgs {
    /// How long requests are sent, in real time.
    #[arg(long, default_value_t = 10.0)]
    minutes: f64,
    /// How many times faster than in the trace requests come.
    #[arg(long, default_value_t = 1.3)]
    load: f64,
    /// Minute of the trace to begin with.
    #[arg(long, default_value_t = 0.0)]
    from: f64,
    /// Simulated servers of each configuration.
    #[arg(long, default_value_t = 8)]
    servers: u16,
    /// Handed to the program as they are; `-- --help` lists them.
    #[arg(last = true)]
    live: Vec<String>,
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

/// Builds the matrix program with optimization and plays what is missing.
pub(crate) fn matrix(args: &MatrixArgs) -> anyhow::Result<()> {
    command::run(
        "release build of the matrix program",
        command::cargo().args(["build", "--release", "--locked"]).args([
            "--package",
            "router-bench",
            "--bin",
            "matrix",
        ]),
    )?;
    let mut matrix = std::process::Command::new(paths::cargo_target().join("release/matrix"));
    matrix
        .arg("--state")
        .arg(paths::cargo_target().join("matrix/runs.jsonl"))
        .args(["--out", "bench/results"]);
    command::run("matrix", matrix.args(&args.matrix))
}

/// Builds the router and the live program with optimization and plays the stretch.
pub(crate) fn live(args: &LiveArgs) -> anyhow::Result<()> {
    setup::run(&setup::Args::default())?;
    build_release()?;
    let LiveArgs { minutes, load, from, servers, live: rest } = args;
    let mut live = std::process::Command::new(paths::cargo_target().join("release/live"));
    live.arg("--router").arg(paths::release_router()).arg("--envoy").arg(paths::envoy());
    live.args(["--out", "bench/results"]);
    for (flag, value) in [("--minutes", minutes), ("--load", load), ("--from", from)] {
        live.arg(flag).arg(value.to_string());
    }
    live.args(["--servers", &servers.to_string()]);
    command::run("live run and replay", live.args(rest))
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
