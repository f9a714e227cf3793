//! How far the matrix is: a line that is redrawn on a terminal, and one for each cell that ends.

use std::io::{IsTerminal, Write};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// Runs by what became of them.
pub(super) struct Progress {
    state: Mutex<State>,
    jobs: usize,
    is_terminal: bool,
}

#[derive(Clone, Copy, Debug)]
struct State {
    started: Instant,
    n_planned: usize,
    n_known: usize,
    n_played: usize,
    /// Seconds that played runs took, each by itself.
    wall: f64,
}

// === impl Progress ===

impl Progress {
    pub(super) fn new(jobs: usize) -> Self {
        let started = Instant::now();
        let state = State { started, n_planned: 0, n_known: 0, n_played: 0, wall: 0.0 };
        Self { state: Mutex::new(state), jobs, is_terminal: std::io::stderr().is_terminal() }
    }

    pub(super) fn plan(&self, n_runs: usize) {
        self.state.lock().n_planned += n_runs;
    }

    /// So many of the planned runs are not needed after all.
    pub(super) fn unplan(&self, n_runs: usize) {
        let mut state = self.state.lock();
        state.n_planned = state.n_planned.saturating_sub(n_runs);
    }

    /// A run was found in the file of finished ones.
    pub(super) fn known(&self) {
        self.state.lock().n_known += 1;
    }

    /// A run was played.
    pub(super) fn played(&self, wall: f64) {
        let mut state = self.state.lock();
        state.n_played += 1;
        state.wall += wall;
        let line = line(*state, self.jobs);
        if self.is_terminal {
            let _terminal_may_be_gone = write!(std::io::stderr(), "\r\x1b[2K{line}");
        }
    }

    /// Says something about a cell that has ended.
    pub(super) fn say(&self, text: &str) {
        let line = line(*self.state.lock(), self.jobs);
        let clear = if self.is_terminal { "\r\x1b[2K" } else { "" };
        let _nobody_may_listen = writeln!(std::io::stderr(), "{clear}{text} ({line})");
    }

    pub(super) fn elapsed(&self) -> Duration {
        self.state.lock().started.elapsed()
    }

    /// How many runs were played, and how many were known.
    pub(super) fn counts(&self) -> (usize, usize) {
        let state = self.state.lock();
        (state.n_played, state.n_known)
    }
}

fn line(state: State, jobs: usize) -> String {
    let n_done = state.n_played + state.n_known;
    let n_left = state.n_planned.saturating_sub(n_done);
    let left = if state.n_played == 0 {
        String::new()
    } else {
        let seconds = n_left as f64 * state.wall / state.n_played as f64 / jobs.max(1) as f64;
        format!(", about {} min left", (seconds / 60.0).ceil())
    };
    format!("{n_done} of {} runs{left}", state.n_planned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_line_says_what_is_done_and_what_is_left() {
        let started = Instant::now();
        let check = |n_known, n_played, wall, expected| {
            let state = State { started, n_planned: 100, n_known, n_played, wall };
            assert_eq!(line(state, 2), expected);
        };
        check(0, 0, 0.0, "0 of 100 runs");
        check(40, 0, 0.0, "40 of 100 runs");
        check(40, 10, 30.0, "50 of 100 runs, about 2 min left");
        check(0, 100, 300.0, "100 of 100 runs, about 0 min left");
    }
}
