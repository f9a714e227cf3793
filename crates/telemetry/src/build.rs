//! What was built, from what.

/// Version and origin of this build.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BuildInfo {
    pub version: &'static str,
    /// The commit, or empty when the build did not say.
    pub commit: &'static str,
    /// The branch or tag, or empty when the build did not say.
    pub build_ref: &'static str,
}

/// This build. Release builds set `ROUTER_BUILD_COMMIT` and `ROUTER_BUILD_REF` while compiling.
pub const BUILD: BuildInfo = BuildInfo {
    version: env!("CARGO_PKG_VERSION"),
    commit: match option_env!("ROUTER_BUILD_COMMIT") {
        Some(commit) => commit,
        None => "",
    },
    build_ref: match option_env!("ROUTER_BUILD_REF") {
        Some(build_ref) => build_ref,
        None => "",
    },
};
