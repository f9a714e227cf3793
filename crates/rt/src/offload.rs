//! Long work away from the runtime's threads.
//!
//! Anything that may take over half a millisecond (tokenizing, hashing of long prompts, JSON over
//! 256 KiB, files) goes through an [`Offload`]. Under tokio's paused clock it runs inline:
//! `spawn_blocking` keeps the paused clock from advancing, and a replay must not depend on threads.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use thiserror::Error;
use tokio::sync::Semaphore;

use crate::tasks::panic_text;

/// Runs closures on a bounded blocking pool, or inline. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Offload {
    mode: Mode,
}

/// Why an off-loaded closure gave no result.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum OffloadError {
    /// The closure panicked; the text is what it said.
    #[error("off-loaded work panicked: {0}")]
    Panicked(String),
    /// The runtime is going down.
    #[error("the runtime is shutting down")]
    ShuttingDown,
}

#[derive(Clone, Debug)]
enum Mode {
    Inline,
    Pool(Arc<Semaphore>),
}

impl Offload {
    /// Runs everything at once on the calling thread: for replay, tests with paused time, and
    /// runtimes of one thread.
    pub fn inline() -> Self {
        Self { mode: Mode::Inline }
    }

    /// Runs at most `max_running` closures at a time on tokio's blocking threads; further callers
    /// wait in order, holding only their own closure.
    pub fn pool(max_running: usize) -> Self {
        Self { mode: Mode::Pool(Arc::new(Semaphore::new(max_running.max(1)))) }
    }

    /// Whether closures run on the calling thread.
    pub fn is_inline(&self) -> bool {
        matches!(self.mode, Mode::Inline)
    }

    /// Runs `work` and waits for its result. When the returned future is dropped, work that has
    /// begun still runs to its end and keeps its place in the bound until then.
    pub async fn run<T, F>(&self, work: F) -> Result<T, OffloadError>
    where
        T: Send + 'static,
        F: FnOnce() -> T + Send + 'static,
    {
        let places = match &self.mode {
            Mode::Inline => return guarded(work),
            Mode::Pool(places) => Arc::clone(places),
        };
        let place = places.acquire_owned().await.map_err(|_| OffloadError::ShuttingDown)?;
        let guarded_work = move || {
            let result = guarded(work);
            drop(place);
            result
        };
        #[expect(clippy::disallowed_methods, reason = "the one place that may")]
        let joined = tokio::task::spawn_blocking(guarded_work).await;
        joined.map_err(|_| OffloadError::ShuttingDown)?
    }
}

fn guarded<T>(work: impl FnOnce() -> T) -> Result<T, OffloadError> {
    // The closure is consumed and its result dropped on panic, so no broken state can be seen.
    catch_unwind(AssertUnwindSafe(work))
        .map_err(|panic| OffloadError::Panicked(panic_text(panic.as_ref()).to_owned()))
}

#[cfg(test)]
mod tests {
    use std::{
        sync::{
            atomic::{AtomicUsize, Ordering},
            mpsc,
        },
        thread,
        time::Duration,
    };

    use super::*;
    use crate::{Clock, Tasks};

    #[tokio::test(start_paused = true)]
    async fn inline_runs_on_the_same_thread_and_leaves_the_paused_clock_alone() {
        let clock = Clock::new();
        let here = thread::current().id();
        let there = Offload::inline().run(|| thread::current().id()).await.unwrap();
        assert_eq!(here, there);
        tokio::time::sleep(Duration::from_hours(1)).await;
        assert_eq!(clock.now().as_nanos(), 3_600_000_000_000);
    }

    #[tokio::test]
    async fn the_pool_runs_elsewhere() {
        let here = thread::current().id();
        let there = Offload::pool(1).run(|| thread::current().id()).await.unwrap();
        assert_ne!(here, there);
    }

    #[tokio::test]
    async fn a_panic_is_an_error_in_both_modes() {
        for offload in [Offload::inline(), Offload::pool(2)] {
            let outcome = offload.run(|| -> u8 { panic!("no such {}", "luck") }).await;
            assert_eq!(outcome, Err(OffloadError::Panicked("no such luck".to_owned())));
            assert_eq!(offload.run(|| 1).await, Ok(1), "the place was given back");
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn no_more_than_the_bound_run_at_once() {
        let offload = Offload::pool(2);
        let (running, peak) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let tasks = Tasks::new();
        let all: Vec<_> = (0..16)
            .map(|_| {
                let (offload, running, peak) = (offload.clone(), running.clone(), peak.clone());
                tasks.spawn("work", async move {
                    offload
                        .run(move || {
                            let now = running.fetch_add(1, Ordering::SeqCst) + 1;
                            peak.fetch_max(now, Ordering::SeqCst);
                            thread::yield_now();
                            running.fetch_sub(1, Ordering::SeqCst);
                        })
                        .await
                })
            })
            .collect();
        for one in all {
            one.join().await.unwrap().unwrap();
        }
        assert!((1..=2).contains(&peak.load(Ordering::SeqCst)));
    }

    #[tokio::test]
    async fn work_whose_caller_left_keeps_its_place_until_it_ends() {
        let offload = Offload::pool(1);
        let (go, wait) = mpsc::channel::<()>();
        let (started_tx, started_rx) = tokio::sync::oneshot::channel();
        {
            let abandoned = offload.run(move || {
                started_tx.send(()).unwrap();
                wait.recv().unwrap();
            });
            tokio::pin!(abandoned);
            tokio::select! {
                biased;
                _ = &mut abandoned => panic!("cannot end before `go`"),
                started = started_rx => started.unwrap(),
            }
        }
        let next = offload.run(|| 5);
        tokio::pin!(next);
        tokio::select! {
            biased;
            _ = &mut next => panic!("ran beyond the bound"),
            () = tokio::task::yield_now() => {}
        }
        go.send(()).unwrap();
        assert_eq!(next.await, Ok(5));
    }
}
