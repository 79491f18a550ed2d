//! Room for what the source does, on the node that follows: what is not replicated stays where it is until the replicated
//! tree around it changes. A directory that goes takes along what only this node has in it; one that comes takes the place
//! of a file that only this node has. A resynchronisation does the same.

use super::excluded::Excluded;
use super::volume;
use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, RawFd};

/// What may be in the way at a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InTheWay {
    /// A file, where a directory comes.
    File,
    /// What a directory holds that goes.
    Contents,
}

/// Takes away what kept something from being done with a name, if it is of this node alone; whether it was. `dir` is an
/// open directory below `root`.
pub fn make(root: RawFd, excluded: &Excluded, dir: RawFd, name: &CStr, ways: &[InTheWay], failed: &io::Error) -> io::Result<bool> {
    let is_in_the_way = matches!(failed.raw_os_error(), Some(libc::EEXIST | libc::ENOTEMPTY | libc::ENOTDIR));
    if excluded.is_empty() || !is_in_the_way {
        return Ok(false);
    }
    let path = || volume::path_below(root, dir);
    if !volume::is_dir_at(dir, name)? {
        let is_local = ways.contains(&InTheWay::File) && excluded.is_excluded_entry(path, name.to_bytes(), || Ok(false))?;
        if is_local {
            tracing::info!(name = %name.to_string_lossy(), "a file of this node alone gives way to a directory");
            volume::unlinkat(dir, name, 0)?;
        }
        return Ok(is_local);
    }
    if !ways.contains(&InTheWay::Contents) {
        return Ok(false);
    }
    let inside = volume::openat(dir, name, libc::O_RDONLY | libc::O_DIRECTORY | libc::O_NOFOLLOW, 0)?;
    let inside = inside.as_raw_fd();
    let mut names = Vec::new();
    for entry in volume::list_dir(inside)? {
        let path = || Ok(volume::join(&path()?, name.to_bytes()));
        let entry = volume::cstr(&entry.name)?;
        if !excluded.is_excluded_entry(path, entry.to_bytes(), || volume::is_dir_at(inside, &entry))? {
            return Ok(false);
        }
        names.push(entry);
    }
    if !names.is_empty() {
        tracing::info!(name = %name.to_string_lossy(), count = names.len(), "what only this node has goes with its directory");
    }
    names.iter().try_for_each(|entry| volume::remove_tree(inside, entry))?;
    Ok(!names.is_empty())
}
