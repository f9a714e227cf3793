//! What the proxy answers itself, and who may ask.

use std::sync::{Arc, atomic::Ordering};

use http::Method;
use router_proxy::{ApiKeys, ProxyOptions};
use router_rt::Tasks;

use crate::world::{ModelServer, World, WorldOptions, chat, get, header, post};

#[tokio::test]
async fn health_says_whether_it_lives_and_readiness_whether_to_come() {
    let world = World::new(&[]).await;
    let check = async |path, status: u16, text: &str| {
        let answer = world.ask(get(path)).await;
        assert_eq!((answer.status, answer.text()), (status, text));
    };
    check("/healthz", 200, "ok\n").await;
    check("/readyz", 200, "ok\n").await;
    world.is_ready.store(false, Ordering::Relaxed);
    check("/healthz", 200, "ok\n").await;
    check("/readyz", 503, "draining\n").await;
    assert_eq!(world.ask(post("/readyz", "")).await.status, 405);
    let mut head = get("/healthz");
    *head.method_mut() = Method::HEAD;
    assert_eq!(world.ask(head).await.text(), "");
}

#[tokio::test]
async fn with_keys_only_those_who_show_one_are_served() {
    let tasks = Tasks::new();
    let model = ModelServer::saying(&tasks, "{\"data\":[]}").await;
    let keys = Arc::new(ApiKeys::parse(b"sk-one\nsk-two\n").unwrap());
    let proxy = ProxyOptions { api_keys: Some(Arc::clone(&keys)), ..ProxyOptions::default() };
    let world = World::with(&[model.addr], WorldOptions { proxy, ..WorldOptions::default() }).await;
    for request in [chat(), header(chat(), "authorization", "Bearer nope"), get("/v1/models")] {
        let answer = world.ask(request).await;
        assert_eq!((answer.status, &*answer.error_code()), (401, "Unauthorized"));
        assert_eq!(answer.headers["www-authenticate"], "Bearer");
        assert_eq!(answer.json()["error"]["type"], "authentication_error");
    }
    assert_eq!(world.client.n_connects(), 1, "a refused client may try again");
    assert_eq!(world.ask(get("/healthz")).await.status, 200);
    assert_eq!(model.n_seen(), 0);
    assert_eq!(world.ask(header(chat(), "authorization", "Bearer sk-two")).await.status, 200);
    assert_eq!(model.only().header("authorization"), None);
    assert_eq!(world.ask(header(chat(), "x-api-key", "sk-one")).await.status, 200);
    assert_eq!(model.only().header("x-api-key"), None);
    keys.replace(b"sk-three").unwrap();
    assert_eq!(world.ask(header(chat(), "x-api-key", "sk-one")).await.status, 401);
}

#[tokio::test]
async fn without_keys_the_clients_key_is_the_model_servers() {
    let tasks = Tasks::new();
    let model = ModelServer::saying(&tasks, "{}").await;
    let world = World::new(&[model.addr]).await;
    assert_eq!(world.ask(header(chat(), "authorization", "Bearer x")).await.status, 200);
    assert_eq!(model.only().header("authorization"), Some("Bearer x"));
}
