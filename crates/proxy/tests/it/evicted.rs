//! Requests in flight that make room for more important ones.

use std::{net::SocketAddr, time::Duration};

use router_framework::EndCause;
use router_rt::Tasks;
use router_testkit::router::ONE_AT_A_TIME;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::mpsc,
};

use crate::world::{
    CHAT, PROMPT, World, WorldOptions, chat, read_head, read_request, say, scripted, soon,
    wait_for_close,
};

/// A write that takes longer than this waits for a reader.
const SHORT: Duration = Duration::from_millis(200);

const CUT: (EndCause, Option<u16>) = (EndCause::Evicted, Some(200));

async fn world(server: SocketAddr) -> World {
    let config = format!("{ONE_AT_A_TIME}  enableEviction: true\n");
    World::with(&[server], WorldOptions { config, ..WorldOptions::default() }).await
}

/// Sends a sheddable request.
async fn batch(world: &World) -> TcpStream {
    let mut client = world.connect().await;
    let head = format!(
        "POST {CHAT} HTTP/1.1\r\nhost: x\r\nx-llm-d-inference-objective: batch\r\n\
         content-length: {}\r\n\r\n",
        PROMPT.len()
    );
    client.write_all(format!("{head}{PROMPT}").as_bytes()).await.unwrap();
    client
}

/// A more important request is served at once: the other one has made room.
async fn gets_its_place(world: &World) {
    let answer = world.ask(chat()).await;
    assert_eq!((answer.status, answer.text()), (200, "{}"));
}

const ANSWER: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}";

#[tokio::test]
async fn one_without_an_answer_is_answered_429() {
    let tasks = Tasks::new();
    let server = scripted(&tasks, |n, mut stream| async move {
        read_request(&mut stream).await;
        if n > 0 {
            say(&mut stream, ANSWER).await;
        }
        wait_for_close(&mut stream).await;
    })
    .await;
    let world = world(server).await;
    let mut client = batch(&world).await;
    world.ledger.in_flight(1).await;
    gets_its_place(&world).await;
    let head = soon(read_head(&mut client)).await.unwrap();
    assert!(head.starts_with("HTTP/1.1 429 "), "{head}");
    assert!(head.contains("x-llm-d-request-dropped-reason: evicted\r\n"), "{head}");
    assert!(head.contains("retry-after: "), "{head}");
    assert_eq!(world.ledger.ended_some(1).await[0], (EndCause::Evicted, None));
}

#[tokio::test]
async fn one_that_is_being_answered_breaks_off() {
    let tasks = Tasks::new();
    let server = scripted(&tasks, |n, mut stream| async move {
        read_request(&mut stream).await;
        let begun = "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nbegun";
        say(&mut stream, if n > 0 { ANSWER } else { begun }).await;
        wait_for_close(&mut stream).await;
    })
    .await;
    let world = world(server).await;
    let mut client = batch(&world).await;
    soon(read_head(&mut client)).await.unwrap();
    gets_its_place(&world).await;
    let mut rest = Vec::new();
    // What was on the way may be lost with a reset.
    let _reset = soon(client.read_to_end(&mut rest)).await;
    assert!(b"begun".starts_with(&rest), "{rest:?}");
    assert_eq!(world.ledger.ended_some(1).await[0], CUT);
}

/// Nobody asks for the next piece of its answer: it has to hear of it all the same.
#[tokio::test]
async fn one_whose_client_does_not_read_makes_room_too() {
    let tasks = Tasks::new();
    let (stuck, mut gets_stuck) = mpsc::channel(1);
    let server = scripted(&tasks, move |n, mut stream| {
        let stuck = stuck.clone();
        async move {
            read_request(&mut stream).await;
            if n > 0 {
                return say(&mut stream, ANSWER).await;
            }
            say(
                &mut stream,
                format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", u64::MAX / 2),
            )
            .await;
            let piece = [b'x'; 16 << 10];
            while let Ok(written) = tokio::time::timeout(SHORT, stream.write_all(&piece)).await {
                written.unwrap();
            }
            stuck.send(()).await.unwrap();
            wait_for_close(&mut stream).await;
        }
    })
    .await;
    let world = world(server).await;
    let client = batch(&world).await;
    soon(gets_stuck.recv()).await.unwrap();
    gets_its_place(&world).await;
    assert_eq!(world.ledger.ended_some(1).await[0], CUT);
    drop(client);
}
