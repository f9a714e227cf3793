//! The standard `process_*` families, read from `/proc/self` when the page is asked for.

use std::{fs, sync::Arc};

use crate::metrics::{Def, Gauge, RegisterError, Registry, ScrapeHook, Total};

/// CPU time, memory and file descriptors of this process. Dropping it freezes the values.
#[derive(Debug)]
pub struct ProcessMetrics {
    _hook: ScrapeHook,
}

struct Gauges {
    cpu_seconds: Arc<Total>,
    resident_bytes: Arc<Gauge>,
    virtual_bytes: Arc<Gauge>,
    open_fds: Arc<Gauge>,
    max_fds: Arc<Gauge>,
}

/// Ticks per second of the times in `/proc/self/stat`: fixed in Linux's interface (`USER_HZ`).
const TICKS_PER_SECOND: f64 = 100.0;

impl ProcessMetrics {
    /// Registers the families; `started` is when the process began, in seconds since the epoch.
    pub fn new(registry: &Registry, started: f64) -> Result<Self, RegisterError> {
        let gauge = |name, help| Ok(registry.gauge(Def::new(name, help, []))?.with([]));
        gauge(
            "process_start_time_seconds",
            "Start time of the process since unix epoch in seconds.",
        )?
        .set(started);
        let gauges = Gauges {
            cpu_seconds: registry
                .total(Def::new(
                    "process_cpu_seconds_total",
                    "Total user and system CPU time spent in seconds.",
                    [],
                ))?
                .with([]),
            resident_bytes: gauge(
                "process_resident_memory_bytes",
                "Resident memory size in bytes.",
            )?,
            virtual_bytes: gauge("process_virtual_memory_bytes", "Virtual memory size in bytes.")?,
            open_fds: gauge("process_open_fds", "Number of open file descriptors.")?,
            max_fds: gauge("process_max_fds", "Maximum number of open file descriptors.")?,
        };
        Ok(Self { _hook: registry.on_scrape(move || gauges.update()) })
    }
}

impl Gauges {
    /// What cannot be read keeps its last value.
    fn update(&self) {
        let read = |name: &str| fs::read_to_string(format!("/proc/self/{name}")).ok();
        let set = |gauge: &Gauge, value: Option<f64>| value.map(|value| gauge.set(value));
        if let Some(seconds) = read("stat").as_deref().and_then(cpu_seconds) {
            self.cpu_seconds.set(seconds);
        }
        let status = read("status").unwrap_or_default();
        set(&self.resident_bytes, kibibytes(&status, "VmRSS:"));
        set(&self.virtual_bytes, kibibytes(&status, "VmSize:"));
        let open = fs::read_dir("/proc/self/fd").ok().map(|entries| entries.count() as f64);
        set(&self.open_fds, open);
        set(&self.max_fds, read("limits").as_deref().and_then(max_fds));
    }
}

/// User and system time: the 14th and 15th field, counted after the parenthesised name, which may
/// itself hold spaces.
fn cpu_seconds(stat: &str) -> Option<f64> {
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_ascii_whitespace().skip(11);
    let user: f64 = fields.next()?.parse().ok()?;
    let system: f64 = fields.next()?.parse().ok()?;
    Some((user + system) / TICKS_PER_SECOND)
}

fn kibibytes(status: &str, key: &str) -> Option<f64> {
    let line = status.lines().find_map(|line| line.strip_prefix(key))?;
    let kibibytes: f64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024.0)
}

fn max_fds(limits: &str) -> Option<f64> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_ascii_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Format;

    #[test]
    fn reads_what_linux_writes() {
        let stat = "7 (a (b) c) S 1 7 7 0 -1 4194560 100 0 0 0 250 50 0 0 20 0 4 0 100 0 0";
        assert_eq!(cpu_seconds(stat), Some(3.0));
        assert_eq!(kibibytes("VmSize:\t  10 kB\nVmRSS:\t   3 kB\n", "VmRSS:"), Some(3072.0));
        let limits = "Max processes  5  5  processes\nMax open files    1024   4096   files \n";
        assert_eq!(max_fds(limits), Some(1024.0));
        assert_eq!(cpu_seconds("garbage"), None);
        assert_eq!(kibibytes("VmRSS: many", "VmRSS:"), None);
    }

    #[test]
    fn the_page_shows_this_process() {
        let registry = Registry::default();
        let _process = ProcessMetrics::new(&registry, 1_700_000_000.0).unwrap();
        let page = registry.encode(Format::Text);
        let value = |name: &str| -> f64 {
            let line = page.lines().find_map(|line| line.strip_prefix(name)).unwrap();
            line.trim().parse().unwrap()
        };
        assert!(value("process_resident_memory_bytes ") > 100_000.0);
        assert!(value("process_open_fds ") >= 3.0);
        assert!(value("process_max_fds ") >= 3.0);
        assert_eq!(value("process_start_time_seconds "), 1_700_000_000.0);
    }
}
