//! Bounds in time and number.

use std::time::Duration;

use router_extproc::StreamLimits;
use router_testkit::router::RouterBuilder;
use tokio::time::advance;
use tonic::Code;

use crate::{
    call::{BODY_TIMEOUT, BY_QUEUE, World, immediate, shape},
    messages::{CHAT, chat_headers, request_body, response_body, status},
};

const SECOND: Duration = Duration::from_secs(1);

#[tokio::test(start_paused = true)]
async fn a_body_that_stops_coming_is_answered_408() {
    let almost = BODY_TIMEOUT.saturating_sub(SECOND);
    let world = World::new();
    let mut call = world.open();
    call.say(chat_headers());
    advance(almost).await;
    assert_eq!(shape(&call.say(request_body(&CHAT[..10], false))), "");
    advance(almost).await;
    assert_eq!(call.read(), [], "each message gives it more time");
    advance(2 * SECOND).await;
    let replies = call.read();
    assert_eq!(immediate(&replies).status.unwrap().code, 408);
    assert!(matches!(call.end, Some(Ok(()))));
    assert_eq!(world.errors("RequestTimeout"), 1.0);
    drop(call);
    world.assert_idle();
}

#[tokio::test(start_paused = true)]
async fn a_body_that_has_come_does_not_stall() {
    let world = World::new();
    let mut call = world.routed();
    advance(10 * BODY_TIMEOUT).await;
    assert_eq!(call.read(), []);
    assert_eq!(shape(&call.say(status("200", false))), "h");
}

#[tokio::test(start_paused = true)]
async fn a_stream_without_messages_is_ended() {
    let limits = StreamLimits { idle_timeout: 60 * SECOND, ..StreamLimits::default() };
    let world = World::limited(RouterBuilder::new(BY_QUEUE).endpoints(1), limits);
    let mut silent = world.open();
    let mut call = world.routed();
    assert_eq!(silent.read(), []);
    advance(59 * SECOND).await;
    call.say(status("200", false));
    advance(2 * SECOND).await;
    assert_eq!(silent.read(), []);
    assert_eq!(silent.failure().code(), Code::DeadlineExceeded);
    assert_eq!(call.read(), []);
    assert!(call.end.is_none(), "a message gives it more time");
    advance(57 * SECOND).await;
    assert_eq!(shape(&call.say(response_body("x", false))), "b1");
    advance(61 * SECOND).await;
    assert_eq!(call.read(), []);
    assert_eq!(call.failure().code(), Code::DeadlineExceeded);
    drop((silent, call));
    world.assert_idle();
    assert_eq!(world.errors("ClientDisconnect"), 1.0);
}

#[tokio::test(start_paused = true)]
async fn streams_over_the_limit_are_refused() {
    let limits = StreamLimits { max_streams: 2, ..StreamLimits::default() };
    let world = World::limited(RouterBuilder::new(BY_QUEUE).endpoints(1), limits);
    let (first, second) = (world.open(), world.open());
    let refused = world.try_open().err().unwrap();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    assert_eq!(world.service.n_open(), 2);
    drop(first);
    let third = world.open();
    drop((second, third));
    world.assert_idle();
}
