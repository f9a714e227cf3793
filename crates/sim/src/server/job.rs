//! An inference request in progress: its choices in the engine, and the answer as it grows.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream;
use http::{HeaderValue, Response, StatusCode, header};
use http_body::Frame;
use http_body_util::StreamBody;
use router_net::{Body, BoxError, body::boxed};
use serde_json::Value;

use super::{
    answer::{Answer, Finish},
    error::{ApiError, json_response},
    exchange::{Exchange, Progress},
    sse::Events,
    state::State,
    stats::RecordRef,
};
use crate::model::{AdapterId, BlockHash, EngineRequest, FinishReason, RequestId};

/// Tokens that one look at the engine turns into events; the rest waits for the next look.
const MAX_TOKENS_PER_LOOK: u32 = 256;

/// What a request asks of the engine, in the terms of no API.
pub(crate) struct Ask {
    pub(crate) id: String,
    pub(crate) model: String,
    pub(crate) adapter: Option<AdapterId>,
    pub(crate) prompts: Vec<Prompt>,
    pub(crate) choices: Vec<Choice>,
    pub(crate) max_tokens: Option<u32>,
    pub(crate) stream: bool,
    pub(crate) dialect: Box<dyn Dialect>,
}

/// One prompt.
pub(crate) struct Prompt {
    pub(crate) tokens: Vec<u32>,
}

/// One answer to one prompt.
pub(crate) struct Choice {
    pub(crate) prompt_idx: usize,
    /// What will be said; nothing for embeddings.
    pub(crate) answer: Option<Answer>,
    pub(crate) chain: Box<[BlockHash]>,
}

/// The shape of one API's answers.
pub(crate) trait Dialect: Send {
    /// The whole answer.
    fn body(&mut self, job: &Job) -> Value;
    /// The stream's first events, when the first token is there.
    fn open(&mut self, job: &Job, out: &mut Events);
    /// One token, `nth` of the choice's answer.
    fn token(&mut self, job: &Job, choice_idx: usize, nth: u32, out: &mut Events);
    /// The stream's last events.
    fn close(&mut self, job: &Job, out: &mut Events);
}

/// A request whose choices are in the engine. Dropping it takes out those that have not ended.
pub(crate) struct Job {
    pub(crate) id: String,
    pub(crate) model: String,
    pub(crate) created: u64,
    pub(crate) prompts: Vec<Prompt>,
    pub(crate) choices: Vec<Choice>,
    /// How far each choice has come, as of the last look.
    pub(crate) progress: Vec<Progress>,
    exchange: Arc<Exchange>,
    _ticket: Ticket,
}

/// The engine's names for the choices.
struct Ticket {
    state: Arc<State>,
    ids: Vec<RequestId>,
}

/// Token counts as all APIs report them.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Usage {
    pub(crate) prompt: u64,
    pub(crate) completion: u64,
    pub(crate) cached: u64,
}

impl Job {
    /// Puts all choices into the engine; none stays there if one is refused.
    pub(crate) fn start(
        state: &Arc<State>,
        ask: Ask,
    ) -> Result<(Self, Box<dyn Dialect>), ApiError> {
        let exchange = Arc::new(Exchange::new(ask.choices.len()));
        let mut ticket =
            Ticket { state: Arc::clone(state), ids: Vec::with_capacity(ask.choices.len()) };
        {
            let mut cell = state.cell.lock();
            let now = state.clock.now();
            cell.latencies
                .requested((ask.choices.len() / ask.prompts.len().max(1)) as u32, ask.max_tokens);
            for (choice_idx, choice) in ask.choices.iter().enumerate() {
                let prompt =
                    ask.prompts.get(choice.prompt_idx).map_or(0, |prompt| prompt.tokens.len());
                let finish = match choice.answer.as_ref().map(|answer| answer.finish) {
                    Some(Finish::Length) => FinishReason::Length,
                    Some(Finish::Stop | Finish::ToolCalls) | None => FinishReason::Stop,
                };
                let request = EngineRequest {
                    prompt_tokens: u32::try_from(prompt).unwrap_or(u32::MAX),
                    output_tokens: choice.answer.as_ref().map_or(0, Answer::n_tokens),
                    finish: Some(finish),
                    chain: choice.chain.clone(),
                    adapter: ask.adapter,
                    token_events: ask.stream,
                };
                match cell.submit(now, request, &exchange, choice_idx) {
                    Ok(id) => ticket.ids.push(id),
                    Err(refusal) => {
                        // The ticket's drop locks the cell again.
                        drop(cell);
                        return Err(refusal.into());
                    }
                }
            }
        }
        state.wake.notify_one();
        let job = Self {
            id: ask.id,
            model: ask.model,
            created: state.unix_seconds(),
            progress: vec![Progress::default(); ask.choices.len()],
            prompts: ask.prompts,
            choices: ask.choices,
            exchange,
            _ticket: ticket,
        };
        Ok((job, ask.dialect))
    }

    /// Waits for the end of all choices and gives the whole answer.
    pub(crate) async fn whole(
        mut self,
        mut dialect: Box<dyn Dialect>,
        record: &RecordRef,
    ) -> Response<Body> {
        self.exchange.ends().await;
        self.look();
        self.note(record);
        json_response(StatusCode::OK, &dialect.body(&self))
    }

    /// Answers with a stream that breaks off after `cut_after` events, if that is set.
    pub(crate) fn stream(
        self,
        dialect: Box<dyn Dialect>,
        cut_after: Option<u32>,
        record: RecordRef,
    ) -> Response<Body> {
        let n_choices = self.choices.len();
        let streaming = Streaming {
            job: self,
            dialect,
            n_sent: vec![0; n_choices],
            queue: Vec::new().into_iter(),
            opened: false,
            closed: false,
            cut_after,
            record,
        };
        let events = stream::unfold(streaming, |mut streaming| async move {
            let event = streaming.next().await?;
            Some((event.map(Frame::data), streaming))
        });
        let mut response = Response::new(boxed(StreamBody::new(Box::pin(events))));
        let event_stream = HeaderValue::from_static("text/event-stream; charset=utf-8");
        response.headers_mut().insert(header::CONTENT_TYPE, event_stream);
        response
    }

    pub(crate) fn answer(&self, choice_idx: usize) -> Option<&Answer> {
        self.choices.get(choice_idx)?.answer.as_ref()
    }

    pub(crate) fn usage(&self) -> Usage {
        let mut usage = Usage::default();
        let mut seen = vec![false; self.prompts.len()];
        for (choice, progress) in self.choices.iter().zip(&self.progress) {
            usage.completion += u64::from(progress.n_tokens);
            let Some(seen) = seen.get_mut(choice.prompt_idx) else { continue };
            if !std::mem::replace(seen, true) {
                let n_tokens =
                    self.prompts.get(choice.prompt_idx).map_or(0, |prompt| prompt.tokens.len());
                usage.prompt += n_tokens as u64;
                usage.cached += u64::from(progress.cached_tokens);
            }
        }
        usage
    }

    /// Whether a token is the last of its choice.
    pub(crate) fn is_last(&self, choice_idx: usize, nth: u32) -> bool {
        self.answer(choice_idx).is_some_and(|answer| nth + 1 == answer.n_tokens())
    }

    fn note(&self, record: &RecordRef) {
        let usage = self.usage();
        record.note(|record| {
            record.prompt_tokens = usage.prompt as u32;
            record.cached_tokens = usage.cached as u32;
            record.output_tokens = usage.completion as u32;
        });
    }

    fn look(&mut self) {
        self.exchange.snapshot(&mut self.progress);
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if self.ids.is_empty() {
            return;
        }
        let mut cell = self.state.cell.lock();
        let now = self.state.clock.now();
        for &id in &self.ids {
            cell.cancel(now, id);
        }
        drop(cell);
        self.state.wake.notify_one();
    }
}

/// A streamed answer: what was sent, and what is ready to be sent.
struct Streaming {
    job: Job,
    dialect: Box<dyn Dialect>,
    /// Tokens sent of each choice.
    n_sent: Vec<u32>,
    queue: std::vec::IntoIter<Bytes>,
    opened: bool,
    closed: bool,
    cut_after: Option<u32>,
    record: RecordRef,
}

impl Streaming {
    async fn next(&mut self) -> Option<Result<Bytes, BoxError>> {
        loop {
            if self.cut_after == Some(0) {
                // Pending once: hyper sends what it holds before it learns that there is no more.
                tokio::task::yield_now().await;
                return Some(Err("the stream is cut on purpose".into()));
            }
            if let Some(event) = self.queue.next() {
                if let Some(left) = &mut self.cut_after {
                    *left -= 1;
                }
                return Some(Ok(event));
            }
            if self.closed {
                return None;
            }
            self.job.look();
            let events = self.gather();
            if events.is_empty() && !self.closed {
                self.job.exchange.changed().await;
            }
            self.queue = events.into_iter();
        }
    }

    /// Events for what came since the last look.
    fn gather(&mut self) -> Events {
        let mut out = Events::new();
        let (job, dialect) = (&self.job, &mut self.dialect);
        let mut all_sent = true;
        for (choice_idx, (sent, progress)) in self.n_sent.iter_mut().zip(&job.progress).enumerate()
        {
            let until = progress.n_tokens.min(*sent + MAX_TOKENS_PER_LOOK);
            for nth in *sent..until {
                if !std::mem::replace(&mut self.opened, true) {
                    dialect.open(job, &mut out);
                }
                dialect.token(job, choice_idx, nth, &mut out);
            }
            *sent = until;
            all_sent &= progress.end.is_some_and(|end| end.output_tokens == *sent);
        }
        if all_sent {
            job.note(&self.record);
            dialect.close(job, &mut out);
            self.closed = true;
        }
        out
    }
}
