//! Clients that go away.

use bytes::Bytes;
use http_body_util::BodyExt;
use router_framework::EndCause;
use router_net::Target;
use router_proxy::ProxyOptions;
use router_rt::Tasks;
use tokio::{io::AsyncWriteExt, sync::mpsc};

use crate::world::{
    CHAT, PROMPT, World, WorldOptions, chat, read_head, read_request, say, scripted, soon,
    wait_for_close,
};

/// A model server that sends `answer` to each request, and tells when the proxy has closed.
async fn watching(
    tasks: &Tasks,
    answer: &'static str,
) -> (std::net::SocketAddr, mpsc::Receiver<()>) {
    let (closed, sees_close) = mpsc::channel(8);
    let addr = scripted(tasks, move |_, mut stream| {
        let closed = closed.clone();
        async move {
            read_request(&mut stream).await;
            say(&mut stream, answer).await;
            wait_for_close(&mut stream).await;
            closed.send(()).await.unwrap();
        }
    });
    (addr.await, sees_close)
}

const STREAM: &str = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n";

fn raw_chat() -> String {
    format!("POST {CHAT} HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n{PROMPT}", PROMPT.len())
}

#[tokio::test]
async fn while_the_answer_is_awaited() {
    let tasks = Tasks::new();
    let (addr, mut closed) = watching(&tasks, "").await;
    let world = World::new(&[addr]).await;
    let mut client = world.connect().await;
    client.write_all(raw_chat().as_bytes()).await.unwrap();
    world.ledger.in_flight(1).await;
    drop(client);
    soon(closed.recv()).await.unwrap();
    assert_eq!(world.ledger.only_end().await, (EndCause::ClientDisconnect, None));
    assert_eq!(world.router.budget().held(), 0);
}

#[tokio::test]
async fn while_the_answer_streams() {
    let tasks = Tasks::new();
    let (addr, mut closed) = watching(&tasks, STREAM).await;
    let world = World::new(&[addr]).await;
    let mut client = world.connect().await;
    client.write_all(raw_chat().as_bytes()).await.unwrap();
    assert!(soon(read_head(&mut client)).await.unwrap().starts_with("HTTP/1.1 200"));
    drop(client);
    soon(closed.recv()).await.unwrap();
    assert_eq!(world.ledger.only_end().await, (EndCause::ClientDisconnect, Some(200)));
}

#[tokio::test]
async fn while_the_body_is_sent() {
    let world = World::new(&["127.0.0.1:1".parse().unwrap()]).await;
    let mut client = world.connect().await;
    let part = raw_chat();
    client.write_all(&part.as_bytes()[..part.len() - 1]).await.unwrap();
    drop(client);
    // The proxy's connection ends; nothing was decided, nothing is held.
    soon(world.all_gone()).await;
    assert_eq!(world.router.budget().held(), 0);
    assert!(world.ledger.path().is_empty());
}

/// HTTP/2 clients reset the stream; the connection and its other streams go on.
#[tokio::test]
async fn an_http2_stream_is_reset_at_every_stage() {
    let tasks = Tasks::new();
    let (addr, mut closed) = watching(&tasks, STREAM).await;
    let world = World::new(&[addr]).await;
    let target = Target::clear(world.addr).http2();

    let streaming = soon(world.client.send(&target, chat())).await.unwrap();

    let mut early = soon(world.client.send(&target, chat())).await.unwrap();
    soon(early.body_mut().frame()).await.unwrap().unwrap();
    drop(early);
    soon(closed.recv()).await.unwrap();
    assert_eq!(world.ledger.ended_some(1).await, [(EndCause::ClientDisconnect, Some(200))]);

    drop(streaming);
    soon(closed.recv()).await.unwrap();
    world.ledger.ended(2).await;
    assert_eq!(world.client.n_connects(), 1);
}

#[tokio::test]
async fn an_http2_request_is_reset_before_its_answer() {
    let tasks = Tasks::new();
    let (addr, mut closed) = watching(&tasks, "").await;
    let world = World::new(&[addr]).await;
    let target = Target::clear(world.addr).http2();
    let (client, sends) = (world.client.clone(), Tasks::new());
    let sending = sends.spawn_cancellable("client", async move {
        drop(client.send(&target, chat()).await);
    });
    world.ledger.in_flight(1).await;
    sends.cancel();
    let _cancelled = sending.join().await;
    soon(closed.recv()).await.unwrap();
    assert_eq!(world.ledger.only_end().await, (EndCause::ClientDisconnect, None));
}

#[tokio::test]
async fn an_http2_request_is_reset_within_its_body() {
    use futures_util::{StreamExt, stream};
    use http_body::Frame;
    use http_body_util::StreamBody;

    let world = World::new(&["127.0.0.1:1".parse().unwrap()]).await;
    let target = Target::clear(world.addr).http2();
    // Makes the connection that all share.
    let health = || world.client.send(&target, crate::world::get("/healthz"));
    assert_eq!(soon(health()).await.unwrap().status(), 200);
    let start = Bytes::from(format!("{{\"prompt\":\"{}", "x".repeat(8_192)));
    let parts =
        stream::iter([Ok::<_, std::io::Error>(Frame::data(start))]).chain(stream::pending());
    let request = http::Request::post(CHAT).body(router_net::body::boxed(StreamBody::new(parts)));
    let tasks = Tasks::new();
    let (client, to) = (world.client.clone(), target.clone());
    let sending = tasks.spawn_cancellable("client", async move {
        drop(client.send(&to, request.unwrap()).await);
    });
    let held = async |condition: fn(usize) -> bool| {
        while !condition(world.router.budget().held()) {
            tokio::task::yield_now().await;
        }
    };
    soon(held(|n_bytes| n_bytes > 0)).await;
    tasks.cancel();
    let _cancelled = sending.join().await;
    soon(held(|n_bytes| n_bytes == 0)).await;
    assert_eq!(soon(health()).await.unwrap().status(), 200);
    assert_eq!(world.client.n_connects(), 1);
    assert!(world.ledger.path().is_empty());
}

#[tokio::test]
async fn a_request_too_many_is_refused_and_room_comes_back_with_an_end() {
    let tasks = Tasks::new();
    let (addr, mut closed) = watching(&tasks, "").await;
    let proxy = ProxyOptions { max_requests: 1, ..ProxyOptions::default() };
    let world = World::with(&[addr], WorldOptions { proxy, ..WorldOptions::default() }).await;
    let mut client = world.connect().await;
    client.write_all(raw_chat().as_bytes()).await.unwrap();
    world.ledger.in_flight(1).await;
    let refused = world.ask(chat()).await;
    assert_eq!(refused.status, 503);
    assert_eq!(refused.headers["retry-after"], "1");
    drop(client);
    soon(closed.recv()).await.unwrap();
    world.all_gone().await;
    let mut next = world.connect().await;
    next.write_all(raw_chat().as_bytes()).await.unwrap();
    world.ledger.in_flight(1).await;
}
