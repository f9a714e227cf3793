//! The pages of the metrics port: `/metrics`, health, debug pages.
//!
//! A tiny router of exact paths. Pages are small and worked out at once; nothing here waits.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use router_telemetry::{Registry, metrics::Format};

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

type Page = Box<dyn Fn(PageRequest<'_>) -> PageResponse + Send + Sync>;

/// Collects pages. Later pages replace earlier ones of the same path.
#[derive(Default)]
pub struct AdminBuilder {
    pages: BTreeMap<&'static str, Page>,
}

const TEXT: &str = "text/plain; charset=utf-8";

/// Where Go programs serve their CPU profile.
const PROFILE_PATH: &str = "/debug/pprof/profile";

// === impl AdminBuilder ===

impl AdminBuilder {
    /// Adds any page.
    pub fn page(
        mut self,
        path: &'static str,
        page: impl Fn(PageRequest<'_>) -> PageResponse + Send + Sync + 'static,
    ) -> Self {
        self.pages.insert(path, Box::new(page));
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

    /// Answers `/debug/pprof/profile` with 501 and this reason, for builds that cannot profile.
    pub fn no_profile(self, reason: &'static str) -> Self {
        self.page(PROFILE_PATH, move |_| {
            PageResponse::text(StatusCode::NOT_IMPLEMENTED, format!("{reason}\n"))
        })
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
    pub fn respond<B>(&self, request: &Request<B>) -> Response<Full<Bytes>> {
        let answer = self.answer(request);
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
        if request.method() == Method::HEAD {
            headers.insert(header::CONTENT_LENGTH, HeaderValue::from(answer.body.len()));
            *response.body_mut() = Full::default();
        }
        response
    }

    fn answer<B>(&self, request: &Request<B>) -> PageResponse {
        let Some(page) = self.pages.get(request.uri().path()) else {
            let mut known = String::from("no such page; there are\n");
            for path in self.pages.keys() {
                known.push_str(path);
                known.push('\n');
            }
            return PageResponse::text(StatusCode::NOT_FOUND, known);
        };
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            return PageResponse::text(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD\n");
        }
        let accept = request.headers().get(header::ACCEPT).and_then(|value| value.to_str().ok());
        page(PageRequest { query: request.uri().query(), accept })
    }
}

impl Handler for AdminPages {
    type Body = Full<Bytes>;

    async fn handle(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        self.respond(&request)
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

#[cfg(test)]
mod tests;
