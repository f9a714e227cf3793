//! Very many requests with everything going wrong, and the check that nothing is left behind.
//!
//! Requests go whole, without a body, with trailers, to a failing model server, with cut JSON, and are
//! left at every stage, while the endpoints file changes under them. At the end every in-flight count
//! of the metrics page must be zero and memory must be where it was after the first part of the run.

mod checks;

use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use router_rt::Tasks;
use tempfile::TempDir;
use tokio::time::sleep;

use crate::extproc::{Course, ExtProcArgs, ExtProcLoad};
use crate::http::upstream::{Answers, Page, Upstream};
use crate::load::{self, LoadArgs};
use crate::suite::{Child, Launch, endpoints_file, free_ports, is_serving, soak_config};

/// One part in this many comes before memory is looked at: caches and indexes fill up first.
const WARM_UP_PART: u64 = 5;
/// Distinct prompts, so that the prefix index is full when memory is looked at.
const N_PROMPTS: u64 = 2000;
const CHURN_EVERY: Duration = Duration::from_millis(500);
/// An address where nothing listens: port 9 is reserved for discarding.
const DEAD: &str = "127.0.0.1:9";

/// What to run and how.
#[derive(clap::Args, Clone, Debug)]
pub struct SoakArgs {
    /// The router's executable.
    #[arg(long)]
    pub router: PathBuf,
    /// Requests in all.
    #[arg(long, default_value_t = 1_000_000)]
    pub requests: u64,
    /// Requests in flight.
    #[arg(long, short = 'c', default_value_t = 64)]
    pub concurrency: usize,
    /// gRPC connections.
    #[arg(long, default_value_t = 4)]
    pub connections: usize,
    /// Endpoints.
    #[arg(long, default_value_t = 16)]
    pub endpoints: usize,
    /// Bytes of a request body.
    #[arg(long, default_value_t = 4096)]
    pub body_size: usize,
}

/// The router under test with what it needs.
struct World {
    child: Child,
    target: String,
    metrics: String,
    endpoints: PathBuf,
    addresses: Vec<String>,
    tasks: Tasks,
    _folder: TempDir,
}

/// How request `n` goes. Five in eight end well.
pub fn course(n: u64) -> Course {
    match n % 16 {
        1 => Course::LeaveAfterHeaders,
        3 => Course::LeaveMidBody,
        5 => Course::LeaveBeforeDecision,
        7 => Course::LeaveBeforeResponse,
        9 => Course::LeaveMidResponse,
        11 => Course::CutJson,
        12 => Course::Bodyless,
        13 => Course::Trailers,
        14 => Course::ServerError,
        _ => Course::Whole,
    }
}

/// Runs the requests and the checks.
///
/// # Errors
/// A router that does not start or ends, a request that goes otherwise than it should, an in-flight
/// count that does not return to zero, memory that grows, or a panic in the log.
pub async fn run(args: &SoakArgs) -> Result<()> {
    ensure!(args.requests >= 2 * WARM_UP_PART, "--requests is too small to tell anything");
    let world = World::start(args).await?;
    let n_warm_up = args.requests / WARM_UP_PART;
    world.part("warm-up", args, n_warm_up).await?;
    let before = checks::rss_mib(world.child.pid())?;
    world.part("soak", args, args.requests - n_warm_up).await?;
    let counts = checks::wait_idle(&world.metrics).await?;
    let after = checks::rss_mib(world.child.pid())?;
    checks::no_growth(before, after)?;
    checks::no_panic(&world.child.log_text())?;
    load::print_line(&format!(
        "{} requests: {counts} in-flight counts are zero, {before:.1} MiB before and {after:.1} MiB after",
        args.requests
    ))
}

impl World {
    async fn start(args: &SoakArgs) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let tasks = Tasks::new();
        let answers = Answers {
            model: "base-model".to_owned(),
            size: 0,
            n_chunks: 4,
            page: Page::load("small-cache", 8)?,
        };
        let loopback = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let upstream = Upstream::start(loopback, 0, args.endpoints, &answers, &tasks).await?;
        let addresses: Vec<String> = upstream.addresses.iter().map(ToString::to_string).collect();
        let endpoints = folder.path().join("endpoints.yaml");
        let config = folder.path().join("config.yaml");
        std::fs::write(&endpoints, endpoints_file(&addresses))?;
        std::fs::write(&config, soak_config(&endpoints))?;
        let [grpc, health, metrics] = free_ports()?;
        let flags = [
            "epp".to_owned(),
            format!("--config-file={}", config.display()),
            "--secure-serving=false".to_owned(),
            format!("--grpc-port={grpc}"),
            format!("--grpc-health-port={health}"),
            format!("--metrics-port={metrics}"),
            "--metrics-endpoint-auth=false".to_owned(),
            "--tracing=false".to_owned(),
            "--v=0".to_owned(),
        ];
        let mut child = Launch::new(&args.router, None, flags).spawn(folder.path())?;
        child.until_ready(|| is_serving(health)).await?;
        Ok(Self {
            child,
            target: format!("127.0.0.1:{grpc}"),
            metrics: format!("127.0.0.1:{metrics}"),
            endpoints,
            addresses,
            tasks,
            _folder: folder,
        })
    }

    /// One part of the run, with the endpoints changing all the while.
    async fn part(&self, name: &str, args: &SoakArgs, n_requests: u64) -> Result<()> {
        let what = ExtProcArgs {
            target: self.target.clone(),
            connections: args.connections,
            body_size: args.body_size,
            distinct: N_PROMPTS,
            ..ExtProcArgs::default()
        };
        let load = LoadArgs {
            concurrency: args.concurrency,
            requests: n_requests,
            pid: Some(self.child.pid()),
            ..LoadArgs::default()
        };
        // The same tag in every part: the same prompts.
        let exchange = ExtProcLoad::connect(&what, 1).await?.with_courses(course);
        let churn_tasks = self.tasks.child();
        let churn = churn(self.endpoints.clone(), self.addresses.clone());
        let churn = churn_tasks.spawn_cancellable("endpoint churn", churn);
        let summary = load::run(&load, Arc::new(exchange)).await?;
        churn_tasks.cancel();
        // Only a failure to write can have ended it before.
        if let Ok(end) = churn.join().await {
            end.context("changing the endpoints file")?;
        }
        load::print_line(&format!("{name}: {summary}"))?;
        checks::all_as_they_should(&summary, n_requests, course)
    }
}

/// Rewrites the endpoints file again and again: all, half of them, all and a dead one.
async fn churn(path: PathBuf, all: Vec<String>) -> Result<()> {
    let half = all[..all.len().div_ceil(2)].to_vec();
    let mut with_dead = all.clone();
    with_dead.push(DEAD.to_owned());
    for addresses in [half, with_dead, all].iter().cycle() {
        sleep(CHURN_EVERY).await;
        replace(&path, &endpoints_file(addresses))?;
    }
    Ok(())
}

/// Replaces a file as editors and Kubernetes do: a reader sees the old one or the new one.
fn replace(path: &Path, text: &str) -> Result<()> {
    let new = path.with_extension("new");
    std::fs::write(&new, text)?;
    Ok(std::fs::rename(&new, path)?)
}
