//! Helpers of this crate's tests: scripted servers and raw clients on loopback.

use std::{future::Future, net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use parking_lot::Mutex;
use router_rt::Tasks;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use crate::{
    body::{Body, BoxError, empty, full},
    server::{Handler, Server, ServerOptions},
    tls::ServerTls,
};

/// A limit on waits that only a broken test reaches.
pub(crate) const SOON: Duration = Duration::from_secs(20);

pub(crate) async fn listen() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").await.unwrap()
}

/// An address that nothing listens on.
pub(crate) async fn nobody() -> SocketAddr {
    listen().await.local_addr().unwrap()
}

pub(crate) async fn serve(
    tasks: &Tasks,
    options: ServerOptions,
    tls: Option<ServerTls>,
    handler: impl Handler,
) -> Server {
    Server::start(listen().await, tls, options, tasks, handler).unwrap()
}

/// Answers with the method, the path and the size of the body.
pub(crate) async fn echo(request: Request<Incoming>) -> Response<Body> {
    let (head, body) = request.into_parts();
    let size = read(body).await.len();
    let text = format!("{} {} {size}", head.method, head.uri.path());
    Response::new(full(text))
}

pub(crate) fn get(path: &str) -> Request<Body> {
    Request::get(path).body(empty()).unwrap()
}

/// Reads a whole body.
pub(crate) async fn read<B>(body: B) -> Bytes
where
    B: http_body::Body<Data = Bytes, Error: Into<BoxError>>,
{
    Limited::new(body, 64 << 20).collect().await.unwrap().to_bytes()
}

pub(crate) async fn text<B>(response: Response<B>) -> String
where
    B: http_body::Body<Data = Bytes, Error: Into<BoxError>>,
{
    String::from_utf8(read(response.into_body()).await.to_vec()).unwrap()
}

/// A server that runs `script` on each connection, with the connection's number from 0 on.
pub(crate) async fn scripted<F, Fut>(tasks: &Tasks, script: F) -> SocketAddr
where
    F: Fn(usize, TcpStream) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = ()> + Send + 'static,
{
    let listener = listen().await;
    let addr = listener.local_addr().unwrap();
    let owner = tasks.clone();
    tasks.spawn_cancellable("scripted server", async move {
        for n in 0.. {
            let (stream, _) = listener.accept().await.unwrap();
            owner.spawn_cancellable("scripted connection", script(n, stream));
        }
    });
    addr
}

/// Reads one request head (no body). None when the client closed the connection first.
pub(crate) async fn read_head(stream: &mut TcpStream) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => return None,
        }
    }
    Some(String::from_utf8(head).unwrap())
}

/// Waits until the other side has closed; drops what it still sends.
pub(crate) async fn wait_for_close(stream: &mut TcpStream) {
    let mut buffer = [0; 1024];
    while !matches!(stream.read(&mut buffer).await, Ok(0) | Err(_)) {}
}

/// Writes, and does not mind when the other side is gone.
pub(crate) async fn say(stream: &mut TcpStream, text: &str) {
    let _gone = stream.write_all(text.as_bytes()).await;
}

/// A flag that is set when its guard is dropped.
#[derive(Clone, Default)]
pub(crate) struct Dropped(Arc<Mutex<bool>>);

pub(crate) struct DropGuard(Dropped);

impl Dropped {
    pub(crate) fn guard(&self) -> DropGuard {
        DropGuard(self.clone())
    }

    pub(crate) fn is_set(&self) -> bool {
        *self.0.lock()
    }
}

impl Drop for DropGuard {
    fn drop(&mut self) {
        *self.0.0.lock() = true;
    }
}

/// Waits until `condition` holds, letting other tasks run.
pub(crate) async fn until(mut condition: impl FnMut() -> bool) {
    tokio::time::timeout(SOON, async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await
    .unwrap();
}
