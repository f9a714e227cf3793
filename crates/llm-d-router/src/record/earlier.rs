//! The recording that stands where a new one begins.
//!
//! A router that comes back after a crash has the same flags, and nobody is there to move files. What it recorded
//! before is what tells of the crash, so it is kept under a number that no other has: `r.jsonl` becomes `r.jsonl.1`,
//! the next one `r.jsonl.2`. A writer that still has it open goes on in it under that name.

use std::{
    ffi::{OsStr, OsString},
    fs::{self, OpenOptions},
    io::{self, ErrorKind},
    os::unix::{ffi::OsStrExt, fs::OpenOptionsExt},
    path::{Path, PathBuf},
};

/// Numbers that are tried where others take them at the same time.
const MAX_TRIES: u64 = 100;

/// A file that was moved to another name.
#[derive(Debug)]
pub(super) struct Earlier {
    path: PathBuf,
    kept: PathBuf,
}

impl Earlier {
    /// Moves what is at `path` to a name of its own, where there is something. It must be a file.
    pub(super) fn set_aside(path: &Path) -> io::Result<Option<Self>> {
        match fs::symlink_metadata(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
            // A device or a pipe is no recording, and moving one harms others.
            Ok(found) if !(found.is_file() || found.is_symlink()) => {
                let message = "that is not a file; a recording needs one of its own";
                return Err(io::Error::new(ErrorKind::InvalidInput, message));
            }
            Ok(_) => {}
        }
        let kept = free_name(path)?;
        if let Err(error) = fs::rename(path, &kept) {
            let _it_is_empty_and_ours = fs::remove_file(&kept);
            return Err(error);
        }
        Ok(Some(Self { path: path.to_owned(), kept }))
    }

    /// Where it is.
    pub(super) fn kept(&self) -> &Path {
        &self.kept
    }

    /// Undoes it, where no new one could begin.
    pub(super) fn put_back(self) -> io::Result<()> {
        fs::rename(&self.kept, &self.path)
    }

    /// Nobody wants it.
    pub(super) fn remove(self) -> io::Result<()> {
        fs::remove_file(&self.kept)
    }
}

/// Makes an empty file under the next number, so that nobody else has it and moving a file there replaces nothing.
fn free_name(path: &Path) -> io::Result<PathBuf> {
    let name = path.file_name().unwrap_or_default();
    let highest = highest_number(path, name);
    for number in (highest..=u64::MAX).skip(1).take(MAX_TRIES as usize) {
        let mut kept = OsString::from(name);
        kept.push(format!(".{number}"));
        let kept = path.with_file_name(kept);
        match OpenOptions::new().write(true).create_new(true).mode(super::file::MODE).open(&kept) {
            Ok(_) => return Ok(kept),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
    let message = format!("there is no free number after {highest} to keep the earlier one under");
    Err(io::Error::new(ErrorKind::AlreadyExists, message))
}

/// The highest number that an earlier one has, so that numbers stand in the order of time whatever was removed; 0
/// where there is none, or the folder cannot be listed.
fn highest_number(path: &Path, name: &OsStr) -> u64 {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let Ok(entries) = fs::read_dir(folder.unwrap_or(Path::new("."))) else { return 0 };
    let number = |found: OsString| {
        let rest = found.as_bytes().strip_prefix(name.as_bytes())?.strip_prefix(b".")?;
        let is_plain = rest.iter().all(u8::is_ascii_digit);
        std::str::from_utf8(rest).ok().filter(|_| is_plain)?.parse::<u64>().ok()
    };
    entries.flatten().filter_map(|entry| number(entry.file_name())).max().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn what_is_there_gets_the_next_number_and_replaces_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("r.jsonl");
        assert!(Earlier::set_aside(&path).unwrap().is_none());
        for other in ["r.jsonl.7", "r.jsonl.x", "r.jsonl.", "r.jsonl.9x", "r.jsonl.-9", "r.jsonl"] {
            fs::write(folder.path().join(other), other).unwrap();
        }
        let earlier = Earlier::set_aside(&path).unwrap().unwrap();
        assert_eq!(earlier.kept(), folder.path().join("r.jsonl.8"));
        assert_eq!(fs::read_to_string(earlier.kept()).unwrap(), "r.jsonl");
        assert!(!path.try_exists().unwrap());
        earlier.put_back().unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "r.jsonl");
        assert_eq!(names(folder.path()).len(), 6, "{:?}", names(folder.path()));
        Earlier::set_aside(&path).unwrap().unwrap().remove().unwrap();
        assert_eq!(names(folder.path()).len(), 5, "{:?}", names(folder.path()));
    }

    #[test]
    fn a_link_is_moved_and_what_it_leads_to_stays() {
        let folder = tempfile::tempdir().unwrap();
        let (path, target) = (folder.path().join("r"), folder.path().join("target"));
        fs::write(&target, "t").unwrap();
        std::os::unix::fs::symlink(&target, &path).unwrap();
        Earlier::set_aside(&path).unwrap().unwrap();
        assert_eq!(names(folder.path()), ["r.1", "target"]);
        assert_eq!(fs::read_to_string(target).unwrap(), "t");
    }

    #[test]
    fn what_is_no_file_and_what_has_no_number_left_stays() {
        let folder = tempfile::tempdir().unwrap();
        let no_file = Earlier::set_aside(folder.path()).unwrap_err();
        assert!(no_file.to_string().contains("not a file"), "{no_file}");
        let path = folder.path().join("r");
        let last = folder.path().join(format!("r.{}", u64::MAX));
        for there in [&path, &last] {
            fs::write(there, "x").unwrap();
        }
        let none_left = Earlier::set_aside(&path).unwrap_err();
        assert!(none_left.to_string().contains("no free number"), "{none_left}");
        assert!(path.try_exists().unwrap());
    }
}
