use router_testkit::scheduling::{EndpointFixture, SceneBuilder};

use super::*;

fn load(requests: i64, tokens: i64) -> EndpointFixture {
    EndpointFixture::new().in_flight(requests, tokens)
}

fn check_saturation(params: &str, endpoints: Vec<EndpointFixture>, value: f64) {
    let mut builder = SceneBuilder::new();
    let plugin = builder.plugin(&PLUGIN, params);
    let found = builder.scene(endpoints).saturation(&plugin);
    assert_eq!(found, Saturation { value, n_stale: 0 }, "{params}");
}

fn check_filter(params: &str, endpoints: Vec<EndpointFixture>, kept: &[u32]) {
    let mut builder = SceneBuilder::new();
    let plugin = builder.plugin(&PLUGIN, params);
    builder.scene(endpoints).assert_kept(&plugin, kept);
}

const LIMITS: &str = "maxConcurrency: 10, maxTokenConcurrency: 1000";

#[test]
fn saturation_counts_requests_tokens_or_both() {
    let pool = || vec![load(5, 100), load(0, 900)];
    check_saturation(&format!("{{{LIMITS}}}"), pool(), 0.25);
    check_saturation(&format!("{{{LIMITS}, concurrencyMode: tokens}}"), pool(), 0.5);
    check_saturation(&format!("{{{LIMITS}, concurrencyMode: hybrid}}"), pool(), 0.7);
    check_saturation("", vec![load(100, 0), load(100, 0)], 1.0);
}

#[test]
fn a_request_more_makes_as_much_as_its_share_of_the_limits() {
    let check = |mode: &str, per_request: f64, per_token: f64| {
        let mut builder = SceneBuilder::new();
        let params = format!("{{{LIMITS}, concurrencyMode: {mode}}}");
        let plugin = builder.plugin(&PLUGIN, &params);
        let scene = builder.scene(vec![load(5, 100), load(0, 900)]);
        let as_of = scene.now;
        assert_eq!(scene.increments(&plugin), Increments { per_request, per_token, as_of });
    };
    check("requests", 0.05, 0.0);
    check("tokens", 0.0, 0.0005);
    check("hybrid", 0.05, 0.0005);
}

#[test]
fn an_empty_pool_is_full_and_a_fresh_one_is_idle() {
    check_saturation("", vec![], 1.0);
    check_saturation("", vec![EndpointFixture::new()], 0.0);
    check_saturation("", vec![load(-3, -7)], 0.0);
}

#[test]
fn the_filter_drops_endpoints_at_their_limit() {
    let pool = || vec![load(9, 1000), load(10, 0), load(12, 999)];
    check_filter(&format!("{{{LIMITS}}}"), pool(), &[0]);
    check_filter(&format!("{{{LIMITS}, concurrencyMode: tokens}}"), pool(), &[1, 2]);
    check_filter(&format!("{{{LIMITS}, concurrencyMode: hybrid}}"), pool(), &[]);
    check_filter(&format!("{{{LIMITS}, headroom: 0.25}}"), pool(), &[0, 1]);
    check_filter(&format!("{{{LIMITS}, headroom: 0.35}}"), pool(), &[0, 1, 2]);
}

#[test]
fn a02b_a_drained_filter_is_for_capacity() {
    let plugin = SceneBuilder::new().plugin(&PLUGIN, "");
    assert_eq!(plugin.filter.unwrap().kind(), FilterKind::Capacity);
}

#[test]
fn parameters_are_checked() {
    let check = |params: &str, place: &str| {
        let error = SceneBuilder::refusal(&PLUGIN, params);
        assert!(error.contains(place), "{params}: {error}");
    };
    check("{maxConcurrency: 0}", "maxConcurrency");
    check("{maxTokenConcurrency: -1}", "maxTokenConcurrency");
    check("{concurrencyMode: both}", "concurrencyMode");
    check("{headroom: -1}", "headroom");
}
