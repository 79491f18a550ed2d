//! The node's event log: `events.jsonl`, one JSON object a line, and the place up to which the console has it.
//!
//! The log never stops the service: adding an event touches memory only, a thread of its own writes. When the disk
//! refuses or hangs, events stay in memory and still reach the console; the failure is logged once. Sequences never
//! repeat, whatever the file lost in a crash: numbers are reserved on the disk in blocks before they are used, and
//! a new life of the agent begins above what was reserved. A life whose disk is full from its start can reserve
//! nothing and leave no trace of what it used, so each life begins above the time of its start, too: nobody makes more
//! than one event a millisecond for long. So there are gaps, which mean nothing.

use super::StoreError;
use crate::disk::{PRIVATE, read_if_there, write_atomically};
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tsugi_core::event::{Event, EventRecord};
use tsugi_core::ids::{ModuleName, NodeName};

/// The file is put aside at this size; one older file is kept.
const FILE_BYTES_MAX: u64 = 8 * 1024 * 1024;
/// Events kept in memory: what can be listed, and what is still sent to a console that was away.
pub const EVENTS_KEPT_MAX: usize = 10_000;
/// Sequences reserved with one write. The next block is asked for when half of one is left: hundreds of events
/// before it is needed.
const RESERVE: u64 = 1024;
/// Lines are written at once, and forced to the disk with the console's position at most this much later.
const SYNC_PERIOD: Duration = Duration::from_secs(1);

/// Handle on the log; clones share it.
#[derive(Clone)]
pub struct EventLog {
    shared: Arc<Shared>,
}

struct Shared {
    inner: Mutex<Inner>,
    /// Held while writing; always taken before `inner`, never by [`EventLog::add`].
    writer: Mutex<Writer>,
}

/// `events.state`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
struct LogState {
    /// No sequence above this one was ever used.
    reserved: u64,
    /// Up to here the console has stored them.
    acknowledged: u64,
}

struct Inner {
    kept: VecDeque<EventRecord>,
    last_seq: u64,
    /// Made but not written yet; at most [`EVENTS_KEPT_MAX`].
    unwritten: VecDeque<EventRecord>,
    /// As on the disk, or as it should be there when `is_state_dirty`.
    state: LogState,
    is_state_dirty: bool,
    wake: SyncSender<()>,
}

impl EventLog {
    /// Opens the log in `state_dir`. Creates it if it is not there. A disk that takes nothing more does not keep the
    /// agent from starting.
    pub(crate) fn open(state_dir: &Path) -> Result<EventLog, StoreError> {
        EventLog::open_at(state_dir, unix_ms())
    }

    /// As `open`, at this time.
    fn open_at(state_dir: &Path, now_ms: u64) -> Result<EventLog, StoreError> {
        let path = state_dir.join("events.jsonl");
        let state_path = state_path(&path);
        let stored: LogState = match read_if_there(&state_path).map_err(|e| StoreError::at("read", &state_path, e))? {
            Some(bytes) => serde_json::from_slice(&bytes).unwrap_or_else(|error| {
                tracing::warn!(file = %state_path.display(), %error, "the event log's position is damaged; events are sent to the console again");
                LogState::default()
            }),
            None => LogState::default(),
        };
        let mut kept = VecDeque::new();
        for file in [old_path(&path), path.clone()] {
            read_lines(&file, &mut kept).map_err(|e| StoreError::at("read", &file, e))?;
        }
        let (file, bytes) = match open_for_append(&path) {
            Ok((file, bytes)) => (Some(file), bytes),
            Err(error) => {
                tracing::error!(file = %path.display(), %error, "events cannot be written and stay in memory only; free space or repair the disk");
                (None, 0)
            }
        };
        let last_seq = kept.back().map_or(0, |r| r.seq).max(stored.reserved).max(stored.acknowledged).max(now_ms);
        let state = LogState { reserved: last_seq + RESERVE, ..stored };
        let written = write_state(&path, &state);
        if let Err(error) = &written {
            tracing::error!(file = %state_path.display(), %error, "the event log's position cannot be stored; free space or repair the disk");
        }
        let (wake, woken) = sync_channel(1);
        let writer = Writer {
            path,
            file,
            bytes,
            bytes_max: FILE_BYTES_MAX,
            reserved: if written.is_ok() { state.reserved } else { stored.reserved },
            is_failing: false,
            unsynced: false,
            synced_at: Instant::now(),
        };
        let inner = Inner { kept, last_seq, unwritten: VecDeque::new(), state, is_state_dirty: written.is_err(), wake };
        let shared = Arc::new(Shared { inner: Mutex::new(inner), writer: Mutex::new(writer) });
        let weak = Arc::downgrade(&shared);
        std::thread::Builder::new()
            .name("events".to_owned())
            .spawn(move || write_when_woken(&weak, &woken))
            .map_err(|e| StoreError::at("start the writer of", &state_path, e))?;
        Ok(EventLog { shared })
    }

    /// Appends an event and gives it its number and time. Never fails and never waits for the disk.
    pub fn add(&self, node: &NodeName, module: &ModuleName, event: Event) -> EventRecord {
        let at_unix_ms = unix_ms();
        let mut inner = self.shared.inner();
        inner.last_seq += 1;
        let record = EventRecord { seq: inner.last_seq, at_unix_ms, node: node.clone(), module: module.clone(), event };
        push_bounded(&mut inner.kept, record.clone());
        push_bounded(&mut inner.unwritten, record.clone());
        if inner.state.reserved < inner.last_seq + RESERVE / 2 {
            inner.state.reserved = inner.last_seq + RESERVE;
            inner.is_state_dirty = true;
        }
        inner.wake_writer();
        record
    }

    /// The last `count` events (of one module), oldest first.
    pub fn last(&self, module: Option<&ModuleName>, count: usize) -> Vec<EventRecord> {
        let inner = self.shared.inner();
        let mut found: Vec<_> = inner.kept.iter().rev().filter(|r| module.is_none_or(|m| r.module == *m)).take(count).cloned().collect();
        found.reverse();
        found
    }

    /// Events after `seq`, oldest first, at most `count`.
    pub fn since(&self, seq: u64, count: usize) -> Vec<EventRecord> {
        let inner = self.shared.inner();
        let first = inner.kept.partition_point(|r| r.seq <= seq);
        inner.kept.range(first..).take(count).cloned().collect()
    }

    /// Up to here the console has stored them.
    pub fn acknowledged(&self) -> u64 {
        self.shared.inner().state.acknowledged
    }

    /// The console has stored everything up to `up_to`. Never goes back, and never past what was made here.
    pub fn acknowledge(&self, up_to: u64) {
        let mut inner = self.shared.inner();
        let up_to = up_to.min(inner.last_seq);
        if up_to > inner.state.acknowledged {
            inner.state.acknowledged = up_to;
            inner.is_state_dirty = true;
            inner.wake_writer();
        }
    }

    /// Waits until everything is on the disk. For an orderly end; otherwise it happens by itself within a second.
    pub fn flush(&self) {
        self.shared.write(When::Now);
    }
}

impl Shared {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        // A panic inside leaves at worst one event out of the memory copy: going on is right.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes what is there; returns when to come again to force it to the disk.
    fn write(&self, when: When) -> Option<Duration> {
        let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let (lines, reserved) = {
            let mut inner = self.inner();
            (std::mem::take(&mut inner.unwritten), inner.state.reserved)
        };
        writer.append_all(&lines);
        // A new block of numbers cannot wait for the period.
        let is_block_needed = reserved != writer.reserved;
        if when == When::Later && !is_block_needed && writer.synced_at.elapsed() < SYNC_PERIOD {
            let is_work_left = writer.unsynced || self.inner().is_state_dirty;
            return is_work_left.then(|| SYNC_PERIOD.saturating_sub(writer.synced_at.elapsed()));
        }
        let state = {
            let mut inner = self.inner();
            std::mem::take(&mut inner.is_state_dirty).then_some(inner.state)
        };
        writer.sync(state);
        None
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.write(When::Now);
    }
}

impl Inner {
    fn wake_writer(&self) {
        // Full: the writer is awake already.
        let _ = self.wake.try_send(());
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum When {
    Now,
    Later,
}

/// Ends when the last handle is dropped.
fn write_when_woken(shared: &Weak<Shared>, woken: &Receiver<()>) {
    /// Without work: a bound for the wait, which nothing depends on.
    const IDLE: Duration = Duration::from_secs(3600);
    let mut wait = IDLE;
    loop {
        match woken.recv_timeout(wait) {
            Ok(()) | Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        let Some(shared) = shared.upgrade() else { return };
        wait = shared.write(When::Later).unwrap_or(IDLE);
    }
}

/// The files.
struct Writer {
    path: PathBuf,
    file: Option<File>,
    bytes: u64,
    bytes_max: u64,
    /// As on the disk.
    reserved: u64,
    is_failing: bool,
    unsynced: bool,
    synced_at: Instant,
}

impl Writer {
    fn append_all(&mut self, records: &VecDeque<EventRecord>) {
        for record in records {
            let result = self.append(record);
            match result {
                Err(error) if !self.is_failing => {
                    tracing::error!(file = %self.path.display(), %error, "events cannot be written and stay in memory only; free space or repair the disk");
                    self.is_failing = true;
                    self.file = None;
                }
                Err(_) => self.file = None,
                Ok(()) if self.is_failing => {
                    tracing::info!(file = %self.path.display(), "events are written again");
                    self.is_failing = false;
                }
                Ok(()) => {}
            }
        }
    }

    fn append(&mut self, record: &EventRecord) -> io::Result<()> {
        let mut line = serde_json::to_vec(record)?;
        line.push(b'\n');
        if self.bytes + line.len() as u64 > self.bytes_max {
            self.file = None;
            std::fs::rename(&self.path, old_path(&self.path))?;
            self.bytes = 0;
        }
        let file = match &mut self.file {
            Some(file) => file,
            None => {
                let (file, bytes) = open_for_append(&self.path)?;
                self.bytes = bytes;
                self.file.insert(file)
            }
        };
        self.unsynced = true;
        file.write_all(&line)?;
        self.bytes += line.len() as u64;
        Ok(())
    }

    fn sync(&mut self, state: Option<LogState>) {
        self.synced_at = Instant::now();
        if std::mem::take(&mut self.unsynced)
            && let Some(file) = &self.file
            && let Err(error) = file.sync_data()
        {
            tracing::warn!(file = %self.path.display(), %error, "events may not be on the disk");
        }
        let Some(state) = state else { return };
        // Tried once: the next change of the position tries again. Until then a power loss may let numbers repeat,
        // or the console get some events twice.
        self.reserved = state.reserved;
        if let Err(error) = write_state(&self.path, &state) {
            tracing::warn!(file = %state_path(&self.path).display(), %error, "the event log's position cannot be stored");
        }
    }
}

fn unix_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64)
}

fn push_bounded(queue: &mut VecDeque<EventRecord>, record: EventRecord) {
    if queue.len() == EVENTS_KEPT_MAX {
        queue.pop_front();
    }
    queue.push_back(record);
}

fn state_path(log: &Path) -> PathBuf {
    log.with_extension("state")
}
fn old_path(log: &Path) -> PathBuf {
    log.with_extension("old.jsonl")
}

fn write_state(log: &Path, state: &LogState) -> io::Result<()> {
    write_atomically(&state_path(log), &serde_json::to_vec(state)?, PRIVATE)
}

/// Opens the file at its end. A line that a crash cut short is removed, so that the next one begins at a line's start.
fn open_for_append(path: &Path) -> io::Result<(File, u64)> {
    let mut file = OpenOptions::new().read(true).append(true).create(true).mode(PRIVATE).open(path)?;
    let mut bytes = file.seek(SeekFrom::End(0))?;
    if bytes > 0 {
        let mut tail = vec![0; bytes.min(64 * 1024) as usize];
        file.seek(SeekFrom::Start(bytes - tail.len() as u64))?;
        file.read_exact(&mut tail)?;
        let torn = tail.iter().rev().take_while(|b| **b != b'\n').count() as u64;
        if torn > 0 {
            bytes -= torn;
            file.set_len(bytes)?;
        }
    }
    Ok((file, bytes))
}

/// Reads the events of a file that can be read; what cannot be read is left out and counted in the log.
fn read_lines(path: &Path, kept: &mut VecDeque<EventRecord>) -> io::Result<()> {
    let Some(bytes) = read_if_there(path)? else { return Ok(()) };
    let mut unreadable = 0;
    for line in bytes.split(|b| *b == b'\n').filter(|l| !l.is_empty()) {
        match serde_json::from_slice::<EventRecord>(line) {
            // Sequences only grow: what comes out of order is a copy.
            Ok(record) if kept.back().is_none_or(|last| last.seq < record.seq) => {
                push_bounded(kept, record);
            }
            Ok(_) | Err(_) => unreadable += 1,
        }
    }
    if unreadable > 0 {
        tracing::warn!(file = %path.display(), lines = unreadable, "lines of the event log cannot be read and are left out");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use tsugi_core::command::Verb;
    use tsugi_core::ids::Epoch;
    use tsugi_core::state::{Readiness, Reason, State};

    fn node() -> NodeName {
        NodeName::new("n1").unwrap()
    }
    fn module(name: &str) -> ModuleName {
        ModuleName::new(name).unwrap()
    }
    fn add(log: &EventLog, epoch: u64) -> u64 {
        log.add(&node(), &module("db"), Event::ClaimAccepted { epoch: Epoch(epoch) }).seq
    }
    /// On a machine whose clock stands still: numbers rest on the files alone.
    fn open(dir: &Path) -> Result<EventLog, StoreError> {
        EventLog::open_at(dir, 0)
    }
    fn close(log: EventLog) {
        log.flush();
        drop(log);
    }
    fn seqs(events: &[EventRecord]) -> Vec<u64> {
        events.iter().map(|e| e.seq).collect()
    }

    #[test]
    fn numbers_go_on_after_a_restart_of_the_agent() {
        let dir = tempfile::tempdir().unwrap();
        let log = open(dir.path()).unwrap();
        assert_eq!([add(&log, 1), add(&log, 2)], [1, 2]);
        close(log);
        let log = open(dir.path()).unwrap();
        let third = add(&log, 3);
        assert!(third > 2);
        assert_eq!(seqs(&log.last(None, 10)), [1, 2, third]);
    }

    #[test]
    fn numbers_never_repeat_after_a_power_loss_that_took_the_lines() {
        let dir = tempfile::tempdir().unwrap();
        let log = open(dir.path()).unwrap();
        let last = (0..RESERVE * 3).map(|i| add(&log, i)).max().unwrap();
        close(log);
        std::fs::write(dir.path().join("events.jsonl"), b"").unwrap();
        let log = open(dir.path()).unwrap();
        assert!(add(&log, 9) > last);
    }

    #[test]
    fn a_line_cut_short_by_a_crash_is_dropped_and_the_next_one_is_whole() {
        let dir = tempfile::tempdir().unwrap();
        let log = open(dir.path()).unwrap();
        add(&log, 1);
        add(&log, 2);
        close(log);
        let path = dir.path().join("events.jsonl");
        let bytes = std::fs::read(&path).unwrap();
        std::fs::write(&path, &bytes[..bytes.len() - 7]).unwrap();
        let log = open(dir.path()).unwrap();
        let third = add(&log, 3);
        close(log);
        let log = open(dir.path()).unwrap();
        assert_eq!(seqs(&log.last(None, 10)), [1, third]);
    }

    #[test]
    fn a_disk_that_hangs_delays_nobody_and_the_events_are_written_later() {
        let dir = tempfile::tempdir().unwrap();
        let log = open(dir.path()).unwrap();
        // Held as by a write that does not return.
        let hanging = log.shared.writer.lock().unwrap();
        let seqs: Vec<u64> = (0..5000).map(|i| add(&log, i)).collect();
        assert_eq!(log.since(0, usize::MAX).len(), seqs.len());
        drop(hanging);
        close(log);
        let log = open(dir.path()).unwrap();
        assert_eq!(log.since(0, usize::MAX).len(), seqs.len());
    }

    #[test]
    fn a_full_disk_loses_nothing_from_memory() {
        let dir = tempfile::tempdir().unwrap();
        let log = open(dir.path()).unwrap();
        log.shared.writer.lock().unwrap().file = Some(OpenOptions::new().write(true).open("/dev/full").unwrap());
        assert_eq!([add(&log, 1), add(&log, 2)], [1, 2]);
        log.flush();
        assert_eq!(seqs(&log.last(None, 9)), [1, 2]);
    }

    #[test]
    fn a_life_on_a_full_disk_starts_and_no_other_life_repeats_its_numbers() {
        let dir = tempfile::tempdir().unwrap();
        let log = EventLog::open_at(dir.path(), 1_000_000).unwrap();
        add(&log, 1);
        close(log);
        // In the way of every new version of the file, as a full disk is.
        let in_the_way = dir.path().join(".events.state.new");
        std::fs::create_dir(&in_the_way).unwrap();
        let mut last = 0;
        for start_ms in [2_000_000, 3_000_000] {
            let log = EventLog::open_at(dir.path(), start_ms).unwrap();
            log.shared.writer.lock().unwrap().file = Some(OpenOptions::new().write(true).open("/dev/full").unwrap());
            let first = add(&log, 2);
            assert!(first > last, "{first} after {last}");
            last = add(&log, 3);
            close(log);
        }
        std::fs::remove_dir(&in_the_way).unwrap();
        let log = EventLog::open_at(dir.path(), 4_000_000).unwrap();
        assert!(add(&log, 4) > last);
        close(log);
        // And with space again the position is stored: a clock that was set back makes no number repeat.
        let log = EventLog::open_at(dir.path(), 5).unwrap();
        assert!(add(&log, 5) > 4_000_000);
    }

    #[test]
    fn a_position_that_could_not_be_stored_at_the_start_is_stored_when_there_is_space() {
        let dir = tempfile::tempdir().unwrap();
        let in_the_way = dir.path().join(".events.state.new");
        std::fs::create_dir(&in_the_way).unwrap();
        let log = EventLog::open_at(dir.path(), 1_000_000).unwrap();
        std::fs::remove_dir(&in_the_way).unwrap();
        let last = add(&log, 1);
        close(log);
        std::fs::write(dir.path().join("events.jsonl"), b"").unwrap();
        assert!(add(&open(dir.path()).unwrap(), 2) > last);
    }

    #[test]
    fn the_consoles_position_survives_and_never_goes_back() {
        let dir = tempfile::tempdir().unwrap();
        let log = open(dir.path()).unwrap();
        for i in 0..4 {
            add(&log, i);
        }
        log.acknowledge(3);
        log.acknowledge(1);
        log.flush();
        let other = dir.path().join("copy");
        std::fs::create_dir(&other).unwrap();
        for file in ["events.jsonl", "events.state"] {
            std::fs::copy(dir.path().join(file), other.join(file)).unwrap();
        }
        let log = open(&other).unwrap();
        assert_eq!(log.acknowledged(), 3);
        assert_eq!(seqs(&log.since(log.acknowledged(), 100)), [4]);
    }

    #[test]
    fn an_acknowledgement_of_events_never_made_is_not_believed() {
        let dir = tempfile::tempdir().unwrap();
        let log = open(dir.path()).unwrap();
        add(&log, 1);
        log.acknowledge(1_000_000);
        add(&log, 2);
        assert_eq!(seqs(&log.since(log.acknowledged(), 10)), [2]);
    }

    #[test]
    fn size_is_bounded_and_both_files_are_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let log = open(dir.path()).unwrap();
        log.shared.writer.lock().unwrap().bytes_max = 1000;
        for i in 0..50 {
            add(&log, i);
        }
        close(log);
        let size = |name: &str| std::fs::metadata(dir.path().join(name)).unwrap().len();
        assert!(size("events.jsonl") <= 1000 && size("events.old.jsonl") <= 1000);
        let log = open(dir.path()).unwrap();
        let all = seqs(&log.last(None, 100));
        assert_eq!(*all.last().unwrap(), 50);
        assert!(all.len() > 8, "{all:?}");
        assert!(all.windows(2).all(|w| w[1] == w[0] + 1), "{all:?}");
    }

    #[test]
    fn memory_is_bounded_and_lists_filter_by_module() {
        let dir = tempfile::tempdir().unwrap();
        let log = open(dir.path()).unwrap();
        for i in 0..EVENTS_KEPT_MAX as u64 + 5 {
            add(&log, i);
        }
        assert_eq!(log.since(0, usize::MAX).len(), EVENTS_KEPT_MAX);
        log.add(&node(), &module("web"), Event::AgentStarted);
        assert_eq!(log.last(Some(&module("web")), 10).len(), 1);
    }

    #[test]
    fn every_shape_of_event_survives_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let log = open(dir.path()).unwrap();
        let reason = Some(Reason::StoppedBy { by: "root".into() });
        let events = [
            Event::Entered { from: State::Prim, to: State::Stop, readiness: Readiness::NotReady, reason },
            Event::Ordered { verb: Verb::Prim { accept_loss: true }, by: "日本".into(), reason: None },
            Event::AgentStarted,
        ];
        let made: Vec<_> = events.into_iter().map(|e| log.add(&node(), &module("db"), e)).collect();
        close(log);
        assert_eq!(open(dir.path()).unwrap().last(None, 10), made);
    }
}
