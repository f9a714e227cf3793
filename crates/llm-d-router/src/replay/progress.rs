//! How far the work is, for people who wait for it: one line drawn over and over on a terminal, a line now and
//! then where standard error is a file or a pipe.

use std::{io::Write, sync::Arc, time::Duration};

use router_sim::replay::run::Progress as Run;
use tokio::time::Instant;

use crate::process;

/// Work that ends before this shows nothing.
const QUIET: Duration = Duration::from_secs(2);
/// How often it should be looked whether there is something to show.
pub(super) const LOOK_INTERVAL: Duration = Duration::from_millis(200);
/// Off a terminal, no two lines come closer than this; and a line comes for each further [`TOLD_SHARE`], but not
/// later than after [`SILENCE`], so that nobody takes it for dead.
const TOLD_INTERVAL: Duration = Duration::from_secs(10);
const TOLD_SHARE: f64 = 0.1;
const SILENCE: Duration = Duration::from_mins(1);
/// Until so much is done nothing can be said about the rest.
const MIN_SHARE: f64 = 0.01;

/// What is shown of work under way.
pub(super) struct Shown<W> {
    to: W,
    started: Instant,
    is_terminal: bool,
    /// Whether a line stands on the terminal.
    is_drawn: bool,
    /// When the last line was told, and how much was done by then.
    told: Option<(Duration, f64)>,
}

impl Shown<std::io::Stderr> {
    pub(super) fn on_stderr() -> Self {
        Self::new(std::io::stderr(), process::is_terminal())
    }
}

impl<W: Write> Shown<W> {
    fn new(to: W, is_terminal: bool) -> Self {
        Self { to, started: Instant::now(), is_terminal, is_drawn: false, told: None }
    }

    /// Shows the line that `line` makes of the time that has passed, if it is time for one. `share` of the work is
    /// done.
    pub(super) fn show(&mut self, share: f64, line: impl FnOnce(Duration) -> String) {
        let elapsed = self.started.elapsed();
        if elapsed < QUIET {
            return;
        }
        // Whoever looked may be gone; the work goes on.
        let _shown = if self.is_terminal {
            self.is_drawn = true;
            write!(self.to, "\r\x1b[2K{}", line(elapsed))
        } else if self.is_due(elapsed, share) {
            self.told = Some((elapsed, share));
            writeln!(self.to, "{}", line(elapsed))
        } else {
            Ok(())
        };
        let _flushed = self.to.flush();
    }

    fn is_due(&self, elapsed: Duration, share: f64) -> bool {
        let Some((at, told_share)) = self.told else { return true };
        let since = elapsed.saturating_sub(at);
        since >= SILENCE || (since >= TOLD_INTERVAL && share - told_share >= TOLD_SHARE)
    }

    /// Takes the line away from the terminal.
    pub(super) fn clear(&mut self) {
        if std::mem::take(&mut self.is_drawn) {
            let _terminal_may_be_gone = write!(self.to, "\r\x1b[2K").and_then(|()| self.to.flush());
        }
    }
}

/// All runs.
pub(super) struct Progress {
    runs: Vec<Arc<Run>>,
    shown: Shown<std::io::Stderr>,
}

impl Default for Progress {
    fn default() -> Self {
        Self { runs: Vec::new(), shown: Shown::on_stderr() }
    }
}

impl Progress {
    pub(super) fn add(&mut self) -> Arc<Run> {
        let run = Arc::new(Run::default());
        self.runs.push(Arc::clone(&run));
        run
    }

    /// The virtual time of each run that has passed.
    pub(super) fn passed(&self) -> impl Iterator<Item = Duration> {
        self.runs.iter().map(|run| run.passed())
    }

    pub(super) fn show(&mut self) {
        let shares: Vec<f64> = self.runs.iter().map(|run| run.share()).collect();
        self.shown.show(done(&shares), |elapsed| line(&shares, elapsed));
    }

    pub(super) fn clear(&mut self) {
        self.shown.clear();
    }
}

/// Share of all runs that is done, of the shares of each.
fn done(shares: &[f64]) -> f64 {
    shares.iter().sum::<f64>() / shares.len().max(1) as f64
}

/// `shares` are those of all runs that are done.
fn line(shares: &[f64], elapsed: Duration) -> String {
    let n_done = shares.iter().filter(|share| **share >= 1.0).count();
    let share = done(shares);
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

    /// What is shown of work that takes so many seconds, looked at each of them.
    async fn shown(is_terminal: bool, seconds: u64) -> String {
        let mut shown = Shown::new(Vec::new(), is_terminal);
        for second in 1..=seconds {
            tokio::time::advance(Duration::from_secs(1)).await;
            shown.show(second as f64 / seconds as f64, |elapsed| elapsed.as_secs().to_string());
        }
        shown.clear();
        String::from_utf8(shown.to).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn off_a_terminal_a_line_comes_now_and_then() {
        assert_eq!(shown(false, 1).await, "");
        assert_eq!(shown(false, 20).await, "2\n12\n");
        assert_eq!(shown(false, 300).await.lines().count(), 10);
        let of_an_hour = shown(false, 3_600).await;
        assert_eq!(of_an_hour.lines().count(), 60, "{of_an_hour}");
        assert!(!of_an_hour.contains('\x1b'));
    }

    #[tokio::test(start_paused = true)]
    async fn on_a_terminal_one_line_is_drawn_over_and_goes() {
        assert_eq!(shown(true, 1).await, "");
        assert_eq!(shown(true, 3).await, "\r\x1b[2K2\r\x1b[2K3\r\x1b[2K");
    }
}
