//! Questions to a child that is starting.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use router_proto::health::HealthCheckRequest;
use router_proto::health::health_check_response::ServingStatus;
use router_proto::health::health_client::HealthClient;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// How often a condition is looked at: often beside what a process takes to start.
const POLL_INTERVAL: Duration = Duration::from_millis(5);
/// One question may take this long before it is asked anew.
const PROBE_LIMIT: Duration = Duration::from_secs(2);
/// The longest answer read, in bytes.
const MAX_ANSWER: u64 = 16 * 1024 * 1024;

/// Asks until there is an answer; none if there is none within `limit`.
pub async fn poll_until<T, F>(limit: Duration, mut probe: impl FnMut() -> F) -> Option<T>
where
    F: Future<Output = Option<T>>,
{
    let ask = async {
        loop {
            if let Ok(Some(answer)) = tokio::time::timeout(PROBE_LIMIT, probe()).await {
                return answer;
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    };
    tokio::time::timeout(limit, ask).await.ok()
}

/// What a small HTTP server said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpAnswer {
    pub status: u16,
    /// As it came, header names included.
    pub head: String,
    pub body: Vec<u8>,
}

impl HttpAnswer {
    /// The body as text; what is not UTF-8 is replaced.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// `GET path` on a connection of its own, over plain HTTP/1.1.
///
/// For admin pages and probes; traffic under test needs a real client.
pub async fn http_get(addr: SocketAddr, path: &str) -> io::Result<HttpAnswer> {
    let mut stream = TcpStream::connect(addr).await?;
    let request = format!("GET {path} HTTP/1.1\r\nhost: {addr}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.take(MAX_ANSWER).read_to_end(&mut answer).await?;
    parse_answer(&answer).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "not HTTP/1.1"))
}

fn parse_answer(answer: &[u8]) -> Option<HttpAnswer> {
    let head_len = answer.windows(4).position(|window| window == b"\r\n\r\n")?;
    let head = String::from_utf8_lossy(&answer[..head_len]).into_owned();
    let status = head.split(' ').nth(1)?.parse().ok()?;
    let body = &answer[head_len + 4..];
    let is_chunked = head.lines().any(|line| {
        line.to_ascii_lowercase().starts_with("transfer-encoding:") && line.ends_with("chunked")
    });
    let body = if is_chunked { without_chunks(body)? } else { body.to_vec() };
    Some(HttpAnswer { status, head, body })
}

fn without_chunks(mut framed: &[u8]) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let line_end = framed.windows(2).position(|window| window == b"\r\n")?;
        let size = std::str::from_utf8(&framed[..line_end]).ok()?.split(';').next()?.trim();
        let size = usize::from_str_radix(size, 16).ok()?;
        let data = framed.get(line_end + 2..)?;
        if size == 0 {
            return Some(body);
        }
        body.extend_from_slice(data.get(..size)?);
        framed = data.get(size.checked_add(2)?..)?;
    }
}

/// What the gRPC health service at `addr`, without TLS, says about `service`.
pub async fn grpc_status(addr: SocketAddr, service: &str) -> Result<ServingStatus, tonic::Status> {
    let channel = tonic::transport::Endpoint::from_shared(format!("http://{addr}"))
        .map_err(|error| tonic::Status::invalid_argument(error.to_string()))?
        .connect()
        .await
        .map_err(|error| tonic::Status::unavailable(error.to_string()))?;
    let request = HealthCheckRequest { service: service.to_owned() };
    Ok(HealthClient::new(channel).check(request).await?.into_inner().status())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(answer: &str, expected: Option<(u16, &str)>) {
        let parsed = parse_answer(answer.as_bytes()).map(|answer| (answer.status, answer.text()));
        assert_eq!(parsed, expected.map(|(status, body)| (status, body.to_owned())), "{answer}");
    }

    #[test]
    fn answers_are_parsed() {
        check("HTTP/1.1 200 OK\r\na: b\r\n\r\nbody", Some((200, "body")));
        let chunked = "HTTP/1.1 503 X\r\nTransfer-Encoding: chunked\r\n\r\n";
        check(&format!("{chunked}2\r\nab\r\n1;x=y\r\nc\r\n0\r\n\r\n"), Some((503, "abc")));
        check(&format!("{chunked}5\r\nab"), None);
        check(&format!("{chunked}ffffffffffffffff\r\nab"), None);
        check("HTTP/1.1 200 OK\r\n", None);
        check("junk\r\n\r\n", None);
    }
}
