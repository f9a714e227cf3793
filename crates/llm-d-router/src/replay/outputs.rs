//! Files that are written, kept apart from those that are read.

use std::{
    fs::OpenOptions,
    io::ErrorKind,
    path::{Path, PathBuf},
};

use crate::cli::UsageError;

/// Refuses to write over an input or to write one file twice, for a recording cannot be made again, and what cannot be
/// written.
pub(super) fn check_outputs(inputs: &[&Path], outputs: &[&Path]) -> Result<(), UsageError> {
    for (nth, output) in outputs.iter().enumerate() {
        let place = place(output);
        let is_it = |other: &&&Path| self::place(other) == place;
        if inputs.iter().find(is_it).is_some() {
            let message =
                format!("{} is read; name another file for the results", output.display());
            return Err(UsageError(message));
        }
        if outputs.iter().take(nth).find(is_it).is_some() {
            let message = format!("{} would be written twice", output.display());
            return Err(UsageError(message));
        }
    }
    outputs.iter().try_for_each(|output| try_to_open(output))
}

/// What cannot be written is said before the work, not after it. Nothing is left of the attempt.
fn try_to_open(path: &Path) -> Result<(), UsageError> {
    let mut options = OpenOptions::new();
    let tried = match options.append(true).create_new(true).open(path) {
        Ok(_) => std::fs::remove_file(path),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            options.create_new(false).open(path).map(drop)
        }
        Err(error) => Err(error),
    };
    tried.map_err(|error| cannot_write(path, &error))
}

fn cannot_write(path: &Path, error: &std::io::Error) -> UsageError {
    UsageError(format!("cannot write {}: {error}", path.display()))
}

pub(super) fn write(path: &Path, text: &str) -> Result<(), UsageError> {
    std::fs::write(path, text).map_err(|error| cannot_write(path, &error))
}

/// The same for all names of one file, as far as it or its folder is there.
fn place(path: &Path) -> PathBuf {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let in_folder = || {
        let folder = folder.unwrap_or(Path::new(".")).canonicalize().ok()?;
        Some(folder.join(path.file_name()?))
    };
    path.canonicalize().ok().or_else(in_folder).unwrap_or_else(|| path.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outputs_are_new_and_can_be_written() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        std::fs::write(at("trace"), "").unwrap();
        std::os::unix::fs::symlink(at("trace"), at("link")).unwrap();
        let refused = |inputs: &[&Path], outputs: &[&Path]| {
            check_outputs(inputs, outputs).err().map(|error| error.to_string()).unwrap_or_default()
        };
        let trace = at("trace");
        for name in ["trace", "./trace", "link"] {
            let said = refused(&[&trace], &[&at(name)]);
            assert!(said.contains("name another file"), "{name}: {said}");
        }
        let said = refused(&[&trace], &[&at("new"), &at("./new")]);
        assert!(said.contains("twice"), "{said}");
        assert_eq!(refused(&[&trace], &[&at("new"), &at("other")]), "");
        std::fs::write(at("kept"), "results").unwrap();
        let said = refused(&[&trace], &[&at("kept"), &at("no-such-folder").join("new")]);
        assert!(said.starts_with("cannot write ") && said.contains("no-such-folder"), "{said}");
        assert_eq!(std::fs::read_to_string(at("kept")).unwrap(), "results");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 3, "nothing new is left");
    }
}
