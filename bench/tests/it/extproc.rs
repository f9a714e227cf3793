use std::pin::Pin;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hyper::server::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use router_bench::extproc::hold::{self, Sent};
use router_bench::extproc::{Course, ExtProcArgs, ExtProcLoad, floor};
use router_bench::load::{self, Summary};
use router_proto::ext_proc::external_processor_server::{
    ExternalProcessor, ExternalProcessorServer,
};
use router_proto::ext_proc::processing_request::Request as Phase;
use router_proto::ext_proc::processing_response::Response as Answer;
use router_proto::ext_proc::{
    BodyResponse, CommonResponse, HeaderMutation, HeaderValueOption, HttpStatus, ImmediateResponse,
    ProcessingRequest, ProcessingResponse,
};
use router_rt::Tasks;
use rustls::pki_types::PrivateKeyDer;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::TcpListener;
use tokio::process::Command;
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status, Streaming};

use crate::args::parse;

async fn start_floor(tasks: &Tasks) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let shutdown = tasks.token().clone().cancelled_owned();
    tasks.spawn("floor", floor::serve(listener, shutdown));
    address
}

async fn run(target: &str, what: &str, load: &str) -> Summary {
    let args: ExtProcArgs = parse(&format!("--target {target} {what}"));
    let exchange = ExtProcLoad::connect(&args, 1).await.unwrap();
    load::run(&parse(load), Arc::new(exchange)).await.unwrap()
}

#[tokio::test]
async fn every_request_goes_through_the_floor() {
    let tasks = Tasks::new();
    let target = start_floor(&tasks).await;
    let pid = std::process::id();
    for what in [
        "--body-size 1024",
        "--body-size 300000 --connections 3 --response-chunks 1 --stream false",
        "--body-size 70000 --body-chunk 1000 --response-size 100000 --header x-a:b",
        "--body-size 4096 --shared-prefix 2048 --prefix-groups 4",
    ] {
        let summary = run(&target, what, &format!("--requests 60 -c 7 --pid {pid}")).await;
        assert_eq!((summary.ok, summary.failed), (60, 0), "{what}: {:?}", summary.errors);
        assert_eq!((summary.endpoints_picked, summary.top_pick_share), (1, 1.0));
        let [decision, request, total] =
            ["decision", "request", "total"].map(|phase| summary.latency_us[phase]);
        assert!(decision.p50 <= request.p50 && request.p50 <= total.p50);
        assert!(summary.server.unwrap().rss_mib > 1.0);
    }
}

#[tokio::test]
async fn a_rate_is_not_exceeded() {
    let tasks = Tasks::new();
    let target = start_floor(&tasks).await;
    let summary = run(&target, "", "--rate 200 --requests 41 -c 50").await;
    assert_eq!((summary.ok, summary.failed), (41, 0), "{:?}", summary.errors);
    // The last starts 40 intervals after the first.
    assert!(summary.seconds >= 0.2, "{}", summary.seconds);
}

#[tokio::test]
async fn requests_that_are_left_harm_no_others() {
    let tasks = Tasks::new();
    let target = start_floor(&tasks).await;
    let args: ExtProcArgs = parse(&format!("--target {target} --body-size 50000 --distinct 3"));
    let exchange = ExtProcLoad::connect(&args, 1).await.unwrap().with_courses(|n| match n % 10 {
        1 => Course::LeaveAfterHeaders,
        2 => Course::LeaveMidBody,
        3 => Course::LeaveBeforeDecision,
        4 => Course::LeaveBeforeResponse,
        5 => Course::LeaveMidResponse,
        6 => Course::Bodyless,
        7 => Course::Trailers,
        8 => Course::ServerError,
        _ => Course::Whole,
    });
    let summary = load::run(&parse("--requests 200 -c 8"), Arc::new(exchange)).await.unwrap();
    assert_eq!((summary.ok, summary.failed, summary.rejected), (100, 0, 100), "{summary}");
    assert_eq!(summary.errors.len(), 5);
    assert!(summary.errors.values().all(|n| *n == 20), "{:?}", summary.errors);
}

#[tokio::test]
async fn cut_json_must_be_refused() {
    let tasks = Tasks::new();
    let target = start_floor(&tasks).await;
    let args: ExtProcArgs = parse(&format!("--target {target}"));
    let exchange = ExtProcLoad::connect(&args, 1).await.unwrap().with_courses(|_| Course::CutJson);
    // The floor reads no JSON.
    let summary = load::run(&parse("--requests 4 -c 1"), Arc::new(exchange)).await.unwrap();
    assert_eq!(summary.errors["CutJson was routed"], 4);
}

#[tokio::test]
async fn held_streams_show_in_memory() {
    // A process of its own, because the memory of this one moves with the other tests.
    let mut floor = Command::new(env!("CARGO_BIN_EXE_extproc-floor"))
        .arg("127.0.0.1:0")
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(floor.stdout.take().unwrap()).lines();
    let target = lines.next_line().await.unwrap().unwrap();
    let args: ExtProcArgs = parse(&format!("--target {target} --body-size 1048576"));
    let (pid, limit) = (floor.id().unwrap(), Duration::from_mins(1));
    for until in [Sent::Nothing, Sent::Headers] {
        let held = hold::measure(&args, until, 16, pid, 1, limit).await.unwrap();
        assert_eq!((held.n_streams, held.sent), (16, 0));
    }
    let held = hold::measure(&args, Sent::Body, 16, pid, 1, limit).await.unwrap();
    assert_eq!((held.n_streams, held.sent), (16, 1_048_576 - 16_384));
    assert!((900.0..3000.0).contains(&held.kib_per_stream), "{held:?}");
}

#[tokio::test]
async fn a_server_that_is_not_there_is_an_error() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let target = listener.local_addr().unwrap();
    drop(listener);
    let args: ExtProcArgs = parse(&format!("--target {target}"));
    let error = ExtProcLoad::connect(&args, 1).await.err().unwrap();
    assert!(error.to_string().contains("connecting to 127.0.0.1"), "{error}");
    let args: ExtProcArgs = parse("--header nonsense");
    ExtProcLoad::connect(&args, 1).await.err().unwrap();
}

/// An endpoint picker that answers in a wrong way.
#[derive(Clone, Copy)]
enum Fault {
    Refuses,
    LosesBytes,
    NamesNoEndpoint,
    BodyFirst,
    Closes,
    Fails,
    Silent,
}

#[tonic::async_trait]
impl ExternalProcessor for Fault {
    type ProcessStream =
        Pin<Box<dyn futures_core::Stream<Item = Result<ProcessingResponse, Status>> + Send>>;

    async fn process(
        &self,
        request: Request<Streaming<ProcessingRequest>>,
    ) -> Result<Response<Self::ProcessStream>, Status> {
        let mut inbound = request.into_inner();
        while let Some(message) = inbound.message().await? {
            if matches!(message.request, Some(Phase::RequestBody(body)) if body.end_of_stream) {
                break;
            }
        }
        let (out, mut queue) = mpsc::channel(4);
        for answer in self.answers()? {
            out.try_send(Ok(answer.into())).map_err(|_| Status::internal("no room"))?;
        }
        let stays = matches!(self, Fault::Silent).then_some(out);
        let stream = futures_util::stream::poll_fn(move |cx| {
            let _open = &stays;
            queue.poll_recv(cx)
        });
        Ok(Response::new(Box::pin(stream)))
    }
}

impl Fault {
    fn answers(self) -> Result<Vec<Answer>, Status> {
        let headers = |name: &str| {
            let set_headers = vec![HeaderValueOption::overwrite(name, "127.0.0.1:1")];
            let mutation = HeaderMutation { set_headers, remove_headers: vec![] };
            let common =
                CommonResponse { header_mutation: Some(mutation), ..CommonResponse::default() };
            Answer::RequestHeaders(common.into())
        };
        let body =
            || Answer::RequestBody(BodyResponse::streamed(Bytes::from_static(b"short"), true));
        match self {
            Fault::Refuses => Ok(vec![Answer::ImmediateResponse(ImmediateResponse {
                status: Some(HttpStatus { code: 429 }),
                ..ImmediateResponse::default()
            })]),
            Fault::LosesBytes => Ok(vec![headers("x-gateway-destination-endpoint"), body()]),
            Fault::NamesNoEndpoint => Ok(vec![headers("x-other")]),
            Fault::BodyFirst => {
                Ok(vec![Answer::ResponseBody(BodyResponse::streamed(Bytes::new(), true))])
            }
            Fault::Closes | Fault::Silent => Ok(vec![]),
            Fault::Fails => Err(Status::unavailable("draining")),
        }
    }
}

#[tokio::test]
async fn wrong_answers_are_seen() {
    for (fault, expected) in [
        (Fault::Refuses, "immediate response 429"),
        (Fault::LosesBytes, "sent 1024 body bytes, 5 came back"),
        (Fault::NamesNoEndpoint, "no destination endpoint in the header answer"),
        (Fault::BodyFirst, "unexpected answer in the request phase: response body"),
        (Fault::Closes, "stream closed in the request phase"),
        (Fault::Fails, "draining"),
        (Fault::Silent, "timeout"),
    ] {
        let tasks = Tasks::new();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let target = listener.local_addr().unwrap().to_string();
        let server = tonic::transport::Server::builder()
            .add_service(ExternalProcessorServer::new(fault))
            .serve_with_incoming(TcpIncoming::from(listener));
        tasks.spawn_cancellable("fault", server);
        let summary = run(&target, "", "--requests 3 -c 1 --timeout 0.3").await;
        assert_eq!(summary.ok, 0);
        let (error, n) = summary.errors.iter().next().unwrap();
        assert!(error.contains(expected) && *n == 3, "{error}, not {expected}");
        let refused = matches!(fault, Fault::Refuses);
        assert_eq!((summary.rejected, summary.failed), if refused { (3, 0) } else { (0, 3) });
        tasks.cancel();
    }
}

#[tokio::test]
async fn any_certificate_is_accepted() {
    let certified = rcgen::generate_simple_self_signed(["picker".to_owned()]).unwrap();
    let key = PrivateKeyDer::try_from(certified.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certified.cert.der().clone()], key)
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let target = listener.local_addr().unwrap().to_string();
    let tasks = Tasks::new();
    tasks.spawn_cancellable("tls server", async move {
        let (tcp, _) = listener.accept().await.unwrap();
        let tls = acceptor.accept(tcp).await.unwrap();
        let service = TowerToHyperService::new(ExternalProcessorServer::new(Fault::Refuses));
        http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(tls), service).await
    });
    let summary = run(&target, "--tls", "--requests 3 -c 1").await;
    assert_eq!(summary.errors["immediate response 429"], 3, "{summary}");
    tasks.cancel();
}
