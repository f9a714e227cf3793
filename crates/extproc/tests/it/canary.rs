//! Model rewrites from manifests, as Envoy sees them.

use bytes::Bytes;
use router_testkit::{canary, router::RouterBuilder};

use crate::{
    call::{BY_QUEUE, World, mutation, request_bytes, response_bytes, shape},
    messages::{CHAT, chat_headers, request_body, response_body, response_headers},
};

const N_REQUESTS: usize = 10_000;

fn world() -> World {
    World::of(RouterBuilder::new(BY_QUEUE).endpoints(3).resources(canary::MANIFEST))
}

/// What a model server answers, and what the client is to get for it: in one document or in events, the name
/// in plain letters or with escapes.
fn answer(served: &str, n: usize) -> (&'static str, String, String) {
    let written =
        if n.is_multiple_of(3) { served.replace('-', "\\u002d") } else { served.to_owned() };
    let of = |name: &str| format!("{{\"id\":{n},\"model\": \"{name}\",\"text\":\"of {served}\"}}");
    if n.is_multiple_of(2) {
        return ("application/json", of(&written), of("m"));
    }
    let events = |name: &str| format!("data: {0}\n\ndata: {0}\n\ndata: [DONE]\n\n", of(name));
    ("text/event-stream", events(&written), events("m"))
}

#[tokio::test(start_paused = true)]
async fn a_canary_gets_its_share_and_clients_see_the_name_they_asked_for() {
    let world = world();
    let mut n_canary = 0.0;
    for n in 0..N_REQUESTS {
        let mut call = world.open();
        call.say(chat_headers());
        let sent = request_bytes(&call.say(request_body(CHAT, true)));
        let served = canary::served_by(CHAT, &sent);
        n_canary += f64::from(u8::from(served == canary::CANARY));
        let (content_type, body, expected) = answer(served, n);
        call.say(response_headers(&[(":status", "200"), ("content-type", content_type)], false));
        // Over all requests every name is split everywhere.
        let cut = n % body.len();
        let cuts = [0, cut, body.len().min(cut + 5), body.len()];
        let mut replies = Vec::new();
        for piece in cuts.windows(2) {
            let piece = Bytes::copy_from_slice(&body.as_bytes()[piece[0]..piece[1]]);
            replies.extend(call.say(response_body(piece, false)));
        }
        replies.extend(call.say(response_body("", true)));
        assert_eq!(response_bytes(&replies), expected, "request {n}, cut at {cut}");
    }
    assert!(canary::is_its_share(n_canary, N_REQUESTS), "{n_canary} of {N_REQUESTS}");
    assert_eq!(canary::decided(&world.router.page(), canary::CANARY), n_canary);
    world.assert_idle();
}

#[tokio::test(start_paused = true)]
async fn an_encoded_response_passes_as_it_is() {
    for coding in ["gzip", "br", "x-unknown", "identity"] {
        let world = world();
        let mut call = world.open();
        call.say(chat_headers());
        call.say(request_body(CHAT, true));
        let head = [(":status", "200"), ("content-length", "9"), ("content-encoding", coding)];
        let replies = call.say(response_headers(&head, false));
        assert!(mutation(&replies).remove_headers.is_empty(), "{coding}");
        // Whatever it looks like: these may be any bytes.
        let body = "{\"model\":\"m-stable-1\"}{\"model\":\"m-canary-2\"}";
        let mut replies = call.say(response_body(body, false));
        replies.extend(call.say(response_body("", true)));
        assert_eq!(response_bytes(&replies), body, "{coding}");
        assert!(shape(&replies).ends_with('!'));
    }
}
