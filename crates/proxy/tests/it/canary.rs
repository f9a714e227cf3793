//! Model rewrites from manifests, and a pool that is spoken to in HTTP/2.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use bytes::Bytes;
use http::{HeaderValue, Request, Response, Version, header::CONTENT_TYPE};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Incoming;
use router_core::{EndpointSpec, Scheme};
use router_engine::{PoolChoice, Resources};
use router_framework::EndpointSink;
use router_net::{Body, Server, ServerOptions, body};
use router_rt::Tasks;
use router_testkit::canary;

use crate::world::{ModelServer, PROMPT, World, chat, header, listen};

const N_REQUESTS: usize = 10_000;
/// Clients at a time.
const N_CLIENTS: usize = 8;

fn rewrite(world: &World) {
    let files = [("canary.yaml", canary::MANIFEST.as_bytes())];
    let (resources, warnings) = Resources::parse(files, &PoolChoice::default()).unwrap();
    assert!(warnings.is_empty(), "{warnings:?}");
    resources.hand_to(world.router.datastore());
}

/// Answers with the model that it is asked for, in turn as a document and as events in small pieces, in plain
/// letters and with escapes. Counts requests for the canary.
async fn echo(tasks: &Tasks, n_canary: &Arc<AtomicUsize>) -> std::net::SocketAddr {
    let (n_canary, n_seen) = (Arc::clone(n_canary), Arc::new(AtomicUsize::new(0)));
    let handler = move |request: Request<Incoming>| {
        let (n_canary, n) = (Arc::clone(&n_canary), n_seen.fetch_add(1, Ordering::Relaxed));
        async move {
            let sent = request.into_body().collect().await.unwrap().to_bytes();
            let served = canary::served_by(PROMPT, &sent);
            n_canary.fetch_add(usize::from(served == canary::CANARY), Ordering::Relaxed);
            answer(served, n)
        }
    };
    let options = ServerOptions::named("model server");
    Server::start(listen().await, None, options, tasks, handler).unwrap().local_addr()
}

fn answer(served: &str, n: usize) -> Response<Body> {
    let name = if n.is_multiple_of(3) { served.replace('-', "\\u002D") } else { served.to_owned() };
    let document = format!("{{\"model\" : \"{name}\",\"text\":\"of m\"}}");
    if n.is_multiple_of(2) {
        let mut response = Response::new(body::full(document));
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        return response;
    }
    let events = Bytes::from(format!("data: {document}\n\ndata: {document}\n\ndata: [DONE]\n\n"));
    // The pieces end within the name, each time elsewhere.
    let cuts = [0, 15 + n % 16, 30 + n % 12, events.len()];
    let pieces: Vec<_> = cuts
        .windows(2)
        .map(|cut| Ok::<_, std::convert::Infallible>(Frame::data(events.slice(cut[0]..cut[1]))))
        .collect();
    let mut response =
        Response::new(body::boxed(StreamBody::new(futures_util::stream::iter(pieces))));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    response
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_canary_gets_its_share_and_clients_see_the_name_they_asked_for() {
    let (tasks, n_canary) = (Tasks::new(), Arc::new(AtomicUsize::new(0)));
    let world = World::new(&[echo(&tasks, &n_canary).await]).await;
    rewrite(&world);
    let document = "{\"model\" : \"m\",\"text\":\"of m\"}";
    let events = format!("data: {document}\n\ndata: {document}\n\ndata: [DONE]\n\n");
    let client = async || {
        for _ in 0..N_REQUESTS / N_CLIENTS {
            let answer = world.ask(chat()).await;
            let is_events = answer.headers["content-type"] == "text/event-stream";
            assert_eq!(answer.text(), if is_events { &*events } else { document });
        }
    };
    futures_util::future::join_all((0..N_CLIENTS).map(|_| client())).await;
    let n_canary = n_canary.load(Ordering::Relaxed) as f64;
    assert!(canary::is_its_share(n_canary, N_REQUESTS), "{n_canary} of {N_REQUESTS}");
    assert_eq!(canary::decided(&world.router.page(), canary::CANARY), n_canary);
}

#[tokio::test]
async fn an_encoded_response_passes_as_it_is() {
    for coding in ["gzip", "x-unknown"] {
        let tasks = Tasks::new();
        let model = ModelServer::new(&tasks, move || {
            let answer = "{\"model\":\"m-stable-1\"}{\"model\":\"m-canary-2\"}";
            Response::builder().header("content-encoding", coding).body(body::full(answer)).unwrap()
        })
        .await;
        let world = World::new(&[model.addr]).await;
        rewrite(&world);
        let answer = world.ask(header(chat(), "accept-encoding", coding)).await;
        assert_eq!(answer.text(), "{\"model\":\"m-stable-1\"}{\"model\":\"m-canary-2\"}");
        assert_eq!(answer.headers["content-encoding"], coding);
        assert_eq!(answer.headers["content-length"], "44");
        assert_eq!(model.only().header("accept-encoding"), None, "it is asked for none");
    }
}

#[tokio::test]
async fn a_pool_of_h2c_is_spoken_to_in_http2() {
    let tasks = Tasks::new();
    let model = ModelServer::saying(&tasks, "{}").await;
    let world = World::new(&[model.addr]).await;
    for (scheme, version) in [(Scheme::H2c, Version::HTTP_2), (Scheme::Http, Version::HTTP_11)] {
        let ip = model.addr.ip().to_string();
        let spec = EndpointSpec::new("default", "e0", &ip, model.addr.port());
        world.router.datastore().replace(vec![EndpointSpec { scheme, ..spec }]);
        let answer = world.ask(chat()).await;
        assert_eq!((answer.status, answer.text()), (200, "{}"));
        let seen = model.only();
        assert_eq!((seen.parts.version, &*seen.body), (version, PROMPT.as_bytes()));
    }
}
