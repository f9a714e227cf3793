//! A client of few words, and servers to talk to.

use std::{net::SocketAddr, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use router_rt::{Task, Tasks};
use router_sim::server::{RunningSim, SimConfig, SimServer, run};
use serde_json::{Value, json};
use tokio::{net::TcpStream, time::Instant};

/// Servers and the tasks that run them.
pub(crate) struct Sim {
    pub(crate) running: RunningSim,
    tasks: Tasks,
    clients: Tasks,
}

/// A whole answer.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

/// An answer whose body is still to come, and the connection it comes on.
pub(crate) struct Stream {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Incoming,
    connection: Task<()>,
    tasks: Tasks,
}

/// Starts servers from a document; ports are free ones.
pub(crate) async fn sim(document: Value) -> Sim {
    let mut document = document.as_object().unwrap().clone();
    document.insert("port".into(), json!(0));
    let tasks = Tasks::new();
    let running = run(SimConfig::from_document(document).unwrap(), &tasks).await.unwrap();
    Sim { running, clients: tasks.child(), tasks }
}

/// A document of servers that answer at once.
pub(crate) fn instant() -> Value {
    json!({"time-factor": 0})
}

impl Sim {
    pub(crate) fn server(&self) -> &SimServer {
        &self.running.servers()[0]
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.server().address()
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> Reply {
        self.send(Method::POST, path, &[], body.to_string().into_bytes()).await
    }

    pub(crate) async fn get(&self, path: &str) -> Reply {
        self.send(Method::GET, path, &[], Vec::new()).await
    }

    pub(crate) async fn send(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Vec<u8>,
    ) -> Reply {
        let stream = self.open(self.address(), method, path, headers, body).await.unwrap();
        let (status, headers) = (stream.status, stream.headers.clone());
        Reply { status, headers, body: stream.body.collect().await.unwrap().to_bytes() }
    }

    /// A stream's answer to a posted body.
    pub(crate) async fn stream(&self, path: &str, body: &Value) -> Stream {
        let body = body.to_string().into_bytes();
        self.open(self.address(), Method::POST, path, &[], body).await.unwrap()
    }

    pub(crate) async fn open(
        &self,
        address: SocketAddr,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Vec<u8>,
    ) -> Result<Stream, Box<dyn std::error::Error>> {
        let socket = TcpStream::connect(address).await?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(socket)).await?;
        let tasks = self.clients.child();
        let connection =
            tasks.spawn_cancellable("client", async move { connection.await.unwrap_or(()) });
        let mut request = Request::builder().method(method).uri(path).header("host", "sim");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = sender.send_request(request.body(Full::new(Bytes::from(body)))?).await?;
        let (parts, body) = response.into_parts();
        Ok(Stream { status: parts.status, headers: parts.headers, body, connection, tasks })
    }

    /// Closes the connections of all clients.
    pub(crate) async fn close_clients(&self) {
        self.clients.cancel();
        self.clients.ended().await;
    }

    /// Waits until a condition holds; virtual or real time passes meanwhile.
    pub(crate) async fn until(&self, what: &str, condition: impl Fn(&SimServer) -> bool) {
        let limit = Instant::now() + Duration::from_secs(20);
        while !condition(self.server()) {
            assert!(Instant::now() < limit, "not yet: {what}: {:?}", self.server().signals());
            tokio::task::yield_now().await;
        }
    }
}

impl Drop for Sim {
    fn drop(&mut self) {
        self.tasks.cancel();
    }
}

impl Reply {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&self.body)))
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
}

impl Stream {
    /// The next piece of the body; `None` at its end.
    pub(crate) async fn next(&mut self) -> Option<Result<Bytes, hyper::Error>> {
        let frame = self.body.frame().await?;
        Some(frame.map(|frame| frame.into_data().unwrap_or_default()))
    }

    /// All events to the end: each event's name, if it has one, and its data.
    pub(crate) async fn events(mut self) -> Vec<(Option<String>, String)> {
        let mut text = String::new();
        while let Some(piece) = self.next().await {
            text.push_str(std::str::from_utf8(&piece.unwrap()).unwrap());
        }
        assert!(text.ends_with("\n\n"), "{text}");
        text.trim_end().split("\n\n").map(event).collect()
    }

    /// Leaves: the connection is closed.
    pub(crate) async fn leave(self) {
        drop(self.body);
        self.tasks.cancel();
        self.connection.join().await.unwrap_or(());
    }
}

fn event(text: &str) -> (Option<String>, String) {
    let (mut name, mut data) = (None, String::new());
    for line in text.lines() {
        match line.split_once(": ").unwrap() {
            ("event", value) => name = Some(value.to_owned()),
            ("data", value) => data.push_str(value),
            (field, _) => panic!("a field `{field}`"),
        }
    }
    (name, data)
}

/// The data of events as JSON, without OpenAI's last one, which must be there.
pub(crate) fn openai_chunks(events: &[(Option<String>, String)]) -> Vec<Value> {
    let (last, chunks) = events.split_last().unwrap();
    assert_eq!(last.1, "[DONE]");
    chunks.iter().map(|(_, data)| serde_json::from_str(data).unwrap()).collect()
}
