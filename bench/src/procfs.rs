//! CPU time and memory of another process, read from /proc.

use std::fs;

/// The kernel counts CPU time for /proc in hundredths of a second on every Linux in use.
const TICKS_PER_SECOND: f64 = 100.0;

/// What a process has used so far.
#[derive(Clone, Copy, Debug, Default)]
pub struct Usage {
    /// User and system time of all threads, in seconds.
    pub cpu_s: f64,
    /// Resident memory.
    pub rss_kib: u64,
    /// The most resident memory that it ever had.
    pub peak_rss_kib: u64,
}

impl Usage {
    /// Resident memory in MiB.
    pub fn rss_mib(&self) -> f64 {
        self.rss_kib as f64 / 1024.0
    }

    /// The most resident memory that it ever had, in MiB.
    pub fn peak_rss_mib(&self) -> f64 {
        self.peak_rss_kib as f64 / 1024.0
    }
}

/// What process `pid` has used, or `None` if there is none or its files do not read as expected.
pub fn usage(pid: u32) -> Option<Usage> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    Some(Usage {
        cpu_s: cpu_ticks(&stat)? as f64 / TICKS_PER_SECOND,
        rss_kib: kib(&status, "VmRSS:")?,
        peak_rss_kib: kib(&status, "VmHWM:")?,
    })
}

fn cpu_ticks(stat: &str) -> Option<u64> {
    // The second field (the program's name) may hold spaces and brackets; the third comes after the
    // last ')'. User time is field 14 and system time is field 15.
    let from_third = stat.rsplit_once(')')?.1;
    let mut times = from_third.split_ascii_whitespace().skip(11);
    let user: u64 = times.next()?.parse().ok()?;
    let system: u64 = times.next()?.parse().ok()?;
    Some(user + system)
}

fn kib(status: &str, key: &str) -> Option<u64> {
    let value = status.lines().find_map(|line| line.strip_prefix(key))?;
    value.split_ascii_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_fields_after_a_name_with_brackets() {
        let stat = "12 (a) b) S 1 2 3 4 5 6 7 8 9 10 250 50 0 0 20 0 1 0 99 1 2";
        assert_eq!(cpu_ticks(stat), Some(300));
        assert_eq!(cpu_ticks("12 (a) S 1"), None);
        assert_eq!(kib("Name:\tx\nVmRSS:\t  2048 kB\n", "VmRSS:"), Some(2048));
        assert_eq!(kib("Name:\tx\n", "VmRSS:"), None);
    }

    #[test]
    fn reads_this_process() {
        let usage = usage(std::process::id()).unwrap();
        assert!(usage.rss_kib > 100 && usage.peak_rss_kib >= usage.rss_kib);
    }
}
