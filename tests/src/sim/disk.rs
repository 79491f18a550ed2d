//! What a host keeps: the data tree behind a page cache, and the record in two slots.

use super::rng::Rng;
use tsugi_core::engine::Saved;

/// Blocks of the simulated file. Few, so that they are overwritten often.
pub const BLOCKS: usize = 8;
/// Number of a write, unique in its module; 0 = never written.
pub type WriteId = u32;
/// One value per block.
pub type Blocks = [WriteId; BLOCKS];

/// A replicated directory on one host.
#[derive(Debug, Clone, Default)]
pub struct Tree {
    /// What a reader sees.
    pub mem: Blocks,
    /// What is on the medium.
    pub disk: Blocks,
    /// Written since, oldest first; any of them may reach the medium by itself.
    pending: [Vec<WriteId>; BLOCKS],
}

impl Tree {
    /// A plain write: visible at once, durable later or never.
    pub fn write(&mut self, block: usize, value: WriteId) {
        self.mem[block] = value;
        self.pending[block].push(value);
    }
    /// A flush begun when the tree looked like `seen` has ended.
    pub fn flushed(&mut self, seen: &Blocks) {
        for (block, value) in seen.iter().enumerate() {
            if let Some(at) = self.pending[block].iter().rposition(|p| p == value) {
                self.disk[block] = *value;
                self.pending[block].drain(..=at);
            }
        }
    }
    /// Power off: of what was not flushed any part survives.
    pub fn lose_power(&mut self, rng: &mut Rng) {
        for block in 0..BLOCKS {
            let pending = std::mem::take(&mut self.pending[block]);
            if !pending.is_empty() {
                let kept = rng.below(pending.len() + 1);
                if kept > 0 {
                    self.disk[block] = pending[kept - 1];
                }
            }
            self.mem[block] = self.disk[block];
        }
    }
}

/// One of the two places a record is written to.
#[derive(Debug, Clone, Default)]
enum Slot {
    #[default]
    Absent,
    Torn,
    Valid(u64, Box<Saved>),
}

/// The persistent record of a module on a host: `record.a` and `record.b`, written in turn.
#[derive(Debug, Clone, Default)]
pub struct RecordDisk {
    slots: [Slot; 2],
    seq: u64,
    /// A save that has not reached the disk yet.
    writing: Option<Box<Saved>>,
}

/// What an agent finds.
#[derive(Debug, Clone)]
pub enum Load {
    /// Never saved.
    Fresh,
    /// The newest record.
    Saved(Box<Saved>),
    /// There is something, and none of it is whole.
    Damaged,
}

impl RecordDisk {
    /// Begins a save into the slot that does not hold the newest record.
    pub fn begin(&mut self, saved: Box<Saved>) {
        self.writing = Some(saved);
    }
    /// The save is on the disk.
    pub fn commit(&mut self) {
        if let Some(saved) = self.writing.take() {
            self.seq += 1;
            self.slots[(self.seq % 2) as usize] = Slot::Valid(self.seq, saved);
        }
    }
    /// The agent or the host ends in the middle of a save: it is there, or not, or torn.
    pub fn interrupt(&mut self, rng: &mut Rng, is_power: bool) {
        if self.writing.is_none() {
            return;
        }
        match rng.below(3) {
            0 => self.commit(),
            1 if is_power => {
                self.writing = None;
                self.slots[((self.seq + 1) % 2) as usize] = Slot::Torn;
            }
            _ => self.writing = None,
        }
    }
    /// Both slots become unreadable.
    pub fn damage(&mut self) {
        self.writing = None;
        for slot in &mut self.slots {
            if !matches!(slot, Slot::Absent) {
                *slot = Slot::Torn;
            }
        }
    }
    /// What an agent finds at its start: a torn slot falls back to the other one.
    pub fn load(&mut self) -> Load {
        self.writing = None;
        match self.newest().cloned() {
            Some(saved) => {
                // As the agent does: the other slot takes a copy.
                self.begin(Box::new(saved.clone()));
                self.commit();
                Load::Saved(Box::new(saved))
            }
            None if self.slots.iter().all(|s| matches!(s, Slot::Absent)) => Load::Fresh,
            None => Load::Damaged,
        }
    }
    /// The newest durable record.
    pub fn newest(&self) -> Option<&Saved> {
        let valid = self.slots.iter().filter_map(|s| if let Slot::Valid(seq, saved) = s { Some((*seq, saved)) } else { None });
        valid.max_by_key(|(seq, _)| *seq).map(|(_, saved)| &**saved)
    }
}
