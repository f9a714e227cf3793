//! The floor under a proxy's cost: a reverse proxy on hyper that decides nothing.
//!
//! Endpoints take turns, connections are pooled, bodies stream both ways. No header is looked at, no
//! request is tried again, nothing is logged.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, Result, ensure};
use http::uri::{Authority, Scheme};
use http::{Request, Response, StatusCode, Uri};
use http_body_util::{Either, Empty};
use hyper::body::{Bytes, Incoming};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use router_rt::Tasks;
use tokio::net::TcpListener;

use super::accept;

struct Floor {
    client: Client<HttpConnector, Incoming>,
    endpoints: Vec<Authority>,
    next: AtomicUsize,
}

/// Forwards to `endpoints` (host:port each) until `tasks` is cancelled.
///
/// # Errors
/// No endpoint, or one that is not host:port.
pub async fn serve(listener: TcpListener, tasks: Tasks, endpoints: &[String]) -> Result<()> {
    ensure!(!endpoints.is_empty(), "there must be at least one endpoint");
    let parse = |endpoint: &String| {
        endpoint.parse::<Authority>().with_context(|| format!("{endpoint} is not host:port"))
    };
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    let floor = Arc::new(Floor {
        client: Client::builder(TokioExecutor::new()).build(connector),
        endpoints: endpoints.iter().map(parse).collect::<Result<_>>()?,
        next: AtomicUsize::new(0),
    });
    accept::serve(listener, tasks, move |request| forward(Arc::clone(&floor), request)).await;
    Ok(())
}

async fn forward(
    floor: Arc<Floor>,
    mut request: Request<Incoming>,
) -> Response<Either<Incoming, Empty<Bytes>>> {
    let turn = floor.next.fetch_add(1, Ordering::Relaxed) % floor.endpoints.len();
    let mut parts = std::mem::take(request.uri_mut()).into_parts();
    parts.scheme = Some(Scheme::HTTP);
    parts.authority = Some(floor.endpoints[turn].clone());
    let answer = match Uri::from_parts(parts) {
        Ok(uri) => {
            *request.uri_mut() = uri;
            floor.client.request(request).await.ok()
        }
        Err(_) => None,
    };
    answer.map_or_else(bad_gateway, |response| response.map(Either::Left))
}

fn bad_gateway() -> Response<Either<Incoming, Empty<Bytes>>> {
    let mut response = Response::new(Either::Right(Empty::new()));
    *response.status_mut() = StatusCode::BAD_GATEWAY;
    response
}
