//! Where things are in the repository.

use std::path::{Path, PathBuf};

/// The repository's root folder.
pub(crate) fn root() -> PathBuf {
    let manifest_dir = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest_dir.parent().unwrap_or(manifest_dir).to_path_buf()
}

/// What `cargo xtask setup` installs: always in the repository, wherever cargo builds, so that
/// tests find it without being told.
pub(crate) fn tools() -> PathBuf {
    root().join("target/tools")
}

/// The Envoy binary that `setup` installed.
pub(crate) fn envoy() -> PathBuf {
    tools().join("bin/envoy")
}

/// Where cargo puts its results: `CARGO_TARGET_DIR` or `target`.
pub(crate) fn cargo_target() -> PathBuf {
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(dir) if !dir.is_empty() => root().join(dir),
        _ => root().join("target"),
    }
}

/// The router's release executable.
pub(crate) fn release_router() -> PathBuf {
    cargo_target().join("release").join(format!("llm-d-router{}", std::env::consts::EXE_SUFFIX))
}
