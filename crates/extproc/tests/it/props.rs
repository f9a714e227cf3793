//! Random messages: legal ones arrive whole, illegal ones end in an error and leave nothing.

use bytes::Bytes;
use proptest::{collection::vec, prelude::*};
use router_extproc::fuzz::{bodies, play};
use router_proto::ext_proc::{ProcessingRequest, processing_mode::BodySendMode};

use crate::{
    call::{World, shape},
    messages::{
        PATH, request_body, request_headers, request_trailers, response_body, response_headers,
        response_trailers, status, with_modes, with_served, with_subset,
    },
};

/// Cuts `body` at these places.
fn cut(body: &str, cuts: &[prop::sample::Index]) -> Vec<Bytes> {
    let mut at: Vec<usize> = cuts.iter().map(|cut| cut.index(body.len() + 1)).collect();
    at.extend([0, body.len()]);
    at.sort_unstable();
    at.windows(2).map(|ends| Bytes::copy_from_slice(&body.as_bytes()[ends[0]..ends[1]])).collect()
}

/// Messages of a body, ended by its last message, by an empty one or by trailers.
fn body_messages(
    chunks: Vec<Bytes>,
    end: usize,
    message: fn(Bytes, bool) -> ProcessingRequest,
    trailers: fn() -> ProcessingRequest,
) -> Vec<ProcessingRequest> {
    let n_chunks = chunks.len();
    let is_last = |at| end == 0 && at + 1 == n_chunks;
    let mut messages: Vec<_> =
        chunks.into_iter().enumerate().map(|(at, chunk)| message(chunk, is_last(at))).collect();
    match end {
        0 => {}
        1 => messages.push(message(Bytes::new(), true)),
        _ => messages.push(trailers()),
    }
    messages
}

fn any_message() -> impl Strategy<Value = ProcessingRequest> {
    let path = prop_oneof![Just(PATH), Just("/v1/models"), Just("/else"), Just("")];
    let piece = prop_oneof![
        Just(String::new()),
        Just(crate::messages::CHAT.to_owned()),
        Just("{".to_owned()),
        Just(r#"{"model":"m","prompt":"#.to_owned()),
        Just(r#""x"}"#.to_owned()),
        ".{0,40}",
    ];
    let mode = (0i32..5).prop_map(|mode| BodySendMode::try_from(mode).unwrap());
    let name = prop_oneof![
        Just("x-llm-d-model-name-rewrite"),
        Just("content-encoding"),
        Just("accept"),
        Just("x-llm-d-inference-objective"),
    ];
    let request = (path, name, "[a-z]{0,5}", any::<bool>());
    let request = request.prop_map(|(path, name, value, end)| {
        request_headers("POST", path, &[(name, value.as_str())], end)
    });
    prop_oneof![
        3 => request.clone(),
        1 => (request, mode.clone(), mode).prop_map(|(message, a, b)| with_modes(message, a, b)),
        4 => (piece.clone(), any::<bool>()).prop_map(|(piece, end)| request_body(piece, end)),
        1 => Just(with_subset(request_body("", true), "10.0.0.2:8000".into())),
        1 => Just(request_trailers()),
        2 => ("[1-9][0-9]{2}", any::<bool>()).prop_map(|(code, end)| status(&code, end)),
        1 => Just(with_served(status("200", false), "10.0.0.2:8000")),
        1 => Just(response_headers(&[(":status", "503"), ("content-type", "text/plain")], true)),
        3 => (piece, any::<bool>()).prop_map(|(piece, end)| response_body(piece, end)),
        1 => Just(response_trailers()),
        1 => Just(ProcessingRequest::default()),
    ]
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_messages_in_any_order_leave_nothing(messages in vec(any_message(), 0..12)) {
        let runtime = runtime();
        let _inside = runtime.enter();
        let world = World::new();
        play(&world.service, messages);
        world.assert_idle();
    }

    #[test]
    fn a_request_and_its_response_arrive_whole(
        prompt in "\\PC{0,200}",
        noise in "[ \\n]{0,3}",
        rewrite in any::<bool>(),
        events in any::<bool>(),
        cuts in vec(any::<prop::sample::Index>(), 0..8),
        response_cuts in vec(any::<prop::sample::Index>(), 0..8),
        ends in (0usize..3, 0usize..3),
    ) {
        let runtime = runtime();
        let _inside = runtime.enter();
        let world = World::new();
        let text = serde_json::to_string(&prompt).unwrap();
        let chat = |model: &str| format!(
            "{noise}{{\"messages\":[{{\"role\":\"user\",\"content\":{text}}}],\"model\":{noise}\"{model}\"}}{noise}",
        );
        let answer = |model: &str| if events {
            format!("data: {{\"model\":\"{model}\",\"text\":{text}}}\n\n").repeat(2) + "data: [DONE]\n\n"
        } else {
            format!("{{\"model\":{noise}\"{model}\",\"text\":{text}}}{noise}")
        };
        let served = if rewrite { "target" } else { "asked" };
        let headers: &[(&str, &str)] =
            if rewrite { &[("x-llm-d-model-name-rewrite", "target")] } else { &[] };
        let mut messages = vec![request_headers("POST", PATH, headers, false)];
        messages.extend(body_messages(
            cut(&chat("asked"), &cuts), ends.0, request_body, request_trailers,
        ));
        let content_type = if events { "text/event-stream" } else { "application/json" };
        messages.push(response_headers(
            &[(":status", "200"), ("content-type", content_type)], false,
        ));
        messages.extend(body_messages(
            cut(&answer(served), &response_cuts), ends.1, response_body, response_trailers,
        ));
        let (replies, error) = play(&world.service, messages);
        prop_assert!(error.is_none(), "{error:?}");
        let (request, response) = bodies(&replies);
        prop_assert_eq!(request, chat(served));
        prop_assert_eq!(response, answer("asked"));
        let shape = shape(&replies);
        let (of_request, of_response) = shape.split_once(" h").unwrap();
        let ended = |side: &str, end| side.ends_with(if end < 2 { "!" } else if side.contains('T') { "T" } else { "t" });
        prop_assert!(ended(of_request, ends.0) && ended(of_response, ends.1), "{}", shape);
        prop_assert_eq!(world.router.sum("llm_d_epp_request_error_total", &[]), 0.0);
        world.assert_idle();
    }
}
