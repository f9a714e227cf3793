//! How far the runs are, for people at a terminal.

use std::{
    io::Write,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;

use crate::process;

/// Until so much is done nothing can be said about the rest.
const MIN_SHARE: f64 = 0.01;

/// One run.
#[derive(Default)]
pub(super) struct Run {
    /// Requests in all; 0 before the run begins.
    n_requests: AtomicUsize,
    n_ended: AtomicUsize,
}

/// All runs.
pub(super) struct Progress {
    runs: Vec<Arc<Run>>,
    started: Instant,
    is_shown: bool,
}

impl Run {
    pub(super) fn begin(&self, n_requests: usize) {
        self.n_requests.store(n_requests, Ordering::Relaxed);
    }

    pub(super) fn n_ended(&self) -> &AtomicUsize {
        &self.n_ended
    }

    fn share(&self) -> f64 {
        match self.n_requests.load(Ordering::Relaxed) {
            0 => 0.0,
            n_requests => self.n_ended.load(Ordering::Relaxed) as f64 / n_requests as f64,
        }
    }
}

impl Default for Progress {
    fn default() -> Self {
        Self { runs: Vec::new(), started: Instant::now(), is_shown: false }
    }
}

impl Progress {
    pub(super) fn add(&mut self) -> Arc<Run> {
        let run = Arc::new(Run::default());
        self.runs.push(Arc::clone(&run));
        run
    }

    /// Draws the line anew, on a terminal only.
    pub(super) fn draw(&mut self) {
        if process::is_terminal() {
            self.is_shown = true;
            let line = line(&self.runs, self.started.elapsed());
            let _terminal_may_be_gone = write!(std::io::stderr(), "\r\x1b[2K{line}");
        }
    }

    /// Takes the line away.
    pub(super) fn clear(&mut self) {
        if std::mem::take(&mut self.is_shown) {
            let _terminal_may_be_gone = write!(std::io::stderr(), "\r\x1b[2K");
        }
    }
}

fn line(runs: &[Arc<Run>], elapsed: Duration) -> String {
    let shares: Vec<f64> = runs.iter().map(|run| run.share()).collect();
    let n_done = shares.iter().filter(|share| **share >= 1.0).count();
    let share = shares.iter().sum::<f64>() / shares.len().max(1) as f64;
    let left = if share < MIN_SHARE {
        String::new()
    } else {
        let left = elapsed.as_secs_f64() * (1.0 - share) / share;
        format!(", {} left", minutes(left))
    };
    format!("{n_done} of {} runs done, {:.0} %{left}", runs.len(), 100.0 * share)
}

/// `1:05`.
fn minutes(seconds: f64) -> String {
    let seconds = seconds.round() as u64;
    format!("{}:{:02}", seconds / 60, seconds % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_says_what_is_done_and_what_is_left() {
        let run = |n_requests, n_ended| {
            Arc::new(Run {
                n_requests: AtomicUsize::new(n_requests),
                n_ended: AtomicUsize::new(n_ended),
            })
        };
        let check = |runs: &[Arc<Run>], expected| {
            assert_eq!(line(runs, Duration::from_secs(65)), expected);
        };
        check(&[run(0, 0), run(0, 0)], "0 of 2 runs done, 0 %");
        check(&[run(10, 10), run(0, 0)], "1 of 2 runs done, 50 %, 1:05 left");
        check(&[run(10, 10), run(5, 5)], "2 of 2 runs done, 100 %, 0:00 left");
    }
}
