//! What the client is told: codes, drop reasons, when to come back.

use std::{sync::Arc, time::Duration};

use router_core::{ErrorCode, Rejection};
use router_framework::{
    Admitter, Filter, FilterKind, Loaded, PreRequest, RequestHeaderHook, SaturationDetector,
    SubsetHint,
};
use router_testkit::router::{RouterBuilder, head, named, with_header};

use crate::roles::{BY_QUEUE, CHAT, CHAT_PATH, Full, KeepsNothing, Ledger, Refuses, by_queue};

fn teapot() -> Rejection {
    Rejection::saturated("come back later").with_retry_after(Duration::from_secs(7))
}

async fn refusal(change: impl FnOnce(&mut Loaded) + 'static) -> Rejection {
    let world = by_queue().change(change).build();
    let rejection = world.decide(head(CHAT_PATH), CHAT).await.unwrap_err();
    let label = rejection.code.label();
    assert_eq!(world.sum("llm_d_epp_request_error_total", &[("error_code", label)]), 1.0);
    assert_eq!(world.sum("llm_d_epp_request_total", &[]), 0.0, "it was not routed");
    rejection
}

#[tokio::test(start_paused = true)]
async fn a01_a21_an_admitters_typed_error_keeps_its_status() {
    let rejection = refusal(|loaded| {
        let admitter: Arc<dyn Admitter> = Arc::new(Refuses(teapot()));
        loaded.admitters.push(named("refuses", admitter));
    })
    .await;
    assert_eq!(rejection, teapot());
}

#[tokio::test(start_paused = true)]
async fn a11_a_header_hooks_typed_error_keeps_its_status() {
    let rejection = refusal(|loaded| {
        let hook: Arc<dyn RequestHeaderHook> =
            Arc::new(Refuses(Rejection::new(ErrorCode::Forbidden, "not you")));
        loaded.request_headers.push(named("refuses", hook));
    })
    .await;
    assert_eq!(rejection.code, ErrorCode::Forbidden);
}

#[tokio::test(start_paused = true)]
async fn one_failed_pre_request_hook_keeps_its_status_and_several_are_500() {
    let refuses = |code| -> Arc<dyn PreRequest> { Arc::new(Refuses(Rejection::new(code, "no"))) };
    let ledger = Arc::new(Ledger::default());
    let join = ledger.join();
    let rejection = refusal(move |loaded| {
        loaded.pre_requests.push(named("refuses", refuses(ErrorCode::NotFound)));
        join(loaded);
    })
    .await;
    assert_eq!(rejection.code, ErrorCode::NotFound);
    assert_eq!(ledger.story(0), ["taken e0", "end error -"], "what others took is given back");
    let rejection = refusal(move |loaded| {
        loaded.pre_requests.push(named("first", refuses(ErrorCode::NotFound)));
        loaded.pre_requests.push(named("second", refuses(ErrorCode::Forbidden)));
    })
    .await;
    assert_eq!(rejection.code, ErrorCode::Internal);
    assert_eq!(rejection.detail.as_deref(), Some("NotFound - no; Forbidden - no"));
}

#[tokio::test(start_paused = true)]
async fn a02b_filters_say_whether_constraints_or_load_left_nobody() {
    let check = async |kind, code, reason: &str| {
        let rejection = refusal(move |loaded| {
            let filter: Arc<dyn Filter> = Arc::new(KeepsNothing(kind));
            loaded.profiles[0].filters.push(named("filter", filter));
        })
        .await;
        assert_eq!(rejection.code, code);
        assert_eq!(rejection.reason.unwrap().as_str(), reason);
        assert_eq!(rejection.message, "no endpoints available for the given request");
    };
    check(FilterKind::Constraint, ErrorCode::ServiceUnavailable, "rejected-no-endpoints").await;
    check(FilterKind::Capacity, ErrorCode::ResourceExhausted, "rejected-saturated").await;
}

#[tokio::test(start_paused = true)]
async fn a23_shed_requests_say_why_and_when_to_come_back() {
    let shed = async |n_endpoints, objective: &str| {
        let world = RouterBuilder::new(BY_QUEUE)
            .endpoints(n_endpoints)
            .objective("low", -1)
            .objective("high", 1)
            .change(|loaded| {
                let detector: Arc<dyn SaturationDetector> = Arc::new(Full(1.5));
                loaded.detector = named("full", detector);
            })
            .build();
        let head = with_header(head(CHAT_PATH), "x-llm-d-inference-objective", objective);
        world.decide(head, CHAT).await
    };
    let rejection = shed(2, "low").await.unwrap_err();
    assert_eq!(rejection.code, ErrorCode::ResourceExhausted);
    assert_eq!(rejection.reason.unwrap().as_str(), "rejected-saturated");
    assert_eq!(rejection.retry_after, Some(Duration::from_secs(1)));
    shed(2, "high").await.unwrap();
    shed(2, "unknown").await.unwrap();
    let rejection = shed(0, "low").await.unwrap_err();
    assert_eq!(rejection.code, ErrorCode::ServiceUnavailable, "an empty pool is not a full one");
    assert_eq!(rejection.reason.unwrap().as_str(), "rejected-no-endpoints");
    assert_eq!(rejection.retry_after, Some(Duration::from_secs(1)));
}

#[tokio::test(start_paused = true)]
async fn a_subset_without_endpoints_is_503() {
    let world = by_queue().build();
    let of = |entries: &[&str]| {
        SubsetHint::Only(entries.iter().map(|entry| (*entry).to_owned()).collect())
    };
    for subset in [of(&[]), of(&["10.9.9.9:8000"])] {
        let mut head = head(CHAT_PATH);
        head.subset = subset;
        let rejection = world.decide(head, CHAT).await.unwrap_err();
        assert_eq!(rejection.code, ErrorCode::ServiceUnavailable);
        assert_eq!(rejection.reason.unwrap().as_str(), "rejected-no-endpoints");
    }
}

#[tokio::test(start_paused = true)]
async fn bad_bodies_are_the_clients_fault() {
    let world = by_queue().build();
    let check = async |path: &str, body: &'static str, code| {
        let rejection = world.decide(head(path), body).await.unwrap_err();
        assert_eq!(rejection.code, code, "{path} {body}");
    };
    check(CHAT_PATH, "{", ErrorCode::BadRequest).await;
    check(CHAT_PATH, "[]", ErrorCode::BadRequest).await;
    check(CHAT_PATH, r#"{"messages":[{"role":"user","content":"x"}]}"#, ErrorCode::BadRequest)
        .await;
    check(CHAT_PATH, r#"{"model":"m"}"#, ErrorCode::BadRequest).await;
    let labels = [("error_code", "BadRequest"), ("fairness_id", "default-flow"), ("priority", "0")];
    assert_eq!(world.sum("llm_d_epp_request_error_total", &labels), 4.0);
}

#[tokio::test(start_paused = true)]
async fn a18_a_path_without_a_parser_is_404() {
    let config = format!("{BY_QUEUE}requestHandler:\n  parsers:\n  - pluginRef: openai-parser\n");
    let config =
        config.replace("plugins:\n- type: queue", "plugins:\n- type: openai-parser\n- type: queue");
    let world = RouterBuilder::new(&config).endpoints(1).build();
    let rejection = world.decide(head("/v1/files"), "{}").await.unwrap_err();
    assert_eq!(rejection.code, ErrorCode::NotFound);
    assert_eq!(rejection.message, "no parser registered matching path suffix for: /v1/files");
}

#[tokio::test(start_paused = true)]
async fn encoded_bodies_are_refused_where_they_must_be_read() {
    let world = by_queue().build();
    let check = async |path: &str, coding: &str, code: Option<ErrorCode>| {
        let head = with_header(head(path), "content-encoding", coding);
        let code_of = world.decide(head, CHAT).await.err().map(|rejection| rejection.code);
        assert_eq!(code_of, code, "{path} {coding}");
    };
    check(CHAT_PATH, "gzip", Some(ErrorCode::UnsupportedMediaType)).await;
    check(CHAT_PATH, "Identity", None).await;
    check("/anything", "gzip", None).await;
}
