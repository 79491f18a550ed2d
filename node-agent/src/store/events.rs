//! The node's event log: `events.jsonl`, one JSON object a line, and the place up to which the console has it.
//!
//! The log never stops the service: when the disk refuses, events stay in memory and the failure is logged once.
//! Sequences never repeat, also after a power loss that took the last lines: numbers are reserved on the disk in
//! blocks before they are used.

use super::StoreError;
use super::disk::{PRIVATE, read_if_there, write_atomically};
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tsugi_core::event::{Event, EventRecord};
use tsugi_core::ids::{ModuleName, NodeName};

/// The file is put aside at this size; one older file is kept.
const FILE_BYTES_MAX: u64 = 8 * 1024 * 1024;
/// Events kept in memory: what can be listed, and what is still sent to a console that was away.
pub const EVENTS_KEPT_MAX: usize = 10_000;
/// Sequences reserved with one write.
const RESERVE: u64 = 1024;
/// Lines reach the disk and the console's position is stored at most this much later.
const SYNC_PERIOD: Duration = Duration::from_secs(1);

/// Handle on the log; clones share it.
#[derive(Clone)]
pub struct EventLog {
    inner: Arc<Mutex<Inner>>,
}

/// `events.state`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
struct LogState {
    /// No sequence above this one was ever used.
    reserved: u64,
    /// Up to here the console has stored them.
    acknowledged: u64,
    /// Boot in which this was written: within it the file's own end is complete.
    boot: String,
}

struct Inner {
    path: PathBuf,
    file: Option<File>,
    bytes: u64,
    bytes_max: u64,
    kept: VecDeque<EventRecord>,
    last_seq: u64,
    state: LogState,
    is_failing: bool,
    is_state_dirty: bool,
    wake: SyncSender<()>,
}

impl EventLog {
    /// Opens the log in `state_dir`; `boot` names this boot of the machine. Creates it if it is not there.
    pub(crate) fn open(state_dir: &Path, boot: &str) -> Result<EventLog, StoreError> {
        let path = state_dir.join("events.jsonl");
        let state_path = state_path(&path);
        let state: LogState = match read_if_there(&state_path).map_err(|e| StoreError::at("read", &state_path, e))? {
            Some(bytes) => serde_json::from_slice(&bytes).unwrap_or_else(|error| {
                tracing::warn!(file = %state_path.display(), %error, "position of the event log is damaged; events are sent to the console again");
                LogState::default()
            }),
            None => LogState::default(),
        };
        let mut kept = VecDeque::new();
        for file in [old_path(&path), path.clone()] {
            read_lines(&file, &mut kept).map_err(|e| StoreError::at("read", &file, e))?;
        }
        let (file, bytes) = open_for_append(&path).map_err(|e| StoreError::at("open", &path, e))?;
        let last_in_file = kept.back().map_or(0, |r| r.seq);
        let last_seq = if state.boot == boot { last_in_file.max(state.acknowledged) } else { last_in_file.max(state.reserved) };
        let (wake, woken) = sync_channel(1);
        let inner = Inner {
            path,
            file: Some(file),
            bytes,
            bytes_max: FILE_BYTES_MAX,
            kept,
            last_seq,
            state: LogState { boot: boot.to_owned(), ..state },
            is_failing: false,
            is_state_dirty: true,
            wake,
        };
        let log = EventLog { inner: Arc::new(Mutex::new(inner)) };
        log.lock().reserve();
        let weak = Arc::downgrade(&log.inner);
        std::thread::Builder::new()
            .name("events-sync".to_owned())
            .spawn(move || sync_lazily(&weak, &woken))
            .map_err(|e| StoreError::at("start the writer of", &state_path, e))?;
        Ok(log)
    }

    /// Appends an event and gives it its number and time. Never fails: see the module's documentation.
    pub fn add(&self, node: &NodeName, module: &ModuleName, event: Event) -> EventRecord {
        let at_unix_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64);
        self.lock().add(EventRecord { seq: 0, at_unix_ms, node: node.clone(), module: module.clone(), event })
    }

    /// The last `count` events (of one module), oldest first.
    pub fn last(&self, module: Option<&ModuleName>, count: usize) -> Vec<EventRecord> {
        let inner = self.lock();
        let mut found: Vec<_> = inner.kept.iter().rev().filter(|r| module.is_none_or(|m| r.module == *m)).take(count).cloned().collect();
        found.reverse();
        found
    }

    /// Events after `seq`, oldest first, at most `count`.
    pub fn since(&self, seq: u64, count: usize) -> Vec<EventRecord> {
        let inner = self.lock();
        let first = inner.kept.partition_point(|r| r.seq <= seq);
        inner.kept.range(first..).take(count).cloned().collect()
    }

    /// Up to here the console has stored them.
    pub fn acknowledged(&self) -> u64 {
        self.lock().state.acknowledged
    }

    /// The console has stored everything up to `up_to`. Never goes back, and never past what was made here.
    pub fn acknowledge(&self, up_to: u64) {
        let mut inner = self.lock();
        let up_to = up_to.min(inner.last_seq);
        if up_to > inner.state.acknowledged {
            inner.state.acknowledged = up_to;
            inner.is_state_dirty = true;
            inner.wake_writer();
        }
    }

    /// Waits until everything is on the disk. For an orderly end; otherwise it happens by itself within a second.
    pub fn flush(&self) {
        let pending = self.lock().take_pending();
        pending.write();
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // A panic inside leaves at worst one event out of the memory copy: going on is right.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn add(&mut self, mut record: EventRecord) -> EventRecord {
        if self.last_seq >= self.state.reserved {
            self.reserve();
        }
        self.last_seq += 1;
        record.seq = self.last_seq;
        if let Err(error) = self.append(&record) {
            if !self.is_failing {
                tracing::error!(file = %self.path.display(), %error, "events cannot be written and stay in memory only; free space or repair the disk");
            }
            self.is_failing = true;
            self.file = None;
        } else if self.is_failing {
            tracing::info!(file = %self.path.display(), "events are written again");
            self.is_failing = false;
        }
        if self.kept.len() == EVENTS_KEPT_MAX {
            self.kept.pop_front();
        }
        self.kept.push_back(record.clone());
        self.wake_writer();
        record
    }

    fn append(&mut self, record: &EventRecord) -> io::Result<()> {
        let mut line = serde_json::to_vec(record)?;
        line.push(b'\n');
        if self.bytes + line.len() as u64 > self.bytes_max {
            self.file = None;
            std::fs::rename(&self.path, old_path(&self.path))?;
        }
        let file = match &mut self.file {
            Some(file) => file,
            None => {
                let (file, bytes) = open_for_append(&self.path)?;
                self.bytes = bytes;
                self.file.insert(file)
            }
        };
        file.write_all(&line)?;
        self.bytes += line.len() as u64;
        Ok(())
    }

    /// Writes at once: a number may be used only when its reservation is on the disk. When that fails the numbers
    /// are used all the same; after a power loss the console may then take two events for one.
    fn reserve(&mut self) {
        self.state.reserved = self.last_seq + RESERVE;
        self.is_state_dirty = false;
        if let Err(error) = write_state(&self.path, &self.state) {
            tracing::error!(file = %state_path(&self.path).display(), %error, "numbers of events cannot be reserved");
        }
    }

    fn take_pending(&mut self) -> Pending {
        let state = std::mem::take(&mut self.is_state_dirty).then(|| self.state.clone());
        Pending { path: self.path.clone(), file: self.file.as_ref().and_then(|f| f.try_clone().ok()), state }
    }

    fn wake_writer(&self) {
        // Full: the writer is awake already.
        let _ = self.wake.try_send(());
    }
}

/// What the writer does without holding the lock.
struct Pending {
    path: PathBuf,
    file: Option<File>,
    state: Option<LogState>,
}

impl Pending {
    fn write(self) {
        if let Some(Err(error)) = self.file.map(|f| f.sync_data()) {
            tracing::warn!(file = %self.path.display(), %error, "events may not be on the disk");
        }
        if let Some(Err(error)) = self.state.map(|s| write_state(&self.path, &s)) {
            tracing::warn!(file = %state_path(&self.path).display(), %error, "the console's position cannot be stored; it gets some events again");
        }
    }
}

/// Ends when the last handle is dropped.
fn sync_lazily(inner: &Weak<Mutex<Inner>>, woken: &Receiver<()>) {
    while woken.recv().is_ok() {
        std::thread::sleep(SYNC_PERIOD);
        let Some(inner) = inner.upgrade() else { return };
        EventLog { inner }.flush();
    }
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
                if kept.len() == EVENTS_KEPT_MAX {
                    kept.pop_front();
                }
                kept.push_back(record);
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
    fn seqs(events: &[EventRecord]) -> Vec<u64> {
        events.iter().map(|e| e.seq).collect()
    }

    #[test]
    fn numbers_go_on_after_a_restart_of_the_agent() {
        let dir = tempfile::tempdir().unwrap();
        let log = EventLog::open(dir.path(), "boot1").unwrap();
        assert_eq!([add(&log, 1), add(&log, 2)], [1, 2]);
        drop(log);
        let log = EventLog::open(dir.path(), "boot1").unwrap();
        assert_eq!(add(&log, 3), 3);
        assert_eq!(seqs(&log.last(None, 10)), [1, 2, 3]);
    }

    #[test]
    fn numbers_never_repeat_after_a_power_loss_that_took_the_lines() {
        let dir = tempfile::tempdir().unwrap();
        let log = EventLog::open(dir.path(), "boot1").unwrap();
        for i in 0..5 {
            add(&log, i);
        }
        drop(log);
        std::fs::write(dir.path().join("events.jsonl"), b"").unwrap();
        let log = EventLog::open(dir.path(), "boot2").unwrap();
        assert!(add(&log, 9) > 5);
    }

    #[test]
    fn a_line_cut_short_by_a_crash_is_dropped_and_the_next_one_is_whole() {
        let dir = tempfile::tempdir().unwrap();
        let log = EventLog::open(dir.path(), "b").unwrap();
        add(&log, 1);
        add(&log, 2);
        drop(log);
        let path = dir.path().join("events.jsonl");
        let bytes = std::fs::read(&path).unwrap();
        std::fs::write(&path, &bytes[..bytes.len() - 7]).unwrap();
        let log = EventLog::open(dir.path(), "b2").unwrap();
        let third = add(&log, 3);
        drop(log);
        let log = EventLog::open(dir.path(), "b2").unwrap();
        assert_eq!(seqs(&log.last(None, 10)), [1, third]);
    }

    #[test]
    fn the_consoles_position_survives_and_never_goes_back() {
        let dir = tempfile::tempdir().unwrap();
        let log = EventLog::open(dir.path(), "b").unwrap();
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
        let log = EventLog::open(&other, "b").unwrap();
        assert_eq!(log.acknowledged(), 3);
        assert_eq!(seqs(&log.since(log.acknowledged(), 100)), [4]);
    }

    #[test]
    fn an_acknowledgement_of_events_never_made_is_not_believed() {
        let dir = tempfile::tempdir().unwrap();
        let log = EventLog::open(dir.path(), "b").unwrap();
        add(&log, 1);
        log.acknowledge(1_000_000);
        add(&log, 2);
        assert_eq!(seqs(&log.since(log.acknowledged(), 10)), [2]);
    }

    #[test]
    fn size_is_bounded_and_both_files_are_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let log = EventLog::open(dir.path(), "b").unwrap();
        log.lock().bytes_max = 1000;
        for i in 0..50 {
            add(&log, i);
        }
        drop(log);
        let size = |name: &str| std::fs::metadata(dir.path().join(name)).unwrap().len();
        assert!(size("events.jsonl") <= 1000 && size("events.old.jsonl") <= 1000);
        let log = EventLog::open(dir.path(), "b").unwrap();
        let all = seqs(&log.last(None, 100));
        assert_eq!(*all.last().unwrap(), 50);
        assert!(all.len() > 8, "{all:?}");
        assert!(all.windows(2).all(|w| w[1] == w[0] + 1), "{all:?}");
    }

    #[test]
    fn memory_is_bounded_and_lists_filter_by_module() {
        let dir = tempfile::tempdir().unwrap();
        let log = EventLog::open(dir.path(), "b").unwrap();
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
        let log = EventLog::open(dir.path(), "b").unwrap();
        let reason = Some(Reason::StoppedBy { by: "root".into() });
        let events = [
            Event::Entered { from: State::Prim, to: State::Stop, readiness: Readiness::NotReady, reason },
            Event::Ordered { verb: Verb::Prim { accept_loss: true }, by: "日本".into(), reason: None },
            Event::AgentStarted,
        ];
        let made: Vec<_> = events.into_iter().map(|e| log.add(&node(), &module("db"), e)).collect();
        drop(log);
        assert_eq!(EventLog::open(dir.path(), "b").unwrap().last(None, 10), made);
    }
}
