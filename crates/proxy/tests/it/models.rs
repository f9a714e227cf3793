//! `GET /v1/models`.

use std::time::Duration;

use futures_util::future::join_all;
use http::{Method, Response, StatusCode};
use router_core::EndpointSpec;
use router_framework::EndpointSink;
use router_net::body;
use router_proxy::{ModelsOptions, ProxyOptions};
use router_rt::Tasks;
use serde_json::json;

use crate::world::{
    ModelServer, World, WorldOptions, get, nobody, read_request, say, scripted, wait_for_close,
};

const BASE: &str =
    r#"{"object":"list","data":[{"id":"base","object":"model","created":1,"max_model_len":4096}]}"#;
const WITH_LORA: &str = r#"{"object":"list","data":[
    {"id":"base","object":"model","created":2,"max_model_len":8192},
    {"id":"lora","object":"model","parent":"base"}]}"#;

#[tokio::test]
async fn lists_are_merged_and_what_differs_is_named() {
    let tasks = Tasks::new();
    let one = ModelServer::saying(&tasks, BASE).await;
    let two = ModelServer::saying(&tasks, WITH_LORA).await;
    let world = World::new(&[one.addr, two.addr]).await;
    let answer = world.ask(get("/v1/models")).await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.headers["content-type"], "application/json");
    assert_eq!(
        answer.json(),
        json!({"object": "list", "data": [
            {"id": "base", "object": "model", "created": 1, "max_model_len": 4096,
             "llm_d_router": {"differs": {"max_model_len": ["default/e1"]}}},
            {"id": "lora", "object": "model", "parent": "base",
             "llm_d_router": {"missing_on": ["default/e0"]}},
        ]})
    );
    assert_eq!(one.only().header("host"), Some(&*one.addr.to_string()));
    assert!(world.ledger.path().is_empty(), "no decision is made");
    let mut head = get("/v1/models");
    *head.method_mut() = Method::HEAD;
    assert_eq!(world.ask(head).await.headers["content-length"], answer.body.len().to_string());
}

#[tokio::test]
async fn endpoints_that_fail_are_left_out() {
    let tasks = Tasks::new();
    let good = ModelServer::saying(&tasks, BASE).await;
    let silent = scripted(&tasks, |_, mut stream| async move {
        wait_for_close(&mut stream).await;
    });
    let endless = scripted(&tasks, |_, mut stream| async move {
        read_request(&mut stream).await;
        say(&mut stream, "HTTP/1.1 200 OK\r\n\r\n").await;
        say(&mut stream, vec![b' '; 4 << 20]).await;
    });
    let failing = ModelServer::new(&tasks, || {
        let mut response = Response::new(body::full(BASE));
        *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
        response
    });
    let odd = ModelServer::saying(&tasks, "{\"data\":7}").await;
    let broken = ModelServer::saying(&tasks, "{\"data\":[").await;
    let models = ModelsOptions { timeout: Duration::from_millis(500), ..ModelsOptions::default() };
    let proxy = ProxyOptions { models, ..ProxyOptions::default() };
    let servers = [
        nobody().await,
        silent.await,
        endless.await,
        failing.await.addr,
        odd.addr,
        broken.addr,
        good.addr,
    ];
    let world = World::with(&servers, WorldOptions { proxy, ..WorldOptions::default() }).await;
    let answer = world.ask(get("/v1/models")).await;
    assert_eq!(answer.json()["data"].as_array().unwrap().len(), 1);
    assert_eq!(answer.json()["data"][0].get("llm_d_router"), None, "silence is not difference");
}

#[tokio::test]
async fn nobody_to_ask_is_503() {
    let world = World::new(&[nobody().await]).await;
    let answer = world.ask(get("/v1/models")).await;
    assert_eq!((answer.status, &*answer.error_code()), (503, "ServiceUnavailable"));
}

#[tokio::test]
async fn endpoints_are_asked_once_for_many_and_again_when_the_pool_changes() {
    let tasks = Tasks::new();
    let one = ModelServer::saying(&tasks, BASE).await;
    let two = ModelServer::saying(&tasks, WITH_LORA).await;
    let models = ModelsOptions { ttl: Duration::from_hours(1), ..ModelsOptions::default() };
    let proxy = ProxyOptions { models, ..ProxyOptions::default() };
    let world = World::with(&[one.addr], WorldOptions { proxy, ..WorldOptions::default() }).await;
    let answers = join_all((0..20).map(|_| world.ask(get("/v1/models")))).await;
    assert!(answers.iter().all(|answer| answer.status == 200));
    assert_eq!(world.ask(get("/v1/models")).await.json()["data"].as_array().unwrap().len(), 1);
    assert_eq!(one.n_seen(), 1);
    let spec = EndpointSpec::new("default", "e9", "127.0.0.1", two.addr.port());
    world.router.datastore().replace(vec![spec]);
    assert_eq!(world.ask(get("/v1/models")).await.json()["data"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn an_old_list_is_not_shown() {
    let tasks = Tasks::new();
    let model = ModelServer::saying(&tasks, BASE).await;
    let models = ModelsOptions { ttl: Duration::ZERO, ..ModelsOptions::default() };
    let proxy = ProxyOptions { models, ..ProxyOptions::default() };
    let world = World::with(&[model.addr], WorldOptions { proxy, ..WorldOptions::default() }).await;
    for _ in 0..3 {
        assert_eq!(world.ask(get("/v1/models")).await.status, 200);
    }
    assert_eq!(model.n_seen(), 3);
}
