//! The gRPC servers of a picker: ext-proc and, on a port of its own or on the same, health.

use std::{convert::Infallible, future::Future, pin::Pin};

use http::{Request, Response};
use hyper::body::Incoming;
use router_net::{Protocols, Server, ServerOptions as NetOptions, tls::ServerTls};
use router_proto::{
    ext_proc::external_processor_server::ExternalProcessorServer,
    health::health_server::HealthServer,
};
use router_rt::Tasks;
use tokio::net::TcpListener;
use tonic::{body::Body, codec::CompressionEncoding};
use tower_service::Service;

use crate::{
    grpc::{self, Answers, Messages},
    handler::Handler,
    health::HealthService,
    service::ProcessService,
};

/// How a client compresses its messages.
const GRPC_ENCODING: &str = "grpc-encoding";
/// The one method of ext-proc.
const PROCESS_PATH: &str = "/envoy.service.ext_proc.v3.ExternalProcessor/Process";

/// Longest message that is read unless a flag says otherwise, as in gRPC's own default.
pub const DEFAULT_MAX_RECV_BYTES: usize = 4 << 20;

/// How the servers listen.
#[derive(Clone, Debug)]
pub struct ServerOptions {
    pub max_recv_bytes: usize,
    pub max_send_bytes: usize,
    /// Open streams per connection; Envoy has one connection per worker.
    pub max_streams_per_connection: u32,
    pub max_connections: usize,
}

impl Default for ServerOptions {
    fn default() -> Self {
        Self {
            max_recv_bytes: DEFAULT_MAX_RECV_BYTES,
            max_send_bytes: usize::MAX,
            max_streams_per_connection: 10_000,
            max_connections: 10_000,
        }
    }
}

/// Why a server cannot start.
#[derive(Debug, thiserror::Error)]
#[error("cannot serve gRPC: {0}")]
pub struct ServerError(#[from] std::io::Error);

/// Serves ext-proc, and health beside it when `health` is given, on `listener`.
pub fn serve<H: Handler>(
    listener: TcpListener,
    tls: Option<ServerTls>,
    options: &ServerOptions,
    tasks: &Tasks,
    process: ProcessService<H>,
    health: Option<HealthService>,
) -> Result<Server, ServerError> {
    let process = Some(Process::new(process, options));
    let services = Services { process, health: health.map(HealthServer::new) };
    start(listener, tls, options, tasks, "ext-proc", services)
}

/// Serves health alone, in clear text.
pub fn serve_health(
    listener: TcpListener,
    tasks: &Tasks,
    health: HealthService,
) -> Result<Server, ServerError> {
    let services =
        Services::<crate::EppHandler> { process: None, health: Some(HealthServer::new(health)) };
    start(listener, None, &ServerOptions::default(), tasks, "grpc health", services)
}

fn start<H: Handler>(
    listener: TcpListener,
    tls: Option<ServerTls>,
    options: &ServerOptions,
    tasks: &Tasks,
    name: &'static str,
    services: Services<H>,
) -> Result<Server, ServerError> {
    let mut net = NetOptions { protocols: Protocols::Http2Only, ..NetOptions::named(name) };
    net.limits.max_concurrent_streams = options.max_streams_per_connection;
    // A proxy resets a stream for each of its clients that leaves, and many may leave at once. To close its
    // connection for that would fail the requests of all others.
    net.limits.max_pending_resets = options.max_streams_per_connection as usize;
    net.limits.max_connections = options.max_connections;
    let handler = move |request: Request<Incoming>| services.clone().call(request);
    Ok(Server::start(listener, tls, net, tasks, handler)?)
}

/// The services of one port.
struct Services<H: Handler> {
    process: Option<Process<H>>,
    health: Option<HealthServer<HealthService>>,
}

impl<H: Handler> Clone for Services<H> {
    fn clone(&self) -> Self {
        Self { process: self.process.clone(), health: self.health.clone() }
    }
}

type Answer = Pin<Box<dyn Future<Output = Response<Body>> + Send>>;

impl<H: Handler> Services<H> {
    fn call(self, request: Request<Incoming>) -> Answer {
        let service = request.uri().path().split('/').nth(1).unwrap_or_default();
        match (service, self.process, self.health) {
            (router_proto::ext_proc::external_processor_server::SERVICE_NAME, Some(process), _) => {
                process.answer(request)
            }
            (router_proto::health::health_server::SERVICE_NAME, _, Some(health)) => {
                answer(health, request)
            }
            _ => Box::pin(async {
                tonic::Status::unimplemented("no such service on this port").into_http()
            }),
        }
    }
}

/// Ext-proc, plain and compressed.
struct Process<H: Handler> {
    service: ProcessService<H>,
    /// Reads what clients compress, which Envoy does only when told to.
    compressed: ExternalProcessorServer<ProcessService<H>>,
    max_recv_bytes: usize,
    max_send_bytes: usize,
}

impl<H: Handler> Clone for Process<H> {
    fn clone(&self) -> Self {
        Self { service: self.service.clone(), compressed: self.compressed.clone(), ..*self }
    }
}

impl<H: Handler> Process<H> {
    fn new(service: ProcessService<H>, options: &ServerOptions) -> Self {
        let &ServerOptions { max_recv_bytes, max_send_bytes, .. } = options;
        let compressed = ExternalProcessorServer::new(service.clone())
            .accept_compressed(CompressionEncoding::Gzip)
            .max_decoding_message_size(max_recv_bytes)
            .max_encoding_message_size(max_send_bytes);
        Self { service, compressed, max_recv_bytes, max_send_bytes }
    }

    fn answer(self, request: Request<Incoming>) -> Answer {
        let encoding = request.headers().get(GRPC_ENCODING);
        let is_plain = encoding.is_none_or(|encoding| encoding == "identity");
        if !is_plain || request.uri().path() != PROCESS_PATH {
            return answer(self.compressed, request);
        }
        let opened = self.service.open(Messages::new(request.into_body(), self.max_recv_bytes));
        let response = match opened {
            Ok(stream) => grpc::response(Answers::new(stream, self.max_send_bytes)),
            Err(status) => status.into_http(),
        };
        Box::pin(std::future::ready(response))
    }
}

fn answer<S>(mut service: S, request: Request<Incoming>) -> Answer
where
    S: Service<Request<Incoming>, Response = Response<Body>, Error = Infallible> + Send + 'static,
    S::Future: Send + 'static,
{
    let response = service.call(request);
    Box::pin(async move {
        match response.await {
            Ok(response) => response,
            Err(never) => match never {},
        }
    })
}
