//! Traces to an OTLP collector: off unless configured (`spec/request-path.md` §6.4).

mod options;

use std::time::Duration;

use opentelemetry::{
    Context, InstrumentationScope, KeyValue,
    trace::{
        SpanContext, SpanId, TraceContextExt, TraceFlags, TraceId, TraceState, TracerProvider,
    },
};
use opentelemetry_otlp::{
    SpanExporter, WithExportConfig, WithTonicConfig,
    tonic_types::transport::{Certificate, ClientTlsConfig, Identity},
};
use opentelemetry_sdk::{
    Resource,
    trace::{Sampler, SdkTracerProvider},
};
use tracing::{Span, Subscriber};
use tracing_opentelemetry::OpenTelemetrySpanExt;
use tracing_subscriber::{
    Layer,
    filter::{LevelFilter, Targets},
    registry::LookupSpan,
};

pub use self::options::{CollectorTls, TraceError, TraceOptions};
use crate::{build::BuildInfo, trace_context::TraceContext};

/// Sends what is left when it is shut down.
#[derive(Debug)]
pub struct Traces {
    provider: SdkTracerProvider,
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
        let mut exporter = SpanExporter::builder().with_tonic().with_endpoint(&options.endpoint);
        if let Some(tls) = &options.tls {
            exporter = exporter.with_tls_config(client_tls(tls));
        }
        // Headers, compression and the time limit are the library's to read: it knows their variables.
        let exporter = exporter.build().map_err(|error| TraceError::Exporter(error.to_string()))?;
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

fn client_tls(tls: &CollectorTls) -> ClientTlsConfig {
    let config = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(&tls.roots));
    match &tls.identity {
        None => config,
        Some((certificate, key)) => config.identity(Identity::from_pem(certificate, key)),
    }
}

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
