//! What travels between the two data processes, and how it is framed.
//!
//! A frame is `length · crc32c · epoch · session · lsn · length of the message · message (postcard) · data`, all
//! numbers little endian. Contents of files travel in `data`, so that they are never copied through a serialiser. The highest
//! bit of the message's length says that they are compressed (see [`super::compress`]).

use super::activity::Suspect;
use super::compress;
use super::level::Level;
use super::look::{Look, Seen};
use super::volume::{Sync, Time, Xattr};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::io;
use tsugi_core::ids::LifeId;

/// Version of the frames and messages; both ends must speak the same.
pub const VERSION: u32 = 6;
/// Larger frames are a broken peer: the largest honest one is a write of 1 MiB or a piece of a directory.
pub const FRAME_BYTES_MAX: usize = 16 << 20;
/// Length and checksum before the part they cover.
const PREFIX: usize = 8;
/// Epoch, session, lsn, length of the message.
const HEADER: usize = 28;
/// In the length of the message, which is far shorter: the data is compressed.
const COMPRESSED: u32 = 1 << 31;

/// A file within a session: the directory's index and the source's inode number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Fid {
    /// Index of the replicated directory.
    pub dir: u16,
    /// Inode number at the source; 1 is the root of the directory.
    pub id: u64,
}

/// Attributes to set; absent ones stay.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Attr {
    /// Permission bits.
    pub mode: Option<u32>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Length in bytes.
    pub size: Option<u64>,
    /// Access time.
    pub atime: Option<Time>,
    /// Modification time.
    pub mtime: Option<Time>,
}

/// Owner, permissions and times of an object, whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Meta {
    /// Type and permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Modification time.
    pub mtime: Time,
    /// Extended attributes, sorted.
    pub xattrs: Vec<Xattr>,
}

/// One operation of the live stream. Those that change names say the directory's modification time after it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Op {
    /// From now on `fid` is the object at this path (relative to its directory; empty = the directory).
    Bind { fid: Fid, path: Vec<u8> },
    /// `fid` is not named any more.
    Unbind { fid: Fid },
    /// Write the frame's data.
    Write { fid: Fid, offset: u64 },
    /// Set attributes.
    Attr { fid: Fid, attr: Attr },
    /// A new file, directory, link or device node; `fid` names it from now on. `acl`: the access lists it has, where the
    /// directory hands some down.
    Create {
        fid: Fid,
        parent: Fid,
        name: Vec<u8>,
        mode: u32,
        uid: u32,
        gid: u32,
        rdev: u64,
        mtime: Time,
        target: Vec<u8>,
        acl: Option<Vec<Xattr>>,
        dir_mtime: Time,
    },
    /// A further name.
    Link { fid: Fid, parent: Fid, name: Vec<u8>, dir_mtime: Time },
    /// Remove a name.
    Unlink { parent: Fid, name: Vec<u8>, dir: bool, dir_mtime: Time },
    /// renameat2(2).
    Rename { from: Fid, name: Vec<u8>, to: Fid, new: Vec<u8>, flags: u32, from_mtime: Time, to_mtime: Time },
    /// fallocate(2).
    Allocate { fid: Fid, mode: i32, offset: u64, length: u64 },
    /// Set an extended attribute (always replaces).
    SetXattr { fid: Fid, name: Vec<u8>, value: Vec<u8> },
    /// Remove an extended attribute.
    RemoveXattr { fid: Fid, name: Vec<u8> },
    /// Flush; answered by `Durable`.
    Fsync { fid: Fid, sync: Sync, mtime: Option<Time> },
    /// The source's activity log has so many entries since the base; what is in them follows.
    Logged { count: u64 },
    /// Flush everything, whatever an fsync means here, and write down that this was done; answered by `Durable`.
    Checkpoint,
}

/// One name of a directory, as the source has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The name.
    pub name: Vec<u8>,
    /// Attributes.
    pub meta: Meta,
    /// Inode number at the source.
    pub ino: u64,
    /// Number of names.
    pub nlink: u64,
    /// Device number of a device node.
    pub rdev: u64,
    /// Target of a symbolic link.
    pub target: Vec<u8>,
    /// A further name of a file sent under another one: a `SyncMsg::Link` follows.
    pub linked: bool,
}

/// Stands for the hash of a block that is a hole. No contents have it.
pub const HOLE: [u8; 32] = [0; 32];

/// Contents of a part of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Fill {
    /// The frame's data.
    Data,
    /// So many zeros, which take room.
    Zeros(u64),
    /// So many zeros that take none.
    Hole(u64),
}

/// Messages of the resynchronisation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum SyncMsg {
    /// A directory: what it has of the names in `only` (of all names if absent); what of these it does not name is removed
    /// when `last` is set.
    Dir { dir: u16, path: Vec<u8>, meta: Meta, entries: Vec<Entry>, only: Option<BTreeSet<Vec<u8>>>, last: bool },
    /// Two names of one file.
    Link { dir: u16, path: Vec<u8>, same_as: Vec<u8> },
    /// A file's contents follow, as hashes or data. `asks`: answered by `Fresh` or `Kept`.
    File { id: u64, dir: u16, path: Vec<u8>, ino: u64, size: u64, asks: bool },
    /// Target to source: it has no data in this file, or not the file; hashes are of no use.
    Fresh { id: u64 },
    /// Target to source: it has some.
    Kept { id: u64 },
    /// Hashes of blocks, [`HOLE`] where there is nothing; answered by `Need`.
    Hashes { id: u64, blocks: Vec<(u64, [u8; 32])> },
    /// Blocks of `Hashes` that differ at the target.
    Need { id: u64, blocks: Vec<u64> },
    /// What is at this offset.
    Block { id: u64, offset: u64, fill: Fill },
    /// All blocks sent; attributes to end with.
    FileEnd { id: u64, size: u64, meta: Meta },
    /// Times of a directory whose contents are done.
    DirTimes { dir: u16, path: Vec<u8>, mtime: Time },
    /// From now on nothing changes at the source: what does not fit is an error.
    Strict,
    /// Target to source, first, if asked for: what its activity log says may be different in a directory.
    Suspects { dir: u16, objects: Vec<(Vec<u8>, Suspect)> },
    /// Target to source: that was all.
    AllSuspects,
    /// Target to source: it had to make these anew, and has nothing in them.
    Want { dir: u16, paths: Vec<Vec<u8>> },
    /// Flush, and write down on the copy that it is of this whole copy and has made this checkpoint; answered by
    /// `Checkpointed`, in the order of everything else.
    Checkpoint(Level),
    /// Target to source: it was made.
    Checkpointed { number: u64 },
    /// Flush; answered by `Flushed`.
    Flush { number: u64 },
    /// Answer to `Flush`.
    Flushed { number: u64 },
    /// The two are level, which is called this from now on; the next frame is operation 1 of the live stream.
    Live { base: u128 },
}

/// First message of the connecting end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// Version of this protocol.
    pub version: u32,
    /// Module.
    pub module: String,
    /// Number of replicated directories.
    pub dirs: u16,
    /// Life of this data process.
    pub life: LifeId,
    /// The connection of this session broke: go on from here.
    pub again: Option<Again>,
    /// What the connecting end's copy is level with.
    pub level: Option<Level>,
    /// Base and length of the activity log that speaks of it.
    pub log: Option<(u128, u64)>,
    /// The whole copy that was being made of it, and its last checkpoint.
    pub copying: Option<Level>,
}

impl Hello {
    /// Nothing else is known.
    fn of_version(version: u32) -> Self {
        Self { version, module: String::new(), dirs: 0, life: LifeId(0), again: None, level: None, log: None, copying: None }
    }
}

/// Where a session whose connection broke is to go on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Again {
    /// Life of the data process that was followed before.
    pub source: LifeId,
    /// Number of this try in the session, from 1.
    pub attempt: u64,
    /// The last operation applied.
    pub applied: u64,
}

/// A message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Msg {
    /// Follower to source, first.
    Hello(Hello),
    /// Source to follower: this is the session offered. On a connection that continues a session, the fsyncs among
    /// the applied operations whose `Durable` did not arrive; the operations not applied yet follow. `whole`: everything
    /// will be compared, so that the copy is of no known state until it is level; `rest`: but for what it has of the whole copy
    /// it speaks of. `suspects`: the target says first what its
    /// activity log has.
    Welcome { life: LifeId, unflushed: Vec<u64>, whole: bool, rest: bool, suspects: bool },
    /// Source to follower: not this session, or not any more. Whoever was in it has lost it.
    Refuse { detail: String },
    /// Are you there?
    Ping,
    /// I am.
    Pong,
    /// An operation.
    Op(Op),
    /// Target to source: everything up to the frame's lsn is applied.
    Applied,
    /// Target to source: the fsync of the frame's lsn is done.
    Durable,
    /// Target to source: an operation could not be carried out.
    Failed { detail: String },
    /// Resynchronisation.
    Sync(SyncMsg),
    /// Source to target: what does this look like at your side? Answered by `Seen`, in the order asked.
    Look(Look),
    /// Target to source.
    Seen(Seen),
    /// An orderly end: from the source, nothing more will come; from the target, it does not follow any more.
    Bye,
}

/// The data of a frame to send.
#[derive(Debug, Clone, Copy)]
pub struct Data<'a> {
    /// As it travels.
    pub bytes: &'a [u8],
    /// By [`super::compress`].
    pub is_compressed: bool,
}

impl<'a> Data<'a> {
    /// As it is.
    pub fn plain(bytes: &'a [u8]) -> Self {
        Self { bytes, is_compressed: false }
    }
}

/// A received frame.
#[derive(Debug)]
pub struct Frame<'a> {
    /// Epoch of the sender.
    pub epoch: u64,
    /// Session.
    pub session: u64,
    /// Number of the operation, 0 for others.
    pub lsn: u64,
    /// The message.
    pub msg: Msg,
    /// Contents.
    pub data: &'a [u8],
}

/// Where a frame belongs.
#[derive(Debug, Clone, Copy)]
pub struct Address {
    /// Epoch of the sender.
    pub epoch: u64,
    /// Session.
    pub session: u64,
    /// Number of the operation, 0 for others.
    pub lsn: u64,
}

/// Appends everything of a frame but its data to a buffer.
pub fn encode(to: Address, msg: &Msg, data: Data<'_>, out: &mut Vec<u8>) -> io::Result<()> {
    let start = out.len();
    out.extend_from_slice(&[0; PREFIX]);
    out.extend_from_slice(&to.epoch.to_le_bytes());
    out.extend_from_slice(&to.session.to_le_bytes());
    out.extend_from_slice(&to.lsn.to_le_bytes());
    out.extend_from_slice(&[0; 4]);
    let at = out.len();
    *out = postcard::to_extend(msg, std::mem::take(out)).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))?;
    let length = u32::try_from(out.len() - at).map_err(|_| too_long())?;
    let flag = if data.is_compressed { COMPRESSED } else { 0 };
    out[at - 4..at].copy_from_slice(&(length | flag).to_le_bytes());
    let covered = out.len() - start - PREFIX + data.bytes.len();
    if covered > FRAME_BYTES_MAX {
        return Err(too_long());
    }
    let crc = crc32c::crc32c_append(crc32c::crc32c(&out[start + PREFIX..]), data.bytes);
    out[start..start + 4].copy_from_slice(&u32::try_from(covered).map_err(|_| too_long())?.to_le_bytes());
    out[start + 4..start + 8].copy_from_slice(&crc.to_le_bytes());
    Ok(())
}

fn too_long() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("a frame longer than {FRAME_BYTES_MAX} bytes"))
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn long(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

/// Length of the whole frame at the beginning of a buffer, once it is all there.
pub fn complete(buf: &[u8]) -> io::Result<Option<usize>> {
    if buf.len() < PREFIX {
        return Ok(None);
    }
    let covered = word(buf, 0) as usize;
    if !(HEADER..=FRAME_BYTES_MAX).contains(&covered) {
        return Err(too_long());
    }
    Ok((buf.len() >= PREFIX + covered).then_some(PREFIX + covered))
}

/// Reads a complete frame; `room` is for data that travelled compressed.
pub fn decode<'a>(frame: &'a [u8], room: &'a mut Vec<u8>) -> io::Result<Frame<'a>> {
    let bad = |what: &str| io::Error::new(io::ErrorKind::InvalidData, format!("a damaged frame: {what}"));
    let body = frame.get(PREFIX..).filter(|b| b.len() >= HEADER).ok_or_else(|| bad("too short"))?;
    if crc32c::crc32c(body) != word(frame, 4) {
        return Err(bad("checksum"));
    }
    let word = word(body, 24);
    let length = (word & !COMPRESSED) as usize;
    let message = body.get(HEADER..HEADER + length).ok_or_else(|| bad("length of the message"))?;
    let msg = match postcard::from_bytes(message) {
        Ok(msg) => msg,
        Err(e) => hello_of_another_version(message).ok_or_else(|| bad(&e.to_string()))?,
    };
    let data = &body[HEADER + length..];
    let data = if word & COMPRESSED == 0 { data } else { compress::expand(data, room).map_err(bad)? };
    Ok(Frame { epoch: long(body, 0), session: long(body, 8), lsn: long(body, 16), msg, data })
}

/// What can be read of the first message of a node whose messages have other fields: its version, which is refused by its name.
fn hello_of_another_version(message: &[u8]) -> Option<Msg> {
    const HELLO: u32 = 0;
    let ((kind, version), _) = postcard::take_from_bytes::<(u32, u32)>(message).ok()?;
    (kind == HELLO && version != VERSION).then(|| Msg::Hello(Hello::of_version(version)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tsugi_core::module::Compress;

    #[test]
    fn a_node_of_another_version_is_known_by_its_number_whatever_else_it_says() {
        let frame = |message: &[u8]| {
            let to = Address { epoch: 1, session: 2, lsn: 0 };
            let mut buf = Vec::new();
            encode(to, &Msg::Ping, Data::plain(&[]), &mut buf).unwrap();
            // In place of the message of this version.
            buf.truncate(PREFIX + HEADER);
            buf[PREFIX + 24..].copy_from_slice(&(message.len() as u32).to_le_bytes());
            buf.extend_from_slice(message);
            let (covered, crc) = (buf.len() - PREFIX, crc32c::crc32c(&buf[PREFIX..]));
            buf[..4].copy_from_slice(&(covered as u32).to_le_bytes());
            buf[4..8].copy_from_slice(&crc.to_le_bytes());
            decode(&buf, &mut Vec::new()).map(|f| f.msg).map_err(|e| e.to_string())
        };
        let hello = Hello::of_version(VERSION + 1);
        assert_eq!(postcard::to_allocvec(&Msg::Hello(hello.clone())).unwrap()[..2], [0, VERSION as u8 + 1]);
        // An older one with fewer fields, a newer one with more.
        assert!(matches!(frame(&[0, 3, 0]), Ok(Msg::Hello(Hello { version: 3, .. }))));
        let longer = [postcard::to_allocvec(&Msg::Hello(hello)).unwrap(), vec![7; 9]].concat();
        assert!(matches!(frame(&longer), Ok(Msg::Hello(h)) if h.version == VERSION + 1));
        assert!(frame(&[0, VERSION as u8, 0]).unwrap_err().contains("a damaged frame"));
        assert!(frame(&[1, 3]).unwrap_err().contains("a damaged frame"));
    }

    #[test]
    fn a_frame_survives_and_a_flipped_bit_does_not() {
        let mut buf = Vec::new();
        let msg = Msg::Op(Op::Write { fid: Fid { dir: 1, id: 77 }, offset: 4096 });
        encode(Address { epoch: 3, session: 9, lsn: 12 }, &msg, Data::plain(b"contents"), &mut buf).unwrap();
        buf.extend_from_slice(b"contents");
        assert_eq!(complete(&buf[..buf.len() - 1]).unwrap(), None);
        assert_eq!(complete(&buf).unwrap(), Some(buf.len()));
        let mut room = Vec::new();
        let frame = decode(&buf, &mut room).unwrap();
        assert_eq!((frame.epoch, frame.session, frame.lsn, frame.data), (3, 9, 12, &b"contents"[..]));
        assert_eq!(frame.msg, msg);
        for at in 4..buf.len() {
            buf[at] ^= 1;
            assert!(decode(&buf, &mut Vec::new()).is_err(), "byte {at} flipped and not noticed");
            buf[at] ^= 1;
        }
    }

    #[test]
    fn a_compressed_frame_survives_and_a_wrong_one_is_refused_with_its_reason() {
        let compressor = compress::Compressor::new(Compress::Lz4);
        let (to, contents) = (Address { epoch: 3, session: 9, lsn: 12 }, [5; 100_000]);
        let msg = Msg::Op(Op::Write { fid: Fid { dir: 1, id: 77 }, offset: 4096 });
        let (mut buf, mut room) = (Vec::new(), Vec::new());
        compressor.shorten(&contents, |data| {
            encode(to, &msg, data, &mut buf).unwrap();
            buf.extend_from_slice(data.bytes);
        });
        assert_eq!(complete(&buf).unwrap(), Some(buf.len()));
        assert!(buf.len() < 1000, "{} bytes", buf.len());
        let frame = decode(&buf, &mut room).unwrap();
        assert_eq!((frame.lsn, frame.msg, frame.data), (12, msg.clone(), &contents[..]));
        for at in 4..buf.len() {
            buf[at] ^= 1;
            assert!(decode(&buf, &mut Vec::new()).is_err(), "byte {at} flipped and not noticed");
            buf[at] ^= 1;
        }
        // From a sender that is broken or worse: the checksum is right.
        for (bytes, why) in [(&[0xff; 40][..], "too long"), (&[0; 3], "without a length"), (&[9, 0, 0, 0, 0], "of another length")] {
            buf.clear();
            encode(to, &msg, Data { bytes, is_compressed: true }, &mut buf).unwrap();
            buf.extend_from_slice(bytes);
            let error = decode(&buf, &mut Vec::new()).unwrap_err().to_string();
            assert!(error.starts_with("a damaged frame: compressed contents") && error.ends_with(why), "{error}");
        }
    }
}
