//! `cargo xtask codegen [--check]`: the generated Rust of `crates/proto`.
//!
//! The generator is a package of its own (`xtask/codegen`), outside the workspace: its dependencies
//! take a minute to build and almost nobody needs them. A plain `cargo test` holds the committed
//! files to their sums; this command regenerates them.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, ensure};

/// Regenerates the files; with `check_only` it writes nothing and fails where a file differs.
pub(crate) fn run(check_only: bool) -> anyhow::Result<()> {
    let xtask_dir = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command
        .args(["run", "--quiet", "--locked", "--manifest-path"])
        .arg(xtask_dir.join("codegen/Cargo.toml"))
        .arg("--target-dir")
        .arg(target_dir(xtask_dir));
    if check_only {
        command.args(["--", "--check"]);
    }
    let status = command.status().context("starting cargo for xtask/codegen")?;
    ensure!(status.success(), "code generation ended with {status}");
    Ok(())
}

/// A folder below the usual one, so that both builds keep what they built.
fn target_dir(xtask_dir: &Path) -> PathBuf {
    let usual = std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| xtask_dir.join("../target"), PathBuf::from);
    usual.join("codegen")
}
