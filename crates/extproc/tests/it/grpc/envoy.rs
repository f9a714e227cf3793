//! A real Envoy tells what it answers itself from what an upstream answers.

use router_core::EndpointSpec;
use router_extproc::ServerOptions;
use router_testkit::{
    envoy::{Envoy, EnvoyConfig, ExtProc},
    router::RouterBuilder,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use super::client::{Picker, soon};
use crate::{
    call::{BY_QUEUE, World, destination},
    messages::{CHAT, PATH, chat_headers, request_body},
};

const UNAVAILABLE: &str = "HTTP/1.1 503 Service Unavailable\r\ncontent-type: text/plain\r\n\
    date: Sat, 21 Nov 2026 04:00:00 GMT\r\ncontent-length: 4\r\n\r\nbusy";

/// Sends a chat request through Envoy and gives the answer, up to the close of the connection.
async fn ask(envoy: &Envoy) -> String {
    let mut socket = TcpStream::connect(envoy.addr()).await.unwrap();
    let length = CHAT.len();
    let request = format!(
        "POST {PATH} HTTP/1.1\r\nhost: models.example\r\nconnection: close\r\n\
         content-type: application/json\r\ncontent-length: {length}\r\n\r\n{CHAT}"
    );
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    soon(socket.read_to_string(&mut answer)).await.unwrap();
    answer
}

/// Answers one request with [`UNAVAILABLE`].
async fn refuse(listener: TcpListener) {
    let (mut socket, _) = soon(listener.accept()).await.unwrap();
    let mut request = Vec::new();
    // The body may come in HTTP's chunks.
    while !String::from_utf8_lossy(&request).contains(CHAT) {
        assert_ne!(soon(socket.read_buf(&mut request)).await.unwrap(), 0);
    }
    socket.write_all(UNAVAILABLE.as_bytes()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_envoy_cannot_reach_is_out_and_one_that_says_503_is_not() {
    for (listens, suppress_envoy_headers) in
        [(false, false), (false, true), (true, false), (true, true)]
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let first = EndpointSpec::new("default", "e0", "127.0.0.1", address.port());
        let other = EndpointSpec::new("default", "e1", "127.0.0.1", 1);
        let world = World::of(RouterBuilder::new(BY_QUEUE).specs(vec![first, other]));
        let picker = Picker::start(world, ServerOptions::default(), false).await;
        let ext_proc = Some(ExtProc::new(picker.addr()));
        let config = EnvoyConfig { ext_proc, suppress_envoy_headers, ..EnvoyConfig::default() };
        let envoy = Envoy::start(&config).await.unwrap();
        let answer = if listens {
            tokio::join!(ask(&envoy), refuse(listener)).0
        } else {
            drop(listener);
            ask(&envoy).await
        };
        assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
        assert_eq!(answer.contains("busy"), listens, "{answer}");
        picker.assert_idle().await;
        let mut next = picker.world.open();
        next.say(chat_headers());
        let expected = if listens { address.to_string() } else { "127.0.0.1:1".to_owned() };
        assert_eq!(destination(&next.say(request_body(CHAT, true))), expected);
    }
}
