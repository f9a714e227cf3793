//! Listening and connections. Of its own, not `router_net`'s server, because failures are injected below HTTP:
//! connections are reset on purpose, and a whole server can vanish and come back on its port.

use std::{
    convert::Infallible,
    future::Future,
    io,
    net::SocketAddr,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use http::{Request, Response};
use hyper::{body::Incoming, rt::Executor, service::service_fn};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::conn::auto,
};
use router_net::Body;
use router_rt::Tasks;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{Notify, Semaphore},
};

use super::{route, state::State};

/// Connections of one server at a time; further ones wait in the kernel's queue.
const MAX_CONNECTIONS: usize = 10_000;
const MAX_STREAMS: u32 = 10_000;
const MAX_HEADER_BYTES: usize = 256 << 10;
/// How long a connection may take to send a request's head.
const HEADER_TIMEOUT: Duration = Duration::from_mins(1);
/// Wait after a failed accept (out of descriptors), so that it does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// One server's listening and connections, from its start to its death.
#[derive(Debug)]
pub(crate) struct Incarnation {
    tasks: Tasks,
    killed: Arc<AtomicBool>,
}

/// Lets a handler reset the connection it answers on.
#[derive(Debug)]
pub(crate) struct Control {
    reset: AtomicBool,
    now: Notify,
    killed: Arc<AtomicBool>,
}

/// A socket that is reset, not closed, when its control says so.
struct Socket {
    inner: TcpStream,
    control: Arc<Control>,
}

#[derive(Clone)]
struct Spawner(Tasks);

impl Incarnation {
    /// Serves `listener` until killed or until `tasks` is cancelled.
    pub(crate) fn start(listener: TcpListener, state: Arc<State>, tasks: &Tasks) -> Self {
        let tasks = tasks.child();
        let killed = Arc::new(AtomicBool::new(false));
        let accept = accept_loop(listener, state, tasks.clone(), Arc::clone(&killed));
        tasks.spawn_cancellable("sim accept", accept);
        Self { tasks, killed }
    }

    /// Resets all connections and stops listening: what a client sees of a process that was killed.
    pub(crate) async fn kill(self) {
        self.killed.store(true, Ordering::SeqCst);
        self.tasks.cancel();
        self.tasks.ended().await;
    }
}

/// Binds an address, with the port that was chosen when 0 was asked for.
pub(crate) async fn bind(address: SocketAddr) -> io::Result<(TcpListener, SocketAddr)> {
    let listener = TcpListener::bind(address).await?;
    let address = listener.local_addr()?;
    Ok((listener, address))
}

async fn accept_loop(
    listener: TcpListener,
    state: Arc<State>,
    tasks: Tasks,
    killed: Arc<AtomicBool>,
) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        // The semaphore is never closed.
        let place = Arc::clone(&places).acquire_owned().await.ok();
        match listener.accept().await {
            Ok((stream, _)) => {
                let control = Control {
                    reset: AtomicBool::new(false),
                    now: Notify::new(),
                    killed: Arc::clone(&killed),
                };
                let (state, inner_tasks) = (Arc::clone(&state), tasks.clone());
                tasks.spawn_cancellable("sim connection", async move {
                    let _place = place;
                    serve(stream, Arc::new(control), state, inner_tasks).await;
                });
            }
            Err(error) => {
                tracing::debug!(%error, "cannot accept");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn serve(stream: TcpStream, control: Arc<Control>, state: Arc<State>, tasks: Tasks) {
    if stream.set_nodelay(true).is_err() {
        return;
    }
    let mut builder = auto::Builder::new(Spawner(tasks));
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        // Also the bound of what is written ahead of a slow client; with `pipeline_flush` there would be none.
        .max_buf_size(MAX_HEADER_BYTES);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(MAX_HEADER_BYTES as u32);
    let handler_control = Arc::clone(&control);
    let service = service_fn(move |request: Request<Incoming>| {
        let (state, control) = (Arc::clone(&state), Arc::clone(&handler_control));
        async move { Ok::<Response<Body>, Infallible>(route::handle(state, control, request).await) }
    });
    let socket = TokioIo::new(Socket { inner: stream, control: Arc::clone(&control) });
    let connection = pin!(builder.serve_connection(socket, service));
    tokio::select! {
        biased;
        () = control.now.notified() => {}
        ended = connection => if let Err(error) = ended {
            tracing::debug!(%error, "connection ended");
        },
    }
}

impl Control {
    /// Resets the connection. The caller's task is dropped with it.
    pub(crate) async fn reset(&self) {
        self.reset.store(true, Ordering::SeqCst);
        self.now.notify_one();
        std::future::pending::<()>().await;
    }
}

impl<F> Executor<F> for Spawner
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, stream: F) {
        self.0.spawn_cancellable("sim stream", stream);
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if self.control.reset.load(Ordering::SeqCst) || self.control.killed.load(Ordering::SeqCst) {
            // A socket that cannot be reset is closed.
            self.inner.set_zero_linger().ok();
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

impl AsyncWrite for Socket {
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
