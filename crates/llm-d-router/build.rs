//! Notes the commit that a release is built from. `ROUTER_BUILD_COMMIT` and `ROUTER_BUILD_REF` go before
//! what git says; a source tree without git has neither.
#![allow(clippy::print_stdout, reason = "build scripts talk to cargo on standard output")]

use std::{env, path::Path};

#[path = "build/git.rs"]
mod git;

const COMMIT: &str = "ROUTER_BUILD_COMMIT";
const REF: &str = "ROUTER_BUILD_REF";

fn main() {
    println!("cargo::rerun-if-env-changed={COMMIT}");
    println!("cargo::rerun-if-env-changed={REF}");
    let given = |name| env::var(name).ok().filter(|value| !value.is_empty());
    // Linking all over after each commit is what a release may cost and a debug build may not.
    let is_release = env::var("PROFILE").is_ok_and(|profile| profile == "release");
    let head = if is_release && given(COMMIT).is_none() {
        // The folder that holds the workspace, not one that somebody unpacked a source tree into.
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        git::head(&root)
    } else {
        None
    };
    let head = head.unwrap_or_default();
    for path in &head.watched {
        println!("cargo::rerun-if-changed={}", path.display());
    }
    println!("cargo::rustc-env={COMMIT}={}", given(COMMIT).unwrap_or(head.commit));
    println!("cargo::rustc-env={REF}={}", given(REF).unwrap_or(head.branch));
}
