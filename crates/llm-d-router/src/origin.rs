//! What this executable was built from. The build script finds it.

use router_telemetry::BuildInfo;

/// This build.
pub(crate) const BUILD: BuildInfo = BuildInfo {
    version: env!("CARGO_PKG_VERSION"),
    commit: env!("ROUTER_BUILD_COMMIT"),
    build_ref: env!("ROUTER_BUILD_REF"),
};
