//! The access log: one line per request, with fields that stay.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use http::{HeaderMap, HeaderValue, Method, StatusCode};
use router_core::{Endpoint, Stamp, header::REQUEST_ID};
use router_framework::Request;
use router_rt::Clock;
use router_telemetry::logs::ACCESS;

/// What is noted about a request until it ends. Written once: by [`AccessEntry::end`], or when it is
/// dropped because the client went away.
pub(crate) struct AccessEntry {
    clock: Clock,
    received: Stamp,
    method: Method,
    path_and_query: Arc<str>,
    /// The client's id of it, where it is text.
    sent_id: Option<HeaderValue>,
    /// What the engine made of it, once it is routed.
    request: Option<Arc<Request>>,
    endpoint: Option<Arc<Endpoint>>,
    status: Option<StatusCode>,
    first_byte: Option<Duration>,
    bytes_in: u64,
    bytes_out: u64,
    n_attempts: u32,
    is_on: bool,
    /// Its place among the requests at once; an entry lives as long as its request.
    place: Option<Place>,
}

/// A place among the requests that are served at once; given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Place(Arc<AtomicUsize>);

impl Place {
    /// `None` when `max` places are taken.
    pub(crate) fn take(taken: &Arc<AtomicUsize>, max: usize) -> Option<Self> {
        let place = Self(Arc::clone(taken));
        (taken.fetch_add(1, Ordering::Relaxed) < max).then_some(place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// How a request ended, as the log says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cause {
    /// The model server's response went by to its end.
    Natural,
    /// The answer was the router's own.
    Local,
    /// Refused before an endpoint was asked.
    Rejected,
    ClientDisconnect,
    /// No endpoint answered, or the response broke off.
    Error,
}

impl Cause {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Natural => "natural",
            Self::Local => "local",
            Self::Rejected => "rejected",
            Self::ClientDisconnect => "client-disconnect",
            Self::Error => "error",
        }
    }
}

impl AccessEntry {
    pub(crate) fn new(
        clock: Clock,
        received: Stamp,
        method: Method,
        path_and_query: Arc<str>,
        is_on: bool,
        place: Option<Place>,
    ) -> Self {
        Self {
            clock,
            received,
            method,
            path_and_query,
            sent_id: None,
            request: None,
            endpoint: None,
            status: None,
            first_byte: None,
            bytes_in: 0,
            bytes_out: 0,
            n_attempts: 0,
            is_on,
            place,
        }
    }

    /// Whether there was room for this request.
    pub(crate) fn has_place(&self) -> bool {
        self.place.is_some()
    }

    /// Notes the id that the client gave it, by which it is known even if it is refused.
    pub(crate) fn sent(&mut self, headers: &HeaderMap) {
        self.sent_id = headers.get(REQUEST_ID).filter(|id| is_text(id)).cloned();
    }

    /// The id for a response; a request that was refused has one only if its client gave it.
    pub(crate) fn id(&self) -> Option<HeaderValue> {
        match &self.request {
            Some(request) => HeaderValue::from_str(&request.external_id).ok(),
            None => self.sent_id.clone(),
        }
    }

    pub(crate) fn routed(&mut self, request: &Arc<Request>) {
        self.request = Some(Arc::clone(request));
    }

    /// The request is sent to an endpoint.
    pub(crate) fn attempt(&mut self, endpoint: &Arc<Endpoint>) {
        self.n_attempts += 1;
        self.endpoint = Some(Arc::clone(endpoint));
    }

    /// The head of the response goes to the client.
    pub(crate) fn answered(&mut self, status: StatusCode) {
        self.status = Some(status);
        self.first_byte.get_or_insert(self.clock.now().since(self.received));
    }

    pub(crate) fn set_bytes_in(&mut self, n_bytes: u64) {
        self.bytes_in = n_bytes;
    }

    pub(crate) fn add_bytes_out(&mut self, n_bytes: usize) {
        self.bytes_out += n_bytes as u64;
    }

    /// Writes the line; later calls do nothing.
    pub(crate) fn end(&mut self, cause: Cause) {
        if !std::mem::replace(&mut self.is_on, false) {
            return;
        }
        let request = self.request.as_deref();
        let sent_id = self.sent_id.as_ref().and_then(|id| id.to_str().ok()).unwrap_or_default();
        let milliseconds = |time: Duration| (time.as_micros() as f64) / 1e3;
        tracing::info!(
            target: ACCESS,
            request_id = request.map_or(sent_id, |request| &request.external_id),
            method = self.method.as_str(),
            path = self.path(),
            status = self.status.map_or(0, |status| status.as_u16()),
            endpoint = self.endpoint.as_deref().map_or("", |endpoint| endpoint.authority()),
            model = request.map_or("", |request| &request.model),
            target_model = request.map_or("", |request| &request.target_model),
            priority = request.map_or(0, |request| request.priority),
            duration_ms = milliseconds(self.clock.now().since(self.received)),
            ttfb_ms = self.first_byte.map_or(0.0, milliseconds),
            bytes_in = self.bytes_in,
            bytes_out = self.bytes_out,
            attempts = self.n_attempts,
            cause = cause.as_str(),
            "request"
        );
    }

    /// Queries may carry secrets, so they are left out.
    fn path(&self) -> &str {
        self.path_and_query.split('?').next().unwrap_or_default()
    }
}

impl Drop for AccessEntry {
    fn drop(&mut self) {
        self.end(Cause::ClientDisconnect);
    }
}

fn is_text(id: &HeaderValue) -> bool {
    id.to_str().is_ok_and(|id| !id.trim().is_empty())
}
