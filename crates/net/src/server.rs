//! An HTTP server on hyper: HTTP/1.1 and HTTP/2, clear or TLS, with limits and a graceful drain.
//!
//! Connections are tasks of a [`Tasks`] owner. Cancelling the owner drains: no new connections,
//! no keep-alive, requests in progress go on. [`Server::drain`] does that with a deadline, after
//! which connections are cut.

mod accept;
mod activity;
mod connection;
mod cork;
mod sniff;
mod streams;

use std::{future::Future, net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Request, Response};
use hyper::body::Incoming;
use router_rt::{Clock, Tasks};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use self::accept::Places;
use crate::{body::BoxError, stall::DEFAULT_STALL_TIMEOUT, tls::ServerTls};

/// What answers requests. Implemented for functions that return a future of a response.
///
/// The future, or the response body, is dropped when the client goes away.
pub trait Handler: Clone + Send + Sync + 'static {
    type Body: http_body::Body<Data = Bytes, Error: Into<BoxError>> + Send + Unpin + 'static;

    fn handle(
        &self,
        request: Request<Incoming>,
    ) -> impl Future<Output = Response<Self::Body>> + Send;
}

/// How a server listens and what it bears.
#[derive(Clone, Debug)]
pub struct ServerOptions {
    pub limits: Limits,
    pub protocols: Protocols,
    /// HTTP/2 flow control: bytes in flight per stream and per connection.
    pub h2_stream_window: u32,
    pub h2_connection_window: u32,
    /// How often an HTTP/2 peer is pinged; one that does not answer in as long again is cut.
    pub h2_ping_interval: Option<Duration>,
    /// Shown in logs.
    pub name: &'static str,
}

/// The protocols a server speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocols {
    /// Both, told apart by ALPN or the first bytes.
    Auto,
    Http1Only,
    Http2Only,
}

/// Bounds on what clients can make a server hold.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Connections at a time; further ones wait in the kernel's queue.
    pub max_connections: usize,
    /// Bytes of a request head. HTTP/1 answers 431 beyond, HTTP/2 resets the stream.
    pub max_header_bytes: usize,
    /// Headers of a request (HTTP/1).
    pub max_headers: usize,
    /// Open HTTP/2 streams per connection.
    pub max_concurrent_streams: u32,
    /// HTTP/2 streams that a client may have opened and reset before they are looked at. The connection of one
    /// that has more is closed with all its streams, so that resetting costs it more than us.
    pub max_pending_resets: usize,
    /// Time for the TLS handshake, and then from a request's first byte to the end of its head.
    pub header_timeout: Duration,
    /// How long a connection without a request stays open.
    pub idle_timeout: Duration,
    /// How long a client may take nothing of a response: no byte from its connection, which is then closed,
    /// or no piece of a body in an HTTP/2 stream, which is then reset. A slow client is never cut.
    pub stall_timeout: Duration,
}

/// Who sent a request: an extension of every request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    pub addr: SocketAddr,
    /// The address it connected to.
    pub local: SocketAddr,
    pub tls: bool,
}

/// A running server.
#[derive(Debug)]
pub struct Server {
    name: &'static str,
    local_addr: SocketAddr,
    connections: Tasks,
    cut: CancellationToken,
    places: Arc<Places>,
}

// === impl Server ===

impl Server {
    /// Serves `listener` with `handler` until it is drained or `tasks` is cancelled.
    pub fn start<H: Handler>(
        listener: TcpListener,
        tls: Option<ServerTls>,
        options: ServerOptions,
        tasks: &Tasks,
        handler: H,
    ) -> std::io::Result<Self> {
        let local_addr = listener.local_addr()?;
        let connections = tasks.child();
        let cut = CancellationToken::new();
        let places = Arc::new(Places::new(options.limits.max_connections));
        let server = Self {
            name: options.name,
            local_addr,
            connections: connections.clone(),
            cut: cut.clone(),
            places: Arc::clone(&places),
        };
        let context = Arc::new(connection::Context {
            options,
            tls,
            tasks: connections.clone(),
            cut,
            clock: Clock::new(),
            handler,
        });
        connections.spawn("accept", accept::accept_loop(listener, context, places));
        Ok(server)
    }

    /// The address it listens on, with the port that was picked when 0 was asked for.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// Open connections.
    pub fn n_connections(&self) -> usize {
        self.places.n_open()
    }

    /// Stops accepting, lets requests in progress end, and cuts what is left after `limit`.
    /// Returns how many connections were cut.
    pub async fn drain(&self, limit: Duration) -> usize {
        if self.connections.shutdown(limit).await.is_ok() {
            return 0;
        }
        let n_cut = self.n_connections();
        tracing::warn!(server = self.name, n_cut, "connections cut at the end of the drain");
        self.cut.cancel();
        self.connections.ended().await;
        n_cut
    }
}

// === impl Handler ===

impl<F, Fut, B> Handler for F
where
    F: Fn(Request<Incoming>) -> Fut + Clone + Send + Sync + 'static,
    Fut: Future<Output = Response<B>> + Send + 'static,
    B: http_body::Body<Data = Bytes, Error: Into<BoxError>> + Send + Unpin + 'static,
{
    type Body = B;

    fn handle(&self, request: Request<Incoming>) -> impl Future<Output = Response<B>> + Send {
        self(request)
    }
}

// === impl ServerOptions ===

impl ServerOptions {
    /// The defaults, under a name for logs.
    pub fn named(name: &'static str) -> Self {
        Self { name, ..Self::default() }
    }
}

impl Default for ServerOptions {
    fn default() -> Self {
        Self {
            limits: Limits::default(),
            protocols: Protocols::Auto,
            h2_stream_window: 1 << 20,
            h2_connection_window: 4 << 20,
            h2_ping_interval: Some(Duration::from_secs(30)),
            name: "server",
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_connections: 10_000,
            max_header_bytes: 64 << 10,
            max_headers: 128,
            max_concurrent_streams: 1_024,
            max_pending_resets: 20,
            header_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_mins(2),
            stall_timeout: DEFAULT_STALL_TIMEOUT,
        }
    }
}

#[cfg(test)]
mod tests;
