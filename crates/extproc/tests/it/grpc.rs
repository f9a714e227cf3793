//! The servers over real sockets.

mod client;
mod drain;
mod envoy;
mod health;
mod resets;

use router_extproc::{ServerOptions, StreamLimits};
use router_testkit::router::RouterBuilder;
use tonic::{Code, codec::CompressionEncoding};

use self::client::{Picker, channel, ends, read, stream};
use crate::{
    call::{BY_QUEUE, World, request_bytes, shape},
    messages::{CHAT, chat_headers, request_body, response_body, status},
};

/// Plays a whole request over the channel.
async fn round_trip(channel: tonic::transport::Channel, compressed: bool) {
    let mut client = client::processor(channel);
    if compressed {
        client = client.send_compressed(CompressionEncoding::Gzip);
    }
    let mut call = stream(client).await;
    call.say(chat_headers()).await;
    call.say(request_body(CHAT, true)).await;
    let replies = read(&mut call, 2).await;
    assert_eq!(shape(&replies), format!("H B{}!", CHAT.len()));
    assert_eq!(request_bytes(&replies), CHAT);
    call.say(status("200", false)).await;
    call.say(response_body("{}", true)).await;
    assert_eq!(shape(&read(&mut call, 2).await), "h b2!");
    call.half_close();
    assert_eq!(ends(&mut call).await, Code::Ok);
}

#[tokio::test]
async fn a_request_goes_through_in_clear_text_and_over_tls_compressed_or_not() {
    for tls in [false, true] {
        let picker = Picker::start(World::new(), ServerOptions::default(), tls).await;
        for compressed in [false, true] {
            round_trip(picker.connect().await, compressed).await;
        }
        picker.assert_idle().await;
    }
}

#[tokio::test]
async fn a_message_over_the_limit_is_an_error_compressed_or_not() {
    let options = ServerOptions { max_recv_bytes: 10_000, ..ServerOptions::default() };
    let picker = Picker::start(World::new(), options, false).await;
    for compressed in [false, true] {
        let mut client = client::processor(picker.connect().await);
        if compressed {
            client = client.send_compressed(CompressionEncoding::Gzip);
        }
        let mut call = stream(client).await;
        call.say(chat_headers()).await;
        call.say(request_body(vec![b' '; 5_000], false)).await;
        call.say(request_body(vec![b' '; 20_000], true)).await;
        let code = ends(&mut call).await;
        assert!([Code::OutOfRange, Code::ResourceExhausted].contains(&code), "{code:?}");
    }
    picker.assert_idle().await;
}

#[tokio::test]
async fn unknown_services_are_unimplemented_and_health_is_where_it_is_asked_for() {
    let picker = Picker::with(World::new(), client::PickerOptions::default()).await;
    let mut health = client::health(picker.connect().await);
    let request = router_proto::health::HealthCheckRequest::default();
    assert_eq!(health.check(request.clone()).await.unwrap_err().code(), Code::Unimplemented);
    let mut health = client::health(picker.connect_to_health().await);
    assert!(health.check(request).await.is_ok());
    let client = client::processor(picker.connect_to_health().await);
    let mut call = stream(client).await;
    assert_eq!(ends(&mut call).await, Code::Unimplemented);
}

#[tokio::test]
async fn streams_over_the_limit_are_refused_with_a_status() {
    let limits = StreamLimits { max_streams: 1, ..StreamLimits::default() };
    let world = World::limited(RouterBuilder::new(BY_QUEUE).endpoints(1), limits);
    let picker = Picker::start(world, ServerOptions::default(), false).await;
    let channel = picker.connect().await;
    let mut first = stream(client::processor(channel.clone())).await;
    first.say(chat_headers()).await;
    picker.until(|world| world.service.n_open() == 1).await;
    let mut second = stream(client::processor(channel)).await;
    assert_eq!(ends(&mut second).await, Code::ResourceExhausted);
    first.half_close();
    assert_eq!(ends(&mut first).await, Code::Ok);
    picker.assert_idle().await;
}

#[tokio::test]
async fn a_peer_that_speaks_no_grpc_is_answered_or_cut() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let picker = Picker::start(World::new(), ServerOptions::default(), false).await;
    for bytes in [&b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"[..], b"\x16\x03\x01\x02\x00", &[0; 64]] {
        let mut socket = tokio::net::TcpStream::connect(picker.addr()).await.unwrap();
        socket.write_all(bytes).await.unwrap();
        socket.shutdown().await.unwrap();
        let mut answer = Vec::new();
        // A reset is a close, too.
        let _reset = client::soon(socket.read_to_end(&mut answer)).await;
    }
    drop(channel(picker.addr(), false).await);
    round_trip(picker.connect().await, false).await;
    picker.assert_idle().await;
}
