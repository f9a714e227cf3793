use router_testkit::scheduling::{EndpointFixture, Scene, SceneBuilder};

use super::*;

fn setup(params: &str, endpoints: Vec<EndpointFixture>) -> (Instance, Scene) {
    let mut builder = SceneBuilder::new();
    let plugin = builder.plugin(&PLUGIN, params);
    (plugin, builder.scene(endpoints))
}

fn check_saturation(params: &str, endpoints: Vec<EndpointFixture>, value: f64, n_stale: usize) {
    let (plugin, scene) = setup(params, endpoints);
    let found = scene.saturation(&plugin);
    assert_eq!(found, Saturation { value, n_stale });
}

fn check_filter(params: &str, endpoints: Vec<EndpointFixture>, kept: &[u32]) {
    let (plugin, scene) = setup(params, endpoints);
    scene.assert_kept(&plugin, kept);
}

fn load(waiting: f64, kv: f64) -> EndpointFixture {
    EndpointFixture::new().waiting(waiting).kv(kv)
}

#[test]
fn saturation_is_the_mean_of_the_larger_ratio() {
    check_saturation("", vec![load(0.0, 0.0)], 0.0, 0);
    check_saturation("", vec![load(5.0, 0.2)], 1.0, 0);
    check_saturation("", vec![load(1.0, 0.4), load(0.0, 0.8)], 0.75, 0);
    check_saturation("", vec![load(50.0, 0.0), load(0.0, 0.0)], 5.0, 0);
    check_saturation("{queueDepthThreshold: 10}", vec![load(5.0, 0.2)], 0.5, 0);
}

#[test]
fn an_empty_pool_is_full() {
    check_saturation("", vec![], 1.0, 0);
}

#[test]
fn stale_and_missing_signals_count_as_full() {
    let stale = load(0.0, 0.0).stale();
    check_saturation("", vec![load(0.0, 0.0), stale, EndpointFixture::new()], 2.0 / 3.0, 2);
}

#[test]
fn a4_29_a_request_that_no_scrape_shows_yet_counts_as_one_in_a_queue() {
    let params = "{queueDepthThreshold: 10}";
    let (plugin, mut scene) = setup(params, vec![load(0.0, 0.0), load(3.0, 0.1)]);
    let scraped_at = scene.now;
    scene.advance(Duration::from_millis(500));
    let expected = Increments { per_request: 0.05, per_token: 0.0, as_of: scraped_at };
    assert_eq!(scene.increments(&plugin), expected);
}

#[test]
fn one_number_is_enough() {
    check_saturation("", vec![EndpointFixture::new().waiting(2.0)], 0.4, 0);
    check_saturation("", vec![EndpointFixture::new().kv(0.4)], 0.5, 0);
    check_saturation("", vec![EndpointFixture::new().running(7.0)], 1.0, 1);
}

#[test]
fn a17_a_threshold_below_the_scrape_interval_does_not_fill_the_pool() {
    let params = "{metricsStalenessThreshold: 200ms}";
    let (plugin, mut scene) = setup(params, vec![load(0.0, 0.0)]);
    scene.freshness = Freshness::new(Duration::from_secs(2), Duration::from_secs(5));
    scene.advance(Duration::from_secs(19));
    assert_eq!(scene.saturation(&plugin), Saturation { value: 0.0, n_stale: 0 });
    scene.advance(Duration::from_secs(2));
    assert_eq!(scene.saturation(&plugin), Saturation { value: 1.0, n_stale: 1 });
}

#[test]
fn a17_a_longer_threshold_of_its_own_counts() {
    let params = "{metricsStalenessThreshold: 30s}";
    let (plugin, mut scene) = setup(params, vec![load(0.0, 0.0)]);
    scene.advance(Duration::from_secs(29));
    assert_eq!(scene.saturation(&plugin).n_stale, 0);
    scene.advance(Duration::from_secs(2));
    assert_eq!(scene.saturation(&plugin).n_stale, 1);
}

#[test]
fn the_filter_drops_what_is_full() {
    check_filter(
        "",
        vec![load(4.0, 0.1), load(5.0, 0.1), load(0.0, 0.8), load(0.0, 0.79)],
        &[0, 3],
    );
    check_filter("{headroom: 0.5}", vec![load(7.0, 0.1), load(8.0, 0.1), load(0.0, 1.0)], &[0, 2]);
}

#[test]
fn the_filter_keeps_all_when_all_are_full() {
    check_filter("", vec![load(9.0, 0.1), load(0.0, 0.9)], &[0, 1]);
}

#[test]
fn a16_an_endpoint_without_signals_is_neither_preferred_nor_starved_by_the_filter() {
    let never = EndpointFixture::new;
    let stale = || load(0.0, 0.0).stale();
    check_filter("", vec![never(), load(1.0, 0.1), load(9.0, 0.1), stale()], &[0, 1, 3]);
    check_filter("", vec![never(), load(9.0, 0.1)], &[0, 1]);
    check_filter("", vec![never(), stale()], &[0, 1]);
}

#[test]
fn a4_41_without_any_signal_the_detector_says_so_and_the_filter_keeps_all() {
    let unknown = || vec![EndpointFixture::new(), load(9.0, 0.9).stale(), load(0.0, 0.0).stale()];
    // Nothing of the value is known; the engine goes by the number of those that are stale.
    check_saturation("", unknown(), 1.0, 3);
    check_filter("", unknown(), &[0, 1, 2]);
    // An engine whose page has neither number is as unknown as one without a page.
    let silent = || vec![EndpointFixture::new().running(7.0), EndpointFixture::new()];
    check_saturation("", silent(), 1.0, 2);
    check_filter("", silent(), &[0, 1]);
}

#[test]
fn a22_percent_is_recognised() {
    check_saturation("", vec![load(0.0, 40.0)], 0.5, 0);
    check_filter("", vec![load(0.0, 40.0), load(0.0, 90.0)], &[0]);
}

#[test]
fn a02b_a_drained_filter_would_be_for_capacity() {
    let (plugin, _) = setup("", vec![]);
    assert_eq!(plugin.filter.unwrap().kind(), FilterKind::Capacity);
}

#[test]
fn parameters_are_checked() {
    let check = |params: &str, place: &str| {
        let error = SceneBuilder::refusal(&PLUGIN, params);
        assert!(error.contains(place), "{params}: {error}");
    };
    check("{queueDepthThreshold: 0}", "queueDepthThreshold");
    check("{kvCacheUtilThreshold: 1.2}", "kvCacheUtilThreshold");
    check("{kvCacheUtilThreshold: 0}", "kvCacheUtilThreshold");
    check("{metricsStalenessThreshold: 0s}", "metricsStalenessThreshold");
    check("{metricsStalenessThreshold: -1s}", "metricsStalenessThreshold");
    check("{metricsStalenessThreshold: soon}", "metricsStalenessThreshold");
    check("{headroom: -0.1}", "headroom");
}
