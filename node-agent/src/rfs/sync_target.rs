//! The following side of a resynchronisation: makes the trees here equal to what the source describes.
//!
//! Until the source says `Strict` its tree moves under its own walk, so what does not fit is left for a later
//! pass: whoever moved it there also marked it. After `Strict` the same is an error.

use super::dirty::BLOCK;
use super::excluded::Excluded;
use super::frame::{Entry, Fill, HOLE, Meta, SyncMsg};
use super::level::{self, Level};
use super::look;
use super::volume::{self, Time, next_data};
use anyhow::{Context, anyhow, bail};
use std::collections::{BTreeSet, HashMap, HashSet};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;

/// Names of new objects in a message: far from filling a frame, however long they are.
const PATHS_PER_MESSAGE: usize = 1000;
/// Files open at the same time: the source's window plus some.
const FILES_MAX: usize = 1024;

/// So many new bytes of a file go to the disk while the next ones come: the flush at the end, for which the application may be
/// held, has less to do.
const WRITE_OUT_AFTER: u64 = 8 << 20;
/// And so many at the end of a file. The kernel places what is small better when it sees more of it.
const WRITE_OUT_AT_END: u64 = 1 << 20;

struct OpenFile {
    /// `None`: it is not here (yet); its blocks are not wanted.
    fd: Option<OwnedFd>,
    size: u64,
    /// Bytes written since the kernel was last told to write them out.
    unwritten: u64,
}

/// See the module.
pub struct SyncTarget {
    roots: Arc<Vec<OwnedFd>>,
    excluded: Arc<Vec<Excluded>>,
    strict: bool,
    files: HashMap<u64, OpenFile>,
    /// Names of the directory whose pieces are coming.
    names: HashSet<Vec<u8>>,
    pieces: Vec<Entry>,
    /// Which source file a local file with several names stands for.
    claimed: HashMap<(u16, u64), u64>,
    buffer: Vec<u8>,
    /// Nothing is said of this copy's level any more until it is level again.
    gave_up_level: bool,
    /// The source does not know what was made anew here.
    says_new: bool,
    new: Vec<Vec<u8>>,
}

/// What the caller has to send back.
#[derive(Debug)]
pub enum Reply {
    /// Nothing.
    None,
    /// Messages.
    Send(Vec<SyncMsg>),
    /// Flush, then answer.
    Flush(u64),
    /// Flush, write this down, then answer.
    Checkpoint(Level),
    /// The live stream begins, at this base.
    Live {
        /// See [`SyncMsg::Live`].
        base: u128,
    },
}

fn missing(e: &io::Error) -> bool {
    matches!(e.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR | libc::ELOOP | libc::ESTALE))
}

impl SyncTarget {
    /// Works below these directories; `excluded` is of each of them.
    pub fn new(roots: Arc<Vec<OwnedFd>>, excluded: Arc<Vec<Excluded>>) -> Self {
        Self {
            roots,
            excluded,
            strict: false,
            files: HashMap::new(),
            names: HashSet::new(),
            pieces: Vec::new(),
            claimed: HashMap::new(),
            buffer: vec![0; usize::try_from(BLOCK).unwrap_or(0)],
            gave_up_level: false,
            says_new: false,
            new: Vec::new(),
        }
    }

    /// From now on the source is told what had to be made anew: it does not know what is missing here.
    pub fn say_what_is_new(&mut self) {
        self.says_new = true;
    }

    fn root(&self, dir: u16) -> anyhow::Result<i32> {
        self.roots.get(usize::from(dir)).map(AsRawFd::as_raw_fd).ok_or_else(|| anyhow!("the source names directory number {dir}"))
    }

    fn tolerate<T>(&self, result: io::Result<T>, what: &str, path: &[u8]) -> anyhow::Result<Option<T>> {
        match result {
            Ok(value) => Ok(Some(value)),
            Err(e) if missing(&e) && !self.strict => Ok(None),
            Err(e) => Err(anyhow!(e).context(format!("{what} {}", String::from_utf8_lossy(path)))),
        }
    }

    /// Handles one message.
    pub fn handle(&mut self, msg: SyncMsg, data: &[u8]) -> anyhow::Result<Reply> {
        match msg {
            SyncMsg::Dir { dir, path, meta, entries, only, last } => {
                self.pieces.extend(entries);
                if last {
                    let entries = std::mem::take(&mut self.pieces);
                    self.directory(dir, &path, &meta, &entries, only)?;
                    let paths = std::mem::take(&mut self.new);
                    if !paths.is_empty() {
                        let want = |paths: &[Vec<u8>]| SyncMsg::Want { dir, paths: paths.to_vec() };
                        return Ok(Reply::Send(paths.chunks(PATHS_PER_MESSAGE).map(want).collect()));
                    }
                }
            }
            SyncMsg::Link { dir, path, same_as } => self.link(dir, &path, &same_as)?,
            SyncMsg::File { id, dir, path, size, asks, .. } => {
                let is_fresh = self.begin(id, dir, &path, size)?;
                if asks {
                    return Ok(Reply::Send(vec![if is_fresh { SyncMsg::Fresh { id } } else { SyncMsg::Kept { id } }]));
                }
            }
            SyncMsg::Hashes { id, blocks } => {
                let blocks = self.compare(id, &blocks)?;
                return Ok(Reply::Send(vec![SyncMsg::Need { id, blocks }]));
            }
            SyncMsg::Block { id, offset, fill } => self.block(id, offset, fill, data)?,
            SyncMsg::FileEnd { id, size, meta } => self.end(id, size, &meta)?,
            SyncMsg::DirTimes { dir, path, mtime } => {
                let fd = volume::open_beneath(self.root(dir)?, &path, libc::O_PATH | libc::O_NOFOLLOW);
                if let Some(fd) = self.tolerate(fd, "cannot find", &path)? {
                    volume::set_times(fd.as_raw_fd(), None, Some(mtime))?;
                }
            }
            SyncMsg::Strict => self.strict = true,
            SyncMsg::Flush { number } => return Ok(Reply::Flush(number)),
            SyncMsg::Checkpoint(at) => {
                // What it gave up before is flushed by then.
                self.gave_up_level = false;
                return Ok(Reply::Checkpoint(at));
            }
            SyncMsg::Live { base } => {
                if !self.strict || !self.files.is_empty() {
                    bail!("the source began the live stream before the end of the resynchronisation");
                }
                return Ok(Reply::Live { base });
            }
            SyncMsg::Need { .. }
            | SyncMsg::Fresh { .. }
            | SyncMsg::Kept { .. }
            | SyncMsg::Flushed { .. }
            | SyncMsg::Checkpointed { .. }
            | SyncMsg::Suspects { .. }
            | SyncMsg::AllSuspects
            | SyncMsg::Want { .. } => bail!("the source sent an answer where it should ask"),
        }
        Ok(Reply::None)
    }

    /// Of a name in the open directory at a path.
    fn is_excluded(&self, dir: u16, fd: i32, path: &[u8], name: &[u8]) -> io::Result<bool> {
        let Some(excluded) = self.excluded.get(usize::from(dir)) else { return Ok(false) };
        excluded.is_excluded_entry(|| Ok(path), name, || volume::is_dir_at(fd, &volume::cstr(name)?))
    }

    fn directory(&mut self, dir: u16, path: &[u8], meta: &Meta, entries: &[Entry], only: Option<BTreeSet<Vec<u8>>>) -> anyhow::Result<()> {
        let opened = volume::open_beneath(self.root(dir)?, path, libc::O_RDONLY | libc::O_DIRECTORY);
        let Some(fd) = self.tolerate(opened, "cannot open", path)? else { return Ok(()) };
        let fd = fd.as_raw_fd();
        let show = |name: &[u8]| format!("{}/{}", String::from_utf8_lossy(path), String::from_utf8_lossy(name));
        set_meta(fd, meta).with_context(|| format!("cannot set the attributes of {}", String::from_utf8_lossy(path)))?;
        self.names = entries.iter().map(|e| e.name.clone()).collect();
        let here: Vec<_> = match only {
            Some(names) => names.into_iter().filter(|name| volume::cstr(name).is_ok_and(|c| volume::stat_at(fd, &c).is_ok())).collect(),
            None => volume::list_dir(fd)?.into_iter().map(|here| here.name).collect(),
        };
        for name in here {
            if !self.names.contains(&name) && !self.is_excluded(dir, fd, path, &name)? {
                volume::remove_tree(fd, &volume::cstr(&name)?).with_context(|| format!("cannot remove {}", show(&name)))?;
            }
        }
        for entry in entries {
            self.entry(dir, path, fd, entry).with_context(|| format!("cannot make {} like the source's", show(&entry.name)))?;
        }
        Ok(())
    }

    fn entry(&mut self, dir: u16, path: &[u8], parent: i32, entry: &Entry) -> anyhow::Result<()> {
        let name = volume::cstr(&entry.name)?;
        let kind = entry.meta.mode & libc::S_IFMT;
        let mut here = match volume::open_path_at(parent, &name) {
            Ok(fd) => Some(fd),
            Err(e) if e.raw_os_error() == Some(libc::ENOENT) => None,
            Err(e) => return Err(e.into()),
        };
        if let Some(fd) = &here {
            let st = volume::fstat(fd.as_raw_fd())?;
            let same = volume::kind(&st) == kind
                && match kind {
                    libc::S_IFLNK => volume::readlink_fd(fd.as_raw_fd())? == entry.target,
                    libc::S_IFBLK | libc::S_IFCHR => st.st_rdev == entry.rdev,
                    _ => true,
                };
            if !same {
                here = None;
                volume::remove_tree(parent, &name)?;
            } else if kind == libc::S_IFREG && !entry.linked && st.st_nlink > 1 {
                let other = self.claimed.get(&(dir, st.st_ino)).is_some_and(|source| *source != entry.ino);
                if entry.nlink == 1 || other {
                    // The copy has a name of its own until it is done. Should that stay, everything has to be looked at.
                    self.give_up_level()?;
                    here = Some(separate(parent, &name, fd)?);
                }
            }
        }
        if entry.linked {
            // The message that makes it one file with another name follows; until then any content will do.
            return Ok(());
        }
        let fd = match here {
            Some(fd) => fd,
            None => {
                if self.says_new && matches!(kind, libc::S_IFREG | libc::S_IFDIR) {
                    // Should the source never hear of it, another session has to look at everything: it will not be new then.
                    self.give_up_level()?;
                    self.new.push(volume::join(path, &entry.name));
                }
                super::apply::create(parent, &entry.name, entry.meta.mode, entry.rdev, &entry.target, entry.meta.uid, entry.meta.gid)?
            }
        };
        if entry.nlink > 1 && kind != libc::S_IFDIR {
            self.claimed.insert((dir, volume::fstat(fd.as_raw_fd())?.st_ino), entry.ino);
        }
        set_meta(fd.as_raw_fd(), &entry.meta)?;
        if kind != libc::S_IFREG && kind != libc::S_IFDIR {
            volume::set_times(fd.as_raw_fd(), None, Some(entry.meta.mtime))?;
        }
        Ok(())
    }

    fn give_up_level(&mut self) -> io::Result<()> {
        if !std::mem::replace(&mut self.gave_up_level, true) {
            level::clear(&self.roots)?;
        }
        Ok(())
    }

    fn link(&mut self, dir: u16, path: &[u8], same_as: &[u8]) -> anyhow::Result<()> {
        let root = self.root(dir)?;
        let first = volume::open_beneath(root, same_as, libc::O_PATH | libc::O_NOFOLLOW);
        let Some(first) = self.tolerate(first, "cannot find", same_as)? else { return Ok(()) };
        let (parent, name) = split(path);
        let Some(parent) = self.tolerate(volume::open_beneath(root, parent, libc::O_PATH | libc::O_NOFOLLOW), "cannot find", path)? else {
            return Ok(());
        };
        let name = volume::cstr(name)?;
        match volume::stat_at(parent.as_raw_fd(), &name) {
            Ok(st) if st.st_ino == volume::fstat(first.as_raw_fd())?.st_ino => return Ok(()),
            Ok(_) => volume::remove_tree(parent.as_raw_fd(), &name)?,
            Err(e) if missing(&e) => {}
            Err(e) => return Err(e.into()),
        }
        let linked = volume::link_fd(first.as_raw_fd(), parent.as_raw_fd(), &name);
        self.tolerate(linked, "cannot link", path)?;
        Ok(())
    }

    /// True if nothing of the file is here.
    fn begin(&mut self, id: u64, dir: u16, path: &[u8], size: u64) -> anyhow::Result<bool> {
        if self.files.len() >= FILES_MAX {
            bail!("the source opened more than {FILES_MAX} files at once");
        }
        let opened = volume::open_beneath(self.root(dir)?, path, libc::O_RDWR | libc::O_NOFOLLOW | libc::O_NONBLOCK);
        // A name that is a directory or a device by now is like a missing one.
        let opened = opened.and_then(|fd| match volume::kind(&volume::fstat(fd.as_raw_fd())?) {
            libc::S_IFREG => Ok(fd),
            _ => Err(volume::errno(libc::ENOENT)),
        });
        let opened =
            opened.map_err(|e| if matches!(e.raw_os_error(), Some(libc::EISDIR | libc::ENXIO)) { volume::errno(libc::ENOENT) } else { e });
        let fd = self.tolerate(opened, "cannot open", path)?;
        let mut is_fresh = true;
        if let Some(fd) = &fd {
            let length = volume::fstat(fd.as_raw_fd())?.st_size.unsigned_abs();
            is_fresh = next_data(fd.as_raw_fd(), 0, length) >= length;
            if length != size {
                volume::truncate(fd.as_raw_fd(), size)
                    .with_context(|| format!("cannot set the length of {}", String::from_utf8_lossy(path)))?;
            }
        }
        self.files.insert(id, OpenFile { fd, size, unwritten: 0 });
        Ok(is_fresh)
    }

    fn compare(&mut self, id: u64, blocks: &[(u64, [u8; 32])]) -> anyhow::Result<Vec<u64>> {
        let file = self.files.get(&id).ok_or_else(|| anyhow!("hashes of a file that was not begun"))?;
        let Some(fd) = &file.fd else { return Ok(Vec::new()) };
        let mut wanted = Vec::new();
        let mut data_from = 0;
        for (block, hash) in blocks {
            let begin = block * BLOCK;
            let length = BLOCK.min(file.size.saturating_sub(begin));
            if *hash == HOLE {
                make_hole(fd.as_raw_fd(), begin, length)?;
                continue;
            }
            if begin >= data_from {
                data_from = next_data(fd.as_raw_fd(), begin, u64::MAX);
            }
            if data_from >= begin + length {
                // Nothing is here: it need not be read to know what that is.
                if *hash != look::zeros(length) {
                    wanted.push(*block);
                }
                continue;
            }
            match volume::read_at(fd.as_raw_fd(), &mut self.buffer, begin) {
                Ok(n) if blake3::hash(&self.buffer[..n]).as_bytes() == hash => {}
                Ok(_) => wanted.push(*block),
                // A disk that has lost it mostly takes it again when it is written anew; if not, that is told then.
                Err(e) if e.raw_os_error() == Some(libc::EIO) => wanted.push(*block),
                Err(e) => return Err(e).context("cannot read for comparison"),
            }
        }
        Ok(wanted)
    }

    fn block(&mut self, id: u64, offset: u64, fill: Fill, data: &[u8]) -> anyhow::Result<()> {
        let file = self.files.get_mut(&id).ok_or_else(|| anyhow!("a block of a file that was not begun"))?;
        let Some(fd) = &file.fd else { return Ok(()) };
        match fill {
            Fill::Data => {
                volume::write_all_at(fd.as_raw_fd(), data, offset).context("cannot write")?;
                file.unwritten += data.len() as u64;
                if file.unwritten >= WRITE_OUT_AFTER {
                    file.unwritten = 0;
                    volume::begin_to_write_out(fd.as_raw_fd());
                }
                Ok(())
            }
            Fill::Hole(length) if offset + length <= file.size => make_hole(fd.as_raw_fd(), offset, length),
            // Grown since: the bytes must exist before the end says how long the file is.
            Fill::Hole(length) | Fill::Zeros(length) => write_zeros(fd.as_raw_fd(), offset, length),
        }
    }

    fn end(&mut self, id: u64, size: u64, meta: &Meta) -> anyhow::Result<()> {
        let file = self.files.remove(&id).ok_or_else(|| anyhow!("the end of a file that was not begun"))?;
        let Some(fd) = file.fd else { return Ok(()) };
        let st = volume::fstat(fd.as_raw_fd())?;
        if st.st_size.unsigned_abs() != size {
            volume::truncate(fd.as_raw_fd(), size).context("cannot set a file's length")?;
        }
        if file.unwritten >= WRITE_OUT_AT_END {
            volume::begin_to_write_out(fd.as_raw_fd());
        }
        set_meta(fd.as_raw_fd(), meta).context("cannot set a file's attributes")?;
        let times: Option<Time> = Some(meta.mtime);
        volume::set_times(fd.as_raw_fd(), None, times).context("cannot set a file's times")
    }
}

fn write_zeros(fd: i32, offset: u64, length: u64) -> anyhow::Result<()> {
    let zeros = vec![0; usize::try_from(length.min(BLOCK))?];
    let mut at = offset;
    while at < offset + length {
        let n = BLOCK.min(offset + length - at);
        volume::write_all_at(fd, &zeros[..usize::try_from(n)?], at).context("cannot write")?;
        at += n;
    }
    Ok(())
}

/// Takes what is in a range away, unless nothing is.
fn make_hole(fd: i32, offset: u64, length: u64) -> anyhow::Result<()> {
    let end = offset + length;
    if length == 0 || next_data(fd, offset, end) >= end {
        return Ok(());
    }
    match volume::fallocate(fd, libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE, offset, length) {
        Err(e) if e.raw_os_error() == Some(libc::EOPNOTSUPP) => write_zeros(fd, offset, length),
        result => result.context("cannot make a hole"),
    }
}

fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|b| *b == b'/') {
        Some(at) => (&path[..at], &path[at + 1..]),
        None => (&[], path),
    }
}

/// Gives a name a file of its own with the same contents, where it was one of several names.
fn separate(parent: i32, name: &std::ffi::CStr, old: &OwnedFd) -> io::Result<OwnedFd> {
    let from = volume::reopen(old.as_raw_fd(), libc::O_RDONLY)?;
    let mut temporary = b".tsugi-".to_vec();
    temporary.extend_from_slice(format!("{:x}", volume::boottime_ns()).as_bytes());
    let temporary = volume::cstr(&temporary)?;
    let to = volume::openat(parent, &temporary, libc::O_RDWR | libc::O_CREAT | libc::O_EXCL, 0o600)?;
    let st = volume::fstat(from.as_raw_fd())?;
    let size = st.st_size.unsigned_abs();
    let mut buffer = vec![0; 1 << 20];
    let mut at = 0;
    while at < size {
        let n = volume::read_at(from.as_raw_fd(), &mut buffer, at)?;
        if n == 0 {
            break;
        }
        volume::write_all_at(to.as_raw_fd(), &buffer[..n], at)?;
        at += n as u64;
    }
    // Its contents may be right already, and then nothing else sets its time.
    volume::set_times(to.as_raw_fd(), None, Some(volume::mtime(&st)))?;
    volume::rename(parent, &temporary, parent, name, 0)?;
    volume::open_path_at(parent, name)
}

/// Makes owner, permissions and extended attributes equal; the modification time is the caller's.
fn set_meta(fd: i32, meta: &Meta) -> io::Result<()> {
    let st = volume::fstat(fd)?;
    let owner = st.st_uid != meta.uid || st.st_gid != meta.gid;
    if owner {
        volume::chown(fd, Some(meta.uid), Some(meta.gid))?;
    }
    let here = volume::xattrs(fd)?;
    if here != meta.xattrs {
        for (name, _) in here.iter().filter(|(n, _)| !meta.xattrs.iter().any(|(m, _)| m == n)) {
            volume::remove_xattr(fd, &volume::cstr(name)?)?;
        }
        for (name, value) in meta.xattrs.iter().filter(|x| !here.contains(x)) {
            volume::set_xattr(fd, &volume::cstr(name)?, value, 0)?;
        }
    }
    if meta.mode & libc::S_IFMT != libc::S_IFLNK && volume::fstat(fd)?.st_mode & 0o7777 != meta.mode & 0o7777 {
        volume::chmod(fd, meta.mode)?;
    }
    Ok(())
}
