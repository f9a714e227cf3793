//! The programs that take part: where they are and how they are started.

use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use router_proto::health::HealthCheckRequest;
use router_proto::health::health_check_response::ServingStatus;
use router_proto::health::health_client::HealthClient;
use tempfile::TempDir;
use tokio::net::TcpStream;
use tonic::transport::Endpoint;

use super::{Child, Launch, SuiteArgs, endpoints_file, envoy_bootstrap, picker_config};
use crate::http::get::get;
use crate::http::upstream::Stats;
use crate::load::Report;

/// What the router calls its service in health checks.
const PICKER_SERVICE: &str = "envoy.service.ext_proc.v3.ExternalProcessor";
const PROBE_LIMIT: Duration = Duration::from_secs(2);
/// How much longer than asked a load generator may run: it waits for its last requests.
const LOAD_GRACE: Duration = Duration::from_mins(5);

/// Paths of the programs.
#[derive(Clone, Debug)]
pub struct Programs {
    pub router: PathBuf,
    pub envoy: Option<PathBuf>,
    folder: PathBuf,
}

/// Everything that scenarios share.
#[derive(Debug)]
pub struct Bench {
    pub args: SuiteArgs,
    pub programs: Programs,
    folder: TempDir,
}

/// Model servers that run, and the documents that name them.
#[derive(Debug)]
pub(super) struct Pool {
    _child: Child,
    pub(super) addresses: Vec<String>,
    config: PathBuf,
    /// Endpoints file, configuration and logs of this pool's programs.
    folder: PathBuf,
}

/// A server that takes load.
#[derive(Debug)]
pub struct Server {
    /// `None` where the load goes to the model servers themselves.
    child: Option<Child>,
    pub address: String,
}

// === impl Programs ===

impl Programs {
    /// # Errors
    /// A program that is not there.
    pub fn find(args: &SuiteArgs) -> Result<Self> {
        let folder = match &args.programs {
            Some(folder) => folder.clone(),
            None => {
                let this = std::env::current_exe().context("finding the measuring programs")?;
                this.parent().context("a program outside any folder")?.to_owned()
            }
        };
        let programs = Self { router: args.router.clone(), envoy: args.envoy.clone(), folder };
        for path in [Some(&programs.router), programs.envoy.as_ref()].into_iter().flatten() {
            ensure!(is_file(path), "no program {}", path.display());
        }
        for name in ["extproc-floor", "extproc-load", "http-floor", "http-load", "mini-upstream"] {
            let path = programs.own(name);
            ensure!(
                is_file(&path),
                "no program {}: build it with `cargo build --release --package router-bench --bins`",
                path.display()
            );
        }
        Ok(programs)
    }

    /// One of the measuring programs.
    pub fn own(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }
}

fn is_file(path: &Path) -> bool {
    path.metadata().is_ok_and(|metadata| metadata.is_file())
}

// === impl Bench ===

impl Bench {
    /// # Errors
    /// A program that is not there, or no room for documents and logs.
    pub fn new(args: &SuiteArgs) -> Result<Self> {
        Ok(Self {
            args: args.clone(),
            programs: Programs::find(args)?,
            folder: tempfile::tempdir().context("a folder for documents and logs")?,
        })
    }

    fn server_core(&self) -> Option<usize> {
        (!self.args.no_pin).then_some(self.args.server_core)
    }

    fn client_core(&self) -> Option<usize> {
        (!self.args.no_pin).then_some(self.args.client_core)
    }

    /// Starts model servers and writes the documents that name them.
    pub(super) async fn pool(&self, n: usize, page: &str, n_variants: usize) -> Result<Pool> {
        let (n, n_variants) = (n.to_string(), n_variants.to_string());
        let args = ["--endpoints", &n, "--page", page, "--page-variants", &n_variants];
        let launch = Launch::new(self.programs.own("mini-upstream"), self.client_core(), args);
        let folder = self.folder.path().join("pool");
        std::fs::create_dir_all(&folder)?;
        let (child, line) = launch.spawn_for_line(&folder).await?;
        let addresses: Vec<String> = serde_json::from_str(&line)?;
        let endpoints = folder.join("endpoints.yaml");
        let config = folder.join("config.yaml");
        std::fs::write(&endpoints, endpoints_file(&addresses))?;
        std::fs::write(&config, picker_config(&endpoints))?;
        Ok(Pool { _child: child, addresses, config, folder })
    }

    /// Starts the router as an endpoint picker and waits until it is ready.
    pub(super) async fn picker(&self, pool: &Pool, refresh: &str) -> Result<Server> {
        let [grpc, health, metrics] = free_ports()?;
        let mut args = picker_args(&pool.config, [grpc, health, metrics], refresh);
        args.extend_from_slice(&self.args.router_args);
        let mut child =
            Launch::new(&self.programs.router, self.server_core(), args).spawn(&pool.folder)?;
        child.until_ready(|| is_serving(health)).await?;
        Ok(Server { child: Some(child), address: format!("127.0.0.1:{grpc}") })
    }

    /// Starts the router as a proxy and waits until it is ready.
    pub(super) async fn proxy(&self, pool: &Pool) -> Result<Server> {
        let [listen, metrics, _] = free_ports()?;
        let address = format!("127.0.0.1:{listen}");
        let mut args = proxy_args(&pool.config, &address, metrics);
        args.extend_from_slice(&self.args.router_args);
        let mut child =
            Launch::new(&self.programs.router, self.server_core(), args).spawn(&pool.folder)?;
        child.until_ready(|| async { get(&address, "/readyz").await.map(drop) }).await?;
        Ok(Server { child: Some(child), address })
    }

    /// Starts the endpoint picker that decides nothing.
    pub async fn picker_floor(&self) -> Result<Server> {
        let program = self.programs.own("extproc-floor");
        let launch = Launch::new(program, self.server_core(), ["127.0.0.1:0"]);
        let (child, address) = launch.spawn_for_line(self.folder.path()).await?;
        Ok(Server { child: Some(child), address })
    }

    /// Starts the reverse proxy that decides nothing.
    pub(super) async fn proxy_floor(&self, pool: &Pool) -> Result<Server> {
        let endpoints = pool.addresses.join(",");
        let args = ["--listen", "127.0.0.1:0", "--endpoints", &endpoints];
        let launch = Launch::new(self.programs.own("http-floor"), self.server_core(), args);
        let (child, address) = launch.spawn_for_line(&pool.folder).await?;
        Ok(Server { child: Some(child), address })
    }

    /// The first of the model servers, with nothing before it.
    pub(super) fn direct(&self, pool: &Pool) -> Result<Server> {
        let address = pool.addresses.first().context("a pool without endpoints")?.clone();
        Ok(Server { child: None, address })
    }

    /// Starts an Envoy that decides nothing, if there is an Envoy.
    pub(super) async fn envoy(&self, pool: &Pool) -> Result<Option<Server>> {
        let Some(envoy) = &self.programs.envoy else { return Ok(None) };
        let [port, ..] = free_ports()?;
        let document = pool.folder.join("envoy.json");
        std::fs::write(&document, envoy_bootstrap(port, &pool.addresses).to_string())?;
        let args = [
            "--config-path",
            &document.to_string_lossy(),
            "--concurrency",
            "1",
            "--disable-hot-restart",
            "--log-level",
            "warning",
        ];
        let mut child = Launch::new(envoy, self.server_core(), args).spawn(&pool.folder)?;
        let address = format!("127.0.0.1:{port}");
        child.until_ready(|| async { get(&address, "/health").await.map(drop) }).await?;
        Ok(Some(Server { child: Some(child), address }))
    }

    /// Runs a load generator and reads its report.
    ///
    /// # Errors
    /// A generator that fails, or requests that did: figures beside errors mean nothing.
    pub async fn load(&self, name: &str, args: &[String]) -> Result<Report<serde_json::Value>> {
        let text = self.run_own(name, args).await?;
        let report: Report<serde_json::Value> = serde_json::from_str(&text)?;
        let n_bad = report.summary.failed + report.summary.rejected;
        ensure!(n_bad == 0, "{n_bad} requests failed: {:?}", report.summary.errors);
        Ok(report)
    }

    /// Runs one of the measuring programs on the client's core and returns what it printed.
    pub(super) async fn run_own(&self, name: &str, args: &[String]) -> Result<String> {
        let launch = Launch::new(self.programs.own(name), self.client_core(), args);
        launch.output(self.args.turn() + LOAD_GRACE).await
    }

    /// The flags of one turn of a load generator.
    pub(super) fn turn_args(&self, server: &Server) -> Vec<String> {
        let mut args = vec![
            "--json".to_owned(),
            format!("--target={}", server.address),
            format!("--duration={}", self.args.seconds),
            format!("--warmup={}", self.args.warmup),
        ];
        args.extend(server.child.as_ref().map(|child| format!("--pid={}", child.pid())));
        args
    }
}

// === impl Server ===

impl Server {
    /// The process number of a server of its own.
    pub(super) fn pid(&self) -> Result<u32> {
        Ok(self.child.as_ref().context("a server without a process of its own")?.pid())
    }

    pub(super) fn freeze(&self) -> Result<()> {
        self.child.as_ref().map_or(Ok(()), Child::freeze)
    }

    pub(super) fn thaw(&self) -> Result<()> {
        self.child.as_ref().map_or(Ok(()), Child::thaw)
    }
}

// === impl Pool ===

impl Pool {
    /// What the model servers have served so far.
    pub(super) async fn stats(&self) -> Result<Stats> {
        let address = self.addresses.first().context("a pool without endpoints")?;
        Ok(serde_json::from_slice(&get(address, "/bench/stats").await?)?)
    }
}

/// The picker's command line; ports of ext-proc, health and metrics.
pub fn picker_args(config: &Path, ports: [u16; 3], refresh: &str) -> Vec<String> {
    let [grpc, health, metrics] = ports;
    let mut args = vec!["epp".to_owned()];
    args.extend(common_args(config, metrics, refresh));
    args.extend([
        "--secure-serving=false".to_owned(),
        "--metrics-endpoint-auth=false".to_owned(),
        format!("--grpc-port={grpc}"),
        format!("--grpc-health-port={health}"),
    ]);
    args
}

/// The proxy's command line.
pub fn proxy_args(config: &Path, listen: &str, metrics_port: u16) -> Vec<String> {
    let mut args = vec!["serve".to_owned(), format!("--listen={listen}")];
    args.extend(common_args(config, metrics_port, "50ms"));
    args
}

/// Flags that both share.
fn common_args(config: &Path, metrics_port: u16, refresh: &str) -> [String; 5] {
    [
        format!("--config-file={}", config.display()),
        format!("--metrics-port={metrics_port}"),
        format!("--refresh-metrics-interval={refresh}"),
        "--tracing=false".to_owned(),
        "--v=0".to_owned(),
    ]
}

/// Three ports of loopback that are free at this moment.
pub(crate) fn free_ports() -> Result<[u16; 3]> {
    let bind = || TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("finding a free port");
    // All are held until all are known, so that they differ.
    let listeners = [bind()?, bind()?, bind()?];
    let mut ports = [0; 3];
    for (port, listener) in ports.iter_mut().zip(&listeners) {
        *port = listener.local_addr()?.port();
    }
    Ok(ports)
}

/// Succeeds if the health service on a port of loopback says that the picker is serving.
pub(crate) async fn is_serving(port: u16) -> Result<()> {
    // Connected by hand first: tonic's own attempt would wait for a port that nobody listens on.
    TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
    let check = async {
        let channel = Endpoint::from_shared(format!("http://127.0.0.1:{port}"))?.connect().await?;
        let request = HealthCheckRequest { service: PICKER_SERVICE.to_owned() };
        let status = HealthClient::new(channel).check(request).await?.into_inner().status();
        ensure!(status == ServingStatus::Serving, "health says {status:?}");
        Ok(())
    };
    tokio::time::timeout(PROBE_LIMIT, check).await.context("the health check hangs")?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_differ() {
        let [a, b, c] = free_ports().unwrap();
        assert!(a != b && b != c && a != c && a > 0 && b > 0 && c > 0);
    }

    #[tokio::test]
    async fn a_port_without_a_server_is_not_serving() {
        let [port, ..] = free_ports().unwrap();
        is_serving(port).await.unwrap_err();
    }
}
