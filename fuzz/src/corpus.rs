//! The committed inputs.

use std::io;
use std::path::{Path, PathBuf};

/// One committed input.
#[derive(Debug, Clone)]
pub struct Input {
    pub path: PathBuf,
    pub bytes: Vec<u8>,
}

/// The inputs of a target, in order of name.
pub fn inputs(target: &str) -> io::Result<Vec<Input>> {
    let mut inputs = Vec::new();
    for entry in std::fs::read_dir(root().join(target))? {
        let path = entry?.path();
        inputs.push(Input { bytes: std::fs::read(&path)?, path });
    }
    inputs.sort_by(|one, other| one.path.cmp(&other.path));
    Ok(inputs)
}

/// The targets that have a folder, in order of name.
pub fn folders() -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(root())? {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus")
}
