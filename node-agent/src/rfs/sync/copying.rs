//! A whole copy on its way, so that it can go on where it was: which contents are at the peer for certain.
//!
//! Invariants:
//! * what is counted as there was sent whole, under the one name it had, before a checkpoint that the peer has answered: its
//!   disk has it;
//! * everything that changed since the copy was begun is in the map, also what has travelled since ([`super::super::dirty`]); it is compared
//!   whatever is counted here. So a name that leads to another file by now, or a number that is another file's, does no harm;
//! * the copy carries the number of the last checkpoint ([`super::super::level`]). One that was set back, replaced, served or opened
//!   for others carries another one or none.

use super::super::level::Level;
use super::FileKey;
use std::collections::{BTreeMap, HashMap};

/// Inode numbers per piece: 128 bytes.
const PIECE: u64 = 1024;
/// Beyond this many pieces no further file is counted, and will be compared: some 10 MiB.
const PIECES_MAX: usize = 65_536;

/// See the module.
#[derive(Debug)]
pub struct Copying {
    id: u128,
    /// The last checkpoint the peer is known to have made.
    flushed: u64,
    /// The last one it was asked for.
    asked: u64,
    there: HashMap<u16, BTreeMap<u64, [u64; (PIECE / 64) as usize]>>,
    pieces: usize,
    /// Files counted, and their bytes at that time.
    counted: (u64, u64),
}

impl Copying {
    /// Nothing is there yet.
    pub fn new(id: u128) -> Self {
        Self { id, flushed: 0, asked: 0, there: HashMap::new(), pieces: 0, counted: (0, 0) }
    }

    /// Whether a copy that carries this is the one, not before its last known checkpoint, and worth going on with.
    pub fn goes_on(&self, peer: Option<Level>) -> bool {
        let is_it = |peer: Level| peer.base == self.id && (self.flushed..=self.asked).contains(&peer.flushed);
        self.flushed > 0 && peer.is_some_and(is_it)
    }

    /// The next checkpoint is asked for.
    pub fn ask(&mut self) -> Level {
        self.asked += 1;
        Level { base: self.id, flushed: self.asked }
    }

    /// It was made, and these files, with so many bytes, were sent before it was asked for.
    pub fn made(&mut self, number: u64, files: &[(FileKey, u64)]) {
        self.flushed = self.flushed.max(number);
        for ((dir, ino), bytes) in files {
            let of = self.there.entry(*dir).or_default();
            if !of.contains_key(&(ino / PIECE)) {
                if self.pieces >= PIECES_MAX {
                    continue;
                }
                self.pieces += 1;
            }
            let word = &mut of.entry(ino / PIECE).or_default()[(ino % PIECE / 64) as usize];
            if *word >> (ino % 64) & 1 == 0 {
                *word |= 1 << (ino % 64);
                self.counted = (self.counted.0 + 1, self.counted.1 + bytes);
            }
        }
    }

    /// It is not there after all.
    pub fn forget(&mut self, (dir, ino): FileKey) {
        if let Some(bits) = self.there.get_mut(&dir).and_then(|of| of.get_mut(&(ino / PIECE))) {
            bits[(ino % PIECE / 64) as usize] &= !(1 << (ino % 64));
        }
    }

    /// Whether its contents are there.
    pub fn has(&self, (dir, ino): FileKey) -> bool {
        let bits = self.there.get(&dir).and_then(|of| of.get(&(ino / PIECE)));
        bits.is_some_and(|bits| bits[(ino % PIECE / 64) as usize] >> (ino % 64) & 1 == 1)
    }

    /// Files counted, and their bytes.
    pub fn counted(&self) -> (u64, u64) {
        self.counted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_copy_that_made_the_last_known_checkpoint_goes_on() {
        let mut copying = Copying::new(7);
        let peer = |base, flushed| Some(Level { base, flushed });
        assert_eq!(copying.ask(), Level { base: 7, flushed: 1 });
        assert!(!copying.goes_on(peer(7, 1)), "nothing is known to be there");
        copying.made(1, &[((0, 5), 10)]);
        copying.ask();
        copying.made(2, &[((0, 6), 10)]);
        copying.ask();
        // The third one was made, and its answer got lost.
        for (peer, wanted) in [(peer(7, 2), true), (peer(7, 3), true), (peer(7, 1), false), (peer(7, 4), false), (peer(8, 2), false)] {
            assert_eq!(copying.goes_on(peer), wanted, "{peer:?}");
        }
        assert!(!copying.goes_on(None));
    }

    #[test]
    fn what_is_there_is_what_was_counted_and_takes_little_room() {
        let mut copying = Copying::new(1);
        copying.made(1, &[((0, 0), 1), ((0, 63), 2), ((0, 64), 3), ((0, 64), 3), ((2, 1 << 40), 4)]);
        assert_eq!(copying.counted(), (4, 10));
        for (key, wanted) in [((0, 0), true), ((0, 1), false), ((0, 63), true), ((0, 64), true), ((1, 64), false), ((2, 1 << 40), true)] {
            assert_eq!(copying.has(key), wanted, "{key:?}");
        }
        copying.forget((0, 64));
        assert!(!copying.has((0, 64)) && copying.has((0, 63)));
        // Numbers that are far apart.
        let far: Vec<_> = (0..2 * PIECES_MAX as u64).map(|n| ((0, n * PIECE), 1)).collect();
        copying.made(2, &far);
        assert!(copying.pieces <= PIECES_MAX);
        assert!(!copying.has(far[far.len() - 1].0), "what has no room is compared");
    }
}
