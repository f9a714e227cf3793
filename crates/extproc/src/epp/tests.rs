use std::{future::poll_fn, io, sync::Arc};

use bytes::Bytes;
use parking_lot::Mutex;
use router_proto::ext_proc::{HeaderValue as Entry, HttpTrailers};
use router_testkit::router::{ONE_AT_A_TIME, RouterBuilder, TestRouter};
use tracing_subscriber::{filter::LevelFilter, layer::SubscriberExt};

use super::*;

const PATH: &str = "/v1/chat/completions";
const CHAT: &str =
    r#"{"model":"m","messages":[{"role":"user","content":"a secret of the client"}]}"#;

/// A stream whose messages a test sends, as Envoy would.
struct Stream {
    session: EppSession,
    replies: Replies,
}

impl Stream {
    fn open(world: &TestRouter) -> Self {
        let router = Arc::new(ArcSwap::new(Arc::clone(&world.router)));
        let handler = EppHandler::new(router, Duration::from_mins(1));
        Self { session: handler.open(Opening), replies: Replies::default() }
    }

    /// Sends a message and gives the replies that come of it.
    async fn send(&mut self, message: Message) -> Vec<Response> {
        let message = ProcessingRequest { request: Some(message), ..ProcessingRequest::default() };
        self.session.on_message(message, &mut self.replies).unwrap();
        self.work().await
    }

    /// Gives the replies that need no further message.
    async fn work(&mut self) -> Vec<Response> {
        poll_fn(|cx| {
            // Nothing here waits for anything but messages.
            while let Poll::Ready(done) = self.session.poll_work(cx, &mut self.replies) {
                done.unwrap();
            }
            Poll::Ready(())
        })
        .await;
        std::iter::from_fn(|| self.replies.pop()).filter_map(|reply| reply.response).collect()
    }

    async fn request(&mut self, body: &'static str) -> Vec<Response> {
        let headers = [(":method", "POST"), (":path", PATH)].map(|(k, v)| Entry::raw(k, v));
        let head = HttpHeaders::new(headers.into(), false);
        assert!(self.send(Message::RequestHeaders(head)).await.is_empty());
        let body = HttpBody::new(Bytes::from_static(body.as_bytes()), true);
        self.send(Message::RequestBody(body)).await
    }
}

fn world() -> TestRouter {
    RouterBuilder::new("").endpoints(1).build()
}

fn status(code: &str, end_of_stream: bool) -> Message {
    let head = vec![Entry::raw(":status", code.to_owned())];
    Message::ResponseHeaders(HttpHeaders::new(head, end_of_stream))
}

#[tokio::test(start_paused = true)]
async fn a02_trailers_end_the_request_body_and_are_answered() {
    let world = world();
    let mut stream = Stream::open(&world);
    let headers = [(":method", "POST"), (":path", PATH)].map(|(k, v)| Entry::raw(k, v));
    stream.send(Message::RequestHeaders(HttpHeaders::new(headers.into(), false))).await;
    let body = HttpBody::new(Bytes::from_static(CHAT.as_bytes()), false);
    assert!(stream.send(Message::RequestBody(body)).await.is_empty());
    let replies = stream.send(Message::RequestTrailers(HttpTrailers::default())).await;
    let [Response::RequestHeaders(_), Response::RequestBody(_), Response::RequestTrailers(_)] =
        replies.as_slice()
    else {
        panic!("{replies:?}")
    };
}

#[tokio::test(start_paused = true)]
async fn a03_a_response_without_a_body_ends_the_request() {
    let world = world();
    let mut stream = Stream::open(&world);
    stream.request(CHAT).await;
    assert_eq!(world.sum("llm_d_epp_request_running", &[]), 1.0);
    stream.send(status("204", true)).await;
    assert_eq!(world.sum("llm_d_epp_request_running", &[]), 0.0);
    assert_eq!(world.sum("llm_d_epp_request_duration_seconds_count", &[]), 1.0);
    assert_eq!(world.sum("llm_d_epp_request_error_total", &[]), 0.0);
}

#[tokio::test(start_paused = true)]
async fn a01_an_error_status_of_a_real_envoy_is_an_error() {
    let world = world();
    let mut stream = Stream::open(&world);
    stream.request(CHAT).await;
    stream.send(status("500", true)).await;
    let label = [("error_code", "ModelServerError")];
    assert_eq!(world.sum("llm_d_epp_request_error_total", &label), 1.0);
}

/// Where the log of a test goes.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn a14_no_log_line_shows_what_a_client_wrote() {
    let log = Log::default();
    let lines = log.clone();
    let layer = tracing_subscriber::fmt::layer().with_writer(move || lines.clone());
    let subscriber = tracing_subscriber::registry().with(layer).with(LevelFilter::TRACE);
    let _guard = tracing::subscriber::set_default(subscriber);
    let world = world();
    for body in [CHAT, r#"{"model":"m","messages":"a secret of the client"#] {
        let mut stream = Stream::open(&world);
        stream.request(body).await;
        stream.send(status("500", true)).await;
    }
    let written = String::from_utf8(log.0.lock().clone()).unwrap();
    assert!(written.contains("request rejected"), "the second one is: {written}");
    assert!(!written.contains("secret"), "{written}");
}

#[tokio::test(start_paused = true)]
async fn an_evicted_request_is_answered_429_and_its_stream_ends() {
    let config = format!("{ONE_AT_A_TIME}  enableEviction: true\n");
    let world = RouterBuilder::new(&config).endpoints(1).objective("batch", -1).build();
    let (mut batch, mut plain) = (Stream::open(&world), Stream::open(&world));
    let objective = Entry::raw("x-llm-d-inference-objective", "batch");
    let headers = [Entry::raw(":method", "POST"), Entry::raw(":path", PATH), objective];
    batch.send(Message::RequestHeaders(HttpHeaders::new(headers.into(), false))).await;
    let body = || Message::RequestBody(HttpBody::new(Bytes::from_static(CHAT.as_bytes()), true));
    assert_eq!(batch.send(body()).await.len(), 2, "it is routed");
    assert!(plain.request(CHAT).await.is_empty(), "it waits");
    let replies = batch.work().await;
    let [Response::ImmediateResponse(answer)] = replies.as_slice() else { panic!("{replies:?}") };
    let status = answer.status.as_ref().map(|status| status.code);
    assert_eq!(status, Some(429), "{answer:?}");
    assert!(batch.replies.is_closing());
    assert_eq!(plain.work().await.len(), 2, "it is routed");
}
