//! A poll loop over files that are replaced while we run.
//!
//! Polling, not inotify: Kubernetes swaps a `..data` symlink under the files it mounts, editors
//! rename over them, and people delete and recreate them. A look at the metadata of a few files
//! every few seconds costs nothing and sees all of these.

use std::{
    fs,
    hash::{DefaultHasher, Hash, Hasher},
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use crate::{FileError, Offload, read_file_bounded};

/// Bounds and pace of a [`FileWatch`].
#[derive(Clone, Debug)]
pub struct WatchOptions {
    /// How often the files are looked at.
    pub interval: Duration,
    /// The largest file that is read.
    pub max_file_bytes: u64,
    /// The most files that a watched directory may hold.
    pub max_files: usize,
}

/// One file as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WatchedFile {
    pub path: PathBuf,
    pub contents: Vec<u8>,
}

/// Watches one file, several, or a directory, and gives all contents anew whenever any changed.
///
/// A change that leaves the contents equal (a rewrite, a touched file) is not reported. An error is
/// reported once until it changes or goes away; contents that come back after an error are
/// reported even when equal to the last good ones.
#[derive(Debug)]
pub struct FileWatch {
    what: What,
    options: WatchOptions,
    state: State,
}

#[derive(Clone, Debug)]
enum What {
    Files(Vec<PathBuf>),
    Dir { path: PathBuf, extensions: Vec<String> },
}

#[derive(Clone, Debug, Default)]
struct State {
    seen: Seen,
    /// What the files looked like when they were last read; empty when they must be read again.
    marks: Vec<Mark>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
enum Seen {
    #[default]
    Nothing,
    Contents {
        hash: u64,
    },
    Error {
        message: String,
    },
}

/// What tells that a file may have changed without reading it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Mark {
    path: PathBuf,
    device: u64,
    inode: u64,
    len: u64,
    modified: Option<SystemTime>,
    /// Seconds and nanoseconds; a rename over the file moves it even if the mtime is kept.
    changed: (i64, i64),
    /// Neither a file nor a directory.
    is_special: bool,
}

type Look = Result<Option<Vec<WatchedFile>>, FileError>;

/// A file changed within this time of a look may change again without its metadata showing it
/// (coarse file-system clocks), so it is read again at the next look.
const UNSETTLED: Duration = Duration::from_secs(2);

// === impl FileWatch ===

impl FileWatch {
    /// Watches one file.
    pub fn file(path: impl Into<PathBuf>, options: WatchOptions) -> Self {
        Self::files([path.into()], options)
    }

    /// Watches several files as one: a certificate and its key.
    pub fn files(paths: impl IntoIterator<Item = PathBuf>, options: WatchOptions) -> Self {
        Self::new(What::Files(paths.into_iter().collect()), options)
    }

    /// Watches the files of a directory (not below it) with one of these extensions, in order of
    /// their names. Hidden names are skipped, among them Kubernetes' `..data`.
    pub fn dir(path: impl Into<PathBuf>, extensions: &[&str], options: WatchOptions) -> Self {
        let extensions = extensions.iter().map(|&extension| extension.to_owned()).collect();
        Self::new(What::Dir { path: path.into(), extensions }, options)
    }

    /// Watches `path` as what it is when this is called: a directory or a file.
    pub fn path(path: impl Into<PathBuf>, extensions: &[&str], options: WatchOptions) -> Self {
        let path = path.into();
        if path.is_dir() { Self::dir(path, extensions, options) } else { Self::file(path, options) }
    }

    fn new(what: What, options: WatchOptions) -> Self {
        Self { what, options, state: State::default() }
    }

    /// Looks once and returns the contents, changed or not. Blocks; for start-up.
    pub fn load(&mut self) -> Result<Vec<WatchedFile>, FileError> {
        self.state = State::default();
        // With nothing seen before, a look that succeeds always has contents.
        self.poll().map(Option::unwrap_or_default)
    }

    /// Looks once: the new contents, or none when nothing changed since the last look. An error
    /// that was already reported counts as no change. Blocks.
    pub fn poll(&mut self) -> Look {
        let (state, look) = look(&self.what, &self.options, &self.state);
        self.state = state;
        look
    }

    /// Waits for the next change and returns the new contents, or the error that now stands in
    /// their way. The first call returns at once unless [`FileWatch::load`] ran before.
    ///
    /// Cancel-safe: a change seen by a call that was dropped is seen again by the next.
    pub async fn changed(&mut self, offload: &Offload) -> Result<Vec<WatchedFile>, FileError> {
        let mut first = self.state.seen == Seen::Nothing;
        loop {
            if !first {
                tokio::time::sleep(self.options.interval).await;
            }
            first = false;
            let (what, options, state) =
                (self.what.clone(), self.options.clone(), self.state.clone());
            let (state, look) = offload
                .run(move || look(&what, &options, &state))
                .await
                .map_err(|error| self.what.aborted(error.to_string()))?;
            self.state = state;
            if let Some(files) = look? {
                return Ok(files);
            }
        }
    }
}

impl Default for WatchOptions {
    fn default() -> Self {
        // 16 MiB holds the largest manifests that Kubernetes can store many times over.
        Self { interval: Duration::from_secs(5), max_file_bytes: 16 << 20, max_files: 1024 }
    }
}

impl What {
    fn aborted(&self, reason: String) -> FileError {
        let path = match self {
            What::Files(paths) => paths.first().cloned().unwrap_or_default(),
            What::Dir { path, .. } => path.clone(),
        };
        FileError::Aborted { path, reason }
    }

    fn paths(&self, options: &WatchOptions) -> Result<Vec<PathBuf>, FileError> {
        match self {
            What::Files(paths) => Ok(paths.clone()),
            What::Dir { path, extensions } => list(path, extensions, options.max_files),
        }
    }
}

// === impl Mark ===

impl Mark {
    fn of(path: &Path) -> Result<Self, FileError> {
        // `metadata` follows symlinks, so a swapped `..data` shows as another inode.
        let metadata = fs::metadata(path).map_err(|source| FileError::from_io(path, source))?;
        Ok(Self {
            path: path.to_owned(),
            device: metadata.dev(),
            inode: metadata.ino(),
            len: metadata.len(),
            modified: metadata.modified().ok(),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
            is_special: !metadata.is_file() && !metadata.is_dir(),
        })
    }

    fn settled(&self, now: SystemTime) -> bool {
        self.modified
            .and_then(|modified| now.duration_since(modified).ok())
            .is_some_and(|age| age > UNSETTLED)
    }
}

/// One look at the files: what is known afterwards, and what is new.
fn look(what: &What, options: &WatchOptions, before: &State) -> (State, Look) {
    match read_if_changed(what, options, before) {
        Ok(None) => (before.clone(), Ok(None)),
        Ok(Some((marks, files))) => {
            let seen = Seen::Contents { hash: hash_of(&files) };
            let news = (seen != before.seen).then_some(files);
            (State { seen, marks }, Ok(news))
        }
        Err(error) => {
            let seen = Seen::Error { message: error.to_string() };
            let news = if seen == before.seen { Ok(None) } else { Err(error) };
            (State { seen, marks: Vec::new() }, news)
        }
    }
}

type Read = (Vec<Mark>, Vec<WatchedFile>);

fn read_if_changed(
    what: &What,
    options: &WatchOptions,
    before: &State,
) -> Result<Option<Read>, FileError> {
    let paths = what.paths(options)?;
    let marks: Vec<Mark> = paths.iter().map(|path| Mark::of(path)).collect::<Result<_, _>>()?;
    let now = SystemTime::now();
    let known = matches!(before.seen, Seen::Contents { .. }) && marks == before.marks;
    if known && marks.iter().all(|mark| mark.settled(now)) {
        return Ok(None);
    }
    // At first a pipe is as good as a file: a shell puts `<(command)` there. Later it would keep the watch
    // waiting for a writer, and from every change that comes after.
    let has_begun = before.seen != Seen::Nothing;
    if let Some(mark) = marks.iter().find(|mark| has_begun && mark.is_special) {
        let source = io::Error::other("a pipe or a device cannot be followed");
        return Err(FileError::from_io(&mark.path, source));
    }
    let mut files = Vec::with_capacity(paths.len());
    for path in paths {
        let contents = read_file_bounded(&path, options.max_file_bytes)?;
        files.push(WatchedFile { path, contents });
    }
    Ok(Some((marks, files)))
}

fn list(dir: &Path, extensions: &[String], max_files: usize) -> Result<Vec<PathBuf>, FileError> {
    let in_dir = |source| FileError::from_io(dir, source);
    let mut paths = Vec::new();
    for entry in fs::read_dir(dir).map_err(in_dir)? {
        let path = entry.map_err(in_dir)?.path();
        let hidden = path.file_name().is_none_or(|name| name.as_encoded_bytes().starts_with(b"."));
        let wanted = path
            .extension()
            .and_then(|extension| extension.to_str())
            .is_some_and(|extension| extensions.iter().any(|one| one == extension));
        if hidden || !wanted || path.is_dir() {
            continue;
        }
        if paths.len() == max_files {
            return Err(FileError::TooMany { path: dir.to_owned(), max_files });
        }
        paths.push(path);
    }
    paths.sort_unstable();
    Ok(paths)
}

fn hash_of(files: &[WatchedFile]) -> u64 {
    let mut hasher = DefaultHasher::new();
    for file in files {
        file.path.hash(&mut hasher);
        file.contents.hash(&mut hasher);
    }
    hasher.finish()
}

#[cfg(test)]
mod tests;
