//! What the kernel and a FUSE file system write for each other, as far as it is used here (`include/uapi/linux/fuse.h`;
//! io_uring came with protocol 7.42).

use super::super::fuse::BLOCK_SIZE;
use super::super::volume::{self, Stat, Time};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Operations.
pub mod opcode {
    pub const LOOKUP: u32 = 1;
    pub const GETATTR: u32 = 3;
    pub const SETATTR: u32 = 4;
    pub const READLINK: u32 = 5;
    pub const SYMLINK: u32 = 6;
    pub const MKNOD: u32 = 8;
    pub const MKDIR: u32 = 9;
    pub const UNLINK: u32 = 10;
    pub const RMDIR: u32 = 11;
    pub const RENAME: u32 = 12;
    pub const LINK: u32 = 13;
    pub const OPEN: u32 = 14;
    pub const READ: u32 = 15;
    pub const WRITE: u32 = 16;
    pub const STATFS: u32 = 17;
    pub const RELEASE: u32 = 18;
    pub const FSYNC: u32 = 20;
    pub const SETXATTR: u32 = 21;
    pub const GETXATTR: u32 = 22;
    pub const LISTXATTR: u32 = 23;
    pub const REMOVEXATTR: u32 = 24;
    pub const OPENDIR: u32 = 27;
    pub const READDIR: u32 = 28;
    pub const RELEASEDIR: u32 = 29;
    pub const FSYNCDIR: u32 = 30;
    pub const CREATE: u32 = 35;
    pub const DESTROY: u32 = 38;
    pub const FALLOCATE: u32 = 43;
    pub const READDIRPLUS: u32 = 44;
    pub const RENAME2: u32 = 45;
    pub const LSEEK: u32 = 46;
}

/// `FUSE_WRITE_KILL_SUIDGID`.
pub const WRITE_KILL_SUIDGID: u32 = 1 << 2;
/// `FUSE_FSYNC_FDATASYNC`.
pub const FSYNC_DATA: u32 = 1;
/// `FOPEN_KEEP_CACHE`.
pub const OPEN_KEEP_CACHE: u32 = 1 << 1;
/// `FOPEN_NOFLUSH`.
pub const OPEN_NOFLUSH: u32 = 1 << 5;

/// Which attributes are set: `FATTR_*`.
pub mod set {
    pub const MODE: u32 = 1 << 0;
    pub const UID: u32 = 1 << 1;
    pub const GID: u32 = 1 << 2;
    pub const SIZE: u32 = 1 << 3;
    pub const ATIME: u32 = 1 << 4;
    pub const MTIME: u32 = 1 << 5;
    pub const FH: u32 = 1 << 6;
    pub const ATIME_NOW: u32 = 1 << 7;
    pub const MTIME_NOW: u32 = 1 << 8;
}

/// `FUSE_IO_URING_CMD_REGISTER`: an entry is there, with room for a request.
pub const REGISTER: u32 = 1;
/// `FUSE_IO_URING_CMD_COMMIT_AND_FETCH`: the answer is in the entry, and the next request may come into it.
pub const COMMIT_AND_FETCH: u32 = 2;

/// `struct fuse_uring_req_header`: where a request arrives and its answer leaves, beside its payload.
#[derive(Debug, Clone, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Entry {
    /// A [`RequestHeader`], and later a [`ReplyHeader`].
    pub in_out: [u8; 128],
    /// The fixed part of a request.
    pub op: [u8; 128],
    pub flags: u64,
    /// Which request is answered.
    pub commit: u64,
    /// Bytes of the payload.
    pub payload: u32,
    pub padding: u32,
    pub reserved: u64,
}

/// `struct fuse_uring_cmd_req`, and what is left of its 80 bytes.
#[derive(Debug, IntoBytes, Immutable)]
#[repr(C)]
pub struct Command {
    pub flags: u64,
    pub commit: u64,
    pub queue: u16,
    pub rest: [u8; 62],
}

#[derive(Debug, Clone, FromBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct RequestHeader {
    pub len: u32,
    pub opcode: u32,
    pub unique: u64,
    pub node: u64,
    pub uid: u32,
    pub gid: u32,
    pub pid: u32,
    pub extensions: u16,
    pub padding: u16,
}

#[derive(Debug, IntoBytes, Immutable)]
#[repr(C)]
pub struct ReplyHeader {
    /// With this header.
    pub len: u32,
    /// 0, or an error number made negative.
    pub error: i32,
    pub unique: u64,
}

/// Structures of requests.
macro_rules! incoming {
    ($($(#[$doc:meta])* $name:ident { $($field:ident: $kind:ty),* $(,)? })*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, FromBytes, KnownLayout, Immutable)]
        #[repr(C)]
        pub struct $name { $(pub $field: $kind),* }
    )*};
}

incoming! {
    SetAttr {
        valid: u32, padding: u32, fh: u64, size: u64, lock_owner: u64, atime: i64, mtime: i64, ctime: i64,
        atime_ns: u32, mtime_ns: u32, ctime_ns: u32, mode: u32, unused: u32, uid: u32, gid: u32, unused_too: u32,
    }
    MakeNode { mode: u32, rdev: u32, umask: u32, padding: u32 }
    MakeDir { mode: u32, umask: u32 }
    Rename { to: u64 }
    RenameFlags { to: u64, flags: u32, padding: u32 }
    Link { node: u64 }
    Open { flags: i32, open_flags: u32 }
    Create { flags: i32, mode: u32, umask: u32, open_flags: u32 }
    /// Of READ, READDIR and READDIRPLUS.
    Read { fh: u64, offset: u64, size: u32, read_flags: u32, lock_owner: u64, flags: u32, padding: u32 }
    Write { fh: u64, offset: u64, size: u32, write_flags: u32, lock_owner: u64, flags: u32, padding: u32 }
    Release { fh: u64, flags: u32, release_flags: u32, lock_owner: u64 }
    Fsync { fh: u64, flags: u32, padding: u32 }
    /// Without `FUSE_SETXATTR_EXT`.
    SetXattr { size: u32, flags: i32 }
    GetXattr { size: u32, padding: u32 }
    Allocate { fh: u64, offset: u64, length: u64, mode: i32, padding: u32 }
    Seek { fh: u64, offset: i64, whence: i32, padding: u32 }
}

/// Structures of answers.
macro_rules! outgoing {
    ($($name:ident { $($field:ident: $kind:ty),* $(,)? })*) => {$(
        #[derive(Debug, Clone, IntoBytes, Immutable)]
        #[repr(C)]
        pub struct $name { $(pub $field: $kind),* }
    )*};
}

outgoing! {
    Attr {
        ino: u64, size: u64, blocks: u64, atime: i64, mtime: i64, ctime: i64, atime_ns: u32, mtime_ns: u32, ctime_ns: u32,
        mode: u32, nlink: u32, uid: u32, gid: u32, rdev: u32, block_size: u32, flags: u32,
    }
    EntryOut { node: u64, generation: u64, entry_valid: u64, attr_valid: u64, entry_valid_ns: u32, attr_valid_ns: u32, attr: Attr }
    AttrOut { valid: u64, valid_ns: u32, padding: u32, attr: Attr }
    OpenOut { fh: u64, flags: u32, backing: i32 }
    CreateOut { entry: EntryOut, open: OpenOut }
    WriteOut { size: u32, padding: u32 }
    XattrOut { size: u32, padding: u32 }
    SeekOut { offset: u64 }
    StatfsOut {
        blocks: u64, free: u64, available: u64, files: u64, files_free: u64, block_size: u32, name_max: u32, fragment_size: u32,
        padding: u32, spare: [u32; 6],
    }
    Name { ino: u64, next: u64, len: u32, kind: u32 }
}

impl Attr {
    /// Of this file, known by this number.
    pub fn of(ino: u64, st: &Stat) -> Self {
        let (atime, mtime) = (volume::atime(st), volume::mtime(st));
        let ctime = Time { s: st.st_ctime, ns: u32::try_from(st.st_ctime_nsec).unwrap_or(0) };
        Self {
            ino,
            size: u64::try_from(st.st_size).unwrap_or(0),
            blocks: u64::try_from(st.st_blocks).unwrap_or(0),
            atime: atime.s,
            mtime: mtime.s,
            ctime: ctime.s,
            atime_ns: atime.ns,
            mtime_ns: mtime.ns,
            ctime_ns: ctime.ns,
            mode: st.st_mode,
            nlink: u32::try_from(st.st_nlink).unwrap_or(u32::MAX),
            uid: st.st_uid,
            gid: st.st_gid,
            rdev: u32::try_from(st.st_rdev).unwrap_or(0),
            block_size: BLOCK_SIZE,
            flags: 0,
        }
    }
}

const _: () = {
    assert!(size_of::<Entry>() == 288);
    assert!(size_of::<Command>() == 80);
    assert!(size_of::<RequestHeader>() == 40);
    assert!(size_of::<ReplyHeader>() == 16);
    assert!(size_of::<SetAttr>() == 88);
    assert!(size_of::<Read>() == 40 && size_of::<Write>() == 40);
    assert!(size_of::<Attr>() == 88 && size_of::<EntryOut>() == 128 && size_of::<AttrOut>() == 104);
    assert!(size_of::<StatfsOut>() == 80);
};
