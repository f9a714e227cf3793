//! Explores a fuzz target with seeded random mutations, on any toolchain.
//!
//! `cargo xtask fuzz` runs it where libFuzzer cannot be built.
#![allow(clippy::print_stdout, reason = "a command-line tool talks to its user")]
#![allow(clippy::disallowed_types, reason = "measures real time; nothing here runs under replay")]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::{Parser, Subcommand};
use parking_lot::Mutex;
use router_fuzz::{Mutator, TARGETS, Target};

/// An input that takes longer is a hang.
const HANG: Duration = Duration::from_secs(10);

#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Print the names of the targets.
    List,
    /// Give a target mutated inputs until the time is over or one fails.
    Run {
        target: String,
        #[arg(long, default_value_t = 60)]
        seconds: u64,
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// Folder for an input that fails.
        #[arg(long, default_value = "target/fuzz/crashes")]
        crashes: PathBuf,
    },
}

fn main() -> anyhow::Result<ExitCode> {
    match Cli::parse().command {
        Command::List => {
            for (name, _) in TARGETS {
                println!("{name}");
            }
            Ok(ExitCode::SUCCESS)
        }
        Command::Run { target, seconds, seed, crashes } => {
            let function = router_fuzz::target(&target).context("no such target; try `list`")?;
            let limit = Duration::from_secs(seconds);
            explore(&target, function, limit, seed, &crashes)
        }
    }
}

/// The input that runs at the moment and since when.
type Current = Arc<Mutex<Option<(Vec<u8>, Instant)>>>;

fn explore(
    name: &str,
    target: Target,
    limit: Duration,
    seed: u64,
    crashes: &Path,
) -> anyhow::Result<ExitCode> {
    let seeds = router_fuzz::inputs(name)?.into_iter().map(|input| input.bytes).collect();
    let mut mutator = Mutator::new(seed, seeds);
    let current = Current::default();
    watch_for_hangs(name, &current, crashes);
    let started = Instant::now();
    let (mut n_inputs, mut slowest) = (0_u64, Duration::ZERO);
    while started.elapsed() < limit {
        let input = mutator.next_input();
        let begun = Instant::now();
        *current.lock() = Some((input.clone(), begun));
        if catch_unwind(AssertUnwindSafe(|| target(&input))).is_err() {
            let path = save(crashes, name, "crash", &input)?;
            println!("{name}: an input of {} bytes panics: {}", input.len(), path.display());
            return Ok(ExitCode::FAILURE);
        }
        *current.lock() = None;
        slowest = slowest.max(begun.elapsed());
        n_inputs += 1;
    }
    println!("{name}: {n_inputs} inputs with seed {seed}, the slowest took {slowest:?}");
    Ok(ExitCode::SUCCESS)
}

fn watch_for_hangs(name: &str, current: &Current, crashes: &Path) {
    let (name, current, crashes) = (name.to_owned(), Arc::clone(current), crashes.to_owned());
    std::thread::spawn(move || {
        loop {
            std::thread::sleep(HANG / 10);
            let hung = current.lock().as_ref().filter(|(_, begun)| begun.elapsed() > HANG).cloned();
            if let Some((input, _)) = hung {
                match save(&crashes, &name, "hang", &input) {
                    Ok(path) => println!("{name}: runs over {HANG:?}: {}", path.display()),
                    Err(error) => println!("{name}: runs over {HANG:?}, not saved: {error}"),
                }
                std::process::exit(1);
            }
        }
    });
}

fn save(crashes: &Path, name: &str, kind: &str, input: &[u8]) -> anyhow::Result<PathBuf> {
    std::fs::create_dir_all(crashes)?;
    let sum = input.iter().fold(0_u64, |sum, &byte| {
        // FNV-1a: equal inputs get the same file.
        (sum ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let path = crashes.join(format!("{name}-{kind}-{sum:016x}"));
    std::fs::write(&path, input)?;
    Ok(path)
}
