//! What a server saw: counts, and the last requests with hashes of the bytes received and sent.
//!
//! This is a debugging aid (`GET /sim/stats`): tests of a whole system look here for what reached the model
//! server, header by header, and whether bytes came through unchanged.

use std::{
    collections::VecDeque,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body as _, Frame, SizeHint};
use parking_lot::Mutex;
use router_net::{Body, BoxError};
use serde::Serialize;
use xxhash_rust::xxh64::Xxh64;

/// How a request ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    #[default]
    InProgress,
    /// The whole answer was handed over.
    Finished,
    /// The client left before that.
    Cancelled,
    /// An injected failure: cut, reset or never answered.
    Broken,
}

/// One request as it arrived and was answered.
#[derive(Clone, Debug, Default, Serialize)]
pub struct RequestRecord {
    /// Counts the server's requests, from 0.
    pub seq: u64,
    /// The `x-request-id` header, else the id that the answer carries.
    pub request_id: String,
    pub method: String,
    pub path: String,
    /// As they arrived, in order; bytes that are no UTF-8 are replaced.
    pub headers: Vec<(String, String)>,
    pub body_bytes: u64,
    /// XXH64 of the body received, as 16 hexadecimal digits.
    pub body_xxh64: String,
    pub status: Option<u16>,
    pub sent_bytes: u64,
    /// XXH64 of the body sent so far.
    pub sent_xxh64: String,
    /// Data frames handed over: events of a stream.
    pub sent_frames: u64,
    pub outcome: Outcome,
    pub model: String,
    pub prompt_tokens: u32,
    pub cached_tokens: u32,
    pub output_tokens: u32,
}

/// What a server saw since it started, or since its statistics were reset.
#[derive(Clone, Debug, Default, Serialize)]
pub struct ServerStats {
    pub received: u64,
    pub finished: u64,
    pub cancelled: u64,
    pub broken: u64,
    pub in_progress: u64,
    /// Metrics pages asked for.
    pub scrapes: u64,
    /// Engine requests that someone waits for.
    pub engine_requests: u64,
    /// The last requests, oldest first.
    pub requests: Vec<RequestRecord>,
}

/// Collects [`ServerStats`]; shared by a server's handlers.
#[derive(Debug)]
pub(crate) struct Recorder {
    inner: Mutex<Inner>,
    max_requests: usize,
}

#[derive(Debug, Default)]
struct Inner {
    next_seq: u64,
    stats: ServerStats,
    requests: VecDeque<RequestRecord>,
}

/// Follows one request until its answer is handed over or dropped.
pub(crate) struct Track {
    record: RecordRef,
    ended: bool,
    sent: Xxh64,
    n_bytes: u64,
    n_frames: u64,
}

/// Leads to one request's record, as long as it is remembered.
#[derive(Clone, Debug)]
pub(crate) struct RecordRef {
    recorder: Arc<Recorder>,
    seq: u64,
}

/// A response body whose bytes are counted and hashed.
pub(crate) struct Tracked {
    body: Body,
    track: Track,
}

impl Recorder {
    pub(crate) fn new(max_requests: u32) -> Self {
        Self { inner: Mutex::default(), max_requests: max_requests as usize }
    }

    pub(crate) fn scrape(&self) {
        self.inner.lock().stats.scrapes += 1;
    }

    pub(crate) fn begin(
        self: &Arc<Self>,
        method: &http::Method,
        path: &str,
        headers: &HeaderMap,
    ) -> Track {
        let mut inner = self.inner.lock();
        let seq = inner.next_seq;
        inner.next_seq += 1;
        inner.stats.received += 1;
        inner.stats.in_progress += 1;
        let text =
            |value: &http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
        inner.requests.push_back(RequestRecord {
            seq,
            request_id: headers.get("x-request-id").map(text).unwrap_or_default(),
            method: method.to_string(),
            path: path.to_owned(),
            headers: headers.iter().map(|(name, value)| (name.to_string(), text(value))).collect(),
            ..RequestRecord::default()
        });
        while inner.requests.len() > self.max_requests {
            inner.requests.pop_front();
        }
        let record = RecordRef { recorder: Arc::clone(self), seq };
        Track { record, ended: false, sent: Xxh64::new(0), n_bytes: 0, n_frames: 0 }
    }

    pub(crate) fn stats(&self) -> ServerStats {
        let inner = self.inner.lock();
        ServerStats { requests: inner.requests.iter().cloned().collect(), ..inner.stats.clone() }
    }

    /// Forgets requests and counts; those in progress go on being counted.
    pub(crate) fn reset(&self) {
        let mut inner = self.inner.lock();
        let in_progress = inner.stats.in_progress;
        inner.stats = ServerStats { in_progress, ..ServerStats::default() };
        inner.requests.clear();
    }
}

impl RecordRef {
    /// Writes into the record.
    pub(crate) fn note(&self, note: impl FnOnce(&mut RequestRecord)) {
        let mut inner = self.recorder.inner.lock();
        let first = inner.requests.front().map_or(0, |record| record.seq);
        let nth = self.seq.checked_sub(first).map(|nth| nth as usize);
        if let Some(record) = nth.and_then(|nth| inner.requests.get_mut(nth)) {
            note(record);
        }
    }
}

impl Track {
    pub(crate) fn record(&self) -> &RecordRef {
        &self.record
    }

    pub(crate) fn end(&mut self, outcome: Outcome) {
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        {
            let stats = &mut self.record.recorder.inner.lock().stats;
            stats.in_progress = stats.in_progress.saturating_sub(1);
            match outcome {
                Outcome::Finished => stats.finished += 1,
                Outcome::Cancelled | Outcome::InProgress => stats.cancelled += 1,
                Outcome::Broken => stats.broken += 1,
            }
        }
        let (n_bytes, n_frames, hash) = (self.n_bytes, self.n_frames, self.sent.digest());
        self.record.note(|record| {
            record.outcome = outcome;
            record.sent_bytes = n_bytes;
            record.sent_frames = n_frames;
            record.sent_xxh64 = format!("{hash:016x}");
        });
    }

    /// Follows the answer from here on.
    pub(crate) fn answer(self, response: http::Response<Body>) -> http::Response<Body> {
        let status = response.status().as_u16();
        self.record.note(|record| record.status = Some(status));
        response.map(|body| {
            let mut tracked = Tracked { body, track: self };
            tracked.end_if_done();
            Body::new(tracked)
        })
    }
}

impl Drop for Track {
    fn drop(&mut self) {
        self.end(Outcome::Cancelled);
    }
}

impl Tracked {
    fn end_if_done(&mut self) {
        if self.body.is_end_stream() {
            self.track.end(Outcome::Finished);
        }
    }
}

impl http_body::Body for Tracked {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        match &polled {
            Poll::Ready(Some(Ok(frame))) => {
                if let Some(data) = frame.data_ref() {
                    self.track.sent.update(data);
                    self.track.n_bytes += data.len() as u64;
                    self.track.n_frames += 1;
                }
                self.end_if_done();
            }
            Poll::Ready(None) => self.track.end(Outcome::Finished),
            Poll::Ready(Some(Err(_))) => self.track.end(Outcome::Broken),
            Poll::Pending => {}
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;
    use router_net::body::full;
    use xxhash_rust::xxh64::xxh64;

    use super::*;

    fn begin(recorder: &Arc<Recorder>) -> Track {
        let headers =
            HeaderMap::from_iter([("x-request-id".parse().unwrap(), "r1".parse().unwrap())]);
        recorder.begin(&http::Method::POST, "/v1/x", &headers)
    }

    #[tokio::test]
    async fn an_answer_is_followed_to_its_end() {
        let recorder = Arc::new(Recorder::new(2));
        let response = begin(&recorder).answer(http::Response::new(full("hello")));
        assert_eq!(recorder.stats().in_progress, 1);
        response.into_body().collect().await.unwrap();
        let stats = recorder.stats();
        let record = &stats.requests[0];
        assert_eq!((stats.finished, stats.in_progress), (1, 0));
        assert_eq!(record.sent_xxh64, format!("{:016x}", xxh64(b"hello", 0)));
        assert_eq!((record.request_id.as_str(), record.status), ("r1", Some(200)));
    }

    #[test]
    fn what_is_dropped_was_cancelled_and_the_ring_is_bounded() {
        let recorder = Arc::new(Recorder::new(2));
        drop(begin(&recorder));
        drop(begin(&recorder).answer(http::Response::new(full("hello"))));
        let mut hung = begin(&recorder);
        hung.end(Outcome::Broken);
        drop(hung);
        let stats = recorder.stats();
        assert_eq!(
            (stats.received, stats.cancelled, stats.broken, stats.in_progress),
            (3, 2, 1, 0)
        );
        assert_eq!(stats.requests.iter().map(|record| record.seq).collect::<Vec<_>>(), [1, 2]);
        recorder.reset();
        begin(&recorder).record().note(|record| record.model = "m".into());
        assert_eq!(recorder.stats().requests[0].model, "m");
    }
}
