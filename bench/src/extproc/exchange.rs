//! One request through an endpoint picker, as Envoy plays it.
//!
//! Request headers, the body in chunks, end of stream; then the decision and the whole body must come
//! back. Response headers, chunks, end of stream; then those must come back. Then half-close, and the
//! server closes.

use std::time::Duration;

use anyhow::{Result, bail, ensure};
use tokio::time::{Instant, timeout};

use super::stream::{Client, Last, Routed, Stream, queue, start};
use super::{Course, ExtProcArgs, Script};
use crate::load::{Exchange, Outcome};

/// How long a stream that is left before the decision is kept at most.
const UNDECIDED: Duration = Duration::from_millis(100);
const BAD_REQUEST: i32 = 400;

/// Requests through an endpoint picker.
pub struct ExtProcLoad {
    clients: Vec<Client>,
    script: Script,
    course: fn(u64) -> Course,
}

impl ExtProcLoad {
    /// Connects.
    ///
    /// # Errors
    /// A server that cannot be reached, or a malformed `--header`.
    pub async fn connect(args: &ExtProcArgs, run_tag: u64) -> Result<Self> {
        Ok(Self {
            clients: args.connect().await?,
            script: Script::new(args, run_tag)?,
            course: |_| Course::Whole,
        })
    }

    /// Lets each request go as `course` says for its number. One that is left or that is to be
    /// refused counts as rejected, under the name of its course.
    #[must_use]
    pub fn with_courses(self, course: fn(u64) -> Course) -> Self {
        Self { course, ..self }
    }

    async fn whole(
        &self,
        client: &mut Client,
        n: u64,
        started: Instant,
        course: Course,
    ) -> Result<Outcome> {
        let script = &self.script;
        let body = script.body(n, course);
        let messages = script.request(n, &body, course);
        let mut stream = Stream::open(client, messages, script.n_response_messages()).await?;
        let last = match course {
            Course::Bodyless => Last::Headers,
            Course::Trailers => Last::Trailers,
            _ => Last::Body,
        };
        let (decision, request, pick) =
            match stream.request_phase(started, body.len(), last).await? {
                Routed::Done { decision, request, pick } => (decision, request, pick),
                Routed::Rejected(status) => {
                    return Ok(Outcome::Rejected(format!("immediate response {status}")));
                }
            };
        stream.send(script.response(course))?;
        let last = if course == Course::Trailers { Last::Trailers } else { Last::Body };
        stream.response_phase(script.response_len(), last).await?;
        stream.close().await?;
        Ok(Outcome::Done { phases: vec![decision, request, started.elapsed()], pick })
    }

    async fn refused(&self, client: &mut Client, n: u64, course: Course) -> Result<()> {
        let body = self.script.body(n, course);
        let messages = self.script.request(n, &body, course);
        let mut stream = Stream::open(client, messages, 0).await?;
        match stream.request_phase(Instant::now(), body.len(), Last::Body).await? {
            Routed::Rejected(BAD_REQUEST) => stream.close().await,
            Routed::Rejected(status) => bail!("{course:?} was refused with {status}"),
            Routed::Done { .. } => bail!("{course:?} was routed"),
        }
    }

    /// Leaves before the decision. Dropping the stream resets it, as Envoy does.
    async fn leave_early(&self, client: &mut Client, n: u64, course: Course) -> Result<()> {
        let body = self.script.body(n, course);
        let mut messages = self.script.request(n, &body, course);
        match course {
            Course::LeaveAfterHeaders => messages.truncate(1),
            Course::LeaveMidBody => messages.truncate(1 + (messages.len() - 1) / 2),
            _ => {}
        }
        let (_outbound, queue) = queue(messages, 1)?;
        // A server that holds back its header frame until it has decided is left after this time.
        if let Ok(started) = timeout(UNDECIDED, start(client, queue)).await {
            started?;
        }
        Ok(())
    }

    /// Leaves after the decision.
    async fn leave_late(&self, client: &mut Client, n: u64, course: Course) -> Result<()> {
        let script = &self.script;
        let body = script.body(n, course);
        let messages = script.request(n, &body, course);
        let mut stream = Stream::open(client, messages, script.n_response_messages()).await?;
        let routed = stream.request_phase(Instant::now(), body.len(), Last::Body).await?;
        ensure!(matches!(routed, Routed::Done { .. }), "{course:?} was refused");
        if course == Course::LeaveMidResponse {
            let response = script.response(course);
            let n_half = response.len().div_ceil(2);
            stream.send(response.into_iter().take(n_half))?;
            stream.next("response").await?;
        }
        Ok(())
    }
}

impl Exchange for ExtProcLoad {
    type Slot = Client;

    const PHASES: &'static [&'static str] = &["decision", "request", "total"];

    fn slot(&self, worker_idx: usize) -> Client {
        self.clients[worker_idx % self.clients.len()].clone()
    }

    async fn run(&self, client: &mut Client, n: u64, started: Instant) -> Result<Outcome> {
        let course = (self.course)(n);
        match course {
            Course::Whole | Course::Bodyless | Course::Trailers | Course::ServerError => {
                return self.whole(client, n, started, course).await;
            }
            Course::CutJson => self.refused(client, n, course).await?,
            Course::LeaveAfterHeaders | Course::LeaveMidBody | Course::LeaveBeforeDecision => {
                self.leave_early(client, n, course).await?;
            }
            Course::LeaveBeforeResponse | Course::LeaveMidResponse => {
                self.leave_late(client, n, course).await?;
            }
        }
        Ok(Outcome::Rejected(format!("{course:?}")))
    }
}
