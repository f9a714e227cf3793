//! Messages that cannot follow each other: a typed error, or passed on; never a panic, never a leak.

use router_proto::ext_proc::ProcessingRequest;
use tonic::Code;

use crate::{
    call::{World, shape},
    messages::{
        CHAT, chat_headers, request_body, request_headers, request_trailers, response_body,
        response_headers, response_trailers, status,
    },
};

/// Sends messages and gives the replies in short, with the code of the error in the end if there is one.
fn outcome(messages: impl IntoIterator<Item = ProcessingRequest>) -> (String, Option<Code>) {
    let world = World::new();
    let mut call = world.open();
    let mut replies = Vec::new();
    for message in messages {
        if call.end.is_none() {
            replies.extend(call.say(message));
        }
    }
    let code = match &call.end {
        Some(Err(status)) => Some(status.code()),
        Some(Ok(())) | None => None,
    };
    drop(call);
    world.assert_idle();
    (shape(&replies), code)
}

fn chat() -> [ProcessingRequest; 2] {
    [chat_headers(), request_body(CHAT, true)]
}

#[tokio::test(start_paused = true)]
async fn requests_out_of_order_are_typed_errors() {
    let check = |messages: Vec<ProcessingRequest>, replies: &str, code: Code| {
        assert_eq!(outcome(messages), (replies.to_owned(), Some(code)));
    };
    let routed = format!("H B{}!", CHAT.len());
    let [head, body] = chat();
    check(vec![body.clone()], "", Code::FailedPrecondition);
    check(vec![request_trailers()], "", Code::FailedPrecondition);
    check(vec![head.clone(), head.clone()], "", Code::InvalidArgument);
    check(vec![head.clone(), body.clone(), head.clone()], &routed, Code::InvalidArgument);
    check(vec![head.clone(), body.clone(), body.clone()], &routed, Code::InvalidArgument);
    check(vec![head.clone(), body.clone(), request_trailers()], &routed, Code::InvalidArgument);
    let get = request_headers("GET", "/v1/models", &[], true);
    check(vec![get.clone(), body.clone()], "H", Code::InvalidArgument);
    let by_trailers = vec![head.clone(), request_body(CHAT, false), request_trailers()];
    let replies = format!("H B{} T", CHAT.len());
    check(
        [by_trailers.clone(), vec![request_trailers()]].concat(),
        &replies,
        Code::InvalidArgument,
    );
    check([by_trailers, vec![body]].concat(), &replies, Code::InvalidArgument);
    let local = vec![head.clone(), status("413", true), head];
    check(local, "h", Code::InvalidArgument);
}

#[tokio::test(start_paused = true)]
async fn responses_out_of_order_are_typed_errors() {
    let check = |response: Vec<ProcessingRequest>, replies: &str| {
        for starts in [vec![], chat().to_vec()] {
            let prefix = outcome(starts.clone()).0;
            let (replied, code) = outcome([starts, response.clone()].concat());
            assert_eq!(replied, format!("{prefix} {replies}").trim());
            assert_eq!(code, Some(Code::InvalidArgument));
        }
    };
    let (head, body) = (status("200", false), response_body("x", false));
    check(vec![head.clone(), head.clone()], "h");
    check(vec![head.clone(), body.clone(), head.clone()], "h b1");
    check(vec![status("204", true), body.clone()], "h");
    check(vec![status("204", true), response_trailers()], "h");
    check(vec![head.clone(), response_body("x", true), body.clone()], "h b1!");
    check(vec![head.clone(), response_trailers(), body], "h t");
    check(vec![head, response_trailers(), response_trailers()], "h t");
}

#[tokio::test(start_paused = true)]
async fn a_response_that_envoy_made_for_a_request_that_was_not_routed_passes() {
    let local = [(":status", "413"), ("content-type", "text/plain")];
    let response =
        [response_headers(&local, false), response_body("too large", false), response_trailers()];
    let check = |before: Vec<ProcessingRequest>, after: Vec<ProcessingRequest>| {
        let messages = [before, response.to_vec(), after].concat();
        assert_eq!(outcome(messages), ("h b9 t".to_owned(), None));
    };
    check(vec![], vec![]);
    check(vec![chat_headers()], vec![]);
    check(vec![chat_headers(), request_body("{", false)], vec![]);
    // What was on its way already.
    check(vec![chat_headers()], vec![request_body("{", true), request_trailers()]);
    check(vec![chat_headers()], vec![request_body("{", false), request_body("}", true)]);
}

#[tokio::test(start_paused = true)]
async fn a_message_without_content_is_no_message() {
    let nothing = ProcessingRequest::default();
    let [head, body] = chat();
    let messages = vec![nothing.clone(), head, nothing.clone(), body, nothing];
    assert_eq!(outcome(messages), (format!("H B{}!", CHAT.len()), None));
}
