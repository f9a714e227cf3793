//! Making one connection: TCP, TLS, the HTTP handshake, and the task that drives it.

use std::{
    future::Future,
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
};

use hyper::{
    client::conn::{http1, http2},
    rt::Executor,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use router_rt::{Tasks, deadline};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

use super::{Target, UpstreamError, UpstreamOptions};
use crate::{body::Body, stall::WriteLimit};

/// A connection that can carry a request.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) sender: Sender,
    received: Arc<AtomicU64>,
}

#[derive(Debug)]
pub(super) enum Sender {
    Http1(http1::SendRequest<Body>),
    Http2(http2::SendRequest<Body>),
}

/// Counts the bytes that come in, so that a failure can say whether any did.
#[derive(Debug)]
struct Counted<T> {
    inner: T,
    received: Arc<AtomicU64>,
}

/// Runs what HTTP/2 connections start.
#[derive(Clone)]
struct Streams(Tasks);

/// HTTP/2 windows: large enough for bodies of some megabytes on a local network.
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 4 << 20;

/// The least that hyper takes as a buffer bound.
const MIN_BUFFER_BYTES: usize = 64 << 10;

pub(super) async fn connect(
    target: &Target,
    options: &UpstreamOptions,
    tasks: &Tasks,
) -> Result<Connection, UpstreamError> {
    let addr = target.addr;
    let limit = options.connect_timeout;
    let connecting = async {
        let stream = TcpStream::connect(addr)
            .await
            .and_then(|stream| stream.set_nodelay(true).map(|()| stream))
            .map_err(|source| UpstreamError::Connect { addr, source })?;
        let stream = WriteLimit::new(stream, options.stall_timeout);
        let Some(name) = &target.tls_name else {
            return handshake(stream, target, options, tasks).await;
        };
        let tls = options.tls.as_ref().ok_or(UpstreamError::NoTls { addr })?;
        let stream = tls
            .connect(name, stream)
            .await
            .map_err(|source| UpstreamError::Handshake { addr, source })?;
        handshake(stream, target, options, tasks).await
    };
    deadline(limit, connecting).await.unwrap_or(Err(UpstreamError::ConnectTimeout { addr, limit }))
}

async fn handshake<T>(
    stream: T,
    target: &Target,
    options: &UpstreamOptions,
    tasks: &Tasks,
) -> Result<Connection, UpstreamError>
where
    T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let addr = target.addr;
    let failed =
        |source: hyper::Error| UpstreamError::Handshake { addr, source: io::Error::other(source) };
    let received = Arc::new(AtomicU64::new(0));
    let io = TokioIo::new(Counted { inner: stream, received: Arc::clone(&received) });
    let sender = if target.http2 {
        let (sender, driver) = http2::Builder::new(Streams(tasks.clone()))
            .timer(TokioTimer::new())
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_header_list_size(u32::try_from(options.max_header_bytes).unwrap_or(u32::MAX))
            .handshake(io)
            .await
            .map_err(failed)?;
        drive(tasks, driver);
        Sender::Http2(sender)
    } else {
        let (sender, driver) = http1::Builder::new()
            .max_header_size(options.max_header_bytes)
            .max_buf_size(options.max_header_bytes.max(MIN_BUFFER_BYTES))
            .handshake(io)
            .await
            .map_err(failed)?;
        drive(tasks, driver.with_upgrades());
        Sender::Http1(sender)
    };
    Ok(Connection { sender, received })
}

/// Runs until the connection ends; it ends by itself when nobody can send on it any more.
fn drive(tasks: &Tasks, driver: impl Future<Output = Result<(), hyper::Error>> + Send + 'static) {
    tasks.spawn("upstream connection", async move {
        if let Err(error) = driver.await {
            // Whoever waits for a response on it gets the error as well.
            tracing::trace!(%error, "upstream connection ended");
        }
    });
}

impl Connection {
    /// Bytes that came in so far.
    pub(super) fn n_received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    /// A second handle, where the protocol carries several requests at a time.
    pub(super) fn share(&self) -> Option<Connection> {
        match &self.sender {
            Sender::Http1(_) => None,
            Sender::Http2(sender) => Some(Connection {
                sender: Sender::Http2(sender.clone()),
                received: Arc::clone(&self.received),
            }),
        }
    }

    pub(super) fn is_closed(&self) -> bool {
        match &self.sender {
            Sender::Http1(sender) => sender.is_closed(),
            Sender::Http2(sender) => sender.is_closed(),
        }
    }

    pub(super) fn is_ready(&self) -> bool {
        match &self.sender {
            Sender::Http1(sender) => sender.is_ready(),
            Sender::Http2(sender) => sender.is_ready(),
        }
    }
}

impl<F> Executor<F> for Streams
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    fn execute(&self, future: F) {
        self.0.spawn("upstream http2", future);
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Counted<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.inner).poll_read(cx, buf);
        let n_read = buf.filled().len() - before;
        if n_read > 0 {
            self.received.fetch_add(n_read as u64, Ordering::Relaxed);
        }
        polled
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Counted<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }
}
