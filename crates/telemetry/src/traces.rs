//! Traces to an OTLP collector: off unless configured (`spec/request-path.md` §6.4).

use std::time::Duration;

use opentelemetry::{
    Context, InstrumentationScope, KeyValue,
    trace::{
        SpanContext, SpanId, TraceContextExt, TraceFlags, TraceId, TraceState, TracerProvider,
    },
};
use opentelemetry_otlp::{SpanExporter, WithExportConfig};
use opentelemetry_sdk::{
    Resource,
    trace::{Sampler, SdkTracerProvider},
};
use thiserror::Error;
use tracing::{Span, Subscriber};
use tracing_opentelemetry::OpenTelemetrySpanExt;
use tracing_subscriber::{
    Layer,
    filter::{LevelFilter, Targets},
    registry::LookupSpan,
};

use crate::{build::BuildInfo, trace_context::TraceContext};

/// Where traces go, and how many.
#[derive(Clone, Debug, PartialEq)]
pub struct TraceOptions {
    /// The collector's gRPC address, `http://host:port`.
    pub endpoint: String,
    /// Share of traces begun here that are kept, 0 to 1; a caller's decision goes before.
    pub ratio: f64,
    pub service_name: String,
}

/// A trace setting that cannot be followed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum TraceError {
    #[error("unknown OTEL_TRACES_SAMPLER `{0}`; only parentbased_traceidratio is known")]
    UnknownSampler(String),
    #[error("OTEL_TRACES_SAMPLER_ARG `{0}` is not a number from 0 to 1")]
    BadRatio(String),
    #[error("the OTLP address `{0}` is not http://host:port; TLS to a collector is not supported")]
    BadEndpoint(String),
    #[error("cannot make an OTLP exporter: {0}")]
    Exporter(String),
}

/// Sends what is left when it is shut down.
#[derive(Debug)]
pub struct Traces {
    provider: SdkTracerProvider,
}

const DEFAULT_ENDPOINT: &str = "http://localhost:4317";
const DEFAULT_RATIO: f64 = 0.1;
const DEFAULT_SERVICE_NAME: &str = "llm-d-epp";

// === impl TraceOptions ===

impl TraceOptions {
    /// What the standard `OTEL_*` variables ask for; none when they ask for nothing.
    ///
    /// Differs: without an OTLP setting the Go implementation prints traces to standard output,
    /// which nobody wants in production.
    pub fn from_env(variable: impl Fn(&str) -> Option<String>) -> Result<Option<Self>, TraceError> {
        let set = |name: &str| variable(name).filter(|value| !value.is_empty());
        let endpoint = set("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
            .or_else(|| set("OTEL_EXPORTER_OTLP_ENDPOINT"));
        let wanted = match set("OTEL_TRACES_EXPORTER").as_deref() {
            Some("otlp") => true,
            Some(_) => false,
            None => endpoint.is_some(),
        };
        if !wanted {
            return Ok(None);
        }
        let endpoint = endpoint.unwrap_or_else(|| DEFAULT_ENDPOINT.to_owned());
        let is_clear = endpoint
            .parse::<http::Uri>()
            .is_ok_and(|uri| uri.scheme_str() == Some("http") && uri.host().is_some());
        if !is_clear {
            return Err(TraceError::BadEndpoint(endpoint));
        }
        match set("OTEL_TRACES_SAMPLER") {
            Some(sampler) if sampler != "parentbased_traceidratio" => {
                return Err(TraceError::UnknownSampler(sampler));
            }
            Some(_) | None => {}
        }
        let ratio = match set("OTEL_TRACES_SAMPLER_ARG") {
            None => DEFAULT_RATIO,
            Some(text) => match text.parse::<f64>() {
                Ok(ratio) if (0.0..=1.0).contains(&ratio) => ratio,
                Ok(_) | Err(_) => return Err(TraceError::BadRatio(text)),
            },
        };
        let service_name =
            set("OTEL_SERVICE_NAME").unwrap_or_else(|| DEFAULT_SERVICE_NAME.to_owned());
        Ok(Some(Self { endpoint, ratio, service_name }))
    }
}

// === impl Traces ===

impl Traces {
    /// Makes the exporter and the layer that feeds it. Must run on a tokio runtime.
    pub fn start<S>(
        options: &TraceOptions,
        build: &BuildInfo,
    ) -> Result<(Self, Box<dyn Layer<S> + Send + Sync>), TraceError>
    where
        S: Subscriber + for<'span> LookupSpan<'span> + Send + Sync,
    {
        let exporter = SpanExporter::builder()
            .with_tonic()
            .with_endpoint(&options.endpoint)
            .with_timeout(EXPORT_TIMEOUT)
            .build()
            .map_err(|error| TraceError::Exporter(error.to_string()))?;
        let sampler = Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(options.ratio)));
        let provider = SdkTracerProvider::builder()
            .with_batch_exporter(exporter)
            .with_sampler(sampler)
            .with_resource(
                Resource::builder().with_service_name(options.service_name.clone()).build(),
            )
            .build();
        let scope = InstrumentationScope::builder("llm-d-router")
            .with_version(build.version)
            .with_attributes([KeyValue::new("commit-sha", build.commit)])
            .build();
        let layer = tracing_opentelemetry::layer()
            .with_tracer(provider.tracer_with_scope(scope))
            .with_filter(ours())
            .boxed();
        Ok((Self { provider }, layer))
    }

    /// Sends what is left, for at most `limit`. Blocks: run it off the runtime's threads.
    pub fn shutdown(&self, limit: Duration) {
        if let Err(error) = self.provider.shutdown_with_timeout(limit) {
            tracing::warn!(%error, "traces were not sent to the last");
        }
    }
}

const EXPORT_TIMEOUT: Duration = Duration::from_secs(10);

/// Spans of our own crates only: the exporter's own would feed on themselves.
fn ours() -> Targets {
    Targets::new()
        .with_target("router_", LevelFilter::INFO)
        .with_target("llm_d_router", LevelFilter::INFO)
}

/// Makes `span` a child of the span that a request came from.
pub fn link_parent(span: &Span, parent: &TraceContext) {
    let state = parent.state().and_then(|state| state.to_str().ok());
    let state = state.and_then(|state| state.parse::<TraceState>().ok()).unwrap_or_default();
    let context = SpanContext::new(
        TraceId::from(parent.trace_id()),
        SpanId::from(parent.span_id()),
        TraceFlags::new(parent.flags()),
        true,
        state,
    );
    // Without an exporter there is nothing to link, and the error says just that.
    let _not_exporting = span.set_parent(Context::new().with_remote_span_context(context));
}

/// The context to send on: that of `span` while traces are exported, else the one that came in.
pub fn outgoing(span: &Span, incoming: Option<&TraceContext>) -> Option<TraceContext> {
    let context = span.context();
    let of_span = context.span();
    let of_span = of_span.span_context();
    if !of_span.is_valid() {
        return incoming.cloned();
    }
    Some(TraceContext::from_parts(
        u128::from_be_bytes(of_span.trace_id().to_bytes()),
        u64::from_be_bytes(of_span.span_id().to_bytes()),
        of_span.trace_flags().to_u8(),
        &of_span.trace_state().header(),
    ))
}

#[cfg(test)]
mod tests;
