//! The file of a recording: for its owner's eyes, bounded, and whole after every batch.
//!
//! Whoever rotates logs may copy the file and cut it to nothing while it is written (`copytruncate`). Lines are
//! appended wherever the end is, several whole ones at once, and a file that has become shorter begins anew with its
//! first line, so that each part can be read by itself.

use std::{
    fs::{File, OpenOptions},
    io::{self, ErrorKind, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

use router_sim::replay::recording::Header;
use router_telemetry::metrics::Counter;

use super::lines::Lines;

/// Nobody else need know who uses which model when.
const MODE: u32 = 0o600;
/// Lines that are gathered before they are written.
const MAX_PENDING_BYTES: usize = 256 << 10;
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
    max_bytes: u64,
}

/// Whether a line still had room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Written {
    Whole,
    Full,
}

/// Neither a file nor a link to one.
fn is_special(found: &std::fs::Metadata) -> bool {
    !(found.is_file() || found.is_symlink())
}

impl RecordFile {
    /// A new file with its first line. One that is there is replaced only on demand.
    pub(super) fn create(
        path: &Path,
        overwrites: bool,
        max_bytes: u64,
        header: &Header,
    ) -> io::Result<Self> {
        if overwrites {
            // A device or a pipe is no recording, and removing one harms others.
            if std::fs::symlink_metadata(path).is_ok_and(|found| is_special(&found)) {
                let message = "that is not a file; a recording needs one of its own";
                return Err(io::Error::new(ErrorKind::InvalidInput, message));
            }
            match std::fs::remove_file(path) {
                Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
                Ok(()) | Err(_) => {}
            }
        }
        // Made anew, so that neither a link nor somebody's wider permissions are in the way.
        let file = OpenOptions::new().append(true).create_new(true).mode(MODE).open(path);
        let file = file.map_err(|error| match error.kind() {
            ErrorKind::AlreadyExists => {
                let message = "there is such a file; name another one, or give --record-overwrite";
                io::Error::new(ErrorKind::AlreadyExists, message)
            }
            _ => error,
        })?;
        let mut line = serde_json::to_vec(header)?;
        line.push(b'\n');
        let mut file =
            Self { file, header: line.clone(), pending: Vec::new(), n_bytes: 0, max_bytes };
        if file.append(&line)? == Written::Full {
            let message = "--record-max-bytes has no room for a single line";
            return Err(io::Error::new(ErrorKind::InvalidInput, message));
        }
        file.flush()?;
        Ok(file)
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
            tracing::warn!("the recording was cut from outside and begins anew");
        }
        self.file.write_all(&self.pending)?;
        self.pending.clear();
        Ok(())
    }

    /// Writes the last line, for which there is room, and makes sure that all is on disk.
    pub(super) fn close(&mut self, end: &[u8]) -> io::Result<()> {
        self.pending.extend_from_slice(end);
        self.n_bytes += end.len() as u64;
        self.flush()?;
        self.file.sync_all()
    }
}
