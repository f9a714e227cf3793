//! The way of a request through the proxy.

use std::{
    sync::{Arc, atomic::AtomicUsize},
    time::Duration,
};

use arc_swap::ArcSwap;
use http::{Method, Request, Response, StatusCode, uri::PathAndQuery};
use http_body::Body as _;
use hyper::body::Incoming;
use router_core::{ErrorCode, Rejection, header::REQUEST_ID};
use router_engine::{Routed, Router};
use router_net::{Handler, Upstream};
use router_rt::Tasks;

use crate::{
    access::{AccessEntry, Cause, Place},
    attempt::{Attempts, Outline},
    errors,
    held::{Held, Outgoing},
    idle::Idle,
    intake::{self, Refused, Rest},
    models::ModelList,
    options::ProxyOptions,
    request::{self, Hop},
    response::{ProxyBody, relay},
};

/// Says whether traffic should come, or what is missing.
pub type Readiness = Arc<dyn Fn() -> Result<(), String> + Send + Sync>;

/// The embedded proxy. Cheap to clone; serve it with [`router_net::Server::start`].
#[derive(Clone)]
pub struct Proxy {
    shared: Arc<Shared>,
}

struct Shared {
    /// Looked up per request, so that a reloaded configuration serves new requests while the old one
    /// finishes its own.
    router: Arc<ArcSwap<Router>>,
    upstream: Upstream,
    options: ProxyOptions,
    readiness: Readiness,
    models: ModelList,
    tasks: Tasks,
    /// Requests that are being served.
    taken: Arc<AtomicUsize>,
}

/// A request without its body.
struct Opening {
    router: Arc<Router>,
    access: AccessEntry,
    hop: Hop,
}

impl Proxy {
    /// A proxy that sends over `upstream` where `router` says. `tasks` owns what outlives a request.
    pub fn new(
        router: Arc<ArcSwap<Router>>,
        upstream: Upstream,
        options: ProxyOptions,
        readiness: Readiness,
        tasks: Tasks,
    ) -> Self {
        let models = ModelList::new(
            upstream.clone(),
            options.models,
            options.upstream_authorization.clone(),
            tasks.clone(),
        );
        Self {
            shared: Arc::new(Shared {
                router,
                upstream,
                options,
                readiness,
                models,
                tasks,
                taken: Arc::default(),
            }),
        }
    }
}

impl Handler for Proxy {
    type Body = ProxyBody;

    async fn handle(&self, request: Request<Incoming>) -> Response<ProxyBody> {
        match self.shared.probe(&request) {
            Some(answer) => answer,
            None => self.shared.serve(request).await,
        }
    }
}

impl Shared {
    /// Health checks: no key, no log, no engine.
    fn probe(&self, request: &Request<Incoming>) -> Option<Response<ProxyBody>> {
        let ready = match request.uri().path() {
            "/healthz" => Ok(()),
            "/readyz" => (self.readiness)(),
            _ => return None,
        };
        let mut answer = match ready {
            Ok(()) => errors::text_response("ok\n"),
            Err(missing) => {
                let mut answer = errors::text_response(format!("{missing}\n"));
                *answer.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
                answer
            }
        };
        if !is_read(request.method()) {
            answer = errors::text_response("only GET and HEAD\n");
            *answer.status_mut() = StatusCode::METHOD_NOT_ALLOWED;
        }
        Some(answer)
    }

    async fn serve(&self, request: Request<Incoming>) -> Response<ProxyBody> {
        let router = self.router.load_full();
        let received = router.clock().now();
        let (mut parts, body) = request.into_parts();
        let path = request::path_and_query(&parts);
        let mut access = AccessEntry::new(
            *router.clock(),
            received,
            parts.method.clone(),
            Arc::clone(&path),
            self.options.access_log,
            Place::take(&self.taken, self.options.max_requests),
        );
        access.sent(&parts.headers);
        let opening = Opening { router, access, hop: Hop::of(&parts) };
        let room = opening.access.has_place().then_some(()).ok_or_else(|| {
            let message = "too many requests are being served, try again later";
            Rejection::new(ErrorCode::ServiceUnavailable, message)
                .with_retry_after(Duration::from_secs(1))
        });
        let admitted = room.and_then(|()| request::check(&parts)).and_then(|()| {
            match &self.options.api_keys {
                Some(keys) => keys.admit(&mut parts.headers),
                None => Ok(()),
            }
        });
        if let Err(rejection) = admitted {
            return self.refuse(opening, &rejection, Some(Rest::whole(body)));
        }
        if is_read(&parts.method) && is_model_list(parts.uri.path()) {
            return self.list_models(opening).await;
        }
        let uri = parts.uri.path_and_query().cloned();
        let uri = uri.unwrap_or_else(|| PathAndQuery::from_static("/"));
        let head = request::head(parts, path, body.is_end_stream(), received);
        self.route(opening, head, uri, body).await
    }

    async fn list_models(&self, mut opening: Opening) -> Response<ProxyBody> {
        match self.models.get(&opening.router).await {
            Ok(list) => {
                opening.access.add_bytes_out(list.len());
                opening.access.answered(StatusCode::OK);
                opening.access.end(Cause::Local);
                errors::json_response(list)
            }
            Err(rejection) => self.refuse(opening, &rejection, None),
        }
    }

    async fn route(
        &self,
        mut opening: Opening,
        head: router_framework::RequestHead,
        uri: PathAndQuery,
        body: Incoming,
    ) -> Response<ProxyBody> {
        let end_of_stream = head.end_of_stream;
        let too_long = intake::too_long(&head.headers, opening.router.settings().max_body_bytes);
        let (feed, decision) = opening.router.begin(head);
        let routed = if end_of_stream {
            let nothing_left = |rejection| Refused { rejection, bytes_in: 0, rest: None };
            decision.await.map(|routed| (routed, None)).map_err(nothing_left)
        } else {
            let idle_limit = self.options.body_idle_timeout;
            let read = intake::read(body, feed, decision, idle_limit, too_long).await;
            read.map(|(routed, held)| (routed, Some(held)))
        };
        match routed {
            Ok((routed, held)) => self.forward(opening, routed, held, uri).await,
            Err(Refused { rejection, bytes_in, rest }) => {
                opening.access.set_bytes_in(bytes_in);
                self.refuse(opening, &rejection, rest)
            }
        }
    }

    async fn forward(
        &self,
        opening: Opening,
        routed: Routed,
        held: Option<Held>,
        uri: PathAndQuery,
    ) -> Response<ProxyBody> {
        let Opening { mut access, hop, .. } = opening;
        let Routed { targets, head_patch, body_plan, mut exchange, .. } = routed;
        let request = Arc::clone(exchange.request());
        access.routed(&request);
        access.set_bytes_in(held.as_ref().map_or(0, Held::n_bytes));
        let held = held.map(|held| held.planned(body_plan));
        let outline = Outline {
            request,
            uri,
            patch: &head_patch,
            hop,
            n_bytes: held.as_ref().map(Held::n_bytes),
            authorization: self.options.upstream_authorization.as_ref(),
        };
        let eviction = exchange.eviction();
        let evicted = async {
            match eviction {
                Some(eviction) => eviction.await,
                None => std::future::pending().await,
            }
        };
        let attempts = Attempts {
            upstream: &self.upstream,
            response_head_timeout: self.options.response_head_timeout,
            exchange: &mut exchange,
            access: &mut access,
            outline,
            last: targets.last().cloned(),
        };
        let outgoing = Outgoing::new(held, self.options.max_retained_bytes);
        let sent = tokio::select! {
            biased;
            sent = attempts.send(outgoing) => Some(sent),
            () = evicted => None,
        };
        match sent {
            Some(Ok(response)) => {
                let idle = Idle::new(self.options.response_idle_timeout);
                relay(response, exchange, access, idle, &self.tasks)
            }
            Some(Err(mut rejection)) => {
                exchange.say_when(&mut rejection);
                exchange.reject(&rejection);
                finish(&mut access, &rejection, Cause::Error)
            }
            None => finish(&mut access, &exchange.evict(), Cause::Error),
        }
    }

    /// Answers a request that is not routed.
    fn refuse(
        &self,
        mut opening: Opening,
        rejection: &Rejection,
        rest: Option<Rest>,
    ) -> Response<ProxyBody> {
        if let Some(rest) = rest {
            intake::discard(rest, opening.hop, self.options.discard, &self.tasks);
        }
        finish(&mut opening.access, rejection, Cause::Rejected)
    }
}

/// An answer of our own, and its line in the log.
fn finish(access: &mut AccessEntry, rejection: &Rejection, cause: Cause) -> Response<ProxyBody> {
    if rejection.detail.is_some() {
        tracing::warn!(%rejection, "a request could not be served");
    }
    let mut answer = errors::refusal(rejection);
    if let Some(id) = access.id() {
        answer.headers_mut().insert(REQUEST_ID, id);
    }
    access.answered(answer.status());
    if let Some(n_bytes) = answer.body().size_hint().exact() {
        access.add_bytes_out(n_bytes as usize);
    }
    access.end(cause);
    answer
}

fn is_read(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD)
}

fn is_model_list(path: &str) -> bool {
    matches!(path, "/v1/models" | "/v1/models/")
}
