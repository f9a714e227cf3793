//! `cargo xtask fuzz`: explores the fuzz targets beyond the committed corpus.
//!
//! libFuzzer drives them where a C++ compiler is there: it needs no nightly toolchain, because the
//! coverage counters are an LLVM pass that stable rustc can be told to run and no sanitizer is
//! wanted in a workspace without `unsafe`.
//! Else the seeded mutator of router-fuzz does, without coverage feedback.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, bail};

use crate::{command, paths};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// The target to explore; all of them in turn when left out.
    target: Option<String>,
    /// How long to explore each target, in seconds.
    #[arg(long, default_value_t = 60, value_name = "N")]
    seconds: u64,
    /// List the targets and stop.
    #[arg(long)]
    list: bool,
    /// Use the seeded random mutator even where libFuzzer can be built.
    #[arg(long)]
    mutator: bool,
    /// Seed of the random mutator; the same seed makes the same inputs.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// Longest input made, in bytes: every parser sees many chunks, buffers and limits within this.
const MAX_INPUT_LEN: u32 = 64 * 1024;
/// A parser of foreign bytes that holds more than this for such an input has no bound, in MiB.
const MAX_MEMORY_MIB: u32 = 1024;
/// An input that takes longer is reported as a hang, in seconds.
const MAX_INPUT_SECONDS: u32 = 10;

pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    command::run(
        "building the fuzz targets",
        command::cargo().args(["build", "--release", "--locked", "--package", "router-fuzz"]),
    )?;
    let mutator = paths::cargo_target().join("release/router-fuzz");
    let known = command::output(Command::new(&mutator).arg("list"))?;
    if args.list {
        print!("{known}");
        return Ok(());
    }
    let targets: Vec<&str> = match &args.target {
        Some(wanted) if !known.lines().any(|known| known == wanted) => {
            bail!("no fuzz target {wanted}; there are:\n{known}")
        }
        Some(wanted) => vec![wanted],
        None => known.lines().collect(),
    };
    let libfuzzer = if args.mutator { None } else { build_libfuzzer()? };
    let crashes = paths::root().join("target/fuzz/crashes");
    fs::create_dir_all(&crashes)?;
    for target in targets {
        match &libfuzzer {
            Some(program) => run_libfuzzer(program, target, args.seconds)?,
            None => command::run(
                &format!("exploring {target} with the random mutator for {} s", args.seconds),
                Command::new(&mutator)
                    .args(["run", target])
                    .args(["--seconds", &args.seconds.to_string()])
                    .args(["--seed", &args.seed.to_string()])
                    .arg("--crashes")
                    .arg(&crashes),
            )?,
        }
    }
    Ok(())
}

fn run_libfuzzer(program: &PathBuf, target: &str, seconds: u64) -> anyhow::Result<()> {
    let found = paths::root().join("target/fuzz/corpus").join(target);
    fs::create_dir_all(&found)?;
    command::run(
        &format!("exploring {target} with libFuzzer for {seconds} s"),
        Command::new(program)
            .env("ROUTER_FUZZ_TARGET", target)
            // What is found goes to the first folder; the committed corpus is only read.
            .arg(&found)
            .arg(paths::root().join("fuzz/corpus").join(target))
            .arg(format!("-max_total_time={seconds}"))
            .arg(format!("-max_len={MAX_INPUT_LEN}"))
            .arg(format!("-rss_limit_mb={MAX_MEMORY_MIB}"))
            .arg(format!("-timeout={MAX_INPUT_SECONDS}"))
            .arg(format!(
                "-artifact_prefix={}",
                paths::root().join(format!("target/fuzz/crashes/{target}-")).display()
            ))
            .args(["-print_final_stats=1", "-verbosity=1"]),
    )
}

const MAIN_RS: &str = r#"#![no_main]
use std::sync::LazyLock;

static TARGET: LazyLock<fn(&[u8])> = LazyLock::new(|| {
    let name = std::env::var("ROUTER_FUZZ_TARGET").expect("cargo xtask fuzz sets it");
    router_fuzz::target(&name).expect("cargo xtask fuzz checked the name")
});

libfuzzer_sys::fuzz_target!(|data: &[u8]| TARGET(data));
"#;

/// What cargo-fuzz passes, without its sanitizers.
const COVERAGE_FLAGS: &str = "--cfg fuzzing \
    -Cpasses=sancov-module \
    -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
    -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares \
    -Clink-dead-code -Ccodegen-units=1 -Cdebug-assertions -Coverflow-checks";

/// Builds one program that runs any target, or says why there is none.
fn build_libfuzzer() -> anyhow::Result<Option<PathBuf>> {
    let cxx = std::env::var("CXX").unwrap_or_else(|_| "c++".to_owned());
    if command::output(Command::new(&cxx).arg("--version")).is_err() {
        println!("==> no C++ compiler: the random mutator is used instead of libFuzzer");
        return Ok(None);
    }
    let dir = paths::root().join("target/fuzz/libfuzzer");
    fs::create_dir_all(dir.join("src"))?;
    // Outside the workspace, so that nobody else has to build libFuzzer.
    let manifest = format!(
        "[package]\nname = \"router-libfuzzer\"\nversion = \"0.0.0\"\nedition = \"2024\"\n\n\
         [workspace]\n\n\
         [dependencies]\nlibfuzzer-sys = \"0.4\"\nrouter-fuzz = {{ path = \"{}\" }}\n\n\
         [profile.release]\ndebug = \"line-tables-only\"\n",
        paths::root().join("fuzz").display()
    );
    fs::write(dir.join("Cargo.toml"), manifest)?;
    fs::write(dir.join("src/main.rs"), MAIN_RS)?;
    fs::copy(paths::root().join("Cargo.lock"), dir.join("Cargo.lock"))
        .context("cannot copy Cargo.lock")?;
    let host = host_triple()?;
    let built = command::run(
        "building libFuzzer and the instrumented targets",
        command::cargo()
            .args(["build", "--release", "--target", &host])
            .arg("--manifest-path")
            .arg(dir.join("Cargo.toml"))
            .arg("--target-dir")
            .arg(dir.join("target"))
            .env("RUSTFLAGS", COVERAGE_FLAGS),
    );
    match built {
        Ok(()) => Ok(Some(dir.join("target").join(host).join("release/router-libfuzzer"))),
        Err(error) => {
            println!("==> libFuzzer cannot be built here, the random mutator is used: {error}");
            Ok(None)
        }
    }
}

/// Naming the target keeps the flags away from build scripts and procedural macros.
fn host_triple() -> anyhow::Result<String> {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let said = command::output(Command::new(rustc).arg("-vV"))?;
    let host = said.lines().find_map(|line| line.strip_prefix("host: "));
    host.map(str::to_owned).context("rustc -vV names no host")
}
