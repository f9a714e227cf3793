//! A request moves on as long as no byte of a response has come.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Response, StatusCode};
use router_framework::EndCause;
use router_net::{Body, body};
use router_proxy::ProxyOptions;
use router_rt::Tasks;
use tokio::{net::TcpListener, sync::Notify};

use crate::world::{
    CHAT, ModelServer, PROMPT, World, WorldOptions, chat, header, nobody, post, read_head,
    read_request, say, scripted, soon, wait_for_close,
};

fn unavailable() -> Response<Body> {
    let mut response = Response::new(body::full("{\"busy\":true}"));
    *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    response
}

/// The request reaches the good server after the bad one.
async fn moves_on_from(bad: SocketAddr, options: WorldOptions) {
    let tasks = Tasks::new();
    let good = ModelServer::saying(&tasks, "{\"model\":\"t\"}").await;
    let world = World::with(&[bad, good.addr], options).await;
    // A spliced body has to be right in every attempt.
    let answer = world.ask(header(chat(), "x-llm-d-model-name-rewrite", "t")).await;
    assert_eq!((answer.status, answer.text()), (200, "{\"model\":\"m\"}"));
    assert_eq!(good.only().body, PROMPT.replace("\"m\"", "\"t\""));
    let books = world.ledger.ended(1).await;
    assert_eq!(books.path, ["e0", "e1"]);
    assert_eq!(books.ends, [(EndCause::Natural, Some(200))]);
    assert_eq!(world.router.budget().held(), 0);
}

#[tokio::test]
async fn from_one_that_refuses() {
    moves_on_from(nobody().await, WorldOptions::default()).await;
}

#[tokio::test]
async fn from_one_that_closes_without_an_answer() {
    let tasks = Tasks::new();
    let bad = scripted(&tasks, |_, mut stream| async move {
        read_request(&mut stream).await;
    });
    moves_on_from(bad.await, WorldOptions::default()).await;
}

#[tokio::test]
async fn from_one_that_resets_before_it_reads() {
    let tasks = Tasks::new();
    let bad = scripted(&tasks, |_, stream| async move {
        // Unread bytes in the socket make the kernel reset the connection.
        stream.readable().await.unwrap();
    });
    moves_on_from(bad.await, WorldOptions::default()).await;
}

#[tokio::test]
async fn from_one_that_breaks_off_within_the_head() {
    let tasks = Tasks::new();
    let bad = scripted(&tasks, |_, mut stream| async move {
        read_request(&mut stream).await;
        say(&mut stream, "HTTP/1.1 200 OK\r\ncontent-le").await;
    });
    moves_on_from(bad.await, WorldOptions::default()).await;
}

#[tokio::test]
async fn from_one_that_is_no_http_server() {
    let tasks = Tasks::new();
    let bad = scripted(&tasks, |_, mut stream| async move {
        read_request(&mut stream).await;
        say(&mut stream, "220 mail.example ESMTP\r\n\r\n").await;
        wait_for_close(&mut stream).await;
    });
    moves_on_from(bad.await, WorldOptions::default()).await;
}

#[tokio::test]
async fn from_one_that_switches_protocols_unasked() {
    let tasks = Tasks::new();
    let bad = scripted(&tasks, |_, mut stream| async move {
        read_request(&mut stream).await;
        let head = "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n";
        say(&mut stream, head).await;
        wait_for_close(&mut stream).await;
    });
    moves_on_from(bad.await, WorldOptions::default()).await;
}

#[tokio::test]
async fn from_one_that_says_503() {
    let tasks = Tasks::new();
    let bad = ModelServer::new(&tasks, unavailable).await;
    moves_on_from(bad.addr, WorldOptions::default()).await;
}

#[tokio::test]
async fn from_one_that_never_answers() {
    let tasks = Tasks::new();
    let bad = scripted(&tasks, |_, mut stream| async move {
        wait_for_close(&mut stream).await;
    });
    let proxy = ProxyOptions {
        response_head_timeout: Some(Duration::from_millis(50)),
        ..ProxyOptions::default()
    };
    moves_on_from(bad.await, WorldOptions { proxy, ..WorldOptions::default() }).await;
}

async fn fails(servers: &[SocketAddr], proxy: ProxyOptions, status: u16, code: &str) {
    let world = World::with(servers, WorldOptions { proxy, ..WorldOptions::default() }).await;
    let answer = world.ask(chat()).await;
    assert_eq!((answer.status, &*answer.error_code()), (status, code));
    let books = world.ledger.ended(1).await;
    assert_eq!(books.ends, [(EndCause::Error, None)]);
    assert_eq!(books.path.len(), servers.len());
    let errors = world.router.sum("llm_d_epp_request_error_total", &[("error_code", code)]);
    assert_eq!(errors, 1.0);
}

#[tokio::test]
async fn when_nobody_can_be_reached_the_client_may_try_again() {
    let servers = [nobody().await, nobody().await, nobody().await];
    fails(&servers, ProxyOptions::default(), 503, "ServiceUnavailable").await;
}

#[tokio::test]
async fn when_all_break_off_it_is_their_fault() {
    let tasks = Tasks::new();
    let bad = scripted(&tasks, |_, mut stream| async move {
        read_request(&mut stream).await;
    });
    fails(&[bad.await, nobody().await], ProxyOptions::default(), 502, "ModelServerError").await;
}

/// The client is told what a model server did, not that it hung up.
#[tokio::test]
async fn what_breaks_a_response_head_is_said() {
    let endless = format!("HTTP/1.1 200 OK\r\nx: {}", "y".repeat(100 << 10));
    for (sent, said) in [
        ("220 mail.example ESMTP\r\n\r\n", "not a valid HTTP response"),
        ("HTTP/1.1 200 OK\r\nbad header\r\n\r\n", "not a valid HTTP response"),
        (&*endless, "the head of the model server's response is too large"),
        ("HTTP/1.1 200 OK\r\ncontent-le", "within the head of its response"),
        ("HTTP/1.1 101 Switching Protocols\r\n\r\n", "switched protocols"),
        ("", "before its response"),
    ] {
        let tasks = Tasks::new();
        let sent = sent.to_owned();
        let bad = scripted(&tasks, move |_, mut stream| {
            let sent = sent.clone();
            async move {
                read_request(&mut stream).await;
                say(&mut stream, &sent).await;
            }
        });
        let world = World::new(&[bad.await]).await;
        let answer = world.ask(chat()).await;
        let message = answer.json()["error"]["message"].as_str().unwrap().to_owned();
        assert_eq!(answer.status, 502, "{message}");
        assert!(message.contains(said), "{said}: {message}");
    }
}

#[tokio::test]
async fn when_the_last_never_answers_it_is_a_timeout() {
    let tasks = Tasks::new();
    let bad = scripted(&tasks, |_, mut stream| async move {
        wait_for_close(&mut stream).await;
    });
    let proxy = ProxyOptions {
        response_head_timeout: Some(Duration::from_millis(50)),
        ..ProxyOptions::default()
    };
    fails(&[nobody().await, bad.await], proxy, 504, "ModelServerTimeout").await;
}

#[tokio::test]
async fn the_last_503_is_passed_on() {
    let tasks = Tasks::new();
    let one = ModelServer::new(&tasks, unavailable).await;
    let two = ModelServer::new(&tasks, unavailable).await;
    let world = World::new(&[one.addr, two.addr]).await;
    let answer = world.ask(chat()).await;
    assert_eq!((answer.status, answer.text()), (503, "{\"busy\":true}"));
    assert_eq!(world.ledger.only_end().await, (EndCause::Natural, Some(503)));
    assert_eq!(world.ledger.path(), ["e0", "e1"]);
}

#[tokio::test]
async fn other_errors_are_answers() {
    let tasks = Tasks::new();
    let bad = ModelServer::new(&tasks, || {
        let mut response = Response::new(body::full("boom"));
        *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
        response
    })
    .await;
    let other = ModelServer::saying(&tasks, "{}").await;
    let world = World::new(&[bad.addr, other.addr]).await;
    assert_eq!(world.ask(chat()).await.status, 500);
    assert_eq!(other.n_seen(), 0);
}

#[tokio::test]
async fn no_endpoint_at_all_is_a_503_with_a_reason() {
    let world = World::new(&[]).await;
    let answer = world.ask(chat()).await;
    assert_eq!((answer.status, &*answer.error_code()), (503, "ServiceUnavailable"));
    assert_eq!(answer.headers["x-llm-d-request-dropped-reason"], "rejected-no-endpoints");
    assert_eq!(answer.headers["retry-after"], "1");
    let message = answer.json()["error"]["message"].as_str().unwrap().to_owned();
    assert!(message.starts_with("inference error: ServiceUnavailable - "), "{message}");
}

/// A chat request above a small limit on what is kept.
fn large() -> (Bytes, WorldOptions) {
    let content = "x".repeat(100_000);
    let text = format!(
        "{{\"model\":\"m\",\"messages\":[{{\"role\":\"user\",\"content\":\"{content}\"}}]}}"
    );
    let proxy = ProxyOptions { max_retained_bytes: 50_000, ..ProxyOptions::default() };
    (text.into(), WorldOptions { proxy, ..WorldOptions::default() })
}

#[tokio::test]
async fn a_body_too_large_to_keep_moves_on_when_no_connection_could_be_made() {
    let tasks = Tasks::new();
    let good = ModelServer::saying(&tasks, "{}").await;
    let (text, options) = large();
    let world = World::with(&[nobody().await, nobody().await, good.addr], options).await;
    assert_eq!(world.ask(post(CHAT, text.clone())).await.status, 200);
    assert_eq!(good.only().body, text);
    assert_eq!(world.ledger.ended(1).await.path, ["e0", "e1", "e2"]);
    assert_eq!(world.router.budget().held(), 0);
}

#[tokio::test]
async fn a_body_too_large_to_keep_does_not_move_on_once_sent() {
    let tasks = Tasks::new();
    let bad = scripted(&tasks, |_, mut stream| async move {
        read_request(&mut stream).await;
    });
    let good = ModelServer::saying(&tasks, "{}").await;
    let (text, options) = large();
    let world = World::with(&[bad.await, good.addr], options).await;
    assert_eq!(world.ask(post(CHAT, text)).await.status, 502);
    assert_eq!(good.n_seen(), 0);
    assert_eq!(world.ledger.only_end().await, (EndCause::Error, None));
}

#[tokio::test]
async fn a_503_to_a_body_that_is_gone_is_passed_on() {
    let tasks = Tasks::new();
    let busy = ModelServer::new(&tasks, unavailable).await;
    let good = ModelServer::saying(&tasks, "{}").await;
    let (text, options) = large();
    let world = World::with(&[busy.addr, good.addr], options).await;
    assert_eq!(world.ask(post(CHAT, text)).await.status, 503);
    assert_eq!(good.n_seen(), 0);
}

/// A kept connection that closes at the moment of its next request says nothing about the endpoint.
#[tokio::test]
async fn a_stale_connection_is_not_a_failure_of_the_endpoint() {
    let tasks = Tasks::new();
    let addr = scripted(&tasks, |n, mut stream| async move {
        read_request(&mut stream).await;
        say(&mut stream, "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}").await;
        if n == 0 {
            // The next request is taken and not answered.
            read_head(&mut stream).await;
            return;
        }
        wait_for_close(&mut stream).await;
    })
    .await;
    let other = ModelServer::saying(&tasks, "other").await;
    let world = World::new(&[addr, other.addr]).await;
    for _ in 0..2 {
        assert_eq!(world.ask(chat()).await.text(), "{}");
    }
    assert_eq!(world.ledger.ended(2).await.path, ["e0", "e0"]);
    assert_eq!(world.upstream.n_connects(), 2);
}

/// Half of the servers die while requests wait for their answers: nobody notices.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_dies_under_load_fails_no_request() {
    const N_REQUESTS: usize = 64;
    let tasks = Tasks::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let dying = listener.local_addr().unwrap();
    let dies = Arc::new(Notify::new());
    let (victims, death) = (Tasks::new(), Arc::clone(&dies));
    let owner = victims.clone();
    victims.spawn("dying server", async move {
        loop {
            tokio::select! {
                () = death.notified() => return,
                accepted = listener.accept() => {
                    let (mut stream, _) = accepted.unwrap();
                    owner.spawn_cancellable("connection", async move {
                        wait_for_close(&mut stream).await;
                    });
                }
            }
        }
    });
    let good = ModelServer::saying(&tasks, "{}").await;
    let world = Arc::new(World::new(&[dying, good.addr]).await);
    let clients: Vec<_> = (0..N_REQUESTS)
        .map(|_| {
            let world = Arc::clone(&world);
            tasks.spawn("client", async move { world.ask(chat()).await.status })
        })
        .collect();
    world.ledger.in_flight(N_REQUESTS as i64).await;
    dies.notify_one();
    victims.cancel();
    for client in clients {
        assert_eq!(soon(client.join()).await.unwrap(), 200);
    }
    assert_eq!(good.n_seen(), N_REQUESTS);
    let books = world.ledger.ended(N_REQUESTS).await;
    assert!(books.ends.iter().all(|end| *end == (EndCause::Natural, Some(200))));
}
