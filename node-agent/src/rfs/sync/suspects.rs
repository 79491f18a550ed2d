//! What the peer says of its own copy: objects its activity log speaks of, and objects it had to make anew. Both go into the
//! map as if they had changed here, so that a pass looks at them, and a later session too if this one breaks.

use super::super::activity::{EXTENT, Suspect};
use super::super::dirty::Dirty;
use super::super::frame::SyncMsg;
use super::super::fs::Volume;
use super::super::table::Inode;
use super::super::volume;
use super::{ANSWER_MAX, Source};
use anyhow::{anyhow, bail};
use std::os::fd::AsRawFd;
use std::sync::Arc;
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

/// What is at a path; `None`: nothing, or something of another file system, whose numbers mean other objects.
fn find(volume: &Volume, path: &[u8]) -> anyhow::Result<Option<Arc<Inode>>> {
    let root = volume.table().root();
    if path.is_empty() {
        return Ok(Some(root.clone()));
    }
    let fd = match volume::open_beneath(root.fd().as_raw_fd(), path, libc::O_PATH | libc::O_NOFOLLOW) {
        Ok(fd) => fd,
        Err(e) if volume::is_gone(&e) => return Ok(None),
        Err(e) => return Err(anyhow!(e).context(format!("cannot read {}", String::from_utf8_lossy(path)))),
    };
    let st = volume::fstat(fd.as_raw_fd())?;
    if st.st_dev != volume::fstat(root.fd().as_raw_fd())?.st_dev {
        return Ok(None);
    }
    Ok(Some(volume.table().peek(st.st_ino).unwrap_or_else(|| Inode::unlisted(&st, fd))))
}

/// Puts an object of the peer's tree into the map as if it had changed here. What is not here is in the names of its
/// directory.
pub fn suspect(volume: &Volume, dirty: &Dirty, path: &[u8], how: &Suspect) -> anyhow::Result<()> {
    // What cannot be replicated under this name whatever it is, is not even looked at.
    if volume.excluded().is_excluded(path, || Ok(true))? {
        return Ok(());
    }
    let Some(inode) = find(volume, path)? else { return Ok(()) };
    if volume.excluded().is_excluded(path, || Ok(inode.is_dir()))? {
        return Ok(());
    }
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

/// Puts an object that is known to be another one at the peer into the map: its name alone in its directory, and all of it. The
/// peer makes no other name anew for it.
pub fn suspect_name(volume: &Volume, dirty: &Dirty, path: &[u8]) -> anyhow::Result<()> {
    let (parent, name) = path.iter().rposition(|b| *b == b'/').map_or((&b""[..], path), |at| (&path[..at], &path[at + 1..]));
    let Some(inode) = find(volume, parent)? else { return Ok(()) };
    {
        let turn = dirty.enter();
        let marks = dirty.marks(&turn, volume.index());
        if path.is_empty() { marks.attributes(&inode) } else { marks.name(&inode, name) }
    }
    if path.is_empty() { Ok(()) } else { suspect(volume, dirty, path, &Suspect::Subtree) }
}
