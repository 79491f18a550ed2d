//! Contents of files: as data to a peer that has nothing of a file, as hashes of blocks to one that has something.
//!
//! The peer says which it is of each file it is asked about ([`SyncMsg::Fresh`], [`SyncMsg::Kept`]). Until it has, its word about
//! the file before is taken for this one as well, and at most [`AHEAD_MAX`] of a file travels as data by that. Neither can be
//! wrong: data are right whatever the peer has under them, and hashes find whatever it has not.

use super::super::activity::Suspect;
use super::super::dirty::{BLOCK, Parts};
use super::super::frame::{Fill, HOLE, SyncMsg};
use super::super::fs::Volume;
use super::super::volume::{self, next_data, next_hole};
use super::{FileKey, PIECES_MAX, Source, meta, suspects};
use anyhow::{Context, anyhow, bail};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::mpsc::RecvTimeoutError;
use std::time::{Duration, Instant};

/// Blocks per message of hashes: 16 MiB of file.
const BLOCKS_PER_PIECE: u64 = 256;
/// Blocks after which it is looked again how the rest of a file travels, and read ahead.
const BLOCKS_PER_LOOK: u64 = 16;
/// Bytes read and sent at a time.
pub(super) const CHUNK: usize = 256 << 10;
/// Bytes of a file that travel as data before the peer has said that it has nothing of it.
const AHEAD_MAX: u64 = 1 << 20;
/// Files of which the peer has yet to speak. Its answers wait in a channel that has room for many more.
const ASKED_MAX: usize = 256;
/// Longest pause after a block for the sake of the application.
const GIVE_WAY_MAX: Duration = Duration::from_millis(5);
/// What an interruption of a whole copy costs is what was copied in about this time.
const CHECKPOINT_EVERY: Duration = Duration::from_secs(5);
/// How often a capped resynchronisation looks whether it is still wanted.
const CAP_POLL: Duration = Duration::from_millis(50);

/// A file that is under way.
pub(super) struct Pending {
    fd: OwnedFd,
    pieces: usize,
    all_sent: bool,
    there: There,
    /// Its contents are not looked at if the peer has any: where that is.
    known: Option<(u16, Vec<u8>)>,
    /// It counts as there once it is, and a checkpoint was made.
    counts: Option<FileKey>,
    /// Bytes that travelled as data before the peer had spoken of it.
    ahead: u64,
}

/// Checkpoints of a whole copy: after an interruption it goes on from the last one.
#[derive(Default)]
pub(super) struct Checkpoints {
    last: Option<Instant>,
    /// Files that are sent, and their bytes, since the last one was asked for.
    sent: Vec<(FileKey, u64)>,
    /// The one that is asked for, and the files before it.
    asked: Option<(u64, Vec<(FileKey, u64)>)>,
}

/// What the peer has of a file.
#[derive(Clone, Copy, PartialEq, Eq)]
enum There {
    /// It has not said so yet.
    Asked,
    Nothing,
    /// It said so, or was not asked.
    Something,
}

impl Source<'_> {
    /// Sends a file's contents; the peer's wishes are served as they come. False: the name does not lead to a file any
    /// more, or not to the expected one.
    pub(super) fn file(&mut self, volume: &Volume, path: &[u8], parts: &Parts, expected: Option<u64>) -> anyhow::Result<bool> {
        let root = volume.table().root().fd();
        let opened = volume::open_beneath(root.as_raw_fd(), path, libc::O_RDONLY | libc::O_NOFOLLOW | libc::O_NONBLOCK);
        let Some(fd) = self.tolerate(opened, path)? else { return Ok(false) };
        let st = volume::fstat(fd.as_raw_fd())?;
        if volume::kind(&st) != libc::S_IFREG || expected.is_some_and(|ino| ino != st.st_ino) {
            return Ok(false);
        }
        let key = (volume.index(), st.st_ino);
        if *parts == Parts::Whole
            && let Some(names) = self.links.get_mut(&key).filter(|names| names.carrier == path)
        {
            names.owed = false;
            self.sent.insert(key);
        }
        let size = st.st_size.unsigned_abs();
        let id = self.next_file;
        self.next_file += 1;
        let is_there = *parts == Parts::Whole && self.is_there(key, &st);
        if expected.is_some() {
            // It was not met in a walk, which counts what it meets.
            let bytes = match parts {
                Parts::Whole => size,
                Parts::Blocks(blocks) => blocks.iter().map(|b| BLOCK.min(size.saturating_sub(b * BLOCK))).sum(),
            };
            self.report(|p| {
                p.files_total += 1;
                p.bytes_total += bytes;
            });
        }
        // A copy that is all there is not asked about each of its small files: one question under way finds where that ends.
        let is_worth_asking = self.is_fresh != Some(false) || self.asked.is_empty() || size > BLOCKS_PER_PIECE * BLOCK;
        let asks = *parts == Parts::Whole && size > 0 && (is_worth_asking || is_there);
        if asks {
            self.asked.insert(id);
        }
        self.send(&SyncMsg::File { id, dir: volume.index(), path: path.to_vec(), ino: st.st_ino, size, asks }, &[])?;
        let raw = fd.as_raw_fd();
        let there = if asks { There::Asked } else { There::Something };
        let counts = (*parts == Parts::Whole && self.first_pass && self.is_whole() && !is_there).then_some(key);
        let known = (is_there && asks).then(|| (volume.index(), path.to_vec()));
        let is_known = known.is_some();
        self.files.insert(id, Pending { fd, pieces: 0, all_sent: false, there, known, counts, ahead: 0 });
        if is_known {
            // Ends with the peer's word for it.
            self.serve(PIECES_MAX)?;
            return Ok(true);
        }
        let count = size.div_ceil(BLOCK);
        match parts {
            Parts::Whole => self.whole(id, raw, size)?,
            Parts::Blocks(blocks) => self.hashes(id, raw, size, blocks.iter().filter(|b| *b < count))?,
        }
        if let Some(pending) = self.files.get_mut(&id) {
            pending.all_sent = true;
        }
        self.end_if_done(id)?;
        if !is_there {
            self.report(|p| p.files_done += 1);
        }
        self.serve(PIECES_MAX)?;
        Ok(true)
    }

    /// Whether the peer has a file's contents since an earlier session. One with several names may travel under another one now.
    pub(super) fn is_there(&self, key: FileKey, st: &volume::Stat) -> bool {
        let is_single = st.st_nlink == 1 && !self.links.contains_key(&key);
        self.skips && is_single && self.ship.dirty.copying(|copying| copying.has(key)) == Some(true)
    }

    /// Everything of a file: holes, which are said at once, and what is between them.
    fn whole(&mut self, id: u64, fd: i32, size: u64) -> anyhow::Result<()> {
        let count = size.div_ceil(BLOCK);
        let (mut block, mut data_end) = (0, 0);
        while block < count {
            if block >= data_end {
                let data_from = next_data(fd, block * BLOCK, size);
                let hole_end = if data_from >= size { count } else { data_from / BLOCK };
                if hole_end > block {
                    let (offset, end) = (block * BLOCK, size.min(hole_end * BLOCK));
                    self.send(&SyncMsg::Block { id, offset, fill: Fill::Hole(end - offset) }, &[])?;
                    self.report(|p| p.bytes_done += end - offset);
                    block = hole_end;
                    continue;
                }
                data_end = next_hole(fd, data_from, size).clamp(data_from + 1, size).div_ceil(BLOCK);
            }
            let end = if self.goes_as_data(id)? {
                let end = data_end.min(block + BLOCKS_PER_LOOK);
                volume::will_need(fd, end * BLOCK, BLOCKS_PER_LOOK * BLOCK);
                self.data(id, block, end, size)?;
                end
            } else {
                // Soon there may be an answer.
                let most = if self.asked.contains(&id) { BLOCKS_PER_LOOK } else { BLOCKS_PER_PIECE };
                let end = data_end.min(block + most);
                self.hashes(id, fd, size, block..end)?;
                end
            };
            block = end;
        }
        Ok(())
    }

    /// How the next part of a file travels. Waits for the peer's word where it has not spoken at all, or enough of the file has
    /// travelled without.
    fn goes_as_data(&mut self, id: u64) -> anyhow::Result<bool> {
        loop {
            let pending = self.files.get(&id).ok_or_else(|| anyhow!("a file is not under way"))?;
            match pending.there {
                There::Nothing => return Ok(true),
                There::Something => return Ok(false),
                There::Asked if pending.ahead == 0 && self.is_fresh == Some(false) => return Ok(false),
                There::Asked if pending.ahead < AHEAD_MAX && self.is_fresh.is_some() => return Ok(true),
                There::Asked => drop(self.answer(true)?),
            }
        }
    }

    /// Blocks of a file as they are, whatever the peer has.
    fn data(&mut self, id: u64, first: u64, end: u64, size: u64) -> anyhow::Result<()> {
        if let Some(pending) = self.files.get_mut(&id).filter(|p| p.there == There::Asked) {
            pending.ahead += (end - first) * BLOCK;
        }
        let (mut at, end) = (first * BLOCK, size.min(end * BLOCK));
        while at < end {
            let length = self.chunk().min(end - at);
            // The last block whole: it may have grown meanwhile.
            self.range(id, at, length.next_multiple_of(BLOCK))?;
            self.report(|p| p.bytes_done += length);
            at += length;
            self.serve(PIECES_MAX)?;
        }
        Ok(())
    }

    /// A capped resynchronisation sends evenly.
    fn chunk(&self) -> u64 {
        if self.bytes_per_s_max.is_some() { BLOCK } else { CHUNK as u64 }
    }

    fn hashes(&mut self, id: u64, fd: i32, size: u64, blocks: impl Iterator<Item = u64>) -> anyhow::Result<()> {
        let mut piece = Vec::new();
        let mut data_from = 0;
        for block in blocks {
            let begun = Instant::now();
            let offset = block * BLOCK;
            if offset >= data_from {
                data_from = next_data(fd, offset, size);
            }
            if block.is_multiple_of(BLOCKS_PER_LOOK) && data_from < size {
                volume::will_need(fd, offset + BLOCKS_PER_LOOK * BLOCK, BLOCKS_PER_LOOK * BLOCK);
            }
            let hash = if data_from >= size.min(offset + BLOCK) {
                HOLE
            } else {
                let buffer = &mut self.buffer[..usize::try_from(BLOCK)?];
                let n = volume::read_at(fd, buffer, offset).context("cannot read a file to compare it")?;
                *blake3::hash(&buffer[..n]).as_bytes()
            };
            let done = BLOCK.min(size - offset);
            self.compared += done;
            self.report(|p| p.bytes_done += done);
            piece.push((block, hash));
            self.give_way(begun, BLOCK);
            if piece.len() as u64 >= BLOCKS_PER_PIECE {
                self.piece(id, std::mem::take(&mut piece))?;
            }
        }
        if piece.is_empty() { Ok(()) } else { self.piece(id, piece) }
    }

    fn piece(&mut self, id: u64, blocks: Vec<(u64, [u8; 32])>) -> anyhow::Result<()> {
        if let Some(pending) = self.files.get_mut(&id) {
            pending.pieces += 1;
        }
        self.pieces += 1;
        self.send(&SyncMsg::Hashes { id, blocks }, &[])?;
        self.serve(PIECES_MAX)
    }

    /// Serves the peer's wishes until at most so many pieces are under way; with 0, nothing at all.
    pub(super) fn serve(&mut self, pieces_max: usize) -> anyhow::Result<()> {
        let asked_max = if pieces_max == 0 { 0 } else { ASKED_MAX };
        let awaits_checkpoint = |all: &Self| pieces_max == 0 && all.checkpoints.asked.is_some();
        while self.answer(self.pieces > pieces_max || self.asked.len() > asked_max || awaits_checkpoint(self))? {}
        if pieces_max == 0 { Ok(()) } else { self.checkpoint() }
    }

    /// Asks for a checkpoint, if one is due.
    fn checkpoint(&mut self) -> anyhow::Result<()> {
        let last = *self.checkpoints.last.get_or_insert_with(Instant::now);
        let is_due = last.elapsed() >= CHECKPOINT_EVERY || self.ship.switches.checkpoints;
        if self.strict || !is_due || self.checkpoints.asked.is_some() || self.checkpoints.sent.is_empty() {
            return Ok(());
        }
        let sent = std::mem::take(&mut self.checkpoints.sent);
        let Some(at) = self.ship.dirty.copying(|copying| copying.ask()) else { return Ok(()) };
        self.checkpoints.asked = Some((at.flushed, sent));
        self.send(&SyncMsg::Checkpoint(at), &[]).map(drop)
    }

    fn checkpointed(&mut self, number: u64) -> anyhow::Result<()> {
        match self.checkpoints.asked.take() {
            Some((asked, sent)) if asked == number => {
                self.checkpoints.last = Some(Instant::now());
                self.ship.dirty.copying(|copying| copying.made(number, &sent));
                Ok(())
            }
            _ => bail!("the peer speaks of a checkpoint it was not asked for"),
        }
    }

    /// Takes the peer's next answer; false if it is not waited for and not there.
    fn answer(&mut self, is_waited_for: bool) -> anyhow::Result<bool> {
        let answer = if is_waited_for {
            match self.answers.recv_timeout(self.patience()) {
                Ok(answer) => answer,
                Err(RecvTimeoutError::Timeout) => bail!("the peer did not answer within {} s", self.patience().as_secs()),
                Err(RecvTimeoutError::Disconnected) => bail!("the connection broke during the resynchronisation"),
            }
        } else {
            match self.answers.try_recv() {
                Ok(answer) => answer,
                Err(_) => return Ok(false),
            }
        };
        match answer {
            SyncMsg::Need { id, blocks } => self.needed(id, &blocks)?,
            SyncMsg::Fresh { id } => self.spoken_of(id, There::Nothing)?,
            SyncMsg::Kept { id } => self.spoken_of(id, There::Something)?,
            SyncMsg::Want { dir, paths } => self.wanted(dir, paths)?,
            SyncMsg::Checkpointed { number } => self.checkpointed(number)?,
            _ => bail!("an unexpected answer during the resynchronisation"),
        }
        Ok(true)
    }

    fn spoken_of(&mut self, id: u64, there: There) -> anyhow::Result<()> {
        if !self.asked.remove(&id) {
            bail!("the peer speaks of a file it was not asked about");
        }
        let known = self.files.get_mut(&id).and_then(|pending| {
            pending.there = there;
            pending.known.take()
        });
        let Some((dir, path)) = known else {
            // Of a small file everything may be sent by now.
            self.is_fresh = Some(there == There::Nothing);
            return Ok(());
        };
        // That says nothing about a file that is not known to be there.
        let Some(pending) = self.files.get_mut(&id) else { return Ok(()) };
        pending.all_sent = true;
        if there == There::Nothing {
            // It was made anew there. From now on it counts as changed.
            let ino = volume::fstat(pending.fd.as_raw_fd())?.st_ino;
            let dirty = &self.ship.dirty;
            dirty.copying(|copying| copying.forget((dir, ino)));
            suspects::suspect(self.volume(dir)?, dirty, &path, &Suspect::Subtree)?;
        }
        self.end_if_done(id)
    }

    fn needed(&mut self, id: u64, blocks: &[u64]) -> anyhow::Result<()> {
        self.pieces = self.pieces.saturating_sub(1);
        let most = usize::try_from(self.chunk() / BLOCK)?;
        for run in blocks.chunk_by(|one, next| one + 1 == *next) {
            for run in run.chunks(most) {
                self.range(id, run[0] * BLOCK, run.len() as u64 * BLOCK)?;
            }
        }
        if let Some(pending) = self.files.get_mut(&id) {
            pending.pieces = pending.pieces.saturating_sub(1);
        }
        self.end_if_done(id)
    }

    /// An application that has written meanwhile gets the disk and the line for as long as this had them.
    fn give_way(&mut self, begun: Instant, bytes: u64) {
        let operations = self.ship.operations();
        if !self.strict && std::mem::replace(&mut self.operations, operations) != operations {
            let most = GIVE_WAY_MAX * u32::try_from(bytes.div_ceil(BLOCK)).unwrap_or(1);
            std::thread::sleep(begun.elapsed().min(most));
        }
    }

    /// Sends what is in a range of a file, which fits in a chunk.
    fn range(&mut self, id: u64, offset: u64, length: u64) -> anyhow::Result<()> {
        let begun = Instant::now();
        let pending = self.files.get(&id).ok_or_else(|| anyhow!("the peer asks for a file that is not under way"))?;
        let fd = pending.fd.as_raw_fd();
        let buffer = self.buffer.get_mut(..usize::try_from(length)?).ok_or_else(|| anyhow!("a range longer than a chunk"))?;
        let n = volume::read_at(fd, buffer, offset).context("cannot read a file to send it")?;
        let end = offset + n as u64;
        let mut at = offset;
        while at < end {
            let data_from = next_data(fd, at, end).clamp(at, end);
            if data_from > at {
                self.send(&SyncMsg::Block { id, offset: at, fill: Fill::Hole(data_from - at) }, &[])?;
            }
            at = next_hole(fd, data_from, end).clamp(data_from, end);
            let data = &self.buffer[usize::try_from(data_from - offset)?..usize::try_from(at - offset)?];
            match data {
                [] => {}
                _ if data.iter().all(|b| *b == 0) => {
                    self.send(&SyncMsg::Block { id, offset: data_from, fill: Fill::Zeros(data.len() as u64) }, &[])?;
                }
                _ => {
                    self.travelled += self.send(&SyncMsg::Block { id, offset: data_from, fill: Fill::Data }, data)?;
                    self.copied += data.len() as u64;
                }
            }
        }
        self.report(|_| ());
        self.give_way(begun, length);
        if let Some(rate) = self.bytes_per_s_max.filter(|_| !self.strict) {
            let due = Duration::from_secs_f64(self.travelled as f64 / rate.max(1) as f64);
            while self.started.elapsed() < due && !self.link.is_broken() {
                std::thread::sleep(due.saturating_sub(self.started.elapsed()).min(CAP_POLL));
            }
        }
        Ok(())
    }

    fn end_if_done(&mut self, id: u64) -> anyhow::Result<()> {
        if !self.files.get(&id).is_some_and(|p| p.all_sent && p.pieces == 0) {
            return Ok(());
        }
        let Some(pending) = self.files.remove(&id) else { return Ok(()) };
        let st = volume::fstat(pending.fd.as_raw_fd())?;
        let meta = meta(&st, pending.fd.as_raw_fd())?;
        if let Some(key) = pending.counts.filter(|key| st.st_nlink == 1 && !self.links.contains_key(key)) {
            self.checkpoints.sent.push((key, st.st_size.unsigned_abs()));
        }
        self.send(&SyncMsg::FileEnd { id, size: st.st_size.unsigned_abs(), meta }, &[]).map(drop)
    }
}
