use opentelemetry_sdk::trace::InMemorySpanExporter;
use tracing_subscriber::layer::SubscriberExt;

use super::*;
use crate::build::BUILD;

const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

fn options(variables: &[(&str, &str)]) -> Result<Option<TraceOptions>, TraceError> {
    let variable = |name: &str| {
        variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
    };
    TraceOptions::from_env(variable, |path| match path {
        Some("/missing") => Err("it is not there".to_owned()),
        Some("/empty") => Ok(Vec::new()),
        Some(path) => Ok(pem(path)),
        None => Ok(pem("the system's")),
    })
}

fn pem(of: &str) -> Vec<u8> {
    format!("# {of}\n-----BEGIN CERTIFICATE-----\n").into()
}

#[test]
fn a50_off_unless_an_otlp_setting_is_there() {
    for off in [
        &[][..],
        &[("OTEL_TRACES_SAMPLER_ARG", "1")],
        &[("OTEL_TRACES_EXPORTER", "console")],
        &[("OTEL_TRACES_EXPORTER", "none"), ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4317")],
        &[("OTEL_EXPORTER_OTLP_ENDPOINT", "")],
        &[("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4317"), ("OTEL_SDK_DISABLED", "TRUE")],
    ] {
        assert_eq!(options(off).unwrap(), None, "{off:?}");
    }
}

#[test]
fn reads_the_standard_variables() {
    let plain = options(&[("OTEL_TRACES_EXPORTER", "otlp")]).unwrap().unwrap();
    assert_eq!(plain.endpoint, "http://localhost:4317");
    assert_eq!((plain.ratio, plain.service_name.as_str()), (0.1, "llm-d-epp"));
    let full = options(&[
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://general:4317"),
        ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://traces:4317"),
        ("OTEL_TRACES_SAMPLER", "parentbased_traceidratio"),
        ("OTEL_TRACES_SAMPLER_ARG", "0.5"),
        ("OTEL_SERVICE_NAME", "mine"),
    ]);
    let full = full.unwrap().unwrap();
    assert_eq!(full.endpoint, "http://traces:4317");
    assert_eq!((full.ratio, full.service_name.as_str()), (0.5, "mine"));
    assert_eq!(full.tls, None);
}

#[test]
fn a_collector_with_tls_is_trusted_by_the_system_or_a_file() {
    let tls = |variables: &[(&str, &str)]| {
        let otlp = [("OTEL_TRACES_EXPORTER", "otlp")];
        let options = options(&[&otlp[..], variables].concat()).unwrap().unwrap();
        (options.endpoint, options.tls.unwrap())
    };
    let system = CollectorTls { roots: pem("the system's"), identity: None };
    let secure = ("OTEL_EXPORTER_OTLP_ENDPOINT", "https://c:4317");
    assert_eq!(tls(&[secure]), ("https://c:4317".to_owned(), system));
    let roots = ("OTEL_EXPORTER_OTLP_CERTIFICATE", "/ca");
    let own = CollectorTls { roots: pem("/ca"), identity: None };
    assert_eq!(tls(&[roots]), ("https://localhost:4317".to_owned(), own));
    let (_, shown) = tls(&[
        secure,
        ("OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE", "/general"),
        ("OTEL_EXPORTER_OTLP_TRACES_CLIENT_CERTIFICATE", "/crt"),
        ("OTEL_EXPORTER_OTLP_CLIENT_KEY", "/key"),
    ]);
    assert_eq!(shown.identity, Some((pem("/crt"), pem("/key"))));
    assert!(!format!("{shown:?}").contains("47"), "a key is shown");
}

#[test]
fn settings_that_cannot_be_followed_are_errors() {
    let secure = ("OTEL_EXPORTER_OTLP_ENDPOINT", "https://c:4317");
    let check = |name, value, said: &str| {
        let error = options(&[("OTEL_TRACES_EXPORTER", "otlp"), (name, value)]);
        let error = error.and_then(|_| options(&[secure, (name, value)])).unwrap_err().to_string();
        assert!(error.contains(said), "{name}={value}: {error}");
    };
    check("OTEL_TRACES_EXPORTER", "zipkin", "`zipkin`; known are otlp");
    check("OTEL_TRACES_SAMPLER", "always_on", "only parentbased_traceidratio is known");
    check(
        "OTEL_EXPORTER_OTLP_PROTOCOL",
        "http/protobuf",
        "OTLP_PROTOCOL `http/protobuf`; only grpc",
    );
    check("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "http/json", "TRACES_PROTOCOL `http/json`");
    check("OTEL_EXPORTER_OTLP_COMPRESSION", "zstd", "known are gzip and none");
    check("OTEL_EXPORTER_OTLP_TIMEOUT", "10s", "`10s` is not a number of milliseconds");
    check("OTEL_EXPORTER_OTLP_CERTIFICATE", "/missing", "OTLP_CERTIFICATE: it is not there");
    check("OTEL_EXPORTER_OTLP_CERTIFICATE", "/empty", "OTLP_CERTIFICATE: no certificate in it");
    check("OTEL_EXPORTER_OTLP_CLIENT_KEY", "/key", "needs both");
    for bad in ["2", "-1", "NaN", "much"] {
        check("OTEL_TRACES_SAMPLER_ARG", bad, "is not a number from 0 to 1");
    }
    for bad in ["grpc://c:4317", "c:4317", "http://", "::"] {
        let outcome = options(&[("OTEL_EXPORTER_OTLP_ENDPOINT", bad)]);
        assert!(matches!(outcome, Err(TraceError::BadEndpoint(_))), "{bad}");
    }
    for bad in ["secret", "a=1,secret", "sec ret=1", "a=\u{7f}secret"] {
        check("OTEL_EXPORTER_OTLP_HEADERS", bad, "OTLP_HEADERS is not a list of `name=value`");
        let error = options(&[secure, ("OTEL_EXPORTER_OTLP_HEADERS", bad)]).unwrap_err();
        assert!(!error.to_string().contains("secret"), "{error}");
    }
    let good = options(&[secure, ("OTEL_EXPORTER_OTLP_HEADERS", "api-key=a%20b, x = y=z,")]);
    assert!(good.unwrap().is_some());
}

#[test]
fn without_an_exporter_the_incoming_context_goes_on() {
    let incoming = TraceContext::parse(PARENT).unwrap();
    let span = tracing::info_span!(target: "router_x", "request");
    link_parent(&span, &incoming);
    assert_eq!(outgoing(&span, Some(&incoming)), Some(incoming));
    assert_eq!(outgoing(&span, None), None);
}

#[test]
fn with_an_exporter_the_span_joins_the_trace_and_is_handed_on() {
    let exporter = InMemorySpanExporter::default();
    let provider = SdkTracerProvider::builder().with_simple_exporter(exporter.clone()).build();
    let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("test"));
    let subscriber = tracing_subscriber::registry().with(layer.with_filter(ours()));
    let incoming = TraceContext::parse(PARENT).unwrap();
    let sent = tracing::subscriber::with_default(subscriber, || {
        let span = tracing::info_span!(target: "router_x", "gateway.request");
        link_parent(&span, &incoming);
        let _theirs = tracing::info_span!(target: "hyper", "not ours").entered();
        outgoing(&span, Some(&incoming)).unwrap()
    });
    let spans = exporter.get_finished_spans().unwrap();
    assert_eq!(spans.len(), 1);
    assert_eq!(spans[0].name, "gateway.request");
    assert_eq!(spans[0].parent_span_id, SpanId::from(incoming.span_id()));
    assert_eq!(sent.trace_id(), incoming.trace_id());
    assert_eq!(SpanId::from(sent.span_id()), spans[0].span_context.span_id());
    assert_ne!(sent.span_id(), incoming.span_id());
    assert!(sent.is_sampled());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unreachable_collector_stops_nobody() {
    let options = TraceOptions {
        endpoint: "http://127.0.0.1:1".to_owned(),
        tls: None,
        ratio: 1.0,
        service_name: "test".to_owned(),
    };
    let (traces, layer) = Traces::start(&options, &BUILD).unwrap();
    let subscriber = tracing_subscriber::registry().with(layer);
    tracing::subscriber::with_default(subscriber, || {
        tracing::info_span!(target: "router_x", "lost").in_scope(|| {});
    });
    traces.shutdown(Duration::from_millis(100));
}
