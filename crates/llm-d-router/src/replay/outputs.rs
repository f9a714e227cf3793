//! Files that are written, kept apart from those that are read.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, ErrorKind, Write},
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
        Ok(_) => fs::remove_file(path),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            options.create_new(false).open(path).map(drop)
        }
        Err(error) => Err(error),
    };
    tried.map_err(|error| cannot_write(path, &error))
}

fn cannot_write(path: &Path, error: &io::Error) -> UsageError {
    UsageError(format!("cannot write {}: {error}", path.display()))
}

/// Writes a file whole or leaves what was there: a disk may be full. What is no file, such as a pipe, is written to.
pub(super) fn write(path: &Path, text: &str) -> Result<(), UsageError> {
    // A link goes on leading to where it led.
    let place = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let there = fs::metadata(&place).ok();
    let written = match &there {
        Some(there) if !there.is_file() => fs::write(&place, text),
        _ => replace(&place, there, text),
    };
    written.map_err(|error| cannot_write(path, &error))
}

/// Puts a file in the place of what was there, which may have been nothing.
fn replace(path: &Path, there: Option<fs::Metadata>, text: &str) -> io::Result<()> {
    let new = path.with_file_name(format!(".llm-d-router-{}.new", std::process::id()));
    let Ok(mut file) = File::create_new(&new) else {
        // Such as a file that may be changed in a folder that may not.
        return fs::write(path, text);
    };
    let written = file.write_all(text.as_bytes()).and_then(|()| {
        there.map_or(Ok(()), |there| fs::set_permissions(&new, there.permissions()))?;
        fs::rename(&new, path)
    });
    written.inspect_err(|_| drop(fs::remove_file(&new)))
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

    #[test]
    fn a_file_is_replaced_where_it_is() {
        use std::os::unix::fs::{PermissionsExt, symlink};

        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let content = |name: &str| fs::read_to_string(at(name)).unwrap();
        write(&at("new"), "first").unwrap();
        fs::set_permissions(at("new"), fs::Permissions::from_mode(0o640)).unwrap();
        symlink("new", at("link")).unwrap();
        write(&at("link"), "second").unwrap();
        assert_eq!((&*content("new"), &*content("link")), ("second", "second"));
        assert!(fs::symlink_metadata(at("link")).unwrap().is_symlink());
        assert_eq!(fs::metadata(at("new")).unwrap().permissions().mode() & 0o777, 0o640);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2, "nothing else is left");
        assert!(write(&at("no-such-folder").join("new"), "").is_err());
    }
}
