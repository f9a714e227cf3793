//! What a request holds of the budget for bodies.

use bytes::Bytes;
use router_core::ErrorCode;
use router_testkit::router::{TestRouter, head};

use crate::roles::{CHAT_PATH, by_queue};

const COMPLETIONS_PATH: &str = "/v1/completions";

/// A chat whose parts are shorter than what is noted of each.
fn many_parts() -> Bytes {
    let part = r#"{"text":"a"},"#.repeat(20_000);
    format!(r#"{{"model":"m","messages":[{{"role":"user","content":[{part}{{}}]}}]}}"#).into()
}

/// What is held of the budget once the body is there, and once the request is routed and the body kept.
async fn held(world: &TestRouter, path: &str, body: &Bytes) -> (usize, usize) {
    let (mut feed, decision) = world.begin(head(path));
    for at in (0..body.len()).step_by(16 * 1024) {
        feed.push(&body.slice(at..body.len().min(at + 16 * 1024)));
    }
    let before = world.budget().held();
    feed.end();
    let routed = decision.await.unwrap();
    let lease = feed.into_lease();
    assert_eq!(world.budget().held(), lease.n_bytes());
    drop(routed);
    (before, lease.n_bytes())
}

#[tokio::test(start_paused = true)]
async fn what_is_found_in_a_body_counts_until_the_request_is_routed() {
    let world = by_queue().build();
    let body = many_parts();
    let (before, after) = held(&world, CHAT_PATH, &body).await;
    assert!(before > 2 * body.len(), "{before} of {}", body.len());
    assert_eq!(after, body.len());
    assert_eq!(world.budget().held(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_prompt_counts_once_be_it_text_or_token_ids() {
    let world = by_queue().build();
    for prompt in [
        format!("[{}1]", "1,".repeat(200_000)),
        format!("[[{}1],[2]]", "1,".repeat(200_000)),
        format!("\"{}\"", r"\n\u00e9".repeat(50_000)),
    ] {
        let body = Bytes::from(format!(r#"{{"model":"m","prompt":{prompt}}}"#));
        let (before, after) = held(&world, COMPLETIONS_PATH, &body).await;
        assert_eq!((before, after), (body.len(), body.len()));
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_found_in_a_body_may_be_too_much() {
    let body = many_parts();
    let max = body.len() + 100_000;
    let world = by_queue().settings(|settings| settings.max_buffered_bytes = max).build();
    let rejection = world.decide(head(CHAT_PATH), body).await.unwrap_err();
    assert_eq!(rejection.code, ErrorCode::ServiceUnavailable);
    assert_eq!(world.budget().held(), 0);
}
