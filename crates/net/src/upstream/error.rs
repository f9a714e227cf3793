//! How a request to a model server can fail before its response head.

use std::{fmt, io, net::SocketAddr, time::Duration};

use http::Request;
use thiserror::Error;

use crate::body::Body;

/// A failure, and the request if it certainly never left this process.
pub struct SendError {
    pub error: UpstreamError,
    pub request: Option<Request<Body>>,
}

/// What went wrong, and how far the request came.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum UpstreamError {
    /// No connection: nothing was sent.
    #[error("cannot connect to {addr}: {source}")]
    Connect { addr: SocketAddr, source: io::Error },
    /// No connection in time: nothing was sent.
    #[error("cannot connect to {addr} within {limit:?}")]
    ConnectTimeout { addr: SocketAddr, limit: Duration },
    /// No TLS or HTTP/2 session: nothing of the request was sent.
    #[error("handshake with {addr} failed: {source}")]
    Handshake { addr: SocketAddr, source: io::Error },
    /// The connection ended before a response head.
    #[error("{addr} ended the connection before its response: {source}")]
    NoResponse {
        addr: SocketAddr,
        /// The connection had carried an earlier request.
        reused: bool,
        /// Some bytes came back, though no whole head.
        received: bool,
        source: hyper::Error,
    },
    /// The server took no byte of the request for so long that the connection was closed; what it took
    /// before may be at work.
    #[error("{addr} took nothing of the request for {limit:?}")]
    Stalled { addr: SocketAddr, limit: Duration },
    /// No response head in time; the request may be at work.
    #[error("no response from {addr} within {limit:?}")]
    HeadTimeout { addr: SocketAddr, limit: Duration },
    /// What came back is not an HTTP response, or its head is over the bound.
    #[error("{addr} sent an invalid response: {source}")]
    BadResponse { addr: SocketAddr, source: hyper::Error },
    /// The request cannot be written as HTTP.
    #[error("the request cannot be sent: {reason}")]
    BadRequest { reason: String },
    /// The target wants TLS and the client has none.
    #[error("{addr} wants TLS, which is not configured")]
    NoTls { addr: SocketAddr },
}

impl UpstreamError {
    /// The endpoint could not be reached; the request was not sent.
    pub fn is_connect(&self) -> bool {
        match self {
            Self::Connect { .. } | Self::ConnectTimeout { .. } | Self::Handshake { .. } => true,
            Self::NoResponse { .. }
            | Self::Stalled { .. }
            | Self::HeadTimeout { .. }
            | Self::BadResponse { .. }
            | Self::BadRequest { .. }
            | Self::NoTls { .. } => false,
        }
    }

    /// The endpoint, not the request or the configuration, is at fault.
    pub fn is_endpoint_fault(&self) -> bool {
        !matches!(self, Self::BadRequest { .. } | Self::NoTls { .. })
    }

    /// A kept connection was closed by the server at the moment it was used again.
    pub fn is_stale_connection(&self) -> bool {
        matches!(self, Self::NoResponse { reused: true, received: false, .. })
    }
}

impl fmt::Debug for SendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SendError")
            .field("error", &self.error)
            .field("unsent", &self.request.is_some())
            .finish()
    }
}

impl fmt::Display for SendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl std::error::Error for SendError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.error)
    }
}
