use router_framework::ProfileRun;
use router_testkit::scheduling::{EndpointFixture, Scene, SceneBuilder};

use super::*;

fn setup(params: &str, n_endpoints: usize) -> (Instance, Scene) {
    let mut builder = SceneBuilder::new();
    let plugin = builder.plugin(&PLUGIN, params);
    let scene = builder.scene((0..n_endpoints).map(|_| EndpointFixture::new()).collect());
    (plugin, scene)
}

/// Runs the hook for a request whose profiles found these targets among all candidates.
fn place(plugin: &Instance, scene: &Scene, targets: &[(&str, u32)]) {
    let cx = scene.cx();
    let run = |target| ProfileRun {
        ranked: [Position(target)].into_iter().collect(),
        n_shown: 1,
        scored: cx.candidates.positions().map(|at| (at, 0.0)).collect(),
    };
    let outcome = Outcome {
        names: targets.iter().map(|(name, _)| Arc::from(*name)).collect(),
        runs: targets.iter().map(|(_, target)| Some(run(*target))).collect(),
        primary: ProfileIndex(0),
    };
    let hook = plugin.pre_request.as_ref().unwrap();
    let lease = hook.pre_request(&cx, &outcome, &mut HeadPatch::default()).unwrap();
    assert!(lease.is_none());
}

#[test]
fn never_used_endpoints_come_first_then_the_least_recently_used() {
    let (plugin, scene) = setup("", 3);
    scene.assert_scores(&plugin, &[1.0, 0.5, 0.0]);
    place(&plugin, &scene, &[("default", 0)]);
    scene.assert_scores(&plugin, &[0.0, 1.0, 0.5]);
    place(&plugin, &scene, &[("default", 2)]);
    scene.assert_scores(&plugin, &[0.5, 1.0, 0.0]);
    place(&plugin, &scene, &[("default", 0)]);
    scene.assert_scores(&plugin, &[0.0, 1.0, 0.5]);
}

#[test]
fn a_single_candidate_gets_one() {
    let (plugin, scene) = setup("", 1);
    scene.assert_scores(&plugin, &[1.0]);
    place(&plugin, &scene, &[("default", 0)]);
    scene.assert_scores(&plugin, &[1.0]);
}

#[test]
fn a_request_with_a_hit_is_neutral_and_moves_nothing() {
    let mut builder = SceneBuilder::new();
    let plugin = builder.plugin(&PLUGIN, "");
    let cold = || EndpointFixture::new().prefix(0, 4, 64);
    let mut scene = builder.scene(vec![cold(), EndpointFixture::new().prefix(1, 4, 64), cold()]);
    scene.assert_scores(&plugin, &[0.5, 0.5, 0.5]);
    place(&plugin, &scene, &[("default", 0)]);
    scene.change(1, cold());
    scene.assert_scores(&plugin, &[1.0, 0.5, 0.0]);
}

#[test]
fn a09_targets_of_every_profile_count_whatever_its_name() {
    let (plugin, scene) = setup("", 3);
    place(&plugin, &scene, &[("generate", 1), ("my-prefill", 0)]);
    scene.assert_scores(&plugin, &[0.0, 0.5, 1.0]);
}

#[test]
fn a20_the_rank_is_among_the_candidates_alone() {
    let (plugin, mut scene) = setup("", 6);
    for target in [0, 1, 2, 3, 4, 5] {
        place(&plugin, &scene, &[("default", target)]);
    }
    scene.keep_only(&[4, 5]);
    scene.assert_scores(&plugin, &[1.0, 0.0]);
}

#[test]
fn a20_an_endpoint_that_vanishes_is_forgotten() {
    let (plugin, scene) = setup("", 3);
    for target in [2, 1, 0] {
        place(&plugin, &scene, &[("default", target)]);
    }
    scene.assert_scores(&plugin, &[0.0, 0.5, 1.0]);
    let gone = scene.cx().endpoint(Position(0)).unwrap().clone();
    plugin.listener.as_ref().unwrap().removed(&gone);
    scene.assert_scores(&plugin, &[1.0, 0.0, 0.5]);
    let dump = plugin.dump.as_ref().unwrap().dump();
    assert_eq!(dump["endpoints"], 2);
    assert_eq!(dump["mostRecentlyUsed"], serde_json::json!(["default/e1", "default/e2"]));
}

#[test]
fn a20_the_memory_is_bounded() {
    let (plugin, scene) = setup("{lruSize: 2}", 3);
    for target in [0, 1, 2] {
        place(&plugin, &scene, &[("default", target)]);
    }
    assert_eq!(plugin.dump.as_ref().unwrap().dump()["endpoints"], 2);
    scene.assert_scores(&plugin, &[1.0, 0.5, 0.0]);
}
