//! The file of a recording: for its owner's eyes, bounded, and whole after every batch.
//!
//! Whoever rotates logs may copy the file and cut it to nothing while it is written (`copytruncate`). Lines are
//! appended wherever the end is, several whole ones at once, and a file that has become shorter begins anew with its
//! first line, so that each part can be read by itself.

use std::{
    fs::{File, OpenOptions},
    io::{self, ErrorKind, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use router_sim::replay::recording::{EndLine, Header, RecordEnd, Why};
use router_telemetry::metrics::Counter;

use super::{earlier::Earlier, lines::Lines};

/// Nobody else need know who uses which model when.
pub(super) const MODE: u32 = 0o600;
/// Lines that are gathered before they are written.
const MAX_PENDING_BYTES: usize = 256 << 10;
/// What lines begin with that are no requests, as they are written.
const INPUT: &[u8] = b"{\"input\":";
/// Kept for the last line.
const END_BYTES: u64 = 256;

pub(super) struct RecordFile {
    file: File,
    /// The first line.
    header: Vec<u8>,
    /// Whole lines that are not in the file yet.
    pending: Vec<u8>,
    /// With those.
    n_bytes: u64,
    /// Lines after the first, with those; what was cut off is not there any more.
    counts: Counts,
    /// Of `pending` alone.
    pending_counts: Counts,
    max_bytes: u64,
}

/// Whether a line still had room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Written {
    Whole,
    Full,
}

/// Lines by what they hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Counts {
    requests: u64,
    inputs: u64,
}

impl Counts {
    fn add(&mut self, line: &[u8]) {
        if line.starts_with(INPUT) {
            self.inputs += 1;
        } else {
            self.requests += 1;
        }
    }
}

impl RecordFile {
    /// A new file with its first line, and where the one is kept that was there. That one is replaced only on demand.
    /// Where it fails, everything is as it was.
    pub(super) fn create(
        path: &Path,
        overwrites: bool,
        max_bytes: u64,
        header: &Header,
    ) -> io::Result<(Self, Option<PathBuf>)> {
        let mut line = serde_json::to_vec(header)?;
        line.push(b'\n');
        if line.len() as u64 + END_BYTES > max_bytes {
            let message = "--record-max-bytes has no room for a single line";
            return Err(io::Error::new(ErrorKind::InvalidInput, message));
        }
        let earlier = Earlier::set_aside(path)?;
        let file = match Self::begin(path, line, max_bytes) {
            Ok(file) => file,
            Err(error) => {
                if let Some(earlier) = earlier {
                    earlier.put_back()?;
                }
                return Err(error);
            }
        };
        let kept = match earlier {
            Some(earlier) if overwrites => {
                earlier.remove()?;
                None
            }
            earlier => earlier.map(|earlier| earlier.kept().to_owned()),
        };
        Ok((file, kept))
    }

    /// Where it fails, there is no file.
    fn begin(path: &Path, header: Vec<u8>, max_bytes: u64) -> io::Result<Self> {
        // Made anew, so that neither a link nor somebody's wider permissions are in the way.
        let mut file = OpenOptions::new().append(true).create_new(true).mode(MODE).open(path)?;
        if let Err(error) = file.write_all(&header) {
            std::fs::remove_file(path)?;
            return Err(error);
        }
        Ok(Self {
            file,
            n_bytes: header.len() as u64,
            header,
            pending: Vec::new(),
            counts: Counts::default(),
            pending_counts: Counts::default(),
            max_bytes,
        })
    }

    pub(super) fn n_bytes(&self) -> u64 {
        self.n_bytes
    }

    /// Writes the lines that have been made, and counts them.
    pub(super) fn write(&mut self, lines: &mut Lines, written: &Counter) -> io::Result<Written> {
        for line in lines.made().split_inclusive(|byte| *byte == b'\n') {
            if self.append(line)? == Written::Full {
                return Ok(Written::Full);
            }
            written.inc();
        }
        lines.clear();
        Ok(Written::Whole)
    }

    fn append(&mut self, line: &[u8]) -> io::Result<Written> {
        let n_bytes = self.n_bytes + line.len() as u64;
        if n_bytes + END_BYTES > self.max_bytes {
            return Ok(Written::Full);
        }
        self.pending.extend_from_slice(line);
        self.n_bytes = n_bytes;
        self.counts.add(line);
        self.pending_counts.add(line);
        if self.pending.len() >= MAX_PENDING_BYTES {
            self.flush()?;
        }
        Ok(Written::Whole)
    }

    pub(super) fn flush(&mut self) -> io::Result<()> {
        let n_written = self.n_bytes - self.pending.len() as u64;
        if self.file.metadata()?.len() < n_written {
            // Lines that were written while it was cut have lost their first line.
            self.file.set_len(0)?;
            self.pending.splice(..0, self.header.iter().copied());
            self.n_bytes = self.pending.len() as u64;
            self.counts = self.pending_counts;
            tracing::warn!("the recording was cut from outside and begins anew");
        }
        self.file.write_all(&self.pending)?;
        self.pending.clear();
        self.pending_counts = Counts::default();
        Ok(())
    }

    /// Writes the last line, for which there is room, and makes sure that all is on disk.
    pub(super) fn close(&mut self, why: Why, dropped: u64, under_way: u64) -> io::Result<()> {
        self.flush()?;
        let Counts { requests, inputs } = self.counts;
        let end = RecordEnd { why, requests, inputs, dropped, under_way };
        serde_json::to_writer(&mut self.pending, &EndLine { end })?;
        self.pending.push(b'\n');
        self.n_bytes += self.pending.len() as u64;
        self.flush()?;
        self.file.sync_all()
    }
}
