//! Runs other programs and says what runs and how long it took.

use std::ffi::OsStr;
use std::process::{Command, Stdio};
use std::time::SystemTime;

use anyhow::{Context, bail};

use crate::paths;

/// Says on one line what begins, so that nobody watches a silent terminal.
pub(crate) fn announce(what: &str) {
    println!("==> {what}");
}

/// Runs `command` in the repository's root with its output shown, and fails if it fails.
pub(crate) fn run(what: &str, command: &mut Command) -> anyhow::Result<()> {
    announce(what);
    let started = SystemTime::now();
    let status = command
        .current_dir(paths::root())
        .status()
        .with_context(|| format!("cannot start {}", display(command)))?;
    let seconds = started.elapsed().map_or(0.0, |elapsed| elapsed.as_secs_f64());
    if !status.success() {
        bail!("{what}: {status} after {seconds:.0} s: {}", display(command));
    }
    if seconds > 2.0 {
        println!("    done in {seconds:.0} s");
    }
    Ok(())
}

/// Standard output of `command`, or an error that carries what it wrote to standard error.
pub(crate) fn output(command: &mut Command) -> anyhow::Result<String> {
    let out = command
        .current_dir(paths::root())
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot start {}", display(command)))?;
    if !out.status.success() {
        bail!("{}: {}\n{}", display(command), out.status, String::from_utf8_lossy(&out.stderr));
    }
    String::from_utf8(out.stdout)
        .with_context(|| format!("output of {} is not UTF-8", display(command)))
}

/// The cargo that runs this program, so that the toolchain stays the same.
pub(crate) fn cargo() -> Command {
    Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

fn display(command: &Command) -> String {
    let words: Vec<_> = std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(OsStr::to_string_lossy)
        .collect();
    words.join(" ")
}
