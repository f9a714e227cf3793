//! The way of a response: passed at once, read for what it says, counted at its end.

use bytes::Bytes;
use router_proto::ext_proc::processing_mode::BodySendMode;
use router_testkit::router::RouterBuilder;

use crate::{
    call::{BY_QUEUE, Call, World, mutation, response_bytes, shape},
    messages::{
        CHAT, PATH, chat_headers, request_body, request_headers, response_body, response_headers,
        response_trailers, status, with_modes, with_served,
    },
};

const EVENTS: [(&str, &str); 3] = [
    (":status", "200"),
    ("content-type", "text/event-stream"),
    ("x-envoy-upstream-service-time", "3"),
];

#[tokio::test(start_paused = true)]
async fn a03_a_response_without_a_body_ends_the_request() {
    let world = World::new();
    let mut call = world.routed();
    assert_eq!(shape(&call.say(status("204", true))), "h");
    assert_eq!(world.in_flight(), 0.0);
    assert_eq!(world.router.sum("llm_d_epp_request_duration_seconds_count", &[]), 1.0);
    call.half_close();
    assert!(matches!(call.end, Some(Ok(()))));
    drop(call);
    assert_eq!(world.router.sum("llm_d_epp_request_error_total", &[]), 0.0);
    world.assert_idle();
}

#[tokio::test(start_paused = true)]
async fn a01_statuses_from_400_on_count_as_errors() {
    for (code, n_errors) in [("200", 0.0), ("302", 0.0), ("400", 1.0), ("429", 1.0), ("500", 1.0)] {
        for ends_at_headers in [true, false] {
            let world = World::new();
            let mut call = world.routed();
            call.say(status(code, ends_at_headers));
            if !ends_at_headers {
                call.say(response_body("{}", true));
            }
            call.half_close();
            drop(call);
            assert_eq!(world.errors("ModelServerError"), n_errors, "{code}");
            assert_eq!(world.router.sum("llm_d_epp_request_error_total", &[]), n_errors);
            world.assert_idle();
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a07_every_chunk_is_answered_at_once() {
    let world = World::new();
    for head in [status("200", false), response_headers(&EVENTS, false)] {
        let mut call = world.routed();
        assert_eq!(shape(&call.say(head)), "h");
        assert_eq!(world.in_flight(), 1.0);
        assert_eq!(shape(&call.say(response_body("12345", false))), "b5");
        assert_eq!(shape(&call.say(response_body("", false))), "");
        assert_eq!(shape(&call.say(response_body(vec![b'x'; 70_000], false))), "b62000 b8000");
        assert_eq!(shape(&call.say(response_body("67", true))), "b2!");
        assert_eq!(world.in_flight(), 0.0);
    }
    let mut call = world.routed();
    call.say(status("200", false));
    assert_eq!(shape(&call.say(response_body("12", false))), "b2");
    assert_eq!(shape(&call.say(response_body("", true))), "b0!");
    let mut call = world.routed();
    call.say(status("200", false));
    assert_eq!(shape(&call.say(response_body("12", false))), "b2");
    assert_eq!(shape(&call.say(response_trailers())), "t");
    assert_eq!(world.in_flight(), 0.0);
}

#[tokio::test(start_paused = true)]
async fn a05_nothing_of_the_responses_head_is_sent_back() {
    let world = World::new();
    let mut call = world.routed();
    let headers = [(":status", "200"), ("set-cookie", "a=1"), ("set-cookie", "b=2")];
    let replies = call.say(response_headers(&headers, false));
    assert_eq!(mutation(&replies), router_proto::ext_proc::HeaderMutation::default());
}

/// A routed stream whose model was rewritten to `the-target`.
fn rewritten(world: &World) -> Call {
    let mut call = world.open();
    let headers = [("x-llm-d-model-name-rewrite", "the-target")];
    call.say(request_headers("POST", PATH, &headers, false));
    call.say(request_body(CHAT, true));
    call
}

#[tokio::test(start_paused = true)]
async fn a08_the_model_is_restored_however_the_response_is_cut() {
    let world = World::new();
    let json = r#"{"id":"1","model" :  "the-target","choices":[{"text":"the-target"}]}"#;
    let restored = json.replacen(r#""the-target""#, r#""m""#, 1);
    let events = "data: {\"model\":\"the-target\",\"x\":1}\n\ndata: {\"model\":\"the-target\"}\n\n\
                  data: [DONE]\n\n";
    let check = |head: &[(&str, &str)], body: &str, expected: &str| {
        for size in 1..=body.len() {
            for by_trailers in [false, true] {
                let mut call = rewritten(&world);
                let replies = call.say(response_headers(head, false));
                let removed = mutation(&replies).remove_headers;
                assert_eq!(removed, ["content-length"]);
                let mut replies = Vec::new();
                for chunk in body.as_bytes().chunks(size) {
                    replies.extend(call.say(response_body(Bytes::copy_from_slice(chunk), false)));
                }
                replies.extend(call.say(if by_trailers {
                    response_trailers()
                } else {
                    response_body("", true)
                }));
                assert_eq!(response_bytes(&replies), expected, "pieces of {size}");
                let end = if by_trailers { "t" } else { "!" };
                assert!(shape(&replies).ends_with(end), "{}", shape(&replies));
            }
        }
    };
    let plain =
        [(":status", "200"), ("content-type", "application/json"), ("content-length", "68")];
    check(&plain, json, &restored);
    let streamed =
        [(":status", "200"), ("content-type", "text/event-stream"), ("content-length", "99")];
    check(&streamed, events, &events.replace("the-target", "m"));
    world.assert_idle();
}

#[tokio::test(start_paused = true)]
async fn a13_the_leases_follow_the_endpoint_that_served() {
    let world = World::new();
    let mut call = world.routed();
    assert_eq!((world.in_flight_at("e0"), world.in_flight_at("e2")), (1.0, 0.0));
    call.say(with_served(status("200", false), "10.0.0.3:8000"));
    assert_eq!((world.in_flight_at("e0"), world.in_flight_at("e2")), (0.0, 1.0));
    call.say(response_body("{}", true));
    drop(call);
    world.assert_idle();

    for unknown in ["", "10.9.9.9:1", "nonsense"] {
        let mut call = world.routed();
        call.say(with_served(status("200", false), unknown));
        assert_eq!(world.in_flight_at("e0"), 1.0, "{unknown:?} says nothing");
        call.say(response_body("{}", true));
    }
    world.assert_idle();
}

#[tokio::test(start_paused = true)]
async fn without_the_responses_body_its_headers_are_the_end() {
    let world = World::new();
    let mut call = world.open();
    let modes = (BodySendMode::FullDuplexStreamed, BodySendMode::None);
    call.say(with_modes(chat_headers(), modes.0, modes.1));
    call.say(request_body(CHAT, true));
    assert_eq!(shape(&call.say(status("200", false))), "h");
    assert_eq!(world.in_flight(), 0.0);
    // Trailers may come where the filter sends them.
    assert_eq!(shape(&call.say(response_trailers())), "t");
    call.half_close();
    drop(call);
    assert_eq!(world.router.sum("llm_d_epp_request_error_total", &[]), 0.0);
    world.assert_idle();
}

#[tokio::test(start_paused = true)]
async fn a_body_without_headers_passes_and_its_end_is_the_end() {
    let world = World::new();
    let mut call = world.routed();
    assert_eq!(shape(&call.say(response_body("12345", false))), "b5");
    assert_eq!(world.in_flight(), 1.0);
    assert_eq!(shape(&call.say(response_body("6", true))), "b1!");
    assert_eq!(world.in_flight(), 0.0);
    call.half_close();
    drop(call);
    assert_eq!(world.router.sum("llm_d_epp_request_error_total", &[]), 0.0);
}

/// Where requests go next.
fn next(world: &World) -> String {
    let mut call = world.open();
    call.say(chat_headers());
    crate::call::destination(&call.say(request_body(CHAT, true)))
}

#[tokio::test(start_paused = true)]
async fn what_envoy_answers_itself_takes_the_endpoint_out_and_a_503_of_it_does_not() {
    let check = |headers: &[(&str, &str)], expected: &str| {
        let world = World::of(RouterBuilder::new(BY_QUEUE).endpoints(3));
        let mut call = world.routed();
        call.say(response_headers(headers, false));
        call.say(response_body("upstream connect error", true));
        drop(call);
        assert_eq!(next(&world), expected, "{headers:?}");
        assert_eq!(world.errors("ModelServerError"), 1.0);
    };
    let local = [(":status", "503"), ("content-type", "text/plain"), ("content-length", "22")];
    check(&local, "10.0.0.2:8000");
    let upstream = [
        (":status", "503"),
        ("content-type", "text/plain"),
        ("x-envoy-upstream-service-time", "1"),
    ];
    check(&upstream, "10.0.0.1:8000");
    // An upstream whose Envoy is told to leave its own headers out.
    for own in [("date", "Sat, 21 Nov 2026 04:00:00 GMT"), ("server", "uvicorn")] {
        let suppressed = [(":status", "503"), ("content-type", "text/plain"), own];
        check(&suppressed, "10.0.0.1:8000");
    }
    check(&[(":status", "503"), ("content-type", "application/json")], "10.0.0.1:8000");
    check(&[(":status", "500"), ("content-type", "text/plain")], "10.0.0.1:8000");
}

#[tokio::test(start_paused = true)]
async fn repeated_503s_of_an_endpoint_take_it_out() {
    let world = World::new();
    for _ in 0..3 {
        let mut call = world.routed();
        call.say(status("503", true));
    }
    assert_eq!(next(&world), "10.0.0.2:8000");
}
