//! The row that a run leaves behind: one line of JSON in `<date>.json`.

use std::fmt;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use serde::Serialize;

use super::SuiteArgs;
use super::budget::Judged;

const SECONDS_PER_DAY: u64 = 86_400;

/// All figures of one run with what they depend on.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// UTC, `YYYY-MM-DD`.
    date: String,
    /// Seconds since 1970.
    time: u64,
    /// Of the checkout in the current folder; empty outside one.
    commit: String,
    machine: Machine,
    rounds: usize,
    seconds: f64,
    pinned: bool,
    figures: Vec<Judged>,
}

/// What the figures were measured on.
#[derive(Clone, Debug, Serialize)]
pub struct Machine {
    pub(crate) cpu: String,
    pub(crate) n_cores: usize,
    pub(crate) kernel: String,
}

impl Row {
    pub fn new(args: &SuiteArgs) -> Self {
        let time = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        Self {
            date: date(time),
            time,
            commit: commit(),
            machine: Machine::here(),
            rounds: args.rounds,
            seconds: args.seconds,
            pinned: !args.no_pin,
            figures: Vec::new(),
        }
    }

    pub(super) fn add(&mut self, judged: Vec<Judged>) {
        self.figures.extend(judged);
    }

    /// Adds the row to the file of its date.
    ///
    /// # Errors
    /// A folder or file that cannot be written.
    pub fn append_to(&self, folder: &Path) -> Result<()> {
        let path = folder.join(format!("{}.json", self.date));
        let mut row = serde_json::to_string(self)?;
        row.push('\n');
        fs::create_dir_all(folder)
            .and_then(|()| OpenOptions::new().create(true).append(true).open(&path))
            .and_then(|mut file| file.write_all(row.as_bytes()))
            .with_context(|| format!("writing {}", path.display()))
    }
}

impl Machine {
    pub(crate) fn here() -> Self {
        let cpu_info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model =
            cpu_info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
        Self {
            cpu: model.map_or_else(String::new, |(_, name)| name.to_owned()),
            n_cores: std::thread::available_parallelism().map_or(0, usize::from),
            kernel: fs::read_to_string("/proc/sys/kernel/osrelease")
                .map_or_else(|_| String::new(), |release| release.trim().to_owned()),
        }
    }
}

/// Of the checkout in the current folder; empty outside one.
pub(crate) fn commit() -> String {
    let output = Command::new("git").args(["rev-parse", "--short=12", "HEAD"]).output();
    let output = output.ok().filter(|output| output.status.success());
    output.map_or_else(String::new, |output| {
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    })
}

/// The UTC date of a number of seconds since 1970.
pub(crate) fn date(seconds: u64) -> String {
    // Counted from 1 March of year 0, leap days come last and every 400 years are alike.
    let days = seconds / SECONDS_PER_DAY + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}")
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({} cores)", self.cpu, self.n_cores)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        for (seconds, expected) in [
            (0, "1970-01-01"),
            (951_782_399, "2000-02-28"),
            (951_782_400, "2000-02-29"),
            (951_868_800, "2000-03-01"),
            (1_735_689_599, "2024-12-31"),
            (1_735_689_600, "2025-01-01"),
            (4_107_542_400, "2100-03-01"),
        ] {
            assert_eq!(date(seconds), expected);
        }
    }

    #[test]
    fn the_machine_is_known() {
        let machine = Machine::here();
        assert!(machine.n_cores > 0 && !machine.kernel.is_empty());
    }
}
