//! What this copy is level with, written on the copy itself: the base at which it last was made level with a source,
//! and the last operation since that is on this disk for certain.
//!
//! It is an extended attribute of each directory's root, so that it travels with the data: a disk that is set back to an
//! earlier time brings back an earlier number, and the source, which remembers the later one, compares everything. Where a
//! file system takes no such attribute nothing is known, and everything is compared.

use super::volume;
use serde::{Deserialize, Serialize};
use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

/// The attribute; not replicated, not shown ([`super::identity::is_mark`]).
const LEVEL: &CStr = c"trusted.tsugi.level";

/// The number of the activity log that speaks of this copy ([`super::activity`]).
const LOG: &CStr = c"trusted.tsugi.log";

/// A whole copy on its way: its number and that of its last checkpoint ([`super::sync::Copying`]). Everything the checkpoint speaks of
/// is on disk. It goes with [`clear`] like the others: a copy that goes its own way is not on its way any more.
const COPYING: &CStr = c"trusted.tsugi.copying";

/// See the module.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Level {
    /// The source's number for its state ([`super::dirty::Base`]).
    pub base: u128,
    /// The last operation after it that was flushed here.
    pub flushed: u64,
}

impl Level {
    fn text(self) -> String {
        format!("{:032x} {}", self.base, self.flushed)
    }

    fn parse(text: &[u8]) -> Option<Self> {
        let (base, flushed) = std::str::from_utf8(text).ok()?.split_once(' ')?;
        Some(Self { base: u128::from_str_radix(base, 16).ok()?, flushed: flushed.parse().ok()? })
    }
}

/// What all directories together are level with.
pub fn read(roots: &[OwnedFd]) -> Option<Level> {
    read_as(LEVEL, roots)
}

/// The whole copy that is being made of all directories together.
pub fn read_copying(roots: &[OwnedFd]) -> Option<Level> {
    read_as(COPYING, roots)
}

fn read_as(name: &CStr, roots: &[OwnedFd]) -> Option<Level> {
    let one = |root: &OwnedFd| volume::get_xattr(root.as_raw_fd(), name).ok().as_deref().and_then(Level::parse);
    let all = roots.iter().map(one).collect::<Option<Vec<_>>>()?;
    let first = *all.first()?;
    all.iter().all(|level| level.base == first.base).then(|| Level { flushed: all.iter().map(|l| l.flushed).min().unwrap_or(0), ..first })
}

/// Writes it down, on disk before this returns. Everything it speaks of has to be on disk before.
pub fn write(roots: &[OwnedFd], level: Level) -> io::Result<()> {
    // A copy that is level is not on its way any more.
    clear_all(roots, &[COPYING])?;
    write_as(LEVEL, roots, level)
}

/// The same of a whole copy and its checkpoint.
pub fn write_copying(roots: &[OwnedFd], at: Level) -> io::Result<()> {
    write_as(COPYING, roots, at)
}

fn write_as(name: &CStr, roots: &[OwnedFd], level: Level) -> io::Result<()> {
    for root in roots {
        match volume::set_xattr(root.as_raw_fd(), name, level.text().as_bytes(), 0) {
            Ok(()) => volume::fsync(root.as_raw_fd(), volume::Sync::All)?,
            // Without it everything will be compared.
            Err(e) if matches!(e.raw_os_error(), Some(libc::EOPNOTSUPP | libc::EPERM | libc::ENOSPC | libc::EDQUOT)) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// This copy goes its own way from now on, and no log speaks of it: on disk before this returns.
pub fn clear(roots: &[OwnedFd]) -> io::Result<()> {
    clear_all(roots, &[LEVEL, LOG, COPYING])
}

/// The same of a copy that a whole copy is being made of, which goes on.
pub fn clear_but_copying(roots: &[OwnedFd]) -> io::Result<()> {
    clear_all(roots, &[LEVEL, LOG])
}

fn clear_all(roots: &[OwnedFd], names: &[&CStr]) -> io::Result<()> {
    for root in roots {
        let mut is_changed = false;
        for name in names {
            match volume::remove_xattr(root.as_raw_fd(), name) {
                Ok(()) => is_changed = true,
                Err(e) if matches!(e.raw_os_error(), Some(libc::ENODATA | libc::EOPNOTSUPP | libc::EPERM)) => {}
                Err(e) => return Err(e),
            }
        }
        if is_changed {
            volume::fsync(root.as_raw_fd(), volume::Sync::All)?;
        }
    }
    Ok(())
}

/// The log of this number and base speaks of the copies: on disk before this returns.
pub fn write_log(roots: &[OwnedFd], base: u128, seq: u64) -> io::Result<()> {
    for root in roots {
        volume::set_xattr(root.as_raw_fd(), LOG, Level { base, flushed: seq }.text().as_bytes(), 0)?;
        volume::fsync(root.as_raw_fd(), volume::Sync::All)?;
    }
    Ok(())
}

/// No log speaks of the copies any more: on disk before this returns.
pub fn clear_log(roots: &[OwnedFd]) -> io::Result<()> {
    for root in roots {
        match volume::remove_xattr(root.as_raw_fd(), LOG) {
            Ok(()) => volume::fsync(root.as_raw_fd(), volume::Sync::All)?,
            Err(e) if matches!(e.raw_os_error(), Some(libc::ENODATA | libc::EOPNOTSUPP | libc::EPERM)) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// Base and number of the log that speaks of all of these copies.
pub fn read_log(roots: &[OwnedFd]) -> Option<(u128, u64)> {
    let one = |root: &OwnedFd| volume::get_xattr(root.as_raw_fd(), LOG).ok().as_deref().and_then(Level::parse);
    let all = roots.iter().map(one).collect::<Option<Vec<_>>>()?;
    let first = *all.first()?;
    all.iter().all(|log| *log == first).then_some((first.base, first.flushed))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)] // in a test it is the assertion
    use super::*;

    #[test]
    fn a_level_is_that_of_every_directory_or_none() {
        let home = tempfile::tempdir_in("/var/tmp").unwrap();
        let roots: Vec<OwnedFd> = ["a", "b"]
            .iter()
            .map(|name| {
                std::fs::create_dir(home.path().join(name)).unwrap();
                std::fs::File::open(home.path().join(name)).unwrap().into()
            })
            .collect();
        assert_eq!(read(&roots), None);
        let level = |base, flushed| Level { base, flushed };
        write(&roots, level(u128::MAX - 5, 7)).unwrap();
        assert_eq!(read(&roots), Some(level(u128::MAX - 5, 7)));
        // One of them is set back a little, then another one altogether.
        write(&roots[..1], level(u128::MAX - 5, 3)).unwrap();
        assert_eq!(read(&roots), Some(level(u128::MAX - 5, 3)));
        write(&roots[1..], level(1, 9)).unwrap();
        assert_eq!(read(&roots), None);
        write(&roots, level(2, 0)).unwrap();
        clear(&roots[1..]).unwrap();
        assert_eq!(read(&roots), None);
    }
}
