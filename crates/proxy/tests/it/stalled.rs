//! Clients and model servers that stop reading without going away.

use std::{net::SocketAddr, time::Duration};

use http_body_util::BodyExt;
use router_framework::EndCause;
use router_net::{ServerOptions, Target, UpstreamOptions};
use router_proxy::ProxyOptions;
use router_rt::Tasks;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::mpsc,
};

use crate::world::{
    CHAT, ModelServer, PROMPT, World, WorldOptions, chat, get, post, read_request, scripted, soon,
};

const SHORT: Duration = Duration::from_millis(60);

/// A model server whose responses never end, and that tells when the proxy has closed.
async fn endless(tasks: &Tasks) -> (SocketAddr, mpsc::Receiver<()>) {
    let (closed, sees_close) = mpsc::channel(8);
    let addr = scripted(tasks, move |_, mut stream| {
        let closed = closed.clone();
        async move {
            read_request(&mut stream).await;
            let length = u64::MAX / 2;
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n");
            stream.write_all(head.as_bytes()).await.unwrap();
            while stream.write_all(&[b'x'; 16 << 10]).await.is_ok() {}
            closed.send(()).await.unwrap();
        }
    });
    (addr.await, sees_close)
}

fn impatient() -> WorldOptions {
    let mut server = ServerOptions::named("serve");
    server.limits.stall_timeout = SHORT;
    WorldOptions { server, ..WorldOptions::default() }
}

#[tokio::test]
async fn a_client_that_stops_reading_is_cut_and_so_is_its_model_server() {
    let tasks = Tasks::new();
    let (addr, mut closed) = endless(&tasks).await;
    let world = World::with(&[addr], impatient()).await;
    let mut client = world.connect().await;
    let length = PROMPT.len();
    let request =
        format!("POST {CHAT} HTTP/1.1\r\nhost: x\r\ncontent-length: {length}\r\n\r\n{PROMPT}");
    client.write_all(request.as_bytes()).await.unwrap();
    soon(closed.recv()).await.unwrap();
    assert_eq!(world.ledger.only_end().await, (EndCause::ClientDisconnect, Some(200)));
    soon(world.all_gone()).await;
    let mut rest = Vec::new();
    // What was on the way may still be read, or is lost with a reset.
    let _reset = soon(client.read_to_end(&mut rest)).await;
    assert!(rest.is_empty() || rest.starts_with(b"HTTP/1.1 200"));
}

/// The connection serves its other streams, and goes on doing so.
#[tokio::test]
async fn an_http2_stream_that_nobody_reads_is_reset_and_its_model_server_is_cut() {
    let tasks = Tasks::new();
    let (addr, mut closed) = endless(&tasks).await;
    let world = World::with(&[addr], impatient()).await;
    let target = Target::clear(world.addr).http2();
    let unread = soon(world.client.send(&target, chat())).await.unwrap();
    soon(closed.recv()).await.unwrap();
    assert_eq!(world.ledger.only_end().await, (EndCause::ClientDisconnect, Some(200)));
    assert!(soon(unread.into_body().collect()).await.is_err());
    let health = soon(world.client.send(&target, get("/healthz"))).await.unwrap();
    assert_eq!((health.status().as_u16(), world.client.n_connects()), (200, 1));
}

#[tokio::test]
async fn a_model_server_that_never_reads_the_body_is_left_for_the_next() {
    const LARGE: usize = 32 << 20;
    let tasks = Tasks::new();
    let stuck = scripted(&tasks, |_, stream| async move {
        std::future::pending::<()>().await;
        drop(stream);
    })
    .await;
    let good = ModelServer::saying(&tasks, "{}").await;
    let options = WorldOptions {
        upstream: UpstreamOptions { stall_timeout: SHORT, ..UpstreamOptions::default() },
        proxy: ProxyOptions { max_retained_bytes: 2 * LARGE, ..ProxyOptions::default() },
        ..WorldOptions::default()
    };
    let world = World::with(&[stuck, good.addr], options).await;
    let prompt = format!("{{\"model\":\"m\",\"prompt\":\"{}\"}}", "x".repeat(LARGE));
    let answer = world.ask(post("/v1/completions", prompt)).await;
    assert_eq!((answer.status, answer.text()), (200, "{}"));
    assert!(good.only().body.len() > LARGE);
    assert_eq!(world.ledger.path(), ["e0", "e1"]);
    assert_eq!(world.ledger.only_end().await, (EndCause::Natural, Some(200)));
    assert_eq!(world.router.budget().held(), 0);
}
