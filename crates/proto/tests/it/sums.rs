//! The committed files are what `cargo xtask codegen` wrote. `--check` there regenerates them; this
//! test compares sums only, so that it needs no generator.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use xxhash_rust::xxh64::xxh64;

#[test]
fn generated_files_match_their_sources() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let sums = fs::read_to_string(root.join("src/gen/sums.txt")).unwrap();
    let mut listed = BTreeSet::new();
    for line in sums.lines().filter(|line| !line.starts_with('#')) {
        let (sum, path) = line.split_once(' ').unwrap();
        let found = xxh64(&fs::read(root.join(path)).unwrap(), 0);
        assert_eq!(sum, format!("{found:016x}"), "{path} changed: run `cargo xtask codegen`");
        listed.insert(path.to_owned());
    }
    for folder in ["proto", "proto/google", "src/gen"] {
        for entry in fs::read_dir(root.join(folder)).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            let extension = Path::new(&name).extension().and_then(|ext| ext.to_str());
            if matches!(extension, Some("proto" | "rs")) {
                assert!(listed.contains(&format!("{folder}/{name}")), "{folder}/{name} has no sum");
            }
        }
    }
}
