//! The serving side of a resynchronisation: brings a peer level while the application runs.
//!
//! Pass 1 compares everything, or, with a peer whose copy is known but for what is in the map ([`Reach`]), what is in the map; each further pass only what changed meanwhile, which is less each time; the last
//! one runs with the gate held, so that nothing changes any more, and ends in the live stream. Only block hashes
//! of equal files travel, and none of files that the peer has nothing of ([`contents`]). One of everything that is interrupted goes
//! on from its last checkpoint ([`copying`]). A change during a pass is always in the next one's map (see [`Dirty`]).

use super::dirty::{Changed, Collected, Dirty, Names as ChangedNames, Parts};
use super::frame::{Entry, Meta, Msg, SyncMsg};
use super::fs::Volume;
use super::link::Link;
use super::ship::{Phase, Ship};
use super::stream::Stream;
use super::table::Inode;
use super::volume::{self, Stat, join, mtime};
use anyhow::{Context, anyhow, bail};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tsugi_core::copies::Reach;
use tsugi_core::state::Resync;

mod contents;
mod copying;
pub(super) mod suspects;

/// Names per message: some hundred KB.
const NAMES_PER_PIECE: usize = 2000;
/// And bytes of what comes with the names: extended attributes may be many times longer, a frame is limited.
const NAMES_BYTES_PER_PIECE: usize = 4 << 20;
/// Pieces under way: keeps both sides busy, bounds open files and memory.
const PIECES_MAX: usize = 32;
/// After so many passes the rest is done with the application held.
const PASSES_MAX: u32 = 10;
/// A rest this small takes well under a second.
const REST_OBJECTS_MAX: usize = 64;
/// See `REST_OBJECTS_MAX`.
const REST_BYTES_MAX: u64 = 8 << 20;
/// A directory looked at for one file's names may bring up another file; while nothing changes, each once.
const NAME_ROUNDS_MAX: usize = 1000;
/// First and strongest delay of each mutating operation while a resynchronisation does not catch up.
const BRAKE_MIN: Duration = Duration::from_micros(500);
/// See `BRAKE_MIN`.
const BRAKE_MAX: Duration = Duration::from_millis(20);
/// The peer answers each piece within this, however slow its disk; silence is noticed earlier.
const ANSWER_MAX: Duration = Duration::from_secs(120);
/// While the application is held: a peer this slow is not worth the wait, the resynchronisation fails instead.
const ANSWER_MAX_HELD: Duration = Duration::from_secs(5);

pub use copying::Copying;

/// How to go about it.
#[derive(Debug)]
pub struct How {
    /// What has to be compared.
    pub reach: Reach,
    /// Cap on what is sent.
    pub bytes_per_s_max: Option<u64>,
    /// Where to say how far it is.
    pub progress: Progress,
}

/// Progress, for people.
pub type Progress = Arc<Mutex<Option<Resync>>>;

/// See the module.
pub struct Source<'a> {
    volumes: &'a [Arc<Volume>],
    ship: &'a Ship,
    link: &'a Arc<Link>,
    stream: &'a Arc<Stream>,
    answers: Receiver<SyncMsg>,
    progress: Progress,
    started: Instant,
    bytes_per_s_max: Option<u64>,
    compared: u64,
    copied: u64,
    /// Of that, what travelled: the cap counts it.
    travelled: u64,
    strict: bool,
    reach: Reach,
    /// Operations of the application when this last gave way to it.
    operations: u64,
    /// Taken from the map so far: to be given back if it does not reach the peer.
    taken: Vec<Collected>,
    /// Contents that are there since an earlier session are not looked at.
    skips: bool,
    /// How much that is.
    known: u64,
    checkpoints: contents::Checkpoints,
    next_file: u64,
    files: HashMap<u64, contents::Pending>,
    pieces: usize,
    /// Files of which the peer has yet to say whether it has anything.
    asked: HashSet<u64>,
    /// Whether it had nothing of the last one it spoke of; `None`: it has not spoken yet.
    is_fresh: Option<bool>,
    /// Files with several names.
    links: HashMap<FileKey, Names>,
    /// Files all of whose names were looked for; with [`Reach::Whole`] all are met by themselves.
    searched: HashSet<FileKey>,
    /// Files with several names that were met in this pass.
    met: HashSet<FileKey>,
    /// Of those, the ones whose contents were offered in this pass.
    sent: HashSet<FileKey>,
    /// And those to look at again at the end of this pass: their names changed, or the contents were to travel under
    /// a name that may be gone by now.
    unsettled: BTreeSet<FileKey>,
    first_pass: bool,
    later: Vec<SyncMsg>,
    again: Vec<Changed>,
    buffer: Vec<u8>,
}

/// Index of the directory, and inode number.
pub type FileKey = (u16, u64);

/// The names of one file.
#[derive(Default)]
struct Names {
    /// Every name seen, in this order.
    seen: Vec<Vec<u8>>,
    /// The one the file travels under; the others become links to it. Kept while it leads to the file: another one
    /// in each pass would leave a file whose names are all links, and whose contents nobody sends.
    carrier: Vec<u8>,
    /// The peer was told to have a file under the carrier.
    announced: bool,
    /// Its contents have to be offered under the carrier.
    owed: bool,
    /// A regular file: others have no contents.
    regular: bool,
}

/// A name in a directory that has to be looked at next, and its type bits.
type Below = (Vec<u8>, u32);

fn depth(path: &[u8]) -> usize {
    if path.is_empty() { 0 } else { 1 + path.iter().filter(|b| **b == b'/').count() }
}

impl<'a> Source<'a> {
    /// Prepares; nothing is sent yet.
    pub fn new(
        volumes: &'a [Arc<Volume>],
        ship: &'a Ship,
        link: &'a Arc<Link>,
        stream: &'a Arc<Stream>,
        answers: Receiver<SyncMsg>,
        How { reach, bytes_per_s_max, progress }: How,
    ) -> Self {
        Self {
            volumes,
            ship,
            link,
            stream,
            answers,
            progress,
            started: Instant::now(),
            bytes_per_s_max,
            compared: 0,
            copied: 0,
            travelled: 0,
            strict: false,
            reach,
            operations: ship.operations(),
            taken: Vec::new(),
            skips: false,
            known: 0,
            checkpoints: contents::Checkpoints::default(),
            next_file: 1,
            files: HashMap::new(),
            pieces: 0,
            asked: HashSet::new(),
            is_fresh: None,
            links: HashMap::new(),
            searched: HashSet::new(),
            met: HashSet::new(),
            sent: HashSet::new(),
            unsettled: BTreeSet::new(),
            first_pass: true,
            later: Vec::new(),
            again: Vec::new(),
            buffer: vec![0; contents::CHUNK],
        }
    }

    /// Runs to the armed state. On an error the ship is as it was before.
    pub fn run(mut self) -> anyhow::Result<()> {
        let done = self.passes();
        self.ship.brake(Duration::ZERO);
        if done.is_err() {
            let _gate = self.ship.close_gate();
            match self.reach {
                Reach::Noted | Reach::Logged if self.link.is_broken() => self.ship.dirty.give_back(std::mem::take(&mut self.taken)),
                Reach::Whole | Reach::Rest if self.link.is_broken() && self.ship.dirty.copying(|_| ()).is_some() => {
                    self.ship.dirty.pause_copy(std::mem::take(&mut self.taken));
                }
                // Its own error: the same marks would end the same way for ever.
                Reach::Noted | Reach::Logged | Reach::Whole | Reach::Rest => self.ship.dirty.stop(),
            }
        }
        done
    }

    fn passes(&mut self) -> anyhow::Result<()> {
        let dirty = &self.ship.dirty;
        {
            let mut mode = self.ship.close_gate();
            mode.phase = Phase::Sync(self.link.session());
            if self.reach == Reach::Whole {
                dirty.begin_copy();
            }
            dirty.log.begin();
        }
        if let Err(error) = dirty.log.prepare() {
            tracing::warn!(%error, "there is no room for the activity log");
        }
        // What this copy has by now is no matter for the log.
        for volume in self.volumes {
            volume.sync_all().with_context(|| format!("cannot flush {}", volume.name()))?;
        }
        let (files, known) = dirty.copying(|copying| copying.counted()).filter(|_| self.reach == Reach::Rest).unwrap_or_default();
        self.known = known;
        self.report(|p| *p = Resync { files_done: files, files_total: files, bytes_done: known, bytes_total: known, ..Resync::default() });
        match self.reach {
            Reach::Whole | Reach::Rest => {
                self.skips = self.reach == Reach::Rest;
                self.walk_all()?;
                self.finish_pass()?;
                // From here on it is what changed that is looked at.
                self.skips = false;
            }
            Reach::Noted => self.pass(dirty)?,
            Reach::Logged => {
                self.suspects()?;
                self.pass(dirty)?;
            }
        }
        self.first_pass = false;
        let mut before = (usize::MAX, u64::MAX);
        let mut brake = Duration::ZERO;
        for pass in 2..=PASSES_MAX {
            let rest = dirty.size();
            tracing::info!(pass, objects = rest.0, bytes = rest.1, "resynchronisation: changed meanwhile");
            if rest.0 <= REST_OBJECTS_MAX && rest.1 <= REST_BYTES_MAX && self.again.is_empty() {
                break;
            }
            if pass > 2 && rest.1 >= before.1 / 2 {
                // More of the same would not end: the application has to give way a little, and more each time.
                brake = (brake * 2).clamp(BRAKE_MIN, BRAKE_MAX);
                self.ship.brake(brake);
            }
            before = rest;
            self.pass(dirty)?;
        }
        // What is written out now need not be written while the application is held.
        self.flush(1)?;
        self.pass(dirty)?;
        let held = Instant::now();
        let ship = self.ship;
        let mut mode = ship.close_gate();
        self.strict = true;
        self.send(&SyncMsg::Strict, &[])?;
        let changed = self.take(dirty);
        self.collected(changed)?;
        if !self.again.is_empty() {
            bail!("{} objects could not be found for the last pass", self.again.len());
        }
        self.flush(2)?;
        // What the peer had to make anew in this last pass.
        for _ in 0..NAME_ROUNDS_MAX {
            if dirty.is_empty() {
                break;
            }
            let wanted = self.take(dirty);
            self.collected(wanted)?;
            self.flush(2)?;
        }
        if !dirty.is_empty() || !self.again.is_empty() {
            bail!("what the peer makes anew does not end");
        }
        let roots = self.volumes.iter().map(|v| v.open_root()).collect::<io::Result<Vec<_>>>()?;
        let base = rand::random();
        self.send(&SyncMsg::Live { base }, &[])?;
        dirty.level(base, &roots);
        self.ship.arm(&mut mode, self.stream);
        drop(mode);
        tracing::info!(held_ms = held.elapsed().as_millis(), compared = self.compared, copied = self.copied, "the peer is level");
        Ok(())
    }

    fn pass(&mut self, dirty: &Dirty) -> anyhow::Result<()> {
        let changed = {
            let _gate = self.ship.close_gate();
            self.take(dirty)
        };
        self.collected(changed)
    }

    /// The caller holds the gate alone.
    fn take(&mut self, dirty: &Dirty) -> Collected {
        let taken = dirty.take();
        self.taken.push(taken.clone());
        if self.is_whole() && !self.can_go_on() {
            // It cannot go on after an interruption, or what it takes for that takes too much room.
            self.taken.clear();
            dirty.forget_copy();
        }
        taken
    }

    /// Every name is walked.
    fn is_whole(&self) -> bool {
        matches!(self.reach, Reach::Whole | Reach::Rest)
    }

    /// What was taken can be given back: it is no more than what can be named.
    fn can_go_on(&self) -> bool {
        let count = |taken: &Collected| if let Collected::Objects(objects) = taken { Some(objects.len()) } else { None };
        self.taken.iter().map(count).sum::<Option<usize>>().is_some_and(|all| all <= self.ship.dirty.objects_max())
    }

    fn collected(&mut self, changed: Collected) -> anyhow::Result<()> {
        match changed {
            Collected::Objects(changed) => self.changes(changed)?,
            Collected::Everything => {
                self.again.clear();
                self.walk_all()?;
            }
        }
        self.finish_pass()
    }

    fn walk_all(&mut self) -> anyhow::Result<()> {
        let volumes = self.volumes;
        for volume in volumes {
            self.walk(volume, Vec::new())?;
        }
        Ok(())
    }

    /// Sends a message, with contents or none; how many bytes travelled for these.
    fn send(&self, msg: &SyncMsg, contents: &[u8]) -> anyhow::Result<u64> {
        let msg = Msg::Sync(msg.clone());
        let sent = self.stream.compressor().shorten(contents, |data| self.link.send_data(0, &msg, data).map(|()| data.bytes.len() as u64));
        sent.context("the connection broke during the resynchronisation")
    }

    fn report(&self, change: impl FnOnce(&mut Resync)) {
        let mut progress = self.progress.lock().unwrap_or_else(PoisonError::into_inner);
        let p = progress.get_or_insert_with(Resync::default);
        change(p);
        let ms = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX).max(1);
        p.bytes_copied = self.copied;
        p.rate = p.bytes_done.saturating_sub(self.known).saturating_mul(1000) / ms;
    }

    /// What cannot be found is somebody's change in progress before the last pass, and an error in it.
    fn tolerate<T>(&self, result: io::Result<T>, path: &[u8]) -> anyhow::Result<Option<T>> {
        match result {
            Ok(value) => Ok(Some(value)),
            Err(e) if volume::is_gone(&e) && !self.strict => Ok(None),
            Err(e) => Err(anyhow!(e).context(format!("cannot read {}", String::from_utf8_lossy(path)))),
        }
    }

    /// Everything below a directory, itself included.
    fn walk(&mut self, volume: &Arc<Volume>, path: Vec<u8>) -> anyhow::Result<()> {
        let mut todo = vec![(path, false)];
        while let Some((path, done)) = todo.pop() {
            if done {
                self.dir_times(volume, &path)?;
                continue;
            }
            let Some(entries) = self.directory(volume, &path, &Extent::Tree)? else { continue };
            todo.push((path.clone(), true));
            for (name, kind) in entries {
                let below = join(&path, &name);
                match kind {
                    libc::S_IFDIR => todo.push((below, false)),
                    _ => {
                        // Gone again: whoever took the name away also marked what has to be looked at.
                        self.file(volume, &below, &Parts::Whole, None)?;
                    }
                }
            }
        }
        Ok(())
    }

    fn dir_times(&mut self, volume: &Volume, path: &[u8]) -> anyhow::Result<()> {
        let root = volume.table().root().fd();
        let opened = volume::open_beneath(root.as_raw_fd(), path, libc::O_PATH | libc::O_NOFOLLOW);
        let Some(fd) = self.tolerate(opened, path)? else { return Ok(()) };
        let at = mtime(&volume::fstat(fd.as_raw_fd())?);
        self.later.push(SyncMsg::DirTimes { dir: volume.index(), path: path.to_vec(), mtime: at });
        Ok(())
    }

    /// Sends a directory; returns its subdirectories and the files whose contents travel under these names.
    fn directory(&mut self, volume: &Volume, path: &[u8], extent: &Extent) -> anyhow::Result<Option<Vec<Below>>> {
        let root_fd = volume.table().root().fd();
        let root = root_fd.as_raw_fd();
        let opened = volume::open_beneath(root, path, libc::O_RDONLY | libc::O_DIRECTORY);
        let Some(fd) = self.tolerate(opened, path)? else { return Ok(None) };
        let st = volume::fstat(fd.as_raw_fd())?;
        let meta = meta(&st, fd.as_raw_fd())?;
        let mut found = Vec::new();
        let mut entries = Vec::new();
        let mut bytes = 0;
        let dir = volume.index();
        let only = if let Extent::Names(ChangedNames::Some(names)) = extent { Some(names.clone()) } else { None };
        let names = match &only {
            Some(names) => names.iter().cloned().collect(),
            None => volume::list_dir(fd.as_raw_fd())?.into_iter().map(|n| n.name).collect::<Vec<_>>(),
        };
        for name in names {
            let full = join(path, &name);
            let c_name = volume::cstr(&name)?;
            if volume.excluded().is_excluded_entry(|| Ok(path), &name, || volume::is_dir_at(fd.as_raw_fd(), &c_name))? {
                continue;
            }
            let object = match volume::open_path_at(fd.as_raw_fd(), &c_name) {
                // Of changed names some are gone: that is the change.
                Err(e) if only.is_some() && e.raw_os_error() == Some(libc::ENOENT) => continue,
                opened => match self.tolerate(opened, &full)? {
                    Some(object) => object,
                    None => continue,
                },
            };
            let below = volume::fstat(object.as_raw_fd())?;
            if below.st_dev != st.st_dev {
                tracing::warn!(path = %String::from_utf8_lossy(&full), "another file system is mounted here; it is not replicated");
                continue;
            }
            let entry = self.entry(volume, &full, name.clone(), &below, &object, *extent == Extent::Tree)?;
            match volume::kind(&below) {
                libc::S_IFDIR => found.push((name, libc::S_IFDIR)),
                libc::S_IFREG if !entry.linked => {
                    // Of names alone the contents do not follow, or are counted when they do.
                    if *extent == Extent::Tree && !self.is_there((dir, below.st_ino), &below) {
                        self.report(|p| {
                            p.files_total += 1;
                            p.bytes_total += below.st_size.unsigned_abs();
                        });
                    }
                    found.push((name, libc::S_IFREG));
                }
                _ => {}
            }
            let weight = weight(&entry);
            if entries.len() >= NAMES_PER_PIECE || (bytes + weight > NAMES_BYTES_PER_PIECE && !entries.is_empty()) {
                let entries = std::mem::take(&mut entries);
                bytes = 0;
                self.send(&SyncMsg::Dir { dir, path: path.to_vec(), meta: meta.clone(), entries, only: None, last: false }, &[])?;
            }
            bytes += weight;
            entries.push(entry);
        }
        self.send(&SyncMsg::Dir { dir, path: path.to_vec(), meta, entries, only, last: true }, &[])?;
        // The peer may have something to say to each: its answers are not to pile up.
        self.serve(PIECES_MAX)?;
        Ok(Some(found))
    }

    fn entry(&mut self, volume: &Volume, full: &[u8], name: Vec<u8>, st: &Stat, object: &OwnedFd, in_tree: bool) -> anyhow::Result<Entry> {
        let kind = volume::kind(st);
        let mut linked = false;
        let key = (volume.index(), st.st_ino);
        // The last name of several counts too: it may have been a link until now.
        if kind != libc::S_IFDIR && (st.st_nlink > 1 || self.links.contains_key(&key)) {
            if !self.searched.contains(&key) {
                self.met.insert(key);
            }
            let names = self.links.entry(key).or_default();
            names.regular = kind == libc::S_IFREG;
            let moved = names.settle(volume, st.st_ino, Some(full));
            linked = names.carrier != full;
            names.announced |= !linked;
            names.owed |= in_tree && !self.strict && !self.sent.contains(&key);
            if linked {
                self.later.push(SyncMsg::Link { dir: volume.index(), path: full.to_vec(), same_as: names.carrier.clone() });
            }
            // In a walk the contents travel later than the name, which may be gone by then while others are left.
            if in_tree || moved {
                self.unsettled.insert(key);
            }
        }
        let target = if kind == libc::S_IFLNK { volume::readlink_fd(object.as_raw_fd())? } else { Vec::new() };
        let meta = meta(st, object.as_raw_fd())?;
        Ok(Entry { name, meta, ino: st.st_ino, nlink: st.st_nlink, rdev: st.st_rdev, target, linked })
    }

    /// All contents sent; then what needs the names of the whole pass: links, and the directories' times.
    fn finish_pass(&mut self) -> anyhow::Result<()> {
        self.serve(0)?;
        self.list_met()?;
        let owed = self.settle_names()?;
        self.send_links()?;
        for (key, path) in owed {
            let volume = self.volume(key.0)?.clone();
            if !self.file(&volume, &path, &Parts::Whole, Some(key.1))? {
                // Gone again; the next pass finds the name that is left.
                self.unsettled.insert(key);
            }
        }
        // `serve(0)` returns with nothing under way.
        self.serve(0)?;
        for msg in std::mem::take(&mut self.later) {
            self.send(&msg, &[])?;
        }
        self.sent.clear();
        Ok(())
    }

    /// Makes all names of each unsettled file links to its carrier; returns the files whose contents are owed.
    fn settle_names(&mut self) -> anyhow::Result<Vec<(FileKey, Vec<u8>)>> {
        let mut owed = Vec::new();
        for _ in 0..NAME_ROUNDS_MAX {
            for key in std::mem::take(&mut self.unsettled) {
                let volume = self.volume(key.0)?.clone();
                let Some(names) = self.links.get_mut(&key) else { continue };
                let moved = names.settle(&volume, key.1, None);
                if names.carrier.is_empty() {
                    // No name is left; one that comes back was marked, and is seen again.
                    self.links.remove(&key);
                    continue;
                }
                let carrier = names.carrier.clone();
                if names.owed && names.regular {
                    owed.push((key, carrier.clone()));
                }
                if !names.announced {
                    // So far the peer took it for a link to a name that is gone.
                    self.directory(&volume, parent(&carrier), &Extent::of(&carrier))?;
                    self.dir_times(&volume, parent(&carrier))?;
                }
                let Some(names) = self.links.get_mut(&key) else { continue };
                if !names.announced {
                    self.unsettled.insert(key);
                }
                if moved || !self.first_pass {
                    names.seen.retain(|name| leads_to(&volume, name, key.1));
                    let others = names.seen.iter().filter(|name| **name != carrier);
                    let link = |name: &Vec<u8>| SyncMsg::Link { dir: key.0, path: name.clone(), same_as: carrier.clone() };
                    self.later.extend(others.map(link));
                }
            }
            // What the directories brought up: for the next pass, or now if there is none.
            if self.unsettled.is_empty() || !self.strict {
                return Ok(owed);
            }
        }
        bail!("the names of {} files with several names do not settle", self.unsettled.len())
    }

    fn send_links(&mut self) -> anyhow::Result<()> {
        let (links, rest) = std::mem::take(&mut self.later).into_iter().partition(|m| matches!(m, SyncMsg::Link { .. }));
        self.later = rest;
        for link in Vec::<SyncMsg>::from_iter(links) {
            self.send(&link, &[])?;
        }
        Ok(())
    }

    fn patience(&self) -> Duration {
        if self.strict { ANSWER_MAX_HELD } else { ANSWER_MAX }
    }

    fn flush(&mut self, number: u64) -> anyhow::Result<()> {
        self.send(&SyncMsg::Flush { number }, &[])?;
        loop {
            match self.answers.recv_timeout(self.patience()) {
                Ok(SyncMsg::Flushed { number: n }) if n == number => return Ok(()),
                Ok(SyncMsg::Want { dir, paths }) => self.wanted(dir, paths)?,
                Ok(_) => bail!("an unexpected answer to a flush"),
                Err(RecvTimeoutError::Timeout) => bail!("the peer did not flush within {} s", self.patience().as_secs()),
                Err(RecvTimeoutError::Disconnected) => bail!("the connection broke during the resynchronisation"),
            }
        }
    }

    /// One pass over what changed.
    fn changes(&mut self, changed: Vec<Changed>) -> anyhow::Result<()> {
        // Parents first, so that what is below has where to be.
        let mut dirs = Extents::new();
        let mut files: Vec<(Vec<u8>, Parts, Changed)> = Vec::new();
        let changed: Vec<_> = std::mem::take(&mut self.again).into_iter().chain(changed).collect();
        self.search_names(&changed)?;
        for change in changed {
            let volume = self.volume(change.dir)?.clone();
            let Some(path) = self.locate(&volume, &change)? else { continue };
            if change.linked {
                let key = (change.dir, change.inode.id);
                let known = self.links.get(&key).map_or(&[][..], |names| names.seen.as_slice());
                let known = known.iter().filter(|name| leads_to(&volume, name, change.inode.id));
                for name in known.chain([&path]) {
                    Extent::of(name).into_map(&mut dirs, change.dir, parent(name));
                }
            }
            if change.subtree {
                Extent::Tree.into_map(&mut dirs, change.dir, &path);
            } else if let Some(names) = &change.names {
                Extent::Names(names.clone()).into_map(&mut dirs, change.dir, &path);
            }
            if let Some(parts) = change.parts.clone().filter(|_| change.inode.is_file()) {
                files.push((path, parts, change));
            }
        }
        let mut walked: BTreeSet<(u16, Vec<u8>)> = BTreeSet::new();
        let inside = |walked: &BTreeSet<(u16, Vec<u8>)>, dir: u16, path: &[u8]| {
            let cuts = path.iter().enumerate().filter(|(_, b)| **b == b'/').map(|(at, _)| at);
            cuts.chain([path.len()]).any(|at| walked.contains(&(dir, path[..at].to_vec())))
        };
        for ((_, dir, path), extent) in dirs {
            if inside(&walked, dir, &path) {
                continue;
            }
            let volume = self.volume(dir)?.clone();
            match extent {
                Extent::Names(_) => {
                    self.directory(&volume, &path, &extent)?;
                    self.dir_times(&volume, &path)?;
                }
                Extent::Tree => {
                    self.walk(&volume, path.clone())?;
                    walked.insert((dir, path));
                }
            }
        }
        // Links before contents: a file's contents may travel under a name that is linked only now.
        self.send_links()?;
        for (path, parts, change) in files {
            let volume = self.volume(change.dir)?.clone();
            let names = self.links.get_mut(&(change.dir, change.inode.id));
            // Of several names the peer certainly has the carrier.
            let path = names.filter(|n| leads_to(&volume, &n.carrier, change.inode.id)).map_or(path, |n| n.carrier.clone());
            if !self.file(&volume, &path, &parts, Some(change.inode.id))? {
                // The name went meanwhile, perhaps to leave others; what was marked under it is still to be sent.
                self.again.push(change);
            }
        }
        Ok(())
    }

    /// Finds all names of the files among these that got a further name or another one.
    fn search_names(&mut self, changed: &[Changed]) -> anyhow::Result<()> {
        let several = |c: &&Changed| c.linked && volume::fstat(c.inode.fd().as_raw_fd()).is_ok_and(|st| st.st_nlink > 1);
        let wanted = changed.iter().filter(several).map(|c| (c.dir, c.inode.id)).collect();
        self.search(wanted).map(drop)
    }

    /// Where not everything is walked, the peer would keep the names that are not met for those of another file: all of
    /// them are looked for. Returns the files that were not known before.
    fn search(&mut self, wanted: HashSet<FileKey>) -> anyhow::Result<HashSet<FileKey>> {
        if self.is_whole() {
            return Ok(HashSet::new());
        }
        let wanted: HashSet<FileKey> = wanted.into_iter().filter(|key| !self.searched.contains(key)).collect();
        let volumes = self.volumes;
        for volume in volumes.iter().filter(|v| wanted.iter().any(|(dir, _)| *dir == v.index())) {
            let root = volume.table().root().fd();
            let mut todo = vec![Vec::new()];
            let device = volume::fstat(root.as_raw_fd())?.st_dev;
            while let Some(path) = todo.pop() {
                if self.link.is_broken() {
                    bail!("the connection broke during the resynchronisation");
                }
                let opened = volume::open_beneath(root.as_raw_fd(), &path, libc::O_RDONLY | libc::O_DIRECTORY);
                let Some(fd) = self.tolerate(opened, &path)? else { continue };
                if volume::fstat(fd.as_raw_fd())?.st_dev != device {
                    continue;
                }
                for entry in volume::list_dir(fd.as_raw_fd())? {
                    let full = join(&path, &entry.name);
                    let key = (volume.index(), entry.ino);
                    let is_dir = match entry.kind {
                        libc::DT_UNKNOWN => {
                            volume::stat_at(fd.as_raw_fd(), &volume::cstr(&entry.name)?).is_ok_and(|st| volume::kind(&st) == libc::S_IFDIR)
                        }
                        kind => kind == libc::DT_DIR,
                    };
                    if volume.excluded().is_excluded_entry(|| Ok(&path), &entry.name, || Ok(is_dir))? {
                        continue;
                    }
                    if is_dir {
                        todo.push(full);
                    } else if wanted.contains(&key) {
                        let names = self.links.entry(key).or_default();
                        if !names.seen.contains(&full) {
                            names.seen.push(full);
                        }
                    }
                }
            }
        }
        self.searched.extend(wanted.iter().copied());
        Ok(wanted)
    }

    /// Lists every name of the files with several names that this pass met for the first time.
    fn list_met(&mut self) -> anyhow::Result<()> {
        while !self.met.is_empty() {
            let met = std::mem::take(&mut self.met);
            for key in self.search(met)? {
                let volume = self.volume(key.0)?.clone();
                let names = self.links.get(&key).map_or_else(Vec::new, |names| names.seen.clone());
                for name in names.iter().filter(|name| leads_to(&volume, name, key.1)) {
                    self.directory(&volume, parent(name), &Extent::of(name))?;
                    self.dir_times(&volume, parent(name))?;
                }
                self.unsettled.insert(key);
            }
        }
        Ok(())
    }

    fn volume(&self, dir: u16) -> anyhow::Result<&'a Arc<Volume>> {
        self.volumes.get(usize::from(dir)).ok_or_else(|| anyhow!("directory number {dir} is not served"))
    }

    fn locate(&mut self, volume: &Volume, change: &Changed) -> anyhow::Result<Option<Vec<u8>>> {
        let inode: &Inode = &change.inode;
        if !inode.replicated() {
            return Ok(None);
        }
        let root = volume.table().root();
        let path = if self.strict { inode.path_searched(root, volume.excluded()) } else { inode.path(root) };
        match path {
            Ok(path) => Ok(Some(path)),
            Err(_) if volume::fstat(inode.fd().as_raw_fd())?.st_nlink == 0 => Ok(None),
            // Everything was looked through while nothing changed: the names it has are outside of this tree.
            Err(e) if self.strict && e.raw_os_error() == Some(libc::ENOENT) => Ok(None),
            Err(e) if self.strict => Err(anyhow!(e).context("cannot find a changed file")),
            Err(_) => {
                // On its way from one name to another: the next pass finds it.
                self.again.push(change.clone());
                Ok(None)
            }
        }
    }
}

/// How much of a changed directory has to be looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Extent {
    Names(ChangedNames),
    Tree,
}

/// By depth, so that parents come first, index of directory and path.
type Extents = BTreeMap<(usize, u16, Vec<u8>), Extent>;

impl Extent {
    /// Of the parent of this path: it alone.
    fn of(path: &[u8]) -> Self {
        let name = path.iter().rposition(|b| *b == b'/').map_or(path, |at| &path[at + 1..]);
        Self::Names(ChangedNames::Some(BTreeSet::from([name.to_vec()])))
    }

    fn into_map(self, dirs: &mut Extents, dir: u16, path: &[u8]) {
        match dirs.entry((depth(path), dir, path.to_vec())) {
            std::collections::btree_map::Entry::Vacant(free) => drop(free.insert(self)),
            std::collections::btree_map::Entry::Occupied(mut known) => match (known.get_mut(), self) {
                (Self::Names(mine), Self::Names(others)) => mine.add(others),
                (known, _) => *known = Self::Tree,
            },
        }
    }
}

impl Names {
    /// Keeps or chooses the carrier among the names that lead to the file now, which is said of `found`; true if it
    /// is another than before.
    fn settle(&mut self, volume: &Volume, ino: u64, found: Option<&[u8]>) -> bool {
        if let Some(found) = found.filter(|found| !self.seen.iter().any(|n| n == found)) {
            self.seen.push(found.to_vec());
        }
        if !self.carrier.is_empty() && leads_to(volume, &self.carrier, ino) {
            return false;
        }
        self.seen.retain(|name| found.is_some_and(|f| f == name.as_slice()) || leads_to(volume, name, ino));
        let first = self.carrier.is_empty();
        self.carrier = self.seen.first().cloned().unwrap_or_default();
        self.announced = false;
        self.owed = true;
        !first
    }
}

fn leads_to(volume: &Volume, name: &[u8], ino: u64) -> bool {
    volume::open_beneath(volume.table().root().fd().as_raw_fd(), name, libc::O_PATH | libc::O_NOFOLLOW)
        .and_then(|fd| volume::fstat(fd.as_raw_fd()))
        .is_ok_and(|there| there.st_ino == ino && volume::kind(&there) != libc::S_IFDIR)
}

fn parent(path: &[u8]) -> &[u8] {
    path.iter().rposition(|b| *b == b'/').map_or(&[], |at| &path[..at])
}

/// About how many bytes an entry takes in a message.
fn weight(entry: &Entry) -> usize {
    /// Numbers and lengths.
    const FIXED: usize = 64;
    let xattrs: usize = entry.meta.xattrs.iter().map(|(name, value)| name.len() + value.len() + 8).sum();
    FIXED + entry.name.len() + entry.target.len() + xattrs
}

fn meta(st: &Stat, fd: i32) -> io::Result<Meta> {
    Ok(Meta { mode: st.st_mode, uid: st.st_uid, gid: st.st_gid, mtime: mtime(st), xattrs: volume::xattrs(fd)? })
}
