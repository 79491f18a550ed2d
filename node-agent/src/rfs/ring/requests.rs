//! Requests of the ring translated to the file system and back: what [`super::super::fuse`] is for the device. Nothing is
//! decided here.
//!
//! Whoever asks waits: an answer that needs the peer's acknowledgement keeps its thread, of which there are more when
//! they are needed ([`super`]).

use super::super::frame;
use super::super::fs::{New, Removal, Shipped, StripSetId, Volume, now};
use super::super::fuse::{BLOCK_SIZE, NAME_MAX, TTL};
use super::super::volume::{self, DirName, Stat, Sync, Time};
use super::abi::{self, Attr, AttrOut, CreateOut, EntryOut, OpenOut, RequestHeader, XattrOut, opcode, set};
use std::ffi::CStr;
use std::io;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// One request, and the room for its answer.
pub struct Request<'a> {
    /// Who asks, and what.
    pub header: &'a RequestHeader,
    /// The fixed part.
    pub op: &'a [u8],
    /// Names or data; the answer replaces them. As long as the largest of either.
    pub payload: &'a mut [u8],
    /// Bytes of the payload that are the request's.
    pub len: usize,
}

/// Serves one request: the length of the answer, which is in the payload.
pub fn serve(volume: &Volume, request: Request<'_>) -> io::Result<usize> {
    let Request { header, op, payload, len } = request;
    let node = header.node;
    let sent = payload.get(..len).ok_or_else(|| volume::errno(libc::EIO))?;
    match header.opcode {
        opcode::LOOKUP => {
            let (_, st) = volume.lookup(node, name(sent)?)?;
            put(payload, &entry(&st))
        }
        opcode::GETATTR => {
            let st = volume.getattr(node)?;
            put(payload, &attributes(node, &st))
        }
        opcode::SETATTR => {
            let asked: abi::SetAttr = fixed(op)?;
            let strip = (asked.valid & set::SIZE != 0 && header.uid != 0).then_some(StripSetId);
            let fh = (asked.valid & set::FH != 0).then_some(asked.fh);
            let st = done(volume, volume.setattr(node, fh, &changed(&asked), strip))?;
            put(payload, &attributes(node, &st))
        }
        opcode::READLINK => put_bytes(payload, &volume.readlink(node)?),
        opcode::MKNOD => {
            let asked: abi::MakeNode = fixed(op)?;
            let new =
                New { mode: asked.mode, umask: asked.umask, rdev: u64::from(asked.rdev), target: &[], uid: header.uid, gid: header.gid };
            let st = make(volume, node, name(sent)?, &new)?;
            put(payload, &entry(&st))
        }
        opcode::MKDIR => {
            let asked: abi::MakeDir = fixed(op)?;
            let mode = (asked.mode & 0o7777) | libc::S_IFDIR;
            let new = New { mode, umask: asked.umask, rdev: 0, target: &[], uid: header.uid, gid: header.gid };
            let st = make(volume, node, name(sent)?, &new)?;
            put(payload, &entry(&st))
        }
        opcode::SYMLINK => {
            let (name, target) = two_names(sent)?;
            let target = target.to_bytes();
            let new = New { mode: libc::S_IFLNK | 0o777, umask: 0, rdev: 0, target, uid: header.uid, gid: header.gid };
            let st = make(volume, node, name, &new)?;
            put(payload, &entry(&st))
        }
        opcode::UNLINK => nothing(done(volume, volume.unlink(node, name(sent)?, Removal::File))),
        opcode::RMDIR => nothing(done(volume, volume.unlink(node, name(sent)?, Removal::Directory))),
        opcode::RENAME => {
            let asked: abi::Rename = fixed(op)?;
            let (from, to) = two_names(sent)?;
            nothing(done(volume, volume.rename(node, from, asked.to, to, 0)))
        }
        opcode::RENAME2 => {
            let asked: abi::RenameFlags = fixed(op)?;
            let (from, to) = two_names(sent)?;
            nothing(done(volume, volume.rename(node, from, asked.to, to, asked.flags)))
        }
        opcode::LINK => {
            let asked: abi::Link = fixed(op)?;
            let (_, st) = done(volume, volume.link(asked.node, node, name(sent)?))?;
            put(payload, &entry(&st))
        }
        opcode::OPEN => {
            let asked: abi::Open = fixed(op)?;
            let fh = volume.open(node, asked.flags)?;
            put(payload, &opened(fh))
        }
        opcode::CREATE => {
            let asked: abi::Create = fixed(op)?;
            let mode = (asked.mode & 0o7777) | libc::S_IFREG;
            let new = New { mode, umask: asked.umask, rdev: 0, target: &[], uid: header.uid, gid: header.gid };
            let (_, st, fh) = done(volume, volume.create(node, name(sent)?, &new, Some(asked.flags)))?;
            put(payload, &CreateOut { entry: entry(&st), open: opened(fh) })
        }
        opcode::READ => {
            let asked: abi::Read = fixed(op)?;
            let room = payload.get_mut(..asked.size as usize).ok_or_else(|| volume::errno(libc::EINVAL))?;
            volume.read(asked.fh, room, asked.offset)
        }
        opcode::WRITE => {
            let asked: abi::Write = fixed(op)?;
            let data = sent.get(..asked.size as usize).ok_or_else(|| volume::errno(libc::EINVAL))?;
            let strip = (asked.write_flags & abi::WRITE_KILL_SUIDGID != 0).then_some(StripSetId);
            done(volume, volume.write(asked.fh, asked.offset, data, strip))?;
            put(payload, &abi::WriteOut { size: asked.size, padding: 0 })
        }
        opcode::RELEASE => {
            let asked: abi::Release = fixed(op)?;
            volume.release(asked.fh);
            Ok(0)
        }
        opcode::FSYNC => {
            let asked: abi::Fsync = fixed(op)?;
            nothing(done(volume, volume.fsync(asked.fh, how(&asked))))
        }
        opcode::OPENDIR => {
            let fh = volume.opendir(node)?;
            put(payload, &OpenOut { fh, flags: 0, backing: 0 })
        }
        opcode::READDIR => {
            let asked: abi::Read = fixed(op)?;
            let names = volume.readdir(asked.fh, asked.offset.cast_signed())?;
            Ok(Listing::new(payload, asked.size).all(names))
        }
        opcode::READDIRPLUS => {
            let asked: abi::Read = fixed(op)?;
            let names = volume.readdir(asked.fh, asked.offset.cast_signed())?;
            Ok(Listing::new(payload, asked.size).all_with_attributes(volume, node, names))
        }
        opcode::RELEASEDIR => {
            let asked: abi::Release = fixed(op)?;
            volume.releasedir(asked.fh);
            Ok(0)
        }
        opcode::FSYNCDIR => {
            let asked: abi::Fsync = fixed(op)?;
            nothing(done(volume, volume.fsyncdir(asked.fh, how(&asked))))
        }
        opcode::STATFS => {
            let s = volume.statfs()?;
            let block_size = u32::try_from(s.f_bsize).unwrap_or(BLOCK_SIZE);
            let answer = abi::StatfsOut {
                blocks: s.f_blocks,
                free: s.f_bfree,
                available: s.f_bavail,
                files: s.f_files,
                files_free: s.f_ffree,
                block_size,
                name_max: u32::try_from(s.f_namemax).unwrap_or(NAME_MAX),
                fragment_size: u32::try_from(s.f_frsize).unwrap_or(BLOCK_SIZE),
                padding: 0,
                spare: [0; 6],
            };
            put(payload, &answer)
        }
        opcode::SETXATTR => {
            let asked: abi::SetXattr = fixed(op)?;
            let name = name(sent)?;
            let from = name.to_bytes_with_nul().len();
            let value = sent.get(from..from + asked.size as usize).ok_or_else(|| volume::errno(libc::EINVAL))?;
            nothing(done(volume, volume.setxattr(node, name, value, asked.flags)))
        }
        opcode::GETXATTR => {
            let asked: abi::GetXattr = fixed(op)?;
            let value = volume.getxattr(node, name(sent)?)?;
            sized(payload, &value, asked.size)
        }
        opcode::LISTXATTR => {
            let asked: abi::GetXattr = fixed(op)?;
            sized(payload, &volume.listxattr(node)?, asked.size)
        }
        opcode::REMOVEXATTR => nothing(done(volume, volume.removexattr(node, name(sent)?))),
        opcode::FALLOCATE => {
            let asked: abi::Allocate = fixed(op)?;
            let strip = (header.uid != 0).then_some(StripSetId);
            nothing(done(volume, volume.fallocate(asked.fh, asked.mode, asked.offset, asked.length, strip)))
        }
        opcode::LSEEK => {
            let asked: abi::Seek = fixed(op)?;
            let at = volume.lseek(asked.fh, asked.offset, asked.whence)?;
            put(payload, &abi::SeekOut { offset: at.cast_unsigned() })
        }
        opcode::DESTROY => Ok(0),
        // FLUSH and ACCESS among them, as over the device: the kernel does not ask for them again.
        _ => Err(volume::errno(libc::ENOSYS)),
    }
}

/// Waits until it may be answered.
fn done<T>(volume: &Volume, shipped: Shipped<T>) -> io::Result<T> {
    let (value, ticket) = shipped?;
    volume.ship().settle(ticket).map_err(volume::errno)?;
    Ok(value)
}

fn make(volume: &Volume, parent: u64, name: &CStr, new: &New<'_>) -> io::Result<Stat> {
    let (_, st, _) = done(volume, volume.create(parent, name, new, None))?;
    Ok(st)
}

fn nothing(result: io::Result<()>) -> io::Result<usize> {
    result.map(|()| 0)
}

fn fixed<T: FromBytes + KnownLayout + Immutable>(op: &[u8]) -> io::Result<T> {
    T::read_from_prefix(op).map(|(asked, _)| asked).map_err(|_| volume::errno(libc::EIO))
}

fn name(sent: &[u8]) -> io::Result<&CStr> {
    CStr::from_bytes_until_nul(sent).map_err(|_| volume::errno(libc::EINVAL))
}

fn two_names(sent: &[u8]) -> io::Result<(&CStr, &CStr)> {
    let first = name(sent)?;
    Ok((first, name(&sent[first.to_bytes_with_nul().len()..])?))
}

fn put<T: IntoBytes + Immutable>(payload: &mut [u8], answer: &T) -> io::Result<usize> {
    put_bytes(payload, answer.as_bytes())
}

fn put_bytes(payload: &mut [u8], answer: &[u8]) -> io::Result<usize> {
    payload.get_mut(..answer.len()).ok_or_else(|| volume::errno(libc::EIO))?.copy_from_slice(answer);
    Ok(answer.len())
}

/// An extended attribute, or its size, if that is asked for.
fn sized(payload: &mut [u8], value: &[u8], room: u32) -> io::Result<usize> {
    match room {
        0 => put(payload, &XattrOut { size: u32::try_from(value.len()).unwrap_or(u32::MAX), padding: 0 }),
        room if value.len() > room as usize => Err(volume::errno(libc::ERANGE)),
        _ => put_bytes(payload, value),
    }
}

fn entry(st: &Stat) -> EntryOut {
    let valid = TTL.as_secs();
    EntryOut {
        node: st.st_ino,
        generation: 0,
        entry_valid: valid,
        attr_valid: valid,
        entry_valid_ns: 0,
        attr_valid_ns: 0,
        attr: Attr::of(st.st_ino, st),
    }
}

fn attributes(node: u64, st: &Stat) -> AttrOut {
    AttrOut { valid: TTL.as_secs(), valid_ns: 0, padding: 0, attr: Attr::of(node, st) }
}

fn opened(fh: u64) -> OpenOut {
    OpenOut { fh, flags: abi::OPEN_KEEP_CACHE | abi::OPEN_NOFLUSH, backing: 0 }
}

fn how(asked: &abi::Fsync) -> Sync {
    if asked.flags & abi::FSYNC_DATA != 0 { Sync::Data } else { Sync::All }
}

fn changed(asked: &abi::SetAttr) -> frame::Attr {
    let is = |bit| asked.valid & bit != 0;
    let time = |bit, present, s, ns| is(bit).then(|| if is(present) { now() } else { Time { s, ns } });
    frame::Attr {
        mode: is(set::MODE).then_some(asked.mode),
        uid: is(set::UID).then_some(asked.uid),
        gid: is(set::GID).then_some(asked.gid),
        size: is(set::SIZE).then_some(asked.size),
        atime: time(set::ATIME, set::ATIME_NOW, asked.atime, asked.atime_ns),
        mtime: time(set::MTIME, set::MTIME_NOW, asked.mtime, asked.mtime_ns),
    }
}

/// Names of a directory, one after the other, as many as there is room for.
struct Listing<'a> {
    room: &'a mut [u8],
    used: usize,
}

impl<'a> Listing<'a> {
    fn new(payload: &'a mut [u8], size: u32) -> Self {
        let room = payload.len().min(size as usize);
        Self { room: &mut payload[..room], used: 0 }
    }

    fn all(mut self, names: Vec<DirName>) -> usize {
        for n in names {
            if !self.add(&[], n.ino, &n) {
                break;
            }
        }
        self.used
    }

    fn all_with_attributes(mut self, volume: &Volume, dir: u64, names: Vec<DirName>) -> usize {
        for n in names {
            // The kernel takes no lookup for these two.
            if n.name == b"." || n.name == b".." {
                let Ok(st) = volume.getattr(dir) else { continue };
                let own = EntryOut { node: n.ino, attr: Attr::of(n.ino, &st), ..entry(&st) };
                if !self.add(own.as_bytes(), n.ino, &n) {
                    break;
                }
                continue;
            }
            let Ok((inode, st)) = volume::cstr(&n.name).and_then(|c| volume.lookup(dir, &c)) else { continue };
            if !self.add(entry(&st).as_bytes(), inode.id, &n) {
                // Not taken: the lookup does not count.
                volume.forget(inode.id, 1);
                break;
            }
        }
        self.used
    }

    /// False: there is no room for it.
    fn add(&mut self, attributes: &[u8], ino: u64, name: &DirName) -> bool {
        let len = u32::try_from(name.name.len()).unwrap_or(u32::MAX);
        let head = abi::Name { ino, next: name.next.cast_unsigned(), len, kind: u32::from(name.kind) };
        let total = attributes.len() + size_of::<abi::Name>() + name.name.len();
        let Some(room) = self.room.get_mut(self.used..self.used + total.next_multiple_of(8)) else { return false };
        let mut at = 0;
        for part in [attributes, head.as_bytes(), &name.name] {
            room[at..at + part.len()].copy_from_slice(part);
            at += part.len();
        }
        room[at..].fill(0);
        self.used += room.len();
        true
    }
}
