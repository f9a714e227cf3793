//! Traces on their way to a collector, and the warning of a router that would route at random.

use anyhow::{Context, ensure};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::BodyExt;
use router_net::{
    Server, ServerOptions, body,
    tls::{CertFiles, ServerTls, ServerTlsOptions},
};
use router_rt::Tasks;
use router_testkit::process::Launch;
use tokio::{net::TcpListener, sync::mpsc};

use super::{CHAT, Folder, LIMIT, ONE_ENDPOINT, Outcome, Program, SERVE, chat, executable, send};
use crate::serve::certificate;

/// What a collector was sent.
struct Export {
    path: String,
    api_key: Option<String>,
    content: Bytes,
}

async fn export(request: Request<hyper::body::Incoming>) -> anyhow::Result<Export> {
    let path = request.uri().path().to_owned();
    let api_key = request.headers().get("api-key").map(|key| key.to_str().map(str::to_owned));
    let content = request.into_body().collect().await?.to_bytes();
    Ok(Export { path, api_key: api_key.transpose()?, content })
}

#[tokio::test]
async fn a_collector_gets_traces_over_tls() -> Outcome {
    let (folder, tasks) = (Folder::new()?, Tasks::new());
    let trusted = certificate(folder.0.path())?;
    let files = CertFiles::in_dir(folder.0.path());
    let tls = ServerTls::from_files(&files, &ServerTlsOptions::default())?;
    let (sent, mut exports) = mpsc::channel(64);
    let collect = move |request: Request<hyper::body::Incoming>| {
        let sent = sent.clone();
        async move {
            if let Ok(export) = export(request).await {
                let _more_than_are_looked_at = sent.try_send(export);
            }
            let mut answer = Response::new(body::empty());
            answer.headers_mut().insert("grpc-status", http::HeaderValue::from_static("0"));
            answer
        }
    };
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = format!("https://localhost:{}", listener.local_addr()?.port());
    let options = ServerOptions::named("collector");
    let _collector = Server::start(listener, Some(tls), options, &tasks, collect)?;
    let launch = Launch::new(executable())
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", &address)
        .env("OTEL_EXPORTER_OTLP_CERTIFICATE", trusted)
        .env("OTEL_EXPORTER_OTLP_HEADERS", "api-key=open%20sesame")
        .env("OTEL_TRACES_SAMPLER_ARG", "1")
        .env("OTEL_BSP_SCHEDULE_DELAY", "50");
    let router = Program::launch(launch, &[&SERVE[..], &["--demo=1"]].concat(), "serving").await?;
    let (status, _, answer) = send(router.traffic, CHAT, &[], &chat("demo", 2)).await?;
    ensure!(status == 200, "{answer}");
    let has = |export: &Export, text: &str| {
        export.content.windows(text.len()).any(|part| part == text.as_bytes())
    };
    let of_request = async {
        while let Some(export) = exports.recv().await {
            if has(&export, "gateway.request") {
                return Some(export);
            }
        }
        None
    };
    let export = tokio::time::timeout(LIMIT, of_request).await?.context("no trace came")?;
    ensure!(export.path == "/opentelemetry.proto.collector.trace.v1.TraceService/Export");
    ensure!(export.api_key.as_deref() == Some("open sesame"), "{:?}", export.api_key);
    ensure!(has(&export, "llm-d-epp"));
    tasks.cancel();
    Ok(())
}

#[tokio::test]
async fn settings_of_traces_that_cannot_be_followed() -> Outcome {
    for (name, value, said) in [
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf", "`http/protobuf`; only grpc is known"),
        ("OTEL_EXPORTER_OTLP_CERTIFICATE", "/nowhere", "CERTIFICATE: /nowhere does not exist"),
        ("OTEL_TRACES_SAMPLER", "always_on", "only parentbased_traceidratio is known"),
    ] {
        let launch = Launch::new(executable())
            .env("OTEL_TRACES_EXPORTER", "otlp")
            .env(name, value)
            .args(SERVE)
            .arg("--demo=1");
        let ended = router_testkit::process::run_to_end(launch, LIMIT).await?;
        ensure!(ended.status.code() == Some(2), "{ended:?}");
        ensure!(ended.stderr.contains(said), "{name}={value}: {}", ended.stderr);
    }
    Ok(())
}

/// A document that only says where endpoints are is one that scores nothing.
#[tokio::test]
async fn a_document_without_a_scorer_is_warned_of() -> Outcome {
    let folder = Folder::new()?;
    folder.write("endpoints.yaml", ONE_ENDPOINT)?;
    let text = super::document(&folder.path("endpoints.yaml"), "queue-scorer");
    let file = folder.write("config.yaml", text.replace("- type: queue-scorer\n", ""))?;
    let said = "no profile has a scorer: requests go to endpoints at random";
    let (_, stderr) = super::ends_with(0, &["config", "check", &file]).await?;
    ensure!(stderr.contains(&format!("config.yaml:3:1: warning: plugins: {said}")), "{stderr}");
    ensure!(stderr.contains("such as `- type: queue-scorer`"), "{stderr}");
    let router = Program::start(&[&SERVE[..], &["--config-file", &file]].concat()).await?;
    let line = router.logged(said).await?;
    ensure!(line.contains("`- type: queue-scorer`"), "{line}");
    Ok(())
}
