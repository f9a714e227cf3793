//! Where `cargo xtask setup` put what tests need.

use std::io;
use std::path::{Path, PathBuf};

/// `target/tools` of the repository, or the folder named by `ROUTER_TOOLS`.
pub fn dir() -> PathBuf {
    match std::env::var_os("ROUTER_TOOLS") {
        Some(dir) => dir.into(),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/tools"),
    }
}

/// The real Envoy; an error that says what to run if it is not installed.
pub fn envoy() -> io::Result<PathBuf> {
    installed("bin/envoy")
}

/// A Python that sees the packages of `xtask/requirements.txt`.
pub fn python() -> io::Result<PathBuf> {
    installed("bin/python")
}

/// A headless Chromium; `None` where `cargo xtask setup` found no way to install one and said so.
pub fn browser() -> io::Result<Option<PathBuf>> {
    if dir().join("browser/absent").try_exists()? {
        return Ok(None);
    }
    installed("browser/run").map(Some)
}

fn installed(name: &str) -> io::Result<PathBuf> {
    let path = dir().join(name);
    path.canonicalize().map(|_| path.clone()).map_err(|error| {
        let advice = format!("{}: {error}: run `cargo xtask setup` first", path.display());
        io::Error::new(error.kind(), advice)
    })
}
