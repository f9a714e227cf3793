//! `cargo xtask test`: everything that must hold before a change is merged.

use std::process::Command;

use anyhow::bail;

use crate::{command, setup, tidy};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Leave clippy and the format check out.
    #[arg(long)]
    no_lint: bool,
    /// Handed to `cargo test`, for example `-p router-wire` in place of the whole workspace.
    #[arg(last = true)]
    cargo_test: Vec<String>,
}

/// Runs the quick checks first, then the tests; fails at the first step that fails.
pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    setup::run(&setup::Args::default())?;

    command::announce("tidy");
    let report = tidy::check()?;
    report.print_findings();
    if !report.is_clean() {
        bail!("tidy found {} problems", report.n_findings());
    }

    if !args.no_lint {
        if has_component("fmt") {
            command::run("format check", command::cargo().args(["fmt", "--all", "--check"]))?;
        } else {
            println!("==> format check left out: the toolchain has no rustfmt");
        }
        if has_component("clippy") {
            command::run(
                "clippy",
                command::cargo().args([
                    "clippy",
                    "--workspace",
                    "--all-targets",
                    "--locked",
                    "--quiet",
                    "--",
                    // Warnings are errors here and only here, so that RUSTFLAGS never change.
                    "--deny",
                    "warnings",
                ]),
            )?;
        } else {
            println!("==> clippy left out: the toolchain has no clippy");
        }
    }

    let mut test = command::cargo();
    test.args(["test", "--locked"]);
    if args.cargo_test.is_empty() {
        test.arg("--workspace");
    } else {
        test.args(&args.cargo_test);
    }
    command::run("tests (a cold build of everything takes minutes)", &mut test)
}

fn has_component(name: &str) -> bool {
    let mut version: Command = command::cargo();
    version.args([name, "--version"]);
    command::output(&mut version).is_ok()
}
