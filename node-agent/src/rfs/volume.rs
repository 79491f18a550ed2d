//! System calls on a replicated tree, by descriptor only: once the mount covers the directory its path leads
//! back into the file system itself, so nothing here may use a path that begins at `/`.

use super::identity;
use serde::{Deserialize, Serialize};
use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Extended attributes larger than this are refused by Linux itself (`XATTR_SIZE_MAX`, `XATTR_LIST_MAX`).
const XATTR_BYTES_MAX: usize = 64 * 1024;

/// A file's attributes as the kernel reports them.
pub type Stat = libc::stat64;

/// A point in time as `stat` gives it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Time {
    /// Seconds since 1970.
    pub s: i64,
    /// Nanoseconds.
    pub ns: u32,
}

impl Time {
    /// As the standard library's type.
    pub fn system(self) -> SystemTime {
        let ns = Duration::from_nanos(u64::from(self.ns));
        if self.s >= 0 {
            UNIX_EPOCH + Duration::from_secs(self.s.unsigned_abs()) + ns
        } else {
            UNIX_EPOCH - Duration::from_secs(self.s.unsigned_abs()) + ns
        }
    }
    /// From the standard library's type.
    pub fn from_system(at: SystemTime) -> Self {
        match at.duration_since(UNIX_EPOCH) {
            Ok(d) => Self { s: i64::try_from(d.as_secs()).unwrap_or(i64::MAX), ns: d.subsec_nanos() },
            Err(before) => {
                let d = before.duration();
                let s = i64::try_from(d.as_secs()).unwrap_or(i64::MAX);
                if d.subsec_nanos() == 0 { Self { s: -s, ns: 0 } } else { Self { s: -s - 1, ns: 1_000_000_000 - d.subsec_nanos() } }
            }
        }
    }
    fn spec(at: Option<Self>) -> libc::timespec {
        match at {
            Some(t) => libc::timespec { tv_sec: t.s, tv_nsec: i64::from(t.ns) },
            None => libc::timespec { tv_sec: 0, tv_nsec: libc::UTIME_OMIT },
        }
    }
}

/// Modification time of a file.
pub fn mtime(st: &Stat) -> Time {
    Time { s: st.st_mtime, ns: u32::try_from(st.st_mtime_nsec).unwrap_or(0) }
}

/// Access time of a file.
pub fn atime(st: &Stat) -> Time {
    Time { s: st.st_atime, ns: u32::try_from(st.st_atime_nsec).unwrap_or(0) }
}

/// Type bits of a mode.
pub fn kind(st: &Stat) -> u32 {
    st.st_mode & libc::S_IFMT
}

fn check(rc: libc::c_int) -> io::Result<libc::c_int> {
    if rc < 0 { Err(io::Error::last_os_error()) } else { Ok(rc) }
}

fn check_size(rc: isize) -> io::Result<usize> {
    usize::try_from(rc).map_err(|_| io::Error::last_os_error())
}

/// An error by number.
pub fn errno(number: i32) -> io::Error {
    io::Error::from_raw_os_error(number)
}

/// A name for the kernel; a NUL inside is EINVAL.
pub fn cstr(name: &[u8]) -> io::Result<CString> {
    CString::new(name).map_err(|_| errno(libc::EINVAL))
}

/// `/proc/self/fd/N`: the way from an `O_PATH` descriptor to calls that want a path.
pub fn proc_path(fd: RawFd) -> CString {
    CString::new(format!("/proc/self/fd/{fd}")).expect("digits contain no NUL")
}

fn owned(rc: libc::c_int) -> io::Result<OwnedFd> {
    let fd = check(rc)?;
    // SAFETY: the kernel just handed this descriptor to us and nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// openat(2), close-on-exec.
pub fn openat(dir: RawFd, name: &CStr, flags: i32, mode: u32) -> io::Result<OwnedFd> {
    // SAFETY: `name` is NUL-terminated and outlives the call.
    owned(unsafe { libc::openat64(dir, name.as_ptr(), flags | libc::O_CLOEXEC, mode) })
}

/// An `O_PATH` descriptor for one name (never follows a link).
pub fn open_path_at(dir: RawFd, name: &CStr) -> io::Result<OwnedFd> {
    openat(dir, name, libc::O_PATH | libc::O_NOFOLLOW, 0)
}

/// Opens the file behind an `O_PATH` descriptor for real.
pub fn reopen(fd: RawFd, flags: i32) -> io::Result<OwnedFd> {
    openat(libc::AT_FDCWD, &proc_path(fd), flags & !libc::O_NOFOLLOW, 0)
}

/// openat2(2) below `root`, following no links and leaving the tree nowhere; an empty path is the root itself.
pub fn open_beneath(root: RawFd, relative: &[u8], flags: i32) -> io::Result<OwnedFd> {
    if relative.is_empty() {
        return if flags & libc::O_PATH != 0 { openat(root, c".", flags, 0) } else { openat(root, c".", flags | libc::O_DIRECTORY, 0) };
    }
    let path = cstr(relative)?;
    // SAFETY: zeroed `open_how` is its documented default.
    let mut how: libc::open_how = unsafe { std::mem::zeroed() };
    how.flags = (flags | libc::O_CLOEXEC) as u64;
    how.resolve = libc::RESOLVE_BENEATH | if flags & libc::O_PATH != 0 { RESOLVE_PARENTS } else { libc::RESOLVE_NO_SYMLINKS };
    // SAFETY: path and how outlive the call; the size is that of `how`.
    let rc = unsafe { libc::syscall(libc::SYS_openat2, root, path.as_ptr(), &raw const how, std::mem::size_of::<libc::open_how>()) };
    owned(i32::try_from(rc).unwrap_or(-1))
}

/// With `O_PATH|O_NOFOLLOW` the last component may be a symbolic link and `RESOLVE_NO_SYMLINKS` permits exactly that.
const RESOLVE_PARENTS: u64 = libc::RESOLVE_NO_SYMLINKS;

/// fstat(2), also on `O_PATH`.
pub fn fstat(fd: RawFd) -> io::Result<Stat> {
    let mut st = std::mem::MaybeUninit::<Stat>::uninit();
    // SAFETY: the kernel fills `st` when the call succeeds.
    check(unsafe { libc::fstatat64(fd, c"".as_ptr(), st.as_mut_ptr(), libc::AT_EMPTY_PATH) })?;
    // SAFETY: filled above.
    Ok(unsafe { st.assume_init() })
}

/// fstatat(2), not following a link.
pub fn stat_at(dir: RawFd, name: &CStr) -> io::Result<Stat> {
    let mut st = std::mem::MaybeUninit::<Stat>::uninit();
    // SAFETY: as in `fstat`.
    check(unsafe { libc::fstatat64(dir, name.as_ptr(), st.as_mut_ptr(), libc::AT_SYMLINK_NOFOLLOW) })?;
    // SAFETY: filled above.
    Ok(unsafe { st.assume_init() })
}

/// Whether a name leads to a directory; nothing is none.
pub fn is_dir_at(dir: RawFd, name: &CStr) -> io::Result<bool> {
    match stat_at(dir, name) {
        Ok(st) => Ok(kind(&st) == libc::S_IFDIR),
        Err(e) if e.raw_os_error() == Some(libc::ENOENT) => Ok(false),
        Err(e) => Err(e),
    }
}

/// mkdirat(2).
pub fn mkdirat(dir: RawFd, name: &CStr, mode: u32) -> io::Result<()> {
    // SAFETY: `name` is valid for the call.
    check(unsafe { libc::mkdirat(dir, name.as_ptr(), mode) }).map(drop)
}

/// mknodat(2).
pub fn mknodat(dir: RawFd, name: &CStr, mode: u32, rdev: u64) -> io::Result<()> {
    // SAFETY: `name` is valid for the call.
    check(unsafe { libc::mknodat(dir, name.as_ptr(), mode, rdev) }).map(drop)
}

/// symlinkat(2).
pub fn symlinkat(target: &CStr, dir: RawFd, name: &CStr) -> io::Result<()> {
    // SAFETY: both strings are valid for the call.
    check(unsafe { libc::symlinkat(target.as_ptr(), dir, name.as_ptr()) }).map(drop)
}

/// unlinkat(2); `flags` is 0 or `AT_REMOVEDIR`.
pub fn unlinkat(dir: RawFd, name: &CStr, flags: i32) -> io::Result<()> {
    // SAFETY: `name` is valid for the call.
    check(unsafe { libc::unlinkat(dir, name.as_ptr(), flags) }).map(drop)
}

/// A new name for the file behind a descriptor.
pub fn link_fd(fd: RawFd, dir: RawFd, name: &CStr) -> io::Result<()> {
    let from = proc_path(fd);
    // SAFETY: both strings are valid for the call.
    check(unsafe { libc::linkat(libc::AT_FDCWD, from.as_ptr(), dir, name.as_ptr(), libc::AT_SYMLINK_FOLLOW) }).map(drop)
}

/// renameat2(2).
pub fn rename(from: RawFd, name: &CStr, to: RawFd, new: &CStr, flags: u32) -> io::Result<()> {
    // SAFETY: both strings are valid for the call.
    check(unsafe { libc::renameat2(from, name.as_ptr(), to, new.as_ptr(), flags) }).map(drop)
}

/// Target of the symbolic link behind an `O_PATH` descriptor.
pub fn readlink_fd(fd: RawFd) -> io::Result<Vec<u8>> {
    readlink_at(fd, c"")
}

/// readlinkat(2).
pub fn readlink_at(dir: RawFd, name: &CStr) -> io::Result<Vec<u8>> {
    let mut buf = vec![0u8; libc::PATH_MAX as usize + 1];
    // SAFETY: the buffer is as long as told.
    let n = check_size(unsafe { libc::readlinkat(dir, name.as_ptr(), buf.as_mut_ptr().cast(), buf.len()) })?;
    buf.truncate(n);
    Ok(buf)
}

/// Where the kernel thinks the file behind a descriptor is: an absolute path, ` (deleted)` appended if that name is gone.
pub fn kernel_path(fd: RawFd) -> io::Result<Vec<u8>> {
    readlink_at(libc::AT_FDCWD, &proc_path(fd))
}

/// The same relative to the directory behind another descriptor; not there if it is not below that.
pub fn path_below(root: RawFd, fd: RawFd) -> io::Result<Vec<u8>> {
    let (top, full) = (kernel_path(root)?, kernel_path(fd)?);
    let below = full.strip_prefix(top.as_slice()).ok_or_else(|| errno(libc::ENOENT))?;
    match below {
        [] => Ok(Vec::new()),
        [b'/', below @ ..] => Ok(below.to_vec()),
        _ => Err(errno(libc::ENOENT)),
    }
}

/// Changes owner and group; `None` leaves one as it is. Works on `O_PATH` and on links.
pub fn chown(fd: RawFd, uid: Option<u32>, gid: Option<u32>) -> io::Result<()> {
    // SAFETY: the empty path is valid.
    check(unsafe { libc::fchownat(fd, c"".as_ptr(), uid.unwrap_or(u32::MAX), gid.unwrap_or(u32::MAX), libc::AT_EMPTY_PATH) }).map(drop)
}

/// Changes the permission bits through an `O_PATH` descriptor.
pub fn chmod(fd: RawFd, mode: u32) -> io::Result<()> {
    // SAFETY: the path is valid for the call.
    check(unsafe { libc::fchmodat(libc::AT_FDCWD, proc_path(fd).as_ptr(), mode & 0o7777, 0) }).map(drop)
}

/// Sets times; `None` leaves one as it is. Works on `O_PATH` and on links.
pub fn set_times(fd: RawFd, atime: Option<Time>, mtime: Option<Time>) -> io::Result<()> {
    let times = [Time::spec(atime), Time::spec(mtime)];
    // SAFETY: path and array are valid for the call.
    check(unsafe { libc::utimensat(fd, c"".as_ptr(), times.as_ptr(), libc::AT_EMPTY_PATH) }).map(drop)
}

/// ftruncate(2).
pub fn truncate(fd: RawFd, size: u64) -> io::Result<()> {
    let size = i64::try_from(size).map_err(|_| errno(libc::EFBIG))?;
    // SAFETY: plain call.
    check(unsafe { libc::ftruncate64(fd, size) }).map(drop)
}

/// fallocate(2).
pub fn fallocate(fd: RawFd, mode: i32, offset: u64, length: u64) -> io::Result<()> {
    let offset = i64::try_from(offset).map_err(|_| errno(libc::EFBIG))?;
    let length = i64::try_from(length).map_err(|_| errno(libc::EFBIG))?;
    // SAFETY: plain call.
    check(unsafe { libc::fallocate64(fd, mode, offset, length) }).map(drop)
}

/// Writes everything at an offset.
pub fn write_all_at(fd: RawFd, mut data: &[u8], mut offset: u64) -> io::Result<()> {
    while !data.is_empty() {
        let at = i64::try_from(offset).map_err(|_| errno(libc::EFBIG))?;
        // SAFETY: the slice is valid for its length.
        match check_size(unsafe { libc::pwrite64(fd, data.as_ptr().cast(), data.len(), at) }) {
            Ok(0) => return Err(errno(libc::EIO)),
            Ok(n) => {
                data = &data[n..];
                offset += n as u64;
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// Reads until the buffer is full or the file ends.
pub fn read_at(fd: RawFd, buf: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut done = 0;
    while done < buf.len() {
        let at = i64::try_from(offset + done as u64).map_err(|_| errno(libc::EINVAL))?;
        let rest = &mut buf[done..];
        // SAFETY: the slice is valid for its length.
        match check_size(unsafe { libc::pread64(fd, rest.as_mut_ptr().cast(), rest.len(), at) }) {
            Ok(0) => break,
            Ok(n) => done += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(done)
}

/// fsync(2) or fdatasync(2).
pub fn fsync(fd: RawFd, data_only: Sync) -> io::Result<()> {
    // SAFETY: plain calls.
    check(unsafe {
        match data_only {
            Sync::Data => libc::fdatasync(fd),
            Sync::All => libc::fsync(fd),
        }
    })
    .map(drop)
}

/// What an fsync covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Sync {
    /// Contents and what is needed to read them.
    Data,
    /// Contents and all attributes.
    All,
}

/// Flushes the whole file system a descriptor is on.
pub fn syncfs(fd: RawFd) -> io::Result<()> {
    // SAFETY: plain call.
    check(unsafe { libc::syncfs(fd) }).map(drop)
}

/// lseek(2), for `SEEK_DATA` and `SEEK_HOLE`.
pub fn seek(fd: RawFd, offset: i64, whence: i32) -> io::Result<i64> {
    // SAFETY: plain call.
    let at = unsafe { libc::lseek64(fd, offset, whence) };
    if at < 0 { Err(io::Error::last_os_error()) } else { Ok(at) }
}

/// The next offset with data at or after `offset`; `offset` itself where the file system cannot tell.
pub fn next_data(fd: RawFd, offset: u64, size: u64) -> u64 {
    let Ok(from) = i64::try_from(offset) else { return offset };
    match seek(fd, from, libc::SEEK_DATA) {
        Ok(at) => at.unsigned_abs(),
        Err(e) if e.raw_os_error() == Some(libc::ENXIO) => size,
        Err(_) => offset,
    }
}

/// The next offset with a hole at or after `offset`; `end` where the file system cannot tell.
pub fn next_hole(fd: RawFd, offset: u64, end: u64) -> u64 {
    let Ok(from) = i64::try_from(offset) else { return end };
    seek(fd, from, libc::SEEK_HOLE).map_or(end, i64::unsigned_abs)
}

/// Has the kernel read a range that will be asked for soon. Nothing depends on it.
pub fn will_need(fd: RawFd, offset: u64, length: u64) {
    if let (Ok(offset), Ok(length)) = (i64::try_from(offset), i64::try_from(length)) {
        // SAFETY: plain call.
        unsafe { libc::posix_fadvise64(fd, offset, length, libc::POSIX_FADV_WILLNEED) };
    }
}

/// Has the kernel begin to write a file's contents to the disk. Nothing depends on it, and nothing is durable by it.
pub fn begin_to_write_out(fd: RawFd) {
    // SAFETY: plain call.
    unsafe { libc::sync_file_range(fd, 0, 0, libc::SYNC_FILE_RANGE_WRITE) };
}

/// fstatvfs(3).
pub fn statvfs(fd: RawFd) -> io::Result<libc::statvfs64> {
    let mut st = std::mem::MaybeUninit::<libc::statvfs64>::uninit();
    // SAFETY: the kernel fills `st` when the call succeeds.
    check(unsafe { libc::fstatvfs64(fd, st.as_mut_ptr()) })?;
    // SAFETY: filled above.
    Ok(unsafe { st.assume_init() })
}

/// Sets an extended attribute through an `O_PATH` descriptor.
pub fn set_xattr(fd: RawFd, name: &CStr, value: &[u8], flags: i32) -> io::Result<()> {
    // SAFETY: all pointers are valid for the call.
    check(unsafe { libc::setxattr(proc_path(fd).as_ptr(), name.as_ptr(), value.as_ptr().cast(), value.len(), flags) }).map(drop)
}

/// Removes an extended attribute.
pub fn remove_xattr(fd: RawFd, name: &CStr) -> io::Result<()> {
    // SAFETY: both strings are valid for the call.
    check(unsafe { libc::removexattr(proc_path(fd).as_ptr(), name.as_ptr()) }).map(drop)
}

/// Value of an extended attribute.
pub fn get_xattr(fd: RawFd, name: &CStr) -> io::Result<Vec<u8>> {
    let path = proc_path(fd);
    let mut buf = vec![0u8; 256];
    loop {
        // SAFETY: the buffer is as long as told.
        match check_size(unsafe { libc::getxattr(path.as_ptr(), name.as_ptr(), buf.as_mut_ptr().cast(), buf.len()) }) {
            Ok(n) => {
                buf.truncate(n);
                return Ok(buf);
            }
            Err(e) if e.raw_os_error() == Some(libc::ERANGE) && buf.len() < XATTR_BYTES_MAX => buf.resize(XATTR_BYTES_MAX, 0),
            Err(e) => return Err(e),
        }
    }
}

/// Names of the extended attributes, each ended by NUL; without this node's own mark ([`identity`]).
pub fn list_xattr(fd: RawFd) -> io::Result<Vec<u8>> {
    let mut names = list_all_xattr(fd)?;
    if names.split(|b| *b == 0).any(identity::is_mark) {
        names = names
            .split_inclusive(|b| *b == 0)
            .filter(|n| !identity::is_mark(n.strip_suffix(b"\0").unwrap_or(n)))
            .flatten()
            .copied()
            .collect();
    }
    Ok(names)
}

fn list_all_xattr(fd: RawFd) -> io::Result<Vec<u8>> {
    let path = proc_path(fd);
    let mut buf = vec![0u8; 512];
    loop {
        // SAFETY: the buffer is as long as told.
        match check_size(unsafe { libc::listxattr(path.as_ptr(), buf.as_mut_ptr().cast(), buf.len()) }) {
            Ok(n) => {
                buf.truncate(n);
                return Ok(buf);
            }
            Err(e) if e.raw_os_error() == Some(libc::ERANGE) && buf.len() < XATTR_BYTES_MAX => buf.resize(XATTR_BYTES_MAX, 0),
            Err(e) => return Err(e),
        }
    }
}

/// Extended attributes that hold the POSIX access lists: an object's own, and what a directory hands down.
pub const ACLS: [&CStr; 2] = [ACL, ACL_DEFAULT];
const ACL: &CStr = c"system.posix_acl_access";
/// What a directory hands down to what is created in it.
pub const ACL_DEFAULT: &CStr = c"system.posix_acl_default";

/// The access lists of an object.
pub fn acls(fd: RawFd) -> Vec<Xattr> {
    // One that cannot be read is one that is not there, or a file system without them.
    ACLS.iter().filter_map(|name| Some((name.to_bytes().to_vec(), get_xattr(fd, name).ok()?))).collect()
}

/// Name and value of one extended attribute.
pub type Xattr = (Vec<u8>, Vec<u8>);

/// All extended attributes, sorted by name. A file system without them has none.
pub fn xattrs(fd: RawFd) -> io::Result<Vec<Xattr>> {
    let names = match list_xattr(fd) {
        Ok(names) => names,
        Err(e) if matches!(e.raw_os_error(), Some(libc::EOPNOTSUPP | libc::EPERM)) => return Ok(Vec::new()),
        Err(e) => return Err(e),
    };
    let mut all = Vec::new();
    for name in names.split(|b| *b == 0).filter(|n| !n.is_empty()) {
        match get_xattr(fd, &cstr(name)?) {
            Ok(value) => all.push((name.to_vec(), value)),
            // Removed between the two calls.
            Err(e) if e.raw_os_error() == Some(libc::ENODATA) => {}
            Err(e) => return Err(e),
        }
    }
    all.sort();
    Ok(all)
}

/// One name in a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirName {
    /// The name.
    pub name: Vec<u8>,
    /// Inode number.
    pub ino: u64,
    /// `DT_*` type, 0 if the file system does not tell.
    pub kind: u8,
    /// Position after this name, for `read_dir_from`.
    pub next: i64,
}

/// Names of an open directory after a position (0 = beginning), as many as one call gives; empty at the end.
/// The descriptor's position is shared: the caller keeps others away meanwhile.
pub fn read_dir_from(fd: RawFd, position: i64) -> io::Result<Vec<DirName>> {
    match read_dir_raw(fd, position) {
        // A removed directory has no names; file systems say so in different ways.
        Err(e) if matches!(e.raw_os_error(), Some(libc::ENOENT | libc::EINVAL)) && fstat(fd)?.st_nlink == 0 => Ok(Vec::new()),
        result => result,
    }
}

fn read_dir_raw(fd: RawFd, position: i64) -> io::Result<Vec<DirName>> {
    // Enough for about a thousand names per call.
    let mut buf = vec![0u8; 64 * 1024];
    seek(fd, position, libc::SEEK_SET)?;
    // SAFETY: the buffer is as long as told.
    let got = unsafe { libc::syscall(libc::SYS_getdents64, fd, buf.as_mut_ptr(), buf.len()) };
    let got = usize::try_from(got).map_err(|_| io::Error::last_os_error())?;
    let mut names = Vec::new();
    let mut at = 0;
    // struct linux_dirent64: u64 ino, i64 next, u16 length, u8 type, name, NUL.
    while at + 19 <= got {
        let record = &buf[at..got];
        let ino = u64::from_ne_bytes(record[0..8].try_into().expect("eight bytes"));
        let next = i64::from_ne_bytes(record[8..16].try_into().expect("eight bytes"));
        let length = usize::from(u16::from_ne_bytes(record[16..18].try_into().expect("two bytes")));
        if length < 19 || length > record.len() {
            return Err(errno(libc::EIO));
        }
        let text = &record[19..length];
        let end = text.iter().position(|b| *b == 0).unwrap_or(text.len());
        names.push(DirName { name: text[..end].to_vec(), ino, kind: record[18], next });
        at += length;
    }
    Ok(names)
}

/// Not there, or another kind of object.
pub fn is_gone(e: &io::Error) -> bool {
    matches!(e.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR | libc::ESTALE | libc::ELOOP | libc::ENXIO | libc::EISDIR))
}

/// A path with one more name.
pub fn join(path: &[u8], name: &[u8]) -> Vec<u8> {
    if path.is_empty() { name.to_vec() } else { [path, b"/", name].concat() }
}

/// All names of a directory but `.` and `..`, sorted. `dir` may be `O_PATH`.
pub fn list_dir(dir: RawFd) -> io::Result<Vec<DirName>> {
    let open = match openat(dir, c".", libc::O_RDONLY | libc::O_DIRECTORY, 0) {
        Err(e) if e.raw_os_error() == Some(libc::ENOENT) && fstat(dir)?.st_nlink == 0 => return Ok(Vec::new()),
        result => result?,
    };
    let mut all = Vec::new();
    let mut position = 0;
    loop {
        let some = read_dir_from(open.as_raw_fd(), position)?;
        let Some(last) = some.last() else { break };
        position = last.next;
        all.extend(some.into_iter().filter(|n| n.name != b"." && n.name != b".."));
    }
    all.sort_by(|a, b| a.name.cmp(&b.name));
    all.dedup_by(|a, b| a.name == b.name);
    Ok(all)
}

/// Removes a name and everything below it.
pub fn remove_tree(dir: RawFd, name: &CStr) -> io::Result<()> {
    let st = stat_at(dir, name)?;
    if kind(&st) != libc::S_IFDIR {
        return unlinkat(dir, name, 0);
    }
    let sub = openat(dir, name, libc::O_RDONLY | libc::O_DIRECTORY | libc::O_NOFOLLOW, 0)?;
    for entry in list_dir(sub.as_raw_fd())? {
        remove_tree(sub.as_raw_fd(), &cstr(&entry.name)?)?;
    }
    unlinkat(dir, name, libc::AT_REMOVEDIR)
}

/// How many descriptors this process may have.
pub fn descriptors_max() -> u64 {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the structure lives for the call.
    unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) };
    limit.rlim_cur
}

/// `CLOCK_BOOTTIME` in nanoseconds: the clock of every deadline.
pub fn boottime_ns() -> u64 {
    let mut ts = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the kernel fills `ts`; the clock exists since Linux 2.6.39.
    unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &raw mut ts) };
    u64::try_from(ts.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(ts.tv_nsec).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_before_1970_survive_the_round_trip() {
        for t in [Time { s: -1, ns: 0 }, Time { s: -2, ns: 999_999_999 }, Time { s: 0, ns: 1 }, Time { s: 1_700_000_000, ns: 5 }] {
            assert_eq!(Time::from_system(t.system()), t);
        }
    }

    #[test]
    fn open_beneath_does_not_leave_the_tree() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("in")).unwrap();
        std::os::unix::fs::symlink("/etc", dir.path().join("in/out")).unwrap();
        let root = openat(libc::AT_FDCWD, &cstr(dir.path().as_os_str().as_encoded_bytes()).unwrap(), libc::O_PATH, 0).unwrap();
        assert!(open_beneath(root.as_raw_fd(), b"in/out/passwd", libc::O_RDONLY).is_err());
        assert!(open_beneath(root.as_raw_fd(), b"../x", libc::O_RDONLY).is_err());
        let link = open_beneath(root.as_raw_fd(), b"in/out", libc::O_PATH | libc::O_NOFOLLOW).unwrap();
        assert_eq!(readlink_fd(link.as_raw_fd()).unwrap(), b"/etc");
    }
}
