//! A bug in one plugin does not fail a request, except where going on would break a promise.

use std::{collections::BTreeMap, sync::Arc};

use router_core::{EndpointSpec, ErrorCode};
use router_engine::{AttemptFailure, Routed};
use router_framework::{
    Admitter, DataProducer, EndCause, EndpointListener, EndpointSink, Filter, Loaded, Parser,
    Picker, PreRequest, ProfileHandler, RequestHeaderHook, ResponseBodyHook, ResponseHeaderHook,
    SaturationDetector, Scorer, Screener,
};
use router_testkit::router::{TestRouter, head, named, with_header};

use crate::roles::{
    BadLease, BadParser, CHAT, CHAT_PATH, Full, Ledger, Panics, PanicsLater, by_queue, chunk,
    queues, respond,
};

fn world(change: impl FnOnce(&mut Loaded) + 'static) -> TestRouter {
    let world =
        by_queue().settings(|settings| settings.decisions.sampling = 1.0).change(change).build();
    queues(&world);
    world
}

fn names(routed: &Routed) -> Vec<&str> {
    routed.targets.iter().map(|endpoint| endpoint.name()).collect()
}

/// How often the plugin called `bad` has panicked, by extension point.
fn panics(world: &TestRouter) -> BTreeMap<String, f64> {
    let page = world.page();
    let of_family =
        page.lines().filter_map(|line| line.strip_prefix("llm_d_epp_plugin_panics_total{"));
    let series = of_family.filter_map(|rest| {
        let rest = rest.strip_prefix("extension_point=\"")?;
        let (point, rest) = rest.split_once("\",plugin_name=\"bad\",plugin_type=\"bad\"} ")?;
        Some((point.to_owned(), rest.parse().unwrap()))
    });
    series.collect()
}

/// With this change the request is decided on as without it, and answered to its end; the bad plugin has
/// panicked this often at these points.
async fn check<const N: usize>(
    expected: [(&str, f64); N],
    change: impl FnOnce(&mut Loaded) + 'static,
) {
    let world = world(change);
    let mut routed = world.decide(head(CHAT_PATH), CHAT).await.unwrap();
    assert_eq!(names(&routed), ["e0", "e1", "e2"]);
    assert!(routed.head_patch.set.iter().all(|(name, _)| name != http::header::FROM));
    respond(&mut routed.exchange, 200, "text/event-stream");
    assert_eq!(chunk(&mut routed.exchange, "data: {}\n\n"), b"data: {}\n\n");
    routed.exchange.end(EndCause::Natural);
    assert_eq!(world.sum("llm_d_epp_request_duration_seconds_count", &[]), 1.0);
    assert_eq!(world.sum("llm_d_epp_request_error_total", &[]), 0.0);
    assert_eq!(panics(&world), expected.map(|(point, n)| (point.to_owned(), n)).into());
}

#[tokio::test(start_paused = true)]
async fn a_scorer_has_no_opinion() {
    check([("Scorer", 1.0)], |loaded| {
        let scorer: Arc<dyn Scorer> = Arc::new(Panics);
        loaded.profiles[0].scorers.push((named("bad", scorer), 100.0));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_filter_filters_nothing() {
    check([("Filter", 1.0)], |loaded| {
        let filter: Arc<dyn Filter> = Arc::new(Panics);
        loaded.profiles[0].filters.push(named("bad", filter));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn without_a_picker_the_best_score_wins() {
    check([("Picker", 1.0)], |loaded| {
        let picker: Arc<dyn Picker> = Arc::new(Panics);
        loaded.profiles[0].picker = named("bad", picker);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_producer_writes_nothing() {
    for producer in [Arc::new(Panics) as Arc<dyn DataProducer>, Arc::new(PanicsLater)] {
        let world = world(|loaded| loaded.producers.push(named("bad", producer)));
        let routed = world.decide(head(CHAT_PATH), CHAT).await.unwrap();
        assert_eq!(names(&routed), ["e0", "e1", "e2"]);
        assert_eq!(world.decisions().records()[0].failed_producers, ["bad: it panicked"]);
        assert_eq!(panics(&world), [("DataProducer".to_owned(), 1.0)].into());
    }
}

#[tokio::test(start_paused = true)]
async fn hooks_and_admitters_are_passed_over() {
    let expected = [
        ("Admission", 1.0),
        // The three endpoints that were found.
        ("Discovery", 3.0),
        ("PreRequest", 1.0),
        ("RequestHeader", 1.0),
        ("ResponseReceived", 1.0),
        // One chunk and the end.
        ("ResponseStreaming", 2.0),
    ];
    check(expected, |loaded| {
        let hook: Arc<dyn RequestHeaderHook> = Arc::new(Panics);
        loaded.request_headers.push(named("bad", hook));
        let admitter: Arc<dyn Admitter> = Arc::new(Panics);
        loaded.admitters.push(named("bad", admitter));
        let hook: Arc<dyn PreRequest> = Arc::new(Panics);
        loaded.pre_requests.push(named("bad", hook));
        let hook: Arc<dyn ResponseHeaderHook> = Arc::new(Panics);
        loaded.response_headers.push(named("bad", hook));
        let hook: Arc<dyn ResponseBodyHook> = Arc::new(Panics);
        loaded.response_bodies.push(named("bad", hook));
        let listener: Arc<dyn EndpointListener> = Arc::new(Panics);
        loaded.listeners.push(named("bad", listener));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_response_parser_reads_no_further_and_the_bytes_go_on() {
    for (at, n) in [("response", 1.0), ("response chunk", 1.0), ("usage", 2.0), ("events", 1.0)] {
        let expected = [("ResponseParsing", n), ("ResponseStreaming", 2.0)];
        check(expected, move |loaded| {
            let parser: Arc<dyn Parser> = Arc::new(BadParser { at });
            loaded.parsers = vec![named("bad", parser)];
            let hook: Arc<dyn ResponseBodyHook> = Arc::new(Panics);
            loaded.response_bodies.push(named("bad", hook));
        })
        .await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_detector_that_panics_sheds_nobody() {
    let sheddable = || with_header(head(CHAT_PATH), "x-llm-d-inference-objective", "low");
    let shed = |detector: Arc<dyn SaturationDetector>| async move {
        let world = by_queue()
            .objective("low", -1)
            .change(|loaded| loaded.detector = named("detector", detector))
            .build();
        world.decide(sheddable(), CHAT).await.map(|_| ()).map_err(|rejection| rejection.code)
    };
    assert_eq!(shed(Arc::new(Full(1.0))).await, Err(ErrorCode::ResourceExhausted));
    assert_eq!(shed(Arc::new(Panics)).await, Ok(()));
}

#[tokio::test(start_paused = true)]
async fn a_screener_is_a_mandatory_constraint_and_fails_closed() {
    let world = world(|loaded| {
        let screener: Arc<dyn Screener> = Arc::new(Panics);
        loaded.screeners.push(named("bad", screener));
    });
    let rejection = world.decide(head(CHAT_PATH), CHAT).await.unwrap_err();
    assert_eq!(rejection.code, ErrorCode::ServiceUnavailable);
    assert_eq!(rejection.reason.unwrap().as_str(), "rejected-no-endpoints");
}

#[tokio::test(start_paused = true)]
async fn nobody_can_decide_for_a_profile_handler() {
    let world = world(|loaded| {
        let handler: Arc<dyn ProfileHandler> = Arc::new(Panics);
        loaded.profile_handler = named("bad", handler);
    });
    let rejection = world.decide(head(CHAT_PATH), CHAT).await.unwrap_err();
    assert_eq!(rejection.code, ErrorCode::Internal);
    assert_eq!(rejection.body(), "inference error: Internal - internal error");
    assert_eq!(world.sum("llm_d_epp_request_error_total", &[("error_code", "Internal")]), 1.0);
}

#[tokio::test(start_paused = true)]
async fn a_body_that_cannot_be_read_because_of_a_bug_is_our_fault() {
    for at in ["begin", "push", "finish"] {
        let world = world(move |loaded| {
            let parser: Arc<dyn Parser> = Arc::new(BadParser { at });
            loaded.parsers = vec![named("bad", parser)];
        });
        let rejection = world.decide(head(CHAT_PATH), CHAT).await.unwrap_err();
        assert_eq!(rejection.code, ErrorCode::Internal, "{at}");
        assert_eq!(world.budget().held(), 0, "{at}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_panics_does_not_keep_others_from_ending() {
    let ledger = Arc::new(Ledger::default());
    let join = ledger.join();
    let world = world(|loaded| {
        let bad: Arc<dyn PreRequest> = Arc::new(BadLease);
        loaded.pre_requests.insert(0, named("bad", bad));
        join(loaded);
    });
    let panics = |point| panics(&world).get(point).copied().unwrap_or_default();
    let mut routed = world.decide(head(CHAT_PATH), CHAT).await.unwrap();
    let next = routed.exchange.attempt_failed(AttemptFailure::Unreachable).unwrap();
    assert_eq!(next.name(), "e1");
    respond(&mut routed.exchange, 200, "application/json");
    chunk(&mut routed.exchange, "{}");
    drop(routed);
    assert_eq!(
        ledger.story(0),
        ["taken e0", "moved e1", "first byte", "end client-disconnect 200"]
    );
    assert_eq!((panics("PreRequest"), panics("ResponseStreaming")), (1.0, 2.0), "at each turn");
}

#[tokio::test(start_paused = true)]
async fn discovery_goes_on_when_a_listener_panics() {
    let world = world(|loaded| {
        let listener: Arc<dyn EndpointListener> = Arc::new(Panics);
        loaded.listeners.push(named("bad", listener));
    });
    world.datastore().replace(vec![EndpointSpec::new("default", "e9", "10.0.0.9", 8000)]);
    let routed = world.decide(head(CHAT_PATH), CHAT).await.unwrap();
    assert_eq!(names(&routed), ["e9"]);
}

#[tokio::test(start_paused = true)]
async fn state_of_other_plugins_is_shown_when_one_panics() {
    let world = world(|loaded| {
        loaded.plugins[0].instance.dump = Some(Arc::new(Panics));
    });
    let state = world.plugin_state();
    let plugins = state["plugins"].as_object().unwrap();
    assert!(plugins.len() > 1, "{state}");
    assert!(plugins.values().any(|plugin| plugin["message"] == "plugin panicked"), "{state}");
}
