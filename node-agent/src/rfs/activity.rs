//! The activity log: what this node, serving, may have changed since both copies were last flushed; on disk before it is
//! changed.
//!
//! After a power failure nobody knows which of the last operations reached this node's disk. The peer, which has taken over,
//! knows what it has applied and notes what it changes from then on. So the two copies differ in what is in this log and in
//! what the peer noted, and nowhere else: the rest need not be compared.
//!
//! The log is coarse, because an entry costs a flush when it is made: extents of 4 MiB, directories with all their names,
//! new files by groups of neighbouring inode numbers. An entry is made once between two checkpoints.
//!
//! Invariants:
//! * an entry is on disk before [`Activity::note`] returns, if the log is good by then;
//! * an entry goes only after a checkpoint: everything noted in its generation or before is flushed on both nodes;
//! * the log speaks of the copy whose roots carry its number (the attribute of [`super::level`]), which goes up with each
//!   checkpoint: a disk that was set back carries another one;
//! * the number of entries ever made since the base is told to the peer before any operation that needs one of them. A log
//!   that has fewer is not the one of this history: it was set back, or could not be written.

use super::level;
use super::table::ROOT;
use super::volume;
use std::collections::{HashMap, HashSet};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

/// Unit of contents.
pub const EXTENT: u64 = 4 << 20;
/// Of a longer range the whole file is noted.
const EXTENTS_MAX: u64 = 16;
/// In place of an extent: attributes alone.
const ATTRIBUTES: u64 = u64::MAX;
/// Neighbouring inode numbers that are noted as one.
const GROUP: u64 = 64;
/// Test only: another number than [`GROUP`], for in a small tree that covers nearly everything.
const GROUP_SWITCH: &str = "TSUGI_TEST_LOG_GROUP";
/// So many of one group are noted one by one; then the group is.
const SINGLES_MAX: u8 = 4;
/// Entries at most; with more nothing is known until the next checkpoint.
const ENTRIES_MAX: usize = 16_384;
/// Length of an entry, and of the head.
const RECORD: usize = 32;
/// First bytes of a head.
const MAGIC: u32 = 0x5453_4c31;
/// What was found is told at least this often, and be it nothing.
const TELL_EVERY: Duration = Duration::from_secs(5);
/// Paths told at a time.
const BATCH: usize = 1000;

/// What may have changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Entry {
    kind: Kind,
    dir: u16,
    /// Inode number, or that of the group.
    ino: u64,
    extent: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
enum Kind {
    /// An extent of a file, or its attributes.
    Part = 1,
    /// A file, in any way.
    Whole = 2,
    /// Every file of a group.
    WholeGroup = 3,
    /// The names in a directory.
    Names = 4,
    /// Those in every directory of a group.
    NamesGroup = 5,
    /// A directory and everything below.
    Subtree = 6,
    /// The attributes of every file of a group. Not their contents: the files may be large, and a close alone sets a time.
    AttributesGroup = 7,
}

impl Entry {
    fn encode(&self, seq: u64) -> [u8; RECORD] {
        let mut bytes = [0; RECORD];
        bytes[4] = self.kind as u8;
        bytes[6..8].copy_from_slice(&self.dir.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.ino.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.extent.to_le_bytes());
        // Of this writing of the file: what an earlier one left behind is none.
        bytes[24..32].copy_from_slice(&seq.to_le_bytes());
        seal(bytes)
    }

    fn decode(bytes: &[u8; RECORD], seq: u64) -> Option<Self> {
        if !is_sealed(bytes) || long(bytes, 24) != seq {
            return None;
        }
        let kind = match bytes[4] {
            1 => Kind::Part,
            2 => Kind::Whole,
            3 => Kind::WholeGroup,
            4 => Kind::Names,
            5 => Kind::NamesGroup,
            6 => Kind::Subtree,
            7 => Kind::AttributesGroup,
            _ => return None,
        };
        Some(Self { kind, dir: u16::from_le_bytes([bytes[6], bytes[7]]), ino: long(bytes, 8), extent: long(bytes, 16) })
    }
}

fn group_of(ino: u64) -> u64 {
    static SIZE: OnceLock<u64> = OnceLock::new();
    ino / SIZE.get_or_init(|| std::env::var(GROUP_SWITCH).ok().and_then(|n| n.parse().ok()).filter(|n| *n > 0).unwrap_or(GROUP))
}

fn seal(mut bytes: [u8; RECORD]) -> [u8; RECORD] {
    let sum = crc32c::crc32c(&bytes[4..]);
    bytes[..4].copy_from_slice(&sum.to_le_bytes());
    bytes
}

fn is_sealed(bytes: &[u8; RECORD]) -> bool {
    bytes[..4] == crc32c::crc32c(&bytes[4..]).to_le_bytes()
}

fn long(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

/// What one generation of operations noted.
#[derive(Default)]
struct Noted {
    entries: HashSet<Entry>,
    singles: HashMap<(Kind, u16, u64), u8>,
    /// More than can be kept.
    is_over: bool,
}

impl Noted {
    fn covers(&self, entry: &Entry) -> bool {
        let group = |kind| self.entries.contains(&Entry { kind, ino: group_of(entry.ino), extent: 0, ..*entry });
        let same = |kind| self.entries.contains(&Entry { kind, extent: 0, ..*entry });
        self.is_over
            || self.entries.contains(entry)
            || match entry.kind {
                Kind::Part => {
                    let is_attributes = entry.extent == ATTRIBUTES;
                    same(Kind::Whole) || group(Kind::WholeGroup) || is_attributes && group(Kind::AttributesGroup)
                }
                Kind::Whole => group(Kind::WholeGroup),
                Kind::Names => same(Kind::Subtree) || group(Kind::NamesGroup),
                Kind::WholeGroup | Kind::AttributesGroup | Kind::NamesGroup | Kind::Subtree => false,
            }
    }

    /// The entry to make for this one: its group, where more of it were made already.
    fn widen(&mut self, entry: Entry) -> Entry {
        let kind = match entry.kind {
            Kind::Part if entry.extent == ATTRIBUTES => Kind::AttributesGroup,
            Kind::Whole => Kind::WholeGroup,
            Kind::Names => Kind::NamesGroup,
            Kind::Part | Kind::WholeGroup | Kind::AttributesGroup | Kind::NamesGroup | Kind::Subtree => return entry,
        };
        let group = group_of(entry.ino);
        let singles = self.singles.entry((kind, entry.dir, group)).or_default();
        *singles = singles.saturating_add(1);
        if *singles > SINGLES_MAX { Entry { kind, dir: entry.dir, ino: group, extent: 0 } } else { entry }
    }
}

struct State {
    is_on: bool,
    /// The file that is written now; none while the log is good for nothing.
    file: Option<File>,
    /// Bytes of it that are in use.
    end: u64,
    /// Which of the two files, and the number of this writing.
    seq: u64,
    base: u128,
    /// The copies it speaks of.
    roots: Vec<OwnedFd>,
    noted: [Noted; 2],
}

impl State {
    /// What is on disk lacks something: it must not be found any more.
    fn give_up(&mut self) {
        self.file = None;
        if let Err(error) = level::clear_log(&self.roots) {
            tracing::warn!(%error, "the activity log cannot be marked as given up");
        }
    }
}

/// See the module.
pub struct Activity {
    /// Two files that take turns; none for a log that is never kept.
    files: Option<[PathBuf; 2]>,
    count: AtomicU64,
    state: Mutex<State>,
}

/// A log as it was found on disk.
pub struct Found {
    /// Where its history began.
    pub base: u128,
    /// Entries made since.
    pub count: u64,
    entries: Vec<Entry>,
}

/// How a logged object may have changed.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Suspect {
    /// These extents of a file, and its attributes.
    Extents(Vec<u64>),
    /// A file, in any way; or an object of another kind.
    Whole,
    /// The names in a directory.
    Names,
    /// A directory and everything below.
    Subtree,
}

/// The two files of a module's log beside its other records.
fn files_beside(marks: &Path) -> [PathBuf; 2] {
    [marks.with_file_name("activity.0"), marks.with_file_name("activity.1")]
}

impl Activity {
    /// A log that is kept beside this file, once it is begun.
    pub fn beside(marks: Option<&Path>) -> Self {
        // Not a number that a file of an earlier process has.
        let seq = rand::random::<u64>() >> 1;
        let state = State { is_on: false, file: None, end: 0, seq, base: 0, roots: Vec::new(), noted: Default::default() };
        Self { files: marks.map(files_beside), count: AtomicU64::new(0), state: Mutex::new(state) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Entries made since the base, and lost ones.
    pub fn count(&self) -> u64 {
        self.count.load(Ordering::Acquire)
    }

    /// Notes from now on, for a base that is to come; nothing on disk is good any more.
    pub fn begin(&self) {
        let mut state = self.state();
        let seq = state.seq;
        *state = State { is_on: self.files.is_some(), file: None, end: 0, seq, base: 0, roots: Vec::new(), noted: Default::default() };
    }

    /// Notes nothing any more.
    pub fn stop(&self) {
        let mut state = self.state();
        state.is_on = false;
        state.file = None;
    }

    /// Both copies are level but for what was noted since the log was begun, and everything before that is flushed here. The
    /// caller lets no operation pass meanwhile.
    pub fn level(&self, base: u128, roots: &[OwnedFd]) {
        let mut state = self.state();
        if !state.is_on {
            return;
        }
        self.count.store(0, Ordering::Release);
        match roots.iter().map(OwnedFd::try_clone).collect() {
            Ok(roots) => (state.base, state.roots) = (base, roots),
            // Without them it could not be given up: then it is not begun.
            Err(error) => {
                tracing::warn!(%error, "no activity log is kept: after a crash of this node everything will be compared");
                return;
            }
        }
        self.write_anew(&mut state);
    }

    /// Makes room for it: takes some flushes, and is done before anybody has to wait for them.
    pub fn prepare(&self) -> io::Result<()> {
        let length = (RECORD * (1 + ENTRIES_MAX)) as u64;
        for path in self.files.iter().flatten() {
            let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path)?;
            if file.metadata()?.len() < length {
                // Room that is there already: an entry then needs no change of the file system's own records.
                file.write_all_at(&vec![0; RECORD * (1 + ENTRIES_MAX)], 0)?;
                file.sync_all()?;
                if let Some(dir) = path.parent() {
                    File::open(dir)?.sync_all()?;
                }
            }
        }
        Ok(())
    }

    /// Everything noted in the generation of this parity, and in the one before, is flushed on both nodes.
    pub fn evict(&self, generation: u64) {
        let mut state = self.state();
        if !state.is_on || state.base == 0 {
            return;
        }
        state.noted[(generation & 1) as usize] = Noted::default();
        self.write_anew(&mut state);
    }

    /// What an earlier generation noted and no checkpoint ended goes with this one.
    pub fn carry(&self, into: u64) {
        let mut state = self.state();
        let [even, odd] = &mut state.noted;
        let (this, other) = if into & 1 == 0 { (even, odd) } else { (odd, even) };
        let other = std::mem::take(other);
        this.is_over |= other.is_over;
        this.entries.extend(other.entries);
    }

    /// So much is noted that a checkpoint should not be waited for.
    pub fn is_filling(&self) -> bool {
        let state = self.state();
        state.is_on && state.noted.iter().map(|noted| noted.entries.len()).sum::<usize>() > ENTRIES_MAX / 2
    }

    /// A file's range; a length of 0 stands for its attributes.
    pub fn range(&self, generation: u64, dir: u16, ino: u64, offset: u64, length: u64) {
        let part = |extent| Entry { kind: Kind::Part, dir, ino, extent };
        if length == 0 {
            return self.note(generation, part(ATTRIBUTES));
        }
        let (first, last) = (offset / EXTENT, (offset.saturating_add(length) - 1) / EXTENT);
        if last - first >= EXTENTS_MAX {
            return self.whole(generation, dir, ino);
        }
        (first..=last).for_each(|extent| self.note(generation, part(extent)));
    }

    /// An object, in any way.
    pub fn whole(&self, generation: u64, dir: u16, ino: u64) {
        self.note(generation, Entry { kind: Kind::Whole, dir, ino, extent: 0 });
    }

    /// A new file: more of them will follow.
    pub fn new_file(&self, generation: u64, dir: u16, ino: u64) {
        self.note(generation, Entry { kind: Kind::WholeGroup, dir, ino: group_of(ino), extent: 0 });
    }

    /// The names in a directory.
    pub fn names(&self, generation: u64, dir: u16, ino: u64) {
        self.note(generation, Entry { kind: Kind::Names, dir, ino, extent: 0 });
    }

    /// A directory and everything below.
    pub fn subtree(&self, generation: u64, dir: u16, ino: u64) {
        self.note(generation, Entry { kind: Kind::Subtree, dir, ino, extent: 0 });
    }

    fn note(&self, generation: u64, entry: Entry) {
        let mut guard = self.state();
        let state = &mut *guard;
        if !state.is_on {
            return;
        }
        let [even, odd] = &mut state.noted;
        let (this, other) = if generation & 1 == 0 { (even, odd) } else { (odd, even) };
        if this.covers(&entry) {
            return;
        }
        let entry = this.widen(entry);
        if this.entries.len() >= ENTRIES_MAX {
            *this = Noted { is_over: true, ..Noted::default() };
        } else {
            this.entries.insert(entry);
        }
        let is_over = this.is_over;
        // On disk for the sake of an earlier generation: it stays for that of this one.
        if other.entries.contains(&entry) {
            return;
        }
        // First: a log that lacks it must not be taken for whole.
        self.count.fetch_add(1, Ordering::AcqRel);
        let Some(file) = &state.file else { return };
        let is_full = state.end >= (RECORD * (ENTRIES_MAX + 1)) as u64;
        let written =
            if is_full || is_over { Err(io::Error::other("it is full")) } else { file.write_all_at(&entry.encode(state.seq), state.end) };
        match written {
            Ok(()) => state.end += RECORD as u64,
            Err(error) => {
                tracing::warn!(%error, "the activity log cannot take more until the next checkpoint");
                state.give_up();
            }
        }
    }

    /// Writes everything that is noted into the file whose turn it is, and then its number on the copies.
    fn write_anew(&self, state: &mut State) {
        state.file = None;
        let entries: HashSet<Entry> = state.noted.iter().flat_map(|noted| noted.entries.iter().copied()).collect();
        if entries.len() > ENTRIES_MAX || state.noted.iter().any(|noted| noted.is_over) {
            return state.give_up();
        }
        match self.write_file(state, &entries) {
            Ok(file) => {
                state.end = (RECORD * (1 + entries.len())) as u64;
                state.file = Some(file);
            }
            Err(error) => {
                tracing::warn!(%error, "the activity log cannot be written: after a crash of this node everything will be compared");
                state.give_up();
            }
        }
    }

    fn write_file(&self, state: &mut State, entries: &HashSet<Entry>) -> io::Result<File> {
        let files = self.files.as_ref().ok_or_else(|| io::Error::other("it is not kept"))?;
        // Counts when it is written: the other file is the one that is good until then.
        let seq = state.seq + 1;
        let path = &files[(seq & 1) as usize];
        // Each write is on disk when it returns.
        let file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).custom_flags(libc::O_DSYNC).mode(0o600).open(path)?;
        // The head last: a file whose writing was cut off has an old one.
        let body: Vec<u8> = entries.iter().flat_map(|entry| entry.encode(seq)).collect();
        file.write_all_at(&body, RECORD as u64)?;
        if entries.len() < ENTRIES_MAX {
            file.write_all_at(&[0; RECORD], (RECORD * (1 + entries.len())) as u64)?;
        }
        let mut head = [0; RECORD];
        head[4..8].copy_from_slice(&MAGIC.to_le_bytes());
        head[8..16].copy_from_slice(&seq.to_le_bytes());
        // Entries made before this writing; those in it that it began with do not count again.
        head[16..24].copy_from_slice(&(self.count().wrapping_sub(entries.len() as u64)).to_le_bytes());
        head[24..32].copy_from_slice(&(entries.len() as u64).to_le_bytes());
        file.write_all_at(&seal(head), 0)?;
        level::write_log(&state.roots, state.base, seq)?;
        state.seq = seq;
        Ok(file)
    }
}

/// The log of the copy below these roots, if it is on disk and speaks of this very copy.
pub fn find(marks: &Path, roots: &[OwnedFd]) -> Option<Found> {
    let (base, seq) = level::read_log(roots)?;
    let file = File::open(&files_beside(marks)[(seq & 1) as usize]).ok()?;
    let mut record = [0; RECORD];
    file.read_exact_at(&mut record, 0).ok()?;
    if !is_sealed(&record) || record[4..8] != MAGIC.to_le_bytes() || long(&record, 8) != seq {
        return None;
    }
    let (before, least) = (long(&record, 16), long(&record, 24));
    let mut entries = Vec::new();
    while entries.len() < ENTRIES_MAX && file.read_exact_at(&mut record, (RECORD * (1 + entries.len())) as u64).is_ok() {
        let Some(entry) = Entry::decode(&record, seq) else { break };
        entries.push(entry);
    }
    // Those it began with were there when the head was written: one that cannot be read is damaged.
    if (entries.len() as u64) < least {
        return None;
    }
    Some(Found { base, count: before.wrapping_add(entries.len() as u64), entries })
}

impl Found {
    /// What the entries mean in the tree below a root now: calls `tell` with paths and what may have changed there, some at a
    /// time. Objects that are not there any more are in the names of their directories.
    pub fn resolve(
        &self,
        index: u16,
        root: &OwnedFd,
        mut tell: impl FnMut(Vec<(Vec<u8>, Suspect)>) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let mine: HashSet<Entry> = self.entries.iter().filter(|e| e.dir == index).copied().collect();
        let mut parts: HashMap<u64, Vec<u64>> = HashMap::new();
        for entry in mine.iter().filter(|e| e.kind == Kind::Part) {
            let extents = parts.entry(entry.ino).or_default();
            if entry.extent != ATTRIBUTES {
                extents.push(entry.extent);
            }
        }
        let has = |kind, ino| mine.contains(&Entry { kind, dir: index, ino, extent: 0 });
        // A group is of files or of directories; objects of the other sort among its numbers are no matter. A number that was
        // noted as one sort and is the other now was given away since: what has it is in the names of its directory.
        let suspect = |ino: u64, is_dir: bool| {
            if is_dir {
                let names = has(Kind::Names, ino) || has(Kind::NamesGroup, group_of(ino));
                if has(Kind::Subtree, ino) { Some(Suspect::Subtree) } else { names.then_some(Suspect::Names) }
            } else if has(Kind::Whole, ino) || has(Kind::WholeGroup, group_of(ino)) {
                Some(Suspect::Whole)
            } else {
                let attributes = has(Kind::AttributesGroup, group_of(ino)).then(Vec::new);
                parts.get(&ino).cloned().or(attributes).map(Suspect::Extents)
            }
        };
        let mut batch = Vec::new();
        batch.extend(suspect(ROOT, true).map(|how| (Vec::new(), how)));
        let device = volume::fstat(root.as_raw_fd())?.st_dev;
        let mut todo = vec![Vec::new()];
        let mut told = Instant::now();
        while let Some(path) = todo.pop() {
            // A large tree on a cold disk takes its time: whoever waits hears of it.
            if told.elapsed() > TELL_EVERY {
                told = Instant::now();
                tell(std::mem::take(&mut batch))?;
            }
            let dir = volume::open_beneath(root.as_raw_fd(), &path, libc::O_RDONLY | libc::O_DIRECTORY)?;
            if volume::fstat(dir.as_raw_fd())?.st_dev != device {
                continue;
            }
            for entry in volume::list_dir(dir.as_raw_fd())? {
                let full = volume::join(&path, &entry.name);
                let is_dir = match entry.kind {
                    libc::DT_UNKNOWN => volume::kind(&volume::stat_at(dir.as_raw_fd(), &volume::cstr(&entry.name)?)?) == libc::S_IFDIR,
                    kind => kind == libc::DT_DIR,
                };
                if is_dir {
                    todo.push(full.clone());
                }
                batch.extend(suspect(entry.ino, is_dir).map(|how| (full, how)));
                if batch.len() >= BATCH {
                    tell(std::mem::take(&mut batch))?;
                }
            }
        }
        if batch.is_empty() { Ok(()) } else { tell(batch) }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)] // in a test it is the assertion
    use super::*;
    use std::os::unix::fs::MetadataExt;

    struct Home {
        dir: tempfile::TempDir,
        roots: Vec<OwnedFd>,
    }

    impl Home {
        fn new() -> Self {
            let dir = tempfile::tempdir_in("/var/tmp").unwrap();
            std::fs::create_dir(dir.path().join("copy")).unwrap();
            let roots = vec![File::open(dir.path().join("copy")).unwrap().into()];
            Self { dir, roots }
        }
        fn marks(&self) -> PathBuf {
            self.dir.path().join("copies.json")
        }
        fn log(&self) -> Activity {
            Activity::beside(Some(&self.marks()))
        }
        fn find(&self) -> Option<Found> {
            find(&self.marks(), &self.roots)
        }
        fn resolved(&self) -> Vec<(String, Suspect)> {
            let mut all = Vec::new();
            let tell = |some: Vec<(Vec<u8>, Suspect)>| {
                all.extend(some.into_iter().map(|(path, how)| (String::from_utf8(path).unwrap(), how)));
                Ok(())
            };
            self.find().unwrap().resolve(0, &self.roots[0], tell).unwrap();
            all.sort_by(|a, b| a.0.cmp(&b.0));
            all
        }
    }

    #[test]
    fn an_entry_is_on_disk_until_its_generation_is_flushed() {
        let home = Home::new();
        let copy = home.dir.path().join("copy");
        for name in ["a", "b", "c"] {
            std::fs::write(copy.join(name), "").unwrap();
        }
        let ino = |name: &str| std::fs::metadata(copy.join(name)).unwrap().ino();
        let log = home.log();
        log.range(0, 0, ino("a"), 0, 1);
        assert!(home.find().is_none(), "it is not begun");
        log.begin();
        log.range(0, 0, ino("a"), 5 << 20, 4 << 20);
        log.level(77, &home.roots);
        let found = home.find().unwrap();
        assert_eq!((found.base, found.entries.len(), log.count()), (77, 2, 0));
        log.names(0, 0, ROOT);
        log.names(0, 0, ROOT);
        log.range(1, 0, ino("b"), 0, 0);
        // Noted in an earlier generation, and again in a later one.
        log.range(1, 0, ino("a"), 5 << 20, 1);
        assert_eq!((home.find().unwrap().count, log.count()), (2, 2));
        let wanted = |a: Suspect| vec![(String::new(), Suspect::Names), ("a".into(), a), ("b".into(), Suspect::Extents(vec![]))];
        let mut resolved = home.resolved();
        if let Suspect::Extents(extents) = &mut resolved[1].1 {
            extents.sort_unstable();
        }
        assert_eq!(resolved, wanted(Suspect::Extents(vec![1, 2])));
        log.evict(0);
        assert_eq!(home.resolved(), [("a".to_owned(), Suspect::Extents(vec![1])), ("b".to_owned(), Suspect::Extents(vec![]))]);
        assert_eq!((home.find().unwrap().count, log.count()), (2, 2));
        log.whole(1, 0, ino("c"));
        assert_eq!((home.find().unwrap().count, log.count()), (3, 3));
    }

    #[test]
    fn a_log_that_is_not_of_this_copy_is_none() {
        let home = Home::new();
        let log = home.log();
        log.begin();
        log.prepare().unwrap();
        log.level(1, &home.roots);
        log.whole(0, 0, 20);
        let kept = [0, 1].map(|n| std::fs::read(home.dir.path().join(format!("activity.{n}"))).unwrap_or_default());
        let put_back =
            || kept.iter().enumerate().for_each(|(n, b)| std::fs::write(home.dir.path().join(format!("activity.{n}")), b).unwrap());
        log.whole(0, 0, 200);
        assert_eq!(home.find().unwrap().count, 2);
        // The log's disk is set back: it has fewer entries than the peer was told of.
        put_back();
        assert_eq!((home.find().unwrap().count, log.count()), (1, 2));
        log.evict(0);
        assert!(home.find().is_some());
        log.evict(1);
        put_back();
        assert!(home.find().is_none(), "the copy carries a later number");
        log.evict(0);
        level::clear(&home.roots).unwrap();
        assert!(home.find().is_none(), "the copy went its own way");
    }

    #[test]
    fn many_single_entries_become_one_and_too_many_none() {
        let home = Home::new();
        let log = home.log();
        log.begin();
        log.prepare().unwrap();
        log.level(1, &home.roots);
        (640..700).for_each(|ino| log.whole(0, 0, ino));
        assert!(log.count() < 12, "{} entries for one group", log.count());
        log.new_file(0, 0, 650);
        let before = log.count();
        log.range(0, 0, 651, 0, 4096);
        assert_eq!(log.count(), before, "its group is noted");
        let noted = home.find().unwrap().count;
        assert_eq!(noted, before);
        (0..ENTRIES_MAX as u64 + 10).for_each(|n| log.range(0, 0, 5000, n * EXTENT, 1));
        assert!(home.find().is_none(), "what has no room is missed: also where the peer cannot be told");
        log.evict(0);
        assert_eq!(home.find().unwrap().count, log.count());
    }

    #[test]
    fn files_of_which_only_the_attributes_changed_are_not_compared_whole_however_many_they_are() {
        let home = Home::new();
        let copy = home.dir.path().join("copy");
        let names: Vec<String> = (0..40).map(|n| format!("f{n:02}")).collect();
        let inos: Vec<u64> = names
            .iter()
            .map(|name| {
                std::fs::write(copy.join(name), "").unwrap();
                std::fs::metadata(copy.join(name)).unwrap().ino()
            })
            .collect();
        let log = home.log();
        log.begin();
        log.prepare().unwrap();
        log.level(1, &home.roots);
        inos.iter().for_each(|ino| log.range(0, 0, *ino, 0, 0));
        log.range(0, 0, inos[7], EXTENT, 1);
        // Others make files on the same disk meanwhile: these may lie scattered. Neighbours take few entries.
        let before = log.count();
        (64_000..64_040).for_each(|ino| log.range(0, 1, ino, 0, 0));
        assert!(log.count() - before < 10, "{} entries for a group", log.count() - before);
        let resolved = home.resolved();
        assert!(names.iter().all(|name| resolved.iter().any(|(path, _)| path == name)), "{resolved:?}");
        for (path, how) in &resolved {
            let wanted = if *path == names[7] { vec![1] } else { vec![] };
            assert_eq!(*how, Suspect::Extents(wanted), "{path}");
        }
    }

    #[test]
    fn a_log_whose_beginning_is_damaged_is_none() {
        let home = Home::new();
        let log = home.log();
        log.begin();
        (0..5).for_each(|n| log.subtree(0, 0, 1000 * n));
        log.level(1, &home.roots);
        assert!(home.find().is_some());
        let path = files_beside(&home.marks())[(log.state().seq & 1) as usize].clone();
        OpenOptions::new().write(true).open(path).unwrap().write_all_at(&[0xff], (RECORD * 3 + 9) as u64).unwrap();
        assert!(home.find().is_none(), "{} entries have been made since, and as many would be enough", log.count());
    }

    #[test]
    fn a_torn_entry_ends_the_log() {
        let home = Home::new();
        let log = home.log();
        log.begin();
        log.prepare().unwrap();
        log.level(1, &home.roots);
        (0..3).for_each(|n| log.subtree(0, 0, 1000 * n));
        let path = files_beside(&home.marks())[(log.state().seq & 1) as usize].clone();
        let file = OpenOptions::new().write(true).open(&path).unwrap();
        file.write_all_at(&[0xff], (RECORD * 3 + 9) as u64).unwrap();
        assert_eq!((home.find().unwrap().count, log.count()), (2, 3));
    }
}
