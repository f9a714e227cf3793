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
    stage: Stage,
    /// Those of the stages before the present one.
    n_known_before: usize,
    n_played_before: usize,
}

/// Runs of one stage: how many the next has is known when this one has ended.
#[derive(Clone, Copy, Debug)]
struct Stage {
    /// From 1.
    number: usize,
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
        let stage = Stage::new(1);
        let state = State { started, stage, n_known_before: 0, n_played_before: 0 };
        Self { state: Mutex::new(state), jobs, is_terminal: std::io::stderr().is_terminal() }
    }

    /// The next stage begins; what was planned before has been played.
    pub(super) fn begin_stage(&self) {
        let mut state = self.state.lock();
        state.n_known_before += state.stage.n_known;
        state.n_played_before += state.stage.n_played;
        state.stage = Stage::new(state.stage.number + 1);
    }

    pub(super) fn plan(&self, n_runs: usize) {
        self.state.lock().stage.n_planned += n_runs;
    }

    /// So many of the planned runs are not needed after all.
    pub(super) fn unplan(&self, n_runs: usize) {
        let stage = &mut self.state.lock().stage;
        stage.n_planned = stage.n_planned.saturating_sub(n_runs);
    }

    /// A run was found in the file of finished ones.
    pub(super) fn known(&self) {
        self.state.lock().stage.n_known += 1;
    }

    /// A run was played.
    pub(super) fn played(&self, wall: f64) {
        let mut state = self.state.lock();
        state.stage.n_played += 1;
        state.stage.wall += wall;
        let line = state.stage.line(self.jobs);
        if self.is_terminal {
            let _terminal_may_be_gone = write!(std::io::stderr(), "\r\x1b[2K{line}");
        }
    }

    /// Says something about a cell or a stage that has ended.
    pub(super) fn say(&self, text: &str) {
        let line = self.state.lock().stage.line(self.jobs);
        let clear = if self.is_terminal { "\r\x1b[2K" } else { "" };
        let _nobody_may_listen = writeln!(std::io::stderr(), "{clear}{text} ({line})");
    }

    pub(super) fn elapsed(&self) -> Duration {
        self.state.lock().started.elapsed()
    }

    /// How many runs of all stages were played, and how many were known.
    pub(super) fn counts(&self) -> (usize, usize) {
        let state = self.state.lock();
        (state.n_played_before + state.stage.n_played, state.n_known_before + state.stage.n_known)
    }
}

// === impl Stage ===

impl Stage {
    fn new(number: usize) -> Self {
        Self { number, n_planned: 0, n_known: 0, n_played: 0, wall: 0.0 }
    }

    fn line(&self, jobs: usize) -> String {
        let n_done = self.n_played + self.n_known;
        let n_left = self.n_planned.saturating_sub(n_done);
        let left = if self.n_played == 0 {
            String::new()
        } else {
            let seconds = n_left as f64 * self.wall / self.n_played as f64 / jobs.max(1) as f64;
            format!(", about {} min left", (seconds / 60.0).ceil())
        };
        format!("{n_done} of {} runs of stage {}{left}", self.n_planned, self.number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_says_what_is_done_and_what_is_left() {
        let check = |n_known, n_played, wall, expected| {
            let stage = Stage { number: 3, n_planned: 100, n_known, n_played, wall };
            assert_eq!(stage.line(2), expected);
        };
        check(0, 0, 0.0, "0 of 100 runs of stage 3");
        check(40, 0, 0.0, "40 of 100 runs of stage 3");
        check(40, 10, 30.0, "50 of 100 runs of stage 3, about 2 min left");
        check(0, 100, 300.0, "100 of 100 runs of stage 3, about 0 min left");
    }

    #[tokio::test(start_paused = true)]
    async fn a_stage_counts_its_own_runs_and_the_end_counts_all() {
        let progress = Progress::new(1);
        progress.plan(4);
        progress.unplan(1);
        progress.known();
        progress.known();
        progress.played(60.0);
        let line = || progress.state.lock().stage.line(1);
        assert_eq!(line(), "3 of 3 runs of stage 1, about 0 min left");
        progress.begin_stage();
        progress.plan(5);
        progress.played(120.0);
        progress.known();
        assert_eq!(line(), "2 of 5 runs of stage 2, about 6 min left");
        assert_eq!(progress.counts(), (2, 3));
    }
}
