//! The real Envoy in front of an endpoint picker, configured as gateways configure it.

mod bootstrap;

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use tempfile::TempDir;

use crate::process::{self, Launch, Process, ProcessError, START_LIMIT, Stream};
use crate::tools;

/// What Envoy does with requests.
#[derive(Debug, Clone, Default)]
pub struct EnvoyConfig {
    /// The endpoint picker to ask; without it requests go where their header says.
    pub ext_proc: Option<ExtProc>,
    pub route: Route,
    /// Sets `envoy.lb.subset_hint` for every request, as a gateway with subset load balancing does.
    pub subset_hint: Option<SubsetHint>,
    /// Leaves `x-envoy-…` headers out, as the standalone chart does and `deploy/envoy.yaml` does not.
    pub suppress_envoy_headers: bool,
    /// Writes one JSON line per request to standard output.
    pub access_log: bool,
    /// Event threads; 0 means one.
    pub n_threads: u32,
}

/// Where and how to reach the endpoint picker.
#[derive(Debug, Clone)]
pub struct ExtProc {
    pub addr: SocketAddr,
    /// TLS without verification, which is what a self-signed certificate needs.
    pub tls: bool,
    /// Go on without the endpoint picker when it cannot be asked.
    pub failure_mode_allow: bool,
    /// How long Envoy waits for each answer.
    pub message_timeout: Duration,
    /// What the endpoint picker sees of responses.
    pub responses: Responses,
}

impl ExtProc {
    /// Plain gRPC with both bodies in full-duplex streams; a request may wait as long as it likes.
    pub fn new(addr: SocketAddr) -> Self {
        Self {
            addr,
            tls: false,
            failure_mode_allow: false,
            message_timeout: Duration::from_secs(1000),
            responses: Responses::Bodies,
        }
    }
}

/// What Envoy shows of responses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Responses {
    /// Headers, bodies and trailers.
    Bodies,
    /// Headers alone.
    Headers,
    /// Nothing.
    Hidden,
}

/// The endpoints that a gateway allows, as `ip:port`, in the two shapes that gateways send.
#[derive(Debug, Clone)]
pub enum SubsetHint {
    List(Vec<String>),
    /// Joined by commas, as Envoy's header-to-metadata filter writes it.
    Text(String),
}

/// What happens to a request after the filters.
#[derive(Debug, Clone, Default)]
pub enum Route {
    /// To the address in `x-gateway-destination-endpoint`.
    #[default]
    Picked,
    /// Answered by Envoy itself.
    Direct { status: u16, body: String },
}

/// A running Envoy. Dropping it ends it.
#[derive(Debug)]
pub struct Envoy {
    process: Process,
    listener: SocketAddr,
    admin: SocketAddr,
    _config_dir: TempDir,
}

impl Envoy {
    /// Starts Envoy on free ports and waits until it takes requests.
    pub async fn start(config: &EnvoyConfig) -> Result<Self, ProcessError> {
        let config_dir = TempDir::new()?;
        let config_file = config_dir.path().join("envoy.json");
        let admin_file = config_dir.path().join("admin");
        std::fs::write(&config_file, bootstrap::document(config).to_string())?;
        let process = Launch::new(tools::envoy()?)
            .arg("--config-path")
            .arg(&config_file)
            .arg("--admin-address-path")
            .arg(&admin_file)
            .args(["--concurrency", &config.n_threads.max(1).to_string()])
            .args(["--disable-hot-restart", "--log-level", "warning"])
            .spawn()?;
        let read_admin = || async {
            std::fs::read_to_string(&admin_file).ok().and_then(|addr| addr.trim().parse().ok())
        };
        let admin = process.wait_ready("its admin address", START_LIMIT, read_admin).await?;
        process.wait_http(admin, "/ready", START_LIMIT).await?;
        let read_listener = || async move {
            let page = process::http_get(admin, "/listeners?format=json").await.ok()?;
            listener_port(&page.body)
        };
        let port = process.wait_ready("its listener's port", START_LIMIT, read_listener).await?;
        let listener = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port);
        Ok(Self { process, listener, admin, _config_dir: config_dir })
    }

    /// Where clients connect, with HTTP/1.1 or with HTTP/2 in the clear.
    pub fn addr(&self) -> SocketAddr {
        self.listener
    }

    /// Where Envoy's admin pages are.
    pub fn admin(&self) -> SocketAddr {
        self.admin
    }

    pub fn process(&self) -> &Process {
        &self.process
    }

    /// One counter or gauge by its full name; an error if there is none.
    pub async fn stat(&self, name: &str) -> io::Result<u64> {
        let path = format!("/stats?filter=^{}$", name.replace('.', "\\."));
        let page = process::http_get(self.admin, &path).await?;
        let text = page.text();
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        value
            .and_then(|value| value.trim().parse().ok())
            .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, format!("no stat {name}")))
    }

    /// The access log so far, one JSON object per request.
    pub fn access_log(&self) -> Vec<serde_json::Value> {
        let text = self.process.text(Stream::Stdout);
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }
}

/// The port of the first listener of Envoy's `/listeners` page.
fn listener_port(page: &[u8]) -> Option<u16> {
    let page: serde_json::Value = serde_json::from_slice(page).ok()?;
    let address = page.pointer("/listener_statuses/0/local_address/socket_address/port_value")?;
    address.as_u64().and_then(|port| u16::try_from(port).ok()).filter(|port| *port != 0)
}
