//! How far the runs are, for people at a terminal.

use std::{io::Write, sync::Arc, time::Duration};

use router_sim::replay::run::Progress as Run;
use tokio::time::Instant;

use crate::process;

/// Until so much is done nothing can be said about the rest.
const MIN_SHARE: f64 = 0.01;

/// All runs.
pub(super) struct Progress {
    runs: Vec<Arc<Run>>,
    started: Instant,
    is_shown: bool,
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
            let shares: Vec<f64> = self.runs.iter().map(|run| run.share()).collect();
            let line = line(&shares, self.started.elapsed());
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

/// `shares` are those of all runs that are done.
fn line(shares: &[f64], elapsed: Duration) -> String {
    let n_done = shares.iter().filter(|share| **share >= 1.0).count();
    let share = shares.iter().sum::<f64>() / shares.len().max(1) as f64;
    let left = if share < MIN_SHARE {
        String::new()
    } else {
        let left = elapsed.as_secs_f64() * (1.0 - share) / share;
        format!(", {} left", minutes(left))
    };
    format!("{n_done} of {} runs done, {:.0} %{left}", shares.len(), 100.0 * share)
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
        let check = |shares: &[f64], expected| {
            assert_eq!(line(shares, Duration::from_secs(65)), expected);
        };
        check(&[0.0, 0.0], "0 of 2 runs done, 0 %");
        check(&[1.0, 0.0], "1 of 2 runs done, 50 %, 1:05 left");
        check(&[1.0, 1.0], "2 of 2 runs done, 100 %, 0:00 left");
    }
}
