//! The commit that is checked out, from git's own files: the program may not be there.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// What is checked out.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) commit: String,
    /// Empty where no branch is checked out.
    pub(crate) branch: String,
    /// What changes when another commit is checked out or made.
    pub(crate) watched: Vec<PathBuf>,
}

/// What is checked out at `root`; `None` where that is no checkout, or one that cannot be read.
pub(crate) fn head(root: &Path) -> Option<Head> {
    let git = git_dir(&root.join(".git"))?;
    // Of a work tree, branches are in the repository that it belongs to.
    let common = fs::read_to_string(git.join("commondir"));
    let common = common.map_or_else(|_| git.clone(), |common| git.join(common.trim()));
    let head = git.join("HEAD");
    let text = fs::read_to_string(&head).ok()?;
    let Some(name) = text.trim().strip_prefix("ref: ") else {
        let commit = commit(&text)?;
        return Some(Head { commit, branch: String::new(), watched: vec![head] });
    };
    let (loose, packed) = (common.join(name), common.join("packed-refs"));
    let branch = name.strip_prefix("refs/heads/").unwrap_or(name).to_owned();
    if let Some(commit) = fs::read_to_string(&loose).ok().as_deref().and_then(commit) {
        return Some(Head { commit, branch, watched: vec![head, loose] });
    }
    let commit = fs::read_to_string(&packed).ok()?.lines().find_map(|line| {
        let (hash, of) = line.split_once(' ')?;
        if of == name { commit(hash) } else { None }
    })?;
    // The next commit writes the branch's own file; its folder may have to be made for it.
    let folder = loose.ancestors().skip(1).find(|folder| folder.is_dir())?.to_owned();
    Some(Head { commit, branch, watched: vec![head, packed, folder] })
}

/// `.git` is a folder, or a file that says where the folder is.
fn git_dir(path: &Path) -> Option<PathBuf> {
    if path.is_dir() {
        return Some(path.to_owned());
    }
    let text = fs::read_to_string(path).ok()?;
    let target = text.trim().strip_prefix("gitdir: ")?;
    Some(path.parent()?.join(target))
}

fn commit(text: &str) -> Option<String> {
    let text = text.trim();
    let is_hash =
        matches!(text.len(), 40 | 64) && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_hash.then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &str = "1111111111111111111111111111111111111111";
    const TWO: &str = "2222222222222222222222222222222222222222";

    /// A source tree with these files under `.git`, or in `.git` itself where the name is empty.
    fn tree(files: &[(&str, String)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = root.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        root
    }

    fn found(root: &Path) -> Option<(String, String)> {
        head(root).map(|head| (head.commit, head.branch))
    }

    fn some(commit: &str, branch: &str) -> Option<(String, String)> {
        Some((commit.to_owned(), branch.to_owned()))
    }

    #[test]
    fn the_commit_is_found_however_git_keeps_it() {
        let on_branch = (".git/HEAD", "ref: refs/heads/a/b\n".to_owned());
        let packed =
            format!("# pack-refs with: peeled\n{TWO} refs/heads/a\n{ONE} refs/heads/a/b\n");
        let loose = (".git/refs/heads/a/b", format!("{TWO}\n"));
        let check = |files: &[(&str, String)], expected| {
            assert_eq!(found(tree(files).path()), expected, "{files:?}");
        };
        check(&[(".git/HEAD", format!("{ONE}\n"))], some(ONE, ""));
        check(&[on_branch.clone(), loose.clone()], some(TWO, "a/b"));
        let packed = (".git/packed-refs", packed);
        check(&[on_branch.clone(), packed.clone()], some(ONE, "a/b"));
        check(&[on_branch.clone(), packed, loose], some(TWO, "a/b"));
        // No checkout, one without commits, and one that is broken.
        check(&[("Cargo.toml", String::new())], None);
        check(&[on_branch], None);
        check(&[(".git/HEAD", "nonsense".to_owned())], None);
    }

    #[test]
    fn a_work_tree_has_its_head_apart_from_the_branches() {
        let root = tree(&[
            ("main/.git/refs/heads/side", TWO.to_owned()),
            ("main/.git/worktrees/w/HEAD", "ref: refs/heads/side".to_owned()),
            ("main/.git/worktrees/w/commondir", "../..\n".to_owned()),
            ("w/.git", "gitdir: ../main/.git/worktrees/w\n".to_owned()),
        ]);
        assert_eq!(found(&root.path().join("w")), some(TWO, "side"));
    }

    #[test]
    fn what_is_watched_is_there_and_changes_with_the_next_commit() {
        let head_of = |files: &[(&str, String)]| {
            let root = tree(files);
            let head = head(root.path()).unwrap();
            assert!(head.watched.iter().all(|path| path.metadata().is_ok()), "{head:?}");
            let git = root.path().join(".git");
            let name = |path: &PathBuf| path.strip_prefix(&git).unwrap().display().to_string();
            head.watched.iter().map(name).collect::<Vec<_>>()
        };
        let on_branch = (".git/HEAD", "ref: refs/heads/m".to_owned());
        let loose = (".git/refs/heads/m", ONE.to_owned());
        assert_eq!(head_of(&[on_branch.clone(), loose]), ["HEAD", "refs/heads/m"]);
        let packed = (".git/packed-refs", format!("{ONE} refs/heads/m\n"));
        let other = (".git/refs/heads/other", TWO.to_owned());
        assert_eq!(head_of(&[on_branch, packed, other]), ["HEAD", "packed-refs", "refs/heads"]);
    }
}
