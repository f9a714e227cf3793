//! Many requests at once, and how each of them ended.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use parking_lot::Mutex;
use router_rt::{Task, Tasks};
use router_testkit::process::poll_until;
use tokio::time::Instant;

use super::{
    client::{Answer, Broken, Call, Client, Stage},
    world::LIMIT,
};

/// Workers that each send one request after the other until they are told to stop.
pub(crate) struct Load {
    tasks: Tasks,
    workers: Vec<Task<()>>,
    ends: Arc<Mutex<Vec<Ended>>>,
}

/// How one request went.
#[derive(Clone, Debug)]
pub(crate) struct Ended {
    pub(crate) sent: Instant,
    pub(crate) at: Instant,
    pub(crate) outcome: Result<Served, Broken>,
}

/// An answer, without its body.
#[derive(Clone)]
pub(crate) struct Served {
    pub(crate) status: u16,
    /// The server that answered; none where the router or Envoy did.
    pub(crate) port: Option<u16>,
    /// What was answered, where it is an error.
    error: String,
}

impl Load {
    /// Starts workers; `call` makes the request of a number.
    pub(crate) fn start(
        client: &Client,
        n_workers: usize,
        call: impl Fn(u64) -> Call + Send + Sync + 'static,
    ) -> Self {
        let (tasks, ends) = (Tasks::new(), Arc::<Mutex<Vec<Ended>>>::default());
        let (call, next) = (Arc::new(call), Arc::new(AtomicU64::new(0)));
        let workers = (0..n_workers).map(|_| {
            let (client, ends) = (client.clone(), Arc::clone(&ends));
            let (call, next, told) = (Arc::clone(&call), Arc::clone(&next), tasks.token().clone());
            tasks.spawn("load", async move {
                while !told.is_cancelled() {
                    let call = call(next.fetch_add(1, Ordering::Relaxed));
                    let sent = Instant::now();
                    let outcome = client.send(call).await.map(|answer| Served::of(&answer));
                    ends.lock().push(Ended { sent, at: Instant::now(), outcome });
                }
            })
        });
        Self { workers: workers.collect(), tasks, ends }
    }

    /// How many requests have ended.
    pub(crate) fn n_ended(&self) -> usize {
        self.ends.lock().len()
    }

    /// Waits until so many more have ended.
    pub(crate) async fn more(&self, n_requests: usize) -> anyhow::Result<()> {
        let wanted = self.n_ended() + n_requests;
        let enough = || async { (self.n_ended() >= wanted).then_some(()) };
        let waited = poll_until(LIMIT, enough).await;
        waited.ok_or_else(|| anyhow::anyhow!("the load has come to a stand"))
    }

    /// Waits until this server has answered a request that was sent from now on.
    pub(crate) async fn served_by(&self, port: u16) -> anyhow::Result<()> {
        let now = Instant::now();
        let seen = || async {
            let ends = self.ends.lock();
            let is_wanted = |end: &Ended| {
                let port_of = end.outcome.as_ref().ok().and_then(|served| served.port);
                end.sent >= now && port_of == Some(port)
            };
            ends.iter().rev().any(is_wanted).then_some(())
        };
        let waited = poll_until(LIMIT, seen).await;
        waited.ok_or_else(|| anyhow::anyhow!("the server on port {port} gets nothing"))
    }

    /// Lets every request in progress end, and tells how all of them did.
    pub(crate) async fn stop(self) -> anyhow::Result<Vec<Ended>> {
        self.tasks.cancel();
        for worker in self.workers {
            worker.join().await?;
        }
        Ok(std::mem::take(&mut self.ends.lock()))
    }
}

impl Ended {
    /// Whether a server's whole answer came.
    pub(crate) fn is_ok(&self) -> bool {
        self.outcome.as_ref().is_ok_and(|served| served.status == 200)
    }

    /// Whether an answer had begun that broke off.
    pub(crate) fn broke_off(&self) -> bool {
        self.outcome.as_ref().is_err_and(|broken| broken.stage == Stage::MidBody)
    }
}

impl Served {
    fn of(answer: &Answer) -> Self {
        let error = if answer.status == 200 { String::new() } else { answer.text() };
        Self { status: answer.status, port: answer.port(), error }
    }
}

impl fmt::Debug for Served {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "status {} from {:?}: {}", self.status, self.port, self.error)
    }
}

/// Fails unless every request was served.
pub(crate) fn all_served(ends: &[Ended]) -> anyhow::Result<()> {
    let failed: Vec<_> = ends.iter().filter(|end| !end.is_ok()).collect();
    if let Some(first) = failed.first() {
        anyhow::bail!("{} of {} requests failed, first {first:?}", failed.len(), ends.len());
    }
    Ok(())
}
