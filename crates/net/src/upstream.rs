//! The HTTP client for model servers: pooled connections, typed failures, cancellation at once.
//!
//! Each failure says how far the request came, so that the caller knows whether another endpoint
//! may be tried. Dropping the future of [`Upstream::send`], or the response body before its end,
//! closes the connection (HTTP/1) or resets the stream (HTTP/2).

mod body;
mod connect;
mod error;
mod pool;

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use http::{
    HeaderValue, Request, Response, Uri, Version, header,
    uri::{Authority, Parts, PathAndQuery, Scheme},
};
use hyper::{body::Incoming, client::conn::TrySendError};
use router_rt::{Clock, Tasks, deadline};

pub use body::UpstreamBody;
pub use error::{SendError, UpstreamError};

use self::{
    connect::{Connection, Sender},
    pool::Pool,
};
use crate::{
    body::Body,
    stall::{DEFAULT_STALL_TIMEOUT, Stalled},
    tls::ClientTls,
};

/// A client with a pool of connections. Cheap to clone; clones share the pool.
#[derive(Clone, Debug)]
pub struct Upstream {
    shared: Arc<Shared>,
}

/// How upstream connections are made and kept.
#[derive(Clone, Debug)]
pub struct UpstreamOptions {
    /// Time for TCP and TLS handshakes together.
    pub connect_timeout: Duration,
    /// Time from sending a request to its response head; none means as long as the caller waits.
    pub head_timeout: Option<Duration>,
    /// How long a server may take no byte of what is sent before its connection is closed. A server may
    /// leave a body unread while requests before it are at work, so the default only ends what hangs.
    pub stall_timeout: Duration,
    /// Idle connections kept per target; beyond it the oldest is closed.
    pub max_idle_per_target: usize,
    /// How long a connection is kept without a request. Below the keep-alive of common model
    /// servers (uvicorn closes after 5 s), so that few requests meet a closing connection.
    pub idle_timeout: Duration,
    /// Bytes of a response head; more is an error.
    pub max_header_bytes: usize,
    /// TLS, for targets that ask for it.
    pub tls: Option<ClientTls>,
}

/// Where a request is sent, and how.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Target {
    addr: SocketAddr,
    /// The name that the server's certificate must show; none means no TLS.
    tls_name: Option<Arc<str>>,
    http2: bool,
}

#[derive(Debug)]
struct Shared {
    options: UpstreamOptions,
    pool: Arc<Pool>,
    /// Owns the tasks that drive connections. Not cancelled to drain: responses go on.
    tasks: Tasks,
    n_connects: AtomicU64,
}

// === impl Target ===

impl Target {
    /// HTTP/1.1 without TLS.
    pub fn clear(addr: SocketAddr) -> Self {
        Self { addr, tls_name: None, http2: false }
    }

    /// HTTP/1.1 with TLS to a server that proves to be `name`.
    pub fn tls(addr: SocketAddr, name: &str) -> Self {
        Self { addr, tls_name: Some(name.into()), http2: false }
    }

    /// The same with HTTP/2, which the server must speak without being asked (h2c) when there is
    /// no TLS.
    pub fn http2(mut self) -> Self {
        self.http2 = true;
        self
    }

    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Gives the request the form that the protocol wants: origin form for HTTP/1, a whole URI for
    /// HTTP/2. A missing `host` is filled in.
    fn prepare(&self, request: &mut Request<Body>) -> Result<(), UpstreamError> {
        let path = request.uri().path_and_query().cloned();
        let path = path.unwrap_or_else(|| PathAndQuery::from_static("/"));
        let bad = |source: http::Error| UpstreamError::BadRequest { reason: source.to_string() };
        if !self.http2 {
            *request.version_mut() = Version::HTTP_11;
            if request.uri().authority().is_some() {
                *request.uri_mut() = Uri::from(path);
            }
            if !request.headers().contains_key(header::HOST) {
                let host = HeaderValue::try_from(self.addr.to_string());
                request.headers_mut().insert(header::HOST, host.map_err(|e| bad(e.into()))?);
            }
            return Ok(());
        }
        *request.version_mut() = Version::HTTP_2;
        // HTTP/2 carries the host in the URI's authority.
        let authority = match request.headers_mut().remove(header::HOST) {
            Some(host) => Authority::try_from(host.as_bytes()),
            None => Authority::try_from(self.addr.to_string().as_str()),
        };
        let mut parts = Parts::default();
        parts.scheme = Some(if self.tls_name.is_some() { Scheme::HTTPS } else { Scheme::HTTP });
        parts.authority = Some(authority.map_err(|e| bad(e.into()))?);
        parts.path_and_query = Some(path);
        *request.uri_mut() = Uri::from_parts(parts).map_err(|e| bad(e.into()))?;
        Ok(())
    }
}

// === impl Upstream ===

impl Upstream {
    /// A client whose connections are tasks of `tasks`. When that is cancelled, idle connections
    /// are closed and responses in progress go on to their end.
    pub fn new(options: UpstreamOptions, tasks: &Tasks) -> Self {
        let pool =
            Arc::new(Pool::new(options.max_idle_per_target, options.idle_timeout, Clock::new()));
        let tasks = tasks.child();
        tasks.spawn("upstream pool", pool::sweep(Arc::clone(&pool), tasks.token().clone()));
        Self { shared: Arc::new(Shared { options, pool, tasks, n_connects: AtomicU64::new(0) }) }
    }

    /// Sends a request once and waits for the response head.
    ///
    /// A request that an idle connection did not take, because the server had closed it, goes to
    /// another one. When the connection may have taken it, the error says so, and the request is
    /// gone with it: [`Upstream::send_replayable`] tries that once more.
    pub async fn send(
        &self,
        target: &Target,
        request: Request<Body>,
    ) -> Result<Response<UpstreamBody>, SendError> {
        let mut request = request;
        if let Err(error) = target.prepare(&mut request) {
            return Err(SendError { error, request: Some(request) });
        }
        while let Some(connection) = self.shared.pool.take(target).await {
            match self.exchange(target, connection, true, request).await {
                // Never left this process, so another connection may have it.
                Err(SendError {
                    error: UpstreamError::NoResponse { .. },
                    request: Some(unsent),
                }) => {
                    request = unsent;
                }
                outcome => return outcome,
            }
        }
        self.send_anew(target, request).await
    }

    /// Sends what `request` makes; when an idle connection turns out to be closed and nothing came
    /// back over it, makes the request once more and sends it on a new connection.
    ///
    /// Only for requests that do no harm when a server sees them twice, or whose caller accepts it.
    pub async fn send_replayable(
        &self,
        target: &Target,
        mut request: impl FnMut() -> Request<Body>,
    ) -> Result<Response<UpstreamBody>, SendError> {
        match self.send(target, request()).await {
            Err(SendError { error, .. }) if error.is_stale_connection() => {
                let mut again = request();
                if let Err(error) = target.prepare(&mut again) {
                    return Err(SendError { error, request: Some(again) });
                }
                self.send_anew(target, again).await
            }
            outcome => outcome,
        }
    }

    /// Closes idle connections to a target that is gone.
    pub fn forget(&self, target: &Target) {
        self.shared.pool.forget(target);
    }

    /// Connections made so far.
    pub fn n_connects(&self) -> u64 {
        self.shared.n_connects.load(Ordering::Relaxed)
    }

    /// Idle connections at the moment.
    pub fn n_idle(&self) -> usize {
        self.shared.pool.n_idle()
    }

    async fn send_anew(
        &self,
        target: &Target,
        request: Request<Body>,
    ) -> Result<Response<UpstreamBody>, SendError> {
        self.shared.n_connects.fetch_add(1, Ordering::Relaxed);
        // Boxed: connecting is rare, and its state (TLS above all) would make every request's future large.
        match Box::pin(connect::connect(target, &self.shared.options, &self.shared.tasks)).await {
            Ok(connection) => self.exchange(target, connection, false, request).await,
            Err(error) => Err(SendError { error, request: Some(request) }),
        }
    }

    async fn exchange(
        &self,
        target: &Target,
        mut connection: Connection,
        reused: bool,
        request: Request<Body>,
    ) -> Result<Response<UpstreamBody>, SendError> {
        let received_before = connection.n_received();
        let sending = async {
            match &mut connection.sender {
                Sender::Http1(sender) => sender.try_send_request(request).await,
                Sender::Http2(sender) => sender.try_send_request(request).await,
            }
        };
        let sent = match self.shared.options.head_timeout {
            None => sending.await,
            Some(limit) => match deadline(limit, sending).await {
                Ok(sent) => sent,
                Err(_) => {
                    let error = UpstreamError::HeadTimeout { addr: target.addr, limit };
                    return Err(SendError { error, request: None });
                }
            },
        };
        match sent {
            Ok(response) => Ok(self.keep_until_end(target, connection, response)),
            Err(mut failed) => {
                let request = TrySendError::take_message(&mut failed);
                let received = connection.n_received() != received_before;
                let source = failed.into_error();
                let addr = target.addr;
                let error = match Stalled::behind(&source) {
                    Some(Stalled { limit }) => UpstreamError::Stalled { addr, limit },
                    None if source.is_parse() => UpstreamError::BadResponse { addr, source },
                    None => UpstreamError::NoResponse { addr, reused, received, source },
                };
                Err(SendError { error, request })
            }
        }
    }

    fn keep_until_end(
        &self,
        target: &Target,
        connection: Connection,
        response: Response<Incoming>,
    ) -> Response<UpstreamBody> {
        let lease = self.shared.pool.lease(target, connection);
        response.map(|incoming| UpstreamBody::new(incoming, lease))
    }
}

impl Default for UpstreamOptions {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(5),
            head_timeout: None,
            stall_timeout: DEFAULT_STALL_TIMEOUT,
            max_idle_per_target: 64,
            idle_timeout: Duration::from_secs(4),
            max_header_bytes: 64 << 10,
            tls: None,
        }
    }
}

#[cfg(test)]
mod tests;
