//! The defects of the Go implementation's flow control that this one does not have, by their number in
//! `spec/request-path.md` §A.4, each with a test that is named after it.
//!
//! | number | defect | test |
//! | --- | --- | --- |
//! | 28 | one dispatch per tick of a millisecond | [`a4_28_one_event_lets_go_all_that_fit_and_idle_costs_nothing`] |
//! | 29 | dispatch is open loop against a stale gauge | [`a4_29_a_stale_gauge_lets_no_more_go_than_fit`] |
//! | 30 | a few late scrapes stop the pool | [`a4_30_signals_that_stop_coming_do_not_stop_the_queue`]; `router_engine`: `a4_30_stale_signals_of_all_are_no_reason_to_stop` |
//! | 31 | subsets are ignored while queued | [`a4_31_who_waits_for_full_endpoints_holds_up_nobody`](super::subsets); `router_engine`: `a4_31_a_subset_without_endpoints_is_an_answer_and_not_a_wait`, `a4_31_a_request_waits_for_its_endpoints_and_holds_up_nobody` |
//! | 32 | strict head of line | [`a4_32_a_band_at_its_ceiling_is_not_stopped_for_ever`] |
//! | 33 | negative priorities are promoted | [`a4_33_a_priority_without_a_band_is_not_promoted`] |
//! | 34 | SIGTERM defeats the drain window | `router_engine`: `a4_34_what_waits_is_refused_at_the_end_of_a_drain_and_not_before`; `llm_d_router`: `a4_34_a_drain_serves_who_waits_and_tells_the_others_at_its_end` |
//! | 35 | the pool's label is empty | `llm_d_router`: `a4_35_flow_control_has_the_name_of_the_pool_in_its_metrics` |
//! | 36 | a setting is ignored without a warning | `router_framework`: `a4_36_every_setting_that_has_no_effect_without_the_gate_is_named` |
//! | 37 | no wait of a request's own | [`a4_37_a_request_may_have_a_shorter_wait_of_its_own`] |
//! | 38 | queued bodies count memory per band | [`a4_38_bytes_that_wait_are_bounded_for_all_bands_together_and_given_back_by_every_end`]; `router_engine`: `a4_38_a_queued_body_counts_once_and_every_end_gives_it_back` |
//! | 39 | labels of two bands for one request | [`a4_39_every_effect_names_the_band_that_the_request_is_in`]; `router_engine`: `a4_39_a_series_that_was_pruned_never_makes_a_gauge_negative` |
//! | 40 | a policy reports another type than its own | `router_engine`: `a4_40_every_policy_reports_the_type_that_it_is_registered_as` |
//! | 41 | filters and detectors disagree about nobody | `router_plugins`: `a4_41_without_any_signal_the_detector_says_so_and_the_filter_keeps_all`; `router_engine`: `a4_41_without_metrics_in_flight_requests_are_what_is_waited_for` |
//! | 42 | pages that do not exist | `llm_d_router`: `a4_42_the_page_of_flow_control_says_what_is_there` |
//! | 43 | what is on its way is invisible | [`a4_43_what_is_on_its_way_to_an_endpoint_keeps_its_room`] |

use std::{sync::Arc, time::Duration};

use router_core::Stamp;

use super::scene::{Scene, no_trickle};
use crate::{
    Ask, BandTemplate, Bounds, Config, Effect, Limit, PoolSignal, Refusal, StageLoad, Trickle,
    policy::{
        ordering::Edf,
        usage_limit::{HoldbackDomain, PriorityHoldback},
    },
};

#[test]
fn a4_28_one_event_lets_go_all_that_fit_and_idle_costs_nothing() {
    let mut scene = Scene::new(no_trickle());
    scene.pool(1.0, 0.0);
    let tickets: Vec<_> = (0..5_000).map(|_| scene.arrive(0)).collect();
    for ticket in tickets.iter().take(1_000) {
        scene.flow.cancel(scene.now, *ticket, &mut scene.effects);
    }
    scene.effects.clear();
    scene.pool(0.0, 0.0);
    assert_eq!(scene.gone().len(), 4_000);
    tickets.iter().for_each(|ticket| {
        scene.flow.finished(scene.now, *ticket, None, &mut scene.effects);
    });
    scene.at(600_000);
    assert_eq!(scene.flow.next_deadline(), None);
}

#[test]
fn a4_29_a_stale_gauge_lets_no_more_go_than_fit() {
    let mut scene = Scene::new(no_trickle());
    scene.pool(0.5, 0.1);
    let tickets: Vec<_> = (0..50).map(|_| scene.arrive(0)).collect();
    assert_eq!(scene.gone().len(), 5);
    // The same old reading again and again is no reason to let more go, though all are at their endpoints.
    let load = StageLoad { saturation: 0.5, per_request: 0.1, per_token: 0.0 };
    for millis in 1..100 {
        scene.at(millis);
        tickets.iter().take(5).for_each(|ticket| scene.placed(*ticket));
        let stale = PoolSignal::of_pool(load, Stamp::ORIGIN);
        scene.flow.signal(scene.now, stale, &mut scene.effects);
    }
    assert_eq!(scene.gone().len(), 0);
    // One that is young has them in it, and says how many more fit.
    scene.pool(0.8, 0.1);
    assert_eq!(scene.gone().len(), 2);
}

#[test]
fn a4_32_a_band_at_its_ceiling_is_not_stopped_for_ever() {
    let limit = PriorityHoldback { least: 0.5, most: 1.0, domain: HoldbackDomain::Rank };
    let every = Duration::from_secs(2);
    let mut scene = Scene::new(Config {
        usage_limit: Arc::new(limit),
        trickle: Some(Trickle { every, ..Trickle::default() }),
        ttl: None,
        ..Config::default()
    });
    scene.flow.provision(scene.now, &[100, -1], &mut scene.effects);
    scene.pool(0.6, 0.001);
    scene.arrive(-1);
    scene.arrive(-1);
    scene.arrive(0);
    assert_eq!(scene.gone(), [0]);
    scene.at(1_999);
    assert_eq!(scene.gone(), []);
    scene.at(2_000);
    assert_eq!(scene.gone(), [-1]);
    // Where the most important band has no room, nobody has.
    scene.pool(1.0, 0.001);
    scene.at(60_000);
    assert_eq!(scene.gone(), []);
}

#[test]
fn a4_33_a_priority_without_a_band_is_not_promoted() {
    let bounds = Bounds { max_bands: 3, ..Bounds::default() };
    let mut scene = Scene::new(Config { bounds, ..no_trickle() });
    scene.pool(1.0, 0.1);
    let priorities = |scene: &mut Scene| -> Vec<(i32, u64)> {
        let bands = scene.flow.snapshot(0).bands;
        bands.iter().map(|band| (band.priority, band.n_waiting)).collect()
    };
    scene.arrive(-5);
    scene.arrive(7);
    assert_eq!(priorities(&mut scene), [(7, 1), (0, 0), (-5, 1)]);
    // No more bands may be made: the next less important one takes them, if there is one.
    scene.arrive(3);
    scene.arrive(-2);
    scene.arrive(-9);
    scene.arrive(9);
    assert_eq!(priorities(&mut scene), [(7, 2), (0, 1), (-5, 3)]);
}

#[test]
fn a4_37_a_request_may_have_a_shorter_wait_of_its_own() {
    let template = BandTemplate { ordering: Arc::new(Edf), ..BandTemplate::default() };
    let mut scene = Scene::new(Config { template, ..no_trickle() });
    let ask = |seconds| Ask { ttl: Some(Duration::from_secs(seconds)), ..Ask::default() };
    scene.pool(1.0, 0.1);
    for seconds in [20, 5, 900] {
        scene.ask(ask(seconds));
    }
    scene.at(5_000);
    assert_eq!(scene.refused(), [(2, Refusal::EvictedTtl)]);
    scene.pool(0.85, 0.1);
    assert!(matches!(scene.effects[..], [Effect::Dispatch { payload: 1, .. }, _]));
    scene.pool(1.0, 0.1);
    scene.ask(ask(900));
    scene.effects.clear();
    scene.at(65_000);
    // Longer than the configured wait it cannot be.
    assert_eq!(scene.refused(), [(4, Refusal::EvictedTtl)]);
}

#[test]
fn a4_39_every_effect_names_the_band_that_the_request_is_in() {
    let bounds = Bounds { max_bands: 1, ..Bounds::default() };
    let mut scene = Scene::new(Config { bounds, ..no_trickle() });
    scene.pool(1.0, 0.1);
    scene.arrive(5);
    let ticket = scene.arrive(5);
    scene.flow.cancel(scene.now, ticket, &mut scene.effects);
    scene.pool(0.0, 0.1);
    let [Effect::Drop { priority: dropped, .. }, Effect::Dispatch { priority, .. }] =
        scene.effects[..]
    else {
        panic!("{:?}", scene.effects);
    };
    assert_eq!((dropped, priority), (0, 0));
}

#[test]
fn a4_30_signals_that_stop_coming_do_not_stop_the_queue() {
    let mut scene = Scene::new(Config { ttl: None, ..no_trickle() });
    scene.pool(0.95, 0.1);
    let mut running = scene.arrive(0);
    scene.arrive_n(50);
    scene.effects.clear();
    // One that ends makes room for one that waits, however old the last signal is.
    for second in 1..=50 {
        scene.at(second * 1_000);
        scene.placed(running);
        scene.flow.finished(scene.now, running, None, &mut scene.effects);
        let [Effect::Dispatch { ticket, .. }] = scene.effects[..] else {
            panic!("{:?} at {second} s", scene.effects);
        };
        scene.effects.clear();
        running = ticket;
    }
}

#[test]
fn a4_38_bytes_that_wait_are_bounded_for_all_bands_together_and_given_back_by_every_end() {
    let config = Config { max_bytes: Some(1_000), ..no_trickle() };
    let mut scene = Scene::new(config);
    scene.pool(1.0, 0.1);
    let ask = |priority| Ask { priority, bytes: 250, ..Ask::default() };
    let tickets: Vec<_> = (0..4).map(|priority| scene.ask(ask(priority))).collect();
    assert_eq!(scene.flow.waiting_bytes(), 1_000);
    scene.ask(ask(9));
    let limit = Limit::GlobalBytes;
    assert_eq!(scene.refused(), [(5, Refusal::RejectedCapacity(limit))]);
    // One hangs up, one is let go, and the waits of the others end.
    scene.flow.cancel(scene.now, tickets[0], &mut scene.effects);
    scene.pool(0.95, 0.1);
    assert_eq!(scene.flow.waiting_bytes(), 500);
    scene.at(60_000);
    assert_eq!(scene.flow.waiting_bytes(), 0);
}

#[test]
fn a4_43_what_is_on_its_way_to_an_endpoint_keeps_its_room() {
    let mut scene = Scene::new(no_trickle());
    scene.pool(0.5, 0.1);
    scene.arrive_n(20);
    assert_eq!(scene.gone().len(), 5);
    // Signals that are younger than the dispatches, of which no endpoint knows yet.
    for millis in 1..50 {
        scene.at(millis);
        scene.pool(0.5, 0.1);
    }
    assert_eq!(scene.gone().len(), 0);
}
