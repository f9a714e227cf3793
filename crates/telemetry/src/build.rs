//! What was built, from what.

/// Version and origin of a build.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BuildInfo {
    pub version: &'static str,
    /// The commit, or empty when the build did not say.
    pub commit: &'static str,
    /// The branch or tag, or empty when the build did not say.
    pub build_ref: &'static str,
}

/// The version alone, for tests and tools. The executable knows its commit and hands it in: were it known
/// here, each commit would build every crate anew.
pub const BUILD: BuildInfo =
    BuildInfo { version: env!("CARGO_PKG_VERSION"), commit: "", build_ref: "" };
