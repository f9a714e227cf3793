//! However a stream ends, and whenever, nothing is left of it.

use router_proto::ext_proc::ProcessingRequest;
use tonic::{Code, Status};

use crate::{
    call::World,
    messages::{
        CHAT, chat_headers, request_body, request_trailers, response_body, response_trailers,
        status,
    },
};

/// One whole request, message by message.
fn script() -> Vec<ProcessingRequest> {
    vec![
        chat_headers(),
        request_body(&CHAT[..20], false),
        request_body(&CHAT[20..], false),
        request_trailers(),
        status("200", false),
        response_body("{", false),
        response_body("}", false),
        response_trailers(),
    ]
}

/// How many messages route the request.
const ROUTED_AT: usize = 4;

#[tokio::test(start_paused = true)]
async fn a_stream_that_is_dropped_at_any_stage_leaves_nothing() {
    for n_messages in 0..=script().len() {
        let world = World::new();
        let mut call = world.open();
        for message in script().into_iter().take(n_messages) {
            call.say(message);
        }
        let goes_on = (ROUTED_AT..script().len()).contains(&n_messages);
        assert_eq!(world.in_flight(), f64::from(u8::from(goes_on)), "after {n_messages} messages");
        drop(call);
        world.assert_idle();
        assert_eq!(world.errors("ClientDisconnect"), f64::from(u8::from(goes_on)));
    }
}

#[tokio::test(start_paused = true)]
async fn a_half_close_ends_a_stream_at_any_stage() {
    for n_messages in 0..=script().len() {
        let world = World::new();
        let mut call = world.open();
        for message in script().into_iter().take(n_messages) {
            call.say(message);
        }
        assert_eq!(call.half_close(), []);
        assert!(matches!(call.end, Some(Ok(()))), "{:?}", call.end);
        // At once, and not only when the transport lets go of the stream.
        assert_eq!(world.in_flight(), 0.0);
        assert_eq!(world.router.budget().held(), 0);
        let goes_on = (ROUTED_AT..script().len()).contains(&n_messages);
        assert_eq!(world.errors("ClientDisconnect"), f64::from(u8::from(goes_on)));
        drop(call);
        world.assert_idle();
    }
}

#[tokio::test(start_paused = true)]
async fn errors_of_the_transport_end_a_stream_at_any_stage() {
    for n_messages in 0..=script().len() {
        for code in [Code::Cancelled, Code::Internal, Code::OutOfRange] {
            let world = World::new();
            let mut call = world.open();
            for message in script().into_iter().take(n_messages) {
                call.say(message);
            }
            assert_eq!(call.say_result(Err(Status::new(code, "broken"))), []);
            match code {
                // Envoy resets a stream whose client has gone.
                Code::Cancelled => assert!(matches!(call.end, Some(Ok(())))),
                _ => assert_eq!(call.failure().code(), code),
            }
            assert_eq!(call.read(), [], "an ended stream stays ended");
            drop(call);
            world.assert_idle();
        }
    }
}

#[tokio::test(start_paused = true)]
async fn after_a_rejection_nothing_is_read_any_more() {
    let world = World::new();
    let mut call = world.open();
    call.say(chat_headers());
    assert_eq!(crate::call::shape(&call.say(request_body("[", true))), "I400");
    assert!(matches!(call.end, Some(Ok(()))));
    assert_eq!(call.say(request_body("more", true)), []);
    assert_eq!(call.say(chat_headers()), []);
    drop(call);
    world.assert_idle();
}

#[tokio::test(start_paused = true)]
async fn a_body_that_waits_to_be_sent_counts_and_then_no_longer() {
    let world = World::new();
    let mut call = world.open();
    call.say(chat_headers());
    call.say(request_body(CHAT, false));
    assert_eq!(world.router.budget().held(), CHAT.len());
    call.say(request_body("", true));
    assert_eq!(world.router.budget().held(), 0);
    assert_eq!(world.in_flight(), 1.0);
}
