use std::os::unix::fs::symlink;

use tempfile::TempDir;

use super::*;

fn dir() -> TempDir {
    tempfile::tempdir().unwrap()
}

fn texts(files: Vec<WatchedFile>) -> Vec<String> {
    files.into_iter().map(|file| String::from_utf8(file.contents).unwrap()).collect()
}

/// Polls once and asserts what is new: `Some(texts)`, or nothing.
#[track_caller]
fn check(watch: &mut FileWatch, expected: Option<&[&str]>) {
    let news = watch.poll().unwrap().map(texts);
    assert_eq!(
        news.as_deref(),
        expected.map(|e| e.iter().map(|t| (*t).to_owned()).collect::<Vec<_>>()).as_deref()
    );
}

/// Makes a file look as if it had been written long ago, so that only its metadata are looked at.
fn age(path: &Path) {
    let long_ago = SystemTime::now() - Duration::from_hours(1);
    fs::File::options().write(true).open(path).unwrap().set_modified(long_ago).unwrap();
}

#[test]
fn reports_contents_once_and_changes_only() {
    let dir = dir();
    let path = dir.path().join("a.yaml");
    fs::write(&path, "one").unwrap();
    let mut watch = FileWatch::file(&path, WatchOptions::default());
    check(&mut watch, Some(&["one"]));
    check(&mut watch, None);
    fs::write(&path, "one").unwrap();
    check(&mut watch, None);
    fs::write(&path, "two").unwrap();
    check(&mut watch, Some(&["two"]));
    check(&mut watch, None);
}

#[test]
fn sees_a_change_of_equal_length_and_time() {
    let dir = dir();
    let path = dir.path().join("a");
    fs::write(&path, "aaa").unwrap();
    age(&path);
    let mut watch = FileWatch::file(&path, WatchOptions::default());
    check(&mut watch, Some(&["aaa"]));
    check(&mut watch, None);
    fs::write(&path, "bbb").unwrap();
    age(&path);
    check(&mut watch, Some(&["bbb"]));
}

#[test]
fn survives_atomic_rename() {
    let dir = dir();
    let path = dir.path().join("a");
    fs::write(&path, "one").unwrap();
    age(&path);
    let mut watch = FileWatch::file(&path, WatchOptions::default());
    check(&mut watch, Some(&["one"]));
    let next = dir.path().join("a.tmp");
    fs::write(&next, "two").unwrap();
    age(&next);
    fs::rename(&next, &path).unwrap();
    check(&mut watch, Some(&["two"]));
}

#[test]
fn survives_the_symlink_swap_of_kubernetes() {
    let dir = dir();
    for (version, text) in [("..v1", "one"), ("..v2", "two")] {
        fs::create_dir(dir.path().join(version)).unwrap();
        for name in ["tls.crt", "tls.key"] {
            let file = dir.path().join(version).join(name);
            fs::write(&file, format!("{name} {text}")).unwrap();
            age(&file);
        }
    }
    let data = dir.path().join("..data");
    symlink("..v1", &data).unwrap();
    let paths = ["tls.crt", "tls.key"].map(|name| {
        symlink(Path::new("..data").join(name), dir.path().join(name)).unwrap();
        dir.path().join(name)
    });
    let mut watch = FileWatch::files(paths, WatchOptions::default());
    check(&mut watch, Some(&["tls.crt one", "tls.key one"]));
    check(&mut watch, None);
    let tmp = dir.path().join("..data_tmp");
    symlink("..v2", &tmp).unwrap();
    fs::rename(&tmp, &data).unwrap();
    check(&mut watch, Some(&["tls.crt two", "tls.key two"]));
}

#[test]
fn reports_deletion_once_and_recreation_even_with_equal_contents() {
    let dir = dir();
    let path = dir.path().join("a");
    fs::write(&path, "one").unwrap();
    let mut watch = FileWatch::file(&path, WatchOptions::default());
    check(&mut watch, Some(&["one"]));
    fs::remove_file(&path).unwrap();
    assert!(matches!(watch.poll(), Err(FileError::NotFound { .. })));
    check(&mut watch, None);
    fs::write(&path, "one").unwrap();
    check(&mut watch, Some(&["one"]));
}

#[test]
fn a_file_over_the_bound_is_an_error_and_the_next_good_one_is_seen() {
    let dir = dir();
    let path = dir.path().join("a");
    fs::write(&path, "0123456789").unwrap();
    let options = WatchOptions { max_file_bytes: 4, ..WatchOptions::default() };
    let mut watch = FileWatch::file(&path, options);
    assert!(matches!(watch.load(), Err(FileError::TooLarge { max_bytes: 4, .. })));
    fs::write(&path, "0123").unwrap();
    check(&mut watch, Some(&["0123"]));
}

#[test]
fn a_directory_gives_its_files_in_order_and_skips_the_rest() {
    let dir = dir();
    for name in ["b.yaml", "a.yml", "note.txt", ".hidden.yaml"] {
        fs::write(dir.path().join(name), name).unwrap();
    }
    fs::create_dir(dir.path().join("sub.yaml")).unwrap();
    let options = WatchOptions { max_files: 3, ..WatchOptions::default() };
    let mut watch = FileWatch::path(dir.path(), &["yaml", "yml"], options);
    check(&mut watch, Some(&["a.yml", "b.yaml"]));
    fs::write(dir.path().join("c.yaml"), "c.yaml").unwrap();
    check(&mut watch, Some(&["a.yml", "b.yaml", "c.yaml"]));
    fs::remove_file(dir.path().join("b.yaml")).unwrap();
    check(&mut watch, Some(&["a.yml", "c.yaml"]));
    for name in ["d.yaml", "e.yaml"] {
        fs::write(dir.path().join(name), name).unwrap();
    }
    assert!(matches!(watch.poll(), Err(FileError::TooMany { max_files: 3, .. })));
}

#[tokio::test(start_paused = true)]
async fn changed_polls_at_the_interval() {
    let dir = dir();
    let path = dir.path().join("a");
    fs::write(&path, "one").unwrap();
    let mut watch = FileWatch::file(&path, WatchOptions::default());
    let offload = Offload::inline();
    assert_eq!(texts(watch.changed(&offload).await.unwrap()), ["one"]);
    let started = tokio::time::Instant::now();
    let (news, ()) = tokio::join!(watch.changed(&offload), async {
        tokio::time::sleep(Duration::from_secs(12)).await;
        fs::write(&path, "two").unwrap();
    });
    assert_eq!(texts(news.unwrap()), ["two"]);
    assert_eq!(started.elapsed(), Duration::from_secs(15));
}

#[test]
fn a_pipe_in_place_of_a_file_does_not_hold_the_watch() {
    let dir = dir();
    let path = dir.path().join("a");
    fs::write(&path, "one").unwrap();
    let mut watch = FileWatch::file(&path, WatchOptions::default());
    check(&mut watch, Some(&["one"]));
    fs::remove_file(&path).unwrap();
    let made = std::process::Command::new("mkfifo").arg(&path).status().unwrap();
    assert!(made.success());
    // Whoever reads the pipe lets this go on.
    let pipe = path.clone();
    let writer = std::thread::spawn(move || fs::write(pipe, "from a pipe"));
    let error = watch.poll().unwrap_err();
    assert!(error.to_string().ends_with("a pipe or a device cannot be followed"), "{error}");
    assert_eq!(fs::read(&path).unwrap(), b"from a pipe");
    writer.join().unwrap().unwrap();
    fs::remove_file(&path).unwrap();
    fs::write(&path, "two").unwrap();
    check(&mut watch, Some(&["two"]));
}

#[test]
fn a_pipe_is_read_at_first() {
    let dir = dir();
    let path = dir.path().join("a");
    assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
    let pipe = path.clone();
    let writer = std::thread::spawn(move || fs::write(pipe, "from a pipe"));
    let read = FileWatch::file(&path, WatchOptions::default()).load().unwrap();
    assert_eq!(texts(read), ["from a pipe"]);
    writer.join().unwrap().unwrap();
}
