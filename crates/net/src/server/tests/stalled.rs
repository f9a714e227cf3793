//! Clients that stop reading, and clients that are merely slow, over streams in memory under a paused clock.

use std::{
    convert::Infallible,
    future::ready,
    pin::Pin,
    task::{Context, Poll},
};

use http_body::Frame;
use http_body_util::BodyExt;
use router_rt::Task;
use tokio::{io::DuplexStream, time::Instant};

use super::*;
use crate::{server::connection, stall::WriteLimit, testing::DropGuard};

const LIMIT: Duration = Duration::from_mins(30);

/// A pause that is just within the limit.
const LONG: Duration = Duration::from_secs(30 * 60 - 1);

/// Bytes on the way in one direction.
const ON_THE_WAY: usize = 1 << 10;

const PIECE: Bytes = Bytes::from_static(&[b'x'; 2 << 10]);

/// A server of one connection.
struct OneConnection {
    tasks: Tasks,
    client: DuplexStream,
    served: Task<()>,
}

/// A body of some pieces.
struct Pieces {
    n_left: usize,
    _guard: DropGuard,
}

impl OneConnection {
    /// Answers `/` with this many pieces and other paths with one; `dropped` tells when the former are gone.
    fn new(n_pieces: usize, dropped: &Dropped) -> Self {
        let (client, stream) = tokio::io::duplex(ON_THE_WAY);
        let tasks = Tasks::new();
        let dropped = dropped.clone();
        let handler = move |request: Request<Incoming>| {
            let is_long = request.uri().path() == "/";
            let (n_left, watch) =
                if is_long { (n_pieces, dropped.clone()) } else { (1, Dropped::default()) };
            ready(Response::new(Pieces { n_left, _guard: watch.guard() }))
        };
        let context = Arc::new(connection::Context {
            options: limited(Limits { stall_timeout: LIMIT, ..Limits::default() }),
            tls: None,
            tasks: tasks.clone(),
            cut: CancellationToken::new(),
            clock: Clock::new(),
            handler,
        });
        let addr = SocketAddr::from(([127, 0, 0, 1], 1));
        let peer = Peer { addr, local: addr, tls: false };
        let stream = WriteLimit::new(stream, LIMIT);
        let served = tasks.spawn("connection", async move {
            connection::serve_stream(stream, None, peer, &context).await;
        });
        Self { tasks, client, served }
    }

    /// An HTTP/2 client whose streams have a window of two pieces.
    async fn h2(self) -> http2::SendRequest<Body> {
        let (sender, driver) = http2::Builder::new(Exec(self.tasks.clone()))
            .initial_stream_window_size(2 * PIECE.len() as u32)
            .handshake(TokioIo::new(self.client))
            .await
            .unwrap();
        self.tasks.spawn("client", driver);
        sender
    }
}

impl http_body::Body for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let Some(n_left) = self.n_left.checked_sub(1) else { return Poll::Ready(None) };
        self.n_left = n_left;
        Poll::Ready(Some(Ok(Frame::data(PIECE))))
    }
}

#[tokio::test(start_paused = true)]
async fn an_http1_client_that_stops_reading_is_cut_at_the_limit() {
    let start = Instant::now();
    let dropped = Dropped::default();
    let mut connection = OneConnection::new(1_000, &dropped);
    connection.client.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    connection.client.read_u8().await.unwrap();
    connection.served.join().await.unwrap();
    assert_eq!(start.elapsed(), LIMIT);
    assert!(dropped.is_set());
}

/// It reads what is left long after the response has ended for the server.
#[tokio::test(start_paused = true)]
async fn a_slow_http1_client_gets_everything() {
    const N_PIECES: usize = 20;
    let start = Instant::now();
    let mut connection = OneConnection::new(N_PIECES, &Dropped::default());
    let request = b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    connection.client.write_all(request).await.unwrap();
    let (mut answer, mut buffer) = (Vec::new(), [0; ON_THE_WAY]);
    loop {
        tokio::time::sleep(LONG).await;
        match connection.client.read(&mut buffer).await.unwrap() {
            0 => break,
            n_read => answer.extend_from_slice(&buffer[..n_read]),
        }
    }
    assert!(answer.ends_with(b"\r\n0\r\n\r\n"));
    assert!(answer.len() > N_PIECES * PIECE.len());
    assert!(start.elapsed() > 2 * N_PIECES as u32 * LONG);
}

#[tokio::test(start_paused = true)]
async fn an_http2_stream_that_nobody_reads_is_reset_and_the_connection_goes_on() {
    let start = Instant::now();
    let dropped = Dropped::default();
    let mut client = OneConnection::new(1_000, &dropped).h2().await;
    let unread = client.send_request(get("http://x/")).await.unwrap();
    while !dropped.is_set() {
        tokio::time::sleep(LIMIT / 10).await;
        let other = client.send_request(get("http://x/other")).await.unwrap();
        assert_eq!(text(other).await.len(), PIECE.len());
    }
    assert_eq!(start.elapsed(), LIMIT);
    let error = unread.into_body().collect().await.unwrap_err();
    assert!(!error.is_incomplete_message(), "{error:?}");
    let other = client.send_request(get("http://x/other")).await.unwrap();
    assert_eq!(text(other).await.len(), PIECE.len());
}

#[tokio::test(start_paused = true)]
async fn a_slow_http2_client_gets_everything() {
    const N_PIECES: usize = 20;
    let start = Instant::now();
    let mut client = OneConnection::new(N_PIECES, &Dropped::default()).h2().await;
    let mut body = client.send_request(get("http://x/")).await.unwrap().into_body();
    let mut n_bytes = 0;
    loop {
        tokio::time::sleep(LONG).await;
        let Some(frame) = body.frame().await else { break };
        n_bytes += frame.unwrap().into_data().unwrap().len();
    }
    assert_eq!(n_bytes, N_PIECES * PIECE.len());
    assert!(start.elapsed() >= N_PIECES as u32 * LONG);
}
