//! What changed while a resynchronisation runs.
//!
//! A mark is made before the change, under the gate; the walker takes the whole map with the gate held alone. So a
//! change is either in the map that was taken or in the next one, and what the walker reads after taking the map
//! needs no lock.

use super::table::Inode;
use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Unit of comparison between the two sides.
pub const BLOCK: u64 = 128 * 1024;
/// Beyond this many noted blocks a file counts as changed everywhere: 8 GiB in blocks, a few MB of memory.
const BLOCKS_MAX: usize = 65_536;
/// Beyond this many objects everything counts as changed: each holds a descriptor until the next pass.
const OBJECTS_MAX: usize = 4096;

/// Changed parts of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Parts {
    /// These blocks, and the attributes.
    Blocks(BTreeSet<u64>),
    /// Anything.
    Whole,
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
    pub names: bool,
    /// Moved here with everything below.
    pub subtree: bool,
    /// Got a further name or another one: the directories of all of them must be looked at as well.
    pub linked: bool,
}

/// See the module.
pub struct Dirty {
    session: u64,
    map: Mutex<Map>,
}

#[derive(Default)]
struct Map {
    objects: HashMap<(u16, u64), Changed>,
    everything: bool,
}

/// What was collected.
pub enum Collected {
    /// These objects.
    Objects(Vec<Changed>),
    /// Too much to name.
    Everything,
}

impl Dirty {
    /// An empty map for a session.
    pub fn new(session: u64) -> Arc<Self> {
        Arc::new(Self { session, map: Mutex::new(Map::default()) })
    }

    /// The session that asked for it.
    pub fn session(&self) -> u64 {
        self.session
    }

    fn map(&self) -> MutexGuard<'_, Map> {
        self.map.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn entry(&self, dir: u16, inode: &Arc<Inode>, change: impl FnOnce(&mut Changed)) {
        let mut map = self.map();
        if map.everything {
            return;
        }
        let fresh = || Changed { inode: inode.clone(), dir, parts: None, names: false, subtree: false, linked: false };
        change(map.objects.entry((dir, inode.id)).or_insert_with(fresh));
        if map.objects.len() > OBJECTS_MAX {
            map.everything = true;
            map.objects.clear();
        }
    }

    /// The object has no name any more.
    pub fn removed(&self, dir: u16, inode: &Inode) {
        self.map().objects.remove(&(dir, inode.id));
    }

    /// A range of a file is about to change.
    pub fn range(&self, dir: u16, inode: &Arc<Inode>, offset: u64, length: u64) {
        self.entry(dir, inode, |c| {
            let blocks = match c.parts.get_or_insert_with(|| Parts::Blocks(BTreeSet::new())) {
                Parts::Whole => return,
                Parts::Blocks(blocks) => blocks,
            };
            if length > 0 {
                blocks.extend(offset / BLOCK..=(offset + length - 1) / BLOCK);
            }
            if blocks.len() > BLOCKS_MAX {
                c.parts = Some(Parts::Whole);
            }
        });
    }

    /// Attributes are about to change.
    pub fn attributes(&self, dir: u16, inode: &Arc<Inode>) {
        if inode.is_dir() { self.names(dir, inode) } else { self.range(dir, inode, 0, 0) }
    }

    /// Anything of a file may change.
    pub fn whole(&self, dir: u16, inode: &Arc<Inode>) {
        self.entry(dir, inode, |c| c.parts = Some(Parts::Whole));
    }

    /// Names in a directory are about to change.
    pub fn names(&self, dir: u16, inode: &Arc<Inode>) {
        self.entry(dir, inode, |c| c.names = true);
    }

    /// A directory appears under a new name with everything below it.
    pub fn subtree(&self, dir: u16, inode: &Arc<Inode>) {
        self.entry(dir, inode, |c| {
            c.names = true;
            c.subtree = true;
        });
    }

    /// A file gets a further name or another one.
    pub fn linked(&self, dir: u16, inode: &Arc<Inode>) {
        self.entry(dir, inode, |c| {
            c.parts = Some(Parts::Whole);
            c.linked = true;
        });
    }

    /// Takes what was collected. The caller holds the gate alone.
    pub fn take(&self) -> Collected {
        let map = std::mem::take(&mut *self.map());
        if map.everything { Collected::Everything } else { Collected::Objects(map.objects.into_values().collect()) }
    }

    /// Number of objects and of noted bytes now; the largest numbers if everything changed.
    pub fn size(&self) -> (usize, u64) {
        let map = self.map();
        if map.everything {
            return (usize::MAX, u64::MAX);
        }
        let bytes = map.objects.values().map(|c| match &c.parts {
            None => 0,
            Some(Parts::Blocks(b)) => b.len() as u64 * BLOCK,
            Some(Parts::Whole) => super::volume::fstat(c.inode.raw()).map_or(0, |st| u64::try_from(st.st_size).unwrap_or(0)),
        });
        (map.objects.len(), bytes.sum())
    }
}
