//! Files that are either the old or the new one, also after a power loss.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Mode of files that hold keys or what only the agent should read.
pub(crate) const PRIVATE: u32 = 0o600;

/// Makes renames, new and removed names in `dir` durable.
pub(crate) fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// Name beside `path` under which a new version is prepared. Fixed, so that a leftover is overwritten and not kept.
fn temporary(path: &Path) -> PathBuf {
    let mut name = std::ffi::OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(".new");
    path.with_file_name(name)
}

/// Replaces `path` as a whole: temporary file, fsync, rename, fsync of the directory.
pub(crate) fn write_atomically(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let temp = temporary(path);
    // A leftover keeps its old mode through O_CREAT: start afresh.
    match std::fs::remove_file(&temp) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    write_new(&temp, bytes, mode)?;
    std::fs::rename(&temp, path)?;
    sync_dir(path.parent().unwrap_or(Path::new("/")))
}

/// Writes and fsyncs a file that does not exist yet.
pub(crate) fn write_new(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// Reads a file; `None` if it does not exist.
pub(crate) fn read_if_there(path: &Path) -> io::Result<Option<Vec<u8>>> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

/// Points the symbolic link `link` at `target` in one step.
pub(crate) fn switch_link(link: &Path, target: &Path) -> io::Result<()> {
    let temp = temporary(link);
    match std::fs::remove_file(&temp) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    std::os::unix::fs::symlink(target, &temp)?;
    std::fs::rename(&temp, link)?;
    sync_dir(link.parent().unwrap_or(Path::new("/")))
}
