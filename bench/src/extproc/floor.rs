//! The floor under an endpoint picker's cost: an ext-proc server that decides nothing.
//!
//! It waits for the end of the request, answers with one fixed endpoint and echoes both bodies in
//! chunks. It reads no JSON, keeps no state and scrapes nothing, so what it costs per request is what
//! gRPC itself costs; an endpoint picker is measured as a multiple of it. Its health service says that
//! everything is serving.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;

use anyhow::Result;
use bytes::{Bytes, BytesMut};
use futures_core::Stream;
use futures_util::{StreamExt, stream};
use router_proto::ext_proc::external_processor_server::{
    ExternalProcessor, ExternalProcessorServer,
};
use router_proto::ext_proc::processing_request::Request as Phase;
use router_proto::ext_proc::processing_response::Response as Answer;
use router_proto::ext_proc::{
    BodyResponse, CommonResponse, HeaderMutation, HeaderValueOption, ProcessingRequest,
    ProcessingResponse, TrailersResponse,
};
use router_proto::health::health_check_response::ServingStatus;
use router_proto::health::health_server::{Health, HealthServer};
use router_proto::health::{
    HealthCheckRequest, HealthCheckResponse, HealthListRequest, HealthListResponse,
};
use tokio::net::TcpListener;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status, Streaming};

/// The most body bytes in one answer: some Envoys refuse messages of 64 KiB.
const CHUNK: usize = 62_000;
/// The largest message that is read, in bytes.
const MAX_MESSAGE: usize = 16 << 20;
/// The largest body that is gathered, in bytes.
const MAX_BODY: usize = 64 << 20;
/// Receive windows, wide enough never to be what a client waits for. Bytes.
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 8 << 20;

#[derive(Clone, Copy, Debug)]
struct Floor;

/// One stream: what came in and what is still to go out.
struct Exchange {
    inbound: Streaming<ProcessingRequest>,
    pending: VecDeque<ProcessingResponse>,
    body: BytesMut,
}

/// Serves until `shutdown` ends.
///
/// # Errors
/// A listener that fails.
pub async fn serve(listener: TcpListener, shutdown: impl Future<Output = ()>) -> Result<()> {
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    let service = ExternalProcessorServer::new(Floor).max_decoding_message_size(MAX_MESSAGE);
    Server::builder()
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .add_service(service)
        .add_service(HealthServer::new(Floor))
        .serve_with_incoming_shutdown(incoming, shutdown)
        .await?;
    Ok(())
}

#[tonic::async_trait]
impl ExternalProcessor for Floor {
    type ProcessStream =
        Pin<Box<dyn Stream<Item = Result<ProcessingResponse, Status>> + Send + 'static>>;

    async fn process(
        &self,
        request: Request<Streaming<ProcessingRequest>>,
    ) -> Result<Response<Self::ProcessStream>, Status> {
        let exchange = Exchange {
            inbound: request.into_inner(),
            pending: VecDeque::new(),
            body: BytesMut::new(),
        };
        Ok(Response::new(Box::pin(stream::try_unfold(exchange, Exchange::step))))
    }
}

#[tonic::async_trait]
impl Health for Floor {
    type WatchStream =
        Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send + 'static>>;

    async fn check(
        &self,
        _: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        Ok(Response::new(serving()))
    }

    async fn list(
        &self,
        _: Request<HealthListRequest>,
    ) -> Result<Response<HealthListResponse>, Status> {
        let statuses = [(String::new(), serving())].into();
        Ok(Response::new(HealthListResponse { statuses }))
    }

    async fn watch(
        &self,
        _: Request<HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let once_and_no_change = stream::iter([Ok(serving())]).chain(stream::pending());
        Ok(Response::new(Box::pin(once_and_no_change)))
    }
}

fn serving() -> HealthCheckResponse {
    HealthCheckResponse { status: ServingStatus::Serving.into() }
}

impl Exchange {
    async fn step(mut self) -> Result<Option<(ProcessingResponse, Self)>, Status> {
        loop {
            if let Some(answer) = self.pending.pop_front() {
                return Ok(Some((answer, self)));
            }
            let Some(message) = self.inbound.message().await? else { return Ok(None) };
            if let Some(phase) = message.request {
                self.take(phase)?;
            }
        }
    }

    fn take(&mut self, phase: Phase) -> Result<(), Status> {
        match phase {
            Phase::RequestBody(body) => {
                if self.body.len() + body.body.len() > MAX_BODY {
                    return Err(Status::resource_exhausted("the body is too large"));
                }
                self.body.extend_from_slice(&body.body);
                if body.end_of_stream {
                    self.decide();
                }
            }
            Phase::ResponseHeaders(_) => {
                self.push(Answer::ResponseHeaders(CommonResponse::default().into()));
            }
            Phase::ResponseBody(body) => {
                let echo = BodyResponse::streamed(body.body, body.end_of_stream);
                self.push(Answer::ResponseBody(echo));
            }
            Phase::RequestHeaders(headers) if headers.end_of_stream => self.decide(),
            Phase::RequestHeaders(_) => {}
            Phase::RequestTrailers(_) => {
                self.decide();
                self.push(Answer::RequestTrailers(TrailersResponse::default()));
            }
            Phase::ResponseTrailers(_) => {
                self.push(Answer::ResponseTrailers(TrailersResponse::default()));
            }
        }
        Ok(())
    }

    fn decide(&mut self) {
        let destination =
            HeaderValueOption::overwrite("x-gateway-destination-endpoint", "127.0.0.1:8000");
        let common = CommonResponse {
            header_mutation: Some(HeaderMutation {
                set_headers: vec![destination],
                remove_headers: vec![],
            }),
            clear_route_cache: true,
            ..CommonResponse::default()
        };
        self.push(Answer::RequestHeaders(common.into()));
        let mut rest: Bytes = std::mem::take(&mut self.body).freeze();
        while !rest.is_empty() {
            let part = rest.split_to(rest.len().min(CHUNK));
            // With trailers, which come after, the flag says nothing to anybody.
            let is_last = rest.is_empty();
            self.push(Answer::RequestBody(BodyResponse::streamed(part, is_last)));
        }
    }

    fn push(&mut self, answer: Answer) {
        self.pending.push_back(answer.into());
    }
}
