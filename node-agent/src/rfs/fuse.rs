//! FUSE requests translated to the file system and back; nothing is decided here.
//!
//! Answers to mutating requests go through [`Ship::finish`](super::ship::Ship::finish), which sends them as soon
//! as the peer's acknowledgement allows, if need be from another thread.

use super::frame::Attr;
use super::fs::{New, Removal, Shipped, StripSetId, Volume, now};
use super::volume::{self, Stat, Sync, Time};
use fuser::{
    AccessFlags, BsdFileFlags, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, InitFlags, KernelConfig,
    LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry,
    ReplyLseek, ReplyOpen, ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};
use std::cell::RefCell;
use std::ffi::{CString, OsStr};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

/// Every change comes through the mount, so what the kernel knows stays true.
pub const TTL: Duration = Duration::from_secs(3600);
/// Largest write request; larger ones only cost memory.
pub const WRITE_BYTES_MAX: u32 = 1 << 20;
/// Requests the kernel may queue by itself (read-ahead, write-back of mapped pages).
pub const BACKGROUND_MAX: u16 = 64;
/// What is said of a file system that does not say it.
pub const BLOCK_SIZE: u32 = 4096;
/// The same.
pub const NAME_MAX: u32 = 255;

/// The translation layer of one volume.
pub struct Fuse {
    volume: Arc<Volume>,
    /// Set when the kernel sends requests over the ring; absent: it is not asked to.
    ring: Option<Arc<AtomicBool>>,
}

impl Fuse {
    /// Translates for a volume. `ring`: the kernel is asked to send requests over [`super::ring`], and it is set if it will.
    pub fn new(volume: Arc<Volume>, ring: Option<Arc<AtomicBool>>) -> Self {
        Self { volume, ring }
    }

    /// Answers when the ticket is good.
    fn answer<T: Send + 'static, R: Send + 'static>(
        &self,
        done: Shipped<T>,
        reply: R,
        ok: impl FnOnce(R, T) + Send + 'static,
        error: impl FnOnce(R, Errno) + Send + 'static,
    ) {
        match done {
            Err(e) => error(reply, code(&e)),
            Ok((value, ticket)) => self.volume.ship().finish(ticket, move |result| match result {
                Ok(()) => ok(reply, value),
                Err(number) => error(reply, Errno::from_i32(number)),
            }),
        }
    }

    fn empty(&self, done: Shipped<()>, reply: ReplyEmpty) {
        self.answer(done, reply, |r, ()| r.ok(), ReplyEmpty::error);
    }

    fn entry(&self, done: Shipped<Stat>, reply: ReplyEntry) {
        self.answer(done, reply, |r, st| r.entry(&TTL, &attributes(&st), Generation(0)), ReplyEntry::error);
    }

    fn make(&self, parent: INodeNo, name: &OsStr, new: &New<'_>, reply: ReplyEntry) {
        let done = named(name).and_then(|n| self.volume.create(parent.0, &n, new, None)).map(|((_, st, _), t)| (st, t));
        self.entry(done, reply);
    }
}

fn code(e: &io::Error) -> Errno {
    Errno::from_i32(e.raw_os_error().unwrap_or(libc::EIO))
}

fn named(name: &OsStr) -> io::Result<CString> {
    volume::cstr(name.as_bytes())
}

fn file_type(mode: u32) -> FileType {
    match mode & libc::S_IFMT {
        libc::S_IFDIR => FileType::Directory,
        libc::S_IFLNK => FileType::Symlink,
        libc::S_IFBLK => FileType::BlockDevice,
        libc::S_IFCHR => FileType::CharDevice,
        libc::S_IFIFO => FileType::NamedPipe,
        libc::S_IFSOCK => FileType::Socket,
        _ => FileType::RegularFile,
    }
}

fn attributes(st: &Stat) -> FileAttr {
    let ctime = Time { s: st.st_ctime, ns: u32::try_from(st.st_ctime_nsec).unwrap_or(0) };
    FileAttr {
        ino: INodeNo(st.st_ino),
        size: u64::try_from(st.st_size).unwrap_or(0),
        blocks: u64::try_from(st.st_blocks).unwrap_or(0),
        atime: volume::atime(st).system(),
        mtime: volume::mtime(st).system(),
        ctime: ctime.system(),
        crtime: SystemTime::UNIX_EPOCH,
        kind: file_type(st.st_mode),
        perm: u16::try_from(st.st_mode & 0o7777).unwrap_or(0),
        nlink: u32::try_from(st.st_nlink).unwrap_or(u32::MAX),
        uid: st.st_uid,
        gid: st.st_gid,
        rdev: u32::try_from(st.st_rdev).unwrap_or(0),
        blksize: BLOCK_SIZE,
        flags: 0,
    }
}

fn root_attributes(ino: INodeNo, st: &Stat) -> FileAttr {
    FileAttr { ino, ..attributes(st) }
}

fn time(at: TimeOrNow) -> Time {
    match at {
        // The library counts the nanoseconds of a time before 1970 backwards (fuser 0.18, `system_time_from_time`).
        TimeOrNow::SpecificTime(t) => t.duration_since(SystemTime::UNIX_EPOCH).map_or_else(
            |before| Time { s: -i64::try_from(before.duration().as_secs()).unwrap_or(i64::MAX), ns: before.duration().subsec_nanos() },
            |_| Time::from_system(t),
        ),
        TimeOrNow::Now => now(),
    }
}

thread_local! {
    /// One read buffer per FUSE thread: a read of 1 MiB must not allocate.
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Attributes this file system sets; the rest of the trait's long list is not used on Linux.
struct Change {
    mode: Option<u32>,
    uid: Option<u32>,
    gid: Option<u32>,
    size: Option<u64>,
    atime: Option<TimeOrNow>,
    mtime: Option<TimeOrNow>,
}

impl From<Change> for Attr {
    fn from(c: Change) -> Self {
        Self { mode: c.mode, uid: c.uid, gid: c.gid, size: c.size, atime: c.atime.map(time), mtime: c.mtime.map(time) }
    }
}

impl Filesystem for Fuse {
    fn init(&mut self, _req: &Request, config: &mut KernelConfig) -> io::Result<()> {
        let wanted = [
            InitFlags::FUSE_ASYNC_READ,
            InitFlags::FUSE_BIG_WRITES,
            InitFlags::FUSE_PARALLEL_DIROPS,
            InitFlags::FUSE_DO_READDIRPLUS,
            InitFlags::FUSE_READDIRPLUS_AUTO,
            InitFlags::FUSE_HANDLE_KILLPRIV_V2,
            InitFlags::FUSE_CACHE_SYMLINKS,
            // Access lists count, and a directory's default list counts instead of the umask.
            InitFlags::FUSE_POSIX_ACL,
            InitFlags::FUSE_DONT_MASK,
            InitFlags::FUSE_MAX_PAGES,
        ];
        for flag in wanted {
            if config.add_capabilities(flag).is_err() {
                tracing::info!(?flag, "the kernel does not offer this; going on without");
            }
        }
        if let Some(ring) = &self.ring {
            ring.store(config.add_capabilities(InitFlags::FUSE_OVER_IO_URING).is_ok(), Ordering::Release);
        }
        // The error values only say what is possible instead, and that is set then.
        let _ = config.set_max_write(WRITE_BYTES_MAX).map_err(|less| config.set_max_write(less));
        let _ = config.set_max_readahead(WRITE_BYTES_MAX).map_err(|less| config.set_max_readahead(less));
        let _ = config.set_max_background(BACKGROUND_MAX);
        Ok(())
    }

    fn lookup(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match named(name).and_then(|n| self.volume.lookup(parent.0, &n)) {
            Ok((_, st)) => reply.entry(&TTL, &attributes(&st), Generation(0)),
            Err(e) => reply.error(code(&e)),
        }
    }

    fn forget(&self, _req: &Request, ino: INodeNo, nlookup: u64) {
        self.volume.forget(ino.0, nlookup);
    }

    fn getattr(&self, _req: &Request, ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        match self.volume.getattr(ino.0) {
            Ok(st) => reply.attr(&TTL, &root_attributes(ino, &st)),
            Err(e) => reply.error(code(&e)),
        }
    }

    fn setattr(
        &self,
        req: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let strip = (size.is_some() && req.uid() != 0).then_some(StripSetId);
        let attr = Change { mode, uid, gid, size, atime, mtime }.into();
        let done = self.volume.setattr(ino.0, fh.map(|f| f.0), &attr, strip);
        self.answer(done, reply, move |r, st| r.attr(&TTL, &root_attributes(ino, &st)), ReplyAttr::error);
    }

    fn readlink(&self, _req: &Request, ino: INodeNo, reply: ReplyData) {
        match self.volume.readlink(ino.0) {
            Ok(target) => reply.data(&target),
            Err(e) => reply.error(code(&e)),
        }
    }

    fn mknod(&self, req: &Request, parent: INodeNo, name: &OsStr, mode: u32, umask: u32, rdev: u32, reply: ReplyEntry) {
        let new = New { mode, umask, rdev: u64::from(rdev), target: &[], uid: req.uid(), gid: req.gid() };
        self.make(parent, name, &new, reply);
    }

    fn mkdir(&self, req: &Request, parent: INodeNo, name: &OsStr, mode: u32, umask: u32, reply: ReplyEntry) {
        let mode = (mode & 0o7777) | libc::S_IFDIR;
        self.make(parent, name, &New { mode, umask, rdev: 0, target: &[], uid: req.uid(), gid: req.gid() }, reply);
    }

    fn symlink(&self, req: &Request, parent: INodeNo, link_name: &OsStr, target: &Path, reply: ReplyEntry) {
        let target = target.as_os_str().as_bytes();
        let new = New { mode: libc::S_IFLNK | 0o777, umask: 0, rdev: 0, target, uid: req.uid(), gid: req.gid() };
        self.make(parent, link_name, &new, reply);
    }

    fn unlink(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.empty(named(name).and_then(|n| self.volume.unlink(parent.0, &n, Removal::File)), reply);
    }

    fn rmdir(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.empty(named(name).and_then(|n| self.volume.unlink(parent.0, &n, Removal::Directory)), reply);
    }

    fn rename(
        &self,
        _req: &Request,
        parent: INodeNo,
        name: &OsStr,
        newparent: INodeNo,
        newname: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let done = named(name).and_then(|a| named(newname).and_then(|b| self.volume.rename(parent.0, &a, newparent.0, &b, flags.bits())));
        self.empty(done, reply);
    }

    fn link(&self, _req: &Request, ino: INodeNo, newparent: INodeNo, newname: &OsStr, reply: ReplyEntry) {
        let done = named(newname).and_then(|n| self.volume.link(ino.0, newparent.0, &n)).map(|((_, st), t)| (st, t));
        self.entry(done, reply);
    }

    fn open(&self, _req: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        match self.volume.open(ino.0, flags.0) {
            Ok(fh) => reply.opened(FileHandle(fh), FopenFlags::FOPEN_KEEP_CACHE | FopenFlags::FOPEN_NOFLUSH),
            Err(e) => reply.error(code(&e)),
        }
    }

    fn read(
        &self,
        _req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        BUFFER.with_borrow_mut(|buffer| {
            let size = size as usize;
            if buffer.len() < size {
                buffer.resize(size, 0);
            }
            match self.volume.read(fh.0, &mut buffer[..size], offset) {
                Ok(n) => reply.data(&buffer[..n]),
                Err(e) => reply.error(code(&e)),
            }
        });
    }

    fn write(
        &self,
        _req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        data: &[u8],
        write_flags: WriteFlags,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let strip = write_flags.contains(WriteFlags::FUSE_WRITE_KILL_SUIDGID).then_some(StripSetId);
        let size = u32::try_from(data.len()).unwrap_or(0);
        self.answer(self.volume.write(fh.0, offset, data, strip), reply, move |r, ()| r.written(size), ReplyWrite::error);
    }

    fn flush(&self, _req: &Request, _ino: INodeNo, _fh: FileHandle, _lock_owner: LockOwner, reply: ReplyEmpty) {
        // The kernel does not ask again: a write was answered when it was safe, close has nothing to add.
        reply.error(Errno::ENOSYS);
    }

    fn release(
        &self,
        _req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        self.volume.release(fh.0);
        reply.ok();
    }

    fn fsync(&self, _req: &Request, _ino: INodeNo, fh: FileHandle, datasync: bool, reply: ReplyEmpty) {
        self.empty(self.volume.fsync(fh.0, if datasync { Sync::Data } else { Sync::All }), reply);
    }

    fn opendir(&self, _req: &Request, ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        match self.volume.opendir(ino.0) {
            Ok(fh) => reply.opened(FileHandle(fh), FopenFlags::empty()),
            Err(e) => reply.error(code(&e)),
        }
    }

    fn readdir(&self, _req: &Request, _ino: INodeNo, fh: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        match self.volume.readdir(fh.0, offset.cast_signed()) {
            Ok(names) => {
                for n in names {
                    let mode = u32::from(n.kind) << 12;
                    if reply.add(INodeNo(n.ino), n.next.cast_unsigned(), file_type(mode), OsStr::from_bytes(&n.name)) {
                        break;
                    }
                }
                reply.ok();
            }
            Err(e) => reply.error(code(&e)),
        }
    }

    fn readdirplus(&self, _req: &Request, ino: INodeNo, fh: FileHandle, offset: u64, mut reply: ReplyDirectoryPlus) {
        let names = match self.volume.readdir(fh.0, offset.cast_signed()) {
            Ok(names) => names,
            Err(e) => return reply.error(code(&e)),
        };
        for n in names {
            let name = OsStr::from_bytes(&n.name);
            let next = n.next.cast_unsigned();
            // The kernel takes no lookup for these two.
            if n.name == b"." || n.name == b".." {
                let Ok(st) = self.volume.getattr(ino.0) else { continue };
                if reply.add(INodeNo(n.ino), next, name, &TTL, &root_attributes(INodeNo(n.ino), &st), Generation(0)) {
                    break;
                }
                continue;
            }
            let Ok((inode, st)) = named(name).and_then(|c| self.volume.lookup(ino.0, &c)) else { continue };
            if reply.add(INodeNo(inode.id), next, name, &TTL, &attributes(&st), Generation(0)) {
                // Not taken: the lookup does not count.
                self.volume.forget(inode.id, 1);
                break;
            }
        }
        reply.ok();
    }

    fn releasedir(&self, _req: &Request, _ino: INodeNo, fh: FileHandle, _flags: OpenFlags, reply: ReplyEmpty) {
        self.volume.releasedir(fh.0);
        reply.ok();
    }

    fn fsyncdir(&self, _req: &Request, _ino: INodeNo, fh: FileHandle, datasync: bool, reply: ReplyEmpty) {
        self.empty(self.volume.fsyncdir(fh.0, if datasync { Sync::Data } else { Sync::All }), reply);
    }

    fn statfs(&self, _req: &Request, _ino: INodeNo, reply: ReplyStatfs) {
        match self.volume.statfs() {
            Ok(s) => {
                let (block, fragment) = (u32::try_from(s.f_bsize).unwrap_or(BLOCK_SIZE), u32::try_from(s.f_frsize).unwrap_or(BLOCK_SIZE));
                let name_max = u32::try_from(s.f_namemax).unwrap_or(NAME_MAX);
                reply.statfs(s.f_blocks, s.f_bfree, s.f_bavail, s.f_files, s.f_ffree, block, name_max, fragment);
            }
            Err(e) => reply.error(code(&e)),
        }
    }

    fn setxattr(&self, _req: &Request, ino: INodeNo, name: &OsStr, value: &[u8], flags: i32, _position: u32, reply: ReplyEmpty) {
        self.empty(named(name).and_then(|n| self.volume.setxattr(ino.0, &n, value, flags)), reply);
    }

    fn getxattr(&self, _req: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        sized(named(name).and_then(|n| self.volume.getxattr(ino.0, &n)), size, reply);
    }

    fn listxattr(&self, _req: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        sized(self.volume.listxattr(ino.0), size, reply);
    }

    fn removexattr(&self, _req: &Request, ino: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.empty(named(name).and_then(|n| self.volume.removexattr(ino.0, &n)), reply);
    }

    fn access(&self, _req: &Request, _ino: INodeNo, _mask: AccessFlags, reply: ReplyEmpty) {
        // Permissions are checked by the kernel (`default_permissions`).
        reply.error(Errno::ENOSYS);
    }

    fn create(&self, req: &Request, parent: INodeNo, name: &OsStr, mode: u32, umask: u32, flags: i32, reply: ReplyCreate) {
        let new = New { mode: (mode & 0o7777) | libc::S_IFREG, umask, rdev: 0, target: &[], uid: req.uid(), gid: req.gid() };
        let done = named(name).and_then(|n| self.volume.create(parent.0, &n, &new, Some(flags)));
        let ok = |r: ReplyCreate, (_, st, fh): (Arc<super::table::Inode>, Stat, u64)| {
            let flags = FopenFlags::FOPEN_KEEP_CACHE | FopenFlags::FOPEN_NOFLUSH;
            r.created(&TTL, &attributes(&st), Generation(0), FileHandle(fh), flags);
        };
        self.answer(done, reply, ok, ReplyCreate::error);
    }

    fn fallocate(&self, req: &Request, _ino: INodeNo, fh: FileHandle, offset: u64, length: u64, mode: i32, reply: ReplyEmpty) {
        let strip = (req.uid() != 0).then_some(StripSetId);
        self.empty(self.volume.fallocate(fh.0, mode, offset, length, strip), reply);
    }

    fn lseek(&self, _req: &Request, _ino: INodeNo, fh: FileHandle, offset: i64, whence: i32, reply: ReplyLseek) {
        match self.volume.lseek(fh.0, offset, whence) {
            Ok(at) => reply.offset(at),
            Err(e) => reply.error(code(&e)),
        }
    }
}

fn sized(value: io::Result<Vec<u8>>, size: u32, reply: ReplyXattr) {
    match value {
        Err(e) => reply.error(code(&e)),
        Ok(v) if size == 0 => reply.size(u32::try_from(v.len()).unwrap_or(u32::MAX)),
        Ok(v) if v.len() > size as usize => reply.error(Errno::ERANGE),
        Ok(v) => reply.data(&v),
    }
}
