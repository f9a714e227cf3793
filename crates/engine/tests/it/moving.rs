//! Requests that end up elsewhere than they were sent: fallback of our own, and what the proxy reports.

use std::sync::Arc;

use router_core::{ErrorCode, Rejection};
use router_engine::{AttemptFailure, Routed};
use router_framework::{EndCause, EndpointSink};
use router_testkit::router::{RouterBuilder, TestRouter, head, spec};

use crate::roles::{BY_QUEUE, CHAT, CHAT_PATH, Ledger, chunk, queues, respond, respond_as};

struct World {
    router: TestRouter,
    ledger: Arc<Ledger>,
}

fn world() -> World {
    let ledger = Arc::new(Ledger::default());
    let router = RouterBuilder::new(BY_QUEUE).endpoints(3).change(ledger.join()).build();
    queues(&router);
    World { router, ledger }
}

impl World {
    async fn routed(&self) -> Routed {
        self.router.decide(head(CHAT_PATH), CHAT).await.unwrap()
    }
}

#[tokio::test(start_paused = true)]
async fn a_failed_attempt_moves_on_to_the_next_target_until_there_is_none() {
    let World { router, ledger } = &world();
    let mut exchange = router.decide(head(CHAT_PATH), CHAT).await.unwrap().exchange;
    assert_eq!(exchange.attempt_failed(AttemptFailure::Unreachable).unwrap().name(), "e1");
    assert_eq!(exchange.endpoint().unwrap().name(), "e1");
    assert_eq!(exchange.attempt_failed(AttemptFailure::Timeout).unwrap().name(), "e2");
    assert!(exchange.attempt_failed(AttemptFailure::Unreachable).is_none());
    exchange.reject(&Rejection::new(ErrorCode::ModelServerError, "no model server answers"));
    drop(exchange);
    assert_eq!(ledger.story(0), ["taken e0", "moved e1", "moved e2", "end error -"]);
    assert_eq!(router.sum("llm_d_epp_request_error_total", &[]), 1.0, "counted once");
    assert_eq!(router.sum("llm_d_epp_request_total", &[]), 1.0);
    assert_eq!(router.sum("llm_d_epp_request_running", &[]), 0.0);
}

#[tokio::test(start_paused = true)]
async fn fallback_passes_over_endpoints_that_are_known_to_be_out() {
    let World { router, ledger } = &world();
    let mut first = router.decide(head(CHAT_PATH), CHAT).await.unwrap().exchange;
    router.health().unreachable(&router.endpoint(1), router.clock().now());
    assert_eq!(first.attempt_failed(AttemptFailure::Unreachable).unwrap().name(), "e2");
    respond(&mut first, 200, "application/json");
    first.end(EndCause::Natural);
    assert_eq!(ledger.story(0), ["taken e0", "moved e2", "end natural 200"]);
}

#[tokio::test(start_paused = true)]
async fn a_repeated_503_takes_an_endpoint_out() {
    let world = world();
    for _ in 0..3 {
        let mut exchange = world.routed().await.exchange;
        assert_eq!(exchange.endpoint().unwrap().name(), "e0");
        exchange.attempt_failed(AttemptFailure::Unavailable).unwrap();
    }
    assert_eq!(world.routed().await.targets[0].name(), "e1");
}

#[tokio::test(start_paused = true)]
async fn a13_a27_leases_follow_the_endpoint_that_served() {
    let world = world();
    let check = async |served: Option<&str>, at, story: &[&str]| {
        let mut exchange = world.routed().await.exchange;
        respond_as(&mut exchange, 200, "application/json", served);
        chunk(&mut exchange, "{}");
        exchange.end(EndCause::Natural);
        assert_eq!(world.ledger.story(at), story, "{served:?}");
    };
    check(None, 0, &["taken e0", "first byte", "end natural 200"]).await;
    check(Some("10.0.0.1:8000"), 1, &["taken e0", "first byte", "end natural 200"]).await;
    let moved = ["taken e0", "moved e2", "first byte", "end natural 200"];
    check(Some("10.0.0.3:8000"), 2, &moved).await;
    check(Some("10.9.9.9:8000"), 3, &["taken e0", "first byte", "end natural 200"]).await;
    check(Some("gibberish"), 4, &["taken e0", "first byte", "end natural 200"]).await;
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_outside_of_the_targets_may_have_served() {
    let World { router, ledger } = &world();
    let mut exchange = router.decide(head(CHAT_PATH), CHAT).await.unwrap().exchange;
    router.datastore().replace((0..4).map(spec).collect());
    respond_as(&mut exchange, 200, "application/json", Some("10.0.0.4:8000"));
    exchange.end(EndCause::Natural);
    assert_eq!(ledger.story(0), ["taken e0", "moved e3", "end natural 200"]);
}

#[tokio::test(start_paused = true)]
async fn a_probe_is_one_request_at_a_time_and_its_clients_leaving_is_no_verdict() {
    let World { router, .. } = &world();
    router.health().unreachable(&router.endpoint(0), router.clock().now());
    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    queues(router);
    let probe = router.decide(head(CHAT_PATH), CHAT).await.unwrap();
    assert_eq!(probe.targets[0].name(), "e0");
    let other = router.decide(head(CHAT_PATH), CHAT).await.unwrap();
    assert_eq!(other.targets[0].name(), "e1");
    drop(probe);
    let mut next = router.decide(head(CHAT_PATH), CHAT).await.unwrap();
    assert_eq!(next.targets[0].name(), "e0");
    respond(&mut next.exchange, 200, "application/json");
    let after = router.decide(head(CHAT_PATH), CHAT).await.unwrap();
    assert_eq!(after.targets[0].name(), "e0", "the probe succeeded");
}

#[tokio::test(start_paused = true)]
async fn a25_two_requests_with_one_id_do_not_meet() {
    let World { router, ledger } = &world();
    let twin = || router_testkit::router::with_header(head(CHAT_PATH), "x-request-id", "twin");
    let mut first = router.decide(twin(), CHAT).await.unwrap().exchange;
    let mut second = router.decide(twin(), CHAT).await.unwrap().exchange;
    assert_ne!(first.request().id, second.request().id);
    second.attempt_failed(AttemptFailure::Unreachable);
    respond(&mut first, 200, "application/json");
    first.end(EndCause::Natural);
    assert_eq!(ledger.story(1), ["taken e0", "moved e1"], "the other one goes on");
    assert_eq!(router.sum("llm_d_epp_request_running", &[]), 1.0);
    drop(second);
    assert_eq!(ledger.unsound(), Vec::<Vec<String>>::new());
}
