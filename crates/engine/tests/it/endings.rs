//! Every way in which a request ends releases its leases once and is counted once.

use std::{sync::Arc, time::Duration};

use futures_util::FutureExt;
use router_core::{ErrorCode, Rejection};
use router_engine::{AttemptFailure, Exchange};
use router_framework::{DataProducer, EndCause, Outputs, Produced, RequestCx};
use router_testkit::router::{RouterBuilder, TestRouter, head, named};

use crate::roles::{BY_QUEUE, CHAT, CHAT_PATH, Ledger, chunk, complete, queues, respond};

struct World {
    router: TestRouter,
    ledger: Arc<Ledger>,
}

/// Makes a decision take ten milliseconds.
struct Slow;

impl DataProducer for Slow {
    fn produce<'a>(&'a self, _: &RequestCx<'a>) -> Produced<'a> {
        Produced::Later(Box::pin(async {
            tokio::time::sleep(Duration::from_millis(10)).await;
            Ok(Outputs::default())
        }))
    }
}

fn world(is_slow: bool) -> World {
    let ledger = Arc::new(Ledger::default());
    let mut builder = RouterBuilder::new(BY_QUEUE).endpoints(3).change(ledger.join());
    if is_slow {
        builder = builder.change(|loaded| {
            let slow: Arc<dyn DataProducer> = Arc::new(Slow);
            loaded.producers.push(named("slow", slow));
        });
    }
    let router = builder.build();
    queues(&router);
    World { router, ledger }
}

/// A request that ends in this way leaves this story of its lease and these errors, once each.
async fn check(end: impl AsyncFnOnce(Exchange), story: &[&str], errors: &[&str]) {
    let World { router, ledger } = world(false);
    let routed = router.decide(head(CHAT_PATH), CHAT).await.unwrap();
    assert_eq!(router.sum("llm_d_epp_request_running", &[]), 1.0);
    end(routed.exchange).await;
    assert_eq!(ledger.story(0), story);
    for code in errors {
        assert_eq!(router.sum("llm_d_epp_request_error_total", &[("error_code", code)]), 1.0);
    }
    assert_eq!(router.sum("llm_d_epp_request_error_total", &[]), errors.len() as f64);
    assert_eq!(router.sum("llm_d_epp_request_running", &[]), 0.0);
    assert_eq!(router.sum("llm_d_epp_request_total", &[]), 1.0);
    assert_eq!(router.budget().held(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_whole_response() {
    let end = async |mut exchange: Exchange| complete(&mut exchange, 200, "{}");
    check(end, &["taken e0", "first byte", "end natural 200"], &[]).await;
}

#[tokio::test(start_paused = true)]
async fn a03_a_response_without_a_body_completes() {
    let World { router, ledger } = world(false);
    let mut exchange = router.decide(head(CHAT_PATH), CHAT).await.unwrap().exchange;
    respond(&mut exchange, 204, "text/plain");
    exchange.end(EndCause::Natural);
    assert_eq!(ledger.story(0), ["taken e0", "end natural 204"]);
    assert_eq!(router.sum("llm_d_epp_request_duration_seconds_count", &[]), 1.0);
    assert_eq!(router.sum("llm_d_epp_response_size_bytes_count", &[]), 1.0);
    assert_eq!(router.sum("llm_d_epp_request_error_total", &[]), 0.0);
}

#[tokio::test(start_paused = true)]
async fn a01_an_error_status_is_an_error_and_yet_a_whole_response() {
    for status in [400, 429, 500, 503] {
        let end = async move |mut exchange: Exchange| complete(&mut exchange, status, "{}");
        let last = format!("end natural {status}");
        check(end, &["taken e0", "first byte", &last], &["ModelServerError"]).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a10_a_client_that_goes_away_counts_whenever_it_does() {
    let before_response = async |exchange: Exchange| drop(exchange);
    check(before_response, &["taken e0", "end client-disconnect -"], &["ClientDisconnect"]).await;
    let after_head = async |mut exchange: Exchange| {
        respond(&mut exchange, 200, "text/event-stream");
    };
    check(after_head, &["taken e0", "end client-disconnect 200"], &["ClientDisconnect"]).await;
    let mid_stream = async |mut exchange: Exchange| {
        respond(&mut exchange, 200, "text/event-stream");
        chunk(&mut exchange, "data: {");
    };
    let story = ["taken e0", "first byte", "end client-disconnect 200"];
    check(mid_stream, &story, &["ClientDisconnect"]).await;
}

#[tokio::test(start_paused = true)]
async fn a10_an_eviction_counts() {
    let end = async |mut exchange: Exchange| {
        respond(&mut exchange, 200, "text/event-stream");
        exchange.end(EndCause::Evicted);
        drop(exchange);
    };
    check(end, &["taken e0", "end evicted 200"], &["Evicted"]).await;
}

#[tokio::test(start_paused = true)]
async fn an_upstream_that_breaks_off_counts() {
    let end = async |mut exchange: Exchange| {
        respond(&mut exchange, 200, "text/event-stream");
        chunk(&mut exchange, "data: {");
        exchange.end(EndCause::Error);
        exchange.end(EndCause::Natural);
    };
    check(end, &["taken e0", "first byte", "end error 200"], &["ModelServerError"]).await;
}

#[tokio::test(start_paused = true)]
async fn attempts_to_exhaustion() {
    let end = async |mut exchange: Exchange| {
        while exchange.attempt_failed(AttemptFailure::Unreachable).is_some() {}
        let gone = Rejection::new(ErrorCode::ServiceUnavailable, "no model server answers");
        exchange.reject(&gone);
        exchange.reject(&gone);
    };
    let story = ["taken e0", "moved e1", "moved e2", "end error -"];
    check(end, &story, &["ServiceUnavailable"]).await;
}

#[tokio::test(start_paused = true)]
async fn a_decision_that_is_dropped_leaves_nothing() {
    let World { router, ledger } = world(true);
    // Before the body is whole.
    let (mut feed, decision) = router.begin(head(CHAT_PATH));
    feed.push(&CHAT.into());
    assert_eq!(router.budget().held(), CHAT.len());
    drop(decision);
    feed.push(&CHAT.into());
    feed.end();
    drop(feed);
    // While it waits for the rest of the body.
    let (mut feed, mut decision) = router.begin(head(CHAT_PATH));
    feed.push(&CHAT.into());
    assert!((&mut decision).now_or_never().is_none());
    drop(decision);
    drop(feed);
    // While a producer works.
    let (mut feed, mut decision) = router.begin(head(CHAT_PATH));
    feed.push(&CHAT.into());
    feed.end();
    assert!((&mut decision).now_or_never().is_none());
    drop((feed, decision));
    assert_eq!(ledger.n_taken(), 0);
    assert_eq!(router.budget().held(), 0);
    assert_eq!(router.sum("llm_d_epp_request_total", &[]), 0.0);
    assert_eq!(router.sum("llm_d_epp_request_running", &[]), 0.0);
    // Decided, and dropped before anybody looked.
    drop(router.decide(head(CHAT_PATH), CHAT).await);
    assert_eq!(ledger.story(0), ["taken e0", "end client-disconnect -"]);
}

#[tokio::test(start_paused = true)]
async fn a_body_that_ends_too_early_is_the_clients_fault() {
    let World { router, .. } = world(false);
    let (mut feed, decision) = router.begin(head(CHAT_PATH));
    feed.push(&CHAT.into());
    drop(feed);
    assert_eq!(decision.await.unwrap_err().code, ErrorCode::BadRequest);
}

#[tokio::test(start_paused = true)]
async fn a09_usage_is_observed_once_however_often_a_stream_says_it() {
    let World { router, .. } = world(false);
    let mut exchange = router.decide(head(CHAT_PATH), CHAT).await.unwrap().exchange;
    respond(&mut exchange, 200, "text/event-stream");
    for n in 1..=5 {
        tokio::time::sleep(Duration::from_millis(20)).await;
        let event = format!(
            "data: {{\"choices\":[],\"usage\":{{\"prompt_tokens\":7,\"completion_tokens\":{n},\
             \"prompt_tokens_details\":{{\"cached_tokens\":4}}}}}}\n\n"
        );
        let (head, tail) = event.split_at(30);
        chunk(&mut exchange, head.to_owned());
        chunk(&mut exchange, tail.to_owned());
    }
    exchange.end(EndCause::Natural);
    for (family, sum) in [
        ("llm_d_epp_request_input_tokens", 7.0),
        ("llm_d_epp_request_output_tokens", 5.0),
        ("llm_d_epp_request_cached_tokens", 4.0),
        ("llm_d_epp_request_streaming_tpot_seconds", 0.02),
        ("llm_d_epp_request_ntpot_seconds", 0.02),
        ("llm_d_epp_request_ttft_seconds", 0.02),
    ] {
        assert_eq!(router.sum(&format!("{family}_count"), &[]), 1.0, "{family}");
        let total = router.sum(&format!("{family}_sum"), &[]);
        assert!((total - sum).abs() < 1e-9, "{family}: {total}");
    }
    assert_eq!(router.sum("llm_d_epp_request_ttft_seconds_count", &[("streaming", "true")]), 1.0);
    assert_eq!(router.sum("llm_d_epp_request_streaming_itl_seconds_count", &[]), 9.0);
}

#[tokio::test(start_paused = true)]
async fn usage_in_a_last_line_without_a_line_end_counts() {
    let World { router, .. } = world(false);
    let mut exchange = router.decide(head(CHAT_PATH), CHAT).await.unwrap().exchange;
    respond(&mut exchange, 200, "text/event-stream");
    chunk(&mut exchange, "data: {\"usage\":{\"prompt_tokens\":7,\"completion_tokens\":2}}");
    exchange.end(EndCause::Natural);
    assert_eq!(router.sum("llm_d_epp_request_output_tokens_sum", &[]), 2.0);
}

#[tokio::test(start_paused = true)]
async fn parsing_is_timed_once_per_body() {
    let World { router, .. } = world(false);
    let mut exchange = router.decide(head(CHAT_PATH), CHAT).await.unwrap().exchange;
    respond(&mut exchange, 200, "text/event-stream");
    for _ in 0..3 {
        chunk(&mut exchange, "data: {}\n\n");
    }
    exchange.end(EndCause::Natural);
    for point in ["RequestParsing", "ResponseParsing"] {
        let labels = [("extension_point", point), ("plugin_name", "openai-parser")];
        assert_eq!(router.sum("llm_d_epp_plugin_duration_seconds_count", &labels), 1.0, "{point}");
    }
}
