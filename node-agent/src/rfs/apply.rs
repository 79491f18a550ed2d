//! The following side's live stream: operations are applied in order, one at a time; flushes run beside that.
//!
//! Any error means this copy is not what the source believes: it is reported, the session ends, and nothing more
//! is acknowledged.

use super::excluded::Excluded;
use super::frame::{Attr, Fid, Msg, Op};
use super::level::{self, Level};
use super::link::Link;
use super::room::{self, InTheWay};
use super::volume::{self, Sync, Xattr, set_times};
use anyhow::{Context, anyhow};
use std::collections::{HashMap, HashSet, VecDeque};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Descriptors kept open for writing at most; the others keep only their `O_PATH` one.
const OPEN_FILES_MAX: u64 = 4096;
/// Share of the descriptors this process may have that is used so.
const OPEN_FILES_SHARE: u64 = 8;
struct Object {
    path: OwnedFd,
    open: Option<Arc<OwnedFd>>,
}

/// Applies operations.
pub struct Applier {
    roots: Arc<Vec<OwnedFd>>,
    excluded: Arc<Vec<Excluded>>,
    objects: HashMap<Fid, Object>,
    open_order: VecDeque<Fid>,
    open_max: usize,
    /// Modification times of directories that are still to be set: after the source was answered, and once for many names.
    dir_times: HashMap<Fid, volume::Time>,
    failure: Arc<Mutex<Option<String>>>,
    no_fsync: bool,
    ack_in_memory: bool,
    base: Option<u128>,
    outlet: Arc<Outlet>,
}

/// Where acknowledgements of flushes go: the connection of the moment. One that breaks loses some; the source asks
/// for them again over the next one.
pub struct Outlet {
    link: Mutex<Arc<Link>>,
    /// Fsyncs whose flush has not ended. One that failed stays for ever: it is never answered.
    flushing: Mutex<HashSet<u64>>,
}

impl Outlet {
    fn new(link: Arc<Link>) -> Arc<Self> {
        Arc::new(Self { link: Mutex::new(link), flushing: Mutex::default() })
    }

    fn link(&self) -> Arc<Link> {
        self.link.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn flushing(&self) -> MutexGuard<'_, HashSet<u64>> {
        self.flushing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The flush is done. First out of the set, then said: whoever asks in between is answered twice, not never.
    fn flushed(&self, lsn: u64) {
        self.flushing().remove(&lsn);
        // A broken connection says nothing about this copy; its receiver notices.
        let _ = self.link().send(lsn, &Msg::Durable, &[]);
    }
}

/// A flush that an operation asked for: of what was applied before it, so that others may be applied meanwhile.
pub struct Flush {
    lsn: u64,
    what: What,
    outlet: Arc<Outlet>,
    failure: Arc<Mutex<Option<String>>>,
}

impl Flush {
    /// Flushes, and tells the source; a failure ends the connection.
    pub fn run(self) {
        match self.what.flush(self.lsn) {
            Ok(()) => self.outlet.flushed(self.lsn),
            Err(e) => {
                // Before the connection goes: it must not be taken for one that may be resumed.
                *self.failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(format!("cannot flush: {e}"));
                let link = self.outlet.link();
                let _ = link.send(self.lsn, &Msg::Failed { detail: format!("cannot flush: {e}") }, &[]);
                link.close();
            }
        }
    }
}

enum What {
    File(Arc<OwnedFd>, Sync),
    /// Everything, and that this was done is written down.
    Roots(Arc<Vec<OwnedFd>>, u128),
}

impl What {
    fn flush(&self, lsn: u64) -> io::Result<()> {
        match self {
            Self::File(fd, sync) => volume::fsync(fd.as_raw_fd(), *sync),
            Self::Roots(roots, base) => {
                roots.iter().try_for_each(|root| volume::syncfs(root.as_raw_fd()))?;
                level::write(roots, Level { base: *base, flushed: lsn })
            }
        }
    }
}

impl Applier {
    /// Applies below these directories, acknowledging flushes through `link` until another one follows. `excluded` is of each
    /// directory.
    pub fn new(roots: Arc<Vec<OwnedFd>>, excluded: Arc<Vec<Excluded>>, link: Arc<Link>, ack_in_memory: bool, no_fsync: bool) -> Self {
        Self {
            roots,
            excluded,
            objects: HashMap::new(),
            open_order: VecDeque::new(),
            dir_times: HashMap::new(),
            open_max: usize::try_from(OPEN_FILES_MAX.min(volume::descriptors_max() / OPEN_FILES_SHARE)).unwrap_or(1),
            failure: Arc::default(),
            no_fsync,
            ack_in_memory,
            base: None,
            outlet: Outlet::new(link),
        }
    }

    /// The session goes on over another connection, whose source did not hear of these flushes. What is not under way
    /// any more has been done by this very process: it is said again.
    pub fn go_on_over(&self, link: &Arc<Link>, unflushed: &[u64]) -> io::Result<()> {
        *self.outlet.link.lock().unwrap_or_else(PoisonError::into_inner) = link.clone();
        for lsn in unflushed {
            let is_under_way = self.outlet.flushing().contains(lsn);
            if !is_under_way {
                link.send(*lsn, &Msg::Durable, &[])?;
            }
        }
        Ok(())
    }

    /// The live stream begins at this base.
    pub fn begin(&mut self, base: u128) {
        self.base = Some(base);
    }

    /// Flushes under way.
    pub fn flushes(&self) -> usize {
        self.outlet.flushing().len()
    }

    /// A flush that failed.
    pub fn failure(&self) -> Option<String> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn path(&self, fid: Fid) -> anyhow::Result<i32> {
        if let Some(object) = self.objects.get(&fid) {
            return Ok(object.path.as_raw_fd());
        }
        if fid.id == super::table::ROOT {
            return self.root(fid.dir);
        }
        Err(anyhow!("the stream names an object ({}, {}) it never introduced", fid.dir, fid.id))
    }

    fn root(&self, dir: u16) -> anyhow::Result<i32> {
        self.roots.get(usize::from(dir)).map(AsRawFd::as_raw_fd).ok_or_else(|| anyhow!("the stream names directory number {dir}"))
    }

    fn open(&mut self, fid: Fid) -> anyhow::Result<Arc<OwnedFd>> {
        if fid.id == super::table::ROOT {
            return Ok(Arc::new(volume::openat(self.root(fid.dir)?, c".", libc::O_RDONLY | libc::O_DIRECTORY, 0)?));
        }
        let object = self.objects.get_mut(&fid).ok_or_else(|| anyhow!("the stream names an object it never introduced"))?;
        if let Some(open) = &object.open {
            return Ok(open.clone());
        }
        let flags = match volume::kind(&volume::fstat(object.path.as_raw_fd())?) {
            libc::S_IFREG => libc::O_RDWR,
            libc::S_IFDIR => libc::O_RDONLY | libc::O_DIRECTORY,
            _ => return Err(anyhow!("an operation on the contents of a special file")),
        };
        let open = Arc::new(volume::reopen(object.path.as_raw_fd(), flags)?);
        object.open = Some(open.clone());
        self.open_order.push_back(fid);
        if self.open_order.len() > self.open_max
            && let Some(oldest) = self.open_order.pop_front()
            && let Some(object) = self.objects.get_mut(&oldest)
        {
            object.open = None;
        }
        Ok(open)
    }

    /// Applies one operation. What it asks to be flushed is not flushed yet.
    pub fn apply(&mut self, lsn: u64, op: Op, data: &[u8]) -> anyhow::Result<Option<Flush>> {
        match op {
            Op::Bind { fid, path } => {
                let fd = volume::open_beneath(self.root(fid.dir)?, &path, libc::O_PATH | libc::O_NOFOLLOW)
                    .with_context(|| format!("cannot find {}", String::from_utf8_lossy(&path)))?;
                self.objects.insert(fid, Object { path: fd, open: None });
            }
            Op::Unbind { fid } => {
                self.settle_one(fid)?;
                self.objects.remove(&fid);
            }
            Op::Write { fid, offset } => {
                let fd = self.open(fid)?;
                volume::write_all_at(fd.as_raw_fd(), data, offset).context("cannot write")?;
            }
            Op::Attr { fid, attr } => self.attributes(fid, &attr).context("cannot change attributes")?,
            Op::Create { fid, parent, name, mode, uid, gid, rdev, mtime, target, acl, dir_mtime } => {
                let dir = self.path(parent)?;
                let made = || create(dir, &name, mode, rdev, &target, uid, gid);
                let ways: &[InTheWay] = if mode & libc::S_IFMT == libc::S_IFDIR { &[InTheWay::File] } else { &[] };
                let fd = self
                    .with_room(parent, &name, ways, made)
                    .and_then(|fd| acl.map_or(Ok(()), |acl| set_acl(fd.as_raw_fd(), &acl)).map(|()| fd))
                    .and_then(|fd| set_times(fd.as_raw_fd(), None, Some(mtime)).map(|()| fd))
                    .with_context(|| format!("cannot create {}", String::from_utf8_lossy(&name)))?;
                self.dir_times.insert(parent, dir_mtime);
                self.objects.insert(fid, Object { path: fd, open: None });
            }
            Op::Link { fid, parent, name, dir_mtime } => {
                let dir = self.path(parent)?;
                volume::link_fd(self.path(fid)?, dir, &volume::cstr(&name)?).context("cannot make a hard link")?;
                self.dir_times.insert(parent, dir_mtime);
            }
            Op::Unlink { parent, name, dir, dir_mtime } => {
                let flags = if dir { libc::AT_REMOVEDIR } else { 0 };
                let (at, c_name) = (self.path(parent)?, volume::cstr(&name)?);
                let ways: &[InTheWay] = if dir { &[InTheWay::Contents] } else { &[] };
                self.with_room(parent, &name, ways, || volume::unlinkat(at, &c_name, flags))
                    .with_context(|| format!("cannot remove {}", String::from_utf8_lossy(&name)))?;
                self.dir_times.insert(parent, dir_mtime);
            }
            Op::Rename { from, name, to, new, flags, from_mtime, to_mtime } => {
                let (at, c_name, to_at, c_new) = (self.path(from)?, volume::cstr(&name)?, self.path(to)?, volume::cstr(&new)?);
                let ways: &[InTheWay] = match flags {
                    0 => &[InTheWay::File, InTheWay::Contents],
                    libc::RENAME_NOREPLACE => &[InTheWay::File],
                    _ => &[],
                };
                self.with_room(to, &new, ways, || volume::rename(at, &c_name, to_at, &c_new, flags))
                    .with_context(|| format!("cannot rename {} to {}", String::from_utf8_lossy(&name), String::from_utf8_lossy(&new)))?;
                self.dir_times.extend([(from, from_mtime), (to, to_mtime)]);
            }
            Op::Allocate { fid, mode, offset, length } => {
                volume::fallocate(self.open(fid)?.as_raw_fd(), mode, offset, length).context("cannot allocate")?;
            }
            Op::SetXattr { fid, name, value } => {
                volume::set_xattr(self.path(fid)?, &volume::cstr(&name)?, &value, 0).context("cannot set an extended attribute")?;
            }
            Op::RemoveXattr { fid, name } => match volume::remove_xattr(self.path(fid)?, &volume::cstr(&name)?) {
                // A write here may have dropped it already, as the kernel does with capabilities.
                Err(e) if e.raw_os_error() == Some(libc::ENODATA) => {}
                result => result.context("cannot remove an extended attribute")?,
            },
            Op::Fsync { fid, sync, mtime } => return self.fsync(lsn, fid, sync, mtime),
            // It changes nothing here; whoever receives it keeps it.
            Op::Logged { .. } => {}
            Op::Checkpoint => {
                self.settle()?;
                let base = self.base.ok_or_else(|| anyhow!("a checkpoint outside the live stream"))?;
                if self.no_fsync {
                    self.outlet.flushed(lsn);
                } else {
                    return Ok(Some(self.flush(lsn, What::Roots(self.roots.clone(), base))));
                }
            }
        }
        Ok(None)
    }

    /// Does something with a name; once more, if only what this node alone has there was in the way.
    fn with_room<T>(&self, parent: Fid, name: &[u8], ways: &[InTheWay], act: impl Fn() -> io::Result<T>) -> io::Result<T> {
        let done = act();
        if let Err(failed) = &done
            && !ways.is_empty()
            && let (Ok(root), Ok(dir), Some(excluded)) =
                (self.root(parent.dir), self.path(parent), self.excluded.get(usize::from(parent.dir)))
            && room::make(root, excluded, dir, &volume::cstr(name)?, ways, failed)?
        {
            return act();
        }
        done
    }

    fn fsync(&mut self, lsn: u64, fid: Fid, sync: Sync, mtime: Option<volume::Time>) -> anyhow::Result<Option<Flush>> {
        self.settle_one(fid)?;
        if mtime.is_some() {
            set_times(self.path(fid)?, None, mtime).context("cannot set times")?;
        }
        if self.ack_in_memory || self.no_fsync {
            self.outlet.flushed(lsn);
            return Ok(None);
        }
        let what = What::File(self.open(fid)?, sync);
        Ok(Some(self.flush(lsn, what)))
    }

    fn flush(&self, lsn: u64, what: What) -> Flush {
        self.outlet.flushing().insert(lsn);
        Flush { lsn, what, outlet: self.outlet.clone(), failure: self.failure.clone() }
    }

    /// Sets what was left for when there is time: at the latest before a flush of it, and before this copy is used.
    pub fn settle(&mut self) -> anyhow::Result<()> {
        for (fid, time) in std::mem::take(&mut self.dir_times) {
            set_times(self.path(fid)?, None, Some(time)).context("cannot set a directory's times")?;
        }
        Ok(())
    }

    fn settle_one(&mut self, fid: Fid) -> anyhow::Result<()> {
        let Some(time) = self.dir_times.remove(&fid) else { return Ok(()) };
        set_times(self.path(fid)?, None, Some(time)).context("cannot set a directory's times")
    }

    fn attributes(&mut self, fid: Fid, attr: &Attr) -> anyhow::Result<()> {
        self.settle_one(fid)?;
        let path = self.path(fid)?;
        if attr.uid.is_some() || attr.gid.is_some() {
            volume::chown(path, attr.uid, attr.gid)?;
        }
        if let Some(size) = attr.size {
            volume::truncate(self.open(fid)?.as_raw_fd(), size)?;
        }
        if let Some(mode) = attr.mode {
            volume::chmod(path, mode)?;
        }
        if attr.atime.is_some() || attr.mtime.is_some() {
            set_times(path, attr.atime, attr.mtime)?;
        }
        Ok(())
    }
}

/// Gives a new object exactly these access lists.
fn set_acl(fd: i32, acl: &[Xattr]) -> io::Result<()> {
    for name in volume::ACLS {
        let wanted = acl.iter().find(|(n, _)| n == name.to_bytes());
        match (wanted, volume::get_xattr(fd, name)) {
            (Some((_, value)), Ok(here)) if here == *value => {}
            (Some((_, value)), _) => volume::set_xattr(fd, name, value, 0)?,
            (None, Ok(_)) => volume::remove_xattr(fd, name)?,
            (None, Err(_)) => {}
        }
    }
    Ok(())
}

/// Creates an object with exactly these attributes and returns an `O_PATH` descriptor of it.
pub fn create(dir: i32, name: &[u8], mode: u32, rdev: u64, target: &[u8], uid: u32, gid: u32) -> io::Result<OwnedFd> {
    let name = volume::cstr(name)?;
    match mode & libc::S_IFMT {
        libc::S_IFDIR => volume::mkdirat(dir, &name, mode & 0o7777)?,
        libc::S_IFLNK => volume::symlinkat(&volume::cstr(target)?, dir, &name)?,
        libc::S_IFREG => {
            volume::openat(dir, &name, libc::O_RDWR | libc::O_CREAT | libc::O_EXCL | libc::O_NOFOLLOW, mode & 0o7777)?;
        }
        _ => volume::mknodat(dir, &name, mode, rdev)?,
    }
    let fd = volume::open_path_at(dir, &name)?;
    let st = volume::fstat(fd.as_raw_fd())?;
    let changed = st.st_uid != uid || st.st_gid != gid;
    if changed {
        volume::chown(fd.as_raw_fd(), Some(uid), Some(gid))?;
    }
    if mode & libc::S_IFMT != libc::S_IFLNK && (changed || st.st_mode != mode) {
        volume::chmod(fd.as_raw_fd(), mode)?;
    }
    Ok(fd)
}
