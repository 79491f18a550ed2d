//! What the peer says of its own copy: objects its activity log speaks of, and objects it had to make anew. Both go into the
//! map as if they had changed here, so that a pass looks at them, and a later session too if this one breaks.

use super::super::activity::{EXTENT, Suspect};
use super::super::dirty::Dirty;
use super::super::frame::SyncMsg;
use super::super::fs::Volume;
use super::super::table::Inode;
use super::super::volume;
use super::{ANSWER_MAX, Source, gone};
use anyhow::{anyhow, bail};
use std::os::fd::AsRawFd;
use std::sync::mpsc::RecvTimeoutError;

impl Source<'_> {
    /// Takes what the peer's activity log has into the map.
    pub(super) fn suspects(&mut self) -> anyhow::Result<()> {
        loop {
            match self.answers.recv_timeout(ANSWER_MAX) {
                Ok(SyncMsg::Suspects { dir, objects }) => {
                    objects.into_iter().try_for_each(|(path, how)| self.suspect(dir, &path, &how))?;
                }
                Ok(SyncMsg::AllSuspects) => return Ok(()),
                Ok(_) => bail!("an unexpected answer during the resynchronisation"),
                Err(RecvTimeoutError::Timeout) => bail!("the peer did not say within {} s what it had changed", ANSWER_MAX.as_secs()),
                Err(RecvTimeoutError::Disconnected) => bail!("the connection broke during the resynchronisation"),
            }
        }
    }

    pub(super) fn wanted(&mut self, dir: u16, paths: Vec<Vec<u8>>) -> anyhow::Result<()> {
        paths.iter().try_for_each(|path| self.suspect(dir, path, &Suspect::Subtree))
    }

    fn suspect(&mut self, dir: u16, path: &[u8], how: &Suspect) -> anyhow::Result<()> {
        let volume = self.volume(dir)?;
        suspect(volume, &self.ship.dirty, path, how)
    }
}

/// Puts an object of the peer's tree into the map as if it had changed here. What is not here is in the names of its
/// directory.
pub fn suspect(volume: &Volume, dirty: &Dirty, path: &[u8], how: &Suspect) -> anyhow::Result<()> {
    if volume.is_excluded(path) {
        return Ok(());
    }
    let root = volume.table().root();
    let inode = if path.is_empty() {
        root.clone()
    } else {
        let fd = match volume::open_beneath(root.fd().as_raw_fd(), path, libc::O_PATH | libc::O_NOFOLLOW) {
            Ok(fd) => fd,
            Err(e) if gone(&e) => return Ok(()),
            Err(e) => return Err(anyhow!(e).context(format!("cannot read {}", String::from_utf8_lossy(path)))),
        };
        let st = volume::fstat(fd.as_raw_fd())?;
        volume.table().peek(st.st_ino).unwrap_or_else(|| Inode::unlisted(&st, fd))
    };
    let turn = dirty.enter();
    let marks = dirty.marks(&turn, volume.index());
    match (inode.kind, how) {
        (libc::S_IFDIR, Suspect::Subtree) => marks.subtree(&inode),
        (libc::S_IFDIR, _) => marks.names(&inode),
        (libc::S_IFREG, Suspect::Extents(extents)) => {
            marks.attributes(&inode);
            extents.iter().for_each(|extent| marks.range(&inode, extent.saturating_mul(EXTENT), EXTENT));
        }
        (libc::S_IFREG, _) => marks.whole(&inode),
        _ => marks.linked(&inode),
    }
    Ok(())
}
