use router_rt::Tasks;
use router_telemetry::metrics::Def;

use super::*;
use crate::{
    body::empty,
    server::ServerOptions,
    testing::{get, serve, text},
    upstream::{Target, Upstream, UpstreamOptions},
};

fn pages() -> AdminPages {
    let registry = Registry::default();
    registry.counter(Def::new("n_total", "N.", [])).unwrap().with([]).inc();
    AdminPages::builder()
        .metrics(registry)
        .check("/healthz", || Ok(()))
        .check("/readyz", || Err("no endpoint is known".to_owned()))
        .json("/debug/decisions", |query| format!("{{\"query\":{query:?}}}").into_bytes())
        .profile(Offload::inline())
        .build()
}

async fn check(request: Request<crate::Body>, status: u16, part: &str) {
    let response = pages().respond(&request).await;
    let shown = format!("{} {}", request.method(), request.uri());
    assert_eq!(response.status().as_u16(), status, "{shown}");
    let body = text(response).await;
    assert!(body.contains(part), "{shown}: {body}");
}

#[tokio::test]
async fn each_page_answers() {
    check(get("/metrics"), 200, "n_total 1\n").await;
    check(get("/healthz"), 200, "ok").await;
    check(get("/readyz"), 503, "no endpoint is known").await;
    check(get("/debug/decisions?n=3"), 200, "{\"query\":Some(\"n=3\")}").await;
    for bad in ["0", "301", "-1", "x", ""] {
        let uri = format!("/debug/pprof/profile?x=1&seconds={bad}");
        check(get(&uri), 400, "from 1 to 300").await;
    }
    check(get("/metrics/"), 404, "/debug/decisions\n").await;
    let post = Request::post("/metrics").body(empty()).unwrap();
    assert_eq!(pages().respond(&post).await.headers()[header::ALLOW], "GET, HEAD");
    check(post, 405, "only GET").await;
}

#[tokio::test]
async fn the_metrics_page_is_negotiated_and_head_has_no_body() {
    let request = Request::get("/metrics")
        .header("accept", "application/openmetrics-text;version=1.0.0")
        .body(empty())
        .unwrap();
    let response = pages().respond(&request).await;
    assert!(response.headers()[header::CONTENT_TYPE].to_str().unwrap().contains("openmetrics"));
    assert!(text(response).await.ends_with("# EOF\n"));
    let head = Request::head("/healthz").body(empty()).unwrap();
    let response = pages().respond(&head).await;
    assert_eq!(response.headers()[header::CONTENT_LENGTH], "3");
    assert_eq!(text(response).await, "");
}

#[tokio::test]
async fn pages_are_served_over_a_socket() {
    let tasks = Tasks::new();
    let server = serve(&tasks, ServerOptions::default(), None, pages()).await;
    let client = Upstream::new(UpstreamOptions::default(), &tasks);
    let target = Target::clear(server.local_addr());
    let response = client.send(&target, get("/metrics")).await.unwrap();
    assert_eq!(response.headers()[header::CONTENT_TYPE], Format::Text.content_type());
    assert!(text(response).await.ends_with("n_total 1\n"));
}
