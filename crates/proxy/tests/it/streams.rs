//! Responses that come in pieces.

use std::{convert::Infallible, fmt::Write, time::Duration};

use bytes::Bytes;
use http::Response;
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use router_framework::EndCause;
use router_net::{Body, Server, ServerOptions, body};
use router_proxy::ProxyOptions;
use router_rt::Tasks;
use tokio::{io::AsyncWriteExt, sync::mpsc};

use crate::world::{
    ModelServer, World, WorldOptions, chat, header, listen, read_request, say, scripted, soon,
    wait_for_close,
};

/// A response of these pieces, each a frame of its own.
fn pieces(pieces: Vec<Bytes>) -> Response<Body> {
    let frames = pieces.into_iter().map(|piece| Ok::<_, Infallible>(Frame::data(piece)));
    Response::builder()
        .header("content-type", "text/event-stream")
        .body(body::boxed(StreamBody::new(futures_util::stream::iter(frames))))
        .unwrap()
}

/// Events of a stream of about `n_bytes`.
fn events(n_bytes: usize, model: &str) -> String {
    let mut text = String::with_capacity(n_bytes + 100);
    let mut rng = fastrand::Rng::with_seed(7);
    while text.len() < n_bytes {
        let word: String = (0..rng.usize(1..40)).map(|_| rng.alphanumeric()).collect();
        write!(text, "data: {{\"model\":\"{model}\",\"text\":\"{word}\"}}\n\n").unwrap();
    }
    text.push_str("data: [DONE]\n\n");
    text
}

#[tokio::test]
async fn a_megabyte_of_events_in_odd_pieces_arrives_as_it_was() {
    let tasks = Tasks::new();
    let text = Bytes::from(events(1 << 20, "m"));
    let sent = text.clone();
    let model = ModelServer::new(&tasks, move || {
        let mut rng = fastrand::Rng::with_seed(3);
        let (mut rest, mut all) = (sent.clone(), Vec::new());
        while !rest.is_empty() {
            let n = rng.usize(1..=4_000.min(rest.len()));
            all.push(rest.split_to(n));
        }
        pieces(all)
    })
    .await;
    let world = World::new(&[model.addr]).await;
    let answer = world.ask(chat()).await;
    assert_eq!(answer.body, text);
    assert_eq!(world.ledger.only_end().await, (EndCause::Natural, Some(200)));
}

#[tokio::test]
async fn an_event_split_at_every_byte_arrives_and_is_restored() {
    let tasks = Tasks::new();
    let sent = Bytes::from(events(4 << 10, "target"));
    let model = ModelServer::new(&tasks, move || {
        pieces(sent.chunks(1).map(Bytes::copy_from_slice).collect())
    })
    .await;
    let world = World::new(&[model.addr]).await;
    assert_eq!(world.ask(chat()).await.text(), events(4 << 10, "target"));
    let restored = world.ask(header(chat(), "x-llm-d-model-name-rewrite", "target")).await;
    assert_eq!(restored.text(), events(4 << 10, "target").replace("\"target\"", "\"m\""));
    world.ledger.ended(2).await;
}

#[tokio::test]
async fn each_event_is_passed_on_before_the_next_is_made() {
    let tasks = Tasks::new();
    let (events, queue) = mpsc::channel::<Bytes>(1);
    let queue = std::sync::Arc::new(parking_lot::Mutex::new(Some(queue)));
    let model = ModelServer::new(&tasks, move || {
        let queue = queue.lock().take().unwrap();
        let stream = futures_util::stream::unfold(queue, async |mut queue| {
            let event = queue.recv().await?;
            Some((Ok::<_, Infallible>(Frame::data(event)), queue))
        });
        Response::new(body::boxed(StreamBody::new(Box::pin(stream))))
    })
    .await;
    let world = World::new(&[model.addr]).await;
    let mut response = world.send(chat()).await.unwrap();
    for n in 0..20 {
        let event = Bytes::from(format!("data: {n}\n\n"));
        events.send(event.clone()).await.unwrap();
        let frame = soon(response.body_mut().frame()).await.unwrap().unwrap();
        assert_eq!(frame.into_data().unwrap(), event);
    }
    drop(events);
    assert!(soon(response.body_mut().frame()).await.is_none());
    assert_eq!(world.ledger.only_end().await, (EndCause::Natural, Some(200)));
}

#[tokio::test]
async fn trailers_go_by() {
    let tasks = Tasks::new();
    let addr = scripted(&tasks, |_, mut stream| async move {
        read_request(&mut stream).await;
        let head = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: x-sum\r\n\r\n";
        say(&mut stream, format!("{head}3\r\nabc\r\n0\r\nx-sum: 6\r\n\r\n")).await;
        wait_for_close(&mut stream).await;
    })
    .await;
    let world = World::new(&[addr]).await;
    let answer = world.ask(header(chat(), "te", "trailers")).await;
    assert_eq!(answer.text(), "abc");
    assert_eq!(answer.headers["trailer"], "x-sum");
    assert_eq!(answer.trailers.unwrap()["x-sum"], "6");
    assert_eq!(world.ledger.only_end().await, (EndCause::Natural, Some(200)));
}

#[tokio::test]
async fn the_wish_for_trailers_is_passed_on() {
    let tasks = Tasks::new();
    let model = ModelServer::saying(&tasks, "{}").await;
    let world = World::new(&[model.addr]).await;
    world.ask(header(chat(), "te", "trailers, deflate;q=0.5")).await;
    let seen = model.only();
    assert_eq!((seen.header("te"), seen.header("connection")), (Some("trailers"), Some("te")));
}

/// A response that breaks off must not look whole to the client.
async fn breaks_off(head: &'static str) {
    let tasks = Tasks::new();
    let addr = scripted(&tasks, move |_, mut stream| async move {
        read_request(&mut stream).await;
        say(&mut stream, head).await;
    })
    .await;
    let world = World::new(&[addr]).await;
    // The head has come, so the client gets it, even when nothing follows.
    let response = world.send(chat()).await.unwrap();
    assert_eq!(response.status(), 200);
    assert!(soon(response.into_body().collect()).await.is_err());
    assert_eq!(world.ledger.only_end().await, (EndCause::Error, Some(200)));
}

#[tokio::test]
async fn a_cut_stream_is_cut_for_the_client() {
    breaks_off("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n").await;
    breaks_off("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhel").await;
    breaks_off("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\nzz\r\n").await;
}

#[tokio::test]
async fn a_cut_document_is_cut_for_the_client() {
    breaks_off("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhello").await;
    breaks_off("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n").await;
}

#[tokio::test]
async fn a_response_that_stops_coming_is_cut() {
    let tasks = Tasks::new();
    let addr = scripted(&tasks, |_, mut stream| async move {
        read_request(&mut stream).await;
        say(&mut stream, "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhello").await;
        wait_for_close(&mut stream).await;
    })
    .await;
    let proxy = ProxyOptions {
        response_idle_timeout: Some(Duration::from_millis(50)),
        ..ProxyOptions::default()
    };
    let world = World::with(&[addr], WorldOptions { proxy, ..WorldOptions::default() }).await;
    let response = world.send(chat()).await.unwrap();
    assert!(soon(response.into_body().collect()).await.is_err());
    assert_eq!(world.ledger.only_end().await, (EndCause::Error, Some(200)));
}

/// A client that does not read holds the model server back, instead of filling the router's memory.
#[tokio::test]
async fn a_slow_client_holds_the_model_server_back() {
    const MEGABYTE: usize = 1 << 20;
    const N_MEGABYTES: usize = 64;
    let tasks = Tasks::new();
    let (progress, mut written) = mpsc::channel(1);
    let addr = scripted(&tasks, move |_, mut stream| {
        let progress = progress.clone();
        async move {
            read_request(&mut stream).await;
            let length = N_MEGABYTES * MEGABYTE;
            say(&mut stream, format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n")).await;
            let block = vec![b'x'; MEGABYTE];
            let mut n_blocks = 0;
            loop {
                let writing = stream.write_all(&block);
                tokio::pin!(writing);
                match tokio::time::timeout(Duration::from_millis(300), &mut writing).await {
                    Ok(_) => n_blocks += 1,
                    Err(_) => {
                        progress.send(n_blocks).await.unwrap();
                        writing.await.unwrap();
                        n_blocks += 1;
                    }
                }
                if n_blocks == N_MEGABYTES {
                    return wait_for_close(&mut stream).await;
                }
            }
        }
    })
    .await;
    let world = World::new(&[addr]).await;
    let response = world.send(chat()).await.unwrap();
    let n_blocks = soon(written.recv()).await.unwrap();
    assert!(n_blocks < N_MEGABYTES / 2, "{n_blocks} MiB went to a client that reads nothing");
    written.close();
    let body = soon(response.into_body().collect()).await.unwrap().to_bytes();
    assert_eq!(body.len(), N_MEGABYTES * MEGABYTE);
    assert_eq!(world.ledger.only_end().await, (EndCause::Natural, Some(200)));
}

#[tokio::test]
async fn a_drain_lets_streams_end() {
    let tasks = Tasks::new();
    let (go_on, wait) = tokio::sync::watch::channel(false);
    let handler = move |_: http::Request<hyper::body::Incoming>| {
        let wait = wait.clone();
        async move {
            let parts = futures_util::stream::unfold((0, wait), async |(n, mut wait)| {
                match n {
                    0 => {}
                    1 => drop(wait.wait_for(|go_on| *go_on).await),
                    _ => return None,
                }
                Some((Ok::<_, Infallible>(Frame::data(Bytes::from_static(b"part"))), (n + 1, wait)))
            });
            Response::new(body::boxed(StreamBody::new(Box::pin(parts))))
        }
    };
    let options = ServerOptions::named("model server");
    let model = Server::start(listen().await, None, options, &tasks, handler).unwrap();
    let world = World::new(&[model.local_addr()]).await;
    let mut response = world.send(chat()).await.unwrap();
    let first = soon(response.body_mut().frame()).await.unwrap().unwrap();
    assert_eq!(first.into_data().unwrap(), "part");
    let draining = world.server.drain(Duration::from_secs(20));
    let reading = async {
        go_on.send_replace(true);
        response.into_body().collect().await.unwrap().to_bytes()
    };
    let (n_cut, rest) = soon(futures_util::future::join(draining, reading)).await;
    assert_eq!((n_cut, &*rest), (0, &b"part"[..]));
    assert_eq!(world.ledger.only_end().await, (EndCause::Natural, Some(200)));
}
