//! Which crate may use which: the arrows of ARCHITECTURE.md, held against `cargo metadata`.

use anyhow::Context;
use serde::Deserialize;

use super::Finding;
use crate::command;

const BOTTOM: &[&str] = &["router-core", "router-rt", "router-proto", "router-telemetry"];
const BELOW_FRAMEWORK: &[&str] = &["router-wire", "router-kvcache", "router-flow"];
const ENGINE_AND_BELOW: &[&str] = &["router-engine", "router-framework"];

/// What a crate may use, lowest crate first. A crate that is not here is a finding: decide its place.
const ARROWS: &[(&str, &[&[&str]])] = &[
    ("router-core", &[]),
    ("router-proto", &[]),
    ("router-telemetry", &[]),
    ("router-rt", &[&["router-core"]]),
    ("router-wire", &[&["router-core"]]),
    ("router-kvcache", &[&["router-core"]]),
    ("router-flow", &[&["router-core"]]),
    ("router-net", &[&["router-core", "router-rt", "router-telemetry"]]),
    ("router-framework", &[&["router-core", "router-rt", "router-telemetry"], BELOW_FRAMEWORK]),
    (
        "router-plugins",
        &[&["router-core", "router-rt", "router-telemetry", "router-framework"], BELOW_FRAMEWORK],
    ),
    (
        "router-engine",
        &[&["router-core", "router-rt", "router-telemetry", "router-framework"], BELOW_FRAMEWORK],
    ),
    ("router-extproc", DRIVER),
    ("router-proxy", DRIVER),
    ("router-sim", DRIVER),
    (
        "llm-d-router",
        &[
            BOTTOM,
            BELOW_FRAMEWORK,
            ENGINE_AND_BELOW,
            &["router-net", "router-plugins", "router-extproc", "router-proxy", "router-sim"],
        ],
    ),
    ("router-testkit", &[BOTTOM, BELOW_FRAMEWORK, ENGINE_AND_BELOW, &["router-plugins"]]),
    // Tools: nothing uses them.
    ("router-fuzz", &[ALL_LIBRARIES]),
    ("router-bench", &[ALL_LIBRARIES, &["llm-d-router"]]),
    ("xtask", &[]),
];

/// Drivers feed the engine; none of them knows another.
const DRIVER: &[&[&str]] = &[BOTTOM, BELOW_FRAMEWORK, ENGINE_AND_BELOW, &["router-net"]];

const ALL_LIBRARIES: &[&str] = &[
    "router-core",
    "router-rt",
    "router-proto",
    "router-telemetry",
    "router-wire",
    "router-kvcache",
    "router-flow",
    "router-net",
    "router-framework",
    "router-plugins",
    "router-engine",
    "router-extproc",
    "router-proxy",
    "router-sim",
];

/// What tests may use beyond their crate's own arrows and `router-testkit`.
const DEV_ARROWS: &[(&str, &[&str])] = &[
    // Whole-system tests speak to the executable as Envoy does, and start model servers.
    ("llm-d-router", &["router-proto", "router-bench"]),
    ("router-extproc", &["router-plugins"]),
    ("router-proxy", &["router-plugins"]),
    ("router-sim", &["router-plugins"]),
    ("router-testkit", &["router-net"]),
    ("router-bench", &["router-testkit"]),
];

/// Third-party crates that a crate must do without, to stay pure, quick to build and to test.
const KEPT_OUT: &[(&str, &[&str])] = &[
    ("router-core", &["tokio", "hyper", "tonic", "serde", "serde_json"]),
    ("router-wire", &["tokio", "hyper", "tonic", "serde_json"]),
    ("router-kvcache", &["tokio", "hyper", "tonic", "serde_json"]),
    ("router-flow", &["tokio", "hyper", "tonic", "serde", "serde_json", "parking_lot"]),
    ("router-proto", &["tokio", "hyper"]),
    ("router-framework", &["tokio", "hyper", "hyper-util", "tonic", "rustls"]),
    ("router-plugins", &["tokio", "hyper", "hyper-util", "tonic", "rustls"]),
    ("router-engine", &["hyper", "hyper-util", "tonic", "rustls"]),
    ("router-proxy", &["tonic"]),
    ("router-sim", &["tonic"]),
    ("router-net", &["tonic"]),
];

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    dependencies: Vec<Dependency>,
}

#[derive(Deserialize)]
struct Dependency {
    name: String,
    /// None for a normal one; `dev` or `build`.
    kind: Option<String>,
    /// Set for a crate of this workspace.
    path: Option<String>,
}

pub(super) fn check() -> anyhow::Result<Vec<Finding>> {
    let text = command::output(command::cargo().args([
        "metadata",
        "--format-version",
        "1",
        "--no-deps",
        "--offline",
    ]))?;
    let metadata: Metadata = serde_json::from_str(&text).context("output of cargo metadata")?;
    Ok(metadata.packages.iter().flat_map(check_package).collect())
}

fn check_package(package: &Package) -> Vec<Finding> {
    let finding = |message| Finding {
        path: format!("Cargo.toml of {}", package.name),
        line: 1,
        rule: "arrow",
        message,
    };
    let Some((_, allowed)) = ARROWS.iter().find(|(name, _)| *name == package.name) else {
        return vec![finding("decide its place in xtask/src/tidy/arrows.rs".to_owned())];
    };
    let allowed: Vec<&str> = allowed.iter().copied().flatten().copied().collect();
    let extra = DEV_ARROWS.iter().find(|(name, _)| *name == package.name).map_or(&[][..], |d| d.1);
    let kept_out = KEPT_OUT.iter().find(|(name, _)| *name == package.name).map_or(&[][..], |k| k.1);
    let mut findings = Vec::new();
    for dependency in &package.dependencies {
        let name = dependency.name.as_str();
        let is_dev = dependency.kind.as_deref() == Some("dev");
        if dependency.path.is_some() {
            let is_dev_allowed = is_dev && (name == "router-testkit" || extra.contains(&name));
            if !allowed.contains(&name) && !is_dev_allowed {
                let kind = if is_dev { "in tests " } else { "" };
                findings.push(finding(format!("must not use {name} {kind}(design: arrows)")));
            }
        } else if !is_dev && kept_out.contains(&name) {
            findings.push(finding(format!("must do without the crate {name}")));
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(package: &str, dependency: &str, kind: Option<&str>, is_own: bool, is_refused: bool) {
        let findings = check_package(&Package {
            name: package.to_owned(),
            dependencies: vec![Dependency {
                name: dependency.to_owned(),
                kind: kind.map(str::to_owned),
                path: is_own.then(|| "somewhere".to_owned()),
            }],
        });
        assert_eq!(!findings.is_empty(), is_refused, "{package} -> {dependency}: {findings:?}");
    }

    #[test]
    fn arrows_point_down() {
        check("router-engine", "router-framework", None, true, false);
        check("router-engine", "router-plugins", None, true, true);
        check("router-plugins", "router-engine", None, true, true);
        check("router-engine", "router-net", None, true, true);
        check("router-extproc", "router-proxy", None, true, true);
        check("router-core", "router-testkit", None, true, true);
        check("router-core", "router-testkit", Some("dev"), true, false);
        check("router-engine", "router-sim", Some("dev"), true, true);
        check("router-core", "tokio", None, false, true);
        check("router-plugins", "tokio", Some("dev"), false, false);
        check("router-unheard-of", "router-core", None, true, true);
    }

    #[test]
    fn no_two_crates_use_each_other() {
        for (one, arrows) in ARROWS {
            for other in arrows.iter().copied().flatten() {
                let back = ARROWS.iter().find(|(name, _)| name == other);
                let back = back.expect("every arrow ends at a crate of the table").1;
                let has_back = back.iter().copied().flatten().any(|name| name == one);
                assert!(!has_back, "{one} and {other} use each other");
            }
        }
    }
}
