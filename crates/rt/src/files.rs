//! Reading of files within a bound.

use std::{
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
};

use thiserror::Error;

/// Why a file could not be read.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum FileError {
    #[error("{} does not exist", .path.display())]
    NotFound { path: PathBuf },
    #[error("{} is larger than the limit of {max_bytes} bytes", .path.display())]
    TooLarge { path: PathBuf, max_bytes: u64 },
    #[error("{} holds more than {max_files} files", .path.display())]
    TooMany { path: PathBuf, max_files: usize },
    #[error("cannot read {}: {source}", .path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("reading {} broke off: {reason}", .path.display())]
    Aborted { path: PathBuf, reason: String },
}

impl FileError {
    pub(crate) fn from_io(path: &Path, source: io::Error) -> Self {
        let path = path.to_owned();
        match source.kind() {
            io::ErrorKind::NotFound => Self::NotFound { path },
            _ => Self::Read { path, source },
        }
    }
}

/// Reads a whole file of at most `max_bytes`, whatever its metadata say: a pipe or a file that
/// grows while it is read cannot use more memory.
///
/// Blocks; a caller on a runtime thread goes through [`crate::Offload`].
pub fn read_file_bounded(path: &Path, max_bytes: u64) -> Result<Vec<u8>, FileError> {
    let file = File::open(path).map_err(|source| FileError::from_io(path, source))?;
    let mut contents = Vec::new();
    file.take(max_bytes.saturating_add(1))
        .read_to_end(&mut contents)
        .map_err(|source| FileError::from_io(path, source))?;
    if contents.len() as u64 > max_bytes {
        return Err(FileError::TooLarge { path: path.to_owned(), max_bytes });
    }
    Ok(contents)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn reads_up_to_the_bound_and_not_beyond() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        fs::write(&path, b"12345").unwrap();
        assert_eq!(read_file_bounded(&path, 5).unwrap(), b"12345");
        let error = read_file_bounded(&path, 4).unwrap_err();
        assert!(matches!(error, FileError::TooLarge { max_bytes: 4, .. }), "{error}");
    }

    #[test]
    fn endless_and_missing_files_are_typed_errors() {
        let endless = read_file_bounded(Path::new("/dev/zero"), 4096).unwrap_err();
        assert!(matches!(endless, FileError::TooLarge { .. }), "{endless}");
        let missing = read_file_bounded(Path::new("/no/such/file"), 1).unwrap_err();
        assert!(matches!(missing, FileError::NotFound { .. }), "{missing}");
        let directory = read_file_bounded(Path::new("/"), 1).unwrap_err();
        assert!(matches!(directory, FileError::Read { .. }), "{directory}");
    }
}
