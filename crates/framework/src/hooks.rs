//! Extension points around the scheduling cycle: before admission, after the pick, while the answer streams.

use std::{sync::Arc, time::Duration};

use http::{HeaderMap, StatusCode};
use router_core::{Endpoint, Rejection, Stamp, header::HeadPatch};
use router_wire::response::Usage;

use crate::{
    cx::RequestCx,
    request::{Request, RequestHead},
    schedule::Outcome,
};

/// Looks at the head of a request before admission.
pub trait RequestHeaderHook: Send + Sync {
    /// May change what is known of the request so far; an error ends it.
    fn on_request_headers(
        &self,
        head: &RequestHead,
        request: &mut Identity,
    ) -> Result<(), Rejection>;
}

/// What header hooks may set.
#[derive(Clone, Debug, Default)]
pub struct Identity {
    /// Flow of the request in flow control, where the client named none.
    pub fairness_id: Option<Arc<str>>,
}

/// Runs at once after the pick, on the same thread, before any other decision of this thread.
pub trait PreRequest: Send + Sync {
    /// May add headers for the model server, and may take a lease on the picked endpoints.
    fn pre_request(
        &self,
        cx: &RequestCx<'_>,
        outcome: &Outcome,
        patch: &mut HeadPatch,
    ) -> Result<Option<Box<dyn Lease>>, Rejection>;
}

/// What a request holds on an endpoint until it ends: in-flight counts, index entries.
///
/// The exchange that owns it calls [`end`](Self::end) exactly once, whatever ends the request. Time is handed
/// in: a lease that reads no clock of its own does the same when a recording is played again.
pub trait Lease: Send {
    /// The request moves from its primary target to `endpoint`, because the former could not be reached.
    fn moved(&mut self, endpoint: &Arc<Endpoint>, now: Stamp);

    /// The first byte of the response body came: the prompt has been computed.
    fn first_byte(&mut self, now: Stamp) {
        let _ = now;
    }

    /// Releases everything that is still held.
    fn end(&mut self, end: &End);
}

/// How a request ended.
#[derive(Clone, Debug)]
pub struct End {
    pub cause: EndCause,
    /// The model server's status, if a response head came.
    pub status: Option<StatusCode>,
    pub usage: Option<Usage>,
    pub at: Stamp,
}

impl End {
    /// Whether a model server took the request up: a response head with a status below 500 came.
    pub fn was_served(&self) -> bool {
        self.status.is_some_and(|status| status.as_u16() < 500)
    }
}

/// What ended a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndCause {
    /// The response came to its end, whatever its status.
    Natural,
    ClientDisconnect,
    Evicted,
    /// The model server or the proxy failed.
    Error,
}

impl EndCause {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Natural => "natural",
            Self::ClientDisconnect => "client-disconnect",
            Self::Evicted => "evicted",
            Self::Error => "error",
        }
    }
}

/// A request whose answer is under way.
#[derive(Clone, Copy, Debug)]
pub struct ResponseCx<'a> {
    pub request: &'a Request,
    /// The endpoint that serves, as far as is known.
    pub endpoint: &'a Arc<Endpoint>,
    /// What the proxy reported as the endpoint that served, unchecked.
    pub served: Option<&'a str>,
    pub status: StatusCode,
    pub headers: &'a HeaderMap,
    pub now: Stamp,
}

/// Sees the head of a response and may add headers for the client.
pub trait ResponseHeaderHook: Send + Sync {
    fn on_response_headers(&self, cx: &ResponseCx<'_>, patch: &mut HeadPatch);
}

/// Sees the body of a response go by.
pub trait ResponseBodyHook: Send + Sync {
    /// A chunk went by. Called for every chunk: keep it cheap.
    fn on_chunk(&self, cx: &ResponseCx<'_>, progress: &Progress) {
        let (_, _) = (cx, progress);
    }

    /// The request ended; what is put into `metadata` goes to the proxy with the last chunk.
    fn on_end(
        &self,
        request: &Request,
        endpoint: &Arc<Endpoint>,
        end: &End,
        metadata: &mut Vec<MetadataNumber>,
    );
}

/// How far a response has come.
#[derive(Clone, Debug)]
pub struct Progress {
    pub n_bytes: u64,
    pub n_events: u64,
    pub usage: Option<Usage>,
    /// Since the request was received.
    pub elapsed: Duration,
}

/// A number for the proxy's dynamic metadata.
#[derive(Clone, Debug, PartialEq)]
pub struct MetadataNumber {
    pub namespace: String,
    pub name: String,
    pub value: f64,
}
