//! One connection from its acceptance to its end.

use std::{
    convert::Infallible,
    future::{Future, poll_fn},
    pin::{Pin, pin},
    sync::Arc,
    task::{Context as PollContext, ready},
};

use http::Request;
use hyper::{
    body::Incoming,
    server::conn::{http1, http2},
    service::{HttpService, service_fn},
};
use hyper_util::rt::{TokioIo, TokioTimer};
use router_rt::{Clock, Tasks, deadline};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tokio_util::sync::CancellationToken;

use super::{
    Handler, Peer, Protocols, ServerOptions,
    activity::{Activity, Overdue},
    cork::{Corked, cork},
    sniff::Watched,
    streams::{Counted, Streams},
};
use crate::{stall::WriteLimit, tls::ServerTls};

/// What all connections of a server share.
pub(super) struct Context<H> {
    pub(super) options: ServerOptions,
    pub(super) tls: Option<ServerTls>,
    pub(super) tasks: Tasks,
    /// Cancelled when connections must end at once.
    pub(super) cut: CancellationToken,
    pub(super) clock: Clock,
    pub(super) handler: H,
}

/// A connection that can be asked to end in order.
trait Graceful: Future<Output = hyper::Result<()>> {
    fn end_in_order(self: Pin<&mut Self>);
}

/// Serves one connection until it ends, drains or is cut.
pub(super) async fn serve<H: Handler>(stream: TcpStream, peer: Peer, context: Arc<Context<H>>) {
    // Small frames of a stream must not wait for more; a socket that refuses is about to fail.
    if stream.set_nodelay(true).is_err() {
        return;
    }
    let stream = WriteLimit::new(stream, context.options.limits.stall_timeout);
    let cut = context.cut.clone();
    let served = async {
        match &context.tls {
            None => serve_stream(stream, None, peer, &context).await,
            Some(tls) => {
                let limit = context.options.limits.header_timeout;
                let handshake = tokio::select! {
                    biased;
                    handshake = deadline(limit, tls.accept(stream)) => handshake,
                    () = context.tasks.token().cancelled() => return,
                };
                match handshake {
                    Ok(Ok(stream)) => {
                        let alpn = stream.get_ref().1.alpn_protocol();
                        let http2 = alpn.map(|protocol| protocol == b"h2");
                        serve_stream(stream, http2, peer, &context).await;
                    }
                    Ok(Err(error)) => tracing::debug!(peer = %peer.addr, %error, "tls handshake"),
                    Err(elapsed) => tracing::debug!(peer = %peer.addr, %elapsed, "tls handshake"),
                }
            }
        }
    };
    tokio::select! {
        biased;
        () = cut.cancelled() => {}
        () = served => {}
    }
}

/// `http2` is what ALPN said, if it said anything.
pub(super) async fn serve_stream<H, T>(
    stream: T,
    http2: Option<bool>,
    peer: Peer,
    context: &Arc<Context<H>>,
) where
    H: Handler,
    T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let limits = &context.options.limits;
    let activity = Arc::new(Activity::new(context.clock));
    let mut stream = Watched::new(stream, Arc::clone(&activity));
    let http2 = match (context.options.protocols, http2) {
        (Protocols::Http1Only, _) => false,
        (Protocols::Http2Only, _) => true,
        (Protocols::Auto, Some(http2)) => http2,
        (Protocols::Auto, None) => {
            let limit = limits.header_timeout.min(limits.idle_timeout);
            let drain = context.tasks.token();
            tokio::select! {
                biased;
                known = deadline(limit, stream.is_http2()) => match known {
                    Ok(Ok(http2)) => http2,
                    Ok(Err(_)) | Err(_) => return,
                },
                // Nothing was asked yet.
                () = drain.cancelled() => return,
            }
        }
    };
    let handler = Arc::clone(context);
    let on_request = Arc::clone(&activity);
    let service = service_fn(move |mut request: Request<Incoming>| {
        let counted = on_request.on_request();
        request.extensions_mut().insert(peer);
        let context = Arc::clone(&handler);
        async move {
            let response = context.handler.handle(request).await;
            Ok::<_, Infallible>(response.map(|body| Counted::new(body, counted)))
        }
    });
    let ended = if http2 {
        activity.is_http2();
        let (stream, cork) = cork(stream);
        let connection = http2_builder(context).serve_connection(TokioIo::new(stream), service);
        watch(connection, |cx| cork.send(cx), &activity, context).await
    } else {
        let io = TokioIo::new(stream);
        let connection = http1_builder(context).serve_connection(io, service).with_upgrades();
        watch(connection, |_| (), &activity, context).await
    };
    if let Err(error) = ended {
        tracing::debug!(peer = %peer.addr, %error, "connection ended");
    }
}

fn http1_builder<H>(context: &Context<H>) -> http1::Builder {
    let limits = &context.options.limits;
    let mut builder = http1::Builder::new();
    builder
        .max_header_size(limits.max_header_bytes)
        // The buffer also carries bodies, so it does not shrink with the header bound.
        .max_buf_size(limits.max_header_bytes.max(MIN_BUFFER_BYTES))
        .max_headers(limits.max_headers)
        // Our own watch tells the wait for a head from the wait for a request.
        .header_read_timeout(None);
    builder
}

fn http2_builder<H>(context: &Context<H>) -> http2::Builder<Streams> {
    let (options, limits) = (&context.options, &context.options.limits);
    let streams = Streams {
        tasks: context.tasks.clone(),
        cut: context.cut.clone(),
        stall_timeout: limits.stall_timeout,
    };
    let mut builder = http2::Builder::new(streams);
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(limits.max_concurrent_streams)
        .max_pending_accept_reset_streams(limits.max_pending_resets)
        .max_header_list_size(u32::try_from(limits.max_header_bytes).unwrap_or(u32::MAX))
        .initial_stream_window_size(options.h2_stream_window)
        .initial_connection_window_size(options.h2_connection_window)
        .keep_alive_interval(options.h2_ping_interval)
        .keep_alive_timeout(options.h2_ping_interval.unwrap_or_default());
    builder
}

/// The least that hyper takes as a buffer bound.
const MIN_BUFFER_BYTES: usize = 64 << 10;

/// Drives a connection, drains it when the server drains, and closes it when it is silent. `after_turn`
/// is called after each turn of the connection.
async fn watch<C: Graceful, H>(
    connection: C,
    mut after_turn: impl FnMut(&mut PollContext<'_>),
    activity: &Activity,
    context: &Context<H>,
) -> hyper::Result<()> {
    let mut connection = pin!(connection);
    let mut pause = pin!(tokio::task::yield_now());
    let drain = context.tasks.token();
    let mut draining = false;
    loop {
        let look_again = match activity.check(&context.options.limits) {
            Ok(stamp) => context.clock.instant(stamp),
            Err(Overdue::Head) => return Ok(()),
            Err(Overdue::Idle) if draining => return Ok(()),
            Err(Overdue::Idle) => {
                // HTTP/2 clients are told, so that a request sent at this moment is sent again.
                connection.as_mut().end_in_order();
                draining = true;
                tokio::time::Instant::now() + context.options.limits.header_timeout
            }
        };
        let turn = poll_fn(|cx| {
            // Streams that are ready go first, so that one turn sends for all of them.
            if activity.n_requests() > 1 {
                ready!(pause.as_mut().poll(cx));
                pause.set(tokio::task::yield_now());
            }
            let polled = connection.as_mut().poll(cx);
            after_turn(cx);
            polled
        });
        tokio::select! {
            biased;
            ended = turn => return ended,
            () = drain.cancelled(), if !draining => {
                connection.as_mut().end_in_order();
                draining = true;
            }
            () = tokio::time::sleep_until(look_again) => {}
        }
    }
}

// === impl Graceful ===

impl<T, S, B> Graceful for http1::UpgradeableConnection<TokioIo<Watched<T>>, S>
where
    T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    S: HttpService<Incoming, ResBody = B>,
    S::Error: Into<crate::body::BoxError>,
    B: http_body::Body + 'static,
    B::Error: Into<crate::body::BoxError>,
{
    fn end_in_order(self: Pin<&mut Self>) {
        self.graceful_shutdown();
    }
}

impl<T, S, B> Graceful for http2::Connection<TokioIo<Corked<Watched<T>>>, S, Streams>
where
    T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    S: HttpService<Incoming, ResBody = B>,
    S::Error: Into<crate::body::BoxError>,
    S::Future: Send + 'static,
    B: http_body::Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<crate::body::BoxError>,
{
    fn end_in_order(self: Pin<&mut Self>) {
        self.graceful_shutdown();
    }
}
