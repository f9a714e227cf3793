//! The pages of the metrics port.

use std::sync::Arc;

use router_net::{Server, ServerOptions, admin::AdminPages, tls::ServerTls};
use router_rt::{Offload, Tasks};
use tokio::net::TcpListener;

use crate::running::Running;

/// Serves `/metrics`, `/healthz`, `/readyz` and the debug pages.
pub(crate) fn serve(
    listener: TcpListener,
    tls: Option<ServerTls>,
    running: &Arc<Running>,
    profiles: bool,
    tasks: &Tasks,
) -> std::io::Result<Server> {
    let (ready, decisions, plugins, flow) =
        (Arc::clone(running), Arc::clone(running), Arc::clone(running), Arc::clone(running));
    let pages = AdminPages::builder()
        .metrics(running.metrics_registry().clone())
        .check("/healthz", || Ok(()))
        .check("/readyz", move || ready.ready())
        .json("/debug/plugins/state", move |_| json(&plugins.router().plugin_state()))
        .json("/debug/flow-control", move |_| {
            let router = flow.router();
            json(&router.flow().map_or_else(
                || serde_json::json!({ "hint": "flow control is off; switch on the feature gate flowControl" }),
                |flow| flow.debug_page(),
            ))
        })
        .json("/debug/decisions", move |_| {
            let router = decisions.router();
            let log = router.decisions();
            let hint =
                (!log.is_on()).then_some("recording is off; start with --record-decisions=1");
            json(&serde_json::json!({ "hint": hint, "decisions": log.records() }))
        });
    // Profiles cost CPU while they are taken, and tell what the process does: only where asked for.
    let pages = if profiles { pages.profile(Offload::pool(1)) } else { pages }.build();
    let handler = move |request: http::Request<hyper::body::Incoming>| {
        let pages = pages.clone();
        async move { pages.respond(&request).await }
    };
    Server::start(listener, tls, ServerOptions::named("admin"), tasks, handler)
}

fn json(value: &serde_json::Value) -> Vec<u8> {
    serde_json::to_vec(value).unwrap_or_default()
}
