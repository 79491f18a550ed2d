//! What changed and may not be at the peer: noted before each change, while the peer is there and while it is away.
//!
//! Invariants:
//! * a mark is made before the change, by whoever is inside the gate ([`Turn`]); the walker takes the whole map with the
//!   gate held alone. So a change is either in the map that was taken or in the next one, and what the walker reads after
//!   taking the map needs no lock;
//! * while there is a [`Base`], every difference between this tree and the peer's last flushed one is in the map. The peer
//!   says so by the same base ([`super::level`]); then only what is in the map has to be compared;
//! * while there is a [`Copying`], everything that changed since that whole copy was begun is in the map, or was taken and is given
//!   back when it is interrupted;
//! * marks go into the generation their operation began in. A checkpoint ends a generation, waits until nobody is inside
//!   who began in it, and has the peer flush everything sent until then; only then its marks are forgotten.

use super::activity::Activity;
use super::sync::Copying;
use super::table::Inode;
use super::volume;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Unit of comparison between the two sides.
pub const BLOCK: u64 = 64 * 1024;
/// Blocks per piece of a file's bitmap: 64 MiB of file in 128 bytes.
const PIECE_BLOCKS: u64 = 1024;
/// Beyond this many pieces a file counts as changed everywhere: 4 TiB, which is 8 MiB here.
const PIECES_MAX: u64 = 65_536;
/// Beyond this many objects everything counts as changed: each holds a descriptor until the next checkpoint or pass.
const OBJECTS_MAX: u64 = 65_536;
/// And beyond this share of the descriptors this process may have.
const OBJECTS_SHARE: u64 = 8;

/// So many names count as one object.
const NAMES_PER_OBJECT: usize = 16;
/// Beyond this many changed names a directory is compared as a whole.
const NAMES_MAX: usize = 4096;

/// Blocks of a file.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Blocks(BTreeMap<u64, [u64; (PIECE_BLOCKS / 64) as usize]>);

impl Blocks {
    /// Adds the blocks of a range of bytes; false, and nothing, if they would be too many to name.
    #[must_use]
    pub fn add(&mut self, offset: u64, length: u64) -> bool {
        if length == 0 {
            return true;
        }
        let (first, last) = (offset / BLOCK, (offset.saturating_add(length) - 1) / BLOCK);
        if (last - first) / PIECE_BLOCKS >= PIECES_MAX || self.0.len() as u64 >= PIECES_MAX {
            return false;
        }
        for piece in first / PIECE_BLOCKS..=last / PIECE_BLOCKS {
            let bits = self.0.entry(piece).or_default();
            let begin = first.max(piece * PIECE_BLOCKS) % PIECE_BLOCKS;
            let end = last.min(piece * PIECE_BLOCKS + PIECE_BLOCKS - 1) % PIECE_BLOCKS;
            for word in begin / 64..=end / 64 {
                let low = if word == begin / 64 { begin % 64 } else { 0 };
                let high = if word == end / 64 { end % 64 } else { 63 };
                bits[word as usize] |= (u64::MAX << low) & (u64::MAX >> (63 - high));
            }
        }
        true
    }

    fn add_all(&mut self, other: &Self) {
        for (piece, bits) in &other.0 {
            let mine = self.0.entry(*piece).or_default();
            mine.iter_mut().zip(bits).for_each(|(mine, bits)| *mine |= bits);
        }
    }

    /// Number of blocks.
    pub fn count(&self) -> u64 {
        self.0.values().flatten().map(|word| u64::from(word.count_ones())).sum()
    }

    /// The blocks, in order.
    pub fn iter(&self) -> impl Iterator<Item = u64> + '_ {
        self.0.iter().flat_map(|(piece, bits)| {
            (0..PIECE_BLOCKS).filter(|bit| bits[(bit / 64) as usize] >> (bit % 64) & 1 == 1).map(move |bit| piece * PIECE_BLOCKS + bit)
        })
    }
}

/// Changed parts of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Parts {
    /// These blocks, and the attributes.
    Blocks(Blocks),
    /// Anything.
    Whole,
}

/// Changed names of a directory. Its own attributes may have changed with any of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Names {
    /// These.
    Some(BTreeSet<Vec<u8>>),
    /// Any.
    All,
}

impl Names {
    /// Adds what another one has.
    pub fn add(&mut self, other: Self) {
        match (&mut *self, other) {
            (Self::Some(mine), Self::Some(others)) => {
                mine.extend(others);
                if mine.len() > NAMES_MAX {
                    *self = Self::All;
                }
            }
            _ => *self = Self::All,
        }
    }
}

/// One object with changes.
#[derive(Debug, Clone)]
pub struct Changed {
    /// The object.
    pub inode: Arc<Inode>,
    /// Its index of directory.
    pub dir: u16,
    /// Contents or attributes of a file changed.
    pub parts: Option<Parts>,
    /// Names in this directory, or its own attributes, changed.
    pub names: Option<Names>,
    /// Moved here with everything below.
    pub subtree: bool,
    /// Got a further name or another one: the directories of all of them must be looked at as well.
    pub linked: bool,
}

impl Changed {
    fn nothing(dir: u16, inode: &Arc<Inode>) -> Self {
        Self { inode: inode.clone(), dir, parts: None, names: None, subtree: false, linked: false }
    }

    fn names_noted(&self) -> usize {
        match &self.names {
            Some(Names::Some(names)) => names.len(),
            Some(Names::All) | None => 0,
        }
    }

    fn add(&mut self, other: Self) {
        match (&mut self.names, other.names) {
            (Some(mine), Some(others)) => mine.add(others),
            (None, others) => self.names = others,
            (Some(_), None) => {}
        }
        self.subtree |= other.subtree;
        self.linked |= other.linked;
        self.parts = match (self.parts.take(), other.parts) {
            (Some(Parts::Blocks(mut mine)), Some(Parts::Blocks(others))) => {
                mine.add_all(&others);
                Some(Parts::Blocks(mine))
            }
            (Some(_), Some(_)) => Some(Parts::Whole),
            (one, other) => one.or(other),
        };
    }
}

/// The state of the peer's copy against which the map counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Base {
    /// Made when the peer was level, and told to it.
    pub id: u128,
    /// The last operation the peer is known to have flushed since.
    pub flushed: u64,
    /// The last one sent since. A peer that has more was there before this node was set back.
    pub sent: u64,
    /// The peer was the source, and did not hand over: entries it had made in its activity log by then, at least.
    pub logged: Option<u64>,
}

/// See the module.
pub struct Dirty {
    is_on: AtomicBool,
    generation: AtomicU64,
    /// Operations inside that began in an even and in an odd generation.
    inside: [AtomicUsize; 2],
    map: Mutex<Map>,
    objects_max: usize,
    /// The same on disk, coarser.
    pub log: Activity,
}

#[derive(Default)]
struct Map {
    /// Of even and of odd generations: at most two have marks.
    marks: [Marked; 2],
    base: Option<Base>,
    /// Since when everything is noted, where there is no base.
    copying: Option<Copying>,
}

#[derive(Default)]
struct Marked {
    objects: HashMap<(u16, u64), Changed>,
    /// Names noted in all of them, which take room of their own.
    names: usize,
    everything: bool,
}

impl Marked {
    fn is_empty(&self) -> bool {
        !self.everything && self.objects.is_empty()
    }

    fn add(&mut self, change: Changed, objects_max: usize) {
        if self.everything {
            return;
        }
        match self.objects.entry((change.dir, change.inode.id)) {
            std::collections::hash_map::Entry::Occupied(mut known) => {
                self.names -= known.get().names_noted();
                known.get_mut().add(change);
                self.names += known.get().names_noted();
            }
            std::collections::hash_map::Entry::Vacant(free) => {
                self.names += change.names_noted();
                free.insert(change);
            }
        }
        self.bound(objects_max);
    }

    fn remove(&mut self, key: (u16, u64)) {
        self.names -= self.objects.remove(&key).map_or(0, |gone| gone.names_noted());
    }

    fn bound(&mut self, objects_max: usize) {
        if self.objects.len() > objects_max || self.names / NAMES_PER_OBJECT > objects_max {
            *self = Self { everything: true, ..Self::default() };
        }
    }

    fn add_all(&mut self, other: Self, objects_max: usize) {
        if other.everything {
            *self = other;
            return;
        }
        other.objects.into_values().for_each(|change| self.add(change, objects_max));
    }
}

/// What was collected.
#[derive(Clone)]
pub enum Collected {
    /// These objects.
    Objects(Vec<Changed>),
    /// Too much to name.
    Everything,
}

/// What is noted of an object: the index of its directory, and the names of it that changed, if it is one.
pub type Noted = (u16, Arc<Inode>, Vec<Vec<u8>>);

/// One operation inside the gate.
pub struct Turn<'a> {
    of: &'a Dirty,
    generation: u64,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.of.inside[(self.generation & 1) as usize].fetch_sub(1, Ordering::AcqRel);
    }
}

/// Where an operation makes its marks; nowhere if nobody will ask for them.
#[derive(Clone, Copy)]
pub struct Marks<'a> {
    to: Option<(&'a Dirty, u64)>,
    dir: u16,
}

impl Marks<'_> {
    fn entry(self, inode: &Arc<Inode>, change: impl FnOnce(&mut Changed)) {
        let Some((dirty, generation)) = self.to else { return };
        let mut map = dirty.map();
        let marked = &mut map.marks[(generation & 1) as usize];
        if marked.everything {
            return;
        }
        if let Some(known) = marked.objects.get_mut(&(self.dir, inode.id)) {
            let before = known.names_noted();
            change(known);
            marked.names = marked.names + known.names_noted() - before;
            marked.bound(dirty.objects_max);
            return;
        }
        let mut fresh = Changed::nothing(self.dir, inode);
        change(&mut fresh);
        marked.add(fresh, dirty.objects_max);
    }

    /// The object has no name any more.
    pub fn removed(self, inode: &Inode) {
        let Some((dirty, _)) = self.to else { return };
        dirty.map().marks.iter_mut().for_each(|marked| marked.remove((self.dir, inode.id)));
    }

    fn log(self, note: impl FnOnce(&Activity, u64, u16)) {
        if let Some((dirty, generation)) = self.to {
            note(&dirty.log, generation, self.dir);
        }
    }

    /// A range of a file is about to change.
    pub fn range(self, inode: &Arc<Inode>, offset: u64, length: u64) {
        self.log(|log, generation, dir| log.range(generation, dir, inode.id, offset, length));
        self.entry(inode, |c| match c.parts.get_or_insert_with(|| Parts::Blocks(Blocks::default())) {
            Parts::Whole => {}
            Parts::Blocks(blocks) => {
                if !blocks.add(offset, length) {
                    c.parts = Some(Parts::Whole);
                }
            }
        });
    }

    /// Attributes are about to change.
    pub fn attributes(self, inode: &Arc<Inode>) {
        if inode.is_dir() {
            self.log(|log, generation, dir| log.names(generation, dir, inode.id));
            self.entry(inode, |c| {
                c.names.get_or_insert_with(|| Names::Some(BTreeSet::new()));
            });
        } else {
            self.range(inode, 0, 0);
        }
        if !inode.is_dir() && !inode.is_file() {
            // Links and device nodes travel with their directory.
            self.linked(inode);
        }
    }

    /// Anything of a new file may change.
    pub fn whole(self, inode: &Arc<Inode>) {
        self.log(|log, generation, dir| log.new_file(generation, dir, inode.id));
        self.entry(inode, |c| c.parts = Some(Parts::Whole));
    }

    /// A name in a directory is about to change.
    pub fn name(self, inode: &Arc<Inode>, name: &[u8]) {
        self.log(|log, generation, dir| log.names(generation, dir, inode.id));
        self.entry(inode, |c| {
            let noted = match &c.names {
                Some(Names::Some(names)) => names.contains(name),
                Some(Names::All) => true,
                None => false,
            };
            if !noted {
                let one = Names::Some(BTreeSet::from([name.to_vec()]));
                match &mut c.names {
                    Some(names) => names.add(one),
                    none => *none = Some(one),
                }
            }
        });
    }

    /// A new directory: what the peer has under its name may be an earlier one.
    pub fn names(self, inode: &Arc<Inode>) {
        self.log(|log, generation, dir| log.names(generation, dir, inode.id));
        self.entry(inode, |c| c.names = Some(Names::All));
    }

    /// A directory appears under a new name with everything below it.
    pub fn subtree(self, inode: &Arc<Inode>) {
        self.log(|log, generation, dir| log.subtree(generation, dir, inode.id));
        self.entry(inode, |c| {
            c.names = Some(Names::All);
            c.subtree = true;
        });
    }

    /// An object is about to lose a name. After a power failure it may have it back, and be taken for what came after it.
    pub fn victim(self, inode: &Inode) {
        self.log(|log, generation, dir| {
            if inode.is_dir() {
                log.names(generation, dir, inode.id);
            } else {
                log.whole(generation, dir, inode.id);
            }
        });
    }

    /// A file gets a further name or another one.
    pub fn linked(self, inode: &Arc<Inode>) {
        self.log(|log, generation, dir| log.whole(generation, dir, inode.id));
        self.entry(inode, |c| {
            c.parts = Some(Parts::Whole);
            c.linked = true;
        });
    }
}

impl Default for Dirty {
    /// Nothing is noted yet: no peer was ever level.
    fn default() -> Self {
        Self {
            is_on: AtomicBool::new(false),
            generation: AtomicU64::new(0),
            inside: [AtomicUsize::new(0), AtomicUsize::new(0)],
            map: Mutex::default(),
            objects_max: usize::try_from(OBJECTS_MAX.min(volume::descriptors_max() / OBJECTS_SHARE)).unwrap_or(1),
            log: Activity::beside(None),
        }
    }
}

impl Dirty {
    /// With an activity log that is kept beside this file.
    pub fn logged_beside(marks: &Path) -> Self {
        Self { log: Activity::beside(Some(marks)), ..Self::default() }
    }

    fn map(&self) -> MutexGuard<'_, Map> {
        self.map.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An operation begins, inside the gate.
    pub fn enter(&self) -> Turn<'_> {
        loop {
            let generation = self.generation.load(Ordering::SeqCst);
            self.inside[(generation & 1) as usize].fetch_add(1, Ordering::SeqCst);
            let turn = Turn { of: self, generation };
            // A checkpoint may have begun in between and seen nobody inside.
            if self.generation.load(Ordering::SeqCst) == generation {
                return turn;
            }
        }
    }

    /// Where the operation of this turn makes its marks for a directory of this index.
    pub fn marks(&self, turn: &Turn<'_>, dir: u16) -> Marks<'_> {
        Marks { to: self.is_on.load(Ordering::Acquire).then_some((self, turn.generation)), dir }
    }

    /// For an operation that does not concern the peer.
    pub fn no_marks<'a>() -> Marks<'a> {
        Marks { to: None, dir: 0 }
    }

    /// From now on everything is noted. Without a base, which is made when the peer is level. The caller holds the gate
    /// alone.
    pub fn begin(&self, base: Option<Base>) {
        *self.map() = Map { base, ..Map::default() };
        self.is_on.store(true, Ordering::Release);
    }

    /// From now on everything is noted, for a whole copy that begins. The caller holds the gate alone.
    pub fn begin_copy(&self) {
        *self.map() = Map { copying: Some(Copying::new(rand::random())), ..Map::default() };
        self.is_on.store(true, Ordering::Release);
    }

    /// The whole copy that is being made, or was interrupted; none if not everything that changed since can be named.
    pub fn copying<R>(&self, of: impl FnOnce(&mut Copying) -> R) -> Option<R> {
        let mut map = self.map();
        if map.marks.iter().any(|marked| marked.everything) {
            map.copying = None;
        }
        map.copying.as_mut().map(of)
    }

    /// More than this many objects are not named.
    pub fn objects_max(&self) -> usize {
        self.objects_max
    }

    /// It cannot go on if it is interrupted.
    pub fn forget_copy(&self) {
        self.map().copying = None;
    }

    /// The whole copy was interrupted, and may go on with what is noted. The caller holds the gate alone.
    pub fn pause_copy(&self, taken: Vec<Collected>) {
        self.log.stop();
        self.give_back(taken);
    }

    /// Nothing is noted any more, nothing is known. The caller holds the gate alone.
    pub fn stop(&self) {
        self.log.stop();
        self.is_on.store(false, Ordering::Release);
        *self.map() = Map::default();
    }

    /// The peer is level, and what this copy had before the log was begun is flushed. The caller holds the gate alone.
    pub fn level(&self, id: u128, roots: &[OwnedFd]) {
        self.log.level(id, roots);
        let mut map = self.map();
        map.base = Some(Base { id, flushed: 0, sent: 0, logged: None });
        map.copying = None;
    }

    /// The session that began at this base is over, with this operation as the last one sent.
    pub fn sent(&self, base: u128, last: u64) {
        if let Some(of) = self.map().base.as_mut().filter(|of| of.id == base) {
            of.sent = of.sent.max(last);
        }
    }

    /// Against what the map counts.
    pub fn base(&self) -> Option<Base> {
        self.map().base
    }

    /// Takes what was collected. The caller holds the gate alone.
    pub fn take(&self) -> Collected {
        let mut map = self.map();
        let [mut one, other] = std::mem::take(&mut map.marks);
        one.add_all(other, usize::MAX);
        if one.everything { Collected::Everything } else { Collected::Objects(one.objects.into_values().collect()) }
    }

    /// What was taken did not reach the peer.
    pub fn give_back(&self, taken: Vec<Collected>) {
        let mut map = self.map();
        for taken in taken {
            match taken {
                Collected::Everything => map.marks[0] = Marked { everything: true, ..Marked::default() },
                Collected::Objects(objects) => {
                    // One that was removed meanwhile is in the map of its directory.
                    let left = objects.into_iter().filter(|change| change.inode.replicated());
                    left.for_each(|change| map.marks[0].add(change, self.objects_max));
                }
            }
        }
    }

    /// Number of objects and of noted bytes now; the largest numbers if everything changed.
    pub fn size(&self) -> (usize, u64) {
        let map = self.map();
        if map.marks.iter().any(|marked| marked.everything) {
            return (usize::MAX, u64::MAX);
        }
        let objects = || map.marks.iter().flat_map(|marked| marked.objects.values());
        let bytes = objects().map(|c| match &c.parts {
            None => 0,
            Some(Parts::Blocks(b)) => b.count() * BLOCK,
            Some(Parts::Whole) => volume::fstat(c.inode.raw()).map_or(0, |st| u64::try_from(st.st_size).unwrap_or(0)),
        });
        (objects().count(), bytes.sum())
    }

    /// What is noted: index of directory, object, and the names of a directory; `None`: everything, or nothing is known.
    pub fn noted(&self) -> Option<Vec<Noted>> {
        let map = self.map();
        if map.base.is_none() || map.marks.iter().any(|marked| marked.everything) {
            return None;
        }
        let all = map.marks.iter().flat_map(|marked| marked.objects.values());
        let names = |changed: &Changed| match &changed.names {
            Some(Names::Some(names)) => names.iter().cloned().collect(),
            Some(Names::All) | None => Vec::new(),
        };
        Some(all.map(|changed| (changed.dir, changed.inode.clone(), names(changed))).collect())
    }

    /// Whether nothing is noted.
    pub fn is_empty(&self) -> bool {
        self.map().marks.iter().all(Marked::is_empty)
    }

    /// So much is noted that a checkpoint should not be waited for.
    pub fn is_filling(&self) -> bool {
        let map = self.map();
        map.marks.iter().any(|marked| marked.everything || marked.objects.len() > self.objects_max / 2) || self.log.is_filling()
    }

    /// Ends a generation. `None`: nothing was noted since the last one, or it is too early.
    pub fn begin_checkpoint(&self) -> Option<u64> {
        let mut map = self.map();
        let generation = self.generation.load(Ordering::SeqCst);
        let (this, next) = ((generation & 1) as usize, (generation as usize + 1) & 1);
        if self.inside[next].load(Ordering::SeqCst) != 0 {
            // Of a checkpoint that was given up: what they do may be sent after this one.
            return None;
        }
        // Of a checkpoint that did not end, or of a resynchronisation: they go with this one.
        let earlier = std::mem::take(&mut map.marks[next]);
        map.marks[this].add_all(earlier, self.objects_max);
        self.log.carry(generation);
        if map.marks[this].is_empty() {
            return None;
        }
        self.generation.store(generation + 1, Ordering::SeqCst);
        Some(generation)
    }

    /// Nobody is inside any more who began in this generation, or before: what it noted is carried out and sent.
    pub fn is_drained(&self, generation: u64) -> bool {
        self.inside[(generation & 1) as usize].load(Ordering::SeqCst) == 0
    }

    /// Both nodes have flushed everything that was noted in this generation, up to operation `flushed` of a session that began
    /// at this base.
    pub fn end_checkpoint(&self, generation: u64, base: u128, flushed: u64) {
        {
            let mut map = self.map();
            let Some(of) = map.base.as_mut().filter(|of| of.id == base) else { return };
            of.flushed = of.flushed.max(flushed);
            map.marks[(generation & 1) as usize] = Marked::default();
        }
        self.log.evict(generation);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)] // in a test it is the assertion
    use super::super::table::Table;
    use super::*;

    #[test]
    fn the_same_name_again_and_again_is_one_name_and_too_many_are_everything() {
        let home = tempfile::tempdir_in("/var/tmp").unwrap();
        let table = Table::new(std::fs::File::open(home.path()).unwrap().into()).unwrap();
        let root = table.root().clone();
        let dirty = Dirty { objects_max: 8, ..Dirty::default() };
        dirty.begin(None);
        let turn = dirty.enter();
        let marks = dirty.marks(&turn, 0);
        for _ in 0..10_000 {
            marks.name(&root, b"temporary");
        }
        assert_eq!(dirty.size(), (1, 0));
        (0..NAMES_PER_OBJECT * 8 - 1).for_each(|n| marks.name(&root, n.to_string().as_bytes()));
        assert_eq!(dirty.size(), (1, 0));
        (0..NAMES_PER_OBJECT).for_each(|n| marks.name(&root, format!("more{n}").as_bytes()));
        assert_eq!(dirty.size(), (usize::MAX, u64::MAX));
        assert!(matches!(dirty.take(), Collected::Everything));
        // An object that is gone takes its names along.
        (0..100).for_each(|n| marks.name(&root, n.to_string().as_bytes()));
        marks.removed(&root);
        assert_eq!(dirty.map().marks.iter().map(|m| m.names).sum::<usize>(), 0);
    }

    #[test]
    fn blocks_are_what_was_added() {
        let mut blocks = Blocks::default();
        assert!(blocks.add(0, 0));
        assert_eq!(blocks.count(), 0);
        assert!(blocks.add(BLOCK - 1, 2) && blocks.add(70 << 20, 1) && blocks.add(5 << 40, BLOCK));
        let wanted = [0, 1, (70 << 20) / BLOCK, (5 << 40) / BLOCK];
        assert_eq!(blocks.iter().collect::<Vec<_>>(), wanted);
        let mut others = Blocks::default();
        assert!(others.add(2 * BLOCK, 3 * BLOCK));
        others.add_all(&blocks);
        assert_eq!((others.count(), others.iter().nth(4)), (7, Some(4)));
        for (first, count) in [(0, 1), (63, 2), (60, 200), (1000, 100), (1023, 1), (1024, 64), (5, 3000)] {
            let mut some = Blocks::default();
            assert!(some.add(first * BLOCK + 1, count * BLOCK - 1));
            assert_eq!(some.iter().collect::<Vec<_>>(), (first..first + count).collect::<Vec<_>>());
        }
        // What nobody can name is not tried.
        assert!(!blocks.add(0, 1 << 60) && !blocks.add(5, u64::MAX));
        assert_eq!(blocks.count(), 4);
    }
}
