//! The client: every request at its time, whatever became of those before it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use http::header::{CONTENT_TYPE, HOST, HeaderValue};
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use router_rt::Tasks;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until, timeout};

use super::events::Events;
use super::prompt;
use super::stretch::Stretch;

const PATH: &str = "/v1/completions";
/// Which server answered: what simulated servers say on every response.
const SERVER_HEADER: &str = "x-inference-pod";
const SERVER_PREFIX: &str = "sim-";
/// So long before its time a request is made ready: its text is built. It bounds the bodies in memory.
const LEAD: Duration = Duration::from_secs(1);
/// After this a request counts as failed.
const LIMIT: Duration = Duration::from_mins(10);
/// The most of an error's text that is kept.
const MAX_ERROR_BYTES: usize = 4096;

/// How one request went.
#[derive(Clone, Debug)]
pub struct Course {
    /// From the time when it was due to the time when it was sent.
    pub lateness: Duration,
    /// Or why it failed.
    pub answer: Result<Answer, String>,
}

/// A whole answer. Times count from the start of the run.
#[derive(Clone, Copy, Debug)]
pub struct Answer {
    /// Index of the server; `None` where the answer does not say.
    pub server: Option<u32>,
    /// When the response's head came: servers send it as soon as they have the request.
    pub accepted: Duration,
    pub first_token: Duration,
    pub ended: Duration,
    pub cached_tokens: u32,
}

/// How far a run is.
#[derive(Debug, Default)]
pub struct Progress {
    pub n_sent: AtomicUsize,
    pub n_ended: AtomicUsize,
    pub n_failed: AtomicUsize,
}

/// What all requests of a run share.
struct Run {
    stretch: Stretch,
    target: String,
    start: Instant,
    progress: Arc<Progress>,
    connections: Tasks,
}

/// Ends what is under way when a run is given up.
struct Owner(Tasks);

impl Drop for Owner {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

/// Sends the requests of a stretch to `target` (`ip:port`), the first one not before `start`, and waits for all
/// answers.
///
/// # Errors
/// A task that panicked. Failed requests are in their courses.
pub async fn play(
    stretch: &Stretch,
    target: &str,
    start: Instant,
    progress: Arc<Progress>,
) -> Result<Vec<Course>> {
    let tasks = Owner(Tasks::new());
    let run = Arc::new(Run {
        stretch: stretch.clone(),
        target: target.to_owned(),
        start,
        progress,
        connections: tasks.0.clone(),
    });
    let mut courses = Vec::with_capacity(stretch.trace.requests.len());
    for (nth, due) in stretch.arrivals().enumerate() {
        let due = start + due;
        sleep_until(due.checked_sub(LEAD).unwrap_or(start)).await;
        let run = Arc::clone(&run);
        courses.push(
            tasks.0.spawn_cancellable("live request", async move { run.request(nth, due).await }),
        );
    }
    let mut ended = Vec::with_capacity(courses.len());
    for course in courses {
        ended.push(course.join().await?);
    }
    Ok(ended)
}

impl Run {
    async fn request(&self, nth: usize, due: Instant) -> Course {
        let trace = &self.stretch.trace;
        let body = trace
            .requests
            .get(nth)
            .map(|request| prompt::body(request, nth as u64, trace.block_tokens));
        sleep_until(due).await;
        let lateness = due.elapsed();
        self.progress.n_sent.fetch_add(1, Ordering::Relaxed);
        let answer = match timeout(LIMIT, self.exchange(nth, body.unwrap_or_default())).await {
            Ok(answer) => answer.map_err(|error| format!("{error:#}")),
            Err(_) => Err(format!("not answered within {LIMIT:?}")),
        };
        self.progress.n_ended.fetch_add(1, Ordering::Relaxed);
        if answer.is_err() {
            self.progress.n_failed.fetch_add(1, Ordering::Relaxed);
        }
        Course { lateness, answer }
    }

    /// One request on a connection of its own, with its answer held to what the trace says.
    async fn exchange(&self, nth: usize, body: String) -> Result<Answer> {
        let tcp = TcpStream::connect(&self.target).await.context("connecting")?;
        tcp.set_nodelay(true)?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(tcp)).await?;
        self.connections.spawn_cancellable("live connection", connection);
        let request = Request::post(PATH)
            .header(HOST, &self.target)
            .header(CONTENT_TYPE, HeaderValue::from_static("application/json"))
            .body(Full::new(Bytes::from(body)))?;
        let response = sender.send_request(request).await?;
        let accepted = self.start.elapsed();
        let status = response.status();
        if status != StatusCode::OK {
            let text = Limited::new(response.into_body(), MAX_ERROR_BYTES).collect().await;
            let text = text.map(|body| body.to_bytes()).unwrap_or_default();
            anyhow::bail!("status {status}: {}", String::from_utf8_lossy(&text));
        }
        let server = response
            .headers()
            .get(SERVER_HEADER)
            .and_then(|name| name.to_str().ok()?.strip_prefix(SERVER_PREFIX)?.parse::<u32>().ok());
        let mut events = Events::default();
        let mut body = response.into_body();
        while let Some(frame) = body.frame().await {
            if let Ok(data) = frame?.into_data() {
                events.take(&data, self.start.elapsed());
            }
        }
        let whole = events.finish()?;
        let asked = self.stretch.trace.requests.get(nth);
        let asked = asked.map(|request| (request.prompt_tokens, request.output_tokens));
        let got = (whole.prompt_tokens, whole.output_tokens);
        ensure!(asked == Some(got), "prompt and answer have {got:?} tokens in place of {asked:?}");
        Ok(Answer {
            server,
            accepted,
            first_token: whole.first,
            ended: whole.last,
            cached_tokens: whole.cached_tokens,
        })
    }
}
