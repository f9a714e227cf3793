//! A running system, and questions to its parts.

use std::{collections::BTreeMap, net::SocketAddr, path::PathBuf, time::Duration};

use anyhow::{Context, ensure};
use router_rt::Tasks;
use router_sim::server::{RequestRecord, RunningSim, SimConfig, SimServer};
use router_testkit::{
    envoy::{Envoy, EnvoyConfig, ExtProc},
    process::{Launch, Process, START_LIMIT, Stream, http_get, poll_until},
};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::SemaphorePermit;

use super::{
    Front, Outcome, Plan,
    client::{Call, Client},
    document::{self, Entry},
    plan::{N_PLACES, PLACES},
};

/// How long anything may take that a test waits for, on a loaded machine.
pub(crate) const LIMIT: Duration = Duration::from_secs(30);
/// The header by which tests find a request among what a server saw; it means nothing to anybody else.
pub(crate) const TEST_ID: &str = "x-test-id";

/// A running system. Dropping it ends it; where a test fails, the router's last lines are shown.
pub(crate) struct World {
    pub(crate) front: Front,
    pub(crate) sim: RunningSim,
    pub(crate) router: Process,
    pub(crate) envoy: Option<Envoy>,
    pub(crate) tasks: Tasks,
    pub(crate) config_file: PathBuf,
    pub(crate) endpoints_file: PathBuf,
    more: Value,
    listening: Listening,
    _folder: TempDir,
    _place: SemaphorePermit<'static>,
}

/// Where the router listens.
struct Listening {
    /// Where requests go: HTTP for `serve`, ext-proc for `epp`.
    traffic: SocketAddr,
    metrics: SocketAddr,
    health: Option<SocketAddr>,
}

impl World {
    pub(crate) async fn start(plan: Plan) -> anyhow::Result<Self> {
        let n_places = if plan.is_alone { N_PLACES } else { 1 };
        let place = PLACES.acquire_many(n_places).await?;
        let tasks = Tasks::new();
        let sim: SimConfig = serde_json::from_value(plan.sim.clone())?;
        let sim = router_sim::server::run(sim, &tasks).await?;
        let folder = tempfile::tempdir()?;
        let endpoints_file = folder.path().join("endpoints.yaml");
        let config_file = folder.path().join("config.yaml");
        let addresses = sim.addresses();
        let n_listed = plan.n_listed.unwrap_or(addresses.len());
        let listed = addresses.iter().take(n_listed).enumerate();
        std::fs::write(&endpoints_file, document::endpoints(listed))?;
        std::fs::write(
            &config_file,
            document::document(&endpoints_file, &plan.entries, &plan.more),
        )?;
        let mut launch = launch(plan.front);
        if plan.is_bare {
            launch =
                launch.args(addresses.iter().map(|address| format!("--endpoint=http://{address}")));
        } else {
            launch = launch.arg("--config-file").arg(&config_file);
        }
        if let Some(manifests) = &plan.resources {
            let path = folder.path().join("resources.yaml");
            std::fs::write(&path, manifests)?;
            launch = launch.arg("--resources").arg(path);
        }
        if let Some(n_threads) = plan.n_threads {
            launch = launch.env("TOKIO_WORKER_THREADS", n_threads.to_string());
        }
        let router = launch.args(&plan.flags).spawn()?;
        let listening = Listening::of(&router).await?;
        let envoy = envoy(&plan, listening.traffic).await?;
        let world = Self {
            front: plan.front,
            sim,
            router,
            envoy,
            tasks,
            config_file,
            endpoints_file,
            more: plan.more,
            listening,
            _folder: folder,
            _place: place,
        };
        for server in world.sim.servers().iter().take(n_listed) {
            world.scraped(server).await?;
        }
        Ok(world)
    }

    /// The last lines of the processes, for the message of a failure.
    pub(crate) fn tail(&self) -> String {
        let envoy = self.envoy.as_ref().map(|envoy| envoy.process().tail()).unwrap_or_default();
        self.router.tail() + &envoy
    }

    /// Where clients connect.
    pub(crate) fn addr(&self) -> SocketAddr {
        self.envoy.as_ref().map_or(self.listening.traffic, Envoy::addr)
    }

    /// Where the router takes requests or ext-proc streams.
    pub(crate) fn router_addr(&self) -> SocketAddr {
        self.listening.traffic
    }

    /// Where `epp` has its health service.
    pub(crate) fn health_addr(&self) -> anyhow::Result<SocketAddr> {
        self.listening.health.context("serve has no gRPC health service")
    }

    /// A client whose connections speak HTTP/1.1.
    pub(crate) fn client(&self) -> Client {
        Client::new(self.addr(), self.tasks.clone())
    }

    pub(crate) fn server(&self, number: usize) -> &SimServer {
        &self.sim.servers()[number]
    }

    /// The number of the server that listens on this port.
    pub(crate) fn number_of(&self, port: u16) -> anyhow::Result<usize> {
        let found = self.sim.addresses().iter().position(|address| address.port() == port);
        found.with_context(|| format!("no server listens on {port}"))
    }

    /// What the servers saw of the request with this test id, with the server's number.
    pub(crate) fn records(&self, test_id: &str) -> Vec<(usize, RequestRecord)> {
        let is_wanted = |record: &RequestRecord| header(record, TEST_ID) == Some(test_id);
        let servers = self.sim.servers().iter().enumerate();
        servers
            .flat_map(|(number, server)| {
                let requests = server.stats().requests;
                requests.into_iter().filter(is_wanted).map(move |record| (number, record))
            })
            .collect()
    }

    /// What the one server saw that got this request, once it has handed over its whole answer.
    pub(crate) async fn record(&self, test_id: &str) -> anyhow::Result<(usize, RequestRecord)> {
        let finished = || async {
            let (number, record) = self.records(test_id).pop()?;
            (!record.sent_xxh64.is_empty()).then_some((number, record))
        };
        let record = poll_until(LIMIT, finished).await;
        let record = record.with_context(|| format!("no server has answered {test_id}"))?;
        let n_seen = self.records(test_id).len();
        ensure!(n_seen == 1, "{test_id} was sent to {n_seen} servers");
        Ok(record)
    }

    /// Requests that each server has taken, by number.
    pub(crate) fn received(&self) -> Vec<u64> {
        self.sim.servers().iter().map(|server| server.stats().received).collect()
    }

    /// A page of the metrics port.
    pub(crate) async fn page(&self, path: &str) -> anyhow::Result<String> {
        let answer = http_get(self.listening.metrics, path).await?;
        ensure!(answer.status == 200, "{path} is answered {}: {}", answer.status, answer.text());
        Ok(answer.text())
    }

    /// The decisions that were recorded, oldest first.
    pub(crate) async fn decisions(&self) -> anyhow::Result<Vec<Value>> {
        let page: Value = serde_json::from_str(&self.page("/debug/decisions").await?)?;
        let decisions = page["decisions"].as_array().context("no list of decisions")?;
        Ok(decisions.iter().rev().cloned().collect())
    }

    /// Every count of what is in flight in the router, by series.
    pub(crate) async fn in_flight(&self) -> anyhow::Result<BTreeMap<String, f64>> {
        let page = self.page("/metrics").await?;
        let lines = page.lines().filter(|line| !line.starts_with('#'));
        let series = lines.filter_map(|line| line.rsplit_once(' '));
        let is_count = |name: &str| {
            name.ends_with("request_running")
                || name == "inference_objective_running_requests"
                || name.contains("inflight")
        };
        series
            .filter(|(series, _)| is_count(series.split('{').next().unwrap_or(series)))
            .map(|(series, value)| Ok((series.to_owned(), value.parse()?)))
            .collect()
    }

    /// Waits until nothing is in flight, and makes sure that the router told of no bug.
    pub(crate) async fn settle(&self) -> Outcome {
        let idle = || async {
            let counts = self.in_flight().await.ok()?;
            counts.values().all(|count| *count == 0.0).then_some(())
        };
        if poll_until(LIMIT, idle).await.is_none() {
            anyhow::bail!("still in flight: {:?}", self.in_flight().await?);
        }
        self.no_bug()
    }

    /// Fails where the router's log tells of a panic, or has a line of level error that a test did not
    /// provoke.
    pub(crate) fn no_bug(&self) -> Outcome {
        let log = self.router.text(Stream::Stderr);
        let is_bug = |line: &&str| line.contains("panicked") || line.contains("a plugin panicked");
        let bug = log.lines().find(is_bug);
        ensure!(bug.is_none(), "the router's log says: {}", bug.unwrap_or_default());
        Ok(())
    }

    /// Waits until the router has scraped this server twice from here on, so that it knows its present
    /// signals.
    pub(crate) async fn scraped(&self, server: &SimServer) -> Outcome {
        self.asked_for_metrics(server, 2).await
    }

    /// Waits until the router has asked this server so many times more for its metrics.
    pub(crate) async fn asked_for_metrics(&self, server: &SimServer, n_times: u64) -> Outcome {
        let n_before = server.stats().scrapes;
        let asked = || async { (server.stats().scrapes >= n_before + n_times).then_some(()) };
        poll_until(LIMIT, asked)
            .await
            .with_context(|| format!("{} is not scraped\n{}", server.address(), self.router.tail()))
    }

    /// Makes a server compute all at once from its next step on.
    pub(crate) async fn hasten(&self, number: usize) -> Outcome {
        let control = Client::new(self.server(number).address(), self.tasks.clone());
        let at_once = json!({ "time-factor": 0 });
        let answer = control.send(Call::json("/admin/config", &at_once)).await?;
        ensure!(answer.status == 200, "{} {}", answer.status, answer.text());
        Ok(())
    }

    /// Writes the endpoints file anew, in one step.
    pub(crate) fn list(&self, numbers: &[usize]) -> Outcome {
        let addresses = self.sim.addresses();
        let listed = numbers.iter().map(|&number| (number, &addresses[number]));
        Ok(document::replace(&self.endpoints_file, &document::endpoints(listed))?)
    }

    /// Writes the configuration anew, in one step.
    pub(crate) fn configure(&self, entries: &[Entry]) -> Outcome {
        let text = document::document(&self.endpoints_file, entries, &self.more);
        Ok(document::replace(&self.config_file, &text)?)
    }

    /// Waits until a line of the router's log has this text.
    pub(crate) async fn logged(&self, text: &str) -> anyhow::Result<String> {
        Ok(self.router.wait_line(Stream::Stderr, text, LIMIT, |line| line.contains(text)).await?)
    }

    /// Sends requests until one is answered as wanted.
    pub(crate) async fn until_answered(
        &self,
        what: &str,
        call: impl Fn() -> Call,
        is_wanted: impl Fn(&super::client::Answer) -> bool,
    ) -> Outcome {
        let client = self.client();
        let ask = || async {
            let answer = client.send(call()).await.ok()?;
            is_wanted(&answer).then_some(())
        };
        poll_until(LIMIT, ask).await.with_context(|| format!("{what} does not happen"))
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.tasks.cancel();
        self.router.kill();
    }
}

impl Listening {
    /// Reads the addresses from the line with which the router says that it serves.
    async fn of(router: &Process) -> anyhow::Result<Self> {
        let says_so = |line: &str| field(line, "metrics").is_some() && line.contains("serving");
        let line = router.wait_line(Stream::Stderr, "its addresses", START_LIMIT, says_so).await?;
        let address = |name| {
            let text = field(&line, name)?;
            text.trim_start_matches("http://").trim_start_matches("https://").parse().ok()
        };
        let traffic = address("listen").or_else(|| address("ext_proc"));
        Ok(Self {
            traffic: traffic.with_context(|| format!("no address in {line}"))?,
            metrics: address("metrics").with_context(|| format!("no address in {line}"))?,
            health: address("health"),
        })
    }
}

/// A text field of a log line.
fn field(line: &str, name: &str) -> Option<String> {
    let line: Value = serde_json::from_str(line).ok()?;
    Some(line.get(name)?.as_str()?.to_owned())
}

/// Resident memory of a process.
pub(crate) fn rss_kib(pid: u32) -> anyhow::Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let number = line.and_then(|line| line.split_whitespace().next());
    Ok(number.context("no VmRSS")?.parse()?)
}

/// A header as a server saw it.
pub(crate) fn header<'a>(record: &'a RequestRecord, name: &str) -> Option<&'a str> {
    let found = record.headers.iter().find(|(have, _)| have == name);
    found.map(|(_, value)| value.as_str())
}

fn launch(front: Front) -> Launch {
    let launch = Launch::new(env!("CARGO_BIN_EXE_llm-d-router"));
    let launch = match front {
        // Its lines would push those out that tell why a test failed.
        Front::Serve => launch.args(["serve", "--listen", "127.0.0.1:0", "--access-log=false"]),
        Front::Envoy | Front::EnvoyTls | Front::Picker => launch
            .args(["epp", "--bind-address", "127.0.0.1", "--grpc-port", "0"])
            .args(["--grpc-health-port", "0", "--health-checking"])
            .arg(format!("--secure-serving={}", front == Front::EnvoyTls)),
    };
    launch.args(["--metrics-port", "0"])
}

async fn envoy(plan: &Plan, picker: SocketAddr) -> anyhow::Result<Option<Envoy>> {
    if matches!(plan.front, Front::Serve | Front::Picker) {
        return Ok(None);
    }
    let mut ext_proc = ExtProc::new(picker);
    ext_proc.tls = plan.front == Front::EnvoyTls;
    let config = EnvoyConfig {
        ext_proc: Some(ext_proc),
        subset_hint: plan.subset_hint.clone(),
        // Both are run: the chart has TLS and suppresses them.
        suppress_envoy_headers: plan.front == Front::EnvoyTls,
        ..EnvoyConfig::default()
    };
    Ok(Some(Envoy::start(&config).await?))
}
