//! A GET for the suite's own questions: readiness, counters, a metrics page.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use http::{Request, StatusCode, header::HOST};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use router_rt::Tasks;
use tokio::net::TcpStream;

/// The largest answer that is read, in bytes.
const MAX_ANSWER: usize = 16 << 20;
const LIMIT: Duration = Duration::from_secs(10);

/// The body of `http://{target}{path}` if the status is 200.
///
/// # Errors
/// Any other status, a broken connection, an answer above 16 MiB, or none within ten seconds.
pub async fn get(target: &str, path: &str) -> Result<Bytes> {
    tokio::time::timeout(LIMIT, get_unbounded(target, path))
        .await
        .with_context(|| format!("no answer from {target}{path}"))?
        .with_context(|| format!("GET {target}{path}"))
}

async fn get_unbounded(target: &str, path: &str) -> Result<Bytes> {
    let tcp = TcpStream::connect(target).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(tcp)).await?;
    let tasks = Tasks::new();
    tasks.spawn_cancellable("get", connection);
    let request = Request::get(path).header(HOST, target).body(Empty::<Bytes>::new())?;
    let response = sender.send_request(request).await?;
    let status = response.status();
    let body = Limited::new(response.into_body(), MAX_ANSWER)
        .collect()
        .await
        .map_err(anyhow::Error::from_boxed)?;
    tasks.cancel();
    ensure!(status == StatusCode::OK, "status {status}");
    Ok(body.to_bytes())
}
