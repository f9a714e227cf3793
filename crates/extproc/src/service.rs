//! The `ExternalProcessor` service for any handler, with its bounds and stream metrics.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures_core::Stream;
use router_core::Stamp;
use router_proto::ext_proc::{ProcessingRequest, external_processor_server::ExternalProcessor};
use router_rt::Clock;
use router_telemetry::router::ExtProcMetrics;
use tonic::{Code, Request, Response, Status, Streaming};

use crate::{
    handler::{Handler, Opening},
    stream::ProcessStream,
};

/// Bounds on streams.
#[derive(Clone, Copy, Debug)]
pub struct StreamLimits {
    /// Streams at once over all connections; more are refused with `RESOURCE_EXHAUSTED`.
    pub max_streams: usize,
    /// A stream without a message for this long is ended.
    pub idle_timeout: Duration,
}

impl Default for StreamLimits {
    fn default() -> Self {
        Self { max_streams: 65_536, idle_timeout: Duration::from_hours(1) }
    }
}

/// The service. Cheap to clone.
pub struct ProcessService<H> {
    handler: Arc<H>,
    limits: StreamLimits,
    open: Arc<AtomicUsize>,
    observer: Option<(ExtProcMetrics, Clock)>,
}

impl<H> Clone for ProcessService<H> {
    fn clone(&self) -> Self {
        Self {
            handler: Arc::clone(&self.handler),
            limits: self.limits,
            open: Arc::clone(&self.open),
            observer: self.observer.clone(),
        }
    }
}

impl<H: Handler> ProcessService<H> {
    pub fn new(handler: H, limits: StreamLimits) -> Self {
        Self { handler: Arc::new(handler), limits, open: Arc::default(), observer: None }
    }

    /// Records streams in these families.
    pub fn observed(mut self, metrics: ExtProcMetrics, clock: Clock) -> Self {
        self.observer = Some((metrics, clock));
        self
    }

    /// Streams that are open.
    pub fn n_open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// Opens a stream on messages, wherever they come from. It is refused when too many are open.
    pub fn open<M>(&self, messages: M) -> Result<ProcessStream<M, H::Session>, Status>
    where
        M: Stream<Item = Result<ProcessingRequest, Status>> + Unpin,
    {
        if self.open.fetch_add(1, Ordering::Relaxed) >= self.limits.max_streams {
            self.open.fetch_sub(1, Ordering::Relaxed);
            return Err(Status::resource_exhausted("too many streams are open"));
        }
        let guard = StreamGuard::open(&self.open, self.observer.as_ref());
        let session = self.handler.open(Opening);
        Ok(ProcessStream::new(messages, session, self.limits.idle_timeout, guard))
    }
}

type Messages = Pin<Box<Streaming<ProcessingRequest>>>;

#[tonic::async_trait]
impl<H: Handler> ExternalProcessor for ProcessService<H> {
    type ProcessStream = ProcessStream<Messages, H::Session>;

    async fn process(
        &self,
        request: Request<Streaming<ProcessingRequest>>,
    ) -> Result<Response<Self::ProcessStream>, Status> {
        self.open(Box::pin(request.into_inner())).map(Response::new)
    }
}

/// Counts a stream as open until it is dropped.
pub(crate) struct StreamGuard {
    open: Arc<AtomicUsize>,
    observer: Option<(ExtProcMetrics, Clock, Stamp)>,
    /// How the stream ended, if it has.
    code: Option<Code>,
}

impl StreamGuard {
    fn open(open: &Arc<AtomicUsize>, observer: Option<&(ExtProcMetrics, Clock)>) -> Self {
        let observer = observer.map(|(metrics, clock)| {
            metrics.streams_inflight.inc();
            (metrics.clone(), *clock, clock.now())
        });
        Self { open: Arc::clone(open), observer, code: None }
    }

    /// Notes with which status the stream ends; what comes after its end does not count.
    pub(crate) fn finished(&mut self, code: Code) {
        self.code.get_or_insert(code);
    }
}

impl Drop for StreamGuard {
    fn drop(&mut self) {
        self.open.fetch_sub(1, Ordering::Relaxed);
        if let Some((metrics, clock, opened)) = &self.observer {
            metrics.streams_inflight.dec();
            // A stream that is dropped before its end was cancelled by the peer.
            let code = self.code.unwrap_or(Code::Cancelled);
            metrics.streams.with([code_name(code)]).inc();
            metrics.stream_duration.observe_duration(clock.now().since(*opened));
        }
    }
}

/// Go's name of a gRPC status.
fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "Canceled",
        Code::InvalidArgument => "InvalidArgument",
        Code::DeadlineExceeded => "DeadlineExceeded",
        Code::NotFound => "NotFound",
        Code::AlreadyExists => "AlreadyExists",
        Code::PermissionDenied => "PermissionDenied",
        Code::ResourceExhausted => "ResourceExhausted",
        Code::FailedPrecondition => "FailedPrecondition",
        Code::Aborted => "Aborted",
        Code::OutOfRange => "OutOfRange",
        Code::Unimplemented => "Unimplemented",
        Code::Internal => "Internal",
        Code::Unavailable => "Unavailable",
        Code::DataLoss => "DataLoss",
        Code::Unauthenticated => "Unauthenticated",
        Code::Unknown => "Unknown",
    }
}
