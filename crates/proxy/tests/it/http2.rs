//! HTTP/2 clients in front of HTTP/1.1 model servers.

use futures_util::future::join_all;
use http::Response;
use router_framework::EndCause;
use router_net::{Target, body};
use router_rt::Tasks;

use crate::world::{Answer, CHAT, ModelServer, PROMPT, World, chat, header, post, soon};

#[tokio::test]
async fn a_request_becomes_http1() {
    let tasks = Tasks::new();
    let model = ModelServer::new(&tasks, || {
        Response::builder().header("connection", "close").body(body::full("{}")).unwrap()
    })
    .await;
    let world = World::new(&[model.addr]).await;
    let request = header(header(chat(), "cookie", "a=1"), "cookie", "b=2");
    let request = header(request, "host", "router.example");
    let response = soon(world.client.send(&Target::clear(world.addr).http2(), request)).await;
    let answer = Answer::read(response.unwrap()).await;
    assert_eq!((answer.status, answer.text()), (200, "{}"));
    assert!(!answer.headers.contains_key("connection"));
    let seen = model.only();
    assert_eq!(seen.body, PROMPT);
    assert_eq!(seen.parts.uri, CHAT);
    assert_eq!(seen.header("cookie"), Some("a=1; b=2"));
    assert_eq!(seen.header("x-forwarded-host"), Some("router.example"));
    assert_eq!(seen.header("host"), Some(&*model.addr.to_string()));
    assert_eq!(seen.header("content-length"), Some(&*PROMPT.len().to_string()));
}

#[tokio::test]
async fn many_streams_share_a_connection() {
    let tasks = Tasks::new();
    let model = ModelServer::saying(&tasks, "{}").await;
    let world = World::new(&[model.addr]).await;
    let target = Target::clear(world.addr).http2();
    // The first makes the connection.
    assert_eq!(soon(world.client.send(&target, chat())).await.unwrap().status(), 200);
    let all = (0..100).map(|_| async {
        let response = world.client.send(&target, chat()).await.unwrap();
        Answer::read(response).await.status
    });
    assert_eq!(soon(join_all(all)).await, vec![200; 100]);
    assert_eq!(world.client.n_connects(), 1);
    let books = world.ledger.ended(101).await;
    assert!(books.ends.iter().all(|end| *end == (EndCause::Natural, Some(200))));
}

#[tokio::test]
async fn a_refused_body_does_not_disturb_the_connection() {
    let tasks = Tasks::new();
    let model = ModelServer::saying(&tasks, "{}").await;
    let world = World::new(&[model.addr]).await;
    let target = Target::clear(world.addr).http2();
    let refused = header(post(CHAT, vec![b'x'; 4 << 20]), "content-encoding", "gzip");
    let answer = Answer::read(soon(world.client.send(&target, refused)).await.unwrap()).await;
    assert_eq!((answer.status, &*answer.error_code()), (415, "UnsupportedMediaType"));
    assert_eq!(soon(world.client.send(&target, chat())).await.unwrap().status(), 200);
    assert_eq!(world.client.n_connects(), 1);
}
