//! Bodies: bounds, and the model's name on its way in and out.

use bytes::Bytes;
use router_core::{ErrorCode, Rejection};
use router_engine::{BodyPlan, Exchange};
use router_framework::EndCause;
use router_testkit::router::{TestRouter, head, with_header};
use router_wire::splice::splice;

use crate::roles::{CHAT, CHAT_PATH, by_queue, respond};

const REWRITE: &str = "x-llm-d-model-name-rewrite";

/// Every number, space and key order that a careless rewrite would lose.
const ODD: &str = "{ \"seed\" : 18446744073709551615,\"messages\":[{\"role\":\"user\",\"content\":\"<&> \\u00e9 model\"}],\n \
                   \"model\":\"m\", \"x\":{\"model\":\"m\"},\"temperature\":1.0 }";

async fn rewritten(world: &TestRouter, path: &str, body: &'static str) -> (BodyPlan, Exchange) {
    let request = with_header(head(path), REWRITE, "m-lora-1");
    let routed = world.decide(request, body).await.unwrap();
    (routed.body_plan, routed.exchange)
}

#[tokio::test(start_paused = true)]
async fn a15_a_rewrite_changes_the_models_name_and_no_other_byte() {
    let world = by_queue().build();
    let (plan, mut exchange) = rewritten(&world, CHAT_PATH, ODD).await;
    let BodyPlan::Splice { span, replacement } = plan else { panic!("{plan:?}") };
    for at in 0..=ODD.len() {
        let pieces =
            [Bytes::from_static(&ODD.as_bytes()[..at]), Bytes::from_static(&ODD.as_bytes()[at..])];
        let sent = splice(&pieces, span.clone(), replacement.clone()).concat();
        let expected = ODD.replace("\n \"model\":\"m\"", "\n \"model\":\"m-lora-1\"");
        assert_eq!(String::from_utf8(sent).unwrap(), expected, "split at {at}");
    }
    let request = exchange.request();
    assert_eq!((&*request.model, &*request.target_model), ("m", "m-lora-1"));
    respond(&mut exchange, 200, "application/json");
    let labels = [("model_name", "m"), ("target_model_name", "m-lora-1")];
    assert_eq!(world.sum("llm_d_epp_request_total", &labels), 1.0);
}

#[tokio::test(start_paused = true)]
async fn a20_a_body_that_cannot_be_rewritten_keeps_its_model_everywhere() {
    let world = by_queue().build();
    let (plan, exchange) = rewritten(&world, "/v1/anything", CHAT).await;
    assert_eq!(plan, BodyPlan::Pass);
    assert_eq!(&*exchange.request().target_model, "");
}

#[tokio::test(start_paused = true)]
async fn without_a_rewrite_bodies_pass() {
    let world = by_queue().build();
    let routed = world.decide(head(CHAT_PATH), ODD).await.unwrap();
    assert_eq!(routed.body_plan, BodyPlan::Pass);
    let same = with_header(head(CHAT_PATH), REWRITE, "m");
    assert_eq!(world.decide(same, ODD).await.unwrap().body_plan, BodyPlan::Pass);
}

#[tokio::test(start_paused = true)]
async fn a08_the_clients_name_comes_back_wherever_the_response_is_split() {
    let world = by_queue().build();
    let json = "{\"id\":\"1\",\"model\" : \"m-lora-1\",\"choices\":[{\"model\":\"m-lora-1\",\"text\":\"\\\"model\\\":\\\"m-lora-1\\\"\"}]}";
    let restored = json.replacen("m-lora-1", "m", 1);
    let events = "data: {\"id\":1,\"model\":\"m-lora-1\"}\n\ndata: {\"model\" :\"m-lora-1\",\"choices\":[]}\r\n\r\ndata: [DONE]\n\n";
    let events_restored = events.replace("m-lora-1", "m");
    for (content_type, sent, expected) in [
        ("application/json", json, restored),
        ("text/event-stream; charset=utf-8", events, events_restored),
    ] {
        for at in 0..=sent.len() {
            let (_, mut exchange) = rewritten(&world, CHAT_PATH, CHAT).await;
            let patch = respond(&mut exchange, 200, content_type);
            assert_eq!(patch.remove, [http::header::CONTENT_LENGTH], "the length may change");
            let mut got = Vec::new();
            for piece in [&sent[..at], &sent[at..]] {
                for out in exchange.on_chunk(Bytes::from(piece.to_owned())) {
                    got.extend_from_slice(&out);
                }
            }
            got.extend(exchange.finish_body().concat());
            exchange.end(EndCause::Natural);
            assert_eq!(String::from_utf8(got).unwrap(), expected, "{content_type}, split at {at}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn responses_that_need_no_restoring_pass_untouched() {
    let world = by_queue().build();
    let mut exchange = world.decide(head(CHAT_PATH), CHAT).await.unwrap().exchange;
    assert!(respond(&mut exchange, 200, "application/json").is_empty());
    let body = Bytes::from_static(b"{\"model\":\"m-lora-1\"}");
    let out = exchange.on_chunk(body.clone());
    assert_eq!((out.len(), out[0].as_ptr()), (1, body.as_ptr()), "the same memory");
}

#[tokio::test(start_paused = true)]
async fn a_client_may_not_ask_for_an_encoding_that_we_must_read() {
    let world = by_queue().build();
    let plain = with_header(head(CHAT_PATH), "accept-encoding", "gzip");
    let routed = world.decide(plain.clone(), CHAT).await.unwrap();
    assert!(!routed.head_patch.remove.contains(&http::header::ACCEPT_ENCODING));
    let routed = world.decide(with_header(plain, REWRITE, "m-lora-1"), CHAT).await.unwrap();
    assert!(routed.head_patch.remove.contains(&http::header::ACCEPT_ENCODING));
}

async fn push_in_pieces(world: &TestRouter, n_pieces: usize, piece: &Bytes) -> Rejection {
    let (mut feed, decision) = world.begin(head(CHAT_PATH));
    for _ in 0..n_pieces {
        feed.push(piece);
    }
    feed.end();
    decision.await.unwrap_err()
}

#[tokio::test(start_paused = true)]
async fn a07_a_body_over_the_limit_is_413_and_holds_no_memory() {
    let world = by_queue().settings(|settings| settings.max_body_bytes = 1000).build();
    let space = Bytes::from(vec![b' '; 100]);
    let rejection = push_in_pieces(&world, 11, &space).await;
    assert_eq!(rejection.code, ErrorCode::PayloadTooLarge);
    assert_eq!(rejection.message, "request body is larger than 1000 bytes");
    assert_eq!(world.budget().held(), 0);
    let rejection = push_in_pieces(&world, 10, &space).await;
    assert_eq!(rejection.code, ErrorCode::BadRequest, "as many bytes as may be");
}

#[tokio::test(start_paused = true)]
async fn bodies_over_the_common_budget_are_503_until_others_are_gone() {
    let world = by_queue().settings(|settings| settings.max_buffered_bytes = 100).build();
    let (mut held, waiting) = world.begin(head(CHAT_PATH));
    held.push(&CHAT.into());
    let rejection = world.decide(head(CHAT_PATH), CHAT).await.unwrap_err();
    assert_eq!(rejection.code, ErrorCode::ServiceUnavailable);
    assert_eq!(world.budget().held(), CHAT.len());
    held.end();
    let routed = waiting.await.unwrap();
    assert_eq!(world.budget().held(), CHAT.len(), "until the driver lets the bytes go");
    let lease = held.into_lease();
    drop(routed);
    assert_eq!(lease.n_bytes(), CHAT.len());
    drop(lease);
    assert_eq!(world.budget().held(), 0);
    assert!(world.decide(head(CHAT_PATH), CHAT).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_driver_can_end_a_body_with_an_error_of_its_own() {
    let world = by_queue().build();
    let (mut feed, decision) = world.begin(head(CHAT_PATH));
    feed.push(&CHAT.into());
    feed.fail(Rejection::new(ErrorCode::RequestTimeout, "the request body stopped coming"));
    feed.push(&CHAT.into());
    feed.end();
    assert_eq!(decision.await.unwrap_err().code, ErrorCode::RequestTimeout);
}
