//! Spans of a request (`spec/request-path.md` §6.4). Off, every span is the empty one and costs a branch.

use router_core::header::{self, HeadPatch};
use router_framework::{Request, RequestHead};
use router_rt::Rng;
use router_telemetry::{TraceContext, traces};
use tracing::{Span, field::Empty};

/// The whole request; its parent is what the client's trace context says.
pub(crate) fn root(on: bool, head: &RequestHead) -> Span {
    if !on {
        return Span::none();
    }
    let span =
        tracing::info_span!("gateway.request", otel.kind = "server", otel.status_code = Empty);
    if let Some(parent) = TraceContext::from_headers(&head.headers) {
        traces::link_parent(&span, &parent);
    }
    span
}

/// From the parsed request to its destination.
pub(crate) fn orchestration(root: &Span, request: &Request) -> Span {
    if root.is_none() {
        return Span::none();
    }
    tracing::info_span!(
        parent: root,
        "gateway.request_orchestration",
        otel.kind = "server",
        target_model = &*request.target_model,
        request_prio = request.priority,
        gen_ai.request.model = &*request.model,
        gen_ai.request.id = &*request.external_id,
    )
}

/// One profile's run, inside the span that is entered.
pub(crate) fn profile(name: &str) -> Span {
    child(|| tracing::info_span!("run_scheduler_profile", llm_d.epp.scheduling.profile.name = name))
}

/// The filters of a profile.
pub(crate) fn filters(n_candidates: usize) -> Span {
    child(|| {
        tracing::info_span!(
            "filter_endpoints",
            llm_d.epp.filter.candidate_endpoints = n_candidates,
            llm_d.epp.filter.filtered_endpoints = Empty
        )
    })
}

/// The scorers of a profile.
pub(crate) fn scoring(n_scorers: usize, n_candidates: usize) -> Span {
    child(|| {
        tracing::info_span!(
            "llm_d.epp.scoring",
            llm_d.epp.scorer.count = n_scorers,
            llm_d.epp.scoring.candidate_endpoints = n_candidates
        )
    })
}

/// One scorer.
pub(crate) fn scorer(plugin_type: &str, name: &str, weight: f64) -> Span {
    child(|| {
        tracing::info_span!(
            "llm_d.epp.scorer",
            otel.name = format!("llm_d.epp.scorer.{plugin_type}"),
            llm_d.epp.scorer.r#type = plugin_type,
            llm_d.epp.scorer.name = name,
            llm_d.epp.scorer.weight = weight
        )
    })
}

/// The picker.
pub(crate) fn pick(n_candidates: usize) -> Span {
    child(|| {
        tracing::info_span!("pick_endpoints", llm_d.epp.picker.candidate_endpoints = n_candidates)
    })
}

/// A span inside the one that is entered; none where none is, so that requests without traces pay nothing.
fn child(make: impl FnOnce() -> Span) -> Span {
    if Span::current().is_none() { Span::none() } else { make() }
}

/// The trace context that the model server gets: of our span while traces are exported, else the client's
/// where it is well-formed, else a new one that nobody samples.
pub(crate) fn propagate(root: &Span, request: &Request, rng: &mut Rng, patch: &mut HeadPatch) {
    let headers = &request.head.headers;
    if root.is_none() {
        // A malformed context begins a new trace, and what vendors said of the old one goes with it (W3C
        // Trace Context §3.2.2, §3.3.1.3).
        if TraceContext::from_headers(headers).is_none() {
            let trace_id = (u128::from(rng.next_u64()) << 64) | u128::from(rng.next_u64());
            let context = TraceContext::new_root(trace_id, rng.next_u64(), false);
            patch.set(header::TRACEPARENT, context.traceparent());
            patch.remove(header::TRACESTATE);
        }
        return;
    }
    if let Some(context) = traces::outgoing(root, TraceContext::from_headers(headers).as_ref()) {
        patch.set(header::TRACEPARENT, context.traceparent());
        match context.state() {
            Some(state) => patch.set(header::TRACESTATE, state.clone()),
            None => patch.remove(header::TRACESTATE),
        }
    }
}
