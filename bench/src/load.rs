//! The loop of every load generator: requests at a fixed concurrency or at a fixed rate.
//!
//! In the closed loop each worker starts its next request when the last has ended. With a rate,
//! requests start at even intervals and latency counts from the intended start, so a slow server
//! cannot hide its queue.

mod pace;
mod report;
mod tally;

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use router_rt::Tasks;
use tokio::time::Instant;

use pace::Pace;
pub use report::{Latency, Report, ServerUse, Summary, print_line};
use tally::Tally;

use crate::procfs::{self, Usage};

/// The flags that all load generators share.
#[derive(clap::Args, Clone, Debug)]
pub struct LoadArgs {
    /// Requests in flight (closed loop), or the most in flight (with --rate).
    #[arg(long, short = 'c', default_value_t = 16)]
    pub concurrency: usize,
    /// Requests per second, started at even intervals; 0 is the closed loop.
    #[arg(long, default_value_t = 0.0)]
    pub rate: f64,
    /// Measured seconds.
    #[arg(long, default_value_t = 5.0)]
    pub duration: f64,
    /// Unmeasured seconds before.
    #[arg(long, default_value_t = 1.0)]
    pub warmup: f64,
    /// Stop after this many requests in all, with no warm-up and whatever --duration says; 0 is no
    /// such limit.
    #[arg(long, default_value_t = 0)]
    pub requests: u64,
    /// Seconds after which one request counts as failed.
    #[arg(long, default_value_t = 30.0)]
    pub timeout: f64,
    /// Process whose CPU time and memory to report.
    #[arg(long)]
    pub pid: Option<u32>,
    /// Makes this run's prompts distinct from another run's; by default the clock.
    #[arg(long)]
    pub run_tag: Option<u64>,
    /// Runtime threads.
    #[arg(long, default_value_t = 1)]
    pub threads: usize,
    /// Print one line of JSON instead of text.
    #[arg(long)]
    pub json: bool,
    /// A name copied into the report.
    #[arg(long, default_value = "")]
    pub label: String,
}

/// One kind of request.
pub trait Exchange: Send + Sync + 'static {
    /// What one worker keeps from request to request, such as a connection.
    type Slot: Send + 'static;

    /// Names of the latencies in [`Outcome::Done`], in its order.
    const PHASES: &'static [&'static str];

    /// The slot of one worker.
    fn slot(&self, worker_idx: usize) -> Self::Slot;

    /// Runs request number `n`. Latencies count from `started`, which can lie in the past.
    ///
    /// An error is a failed request. The future can be dropped when the request's time is over.
    fn run(
        &self,
        slot: &mut Self::Slot,
        n: u64,
        started: Instant,
    ) -> impl Future<Output = Result<Outcome>> + Send;
}

/// How a request ended that did not fail.
#[derive(Debug)]
pub enum Outcome {
    Done {
        /// One for each of [`Exchange::PHASES`].
        phases: Vec<Duration>,
        /// The endpoint that served it, as far as one can see.
        pick: String,
    },
    /// The server refused it, and said so.
    Rejected(String),
}

/// What all workers look at.
struct Control {
    next: AtomicU64,
    measuring: AtomicBool,
    stop: AtomicBool,
    start: Instant,
    rate: f64,
    limit: Option<u64>,
    timeout: Duration,
}

/// The clock and what two processes have used by it.
struct Mark {
    at: Instant,
    server: Option<Usage>,
    client: Option<Usage>,
}

// === impl LoadArgs ===

impl Default for LoadArgs {
    /// The defaults of the command line.
    fn default() -> Self {
        default_flags()
    }
}

impl LoadArgs {
    /// A number that tells this run's prompts from those of others.
    pub fn tag(&self) -> u64 {
        let clock = || {
            SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |since| since.as_nanos() as u64)
        };
        self.run_tag.unwrap_or_else(clock)
    }

    /// A runtime with the asked number of threads.
    pub fn runtime(&self) -> Result<tokio::runtime::Runtime> {
        runtime(self.threads)
    }

    fn validate(&self) -> Result<()> {
        ensure!(self.concurrency > 0, "--concurrency must be at least 1");
        for (name, value) in [
            ("rate", self.rate),
            ("duration", self.duration),
            ("warmup", self.warmup),
            ("timeout", self.timeout),
        ] {
            ensure!(value.is_finite() && value >= 0.0, "--{name} must not be negative");
        }
        Ok(())
    }
}

/// A group of flags with none given.
pub(crate) fn default_flags<A: clap::Args>() -> A {
    let command = A::augment_args(clap::Command::new("defaults"));
    let matches = command.get_matches_from(["defaults"]);
    #[expect(clippy::expect_used, reason = "only for groups in which every flag has a default")]
    A::from_arg_matches(&matches).expect("flags with defaults")
}

/// A runtime: on the calling thread for one thread, which is what a pinned process wants.
pub fn runtime(n_threads: usize) -> Result<tokio::runtime::Runtime> {
    let mut builder = if n_threads <= 1 {
        tokio::runtime::Builder::new_current_thread()
    } else {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        builder.worker_threads(n_threads);
        builder
    };
    builder.enable_all().build().context("starting the runtime")
}

/// Runs the load and says what came of it.
///
/// # Errors
/// Flags that make no sense, or a worker that panicked. Failed requests are counted, not errors.
pub async fn run<E: Exchange>(args: &LoadArgs, exchange: Arc<E>) -> Result<Summary> {
    args.validate()?;
    let counted = args.requests > 0;
    let control = Arc::new(Control {
        next: AtomicU64::new(0),
        measuring: AtomicBool::new(counted),
        stop: AtomicBool::new(false),
        start: Instant::now(),
        rate: args.rate,
        limit: counted.then_some(args.requests),
        timeout: Duration::from_secs_f64(args.timeout),
    });
    let tasks = Tasks::new();
    let mut begin = Mark::now(args.pid);
    let mut workers = Vec::with_capacity(args.concurrency);
    for worker_idx in 0..args.concurrency {
        let pace = if args.rate > 0.0 { Some(Pace::new()?) } else { None };
        let slot = exchange.slot(worker_idx);
        let work = worker(Arc::clone(&control), Arc::clone(&exchange), slot, pace);
        workers.push(tasks.spawn("load worker", work));
    }
    let mut end = None;
    if !counted {
        tokio::time::sleep(Duration::from_secs_f64(args.warmup)).await;
        begin = Mark::now(args.pid);
        control.measuring.store(true, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_secs_f64(args.duration)).await;
        control.measuring.store(false, Ordering::Relaxed);
        end = Some(Mark::now(args.pid));
        control.stop.store(true, Ordering::Relaxed);
    }
    let mut tally = Tally::new(E::PHASES.len());
    for worker in workers {
        tally.add(worker.join().await??);
    }
    let end = end.unwrap_or_else(|| Mark::now(args.pid));
    Ok(summarize(E::PHASES, tally, &begin, &end))
}

async fn worker<E: Exchange>(
    control: Arc<Control>,
    exchange: Arc<E>,
    mut slot: E::Slot,
    pace: Option<Pace>,
) -> Result<Tally> {
    let mut tally = Tally::new(E::PHASES.len());
    while let Some((n, started)) = control.next_start(pace.as_ref()).await? {
        let run = exchange.run(&mut slot, n, started);
        let end = tokio::time::timeout(control.timeout, run).await;
        // A request counts if it ends within the window, whenever it began.
        if control.measuring.load(Ordering::Relaxed) {
            tally.record(end);
        }
    }
    Ok(tally)
}

fn summarize(phases: &[&'static str], tally: Tally, begin: &Mark, end: &Mark) -> Summary {
    let seconds = (end.at - begin.at).as_secs_f64().max(f64::EPSILON);
    let n_all = (tally.n_ok + tally.n_failed + tally.n_rejected).max(1) as f64;
    let cpu_s = |begin: Option<Usage>, end: Option<Usage>| Some(end?.cpu_s - begin?.cpu_s);
    let server = cpu_s(begin.server, end.server).zip(end.server).map(|(cpu_s, usage)| ServerUse {
        cpu_ms_per_request: cpu_s * 1000.0 / n_all,
        cpu_percent: cpu_s * 100.0 / seconds,
        rss_mib: usage.rss_mib(),
        peak_rss_mib: usage.peak_rss_mib(),
    });
    let top_pick = tally.picks.values().max().copied().unwrap_or(0) as f64;
    Summary {
        seconds,
        ok: tally.n_ok,
        failed: tally.n_failed,
        rejected: tally.n_rejected,
        per_second: tally.n_ok as f64 / seconds,
        latency_us: phases
            .iter()
            .zip(&tally.phases)
            .map(|(name, histogram)| ((*name).to_owned(), Latency::of(histogram)))
            .collect(),
        endpoints_picked: tally.picks.len(),
        top_pick_share: top_pick / tally.n_ok.max(1) as f64,
        errors: tally.errors,
        server,
        client_cpu_percent: cpu_s(begin.client, end.client).map_or(0.0, |s| s * 100.0 / seconds),
    }
}

// === impl Control ===

impl Control {
    /// Waits for the start of the next request; `None` when the run is over.
    async fn next_start(&self, pace: Option<&Pace>) -> Result<Option<(u64, Instant)>> {
        let n = self.next.fetch_add(1, Ordering::Relaxed);
        if self.is_over(n) {
            return Ok(None);
        }
        let Some(pace) = pace else { return Ok(Some((n, Instant::now()))) };
        let start = self.start + Duration::from_secs_f64(n as f64 / self.rate);
        pace.sleep_until(start).await?;
        Ok((!self.is_over(n)).then_some((n, start)))
    }

    fn is_over(&self, n: u64) -> bool {
        self.stop.load(Ordering::Relaxed) || self.limit.is_some_and(|limit| n >= limit)
    }
}

// === impl Mark ===

impl Mark {
    fn now(server_pid: Option<u32>) -> Self {
        Self {
            at: Instant::now(),
            server: server_pid.and_then(procfs::usage),
            client: procfs::usage(std::process::id()),
        }
    }
}

#[cfg(test)]
mod tests;
