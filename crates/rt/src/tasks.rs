//! Tasks with an owner, a name and a cancellation token.

use std::{
    any::Any,
    fmt,
    future::{Future, poll_fn},
    panic::{AssertUnwindSafe, catch_unwind},
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use parking_lot::Mutex;
use thiserror::Error;
use tokio::{sync::Notify, task::JoinHandle};
use tokio_util::sync::CancellationToken;

/// The owner of a set of named tasks. Cheap to clone; clones own the same tasks.
///
/// Cancelling is a request: a task started with [`Tasks::spawn`] watches [`Tasks::token`] itself and
/// ends in order, one started with [`Tasks::spawn_cancellable`] is dropped at its next await.
#[derive(Clone)]
pub struct Tasks {
    owner: Arc<Owner>,
}

/// A running task. Dropping it lets the task run on.
#[derive(Debug)]
pub struct Task<T> {
    handle: JoinHandle<Result<T, TaskEnd>>,
}

/// Why a task gave no result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum TaskEnd {
    /// The task panicked; the log has the text.
    #[error("the task panicked")]
    Panicked,
    /// The task was cancelled before its end.
    #[error("the task was cancelled")]
    Cancelled,
}

/// Tasks that had not ended when the shutdown deadline passed: names and how many of each.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("tasks still running at the deadline: {}", display_names(.names))]
pub struct StillRunning {
    pub names: Vec<(&'static str, usize)>,
}

struct Owner {
    token: CancellationToken,
    parent: Option<Arc<Owner>>,
    running: Mutex<Running>,
    all_ended: Notify,
    n_panics: AtomicU64,
}

/// Counts by name. Names are literals in the source, so the list is short and needs no hashing.
#[derive(Default)]
struct Running {
    by_name: Vec<(&'static str, usize)>,
    total: usize,
}

/// Counts one task in its owner and all owners above, until it is dropped.
struct Counted {
    owner: Arc<Owner>,
    name: &'static str,
}

// === impl Tasks ===

impl Tasks {
    /// An owner without tasks.
    pub fn new() -> Self {
        Self { owner: Arc::new(Owner::new(CancellationToken::new(), None)) }
    }

    /// An owner within this one: cancelled with it, and its tasks count as this one's too.
    pub fn child(&self) -> Self {
        let token = self.owner.token.child_token();
        Self { owner: Arc::new(Owner::new(token, Some(Arc::clone(&self.owner)))) }
    }

    /// Starts a task. It should watch [`Tasks::token`] if it could go on for long.
    ///
    /// A panic is logged with the name, counted, and given to [`Task::join`].
    pub fn spawn<F>(&self, name: &'static str, future: F) -> Task<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        let running = Counted::new(Arc::clone(&self.owner), name);
        self.start(async move {
            let running = running;
            catch_panic(&running, future).await
        })
    }

    /// Starts a task that is dropped at its next await once this owner is cancelled.
    pub fn spawn_cancellable<F>(&self, name: &'static str, future: F) -> Task<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        let running = Counted::new(Arc::clone(&self.owner), name);
        self.start(async move {
            let running = running;
            let token = running.owner.token.clone();
            tokio::select! {
                biased;
                () = token.cancelled() => Err(TaskEnd::Cancelled),
                outcome = catch_panic(&running, future) => outcome,
            }
        })
    }

    /// Asks all tasks, and those of children, to end.
    pub fn cancel(&self) {
        self.owner.token.cancel();
    }

    /// Whether [`Tasks::cancel`] was called here or above.
    pub fn is_cancelled(&self) -> bool {
        self.owner.token.is_cancelled()
    }

    /// The token that tells tasks to end.
    pub fn token(&self) -> &CancellationToken {
        &self.owner.token
    }

    /// How many tasks run, children's included.
    pub fn n_running(&self) -> usize {
        self.owner.running.lock().total
    }

    /// Names of running tasks with their counts, children's included, sorted.
    pub fn running(&self) -> Vec<(&'static str, usize)> {
        let mut names = self.owner.running.lock().by_name.clone();
        names.retain(|(_, n)| *n > 0);
        names.sort_unstable();
        names
    }

    /// How many tasks have panicked, children's included.
    pub fn n_panics(&self) -> u64 {
        self.owner.n_panics.load(Ordering::Relaxed)
    }

    /// Waits until no task runs, without asking any to end.
    pub async fn ended(&self) {
        loop {
            let notified = self.owner.all_ended.notified();
            let mut notified = pin!(notified);
            notified.as_mut().enable();
            if self.n_running() == 0 {
                return;
            }
            notified.await;
        }
    }

    /// Cancels, then waits for all tasks to end, at most `limit`. What still runs is named and
    /// left running: a task that ignores its token cannot be forced.
    pub async fn shutdown(&self, limit: Duration) -> Result<(), StillRunning> {
        self.cancel();
        if tokio::time::timeout(limit, self.ended()).await.is_ok() {
            return Ok(());
        }
        let names = self.running();
        if names.is_empty() { Ok(()) } else { Err(StillRunning { names }) }
    }

    fn start<T: Send + 'static>(
        &self,
        future: impl Future<Output = Result<T, TaskEnd>> + Send + 'static,
    ) -> Task<T> {
        #[expect(clippy::disallowed_methods, reason = "the one place that may")]
        let handle = tokio::spawn(future);
        Task { handle }
    }
}

impl Default for Tasks {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Tasks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tasks")
            .field("running", &self.running())
            .field("cancelled", &self.is_cancelled())
            .field("n_panics", &self.n_panics())
            .finish()
    }
}

// === impl Task ===

impl<T> Task<T> {
    /// Waits for the task's result.
    pub async fn join(self) -> Result<T, TaskEnd> {
        // The outer error is the runtime dropping the task while it goes down.
        self.handle.await.unwrap_or(Err(TaskEnd::Cancelled))
    }

    /// Whether the task has ended.
    pub fn is_finished(&self) -> bool {
        self.handle.is_finished()
    }
}

impl<T> Future for Task<T> {
    type Output = Result<T, TaskEnd>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.handle).poll(cx).map(|joined| joined.unwrap_or(Err(TaskEnd::Cancelled)))
    }
}

// === impl Owner ===

impl Owner {
    fn new(token: CancellationToken, parent: Option<Arc<Owner>>) -> Self {
        Self {
            token,
            parent,
            running: Mutex::default(),
            all_ended: Notify::new(),
            n_panics: AtomicU64::new(0),
        }
    }

    fn each_upwards(&self, mut visit: impl FnMut(&Owner)) {
        let mut owner = Some(self);
        while let Some(current) = owner {
            visit(current);
            owner = current.parent.as_deref();
        }
    }
}

// === impl Counted ===

impl Counted {
    fn new(owner: Arc<Owner>, name: &'static str) -> Self {
        owner.each_upwards(|owner| {
            let mut running = owner.running.lock();
            running.total += 1;
            match running.by_name.iter_mut().find(|(known, _)| *known == name) {
                Some((_, n)) => *n += 1,
                None => running.by_name.push((name, 1)),
            }
        });
        Self { owner, name }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.owner.each_upwards(|owner| {
            let mut running = owner.running.lock();
            running.total -= 1;
            if let Some((_, n)) = running.by_name.iter_mut().find(|(known, _)| *known == self.name)
            {
                *n -= 1;
            }
            if running.total == 0 {
                owner.all_ended.notify_waiters();
            }
        });
    }
}

async fn catch_panic<F: Future>(running: &Counted, future: F) -> Result<F::Output, TaskEnd> {
    let mut future = pin!(future);
    // A future that has panicked is never polled again, so its broken state cannot be seen.
    let outcome = poll_fn(|cx| match catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(cx))) {
        Ok(Poll::Pending) => Poll::Pending,
        Ok(Poll::Ready(value)) => Poll::Ready(Ok(value)),
        Err(panic) => Poll::Ready(Err(panic)),
    })
    .await;
    outcome.map_err(|panic| {
        running.owner.each_upwards(|owner| {
            owner.n_panics.fetch_add(1, Ordering::Relaxed);
        });
        tracing::error!(task = running.name, panic = panic_text(panic.as_ref()), "task panicked");
        TaskEnd::Panicked
    })
}

/// The text of a panic, as far as it is text.
pub(crate) fn panic_text(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<&'static str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("a panic without text")
}

fn display_names(names: &[(&'static str, usize)]) -> String {
    let each: Vec<String> = names.iter().map(|(name, n)| format!("{name} ({n})")).collect();
    each.join(", ")
}

#[cfg(test)]
mod tests;
