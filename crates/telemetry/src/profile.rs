//! CPU profiles of this process, in the format that `go tool pprof` reads.
//!
//! Samples are taken by a signal timer while a profile runs and at no other time. The format
//! (`profile.proto`) is written by hand: five small messages do not need a code generator.

use std::{
    collections::HashMap,
    time::{Duration, UNIX_EPOCH},
};

use pprof::{ProfilerGuard, ProfilerGuardBuilder, Report};
use thiserror::Error;

/// A profile that is being taken. Only one at a time can run in a process.
#[must_use = "dropping it ends the profile"]
pub struct CpuProfile {
    guard: ProfilerGuard<'static>,
}

/// Why there is no profile.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ProfileError {
    #[error("a profile is being taken already")]
    Busy,
    #[error("cannot profile: {0}")]
    Failed(String),
}

/// Samples per second of CPU time; prime, so that it does not beat with timers.
const HERTZ: i32 = 99;

/// Samples inside these libraries are left out: unwinding there can wait for a lock that the
/// interrupted thread holds.
const NOT_UNWOUND: [&str; 4] = ["libc", "libgcc", "pthread", "vdso"];

impl CpuProfile {
    /// Starts taking samples.
    pub fn start() -> Result<Self, ProfileError> {
        let guard =
            ProfilerGuardBuilder::default().frequency(HERTZ).blocklist(&NOT_UNWOUND).build();
        match guard {
            Ok(guard) => Ok(Self { guard }),
            Err(pprof::Error::Running) => Err(ProfileError::Busy),
            Err(error) => Err(ProfileError::Failed(error.to_string())),
        }
    }

    /// Stops, and returns the profile. Finding the names takes seconds: run it off the runtime's
    /// threads.
    pub fn finish(self) -> Result<Vec<u8>, ProfileError> {
        let report = self.guard.report().build();
        drop(self.guard);
        report
            .map(|report| encode(&report))
            .map_err(|error| ProfileError::Failed(error.to_string()))
    }
}

impl std::fmt::Debug for CpuProfile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("CpuProfile")
    }
}

// === profile.proto ===

/// The tables of a profile, in which all else is named by number.
#[derive(Default)]
struct Tables {
    strings: Vec<String>,
    string_ids: HashMap<String, u64>,
    /// Functions by name and file; ids count from 1.
    functions: HashMap<(u64, u64), u64>,
    /// Locations by function and line; ids count from 1.
    locations: HashMap<(u64, u64), u64>,
}

fn encode(report: &Report) -> Vec<u8> {
    let mut tables = Tables::default();
    tables.string("");
    let mut out = Vec::new();
    let [samples, count, cpu, nanoseconds, thread] =
        ["samples", "count", "cpu", "nanoseconds", "thread"].map(|text| tables.string(text));
    let period = u64::try_from(1_000_000_000 / HERTZ).unwrap_or(1);
    message(&mut out, 1, |kind| value_type(kind, samples, count));
    message(&mut out, 1, |kind| value_type(kind, cpu, nanoseconds));
    for (frames, n_samples) in &report.data {
        let n_samples = u64::try_from(*n_samples).unwrap_or(0);
        let symbols = frames.frames.iter().flatten();
        let ids: Vec<u64> = symbols
            .map(|symbol| {
                let name = tables.string(&symbol.name());
                let file = tables.string(&symbol.filename());
                tables.location(name, file, u64::from(symbol.lineno()))
            })
            .collect();
        let of_thread = tables.string(&frames.thread_name_or_id());
        message(&mut out, 2, |sample| {
            for id in ids {
                number(sample, 1, id);
            }
            // Zero counts are written, too: each kind of value needs its place.
            varint_field(sample, 2, n_samples);
            varint_field(sample, 2, n_samples * period);
            message(sample, 3, |label| {
                number(label, 1, thread);
                number(label, 2, of_thread);
            });
        });
    }
    tables.write(&mut out);
    let started = report.timing.start_time.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    number(&mut out, 9, nanos(started));
    number(&mut out, 10, nanos(report.timing.duration));
    message(&mut out, 11, |kind| value_type(kind, cpu, nanoseconds));
    number(&mut out, 12, period);
    out
}

impl Tables {
    fn string(&mut self, text: &str) -> u64 {
        if let Some(id) = self.string_ids.get(text) {
            return *id;
        }
        let id = self.strings.len() as u64;
        self.strings.push(text.to_owned());
        self.string_ids.insert(text.to_owned(), id);
        id
    }

    fn location(&mut self, name: u64, file: u64, line: u64) -> u64 {
        let next = self.functions.len() as u64 + 1;
        let function = *self.functions.entry((name, file)).or_insert(next);
        let next = self.locations.len() as u64 + 1;
        *self.locations.entry((function, line)).or_insert(next)
    }

    fn write(&self, out: &mut Vec<u8>) {
        for ((function, line_number), id) in &self.locations {
            message(out, 4, |location| {
                number(location, 1, *id);
                message(location, 4, |line| {
                    number(line, 1, *function);
                    number(line, 2, *line_number);
                });
            });
        }
        for ((name, file), id) in &self.functions {
            message(out, 5, |function| {
                number(function, 1, *id);
                number(function, 2, *name);
                number(function, 4, *file);
            });
        }
        for text in &self.strings {
            bytes(out, 6, text.as_bytes());
        }
    }
}

fn value_type(out: &mut Vec<u8>, kind: u64, unit: u64) {
    number(out, 1, kind);
    number(out, 2, unit);
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// A number field; zero is the default and left out.
fn number(out: &mut Vec<u8>, field: u64, value: u64) {
    if value != 0 {
        varint_field(out, field, value);
    }
}

fn varint_field(out: &mut Vec<u8>, field: u64, value: u64) {
    varint(out, field << 3);
    varint(out, value);
}

fn message(out: &mut Vec<u8>, field: u64, write: impl FnOnce(&mut Vec<u8>)) {
    let mut inner = Vec::new();
    write(&mut inner);
    bytes(out, field, &inner);
}

fn bytes(out: &mut Vec<u8>, field: u64, bytes: &[u8]) {
    varint(out, field << 3 | 2);
    varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_as_protobuf_does() {
        let check = |value: u64, expected: &[u8]| {
            let mut out = Vec::new();
            varint(&mut out, value);
            assert_eq!(out, expected, "{value}");
        };
        check(0, &[0]);
        check(127, &[0x7f]);
        check(300, &[0xac, 0x02]);
        check(u64::MAX, &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01]);
    }

    #[test]
    fn tables_name_each_thing_once() {
        let mut tables = Tables::default();
        assert_eq!(tables.string(""), 0);
        let (f, g, file) = (tables.string("f"), tables.string("g"), tables.string("x.rs"));
        assert_eq!(tables.string("f"), f);
        assert_eq!(tables.location(f, file, 1), 1);
        assert_eq!(tables.location(g, file, 1), 2);
        assert_eq!(tables.location(f, file, 2), 3);
        assert_eq!(tables.location(f, file, 1), 1);
        assert_eq!(tables.functions.len(), 2);
        let mut out = Vec::new();
        tables.write(&mut out);
        assert!(out.windows(6).any(|window| window == b"\x32\x04x.rs"));
    }
}
