//! Whether a replicated directory is the copy that this node's record speaks of.
//!
//! A disk that is not mounted leaves an empty directory in its place, and a restored or recreated tree stands where
//! the copy was: the record calls it current all the same, and served, it would be copied over the good one. So the
//! root of each directory carries a mark, an extended attribute that replication neither copies nor shows, and the
//! node keeps the same mark beside its record. Where they differ, nothing is served and nothing is written.

use super::level;
use super::mounts;
use super::volume;
use crate::disk::{PRIVATE, write_atomically};
use anyhow::{Context, bail};
use std::collections::BTreeMap;
use std::ffi::CStr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use tsugi_core::module::Replicated;

/// The attribute. Nobody but root sees `trusted` attributes, and through the mount not even root sees this one.
const MARK: &CStr = c"trusted.tsugi.copy";
/// In place of a mark, where the file system below has no extended attributes: there nothing can be told.
const UNMARKED: &str = "";

/// Marks by directory, as this node keeps them.
type Marks = BTreeMap<String, String>;

/// What the names of all attributes of ours begin with.
const OURS: &[u8] = b"trusted.tsugi.";

/// An attribute that is ours alone.
pub fn is_mark(name: &[u8]) -> bool {
    name.starts_with(OURS)
}

fn load(file: &Path) -> anyhow::Result<Marks> {
    match std::fs::read(file) {
        Ok(bytes) => serde_json::from_slice(&bytes).with_context(|| format!("{} cannot be understood; {REMEDY}", file.display())),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Marks::new()),
        Err(e) => Err(e).with_context(|| format!("cannot read {}", file.display())),
    }
}

/// Fails, naming the directory and the remedy, if one of them is not there or is not the marked one. One that has never
/// been marked passes.
pub fn check(dirs: &[Replicated], file: &Path) -> anyhow::Result<()> {
    let marks = load(file)?;
    for replicated in dirs {
        // What an application still holds of a dead mount says nothing of the directory below it.
        if !mounts::is_ours_on_top(&replicated.dir)? {
            check_one(&mounts::open_dir(&replicated.dir)?, replicated, &marks)?;
        }
    }
    Ok(())
}

/// The directory is the one this node's record speaks of; false if it was never used.
pub fn is_known(replicated: &Replicated, file: &Path) -> anyhow::Result<bool> {
    let marks = load(file)?;
    let Some(known) = marks.get(&replicated.dir).filter(|known| *known != UNMARKED) else { return Ok(false) };
    let Ok(root) = mounts::open_dir(&replicated.dir) else { return Ok(false) };
    Ok(volume::get_xattr(root.as_raw_fd(), MARK).is_ok_and(|found| found == known.as_bytes()))
}

fn check_one(root: &OwnedFd, replicated: &Replicated, marks: &Marks) -> anyhow::Result<()> {
    let dir = replicated.dir.as_str();
    for relative in &replicated.to_check {
        let checked = Path::new(dir).join(relative.trim_start_matches('/'));
        if !checked.exists() {
            bail!("{} does not exist; is the file system of {dir} mounted? Mount it", checked.display());
        }
    }
    let Some(known) = marks.get(dir).filter(|known| *known != UNMARKED) else { return Ok(()) };
    match volume::get_xattr(root.as_raw_fd(), MARK) {
        Ok(found) if found == known.as_bytes() => Ok(()),
        Ok(_) => bail!("{dir} is a copy that this node's record does not speak of; {REMEDY}"),
        Err(e) if matches!(e.raw_os_error(), Some(libc::ENODATA | libc::EOPNOTSUPP)) => {
            bail!("{dir} is not the directory this node replicated last; is its disk mounted? Mount it; {REMEDY}")
        }
        Err(e) => Err(e).with_context(|| format!("cannot read the mark of {dir}")),
    }
}

/// What a person does who knows better.
const REMEDY: &str =
    "if it was replaced on purpose, stop the module here and give `tsugi rfs adopt -m MODULE`: it is then taken as an older copy";

/// The directories, checked once more on the descriptors that will be used; those without a mark get one.
pub fn adopt(dirs: &[Replicated], roots: &[OwnedFd], file: &Path) -> anyhow::Result<()> {
    let mut marks = load(file)?;
    let before = marks.clone();
    for (replicated, root) in dirs.iter().zip(roots) {
        check_one(root, replicated, &marks)?;
        if !marks.contains_key(&replicated.dir) {
            let mark = format!("{:016x}", rand::random::<u64>());
            match volume::set_xattr(root.as_raw_fd(), MARK, mark.as_bytes(), 0) {
                Ok(()) => {
                    // What was written on it is of another copy, or of this one at another time.
                    level::clear(std::slice::from_ref(root)).with_context(|| format!("cannot mark {}", replicated.dir))?;
                    // On its disk before the node's own word for it: the other order would refuse a good copy after a crash.
                    volume::fsync(root.as_raw_fd(), volume::Sync::All)
                        .with_context(|| format!("cannot flush the mark of {}", replicated.dir))?;
                    marks.insert(replicated.dir.clone(), mark);
                }
                Err(e) if matches!(e.raw_os_error(), Some(libc::EOPNOTSUPP | libc::EPERM)) => {
                    tracing::warn!(dir = replicated.dir, error = %e, "the file system takes no mark: a disk that is not mounted cannot be told from an empty copy");
                    marks.insert(replicated.dir.clone(), UNMARKED.to_owned());
                }
                Err(e) => return Err(e).with_context(|| format!("cannot mark {}", replicated.dir)),
            }
        }
    }
    if marks != before {
        let text = serde_json::to_vec(&marks).context("the marks cannot be written down")?;
        write_atomically(file, &text, PRIVATE).with_context(|| format!("cannot write {}", file.display()))?;
    }
    Ok(())
}

/// Forgets the marks: whatever is in the directories is taken when they are used the next time.
pub fn forget(file: &Path) -> anyhow::Result<()> {
    match std::fs::remove_file(file) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(e).with_context(|| format!("cannot remove {}", file.display())),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Tree {
        _home: tempfile::TempDir,
        dirs: Vec<Replicated>,
        file: std::path::PathBuf,
    }

    fn tree() -> Tree {
        let home = tempfile::tempdir().unwrap();
        let dir = home.path().join("data");
        std::fs::create_dir(&dir).unwrap();
        let dirs = vec![Replicated { dir: dir.to_str().unwrap().to_owned(), ..Replicated::default() }];
        Tree { dirs, file: home.path().join("copies.json"), _home: home }
    }

    impl Tree {
        fn adopt(&self) -> anyhow::Result<()> {
            let roots: Vec<OwnedFd> = self.dirs.iter().map(|d| mounts::open_dir(&d.dir).unwrap()).collect();
            adopt(&self.dirs, &roots, &self.file)
        }
        fn check(&self) -> Result<(), String> {
            check(&self.dirs, &self.file).map_err(|e| format!("{e:#}"))
        }
    }

    #[test]
    fn a_directory_that_was_replaced_is_found_and_may_be_adopted() {
        let tree = tree();
        tree.check().expect("never marked");
        tree.adopt().unwrap();
        tree.check().unwrap();
        tree.adopt().expect("the same one again");

        std::fs::remove_dir(&tree.dirs[0].dir).unwrap();
        assert!(tree.check().unwrap_err().contains("create it (or mount"), "it is not there");
        std::fs::create_dir(&tree.dirs[0].dir).unwrap();
        let said = tree.check().unwrap_err();
        assert!(said.contains("is its disk mounted?") && said.contains("tsugi rfs adopt") && said.contains(&tree.dirs[0].dir), "{said}");
        assert!(tree.adopt().is_err(), "using it does not adopt it");

        forget(&tree.file).unwrap();
        tree.check().unwrap();
        tree.adopt().unwrap();
        tree.check().unwrap();
    }

    #[test]
    fn the_mark_is_not_among_the_attributes_that_replication_sees() {
        let tree = tree();
        tree.adopt().unwrap();
        let root = mounts::open_dir(&tree.dirs[0].dir).unwrap();
        assert_eq!(volume::xattrs(root.as_raw_fd()).unwrap(), []);
        assert!(volume::list_xattr(root.as_raw_fd()).unwrap().is_empty());
        assert_eq!(volume::get_xattr(root.as_raw_fd(), MARK).unwrap().len(), 16);
    }
}
