//! The file of a recording: for its owner's eyes, bounded, and whole after every batch.

use std::{
    fs::{File, OpenOptions},
    io::{self, BufWriter, ErrorKind, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

use router_sim::replay::recording::Header;
use router_telemetry::metrics::Counter;

use super::lines::Lines;

/// Nobody else need know who uses which model when.
const MODE: u32 = 0o600;
/// Kept for the last line.
const END_BYTES: u64 = 256;

pub(super) struct RecordFile {
    out: BufWriter<File>,
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
        let file = OpenOptions::new().write(true).create_new(true).mode(MODE).open(path);
        let file = file.map_err(|error| match error.kind() {
            ErrorKind::AlreadyExists => {
                let message = "there is such a file; name another one, or give --record-overwrite";
                io::Error::new(ErrorKind::AlreadyExists, message)
            }
            _ => error,
        })?;
        let mut file = Self { out: BufWriter::new(file), n_bytes: 0, max_bytes };
        let mut line = serde_json::to_vec(header)?;
        line.push(b'\n');
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
        self.out.write_all(line)?;
        self.n_bytes = n_bytes;
        Ok(Written::Whole)
    }

    pub(super) fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }

    /// Writes the last line, for which there is room, and makes sure that all is on disk.
    pub(super) fn close(&mut self, end: &[u8]) -> io::Result<()> {
        self.out.write_all(end)?;
        self.n_bytes += end.len() as u64;
        self.out.flush()?;
        self.out.get_ref().sync_all()
    }
}
