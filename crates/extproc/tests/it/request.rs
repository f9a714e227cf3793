//! The way of a request: what comes back when, what is in it, and where it goes.

use bytes::Bytes;
use router_proto::{ext_proc::processing_mode::BodySendMode, google::Value};
use router_testkit::router::{RouterBuilder, spec};

use crate::{
    call::{
        BY_QUEUE, World, destination, immediate, metadata, mutation, request_bytes, set_value,
        shape,
    },
    messages::{
        CHAT, PATH, chat_headers, request_body, request_headers, request_trailers,
        response_headers, status, with_modes, with_subset,
    },
};

#[tokio::test(start_paused = true)]
async fn nothing_is_answered_until_the_request_is_routed() {
    let world = World::new();
    let mut call = world.open();
    assert_eq!(shape(&call.say(chat_headers())), "");
    let (first, rest) = CHAT.split_at(20);
    assert_eq!(shape(&call.say(request_body(first, false))), "");
    let replies = call.say(request_body(rest, true));
    assert_eq!(shape(&replies), format!("H B{}!", CHAT.len()));
    assert_eq!(request_bytes(&replies), CHAT);
    assert_eq!(destination(&replies), "10.0.0.1:8000");
}

#[tokio::test(start_paused = true)]
async fn envoy_ends_a_body_with_an_empty_message() {
    let world = World::new();
    let mut call = world.open();
    call.say(chat_headers());
    assert_eq!(shape(&call.say(request_body(CHAT, false))), "");
    let replies = call.say(request_body("", true));
    assert_eq!(shape(&replies), format!("H B{}!", CHAT.len()));
}

#[tokio::test(start_paused = true)]
async fn a_body_comes_back_in_pieces_of_one_size_however_it_came() {
    let world = World::new();
    let check = |chunks: &[&str], expected: &str| {
        let mut call = world.open();
        call.say(chat_headers());
        let (last, first) = chunks.split_last().unwrap();
        for chunk in first {
            assert_eq!(shape(&call.say(request_body((*chunk).to_owned(), false))), "");
        }
        let replies = call.say(request_body((*last).to_owned(), true));
        assert_eq!(shape(&replies), expected);
        assert_eq!(request_bytes(&replies), chunks.concat());
    };
    let head = r#"{"model":"m","messages":[{"role":"user","content":""#;
    let (big, tail) = ("x".repeat(150_000), r#""}]}"#);
    let whole = format!("{head}{big}{tail}");
    let pieces = "H B32768 B32768 B32768 B32768 B18983!";
    check(&[&whole], pieces);
    check(&[head, &big, tail], pieces);
    let singles: Vec<&str> = (0..CHAT.len()).map(|at| &CHAT[at..=at]).collect();
    check(&singles, &format!("H B{}!", CHAT.len()));
}

#[tokio::test(start_paused = true)]
async fn a02_trailers_end_the_body_and_are_answered_last() {
    let world = World::new();
    let mut call = world.open();
    call.say(chat_headers());
    assert_eq!(shape(&call.say(request_body(CHAT, false))), "");
    let replies = call.say(request_trailers());
    assert_eq!(shape(&replies), format!("H B{} T", CHAT.len()));
    // A declared length would leave no room for trailers over HTTP/1.1.
    assert_eq!(set_value(&mutation(&replies), "content-length"), None);
}

#[tokio::test(start_paused = true)]
async fn a06_a_request_without_a_body_is_routed_like_any_other() {
    let world = World::new();
    let mut call = world.open();
    let replies = call.say(request_headers("GET", "/v1/models", &[], true));
    assert_eq!(shape(&replies), "H");
    assert_eq!(destination(&replies), "10.0.0.1:8000");
    assert_eq!(set_value(&mutation(&replies), "content-length"), None);
    let subset =
        with_subset(request_headers("GET", "/v1/models", &[], true), Value::from("10.0.0.3:8000"));
    assert_eq!(destination(&world.open().say(subset)), "10.0.0.3:8000");

    let empty = World::of(RouterBuilder::new(BY_QUEUE));
    let replies = empty.open().say(request_headers("GET", "/v1/models", &[], true));
    let answer = immediate(&replies);
    assert_eq!(answer.status.unwrap().code, 503);
    let headers = answer.headers.as_ref().unwrap();
    let reason = set_value(headers, "x-llm-d-request-dropped-reason");
    assert_eq!(reason.as_deref(), Some("rejected-no-endpoints"));
}

#[tokio::test(start_paused = true)]
async fn a04_a05_only_the_delta_is_sent_and_control_headers_are_removed() {
    let world = World::new();
    let mut call = world.open();
    let headers = [
        ("x-request-id", "mine"),
        ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
        ("cookie", "a=1"),
        ("cookie", "b=2"),
        ("x-gateway-destination-endpoint", "6.6.6.6:1"),
        ("x-llm-d-inference-objective", "root"),
        ("x-prefiller-host-port", "6.6.6.6:2"),
    ];
    call.say(request_headers("POST", PATH, &headers, false));
    let replies = call.say(request_body(CHAT, true));
    let mutation = mutation(&replies);
    let set: Vec<_> =
        mutation.set_headers.iter().map(|o| o.header.as_ref().unwrap().key.as_str()).collect();
    assert_eq!(set, ["x-gateway-destination-endpoint", "content-length"]);
    let length = set_value(&mutation, "content-length");
    assert_eq!(length, Some(CHAT.len().to_string()));
    let mut removed = mutation.remove_headers.clone();
    removed.sort_unstable();
    assert_eq!(
        removed,
        ["x-gateway-destination-endpoint", "x-llm-d-inference-objective", "x-prefiller-host-port"]
    );
    let Some(router_proto::ext_proc::processing_response::Response::RequestHeaders(head)) =
        &replies[0].response
    else {
        panic!("{replies:?}")
    };
    assert!(head.response.as_ref().unwrap().clear_route_cache);
}

#[tokio::test(start_paused = true)]
async fn a08_the_model_is_rewritten_in_place_however_the_body_is_cut() {
    let world = World::new();
    let expected = CHAT.replace(r#""m""#, r#""the-target""#);
    for size in 1..=CHAT.len() {
        let mut call = world.open();
        let headers = [("x-llm-d-model-name-rewrite", "the-target"), ("accept-encoding", "gzip")];
        call.say(request_headers("POST", PATH, &headers, false));
        for chunk in CHAT.as_bytes().chunks(size) {
            call.say(request_body(Bytes::copy_from_slice(chunk), false));
        }
        let replies = call.say(request_body("", true));
        assert_eq!(request_bytes(&replies), expected, "pieces of {size}");
        let mutation = mutation(&replies);
        assert_eq!(set_value(&mutation, "content-length"), Some(expected.len().to_string()));
        // The response has to be read, to restore the name in it.
        assert!(mutation.remove_headers.contains(&"accept-encoding".to_owned()));
    }
}

#[tokio::test(start_paused = true)]
async fn the_subset_comes_with_the_headers_or_the_body_and_the_first_one_counts() {
    let world = World::new();
    let one = |at: usize| Value::from(format!("10.0.0.{at}:8000"));
    let check = |head: Option<Value>, body: Option<Value>, expected: Option<&str>| {
        let hinted = |message, hint: Option<Value>| match hint {
            Some(hint) => with_subset(message, hint),
            None => message,
        };
        let mut call = world.open();
        call.say(hinted(chat_headers(), head));
        let replies = call.say(hinted(request_body(CHAT, true), body));
        match expected {
            Some(expected) => assert_eq!(destination(&replies), expected),
            None => assert_eq!(shape(&replies), "I503"),
        }
    };
    check(None, None, Some("10.0.0.1:8000"));
    check(Some(one(2)), None, Some("10.0.0.2:8000"));
    check(None, Some(one(2)), Some("10.0.0.2:8000"));
    check(Some(one(2)), Some(one(3)), Some("10.0.0.2:8000"));
    check(Some(Value::from(vec![one(3), one(2)])), None, Some("10.0.0.2:8000"));
    check(None, Some(Value::from(vec![one(3)])), Some("10.0.0.3:8000"));
    check(None, Some(Value::from("10.0.0.3, 10.0.0.2:8000")), Some("10.0.0.2:8000"));
    check(Some(Value::from(Vec::new())), None, None);
    check(Some(one(9)), Some(one(1)), None);
    check(Some(Value::from(7.0)), None, Some("10.0.0.1:8000"));
}

#[tokio::test(start_paused = true)]
async fn the_destination_and_the_scores_are_dynamic_metadata() {
    let mut six = spec(0);
    six.address = "fd00::1".into();
    let specs = vec![six, spec(1)];
    for emits in [false, true] {
        let world = World::of(
            RouterBuilder::new(BY_QUEUE)
                .specs(specs.clone())
                .settings(|settings| settings.emit_endpoint_scores = emits),
        );
        let mut call = world.open();
        call.say(chat_headers());
        let replies = call.say(request_body(CHAT, true));
        assert_eq!(destination(&replies), "[fd00::1]:8000");
        let fields = &metadata(&replies[0], "envoy.lb").fields;
        let value = fields["x-gateway-destination-endpoint"].as_str();
        assert_eq!(value, Some("[fd00::1]:8000"));
        let scores = fields.get("x-gateway-destination-endpoint-scores");
        assert_eq!(scores.is_some(), emits);
        if let Some(scores) = scores {
            let scores = &scores.as_struct().unwrap().fields;
            let of = |endpoint: &str| scores[endpoint].as_f64().unwrap();
            assert!(of("[fd00::1]:8000") > of("10.0.0.2:8000"), "{scores:?}");
        }
        assert!(replies[1].dynamic_metadata.is_none());
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_whose_body_envoy_keeps_is_routed_by_its_head() {
    let world = World::new();
    let mut call = world.open();
    let modes = (BodySendMode::None, BodySendMode::FullDuplexStreamed);
    let replies = call.say(with_modes(chat_headers(), modes.0, modes.1));
    assert_eq!(shape(&replies), "H");
    assert_eq!(set_value(&mutation(&replies), "content-length"), None);
    assert_eq!(shape(&call.say(request_trailers())), "T");
    assert_eq!(shape(&call.say(status("200", true))), "h");
}

#[tokio::test(start_paused = true)]
async fn modes_that_cannot_work_are_refused_with_what_to_set() {
    let world = World::new();
    let check = |request: BodySendMode, response: BodySendMode, expected: &str| {
        let mut call = world.open();
        assert_eq!(shape(&call.say(with_modes(chat_headers(), request, response))), "");
        let status = call.failure();
        assert_eq!(status.code(), tonic::Code::FailedPrecondition);
        assert!(status.message().contains(expected), "{status}");
    };
    use BodySendMode::{Buffered, BufferedPartial, FullDuplexStreamed, Streamed};
    for mode in [Buffered, BufferedPartial, Streamed] {
        check(mode, FullDuplexStreamed, "request_body_mode");
        check(FullDuplexStreamed, mode, "response_body_mode");
    }
    world.assert_idle();
}

#[tokio::test(start_paused = true)]
async fn a_rejection_is_an_immediate_response_and_the_end_of_the_stream() {
    let world = World::new();
    let check = |messages: Vec<_>, code: i32, text: &str| {
        let mut call = world.open();
        let mut replies = Vec::new();
        for message in messages {
            if call.end.is_none() {
                replies.extend(call.say(message));
            }
        }
        assert_eq!(shape(&replies), format!("I{code}"), "{text}");
        let answer = immediate(&replies);
        let body = String::from_utf8(answer.body.to_vec()).unwrap();
        assert!(body.starts_with("inference error: ") && body.contains(text), "{body}");
        let headers = answer.headers.as_ref().unwrap();
        assert_eq!(set_value(headers, "content-type").as_deref(), Some("text/plain"));
        assert!(matches!(call.end, Some(Ok(()))), "{:?}", call.end);
    };
    let json = |body: &'static str| vec![chat_headers(), request_body(body, true)];
    check(json("{"), 400, "BadRequest");
    check(json("[]"), 400, "BadRequest");
    check(json(r#"{"messages":[]}"#), 400, "BadRequest");
    check(json(""), 400, "BadRequest");
    let encoded = request_headers("POST", PATH, &[("content-encoding", "gzip")], false);
    check(vec![encoded], 415, "content-encoding");
    // Before the body has ended.
    let nonsense = request_body("nonsense ".repeat(4_000), false);
    check(vec![chat_headers(), nonsense], 400, "BadRequest");
    world.assert_idle();
}

#[tokio::test(start_paused = true)]
async fn a_path_that_nobody_reads_is_refused_at_its_headers() {
    let config = BY_QUEUE.replace(
        "plugins:\n- type: queue-scorer",
        "plugins:\n- type: openai-parser\n- type: queue-scorer",
    );
    let config = config + "requestHandler: {parsers: [{pluginRef: openai-parser}]}\n";
    let world = World::of(RouterBuilder::new(&config).endpoints(1));
    let mut call = world.open();
    let replies = call.say(request_headers("POST", "/nobody/knows", &[], false));
    assert_eq!(immediate(&replies).status.unwrap().code, 404);
    drop(call);
    world.assert_idle();
    let mut call = World::new().open();
    assert_eq!(shape(&call.say(request_headers("GET", "/nobody/knows", &[], false))), "");
    assert_eq!(shape(&call.say(request_body("", true))), "H B0!", "the fallback takes any path");
}

#[tokio::test(start_paused = true)]
async fn a_shed_request_says_why_and_when_to_come_back() {
    let world = World::of(RouterBuilder::new(BY_QUEUE));
    let mut call = world.open();
    call.say(chat_headers());
    let replies = call.say(request_body(CHAT, true));
    let answer = immediate(&replies);
    assert_eq!(answer.status.unwrap().code, 503);
    let headers = answer.headers.as_ref().unwrap();
    let value = |name| set_value(headers, name);
    assert_eq!(value("x-llm-d-request-dropped-reason").unwrap(), "rejected-no-endpoints");
    assert!(value("retry-after").unwrap().parse::<u64>().unwrap() >= 1);
    assert_eq!(world.errors("ServiceUnavailable"), 1.0);
}

#[tokio::test(start_paused = true)]
async fn a_body_over_its_bound_is_refused_before_it_has_come() {
    let world = World::of(
        RouterBuilder::new(BY_QUEUE).endpoints(1).settings(|s| s.max_body_bytes = 1_000_000),
    );
    let mut call = world.open();
    call.say(chat_headers());
    assert_eq!(shape(&call.say(request_body(r#"{"model":""#, false))), "");
    let mut n_chunks = 0;
    let replies = loop {
        let replies = call.say(request_body(vec![b'x'; 60_000], false));
        if !replies.is_empty() {
            break replies;
        }
        n_chunks += 1;
        assert!(n_chunks < 17);
    };
    let code = immediate(&replies).status.unwrap().code;
    assert!([400, 413].contains(&code), "{code}");
    drop(call);
    world.assert_idle();
}

#[tokio::test(start_paused = true)]
async fn a_body_over_the_budget_of_all_requests_is_refused() {
    let world = World::of(
        RouterBuilder::new(BY_QUEUE).endpoints(1).settings(|s| s.max_buffered_bytes = 100),
    );
    let mut first = world.open();
    first.say(chat_headers());
    first.say(request_body(CHAT, false));
    let mut second = world.open();
    second.say(chat_headers());
    let replies = second.say(request_body(CHAT, true));
    assert_eq!(immediate(&replies).status.unwrap().code, 503);
    let replies = first.say(request_body("", true));
    assert_eq!(shape(&replies), format!("H B{}!", CHAT.len()));
    assert_eq!(world.router.budget().held(), 0, "what has been sent is given back");
}

#[tokio::test(start_paused = true)]
async fn hostile_headers_are_left_out_or_refused() {
    let world = World::new();
    let mut call = world.open();
    let odd = [("bad name", "x"), ("x-line", "a\r\nb"), ("", "y"), (":odd", "z")];
    call.say(request_headers("P O S T", PATH, &odd, false));
    assert_eq!(shape(&call.say(request_body(CHAT, true))), format!("H B{}!", CHAT.len()));
    drop(call);
    let many: Vec<_> = (0..1_000).map(|_| ("x-many", "1")).collect();
    let mut call = world.open();
    call.say(request_headers("POST", PATH, &many, false));
    assert_eq!(call.failure().code(), tonic::Code::InvalidArgument);
    drop(call);
    let mut call = world.routed();
    call.say(response_headers(&[many.as_slice(), many.as_slice()].concat(), false));
    assert_eq!(call.failure().code(), tonic::Code::InvalidArgument);
    drop(call);
    world.assert_idle();
}
