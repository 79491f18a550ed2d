//! The replicated file system proper: each operation carried out here and, if a session runs, sent or noted.
//!
//! Data goes to the peer first and is written here meanwhile. Namespace operations are carried out here first and
//! sent if they succeeded, both under one lock, so that both sides see one order. Nothing waits for the peer in
//! here: an operation returns a ticket, and the translation layer answers when the ticket is good.

use super::dirty::{Dirty, Marks};
use super::excluded::Excluded;
use super::frame::{Attr, Fid, Op};
use super::identity;
use super::ship::{Entered, Mode, Phase, Ship, Ticket};
use super::stream::{Durability, Stream};
use super::table::{Inode, Table};
use super::volume::{self, DirName, Stat, Sync, Time, mtime};
use std::collections::HashMap;
use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

/// A result, and what its answer has to wait for.
pub type Shipped<T> = io::Result<(T, Option<Ticket>)>;

/// Flags of open(2) that are ours: the kernel gives absolute offsets, sends an fsync after synchronous writes,
/// and truncates by itself; alignment differs between caller and file.
const OPEN_FLAGS_STRIPPED: i32 = libc::O_APPEND
    | libc::O_DIRECT
    | libc::O_CREAT
    | libc::O_EXCL
    | libc::O_NOCTTY
    | libc::O_TRUNC
    | libc::O_SYNC
    | libc::O_DSYNC
    | libc::O_NOFOLLOW;

/// An open file.
pub struct Handle {
    fd: OwnedFd,
    inode: Arc<Inode>,
}

/// An open directory; the lock guards the descriptor's position.
pub struct DirHandle {
    fd: OwnedFd,
    position: Mutex<()>,
    inode: Arc<Inode>,
}

/// What to create.
pub struct New<'a> {
    /// Type and permission bits as the caller asked for them.
    pub mode: u32,
    /// The caller's umask: it counts where the directory hands no access list down.
    pub umask: u32,
    /// Device number.
    pub rdev: u64,
    /// Target of a symbolic link.
    pub target: &'a [u8],
    /// Owner.
    pub uid: u32,
    /// Group, unless the directory hands down its own.
    pub gid: u32,
}

/// Called when this node's disk fails.
pub type OnDiskFailure = Box<dyn Fn(&str) + Send + std::marker::Sync>;

/// Called when the kernel's idea of an object's attributes is out of date, with its id.
pub type ForgetAttributes = Box<dyn Fn(u64) + Send + std::marker::Sync>;

/// One replicated directory being served.
pub struct Volume {
    index: u16,
    name: String,
    table: Table,
    ship: Arc<Ship>,
    namespace: Mutex<()>,
    files: RwLock<HashMap<u64, Arc<Handle>>>,
    dirs: RwLock<HashMap<u64, Arc<DirHandle>>>,
    next_handle: AtomicU64,
    excluded: Excluded,
    on_disk_failure: OnDiskFailure,
    forget_attributes: RwLock<Option<ForgetAttributes>>,
}

enum Carrier<'a> {
    /// The peer has nothing to do with it.
    Local,
    /// No session, or one whose peer is being brought level; it may be needed nevertheless.
    None,
    Live(&'a Arc<Stream>),
}

fn read_lock<T>(lock: &RwLock<T>) -> std::sync::RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

fn write_lock<T>(lock: &RwLock<T>) -> std::sync::RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}

impl Volume {
    /// Serves the tree below an open directory.
    pub fn new(
        index: u16,
        name: &str,
        root: OwnedFd,
        excluded: Excluded,
        ship: Arc<Ship>,
        on_disk_failure: OnDiskFailure,
    ) -> io::Result<Self> {
        Ok(Self {
            index,
            name: name.to_owned(),
            table: Table::new(root)?,
            ship,
            namespace: Mutex::new(()),
            files: RwLock::new(HashMap::new()),
            dirs: RwLock::new(HashMap::new()),
            next_handle: AtomicU64::new(1),
            excluded,
            on_disk_failure,
            forget_attributes: RwLock::new(None),
        })
    }

    /// Whom to tell that attributes have changed without the kernel's knowing.
    pub fn set_forget_attributes(&self, tell: ForgetAttributes) {
        // A mount that could not be used has none any more.
        *self.forget_attributes.write().unwrap_or_else(PoisonError::into_inner) = Some(tell);
    }

    /// Its index in the module.
    pub fn index(&self) -> u16 {
        self.index
    }

    /// Its path, for people.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The inode table.
    pub fn table(&self) -> &Table {
        &self.table
    }

    /// The relation to the peer.
    pub fn ship(&self) -> &Arc<Ship> {
        &self.ship
    }

    /// What of it is not replicated.
    pub fn excluded(&self) -> &Excluded {
        &self.excluded
    }

    fn fid(&self, inode: &Inode) -> Fid {
        Fid { dir: self.index, id: inode.id }
    }

    fn namespace(&self) -> MutexGuard<'_, ()> {
        self.namespace.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An I/O error of the own disk is news for the agent; other errors are only the caller's.
    fn disk<T>(&self, what: &str, result: io::Result<T>) -> io::Result<T> {
        if let Err(e) = &result
            && matches!(e.raw_os_error(), Some(libc::EIO | libc::EROFS | libc::EUCLEAN))
        {
            (self.on_disk_failure)(&format!("{what} in {} failed: {e}", self.name));
        }
        result
    }

    /// Whether what has a name is not replicated. `is_dir`: what it is, or is going to be.
    fn is_local(&self, parent: &Inode, name: &CStr, is_dir: impl FnOnce() -> io::Result<bool>) -> io::Result<bool> {
        if parent.is_local() || self.excluded.is_empty() {
            return Ok(parent.is_local());
        }
        self.excluded.is_excluded_entry(|| parent.path(self.table.root()), name.to_bytes(), is_dir)
    }

    fn carrier<'a>(&self, mode: &'a Mode, inode: &Inode) -> Carrier<'a> {
        if !inode.replicated() {
            return Carrier::Local;
        }
        match &mode.phase {
            Phase::Idle | Phase::Sync(_) => Carrier::None,
            Phase::Live(stream) => Carrier::Live(stream),
        }
    }

    /// Where an operation notes what it is about to change of an object.
    fn marks<'a>(&self, entered: &'a Entered<'_>, inode: &Inode) -> Marks<'a> {
        if inode.replicated() { entered.marks(self.index) } else { Dirty::no_marks() }
    }

    fn unsent(&self, mode: &Mode, inode: &Inode) -> Option<Ticket> {
        inode.replicated().then(|| self.ship.unsent(mode))
    }

    /// Tells the peer what an id means, once per session. The caller holds the namespace lock. False: it has no
    /// name left, and nothing about it needs to be told.
    fn bind_locked(&self, stream: &Stream, inode: &Inode) -> io::Result<bool> {
        if inode.bound_in(stream.session()) {
            return Ok(true);
        }
        let path = match inode.path_searched(self.table.root(), &self.excluded) {
            Ok(path) => path,
            Err(e) if e.raw_os_error() == Some(libc::ENOENT) => {
                inode.name_removed(self.table.root());
                // Looked for while no name changed: what names it has are of nothing that is replicated.
                inode.set_local(true);
                return Ok(false);
            }
            Err(e) => return Err(e),
        };
        let bind = Op::Bind { fid: self.fid(inode), path };
        if stream.send(bind, &[], Durability::Memory).is_some() {
            inode.set_bound(stream.session());
        }
        Ok(true)
    }

    fn bind(&self, stream: &Stream, inode: &Inode) -> io::Result<bool> {
        if inode.bound_in(stream.session()) {
            return Ok(true);
        }
        let _order = self.namespace();
        self.bind_locked(stream, inode)
    }

    // --- reading -------------------------------------------------------------------------------------------

    /// An object's attributes.
    pub fn getattr(&self, id: u64) -> io::Result<Stat> {
        let inode = self.table.get(id)?;
        volume::fstat(inode.fd().as_raw_fd())
    }

    /// Finds a name; counts as known to the kernel.
    pub fn lookup(&self, parent: u64, name: &CStr) -> io::Result<(Arc<Inode>, Stat)> {
        let parent = self.table.get(parent)?;
        let local = self.is_local(&parent, name, || volume::is_dir_at(parent.fd().as_raw_fd(), name))?;
        self.table.lookup(&parent, name, local)
    }

    /// The kernel forgot an object.
    pub fn forget(&self, id: u64, count: u64) {
        let Some(inode) = self.table.forget(id, count) else { return };
        let Ok(mode) = self.ship.enter() else { return };
        if let Phase::Live(stream) = &mode.phase
            && inode.bound_in(stream.session())
        {
            let _order = self.namespace();
            // Looked up and told again meanwhile: the id is in use.
            if !self.table.peek(id).is_some_and(|again| again.bound_in(stream.session())) {
                self.ship.send_later(stream, Op::Unbind { fid: self.fid(&inode) });
            }
        }
    }

    /// Target of a symbolic link.
    pub fn readlink(&self, id: u64) -> io::Result<Vec<u8>> {
        volume::readlink_fd(self.table.get(id)?.fd().as_raw_fd())
    }

    fn handle(&self, fh: u64) -> io::Result<Arc<Handle>> {
        read_lock(&self.files).get(&fh).cloned().ok_or_else(|| volume::errno(libc::EBADF))
    }

    fn dir_handle(&self, fh: u64) -> io::Result<Arc<DirHandle>> {
        read_lock(&self.dirs).get(&fh).cloned().ok_or_else(|| volume::errno(libc::EBADF))
    }

    fn add_handle(&self, fd: OwnedFd, inode: Arc<Inode>) -> u64 {
        let fh = self.next_handle.fetch_add(1, Ordering::Relaxed);
        inode.opened();
        write_lock(&self.files).insert(fh, Arc::new(Handle { fd, inode }));
        fh
    }

    /// Opens a file.
    pub fn open(&self, id: u64, flags: i32) -> io::Result<u64> {
        let inode = self.table.get(id)?;
        let fd = volume::reopen(inode.fd().as_raw_fd(), flags & !OPEN_FLAGS_STRIPPED)?;
        Ok(self.add_handle(fd, inode))
    }

    /// Reads.
    pub fn read(&self, fh: u64, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.disk("a read", volume::read_at(self.handle(fh)?.fd.as_raw_fd(), buf, offset))
    }

    /// Finds data or holes.
    pub fn lseek(&self, fh: u64, offset: i64, whence: i32) -> io::Result<i64> {
        volume::seek(self.handle(fh)?.fd.as_raw_fd(), offset, whence)
    }

    /// Opens a directory.
    pub fn opendir(&self, id: u64) -> io::Result<u64> {
        let inode = self.table.get(id)?;
        let fd = volume::openat(inode.fd().as_raw_fd(), c".", libc::O_RDONLY | libc::O_DIRECTORY, 0)?;
        let fh = self.next_handle.fetch_add(1, Ordering::Relaxed);
        write_lock(&self.dirs).insert(fh, Arc::new(DirHandle { fd, position: Mutex::new(()), inode }));
        Ok(fh)
    }

    /// Names after a position.
    pub fn readdir(&self, fh: u64, position: i64) -> io::Result<Vec<DirName>> {
        let dir = self.dir_handle(fh)?;
        let _mine = dir.position.lock().unwrap_or_else(PoisonError::into_inner);
        self.disk("a directory read", volume::read_dir_from(dir.fd.as_raw_fd(), position))
    }

    /// Closes a directory.
    pub fn releasedir(&self, fh: u64) {
        write_lock(&self.dirs).remove(&fh);
    }

    /// Figures of the file system below.
    pub fn statfs(&self) -> io::Result<libc::statvfs64> {
        volume::statvfs(self.table.root().fd().as_raw_fd())
    }

    /// Value of an extended attribute.
    pub fn getxattr(&self, id: u64, name: &CStr) -> io::Result<Vec<u8>> {
        if identity::is_mark(name.to_bytes()) {
            return Err(volume::errno(libc::ENODATA));
        }
        volume::get_xattr(self.table.get(id)?.fd().as_raw_fd(), name)
    }

    /// Names of the extended attributes.
    pub fn listxattr(&self, id: u64) -> io::Result<Vec<u8>> {
        volume::list_xattr(self.table.get(id)?.fd().as_raw_fd())
    }

    // --- contents ------------------------------------------------------------------------------------------

    /// Writes. `strip` removes set-id bits, as a write by an ordinary user must.
    pub fn write(&self, fh: u64, offset: u64, data: &[u8], strip: Option<StripSetId>) -> Shipped<()> {
        let h = self.handle(fh)?;
        let fd = h.fd.as_raw_fd();
        let length = data.len() as u64;
        let ticket = {
            let mode = self.ship.enter()?;
            self.marks(&mode, &h.inode).range(&h.inode, offset, length);
            match self.carrier(&mode, &h.inode) {
                Carrier::Live(stream) if self.bind(stream, &h.inode)? => {
                    let ticket = self.ship.send(stream, &mode, Op::Write { fid: self.fid(&h.inode), offset }, data, Durability::Memory);
                    let written = volume::write_all_at(fd, data, offset);
                    if written.is_err() {
                        self.repair(stream, &h, offset, length);
                    }
                    self.disk("a write", written)?;
                    h.inode.set_touched(true);
                    Some(ticket)
                }
                _ => {
                    self.disk("a write", volume::write_all_at(fd, data, offset))?;
                    h.inode.set_touched(true);
                    self.unsent(&mode, &h.inode)
                }
            }
        };
        let stripped = if strip.is_some() { self.strip_set_id(h.inode.id)? } else { None };
        Ok(((), both(ticket, stripped)))
    }

    fn strip_set_id(&self, id: u64) -> io::Result<Option<Ticket>> {
        let st = self.getattr(id)?;
        let mut bits = st.st_mode & 0o7777;
        bits &= !libc::S_ISUID;
        if bits & libc::S_IXGRP != 0 {
            bits &= !libc::S_ISGID;
        }
        if bits == st.st_mode & 0o7777 {
            return Ok(None);
        }
        let (_, ticket) = self.setattr(id, None, &Attr { mode: Some(bits), ..Attr::default() }, None)?;
        // It left this to us and goes on believing in the bits, also when it runs the program.
        if let Some(tell) = self.forget_attributes.read().unwrap_or_else(PoisonError::into_inner).as_ref() {
            tell(id);
        }
        Ok(ticket)
    }

    /// A write went out but failed here (full disk): sends what this side really holds. The order of operations
    /// on one file is the kernel's, so nothing else changes that range meanwhile.
    fn repair(&self, stream: &Stream, h: &Handle, offset: u64, length: u64) {
        let fixed = (|| -> io::Result<()> {
            let readable = volume::reopen(h.inode.fd().as_raw_fd(), libc::O_RDONLY)?;
            let size = u64::try_from(volume::fstat(readable.as_raw_fd())?.st_size).unwrap_or(0);
            let mut held = vec![0u8; usize::try_from(length).unwrap_or(0)];
            let n = volume::read_at(readable.as_raw_fd(), &mut held, offset)?;
            let fid = self.fid(&h.inode);
            // Not sent means that the session is over: the peer will be compared.
            let _ = stream.send(Op::Write { fid, offset }, &held[..n], Durability::Memory);
            let attr = Attr { size: Some(size), ..Attr::default() };
            let _ = stream.send(Op::Attr { fid, attr }, &[], Durability::Memory);
            Ok(())
        })();
        if let Err(e) = fixed {
            tracing::warn!(error = %e, "a failed write could not be undone at the peer; the session is ended");
            stream.end(&format!("a write that failed here could not be undone at the peer: {e}"));
        }
    }

    /// Preallocates, punches or zeroes ranges. `strip` as in [`Volume::write`].
    pub fn fallocate(&self, fh: u64, mode_bits: i32, offset: u64, length: u64, strip: Option<StripSetId>) -> Shipped<()> {
        let h = self.handle(fh)?;
        let ((), ticket) = self.allocate(&h, mode_bits, offset, length)?;
        let stripped = if strip.is_some() { self.strip_set_id(h.inode.id)? } else { None };
        Ok(((), both(ticket, stripped)))
    }

    fn allocate(&self, h: &Handle, mode_bits: i32, offset: u64, length: u64) -> Shipped<()> {
        let mode = self.ship.enter()?;
        self.marks(&mode, &h.inode).range(&h.inode, offset, length);
        let local = || self.disk("fallocate", volume::fallocate(h.fd.as_raw_fd(), mode_bits, offset, length));
        match self.carrier(&mode, &h.inode) {
            Carrier::Live(stream) if self.bind(stream, &h.inode)? => {
                if let Err(e) = local() {
                    // A full disk may have left it longer than it was.
                    self.send_as_is(stream, &mode, &h.inode);
                    return Err(e);
                }
                h.inode.set_touched(true);
                let op = Op::Allocate { fid: self.fid(&h.inode), mode: mode_bits, offset, length };
                Ok(((), Some(self.ship.send(stream, &mode, op, &[], Durability::Memory))))
            }
            _ => {
                local()?;
                h.inode.set_touched(true);
                Ok(((), self.unsent(&mode, &h.inode)))
            }
        }
    }

    /// Flushes a file, here and at the peer at the same time.
    pub fn fsync(&self, fh: u64, sync: Sync) -> Shipped<()> {
        let h = self.handle(fh)?;
        self.flush(&h.inode, h.fd.as_raw_fd(), sync)
    }

    /// Flushes a directory.
    pub fn fsyncdir(&self, fh: u64, sync: Sync) -> Shipped<()> {
        let h = self.dir_handle(fh)?;
        self.flush(&h.inode, h.fd.as_raw_fd(), sync)
    }

    fn flush(&self, inode: &Arc<Inode>, fd: i32, sync: Sync) -> Shipped<()> {
        let ticket = {
            let mode = self.ship.enter()?;
            match self.carrier(&mode, inode) {
                Carrier::Live(stream) if self.bind(stream, inode)? => {
                    let at = if inode.set_touched(false) {
                        self.marks(&mode, inode).attributes(inode);
                        Some(mtime(&volume::fstat(fd)?))
                    } else {
                        None
                    };
                    let op = Op::Fsync { fid: self.fid(inode), sync, mtime: at };
                    Some(self.ship.send(stream, &mode, op, &[], Durability::Disk))
                }
                _ => self.unsent(&mode, inode),
            }
        };
        // Outside the gate: a flush changes nothing, and on a slow disk it must not hold up a resynchronisation.
        if !self.ship.switches.no_fsync {
            self.disk("a flush", volume::fsync(fd, sync))?;
        }
        Ok(((), ticket))
    }

    /// Closes a file. The peer learns the modification time the writes through this handle ended with.
    pub fn release(&self, fh: u64) {
        let Some(h) = write_lock(&self.files).remove(&fh) else { return };
        h.inode.closed();
        self.send_time(&h);
    }

    /// Tells the peer the modification times that it would be told later.
    pub fn send_times(&self) {
        let open: Vec<_> = read_lock(&self.files).values().cloned().collect();
        open.iter().for_each(|h| self.send_time(h));
    }

    fn send_time(&self, h: &Handle) {
        if !h.inode.set_touched(false) {
            return;
        }
        let Ok(mode) = self.ship.enter() else { return };
        self.marks(&mode, &h.inode).attributes(&h.inode);
        if let Carrier::Live(stream) = self.carrier(&mode, &h.inode)
            && self.bind(stream, &h.inode).unwrap_or(false)
            && let Ok(st) = volume::fstat(h.fd.as_raw_fd())
        {
            let attr = Attr { mtime: Some(mtime(&st)), ..Attr::default() };
            self.ship.send_later(stream, Op::Attr { fid: self.fid(&h.inode), attr });
        }
    }

    /// An operation failed here after it may have done a part: the peer gets what this side has now.
    fn send_as_is(&self, stream: &Stream, mode: &Mode, inode: &Inode) {
        match volume::fstat(inode.fd().as_raw_fd()) {
            Ok(st) => {
                let is_file = volume::kind(&st) == libc::S_IFREG;
                let attr = Attr {
                    mode: (inode.kind != libc::S_IFLNK).then_some(st.st_mode & 0o7777),
                    uid: Some(st.st_uid),
                    gid: Some(st.st_gid),
                    size: is_file.then_some(st.st_size.unsigned_abs()),
                    atime: None,
                    mtime: Some(mtime(&st)),
                };
                let _ = self.ship.send(stream, mode, Op::Attr { fid: self.fid(inode), attr }, &[], Durability::Memory);
            }
            Err(e) => stream.end(&format!("an operation failed here, and what it left cannot be read: {e}")),
        }
    }

    /// Changes attributes. `now` times are resolved by the caller. `strip`: set-id bits go when an ordinary user
    /// changes the length.
    pub fn setattr(&self, id: u64, fh: Option<u64>, attr: &Attr, strip: Option<StripSetId>) -> Shipped<Stat> {
        let inode = self.table.get(id)?;
        let mode = self.ship.enter()?;
        let marks = self.marks(&mode, &inode);
        marks.attributes(&inode);
        if let Some(size) = attr.size {
            // Between the old end and the new one there may be something else afterwards.
            let now = volume::fstat(inode.fd().as_raw_fd())?.st_size.unsigned_abs();
            marks.range(&inode, size.min(now), size.max(now) - size.min(now));
        }
        let live = match self.carrier(&mode, &inode) {
            Carrier::Live(stream) => self.bind(stream, &inode)?.then_some(stream),
            Carrier::Local | Carrier::None => None,
        };
        let st = match self.disk("a change of attributes", self.setattr_here(&inode, fh, attr, strip)) {
            Ok(st) => st,
            Err(e) => {
                // Of several attributes the first ones may be changed.
                if let Some(stream) = live {
                    self.send_as_is(stream, &mode, &inode);
                }
                return Err(e);
            }
        };
        let Some(stream) = live else { return Ok((st, self.unsent(&mode, &inode))) };
        let mut sent = attr.clone();
        if attr.uid.is_some() || attr.gid.is_some() || attr.size.is_some() {
            // The kernel may have cleared set-id bits.
            sent.mode = (inode.kind != libc::S_IFLNK).then_some(st.st_mode & 0o7777);
        }
        if attr.size.is_some() {
            sent.mtime = Some(mtime(&st));
        }
        let op = Op::Attr { fid: self.fid(&inode), attr: sent };
        Ok((st, Some(self.ship.send(stream, &mode, op, &[], Durability::Memory))))
    }

    fn setattr_here(&self, inode: &Inode, fh: Option<u64>, attr: &Attr, strip: Option<StripSetId>) -> io::Result<Stat> {
        let fd = inode.fd();
        let fd = fd.as_raw_fd();
        if attr.uid.is_some() || attr.gid.is_some() {
            volume::chown(fd, attr.uid, attr.gid)?;
        }
        if let Some(mode) = attr.mode {
            volume::chmod(fd, mode)?;
        }
        if let Some(size) = attr.size {
            match fh.and_then(|fh| self.handle(fh).ok()) {
                Some(h) => volume::truncate(h.fd.as_raw_fd(), size)?,
                None => volume::truncate(volume::reopen(fd, libc::O_WRONLY)?.as_raw_fd(), size)?,
            }
            if strip.is_some() {
                let bits = volume::fstat(fd)?.st_mode & 0o7777;
                let mut less = bits & !libc::S_ISUID;
                if bits & libc::S_IXGRP != 0 {
                    less &= !libc::S_ISGID;
                }
                if less != bits {
                    volume::chmod(fd, less)?;
                }
            }
        }
        if attr.atime.is_some() || attr.mtime.is_some() {
            volume::set_times(fd, attr.atime, attr.mtime)?;
        }
        volume::fstat(fd)
    }

    /// Sets an extended attribute.
    pub fn setxattr(&self, id: u64, name: &CStr, value: &[u8], flags: i32) -> Shipped<()> {
        let op = |fid| Op::SetXattr { fid, name: name.to_bytes().to_vec(), value: value.to_vec() };
        self.xattr(id, name, op, |fd| volume::set_xattr(fd, name, value, flags))
    }

    /// Removes an extended attribute.
    pub fn removexattr(&self, id: u64, name: &CStr) -> Shipped<()> {
        let op = |fid| Op::RemoveXattr { fid, name: name.to_bytes().to_vec() };
        self.xattr(id, name, op, |fd| volume::remove_xattr(fd, name))
    }

    fn xattr(&self, id: u64, name: &CStr, op: impl FnOnce(Fid) -> Op, here: impl FnOnce(i32) -> io::Result<()>) -> Shipped<()> {
        // Of this node alone.
        if identity::is_mark(name.to_bytes()) {
            return Err(volume::errno(libc::EPERM));
        }
        let inode = self.table.get(id)?;
        let mode = self.ship.enter()?;
        self.marks(&mode, &inode).attributes(&inode);
        match self.carrier(&mode, &inode) {
            Carrier::Live(stream) if self.bind(stream, &inode)? => {
                self.disk("a change of attributes", here(inode.fd().as_raw_fd()))?;
                Ok(((), Some(self.ship.send(stream, &mode, op(self.fid(&inode)), &[], Durability::Memory))))
            }
            _ => {
                self.disk("a change of attributes", here(inode.fd().as_raw_fd()))?;
                Ok(((), self.unsent(&mode, &inode)))
            }
        }
    }

    // --- names ---------------------------------------------------------------------------------------------

    /// Creates an object; with `open`, opens it too. Counts as known to the kernel.
    pub fn create(&self, parent: u64, name: &CStr, new: &New<'_>, open: Option<i32>) -> Shipped<(Arc<Inode>, Stat, u64)> {
        let parent = self.table.get(parent)?;
        let mode = self.ship.enter()?;
        let local = self.is_local(&parent, name, || Ok(new.mode & libc::S_IFMT == libc::S_IFDIR))?;
        let _order = self.namespace();
        let live = self.live_parent(&mode, &parent, local)?;
        let marks = if local { Dirty::no_marks() } else { self.marks(&mode, &parent) };
        marks.name(&parent, name.to_bytes());
        let hands_down = volume::get_xattr(parent.fd().as_raw_fd(), volume::ACL_DEFAULT).is_ok();
        let fd = self.disk("a create", create_here(&parent, name, new, open, hands_down))?;
        let (inode, st) = self.table.lookup(&parent, name, local)?;
        if inode.is_dir() {
            marks.names(&inode)
        } else {
            marks.whole(&inode)
        }
        let fh = fd.map_or(0, |fd| self.add_handle(fd, inode.clone()));
        let ticket = match live {
            Some(stream) => {
                inode.set_bound(stream.session());
                let op = Op::Create {
                    fid: self.fid(&inode),
                    parent: self.fid(&parent),
                    name: name.to_bytes().to_vec(),
                    mode: st.st_mode,
                    uid: st.st_uid,
                    gid: st.st_gid,
                    rdev: st.st_rdev,
                    mtime: mtime(&st),
                    target: new.target.to_vec(),
                    acl: hands_down.then(|| volume::acls(inode.fd().as_raw_fd())),
                    dir_mtime: changed(&parent)?,
                };
                Some(self.ship.send(stream, &mode, op, &[], Durability::Memory))
            }
            None => self.unsent(&mode, &inode),
        };
        Ok(((inode, st, fh), ticket))
    }

    /// The stream for an operation on a name in `parent`, the parent made known; the namespace lock is held.
    fn live_parent<'a>(&self, mode: &'a Mode, parent: &Inode, local: bool) -> io::Result<Option<&'a Arc<Stream>>> {
        match self.carrier(mode, parent) {
            Carrier::Live(stream) if !local => Ok(self.bind_locked(stream, parent)?.then_some(stream)),
            _ => Ok(None),
        }
    }

    /// Gives a file a further name.
    pub fn link(&self, id: u64, parent: u64, name: &CStr) -> Shipped<(Arc<Inode>, Stat)> {
        let inode = self.table.get(id)?;
        let parent = self.table.get(parent)?;
        let mode = self.ship.enter()?;
        let local = self.is_local(&parent, name, || Ok(false))?;
        if local != inode.is_local() {
            return Err(volume::errno(libc::EXDEV));
        }
        let _order = self.namespace();
        let live = self.live_parent(&mode, &parent, local)?;
        if let Some(stream) = live {
            self.bind_locked(stream, &inode)?;
        }
        let marks = self.marks(&mode, &inode);
        marks.name(&parent, name.to_bytes());
        marks.linked(&inode);
        self.disk("a link", volume::link_fd(inode.fd().as_raw_fd(), parent.fd().as_raw_fd(), name))?;
        inode.add_name(&parent, name.to_bytes());
        let (inode, st) = self.table.lookup(&parent, name, local)?;
        let ticket = match live {
            Some(stream) => {
                let (fid, dir_mtime) = (self.fid(&inode), changed(&parent)?);
                let op = Op::Link { fid, parent: self.fid(&parent), name: name.to_bytes().to_vec(), dir_mtime };
                Some(self.ship.send(stream, &mode, op, &[], Durability::Memory))
            }
            None => self.unsent(&mode, &inode),
        };
        Ok(((inode, st), ticket))
    }

    /// Removes a name; `dir` tells which kind.
    pub fn unlink(&self, parent: u64, name: &CStr, what: Removal) -> Shipped<()> {
        let parent = self.table.get(parent)?;
        let mode = self.ship.enter()?;
        let local = self.is_local(&parent, name, || Ok(what == Removal::Directory))?;
        let _order = self.namespace();
        let live = self.live_parent(&mode, &parent, local)?;
        let marks = if local { Dirty::no_marks() } else { self.marks(&mode, &parent) };
        marks.name(&parent, name.to_bytes());
        let dir = parent.fd();
        let victim = self.known(dir.as_raw_fd(), name);
        if let Some((victim, _)) = &victim {
            marks.victim(victim);
        }
        if let Some((victim, st)) = &victim
            && st.st_nlink > 1
            && !victim.is_dir()
        {
            // The peer may go on to use what it has under this name for another file, and the other names lead to it.
            marks.linked(victim);
        }
        let flags = if what == Removal::Directory { libc::AT_REMOVEDIR } else { 0 };
        self.disk("a removal", volume::unlinkat(dir.as_raw_fd(), name, flags))?;
        if let Some((victim, _)) = victim {
            victim.lose_name(&parent, name.to_bytes());
            self.name_removed(marks, &victim);
        }
        let ticket = match live {
            Some(stream) => {
                let (dir, dir_mtime) = (what == Removal::Directory, changed(&parent)?);
                let op = Op::Unlink { parent: self.fid(&parent), name: name.to_bytes().to_vec(), dir, dir_mtime };
                Some(self.ship.send(stream, &mode, op, &[], Durability::Memory))
            }
            None if local => None,
            None => self.unsent(&mode, &parent),
        };
        Ok(((), ticket))
    }

    /// What a name leads to, if the kernel knows it.
    fn known(&self, dir: i32, name: &CStr) -> Option<(Arc<Inode>, Stat)> {
        let st = volume::stat_at(dir, name).ok()?;
        Some((self.table.peek(st.st_ino)?, st))
    }

    fn name_removed(&self, marks: Marks<'_>, inode: &Inode) {
        inode.name_removed(self.table.root());
        if !inode.replicated() {
            marks.removed(inode);
        }
    }

    /// Whether what has one name now is not replicated under another one.
    fn is_local_as(&self, (parent, name): (&Inode, &CStr), now: (&Inode, &CStr)) -> io::Result<bool> {
        self.is_local(parent, name, || volume::is_dir_at(now.0.fd().as_raw_fd(), now.1))
    }

    /// renameat2(2).
    pub fn rename(&self, from: u64, name: &CStr, to: u64, new: &CStr, flags: u32) -> Shipped<()> {
        if flags & !(libc::RENAME_NOREPLACE | libc::RENAME_EXCHANGE) != 0 {
            return Err(volume::errno(libc::EINVAL));
        }
        let from = self.table.get(from)?;
        let to = self.table.get(to)?;
        let mode = self.ship.enter()?;
        let (source, target) = ((&*from, name), (&*to, new));
        let local = self.is_local_as(source, source)?;
        let mut crosses = local != self.is_local_as(target, source)?;
        if flags & libc::RENAME_EXCHANGE != 0 {
            // The one that comes back may be of the other kind.
            crosses |= local != self.is_local_as(target, target)? || local != self.is_local_as(source, target)?;
        }
        if crosses {
            // Crossing the border of what is replicated is a copy, which the caller does on this error.
            return Err(volume::errno(libc::EXDEV));
        }
        let _order = self.namespace();
        let live = self.live_parent(&mode, &from, local)?;
        if let Some(stream) = live {
            self.bind_locked(stream, &to)?;
        }
        let (from_fd, to_fd) = (from.fd(), to.fd());
        let moved = self.known(from_fd.as_raw_fd(), name).map(|(moved, _)| moved);
        let hit = self.known(to_fd.as_raw_fd(), new);
        let marks = if local { Dirty::no_marks() } else { self.marks(&mode, &from) };
        marks.name(&from, name.to_bytes());
        marks.name(&to, new.to_bytes());
        if let Some((hit, _)) = &hit {
            marks.victim(hit);
        }
        // One that is replaced and has other names: as in `unlink`.
        let concerned = hit.iter().filter(|(_, st)| flags & libc::RENAME_EXCHANGE != 0 || st.st_nlink > 1);
        for inode in moved.iter().chain(concerned.map(|(inode, _)| inode)) {
            if inode.is_dir() { marks.subtree(inode) } else { marks.linked(inode) }
        }
        self.disk("a rename", volume::rename(from_fd.as_raw_fd(), name, to_fd.as_raw_fd(), new, flags))?;
        if let Some((hit, _)) = &hit {
            hit.lose_name(&to, new.to_bytes());
            if flags & libc::RENAME_EXCHANGE != 0 && !hit.is_dir() {
                hit.add_name(&from, name.to_bytes());
            }
        }
        if let Some(moved) = &moved
            && !moved.is_dir()
        {
            moved.lose_name(&from, name.to_bytes());
            moved.add_name(&to, new.to_bytes());
        }
        for inode in hit.iter().map(|(inode, _)| inode).chain(moved.iter()) {
            self.name_removed(marks, inode);
        }
        let ticket = match live {
            Some(stream) => {
                let op = Op::Rename {
                    from: self.fid(&from),
                    name: name.to_bytes().to_vec(),
                    to: self.fid(&to),
                    new: new.to_bytes().to_vec(),
                    flags,
                    from_mtime: changed(&from)?,
                    to_mtime: changed(&to)?,
                };
                Some(self.ship.send(stream, &mode, op, &[], Durability::Memory))
            }
            None if local => None,
            None => self.unsent(&mode, &from),
        };
        Ok(((), ticket))
    }

    /// Parent and name of up to `count` files nobody uses, for asking the kernel to forget them.
    pub fn idle_names(&self, count: usize) -> Vec<(u64, Vec<u8>)> {
        let root = self.table.root();
        let locate = |inode: Arc<Inode>| {
            let path = inode.path(root).ok()?;
            let (parent, name) = match path.iter().rposition(|b| *b == b'/') {
                None => return Some((super::table::ROOT, path)),
                Some(at) => (&path[..at], path[at + 1..].to_vec()),
            };
            let fd = volume::open_beneath(root.fd().as_raw_fd(), parent, libc::O_PATH | libc::O_NOFOLLOW).ok()?;
            Some((volume::fstat(fd.as_raw_fd()).ok()?.st_ino, name))
        };
        self.table.idle(count).into_iter().filter_map(locate).collect()
    }

    /// Flushes the file system below.
    pub fn sync_all(&self) -> io::Result<()> {
        if self.ship.switches.no_fsync {
            return Ok(());
        }
        self.disk("a flush", volume::syncfs(self.open_root()?.as_raw_fd()))
    }

    /// The directory below the mount.
    pub fn open_root(&self) -> io::Result<OwnedFd> {
        volume::openat(self.table.root().fd().as_raw_fd(), c".", libc::O_RDONLY | libc::O_DIRECTORY, 0)
    }
}

/// What to wait for when an operation had a consequence.
fn both(operation: Option<Ticket>, consequence: Option<Ticket>) -> Option<Ticket> {
    match (operation, consequence) {
        (Some(done), Some(then)) => Some(done.and_then(then)),
        (one, other) => one.or(other),
    }
}

/// Marker: set-id bits go with this change.
#[derive(Debug, Clone, Copy)]
pub struct StripSetId;

/// What kind of name is removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Removal {
    /// Anything but a directory.
    File,
    /// An empty directory.
    Directory,
}

/// When names in a directory were last changed.
fn changed(dir: &Inode) -> io::Result<Time> {
    Ok(mtime(&volume::fstat(dir.fd().as_raw_fd())?))
}

fn create_here(parent: &Inode, name: &CStr, new: &New<'_>, open: Option<i32>, hands_down: bool) -> io::Result<Option<OwnedFd>> {
    let dir_fd = parent.fd();
    let dir = dir_fd.as_raw_fd();
    let mut file = None;
    // This process has no umask of its own, so that the file system below applies a list that is handed down.
    let mode = if hands_down { new.mode } else { new.mode & !(new.umask & 0o777) };
    match mode & libc::S_IFMT {
        libc::S_IFDIR => volume::mkdirat(dir, name, mode & 0o7777)?,
        libc::S_IFLNK => volume::symlinkat(&volume::cstr(new.target)?, dir, name)?,
        libc::S_IFREG | 0 => {
            let flags = open.unwrap_or(libc::O_RDWR) & !OPEN_FLAGS_STRIPPED;
            let exclusive = flags | libc::O_CREAT | libc::O_EXCL | libc::O_NOFOLLOW;
            match volume::openat(dir, name, exclusive, mode & 0o7777) {
                Ok(fd) => file = Some(fd),
                Err(e) if e.raw_os_error() == Some(libc::EEXIST) && open.is_some_and(|f| f & libc::O_EXCL == 0) => {
                    return volume::openat(dir, name, flags | libc::O_NOFOLLOW, 0).map(Some);
                }
                Err(e) => return Err(e),
            }
        }
        _ => volume::mknodat(dir, name, mode, new.rdev)?,
    }
    let owned = give_owner(dir, name, new);
    if owned.is_err() {
        // The caller is told that there is nothing.
        let flags = if mode & libc::S_IFMT == libc::S_IFDIR { libc::AT_REMOVEDIR } else { 0 };
        volume::unlinkat(dir, name, flags)?;
    }
    owned.map(|()| file.filter(|_| open.is_some()))
}

fn give_owner(dir: i32, name: &CStr, new: &New<'_>) -> io::Result<()> {
    let path = volume::open_path_at(dir, name)?;
    let made = volume::fstat(path.as_raw_fd())?;
    let uid = (made.st_uid != new.uid).then_some(new.uid);
    let gid = (made.st_gid != new.gid && !handed_down(dir)?).then_some(new.gid);
    if uid.is_some() || gid.is_some() {
        volume::chown(path.as_raw_fd(), uid, gid)?;
        if made.st_mode & 0o6000 != 0 && volume::kind(&made) != libc::S_IFLNK {
            // chown(2) clears them.
            volume::chmod(path.as_raw_fd(), made.st_mode & 0o7777)?;
        }
    }
    Ok(())
}

/// Whether a directory gives new objects its own group.
fn handed_down(dir: i32) -> io::Result<bool> {
    Ok(volume::fstat(dir)?.st_mode & libc::S_ISGID != 0)
}

/// A caller's time or the present one.
pub fn now() -> Time {
    Time::from_system(std::time::SystemTime::now())
}
