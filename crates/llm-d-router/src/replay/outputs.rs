//! Files that are written, kept apart from those that are read.

use std::{
    fs::{self, OpenOptions, Permissions},
    io::{self, ErrorKind, Write},
    os::unix::fs::{FileTypeExt, PermissionsExt},
    path::{Path, PathBuf},
};

use tempfile::NamedTempFile;

use crate::cli::UsageError;

/// Links that lead to each other, one after the other: as many as Linux follows.
const MAX_LINKS: usize = 40;

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
    let place = place(path);
    let tried = match fs::metadata(&place) {
        // Who reads a pipe would see its end.
        Ok(there) if is_stream(there.file_type()) => Ok(()),
        Ok(_) => {
            let opened = OpenOptions::new().append(true).open(&place);
            opened.and_then(|_| if is_file(&place) { try_beside(&place) } else { Ok(()) })
        }
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let made = OpenOptions::new().append(true).create_new(true).open(&place);
            made.and_then(|_| fs::remove_file(&place))
        }
        Err(error) => Err(error),
    };
    tried.map_err(|error| cannot_write(path, &error))
}

fn is_stream(kind: fs::FileType) -> bool {
    kind.is_fifo() || kind.is_char_device() || kind.is_block_device()
}

/// Whether a file has this name. What is only open, with no name any more, is behind a link that leads nowhere else.
fn is_file(place: &Path) -> bool {
    fs::symlink_metadata(place).is_ok_and(|there| there.is_file())
}

/// Whether a file could be put in the place of this one, or is written where it is.
fn try_beside(place: &Path) -> io::Result<()> {
    beside(place).map(drop).or_else(|error| if is_held(&error) { Ok(()) } else { Err(error) })
}

fn cannot_write(path: &Path, error: &io::Error) -> UsageError {
    UsageError(format!("cannot write {}: {error}", path.display()))
}

/// Writes a file whole or leaves what was there: a disk may be full. What is no file, such as a pipe, is written to.
pub(super) fn write(path: &Path, text: &str) -> Result<(), UsageError> {
    // A link goes on leading to where it led.
    let place = place(path);
    let written = match fs::metadata(&place) {
        Ok(there) if is_file(&place) => {
            let replaced = put(&place, Some(there.permissions()), text);
            replaced.or_else(|error| if is_held(&error) { over(&place, text) } else { Err(error) })
        }
        Ok(_) => fs::write(&place, text),
        Err(_) => put(&place, None, text),
    };
    written.map_err(|error| cannot_write(path, &error))
}

/// Puts a new file in the place of what was there, which may have been nothing.
fn put(place: &Path, permissions: Option<Permissions>, text: &str) -> io::Result<()> {
    let mut new = beside(place)?;
    new.write_all(text.as_bytes())?;
    // Disks behind a network say only then that they are full.
    new.as_file().sync_all()?;
    permissions.map_or(Ok(()), |permissions| new.as_file().set_permissions(permissions))?;
    new.persist(place).map(drop).map_err(|error| error.error)
}

/// A new file beside another one, gone again unless it is put in its place.
fn beside(place: &Path) -> io::Result<NamedTempFile> {
    let mut builder = tempfile::Builder::new();
    // The process's mask takes from these what it takes from those of any new file.
    builder.prefix(".llm-d-router-").suffix(".new").permissions(Permissions::from_mode(0o666));
    builder.tempfile_in(folder(place)).map_err(|error| {
        let advice = "make room there, or name a file in another folder";
        io::Error::new(error.kind(), format!("its folder takes no new file: {error}; {advice}"))
    })
}

/// Whether a folder takes no new file or does not let the old one go, which can be changed all the same: the folder is
/// read-only or sticky, or the file is a mount of its own.
fn is_held(error: &io::Error) -> bool {
    let kind = error.kind();
    matches!(
        kind,
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem | ErrorKind::ResourceBusy
    )
}

/// Writes over a file where it is.
fn over(place: &Path, text: &str) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).truncate(true).open(place)?;
    file.write_all(text.as_bytes()).map_err(|error| {
        let lost =
            "it is not whole, and what was there is lost, since its folder takes no new file";
        io::Error::new(error.kind(), format!("{error}; {lost}"))
    })
}

/// The same for all names of one file, as far as it or its folder is there: where a link leads, even to nothing yet.
fn place(path: &Path) -> PathBuf {
    let mut place = path.to_owned();
    for _ in 0..MAX_LINKS {
        if fs::metadata(&place).is_ok() {
            // A pipe behind /dev/stdout has no other name.
            return place.canonicalize().unwrap_or(place);
        }
        let Ok(target) = fs::read_link(&place) else { break };
        place = folder(&place).join(target);
    }
    match (folder(&place).canonicalize(), place.file_name()) {
        (Ok(folder), Some(name)) => folder.join(name),
        _ => place,
    }
}

fn folder(path: &Path) -> &Path {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    folder.unwrap_or(Path::new("."))
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
        use std::os::unix::fs::symlink;

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

    #[test]
    fn what_an_earlier_process_left_is_in_nobodys_way() {
        use std::os::unix::fs::MetadataExt;

        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        // In a container, every process may have the same number.
        fs::write(at(&format!(".llm-d-router-{}.new", std::process::id())), "").unwrap();
        fs::write(at("page"), "first").unwrap();
        let inode = || fs::metadata(at("page")).unwrap().ino();
        let first = inode();
        write(&at("page"), "second").unwrap();
        assert_eq!(fs::read_to_string(at("page")).unwrap(), "second");
        assert_ne!(inode(), first, "it is another file, which was whole before it had the name");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2, "nothing else is left");
    }

    #[test]
    fn a_file_that_may_be_changed_in_a_folder_that_may_not_is_written() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("page");
        fs::write(&file, "a long first text").unwrap();
        let set = |mode| fs::set_permissions(folder.path(), Permissions::from_mode(mode)).unwrap();
        set(0o555);
        let written = check_outputs(&[], &[&file]).and_then(|()| write(&file, "second"));
        set(0o755);
        assert!(written.is_ok(), "{written:?}");
        assert_eq!(fs::read_to_string(&file).unwrap(), "second");
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn what_is_open_and_has_no_name_is_written() {
        use std::{io::Read, os::fd::AsRawFd};

        let mut open = tempfile::tempfile().unwrap();
        let name = PathBuf::from(format!("/proc/self/fd/{}", open.as_raw_fd()));
        check_outputs(&[], &[&name]).unwrap();
        write(&name, "results").unwrap();
        let mut text = String::new();
        open.read_to_string(&mut text).unwrap();
        assert_eq!(text, "results");
    }

    #[test]
    fn a_pipe_is_opened_once() {
        const LIMIT: std::time::Duration = std::time::Duration::from_secs(30);

        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("pipe");
        let made = std::process::Command::new("mkfifo").arg(&pipe).status().unwrap();
        assert!(made.success());
        let (done, is_done) = std::sync::mpsc::channel();
        let of_thread = pipe.clone();
        std::thread::spawn(move || {
            done.send(check_outputs(&[], &[&of_thread]).is_ok()).unwrap();
            done.send(write(&of_thread, "results").is_ok()).unwrap();
        });
        assert_eq!(is_done.recv_timeout(LIMIT), Ok(true), "nobody reads it yet");
        assert_eq!(fs::read_to_string(&pipe).unwrap(), "results");
        assert_eq!(is_done.recv_timeout(LIMIT), Ok(true));
    }

    #[test]
    fn a_link_to_nothing_yet_makes_what_it_leads_to() {
        use std::os::unix::fs::symlink;

        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::create_dir(at("results")).unwrap();
        symlink("results/target", at("link")).unwrap();
        symlink("link", at("other")).unwrap();
        check_outputs(&[], &[&at("other")]).unwrap();
        assert!(!at("results/target").try_exists().unwrap(), "nothing is left of the attempt");
        let twice = check_outputs(&[], &[&at("link"), &at("results/target")]).unwrap_err();
        assert!(twice.to_string().contains("twice"), "{twice}");
        write(&at("other"), "text").unwrap();
        assert_eq!(fs::read_to_string(at("results/target")).unwrap(), "text");
        assert!(fs::symlink_metadata(at("link")).unwrap().is_symlink());

        symlink("round", at("round")).unwrap();
        let said = check_outputs(&[], &[&at("round")]).unwrap_err().to_string();
        assert!(said.contains("symbolic links"), "{said}");
    }
}
