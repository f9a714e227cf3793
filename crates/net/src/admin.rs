//! The pages of the metrics port: `/metrics`, health, debug pages.
//!
//! A tiny router of exact paths. Pages are small and worked out at once; only a profile waits.

use std::{collections::BTreeMap, future::Future, pin::Pin, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use router_rt::Offload;
use router_telemetry::{
    Registry,
    metrics::Format,
    profile::{CpuProfile, ProfileError},
};

use crate::server::Handler;

/// The pages of an admin server. Cheap to clone; serve it with [`crate::Server::start`].
#[derive(Clone, Default)]
pub struct AdminPages {
    pages: Arc<BTreeMap<&'static str, Page>>,
}

/// What a page function gets.
#[derive(Clone, Copy, Debug)]
pub struct PageRequest<'a> {
    /// The part of the URI after `?`, if any.
    pub query: Option<&'a str>,
    /// The `Accept` header, if it is text.
    pub accept: Option<&'a str>,
}

/// What a page function gives.
#[derive(Clone, Debug)]
pub struct PageResponse {
    pub status: StatusCode,
    pub content_type: &'static str,
    pub body: Bytes,
}

type Page = Box<dyn Fn(PageRequest<'_>) -> Answer + Send + Sync>;

enum Answer {
    Ready(PageResponse),
    Later(Pin<Box<dyn Future<Output = PageResponse> + Send>>),
}

/// Collects pages. Later pages replace earlier ones of the same path.
#[derive(Default)]
pub struct AdminBuilder {
    pages: BTreeMap<&'static str, Page>,
}

const TEXT: &str = "text/plain; charset=utf-8";

/// Where Go programs serve their CPU profile.
const PROFILE_PATH: &str = "/debug/pprof/profile";

/// The length of a profile that does not say, as in Go, and the longest.
const PROFILE_SECONDS: u64 = 30;
const MAX_PROFILE_SECONDS: u64 = 300;

// === impl AdminBuilder ===

impl AdminBuilder {
    /// Adds any page.
    pub fn page(
        mut self,
        path: &'static str,
        page: impl Fn(PageRequest<'_>) -> PageResponse + Send + Sync + 'static,
    ) -> Self {
        self.pages.insert(path, Box::new(move |request| Answer::Ready(page(request))));
        self
    }

    /// `/metrics`, in the format that is asked for.
    pub fn metrics(self, registry: Registry) -> Self {
        self.page("/metrics", move |request| {
            let format = Format::negotiate(request.accept);
            PageResponse {
                status: StatusCode::OK,
                content_type: format.content_type(),
                body: registry.encode(format).into(),
            }
        })
    }

    /// A check page such as `/healthz` or `/readyz`: 200 `ok`, or 503 and what is missing.
    pub fn check(
        self,
        path: &'static str,
        check: impl Fn() -> Result<(), String> + Send + Sync + 'static,
    ) -> Self {
        self.page(path, move |_| match check() {
            Ok(()) => PageResponse::text(StatusCode::OK, "ok\n"),
            Err(missing) => {
                PageResponse::text(StatusCode::SERVICE_UNAVAILABLE, format!("{missing}\n"))
            }
        })
    }

    /// A JSON page; the function gets the query and returns the document.
    pub fn json(
        self,
        path: &'static str,
        page: impl Fn(Option<&str>) -> Vec<u8> + Send + Sync + 'static,
    ) -> Self {
        self.page(path, move |request| PageResponse {
            status: StatusCode::OK,
            content_type: "application/json",
            body: page(request.query).into(),
        })
    }

    /// `/debug/pprof/profile?seconds=N`: a CPU profile for `go tool pprof`. Without this call the
    /// page does not exist; whoever can read it can slow the process down.
    pub fn profile(mut self, offload: Offload) -> Self {
        let page = move |request: PageRequest<'_>| match profile_seconds(request.query) {
            Ok(seconds) => Answer::Later(Box::pin(profile(seconds, offload.clone()))),
            Err(problem) => Answer::Ready(PageResponse::text(StatusCode::BAD_REQUEST, problem)),
        };
        self.pages.insert(PROFILE_PATH, Box::new(page));
        self
    }

    pub fn build(self) -> AdminPages {
        AdminPages { pages: Arc::new(self.pages) }
    }
}

// === impl PageResponse ===

impl PageResponse {
    pub fn text(status: StatusCode, text: impl Into<Bytes>) -> Self {
        Self { status, content_type: TEXT, body: text.into() }
    }
}

// === impl AdminPages ===

impl AdminPages {
    pub fn builder() -> AdminBuilder {
        AdminBuilder::default()
    }

    /// Answers a request, whatever its body.
    pub async fn respond<B>(&self, request: &Request<B>) -> Response<Full<Bytes>> {
        // Taken apart before waiting, since the request need not be shareable.
        let is_head = request.method() == Method::HEAD;
        let answer = match self.answer(request) {
            Answer::Ready(answer) => answer,
            Answer::Later(answer) => answer.await,
        };
        let mut response = Response::new(Full::new(answer.body.clone()));
        *response.status_mut() = answer.status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(answer.content_type));
        // Pages show this moment, and a browser must not guess what they are.
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        if answer.status == StatusCode::METHOD_NOT_ALLOWED {
            headers.insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
        }
        if is_head {
            headers.insert(header::CONTENT_LENGTH, HeaderValue::from(answer.body.len()));
            *response.body_mut() = Full::default();
        }
        response
    }

    fn answer<B>(&self, request: &Request<B>) -> Answer {
        let Some(page) = self.pages.get(request.uri().path()) else {
            let mut known = String::from("no such page; there are\n");
            for path in self.pages.keys() {
                known.push_str(path);
                known.push('\n');
            }
            return Answer::Ready(PageResponse::text(StatusCode::NOT_FOUND, known));
        };
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            let refused = PageResponse::text(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD\n");
            return Answer::Ready(refused);
        }
        let accept = request.headers().get(header::ACCEPT).and_then(|value| value.to_str().ok());
        page(PageRequest { query: request.uri().query(), accept })
    }
}

impl Handler for AdminPages {
    type Body = Full<Bytes>;

    async fn handle(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        self.respond(&request).await
    }
}

impl std::fmt::Debug for AdminPages {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.pages.keys()).finish()
    }
}

impl std::fmt::Debug for AdminBuilder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.pages.keys()).finish()
    }
}

fn profile_seconds(query: Option<&str>) -> Result<u64, &'static str> {
    let asked = query.unwrap_or_default().split('&').find_map(|pair| pair.strip_prefix("seconds="));
    let Some(asked) = asked else { return Ok(PROFILE_SECONDS) };
    match asked.parse() {
        Ok(seconds @ 1..=MAX_PROFILE_SECONDS) => Ok(seconds),
        Ok(_) | Err(_) => Err("`seconds` is not a number from 1 to 300\n"),
    }
}

async fn profile(seconds: u64, offload: Offload) -> PageResponse {
    let failed = |error: ProfileError| {
        let status = match error {
            ProfileError::Busy => StatusCode::CONFLICT,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        PageResponse::text(status, format!("{error}\n"))
    };
    let running = match CpuProfile::start() {
        Ok(running) => running,
        Err(error) => return failed(error),
    };
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    match offload.run(|| running.finish()).await {
        Ok(Ok(profile)) => PageResponse {
            status: StatusCode::OK,
            content_type: "application/octet-stream",
            body: profile.into(),
        },
        Ok(Err(error)) => failed(error),
        Err(error) => failed(ProfileError::Failed(error.to_string())),
    }
}

#[cfg(test)]
mod tests;
