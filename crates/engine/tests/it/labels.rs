//! Label values that clients choose.

use http::StatusCode;
use router_engine::{AttemptFailure, Exchange, ResponseHead};
use router_framework::EndCause;
use router_telemetry::router::KnownBy;
use router_testkit::router::{TestRouter, head, with_header};

use crate::roles::{CHAT, CHAT_PATH, by_queue, complete, respond};

/// A chat with this model.
fn chat(model: &str) -> String {
    CHAT.replace(r#""m""#, &format!("{model:?}"))
}

async fn asked(world: &TestRouter, model: &str) -> Exchange {
    world.decide(head(CHAT_PATH), chat(model)).await.unwrap().exchange
}

/// Families that have a series as soon as a request is routed, with the label that names the model sent on.
const COUNTED: [(&str, &str); 3] = [
    ("llm_d_epp_request_total", "target_model_name"),
    ("llm_d_epp_request_size_bytes_count", "target_model_name"),
    ("llm_d_epp_scheduler_attempts_total", "target_model_name"),
];

/// In all of these families, this many requests for the model.
fn assert_counted(world: &TestRouter, model: &str, n_requests: f64) {
    for (family, label) in COUNTED {
        assert_eq!(world.sum(family, &[(label, model)]), n_requests, "{family} of {model}");
    }
}

#[tokio::test(start_paused = true)]
async fn a36_models_that_clients_make_up_have_no_series() {
    let world = by_queue().build();
    for n in 0..10_000 {
        let mut exchange = asked(&world, &format!("invented-{n}")).await;
        complete(&mut exchange, 404, "{}");
    }
    assert_counted(&world, "other", 10_000.0);
    let errors = [("model_name", "other"), ("error_code", "ModelServerError")];
    assert_eq!(world.sum("llm_d_epp_request_error_total", &errors), 10_000.0);
    assert_eq!(world.page().matches("invented").count(), 0);

    complete(&mut asked(&world, "m").await, 200, "{}");
    assert_counted(&world, "m", 1.0);
    assert_counted(&world, "other", 10_000.0);
    assert_eq!(world.sum("llm_d_epp_request_duration_seconds_count", &[("model_name", "m")]), 1.0);
}

#[tokio::test(start_paused = true)]
async fn the_first_request_for_a_model_counts_under_its_name_once_it_is_answered() {
    let world = by_queue().build();
    let running = |model| world.sum("llm_d_epp_request_running", &[("model_name", model)]);
    let mut first = asked(&world, "m").await;
    assert_eq!((running("other"), running("m")), (1.0, 0.0), "nobody knows it yet");
    assert_counted(&world, "m", 0.0);
    assert_counted(&world, "other", 0.0);
    respond(&mut first, 200, "application/json");
    assert_eq!((running("other"), running("m")), (0.0, 1.0));
    assert_counted(&world, "m", 1.0);
    let second = asked(&world, "m").await;
    assert_counted(&world, "m", 2.0);
    assert_eq!(running("m"), 2.0);
    first.end(EndCause::Natural);
    drop(second);
    assert_eq!((running("other"), running("m")), (0.0, 0.0));
    assert_counted(&world, "other", 0.0);
    let known = [("model_name", "m"), ("error_code", "ClientDisconnect")];
    assert_eq!(world.sum("llm_d_epp_request_error_total", &known), 1.0);
}

#[tokio::test(start_paused = true)]
async fn a_model_that_a_page_names_is_known_from_its_first_request_on() {
    let world = by_queue().build();
    assert!(world.metrics().requests.know_model("m", KnownBy::Page));
    let exchange = asked(&world, "m").await;
    assert_counted(&world, "m", 1.0);
    assert_eq!(world.sum("llm_d_epp_request_running", &[("model_name", "m")]), 1.0);
    drop(exchange);
    assert_counted(&world, "m", 1.0);
}

/// Only an endpoint's own answer vouches, and none leaves a request uncounted.
#[tokio::test(start_paused = true)]
async fn nobody_but_an_endpoint_vouches_for_a_model() {
    let check = async |act: fn(&mut Exchange)| {
        let world = by_queue().build();
        let mut exchange = asked(&world, "m").await;
        act(&mut exchange);
        drop(exchange);
        assert_counted(&world, "m", 0.0);
        assert_counted(&world, "other", 1.0);
        assert_eq!(world.sum("llm_d_epp_request_running", &[]), 0.0);
    };
    check(|_| {}).await;
    check(|exchange| exchange.end(EndCause::Natural).clear()).await;
    check(|exchange| complete(exchange, 400, "{}")).await;
    check(|exchange| {
        let status = StatusCode::OK;
        let headers = http::HeaderMap::new();
        let head = ResponseHead { status, headers: &headers, served: None, from_proxy: true };
        exchange.on_headers(&head);
    })
    .await;
    check(|exchange| {
        while exchange.attempt_failed(AttemptFailure::Unreachable).is_some() {}
        exchange.reject(&router_core::Rejection::internal("nobody is left"));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn names_that_are_rewritten_are_known_by_what_they_are_served_as() {
    let world = by_queue().build();
    let rewritten =
        |target: &str| with_header(head(CHAT_PATH), "x-llm-d-model-name-rewrite", target);
    let mut first = world.decide(rewritten("m-lora"), chat("alias")).await.unwrap().exchange;
    complete(&mut first, 200, "{}");
    let both = [("model_name", "alias"), ("target_model_name", "m-lora")];
    assert_eq!(world.sum("llm_d_epp_request_total", &both), 1.0);
    for n in 0..1_000 {
        let invented = chat(&format!("invented-{n}"));
        let mut other = world.decide(rewritten("m-lora"), invented).await.unwrap().exchange;
        complete(&mut other, 200, "{}");
    }
    let page = world.page();
    let shown = page.lines().filter(|line| {
        line.starts_with("llm_d_epp_request_total{") && line.contains("model_name=\"invented-")
    });
    assert_eq!(shown.count(), 31, "clients can send the header, so few names come in by it");
    complete(&mut asked(&world, "served-as-it-is").await, 200, "{}");
    assert_counted(&world, "served-as-it-is", 1.0);
}
