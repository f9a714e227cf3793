//! The executable as people and manifests call it: documents, starts that cannot be, files that change,
//! signals, the admin pages and the simulator.

mod documents;
mod flow_control;
mod pages;
mod reload;
mod signals;
mod simulator;
mod startup;
mod traces;

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context;
use bytes::Bytes;
use http_body_util::BodyExt;
use router_net::{Upstream, UpstreamOptions, body, upstream::Target};
use router_rt::Tasks;
use router_testkit::process::{Finished, Launch, Process, START_LIMIT, Stream, run_to_end};
use serde_json::Value;

/// How long anything may take that is waited for.
const LIMIT: Duration = Duration::from_secs(30);
/// Ports of the picker that nobody else has.
const PICKER: [&str; 5] = [
    "epp",
    "--bind-address=127.0.0.1",
    "--grpc-port=0",
    "--grpc-health-port=0",
    "--metrics-port=0",
];
const SERVE: [&str; 3] = ["serve", "--listen=127.0.0.1:0", "--metrics-port=0"];

type Outcome = anyhow::Result<()>;

fn executable() -> &'static str {
    env!("CARGO_BIN_EXE_llm-d-router")
}

/// Runs the executable to its end.
async fn finished<S: AsRef<str>>(args: &[S]) -> anyhow::Result<Finished> {
    let launch = Launch::new(executable()).args(args.iter().map(AsRef::as_ref));
    Ok(run_to_end(launch, LIMIT).await?)
}

/// Runs the executable to its end, which must be this exit code, and returns both outputs.
async fn ends_with<S: AsRef<str>>(code: i32, args: &[S]) -> anyhow::Result<(String, String)> {
    let Finished { status, stdout, stderr } = finished(args).await?;
    let line: Vec<_> = args.iter().map(AsRef::as_ref).collect();
    anyhow::ensure!(status.code() == Some(code), "{line:?}: {status}\n{stdout}\n{stderr}");
    Ok((stdout, stderr))
}

/// A folder of files that go with it.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> anyhow::Result<Self> {
        Ok(Self(tempfile::tempdir()?))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Writes a file in one step, whether it was there or not, and returns its path.
    fn write(&self, name: &str, content: impl AsRef<[u8]>) -> anyhow::Result<String> {
        let (path, new) = (self.path(name), self.path(&format!("{name}.new")));
        fs::write(&new, content)?;
        fs::rename(&new, &path)?;
        path.into_os_string().into_string().ok().context("not UTF-8")
    }
}

/// A configuration that finds its endpoints in a file.
fn document(endpoints: &Path, scorer: &str) -> String {
    format!(
        "apiVersion: llm-d.ai/v1alpha1\nkind: EndpointPickerConfig\nplugins:\n- type: {scorer}\n\
         - type: file-discovery\n  parameters: {{path: {}}}\n\
         dataLayer: {{discovery: {{pluginRef: file-discovery}}}}\n",
        endpoints.display()
    )
}

const ONE_ENDPOINT: &str = "endpoints: [{name: a, address: 127.0.0.1, port: 9}]\n";

/// The executable at work.
struct Program {
    process: Process,
    /// Where requests go: HTTP of `serve`, gRPC of `epp`.
    traffic: SocketAddr,
    metrics: SocketAddr,
}

impl Program {
    /// Starts it and waits until it says where it listens.
    async fn start<S: AsRef<str>>(args: &[S]) -> anyhow::Result<Self> {
        Self::launch(Launch::new(executable()), args, "serving").await
    }

    /// Starts it and waits for a line with its addresses that has this text.
    async fn launch<S: AsRef<str>>(launch: Launch, args: &[S], text: &str) -> anyhow::Result<Self> {
        let process = launch.args(args.iter().map(AsRef::as_ref)).spawn()?;
        let is_it = |line: &str| line.contains(text) && line.contains("\"metrics\"");
        let line = process.wait_line(Stream::Stderr, text, START_LIMIT, is_it).await?;
        let line: Value = serde_json::from_str(&line)?;
        let address = |name: &str| {
            let text = line[name].as_str()?;
            text.rsplit('/').next()?.parse().ok()
        };
        let traffic = address("listen").or_else(|| address("ext_proc"));
        Ok(Self {
            traffic: traffic.with_context(|| format!("no address in {line}"))?,
            metrics: address("metrics").with_context(|| format!("no address in {line}"))?,
            process,
        })
    }

    /// Waits until a line of the log has this text.
    async fn logged(&self, text: &str) -> anyhow::Result<String> {
        let has_it = |line: &str| line.contains(text);
        Ok(self.process.wait_line(Stream::Stderr, text, LIMIT, has_it).await?)
    }

    /// Status and body of a page of the metrics port.
    async fn page(&self, path: &str) -> anyhow::Result<(u16, String)> {
        let answer = router_testkit::process::http_get(self.metrics, path).await?;
        Ok((answer.status, answer.text()))
    }

    async fn json_page(&self, path: &str) -> anyhow::Result<Value> {
        let (_, text) = self.page(path).await?;
        serde_json::from_str(&text).with_context(|| format!("{path}: {text}"))
    }

    /// Asks it to end and returns its exit code.
    async fn end(&self) -> anyhow::Result<Option<i32>> {
        self.process.terminate();
        Ok(self.process.wait_exit(LIMIT).await?.code())
    }
}

/// Sends one request and returns the status, the content type and the body.
async fn send(
    addr: SocketAddr,
    path: &str,
    headers: &[(&str, &str)],
    content: &str,
) -> anyhow::Result<(u16, String, String)> {
    let tasks = Tasks::new();
    let upstream = Upstream::new(UpstreamOptions::default(), &tasks);
    let method = if content.is_empty() { http::Method::GET } else { http::Method::POST };
    let mut request = http::Request::builder().method(method).uri(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(body::full(Bytes::copy_from_slice(content.as_bytes())))?;
    let answer = upstream.send(&Target::clear(addr), request).await;
    let answer = answer.map_err(|error| anyhow::anyhow!("{error}"))?;
    let kind = answer.headers().get(http::header::CONTENT_TYPE);
    let kind = kind.map(|kind| String::from_utf8_lossy(kind.as_bytes()).into_owned());
    let status = answer.status().as_u16();
    let body = answer.into_body().collect().await.map_err(|error| anyhow::anyhow!("{error}"))?;
    tasks.cancel();
    let text = String::from_utf8_lossy(&body.to_bytes()).into_owned();
    Ok((status, kind.unwrap_or_default(), text))
}

const CHAT: &str = "/v1/chat/completions";

/// A request for a chat completion.
fn chat(model: &str, max_tokens: u32) -> String {
    serde_json::json!({
        "model": model,
        "max_tokens": max_tokens,
        "ignore_eos": true,
        "messages": [{ "role": "user", "content": "hello" }],
    })
    .to_string()
}
