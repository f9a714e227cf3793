//! The accept loop of the HTTP servers in here.

use std::convert::Infallible;
use std::future::Future;
use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Response};
use hyper::body::{Body, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use router_rt::Tasks;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

/// Connections that one listener serves at a time; more wait in the kernel's queue.
const MAX_CONNECTIONS: usize = 4096;

/// Serves every connection of `listener` with `handle` until `tasks` is cancelled.
pub(super) async fn serve<H, F, B>(listener: TcpListener, tasks: Tasks, handle: H)
where
    H: Fn(Request<Incoming>) -> F + Clone + Send + 'static,
    F: Future<Output = Response<B>> + Send + 'static,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let room = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let Ok(permit) = Arc::clone(&room).acquire_owned().await else { return };
        let tcp = tokio::select! {
            biased;
            () = tasks.token().cancelled() => return,
            accepted = listener.accept() => match accepted {
                Ok((tcp, _peer)) => tcp,
                // Out of file descriptors, or a connection that died in the queue: others go on.
                Err(_) => {
                    tokio::task::yield_now().await;
                    continue;
                }
            },
        };
        let handle = handle.clone();
        tasks.spawn_cancellable("connection", async move {
            let _permit = permit;
            if tcp.set_nodelay(true).is_err() {
                return;
            }
            let service = service_fn(move |request| {
                let answer = handle(request);
                async move { Ok::<_, Infallible>(answer.await) }
            });
            // An error here is a client that went away.
            http1::Builder::new().serve_connection(TokioIo::new(tcp), service).await.ok();
        });
    }
}
